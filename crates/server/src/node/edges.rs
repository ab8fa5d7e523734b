//! Passing on over the edges of a table: who is fed what from here, how replicas that no link of
//! this region reaches stand, and ways around a region that is away.
//!
//! The record says it all, so regions agree once they have the same version of it. Only the base
//! decides that a region is away, after it has not reached it for `peer.reroute_after_ms`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use isthmus_control::extract::CopyKind;
use isthmus_control::global_table::{GlobalTable, Progress};
use isthmus_control::link_rule::Wanted;
use isthmus_model::ids::{Lsn, Origin, PartitionId, TableId};
use isthmus_replication::extract::Extract;
use isthmus_replication::frame::{FORMAT_OF_HANDOVER, Standing};
use isthmus_replication::link::State;
use isthmus_replication::receive::Assignments;
use isthmus_replication::relay::Feeding;
use isthmus_replication::standings::OwnWord;
use isthmus_store::Table;
use isthmus_store::keys::log::decode_record;
use serde_json::json;

use super::events::EventKind;
use super::{Node, Record};

/// A region that is reached again passes on again when it lacks no more entries than this.
const BEHIND_MAX: u64 = 1000;
/// Or when it has been reached for so many times `peer.reroute_after_ms`.
const BACK_FACTOR: u32 = 8;

impl Node {
    /// Whose entries the link of a table to a region carries; `None`: there is no link.
    pub(super) fn feeding(&self, record: &Record, region: &str) -> Option<Feeding> {
        let (own, table) = (&self.config.region.name, &record.table);
        if self.gives_back_to(record, region) {
            return Some(Feeding::Own);
        }
        let mut fed: Vec<&str> = table.feeds(own, region).collect();
        if !record.ready {
            // What is a mixture, or lacks something, is not passed on.
            fed.retain(|origin| origin == own);
        }
        let origins: Vec<Origin> =
            fed.into_iter().filter_map(|origin| self.number_of(origin)).collect();
        let own = Origin(self.config.region.number);
        (!origins.is_empty()).then(|| Feeding::of(own, origins))
    }

    /// The partitions of which it is told how replicas stand, to one region or any.
    pub(super) fn told_of(&self, region: Option<&str>) -> BTreeSet<PartitionId> {
        let own = &self.config.region.name;
        let records = self.records.lock();
        let joined = records.iter().filter(|(_, record)| match region {
            Some(region) => record.table.are_neighbours(own, region),
            None => record.table.tells_standings(),
        });
        joined.filter_map(|(id, _)| Some(self.store.table(*id)?.partition())).collect()
    }

    /// Tells the others how the replica here stands.
    pub(super) fn tell_standing(&self, table: &Table, record: &Record) {
        let partition = table.partition();
        let is_unassigned = |region: &String| {
            let report = self.others.get(region)?.links().report(partition)?;
            (report.unassigned && report.state == State::Opening).then_some(())?;
            self.number_of(region)
        };
        let word = OwnWord {
            promise: self.store.promise(),
            is_complete: record.ready,
            other_writers: self.other_writers(partition),
            unassigned: self.others.keys().filter_map(is_unassigned).collect(),
        };
        let own = Origin(self.config.region.number);
        self.shared.standings.tell(own, table, &word, &self.shared.safe_times);
    }

    /// What of the log any replica may still need from here, should edges change or this region
    /// become the one that writes. The outer `None`: nobody but those that are fed; the inner: one
    /// has not said.
    pub(super) fn log_held_by_all(&self, table: &Table) -> Option<Option<Lsn>> {
        let record = self.record(table.id()).filter(|record| record.table.tells_standings())?;
        let own = &self.config.region.name;
        let has_edges = record.table.has_edges();
        if !has_edges && (record.table.primary() == own || self.is_any_too_old(&record)) {
            return None;
        }
        let replicas = self.replicas_to_hold(table);
        let replicas: Vec<Origin> =
            replicas.iter().filter_map(|region| self.number_of(region)).collect();
        let own = Origin(self.config.region.number);
        Some(self.shared.standings.held_by(own, table, &replicas))
    }

    /// The other regions whose replicas are to have all entries, by the record.
    pub(super) fn replicas_to_hold(&self, table: &Table) -> Vec<String> {
        let Some(Record { table, .. }) = self.record(table.id()) else { return Vec::new() };
        let own = &self.config.region.name;
        let is_out_of_use = |region: &str| {
            let rule = table.link_rule(table.primary(), region);
            !table.has_edges() && rule.wanted == Wanted::Stopped
        };
        let replicas = table.replicas.iter().filter(|replica| {
            replica.region != *own
                && replica.progress != Progress::Unbinding
                && !table.has_enough(&replica.region)
                && !is_out_of_use(&replica.region)
        });
        replicas.map(|replica| replica.region.clone()).collect()
    }

    /// Whether a region that holds the table cannot be told of another writer, and tells nothing.
    fn is_any_too_old(&self, record: &Record) -> bool {
        let others = record.table.replicas.iter().filter_map(|r| self.others.get(&r.region));
        let mut formats = others.map(|other| other.links().format());
        formats.any(|format| (1..FORMAT_OF_HANDOVER).contains(&format))
    }

