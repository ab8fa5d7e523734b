//! The same with and without a delay on the way between two regions.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::{Load, Run, caught_up};
use crate::error::{BenchError, Result};
use crate::lag::{Probes, Sight};
use crate::load::{Times, micros, run as run_load};
use crate::proxy::Way;
use crate::report::{Line, Ratio, table};
use crate::rows::RowSet;
use crate::write::{fill, put_plan};

/// Rows that are there, and that are overwritten.
const ROWS_MAX: u64 = 36_000;

/// What was found with one delay.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Level {
    delay_ms: u64,
    /// PutRow per second until the replica held all of it.
    capacity_per_second: f64,
    /// Rows per second of a replica that was away.
    caught_up_per_second: f64,
    lag_p50_ms: f64,
    lag_p99_ms: f64,
    samples: usize,
    unseen: u64,
}

const HEADINGS: [&str; 7] =
    ["ONE WAY MS", "PUTROW/S", "CAUGHT UP/S", "LAG P50 MS", "P99 MS", "SAMPLES", "UNSEEN"];

/// As a table.
pub(super) fn text(levels: &[Level]) -> String {
    let cells = |level: &Level| {
        vec![
            level.delay_ms.to_string(),
            format!("{:.0}", level.capacity_per_second),
            format!("{:.0}", level.caught_up_per_second),
            format!("{:.2}", level.lag_p50_ms),
            format!("{:.2}", level.lag_p99_ms),
            level.samples.to_string(),
            level.unseen.to_string(),
        ]
    };
    table(&HEADINGS, &levels.iter().map(cells).collect::<Vec<_>>())
}

pub(super) fn measure(run: &mut Run<'_>, rows: RowSet) -> Result<()> {
    let delay_ms = run.args.delay_ms;
    let quick = level(run, rows, 0, None)?;
    let asked = quick.capacity_per_second / 2.0;
    let late = level(run, rows, delay_ms, Some(asked))?;
    let throughput = |what: &str, of: f64, to: f64| Ratio {
        what: format!("{what}, {delay_ms} ms one way"),
        value: of / to,
        of,
        to,
        floor: "the same without delay".to_owned(),
        unit: "rows/s",
        aim: Some("at least 0.8".to_owned()),
    };
    let lag = |what: &str, of: f64, more: f64| Ratio {
        what: format!("lag at half load, {what}"),
        value: of / (delay_ms as f64 + more),
        of,
        to: delay_ms as f64 + more,
        floor: format!("one way + {more:.0} ms"),
        unit: "ms",
        aim: Some("at most 1".to_owned()),
    };
    for ratio in [
        throughput(
            "PutRow until the replica has it",
            late.capacity_per_second,
            quick.capacity_per_second,
        ),
        throughput("catch-up", late.caught_up_per_second, quick.caught_up_per_second),
        lag("p50", late.lag_p50_ms, 5.0),
        lag("p99", late.lag_p99_ms, 30.0),
    ] {
        run.report.ratio(ratio);
    }
    run.found.delayed.extend([quick, late]);
    Ok(())
}

/// Measures with one delay; lag at half of what goes, or at what is asked for.
fn level(run: &mut Run<'_>, rows: RowSet, delay_ms: u64, asked: Option<f64>) -> Result<Level> {
    let way = Way { delay: Duration::from_millis(delay_ms), bytes_per_second: None };
    let mut cluster = run.cluster(2, |_| Ok(()))?;
    let _proxies = (cluster.route(0, 1, way)?, cluster.route(1, 0, way)?);
    let some = RowSet::large(rows.count.min(ROWS_MAX));
    fill(&cluster, &some.batches_of_all(11))?;
    let puts = Arc::new(some.puts(12));
    let full = run_load(&put_plan(&run.options, &cluster, &puts, None)?)?;
    let drained = cluster.catch_up()?;
    let what = format!("PutRow, {delay_ms} ms one way");
    run.report.note_errors(&what, &full);
    run.report.line(Line::of(&what, "", Some(1), &full, 1));
    let all = run.options.warm_up() + full.elapsed + drained;
    let capacity = full.answers_in_all as f64 / all.as_secs_f64();
    let probes = Probes {
        writer: cluster.target(0)?,
        readers: vec![cluster.target(1)?],
        round: 1,
        after: run.options.warm_up(),
        length: run.options.measure(),
    };
    let half = put_plan(&run.options, &cluster, &puts, Some(asked.unwrap_or(capacity / 2.0)))?;
    let probing = std::thread::spawn(move || probes.run());
    let outcome = run_load(&half)?;
    let sights = probing.join().map_err(|_| BenchError::failed("the probes panicked"))??;
    let what = format!("PutRow at half of it, {delay_ms} ms one way");
    run.report.note_errors(&what, &outcome);
    run.report.line(Line::of(&what, "", Some(1), &outcome, 1));
    cluster.catch_up()?;
    let name = format!("1 KiB rows, {delay_ms} ms one way");
    let moved = caught_up(&mut cluster, &Load::Rows(rows), &name, run.args.patience())?;
    run.add(&moved);
    let sight = sights.first().ok_or_else(|| BenchError::failed("nobody looked for probes"))?;
    let times = times(sight);
    Ok(Level {
        delay_ms,
        capacity_per_second: capacity,
        caught_up_per_second: moved.rows_per_second(),
        lag_p50_ms: times.quantile(0.5),
        lag_p99_ms: times.quantile(0.99),
        samples: times.len(),
        unseen: sight.unseen,
    })
}

fn times(sight: &Sight) -> Times {
    Times::new(sight.seen.iter().map(|(_, lag)| micros(*lag)).collect())
}
