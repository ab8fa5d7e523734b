//! Answers the messages of other members.

use std::time::Duration;

use bytes::Bytes;
use openraft::error::{InstallSnapshotError, RaftError};
use openraft::raft::InstallSnapshotRequest;

use crate::error::RegistryError;
use crate::limits::{SNAPSHOT_BYTES_MAX, WITHIN_MAX};
use crate::message::{self, Answer, Piece, Question};
use crate::raft::Vote;
use crate::registry::{Registry, check_command, check_members};
use crate::{Machine, Member};

impl<M: Machine> Registry<M> {
    /// Answers a message that came from whoever bears that name, as their certificate proves.
    pub async fn answer(&self, from: &str, message: Bytes) -> Result<Bytes, RegistryError> {
        let (question, piece) = message::unpack::<Question<M>>(&message)?;
        let sender = self.sender(from)?;
        let answer = self.answer_to(&sender, question, piece).await?;
        message::pack(&answer, &[])
    }

    /// The member of that name: one of the quorum, or one that is said to be by whoever opened
    /// this, since the quorum's list here may be old.
    fn sender(&self, name: &str) -> Result<Member, RegistryError> {
        let metrics = self.raft.metrics();
        let seen = metrics.borrow();
        let mut nodes = seen.membership_config.nodes();
        let known = nodes.find(|(_, named)| named.name == name);
        let known = known.map(|(id, named)| Member::new(*id, named));
        let configured = || self.configured.iter().find(|member| member.name == name).cloned();
        known.or_else(configured).ok_or_else(|| RegistryError::NoMember(name.to_owned()))
    }

    /// Whether the member has a vote as far as is known here.
    fn is_voter(&self, member: &Member) -> bool {
        let metrics = self.raft.metrics();
        let seen = metrics.borrow();
        let mut voters = seen.membership_config.voter_ids().peekable();
        voters.peek().is_none() || voters.any(|id| id == member.id)
    }

    async fn answer_to(
        &self,
        sender: &Member,
        question: Question<M>,
        piece: Bytes,
    ) -> Result<Answer<M>, RegistryError> {
        match question {
            Question::Append(request) => {
                speaks_for_itself(sender, &request.vote)?;
                let appended = self.raft.append_entries(request).await;
                Ok(appended.map_or_else(|error| unknown(&error), Answer::Appended))
            }
            Question::Vote(request) => {
                speaks_for_itself(sender, &request.vote)?;
                if !self.is_voter(sender) {
                    return Err(RegistryError::NoMember(sender.name.clone()));
                }
                if !*self.settled.borrow() {
                    return Ok(Answer::Refused("this member has not settled yet".to_owned()));
                }
                let voted = self.raft.vote(request).await;
                Ok(voted.map_or_else(|error| unknown(&error), Answer::Voted))
            }
            Question::Install(head) => {
                speaks_for_itself(sender, &head.vote)?;
                Ok(self.install(head, piece).await)
            }
            Question::Propose { .. } | Question::Observe { .. } | Question::Change { .. }
                if !self.is_voter(sender) =>
            {
                Err(RegistryError::NoMember(sender.name.clone()))
            }
            Question::Propose { command, within_millis } => match check_command::<M>(&command) {
                Ok(()) => Ok(self.propose_here(command, within(within_millis)).await),
                Err(reason) => Ok(Answer::Refused(reason)),
            },
            Question::Observe { within_millis } => {
                Ok(self.observe_here(within(within_millis)).await)
            }
            Question::Change { members, within_millis } => match check_members(&members) {
                Ok(()) => Ok(self.change_members_here(members, within(within_millis)).await),
                Err(reason) => Ok(Answer::Refused(reason)),
            },
            Question::Probe => {
                let last_index = self.raft.metrics().borrow().last_log_index;
                // The first entry is the list of members that each begins with.
                Ok(Answer::Heard { is_blank: last_index.unwrap_or(0) == 0 })
            }
        }
    }

    async fn install(&self, head: Piece, piece: Bytes) -> Answer<M> {
        let Piece { vote, meta, offset, done } = head;
        if offset.saturating_add(piece.len() as u64) > SNAPSHOT_BYTES_MAX {
            return Answer::Refused(format!("a snapshot has at most {SNAPSHOT_BYTES_MAX} bytes"));
        }
        let data = piece.to_vec();
        let request = InstallSnapshotRequest { vote, meta, offset, data, done };
        match self.raft.install_snapshot(request).await {
            Ok(installed) => Answer::Installed(installed),
            Err(RaftError::APIError(InstallSnapshotError::SnapshotMismatch(mismatch))) => {
                let (expect, got) = (mismatch.expect.offset, mismatch.got.offset);
                Answer::OutOfOrder { expect, got }
            }
            Err(error) => unknown(&error),
        }
    }
}

/// Nobody leads or stands for election in another member's name.
fn speaks_for_itself(sender: &Member, vote: &Vote) -> Result<(), RegistryError> {
    match vote.leader_id().voted_for() == Some(sender.id) {
        true => Ok(()),
        false => Err(RegistryError::NoMember(sender.name.clone())),
    }
}

fn unknown<M: Machine>(error: &impl std::fmt::Display) -> Answer<M> {
    Answer::Unknown(error.to_string())
}

fn within(millis: u64) -> Duration {
    Duration::from_millis(millis).min(WITHIN_MAX)
}
