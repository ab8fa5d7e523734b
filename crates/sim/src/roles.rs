//! What a node is to others, as the server keeps it: which tables it shares, and whether it has
//! all of each.
//!
//! A note at rest says that a table is shared here and whether it is complete, so that a crash
//! changes nothing of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use isthmus_model::ids::{Origin, PartitionId};
use isthmus_replication::frame::Hello;
use isthmus_replication::receive::{Assignments, Unfed};
use isthmus_store::{Store, StoreError, Table};
use parking_lot::Mutex;

use crate::options::{REGIONS, TablePlan};

pub(crate) const INSTANCE: &str = "sim";
const COMPLETE: &[u8] = b"complete";
const INCOMPLETE: &[u8] = b"incomplete";

/// The name of a region.
pub(crate) fn region_name(node: usize) -> String {
    format!("r{}", node + 1)
}

/// The number of a region.
pub(crate) fn origin_of(node: usize) -> Origin {
    Origin(node as u8 + 1)
}

/// The index of a region.
pub(crate) fn node_of(origin: Origin) -> usize {
    usize::from(origin.0.saturating_sub(1))
}

fn record_note(partition: PartitionId) -> Vec<u8> {
    format!("shared/{partition}").into_bytes()
}

/// What one node is to others.
pub(crate) struct Roles {
    node: usize,
    store: Arc<Store>,
    plans: BTreeMap<PartitionId, TablePlan>,
    /// Tables that are shared here, and whether this region has all of them.
    shared: Mutex<BTreeMap<PartitionId, bool>>,
}

impl Roles {
    /// As the notes at rest say.
    pub(crate) fn read(
        node: usize,
        store: Arc<Store>,
        plans: &[TablePlan],
    ) -> Result<Roles, StoreError> {
        let mut shared = BTreeMap::new();
        for plan in plans {
            if let Some(note) = store.note(&record_note(plan.partition))? {
                shared.insert(plan.partition, &note[..] == COMPLETE);
            }
        }
        let plans = plans.iter().map(|plan| (plan.partition, plan.clone())).collect();
        Ok(Roles { node, store, plans, shared: Mutex::new(shared) })
    }

    /// Reads the notes again, which may have become durable.
    pub(crate) fn refresh(&self) {
        for partition in self.plans.keys() {
            if let Ok(Some(note)) = self.store.note(&record_note(*partition)) {
                let complete = &note[..] == COMPLETE;
                // What is known in memory may be newer than what is at rest.
                self.shared.lock().entry(*partition).or_insert(complete);
            }
        }
    }

    /// Writes the note that a table is shared here.
    pub(crate) fn share(&self, partition: PartitionId, complete: bool) {
        let note = if complete { COMPLETE } else { INCOMPLETE };
        // Asked again until it shows.
        drop(self.store.put_note(&record_note(partition), note));
    }

    /// The tables that are shared here.
    pub(crate) fn shared(&self) -> Vec<TablePlan> {
        let shared = self.shared.lock();
        self.plans.values().filter(|plan| shared.contains_key(&plan.partition)).cloned().collect()
    }

    /// Whether a table is shared here.
    pub(crate) fn is_shared(&self, partition: PartitionId) -> bool {
        self.shared.lock().contains_key(&partition)
    }

    /// Whether clients may use a table here.
    pub(crate) fn is_ready(&self, partition: PartitionId) -> bool {
        let alone = self.plans.get(&partition).is_some_and(|plan| plan.base == self.node);
        self.shared.lock().get(&partition).copied().unwrap_or(alone)
    }
}

impl Assignments for Roles {
    fn accepts(&self, hello: &Hello) -> Result<Origin, String> {
        let origin = Origin(hello.region as u8);
        let known = hello.instance == INSTANCE && hello.name == region_name(node_of(origin));
        if known { Ok(origin) } else { Err("no member".to_owned()) }
    }

    fn fed_by(&self, origin: Origin, partition: PartitionId) -> Result<Arc<Table>, Unfed> {
        let table = self.store.table_of_partition(partition).ok_or(Unfed::Unassigned)?;
        if !self.is_shared(partition) {
            return Err(Unfed::Unassigned);
        }
        let plan = self.plans.get(&partition).ok_or(Unfed::Unassigned)?;
        if !plan.is_writer(node_of(origin)) {
            return Err(Unfed::NotAWriter);
        }
        Ok(table)
    }

    fn is_incomplete(&self, origin: Origin, partition: PartitionId) -> bool {
        let is_base = self.plans.get(&partition).is_some_and(|plan| plan.base == node_of(origin));
        is_base && !self.is_ready(partition)
    }

    fn copies(&self, _: Origin, partition: PartitionId) -> Result<(), StoreError> {
        let one_writer = self.plans.get(&partition).is_some_and(|plan| !plan.writers.are_many());
        if !one_writer || !self.is_ready(partition) {
            return Ok(());
        }
        let note = record_note(partition);
        if let Some(Err(error)) = self.store.put_note(&note, INCOMPLETE).try_take() {
            return Err(error);
        }
        self.shared.lock().insert(partition, false);
        Ok(())
    }

    fn follows(&self, origin: Origin, partition: PartitionId) {
        let Some(plan) = self.plans.get(&partition) else { return };
        if plan.base != node_of(origin) {
            return;
        }
        let was_complete = self.shared.lock().insert(partition, true);
        if was_complete != Some(true) {
            self.share(partition, true);
        }
    }

    fn other_writers(&self, partition: PartitionId) -> Vec<Origin> {
        match self.plans.get(&partition) {
            Some(plan) if plan.writers.are_many() && self.is_shared(partition) => {
                (0..REGIONS).filter(|node| *node != self.node).map(origin_of).collect()
            }
            Some(_) | None => Vec::new(),
        }
    }
}
