//! Re-reads rows from the disk and holds them against the digest.
//!
//! The digest says what the write path did; only reading shows what the disk holds. A leaf whose
//! rows do not add up to it means a rotten disk, a bug, or somebody who wrote past the store.

use isthmus_digest::{Lane, Parts, Sum};
use isthmus_model::key::EncodedKey;

use crate::digest::DigestView;
use crate::error::StoreError;
use crate::table::Table;

/// A range whose rows do not add up to what the digest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRange {
    /// In which lane.
    pub lane: Lane,
    /// First key, inclusive.
    pub start: EncodedKey,
    /// End, exclusive; `None`: to the last row.
    pub end: Option<EncodedKey>,
    /// Rows that the digest counts there.
    pub rows_expected: u64,
    /// Rows that are there.
    pub rows_found: u64,
    /// A row that cannot be decoded, if that is what is wrong.
    pub damaged: Option<EncodedKey>,
}

/// What a step of a scrub has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubStep {
    /// Where to go on; `None`: all was read.
    pub next: Option<EncodedKey>,
    /// Rows read.
    pub rows: u64,
    /// Bytes read, keys and packed rows.
    pub bytes: u64,
    /// What is wrong.
    pub bad: Vec<BadRange>,
}

/// What a leaf should hold and what was found.
struct Leaf {
    start: EncodedKey,
    end: Option<EncodedKey>,
    expected: (Sum, u64),
    found: (Sum, u64),
    damaged: Option<EncodedKey>,
}

struct LaneLeaves {
    lane: Lane,
    leaves: Vec<Leaf>,
}

impl Table {
    /// Reads about `rows_max` rows from `from` on, as they are on the disk, and compares them with
    /// the digest. `minute` (since the Unix epoch) is noted with what was read.
    pub fn scrub_step(
        &self,
        from: &EncodedKey,
        rows_max: usize,
        minute: u32,
    ) -> Result<ScrubStep, StoreError> {
        let view = self.digest_view()?;
        let mut rows_max = rows_max.max(1);
        loop {
            let step = scrub(&view, from, rows_max)?;
            // A leaf that is larger than a step must be read in one.
            if step.next.as_ref() != Some(from) {
                let end = step.next.as_ref().map(|key| &key.0[..]);
                let mut live = self.partition.digest.lock();
                live.tree.set_scrubbed(&from.0, end, minute);
                return Ok(step);
            }
            rows_max = rows_max.saturating_mul(2);
        }
    }
}

fn scrub(view: &DigestView, from: &EncodedKey, rows_max: usize) -> Result<ScrubStep, StoreError> {
    let mut step = ScrubStep::default();
    let mut rows: Vec<(EncodedKey, Option<Parts>)> = Vec::new();
    let mut to = None;
    for row in view.stored_rows(from) {
        let (key, packed) = row?;
        if rows.len() == rows_max {
            to = Some(key);
            break;
        }
        step.rows += 1;
        step.bytes += (key.0.len() + packed.len()) as u64;
        let parts = view.measure_stored(&key, &packed).ok();
        rows.push((key, parts));
    }
    let mut lanes = leaves_of(view, from, to.as_ref());
    for (key, parts) in &rows {
        note_row(&mut lanes, key, parts.as_ref());
    }
    step.next = to.clone();
    for LaneLeaves { lane, leaves } in lanes {
        for leaf in leaves {
            let goes_on = match (&leaf.end, &to) {
                (_, None) => false,
                (None, Some(_)) => true,
                (Some(end), Some(to)) => end > to,
            };
            if goes_on {
                // It is read whole by the next step.
                step.next = step.next.min(Some(leaf.start));
            } else if leaf.expected != leaf.found || leaf.damaged.is_some() {
                step.bad.push(BadRange {
                    lane,
                    start: leaf.start,
                    end: leaf.end,
                    rows_expected: leaf.expected.1,
                    rows_found: leaf.found.1,
                    damaged: leaf.damaged,
                });
            }
        }
    }
    Ok(step)
}

fn leaves_of(view: &DigestView, from: &EncodedKey, to: Option<&EncodedKey>) -> Vec<LaneLeaves> {
    let key = |bytes: &[u8]| EncodedKey(bytes::Bytes::copy_from_slice(bytes));
    let of_lane = |lane: Lane| {
        let leaves = view.tree().leaves(lane, &from.0, to.map(|to| &to.0[..]));
        // Only leaves of which the front has not been read by an earlier step.
        let leaves = leaves.filter(|leaf| leaf.start[..] >= from.0[..]).map(|leaf| Leaf {
            start: key(&leaf.start),
            end: leaf.end.as_deref().map(key),
            expected: (leaf.sum, u64::from(leaf.rows)),
            found: (Sum::default(), 0),
            damaged: None,
        });
        LaneLeaves { lane, leaves: leaves.collect() }
    };
    view.tree().lanes().into_iter().map(|root| of_lane(root.lane)).collect()
}

fn note_row(lanes: &mut Vec<LaneLeaves>, key: &EncodedKey, parts: Option<&Parts>) {
    let Some(parts) = parts else {
        // Nobody knows which lanes it belonged to.
        for lane in lanes {
            if let Some(leaf) = leaf_of(&mut lane.leaves, key) {
                leaf.damaged.get_or_insert_with(|| key.clone());
            }
        }
        return;
    };
    for (lane, sum) in parts.iter() {
        let place = match lanes.iter().position(|known| known.lane == lane) {
            Some(place) => place,
            None => {
                // The digest knows of nothing in this lane.
                lanes.push(LaneLeaves {
                    lane,
                    leaves: vec![Leaf {
                        start: key.clone(),
                        end: None,
                        expected: (Sum::default(), 0),
                        found: (Sum::default(), 0),
                        damaged: None,
                    }],
                });
                lanes.len() - 1
            }
        };
        if let Some(leaf) = leaf_of(&mut lanes[place].leaves, key) {
            leaf.found.0 += sum;
            leaf.found.1 += 1;
        }
    }
}

fn leaf_of<'a>(leaves: &'a mut [Leaf], key: &EncodedKey) -> Option<&'a mut Leaf> {
    let place = leaves.partition_point(|leaf| leaf.start <= *key).checked_sub(1)?;
    leaves.get_mut(place)
}
