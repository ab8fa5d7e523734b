//! When partitions are split and merged without anybody asking, and where.
//!
//! Nothing flaps: what was split rests before it is merged, two are merged only where both together
//! are far below what is split, and one table has one reshape at a time.

use serde::{Deserialize, Serialize};

use super::Why;
use crate::distribution::{
    By, Distribution, DistributionError, PARTITIONS_MAX, Partition, Point, refused,
};

/// Bytes at which a partition can be split at least.
pub const SPLIT_BYTES_MIN: u64 = 1024 * 1024;
/// Requests in a second at which it can be split at least.
pub const SPLIT_RATE_MIN: u32 = 10;
/// A partition that was split or merged is not merged for so long, in milliseconds.
pub const REST_MILLIS: i64 = 5 * 60 * 1000;
/// Nor split again for its load for so long: rates are smoothed.
pub const LOAD_REST_MILLIS: i64 = 10 * 1000;
/// A half that was split for its load is not split again for so long where it has taken all of the
/// load along: then the load follows keys that rise, and the next split would help as little.
pub const VAIN_REST_MILLIS: i64 = 60 * 60 * 1000;
/// It has if the other half is asked for less than one in so many of its requests.
const IDLE_SHARE: f64 = 8.0;
/// Partitions up to which they are split for their load: room is left for those that grow.
pub const LOAD_PARTITIONS_MAX: usize = PARTITIONS_MAX / 4 * 3;
/// Two are merged only where both together are asked for less than one in so many of the requests
/// for which one is split.
const MERGE_RATE_SHARE: f64 = 4.0;
/// Points that are known at least before one is chosen among them for the load.
pub const POINTS_MIN: usize = 16;
/// A split that leaves less than one in so many of the points on one side is in vain.
const SIDE_SHARE: usize = 5;

/// When partitions are split and merged by themselves; never for what is not said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Split what holds more bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split_bytes: Option<u64>,
    /// Split what is asked for more often in a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split_rate: Option<u32>,
    /// Merge neighbours that hold fewer bytes together, unless the load forbids it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub merge_bytes: Option<u64>,
}

impl Limits {
    /// Whether anything is done by itself.
    pub fn are_set(&self) -> bool {
        self.split_bytes.is_some() || self.split_rate.is_some() || self.merge_bytes.is_some()
    }

    /// Whether they can hold together.
    pub fn check(&self) -> Result<(), DistributionError> {
        if self.split_bytes.is_some_and(|bytes| bytes < SPLIT_BYTES_MIN) {
            return refused(format!("a partition is split at {SPLIT_BYTES_MIN} bytes at least"));
        }
        if self.split_rate.is_some_and(|rate| rate < SPLIT_RATE_MIN) {
            return refused(format!(
                "a partition is split at {SPLIT_RATE_MIN} requests in a second at least"
            ));
        }
        match (self.split_bytes, self.merge_bytes) {
            (Some(split), Some(merge)) if merge > split / 2 => refused(
                "neighbours are merged at half of the bytes at which a partition is split at \
                 most: else it would be split again",
            ),
            _ => Ok(()),
        }
    }
}

/// What is known of a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Measure {
    /// Bytes of its rows, about; none: not known.
    pub bytes: Option<u64>,
    /// Requests in a second.
    pub rate: f64,
    /// What was refused or given up a moment ago is not begun again yet.
    pub is_resting: bool,
}

/// What is to be done by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Split this partition.
    Split(u32, Why),
    /// Merge these neighbours.
    Merge([u32; 2], Why),
}

/// Where a partition is to be split, by a sample of points of what it holds or is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Here.
    At(Point),
    /// Nowhere: most of them are one key, which cannot be divided. The share of it in percent.
    OneKey(usize),
    /// Too few points are known.
    Unknown,
}

/// Chooses the point within a partition, which begins at `from`, that divides a sample best.
pub fn choose_point(from: &Point, mut points: Vec<Point>) -> Choice {
    points.sort_unstable();
    let count = points.len();
    // Places where a new point begins: all before them are on one side.
    let begins = (1..count).filter(|place| points[place - 1] < points[*place]);
    let begins = begins.chain((count > 0).then_some(0)).filter(|place| points[*place] > *from);
    let best = begins.min_by_key(|place| (2 * place).abs_diff(count));
    match best {
        Some(place) if place.min(count - place) * SIDE_SHARE >= count => {
            Choice::At(points.swap_remove(place))
        }
        _ if count == 0 => Choice::Unknown,
        _ => Choice::OneKey(most_common(&points) * 100 / count),
    }
}

