//! What a node does now and then: trim logs, move horizons, log what has expired, sweep.
//!
//! One timer for the node, none per table; only partitions whose log has grown are looked at.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use isthmus_model::ids::{Lsn, PartitionId};
use isthmus_replication::receive::Assignments;
use isthmus_store::Table;
use isthmus_store::engine::rocks::RocksEngine;
use tokio::sync::watch;

use super::Node;
use super::reach::Reach;
use crate::fault;

const UPKEEP_EVERY: Duration = Duration::from_secs(1);
const EXPIRE_EVERY: u32 = 60;
/// After upkeep of digests that took t, it rests for this times t.
const DIGEST_REST_FACTOR: u32 = 15;
/// It rests so long where there was nothing to do.
const DIGEST_REST: Duration = Duration::from_millis(200);
/// And never longer than this.
const DIGEST_REST_MAX: Duration = Duration::from_secs(1);
/// The sweep rests so long where there was nothing to do.
const SWEEP_REST: Duration = Duration::from_millis(500);
/// Rows that wait for the sweep, and for how many times the time that a step took it rests then:
/// the more there are, the greater its share of one processor, up to a half.
const SWEEP_SHARES: [(u64, u32); 4] = [(10_000, 19), (100_000, 9), (1_000_000, 3), (u64::MAX, 1)];
/// How often it is looked whether files hold much that was deleted.
const TIDY_EVERY: Duration = Duration::from_secs(5);

impl Node {
    /// Does upkeep again and again, until `stop` says so.
    pub async fn keep_up(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut left: BTreeSet<PartitionId> =
            self.store.tables().iter().map(|table| table.partition()).collect();
        let mut rounds = 0u32;
        let mut reach = Reach::default();
        let mut put_backs_seen = 0;
        while !*stop.borrow() {
            left.append(&mut self.grown.lock());
            // How their replicas stand is told again and again.
            left.append(&mut self.told_of(None));
            left.retain(|partition| !self.look_after(*partition));
            self.keep_logs_within_budget();
            self.tell_link_changes();
            self.release_pasts();
            put_backs_seen = self.look_at_put_backs(put_backs_seen);
            reach.look(&self);
            rounds = rounds.wrapping_add(1);
            if rounds.is_multiple_of(EXPIRE_EVERY) {
                self.store.expire_step();
                let is_there = |partition| self.table_of(partition).is_some();
                self.copies.forget_all_but(&self.store, is_there);
            }
            let packed = self.shared.packed.clone();
            fault::blocking(move || packed.dictionaries.learn_step()).await;
            tokio::select! {
                () = tokio::time::sleep(UPKEEP_EVERY) => {}
                _ = stop.changed() => return,
            }
        }
    }

    /// Keeps digests up: builds, splits, checkpoints. Takes a small share of one processor.
    pub async fn keep_digests(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        if !self.config.storage.digests {
            return;
        }
        while !*stop.borrow() {
            let began = self.clock.monotonic();
            let store = self.store.clone();
            let more = fault::blocking(move || store.digest_step()).await;
            let took = self.clock.monotonic().saturating_sub(began);
            tokio::select! {
                () = tokio::time::sleep(digest_rest(took, more)) => {}
                _ = stop.changed() => return,
            }
        }
    }

    /// Sweeps tables of which rows can forget something, with a share of one processor that grows
    /// with what there is to sweep.
    pub async fn keep_swept(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            let began = self.clock.monotonic();
            let store = self.store.clone();
            let step = move || (store.sweep_step(), store.rows_to_sweep());
            let (more, waiting) = fault::blocking(step).await;
            let took = self.clock.monotonic().saturating_sub(began);
            tokio::select! {
                () = tokio::time::sleep(sweep_rest(took, more, waiting)) => {}
                _ = stop.changed() => return,
            }
        }
    }

    /// Lets the engine give back what was deleted, again and again, until `stop` says so.
    pub async fn keep_tidy(engine: Arc<RocksEngine>, mut stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            tokio::select! {
                () = tokio::time::sleep(TIDY_EVERY) => {}
                _ = stop.changed() => return,
            }
            let engine = engine.clone();
            if let Err(error) = fault::blocking(move || engine.tidy_step()).await {
                tracing::warn!(%error, "cannot give back room yet");
            }
        }
    }

    /// Returns whether nothing is left to do until the log grows again.
    fn look_after(&self, partition: PartitionId) -> bool {
        let Some(table) = self.table_of(partition) else { return true };
        // Without a record nobody knows who else writes, and the horizon must not move.
        let record = self.record(table.id());
        if let Some(record) = record.as_ref().filter(|record| record.table.tells_standings()) {
            self.tell_standing(&table, record);
        }
        // One that the others have left has nobody to wait for.
        let is_last = record.is_none() && self.is_last_replica(table.id());
        if table.spec().writers.are_many() && (record.is_some() || is_last) {
            let others = self.other_writers(partition);
            let own = self.store.promise();
            table.set_horizon(self.shared.safe_times.horizon(partition, &others, own));
        }
        // The horizon of a quiet table moves on as long as there is anything to forget.
        let rests = (record.is_none() && !is_last) || !table.remembers_kills();
        let end = table.durable_lsn();
        let Some(mut needed) = self.log_needed_after(partition, end) else { return false };
        match self.log_held_by_all(&table) {
            None => {}
            Some(None) => return false,
            Some(Some(held)) => needed = needed.min(held),
        }
        self.trim(&table, needed);
        needed == end && rests
    }

    /// Everything through this LSN is at every replica; `None`: one has not said.
    pub(super) fn log_needed_after(&self, partition: PartitionId, end: Lsn) -> Option<Lsn> {
        let mut needed = self.distributions.needs_log_after(partition).unwrap_or(end).min(end);
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

/// How long upkeep of digests rests after a step.
fn digest_rest(took: Duration, more: bool) -> Duration {
    let least = if more { Duration::ZERO } else { DIGEST_REST };
    (took * DIGEST_REST_FACTOR).clamp(least, DIGEST_REST_MAX)
}

/// How long the sweep rests after a step, with so many rows waiting for it.
fn sweep_rest(took: Duration, more: bool, waiting: u64) -> Duration {
    if !more {
        return SWEEP_REST;
    }
    let share = SWEEP_SHARES.iter().find(|(rows, _)| waiting <= *rows);
    took * share.map_or(1, |(_, factor)| *factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sweep_takes_more_the_more_there_is() {
        let millis = Duration::from_millis;
        assert_eq!(sweep_rest(millis(4), true, 0), millis(76));
        assert_eq!(sweep_rest(millis(4), true, 500_000), millis(12));
        assert_eq!(sweep_rest(millis(4), true, 10_000_000), millis(4));
        assert_eq!(sweep_rest(millis(4), false, 10_000_000), SWEEP_REST);
    }

    #[test]
    fn upkeep_of_digests_keeps_to_its_share() {
        let millis = Duration::from_millis;
        assert_eq!(digest_rest(millis(2), true), millis(30));
        assert_eq!(digest_rest(millis(2), false), millis(200));
        assert_eq!(digest_rest(Duration::from_secs(9), false), DIGEST_REST_MAX);
    }
}
