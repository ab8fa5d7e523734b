//! One region as a gateway uses it: its connections, how it stands, what is counted of it.
//!
//! What must hold: no more connections to it than are allowed; an answer is whole and within its
//! bounds before any of it is passed on, so that a read whose answer breaks can be asked elsewhere.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Limited;
use hyper::body::Body;
use hyper::{HeaderMap, Method, StatusCode};
use isthmus_connectors::http::{Http, HttpError, HttpOptions};
use isthmus_model::clock::Clock;
use isthmus_model::error::Outcome as Effect;
use isthmus_protocol::client::decode_error;
use isthmus_protocol::error_code::ErrorCode;
use isthmus_store::counters::{Counter, Durations};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::standing::{Candidate, Sign, Standing};
use crate::config::gateway::{GatewayFile, GatewayProbe, PassedTo};
use crate::http::gather;
use crate::metrics::Outcome;

/// Bytes of one answer.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of answers in memory, of all requests, counted in units of 1 KiB.
pub(super) const ANSWERS_KIB_MAX: usize = 128 * 1024;
/// How long an answer waits for room in memory.
const ROOM_TIMEOUT: Duration = Duration::from_secs(5);
/// What a probe asks: no signature, so the region refuses it before it does anything.
const PROBE_PATH: &str = "/ListTable";

/// What a client asks, as it is passed on.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    /// The path as received, since it is signed.
    pub(super) path: String,
    /// Headers but those that are between two programs only.
    pub(super) headers: HeaderMap,
    /// The body as received.
    pub(super) body: Bytes,
    /// Whether it may be asked twice.
    pub(super) is_read: bool,
}

/// What a region answered.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    /// HTTP status.
    pub(super) status: StatusCode,
    /// Its headers.
    pub(super) headers: HeaderMap,
    /// Its body.
    pub(super) body: Bytes,
    /// The error that it tells, where it is one.
    pub(super) code: Option<ErrorCode>,
}

impl Answer {
    /// Whether another region might answer better: it could not do what was asked of it.
    pub(super) fn is_of_no_use(&self) -> bool {
        self.status.is_server_error() || self.code == Some(ErrorCode::TableNotReady)
    }

    fn outcome(&self) -> Outcome {
        match self.code {
            Some(code) => Outcome::of_code(code),
            None if self.status.is_success() => Outcome::Done,
            None if self.status.is_server_error() => Outcome::Failed,
            None => Outcome::Refused,
        }
    }
}

/// A body in memory, with its room until the client has taken it.
struct Held {
    body: Bytes,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

/// Why a region did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missed {
    /// All its connections are in use; nothing was sent.
    Full,
    /// No connection stands; nothing was sent.
    NotSent,
    /// It may have the request, and there is no answer.
    NoAnswer,
}

/// Why a request was tried in another region.
pub(super) const TRIED_ELSEWHERE: [&str; 4] = ["full", "not-sent", "no-answer", "refused"];

/// One region.
pub(super) struct Region {
    /// Its name.
    pub(super) name: String,
    http: Http,
    probing: Http,
    connections: Semaphore,
    connections_max: usize,
    answers: Arc<Semaphore>,
    rules: GatewayProbe,
    clock: Arc<dyn Clock>,
    standing: Mutex<Standing>,
    /// Whether it is up, for those who wait.
    up: watch::Sender<bool>,
    /// How its requests ended.
    pub(super) outcomes: [Counter; Outcome::ALL.len()],
    /// How often a request was tried elsewhere after it.
    pub(super) elsewhere: [Counter; TRIED_ELSEWHERE.len()],
    /// How long it took to answer.
    pub(super) time: Durations,
}

impl Region {
    /// Prepares connections; none is made yet.
    pub(super) fn new(
        region: &PassedTo,
        config: &GatewayFile,
        answers: Arc<Semaphore>,
        clock: Arc<dyn Clock>,
    ) -> Result<Region, HttpError> {
        let own = &config.gateway;
        let probe_timeout = Duration::from_millis(config.probe.timeout_ms);
        let options = |connect_timeout, answer_timeout, idle_max| HttpOptions {
            connect_timeout,
            answer_timeout,
            idle_max,
        };
        let passing =
            options(own.connect_timeout(), own.answer_timeout(), own.region_connections_max);
        Ok(Region {
            name: region.name.clone(),
            http: Http::new(&region.endpoint, passing)?,
            // A connection of its own: that all others are in use does not make a region silent.
            probing: Http::new(&region.endpoint, options(probe_timeout, probe_timeout, 1))?,
            connections: Semaphore::new(own.region_connections_max),
            connections_max: own.region_connections_max,
            answers,
            rules: config.probe.clone(),
            standing: Mutex::new(Standing::new(clock.wall_millis())),
            clock,
            up: watch::Sender::new(false),
            outcomes: Default::default(),
            elsewhere: Default::default(),
            time: Durations::default(),
        })
    }

