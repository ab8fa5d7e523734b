//! What a person may change of a global table that is in use.
//!
//! A change is a small JSON document, so that the administration API, the command line and the
//! regions among themselves use one form. The base region applies it to the record, which gives
//! it the next version; the other regions obey the record. A change that is refused changes
//! nothing, and one that asks for what is there already keeps the version.

use serde::{Deserialize, Serialize};

use crate::global_table::{ControlError, GlobalTable};
use crate::link_rule::{LinkRule, Wanted};

/// A change of the record of a global table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Change {
    /// Runs, pauses or stops the link between two regions.
    SetLink {
        /// The origin's region.
        from: String,
        /// The replica's region.
        to: String,
        /// How the link is to stand.
        wanted: Wanted,
    },
}

impl GlobalTable {
    /// Applies a change. Returns whether anything is different now.
    pub fn change(&mut self, change: &Change) -> Result<bool, ControlError> {
        let before = self.clone();
        match change {
            Change::SetLink { from, to, wanted } => {
                self.link_rule_mut(from, to)?.wanted = *wanted;
            }
        }
        self.links.retain(|rule| !rule.is_default());
        if *self == before {
            return Ok(false);
        }
        self.version += 1;
        Ok(true)
    }

    /// What is asked of the link between two regions.
    pub fn link_rule(&self, from: &str, to: &str) -> LinkRule {
        let rule = self.links.iter().find(|rule| rule.from == from && rule.to == to);
        rule.cloned().unwrap_or_else(|| LinkRule::new(from, to))
    }

    /// The same, to change. Both regions must hold a replica.
    fn link_rule_mut(&mut self, from: &str, to: &str) -> Result<&mut LinkRule, ControlError> {
        for region in [from, to] {
            if self.replica(region).is_none() {
                return Err(ControlError::NoReplica(region.to_owned()));
            }
        }
        if !self.ships_to(from).any(|region| region == to) {
            return Err(ControlError::NoLink(from.to_owned(), to.to_owned()));
        }
        let known = self.links.iter().position(|rule| rule.from == from && rule.to == to);
        let place = known.unwrap_or_else(|| {
            self.links.push(LinkRule::new(from, to));
            self.links.len() - 1
        });
        Ok(&mut self.links[place])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::global_table::{Serve, Sync};

    fn table() -> GlobalTable {
        GlobalTable::new("t", 1, "r1", Sync::Row, Serve::PrimarySecondary)
            .with_replica("r2", false, 0)
            .unwrap()
    }

    fn set_link(from: &str, to: &str, wanted: Wanted) -> Change {
        Change::SetLink { from: from.to_owned(), to: to.to_owned(), wanted }
    }

    #[test]
    fn pausing_a_link_is_a_new_version_once() {
        let mut table = table();
        let version = table.version;
        assert_eq!(table.change(&set_link("r1", "r2", Wanted::Paused)), Ok(true));
        assert_eq!(table.change(&set_link("r1", "r2", Wanted::Paused)), Ok(false));
        assert_eq!(table.version, version + 1);
        assert_eq!(table.link_rule("r1", "r2").wanted, Wanted::Paused);
        assert_eq!(table.change(&set_link("r1", "r2", Wanted::Running)), Ok(true));
        assert!(table.links.is_empty());
    }

    #[test]
    fn links_that_do_not_exist_are_refused() {
        let mut table = table();
        let before = table.clone();
        for (from, to) in [("r2", "r1"), ("r1", "r1"), ("r1", "r9"), ("r9", "r2")] {
            assert!(table.change(&set_link(from, to, Wanted::Paused)).is_err(), "{from} {to}");
        }
        assert_eq!(table, before);
    }

    #[test]
    fn changes_are_plain_json() {
        let text = r#"{"change":"set-link","from":"r1","to":"r2","wanted":"paused"}"#;
        let change: Change = serde_json::from_str(text).unwrap();
        assert_eq!(change, set_link("r1", "r2", Wanted::Paused));
        assert_eq!(serde_json::to_string(&change).unwrap(), text);
        let unknown = r#"{"change":"set-link","from":"r1","to":"r2","wanted":"paused","x":1}"#;
        assert!(serde_json::from_str::<Change>(unknown).is_err());
    }
}
