//! A copy of what differs gives exactly what a full copy gives.

mod links;

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use isthmus_model::change::Direction;
use isthmus_model::clock::Clock;
use isthmus_model::entry::{Entry, EntryBody, RowDelta};
use isthmus_model::hlc::{Hlc, Stamp};
use isthmus_model::ids::{Epoch, Lsn, Origin, PartitionId, SchemaNumber, TableId, Timestamp};
use isthmus_model::key::KeyKind;
use isthmus_model::row::{Cell, Row};
use isthmus_model::schema::{KeyColumn, Schema, TableOptions};
use isthmus_model::value::Value;
use isthmus_store::engine::memory::MemoryEngine;
use isthmus_store::{
    CopyDone, Store, StoreError, StoreOptions, Table, TableSpec, Watermark, Writers, Writing,
};
use proptest::prelude::{Strategy, any, prop_assert, proptest};

use super::*;
use crate::frame::{Body, CopyProgress, FORMAT, Frame, Hello};
use crate::link::State;
use crate::mode::Modes;
use crate::put_back::PutBacks;
use crate::receive::{Assignments, Inbound, Unfed, copy_note};
use crate::ship::{Outbound, Shared};
use crate::terms::{Direction as Dialled, Terms, Wish};
use crate::trace::Traces;

const PUSH: Dialled = Dialled::Push;

const PARTITION: PartitionId = PartitionId(257);

fn piece(start: &[u8], sum: u128, rows: u32) -> Piece {
    Piece { start: start.to_vec(), sum: Sum(sum), rows, is_cut: false }
}

fn unlike_of(a: &[Piece], b: &[Piece]) -> Vec<Interval> {
    let (mut there, mut back) = (Vec::new(), Vec::new());
    unlike(a, b, &mut there);
    unlike(b, a, &mut back);
    assert_eq!(there, back);
    joined(there)
}

#[test]
fn sums_are_compared_between_bounds_that_both_sides_have() {
    let a = [piece(b"", 1, 1), piece(b"c", 2, 1), piece(b"f", 4, 1), piece(b"k", 8, 1)];
    assert_eq!(unlike_of(&a, &a), []);
    // Other leaves over the same rows.
    let b = [piece(b"", 3, 2), piece(b"f", 4, 1), piece(b"i", 0, 0), piece(b"k", 8, 1)];
    assert_eq!(unlike_of(&a, &b), []);
    let b = [piece(b"", 3, 2), piece(b"f", 5, 1), piece(b"k", 8, 1)];
    assert_eq!(unlike_of(&a, &b), [(b"f".to_vec(), Some(b"k".to_vec()))]);
    // Where nothing lies, any bound is one of its own.
    let nothing = [piece(b"", 0, 0)];
    let c = [piece(b"", 0, 0), piece(b"c", 2, 1), piece(b"f", 0, 0)];
    assert_eq!(unlike_of(&c, &nothing), [(b"c".to_vec(), Some(b"f".to_vec()))]);
    let cut = [Piece { is_cut: true, ..piece(b"", 3, 2) }, piece(b"f", 12, 2)];
    assert_eq!(unlike_of(&a, &cut), [(Vec::new(), Some(b"f".to_vec()))]);
}

#[test]
fn ranges_that_touch_are_joined() {
    let range = |start: &[u8], end: Option<&[u8]>| (start.to_vec(), end.map(<[u8]>::to_vec));
    let ranges = vec![
        range(b"m", None),
        range(b"a", Some(b"c")),
        range(b"c", Some(b"d")),
        range(b"b", Some(b"c")),
        range(b"p", Some(b"q")),
    ];
    assert_eq!(joined(ranges), [range(b"a", Some(b"d")), range(b"m", None)]);
}

struct StoppedClock;

impl Clock for StoppedClock {
    fn wall_millis(&self) -> i64 {
        1_700_000_000_000
    }

    fn monotonic(&self) -> Duration {
        Duration::from_secs(10)
    }
}

/// A replica that any origin may feed.
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
        Vec::new()
    }

    fn is_neighbour(&self, _: Origin, _: PartitionId) -> bool {
        false
    }

    fn changes(&self) -> u64 {
        0
    }
}

struct Region {
    store: Arc<Store>,
    table: Arc<Table>,
}

fn hlc(number: u64) -> Hlc {
    Hlc((1_600_000_000_000 + number) << 16)
}

