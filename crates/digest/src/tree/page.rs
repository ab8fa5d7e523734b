//! Pages: neighbouring leaves, kept together so that a copy of the tree shares what is unchanged.
//!
//! A page is the unit of sharing, of checkpoints and of their order. Its leaves cover its range
//! without gaps: each ends where the next starts, the last where the next page does.

use super::keys::Keys;
use crate::{LEAF_ZERO_BITS, LeafPart, Sum};

/// Leaves of a page at most; one more and it becomes two. Few in tests, so that these see many
/// pages.
const LEAVES_MAX: usize = if cfg!(test) { 8 } else { 128 };
/// Leaves that pages are made with.
const LEAVES_AIM: usize = LEAVES_MAX / 4 * 3;
/// Leaves of a page that grows at its end only: few more will come.
const LEAVES_DENSE: usize = LEAVES_MAX - LEAVES_MAX.div_ceil(16);
/// Neighbours that have no more leaves together become one.
const LEAVES_FEW: usize = LEAVES_MAX / 8 * 3;
/// Bytes of keys of a page at most, unless its leaves are very few.
const KEY_BYTES_MAX: usize = 32 * 1024;
/// Leaves that make a page whatever their keys' length.
const LEAVES_MIN: usize = 8;

/// A leaf with so many rows has grown far beyond its mean.
const SPLIT_ROWS: i32 = if cfg!(test) { 12 } else { 4 << LEAF_ZERO_BITS };
/// Boundaries that are too many to count.
const UNTAKEN_MANY: u8 = u8::MAX;

/// What is known of a leaf beside its start and sum.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Facts {
    /// Below zero only for a range whose rows have not been taken in.
    pub(super) rows: i32,
    pub(super) scrubbed_minute: u32,
    pub(super) zero_bits: u8,
    /// Keys inside that are boundaries; saturates.
    pub(super) untaken: u8,
    /// What is stored may have a leaf across this start.
    pub(super) is_fresh: bool,
}

impl Facts {
    /// Whether reading the leaf's rows would split it.
    pub(super) fn wants_split(&self) -> bool {
        self.rows >= SPLIT_ROWS && self.untaken > 0
    }

    pub(super) fn note_boundary(&mut self, appeared: bool) {
        if self.untaken != UNTAKEN_MANY {
            self.untaken = if appeared { self.untaken + 1 } else { self.untaken.saturating_sub(1) };
        }
    }

    /// Those of the leaf that two neighbours become.
    pub(super) fn absorb(&mut self, other: Facts) {
        self.rows = self.rows.wrapping_add(other.rows);
        self.scrubbed_minute = self.scrubbed_minute.min(other.scrubbed_minute);
        self.untaken = self.untaken.saturating_add(other.untaken);
    }
}

/// A leaf outside of a page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Record {
    pub(super) start: Vec<u8>,
    pub(super) sum: Sum,
    pub(super) facts: Facts,
}

impl Record {
    /// A leaf in which nothing lies.
    pub(super) fn empty(start: Vec<u8>, is_fresh: bool) -> Record {
        Record { start, sum: Sum::ZERO, facts: Facts { is_fresh, ..Facts::default() } }
    }

    /// A leaf that was found by reading. Of the last one it is not known whether it was read to
    /// its end.
    pub(super) fn found(part: &LeafPart, is_fresh: bool, is_last: bool) -> Record {
        let rows = i32::try_from(part.rows).unwrap_or(i32::MAX);
        let untaken = if is_last && rows >= SPLIT_ROWS { UNTAKEN_MANY } else { 0 };
        let zero_bits = part.zero_bits;
        let facts = Facts { rows, zero_bits, untaken, is_fresh, scrubbed_minute: 0 };
        Record { start: part.start.clone(), sum: part.sum, facts }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sum.is_zero() && self.facts.rows == 0
    }
}

/// Neighbouring leaves.
#[derive(Clone, Debug)]
pub(super) struct Page {
    pub(super) keys: Keys,
    pub(super) sums: Vec<Sum>,
    pub(super) facts: Vec<Facts>,
}

impl Page {
    pub(super) fn from_records(records: &[Record]) -> Page {
        let starts: Vec<&[u8]> = records.iter().map(|record| record.start.as_slice()).collect();
        Page {
            keys: Keys::from_sorted(&starts),
            sums: records.iter().map(|record| record.sum).collect(),
            facts: records.iter().map(|record| record.facts).collect(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.sums.len()
    }

    pub(super) fn record(&self, at: usize) -> Record {
        Record { start: self.keys.get(at), sum: self.sums[at], facts: self.facts[at] }
    }

    pub(super) fn records(&self) -> impl DoubleEndedIterator<Item = Record> + '_ {
        (0..self.len()).map(|at| self.record(at))
    }

    pub(super) fn is_empty_leaf(&self, at: usize) -> bool {
        self.sums[at].is_zero() && self.facts[at].rows == 0
    }

    /// Whether it must become two.
    pub(super) fn is_over_full(&self) -> bool {
        let leaves = self.len();
        leaves > LEAVES_MAX || (leaves > LEAVES_MIN && self.keys.bytes() > KEY_BYTES_MAX)
    }

    /// Whether it and a neighbour had better be one page.
    pub(super) fn is_small_with(&self, other: &Page) -> bool {
        let long = |page: &Page| page.keys.bytes() + page.len() * page.keys.prefix().len();
        self.len() + other.len() <= LEAVES_FEW && long(self) + long(other) <= KEY_BYTES_MAX / 4
    }

    /// Inserts an empty leaf.
    pub(super) fn insert(&mut self, at: usize, start: &[u8], facts: Facts) {
        if self.sums.len() == self.sums.capacity() {
            self.sums.reserve_exact(16);
            self.facts.reserve_exact(16);
        }
        self.keys.insert(at, start);
        self.sums.insert(at, Sum::ZERO);
        self.facts.insert(at, facts);
    }

    /// Leaves that want to be split.
    pub(super) fn splittable(&self) -> u32 {
        self.facts.iter().filter(|facts| facts.wants_split()).count() as u32
    }

    pub(super) fn total(&self) -> (Sum, i64) {
        let rows = self.facts.iter().map(|facts| i64::from(facts.rows)).sum();
        (self.sums.iter().copied().sum(), rows)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of::<Page>()
            + self.keys.memory_bytes()
            + self.sums.capacity() * size_of::<Sum>()
            + self.facts.capacity() * size_of::<Facts>()
    }
}

/// Divides leaves into pages: the first place beyond each page.
pub(super) fn divide(records: &[Record], is_append: bool) -> Vec<usize> {
    let count = records.len();
    let pages = count.div_ceil(LEAVES_AIM).max(1);
    let aim = match () {
        () if count <= LEAVES_MAX => LEAVES_MAX,
        () if is_append => LEAVES_DENSE,
        () => count.div_ceil(pages),
    };
    let mut cuts = Vec::new();
    let (mut leaves, mut bytes) = (0, 0);
    for (at, record) in records.iter().enumerate() {
        let is_long = bytes > KEY_BYTES_MAX / 2 && leaves >= LEAVES_MIN / 2;
        if leaves >= aim || is_long {
            cuts.push(at);
            (leaves, bytes) = (0, 0);
        }
        leaves += 1;
        bytes += record.start.len();
    }
    cuts.push(count);
    cuts
}
