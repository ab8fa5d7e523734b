//! `verify`: comparing two regions by their digests while rows differ at random places.
//!
//! One region is loaded through BatchWriteRow, the other one copies the table and follows. For
//! each number of differing rows the second region is stopped and so many of its rows are changed
//! in its store, behind the log's back, as `isthmus debug plant` does; then the regions run again
//! and jobs of the administration API compare them: quiet, and while the first region takes 10 000
//! rows a second. Beside it both sides are read whole and compared by a client. Last, a smaller
//! table is repaired. A run whose answer is wrong says so.

mod jobs;
mod planting;
mod scan;

use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use crate::cluster::{Cluster, Memory, Place};
use crate::error::Result;
use crate::load::{Check, Outcome, Plan, Target, run as run_load, send_all};
use crate::report::{Report, table};
use crate::rows::RowSet;
use crate::verify::jobs::{Ended, Jobs};
use crate::verify::planting::Plants;
use crate::write::batch_check;
use crate::{Around, Options};

/// Rows loaded at once: what is made ready in memory.
const LOAD_ROWS: u64 = 400_000;
/// Rows a second while it is not quiet.
const WRITES_PER_SECOND: f64 = 10_000.0;
/// Rows of one of those writes.
const WRITE_ROWS: usize = 50;
const WRITE_CONNECTIONS: usize = 8;
/// Writes go on for this long, and longer the more rows differ.
const WRITES_FOR: Duration = Duration::from_secs(10);
/// Rows that a second of copying brings at least.
const COPY_ROWS_MIN: u64 = 10_000;
const KIB: f64 = 1024.0;
/// What moving may take of what differs.
const MOVED_MAX: f64 = 1.5;

/// Arguments of `verify`.
#[derive(Args, Debug)]
pub(crate) struct VerifyArgs {
    /// Rows of the table, 100 bytes each
    #[arg(long, value_name = "N", default_value_t = 10_000_000,
        value_parser = clap::value_parser!(u64).range(10_000..=1_000_000_000))]
    rows: u64,
    /// How many rows differ, one after the other, growing
    #[arg(long, value_name = "COUNTS", value_delimiter = ',',
        default_values_t = [0, 1, 1000, 100_000])]
    differing: Vec<u64>,
    /// Times that each comparison is made: the median counts
    #[arg(long, value_name = "N", default_value_t = 3,
        value_parser = clap::value_parser!(u64).range(1..=99))]
    rounds: u64,
    /// Rows of the table of which 1000 are repaired; 0 leaves that out
    #[arg(long, value_name = "N", default_value_t = 1_000_000,
        value_parser = clap::value_parser!(u64).range(0..=1_000_000_000))]
    repair_rows: u64,
    #[command(flatten)]
    pub(crate) around: Around,
}

impl VerifyArgs {
    /// What other measurements are told.
    fn options(&self) -> Options {
        // Each job takes as long as it takes.
        self.around.options(0, self.rows, 1)
    }
}

/// What `verify` found.
#[derive(Debug, Default, Serialize)]
pub(crate) struct VerifyFound {
    load_seconds: f64,
    copy_seconds: f64,
    compared: Vec<Compared>,
    scans: Vec<scan::Scanned>,
    repaired: Option<Repaired>,
    /// Answers that were not as they must be.
    problems: Vec<String>,
}

/// One number of differing rows, quiet or not.
#[derive(Debug, Serialize)]
struct Compared {
    differing: u64,
    /// Rows a second that were written meanwhile.
    writes_per_second: f64,
    /// What the job says.
    elapsed_ms: f64,
    /// From asking for the job until its end was seen.
    seen_ms: f64,
    seen_max_ms: f64,
    bytes_exchanged: u64,
    round_trips: u64,
    rows_read: u64,
    rows_found: u64,
    runs: usize,
}

/// A repair.
#[derive(Debug, Serialize)]
struct Repaired {
    rows: u64,
    differing: u64,
    elapsed_ms: f64,
    seen_ms: f64,
    bytes_moved: u64,
    bytes_exchanged: u64,
    differing_bytes: u64,
    alike_after: bool,
}

const HEADINGS: [&str; 11] = [
    "DIFFERING",
    "WRITES/S",
    "MS",
    "AIM MS",
    "SEEN MS",
    "MAX MS",
    "KIB",
    "AIM KIB",
    "ROUND TRIPS",
    "ROWS READ",
    "READ PER ROW",
];

/// Milliseconds and KiB that are aimed at.
fn aims(differing: u64) -> Option<(f64, f64)> {
    match differing {
        0 => Some((50.0, 1.0)),
        1000 => Some((1000.0, 128.0)),
        _ => None,
    }
}

