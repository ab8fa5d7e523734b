//! What a node does now and then: trim logs, move horizons, log what has expired.
//!
//! One timer for the node, none per table; only partitions whose log has grown are looked at.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use isthmus_model::ids::{Lsn, PartitionId};
use isthmus_replication::receive::Assignments;
use isthmus_store::Table;
use tokio::sync::watch;

use super::Node;

const UPKEEP_EVERY: Duration = Duration::from_secs(1);
const EXPIRE_EVERY: u32 = 60;

impl Node {
    /// Does upkeep again and again, until `stop` says so.
    pub async fn keep_up(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut left: BTreeSet<PartitionId> =
            self.store.tables().iter().map(|table| table.partition()).collect();
        let mut rounds = 0u32;
        while !*stop.borrow() {
            left.append(&mut self.grown.lock());
            left.retain(|partition| !self.look_after(*partition));
            rounds = rounds.wrapping_add(1);
            if rounds.is_multiple_of(EXPIRE_EVERY) {
                self.store.expire_step();
            }
            self.store.sweep_step();
            tokio::select! {
                () = tokio::time::sleep(UPKEEP_EVERY) => {}
                _ = stop.changed() => return,
            }
        }
    }

    /// Returns whether nothing is left to do until the log grows again.
    fn look_after(&self, partition: PartitionId) -> bool {
        let Some(table) = self.table_of(partition) else { return true };
        // Without a record nobody knows who else writes, and the horizon must not move.
        if table.spec().writers.are_many() && self.record(table.id()).is_some() {
            let others = self.other_writers(partition);
            let own = self.store.promise();
            table.set_horizon(self.shared.safe_times.horizon(partition, &others, own));
        }
        let end = table.durable_lsn();
        let Some(needed) = self.log_needed_after(partition, end) else { return false };
        self.trim(&table, needed);
        needed == end
    }

    /// Everything through this LSN is at every replica; `None`: one has not said.
    fn log_needed_after(&self, partition: PartitionId, end: Lsn) -> Option<Lsn> {
        let mut needed = end;
        for other in self.others.values() {
            match other.links().needs_after(partition) {
                None => {}
                Some(None) => return None,
                Some(Some(after)) => needed = needed.min(after),
            }
        }
        Some(needed)
    }

    fn trim(&self, table: &Table, through: Lsn) {
        if through > table.log_start() {
            // Should it be lost in a crash, the next look trims again.
            drop(table.trim_log(through));
        }
    }
}
