//! What rows were a while ago, in memory, so that a table can be read as of a cut.
//!
//! A cut is a moment of the hybrid clock; as of it a table is what all entries below it give
//! together, whatever the order in which they came here. Of each row that has changed since a
//! partition is kept, this has the row before and the changes after it, each with its moment; any
//! other row is as it is stored. Before its *floor* a partition cannot be read.
//!
//! Nothing is kept of a partition before somebody asks. One budget of bytes for all partitions:
//! the oldest change goes first and takes the floor of its partition past it.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::time::Duration;

use bytes::Bytes;
use isthmus_model::change::Direction;
use isthmus_model::hlc::Hlc;
use isthmus_model::ids::PartitionId;
use isthmus_model::key::EncodedKey;
use isthmus_model::row::Row;
use parking_lot::Mutex;

use crate::codec::row::{decode_row, encode_row};
use crate::error::StoreError;

/// Memory charged for a change beside its bytes, and for a row.
const OVERHEAD_BYTES: usize = 96;

/// What rows were, of all partitions that are read as of cuts.
#[derive(Debug)]
pub(crate) struct Past {
    bytes_max: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    partitions: BTreeMap<PartitionId, Kept>,
    /// The number of the oldest change of each partition.
    oldest: BTreeMap<u64, PartitionId>,
    /// Changes kept so far.
    changes: u64,
    bytes: usize,
}

/// What is kept of a partition.
#[derive(Debug)]
struct Kept {
    floor: Hlc,
    asked_at: Duration,
    rows: BTreeMap<EncodedKey, Changed>,
    /// The changes, in the order in which they were accepted, and which row each is of.
    order: VecDeque<(u64, EncodedKey)>,
}

/// A row that has changed.
#[derive(Debug)]
struct Changed {
    /// As it was before the first of the changes; nothing in it is at or above the floor.
    before: Option<Bytes>,
    /// In the order in which they were accepted.
    changes: VecDeque<(Hlc, Bytes)>,
}

impl Changed {
    /// The row as of a cut at or above the floor.
    fn at(&self, cut: Hlc) -> Result<Option<Bytes>, StoreError> {
        let below = |(hlc, _): &&(Hlc, Bytes)| *hlc < cut;
        if !self.changes.iter().any(|change| below(&change)) {
            return Ok(self.before.clone());
        }
        let mut row = self.before.as_ref().map(decode).transpose()?.unwrap_or_default();
        for (_, delta) in self.changes.iter().filter(below) {
            row.merge(&decode(delta)?);
        }
        Ok(packed(&row))
    }

    fn size(&self, key: &EncodedKey) -> usize {
        OVERHEAD_BYTES + key.0.len() + self.before.as_ref().map_or(0, Bytes::len)
    }
}

fn decode(bytes: &Bytes) -> Result<Row, StoreError> {
    decode_row(bytes).map_err(StoreError::corrupt("row"))
}

fn packed(row: &Row) -> Option<Bytes> {
    (!row.is_bare()).then(|| encode_row(row))
}

fn size_of_change(key: &EncodedKey, delta: &Bytes) -> usize {
    OVERHEAD_BYTES + key.0.len() + delta.len()
}

impl Past {
    pub(crate) fn new(bytes_max: usize) -> Past {
        Past { bytes_max, inner: Mutex::default() }
    }

    /// Keeps what changes in a partition from here on, or anew from here on. Nothing at or above
    /// `floor` is in its rows.
    pub(crate) fn begin(&self, partition: PartitionId, floor: Hlc, now: Duration) {
        let mut inner = self.inner.lock();
        inner.forget(partition);
        let (rows, order) = (BTreeMap::new(), VecDeque::new());
        inner.partitions.insert(partition, Kept { floor, asked_at: now, rows, order });
    }

    /// Keeps nothing of a partition any more.
    pub(crate) fn forget(&self, partition: PartitionId) {
        self.inner.lock().forget(partition);
    }

    /// Takes note of a change that was accepted: the row before it, when it was made, what it
    /// changes.
    pub(crate) fn note(
        &self,
        partition: PartitionId,
        key: &EncodedKey,
        before: Option<&Row>,
        hlc: Hlc,
        delta: &Row,
    ) {
        let mut inner = self.inner.lock();
        let number = inner.changes;
        let Some(kept) = inner.partitions.get_mut(&partition) else { return };
        // Copied, since a part of a parcel would hold all of it in memory.
        let key = &EncodedKey(Bytes::copy_from_slice(&key.0));
        let mut grown = 0;
        let changed = match kept.rows.get_mut(key) {
            Some(changed) => changed,
            // It is in the row at every cut that can be read.
            None if hlc < kept.floor => return,
            None => {
                let before = before.and_then(packed);
                let changed = Changed { before, changes: VecDeque::new() };
                grown += changed.size(key);
                kept.rows.entry(key.clone()).or_insert(changed)
            }
        };
        let delta = encode_row(delta);
        grown += size_of_change(key, &delta);
        changed.changes.push_back((hlc, delta));
        kept.order.push_back((number, key.clone()));
        if kept.order.len() == 1 {
            inner.oldest.insert(number, partition);
        }
        inner.changes += 1;
        inner.bytes += grown;
        while inner.bytes > self.bytes_max {
            let Some((_, partition)) = inner.oldest.first_key_value() else { return };
            let partition = *partition;
            inner.forget_oldest(partition);
        }
    }

