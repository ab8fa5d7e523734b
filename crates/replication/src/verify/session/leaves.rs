//! What a session tells of its leaves: sketches, and sums of coarse ranges.
//!
//! A leaf belongs to the range in which it starts, whole. So every leaf is in exactly one of the
//! ranges that follow each other, and ranges with equal sums hold the same parts of rows even if
//! the two trees have different leaves.

use std::collections::BTreeMap;

use bytes::Bytes;
use isthmus_digest::{COARSE_ZERO_BITS, Encoder, Lane, Leaf, Sum, encode_symbols};

use crate::verify::answer::{Coarse, CoarseRange, sum_bytes};
use crate::verify::limits::{COARSE_RANGES_MAX, SYMBOLS_MAX};
use crate::verify::question::CoarseRanges;
use crate::verify::session::Session;

/// A range of keys; no end: to the last.
pub(super) type KeyRange = (Bytes, Option<Bytes>);

/// A sketch of the leaves that start in a range.
pub(super) struct Window {
    range: KeyRange,
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

    /// Symbols over the leaves that start in a range.
    pub(super) fn leaf_symbols(&mut self, range: KeyRange, from: u32, count: u32) -> Bytes {
        let count = (count as usize).min(SYMBOLS_MAX);
        let kept = self.window.take();
        let goes_on = |window: &Window| window.range == range && window.given <= from;
        let mut window = match kept.filter(goes_on) {
            Some(window) => window,
            None => self.window(range),
        };
        // Asked for again, or from further on: the ones between are made and thrown away.
        let skipped = from - window.given;
        window.encoder.symbols(skipped as usize);
        let symbols = window.encoder.symbols(count);
        window.given = from.saturating_add(count as u32);
        self.window = Some(window);
        encode_symbols(&symbols).into()
    }

    fn window(&self, range: KeyRange) -> Window {
        let hasher = self.view.hasher();
        let (lanes, end) = (self.lanes(), range.1.as_deref());
        let encoder = match range.0.is_empty() {
            // From the first leaf on, every leaf that overlaps the range starts in it.
            true => Encoder::new(
                lanes
                    .iter()
                    .flat_map(|lane| self.view.tree().fingerprints(hasher, *lane, &range.0, end)),
            ),
            false => Encoder::new(lanes.iter().flat_map(|lane| {
                let leaves = self.leaves_in(*lane, &range.0, end);
                leaves.map(|leaf| hasher.leaf_fingerprint(*lane, &leaf.start, leaf.sum))
            })),
        };
        Window { range, encoder, given: 0 }
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
