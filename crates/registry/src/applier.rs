//! Applies what is committed to the machine, and keeps its snapshot.
//!
//! The state lives in memory; on the disk are a snapshot and the log after it.

use std::io::Cursor;
use std::sync::Arc;

use openraft::storage::RaftStateMachine;
use openraft::{
    AnyError, EntryPayload, OptionalSend, RaftSnapshotBuilder, StorageIOError as IoError,
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::error::FileError;
use crate::file::{self, File, SNAPSHOT, SNAPSHOT_META, on_disk};
use crate::raft::{Entry, LogId, Membership, Reply, Snapshot, SnapshotMeta, StorageError, Types};
use crate::{Applied, Machine};

/// The bytes of a snapshot, JSON.
#[derive(Serialize, Deserialize)]
struct Stored<S> {
    state: S,
}

/// The machine of one member.
pub(crate) struct Applier<M: Machine> {
    own: u64,
    file: Arc<File>,
    state: Arc<M>,
    last: Option<LogId>,
    membership: Membership,
    applied: watch::Sender<Applied<M>>,
}

/// A state of the machine that is about to be kept.
pub(crate) struct Keeper<M: Machine> {
    file: Arc<File>,
    state: Arc<M>,
    meta: SnapshotMeta,
}

impl<M: Machine> Applier<M> {
    /// The machine as of the snapshot in the file.
    pub(crate) fn open(own: u64, file: Arc<File>) -> Result<Applier<M>, FileError> {
        let meta: Option<SnapshotMeta> = file.get(SNAPSHOT_META)?;
        let (state, last, membership) = match meta {
            None => (M::default(), None, Membership::default()),
            Some(meta) => {
                let bytes = file.bytes(SNAPSHOT)?.unwrap_or_default();
                let stored: Stored<M> = file::from_json(SNAPSHOT, &bytes)?;
                (stored.state, meta.last_log_id, meta.last_membership)
            }
        };
        let state = Arc::new(state);
        let index = last.map_or(0, |last| last.index);
        let applied = watch::Sender::new(Applied { index, state: state.clone() });
        Ok(Applier { own, file, state, last, membership, applied })
    }

    /// What is applied, after each change.
    pub(crate) fn watch(&self) -> watch::Receiver<Applied<M>> {
        self.applied.subscribe()
    }

    fn show(&self) {
        let index = self.last.map_or(0, |last| last.index);
        self.applied.send_replace(Applied { index, state: self.state.clone() });
    }
}

impl<M: Machine> RaftStateMachine<Types<M>> for Applier<M> {
    type SnapshotBuilder = Keeper<M>;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Membership), StorageError> {
        Ok((self.last, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Reply<M>>, StorageError>
    where
        I: IntoIterator<Item = Entry<M>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut replies = Vec::new();
        for entry in entries {
            let reply = match entry.payload {
                EntryPayload::Blank => Reply(None),
                EntryPayload::Normal(proposal) => {
                    let state = Arc::make_mut(&mut self.state);
                    Reply(Some(state.apply(entry.log_id.index, &proposal.command)))
                }
                EntryPayload::Membership(membership) => {
                    self.membership = Membership::new(Some(entry.log_id), membership);
                    Reply(None)
                }
            };
            self.last = Some(entry.log_id);
            replies.push(reply);
        }
        self.show();
        Ok(replies)
    }

    async fn get_snapshot_builder(&mut self) -> Keeper<M> {
        let last = self.last.map_or_else(String::new, |last| last.to_string());
        let meta = SnapshotMeta {
            last_log_id: self.last,
            last_membership: self.membership.clone(),
            snapshot_id: format!("{last}-{}", self.own),
        };
        Keeper { file: self.file.clone(), state: self.state.clone(), meta }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let bytes = snapshot.into_inner();
        let stored: Stored<M> = file::from_json(SNAPSHOT, &bytes)
            .map_err(|error| IoError::read_snapshot(None, AnyError::new(&error)))?;
        keep(&self.file, meta, bytes).await?;
        self.state = Arc::new(stored.state);
        self.last = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.show();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<M>>, StorageError> {
        let read = || {
            let Some(meta) = self.file.get(SNAPSHOT_META)? else { return Ok(None) };
            let bytes = self.file.bytes(SNAPSHOT)?.unwrap_or_default();
            Ok(Some(Snapshot { meta, snapshot: Box::new(Cursor::new(bytes)) }))
        };
        let found: Result<Option<Snapshot<M>>, FileError> = read();
        found.map_err(|error| IoError::read_snapshot(None, AnyError::new(&error)).into())
    }
}

impl<M: Machine> RaftSnapshotBuilder<Types<M>> for Keeper<M> {
    async fn build_snapshot(&mut self) -> Result<Snapshot<M>, StorageError> {
        let bytes = file::to_json(SNAPSHOT, &Stored { state: &*self.state })
            .map_err(|error| IoError::write_snapshot(None, AnyError::new(&error)))?;
        keep(&self.file, &self.meta, bytes.clone()).await?;
        Ok(Snapshot { meta: self.meta.clone(), snapshot: Box::new(Cursor::new(bytes)) })
    }
}

/// Keeps a snapshot on the disk, unless a newer one is there already.
async fn keep(file: &Arc<File>, meta: &SnapshotMeta, bytes: Vec<u8>) -> Result<(), StorageError> {
    let meta = meta.clone();
    let kept = on_disk(file, move |file| {
        file.write(|transaction| {
            let newest: Option<SnapshotMeta> = file::get_within(transaction, SNAPSHOT_META)?;
            if newest.is_some_and(|newest| newest.last_log_id > meta.last_log_id) {
                return Ok(());
            }
            file::put(transaction, SNAPSHOT_META, &meta)?;
            file::put_bytes(transaction, SNAPSHOT, &bytes)
        })
    })
    .await;
    kept.map_err(|error| IoError::write_snapshot(None, AnyError::new(&error)).into())
}
