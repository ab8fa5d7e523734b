//! The leaves of one lane: pages in key order, and what must be stored of them.
//!
//! A slot is a page and what the disk has of it. What is stored is always older than what is in
//! memory, page by page, so the starts of pages matter: a stored page whose range has since been
//! divided among several is right again once it is cut at the start of the stored page that
//! follows. That works if the start was a leaf's start when the older page was stored, or lies
//! beyond all keys that there were. Where neither is sure the start is *fresh*, and a page that
//! begins with it is stored together with the page before it.

use std::ops::Range;
use std::sync::Arc;

use super::keys::Keys;
use super::page::{Facts, Page, Record, divide};
use crate::{Hasher, LEAF_ZERO_BITS, LeafPart, Sum};

/// A page, and what the disk has of it.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) page: Arc<Page>,
    /// Changes of groups before this one are in the page as it was loaded.
    pub(super) from: u64,
    /// The tick at which it began to differ from what is stored; 0 if it does not.
    pub(super) dirty: u32,
    /// Whether a page with this start is stored.
    pub(super) is_born: bool,
    pub(super) splittable: u32,
    /// Starts of stored pages that lie in this one by now.
    pub(super) absorbed: Vec<Vec<u8>>,
}

impl Slot {
    pub(super) fn new(page: Page, from: u64) -> Slot {
        let splittable = page.splittable();
        let page = Arc::new(page);
        Slot { page, from, dirty: 0, is_born: false, splittable, absorbed: Vec::new() }
    }

    /// Whether it must be stored together with the page before it.
    pub(super) fn is_tied(&self) -> bool {
        !self.is_born && self.page.facts[0].is_fresh
    }
}

/// What a change does to a lane.
#[derive(Clone, Copy)]
pub(super) struct Delta<'a> {
    pub(super) key: &'a [u8],
    pub(super) sum: Sum,
    pub(super) rows: i32,
}

/// All leaves of a lane. There is always a page, and the first one starts with the empty key.
#[derive(Clone, Debug)]
pub(super) struct LaneTree {
    pub(super) starts: Keys,
    pub(super) slots: Vec<Slot>,
    pub(super) sum: Sum,
    pub(super) rows: i64,
    pub(super) leaves: u64,
    /// How many slots are dirty.
    pub(super) dirty: usize,
    pub(super) splittable: u64,
    /// No key beyond this one was ever in the last leaf, and none of its leaves begins beyond it;
    /// `None` if that is not known.
    pub(super) bound: Option<Vec<u8>>,
    /// Whether what is stored knows a bound, too.
    pub(super) is_bound_settled: bool,
    /// What is stored of it is right from this group on, if nothing changed since.
    pub(super) stored: u64,
}

impl LaneTree {
    /// One in which nothing lies.
    pub(super) fn new() -> LaneTree {
        let slot = Slot::new(Page::from_records(&[Record::empty(Vec::new(), false)]), 0);
        LaneTree::from_slots(vec![slot], Some(Vec::new()))
    }

    /// One of pages that cover all keys.
    pub(super) fn from_slots(slots: Vec<Slot>, bound: Option<Vec<u8>>) -> LaneTree {
        let starts: Vec<Vec<u8>> = slots.iter().map(|slot| slot.page.keys.get(0)).collect();
        let starts: Vec<&[u8]> = starts.iter().map(Vec::as_slice).collect();
        let mut lane = LaneTree {
            starts: Keys::from_sorted(&starts),
            slots: Vec::new(),
            sum: Sum::ZERO,
            rows: 0,
            leaves: 0,
            dirty: 0,
            splittable: 0,
            is_bound_settled: bound.is_some(),
            bound,
            stored: slots.iter().map(|slot| slot.from).max().unwrap_or(0),
        };
        slots.iter().for_each(|slot| lane.count(slot, true));
        lane.slots = slots;
        lane
    }

    /// Adds a slot to the totals, or takes it out.
    fn count(&mut self, slot: &Slot, is_in: bool) {
        let (sum, rows) = slot.page.total();
        let (leaves, dirty) = (slot.page.len() as u64, usize::from(slot.dirty != 0));
        if is_in {
            self.sum += sum;
            self.rows += rows;
            self.leaves += leaves;
            self.dirty += dirty;
            self.splittable += u64::from(slot.splittable);
        } else {
            self.sum -= sum;
            self.rows -= rows;
            self.leaves -= leaves;
            self.dirty -= dirty;
            self.splittable -= u64::from(slot.splittable);
        }
    }

