//! Changes that clients ask this region for.
//!
//! A change is judged against the row as it will be when all that is accepted is durable, so that
//! one hot row is not limited to one write per sync. Nothing of that shows before it is durable:
//! accepted changes are answered then, and so are refusals that were judged by what is pending.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use isthmus_digest::Parts;
use isthmus_model::apply::{ApplyContext, apply, needs_row};
use isthmus_model::atomic::{BatchId, BatchMark};
use isthmus_model::change::{RowAction, ShownCell};
use isthmus_model::check::{CheckedChange, CheckedKey};
use isthmus_model::commit::TxId;
use isthmus_model::entry::{Entry, EntryBody, RowDelta};
use isthmus_model::hlc::{Hlc, Stamp};
use isthmus_model::ids::{Epoch, Lsn, id_of_region};
use isthmus_model::key::{EncodedKey, PrimaryKey};
use isthmus_model::row::Row;

use crate::digest::Before;
use crate::error::StoreError;
use crate::limits::WRITE_CHANGES_MAX;
use crate::partition::{At, Inner};
use crate::pending::Pending;
use crate::replaced::is_large;
use crate::spec::Writing;
use crate::table::prefetch::{Prefetched, Wanted};
use crate::table::{Table, granularity};

/// A change that is durable.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// The row's key, with what the server gave.
    pub key: PrimaryKey,
    /// What the client wants to see of the row.
    pub shown: Vec<ShownCell>,
    /// Bytes that the condition had to look at.
    pub read_bytes: u64,
    /// The change's stamp.
    pub stamp: Stamp,
    /// Its address in the log.
    pub lsn: Lsn,
    /// The epoch in which it was made: whoever answers checks that it is not over.
    pub epoch: Epoch,
}

/// One result per change, in order.
pub(crate) type Results = Vec<Result<Written, StoreError>>;

/// A change that passed.
pub(crate) struct Judged {
    pub(crate) key: PrimaryKey,
    pub(crate) encoded: EncodedKey,
    /// The row before, if it is to be kept.
    replaced: Option<Arc<Row>>,
    /// What of the row is in the digest, unless the overlay tells.
    before: Before,
    delta: Row,
    after: Row,
    shown: Vec<ShownCell>,
    pub(crate) read_bytes: u64,
}

/// The keys of changes; one that the server makes is not there yet.
pub(crate) type Keys = Vec<Option<EncodedKey>>;

/// One call to `write`, under the lock.
pub(crate) struct Call<'a> {
    table: &'a Table,
    pub(crate) inner: &'a mut Inner,
    prefetched: Prefetched,
    /// The prepared changes that they were, one for each entry.
    txs: Vec<TxId>,
    /// What its one entry is to a batch of several partitions.
    pub(crate) batch: Option<BatchMark>,
    /// The batch whose locks do not count.
    pub(crate) own: Option<BatchId>,
    wall_millis: i64,
    /// The first stamp taken.
    begun: Option<Hlc>,
    /// The last pending group that something was judged by.
    judged_by: Option<u64>,
}

impl Table {
    /// Changes rows. Without `atomic` each change is an entry with a result of its own, in order,
    /// and may follow another of the same row. With it all are one entry, or none is made; a row
    /// may be there once. Blocks for as long as it takes to read the rows that conditions need.
    pub fn write(&self, changes: Vec<CheckedChange>, atomic: bool) -> Pending<Results> {
        Pending::from_result(self.try_write(changes, atomic, Vec::new()))
    }

    pub(crate) fn try_write(
        &self,
        changes: Vec<CheckedChange>,
        atomic: bool,
        txs: Vec<TxId>,
    ) -> Result<Pending<Results>, StoreError> {
        self.call(changes, atomic, txs, |call, changes, keys| {
            if atomic {
                return call.write_and_answer(changes, keys);
            }
            let bytes_before = call.inner.part.bytes;
            let results = call.write_each(changes, keys);
            call.finish(bytes_before, results)
        })
    }

