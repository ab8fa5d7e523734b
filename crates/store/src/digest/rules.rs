//! What of a row counts in the digest, and where.
//!
//! Pure. Two replicas that have applied the same entries must measure their rows alike, whatever
//! their sweeps have removed by now. So what may go from the disk at different times lies in lanes
//! of its own, and a lane that is about to go is not counted any more anywhere: cells that expire
//! by the bucket of their timestamps, tombstones and trims by the bucket of their moments.

use std::collections::BTreeMap;

use bytes::Bytes;
use isthmus_digest::{Hasher, Lane, Parts};
use isthmus_model::expiry::Expiry;
use isthmus_model::family::{Families, FamilyNumber, FamilySet};
use isthmus_model::hlc::Hlc;
use isthmus_model::ids::Timestamp;
use isthmus_model::row::{Cell, Column, Row, expiry_bucket};
use isthmus_model::schema::Schema;
use isthmus_model::value::Text;

use crate::codec::row::{PackedPut, decode_row, encode_row, is_packed_plain};
use crate::codec::{Corrupt, put_bytes};

/// Kills share a lane with those of the same 2^20 milliseconds, about 17 minutes.
const KILLS_BUCKET_BITS: u32 = 20;

/// The lane bucket of tombstones and trims of a moment.
pub(crate) fn kills_bucket(hlc: Hlc) -> u64 {
    (hlc.0 >> 16) >> KILLS_BUCKET_BITS
}

/// The first moment of the bucket that a moment lies in.
pub(crate) fn start_of_kills_bucket(hlc: Hlc) -> Hlc {
    Hlc(kills_bucket(hlc) << (16 + KILLS_BUCKET_BITS))
}

/// What of the rows of a partition its digest counts. The same at the same place of the log in
/// every region, but for the floors, which only rise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Live cells lie in lanes by the bucket of their timestamps.
    pub time_lanes: bool,
    /// Expiries logged before the digest was begun: what they kill never counts.
    pub base: Vec<Expiry>,
    /// Lanes of cells below this bucket do not count.
    pub time_floor: i64,
    /// Lanes of kills below this bucket do not count.
    pub kills_floor: u64,
    /// Which columns do not expire as the table says, as a number; 0: there are none. Their live
    /// cells lie beside those of tables whose cells do not expire, and what has expired of them is
    /// in `base`.
    pub families: u64,
}

impl Rules {
    /// For a table as it is now.
    pub fn of(schema: &Schema, expiry: &[Expiry]) -> Rules {
        Rules {
            time_lanes: schema.options.time_to_live_seconds.is_some(),
            base: expiry.to_vec(),
            time_floor: i64::MIN,
            kills_floor: 0,
            families: families_of(schema),
        }
    }

    /// Whether parts measured under either are the same, floors aside.
    pub(crate) fn measure_alike(&self, other: &Rules) -> bool {
        self.time_lanes == other.time_lanes
            && self.base == other.base
            && self.families == other.families
    }

    /// Whether a lane counts.
    pub(crate) fn counts(&self, lane: Lane) -> bool {
        match lane {
            Lane::Data => true,
            Lane::Time(bucket) => bucket >= self.time_floor,
            Lane::Kills(bucket) => bucket >= self.kills_floor,
        }
    }
}

/// Which columns of a table do not expire as it says; 0: there are none.
pub(crate) fn families_of(schema: &Schema) -> u64 {
    let families = &schema.options.families;
    let own = families.with_own_time();
    if own == FamilySet::default() {
        return 0;
    }
    let mut bytes = own.0.to_le_bytes().to_vec();
    for family in families.list() {
        family.columns.iter().for_each(|column| put_bytes(&mut bytes, column.as_bytes()));
        bytes.push(0);
        put_bytes(&mut bytes, family.prefix.as_ref().map_or(&[], |prefix| prefix.as_bytes()));
    }
    let sum = Hasher::for_table(0, 0).part(Lane::Data, b"families", &bytes);
    (sum.0 as u64).max(1)
}

/// Measures rows of one table.
#[derive(Clone, Copy)]
pub(crate) struct Measure<'a> {
    pub(crate) hasher: &'a Hasher,
    pub(crate) rules: &'a Rules,
    /// Families of the table.
    pub(crate) families: &'a Families,
    /// Rows may hold tombstones: the table has several writers.
    pub(crate) may_hold_kills: bool,
}

