//! What regions agree on, by a Raft quorum of all of them and a witness, if there is one.
//!
//! The registry runs in a runtime of its own and speaks over connections of its own, so that
//! neither the work of clients nor a copy of a table holds up a heartbeat.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use isthmus_control::agreed::{Agreed, Command, Outcome};
use isthmus_protocol::error_code::ErrorCode;
use isthmus_registry::{
    Carrier, CarryError, Carrying, Machine, Member, Options, ProposeError as ProposeFailed,
    Standing,
};
use parking_lot::Mutex;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value as Json, json};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tonic::Code;
use tonic::transport::Channel;

use crate::api_error::ApiError;
use crate::config::Config;
use crate::node::Node;
use crate::peer::call::{Agree, Call, Question};
use crate::peer::dial::{channel, is_unsent};
use crate::peer::service::peer_client::PeerClient;
use crate::peer::tls::PeerTls;
use crate::registry::{Known, ProposeError, Registry, Soon};
use crate::status::QuorumStatus;

/// The directory below that of all data.
const DIRECTORY: &str = "registry";
/// Threads of the registry's own runtime.
const THREADS: usize = 2;
/// How long a proposal may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a change of those who vote may take.
const CHANGE_PATIENCE: Duration = Duration::from_secs(30);
/// How long the registry has to end.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of one message of the registry at most.
const MESSAGE_BYTES_MAX: usize = isthmus_registry::MESSAGE_BYTES_MAX + 1024;

/// What the registry agrees on. Kept behind a reference, so that what is told of it costs nothing.
#[derive(Clone, Debug, Default)]
struct Decisions(Arc<Agreed>);

impl Machine for Decisions {
    type Command = Command;
    type Outcome = Outcome;

    fn apply(&mut self, index: u64, command: &Command) -> Outcome {
        Arc::make_mut(&mut self.0).apply(index, command)
    }
}

impl Serialize for Decisions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Decisions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Decisions, D::Error> {
        Agreed::deserialize(deserializer).map(|agreed| Decisions(Arc::new(agreed)))
    }
}

/// Where a voter is.
pub struct Voter {
    /// Its number: that of the region, or the witness's.
    pub number: u8,
    /// The name in its certificate.
    pub name: String,
    /// `host:port` of its peer port.
    pub peer: String,
}

