//! Entries that are here before the schema that they name.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use isthmus_model::clock::Clock;
use isthmus_model::entry::{Entry, EntryBody};
use isthmus_model::hlc::{Hlc, Stamp};
use isthmus_model::ids::{Epoch, Lsn, TableId};
use isthmus_model::key::KeyKind;
use isthmus_model::schema::{KeyColumn, Schema, TableOptions};
use isthmus_store::engine::memory::MemoryEngine;
use isthmus_store::keys::log::RecordBuilder;
use isthmus_store::{Store, StoreOptions, Table, TableSpec, Writers, Writing};
use prost::Message;

use super::*;
use crate::frame::{FORMAT, Hello, Open, Parcel, Promise, Records};
use crate::mode::Modes;
use crate::pack::{Method, pack};
use crate::put_back::PutBacks;
use crate::receive::{Assignments, Unfed};
use crate::ship::Shared;
use crate::terms::Direction;
use crate::trace::Traces;

const HERE: PartitionId = PartitionId(513);
/// Makes the schemas.
const BASE: Origin = Origin(1);
/// Whose entries are here first.
const PEER: Origin = Origin(2);
const NOW_MILLIS: i64 = 1_700_000_000_000;

/// A clock of which what has passed is set by hand.
#[derive(Default)]
struct HandClock(AtomicU64);

impl Clock for HandClock {
    fn wall_millis(&self) -> i64 {
        NOW_MILLIS
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}

struct Replica(Arc<Table>);

impl Assignments for Replica {
    fn accepts(&self, hello: &Hello) -> Result<Origin, String> {
        Ok(Origin(hello.region as u8))
    }

    fn fed_by(&self, _: Origin, _: Epoch, _: PartitionId) -> Result<Arc<Table>, Unfed> {
        Ok(self.0.clone())
    }

    fn is_incomplete(&self, _: Origin, _: PartitionId) -> bool {
        false
    }

    fn copies(&self, _: Origin, _: PartitionId) -> Result<(), StoreError> {
        Ok(())
    }

    fn follows(&self, _: Origin, _: PartitionId) {}

    fn other_writers(&self, _: PartitionId) -> Vec<Origin> {
        vec![BASE, PEER]
    }

    fn is_neighbour(&self, _: Origin, _: PartitionId) -> bool {
        true
    }

    fn changes(&self) -> u64 {
        0
    }
}

fn schema(number: u64) -> Schema {
    let key = KeyColumn { name: "k".into(), kind: KeyKind::Integer, auto_increment: false };
    Schema {
        number: SchemaNumber(number),
        key_columns: vec![key],
        defined_columns: Vec::new(),
        options: TableOptions::default(),
    }
}

fn entry(origin: Origin, lsn: u64, schema: u64, body: EntryBody) -> Entry {
    Entry {
        lsn: Lsn(lsn),
        epoch: Epoch(1),
        stamp: Stamp { hlc: Hlc::from_millis(NOW_MILLIS + lsn as i64), origin },
        origin_lsn: Lsn(lsn),
        schema: SchemaNumber(schema),
        seen: None,
        tx: None,
        batch: None,
        body,
    }
}

/// A region that has the first schema, and a stream from the peer.
struct World {
    clock: Arc<HandClock>,
    store: Arc<Store>,
    table: Arc<Table>,
    shared: Shared,
    inbound: Inbound,
}

impl World {
    fn new() -> World {
        let clock = Arc::new(HandClock::default());
        let options = StoreOptions::new(Origin(3));
        let store = Store::open(Arc::new(MemoryEngine::new()), clock.clone(), options).unwrap();
        drop(store.create_table(TableSpec {
            id: TableId(257),
            name: "letters".into(),
            partition: HERE,
            schema: schema(1),
            created_millis: 1,
            epoch: Epoch(1),
            base: BASE,
            writing: Writing::Accept,
            writers: Writers::ManyByColumn,
            writer: BASE,
            handed_over: None,
            settled: Default::default(),
        }));
        while store.commit_step() {}
        let table = store.table(TableId(257)).unwrap();
        let shared = Shared {
            store: store.clone(),
            clock: clock.clone(),
            safe_times: Arc::default(),
            standings: Arc::default(),
            put_backs: Arc::new(PutBacks::read(store.clone()).unwrap()),
            packed: Arc::default(),
            streams: Arc::default(),
            traces: Arc::new(Traces::new(clock.clone(), None, 0)),
            modes: Arc::new(Modes::new(clock.clone())),
            hello: Hello { format: FORMAT, region: 3, ..Hello::default() },
            parcel_bytes_max: 1000,
            window_parcels: 3,
            offer_rows: 40,
        };
        let assignments = Arc::new(Replica(table.clone()));
        let inbound = Inbound::new(shared.clone(), assignments, Direction::Push);
        let mut world = World { clock, store, table, shared, inbound };
        let region = u32::from(PEER.0);
        world.hear(Body::Hello(Hello { format: FORMAT, region, ..Hello::default() }));
        world.hear(Body::Open(Open { partition: HERE.0, epoch: 1, ..Open::default() }));
        let told = world.told();
        assert!(matches!(told[..], [Body::Welcome(_), Body::Opened(_)]), "{told:?}");
        world
    }

