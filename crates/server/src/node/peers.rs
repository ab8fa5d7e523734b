//! What this region is to the others, as their frames need it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use isthmus_control::global_table::{GlobalTable, Progress, Serve};
use isthmus_model::ids::{Epoch, Origin, PartitionId};
use isthmus_replication::frame::Hello;
use isthmus_replication::receive::{Assignments, Unfed};
use isthmus_store::{StoreError, Table};

use super::{Node, Record, record_note};

impl Assignments for Node {
    fn accepts(&self, hello: &Hello) -> Result<Origin, String> {
        if self.config.instance_of(&hello.name) != Some(&hello.instance) {
            return Err(format!("instance {} is not served here", hello.instance));
        }
        match self.number_of(&hello.name) {
            Some(number) if u32::from(number.0) == hello.region && self.is_member(&hello.name) => {
                Ok(number)
            }
            _ => Err(format!("region {} with number {} is no member", hello.name, hello.region)),
        }
    }

    fn fed_by(
        &self,
        origin: Origin,
        epoch: Epoch,
        partition: PartitionId,
    ) -> Result<Arc<Table>, Unfed> {
        let table = self.table_of(partition).ok_or(Unfed::Unassigned)?;
        let records = self.records.lock();
        let record = records.get(&table.id()).ok_or(Unfed::Unassigned)?;
        // In this order: what is seeded is so before there is a record of it.
        if self.is_seeded_now(partition) {
            return Err(Unfed::NotYet);
        }
        let own = &self.config.region.name;
        let feeds = |region: &String| {
            record.table.feeds(region, own).next().is_some()
                || record.table.is_ahead(region, own, epoch.0)
        };
        let by = self.region_numbered(origin).filter(|region| feeds(region));
        let is_fed = by.is_some_and(|region| self.may_be_fed(&table, (region, epoch), record));
        match is_fed {
            true => Ok(table),
            false => Err(Unfed::NotTheFeeder),
        }
    }

    fn is_incomplete(&self, origin: Origin, partition: PartitionId) -> bool {
        let Some(table) = self.table_of(partition) else { return true };
        let records = self.records.lock();
        records
            .get(&table.id())
            .is_some_and(|record| !record.ready && self.is_completed_by(&record.table, origin))
    }

    fn copies(&self, _: Origin, partition: PartitionId) -> Result<(), StoreError> {
        let Some(table) = self.table_of(partition).map(|table| table.id()) else { return Ok(()) };
        let mut records = self.records.lock();
        let Some(record) = records.get_mut(&table) else { return Ok(()) };
        if !record.ready || record.table.serve != Serve::PrimarySecondary {
            return Ok(());
        }
        let copying = Record { ready: false, ..record.clone() };
        let Ok(note) = serde_json::to_vec(&copying) else { return Ok(()) };
        // It is committed no later than the first chunk, so a crash does not show a mixture.
        if let Some(Err(error)) = self.store.put_note(&record_note(table), &note).try_take() {
            return Err(error);
        }
        tracing::warn!(table = %record.table.name, "replica is healed by a copy and not read");
        *record = copying;
        let passes_on = record.table.has_edges();
        drop(records);
        if passes_on {
            self.obey_links();
        }
        Ok(())
    }

    fn follows(&self, origin: Origin, partition: PartitionId) {
        let Some(table) = self.table_of(partition).map(|table| table.id()) else { return };
        let mut records = self.records.lock();
        let Some(record) = records.get_mut(&table) else { return };
        if record.ready || !self.is_completed_by(&record.table, origin) {
            return;
        }
        record.ready = true;
        tracing::info!(table = %record.table.name, "replica is complete and follows");
        let Ok(note) = serde_json::to_vec(record) else { return };
        // Should this be lost in a crash, the base says so again when it next opens the link.
        drop(self.store.put_note(&record_note(table), &note));
        let gives_more = record.table.has_edges() || record.table.serve == Serve::PeerToPeer;
        drop(records);
        if gives_more {
            self.obey_links();
        }
        // It may be the successor that waited for this.
        self.writer_moved.notify_one();
    }

    fn other_writers(&self, partition: PartitionId) -> Vec<Origin> {
        let Some(table) = self.table_of(partition) else { return Vec::new() };
        let records = self.records.lock();
        let Some(record) = records.get(&table.id()) else { return Vec::new() };
        if record.table.serve == Serve::PrimarySecondary {
            return Vec::new();
        }
        let others = record.table.replicas.iter();
        // Of one that is being unbound nothing is taken any more, whether it can be reached or not.
        others
            .filter(|replica| replica.region != self.config.region.name)
            .filter(|replica| replica.progress != Progress::Unbinding)
            .filter_map(|replica| self.number_of(&replica.region))
            .collect()
    }

    fn is_neighbour(&self, region: Origin, partition: PartitionId) -> bool {
        let Some(table) = self.table_of(partition) else { return false };
        let records = self.records.lock();
        let own = &self.config.region.name;
        let joined = |region: &String| {
            records.get(&table.id()).is_some_and(|record| record.table.are_neighbours(own, region))
        };
        self.region_numbered(region).is_some_and(joined)
    }

    fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }
}

impl Node {
    /// Whether a region gives this one all that the table is: with several writers what the base
    /// has made, with one whoever feeds it.
    fn is_completed_by(&self, table: &GlobalTable, region: Origin) -> bool {
        if table.serve == Serve::PrimarySecondary {
            return true;
        }
        let feeder = table.feeder(&table.base, &self.config.region.name);
        feeder.is_some_and(|feeder| self.number_of(feeder) == Some(region))
    }

    /// The name of another region.
    fn region_numbered(&self, number: Origin) -> Option<&String> {
        self.config.regions.iter().find(|other| other.number == number.0).map(|other| &other.name)
    }
}
