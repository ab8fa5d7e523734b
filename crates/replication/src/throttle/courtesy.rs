//! Copies give way to writes: where commits take longer because of a copy, it goes more slowly.
//!
//! Every half second the copies to a region rest for a moment, and how long commits take on
//! average then is held against what they took while rows were copied. The average feels the few
//! that take very long, which a median would not. Rests too are disturbed by what a copy has set
//! going, such as files that are merged, so the quickest of the last ones counts. Where hardly
//! anybody writes, copies neither rest nor go more slowly. Pure: time and counts are handed in.

use std::collections::VecDeque;
use std::time::Duration;

use isthmus_store::counters::Counters;

/// How long rows are copied between two rests.
const COPIES_FOR: Duration = Duration::from_millis(500);
/// How long copies rest then.
const RESTS_FOR: Duration = Duration::from_millis(100);
/// Copies that have sent nothing for so long begin anew.
const FORGETS_AFTER: Duration = Duration::from_secs(10);
/// Fewer commits in a while tell nothing.
const COMMITS_MIN: u64 = 10;
/// Rests of which the quickest counts.
const RESTS: usize = 20;
/// Commits may take so many times as long while rows are copied, and a little more.
const MUCH: f64 = 1.5;
/// Where they take longer still, copies slow down at once.
const FAR_TOO_MUCH: f64 = 3.0;
/// Below it copies go faster again.
const LITTLE: f64 = 1.25;
/// The little more: what does not matter however quick the disk is, in seconds.
const SLACK_SECONDS: f64 = 0.000_2;
/// Copies rest at most so many times as long as they would where nobody writes.
pub const SLOWER_MAX: f64 = 6.0;

/// Commits of a region since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Commits {
    /// How many.
    pub count: u64,
    /// How long all of them took together.
    pub time: Duration,
}

impl Commits {
    /// Those of a store.
    pub fn of(counters: &Counters) -> Commits {
        Commits { count: counters.commits.get(), time: counters.commit_time.get().1 }
    }

    /// Seconds that a commit took on average since `before`; `None`: there were too few.
    fn mean_since(self, before: Commits) -> Option<f64> {
        let count = self.count.saturating_sub(before.count);
        let time = self.time.saturating_sub(before.time);
        (count >= COMMITS_MIN).then(|| time.as_secs_f64() / count as f64)
    }
}

/// What copies do at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Copies { since: Duration, from: Commits },
    Rests { until: Duration, from: Commits },
}

/// How far the copies to one region give way to the writes of this one.
#[derive(Clone, Debug)]
pub struct Courtesy {
    phase: Option<Phase>,
    /// When something was copied last.
    last: Duration,
    /// Seconds of a commit while rows were copied last.
    copying: f64,
    /// The same of the last rests.
    resting: VecDeque<f64>,
    slower: f64,
}

impl Default for Courtesy {
    fn default() -> Courtesy {
        let (last, resting) = (Duration::ZERO, VecDeque::new());
        Courtesy { phase: None, last, copying: 0.0, resting, slower: 1.0 }
    }
}

impl Courtesy {
    /// When rows may be copied; `None`: now.
    pub fn due(&self, now: Duration) -> Option<Duration> {
        match self.phase {
            Some(Phase::Rests { until, .. }) if until > now => Some(until),
            _ => None,
        }
    }

    /// How many times as long copies rest as they would where nobody writes, from 1 to
    /// [`SLOWER_MAX`].
    pub fn slower(&self) -> f64 {
        self.slower
    }

    /// Takes note that a piece was copied, and of the commits by now.
    pub fn copied(&mut self, commits: Commits, now: Duration) {
        let idle = now.saturating_sub(self.last) >= FORGETS_AFTER;
        self.last = now;
        let copies = Some(Phase::Copies { since: now, from: commits });
        self.phase = match self.phase {
            None => copies,
            Some(_) if idle => {
                *self = Courtesy { last: now, ..Courtesy::default() };
                copies
            }
            Some(Phase::Rests { until, .. }) if until > now => return,
            Some(Phase::Rests { from, .. }) => {
                if let Some(mean) = commits.mean_since(from) {
                    self.judge(mean);
                }
                copies
            }
            Some(Phase::Copies { since, .. }) if now - since < COPIES_FOR => return,
            Some(Phase::Copies { from, .. }) => match commits.mean_since(from) {
                Some(mean) => {
                    self.copying = mean;
                    Some(Phase::Rests { until: now + RESTS_FOR, from: commits })
                }
                None => {
                    self.slower = 1.0;
                    copies
                }
            },
        };
    }