impl Measure<'_> {
    /// The parts of a row in its packed form.
    pub(crate) fn of_packed(&self, key: &[u8], packed: &Bytes) -> Result<Parts, Corrupt> {
        if self.is_one_part(packed) {
            return Ok(self.one_part(key, packed));
        }
        if let Some(parts) = self.of_put(key, packed) {
            return Ok(parts);
        }
        Ok(self.of_lanes(key, &decode_row(packed)?, packed))
    }

    /// As `of_packed`, of bytes that are not shared.
    pub(crate) fn of_slice(&self, key: &[u8], packed: &[u8]) -> Result<Parts, Corrupt> {
        if self.is_one_part(packed) {
            return Ok(self.one_part(key, packed));
        }
        if let Some(parts) = self.of_put(key, packed) {
            return Ok(parts);
        }
        self.of_packed(key, &Bytes::copy_from_slice(packed))
    }

    /// The parts of a row of which the packed form is at hand.
    pub(crate) fn of_row(&self, key: &[u8], row: &Row, packed: &Bytes) -> Parts {
        if self.is_one_part(packed) {
            return self.one_part(key, packed);
        }
        self.of_put(key, packed).unwrap_or_else(|| self.of_lanes(key, row, packed))
    }

    /// Whether what is stored is what is hashed.
    fn is_one_part(&self, packed: &[u8]) -> bool {
        let simple = !self.rules.time_lanes && self.rules.base.is_empty();
        simple && (!self.may_hold_kills || is_packed_plain(packed))
    }

    fn one_part(&self, key: &[u8], packed: &[u8]) -> Parts {
        Parts::one(Lane::Data, self.hasher.part(Lane::Data, key, packed))
    }

    /// The packed form of what lies in each lane is what is hashed.
    fn of_lanes(&self, key: &[u8], row: &Row, packed: &[u8]) -> Parts {
        if let Some(lane) = self.only_lane(row) {
            return match self.rules.counts(lane) {
                true => Parts::one(lane, self.hasher.part(lane, key, packed)),
                false => Parts::new(),
            };
        }
        let mut parts = Parts::new();
        for (lane, row) in self.lanes(row) {
            parts.push(lane, self.hasher.part(lane, key, &encode_row(&row)));
        }
        parts
    }

    /// The lane of a row of which all lies in one, so that its packed form is what is hashed.
    fn only_lane(&self, row: &Row) -> Option<Lane> {
        if row.tombstone.is_some() || !self.rules.base.is_empty() {
            return None;
        }
        let own_time = self.families.with_own_time();
        let lanes = Lanes { rules: self.rules, own_time, rows: BTreeMap::new() };
        let mut only = None;
        let mut is_only = |lane: Lane| *only.get_or_insert(lane) == lane;
        let marker = row.marker.map(|stamp| lanes.live(FamilyNumber::NONE, stamp.hlc.timestamp()));
        let is_one = marker.is_none_or(&mut is_only)
            && row.columns.iter().all(|column| {
                let family = self.families.of(&column.name);
                let is_bare = column.tombstone.is_none()
                    && column.trims.is_empty()
                    && column.shares.is_none()
                    && !column.cells.is_empty();
                let is_live = |cell: &Cell| {
                    cell.value.is_some() && is_only(lanes.live(family, cell.timestamp))
                };
                is_bare && column.cells.iter().all(is_live)
            });
        only.filter(|_| is_one)
    }

    /// The parts of a row as a put leaves it where rows remember what they kill: a tombstone and
    /// live cells. What lies in either lane is found in its packed form.
    fn of_put(&self, key: &[u8], packed: &[u8]) -> Option<Parts> {
        if self.rules.time_lanes || !self.rules.base.is_empty() {
            return None;
        }
        let put = PackedPut::find(packed)?;
        let data = self.hasher.part_of(Lane::Data, key, &put.live());
        let mut parts = Parts::one(Lane::Data, data);
        let kills = Lane::Kills(kills_bucket(put.tombstone.hlc));
        if self.rules.counts(kills) {
            parts.push(kills, self.hasher.part_of(kills, key, &put.dead()));
        }
        Some(parts)
    }

    fn lanes(&self, row: &Row) -> BTreeMap<Lane, Row> {
        let own_time = self.families.with_own_time();
        let mut lanes = Lanes { rules: self.rules, own_time, rows: BTreeMap::new() };
        if let Some(stamp) = row.tombstone {
            lanes.set(Lane::Kills(kills_bucket(stamp.hlc)), |row| row.tombstone = Some(stamp));
        }
        if let Some(stamp) = row.marker
            && !self.rules.base.iter().any(|expiry| expiry.kills_marker(stamp))
        {
            let lane = lanes.live(FamilyNumber::NONE, stamp.hlc.timestamp());
            lanes.set(lane, |row| row.marker = Some(stamp));
        }
        for column in &row.columns {
            lanes.add_column(self.families.of(&column.name), column);
        }
        lanes.rows
    }
}

