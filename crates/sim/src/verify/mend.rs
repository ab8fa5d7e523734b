//! Repairs, with writes racing; and whether any of these was lost.

use std::collections::{BTreeMap, BTreeSet};

use isthmus_digest::Parts;
use isthmus_model::diff::Knowledge;
use isthmus_model::entry::EntryBody;
use isthmus_model::family::NO_FAMILIES;
use isthmus_model::hlc::{Hlc, Stamp};
use isthmus_model::ids::{Lsn, Origin, Timestamp};
use isthmus_model::key::EncodedKey;
use isthmus_model::row::Row;
use isthmus_model::value::{Text, Value};
use isthmus_replication::verify::answer::Opened;
use isthmus_replication::verify::repair::{Direction, mend, take_over};
use isthmus_replication::verify::report::Verdict;
use isthmus_store::{RepairRow, Repaired};
use rand::Rng;

use crate::checkers::Violation;
use crate::plant::Plant;
use crate::verify::compare::Found;
use crate::verify::nature::{Mending, origin_of};
use crate::verify::truth::Lens;
use crate::verify::world::World;

/// Rounds in which regions that nobody writes to must become alike.
const ROUNDS_MAX: u32 = 8;

/// A repair under way.
pub(super) struct Repairs {
    source: usize,
    direction: Direction,
    /// The moment it began.
    start: u64,
    /// The last entry of each origin then.
    before: BTreeMap<Origin, Lsn>,
    /// Entries that repairs have made.
    made: BTreeSet<(Origin, Lsn)>,
    /// It is not known of all entries who made them.
    is_vague: bool,
    pub(super) repaired: u64,
}

impl World {
    /// Mends all regions while clients write, then until they are alike, and judges what is left.
    pub(super) fn mend_all(&mut self, mending: Mending) -> Result<u64, Violation> {
        let (source, direction) = match mending {
            Mending::No => return Ok(0),
            Mending::OneWay(source) => (source, Direction::OneWay),
            Mending::Merge => (0, Direction::Merge),
        };
        let origins = (0..self.regions.len()).map(origin_of);
        let mut repairs = Repairs {
            source,
            direction,
            start: self.step,
            before: origins.map(|origin| (origin, self.truth.last(origin))).collect(),
            made: BTreeSet::new(),
            is_vague: false,
            repaired: 0,
        };
        (0..self.regions.len()).for_each(|region| self.look(region));
        let targets: Vec<usize> = (0..self.regions.len()).filter(|r| *r != source).collect();
        self.is_busy = true;
        for _ in 0..2 {
            for target in &targets {
                if let Some((_, found)) = self.compare_busy([source, *target]) {
                    self.repair(&mut repairs, *target, found, true);
                }
                self.held()?;
            }
        }
        self.is_busy = false;
        self.until_alike(&mut repairs, &targets)?;
        self.check_nothing_lost(&repairs)?;
        Ok(repairs.repaired)
    }

    fn until_alike(&mut self, repairs: &mut Repairs, targets: &[usize]) -> Result<(), Violation> {
        let mut told = String::new();
        for _ in 0..ROUNDS_MAX {
            let mut alike = true;
            for target in targets {
                self.settle()?;
                let places = [repairs.source, *target];
                let (report, found) = self.compare_quiet(places).map_err(|error| {
                    Violation::of("what is quiet can be compared", error.to_string())
                })?;
                self.judge_quiet(places, &report)?;
                alike &= report.verdict == Verdict::Equal;
                told = format!("{:?}", report.rows);
                self.repair(repairs, *target, found, false);
            }
            if alike {
                return Ok(());
            }
        }
        Err(Violation::of("repair ends alike", told))
    }

    /// Does with what was found what the server does.
    fn repair(&mut self, repairs: &mut Repairs, target: usize, found: Vec<Found>, races: bool) {
        let mut rest = found.into_iter();
        loop {
            let count = self.rng.random_range(1..4);
            let some: Vec<Found> = rest.by_ref().take(count).collect();
            if some.is_empty() {
                return;
            }
            if races {
                self.wander();
                self.race_at(target, &some);
            }
            self.repair_some(repairs, target, some, races);
        }
    }

    /// Clients change what is about to be repaired, in the target or where the table is written.
    fn race_at(&mut self, target: usize, found: &[Found]) {
        let region = if self.nature.is_writer(target) { target } else { self.nature.base };
        for one in found {
            if self.rng.random_range(0..3) == 0 {
                self.write_row(region, &one.diff.key);
                if self.rng.random() {
                    self.commit(region);
                }
            }
        }
    }

