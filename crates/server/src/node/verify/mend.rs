//! Jobs that make one replica like another: compare, plan, write in small steps, compare again.
//!
//! Rows are written while the comparison that names them goes on, so nothing is gathered. Each is
//! written only if it is still as it was compared; one that has changed is looked at again in the
//! next round. With one writer what the log says of a row since it was compared counts as well,
//! even where it changes nothing. A job that is halted begins its round anew: what is repaired is
//! alike by then.

use std::time::Duration;

use isthmus_model::diff::Knowledge;
use isthmus_model::family::NO_FAMILIES;
use isthmus_model::hlc::{Hlc, Stamp};
use isthmus_model::ids::Origin;
use isthmus_replication::verify::answer::{Floors, Opened};
use isthmus_replication::verify::repair::{Direction, mend, take_over};
use isthmus_replication::verify::report::{FoundRow, Report, Verdict};
use isthmus_store::codec::row::encode_row;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::place::Place;
use super::report::VerifyReport;
use super::run::Work;
use crate::api_error::ApiError;
use crate::node::events::EventKind;
use crate::node::jobs::control::Progress;
use crate::node::jobs::spec::{RepairMode, RepairSpec};
use crate::node::jobs::state::Outcome;
use crate::peer::verify::{REPAIR_BYTES, REPAIR_ROWS_MAX, Repair, RepairOne};

/// Rounds of comparing and repairing in which nothing was repaired.
const FRUITLESS_MAX: u32 = 8;
/// Rounds at all: what goes on to differ is not for a repair to mend.
const ROUNDS_MAX: u32 = 100;
/// What is written must be in the past of both sides, and what is shipped must arrive.
const ROUND_PAUSE: Duration = Duration::from_millis(500);

/// Where a repair has come to.
#[derive(Serialize, Deserialize)]
struct At {
    /// What was found first.
    report: Option<VerifyReport>,
    repaired: u64,
    changed: u64,
    bytes_moved: u64,
}

/// As of what rows were compared.
#[derive(Clone, Copy, PartialEq)]
struct Basis {
    /// Fingerprints leave out what is below.
    floors: Floors,
    /// The entry.
    cut_lsn: u64,
}

/// What one round does.
struct Round<'a> {
    work: &'a Work<'a>,
    spec: &'a RepairSpec,
    target: &'a Place,
    rows: Vec<RepairOne>,
    bytes: usize,
    /// As of what the gathered rows were compared.
    basis: Basis,
    began: Duration,
    found: u64,
    repaired: u64,
    /// Rows that changed since they were compared.
    changed: u64,
    /// Rows that cannot be repaired yet.
    waiting: u64,
    bytes_moved: u64,
    error: Option<String>,
}

impl Work<'_> {
    /// Makes a replica like another.
    pub(super) fn repair(
        &self,
        spec: &RepairSpec,
        place: Option<Json>,
    ) -> Result<Outcome, ApiError> {
        let kept = place.and_then(|place| serde_json::from_value::<At>(place).ok());
        let mut at = kept.unwrap_or(At { report: None, repaired: 0, changed: 0, bytes_moved: 0 });
        let (source, target) = (self.place(&spec.from)?, self.place(&spec.to)?);
        let mut left = 0;
        let mut equal_after = None;
        let mut fruitless = 0;
        for round in 0..ROUNDS_MAX {
            let begun = self.round(spec, [&source, &target]);
            let (report, round_did) = begun;
            at.repaired += round_did.repaired;
            at.changed += round_did.changed;
            at.bytes_moved += round_did.bytes_moved;
            if let Some(error) = round_did.error {
                return Ok(Outcome::Failed(error));
            }
            let report = match report {
                Ok(report) => report,
                Err(error) => return Ok(Outcome::Failed(error)),
            };
            if self.control.is_halted() && report.verdict != Verdict::Equal {
                return Ok(Outcome::Halted(json!(at)));
            }
            self.note_round(spec, &mut at, &report);
            left = report.rows_differing;
            equal_after = match report.verdict {
                Verdict::Equal => Some(true),
                Verdict::Different => Some(false),
                Verdict::CouldNotTell(_) => None,
            };
            let again = round_did.repaired + round_did.changed + round_did.waiting > 0;
            fruitless = if round_did.repaired > 0 { 0 } else { fruitless + 1 };
            if spec.dry_run || !again || fruitless == FRUITLESS_MAX {
                break;
            }
            self.node.keep_place(self.id, json!(at));
            // Only what is in the way of the next round is waited for.
            if round_did.changed + round_did.waiting > 0 || round > 0 {
                self.control.rest(ROUND_PAUSE);
            }
        }
        Ok(Outcome::Done(self.repair_report(spec, at, left, equal_after)))
    }

    fn round(&self, spec: &RepairSpec, pair: [&Place; 2]) -> (Result<Report, String>, Did) {
        let names = [pair[0].region.as_str(), pair[1].region.as_str()];
        let mut options = self.options(names);
        options.rows_max = spec.rows_listed();
        let mut round = Round {
            work: self,
            spec,
            target: pair[1],
            rows: Vec::new(),
            bytes: 0,
            basis: Basis { floors: Floors::NONE, cut_lsn: 0 },
            began: self.node.clock().monotonic(),
            found: 0,
            repaired: 0,
            changed: 0,
            waiting: 0,
            bytes_moved: 0,
            error: None,
        };
        let mut found = |row: &FoundRow<'_>| round.take(row);
        let report = self.compare(pair, &options, Some(&mut found));
        if !self.control.is_halted() {
            round.flush();
        }
        (report.map_err(|error| error.to_string()), round.did())
    }

    /// The first round tells what was found; the others add what they cost.
    fn note_round(&self, spec: &RepairSpec, at: &mut At, report: &Report) {
        let names = [spec.from.as_str(), spec.to.as_str()];
        match &mut at.report {
            Some(found) => {
                found.bytes_exchanged += report.bytes_exchanged();
                found.round_trips += report.round_trips();
                for (region, cost) in names.iter().zip(&report.costs) {
                    found.count_rows_read(region, cost.rows_read);
                }
            }
            None => {
                let regions = names.map(str::to_owned);
                let mut found = VerifyReport::new(&spec.table, &regions, false);
                found.absorb(&self.names(), names, report, spec.rows_listed());
                at.report = Some(found);
            }
        }
    }

    fn repair_report(
        &self,
        spec: &RepairSpec,
        at: At,
        left: u64,
        equal_after: Option<bool>,
    ) -> Json {
        if at.repaired > 0 {
            let text = format!("{} rows of {} made like {}", at.repaired, spec.to, spec.from);
            let detail = json!({ "from": spec.from, "to": spec.to, "rows": at.repaired });
            self.node.notice(EventKind::RowsRepaired, &spec.table, text, detail);
        }
        let mut told = at.report.map_or(json!({}), |report| report.to_json());
        told["from"] = spec.from.as_str().into();
        told["to"] = spec.to.as_str().into();
        told["dry_run"] = spec.dry_run.into();
        told["repaired"] = at.repaired.into();
        told["skipped_changed"] = at.changed.into();
        told["rows_left"] = if spec.dry_run { json!(0) } else { json!(left) };
        told["equal_after"] = equal_after.into();
        told["bytes_moved"] = at.bytes_moved.into();
        told
    }
}

