//! Batches that are made in several partitions or in none: intents, decisions and their ends. Each
//! is one batch of the engine with its entry, as every change is.

use std::collections::BTreeSet;

use isthmus_model::atomic::{BatchId, BatchMark, Intent, Member};
use isthmus_model::check::CheckedChange;
use isthmus_model::commit::TxId;
use isthmus_model::entry::EntryBody;
use isthmus_model::hlc::{Hlc, Stamp};
use isthmus_model::ids::Lsn;
use isthmus_model::key::EncodedKey;

use crate::atomic::{Amount, BatchesHeld, Room};
use crate::error::StoreError;
use crate::keys::decided::Decided;
use crate::partition::Inner;
use crate::pending::Pending;
use crate::table::Table;
use crate::table::write::{Call, Keys, Results, Written, check_writable};

/// Where a write of a batch comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// From the region that begins it, in this life.
    Fresh,
    /// From what was prepared in an earlier term.
    Recovered,
}

impl Table {
    /// Judges changes as `write` does with `atomic`, and keeps an intent of them if all pass: their
    /// rows are locked, and nothing is changed. `tx`: the prepared change that it was. Numbers that
    /// the server gives to keys must have been given. Busy: there is no room, which is not asked
    /// for of what was prepared (`room_for_intent`).
    pub fn intend(
        &self,
        intent: Intent,
        changes: Vec<CheckedChange>,
        tx: Option<TxId>,
    ) -> Pending<Vec<Result<Written, StoreError>>> {
        let txs = tx.into_iter().collect();
        Pending::from_result(self.call(changes, true, txs, |call, changes, keys| {
            let amount = Amount::of_intent(intent.request.len());
            match call.check_takes(amount, tx) {
                Ok(()) => call.intend(intent, changes, keys, tx),
                Err(error) => Pending::ready(Err(error)),
            }
        }))
    }

    /// Makes changes as `write` does with `atomic`, by an entry that decides a batch: its members
    /// are to make their part. Room as for `intend`.
    pub fn decide(
        &self,
        (id, members): (BatchId, Vec<Member>),
        changes: Vec<CheckedChange>,
        tx: Option<TxId>,
        beginning: Beginning,
    ) -> Pending<Vec<Result<Written, StoreError>>> {
        let txs = tx.into_iter().collect();
        Pending::from_result(self.call(changes, true, txs, |call, changes, keys| {
            // Another epoch's writer has said by now that it is given up.
            let is_over = id.term.epoch != call.inner.spec.epoch.0;
            if beginning == Beginning::Fresh && is_over {
                let (partition, epoch) = (call.inner.spec.partition, call.inner.state.epoch);
                return Pending::ready(Err(StoreError::NotWritable { partition, epoch }));
            }
            if let Err(error) = call.check_takes(Amount::of_decision(&members), tx) {
                return Pending::ready(Err(error));
            }
            call.batch = Some(BatchMark::Decided { id, members });
            call.write_and_answer(changes, keys)
        }))
    }

    /// Makes the changes of an intent and ends it. No result: there was no intent of that batch.
    pub fn settle_batch(
        &self,
        id: BatchId,
        changes: Vec<CheckedChange>,
    ) -> Pending<Vec<Result<Written, StoreError>>> {
        Pending::from_result(self.call(changes, true, Vec::new(), |call, changes, keys| {
            if !call.inner.atomics.locks.has(id) {
                return Pending::ready(Ok(Vec::new()));
            }
            call.own = Some(id);
            call.batch = Some(BatchMark::Settled(id));
            call.write_and_answer(changes, keys)
        }))
    }

    /// Ends an intent without a change, if there is one.
    pub fn abandon_batch(&self, id: BatchId) -> Pending<()> {
        Pending::from_result(
            self.append_body(|inner| {
                inner.atomics.locks.has(id).then_some(EntryBody::Abandoned(id))
            }),
        )
    }

