//! The digest of a partition: sums over the parts of its rows, kept by the write path.
//!
//! Every accepted change of a row says what it changes in the digest; the changes of a group are
//! committed with its rows (`keys/digest_redo.rs`) and shown when the group is. So the digest in
//! memory belongs to exactly the rows that are durable, and after a crash the checkpointed pages
//! and the redo log make the same one again, without a scan. What counts of a row is said by
//! `rules`; `view` pairs a moment of the digest with the rows of that moment; `upkeep` does what
//! can wait: building, splitting, checkpoints; `scrub` re-reads rows to see whether the disk still
//! holds what was written.

mod cache;
mod live;
mod rules;
mod scrub;
mod upkeep;
mod view;

pub use rules::Rules;
pub use scrub::{BadRange, ScrubStep};
pub use view::{DigestView, ViewRow};

pub(crate) use cache::{Before, PartsCache, Tag};
pub(crate) use live::{LiveDigest, Silent, Stamped};
pub(crate) use rules::{Measure, families_of, kills_bucket, start_of_kills_bucket};
pub(crate) use upkeep::Checkpointing;

/// How the digest of a partition stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DigestState {
    /// It is not kept, by setting.
    Off,
    /// It is being built from the rows.
    Building {
        /// Rows that it holds by now.
        rows: u64,
    },
    /// It is current.
    Ready,
}

impl DigestState {
    /// In words, as the end of a sentence that begins with "the digest is".
    pub fn words(self) -> &'static str {
        match self {
            DigestState::Off => "switched off",
            DigestState::Building { .. } => "being built",
            DigestState::Ready => "ready",
        }
    }
}
