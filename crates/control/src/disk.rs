//! Whether a region's own disk keeps up, as the region itself sees it: a region that others hear
//! well may be unable to make a write durable.
//!
//! What is looked at is the age of the oldest write that is not durable. A disk is stalled while
//! that is too old. It is slow when it was so for most of a lease or two, although each write is
//! durable in the end; then it must be well for far longer before it counts as well again. A
//! region whose disk is stalled or slow does not renew its lease, so that another one takes over.
//!
//! Pure: moments are handed in.

use std::time::Duration;

/// It becomes slow when it was behind for this share of the time.
const SLOW_SHARE: f64 = 0.8;
/// And is well again below this one.
const WELL_SHARE: f64 = 0.2;
/// How much longer the past counts for a disk that was slow.
const SLOW_COUNTS_TIMES: f64 = 5.0;

/// How a disk does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskState {
    /// It keeps up.
    Well,
    /// Writes become durable, and too late for most of the time.
    Slow,
    /// A write has waited for too long by now.
    Stalled,
}

/// Looks at the own disk.
#[derive(Debug)]
pub struct DiskWatch {
    /// A write that is older and not durable shows that it is behind.
    slow_after: Duration,
    /// How long the past counts.
    counts_for: Duration,
    looked_at: Option<Duration>,
    /// The share of the time in which it was behind, by a mean that forgets.
    share: f64,
    is_slow: bool,
    oldest: Duration,
}

impl DiskWatch {
    /// A disk of which nothing is known. `slow_after`: how old a write may be that is not durable.
    pub fn new(slow_after: Duration, lease: Duration) -> DiskWatch {
        DiskWatch {
            slow_after,
            counts_for: lease,
            looked_at: None,
            share: 0.0,
            is_slow: false,
            oldest: Duration::ZERO,
        }
    }

    /// The oldest write that is not durable is so old now. Call it often, in even steps.
    pub fn look(&mut self, oldest: Duration, now: Duration) -> DiskState {
        // Of time in which this was not called nothing is known.
        let longest = self.counts_for / 8;
        let since = self.looked_at.map_or(Duration::ZERO, |at| now.saturating_sub(at)).min(longest);
        let times = if self.is_slow { SLOW_COUNTS_TIMES } else { 1.0 };
        let kept = (-since.as_secs_f64() / (self.counts_for.as_secs_f64() * times)).exp();
        let is_behind = oldest >= self.slow_after;
        self.share = self.share * kept + if is_behind { 1.0 - kept } else { 0.0 };
        self.is_slow = self.share >= if self.is_slow { WELL_SHARE } else { SLOW_SHARE };
        (self.looked_at, self.oldest) = (Some(now), oldest);
        self.state()
    }

    /// How it did when it was looked at last.
    pub fn state(&self) -> DiskState {
        match (self.oldest >= self.slow_after, self.is_slow) {
            (true, _) => DiskState::Stalled,
            (false, true) => DiskState::Slow,
            (false, false) => DiskState::Well,
        }
    }

    /// The same in words; `None`: it does well.
    pub fn told(&self) -> Option<String> {
        let limit = self.slow_after.as_millis();
        match self.state() {
            DiskState::Well => None,
            DiskState::Stalled => Some(format!(
                "the disk is stalled: a write is not durable after {} ms",
                self.oldest.as_millis()
            )),
            DiskState::Slow => Some(format!(
                "the disk is slow: writes were not durable after {limit} ms for {:.0} % of the \
                 time",
                self.share * 100.0
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(2);

    const fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// Syncs of that length, one after the other, under writes that never end: the oldest write is
    /// one that came when a sync had just begun. Gives when it was first slow.
    fn under_load(disk: &mut DiskWatch, sync: u64, from: u64, until: u64) -> Option<u64> {
        let mut first = None;
        for at in (from..until).step_by(50) {
            let oldest = if at < from + sync { at - from } else { sync + at % sync };
            disk.look(millis(oldest), millis(at));
            if disk.is_slow {
                first = first.or(Some(at - from));
            }
        }
        first
    }

    #[test]
    fn a_write_that_is_not_durable_in_time_shows_at_once() {
        let mut disk = DiskWatch::new(millis(500), LEASE);
        assert_eq!(disk.look(millis(499), millis(0)), DiskState::Well);
        assert_eq!(disk.look(millis(500), millis(50)), DiskState::Stalled);
        assert!(disk.told().unwrap().contains("not durable after 500 ms"));
        assert_eq!(disk.look(millis(0), millis(100)), DiskState::Well);
        assert_eq!(disk.told(), None);
    }

    #[test]
    fn a_disk_that_is_behind_most_of_the_time_is_slow() {
        let mut disk = DiskWatch::new(millis(500), LEASE);
        assert_eq!(under_load(&mut disk, 300, 0, 60_000), None);
        assert_eq!(under_load(&mut disk, 400, 60_000, 120_000), None, "half of the time");
        let slow = under_load(&mut disk, 700, 120_000, 140_000).unwrap();
        assert!((1_000..4_500).contains(&slow), "{slow}");
        // It is slow for a while after it has become well, and then it is not.
        let mut well_after = 0;
        while disk.look(Duration::ZERO, millis(140_000 + well_after)) == DiskState::Slow {
            assert!(disk.told().unwrap().contains("the disk is slow"));
            well_after += 50;
        }
        assert!((10_000..20_000).contains(&well_after), "{well_after}");
    }

    #[test]
    fn time_in_which_nobody_looked_counts_little() {
        let mut disk = DiskWatch::new(millis(500), LEASE);
        disk.look(Duration::ZERO, millis(0));
        disk.look(millis(600), millis(60_000));
        assert!(disk.share < 0.2);
        assert_eq!(disk.look(Duration::ZERO, millis(60_050)), DiskState::Well);
    }
}
