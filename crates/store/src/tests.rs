//! Tests of the store as a whole, on engines in memory unless they say otherwise.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use isthmus_model::capacity::WriteSize;
use isthmus_model::change::{CellChange, CellWrite, Condition, Existence, Returned, RowAction};
use isthmus_model::check::{CheckedChange, CheckedKey};
use isthmus_model::clock::Clock;
use isthmus_model::entry::Entry;
use isthmus_model::ids::{Epoch, Lsn, Origin, PartitionId, SchemaNumber, TableId};
use isthmus_model::key::{EncodedKey, KeyKind, KeyValue, PrimaryKey};
use isthmus_model::row::Row;
use isthmus_model::schema::{KeyColumn, Schema, TableOptions};
use isthmus_model::value::{Text, Value};

use crate::engine::Engine;
use crate::engine::faulty::{FaultOdds, FaultyEngine};
use crate::keys::log::decode_record;
use crate::{
    Pending, Store, StoreError, StoreOptions, Table, TableSpec, Writers, Writing, Written,
};

mod atomic;
mod conflicts;
mod crash;
mod cuts;
mod digest;
mod families;
mod handover;
mod life;
mod prepared;
mod put_back;
mod replicas;
mod rewrite;
#[cfg(feature = "rocks")]
mod rocks;
mod writes;

/// A clock that is set by hand.
pub(crate) struct TestClock(AtomicI64);

impl TestClock {
    pub(crate) fn new(millis: i64) -> Arc<TestClock> {
        Arc::new(TestClock(AtomicI64::new(millis)))
    }

    pub(crate) fn advance(&self, millis: i64) {
        self.0.fetch_add(millis, Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn wall_millis(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.wall_millis() as u64)
    }
}

pub(crate) const START_MILLIS: i64 = 1_700_000_000_000;
pub(crate) const TABLE: TableId = TableId(257);
const PARTITION: PartitionId = PartitionId(513);

/// One region: an engine that outlives its stores.
pub(crate) struct Region {
    pub(crate) origin: Origin,
    pub(crate) engine: Arc<FaultyEngine>,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) store: Arc<Store>,
}

impl Region {
    pub(crate) fn new(origin: u8, writers: Writers) -> Region {
        let engine = Arc::new(FaultyEngine::new(u64::from(origin), FaultOdds::default()));
        let clock = TestClock::new(START_MILLIS);
        let origin = Origin(origin);
        let store = open(engine.clone(), clock.clone(), origin);
        let writing = match (writers, origin) {
            (Writers::One, Origin(2..)) => Writing::Refuse,
            _ => Writing::Accept,
        };
        make_table(&store, writers, writing);
        Region { origin, engine, clock, store }
    }

    pub(crate) fn table(&self) -> Arc<Table> {
        self.store.table(TABLE).unwrap()
    }

    /// Commits until nothing waits, and takes the answer.
    pub(crate) fn finish<T>(&self, mut pending: Pending<T>) -> Result<T, StoreError> {
        while self.store.commit_step() {}
        pending.try_take().expect("nothing waits any more")
    }

    pub(crate) fn write(&self, change: CheckedChange) -> Result<Written, StoreError> {
        let pending = self.table().write(vec![change], false);
        self.finish(pending)?.remove(0)
    }

    /// A new life on the same engine.
    pub(crate) fn restart(&mut self) {
        self.engine.crash();
        self.store = open(self.engine.clone(), self.clock.clone(), self.origin);
    }

    /// All rows and tombstones, by key.
    pub(crate) fn rows(&self) -> Vec<(EncodedKey, Row)> {
        rows(&self.table())
    }
}

pub(crate) fn rows(table: &Table) -> Vec<(EncodedKey, Row)> {
    let snapshot = table.snapshot().unwrap();
    let all = EncodedKey::default();
    let direction = isthmus_model::change::Direction::Forward;
    snapshot.scan(&all, None, direction).map(Result::unwrap).collect()
}

