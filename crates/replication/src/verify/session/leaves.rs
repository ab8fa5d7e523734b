//! What a session tells of its leaves: sketches, and sums of coarse ranges.
//!
//! A leaf belongs to the range in which it starts, whole. So every leaf is in exactly one of the
//! ranges that follow each other, and ranges with equal sums hold the same parts of rows even if
//! the two trees have different leaves.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use isthmus_digest::{
    COARSE_ZERO_BITS, Encoder, Estimate, Lane, Leaf, Sum, encode_symbols, encode_symbols_short,
};

use crate::verify::answer::{Coarse, CoarseRange, SketchTold, sum_bytes};
use crate::verify::limits::{COARSE_RANGES_MAX, SYMBOLS_MAX};
use crate::verify::question::CoarseRanges;
use crate::verify::session::Session;

/// A range of keys; no end: to the last.
pub(super) type KeyRange = (Bytes, Option<Bytes>);

/// Which leaves a sketch is of.
#[derive(Clone, PartialEq)]
pub(super) enum At {
    /// Those that start in a range of keys, in all lanes.
    Keys(KeyRange),
    /// Those in coarse ranges, by their fingerprints.
    Coarse(Vec<u64>),
}

/// A range of keys of one lane.
#[derive(Clone, Debug)]
pub(super) struct LaneRange {
    pub(super) lane: Lane,
    pub(super) start: Bytes,
    pub(super) end: Option<Bytes>,
}

/// A coarse range with its fingerprint.
pub(super) type NamedRange = (u64, LaneRange);

/// A sketch of leaves.
pub(super) struct Window {
    at: At,
    pub(super) ranges: Vec<LaneRange>,
    encoder: Encoder,
    /// Symbols given so far.
    given: u32,
}

impl Session {
    /// Lanes that are compared.
    pub(super) fn lanes(&self) -> Vec<Lane> {
        let roots = self.view.tree().lanes();
        roots.iter().map(|root| root.lane).filter(|lane| self.floors.keep(*lane)).collect()
    }

