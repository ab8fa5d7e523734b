//! Judges what a comparison says by what is known.
//!
//! While two regions are compared, the registers are watched in which they differ, truly and
//! without a change, at every moment from the beginning to the end: these must be found. What is
//! named must have been other than the logs say at some moment that the comparison may have seen.
//! When nothing is on its way, what is named is exactly what differs, register by register.

use std::collections::{BTreeMap, BTreeSet};

use isthmus_model::diff::{Held, Register, registers};
use isthmus_model::entry::EntryBody;
use isthmus_model::hlc::Hlc;
use isthmus_model::ids::Lsn;
use isthmus_model::key::EncodedKey;
use isthmus_replication::verify::report::{Report, Verdict};

use crate::checkers::Violation;
use crate::verify::nature::origin_of;
use crate::verify::truth::{Differing, find};
use crate::verify::world::World;

const MISSED: &str = "never equal while different";
const FALSE: &str = "no difference is reported that is only late";
const EXACT: &str = "the rows named are those that differ";

/// A comparison under way.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) places: [usize; 2],
    start: u64,
    /// Where the first region stood.
    start_lsn: Lsn,
    /// What differs since the beginning.
    lasting: BTreeMap<EncodedKey, Vec<Differing>>,
}

impl Watch {
    pub(super) fn start(&self) -> u64 {
        self.start
    }
}

impl World {
    /// A comparison begins.
    pub(super) fn begin_watch(&mut self, places: [usize; 2]) {
        let start = self.step;
        places.iter().for_each(|place| self.look(*place));
        let [a, b] = places.map(|place| self.moments[place].lsn);
        let mut lasting = self.differing(places).unwrap_or_default();
        // The second one is taken back to where the first one stands.
        if !self.nature.writers.are_many() && b > a {
            let origin = origin_of(self.nature.base);
            let later = self.truth.entries.range((origin, a.next())..=(origin, b));
            let bodies = later.map(|(_, entry)| &entry.body);
            for body in bodies {
                match body {
                    EntryBody::Rows(rows) => rows.iter().for_each(|row| {
                        lasting.remove(&row.key);
                    }),
                    EntryBody::Schema(_) | EntryBody::Expiry(_) => lasting.clear(),
                    EntryBody::Handover(_)
                    | EntryBody::Opening
                    | EntryBody::Settled(_)
                    | EntryBody::Intent(_)
                    | EntryBody::Abandoned(_)
                    | EntryBody::Forgotten(_) => {}
                }
            }
            let planted = &self.planted[places[1]];
            lasting.retain(|key, _| planted.get(key).is_none_or(|lsn| *lsn <= a));
        }
        // A repair that is on its way bears stamps that all have had for long.
        lasting.retain(|key, _| !self.mended.contains(key));
        for place in places {
            lasting.retain(|key, _| !self.rotten[place].contains_key(key));
        }
        self.watch = Some(Watch { places, start, start_lsn: a, lasting });
    }

    /// What two regions differ in, if that can be told now.
    pub(super) fn differing(
        &self,
        places: [usize; 2],
    ) -> Option<BTreeMap<EncodedKey, Vec<Differing>>> {
        let [a, b] = places.map(|place| &self.moments[place]);
        let many = self.nature.writers.are_many();
        (a.is_exact && b.is_exact).then(|| self.truth.differing(places, a, b, many))
    }

    /// A region has moved.
    pub(super) fn watch_on(&mut self, region: usize) {
        let Some(mut watch) = self.watch.take() else { return };
        if watch.places.contains(&region) && !watch.lasting.is_empty() {
            let now = self.differing(watch.places).unwrap_or_default();
            watch.lasting.retain(|key, differing| {
                let now = now.get(key).map(Vec::as_slice).unwrap_or_default();
                differing.retain(|one| now.contains(one));
                !differing.is_empty()
            });
        }
        self.watch = Some(watch);
    }

    /// Judges what was said while the world went on.
    pub(super) fn judge_report(&mut self, watch: &Watch, report: &Report) {
        let missed = || self.check_missed(watch, report);
        let checked = self.check_named(watch, report).and_then(|()| missed());
        self.judge(checked);
    }

    fn check_named(&self, watch: &Watch, report: &Report) -> Result<(), Violation> {
        let many = self.nature.writers.are_many();
        for row in &report.rows {
            let deviated = watch.places.iter().enumerate().any(|(side, place)| {
                let seen = self.deviated[*place].get(&row.key);
                seen.is_some_and(|seen| {
                    let may_be_taken_back = side == 1 && !many;
                    seen.step >= watch.start || (may_be_taken_back && seen.lsn >= watch.start_lsn)
                })
            });
            // What a repair has logged bears the stamps that it repairs, so that it looks as if it
            // had been there for long.
            let is_mended = many && self.mended.contains(&row.key);
            if !deviated && !is_mended {
                let [a, b] = watch.places.map(|place| self.moments[place].rows.get(&row.key));
                let what =
                    format!("regions {:?}: {row:?}; they have {a:?} and {b:?}", watch.places);
                return Err(Violation::of(FALSE, what));
            }
        }
        Ok(())
    }

