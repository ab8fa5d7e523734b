//! Changes that are prepared here and whose entries are not applied yet.
//!
//! The writer of a table has other regions keep a change before it makes it. The entry it becomes
//! names the change, and applying the entry forgets the change, in one batch. Who holds what, and
//! takes what, is decided by [`Participant`].

use std::collections::BTreeMap;

use bytes::Bytes;
use isthmus_model::change::Direction;
use isthmus_model::commit::{Kept, Participant, Prepared, Refusal, TailChange, TxId};
use isthmus_model::ids::PartitionId;

use crate::engine::{BatchWrite, Snapshot, Space};
use crate::error::StoreError;
use crate::keys::partition::PartitionState;
use crate::keys::prepared;
use crate::limits::PREPARED_BYTES_MAX;

/// What a partition holds of them, as of the last accepted change.
#[derive(Debug, Default)]
pub(crate) struct PreparedChanges {
    pub(crate) participant: Participant,
    /// As whoever has them prepared wrote them.
    changes: BTreeMap<TxId, Bytes>,
    bytes: usize,
}

impl PreparedChanges {
    /// What a snapshot holds.
    pub(crate) fn read(
        snapshot: &dyn Snapshot,
        partition: PartitionId,
        state: &PartitionState,
    ) -> Result<PreparedChanges, StoreError> {
        let damaged = |source| StoreError::Corrupt { what: "prepared change", source };
        let (mut changes, mut bytes) = (BTreeMap::new(), 0);
        let (start, end) = prepared::range(partition);
        for pair in snapshot.scan(Space::Meta, &start, Some(&end), Direction::Forward) {
            let (key, value) = pair?;
            let (_, tx) = prepared::decode_key(&key).map_err(damaged)?;
            let change = prepared::decode_value(&value).map_err(damaged)?;
            bytes += change.len();
            changes.insert(tx, change);
        }
        let kept = Kept {
            promised: state.promised,
            settled: state.settled,
            whole: state.made.clone(),
            ..Kept::default()
        };
        let participant = Participant::restore(&kept, changes.keys().map(|tx| (*tx, 1)));
        Ok(PreparedChanges { participant, changes, bytes })
    }

    /// What is held, by name.
    pub(crate) fn list(&self) -> Vec<(TxId, Bytes)> {
        let one = |(tx, _)| Some((tx, self.changes.get(&tx)?.clone()));
        self.participant.prepared().filter_map(one).collect()
    }

    /// Takes a change; gives what is to be written.
    pub(crate) fn prepare(
        &mut self,
        partition: PartitionId,
        tx: TxId,
        change: Bytes,
    ) -> Result<Option<BatchWrite>, StoreError> {
        if self.bytes.saturating_add(change.len()) > PREPARED_BYTES_MAX {
            return Err(StoreError::Busy);
        }
        match self.participant.prepare(tx, 1).map_err(refused)? {
            Prepared::Known => return Ok(None),
            Prepared::New => {}
        }
        let value = Some(prepared::encode_value(&change));
        self.bytes += change.len();
        self.changes.insert(tx, change);
        let key = prepared::encode_key(partition, tx);
        Ok(Some(BatchWrite { space: Space::Meta, key, value }))
    }

    /// Takes again the changes of a tail, of which all are in the log so far: all of them, or none
    /// where there is no room. Gives what is to be written, and how many bytes of changes that is.
    pub(crate) fn prepare_again(
        &mut self,
        partition: PartitionId,
        tail: Vec<(TxId, Bytes)>,
    ) -> Option<(Vec<BatchWrite>, usize)> {
        let is_new = |(tx, _): &(TxId, Bytes)| !self.changes.contains_key(tx);
        let new: Vec<(TxId, Bytes)> = tail.into_iter().filter(is_new).collect();
        let bytes = new.iter().map(|(_, change)| change.len()).sum::<usize>();
        if self.bytes.saturating_add(bytes) > PREPARED_BYTES_MAX {
            return None;
        }
        let names = new.iter().map(|(tx, _)| TailChange { tx: *tx, done: 0, of: 1 });
        self.participant.prepare_again(names).ok()?;
        self.bytes += bytes;
        let mut writes = Vec::with_capacity(new.len());
        for (tx, change) in new {
            let value = Some(prepared::encode_value(&change));
            let key = prepared::encode_key(partition, tx);
            writes.push(BatchWrite { space: Space::Meta, key, value });
            self.changes.insert(tx, change);
        }
        Some((writes, bytes))
    }

    /// An entry is taken that a change has become; gives what is to be written.
    pub(crate) fn applied(&mut self, partition: PartitionId, tx: TxId) -> Option<BatchWrite> {
        self.participant.applied(tx, 1, 1).then(|| self.forget(partition, tx))
    }

    /// It is void, or in the rows; gives what is to be written.
    pub(crate) fn forget(&mut self, partition: PartitionId, tx: TxId) -> BatchWrite {
        let change = self.changes.remove(&tx);
        self.bytes -= change.map_or(0, |change| change.len());
        BatchWrite { space: Space::Meta, key: prepared::encode_key(partition, tx), value: None }
    }
}

/// In the store's words.
pub(crate) fn refused(refusal: Refusal) -> StoreError {
    match refusal {
        Refusal::Promised(term) | Refusal::Settled(term) => StoreError::Promised(term),
        Refusal::TooMany(_) => StoreError::Busy,
        Refusal::Parts(_) | Refusal::NotNext(_) | Refusal::Behind(_) => {
            StoreError::BadRange("it is not what was prepared before")
        }
    }
}