struct Lanes<'a> {
    rules: &'a Rules,
    own_time: FamilySet,
    rows: BTreeMap<Lane, Row>,
}

impl Lanes<'_> {
    fn live(&self, family: FamilyNumber, timestamp: Timestamp) -> Lane {
        match self.rules.time_lanes && !self.own_time.has(family) {
            true => Lane::Time(expiry_bucket(timestamp)),
            false => Lane::Data,
        }
    }

    fn set(&mut self, lane: Lane, set: impl FnOnce(&mut Row)) {
        if self.rules.counts(lane) {
            set(self.rows.entry(lane).or_default());
        }
    }

    fn set_column(&mut self, lane: Lane, name: &Text, set: impl FnOnce(&mut Column)) {
        self.set(lane, |row| set(row.column_mut(name)));
    }

    fn add_column(&mut self, family: FamilyNumber, column: &Column) {
        let name = &column.name;
        if let Some(stamp) = column.tombstone {
            let lane = Lane::Kills(kills_bucket(stamp.hlc));
            self.set_column(lane, name, |column| column.tombstone = Some(stamp));
        }
        for trim in &column.trims {
            let lane = Lane::Kills(kills_bucket(trim.stamp.hlc));
            self.set_column(lane, name, |column| column.trims.push(*trim));
        }
        for share in column.shares() {
            if !self.rules.base.iter().any(|expiry| expiry.kills_share(family, share)) {
                let lane = self.live(family, share.stamp.hlc.timestamp());
                self.set_column(lane, name, |column| column.shares_mut().add(share.clone()));
            }
        }
        for seen in column.shares.iter().flat_map(|shares| &shares.seen) {
            let lane = Lane::Kills(kills_bucket(seen.by.hlc));
            self.set_column(lane, name, |column| column.shares_mut().see(*seen));
        }
        for cell in &column.cells {
            if let Some(lane) = self.lane_of(family, cell) {
                self.set_column(lane, name, |column| column.cells.push(cell.clone()));
            }
        }
    }

    fn lane_of(&self, family: FamilyNumber, cell: &Cell) -> Option<Lane> {
        // A deleted version goes with the version where that has expired.
        if self.rules.base.iter().any(|expiry| expiry.kills(family, cell)) {
            return None;
        }
        match cell.value {
            None => Some(Lane::Kills(kills_bucket(cell.stamp.hlc))),
            Some(_) => Some(self.live(family, cell.timestamp)),
        }
    }
}

