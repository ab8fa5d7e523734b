//! Tables, notes, ids, promises, schemas and expiry over the life of a store.

use isthmus_model::change::Direction;
use isthmus_model::hlc::Hlc;
use isthmus_model::ids::Timestamp;
use isthmus_model::row::EXPIRY_BUCKET_MILLIS;
use parking_lot::Mutex;

use super::*;
use crate::engine::Space;
use crate::engine::faulty::Fault;
use crate::keys;

#[test]
fn tables_are_found_by_name_number_and_partition_and_after_a_restart() {
    let mut region = Region::new(1, Writers::One);
    for _ in 0..2 {
        assert_eq!(region.store.table_by_name("letters").unwrap().id(), TABLE);
        assert_eq!(region.store.table_of_partition(PARTITION).unwrap().id(), TABLE);
        assert_eq!(region.store.tables().len(), 1);
        assert_eq!(region.table().spec(), spec(Writers::One, Writing::Accept));
        region.restart();
    }
    let mut again = region.store.create_table(spec(Writers::One, Writing::Accept));
    let exists = again.try_take().unwrap().map(|table| table.id());
    assert_eq!(exists, Err(StoreError::TableExists(Text::from("letters"))));
}

#[test]
fn two_tables_of_one_name_cannot_be_made_at_once() {
    let region = Region::new(1, Writers::One);
    let other = |id| TableSpec {
        id: TableId(id),
        partition: PartitionId(id),
        name: Text::from("other"),
        ..spec(Writers::One, Writing::Accept)
    };
    let mut first = region.store.create_table(other(9));
    let mut second = region.store.create_table(other(10));
    assert!(matches!(second.try_take(), Some(Err(StoreError::TableExists(_)))));
    region.store.commit_step();
    assert!(first.try_take().unwrap().is_ok());
}

fn keys_left(region: &Region) -> usize {
    let snapshot = region.engine.snapshot().unwrap();
    let of_partition = keys::ranges_of_partition(PARTITION).into_iter();
    let count = |(space, start, end): (Space, bytes::Bytes, bytes::Bytes)| {
        snapshot.scan(space, &start, Some(&end), Direction::Forward).count()
    };
    let (start, end) = keys::dropped::range();
    of_partition.map(count).sum::<usize>() + count((Space::Meta, start, end))
}

#[test]
fn dropped_table_leaves_nothing_and_refuses_writes() {
    let mut region = Region::new(1, Writers::One);
    region.write(put(1, 1)).unwrap();
    let table = region.table();
    let drop = region.store.drop_table(TABLE);
    assert_eq!(
        table.write(vec![put(2, 2)], false).try_take(),
        Some(Err(StoreError::NoTable(TABLE)))
    );
    region.finish(drop).unwrap();
    assert!(region.store.table(TABLE).is_none());
    assert!(table.snapshot().is_err());
    assert_eq!(keys_left(&region), 0);
    region.restart();
    assert!(region.store.table(TABLE).is_none());
}

#[test]
fn drop_cut_short_is_finished_at_the_next_start() {
    let mut region = Region::new(1, Writers::One);
    region.write(put(1, 1)).unwrap();
    region.engine.plan([Fault::Kept]);
    let drop = region.store.drop_table(TABLE);
    assert_eq!(region.finish(drop), Err(StoreError::Unknown));
    region.engine.crash();
    assert!(keys_left(&region) > 0);
    region.restart();
    while region.store.commit_step() {}
    assert_eq!(keys_left(&region), 0);
}

#[test]
fn notes_are_kept_listed_and_removed() {
    let mut region = Region::new(1, Writers::One);
    for name in ["link/2", "link/1", "topology"] {
        let put = region.store.put_note(name.as_bytes(), b"value");
        assert_eq!(region.store.note(name.as_bytes()).unwrap(), None);
        region.finish(put).unwrap();
    }
    region.restart();
    let names: Vec<_> = region.store.notes(b"link/").unwrap().into_iter().map(|(n, _)| n).collect();
    assert_eq!(names, ["link/1", "link/2"]);
    let gone = region.store.delete_note(b"link/1");
    region.finish(gone).unwrap();
    assert_eq!(region.store.notes(b"link/").unwrap().len(), 1);
    let mut long = region.store.put_note(&[0; 2000], b"");
    assert!(matches!(long.try_take(), Some(Err(StoreError::TooLarge(_)))));
}

#[test]
fn ids_are_never_given_twice() {
    let mut region = Region::new(5, Writers::One);
    let mut last = 0;
    for _ in 0..3 {
        for _ in 0..5000 {
            let id = region.store.reserve_id().unwrap();
            assert!(id > last && id & 0xff == 5);
            last = id;
            region.store.commit_step();
        }
        region.restart();
    }
    while region.store.reserve_id().is_ok() {}
    assert_eq!(region.store.reserve_id(), Err(StoreError::Busy));
    region.store.commit_step();
    assert!(region.store.reserve_id().unwrap() > last);
}

