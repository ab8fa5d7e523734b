//! Batches that are made in several partitions or in none, as the status tells of them.

use serde::{Deserialize, Serialize};

/// What a table keeps of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BatchesStatus {
    /// Batches of which it is not known here whether they are made; their rows are locked.
    pub in_doubt: u64,
    /// Some of them, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub oldest: Vec<BatchStatus>,
    /// Batches that were decided in this table and that not all others are known to have made.
    pub unsettled: u64,
}

/// A batch of which it is not known whether it is made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BatchStatus {
    /// Its name.
    pub batch: String,
    /// The table in which it is decided.
    pub anchor: String,
    /// Rows that it has locked here.
    pub rows: u64,
    /// For how long.
    pub waited_ms: u64,
}

/// Batches of several partitions since the answering region serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchCounts {
    /// Begun here, where their anchors are written.
    pub begun: u64,
    /// Of these, all that was asked for is made.
    pub made: u64,
    /// Nothing is made.
    pub refused: u64,
    /// Answered with a timeout: they are made or not, or not as safely as was asked for.
    pub unknown: u64,
    /// Parts of batches kept here that ended since the region told so that writes the anchor.
    pub settled_by_anchor: u64,
    /// The same since this region has asked for it.
    pub settled_by_upkeep: u64,
    /// The same since a person said so.
    #[serde(default)]
    pub settled_by_hand: u64,
}