    /// Judges changes as `write` would and makes none of them: the keys of the rows, with what the
    /// server gave, or why it would refuse. A row may be there once.
    pub fn judge(
        &self,
        changes: Vec<CheckedChange>,
        atomic: bool,
    ) -> Pending<Vec<Result<PrimaryKey, StoreError>>> {
        Pending::from_result(self.call(changes, atomic, Vec::new(), |call, changes, keys| {
            let stamp = call.stamp();
            let judged = changes.into_iter().zip(keys);
            let judged = judged.map(|(change, key)| call.judge(change, key, stamp));
            let mut judged: Vec<_> = judged.map(|judged| judged.map(|one| one.key)).collect();
            if atomic && judged.iter().any(Result::is_err) {
                let all = judged.iter_mut().filter(|one| one.is_ok());
                all.for_each(|one| *one = Err(StoreError::AbortedTogether));
            }
            call.table.core.stamps.end(call.begun.as_slice());
            match call.judged_by {
                None => Pending::ready(Ok(judged)),
                Some(group) => {
                    let (answer, pending) = Pending::new();
                    let tell =
                        move |done: Result<(), StoreError>| answer.give(done.map(|()| judged));
                    call.inner.when_durable(group, Box::new(tell));
                    pending
                }
            }
        }))
    }

    /// Reads what changes need, then does something with them under the lock.
    pub(crate) fn call<T>(
        &self,
        changes: Vec<CheckedChange>,
        atomic: bool,
        txs: Vec<TxId>,
        work: impl FnOnce(&mut Call<'_>, Vec<CheckedChange>, Keys) -> Pending<Vec<T>>,
    ) -> Result<Pending<Vec<T>>, StoreError> {
        self.core.admit()?;
        if changes.len() > WRITE_CHANGES_MAX {
            return Err(StoreError::TooLarge("number of changes"));
        }
        if changes.is_empty() {
            return Ok(Pending::ready(Ok(Vec::new())));
        }
        let keys: Vec<Option<EncodedKey>> = changes.iter().map(encoded_key).collect();
        if atomic {
            check_once_each(&keys)?;
        }
        let granularity = granularity(&self.partition.durable().spec);
        let wanted = changes.iter().zip(&keys).filter_map(|(change, key)| {
            let decoded = needs_row(change, granularity) || self.keeps_before(change);
            key.clone().map(|key| Wanted { key, decoded })
        });
        let wanted = wanted.collect();
        let prefetched = Prefetched::read(&self.core, &self.partition, wanted)?;

        let mut inner = self.partition.inner.lock();
        check_writable(&inner)?;
        let mut call = Call {
            table: self,
            inner: &mut inner,
            prefetched,
            txs,
            batch: None,
            own: None,
            wall_millis: self.core.wall_millis(),
            begun: None,
            judged_by: None,
        };
        Ok(work(&mut call, changes, keys))
    }

    /// Whether something of the row before the change is kept: for cuts, or for what is shipped.
    fn keeps_before(&self, change: &CheckedChange) -> bool {
        let replaces_large = || match &change.action {
            RowAction::Put(cells) => cells.iter().any(|cell| is_large(&cell.value)),
            // In row mode the entry carries all of the row, so it may be large anyhow.
            RowAction::Update(_) => true,
            RowAction::Delete => false,
        };
        let keeps_replaced = || self.partition.keeps_replaced.load(Ordering::Relaxed);
        self.partition.keeps_past() || (keeps_replaced() && replaces_large())
    }

    /// Keeps of the row before a change that was accepted what is asked for.
    pub(crate) fn keep_before(
        &self,
        (lsn, stamp): (Lsn, Stamp),
        key: &EncodedKey,
        before: Option<&Row>,
        delta: &Row,
    ) {
        let Table { core, partition } = self;
        if let Some(before) = before.filter(|_| partition.keeps_replaced.load(Ordering::Relaxed)) {
            core.replaced.keep((partition.id, lsn), key, before, delta);
        }
        if partition.keeps_past() {
            core.past.note(partition.id, key, before, stamp.hlc, delta);
        }
    }

    /// Arranges the answer: with the open group if anything was accepted, else with the group that
    /// it was judged by, else now.
    fn answer(
        &self,
        inner: &mut Inner,
        bytes_before: usize,
        results: Results,
        begun: Option<Hlc>,
        judged_by: Option<u64>,
    ) -> Pending<Results> {
        let accepted = results.iter().any(Result::is_ok);
        if !accepted {
            self.core.stamps.end(begun.as_slice());
        }
        let group = if accepted { Some(inner.open_group()) } else { judged_by };
        let Some(group) = group else { return Pending::ready(Ok(results)) };
        let (answer, pending) = Pending::new();
        inner.when_durable(group, Box::new(move |done| answer.give(done.map(|()| results))));
        if accepted {
            inner.part.begun.extend(begun);
            self.core.enqueue(&self.partition, inner, bytes_before);
        }
        pending
    }
}

fn encoded_key(change: &CheckedChange) -> Option<EncodedKey> {
    match &change.key {
        CheckedKey::Whole(key) => Some(key.encode()),
        CheckedKey::AutoIncrement { .. } => None,
    }
}

fn check_once_each(keys: &[Option<EncodedKey>]) -> Result<(), StoreError> {
    let mut seen = BTreeSet::new();
    match keys.iter().flatten().all(|key| seen.insert(key)) {
        true => Ok(()),
        false => Err(StoreError::RowTwice),
    }
}

pub(crate) fn check_writable(inner: &Inner) -> Result<(), StoreError> {
    if inner.dropped || inner.schema.options.is_dropped {
        return Err(StoreError::NoTable(inner.spec.id));
    }
    match inner.spec.writing {
        Writing::Accept if !inner.is_held => Ok(()),
        Writing::Accept | Writing::Refuse => Err(StoreError::NotWritable {
            partition: inner.spec.partition,
            epoch: inner.state.epoch,
        }),
    }
}

impl Call<'_> {
    fn write_each(
        &mut self,
        changes: Vec<CheckedChange>,
        keys: Vec<Option<EncodedKey>>,
    ) -> Results {
        let mut results = Vec::with_capacity(changes.len());
        for (place, (change, key)) in changes.into_iter().zip(keys).enumerate() {
            let (stamp, tx) = (self.stamp(), self.tx(place));
            let result = self.judge(change, key, stamp);
            results.push(result.map(|judged| self.accept(stamp, tx, vec![judged]).remove(0)));
        }
        results
    }

