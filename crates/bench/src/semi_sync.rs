//! `semi-sync`: what it costs that a write is answered when one of two other regions holds it.
//!
//! The same PutRows over a table that is there already, at 64 connections, in turns: answered
//! when they are durable in their region, then when another region holds them. What is compared
//! are the medians of the rounds, so that what else the machine does counts for both.

use std::sync::Arc;

use clap::Args;

use crate::cluster::{Cluster, Memory, Place};
use crate::error::Result;
use crate::load::run as run_load;
use crate::report::{Line, Ratio, Report};
use crate::rows::RowSet;
use crate::write::{fill, put_plan};
use crate::{Around, Options};

const REPLICAS: u8 = 2;
const AIM: f64 = 0.5;
/// The two modes, as they are set.
const MODES: [(&str, &str); 2] = [
    ("async", r#"{"answers":"async"}"#),
    (
        "semi-sync 1 of 2",
        r#"{"answers":"semi-sync","held_by":1,"bound_ms":60000,"patience_ms":60000}"#,
    ),
];

/// Arguments of `semi-sync`.
#[derive(Args, Debug)]
pub(crate) struct SemiSyncArgs {
    /// Rows of the table, 1 KiB each
    #[arg(long, value_name = "N", default_value_t = 36_000,
        value_parser = clap::value_parser!(u64).range(2_000..=100_000_000))]
    rows: u64,
    /// Rounds of each mode, in turns
    #[arg(long, value_name = "N", default_value_t = 5,
        value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// Seconds of each round, after a warm-up
    #[arg(long, value_name = "SECONDS", default_value_t = 8,
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    #[command(flatten)]
    pub(crate) around: Around,
}

impl SemiSyncArgs {
    fn options(&self) -> Options {
        self.around.options(self.seconds, self.rows, REPLICAS)
    }
}

/// Measures both modes.
pub(crate) fn run(args: &SemiSyncArgs) -> Result<Report> {
    let options = args.options();
    let rows = RowSet::large(args.rows);
    let place = Place::take(&options)?;
    let mut report = Report::of("isthmus-bench semi-sync", &options, rows);
    let memory = Memory::holding(rows.count);
    let cluster = Cluster::fresh(&options, &place, REPLICAS + 1, memory)?;
    fill(&cluster, &rows.batches_of_all(11))?;
    let plan = put_plan(&options, &cluster, &Arc::new(rows.puts(12)), None)?;
    let mut rates = [Vec::new(), Vec::new()];
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..args.rounds {
        for (number, (name, mode)) in MODES.into_iter().enumerate() {
            cluster.set_mode(mode)?;
            let outcome = run_load(&plan)?;
            let mut line =
                Line::of(&format!("PutRow, {name}"), "in cache", Some(REPLICAS), &outcome, 1);
            line.behind = cluster.behind()?;
            report.note_errors(name, &outcome);
            rates[number].push(line.rows_per_second);
            times[number].push(line.p50_ms);
            report.line(line);
            cluster.catch_up()?;
        }
    }
    let [of_async, of_semi_sync] = rates.map(median);
    report.ratio(Ratio {
        what: "semi-sync 1 of 2, 64 writers, medians".to_owned(),
        value: of_semi_sync / of_async,
        of: of_semi_sync,
        to: of_async,
        floor: "async in the same run".to_owned(),
        unit: "rows/s",
        aim: Some(format!("{AIM}")),
    });
    let [of_async, of_semi_sync] = times.map(median);
    report.ratio(Ratio {
        what: "time of a write, p50".to_owned(),
        value: of_semi_sync / of_async,
        of: of_semi_sync,
        to: of_async,
        floor: "async in the same run".to_owned(),
        unit: "ms",
        aim: None,
    });
    Ok(report)
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}
