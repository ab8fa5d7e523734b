//! The load generator: many connections, one thread, as little work per request as can be.
//!
//! It shares the machine's cores with what it measures, so bodies and their MD5 are made before;
//! what is left per request is one signature (V2), one write and one read. Every answer's status
//! and length is looked at, and one in some is decoded. In a closed loop each connection sends
//! its next request when it has its answer; with a pace, requests have a moment of their own and
//! their time counts from there, however late they are sent.

mod connection;
mod signer;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::error::{BenchError, Result, Tried};
use crate::load::connection::Answer;
pub(crate) use crate::load::connection::Connection;
pub(crate) use crate::load::signer::{Access, Signer};
use crate::process::{SyncCounter, cpu_of, cpu_of_all, share_of_others};

/// Requests that wait for one connection; more are counted as missed.
const QUEUE: usize = 1024;
/// An answer that takes longer ends the measurement.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// A request's body and what its headers need of it.
#[derive(Clone, Debug)]
pub(crate) struct Prepared {
    /// The body.
    pub(crate) body: Bytes,
    /// Base64 of its MD5.
    pub(crate) md5: String,
}

impl Prepared {
    pub(crate) fn new(body: Bytes) -> Prepared {
        Prepared { md5: isthmus_protocol::signature::content_md5(&body), body }
    }
}

/// Where requests go, and as whom.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// `host:port`.
    pub(crate) address: String,
    /// The access key.
    pub(crate) access: Access,
}

/// What an answer must be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Check {
    /// Shortest body.
    pub(crate) bytes_min: usize,
    /// One answer in so many is decoded.
    pub(crate) every: usize,
    /// Decodes it: what is wrong with it.
    pub(crate) decode: fn(Bytes) -> std::result::Result<(), String>,
}

impl Check {
    /// Takes everything of some length.
    pub(crate) fn length(bytes_min: usize) -> Check {
        Check { bytes_min, every: usize::MAX, decode: |_| Ok(()) }
    }
}

/// One measurement.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Where to.
    pub(crate) target: Target,
    /// Which operation.
    pub(crate) path: &'static str,
    /// The requests, taken round and round.
    pub(crate) requests: Arc<Vec<Prepared>>,
    /// Connections.
    pub(crate) connections: usize,
    /// What answers must be.
    pub(crate) check: Check,
    /// What does not count.
    pub(crate) warm_up: Duration,
    /// What counts.
    pub(crate) measure: Duration,
    /// Requests per second; without it as many as go.
    pub(crate) pace: Option<f64>,
    /// Processes whose time is measured; the first one's syncs are counted.
    pub(crate) processes: Vec<u32>,
}

/// What a measurement found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// Good answers in the time that counts.
    pub(crate) answers: u64,
    /// All good answers, with those of the warm-up.
    pub(crate) answers_in_all: u64,
    /// Answers that were not as they must be.
    pub(crate) errors: u64,
    /// What the first of those was.
    pub(crate) first_error: Option<String>,
    /// Requests whose moment came while too many waited.
    pub(crate) missed: u64,
    /// The time that counts.
    pub(crate) elapsed: Duration,
    /// Time of each answer, sorted.
    pub(crate) times: Times,
    /// Mean length of an answer's body.
    pub(crate) answer_bytes: f64,
    /// Processor time of each process of the plan.
    pub(crate) cpu: Vec<Duration>,
    /// Processor time of the load generator.
    pub(crate) own_cpu: Duration,
    /// What other processes used of all cores, from 0 to 1.
    pub(crate) others: Option<f64>,
    /// Syncs per second of the first process, where they could be counted.
    pub(crate) syncs_per_second: Option<f64>,
}

