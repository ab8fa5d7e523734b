//! Sees every batch when it becomes durable, and keeps what all regions together should be.
//!
//! It knows the stored formats and nothing of how the store works. The checkers judge by it.

mod bindings;
mod conflicts;
mod moved;

use std::collections::{BTreeMap, BTreeSet};

use isthmus_model::apply::Granularity;
use isthmus_model::entry::{Entry, EntryBody};
use isthmus_model::expiry::{Expiry, add_expiry};
use isthmus_model::hlc::{Hlc, Stamp};
use isthmus_model::ids::{Lsn, Origin, PartitionId, SchemaNumber};
use isthmus_model::key::EncodedKey;
use isthmus_model::row::Row;
use isthmus_model::schema::Schema;
use isthmus_model::value::Value;
use isthmus_store::engine::Batch;
use isthmus_store::keys::partition::PartitionState;
use isthmus_store::{TableSpec, Writers};
use xxhash_rust::xxh3::xxh3_64;

use crate::branches::{BranchNumber, Branches};
use crate::checkers::registers::Expired;
use crate::checkers::{Violation, dropped, order, prefix, replay, stamps, writer};
use crate::roles::origin_of;

use self::bindings::Bindings;
pub(crate) use self::bindings::stamps_of;
use self::conflicts::{Conflicts, Knew, knew_before};
pub(crate) use self::moved::Moved;

/// An entry that its origin has made durable.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) entry: Entry,
    pub(crate) granularity: Granularity,
    pub(crate) expiry: Vec<Expiry>,
    /// The schema that it was judged under.
    pub(crate) schema: Option<Schema>,
    /// What its maker had applied of others by then; with several writers, where that is known.
    pub(crate) knew: Option<Knew>,
    /// Its rows as they were before it.
    before: Vec<(EncodedKey, Row)>,
}

impl Known {
    /// What it changes in a row.
    pub(crate) fn delta(&self, key: &EncodedKey) -> Option<&Row> {
        let EntryBody::Rows(rows) = &self.entry.body else { return None };
        rows.iter().find(|row| row.key == *key).map(|row| &row.delta)
    }

    /// A row as it was before it.
    pub(crate) fn before(&self, key: &EncodedKey) -> Option<&Row> {
        self.before.iter().find(|(known, _)| known == key).map(|(_, row)| row)
    }
}

/// A partition of one node as it is durable.
#[derive(Clone, Debug)]
pub(crate) struct PartitionView {
    pub(crate) spec: TableSpec,
    pub(crate) state: PartitionState,
    /// Made from entries alone; kills are kept for ever.
    pub(crate) shadow: BTreeMap<EncodedKey, Row>,
    /// What was written.
    stored: BTreeMap<EncodedKey, Row>,
    /// Moment of the last entry that the node made itself.
    pub(crate) own_hlc: Hlc,
    /// The branch of the log that the node makes; with several writers.
    branch: BranchNumber,
    /// By origin, the branches of its log on which what was applied of it may lie; with several
    /// writers. Of others it is on the first.
    on: BTreeMap<Origin, BTreeSet<BranchNumber>>,
}

impl PartitionView {
    /// What has expired here.
    pub(crate) fn expired(&self) -> Expired<'_> {
        let families = &self.spec.schema.options.families;
        Expired { list: &self.state.expiry, families }
    }

    /// The branches of an origin's log on which what was applied of it may lie.
    pub(crate) fn on(&self, origin: Origin) -> BTreeSet<BranchNumber> {
        self.on.get(&origin).cloned().unwrap_or_else(|| BTreeSet::from([0]))
    }

    /// Everything of an origin is here through this.
    fn holds_of(&self, origin: Origin) -> Lsn {
        match self.spec.writers.are_many() {
            true => self.state.watermark(origin).map_or(Lsn(0), |mark| mark.lsn),
            false => self.state.lsn,
        }
    }

    /// The rows that were written.
    pub(crate) fn stored(&self) -> &BTreeMap<EncodedKey, Row> {
        &self.stored
    }

    /// The rows that were written, by key.
    pub(crate) fn stored_rows(&self) -> Vec<(EncodedKey, Row)> {
        self.stored.iter().map(|(key, row)| (key.clone(), row.clone())).collect()
    }
}

