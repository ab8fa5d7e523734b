//! Reads all rows from the disk again and again, slowly, and holds them against the digests.
//!
//! One table after the other, at a rate and an interval from the configuration. Where a pass has
//! come to is kept at rest, so that a restart does not begin it anew. What is found is mended from
//! a healthy replica, unless the configuration says otherwise; while there is none, the table is
//! read again before long.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use isthmus_model::ids::TableId;
use isthmus_model::key::EncodedKey;
use isthmus_store::digest::{DigestState, ScrubStep};
use isthmus_store::{StoreError, Table};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::Node;
use super::events::EventKind;
use super::verify::place::Place;
use super::verify::scrubs::throttle;
use crate::api_error::ApiError;
use crate::fault;
use crate::peer::verify::{Bad, HealEnd};

/// How often it is looked whether a table is due.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Rows of one step.
const STEP_ROWS: usize = 1024;
/// How often the place is kept at rest.
const KEEP_EVERY: Duration = Duration::from_secs(60);
/// Between two steps at least, so that others come to the disk.
const PAUSE_MIN: Duration = Duration::from_millis(5);
/// A table of which something could not be mended is read again after this.
const AGAIN_AFTER: Duration = Duration::from_secs(3600);
/// Ranges told of one step.
const TOLD_MAX: usize = 8;
const NOTES: &str = "background-scrub/";

/// A pass over a table, as it is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    started_millis: i64,
    /// `None`: it is done.
    next: Option<Vec<u8>>,
    rows: u64,
    /// Ranges that other replicas could have mended and did not.
    #[serde(default)]
    left: u64,
}

fn note_name(table: TableId) -> Vec<u8> {
    format!("{NOTES}{:016x}", table.0).into_bytes()
}

/// Whether a pass is under way or due.
fn is_due(kept: Option<&Kept>, now_millis: i64, every: Duration) -> bool {
    kept.is_none_or(|kept| {
        let every = if kept.left > 0 { every.min(AGAIN_AFTER) } else { every };
        let every = i64::try_from(every.as_millis()).unwrap_or(i64::MAX);
        kept.next.is_some() || now_millis.saturating_sub(kept.started_millis) >= every
    })
}

