//! Partitions that are split and merged, as the status tells of them.

use serde::{Deserialize, Serialize};

/// A split or merge that is under way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReshapeStatus {
    /// The table.
    pub table: String,
    /// The partitions that end.
    pub sources: Vec<u32>,
    /// Those that take their place.
    pub targets: Vec<u32>,
    /// Why, in words.
    pub why: String,
    /// `filling`, `cancelling` or `removing`.
    pub phase: String,
    /// When it was begun.
    pub begun_ms: i64,
    /// `copying`, `following`, `ended` or `failed`; absent: it is done in another region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doing: Option<String>,
    /// Rows that were looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_done: Option<u64>,
    /// Of so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_total: Option<u64>,
    /// What it waits for, as far as the answering region knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<String>,
}

/// Splits and merges since the answering region serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReshapeCounts {
    /// Begun, of tables whose record is kept here.
    pub begun: u64,
    /// Done, the same.
    pub done: u64,
    /// Given up, the same.
    pub given_up: u64,
    /// How often writes of partitions that are written here were held.
    pub holds: u64,
    /// How often in vain.
    pub holds_in_vain: u64,
    /// For how long in all.
    pub held_ms: u64,
}