    /// Makes all of them by one entry, or none.
    pub(crate) fn write_and_answer(
        &mut self,
        changes: Vec<CheckedChange>,
        keys: Keys,
    ) -> Pending<Results> {
        let bytes_before = self.inner.part.bytes;
        let stamp = self.stamp();
        let results = match self.judge_all(changes, keys, stamp) {
            Ok(judged) => {
                let tx = self.tx(0);
                self.accept(stamp, tx, judged).into_iter().map(Ok).collect()
            }
            Err(refused) => refused.into_iter().map(Err).collect(),
        };
        self.finish(bytes_before, results)
    }

    /// Judges changes that are made together or not at all: why not, for each.
    pub(crate) fn judge_all(
        &mut self,
        changes: Vec<CheckedChange>,
        keys: Keys,
        stamp: Stamp,
    ) -> Result<Vec<Judged>, Vec<StoreError>> {
        let judged: Vec<Result<Judged, StoreError>> = changes
            .into_iter()
            .zip(keys)
            .map(|(change, key)| self.judge(change, key, stamp))
            .collect();
        if judged.iter().any(Result::is_err) {
            let refused = |one: Result<Judged, _>| one.err().unwrap_or(StoreError::AbortedTogether);
            return Err(judged.into_iter().map(refused).collect());
        }
        Ok(judged.into_iter().flatten().collect())
    }

    pub(crate) fn finish(&mut self, bytes_before: usize, results: Results) -> Pending<Results> {
        let (begun, judged_by) = (self.begun, self.judged_by);
        self.table.answer(self.inner, bytes_before, results, begun, judged_by)
    }

    /// The prepared change that the entry at that place was.
    fn tx(&self, place: usize) -> Option<TxId> {
        self.txs.get(place).copied()
    }

    pub(crate) fn stamp(&mut self) -> Stamp {
        let stamps = &self.table.core.stamps;
        if self.begun.is_some() {
            return stamps.next(self.wall_millis);
        }
        let stamp = stamps.begin(self.wall_millis);
        self.begun = Some(stamp.hlc);
        stamp
    }

    /// A number that no row of the table has had: counter and region.
    fn next_number(&mut self) -> i64 {
        self.inner.state.auto_increment += 1;
        id_of_region(self.table.own(), self.inner.state.auto_increment) as i64
    }

