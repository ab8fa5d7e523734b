//! What rows are and what they ought to be.
//!
//! What a region ought to hold is made from the logs alone: the entries of every origin up to the
//! region's watermark, merged, with all kills kept. Where a row that is stored shows something
//! else, somebody has written past the log. Whether two regions differ is judged here once more,
//! row by row, without digests, sessions or cuts.

use std::collections::{BTreeMap, BTreeSet};

use isthmus_model::change::Direction;
use isthmus_model::diff::{Held, Register, registers};
use isthmus_model::entry::{Entry, EntryBody};
use isthmus_model::expiry::Expiry;
use isthmus_model::family::Families;
use isthmus_model::hlc::{Hlc, Stamp};
use isthmus_model::ids::{Lsn, Origin, Timestamp};
use isthmus_model::key::EncodedKey;
use isthmus_model::row::{Cell, Row, expiry_bucket};
use isthmus_store::codec::row::decode_row;
use isthmus_store::{StoreError, Table};

/// The first moment of a bucket of kills, as the digest counts them.
const KILLS_BUCKET_SHIFT: u32 = 36;

/// What of rows counts.
#[derive(Clone, Debug, Default)]
pub(super) struct Lens {
    pub(super) expiry: Vec<Expiry>,
    /// The families of its schema.
    pub(super) families: Families,
    pub(super) time_lanes: bool,
    pub(super) time_floor: i64,
    /// `None`: kills never count.
    pub(super) kills_floor: Option<Hlc>,
}

impl Lens {
    /// What counts on both sides.
    pub(super) fn joined(&self, other: &Lens) -> Lens {
        Lens {
            expiry: self.expiry.iter().chain(&other.expiry).copied().collect(),
            families: match self.families.list().len() > other.families.list().len() {
                true => self.families.clone(),
                false => other.families.clone(),
            },
            time_lanes: self.time_lanes || other.time_lanes,
            time_floor: self.time_floor.max(other.time_floor),
            kills_floor: self.kills_floor.max(other.kills_floor),
        }
    }

    fn is_gone(&self, timestamp: Timestamp) -> bool {
        expiry_bucket(timestamp) < self.time_floor
    }

    /// Whether a version with a value has expired for this lens, whenever it was written: nobody
    /// reads it, and it may be named where its row differs.
    pub(super) fn is_past(&self, register: &Register) -> bool {
        let Register::Cell(name, timestamp) = register else { return false };
        let own_time = self.families.with_own_time();
        self.time_lanes && !own_time.has(self.families.of(name)) && self.is_gone(*timestamp)
    }

    /// What of a row counts.
    pub(super) fn see(&self, row: &Row) -> Row {
        let mut row = row.clone();
        self.expiry.iter().for_each(|expiry| row.expire(expiry, &self.families));
        if self.time_lanes {
            row.marker = row.marker.filter(|stamp| !self.is_gone(stamp.hlc.timestamp()));
            let own_time = self.families.with_own_time();
            for column in &mut row.columns {
                if !own_time.has(self.families.of(&column.name)) {
                    let lives = |cell: &Cell| cell.value.is_none() || !self.is_gone(cell.timestamp);
                    column.cells.retain(lives);
                }
            }
        }
        // This lets go of columns that have become bare, too.
        row.purge(self.kills_floor.unwrap_or(Hlc::MAX));
        row
    }
}

/// One region's table as it is durable.
#[derive(Clone, Debug, Default)]
pub(super) struct Moment {
    pub(super) rows: BTreeMap<EncodedKey, Row>,
    pub(super) vector: Vec<(Origin, Hlc)>,
    pub(super) safe: Hlc,
    pub(super) lsn: Lsn,
    pub(super) lens: Lens,
    /// The lens is that of this moment, not of an earlier one.
    pub(super) is_exact: bool,
}

