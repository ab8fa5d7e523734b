//! A gateway: a process without state that any client of the public protocol can be pointed at, and
//! that passes its requests on to a region that lives.
//!
//! What must hold: a request goes on byte for byte, with its headers but those between two
//! programs, so that its signature stays valid; the gateway holds no key and signs nothing. What
//! was certainly not sent, and reads, go to another region where one fails; a write that a region
//! may have and did not answer is answered with `OTSTimeout`, whose outcome is not known, and is
//! never sent again. Connections, requests, bodies, answers and waits are bounded.
//!
//! `standing` judges regions and chooses among them, and is pure; `region` asks one; `figures` are
//! its metrics.

mod figures;
mod region;
mod standing;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response as AdminResponse};
use axum::routing::get;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue,
    PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use hyper::{Method, Request, Response, StatusCode};
use isthmus_connectors::http::HttpError;
use isthmus_model::clock::Clock;
use isthmus_protocol::error_code::ErrorCode;
use isthmus_store::counters::Counter;
use parking_lot::Mutex;
use rand::TryRngCore;
use rand::rngs::OsRng;
use serde_json::{Value as Json, json};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use self::region::{ANSWERS_KIB_MAX, Answer, Ask, Missed, Region};
use self::standing::{Order, nearest};
use crate::api_error::ApiError;
use crate::config::gateway::GatewayFile;
use crate::http::{
    BODIES_KIB_MAX, BODY_TIMEOUT, Failure, busy, check_shape, connections, declared_length,
    read_body, respond, too_large,
};
use crate::metrics;
use crate::peer::serve::Work;
use crate::refusals::Refusals;
use crate::{ServerError, fault, listen};

/// Operations that change nothing, so that they may be asked twice. All others may be sent once.
const READS: [&str; 9] = [
    "GetRow",
    "BatchGetRow",
    "GetRange",
    "ListTable",
    "DescribeTable",
    "DescribeGlobalTable",
    "ListSearchIndex",
    "ListStream",
    "tunnel/list",
];
/// The header of an answer that names the region which gave it.
const REGION: &str = "x-isthmus-region";
/// Where its health is told, on both ports.
const HEALTH: &str = "/health";
/// Headers between two programs only, which are not passed on.
static BETWEEN_TWO: [HeaderName; 10] = [
    CONNECTION,
    CONTENT_LENGTH,
    EXPECT,
    HOST,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];
/// One more of them, which has no name of its own in the library.
const KEEP_ALIVE: &str = "keep-alive";
/// How long requests in work may take when the process is told to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// A gateway that listens and does not serve yet.
pub struct Gateway {
    shared: Arc<Shared>,
    clients: TcpListener,
    admin: TcpListener,
}

struct Shared {
    config: GatewayFile,
    regions: Vec<Region>,
    clock: Arc<dyn Clock>,
    in_work: Semaphore,
    bodies: Semaphore,
    refusals: Refusals,
    /// The nearest region by now.
    nearest: AtomicUsize,
    turn: AtomicUsize,
    request_prefix: String,
    requests: AtomicU64,
    /// Requests that no region answered.
    unanswered: [Counter; metrics::Outcome::ALL.len()],
    tasks: Mutex<JoinSet<()>>,
}

