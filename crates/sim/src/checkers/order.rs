//! Entries of one origin are applied in order and without holes; a watermark never goes back and
//! never says more than the origin has durable.

use std::collections::BTreeSet;

use isthmus_model::ids::{Lsn, Origin, PartitionId};
use isthmus_store::keys::partition::PartitionState;

use super::Violation;
use crate::observer::{Moved, Observer, PartitionView};
use crate::roles::{node_of, origin_of};

const NAME: &str = "order per origin";

fn broken(what: String) -> Result<(), Violation> {
    Err(Violation::of(NAME, what))
}

/// Checks a batch against what was durable before it.
pub(crate) fn check(
    observer: &Observer,
    node: usize,
    view: &PartitionView,
    moved: &Moved,
) -> Result<(), Violation> {
    let Some(after) = &moved.state else { return Ok(()) };
    let before = &view.state;
    let copied = moved.copied;
    if after.lsn < before.lsn || after.log_start < before.log_start || after.hlc < before.hlc {
        return broken(format!("node {node} went back from {before:?} to {after:?}"));
    }
    if after.log_start > after.lsn || after.epoch < before.epoch {
        return broken(format!("node {node} went from {before:?} to {after:?}"));
    }
    check_log(node, before, after, moved)?;
    let became_many = moved.became_many;
    if view.spec.writers.are_many() && !became_many {
        for mark in &before.watermarks {
            let now = after.watermark(mark.origin);
            if now.is_none_or(|now| now.lsn < mark.lsn || now.hlc < mark.hlc) {
                return broken(format!("node {node}: watermark {mark:?} became {now:?}"));
            }
        }
        for mark in &after.watermarks {
            let from = before.watermark(mark.origin).map_or(Lsn(0), |known| known.lsn);
            check_range(observer, node, view, moved, mark.origin, from, mark.lsn)?;
        }
    } else if origin_of(view.base) != origin_of(node) && !copied && !became_many {
        let base = origin_of(view.base);
        check_range(observer, node, view, moved, base, before.lsn, after.lsn)?;
    }
    Ok(())
}

/// The records of a batch join the log without a hole.
fn check_log(
    node: usize,
    before: &PartitionState,
    after: &PartitionState,
    moved: &Moved,
) -> Result<(), Violation> {
    let mut end = before.lsn;
    for (first, last) in &moved.ranges {
        if *first != end.next() && !moved.copied {
            return broken(format!("node {node}: a record begins at {first} after {end}"));
        }
        end = *last;
    }
    if !moved.copied && end != after.lsn {
        return broken(format!("node {node}: the log ends at {end}, the state says {}", after.lsn));
    }
    Ok(())
}

/// All that the origin has made in a range is in the batch that moves the watermark over it.
fn check_range(
    observer: &Observer,
    node: usize,
    view: &PartitionView,
    moved: &Moved,
    origin: Origin,
    from: Lsn,
    to: Lsn,
) -> Result<(), Violation> {
    let partition: PartitionId = view.spec.partition;
    let durable = observer.durable_lsn(node_of(origin), partition);
    if to > durable {
        let what = format!("node {node} holds {origin} through {to}, it has {durable} durable");
        return broken(what);
    }
    if moved.copied || to <= from {
        return Ok(());
    }
    let there: BTreeSet<Lsn> = moved
        .entries
        .iter()
        .filter(|entry| entry.stamp.origin == origin)
        .map(|entry| entry.origin_lsn)
        .collect();
    let range = (partition, origin, from.next())..=(partition, origin, to);
    for ((_, _, lsn), _) in observer.known.range(range) {
        if !there.contains(lsn) {
            let what = format!("node {node} passed {origin}'s entry {lsn} of {partition} by");
            return broken(what);
        }
    }
    Ok(())
}
