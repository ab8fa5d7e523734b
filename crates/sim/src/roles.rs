//! What a node is to others, as the server keeps it: which tables it shares, and whether it has
//! all of each.
//!
//! A note at rest says that a table is shared here and whether it is complete, so that a crash
//! changes nothing of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use isthmus_control::extract::CopyKind;
use isthmus_control::global_table::{GlobalTable, Progress, Serve};
use isthmus_control::writer::{LogWord, Step};
use isthmus_model::ids::{Epoch, Origin, PartitionId};
use isthmus_replication::extract::Extract;
use isthmus_replication::frame::Hello;
use isthmus_replication::receive::{Assignments, Unfed};
use isthmus_replication::relay::Feeding;
use isthmus_store::{Store, StoreError, Table};
use parking_lot::Mutex;

use crate::options::TablePlan;
use crate::plant::Plant;

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

/// The index of the region of a name.
pub(crate) fn node_named(name: &str) -> usize {
    node_of(origin_named(name))
}

/// The number of the region of a name.
pub(crate) fn origin_named(name: &str) -> Origin {
    Origin(name.trim_start_matches('r').parse().unwrap_or_default())
}

fn edges_note(partition: PartitionId) -> Vec<u8> {
    format!("edges/{partition}").into_bytes()
}

fn record_note(partition: PartitionId) -> Vec<u8> {
    format!("shared/{partition}").into_bytes()
}

/// What one node is to others.
pub(crate) struct Roles {
    node: usize,
    store: Arc<Store>,
    plans: BTreeMap<PartitionId, TablePlan>,
    /// Regions are unbound and bound: a table that is not shared here is one of this region alone.
    binds: bool,
    /// Tables that are shared here, and whether this region has all of them.
    shared: Mutex<BTreeMap<PartitionId, bool>>,
    /// What is known of who holds tables and along which edges they go.
    records: Mutex<BTreeMap<PartitionId, GlobalTable>>,
    changes: AtomicU64,
}

impl Roles {
    /// As the notes at rest say.
    pub(crate) fn read(
        node: usize,
        store: Arc<Store>,
        plans: &[TablePlan],
        binds: bool,
    ) -> Result<Roles, StoreError> {
        let (mut shared, mut records) = (BTreeMap::new(), BTreeMap::new());
        for plan in plans {
            let known = store.note(&edges_note(plan.partition))?;
            let known = known.and_then(|note| GlobalTable::from_json(&note).ok());
            // Where regions come and go, what is not told is not known.
            let told = if binds { None } else { Some(plan.record.clone()) };
            records.extend(known.or(told).map(|record| (plan.partition, record)));
            if let Some(note) = store.note(&record_note(plan.partition))? {
                shared.insert(plan.partition, &note[..] == COMPLETE);
            }
        }
        let plans = plans.iter().map(|plan| (plan.partition, plan.clone())).collect();
        Ok(Roles {
            node,
            store,
            plans,
            binds,
            shared: Mutex::new(shared),
            records: Mutex::new(records),
            changes: AtomicU64::new(0),
        })
    }