/// Why a gateway cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// A region cannot be asked.
    #[error("region {0}")]
    Region(String, #[source] HttpError),
    /// A port cannot be opened.
    #[error(transparent)]
    Server(#[from] ServerError),
}

impl Gateway {
    /// Opens its ports.
    pub async fn open(config: GatewayFile, clock: Arc<dyn Clock>) -> Result<Gateway, GatewayError> {
        let answers = Arc::new(Semaphore::new(ANSWERS_KIB_MAX));
        let mut regions = Vec::with_capacity(config.regions.len());
        for region in &config.regions {
            let made = Region::new(region, &config, answers.clone(), clock.clone());
            regions.push(made.map_err(|error| GatewayError::Region(region.name.clone(), error))?);
        }
        let clients = listen(config.gateway.listen, "clients").await?;
        let admin = listen(config.gateway.admin, "health and metrics").await?;
        let boot = OsRng.try_next_u64().map_err(|_| ServerError::Randomness)?;
        let shared = Shared {
            regions,
            clock,
            in_work: Semaphore::new(config.gateway.requests_max),
            bodies: Semaphore::new(BODIES_KIB_MAX),
            refusals: Refusals::default(),
            nearest: AtomicUsize::new(0),
            turn: AtomicUsize::new(0),
            request_prefix: format!("gateway-{boot:016x}"),
            requests: AtomicU64::new(0),
            unanswered: Default::default(),
            tasks: Mutex::default(),
            config,
        };
        Ok(Gateway { shared: Arc::new(shared), clients, admin })
    }

    /// Where it listens for clients, and for who asks how it does.
    pub fn addresses(&self) -> Result<(SocketAddr, SocketAddr), ServerError> {
        let address = |listener: &TcpListener, asked, purpose| {
            let failed = |source| ServerError::Listen { address: asked, purpose, source };
            listener.local_addr().map_err(failed)
        };
        let own = &self.shared.config.gateway;
        let clients = address(&self.clients, own.listen, "clients")?;
        Ok((clients, address(&self.admin, own.admin, "health and metrics")?))
    }

    /// Looks at each region once, so that the first request knows where to go.
    pub async fn look(&self) {
        let mut looks = JoinSet::new();
        for place in 0..self.shared.regions.len() {
            let shared = self.shared.clone();
            looks.spawn(async move { shared.regions[place].probe().await });
        }
        while looks.join_next().await.is_some() {}
        self.shared.find_nearest();
    }

    /// Serves until `shutdown` is done; then lets requests in work end.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) -> Result<(), ServerError> {
        let Gateway { shared, clients, admin } = self;
        let (stop, stopped) = watch::channel(false);
        for place in 0..shared.regions.len() {
            let probing = shared.clone().keep_probing(place, stopped.clone());
            shared.spawn(Box::pin(fault::or_end("keep_probing", probing)));
        }
        let admin = serve_admin(shared.clone(), admin, stopped.clone());
        shared.spawn(Box::pin(fault::or_end("administration port", admin)));
        let serving = {
            let (spawning, answering) = (shared.clone(), shared.clone());
            let connections_max = shared.config.gateway.connections_max;
            let answer = move |from, request| {
                let shared = answering.clone();
                async move { shared.answer(from, request).await }
            };
            async move {
                let spawn = |work: Work| spawning.spawn(work);
                connections::serve(clients, stopped, connections_max, spawn, answer).await;
            }
        };
        let serving = tokio::spawn(fault::or_end("public port", serving));
        shutdown.await;
        tracing::info!("stopping");
        // Nobody listening is as good.
        let _ = stop.send(true);
        let _ = tokio::time::timeout(STOP_TIMEOUT, serving).await;
        let mut tasks = std::mem::take(&mut *shared.tasks.lock());
        let all_ended = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_TIMEOUT, all_ended).await.is_err() {
            tasks.shutdown().await;
        }
        Ok(())
    }
}

impl Shared {
    fn spawn(&self, work: Work) {
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(work);
    }

    async fn keep_probing(self: Arc<Self>, place: usize, mut stop: watch::Receiver<bool>) {
        let every = Duration::from_millis(self.config.probe.every_ms);
        let mut tick = tokio::time::interval(every);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // It was looked at just before.
        tick.tick().await;
        while !*stop.borrow() {
            tokio::select! {
                _ = tick.tick() => {}
                _ = stop.changed() => return,
            }
            self.regions[place].probe().await;
            self.find_nearest();
        }
    }

    fn find_nearest(&self) {
        let all: Vec<_> = self.regions.iter().map(Region::candidate).collect();
        let before = self.nearest.load(Ordering::Relaxed);
        self.nearest.store(nearest(&all, before), Ordering::Relaxed);
    }

    async fn answer(&self, from: IpAddr, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if request.method() == Method::GET && request.uri().path() == HEALTH {
            return self.health_response();
        }
        let path = request.uri().path().to_owned();
        let passed = fault::caught(self.pass(from, request)).await;
        let passed = passed.unwrap_or_else(|| Err(ApiError::internal().closing()));
        passed.unwrap_or_else(|failure| {
            let outcome = metrics::Outcome::of_code(failure.error.code);
            self.unanswered[outcome as usize].one();
            let number = self.requests.fetch_add(1, Ordering::Relaxed);
            let id = format!("{}-{number:012x}", self.request_prefix);
            // Nobody's key is known here, so an answer of the gateway's own is not signed; clients
            // ask that of successes only.
            respond(&id, &path, None, Err(failure), self.clock.wall_millis())
        })
    }