impl Region {
    /// A region whose table holds rows as if they had been copied.
    fn new(origin: u8, writers: Writers, rows: Vec<(EncodedKey, Row)>, lsn: u64) -> Region {
        let options = StoreOptions::new(Origin(origin));
        let store = Store::open(Arc::new(MemoryEngine::new()), Arc::new(StoppedClock), options);
        let store = store.unwrap();
        let key = KeyColumn { name: "k".into(), kind: KeyKind::Integer, auto_increment: false };
        drop(store.create_table(TableSpec {
            id: TableId(257),
            name: "t".into(),
            partition: PARTITION,
            schema: Schema {
                number: SchemaNumber(1),
                key_columns: vec![key],
                defined_columns: Vec::new(),
                options: TableOptions::default(),
            },
            created_millis: 0,
            epoch: Epoch(1),
            base: Origin(1),
            writing: Writing::Refuse,
            writers,
            writer: Origin(1),
            handed_over: None,
            settled: Default::default(),
        }));
        while store.commit_step() {}
        let table = store.table(TableId(257)).unwrap();
        let done = CopyDone {
            origin: Origin(9),
            epoch: Epoch(1),
            lsn: Lsn(lsn),
            hlc: hlc(lsn),
            vector: vec![Watermark { origin: Origin(1), lsn: Lsn(lsn), hlc: hlc(lsn) }],
            lives: Vec::new(),
            expiry: Vec::new(),
            made: None,
            settled: None,
            atomics: Default::default(),
            table: None,
            rules: None,
        };
        let start = EncodedKey::default();
        drop(table.replace_range(&start, None, rows, &[], Some(done), None));
        while store.commit_step() || store.digest_step() {}
        Region { store, table }
    }

    fn shared(&self, origin: u8, format: u32) -> Shared {
        Shared {
            store: self.store.clone(),
            clock: Arc::new(StoppedClock),
            safe_times: Arc::default(),
            standings: Arc::default(),
            put_backs: Arc::new(PutBacks::read(self.store.clone()).unwrap()),
            packed: Arc::default(),
            streams: Arc::default(),
            traces: Arc::new(Traces::new(Arc::new(StoppedClock), None, 0)),
            modes: Arc::new(Modes::new(Arc::new(StoppedClock))),
            hello: Hello {
                format,
                region: u32::from(origin),
                name: String::new(),
                instance: String::new(),
            },
            parcel_bytes_max: 1000,
            window_parcels: 3,
            offer_rows: 40,
        }
    }

    fn rows(&self) -> Vec<(EncodedKey, Row)> {
        let snapshot = self.table.snapshot().unwrap();
        let start = EncodedKey::default();
        snapshot.scan(&start, None, Direction::Forward).map(Result::unwrap).collect()
    }
}

/// Ships until nothing moves; gives how many rows and offers went over. The stream breaks after
/// so many chunks.
fn ship(from: &Region, to: &Region, format: u32, breaks_after: usize) -> (u64, usize) {
    let (mut rows, mut offers, mut chunks) = (0, 0, 0);
    let mut outbound = Outbound::new(from.shared(1, format), Origin(2));
    outbound.open(PARTITION, from.table.clone(), &Terms::default());
    let new = || Inbound::new(to.shared(2, FORMAT), Arc::new(Replica(to.table.clone())), PUSH);
    let mut inbound = new();
    outbound.connected(PUSH);
    loop {
        let mut moved = false;
        while let Some(frame) = outbound.poll(PUSH) {
            moved = true;
            match &frame.body {
                Some(Body::CopyChunk(chunk)) => {
                    rows += chunk.rows;
                    chunks += 1;
                }
                Some(Body::CopyOffer(_)) => offers += 1,
                _ => {}
            }
            inbound.receive(frame).unwrap();
        }
        moved |= to.store.commit_step();
        while let Poll::Ready(answer) = inbound.poll(&mut Context::from_waker(Waker::noop())) {
            moved = true;
            outbound.receive(PUSH, Frame::from(answer.body.unwrap())).unwrap();
        }
        if chunks == breaks_after {
            chunks += 1;
            outbound.disconnected(PUSH, "it broke");
            inbound = new();
            outbound.connected(PUSH);
            moved = true;
        }
        if !moved {
            break;
        }
    }
    let report = outbound.report(PARTITION).unwrap();
    let end = Some(from.table.durable_lsn());
    assert_eq!((report.state, report.acked), (State::Following, end), "{report:?}");
    (rows, offers)
}

fn row(value: i64, stamp: Stamp, is_dead: bool) -> Row {
    let mut row = Row { marker: (!is_dead).then_some(stamp), ..Row::default() };
    row.tombstone = is_dead.then_some(stamp);
    if !is_dead {
        let value = Some(Value::Integer(value));
        let cell = Cell { timestamp: Timestamp(value_time(stamp)), stamp, value };
        row.column_mut(&"v".into()).set(cell);
    }
    row
}

