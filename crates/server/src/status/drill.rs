//! What a drill has come to, as it is reported, kept and told.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A drill that has ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DrillStatus {
    /// Names it.
    pub id: String,
    /// What was tried: `region-loss`.
    pub kind: String,
    /// How: `suspend` or `kill-command`.
    pub how: String,
    /// The region that was lost for the time of it.
    pub region: String,
    /// The region through which clients were played.
    #[serde(default)]
    pub through: String,
    /// When it began.
    pub began_ms: i64,
    /// When it ended.
    pub ended_ms: i64,
    /// Whether nothing acknowledged was lost and the replicas are alike.
    pub passed: bool,
    /// Why it is not passed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The tables.
    pub tables: Vec<DrilledTable>,
}

/// What a drill has come to for one table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DrilledTable {
    /// Name.
    pub table: String,
    /// The region that wrote it meanwhile; absent: none did in time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writer: Option<String>,
    /// Rows that were acknowledged.
    pub acked_rows: u64,
    /// Of these, those that were missing afterwards.
    pub missing_rows: u64,
    /// Entries of the lost region, whoever wrote them, that no other one had as far as was known;
    /// absent where that could not be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_lost_entries: Option<u64>,
    /// Changes that were set aside when the region came back; absent where that could not be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_aside_rows: Option<u64>,
    /// The longest time from one acknowledged write to the next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rto_ms: Option<u64>,
    /// From the release of the region until its replica was like the others; absent: not in time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failback_ms: Option<u64>,
    /// Rows that differed at the end; absent where that could not be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub differing_rows: Option<u64>,
    /// Errors of writes and reads, by kind.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub errors: BTreeMap<String, u64>,
    /// Reads that were answered.
    #[serde(default)]
    pub reads: u64,
}

impl DrillStatus {
    /// Rows that were acknowledged and are missing, of all tables.
    pub fn missing_rows(&self) -> u64 {
        self.tables.iter().map(|table| table.missing_rows).sum()
    }

    /// The longest time without an acknowledged write; `None` where a table was not written again.
    pub fn rto_ms(&self) -> Option<u64> {
        let all: Option<Vec<u64>> = self.tables.iter().map(|table| table.rto_ms).collect();
        all?.into_iter().max()
    }
}