#[derive(Clone, Debug, Default)]
struct NodeView {
    partitions: BTreeMap<PartitionId, PartitionView>,
    promised: Hlc,
    /// A chunk of a copy was given to the node since the last batch.
    copying: BTreeSet<PartitionId>,
    /// The ends of logs that a disk had before an older one was put in its place.
    had: BTreeMap<PartitionId, Lsn>,
    /// What it had of others' logs then, or when it removed a dropped table.
    had_of: BTreeMap<(PartitionId, Origin), Lsn>,
}

impl NodeView {
    /// Keeps in mind what it has of the logs of all nodes in a partition that is about to go.
    fn keep_had_of(&mut self, nodes: usize, partition: PartitionId, now: &PartitionView) {
        for other in (0..nodes).map(origin_of) {
            let had = self.had_of.entry((partition, other)).or_default();
            *had = now.holds_of(other).max(*had);
        }
    }
}

/// A node's disk as it was.
#[derive(Clone, Debug)]
pub(crate) struct Saved(BTreeMap<PartitionId, PartitionView>);

/// Sees all.
#[derive(Debug)]
pub(crate) struct Observer {
    nodes: Vec<NodeView>,
    /// By partition, origin and the origin's LSN.
    pub(crate) known: BTreeMap<(PartitionId, Origin, Lsn), Known>,
    /// What was made before and after old disks were put back.
    branches: BTreeMap<(PartitionId, Origin), Branches>,
    stamps: BTreeSet<Stamp>,
    schemas: BTreeMap<(PartitionId, SchemaNumber), Schema>,
    /// Of tables with one writer: what each state of the origin shows.
    states: BTreeMap<(PartitionId, Lsn), u64>,
    /// Who writes tables with one writer.
    pub(crate) writers: writer::Writers,
    /// What all durable entries give together.
    pub(crate) truth: BTreeMap<PartitionId, BTreeMap<EncodedKey, Row>>,
    /// Where logs ended that are removed.
    removed: BTreeMap<(usize, PartitionId), Lsn>,
    /// Marks of changes that were refused for certain.
    refused: BTreeSet<String>,
    pub(crate) bindings: Bindings,
    pub(crate) conflicts: Conflicts,
    violation: Option<Violation>,
    notes: Vec<String>,
    batches: u64,
}

impl Observer {
    /// Nothing seen yet.
    pub(crate) fn new(nodes: usize) -> Observer {
        Observer {
            nodes: (0..nodes).map(|_| NodeView::default()).collect(),
            known: BTreeMap::new(),
            branches: BTreeMap::new(),
            stamps: BTreeSet::new(),
            schemas: BTreeMap::new(),
            states: BTreeMap::new(),
            writers: writer::Writers::default(),
            truth: BTreeMap::new(),
            removed: BTreeMap::new(),
            refused: BTreeSet::new(),
            bindings: Bindings::default(),
            conflicts: Conflicts::default(),
            violation: None,
            notes: Vec::new(),
            batches: 0,
        }
    }

    /// The first thing that did not hold.
    pub(crate) fn violation(&self) -> Option<Violation> {
        self.violation.clone()
    }

    /// What was seen since it was last asked.
    pub(crate) fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// Batches seen.
    pub(crate) fn batches(&self) -> u64 {
        self.batches
    }

    /// Keeps the first violation.
    pub(crate) fn judge(&mut self, checked: Result<(), Violation>) {
        if let Err(violation) = checked {
            self.violation.get_or_insert(violation);
        }
    }

    /// How many nodes there are.
    pub(crate) fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// A partition of a node.
    pub(crate) fn view(&self, node: usize, partition: PartitionId) -> Option<&PartitionView> {
        self.nodes.get(node)?.partitions.get(&partition)
    }

    /// All partitions of a node.
    pub(crate) fn partitions(
        &self,
        node: usize,
    ) -> impl Iterator<Item = (&PartitionId, &PartitionView)> {
        self.nodes.get(node).into_iter().flat_map(|view| &view.partitions)
    }

