//! `write`: PutRow and BatchWriteRow over a table that is there already, so that every write
//! meets an older row.
//!
//! First three regions with two replicas of the table, then one region alone; each with the
//! table in the cache and four times the cache. Then the floors, with the grouping seen before.
//! Last, at 30 % of what was reached with replicas, what a link costs the origin.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use isthmus_protocol::client::decode_batch;

use crate::Options;
use crate::cluster::{Cluster, Memory, Place};
use crate::echo::Echo;
use crate::error::Result;
use crate::floors::{Raw, Writing};
use crate::load::{Check, Outcome, Plan, Prepared, run as run_load, send_all};
use crate::report::{Line, Ratio, Report};
use crate::rows::{BATCH_ROWS, RowSet};

/// Connections of PutRow.
pub(crate) const PUT_CONNECTIONS: usize = 64;
/// Connections of BatchWriteRow.
const BATCH_CONNECTIONS: usize = 4;
/// Share of the rate reached with replicas at which costs are compared.
const SHARE: f64 = 0.3;

const PUT: &str = "PutRow";
const BATCH: &str = "BatchWriteRow of 200";
const PUT_SHARE: &str = "PutRow at 30 %";
const RAW_PUT: &str = "raw engine, groups as PutRow";
const RAW_BATCH: &str = "raw engine, groups as batches";
const ECHO: &str = "HTTP stack, signatures and MD5";
const BARE: &str = "HTTP stack, bare";

/// Everything that is sent.
struct Requests {
    load: Vec<Prepared>,
    puts: Arc<Vec<Prepared>>,
    batches: Arc<Vec<Prepared>>,
}

struct Run<'a> {
    options: &'a Options,
    place: Place,
    rows: RowSet,
    requests: Requests,
    report: Report,
    answer_bytes: f64,
}

/// Measures writes.
pub(crate) fn run(options: &Options) -> Result<Report> {
    let rows = RowSet::large(options.rows());
    let requests = Requests {
        load: rows.batches_of_all(11),
        puts: Arc::new(rows.puts(12)),
        batches: Arc::new(rows.batches(13)),
    };
    let mut run = Run {
        options,
        place: Place::take(options)?,
        rows,
        requests,
        report: Report::new("isthmus-bench write", options),
        answer_bytes: 0.0,
    };
    // The share of the first one's rate is what all are compared at.
    for replicas in &options.replicas {
        run.cluster(*replicas)?;
    }
    run.raw()?;
    run.echo()?;
    run.ratios();
    Ok(run.report)
}

/// Fills the table of a cluster and waits until replicas hold it.
pub(crate) fn fill(cluster: &Cluster, load: &[Prepared]) -> Result<()> {
    cluster.create_table()?;
    send_all(&cluster.target(0)?, "/BatchWriteRow", load.to_vec(), 4, batch_check(1))?;
    cluster.catch_up()?;
    Ok(())
}

/// PutRow into the first region, at a pace or as many as go.
pub(crate) fn put_plan(
    options: &Options,
    cluster: &Cluster,
    puts: &Arc<Vec<Prepared>>,
    pace: Option<f64>,
) -> Result<Plan> {
    Ok(Plan {
        target: cluster.target(0)?,
        path: "/PutRow",
        requests: puts.clone(),
        connections: PUT_CONNECTIONS,
        check: Check::length(1),
        warm_up: options.warm_up(),
        measure: options.measure(),
        pace,
        processes: cluster.pids(),
    })
}

pub(crate) fn batch_check(every: usize) -> Check {
    Check { bytes_min: BATCH_ROWS, every, decode: check_batch }
}

fn check_batch(body: Bytes) -> std::result::Result<(), String> {
    let tables = decode_batch(body).map_err(|error| error.message())?;
    match tables.iter().flat_map(|table| &table.rows).find_map(|row| row.as_ref().err()) {
        Some(error) => Err(format!("a row of a batch: {}: {}", error.code, error.message)),
        None => Ok(()),
    }
}

