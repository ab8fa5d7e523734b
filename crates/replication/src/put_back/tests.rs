//! What is found out, remembered and taken back.

use isthmus_model::capacity::WriteSize;
use isthmus_model::change::{Condition, Returned, RowAction};
use isthmus_model::check::{CheckedChange, CheckedKey};
use isthmus_model::clock::SystemClock;
use isthmus_model::ids::{Epoch, SchemaNumber, TableId};
use isthmus_model::key::{KeyKind, KeyValue, PrimaryKey};
use isthmus_model::schema::{KeyColumn, Schema, TableOptions};
use isthmus_store::engine::memory::MemoryEngine;
use isthmus_store::{StoreOptions, TableSpec, Writers};

use super::*;

const HERE: PartitionId = PartitionId(513);

fn spec() -> TableSpec {
    let column = KeyColumn { name: "k".into(), kind: KeyKind::Integer, auto_increment: false };
    TableSpec {
        id: TableId(257),
        name: "letters".into(),
        partition: HERE,
        schema: Schema {
            number: SchemaNumber(1),
            key_columns: vec![column],
            defined_columns: Vec::new(),
            options: TableOptions::default(),
        },
        created_millis: 1,
        epoch: Epoch(1),
        base: Origin(1),
        writing: Writing::Accept,
        writers: Writers::One,
        writer: Origin(1),
        handed_over: None,
        settled: Default::default(),
    }
}

/// The only writer of a table, started from its disk.
fn start(engine: &Arc<MemoryEngine>) -> (Arc<Store>, Arc<Table>, PutBacks) {
    let options = StoreOptions::new(Origin(1));
    let store = Store::open(engine.clone(), Arc::new(SystemClock), options).unwrap();
    if store.table_of_partition(HERE).is_none() {
        drop(store.create_table(spec()));
        while store.commit_step() {}
    }
    let put_backs = PutBacks::read(store.clone()).unwrap();
    while store.commit_step() {}
    let table = store.table_of_partition(HERE).unwrap();
    (store, table, put_backs)
}

fn name(region: Origin) -> String {
    format!("r{region}")
}

#[test]
fn writer_takes_back_from_the_replica_that_holds_most_once_all_are_heard() {
    let engine = Arc::new(MemoryEngine::new());
    let (_, table, _) = start(&engine);
    // Nobody's, though the next life may begin in the same millisecond.
    let lost = table.life().hlc.next().next();
    let (store, table, found) = start(&engine);
    for region in [Origin(2), Origin(3)] {
        found.linked(HERE, region, true);
    }
    assert!(found.heard(&table, Origin(2), lost, Lsn(5)) && found.is_put_back(HERE));
    assert!(!found.are_all_heard(HERE) && !found.takes_from(HERE, Origin(2)));
    assert!(found.reason(HERE, name).unwrap().contains("r3 must be heard"));
    while store.commit_step() {}
    assert_eq!(table.spec().writing, Writing::Refuse);
    assert!(found.heard(&table, Origin(3), lost, Lsn(7)));
    assert!(found.asks_back(HERE, Origin(3)) && !found.asks_back(HERE, Origin(2)));
    while store.commit_step() {}
    // A crash changes nothing of it.
    let (store, table, found) = start(&engine);
    assert!(found.is_put_back(HERE) && found.takes_from(HERE, Origin(3)));
    assert_eq!(table.spec().writing, Writing::Refuse);
    found.follows(&table, Origin(2));
    found.follows(&table, Origin(3));
    found.settle();
    assert!(found.is_put_back(HERE), "it is not durable yet");
    while store.commit_step() {}
    found.settle();
    assert!(!found.is_put_back(HERE) && found.reason(HERE, name).is_none());
    assert_eq!(table.spec().writing, Writing::Accept);
    assert_eq!(found.take_news(), [News::TakenBack { partition: HERE }]);
    assert!(!start(&engine).2.is_put_back(HERE));
}

#[test]
fn region_that_is_a_replica_no_more_is_not_waited_for() {
    let engine = Arc::new(MemoryEngine::new());
    let (_, table, _) = start(&engine);
    // Nobody's, though the next life may begin in the same millisecond.
    let lost = table.life().hlc.next().next();
    let (store, table, found) = start(&engine);
    assert!(found.heard(&table, Origin(2), lost, Lsn(5)));
    assert_eq!(found.holders(), [(HERE, Origin(2))]);
    found.release(&table, Origin(2));
    while store.commit_step() {}
    found.settle();
    assert!(!found.is_put_back(HERE));
    assert_eq!(table.spec().writing, Writing::Accept);
}

#[test]
fn replica_that_holds_what_is_here_finds_nothing() {
    let engine = Arc::new(MemoryEngine::new());
    let (_, table, found) = start(&engine);
    found.linked(HERE, Origin(2), true);
    assert!(!found.heard(&table, Origin(2), table.life().hlc, Lsn(0)));
    assert!(found.are_all_heard(HERE) && !found.is_put_back(HERE));
    let seen = found.changes();
    found.asked_back(HERE, Origin(2), false);
    assert_eq!((found.changes(), found.gives_back_to(HERE)), (seen, None));
    found.asked_back(HERE, Origin(2), true);
    assert_eq!((found.changes(), found.gives_back_to(HERE)), (seen + 1, Some(Origin(2))));
    found.asked_back(HERE, Origin(2), false);
    assert_eq!(found.gives_back_to(HERE), None);
}

#[test]
fn writer_that_others_have_overtaken_accepts_nothing_and_follows_unless_it_has_written() {
    let change = || CheckedChange {
        key: CheckedKey::Whole(PrimaryKey(vec![KeyValue::Integer(7)])),
        action: RowAction::Put(Vec::new()),
        condition: Condition::default(),
        returned: Returned::Nothing,
        size: WriteSize { key: 8, attributes: 0 },
    };
    for writes in [false, true] {
        let engine = Arc::new(MemoryEngine::new());
        let (store, table, found) = start(&engine);
        if writes {
            drop(table.write(vec![change()], false));
            while store.commit_step() {}
        }
        found.overtaken(&table, Origin(2));
        while store.commit_step() {}
        let (store, table, again) = start(&engine);
        assert_eq!(table.spec().writing, Writing::Refuse);
        assert_eq!((table.epoch(), table.writer_word().epoch), (Epoch(1), Epoch(1)));
        assert_eq!((again.is_put_back(HERE), again.needs_a_person(HERE)), (writes, writes));
        // Who has been told so once does not accept by being told again.
        again.overtaken(&table, Origin(3));
        while store.commit_step() {}
        assert_eq!(again.take_news().len(), 0);
        let news = found.take_news();
        assert_eq!(news.iter().any(|one| matches!(one, News::Overtaken { .. })), !writes);
        assert_eq!(news.iter().any(|one| matches!(one, News::Found { is_torn: true, .. })), writes);
    }
}