/// Why there is no quorum.
#[derive(Debug, thiserror::Error)]
pub enum QuorumError {
    /// There is no runtime for it.
    #[error("start the threads of the registry")]
    Runtime(#[from] std::io::Error),
    /// The registry cannot be opened.
    #[error("open the registry")]
    Registry(#[from] isthmus_registry::RegistryError),
    /// It cannot go on.
    #[error("the registry cannot go on: {0}")]
    Ended(String),
    /// An address cannot be used.
    #[error("address of {0} cannot be used")]
    Address(String, #[source] tonic::transport::Error),
}

/// One voter's part in the quorum.
pub struct Quorum {
    registry: Arc<isthmus_registry::Registry<Decisions>>,
    ways: Arc<Ways>,
    bytes: Arc<AtomicU64>,
    runtime: Mutex<Option<Runtime>>,
}

impl Quorum {
    /// Takes part as `own` with the others. Blocks until the registry is open: not for a thread
    /// of a runtime.
    pub fn open(
        data: &Path,
        own: (u8, &str),
        others: &[Voter],
        tls: &watch::Receiver<PeerTls>,
    ) -> Result<Arc<Quorum>, QuorumError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("registry")
            .enable_all()
            .build()?;
        let member = |number: u8, name: &str| Member { id: number.into(), name: name.to_owned() };
        let own_member = member(own.0, own.1);
        let mut members = vec![own_member.clone()];
        members.extend(others.iter().map(|other| member(other.number, &other.name)));
        members.sort();
        let directory = data.join(DIRECTORY);
        let in_it = runtime.enter();
        let bytes = Arc::<AtomicU64>::default();
        let ways = Arc::new(Ways::new(own.1, others, tls, bytes.clone())?);
        let opened = isthmus_registry::Registry::<Decisions>::open(
            &directory,
            own_member,
            members,
            Options::default(),
            ways.clone(),
        );
        let registry = runtime.block_on(opened)?;
        drop(in_it);
        let runtime = Mutex::new(Some(runtime));
        Ok(Arc::new(Quorum { registry, ways, bytes, runtime }))
    }

    /// The other voters that a region's configuration names.
    pub fn voters(config: &Config) -> Vec<Voter> {
        let regions = config.regions.iter().filter_map(|region| {
            let (number, name) = (region.number, region.name.clone());
            Some(Voter { number, name, peer: region.peer.clone()? })
        });
        let witness = config.quorum.as_ref().and_then(|quorum| quorum.witness.as_ref());
        let witness = witness.map(|witness| Voter {
            number: witness.number,
            name: witness.name.clone(),
            peer: witness.peer.clone(),
        });
        regions.chain(witness).collect()
    }

    /// Answers a message of another voter, whose certificate bears that name.
    pub async fn answer(&self, from: &str, message: Bytes) -> Result<Bytes, ApiError> {
        let asked = message.len();
        let answer = self.registry.answer(from, message).await;
        let answer = answer.map_err(|error| ApiError::invalid(error.to_string()))?;
        self.bytes.fetch_add((asked + answer.len()) as u64, Ordering::Relaxed);
        Ok(answer)
    }

    /// Asks another voter. `None`: it answers, and not this: its program may be older. An error
    /// says why there is no answer.
    pub(crate) async fn ask(
        &self,
        name: &str,
        question: Question,
        within: Duration,
    ) -> Result<Option<Bytes>, String> {
        match self.ways.ask(name, question, within).await {
            Ok(Ok(body)) => Ok(Some(body)),
            Ok(Err(failure)) => Err(failure),
            Err(NoAnswer::Refused(_)) => Ok(None),
            Err(NoAnswer::Unsent(why) | NoAnswer::Unknown(why)) => Err(why),
        }
    }

    /// Bytes that were said here to agree, and heard, since it was opened.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Lets these be those who vote from now on; they are named as in the configuration.
    pub async fn change_voters(&self, voters: Vec<Member>) -> Result<(), ProposeFailed> {
        self.registry.change_members(voters, CHANGE_PATIENCE).await
    }

    /// How it stands.
    pub fn standing(&self) -> Standing {
        self.registry.standing()
    }

    /// Is done, with the reason, when this voter cannot go on.
    pub async fn failed(&self) -> String {
        self.registry.failed().await
    }

    /// Takes no part any more. Blocks: not for a thread of a runtime.
    pub fn stop(&self) {
        let Some(runtime) = self.runtime.lock().take() else { return };
        let stop = async { tokio::time::timeout(STOP_PATIENCE, self.registry.stop()).await };
        if runtime.block_on(stop).is_err() {
            tracing::warn!("the registry has not ended in time");
        }
        runtime.shutdown_background();
    }
}

impl Drop for Quorum {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.lock().take() {
            runtime.shutdown_background();
        }
    }
}

/// The others learn that a command is decided with the next one. Where they wait for it, that is
/// one that changes nothing.
fn echo(command: &Command) -> Option<Command> {
    let of = |region: &String| {
        let (by, region) = (region.clone(), region.clone());
        Some(Command::Unsuspect { by, region })
    };
    match command {
        Command::Suspect { by, .. } | Command::Settle { by, .. } => of(by),
        Command::Claim { region, .. }
        | Command::Open { region, .. }
        | Command::Resign { region, .. }
        | Command::Rejoin { region, .. }
        | Command::Decide { region, .. }
        | Command::AcceptLoss { region, .. } => of(region),
        _ => None,
    }
}

impl Registry for Quorum {
    fn known(&self) -> Known {
        let applied = self.registry.state().borrow().clone();
        Known { index: applied.index, agreed: applied.state.0.clone() }
    }

    fn known_beyond(&self, index: u64) -> Soon<'_, ()> {
        let mut state = self.registry.state();
        Box::pin(async move {
            // It ends with the registry, too.
            let _ = state.wait_for(|applied| applied.index > index).await;
        })
    }

