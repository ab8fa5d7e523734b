//! Keeps the change logs that replicas still need within the budget of `[log]`.
//!
//! While every replica comes, logs are trimmed as their entries arrive there, and nothing here has
//! any effect. A log that is cut while a replica needs it puts the link into a gap when the replica
//! returns, and a copy of what differs heals it; before it comes to that, people are warned.

use std::collections::BTreeSet;
use std::sync::Arc;

use isthmus_model::ids::{Lsn, PartitionId};
use isthmus_replication::retention::{Alarm, Retention};
use isthmus_replication::ship::LinkReport;
use isthmus_store::Table;

use super::Node;

const MIB: u64 = 1024 * 1024;
const HOUR_MILLIS: i64 = 3_600_000;

/// What was told of logs that are kept.
#[derive(Debug, Default)]
pub(super) struct KeptLogs {
    alarm: Alarm,
    /// Links that have lost entries: the region, and the partition.
    fallen: BTreeSet<(String, PartitionId)>,
}

impl Node {
    pub(super) fn retention(&self) -> Retention {
        let log = &self.config.log;
        Retention {
            keep_bytes: log.keep_mib.saturating_mul(MIB),
            keep_millis: i64::from(log.keep_hours) * HOUR_MILLIS,
        }
    }

    /// Cuts logs that are too long or too old, and warns before it comes to that.
    pub(super) fn keep_logs_within_budget(&self) {
        let retention = self.retention();
        let tables = self.store.tables();
        self.warn_of_long_logs(&retention, &tables);
        let length = retention.length_max(tables.iter().map(|table| table.log_size().bytes));
        let since = retention.since_millis(self.clock.wall_millis());
        for table in &tables {
            let start = table.log_start_within(length, since);
            if start > table.log_start() {
                self.tell_who_falls_out(table, start);
                // Should it be lost in a crash, the next look cuts again.
                drop(table.trim_log(start));
            }
        }
        self.forget_who_came_back();
    }

    fn warn_of_long_logs(&self, retention: &Retention, tables: &[Arc<Table>]) {
        let used = self.log_budget_used(retention, tables);
        if let Some(mark) = self.kept_logs.lock().alarm.look(used) {
            tracing::warn!(
                percent = (used * 100.0) as u64,
                "logs kept for replicas have passed {:.0} % of their budget (log.keep_mib, \
                 log.keep_hours); at 100 % they are cut and the replicas copied",
                mark * 100.0
            );
        }
    }

    fn log_budget_used(&self, retention: &Retention, tables: &[Arc<Table>]) -> f64 {
        let sizes = tables.iter().map(|table| table.log_size());
        let (mut bytes, mut oldest) = (0, None);
        for size in sizes {
            bytes += size.bytes;
            oldest = match (oldest, size.oldest_millis) {
                (Some(known), Some(new)) => Some(i64::min(known, new)),
                (known, new) => known.or(new),
            };
        }
        retention.used(bytes, oldest, self.clock.wall_millis())
    }

    /// The share of the budget that is used, for a link that holds some of a log; by the bytes of
    /// all logs or by the age of what waits for this link, whichever is more.
    pub(super) fn link_budget_used(&self, report: &LinkReport) -> Option<f64> {
        if report.acked.is_some_and(|acked| acked >= report.appended) {
            return None;
        }
        let table = self.table_of(report.partition)?;
        let after = report.acked.unwrap_or(table.log_start());
        let waiting = table.log_size_after(after);
        waiting.oldest_millis?;
        let bytes = self.store.tables().iter().map(|table| table.log_size().bytes).sum();
        let now = self.clock.wall_millis();
        Some(self.retention().used(bytes, waiting.oldest_millis, now))
    }

    fn tell_who_falls_out(&self, table: &Table, start: Lsn) {
        let partition = table.partition();
        for (region, other) in &self.others {
            let needs = other.links().needs_after(partition);
            let falls = needs.is_some_and(|after| after.is_none_or(|after| after < start));
            if falls && self.kept_logs.lock().fallen.insert((region.clone(), partition)) {
                tracing::warn!(
                    table = %table.name(), %region,
                    "the log is cut though the region needs it: its link will be in gap, and a \
                     copy of what differs heals it"
                );
            }
        }
    }

    /// So that it is told again should it happen again.
    fn forget_who_came_back(&self) {
        let mut kept = self.kept_logs.lock();
        kept.fallen.retain(|(region, partition)| {
            let needs = self.others.get(region).map(|other| other.links().needs_after(*partition));
            let log_start = self.table_of(*partition).map(|table| table.log_start());
            match (needs.flatten(), log_start) {
                (Some(Some(after)), Some(start)) => after < start,
                (Some(None), Some(_)) => true,
                (None, _) | (_, None) => false,
            }
        });
    }
}
