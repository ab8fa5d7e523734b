//! Which leaves of two trees hold something else, where the trees may have different leaves.
//!
//! One side tells its leaves, the other one lays them beside its own. Where leaves of both begin
//! at one key and, some leaves on, end at one key, and their sums are alike, they hold the same;
//! all others are kept as unlike. Keys are told as what they do not share with the one before.

use crate::change::shared_prefix;
use crate::codec::{Reader, put_bytes, put_number};
use crate::{Damaged, Lane, Leaf};

/// What of a leaf is told: where it lies, and the low half of its sum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafTold {
    /// Lane.
    pub lane: Lane,
    /// First key.
    pub start: Vec<u8>,
    /// First key beyond; none at the end of the lane.
    pub end: Option<Vec<u8>>,
    /// The sum, modulo 2^64.
    pub sum: u64,
}

const VERSION: u8 = 1;
const WHAT: &str = "list of leaves";
const NEW_LANE: u8 = 1;
/// It begins where the one before ends.
const FOLLOWS: u8 = 2;
const HAS_END: u8 = 4;
/// Bytes of the shortest leaf.
const LEAF_BYTES_MIN: usize = 9;

impl LeafTold {
    /// Of a leaf.
    pub fn of(lane: Lane, leaf: &Leaf) -> LeafTold {
        let (start, end) = (leaf.start.clone(), leaf.end.clone());
        LeafTold { lane, start, end, sum: leaf.sum.0 as u64 }
    }
}

/// Leaves on the wire, by lane and key.
pub fn encode_leaves(leaves: &[LeafTold]) -> Vec<u8> {
    let mut out = vec![VERSION];
    put_number(&mut out, leaves.len() as u64);
    let mut last: Option<&LeafTold> = None;
    let put_key = |out: &mut Vec<u8>, before: &[u8], key: &[u8]| {
        let shared = shared_prefix(before, key);
        put_number(out, shared as u64);
        put_bytes(out, &key[shared..]);
    };
    for leaf in leaves {
        let same_lane = last.is_some_and(|last| last.lane == leaf.lane);
        let follows = same_lane
            && last.and_then(|last| last.end.as_ref()).is_some_and(|end| *end == leaf.start);
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        out.push(
            flag(!same_lane, NEW_LANE) | flag(follows, FOLLOWS) | flag(leaf.end.is_some(), HAS_END),
        );
        if !same_lane {
            out.extend_from_slice(&leaf.lane.encode());
        }
        if !follows {
            put_key(&mut out, last.map_or(&[], |last| &last.start), &leaf.start);
        }
        if let Some(end) = &leaf.end {
            put_key(&mut out, &leaf.start, end);
        }
        out.extend_from_slice(&leaf.sum.to_le_bytes());
        last = Some(leaf);
    }
    out
}

