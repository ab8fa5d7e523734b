//! A write that was answered as held is durable in as many other regions as were asked for, so it
//! survives the loss of its own region with all of its disk.

use isthmus_model::ids::{Lsn, PartitionId};

use super::Violation;
use crate::node::Life;
use crate::observer::Observer;
use crate::options::TablePlan;

/// Checks, before a node takes a write, that it would wait for others where that is asked for:
/// from the first write of an epoch on.
pub(crate) fn check_in_force(
    node: usize,
    life: &Life,
    plans: &[TablePlan],
) -> Result<(), Violation> {
    for plan in plans.iter().filter(|plan| !plan.writers.are_many()) {
        let table = life.store.table(plan.id).filter(|_| life.roles.is_shared(plan.partition));
        if table.is_some_and(|table| !life.is_mode_in_force(&table)) {
            let what = format!("node {node} writes {} and waits for nobody", plan.name);
            return Err(Violation::of("asked to wait, it waits", what));
        }
    }
    Ok(())
}

/// Checks a write of a node at the moment when it is answered.
pub(crate) fn check(
    observer: &Observer,
    node: usize,
    partition: PartitionId,
    lsn: Lsn,
    held_by: usize,
) -> Result<(), Violation> {
    let others = (0..observer.nodes()).filter(|other| *other != node);
    let holds = |other: &usize| observer.holds(*other, node, partition, lsn);
    let holders = others.filter(holds).count();
    if holders >= held_by {
        return Ok(());
    }
    Err(Violation::of(
        "answered as held is held",
        format!("node {node} answered {lsn} of {partition}: {holders} of {held_by} others hold it"),
    ))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use isthmus_model::ids::{Epoch, Origin, SchemaNumber, TableId};
    use isthmus_model::key::KeyKind;
    use isthmus_model::schema::{KeyColumn, Schema, TableOptions};
    use isthmus_store::engine::{Batch, Space};
    use isthmus_store::keys;
    use isthmus_store::keys::partition::PartitionState;
    use isthmus_store::{TableSpec, Writers, Writing};

    use super::*;

    const TABLE: TableId = TableId(7);
    const PARTITION: PartitionId = PartitionId(7);

    fn key() -> Bytes {
        keys::table::encode_key(TABLE)
    }

    /// A dropped table is durable at a node through an LSN.
    fn has(observer: &mut Observer, node: usize, lsn: u64) {
        let options = TableOptions { is_dropped: true, ..TableOptions::default() };
        let column = KeyColumn { name: "k".into(), kind: KeyKind::Integer, auto_increment: false };
        let schema = Schema {
            number: SchemaNumber(1),
            key_columns: vec![column],
            defined_columns: Vec::new(),
            options,
        };
        let spec = TableSpec {
            id: TABLE,
            name: "dropped".into(),
            partition: PARTITION,
            schema,
            created_millis: 0,
            epoch: Epoch(1),
            base: Origin(1),
            writing: Writing::Accept,
            writers: Writers::One,
            writer: Origin(1),
            handed_over: None,
            settled: Default::default(),
        };
        let state = PartitionState { lsn: Lsn(lsn), ..PartitionState::default() };
        let mut batch = Batch::default();
        batch.put(Space::Meta, key(), keys::table::encode_value(&spec));
        let at = keys::partition::encode_key(PARTITION);
        batch.put(Space::Meta, at, keys::partition::encode_value(&state));
        observer.note_copy(node, PARTITION);
        observer.durable(node, &batch);
    }

    fn removes(observer: &mut Observer, node: usize) {
        let mut batch = Batch::default();
        batch.delete(Space::Meta, key());
        observer.durable(node, &batch);
    }

    fn is_held(observer: &Observer, lsn: u64) -> bool {
        check(observer, 0, PARTITION, Lsn(lsn), 2).is_ok()
    }

    #[test]
    fn what_was_held_counts_where_the_dropped_table_is_removed() {
        let mut observer = Observer::new(3);
        has(&mut observer, 0, 9);
        has(&mut observer, 1, 9);
        has(&mut observer, 2, 5);
        assert_eq!(observer.violation().map(|violation| violation.what), None);
        assert!(is_held(&observer, 5) && !is_held(&observer, 6));
        // They are removed before the region that is told by them answers what waits.
        removes(&mut observer, 2);
        assert!(is_held(&observer, 5) && !is_held(&observer, 6));
        removes(&mut observer, 1);
        assert!(is_held(&observer, 5) && !is_held(&observer, 6));
        assert_eq!(observer.violation().map(|violation| violation.what), None);
    }
}
