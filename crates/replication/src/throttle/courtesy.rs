//! Copies give way to writes: where commits take longer because of a copy, it goes more slowly.
//!
//! Every half second the copies to a region rest for a moment, and how long commits take on
//! average then is held against what they took while rows were copied. The average feels the few
//! that take very long, which a median would not. Rests too are disturbed by what a copy has set
//! going, such as files that are merged, so the quickest of the last ones counts. A rest that is
//! too short to tell anything is taken together with the next ones. Where hardly anybody writes,
//! copies neither rest nor go more slowly. Pure: time and counts are handed in.

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

    fn since(self, before: Commits) -> Commits {
        Commits {
            count: self.count.saturating_sub(before.count),
            time: self.time.saturating_sub(before.time),
        }
    }

    /// Seconds that a commit took on average; `None`: there were too few.
    fn mean(self) -> Option<f64> {
        (self.count >= COMMITS_MIN).then(|| self.time.as_secs_f64() / self.count as f64)
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
    /// Those of rests that are not judged yet.
    rested: Commits,
    slower: f64,
}

impl Default for Courtesy {
    fn default() -> Courtesy {
        let (last, resting, rested) = (Duration::ZERO, VecDeque::new(), Commits::default());
        Courtesy { phase: None, last, copying: 0.0, resting, rested, slower: 1.0 }
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
                let rest = commits.since(from);
                self.rested.count += rest.count;
                self.rested.time += rest.time;
                if let Some(mean) = self.rested.mean() {
                    self.rested = Commits::default();
                    self.judge(mean);
                }
                copies
            }
            Some(Phase::Copies { since, .. }) if now - since < COPIES_FOR => return,
            Some(Phase::Copies { from, .. }) => match commits.since(from).mean() {
                Some(mean) => {
                    self.copying = mean;
                    Some(Phase::Rests { until: now + RESTS_FOR, from: commits })
                }
                None => {
                    (self.slower, self.rested) = (1.0, Commits::default());
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

    /// A region that copies and writes.
    struct Site {
        courtesy: Courtesy,
        commits: Commits,
        now: Duration,
    }

    impl Site {
        fn new() -> Site {
            Site { courtesy: Courtesy::default(), commits: Commits::default(), now: STEP }
        }

        /// Copies a piece whenever it may, for so many seconds; a commit, of which there are so
        /// many a second, takes `busy` while rows are copied and `quiet` in a rest. Returns the
        /// pieces.
        fn run(&mut self, (per_second, busy, quiet): (u64, u64, u64), seconds: u64) -> u64 {
            let (mut pieces, until) = (0, self.now + Duration::from_secs(seconds));
            let mut due = 0;
            while self.now < until {
                let rests = self.courtesy.due(self.now).is_some();
                due += per_second;
                let count = due / 100;
                due %= 100;
                self.commits.count += count;
                let micros = count * if rests { quiet } else { busy };
                self.commits.time += Duration::from_micros(micros);
                if !rests {
                    self.courtesy.copied(self.commits, self.now);
                    pieces += 1;
                }
                self.now += STEP;
            }
            pieces
        }

        fn slower(&self) -> f64 {
            self.courtesy.slower()
        }
    }

    #[test]
    fn copies_go_more_slowly_while_they_hold_up_commits() {
        let mut site = Site::new();
        site.run((1000, 5_000, 500), 2);
        assert_eq!(site.slower(), SLOWER_MAX);
        site.run((1000, 600, 500), 60);
        assert_eq!(site.slower(), 1.0, "and faster again");
    }

    #[test]
    fn rests_with_few_commits_are_judged_together() {
        let mut site = Site::new();
        site.run((40, 5_000, 500), 10);
        assert_eq!(site.slower(), SLOWER_MAX, "though a rest has four");
        site.run((40, 600, 500), 60);
        assert_eq!(site.slower(), 1.0, "it does not stay so for good");
    }

    #[test]
    fn what_is_hardly_felt_changes_nothing() {
        let mut site = Site::new();
        site.run((1000, 700, 500), 60);
        assert_eq!(site.slower(), 1.0);
        site.run((1000, 250, 100), 60);
        assert_eq!(site.slower(), 1.0, "on a quick disk");
    }

    #[test]
    fn a_copy_where_nobody_writes_never_rests() {
        let mut site = Site::new();
        assert_eq!(site.run((0, 0, 0), 30), 3000);
        site.run((1000, 5_000, 500), 20);
        site.run((0, 0, 0), 5);
        assert_eq!(site.slower(), 1.0, "once the writers have gone");
    }

    #[test]
    fn rests_take_a_sixth_of_the_time() {
        let pieces = Site::new().run((1000, 500, 500), 24);
        assert!((1900..=2050).contains(&pieces), "{pieces} of 2400");
    }

    #[test]
    fn a_later_copy_begins_anew() {
        let mut site = Site::new();
        site.run((1000, 5_000, 500), 20);
        site.now += FORGETS_AFTER;
        site.courtesy.copied(Commits::default(), site.now);
        assert_eq!((site.slower(), site.courtesy.due(site.now)), (1.0, None));
        assert!(site.courtesy.resting.is_empty());
    }
}