    fn propose(&self, command: Command) -> Soon<'_, Result<Outcome, ProposeError>> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let registry = self.registry.clone();
        let proposed = async move {
            let echo = echo(&command);
            let done = registry.propose(command, PATIENCE).await;
            let is_done =
                matches!(&done, Ok((_, outcome)) if !matches!(outcome, Outcome::Refused(_)));
            // Who asked may be gone.
            let _ = sender.send(done);
            if let Some(echo) = echo.filter(|_| is_done) {
                let _ = registry.propose(echo, PATIENCE).await;
            }
        };
        if let Some(runtime) = &*self.runtime.lock() {
            runtime.spawn(proposed);
        }
        Box::pin(async move {
            match receiver.await {
                Ok(Ok((_, outcome))) => Ok(outcome),
                Ok(Err(ProposeFailed::NoLeader)) => Err(ProposeError::NoMajority),
                Ok(Err(ProposeFailed::Refused(why))) => {
                    tracing::warn!(why, "a proposal was refused");
                    Err(ProposeError::NoMajority)
                }
                Ok(Err(ProposeFailed::Unknown(_))) | Err(_) => Err(ProposeError::Unknown),
            }
        })
    }
}

impl Node {
    /// How the quorum stands that this region takes part in.
    pub(crate) fn quorum_status(&self) -> Option<QuorumStatus> {
        let standing = self.quorum()?.standing();
        let lease_ms = self.config().quorum.clone().unwrap_or_default().lease_ms;
        Some(QuorumStatus {
            members: standing.members.into_iter().map(|member| member.name).collect(),
            leader: standing.leader,
            term: standing.term,
            stored: standing.last_index,
            applied: standing.applied_index,
            votes: standing.votes,
            majority_heard_ms_ago: standing.quorum_acked_millis,
            lease_ms,
            detection: self.detection_status(),
        })
    }

    /// Lets those vote that a person names. `body` is JSON: their names, as in the configuration.
    pub(crate) async fn change_voters(&self, body: &[u8]) -> Result<Json, ApiError> {
        let wish: VotersWish = serde_json::from_slice(body)
            .map_err(|error| ApiError::invalid(format!("The wish is wrong: {error}.")))?;
        let quorum = self.quorum().ok_or_else(|| {
            ApiError::invalid("This region takes no part in a quorum; see [quorum] of its file.")
        })?;
        let own = &self.config().region;
        let known = Quorum::voters(self.config());
        let known = known.iter().map(|voter| (voter.name.as_str(), voter.number));
        let known: BTreeMap<&str, u8> = known.chain([(own.name.as_str(), own.number)]).collect();
        let mut voters = Vec::new();
        for name in &wish.voters {
            let number = known.get(name.as_str()).ok_or_else(|| {
                ApiError::invalid(format!(
                    "{name} is no region and no witness in the file of region {}.",
                    own.name
                ))
            })?;
            voters.push(Member { id: (*number).into(), name: name.clone() });
        }
        match quorum.change_voters(voters).await {
            Ok(()) => Ok(json!({ "voters": wish.voters })),
            Err(ProposeFailed::Refused(why)) => Err(ApiError::invalid(format!("{why}."))),
            Err(ProposeFailed::NoLeader) => Err(ApiError::new(
                ErrorCode::ServerUnavailable,
                "No majority of those who vote is reached. Nothing was changed.",
            )),
            Err(ProposeFailed::Unknown(why)) => Err(ApiError::new(
                ErrorCode::Timeout,
                format!("Whether it was changed is not known: {why}. It may be asked again."),
            )),
        }
    }
}

/// Who is to vote.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VotersWish {
    voters: Vec<String>,
}

/// The ways to the other voters.
struct Ways {
    own: String,
    /// Where connections live, whoever makes them: not beside the work of clients.
    runtime: OnceLock<tokio::runtime::Handle>,
    /// Counts those of messages of the registry.
    bytes: Arc<AtomicU64>,
    ways: BTreeMap<String, Way>,
}

