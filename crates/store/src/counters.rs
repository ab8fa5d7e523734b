//! What a store has done since it was opened, counted where it is done.
//!
//! Counting is on the write path, so it is a relaxed addition and nothing more: no lock, no
//! allocation, no order between counters. Whoever counts something more adds a field here and
//! shows it among the metrics of the server.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn one(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// How many by now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of the classes of [`Durations`], in microseconds; the last class has none.
pub const DURATION_BOUNDS_MICROS: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000,
];

/// How often something took how long.
#[derive(Debug, Default)]
pub struct Durations {
    classes: [Counter; DURATION_BOUNDS_MICROS.len() + 1],
    micros: Counter,
}

impl Durations {
    /// It took so long once more.
    pub fn note(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let class = DURATION_BOUNDS_MICROS.partition_point(|bound| *bound < micros);
        self.classes[class].one();
        self.micros.add(micros);
    }

    /// How often each class came, and the sum of all.
    pub fn get(&self) -> (Vec<u64>, Duration) {
        let classes = self.classes.iter().map(Counter::get).collect();
        (classes, Duration::from_micros(self.micros.get()))
    }
}

/// What a store has done.
#[derive(Debug, Default)]
pub struct Counters {
    /// Batches made durable; each is one sync of the disk.
    pub commits: Counter,
    /// What partitions gave to commits; the more per commit, the better syncs are shared.
    pub groups: Counter,
    /// Entries made durable, of this region and of others.
    pub entries: Counter,
    /// Bytes of their log records.
    pub log_bytes: Counter,
    /// How long commits took, their syncs included.
    pub commit_time: Durations,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_in_the_first_class_that_holds_it() {
        let durations = Durations::default();
        for micros in [0, 100, 101, 10_000_000, 10_000_001] {
            durations.note(Duration::from_micros(micros));
        }
        let (classes, sum) = durations.get();
        assert_eq!(classes.iter().sum::<u64>(), 5);
        assert_eq!((classes[0], classes[1], classes[15], classes[16]), (2, 1, 1, 1));
        assert_eq!(sum, Duration::from_micros(20_000_202));
    }
}
