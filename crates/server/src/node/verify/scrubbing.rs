//! Jobs that read rows from the disk, and mend what is wrong from a healthy replica.

use std::time::Duration;

use bytes::Bytes;
use isthmus_model::key::EncodedKey;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::json::{hex, unhex};
use super::place::Place;
use super::report::push_bounded;
use super::run::Work;
use super::scrubs::throttle;
use crate::api_error::ApiError;
use crate::node::Node;
use crate::node::events::EventKind;
use crate::node::jobs::control::{Control, Progress};
use crate::node::jobs::spec::ScrubSpec;
use crate::node::jobs::state::Outcome;
use crate::peer::verify::{Bad, Heal, HealEnd, Rows, Scrub};

/// Rows of one step.
const STEP_ROWS: u32 = 2048;
/// How often the place is kept at rest.
const KEEP_EVERY: Duration = Duration::from_secs(30);
/// How often a range is tried to be mended while replicas are not at one point.
const HEAL_TRIES: u32 = 5;
const HEAL_AGAIN_AFTER: Duration = Duration::from_millis(300);

/// A pass over a table's rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Pass {
    id: u64,
    next: String,
    rows: u64,
    bytes: u64,
    rows_told: u64,
}

impl Pass {
    /// Rows read that were not taken before.
    pub(super) fn take_rows(&mut self) -> u64 {
        let rows = self.rows - self.rows_told;
        self.rows_told = self.rows;
        rows
    }
}

/// What a scrub of tables has come to.
#[derive(Serialize, Deserialize)]
struct At {
    tables: Vec<String>,
    done: usize,
    pass: Pass,
    rows_read: u64,
    bytes_read: u64,
    bad: Vec<Json>,
    bad_count: u64,
    repaired: u64,
    settled: u64,
    skipped: Vec<Json>,
}

impl Work<'_> {
    pub(super) fn new_pass(&self) -> Pass {
        let id = self.node.verification.next_pass();
        Pass { id, next: String::new(), rows: 0, bytes: 0, rows_told: 0 }
    }

    /// Reads a table of a region from where the pass is. False: told to halt.
    pub(super) fn scrub_pass(
        &self,
        place: &Place,
        pass: &mut Pass,
        mib_per_second: u64,
        share: &dyn Fn(f64) -> f64,
        bad: &mut dyn FnMut(&Bad),
    ) -> Result<bool, ApiError> {
        loop {
            let mut found = Vec::new();
            let kept_at = self.node.clock().monotonic();
            let ended = self.scrub_some(mib_per_second, place, pass, share, &mut found, kept_at);
            found.iter().for_each(&mut *bad);
            match ended? {
                Ended::Halted => return Ok(false),
                Ended::Whole => return Ok(true),
                Ended::Paused => {}
            }
        }
    }

    /// Mends a range of a region from one of the other replicas. Gives how, and how many rows.
    fn heal(&self, place: &Place, bad: &Bad) -> Result<(HealEnd, u64), ApiError> {
        let Some(record) = self.node.record(self.table.id()) else {
            return Ok((HealEnd::Unsettled, 0));
        };
        for attempt in 0..HEAL_TRIES {
            if attempt > 0 {
                self.control.rest(HEAL_AGAIN_AFTER);
            }
            let replicas = record.table.replicas.iter().map(|replica| replica.region.as_str());
            let is_like = |region: &&str| {
                // Rows of a replica that takes less than all are no copies of others.
                let parted = [*region, &place.region];
                *region != place.region && !parted.iter().any(|r| record.table.takes_extract(r))
            };
            for region in replicas.filter(is_like) {
                let Ok(healthy) = self.place(region) else { continue };
                let (start, end) = (bad.start.clone(), bad.end.clone());
                let table = self.table.id().0;
                // One that cannot be reached is no help, another may be.
                let Ok(rows) = healthy.rows(Rows { table, start, end }) else { continue };
                if rows.next.is_some() {
                    continue;
                }
                let heal = Heal { table, bad: Some(bad.clone()), rows: rows.rows };
                let told = place.heal(heal)?;
                if told.end() != HealEnd::Unsettled {
                    return Ok((told.end(), told.rows));
                }
            }
            if self.control.is_halted() {
                break;
            }
        }
        Ok((HealEnd::Unsettled, 0))
    }

    /// One table of a scrub. False: told to halt.
    fn scrub_table(&self, spec: &ScrubSpec, place: &Place, at: &mut At) -> Result<bool, ApiError> {
        let (done, count) = (at.done as f64, at.tables.len() as f64);
        let share = |fraction: f64| (done + fraction) / count;
        let mut kept_at = self.node.clock().monotonic();
        loop {
            let mut found = Vec::new();
            let mut pass = at.pass.clone();
            let before = (pass.rows, pass.bytes);
            let ended = {
                let rate = spec.mib_per_second();
                self.scrub_some(rate, place, &mut pass, &share, &mut found, kept_at)
            };
            at.rows_read += pass.rows - before.0;
            at.bytes_read += pass.bytes - before.1;
            at.pass = pass;
            for bad in &found {
                self.settle(spec, place, bad, at)?;
            }
            match ended? {
                Ended::Halted => return Ok(false),
                Ended::Whole => return Ok(true),
                Ended::Paused => {
                    self.node.keep_place(self.id, json!(at));
                    kept_at = self.node.clock().monotonic();
                }
            }
        }
    }

    /// Reads on until something is found, or the place is to be kept.
    fn scrub_some(
        &self,
        mib_per_second: u64,
        place: &Place,
        pass: &mut Pass,
        share: &dyn Fn(f64) -> f64,
        found: &mut Vec<Bad>,
        kept_at: Duration,
    ) -> Result<Ended, ApiError> {
        loop {
            if self.control.is_halted() {
                return Ok(Ended::Halted);
            }
            let from = unhex(&pass.next).0;
            let scrub = Scrub { table: self.table.id().0, from, rows: STEP_ROWS, pass: pass.id };
            let told = place.scrub(scrub)?;
            pass.rows += told.rows;
            pass.bytes += told.bytes;
            found.extend(told.bad);
            let total = told.rows_total.max(pass.rows);
            let fraction = pass.rows as f64 / total.max(1) as f64;
            self.control.tell(Progress {
                phase: "scrubbing",
                rows_done: pass.rows,
                rows_total: Some(total),
                bytes: pass.bytes,
                fraction: Some(share(fraction)),
            });
            match told.next {
                None => return Ok(Ended::Whole),
                Some(next) => pass.next = hex(&EncodedKey(next)),
            }
            self.control.rest(throttle(told.bytes, mib_per_second));
            let since = self.node.clock().monotonic().saturating_sub(kept_at);
            if !found.is_empty() || since >= KEEP_EVERY {
                return Ok(Ended::Paused);
            }
        }
    }

    fn settle(
        &self,
        spec: &ScrubSpec,
        place: &Place,
        bad: &Bad,
        at: &mut At,
    ) -> Result<(), ApiError> {
        at.bad_count += 1;
        let (end, rows) = match spec.repair {
            true => self.heal(place, bad)?,
            false => (HealEnd::Unsettled, 0),
        };
        let table = self.table.name();
        let settled = match end {
            HealEnd::Unsettled if spec.repair => "no replica has what the digest says",
            HealEnd::Unsettled => "left",
            HealEnd::Nothing => "nothing, it was right by then",
            HealEnd::Rows => "rows were written from a healthy replica",
            HealEnd::Digest => "the digest was set right, the replicas have the same rows",
        };
        if end != HealEnd::Unsettled {
            at.settled += 1;
            at.repaired += rows;
        }
        if end == HealEnd::Rows || end == HealEnd::Digest {
            let text = format!("{}: {settled}", place.region);
            let detail = json!({ "region": place.region, "rows": rows });
            self.node.notice(EventKind::DiskHealed, table.as_str(), text, detail);
        }
        let (start, to) = (EncodedKey(bad.start.clone()), bad.end.clone().map(EncodedKey));
        let rows = bad.rows_found.max(bad.rows_expected);
        let mut told = self.names().range(&place.region, &start, to.as_ref(), Some(rows));
        told["table"] = table.as_str().into();
        told["settled"] = settled.into();
        let damaged = |key: &Bytes| self.names().key(&EncodedKey(key.clone()));
        told["damaged"] = bad.damaged.as_ref().map_or(Json::Null, damaged);
        push_bounded(&mut at.bad, told);
        Ok(())
    }
}

