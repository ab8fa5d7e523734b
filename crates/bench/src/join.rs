//! `join`: a region joins a distributed table that is used.
//!
//! Four regions, a table divided by hash over three of them, and clients that read and write at a
//! steady pace through these three, from the first measurement to the last. The fourth region is
//! added; what counts is how much is moved, how long that takes, and how long answers take
//! meanwhile beside those before. Each half of the clients pauses between an answer and the next
//! request, so that what is moved finds processors that are not all busy.

use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use serde_json::json;

use crate::Around;
use crate::clients::{Asked, Clients, Phase};
use crate::cluster::{Cluster, Memory, Place};
use crate::distributed::{Shown, Table};
use crate::error::{BenchError, Result};
use crate::load::send_all;
use crate::report::{Line, Ratio, Report};
use crate::rows::{RowSet, TABLE};
use crate::write::batch_check;

const REGIONS: u8 = 4;
/// In how many regions a partition is.
const REPLICAS: u8 = 2;
/// Requests that are prepared of each kind, on rows by chance.
const PREPARED: usize = 50_000;
/// So long all moves may take.
const PATIENCE: Duration = Duration::from_secs(900);
/// Clients ask so long before anything is measured: what was loaded is on its way still.
const SETTLE: Duration = Duration::from_secs(8);
/// What is aimed at.
const P99_TIMES: f64 = 2.0;
const MOVED_SHARE: f64 = 0.3;

/// Arguments of `join`.
#[derive(Args, Debug)]
pub(crate) struct JoinArgs {
    /// Rows of the table, 100 bytes each
    #[arg(long, value_name = "N", default_value_t = 1_000_000,
        value_parser = clap::value_parser!(u64).range(10_000..=10_000_000))]
    rows: u64,
    /// Partitions
    #[arg(long, value_name = "N", default_value_t = 12,
        value_parser = clap::value_parser!(u16).range(2..=128))]
    partitions: u16,
    /// Connections that read, and as many that write, spread over three regions
    #[arg(long, value_name = "N", default_value_t = 12,
        value_parser = clap::value_parser!(u16).range(3..=1000))]
    connections: u16,
    /// Milliseconds between an answer and the next request of a connection
    #[arg(long, value_name = "MS", default_value_t = 20,
        value_parser = clap::value_parser!(u64).range(0..=10_000))]
    pause_ms: u64,
    /// Partitions that move at once [default: what the product takes]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16))]
    moves_at_once: Option<u32>,
    /// Seconds of the measurement before, after a warm-up
    #[arg(long, value_name = "SECONDS", default_value_t = 10,
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    #[command(flatten)]
    pub(crate) around: Around,
}

/// What `join` found.
#[derive(Debug, Serialize)]
pub(crate) struct JoinFound {
    partitions: u16,
    /// Replicas of all partitions, and those that were moved.
    replicas: u64,
    replicas_moved: u64,
    /// Seconds from the word until all was where it belongs.
    seconds: f64,
}

/// Measures a region that joins.
pub(crate) fn run(args: &JoinArgs) -> Result<Report> {
    let options = args.around.options(args.seconds, args.rows, REPLICAS - 1);
    let rows = RowSet::small(args.rows);
    let place = Place::take(&options)?;
    let mut report = Report::of("isthmus-bench join", &options, rows);
    let cluster = Cluster::fresh(&options, &place, REGIONS, Memory::holding(rows.count))?;
    let table = Table { cluster: &cluster };
    table.make(json!({
        "by": "hash", "partitions": args.partitions, "replicas": REPLICAS, "seed": 1,
        "regions": ["r1", "r2", "r3"],
    }))?;
    let load = rows.batches_of_all(11);
    send_all(&cluster.target(0)?, "/BatchWriteRow", load, 4, batch_check(1))?;
    let targets = (0..usize::from(REGIONS) - 1).map(|region| cluster.target(region));
    let targets = targets.collect::<Result<Vec<_>>>()?;
    let some = |mut all: Vec<_>| {
        all.truncate(PREPARED);
        vec![all]
    };
    let pause = Duration::from_millis(args.pause_ms);
    let start = |path, requests, bytes_min| {
        let asked = Asked { path, requests, pause, bytes_min };
        Clients::start(targets.clone(), usize::from(args.connections), asked, cluster.pids())
    };
    let mut readers = start("/GetRow", some(rows.gets(12)), rows.shape.row_bytes())?;
    let mut writers = start("/PutRow", some(rows.puts(13)), 1)?;
    let found = measure(args, table, [&readers, &writers], options.warm_up());
    readers.stop()?;
    writers.stop()?;
    let (found, phases) = found?;
    tell(found, phases, &mut report);
    Ok(report)
}