#[cfg(test)]
mod tests {
    use isthmus_model::family::NO_FAMILIES;
    use isthmus_model::hlc::Stamp;
    use isthmus_model::ids::{Origin, Timestamp};
    use isthmus_model::row::{EXPIRY_BUCKET_MILLIS, Trim};
    use isthmus_model::value::Value;
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};
    use proptest::prop_assert_eq;

    use super::*;

    fn stamp(millis: i64) -> Stamp {
        Stamp { hlc: Hlc::from_millis(millis), origin: Origin(1) }
    }

    fn row(millis: &[i64]) -> Row {
        let mut row = Row { marker: Some(stamp(millis[0])), ..Row::default() };
        for at in millis {
            let value = Some(Value::Integer(*at));
            let cell = Cell { timestamp: Timestamp(*at), stamp: stamp(*at), value };
            row.column_mut(&"c".into()).set(cell);
        }
        row
    }

    fn measure(rules: &Rules, row: &Row) -> Parts {
        let hasher = Hasher::for_table(1, 2);
        let families = &NO_FAMILIES;
        let measure = Measure { hasher: &hasher, rules, families, may_hold_kills: true };
        let packed = encode_row(row);
        let parts = measure.of_row(b"k", row, &packed);
        assert_eq!(measure.of_packed(b"k", &packed), Ok(parts.clone()));
        parts
    }

    /// Every row by the way that holds for all, whatever shortcut there is.
    fn measure_slowly(measure: &Measure<'_>, row: &Row) -> Parts {
        let mut parts = Parts::new();
        for (lane, row) in measure.lanes(row) {
            parts.push(lane, measure.hasher.part(lane, b"k", &encode_row(&row)));
        }
        parts
    }

    fn any_row() -> impl Strategy<Value = Row> {
        let millis =
            || prop_oneof![4 => Just(7i64), 2 => 0..4i64, 1 => 0..3 * EXPIRY_BUCKET_MILLIS];
        let cell = (millis(), millis(), proptest::option::weighted(0.9, any::<i64>()));
        let column = (vec(cell, 0..3), option::weighted(0.1, millis()));
        let columns = vec((0..4u8, column), 0..4);
        let tombstone = option::of(millis());
        (tombstone, option::weighted(0.8, millis()), columns).prop_map(|(dead, marker, columns)| {
            let mut row =
                Row { tombstone: dead.map(stamp), marker: marker.map(stamp), ..Row::default() };
            for (name, (cells, dead)) in columns {
                let column = row.column_mut(&format!("c{name}").as_str().into());
                column.tombstone = dead.map(stamp);
                for (at, written, value) in cells {
                    let (timestamp, stamp) = (Timestamp(at), stamp(written));
                    let value = value.map(Value::Integer);
                    column.set(Cell { timestamp, stamp, value });
                }
            }
            let is_something =
                |column: &Column| column.tombstone.is_some() || !column.cells.is_empty();
            row.columns.retain(is_something);
            row
        })
    }

    proptest! {
        #[test]
        fn shortcuts_measure_what_the_lanes_of_a_row_measure(
            row in any_row(), time_lanes: bool, time_floor in 0..3i64, kills_floor in 0..2u64,
        ) {
            let hasher = Hasher::for_table(1, 2);
            let rules = Rules { time_lanes, time_floor, kills_floor, ..Rules::default() };
            let families = &NO_FAMILIES;
            let measure =
                Measure { hasher: &hasher, rules: &rules, families, may_hold_kills: true };
            let packed = encode_row(&row);
            let slowly = measure_slowly(&measure, &row);
            prop_assert_eq!(measure.of_row(b"k", &row, &packed), slowly.clone());
            prop_assert_eq!(measure.of_packed(b"k", &packed), Ok(slowly.clone()));
            prop_assert_eq!(measure.of_slice(b"k", &packed), Ok(slowly));
        }
    }

    #[test]
    fn live_cells_measure_alike_with_and_without_what_is_purged() {
        let rules = Rules::default();
        let plain = measure(&rules, &row(&[5]));
        let mut killed = row(&[5]);
        killed.tombstone = Some(stamp(4));
        let parts = measure(&rules, &killed);
        let data = |parts: &Parts| parts.iter().find(|(lane, _)| *lane == Lane::Data);
        assert_eq!(data(&parts), data(&plain));
        assert_eq!(parts.iter().count(), 2);
        killed.purge(Hlc::from_millis(5));
        assert_eq!(measure(&rules, &killed), plain);
    }

    #[test]
    fn a_bucket_that_expired_leaves_the_other_parts_as_they_were() {
        let next = EXPIRY_BUCKET_MILLIS + 1;
        let rules = Rules { time_lanes: true, time_floor: 1, ..Rules::default() };
        let both = row(&[next, 1]);
        let mut swept = both.clone();
        let trim = Trim { below: Timestamp(EXPIRY_BUCKET_MILLIS), stamp: stamp(2 * next) };
        swept.expire(&trim.into(), &NO_FAMILIES);
        assert_ne!(both, swept);
        assert_eq!(measure(&rules, &both), measure(&rules, &swept));
        let all = Rules { time_floor: i64::MIN, ..rules };
        assert_ne!(measure(&all, &both), measure(&all, &swept));
    }
}
