//! Why replication fails.

use isthmus_model::error::{Kind, Outcome};
use isthmus_model::ids::Epoch;
use isthmus_store::StoreError;

/// Why a frame cannot be taken, or a link cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ReplicationError {
    /// What a peer sent is damaged.
    #[error("{0}")]
    Damaged(&'static str),
    /// What a peer packed against is not here.
    #[error("what the bytes were packed against is not here; to be sent whole")]
    PriorMissing,
    /// What a peer sent does not fit what was said before: the stream must end.
    #[error("peer broke the protocol: {0}")]
    Protocol(&'static str),
    /// The peer may not do this.
    #[error("{0}")]
    Refused(String),
    /// The store failed.
    #[error("store")]
    Store(#[from] StoreError),
}

impl ReplicationError {
    /// The kind of failure.
    pub fn kind(&self) -> Kind {
        match self {
            ReplicationError::Damaged(_) => Kind::Corrupt,
            ReplicationError::PriorMissing => Kind::NotFound,
            ReplicationError::Protocol(_) | ReplicationError::Refused(_) => Kind::Invalid,
            ReplicationError::Store(error) => error.kind(),
        }
    }

    /// The epoch that is obeyed where a sender was fenced.
    pub(crate) fn fenced_at(&self) -> Option<Epoch> {
        match self {
            ReplicationError::Store(StoreError::Fenced { epoch, .. }) => Some(*epoch),
            _ => None,
        }
    }

    /// Whether what was asked took effect.
    pub fn outcome(&self) -> Outcome {
        match self {
            ReplicationError::Damaged(_)
            | ReplicationError::PriorMissing
            | ReplicationError::Protocol(_)
            | ReplicationError::Refused(_) => Outcome::NotApplied,
            ReplicationError::Store(error) => error.outcome(),
        }
    }
}

/// An error and its sources in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        line.push_str(": ");
        line.push_str(&inner.to_string());
        source = inner.source();
    }
    line
}
