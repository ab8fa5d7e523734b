//! Checkpoints: how pages are stored while changes go on, and how a tree comes back.
//!
//! A round notes a group, then stores every page that was dirty by then, in several batches;
//! once all are stored the redo log up to that group is forgotten. Each page says up to which
//! group it is right, so after a crash the redo log is replayed and every page takes only what it
//! lacks. A crash between two batches leaves pages of different times: pages are stored from the
//! greatest key down, so a page that was divided is cut, when it is loaded, at the start of the
//! newer page that follows it. Where the cut would go through one of its leaves the pages are
//! given in one batch instead (see `lane`). Pages that are loaded cover every lane without gap or
//! overlap, or loading fails.
//!
//! A lane in which nothing lies any more is stored as empty, and when a later round has ended, so
//! that no change from before comes again, it goes, and so do its pages: a lane that is not there
//! is one in which nothing lies.

use std::sync::Arc;

use bytes::Bytes;

use super::codec::{Head, decode, encode};
use super::lane::{LaneTree, Slot};
use super::page::{Page, Record};
use super::{FLOOR, PageWrite, Tree, is_below};
use crate::{Damaged, Lane};

const WHAT: &str = "pages of a digest";

/// How far a round of storing pages has come.
#[derive(Clone, Debug)]
pub(super) enum Sweep {
    /// None is under way.
    Idle,
    /// Pages of this lane before this key come next (all of it if there is no key).
    At(Lane, Option<Vec<u8>>),
    /// All lanes are done, not all removals of dropped ones.
    Gone,
    /// All is done; to be told.
    Done,
}

impl Tree {
    /// Whether anything differs from what is stored.
    pub fn has_dirty(&self) -> bool {
        let has_gone = !self.gone.is_empty() || !self.vacated.is_empty();
        has_gone || self.lanes.values().any(|tree| tree.dirty > 0)
    }

    /// Begins a round: what is dirty now is what `take_dirty` gives until it gives nothing. To
    /// be called where the group is noted up to which the redo log is forgotten afterwards, before
    /// anything that is given later is stored. A round that was under way ends.
    pub fn begin_checkpoint(&mut self) {
        self.noted = self.next;
        self.drop_vacant();
        self.begin_round();
    }

    fn begin_round(&mut self) {
        self.tick = self.tick.saturating_add(1);
        self.sweep = Sweep::At(Lane::Data, None);
    }

    /// Drops lanes that are as good as none, but for `Data`: its first page says what is dropped.
    fn drop_vacant(&mut self) {
        let settled = self.settled;
        let is_vacant =
            |lane: &Lane, tree: &mut Arc<LaneTree>| *lane != Lane::Data && tree.is_vacant(settled);
        let vacant: Vec<_> = self.lanes.extract_if(.., is_vacant).collect();
        for (lane, tree) in vacant {
            let starts: Vec<Vec<u8>> = tree.stored_starts().collect();
            if !starts.is_empty() {
                self.vacated.push((lane, starts));
            }
            if matches!(lane, Lane::Time(_)) {
                self.keep_scrubbed(tree.scrubbed_minute());
            }
        }
    }

    /// All keys were read in this minute, as a lane that goes says. Where cells expire there may be
    /// no other that does.
    fn keep_scrubbed(&mut self, minute: u32) {
        let tick = self.tick;
        if minute > 0 {
            self.lane_mut(Lane::Data).raise_scrubbed(minute, tick);
        }
    }

    /// The next pages of the round, of about `bytes_max` bytes (more if pages must stay
    /// together): to be stored in one atomic batch, and the batches in their order. Nothing once
    /// the round is done. Without `begin_checkpoint` a round begins by itself when none is under
    /// way. Pages that were given count as stored: if storing fails the tree must be loaded again.
    pub fn take_dirty(&mut self, bytes_max: usize) -> Vec<PageWrite> {
        if matches!(self.sweep, Sweep::Idle) {
            self.begin_round();
        }
        let mut batch = Batch { writes: Vec::new(), bytes: 0, bytes_max };
        // Before pages of the same lanes, which may have come back.
        while !batch.is_full()
            && let Some((lane, starts)) = self.vacated.pop()
        {
            starts.into_iter().for_each(|start| batch.push(lane, start, None));
        }
        if batch.is_full() {
            return batch.writes;
        }
        while let Sweep::At(lane, before) = self.sweep.clone() {
            self.sweep = self.take_from_lane(lane, before, &mut batch);
            if batch.is_full() {
                return batch.writes;
            }
        }
        if matches!(self.sweep, Sweep::Gone) {
            self.take_gone(&mut batch);
            if batch.is_full() {
                return batch.writes;
            }
            self.sweep = Sweep::Done;
        }
        if batch.writes.is_empty() {
            self.settled = self.noted;
        }
        if batch.writes.is_empty() || !self.has_dirty() {
            self.sweep = Sweep::Idle;
        }
        batch.writes
    }