    /// The slot whose range holds a key.
    pub(super) fn slot_of(&self, key: &[u8]) -> usize {
        self.starts.at_or_before(key).unwrap_or(0)
    }

    /// Where the range of a slot ends.
    pub(super) fn end_of(&self, at: usize) -> Option<Vec<u8>> {
        (at + 1 < self.slots.len()).then(|| self.starts.get(at + 1))
    }

    fn is_born(&self) -> bool {
        self.slots[0].is_born
    }

    /// Notes that a slot differs from what is stored.
    pub(super) fn touch(&mut self, at: usize, tick: u32) {
        let slot = &mut self.slots[at];
        if slot.dirty == 0 {
            slot.dirty = tick;
            self.dirty += 1;
        }
    }

    /// Takes in a change, unless the page had it when it was loaded. A new key beyond all others
    /// that is a boundary starts a leaf at once.
    pub(super) fn apply(&mut self, hasher: &Hasher, seq: u64, tick: u32, delta: Delta<'_>) {
        let at = self.slot_of(delta.key);
        if seq < self.slots[at].from {
            return;
        }
        let is_last_page = at + 1 == self.slots.len();
        let is_fresh = self.is_born() && !self.is_bound_settled;
        let page = &self.slots[at].page;
        let mut leaf = page.keys.at_or_before(delta.key).unwrap_or(0);
        let is_last = is_last_page && leaf + 1 == page.len();
        let is_beyond = is_last && self.bound.as_deref().is_some_and(|bound| bound < delta.key);
        // What lies beyond all keys is a boundary that is taken or none.
        let is_asked = delta.rows > 0 && is_beyond;
        let is_inside = !is_asked && is_inner_boundary(page, hasher, leaf, delta);
        let height = if is_asked { hasher.zero_bits(delta.key) } else { 0 };
        if height >= LEAF_ZERO_BITS {
            leaf += 1;
            let facts = Facts { zero_bits: height as u8, is_fresh, ..Facts::default() };
            Arc::make_mut(&mut self.slots[at].page).insert(leaf, delta.key, facts);
            self.leaves += 1;
        }
        if is_beyond && let Some(bound) = &mut self.bound {
            bound.clear();
            bound.extend_from_slice(delta.key);
        }
        self.add(at, leaf, delta, is_inside);
        self.touch(at, tick);
        if height >= LEAF_ZERO_BITS && self.slots[at].page.is_over_full() {
            self.divide_page(at, tick, true);
        }
    }

    /// Takes a change back.
    pub(super) fn undo(&mut self, hasher: &Hasher, tick: u32, delta: Delta<'_>) {
        let at = self.slot_of(delta.key);
        let leaf = self.slots[at].page.keys.at_or_before(delta.key).unwrap_or(0);
        let delta = Delta { sum: -delta.sum, rows: -delta.rows, ..delta };
        let is_inside = is_inner_boundary(&self.slots[at].page, hasher, leaf, delta);
        self.add(at, leaf, delta, is_inside);
        self.touch(at, tick);
        // Of a lane that was vacated since nobody knows the keys.
        if let Some(bound) = &mut self.bound
            && bound.as_slice() < delta.key
        {
            bound.clear();
            bound.extend_from_slice(delta.key);
        }
    }

    /// Adds to a leaf; `is_inside` tells that the row is a boundary that its leaf did not take.
    fn add(&mut self, at: usize, leaf: usize, delta: Delta<'_>, is_inside: bool) {
        self.sum += delta.sum;
        self.rows += i64::from(delta.rows);
        let slot = &mut self.slots[at];
        let page = Arc::make_mut(&mut slot.page);
        page.sums[leaf] += delta.sum;
        if delta.rows == 0 {
            return;
        }
        let facts = &mut page.facts[leaf];
        let before = facts.wants_split();
        facts.rows = facts.rows.wrapping_add(delta.rows);
        if is_inside {
            facts.note_boundary(delta.rows > 0);
        }
        recount(slot, leaf, before, &mut self.splittable);
    }

    fn divide_page(&mut self, at: usize, tick: u32, is_append: bool) {
        let records: Vec<Record> = self.slots[at].page.records().collect();
        self.replace(at..at + 1, &records, tick, is_append);
    }