    /// Judges what was said while nothing was on its way.
    pub(super) fn judge_quiet(&self, places: [usize; 2], report: &Report) -> Result<(), Violation> {
        let Some(expected) = self.differing(places) else {
            return Err(Violation::of(EXACT, "a digest is not ready"));
        };
        let rotten: BTreeSet<&EncodedKey> =
            places.iter().flat_map(|place| self.rotten[*place].keys()).collect();
        if let Verdict::CouldNotTell(why) = &report.verdict
            && rotten.is_empty()
        {
            return Err(Violation::of("what is quiet can be compared", why.clone()));
        }
        let named: BTreeSet<&EncodedKey> = report.rows.iter().map(|row| &row.key).collect();
        let differ: BTreeSet<&EncodedKey> = expected.keys().collect();
        let odd = named.symmetric_difference(&differ).find(|key| !rotten.contains(**key));
        if let Some(key) = odd {
            let [a, b] = places.map(|place| self.moments[place].rows.get(*key));
            let what = format!(
                "regions {places:?}, {key:?}: named {}, differs {:?}; they have {a:?} and {b:?}; \
                 {:?}",
                named.contains(*key),
                expected.get(*key),
                report.verdict,
            );
            let invariant = if named.contains(*key) { EXACT } else { MISSED };
            return Err(Violation::of(invariant, what));
        }
        let [a, b] = places.map(|place| &self.moments[place].lens);
        let lens = a.joined(b);
        let floor = lens.kills_floor.unwrap_or_default();
        for row in report.rows.iter().filter(|row| !rotten.contains(&row.key)) {
            let seen = |held: &Option<Held>, register: &Register| {
                let is_past = |held: &Held| held.value.is_some() && lens.is_past(register);
                let is_purged = |held: &Held| register.kills(held) && held.stamp.hlc < floor;
                held.clone().filter(|held| !(is_past(held) || is_purged(held)))
            };
            let told: Vec<Differing> = row
                .cells
                .iter()
                .map(|cell| {
                    let (first, second) = (&cell.first, &cell.second);
                    let name = &cell.register;
                    (name.clone(), seen(first, name), seen(second, name))
                })
                .filter(|(_, first, second)| first.is_some() || second.is_some())
                .collect();
            if expected.get(&row.key) != Some(&told) {
                let what = format!("{row:?}; they differ in {:?}", expected.get(&row.key));
                return Err(Violation::of("the cells named are those that differ", what));
            }
        }
        Ok(())
    }

    fn check_missed(&self, watch: &Watch, report: &Report) -> Result<(), Violation> {
        let many = self.nature.writers.are_many();
        let is_named = |key: &EncodedKey| report.rows.iter().any(|row| row.key == *key);
        // With several writers a report is about what was written up to the moment that it names.
        let cut = report.compared.iter().flatten().map(|compared| Hlc(compared.hlc)).min();
        let is_before =
            |held: &Option<Held>| held.as_ref().is_some_and(|held| Some(held.stamp.hlc) <= cut);
        let counts = |key: &EncodedKey, differing: &Differing| {
            let (_, first, second) = differing;
            let is_told = is_before(first) || is_before(second);
            !many || (is_told && !self.was_alike(watch.places, key, differing, cut))
        };
        let lasting = watch
            .lasting
            .iter()
            .filter(|(key, differing)| differing.iter().any(|one| counts(key, one)));
        let missing: Vec<_> = lasting.filter(|(key, _)| !is_named(key)).collect();
        let excused = match report.verdict {
            Verdict::Equal => 0,
            Verdict::Different => report.unsettled as usize,
            Verdict::CouldNotTell(_) => return Ok(()),
        };
        if missing.len() <= excused {
            return Ok(());
        }
        let places = watch.places;
        let what = format!("regions {places:?}: {missing:?} is missing in {report:?}");
        Err(Violation::of(MISSED, what))
    }

    /// Whether two regions had the same in a register as of the cut. One of them has lost a write
    /// from after the cut, which the report is not about; in the other one that write has taken
    /// the place of what both had. What that one had is told by the logs, if its row was never
    /// other than they say.
    fn was_alike(
        &self,
        places: [usize; 2],
        key: &EncodedKey,
        (register, first, second): &Differing,
        cut: Option<Hlc>,
    ) -> bool {
        let (Some(cut), Some(first), Some(second)) = (cut, first, second) else { return false };
        let (had, other) = match (first.stamp.hlc <= cut, second.stamp.hlc <= cut) {
            (true, false) => (first, places[1]),
            (false, true) => (second, places[0]),
            (true, true) | (false, false) => return false,
        };
        let logged = find(&registers(&self.truth.as_of(key, cut)), register);
        logged.as_ref() == Some(had) && !self.deviated[other].contains_key(key)
    }
}
