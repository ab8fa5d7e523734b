//! What the node tells of itself.

use isthmus_control::distribution::partition_named;
use isthmus_control::global_table::Serve;
use isthmus_control::link_rule::{LinkRule, TimingRule};
use isthmus_model::ids::TableId;
use isthmus_model::schema::Schema;
use isthmus_replication::link::State;
use isthmus_replication::progress::CopyReport;
use isthmus_replication::ship::LinkReport;
use isthmus_store::digest::DigestState;
use isthmus_store::{Table, Writing};

use super::links::timing_text;
use super::{Node, Record};
use crate::status::{
    BatchCounts, CopyStatus, DifferingStatus, DigestStatus, DigestWord, LinkState, LinkStatus,
    RegionState, RegionStatus, ServeMode, Status, TableStatus,
};

impl Node {
    /// How this region does: its tables, the links that leave it, the regions it reaches. May
    /// block for a moment.
    pub fn status(&self) -> Status {
        let mut links = Vec::new();
        for (region, other) in self.others() {
            let reports = other.links().reports();
            links.extend(reports.iter().map(|report| self.link_status(region, report)));
        }
        links.sort_by(|a, b| (&a.table, &a.to).cmp(&(&b.table, &b.to)));
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            instance: self.config.instance.name.clone(),
            region: self.config.region.name.clone(),
            number: self.config.region.number,
            serving_since_ms: self.serving_since_millis,
            now_ms: self.clock.wall_millis(),
            regions: self.region_statuses(),
            tables: self.table_statuses(),
            links,
            probes: self.probes.status(self.clock.wall_millis()),
            instance_availability: self.probes.of_instance(self.clock.wall_millis()),
            log: Some(self.log_status()),
            quorum: self.quorum_status(),
            last_drill: self.last_drill(),
            batches: Some(self.batch_counts()).filter(|counts| *counts != BatchCounts::default()),
            reshapes: self.reshape_statuses(),
            reshaped: self.reshape_counts(),
            memory_bytes: memory_bytes(),
            disk_bytes: Some(disk_bytes(&self.config.storage.data)),
            disk_free_bytes: self.store.space_left().ok(),
            refuses_writes: self
                .store
                .refuses_writes()
                .map(|error| error.to_string())
                .or_else(|| self.clock_is_off()),
        }
    }

    fn region_statuses(&self) -> Vec<RegionStatus> {
        let mut regions = vec![RegionStatus {
            name: self.config.region.name.clone(),
            number: self.config.region.number,
            endpoint: self.config.public.endpoint.clone(),
            state: RegionState::Itself,
            since_ms: self.serving_since_millis,
            reason: String::new(),
            format: Some(self.shared.hello.format),
        }];
        for other in &self.config.regions {
            let Some(region) = self.others.get(&other.name) else { continue };
            let reached = region.reached();
            let format = region.links().format();
            regions.push(RegionStatus {
                name: other.name.clone(),
                number: other.number,
                endpoint: other.endpoint.clone(),
                state: match reached.connected {
                    true => RegionState::Connected,
                    false => RegionState::Unreachable,
                },
                since_ms: reached.since_millis,
                reason: reached.reason,
                format: (format > 0).then_some(format),
            });
        }
        regions
    }

    fn table_statuses(&self) -> Vec<TableStatus> {
        let mut tables: Vec<TableStatus> = self
            .tables()
            .iter()
            .map(|table| {
                let spec = table.spec();
                let record = self.record(spec.id);
                let is_of_one = |record: &&Record| record.table.serve == Serve::PrimarySecondary;
                let written_by_one = record.as_ref().filter(is_of_one);
                let measured = self.probes.of_table(spec.id, self.clock.wall_millis());
                TableStatus {
                    name: spec.name.as_str().to_owned(),
                    id: spec.id.0,
                    distribution: partition_named(spec.name.as_str())
                        .map(|(table, _)| table.to_owned()),
                    global_table_id: record.as_ref().map(|record| record.table.id.clone()),
                    serve_mode: record.as_ref().map(|record| match record.table.serve {
                        Serve::PrimarySecondary => ServeMode::PrimarySecondary,
                        Serve::PeerToPeer => ServeMode::PeerToPeer,
                    }),
                    write_mode: self.write_mode_status(table, record.as_ref()),
                    batches: self.batches_status(table),
                    horizon_ms: spec.writers.are_many().then(|| table.horizon().millis()),
                    writable: spec.writing == Writing::Accept
                        && record.as_ref().is_none_or(|record| record.ready)
                        && !self.shared.put_backs.is_put_back(spec.partition),
                    put_back: self.put_back_reason(spec.partition),
                    primary: written_by_one.map(|record| record.table.primary().to_owned()),
                    epoch: written_by_one.map(|record| record.table.epoch),
                    partitions: 1,
                    entries: table.durable_lsn().0,
                    log_entries: table.durable_lsn().0.saturating_sub(table.log_start().0),
                    digest: Some(self.digest_status(table)),
                    differing: self.differing(spec.id, &spec.schema),
                    view: Some(self.view_status(table)),
                    availability: measured.map(|(availability, _)| availability),
                    alike: measured.and_then(|(_, alike)| alike),
                    rpo: self.rpo_status(table, record.as_ref()),
                    rto: self.rto_status(spec.id, spec.name.as_str()),
                }
            })
            .collect();
        tables.sort_by(|a, b| a.name.cmp(&b.name));
        tables
    }

    /// How the replicas of a table in other regions stand to that here.
    pub(crate) fn differing(&self, table: TableId, schema: &Schema) -> Vec<DifferingStatus> {
        self.verification.gauge.of_table(table, schema, self.clock.monotonic())
    }

    fn digest_status(&self, table: &Table) -> DigestStatus {
        let (state, rows) = match table.digest_state() {
            DigestState::Off => (DigestWord::Off, 0),
            DigestState::Building { rows } => (DigestWord::Building, rows),
            DigestState::Ready => (DigestWord::Ready, 0),
        };
        let mut status = DigestStatus {
            state,
            rows,
            leaves: 0,
            memory_bytes: 0,
            scrubbed_since_ms: self.verification.scrubs.scrubbed_since(table.id()),
        };
        // A table that changes too fast to be looked at is told without figures.
        if state == DigestWord::Ready
            && let Ok(view) = table.digest_view()
        {
            status.rows = view.tree().rows();
            status.leaves = view.tree().leaf_count();
            status.memory_bytes = view.tree().memory_bytes() as u64;
        }
        status
    }

    fn link_status(&self, to: &str, report: &LinkReport) -> LinkStatus {
        let table = self.table_of(report.partition);
        let record = table.as_ref().and_then(|table| self.record(table.id()));
        let own = &self.config.region.name;
        let held = record.as_ref().is_some_and(|record| self.is_held_link(&record.table, to));
        let rule = record
            .map_or_else(|| LinkRule::new(own, to), |record| self.obeyed_rule(&record.table, to));
        let now = self.clock.wall_millis();
        let acked = report.acked.unwrap_or_default();
        let fell_out_at = self.fell_out_at(to, report.partition);
        let is_gap = fell_out_at.is_some() && report.state == State::Opening;
        let reason = match is_gap {
            true => format!("the log was cut; copying heals it: {}", report.reason),
            false if held && report.reason.is_empty() => {
                "a person has asked so here while the base of the table is away".to_owned()
            }
            false => report.reason.clone(),
        };
        let lag_ms = report.oldest_millis.map_or(0, |oldest| (now - oldest).max(0) as u64);
        LinkStatus {
            conflicts: match (&table, self.number_of(to)) {
                (Some(table), Some(region)) => table.conflicts_with_region(region),
                _ => 0,
            },
            table: table.map_or_else(String::new, |t| t.spec().name.as_str().to_owned()),
            partition: report.partition.0,
            from: self.config.region.name.clone(),
            to: to.to_owned(),
            state: match report.state {
                // Nothing but a copy can heal it, though the replica is not there.
                State::Opening if is_gap => LinkState::Gap,
                State::Opening => LinkState::Opening,
                State::Copying => LinkState::Copying,
                State::Following => LinkState::Following,
                State::Paused => LinkState::Paused,
                State::Stopped => LinkState::Stopped,
                State::Gap => LinkState::Gap,
                State::Fenced => LinkState::Fenced,
                State::Broken => LinkState::Broken,
            },
            held,
            reason,
            since_ms: fell_out_at.filter(|_| is_gap).unwrap_or(report.since_millis),
            lag_entries: report.appended.0.saturating_sub(acked.0),
            lag_ms,
            oldest_entry_ms: report.oldest_millis,
            shipped_lsn: report.shipped.0,
            acked_lsn: acked.0,
            copied_rows: (report.copied_rows > 0).then_some(report.copied_rows),
            alike_rows: (report.alike_rows > 0).then_some(report.alike_rows),
            waiting_bytes: (report.waiting_bytes > 0).then_some(report.waiting_bytes),
            // Nothing is kept for a stopped one.
            log_budget_used: match report.state {
                State::Stopped => None,
                _ => self.link_budget_used(report),
            },
            direction: report.direction.as_str().to_owned(),
            timing: (rule.timing != TimingRule::Immediate).then(|| timing_text(&rule.timing)),
            next_ms: report.next_millis.filter(|_| report.state != State::Stopped),
            bytes_per_second: rule.throttle.bytes_per_second,
            entries_per_second: rule.throttle.entries_per_second,
            copy_cpu_percent: rule.throttle.copy_cpu_percent,
            copy: report.copy.map(|copy| copy_status(&copy, report.state)),
            sent_bytes: report.sent_bytes,
            sent_entries: report.sent_entries,
            compression: report.compression.to_string(),
            wire_bytes: report.wire_bytes,
            entries_rate: report.rate.entries,
            wire_bytes_rate: report.rate.wire_bytes,
            retries: report.traffic.retries,
            last_copy: self.copies.last(report.partition, to),
        }
    }
}

fn copy_status(copy: &CopyReport, state: State) -> CopyStatus {
    let runs = state == State::Copying;
    CopyStatus {
        rows_done: copy.rows_done,
        rows_total: copy.rows_total,
        bytes_done: copy.bytes_done,
        rows_per_second: if runs { copy.rows_per_second } else { 0.0 },
        bytes_per_second: if runs { copy.bytes_per_second } else { 0.0 },
        left_ms: copy.left.filter(|_| runs).map(|left| left.as_millis() as u64),
    }
}

/// Bytes of all files below a directory.
pub(crate) fn disk_bytes(directory: &std::path::Path) -> u64 {
    let Ok(files) = std::fs::read_dir(directory) else { return 0 };
    let bytes = files.flatten().map(|file| match file.metadata() {
        Ok(data) if data.is_dir() => disk_bytes(&file.path()),
        Ok(data) => data.len(),
        Err(_) => 0,
    });
    bytes.sum()
}

/// Memory that the process holds, where the system tells.
pub(crate) fn memory_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}
