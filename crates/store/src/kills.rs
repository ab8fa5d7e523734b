//! Which rows of a partition still remember kills, and of which moments: so it is known how much
//! there is to sweep when the horizon has passed, and nothing is looked at where nothing is.
//!
//! In memory only. A few rows of a bucket are known by name and are looked at alone; of more
//! only the number is kept, and the sweep goes through the table. A row counts once for each
//! time that it was written, so the number is an upper bound.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use isthmus_model::key::EncodedKey;

/// Rows of one bucket that are known by name.
const NAMES_MAX: usize = 512;
/// Bytes of their names.
const NAME_BYTES_MAX: usize = 64 * 1024;
/// Buckets that are told apart; where a horizon stands for longer, the oldest are joined.
const BUCKETS_MAX: usize = 64;

/// Rows that remember kills, by the bucket of the newest one in each.
#[derive(Debug, Default)]
pub(crate) struct Kills {
    buckets: BTreeMap<u64, Rows>,
}

/// Some rows.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    /// How many at most.
    pub(crate) count: u64,
    /// `None`: too many to be named.
    pub(crate) names: Option<BTreeSet<EncodedKey>>,
    name_bytes: usize,
}

impl Kills {
    /// A row that was written remembers a kill of this bucket, and no later one.
    pub(crate) fn note(&mut self, bucket: u64, key: &EncodedKey) {
        let rows = self.buckets.entry(bucket).or_insert_with(Rows::none);
        rows.count += 1;
        rows.name(key);
        if self.buckets.len() > BUCKETS_MAX
            && let Some((_, oldest)) = self.buckets.pop_first()
            && let Some(mut next) = self.buckets.first_entry()
        {
            next.get_mut().join(oldest);
        }
    }

    /// Whether no row remembers anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    /// How many rows remember only kills of buckets below this one, at most.
    pub(crate) fn rows_below(&self, bucket: u64) -> u64 {
        self.buckets.range(..bucket).map(|(_, rows)| rows.count).sum()
    }

    /// Takes these rows, if there are any.
    pub(crate) fn take_below(&mut self, bucket: u64) -> Option<Rows> {
        let later = self.buckets.split_off(&bucket);
        let below = std::mem::replace(&mut self.buckets, later);
        below.into_values().reduce(|mut all, rows| {
            all.join(rows);
            all
        })
    }
}

impl Rows {
    fn none() -> Rows {
        Rows { names: Some(BTreeSet::new()), ..Rows::default() }
    }

    fn name(&mut self, key: &EncodedKey) {
        let Some(names) = &mut self.names else { return };
        if names.contains(key) {
            return;
        }
        self.name_bytes += key.0.len();
        if names.len() >= NAMES_MAX || self.name_bytes > NAME_BYTES_MAX {
            self.names = None;
            return;
        }
        // A copy, as the key may be a piece of something large.
        names.insert(EncodedKey(Bytes::copy_from_slice(&key.0)));
    }

    fn join(&mut self, other: Rows) {
        self.count += other.count;
        match other.names {
            Some(names) => names.iter().for_each(|name| self.name(name)),
            None => self.names = None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> EncodedKey {
        EncodedKey(Bytes::copy_from_slice(&number.to_be_bytes()))
    }

    #[test]
    fn few_rows_are_known_by_name_and_many_by_number() {
        let mut kills = Kills::default();
        for number in 0..10 {
            kills.note(number % 2, &key(number / 4));
        }
        assert_eq!((kills.rows_below(0), kills.rows_below(1), kills.rows_below(2)), (0, 5, 10));
        let below = kills.take_below(1).unwrap();
        assert_eq!(below.names.unwrap().into_iter().collect::<Vec<_>>(), [key(0), key(1), key(2)]);
        assert!(kills.take_below(1).is_none() && !kills.is_empty());
        for number in 0..=NAMES_MAX as u64 {
            kills.note(7, &key(number));
        }
        let all = kills.take_below(8).unwrap();
        assert!(all.names.is_none() && all.count == 5 + 1 + NAMES_MAX as u64);
        assert!(kills.is_empty());
    }

    #[test]
    fn a_horizon_that_stands_for_long_costs_little() {
        let mut kills = Kills::default();
        for bucket in 0..1000 {
            kills.note(bucket, &key(bucket));
        }
        assert_eq!(kills.buckets.len(), BUCKETS_MAX);
        assert_eq!(kills.rows_below(1000), 1000);
        // What was joined waits for the newest of it.
        assert_eq!(kills.rows_below(900), 0);
    }
}
