//! When each range of keys was last read from disk.
//!
//! Reading a range reads its rows in all lanes, so what the leaves of any lane say of a key holds
//! for all of them, and the latest word counts. It is told in few ranges: where there are more,
//! neighbours are taken together, and the oldest of them is told.

use super::Tree;
use super::lane::LaneTree;
use super::page::Facts;

/// Keys that were last read from disk in one minute: from a start to that of the next range.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScrubbedRange {
    /// The first key. That of the first range is empty.
    pub start: Vec<u8>,
    /// When, in minutes of the epoch; 0 if never.
    pub minute: u32,
}

impl ScrubbedRange {
    /// So many ranges at most, one in any case: of neighbours that become one the oldest is told.
    pub fn joined(ranges: Vec<ScrubbedRange>, ranges_max: usize) -> Vec<ScrubbedRange> {
        let each = ranges.len().div_ceil(ranges_max.max(1)).max(1);
        if each == 1 {
            return ranges;
        }
        let mut few: Vec<ScrubbedRange> = Vec::new();
        for chunk in ranges.chunks(each) {
            let minute = chunk.iter().map(|range| range.minute).min().unwrap_or(0);
            if few.last().is_none_or(|last| last.minute != minute) {
                few.push(ScrubbedRange { start: chunk[0].start.clone(), minute });
            }
        }
        few
    }
}

/// Ranges of one lane that are kept while lanes are put together, as a multiple of those told.
const KEPT_FACTOR: usize = 16;

impl Tree {
    /// When each range of keys was last read from disk: all keys without gaps, in their order, in
    /// `ranges_max` ranges at most, one in any case. Rows that were written later do not count.
    pub fn scrubbed(&self, ranges_max: usize) -> Vec<ScrubbedRange> {
        let never = vec![ScrubbedRange { start: Vec::new(), minute: 0 }];
        let kept_max = ranges_max.max(1).saturating_mul(KEPT_FACTOR);
        let latest = self.lanes.values().fold(never, |known, tree| {
            let both = later_of(&known, &of_lane(tree, kept_max));
            ScrubbedRange::joined(both, kept_max)
        });
        ScrubbedRange::joined(latest, ranges_max)
    }
}

/// What the leaves of a lane say. There may be very many; nothing is allocated for those that say
/// what the one before says.
fn of_lane(tree: &LaneTree, ranges_max: usize) -> Vec<ScrubbedRange> {
    let mut ranges: Vec<ScrubbedRange> = Vec::new();
    for slot in &tree.slots {
        for (leaf, Facts { scrubbed_minute, .. }) in slot.page.facts.iter().enumerate() {
            if ranges.last().is_none_or(|last| last.minute != *scrubbed_minute) {
                let start = slot.page.keys.get(leaf);
                ranges.push(ScrubbedRange { start, minute: *scrubbed_minute });
            }
        }
        if ranges.len() > 2 * ranges_max {
            ranges = ScrubbedRange::joined(ranges, ranges_max);
        }
    }
    ranges
}