    /// How a replica stands that others feed, as it was told last.
    pub(super) fn standing_of(&self, id: TableId, region: &str) -> Option<Standing> {
        let record = self.record(id)?;
        let own = &self.config.region.name;
        if record.table.feeder(own, region) == Some(own) {
            return None;
        }
        self.shared.standings.of(self.partition_of(id)?, self.number_of(region)?)
    }

    /// Up to when a replica that others feed holds everything of this region.
    pub(super) fn far_replica_holds_until(&self, id: TableId, region: &str) -> Option<i64> {
        let standing = self.standing_of(id, region)?;
        let table = self.store.table(id)?;
        let held = self.held_of_here(&table, &standing)?;
        if held >= table.durable_lsn() {
            return Some(self.clock.wall_millis());
        }
        let slice = table.read_log(held, 1).ok()?;
        let (_, entries) = decode_record(slice.records.first()?).ok()?;
        entries.iter().find(|entry| entry.lsn > held).map(|entry| entry.stamp.hlc.millis())
    }

    /// Up to when the replica here holds everything, where another region writes: by what that one
    /// told last.
    pub(super) fn holds_until(&self, id: TableId, table: &GlobalTable) -> Option<i64> {
        let (held, primary) = (self.store.table(id)?, self.number_of(table.primary())?);
        let standing = self.shared.standings.of(held.partition(), primary)?;
        match self.held_of_here(&held, &standing)? <= held.durable_lsn() {
            true => Some(self.clock.wall_millis()),
            false => Some(held.durable_hlc().millis()),
        }
    }

    /// Decides which regions are away, if the table's base is here. Returns whether that is news.
    pub(super) fn look_who_is_away(&self, id: TableId, table: &mut GlobalTable) -> bool {
        let before: BTreeSet<String> = table.away.iter().cloned().collect();
        let regions = table.replicas.iter().map(|replica| replica.region.clone());
        let away: BTreeSet<String> =
            regions.filter(|r| self.is_away(id, r, before.contains(r))).collect();
        if !table.set_away(away.clone()) {
            return false;
        }
        for region in away.symmetric_difference(&before) {
            let is_away = away.contains(region);
            let text = match is_away {
                true => format!("region {region} is away: entries go around it"),
                false => format!("region {region} is back: entries go over it again"),
            };
            let detail = json!({ "region": region, "away": is_away });
            self.notice(EventKind::EdgesRerouted, &table.name, text, detail);
        }
        true
    }

    /// Whether a region of a table with edges has gone away or come back.
    pub(super) fn is_way_to_change(&self, id: TableId, table: &GlobalTable) -> bool {
        let is_news = |region: &String| {
            let was_away = table.away.contains(region);
            self.is_away(id, region, was_away) != was_away
        };
        table.has_edges() && table.replicas.iter().any(|replica| is_news(&replica.region))
    }

    fn is_away(&self, id: TableId, region: &str, was_away: bool) -> bool {
        let Some(other) = self.others.get(region) else { return false };
        let reached = other.reached();
        let patience = Duration::from_millis(self.config.peer.reroute_after_ms);
        let since = self.clock.wall_millis().saturating_sub(reached.since_millis).max(0);
        let since = Duration::from_millis(since.unsigned_abs());
        match (reached.connected, was_away) {
            (false, _) => was_away || since > patience,
            (true, false) => false,
            (true, true) => since < patience * BACK_FACTOR && !self.has_caught_up(id, region),
        }
    }

    fn has_caught_up(&self, id: TableId, region: &str) -> bool {
        let told = || {
            let table = self.store.table(id)?;
            let number = self.number_of(region)?;
            let standing = self.shared.standings.of(table.partition(), number)?;
            let held = self.held_of_here(&table, &standing)?;
            let lacks = table.durable_lsn().0.saturating_sub(held.0);
            Some(standing.is_complete && lacks <= BEHIND_MAX)
        };
        told().unwrap_or(false)
    }

    /// What a replica holds of the log here. With one writer all logs are the same.
    pub(super) fn held_of_here(&self, table: &Table, standing: &Standing) -> Option<Lsn> {
        let own = u32::from(self.config.region.number);
        let is_of_here = |origin: u32| !table.spec().writers.are_many() || origin == own;
        let marks = standing.held.iter().filter(|mark| is_of_here(mark.origin));
        marks.map(|mark| Lsn(mark.lsn)).max()
    }
}

/// What the replica in a region takes, as the replication room takes it; `None`: all.
pub(super) fn extract_of(record: &Record, region: &str) -> Option<Arc<Extract>> {
    let extract = record.table.replica(region)?.extract.as_ref()?;
    // The base has checked it.
    let (start, end) = extract.range().unwrap_or_default();
    let named = |names: &[String]| {
        (!names.is_empty()).then(|| names.iter().map(|name| name.as_str().into()).collect())
    };
    Some(Arc::new(Extract {
        start,
        end,
        columns: named(&extract.columns),
        families: named(&extract.families),
        filter: extract.filter().unwrap_or_default(),
        is_incremental: extract.copy == CopyKind::Incremental,
    }))
}
