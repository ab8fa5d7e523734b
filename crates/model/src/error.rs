//! The words that every error of the product is told in.

/// What kind of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The request is wrong and will be wrong again.
    Invalid,
    /// What it names does not exist.
    NotFound,
    /// What it would make exists.
    Exists,
    /// Its condition is not met.
    ConditionFailed,
    /// Another change is in the way; again may succeed.
    Conflict,
    /// Too much at once; again later.
    Busy,
    /// Not reachable or not ready; again later.
    Unavailable,
    /// Not allowed to write here, or no more.
    Fenced,
    /// Stored or received bytes are damaged.
    Corrupt,
    /// A bug.
    Internal,
}

/// Whether a failed change took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It did not and will not.
    NotApplied,
    /// It may have; only a read can tell.
    Unknown,
}
