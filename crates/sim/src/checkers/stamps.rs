//! LSNs and moments are never used twice, not even over a crash; promises are kept; an entry is
//! the same wherever it is.

use isthmus_model::entry::Entry;

use super::Violation;
use crate::observer::{Observer, PartitionView};
use crate::roles::origin_of;

const NAME: &str = "stamps are used once";

fn broken(what: String) -> Result<(), Violation> {
    Err(Violation::of(NAME, what))
}

/// Checks an entry that has become durable at a node.
pub(crate) fn check(
    observer: &Observer,
    node: usize,
    view: &PartitionView,
    entry: &Entry,
) -> Result<(), Violation> {
    let partition = view.spec.partition;
    let known = observer.known.get(&(partition, entry.stamp.origin, entry.origin_lsn));
    if entry.stamp.origin != origin_of(node) {
        return match known {
            Some(known) if known.entry.stamp == entry.stamp && known.entry.body == entry.body => {
                Ok(())
            }
            Some(known) => {
                broken(format!("node {node} has {entry:?}, its origin {:?}", known.entry))
            }
            None => broken(format!("node {node} has {entry:?}, its origin has it not")),
        };
    }
    if let Some(known) = known {
        // The only writer is given back what it has lost, by its log where that reaches so far.
        let is_the_same = known.entry.stamp == entry.stamp && known.entry.body == entry.body;
        let may_come_back = !view.spec.writers.are_many() && observer.was_put_back(node, partition);
        if is_the_same && may_come_back {
            return Ok(());
        }
        return broken(format!("node {node} used an LSN twice: {:?} and {entry:?}", known.entry));
    }
    if !observer.is_new_stamp(entry.stamp) {
        return broken(format!("node {node} used the stamp of {entry:?} twice"));
    }
    if entry.stamp.hlc <= view.own_hlc {
        return broken(format!("node {node}: {entry:?} is stamped before {}", view.own_hlc));
    }
    let promised = observer.promised(node);
    if entry.stamp.hlc < promised {
        return broken(format!("node {node} had promised {promised}, then made {entry:?}"));
    }
    Ok(())
}
