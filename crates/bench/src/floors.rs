//! The floor of the engine: the same rows in the same engine, without anything around it.
//!
//! A written row is one row key and one log key of 1 KiB each in one synced batch. Writers wait
//! for their batch as the product's do, and a committer takes what waits, no more at once than
//! the product was seen to take. The log is trimmed as the product trims it. Reads are those the
//! product makes: one get per row, one snapshot per range, on as many threads as there are cores.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use isthmus_model::change::Direction;
use isthmus_model::ids::Lsn;
use isthmus_store::engine::rocks::{RocksEngine, RocksOptions};
use isthmus_store::engine::{Batch, Engine, EngineError, Space};
use isthmus_store::keys::{self, LogOf};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::oneshot;

use crate::cluster::{Memory, Place};
use crate::error::{BenchError, Result, Tried};
use crate::load::{Times, micros};
use crate::process::{cpu_of, cpu_of_all, share_of_others};
use crate::rows::{PARTITION, RANGE_ROWS, ROW_BYTES, RowSet, engine_key};

/// Rows of one batch while the table is filled.
const FILL_ROWS: usize = 1000;
/// Log records that are kept; the product keeps those that some region may still ask for.
const LOG_KEPT: u64 = 4096;
/// The engine is told to forget records in steps of this many.
const FORGET_STEP: u64 = 1024;

/// The engine with the table's rows in it.
pub(crate) struct Raw {
    engine: RocksEngine,
    rows: RowSet,
    packed: Vec<(Bytes, Bytes)>,
    lsn: AtomicU64,
}

/// Who writes, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Writing {
    /// Writers that wait for their own write.
    pub(crate) writers: usize,
    /// Rows of one write.
    pub(crate) rows_per_write: usize,
    /// Writes that are committed at once, at most, in the mean.
    pub(crate) group_max: f64,
}

/// What was reached.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reached {
    /// Rows per second; of ranges, all their rows.
    pub(crate) rows_per_second: f64,
    /// Rows per commit, of writes.
    pub(crate) rows_per_commit: Option<f64>,
    /// Time of one write or read.
    pub(crate) times: Times,
    /// Processor time per row.
    pub(crate) cpu_per_row: Duration,
    /// What other processes used of all cores, from 0 to 1.
    pub(crate) others: Option<f64>,
}

impl Raw {
    /// An engine of its own, filled with the rows.
    pub(crate) fn fill(place: &Place, rows: RowSet, memory: Memory) -> Result<Raw> {
        let _ = std::fs::remove_dir_all(place.engine());
        let raw = Raw {
            engine: open(place, memory)?,
            rows,
            packed: rows.packed(1),
            lsn: AtomicU64::new(1),
        };
        for chunk in raw.packed.chunks(FILL_ROWS) {
            let mut batch = Batch::default();
            for (key, value) in chunk {
                batch.put(Space::Rows, key.clone(), value.clone());
            }
            raw.engine.commit(batch)?;
        }
        Ok(raw)
    }

    /// The same rows with another size of memory; what was in memory is on disk then.
    pub(crate) fn reopen(self, place: &Place, memory: Memory) -> Result<Raw> {
        self.engine.close()?;
        let Raw { engine, rows, packed, lsn } = self;
        drop(engine);
        Ok(Raw { engine: open(place, memory)?, rows, packed, lsn })
    }

    /// Overwrites rows by chance.
    pub(crate) fn write(
        &self,
        writing: Writing,
        warm_up: Duration,
        measure: Duration,
    ) -> Result<Reached> {
        let queue = Queue::default();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .tried(|| "start a runtime".to_owned())?;
        let shared = Arc::new(Shared { queue, measuring: AtomicBool::new(false) });
        let reached = std::thread::scope(|scope| {
            let committer = scope.spawn(|| self.commit_groups(&shared, writing.group_max));
            let reached = runtime.block_on(self.run_writers(&shared, writing, warm_up, measure));
            shared.queue.stop();
            let committed = committer.join();
            let committed = committed.map_err(|_| BenchError::failed("the committer panicked"))?;
            let (commits, rows) = committed?;
            let mut reached = reached?;
            reached.rows_per_commit = Some(rows as f64 / (commits as f64).max(1.0));
            Ok::<Reached, BenchError>(reached)
        });
        runtime.shutdown_timeout(Duration::from_secs(5));
        reached
    }

