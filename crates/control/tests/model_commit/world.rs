//! What there is: replicas with their logs, changes, who writes and who counts.

use isthmus_control::commit::{Participant, Recovery, Term, TxId, Votes};

/// How often something may happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Budget {
    pub(crate) writes: u8,
    pub(crate) failovers: u8,
    pub(crate) restarts: u8,
    pub(crate) deaths: u8,
    pub(crate) changes: u8,
    /// Writes without anybody else.
    pub(crate) asynchronous: u8,
    /// A person accepts that a term begins without those who do not answer.
    pub(crate) accepts: u8,
}

/// An entry of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Entry {
    Opening(u8),
    Settled(Term),
    /// Which change, and which part of it, from 1.
    Part(u8, u8),
}

/// A change that was sent, or written without anybody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Change {
    pub(crate) tx: TxId,
    pub(crate) writer: u8,
    pub(crate) row: u8,
    /// The change of the row on which it was judged.
    pub(crate) base: Option<u8>,
    /// Who has voted for it.
    pub(crate) votes: u8,
    /// Its client was told that nothing was written.
    pub(crate) is_refused: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Node {
    pub(crate) is_dead: bool,
    pub(crate) log: Vec<Entry>,
    pub(crate) participant: Participant,
    pub(crate) writing: Option<Writing>,
}

/// What a process that writes has in memory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Writing {
    pub(crate) term: Term,
    pub(crate) phase: Phase,
    /// Who will count, and the end of the log when that was asked for.
    pub(crate) coming: Option<(u8, u8)>,
    pub(crate) has_agreed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Phase {
    Gathering(Recovery<u8>),
    Committing(Vec<(TxId, u32)>),
    Settling,
    Open(Votes<u8>),
    Asynchronous,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) nodes: Vec<Node>,
    pub(crate) changes: Vec<Change>,
    /// What was answered, or could be read while nobody else had been granted an epoch.
    pub(crate) seen: Vec<u8>,
    pub(crate) epoch: u8,
    pub(crate) writer: u8,
    /// Who counts.
    pub(crate) members: u8,
    /// Nobody writes, and those have claimed.
    pub(crate) claims: Option<u8>,
    pub(crate) newest_open: Term,
    pub(crate) is_answered_twice: bool,
    /// The newest term that was begun without those who did not answer.
    pub(crate) accepted: Option<Term>,
    pub(crate) left: Budget,
}

pub(crate) fn bits(mask: u8) -> impl Iterator<Item = u8> {
    (0..8).filter(move |bit| mask & (1 << bit) != 0)
}

pub(crate) fn small(number: usize) -> u8 {
    u8::try_from(number).unwrap()
}

impl Entry {
    pub(crate) fn change(self) -> Option<u8> {
        match self {
            Entry::Part(change, _) => Some(change),
            _ => None,
        }
    }
}

impl Node {
    pub(crate) fn end(&self) -> u8 {
        small(self.log.len())
    }

    /// By which logs are compared: the epoch of the newest entry, and its LSN.
    pub(crate) fn reach(&self) -> (u8, u8) {
        let opening = self.log.iter().rev().find_map(|entry| match entry {
            Entry::Opening(epoch) => Some(*epoch),
            _ => None,
        });
        (opening.unwrap(), self.end())
    }

    pub(crate) fn sealed(&self) -> u8 {
        small(self.participant.promised().epoch as usize)
    }

    pub(crate) fn has_opened(&self, epoch: u8) -> bool {
        self.log.contains(&Entry::Opening(epoch))
    }

    pub(crate) fn parts_of(&self, change: u8) -> usize {
        self.log.iter().filter(|entry| entry.change() == Some(change)).count()
    }

    pub(crate) fn newest_of(&self, row: u8, changes: &[Change]) -> Option<u8> {
        self.log.iter().rev().find_map(|entry| match entry {
            Entry::Part(change, _) if changes[usize::from(*change)].row == row => Some(*change),
            _ => None,
        })
    }

    pub(crate) fn is_open(&self) -> bool {
        let phase = self.writing.as_ref().map(|writing| &writing.phase);
        !self.is_dead && matches!(phase, Some(Phase::Open(_) | Phase::Asynchronous))
    }
}

impl Change {
    /// Others are asked for it.
    pub(crate) fn is_prepared(&self) -> bool {
        self.tx.term.epoch > 0
    }
}

impl World {
    pub(crate) fn node(&self, node: u8) -> &Node {
        &self.nodes[usize::from(node)]
    }

    pub(crate) fn node_mut(&mut self, node: u8) -> &mut Node {
        &mut self.nodes[usize::from(node)]
    }

    pub(crate) fn number_of(&self, tx: TxId) -> u8 {
        small(self.changes.iter().position(|change| change.tx == tx).unwrap())
    }

    /// Through where the log of a node is that of the region that was granted the newest epoch.
    pub(crate) fn agrees_through(&self, node: u8) -> usize {
        let logs = self.node(node).log.iter().zip(&self.node(self.writer).log);
        logs.take_while(|(own, other)| own == other).count()
    }

    pub(crate) fn has_tail(&self, node: u8) -> bool {
        self.agrees_through(node) < self.node(node).log.len()
    }

    pub(crate) fn follows(&self, node: u8, writer: u8) -> bool {
        self.node(writer).log.starts_with(&self.node(node).log)
    }

    pub(crate) fn is_live(&self, node: u8) -> bool {
        !self.node(node).is_dead
    }

    pub(crate) fn live(&self) -> u8 {
        (0..small(self.nodes.len())).filter(|node| self.is_live(*node)).map(|node| 1 << node).sum()
    }

    pub(crate) fn pending(&self, writer: u8) -> Option<&Votes<u8>> {
        match &self.node(writer).writing.as_ref()?.phase {
            Phase::Open(votes) => Some(votes),
            _ => None,
        }
    }

    pub(crate) fn is_held_by(&self, writer: u8, term: Term) -> bool {
        self.writer == writer && u64::from(self.epoch) == term.epoch
    }

    pub(crate) fn see(&mut self, change: u8) {
        let is_prepared = self.changes[usize::from(change)].is_prepared();
        if is_prepared && !self.seen.contains(&change) {
            self.seen.push(change);
        }
    }
}