    /// What a table with one writer showed at an LSN of its origin.
    pub(crate) fn state_at(&self, partition: PartitionId, lsn: Lsn) -> Option<u64> {
        self.states.get(&(partition, lsn)).copied()
    }

    /// The end of the longest log of a partition.
    pub(crate) fn longest_log(&self, partition: PartitionId) -> Lsn {
        let counts = |node: &usize| !self.is_apart(*node, partition);
        let nodes = (0..self.nodes.len()).filter(counts);
        let ends = nodes.map(|node| self.durable_lsn(node, partition));
        ends.max().unwrap_or_default()
    }

    /// The end of a node's log, or the end that it has had; also of a dropped table that it has
    /// removed.
    pub(crate) fn durable_lsn(&self, node: usize, partition: PartitionId) -> Lsn {
        let had = self.nodes.get(node).and_then(|view| view.had.get(&partition)).copied();
        let has = self.view(node, partition).map_or(Lsn(0), |view| view.state.lsn);
        let removed = self.removed.get(&(node, partition)).copied();
        has.max(had.or(removed).unwrap_or_default())
    }

    /// Whether an older disk was put in the place of a node's, with a partition on it.
    pub(crate) fn was_put_back(&self, node: usize, partition: PartitionId) -> bool {
        self.nodes.get(node).is_some_and(|view| view.had.contains_key(&partition))
    }

    /// The branches of an origin's log; `None`: nothing of it was ever durable.
    pub(crate) fn branches(&self, partition: PartitionId, origin: Origin) -> Option<&Branches> {
        self.branches.get(&(partition, origin))
    }

    /// Whether a node holds an entry that another one has made a moment ago, or has had it and
    /// lost it since: with its disk, or with a table that is dropped everywhere.
    pub(crate) fn holds(
        &self,
        node: usize,
        maker: usize,
        partition: PartitionId,
        lsn: Lsn,
    ) -> bool {
        let origin = origin_of(maker);
        let had = self.nodes.get(node).and_then(|view| view.had_of.get(&(partition, origin)));
        if had.is_some_and(|had| *had >= lsn) {
            return true;
        }
        if self.is_apart(node, partition) {
            return self.follows_apart(node, partition, lsn);
        }
        let (Some(view), Some(made)) = (self.view(node, partition), self.view(maker, partition))
        else {
            return false;
        };
        let Some(branches) = self.branches(partition, origin) else { return false };
        let mut on = view.on(origin).into_iter();
        self.held(node, origin, partition) >= lsn
            && (!view.spec.writers.are_many()
                || on.any(|branch| branches.are_one(branch, made.branch, lsn)))
    }

    /// A node's disk as it is.
    pub(crate) fn save(&self, node: usize) -> Saved {
        let partitions = self.nodes.get(node).map(|view| view.partitions.clone());
        Saved(partitions.unwrap_or_default())
    }

    /// Whether others hold all that a node has made, and its disk has the tables that it had.
    pub(crate) fn can_lose(&self, node: usize, saved: &Saved) -> bool {
        let Some(now) = self.nodes.get(node) else { return false };
        let origin = origin_of(node);
        now.partitions.iter().all(|(partition, view)| {
            let range = (*partition, origin, Lsn(0))..=(*partition, origin, Lsn(u64::MAX));
            let made = self.known.range(range).next_back().map_or(Lsn(0), |((.., lsn), _)| *lsn);
            let held = self.nodes.iter().enumerate().filter(|(other, _)| *other != node);
            let held = held.filter_map(|(_, other)| other.partitions.get(partition));
            let held = held.map(|other| other.holds_of(origin));
            let had = saved.0.get(partition);
            had.is_some_and(|had| had.spec.writers == view.spec.writers)
                && held.max().unwrap_or_default() >= made
        })
    }

