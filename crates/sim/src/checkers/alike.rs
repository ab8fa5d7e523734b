//! When all is healed and drained, all regions show the same cells, and they are what all
//! durable entries together give.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use isthmus_model::change::Projection;
use isthmus_model::hlc::Stamp;
use isthmus_model::ids::PartitionId;
use isthmus_model::key::{EncodedKey, PrimaryKey};
use isthmus_model::row::{Column, Row};
use isthmus_model::show::show;
use isthmus_store::{Store, Table};

use super::Violation;
use super::acked::all_rows;
use super::registers::{Expired, live};
use crate::observer::{Observer, PartitionView, stamps_of};

const NAME: &str = "regions are alike";

fn broken(what: String) -> Result<(), Violation> {
    Err(Violation::of(NAME, what))
}

/// Compares all regions that count. `exact`: tombstones too, which a sweep above all of them has
/// removed.
pub(crate) fn check(
    observer: &Observer,
    stores: &[&Store],
    counts: impl Fn(usize, PartitionId) -> bool,
    now_millis: i64,
    exact: bool,
) -> Result<(), Violation> {
    for (partition, truth) in &observer.truth {
        let mut first: Option<BTreeMap<EncodedKey, Row>> = None;
        if stores.iter().all(|store| store.table_of_partition(*partition).is_none()) {
            // It was dropped.
            continue;
        }
        let (in_it, out): (Vec<usize>, Vec<usize>) =
            (0..stores.len()).partition(|node| counts(*node, *partition));
        let truth = match out.is_empty() {
            true => Cow::Borrowed(truth),
            false => Cow::Owned(observer.truth_without(*partition, &in_it, &out)),
        };
        let counting = stores.iter().enumerate().filter(|(node, _)| in_it.contains(node));
        for (node, store) in counting {
            let Some(table) = store.table_of_partition(*partition) else {
                return broken(format!("node {node} has no partition {partition}"));
            };
            let rows = rows_of(&table)?;
            check_truth(node, *partition, &table, &rows, &truth, observer)?;
            if exact {
                check_swept(node, *partition, &rows)?;
            }
            match &first {
                None => first = Some(rows),
                Some(first) => check_same(node, &table, first, &rows, now_millis, exact)?,
            }
        }
    }
    Ok(())
}

fn rows_of(table: &Table) -> Result<BTreeMap<EncodedKey, Row>, Violation> {
    match all_rows(table) {
        Ok(rows) => Ok(rows.into_iter().collect()),
        Err(error) => Err(Violation::of(NAME, format!("a table cannot be read: {error}"))),
    }
}

fn check_truth(
    node: usize,
    partition: PartitionId,
    table: &Table,
    rows: &BTreeMap<EncodedKey, Row>,
    truth: &BTreeMap<EncodedKey, Row>,
    observer: &Observer,
) -> Result<(), Violation> {
    let view = observer.view(node, partition);
    let expired = view.map_or(Expired::NOTHING, PartitionView::expired);
    let keys: BTreeSet<&EncodedKey> = rows.keys().chain(truth.keys()).collect();
    let nothing = Row::default();
    for key in keys {
        let have = live(rows.get(key).unwrap_or(&nothing), expired);
        let want = live(truth.get(key).unwrap_or(&nothing), expired);
        if have != want && !differs_by_alone(observer, partition, key, &have, &want) {
            return broken(format!(
                "node {node}, table {}, {key:?}: all entries give {want:?}, it has {have:?}",
                table.name()
            ));
        }
    }
    Ok(())
}

/// Whether a row differs from what all entries give only by what a region wrote while it was
/// unbound, of which others may have forgotten the kill.
fn differs_by_alone(
    observer: &Observer,
    partition: PartitionId,
    key: &EncodedKey,
    have: &Row,
    want: &Row,
) -> bool {
    let cells = |row: &Row| -> Vec<_> {
        let cells = |column: &Column| {
            let name = column.name.clone();
            column.cells.iter().map(move |cell| (name.clone(), cell.clone())).collect::<Vec<_>>()
        };
        row.columns.iter().flat_map(cells).collect()
    };
    let (had, wanted) = (cells(have), cells(want));
    let has_all = wanted.iter().all(|cell| had.contains(cell)) && have.marker >= want.marker;
    let known: BTreeSet<Stamp> = stamps_of(want).collect();
    let mut more = stamps_of(have).filter(|stamp| !known.contains(stamp));
    has_all && more.all(|stamp| observer.may_show(partition, key, have, stamp))
}

/// Nothing is left to remember.
fn check_swept(
    node: usize,
    partition: PartitionId,
    rows: &BTreeMap<EncodedKey, Row>,
) -> Result<(), Violation> {
    let left = rows.iter().find(|(_, row)| live(row, Expired::NOTHING) != **row);
    match left {
        None => Ok(()),
        Some((key, row)) => {
            broken(format!("node {node}, partition {partition}: {key:?} is not swept: {row:?}"))
        }
    }
}

fn check_same(
    node: usize,
    table: &Table,
    first: &BTreeMap<EncodedKey, Row>,
    rows: &BTreeMap<EncodedKey, Row>,
    now_millis: i64,
    exact: bool,
) -> Result<(), Violation> {
    if exact && first != rows {
        return broken(format!("node {node}: rows of {} differ from node 0's", table.name()));
    }
    let schema = table.schema();
    let view = table.view(now_millis);
    let shown = |rows: &BTreeMap<EncodedKey, Row>| {
        let one = |(key, row): (&EncodedKey, &Row)| {
            let key = PrimaryKey::decode(key).ok()?;
            show(row, key, &schema, &view, &Projection::default()).map(|shown| shown.row)
        };
        rows.iter().filter_map(one).collect::<Vec<_>>()
    };
    if shown(first) != shown(rows) {
        return broken(format!("node {node} shows other cells of {} than node 0", table.name()));
    }
    Ok(())
}
