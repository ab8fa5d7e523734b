//! Tells of regions that are reached or lost, as events.

use std::collections::BTreeMap;

use serde_json::json;

use super::Node;
use super::events::EventKind;

/// Whether each other region was reached when it was last told.
#[derive(Default)]
pub(super) struct Reach(BTreeMap<String, bool>);

impl Reach {
    /// Tells what has changed since the last call.
    pub(super) fn look(&mut self, node: &Node) {
        let own = &node.config.region.name;
        for (region, other) in &node.others {
            let reached = other.reached();
            let before = self.0.insert(region.clone(), reached.connected).unwrap_or(false);
            let detail = json!({ "from": own, "to": region, "reason": reached.reason });
            match (before, reached.connected) {
                (false, true) => {
                    let text = format!("{own} reaches {region}");
                    node.notice(EventKind::RegionReached, "", text, detail);
                }
                (true, false) => {
                    let text = format!("{own} does not reach {region}: {}", reached.reason);
                    node.notice(EventKind::RegionLost, "", text, detail);
                }
                (true, true) | (false, false) => {}
            }
        }
    }
}
