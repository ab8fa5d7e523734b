//! What of rows written lately is in the digest, so that a change which replaces a row need not
//! read it first.
//!
//! One cache for all partitions, of fixed size and without a heap block per row. It holds only
//! rows that are one part, or none, in the lane of all live cells: that is most rows of most
//! tables. Under the lock of its partition a row that is not in the overlay is here as it was
//! accepted last, or not at all. Rows are known by a 128-bit keyed hash of their keys and of the
//! partition's life; what is left of an earlier life is never found again.

use std::num::NonZeroU128;
use std::sync::atomic::{AtomicU64, Ordering};

use isthmus_digest::{Hasher, Lane, Parts, Sum};
use parking_lot::Mutex;

/// Rows of one set. The oldest goes first.
const WAYS: usize = 3;
/// Sets that are fetched together: what the processor keeps near.
const FETCHED_MAX: usize = 64;

#[derive(Clone, Copy, Default)]
struct Entry {
    /// Zero: nothing is here.
    tag: u128,
    /// Zero: the row is not there.
    sum: u128,
}

#[derive(Default)]
struct Set {
    entries: [Entry; WAYS],
    next: u8,
}

/// A set, where a processor fetches all of it at once.
#[derive(Default)]
#[repr(align(128))]
struct Shelf(Mutex<Set>);

/// A row's name in the cache, and in which life it has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    name: NonZeroU128,
    life: u64,
}

impl Tag {
    /// Whether it is the row's name in a life.
    pub(crate) fn is_of(self, life: u64) -> bool {
        self.life == life
    }
}

/// What of a row was in the digest before a change, and its name in the cache if that is at hand.
pub(crate) struct Before {
    pub(crate) parts: Parts,
    pub(crate) tag: Option<Tag>,
}

impl From<Parts> for Before {
    fn from(parts: Parts) -> Before {
        Before { parts, tag: None }
    }
}

/// What of rows written lately is in the digest.
pub(crate) struct PartsCache {
    sets: Box<[Shelf]>,
    lives: AtomicU64,
}

impl PartsCache {
    /// A cache of about so many bytes; 0: none.
    pub(crate) fn new(bytes: usize) -> PartsCache {
        let sets = bytes / std::mem::size_of::<Shelf>();
        PartsCache { sets: (0..sets).map(|_| Shelf::default()).collect(), lives: AtomicU64::new(0) }
    }

    /// A number for the life of a partition's digest.
    pub(crate) fn begin_life(&self) -> u64 {
        self.lives.fetch_add(1, Ordering::Relaxed)
    }

    /// The name of a row of a partition in a life.
    pub(crate) fn tag(hasher: &Hasher, life: u64, key: &[u8]) -> Tag {
        let Sum(name) = hasher.part(Lane::Data, key, &life.to_le_bytes());
        Tag { name: NonZeroU128::new(name).unwrap_or(NonZeroU128::MIN), life }
    }

    fn set(&self, tag: Tag) -> Option<&Mutex<Set>> {
        let count = self.sets.len() as u64;
        // The high half, spread over the sets; both halves are the name.
        let place = (tag.name.get() >> 64) as u64 % count.max(1);
        self.sets.get(place as usize).map(|Shelf(set)| set)
    }

    /// Fetches the sets of some rows together: one after the other they would each be waited for,
    /// as a lock is taken in order.
    fn fetch(&self, tags: impl Iterator<Item = Tag>) {
        let sets = tags.filter_map(|tag| self.set(tag));
        std::hint::black_box(sets.filter(|set| set.is_locked()).count());
    }

    /// Which of some rows are known; one without a name is not.
    pub(crate) fn knows(&self, tags: impl Iterator<Item = Option<Tag>> + Clone) -> Vec<bool> {
        self.fetch(tags.clone().flatten());
        tags.map(|tag| tag.is_some_and(|tag| self.has(tag))).collect()
    }

    fn has(&self, tag: Tag) -> bool {
        let known = |set: &Mutex<Set>| set.lock().entries.iter().any(|e| e.tag == tag.name.get());
        self.set(tag).is_some_and(known)
    }

    /// Takes note of what of some rows is in the digest now, the last word on each last.
    pub(crate) fn put_all(&self, rows: &[(Tag, Parts)]) {
        for rows in rows.chunks(FETCHED_MAX) {
            self.fetch(rows.iter().map(|(tag, _)| *tag));
            rows.iter().for_each(|(tag, parts)| self.put(*tag, parts));
        }
    }

    /// What of a row is in the digest, if that is known.
    pub(crate) fn get(&self, tag: Tag) -> Option<Parts> {
        let set = self.set(tag)?.lock();
        let found = set.entries.iter().find(|entry| entry.tag == tag.name.get())?;
        Some(match found.sum {
            0 => Parts::new(),
            sum => Parts::one(Lane::Data, Sum(sum)),
        })
    }

    /// Takes note of what of a row is in the digest now.
    pub(crate) fn put(&self, tag: Tag, parts: &Parts) {
        let Some(set) = self.set(tag) else { return };
        let mut held = parts.iter();
        let sum = match (held.next(), held.next()) {
            (None, _) => Some(0),
            (Some((Lane::Data, sum)), None) => Some(sum.0),
            _ => None,
        };
        let mut set = set.lock();
        let known = set.entries.iter().position(|entry| entry.tag == tag.name.get());
        match (known, sum) {
            (Some(place), Some(sum)) => set.entries[place].sum = sum,
            (Some(place), None) => set.entries[place] = Entry::default(),
            (None, Some(sum)) => {
                let place = usize::from(set.next) % WAYS;
                set.entries[place] = Entry { tag: tag.name.get(), sum };
                set.next = set.next.wrapping_add(1);
            }
            (None, None) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_word_on_a_row_holds_and_an_earlier_life_is_forgotten() {
        let (cache, hasher) = (PartsCache::new(64 * 1024), Hasher::for_table(1, 2));
        let tag = PartsCache::tag(&hasher, 1, b"k");
        assert_eq!(cache.get(tag), None);
        cache.put(tag, &Parts::one(Lane::Data, Sum(7)));
        assert_eq!(cache.get(tag), Some(Parts::one(Lane::Data, Sum(7))));
        cache.put(tag, &Parts::new());
        assert_eq!(cache.get(tag), Some(Parts::new()));
        cache.put(tag, &Parts::one(Lane::Time(3), Sum(7)));
        assert_eq!(cache.get(tag), None);
        cache.put(tag, &Parts::one(Lane::Data, Sum(9)));
        assert_eq!(cache.get(PartsCache::tag(&hasher, 2, b"k")), None);
    }

    #[test]
    fn many_rows_push_each_other_out_and_none_is_taken_for_another() {
        let (cache, hasher) = (PartsCache::new(4096), Hasher::for_table(1, 2));
        let tag = |n: u32| PartsCache::tag(&hasher, 1, &n.to_be_bytes());
        let parts = |n: u32| Parts::one(Lane::Data, Sum(u128::from(n) + 1));
        for n in 0..1000 {
            cache.put(tag(n), &parts(n));
        }
        let kept = (0..1000).filter(|n| cache.get(tag(*n)) == Some(parts(*n))).count();
        let known = (0..1000).filter(|n| cache.get(tag(*n)).is_some()).count();
        assert!(kept == known && kept > 50 && kept < 200, "{kept}");
        assert_eq!(PartsCache::new(0).get(tag(1)), None);
    }
}
