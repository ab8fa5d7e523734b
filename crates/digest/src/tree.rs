//! The digest of one partition: for each lane the leaves over the order of row keys.
//!
//! A leaf sums the parts of the rows in its range. Which ranges are leaves is a matter of
//! convenience: boundaries are taken where that is free (an append) or where rows were read
//! anyway, so two trees over the same rows agree in every sum over ranges that both can say, not
//! in their leaves. Pages of leaves are shared between copies and copied when written, so a copy
//! costs little. How a tree is stored and comes back after a crash is told in `checkpoint`.

mod checkpoint;
mod codec;
mod keys;
mod lane;
mod page;
mod scrubbed;
mod stretch;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use self::checkpoint::Sweep;
use self::lane::{Delta, LaneTree};
use crate::{Change, Hasher, Lane, Sum};

pub use self::scrubbed::ScrubbedRange;
pub use self::stretch::Stretch;

/// What a whole lane adds up to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LaneRoot {
    /// Which lane.
    pub lane: Lane,
    /// The sum of all its parts.
    pub sum: Sum,
    /// How many parts.
    pub rows: u64,
    /// How many leaves they lie in.
    pub leaves: u64,
}

/// One leaf: the parts of one lane in a range of keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leaf {
    /// The first key of the range. That of a lane's first leaf is empty.
    pub start: Vec<u8>,
    /// The first key beyond the range; none at the end of the lane.
    pub end: Option<Vec<u8>>,
    /// The sum of the parts.
    pub sum: Sum,
    /// How many parts.
    pub rows: u32,
    /// Zero bits of the start key's hash: the height of the boundary.
    pub zero_bits: u8,
    /// When the rows of the leaf were last read from disk, in minutes of the epoch; 0 if never.
    pub scrubbed_minute: u32,
}

/// A piece of a leaf that was found by reading rows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeafPart {
    /// The first key.
    pub start: Vec<u8>,
    /// Zero bits of the start key's hash.
    pub zero_bits: u8,
    /// The sum of the parts from here to the next start.
    pub sum: Sum,
    /// How many parts.
    pub rows: u32,
}

/// A leaf to be read and split.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SplitWanted {
    /// Which lane.
    pub lane: Lane,
    /// The leaf's first key.
    pub start: Vec<u8>,
    /// The first key beyond it.
    pub end: Option<Vec<u8>>,
    /// How many parts it holds.
    pub rows: u32,
}

/// One page to store, or to remove.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PageWrite {
    /// Which lane.
    pub lane: Lane,
    /// The page's first key, which names it within the lane.
    pub start: Vec<u8>,
    /// The page; none if it is gone.
    pub bytes: Option<Bytes>,
}

/// All lanes of one partition.
#[derive(Clone, Debug)]
pub struct Tree {
    lanes: BTreeMap<Lane, Arc<LaneTree>>,
    /// Time and Kills lanes below are gone.
    floor: (i64, u64),
    /// The floor that is stored.
    stored_floor: (i64, u64),
    /// Pages of dropped lanes that are stored still.
    gone: Vec<(Lane, Vec<u8>)>,
    /// Stored pages of lanes in which nothing lay any more, all those of a lane together.
    vacated: Vec<(Lane, Vec<Vec<u8>>)>,
    /// One beyond the last group that was applied.
    next: u64,
    /// `next` when a round of storing pages was begun last.
    noted: u64,
    /// The same of the last round that ended: changes of groups before it never come again.
    settled: u64,
    /// Counts rounds of checkpoints, from 1.
    tick: u32,
    sweep: Sweep,
}

/// Nothing is dropped yet.
const FLOOR: (i64, u64) = (i64::MIN, 0);

impl Default for Tree {
    fn default() -> Tree {
        Tree {
            lanes: BTreeMap::new(),
            floor: FLOOR,
            stored_floor: FLOOR,
            gone: Vec::new(),
            vacated: Vec::new(),
            next: 0,
            noted: 0,
            settled: 0,
            tick: 1,
            sweep: Sweep::Idle,
        }
    }
}

impl Tree {
    /// The digest of no rows.
    pub fn new() -> Tree {
        Tree::default()
    }

    /// Takes in a change of group `seq`. Groups come in their order, all changes of one before
    /// pages are taken for a checkpoint; those that a loaded page has already are skipped.
    pub fn apply(&mut self, hasher: &Hasher, seq: u64, change: &Change) {
        self.next = self.next.max(seq.saturating_add(1));
        match change {
            Change::Part { key, lane, delta, rows } => {
                if !self.is_dropped(*lane) {
                    let tick = self.tick;
                    let delta = Delta { key, sum: *delta, rows: i32::from(*rows) };
                    self.lane_mut(*lane).apply(hasher, seq, tick, delta);
                }
            }
            Change::DropTime(bucket) => self.drop_below((*bucket, self.floor.1)),
            Change::DropKills(bucket) => self.drop_below((self.floor.0, *bucket)),
        }
    }

