//! A tail that is cut off: the changes in it that others had prepared are prepared here again, and
//! whoever finds them makes them as they were made in the tail.

use bytes::Bytes;
use isthmus_model::apply::{Applied, ApplyContext, apply_again};
use isthmus_model::commit::TxId;
use isthmus_model::entry::{Entry, EntryBody, RowDelta};
use isthmus_model::ids::Lsn;

use crate::error::StoreError;
use crate::keys::log::decode_record;
use crate::limits::PREPARED_BYTES_MAX;
use crate::partition::At;
use crate::pending::Pending;
use crate::spec::Writing;
use crate::table::prefetch::{Prefetched, Wanted};
use crate::table::write::check_writable;
use crate::table::{Table, granularity};

/// Bytes of the log that are read at once.
const SLICE_BYTES: usize = 1024 * 1024;

impl Table {
    /// Prepares again, as `encode` writes them, the changes that the log holds after an entry and
    /// that had been prepared before they were made. That is for who is about to have this log
    /// replaced by one that does not go on from the tail; until then nobody must be told of them.
    /// Answers whether all of them are there, durably: none is where the log does not reach back
    /// to that entry, one is part of a batch of several partitions, or there is no room.
    /// Done again it changes nothing. Blocks while it reads.
    ///
    /// Refused where this region writes.
    pub fn prepare_again(&self, after: Lsn, encode: impl Fn(&Entry) -> Bytes) -> Pending<bool> {
        Pending::from_result(self.try_prepare_again(after, encode))
    }

    fn try_prepare_again(
        &self,
        after: Lsn,
        encode: impl Fn(&Entry) -> Bytes,
    ) -> Result<Pending<bool>, StoreError> {
        self.core.check_alive()?;
        let Some(tail) = self.prepared_in_tail(after, encode)? else {
            return Ok(Pending::ready(Ok(false)));
        };
        let mut inner = self.partition.inner.lock();
        if inner.dropped {
            return Err(StoreError::NoTable(inner.spec.id));
        }
        if inner.spec.writers.are_many() || inner.spec.writing == Writing::Accept {
            let (partition, epoch) = (self.partition.id, inner.state.epoch);
            return Err(StoreError::Fenced { partition, epoch });
        }
        let bytes_before = inner.part.bytes;
        let Some((writes, bytes)) = inner.prepared.prepare_again(self.partition.id, tail) else {
            return Ok(Pending::ready(Ok(false)));
        };
        inner.part.writes.extend(writes);
        inner.part.bytes += bytes;
        Ok(self.enqueue_told(&mut inner, bytes_before, true))
    }

    /// `None`: the log does not tell all of it, or it is too much.
    fn prepared_in_tail(
        &self,
        after: Lsn,
        encode: impl Fn(&Entry) -> Bytes,
    ) -> Result<Option<Vec<(TxId, Bytes)>>, StoreError> {
        if after < self.log_start() {
            return Ok(None);
        }
        let (mut at, mut bytes, mut tail) = (after, 0, Vec::new());
        loop {
            let slice = self.read_log(at, SLICE_BYTES)?;
            if slice.to <= at {
                return Ok(Some(tail));
            }
            for record in &slice.records {
                let (_, entries) =
                    decode_record(record).map_err(StoreError::corrupt("log record"))?;
                for entry in entries.iter().filter(|entry| entry.lsn > at) {
                    let Some(tx) = entry.tx else { continue };
                    if !is_made_again(entry) {
                        return Ok(None);
                    }
                    let change = encode(entry);
                    bytes += change.len();
                    tail.push((tx, change));
                }
            }
            if bytes > PREPARED_BYTES_MAX {
                return Ok(None);
            }
            at = slice.to;
        }
    }

    /// Writes a change that was prepared, as it was made in a log that was cut off: under its name,
    /// with what it set there. Limits and conditions were judged there.
    pub fn write_again(&self, entry: &Entry) -> Pending<Lsn> {
        Pending::from_result(self.try_write_again(entry))
    }

    fn try_write_again(&self, entry: &Entry) -> Result<Pending<Lsn>, StoreError> {
        self.core.admit()?;
        let (Some(tx), EntryBody::Rows(deltas)) = (entry.tx, &entry.body) else {
            return Err(StoreError::BadRange("it is not a change that was prepared"));
        };
        self.core.stamps.observe(entry.stamp.hlc, self.core.wall_millis())?;
        let wanted = deltas.iter().map(|RowDelta { key, delta }| Wanted {
            key: key.clone(),
            decoded: delta.tombstone.is_none() || self.partition.keeps_past(),
        });
        let read = Prefetched::read(&self.core, &self.partition, wanted.collect())?;

        let mut inner = self.partition.inner.lock();
        check_writable(&inner)?;
        if inner.spec.writers.are_many() {
            return Err(StoreError::BadRange("nothing is prepared for several writers"));
        }
        let mut rows = Vec::with_capacity(deltas.len());
        for RowDelta { key, delta } in deltas {
            let is_needed = delta.tombstone.is_none() || self.partition.keeps_past();
            let known = match is_needed {
                true => read.current(&self.core, &self.partition, &inner, key)?.row,
                false => None,
            };
            rows.push((known, read.parts(&self.core, &self.partition, &inner, key)?));
        }
        let bytes_before = inner.part.bytes;
        let wall_millis = self.core.wall_millis();
        let stamp = self.core.stamps.begin(wall_millis);
        inner.part.begun.push(stamp.hlc);
        let lsn = inner.next_lsn();
        let at = At { lsn, stamp: Some(stamp) };
        let horizon = self.partition.horizon(&inner.spec);
        let schema = inner.schema.clone();
        let expiry = inner.state.expiry.clone();
        let context = ApplyContext {
            schema: &schema,
            stamp,
            now_millis: wall_millis,
            granularity: granularity(&inner.spec),
            expiry: &expiry,
        };
        let mut made = Vec::with_capacity(deltas.len());
        for (RowDelta { key, delta }, (known, parts)) in deltas.iter().zip(rows) {
            let applied = apply_again(&context, known.as_deref(), entry.stamp, delta);
            let Applied { delta, after, .. } = applied;
            self.keep_before((lsn, stamp), key, known.as_deref(), &delta);
            inner.put_row(key.clone(), parts, after, horizon, at);
            made.push(RowDelta { key: key.clone(), delta });
        }
        inner.push_own(lsn, stamp, Some(tx), EntryBody::Rows(made));
        inner.note_applied(tx);
        Ok(self.enqueue_told(&mut inner, bytes_before, lsn))
    }
}

/// Whether an entry can be made once more from what it set. One that is part of a batch of several
/// partitions cannot: what became of that is for others to say.
fn is_made_again(entry: &Entry) -> bool {
    matches!(entry.body, EntryBody::Rows(_)) && entry.batch.is_none()
}
