//! What a partition keeps of batches that are made in several partitions or in none: its intents,
//! and what it has decided. Which rules these keep is said in [`isthmus_model::atomic`].
//!
//! Intents lock rows for writers until the entry that ends them is accepted, since what comes next
//! is judged on it; for readers until it is durable, since they see nothing before that.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use isthmus_model::atomic::{BatchId, Intent, Locks};
use isthmus_model::change::Direction;
use isthmus_model::hlc::Hlc;
use isthmus_model::ids::PartitionId;
use isthmus_model::key::EncodedKey;

use crate::codec::Corrupt;
use crate::engine::{BatchWrite, Snapshot, Space};
use crate::error::StoreError;
use crate::keys::decided::Decided;
use crate::keys::{decided, intent};

/// All of it, as a copy brings it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AtomicState {
    /// Intents, with the moments of their entries.
    pub intents: Vec<(Intent, Hlc)>,
    /// Batches that are decided.
    pub decided: Vec<(BatchId, Decided)>,
}

/// How much there is of it, to be looked at without a lock.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Intents whose rows are locked for readers.
    locking: AtomicUsize,
    decided: AtomicUsize,
}

/// Intents whose rows are locked for readers, of all partitions of a store.
pub(crate) type Total = Arc<AtomicUsize>;

impl Counts {
    pub(crate) fn locking(&self) -> usize {
        self.locking.load(Ordering::Acquire)
    }

    pub(crate) fn all(&self) -> usize {
        self.locking() + self.decided.load(Ordering::Acquire)
    }
}

/// What a partition keeps of batches, as of the last accepted change.
#[derive(Debug, Default)]
pub(crate) struct Atomics {
    pub(crate) locks: Locks,
    intents: BTreeMap<BatchId, (Intent, Hlc)>,
    /// Bytes of what is asked for in them.
    bytes: usize,
    decided: BTreeMap<BatchId, Decided>,
    /// Rows whose intents ended in groups that are not durable.
    ending: Vec<(u64, Vec<EncodedKey>)>,
    counts: Arc<Counts>,
    total: Total,
}

impl Atomics {
    /// What a snapshot holds.
    pub(crate) fn read(
        snapshot: &dyn Snapshot,
        partition: PartitionId,
    ) -> Result<Atomics, StoreError> {
        let mut atomics = Atomics::default();
        let AtomicState { intents, decided } = read_state(snapshot, partition)?;
        for (intent, since) in intents {
            atomics.hold(intent, since);
        }
        atomics.decided.extend(decided);
        atomics.count();
        Ok(atomics)
    }

    /// How much there is, for whoever has no lock.
    pub(crate) fn counts(&self) -> Arc<Counts> {
        self.counts.clone()
    }

    /// Counts them in the store's total, too.
    pub(crate) fn count_in(&mut self, total: Total) {
        total.fetch_add(self.counts.locking(), Ordering::AcqRel);
        self.total = total;
    }

    /// The partition goes, and its intents with it.
    pub(crate) fn leave(&mut self) {
        *self = Atomics {
            counts: self.counts.clone(),
            total: self.total.clone(),
            ..Atomics::default()
        };
        self.count();
    }

    fn count(&self) {
        let locking = self.locks.len() + self.ending.len();
        let before = self.counts.locking.swap(locking, Ordering::AcqRel);
        // Never less than there are.
        self.total.fetch_add(locking, Ordering::AcqRel);
        self.total.fetch_sub(before, Ordering::AcqRel);
        self.counts.decided.store(self.decided.len(), Ordering::Release);
    }

    fn hold(&mut self, intent: Intent, since: Hlc) {
        self.locks.take(intent.id, &intent.keys);
        self.bytes += intent.request.len();
        self.intents.insert(intent.id, (intent, since));
    }