impl Moment {
    /// Looks at a table. `before` is what was seen last.
    pub(super) fn of(table: &Table, safe: Hlc, before: &Moment) -> Result<Moment, StoreError> {
        let snapshot = table.snapshot()?;
        let mut rows = BTreeMap::new();
        for pair in snapshot.scan_packed(&EncodedKey::default(), None, Direction::Forward) {
            let (key, packed) = pair?;
            rows.insert(key, decode_row(&packed).unwrap_or_default());
        }
        let view = table.digest_view().ok();
        let (time_floor, kills) = match &view {
            Some(view) => view.floors(),
            None => (before.lens.time_floor, 0),
        };
        let kills =
            Hlc(kills << KILLS_BUCKET_SHIFT).max(before.lens.kills_floor.unwrap_or_default());
        Ok(Moment {
            rows,
            vector: snapshot.vector().iter().map(|mark| (mark.origin, mark.hlc)).collect(),
            safe,
            lsn: snapshot.lsn(),
            lens: Lens {
                expiry: snapshot.expiry().to_vec(),
                families: snapshot.schema().options.families.clone(),
                time_lanes: snapshot.schema().options.time_to_live_seconds.is_some(),
                time_floor,
                kills_floor: snapshot.spec().writers.are_many().then_some(kills),
            },
            is_exact: view.is_some(),
        })
    }

    fn covers(&self, stamp: Stamp) -> bool {
        let known = |(origin, hlc): &(Origin, Hlc)| *origin == stamp.origin && stamp.hlc <= *hlc;
        stamp.hlc < self.safe || self.vector.iter().any(known)
    }

    pub(super) fn row(&self, key: &EncodedKey, lens: &Lens) -> Row {
        self.rows.get(key).map(|row| lens.see(row)).unwrap_or_default()
    }
}

/// A register in which two regions differ, and what each has.
pub(super) type Differing = (Register, Option<Held>, Option<Held>);

/// What the logs say.
#[derive(Debug, Default)]
pub(super) struct Truth {
    /// Durable entries, by origin and its LSN.
    pub(super) entries: BTreeMap<(Origin, Lsn), Entry>,
    /// Per region: what it ought to hold, and up to where of each origin.
    clean: Vec<(BTreeMap<EncodedKey, Row>, BTreeMap<Origin, Lsn>)>,
}

impl Truth {
    pub(super) fn new(regions: usize) -> Truth {
        let clean = (0..regions).map(|_| Default::default()).collect();
        Truth { entries: BTreeMap::new(), clean }
    }

    /// The last entry known of an origin.
    pub(super) fn last(&self, origin: Origin) -> Lsn {
        let range = (origin, Lsn(0))..=(origin, Lsn(u64::MAX));
        self.entries.range(range).next_back().map_or(Lsn(0), |((_, lsn), _)| *lsn)
    }

    /// A region has applied an origin up to an LSN. Gives the rows that this changed.
    pub(super) fn applied(&mut self, region: usize, origin: Origin, to: Lsn) -> Vec<EncodedKey> {
        let Some((rows, upto)) = self.clean.get_mut(region) else { return Vec::new() };
        let from = upto.entry(origin).or_default();
        let mut keys = Vec::new();
        if to > *from {
            for (_, entry) in self.entries.range((origin, from.next())..=(origin, to)) {
                let EntryBody::Rows(changed) = &entry.body else { continue };
                for row in changed {
                    rows.entry(row.key.clone()).or_default().merge(&row.delta);
                    keys.push(row.key.clone());
                }
            }
            *from = to;
        }
        keys
    }

    /// What a region ought to hold of a row.
    pub(super) fn clean(&self, region: usize, key: &EncodedKey, lens: &Lens) -> Row {
        let rows = self.clean.get(region).map(|(rows, _)| rows);
        rows.and_then(|rows| rows.get(key)).map(|row| lens.see(row)).unwrap_or_default()
    }

