//! Vote and log, as the Raft library wants them kept.
//!
//! What must hold: what is told to be kept is on the disk, and what was appended last is what is
//! read. Only this writes the log, one thing after the other.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::marker::PhantomData;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{
    AnyError, EntryPayload, LogState, OptionalSend, RaftLogReader, StorageIOError as IoError,
};
use parking_lot::Mutex;
use redb::{ReadableTable, WriteTransaction};

use crate::Machine;
use crate::error::FileError;
use crate::file::{self, COMMITTED, File, LOG, PURGED, VOTE, engine, on_disk};
use crate::limits::ENTRIES_BYTES;
use crate::raft::{Entry, LogId, StorageError, Types, Vote};

/// The proposals that were made here and wait for what comes of them, and whether each has got
/// into the log: one that has may be obeyed one day, whatever is said of it now.
#[derive(Default)]
pub(crate) struct Proposals {
    numbers: AtomicU64,
    waiting: Mutex<BTreeMap<u64, bool>>,
}

impl Proposals {
    /// Numbers a proposal.
    pub(crate) fn begin(&self) -> u64 {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        self.waiting.lock().insert(number, false);
        number
    }

    /// Whether it has got into the log until now. It is forgotten.
    pub(crate) fn end(&self, number: u64) -> bool {
        self.waiting.lock().remove(&number).unwrap_or(true)
    }

    fn appended(&self, number: u64) {
        if let Some(appended) = self.waiting.lock().get_mut(&number) {
            *appended = true;
        }
    }
}

/// Vote and log of one member.
pub(crate) struct Log<M> {
    own: u64,
    file: Arc<File>,
    proposals: Arc<Proposals>,
    machine: PhantomData<fn() -> M>,
}

impl<M> Clone for Log<M> {
    fn clone(&self) -> Log<M> {
        let (file, proposals) = (self.file.clone(), self.proposals.clone());
        Log { own: self.own, file, proposals, machine: PhantomData }
    }
}

impl<M: Machine> Log<M> {
    /// The log in that file.
    pub(crate) fn new(own: u64, file: Arc<File>, proposals: Arc<Proposals>) -> Log<M> {
        Log { own, file, proposals, machine: PhantomData }
    }

    /// Reads entries, no more than so many bytes but at least one.
    fn entries(
        &self,
        range: (Bound<u64>, Bound<u64>),
        bytes_max: usize,
    ) -> Result<Vec<Entry<M>>, FileError> {
        self.file.read(|transaction| {
            let log = match transaction.open_table(LOG) {
                Ok(log) => log,
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                Err(error) => return Err(engine(error)),
            };
            let (mut entries, mut bytes) = (Vec::new(), 0);
            for found in log.range::<u64>(range).map_err(engine)? {
                let (index, entry) = found.map_err(engine)?;
                bytes += entry.value().len();
                if bytes > bytes_max && !entries.is_empty() {
                    break;
                }
                entries.push(file::from_json(&format!("entry {}", index.value()), entry.value())?);
            }
            Ok(entries)
        })
    }

    fn state(&self) -> Result<LogState<Types<M>>, FileError> {
        let last_purged_log_id: Option<LogId> = self.file.get(PURGED)?;
        let last: Option<Entry<M>> = self.file.read(|transaction| {
            let log = match transaction.open_table(LOG) {
                Ok(log) => log,
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
                Err(error) => return Err(engine(error)),
            };
            let last = log.last().map_err(engine)?;
            last.map(|(_, entry)| file::from_json("the last entry", entry.value())).transpose()
        })?;
        let last_log_id = last.map(|entry| entry.log_id).or(last_purged_log_id);
        Ok(LogState { last_purged_log_id, last_log_id })
    }
}

impl<M: Machine> RaftLogReader<Types<M>> for Log<M> {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry<M>>, StorageError> {
        let range = (range.start_bound().cloned(), range.end_bound().cloned());
        self.entries(range, usize::MAX).map_err(|error| reading(&error))
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry<M>>, StorageError> {
        let range = (Bound::Included(start), Bound::Excluded(end));
        self.entries(range, ENTRIES_BYTES).map_err(|error| reading(&error))
    }
}

impl<M: Machine> RaftLogStorage<Types<M>> for Log<M> {
    type LogReader = Log<M>;

    async fn get_log_state(&mut self) -> Result<LogState<Types<M>>, StorageError> {
        self.state().map_err(|error| reading(&error))
    }

    async fn get_log_reader(&mut self) -> Log<M> {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let vote = *vote;
        let kept = on_disk(&self.file, move |file| file.put(VOTE, &vote)).await;
        kept.map_err(|error| IoError::write_vote(AnyError::new(&error)).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        let vote = self.file.get(VOTE);
        vote.map_err(|error| IoError::read_vote(AnyError::new(&error)).into())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        let kept = on_disk(&self.file, move |file| file.note(COMMITTED, &committed)).await;
        kept.map_err(|error| writing(&error))
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        let committed: Result<Option<Option<LogId>>, FileError> = self.file.get(COMMITTED);
        committed.map(Option::flatten).map_err(|error| reading(&error))
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<Types<M>>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry<M>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut packed = Vec::new();
        for entry in entries {
            let bytes = file::to_json("an entry", &entry).map_err(|error| writing(&error))?;
            packed.push((entry.log_id.index, bytes));
            // Said before it is kept: a write that fails may yet be found on the disk.
            if let EntryPayload::Normal(proposal) = &entry.payload
                && proposal.by == self.own
            {
                self.proposals.appended(proposal.number);
            }
        }
        let kept = on_disk(&self.file, move |file| {
            file.write(|transaction| {
                let mut log = transaction.open_table(LOG).map_err(engine)?;
                for (index, entry) in &packed {
                    log.insert(*index, entry.as_slice()).map_err(engine)?;
                }
                Ok(())
            })
        })
        .await;
        let told = kept.as_ref().copied().map_err(|error| std::io::Error::other(error.to_string()));
        callback.log_io_completed(told);
        kept.map_err(|error| writing(&error))
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let kept = on_disk(&self.file, move |file| {
            file.write(|transaction| remove(transaction, log_id.index..))
        })
        .await;
        kept.map_err(|error| writing(&error))
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let kept = on_disk(&self.file, move |file| {
            file.write(|transaction| {
                file::put(transaction, PURGED, &log_id)?;
                remove(transaction, ..=log_id.index)
            })
        })
        .await;
        kept.map_err(|error| writing(&error))
    }
}

fn remove(transaction: &WriteTransaction, range: impl RangeBounds<u64>) -> Result<(), FileError> {
    let mut log = transaction.open_table(LOG).map_err(engine)?;
    let range = (range.start_bound().cloned(), range.end_bound().cloned());
    log.retain_in::<u64, _>(range, |_, _| false).map_err(engine)
}

fn reading(error: &FileError) -> StorageError {
    IoError::read_logs(AnyError::new(error)).into()
}

fn writing(error: &FileError) -> StorageError {
    IoError::write_logs(AnyError::new(error)).into()
}
