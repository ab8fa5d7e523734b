//! What comparing asks of the leaves of a tree: their sketch elements, and neighbours together.
//!
//! There may be very many leaves, and nearly all are passed over: nothing is allocated for these.

use std::collections::HashSet;

use super::lane::LaneTree;
use super::{Leaf, Tree};
use crate::{Hasher, Lane, Sum};

/// Neighbouring leaves of a lane taken together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stretch {
    /// The first key. That of a lane's first stretch is empty.
    pub start: Vec<u8>,
    /// The first key beyond; none at the end of the lane.
    pub end: Option<Vec<u8>>,
    /// The sum of the parts.
    pub sum: Sum,
    /// How many parts; below zero only where what is summed up is wrong.
    pub rows: i64,
    /// How many leaves.
    pub leaves: u64,
}

impl Tree {
    /// Places of the leaves of a lane that start in `[start, end)`, but for empty leaves: those
    /// say nothing, and the other side may not have them.
    fn places_of_leaves<'a>(
        &'a self,
        lane: Lane,
        start: &[u8],
        end: Option<&[u8]>,
    ) -> impl Iterator<Item = (&'a LaneTree, usize, usize)> + use<'a> {
        let mut places = self.places(lane, start, end).peekable();
        // Only the first one can start before.
        let _ = places
            .next_if(|(tree, at, leaf)| tree.slots[*at].page.keys.compare(*leaf, start).is_lt());
        places.filter(|(tree, at, leaf)| !tree.slots[*at].page.is_empty_leaf(*leaf))
    }

    /// The sketch elements of the leaves that start in `[start, end)`, but for empty leaves.
    pub fn fingerprints<'a>(
        &'a self,
        hasher: &'a Hasher,
        lane: Lane,
        start: &[u8],
        end: Option<&[u8]>,
    ) -> impl Iterator<Item = u64> + use<'a> {
        let mut key = Vec::new();
        self.places_of_leaves(lane, start, end).map(move |(tree, at, leaf)| {
            let page = &tree.slots[at].page;
            page.keys.read(leaf, &mut key);
            hasher.leaf_fingerprint(lane, &key, page.sums[leaf])
        })
    }

    /// Those leaves that start in `[start, end)` whose sketch elements are wanted, in the order of
    /// keys. An element is the bits of a fingerprint that are in `mask`. What is found is taken out
    /// of what is wanted.
    pub fn leaves_named(
        &self,
        hasher: &Hasher,
        lane: Lane,
        (start, end): (&[u8], Option<&[u8]>),
        mask: u64,
        wanted: &mut HashSet<u64>,
    ) -> Vec<Leaf> {
        let mut key = Vec::new();
        let mut found = Vec::new();
        for (tree, at, leaf) in self.places_of_leaves(lane, start, end) {
            if wanted.is_empty() {
                break;
            }
            let page = &tree.slots[at].page;
            page.keys.read(leaf, &mut key);
            let fingerprint = hasher.leaf_fingerprint(lane, &key, page.sums[leaf]);
            if wanted.remove(&(fingerprint & mask)) {
                found.push(tree.leaf(at, leaf));
            }
        }
        found
    }

    /// The whole of a lane as stretches that start at keys of at least so many zero bits.
    pub fn stretches(&self, lane: Lane, zero_bits: u32) -> Vec<Stretch> {
        let mut stretches: Vec<Stretch> = Vec::new();
        for (tree, at, leaf) in self.places(lane, &[], None) {
            let page = &tree.slots[at].page;
            let (facts, sum) = (&page.facts[leaf], page.sums[leaf]);
            let rows = i64::from(facts.rows);
            match stretches.last_mut() {
                Some(last) if u32::from(facts.zero_bits) < zero_bits => {
                    last.sum += sum;
                    last.rows += rows;
                    last.leaves += 1;
                }
                last => {
                    let start = page.keys.get(leaf);
                    if let Some(last) = last {
                        last.end = Some(start.clone());
                    }
                    stretches.push(Stretch { start, end: None, sum, rows, leaves: 1 });
                }
            }
        }
        stretches
    }
}