impl Compared {
    fn cells(&self) -> Vec<String> {
        let aim = |number: Option<f64>| number.map_or("-".to_owned(), |aim| format!("{aim:.0}"));
        let aims = aims(self.differing);
        let per_row = self.rows_read as f64 / self.differing as f64;
        vec![
            self.differing.to_string(),
            format!("{:.0}", self.writes_per_second),
            format!("{:.1}", self.elapsed_ms),
            aim(aims.map(|aims| aims.0)),
            format!("{:.1}", self.seen_ms),
            format!("{:.1}", self.seen_max_ms),
            format!("{:.1}", self.bytes_exchanged as f64 / KIB),
            aim(aims.map(|aims| aims.1)),
            self.round_trips.to_string(),
            self.rows_read.to_string(),
            if self.differing == 0 { "-".to_owned() } else { format!("{per_row:.1}") },
        ]
    }
}

impl VerifyFound {
    /// As tables.
    pub(crate) fn text(&self) -> String {
        let mut text: String =
            self.problems.iter().map(|problem| format!("wrong: {problem}\n")).collect();
        text += &format!(
            "loaded in {:.0} s, copied to the second region in {:.0} s\n\n",
            self.load_seconds, self.copy_seconds
        );
        let rows: Vec<Vec<String>> = self.compared.iter().map(Compared::cells).collect();
        text += &table(&HEADINGS, &rows);
        let rows: Vec<Vec<String>> = self.scans.iter().map(scan::Scanned::cells).collect();
        text += &format!("\n{}", table(&scan::HEADINGS, &rows));
        if let Some(repaired) = &self.repaired {
            text += &repaired.text();
        }
        text
    }
}

impl Repaired {
    fn text(&self) -> String {
        format!(
            "\nrepair of {} of {} rows: {:.0} ms (aim 2000; seen {:.0} ms), {:.1} KiB moved for \
             {:.1} KiB of differing rows: {:.2} (aim {MOVED_MAX}), {:.1} KiB exchanged for \
             comparing, {}\n",
            self.differing,
            self.rows,
            self.elapsed_ms,
            self.seen_ms,
            self.bytes_moved as f64 / KIB,
            self.differing_bytes as f64 / KIB,
            self.bytes_moved as f64 / self.differing_bytes.max(1) as f64,
            self.bytes_exchanged as f64 / KIB,
            if self.alike_after { "alike afterwards" } else { "NOT alike afterwards" },
        )
    }
}

/// Two regions with the table.
struct Pair {
    rows: RowSet,
    cluster: Cluster,
    plants: Plants,
}

/// Measures comparing and repairing.
pub(crate) fn run(args: &VerifyArgs) -> Result<Report> {
    let options = args.options();
    let rows = RowSet::small(args.rows);
    let mut report = Report::of("isthmus-bench verify", &options, rows);
    let mut found = VerifyFound::default();
    {
        let place = Place::take(&options)?;
        let mut pair = Pair::load(&options, &place, rows, &mut found)?;
        for differing in &args.differing {
            pair = pair.plant(*differing)?;
            pair.compare(args, *differing, &mut found)?;
            found.scans.push(scan::scan(&pair.cluster, rows, *differing)?);
        }
    }
    if args.repair_rows > 0 {
        let place = Place::take(&options)?;
        let rows = RowSet::small(args.repair_rows);
        let mut ignored = VerifyFound::default();
        let pair = Pair::load(&options, &place, rows, &mut ignored)?;
        pair.repair(1000.min(args.repair_rows / 10), &mut found)?;
    }
    report.verify(found);
    Ok(report)
}

impl Pair {
    fn load(
        options: &Options,
        place: &Place,
        rows: RowSet,
        found: &mut VerifyFound,
    ) -> Result<Pair> {
        let memory = Memory::at_least(0);
        let cluster = Cluster::fresh(options, place, 2, memory)?;
        cluster.create_lone_table()?;
        let start = Instant::now();
        let target = cluster.target(0)?;
        for first in (0..rows.count).step_by(LOAD_ROWS as usize) {
            let numbers: Vec<u64> = (first..rows.count.min(first + LOAD_ROWS)).collect();
            let batches = rows.batches_of(&numbers, crate::rows::BATCH_ROWS, first);
            send_all(&target, "/BatchWriteRow", batches, 4, batch_check(1))?;
        }
        found.load_seconds = start.elapsed().as_secs_f64();
        eprintln!("{} rows loaded in {:.0} s", rows.count, found.load_seconds);
        let start = Instant::now();
        cluster.create_replicas(Duration::from_secs(180 + rows.count / COPY_ROWS_MIN))?;
        cluster.catch_up()?;
        found.copy_seconds = start.elapsed().as_secs_f64();
        eprintln!("copied to the second region in {:.0} s", found.copy_seconds);
        Ok(Pair { rows, cluster, plants: Plants::new(rows) })
    }

