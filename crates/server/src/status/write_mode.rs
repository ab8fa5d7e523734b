//! When writes of a table are answered, as the status tells it.

use serde::{Deserialize, Serialize};

/// How writes of a table wait for other regions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WriteModeStatus {
    /// `semi-sync` or `sync`.
    pub answers: String,
    /// Whose votes decide a synchronous write: `two-phase` or `three-phase`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub form: Option<String>,
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
    /// Of a synchronous table that is written here: the term in which writes are made; absent: what
    /// earlier ones have left is not settled yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub term: Option<String>,
    /// Rows that are locked by writes that are under way.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub locked_rows: u64,
    /// Writes that are prepared and wait for votes, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub in_doubt: Vec<InDoubtStatus>,
    /// Writes of another region that are prepared here and not applied.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub prepared_here: u64,
    /// The regions that count, and what each holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holders: Vec<HolderStatus>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A write that is prepared and waits for votes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InDoubtStatus {
    /// Counts the writes of the term.
    pub number: u64,
    /// How long it has waited.
    pub waited_ms: u64,
    /// The regions that have voted.
    pub voted: Vec<String>,
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
        let in_doubt = match self.in_doubt.len() {
            0 => String::new(),
            count => format!(", {count} in doubt"),
        };
        match &self.form {
            Some(form) => format!("{} {form}{state}{in_doubt}", self.answers),
            None => format!("{} {}{state}", self.answers, self.held_by),
        }
    }

    /// Whether it has fallen back.
    pub fn has_fallen_back(&self) -> bool {
        self.state == Some(SyncState::FallenBack)
    }
}