    /// Takes pages of one lane, and says where to go on.
    fn take_from_lane(&mut self, lane: Lane, before: Option<Vec<u8>>, batch: &mut Batch) -> Sweep {
        let (next, tick, floor) = (self.next, self.tick, self.floor);
        let after = match self.lanes.range(lane..).map(|(lane, _)| *lane).next() {
            Some(found) if found == lane => {
                let tree = Arc::make_mut(self.lanes.get_mut(&lane).expect("found above"));
                let mut round = Round { lane, tree, next, tick, floor };
                let cut = if round.tree.dirty > 0 { round.take(before, batch) } else { None };
                if round.floor_is_stored(batch) {
                    self.stored_floor = floor;
                }
                if let Some(cut) = cut {
                    return Sweep::At(lane, Some(cut));
                }
                let later = (std::ops::Bound::Excluded(lane), std::ops::Bound::Unbounded);
                self.lanes.range(later).map(|(lane, _)| *lane).next()
            }
            other => other,
        };
        after.map_or(Sweep::Gone, |lane| Sweep::At(lane, None))
    }

    /// Takes removals of pages of lanes that what is stored says are dropped.
    fn take_gone(&mut self, batch: &mut Batch) {
        let stored_floor = self.stored_floor;
        self.gone.retain(|(lane, start)| {
            let is_taken = is_below(*lane, stored_floor) && !batch.is_full();
            if is_taken {
                batch.push(*lane, start.clone(), None);
            }
            !is_taken
        });
    }

    /// The tree that was stored, pages ascending by lane and start, to which the redo log is to
    /// be applied after the group that the last finished round noted.
    pub fn load(pages: impl Iterator<Item = (Lane, Vec<u8>, Bytes)>) -> Result<Tree, Damaged> {
        let mut tree = Tree::new();
        let mut open: Option<Loading> = None;
        for (lane, start, bytes) in pages {
            let (head, page) = decode(lane, &start, &bytes)?;
            if lane == Lane::Data && start.is_empty() {
                tree.floor = head.floor.unwrap_or(FLOOR);
                tree.stored_floor = tree.floor;
            }
            let same = match open.take() {
                Some(same) if same.lane == lane => Some(same),
                Some(done) if done.lane > lane => return Err(Damaged { what: WHAT }),
                Some(done) => {
                    tree.close(done)?;
                    None
                }
                None => None,
            };
            if is_below(lane, tree.floor) {
                tree.gone.push((lane, start));
                continue;
            }
            let mut loading = same.unwrap_or_else(|| Loading::new(lane));
            loading.push(&start, head, page)?;
            open = Some(loading);
        }
        if let Some(done) = open {
            tree.close(done)?;
        }
        Ok(tree)
    }

    fn close(&mut self, done: Loading) -> Result<(), Damaged> {
        if done.head.end.is_some() || self.lanes.contains_key(&done.lane) {
            return Err(Damaged { what: WHAT });
        }
        let lane = LaneTree::from_slots(done.slots, done.head.bound);
        self.lanes.insert(done.lane, Arc::new(lane));
        Ok(())
    }
}

/// What one call gives.
struct Batch {
    writes: Vec<PageWrite>,
    bytes: usize,
    bytes_max: usize,
}

impl Batch {
    fn is_full(&self) -> bool {
        !self.writes.is_empty() && self.bytes >= self.bytes_max
    }

    fn push(&mut self, lane: Lane, start: Vec<u8>, bytes: Option<Bytes>) {
        self.bytes += start.len() + bytes.as_ref().map_or(0, Bytes::len);
        self.writes.push(PageWrite { lane, start, bytes });
    }
}

/// A round in one lane.
struct Round<'a> {
    lane: Lane,
    tree: &'a mut LaneTree,
    next: u64,
    tick: u32,
    floor: (i64, u64),
}

