//! A table with rows is copied to another region while the origin takes writes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Load, PATIENCE, Run};
use crate::cluster::Cluster;
use crate::error::{BenchError, Result};
use crate::load::{Outcome, Plan, run as run_load};
use crate::report::{Line, Ratio};
use crate::rows::RowSet;
use crate::write::put_plan;

/// The share of what the origin can take that is in use.
const SHARE: f64 = 0.2;
/// Requests that are made ready.
const PUTS_MAX: u64 = 50_000;

/// How far the copy is held back, and what the origin's p99 may become.
struct Hold {
    name: &'static str,
    /// Of one processor; `None`: as links do by themselves.
    percent: Option<u8>,
    aim: f64,
}

const HOLDS: [Hold; 2] = [
    Hold { name: "default throttle", percent: None, aim: 2.0 },
    Hold { name: "10 % of a processor", percent: Some(10), aim: 1.2 },
];

pub(super) fn measure(run: &mut Run<'_>, rows: RowSet) -> Result<()> {
    HOLDS.iter().try_for_each(|hold| measure_held(run, rows, hold))
}

fn measure_held(run: &mut Run<'_>, rows: RowSet, hold: &Hold) -> Result<()> {
    let cluster = run.cluster(2, |_| Ok(()))?;
    let load = Load::Rows(rows);
    load.create(&cluster)?;
    load.send(&cluster)?;
    let puts = Arc::new(RowSet::large(rows.count.min(PUTS_MAX)).puts(12));
    let full = run_load(&put_plan(&run.options, &cluster, &puts, None)?)?;
    run.report.note_errors("PutRow", &full);
    run.report.line(Line::of("PutRow, as many as go", "", Some(0), &full, 1));
    let share = put_plan(&run.options, &cluster, &puts, Some(full.rate() * SHARE))?;
    let quiet = run_load(&share)?;
    run.report.line(Line::of("PutRow at 20 %, quiet", "", Some(0), &quiet, 1));
    let (copying, moved) = copy(run, &cluster, &share, &load, hold)?;
    run.report.note_errors("PutRow while copying", &copying);
    run.report.line(Line::of("PutRow at 20 %, while copying", "", Some(1), &copying, 1));
    run.report.ratio(Ratio {
        what: format!("origin's p99 while copying, {}", hold.name),
        value: copying.times.quantile(0.99) / quiet.times.quantile(0.99),
        of: copying.times.quantile(0.99),
        to: quiet.times.quantile(0.99),
        floor: "the same load, quiet".to_owned(),
        unit: "ms",
        aim: Some(format!("at most {}", hold.aim)),
    });
    run.add(&moved);
    Ok(())
}

/// Copies while the load goes on.
fn copy(
    run: &mut Run<'_>,
    cluster: &Cluster,
    share: &Plan,
    load: &Load,
    hold: &Hold,
) -> Result<(Outcome, super::Moved)> {
    let start = Instant::now();
    let id = cluster.bind_replicas()?;
    if let Some(percent) = hold.percent {
        cluster.hold_copies(percent)?;
    }
    let limit = run.args.patience();
    let (outcome, copied_in) = std::thread::scope(|scope| {
        let copying = scope.spawn(|| cluster.await_replicas(&id, limit).map(|()| start.elapsed()));
        let outcome = run_load(share);
        let was_copying = !copying.is_finished();
        let copied_in =
            copying.join().map_err(|_| BenchError::failed("the copy's watcher panicked"))??;
        if !was_copying {
            run.report.note(format!(
                "the copy ended {:.1} s after it began, before the writes beside it: use more rows",
                copied_in.as_secs_f64()
            ));
        }
        Ok::<(Outcome, Duration), BenchError>((outcome?, copied_in))
    })?;
    let link = cluster.await_link(1, PATIENCE, |link| link.lag_entries == 0)?;
    let shipped = (link.sent_bytes, link.wire_bytes);
    let mut moved = load.moved(
        &format!("1 KiB rows, copied while written, {}", hold.name),
        copied_in.as_secs_f64(),
        shipped,
    );
    moved.rows = link.copied_rows.unwrap_or(moved.rows);
    Ok((outcome, moved))
}