    /// Takes a change back, the last one first. False if it cannot be: what a drop removed is
    /// not known any more.
    pub fn undo(&mut self, hasher: &Hasher, change: &Change) -> bool {
        let Change::Part { key, lane, delta, rows } = change else { return false };
        let tick = self.tick;
        // One that was dropped held nothing of it; one that is not there may have been vacated.
        if !self.is_dropped(*lane) {
            let delta = Delta { key, sum: *delta, rows: i32::from(*rows) };
            self.lane_mut(*lane).undo(hasher, tick, delta);
        }
        true
    }

    /// `Time` and `Kills` lanes below these are gone, and changes in them ignored.
    pub fn drop_floor(&self) -> (i64, u64) {
        self.floor
    }

    fn is_dropped(&self, lane: Lane) -> bool {
        is_below(lane, self.floor)
    }

    fn lane_mut(&mut self, lane: Lane) -> &mut LaneTree {
        Arc::make_mut(self.lanes.entry(lane).or_insert_with(|| Arc::new(LaneTree::new())))
    }

    fn drop_below(&mut self, floor: (i64, u64)) {
        let floor = (self.floor.0.max(floor.0), self.floor.1.max(floor.1));
        if floor == self.floor {
            return;
        }
        self.floor = floor;
        let gone = self.lanes.extract_if(.., |lane, _| is_below(*lane, floor));
        for (lane, tree) in gone {
            self.gone.extend(tree.stored_starts().map(|start| (lane, start)));
        }
        // The first page of this lane says what is dropped.
        let tick = self.tick;
        self.lane_mut(Lane::Data).touch(0, tick);
    }

    /// The lanes, in their order. Those that add up to zero and have no rows are left out.
    pub fn lanes(&self) -> Vec<LaneRoot> {
        let roots = self.lanes.iter().map(|(lane, tree)| LaneRoot {
            lane: *lane,
            sum: tree.sum,
            rows: u64::try_from(tree.rows).unwrap_or(0),
            leaves: tree.leaves,
        });
        roots.filter(|root| !root.sum.is_zero() || root.rows != 0).collect()
    }

    /// Parts in all lanes.
    pub fn rows(&self) -> u64 {
        self.lanes.values().map(|tree| u64::try_from(tree.rows).unwrap_or(0)).sum()
    }

    /// Leaves in all lanes.
    pub fn leaf_count(&self) -> u64 {
        self.lanes.values().map(|tree| tree.leaves).sum()
    }

    /// Memory that the tree takes, pages that it shares with copies included.
    pub fn memory_bytes(&self) -> usize {
        let vacated = self.vacated.iter().flat_map(|(_, starts)| starts);
        let gone = self.gone.iter().map(|(_, start)| start).chain(vacated);
        let gone: usize = gone.map(|start| 48 + start.capacity()).sum();
        self.lanes.values().map(|tree| tree.memory_bytes()).sum::<usize>() + gone
    }

