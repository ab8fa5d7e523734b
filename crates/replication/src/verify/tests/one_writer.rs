use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use isthmus_model::diff::{self, Class};
use isthmus_model::family::NO_FAMILIES;
use isthmus_model::hlc::{Hlc, Stamp};
use isthmus_model::ids::{Origin, Timestamp};
use isthmus_model::row::{Cell, EXPIRY_BUCKET_MILLIS, Row, Trim};
use isthmus_model::value::Value;

use crate::verify::compare::{Detail, Options};
use crate::verify::report::{Report, Verdict};
use crate::verify::tests::memory::{Entry, Pair, Replica, RowsOf, TABLE, any_options};
use crate::verify::tests::{Chance, for_each_case};

const NOBODY: usize = 1 << 20;

pub(crate) fn key(number: usize) -> Bytes {
    Bytes::from(format!("key-{number:05}"))
}

fn stamp(number: u64) -> Stamp {
    Stamp { hlc: Hlc(number << 16), origin: Origin(1) }
}

/// Half a bucket of expiry.
const STEP: i64 = EXPIRY_BUCKET_MILLIS / 2;

fn cell(step: i64, stamp: Stamp, value: i64) -> Cell {
    Cell { timestamp: Timestamp(step * STEP), stamp, value: Some(Value::Integer(value)) }
}

fn any_row(chance: &mut Chance, stamp: Stamp) -> Row {
    let mut row = Row { marker: Some(stamp), ..Row::default() };
    for name in ["a", "b"] {
        for _ in 0..chance.below(3) {
            let timestamp = chance.below(20) as i64;
            row.column_mut(&name.into()).set(cell(timestamp, stamp, chance.below(9) as i64));
        }
    }
    row.columns.retain(|column| !column.cells.is_empty());
    row
}

fn any_rows(chance: &mut Chance, count: usize) -> RowsOf {
    (0..count).map(|number| (key(2 * number), any_row(chance, stamp(1)))).collect()
}

/// A put or a delete of one row.
fn any_entry(chance: &mut Chance, number: u64, count: usize) -> Entry {
    let stamp = stamp(10 + number);
    let key = key(2 * chance.below(count.max(1)) + usize::from(chance.one_in(8)));
    let mut delta = match chance.below(4) {
        0 => Row::default(),
        _ => any_row(chance, stamp),
    };
    if delta.marker.is_none() || chance.one_in(2) {
        delta.tombstone = Some(stamp);
    }
    Entry { stamp, deltas: vec![(key, delta)], expiry: None }
}

/// Changes some rows behind the log's back.
fn plant(chance: &mut Chance, rows: &mut RowsOf) {
    let keys: Vec<Bytes> = rows.keys().cloned().collect();
    if keys.is_empty() {
        return;
    }
    let any = keys[chance.below(keys.len())].clone();
    match chance.below(5) {
        0 => {
            rows.remove(&any);
        }
        1 => {
            let key = key(2 * chance.below(keys.len()) + 1);
            rows.insert(key, any_row(chance, stamp(1)));
        }
        2 => {
            let row = rows.get_mut(&any).unwrap();
            row.column_mut(&"a".into()).set(cell(50, stamp(1), 1));
        }
        3 => {
            let row = rows.get_mut(&any).unwrap();
            for cell in row.columns.iter_mut().flat_map(|column| &mut column.cells) {
                cell.value = Some(Value::Integer(-1));
            }
        }
        _ => {
            let other = keys[chance.below(keys.len())].clone();
            let (one, two) = (rows[&any].clone(), rows[&other].clone());
            rows.insert(any, two);
            rows.insert(other, one);
        }
    }
}

fn differing(first: &RowsOf, second: &RowsOf) -> BTreeSet<Bytes> {
    let keys = first.keys().chain(second.keys());
    keys.filter(|key| first.get(*key) != second.get(*key)).cloned().collect()
}

fn named(report: &Report) -> BTreeSet<Bytes> {
    report.rows.iter().map(|row| row.key.0.clone()).collect()
}

fn any_count(chance: &mut Chance) -> usize {
    match chance.below(4) {
        0 => chance.below(5),
        1 | 2 => chance.below(60),
        _ => chance.below(400),
    }
}