/// What was encoded, if its keys take no more than `key_bytes_max` in all.
pub fn decode_leaves(bytes: &[u8], key_bytes_max: usize) -> Result<Vec<LeafTold>, Damaged> {
    let mut reader = Reader::new(bytes, WHAT);
    let version = reader.byte()?;
    reader.check(version == VERSION)?;
    let count = reader.count(LEAF_BYTES_MIN)?;
    let mut left = key_bytes_max;
    let mut key = |reader: &mut Reader<'_>, before: &[u8]| {
        let shared = reader.number()?;
        let rest = reader.bytes()?;
        let Some(shared) = usize::try_from(shared).ok().and_then(|shared| before.get(..shared))
        else {
            return reader.damaged();
        };
        let key = [shared, rest].concat();
        left = match left.checked_sub(key.len()) {
            Some(left) => left,
            None => return reader.damaged(),
        };
        Ok(key)
    };
    let mut leaves: Vec<LeafTold> = Vec::new();
    for _ in 0..count {
        let flags = reader.byte()?;
        reader.check(flags <= NEW_LANE | FOLLOWS | HAS_END)?;
        let last = leaves.last();
        let lane = match (flags & NEW_LANE != 0, last) {
            (true, _) => Lane::decode(&reader.array()?),
            (false, last) => last.map(|last| last.lane),
        };
        let Some(lane) = lane else { return reader.damaged() };
        let start = match (flags & FOLLOWS != 0, last) {
            (false, last) => key(&mut reader, last.map_or(&[], |last| &last.start))?,
            (true, Some(LeafTold { end: Some(end), .. })) => end.clone(),
            (true, _) => return reader.damaged(),
        };
        let end = match flags & HAS_END != 0 {
            true => Some(key(&mut reader, &start)?),
            false => None,
        };
        let sum = u64::from_le_bytes(reader.array()?);
        leaves.push(LeafTold { lane, start, end, sum });
    }
    reader.finish()?;
    let rises = leaves.is_sorted_by(|a, b| (a.lane, &a.start) < (b.lane, &b.start));
    let is_range = |leaf: &LeafTold| leaf.end.as_ref().is_none_or(|end| leaf.start < *end);
    reader.check(rises && leaves.iter().all(is_range))?;
    Ok(leaves)
}

/// Places of the leaves on either side that are not alike with leaves of the other one. Both lists
/// ascend by lane and key, and no leaves of one overlap.
pub fn unlike_leaves(first: &[LeafTold], second: &[LeafTold]) -> [Vec<usize>; 2] {
    let mut unlike = [Vec::new(), Vec::new()];
    let (mut one, mut two) = (0, 0);
    while let (Some(a), Some(b)) = (first.get(one), second.get(two)) {
        match (a.lane, &a.start).cmp(&(b.lane, &b.start)) {
            std::cmp::Ordering::Less => {
                unlike[0].push(one);
                one += 1;
            }
            std::cmp::Ordering::Greater => {
                unlike[1].push(two);
                two += 1;
            }
            std::cmp::Ordering::Equal => {
                let (many_one, many_two, alike) = together(&first[one..], &second[two..]);
                if !alike {
                    unlike[0].extend(one..one + many_one);
                    unlike[1].extend(two..two + many_two);
                }
                one += many_one;
                two += many_two;
            }
        }
    }
    unlike[0].extend(one..first.len());
    unlike[1].extend(two..second.len());
    unlike
}

