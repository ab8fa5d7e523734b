//! Runs a comparison: two regions, or several with the first; deep if the disk is to be read first.

use std::ops::ControlFlow;
use std::time::Duration;

use isthmus_digest::Lane;
use isthmus_model::key::EncodedKey;
use isthmus_replication::verify::compare::{Options, Progress as Found, Shell, compare};
use isthmus_replication::verify::error::VerifyError;
use isthmus_replication::verify::report::{FoundRow, Report};
use prost::Message;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::json::{hex, unhex};
use super::key_of_json;
use super::place::Place;
use super::report::{VerifyReport, push_bounded, row_json};
use super::run::Work;
use super::scrubbing::Pass;
use crate::api_error::ApiError;
use crate::node::jobs::control::Progress;
use crate::node::jobs::spec::VerifySpec;
use crate::node::jobs::state::Outcome;
use crate::peer::verify::Bad;

/// How often a comparison is begun anew whose session ended, or that found a side busy.
const TRIES_MAX: u32 = 4;
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// How often it is told how far a walk over a table is.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// How long to wait for a region that is behind, if nothing else is asked for.
const WAIT_SECONDS: u64 = 30;
/// Bad ranges that are read row by row.
const BAD_MAX: usize = 4096;
/// Share of a deep comparison that reading the disk is taken for.
const SCRUB_SHARE: f64 = 0.9;

/// Where a job that compares has come to.
#[derive(Serialize, Deserialize)]
struct At {
    /// Regions whose disk was read.
    scrubbed: usize,
    pass: Pass,
    /// Place of the region and the range, encoded.
    bad: Vec<(usize, String)>,
    /// Pairs that were compared.
    pairs: usize,
    start: Option<String>,
    report: VerifyReport,
}