impl Outcome {
    /// Answers per second.
    pub(crate) fn rate(&self) -> f64 {
        self.answers as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// Microseconds, sorted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times(Vec<u32>);

impl Times {
    pub(crate) fn new(mut micros: Vec<u32>) -> Times {
        micros.sort_unstable();
        Times(micros)
    }

    /// The time that this part of all stays within, in milliseconds.
    pub(crate) fn quantile(&self, part: f64) -> f64 {
        let last = self.0.len().saturating_sub(1);
        let place = (part * last as f64).round() as usize;
        self.0.get(place.min(last)).map_or(f64::NAN, |micros| f64::from(*micros) / 1000.0)
    }

    /// The longest, in milliseconds.
    pub(crate) fn max(&self) -> f64 {
        self.quantile(1.0)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

pub(crate) fn micros(span: Duration) -> u32 {
    u32::try_from(span.as_micros()).unwrap_or(u32::MAX)
}

/// A runtime for one thread.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .tried(|| "start a runtime".to_owned())
}

const WARM_UP: u8 = 0;
const MEASURE: u8 = 1;
const STOP: u8 = 2;

struct Shared {
    plan: Plan,
    phase: AtomicU8,
    next: AtomicUsize,
}

/// What one connection saw.
#[derive(Default)]
struct Seen {
    times: Vec<u32>,
    in_all: u64,
    bytes: u64,
    errors: u64,
    first_error: Option<String>,
}

/// Makes a measurement.
pub(crate) fn run(plan: &Plan) -> Result<Outcome> {
    if plan.requests.is_empty() {
        return Err(BenchError::failed("no requests are prepared"));
    }
    let shared = Arc::new(Shared {
        plan: plan.clone(),
        phase: AtomicU8::new(WARM_UP),
        next: AtomicUsize::new(0),
    });
    runtime()?.block_on(measure(shared))
}

async fn measure(shared: Arc<Shared>) -> Result<Outcome> {
    let plan = &shared.plan;
    let mut workers = JoinSet::new();
    let mut queues = Vec::new();
    for _ in 0..plan.connections {
        let connection = Connection::open(&plan.target).await?;
        let paced = plan.pace.map(|_| {
            let (queue, waiting) = mpsc::channel(QUEUE);
            queues.push(queue);
            waiting
        });
        workers.spawn(work(shared.clone(), connection, paced));
    }
    let pacer = plan.pace.map(|pace| {
        let shared = shared.clone();
        std::thread::spawn(move || keep_pace(&shared, pace, &queues))
    });
    let mut outcome = watch(&shared).await;
    shared.phase.store(STOP, Ordering::Relaxed);
    let mut micros = Vec::new();
    let mut bytes = 0;
    while let Some(joined) = workers.join_next().await {
        let seen = joined.map_err(|error| BenchError::failed(error.to_string()))?;
        let outcome = outcome.as_mut().map_err(|error| BenchError::failed(error.to_string()))?;
        outcome.answers += seen.times.len() as u64;
        outcome.answers_in_all += seen.in_all;
        outcome.errors += seen.errors;
        outcome.first_error = outcome.first_error.take().or(seen.first_error);
        bytes += seen.bytes;
        micros.extend(seen.times);
    }
    let mut outcome = outcome?;
    outcome.missed = pacer.and_then(|pacer| pacer.join().ok()).unwrap_or(0);
    outcome.answer_bytes = bytes as f64 / (outcome.answers as f64).max(1.0);
    outcome.times = Times::new(micros);
    Ok(outcome)
}

/// Takes the times of the processes at both ends of the time that counts.
async fn watch(shared: &Shared) -> Result<Outcome> {
    let plan = &shared.plan;
    tokio::time::sleep(plan.warm_up).await;
    let own = std::process::id();
    let all = |pids: &[u32]| pids.iter().map(|pid| cpu_of(*pid)).collect::<Result<Vec<_>>>();
    let syncs = plan.processes.first().and_then(|pid| SyncCounter::start(*pid));
    let (before, own_before) = (all(&plan.processes)?, cpu_of(own)?);
    let all_before = cpu_of_all();
    let start = Instant::now();
    shared.phase.store(MEASURE, Ordering::Relaxed);
    tokio::time::sleep(plan.measure).await;
    shared.phase.store(STOP, Ordering::Relaxed);
    let elapsed = start.elapsed();
    let (after, own_after) = (all(&plan.processes)?, cpu_of(own)?);
    let cpu = after.iter().zip(&before).map(|(after, before)| after.saturating_sub(*before));
    let cpu: Vec<Duration> = cpu.collect();
    let own_cpu = own_after.saturating_sub(own_before);
    let whole = cpu_of_all().zip(all_before).map(|(after, before)| after.saturating_sub(before));
    Ok(Outcome {
        elapsed,
        others: share_of_others(whole, cpu.iter().copied().chain([own_cpu]), elapsed),
        cpu,
        own_cpu,
        syncs_per_second: syncs.and_then(SyncCounter::finish),
        ..Outcome::default()
    })
}

async fn work(
    shared: Arc<Shared>,
    mut connection: Connection,
    mut paced: Option<mpsc::Receiver<Instant>>,
) -> Seen {
    let plan = &shared.plan;
    let mut seen = Seen::default();
    while shared.phase.load(Ordering::Relaxed) != STOP {
        let start = match &mut paced {
            None => Instant::now(),
            Some(queue) => match queue.recv().await {
                Some(moment) => moment,
                None => break,
            },
        };
        let place = shared.next.fetch_add(1, Ordering::Relaxed);
        let Some(prepared) = plan.requests.get(place % plan.requests.len()) else { break };
        let keep = place.is_multiple_of(plan.check.every);
        let asked = connection.exchange(plan.path, prepared, keep);
        let answered = match tokio::time::timeout(ANSWER_TIMEOUT, asked).await {
            Ok(answered) => answered.map_err(|error| crate::chain(&error)),
            Err(_) => Err(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs())),
        };
        let broken = answered.is_err();
        match answered.and_then(|answer| check(&plan.check, &connection, answer, keep)) {
            Ok(bytes) => {
                seen.in_all += 1;
                if shared.phase.load(Ordering::Relaxed) == MEASURE {
                    seen.times.push(micros(start.elapsed()));
                    seen.bytes += bytes as u64;
                }
            }
            Err(error) => {
                seen.errors += 1;
                seen.first_error.get_or_insert(error);
            }
        }
        if broken {
            break;
        }
    }
    seen
}

/// The length of an answer's body, or what is wrong with it.
pub(crate) fn check(
    check: &Check,
    connection: &Connection,
    answer: Answer,
    kept: bool,
) -> std::result::Result<usize, String> {
    if answer.status != 200 {
        let body = connection.body(answer);
        return Err(match isthmus_protocol::client::decode_error(Bytes::copy_from_slice(body)) {
            Ok(error) => format!("{}: {}: {}", answer.status, error.code, error.message),
            Err(_) => format!("status {}", answer.status),
        });
    }
    if answer.body_bytes < check.bytes_min {
        return Err(format!("an answer of {} bytes is too short", answer.body_bytes));
    }
    if kept {
        (check.decode)(Bytes::copy_from_slice(connection.body(answer)))?;
    }
    Ok(answer.body_bytes)
}

/// Gives each request its moment, until the measurement stops. A thread of its own, because the
/// runtime's timers are too coarse. Gives how many did not fit into their queue.
fn keep_pace(shared: &Shared, pace: f64, queues: &[mpsc::Sender<Instant>]) -> u64 {
    let gap = Duration::from_secs_f64(1.0 / pace.max(0.001));
    let mut moment = Instant::now();
    let mut missed = 0;
    for queue in queues.iter().cycle() {
        let wait = moment.saturating_duration_since(Instant::now());
        if !wait.is_zero() {
            std::thread::sleep(wait.min(Duration::from_millis(200)));
        }
        if shared.phase.load(Ordering::Relaxed) == STOP {
            break;
        }
        if Instant::now() < moment {
            continue;
        }
        match queue.try_send(moment) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => missed += 1,
            Err(mpsc::error::TrySendError::Closed(_)) => {}
        }
        moment += gap;
    }
    missed
}

/// Sends each request once. Any answer that is not as it must be is an error.
pub(crate) fn send_all(
    target: &Target,
    path: &'static str,
    requests: Vec<Prepared>,
    connections: usize,
    checked: Check,
) -> Result<()> {
    let requests = Arc::new(requests);
    let next = Arc::new(AtomicUsize::new(0));
    runtime()?.block_on(async {
        let mut workers = JoinSet::new();
        for _ in 0..connections {
            let mut connection = Connection::open(target).await?;
            let (requests, next) = (requests.clone(), next.clone());
            workers.spawn(async move {
                while let Some(prepared) = requests.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let asked = connection.exchange(path, prepared, true);
                    let answer = tokio::time::timeout(ANSWER_TIMEOUT, asked)
                        .await
                        .map_err(|_| BenchError::failed("no answer while loading"))??;
                    check(&checked, &connection, answer, true).map_err(BenchError::Failed)?;
                }
                Ok::<(), BenchError>(())
            });
        }
        while let Some(joined) = workers.join_next().await {
            joined.map_err(|error| BenchError::failed(error.to_string()))??;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_sorted_times() {
        let times = Times::new((1..=1001).rev().map(|n| n * 1000).collect());
        assert_eq!((times.quantile(0.5), times.quantile(0.99)), (501.0, 991.0));
        assert_eq!((times.max(), times.len()), (1001.0, 1001));
        assert!(Times::default().max().is_nan());
    }
}
