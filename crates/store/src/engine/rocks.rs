//! The engine on disk: RocksDB, one database per node, a column family per space.
//!
//! A commit is one write batch and one sync of the write-ahead log. Memory is bounded by one cache
//! for blocks, indexes and write buffers together. The log is trimmed by dropping whole files and
//! by a filter when files are merged, never by range tombstones, which readers would trip over.
//!
//! After a power cut the last, torn record of the write-ahead log is dropped: it was never
//! acknowledged. Damage before it is refused (`wal.rs`): dropping it would lose what was.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use isthmus_model::ids::PartitionId;
use parking_lot::RwLock;
use rocksdb::{ColumnFamily, DB, DBPinnableSlice, ErrorKind, WriteBatch, WriteOptions};

use crate::engine::rocks::snapshot::RocksSnapshot;
use crate::engine::rocks::tidy::Tidying;
use crate::engine::rocks::trim::Trims;
use crate::engine::{Batch, Engine, EngineError, Snapshot, Space, format};
use crate::keys::{self, LogOf};

mod options;
mod snapshot;
mod tidy;
mod trim;
mod wal;

pub use options::RocksOptions;

/// Name of the database's folder in the data directory.
const FOLDER: &str = "rocks";

/// Keeps bytes on disk.
pub struct RocksEngine {
    directory: PathBuf,
    /// `None` once closed.
    db: RwLock<Option<Arc<DB>>>,
    trims: Arc<Trims>,
    tidying: Tidying,
    sync: WriteOptions,
}

impl RocksEngine {
    /// Opens a data directory, or makes one. Refuses one of a newer format, one that is not ours,
    /// one that is in use and one whose write-ahead log is damaged before its end.
    pub fn open(directory: &Path, options: &RocksOptions) -> Result<RocksEngine, EngineError> {
        format::prepare(directory)?;
        let folder = directory.join(FOLDER);
        let trims = Arc::new(Trims::default());
        let strict = options::open(&folder, options, &trims, options::Tail::Strict);
        let db = match strict {
            Err(error) if error.kind() == ErrorKind::Corruption => {
                wal::check_torn_tail(&folder, error.as_ref())?;
                tracing::warn!(%error, "dropping a torn record at the end of the log");
                options::open(&folder, options, &trims, options::Tail::Torn)
            }
            opened => opened,
        };
        let db = db.map_err(|error| open_error(directory, &error))?;
        let mut sync = WriteOptions::default();
        sync.set_sync(true);
        Ok(RocksEngine {
            directory: directory.to_path_buf(),
            db: RwLock::new(Some(Arc::new(db))),
            trims,
            tidying: Tidying::default(),
            sync,
        })
    }

    fn db(&self) -> Result<Arc<DB>, EngineError> {
        self.db.read().clone().ok_or(EngineError::Closed)
    }

    /// Writes all memory to files and merges everything, so that what was trimmed is gone now.
    /// Slow; for tests and maintenance.
    pub fn compact(&self) -> Result<(), EngineError> {
        let db = self.db()?;
        for space in Space::ALL {
            let family = family(&db, space)?;
            db.flush_cf(family).map_err(|error| failed(&error))?;
            db.compact_range_cf(family, None::<&[u8]>, None::<&[u8]>);
        }
        Ok(())
    }
}

fn family_name(space: Space) -> &'static str {
    match space {
        Space::Rows => "rows",
        Space::Log => "log",
        Space::Meta => "meta",
    }
}

fn family(db: &DB, space: Space) -> Result<&ColumnFamily, EngineError> {
    let name = family_name(space);
    db.cf_handle(name).ok_or_else(|| EngineError::Corrupt(format!("no column family {name}")))
}

fn failed(error: &rocksdb::Error) -> EngineError {
    let text = error.to_string();
    match error.kind() {
        ErrorKind::Corruption => EngineError::Corrupt(text),
        ErrorKind::IOError if text.contains("No space left") => EngineError::Full,
        _ => EngineError::Failed(text),
    }
}

fn open_error(directory: &Path, error: &rocksdb::Error) -> EngineError {
    let text = error.to_string();
    if error.kind() == ErrorKind::IOError && text.to_lowercase().contains("lock") {
        return EngineError::InUse(directory.to_path_buf());
    }
    failed(error)
}

fn shared(value: Option<DBPinnableSlice<'_>>) -> Option<Bytes> {
    value.map(|slice| Bytes::copy_from_slice(&slice))
}

impl Engine for RocksEngine {
    fn commit(&self, batch: Batch) -> Result<(), EngineError> {
        let db = self.db()?;
        let mut writes = WriteBatch::default();
        for write in batch.writes() {
            let family = family(&db, write.space)?;
            match &write.value {
                Some(value) => writes.put_cf(family, &write.key, value),
                None => writes.delete_cf(family, &write.key),
            }
        }
        self.tidying.wrote(batch.size());
        // Whether a failed sync has kept the batch, nobody knows: never "full, not applied".
        db.write_opt(writes, &self.sync).map_err(|error| EngineError::Failed(error.to_string()))
    }

    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let db = self.db()?;
        let value = db.get_pinned_cf(family(&db, space)?, key).map_err(|error| failed(&error))?;
        Ok(shared(value))
    }

    fn get_many(&self, space: Space, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, EngineError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let db = self.db()?;
        let values = db.batched_multi_get_cf(family(&db, space)?, keys, keys.is_sorted());
        let value = |value: Result<Option<DBPinnableSlice<'_>>, rocksdb::Error>| {
            value.map(shared).map_err(|error| failed(&error))
        };
        values.into_iter().map(value).collect()
    }

    fn snapshot(&self) -> Result<Arc<dyn Snapshot>, EngineError> {
        Ok(Arc::new(RocksSnapshot::new(self.db()?)))
    }

    fn forget_log(&self, log: LogOf, through: u64) -> Result<(), EngineError> {
        let db = self.db()?;
        self.trims.set(log, through);
        if through == 0 {
            return Ok(());
        }
        self.tidying.trimmed();
        let (start, end) = (log.encode_key(0), log.encode_key(through));
        // The end is inclusive. Only files that lie wholly within go; the filter does the rest.
        db.delete_file_in_range_cf(family(&db, Space::Log)?, start, end)
            .map_err(|error| failed(&error))
    }

    fn drop_partition(&self, partition: PartitionId) -> Result<(), EngineError> {
        let db = self.db()?;
        for (space, start, end) in keys::ranges_of_partition(partition) {
            let family = family(&db, space)?;
            let mut writes = WriteBatch::default();
            // One tombstone per dropped table: its range is never read or written again.
            writes.delete_range_cf(family, &start, &end);
            db.write_opt(writes, &self.sync).map_err(|error| failed(&error))?;
            db.delete_file_in_range_cf(family, &start, &end).map_err(|error| failed(&error))?;
        }
        self.trims.clear(LogOf::Changes(partition));
        self.trims.clear(LogOf::Digest(partition));
        Ok(())
    }

    fn space_left(&self) -> Result<u64, EngineError> {
        let found = rustix::fs::statvfs(&self.directory);
        let found = found.map_err(|error| EngineError::Failed(format!("statvfs: {error}")))?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }

    fn close(&self) -> Result<(), EngineError> {
        if let Some(db) = self.db.write().take() {
            // Snapshots may live on; the lock of the directory goes with the last of them.
            db.cancel_all_background_work(true);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
