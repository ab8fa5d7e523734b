//! What is asked of the links of a distributed table: it is asked of those of each partition.
//!
//! A link belongs to the global table of a partition, as the regions that hold it do. So a
//! partition without such a link is passed over, and one that comes to other regions later has the
//! defaults there.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use isthmus_control::change::Change;
use isthmus_control::distribution::{Distribution, name_of_partition};
use isthmus_protocol::error_code::ErrorCode;
use serde_json::{Value as Json, json};

use super::TriggerAsked;
use crate::api_error::ApiError;
use crate::node::Node;
use crate::peer::call::Trigger;

/// Whether a change of a distributed table is one of links.
pub(in crate::node) fn is_of_links(change: &[u8]) -> bool {
    matches!(serde_json::from_slice(change), Ok(Change::SetLink(_)))
}

/// Passes over a partition that has no such link.
fn unless_missing<T>(told: Result<T, ApiError>, name: &str) -> Result<Option<T>, ApiError> {
    match told {
        Ok(told) => Ok(Some(told)),
        Err(error) if error.code == ErrorCode::ObjectNotExist => Ok(None),
        Err(error) => {
            let message = format!(
                "{} That is of {name}; those before it did what was asked, ask again for the rest.",
                error.message
            );
            Err(ApiError { message, ..error })
        }
    }
}

/// What came of a change of links in all partitions together.
#[derive(Default)]
struct Told {
    changed: bool,
    held_in: BTreeSet<String>,
    not_held_in: BTreeMap<String, String>,
    bases: BTreeSet<String>,
}

impl Told {
    /// What came of it in one more.
    fn add(&mut self, partition: &str, told: &Json) {
        self.changed |= told["changed"] == true;
        let Some(held_in) = told["held_in"].as_array() else { return };
        let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
        self.held_in.extend(held_in.iter().map(text));
        self.bases.insert(text(&told["base"]));
        for (region, why) in told["not_held_in"].as_object().into_iter().flatten() {
            let why = format!("{} That is of {partition}.", text(why));
            self.not_held_in.entry(region.clone()).or_insert(why);
        }
    }

    fn json(self, version: u64) -> Json {
        let mut told = json!({ "version": version, "changed": self.changed });
        if !self.held_in.is_empty() {
            told["held_in"] = json!(self.held_in);
            told["not_held_in"] = json!(self.not_held_in);
            told["base"] = Vec::from_iter(self.bases).join(", ").into();
        }
        told
    }
}

fn no_such_link() -> ApiError {
    ApiError::new(ErrorCode::ObjectNotExist, "No partition of the table has such a link.")
}

impl Node {
    /// Asks something of the links of all partitions, one after the other.
    pub(in crate::node) async fn set_links_of_partitions(
        &self,
        record: &Distribution,
        change: &Bytes,
    ) -> Result<Json, ApiError> {
        let (mut found, mut all) = (false, Told::default());
        for partition in &record.partitions {
            let name = name_of_partition(&record.name, partition.number);
            let told = self.change_one_global_table(&name, change.clone()).await;
            if let Some(told) = unless_missing(told, &name)? {
                found = true;
                all.add(&name, &told);
            }
        }
        match found {
            true => Ok(all.json(record.version)),
            false => Err(no_such_link()),
        }
    }

    /// Lets the links of all partitions ship what waits.
    pub(super) async fn trigger_links_of_partitions(
        &self,
        record: &Distribution,
        asked: &TriggerAsked,
    ) -> Result<Json, ApiError> {
        let mut triggered = 0;
        let is_origin = |region: &&String| asked.from.as_ref().is_none_or(|from| from == *region);
        for partition in &record.partitions {
            let name = name_of_partition(&record.name, partition.number);
            for origin in partition.held.iter().filter(is_origin) {
                let trigger = Trigger { table: name.clone(), to: asked.to.clone() };
                let told = self.trigger_from(origin, trigger).await;
                triggered += unless_missing(told, &name)?.unwrap_or(0);
            }
        }
        match triggered {
            0 => Err(no_such_link()),
            links => Ok(json!({ "triggered": links })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_links_are_held_is_told_of_all_partitions_together() {
        let mut all = Told::default();
        all.add("t/0000", &json!({ "version": 3, "changed": false }));
        let held = |regions: &[&str], base: &str, why: &str| {
            json!({
                "changed": true,
                "held_in": regions,
                "not_held_in": { base: why },
                "base": base,
            })
        };
        all.add("t/0001", &held(&["r2", "r3"], "r1", "It is away."));
        all.add("t/0002", &held(&["r3"], "r4", "It is away."));
        all.add("t/0003", &held(&["r2"], "r1", "It is still away."));
        let expected = json!({
            "version": 7,
            "changed": true,
            "held_in": ["r2", "r3"],
            "not_held_in": {
                "r1": "It is away. That is of t/0001.",
                "r4": "It is away. That is of t/0002.",
            },
            "base": "r1, r4",
        });
        assert_eq!(all.json(7), expected);
    }

    #[test]
    fn what_bases_have_done_is_told_as_a_change() {
        let mut all = Told::default();
        all.add("t/0000", &json!({ "version": 3, "changed": true }));
        assert_eq!(all.json(7), json!({ "version": 7, "changed": true }));
    }
}
