//! `replicate`: how fast a replica gets what it lacks, and what that takes.
//!
//! A replica that was away while rows were loaded catches up, beside the same load into a region
//! alone. A table with rows is copied while the origin is written. Bytes on the way are held
//! against names, values and timestamps. With a delay all that is shipped goes through proxies,
//! with and without it. Every region and the load generator share this machine.

mod copy;
mod delayed;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use crate::cluster::{Cluster, Memory, Place, set_number};
use crate::error::{BenchError, Result};
use crate::flights::{Flights, installed, key_columns};
use crate::load::{Prepared, send_all};
use crate::report::{Ratio, Report, table};
use crate::rows::{BATCH_ROWS, RowSet, Shape};
use crate::write::batch_check;
use crate::{Around, Options};

/// Rows made ready in memory at once.
const LOAD_ROWS: u64 = 200_000;
/// Connections that load.
const LOADERS: usize = 4;
/// How long a replica may take, and one second more for so many rows.
const PATIENCE: Duration = Duration::from_secs(180);
const ROWS_MIN: u64 = 2_000;
/// The budget of the log: all of it is to be kept for the replica that is away.
const KEEP_MIB: i64 = 1 << 20;
const MIB: f64 = 1024.0 * 1024.0;

/// Arguments of `replicate`.
#[derive(Args, Debug)]
pub(crate) struct ReplicateArgs {
    /// Rows of the table, 1 KiB each
    #[arg(long, value_name = "N", default_value_t = 1_000_000,
        value_parser = clap::value_parser!(u64).range(2_000..=100_000_000))]
    rows: u64,
    /// Rows of the flights table
    #[arg(long, value_name = "N", default_value_t = 336_776,
        value_parser = clap::value_parser!(u64).range(200..=336_776))]
    flights_rows: u64,
    /// The file of the flights table [default: what the end-to-end tests install]
    #[arg(long, value_name = "FILE")]
    flights: Option<PathBuf>,
    /// Milliseconds that each byte between regions takes, one way: measures with and without
    #[arg(long, value_name = "MS", default_value_t = 0,
        value_parser = clap::value_parser!(u64).range(0..=1_000))]
    delay_ms: u64,
    /// Only these: catch-up, flights, copy, delay
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    only: Vec<String>,
    /// Seconds of each measurement of writes, after a warm-up
    #[arg(long, value_name = "SECONDS", default_value_t = 8,
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    #[command(flatten)]
    pub(crate) around: Around,
}

impl ReplicateArgs {
    /// What other measurements are told.
    fn options(&self) -> Options {
        Options { only: self.only.clone(), ..self.around.options(self.seconds, self.rows, 1) }
    }

    fn patience(&self) -> Duration {
        PATIENCE + Duration::from_secs(self.rows / ROWS_MIN)
    }
}

/// What `replicate` found.
#[derive(Debug, Default, Serialize)]
pub(crate) struct ReplicateFound {
    moved: Vec<Moved>,
    delayed: Vec<delayed::Level>,
}

/// Rows that were brought to a region.
#[derive(Clone, Debug, Serialize)]
struct Moved {
    what: String,
    rows: u64,
    seconds: f64,
    /// Names, values and timestamps.
    logical_bytes: u64,
    /// Shipped, before compression; 0: nothing was.
    bytes_before: u64,
    /// The same on the way.
    bytes_after: u64,
}

impl Moved {
    fn rows_per_second(&self) -> f64 {
        self.rows as f64 / self.seconds.max(1e-9)
    }

    fn cells(&self) -> Vec<String> {
        let share = |bytes: u64| match self.bytes_after {
            0 => "-".to_owned(),
            _ => format!("{:.3}", bytes as f64 / self.logical_bytes as f64),
        };
        vec![
            self.what.clone(),
            self.rows.to_string(),
            format!("{:.2}", self.seconds),
            format!("{:.0}", self.rows_per_second()),
            format!("{:.1}", self.logical_bytes as f64 / MIB / self.seconds.max(1e-9)),
            share(self.bytes_before),
            share(self.bytes_after),
        ]
    }
}

const HEADINGS: [&str; 7] =
    ["MOVED", "ROWS", "SECONDS", "ROWS/S", "MIB/S", "LOG/LOGICAL", "WIRE/LOGICAL"];

impl ReplicateFound {
    /// As tables.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        if !self.moved.is_empty() {
            text += &table(&HEADINGS, &self.moved.iter().map(Moved::cells).collect::<Vec<_>>());
        }
        if !self.delayed.is_empty() {
            text += "\n";
            text += &delayed::text(&self.delayed);
        }
        text
    }
}

/// Batches, made ready some at a time, and what they weigh.
enum Load {
    Rows(RowSet),
    Flights(Flights),
}

impl Load {
    fn rows(&self) -> u64 {
        match self {
            Load::Rows(rows) => rows.count,
            Load::Flights(flights) => flights.rows,
        }
    }

    fn logical_bytes(&self) -> u64 {
        match self {
            Load::Rows(rows) => {
                rows.count * (rows.shape.row_bytes() + 8 * columns(rows.shape)) as u64
            }
            Load::Flights(flights) => flights.logical_bytes,
        }
    }

    fn create(&self, cluster: &Cluster) -> Result<()> {
        match self {
            Load::Rows(_) => cluster.create_lone_table(),
            Load::Flights(_) => cluster.create_lone_table_of(key_columns()),
        }
    }

