use isthmus_model::diff::{Knowledge, lagging};
use isthmus_model::family::NO_FAMILIES;
use isthmus_model::hlc::Hlc;
use isthmus_model::ids::Origin;

use super::*;
use crate::verify::tests::{Chance, any_delta};

/// Moments lie apart, so that there is room above each.
fn stamp(number: usize, origin: usize) -> Stamp {
    Stamp { hlc: Hlc(number as u64 * 16), origin: Origin(origin as u8) }
}

fn shows(row: &Row) -> (bool, Vec<(Text, Timestamp, Value)>) {
    let mut cells = Vec::new();
    for column in &row.columns {
        for cell in &column.cells {
            if let Some(value) = &cell.value {
                cells.push((column.name.clone(), cell.timestamp, value.clone()));
            }
        }
    }
    (row.marker.is_some(), cells)
}

/// Two rows that have had the same changes, of which one or both lost, kept or made up some.
fn any_pair(chance: &mut Chance) -> (Row, Row) {
    let mut rows = [Row::default(), Row::default()];
    for number in 1..2 + chance.below(7) {
        let stamp = stamp(number, chance.below(3));
        let delta = any_delta(chance, stamp, (100, 5, 6));
        match chance.below(6) {
            0 => rows[0].merge(&delta),
            1 => rows[1].merge(&delta),
            _ => rows.iter_mut().for_each(|row| row.merge(&delta)),
        }
    }
    if chance.one_in(3) {
        // A value rots.
        let cells = rows[1].columns.iter_mut().flat_map(|column| &mut column.cells);
        if let Some(cell) = cells.last() {
            cell.value = Some(Value::Integer(-1));
        }
    }
    let [source, target] = rows;
    (source, target)
}

fn merged(row: &Row, delta: &Row) -> Row {
    let mut row = row.clone();
    row.merge(delta);
    row
}

fn differing(source: &Row, target: &Row) -> Vec<CellDiff> {
    // Both have had everything, so nothing is only late.
    let all = Knowledge {
        vector: &[],
        safe: Hlc(1 << 30),
        floor: Hlc::MIN,
        expiry: &[],
        families: &NO_FAMILIES,
    };
    lagging((source, all), (target, all)).cells
}

#[test]
fn after_a_one_way_repair_both_are_alike_and_show_what_the_source_showed() {
    crate::verify::tests::for_each_case(20_000, |chance| {
        let (source, target) = any_pair(chance);
        let cells = differing(&source, &target);
        let delta = mend(Direction::OneWay, &source, &target, &cells, &|_| true).unwrap();
        let now = merged(&target, &delta);
        assert_eq!(shows(&now), shows(&source), "{source:?} {target:?} {cells:?} {delta:?}");
        // The change goes to the source as well.
        let there = merged(&source, &delta);
        assert_eq!(differing(&there, &now), [], "{source:?} {target:?} {delta:?}");
        assert_eq!(shows(&there), shows(&source));
        assert_eq!(cells.is_empty(), delta.is_bare());
    });
}

#[test]
fn after_a_merge_both_have_all_that_either_had() {
    crate::verify::tests::for_each_case(20_000, |chance| {
        let (source, target) = any_pair(chance);
        let cells = differing(&source, &target);
        let delta = mend(Direction::Merge, &source, &target, &cells, &|_| true).unwrap();
        let (here, there) = (merged(&source, &delta), merged(&target, &delta));
        assert_eq!(differing(&here, &there), []);
        assert_eq!(shows(&here), shows(&there));
        // The source's value stands where there are two of one stamp.
        assert_eq!(shows(&here), shows(&merged(&source, &target)));
    });
}

#[test]
fn kills_that_one_side_has_forgotten_do_not_undo_a_repair() {
    crate::verify::tests::for_each_case(20_000, |chance| {
        let (mut source, mut target) = any_pair(chance);
        let floor = Hlc(chance.below(9) as u64 * 16 + 8);
        let forgets = if chance.one_in(2) { &mut source } else { &mut target };
        forgets.purge(floor);
        let differing = |source: &Row, target: &Row| {
            let all = Knowledge {
                vector: &[],
                safe: Hlc(1 << 30),
                floor,
                expiry: &[],
                families: &NO_FAMILIES,
            };
            lagging((source, all), (target, all)).cells
        };
        let cells = differing(&source, &target);
        let direction = match chance.below(2) {
            0 => Direction::OneWay,
            _ => Direction::Merge,
        };
        let delta = mend(direction, &source, &target, &cells, &|_| true).unwrap();
        let (here, there) = (merged(&source, &delta), merged(&target, &delta));
        assert_eq!(differing(&here, &there), [], "{source:?} {target:?} {cells:?} {delta:?}");
        assert_eq!(shows(&here), shows(&there));
        if direction == Direction::OneWay {
            assert_eq!(shows(&there), shows(&source), "{source:?} {target:?} {cells:?} {delta:?}");
        }
    });
}

#[test]
fn a_newer_write_survives_whatever_the_repair_writes() {
    crate::verify::tests::for_each_case(20_000, |chance| {
        let (source, target) = any_pair(chance);
        let cells = differing(&source, &target);
        let later = stamp(20, chance.below(3));
        let mut write = Row { marker: Some(later), ..Row::default() };
        let timestamp = Timestamp(chance.below(5) as i64);
        let value = Some(Value::Integer(1_000));
        write.column_mut(&"a".into()).set(Cell { timestamp, stamp: later, value });
        for direction in [Direction::OneWay, Direction::Merge] {
            let delta = mend(direction, &source, &target, &cells, &|_| true).unwrap();
            let first = merged(&merged(&target, &write), &delta);
            let last = merged(&merged(&target, &delta), &write);
            assert_eq!(first, last);
            assert_eq!(first.marker, Some(later));
            let (_, shown) = shows(&first);
            assert!(shown.contains(&("a".into(), timestamp, Value::Integer(1_000))));
        }
    });
}

#[test]
fn a_stamp_that_is_not_yet_past_makes_the_repair_wait() {
    let cell = |value| Cell {
        timestamp: Timestamp(1),
        stamp: stamp(1, 1),
        value: Some(Value::Integer(value)),
    };
    let [mut source, mut target] = [Row::default(), Row::default()];
    source.column_mut(&"a".into()).set(cell(1));
    target.column_mut(&"a".into()).set(cell(2));
    let cells = differing(&source, &target);
    let plan = |past: bool| mend(Direction::OneWay, &source, &target, &cells, &|_| past);
    assert_eq!(plan(false), None);
    let expected = Stamp { hlc: Hlc(17), origin: Origin(1) };
    assert_eq!(plan(true).unwrap().columns[0].cells[0].stamp, expected);
}
