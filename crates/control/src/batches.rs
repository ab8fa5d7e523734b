//! What regions do about batches that are made in several partitions or in none: what a process
//! remembers of those that it has begun, what it says of them, and how that is settled which they
//! have left. What locks rows and what a verdict means is in [`crate::atomic`].
//!
//! Pure: who asks whom, and when an entry is durable, is for the caller to see to. Whoever does not
//! answer has said nothing: neither that a batch is made, nor that it is given up, nor that a
//! member has settled it.

mod books;
mod telling;
mod upkeep;

use isthmus_model::atomic::{Intent, Verdict};

pub use books::{AnchorLog, Books, Tried};
pub use telling::{Settled, Telling};
pub use upkeep::Upkeep;

/// What a member does that hears what became of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It has no intent, so that it has settled it, or never had any. That may not be durable yet.
    Nothing,
    /// It ends its intent without a change.
    GiveUp,
    /// It makes the rows of its intent and ends it.
    Make(Intent),
}

impl Step {
    /// By the intent that there is. `made`: the batch is made, else it is given up for ever.
    pub fn of(intent: Option<Intent>, made: bool) -> Step {
        match intent {
            None => Step::Nothing,
            Some(_) if !made => Step::GiveUp,
            Some(intent) => Step::Make(intent),
        }
    }
}

/// Whether a batch is made, by what the region that writes its anchor has said; `None`: that is not
/// known yet.
pub fn is_made(verdict: Verdict) -> Option<bool> {
    match verdict {
        Verdict::Open => None,
        Verdict::Committed => Some(true),
        Verdict::Abandoned => Some(false),
    }
}

#[cfg(test)]
mod tests;
