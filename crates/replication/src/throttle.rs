//! How fast a link may ship: bytes and entries per second, and a share of a processor for copies.
//!
//! A brake never cuts what is shipped to size: what was shipped too soon is waited for afterwards,
//! so over any time a link ships no more than its rate, a quarter of a second's worth and one
//! parcel. Copies rest in proportion to the time that reading and packing a chunk took, so they
//! leave a processor to others whatever a row costs. Pure: time is handed in.

mod courtesy;

use std::time::Duration;

pub use courtesy::{Commits, Courtesy, SLOWER_MAX};

/// Percent of a processor that sending rows of a copy takes at the origin, where nothing else is
/// asked: about half of what the path to a replica can carry, so that the origin's writes hardly
/// feel it.
pub const SEND_CPU_PERCENT: u8 = 25;
/// The same of taking rows of a copy, at the replica. What the engine does with them later comes on
/// top of it.
pub const TAKE_CPU_PERCENT: u8 = 40;
/// The same of finding which rows a replica lacks. That is a small part of the work of sending all
/// of them, and a replica that fell out of the log waits for it.
pub const COMPARE_CPU_PERCENT: u8 = 75;
/// What may be shipped at once after a pause, in seconds of the rate.
const BURST_SECONDS: f64 = 0.25;
/// A copy owes its rest until there is so much of it: what waits cannot wait for less.
const REST_MIN: Duration = Duration::from_millis(5);
/// A copy never rests longer than this at once.
const REST_MAX: Duration = Duration::from_secs(10);

/// How fast a link may ship.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttle {
    /// Bytes of log records and rows per second, before compression; `None`: any.
    pub bytes_per_second: Option<u64>,
    /// Entries, or rows of a copy, per second; `None`: any.
    pub entries_per_second: Option<u64>,
    /// Percent of one processor that a copy may take here, and at the replica, 1 to 100; `None`:
    /// `SEND_CPU_PERCENT`, `COMPARE_CPU_PERCENT` and `TAKE_CPU_PERCENT`.
    pub copy_cpu_percent: Option<u8>,
}

/// What was done for a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyWork {
    /// Rows were read and packed.
    Sends,
    /// It was found which rows differ, and these were packed.
    Compares,
}

/// Tells when a link may ship more. Moments are of the monotonic clock.
#[derive(Clone, Debug)]
pub struct Brake {
    throttle: Throttle,
    bytes: Bucket,
    entries: Bucket,
    copy_rests_until: Duration,
    replica_rests_until: Duration,
}

impl Brake {
    /// A brake that lets something pass at once.
    pub fn new(throttle: Throttle, now: Duration) -> Brake {
        Brake {
            throttle,
            bytes: Bucket::new(throttle.bytes_per_second, now),
            entries: Bucket::new(throttle.entries_per_second, now),
            copy_rests_until: Duration::ZERO,
            replica_rests_until: Duration::ZERO,
        }
    }

    /// When entries may be shipped; `None`: now.
    pub fn log_due(&self, now: Duration) -> Option<Duration> {
        self.bytes.due(now).max(self.entries.due(now))
    }

    /// When rows of a copy may be shipped; `None`: now.
    pub fn copy_due(&self, now: Duration) -> Option<Duration> {
        let until = self.copy_rests_until.max(self.replica_rests_until);
        let rests = (until.saturating_sub(now) >= REST_MIN).then_some(until);
        self.log_due(now).max(rests)
    }

    /// Takes note of what was shipped, of a copy or of the log.
    pub fn shipped(&mut self, bytes: u64, entries: u64, now: Duration) {
        self.bytes.take(bytes as f64, now);
        self.entries.take(entries as f64, now);
    }

    /// Whether somebody has said what a copy may take; else it gives way to writes.
    pub fn gives_way(&self) -> bool {
        self.throttle.copy_cpu_percent.is_none()
    }

    /// Takes note of how long it took to make ready a piece of a copy, and rests `slower` times
    /// as long as where nobody writes.
    pub fn copied(&mut self, work: CopyWork, took: Duration, slower: f64, now: Duration) {
        let percent = self.throttle.copy_cpu_percent.unwrap_or(match work {
            CopyWork::Sends => SEND_CPU_PERCENT,
            CopyWork::Compares => COMPARE_CPU_PERCENT,
        });
        self.copy_rests_until = rested(self.copy_rests_until, took, percent, slower, now);
    }

    /// Takes note of how long it took the replica to take a piece of a copy, which it has just
    /// told; rests as above.
    pub fn taken(&mut self, took: Duration, slower: f64, now: Duration) {
        let percent = self.throttle.copy_cpu_percent.unwrap_or(TAKE_CPU_PERCENT);
        let took = took.min(REST_MAX);
        self.replica_rests_until = rested(self.replica_rests_until, took, percent, slower, now);
    }

    /// Bytes of log records to read at once, of at most `most`: so few that a slow link does not
    /// wait long for one parcel.
    pub fn parcel_bytes(&self, most: usize) -> usize {
        let quarter = self.throttle.bytes_per_second.map(|rate| rate as f64 * BURST_SECONDS);
        quarter.map_or(most, |bytes| most.min(bytes as usize).max(1))
    }
}

/// Until when who has just worked for so long rests, to have worked so many percent of the time,
/// or so many times as long.
fn rested(until: Duration, worked: Duration, percent: u8, slower: f64, now: Duration) -> Duration {
    let rest = worked.mul_f64((100.0 / f64::from(percent.clamp(1, 100)) - 1.0) * slower);
    // While it worked it did not rest of what it owed.
    let owed = until.saturating_sub(now.saturating_sub(worked));
    now + (owed + rest).min(REST_MAX)
}

