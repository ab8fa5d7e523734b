//! A write that was answered as held is durable in as many other regions as were asked for, so it
//! survives the loss of its own region with all of its disk.

use isthmus_model::ids::{Lsn, PartitionId};

use super::Violation;
use crate::observer::Observer;

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