    /// How it stands.
    pub(super) fn standing(&self) -> Standing {
        self.standing.lock().clone()
    }

    /// Requests in work there.
    pub(super) fn in_work(&self) -> usize {
        self.connections_max - self.connections.available_permits()
    }

    /// What a choice among regions needs to know.
    pub(super) fn candidate(&self) -> Candidate {
        let standing = self.standing.lock();
        Candidate { up: standing.up, delay: standing.delay, in_work: self.in_work() }
    }

    pub(super) fn take(&self, sign: Sign) {
        let mut standing = self.standing.lock();
        if !standing.take(sign, &self.rules, self.clock.wall_millis()) {
            return;
        }
        let (region, reason) = (&self.name, &standing.reason);
        match standing.up {
            true => tracing::info!(%region, "region is up"),
            false => tracing::warn!(%region, %reason, "region is down"),
        }
        self.up.send_replace(standing.up);
    }

    /// Looks once whether it answers. What it says to a request that nobody signed does not
    /// matter, unless it says that it is not well.
    pub(super) async fn probe(&self) {
        let began = self.clock.monotonic();
        let asked = self.probing.send(Method::POST, PROBE_PATH, &[], Bytes::new()).await;
        let took = self.clock.monotonic().saturating_sub(began);
        self.take(match asked {
            Ok(answer) if !answer.status.is_server_error() => Sign::Probed(took),
            Ok(answer) => Sign::Silent(format!("HTTP status {}", answer.status.as_u16())),
            Err(error) => Sign::Silent(error.to_string()),
        });
    }

    /// Asks it, and waits so long at most. A read is given up when the region goes down meanwhile.
    pub(super) async fn ask(&self, ask: &Ask, patience: Duration) -> Result<Answer, Missed> {
        let Ok(_connection) = self.connections.try_acquire() else { return Err(Missed::Full) };
        let began = self.clock.monotonic();
        let answered = tokio::select! {
            answered = tokio::time::timeout(patience, self.exchange(ask)) => {
                let late = || format!("no answer within {} ms", patience.as_millis());
                answered.unwrap_or_else(|_| Err((Missed::NoAnswer, late())))
            }
            () = self.goes_down(), if ask.is_read => Err((Missed::NoAnswer, String::new())),
        };
        self.time.note(self.clock.monotonic().saturating_sub(began));
        match answered {
            Ok(answer) => {
                self.take(Sign::Answered);
                self.outcomes[answer.outcome() as usize].one();
                Ok(answer)
            }
            Err((missed, reason)) => {
                // That it went down is known.
                if !reason.is_empty() {
                    self.take(Sign::Silent(reason));
                }
                let outcome = match missed {
                    Missed::Full | Missed::NotSent => Outcome::Busy,
                    Missed::NoAnswer => Outcome::Unknown,
                };
                self.outcomes[outcome as usize].one();
                Err(missed)
            }
        }
    }

    /// Ends when a region that is up goes down.
    async fn goes_down(&self) {
        let mut up = self.up.subscribe();
        if !*up.borrow_and_update() {
            return std::future::pending().await;
        }
        // The sender lives as long as the region.
        let _ = up.wait_for(|up| !up).await;
    }

    async fn exchange(&self, ask: &Ask) -> Result<Answer, (Missed, String)> {
        let missed = |error: HttpError| {
            let missed = match error.outcome() {
                Effect::NotApplied => Missed::NotSent,
                Effect::Unknown => Missed::NoAnswer,
            };
            (missed, error.to_string())
        };
        let asked = self.http.pass(&ask.path, ask.headers.clone(), ask.body.clone()).await;
        let (head, body) = asked.map_err(missed)?.into_parts();
        let bytes = body.size_hint().exact().unwrap_or(ANSWER_BYTES_MAX as u64);
        let kib = u32::try_from(bytes / 1024 + 1).unwrap_or(u32::MAX);
        let broken = |error: &dyn std::fmt::Display| {
            (Missed::NoAnswer, format!("an answer of {} broke: {error}", self.http.endpoint()))
        };
        if kib as usize > ANSWERS_KIB_MAX {
            return Err(broken(&"it is too large"));
        }
        // It is no fault of the region that there is none.
        let no_room = (Missed::NoAnswer, String::new());
        let waiting = self.answers.clone().acquire_many_owned(kib);
        let room = tokio::time::timeout(ROOM_TIMEOUT, waiting).await;
        let Ok(Ok(room)) = room else { return Err(no_room) };
        let body = gather(Limited::new(body, ANSWER_BYTES_MAX)).await;
        let body =
            Bytes::from_owner(Held { body: body.map_err(|error| broken(&error))?, _room: room });
        let code = (!head.status.is_success()).then(|| decode_error(body.clone()).ok()).flatten();
        let code = code.and_then(|error| ErrorCode::from_name(&error.code));
        Ok(Answer { status: head.status, headers: head.headers, body, code })
    }
}