    fn judge(&mut self, resting: f64) {
        if self.resting.len() == RESTS {
            self.resting.pop_front();
        }
        self.resting.push_back(resting);
        let quickest = self.resting.iter().copied().fold(f64::INFINITY, f64::min);
        if self.copying > quickest * FAR_TOO_MUCH + SLACK_SECONDS {
            self.slower = (self.slower * 2.5).min(SLOWER_MAX);
        } else if self.copying > quickest * MUCH + SLACK_SECONDS {
            self.slower = (self.slower * 1.5).min(SLOWER_MAX);
        } else if self.copying < quickest * LITTLE + SLACK_SECONDS {
            self.slower = (self.slower / 1.25).max(1.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(10);

    /// Copies a piece whenever it may, for so many seconds; a commit, of which there are so many
    /// a second, takes `busy` while rows are copied and `quiet` in a rest. Returns the pieces.
    fn run(
        courtesy: &mut Courtesy,
        now: &mut Duration,
        told: (u64, u64, u64),
        seconds: u64,
    ) -> u64 {
        let (per_second, busy, quiet) = told;
        let mut commits = Commits::default();
        let (mut pieces, until) = (0, *now + Duration::from_secs(seconds));
        while *now < until {
            let rests = courtesy.due(*now).is_some();
            commits.count += per_second / 100;
            let micros = (per_second / 100) * if rests { quiet } else { busy };
            commits.time += Duration::from_micros(micros);
            if !rests {
                courtesy.copied(commits, *now);
                pieces += 1;
            }
            *now += STEP;
        }
        pieces
    }

    #[test]
    fn copies_go_more_slowly_while_they_hold_up_commits() {
        let (mut courtesy, mut now) = (Courtesy::default(), STEP);
        run(&mut courtesy, &mut now, (1000, 5_000, 500), 2);
        assert_eq!(courtesy.slower(), SLOWER_MAX);
        run(&mut courtesy, &mut now, (1000, 600, 500), 60);
        assert_eq!(courtesy.slower(), 1.0, "and faster again");
    }

    #[test]
    fn what_is_hardly_felt_changes_nothing() {
        let (mut courtesy, mut now) = (Courtesy::default(), STEP);
        run(&mut courtesy, &mut now, (1000, 700, 500), 60);
        assert_eq!(courtesy.slower(), 1.0);
        run(&mut courtesy, &mut now, (1000, 250, 100), 60);
        assert_eq!(courtesy.slower(), 1.0, "on a quick disk");
    }

    #[test]
    fn a_copy_where_nobody_writes_never_rests() {
        let (mut courtesy, mut now) = (Courtesy::default(), STEP);
        assert_eq!(run(&mut courtesy, &mut now, (0, 0, 0), 30), 3000);
        run(&mut courtesy, &mut now, (1000, 5_000, 500), 20);
        run(&mut courtesy, &mut now, (0, 0, 0), 5);
        assert_eq!(courtesy.slower(), 1.0, "once the writers have gone");
    }

    #[test]
    fn rests_take_a_sixth_of_the_time() {
        let (mut courtesy, mut now) = (Courtesy::default(), STEP);
        let pieces = run(&mut courtesy, &mut now, (1000, 500, 500), 24);
        assert!((1900..=2050).contains(&pieces), "{pieces} of 2400");
    }

    #[test]
    fn a_later_copy_begins_anew() {
        let (mut courtesy, mut now) = (Courtesy::default(), STEP);
        run(&mut courtesy, &mut now, (1000, 5_000, 500), 20);
        now += FORGETS_AFTER;
        courtesy.copied(Commits::default(), now);
        assert_eq!((courtesy.slower(), courtesy.due(now)), (1.0, None));
        assert!(courtesy.resting.is_empty());
    }
}