    /// Forgets batches that were decided here: all members have settled them.
    pub fn forget_batches(&self, ids: &[BatchId]) -> Pending<()> {
        Pending::from_result(self.append_body(|inner| {
            let decided = inner.atomics.decided();
            let known = ids.iter().filter(|id| decided.contains_key(id)).copied();
            let known: Vec<BatchId> = known.collect();
            (!known.is_empty()).then_some(EntryBody::Forgotten(known))
        }))
    }

    fn append_body(
        &self,
        body: impl FnOnce(&Inner) -> Option<EntryBody>,
    ) -> Result<Pending<()>, StoreError> {
        self.core.admit()?;
        let mut inner = self.partition.inner.lock();
        check_writable(&inner)?;
        check_one_writer(&inner)?;
        let Some(body) = body(&inner) else { return Ok(Pending::ready(Ok(()))) };
        let bytes_before = inner.part.bytes;
        let stamp = self.core.stamps.begin(self.core.wall_millis());
        inner.part.begun.push(stamp.hlc);
        let lsn = inner.next_lsn();
        inner.take_batch_body(&body, stamp);
        inner.push_own(lsn, stamp, None, body);
        Ok(self.enqueue_told(&mut inner, bytes_before, ()))
    }

    /// Keeps room for an intent whose request has so many bytes, before it is sent to others. Busy:
    /// there is none, or what is new is held back.
    pub fn room_for_intent(&self, request_bytes: usize) -> Result<Room, StoreError> {
        self.room_for(Amount::of_intent(request_bytes))
    }

    /// The same for a decision with these members.
    pub fn room_for_decision(&self, members: &[Member]) -> Result<Room, StoreError> {
        self.room_for(Amount::of_decision(members))
    }

    fn room_for(&self, amount: Amount) -> Result<Room, StoreError> {
        Room::new(&self.partition, &mut self.partition.inner.lock().atomics, amount)
    }

    /// Takes no new intents and decisions until what is given is dropped, so that those that are
    /// there come to an end. What was prepared is made.
    pub fn hold_batches(&self) -> BatchesHeld {
        BatchesHeld::new(&self.partition)
    }

    /// Whether any row may be locked by an intent: cheap, and never no where one is.
    pub fn may_be_locked(&self) -> bool {
        self.partition.atomics.locking() > 0
    }

    /// Whether anything is kept of batches of several partitions.
    pub fn keeps_batches(&self) -> bool {
        self.partition.atomics.all() > 0
    }

    /// The batches that lock one of these rows, by an intent or by one whose end is not durable.
    pub fn holders(&self, keys: &[EncodedKey]) -> BTreeSet<BatchId> {
        match self.may_be_locked() {
            true => self.partition.inner.lock().atomics.holders(keys),
            false => BTreeSet::new(),
        }
    }

    /// The same of rows from `start` (inclusive) to `end` (exclusive; `None`: the last).
    pub fn holders_between(
        &self,
        start: &EncodedKey,
        end: Option<&EncodedKey>,
    ) -> BTreeSet<BatchId> {
        match self.may_be_locked() {
            true => self.partition.inner.lock().atomics.holders_between(start, end),
            false => BTreeSet::new(),
        }
    }

    /// The intent of a batch, if there is one, and the moment of its entry.
    pub fn intent(&self, id: BatchId) -> Option<(Intent, Hlc)> {
        self.partition.inner.lock().atomics.intent(id).cloned()
    }

    /// The intents: the batch, the name of its anchor, how many rows, the moment of the entry.
    pub fn intents(&self) -> Vec<(BatchId, isthmus_model::value::Text, usize, Hlc)> {
        if !self.keeps_batches() {
            return Vec::new();
        }
        let inner = self.partition.inner.lock();
        let one = |(intent, since): &(Intent, Hlc)| {
            (intent.id, intent.anchor.clone(), intent.keys.len(), *since)
        };
        inner.atomics.intents().map(one).collect()
    }

    /// What is kept of a batch that was decided here and is not forgotten. Others must not be told
    /// before the log is durable through its entry.
    pub fn decided_batch(&self, id: BatchId) -> Option<Decided> {
        self.partition.inner.lock().atomics.decided().get(&id).cloned()
    }

