//! Whether a region lives, as a gateway sees it, and which of those that live is asked first.
//!
//! Pure: signs and moments are handed in. One failure says little and one answer as well, so a
//! region goes down after several failures in a row, of probes or of requests, and comes up after
//! several answered probes in a row; only what has never been seen comes up with the first one.

use std::time::Duration;

use crate::config::gateway::{Balance, GatewayProbe};

/// How much a new delay counts beside those before, of 8.
const NEWEST_WEIGHT: u32 = 2;
/// Another region is nearer only if its delay is less than so many eighths of that of the nearest
/// by now: readers do not go to and fro between two that are alike.
const NEARER_EIGHTHS: u32 = 6;

/// What tells something of a region.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Sign {
    /// It answered a probe, after so long.
    Probed(Duration),
    /// It answered a request.
    Answered,
    /// It did not answer.
    Silent(String),
}

/// How a region stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Standing {
    /// Whether requests go there.
    pub(super) up: bool,
    /// Since when, milliseconds since the Unix epoch.
    pub(super) since_millis: i64,
    /// Why it did not answer last.
    pub(super) reason: String,
    /// How long it takes to answer a probe, lately.
    pub(super) delay: Option<Duration>,
    /// How often it went down or came up.
    pub(super) changes: u64,
    seen: bool,
    failures: u32,
    answers: u32,
}

impl Standing {
    /// Nothing is known yet.
    pub(super) fn new(now_millis: i64) -> Standing {
        Standing {
            up: false,
            since_millis: now_millis,
            reason: "not looked at yet".to_owned(),
            delay: None,
            changes: 0,
            seen: false,
            failures: 0,
            answers: 0,
        }
    }

    /// Takes in a sign. Gives whether the region went down or came up by it.
    pub(super) fn take(&mut self, sign: Sign, rules: &GatewayProbe, now_millis: i64) -> bool {
        match sign {
            Sign::Probed(delay) => {
                self.delay = Some(match self.delay {
                    Some(before) => (before * (8 - NEWEST_WEIGHT) + delay * NEWEST_WEIGHT) / 8,
                    None => delay,
                });
                self.failures = 0;
                self.answers = self.answers.saturating_add(1);
            }
            // It says that the region lives, not that it is well enough to be asked again.
            Sign::Answered => self.failures = 0,
            Sign::Silent(reason) => {
                self.reason = reason;
                self.answers = 0;
                self.failures = self.failures.saturating_add(1);
            }
        }
        let answers_needed = if self.seen { rules.up_after } else { 1 };
        let up = match self.up {
            true => self.failures < rules.down_after,
            false => self.answers >= answers_needed,
        };
        let is_change = up != self.up;
        if is_change {
            (self.up, self.since_millis) = (up, now_millis);
            self.changes += 1;
            self.seen = true;
        }
        if up && self.failures == 0 {
            self.reason.clear();
        }
        is_change
    }
}

/// A region that a request may go to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    /// Whether it lives.
    pub(super) up: bool,
    /// How long it takes to answer.
    pub(super) delay: Option<Duration>,
    /// Requests that it has in work.
    pub(super) in_work: usize,
}

/// By what a request is sent to one region rather than to another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    /// By which rule.
    pub(super) balance: Balance,
    /// The region that is preferred.
    pub(super) prefer: Option<usize>,
    /// The nearest one by now.
    pub(super) nearest: usize,
    /// Grows with each request.
    pub(super) turn: usize,
}

impl Order {
    /// The next region to ask of those that have not been. One that is down is asked only where
    /// none that lives is left: what is known of it may be old.
    pub(super) fn next(&self, all: &[Candidate], asked: &[usize]) -> Option<usize> {
        let left = (0..all.len()).filter(|place| !asked.contains(place));
        left.min_by_key(|place| {
            let (place, one) = (*place, all[*place]);
            let delay = one.delay.unwrap_or(Duration::MAX);
            let rank = match self.balance {
                Balance::Nearest => {
                    let is_other = usize::from(place != self.nearest);
                    usize::from(self.prefer != Some(place)) * 2 + is_other
                }
                Balance::LeastLoaded => one.in_work,
                Balance::RoundRobin => (place + all.len() - self.turn % all.len()) % all.len(),
            };
            (!one.up, rank, delay)
        })
    }
}

