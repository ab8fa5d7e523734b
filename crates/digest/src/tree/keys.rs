//! A sorted list of keys in little memory: what all share is kept once, the rest in one piece.
//!
//! Finding is the hot part: every change of a row looks one key up among pages and one among the
//! leaves of a page.

use std::cmp::Ordering;

use crate::change::shared_prefix;

/// Keys in strictly ascending order. The caller keeps the order.
#[derive(Clone, Debug, Default)]
pub(super) struct Keys {
    prefix: Box<[u8]>,
    /// What follows the prefix in each key, one after another.
    rests: Vec<u8>,
    /// Where the rest of each key ends.
    ends: Vec<u32>,
}

/// Room that a list which grows takes beyond what it needs, in keys.
const GROWTH: usize = 16;

impl Keys {
    /// A list of keys that ascend.
    pub(super) fn from_sorted<'a>(
        keys: impl DoubleEndedIterator<Item = &'a [u8]> + ExactSizeIterator + Clone,
    ) -> Keys {
        let mut ends = keys.clone();
        let shared = match (ends.next(), ends.next_back()) {
            (Some(first), Some(last)) => &first[..shared_prefix(first, last)],
            (Some(only), None) => only,
            (None, _) => &[],
        };
        let bytes = keys.clone().map(|key| key.len() - shared.len()).sum();
        let mut list = Keys {
            prefix: shared.into(),
            rests: Vec::with_capacity(bytes),
            ends: Vec::with_capacity(keys.len()),
        };
        for key in keys {
            list.rests.extend_from_slice(&key[list.prefix.len()..]);
            list.ends.push(list.rests.len() as u32);
        }
        list
    }

    /// A list of keys that ascend, of which each begins with `prefix`.
    pub(super) fn from_parts(prefix: &[u8], rests: &[&[u8]]) -> Keys {
        let ends = rests.iter().scan(0, |end, rest| {
            *end += rest.len() as u32;
            Some(*end)
        });
        Keys { prefix: prefix.into(), rests: rests.concat(), ends: ends.collect() }
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The length of all keys as they are kept.
    pub(super) fn bytes(&self) -> usize {
        self.prefix.len() + self.rests.len()
    }

    /// What all keys share.
    pub(super) fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    fn begin(&self, at: usize) -> usize {
        if at == 0 { 0 } else { self.ends[at - 1] as usize }
    }

    /// What follows the prefix in one key.
    pub(super) fn rest(&self, at: usize) -> &[u8] {
        &self.rests[self.begin(at)..self.ends[at] as usize]
    }

    /// One key.
    pub(super) fn get(&self, at: usize) -> Vec<u8> {
        let rest = self.rest(at);
        let mut key = Vec::with_capacity(self.prefix.len() + rest.len());
        key.extend_from_slice(&self.prefix);
        key.extend_from_slice(rest);
        key
    }

    /// Writes one key into a buffer, in place of what is there.
    pub(super) fn read(&self, at: usize, key: &mut Vec<u8>) {
        key.clear();
        key.extend_from_slice(&self.prefix);
        key.extend_from_slice(self.rest(at));
    }

    /// Where one key stands to another.
    pub(super) fn compare(&self, at: usize, key: &[u8]) -> Ordering {
        match key.split_at_checked(self.prefix.len()) {
            Some((head, rest)) => (*self.prefix).cmp(head).then_with(|| self.rest(at).cmp(rest)),
            // A key that is shorter than the prefix is never equal to one that has it.
            None => (*self.prefix).cmp(key),
        }
    }

    /// The last key that is at or before `key`.
    pub(super) fn at_or_before(&self, key: &[u8]) -> Option<usize> {
        let Some((head, rest)) = key.split_at_checked(self.prefix.len()) else {
            let is_before = *self.prefix > *key;
            return if is_before { None } else { self.len().checked_sub(1) };
        };
        match (*self.prefix).cmp(head) {
            Ordering::Less => return self.len().checked_sub(1),
            Ordering::Greater => return None,
            Ordering::Equal => {}
        }
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = (low + high) / 2;
            if self.rest(middle) <= rest {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low.checked_sub(1)
    }

    /// How many keys are before `key`.
    pub(super) fn before(&self, key: &[u8]) -> usize {
        match self.at_or_before(key) {
            Some(at) if self.compare(at, key) == Ordering::Equal => at,
            Some(at) => at + 1,
            None => 0,
        }
    }

    /// Inserts a key that lies between its neighbours.
    pub(super) fn insert(&mut self, at: usize, key: &[u8]) {
        if !key.starts_with(&self.prefix) {
            self.shorten_prefix(shared_prefix(&self.prefix, key));
        }
        let rest = &key[self.prefix.len()..];
        let begin = self.begin(at);
        if self.ends.len() == self.ends.capacity() {
            self.ends.reserve_exact(GROWTH + self.ends.len() / GROWTH);
        }
        if self.rests.capacity() - self.rests.len() < rest.len() {
            self.rests.reserve_exact(GROWTH * rest.len() + self.rests.len() / GROWTH);
        }
        self.rests.splice(begin..begin, rest.iter().copied());
        self.ends.insert(at, begin as u32);
        for end in &mut self.ends[at..] {
            *end += rest.len() as u32;
        }
    }

    /// Puts a list of keys in the place of some.
    pub(super) fn replace(&mut self, places: std::ops::Range<usize>, keys: &[Vec<u8>]) {
        let begin = self.begin(places.start);
        let end = self.begin(places.end);
        for key in keys {
            if !key.starts_with(&self.prefix) {
                self.shorten_prefix(shared_prefix(&self.prefix, key));
                return self.replace(places, keys);
            }
        }
        let skip = self.prefix.len();
        let bytes: usize = keys.iter().map(|key| key.len() - skip).sum();
        let rests = keys.iter().flat_map(|key| key[skip..].iter().copied());
        let rests: Vec<u8> = rests.collect();
        self.rests.splice(begin..end, rests);
        let new_ends = keys.iter().scan(begin, |end, key| {
            *end += key.len() - skip;
            Some(*end as u32)
        });
        let new_ends: Vec<u32> = new_ends.collect();
        let later = places.start + keys.len();
        self.ends.splice(places, new_ends);
        for later in &mut self.ends[later..] {
            *later = (*later as usize - (end - begin) + bytes) as u32;
        }
    }

    fn shorten_prefix(&mut self, length: usize) {
        let keys: Vec<Vec<u8>> = (0..self.len()).map(|at| self.get(at)).collect();
        self.prefix = self.prefix[..length].into();
        self.rests.clear();
        self.ends.clear();
        for key in keys {
            self.rests.extend_from_slice(&key[length..]);
            self.ends.push(self.rests.len() as u32);
        }
    }

    /// Bytes that the list holds in memory beside itself.
    pub(super) fn memory_bytes(&self) -> usize {
        self.prefix.len() + self.rests.capacity() + self.ends.capacity() * size_of::<u32>()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::{btree_set, vec};
    use proptest::prelude::{any, proptest};
    use proptest::prop_assert_eq;

    use super::Keys;

    fn slices(keys: &[Vec<u8>]) -> Keys {
        Keys::from_sorted(keys.iter().map(Vec::as_slice))
    }

    fn all(keys: &Keys) -> Vec<Vec<u8>> {
        (0..keys.len()).map(|at| keys.get(at)).collect()
    }

    proptest! {
        #[test]
        fn a_list_finds_what_a_sorted_set_finds(
            start in btree_set(vec(0..3u8, 0..5), 0..12),
            inserted in vec(vec(0..3u8, 0..6), 0..12),
            wanted in vec(vec(0..3u8, 0..6), 1..8),
        ) {
            let mut keys = slices(&start.iter().cloned().collect::<Vec<_>>());
            let mut model: BTreeSet<Vec<u8>> = start;
            for key in inserted {
                let at = keys.before(&key);
                if model.insert(key.clone()) {
                    keys.insert(at, &key);
                }
            }
            let expected: Vec<Vec<u8>> = model.into_iter().collect();
            prop_assert_eq!(all(&keys), expected.clone());
            for key in wanted {
                let place = expected.iter().rposition(|known| *known <= key);
                prop_assert_eq!(keys.at_or_before(&key), place);
                let before = expected.iter().take_while(|known| **known < key).count();
                prop_assert_eq!(keys.before(&key), before);
                for (at, known) in expected.iter().enumerate() {
                    prop_assert_eq!(keys.compare(at, &key), known.cmp(&key));
                }
            }
        }

        #[test]
        fn a_stretch_of_a_list_can_be_replaced(
            start in btree_set(vec(0..3u8, 1..5), 1..12), from: usize, to: usize, head: Option<u8>
        ) {
            let list: Vec<Vec<u8>> = start.into_iter().collect();
            let mut keys = slices(&list);
            let from = from % list.len();
            let to = from + to % (list.len() - from + 1);
            let mut expected = list.clone();
            let new: Vec<Vec<u8>> = head.map(|byte| vec![byte; 3]).into_iter().collect();
            expected.splice(from..to, new.clone());
            keys.replace(from..to, &new);
            prop_assert_eq!(all(&keys), expected);
        }
    }

    proptest! {
        #[test]
        fn one_key_is_its_own_prefix(key: Vec<u8>, other in any::<Vec<u8>>()) {
            let keys = slices(std::slice::from_ref(&key));
            prop_assert_eq!(keys.prefix(), key.as_slice());
            prop_assert_eq!(keys.at_or_before(&other), (key <= other).then_some(0));
        }
    }
}
