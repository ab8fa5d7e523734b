//! Regions that leave a table and hold it again.
//!
//! With several writers what such a region wrote alone comes back by the time at which it was
//! written; the others may have forgotten what would have killed it, so it may show although all
//! entries together say that it is deleted, until somebody deletes it who had it. With one writer
//! what it has is a table of its own until it is whole again, and nothing of it counts.

use std::collections::{BTreeMap, BTreeSet};

use isthmus_model::entry::EntryBody;
use isthmus_model::hlc::{Hlc, Stamp};
use isthmus_model::ids::{Lsn, PartitionId};
use isthmus_model::key::EncodedKey;
use isthmus_model::row::Row;
use isthmus_store::Writing;

use super::{Moved, Observer, PartitionView, take_entry};
use crate::checkers::registers::kills;
use crate::roles::{node_of, origin_of};

/// What is known of regions that come and go.
#[derive(Debug, Default)]
pub(crate) struct Bindings {
    /// Replicas with one writer that are tables of their own, or not whole again.
    apart: BTreeSet<(usize, PartitionId)>,
    /// Regions that have left and are not bound again.
    left: BTreeSet<(usize, PartitionId)>,
    /// What regions wrote alone, by row and moment, and since when nobody forgets a kill of it.
    alone: BTreeMap<(PartitionId, EncodedKey, Stamp), Hlc>,
    /// Where replicas that take what comes may have begun.
    begins: BTreeMap<(usize, PartitionId), Vec<Lsn>>,
    bound_again: u64,
}

/// Moments of registers of a row that is shown.
pub(crate) fn stamps_of(row: &Row) -> impl Iterator<Item = Stamp> {
    let cells = row.columns.iter().flat_map(|column| &column.cells);
    cells.filter(|cell| cell.value.is_some()).map(|cell| cell.stamp).chain(row.marker)
}

impl Observer {
    /// A node leaves a table, or goes on with that.
    pub(crate) fn leaves(&mut self, node: usize, partition: PartitionId) {
        self.bindings.left.insert((node, partition));
        let is_of_one = self.view(node, partition).is_some_and(|v| !v.spec.writers.are_many());
        if is_of_one && self.bindings.apart.insert((node, partition)) {
            let count = self.nodes.len();
            if let Some(view) = self.nodes.get_mut(node)
                && let Some(now) = view.partitions.get(&partition).cloned()
            {
                // What it was said to hold it has held.
                view.keep_had_of(count, partition, &now);
            }
        }
    }

    /// A node is to take less than all of a table.
    pub(crate) fn takes_less(&mut self, node: usize, partition: PartitionId) {
        self.bindings.apart.insert((node, partition));
    }

    /// Where a replica that takes what comes may have begun.
    pub(crate) fn extract_begins(&self, node: usize, partition: PartitionId) -> Vec<Lsn> {
        let begins = self.bindings.begins.get(&(node, partition));
        begins.cloned().unwrap_or_else(|| vec![Lsn(0)])
    }

    /// A node that has left is being bound, or has just been: what it has written that the base,
    /// which copies to it first, has not heard of.
    pub(crate) fn is_bound(&mut self, node: usize, partition: PartitionId, base: usize) {
        if !self.bindings.left.contains(&(node, partition)) {
            return;
        }
        let Some(view) = self.view(node, partition) else { return };
        if !view.spec.writers.are_many() {
            return;
        }
        let origin = origin_of(node);
        let heard = self.held(base, origin, partition);
        let promised = (0..self.nodes.len()).map(|node| self.promised(node)).max();
        let since = promised.unwrap_or(Hlc::MIN);
        let range = (partition, origin, heard.next())..=(partition, origin, Lsn(u64::MAX));
        let mut alone = Vec::new();
        for known in self.known.range(range).map(|(_, known)| known) {
            let EntryBody::Rows(rows) = &known.entry.body else { continue };
            for row in rows {
                let shown = view.shadow.get(&row.key);
                let stamp = known.entry.stamp;
                if shown.is_some_and(|shown| stamps_of(shown).any(|one| one == stamp)) {
                    alone.push((partition, row.key.clone(), stamp));
                }
            }
        }
        for written in alone {
            self.bindings.alone.entry(written).or_insert(since);
        }
    }

    /// A node that had left is bound.
    pub(crate) fn has_joined(&mut self, node: usize, partition: PartitionId) {
        self.bindings.bound_again += u64::from(self.bindings.left.remove(&(node, partition)));
    }

    /// Whether a node has left a table, or was never bound again.
    pub(crate) fn has_left(&self, node: usize, partition: PartitionId) -> bool {
        self.bindings.left.contains(&(node, partition))
    }

    /// What all durable entries give together, but for those of nodes that are `out` of a table and
    /// that nobody who is in it has ever had.
    pub(crate) fn truth_without(
        &self,
        partition: PartitionId,
        in_it: &[usize],
        out: &[usize],
    ) -> BTreeMap<EncodedKey, Row> {
        let mut rows = BTreeMap::<EncodedKey, Row>::new();
        for ((known_of, origin, lsn), known) in &self.known {
            let held = in_it.iter().map(|node| self.held(*node, *origin, partition)).max();
            let is_known = !out.contains(&node_of(*origin)) || held >= Some(*lsn);
            if let (EntryBody::Rows(deltas), true) = (&known.entry.body, *known_of == partition)
                && is_known
            {
                for row in deltas {
                    rows.entry(row.key.clone()).or_default().merge(&row.delta);
                }
            }
        }
        rows
    }

