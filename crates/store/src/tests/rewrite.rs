//! Rows that go on in another table, and the end of the one they were in.

use std::sync::Arc;

use super::prepared::copy_all;
use super::*;
use crate::MovedRow;

const OTHER: TableId = TableId(258);

/// A second table of the region, with one writer.
fn other(region: &Region) -> Arc<Table> {
    let spec = TableSpec {
        id: OTHER,
        name: Text::from("others"),
        partition: PartitionId(514),
        ..spec(Writers::One, Writing::Accept)
    };
    let made = region.store.create_table(spec);
    region.finish(made).unwrap();
    region.store.table(OTHER).unwrap()
}

/// The first rows of the first table as they are to go on; of those that are deleted nothing may
/// be left.
fn moved(region: &Region) -> Vec<MovedRow> {
    let snapshot = region.table().snapshot().unwrap();
    let keys = (0..4).map(|number| key(number).encode());
    keys.map(|key| MovedRow { row: snapshot.shown_row(&key).unwrap(), key }).collect()
}

fn shown(table: &Table) -> Vec<(EncodedKey, Row)> {
    let snapshot = table.snapshot().unwrap();
    let rows = rows(table).into_iter().map(|(key, _)| (snapshot.shown_row(&key).unwrap(), key));
    let mut rows: Vec<_> = rows.filter(|(row, _)| !row.is_bare()).map(|(r, k)| (k, r)).collect();
    // When they were written differs.
    for (_, row) in &mut rows {
        row.marker = row.marker.map(|_| Default::default());
        let cells = row.columns.iter_mut().flat_map(|column| &mut column.cells);
        cells.for_each(|cell| cell.stamp = Default::default());
    }
    rows
}

#[test]
fn what_rows_show_goes_on_and_what_is_alike_is_left() {
    let region = Region::new(1, Writers::One);
    let other = other(&region);
    for number in 0..4 {
        region.write(put(number, number)).unwrap();
        region.write(update(number, "w", 7)).unwrap();
    }
    region.write(delete(2)).unwrap();
    let made = other.rewrite(moved(&region));
    assert_eq!(region.finish(made).unwrap(), 3, "what is deleted was never there");
    assert_eq!(shown(&other), shown(&region.table()));
    let again = other.rewrite(moved(&region));
    assert_eq!(region.finish(again).unwrap(), 0);
    region.write(put(0, 5)).unwrap();
    let (mut made, mut again) = (other.rewrite(moved(&region)), other.rewrite(moved(&region)));
    assert!(again.try_take().is_none(), "what is alike is not durable yet");
    while region.store.commit_step() {}
    assert_eq!(made.try_take().unwrap().unwrap(), 1);
    assert_eq!(again.try_take().unwrap().unwrap(), 0);
    region.write(delete(1)).unwrap();
    region.write(put(3, 33)).unwrap();
    let made = other.rewrite(moved(&region));
    assert_eq!(region.finish(made).unwrap(), 2);
    assert_eq!(shown(&other), shown(&region.table()));
    // Each is an entry of the log, which replicas follow.
    assert_eq!(other.durable_lsn(), Lsn(6));
}

#[test]
fn a_seeded_table_holds_rows_as_they_are_and_no_entry_of_them() {
    let mut region = Region::new(1, Writers::One);
    for number in 0..4 {
        region.write(put(number, number)).unwrap();
    }
    region.write(delete(2)).unwrap();
    let (other_table, mut seeds) = (other(&region), moved(&region));
    seeds.retain(|moved| !moved.row.is_bare());
    let late = seeds.split_off(1);
    for seeds in [seeds, late] {
        let seeded = other_table.seed(seeds);
        region.finish(seeded).unwrap();
    }
    let stamped = |table: &Table| {
        let snapshot = table.snapshot().unwrap();
        let rows = rows(table).into_iter().map(|(key, row)| (key, snapshot.shown(row)));
        rows.filter(|(_, row)| !row.is_bare()).collect::<Vec<_>>()
    };
    assert_eq!(stamped(&other_table), stamped(&region.table()), "stamps are those of the rows");
    assert_eq!((other_table.durable_lsn(), other_table.log_start()), (Lsn(2), Lsn(2)));
    drop(other_table);
    region.restart();
    let other_table = region.store.table(OTHER).unwrap();
    assert_eq!((other_table.durable_lsn(), other_table.log_start()), (Lsn(2), Lsn(2)));
    assert_eq!(stamped(&other_table), stamped(&region.table()));
    // Its log goes on, with entries that are newer than all of it.
    let written = other_table.write(vec![put(0, 50)], false);
    region.finish(written).unwrap().remove(0).unwrap();
    let entries = entries_after(&other_table, other_table.log_start());
    assert_eq!(entries.len(), 1);
    let row = rows(&other_table).remove(0).1;
    assert_eq!(integer(Some(&row), "v"), Some(50));
    let seeded = other_table.seed(moved(&region));
    assert!(region.finish(seeded).is_err(), "it has an entry, which a row may be older than");
}

