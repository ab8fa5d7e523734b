//! What a few members agree on, by a Raft quorum in the members themselves.
//!
//! A registry is one pure state machine, the same in all members, which changes by commands in one
//! order. What must hold: a command whose outcome was told is never lost while a majority of the
//! members keep their disks, and no two members ever see two orders. Vote and log are durable
//! before anything is said of them. A leader that hears no majority falls silent, so that the
//! others can choose another one even where what it says still arrives.
//!
//! The rules of the machine are its owner's, and so is the way between members (`Carrier`); the
//! Raft protocol itself is a library's, of which nothing shows here.
//!
//! ```no_run
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use isthmus_registry::{Carrier, Machine, Member, Options, Registry};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Clone, Debug, Default, Serialize, Deserialize)]
//! struct Sum(u64);
//!
//! impl Machine for Sum {
//!     type Command = u64;
//!     type Outcome = u64;
//!     fn apply(&mut self, _index: u64, command: &u64) -> u64 {
//!         self.0 += command;
//!         self.0
//!     }
//! }
//!
//! # async fn run(carrier: Arc<dyn Carrier>) -> Result<(), Box<dyn std::error::Error>> {
//! let own = Member { id: 1, name: "r1".to_owned() };
//! let members = vec![own.clone()];
//! let options = Options::default();
//! let registry: Arc<Registry<Sum>> =
//!     Registry::open("data/registry".as_ref(), own, members, options, carrier).await?;
//! let (index, sum) = registry.propose(7, Duration::from_secs(5)).await?;
//! assert!(registry.state().borrow().index >= index && sum >= 7);
//! registry.stop().await;
//! # Ok(())
//! # }
//! ```

mod applier;
mod error;
mod file;
mod limits;
mod log;
mod message;
mod network;
mod raft;
mod registry;
mod serving;
mod settling;
#[cfg(test)]
mod tests;
mod voice;

use std::fmt::Debug;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use crate::error::{CarryError, ProposeError, RegistryError};
pub use crate::limits::{COMMAND_BYTES_MAX, MEMBERS_MAX, MESSAGE_BYTES_MAX};
pub use crate::registry::Registry;

/// The state that members agree on.
///
/// Pure and deterministic: the same commands in the same order give the same state and the same
/// outcomes everywhere. It is stored and sent as JSON, so that keys of maps must be text or
/// numbers.
pub trait Machine:
    Default + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static
{
    /// What is asked of it.
    type Command: Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static;
    /// What comes of it.
    type Outcome: Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static;

    /// Obeys the command at this place in the order.
    fn apply(&mut self, index: u64, command: &Self::Command) -> Self::Outcome;
}

/// One of those who agree.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Member {
    /// Its number, never another member's.
    pub id: u64,
    /// The name in its certificate.
    pub name: String,
}

/// How fast the members are to notice that their leader is gone.
///
/// Followers choose another leader one to two `election_timeout_max` after they last heard of it.
/// The way to a member and back, with one sync of its disk, may take up to four heartbeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// The least time without a leader before a member stands for election.
    pub election_timeout_min: Duration,
    /// The most.
    pub election_timeout_max: Duration,
    /// How often a leader says that it is there.
    pub heartbeat: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            election_timeout_min: Duration::from_millis(600),
            election_timeout_max: Duration::from_millis(1000),
            heartbeat: Duration::from_millis(150),
        }
    }
}

/// A message on its way, and its answer.
pub type Carrying<'a> = Pin<Box<dyn Future<Output = Result<Bytes, CarryError>> + Send + 'a>>;

/// How messages get to other members.
///
/// It hands the message to `Registry::answer` of the member of that name and brings back what that
/// gives. It proves who is at either end; the registry believes it.
pub trait Carrier: Send + Sync + 'static {
    /// Carries a message to a member and its answer back within that time.
    fn carry<'a>(&'a self, to: &'a Member, message: Bytes, within: Duration) -> Carrying<'a>;
}

/// What has been applied here.
#[derive(Clone, Debug)]
pub struct Applied<M> {
    /// The place in the order up to which it has been.
    pub index: u64,
    /// The state after that. After a start it may be older than before, until a leader is heard
    /// of; `Registry::observe` waits for that.
    pub state: Arc<M>,
}

/// How the registry stands, seen from one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Name of the leader, as far as is known here; `None`: there is none, or it is this member
    /// but hears no majority.
    pub leader: Option<String>,
    /// The term of the newest leader or candidate.
    pub term: u64,
    /// The last place in the order that is stored here.
    pub last_index: u64,
    /// The last place that is applied here.
    pub applied_index: u64,
    /// Who has a vote.
    pub members: Vec<Member>,
    /// Whether this member may vote: one whose disk is new may once it has what the others had.
    pub votes: bool,
    /// At the leader: how long ago a majority was last heard.
    pub quorum_acked_millis: Option<u64>,
}
