use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use isthmus_model::clock::Clock;
use isthmus_model::diff::{CellDiff, Knowledge, lagging};
use isthmus_model::family::NO_FAMILIES;
use isthmus_model::hlc::{Hlc, Stamp};
use isthmus_model::ids::Origin;
use isthmus_model::row::Row;
use isthmus_model::value::Value;

use crate::frame::Watermark;
use crate::verify::answer::Floors;
use crate::verify::compare::Options;
use crate::verify::limits::SAFE_WAIT;
use crate::verify::report::{Report, Verdict};
use crate::verify::tests::memory::{Entry, Pair, Replica, RowsOf, TABLE, any_options};
use crate::verify::tests::one_writer::key;
use crate::verify::tests::{Chance, any_delta, for_each_case};

const ORIGINS: usize = 3;
/// Of values, timestamps and trims.
const BOUNDS: (usize, usize, usize) = (9, 9, 9);

fn moment(number: u64) -> Hlc {
    Hlc(number << 16)
}

fn any_logs(chance: &mut Chance, count: usize) -> Vec<Vec<Entry>> {
    let mut logs: Vec<Vec<Entry>> = vec![Vec::new(); ORIGINS];
    for number in 1..10 + chance.below(100) as u64 {
        let origin = chance.below(ORIGINS);
        let stamp = Stamp { hlc: moment(number), origin: Origin(origin as u8 + 1) };
        let key = key(chance.below(count));
        let deltas = vec![(key, any_delta(chance, stamp, BOUNDS))];
        logs[origin].push(Entry { stamp, deltas, expiry: None });
    }
    logs
}

/// Applies the next entries of some origins, in order.
fn advance(chance: &mut Chance, replica: &mut Replica, logs: &[Vec<Entry>], steps: usize) {
    for _ in 0..steps {
        let origin = chance.below(ORIGINS);
        let of_origin = |entry: &&Entry| entry.stamp.origin.0 as usize == origin + 1;
        let done = replica.applied.iter().filter(of_origin).count();
        if let Some(entry) = logs[origin].get(done) {
            replica.apply(entry.clone());
        }
    }
    note(replica, logs);
}

/// Tells what has been applied, as if every origin had promised what comes next.
fn note(replica: &mut Replica, logs: &[Vec<Entry>]) {
    replica.vector.clear();
    replica.safe = moment(10_000);
    for (origin, log) in logs.iter().enumerate() {
        let of_origin = |entry: &&Entry| entry.stamp.origin.0 as usize == origin + 1;
        let done = replica.applied.iter().filter(of_origin).count();
        if let Some(last) = done.checked_sub(1) {
            let (lsn, hlc) = (done as u64, log[last].stamp.hlc.0);
            replica.vector.push(Watermark { origin: origin as u32 + 1, lsn, hlc, life: 0 });
        }
        if let Some(next) = log.get(done) {
            replica.safe = replica.safe.min(next.stamp.hlc);
        }
    }
}

/// Some rows that both began with, of a time that all have seen.
fn any_base(chance: &mut Chance, count: usize) -> RowsOf {
    let stamp = Stamp { hlc: Hlc(1), origin: Origin(1) };
    let put = |chance: &mut Chance| Row { marker: Some(stamp), ..any_delta(chance, stamp, BOUNDS) };
    (0..count).map(|number| (key(number), put(chance))).collect()
}

/// Loses a row, a kill or a cell, or changes a value.
fn plant(chance: &mut Chance, rows: &mut RowsOf) {
    let keys: Vec<Bytes> = rows.keys().cloned().collect();
    if keys.is_empty() {
        return;
    }
    let key = keys[chance.below(keys.len())].clone();
    let row = rows.get_mut(&key).unwrap();
    match chance.below(4) {
        0 => {
            rows.remove(&key);
        }
        1 => row.tombstone = None,
        2 => row.columns.truncate(1),
        _ => {
            for cell in row.columns.iter_mut().flat_map(|column| &mut column.cells) {
                cell.value = Some(Value::Integer(-1));
            }
        }
    }
}

fn knowledge(replica: &Replica) -> (Vec<(Origin, Hlc)>, Hlc, Hlc) {
    let vector = replica.vector.iter().map(|mark| (Origin(mark.origin as u8), Hlc(mark.hlc)));
    (vector.collect(), replica.safe, replica.floors.kills_hlc())
}

