//! One write under way, and what it comes to.

use isthmus_model::commit::TxId;
use isthmus_model::error::Outcome;
use isthmus_model::ids::Lsn;
use isthmus_model::key::{EncodedKey, PrimaryKey};
use isthmus_store::{Beginning, Pending, Room, StoreError, Table};

use super::Ended;
use crate::sync::group::{Group, Results, Task};

pub(super) type Judged = Pending<Vec<Result<PrimaryKey, StoreError>>>;

/// A write.
pub(super) struct Job {
    pub(super) group: Group,
    pub(super) task: Task,
    /// The rows that it has locked.
    pub(super) keys: Vec<EncodedKey>,
    pub(super) tx: Option<TxId>,
    pub(super) room: Option<Room>,
    pub(super) state: State,
}

pub(super) enum State {
    /// For rows that others have locked.
    Waiting,
    Judging(Judged),
    Voting,
    Making(Pending<Results>),
    /// What was begun before is to be durable.
    Looking(Pending<()>),
    /// An intent ends without a change.
    GivingUp(Pending<()>),
    /// Others are to hold it.
    Holding(Lsn),
}

/// How a write goes on.
pub(super) enum Next {
    Later,
    Over(Ended),
    /// Nothing is written in this term any more.
    Stop,
}

impl Job {
    pub(super) fn make(&self, table: &Table) -> Pending<Results> {
        self.group.make(table, &self.task, self.tx, Beginning::Fresh)
    }

    pub(super) fn failed(&mut self, error: &StoreError, table: &Table) -> Next {
        match (error.outcome(), error) {
            (Outcome::Unknown, _) | (_, StoreError::NotWritable { .. } | StoreError::Stopped)
                if self.tx.is_some() =>
            {
                Next::Stop
            }
            // It is decided, and made later.
            _ if self.tx.is_some() => {
                self.state = State::Making(self.make(table));
                Next::Later
            }
            (Outcome::Unknown, _) => Next::Over(Ended::Unknown(None)),
            _ => Next::Over(Ended::Refused),
        }
    }
}

pub(super) fn unknown(job: &Job) -> Ended {
    Ended::Unknown(job.tx.map(|tx| tx.term))
}

/// The last entry of what was written; of nothing, the end of the log.
pub(super) fn written(results: Results, table: &Table) -> Result<Lsn, StoreError> {
    let mut last = table.durable_lsn();
    for result in results {
        last = result?.lsn;
    }
    Ok(last)
}
