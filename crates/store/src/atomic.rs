//! What a partition keeps of batches that are made in several partitions or in none: its intents,
//! and what it has decided. Which rules these keep is said in [`isthmus_model::atomic`].
//!
//! Intents lock rows for writers until the entry that ends them is accepted, since what comes next
//! is judged on it; for readers until it is durable, since they see nothing before that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use isthmus_model::atomic::{BatchId, DECIDED_MAX, INTENTS_MAX, Intent, Locks, Member};
use isthmus_model::change::Direction;
use isthmus_model::hlc::Hlc;
use isthmus_model::ids::PartitionId;
use isthmus_model::key::EncodedKey;

use crate::codec::Corrupt;
use crate::engine::{BatchWrite, Snapshot, Space};
use crate::error::StoreError;
use crate::keys::decided::Decided;
use crate::keys::{decided, intent};
use crate::limits::{DECIDED_BYTES_MAX, INTENT_BYTES_MAX};
use crate::partition::Partition;

/// All of it, as a copy brings it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AtomicState {
    /// Intents, with the moments of their entries.
    pub intents: Vec<(Intent, Hlc)>,
    /// Batches that are decided.
    pub decided: Vec<(BatchId, Decided)>,
}

/// Charged for a decision, and for each of its members beside the name.
const DECISION_BYTES: usize = 64;
const MEMBER_BYTES: usize = 16;

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

/// How much of what is bounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    intents: usize,
    /// Bytes of what is asked for in them.
    intent_bytes: usize,
    decided: usize,
    decided_bytes: usize,
}

impl Amount {
    /// One intent.
    pub(crate) fn of_intent(request_bytes: usize) -> Amount {
        Amount { intents: 1, intent_bytes: request_bytes, ..Amount::default() }
    }

    /// One decision.
    pub(crate) fn of_decision(members: &[Member]) -> Amount {
        let names = members.iter().map(|member| member.name.len() + MEMBER_BYTES);
        let decided_bytes = DECISION_BYTES + names.sum::<usize>();
        Amount { decided: 1, decided_bytes, ..Amount::default() }
    }

    fn add(&mut self, more: Amount) {
        self.intents += more.intents;
        self.intent_bytes += more.intent_bytes;
        self.decided += more.decided;
        self.decided_bytes += more.decided_bytes;
    }

    /// What is gone with the partition is not there to be taken off.
    fn take_off(&mut self, less: Amount) {
        self.intents = self.intents.saturating_sub(less.intents);
        self.intent_bytes = self.intent_bytes.saturating_sub(less.intent_bytes);
        self.decided = self.decided.saturating_sub(less.decided);
        self.decided_bytes = self.decided_bytes.saturating_sub(less.decided_bytes);
    }

    fn is_too_much(&self) -> bool {
        self.intents > INTENTS_MAX
            || self.intent_bytes > INTENT_BYTES_MAX
            || self.decided > DECIDED_MAX
            || self.decided_bytes > DECIDED_BYTES_MAX
    }
}

/// Room that is kept for what was sent to other regions and is not made yet, until this is dropped.
pub struct Room {
    partition: Arc<Partition>,
    amount: Amount,
}

impl Room {
    /// Of a partition whose lock is held.
    pub(crate) fn new(
        partition: &Arc<Partition>,
        atomics: &mut Atomics,
        amount: Amount,
    ) -> Result<Room, StoreError> {
        atomics.check_room(amount)?;
        atomics.reserved.add(amount);
        Ok(Room { partition: partition.clone(), amount })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.partition.inner.lock().atomics.reserved.take_off(self.amount);
    }
}

/// Nothing new of batches is taken by a partition until this is dropped.
pub struct BatchesHeld(Arc<Partition>);

impl BatchesHeld {
    pub(crate) fn new(partition: &Arc<Partition>) -> BatchesHeld {
        partition.inner.lock().atomics.held += 1;
        BatchesHeld(partition.clone())
    }
}

impl Drop for BatchesHeld {
    fn drop(&mut self) {
        let mut inner = self.0.inner.lock();
        inner.atomics.held = inner.atomics.held.saturating_sub(1);
    }
}

/// Rows whose intent has ended in a group that is not durable.
#[derive(Debug)]
struct Ending {
    group: u64,
    id: BatchId,
    keys: Vec<EncodedKey>,
}

/// What a partition keeps of batches, as of the last accepted change.
#[derive(Debug, Default)]
pub(crate) struct Atomics {
    pub(crate) locks: Locks,
    intents: BTreeMap<BatchId, (Intent, Hlc)>,
    decided: BTreeMap<BatchId, Decided>,
    ending: Vec<Ending>,
    /// How much there is.
    amount: Amount,
    /// How much more may come of what was sent to others.
    reserved: Amount,
    /// How many hold back what is new.
    held: usize,
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
        for (id, decided) in decided {
            atomics.keep(id, decided);
        }
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
        self.amount.add(Amount::of_intent(intent.request.len()));
        self.intents.insert(intent.id, (intent, since));
    }

    fn keep(&mut self, id: BatchId, decided: Decided) {
        self.amount.add(Amount::of_decision(&decided.members));
        if let Some(known) = self.decided.insert(id, decided) {
            self.amount.take_off(Amount::of_decision(&known.members));
        }
    }

    /// Whether so much more may be taken now.
    pub(crate) fn check_room(&self, more: Amount) -> Result<(), StoreError> {
        let mut all = self.amount;
        all.add(self.reserved);
        all.add(more);
        match self.held > 0 || all.is_too_much() {
            true => Err(StoreError::Busy),
            false => Ok(()),
        }
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

    /// The batches that lock rows for readers.
    pub(crate) fn holders(&self, keys: &[EncodedKey]) -> BTreeSet<BatchId> {
        let mut holders = self.ending_of(|key| keys.contains(key));
        holders.extend(keys.iter().filter_map(|key| self.locks.holder(key)));
        holders
    }

    /// The batches that lock rows between those for readers.
    pub(crate) fn holders_between(
        &self,
        start: &EncodedKey,
        end: Option<&EncodedKey>,
    ) -> BTreeSet<BatchId> {
        let mut holders = self.ending_of(|key| key >= start && end.is_none_or(|end| key < end));
        holders.extend(self.locks.holders_between(start, end));
        holders
    }

    fn ending_of(&self, is_wanted: impl Fn(&EncodedKey) -> bool) -> BTreeSet<BatchId> {
        let of = self.ending.iter().filter(|ending| ending.keys.iter().any(&is_wanted));
        of.map(|ending| ending.id).collect()
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
        self.amount.take_off(Amount::of_intent(intent.request.len()));
        self.ending.push(Ending { group, id, keys });
        self.count();
        let key = intent::encode_key(partition, id);
        Some(BatchWrite { space: Space::Meta, key, value: None })
    }

    /// Groups through this one are durable.
    pub(crate) fn durable_through(&mut self, group: u64) {
        if !self.ending.is_empty() {
            self.ending.retain(|ending| ending.group > group);
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
        self.keep(id, decided);
        self.count();
        BatchWrite { space: Space::Meta, key, value }
    }

    /// All members have settled a batch; gives what is to be written.
    pub(crate) fn forget(&mut self, partition: PartitionId, id: BatchId) -> Option<BatchWrite> {
        let known = self.decided.remove(&id)?;
        self.amount.take_off(Amount::of_decision(&known.members));
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