impl Work<'_> {
    /// Compares replicas.
    pub(super) fn verify(
        &self,
        spec: &VerifySpec,
        place: Option<Json>,
    ) -> Result<Outcome, ApiError> {
        let kept = place.and_then(|place| serde_json::from_value::<At>(place).ok());
        let mut at = match kept {
            Some(at) => at,
            None => At {
                scrubbed: 0,
                pass: self.new_pass(),
                bad: Vec::new(),
                pairs: 0,
                start: self.start_of(spec)?,
                report: VerifyReport::new(&spec.table, &spec.regions, spec.deep),
            },
        };
        let places: Vec<Place> =
            spec.regions.iter().map(|region| self.place(region)).collect::<Result<_, _>>()?;
        if spec.deep && !self.scrub_all(spec, &places, &mut at)? {
            return Ok(Outcome::Halted(json!(at)));
        }
        while at.pairs + 1 < places.len() {
            if !self.verify_pair(spec, &places, &mut at) {
                return Ok(Outcome::Halted(json!(at)));
            }
        }
        if !self.look_at_bad(spec, &places, &mut at) {
            return Ok(Outcome::Halted(json!(at)));
        }
        Ok(Outcome::Done(at.report.to_json()))
    }

    fn start_of(&self, spec: &VerifySpec) -> Result<Option<String>, ApiError> {
        let Some(key) = &spec.resume else { return Ok(None) };
        let key = key_of_json(&self.schema, key);
        key.map(|key| Some(hex(&key))).map_err(|error| ApiError::invalid(format!("{error}.")))
    }

    /// Reads the disks of all regions. False: told to halt.
    fn scrub_all(
        &self,
        spec: &VerifySpec,
        places: &[Place],
        at: &mut At,
    ) -> Result<bool, ApiError> {
        let sides = places.len() as f64;
        while at.scrubbed < places.len() {
            let side = at.scrubbed;
            let (bad, pass) = (&mut at.bad, &mut at.pass);
            let share = |done: f64| SCRUB_SHARE * (side as f64 + done) / sides;
            let done = self.scrub_pass(
                &places[side],
                pass,
                spec.mib_per_second(),
                &share,
                &mut |range: &Bad| {
                    if bad.len() < BAD_MAX {
                        bad.push((side, hex(&EncodedKey(range.encode_to_vec().into()))));
                    }
                },
            );
            let rows = at.pass.take_rows();
            at.report.count_rows_read(&places[side].region, rows);
            match done {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(error) => {
                    // The trees can be compared all the same.
                    at.report.could_not_tell(&error.message);
                }
            }
            at.scrubbed += 1;
            at.pass = self.new_pass();
            self.node.keep_place(self.id, json!(at));
        }
        Ok(true)
    }

    /// Compares one pair. False: told to halt.
    fn verify_pair(&self, spec: &VerifySpec, places: &[Place], at: &mut At) -> bool {
        let pair = [&places[0], &places[at.pairs + 1]];
        let names = [pair[0].region.as_str(), pair[1].region.as_str()];
        let rows_max = spec.rows_listed();
        let mut options = self.options(names);
        options.scrubbed = true;
        options.rows_max = rows_max.saturating_sub(at.report.rows.len());
        options.wait = Duration::from_secs(spec.wait_seconds.unwrap_or(WAIT_SECONDS));
        options.start = at.start.as_deref().map(unhex);
        match self.compare(pair, &options, None) {
            Ok(report) => {
                if self.control.is_halted() && report.resume.is_none() {
                    // Whether it was at its end cannot be seen: it is compared again.
                    return false;
                }
                at.report.absorb(&self.names(), names, &report, rows_max);
                if self.control.is_halted() {
                    at.start = report.resume.as_ref().map(hex);
                    return false;
                }
                if let Some(key) = &report.resume {
                    let key = self.names().key(key);
                    let why = format!("so many rows differ that it ended at {key}; resume there");
                    at.report.reason.get_or_insert(why);
                }
            }
            Err(error) => at.report.could_not_tell(&error.to_string()),
        }
        at.pairs += 1;
        at.start = None;
        self.node.keep_place(self.id, json!(at));
        true
    }

    /// The usual, for this table.
    pub(super) fn options(&self, names: [&str; 2]) -> Options {
        Options::new(self.table.id(), names.map(str::to_owned))
    }

    /// Compares two regions.
    pub(super) fn compare(
        &self,
        pair: [&Place; 2],
        options: &Options,
        mut found: Option<&mut dyn FnMut(&FoundRow<'_>)>,
    ) -> Result<Report, VerifyError> {
        let clock = &**self.node.clock();
        let mut tries = 1;
        loop {
            let mut sides = pair.map(Place::side);
            let [first, second] = &mut sides;
            let mut told_at = clock.monotonic();
            self.tell_comparing(0, None);
            let mut progress = |now: &Found| {
                if clock.monotonic().saturating_sub(told_at) >= TELL_EVERY {
                    told_at = clock.monotonic();
                    self.tell_comparing(now.rows_differing, now.done_before.as_ref());
                }
                match self.control.is_halted() {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            };
            let mut shell = Shell {
                clock,
                pause: &mut |time| self.control.rest(time),
                progress: &mut progress,
                found: match &mut found {
                    Some(found) => Some(&mut **found),
                    None => None,
                },
            };
            match compare(&mut **first, &mut **second, options, &mut shell) {
                Err(VerifyError::NoSession | VerifyError::Busy)
                    if tries < TRIES_MAX && !self.control.is_halted() =>
                {
                    tries += 1;
                    self.control.rest(TRY_AGAIN_AFTER);
                }
                report => return report,
            }
        }
    }

    fn tell_comparing(&self, rows_differing: u64, done_before: Option<&EncodedKey>) {
        let (done, total) = match done_before.and_then(|key| self.rows_before(key)) {
            Some((done, total)) => (done, Some(total)),
            None => (rows_differing, None),
        };
        let fraction = total.map(|total| done as f64 / total.max(1) as f64);
        let (phase, bytes) = ("comparing", 0);
        self.control.tell(Progress { phase, rows_done: done, rows_total: total, bytes, fraction });
    }

    /// About how many rows are before a key, and how many there are, by the digest here.
    fn rows_before(&self, key: &EncodedKey) -> Option<(u64, u64)> {
        let view = self.table.digest_view().ok()?;
        let lanes = view.tree().lanes();
        let lane = lanes.iter().max_by_key(|root| root.rows)?;
        let leaves = view.tree().leaves(lane.lane, &[], Some(&key.0));
        Some((leaves.map(|leaf| u64::from(leaf.rows)).sum(), lane.rows))
    }

    /// Reads, row by row, the ranges in which a disk is not what its digest says. False: halted.
    fn look_at_bad(&self, spec: &VerifySpec, places: &[Place], at: &mut At) -> bool {
        let rows_max = spec.rows_listed();
        for (done, (side, bad)) in at.bad.iter().enumerate() {
            let Ok(bad) = Bad::decode(unhex(bad).0) else { continue };
            let others = if *side == 0 { 1..places.len() } else { *side..*side + 1 };
            let mut is_different = false;
            for other in others {
                let pair = [&places[0], &places[other]];
                let names = [pair[0].region.as_str(), pair[1].region.as_str()];
                let found = match self.compare_range(pair, &bad) {
                    Ok(found) => found,
                    Err(why) => {
                        at.report.could_not_tell(&why);
                        continue;
                    }
                };
                if self.control.is_halted() {
                    return false;
                }
                for (region, rows) in names.iter().zip(found.rows_read) {
                    at.report.count_rows_read(region, rows);
                }
                if found.unsettled > 0 {
                    let why = format!("{} rows kept changing", found.unsettled);
                    at.report.could_not_tell(&why);
                }
                let listed = at.report.listed(names);
                for diff in &found.rows {
                    is_different = true;
                    let row = row_json(&self.names(), names, diff);
                    if !listed.contains(&row["key"].to_string()) {
                        at.report.equal = Some(false);
                        at.report.rows_differing += 1;
                        at.report.list(row, rows_max);
                    }
                }
            }
            let (start, end) = (EncodedKey(bad.start.clone()), bad.end.clone().map(EncodedKey));
            let is_lane_of_data = bad.range().is_some_and(|range| range.lane == Lane::Data);
            let rows = is_lane_of_data.then_some(bad.rows_found.max(bad.rows_expected));
            let region = &places[*side].region;
            let told = self.names().range(region, &start, end.as_ref(), rows);
            // Rows that are alike in both were written as they are: then the digest is wrong.
            let ends = (told["start"].clone(), told["end"].clone());
            // The comparison of the digests has told of the same range, but not what is wrong.
            at.report.tree_wrong.retain(|known| {
                known["region"] != region.as_str()
                    || (&known["start"], &known["end"]) != (&ends.0, &ends.1)
            });
            let list = match is_different || bad.damaged.is_some() {
                true => &mut at.report.bad_on_disk,
                false => &mut at.report.tree_wrong,
            };
            push_bounded(list, told);
            let fraction = Some(done as f64 / at.bad.len() as f64);
            self.control.tell(Progress { phase: "reading", fraction, ..Progress::default() });
        }
        true
    }
}
