use std::io::Cursor;
use std::sync::Arc;

use openraft::storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine};
use openraft::testing::{StoreBuilder, Suite, blank_ent};
use openraft::{RaftLogReader, StorageIOError, Vote};
use parking_lot::Mutex;
use redb::backends::InMemoryBackend;
use redb::{Builder, Database, StorageBackend};

use super::Ledger;
use crate::applier::Applier;
use crate::error::RegistryError;
use crate::file::File;
use crate::log::{Log, Proposals};
use crate::raft::{StorageError, Types};

fn in_memory() -> Arc<File> {
    let database = Builder::new().create_with_backend(InMemoryBackend::new()).unwrap();
    Arc::new(File::over(database))
}

fn log(file: Arc<File>) -> Log<Ledger> {
    Log::new(1, file, Arc::<Proposals>::default())
}

struct InMemory;

impl StoreBuilder<Types<Ledger>, Log<Ledger>, Applier<Ledger>> for InMemory {
    async fn build(&self) -> Result<((), Log<Ledger>, Applier<Ledger>), StorageError> {
        let file = in_memory();
        let applier = Applier::open(1, file.clone());
        let applier =
            applier.map_err(|error| StorageIOError::read(openraft::AnyError::new(&error)))?;
        Ok(((), log(file), applier))
    }
}

#[test]
fn the_librarys_own_tests_of_a_store_pass() {
    Suite::test_all(InMemory).unwrap();
}

/// A disk that loses what was not synced.
#[derive(Clone, Debug, Default)]
struct Disk(Arc<Mutex<Platters>>);

#[derive(Debug, Default)]
struct Platters {
    seen: Vec<u8>,
    synced: Vec<u8>,
}

impl Disk {
    /// The disk after the power was lost.
    fn after_power_loss(&self) -> Disk {
        let synced = self.0.lock().synced.clone();
        Disk(Arc::new(Mutex::new(Platters { seen: synced.clone(), synced })))
    }

    fn open(&self) -> Database {
        Builder::new().create_with_backend(self.clone()).unwrap()
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64, std::io::Error> {
        Ok(self.0.lock().seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), std::io::Error> {
        let offset = offset as usize;
        out.copy_from_slice(&self.0.lock().seen[offset..offset + out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), std::io::Error> {
        self.0.lock().seen.resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> Result<(), std::io::Error> {
        let mut platters = self.0.lock();
        platters.synced = platters.seen.clone();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), std::io::Error> {
        let offset = offset as usize;
        self.0.lock().seen[offset..offset + data.len()].copy_from_slice(data);
        Ok(())
    }
}

#[tokio::test]
async fn what_is_said_to_be_kept_survives_a_loss_of_power() {
    let disk = Disk::default();
    let mut log = log(Arc::new(File::over(disk.open())));
    for index in 0..8 {
        let vote = Vote::new(index + 1, 2);
        log.save_vote(&vote).await.unwrap();
        log.blocking_append([blank_ent::<Types<Ledger>>(index + 1, 2, index)]).await.unwrap();

        let after = Arc::new(File::over(disk.after_power_loss().open()));
        let mut found = super::storage::log(after);
        assert_eq!(found.read_vote().await.unwrap(), Some(vote));
        assert_eq!(found.try_get_log_entries(..).await.unwrap().len() as u64, index + 1);
    }
    log.purge(openraft::testing::log_id(4, 2, 3)).await.unwrap();
    log.truncate(openraft::testing::log_id(8, 2, 7)).await.unwrap();
    let mut found = super::storage::log(Arc::new(File::over(disk.after_power_loss().open())));
    let left = found.try_get_log_entries(..).await.unwrap();
    assert_eq!(left.iter().map(|entry| entry.log_id.index).collect::<Vec<_>>(), [4, 5, 6]);
}

#[tokio::test]
async fn an_older_snapshot_does_not_take_the_place_of_a_newer_one() {
    let file = in_memory();
    let mut applier = Applier::<Ledger>::open(1, file.clone()).unwrap();
    let entry = |index| blank_ent::<Types<Ledger>>(1, 1, index);
    applier.apply([entry(0)]).await.unwrap();
    let mut old = applier.get_snapshot_builder().await;
    applier.apply([entry(1)]).await.unwrap();
    let mut new = applier.get_snapshot_builder().await;
    openraft::RaftSnapshotBuilder::build_snapshot(&mut new).await.unwrap();
    openraft::RaftSnapshotBuilder::build_snapshot(&mut old).await.unwrap();
    let kept = applier.get_current_snapshot().await.unwrap().unwrap();
    assert_eq!(kept.meta.last_log_id.unwrap().index, 1);
    let garbage = Box::new(Cursor::new(b"garbage".to_vec()));
    assert!(applier.install_snapshot(&kept.meta, garbage).await.is_err());
    assert_eq!(Applier::<Ledger>::open(1, file).unwrap().watch().borrow().index, 1);
}

#[test]
fn the_file_of_another_member_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    File::open(directory.path(), 1).unwrap().close();
    let other = File::open(directory.path(), 2);
    assert!(matches!(other, Err(RegistryError::OfAnother { found: 1, own: 2, .. })));
    let file = File::open(directory.path(), 1).unwrap();
    assert!(matches!(File::open(directory.path(), 1), Err(RegistryError::File { .. })));
    file.close();
    assert!(file.put("note", &1).is_err());
}
