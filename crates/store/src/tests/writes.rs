//! What one region does with the changes of its clients.

use bytes::Bytes;
use isthmus_model::apply::Refusal;
use isthmus_model::change::Existence;
use isthmus_model::error::Outcome;

use super::*;
use crate::limits;

#[test]
fn nothing_shows_before_it_is_durable() {
    let region = Region::new(1, Writers::One);
    let table = region.table();
    let mut pending = table.write(vec![put(1, 10)], false);
    assert_eq!(table.get(&key(1).encode()).unwrap(), None);
    assert_eq!(table.durable_lsn(), Lsn(0));
    assert_eq!(table.read_log(Lsn(0), 1000).unwrap().records.len(), 0);
    assert!(pending.try_take().is_none());
    region.store.commit_step();
    let written = pending.try_take().unwrap().unwrap().remove(0).unwrap();
    assert_eq!((written.lsn, written.key), (Lsn(1), key(1)));
    assert_eq!(integer(table.get(&key(1).encode()).unwrap().as_ref(), "v"), Some(10));
    assert_eq!(table.durable_lsn(), Lsn(1));
    assert_eq!(table.durable_hlc(), written.stamp.hlc);
}

#[test]
fn the_age_of_a_write_counts_from_when_it_came() {
    let region = Region::new(1, Writers::One);
    let oldest = || region.store.oldest_not_durable().as_millis();
    while region.store.commit_step() {}
    assert_eq!(oldest(), 0);
    drop(region.table().write(vec![put(1, 10)], false));
    region.clock.advance(300);
    drop(region.table().write(vec![put(2, 10)], false));
    region.clock.advance(200);
    assert_eq!(oldest(), 500);
    while region.store.commit_step() {}
    region.clock.advance(200);
    assert_eq!(oldest(), 0);
}

#[test]
fn hot_row_takes_many_changes_in_one_commit() {
    let region = Region::new(1, Writers::One);
    let table = region.table();
    let before = region.engine.commits();
    let mut pending: Vec<_> = (0..100).map(|_| table.write(vec![increment(7)], false)).collect();
    while region.store.commit_step() {}
    assert_eq!(region.engine.commits(), before + 1);
    for one in &mut pending {
        one.try_take().unwrap().unwrap().remove(0).unwrap();
    }
    let row = table.get(&key(7).encode()).unwrap();
    assert_eq!(integer(row.as_ref(), "n"), Some(100));
    assert_eq!(entries_after(&table, Lsn(0)).len(), 100);
}

#[test]
fn condition_sees_pending_rows_and_its_refusal_waits_for_them() {
    let region = Region::new(1, Writers::One);
    let table = region.table();
    let mut first = table.write(vec![insert(1, 1)], false);
    let mut second = table.write(vec![insert(1, 2)], false);
    assert!(second.try_take().is_none(), "what it was judged by is not durable");
    region.store.commit_step();
    assert!(first.try_take().unwrap().unwrap()[0].is_ok());
    let refused = second.try_take().unwrap().unwrap().remove(0).unwrap_err();
    assert_eq!(refused, StoreError::Refused(Refusal::ConditionFailed));
    assert_eq!(refused.outcome(), Outcome::NotApplied);
    let mut third = table.write(vec![insert(1, 3)], false);
    assert!(third.try_take().is_some(), "a refusal by durable state is answered at once");
    assert!(!region.store.commit_step());
}

#[test]
fn refusal_by_a_batch_that_fails_is_unknown() {
    let region = Region::new(1, Writers::One);
    region.engine.plan([crate::engine::faulty::Fault::Lost]);
    let table = region.table();
    let mut first = table.write(vec![insert(1, 1)], false);
    let mut second = table.write(vec![insert(1, 2)], false);
    region.store.commit_step();
    assert_eq!(first.try_take().unwrap(), Err(StoreError::Unknown));
    assert_eq!(second.try_take().unwrap(), Err(StoreError::Unknown));
}

#[test]
fn changes_of_one_call_follow_each_other() {
    let region = Region::new(1, Writers::One);
    let mut missing = update(2, "v", 1);
    missing.condition.existence = Existence::MustExist;
    let changes = vec![put(1, 1), update(1, "w", 2), delete(1), missing, update(1, "x", 3)];
    let pending = region.table().write(changes, false);
    let results = region.finish(pending).unwrap();
    let passed: Vec<bool> = results.iter().map(Result::is_ok).collect();
    assert_eq!(passed, [true, true, true, false, true]);
    let row = region.table().get(&key(1).encode()).unwrap();
    assert_eq!(integer(row.as_ref(), "x"), Some(3));
    assert_eq!(integer(row.as_ref(), "v"), None);
    assert_eq!(region.table().durable_lsn(), Lsn(4));
}