    /// Puts leaves in the place of those of some neighbouring pages. They start where these did.
    /// Returns how many pages they make.
    pub(super) fn replace(
        &mut self,
        places: Range<usize>,
        records: &[Record],
        tick: u32,
        is_append: bool,
    ) -> usize {
        let first = places.start;
        let mut stored: Vec<Vec<u8>> = Vec::new();
        let (mut from, mut dirty) = (0, tick);
        for at in places.clone() {
            let slot = &mut self.slots[at];
            stored.append(&mut slot.absorbed);
            from = slot.from.max(from);
            if slot.dirty != 0 {
                dirty = slot.dirty.min(dirty);
            }
            if slot.is_born {
                stored.push(self.starts.get(at));
            }
        }
        stored.sort_unstable();
        stored.dedup();
        let (mut slots, mut starts) = (Vec::new(), Vec::new());
        let mut begin = 0;
        let mut stored = stored.into_iter().peekable();
        for cut in divide(records, is_append) {
            let mut slot = Slot::new(Page::from_records(&records[begin..cut]), from);
            slot.dirty = dirty;
            let start = &records[begin].start;
            slot.is_born = stored.next_if(|known| known == start).is_some();
            let next = records.get(cut).map(|record| &record.start);
            while let Some(known) = stored.next_if(|known| next.is_none_or(|next| known < next)) {
                slot.absorbed.push(known);
            }
            starts.push(start.as_slice());
            slots.push(slot);
            begin = cut;
        }
        debug_assert_eq!(starts[0], self.starts.get(first));
        self.starts.replace(places.clone(), &starts);
        slots.iter().for_each(|slot| self.count(slot, true));
        let old: Vec<Slot> = self.slots.splice(places, slots).collect();
        old.iter().for_each(|slot| self.count(slot, false));
        starts.len()
    }

    /// Divides a leaf into parts that were found by reading it.
    pub(super) fn split(&mut self, start: &[u8], tick: u32, parts: &[LeafPart]) -> bool {
        let at = self.slot_of(start);
        let page = &self.slots[at].page;
        let Some(leaf) = page.keys.at_or_before(start) else { return false };
        let next = (leaf + 1 < page.len()).then(|| page.keys.get(leaf + 1));
        let end = next.or_else(|| self.end_of(at));
        let facts = page.facts[leaf];
        let sum: Sum = parts.iter().map(|part| part.sum).sum();
        let rows: i64 = parts.iter().map(|part| i64::from(part.rows)).sum();
        let is_right = page.keys.compare(leaf, start).is_eq()
            && parts.first().is_some_and(|part| part.start == start)
            && parts.is_sorted_by(|a, b| a.start < b.start)
            && parts.last().is_some_and(|last| end.is_none_or(|end| last.start < end))
            && (sum, rows) == (page.sums[leaf], i64::from(facts.rows));
        if !is_right {
            return false;
        }
        let is_fresh = self.is_born();
        let mut records: Vec<Record> = page.records().collect();
        let last = parts.len() - 1;
        let found = parts.iter().enumerate().map(|(at, part)| {
            let mut record = Record::found(part, is_fresh, at == last && last > 0);
            record.facts.scrubbed_minute = facts.scrubbed_minute;
            if at == 0 {
                record.facts.is_fresh = facts.is_fresh;
                record.facts.zero_bits = facts.zero_bits;
            }
            record
        });
        records.splice(leaf..leaf + 1, found);
        self.replace(at..at + 1, &records, tick, false);
        // A row that has nothing in this lane may begin the last leaf; it is begun only once.
        if let (Some(bound), Some(part)) = (&mut self.bound, parts.last())
            && *bound < part.start
        {
            bound.clone_from(&part.start);
        }
        true
    }

    /// Forgets that a leaf has boundaries inside.
    pub(super) fn skip_split(&mut self, start: &[u8], tick: u32) {
        let at = self.slot_of(start);
        let slot = &mut self.slots[at];
        let Some(leaf) = slot.page.keys.at_or_before(start) else { return };
        let before = slot.page.facts[leaf].wants_split();
        if slot.page.facts[leaf].untaken == 0 || slot.page.keys.compare(leaf, start).is_ne() {
            return;
        }
        Arc::make_mut(&mut slot.page).facts[leaf].untaken = 0;
        recount(slot, leaf, before, &mut self.splittable);
        self.touch(at, tick);
    }