    /// Cuts below `cut` are not read any more.
    pub(crate) fn release(&self, partition: PartitionId, cut: Hlc) {
        let mut inner = self.inner.lock();
        while inner.oldest_of(partition).is_some_and(|hlc| hlc < cut) {
            inner.forget_oldest(partition);
        }
    }

    /// Somebody asks for a cut of the partition.
    pub(crate) fn ask(&self, partition: PartitionId, now: Duration) {
        if let Some(kept) = self.inner.lock().partitions.get_mut(&partition) {
            kept.asked_at = now;
        }
    }

    /// When somebody asked last; `None`: the partition is not kept.
    pub(crate) fn asked_at(&self, partition: PartitionId) -> Option<Duration> {
        Some(self.inner.lock().partitions.get(&partition)?.asked_at)
    }

    /// The first cut of a partition that can be read; `None`: none can.
    pub(crate) fn floor(&self, partition: PartitionId) -> Option<Hlc> {
        Some(self.inner.lock().partitions.get(&partition)?.floor)
    }

    /// Bytes that are kept, with what they are charged for.
    pub(crate) fn bytes(&self) -> usize {
        self.inner.lock().bytes
    }

    /// A row as of a cut. `stored` must have been read before, and after the cut became safe.
    pub(crate) fn row_at(
        &self,
        partition: PartitionId,
        key: &EncodedKey,
        cut: Hlc,
        stored: Option<Bytes>,
    ) -> Result<Option<Bytes>, StoreError> {
        let inner = self.inner.lock();
        let kept = inner.readable(partition, cut)?;
        kept.rows.get(key).map_or(Ok(stored), |changed| changed.at(cut))
    }

    /// At most `max` rows in a range that have changed, as of a cut, in a direction.
    pub(crate) fn rows_at(
        &self,
        partition: PartitionId,
        cut: Hlc,
        (start, end): (&EncodedKey, Option<&EncodedKey>),
        direction: Direction,
        max: usize,
    ) -> Result<Vec<(EncodedKey, Option<Bytes>)>, StoreError> {
        let inner = self.inner.lock();
        let kept = inner.readable(partition, cut)?;
        if end.is_some_and(|end| end <= start) {
            return Ok(Vec::new());
        }
        let end = end.map_or(Bound::Unbounded, Bound::Excluded);
        let range = kept.rows.range::<EncodedKey, _>((Bound::Included(start), end));
        let row = |(key, changed): (&EncodedKey, &Changed)| Ok((key.clone(), changed.at(cut)?));
        match direction {
            Direction::Forward => range.take(max).map(row).collect(),
            Direction::Backward => range.rev().take(max).map(row).collect(),
        }
    }
}

impl Inner {
    fn forget(&mut self, partition: PartitionId) {
        let Some(kept) = self.partitions.remove(&partition) else { return };
        if let Some((number, _)) = kept.order.front() {
            self.oldest.remove(number);
        }
        for (key, changed) in &kept.rows {
            let deltas = changed.changes.iter().map(|(_, delta)| size_of_change(key, delta));
            self.bytes -= changed.size(key) + deltas.sum::<usize>();
        }
    }

    /// The moment of a partition's oldest change.
    fn oldest_of(&self, partition: PartitionId) -> Option<Hlc> {
        let kept = self.partitions.get(&partition)?;
        let (_, key) = kept.order.front()?;
        kept.rows.get(key)?.changes.front().map(|(hlc, _)| *hlc)
    }

    /// The oldest change of a partition goes into the row before it, and cuts that would need the
    /// row without it cannot be read any more.
    fn forget_oldest(&mut self, partition: PartitionId) {
        let Some(kept) = self.partitions.get_mut(&partition) else { return };
        let Some((number, key)) = kept.order.pop_front() else { return };
        self.oldest.remove(&number);
        if let Some((next, _)) = kept.order.front() {
            self.oldest.insert(*next, partition);
        }
        let Some(changed) = kept.rows.get_mut(&key) else { return };
        let size = changed.size(&key);
        let Some((hlc, delta)) = changed.changes.pop_front() else { return };
        self.bytes -= size + size_of_change(&key, &delta);
        kept.floor = kept.floor.max(hlc.next());
        if changed.changes.is_empty() {
            kept.rows.remove(&key);
            return;
        }
        let merged = |before: Option<&Bytes>| -> Result<Option<Bytes>, StoreError> {
            let mut row = before.map(decode).transpose()?.unwrap_or_default();
            row.merge(&decode(&delta)?);
            Ok(packed(&row))
        };
        changed.before = merged(changed.before.as_ref()).expect("it was packed here");
        self.bytes += changed.size(&key);
    }

    fn readable(&self, partition: PartitionId, cut: Hlc) -> Result<&Kept, StoreError> {
        let kept = self.partitions.get(&partition);
        let floor = kept.map_or(Hlc::MAX, |kept| kept.floor);
        kept.filter(|_| cut >= floor).ok_or(StoreError::CutGone { cut, floor })
    }
}

#[cfg(test)]
mod tests;
