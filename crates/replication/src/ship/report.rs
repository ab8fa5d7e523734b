//! How links stand, for a person, and into which states they have come.

use std::collections::VecDeque;

use isthmus_model::compression::Compression;
use isthmus_model::ids::{Lsn, Origin, PartitionId};
use isthmus_store::Table;
use isthmus_store::keys::log::decode_record;

use super::{Outbound, Shared, Shipping};
use crate::limits::{BROKEN_RETRY_AFTER, CHANGES_KEPT_MAX, OLDEST_RECORDS_MAX};
use crate::link::State;
use crate::progress::CopyReport;
use crate::terms::Direction;
use crate::traffic::{Rate, Traffic};

/// How one link stands, for a person.
#[derive(Clone, Debug)]
pub struct LinkReport {
    /// Partition.
    pub partition: PartitionId,
    /// State.
    pub state: State,
    /// Why.
    pub reason: String,
    /// Since when, milliseconds since the Unix epoch.
    pub since_millis: i64,
    /// End of the log here.
    pub appended: Lsn,
    /// Sent through.
    pub shipped: Lsn,
    /// Durable at the replica through; `None`: not known.
    pub acked: Option<Lsn>,
    /// When the oldest entry that is not there yet was made; `None`: all are there, or unknown.
    pub oldest_millis: Option<i64>,
    /// Rows copied.
    pub copied_rows: u64,
    /// Rows that were alike and need not be copied, about.
    pub alike_rows: u64,
    /// Bytes of the log that wait for the replica, about.
    pub waiting_bytes: u64,
    /// The peer's region knows nothing of the table.
    pub unassigned: bool,
    /// Who dials.
    pub direction: Direction,
    /// The copy that is under way or halted.
    pub copy: Option<CopyReport>,
    /// When more may be shipped by its timing, milliseconds since the Unix epoch; `None`: now, or
    /// nobody knows.
    pub next_millis: Option<i64>,
    /// Bytes of log records and rows that were sent, before compression, since the link was made.
    pub sent_bytes: u64,
    /// Entries and rows that were sent.
    pub sent_entries: u64,
    /// How it is asked to compress.
    pub compression: Compression,
    /// Bytes that went on the way for it, with all that frames them; before encryption.
    pub wire_bytes: u64,
    /// What it has carried.
    pub traffic: Traffic,
    /// How fast it was lately.
    pub rate: Rate,
}

/// A link has come into another state.
#[derive(Clone, Debug, PartialEq)]
pub struct StateChange {
    /// Partition.
    pub partition: PartitionId,
    /// The state before.
    pub from: State,
    /// The state now.
    pub to: State,
    /// Why.
    pub reason: String,
    /// When, milliseconds since the Unix epoch.
    pub at_millis: i64,
    /// Rows copied by then since the link was made.
    pub copied_rows: u64,
    /// What it had carried by then.
    pub traffic: Traffic,
}

impl Outbound {
    /// How every link stands.
    pub fn reports(&self) -> Vec<LinkReport> {
        let report = |(id, shipping): (&PartitionId, &Shipping)| shipping.report(*id, &self.shared);
        self.links.iter().map(report).collect()
    }

    /// How one link stands.
    pub fn report(&self, partition: PartitionId) -> Option<LinkReport> {
        self.links.get(&partition).map(|shipping| shipping.report(partition, &self.shared))
    }

    /// Which links have come into another state since this was last asked, the oldest first; the
    /// oldest are left out where there are very many.
    pub fn take_changes(&mut self) -> VecDeque<StateChange> {
        std::mem::take(&mut self.changes)
    }

    /// Takes note of the state of a link; gives whether it has come into another one.
    pub(super) fn note_state(&mut self, partition: PartitionId) -> bool {
        let Some(shipping) = self.links.get_mut(&partition) else { return false };
        let now = (shipping.link.state(), shipping.link.reason().to_owned());
        if now.0 == State::Following {
            shipping.progress = None;
        }
        let has_moved = shipping.reported.0 != now.0;
        if has_moved {
            shipping.since_millis = self.shared.clock.wall_millis();
            if self.changes.len() >= CHANGES_KEPT_MAX {
                self.changes.pop_front();
            }
            self.changes.push_back(StateChange {
                partition,
                from: shipping.reported.0,
                to: now.0,
                reason: now.1.clone(),
                at_millis: shipping.since_millis,
                copied_rows: shipping.link.copied_rows(),
                traffic: shipping.traffic,
            });
            // What made no sense a while ago may make sense when the replica has moved on.
            if now.0 == State::Broken {
                self.retries.push((self.shared.clock.monotonic() + BROKEN_RETRY_AFTER, partition));
            }
        }
        shipping.reported = now;
        has_moved
    }
}

impl Shipping {
    fn report(&self, partition: PartitionId, shared: &Shared) -> LinkReport {
        let appended = self.table.durable_lsn();
        let acked = self.link.acked();
        // Before the replica has said where it stands, all that is kept for it may be missing.
        let held = acked.unwrap_or_else(|| self.table.log_start());
        let now = shared.clock.monotonic();
        LinkReport {
            partition,
            state: self.link.state(),
            reason: self.link.reason().to_owned(),
            since_millis: self.since_millis,
            appended,
            shipped: self.link.shipped(),
            acked,
            oldest_millis: oldest_millis(&self.table, held, shared.origin()),
            copied_rows: self.link.copied_rows(),
            alike_rows: self.alike_rows,
            waiting_bytes: match acked {
                Some(acked) => self.table.log_size_after(acked).bytes,
                None => self.table.log_size().bytes,
            },
            unassigned: self.unassigned,
            direction: self.terms.direction,
            copy: self.progress.as_ref().map(|progress| progress.report(now)),
            next_millis: self.next_millis,
            sent_bytes: self.sent_bytes,
            sent_entries: self.sent_entries,
            compression: self.terms.compression,
            wire_bytes: self.wire_bytes,
            traffic: self.traffic,
            rate: self.traffic.rate(now),
        }
    }
}

/// When the oldest entry after `held` was made that this region itself has accepted: what others
/// have accepted reaches the replica from them, and is not waited for here. Looks through a
/// bounded part of the log; where that holds nothing of its own, its end is told.
fn oldest_millis(table: &Table, held: Lsn, own: Origin) -> Option<i64> {
    let writers_are_many = table.spec().writers.are_many();
    let (mut after, mut last) = (held, None);
    for _ in 0..OLDEST_RECORDS_MAX {
        let slice = table.read_log(after, 1).ok()?;
        let (_, entries) = decode_record(slice.records.first()?).ok()?;
        let waiting = entries.iter().filter(|entry| entry.lsn > held);
        for entry in waiting {
            last = Some(entry.stamp.hlc.millis());
            if !writers_are_many || entry.stamp.origin == own {
                return last;
            }
        }
        after = slice.to;
    }
    last
}
