//! Which tables were read from the disk, and since when all of their rows were.
//!
//! A pass over a table is a chain of steps, each beginning where the last one ended; only a chain
//! without a hole counts. Passes of several askers may be under way at once.

use std::collections::BTreeMap;
use std::time::Duration;

use isthmus_model::ids::TableId;
use isthmus_model::key::EncodedKey;
use isthmus_store::digest::ScrubStep;
use isthmus_store::{Store, StoreError, Table};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::node::Node;

/// Passes over one table at once; the oldest is forgotten.
const PASSES_MAX: usize = 4;
/// How often a step is tried that finds the table busy.
const TRIES_MAX: u32 = 5;
const NOTES: &str = "scrubbed/";

/// One pass over a table.
struct Pass {
    id: u64,
    started_millis: i64,
    next: EncodedKey,
    rows: u64,
}

/// What is kept at rest of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    /// All rows were read since then.
    since_millis: Option<i64>,
    /// Rows that the last pass has read.
    rows: u64,
}

#[derive(Default)]
struct Scrubbed {
    known: Known,
    passes: Vec<Pass>,
}

/// What is known of scrubs of this node's tables.
#[derive(Default)]
pub(crate) struct Scrubs {
    tables: Mutex<BTreeMap<TableId, Scrubbed>>,
}

fn note_name(table: TableId) -> Vec<u8> {
    format!("{NOTES}{:016x}", table.0).into_bytes()
}

impl Scrubs {
    /// What had been known before the node stopped. A note that cannot be read is no loss.
    pub(crate) fn read(store: &Store) -> Result<Scrubs, StoreError> {
        let mut tables = BTreeMap::new();
        for (name, note) in store.notes(NOTES.as_bytes())? {
            let text = name.strip_prefix(NOTES.as_bytes()).map(String::from_utf8_lossy);
            let id = text.and_then(|text| u64::from_str_radix(&text, 16).ok());
            if let (Some(id), Ok(known)) = (id, serde_json::from_slice(&note)) {
                tables.insert(TableId(id), Scrubbed { known, passes: Vec::new() });
            }
        }
        Ok(Scrubs { tables: Mutex::new(tables) })
    }

    /// Since when all rows of a table were read.
    pub(crate) fn scrubbed_since(&self, table: TableId) -> Option<i64> {
        self.tables.lock().get(&table)?.known.since_millis
    }

    /// About how many rows a table has; 0: not known.
    pub(crate) fn rows_known(&self, table: TableId) -> u64 {
        self.tables.lock().get(&table).map_or(0, |scrubbed| scrubbed.known.rows)
    }

    /// Goes on with a pass that was begun before the node stopped.
    pub(crate) fn adopt(
        &self,
        table: TableId,
        id: u64,
        started_millis: i64,
        next: EncodedKey,
        rows: u64,
    ) {
        let mut tables = self.tables.lock();
        tables.entry(table).or_default().passes.push(Pass { id, started_millis, next, rows });
    }

    fn note_rows(&self, table: TableId, rows: u64) {
        self.tables.lock().entry(table).or_default().known.rows = rows;
    }

    /// Takes in a step. Gives what is to be kept at rest if it was the last one of a pass.
    fn note_step(
        &self,
        table: TableId,
        pass: u64,
        from: &EncodedKey,
        step: &ScrubStep,
        now_millis: i64,
    ) -> Option<Known> {
        let mut tables = self.tables.lock();
        let scrubbed = tables.entry(table).or_default();
        if *from == EncodedKey::default() {
            scrubbed.passes.retain(|known| known.id != pass);
            if scrubbed.passes.len() >= PASSES_MAX {
                scrubbed.passes.remove(0);
            }
            let next = from.clone();
            scrubbed.passes.push(Pass { id: pass, started_millis: now_millis, next, rows: 0 });
        }
        let place = scrubbed.passes.iter().position(|known| known.id == pass)?;
        let known = &mut scrubbed.passes[place];
        if known.next != *from {
            scrubbed.passes.remove(place);
            return None;
        }
        known.rows += step.rows;
        if let Some(next) = &step.next {
            known.next = next.clone();
            return None;
        }
        let done = scrubbed.passes.remove(place);
        let since = scrubbed.known.since_millis.max(Some(done.started_millis));
        scrubbed.known = Known { since_millis: since, rows: done.rows };
        Some(scrubbed.known)
    }
}

impl Node {
    /// Reads some rows of a table from the disk. Blocks.
    pub(crate) fn scrub_step(
        &self,
        table: &Table,
        from: &EncodedKey,
        rows: usize,
        pass: u64,
    ) -> Result<ScrubStep, StoreError> {
        let scrubs = &self.verification.scrubs;
        if *from == EncodedKey::default() || scrubs.rows_known(table.id()) == 0 {
            scrubs.note_rows(table.id(), table.digest_view()?.tree().rows());
        }
        let now = self.clock.wall_millis();
        let minute = u32::try_from(now / 60_000).unwrap_or(0);
        let mut tries = 1;
        let step = loop {
            match table.scrub_step(from, rows, minute) {
                Err(StoreError::Busy) if tries < TRIES_MAX => tries += 1,
                step => break step?,
            }
        };
        if !step.bad.is_empty() {
            self.notice_bad(table, &step);
        }
        if let Some(known) = scrubs.note_step(table.id(), pass, from, &step, now)
            && let Ok(note) = serde_json::to_vec(&known)
        {
            // Should it be lost in a crash, the table counts as read longer ago than it was.
            drop(self.store.put_note(&note_name(table.id()), &note));
        }
        Ok(step)
    }
}

/// How long to wait after reading so many bytes, to keep to a rate.
pub(crate) fn throttle(bytes: u64, mib_per_second: u64) -> Duration {
    let rate = mib_per_second.max(1) * 1024 * 1024;
    Duration::from_micros(bytes.saturating_mul(1_000_000) / rate)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn key(text: &'static str) -> EncodedKey {
        EncodedKey(Bytes::from_static(text.as_bytes()))
    }

    fn step(next: Option<&'static str>) -> ScrubStep {
        ScrubStep { next: next.map(key), rows: 5, ..ScrubStep::default() }
    }

    #[test]
    fn only_a_pass_without_a_hole_counts() {
        let scrubs = Scrubs::default();
        let table = TableId(1);
        let note = |pass, from, next, now| {
            scrubs.note_step(table, pass, &key(from), &step(next), now).is_some()
        };
        assert!(!note(1, "", Some("c"), 10));
        assert!(!note(2, "", Some("b"), 20));
        // Pass 2 leaves a hole.
        assert!(!note(2, "c", None, 30));
        assert!(!note(2, "c", None, 31));
        assert_eq!(scrubs.scrubbed_since(table), None);
        assert!(note(1, "c", None, 40));
        assert_eq!(scrubs.scrubbed_since(table), Some(10));
        assert_eq!(scrubs.rows_known(table), 10);
        assert!(note(3, "", None, 50));
        assert_eq!(scrubs.scrubbed_since(table), Some(50));
    }

    #[test]
    fn reading_keeps_to_its_rate() {
        assert_eq!(throttle(8 * 1024 * 1024, 4), Duration::from_secs(2));
        assert_eq!(throttle(0, 4), Duration::ZERO);
        assert_eq!(throttle(1024 * 1024, 0), Duration::from_secs(1));
    }
}