    /// The batches that were decided here durably and are not forgotten.
    pub fn decided_batches(&self) -> Vec<(BatchId, Decided)> {
        if !self.keeps_batches() {
            return Vec::new();
        }
        let durable = self.durable_lsn();
        let inner = self.partition.inner.lock();
        let decided = inner.atomics.decided().iter().filter(|(_, one)| one.lsn <= durable);
        decided.map(|(id, decided)| (*id, decided.clone())).collect()
    }
}

/// Whether a partition has one writer, as all have that take part in batches.
fn check_one_writer(inner: &Inner) -> Result<(), StoreError> {
    match inner.spec.writers.are_many() {
        false => Ok(()),
        true => Err(StoreError::NotWritable {
            partition: inner.spec.partition,
            epoch: inner.state.epoch,
        }),
    }
}

impl Call<'_> {
    /// Whether so much may be taken; what was prepared has its room.
    fn check_takes(&self, amount: Amount, tx: Option<TxId>) -> Result<(), StoreError> {
        check_one_writer(self.inner)?;
        match tx {
            None => self.inner.atomics.check_room(amount),
            Some(_) => Ok(()),
        }
    }

    fn intend(
        &mut self,
        intent: Intent,
        changes: Vec<CheckedChange>,
        keys: Keys,
        tx: Option<TxId>,
    ) -> Pending<Results> {
        let bytes_before = self.inner.part.bytes;
        let stamp = self.stamp();
        let judged = self.judge_all(changes, keys, stamp);
        let judged = match judged {
            Ok(judged) => judged,
            Err(refused) => {
                return self.finish(bytes_before, refused.into_iter().map(Err).collect());
            }
        };
        let (lsn, epoch) = (self.inner.next_lsn(), self.inner.spec.epoch);
        let keys = judged.iter().map(|one| one.encoded.clone()).collect();
        let body = EntryBody::Intent(Intent { keys, ..intent });
        self.inner.take_batch_body(&body, stamp);
        self.inner.push_own(lsn, stamp, tx, body);
        if let Some(tx) = tx {
            self.inner.note_applied(tx);
        }
        let written = judged.into_iter().map(|one| {
            let (key, shown, read_bytes) = (one.key, Vec::new(), one.read_bytes);
            Ok(Written { key, shown, read_bytes, stamp, lsn, epoch })
        });
        let written = written.collect();
        self.finish(bytes_before, written)
    }
}

impl Inner {
    /// Takes what an entry says of batches, beside its rows.
    pub(crate) fn take_batch_mark(&mut self, lsn: Lsn, stamp: Stamp, mark: &BatchMark) {
        let partition = self.spec.partition;
        match mark {
            BatchMark::Decided { id, members } => {
                let decided = Decided { lsn, since: stamp.hlc, members: members.clone() };
                let write = self.atomics.decide(partition, *id, decided);
                self.part.writes.push(write);
            }
            BatchMark::Settled(id) => self.end_intent(*id),
        }
    }

    /// Takes an entry that is about batches and nothing else.
    pub(crate) fn take_batch_body(&mut self, body: &EntryBody, stamp: Stamp) {
        let partition = self.spec.partition;
        match body {
            EntryBody::Intent(intent) => {
                self.part.bytes += intent.request.len();
                let write = self.atomics.take(partition, intent.clone(), stamp.hlc);
                self.part.writes.extend(write);
            }
            EntryBody::Abandoned(id) => self.end_intent(*id),
            EntryBody::Forgotten(ids) => {
                let writes = ids.iter().filter_map(|id| self.atomics.forget(partition, *id));
                self.part.writes.extend(writes);
            }
            EntryBody::Rows(_)
            | EntryBody::Schema(_)
            | EntryBody::Expiry(_)
            | EntryBody::Handover(_)
            | EntryBody::Opening
            | EntryBody::Settled(_) => {}
        }
    }

    fn end_intent(&mut self, id: BatchId) {
        let (partition, group) = (self.spec.partition, self.open_group());
        let write = self.atomics.end(partition, id, group);
        self.part.writes.extend(write);
    }
}
