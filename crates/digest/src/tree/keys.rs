//! A sorted list of keys in little memory: what all share is kept once, the rest in one piece.
//!
//! Finding is the hot part: every change of a row looks one key up among pages and one among the
//! leaves of a page. So the first bytes of what follows the shared part are kept as numbers, and
//! whole keys are compared only where these are equal. The empty key, with which every lane
//! begins, does not count when it is asked what all share.

use std::cmp::Ordering;
use std::ops::Range;

use smallvec::SmallVec;

use crate::change::shared_prefix;

/// Keys in strictly ascending order. The caller keeps the order.
#[derive(Clone, Debug, Default)]
pub(super) struct Keys {
    /// What all keys begin with, the empty key aside.
    prefix: SmallVec<[u8; 24]>,
    /// What follows the prefix in each key, one after another.
    rests: Vec<u8>,
    /// Where the rest of each key ends.
    ends: Vec<u32>,
    /// The first eight bytes of each rest.
    heads: Vec<u64>,
    /// Whether the first key is the empty one.
    begins_empty: bool,
}

/// Room that a list which grows takes beyond what it needs, in keys.
const GROWTH: usize = 16;

/// The first bytes of a rest as a number that orders alike, shorter ones filled up with zeros.
fn head_of(rest: &[u8]) -> u64 {
    match rest.first_chunk::<8>() {
        Some(head) => u64::from_be_bytes(*head),
        None => {
            let mut head = [0; 8];
            head[..rest.len()].copy_from_slice(rest);
            u64::from_be_bytes(head)
        }
    }
}

/// What keys that ascend all begin with, the empty key aside.
fn common_prefix<'a>(keys: &[&'a [u8]]) -> &'a [u8] {
    let keys = if keys.first().is_some_and(|key| key.is_empty()) { &keys[1..] } else { keys };
    match (keys.first(), keys.last()) {
        (Some(first), Some(last)) => &first[..shared_prefix(first, last)],
        _ => &[],
    }
}

impl Keys {
    /// A list of keys that ascend.
    pub(super) fn from_sorted(keys: &[&[u8]]) -> Keys {
        let mut list = Keys { prefix: common_prefix(keys).into(), ..Keys::default() };
        let bytes = keys.iter().map(|key| key.len().saturating_sub(list.prefix.len())).sum();
        list.rests.reserve_exact(bytes);
        list.ends.reserve_exact(keys.len());
        list.heads.reserve_exact(keys.len());
        keys.iter().for_each(|key| list.push(key));
        list
    }

    /// A list of keys that ascend, of which each is `prefix` and a rest.
    pub(super) fn from_parts(prefix: &[u8], rests: &[&[u8]]) -> Keys {
        if prefix.is_empty() {
            return Keys::from_sorted(rests);
        }
        let ends = rests.iter().scan(0, |end, rest| {
            *end += rest.len() as u32;
            Some(*end)
        });
        Keys {
            prefix: prefix.into(),
            rests: rests.concat(),
            ends: ends.collect(),
            heads: rests.iter().map(|rest| head_of(rest)).collect(),
            begins_empty: false,
        }
    }