    /// Leaves of a lane that start in a range and hold something.
    pub(super) fn leaves_in<'a>(
        &'a self,
        lane: Lane,
        start: &'a [u8],
        end: Option<&'a [u8]>,
    ) -> impl Iterator<Item = Leaf> + 'a {
        let leaves = self.view.tree().leaves(lane, start, end);
        let starts_here = move |leaf: &Leaf| leaf.start[..] >= *start;
        leaves.filter(starts_here).filter(|leaf| !leaf.sum.is_zero() || leaf.rows > 0)
    }

    /// Symbols over some leaves.
    pub(super) fn leaf_symbols(&mut self, at: At, from: u32, count: u32, short: bool) -> Bytes {
        let count = (count as usize).min(SYMBOLS_MAX);
        let kept = self.window.take();
        let goes_on = |window: &Window| window.at == at && window.given <= from;
        let mut window = match kept.filter(goes_on) {
            Some(window) => window,
            None => self.window(at),
        };
        // Asked for again, or from further on: the ones between are made and thrown away.
        let skipped = from - window.given;
        window.encoder.symbols(skipped as usize);
        let symbols = window.encoder.symbols(count);
        window.given = from.saturating_add(count as u32);
        let elements = window.encoder.elements() as u64;
        self.window = Some(window);
        match short {
            true => encode_symbols_short(&symbols, self.width, from.into(), elements).into(),
            false => encode_symbols(&symbols).into(),
        }
    }

    fn window(&mut self, at: At) -> Window {
        let ranges = self.ranges_at(&at);
        let (hasher, tree) = (self.view.hasher(), self.view.tree());
        let encoder = Encoder::new(
            ranges
                .iter()
                .flat_map(|range| {
                    tree.fingerprints(hasher, range.lane, &range.start, range.end.as_deref())
                })
                .map(|fingerprint| fingerprint & self.mask),
        );
        Window { at, ranges, encoder, given: 0 }
    }

    fn ranges_at(&mut self, at: &At) -> Vec<LaneRange> {
        match at {
            At::Keys((start, end)) => {
                let range = |lane| LaneRange { lane, start: start.clone(), end: end.clone() };
                self.lanes().into_iter().map(range).collect()
            }
            At::Coarse(names) => self.coarse_named(names),
        }
    }

    /// All leaves of all lanes.
    pub(super) fn everything(&self) -> Vec<LaneRange> {
        let range = |lane| LaneRange { lane, start: Bytes::new(), end: None };
        self.lanes().into_iter().map(range).collect()
    }

    /// The coarse ranges that hold something, lane by lane.
    fn coarse_ranges(&mut self) -> Arc<[NamedRange]> {
        if let Some(ranges) = &self.coarse {
            return ranges.clone();
        }
        let (hasher, tree) = (self.view.hasher(), self.view.tree());
        let mut ranges = Vec::new();
        for lane in self.lanes() {
            for stretch in tree.stretches(lane, COARSE_ZERO_BITS) {
                if stretch.sum.is_zero() && stretch.rows == 0 {
                    continue;
                }
                let name = hasher.leaf_fingerprint(lane, &stretch.start, stretch.sum) & self.mask;
                let (start, end) = (stretch.start.into(), stretch.end.map(Bytes::from));
                ranges.push((name, LaneRange { lane, start, end }));
            }
        }
        let ranges: Arc<[NamedRange]> = ranges.into();
        self.coarse = Some(ranges.clone());
        ranges
    }

    /// The coarse ranges with these fingerprints.
    pub(super) fn coarse_named(&mut self, names: &[u64]) -> Vec<LaneRange> {
        let names: HashSet<u64> = names.iter().copied().collect();
        let ranges = self.coarse_ranges();
        let named = ranges.iter().filter(|(name, _)| names.contains(name));
        named.map(|(_, range)| range.clone()).collect()
    }

    /// A sketch of the coarse ranges.
    pub(super) fn sketch(&mut self, count: u32) -> SketchTold {
        let ranges = self.coarse_ranges();
        let names = || ranges.iter().map(|(name, _)| *name);
        let symbols = Encoder::new(names()).symbols((count as usize).min(SYMBOLS_MAX));
        let elements = ranges.len() as u64;
        SketchTold {
            symbols: encode_symbols_short(&symbols, self.width, 0, elements).into(),
            estimate: Estimate::of(names()).encode().into(),
            ranges: elements,
        }
    }

    /// Sums of coarse ranges.
    pub(super) fn coarse(&self, ask: &CoarseRanges) -> Coarse {
        let limit = (ask.limit as usize).clamp(1, COARSE_RANGES_MAX);
        let (starts, next) = self.coarse_starts(&ask.start, ask.end.as_deref(), limit);
        let mut ranges: BTreeMap<Vec<u8>, (Sum, u64)> =
            starts.into_iter().map(|start| (start, (Sum::default(), 0))).collect();
        let end = next.clone().or_else(|| ask.end.clone());
        for lane in self.lanes() {
            for leaf in self.leaves_in(lane, &ask.start, end.as_deref()) {
                if let Some((_, (sum, leaves))) = ranges.range_mut(..=leaf.start).next_back() {
                    *sum += leaf.sum;
                    *leaves += 1;
                }
            }
        }
        let told = |(start, (sum, leaves)): (Vec<u8>, (Sum, u64))| CoarseRange {
            start: start.into(),
            sum: sum_bytes(sum),
            leaves,
        };
        Coarse { ranges: ranges.into_iter().map(told).collect(), next }
    }

    /// The first starts of coarse ranges from a key on, itself among them, and the one after.
    fn coarse_starts(
        &self,
        start: &Bytes,
        end: Option<&[u8]>,
        limit: usize,
    ) -> (Vec<Vec<u8>>, Option<Bytes>) {
        let mut starts = vec![start.to_vec()];
        for lane in self.lanes() {
            let leaves = self.view.tree().leaves(lane, start, end);
            let coarse = leaves.filter(|leaf| {
                u32::from(leaf.zero_bits) >= COARSE_ZERO_BITS && leaf.start[..] > start[..]
            });
            starts.extend(coarse.take(limit).map(|leaf| leaf.start));
        }
        starts.sort_unstable();
        starts.dedup();
        let next = starts.get(limit).map(|next| Bytes::copy_from_slice(next));
        starts.truncate(limit);
        (starts, next)
    }
}
