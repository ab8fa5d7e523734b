//! Who says that it has a write has it durably and shows it, and has it after any crash.

use isthmus_model::entry::EntryBody;
use isthmus_model::ids::{Epoch, Lsn, Origin, PartitionId, TableId};
use isthmus_model::row::Row;
use isthmus_store::Table;

use super::Violation;
use super::registers::{Expired, live};
use crate::observer::Observer;
use crate::roles::node_of;

const NAME: &str = "who has a receipt's write shows it";

/// Names a write, as a client is given it.
#[derive(Clone, Debug)]
pub(crate) struct Receipt {
    pub(crate) table: TableId,
    pub(crate) partition: PartitionId,
    pub(crate) origin: Origin,
    pub(crate) epoch: Epoch,
    pub(crate) lsn: Lsn,
}

/// Checks a node that says it has the write.
pub(crate) fn check(
    observer: &Observer,
    node: usize,
    table: &Table,
    receipt: &Receipt,
) -> Result<(), Violation> {
    let (partition, maker) = (receipt.partition, node_of(receipt.origin));
    let broken = |what: &str| {
        let what = format!("node {node}, {}, {receipt:?}: {what}", table.name());
        Err(Violation::of(NAME, what))
    };
    if node != maker && !observer.holds(node, maker, partition, receipt.lsn) {
        return broken("it is not durable there");
    }
    let known = observer.known.get(&(partition, receipt.origin, receipt.lsn));
    let Some((known, view)) = known.zip(observer.view(node, partition)) else {
        return broken("nobody has made it");
    };
    let EntryBody::Rows(rows) = &known.entry.body else { return Ok(()) };
    let truth = observer.truth.get(&partition);
    for row in rows {
        let all = truth.and_then(|truth| truth.get(&row.key));
        let stored = view.stored().get(&row.key);
        let (all, stored) = (alive(all, view.expired()), alive(stored, view.expired()));
        for column in &row.delta.columns {
            // What nothing has killed since must be there.
            let is_in = |row: &Row, cell| {
                let column = row.column(column.name.as_bytes());
                column.is_some_and(|column| column.cells.contains(cell))
            };
            let mut cells = column.cells.iter();
            if cells.any(|cell| is_in(&all, cell) && !is_in(&stored, cell)) {
                return broken(&format!("column {:?} lacks it: {stored:?}", column.name));
            }
        }
    }
    Ok(())
}

fn alive(row: Option<&Row>, expired: Expired<'_>) -> Row {
    row.map(|row| live(row, expired)).unwrap_or_default()
}

/// Checks after a start what a node had said before it.
pub(crate) fn check_kept(
    observer: &Observer,
    node: usize,
    table: &Table,
    receipt: &Receipt,
) -> Result<(), Violation> {
    match table.has_written(receipt.origin, receipt.epoch, receipt.lsn) {
        true => check(observer, node, table, receipt),
        false => {
            let what = format!("node {node} had {receipt:?} and lacks it after a start");
            Err(Violation::of(NAME, what))
        }
    }
}
