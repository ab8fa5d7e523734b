//! What a person asks of one link of a global table. What is not asked has its default.

use serde::{Deserialize, Serialize};

/// How a link is to stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wanted {
    /// It ships.
    #[default]
    Running,
    /// It waits; the log is kept for it, within its budget.
    Paused,
    /// It is out of use: the log is not kept for it, and a copy of what differs heals it later.
    Stopped,
}

/// What is asked of one link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkRule {
    /// The origin's region.
    pub from: String,
    /// The replica's region.
    pub to: String,
    /// How it is to stand.
    #[serde(default)]
    pub wanted: Wanted,
}

impl LinkRule {
    /// The default between two regions.
    pub fn new(from: &str, to: &str) -> LinkRule {
        LinkRule { from: from.to_owned(), to: to.to_owned(), wanted: Wanted::default() }
    }

    /// Whether it asks for nothing but defaults.
    pub fn is_default(&self) -> bool {
        *self == LinkRule::new(&self.from, &self.to)
    }
}