    /// An old copy takes the place of a node's disk.
    pub(crate) fn put_back(&mut self, node: usize, saved: Saved) {
        let nodes = self.nodes.len();
        let Some(view) = self.nodes.get_mut(node) else { return };
        let origin = origin_of(node);
        for (partition, now) in std::mem::replace(&mut view.partitions, saved.0) {
            let had = view.had.entry(partition).or_default();
            *had = now.state.lsn.max(*had);
            view.keep_had_of(nodes, partition, &now);
        }
        view.copying.clear();
        for (partition, back) in &mut view.partitions {
            // With one writer nothing is made before all that was lost is here again.
            if back.spec.writers.are_many() {
                let branches = self.branches.entry((*partition, origin)).or_default();
                back.branch = branches.fork(back.branch, back.state.lsn);
            }
        }
    }

    /// A node has everything of an origin durably through this.
    pub(crate) fn held(&self, node: usize, origin: Origin, partition: PartitionId) -> Lsn {
        self.view(node, partition).map_or(Lsn(0), |view| view.holds_of(origin))
    }

    /// Whether a stamp was not used before.
    pub(crate) fn is_new_stamp(&self, stamp: Stamp) -> bool {
        !self.stamps.contains(&stamp)
    }

    /// Below this a node has promised to make nothing more.
    pub(crate) fn promised(&self, node: usize) -> Hlc {
        self.nodes.get(node).map_or(Hlc::MIN, |view| view.promised)
    }

    /// A node has sent a promise.
    pub(crate) fn note_promise(&mut self, node: usize, hlc: Hlc) {
        if let Some(view) = self.nodes.get_mut(node) {
            view.promised = view.promised.max(hlc);
        }
    }

    /// A node was given a chunk of a copy.
    pub(crate) fn note_copy(&mut self, node: usize, partition: PartitionId) {
        if let Some(view) = self.nodes.get_mut(node) {
            view.copying.insert(partition);
        }
    }

    /// A node says that it holds an origin's log through `held`.
    pub(crate) fn note_ack(
        &mut self,
        node: usize,
        origin: Origin,
        partition: PartitionId,
        held: Lsn,
    ) {
        let has = self.held(node, origin, partition);
        if held > has && !self.is_apart(node, partition) && self.view(node, partition).is_some() {
            let what = format!("node {node} acknowledges {held} of {origin}, durable is {has}");
            self.judge(Err(Violation::of("order per origin", what)));
        }
    }

    /// A change with this mark was refused for certain.
    pub(crate) fn note_refused(&mut self, mark: String) {
        let shown = self.known.values().find(|known| has_mark(&known.entry, &mark));
        if let Some(known) = shown {
            let what = format!("{mark} was refused, and is in {:?}", known.entry);
            self.judge(Err(Violation::of("acknowledged is kept", what)));
        }
        self.refused.insert(mark);
    }

    /// A batch has become durable at a node.
    pub(crate) fn durable(&mut self, node: usize, batch: &Batch) {
        self.batches += 1;
        let mut digest = 0u64;
        for write in batch.writes() {
            let value = write.value.as_deref().unwrap_or_default();
            digest = xxh3_64(&[&digest.to_le_bytes()[..], &write.key, value].concat());
        }
        self.notes.push(format!("node {node} durable {digest:016x}"));
        let seen = self.take_in(node, batch);
        self.judge(seen);
    }

    fn take_in(&mut self, node: usize, batch: &Batch) -> Result<(), Violation> {
        for (partition, mut moved) in self.parse(node, batch)? {
            if let Some(state) = &moved.state {
                let origin = origin_of(node);
                self.notes.push(format!(
                    "node {node} partition {partition} at {} of which own {}, {} rows{}",
                    state.lsn,
                    moved.entries.iter().filter(|e| e.stamp.origin == origin).count(),
                    moved.rows.len(),
                    if moved.copied { ", copied" } else { "" },
                ));
            }
            let Some(nodes) = self.nodes.get_mut(node) else { continue };
            let mut view = match (nodes.partitions.remove(&partition), &moved.spec) {
                (Some(view), _) => view,
                (None, Some(spec)) => PartitionView {
                    spec: spec.clone(),
                    state: PartitionState::default(),
                    shadow: BTreeMap::new(),
                    stored: BTreeMap::new(),
                    own_hlc: Hlc::MIN,
                    branch: 0,
                    on: BTreeMap::new(),
                },
                (None, None) => continue,
            };
            if moved.removed {
                if !self.is_apart(node, partition) {
                    dropped::check_removal(self, node, &view)?;
                }
                self.removed.insert((node, partition), view.state.lsn);
                self.forget_conflicts(node, partition);
                // What it has held of others goes with a table that is dropped everywhere, and
                // those may answer writes after that which it had told to hold.
                let count = self.nodes.len();
                if let Some(nodes) = self.nodes.get_mut(node) {
                    nodes.keep_had_of(count, partition, &view);
                }
                continue;
            }
            let taken = self.take_moved(node, &mut view, &mut moved);
            if let Some(nodes) = self.nodes.get_mut(node) {
                nodes.partitions.insert(partition, view);
            }
            taken?;
        }
        Ok(())
    }

