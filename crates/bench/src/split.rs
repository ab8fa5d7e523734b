//! `split`: a table that is used evenly, then at keys of one partition only, until that has been
//! split for its load.
//!
//! Three regions, a table divided by hash with two replicas of each partition, and the same writers
//! through all regions from the first measurement to the last; only the keys that they write
//! change. First evenly; then at one partition, with no limit that would split it; then evenly
//! again with a limit of twice what a partition is asked for then; then the heat begins. What
//! counts is how long it takes from there until the split is in the record, the longest write
//! meanwhile, and the rate when all splits and moves have ended.
//!
//! Where all regions share few cores, a hot partition costs little: the others leave their part of
//! the processor to the region that writes it. With `--region-cpu` each region has a processor
//! share of its own.

mod share;

use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use isthmus_control::distribution::Point;
use serde::Serialize;
use serde_json::json;

use self::share::Share;
use crate::Around;
use crate::clients::{Asked, Clients, Phase};
use crate::cluster::{Cluster, Memory, Place};
use crate::distributed::Table;
use crate::error::{BenchError, Result};
use crate::load::send_all;
use crate::report::{Line, Ratio, Report, table};
use crate::rows::{RowSet, TABLE};
use crate::write::batch_check;

const REGIONS: u8 = 3;
/// In how many regions a partition is.
const REPLICAS: u8 = 2;
/// The limit is so many times what a partition is asked for evenly.
const LIMIT_SHARE: f64 = 2.0;
/// All has ended when nothing was begun for so long: halves rest for ten seconds.
const QUIET: Duration = Duration::from_secs(14);
/// So long is waited for that.
const QUIET_PATIENCE: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(100);
/// Writers write so long before anything is measured.
const SETTLE: Duration = Duration::from_secs(8);
/// What is aimed at.
const SPLIT_SECONDS: f64 = 5.0;
const RATE_SHARE: f64 = 0.7;

/// Arguments of `split`.
#[derive(Args, Debug)]
pub(crate) struct SplitArgs {
    /// Rows of the table, 1 KiB each
    #[arg(long, value_name = "N", default_value_t = 40_000,
        value_parser = clap::value_parser!(u64).range(2_000..=10_000_000))]
    rows: u64,
    /// Partitions at first
    #[arg(long, value_name = "N", default_value_t = 6,
        value_parser = clap::value_parser!(u16).range(2..=128))]
    partitions: u16,
    /// Connections that write, as many through each region
    #[arg(long, value_name = "N", default_value_t = 48,
        value_parser = clap::value_parser!(u16).range(3..=2000))]
    writers: u16,
    /// Requests in a second above which a partition is split [default: twice the even share]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(10..))]
    split_load: Option<u32>,
    /// Percent of one core that each region may use, by a cgroup of its own; needs root
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u16).range(5..=6400))]
    region_cpu: Option<u16>,
    /// Seconds of each measurement, after a warm-up
    #[arg(long, value_name = "SECONDS", default_value_t = 8,
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    #[command(flatten)]
    pub(crate) around: Around,
}

/// What `split` found.
#[derive(Debug, Serialize)]
pub(crate) struct SplitFound {
    partitions: u16,
    replicas: u8,
    writers: u16,
    /// Requests in a second above which a partition is split.
    split_load: u32,
    /// Percent of one core that each region might use.
    region_cpu: Option<u16>,
    phases: Vec<Phase>,
    /// Seconds from the start of the heat until a split was begun.
    begun_s: f64,
    /// Until the first split was in the record, and clients used what it made.
    split_s: f64,
    /// Until the last split and the last move had ended.
    settled_s: f64,
    /// How many splits there were.
    splits: usize,
    /// The longest write from the start of the heat until all had ended.
    longest_write_ms: f64,
    /// How long writes of a partition were held for its end.
    pauses_ms: Vec<f64>,
    /// How many of the parts that are hot each region writes at the end.
    hot_parts_written: Vec<usize>,
}

