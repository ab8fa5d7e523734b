//! Sums over the last hour, day and 30 days, and since the first, in few numbers.
//!
//! Each window is a ring of slots; a slot that is wholly out of the window goes. So a window is
//! right to one slot: a 60th of the hour and of the 30 days, a 48th of the day.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::status::Ratios;

const MINUTE_MILLIS: i64 = 60_000;
/// Length of a slot and slots of each window.
const SHAPES: [(i64, i64); 3] =
    [(MINUTE_MILLIS, 60), (30 * MINUTE_MILLIS, 48), (12 * 60 * MINUTE_MILLIS, 60)];

/// What probes have found over some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sums {
    /// Milliseconds for which probes stood whose write and read were answered.
    pub(super) up_millis: u64,
    /// Milliseconds for which any probes stood.
    pub(super) all_millis: u64,
    /// Valid reads and valid writes; of a table the milliseconds for which its replicas were alike.
    pub(super) valid: u64,
    /// All reads and writes; of a table the milliseconds for which that was known.
    pub(super) all: u64,
}

impl Sums {
    fn add(&mut self, more: &Sums) {
        self.up_millis += more.up_millis;
        self.all_millis += more.all_millis;
        self.valid += more.valid;
        self.all += more.all;
    }
}

/// What was found since the first probe, and how much of it lately.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Tally {
    windows: Windows,
    #[serde(default)]
    since_start: Sums,
}

impl Tally {
    /// Adds what was found now.
    pub(super) fn add(&mut self, more: &Sums, now_millis: i64) {
        self.windows.add(more, now_millis);
        self.since_start.add(more);
    }

    /// Up time over all time.
    pub(super) fn availability(&self, now_millis: i64) -> Ratios {
        let since_start = ratio(self.since_start.up_millis, self.since_start.all_millis);
        Ratios { since_start, ..self.windows.availability(now_millis) }
    }

    /// What was valid, or alike, over all.
    pub(super) fn consistency(&self, now_millis: i64) -> Ratios {
        let since_start = ratio(self.since_start.valid, self.since_start.all);
        Ratios { since_start, ..self.windows.consistency(now_millis) }
    }
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// The three windows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Windows([VecDeque<(i64, Sums)>; 3]);

impl Windows {
    /// Adds what was found now.
    pub(super) fn add(&mut self, more: &Sums, now_millis: i64) {
        for (ring, (length, slots)) in self.0.iter_mut().zip(SHAPES) {
            let slot = now_millis.div_euclid(length);
            match ring.back_mut() {
                // A clock that was set back adds to the newest slot.
                Some((newest, sums)) if *newest >= slot => sums.add(more),
                Some(_) | None => ring.push_back((slot, *more)),
            }
            let newest = ring.back().map_or(slot, |(newest, _)| *newest);
            while ring.front().is_some_and(|(oldest, _)| *oldest <= newest - slots) {
                ring.pop_front();
            }
        }
    }

    /// Up time over all time, by window.
    pub(super) fn availability(&self, now_millis: i64) -> Ratios {
        self.ratios(now_millis, |sums| (sums.up_millis, sums.all_millis))
    }

    /// Valid reads and writes over all, by window.
    pub(super) fn consistency(&self, now_millis: i64) -> Ratios {
        self.ratios(now_millis, |sums| (sums.valid, sums.all))
    }

    fn ratios(&self, now_millis: i64, of: impl Fn(&Sums) -> (u64, u64)) -> Ratios {
        let mut found = self.0.iter().zip(SHAPES).map(|(ring, (length, slots))| {
            let first = now_millis.div_euclid(length) - slots;
            let mut sums = Sums::default();
            let within = ring.iter().filter(|(slot, _)| *slot > first);
            within.for_each(|(_, more)| sums.add(more));
            let (part, whole) = of(&sums);
            ratio(part, whole)
        });
        let mut next = || found.next().flatten();
        Ratios { hour: next(), day: next(), days_30: next(), since_start: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 60 * MINUTE_MILLIS;
    const START: i64 = 1_800_000_000_000;

    fn round(up: bool) -> Sums {
        let up_millis = if up { 5_000 } else { 0 };
        Sums { up_millis, all_millis: 5_000, valid: u64::from(up) * 2, all: 2 }
    }

    #[test]
    fn what_is_out_of_a_window_is_out_of_its_ratio() {
        let mut windows = Windows::default();
        assert_eq!(windows.availability(START), Ratios::default());
        for step in 0..720 {
            windows.add(&round(false), START + step * 5_000);
        }
        for step in 720..1440 {
            windows.add(&round(true), START + step * 5_000);
        }
        let now = START + 2 * HOUR - 5_000;
        let found = windows.availability(now);
        assert_eq!((found.hour, found.day), (Some(1.0), Some(0.5)));
        assert_eq!(windows.consistency(now), found);
        let later = windows.availability(now + 25 * HOUR);
        assert_eq!((later.hour, later.day, later.days_30), (None, None, Some(0.5)));
        assert_eq!(windows.availability(now + 31 * 24 * HOUR), Ratios::default());
    }

    #[test]
    fn what_has_left_every_window_counts_since_the_start() {
        let mut tally = Tally::default();
        tally.add(&round(false), START);
        tally.add(&round(true), START + 31 * 24 * HOUR);
        let found = tally.availability(START + 31 * 24 * HOUR);
        assert_eq!((found.days_30, found.since_start), (Some(1.0), Some(0.5)));
        // What was kept before there was such a sum is read.
        let text = serde_json::to_string(&tally).unwrap();
        let old = format!("{{\"windows\":{}}}", serde_json::to_string(&tally.windows).unwrap());
        assert_eq!(serde_json::from_str::<Tally>(&text).unwrap(), tally);
        assert_eq!(serde_json::from_str::<Tally>(&old).unwrap().windows, tally.windows);
    }

    #[test]
    fn rings_are_bounded_and_a_clock_set_back_breaks_nothing() {
        let mut windows = Windows::default();
        for step in 0..10_000 {
            windows.add(&round(true), START + step * 7 * MINUTE_MILLIS);
        }
        windows.add(&round(false), START);
        assert!(
            windows.0.iter().zip(SHAPES).all(|(ring, (_, slots))| ring.len() <= slots as usize)
        );
        let text = serde_json::to_string(&windows).unwrap();
        assert!(text.len() < 32 * 1024, "{} bytes", text.len());
        assert_eq!(serde_json::from_str::<Windows>(&text).unwrap(), windows);
    }
}