    fn take_moved(
        &mut self,
        node: usize,
        view: &mut PartitionView,
        moved: &mut Moved,
    ) -> Result<(), Violation> {
        if self.is_apart(node, view.spec.partition) {
            self.take_apart(node, view, moved);
            return Ok(());
        }
        let spec = moved.spec.as_ref();
        moved.became_many = spec.is_some_and(|spec| spec.writers != view.spec.writers);
        if let Some(schema) = spec.map(|spec| &spec.schema) {
            self.schemas.insert((view.spec.partition, schema.number), schema.clone());
        }
        let followed = order::check(self, node, view, moved)?;
        view.on.extend(followed);
        dropped::check(node, view, moved)?;
        // Rows of a copy in the same batch are not known one by one.
        let changing = moved.became_many || moved.copied;
        let (mut knew, mut asked) = (knew_before(view), Vec::new());
        for entry in &moved.entries {
            stamps::check(self, node, view, entry)?;
            if entry.stamp.origin == origin_of(node) {
                let knew = (!changing && view.spec.writers.are_many()).then(|| knew.clone());
                self.learn(view, entry, changing, knew)?;
                view.own_hlc = entry.stamp.hlc;
            } else {
                asked.extend(self.asked_of(node, view, entry));
                knew.insert(entry.stamp.origin, entry.origin_lsn);
            }
            take_entry(view, entry);
            if entry.stamp.origin == origin_of(node) && !view.spec.writers.are_many() {
                let digest = prefix::digest(&view.shadow, view.expired());
                self.states.insert((view.spec.partition, entry.lsn), digest);
            }
        }
        self.take_conflicts(node, view, moved, &asked, !changing)?;
        if let Some(spec) = &moved.spec {
            view.spec = spec.clone();
        }
        if let Some(state) = &moved.state {
            view.state = state.clone();
            let branches = self.branches.entry((view.spec.partition, origin_of(node))).or_default();
            branches.durable(view.branch, state.lsn);
        }
        let mut touched: BTreeSet<EncodedKey> = moved.rows.keys().cloned().collect();
        touched.extend(moved.entries.iter().flat_map(keys_of).cloned());
        for (key, row) in &moved.rows {
            match row.is_bare() {
                true => view.stored.remove(key),
                false => view.stored.insert(key.clone(), row.clone()),
            };
        }
        for key in touched {
            let shadow = view.shadow.get(&key).cloned().unwrap_or_default();
            let stored = view.stored.get(&key).cloned().unwrap_or_default();
            let partition = view.spec.partition;
            let alone = |stamp| self.is_alone(partition, &key, stamp);
            let expired = view.expired();
            let next = replay::check((node, &key), shadow, &stored, expired, moved.copied, alone)?;
            view.shadow.insert(key, next);
        }
        Ok(())
    }