#[test]
fn atomic_write_is_one_entry_or_none() {
    let region = Region::new(1, Writers::One);
    let table = region.table();
    let pending = table.write(vec![put(1, 1), put(2, 2)], true);
    let written = region.finish(pending).unwrap();
    assert!(written.iter().all(|one| one.as_ref().unwrap().lsn == Lsn(1)));
    let pending = table.write(vec![put(3, 3), insert(1, 9), put(4, 4)], true);
    let refused = region.finish(pending).unwrap();
    assert_eq!(refused[0], Err(StoreError::AbortedTogether));
    assert_eq!(refused[1], Err(StoreError::Refused(Refusal::ConditionFailed)));
    assert_eq!(table.durable_lsn(), Lsn(1));
    assert_eq!(table.get(&key(3).encode()).unwrap(), None);
    let mut twice = table.write(vec![put(5, 5), put(5, 6)], true);
    assert_eq!(twice.try_take(), Some(Err(StoreError::RowTwice)));
}

#[test]
fn deleted_row_of_a_table_with_one_writer_leaves_nothing() {
    let region = Region::new(1, Writers::One);
    region.write(put(1, 1)).unwrap();
    region.write(delete(1)).unwrap();
    assert_eq!(region.rows(), []);
    let many = Region::new(1, Writers::ManyByColumn);
    many.write(put(1, 1)).unwrap();
    many.write(delete(1)).unwrap();
    assert_eq!(many.rows().len(), 1, "the tombstone stays until the horizon has passed");
    many.table().set_horizon(isthmus_model::hlc::Hlc::MAX);
    while many.store.sweep_step() {}
    while many.store.commit_step() {}
    assert_eq!(many.rows(), []);
}

#[test]
fn numbers_of_the_server_are_never_given_twice() {
    let mut region = Region::new(3, Writers::ManyByColumn);
    let mut given = std::collections::BTreeSet::new();
    for round in 0..5 {
        let mut change = put(0, round);
        change.key = CheckedKey::AutoIncrement { values: vec![KeyValue::Integer(0)], column: 0 };
        let pending = region.table().write(vec![change.clone(), change], false);
        for written in region.finish(pending).unwrap() {
            let KeyValue::Integer(number) = written.unwrap().key.0[0] else { panic!("a number") };
            assert_eq!(number & 0xff, 3);
            assert!(given.insert(number));
        }
        region.restart();
    }
    assert_eq!(given.len(), 10);
}

#[test]
fn too_much_at_once_is_refused_and_changes_nothing() {
    let engine = Arc::new(FaultyEngine::new(1, FaultOdds::default()));
    let options = StoreOptions { queue_bytes_max: 1000, ..StoreOptions::new(Origin(1)) };
    let store = Store::open(engine, TestClock::new(START_MILLIS), options).unwrap();
    make_table(&store, Writers::One, Writing::Accept);
    let table = store.table(TABLE).unwrap();
    let mut waiting = Vec::new();
    let refused = loop {
        let mut pending = table.write(vec![put(1, 1)], false);
        match pending.try_take() {
            None => waiting.push(pending),
            Some(answer) => break answer,
        }
        assert!(waiting.len() < 1000);
    };
    assert_eq!(refused, Err(StoreError::Busy));
    assert!(store.is_too_busy_for_upkeep());
    store.commit_step();
    assert!(!store.is_too_busy_for_upkeep());
    assert!(waiting.iter_mut().all(|one| one.try_take().unwrap().is_ok()));
    assert!(table.write(vec![put(1, 1)], false).try_take().is_none());
    let many = vec![put(1, 1); limits::WRITE_CHANGES_MAX + 1];
    assert!(matches!(table.write(many, false).try_take(), Some(Err(StoreError::TooLarge(_)))));
}

#[test]
fn full_disk_refuses_writes_and_still_trims() {
    let region = Region::new(1, Writers::One);
    region.write(put(1, 1)).unwrap();
    region.engine.set_space_left(1000);
    region.write(put(1, 2)).unwrap();
    assert_eq!(region.write(put(1, 3)), Err(StoreError::DiskFull));
    let trim = region.table().trim_log(Lsn(1));
    region.finish(trim).unwrap();
    region.engine.set_space_left(u64::MAX);
    region.write(put(1, 4)).unwrap();
}