fn value_time(stamp: Stamp) -> i64 {
    stamp.hlc.millis()
}

fn key(number: u16) -> EncodedKey {
    EncodedKey(Bytes::copy_from_slice(&[&b"key "[..], &number.to_be_bytes()].concat()))
}

/// What the two sides have of a row.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Alike,
    Missing,
    Extra,
    Changed,
    New,
    Dead,
    LateDead,
}

fn kinds() -> impl Strategy<Value = Kind> {
    let kinds = [
        Kind::Alike,
        Kind::Missing,
        Kind::Extra,
        Kind::Changed,
        Kind::New,
        Kind::Dead,
        Kind::LateDead,
    ];
    (0usize..40).prop_map(move |at| kinds.get(at).copied().unwrap_or(Kind::Alike))
}

type Rows = Vec<(EncodedKey, Row)>;

fn sides(kinds: &[(u16, Kind)], many: bool) -> (Rows, Rows) {
    let old = |n: u16| Stamp { hlc: hlc(u64::from(n % 90)), origin: Origin(1) };
    let late = Stamp { hlc: hlc(500), origin: Origin(2) };
    let newer = Stamp { hlc: hlc(99), origin: Origin(1) };
    let (mut there, mut here) = (Rows::new(), Rows::new());
    for (number, kind) in kinds {
        let (key, base) = (key(*number), row(1, old(*number), false));
        let other = row(2, newer, false);
        let (a, b) = match kind {
            Kind::Alike => (Some(base.clone()), Some(base)),
            Kind::Missing => (Some(base), None),
            Kind::Extra => (None, Some(base)),
            Kind::Changed => (Some(other), Some(base)),
            // What the source has not heard of stays, with several writers.
            Kind::New => (Some(base), Some(row(3, late, false))),
            Kind::Dead if many => (Some(row(0, newer, true)), Some(base)),
            Kind::LateDead if many => (Some(base), Some(row(0, late, true))),
            Kind::Dead | Kind::LateDead => (None, Some(base)),
        };
        there.extend(a.map(|row| (key.clone(), row)));
        here.extend(b.map(|row| (key.clone(), row)));
    }
    (there, here)
}

fn check(kinds: &[(u16, Kind)], writers: Writers, breaks_after: usize) -> (u64, u64) {
    let (there, here) = sides(kinds, writers.are_many());
    let origin = Region::new(1, writers, there.clone(), 100);
    let full = Region::new(2, writers, here.clone(), 50);
    let some = Region::new(2, writers, here, 50);
    let (all_rows, none) = ship(&origin, &full, 1, breaks_after);
    let (some_rows, _) = ship(&origin, &some, FORMAT, breaks_after);
    assert_eq!(none, 0, "a peer of format 1 is offered nothing");
    assert_eq!(some.rows(), full.rows());
    if !writers.are_many() {
        assert_eq!(some.rows(), there);
    }
    let lanes = |region: &Region| region.table.digest_view().unwrap().tree().lanes();
    let sums = |region: &Region| -> Vec<_> {
        lanes(region).into_iter().map(|root| (root.lane, root.sum, root.rows)).collect()
    };
    assert_eq!(sums(&some), sums(&full));
    (some_rows, all_rows)
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(60))]

    #[test]
    fn copy_of_what_differs_gives_what_a_full_copy_gives(
        kinds in proptest::collection::btree_map(any::<u16>(), kinds(), 0..500),
        many: bool,
        breaks_after in 0usize..12,
    ) {
        let kinds: Vec<(u16, Kind)> = kinds.into_iter().collect();
        let writers = if many { Writers::ManyByColumn } else { Writers::One };
        let (some, all) = check(&kinds, writers, breaks_after);
        // A stream that breaks sends some again.
        prop_assert!(some <= all + 200);
    }
}

#[test]
fn only_rows_that_differ_go_over() {
    let kinds: Vec<(u16, Kind)> =
        (0..2000).map(|n| (n, if n % 100 == 7 { Kind::Changed } else { Kind::Alike })).collect();
    for writers in [Writers::One, Writers::ManyByRow] {
        assert_eq!(check(&kinds, writers, 1000), (20, 2000));
    }
}

#[test]
fn where_most_differs_all_goes_over() {
    let kinds: Vec<(u16, Kind)> = (0..500).map(|n| (n, Kind::Changed)).collect();
    assert_eq!(check(&kinds, Writers::One, 1000), (500, 500));
    let kinds: Vec<(u16, Kind)> = (0..500).map(|n| (n, Kind::Missing)).collect();
    assert_eq!(check(&kinds, Writers::One, 1000), (500, 500));
    let kinds: Vec<(u16, Kind)> = (0..500).map(|n| (n, Kind::Extra)).collect();
    assert_eq!(check(&kinds, Writers::One, 1000), (0, 0));
}

