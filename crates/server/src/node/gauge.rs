//! The gauge: for each table and each other region, how many rows differ. Always on.
//!
//! Of two regions the first by name looks. Each second it asks for the roots of the tables that
//! have changed since they were last found alike, all in one question. Where roots differ at one
//! cut, a bounded comparison names and counts the rows, and takes but a small share of the time.
//! Tables that do not change cost nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use isthmus_model::ids::{Lsn, TableId};
use isthmus_model::key::EncodedKey;
use isthmus_model::schema::Schema;
use isthmus_replication::verify::report::DifferingRange;
use parking_lot::Mutex;

use super::Node;
use super::verify::key_told;
use crate::peer::verify::{PlaceTold, ROOTS_MAX, VerdictTold};
use crate::status::{DifferingPlace, DifferingStatus};

mod look;
mod rule;

/// The other region is told what was found at least so often.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// Ranges that are told of a pair.
const PLACES_MAX: usize = 16;

/// When a pair was last found alike.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Alike {
    lsn: Lsn,
    /// Since when the stream to the other region was open: it may have been restarted since.
    reached_since: i64,
    at: Duration,
}

/// How two replicas stand.
#[derive(Clone, Debug, Default)]
struct Pair {
    alike: Option<Alike>,
    rows: Option<u64>,
    ranges: u64,
    places: Vec<PlaceTold>,
    since_millis: i64,
    checked: Duration,
    compare_after: Duration,
    repair_after: Duration,
}

#[derive(Default)]
struct Inner {
    pairs: BTreeMap<(TableId, String), Pair>,
    /// When a region was last told, and whether there is news for it.
    told: BTreeMap<String, (Duration, bool)>,
}

/// How the replicas here stand to those of other regions.
#[derive(Default)]
pub(crate) struct Gauge(Mutex<Inner>);

impl Gauge {
    /// Takes in what the region that looks has found.
    pub(crate) fn told_by(&self, node: &Node, from: &str, verdicts: &[VerdictTold]) {
        if from >= node.config.region.name.as_str() {
            return;
        }
        let now = node.clock.monotonic();
        for told in verdicts {
            let id = TableId(told.table);
            let holds = node.record(id).is_some_and(|record| record.table.replica(from).is_some());
            if !holds {
                continue;
            }
            let mut inner = self.0.lock();
            let pair = inner.pairs.entry((id, from.to_owned())).or_default();
            pair.rows = Some(told.rows);
            pair.ranges = told.ranges;
            pair.places = told.places.iter().take(PLACES_MAX).cloned().collect();
            pair.since_millis = told.since_millis;
            let ago = Duration::from_millis(told.checked_millis_ago);
            pair.checked = now.saturating_sub(ago);
        }
    }

    /// How the replicas of a table stand, by region.
    pub(crate) fn of_table(
        &self,
        table: TableId,
        schema: &Schema,
        now: Duration,
    ) -> Vec<DifferingStatus> {
        let inner = self.0.lock();
        let of_table = inner.pairs.iter().filter(|((id, _), _)| *id == table);
        let told = of_table.filter_map(|((_, region), pair)| {
            Some(DifferingStatus {
                region: region.clone(),
                rows: pair.rows?,
                ranges: pair.ranges,
                places: pair.places.iter().map(|place| place_status(schema, place)).collect(),
                since_ms: pair.since_millis,
                checked_ms_ago: now.saturating_sub(pair.checked).as_millis() as u64,
            })
        });
        told.collect()
    }

    /// Forgets pairs that are no pairs any more.
    fn keep(&self, is_pair: impl Fn(TableId, &str) -> bool) {
        self.0.lock().pairs.retain(|(table, region), _| is_pair(*table, region));
    }

    fn pair(&self, table: TableId, region: &str) -> Pair {
        self.0.lock().pairs.get(&(table, region.to_owned())).cloned().unwrap_or_default()
    }

    /// What there is to tell a region now, if it is time.
    fn to_tell(&self, region: &str, now: Duration) -> Option<Vec<VerdictTold>> {
        let mut inner = self.0.lock();
        let of_region = inner.pairs.iter().filter(|((_, other), _)| other == region);
        let verdict = |((table, _), pair): (&(TableId, String), &Pair)| {
            Some(VerdictTold {
                table: table.0,
                rows: pair.rows?,
                ranges: pair.ranges,
                places: pair.places.clone(),
                since_millis: pair.since_millis,
                checked_millis_ago: now.saturating_sub(pair.checked).as_millis() as u64,
            })
        };
        let verdicts: Vec<VerdictTold> = of_region.filter_map(verdict).take(ROOTS_MAX).collect();
        let (at, news) = inner.told.entry(region.to_owned()).or_default();
        let due = *news || now.saturating_sub(*at) >= TELL_EVERY;
        if !due || verdicts.is_empty() {
            return None;
        }
        (*at, *news) = (now, false);
        Some(verdicts)
    }

