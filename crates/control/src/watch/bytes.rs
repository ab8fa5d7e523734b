//! What observing costs: a budget that is kept, and meters.

use std::collections::VecDeque;
use std::time::Duration;

/// Seconds over which a rate is taken.
const SECONDS: u64 = 60;

/// So many bytes in a second, and no more than those of one second at once.
#[derive(Debug)]
pub(super) struct Budget {
    per_second: f64,
    left: f64,
    at: Duration,
}

impl Budget {
    pub(super) fn new(per_second: u32, now: Duration) -> Budget {
        Budget { per_second: per_second.into(), left: per_second.into(), at: now }
    }

    /// Takes so many, if they are there.
    pub(super) fn take(&mut self, bytes: u32, now: Duration) -> bool {
        let grown = now.saturating_sub(self.at).as_secs_f64() * self.per_second;
        // What costs more than a second's worth is saved for.
        self.left = (self.left + grown).min(self.per_second.max(bytes.into()));
        self.at = self.at.max(now);
        let is_there = self.left >= f64::from(bytes);
        if is_there {
            self.left -= f64::from(bytes);
        }
        is_there
    }
}

/// Counts bytes, all and those of the last minute.
#[derive(Debug)]
pub(super) struct Meter {
    began: Duration,
    all: u64,
    /// Seconds with their bytes, the newest last.
    seconds: VecDeque<(u64, u64)>,
}

impl Meter {
    pub(super) fn new(now: Duration) -> Meter {
        Meter { began: now, all: 0, seconds: VecDeque::new() }
    }

    pub(super) fn add(&mut self, bytes: u64, now: Duration) {
        self.all += bytes;
        match self.seconds.back_mut().filter(|(second, _)| *second >= now.as_secs()) {
            Some((_, counted)) => *counted += bytes,
            None => self.seconds.push_back((now.as_secs(), bytes)),
        }
        while self.seconds.front().is_some_and(|(second, _)| second + SECONDS < now.as_secs()) {
            self.seconds.pop_front();
        }
    }

    pub(super) fn all(&self) -> u64 {
        self.all
    }

    /// Bytes in a second, over the last minute or since the beginning.
    pub(super) fn per_second(&self, now: Duration) -> f64 {
        let is_new = |(second, _): &&(u64, u64)| second + SECONDS > now.as_secs();
        let bytes: u64 = self.seconds.iter().filter(is_new).map(|(_, bytes)| bytes).sum();
        let since = now.saturating_sub(self.began).as_secs_f64();
        bytes as f64 / since.clamp(1.0, SECONDS as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_budget_gives_no_more_than_it_has_in_any_second() {
        let mut budget = Budget::new(1_000, millis(0));
        let mut given = Vec::new();
        for at in (0..10_000).step_by(10) {
            if budget.take(300, millis(at)) {
                given.push(at);
            }
        }
        let most = given
            .iter()
            .map(|from| given.iter().filter(|at| (*from..from + 1_000).contains(*at)).count());
        // What had been saved, and what has come since.
        assert!(most.max().unwrap() <= 6);
        assert_eq!(given.len(), 36, "3 in each second, and those saved");
    }

    #[test]
    fn what_costs_more_than_a_second_gives_is_saved_for() {
        let mut budget = Budget::new(500, millis(0));
        assert!(!budget.take(640, millis(100)));
        assert!(budget.take(640, millis(300)));
        assert!(!budget.take(640, millis(1_500)));
        assert!(budget.take(640, millis(1_600)));
    }

    #[test]
    fn a_meter_forgets_what_is_older_than_a_minute() {
        let mut meter = Meter::new(millis(500));
        meter.add(100, millis(700));
        assert_eq!(meter.per_second(millis(900)), 100.0, "at least a second counts");
        for second in 1..=120 {
            meter.add(60, millis(second * 1_000));
        }
        assert_eq!(meter.per_second(millis(120_000)), 60.0);
        assert_eq!(meter.per_second(millis(400_000)), 0.0);
        assert_eq!(meter.all(), 7_300);
        assert!(meter.seconds.len() <= 62);
    }
}