    async fn run_writers(
        &self,
        shared: &Arc<Shared>,
        writing: Writing,
        warm_up: Duration,
        measure: Duration,
    ) -> Result<Reached> {
        let mut writers = tokio::task::JoinSet::new();
        for seed in 0..writing.writers {
            let random = SmallRng::seed_from_u64(seed as u64);
            let count = self.rows.count;
            writers.spawn(keep_writing(shared.clone(), random, count, writing.rows_per_write));
        }
        tokio::time::sleep(warm_up).await;
        let span = Span::start()?;
        shared.measuring.store(true, Ordering::Relaxed);
        tokio::time::sleep(measure).await;
        shared.measuring.store(false, Ordering::Relaxed);
        let span = span.end()?;
        shared.queue.stop();
        let mut times = Vec::new();
        while let Some(joined) = writers.join_next().await {
            times.extend(joined.map_err(|error| BenchError::failed(error.to_string()))?);
        }
        Ok(reached(times, writing.rows_per_write, span))
    }

    /// Commits what waits until it is told to stop. Gives how many commits and rows there were.
    fn commit_groups(&self, shared: &Shared, group_max: f64) -> Result<(u64, u64)> {
        let (mut commits, mut rows) = (0, 0);
        let mut forgotten = 0;
        let mut due = group_max;
        while let Some(group) = shared.queue.take(due as usize) {
            // A group that had to be smaller than its most lets the next be no larger for it.
            due = due - (due as usize).min(group.len()) as f64 + group_max;
            due = due.min(group_max + 1.0);
            let mut batch = Batch::default();
            let mut dones = Vec::with_capacity(group.len());
            for job in group {
                for number in job.numbers {
                    let Some((key, value)) = self.packed.get(number as usize) else { continue };
                    let lsn = self.lsn.fetch_add(1, Ordering::Relaxed);
                    batch.put(Space::Rows, key.clone(), value.clone());
                    let log_key = keys::log::encode_key(PARTITION, Lsn(lsn));
                    batch.put(Space::Log, log_key, value.clone());
                    rows += 1;
                }
                dones.push(job.done);
            }
            if let Err(error) = self.engine.commit(batch) {
                shared.queue.stop();
                return Err(error.into());
            }
            commits += 1;
            for done in dones {
                let _ = done.send(());
            }
            let through = self.lsn.load(Ordering::Relaxed).saturating_sub(LOG_KEPT);
            if through >= forgotten + FORGET_STEP {
                self.engine.forget_log(LogOf::Changes(PARTITION), through)?;
                forgotten = through;
            }
        }
        Ok((commits, rows))
    }

    /// Gets rows by chance.
    pub(crate) fn get(&self, warm_up: Duration, measure: Duration) -> Result<Reached> {
        self.read(1, warm_up, measure, |random| {
            let key = engine_key(random.random_range(0..self.rows.count));
            match self.engine.get(Space::Rows, &key)? {
                Some(row) if row.len() >= ROW_BYTES / 2 => Ok(()),
                Some(_) | None => Err(missing()),
            }
        })
    }

    /// Scans ranges from places by chance.
    pub(crate) fn scan(&self, warm_up: Duration, measure: Duration) -> Result<Reached> {
        let starts = self.rows.count.saturating_sub(u64::from(RANGE_ROWS)).max(1);
        self.read(RANGE_ROWS as usize, warm_up, measure, |random| {
            let start = engine_key(random.random_range(0..starts));
            let snapshot = self.engine.snapshot()?;
            let mut bytes = 0;
            let scan = snapshot.scan(Space::Rows, &start, None, Direction::Forward);
            for row in scan.take(RANGE_ROWS as usize) {
                bytes += row?.1.len();
            }
            let enough = RANGE_ROWS as usize * ROW_BYTES / 2;
            if bytes >= enough { Ok(()) } else { Err(missing()) }
        })
    }

    fn read(
        &self,
        rows_per_read: usize,
        warm_up: Duration,
        measure: Duration,
        read_one: impl Fn(&mut SmallRng) -> Result<()> + Sync,
    ) -> Result<Reached> {
        let (measuring, stopped) = (AtomicBool::new(false), AtomicBool::new(false));
        let keep_reading = |seed: u64| {
            let mut random = SmallRng::seed_from_u64(seed);
            let mut times = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let start = Instant::now();
                read_one(&mut random)?;
                if measuring.load(Ordering::Relaxed) {
                    times.push(micros(start.elapsed()));
                }
            }
            Ok::<Vec<u32>, BenchError>(times)
        };
        std::thread::scope(|scope| {
            let keep_reading = &keep_reading;
            let readers: Vec<_> =
                (0..cores()).map(|seed| scope.spawn(move || keep_reading(seed as u64))).collect();
            std::thread::sleep(warm_up);
            let span = Span::start();
            measuring.store(true, Ordering::Relaxed);
            std::thread::sleep(measure);
            stopped.store(true, Ordering::Relaxed);
            let span = span.and_then(Span::end)?;
            let mut times = Vec::new();
            for reader in readers {
                let read = reader.join().map_err(|_| BenchError::failed("a reader panicked"))?;
                times.extend(read?);
            }
            Ok(reached(times, rows_per_read, span))
        })
    }
}