#[test]
fn link_whose_entries_are_trimmed_before_they_are_shipped_goes_on_with_a_copy() {
    let origin = Region::new(1, Writers::One, Rows::new(), 100);
    let replica = Region::new(2, Writers::One, Rows::new(), 100);
    let stamp = Stamp { hlc: hlc(101), origin: Origin(1) };
    let entry = Entry {
        lsn: Lsn(101),
        epoch: Epoch(1),
        stamp,
        origin_lsn: Lsn(101),
        schema: SchemaNumber(1),
        seen: None,
        tx: None,
        batch: None,
        body: EntryBody::Rows(vec![RowDelta { key: key(1), delta: row(1, stamp, false) }]),
    };
    // So much at once that trimming it is made durable without another write.
    let end = Lsn(10_000);
    drop(origin.table.apply(Origin(1), Epoch(1), Lsn(100), end, vec![entry]));
    while origin.store.commit_step() {}
    let mut outbound = Outbound::new(origin.shared(1, FORMAT), Origin(2));
    outbound.open(PARTITION, origin.table.clone(), &Terms::default());
    outbound.connected(PUSH);
    let assigned = Arc::new(Replica(replica.table.clone()));
    let mut inbound = Inbound::new(replica.shared(2, FORMAT), assigned, PUSH);
    while outbound.report(PARTITION).unwrap().state != State::Following {
        if let Some(frame) = outbound.poll(PUSH) {
            inbound.receive(frame).unwrap();
        }
        while let Poll::Ready(answer) = inbound.poll(&mut Context::from_waker(Waker::noop())) {
            outbound.receive(PUSH, answer).unwrap();
        }
    }
    drop(origin.table.trim_log(end));
    while origin.store.commit_step() {}
    let mut sent = std::iter::from_fn(|| outbound.poll(PUSH));
    assert!(sent.any(|frame| matches!(frame.body, Some(Body::CopyBegin(_)))));
}

#[test]
fn an_offer_is_answered_while_chunks_of_its_copy_wait_for_their_sync() {
    let kinds: Vec<(u16, Kind)> = (0..500).map(|n| (n, Kind::Alike)).collect();
    let (there, here) = sides(&kinds, false);
    let origin = Region::new(1, Writers::One, there, 100);
    let replica = Region::new(2, Writers::One, here, 50);
    let mut outbound = Outbound::new(origin.shared(1, FORMAT), Origin(2));
    outbound.open(PARTITION, origin.table.clone(), &Terms::default());
    outbound.connected(PUSH);
    let assigned = Arc::new(Replica(replica.table.clone()));
    let mut inbound = Inbound::new(replica.shared(2, FORMAT), assigned, PUSH);
    let (mut chunks, mut offers, mut answers, mut moved) = (0, 0, 0, true);
    while std::mem::take(&mut moved) {
        while let Some(frame) = outbound.poll(PUSH) {
            moved = true;
            offers += usize::from(matches!(frame.body, Some(Body::CopyOffer(_))));
            chunks += usize::from(matches!(frame.body, Some(Body::CopyChunk(_))));
            inbound.receive(frame).unwrap();
            // Only the first chunk is ever made durable.
            while chunks <= 1 && replica.store.commit_step() {}
        }
        while let Poll::Ready(answer) = inbound.poll(&mut Context::from_waker(Waker::noop())) {
            moved = true;
            answers += usize::from(matches!(answer.body, Some(Body::CopyWant(_))));
            outbound.receive(PUSH, answer).unwrap();
        }
    }
    assert_eq!((chunks, offers, answers), (4, 4, 4));
}

