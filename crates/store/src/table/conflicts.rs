//! The log of conflicts: what this region has written and another one, neither having seen the
//! other.
//!
//! A conflict is kept with the batch that applies the other region's entry. The log is bounded in
//! number and bytes; the oldest goes first, and numbers tell how many have gone.

use std::collections::{BTreeMap, VecDeque};

use isthmus_model::change::Direction;
use isthmus_model::conflict::{Side, conflicts};
use isthmus_model::hlc::{Hlc, Stamp};
use isthmus_model::ids::{Origin, PartitionId};
use isthmus_model::key::EncodedKey;
use isthmus_model::row::Row;

use crate::engine::{BatchWrite, Snapshot, Space};
use crate::error::StoreError;
use crate::keys::conflict::{self, Noticed};
use crate::limits::{CONFLICT_BYTES_MAX, CONFLICTS_MAX};
use crate::partition::Inner;
use crate::spec::Writers;
use crate::table::Table;

/// How many conflicts there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConflictCounts {
    /// Ever noticed here.
    pub noticed: u64,
    /// Of them, those that are not kept any more.
    pub dropped: u64,
}

/// Which conflicts are kept.
#[derive(Debug, Default)]
pub(crate) struct ConflictLog {
    /// Numbers given so far.
    last: u64,
    /// Bytes of those that are kept, the oldest first.
    sizes: VecDeque<usize>,
    bytes: usize,
    /// Noticed since the store was opened, by the name of their rule and the other region.
    noticed: BTreeMap<(&'static str, Origin), u64>,
}

impl ConflictLog {
    /// What a snapshot holds.
    pub(crate) fn read(
        snapshot: &dyn Snapshot,
        partition: PartitionId,
    ) -> Result<ConflictLog, StoreError> {
        let mut log = ConflictLog::default();
        let (start, end) = conflict::range(partition);
        for pair in snapshot.scan(Space::Meta, &start, Some(&end), Direction::Forward) {
            let (key, value) = pair?;
            let damaged = StoreError::corrupt("key of a conflict");
            (_, log.last) = conflict::decode_key(&key).map_err(damaged)?;
            log.keep(value.len());
        }
        Ok(log)
    }

    fn keep(&mut self, bytes: usize) {
        self.sizes.push_back(bytes);
        self.bytes += bytes;
    }

    fn counts(&self) -> ConflictCounts {
        ConflictCounts { noticed: self.last, dropped: self.last - self.sizes.len() as u64 }
    }

    /// The writes that keep one more, and drop what is too much.
    fn add(&mut self, partition: PartitionId, noticed: &Noticed) -> Vec<BatchWrite> {
        let write = |number, value| {
            let key = conflict::encode_key(partition, number);
            BatchWrite { space: Space::Meta, key, value }
        };
        let value = conflict::encode_value(noticed);
        self.last += 1;
        let conflict = &noticed.conflict;
        let kind = (conflict.rule.as_str(), conflict.there.stamp.origin);
        *self.noticed.entry(kind).or_default() += 1;
        self.keep(value.len());
        let mut writes = vec![write(self.last, Some(value))];
        while self.sizes.len() > CONFLICTS_MAX
            || (self.bytes > CONFLICT_BYTES_MAX && self.sizes.len() > 1)
        {
            writes.push(write(self.last + 1 - self.sizes.len() as u64, None));
            self.bytes -= self.sizes.pop_front().unwrap_or_default();
        }
        writes
    }
}

impl Table {
    /// Conflicts that are kept, the newest first, with their numbers: of one row or of all, those
    /// before number `before`, at most `limit`.
    pub fn conflicts(
        &self,
        key: Option<&EncodedKey>,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<(u64, Noticed)>, StoreError> {
        let (start, mut end) = conflict::range(self.partition());
        if let Some(before) = before {
            end = conflict::encode_key(self.partition(), before);
        }
        let snapshot = self.core.engine.snapshot()?;
        let mut found = Vec::new();
        for pair in snapshot.scan(Space::Meta, &start, Some(&end), Direction::Forward) {
            let (stored_key, value) = pair?;
            let damaged = |source| StoreError::Corrupt { what: "conflict", source };
            let (_, number) = conflict::decode_key(&stored_key).map_err(damaged)?;
            let noticed = conflict::decode_value(&value).map_err(damaged)?;
            if key.is_none_or(|key| noticed.key == *key) {
                found.push((number, noticed));
            }
        }
        found.reverse();
        found.truncate(limit);
        Ok(found)
    }

    /// One conflict, if it is kept.
    pub fn conflict(&self, number: u64) -> Result<Option<Noticed>, StoreError> {
        let key = conflict::encode_key(self.partition(), number);
        let value = self.core.engine.get(Space::Meta, &key)?;
        let value = value.map(|value| conflict::decode_value(&value));
        value.transpose().map_err(StoreError::corrupt("conflict"))
    }

    /// How many conflicts there were.
    pub fn conflict_counts(&self) -> ConflictCounts {
        self.partition.inner.lock().conflicts.counts()
    }

    /// How many conflicts were noticed since the store was opened, by the name of their rule.
    pub fn conflicts_by_rule(&self) -> BTreeMap<&'static str, u64> {
        let mut by_rule = BTreeMap::new();
        for ((rule, _), count) in &self.partition.inner.lock().conflicts.noticed {
            *by_rule.entry(*rule).or_default() += count;
        }
        by_rule
    }

    /// How many conflicts with writes of another region were noticed since the store was opened.
    pub fn conflicts_with_region(&self, region: Origin) -> u64 {
        let inner = self.partition.inner.lock();
        let noticed = inner.conflicts.noticed.iter();
        noticed.filter(|((_, other), _)| *other == region).map(|(_, count)| count).sum()
    }

    /// The conflicts of a change from elsewhere with what this region has written. `seen` is what
    /// the other region had applied when it made the change; `None`: it does not tell.
    pub(crate) fn conflicts_with(
        &self,
        inner: &Inner,
        seen: Option<&[Stamp]>,
        key: &EncodedKey,
        row: &Row,
        delta: &Row,
    ) -> Vec<Noticed> {
        let Some(seen) = seen else { return Vec::new() };
        let own = self.own();
        let of_own = seen.iter().find(|seen| seen.origin == own);
        let until = of_own.map_or(Hlc::MIN, |seen| seen.hlc);
        let unseen = |stamp: Stamp| stamp.origin == own && stamp.hlc > until;
        let whole_rows = inner.spec.writers == Writers::ManyByRow;
        let at_millis = self.core.wall_millis();
        let value = |side: &Side| side.written.clone().map(|(_, value)| value);
        let found = conflicts(row, delta, unseen).into_iter();
        found
            // Where whole rows conflict, columns that neither has changed are written anew too.
            .filter(|one| !whole_rows || value(&one.here) != value(&one.there))
            .map(|conflict| Noticed { at_millis, key: key.clone(), conflict })
            .collect()
    }

    /// Keeps a conflict with the batch that is being made.
    pub(crate) fn keep_conflict(&self, inner: &mut Inner, noticed: &Noticed) {
        let writes = inner.conflicts.add(self.partition(), noticed);
        let bytes = |write: &BatchWrite| write.value.as_ref().map_or(0, |value| value.len());
        inner.part.bytes += writes.iter().map(bytes).sum::<usize>();
        inner.part.writes.extend(writes);
    }
}
