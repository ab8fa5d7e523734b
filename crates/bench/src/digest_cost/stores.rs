//! Two stores in this process, one with digests and one without, and nothing around them.
//!
//! Each has an engine of its own on disk, a thread that commits and one that does a node's upkeep:
//! trimming the log, splitting leaves, checkpoints. Writers are tasks that check a change, hand
//! it over and wait until it is durable, as a server's do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use isthmus_model::change::RowChange;
use isthmus_model::check::{CheckedChange, check_change};
use isthmus_model::clock::{Clock, SystemClock};
use isthmus_model::ids::{Epoch, Origin, PartitionId, SchemaNumber, TableId};
use isthmus_model::key::KeyKind;
use isthmus_model::schema::{KeyColumn, Schema, TableOptions};
use isthmus_store::engine::rocks::{RocksEngine, RocksOptions};
use isthmus_store::{Store, StoreOptions, Table, TableSpec, Writers, Writing};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;

use super::{DigestCost, Round, Side, Sizes, Writes, rest};
use crate::cluster::{Memory, Place};
use crate::error::{BenchError, Result, Tried};
use crate::process::{cpu_of, cpu_of_all, cpu_of_threads, share_of_others};
use crate::rows::{BATCH_ROWS, KEY, RowSet, TABLE};

/// Different contents that rows are given.
const CONTENTS: usize = 2000;
/// Upkeep looks again after this.
const UPKEEP_EVERY: Duration = Duration::from_millis(100);

/// A store that runs.
struct Running {
    store: Arc<Store>,
    table: Arc<Table>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    /// New rows so far.
    new_rows: AtomicU64,
}

/// What writers write.
struct Work {
    table: Arc<Table>,
    schema: Arc<Schema>,
    rows: RowSet,
    writes: Writes,
    contents: Vec<RowChange>,
    new_rows: AtomicU64,
    /// Rows that are still to be written.
    left: AtomicU64,
    stop: AtomicBool,
    /// Rows that are durable.
    done: AtomicU64,
}