#[test]
fn promise_waits_for_what_is_not_durable_and_never_goes_back() {
    let mut region = Region::new(1, Writers::One);
    assert_eq!(region.store.promise(), Hlc::from_millis(START_MILLIS));
    let pending = region.table().write(vec![put(1, 1)], false);
    region.clock.advance(100);
    let held = region.store.promise();
    assert!(held <= Hlc::from_millis(START_MILLIS + 1));
    let stamp = region.finish(pending).unwrap().remove(0).unwrap().stamp;
    assert!(held <= stamp.hlc);
    assert_eq!(region.store.promise(), Hlc::from_millis(START_MILLIS + 100));
    // Without commits it stops at the durable ceiling.
    region.clock.advance(3_600_000);
    let stuck = region.store.promise();
    assert!(stuck < Hlc::from_millis(START_MILLIS + 10_000));
    region.store.commit_step();
    let before = region.store.promise();
    assert!(before > stuck);
    region.restart();
    assert!(region.store.promise() >= before);
    let written = region.write(put(1, 2)).unwrap();
    assert!(written.stamp.hlc >= before);
}

#[test]
fn clean_stop_does_not_push_the_clock() {
    let mut region = Region::new(1, Writers::One);
    let before = region.write(put(1, 1)).unwrap().stamp.hlc;
    region.store.close().unwrap();
    assert_eq!(region.write(put(1, 2)), Err(StoreError::Stopped));
    region.restart();
    let after = region.write(put(1, 2)).unwrap().stamp.hlc;
    assert!(after > before && after.millis() == START_MILLIS);
}

#[test]
fn hooks_tell_of_commits_and_of_the_fatal_one() {
    let region = Region::new(1, Writers::One);
    let moved = Arc::new(Mutex::new(Vec::new()));
    let fatal = Arc::new(Mutex::new(0));
    let (seen, failures) = (moved.clone(), fatal.clone());
    let table = region.table();
    region.store.on_durable(Arc::new(move |partition, lsn| {
        assert!(table.durable_lsn() >= lsn, "what is told of is there");
        seen.lock().push((partition, lsn));
    }));
    region.store.on_fatal(Arc::new(move |_| *failures.lock() += 1));
    region.write(put(1, 1)).unwrap();
    assert_eq!(*moved.lock(), [(PARTITION, Lsn(1))]);
    region.engine.plan([Fault::Lost]);
    assert_eq!(region.write(put(1, 2)), Err(StoreError::Unknown));
    assert_eq!(region.write(put(1, 3)), Err(StoreError::Stopped));
    assert_eq!(*fatal.lock(), 1);
}

#[test]
fn schema_changes_are_numbered_entries() {
    let mut region = Region::new(1, Writers::One);
    for versions in [3, 5] {
        let changed = region.table().change_schema(|schema| {
            let mut schema = schema.clone();
            schema.options.max_versions = versions;
            Ok(schema)
        });
        let schema = region.finish(changed).unwrap();
        assert_eq!(schema.options.max_versions, versions);
        assert_eq!(*region.table().schema(), schema);
    }
    region.restart();
    assert_eq!(region.table().schema().number, SchemaNumber(3));
    assert_eq!(entries_after(&region.table(), Lsn(0)).len(), 2);
    let refused = region.table().change_schema(|schema| {
        let mut schema = schema.clone();
        schema.key_columns[0].name = Text::from("other");
        Ok(schema)
    });
    assert!(matches!(region.finish(refused), Err(StoreError::BadSchema(_))));
}

#[test]
fn expiry_is_logged_once_a_bucket_and_the_sweep_removes_the_bytes() {
    let region = Region::new(1, Writers::One);
    let changed = region.table().change_schema(|schema| {
        let mut schema = schema.clone();
        schema.options.time_to_live_seconds = Some(86_400);
        Ok(schema)
    });
    region.finish(changed).unwrap();
    for n in 0..700 {
        let pending = region.table().write(vec![put(n, n)], false);
        drop(pending);
    }
    while region.store.commit_step() {}
    region.clock.advance(86_400_000 / 2);
    region.write(put(1000, 1)).unwrap();
    let lsn = region.table().durable_lsn();
    region.clock.advance(86_400_000 / 2 + EXPIRY_BUCKET_MILLIS);
    assert!(region.store.expire_step());
    region.store.commit_step();
    assert!(!region.store.expire_step(), "not twice in a bucket");
    assert_eq!(region.table().durable_lsn(), lsn.next());
    let expiry = region.table().snapshot().unwrap().expiry()[0].trim;
    assert_eq!(expiry.below.0 % EXPIRY_BUCKET_MILLIS, 0);
    assert!(expiry.below > Timestamp(START_MILLIS));
    assert_eq!(region.rows().len(), 701);
    let mut steps = 0;
    while region.store.sweep_step() {
        steps += 1;
    }
    assert_eq!(steps, 1, "a step looks at a bounded number of rows");
    while region.store.commit_step() {}
    assert_eq!(region.rows().len(), 1);
    assert_eq!(region.table().durable_lsn(), lsn.next(), "sweeping writes no entries");
}

#[test]
fn snapshot_tells_of_exactly_its_own_rows() {
    let region = Region::new(1, Writers::One);
    region.write(put(1, 1)).unwrap();
    let snapshot = region.table().snapshot().unwrap();
    region.write(put(2, 2)).unwrap();
    assert_eq!(snapshot.lsn(), Lsn(1));
    assert_eq!(snapshot.vector().len(), 1);
    let all = EncodedKey::default();
    assert_eq!(snapshot.scan(&all, None, Direction::Backward).count(), 1);
    assert_eq!(snapshot.get(&key(2).encode()).unwrap(), None);
    assert_eq!(region.table().snapshot().unwrap().lsn(), Lsn(2));
}