/// The later of what two lists say of each key; both cover all keys.
fn later_of(one: &[ScrubbedRange], other: &[ScrubbedRange]) -> Vec<ScrubbedRange> {
    let mut ranges: Vec<ScrubbedRange> = Vec::new();
    let (mut one, mut other) = (one.iter().peekable(), other.iter().peekable());
    let mut minutes = (0, 0);
    loop {
        let start = match (one.peek(), other.peek()) {
            (None, None) => return ranges,
            (Some(range), None) | (None, Some(range)) => &range.start,
            (Some(first), Some(second)) => (&first.start).min(&second.start),
        };
        if let Some(range) = one.next_if(|range| range.start == *start) {
            minutes.0 = range.minute;
        }
        if let Some(range) = other.next_if(|range| range.start == *start) {
            minutes.1 = range.minute;
        }
        let minute = minutes.0.max(minutes.1);
        if ranges.last().is_none_or(|last| last.minute != minute) {
            ranges.push(ScrubbedRange { start: start.clone(), minute });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Change, Hasher, Lane, Sum};

    fn key(number: u32) -> Vec<u8> {
        number.to_be_bytes().to_vec()
    }

    fn tree(lanes: &[Lane]) -> Tree {
        let hasher = Hasher::new([7; 32]);
        let mut tree = Tree::new();
        for number in 0..2000 {
            for lane in lanes {
                let (key, delta) = (key(number).into(), Sum(u128::from(number) + 1));
                let change = Change::Part { key, lane: *lane, delta, rows: 1 };
                tree.apply(&hasher, u64::from(number), &change);
            }
        }
        tree
    }

    fn minute_at(ranges: &[ScrubbedRange], key: &[u8]) -> u32 {
        let place = ranges.partition_point(|range| range.start.as_slice() <= key);
        ranges[place - 1].minute
    }

    #[test]
    fn what_was_never_read_is_one_range() {
        let never = [ScrubbedRange { start: Vec::new(), minute: 0 }];
        assert_eq!(Tree::new().scrubbed(256), never);
        assert_eq!(tree(&[Lane::Data]).scrubbed(256), never);
    }

    #[test]
    fn each_range_says_when_it_was_read_last() {
        let mut tree = tree(&[Lane::Data]);
        tree.set_scrubbed(&[], None, 5);
        assert_eq!(tree.scrubbed(256), [ScrubbedRange { start: Vec::new(), minute: 5 }]);
        tree.set_scrubbed(&key(500), Some(&key(1000)), 7);
        let ranges = tree.scrubbed(256);
        let minutes: Vec<u32> = ranges.iter().map(|range| range.minute).collect();
        assert_eq!(minutes, [5, 7, 5]);
        // A leaf that reaches out of the range does not count.
        assert!(ranges[1].start >= key(500) && ranges[2].start <= key(1000));
        assert_eq!(minute_at(&ranges, &key(750)), 7);
    }

    #[test]
    fn a_lane_that_came_later_does_not_hide_what_was_read() {
        let (old, new) = (Lane::Time(1), Lane::Time(2));
        let mut both = tree(&[old]);
        both.set_scrubbed(&[], None, 5);
        let hasher = Hasher::new([7; 32]);
        let change = Change::Part { key: key(9).into(), lane: new, delta: Sum(3), rows: 1 };
        both.apply(&hasher, 5000, &change);
        assert_eq!(both.scrubbed(256), [ScrubbedRange { start: Vec::new(), minute: 5 }]);
    }

    #[test]
    fn a_lane_that_has_gone_does_not_hide_what_was_read() {
        let (old, new) = (Lane::Time(1), Lane::Time(2));
        let hasher = Hasher::new([7; 32]);
        let mut tree = tree(&[old]);
        tree.set_scrubbed(&[], None, 5);
        for number in 0..2000 {
            let (key, sum) = (key(number), Sum(u128::from(number) + 1));
            let part =
                |lane, delta, rows| Change::Part { key: key.clone().into(), lane, delta, rows };
            tree.apply(&hasher, 3000, &part(old, -sum, -1));
            tree.apply(&hasher, 3000, &part(new, sum, 1));
        }
        for _ in 0..3 {
            tree.begin_checkpoint();
            while !tree.take_dirty(usize::MAX).is_empty() {}
        }
        assert_eq!(tree.lanes().len(), 1);
        assert_eq!(tree.leaves(old, &[], None).count(), 0);
        assert_eq!(tree.scrubbed(256), [ScrubbedRange { start: Vec::new(), minute: 5 }]);
    }

    #[test]
    fn ranges_are_few_and_the_oldest_of_them_is_told() {
        let mut tree = tree(&[Lane::Data]);
        for number in 0..100 {
            let (from, to) = (key(20 * number), key(20 * number + 20));
            tree.set_scrubbed(&from, Some(&to), number + 1);
        }
        let all = tree.scrubbed(usize::MAX >> 8);
        assert!(all.len() > 20, "{}", all.len());
        for most in [1, 2, 7, 16] {
            let few = tree.scrubbed(most);
            assert!(!few.is_empty() && few.len() <= most);
            assert!(few[0].start.is_empty() && few.is_sorted_by(|a, b| a.start < b.start));
            let is_no_later =
                |number: u32| minute_at(&few, &key(number)) <= minute_at(&all, &key(number));
            assert!((0..2000).all(is_no_later));
        }
    }
}