    fn judge(
        &mut self,
        change: CheckedChange,
        encoded: Option<EncodedKey>,
        stamp: Stamp,
    ) -> Result<Judged, StoreError> {
        let granularity = granularity(&self.inner.spec);
        let is_needed = needs_row(&change, granularity);
        let is_kept = self.table.keeps_before(&change);
        let (mut row, mut replaced) = (None, None);
        if let Some(encoded) = &encoded {
            self.check_unlocked(encoded)?;
        }
        // A key with a new number names a row that is not there.
        if let Some(encoded) = encoded.as_ref().filter(|_| is_needed || is_kept) {
            let Table { core, partition, .. } = self.table;
            let current = self.prefetched.current(core, partition, self.inner, encoded)?;
            replaced = current.row.clone().filter(|_| is_kept);
            if is_needed {
                self.judged_by = self.judged_by.max(current.pending);
                row = current.row;
            }
        }
        let key = match &change.key {
            CheckedKey::Whole(key) => key.clone(),
            CheckedKey::AutoIncrement { .. } => change.key.clone().whole(|| self.next_number()),
        };
        let schema = self.inner.schema.clone();
        let context = ApplyContext {
            schema: &schema,
            stamp,
            now_millis: self.wall_millis,
            granularity,
            expiry: &self.inner.state.expiry,
        };
        let applied = apply(&context, row.as_deref(), &key, &change)?;
        let before = match &encoded {
            Some(encoded) => {
                let Table { core, partition, .. } = self.table;
                self.prefetched.parts_below(core, partition, self.inner, encoded)?
            }
            None => Parts::new().into(),
        };
        let encoded = encoded.unwrap_or_else(|| key.encode());
        let isthmus_model::apply::Applied { delta, after, shown, read_bytes } = applied;
        Ok(Judged { key, encoded, replaced, before, delta, after, shown, read_bytes })
    }

    /// Refuses a row that the intent of a batch has locked. What others have prepared was judged
    /// before it, and is made.
    fn check_unlocked(&self, key: &EncodedKey) -> Result<(), StoreError> {
        let locks = &self.inner.atomics.locks;
        if locks.is_empty() || !self.txs.is_empty() {
            return Ok(());
        }
        match locks.holder(key).filter(|holder| Some(*holder) != self.own) {
            Some(holder) => Err(StoreError::RowLocked(holder)),
            None => Ok(()),
        }
    }

    /// Makes one entry of changes that passed.
    fn accept(&mut self, stamp: Stamp, tx: Option<TxId>, judged: Vec<Judged>) -> Vec<Written> {
        let (lsn, epoch) = (self.inner.next_lsn(), self.inner.spec.epoch);
        let at = At { lsn, stamp: Some(stamp) };
        let horizon = self.table.partition.horizon(&self.inner.spec);
        let mut written = Vec::with_capacity(judged.len());
        let mut deltas = Vec::with_capacity(judged.len());
        for one in judged {
            let Judged { key, encoded, replaced, before, delta, after, shown, read_bytes } = one;
            self.table.keep_before((lsn, stamp), &encoded, replaced.as_deref(), &delta);
            deltas.push(RowDelta { key: encoded.clone(), delta });
            self.inner.put_row(encoded, before, after, horizon, at);
            written.push(Written { key, shown, read_bytes, stamp, lsn, epoch });
        }
        let batch = self.batch.take();
        if let Some(mark) = &batch {
            self.inner.take_batch_mark(lsn, stamp, mark);
        }
        self.inner.push_marked(lsn, stamp, (tx, batch), EntryBody::Rows(deltas));
        if let Some(tx) = tx {
            self.inner.note_applied(tx);
        }
        written
    }
}

impl Inner {
    /// Appends an entry made by this region.
    pub(crate) fn push_own(&mut self, lsn: Lsn, stamp: Stamp, tx: Option<TxId>, body: EntryBody) {
        self.push_marked(lsn, stamp, (tx, None), body);
    }

    fn push_marked(
        &mut self,
        lsn: Lsn,
        stamp: Stamp,
        (tx, batch): (Option<TxId>, Option<BatchMark>),
        body: EntryBody,
    ) {
        let entry = Entry {
            lsn,
            epoch: self.state.epoch,
            stamp,
            origin_lsn: lsn,
            schema: self.schema.number,
            seen: self.spec.writers.are_many().then(|| self.state.seen()),
            tx,
            batch,
            body,
        };
        self.push_entry(&entry);
        if !self.spec.writers.are_many() {
            self.note_origin(stamp, lsn);
        }
    }
}