pub(super) fn measure(sizes: &Sizes<'_>, place: &Place, found: &mut DigestCost) -> Result<()> {
    let mut running = Vec::new();
    for side in sizes.sides() {
        let started = Running::start(place, side, sizes.memory)?;
        started.fill(sizes.rows)?;
        running.push((side, started));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("writer")
        .build()
        .tried(|| "start a runtime".to_owned())?;
    sizes.measure(found, |side, writes, warm_up, measure| {
        let known = running.iter().find(|(known, _)| *known == side);
        let (_, one) = known.ok_or_else(|| BenchError::failed("no such side"))?;
        rest(&[std::process::id()])?;
        match sizes.args.count {
            None => runtime.block_on(one.round(sizes.rows, writes, warm_up, measure)),
            Some(count) => runtime.block_on(one.counted_round(sizes.rows, writes, count)),
        }
    })?;
    runtime.shutdown_timeout(Duration::from_secs(5));
    running.into_iter().try_for_each(|(_, one)| one.close())
}

fn spec() -> TableSpec {
    let key = KeyColumn { name: KEY.into(), kind: KeyKind::String, auto_increment: false };
    TableSpec {
        id: TableId(7),
        name: TABLE.into(),
        partition: PartitionId(7),
        schema: Schema {
            number: SchemaNumber(1),
            key_columns: vec![key],
            defined_columns: Vec::new(),
            options: TableOptions::default(),
        },
        created_millis: 0,
        epoch: Epoch(1),
        base: Origin(1),
        writing: Writing::Accept,
        writers: Writers::One,
        writer: Origin(1),
        handed_over: None,
        settled: Default::default(),
    }
}

impl Running {
    fn start(place: &Place, side: Side, memory: Memory) -> Result<Running> {
        let directory = place.store(side.name());
        let _ = std::fs::remove_dir_all(&directory);
        let options =
            RocksOptions { memory_bytes: memory.total() as usize, ..RocksOptions::default() };
        let engine = Arc::new(RocksEngine::open(&directory, &options)?);
        let mut options = StoreOptions::new(Origin(1));
        // As a node sets it.
        options.log_compression = false;
        options.digests = side == Side::On;
        let store = Store::open(engine, Arc::new(SystemClock), options)?;
        let made = store.create_table(spec());
        let committer = {
            let store = store.clone();
            named("committer", move || store.run_committer())?
        };
        let table = made.wait()?;
        let stop = Arc::new(AtomicBool::new(false));
        let upkeep = {
            let (store, table, stop) = (store.clone(), table.clone(), stop.clone());
            named("upkeep", move || keep_up(&store, &table, &stop))?
        };
        let threads = vec![committer, upkeep];
        Ok(Running { store, table, stop, threads, new_rows: AtomicU64::new(0) })
    }

    fn fill(&self, rows: RowSet) -> Result<()> {
        let mut random = SmallRng::seed_from_u64(11);
        let schema = self.table.schema();
        let numbers: Vec<u64> = (0..rows.count).collect();
        let mut pending = std::collections::VecDeque::new();
        for chunk in numbers.chunks(BATCH_ROWS) {
            let changes = chunk.iter().map(|number| rows.change(*number, &mut random));
            let checked: std::result::Result<Vec<CheckedChange>, _> =
                changes.map(|change| check_change(&schema, change, now())).collect();
            let checked = checked.map_err(|error| BenchError::failed(error.to_string()))?;
            pending.push_back(self.table.write(checked, false));
            if pending.len() > super::BATCHERS
                && let Some(oldest) = pending.pop_front()
            {
                oldest.wait()?;
            }
        }
        pending.into_iter().try_for_each(|one| one.wait().map(|_| ()))?;
        Ok(())
    }

    fn work(&self, rows: RowSet, writes: Writes, count: Option<u64>) -> Arc<Work> {
        let mut random = SmallRng::seed_from_u64(12);
        let contents = (0..CONTENTS as u64).map(|n| rows.change(n, &mut random)).collect();
        Arc::new(Work {
            table: self.table.clone(),
            schema: self.table.schema(),
            rows,
            writes,
            contents,
            new_rows: AtomicU64::new(self.new_rows.load(Ordering::Relaxed)),
            left: AtomicU64::new(count.unwrap_or(u64::MAX)),
            stop: AtomicBool::new(false),
            done: AtomicU64::new(0),
        })
    }

    async fn finish(&self, work: &Work, mut writers: JoinSet<Result<()>>) -> Result<()> {
        while let Some(joined) = writers.join_next().await {
            joined.map_err(|error| BenchError::failed(error.to_string()))??;
        }
        self.new_rows.store(work.new_rows.load(Ordering::Relaxed), Ordering::Relaxed);
        Ok(())
    }

    /// So many rows, and what they leave to do.
    async fn counted_round(&self, rows: RowSet, writes: Writes, count: u64) -> Result<Round> {
        let work = self.work(rows, writes, Some(count));
        let (cpu, threads, start) = (cpu_of(std::process::id())?, cpu_of_threads(), Instant::now());
        let writers = writers_of(&work);
        self.finish(&work, writers).await?;
        let elapsed = start.elapsed();
        rest(&[std::process::id()])?;
        let written = work.done.load(Ordering::Relaxed) as f64;
        let cpu = cpu_of(std::process::id())?.saturating_sub(cpu);
        for (name, after) in cpu_of_threads() {
            let before = threads.get(&name).copied().unwrap_or_default();
            let micros = after.saturating_sub(before).as_secs_f64() * 1e6 / written.max(1.0);
            eprintln!("    {micros:>8.3} us a row: {name}");
        }
        Ok(Round {
            rows_per_second: written / elapsed.as_secs_f64().max(1e-9),
            cpu_us_per_row: cpu.as_secs_f64() * 1e6 / written.max(1.0),
            others: None,
        })
    }

    async fn round(
        &self,
        rows: RowSet,
        writes: Writes,
        warm_up: Duration,
        measure: Duration,
    ) -> Result<Round> {
        let work = self.work(rows, writes, None);
        let writers = writers_of(&work);
        tokio::time::sleep(warm_up).await;
        let (cpu, all) = (cpu_of(std::process::id())?, cpu_of_all());
        let (start, done) = (Instant::now(), work.done.load(Ordering::Relaxed));
        tokio::time::sleep(measure).await;
        let (elapsed, end) = (start.elapsed(), work.done.load(Ordering::Relaxed));
        let cpu = cpu_of(std::process::id())?.saturating_sub(cpu);
        let all = cpu_of_all().zip(all).map(|(after, before)| after.saturating_sub(before));
        work.stop.store(true, Ordering::Relaxed);
        self.finish(&work, writers).await?;
        let written = (end - done) as f64;
        Ok(Round {
            rows_per_second: written / elapsed.as_secs_f64().max(1e-9),
            cpu_us_per_row: cpu.as_secs_f64() * 1e6 / written.max(1.0),
            others: share_of_others(all, std::iter::once(cpu), elapsed),
        })
    }

    fn close(mut self) -> Result<()> {
        self.end();
        Ok(self.store.close()?)
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.store.stop();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// A thread that a profiler shows by name.
fn named(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(run).tried(|| format!("start the thread {name}"))
}

fn now() -> i64 {
    SystemClock.wall_millis()
}

/// What a node does beside: nobody needs the log here.
fn keep_up(store: &Store, table: &Table, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let end = table.durable_lsn();
        if end > table.log_start() {
            drop(table.trim_log(end));
        }
        while store.digest_step() && !stop.load(Ordering::Relaxed) {}
        std::thread::sleep(UPKEEP_EVERY);
    }
}

fn writers_of(work: &Arc<Work>) -> JoinSet<Result<()>> {
    let mut writers = JoinSet::new();
    for seed in 0..work.writes.writers() as u64 {
        writers.spawn(write(work.clone(), SmallRng::seed_from_u64(seed)));
    }
    writers
}

/// One writer, until it is to stop.
async fn write(work: Arc<Work>, mut random: SmallRng) -> Result<()> {
    let size = match work.writes {
        Writes::Single => 1,
        Writes::NewRows | Writes::Overwrites => BATCH_ROWS,
    };
    while !work.stop.load(Ordering::Relaxed) && work.takes(size as u64) {
        let checked: Result<Vec<CheckedChange>> =
            (0..size).map(|_| work.next(&mut random)).collect();
        let results = work.table.write(checked?, false).await?;
        for result in results {
            result?;
        }
        work.done.fetch_add(size as u64, Ordering::Relaxed);
    }
    Ok(())
}

impl Work {
    /// Takes some rows of those that are left to be written.
    fn takes(&self, rows: u64) -> bool {
        let less = |left: u64| left.checked_sub(rows);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    fn next(&self, random: &mut SmallRng) -> Result<CheckedChange> {
        let number = match self.writes {
            Writes::Single | Writes::Overwrites => random.random_range(0..self.rows.count),
            Writes::NewRows => self.rows.new_number(self.new_rows.fetch_add(1, Ordering::Relaxed)),
        };
        let content = &self.contents[random.random_range(0..CONTENTS)];
        let change = RowChange { key: RowSet::key_parts(number), ..content.clone() };
        check_change(&self.schema, change, now())
            .map_err(|error| BenchError::failed(error.to_string()))
    }
}
