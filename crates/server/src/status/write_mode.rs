//! When writes of a table are answered, as the status tells it.

use serde::{Deserialize, Serialize};

/// How writes of a table wait for other regions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WriteModeStatus {
    /// `semi-sync`.
    pub answers: String,
    /// Other regions that must hold a write before it is answered.
    pub held_by: u8,
    /// Entries that so many others may lack before the region falls back.
    pub bound_entries: u64,
    /// How long they may lack one.
    pub bound_ms: u64,
    /// How long one write waits.
    pub patience_ms: u64,
    /// What happens past the bound: `wait`, `refuse` or `async`.
    pub fallback: String,
    /// Whether the others keep up; absent where the answering region does not write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<SyncState>,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<i64>,
    /// Entries written here that not so many others hold; absent where it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_entries: Option<u64>,
    /// Writes that wait now.
    #[serde(default)]
    pub waiting: u64,
    /// The regions that count, and what each holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holders: Vec<HolderStatus>,
}

/// What a region holds that counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HolderStatus {
    /// The region.
    pub region: String,
    /// Everything of the answering region through this is durable there; absent: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_lsn: Option<u64>,
}

/// Whether others keep up with the writes of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SyncState {
    /// They do.
    InSync,
    /// They do not.
    FallenBack,
}

impl WriteModeStatus {
    /// In few words, such as `semi-sync 1, in sync`.
    pub fn words(&self) -> String {
        let state = match self.state {
            Some(SyncState::InSync) => ", in sync".to_owned(),
            Some(SyncState::FallenBack) => format!(", fallen back: {}", self.fallback),
            None => String::new(),
        };
        format!("{} {}{state}", self.answers, self.held_by)
    }

    /// Whether it has fallen back.
    pub fn has_fallen_back(&self) -> bool {
        self.state == Some(SyncState::FallenBack)
    }
}
