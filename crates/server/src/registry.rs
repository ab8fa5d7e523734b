//! The door to what regions must agree on: who may acknowledge writes, who is suspended, who
//! opens the next epoch of a table.
//!
//! Behind it is a quorum (`quorum.rs`); a region without one has none, and failover is by hand.

use std::pin::Pin;
use std::sync::Arc;

use isthmus_control::agreed::{Agreed, Command, Outcome};

/// Why it is not known that a proposal was taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// It was surely not: no majority is reached.
    #[error("no majority of the voters is reached")]
    NoMajority,
    /// It may have been.
    #[error("whether the voters have taken it is not known")]
    Unknown,
}

/// What is agreed on, as far as it is known here.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Grows with each decision.
    pub index: u64,
    /// All of it.
    pub agreed: Arc<Agreed>,
}

/// What comes of a call that takes a while.
pub type Soon<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What regions must agree on.
pub trait Registry: Send + Sync {
    /// What is known here now; never goes back.
    fn known(&self) -> Known;

    /// Ends when more is known here than that.
    fn known_beyond(&self, index: u64) -> Soon<'_, ()>;

    /// Has a command decided. Bounded in time.
    fn propose(&self, command: Command) -> Soon<'_, Result<Outcome, ProposeError>>;
}
