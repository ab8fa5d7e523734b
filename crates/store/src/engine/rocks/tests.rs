//! The contract on a real disk, trimming, and what opening refuses.

use std::fs;

use bytes::Bytes;
use isthmus_model::change::Direction;
use isthmus_model::key::EncodedKey;
use tempfile::TempDir;

use super::*;
use crate::engine::contract;

fn small() -> RocksOptions {
    RocksOptions { memory_bytes: 16 << 20, ..RocksOptions::default() }
}

fn open(directory: &TempDir) -> Result<RocksEngine, EngineError> {
    RocksEngine::open(directory.path(), &small())
}

fn put(engine: &RocksEngine, space: Space, key: &[u8], value: &[u8]) {
    let mut batch = Batch::default();
    batch.put(space, Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
    engine.commit(batch).unwrap();
}

#[test]
fn keeps_the_contract() {
    let directories = parking_lot::Mutex::new(Vec::new());
    contract::check(&|| {
        let directory = tempfile::tempdir().unwrap();
        let engine = open(&directory).unwrap();
        directories.lock().push(directory);
        Arc::new(engine)
    });
}

#[test]
fn committed_batches_are_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let engine = open(&directory).unwrap();
    for n in 0..100u8 {
        put(&engine, Space::Rows, &[1, n], &vec![n; 20_000]);
    }
    engine.close().unwrap();
    drop(engine);
    let engine = open(&directory).unwrap();
    for n in 0..100u8 {
        assert_eq!(engine.get(Space::Rows, &[1, n]).unwrap().unwrap(), vec![n; 20_000]);
    }
}

#[test]
fn second_open_is_refused_and_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let first = open(&directory).unwrap();
    let error = open(&directory).err().unwrap();
    assert_eq!(error, EngineError::InUse(directory.path().to_path_buf()));
    assert!(error.to_string().contains("another process"));
    first.close().unwrap();
    open(&directory).unwrap();
}

#[test]
fn newer_format_is_refused_before_anything_is_touched() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("FORMAT"), "isthmus data 2\n").unwrap();
    assert!(matches!(open(&directory), Err(EngineError::Format { .. })));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn trimmed_records_go_when_files_are_merged() {
    let directory = tempfile::tempdir().unwrap();
    let engine = open(&directory).unwrap();
    let partition = PartitionId(5);
    for lsn in 1..=2000 {
        put(
            &engine,
            Space::Log,
            &keys::log::encode_key(partition, isthmus_model::ids::Lsn(lsn)),
            &[7; 100],
        );
    }
    engine.compact().unwrap();
    engine.forget_log(LogOf::Changes(partition), 1500).unwrap();
    engine.compact().unwrap();
    let [_, (space, start, end), ..] = keys::ranges_of_partition(partition);
    let snapshot = engine.snapshot().unwrap();
    assert_eq!(snapshot.scan(space, &start, Some(&end), Direction::Forward).count(), 500);
}

fn bytes_in(folder: &Path) -> u64 {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().metadata());
    files.filter_map(Result::ok).map(|file| file.len()).sum()
}

/// Tidies until the folder is as small, or it takes too long.
#[allow(clippy::disallowed_methods, reason = "waits for threads of RocksDB")]
fn tidied_to(engine: &RocksEngine, folder: &Path, bytes: u64) -> bool {
    for _ in 0..600 {
        engine.tidy_step().unwrap();
        if bytes_in(folder) <= bytes {
            return true;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    false
}

#[test]
fn what_was_deleted_and_trimmed_leaves_the_disk_although_nothing_more_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let engine = open(&directory).unwrap();
    let folder = directory.path().join(FOLDER);
    let (partition, small) = (PartitionId(5), 512 * 1024);
    let row =
        |n: u64| keys::row::encode_key(partition, &EncodedKey(n.to_be_bytes()[..].to_vec().into()));
    for part in 0..200u64 {
        let mut batch = Batch::default();
        for n in part * 100..(part + 1) * 100 {
            // What compresses would be small anyway.
            let value: Vec<u8> =
                (0..100u64).flat_map(|i| (n * 31 + i).wrapping_pow(7).to_le_bytes()).collect();
            batch.put(Space::Rows, row(n), value.into());
        }
        let lsn = isthmus_model::ids::Lsn(part + 1);
        batch.put(Space::Log, keys::log::encode_key(partition, lsn), vec![7; 1000].into());
        engine.commit(batch).unwrap();
    }
    assert!(bytes_in(&folder) > 10 * small);
    for part in 0..200 {
        let mut batch = Batch::default();
        (part * 100..(part + 1) * 100).for_each(|n| batch.delete(Space::Rows, row(n)));
        engine.commit(batch).unwrap();
    }
    engine.forget_log(LogOf::Changes(partition), 200).unwrap();
    assert!(tidied_to(&engine, &folder, small), "{} bytes are left", bytes_in(&folder));
}

/// The newest file of the write-ahead log, after a life that was cut off.
fn life_cut_off(directory: &TempDir, values: &[&[u8]]) -> PathBuf {
    let engine = open(directory).unwrap();
    for (n, value) in values.iter().enumerate() {
        put(&engine, Space::Rows, &[n as u8], value);
    }
    // Copied while open, as a power cut would leave it: closing would tidy up.
    let folder = directory.path().join(FOLDER);
    let copy = directory.path().join("copy");
    fs::create_dir_all(&copy).unwrap();
    for entry in fs::read_dir(&folder).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    drop(engine);
    fs::remove_dir_all(&folder).unwrap();
    fs::rename(&copy, &folder).unwrap();
    let mut logs: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "log"))
        .collect();
    logs.sort();
    logs.pop().unwrap()
}

fn rows(engine: &RocksEngine) -> Vec<u8> {
    let snapshot = engine.snapshot().unwrap();
    let scan = snapshot.scan(Space::Rows, &[], None, Direction::Forward);
    scan.map(|pair| pair.unwrap().0[0]).collect()
}

#[test]
fn torn_end_of_the_log_is_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let large = vec![9u8; 100_000];
    let log = life_cut_off(&directory, &[b"a", b"b", &large]);
    let whole = fs::read(&log).unwrap();
    // Cut short; and of full length, with zeros where the disk had not got to.
    for (cut, zeros) in [(50_000, false), (3, false), (50_000, true), (3, true), (99_999, true)] {
        let mut bytes = whole[..whole.len() - cut].to_vec();
        if zeros {
            bytes.resize(whole.len(), 0);
        }
        fs::write(&log, &bytes).unwrap();
        let kept = fs::read_dir(directory.path().join(FOLDER)).unwrap().count();
        let saved = tempfile::tempdir().unwrap();
        copy_tree(directory.path(), saved.path());
        let engine = open(&saved).unwrap();
        assert_eq!(rows(&engine), [0, 1], "cut {cut}, zeros {zeros}, {kept} files");
    }
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn damage_before_the_end_of_the_log_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let log = life_cut_off(&directory, &[&[1; 5000], &[2; 5000], &[3; 5000]]);
    let whole = fs::read(&log).unwrap();
    let second = whole.windows(100).position(|w| w == [2; 100]).unwrap();
    let mut bytes = whole.clone();
    bytes[second + 10] ^= 1;
    fs::write(&log, &bytes).unwrap();
    let error = open(&directory).err().unwrap();
    assert!(matches!(error, EngineError::Corrupt(_)), "{error}");
    assert!(error.to_string().contains("another region"), "{error}");
}
