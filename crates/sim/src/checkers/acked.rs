//! What was acknowledged is durable as it was asked for, and stays; what was refused never shows.

use isthmus_model::apply::{ApplyContext, Granularity, apply};
use isthmus_model::check::CheckedChange;
use isthmus_model::ids::PartitionId;
use isthmus_model::row::Row;
use isthmus_model::schema::Schema;
use isthmus_store::{Store, Table, Written};

use super::Violation;
use super::registers::live;
use crate::observer::Observer;
use crate::roles::origin_of;

const NAME: &str = "acknowledged is kept";

fn broken(what: String) -> Result<(), Violation> {
    Err(Violation::of(NAME, what))
}

/// Checks an answer: its entry is durable, and is what the change makes of the row before it.
pub(crate) fn check_answer(
    observer: &Observer,
    node: usize,
    partition: PartitionId,
    change: &CheckedChange,
    written: &Written,
    wall_millis: i64,
) -> Result<(), Violation> {
    let place = (partition, written.stamp.origin, written.lsn);
    let Some(known) = observer.known.get(&place) else {
        return broken(format!("node {node} acknowledged {written:?}, which is not durable"));
    };
    if known.entry.stamp != written.stamp || written.stamp.origin != origin_of(node) {
        return broken(format!("node {node} acknowledged {written:?}, durable is {known:?}"));
    }
    let encoded = written.key.encode();
    let Some(delta) = known.delta(&encoded) else {
        return broken(format!("{written:?} is not in its entry {:?}", known.entry));
    };
    let Some((before, schema)) = known.before(&encoded).zip(known.schema.as_ref()) else {
        return Ok(());
    };
    let again = Again { schema, granularity: known.granularity, wall_millis };
    again.check(node, &known.expiry, before, delta, change, written)
}

struct Again<'a> {
    schema: &'a Schema,
    granularity: Granularity,
    wall_millis: i64,
}

impl Again<'_> {
    fn check(
        &self,
        node: usize,
        expiry: &[isthmus_model::expiry::Expiry],
        before: &Row,
        delta: &Row,
        change: &CheckedChange,
        written: &Written,
    ) -> Result<(), Violation> {
        let context = ApplyContext {
            schema: self.schema,
            stamp: written.stamp,
            now_millis: self.wall_millis,
            granularity: self.granularity,
            expiry,
        };
        let again = apply(&context, Some(before), &written.key, change);
        let same = again.as_ref().is_ok_and(|again| {
            without_trims(&again.delta) == without_trims(delta) && again.shown == written.shown
        });
        if same {
            return Ok(());
        }
        broken(format!(
            "node {node}: {change:?} was judged otherwise: before it {before:?}, its delta \
             {delta:?}, it showed {:?}; judged again: {again:?}",
            written.shown
        ))
    }
}

/// Trims depend on what expired cells are still on the disk.
fn without_trims(row: &Row) -> Row {
    let mut row = row.clone();
    row.columns.iter_mut().for_each(|column| column.trims.clear());
    row.columns.retain(|column| !column.is_bare());
    row
}

/// Checks after a restart that everything which was durable is there.
pub(crate) fn check_restart(
    observer: &Observer,
    node: usize,
    store: &Store,
) -> Result<(), Violation> {
    for (partition, view) in observer.partitions(node) {
        let Some(table) = store.table_of_partition(*partition) else {
            return broken(format!("node {node} lost partition {partition}"));
        };
        if table.durable_lsn() != view.state.lsn || table.schema().number != view.spec.schema.number
        {
            let lsn = table.durable_lsn();
            return broken(format!("node {node}: {lsn} was {} before the crash", view.state.lsn));
        }
        let Ok(rows) = all_rows(&table) else { continue };
        if rows != view.stored_rows() {
            return broken(format!("node {node}: rows of {partition} changed in the crash"));
        }
    }
    Ok(())
}

/// All rows of a table, by key.
pub(crate) fn all_rows(
    table: &Table,
) -> Result<Vec<(isthmus_model::key::EncodedKey, Row)>, isthmus_store::StoreError> {
    let snapshot = table.snapshot()?;
    let first = isthmus_model::key::EncodedKey::default();
    snapshot.scan(&first, None, isthmus_model::change::Direction::Forward).collect()
}

/// Checks that a read shows what is durable and nothing else.
pub(crate) fn check_read(observer: &Observer, node: usize, table: &Table) -> Result<(), Violation> {
    let Some(view) = observer.view(node, table.partition()) else { return Ok(()) };
    let Ok(snapshot) = table.snapshot() else { return Ok(()) };
    let Ok(rows) = all_rows(table) else { return Ok(()) };
    if snapshot.lsn() != view.state.lsn || rows != view.stored_rows() {
        return broken(format!(
            "node {node} shows of {} what is not durable at {}",
            table.name(),
            snapshot.lsn()
        ));
    }
    for (key, row) in &rows {
        let shadow = view.shadow.get(key).cloned().unwrap_or_default();
        if live(&shadow, view.expired()) != live(row, view.expired()) {
            return broken(format!("node {node}, {key:?}: {row:?} is not what its log gives"));
        }
    }
    Ok(())
}