/// Measures a hot partition.
pub(crate) fn run(args: &SplitArgs) -> Result<Report> {
    let options = args.around.options(args.seconds, args.rows, REPLICAS - 1);
    let rows = RowSet::large(args.rows);
    let place = Place::take(&options)?;
    let mut report = Report::of("isthmus-bench split", &options, rows);
    let cluster = Cluster::fresh(&options, &place, REGIONS, Memory::holding(rows.count))?;
    let table = Table { cluster: &cluster };
    let made = table.make(json!({
        "by": "hash", "partitions": args.partitions, "replicas": REPLICAS, "seed": 1,
    }))?;
    let next = made.partitions.into_iter().nth(1);
    let hot_until =
        next.map(|next| next.from).ok_or_else(|| BenchError::failed("there is one partition"))?;
    let load = rows.batches_of_all(11);
    send_all(&cluster.target(0)?, "/BatchWriteRow", load, 4, batch_check(1))?;
    let pids = cluster.pids().into_iter();
    let shares: Option<Result<Vec<Share>>> =
        args.region_cpu.map(|percent| pids.map(|pid| Share::of(pid, percent)).collect());
    let _shares = shares.transpose()?;
    let hot = rows.puts_where(13, |key| Point::of_hash(key) < hot_until);
    let targets = (0..usize::from(REGIONS)).map(|region| cluster.target(region));
    let asked = Asked {
        path: "/PutRow",
        requests: vec![rows.puts(12), hot],
        pause: Duration::ZERO,
        bytes_min: 1,
    };
    let targets = targets.collect::<Result<Vec<_>>>()?;
    let clients = Clients::start(targets, usize::from(args.writers), asked, cluster.pids())?;
    let mut heat = Heat { args, table, clients, phases: Vec::new(), warm_up: options.warm_up() };
    let found = heat.measure(&hot_until);
    heat.clients.stop()?;
    tell(found?, &mut report);
    Ok(report)
}

impl Table<'_> {
    /// Splits partitions that are asked for more often in a second from now on, or none.
    fn limit(self, split_load: Option<u32>) -> Result<()> {
        let limits = json!({ "split_rate": split_load });
        let asked = json!({ "reshape": { "change": "limits", "limits": limits } });
        let target = format!("/v1/distributions/{TABLE}/reshape");
        self.cluster.ask("POST", &target, asked.to_string().into()).map(drop)
    }

    /// How long writes were held for the ends of partitions, as all regions tell.
    fn pauses(self) -> Result<Vec<f64>> {
        let mut pauses = Vec::new();
        for region in 0..usize::from(REGIONS) {
            let told = self.cluster.ask_region(region, "GET", "/v1/events", Bytes::new())?;
            let events = told["events"].as_array().cloned().unwrap_or_default();
            let ends = events.iter().filter(|event| event["kind"] == "partition-ended");
            pauses.extend(ends.filter_map(|event| event["detail"]["pause_ms"].as_f64()));
        }
        Ok(pauses)
    }
}

/// A run under way.
struct Heat<'a> {
    args: &'a SplitArgs,
    table: Table<'a>,
    clients: Clients,
    phases: Vec<Phase>,
    warm_up: Duration,
}

impl Heat<'_> {
    fn measure(&mut self, hot_until: &Point) -> Result<SplitFound> {
        // What was loaded is still on its way to replicas.
        std::thread::sleep(SETTLE);
        let even = self.phase("evenly used", false)?;
        self.phase("one hot partition, not split", true)?;
        let share = even / f64::from(self.args.partitions);
        let split_load = self.args.split_load.unwrap_or((share * LIMIT_SHARE) as u32).max(10);
        self.clients.heat(false);
        self.table.limit(Some(split_load))?;
        // The limit alone splits nothing.
        std::thread::sleep(self.warm_up + Duration::from_secs(3));
        let before = self.table.show()?.partitions.len();
        if before != usize::from(self.args.partitions) {
            return Err(BenchError::failed("it was split before the heat: raise --split-load"));
        }
        self.clients.heat(true);
        let began = Instant::now();
        let (mut begun, mut split, mut quiet_since) = (None, None, None);
        let mut ended = began;
        let last = loop {
            let shown = self.table.show()?;
            let now = Instant::now();
            if shown.reshape.is_some() || shown.partitions.len() > before {
                begun.get_or_insert(now);
            }
            if shown.partitions.len() > before {
                split.get_or_insert(now);
            }
            match shown.is_quiet() {
                true => {
                    quiet_since.get_or_insert(now);
                }
                false => (quiet_since, ended) = (None, now),
            }
            let is_over = quiet_since.is_some_and(|since| now - since > QUIET);
            if is_over && split.is_some() {
                break shown;
            }
            if now - began > QUIET_PATIENCE {
                return Err(BenchError::Failed(format!("splits do not end: {shown:?}")));
            }
            std::thread::sleep(POLL);
        };
        let seconds = |at: Option<Instant>| at.map_or(f64::NAN, |at| (at - began).as_secs_f64());
        let longest_write_ms = self.clients.longest_since(began);
        let pauses_ms = self.table.pauses()?;
        self.phase("the same keys, after the splits", true)?;
        self.table.limit(None)?;
        self.phase("evenly used, after the splits", false)?;
        let written = |region: usize| {
            let name = format!("r{}", region + 1);
            let parts = last.partitions.iter().filter(|one| one.from < *hot_until);
            parts.filter(|one| one.primary == name).count()
        };
        Ok(SplitFound {
            partitions: self.args.partitions,
            replicas: REPLICAS,
            writers: self.args.writers,
            split_load,
            region_cpu: self.args.region_cpu,
            phases: std::mem::take(&mut self.phases),
            begun_s: seconds(begun),
            split_s: seconds(split),
            settled_s: (ended - began).as_secs_f64(),
            splits: last.partitions.len() - before,
            longest_write_ms,
            pauses_ms,
            hot_parts_written: (0..usize::from(REGIONS)).map(written).collect(),
        })
    }

    /// Measures for a while; gives the rate.
    fn phase(&mut self, what: &'static str, is_hot: bool) -> Result<f64> {
        self.clients.heat(is_hot);
        std::thread::sleep(self.warm_up);
        let phase = self.clients.phase(what, Duration::from_secs(self.args.seconds))?;
        let rate = phase.rows_per_second;
        self.phases.push(phase);
        Ok(rate)
    }
}