/// A bucket of tokens, which may owe some.
#[derive(Clone, Debug)]
struct Bucket {
    per_second: Option<f64>,
    /// At the moment `at`; less than nothing: so many are owed.
    level: f64,
    at: Duration,
}

impl Bucket {
    fn new(per_second: Option<u64>, now: Duration) -> Bucket {
        let per_second = per_second.map(|rate| rate.max(1) as f64);
        let level = per_second.map_or(0.0, |rate| rate * BURST_SECONDS);
        Bucket { per_second, level, at: now }
    }

    fn level(&self, rate: f64, now: Duration) -> f64 {
        let elapsed = now.saturating_sub(self.at).as_secs_f64();
        (self.level + elapsed * rate).min(rate * BURST_SECONDS)
    }

    fn due(&self, now: Duration) -> Option<Duration> {
        let rate = self.per_second?;
        let owed = -self.level(rate, now);
        // A little is left over by rounding.
        (owed > 1e-6).then(|| now + Duration::from_secs_f64(owed / rate))
    }

    fn take(&mut self, count: f64, now: Duration) {
        let Some(rate) = self.per_second else { return };
        self.level = self.level(rate, now) - count;
        self.at = now;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, proptest};

    use super::*;

    const START: Duration = Duration::from_secs(7);

    fn of(bytes: u64) -> Throttle {
        Throttle { bytes_per_second: Some(bytes), ..Throttle::default() }
    }

    #[test]
    fn what_was_shipped_too_soon_is_waited_for() {
        let mut brake = Brake::new(of(1000), START);
        assert_eq!(brake.log_due(START), None);
        brake.shipped(1250, 1, START);
        assert_eq!(brake.log_due(START), Some(START + Duration::from_secs(1)));
        assert_eq!(brake.log_due(START + Duration::from_secs(1)), None);
    }

    #[test]
    fn nothing_is_waited_for_where_nothing_is_asked() {
        let mut brake = Brake::new(Throttle::default(), START);
        brake.shipped(u64::MAX / 2, u64::MAX / 2, START);
        assert_eq!((brake.log_due(START), brake.copy_due(START)), (None, None));
        assert_eq!(brake.parcel_bytes(1 << 20), 1 << 20);
        assert_eq!(Brake::new(of(4000), START).parcel_bytes(1 << 20), 1000);
    }

    #[test]
    fn copies_rest_by_what_they_took() {
        let ms = Duration::from_millis;
        let (sends, compares) = (CopyWork::Sends, CopyWork::Compares);
        for (percent, work, rest) in [
            (Some(10), sends, 81),
            (Some(10), compares, 81),
            (None, sends, 27),
            (None, compares, 0),
            (Some(50), sends, 9),
            (Some(100), sends, 0),
        ] {
            let throttle = Throttle { copy_cpu_percent: percent, ..Throttle::default() };
            let mut brake = Brake::new(throttle, START);
            brake.copied(work, ms(9), 1.0, START);
            assert_eq!(brake.copy_due(START), (rest > 0).then(|| START + ms(rest)));
            assert_eq!(brake.log_due(START), None);
        }
    }

    #[test]
    fn a_copy_goes_as_slowly_as_the_end_that_has_more_to_do() {
        let ms = Duration::from_millis;
        let throttle = Throttle { copy_cpu_percent: Some(10), ..Throttle::default() };
        let mut brake = Brake::new(throttle, START);
        brake.copied(CopyWork::Sends, ms(10), 1.0, START);
        brake.taken(ms(20), 1.0, START + ms(30));
        assert_eq!(brake.copy_due(START + ms(30)), Some(START + ms(210)), "not the sum of both");
        let mut brake = Brake::new(Throttle::default(), START);
        brake.taken(ms(40), 1.0, START);
        assert_eq!(brake.copy_due(START), Some(START + ms(60)));
        let mut slower = Brake::new(Throttle::default(), START);
        slower.taken(ms(40), 2.0, START);
        assert_eq!(slower.copy_due(START), Some(START + ms(120)), "it gives way");
        brake.taken(Duration::MAX, 1.0, START);
        assert!(brake.copy_due(START) <= Some(START + REST_MAX), "whatever a replica says");
    }

    #[test]
    fn short_rests_are_owed_and_come_together() {
        let (ms, mut brake) = (Duration::from_millis, Brake::new(Throttle::default(), START));
        let (mut now, mut worked) = (START, Duration::ZERO);
        for _ in 0..300 {
            now = brake.copy_due(now).unwrap_or(now) + ms(1);
            worked += ms(1);
            brake.copied(CopyWork::Compares, ms(1), 1.0, now);
        }
        let most = (now - START).mul_f64(0.76) + REST_MIN;
        assert!(worked <= most && worked >= most - REST_MIN * 3, "{worked:?} of {:?}", now - START);
        // What it owes is over when it has done nothing for so long.
        assert_eq!(brake.copy_due(now + REST_MIN * 2), None);
    }

    proptest! {
        #[test]
        fn no_more_is_shipped_than_the_rate_a_burst_and_one_piece(
            rate in 1u64..100_000,
            pieces in proptest::collection::vec((1usize..50_000, 0u64..500), 1..60),
        ) {
            let mut brake = Brake::new(of(rate), START);
            let (mut now, mut total, mut largest) = (START, 0usize, 0usize);
            for (bytes, pause) in pieces {
                now += Duration::from_millis(pause);
                now = brake.log_due(now).unwrap_or(now);
                total += bytes;
                largest = largest.max(bytes);
                brake.shipped(bytes as u64, 1, now);
                let seconds = (now - START).as_secs_f64() + BURST_SECONDS;
                prop_assert!(total as f64 <= rate as f64 * seconds + largest as f64 + 1.0);
            }
        }
    }
}
