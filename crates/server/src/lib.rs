//! One region as a process: configuration, ports, and the rooms put together.
//!
//! `serve` opens the store, obeys what control had said before, opens the three ports (clients,
//! administration, other regions) and runs until it is told to stop. It answers nothing before
//! the store is open and nothing after a commit has failed: then the process ends.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let config = isthmus_server::config::Config::load("r1/isthmus.toml".as_ref())?;
//! let clock = std::sync::Arc::new(isthmus_model::clock::SystemClock);
//! isthmus_server::serve(config, clock, std::future::pending()).await?;
//! # Ok(())
//! # }
//! ```

pub mod admin;
pub mod api_error;
mod as_of;
mod atomic;
pub mod caller;
pub mod config;
mod detection;
mod fault;
pub mod gateway;
pub mod http;
pub mod metrics;
pub mod node;
pub mod peer;
mod plant;
pub mod probe;
pub mod quorum;
pub mod receipts;
pub mod refusals;
pub mod registry;
pub mod rows;
pub mod slow_peer;
pub mod status;
pub mod tables;
mod together;
mod trace;
pub mod witness;

pub use crate::plant::{PlantError, plant};

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use isthmus_model::clock::Clock;
use isthmus_model::ids::Origin;
use isthmus_store::engine::EngineError;
use isthmus_store::engine::rocks::{RocksEngine, RocksOptions};
use isthmus_store::{Store, StoreError, StoreOptions};
use rand::TryRngCore;
use rand::rngs::OsRng;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::caller::Callers;
use crate::config::Config;
use crate::node::{Node, NodeError};
use crate::peer::tls::{PeerTls, TlsError, TlsFiles};
use crate::quorum::{Quorum, QuorumError};

/// How long requests in work may take when the process is told to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// The exit status of a process that could not make a commit durable.
pub const EXIT_COMMIT_FAILED: i32 = 70;
/// The exit status of a process that found a fault of its own.
pub const EXIT_FAULT: i32 = 71;

