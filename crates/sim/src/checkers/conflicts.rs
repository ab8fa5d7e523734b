//! The log of conflicts has each conflict that happened, once, with both values; and none of
//! changes of which one knew the other.
//!
//! What a region knew when it made a change is what lay before it in its log, of which the
//! observer keeps account. A conflict is asked for where a change comes to a region that shows one
//! of its own in the same column, which the other one did not know of.

use std::collections::BTreeSet;

use isthmus_model::apply::Granularity;
use isthmus_model::conflict::Side;
use isthmus_model::entry::{Entry, EntryBody};
use isthmus_model::hlc::Stamp;
use isthmus_model::ids::{Origin, PartitionId};
use isthmus_model::key::EncodedKey;
use isthmus_model::row::{Cell, Column, Row};
use isthmus_model::value::{Text, Value};
use isthmus_store::{Noticed, Writers};

use super::Violation;
use super::registers::live;
use crate::observer::{Known, Observer, PartitionView};
use crate::roles::origin_of;

const NAME: &str = "conflicts are told as they were";

/// A conflict that there must be: row, column, and the moment of the change from elsewhere.
pub(crate) type Asked = (EncodedKey, Text, Stamp);

/// What was noticed: where, and what of which two moments.
pub(crate) type Told = (usize, PartitionId, EncodedKey, Text, Stamp, Stamp);

fn broken<T>(node: usize, what: String) -> Result<T, Violation> {
    Err(Violation::of(NAME, format!("node {node}: {what}")))
}

/// The conflicts of an entry from elsewhere that is about to be taken in.
pub(crate) fn asked(
    observer: &Observer,
    node: usize,
    view: &PartitionView,
    entry: &Entry,
) -> Vec<Asked> {
    let (own, partition) = (origin_of(node), view.spec.partition);
    let has_rules = view.spec.schema.options.rules.is_some();
    let EntryBody::Rows(rows) = &entry.body else { return Vec::new() };
    let known = observer.known.get(&(partition, entry.stamp.origin, entry.origin_lsn));
    let knew = known.and_then(|known| known.knew.as_ref());
    let Some(knew) = knew.filter(|_| entry.seen.is_some() && !has_rules) else { return Vec::new() };
    let knew_of_own = knew.get(&own).copied().unwrap_or_default();
    let is_unknown = |stamp: Stamp| {
        let made = observer.made_at(partition, stamp);
        stamp.origin == own && made.is_some_and(|lsn| lsn > knew_of_own)
    };
    let mut asked = Vec::new();
    for row in rows {
        let Some(here) = view.shadow.get(&row.key).map(|row| live(row, view.expired())) else {
            continue;
        };
        for column in &row.delta.columns {
            let Some(known) = here.column(column.name.as_bytes()) else { continue };
            let cells = known.cells.iter().filter(|cell| is_unknown(cell.stamp));
            let mine = cells.max_by_key(|cell| (cell.stamp, cell.timestamp));
            let theirs = newest(column);
            let (Some(mine), Some(theirs)) = (mine, theirs) else { continue };
            let has_shares = !known.shares().is_empty() || !column.shares().is_empty();
            let is_alike = mine.value == theirs.value;
            let counts = view.spec.writers == Writers::ManyByColumn || !is_alike;
            if theirs.value.is_some() && counts && !has_shares {
                asked.push((row.key.clone(), column.name.clone(), entry.stamp));
            }
        }
    }
    asked
}

fn newest(column: &Column) -> Option<&Cell> {
    column.cells.iter().max_by_key(|cell| cell.timestamp)
}

/// Checks what a batch has noticed.
pub(crate) fn check(
    observer: &Observer,
    node: usize,
    view: &PartitionView,
    noticed: &[Noticed],
    asked: &[Asked],
) -> Result<(), Violation> {
    let mut left: BTreeSet<&Asked> = asked.iter().collect();
    for one in noticed {
        check_one(observer, node, view, one)?;
        let conflict = &one.conflict;
        left.retain(|(key, column, stamp)| {
            *key != one.key || *column != conflict.column || *stamp != conflict.there.stamp
        });
    }
    match left.first() {
        None => Ok(()),
        Some(missing) => broken(node, format!("{missing:?} is not told of: {noticed:?}")),
    }
}

/// Both changes were made, so, and neither region knew of the other one's.
fn check_one(
    observer: &Observer,
    node: usize,
    view: &PartitionView,
    noticed: &Noticed,
) -> Result<(), Violation> {
    let (partition, conflict) = (view.spec.partition, &noticed.conflict);
    if conflict.here.stamp.origin != origin_of(node)
        || conflict.there.stamp.origin == origin_of(node)
    {
        return broken(node, format!("it has no part in {noticed:?}"));
    }
    let known = |stamp: Stamp| {
        let lsn = observer.made_at(partition, stamp)?;
        observer.known.get(&(partition, stamp.origin, lsn))
    };
    let (Some(here), Some(there)) = (known(conflict.here.stamp), known(conflict.there.stamp))
    else {
        return broken(node, format!("nobody has made what is told: {noticed:?}"));
    };
    let knew = |one: &Known, other: &Known, origin: Origin| {
        let knew = one.knew.as_ref().and_then(|knew| knew.get(&origin));
        knew.is_some_and(|lsn| *lsn >= other.entry.origin_lsn)
    };
    if knew(there, here, conflict.here.stamp.origin)
        || knew(here, there, conflict.there.stamp.origin)
    {
        return broken(node, format!("one knew of the other: {noticed:?}"));
    }
    for (known, side) in [(here, &conflict.here), (there, &conflict.there)] {
        if !wrote(known, &noticed.key, &conflict.column, side) {
            let entry = &known.entry;
            return broken(node, format!("{noticed:?} tells otherwise than {entry:?}"));
        }
    }
    Ok(())
}

/// Whether an entry has written what is told of it.
fn wrote(known: &Known, key: &EncodedKey, column: &Text, side: &Side) -> bool {
    // What is made of shares is no cell.
    let is_plain = matches!(known.granularity, Granularity::Change | Granularity::WholeRow);
    let Some(delta) = known.delta(key) else { return false };
    let written = delta.column(column.as_bytes());
    let has_shares = written.is_some_and(|column| !column.shares().is_empty());
    if !is_plain || has_shares {
        return true;
    }
    match &side.written {
        Some((timestamp, value)) => written.is_some_and(|column| {
            let is_it = |cell: &Cell| cell.timestamp == *timestamp && is_value(cell, value);
            column.cells.iter().any(is_it)
        }),
        None => kills(delta, column),
    }
}

fn is_value(cell: &Cell, value: &Value) -> bool {
    cell.value.as_ref() == Some(value)
}

fn kills(delta: &Row, column: &Text) -> bool {
    let written = delta.column(column.as_bytes());
    delta.tombstone.is_some()
        || written.is_some_and(|column| {
            column.tombstone.is_some() || column.cells.iter().any(|cell| cell.value.is_none())
        })
}
