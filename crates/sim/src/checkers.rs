//! What must hold, one invariant per file; each is asked at every step that could break it.

pub(crate) mod acked;
pub(crate) mod alike;
pub(crate) mod bounds;
pub(crate) mod conflicts;
pub(crate) mod crossings;
pub(crate) mod cuts;
pub(crate) mod deleted;
pub(crate) mod digest;
pub(crate) mod dropped;
pub(crate) mod extracts;
pub(crate) mod held;
pub(crate) mod order;
pub(crate) mod prefix;
pub(crate) mod receipts;
pub(crate) mod registers;
pub(crate) mod replay;
pub(crate) mod stamps;
pub(crate) mod timing;
pub(crate) mod wishes;
pub(crate) mod writer;

/// An invariant that did not hold.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{invariant}: {what}")]
pub struct Violation {
    /// Which one.
    pub invariant: &'static str,
    /// How it showed.
    pub what: String,
}

impl Violation {
    /// Says how an invariant was broken.
    pub(crate) fn of(invariant: &'static str, what: impl Into<String>) -> Violation {
        Violation { invariant, what: what.into() }
    }
}