    /// Takes note of an entry that its origin has made durable.
    fn learn(
        &mut self,
        view: &PartitionView,
        entry: &Entry,
        changing: bool,
        knew: Option<Knew>,
    ) -> Result<(), Violation> {
        let partition = view.spec.partition;
        self.stamps.insert(entry.stamp);
        self.note_made(partition, entry);
        if !view.spec.writers.are_many() {
            self.writers.made(partition, entry.stamp.origin, entry)?;
        }
        if let Some(mark) = self.refused.iter().find(|mark| has_mark(entry, mark)) {
            let what = format!("{mark} was refused, and is in {entry:?}");
            return Err(Violation::of("acknowledged is kept", what));
        }
        let schema = self.schemas.get(&(partition, entry.schema)).cloned();
        let has_rules = schema.as_ref().is_some_and(|schema| schema.options.rules.is_some());
        let granularity = match view.spec.writers {
            Writers::ManyByColumn if has_rules => Granularity::ByRule,
            Writers::One | Writers::ManyByColumn => Granularity::Change,
            Writers::ManyByRow if has_rules => Granularity::WholeRowByRule,
            Writers::ManyByRow => Granularity::WholeRow,
        };
        let before = keys_of(entry)
            .filter(|_| !changing)
            .map(|key| (key.clone(), view.shadow.get(key).cloned().unwrap_or_default()))
            .collect();
        let truth = self.truth.entry(partition).or_default();
        match &entry.body {
            EntryBody::Rows(rows) => {
                for row in rows {
                    truth.entry(row.key.clone()).or_default().merge(&row.delta);
                }
            }
            EntryBody::Schema(schema) => {
                self.schemas.insert((partition, schema.number), schema.clone());
            }
            EntryBody::Expiry(_)
            | EntryBody::Handover(_)
            | EntryBody::Opening
            | EntryBody::Settled(_)
            | EntryBody::Intent(_)
            | EntryBody::Abandoned(_)
            | EntryBody::Forgotten(_) => {}
        }
        let known = Known {
            entry: entry.clone(),
            granularity,
            expiry: view.state.expiry.clone(),
            schema,
            knew,
            before,
        };
        let branches = self.branches.entry((partition, entry.stamp.origin)).or_default();
        branches.made(view.branch, entry.origin_lsn);
        self.known.insert((partition, entry.stamp.origin, entry.origin_lsn), known);
        Ok(())
    }
}

fn take_entry(view: &mut PartitionView, entry: &Entry) {
    match &entry.body {
        EntryBody::Rows(rows) => {
            for row in rows {
                let shadow = view.shadow.entry(row.key.clone()).or_default();
                shadow.merge(&row.delta);
                let list = &view.state.expiry;
                let families = &view.spec.schema.options.families;
                Expired { list, families }.remove_from(shadow);
            }
        }
        EntryBody::Expiry(expiry) => add_expiry(&mut view.state.expiry, *expiry),
        EntryBody::Schema(schema) if schema.number > view.spec.schema.number => {
            view.spec.schema = schema.clone();
        }
        EntryBody::Schema(_)
        | EntryBody::Handover(_)
        | EntryBody::Opening
        | EntryBody::Settled(_)
        | EntryBody::Intent(_)
        | EntryBody::Abandoned(_)
        | EntryBody::Forgotten(_) => {}
    }
}

fn keys_of(entry: &Entry) -> impl Iterator<Item = &EncodedKey> {
    let rows = match &entry.body {
        EntryBody::Rows(rows) => &rows[..],
        EntryBody::Schema(_)
        | EntryBody::Expiry(_)
        | EntryBody::Handover(_)
        | EntryBody::Opening
        | EntryBody::Settled(_)
        | EntryBody::Intent(_)
        | EntryBody::Abandoned(_)
        | EntryBody::Forgotten(_) => &[],
    };
    rows.iter().map(|row| &row.key)
}

/// Whether a change with this mark is in an entry.
fn has_mark(entry: &Entry, mark: &str) -> bool {
    let EntryBody::Rows(rows) = &entry.body else { return false };
    let columns = || rows.iter().flat_map(|row| &row.delta.columns);
    let shared = columns().flat_map(|column| column.shares()).map(|share| &share.value);
    let cells = columns().flat_map(|column| &column.cells);
    cells.filter_map(|cell| cell.value.as_ref()).chain(shared).any(|value| match value {
        Value::String(text) => text.as_str() == mark,
        Value::Integer(_) | Value::Double(_) | Value::Boolean(_) | Value::Binary(_) => false,
    })
}