pub(crate) fn open(engine: Arc<dyn Engine>, clock: Arc<dyn Clock>, origin: Origin) -> Arc<Store> {
    let options = StoreOptions { parts_cache_bytes: 4096, ..StoreOptions::new(origin) };
    Store::open(engine, clock, options).unwrap()
}

pub(crate) fn schema() -> Schema {
    let column = |name, kind, auto_increment| KeyColumn { name, kind, auto_increment };
    Schema {
        number: SchemaNumber(1),
        key_columns: vec![column(Text::from("k"), KeyKind::Integer, false)],
        defined_columns: Vec::new(),
        options: TableOptions::default(),
    }
}

pub(crate) fn spec(writers: Writers, writing: Writing) -> TableSpec {
    TableSpec {
        id: TABLE,
        name: Text::from("letters"),
        partition: PARTITION,
        schema: schema(),
        created_millis: START_MILLIS,
        epoch: Epoch(1),
        base: Origin(1),
        writing,
        writers,
        writer: Origin(1),
        handed_over: None,
        settled: Default::default(),
    }
}

pub(crate) fn make_table(store: &Store, writers: Writers, writing: Writing) {
    let mut made = store.create_table(spec(writers, writing));
    while store.commit_step() {}
    made.try_take().unwrap().unwrap();
}

pub(crate) fn key(number: i64) -> PrimaryKey {
    PrimaryKey(vec![KeyValue::Integer(number)])
}

pub(crate) fn change(number: i64, action: RowAction) -> CheckedChange {
    CheckedChange {
        key: CheckedKey::Whole(key(number)),
        action,
        condition: Condition::default(),
        returned: Returned::Nothing,
        size: WriteSize { key: 8, attributes: 8 },
    }
}

pub(crate) fn cell(name: &str, value: i64) -> CellWrite {
    CellWrite { name: Text::from(name), value: Value::Integer(value), timestamp: None }
}

pub(crate) fn put(number: i64, value: i64) -> CheckedChange {
    change(number, RowAction::Put(vec![cell("v", value)]))
}

pub(crate) fn insert(number: i64, value: i64) -> CheckedChange {
    let mut change = put(number, value);
    change.condition.existence = Existence::MustNotExist;
    change
}

pub(crate) fn update(number: i64, name: &str, value: i64) -> CheckedChange {
    change(number, RowAction::Update(vec![CellChange::Put(cell(name, value))]))
}

pub(crate) fn increment(number: i64) -> CheckedChange {
    let action = CellChange::Increment { name: Text::from("n"), delta: 1 };
    change(number, RowAction::Update(vec![action]))
}

pub(crate) fn delete(number: i64) -> CheckedChange {
    change(number, RowAction::Delete)
}

/// The newest integer of a column of a stored row.
pub(crate) fn integer(row: Option<&Row>, name: &str) -> Option<i64> {
    match row?.column(name.as_bytes())?.cells.first()?.value.as_ref()? {
        Value::Integer(number) => Some(*number),
        other => panic!("{other:?} is no integer"),
    }
}

/// All entries of a log after an LSN.
pub(crate) fn entries_after(table: &Table, after: Lsn) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut reached = after;
    while reached < table.durable_lsn() {
        let slice = table.read_log(reached, 10_000).unwrap();
        assert!(slice.to > reached, "a slice goes forward");
        for record in &slice.records {
            entries.extend(decode_record(record).unwrap().1);
        }
        reached = slice.to;
    }
    entries.retain(|entry| entry.lsn > after);
    entries
}

/// Sends what `to` lacks of the origin `of`, as `from` has it.
pub(crate) fn ship(from: &Region, to: &Region, of: Origin) -> Result<(), StoreError> {
    let (sender, receiver) = (from.table(), to.table());
    let (have, _) = receiver.watermark(of);
    let (until, _) = sender.watermark(of);
    let many = sender.spec().writers.are_many();
    let mut entries = entries_after(&sender, sender.log_start());
    entries.retain(|e| e.origin_lsn > have && (!many || e.stamp.origin == of));
    let pending = receiver.apply(of, Epoch(1), have, until.max(have), entries);
    to.finish(pending)
}