    /// What the logs say that a row was as of a moment.
    pub(super) fn as_of(&self, key: &EncodedKey, moment: Hlc) -> Row {
        let mut row = Row::default();
        for entry in self.entries.values().filter(|entry| entry.stamp.hlc <= moment) {
            let EntryBody::Rows(changed) = &entry.body else { continue };
            let changed = changed.iter().filter(|changed| changed.key == *key);
            changed.for_each(|changed| row.merge(&changed.delta));
        }
        row
    }

    /// Rows of a region that are not what its logs say.
    pub(super) fn deviating(&self, region: usize, moment: &Moment) -> BTreeSet<EncodedKey> {
        let Some((clean, _)) = self.clean.get(region) else { return BTreeSet::new() };
        let lens = &moment.lens;
        let keys: BTreeSet<&EncodedKey> = clean.keys().chain(moment.rows.keys()).collect();
        let deviates = |key: &&EncodedKey| moment.row(key, lens) != self.clean(region, key, lens);
        keys.into_iter().filter(deviates).cloned().collect()
    }

    /// Where two regions differ otherwise than by what is on its way, row by row.
    pub(super) fn differing(
        &self,
        places: [usize; 2],
        a: &Moment,
        b: &Moment,
        many: bool,
    ) -> BTreeMap<EncodedKey, Vec<Differing>> {
        let lens = a.lens.joined(&b.lens);
        let keys: BTreeSet<&EncodedKey> = a.rows.keys().chain(b.rows.keys()).collect();
        let mut differing = BTreeMap::new();
        for key in keys {
            let rows = [a.row(key, &lens), b.row(key, &lens)];
            if rows[0] == rows[1] {
                continue;
            }
            let found = match many {
                true => differing_many(a, b, &rows, &lens),
                false => {
                    let clean = places.map(|place| self.clean(place, key, &lens));
                    differing_one(&rows, &clean)
                }
            };
            if !found.is_empty() {
                differing.insert(key.clone(), found);
            }
        }
        differing
    }
}

pub(super) fn find(all: &[(Register, Held)], name: &Register) -> Option<Held> {
    all.iter().find(|(known, _)| known == name).map(|(_, held)| held.clone())
}

fn differing_many(a: &Moment, b: &Moment, rows: &[Row; 2], lens: &Lens) -> Vec<Differing> {
    let mut merged = rows[0].clone();
    merged.merge(&rows[1]);
    let merged = lens.see(&merged);
    let [x, y] = [registers(&rows[0]), registers(&rows[1])];
    let mut found = Vec::new();
    for (name, held) in registers(&merged) {
        let (in_a, in_b) = (find(&x, &name), find(&y, &name));
        if in_a == in_b {
            continue;
        }
        let lacks = |it: &Option<Held>| it.as_ref().is_none_or(|it| it.stamp != held.stamp);
        let truly = |lacking: &Moment, having: &Moment| {
            let floor = lacking.lens.kills_floor.unwrap_or_default();
            let is_unclear = held.stamp.hlc < floor && having.safe < floor;
            lacking.covers(held.stamp) && !is_unclear
        };
        let differs = match (lacks(&in_a), lacks(&in_b)) {
            (false, false) => true,
            (true, _) => truly(a, b),
            (false, true) => truly(b, a),
        };
        if differs {
            found.push((name, in_a, in_b));
        }
    }
    found
}

/// With one writer what ought to be the same must be; what ought not to be is judged when it is.
fn differing_one(rows: &[Row; 2], clean: &[Row; 2]) -> Vec<Differing> {
    let [x, y] = [registers(&rows[0]), registers(&rows[1])];
    let [p, q] = [registers(&clean[0]), registers(&clean[1])];
    let names: BTreeSet<&Register> = x.iter().chain(&y).map(|(name, _)| name).collect();
    let mut found = Vec::new();
    for name in names {
        let (in_a, in_b) = (find(&x, name), find(&y, name));
        if in_a != in_b && find(&p, name) == find(&q, name) {
            found.push((name.clone(), in_a, in_b));
        }
    }
    found
}