enum Ended {
    Whole,
    Halted,
    Paused,
}

impl Node {
    pub(super) fn run_scrub(
        self: &std::sync::Arc<Self>,
        id: u64,
        spec: &ScrubSpec,
        place: Option<Json>,
        control: &Control,
    ) -> Result<Outcome, ApiError> {
        let region = spec.region.as_deref().unwrap_or(&self.config.region.name);
        let asked = Place::named(self, region)?;
        let kept = place.and_then(|place| serde_json::from_value::<At>(place).ok());
        let mut at = kept.unwrap_or_else(|| self.new_scrub(spec, region));
        while at.done < at.tables.len() {
            let name = at.tables[at.done].clone();
            let scrubbed = match self.work(id, &name, control) {
                Ok(work) => work.scrub_table(spec, &asked, &mut at),
                Err(error) => Err(error),
            };
            match scrubbed {
                Ok(false) => return Ok(Outcome::Halted(json!(at))),
                Ok(true) => {}
                // One table of many does not keep the others from being read.
                Err(error) if at.tables.len() > 1 => {
                    let told = json!({ "table": name, "reason": error.message });
                    push_bounded(&mut at.skipped, told);
                }
                Err(error) => return Err(error),
            }
            at.done += 1;
            at.pass = self.fresh_pass();
        }
        Ok(Outcome::Done(json!({
            "region": region,
            "table": spec.table,
            "tables": at.tables,
            "rows_read": at.rows_read,
            "bytes_read": at.bytes_read,
            "bad": at.bad,
            "bad_ranges": at.bad_count,
            "bad_left": at.bad_count - at.settled,
            "repaired": at.repaired,
            "skipped": at.skipped,
        })))
    }

    fn fresh_pass(&self) -> Pass {
        let id = self.verification.next_pass();
        Pass { id, next: String::new(), rows: 0, bytes: 0, rows_told: 0 }
    }

    fn new_scrub(&self, spec: &ScrubSpec, region: &str) -> At {
        let is_there = |table: &std::sync::Arc<isthmus_store::Table>| {
            region == self.config.region.name
                || self.record(table.id()).is_some_and(|r| r.table.replica(region).is_some())
        };
        let tables = match &spec.table {
            Some(table) => vec![table.clone()],
            None => {
                let tables = self.store.tables();
                let names = tables.iter().filter(|table| is_there(table));
                names.map(|table| table.name().as_str().to_owned()).collect()
            }
        };
        At {
            tables,
            done: 0,
            pass: self.fresh_pass(),
            rows_read: 0,
            bytes_read: 0,
            bad: Vec::new(),
            bad_count: 0,
            repaired: 0,
            settled: 0,
            skipped: Vec::new(),
        }
    }
}
