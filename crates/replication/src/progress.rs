//! How a copy gets on: rows, bytes, rate and the time that is left.
//!
//! The rate is that of the later three quarters of the time since the copy began or went on, so
//! that a throttle that changes or a range that is alike shows before long, and a moment's stall
//! does not. Pure: time is handed in.

use std::collections::VecDeque;
use std::time::Duration;

/// Samples of how far a copy was.
const SAMPLES_MAX: usize = 128;

/// How a copy stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CopyReport {
    /// Rows that are settled at the replica, about: those that were alike included, and those that
    /// it does not take.
    pub rows_done: u64,
    /// Rows of the table, or of the keys that the replica takes; `None`: not known, there is no
    /// digest. About.
    pub rows_total: Option<u64>,
    /// Bytes of rows that are durable at the replica since the copy began or went on, before
    /// compression.
    pub bytes_done: u64,
    /// Rows settled per second.
    pub rows_per_second: f64,
    /// Bytes per second.
    pub bytes_per_second: f64,
    /// The time left; `None`: not known.
    pub left: Option<Duration>,
}

/// Follows one copy, from where it began or went on. Moments are of the monotonic clock.
#[derive(Clone, Debug)]
pub struct Progress {
    rows_before: u64,
    rows_total: Option<u64>,
    began: Sample,
    samples: VecDeque<Sample>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    at: Duration,
    rows: u64,
    bytes: u64,
}

impl Progress {
    /// A copy that begins now, of a table of about so many rows, of which so many were settled
    /// before.
    pub fn new(rows_total: Option<u64>, rows_before: u64, now: Duration) -> Progress {
        let began = Sample { at: now, rows: 0, bytes: 0 };
        Progress { rows_before, rows_total, began, samples: VecDeque::new() }
    }

    /// More is durable at the replica.
    pub fn done(&mut self, rows: u64, bytes: u64, now: Duration) {
        let last = self.last();
        if self.samples.len() >= SAMPLES_MAX {
            let mut place = 0;
            self.samples.retain(|_| {
                place += 1;
                place % 2 == 0
            });
        }
        self.samples.push_back(Sample {
            at: now,
            rows: last.rows + rows,
            bytes: last.bytes + bytes,
        });
    }

    /// How it stands.
    pub fn report(&self, now: Duration) -> CopyReport {
        let last = self.last();
        let (since, end) = self.stretch(now);
        let seconds = end.saturating_sub(since.at).as_secs_f64().max(1e-3);
        let rows_per_second = (last.rows - since.rows) as f64 / seconds;
        let bytes_per_second = (last.bytes - since.bytes) as f64 / seconds;
        let rows_done = self.rows_before + last.rows;
        let left = self.rows_total.filter(|_| rows_per_second > 0.0).map(|total| {
            let rows = total.saturating_sub(rows_done) as f64;
            Duration::try_from_secs_f64(rows / rows_per_second).unwrap_or(Duration::MAX)
        });
        let rows_total = self.rows_total.map(|total| total.max(rows_done));
        let bytes_done = last.bytes;
        CopyReport { rows_done, rows_total, bytes_done, rows_per_second, bytes_per_second, left }
    }

    /// What the rate is taken from: a sample, and the time until the last one. It begins with the
    /// first sample, since getting ready says nothing of the rate, and time that passes after the
    /// last one counts where it is longer than from one to the next.
    fn stretch(&self, now: Duration) -> (Sample, Duration) {
        let (Some(first), Some(last)) = (self.samples.front(), self.samples.back()) else {
            return (self.began, now);
        };
        let steps = self.samples.len() as u32 - 1;
        if steps == 0 {
            return (self.began, now);
        }
        let spacing = (last.at - first.at) / steps;
        let end = last.at.max(now.saturating_sub(spacing));
        let quarter = first.at + (end - first.at) / 4;
        let since = self.samples.iter().rev().skip(1).find(|sample| sample.at <= quarter);
        (*since.unwrap_or(first), end)
    }

    fn last(&self) -> Sample {
        self.samples.back().copied().unwrap_or(self.began)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, proptest};

    use super::*;

    const START: Duration = Duration::from_secs(100);

    #[test]
    fn a_copy_that_goes_on_counts_what_was_there() {
        let mut progress = Progress::new(Some(1000), 400, START);
        let report = progress.report(START);
        assert_eq!((report.rows_done, report.left), (400, None));
        progress.done(100, 5000, START + Duration::from_secs(1));
        let report = progress.report(START + Duration::from_secs(1));
        assert_eq!((report.rows_done, report.bytes_done), (500, 5000));
        assert_eq!((report.rows_per_second, report.left), (100.0, Some(Duration::from_secs(5))));
    }

    #[test]
    fn where_rows_are_not_counted_no_time_is_told() {
        let mut progress = Progress::new(None, 0, START);
        progress.done(10, 1, START + Duration::from_secs(1));
        let report = progress.report(START + Duration::from_secs(1));
        assert_eq!((report.rows_total, report.left), (None, None));
    }

    proptest! {
        /// With steps that take between three quarters and five quarters of their mean.
        #[test]
        fn after_a_tenth_the_time_left_is_within_a_fifth(
            steps in proptest::collection::vec(750u64..1250, 200..400),
        ) {
            let total = steps.len() as u64 * 100;
            let ends = START + Duration::from_millis(steps.iter().sum());
            let mut progress = Progress::new(Some(total), 0, START);
            let mut now = START;
            for (place, step) in steps.iter().enumerate() {
                now += Duration::from_millis(*step);
                progress.done(100, 10_000, now);
                if place * 10 > steps.len() && place + 20 < steps.len() {
                    let told = progress.report(now).left.unwrap_or_default().as_secs_f64();
                    let left = (ends - now).as_secs_f64();
                    prop_assert!((told - left).abs() <= left * 0.2, "{told} {left}");
                }
            }
        }
    }
}
