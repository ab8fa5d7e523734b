//! Mends a range whose rows a disk does not hold as they were written, from a healthy replica.
//!
//! What must hold: rows are written only where they make the range what its digest says, so a
//! replica that is itself wrong, or is ahead, mends nothing.

use std::sync::Arc;
use std::time::Duration;

use isthmus_model::key::EncodedKey;
use isthmus_store::Table;
use serde_json::json;

use super::key_told;
use super::place::Place;
use crate::api_error::ApiError;
use crate::node::Node;
use crate::node::events::EventKind;
use crate::peer::verify::{Bad, Heal, HealEnd, Rows};

/// How often a range is tried to be mended while replicas are not at one point.
const TRIES_MAX: u32 = 5;
const AGAIN_AFTER: Duration = Duration::from_millis(300);

/// What became of a range, in words.
pub(crate) fn words(end: HealEnd) -> &'static str {
    match end {
        HealEnd::Unsettled => "left: rows of it change, or no replica has what the digest says",
        HealEnd::Nothing => "nothing, it was right by then",
        HealEnd::Rows => "rows were written from a healthy replica",
        HealEnd::Digest => "the digest was set right, the replicas have the same rows",
    }
}

impl Node {
    /// Mends a range of a region from one of the other replicas, and tells of it. Gives how, and
    /// how many rows were written. `pause` lets time pass, and says whether to go on. Blocks.
    pub(crate) fn heal_range(
        self: &Arc<Self>,
        table: &Table,
        place: &Place,
        bad: &Bad,
        pause: &mut dyn FnMut(Duration) -> bool,
    ) -> Result<(HealEnd, u64), ApiError> {
        for attempt in 0..TRIES_MAX {
            if attempt > 0 && !pause(AGAIN_AFTER) {
                break;
            }
            let (end, rows) = self.try_heal(table, place, bad)?;
            if end != HealEnd::Unsettled {
                self.notice_healed(table, place, bad, (end, rows));
                return Ok((end, rows));
            }
        }
        Ok((HealEnd::Unsettled, 0))
    }

    fn try_heal(
        self: &Arc<Self>,
        table: &Table,
        place: &Place,
        bad: &Bad,
    ) -> Result<(HealEnd, u64), ApiError> {
        for region in self.alike_replicas(table, &place.region) {
            let Ok(healthy) = Place::named(self, &region) else { continue };
            let (start, end) = (bad.start.clone(), bad.end.clone());
            let id = table.id().0;
            // One that cannot be reached is no help, another may be.
            let Ok(rows) = healthy.rows(Rows { table: id, start, end }) else { continue };
            if rows.next.is_some() {
                continue;
            }
            let heal = Heal { table: id, bad: Some(bad.clone()), rows: rows.rows };
            let told = place.heal(heal)?;
            if told.end() != HealEnd::Unsettled {
                return Ok((told.end(), told.rows));
            }
        }
        Ok((HealEnd::Unsettled, 0))
    }

    /// The other regions that should hold what a region holds of a table.
    pub(crate) fn alike_replicas(&self, table: &Table, region: &str) -> Vec<String> {
        let Some(record) = self.record(table.id()) else { return Vec::new() };
        let replicas = record.table.replicas.iter().map(|replica| replica.region.as_str());
        let is_like = |other: &&str| {
            // Rows of a replica that takes less than all are no copies of others.
            *other != region && ![*other, region].iter().any(|one| record.table.takes_extract(one))
        };
        replicas.filter(is_like).map(str::to_owned).collect()
    }

    fn notice_healed(&self, table: &Table, place: &Place, bad: &Bad, how: (HealEnd, u64)) {
        let (end, rows) = how;
        if end == HealEnd::Nothing {
            return;
        }
        let schema = table.schema();
        let text = format!("{}: {}", place.region, words(end));
        let detail = json!({
            "region": place.region,
            "rows": rows,
            "start": key_told(&schema, &EncodedKey(bad.start.clone())),
            "end": bad.end.clone().map(|end| key_told(&schema, &EncodedKey(end))),
        });
        self.notice(EventKind::DiskHealed, table.name().as_str(), text, detail);
    }
}
