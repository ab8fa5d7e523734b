//! The parts of one row: its hash in each lane it touches.
//!
//! Nearly every row has one part, which costs no allocation. Parts are sorted by lane with at most
//! one per lane, so two rows are alike exactly if their parts compare equal.

use smallvec::SmallVec;

use crate::{Hasher, Lane, Sum};

/// The hash of one row in each lane where it has anything.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Parts(SmallVec<[(Lane, Sum); 1]>);

impl Parts {
    /// Those of a row that is not there.
    pub fn new() -> Parts {
        Parts::default()
    }

    /// Those of a row that lies in one lane.
    pub fn one(lane: Lane, sum: Sum) -> Parts {
        Parts(SmallVec::from_buf([(lane, sum)]))
    }

    /// Adds to the row's part in a lane. A part whose sum comes to zero stays: it is there.
    pub fn push(&mut self, lane: Lane, sum: Sum) {
        match self.0.binary_search_by_key(&lane, |(lane, _)| *lane) {
            Ok(at) => self.0[at].1 += sum,
            Err(at) => self.0.insert(at, (lane, sum)),
        }
    }

    /// The part in one lane, if the row has any there.
    pub fn get(&self, lane: Lane) -> Option<Sum> {
        let at = self.0.binary_search_by_key(&lane, |(lane, _)| *lane).ok()?;
        Some(self.0[at].1)
    }

    /// All parts, by lane.
    pub fn iter(&self) -> impl Iterator<Item = (Lane, Sum)> + '_ {
        self.0.iter().copied()
    }

    /// How many lanes the row touches.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the row is not there in any lane.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets the parts of other lanes.
    pub fn retain(&mut self, keep: impl Fn(Lane) -> bool) {
        self.0.retain(|(lane, _)| keep(*lane));
    }

    /// The element that stands for this row in a sketch: alike only for the same key and parts.
    pub fn fingerprint(&self, hasher: &Hasher, key: &[u8]) -> u64 {
        hasher.row_fingerprint(key, self.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::Parts;
    use crate::{Hasher, Lane, Sum};

    #[test]
    fn parts_are_sorted_and_one_lane_has_one() {
        let mut parts = Parts::one(Lane::Kills(1), Sum(1));
        parts.push(Lane::Data, Sum(2));
        parts.push(Lane::Kills(1), Sum(3));
        let expected = [(Lane::Data, Sum(2)), (Lane::Kills(1), Sum(4))];
        assert_eq!(parts.iter().collect::<Vec<_>>(), expected);
        assert_eq!((parts.get(Lane::Data), parts.get(Lane::Time(1))), (Some(Sum(2)), None));
        parts.retain(|lane| lane == Lane::Data);
        assert_eq!(parts, Parts::one(Lane::Data, Sum(2)));
        assert_eq!((parts.len(), Parts::new().is_empty()), (1, true));
    }

    #[test]
    fn a_fingerprint_tells_keys_lanes_and_sums_apart() {
        let hasher = Hasher::for_table(1, 2);
        let rows = [
            (Parts::new(), b"a"),
            (Parts::one(Lane::Data, Sum(1)), b"a"),
            (Parts::one(Lane::Data, Sum(1)), b"b"),
            (Parts::one(Lane::Data, Sum(2)), b"a"),
            (Parts::one(Lane::Time(0), Sum(1)), b"a"),
        ];
        let mut seen: Vec<u64> =
            rows.iter().map(|(parts, key)| parts.fingerprint(&hasher, *key)).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), rows.len());
    }
}
