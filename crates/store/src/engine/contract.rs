//! What every engine promises, as one suite that all of them run.
//!
//! Kept in the library, not in tests, so that an engine made elsewhere can run it too. A broken
//! promise is a panic with a sentence.

use std::sync::Arc;

use bytes::Bytes;
use isthmus_model::change::Direction;
use isthmus_model::ids::{Lsn, PartitionId};

use crate::engine::{Batch, Engine, EngineError, ScanRange, Snapshot, Space};
use crate::keys::{self, LogOf};

/// Runs everything. `open` makes an empty engine.
pub fn check(open: &dyn Fn() -> Arc<dyn Engine>) {
    check_open_engine(&*open());
    closed_engine_refuses(&*open());
    snapshot_outlives_writes_from_other_threads(open());
    get_many_shows_one_commit(open());
}

/// Runs all that leaves the engine open. It must be empty.
pub fn check_open_engine(engine: &dyn Engine) {
    batch_is_applied_in_order(engine);
    get_many_keeps_the_order_of_its_keys(engine);
    spaces_are_apart(engine);
    scan_is_bounded_and_ordered(engine);
    ranges_give_what_scans_of_each_give(engine);
    snapshot_shows_one_moment(engine);
    forgotten_log_goes_and_the_rest_stays(engine);
    dropped_partition_goes_and_others_stay(engine);
    assert!(engine.space_left().is_ok(), "space_left answers");
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn put(engine: &dyn Engine, space: Space, pairs: &[(&str, &str)]) {
    let mut batch = Batch::default();
    for (key, value) in pairs {
        batch.put(space, bytes(key), bytes(value));
    }
    engine.commit(batch).expect("a commit succeeds");
}

fn batch_is_applied_in_order(engine: &dyn Engine) {
    let mut batch = Batch::default();
    batch.put(Space::Meta, bytes("order"), bytes("1"));
    batch.delete(Space::Meta, bytes("order"));
    batch.put(Space::Meta, bytes("order"), bytes("2"));
    batch.put(Space::Meta, bytes("gone"), bytes("1"));
    batch.delete(Space::Meta, bytes("gone"));
    engine.commit(batch).expect("a commit succeeds");
    let value = engine.get(Space::Meta, b"order").expect("a read succeeds");
    assert_eq!(value, Some(bytes("2")), "the last write of a batch wins");
    let value = engine.get(Space::Meta, b"gone").expect("a read succeeds");
    assert_eq!(value, None, "a delete after a put wins");
    engine.commit(Batch::default()).expect("an empty batch is fine");
}

fn get_many_keeps_the_order_of_its_keys(engine: &dyn Engine) {
    put(engine, Space::Rows, &[("many/b", "b"), ("many/a", "a"), ("many/empty", "")]);
    let keys = ["many/b", "many/x", "many/a", "many/b", "many/empty"].map(bytes);
    let values = engine.get_many(Space::Rows, &keys).expect("a read succeeds");
    let expected = [Some("b"), None, Some("a"), Some("b"), Some("")].map(|v| v.map(bytes));
    assert_eq!(values, expected, "values come in the order of the keys");
    assert_eq!(engine.get_many(Space::Rows, &[]).expect("a read succeeds"), []);
}

fn get_many_shows_one_commit(engine: Arc<dyn Engine>) {
    // More than an engine might read at once.
    let keys: Vec<String> = (0..100).map(|number| format!("one/{number:03}")).collect();
    let asked: Vec<Bytes> = keys.iter().map(|key| bytes(key)).collect();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for count in 0..300 {
                let count = count.to_string();
                let pairs: Vec<(&str, &str)> =
                    keys.iter().map(|key| (key.as_str(), count.as_str())).collect();
                put(&*engine, Space::Rows, &pairs);
            }
        });
        while !writer.is_finished() {
            let values = engine.get_many(Space::Rows, &asked).expect("a read succeeds");
            let is_one = values.windows(2).all(|pair| pair[0] == pair[1]);
            assert!(is_one, "of a batch all values are seen or none: {values:?}");
        }
    });
}

fn spaces_are_apart(engine: &dyn Engine) {
    put(engine, Space::Rows, &[("apart", "rows")]);
    put(engine, Space::Meta, &[("apart", "meta")]);
    let get = |space| engine.get(space, b"apart").expect("a read succeeds");
    assert_eq!(get(Space::Rows), Some(bytes("rows")));
    assert_eq!(get(Space::Meta), Some(bytes("meta")));
    assert_eq!(get(Space::Log), None);
}

fn collect(
    snapshot: &dyn Snapshot,
    start: &str,
    end: Option<&str>,
    direction: Direction,
) -> Vec<String> {
    let end = end.map(str::as_bytes);
    let scan = snapshot.scan(Space::Meta, start.as_bytes(), end, direction);
    let text = |key: Bytes| String::from_utf8_lossy(&key).into_owned();
    scan.map(|pair| text(pair.expect("a scan succeeds").0)).collect()
}

