//! x
use bytes::Bytes;
use crate::{Change, Damaged, Hasher, Lane, Sum};

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
#[derive(Clone, Default)]
pub struct Tree { floor: (i64, u64) }
impl Tree {
    /// x
    pub fn new() -> Tree { Tree { floor: (i64::MIN, 0) } }
    /// x
    pub fn apply(&mut self, hasher: &Hasher, seq: u64, change: &Change) { let _ = (hasher, seq, change); }
    /// x
    pub fn undo(&mut self, hasher: &Hasher, change: &Change) -> bool { let _ = (hasher, change); false }
    /// x
    pub fn drop_floor(&self) -> (i64, u64) { self.floor }
    /// x
    pub fn lanes(&self) -> Vec<LaneRoot> { Vec::new() }
    /// x
    pub fn rows(&self) -> u64 { 0 }
    /// x
    pub fn leaf_count(&self) -> u64 { 0 }
    /// x
    pub fn memory_bytes(&self) -> usize { 0 }
    /// Leaves in key order that overlap [start, end).
    pub fn leaves<'a>(&'a self, lane: Lane, start: &[u8], end: Option<&[u8]>) -> impl Iterator<Item = Leaf> + use<'a> {
        let _ = (lane, start, end);
        std::iter::empty::<Leaf>()
    }
    /// x
    pub fn wants_split(&self) -> Option<SplitWanted> { None }
    /// x
    pub fn split(&mut self, lane: Lane, start: &[u8], seq: u64, parts: &[LeafPart]) -> bool { let _ = (lane, start, seq, parts); false }
    /// x
    pub fn set_range(&mut self, lane: Lane, start: &[u8], end: Option<&[u8]>, seq: u64, parts: &[LeafPart]) { let _ = (lane, start, end, seq, parts); }
    /// No key of the lane is greater than this one. Lets appends split leaves again after `set_range`.
    pub fn note_last_key(&mut self, lane: Lane, key: &[u8]) { let _ = (lane, key); }
    /// x
    pub fn set_scrubbed(&mut self, start: &[u8], end: Option<&[u8]>, minute: u32) { let _ = (start, end, minute); }
    /// The next pages to store, at most about `bytes_max` bytes: to be written in this order, in one atomic batch.
    /// Called until it gives none: then every page is stored that was dirty when the first call of the round was made.
    pub fn take_dirty(&mut self, bytes_max: usize) -> Vec<PageWrite> { let _ = bytes_max; Vec::new() }
    /// x
    pub fn has_dirty(&self) -> bool { false }
    /// x
    pub fn load(pages: impl Iterator<Item = (Lane, Vec<u8>, Bytes)>) -> Result<Tree, Damaged> { let _ = pages.count(); Ok(Tree::new()) }
}
