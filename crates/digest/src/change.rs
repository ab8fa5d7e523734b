//! x
use bytes::Bytes;
use crate::{Damaged, Lane, Parts, Sum};

/// One change of a tree: the unit of the redo log and of the ring of recent changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// What a row holds in a lane changed.
    Part {
        /// The encoded key of the row.
        key: Bytes,
        /// Where.
        lane: Lane,
        /// The new hash less the old one.
        delta: Sum,
        /// 1 if the part appeared, -1 if it went, 0 if it changed.
        rows: i8,
    },
    /// All `Time` lanes below this bucket are gone.
    DropTime(i64),
    /// All `Kills` lanes below this bucket are gone.
    DropKills(u64),
}

/// Bytes of a list of changes.
pub fn encode_changes(changes: &[Change]) -> Vec<u8> { let _ = changes; Vec::new() }
/// The list that was encoded.
pub fn decode_changes(bytes: &Bytes) -> Result<Vec<Change>, Damaged> { let _ = bytes; Ok(Vec::new()) }

/// Appends the changes that turn one state of a row's parts into another.
pub fn changes_between(key: &Bytes, before: &Parts, after: &Parts, out: &mut Vec<Change>) {
    for (lane, old) in before.iter() {
        match after.get(lane) {
            Some(new) if new == old => {}
            Some(new) => out.push(Change::Part { key: key.clone(), lane, delta: new - old, rows: 0 }),
            None => out.push(Change::Part { key: key.clone(), lane, delta: -old, rows: -1 }),
        }
    }
    for (lane, new) in after.iter() {
        if before.get(lane).is_none() {
            out.push(Change::Part { key: key.clone(), lane, delta: new, rows: 1 });
        }
    }
}