    /// Notes a verdict. Gives the rows that differed before, if it was known.
    fn note(
        &self,
        key: (TableId, &str),
        found: Differ,
        alike: Option<Alike>,
        now: (i64, Duration),
    ) -> Option<u64> {
        let mut inner = self.0.lock();
        let pair = inner.pairs.entry((key.0, key.1.to_owned())).or_default();
        let before = pair.rows;
        let rows = found.rows;
        if before != Some(rows) {
            let was_alike = before.unwrap_or(0) == 0;
            if was_alike || rows == 0 {
                pair.since_millis = now.0;
            }
        }
        (pair.rows, pair.ranges, pair.places) = (Some(rows), found.ranges, found.places);
        pair.alike = alike;
        pair.checked = now.1;
        if before != Some(rows) {
            inner.told.entry(key.1.to_owned()).or_default().1 = true;
        }
        before
    }

    fn repair_after(&self, table: TableId, region: &str, after: Duration) {
        if let Some(pair) = self.0.lock().pairs.get_mut(&(table, region.to_owned())) {
            pair.repair_after = after;
        }
    }

    fn compare_after(&self, table: TableId, region: &str, after: Duration) {
        let mut inner = self.0.lock();
        let pair = inner.pairs.entry((table, region.to_owned())).or_default();
        pair.compare_after = after;
    }
}

/// What is found to differ of a pair.
#[derive(Clone, Debug, Default)]
struct Differ {
    rows: u64,
    ranges: u64,
    places: Vec<PlaceTold>,
}

/// A few ranges for any number: neighbours are taken together.
fn places(ranges: &[DifferingRange]) -> Vec<PlaceTold> {
    let each = ranges.len().div_ceil(PLACES_MAX).max(1);
    let place = |chunk: &[DifferingRange]| PlaceTold {
        first: chunk[0].first.0.clone(),
        last: chunk[chunk.len() - 1].last.0.clone(),
        rows: chunk.iter().map(|range| range.rows).sum(),
    };
    ranges.chunks(each).map(place).collect()
}

fn place_status(schema: &Schema, place: &PlaceTold) -> DifferingPlace {
    let key = |key: &Bytes| key_told(schema, &EncodedKey(key.clone()));
    DifferingPlace { start: key(&place.first), end: key(&place.last), rows: place.rows }
}

#[cfg(test)]
mod tests {
    use isthmus_model::ids::SchemaNumber;
    use isthmus_model::key::KeyKind;
    use isthmus_model::schema::{KeyColumn, TableOptions};

    use super::*;

    fn schema() -> Schema {
        let column = KeyColumn { name: "k".into(), kind: KeyKind::Integer, auto_increment: false };
        Schema {
            number: SchemaNumber(1),
            key_columns: vec![column],
            defined_columns: Vec::new(),
            options: TableOptions::default(),
        }
    }

    #[test]
    fn a_pair_remembers_since_when_it_differs() {
        let gauge = Gauge::default();
        let (table, second) = (TableId(1), Duration::from_secs(1));
        let found = |rows| Differ { rows, ranges: 1, places: Vec::new() };
        assert_eq!(gauge.note((table, "b"), found(3), None, (10, second)), None);
        assert_eq!(gauge.note((table, "b"), found(4), None, (20, second)), Some(3));
        let told = gauge.of_table(table, &schema(), second * 3);
        assert_eq!((told[0].rows, told[0].since_ms, told[0].checked_ms_ago), (4, 10, 2000));
        assert_eq!(gauge.note((table, "b"), Differ::default(), None, (30, second)), Some(4));
        assert_eq!(gauge.of_table(table, &schema(), second)[0].since_ms, 30);
        assert!(gauge.to_tell("b", second).is_some());
        assert!(gauge.to_tell("b", second).is_none());
        gauge.keep(|_, _| false);
        assert!(gauge.of_table(table, &schema(), second).is_empty());
    }

    #[test]
    fn places_are_few_and_hold_every_row() {
        let key = |number: u64| EncodedKey(Bytes::from(number.to_be_bytes().to_vec()));
        let range = |n: u64| DifferingRange { first: key(2 * n), last: key(2 * n + 1), rows: n };
        for count in [0, 1, 16, 17, 64] {
            let ranges: Vec<DifferingRange> = (0..count).map(range).collect();
            let places = places(&ranges);
            assert!(places.len() <= PLACES_MAX);
            let rows: u64 = places.iter().map(|place| place.rows).sum();
            assert_eq!(rows, ranges.iter().map(|range| range.rows).sum::<u64>());
            assert_eq!(
                places.first().map(|place| place.first.clone()),
                ranges.first().map(|range| range.first.0.clone())
            );
            assert_eq!(
                places.last().map(|place| place.last.clone()),
                ranges.last().map(|range| range.last.0.clone())
            );
        }
    }
}