/// Threads that read at once, of the machine's cores.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn missing() -> BenchError {
    BenchError::failed("the raw engine lost a row")
}

fn open(place: &Place, memory: Memory) -> std::result::Result<RocksEngine, EngineError> {
    let options = RocksOptions { memory_bytes: memory.total() as usize, ..RocksOptions::default() };
    RocksEngine::open(&place.engine(), &options)
}

/// The time that counts.
#[derive(Clone, Copy, Debug)]
struct Span {
    start: Instant,
    cpu: Duration,
    all: Option<Duration>,
}

/// What was used in it.
#[derive(Clone, Copy, Debug)]
struct Used {
    elapsed: Duration,
    cpu: Duration,
    others: Option<f64>,
}

impl Span {
    fn start() -> Result<Span> {
        let (cpu, all) = (cpu_of(std::process::id())?, cpu_of_all());
        Ok(Span { start: Instant::now(), cpu, all })
    }

    fn end(self) -> Result<Used> {
        let elapsed = self.start.elapsed();
        let cpu = cpu_of(std::process::id())?.saturating_sub(self.cpu);
        let all = cpu_of_all().zip(self.all).map(|(after, before)| after.saturating_sub(before));
        Ok(Used { elapsed, cpu, others: share_of_others(all, [cpu].into_iter(), elapsed) })
    }
}

fn reached(times: Vec<u32>, rows_per_act: usize, used: Used) -> Reached {
    let rows = (times.len() * rows_per_act) as f64;
    Reached {
        rows_per_second: rows / used.elapsed.as_secs_f64().max(1e-9),
        rows_per_commit: None,
        times: Times::new(times),
        cpu_per_row: used.cpu.div_f64(rows.max(1.0)),
        others: used.others,
    }
}

struct Shared {
    queue: Queue,
    measuring: AtomicBool,
}

/// One write that waits.
struct Job {
    numbers: Vec<u64>,
    done: oneshot::Sender<()>,
}

/// Writes that wait for the committer; as many as there are writers at most.
#[derive(Default)]
struct Queue {
    jobs: Mutex<VecDeque<Job>>,
    wake: Condvar,
    stopped: AtomicBool,
}

impl Queue {
    fn push(&self, job: Job) -> bool {
        if self.stopped.load(Ordering::Acquire) {
            return false;
        }
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).push_back(job);
        self.wake.notify_one();
        true
    }

    /// What waits, at most so many; `None` once it is stopped and nothing waits.
    fn take(&self, most: usize) -> Option<Vec<Job>> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        while jobs.is_empty() {
            if self.stopped.load(Ordering::Acquire) {
                return None;
            }
            let limit = Duration::from_millis(20);
            let waited = self.wake.wait_timeout(jobs, limit);
            jobs = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let count = jobs.len().min(most.max(1));
        Some(jobs.drain(..count).collect())
    }

    fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.wake.notify_all();
    }
}

async fn keep_writing(
    shared: Arc<Shared>,
    mut random: SmallRng,
    rows: u64,
    rows_per_write: usize,
) -> Vec<u32> {
    let mut times = Vec::new();
    loop {
        let start = Instant::now();
        let numbers = (0..rows_per_write).map(|_| random.random_range(0..rows)).collect();
        let (done, wait) = oneshot::channel();
        if !shared.queue.push(Job { numbers, done }) || wait.await.is_err() {
            return times;
        }
        if shared.measuring.load(Ordering::Relaxed) {
            times.push(micros(start.elapsed()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> Job {
        Job { numbers: vec![1], done: oneshot::channel().0 }
    }

    #[test]
    fn a_group_is_what_waits_and_no_more_than_its_most() {
        let queue = Queue::default();
        for _ in 0..5 {
            assert!(queue.push(job()));
        }
        assert_eq!(queue.take(3).map(|jobs| jobs.len()), Some(3));
        queue.stop();
        assert_eq!(queue.take(3).map(|jobs| jobs.len()), Some(2));
        assert!(queue.take(3).is_none());
        assert!(!queue.push(job()));
    }
}