#[test]
fn exactly_the_planted_rows_and_cells_are_named_whatever_the_leaves() {
    for_each_case(400, |chance| {
        let count = any_count(chance);
        let rows = any_rows(chance, count);
        let mut planted = rows.clone();
        for _ in 0..chance.below(4) * chance.below(4) {
            plant(chance, &mut planted);
        }
        if chance.one_in(10) {
            for _ in 0..count {
                plant(chance, &mut planted);
            }
        }
        let mut sides = [Replica::new(rows, chance), Replica::new(planted, chance)];
        if chance.one_in(2) {
            sides.swap(0, 1);
        }
        let time_lanes = chance.one_in(3);
        sides.iter_mut().for_each(|side| side.time_lanes = time_lanes);
        let expected = differing(&sides[0].base, &sides[1].base);
        let [first, second] = sides.clone();
        let selected_max = if chance.one_in(4) { 1 + chance.below(100) } else { NOBODY };
        // Names that meet make it look again, and never leave anything out.
        let bits = if chance.one_in(3) { chance.below(12) } else { 64 };
        let mask = 1u64.checked_shl(bits as u32).map_or(u64::MAX, |one| one - 1);
        let mut pair = Pair::named(first, second, selected_max, mask);
        pair.old = [chance.one_in(6), chance.one_in(6)];
        let mut options = any_options(chance);
        if chance.one_in(4) {
            options.detail = Detail::Keys;
        }
        let report = pair.compare(&options, &mut |_| {});
        assert_eq!(named(&report), expected);
        assert_eq!(report.rows_differing, expected.len() as u64);
        assert_eq!(report.tree_wrong, []);
        let in_ranges: u64 = report.ranges.iter().map(|range| range.rows).sum();
        assert_eq!(in_ranges, report.rows_differing);
        let verdict = if expected.is_empty() { Verdict::Equal } else { Verdict::Different };
        assert_eq!(report.verdict, verdict);
        for row in &report.rows {
            let get = |side: &Replica| side.base.get(&row.key.0).cloned().unwrap_or_default();
            let (first, second) = (get(&sides[0]), get(&sides[1]));
            if options.detail == Detail::Cells {
                assert_eq!(row.cells, diff::plain(&first, &second));
                assert!(!row.cells.is_empty());
            }
            assert_eq!(row.class == Class::Missing, second == Row::default());
            assert_eq!(row.class == Class::Extra, first == Row::default());
        }
    });
}

#[test]
fn what_is_only_late_is_never_named_while_writes_go_on() {
    for_each_case(300, |chance| {
        let count = any_count(chance);
        let rows = any_rows(chance, count);
        let mut planted = rows.clone();
        for _ in 0..chance.below(3) {
            plant(chance, &mut planted);
        }
        let log: Vec<Entry> =
            (0..chance.below(60) as u64).map(|number| any_entry(chance, number, count)).collect();
        let mut sides = [Replica::new(rows, chance), Replica::new(planted, chance)];
        for side in &mut sides {
            side.applied = log[..chance.below(log.len() + 1)].to_vec();
            side.ring = if chance.one_in(3) { chance.below(10) } else { usize::MAX };
        }
        let before = differing(&sides[0].base, &sides[1].base);
        let full = |side: &Replica| Replica { applied: log.clone(), ..side.clone() }.now();
        let after = differing(&full(&sides[0]), &full(&sides[1]));
        let [first, second] = sides;
        let mut pair = Pair::new(first, second, NOBODY);
        pair.old = [chance.one_in(6), chance.one_in(6)];
        let mut seed = Chance::new(chance.below(1 << 30) as u64);
        let steps = 1 + chance.below(10);
        let report = pair.compare(&any_options(chance), &mut |replicas| {
            for replica in replicas {
                let mut replica = replica.0.lock();
                for _ in 0..seed.below(steps + 1) {
                    let next = replica.applied.len();
                    if let Some(entry) = log.get(next) {
                        replica.apply(entry.clone());
                    }
                }
            }
        });
        let named = named(&report);
        assert!(named.is_subset(&before), "{named:?} {before:?}");
        match &report.verdict {
            Verdict::Equal => assert!(after.is_empty()),
            Verdict::Different => assert!(!before.is_empty()),
            Verdict::CouldNotTell(why) => assert!(report.unsettled > 0, "{why}"),
        }
        // What no write has mended is named.
        if report.unsettled == 0 {
            assert!(after.is_subset(&named), "{named:?} {after:?}");
        }
    });
}

#[test]
fn a_lost_row_that_was_written_since_the_cut_is_looked_at_again() {
    let mut chance = Chance::new(1);
    let rows = any_rows(&mut chance, 40);
    let mut lost = rows.clone();
    lost.remove(&key(8));
    let [mut first, mut second] = [rows, lost].map(|rows| Replica::new(rows, &mut chance));
    let put = |number, place| {
        let all = Some(stamp(number));
        let row = Row { tombstone: all, marker: all, ..Row::default() };
        Entry { stamp: stamp(number), deltas: vec![(key(place), row)], expiry: None }
    };
    first.apply(put(10, 2));
    second.apply(put(10, 2));
    second.apply(put(11, 8));
    let options = Options::new(TABLE, ["r1".into(), "r2".into()]);
    // The second side is taken back to where it lacked the row, which the first one has had.
    let report = Pair::new(first, second, NOBODY).compare(&options, &mut |replicas| {
        let mut first = replicas[0].0.lock();
        if first.applied.len() == 1 {
            first.apply(put(11, 8));
        }
    });
    assert_eq!((report.verdict, report.rows_differing), (Verdict::Equal, 0));
}