struct Way {
    address: String,
    /// With the certificates that it was made with.
    channel: Mutex<(watch::Receiver<PeerTls>, Channel)>,
}

impl Ways {
    fn new(
        own: &str,
        others: &[Voter],
        tls: &watch::Receiver<PeerTls>,
        bytes: Arc<AtomicU64>,
    ) -> Result<Ways, QuorumError> {
        let mut ways = BTreeMap::new();
        for other in others {
            let mut tls = tls.clone();
            let made = channel(&other.name, &other.peer, &tls.borrow_and_update());
            let made = made.map_err(|error| QuorumError::Address(other.name.clone(), error))?;
            let channel = Mutex::new((tls, made));
            ways.insert(other.name.clone(), Way { address: other.peer.clone(), channel });
        }
        Ok(Ways { own: own.to_owned(), runtime: OnceLock::new(), bytes, ways })
    }

    /// Asks one question. An answer is a body, or says why the voter does not do what is asked.
    async fn ask(
        &self,
        name: &str,
        question: Question,
        within: Duration,
    ) -> Result<Result<Bytes, String>, NoAnswer> {
        let Some(way) = self.ways.get(name) else {
            return Err(NoAnswer::Unsent(format!("{name} is not configured")));
        };
        let client = {
            let _within = self.runtime.get().map(tokio::runtime::Handle::enter);
            PeerClient::new(way.channel(name))
        };
        let mut client = client
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let call = Call { from: self.own.clone(), question: Some(question) };
        let mut request = tonic::Request::new(call);
        request.set_timeout(within);
        match tokio::time::timeout(within, client.call(request)).await {
            Err(_) => Err(NoAnswer::Unknown("no answer in time".to_owned())),
            Ok(Ok(answer)) => {
                let reply = answer.into_inner();
                Ok(match reply.failure {
                    None => Ok(reply.body),
                    Some(failure) => Err(failure.message),
                })
            }
            Ok(Err(status)) => {
                let message = status.message().to_owned();
                Err(match (is_unsent(&status), is_refusal(status.code())) {
                    (true, _) => NoAnswer::Unsent(message),
                    (false, true) => NoAnswer::Refused(message),
                    (false, false) => NoAnswer::Unknown(message),
                })
            }
        }
    }
}

impl Way {
    /// The connection, made anew where there are new certificates.
    fn channel(&self, name: &str) -> Channel {
        let mut kept = self.channel.lock();
        if kept.0.has_changed().unwrap_or(false) {
            let current = kept.0.borrow_and_update().clone();
            match channel(name, &self.address, &current) {
                Ok(channel) => kept.1 = channel,
                Err(error) => tracing::error!(%name, %error, "no new connection"),
            }
        }
        kept.1.clone()
    }
}

impl Carrier for Ways {
    fn carry<'a>(&'a self, to: &'a Member, message: Bytes, within: Duration) -> Carrying<'a> {
        Box::pin(async move {
            self.runtime.get_or_init(tokio::runtime::Handle::current);
            let asked = message.len();
            let answer = self.ask(&to.name, Question::Agree(Agree { message }), within).await;
            let answered = answer.as_ref().map_or(0, |body| body.as_ref().map_or(0, Bytes::len));
            self.bytes.fetch_add((asked + answered) as u64, Ordering::Relaxed);
            match answer {
                Ok(Ok(body)) => Ok(body),
                Ok(Err(why)) | Err(NoAnswer::Refused(why)) => Err(CarryError::Refused(why)),
                Err(NoAnswer::Unsent(why)) => Err(CarryError::Unsent(why)),
                Err(NoAnswer::Unknown(why)) => Err(CarryError::Unknown(why)),
            }
        })
    }
}

/// Why another voter has not answered.
enum NoAnswer {
    /// It was not asked.
    Unsent(String),
    /// It does not answer such questions of this voter.
    Refused(String),
    /// It may have been asked.
    Unknown(String),
}

fn is_refusal(code: Code) -> bool {
    matches!(code, Code::PermissionDenied | Code::Unimplemented | Code::Unauthenticated)
}