    /// Bytes of what is asked for in intents.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn intent(&self, id: BatchId) -> Option<&(Intent, Hlc)> {
        self.intents.get(&id)
    }

    pub(crate) fn intents(&self) -> impl Iterator<Item = &(Intent, Hlc)> {
        self.intents.values()
    }

    pub(crate) fn decided(&self) -> &BTreeMap<BatchId, Decided> {
        &self.decided
    }

    /// Whether a row is locked for readers.
    pub(crate) fn hides(&self, key: &EncodedKey) -> bool {
        let ends = |(_, keys): &(u64, Vec<EncodedKey>)| keys.contains(key);
        self.locks.holder(key).is_some() || self.ending.iter().any(ends)
    }

    /// Whether a row between those is locked for readers.
    pub(crate) fn hides_between(&self, start: &EncodedKey, end: Option<&EncodedKey>) -> bool {
        let is_inside = |key: &EncodedKey| key >= start && end.is_none_or(|end| key < end);
        let ends = |(_, keys): &(u64, Vec<EncodedKey>)| keys.iter().any(is_inside);
        self.locks.any_between(start, end) || self.ending.iter().any(ends)
    }

    /// Takes an intent; gives what is to be written.
    pub(crate) fn take(
        &mut self,
        partition: PartitionId,
        intent: Intent,
        since: Hlc,
    ) -> Option<BatchWrite> {
        if self.locks.has(intent.id) {
            return None;
        }
        let key = intent::encode_key(partition, intent.id);
        let value = Some(intent::encode_value(&intent, since));
        self.hold(intent, since);
        self.count();
        Some(BatchWrite { space: Space::Meta, key, value })
    }

    /// An intent ends with the group of that number; gives what is to be written.
    pub(crate) fn end(
        &mut self,
        partition: PartitionId,
        id: BatchId,
        group: u64,
    ) -> Option<BatchWrite> {
        let keys = self.locks.end(id)?;
        let (intent, _) = self.intents.remove(&id)?;
        self.bytes -= intent.request.len();
        self.ending.push((group, keys));
        self.count();
        let key = intent::encode_key(partition, id);
        Some(BatchWrite { space: Space::Meta, key, value: None })
    }

    /// Groups through this one are durable.
    pub(crate) fn durable_through(&mut self, group: u64) {
        if !self.ending.is_empty() {
            self.ending.retain(|(ended, _)| *ended > group);
            self.count();
        }
    }

    /// A batch is decided; gives what is to be written.
    pub(crate) fn decide(
        &mut self,
        partition: PartitionId,
        id: BatchId,
        decided: Decided,
    ) -> BatchWrite {
        let key = decided::encode_key(partition, id);
        let value = Some(decided::encode_value(&decided));
        self.decided.insert(id, decided);
        self.count();
        BatchWrite { space: Space::Meta, key, value }
    }

    /// All members have settled a batch; gives what is to be written.
    pub(crate) fn forget(&mut self, partition: PartitionId, id: BatchId) -> Option<BatchWrite> {
        self.decided.remove(&id)?;
        self.count();
        let key = decided::encode_key(partition, id);
        Some(BatchWrite { space: Space::Meta, key, value: None })
    }

    /// What another region has takes the place of what is here; gives what is to be written.
    pub(crate) fn replace(
        &mut self,
        partition: PartitionId,
        new: AtomicState,
        group: u64,
    ) -> Vec<BatchWrite> {
        let ended: Vec<BatchId> = self.intents.keys().copied().collect();
        let forgotten: Vec<BatchId> = self.decided.keys().copied().collect();
        let mut writes = Vec::new();
        writes.extend(ended.into_iter().filter_map(|id| self.end(partition, id, group)));
        writes.extend(forgotten.into_iter().filter_map(|id| self.forget(partition, id)));
        for (intent, since) in new.intents {
            writes.extend(self.take(partition, intent, since));
        }
        for (id, decided) in new.decided {
            writes.push(self.decide(partition, id, decided));
        }
        writes
    }
}

/// What a snapshot holds of batches of a partition.
pub(crate) fn read_state(
    snapshot: &dyn Snapshot,
    partition: PartitionId,
) -> Result<AtomicState, StoreError> {
    let pairs = |(start, end): (Bytes, Bytes)| {
        snapshot.scan(Space::Meta, &start, Some(&end), Direction::Forward)
    };
    let mut state = AtomicState::default();
    for pair in pairs(intent::range(partition)) {
        let (_, value) = pair?;
        let read = intent::decode_value(&value).map_err(StoreError::corrupt("intent"))?;
        state.intents.push(read);
    }
    for pair in pairs(decided::range(partition)) {
        let (key, value) = pair?;
        let damaged = StoreError::corrupt("batch that is decided");
        let (_, id) = decided::decode_key(&key).map_err(damaged)?;
        let damaged = StoreError::corrupt("batch that is decided");
        state.decided.push((id, decided::decode_value(&value).map_err(damaged)?));
    }
    Ok(state)
}

impl AtomicState {
    /// As it goes to another region: the intents; batches that are decided, by their keys.
    pub fn encode(&self, partition: PartitionId) -> (Vec<Bytes>, Vec<(Bytes, Bytes)>) {
        let intents =
            self.intents.iter().map(|(intent, since)| intent::encode_value(intent, *since));
        let decided = self.decided.iter().map(|(id, decided)| {
            (decided::encode_key(partition, *id), decided::encode_value(decided))
        });
        (intents.collect(), decided.collect())
    }

    /// What `encode` made.
    pub fn decode(
        intents: &[Bytes],
        decided: impl IntoIterator<Item = (Bytes, Bytes)>,
    ) -> Result<AtomicState, Corrupt> {
        let decided = decided.into_iter().map(|(key, value)| {
            let (_, id) = decided::decode_key(&key)?;
            Ok((id, decided::decode_value(&value)?))
        });
        Ok(AtomicState {
            intents: intents.iter().map(intent::decode_value).collect::<Result<_, _>>()?,
            decided: decided.collect::<Result<_, _>>()?,
        })
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.intents.is_empty() && self.decided.is_empty()
    }
}