/// How often the most common of sorted points is there.
fn most_common(points: &[Point]) -> usize {
    points.chunk_by(|a, b| a == b).map(<[Point]>::len).max().unwrap_or_default()
}

impl Distribution {
    /// What is to be done by itself at this moment, by what is known of each partition.
    pub fn wanted_reshape(
        &self,
        measure: impl Fn(u32) -> Measure,
        now_millis: i64,
    ) -> Option<Wanted> {
        if self.reshape.is_some() || !self.limits.are_set() || self.is_moving() {
            return None;
        }
        let rested = |born: i64, rest: i64| now_millis.saturating_sub(born) >= rest;
        if self.partitions.len() < PARTITIONS_MAX {
            let too_much =
                |rate: f64| self.limits.split_rate.filter(|most| rate > f64::from(*most));
            let hot = self.partitions.iter().filter(|one| {
                let Measure { rate, is_resting, .. } = measure(one.number);
                let rest = match self.has_idle_sibling(one, rate, &measure) {
                    true => VAIN_REST_MILLIS,
                    false => LOAD_REST_MILLIS,
                };
                !is_resting && rested(one.born_millis, rest) && too_much(rate).is_some()
            });
            let hot = hot.filter(|_| self.partitions.len() < LOAD_PARTITIONS_MAX);
            let by_rate = |number: u32| measure(number).rate;
            let hottest = hot.max_by(|a, b| by_rate(a.number).total_cmp(&by_rate(b.number)));
            if let Some(hottest) = hottest {
                return Some(Wanted::Split(hottest.number, Why::Load));
            }
            let too_large = |number: u32| {
                let Measure { bytes, is_resting, .. } = measure(number);
                let most = self.limits.split_bytes;
                !is_resting && most.zip(bytes).is_some_and(|(most, bytes)| bytes > most)
            };
            let large = self.partitions.iter().filter(|one| too_large(one.number));
            let largest = large.max_by_key(|one| measure(one.number).bytes);
            if let Some(largest) = largest {
                return Some(Wanted::Split(largest.number, Why::Size));
            }
        }
        self.wanted_merge(measure, |born| rested(born, REST_MILLIS))
    }

    fn wanted_merge(
        &self,
        measure: impl Fn(u32) -> Measure,
        is_rested: impl Fn(i64) -> bool,
    ) -> Option<Wanted> {
        let most = self.limits.merge_bytes?;
        // As many as there are regions to write them.
        let least = self.members.iter().filter(|member| member.weight > 0).count();
        if self.partitions.len() <= least.max(1) {
            return None;
        }
        let rate_most = self.limits.split_rate.map(|rate| f64::from(rate) / MERGE_RATE_SHARE);
        let pairs = self.partitions.windows(2).enumerate().filter_map(|(place, pair)| {
            let [one, other] = pair else { return None };
            let (a, b) = (measure(one.number), measure(other.number));
            let bytes = a.bytes?.checked_add(b.bytes?)?;
            let fits = bytes < most
                && !(a.is_resting || b.is_resting)
                && self.may_come_together(one, other)
                && rate_most.is_none_or(|most| a.rate + b.rate < most)
                && is_rested(one.born_millis)
                && is_rested(other.born_millis)
                && self.by_same_rule(place, place + 1);
            fits.then_some((bytes, [one.number, other.number]))
        });
        pairs.min().map(|(_, pair)| Wanted::Merge(pair, Why::Size))
    }

    /// Whether what was asked of the whole is asked of this half alone.
    fn has_idle_sibling(
        &self,
        partition: &Partition,
        rate: f64,
        measure: &impl Fn(u32) -> Measure,
    ) -> bool {
        let sibling = partition.sibling.filter(|other| self.place_numbered(*other).is_some());
        sibling.is_some_and(|other| measure(other).rate * IDLE_SHARE < rate)
    }

    fn by_same_rule(&self, one: usize, other: usize) -> bool {
        self.by == By::Hash
            || self.rule_at(one).map(|r| &r.prefix) == self.rule_at(other).map(|r| &r.prefix)
    }
}
