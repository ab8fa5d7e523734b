//! What this region noticed lately, newest first: a bounded ring, kept over restarts.
//!
//! Each event is a note of its own in the store, written behind: an event of the last moment
//! before a crash may be lost, and none holds up what it tells of.

use std::collections::VecDeque;

use isthmus_store::{Store, StoreError};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

/// Events kept.
const EVENTS_MAX: usize = 1000;
const NOTES: &str = "event/";

/// What kind of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// Two replicas differ, at equal watermarks.
    ReplicasDiffer,
    /// They are alike again.
    ReplicasAlike,
    /// Rows on the disk are not what was written.
    DiskDiffers,
    /// Damage on the disk was mended, or the digest set right.
    DiskHealed,
    /// Rows were repaired.
    RowsRepaired,
    /// New certificates are in use between regions.
    CertificatesRenewed,
    /// Certificates cannot be used.
    CertificatesRefused,
    /// A link has come into another state.
    LinkState,
    /// A region has gone away or come back, and entries go another way.
    EdgesRerouted,
    /// Another region is reached.
    RegionReached,
    /// Another region is not reached any more.
    RegionLost,
    /// The clock of this region differs from the others'; writes are refused.
    ClockOff,
    /// It agrees again.
    ClockRight,
    /// Logs kept for replicas have passed a mark of their budget.
    LogBudget,
    /// A link is paused or throttled where it begins, since the base of its table is away.
    LinkHeld,
    /// It obeys the base again.
    LinkHoldEnded,
    /// Entries that a link needs are gone.
    LinkGap,
    /// The gap of a link was healed.
    LinkHealed,
    /// A global table is dropped.
    TableDropped,
    /// All regions have had that, and nothing of it is left.
    TableGone,
    /// When writes of a table are answered was set.
    WriteModeSet,
    /// Too few other regions keep up with the writes of a table.
    SyncFellBack,
    /// They keep up again.
    SyncRestored,
    /// Another region holds entries of this one that are not here any more: an old disk was put
    /// back.
    OldDisk,
    /// What an old disk lacked is here again.
    OldDiskHealed,
    /// Another region writes a table with one writer.
    WriterChanged,
    /// This region has ended the epoch in which it wrote a table.
    WriterHandedOver,
    /// The writing region was to change, and has not as far as is known.
    SwitchoverFailed,
    /// This region writes a table in place of one that is lost.
    FailedOver,
    /// This region writes without what others may have prepared, since a person says so.
    LossAccepted,
    /// This region has made writes that were prepared in an earlier term.
    PreparedMade,
    /// Rows have been locked for long by a batch of several partitions of which it is not known
    /// whether it is made.
    BatchInDoubt,
    /// A person has said what became of a batch of which no region could tell.
    BatchSettledByHand,
    /// A region that is back says otherwise.
    BatchSettledOtherwise,
    /// This region keeps the record of a table in place of one that is lost.
    BaseMoved,
    /// A table is divided into partitions that regions share.
    TableDistributed,
    /// Partitions are on their way to where they belong.
    PartitionsMove,
    /// A partition is where it is wanted.
    PartitionMoved,
    /// Partitions are to be split or merged.
    PartitionsReshape,
    /// A partition has ended in its log: its rows go on in others.
    PartitionEnded,
    /// Others are in the place of partitions that were split or merged.
    PartitionsReshaped,
    /// A split or merge was given up, or not begun.
    ReshapeFailed,
    /// A partition is asked for too much, and no split helps.
    PartitionHot,
    /// What the next epoch of a table does not go on from was set aside here.
    TailSetAside,
    /// Another region seems to be gone, as this one sees it.
    RegionSuspected,
    /// It does not any more.
    RegionTrusted,
    /// The disk of this region does not keep up.
    DiskSlow,
    /// It keeps up again.
    DiskWell,
    /// A region was suspended: it may not write until it is back.
    RegionSuspended,
    /// It is back.
    RegionRejoined,
    /// A drill has ended, and nothing was lost.
    DrillPassed,
    /// A drill has ended, and something was lost, or could not be told.
    DrillFailed,
}