    /// Stops the regions, changes rows of the second one until so many differ, and starts them.
    fn plant(self, differing: u64) -> Result<Pair> {
        let Pair { rows, cluster, mut plants } = self;
        let cluster = cluster
            .restart_after(Memory::at_least(0), |files| plants.plant(&files[1], differing))?;
        cluster.catch_up()?;
        Ok(Pair { rows, cluster, plants })
    }

    fn compare(&self, args: &VerifyArgs, differing: u64, found: &mut VerifyFound) -> Result<()> {
        let mut quiet = Vec::new();
        for _ in 0..args.rounds {
            quiet.push(self.verify(differing, found)?);
        }
        found.compared.push(Compared::of(differing, 0.0, quiet));
        let plan = self.writes(differing)?;
        let (outcome, ended) = std::thread::scope(|scope| {
            let writing = scope.spawn(|| run_load(&plan));
            std::thread::sleep(plan.warm_up);
            let start = Instant::now();
            let mut ended = Vec::new();
            for number in 0..args.rounds {
                // One that begins late would end after the writes.
                if number > 0 && start.elapsed() > plan.measure / 2 {
                    break;
                }
                let one = self.verify(differing, found)?;
                if writing.is_finished() {
                    found.problems.push(format!("{differing} differ: writes ended first"));
                }
                ended.push(one);
            }
            let outcome = writing.join();
            let outcome = outcome.map_err(|_| crate::BenchError::failed("a writer panicked"))?;
            Ok::<(Outcome, Vec<Ended>), crate::BenchError>((outcome?, ended))
        })?;
        if let Some(error) = outcome.first_error {
            found.problems.push(format!("{} bad answers to writes: {error}", outcome.errors));
        }
        let rate = outcome.answers as f64 / outcome.elapsed.as_secs_f64() * WRITE_ROWS as f64;
        found.compared.push(Compared::of(differing, rate, ended));
        self.cluster.catch_up()?;
        Ok(())
    }

    fn verify(&self, differing: u64, found: &mut VerifyFound) -> Result<Ended> {
        let ended = Jobs::of(self.admin()?)?.verify()?;
        eprintln!(
            "{differing} differ: {} found in {:.1} ms, {} bytes, {} round trips, {} rows read",
            ended.report.rows_differing,
            ended.report.elapsed_ms,
            ended.report.bytes_exchanged,
            ended.report.round_trips,
            ended.report.rows_read
        );
        if let Some(problem) = ended.report.problem(differing) {
            found.problems.push(problem);
        }
        Ok(ended)
    }

    fn admin(&self) -> Result<Target> {
        self.cluster.admin()
    }

    /// Overwrites of rows that do not differ.
    fn writes(&self, differing: u64) -> Result<Plan> {
        let numbers = self.plants.untouched(20_000);
        let requests = self.rows.batches_of(&numbers, WRITE_ROWS, 5);
        Ok(Plan {
            target: self.cluster.target(0)?,
            path: "/BatchWriteRow",
            requests: std::sync::Arc::new(requests),
            connections: WRITE_CONNECTIONS,
            check: Check::length(1),
            warm_up: Duration::from_millis(1500),
            measure: WRITES_FOR + Duration::from_millis(differing),
            pace: Some(WRITES_PER_SECOND / WRITE_ROWS as f64),
            processes: self.cluster.pids(),
        })
    }

    fn repair(self, differing: u64, found: &mut VerifyFound) -> Result<()> {
        let pair = self.plant(differing)?;
        let jobs = Jobs::of(pair.admin()?)?;
        let ended = jobs.repair()?;
        let after = jobs.verify()?;
        let alike = after.report.problem(0).is_none();
        if let Some(problem) = after.report.problem(0) {
            found.problems.push(format!("after the repair: {problem}"));
        }
        found.repaired = Some(Repaired {
            rows: pair.rows.count,
            differing,
            elapsed_ms: ended.report.elapsed_ms,
            seen_ms: ended.seen_ms(),
            bytes_moved: ended.report.bytes_moved,
            bytes_exchanged: ended.report.bytes_exchanged,
            differing_bytes: differing * pair.rows.stored_bytes() as u64,
            alike_after: alike,
        });
        Ok(())
    }
}

impl Compared {
    /// The median of some runs, by what was seen.
    fn of(differing: u64, writes_per_second: f64, mut ended: Vec<Ended>) -> Compared {
        ended.sort_by_key(|one| one.seen);
        let runs = ended.len();
        let seen_max_ms = ended.last().map_or(f64::NAN, Ended::seen_ms);
        let median = ended.into_iter().nth(runs.saturating_sub(1) / 2).unwrap_or_default();
        Compared {
            differing,
            writes_per_second,
            elapsed_ms: median.report.elapsed_ms,
            seen_ms: median.seen_ms(),
            seen_max_ms,
            bytes_exchanged: median.report.bytes_exchanged,
            round_trips: median.report.round_trips,
            rows_read: median.report.rows_read,
            rows_found: median.report.rows_differing,
            runs,
        }
    }
}
