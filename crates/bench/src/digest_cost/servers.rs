//! Two servers, one with digests and one without: what a client sees of the cost.
//!
//! Both run all the time, each alone in its set-up; only one has load at a time.

use std::sync::Arc;

use super::{DigestCost, Round, Side, Sizes, Writes, rest};
use crate::cluster::{Cluster, Place, Settings};
use crate::error::{BenchError, Result};
use crate::load::{Check, Outcome, Plan, Prepared, run as run_load};
use crate::rows::{BATCH_ROWS, RowSet};
use crate::write::{batch_check, fill};

/// New rows that are made ready for each second of a round: more than are written.
const NEW_ROWS_A_SECOND: f64 = 120_000.0;

/// What is sent, the same to both sides.
struct Requests {
    rows: RowSet,
    singles: Arc<Vec<Prepared>>,
    overwrites: Arc<Vec<Prepared>>,
    /// Of this round, and whom they were sent to.
    new_rows: Arc<Vec<Prepared>>,
    sent_to: Vec<Side>,
    /// New rows so far.
    new_count: u64,
}

pub(super) fn measure(sizes: &Sizes<'_>, place: &Place, found: &mut DigestCost) -> Result<()> {
    let options = &sizes.args.options;
    let mut running = Vec::new();
    let load = sizes.rows.batches_of_all(11);
    for (number, side) in sizes.sides().into_iter().enumerate() {
        let settings = Settings { memory: sizes.memory, digests: side == Side::On };
        let spot = place.spot(options, number as u8);
        let cluster = Cluster::fresh_at(spot, 1, settings)?;
        fill(&cluster, &load)?;
        running.push((side, cluster));
    }
    drop(load);
    let pids: Vec<u32> = running.iter().flat_map(|(_, cluster)| cluster.pids()).collect();
    let mut requests = Requests::new(sizes.rows);
    let mut problems = Vec::new();
    sizes.measure(found, |side, writes, warm_up, measure| {
        let known = running.iter().find(|(known, _)| *known == side);
        let (_, cluster) = known.ok_or_else(|| BenchError::failed("no such side"))?;
        let rows = if writes == Writes::Single { 1 } else { BATCH_ROWS };
        let needed = (warm_up + measure).as_secs_f64() * NEW_ROWS_A_SECOND / rows as f64;
        let plan = Plan {
            target: cluster.target(0)?,
            path: if writes == Writes::Single { "/PutRow" } else { "/BatchWriteRow" },
            requests: requests.of(side, writes, needed as usize),
            connections: writes.writers(),
            check: if rows == 1 { Check::length(1) } else { batch_check(64) },
            warm_up,
            measure,
            pace: None,
            processes: cluster.pids(),
        };
        rest(&pids)?;
        let outcome = run_load(&plan)?;
        if let Some(error) = &outcome.first_error {
            problems.push(format!("{}: {} bad answers: {error}", writes.name(), outcome.errors));
        }
        if writes == Writes::NewRows && outcome.answers_in_all > plan.requests.len() as u64 {
            problems.push("new rows were written twice: too few were made ready".to_owned());
        }
        Ok(round(&outcome, rows))
    })?;
    found.problems.append(&mut problems);
    Ok(())
}

fn round(outcome: &Outcome, rows: usize) -> Round {
    let written = outcome.answers as f64 * rows as f64;
    let cpu = outcome.cpu.first().map_or(f64::NAN, std::time::Duration::as_secs_f64);
    Round {
        rows_per_second: outcome.rate() * rows as f64,
        cpu_us_per_row: cpu * 1e6 / written.max(1.0),
        others: outcome.others,
    }
}

impl Requests {
    fn new(rows: RowSet) -> Requests {
        Requests {
            rows,
            singles: Arc::new(rows.puts(12)),
            overwrites: Arc::new(rows.batches(13)),
            new_rows: Arc::default(),
            sent_to: Vec::new(),
            new_count: 0,
        }
    }

    fn of(&mut self, side: Side, writes: Writes, batches: usize) -> Arc<Vec<Prepared>> {
        match writes {
            Writes::Single => self.singles.clone(),
            Writes::Overwrites => self.overwrites.clone(),
            Writes::NewRows => {
                if self.new_rows.is_empty() || self.sent_to.contains(&side) {
                    self.new_rows = Arc::default();
                    let made = self.rows.batches_of_new(self.new_count, batches, self.new_count);
                    self.new_rows = Arc::new(made);
                    self.new_count += (batches * BATCH_ROWS) as u64;
                    self.sent_to.clear();
                }
                self.sent_to.push(side);
                self.new_rows.clone()
            }
        }
    }
}