    /// Places of the leaves of a lane that overlap `[start, end)`: pages and leaves in them.
    fn places<'a>(
        &'a self,
        lane: Lane,
        start: &[u8],
        end: Option<&[u8]>,
    ) -> impl Iterator<Item = (&'a LaneTree, usize, usize)> + use<'a> {
        let tree = self.lanes.get(&lane).map(|tree| &**tree);
        let tree = tree.filter(|_| end.is_none_or(|end| start < end));
        let bounds = tree.map(|tree| tree.bounds(start, end));
        tree.zip(bounds).into_iter().flat_map(|(tree, ((first, first_leaf), (last, last_end)))| {
            (first..=last).flat_map(move |at| {
                let from = if at == first { first_leaf } else { 0 };
                let to = if at == last { last_end } else { tree.slots[at].page.len() };
                (from..to).map(move |leaf| (tree, at, leaf))
            })
        })
    }

    /// The leaves of a lane that overlap `[start, end)`, in the order of keys. Without gaps: a
    /// lane that has anything has leaves for all keys.
    pub fn leaves<'a>(
        &'a self,
        lane: Lane,
        start: &[u8],
        end: Option<&[u8]>,
    ) -> impl Iterator<Item = Leaf> + use<'a> {
        self.places(lane, start, end).map(|(tree, at, leaf)| tree.leaf(at, leaf))
    }

    /// Leaves of at least so many rows that have grown far beyond their mean and have boundaries
    /// that were not taken: what to read to split them. Of one lane, ascending, and of about
    /// `rows_max` rows, but one in any case. They are asked for until they are split or skipped.
    pub fn wants_splits(&self, rows_max: u64, leaf_rows_min: u32) -> Vec<SplitWanted> {
        let least = i32::try_from(leaf_rows_min).unwrap_or(i32::MAX);
        let wants = move |facts: &page::Facts| facts.wants_split() && facts.rows >= least;
        let found = self.lanes.iter().find_map(|(lane, tree)| {
            let slots = tree.slots.iter().enumerate();
            let slots = slots.filter(move |(_, slot)| tree.splittable > 0 && slot.splittable > 0);
            let leaves = slots.flat_map(move |(at, slot)| {
                let leaves = slot.page.facts.iter().enumerate();
                leaves.filter(move |(_, facts)| wants(facts)).map(move |(leaf, _)| (at, leaf))
            });
            let mut leaves = leaves.peekable();
            leaves.peek().is_some().then_some((lane, tree, leaves))
        });
        let Some((lane, tree, leaves)) = found else { return Vec::new() };
        let mut rows_before = 0;
        let wanted = leaves.map(|(at, leaf)| {
            let Leaf { start, end, rows, .. } = tree.leaf(at, leaf);
            SplitWanted { lane: *lane, start, end, rows }
        });
        let is_within = |wanted: &SplitWanted| {
            let is_within = rows_before < rows_max;
            rows_before += u64::from(wanted.rows);
            is_within
        };
        wanted.take_while(is_within).collect()
    }

    /// One leaf that wants to be split.
    pub fn wants_split(&self) -> Option<SplitWanted> {
        self.wants_splits(1, 0).pop()
    }

    /// Splits a leaf at boundaries that were found by reading all its rows, the first part being
    /// at the leaf's start. A single part tells that there are none. False, and nothing happens,
    /// if the parts do not add up to the leaf: it changed since, or is wrong.
    pub fn split(&mut self, lane: Lane, start: &[u8], seq: u64, parts: &[LeafPart]) -> bool {
        self.next = self.next.max(seq.saturating_add(1));
        let tick = self.tick;
        let tree = self.lanes.get_mut(&lane);
        tree.is_some_and(|tree| Arc::make_mut(tree).split(start, tick, parts))
    }

    /// Does not ask for a leaf to be split again until more boundaries appear in it.
    pub fn skip_split(&mut self, lane: Lane, start: &[u8]) {
        let tick = self.tick;
        if let Some(tree) = self.lanes.get_mut(&lane) {
            Arc::make_mut(tree).skip_split(start, tick);
        }
    }

    /// Replaces what the leaves of a range say, as of group `seq`: after a scrub that proved
    /// them wrong, or while the tree is built. The parts ascend from the range's start; one
    /// that does not is added to the one before it. A leaf that reaches beyond the range is cut,
    /// and what remains of it outside keeps what the leaf said: right where the range ends at
    /// leaves, and where the rest is set as well, as building does.
    pub fn set_range(
        &mut self,
        lane: Lane,
        start: &[u8],
        end: Option<&[u8]>,
        seq: u64,
        parts: &[LeafPart],
    ) {
        self.next = self.next.max(seq.saturating_add(1));
        if self.is_dropped(lane) || end.is_some_and(|end| end <= start) {
            return;
        }
        let tick = self.tick;
        self.lane_mut(lane).set_range(start, end, tick, parts);
    }

    /// Tells that no key of a lane is beyond this one. After `set_range` up to a lane's end that
    /// is not known, and until then new keys at the end do not start leaves at once.
    pub fn note_last_key(&mut self, lane: Lane, key: &[u8]) {
        if let Some(tree) = self.lanes.get_mut(&lane) {
            Arc::make_mut(tree).note_last_key(key);
        }
    }

    /// Notes in all lanes when the leaves that lie within a range were read from disk.
    pub fn set_scrubbed(&mut self, start: &[u8], end: Option<&[u8]>, minute: u32) {
        let tick = self.tick;
        for tree in self.lanes.values_mut() {
            Arc::make_mut(tree).set_scrubbed(start, end, minute, tick);
        }
    }
}

impl LaneTree {
    /// The page and the leaf in it that hold `start`, and the page that holds the last key before
    /// `end` with the first leaf in it that is beyond.
    fn bounds(&self, start: &[u8], end: Option<&[u8]>) -> ((usize, usize), (usize, usize)) {
        let first = self.slot_of(start);
        let first_leaf = self.slots[first].page.keys.at_or_before(start).unwrap_or(0);
        let last = match end {
            Some(end) => self.starts.before(end).max(1) - 1,
            None => self.slots.len() - 1,
        };
        let keys = &self.slots[last].page.keys;
        ((first, first_leaf), (last, end.map_or(keys.len(), |end| keys.before(end))))
    }

    fn leaf(&self, at: usize, leaf: usize) -> Leaf {
        let page = &self.slots[at].page;
        let facts = &page.facts[leaf];
        let next = (leaf + 1 < page.len()).then(|| page.keys.get(leaf + 1));
        Leaf {
            start: page.keys.get(leaf),
            end: next.or_else(|| self.end_of(at)),
            sum: page.sums[leaf],
            rows: u32::try_from(facts.rows).unwrap_or(0),
            zero_bits: facts.zero_bits,
            scrubbed_minute: facts.scrubbed_minute,
        }
    }
}

fn is_below(lane: Lane, floor: (i64, u64)) -> bool {
    match lane {
        Lane::Data => false,
        Lane::Time(bucket) => bucket < floor.0,
        Lane::Kills(bucket) => bucket < floor.1,
    }
}

#[cfg(test)]
mod tests;
