//! What one region's prober knows of one region, and when a read is valid.
//!
//! A read is valid if it shows what the prober last wrote there and was answered, or something it
//! tried to write later; or a write that was never answered, which may take effect late.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::windows::{Sums, Tally};
use crate::status::ProbeStatus;

/// Writes without an answer that are remembered.
const UNKNOWN_MAX: usize = 16;

/// One write and one read.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Round {
    /// What was written.
    pub(super) value: i64,
    /// How long the write took; `None`: it was not answered with success.
    pub(super) write_time: Option<Duration>,
    /// How long the read took; `None`: it was not answered with success.
    pub(super) read_time: Option<Duration>,
    /// What it showed.
    pub(super) found: Option<i64>,
    /// The time it stands for.
    pub(super) stands_for: Duration,
    /// Why something failed.
    pub(super) reason: String,
}

impl Round {
    /// Whether both were answered with success.
    pub(super) fn is_up(&self) -> bool {
        self.write_time.is_some() && self.read_time.is_some()
    }
}

/// What is known of one region.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    #[serde(flatten)]
    tally: Tally,
    /// The last value whose write was answered; 0: none.
    acked: i64,
    /// The last value that was tried.
    tried: i64,
    /// Values whose writes were not answered, the oldest first.
    unknown: VecDeque<i64>,
    /// The last round.
    #[serde(skip)]
    last: Option<(i64, Round)>,
    up: bool,
    since_millis: i64,
}

impl Record {
    /// The next value to write.
    pub(super) fn next_value(&mut self, now_millis: i64) -> i64 {
        self.tried = now_millis.max(self.tried + 1);
        self.tried
    }

    /// Takes in a round.
    pub(super) fn note(&mut self, round: &Round, now_millis: i64) {
        match round.write_time {
            Some(_) => self.acked = self.acked.max(round.value),
            None => {
                if self.unknown.len() >= UNKNOWN_MAX {
                    self.unknown.pop_front();
                }
                self.unknown.push_back(round.value);
            }
        }
        let valid_write = round.write_time.is_some();
        let valid_read = round.read_time.is_some() && self.may_show(round.found);
        let up = round.is_up();
        let stands_for = u64::try_from(round.stands_for.as_millis()).unwrap_or(u64::MAX);
        let sums = Sums {
            up_millis: if up { stands_for } else { 0 },
            all_millis: stands_for,
            valid: u64::from(valid_write) + u64::from(valid_read),
            all: 2,
        };
        self.tally.add(&sums, now_millis);
        if up != self.up || self.since_millis == 0 {
            (self.up, self.since_millis) = (up, now_millis);
        }
        let mut round = round.clone();
        if round.read_time.is_some() && !valid_read {
            let (found, acked) = (round.found, self.acked);
            let found = found.map_or_else(|| "nothing".to_owned(), |found| found.to_string());
            round.reason = format!("the read shows {found}, though {acked} was acknowledged");
        }
        self.last = Some((now_millis, round));
    }

    fn may_show(&self, found: Option<i64>) -> bool {
        match found {
            None => self.acked == 0,
            Some(value) => {
                (self.acked..=self.tried).contains(&value) || self.unknown.contains(&value)
            }
        }
    }

    /// For people and programs.
    pub(super) fn status(&self, region: &str, now_millis: i64) -> ProbeStatus {
        let millis = |time: Option<Duration>| time.map(|time| time.as_secs_f64() * 1e3);
        let last = self.last.as_ref();
        ProbeStatus {
            region: region.to_owned(),
            up: self.up,
            since_ms: self.since_millis,
            at_ms: last.map(|(at, _)| *at),
            write_ms: last.and_then(|(_, round)| millis(round.write_time)),
            read_ms: last.and_then(|(_, round)| millis(round.read_time)),
            reason: last.map(|(_, round)| round.reason.clone()).unwrap_or_default(),
            availability: self.tally.availability(now_millis),
            consistency: self.tally.consistency(now_millis),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000_000;

    /// A round in which `write` and `read` say whether they were answered.
    fn round(record: &mut Record, write: bool, read: Option<Option<i64>>, at: i64) -> ProbeStatus {
        let took = Duration::from_millis(2);
        let round = Round {
            value: record.next_value(at),
            write_time: write.then_some(took),
            read_time: read.map(|_| took),
            found: read.flatten(),
            stands_for: Duration::from_secs(5),
            reason: String::new(),
        };
        record.note(&round, at);
        record.status("r2", at)
    }

    #[test]
    fn an_acknowledged_write_that_is_gone_makes_a_read_invalid() {
        let mut record = Record::default();
        let good = round(&mut record, true, Some(Some(NOW)), NOW);
        assert_eq!((good.consistency.hour, good.availability.hour), (Some(1.0), Some(1.0)));
        let gone = round(&mut record, true, Some(None), NOW + 5_000);
        assert_eq!((gone.consistency.hour, gone.availability.hour), (Some(0.75), Some(1.0)));
        assert!(gone.reason.contains("shows nothing"), "{}", gone.reason);
        let old = round(&mut record, true, Some(Some(NOW)), NOW + 10_000);
        assert_eq!(old.consistency.hour, Some(4.0 / 6.0));
    }

    #[test]
    fn a_write_without_an_answer_may_show_late() {
        let mut record = Record::default();
        round(&mut record, true, Some(Some(NOW)), NOW);
        let down = round(&mut record, false, None, NOW + 5_000);
        assert_eq!((down.up, down.availability.hour), (false, Some(0.5)));
        let late = round(&mut record, true, Some(Some(NOW + 5_000)), NOW + 10_000);
        assert!(late.up && late.reason.is_empty(), "{late:?}");
        assert_eq!(late.consistency.hour, Some(4.0 / 6.0));
    }

    #[test]
    fn values_never_repeat_and_the_sums_outlive_a_restart() {
        let mut record = Record::default();
        assert!(record.next_value(NOW) < record.next_value(NOW));
        round(&mut record, true, Some(Some(NOW + 2)), NOW);
        let text = serde_json::to_vec(&record).unwrap();
        let mut again: Record = serde_json::from_slice(&text).unwrap();
        assert_eq!(again.status("r2", NOW).availability.hour, Some(1.0));
        assert!(again.next_value(NOW - 5) > NOW + 2);
    }
}
