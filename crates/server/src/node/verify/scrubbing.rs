//! Jobs that read rows from the disk, and mend what is wrong from a healthy replica.

use std::time::Duration;

use bytes::Bytes;
use isthmus_model::key::EncodedKey;
use isthmus_replication::verify::answer::ScrubbedFrom;
use isthmus_replication::verify::limits::SCRUBBED_RANGES_MAX;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::healing::words;
use super::json::{hex, unhex};
use super::place::Place;
use super::report::push_bounded;
use super::run::Work;
use super::scrubs::throttle;
use crate::api_error::ApiError;
use crate::node::Node;
use crate::node::jobs::control::{Control, Progress};
use crate::node::jobs::spec::ScrubSpec;
use crate::node::jobs::state::Outcome;
use crate::peer::verify::{Bad, HealEnd, Scrub};

/// Rows of one step.
const STEP_ROWS: u32 = 2048;
/// How often the place is kept at rest.
const KEEP_EVERY: Duration = Duration::from_secs(30);

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
    fn new(id: u64) -> Pass {
        Pass { id, next: String::new(), rows: 0, bytes: 0, rows_told: 0 }
    }

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
    #[serde(default)]
    scrubbed_ranges: Vec<Json>,
}

impl Work<'_> {
    pub(super) fn new_pass(&self) -> Pass {
        Pass::new(self.node.verification.next_pass())
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
                Ended::Whole(_) => return Ok(true),
                Ended::Paused => {}
            }
        }
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
                Ended::Whole(scrubbed) => {
                    self.list_scrubbed(place, &scrubbed, at);
                    return Ok(true);
                }
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
                None => return Ok(Ended::Whole(told.scrubbed)),
                Some(next) => pass.next = hex(&EncodedKey(next)),
            }
            self.control.rest(throttle(told.bytes, mib_per_second));
            let since = self.node.clock().monotonic().saturating_sub(kept_at);
            if !found.is_empty() || since >= KEEP_EVERY {
                return Ok(Ended::Paused);
            }
        }
    }

    /// Lists since when ranges of a table were last read from disk: with many tables fewer of
    /// each, the oldest.
    fn list_scrubbed(&self, place: &Place, scrubbed: &[ScrubbedFrom], at: &mut At) {
        let ranges_max = SCRUBBED_RANGES_MAX / at.tables.len().max(1);
        let scrubbed = ScrubbedFrom::joined(scrubbed, ranges_max);
        for mut told in self.names().scrubbed(&place.region, &scrubbed) {
            told["table"] = self.table.name().as_str().into();
            push_bounded(&mut at.scrubbed_ranges, told);
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
            true => {
                let mut pause = |time| {
                    self.control.rest(time);
                    !self.control.is_halted()
                };
                self.node.heal_range(&self.table, place, bad, &mut pause)?
            }
            false => (HealEnd::Unsettled, 0),
        };
        let settled = match spec.repair {
            true => words(end),
            false => "left",
        };
        if end != HealEnd::Unsettled {
            at.settled += 1;
            at.repaired += rows;
        }
        let (start, to) = (EncodedKey(bad.start.clone()), bad.end.clone().map(EncodedKey));
        let rows = bad.rows_found.max(bad.rows_expected);
        let mut told = self.names().range(&place.region, &start, to.as_ref(), Some(rows));
        told["table"] = self.table.name().as_str().into();
        told["settled"] = settled.into();
        let damaged = |key: &Bytes| self.names().key(&EncodedKey(key.clone()));
        told["damaged"] = bad.damaged.as_ref().map_or(Json::Null, damaged);
        push_bounded(&mut at.bad, told);
        Ok(())
    }
}

enum Ended {
    /// With when each range was last read.
    Whole(Vec<ScrubbedFrom>),
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
            at.pass = Pass::new(self.verification.next_pass());
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
            "scrubbed_ranges": at.scrubbed_ranges,
        })))
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
            pass: Pass::new(self.verification.next_pass()),
            rows_read: 0,
            bytes_read: 0,
            bad: Vec::new(),
            bad_count: 0,
            repaired: 0,
            settled: 0,
            skipped: Vec::new(),
            scrubbed_ranges: Vec::new(),
        }
    }
}
