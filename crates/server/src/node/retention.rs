//! Keeps the change logs that replicas still need within the budget of `[log]`.
//!
//! While every replica comes, logs are trimmed as their entries arrive there, and nothing here has
//! any effect. A log that is cut while a replica needs it leaves the link to it in a gap, which a
//! copy of what differs heals when the replica is back; before it comes to that, events at half,
//! 80 % and 95 % of the budget say who holds what and what can be done.

use std::collections::BTreeMap;
use std::sync::Arc;

use isthmus_model::ids::{Lsn, PartitionId};
use isthmus_replication::link::State;
use isthmus_replication::retention::{Alarm, Retention};
use isthmus_replication::ship::LinkReport;
use isthmus_store::Table;
use serde_json::json;

use super::Node;
use super::events::EventKind;
use crate::status::LogStatus;

const MIB: u64 = 1024 * 1024;
const HOUR_MILLIS: i64 = 3_600_000;
/// Holders of logs that are named in one event.
const HOLDERS_MAX: usize = 10;

/// What was told of logs that are kept.
#[derive(Debug, Default)]
pub(super) struct KeptLogs {
    alarm: Alarm,
    /// Links whose entries were cut, by region and partition, and since when.
    fallen: BTreeMap<(String, PartitionId), i64>,
}

/// All logs of the node together.
#[derive(Clone, Copy, Debug, Default)]
struct Kept {
    bytes: u64,
    oldest_millis: Option<i64>,
}

/// A replica that has not got all of a log.
struct Holder {
    table: String,
    region: String,
    report: LinkReport,
}

impl Node {
    fn retention(&self) -> Retention {
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
        self.look_at_gaps();
    }

    /// How much of the budget is used.
    pub(super) fn log_status(&self) -> LogStatus {
        let retention = self.retention();
        let kept = kept(&self.store.tables());
        LogStatus {
            bytes: kept.bytes,
            budget_bytes: retention.keep_bytes,
            oldest_entry_ms: kept.oldest_millis,
            budget_ms: retention.keep_millis.unsigned_abs(),
            budget_used: self.used(&retention, kept),
            alarm_percent: self.kept_logs.lock().alarm.mark().map(percent),
        }
    }

    /// Since when the entries that a link needs are gone, if they are.
    pub(super) fn fell_out_at(&self, region: &str, partition: PartitionId) -> Option<i64> {
        self.kept_logs.lock().fallen.get(&(region.to_owned(), partition)).copied()
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
        let kept = Kept { oldest_millis: waiting.oldest_millis, ..kept(&self.store.tables()) };
        Some(self.used(&self.retention(), kept))
    }

    fn used(&self, retention: &Retention, kept: Kept) -> f64 {
        retention.used(kept.bytes, kept.oldest_millis, self.clock.wall_millis())
    }

    fn warn_of_long_logs(&self, retention: &Retention, tables: &[Arc<Table>]) {
        let kept = kept(tables);
        let used = self.used(retention, kept);
        let Some(mark) = self.kept_logs.lock().alarm.look(used) else { return };
        let holders = self.holders();
        let now = self.clock.wall_millis();
        let hours = kept.oldest_millis.map_or(0.0, |at| (now - at).max(0) as f64 / 3_600_000.0);
        let (first, table) = match holders.first() {
            Some(holder) => {
                let state = holder.report.state.as_str();
                let text =
                    format!("most is held by region {}, whose link is {state}", holder.region);
                (text, holder.table.as_str())
            }
            None => ("no link is known to hold them".to_owned(), ""),
        };
        let text = format!(
            "change logs kept for replicas have passed {} % of their budget: {:.1} of {} MiB, the \
             oldest entry is {hours:.1} of {} hours old; {first}. Bring it back, raise \
             log.keep_mib or log.keep_hours, or unbind it; at 100 % logs are cut, the link falls \
             into a gap and is healed by a copy of what differs",
            percent(mark),
            kept.bytes as f64 / MIB as f64,
            self.config.log.keep_mib,
            self.config.log.keep_hours,
        );
        let held: Vec<_> = holders
            .iter()
            .map(|holder| {
                json!({
                    "table": holder.table,
                    "region": holder.region,
                    "waiting_bytes": holder.report.waiting_bytes,
                    "oldest_entry_ms": holder.report.oldest_millis,
                })
            })
            .collect();
        let detail = json!({
            "percent": percent(mark),
            "budget_used": used,
            "bytes": kept.bytes,
            "budget_bytes": retention.keep_bytes,
            "oldest_entry_ms": kept.oldest_millis,
            "budget_ms": retention.keep_millis,
            "held_by": held,
        });
        self.notice(EventKind::LogBudget, table, text, detail);
    }