    /// A replica that was apart has all again.
    pub(crate) fn counts_again(&mut self, node: usize, partition: PartitionId) {
        let has_left = self.bindings.left.contains(&(node, partition));
        if has_left || !self.bindings.apart.remove(&(node, partition)) {
            return;
        }
        let view = self.nodes.get_mut(node).and_then(|view| view.partitions.get_mut(&partition));
        if let Some(view) = view {
            view.shadow.clone_from(&view.stored);
        }
    }

    /// Whether a replica with one writer is a table of its own, or not whole again.
    pub(crate) fn is_apart(&self, node: usize, partition: PartitionId) -> bool {
        self.bindings.apart.contains(&(node, partition))
    }

    /// Whether a replica with one writer of which nothing else counts has come so far in the log of
    /// the others.
    pub(super) fn follows_apart(&self, node: usize, partition: PartitionId, lsn: Lsn) -> bool {
        self.view(node, partition)
            .is_some_and(|view| view.spec.writing == Writing::Refuse && view.state.lsn >= lsn)
    }

    /// How often a region that had left held a table again.
    pub(crate) fn bound_again(&self) -> u64 {
        self.bindings.bound_again
    }

    /// Whether something in a row was written alone.
    pub(crate) fn has_alone(&self, partition: PartitionId, key: &EncodedKey) -> bool {
        let zero = Stamp { hlc: Hlc::MIN, origin: isthmus_model::ids::Origin(0) };
        let mut from = self.bindings.alone.range((partition, key.clone(), zero)..);
        from.next().is_some_and(|((p, k, _), _)| *p == partition && k == key)
    }

    /// Whether this was written alone.
    pub(crate) fn is_alone(&self, partition: PartitionId, key: &EncodedKey, stamp: Stamp) -> bool {
        self.bindings.alone.contains_key(&(partition, key.clone(), stamp))
    }

    /// Whether what a row shows of a moment may show, though all entries together have killed it:
    /// it was written alone, and nothing has killed it since.
    pub(crate) fn may_show(
        &self,
        partition: PartitionId,
        key: &EncodedKey,
        shown: &Row,
        stamp: Stamp,
    ) -> bool {
        let Some(since) = self.bindings.alone.get(&(partition, key.clone(), stamp)) else {
            return false;
        };
        let mut part = shown.clone();
        part.marker = part.marker.filter(|one| *one == stamp);
        part.columns.iter_mut().for_each(|c| c.cells.retain(|cell| cell.stamp == stamp));
        let before = stamps_of(&part).count();
        let of_partition = self.known.iter().filter(|((p, ..), _)| *p == partition);
        for (_, known) in of_partition.filter(|(_, known)| known.entry.stamp.hlc >= *since) {
            if let Some(delta) = known.delta(key) {
                part.merge(&kills(delta));
            }
        }
        stamps_of(&part).filter(|one| *one == stamp).count() == before
    }

    /// The first entries of a replica that takes what comes: one that only brings the schema stands
    /// for all that is left out.
    fn note_begin(&mut self, node: usize, view: &PartitionView, moved: &Moved) {
        let partition = view.spec.partition;
        let is_first = view.state.lsn == Lsn(0);
        let Some(first) = moved.entries.first().filter(|_| is_first) else { return };
        let at = first.lsn;
        let made = self.known.iter().filter(|((known, ..), _)| *known == partition);
        let made: Vec<_> = made.map(|(_, known)| &known.entry).collect();
        let is_schema = matches!(first.body, EntryBody::Schema(_));
        let is_known = made.iter().any(|entry| entry.lsn == at && entry.body == first.body);
        let begins = match (is_schema, is_known) {
            (true, false) => vec![at],
            (true, true) => vec![Lsn(0), at],
            (false, _) => vec![Lsn(0)],
        };
        self.bindings.begins.insert((node, partition), begins);
    }

    /// Takes note of what became durable at a replica of which nothing counts.
    pub(super) fn take_apart(&mut self, node: usize, view: &mut PartitionView, moved: &Moved) {
        self.note_begin(node, view, moved);
        moved.entries.iter().for_each(|entry| take_entry(view, entry));
        if let Some(state) = &moved.state {
            view.state = state.clone();
        }
        if let Some(spec) = &moved.spec {
            let count = self.nodes.len();
            if let Some(known) = self.nodes.get_mut(node)
                && (view.spec.writing, spec.writing) == (Writing::Refuse, Writing::Accept)
            {
                // What it had acknowledged by then it has held.
                known.keep_had_of(count, view.spec.partition, view);
            }
            view.spec = spec.clone();
        }
        for (key, row) in &moved.rows {
            match row.is_bare() {
                true => view.stored.remove(key),
                false => view.stored.insert(key.clone(), row.clone()),
            };
        }
        view.shadow.clone_from(&view.stored);
    }
}