    /// Puts leaves in the place of a range. Where the range begins or ends inside a leaf the
    /// leaf is cut, and what remains of it keeps its sum.
    pub(super) fn set_range(
        &mut self,
        start: &[u8],
        end: Option<&[u8]>,
        tick: u32,
        parts: &[LeafPart],
    ) {
        let first = self.slot_of(start);
        let last = match end {
            Some(end) => self.starts.before(end) - 1,
            None => self.slots.len() - 1,
        };
        let is_fresh = self.is_born();
        let old = self.slots[first..=last].iter().flat_map(|slot| slot.page.records());
        let (mut records, mut later): (Vec<Record>, Vec<Record>) =
            old.partition(|record| record.start.as_slice() < start);
        // The page's first start is stored if the page is, whatever begins with it.
        let first_is_fresh = records.is_empty() && later.first().is_some_and(is_fresh_start);
        let cut = later.iter().rev().find(|record| end.is_none_or(|end| *record.start < *end));
        let cut = cut.cloned();
        later.retain(|record| end.is_some_and(|end| *record.start >= *end));
        let range_begin = records.len();
        records.push(Record::empty(start.to_vec(), is_fresh));
        let is_inside = |at: &[u8]| start <= at && end.is_none_or(|end| at < end);
        for (at, part) in parts.iter().enumerate() {
            let is_next = records.last().is_some_and(|last| last.start < part.start);
            let found = Record::found(part, is_fresh, at + 1 == parts.len());
            match records.last_mut() {
                Some(last) if !is_next || !is_inside(&part.start) => {
                    last.sum += found.sum;
                    let zero_bits = last.facts.zero_bits.max(found.facts.zero_bits);
                    let scrubbed_minute = last.facts.scrubbed_minute;
                    last.facts.absorb(found.facts);
                    last.facts.zero_bits = zero_bits;
                    last.facts.scrubbed_minute = scrubbed_minute;
                }
                _ => records.push(found),
            }
        }
        if range_begin == 0 {
            records[0].facts.is_fresh = first_is_fresh;
        }
        if let Some(end) = end
            && self.range_end_is_inside(end, last, &later)
        {
            let mut rest = Record::empty(end.to_vec(), is_fresh);
            if let Some(cut) = cut {
                rest.sum = cut.sum;
                rest.facts.rows = cut.facts.rows;
                rest.facts.untaken = cut.facts.untaken;
            }
            records.push(rest);
        }
        records.append(&mut later);
        self.note_range(end, &records);
        self.replace(first..last + 1, &records, tick, end.is_none());
    }

    /// Whether a range ends within a leaf, given the leaves of its last page at or after the end.
    fn range_end_is_inside(&self, end: &[u8], last: usize, later: &[Record]) -> bool {
        match later.first() {
            Some(next) => *next.start != *end,
            None => self.end_of(last).is_none_or(|next| *next != *end),
        }
    }

    /// What is known of the greatest key once a range was set.
    fn note_range(&mut self, end: Option<&[u8]>, records: &[Record]) {
        match (end, records.last()) {
            (Some(end), _) => {
                if self.bound.as_deref().is_some_and(|bound| bound < end) {
                    self.bound = Some(end.to_vec());
                    self.is_bound_settled = false;
                }
            }
            (None, Some(last)) => {
                self.bound = last.is_empty().then(|| last.start.clone());
                self.is_bound_settled = false;
            }
            (None, None) => {}
        }
    }

    /// Takes the caller's word for the greatest key.
    pub(super) fn note_last_key(&mut self, key: &[u8]) {
        let last_start = self.slots.last().map(|slot| slot.page.keys.get(slot.page.len() - 1));
        self.bound = last_start.map(|start| start.max(key.to_vec()));
        self.is_bound_settled = false;
    }

    /// Marks leaves that lie within a range as read.
    pub(super) fn set_scrubbed(
        &mut self,
        start: &[u8],
        end: Option<&[u8]>,
        minute: u32,
        tick: u32,
    ) {
        for at in self.slot_of(start)..self.slots.len() {
            if at > 0 && end.is_some_and(|end| self.starts.compare(at, end).is_ge()) {
                return;
            }
            let page_end = self.end_of(at);
            let keys = &self.slots[at].page.keys;
            let from = keys.before(start);
            let mut to = end.map_or(keys.len(), |end| keys.before(end));
            // The last of these may end beyond the range.
            let is_whole = match (to < keys.len(), end, &page_end) {
                (_, None, _) => true,
                (true, Some(end), _) => keys.compare(to, end).is_eq(),
                (false, Some(end), Some(page_end)) => page_end.as_slice() <= end,
                (false, Some(_), None) => false,
            };
            to -= usize::from(!is_whole && to > from);
            let is_news = |facts: &Facts| facts.scrubbed_minute != minute;
            if from < to && self.slots[at].page.facts[from..to].iter().any(is_news) {
                let page = Arc::make_mut(&mut self.slots[at].page);
                page.facts[from..to].iter_mut().for_each(|facts| facts.scrubbed_minute = minute);
                self.touch(at, tick);
            }
        }
    }