    fn hear(&mut self, body: Body) {
        self.inbound.receive(body.into()).unwrap();
    }

    /// A parcel with one entry of the peer.
    fn parcel(&mut self, lsn: u64, schema: u64) {
        let mut record = RecordBuilder::new(Lsn(lsn));
        record.push(&entry(PEER, lsn, schema, EntryBody::Rows(Vec::new())));
        let records = Records { records: vec![record.finish(HERE, false).bytes] };
        self.hear(Body::Parcel(Parcel {
            partition: HERE.0,
            epoch: 1,
            from: lsn - 1,
            to: lsn,
            body: Some(pack(records.encode_to_vec(), Method::Plain)),
            traces: Vec::new(),
            ranges: Vec::new(),
        }));
    }

    /// The base's schema comes, on another way.
    fn schema_comes(&mut self, lsn: u64, number: u64) {
        let made = entry(BASE, lsn, number, EntryBody::Schema(schema(number)));
        drop(self.table.apply(BASE, Epoch(1), Lsn(lsn - 1), Lsn(lsn), vec![made]));
        while self.store.commit_step() {}
        assert_eq!(self.table.schema().number, SchemaNumber(number));
    }

    /// What is answered by now.
    fn told(&mut self) -> Vec<Body> {
        while self.store.commit_step() {}
        let mut told = Vec::new();
        while let Poll::Ready(frame) = self.inbound.poll(&mut Context::from_waker(Waker::noop())) {
            told.extend(frame.body);
        }
        told
    }

    fn acks(&mut self) -> Vec<u64> {
        let ack = |body| match body {
            Body::Ack(ack) => ack.held,
            other => panic!("no acknowledgement: {other:?}"),
        };
        self.told().into_iter().map(ack).collect()
    }

    fn after(&mut self, passed: Duration) {
        self.clock.0.fetch_add(passed.as_millis() as u64, Ordering::Relaxed);
        self.inbound.tick();
    }
}

#[test]
fn an_entry_waits_for_the_schema_that_it_names_and_is_not_asked_for_again() {
    let mut world = World::new();
    world.parcel(1, 1);
    assert_eq!(world.acks(), [1]);
    world.parcel(2, 2);
    // What comes after it waits behind it, whatever it needs.
    world.parcel(3, 1);
    world.parcel(4, 3);
    let promised = Hlc::from_millis(NOW_MILLIS + 9);
    let promise = Promise { hlc: promised.0, ..Promise::default() };
    world.hear(Body::Promise(promise.clone()));
    world.after(HELD_MAX / 2);
    assert!(world.told().is_empty(), "nothing is refused and nothing held");
    assert_ne!(world.shared.safe_times.promised_by(HERE, PEER), promised);
    world.schema_comes(1, 2);
    world.after(Duration::ZERO);
    assert_eq!(world.acks(), [2, 3]);
    world.schema_comes(2, 3);
    world.after(Duration::ZERO);
    assert_eq!(world.acks(), [4]);
    world.hear(Body::Promise(promise));
    assert!(world.told().is_empty());
    assert_eq!(world.shared.safe_times.promised_by(HERE, PEER), promised);
    assert_eq!(world.table.watermark(PEER).0, Lsn(4));
}

#[test]
fn the_origin_is_told_of_a_schema_that_stays_away() {
    let mut world = World::new();
    world.parcel(1, 2);
    world.parcel(2, 2);
    world.after(HELD_MAX - Duration::from_millis(1));
    assert!(world.told().is_empty());
    world.after(Duration::from_millis(1));
    let told = world.told();
    let [Body::Fault(fault)] = &told[..] else { panic!("{told:?}") };
    assert!(fault.reason.contains("schema 2 is needed, 1 is here"), "{}", fault.reason);
    // What belonged to that opening is forgotten.
    world.hear(Body::Open(Open { partition: HERE.0, epoch: 1, ..Open::default() }));
    world.schema_comes(1, 2);
    world.after(Duration::ZERO);
    let told = world.told();
    assert!(matches!(&told[..], [Body::Opened(opened)] if opened.watermark == 0), "{told:?}");
    world.parcel(1, 2);
    assert_eq!(world.acks(), [1]);
}

#[test]
fn a_link_that_is_opened_anew_holds_nothing() {
    let mut world = World::new();
    world.parcel(1, 2);
    world.hear(Body::Open(Open { partition: HERE.0, epoch: 1, ..Open::default() }));
    world.parcel(1, 1);
    let told = world.told();
    assert!(matches!(&told[..], [Body::Opened(_), Body::Ack(ack)] if ack.held == 1), "{told:?}");
    world.after(HELD_MAX);
    assert!(world.told().is_empty());
}