/// The nearest region, where `nearest` was the nearest before.
pub(super) fn nearest(all: &[Candidate], nearest: usize) -> usize {
    let up = || all.iter().enumerate().filter(|(_, one)| one.up);
    let delay = |one: &Candidate| one.delay.unwrap_or(Duration::MAX);
    let Some((best, one)) = up().min_by_key(|(_, one)| delay(one)) else { return nearest };
    match all.get(nearest).filter(|one| one.up) {
        Some(before) if delay(one) >= delay(before) / 8 * NEARER_EIGHTHS => nearest,
        Some(_) | None => best,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn silent() -> Sign {
        Sign::Silent("refused".to_owned())
    }

    #[test]
    fn one_failure_takes_no_region_down_and_one_answer_brings_none_back() {
        let rules = GatewayProbe::default();
        let mut region = Standing::new(5);
        assert!(!region.up);
        assert!(region.take(Sign::Probed(MS), &rules, 10));
        assert_eq!((region.up, region.since_millis, region.reason.as_str()), (true, 10, ""));
        for _ in 0..2 {
            assert!(!region.take(silent(), &rules, 20));
        }
        assert!(!region.take(Sign::Answered, &rules, 20));
        for _ in 0..2 {
            assert!(!region.take(silent(), &rules, 20));
        }
        assert!(region.take(silent(), &rules, 30));
        assert_eq!(
            (region.up, region.since_millis, region.reason.as_str()),
            (false, 30, "refused")
        );
        assert!(!region.take(Sign::Probed(MS), &rules, 40));
        assert!(!region.take(Sign::Answered, &rules, 40));
        assert!(!region.take(silent(), &rules, 40));
        assert!(!region.take(Sign::Probed(MS), &rules, 50));
        assert!(region.take(Sign::Probed(MS), &rules, 60));
        assert_eq!(region.changes, 3);
    }

    #[test]
    fn delays_are_smoothed() {
        let rules = GatewayProbe::default();
        let mut region = Standing::new(0);
        region.take(Sign::Probed(MS * 8), &rules, 0);
        region.take(Sign::Probed(MS * 16), &rules, 0);
        assert_eq!(region.delay, Some(MS * 10));
    }

    fn candidates(all: &[(bool, u32, usize)]) -> Vec<Candidate> {
        let one = |(up, delay, in_work): &(bool, u32, usize)| Candidate {
            up: *up,
            delay: Some(MS * *delay),
            in_work: *in_work,
        };
        all.iter().map(one).collect()
    }

    fn order(order: &Order, all: &[Candidate]) -> Vec<usize> {
        let mut asked = Vec::new();
        while let Some(next) = order.next(all, &asked) {
            asked.push(next);
        }
        asked
    }

    #[test]
    fn each_region_is_asked_once_in_the_order_of_the_rule() {
        let all = candidates(&[(true, 9, 0), (true, 3, 7), (false, 1, 0), (true, 5, 2)]);
        let by = |balance, prefer, turn| order(&Order { balance, prefer, nearest: 1, turn }, &all);
        assert_eq!(by(Balance::Nearest, None, 0), [1, 3, 0, 2]);
        assert_eq!(by(Balance::Nearest, Some(0), 0), [0, 1, 3, 2]);
        // One that is preferred and down waits for its turn among those.
        assert_eq!(by(Balance::Nearest, Some(2), 0), [1, 3, 0, 2]);
        assert_eq!(by(Balance::LeastLoaded, None, 0), [0, 3, 1, 2]);
        assert_eq!(by(Balance::RoundRobin, None, 5), [1, 3, 0, 2]);
        assert_eq!(by(Balance::RoundRobin, None, 6), [3, 0, 1, 2]);
    }

    #[test]
    fn the_nearest_region_stays_while_others_are_hardly_nearer() {
        let alike = candidates(&[(true, 10, 0), (true, 8, 0)]);
        assert_eq!((nearest(&alike, 0), nearest(&alike, 1)), (0, 1));
        assert_eq!(nearest(&candidates(&[(true, 10, 0), (true, 7, 0)]), 0), 1);
        assert_eq!(nearest(&candidates(&[(false, 1, 0), (true, 8, 0)]), 0), 1);
        assert_eq!(nearest(&candidates(&[(false, 1, 0), (false, 8, 0)]), 0), 0);
    }
}