    /// The links that hold most, most first.
    fn holders(&self) -> Vec<Holder> {
        let mut holders = Vec::new();
        for (region, other) in &self.others {
            for report in other.links().reports() {
                if report.acked.is_some_and(|acked| acked >= report.appended) {
                    continue;
                }
                let Some(table) = self.table_of(report.partition) else { continue };
                let table = table.name().as_str().to_owned();
                holders.push(Holder { table, region: region.clone(), report });
            }
        }
        holders.sort_by_key(|holder| std::cmp::Reverse(holder.report.waiting_bytes));
        holders.truncate(HOLDERS_MAX);
        holders
    }

    fn tell_who_falls_out(&self, table: &Table, start: Lsn) {
        let partition = table.partition();
        for (region, other) in &self.others {
            let needs = other.links().needs_after(partition);
            if needs.is_some_and(|after| after.is_none_or(|after| after < start)) {
                let reason = "its budget (log.keep_mib, log.keep_hours) is used up";
                self.tell_of_gap(table, region, &format!("the log was cut, since {reason}"));
            }
        }
    }

    /// Tells of a gap once, until it is healed.
    fn tell_of_gap(&self, table: &Table, region: &str, reason: &str) {
        let now = self.clock.wall_millis();
        let key = (region.to_owned(), table.partition());
        if self.kept_logs.lock().fallen.contains_key(&key) {
            return;
        }
        self.kept_logs.lock().fallen.insert(key, now);
        let text = format!(
            "the link to region {region} has fallen into a gap: {reason}. Nothing is skipped: a \
             copy of what differs begins by itself as soon as the region is there, or, where the \
             link is delayed, when it is asked for"
        );
        let detail = json!({ "region": region, "log_start": table.log_start().0 });
        self.notice(EventKind::LinkGap, table.name().as_str(), text, detail);
    }

    /// Finds gaps that were there before this start, and tells which are healed.
    fn look_at_gaps(&self) {
        for (region, other) in &self.others {
            for report in other.links().reports() {
                self.look_at_gap(region, &report);
            }
        }
        self.kept_logs.lock().fallen.retain(|(region, partition), _| {
            self.others.get(region).is_some_and(|other| other.links().report(*partition).is_some())
        });
    }

    fn look_at_gap(&self, region: &str, report: &LinkReport) {
        let Some(table) = self.table_of(report.partition) else { return };
        match report.state {
            State::Gap => self.tell_of_gap(&table, region, &report.reason),
            State::Following if report.acked.is_some_and(|acked| acked >= table.log_start()) => {
                let key = (region.to_owned(), report.partition);
                let Some(since) = self.kept_logs.lock().fallen.remove(&key) else { return };
                let how = match report.copied_rows + report.alike_rows {
                    0 => "the replica had all that was cut",
                    _ => "its gap was healed by a copy",
                };
                let text = format!("the link to region {region} follows again: {how}");
                let detail = json!({
                    "region": region,
                    "copied_rows": report.copied_rows,
                    "alike_rows": report.alike_rows,
                    "gap_ms": self.clock.wall_millis() - since,
                });
                self.notice(EventKind::LinkHealed, table.name().as_str(), text, detail);
            }
            State::Following
            | State::Opening
            | State::Copying
            | State::Paused
            | State::Stopped
            | State::Fenced
            | State::Broken => {}
        }
    }
}

/// All logs together.
fn kept(tables: &[Arc<Table>]) -> Kept {
    let mut kept = Kept::default();
    for size in tables.iter().map(|table| table.log_size()) {
        kept.bytes += size.bytes;
        kept.oldest_millis = match (kept.oldest_millis, size.oldest_millis) {
            (Some(known), Some(new)) => Some(i64::min(known, new)),
            (known, new) => known.or(new),
        };
    }
    kept
}

fn percent(mark: f64) -> u8 {
    (mark * 100.0).round() as u8
}