#[test]
fn a_table_that_ever_had_an_entry_is_not_seeded() {
    let mut region = Region::new(1, Writers::One);
    region.write(put(1, 1)).unwrap();
    let other_table = other(&region);
    assert!(!other_table.has_logged());
    let seeded = other_table.seed(moved(&region));
    region.finish(seeded).unwrap();
    assert!(!other_table.has_logged(), "seeds are no entries");
    let written = other_table.write(vec![put(0, 50)], false);
    region.finish(written).unwrap().remove(0).unwrap();
    let end = other_table.durable_lsn();
    let trimmed = other_table.trim_log(end);
    region.finish(trimmed).unwrap();
    drop(other_table);
    region.restart();
    let other_table = region.store.table(OTHER).unwrap();
    let trimmed = other_table.trim_log(end);
    region.finish(trimmed).unwrap();
    let seeded = other_table.seed(moved(&region));
    assert!(region.finish(seeded).is_err(), "nothing of it is left in the log");
    assert!(other_table.has_logged());
}

#[test]
fn a_table_that_is_held_accepts_nothing_until_it_is_released() {
    let mut region = Region::new(1, Writers::One);
    region.write(put(1, 1)).unwrap();
    let table = region.table();
    let held = table.hold().unwrap();
    let refused = region.write(put(2, 2));
    assert!(matches!(refused, Err(StoreError::NotWritable { .. })));
    assert!(table.hold().is_err(), "it is held already");
    assert_eq!(held.last(), Lsn(1));
    drop(held);
    region.write(put(2, 2)).unwrap();
    std::mem::forget(table.hold().unwrap());
    drop(table);
    region.restart();
    region.write(put(3, 3)).unwrap();
}

#[test]
fn a_table_that_others_may_write_since_it_was_held_does_not_end() {
    let region = Region::new(1, Writers::One);
    region.write(put(1, 1)).unwrap();
    let table = region.table();
    let held = table.hold().unwrap();
    assert_eq!(held.epoch(), table.epoch());
    let sealed = table.fence(Epoch(held.epoch().0 + 1));
    region.finish(sealed).unwrap();
    let end = held.end();
    assert!(matches!(region.finish(end), Err(StoreError::NotWritable { .. })));
    assert!(!table.is_dropped());
}

#[test]
fn a_table_that_has_ended_stays_so() {
    let mut region = Region::new(1, Writers::One);
    let mut far = Region::new(2, Writers::One);
    region.write(put(1, 1)).unwrap();
    let table = region.table();
    let held = table.hold().unwrap();
    let end = held.end();
    assert_eq!(region.finish(end).unwrap(), Lsn(2));
    drop(held);
    drop(table);
    let is_gone = |region: &Region| {
        region.table().is_dropped()
            && matches!(region.write(put(2, 2)), Err(StoreError::NoTable(_)))
            && region.store.table_by_name("letters").is_none()
    };
    assert!(is_gone(&region));
    region.restart();
    assert!(is_gone(&region));
    // And wherever its log comes.
    let (from, to) = (region.table(), far.table());
    let entries = entries_after(&from, Lsn(0));
    let taken = to.apply(region.origin, from.epoch(), Lsn(0), Lsn(2), entries);
    far.finish(taken).unwrap();
    drop((from, to));
    assert!(far.table().is_dropped());
    far.restart();
    assert!(far.table().is_dropped());
}

/// The end was of a tail: the region that goes on without it has not ended the table.
#[test]
fn a_table_whose_end_nobody_goes_on_from_has_not_ended() {
    let (mut a, b) = (Region::new(1, Writers::One), Region::new(2, Writers::One));
    a.write(put(1, 1)).unwrap();
    let entries = entries_after(&a.table(), Lsn(0));
    let taken = b.table().apply(a.origin, a.table().epoch(), Lsn(0), Lsn(1), entries);
    b.finish(taken).unwrap();
    let table = a.table();
    let held = table.hold().unwrap();
    let end = held.end();
    a.finish(end).unwrap();
    drop((held, table));
    a.restart();
    assert!(a.table().is_dropped());
    let epoch = Epoch(2);
    a.finish(a.table().fence(epoch)).unwrap();
    b.finish(b.table().open_granted(epoch, Lsn(1))).unwrap();
    b.write(put(2, 2)).unwrap();
    copy_all(&b, &a);
    assert!(!a.table().is_dropped());
    assert!(a.store.table_by_name("letters").is_some());
    assert_eq!((a.table().schema(), a.rows()), (b.table().schema(), b.rows()));
    // What it becomes there comes by the log, though the number of its schema is known here.
    let changed = b.table().change_schema(|schema| {
        let options = TableOptions { allow_update: false, ..schema.options.clone() };
        Ok(Schema { options, ..schema.clone() })
    });
    b.finish(changed).unwrap();
    let entries = entries_after(&b.table(), a.table().durable_lsn());
    let (from, to) = (a.table().durable_lsn(), b.table().durable_lsn());
    a.finish(a.table().apply(b.origin, epoch, from, to, entries)).unwrap();
    assert_eq!(a.table().schema(), b.table().schema());
    a.restart();
    assert!(!a.table().is_dropped());
}

#[test]
fn numbers_of_another_table_are_not_given_again() {
    let mut region = Region::new(1, Writers::One);
    let table = region.table();
    let skipped = table.skip_numbers(40);
    region.finish(skipped).unwrap();
    let skipped = table.skip_numbers(7);
    region.finish(skipped).unwrap();
    assert_eq!(table.numbers_given(), 40);
    drop(table);
    region.restart();
    assert!(region.table().numbers_given() >= 40);
}