    fn push(&mut self, key: &[u8]) {
        let is_empty_first = self.ends.is_empty() && key.is_empty();
        let rest = if is_empty_first { key } else { &key[self.prefix.len()..] };
        self.begins_empty |= is_empty_first;
        self.rests.extend_from_slice(rest);
        self.ends.push(self.rests.len() as u32);
        self.heads.push(head_of(rest));
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The length of all keys as they are kept.
    pub(super) fn bytes(&self) -> usize {
        self.prefix.len() + self.rests.len()
    }

    /// What all keys share, the empty one aside.
    pub(super) fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    fn prefix_of(&self, at: usize) -> &[u8] {
        if at == 0 && self.begins_empty { &[] } else { &self.prefix }
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
        [self.prefix_of(at), self.rest(at)].concat()
    }

    /// Writes one key into a buffer, in place of what is there.
    pub(super) fn read(&self, at: usize, key: &mut Vec<u8>) {
        key.clear();
        key.extend_from_slice(self.prefix_of(at));
        key.extend_from_slice(self.rest(at));
    }

    /// Where one key stands to another.
    pub(super) fn compare(&self, at: usize, key: &[u8]) -> Ordering {
        let prefix = self.prefix_of(at);
        match key.split_at_checked(prefix.len()) {
            Some((head, rest)) => prefix.cmp(head).then_with(|| self.rest(at).cmp(rest)),
            // A key that is shorter than the prefix is never equal to one that has it.
            None => prefix.cmp(key),
        }
    }

    /// The last key that is at or before `key`.
    pub(super) fn at_or_before(&self, key: &[u8]) -> Option<usize> {
        let first = usize::from(self.begins_empty);
        let order = match key.split_at_checked(self.prefix.len()) {
            Some((head, _)) => (*self.prefix).cmp(head),
            // Shorter than the prefix: never equal to what begins with it.
            None if *self.prefix > *key => Ordering::Greater,
            None => Ordering::Less,
        };
        let end = match order {
            Ordering::Less => self.len(),
            Ordering::Greater => first,
            Ordering::Equal => self.end_at_or_before(first, &key[self.prefix.len()..]),
        };
        end.checked_sub(1)
    }

    /// How many keys are at or before one that begins with the prefix.
    fn end_at_or_before(&self, first: usize, rest: &[u8]) -> usize {
        let head = head_of(rest);
        let mut low = first + self.heads[first..].partition_point(|known| *known < head);
        let mut high = low;
        while self.heads.get(high) == Some(&head) {
            high += 1;
        }
        while low < high {
            let middle = (low + high) / 2;
            if self.rest(middle) <= rest {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
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
        if self.ends.len() == self.ends.capacity() {
            let more = GROWTH + self.ends.len() / GROWTH;
            self.ends.reserve_exact(more);
            self.heads.reserve_exact(more);
        }
        if self.rests.capacity() - self.rests.len() < key.len() {
            let rest = key.len().saturating_sub(self.prefix.len());
            self.rests.reserve_exact(GROWTH * rest + key.len() + self.rests.len() / GROWTH);
        }
        self.replace(at..at, &[key]);
    }

    /// Puts keys in the place of some.
    pub(super) fn replace(&mut self, mut places: Range<usize>, mut keys: &[&[u8]]) {
        if self.begins_empty
            && places.start == 0
            && let [first, others @ ..] = keys
            && first.is_empty()
        {
            // The empty key stays where it is.
            (places.start, keys) = (1, others);
        }
        let others = self.len() - places.len() - usize::from(self.begins_empty);
        if places.start == 0 || others == 0 {
            return self.rebuild(places, keys);
        }
        let shared = shared_prefix(&self.prefix, common_prefix(keys));
        if !keys.is_empty() && shared < self.prefix.len() {
            self.shorten_prefix(shared);
        }
        let (begin, end) = (self.begin(places.start), self.begin(places.end));
        let skip = self.prefix.len();
        let bytes: usize = keys.iter().map(|key| key.len() - skip).sum();
        self.rests.splice(begin..end, keys.iter().flat_map(|key| key[skip..].iter().copied()));
        let new_ends = keys.iter().scan(begin, |end, key| {
            *end += key.len() - skip;
            Some(*end as u32)
        });
        self.heads.splice(places.clone(), keys.iter().map(|key| head_of(&key[skip..])));
        let later = places.start + keys.len();
        self.ends.splice(places, new_ends);
        for later in &mut self.ends[later..] {
            *later = (*later as usize - (end - begin) + bytes) as u32;
        }
    }

    /// As `replace`, where nothing or little of the list remains as it is.
    fn rebuild(&mut self, places: Range<usize>, keys: &[&[u8]]) {
        let own: Vec<Vec<u8>> = (0..self.len()).map(|at| self.get(at)).collect();
        let mut all: Vec<&[u8]> = own.iter().map(Vec::as_slice).collect();
        all.splice(places, keys.iter().copied());
        *self = Keys::from_sorted(&all);
    }

    fn shorten_prefix(&mut self, length: usize) {
        let keys: Vec<Vec<u8>> = (0..self.len()).map(|at| self.get(at)).collect();
        self.prefix.truncate(length);
        self.rests.clear();
        self.ends.clear();
        self.heads.clear();
        keys.iter().for_each(|key| self.push(key));
    }

    /// Bytes that the list holds in memory beside itself.
    pub(super) fn memory_bytes(&self) -> usize {
        let apart = if self.prefix.spilled() { self.prefix.capacity() } else { 0 };
        apart
            + self.rests.capacity()
            + self.ends.capacity() * size_of::<u32>()
            + self.heads.capacity() * size_of::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::{btree_set, vec};
    use proptest::option::of;
    use proptest::prelude::{any, proptest};
    use proptest::prop_assert_eq;

    use super::Keys;

    fn slices(keys: &[Vec<u8>]) -> Keys {
        Keys::from_sorted(&keys.iter().map(Vec::as_slice).collect::<Vec<_>>())
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
            start in btree_set(vec(0..3u8, 1..5), 1..12), from: usize, to: usize,
            new in of(vec(0..3u8, 1..6)),
        ) {
            let list: Vec<Vec<u8>> = start.into_iter().collect();
            let mut keys = slices(&list);
            let from = from % list.len();
            let to = from + to % (list.len() - from + 1);
            // Keys ascend: what does not fit between its neighbours is no case.
            let fits = |key: &Vec<u8>| list[..from].last().is_none_or(|before| before < key)
                && list.get(to).is_none_or(|after| key < after);
            let new: Vec<Vec<u8>> = new.into_iter().filter(fits).collect();
            let mut expected = list.clone();
            expected.splice(from..to, new.clone());
            keys.replace(from..to, &new.iter().map(Vec::as_slice).collect::<Vec<_>>());
            prop_assert_eq!(all(&keys), expected);
        }
    }

    proptest! {
        #[test]
        fn one_key_is_found_by_itself(key: Vec<u8>, other in any::<Vec<u8>>()) {
            let keys = slices(std::slice::from_ref(&key));
            prop_assert_eq!(keys.get(0), key.clone());
            prop_assert_eq!(keys.at_or_before(&other), (key <= other).then_some(0));
        }
    }
}