fn scan_is_bounded_and_ordered(engine: &dyn Engine) {
    let names: Vec<String> = (0..300).map(|n| format!("scan/{n:03}")).collect();
    let pairs: Vec<(&str, &str)> = names.iter().map(|n| (n.as_str(), "v")).collect();
    put(engine, Space::Meta, &pairs);
    put(engine, Space::Meta, &[("scam", "before"), ("scan0", "after")]);
    let snapshot = engine.snapshot().expect("a snapshot succeeds");
    let forward = collect(&*snapshot, "scan/", Some("scan0"), Direction::Forward);
    assert_eq!(forward, names, "ascending, start inclusive, end exclusive");
    let mut backward = collect(&*snapshot, "scan/", Some("scan0"), Direction::Backward);
    backward.reverse();
    assert_eq!(backward, names, "descending gives the same keys");
    let some = collect(&*snapshot, "scan/010", Some("scan/012"), Direction::Backward);
    assert_eq!(some, ["scan/011", "scan/010"]);
    let open = collect(&*snapshot, "scan/299", None, Direction::Forward);
    assert_eq!(open, ["scan/299", "scan0"], "without an end it goes to the last key");
    for direction in [Direction::Forward, Direction::Backward] {
        let none = collect(&*snapshot, "scan/2", Some("scan/1"), direction);
        assert!(none.is_empty(), "a range that ends before it starts is empty");
        let none = collect(&*snapshot, "scan/1", Some("scan/1"), direction);
        assert!(none.is_empty(), "a range that ends where it starts is empty");
    }
}

fn ranges_give_what_scans_of_each_give(engine: &dyn Engine) {
    let names: Vec<String> = (0..300).map(|n| format!("ranges/{n:03}")).collect();
    let pairs: Vec<(&str, &str)> = names.iter().map(|n| (n.as_str(), "v")).collect();
    put(engine, Space::Meta, &pairs);
    let snapshot = engine.snapshot().expect("a snapshot succeeds");
    let cases: [&[(&str, &str)]; 6] = [
        &[],
        &[("ranges/010", "ranges/020"), ("ranges/020", "ranges/021"), ("ranges/250", "ranges0")],
        // Between keys, empty, and beyond all keys.
        &[
            ("ranges/0105", "ranges/0108"),
            ("ranges/0109", "ranges/012"),
            ("ranges/2995", "ranges0"),
        ],
        &[("ranges/05", "ranges/05"), ("ranges/050", "ranges/051"), ("ranges/051", "ranges/052")],
        &[("ranges", "ranges/"), ("ranges/", "ranges/001"), ("ranges/299", "ranges/3")],
        &[("ranges/1", "ranges/2")],
    ];
    for ranges in cases {
        let each = ranges
            .iter()
            .flat_map(|(start, end)| collect(&*snapshot, start, Some(end), Direction::Forward));
        let range =
            |(start, end): &(&str, &str)| ScanRange { start: bytes(start), end: bytes(end) };
        let scan = snapshot.scan_ranges(Space::Meta, ranges.iter().map(range).collect());
        let text = |key: Bytes| String::from_utf8_lossy(&key).into_owned();
        let all: Vec<String> = scan.map(|pair| text(pair.expect("a scan succeeds").0)).collect();
        assert_eq!(all, each.collect::<Vec<_>>(), "{ranges:?}");
        let mut visited = Vec::new();
        let mut visit = |key: &[u8], value: &[u8]| {
            assert_eq!(snapshot.get(Space::Meta, key), Ok(Some(Bytes::copy_from_slice(value))));
            visited.push(text(Bytes::copy_from_slice(key)));
        };
        let ranges = ranges.iter().map(range).collect();
        snapshot.visit_ranges(Space::Meta, ranges, &mut visit).expect("a visit succeeds");
        assert_eq!(visited, all);
    }
}

fn snapshot_shows_one_moment(engine: &dyn Engine) {
    put(engine, Space::Meta, &[("moment/a", "1"), ("moment/b", "1")]);
    let before = engine.snapshot().expect("a snapshot succeeds");
    let mut batch = Batch::default();
    batch.put(Space::Meta, bytes("moment/a"), bytes("2"));
    batch.delete(Space::Meta, bytes("moment/b"));
    batch.put(Space::Meta, bytes("moment/c"), bytes("2"));
    engine.commit(batch).expect("a commit succeeds");
    let after = engine.snapshot().expect("a snapshot succeeds");
    let get = |snapshot: &Arc<dyn Snapshot>, key: &str| {
        snapshot.get(Space::Meta, key.as_bytes()).expect("a read succeeds")
    };
    assert_eq!(get(&before, "moment/a"), Some(bytes("1")), "an older snapshot stays");
    assert_eq!(get(&after, "moment/a"), Some(bytes("2")));
    let keys =
        |s: &Arc<dyn Snapshot>| collect(&**s, "moment/", Some("moment0"), Direction::Forward);
    assert_eq!(keys(&before), ["moment/a", "moment/b"]);
    assert_eq!(keys(&after), ["moment/a", "moment/c"]);
    drop(before);
    assert_eq!(keys(&after), ["moment/a", "moment/c"]);
}