impl Round<'_> {
    /// Takes dirty pages from the last one before a key down. The key before which to go on, or
    /// none if the lane is done.
    fn take(&mut self, before: Option<Vec<u8>>, batch: &mut Batch) -> Option<Vec<u8>> {
        let mut end = match &before {
            Some(before) => self.tree.starts.before(before),
            None => self.tree.slots.len(),
        };
        while end > 0 {
            let at = end - 1;
            let slot = &self.tree.slots[at];
            if slot.dirty == 0 || slot.dirty >= self.tick {
                end = at;
                continue;
            }
            let tidied = self.tree.tidy(at, self.next);
            if tidied < at {
                end = tidied + 1;
                continue;
            }
            end = self.take_tied(at, batch);
            if batch.is_full() {
                return (end > 0).then(|| self.tree.starts.get(end));
            }
        }
        None
    }

    /// Takes a page and those that must be stored with it, the last one first.
    fn take_tied(&mut self, at: usize, batch: &mut Batch) -> usize {
        if !self.tree.slots[0].is_born {
            // The lane as the disk knows it so far: nothing in it. So pages can be cut from it.
            let page = Page::from_records(&[Record::empty(Vec::new(), false)]);
            let floor = (self.lane == Lane::Data).then_some(self.floor);
            let head = Head { bound: Some(Vec::new()), floor, ..Head::default() };
            batch.push(self.lane, Vec::new(), Some(encode(self.lane, &head, &page)));
            self.tree.slots[0].is_born = true;
        }
        let slots = &self.tree.slots;
        let born = |slot: &Slot| slot.is_born;
        let last = slots[at + 1..].iter().position(born).map_or(slots.len() - 1, |more| at + more);
        let first = (0..=at).rev().find(|at| !slots[*at].is_tied()).unwrap_or(0);
        for at in (first..=last).rev() {
            self.take_page(at, batch);
        }
        first
    }

    fn take_page(&mut self, at: usize, batch: &mut Batch) {
        let is_last = at + 1 == self.tree.slots.len();
        let start = self.tree.starts.get(at);
        let slot = &self.tree.slots[at];
        let from = slot.from.max(self.next);
        self.tree.stored = self.tree.stored.max(from);
        let head = Head {
            from,
            end: self.tree.end_of(at),
            bound: if is_last { self.tree.bound.clone() } else { None },
            floor: (at == 0 && self.lane == Lane::Data).then_some(self.floor),
        };
        batch.push(self.lane, start, Some(encode(self.lane, &head, &slot.page)));
        if is_last && self.tree.bound.is_some() {
            self.tree.is_bound_settled = true;
        }
        let slot = &mut self.tree.slots[at];
        for start in slot.absorbed.drain(..) {
            batch.push(self.lane, start, None);
        }
        slot.is_born = true;
        if slot.dirty != 0 {
            slot.dirty = 0;
            self.tree.dirty -= 1;
        }
        if slot.page.facts.iter().any(|facts| facts.is_fresh) {
            let page = Arc::make_mut(&mut slot.page);
            page.facts.iter_mut().for_each(|facts| facts.is_fresh = false);
        }
    }

    /// Whether the page that says what is dropped was among those taken.
    fn floor_is_stored(&self, batch: &Batch) -> bool {
        let is_it = |write: &PageWrite| write.lane == Lane::Data && write.start.is_empty();
        self.lane == Lane::Data && batch.writes.iter().any(is_it)
    }
}

/// The pages of a lane that were read so far.
struct Loading {
    lane: Lane,
    slots: Vec<Slot>,
    /// Of the last one.
    head: Head,
}

impl Loading {
    fn new(lane: Lane) -> Loading {
        let head = Head { end: Some(Vec::new()), ..Head::default() };
        Loading { lane, slots: Vec::new(), head }
    }

    fn push(&mut self, start: &[u8], head: Head, page: Page) -> Result<(), Damaged> {
        match self.head.end.as_deref() {
            Some(end) if end == start => {}
            Some(end) if end < start => return Err(Damaged { what: WHAT }),
            Some(_) | None => self.cut(start)?,
        }
        let mut slot = Slot::new(page, head.from);
        slot.is_born = true;
        self.slots.push(slot);
        self.head = head;
        Ok(())
    }

    /// Cuts the last page where a newer one begins: at a leaf, or beyond all that was in it.
    fn cut(&mut self, start: &[u8]) -> Result<(), Damaged> {
        let damaged = Err(Damaged { what: WHAT });
        let Some(slot) = self.slots.last_mut() else { return damaged };
        let keys = &slot.page.keys;
        let kept = keys.before(start);
        if kept == 0 {
            return damaged;
        }
        let is_leaf = kept < keys.len() && keys.compare(kept, start).is_eq();
        let bound = self.head.bound.as_deref().filter(|_| self.head.end.is_none());
        let is_beyond = kept == keys.len() && bound.is_some_and(|bound| bound < start);
        if !is_leaf && !is_beyond {
            return damaged;
        }
        let records: Vec<Record> = slot.page.records().take(kept).collect();
        let mut cut = Slot::new(Page::from_records(&records), slot.from);
        cut.is_born = true;
        cut.dirty = 1;
        *slot = cut;
        Ok(())
    }
}