    /// Obeys a newer record.
    pub(crate) fn obey(&self, partition: PartitionId, record: &GlobalTable) {
        let mut records = self.records.lock();
        let known = records.get(&partition);
        if known.is_some_and(|known| !record.is_newer_than(known)) {
            return;
        }
        let mut record = record.clone();
        if let Some(known) = known {
            record.follow_writer(known.epoch, known.primary());
        }
        // Should it be lost in a crash, it is given again.
        drop(self.store.put_note(&edges_note(partition), &record.to_json()));
        records.insert(partition, record);
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// Does what the log of a table asks for. Gives whether there may be more to do.
    pub(crate) fn look_at_writer(&self, table: &Table) -> bool {
        let (partition, word) = (table.partition(), table.writer_word());
        let (own, ready) = (region_name(self.node), self.is_ready(partition));
        let writer = region_name(node_of(word.writer));
        let successor = word.successor.map(|region| region_name(node_of(region)));
        let (epoch, successor) = (word.epoch.0, successor.as_deref());
        let log = LogWord { epoch, writer: &writer, successor };
        let mut records = self.records.lock();
        let Some(record) = records.get_mut(&partition) else { return false };
        match record.next_step(&own, ready, &log) {
            Step::Nothing => false,
            Step::Open => {
                // What came of it shows when it is durable.
                drop(table.open_epoch());
                false
            }
            Step::Follow => {
                record.follow_writer(word.epoch.0, &writer);
                drop(self.store.put_note(&edges_note(partition), &record.to_json()));
                self.changes.fetch_add(1, Ordering::Relaxed);
                true
            }
        }
    }

    /// What is known of who holds a table and along which edges it goes.
    pub(crate) fn record(&self, partition: PartitionId) -> Option<GlobalTable> {
        self.records.lock().get(&partition).cloned()
    }

    /// Whose entries of a table the link to a node carries; `None`: there is no link.
    pub(crate) fn feeding(&self, partition: PartitionId, node: usize) -> Option<Feeding> {
        let record = self.record(partition)?;
        let (own, to) = (region_name(self.node), region_name(node));
        let mut fed: Vec<Origin> = record.feeds(&own, &to).map(origin_named).collect();
        if !self.is_ready(partition) {
            fed.retain(|origin| *origin == origin_of(self.node));
        }
        (!fed.is_empty()).then(|| Feeding::of(origin_of(self.node), fed))
    }

    /// As the server's: whether a region gives this one all that the table is.
    fn is_completed_by(&self, origin: Origin, partition: PartitionId) -> bool {
        let feeder = region_name(node_of(origin));
        self.record(partition).is_some_and(|record| {
            record.serve == Serve::PrimarySecondary
                || record.feeder(&record.base, &region_name(self.node)) == Some(&feeder)
        })
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

    /// Writes the note again that says who holds a table.
    pub(crate) fn note_record(&self, partition: PartitionId) {
        if let Some(record) = self.record(partition) {
            drop(self.store.put_note(&edges_note(partition), &record.to_json()));
        }
    }

    /// Whether a record of this version or a newer one is at rest here, and that it is shared.
    pub(crate) fn has_at_rest(&self, partition: PartitionId, version: u64) -> bool {
        let note = self.store.note(&edges_note(partition)).ok().flatten();
        let record = note.and_then(|note| GlobalTable::from_json(&note).ok());
        record.is_some_and(|record| record.version >= version) && self.is_shared(partition)
    }

    /// What the replica in a region takes, as the server reads it; `None`: all.
    pub(crate) fn extract(
        &self,
        partition: PartitionId,
        node: usize,
        plant: Option<Plant>,
    ) -> Option<Arc<Extract>> {
        let record = self.record(partition)?;
        let extract = record.replica(&region_name(node))?.extract.as_ref()?;
        let (start, end) = extract.range().unwrap_or_default();
        let named = |names: &[String]| {
            (!names.is_empty()).then(|| names.iter().map(|name| name.as_str().into()).collect())
        };
        let is_incremental = extract.copy == CopyKind::Incremental;
        Some(Arc::new(Extract {
            start,
            end,
            columns: named(&extract.columns),
            families: named(&extract.families),
            filter: extract
                .filter()
                .unwrap_or_default()
                .filter(|_| plant != Some(Plant::FilterForgotten)),
            is_incremental: is_incremental && plant != Some(Plant::IncrementalCopied),
        }))
    }

    /// The regions that hold a table.
    pub(crate) fn members(&self, partition: PartitionId) -> BTreeSet<Origin> {
        let record = self.record(partition);
        let replicas = record.iter().flat_map(|record| &record.replicas);
        replicas.map(|replica| origin_named(&replica.region)).collect()
    }

    /// It has all that it was to take.
    pub(crate) fn complete(&self, partition: PartitionId) {
        if self.shared.lock().insert(partition, true) != Some(true) {
            self.share(partition, true);
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// One step of leaving a table, which stays as one of this region alone. Gives whether nothing
    /// is known here of the others any more.
    pub(crate) fn leave(&self, partition: PartitionId) -> bool {
        let note = record_note(partition);
        match self.store.note(&note) {
            Ok(None) => {}
            Ok(Some(_)) => {
                // Asked again until it shows.
                drop(self.store.delete_note(&note));
                drop(self.store.delete_note(&edges_note(partition)));
                return false;
            }
            Err(_) => return false,
        }
        self.shared.lock().remove(&partition);
        self.records.lock().remove(&partition);
        self.changes.fetch_add(1, Ordering::Relaxed);
        true
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
        let alone = self.plans.get(&partition).is_some_and(|plan| plan.base == self.node)
            || (self.binds && self.store.table_of_partition(partition).is_some());
        self.shared.lock().get(&partition).copied().unwrap_or(alone)
    }
}

impl Assignments for Roles {
    fn accepts(&self, hello: &Hello) -> Result<Origin, String> {
        let origin = Origin(hello.region as u8);
        let known = hello.instance == INSTANCE && hello.name == region_name(node_of(origin));
        if known { Ok(origin) } else { Err("no member".to_owned()) }
    }

    fn fed_by(
        &self,
        origin: Origin,
        epoch: Epoch,
        partition: PartitionId,
    ) -> Result<Arc<Table>, Unfed> {
        let table = self.store.table_of_partition(partition).ok_or(Unfed::Unassigned)?;
        if !self.is_shared(partition) {
            return Err(Unfed::Unassigned);
        }
        let record = self.record(partition).ok_or(Unfed::Unassigned)?;
        let feeder = region_name(node_of(origin));
        let own = region_name(self.node);
        let feeds = record.feeds(&feeder, &own).next().is_some();
        match feeds || record.is_ahead(&feeder, &own, epoch.0) {
            true => Ok(table),
            false => Err(Unfed::NotTheFeeder),
        }
    }

    fn is_incomplete(&self, origin: Origin, partition: PartitionId) -> bool {
        self.is_completed_by(origin, partition) && !self.is_ready(partition)
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
        self.changes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn follows(&self, origin: Origin, partition: PartitionId) {
        if !self.is_completed_by(origin, partition) {
            return;
        }
        let was_complete = self.shared.lock().insert(partition, true);
        if was_complete != Some(true) {
            self.share(partition, true);
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn other_writers(&self, partition: PartitionId) -> Vec<Origin> {
        match self.plans.get(&partition) {
            Some(plan) if plan.writers.are_many() && self.is_shared(partition) => {
                let record = self.record(partition);
                let replicas = record.iter().flat_map(|record| &record.replicas);
                // As the server's: of one that is being unbound nothing is taken any more.
                let bound = replicas.filter(|replica| replica.progress != Progress::Unbinding);
                let nodes = bound.map(|replica| node_named(&replica.region));
                let mut others: Vec<usize> = nodes.filter(|node| *node != self.node).collect();
                others.sort_unstable();
                others.into_iter().map(origin_of).collect()
            }
            Some(_) | None => Vec::new(),
        }
    }

    fn is_neighbour(&self, region: Origin, partition: PartitionId) -> bool {
        let (own, other) = (region_name(self.node), region_name(node_of(region)));
        self.record(partition).is_some_and(|record| record.are_neighbours(&own, &other))
    }

    fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }
}
