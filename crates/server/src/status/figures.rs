//! What the loss of a region would cost, as far as it can be told now.

use serde::{Deserialize, Serialize};

/// What would be lost with the region that writes a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RpoStatus {
    /// Entries that no other region is known to hold.
    pub entries: u64,
    /// Age of the oldest of them; 0 where there is none.
    pub ms: u64,
    /// The other region that holds most.
    pub held_by: String,
}

/// For how long nobody would write a table if the region that writes it were lost now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RtoStatus {
    /// A person would have to say who writes next.
    pub by_hand: bool,
    /// At least so long, by the lease of the quorum; longer where a person decides.
    pub least_ms: u64,
    /// At most so long, while a majority is well; absent where a person decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most_ms: Option<u64>,
    /// What the last drill of the table has measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured_ms: Option<u64>,
}
