use isthmus_model::hlc::Stamp;
use isthmus_model::ids::Origin;
use isthmus_model::row::Cell;
use isthmus_model::value::Value;

use super::*;

const HERE: PartitionId = PartitionId(1);
const SOON: Duration = Duration::ZERO;

fn key(number: u8) -> EncodedKey {
    EncodedKey(Bytes::from(vec![number]))
}

/// A change at a moment that sets the cell of that name.
fn delta(hlc: u64, name: &str) -> Row {
    let stamp = Stamp { hlc: Hlc(hlc), origin: Origin(1) };
    let mut row = Row { marker: Some(stamp), ..Row::default() };
    let value = Some(Value::Integer(hlc as i64));
    row.column_mut(&name.into()).set(Cell { timestamp: stamp.hlc.timestamp(), stamp, value });
    row
}

fn delta_of(deltas: &[(u64, &str)]) -> Row {
    let mut row = Row::default();
    deltas.iter().for_each(|(hlc, name)| row.merge(&delta(*hlc, name)));
    row
}

fn merged(deltas: &[(u64, &str)]) -> Option<Bytes> {
    packed(&delta_of(deltas))
}

fn row_at(past: &Past, cut: u64, stored: Option<Bytes>) -> Result<Option<Bytes>, StoreError> {
    past.row_at(HERE, &key(1), Hlc(cut), stored)
}

#[test]
fn a_row_is_what_the_entries_below_the_cut_make_it_in_whatever_order_they_came() {
    let past = Past::new(usize::MAX);
    assert!(row_at(&past, 5, None).is_err(), "nothing is kept unasked");
    past.begin(HERE, Hlc(10), SOON);
    let before = [(3, "a"), (9, "b")];
    let row = delta_of(&before);
    past.note(HERE, &key(1), Some(&row), Hlc(30), &delta(30, "a"));
    past.note(HERE, &key(1), None, Hlc(20), &delta(20, "b"));
    past.note(HERE, &key(1), None, Hlc(5), &delta(5, "c"));
    assert_eq!(row_at(&past, 9, None), Err(StoreError::CutGone { cut: Hlc(9), floor: Hlc(10) }));
    assert_eq!(row_at(&past, 20, None), Ok(merged(&[(3, "a"), (9, "b"), (5, "c")])));
    assert_eq!(row_at(&past, 21, None), Ok(merged(&[(3, "a"), (20, "b"), (5, "c")])));
    assert_eq!(row_at(&past, 31, None), Ok(merged(&[(30, "a"), (20, "b"), (5, "c")])));
    let other = past.row_at(HERE, &key(2), Hlc(10), Some(Bytes::from_static(b"as stored")));
    assert_eq!(other, Ok(Some(Bytes::from_static(b"as stored"))));
}

#[test]
fn the_oldest_change_of_all_partitions_goes_first_and_takes_the_floor_along() {
    let there = PartitionId(2);
    let past = Past::new(usize::MAX);
    past.begin(HERE, Hlc(1), SOON);
    past.note(HERE, &key(1), None, Hlc(10), &delta(10, "a"));
    let one = past.bytes();
    // And room for what a row was.
    let bytes_max = one * 3 + 64;
    let past = Past::new(bytes_max);
    past.begin(HERE, Hlc(1), SOON);
    past.begin(there, Hlc(1), SOON);
    past.note(HERE, &key(1), None, Hlc(10), &delta(10, "a"));
    past.note(there, &key(1), None, Hlc(11), &delta(11, "a"));
    past.note(HERE, &key(2), None, Hlc(12), &delta(12, "a"));
    assert_eq!((past.floor(HERE), past.floor(there)), (Some(Hlc(1)), Some(Hlc(1))));
    past.note(HERE, &key(1), None, Hlc(13), &delta(13, "b"));
    assert_eq!((past.floor(HERE), past.floor(there)), (Some(Hlc(11)), Some(Hlc(1))));
    assert_eq!(row_at(&past, 13, None), Ok(merged(&[(10, "a")])), "it is in the row before");
    past.note(HERE, &key(3), None, Hlc(14), &delta(14, "b"));
    assert_eq!(past.floor(there), Some(Hlc(12)));
    assert!(past.bytes() <= bytes_max);
    past.forget(HERE);
    past.forget(there);
    assert_eq!(past.bytes(), 0);
}

#[test]
fn what_nobody_reads_any_more_is_released() {
    let past = Past::new(usize::MAX);
    past.begin(HERE, Hlc(1), SOON);
    for hlc in [10, 12, 11, 20] {
        past.note(HERE, &key(1), None, Hlc(hlc), &delta(hlc, "a"));
    }
    past.release(HERE, Hlc(12));
    assert_eq!(past.floor(HERE), Some(Hlc(11)), "12 came before 11, and is needed");
    past.release(HERE, Hlc(21));
    assert_eq!((past.floor(HERE), past.bytes()), (Some(Hlc(21)), 0));
}
