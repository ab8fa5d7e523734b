//! How many bytes of a change log lie before which entry, without reading the log.
//!
//! Some marks along the log are kept in memory: an LSN, the bytes ever appended up to it and its
//! moment. Between marks the figures are interpolated, so what is said of the middle of a log is
//! an estimate, within about a hundredth of what is kept; its whole size is exact. The two ends
//! are at rest with the state of the partition; after a start the marks between them grow anew.

use std::collections::VecDeque;

use isthmus_model::ids::Lsn;

/// Marks of one log.
const MARKS_MAX: usize = 256;
/// A new mark stands at least this part of what is kept behind the one before it.
const STEP: u64 = 128;

/// How much of a log is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogSize {
    /// Bytes of its records.
    pub bytes: u64,
    /// When the oldest entry was made, milliseconds since the Unix epoch; `None`: it is empty.
    pub oldest_millis: Option<i64>,
}

/// A place in a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) lsn: Lsn,
    /// Appended up to it, ever.
    pub(crate) bytes: u64,
    pub(crate) millis: i64,
}

/// Where the bytes of a log lie. There are always marks at both ends.
#[derive(Debug)]
pub(crate) struct LogSizes {
    start: Mark,
    end: Mark,
    /// Between them, ascending.
    marks: VecDeque<Mark>,
}

impl LogSizes {
    /// A log of which only the ends are known.
    pub(crate) fn new(start: Mark, end: Mark) -> LogSizes {
        LogSizes { start, end, marks: VecDeque::new() }
    }

    /// Takes note that the log grew by some bytes and ends and begins there now.
    pub(crate) fn note(&mut self, end: Mark, begins_after: Lsn) {
        let is_rewound = end.lsn < self.end.lsn;
        if is_rewound || begins_after >= end.lsn {
            *self = LogSizes::new(end, end);
            return;
        }
        if self.end.lsn <= self.start.lsn {
            // The first entry is new, however long nothing was written before it.
            self.start.millis = end.millis;
            self.end.millis = end.millis;
        }
        let before = self.marks.back().copied().unwrap_or(self.start);
        let (kept, grown) = (self.end.bytes - self.start.bytes, self.end.bytes - before.bytes);
        let span = (self.end.millis - self.start.millis).max(0);
        let later = (self.end.millis - before.millis).max(0);
        if self.end.lsn > before.lsn
            && (grown * STEP >= kept.max(1) || later.saturating_mul(STEP as i64) > span)
        {
            self.marks.push_back(self.end);
        }
        if self.marks.len() > MARKS_MAX {
            let mut place = 0;
            self.marks.retain(|_| {
                place += 1;
                place % 2 == 0
            });
        }
        self.end = end;
        self.trim(begins_after);
    }

    /// Takes note that the log begins after an entry.
    pub(crate) fn trim(&mut self, begins_after: Lsn) {
        if begins_after <= self.start.lsn {
            return;
        }
        self.start = self.at(begins_after);
        while self.marks.front().is_some_and(|mark| mark.lsn <= begins_after) {
            self.marks.pop_front();
        }
    }

    /// Both ends.
    pub(crate) fn ends(&self) -> (Mark, Mark) {
        (self.start, self.end)
    }

    /// The place after an entry.
    pub(crate) fn at(&self, lsn: Lsn) -> Mark {
        let (a, b) = self.around(|mark| mark.lsn >= lsn);
        let span = b.lsn.0.saturating_sub(a.lsn.0);
        between(a, b, lsn.0.saturating_sub(a.lsn.0), span)
    }

    /// The first place after which at most so many bytes lie, and all that is from a moment or
    /// later, with what was written shortly before it.
    pub(crate) fn start_within(&self, bytes_max: u64, since_millis: i64) -> Lsn {
        let goal = self.end.bytes.saturating_sub(bytes_max);
        let (a, b) = self.around(|mark| mark.bytes >= goal);
        let of_bytes = between(a, b, goal.saturating_sub(a.bytes), b.bytes - a.bytes).lsn;
        // Between two marks nothing may have been written for long: all of it is kept.
        let (of_time, _) = self.around(|mark| mark.millis >= since_millis);
        of_bytes.max(of_time.lsn)
    }

    /// The marks before and at the first one that is far enough; twice the last if none is.
    fn around(&self, is_enough: impl Fn(&Mark) -> bool) -> (Mark, Mark) {
        let mut before = self.start;
        for mark in [&self.start].into_iter().chain(&self.marks).chain([&self.end]) {
            if is_enough(mark) {
                return (before, *mark);
            }
            before = *mark;
        }
        (self.end, self.end)
    }
}

