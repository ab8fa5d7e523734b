//! Digests: what a partition holds, said in a few bytes, kept up with every write.
//!
//! Each row has a keyed 128-bit hash per *lane*; a sorted list of leaves per lane sums them over
//! ranges of keys. Sums add up, so two replicas are compared range by range without reading a row,
//! and a sketch of the leaves names the few that differ in one exchange. What must hold: the same
//! rows give the same sums on every machine, however the changes arrived; bytes from a disk or a
//! peer give an error, never a panic, and never more memory than a small multiple of their length.
//!
//! This crate is pure. When a row's parts change, and where a tree is kept, is left to the store.

#![forbid(unsafe_code)]

mod change;
mod codec;
mod error;
mod estimate;
mod hasher;
mod lane;
mod parts;
mod sketch;
mod sum;
mod tree;
mod unlike;

pub use change::{Change, changes_between, decode_changes, encode_changes};
pub use error::Damaged;
pub use estimate::Estimate;
pub use hasher::Hasher;
pub use lane::Lane;
pub use parts::Parts;
pub use sketch::{
    Decoder, Encoder, Symbol, Width, decode_symbols, encode_symbols, encode_symbols_short,
};
pub use sum::Sum;
pub use tree::{LaneRoot, Leaf, LeafPart, PageWrite, ScrubbedRange, SplitWanted, Stretch, Tree};
pub use unlike::{LeafTold, decode_leaves, encode_leaves, unlike_leaves};

/// A row key starts a leaf if its hash ends in this many zero bits: one key of sixteen.
pub const LEAF_ZERO_BITS: u32 = 4;
/// A row key starts a coarse range if its hash ends in this many zero bits: one key of 2048.
pub const COARSE_ZERO_BITS: u32 = 11;
