//! Whether enough other regions keep up with the writes of this one: a pure state machine.
//!
//! It is told what was written and what so many others hold, and says when they are too far
//! behind and when they keep up again. The age of what they lack is measured by goals: a goal is
//! the end of the log at a moment, and the next one is set when it is reached. An entry that is
//! lacked is at least as old as the goal, and becomes part of one no later than a goal takes.

use std::time::Duration;

use isthmus_model::ids::Lsn;

use super::SemiSync;

/// So long, and no longer than the bound, others may lack something while not enough of them count
/// that those who decide have not given up: a bound that is to outlast a hitch has nothing to wait
/// for then. About two round trips over half the earth, should one of them be there all the same.
const LOST_BOUND: Duration = Duration::from_millis(250);

/// Watches one table.
#[derive(Debug)]
pub(super) struct Watch {
    asked: SemiSync,
    fallen_back: bool,
    /// The last entry that was written here.
    end: Lsn,
    /// So many others hold everything through this; `None`: not known.
    held: Option<Lsn>,
    /// The end at a moment, while it is not held.
    goal: Option<(Lsn, Duration)>,
    /// Since when the oldest write has waited for votes that is not made yet.
    votes_since: Option<Duration>,
    /// Too few that count are left.
    is_lost: bool,
}

impl Watch {
    /// Nothing is known yet; it may have fallen back in an earlier life.
    pub(super) fn new(asked: SemiSync, fallen_back: bool) -> Watch {
        Watch {
            asked,
            fallen_back,
            end: Lsn(0),
            held: None,
            goal: None,
            votes_since: None,
            is_lost: false,
        }
    }

    /// What is asked.
    pub(super) fn asked(&self) -> &SemiSync {
        &self.asked
    }

    /// Asks for something else.
    pub(super) fn ask(&mut self, asked: SemiSync) {
        self.asked = asked;
    }

    /// Whether others are too far behind.
    pub(super) fn has_fallen_back(&self) -> bool {
        self.fallen_back
    }

    /// So many others hold everything through this; `None`: not known.
    pub(super) fn held_through(&self) -> Option<Lsn> {
        self.held
    }

    /// Entries that are not held by so many; `None`: not known.
    pub(super) fn lag(&self) -> Option<u64> {
        self.held.map(|held| self.end.0.saturating_sub(held.0))
    }

    /// An entry was written.
    pub(super) fn written(&mut self, lsn: Lsn, now: Duration) -> Option<String> {
        self.end = self.end.max(lsn);
        self.look(now)
    }

    /// So many others hold everything through this.
    pub(super) fn held(&mut self, held: Option<Lsn>, now: Duration) -> Option<String> {
        self.held = held;
        self.look(now)
    }

    /// Since when the oldest write has waited for votes that is not made yet.
    pub(super) fn wait_for_votes(&mut self, since: Option<Duration>) {
        self.votes_since = since;
    }

    /// Whether, of those that count, fewer than must hold a write are left that are not suspended.
    pub(super) fn lose(&mut self, is_lost: bool) {
        self.is_lost = is_lost;
    }

    /// Time has passed, or something else was asked. A state that changes is told with its reason.
    pub(super) fn look(&mut self, now: Duration) -> Option<String> {
        let reached = self.goal.filter(|(goal, _)| self.held >= Some(*goal));
        let took = reached.map(|(_, set)| now.saturating_sub(set));
        let is_even = self.held >= Some(self.end);
        // Before the first write of a life nobody waits for anything.
        if is_even || self.end == Lsn(0) {
            self.goal = None;
        } else if took.is_some() || self.goal.is_none() {
            self.goal = Some((self.end, now));
        }
        match self.fallen_back {
            true => self.climb(is_even, took, now),
            false => self.fall(now),
        }
    }

    /// How long others may lack an entry now.
    fn bound(&self) -> Duration {
        match self.is_lost {
            true => self.asked.bound.min(LOST_BOUND),
            false => self.asked.bound,
        }
    }

    fn fall(&mut self, now: Duration) -> Option<String> {
        let SemiSync { held_by, bound_entries, .. } = self.asked;
        let bound = self.bound();
        let since = self.goal.map_or(now, |(_, set)| set);
        let reason = if self.lag().is_some_and(|lag| lag > bound_entries) {
            format!("fewer than {held_by} others hold all but the newest {bound_entries} entries")
        } else if self.votes_since.is_some_and(|since| now.saturating_sub(since) > bound) {
            let millis = bound.as_millis();
            format!("fewer than {held_by} others have voted for a write for more than {millis} ms")
        } else if now.saturating_sub(since) > bound {
            let millis = bound.as_millis();
            format!("fewer than {held_by} others hold what was written more than {millis} ms ago")
        } else {
            return None;
        };
        self.fallen_back = true;
        Some(reason)
    }

