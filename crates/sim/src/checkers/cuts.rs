//! A table as of a cut that is safe shows exactly what all entries below it give, of all origins.

use std::collections::BTreeMap;

use isthmus_model::change::Direction;
use isthmus_model::entry::EntryBody;
use isthmus_model::hlc::Hlc;
use isthmus_model::ids::{Lsn, Origin};
use isthmus_model::key::EncodedKey;
use isthmus_model::row::Row;
use isthmus_store::codec::row::decode_row;
use isthmus_store::{StoreError, Table};

use super::Violation;
use super::registers::{Expired, live};
use crate::observer::Observer;
use crate::roles::node_of;

const NAME: &str = "a safe cut is complete and nothing more";

type Rows = BTreeMap<EncodedKey, Row>;

/// Checks what a node shows of a table as of a cut.
pub(crate) fn check(
    observer: &Observer,
    node: usize,
    table: &Table,
    cut: Hlc,
    direction: Direction,
) -> Result<(), Violation> {
    let Some(view) = observer.view(node, table.partition()) else { return Ok(()) };
    let expired = view.expired();
    let broken = |what: String| {
        let name = table.name();
        Err(Violation::of(NAME, format!("node {node}, {name} as of {cut}: {what}")))
    };
    let shown = match rows_at(table, cut, direction) {
        Ok(rows) => living(rows, expired),
        // The disk fails now and then.
        Err(StoreError::Engine(_)) => return Ok(()),
        Err(error) => return broken(error.to_string()),
    };
    let all = living(truth(observer, node, table, cut), expired);
    let partition = table.partition();
    let differs = |key: &&EncodedKey| {
        // Kills of what was written by a region that was unbound may be forgotten.
        shown.get(*key) != all.get(*key) && !observer.has_alone(partition, key)
    };
    match shown.keys().chain(all.keys()).find(differs) {
        None => Ok(()),
        Some(key) => {
            let (have, want) = (shown.get(key), all.get(key));
            broken(format!("{key:?}: all entries give {want:?}, shown is {have:?}"))
        }
    }
}

fn rows_at(table: &Table, cut: Hlc, direction: Direction) -> Result<Rows, StoreError> {
    let (seen, first) = (table.at_cut(cut)?, EncodedKey::default());
    let mut rows = Rows::new();
    for row in seen.scan_packed(&first, None, direction) {
        let (key, packed) = row?;
        let row = decode_row(&packed);
        let row = row.map_err(|source| StoreError::Corrupt { what: "row", source })?;
        rows.insert(key, row);
    }
    Ok(rows)
}

fn truth(observer: &Observer, node: usize, table: &Table, cut: Hlc) -> Rows {
    let partition = table.partition();
    let first = (partition, Origin(0), Lsn(0));
    let last = (partition, Origin(u8::MAX), Lsn(u64::MAX));
    let mut rows = Rows::new();
    for ((_, origin, lsn), known) in observer.known.range(first..=last) {
        // Who has left writes for itself, and shows that to its own clients.
        let is_alone = node_of(*origin) != node
            && observer.has_left(node_of(*origin), partition)
            && *lsn > observer.held(node, *origin, partition);
        if let EntryBody::Rows(deltas) = &known.entry.body
            && known.entry.stamp.hlc < cut
            && !is_alone
        {
            for row in deltas {
                rows.entry(row.key.clone()).or_default().merge(&row.delta);
            }
        }
    }
    rows
}

fn living(rows: Rows, expired: Expired<'_>) -> Rows {
    let rows = rows.into_iter().map(|(key, row)| (key, live(&row, expired)));
    rows.filter(|(_, row)| !row.is_bare()).collect()
}
