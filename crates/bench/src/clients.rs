//! Clients that go on from the first measurement to the last: what they ask changes, they do not.
//!
//! Each connection sends its next request when it has its answer, or a while later. All answers are
//! kept with their moments, and cut into measurements afterwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;
use tokio::task::JoinSet;

use crate::error::{BenchError, Result};
use crate::load::{Check, Connection, Prepared, Target, Times, check, micros, runtime};
use crate::process::{cpu_of, cpu_of_all, share_of_others};

/// An answer that takes longer is a bad one.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// One answer.
struct Seen {
    /// When it came.
    at: Instant,
    took: Duration,
    /// What was wrong with it.
    error: Option<String>,
}

/// What one span of time has shown.
#[derive(Debug, Serialize)]
pub(crate) struct Phase {
    pub(crate) what: &'static str,
    pub(crate) rows_per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
    pub(crate) errors: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) first_error: Option<String>,
    /// Cores that each region has used, then the load generator.
    pub(crate) cpu: Vec<f64>,
    /// What other processes used of all cores, from 0 to 1.
    pub(crate) others: Option<f64>,
}

/// What clients send, and how often.
pub(crate) struct Asked {
    /// The operation.
    pub(crate) path: &'static str,
    /// Evenly, and hot: one list or both, from the first request to the last and again.
    pub(crate) requests: Vec<Vec<Prepared>>,
    /// Between an answer and the next request.
    pub(crate) pause: Duration,
    /// Bytes that an answer has at least.
    pub(crate) bytes_min: usize,
}

struct Shared {
    asked: Asked,
    is_hot: AtomicBool,
    is_over: AtomicBool,
    next: AtomicUsize,
    seen: Mutex<Vec<Seen>>,
}

/// Clients that ask until they are stopped.
pub(crate) struct Clients {
    shared: Arc<Shared>,
    pids: Vec<u32>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Clients {
    /// Starts so many, spread over the targets; they send the first of the lists.
    pub(crate) fn start(
        targets: Vec<Target>,
        count: usize,
        asked: Asked,
        pids: Vec<u32>,
    ) -> Result<Clients> {
        let lists = &asked.requests;
        if lists.is_empty() || lists.iter().any(Vec::is_empty) || targets.is_empty() {
            return Err(BenchError::failed("no requests are prepared: take more rows"));
        }
        let shared = Arc::new(Shared {
            asked,
            is_hot: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            next: AtomicUsize::new(0),
            seen: Mutex::default(),
        });
        let of_thread = shared.clone();
        let thread = std::thread::spawn(move || -> Result<()> {
            runtime()?.block_on(async {
                let mut all = JoinSet::new();
                for target in targets.iter().cycle().take(count) {
                    all.spawn(ask(of_thread.clone(), target.clone()));
                }
                while let Some(joined) = all.join_next().await {
                    joined.map_err(|error| BenchError::failed(error.to_string()))??;
                }
                Ok(())
            })
        });
        Ok(Clients { shared, pids, thread: Some(thread) })
    }

    /// Which list they send from now on.
    pub(crate) fn heat(&self, is_hot: bool) {
        self.shared.is_hot.store(is_hot, Ordering::Relaxed);
    }

    /// Lets them go on for a while, and tells what came of it.
    pub(crate) fn phase(&self, what: &'static str, span: Duration) -> Result<Phase> {
        let own = std::process::id();
        let pids = || self.pids.iter().copied().chain([own]);
        let used = || pids().map(cpu_of).collect::<Result<Vec<Duration>>>();
        let (before, all_before, began) = (used()?, cpu_of_all(), Instant::now());
        std::thread::sleep(span);
        let (after, all_after, ended) = (used()?, cpu_of_all(), Instant::now());
        let elapsed = ended - began;
        let used = after.iter().zip(&before).map(|(after, before)| after.saturating_sub(*before));
        let used: Vec<Duration> = used.collect();
        let all = all_after.zip(all_before).map(|(after, before)| after.saturating_sub(before));
        Ok(Phase {
            cpu: used.iter().map(|used| used.as_secs_f64() / elapsed.as_secs_f64()).collect(),
            others: share_of_others(all, used.iter().copied(), elapsed),
            ..self.between(what, began, ended)
        })
    }

    /// What the answers between two moments have shown, but for the use of processors.
    pub(crate) fn between(&self, what: &'static str, began: Instant, ended: Instant) -> Phase {
        let seen = self.shared.seen.lock();
        let of_it = seen.iter().filter(|seen| (began..ended).contains(&seen.at));
        let (good, bad): (Vec<&Seen>, Vec<&Seen>) = of_it.partition(|seen| seen.error.is_none());
        let times = Times::new(good.iter().map(|seen| micros(seen.took)).collect());
        Phase {
            what,
            rows_per_second: good.len() as f64 / (ended - began).as_secs_f64(),
            p50_ms: times.quantile(0.5),
            p99_ms: times.quantile(0.99),
            max_ms: times.max(),
            errors: bad.len() as u64,
            first_error: bad.first().and_then(|seen| seen.error.clone()),
            cpu: Vec::new(),
            others: None,
        }
    }

    /// The longest good answer that came since then, in milliseconds.
    pub(crate) fn longest_since(&self, since: Instant) -> f64 {
        let seen = self.shared.seen.lock();
        let of_it = seen.iter().filter(|seen| seen.at >= since && seen.error.is_none());
        Times::new(of_it.map(|seen| micros(seen.took)).collect()).max()
    }

    /// Ends them. An error: one ended before.
    pub(crate) fn stop(&mut self) -> Result<()> {
        self.shared.is_over.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().map_err(|_| BenchError::failed("the clients panicked"))?
    }
}

async fn ask(shared: Arc<Shared>, target: Target) -> Result<()> {
    let Asked { path, requests, pause, bytes_min } = &shared.asked;
    let checked = Check::length(*bytes_min);
    let mut connection = Connection::open(&target).await?;
    while !shared.is_over.load(Ordering::Relaxed) {
        let list = usize::from(shared.is_hot.load(Ordering::Relaxed)).min(requests.len() - 1);
        let place = shared.next.fetch_add(1, Ordering::Relaxed) % requests[list].len();
        let began = Instant::now();
        let asked = connection.exchange(path, &requests[list][place], true);
        let error = match tokio::time::timeout(ANSWER_TIMEOUT, asked).await {
            Err(_) => return Err(BenchError::failed("a request was not answered within a minute")),
            Ok(answered) => check(&checked, &connection, answered?, true).err(),
        };
        let at = Instant::now();
        shared.seen.lock().push(Seen { at, took: at - began, error });
        if !pause.is_zero() {
            tokio::time::sleep(*pause).await;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_answer_is_that_of_those_that_ended_since() {
        let now = Instant::now();
        let seen = |before: u64, took: u64, error: Option<&str>| Seen {
            at: now - Duration::from_secs(before),
            took: Duration::from_millis(took),
            error: error.map(str::to_owned),
        };
        let shared = Shared {
            asked: Asked {
                path: "/PutRow",
                requests: Vec::new(),
                pause: Duration::ZERO,
                bytes_min: 1,
            },
            is_hot: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            next: AtomicUsize::new(0),
            seen: Mutex::new(vec![seen(9, 70, None), seen(2, 40, None), seen(1, 90, Some("no"))]),
        };
        let clients = Clients { shared: Arc::new(shared), pids: Vec::new(), thread: None };
        assert_eq!(clients.longest_since(now - Duration::from_secs(5)), 40.0);
        assert_eq!(clients.longest_since(now - Duration::from_secs(10)), 70.0);
    }
}