#[test]
fn a_side_that_stays_behind_gives_no_verdict() {
    let mut chance = Chance::new(1);
    let rows = any_rows(&mut chance, 20);
    let [mut first, second] = [(); 2].map(|()| Replica::new(rows.clone(), &mut chance));
    for number in 0..5 {
        first.apply(any_entry(&mut chance, number, 20));
    }
    let options = Options::new(TABLE, ["r1".into(), "r2".into()]);
    let report = Pair::new(first, second, NOBODY).compare(&options, &mut |_| {});
    let why = "r2 is 5 entries behind r1".to_owned();
    assert_eq!(report.verdict, Verdict::CouldNotTell(why));
    assert_eq!(report.rows_differing, 0);
}

#[test]
fn equal_sides_cost_one_question_and_few_differences_one_more() {
    let mut chance = Chance::new(1);
    let rows = any_rows(&mut chance, 400);
    let mut first = Replica::new(rows.clone(), &mut chance);
    first.shape = 100;
    let mut second = first.clone();
    let options = Options::new(TABLE, ["r1".into(), "r2".into()]);
    let report = Pair::new(first.clone(), second.clone(), NOBODY).compare(&options, &mut |_| {});
    assert_eq!((report.verdict.clone(), report.rows_read()), (Verdict::Equal, 0));
    assert_eq!(report.costs[1].round_trips, 1);
    assert!(report.bytes_exchanged() < 1024);
    for number in [3, 90, 200] {
        let row = second.base.get_mut(&key(2 * number)).unwrap();
        row.column_mut(&"a".into()).set(cell(50, stamp(1), 1));
    }
    second.base.remove(&key(600));
    let report = Pair::new(first, second, NOBODY).compare(&options, &mut |_| {});
    assert_eq!(report.rows_differing, 4);
    assert_eq!(report.costs[1].round_trips, 2);
    assert!(report.rows_read() < 400, "{}", report.rows_read());
}

#[test]
fn trees_of_other_shapes_do_not_make_more_rows_read() {
    for_each_case(20, |chance| {
        let rows = any_rows(chance, 3000);
        let mut first = Replica::new(rows, chance);
        let mut second = first.clone();
        (first.shape, second.shape) = (100, 60);
        let number = chance.below(3000);
        let row = second.base.get_mut(&key(2 * number)).unwrap();
        row.column_mut(&"a".into()).set(cell(50, stamp(1), 1));
        let options = Options::new(TABLE, ["r1".into(), "r2".into()]);
        let report = Pair::new(first, second, NOBODY).compare(&options, &mut |_| {});
        assert_eq!(
            report.rows.iter().map(|row| row.key.0.clone()).collect::<Vec<_>>(),
            [key(2 * number)]
        );
        assert!(report.costs[1].round_trips <= 4, "{:?}", report.costs);
        // The leaf in which it lies, and on the first side those that it is there.
        assert!(report.rows_read() < 500, "{}", report.rows_read());
    });
}

#[test]
fn many_differences_take_few_exchanges_and_bytes() {
    let mut chance = Chance::new(2);
    let rows = any_rows(&mut chance, 60_000);
    let mut first = Replica::new(rows, &mut chance);
    first.shape = 100;
    let mut second = first.clone();
    for number in (0..60_000).step_by(200) {
        let row = second.base.get_mut(&key(2 * number)).unwrap();
        row.column_mut(&"a".into()).set(cell(50, stamp(1), 1));
    }
    let options = Options::new(TABLE, ["r1".into(), "r2".into()]);
    let report = Pair::new(first, second, NOBODY).compare(&options, &mut |_| {});
    assert_eq!(report.rows_differing, 300);
    assert!(report.costs[1].round_trips <= 8, "{:?}", report.costs);
    let bytes = report.costs[1].bytes_sent + report.costs[1].bytes_received;
    assert!(bytes < 300 * 150, "{bytes}");
    assert!(report.rows_read() < 300 * 100, "{}", report.rows_read());
}

