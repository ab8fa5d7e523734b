//! The store on a real disk: restarts, and many threads at once.

use std::path::Path;

use isthmus_model::clock::SystemClock;

use super::*;
use crate::engine::rocks::{RocksEngine, RocksOptions};

fn open_disk(path: &Path) -> Arc<Store> {
    let options = RocksOptions { memory_bytes: 64 << 20, ..RocksOptions::default() };
    let engine = Arc::new(RocksEngine::open(path, &options).unwrap());
    open(engine, Arc::new(SystemClock), Origin(1))
}

#[test]
fn tables_rows_and_logs_are_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_disk(directory.path());
    make_table(&store, Writers::One, Writing::Accept);
    let table = store.table(TABLE).unwrap();
    let mut pending = table.write((0..100).map(|n| put(n, n)).collect(), false);
    while store.commit_step() {}
    assert!(pending.try_take().unwrap().unwrap().iter().all(Result::is_ok));
    let (before, log) = (rows(&table), entries_after(&table, Lsn(0)));
    store.close().unwrap();
    drop((store, table));
    let store = open_disk(directory.path());
    let table = store.table(TABLE).unwrap();
    assert_eq!(rows(&table), before);
    assert_eq!(entries_after(&table, Lsn(0)), log);
    assert_eq!(log.len(), 100);
    let drop = store.drop_table(TABLE);
    while store.commit_step() {}
    drop.wait().unwrap();
    assert!(table.get(&key(5).encode()).unwrap().is_none());
}

#[test]
#[allow(clippy::disallowed_methods, reason = "measures real time")]
fn threads_share_commits_and_each_sees_its_own_answers() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_disk(directory.path());
    make_table(&store, Writers::One, Writing::Accept);
    let committer = {
        let store = store.clone();
        std::thread::spawn(move || store.run_committer())
    };
    let (threads, rounds) = (16, 150);
    let start = std::time::Instant::now();
    let writers: Vec<_> = (0..threads)
        .map(|thread| {
            let table = store.table(TABLE).unwrap();
            std::thread::spawn(move || {
                for round in 0..rounds {
                    let changes = vec![increment(0), put(1 + thread, round)];
                    let results = table.write(changes, false).wait().unwrap();
                    assert!(results.iter().all(Result::is_ok));
                    let row = table.get(&key(1 + thread).encode()).unwrap();
                    assert_eq!(integer(row.as_ref(), "v"), Some(round));
                }
            })
        })
        .collect();
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    let elapsed = start.elapsed();
    let table = store.table(TABLE).unwrap();
    let row = table.get(&key(0).encode()).unwrap();
    assert_eq!(integer(row.as_ref(), "n"), Some(threads * rounds));
    assert_eq!(table.durable_lsn(), Lsn(2 * (threads * rounds) as u64));
    println!("{} changes in {elapsed:?}", 2 * threads * rounds);
    store.stop();
    committer.join().unwrap();
    store.close().unwrap();
}

/// Not a benchmark, but tells when something has become slow by a factor.
#[test]
#[allow(clippy::disallowed_methods, reason = "measures real time")]
fn groups_of_rows_are_written_at_speed() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_disk(directory.path());
    make_table(&store, Writers::One, Writing::Accept);
    let table = store.table(TABLE).unwrap();
    let row = |n: i64| {
        let cells = (0..10).map(|c| CellWrite {
            name: Text::from(format!("column{c}")),
            value: Value::String(Text::from(format!("{n:0100}"))),
            timestamp: None,
        });
        change(n, RowAction::Put(cells.collect()))
    };
    let batches: Vec<Vec<CheckedChange>> =
        (0..100).map(|b| (0..200).map(|n| row(b * 200 + n)).collect()).collect();
    let start = std::time::Instant::now();
    let (mut accepting, mut committing) = (Duration::ZERO, Duration::ZERO);
    let mut pending = Vec::new();
    for batch in batches {
        let begun = std::time::Instant::now();
        pending.push(table.write(batch, false));
        accepting += begun.elapsed();
        let begun = std::time::Instant::now();
        store.commit_step();
        committing += begun.elapsed();
    }
    for one in &mut pending {
        assert!(one.try_take().unwrap().unwrap().iter().all(Result::is_ok));
    }
    println!("20000 rows of 1 KiB: {:?}: {accepting:?} + {committing:?}", start.elapsed());
}