/// What must be named, by the rules of one row.
fn expected(first: &Replica, second: &Replica) -> BTreeMap<Bytes, Vec<CellDiff>> {
    let (rows, others) = (first.now(), second.now());
    let (a, b) = (knowledge(first), knowledge(second));
    let floor = a.2.max(b.2);
    fn knows(side: &(Vec<(Origin, Hlc)>, Hlc, Hlc), floor: Hlc) -> Knowledge<'_> {
        Knowledge { vector: &side.0, safe: side.1, floor, expiry: &[], families: &NO_FAMILIES }
    }
    let mut expected = BTreeMap::new();
    let bare = Row::default();
    for key in rows.keys().chain(others.keys()) {
        let (one, two) = (rows.get(key).unwrap_or(&bare), others.get(key).unwrap_or(&bare));
        let found = lagging((one, knows(&a, floor)), (two, knows(&b, floor)));
        if !found.cells.is_empty() {
            expected.insert(key.clone(), found.cells);
        }
    }
    expected
}

fn named(report: &Report) -> BTreeMap<Bytes, Vec<CellDiff>> {
    report.rows.iter().map(|row| (row.key.0.clone(), row.cells.clone())).collect()
}

fn any_pair(chance: &mut Chance, is_planted: bool) -> ([Replica; 2], Vec<Vec<Entry>>) {
    let count = 1 + chance.below(100);
    let base = any_base(chance, count);
    let logs = any_logs(chance, count);
    let mut planted = base.clone();
    if is_planted {
        for _ in 0..1 + chance.below(3) {
            plant(chance, &mut planted);
        }
    }
    let mut sides = [Replica::new(base, chance), Replica::new(planted, chance)];
    let time_lanes = chance.one_in(4);
    for side in &mut sides {
        side.many = true;
        side.time_lanes = time_lanes;
        let steps = if chance.one_in(3) { 1_000 } else { chance.below(200) };
        advance(chance, side, &logs, steps);
    }
    (sides, logs)
}

#[test]
fn replicas_that_only_lag_are_never_called_different() {
    for_each_case(300, |chance| {
        let (sides, logs) = any_pair(chance, false);
        let [first, second] = sides;
        let pair = Pair::new(first, second, 1 << 20);
        let mut seed = Chance::new(chance.below(1 << 30) as u64);
        let report = pair.compare(&any_options(chance), &mut |replicas| {
            for replica in replicas {
                advance(&mut seed, &mut replica.0.lock(), &logs, 5);
            }
        });
        assert_eq!(report.rows, []);
        assert_eq!(report.verdict, Verdict::Equal);
    });
}

#[test]
fn exactly_what_is_not_late_is_named_down_to_the_cell() {
    for_each_case(400, |chance| {
        let (mut sides, _) = any_pair(chance, true);
        // A ring that does not reach back leaves more to look at, and nothing else.
        for side in &mut sides {
            side.ring = if chance.one_in(3) { chance.below(20) } else { usize::MAX };
        }
        let mut options = any_options(chance);
        options.cut = crate::verify::question::Cut::AsItIs;
        let expected = expected(&sides[0], &sides[1]);
        let [first, second] = sides;
        let report = Pair::new(first, second, 1 << 20).compare(&options, &mut |_| {});
        assert_eq!(named(&report), expected);
        let verdict = if expected.is_empty() { Verdict::Equal } else { Verdict::Different };
        assert_eq!(report.verdict, verdict);
    });
}

#[test]
fn a_cut_shows_what_differed_before_it_and_nothing_that_does_not_differ() {
    for_each_case(300, |chance| {
        let (sides, _) = any_pair(chance, true);
        let expected = expected(&sides[0], &sides[1]);
        let cut = Hlc(sides[0].safe.min(sides[1].safe).0 - 1);
        let before = |side: &Replica| side.rows(|_, entry| entry.stamp.hlc <= cut);
        let (one, two) = (before(&sides[0]), before(&sides[1]));
        let [first, second] = sides;
        let pair = Pair::new(first, second, 1 << 20);
        let report = pair.compare(&any_options(chance), &mut |_| {});
        let named = named(&report);
        for (key, cells) in &named {
            assert_eq!(expected.get(key), Some(cells));
        }
        // Everything through the cut is on both sides: what differs there and still does is named.
        for key in expected.keys().filter(|key| one.get(*key) != two.get(*key)) {
            assert!(named.contains_key(key));
        }
        if report.verdict == Verdict::Equal {
            assert!(expected.keys().all(|key| one.get(key) == two.get(key)));
        }
    });
}

