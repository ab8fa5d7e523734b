//! What the Raft library is told of this crate's types.

use std::fmt;
use std::io::Cursor;
use std::marker::PhantomData;
use std::time::Duration;

use openraft::impls::OneshotResponder;
use openraft::{AsyncRuntime, OptionalSend, RaftTypeConfig, TokioRuntime};
use serde::{Deserialize, Serialize};

use crate::limits::PATIENCE;
use crate::{Machine, Member};

pub(crate) type Raft<M> = openraft::Raft<Types<M>>;
pub(crate) type Entry<M> = openraft::Entry<Types<M>>;
pub(crate) type LogId = openraft::LogId<u64>;
pub(crate) type Vote = openraft::Vote<u64>;
pub(crate) type Membership = openraft::StoredMembership<u64, Named>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<u64, Named>;
pub(crate) type Snapshot<M> = openraft::Snapshot<Types<M>>;
pub(crate) type Metrics = openraft::RaftMetrics<u64, Named>;
pub(crate) type StorageError = openraft::StorageError<u64>;

/// The types of a registry of one machine.
pub(crate) struct Types<M>(PhantomData<fn() -> M>);

impl<M> Clone for Types<M> {
    fn clone(&self) -> Types<M> {
        *self
    }
}

impl<M> Copy for Types<M> {}

impl<M> Default for Types<M> {
    fn default() -> Types<M> {
        Types(PhantomData)
    }
}

impl<M> PartialEq for Types<M> {
    fn eq(&self, _: &Types<M>) -> bool {
        true
    }
}

impl<M> Eq for Types<M> {}

impl<M> PartialOrd for Types<M> {
    fn partial_cmp(&self, other: &Types<M>) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<M> Ord for Types<M> {
    fn cmp(&self, _: &Types<M>) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

impl<M> fmt::Debug for Types<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Types")
    }
}

impl<M: Machine> RaftTypeConfig for Types<M> {
    type D = Proposal<M>;
    type R = Reply<M>;
    type NodeId = u64;
    type Node = Named;
    type Entry = Entry<M>;
    type SnapshotData = Cursor<Vec<u8>>;
    type AsyncRuntime = Patient;
    type Responder = OneshotResponder<Types<M>>;
}

/// What is known of a member beside its number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Named {
    pub(crate) name: String,
}

/// A command in the log, and who put it there.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(bound = "")]
pub(crate) struct Proposal<M: Machine> {
    /// Number of the leader that appended it.
    pub(crate) by: u64,
    /// Which one of its proposals.
    pub(crate) number: u64,
    pub(crate) command: M::Command,
}

/// What came of an entry of the log; nothing where it holds no command.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(bound = "")]
pub(crate) struct Reply<M: Machine>(pub(crate) Option<M::Outcome>);

impl Member {
    pub(crate) fn new(id: u64, named: &Named) -> Member {
        Member { id, name: named.name.clone() }
    }

    pub(crate) fn named(&self) -> Named {
        Named { name: self.name.clone() }
    }
}

/// Tokio, with more patience for answers: the library gives one heartbeat to a question and its
/// answer, which is too little between continents.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Patient;

impl AsyncRuntime for Patient {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> =
        <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = <TokioRuntime as AsyncRuntime>::ThreadLocalRng;
    type OneshotSender<T: OptionalSend> = <TokioRuntime as AsyncRuntime>::OneshotSender<T>;
    type OneshotReceiverError = <TokioRuntime as AsyncRuntime>::OneshotReceiverError;
    type OneshotReceiver<T: OptionalSend> = <TokioRuntime as AsyncRuntime>::OneshotReceiver<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        TokioRuntime::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration * PATIENCE, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        TokioRuntime::thread_rng()
    }

    fn oneshot<T: OptionalSend>() -> (Self::OneshotSender<T>, Self::OneshotReceiver<T>) {
        TokioRuntime::oneshot()
    }
}