    /// Gives empty leaves and small pages to their left neighbours, so that what is deleted costs
    /// nothing in the end. `next` is the first group that has not been applied: pages that were
    /// loaded with later ones keep apart. Returns where the page is now.
    pub(super) fn tidy(&mut self, at: usize, next: u64) -> usize {
        let page = &self.slots[at].page;
        let is_vacant = (0..page.len()).all(|leaf| page.is_empty_leaf(leaf));
        let is_caught_up = |slot: &Slot| slot.from < next || slot.from == 0;
        let joins = at > 0
            && (is_vacant || page.is_small_with(&self.slots[at - 1].page))
            && is_caught_up(&self.slots[at])
            && is_caught_up(&self.slots[at - 1]);
        let first = if joins { at - 1 } else { at };
        let has_empty = (1..page.len()).any(|leaf| page.is_empty_leaf(leaf));
        if !joins && !has_empty {
            return at;
        }
        let mut records: Vec<Record> = Vec::new();
        for record in self.slots[first..=at].iter().flat_map(|slot| slot.page.records()) {
            match records.last_mut() {
                Some(last) if record.is_empty() => last.facts.absorb(record.facts),
                _ => records.push(record),
            }
        }
        let tick = self.slots[at].dirty.max(1);
        let last = first + self.replace(first..at + 1, &records, tick, false) - 1;
        // It may be small enough for its neighbour by now; it has no empty leaves any more.
        if joins { last } else { self.tidy(last, next) }
    }

    /// Whether it says what no lane at all would, also after a crash: nothing lies in it, and none
    /// of it is stored, or that nothing lies in it is, and what comes again after a crash, which is
    /// groups from `settled` on, did not change it.
    pub(super) fn is_vacant(&self, settled: u64) -> bool {
        let is_stored = self.dirty == 0 && self.stored <= settled;
        let is_empty = |slot: &Slot| (0..slot.page.len()).all(|leaf| slot.page.is_empty_leaf(leaf));
        self.rows == 0 && (is_stored || !self.is_born()) && self.slots.iter().all(is_empty)
    }

    /// When all of it had been read, in minutes of the epoch; 0 if never.
    pub(super) fn scrubbed_minute(&self) -> u32 {
        let facts = self.slots.iter().flat_map(|slot| &slot.page.facts);
        facts.map(|facts| facts.scrubbed_minute).min().unwrap_or(0)
    }

    /// Marks leaves as read in this minute that were not read later.
    pub(super) fn raise_scrubbed(&mut self, minute: u32, tick: u32) {
        for at in 0..self.slots.len() {
            let slot = &mut self.slots[at];
            if slot.page.facts.iter().all(|facts| facts.scrubbed_minute >= minute) {
                continue;
            }
            for facts in &mut Arc::make_mut(&mut slot.page).facts {
                facts.scrubbed_minute = facts.scrubbed_minute.max(minute);
            }
            self.touch(at, tick);
        }
    }

    /// The starts of its pages that are stored.
    pub(super) fn stored_starts(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        self.slots.iter().enumerate().flat_map(|(at, slot)| {
            let own = slot.is_born.then(|| self.starts.get(at));
            own.into_iter().chain(slot.absorbed.iter().cloned())
        })
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let pages: usize = self.slots.iter().map(|slot| slot.page.memory_bytes()).sum();
        size_of::<LaneTree>()
            + self.starts.memory_bytes()
            + self.slots.capacity() * size_of::<Slot>()
            + pages
    }
}

fn is_fresh_start(record: &Record) -> bool {
    record.facts.is_fresh
}

/// Whether a row that came or went is a boundary inside its leaf: reading would split there.
fn is_inner_boundary(page: &Page, hasher: &Hasher, leaf: usize, delta: Delta<'_>) -> bool {
    delta.rows != 0
        && hasher.zero_bits(delta.key) >= LEAF_ZERO_BITS
        && page.keys.compare(leaf, delta.key).is_ne()
}

/// Corrects the counts of leaves that want to be split after one changed.
fn recount(slot: &mut Slot, leaf: usize, before: bool, splittable: &mut u64) {
    let after = slot.page.facts[leaf].wants_split();
    if before != after {
        let step = if after { 1 } else { -1 };
        slot.splittable = slot.splittable.wrapping_add_signed(step);
        *splittable = splittable.wrapping_add_signed(i64::from(step));
    }
}
