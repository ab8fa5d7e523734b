//! What this region noticed lately, newest first: a bounded ring in memory.

use std::collections::VecDeque;

use parking_lot::Mutex;
use serde::Serialize;
use serde_json::Value as Json;

/// Events kept.
const EVENTS_MAX: usize = 1000;

/// What kind of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
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
}

/// One event.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// What kind.
    pub kind: EventKind,
    /// Name of the table.
    pub table: String,
    /// In words.
    pub text: String,
    /// For programs.
    pub detail: Json,
}

/// The newest events.
#[derive(Default)]
pub struct Events(Mutex<VecDeque<Event>>);

impl Events {
    /// Notes one; the oldest goes where there are too many.
    pub fn push(&self, event: Event) {
        tracing::warn!(table = %event.table, kind = ?event.kind, "{}", event.text);
        let mut events = self.0.lock();
        if events.len() >= EVENTS_MAX {
            events.pop_back();
        }
        events.push_front(event);
    }

    /// All, newest first.
    pub fn all(&self) -> Vec<Event> {
        self.0.lock().iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_come_first_and_the_oldest_go() {
        let events = Events::default();
        for at_ms in 0..EVENTS_MAX as i64 + 5 {
            let (kind, detail) = (EventKind::ReplicasDiffer, Json::Null);
            events.push(Event { at_ms, kind, table: "t".into(), text: "x".into(), detail });
        }
        let all = events.all();
        assert_eq!((all.len(), all[0].at_ms), (EVENTS_MAX, EVENTS_MAX as i64 + 4));
        let json = serde_json::json!(all[0]);
        assert_eq!(json["kind"], "replicas-differ");
    }
}