    /// Half of the bounds, so that it does not fall back again at once. One that is suspended and
    /// answers all the same must be prompt: that it has everything at last says little of the next
    /// write.
    fn climb(&mut self, is_even: bool, took: Option<Duration>, now: Duration) -> Option<String> {
        if self.votes_since.is_some_and(|s| now.saturating_sub(s) > self.bound() / 2) {
            return None;
        }
        let is_short = self.lag().is_some_and(|lag| lag <= self.asked.bound_entries / 2);
        let is_prompt = took.is_some_and(|took| took <= self.bound() / 2);
        if !(is_even && !self.is_lost || is_short && is_prompt) {
            return None;
        }
        self.fallen_back = false;
        let held_by = self.asked.held_by;
        Some(match is_even {
            true => format!("{held_by} others hold everything"),
            false => format!("{held_by} others keep up again"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mode::Fallback;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn watch() -> Watch {
        let asked = SemiSync {
            held_by: 1,
            bound_entries: 10,
            bound: millis(100),
            patience: millis(500),
            fallback: Fallback::Wait,
        };
        Watch::new(asked, false)
    }

    #[test]
    fn who_keeps_up_stays_in_sync_however_much_is_written() {
        let mut watch = watch();
        for number in 1..1000 {
            assert_eq!(watch.written(Lsn(number + 1), millis(number * 40)), None);
            assert_eq!(watch.held(Some(Lsn(number)), millis(number * 40 + 30)), None);
        }
        assert_eq!(watch.lag(), Some(1));
        assert!(!watch.has_fallen_back());
    }

    #[test]
    fn what_nobody_has_said_yet_counts_by_time_only() {
        let mut watch = watch();
        assert_eq!(watch.written(Lsn(1_000_000), millis(5)), None);
        assert_eq!(watch.look(millis(105)), None);
        assert!(watch.look(millis(106)).is_some_and(|reason| reason.contains("100 ms")));
        assert_eq!(watch.look(millis(900)), None);
        assert!(watch.held(Some(Lsn(1_000_000)), millis(950)).is_some());
        assert!(!watch.has_fallen_back());
    }

    #[test]
    fn too_many_entries_are_told_at_once() {
        let mut watch = watch();
        watch.held(Some(Lsn(3)), millis(1));
        assert_eq!(watch.written(Lsn(13), millis(2)), None);
        assert!(watch.written(Lsn(14), millis(2)).is_some_and(|reason| reason.contains("10")));
        // Half of the bound, and promptly.
        assert_eq!(watch.held(Some(Lsn(8)), millis(3)), None);
        assert!(watch.held(Some(Lsn(14)), millis(4)).is_some());
    }

    #[test]
    fn who_follows_far_behind_has_not_caught_up() {
        let mut watch = watch();
        watch.written(Lsn(1), millis(0));
        assert!(watch.look(millis(101)).is_some());
        // Always 80 ms behind, which is more than half of the bound.
        let mut now = 200;
        for number in 2..40 {
            assert_eq!(watch.written(Lsn(number), millis(now)), None);
            assert_eq!(watch.held(Some(Lsn(number - 1)), millis(now)), None, "{number}");
            now += 80;
        }
        assert!(watch.has_fallen_back());
        watch.written(Lsn(40), millis(now));
        watch.held(Some(Lsn(39)), millis(now));
        assert!(watch.held(Some(Lsn(40)), millis(now + 20)).is_some());
    }

    #[test]
    fn a_time_that_was_taken_earlier_is_told_later() {
        let mut watch = watch();
        watch.held(Some(Lsn(1)), millis(1));
        assert_eq!(watch.written(Lsn(3), millis(7)), None);
        assert_eq!(watch.written(Lsn(2), millis(6)), None);
        assert_eq!(watch.held(Some(Lsn(3)), millis(6)), None);
        assert!(!watch.has_fallen_back());
    }

    #[test]
    fn who_is_given_up_is_not_waited_for_as_long_as_a_hitch() {
        let asked = SemiSync { bound: millis(10_000), ..*watch().asked() };
        for is_lost in [false, true] {
            let mut watch = Watch::new(asked, false);
            watch.lose(is_lost);
            assert_eq!(watch.look(millis(1000)), None);
            assert_eq!(watch.written(Lsn(1), millis(1000)), None);
            assert_eq!(watch.look(millis(1250)), None);
            assert_eq!(watch.look(millis(1251)).is_some(), is_lost);
            // That it has everything in the end is not enough; that it is prompt is.
            assert_eq!(watch.held(Some(Lsn(1)), millis(1300)), None);
            assert_eq!(watch.has_fallen_back(), is_lost);
            assert_eq!(watch.written(Lsn(2), millis(2000)), None);
            assert_eq!(watch.held(Some(Lsn(2)), millis(2100)).is_some(), is_lost);
            watch.wait_for_votes(Some(millis(2200)));
            assert_eq!(watch.look(millis(2451)).is_some(), is_lost);
            watch.wait_for_votes(None);
            watch.lose(false);
            assert_eq!(watch.look(millis(2500)).is_some(), is_lost);
            assert!(!watch.has_fallen_back());
        }
        // A bound that is shorter counts.
        let mut watch = watch();
        watch.lose(true);
        watch.written(Lsn(1), millis(0));
        assert!(watch.look(millis(101)).is_some());
    }

    #[test]
    fn an_idle_table_is_in_sync() {
        let mut watch = watch();
        assert_eq!(watch.look(millis(0)), None);
        assert_eq!(watch.look(millis(100_000)), None);
        watch.held(Some(Lsn(7)), millis(100_001));
        assert_eq!(watch.look(millis(200_000)), None);
        assert!(!watch.has_fallen_back());
    }
}