impl EventKind {
    /// Whether somebody should look.
    fn is_alarm(self) -> bool {
        let is_news = matches!(
            self,
            EventKind::LinkState
                | EventKind::LinkHeld
                | EventKind::LinkHoldEnded
                | EventKind::TableDistributed
                | EventKind::PartitionsMove
                | EventKind::PartitionMoved
                | EventKind::PartitionsReshape
                | EventKind::PartitionEnded
                | EventKind::PartitionsReshaped
                | EventKind::RegionReached
                | EventKind::CertificatesRenewed
                | EventKind::ClockRight
                | EventKind::LinkHealed
                | EventKind::TableDropped
                | EventKind::TableGone
                | EventKind::WriteModeSet
                | EventKind::SyncRestored
                | EventKind::OldDiskHealed
                | EventKind::WriterChanged
                | EventKind::WriterHandedOver
                | EventKind::RegionRejoined
                | EventKind::RegionTrusted
                | EventKind::DiskWell
                | EventKind::DrillPassed
        );
        !is_news
    }
}

/// One event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// What kind.
    pub kind: EventKind,
    /// Name of the table; empty where it is about several or none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub table: String,
    /// In words.
    pub text: String,
    /// For programs.
    #[serde(default)]
    pub detail: Json,
}

#[derive(Default)]
struct Kept {
    /// With their numbers, newest first.
    newest: VecDeque<(u64, Event)>,
    next: u64,
}

/// The newest events.
#[derive(Default)]
pub struct Events(Mutex<Kept>);

impl Events {
    /// Those of earlier lives. One that this version does not know is passed over.
    pub fn read(store: &Store) -> Result<Events, StoreError> {
        let mut kept = Kept::default();
        for (name, note) in store.notes(NOTES.as_bytes())? {
            let digits = std::str::from_utf8(&name).ok().and_then(|name| name.strip_prefix(NOTES));
            let number = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
            let Some(number) = number else { continue };
            kept.next = number + 1;
            match serde_json::from_slice(&note) {
                Ok(event) => kept.newest.push_front((number, event)),
                Err(error) => tracing::debug!(number, %error, "event passed over"),
            }
        }
        Ok(Events(Mutex::new(kept)))
    }

    /// Notes one; the oldest goes where there are too many.
    pub fn push(&self, event: Event, store: &Store) {
        let (table, text) = (&event.table, &event.text);
        match event.kind.is_alarm() {
            true => tracing::warn!(%table, kind = ?event.kind, "{text}"),
            false => tracing::info!(%table, kind = ?event.kind, "{text}"),
        }
        let mut kept = self.0.lock();
        let number = kept.next;
        kept.next += 1;
        // Written in their order, since the lock is held; whether it arrives is not waited for.
        if let Ok(note) = serde_json::to_vec(&event) {
            drop(store.put_note(&note_name(number), &note));
        }
        kept.newest.push_front((number, event));
        while kept.newest.len() > EVENTS_MAX
            && let Some((oldest, _)) = kept.newest.pop_back()
        {
            drop(store.delete_note(&note_name(oldest)));
        }
    }

    /// All, newest first.
    pub fn all(&self) -> Vec<Event> {
        self.0.lock().newest.iter().map(|(_, event)| event.clone()).collect()
    }
}

fn note_name(number: u64) -> Vec<u8> {
    format!("{NOTES}{number:016x}").into_bytes()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use isthmus_model::clock::SystemClock;
    use isthmus_model::ids::Origin;
    use isthmus_store::StoreOptions;
    use isthmus_store::engine::memory::MemoryEngine;

    use super::*;

    #[test]
    fn the_newest_come_first_the_oldest_go_and_a_restart_keeps_them() {
        let engine = Arc::new(MemoryEngine::new());
        let clock = Arc::new(SystemClock);
        let store = Store::open(engine, clock, StoreOptions::new(Origin(1))).unwrap();
        let events = Events::read(&store).unwrap();
        for at_ms in 0..EVENTS_MAX as i64 + 5 {
            let (kind, detail) = (EventKind::ReplicasDiffer, Json::Null);
            let event = Event { at_ms, kind, table: "t".into(), text: "x".into(), detail };
            events.push(event, &store);
        }
        while store.commit_step() {}
        let all = events.all();
        assert_eq!((all.len(), all[0].at_ms), (EVENTS_MAX, EVENTS_MAX as i64 + 4));
        assert_eq!(serde_json::json!(all[0])["kind"], "replicas-differ");
        let again = Events::read(&store).unwrap();
        assert_eq!(again.all(), all);
        again.push(Event { at_ms: -1, ..all[0].clone() }, &store);
        while store.commit_step() {}
        let all = Events::read(&store).unwrap().all();
        assert_eq!((all.len(), all[0].at_ms, all[1].at_ms), (EVENTS_MAX, -1, 1004));
    }
}