impl Run<'_> {
    fn cluster(&mut self, replicas: u8) -> Result<()> {
        let count = self.rows.count;
        let memory = Memory::holding(count);
        let cluster = Cluster::fresh(self.options, &self.place, replicas + 1, memory)?;
        fill(&cluster, &self.requests.load)?;
        self.closed_loops(&cluster, replicas, &memory.words(count))?;
        self.share(&cluster, replicas, &memory.words(count))?;
        let small = Memory::quarter_of(count);
        let cluster = cluster.restart(small)?;
        cluster.catch_up()?;
        self.closed_loops(&cluster, replicas, &small.words(count))
    }

    fn closed_loops(&mut self, cluster: &Cluster, replicas: u8, table: &str) -> Result<()> {
        if self.options.wants(PUT) {
            let plan = put_plan(self.options, cluster, &self.requests.puts, None)?;
            let outcome = self.measured(cluster, &plan, (PUT, table, replicas), 1)?;
            self.answer_bytes = outcome.answer_bytes;
        }
        if self.options.wants(BATCH) {
            let plan = Plan {
                path: "/BatchWriteRow",
                requests: self.requests.batches.clone(),
                connections: BATCH_CONNECTIONS,
                check: batch_check(64),
                ..put_plan(self.options, cluster, &self.requests.puts, None)?
            };
            self.measured(cluster, &plan, (BATCH, table, replicas), BATCH_ROWS)?;
        }
        Ok(())
    }

    /// At a share of the rate that was reached first, by default with replicas.
    fn share(&mut self, cluster: &Cluster, replicas: u8, table: &str) -> Result<()> {
        let Some(first) = self.options.replicas.first() else { return Ok(()) };
        let Some(full) = self.report.find(PUT, table, Some(*first)) else { return Ok(()) };
        let plan = put_plan(
            self.options,
            cluster,
            &self.requests.puts,
            Some(full.rows_per_second * SHARE),
        )?;
        self.measured(cluster, &plan, (PUT_SHARE, table, replicas), 1)?;
        Ok(())
    }

    fn measured(
        &mut self,
        cluster: &Cluster,
        plan: &Plan,
        (what, table, replicas): (&str, &str, u8),
        rows: usize,
    ) -> Result<Outcome> {
        let outcome = run_load(plan)?;
        let mut line = Line::of(what, table, Some(replicas), &outcome, rows);
        if replicas > 0 {
            line.behind = cluster.behind()?;
        }
        let drained = cluster.catch_up()?;
        if replicas > 0 && drained > Duration::from_secs(1) {
            self.report.note(format!(
                "{what}, {table}: replicas had everything {:.1} s after the last write",
                drained.as_secs_f64()
            ));
        }
        self.report.note_errors(what, &outcome);
        self.report.line(line);
        Ok(outcome)
    }

    /// The engine alone, committing as many writes at once as the product did.
    fn raw(&mut self) -> Result<()> {
        let count = self.rows.count;
        let mut raw = Raw::fill(&self.place, self.rows, Memory::holding(count))?;
        for (number, memory) in
            [Memory::holding(count), Memory::quarter_of(count)].into_iter().enumerate()
        {
            if number > 0 {
                raw = raw.reopen(&self.place, memory)?;
            }
            let table = memory.words(count);
            for (floor, measured, writers, rows) in [
                (RAW_PUT, PUT, PUT_CONNECTIONS, 1),
                (RAW_BATCH, BATCH, BATCH_CONNECTIONS, BATCH_ROWS),
            ] {
                let group_max = self.group_max(measured, &table, writers, rows);
                let Some(group_max) = group_max else { continue };
                let writing = Writing { writers, rows_per_write: rows, group_max };
                let reached = raw.write(writing, self.options.warm_up(), self.options.measure())?;
                self.report.line(Line::of_raw(floor, &table, &reached));
            }
        }
        Ok(())
    }

    /// Writes per commit as seen, by default without replicas, or else all that wait; `None` if
    /// nothing was measured.
    fn group_max(
        &mut self,
        measured: &str,
        table: &str,
        writers: usize,
        rows: usize,
    ) -> Option<f64> {
        let seen = |replicas: &u8| self.report.find(measured, table, Some(*replicas));
        let line = self.options.replicas.iter().rev().find_map(seen)?;
        let Some(rows_per_sync) = line.rows_per_sync else {
            self.report.note(
                "syncs could not be counted (needs the system's perf and the right to use it): \
                 the raw engine groups whatever waits",
            );
            return Some(writers as f64);
        };
        Some((rows_per_sync / rows as f64).clamp(1.0, writers as f64))
    }

    /// The HTTP stack under the load of PutRow.
    fn echo(&mut self) -> Result<()> {
        if !self.options.wants(PUT) {
            return Ok(());
        }
        for (what, bare) in [(ECHO, false), (BARE, true)] {
            let echo = Echo::start(self.answer_bytes.round() as usize, bare)?;
            let plan = Plan {
                target: echo.target(),
                path: "/PutRow",
                requests: self.requests.puts.clone(),
                connections: PUT_CONNECTIONS,
                check: Check::length(1),
                warm_up: self.options.warm_up(),
                measure: self.options.measure(),
                pace: None,
                processes: vec![echo.pid()],
            };
            let outcome = run_load(&plan)?;
            self.report.note_errors(what, &outcome);
            self.report.line(Line::of(what, "", None, &outcome, 1));
        }
        Ok(())
    }

    fn ratios(&mut self) {
        let count = self.rows.count;
        for memory in [Memory::holding(count), Memory::quarter_of(count)] {
            let table = memory.words(count);
            for replicas in self.options.replicas.iter().rev().copied() {
                let floors = [(RAW_PUT, table.as_str()), (ECHO, "")];
                self.report.ratio_to_lower((PUT, &table, replicas), &floors, 0.6);
                let floors = [(RAW_BATCH, table.as_str())];
                self.report.ratio_to_lower((BATCH, &table, replicas), &floors, 0.5);
            }
        }
        self.cost_of_links(&Memory::holding(count).words(count));
        self.report.note(
            "floors: the raw engine writes one row key and one log key of 1 KiB per row, with \
             the product's grouping and sync; the HTTP stack's bodies are as long as PutRow's",
        );
        self.report.note("the system's file cache is not limited: \"4 x cache\" reads from it");
        self.report.note(
            "with replicas all three regions share the cores: rates fall by what the others use",
        );
    }

    /// What two links cost the origin.
    fn cost_of_links(&mut self, table: &str) {
        let find = |replicas| self.report.find(PUT_SHARE, table, Some(replicas)).cloned();
        let (Some(with), Some(without)) = (find(2), find(0)) else { return };
        let pairs = [
            (
                "origin's CPU per row",
                with.cpu_us_per_row,
                without.cpu_us_per_row,
                "us",
                "at most 1.3",
            ),
            (
                "origin's syncs per row",
                with.rows_per_sync.map(f64::recip),
                without.rows_per_sync.map(f64::recip),
                "syncs",
                "1.0",
            ),
        ];
        for (what, of, to, unit, aim) in pairs {
            let (Some(of), Some(to)) = (of, to) else {
                self.report.note(format!("{what} at 30 %: not measured"));
                continue;
            };
            self.report.ratio(Ratio {
                what: format!("{what} at 30 %, two links"),
                value: of / to,
                of,
                to,
                floor: "the same without links".to_owned(),
                unit,
                aim: Some(aim.to_owned()),
            });
        }
    }
}
