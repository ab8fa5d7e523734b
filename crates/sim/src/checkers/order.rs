//! Entries of one origin are applied in order and without holes; a watermark never goes back and
//! never says more than the origin has durable.
//!
//! Where an old disk was put back, the log of its region has forked (`branches.rs`), and the same
//! is asked of each branch: whoever follows by entries has all that lies on one of them, from the
//! beginning, and nothing of another. What lies on a branch that was left is not part of the log
//! that he follows: the region that makes the log has lost it, too, and may go on, before it hears
//! of that from who holds it, at the same addresses. It then comes to all as rows of a copy.

use std::collections::{BTreeMap, BTreeSet};

use isthmus_model::ids::{Lsn, Origin};
use isthmus_store::keys::partition::PartitionState;

use super::Violation;
use crate::branches::BranchNumber;
use crate::observer::{Moved, Observer, PartitionView};
use crate::roles::{node_of, origin_of};

const NAME: &str = "order per origin";

/// The branches of the logs of origins on which a replica is.
type Followed = BTreeMap<Origin, BTreeSet<BranchNumber>>;

fn broken<T>(what: String) -> Result<T, Violation> {
    Err(Violation::of(NAME, what))
}

/// Checks a batch against what was durable before it. Gives on which branches of logs it leaves
/// the node, where that has changed.
pub(crate) fn check(
    observer: &Observer,
    node: usize,
    view: &PartitionView,
    moved: &Moved,
) -> Result<Followed, Violation> {
    let mut followed = Followed::new();
    let Some(after) = &moved.state else { return Ok(followed) };
    let before = &view.state;
    let copied = moved.copied;
    if after.lsn < before.lsn || after.log_start < before.log_start || after.hlc < before.hlc {
        return broken(format!("node {node} went back from {before:?} to {after:?}"));
    }
    if after.log_start > after.lsn || after.epoch < before.epoch {
        return broken(format!("node {node} went from {before:?} to {after:?}"));
    }
    check_log(observer, node, view, moved, after)?;
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
            if mark.lsn > from {
                let on = follow(observer, node, view, moved, mark.origin, (from, mark.lsn))?;
                followed.insert(mark.origin, on);
            }
        }
    } else if !view.spec.writers.are_many() && !copied && !became_many {
        check_one_log(observer, node, view, moved)?;
    }
    Ok(followed)
}

/// With one writer all logs are the same, whoever wrote them.
fn check_one_log(
    observer: &Observer,
    node: usize,
    view: &PartitionView,
    moved: &Moved,
) -> Result<(), Violation> {
    let Some(after) = &moved.state else { return Ok(()) };
    let partition = view.spec.partition;
    let there: BTreeSet<Lsn> = moved.entries.iter().map(|entry| entry.lsn).collect();
    let made_here = moved.entries.iter().filter(|entry| entry.stamp.origin == origin_of(node));
    // The view is taken out of the observer meanwhile.
    let known = observer.longest_log(partition).max(view.state.lsn);
    let known = made_here.map(|entry| entry.lsn).max().map_or(known, |made| known.max(made));
    if after.lsn > known {
        return broken(format!("node {node} holds {}, made is {known}", after.lsn));
    }
    for lsn in observer.writers.made_in(partition, view.state.lsn, after.lsn) {
        if !there.contains(&lsn) {
            return broken(format!("node {node} passed entry {lsn} of {partition} by"));
        }
    }
    Ok(())
}

/// The records of a batch join the log without a hole.
fn check_log(
    observer: &Observer,
    node: usize,
    view: &PartitionView,
    moved: &Moved,
    after: &PartitionState,
) -> Result<(), Violation> {
    let before = &view.state;
    let mut end = before.lsn;
    if begins_run(observer, node, view, after) {
        // Beyond all that was given out before; what follows joins it.
        end = moved.ranges.first().map_or(after.lsn, |(first, _)| Lsn(first.0.saturating_sub(1)));
        if end <= before.lsn || after.log_start < end {
            return broken(format!("node {node}: a new run begins at {end} after {before:?}"));
        }
    }
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

/// Whether the log goes on elsewhere, as a region's does of several that write, once it has found
/// out that its disk is an old one.
fn begins_run(
    observer: &Observer,
    node: usize,
    view: &PartitionView,
    after: &PartitionState,
) -> bool {
    after.lives.run != view.state.lives.run
        && view.spec.writers.are_many()
        && observer.was_put_back(node, view.spec.partition)
}

/// The branches on which a node may be that has moved the watermark of an origin.
fn follow(
    observer: &Observer,
    node: usize,
    view: &PartitionView,
    moved: &Moved,
    origin: Origin,
    (from, to): (Lsn, Lsn),
) -> Result<BTreeSet<BranchNumber>, Violation> {
    let partition = view.spec.partition;
    let branches = observer.branches(partition, origin).filter(|all| !all.reaching(to).is_empty());
    let Some(branches) = branches else {
        let durable = observer.durable_lsn(node_of(origin), partition);
        let what = format!("node {node} holds {origin} through {to}, it has {durable} durable");
        return broken(what);
    };
    if moved.copied {
        return Ok(branches.reaching(to));
    }
    let taken = taken_of(moved, origin, from, to);
    let on = branches.followed(&view.on(origin), (from, to), &taken);
    if on.is_empty() {
        return broken(format!(
            "node {node} went from {from} to {to} of {origin} in {partition} with {taken:?}: \
             something is passed by, or is of another branch than what it has"
        ));
    }
    Ok(on)
}

/// The entries of an origin in a batch.
fn taken_of(moved: &Moved, origin: Origin, from: Lsn, to: Lsn) -> BTreeSet<Lsn> {
    let of_origin = moved.entries.iter().filter(|entry| entry.stamp.origin == origin);
    of_origin.map(|entry| entry.origin_lsn).filter(|lsn| *lsn > from && *lsn <= to).collect()
}