    /// Sends all rows to the first region; gives how long it took to answer.
    fn send(&self, cluster: &Cluster) -> Result<Duration> {
        let target = cluster.target(0)?;
        let mut spent = Duration::ZERO;
        let mut send = |batches: Vec<Prepared>| {
            let start = Instant::now();
            send_all(&target, "/BatchWriteRow", batches, LOADERS, batch_check(64))?;
            spent += start.elapsed();
            Ok::<(), BenchError>(())
        };
        match self {
            Load::Flights(flights) => send(flights.batches.clone())?,
            Load::Rows(rows) => {
                for first in (0..rows.count).step_by(LOAD_ROWS as usize) {
                    let numbers: Vec<u64> = (first..rows.count.min(first + LOAD_ROWS)).collect();
                    send(rows.batches_of(&numbers, BATCH_ROWS, first + 11))?;
                }
            }
        }
        Ok(spent)
    }

    fn moved(&self, what: &str, seconds: f64, (before, after): (u64, u64)) -> Moved {
        Moved {
            what: what.to_owned(),
            rows: self.rows(),
            seconds,
            logical_bytes: self.logical_bytes(),
            bytes_before: before,
            bytes_after: after,
        }
    }
}

fn columns(shape: Shape) -> usize {
    match shape {
        Shape::Large => 10,
        Shape::Small => 3,
    }
}

struct Run<'a> {
    args: &'a ReplicateArgs,
    options: Options,
    place: Place,
    report: Report,
    found: ReplicateFound,
}

/// Measures replication.
pub(crate) fn run(args: &ReplicateArgs) -> Result<Report> {
    let options = args.options();
    let rows = RowSet::large(args.rows);
    let mut run = Run {
        args,
        place: Place::take(&options)?,
        report: Report::of("isthmus-bench replicate", &options, rows),
        options,
        found: ReplicateFound::default(),
    };
    if run.options.wants("catch-up") {
        run.catch_up("1 KiB rows", &Load::Rows(rows))?;
    }
    if run.options.wants("flights") {
        match args.flights.clone().or_else(installed) {
            Some(file) => {
                let flights = Load::Flights(Flights::read(&file, args.flights_rows)?);
                run.catch_up("flights", &flights)?;
            }
            None => run.report.note("flights: not measured, the file is not installed"),
        }
    }
    if run.options.wants("copy") {
        copy::measure(&mut run, rows)?;
    }
    if run.options.wants("delay") && args.delay_ms > 0 {
        delayed::measure(&mut run, rows)?;
    }
    run.report.note("all regions and the load generator share the cores of this machine");
    run.report.replicate(run.found);
    Ok(run.report)
}

impl Run<'_> {
    fn memory(&self) -> Memory {
        Memory::at_least(0)
    }

    /// So many regions that keep their logs, with something done to their files.
    fn cluster(
        &self,
        regions: u8,
        change: impl FnOnce(&[PathBuf]) -> Result<()>,
    ) -> Result<Cluster> {
        let cluster = Cluster::fresh(&self.options, &self.place, regions, self.memory())?;
        cluster.restart_after(self.memory(), |files| {
            for file in files {
                set_number(file, "log", "keep_mib", KEEP_MIB)?;
            }
            change(files)
        })
    }

    /// Loading a region alone, and a replica that gets the same rows afterwards.
    fn catch_up(&mut self, name: &str, load: &Load) -> Result<()> {
        let direct = {
            let cluster = self.cluster(1, |_| Ok(()))?;
            load.create(&cluster)?;
            let took = load.send(&cluster)?;
            load.moved(&format!("{name}, loaded directly"), took.as_secs_f64(), (0, 0))
        };
        self.add(&direct);
        let mut cluster = self.cluster(2, |_| Ok(()))?;
        load.create(&cluster)?;
        cluster.create_replicas(PATIENCE)?;
        cluster.catch_up()?;
        let moved = caught_up(&mut cluster, load, name, self.args.patience())?;
        self.add(&moved);
        self.report.ratio(Ratio {
            what: format!("catch-up, {name}"),
            value: moved.rows_per_second() / direct.rows_per_second(),
            of: moved.rows_per_second(),
            to: direct.rows_per_second(),
            floor: "the same rows loaded directly".to_owned(),
            unit: "rows/s",
            aim: Some("at least 0.8".to_owned()),
        });
        self.report.ratio(Ratio {
            what: format!("bytes on the way, {name}"),
            value: moved.bytes_after as f64 / moved.logical_bytes as f64,
            of: moved.bytes_after as f64,
            to: moved.logical_bytes as f64,
            floor: "names, values and timestamps".to_owned(),
            unit: "bytes",
            aim: (name == "flights").then(|| "at most 0.35".to_owned()),
        });
        Ok(())
    }

    fn add(&mut self, moved: &Moved) {
        eprintln!("{}: {:.0} rows/s", moved.what, moved.rows_per_second());
        self.found.moved.push(moved.clone());
    }
}

/// Loads while the second region is away, and takes the time from its first answer until it has
/// all.
fn caught_up(cluster: &mut Cluster, load: &Load, name: &str, limit: Duration) -> Result<Moved> {
    let before = cluster.link(1)?;
    cluster.stop_region(1)?;
    load.send(cluster)?;
    cluster.start_region(1)?;
    cluster.await_link(1, limit, |link| link.state == "following")?;
    let start = Instant::now();
    let after = cluster.await_link(1, limit, |link| link.lag_entries == 0)?;
    let shipped = (after.sent_bytes - before.sent_bytes, after.wire_bytes - before.wire_bytes);
    Ok(load.moved(&format!("{name}, caught up"), start.elapsed().as_secs_f64(), shipped))
}
