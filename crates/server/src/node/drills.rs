//! Drills that were run against this region and others: the last few, kept at rest.
//!
//! What is kept was reported by whoever ran the drill; it is bounded and decides nothing here.

use std::collections::VecDeque;

use isthmus_store::{Store, StoreError};
use parking_lot::Mutex;
use serde_json::{Value as Json, json};

use super::Node;
use super::events::EventKind;
use crate::api_error::ApiError;
use crate::status::DrillStatus;

/// Drills that are kept.
const DRILLS_MAX: usize = 20;
/// Tables of one drill.
const TABLES_MAX: usize = 64;
/// Kinds of errors of one table.
const ERRORS_MAX: usize = 64;
/// Bytes of a name or a text.
const TEXT_BYTES_MAX: usize = 400;
const NOTE: &[u8] = b"drills";

/// The last drills, newest first.
#[derive(Default)]
pub(super) struct Drills(Mutex<VecDeque<DrillStatus>>);

impl Drills {
    /// Those of earlier lives. A note that cannot be read is begun anew.
    pub(super) fn read(store: &Store) -> Result<Drills, StoreError> {
        let Some(note) = store.note(NOTE)? else { return Ok(Drills::default()) };
        let drills = serde_json::from_slice(&note).unwrap_or_else(|error| {
            tracing::warn!(%error, "drills are forgotten");
            VecDeque::new()
        });
        Ok(Drills(Mutex::new(drills)))
    }

    fn keep(&self, drill: DrillStatus) -> Vec<u8> {
        let mut drills = self.0.lock();
        drills.retain(|other| other.id != drill.id);
        drills.push_front(drill);
        drills.truncate(DRILLS_MAX);
        serde_json::to_vec(&*drills).unwrap_or_default()
    }
}

impl Node {
    /// The last drill.
    pub(crate) fn last_drill(&self) -> Option<DrillStatus> {
        self.drills.0.lock().front().cloned()
    }

    /// The last drills, newest first.
    pub fn drills_json(&self) -> Json {
        json!({ "drills": *self.drills.0.lock() })
    }

    /// Keeps what a drill has come to. One that is reported twice is kept once.
    pub async fn keep_drill(&self, body: &[u8]) -> Result<Json, ApiError> {
        let drill: DrillStatus = serde_json::from_slice(body)
            .map_err(|error| ApiError::invalid(format!("The drill cannot be read: {error}.")))?;
        check(&drill)?;
        let is_known = self.drills.0.lock().iter().any(|other| other.id == drill.id);
        let note = self.drills.keep(drill.clone());
        self.store.put_note(NOTE, &note).await?;
        if !is_known {
            let kind = if drill.passed { EventKind::DrillPassed } else { EventKind::DrillFailed };
            let detail = serde_json::to_value(&drill).unwrap_or_default();
            self.notice(kind, "", in_words(&drill), detail);
        }
        Ok(json!({ "kept": true }))
    }
}

fn check(drill: &DrillStatus) -> Result<(), ApiError> {
    let own = [&drill.id, &drill.kind, &drill.how, &drill.region, &drill.through, &drill.reason];
    let of_tables = drill.tables.iter().flat_map(|table| {
        std::iter::once(&table.table).chain(&table.writer).chain(table.errors.keys())
    });
    let is_long = own.into_iter().chain(of_tables).any(|text| text.len() > TEXT_BYTES_MAX);
    let are_many = drill.tables.iter().any(|table| table.errors.len() > ERRORS_MAX);
    if is_long || are_many || drill.tables.len() > TABLES_MAX {
        return Err(ApiError::invalid(format!(
            "A drill has at most {TABLES_MAX} tables, {ERRORS_MAX} kinds of errors each, and texts \
             of {TEXT_BYTES_MAX} bytes."
        )));
    }
    Ok(())
}

fn in_words(drill: &DrillStatus) -> String {
    let rto = drill.rto_ms();
    let rto = rto.map_or("not written again".to_owned(), |rto| format!("written after {rto} ms"));
    format!(
        "drill {} of region {}: {} rows lost, {rto}{}{}",
        drill.kind,
        drill.region,
        drill.missing_rows(),
        if drill.reason.is_empty() { "" } else { ": " },
        drill.reason,
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use isthmus_model::clock::SystemClock;
    use isthmus_model::ids::Origin;
    use isthmus_store::StoreOptions;
    use isthmus_store::engine::memory::MemoryEngine;

    use super::*;
    use crate::status::DrilledTable;

    fn drill(id: &str) -> DrillStatus {
        let table = DrilledTable { table: "t".into(), rto_ms: Some(7), ..DrilledTable::default() };
        DrillStatus { id: id.to_owned(), tables: vec![table], ..DrillStatus::default() }
    }

    #[test]
    fn the_newest_drills_are_kept_each_once_and_outlive_a_restart() {
        let engine = Arc::new(MemoryEngine::new());
        let clock = Arc::new(SystemClock);
        let store = Store::open(engine, clock, StoreOptions::new(Origin(1))).unwrap();
        let drills = Drills::read(&store).unwrap();
        let mut note = Vec::new();
        for number in 0..DRILLS_MAX + 5 {
            note = drills.keep(drill(&number.to_string()));
        }
        note.clone_from(&drills.keep(drill("7")));
        drop(store.put_note(NOTE, &note));
        while store.commit_step() {}
        let again = Drills::read(&store).unwrap();
        let ids: Vec<String> = again.0.lock().iter().map(|drill| drill.id.clone()).collect();
        assert_eq!((ids.len(), ids[0].as_str(), ids[1].as_str()), (DRILLS_MAX, "7", "24"));
        assert_eq!(ids.iter().filter(|id| *id == "7").count(), 1);
    }

    #[test]
    fn a_report_is_bounded_and_told_in_words() {
        assert!(check(&drill("1")).is_ok());
        assert!(check(&drill(&"x".repeat(TEXT_BYTES_MAX + 1))).is_err());
        let mut wide = drill("1");
        wide.tables = vec![DrilledTable::default(); TABLES_MAX + 1];
        assert!(check(&wide).is_err());
        let mut lost = drill("1");
        (lost.kind, lost.region) = ("region-loss".to_owned(), "r1".to_owned());
        lost.tables[0].missing_rows = 2;
        let words = "drill region-loss of region r1: 2 rows lost, written after 7 ms";
        assert_eq!(in_words(&lost), words);
        lost.tables.push(DrilledTable::default());
        assert_eq!(lost.rto_ms(), None);
    }
}