    fn repair_some(
        &mut self,
        repairs: &mut Repairs,
        target: usize,
        found: Vec<Found>,
        races: bool,
    ) {
        let Some(table) = self.regions[target].table() else { return };
        let is_blind = self.options.plant == Some(Plant::RepairBlind);
        let Ok(view) = table.digest_view() else { return };
        let forgets = is_blind || self.options.plant == Some(Plant::RepairForgetful);
        let mut since = Lsn(u64::MAX);
        let mut rows = Vec::new();
        for one in found {
            let Some(row) = plan(repairs.direction, &one) else { continue };
            let key = one.diff.key.clone();
            if !forgets {
                since = since.min(Lsn(one.heads[1].cut_lsn));
            }
            let Ok(seen) = view.row(&key) else { continue };
            let known_by = fingerprint(&view, &key, &seen.parts, &one.heads);
            if known_by != one.fingerprints[1] && !is_blind {
                continue;
            }
            let expected = (!is_blind).then_some(seen.parts);
            rows.push(RepairRow { key, expected, row });
        }
        drop(view);
        // Some of what clients ask for meanwhile is accepted before and not durable.
        while races && self.rng.random() {
            self.write(target);
        }
        let origin = origin_of(target);
        let (before, crashes) = (self.truth.last(origin), self.crashes);
        let keys: Vec<EncodedKey> = rows.iter().map(|row| row.key.clone()).collect();
        self.mended.extend(keys.iter().cloned());
        let mut pending = table.repair(rows, since);
        self.commit_all(target);
        let done = pending.try_take();
        self.note(&format!("repaired in {target}: {keys:?} {done:?}"));
        if let Some(Ok(done)) = done {
            repairs.repaired += done.iter().filter(|one| **one == Repaired::Done).count() as u64;
        }
        repairs.is_vague |= crashes != self.crashes;
        let new = self.truth.entries.range((origin, before.next())..=(origin, Lsn(u64::MAX)));
        let new: Vec<(Origin, Lsn)> = new.map(|(place, _)| *place).collect();
        repairs.made.extend(new.into_iter().filter(|place| !self.acknowledged.contains(place)));
    }

    /// What clients wrote since the repair began is there, and where the source was right, all is.
    fn check_nothing_lost(&mut self, repairs: &Repairs) -> Result<(), Violation> {
        if repairs.is_vague {
            return Ok(());
        }
        let mut lens = self.moments[0].lens.clone();
        for moment in &self.moments {
            lens = lens.joined(&moment.lens);
        }
        lens.kills_floor = None;
        let mut written: BTreeMap<EncodedKey, Row> = BTreeMap::new();
        let mut since: BTreeMap<EncodedKey, Row> = BTreeMap::new();
        for ((origin, lsn), entry) in &self.truth.entries {
            let EntryBody::Rows(rows) = &entry.body else { continue };
            if repairs.made.contains(&(*origin, *lsn)) {
                continue;
            }
            let is_new = repairs.before.get(origin).is_none_or(|before| lsn > before);
            for row in rows {
                written.entry(row.key.clone()).or_default().merge(&row.delta);
                if is_new {
                    since.entry(row.key.clone()).or_default().merge(&row.delta);
                }
            }
        }
        for (key, row) in &since {
            // Where all get what any has, a planted kill of any region wins.
            let counts =
                |region: &usize| *region == repairs.source || repairs.direction == Direction::Merge;
            let deviated = (0..self.regions.len()).filter(counts).any(|region| {
                self.deviated[region].get(key).is_some_and(|seen| seen.step >= repairs.start)
            });
            if !deviated {
                self.check_row(key, &lens, row, false)?;
            }
        }
        for (key, row) in &written {
            let is_right = !self.deviated[repairs.source].contains_key(key);
            if is_right && repairs.direction == Direction::OneWay {
                self.check_row(key, &lens, row, true)?;
            }
        }
        Ok(())
    }

    /// `exact`: nothing else is there.
    fn check_row(
        &self,
        key: &EncodedKey,
        lens: &Lens,
        wanted: &Row,
        exact: bool,
    ) -> Result<(), Violation> {
        for (region, moment) in self.moments.iter().enumerate() {
            let (wanted, have) = (shown(&lens.see(wanted)), shown(&moment.row(key, lens)));
            let lost = wanted.iter().find(|(name, value)| have.get(*name) != Some(*value));
            let extra = have.keys().find(|name| exact && !wanted.contains_key(*name));
            if lost.is_some() || extra.is_some() {
                let what = format!(
                    "region {region}, {key:?}: lost {lost:?}, not wanted {extra:?}; it has {:?}",
                    moment.rows.get(key)
                );
                return Err(Violation::of("a repair loses no write", what));
            }
        }
        Ok(())
    }
}

type Shown = BTreeMap<Option<(Text, Timestamp)>, Option<Value>>;

/// What a reader could see: the marker, and the versions of columns.
fn shown(row: &Row) -> Shown {
    let mut shown = Shown::new();
    shown.extend(row.marker.map(|_| (None, None)));
    for column in &row.columns {
        for cell in column.cells.iter().filter(|cell| cell.value.is_some()) {
            shown.insert(Some((column.name.clone(), cell.timestamp)), cell.value.clone());
        }
    }
    shown
}

fn plan(direction: Direction, found: &Found) -> Option<Row> {
    let [source, target] = &found.rows;
    if !found.heads[0].many_writers {
        return Some(take_over(found.diff.key.clone(), source, found.fingerprints[1]).row);
    }
    let vectors = [0, 1].map(|side: usize| found.heads[side].vector_hlc());
    let past = |stamp: Stamp| {
        [0, 1].into_iter().all(|side: usize| {
            let head = &found.heads[side];
            let (safe, floor) = (Hlc(head.safe), Hlc::MIN);
            Knowledge { vector: &vectors[side], safe, floor, expiry: &[], families: &NO_FAMILIES }
                .covers(stamp)
        })
    };
    mend(direction, source, target, &found.diff.cells, &past)
}

/// What a row is known by where what either side has dropped does not count.
fn fingerprint(
    view: &isthmus_store::digest::DigestView,
    key: &EncodedKey,
    parts: &Parts,
    heads: &[std::sync::Arc<Opened>; 2],
) -> u64 {
    let floors = heads[0].floors().joined(heads[1].floors());
    let mut parts = parts.clone();
    parts.retain(|lane| floors.keep(lane));
    match parts.is_empty() {
        true => 0,
        false => parts.fingerprint(view.hasher(), &key.0),
    }
}