#[test]
fn refusing_table_takes_no_writes() {
    let region = Region::new(1, Writers::One);
    let set = region.store.set_writing(TABLE, Writing::Refuse, Writers::One, Epoch(3));
    region.finish(set).unwrap();
    let refused = region.write(put(1, 1)).unwrap_err();
    assert_eq!(refused, StoreError::NotWritable { partition: PARTITION, epoch: Epoch(3) });
    let set = region.store.set_writing(TABLE, Writing::Accept, Writers::One, Epoch(2));
    assert!(matches!(region.finish(set), Err(StoreError::Fenced { .. })));
}

#[test]
fn log_is_read_from_memory_and_from_the_engine_alike() {
    let mut region = Region::new(1, Writers::One);
    for n in 0..50 {
        let pending = region.table().write(vec![put(n, n), put(n, n + 1)], false);
        region.finish(pending).unwrap();
    }
    let near = entries_after(&region.table(), Lsn(0));
    assert_eq!(near.len(), 100);
    region.restart();
    assert_eq!(entries_after(&region.table(), Lsn(0)), near);
    region.write(put(1, 1)).unwrap();
    let across = entries_after(&region.table(), Lsn(7));
    assert_eq!(across.len(), 94);
    assert_eq!(across[..93], near[7..]);
    let all = region.table().read_log(Lsn(101), 1000).unwrap();
    assert_eq!((all.records.len(), all.to), (0, Lsn(101)));
}

#[test]
fn trimmed_log_says_so_and_is_given_back() {
    let region = Region::new(1, Writers::One);
    for n in 0..60 {
        let pending = region.table().write(vec![put(1, n); 50], false);
        region.finish(pending).unwrap();
    }
    let table = region.table();
    let trim = table.trim_log(Lsn(2025));
    region.finish(trim).unwrap();
    assert_eq!(table.log_start(), Lsn(2025));
    assert_eq!(table.read_log(Lsn(2024), 1), Err(StoreError::LogTrimmed { start: Lsn(2025) }));
    assert_eq!(entries_after(&table, Lsn(2025)).len(), 3000 - 2025);
    let start = crate::keys::log::encode_key(PARTITION, Lsn(0));
    let end = crate::keys::log::encode_key(PARTITION, Lsn(u64::MAX));
    let snapshot = region.engine.snapshot().unwrap();
    let space = crate::engine::Space::Log;
    let direction = isthmus_model::change::Direction::Forward;
    let left = snapshot.scan(space, &start, Some(&end), direction).count();
    assert_eq!(left, 20, "the record with entry 2026 stays whole");
}

#[test]
fn small_trims_do_not_cost_a_commit_of_their_own() {
    let region = Region::new(1, Writers::One);
    region.write(put(1, 1)).unwrap();
    region.write(put(1, 2)).unwrap();
    let before = region.engine.commits();
    let trim = region.table().trim_log(Lsn(1));
    region.finish(trim).unwrap();
    assert_eq!(region.engine.commits(), before);
    region.write(put(1, 3)).unwrap();
    assert_eq!(region.table().log_start(), Lsn(1));
}

#[test]
fn many_large_changes_become_several_records_of_one_group() {
    let region = Region::new(1, Writers::One);
    let large = |n: i64| {
        let value = Value::Binary(Bytes::from(vec![n as u8; 100_000]));
        let cell = CellWrite { name: Text::from("b"), value, timestamp: None };
        change(n, RowAction::Put(vec![cell]))
    };
    let pending = region.table().write((0..50).map(large).collect(), false);
    region.finish(pending).unwrap();
    let slice = region.table().read_log(Lsn(0), 1 << 30).unwrap();
    assert!(slice.records.len() >= 4, "{} records", slice.records.len());
    assert_eq!(entries_after(&region.table(), Lsn(0)).len(), 50);
}

#[test]
fn damaged_row_is_reported_not_shown() {
    let region = Region::new(1, Writers::One);
    region.write(put(1, 1)).unwrap();
    let at = crate::keys::row::encode_key(PARTITION, &key(1).encode());
    let mut batch = crate::engine::Batch::default();
    batch.put(crate::engine::Space::Rows, at, Bytes::from_static(&[1, 2, 3]));
    region.engine.commit(batch).unwrap();
    let error = region.table().get(&key(1).encode()).unwrap_err();
    assert_eq!(error.kind(), isthmus_model::error::Kind::Corrupt);
}