#[test]
fn peer_whose_link_is_stopped_tells_an_old_disk_by_its_own() {
    let here = Region::new(1, Writers::ManyByColumn, Vec::new(), 0);
    let peer = Region::new(2, Writers::ManyByColumn, Vec::new(), 7);
    let shared = here.shared(1, FORMAT);
    let put_backs = shared.put_backs.clone();
    let mut stopped = Outbound::new(shared.clone(), Origin(2));
    let terms = Terms { wish: Wish::Stop, ..Terms::default() };
    stopped.open(PARTITION, here.table.clone(), &terms);
    assert!(!put_backs.are_all_heard(PARTITION));
    let mut outbound = Outbound::new(peer.shared(2, FORMAT), Origin(1));
    outbound.open(PARTITION, peer.table.clone(), &Terms::default());
    outbound.connected(PUSH);
    let mut inbound = Inbound::new(shared, Arc::new(Replica(here.table.clone())), PUSH);
    while let Some(frame) = outbound.poll(PUSH) {
        inbound.receive(frame).unwrap();
    }
    assert!(put_backs.are_all_heard(PARTITION) && put_backs.is_put_back(PARTITION));
    while here.store.commit_step() {}
    assert!(here.table.durable_lsn() > Lsn(7), "no address is given twice");
    // All that is held there comes back over the same link.
    let mut answers = Vec::new();
    while let Poll::Ready(answer) = inbound.poll(&mut Context::from_waker(Waker::noop())) {
        answers.push(answer);
    }
    let asks = |answer: &Frame| matches!(&answer.body, Some(Body::Opened(it)) if it.incomplete);
    assert!(answers.iter().any(asks));
}

/// They may hold what no log has that this link brings.
#[test]
fn rows_that_another_feeder_had_begun_to_copy_are_told_of() {
    let origin = Region::new(1, Writers::One, Vec::new(), 0);
    let replica = Region::new(2, Writers::One, Vec::new(), 0);
    let told = |feeder: u32| {
        let progress = CopyProgress { first_lsn: 9, feeder, ..CopyProgress::default() };
        let note = copy_note(replica.table.spec().base, PARTITION);
        let value = if feeder == 0 { Vec::new() } else { progress.encode_to_vec() };
        drop(replica.store.put_note(&note, &value));
        while replica.store.commit_step() {}
        let mut outbound = Outbound::new(origin.shared(1, FORMAT), Origin(2));
        outbound.open(PARTITION, origin.table.clone(), &Terms::default());
        outbound.connected(PUSH);
        let assignments = Arc::new(Replica(replica.table.clone()));
        let mut inbound = Inbound::new(replica.shared(2, FORMAT), assignments, PUSH);
        while let Some(frame) = outbound.poll(PUSH) {
            inbound.receive(frame).unwrap();
        }
        let mut opened = None;
        while let Poll::Ready(answer) = inbound.poll(&mut Context::from_waker(Waker::noop())) {
            if let Some(Body::Opened(it)) = answer.body {
                opened = Some((it.has_past, it.copy.is_some()));
            }
        }
        opened.unwrap()
    };
    assert_eq!(told(0), (false, false), "none is under way");
    assert_eq!(told(3), (true, false));
    assert_eq!(told(1), (true, true));
}

#[test]
fn nothing_comes_from_a_peer_that_has_not_all_of_the_table_yet() {
    // The replica has deleted the row and forgotten it; the origin was not there.
    let stamp = Stamp { hlc: hlc(1), origin: Origin(1) };
    let origin = Region::new(1, Writers::ManyByColumn, vec![(key(1), row(1, stamp, false))], 100);
    let replica = Region::new(2, Writers::ManyByColumn, Vec::new(), 50);
    let mut outbound = Outbound::new(origin.shared(1, FORMAT), Origin(2));
    outbound.open(PARTITION, origin.table.clone(), &Terms::default());
    outbound.whole(PARTITION, false);
    outbound.connected(PUSH);
    let assigned = Arc::new(Replica(replica.table.clone()));
    let mut inbound = Inbound::new(replica.shared(2, FORMAT), assigned, PUSH);
    let mut ship = |outbound: &mut Outbound| exchange(outbound, &mut inbound, &replica);
    ship(&mut outbound);
    let report = outbound.report(PARTITION).unwrap();
    assert_eq!(report.state, State::Gap, "{report:?}");
    assert!(report.reason.contains("has not all of the table"), "{report:?}");
    assert_eq!(replica.rows(), []);
    // What it has once it is complete, the others lack.
    outbound.whole(PARTITION, true);
    ship(&mut outbound);
    assert_eq!(outbound.report(PARTITION).unwrap().state, State::Following);
    assert_eq!(replica.rows(), origin.rows());
}

/// Lets frames go both ways until nothing moves.
fn exchange(outbound: &mut Outbound, inbound: &mut Inbound, replica: &Region) {
    let mut moved = true;
    while std::mem::take(&mut moved) {
        while let Some(frame) = outbound.poll(PUSH) {
            moved = true;
            inbound.receive(frame).unwrap();
        }
        moved |= replica.store.commit_step();
        while let Poll::Ready(answer) = inbound.poll(&mut Context::from_waker(Waker::noop())) {
            moved = true;
            outbound.receive(PUSH, Frame::from(answer.body.unwrap())).unwrap();
        }
    }
}