#[test]
fn a_tree_that_is_not_that_of_its_rows_is_told() {
    for_each_case(50, |chance| {
        let rows = any_rows(chance, 100);
        let mut first = Replica::new(rows, chance);
        let mut second = first.clone();
        second.shape = [0, 50, 100][chance.below(3)];
        let wrong = key(2 * chance.below(100));
        let side = if chance.one_in(2) { &mut first } else { &mut second };
        side.wrong.insert(wrong.clone());
        let side = usize::from(first.wrong.is_empty());
        let report = Pair::new(first, second, NOBODY).compare(&any_options(chance), &mut |_| {});
        assert_eq!(report.rows_differing, 0);
        assert!(matches!(report.verdict, Verdict::CouldNotTell(_)), "{:?}", report.verdict);
        for told in &report.tree_wrong {
            assert_eq!(told.side, side);
            assert!(told.start.0 <= wrong && told.end.as_ref().is_none_or(|end| wrong < end.0));
        }
    });
}

#[test]
fn what_has_expired_is_no_difference_wherever_it_still_is() {
    for_each_case(200, |chance| {
        let rows = any_rows(chance, 60);
        let mut others = rows.clone();
        // The first buckets have expired: what differs there nobody can see.
        for row in others.values_mut() {
            for column in &mut row.columns {
                column.cells.retain(|cell| cell.timestamp.0 >= 5 * STEP || chance.one_in(2));
            }
            row.columns.retain(|column| !column.cells.is_empty());
        }
        if chance.one_in(2) {
            others.get_mut(&key(8)).unwrap().column_mut(&"a".into()).set(cell(8, stamp(1), -1));
        }
        let mut sides = [Replica::new(rows, chance), Replica::new(others, chance)];
        // In the middle of the third bucket, as it is logged when cells begin to live longer, or
        // where it begins.
        let below = Timestamp(if chance.one_in(2) { 5 * STEP } else { 4 * STEP });
        let trim = Trim { below, stamp: stamp(5) };
        for side in &mut sides {
            side.apply(Entry { stamp: stamp(5), deltas: Vec::new(), expiry: Some(trim) });
            side.time_lanes = true;
            side.is_lazy = chance.one_in(2);
            side.floors.time = 2;
        }
        if chance.one_in(2) {
            // One of them has not heard of it in its digest.
            let deaf = chance.below(2);
            sides[deaf].floors.time = i64::MIN;
        }
        // Of the third bucket what is at the bound or beyond counts.
        let alive = |side: &Replica| {
            let mut rows = side.now();
            for row in rows.values_mut() {
                row.expire(&trim.into(), &NO_FAMILIES);
            }
            rows.retain(|_, row| !row.is_bare());
            rows
        };
        let strict = differing(&alive(&sides[0]), &alive(&sides[1]));
        let [first, second] = sides;
        let report = Pair::new(first, second, NOBODY).compare(&any_options(chance), &mut |_| {});
        assert_eq!(named(&report), strict);
        let verdict = if strict.is_empty() { Verdict::Equal } else { Verdict::Different };
        assert_eq!(report.verdict, verdict);
    });
}

#[test]
fn a_comparison_that_was_ended_goes_on_where_it_was() {
    use std::ops::ControlFlow;

    use crate::verify::compare::{Shell, compare};
    use crate::verify::tests::memory::Remote;

    for_each_case(20, |chance| {
        let rows = any_rows(chance, 6_000);
        let mut planted = rows.clone();
        for _ in 0..200 {
            plant(chance, &mut planted);
        }
        let mut first = Replica::new(rows, chance);
        let mut second = Replica::new(planted, chance);
        (first.shape, second.shape) = (100, 90);
        let expected = differing(&first.base, &second.base);
        let pair = Pair::new(first, second, NOBODY);
        let mut options = Options::new(TABLE, ["r1".into(), "r2".into()]);
        options.tuning.whole_symbols_max = 64;
        options.tuning.window_leaves = 100;
        options.tuning.page_ranges = 1 + chance.below(3);
        let mut found = BTreeSet::new();
        let mut runs = 0;
        loop {
            let mut asked = 0;
            let mut sides =
                pair.sessions.clone().map(|sessions| Remote { sessions, is_old: false });
            let [one, two] = &mut sides;
            let mut shell = Shell {
                clock: &pair.clock,
                pause: &mut |time: Duration| pair.clock.pass(time),
                progress: &mut |progress| {
                    asked += usize::from(progress.done_before.is_some());
                    if asked > 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                },
                found: None,
            };
            let report = compare(one, two, &options, &mut shell).unwrap();
            found.extend(named(&report));
            runs += 1;
            match report.resume {
                Some(key) => options.start = Some(key),
                None => break,
            }
        }
        assert_eq!(found, expected);
        assert!(runs > 1);
    });
}