fn log_keys(engine: &dyn Engine, partition: PartitionId) -> Vec<Lsn> {
    let start = keys::log::encode_key(partition, Lsn(0));
    let end = keys::log::encode_key(partition, Lsn(u64::MAX));
    let snapshot = engine.snapshot().expect("a snapshot succeeds");
    let scan = snapshot.scan(Space::Log, &start, Some(&end), Direction::Forward);
    let lsn = |key: Bytes| keys::log::decode_key(&key).expect("a log key").1;
    scan.map(|pair| lsn(pair.expect("a scan succeeds").0)).collect()
}

fn put_log(engine: &dyn Engine, partition: PartitionId, lsns: impl Iterator<Item = u64>) {
    let mut batch = Batch::default();
    for lsn in lsns {
        batch.put(Space::Log, keys::log::encode_key(partition, Lsn(lsn)), bytes("record"));
    }
    engine.commit(batch).expect("a commit succeeds");
}

fn forgotten_log_goes_and_the_rest_stays(engine: &dyn Engine) {
    let (ours, other) = (PartitionId(70), PartitionId(71));
    put_log(engine, ours, 1..=100);
    put_log(engine, other, 1..=100);
    engine.forget_log(LogOf::Changes(ours), 60).expect("forgetting succeeds");
    engine.forget_log(LogOf::Changes(ours), 60).expect("forgetting twice is fine");
    let kept = log_keys(engine, ours);
    assert!(kept.ends_with(&(61..=100).map(Lsn).collect::<Vec<_>>()), "later records stay");
    assert_eq!(log_keys(engine, other).len(), 100, "other partitions keep theirs");
}

fn dropped_partition_goes_and_others_stay(engine: &dyn Engine) {
    let (ours, other) = (PartitionId(80), PartitionId(81));
    for partition in [ours, other] {
        put_log(engine, partition, 1..=10);
        let mut batch = Batch::default();
        for n in 0..10u8 {
            let key = isthmus_model::key::EncodedKey(Bytes::copy_from_slice(&[0xff, n]));
            batch.put(Space::Rows, keys::row::encode_key(partition, &key), bytes("row"));
        }
        engine.commit(batch).expect("a commit succeeds");
    }
    engine.drop_partition(ours).expect("dropping succeeds");
    engine.drop_partition(ours).expect("dropping twice is fine");
    let count = |partition| {
        let snapshot = engine.snapshot().expect("a snapshot succeeds");
        let in_space = |(space, start, end): (Space, Bytes, Bytes)| {
            snapshot.scan(space, &start, Some(&end), Direction::Forward).count()
        };
        keys::ranges_of_partition(partition).into_iter().map(in_space).sum::<usize>()
    };
    assert_eq!(count(ours), 0, "nothing of a dropped partition is left");
    assert_eq!(count(other), 20, "other partitions keep theirs");
}

fn closed_engine_refuses(engine: &dyn Engine) {
    put(engine, Space::Meta, &[("k", "v")]);
    let snapshot = engine.snapshot().expect("a snapshot succeeds");
    engine.close().expect("closing succeeds");
    engine.close().expect("closing twice is fine");
    assert_eq!(engine.commit(Batch::default()), Err(EngineError::Closed));
    assert_eq!(engine.get(Space::Meta, b"k"), Err(EngineError::Closed));
    let value = snapshot.get(Space::Meta, b"k").expect("a snapshot lives on");
    assert_eq!(value, Some(bytes("v")));
}

fn snapshot_outlives_writes_from_other_threads(engine: Arc<dyn Engine>) {
    put(&*engine, Space::Meta, &[("n/a", "0"), ("n/b", "0")]);
    let writer = {
        let engine = engine.clone();
        std::thread::spawn(move || {
            for n in 1..200 {
                let n = n.to_string();
                put(&*engine, Space::Meta, &[("n/a", &n), ("n/b", &n)]);
            }
        })
    };
    for _ in 0..100 {
        let snapshot = engine.snapshot().expect("a snapshot succeeds");
        let scan = snapshot.scan(Space::Meta, b"n/", Some(b"n0"), Direction::Forward);
        let values: Vec<Bytes> = scan.map(|pair| pair.expect("a scan succeeds").1).collect();
        assert_eq!(values[0], values[1], "a batch is seen whole or not at all");
    }
    writer.join().expect("the writer ends");
}
