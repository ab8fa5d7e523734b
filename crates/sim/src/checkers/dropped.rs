//! A drop takes effect where it stands in the log, and what is held goes only when all have it.

use isthmus_model::entry::EntryBody;

use super::Violation;
use crate::observer::{Moved, Observer, PartitionView};
use crate::roles::origin_of;

const AFTER: &str = "nothing is written to a dropped table";
const REMOVED: &str = "a dropped table goes when all regions have had the drop";

/// Checks that a node makes no entry of its own after a drop.
pub(crate) fn check(node: usize, view: &PartitionView, moved: &Moved) -> Result<(), Violation> {
    let mut is_dropped = view.spec.schema.options.is_dropped;
    for entry in &moved.entries {
        if is_dropped && entry.stamp.origin == origin_of(node) {
            return Err(Violation::of(AFTER, format!("node {node} made {entry:?}")));
        }
        is_dropped |= match &entry.body {
            EntryBody::Schema(schema) => schema.options.is_dropped,
            EntryBody::Rows(_)
            | EntryBody::Expiry(_)
            | EntryBody::Handover(_)
            | EntryBody::Opening
            | EntryBody::Settled(_)
            | EntryBody::Intent(_)
            | EntryBody::Abandoned(_)
            | EntryBody::Forgotten(_) => false,
        };
    }
    Ok(())
}

/// Checks that no region that holds a table which another one removes has still to hear of it.
pub(crate) fn check_removal(
    observer: &Observer,
    node: usize,
    view: &PartitionView,
) -> Result<(), Violation> {
    let partition = view.spec.partition;
    let others = (0..observer.nodes()).filter(|other| *other != node);
    let mut views = others.filter_map(|other| observer.view(other, partition)).chain([view]);
    match views.find(|view| !view.spec.schema.options.is_dropped) {
        None => Ok(()),
        Some(view) => {
            let name = &view.spec.name;
            let what = format!("node {node} removed {name}, which is not dropped everywhere");
            Err(Violation::of(REMOVED, what))
        }
    }
}
