//! The ways to other members, as the Raft library wants them.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use openraft::error::{
    InstallSnapshotError, RPCError, RaftError, RemoteError, SnapshotMismatch, Unreachable,
};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use openraft::{RaftNetwork, RaftNetworkFactory, SnapshotSegmentId};

use crate::error::CarryError;
use crate::limits::PATIENCE;
use crate::message::{self, Answer, Piece, Question};
use crate::raft::{Named, Types};
use crate::voice::Voice;
use crate::{Carrier, Machine, Member};

/// Ways to all members.
pub(crate) struct Ways<M> {
    pub(crate) carrier: Arc<dyn Carrier>,
    pub(crate) voice: Arc<Voice>,
    /// Before a member is tried again that could not be reached.
    pub(crate) pause: Duration,
    pub(crate) machine: PhantomData<fn() -> M>,
}

/// The way to one member.
pub(crate) struct Way<M> {
    carrier: Arc<dyn Carrier>,
    voice: Arc<Voice>,
    pause: Duration,
    to: Member,
    machine: PhantomData<fn() -> M>,
}

type Failed<E> = RPCError<u64, Named, RaftError<u64, E>>;

impl<M: Machine> RaftNetworkFactory<Types<M>> for Ways<M> {
    type Network = Way<M>;

    async fn new_client(&mut self, target: u64, node: &Named) -> Way<M> {
        Way {
            carrier: self.carrier.clone(),
            voice: self.voice.clone(),
            pause: self.pause,
            to: Member::new(target, node),
            machine: PhantomData,
        }
    }
}

impl<M: Machine> Way<M> {
    async fn ask(
        &self,
        question: &Question<M>,
        piece: &[u8],
        within: Duration,
    ) -> Result<Answer<M>, Unreachable> {
        let answer = ask(&*self.carrier, &self.to, question, piece, within).await;
        answer.map_err(|error| Unreachable::new(&error))
    }

    /// Whether the member may be told anything: one that does not answer a leader without a
    /// majority would take it for a sound one.
    async fn may_speak(&self, within: Duration) -> Result<(), Unreachable> {
        if self.voice.is_silent() {
            self.ask(&Question::Probe, &[], within).await?;
        }
        Ok(())
    }
}

impl<M: Machine> RaftNetwork<Types<M>> for Way<M> {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types<M>>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, RPCError<u64, Named, RaftError<u64>>> {
        let within = option.hard_ttl() * PATIENCE;
        self.may_speak(within).await?;
        match self.ask(&Question::Append(request), &[], within).await? {
            Answer::Appended(response) => Ok(response),
            _ => Err(unexpected().into()),
        }
    }

    async fn install_snapshot(
        &mut self,
        request: InstallSnapshotRequest<Types<M>>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, Failed<InstallSnapshotError>> {
        let within = option.hard_ttl() * PATIENCE;
        self.may_speak(within).await?;
        let InstallSnapshotRequest { vote, meta, offset, data, done } = request;
        let id = meta.snapshot_id.clone();
        let piece = Piece { vote, meta, offset, done };
        match self.ask(&Question::Install(piece), &data, within).await? {
            Answer::Installed(response) => Ok(response),
            Answer::OutOfOrder { expect, got } => {
                let segment = |offset| SnapshotSegmentId { id: id.clone(), offset };
                let mismatch = SnapshotMismatch { expect: segment(expect), got: segment(got) };
                let source = RaftError::APIError(mismatch.into());
                Err(RemoteError::new(self.to.id, source).into())
            }
            _ => Err(unexpected().into()),
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, RPCError<u64, Named, RaftError<u64>>> {
        let within = option.hard_ttl() * PATIENCE;
        match self.ask(&Question::Vote(request), &[], within).await? {
            Answer::Voted(response) => Ok(response),
            _ => Err(unexpected().into()),
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(self.pause))
    }
}

/// Asks a member, and waits so long for the answer.
pub(crate) async fn ask<M: Machine>(
    carrier: &dyn Carrier,
    to: &Member,
    question: &Question<M>,
    piece: &[u8],
    within: Duration,
) -> Result<Answer<M>, CarryError> {
    let packed = message::pack(question, piece);
    let packed = packed.map_err(|error| CarryError::Refused(error.to_string()))?;
    let carried = tokio::time::timeout(within, carrier.carry(to, packed, within)).await;
    let answer = carried.unwrap_or_else(|_| Err(CarryError::Unknown("it took too long".into())))?;
    let unpacked = message::unpack(&answer);
    unpacked.map(|(answer, _)| answer).map_err(|error| CarryError::Unknown(error.to_string()))
}

/// A member answered something else than what was asked.
fn unexpected() -> Unreachable {
    Unreachable::new(&CarryError::Unknown("the answer does not fit the question".to_owned()))
}