impl Node {
    /// Scrubs tables that are due, until `stop` says so.
    pub async fn keep_scrubbed(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let rate = u64::from(self.config.scrub.mib_per_second);
        if rate == 0 || !self.config.storage.digests {
            return;
        }
        loop {
            for table in self.store.tables() {
                let scrubbed = tokio::select! {
                    scrubbed = self.scrub_if_due(&table, rate) => scrubbed,
                    _ = stop.changed() => return,
                };
                match scrubbed {
                    Ok(()) | Err(StoreError::NoTable(_)) => {}
                    Err(error) => {
                        tracing::warn!(table = table.name().as_str(), %error, "scrub waits");
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                _ = stop.changed() => return,
            }
        }
    }

    async fn scrub_if_due(
        self: &Arc<Self>,
        table: &Arc<Table>,
        rate: u64,
    ) -> Result<(), StoreError> {
        if table.digest_state() != DigestState::Ready {
            return Ok(());
        }
        let note = self.store.note(&note_name(table.id()))?;
        let kept: Option<Kept> = note.and_then(|note| serde_json::from_slice(&note).ok());
        let every = Duration::from_secs(u64::from(self.config.scrub.every_hours) * 3600);
        let now = self.clock.wall_millis();
        if !is_due(kept.as_ref(), now, every) {
            return Ok(());
        }
        let pass = self.verification.next_pass();
        let mut kept = match kept {
            Some(kept) if kept.next.is_some() => {
                let next = key_of(kept.next.as_deref());
                let (started, rows) = (kept.started_millis, kept.rows);
                self.verification.scrubs.adopt(table.id(), pass, started, next, rows);
                kept
            }
            Some(_) | None => {
                Kept { started_millis: now, next: Some(Vec::new()), ..Kept::default() }
            }
        };
        let mut kept_at = self.clock.monotonic();
        while kept.next.is_some() {
            let from = key_of(kept.next.as_deref());
            let (node, of_table) = (self.clone(), table.clone());
            let work = move || node.scrub_step(&of_table, &from, STEP_ROWS, pass);
            let step = fault::blocking(work).await?;
            if !step.bad.is_empty() && self.config.scrub.repair {
                kept.left += self.mend_bad(table, &step).await;
            }
            kept.rows += step.rows;
            kept.next = step.next.map(|next| next.0.to_vec());
            let since = self.clock.monotonic().saturating_sub(kept_at);
            if kept.next.is_none() || since >= KEEP_EVERY {
                self.keep_scrub(table.id(), &kept);
                kept_at = self.clock.monotonic();
            }
            tokio::time::sleep(throttle(step.bytes, rate).max(PAUSE_MIN)).await;
        }
        Ok(())
    }

    /// Mends what a step has found from other replicas. Gives how many ranges they left.
    async fn mend_bad(self: &Arc<Self>, table: &Arc<Table>, step: &ScrubStep) -> u64 {
        if self.alike_replicas(table, &self.config.region.name).is_empty() {
            return 0;
        }
        let (node, table) = (self.clone(), table.clone());
        let bad: Vec<Bad> = step.bad.iter().map(Bad::of).collect();
        let work = move || {
            let name = table.name();
            let mended = |bad: &&Bad| match node.mend_here(&table, bad) {
                Ok(end) => end != HealEnd::Unsettled,
                Err(error) => {
                    tracing::warn!(table = name.as_str(), %error, "found by a scrub, not mended");
                    false
                }
            };
            (bad.len() - bad.iter().filter(mended).count()) as u64
        };
        fault::blocking(work).await
    }

    fn mend_here(self: &Arc<Self>, table: &Table, bad: &Bad) -> Result<HealEnd, ApiError> {
        let runtime = Handle::current();
        let here = Place::in_region(self, &self.config.region.name, &runtime)?;
        let mut pause = |time| {
            runtime.block_on(tokio::time::sleep(time));
            true
        };
        self.heal_range(table, &here, bad, &mut pause).map(|(end, _)| end)
    }

    fn keep_scrub(&self, table: TableId, kept: &Kept) {
        if let Ok(note) = serde_json::to_vec(kept) {
            // Should it be lost in a crash, some rows are read twice.
            drop(self.store.put_note(&note_name(table), &note));
        }
    }

    /// Tells what a step of a scrub has found here, whoever asked for it.
    pub(super) fn notice_bad(&self, table: &Table, step: &ScrubStep) {
        let name = table.name();
        for bad in step.bad.iter().take(TOLD_MAX) {
            let text = match &bad.damaged {
                Some(_) => "a row on the disk cannot be read".to_owned(),
                None => format!(
                    "rows on the disk are not what the digest says, in a range of {} rows",
                    bad.rows_expected.max(bad.rows_found)
                ),
            };
            let schema = table.schema();
            let key = |key: &EncodedKey| super::verify::key_told(&schema, key);
            let detail = json!({
                "region": self.config.region.name,
                "start": key(&bad.start),
                "end": bad.end.as_ref().map(key),
                "rows_expected": bad.rows_expected,
                "rows_found": bad.rows_found,
                "damaged": bad.damaged.as_ref().map(key),
            });
            self.notice(EventKind::DiskDiffers, name.as_str(), text, detail);
        }
    }
}

fn key_of(bytes: Option<&[u8]>) -> EncodedKey {
    EncodedKey(Bytes::copy_from_slice(bytes.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_is_due_until_it_is_done_and_again_after_a_while() {
        let every = Duration::from_secs(10);
        let done = Kept { started_millis: 1000, rows: 1, ..Kept::default() };
        assert!(is_due(None, 0, every));
        assert!(!is_due(Some(&done), 10_999, every));
        assert!(is_due(Some(&done), 11_000, every));
        let under_way = Kept { next: Some(vec![1]), ..done };
        assert!(is_due(Some(&under_way), 1001, every));
    }

    #[test]
    fn a_table_with_damage_is_read_again_before_long() {
        let every = Duration::from_secs(168 * 3600);
        let left = Kept { started_millis: 1000, left: 1, ..Kept::default() };
        assert!(!is_due(Some(&left), 3_600_999, every));
        assert!(is_due(Some(&left), 3_601_000, every));
        assert!(!is_due(Some(&Kept { left: 0, ..left }), 3_601_000, every));
    }
}
