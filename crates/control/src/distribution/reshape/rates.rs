//! How often a partition is asked for, by what regions count.
//!
//! Each region counts what comes through it from its start on. One that is silent for a while, or
//! starts anew, adds what it counts from its next word on, and nothing of before.

use std::collections::BTreeMap;
use std::time::Duration;

/// What is asked of one partition through all regions. Times are of one monotonic clock.
#[derive(Clone, Debug, Default)]
pub struct Rate {
    /// By region: its last count, and when that was told.
    counted: BTreeMap<String, (u64, Duration)>,
    noted_at: Option<Duration>,
    each_second: f64,
}

impl Rate {
    /// Requests in a second, smoothed.
    pub fn each_second(&self) -> f64 {
        self.each_second
    }

    /// Notes what regions have counted so far. The rate is smoothed over so many seconds.
    pub fn note<'a>(
        &mut self,
        counts: impl IntoIterator<Item = (&'a str, u64)>,
        now: Duration,
        smoothed_over: f64,
    ) {
        let mut each_second = 0.0;
        for (region, count) in counts {
            let known = self.counted.insert(region.to_owned(), (count, now));
            let Some((before, at)) = known else { continue };
            let seconds = now.saturating_sub(at).as_secs_f64();
            if seconds > 0.0 {
                each_second += count.saturating_sub(before) as f64 / seconds;
            }
        }
        let since = self.noted_at.replace(now).map(|at| now.saturating_sub(at).as_secs_f64());
        let share = (since.unwrap_or_default() / smoothed_over).min(1.0);
        self.each_second += (each_second - self.each_second) * share;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_region_that_was_silent_makes_nothing_hot() {
        let mut rate = Rate::default();
        for second in 0..10 {
            let counts = [("r1", 5_000_000 + 10 * second), ("r2", 20 * second)];
            rate.note(counts, SECOND * second as u32, 1.0);
        }
        assert_eq!(rate.each_second(), 30.0);
        rate.note([("r2", 200)], SECOND * 10, 1.0);
        assert_eq!(rate.each_second(), 20.0, "who is silent counts for nothing");
        rate.note([("r1", 5_000_110), ("r2", 220)], SECOND * 11, 1.0);
        assert_eq!(rate.each_second(), 30.0, "what it counted meanwhile is spread over the time");
        rate.note([("r1", 7), ("r2", 240), ("r3", 1_000_000)], SECOND * 12, 1.0);
        assert_eq!(rate.each_second(), 20.0, "what began anew, or was never heard, says nothing");
        rate.note([("r1", 17), ("r2", 260), ("r3", 1_000_001)], SECOND * 13, 1.0);
        assert_eq!(rate.each_second(), 31.0);
    }
}