/// Adds what was found to a report.
fn tell(found: SplitFound, report: &mut Report) {
    for phase in &found.phases {
        let what = format!("PutRow, {}", phase.what);
        if let Some(error) = &phase.first_error {
            report.note(format!("{what}: {} bad answers, the first: {error}", phase.errors));
        }
        report.line(Line {
            what,
            table: "in cache".to_owned(),
            replicas: Some(REPLICAS - 1),
            rows_per_second: phase.rows_per_second,
            p50_ms: phase.p50_ms,
            p99_ms: phase.p99_ms,
            max_ms: phase.max_ms,
            others: phase.others,
            errors: phase.errors,
            ..Line::default()
        });
    }
    let rate = |place: usize| found.phases.get(place).map_or(f64::NAN, |it| it.rows_per_second);
    let even = rate(0);
    for (what, of, aim) in [
        ("one hot partition, not split", rate(1), None),
        ("the same keys, after the splits", rate(2), Some(format!("at least {RATE_SHARE}"))),
        ("evenly used, after the splits", rate(3), None),
    ] {
        report.ratio(Ratio {
            what: what.to_owned(),
            value: of / even,
            of,
            to: even,
            floor: "evenly used, the same writers".to_owned(),
            unit: "rows/s",
            aim,
        });
    }
    report.ratio(Ratio {
        what: "from the start of the heat to the split's end".to_owned(),
        value: found.split_s / SPLIT_SECONDS,
        of: found.split_s,
        to: SPLIT_SECONDS,
        floor: "5 s".to_owned(),
        unit: "s",
        aim: Some("at most 1".to_owned()),
    });
    if found.region_cpu.is_none() {
        report.note(
            "all regions and the load generator share the cores: a region that writes more takes \
             from the others what they do not use, so a hot partition seems to cost less than \
             where each region has a machine of its own",
        );
    }
    report.split(found);
}

impl SplitFound {
    /// As tables.
    pub(crate) fn text(&self) -> String {
        let cells = |phase: &Phase| {
            let mut cells = vec![phase.what.to_owned()];
            cells.extend(phase.cpu.iter().map(|share| format!("{:.0}", share * 100.0)));
            cells
        };
        let headings = ["CORES USED IN PERCENT", "R1", "R2", "R3", "GENERATOR"];
        let mut text = table(&headings, &self.phases.iter().map(cells).collect::<Vec<_>>());
        let held: Vec<String> = self.pauses_ms.iter().map(|ms| format!("{ms:.0}")).collect();
        let written: Vec<String> = self.hot_parts_written.iter().map(usize::to_string).collect();
        text += &format!(
            "\n{} partitions at first, each in {} regions; {} writers; split above {} requests/s\n\
             heat: a split was begun after {:.1} s, was in the record after {:.1} s; all {} splits \
             and the moves had ended after {:.1} s\n\
             the longest write meanwhile took {:.0} ms; writes of a partition were held for {} ms\n\
             of the parts that are hot, r1, r2 and r3 write {}\n",
            self.partitions,
            self.replicas,
            self.writers,
            self.split_load,
            self.begun_s,
            self.split_s,
            self.splits,
            self.settled_s,
            self.longest_write_ms,
            held.join(", "),
            written.join(", "),
        );
        text
    }
}
