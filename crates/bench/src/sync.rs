//! `sync`: what each mode of writing costs, and over long ways: async, semi-sync, and the two forms
//! of synchronous commit.
//!
//! Three regions; every byte between the first and the others takes the delay. In each mode PutRows
//! at a pace that leaves the machine idle, for the time of one write, and then from as many
//! connections as the way can hold, for the rate. The aim of a synchronous write is one round trip
//! and 10 ms.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use crate::cluster::{Cluster, Memory, Place};
use crate::error::Result;
use crate::load::{Plan, run as run_load};
use crate::proxy::Way;
use crate::report::{Line, Ratio, Report};
use crate::rows::RowSet;
use crate::write::{fill, put_plan};
use crate::{Around, Options};

const REPLICAS: u8 = 2;
/// Writes per second at which the time of one is measured.
const PACE: f64 = 100.0;
const PACED_CONNECTIONS: usize = 32;
/// What is added to a round trip.
const BESIDE_MS: f64 = 10.0;
/// The modes, as they are set; the last two are synchronous.
const MODES: [(&str, &str); 4] = [
    ("async", r#"{"answers":"async"}"#),
    (
        "semi-sync 1 of 2",
        r#"{"answers":"semi-sync","held_by":1,"bound_ms":60000,"patience_ms":60000}"#,
    ),
    (
        "sync two-phase",
        r#"{"answers":"sync","form":"two-phase","bound_ms":60000,"patience_ms":60000}"#,
    ),
    (
        "sync three-phase",
        r#"{"answers":"sync","form":"three-phase","bound_ms":60000,"patience_ms":60000}"#,
    ),
];

/// Arguments of `sync`.
#[derive(Args, Debug)]
pub(crate) struct SyncArgs {
    /// Rows of the table, 1 KiB each
    #[arg(long, value_name = "N", default_value_t = 20_000,
        value_parser = clap::value_parser!(u64).range(2_000..=100_000_000))]
    rows: u64,
    /// Milliseconds that each byte takes, one way
    #[arg(long, value_name = "MS", value_delimiter = ',', default_values_t = [0, 10, 50],
        value_parser = clap::value_parser!(u64).range(0..=1000))]
    delays: Vec<u64>,
    /// Connections that write at once for the rate
    #[arg(long, value_name = "N", default_value_t = 400,
        value_parser = clap::value_parser!(u16).range(1..=2000))]
    connections: u16,
    /// Seconds of each measurement, after a warm-up
    #[arg(long, value_name = "SECONDS", default_value_t = 8,
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    #[command(flatten)]
    pub(crate) around: Around,
}

impl SyncArgs {
    fn options(&self) -> Options {
        self.around.options(self.seconds, self.rows, REPLICAS)
    }
}

/// Measures every mode over every way.
pub(crate) fn run(args: &SyncArgs) -> Result<Report> {
    let options = args.options();
    let rows = RowSet::large(args.rows);
    let place = Place::take(&options)?;
    let mut report = Report::of("isthmus-bench sync", &options, rows);
    let puts = Arc::new(rows.puts(12));
    let mut without_delay = [None; MODES.len()];
    for delay_ms in &args.delays {
        let way = Way { delay: Duration::from_millis(*delay_ms), bytes_per_second: None };
        let mut cluster =
            Cluster::fresh(&options, &place, REPLICAS + 1, Memory::holding(rows.count))?;
        let mut proxies = Vec::new();
        for (from, to) in [(0, 1), (0, 2), (1, 0), (2, 0)] {
            if *delay_ms > 0 {
                proxies.push(cluster.route(from, to, way)?);
            }
        }
        fill(&cluster, &rows.batches_of_all(11))?;
        cluster.catch_up()?;
        let mut of_async = f64::NAN;
        for (number, (name, mode)) in MODES.into_iter().enumerate() {
            cluster.set_mode(mode)?;
            std::thread::sleep(Duration::from_secs(1));
            let plan = |connections: usize, pace| -> Result<Plan> {
                Ok(Plan { connections, ..put_plan(&options, &cluster, &puts, pace)? })
            };
            let what = format!("PutRow, {name}, {delay_ms} ms one way");
            let paced = run_load(&plan(PACED_CONNECTIONS, Some(PACE))?)?;
            report.note_errors(&what, &paced);
            let line = Line::of(&format!("{what}, {PACE}/s"), "", Some(REPLICAS), &paced, 1);
            let (p50_ms, p99_ms) = (line.p50_ms, line.p99_ms);
            report.line(line);
            let full = run_load(&plan(usize::from(args.connections), None)?)?;
            report.note_errors(&what, &full);
            let line = Line::of(&what, "", Some(REPLICAS), &full, 1);
            let rate = line.rows_per_second;
            report.line(line);
            cluster.catch_up()?;
            if number == 0 {
                of_async = rate;
            }
            let beside = 2.0 * *delay_ms as f64 + BESIDE_MS;
            let is_sync = number >= 2;
            let words = |what: &str| format!("{name}, {delay_ms} ms one way: {what}");
            if is_sync {
                for (what, of) in [("p50", p50_ms), ("p99", p99_ms)] {
                    report.ratio(Ratio {
                        what: words(what),
                        value: of / beside,
                        of,
                        to: beside,
                        floor: "a round trip and 10 ms".to_owned(),
                        unit: "ms",
                        aim: (what == "p99").then(|| "at most 1".to_owned()),
                    });
                }
            }
            let mut compare = |to: f64, floor: &str| {
                report.ratio(Ratio {
                    what: words(&format!("{} writers", args.connections)),
                    value: rate / to,
                    of: rate,
                    to,
                    floor: floor.to_owned(),
                    unit: "rows/s",
                    aim: None,
                });
            };
            if number > 0 {
                compare(of_async, "async over the same way");
            }
            match without_delay[number] {
                None => without_delay[number] = Some(rate),
                Some(first) => compare(first, "the same over the first way"),
            }
        }
        drop(proxies);
    }
    Ok(report)
}