#[test]
fn forgotten_kills_are_no_difference() {
    for_each_case(200, |chance| {
        let (mut sides, logs) = any_pair(chance, false);
        for side in &mut sides {
            advance(chance, side, &logs, 1_000);
            // Everything has been promised long beyond.
            side.safe = Hlc::from_millis(10 << 20);
        }
        sides[chance.below(2)].floors = Floors { kills: 1, ..Floors::NONE };
        let lag = expected(&sides[0], &sides[1]);
        assert_eq!(lag, BTreeMap::new());
        let [first, second] = sides;
        let report = Pair::new(first, second, 1 << 20).compare(&any_options(chance), &mut |_| {});
        assert_eq!((report.verdict, report.rows), (Verdict::Equal, Vec::new()));
    });
}

fn sides_newest(replica: &Replica) -> i64 {
    replica.vector.iter().map(|mark| Hlc(mark.hlc).millis()).max().unwrap()
}

#[test]
fn a_safe_time_that_stands_still_hides_no_difference() {
    for_each_case(100, |chance| {
        let (mut sides, logs) = any_pair(chance, true);
        for side in &mut sides {
            advance(chance, side, &logs, 1_000);
            // A third region is gone; an entry shows that time has passed.
            side.safe = Hlc::MIN;
            let hlc = Hlc::from_millis(100_000);
            let stamp = Stamp { hlc, origin: Origin(1) };
            side.apply(Entry { stamp, deltas: Vec::new(), expiry: None });
            side.vector.iter_mut().for_each(|mark| mark.hlc = hlc.0);
        }
        let expected = expected(&sides[0], &sides[1]);
        let [first, second] = sides;
        let report = Pair::new(first, second, 1 << 20).compare(&any_options(chance), &mut |_| {});
        assert_eq!(named(&report), expected);
    });
}

/// A pair of which the second has lost a row, at 97 s, while both know of 100 s and the second has
/// heard from all that write up to 95 s.
fn pair_with_an_old_safe_time(chance: &mut Chance) -> Pair {
    let sides = [0, 1].map(|side| {
        let mut replica = Replica { many: true, ..Replica::new(RowsOf::new(), chance) };
        for seconds in [90, 97, 100] {
            let hlc = Hlc::from_millis(seconds * 1000);
            let stamp = Stamp { hlc, origin: Origin(1) };
            let row = Row { marker: Some(stamp), ..Row::default() };
            let is_lost = side == 1 && seconds == 97;
            let deltas = if is_lost { Vec::new() } else { vec![(key(seconds as usize), row)] };
            replica.apply(Entry { stamp, deltas, expiry: None });
        }
        replica.vector =
            vec![Watermark { origin: 1, lsn: 3, hlc: Hlc::from_millis(100_000).0, life: 0 }];
        replica.safe = Hlc::from_millis(if side == 0 { 101_000 } else { 95_000 });
        replica
    });
    let [first, second] = sides;
    Pair::new(first, second, 1 << 20)
}

#[test]
fn what_was_written_just_before_a_region_came_back_is_compared() {
    let mut chance = Chance::new(6);
    let pair = pair_with_an_old_safe_time(&mut chance);
    let options = Options::new(TABLE, ["r1".into(), "r2".into()]);
    let clock = pair.clock.clone();
    let report = pair.compare(&options, &mut |replicas| {
        if clock.monotonic() > Duration::from_secs(1) {
            replicas[1].0.lock().safe = Hlc::from_millis(101_000);
        }
    });
    assert_eq!(named(&report).len(), 1, "{report:?}");
    let pair = pair_with_an_old_safe_time(&mut chance);
    let report = pair.compare(&options, &mut |_| {});
    assert_eq!(report.verdict, Verdict::Equal, "as of 95 s, which is told");
    assert!(pair.clock.monotonic() < SAFE_WAIT * 2, "{:?}", pair.clock.monotonic());
}

#[test]
fn a_side_far_behind_gives_no_verdict() {
    let mut chance = Chance::new(5);
    let (mut sides, logs) = any_pair(&mut chance, false);
    advance(&mut chance, &mut sides[0], &logs, 2_000);
    sides[0].safe = Hlc::from_millis(60_000);
    sides[1] = Replica { many: true, ..Replica::new(sides[1].base.clone(), &mut chance) };
    sides[1].safe = Hlc::from_millis(1);
    let [first, second] = sides;
    let newest = sides_newest(&first);
    let mut options = Options::new(TABLE, ["r1".into(), "r2".into()]);
    let pair = Pair::new(first, second, 1 << 20);
    options.behind_max = Duration::from_millis(newest as u64 - 2);
    let report = pair.compare(&options, &mut |_| {});
    let why = format!("r2 is {} ms behind r1", newest - 1);
    assert_eq!(report.verdict, Verdict::CouldNotTell(why));
    options.behind_max = Duration::from_millis(newest as u64 - 1);
    assert_eq!(pair.compare(&options, &mut |_| {}).verdict, Verdict::Equal);
}
