//! The registry's file: vote, log and snapshot of one member, in an embedded store.
//!
//! What must hold: what `write` has returned from is on the disk, all or nothing. What `note`
//! wrote may be lost with the power, never in part, and never out of order with what is written
//! after it. `docs/formats.md` has what stands in it.

use std::path::Path;
use std::sync::Arc;

use parking_lot::RwLock;
use redb::{
    Builder, Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable,
    TableDefinition, WriteTransaction,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{FileError, RegistryError};
use crate::limits::CACHE_BYTES;

/// Name of the file in its directory.
pub(crate) const NAME: &str = "registry.redb";
/// Entries by index, JSON.
pub(crate) const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
/// Everything else by name, JSON but for the snapshot's own bytes.
pub(crate) const NOTES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("notes");

pub(crate) const MEMBER: &str = "member";
pub(crate) const VOTE: &str = "vote";
pub(crate) const COMMITTED: &str = "committed";
pub(crate) const PURGED: &str = "purged";
pub(crate) const SETTLED: &str = "settled";
pub(crate) const SNAPSHOT_META: &str = "snapshot-meta";
pub(crate) const SNAPSHOT: &str = "snapshot";

/// The file, until it is closed.
pub(crate) struct File {
    database: RwLock<Option<Database>>,
}

impl File {
    /// Opens the file in that directory, or makes it, for the member of that number.
    pub(crate) fn open(directory: &Path, own: u64) -> Result<Arc<File>, RegistryError> {
        std::fs::create_dir_all(directory).map_err(|source| RegistryError::Directory {
            directory: directory.to_owned(),
            source,
        })?;
        let path = directory.join(NAME);
        let failed = |source| RegistryError::File { file: path.clone(), source };
        let mut builder = Builder::new();
        builder.set_cache_size(CACHE_BYTES);
        let database = builder.create(&path).map_err(|error| failed(engine(error)))?;
        sync_directory(directory).map_err(|error| failed(engine(error)))?;
        let file = Arc::new(File::over(database));
        let found: Option<u64> = file.get(MEMBER).map_err(failed)?;
        match found {
            Some(found) if found != own => {
                return Err(RegistryError::OfAnother { file: path.clone(), found, own });
            }
            Some(_) => {}
            None => file.put(MEMBER, &own).map_err(failed)?,
        }
        Ok(file)
    }

    /// The file in that store.
    pub(crate) fn over(database: Database) -> File {
        File { database: RwLock::new(Some(database)) }
    }

    /// Lets go of the file when what is under way is done; from then on everything fails.
    pub(crate) fn close(&self) {
        *self.database.write() = None;
    }

    /// Reads at one moment.
    pub(crate) fn read<T>(
        &self,
        work: impl FnOnce(&ReadTransaction) -> Result<T, FileError>,
    ) -> Result<T, FileError> {
        let database = self.database.read();
        let database = database.as_ref().ok_or(FileError::Stopped)?;
        work(&database.begin_read().map_err(engine)?)
    }

    /// Writes all or nothing; it is on the disk when this returns.
    pub(crate) fn write(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<(), FileError>,
    ) -> Result<(), FileError> {
        self.commit(Durability::Immediate, work)
    }

    /// Writes all or nothing; it is on the disk after the next `write`.
    pub(crate) fn note<T: Serialize>(&self, name: &str, value: &T) -> Result<(), FileError> {
        self.commit(Durability::None, |transaction| put(transaction, name, value))
    }

    /// Writes one value; it is on the disk when this returns.
    pub(crate) fn put<T: Serialize>(&self, name: &str, value: &T) -> Result<(), FileError> {
        self.write(|transaction| put(transaction, name, value))
    }

    /// Reads one value.
    pub(crate) fn get<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, FileError> {
        let bytes = self.bytes(name)?;
        bytes.map(|bytes| from_json(name, &bytes)).transpose()
    }

    /// Reads one value as it is.
    pub(crate) fn bytes(&self, name: &str) -> Result<Option<Vec<u8>>, FileError> {
        self.read(|transaction| {
            let notes = match transaction.open_table(NOTES) {
                Ok(notes) => notes,
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
                Err(error) => return Err(engine(error)),
            };
            let found = notes.get(name).map_err(engine)?;
            Ok(found.map(|bytes| bytes.value().to_vec()))
        })
    }

    fn commit(
        &self,
        durability: Durability,
        work: impl FnOnce(&WriteTransaction) -> Result<(), FileError>,
    ) -> Result<(), FileError> {
        let database = self.database.read();
        let database = database.as_ref().ok_or(FileError::Stopped)?;
        let mut transaction = database.begin_write().map_err(engine)?;
        transaction.set_durability(durability).map_err(engine)?;
        work(&transaction)?;
        transaction.commit().map_err(engine)
    }
}

/// Does what waits for the disk where it holds up nobody.
pub(crate) async fn on_disk<T: Send + 'static>(
    file: &Arc<File>,
    work: impl FnOnce(&File) -> Result<T, FileError> + Send + 'static,
) -> Result<T, FileError> {
    let file = file.clone();
    let done = tokio::task::spawn_blocking(move || work(&file)).await;
    done.unwrap_or(Err(FileError::Stopped))
}

/// Reads a value as what is about to be written would leave it.
pub(crate) fn get_within<T: DeserializeOwned>(
    transaction: &WriteTransaction,
    name: &str,
) -> Result<Option<T>, FileError> {
    let notes = transaction.open_table(NOTES).map_err(engine)?;
    let found = notes.get(name).map_err(engine)?;
    found.map(|bytes| from_json(name, bytes.value())).transpose()
}

/// Puts a value into what is about to be written.
pub(crate) fn put<T: Serialize>(
    transaction: &WriteTransaction,
    name: &str,
    value: &T,
) -> Result<(), FileError> {
    put_bytes(transaction, name, &to_json(name, value)?)
}

/// Puts bytes into what is about to be written.
pub(crate) fn put_bytes(
    transaction: &WriteTransaction,
    name: &str,
    bytes: &[u8],
) -> Result<(), FileError> {
    let mut notes = transaction.open_table(NOTES).map_err(engine)?;
    notes.insert(name, bytes).map_err(engine)?;
    Ok(())
}

pub(crate) fn to_json<T: Serialize>(what: &str, value: &T) -> Result<Vec<u8>, FileError> {
    serde_json::to_vec(value).map_err(|error| damaged(what, &error))
}

pub(crate) fn from_json<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, FileError> {
    serde_json::from_slice(bytes).map_err(|error| damaged(what, &error))
}

pub(crate) fn engine(error: impl Into<redb::Error>) -> FileError {
    FileError::Engine(error.into().to_string())
}

fn damaged(what: &str, error: &serde_json::Error) -> FileError {
    FileError::Damaged { what: what.to_owned(), reason: error.to_string() }
}

/// A file that was just made is found again after the power was lost only if its directory says so.
fn sync_directory(directory: &Path) -> Result<(), redb::Error> {
    let opened = std::fs::File::open(directory).map_err(redb::Error::Io)?;
    opened.sync_all().map_err(redb::Error::Io)
}
