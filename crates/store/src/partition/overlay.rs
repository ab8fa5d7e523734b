//! The overlay: rows that are accepted and not durable, or were so a moment ago.
//!
//! A row that is not durable is always in it, so that the next change is judged against what will
//! be there. Rows of the last few durable groups stay, so that what was read from the engine a
//! moment before need not be read again; how many is bounded.

use std::collections::btree_map::Entry;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use isthmus_digest::Parts;
use isthmus_model::hlc::Hlc;
use isthmus_model::key::EncodedKey;
use isthmus_model::row::Row;

use super::{At, Group, Inner};
use crate::codec::row::encode_row;
use crate::digest::{Before, Tag, kills_bucket};

/// Groups whose rows stay in the overlay after they are durable, so that rows read from the
/// engine a moment before need not be read again.
const GROUPS_KEPT_MAX: usize = 4;
/// Bytes of rows in such groups.
const KEPT_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A row that is accepted and not durable, or was so a moment ago.
pub(super) struct Overlaid {
    /// `None`: it is not kept.
    pub(super) row: Option<Arc<Row>>,
    /// What of it is in the digest.
    pub(super) parts: Parts,
    /// The group that has it last.
    pub(super) group: u64,
    /// Its place in the rows of that group.
    pub(super) place: usize,
}

/// The rows that a durable group has left in the overlay.
pub(super) struct Kept {
    group: u64,
    keys: Vec<EncodedKey>,
    bytes: usize,
}

/// A row as the next change must see it.
pub(crate) enum Seen {
    /// Not durable yet, in this group.
    Pending(Option<Arc<Row>>, u64),
    /// Durable since a moment.
    Settled(Option<Arc<Row>>),
    /// What is read from the engine holds.
    Durable,
}

impl Inner {
    /// How the next change must see a row.
    pub(crate) fn see(&self, key: &EncodedKey) -> Seen {
        match self.overlay.get(key) {
            Some(known) if known.group > self.finished => {
                Seen::Pending(known.row.clone(), known.group)
            }
            Some(known) => Seen::Settled(known.row.clone()),
            None => Seen::Durable,
        }
    }

    /// Keys in a range that are in the overlay, in order.
    pub(crate) fn overlaid_keys(
        &self,
        start: &EncodedKey,
        end: Option<&EncodedKey>,
    ) -> Vec<EncodedKey> {
        let inside = |key: &&EncodedKey| *key >= start && end.is_none_or(|end| *key < end);
        self.overlay.keys().filter(inside).cloned().collect()
    }

    /// Keys in a range that wait to become durable, in order.
    pub(crate) fn pending_keys(
        &self,
        start: &EncodedKey,
        end: Option<&EncodedKey>,
    ) -> Vec<EncodedKey> {
        if end.is_some_and(|end| end <= start) {
            return Vec::new();
        }
        let end = end.map_or(Bound::Unbounded, Bound::Excluded);
        let range = self.overlay.range::<EncodedKey, _>((Bound::Included(start), end));
        let pending = range.filter(|(_, known)| known.group > self.finished);
        pending.map(|(key, _)| key.clone()).collect()
    }

    /// Accepts a row as it is from now on. Forgets what is below the horizon. `before` is what of
    /// the row was in the digest (`parts_of`), unless the overlay tells.
    pub(crate) fn put_row(
        &mut self,
        key: EncodedKey,
        before: impl Into<Before>,
        mut row: Row,
        horizon: Hlc,
        at: At,
    ) {
        let Before { parts: before, tag } = before.into();
        row.purge(horizon);
        self.raise_kills_floor(horizon, at);
        let (row, value) = match row.is_bare() {
            true => (None, None),
            false => {
                let value = encode_row(&row);
                (Some(Arc::new(row)), Some(value))
            }
        };
        let parts = match (&row, &value) {
            (Some(row), Some(value)) => self.measure_row(&key, row, value),
            (Some(_) | None, Some(_) | None) => Parts::new(),
        };
        self.part.bytes += key.0.len() + value.as_ref().map_or(0, Bytes::len);
        let overlaid = self.store_named_row(key.clone(), tag, row, value, parts.clone());
        self.change_digest(&key, overlaid.unwrap_or(before), &parts, at);
    }

    /// Accepts bytes of a row, and says nothing of it to the digest.
    pub(crate) fn store_row(
        &mut self,
        key: EncodedKey,
        row: Option<Arc<Row>>,
        value: Option<Bytes>,
        parts: Parts,
    ) {
        self.store_named_row(key, None, row, value, parts);
    }

    /// As `store_row`, with the row's name in the cache. Gives what the overlay knew to be in the
    /// digest.
    fn store_named_row(
        &mut self,
        key: EncodedKey,
        tag: Option<Tag>,
        row: Option<Arc<Row>>,
        value: Option<Bytes>,
        parts: Parts,
    ) -> Option<Parts> {
        if let Some(tag) = self.tag(&key, tag) {
            self.uncached.push((tag, parts.clone()));
        }
        if let Some(row) = &row {
            self.note_kills(&key, row);
        }
        let (group, place) = (self.open_group, self.part.rows.len());
        match self.overlay.entry(key) {
            Entry::Occupied(mut known) if known.get().group == group => {
                let known = known.get_mut();
                known.row = row;
                self.part.rows[known.place].1 = value;
                Some(std::mem::replace(&mut known.parts, parts))
            }
            Entry::Occupied(mut known) => {
                self.part.rows.push((known.key().clone(), value));
                Some(known.insert(Overlaid { row, parts, group, place }).parts)
            }
            Entry::Vacant(free) => {
                self.part.rows.push((free.key().clone(), value));
                free.insert(Overlaid { row, parts, group, place });
                None
            }
        }
    }

    /// Takes note of what the sweep will find in a row.
    pub(crate) fn note_kills(&mut self, key: &EncodedKey, row: &Row) {
        if let Some(newest) = row.newest_kill() {
            self.kills.note(kills_bucket(newest), key);
        }
    }

    /// Keeps the rows of a group that became durable for a moment.
    pub(super) fn keep(&mut self, group: &Group) {
        let rows = &group.part.rows;
        let bytes = rows.iter().map(|(_, value)| value.as_ref().map_or(0, Bytes::len)).sum();
        let keys = rows.iter().map(|(key, _)| key.clone()).collect();
        self.kept.push_back(Kept { group: group.number, keys, bytes });
        let mut total: usize = self.kept.iter().map(|kept| kept.bytes).sum();
        while self.kept.len() > GROUPS_KEPT_MAX || total > KEPT_BYTES_MAX {
            let Some(oldest) = self.kept.pop_front() else { return };
            total -= oldest.bytes;
            for key in &oldest.keys {
                if self.overlay.get(key).is_some_and(|known| known.group <= oldest.group) {
                    self.overlay.remove(key);
                }
            }
        }
    }

    /// Whether rows read after `groups_finished` was asked are still the newest durable ones.
    pub(crate) fn is_current(&self, groups_finished: u64) -> bool {
        self.finished == groups_finished
    }

    /// Whether whatever became durable after `groups_finished` was asked is in the overlay.
    pub(crate) fn is_covered(&self, groups_finished: u64) -> bool {
        let oldest = self.kept.front().map_or(self.finished + 1, |kept| kept.group);
        groups_finished + 1 >= oldest
    }
}