/// The place at `part` of `whole` from one mark to the next, rounded up.
fn between(a: Mark, b: Mark, part: u64, whole: u64) -> Mark {
    if whole == 0 || part >= whole {
        return b;
    }
    let share =
        |span: u64| (u128::from(span) * u128::from(part)).div_ceil(u128::from(whole)) as u64;
    Mark {
        lsn: Lsn(a.lsn.0 + share(b.lsn.0 - a.lsn.0)),
        bytes: a.bytes + share(b.bytes - a.bytes),
        millis: a.millis + share(b.millis.saturating_sub(a.millis).max(0) as u64) as i64,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, proptest};

    use super::*;

    fn mark(lsn: u64, bytes: u64, millis: i64) -> Mark {
        Mark { lsn: Lsn(lsn), bytes, millis }
    }

    fn grown(records: u64, bytes: u64) -> LogSizes {
        let mut sizes = LogSizes::new(mark(0, 0, 0), mark(0, 0, 0));
        for n in 1..=records {
            sizes.note(mark(n * 2, n * bytes, n as i64 * 10), Lsn(0));
        }
        sizes
    }

    #[test]
    fn whole_size_is_exact_and_the_middle_is_near() {
        let sizes = grown(100_000, 300);
        assert!(sizes.marks.len() <= MARKS_MAX);
        assert_eq!(sizes.ends(), (mark(0, 0, 10), mark(200_000, 30_000_000, 1_000_000)));
        let half = sizes.start_within(15_000_000, i64::MIN);
        assert!(half.0.abs_diff(100_000) < 2000, "{half}");
        let recent = sizes.start_within(u64::MAX, 900_000);
        assert!(recent.0.abs_diff(180_000) < 4000, "{recent}");
        assert_eq!(sizes.start_within(0, 0), Lsn(200_000));
        assert_eq!(sizes.start_within(u64::MAX, 0), Lsn(0));
        assert_eq!(sizes.start_within(u64::MAX, i64::MAX), Lsn(200_000));
    }

    #[test]
    fn entry_after_a_long_silence_is_young() {
        let mut sizes = LogSizes::new(mark(5, 500, 0), mark(5, 500, 0));
        sizes.note(mark(6, 600, 1_000_000), Lsn(5));
        assert_eq!(sizes.start_within(u64::MAX, 900_000), Lsn(5));
        assert_eq!(sizes.ends().0.millis, 1_000_000);
        sizes.note(mark(8, 700, 9_000_000), Lsn(5));
        assert_eq!(sizes.start_within(u64::MAX, 8_000_000), Lsn(6));
        assert_eq!(sizes.start_within(u64::MAX, 9_000_001), Lsn(8));
    }

    #[test]
    fn trimmed_log_keeps_the_rest() {
        let mut sizes = grown(1000, 100);
        sizes.trim(Lsn(500));
        let (start, end) = sizes.ends();
        assert_eq!((start.lsn, end.bytes), (Lsn(500), 100_000));
        assert!(start.bytes.abs_diff(25_000) < 1000, "{start:?}");
        sizes.note(mark(2002, 100_100, 20_000), Lsn(2002));
        let (start, end) = sizes.ends();
        assert_eq!(start, end);
    }

    #[test]
    fn log_that_begins_elsewhere_is_empty_there() {
        let mut sizes = grown(1000, 100);
        sizes.note(mark(50, 100_000, 10_000), Lsn(50));
        assert_eq!(sizes.ends().0, mark(50, 100_000, 10_000));
        sizes.note(mark(60, 101_000, 11_000), Lsn(50));
        assert_eq!(sizes.ends(), (mark(50, 100_000, 11_000), mark(60, 101_000, 11_000)));
    }

    proptest! {
        #[test]
        fn what_is_kept_within_a_budget_is_within_it(
            records in proptest::collection::vec((1u64..50, 1u64..5000, 0i64..1000), 1..400),
            budget in 0u64..200_000,
        ) {
            let mut sizes = LogSizes::new(mark(0, 0, 0), mark(0, 0, 0));
            let mut places = vec![mark(0, 0, 0)];
            for (entries, bytes, millis) in records {
                let last = places[places.len() - 1];
                let next = mark(last.lsn.0 + entries, last.bytes + bytes, last.millis + millis);
                sizes.note(next, Lsn(0));
                places.push(next);
            }
            let end = places[places.len() - 1];
            let start = sizes.start_within(budget, i64::MIN);
            prop_assert!(start <= end.lsn);
            // Whole records beyond the start.
            let place = places.iter().find(|place| place.lsn >= start).unwrap();
            let slack = 5000 + end.bytes / 32;
            prop_assert!(end.bytes - place.bytes <= budget + slack);
            let at = sizes.at(start);
            prop_assert!(at.bytes <= end.bytes);
        }
    }
}