    async fn pass(
        &self,
        from: IpAddr,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Failure> {
        check_shape(&request)?;
        let (head, body) = request.into_parts();
        let body_bytes_max = self.config.gateway.request_bytes_max;
        let length = declared_length(&body);
        if length.is_some_and(|length| length > body_bytes_max as u64) {
            return Err(too_large().closing());
        }
        let second = self.clock.wall_millis().div_euclid(1000);
        // A region would hold back all clients of the gateway for one that floods it.
        if self.refusals.is_over(from, second) {
            return Err(busy().closing());
        }
        let bytes = length.unwrap_or(body_bytes_max as u64);
        let kib = u32::try_from(bytes / 1024 + 1).unwrap_or(u32::MAX);
        let wait = tokio::time::timeout(BODY_TIMEOUT, self.bodies.acquire_many(kib));
        let Ok(Ok(_room)) = wait.await else { return Err(busy().closing()) };
        let body = read_body(body, body_bytes_max).await?;
        let Ok(_in_work) = self.in_work.try_acquire() else { return Err(busy().into()) };
        let path = head.uri.path().to_owned();
        let is_read = READS.contains(&path.trim_start_matches('/'));
        let ask = Ask { path, headers: passed_on(head.headers), body, is_read };
        let (region, answer) = self.ask(&ask).await?;
        if answer.code == Some(ErrorCode::AuthFailed) {
            self.refusals.count(from, second);
        }
        let mut response = Response::new(Full::new(answer.body));
        *response.status_mut() = answer.status;
        *response.headers_mut() = passed_on(answer.headers);
        if let Ok(name) = HeaderValue::from_str(&region.name) {
            response.headers_mut().insert(REGION, name);
        }
        Ok(response)
    }

    /// Asks one region after the other, each once at most, until one answers.
    async fn ask(&self, ask: &Ask) -> Result<(&Region, Answer), ApiError> {
        let own = &self.config.gateway;
        let order = Order {
            balance: own.balance,
            prefer: self.preferred(),
            nearest: self.nearest.load(Ordering::Relaxed),
            turn: self.turn.fetch_add(1, Ordering::Relaxed),
        };
        let deadline = self.clock.monotonic() + own.answer_timeout();
        let mut asked = Vec::new();
        let mut refused = None;
        let mut is_any_full = false;
        loop {
            let all: Vec<_> = self.regions.iter().map(Region::candidate).collect();
            let left = deadline.saturating_sub(self.clock.monotonic());
            let next = order.next(&all, &asked).filter(|_| !left.is_zero());
            let Some(place) = next else { break };
            asked.push(place);
            let region = &self.regions[place];
            // There must be time to ask another one.
            let is_last = asked.len() == all.len();
            let read = own.read_timeout().min(if is_last { left } else { left / 2 });
            let patience = if ask.is_read { read } else { left };
            let why = match region.ask(ask, patience).await {
                Ok(answer) if ask.is_read && answer.is_of_no_use() => {
                    refused = Some((region, answer));
                    3
                }
                Ok(answer) => return Ok((region, answer)),
                Err(Missed::NoAnswer) if !ask.is_read => return Err(unknown()),
                Err(missed) => {
                    is_any_full |= missed == Missed::Full;
                    missed as usize
                }
            };
            region.elsewhere[why].one();
        }
        match refused {
            Some(answer) => Ok(answer),
            None if is_any_full => Err(busy()),
            None => Err(nobody()),
        }
    }

    fn preferred(&self) -> Option<usize> {
        let name = self.config.gateway.prefer.as_deref()?;
        self.regions.iter().position(|region| region.name == name)
    }

    /// How the regions stand; and whether there is one to pass requests on to.
    fn health(&self) -> (StatusCode, Json) {
        let mut serves = false;
        let regions: Vec<Json> = self
            .regions
            .iter()
            .map(|region| {
                let standing = region.standing();
                serves |= standing.up;
                json!({
                    "region": region.name,
                    "up": standing.up,
                    "since_ms": standing.since_millis,
                    "reason": standing.reason,
                    "delay_ms": standing.delay.map(|delay| delay.as_secs_f64() * 1e3),
                    "in_work": region.in_work(),
                })
            })
            .collect();
        let (status, word) = match serves {
            true => (StatusCode::OK, "serving"),
            false => (StatusCode::SERVICE_UNAVAILABLE, "no region lives"),
        };
        (status, json!({ "status": word, "regions": regions }))
    }

    fn health_response(&self) -> Response<Full<Bytes>> {
        let (status, told) = self.health();
        let mut response = Response::new(Full::new(Bytes::from(told.to_string())));
        *response.status_mut() = status;
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        response
    }
}

async fn serve_admin(shared: Arc<Shared>, listener: TcpListener, mut stop: watch::Receiver<bool>) {
    let router =
        Router::new().route(HEALTH, get(health)).route("/metrics", get(scrape)).with_state(shared);
    let stopped = async move {
        let _ = stop.changed().await;
    };
    if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stopped).await {
        tracing::error!(%error, "administration port ended");
    }
}

async fn health(State(shared): State<Arc<Shared>>) -> AdminResponse {
    let (status, told) = shared.health();
    (status, axum::Json(told)).into_response()
}

async fn scrape(State(shared): State<Arc<Shared>>) -> AdminResponse {
    match metrics::text_of(Box::new(figures::Figures::of(&shared))) {
        Ok(text) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Headers without those between two programs, and without what those name.
fn passed_on(mut headers: HeaderMap) -> HeaderMap {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        // What is signed is not between two.
        .filter(|name| !name.as_str().starts_with("x-ots-"))
        .collect();
    for name in BETWEEN_TWO.iter().chain(&named) {
        headers.remove(name);
    }
    headers.remove(KEEP_ALIVE);
    headers
}

fn unknown() -> ApiError {
    let message = "Operation timeout. Whether it took effect is not known.";
    ApiError::new(ErrorCode::Timeout, message)
}

/// Official clients try again by themselves.
fn nobody() -> ApiError {
    ApiError::new(ErrorCode::PartitionUnavailable, "No region answers. Nothing was done.")
}

#[cfg(test)]
mod tests;
