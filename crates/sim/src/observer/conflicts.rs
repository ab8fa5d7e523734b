//! Conflicts as they become durable, with the batch that brings the change from elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use isthmus_model::entry::Entry;
use isthmus_model::hlc::Stamp;
use isthmus_model::ids::{Lsn, Origin, PartitionId};
use isthmus_store::Noticed;

use super::{Moved, Observer, PartitionView};
use crate::checkers::conflicts::{Asked, Told};
use crate::checkers::{Violation, conflicts};
use crate::roles::origin_of;

/// What is known of conflicts.
#[derive(Debug, Default)]
pub(crate) struct Conflicts {
    told: BTreeSet<Told>,
    /// The last number that a node gave.
    last: BTreeMap<(usize, PartitionId), u64>,
    /// Where the entry of a moment lies in the log of its maker.
    made: BTreeMap<(PartitionId, Stamp), Lsn>,
    pub(crate) checked: u64,
}

/// What a region had of others while it takes in the entries of a batch.
pub(super) type Knew = BTreeMap<Origin, Lsn>;

/// What a replica had applied of each origin before a batch.
pub(super) fn knew_before(view: &PartitionView) -> Knew {
    view.state.watermarks.iter().map(|mark| (mark.origin, mark.lsn)).collect()
}

impl Observer {
    /// Where the entry of a moment lies in the log of its maker.
    pub(crate) fn made_at(&self, partition: PartitionId, stamp: Stamp) -> Option<Lsn> {
        self.conflicts.made.get(&(partition, stamp)).copied()
    }

    pub(super) fn note_made(&mut self, partition: PartitionId, entry: &Entry) {
        self.conflicts.made.insert((partition, entry.stamp), entry.origin_lsn);
    }

    /// Conflicts that there must be in a batch with an entry that is about to be taken in. Where an
    /// old disk was put back, nobody knows from addresses who knew what.
    pub(super) fn asked_of(&self, node: usize, view: &PartitionView, entry: &Entry) -> Vec<Asked> {
        let partition = view.spec.partition;
        let is_foreign = entry.stamp.origin != origin_of(node);
        match is_foreign && view.spec.writers.are_many() && self.are_addresses_sure(partition) {
            true => conflicts::asked(self, node, view, entry),
            false => Vec::new(),
        }
    }

    fn are_addresses_sure(&self, partition: PartitionId) -> bool {
        !(0..self.nodes.len()).any(|node| self.was_put_back(node, partition))
    }

    /// Judges the conflicts of a batch. `is_sure`: it is known entry by entry what it brings.
    pub(super) fn take_conflicts(
        &mut self,
        node: usize,
        view: &PartitionView,
        moved: &Moved,
        asked: &[Asked],
        is_sure: bool,
    ) -> Result<(), Violation> {
        let partition = view.spec.partition;
        if !self.are_addresses_sure(partition) {
            return Ok(());
        }
        let mut noticed: Vec<Noticed> = Vec::new();
        for (number, one) in &moved.conflicts {
            // What is dropped makes room for others.
            let Some(one) = one else { continue };
            let last = self.conflicts.last.entry((node, partition)).or_default();
            if *number != *last + 1 {
                let what = format!("node {node}: conflict {number} of {partition} after {last}");
                return Err(Violation::of("conflicts are told as they were", what));
            }
            *last = *number;
            noticed.push(one.clone());
        }
        if !is_sure {
            return Ok(());
        }
        conflicts::check(self, node, view, &noticed, asked)?;
        self.conflicts.checked += noticed.len() as u64;
        for one in noticed {
            let (here, there) = (one.conflict.here.stamp, one.conflict.there.stamp);
            let told = (node, partition, one.key, one.conflict.column, here, there);
            if self.conflicts.told.contains(&told) {
                let what = format!("node {node} tells twice of {told:?}");
                return Err(Violation::of("conflicts are told as they were", what));
            }
            self.conflicts.told.insert(told);
        }
        Ok(())
    }

    /// All that was kept of a partition is gone.
    pub(super) fn forget_conflicts(&mut self, node: usize, partition: PartitionId) {
        self.conflicts.last.remove(&(node, partition));
    }
}