type Phases = Vec<[Phase; 2]>;

fn measure(
    args: &JoinArgs,
    table: Table<'_>,
    [readers, writers]: [&Clients; 2],
    warm_up: Duration,
) -> Result<(JoinFound, Phases)> {
    let between = |what, began, ended| {
        [readers.between(what, began, ended), writers.between(what, began, ended)]
    };
    std::thread::sleep(SETTLE + warm_up);
    let before = Instant::now();
    std::thread::sleep(Duration::from_secs(args.seconds));
    let began = Instant::now();
    let wish = json!({ "change": { "add": ["r4"], "moves_at_once": args.moves_at_once } });
    let target = format!("/v1/distributions/{TABLE}/rebalance");
    let told = table.cluster.ask("POST", &target, wish.to_string().into())?;
    let count = |name: &str| {
        let found = told[name].as_u64().filter(|count| *count > 0);
        found.ok_or_else(|| BenchError::Failed(format!("nothing is moved: {told}")))
    };
    let (replicas, replicas_moved) = (count("replicas")?, count("replicas_moved")?);
    table.await_shown("moves do not end", PATIENCE, Shown::is_quiet)?;
    let ended = Instant::now();
    std::thread::sleep(Duration::from_secs(args.seconds));
    let phases = vec![
        between("before", before, began),
        between("while a region joins", began, ended),
        between("after", ended, Instant::now()),
    ];
    let seconds = (ended - began).as_secs_f64();
    Ok((JoinFound { partitions: args.partitions, replicas, replicas_moved, seconds }, phases))
}

/// Adds what was found to a report.
fn tell(found: JoinFound, phases: Phases, report: &mut Report) {
    for phase in phases.iter().flatten().filter(|phase| phase.errors > 0) {
        let first = phase.first_error.as_deref().unwrap_or_default();
        report.note(format!("{}: {} bad answers, the first: {first}", phase.what, phase.errors));
    }
    for (place, operation) in ["GetRow", "PutRow"].into_iter().enumerate() {
        for [read, written] in &phases {
            let phase = if place == 0 { read } else { written };
            report.line(Line {
                what: format!("{operation}, {}", phase.what),
                table: "in cache".to_owned(),
                replicas: Some(REPLICAS - 1),
                rows_per_second: phase.rows_per_second,
                p50_ms: phase.p50_ms,
                p99_ms: phase.p99_ms,
                max_ms: phase.max_ms,
                errors: phase.errors,
                ..Line::default()
            });
        }
        let p99 = |phase: usize| phases.get(phase).map_or(f64::NAN, |it| it[place].p99_ms);
        report.ratio(Ratio {
            what: format!("p99 of {operation} while a region joins"),
            value: p99(1) / p99(0),
            of: p99(1),
            to: p99(0),
            floor: "before".to_owned(),
            unit: "ms",
            aim: Some(format!("at most {P99_TIMES}")),
        });
    }
    report.ratio(Ratio {
        what: "replicas that were moved".to_owned(),
        value: found.replicas_moved as f64 / found.replicas as f64,
        of: found.replicas_moved as f64,
        to: found.replicas as f64,
        floor: "all".to_owned(),
        unit: "replicas",
        aim: Some(format!("at most {MOVED_SHARE}")),
    });
    report.note(format!(
        "{} of {} replicas of {} partitions were moved in {:.1} s",
        found.replicas_moved, found.replicas, found.partitions, found.seconds
    ));
    report.join(found);
}
