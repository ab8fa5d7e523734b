//! A table as of a cut: its rows as all entries below the cut make them, whatever came later.
//!
//! Rows that have not changed since are as they are stored, in a snapshot; the others are what
//! `past` has kept of them. The snapshot is taken before that is asked, so that a change which is
//! in the one is known to the other.

use std::collections::VecDeque;
use std::iter::Peekable;
use std::sync::Arc;

use bytes::Bytes;
use isthmus_model::change::Direction;
use isthmus_model::hlc::Hlc;
use isthmus_model::key::EncodedKey;

use crate::core::Core;
use crate::error::StoreError;
use crate::limits::CHANGED_ROWS;
use crate::snapshot::TableSnapshot;

/// A table as of a cut. Fails with `CutGone` as soon as what it needs is not kept any more.
pub struct TableCut {
    snapshot: TableSnapshot,
    core: Arc<Core>,
    cut: Hlc,
}

type Packed = Result<(EncodedKey, Bytes), StoreError>;

impl TableCut {
    pub(crate) fn new(snapshot: TableSnapshot, core: Arc<Core>, cut: Hlc) -> TableCut {
        TableCut { snapshot, core, cut }
    }

    /// A row in its packed form, with its tombstones.
    pub fn get_packed(&self, key: &EncodedKey) -> Result<Option<Bytes>, StoreError> {
        let stored = self.snapshot.get_packed(key)?;
        self.core.past.row_at(self.snapshot.spec().partition, key, self.cut, stored)
    }

    /// Several rows in their packed form, in the order of `keys`.
    pub fn get_many_packed(&self, keys: &[EncodedKey]) -> Result<Vec<Option<Bytes>>, StoreError> {
        keys.iter().map(|key| self.get_packed(key)).collect()
    }

    /// Rows in their packed form from `start` (inclusive) to `end` (exclusive; `None`: the last),
    /// with those that are nothing but tombstones. What has expired may still be in them.
    pub fn scan_packed(
        &self,
        start: &EncodedKey,
        end: Option<&EncodedKey>,
        direction: Direction,
    ) -> impl Iterator<Item = Packed> + Send + '_ {
        CutScan {
            of: self,
            stored: self.snapshot.scan_packed(start, end, direction).peekable(),
            direction,
            rest: Some((start.clone(), end.cloned())),
            changed: VecDeque::new(),
        }
    }
}

/// Stored rows and changed ones, in one order.
struct CutScan<'a, S: Iterator<Item = Packed>> {
    of: &'a TableCut,
    stored: Peekable<S>,
    direction: Direction,
    /// The part of the range whose changed rows were not asked for yet.
    rest: Option<(EncodedKey, Option<EncodedKey>)>,
    /// The next changed rows: `None`, there was no row.
    changed: VecDeque<(EncodedKey, Option<Bytes>)>,
}

impl<S: Iterator<Item = Packed>> CutScan<'_, S> {
    fn ask_for_changed(&mut self) -> Result<(), StoreError> {
        let Some((start, end)) = self.rest.take() else { return Ok(()) };
        let TableCut { snapshot, core, cut } = self.of;
        let (partition, range) = (snapshot.spec().partition, (&start, end.as_ref()));
        let found = core.past.rows_at(partition, *cut, range, self.direction, CHANGED_ROWS)?;
        self.rest =
            found.last().filter(|_| found.len() == CHANGED_ROWS).map(|(last, _)| {
                match self.direction {
                    Direction::Forward => (last.successor(), end),
                    Direction::Backward => (start, Some(last.clone())),
                }
            });
        self.changed = found.into();
        Ok(())
    }

    /// Whether the next changed row comes before the next stored one, or is the same.
    fn is_changed_next(&mut self) -> (bool, bool) {
        let Some((changed, _)) = self.changed.front() else { return (false, false) };
        match (self.stored.peek(), self.direction) {
            (Some(Ok((stored, _))), Direction::Forward) => (changed <= stored, changed == stored),
            (Some(Ok((stored, _))), Direction::Backward) => (changed >= stored, changed == stored),
            (Some(Err(_)), _) => (false, false),
            (None, _) => (true, false),
        }
    }
}

impl<S: Iterator<Item = Packed>> Iterator for CutScan<'_, S> {
    type Item = Packed;

    fn next(&mut self) -> Option<Packed> {
        loop {
            if self.changed.is_empty()
                && let Err(error) = self.ask_for_changed()
            {
                return Some(Err(error));
            }
            let (is_changed, is_stored_too) = self.is_changed_next();
            if !is_changed {
                return self.stored.next();
            }
            if is_stored_too {
                drop(self.stored.next());
            }
            if let Some((key, Some(row))) = self.changed.pop_front() {
                return Some(Ok((key, row)));
            }
        }
    }
}