/// Why a region cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The data directory cannot be used.
    #[error("open the data directory")]
    Engine(#[from] EngineError),
    /// What is stored cannot be read.
    #[error("open the store")]
    Store(#[from] StoreError),
    /// The node cannot start.
    #[error("start the node")]
    Node(#[from] NodeError),
    /// The files for TLS cannot be used.
    #[error("prepare TLS between regions")]
    Tls(#[from] TlsError),
    /// A port cannot be opened.
    #[error("listen on {address} for {purpose}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// For whom.
        purpose: &'static str,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The system gives no randomness.
    #[error("the system gives no randomness")]
    Randomness,
    /// It cannot take part in its quorum.
    #[error("take part in the quorum")]
    Quorum(#[from] QuorumError),
    /// The committer cannot run.
    #[error("start the committer")]
    Committer(#[source] std::io::Error),
}

/// Serves a region until `shutdown` is done; then lets requests in work end and closes the store.
pub async fn serve(
    config: Config,
    clock: Arc<dyn Clock>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServerError> {
    let tls = read_tls(&config)?;
    let ports = Ports::open(&config).await?;
    let engine = open_engine(&config)?;
    let store = open_store(&config, engine.clone(), clock.clone())?;
    let committer = start_committer(&store)?;
    let seed = OsRng.try_next_u64().map_err(|_| ServerError::Randomness)?;
    let shown = tls.as_ref().map(|(_, current)| current.subscribe());
    let node = Node::start(config, store.clone(), clock, shown, seed)?;
    let (stop, stopped) = watch::channel(false);
    let shown = tls.as_ref().map(|(_, current)| current.subscribe());
    let quorum = open_quorum(&node, shown, stopped.clone()).await?;
    let token_key = token_key(&store).await?;
    let boot = OsRng.try_next_u64().map_err(|_| ServerError::Randomness)?;
    let callers = Arc::new(Callers::new(node.config()));
    let api = http::PublicApi::new(node.clone(), callers.clone(), &token_key, boot);
    let api = Arc::new(api);
    node.serve_others_by(&api);
    keep(&node, "keep_reconciled", node.clone().keep_reconciled(stopped.clone()));
    keep(&node, "keep_lease", node.clone().keep_lease(stopped.clone()));
    keep(&node, "keep_failover", node.clone().keep_failover(stopped.clone()));
    keep(&node, "keep_probing_regions", node.clone().keep_probing_regions(stopped.clone()));
    keep(&node, "keep_writers", node.clone().keep_writers(stopped.clone()));
    keep(&node, "keep_distributed", node.clone().keep_distributed(stopped.clone()));
    keep(&node, "keep_up", node.clone().keep_up(stopped.clone()));
    keep(&node, "keep_digests", node.clone().keep_digests(stopped.clone()));
    keep(&node, "keep_swept", node.clone().keep_swept(stopped.clone()));
    keep(&node, "keep_tidy", Node::keep_tidy(engine, stopped.clone()));
    keep(&node, "watch_clocks", node.clone().watch_clocks(stopped.clone()));
    keep(&node, "keep_batches", node.clone().keep_batches(stopped.clone()));
    keep(&node, "keep_modes", node.clone().keep_modes(stopped.clone()));
    keep(&node, "keep_scrubbed", node.clone().keep_scrubbed(stopped.clone()));
    keep(&node, "keep_gauge", node.clone().keep_gauge(stopped.clone()));
    keep(&node, "keep_probing", node.clone().keep_probing(stopped.clone()));
    keep(&node, "keep_traces_exported", node.clone().keep_traces_exported(stopped.clone()));
    for other in node.others().values() {
        keep(&node, "keep_fresh", other.clone().keep_fresh(stopped.clone()));
        keep(&node, "keep_pushing", other.clone().keep_pushing(stopped.clone()));
        keep(&node, "keep_pulling", other.clone().keep_pulling(node.clone(), stopped.clone()));
        keep(&node, "keep_preparing", node.clone().keep_preparing(other.clone(), stopped.clone()));
        keep(&node, "keep_answering", other.clone().keep_answering(node.clone(), stopped.clone()));
    }
    if let Some((files, current)) = tls {
        let shown = current.subscribe();
        keep(
            &node,
            "peer port",
            peer::serve::serve(node.clone(), shown, ports.peer, stopped.clone()),
        );
        let (own, noticing) = (node.config().region.name.clone(), node.clone());
        let notice = move |kind, text| noticing.notice(kind, "", text, serde_json::Value::Null);
        let clock = node.clock().clone();
        let stop = stopped.clone();
        let renewed = peer::renew::keep_renewed(own, clock, notice, files, current, stop);
        keep(&node, "keep_renewed", renewed);
    }
    let admin = admin::AdminApi::new(node.clone(), callers).serve(ports.admin, stopped.clone());
    keep(&node, "administration port", admin);
    node.take_up_jobs();
    let public = tokio::spawn(fault::or_end("public port", api.serve(ports.public, stopped)));
    tracing::info!(
        region = %node.config().region.name,
        endpoint = %node.config().public.endpoint,
        "serving"
    );
    shutdown.await;
    tracing::info!("stopping");
    // Everybody who listens hears it; nobody listening is as good.
    let _ = stop.send(true);
    node.stop_jobs();
    let _ = tokio::time::timeout(STOP_TIMEOUT, public).await;
    node.finish_tasks(STOP_TIMEOUT).await;
    if let Some(quorum) = quorum {
        let _ = tokio::task::spawn_blocking(move || quorum.stop()).await;
    }
    store.stop();
    let _ = tokio::task::spawn_blocking(move || committer.join()).await;
    store.close()?;
    Ok(())
}

/// Lets the region take part in its quorum, if it has one.
async fn open_quorum(
    node: &Arc<Node>,
    tls: Option<watch::Receiver<PeerTls>>,
    mut stop: watch::Receiver<bool>,
) -> Result<Option<Arc<Quorum>>, ServerError> {
    let config = node.config().clone();
    let (Some(_), Some(tls)) = (&config.quorum, tls) else { return Ok(None) };
    let opening = move || {
        let own = (config.region.number, config.region.name.as_str());
        Quorum::open(&config.storage.data, own, &Quorum::voters(&config), &tls)
    };
    let opened = tokio::task::spawn_blocking(opening).await;
    let quorum = opened.map_err(|error| QuorumError::Runtime(std::io::Error::other(error)))??;
    node.decide_by(quorum.clone());
    let failing = quorum.clone();
    keep(node, "registry", async move {
        tokio::select! {
            reason = failing.failed() => {
                tracing::error!(reason, "the registry cannot go on; this region votes no more");
            }
            _ = stop.changed() => {}
        }
    });
    Ok(Some(quorum))
}

/// Lets a part of the region run that it cannot do without.
fn keep(node: &Node, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
    node.spawn(fault::or_end(name, work));
}

struct Ports {
    public: TcpListener,
    admin: TcpListener,
    peer: TcpListener,
}

impl Ports {
    /// Opens all ports before the store, so that a second process fails early and harmlessly.
    async fn open(config: &Config) -> Result<Ports, ServerError> {
        Ok(Ports {
            public: listen(config.public.listen, "clients").await?,
            admin: listen(config.admin.listen, "administration").await?,
            peer: listen(config.peer.listen, "other regions").await?,
        })
    }
}

async fn listen(address: SocketAddr, purpose: &'static str) -> Result<TcpListener, ServerError> {
    TcpListener::bind(address).await.map_err(|source| ServerError::Listen {
        address,
        purpose,
        source,
    })
}

/// Where the files for TLS are, and what they hold now.
fn read_tls(config: &Config) -> Result<Option<(TlsFiles, watch::Sender<PeerTls>)>, ServerError> {
    let peer = &config.peer;
    let (Some(certificate), Some(key), Some(authority)) =
        (peer.certificate.clone(), peer.key.clone(), peer.authority.clone())
    else {
        return Ok(None);
    };
    let files = TlsFiles { certificate, key, authority };
    let tls = files.parse(files.read()?)?;
    Ok(Some((files, watch::Sender::new(tls))))
}

fn open_engine(config: &Config) -> Result<Arc<RocksEngine>, ServerError> {
    let storage = &config.storage;
    let options = RocksOptions {
        memory_bytes: (storage.cache_bytes + storage.write_buffer_bytes) as usize,
        ..RocksOptions::default()
    };
    Ok(Arc::new(RocksEngine::open(&storage.data, &options)?))
}

fn open_store(
    config: &Config,
    engine: Arc<RocksEngine>,
    clock: Arc<dyn Clock>,
) -> Result<Arc<Store>, ServerError> {
    let storage = &config.storage;
    let options = StoreOptions {
        origin: Origin(config.region.number),
        skew_max: Duration::from_millis(config.peer.clock_skew_max_ms),
        log_tail_bytes_max: storage.log_tail_bytes as usize,
        past_bytes_max: storage.past_bytes as usize,
        space_reserve_bytes: storage.space_reserve_bytes,
        // Links compress whole parcels, which packs better and costs nothing without replicas.
        log_compression: false,
        digests: storage.digests,
        ..StoreOptions::new(Origin(config.region.number))
    };
    let store = Store::open(engine, clock, options)?;
    store.on_fatal(Arc::new(|error| {
        tracing::error!(%error, "a commit failed; the process ends and recovers at its next start");
        std::process::exit(EXIT_COMMIT_FAILED);
    }));
    Ok(store)
}

fn start_committer(store: &Arc<Store>) -> Result<std::thread::JoinHandle<()>, ServerError> {
    let store = store.clone();
    std::thread::Builder::new()
        .name("committer".to_owned())
        .spawn(move || fault::thread_or_end("committer", || store.run_committer()))
        .map_err(ServerError::Committer)
}

/// The key that seals page tokens: made once, so that a token outlives a restart.
async fn token_key(store: &Store) -> Result<Vec<u8>, ServerError> {
    const NOTE: &[u8] = b"page-token-key";
    if let Some(key) = store.note(NOTE)? {
        return Ok(key.to_vec());
    }
    let mut key = vec![0; 32];
    OsRng.try_fill_bytes(&mut key).map_err(|_| ServerError::Randomness)?;
    store.put_note(NOTE, &key).await?;
    Ok(key)
}
