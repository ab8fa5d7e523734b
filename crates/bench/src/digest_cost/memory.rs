//! The memory of a digest: a tree of its own, filled as the write path fills it.
//!
//! Once with keys in their order, as a load brings them, once in an order by chance. What the
//! store does in the background is done here in between: leaves that have grown are split at the
//! boundaries among their keys.

use std::time::{Duration, Instant};

use isthmus_digest::{Change, Hasher, LEAF_ZERO_BITS, Lane, LeafPart, SplitWanted, Sum, Tree};
use serde::Serialize;

use crate::rows::encoded_key;

const MIB: f64 = 1024.0 * 1024.0;
/// Rows after which leaves are split.
const SPLIT_EVERY: usize = 100_000;
/// The most that a digest of ten million rows may take.
const AIM_MIB: f64 = 64.0;

/// What a digest takes.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct DigestMemory {
    order: &'static str,
    rows: u64,
    leaves: u64,
    memory_bytes: u64,
    apply_ns_per_row: f64,
    /// When ranges were read from disk, as each comparison asks, with leaves read in many minutes.
    scrubbed_ms: f64,
}

pub(super) const HEADINGS: [&str; 7] =
    ["DIGEST", "ROWS", "LEAVES", "MIB", "AIM AT 10 MILLION", "APPLY NS/ROW", "SCRUBBED MS"];

impl DigestMemory {
    pub(super) fn cells(&self) -> Vec<String> {
        vec![
            self.order.to_owned(),
            self.rows.to_string(),
            self.leaves.to_string(),
            format!("{:.1}", self.memory_bytes as f64 / MIB),
            format!("{AIM_MIB:.0}"),
            format!("{:.0}", self.apply_ns_per_row),
            format!("{:.2}", self.scrubbed_ms),
        ]
    }
}

pub(super) fn measure(rows: u64) -> Vec<DigestMemory> {
    // A step that divides nothing takes each number once.
    let by_chance = |place: u64| place.wrapping_mul(STEP) % rows;
    vec![fill("in the order of keys", rows, |place| place), fill("by chance", rows, by_chance)]
}

/// Rows that a scrub reads in a minute.
const SCRUBBED_A_MINUTE: u64 = 20_000;
/// Ranges that a comparison tells of.
const SCRUBBED_RANGES: usize = 256;
/// Times that they are asked for.
const SCRUBBED_TIMES: usize = 9;

/// A prime above any number of rows.
const STEP: u64 = 6_180_339_887;

/// A digest that is being filled.
struct Filling {
    hasher: Hasher,
    tree: Tree,
    /// Which rows are there, by number.
    present: Vec<bool>,
    applying: Duration,
    /// Groups so far.
    group: u64,
}

fn fill(order: &'static str, rows: u64, number: impl Fn(u64) -> u64) -> DigestMemory {
    let mut filling = Filling {
        hasher: Hasher::for_table(1, 1),
        tree: Tree::new(),
        present: vec![false; rows as usize],
        applying: Duration::ZERO,
        group: 0,
    };
    let places: Vec<u64> = (0..rows).collect();
    for chunk in places.chunks(SPLIT_EVERY) {
        filling.take(chunk.iter().map(|place| number(*place)));
        while let Some(wanted) = filling.tree.wants_split() {
            filling.split(&wanted);
        }
    }
    let scrubbed_ms = filling.scrubbed_ms();
    DigestMemory {
        order,
        rows,
        scrubbed_ms,
        leaves: filling.tree.leaf_count(),
        memory_bytes: filling.tree.memory_bytes() as u64,
        apply_ns_per_row: filling.applying.as_nanos() as f64 / (rows as f64).max(1.0),
    }
}

impl Filling {
    /// The part of a row. What is in the row does not matter here.
    fn sum(&self, key: &[u8]) -> Sum {
        self.hasher.part(Lane::Data, key, b"")
    }

    fn take(&mut self, numbers: impl Iterator<Item = u64>) {
        let mut changes = Vec::with_capacity(SPLIT_EVERY);
        for number in numbers {
            self.present[number as usize] = true;
            let key = encoded_key(number).0;
            let delta = self.sum(&key);
            changes.push(Change::Part { key, lane: Lane::Data, delta, rows: 1 });
        }
        self.group += 1;
        let start = Instant::now();
        for change in &changes {
            self.tree.apply(&self.hasher, self.group, change);
        }
        self.applying += start.elapsed();
    }

    /// The middle one of some questions when ranges were read, as the background scrub leaves them.
    fn scrubbed_ms(&mut self) -> f64 {
        let minutes = self.present.len() as u64 / SCRUBBED_A_MINUTE + 1;
        let mut start = Vec::new();
        for minute in 0..minutes {
            let end = encoded_key((minute + 1) * SCRUBBED_A_MINUTE).0;
            self.tree.set_scrubbed(&start, Some(&end), minute as u32 + 1);
            start = end.to_vec();
        }
        let ask = |_| {
            let start = Instant::now();
            std::hint::black_box(self.tree.scrubbed(SCRUBBED_RANGES));
            start.elapsed().as_secs_f64() * 1e3
        };
        super::median((0..SCRUBBED_TIMES).map(ask).collect())
    }

    /// Does what the store does in the background: reads the rows and finds the boundaries.
    fn split(&mut self, wanted: &SplitWanted) {
        let first = self.number_at(&wanted.start);
        let end = wanted.end.as_ref().map_or(self.present.len(), |end| self.number_at(end));
        let part = |start, zero_bits| LeafPart { start, zero_bits, sum: Sum::default(), rows: 0 };
        let mut parts = vec![part(wanted.start.clone(), 0)];
        for number in (first..end).filter(|number| self.present[*number]) {
            let key = encoded_key(number as u64).0;
            let zero_bits = self.hasher.zero_bits(&key);
            if zero_bits >= LEAF_ZERO_BITS && key[..] != wanted.start[..] {
                parts.push(part(key.to_vec(), zero_bits.min(255) as u8));
            }
            let sum = self.sum(&key);
            if let Some(last) = parts.last_mut() {
                last.sum += sum;
                last.rows += 1;
            }
        }
        if !self.tree.split(wanted.lane, &wanted.start, self.group, &parts) {
            self.tree.skip_split(wanted.lane, &wanted.start);
        }
    }

    /// The number of the first row at or after a key.
    fn number_at(&self, key: &[u8]) -> usize {
        let (mut low, mut high) = (0, self.present.len());
        while low < high {
            let middle = low.midpoint(high);
            match encoded_key(middle as u64).0[..] < *key {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        low
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_orders_make_a_digest_of_all_rows() {
        for found in measure(20_000) {
            assert!(found.leaves > 20_000 / 64, "{found:?}");
            assert!(found.memory_bytes > 0);
        }
    }
}