/// How many leaves of two lists that begin at one key lie together up to the first end of both,
/// and whether they are alike. If there is no such end, how far they were followed.
fn together(first: &[LeafTold], second: &[LeafTold]) -> (usize, usize, bool) {
    let (mut one, mut two) = (0, 0);
    let mut sums = [first[0].sum, second[0].sum];
    loop {
        let (a, b) = (&first[one], &second[two]);
        let is_before = match (&a.end, &b.end) {
            (a, b) if a == b => return (one + 1, two + 1, sums[0] == sums[1]),
            (Some(a), Some(b)) => a < b,
            (a, _) => a.is_some(),
        };
        let (list, place, sum, leaf) = match is_before {
            true => (first, &mut one, &mut sums[0], a),
            false => (second, &mut two, &mut sums[1], b),
        };
        let next = list.get(*place + 1);
        let Some(next) = next.filter(|next| {
            next.lane == leaf.lane && leaf.end.as_ref().is_some_and(|end| *end == next.start)
        }) else {
            return (one + 1, two + 1, false);
        };
        *sum = sum.wrapping_add(next.sum);
        *place += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::collection::{btree_map, btree_set};
    use proptest::prelude::{any, proptest};
    use proptest::{prop_assert, prop_assert_eq};

    use super::*;

    /// Leaves over rows, with starts at some of the keys, and of these those in some ranges.
    fn leaves(
        rows: &BTreeMap<u8, u64>,
        starts: &BTreeSet<u8>,
        lane: Lane,
        keep: impl Fn(u8) -> bool,
    ) -> Vec<LeafTold> {
        let mut bounds: Vec<Vec<u8>> = vec![Vec::new()];
        bounds.extend(starts.iter().map(|start| vec![7, *start]));
        let ends = bounds.iter().skip(1).cloned().map(Some).chain([None]);
        let all = bounds.iter().cloned().zip(ends).map(|(start, end)| {
            let inside = rows.iter().filter(|(key, _)| {
                let key = vec![7, **key];
                start <= key && end.as_ref().is_none_or(|end| key < *end)
            });
            let sum = inside.fold(0u64, |sum, (_, value)| sum.wrapping_add(*value));
            LeafTold { lane, start, end, sum }
        });
        all.filter(|leaf| keep(leaf.start.last().copied().unwrap_or(0))).collect()
    }

    fn covers(leaves: &[LeafTold], places: &[usize], key: u8) -> bool {
        let key = vec![7, key];
        let inside =
            |leaf: &LeafTold| leaf.start <= key && leaf.end.as_ref().is_none_or(|end| key < *end);
        places.iter().any(|place| inside(&leaves[*place]))
    }

    proptest! {
        #[test]
        fn no_row_that_differs_is_passed_over_and_equal_leaves_are(
            rows in btree_map(any::<u8>(), 1..u64::MAX / 512, 0..80),
            changed in btree_set(any::<u8>(), 0..4),
            starts in btree_set(any::<u8>(), 0..30),
            others in btree_set(any::<u8>(), 0..8),
        ) {
            let mut altered = rows.clone();
            for key in &changed {
                altered.entry(*key).and_modify(|value| *value += 1).or_insert(1);
            }
            let more: BTreeSet<u8> = starts.union(&others).copied().collect();
            let first = leaves(&rows, &starts, Lane::Data, |_| true);
            let second = leaves(&altered, &more, Lane::Data, |_| true);
            let unlike = unlike_leaves(&first, &second);
            for key in &changed {
                prop_assert!(covers(&first, &unlike[0], *key));
                prop_assert!(covers(&second, &unlike[1], *key));
            }
            // Leaves of the first side are ranges that the second one can say.
            prop_assert!(unlike[0].len() <= changed.len());
            prop_assert_eq!(unlike_leaves(&first, &first), [vec![], vec![]]);
        }

        #[test]
        fn leaves_round_trip_and_noise_is_refused(
            rows in btree_map(any::<u8>(), any::<u64>(), 0..50),
            starts in btree_set(any::<u8>(), 0..30),
            holes: u8,
            noise: Vec<u8>,
        ) {
            let mut list = leaves(&rows, &starts, Lane::Data, |start| start % 5 != holes % 7);
            list.extend(leaves(&rows, &starts, Lane::Time(4), |start| start % 3 != holes % 4));
            let bytes = encode_leaves(&list);
            prop_assert_eq!(decode_leaves(&bytes, 10_000), Ok(list.clone()));
            let torn = &bytes[..bytes.len() - 1];
            prop_assert!(list.is_empty() || decode_leaves(torn, 10_000).is_err());
            prop_assert!(list.len() < 4 || decode_leaves(&bytes, 2).is_err());
            let _ = decode_leaves(&noise, 10_000);
        }
    }

    #[test]
    fn leaves_that_lie_apart_are_unlike() {
        let leaf = |start: u8, end: u8, sum| LeafTold {
            lane: Lane::Data,
            start: vec![start],
            end: Some(vec![end]),
            sum,
        };
        let first = [leaf(1, 3, 5), leaf(3, 6, 1), leaf(8, 9, 2)];
        let second = [leaf(1, 2, 4), leaf(2, 3, 1), leaf(3, 4, 1), leaf(8, 9, 2)];
        assert_eq!(unlike_leaves(&first, &second), [vec![1], vec![2]]);
        assert_eq!(unlike_leaves(&first, &[]), [vec![0, 1, 2], vec![]]);
    }
}