/// What a round did.
struct Did {
    repaired: u64,
    changed: u64,
    waiting: u64,
    bytes_moved: u64,
    error: Option<String>,
}

impl Round<'_> {
    fn did(self) -> Did {
        Did {
            repaired: self.repaired,
            changed: self.changed,
            waiting: self.waiting,
            bytes_moved: self.bytes_moved,
            error: self.error,
        }
    }

    /// Takes a row that differs.
    fn take(&mut self, row: &FoundRow<'_>) {
        self.found += 1;
        if self.spec.dry_run || self.error.is_some() || self.work.control.is_halted() {
            return;
        }
        let floors = row.heads[0].floors().joined(row.heads[1].floors());
        let basis = Basis { floors, cut_lsn: row.heads[1].cut_lsn };
        if basis != self.basis {
            self.flush();
            self.basis = basis;
        }
        let Some(one) = self.plan(row) else {
            self.waiting += 1;
            return;
        };
        self.bytes += one.key.len() + one.row.len();
        self.rows.push(one);
        if self.rows.len() >= REPAIR_ROWS_MAX || self.bytes >= REPAIR_BYTES {
            self.flush();
        }
    }

    fn plan(&self, row: &FoundRow<'_>) -> Option<RepairOne> {
        let key = row.diff.key.clone();
        let (source, target) = (row.rows[0], row.rows[1]);
        let expected = row.fingerprints[1];
        if !row.heads[0].many_writers {
            let planned = take_over(key, source, expected);
            let row = encode_row(&planned.row);
            return Some(RepairOne { key: planned.key.0, expected: planned.expected, row });
        }
        let direction = match self.spec.mode {
            RepairMode::OneWay => Direction::OneWay,
            RepairMode::Merge => Direction::Merge,
        };
        let knows = row.heads.map(Knows::of);
        let past = |stamp: Stamp| knows.iter().all(|knows| knows.has_had(stamp));
        let delta = mend(direction, source, target, &row.diff.cells, &past)?;
        Some(RepairOne { key: key.0, expected, row: encode_row(&delta) })
    }

    /// Writes what is gathered.
    fn flush(&mut self) {
        if self.rows.is_empty() || self.error.is_some() {
            return;
        }
        let rows = std::mem::take(&mut self.rows);
        let count = rows.len() as u64;
        let bytes = std::mem::take(&mut self.bytes) as u64;
        let repair = Repair {
            table: self.work.table.id().0,
            rows,
            floor_time: self.basis.floors.time,
            floor_kills: self.basis.floors.kills,
            cut_lsn: self.basis.cut_lsn,
        };
        match self.target.repair(repair) {
            Ok(told) => {
                let done = told.done.iter().filter(|done| **done).count() as u64;
                self.repaired += done;
                self.changed += count.saturating_sub(done);
                self.bytes_moved += bytes;
            }
            Err(error) => self.error = Some(error.message),
        }
        self.work.control.tell(Progress {
            phase: "repairing",
            rows_done: self.repaired,
            bytes: self.bytes_moved,
            ..Progress::default()
        });
        self.throttle();
    }

    fn throttle(&self) {
        let Some(rate) = self.spec.rows_per_second else { return };
        let due = Duration::from_secs_f64((self.repaired + self.changed) as f64 / rate as f64);
        let taken = self.work.node.clock().monotonic().saturating_sub(self.began);
        self.work.control.rest(due.saturating_sub(taken));
    }
}

/// What a side has had.
struct Knows {
    vector: Vec<(Origin, Hlc)>,
    safe: Hlc,
    floor: Hlc,
}

impl Knows {
    fn of(opened: &Opened) -> Knows {
        let floor = opened.floors().kills_hlc();
        Knows { vector: opened.vector_hlc(), safe: Hlc(opened.safe), floor }
    }

    fn has_had(&self, stamp: Stamp) -> bool {
        let (vector, safe, floor) = (&self.vector[..], self.safe, self.floor);
        Knowledge { vector, safe, floor, expiry: &[], families: &NO_FAMILIES }.covers(stamp)
    }
}
