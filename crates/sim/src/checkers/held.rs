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
