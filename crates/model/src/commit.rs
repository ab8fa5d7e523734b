//! What synchronous commit decides: which changes of a table are held by enough replicas to be
//! committed, what a replica remembers of them, and what a writer takes over from the one before.
//!
//! Pure: the bytes of changes, the log and the wire live elsewhere. What must always hold: a change
//! that was answered is in the log of whoever writes later, wholly and once, and one that was
//! decided by nobody is gone as soon as a later term is settled.
//!
//! A writer has a change prepared by others before its own log holds it. The vote of the last one
//! that is needed is the decision ([`Votes`]). Nothing that was sent is taken back: whoever cannot
//! tell what became of it waits, with the rows locked. Entries reach the others in the order of the
//! log and end what they have prepared ([`Participant`]). A new term first gathers what is prepared
//! ([`Recovery`]), commits it, and settles: what is older and not in its log then is void.
//!
//! Not decided here is who writes, and when a lease has run out (`isthmus_control`).

mod participant;
mod recovery;
mod votes;

pub use participant::{Kept, MadeRange, Participant, Prepared, TailChange};
pub use recovery::{Answer, Found, Recovery};
pub use votes::{Count, Votes};

/// Changes that a writer has under way at most.
pub const PENDING_MAX: usize = 10_000;
/// Changes that a participant holds prepared at most: those under way, and those that are decided
/// and have not come to it by the log.
pub const PREPARED_MAX: usize = 100_000;
/// Entries of one change at most.
pub const PARTS_MAX: u32 = 100_000;

/// One writer's time from a start of its process on, or from when it began anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term {
    /// The epoch that it was granted.
    pub epoch: u64,
    /// Which of its lives in that epoch; the first is 0. A number is never used again, also by a
    /// process that has stopped before it wrote.
    pub life: u64,
}

/// Names a change that is prepared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TxId {
    /// In which term.
    pub term: Term,
    /// Which one there; from 1, none is left out.
    pub number: u64,
}

/// How many must hold a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// All others that count.
    TwoPhase,
    /// So many others that they and the writer are more than half.
    ThreePhase,
}

/// Why nothing was prepared, promised or counted. Other participants may have done it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nothing of an earlier term is taken any more.
    #[error("term {0} was promised; a later writer has begun")]
    Promised(Term),
    /// What is older and not in the log is void.
    #[error("term {0} is settled; what is older is void")]
    Settled(Term),
    /// There is no room.
    #[error("{0} changes are prepared; wait until some are committed")]
    TooMany(usize),
    /// There are none, too many, or not as many as before.
    #[error("a change cannot have {0} parts")]
    Parts(u32),
    /// Numbers follow each other.
    #[error("change {0} is not the next one")]
    NotNext(TxId),
    /// Of this term, or in this log, it does not know enough.
    #[error("entry {0} of the new writer's log is not held yet")]
    Behind(u64),
}

impl Term {
    /// The first one of an epoch: who has sealed a table for the epoch has promised this term.
    pub fn first_of(epoch: u64) -> Term {
        Term { epoch, life: 0 }
    }

    /// The next one in the same epoch.
    pub fn next(self) -> Term {
        Term { life: self.life + 1, ..self }
    }
}

impl std::fmt::Display for Term {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "{}.{}", self.epoch, self.life)
    }
}

impl std::fmt::Display for TxId {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "{}/{}", self.term, self.number)
    }
}

impl Form {
    /// How many of so many others must have voted for a change.
    pub fn votes_needed(self, others: usize) -> usize {
        match self {
            Form::TwoPhase => others,
            Form::ThreePhase => others.div_ceil(2),
        }
    }

    /// Of how many replicas, itself among them, a new writer must know what they have prepared:
    /// one of so many holds each change that was decided.
    pub fn answers_needed(self, others: usize) -> usize {
        others + 1 - self.votes_needed(others)
    }
}

impl std::fmt::Display for Form {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str(match self {
            Form::TwoPhase => "two-phase",
            Form::ThreePhase => "three-phase",
        })
    }
}

/// There is no such form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a synchronous write is committed two-phase or three-phase")]
pub struct NoForm;

impl std::str::FromStr for Form {
    type Err = NoForm;

    fn from_str(text: &str) -> Result<Form, NoForm> {
        match text {
            "two-phase" => Ok(Form::TwoPhase),
            "three-phase" => Ok(Form::ThreePhase),
            _ => Err(NoForm),
        }
    }
}

#[cfg(test)]
mod tests;
