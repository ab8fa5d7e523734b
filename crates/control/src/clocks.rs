//! Whether this region's clock agrees with those of the others.
//!
//! A region whose clock is off would win or lose against others by that alone, and what it writes
//! ahead of them is held back there. So it refuses writes until its clock is right. Which clock is
//! wrong no two can tell: a region is held to be wrong when more than half of the others that it
//! has looked at lately disagree with it; of two, both stop. Pure: looks are handed in.

use std::collections::BTreeMap;
use std::time::Duration;

/// What an older look says is not believed any more.
const FRESH: Duration = Duration::from_secs(30);

/// One look at another region's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Its clock less this region's, milliseconds.
    pub offset_millis: i64,
    /// How far that may be wrong, milliseconds: half of what asking took.
    pub doubt_millis: i64,
    /// When, on the monotonic clock.
    pub at: Duration,
}

/// What a new judgement says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The clock is off, and how.
    Off(String),
    /// It is right again.
    Right,
}

/// The newest look at each other region's clock.
#[derive(Debug)]
pub struct Clocks {
    skew_millis_max: i64,
    looks: BTreeMap<String, Look>,
    off: Option<String>,
}

impl Clocks {
    /// Nothing looked at yet, which is believed to be right.
    pub fn new(skew_millis_max: i64) -> Clocks {
        Clocks { skew_millis_max, looks: BTreeMap::new(), off: None }
    }

    /// Why writes are refused, if they are.
    pub fn off(&self) -> Option<&str> {
        self.off.as_deref()
    }

    /// Takes note of a look.
    pub fn look(&mut self, region: &str, look: Look) {
        self.looks.insert(region.to_owned(), look);
    }

    /// Judges by what was seen lately; `None`: as before. Where nothing was, it stays so.
    pub fn judge(&mut self, now: Duration) -> Option<Verdict> {
        self.looks.retain(|_, look| now.saturating_sub(look.at) <= FRESH);
        if self.looks.is_empty() {
            return None;
        }
        let disagreeing: Vec<_> =
            self.looks.iter().filter(|(_, look)| self.differs(look)).collect();
        let is_off = disagreeing.len() * 2 > self.looks.len();
        let reason = is_off.then(|| {
            let one = |(region, look): &(&String, &Look)| {
                let word = if look.offset_millis > 0 { "behind" } else { "ahead of" };
                format!("{} ms {word} that of {region}", look.offset_millis.abs())
            };
            let all: Vec<String> = disagreeing.iter().map(one).collect();
            format!(
                "the clock of this region is {}, {} ms are allowed",
                all.join(" and "),
                self.skew_millis_max
            )
        });
        let was_off = self.off.is_some();
        self.off = reason;
        match (was_off, &self.off) {
            (false, Some(reason)) => Some(Verdict::Off(reason.clone())),
            (true, None) => Some(Verdict::Right),
            (true, Some(_)) | (false, None) => None,
        }
    }

    /// Beyond doubt; once off, it must agree however the look is taken.
    fn differs(&self, look: &Look) -> bool {
        let least = match self.off {
            None => look.offset_millis.abs() - look.doubt_millis,
            Some(_) => look.offset_millis.abs(),
        };
        least > self.skew_millis_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clocks(looks: &[(&str, i64, i64)]) -> Clocks {
        let mut clocks = Clocks::new(500);
        for (region, offset_millis, doubt_millis) in looks {
            let at = Duration::from_secs(1);
            let (offset_millis, doubt_millis) = (*offset_millis, *doubt_millis);
            clocks.look(region, Look { offset_millis, doubt_millis, at });
        }
        clocks
    }

    #[test]
    fn the_one_that_most_disagree_with_is_off() {
        let now = Duration::from_secs(2);
        let mut own = clocks(&[("r2", 2_000, 1), ("r3", 2_010, 1)]);
        let Some(Verdict::Off(reason)) = own.judge(now) else { panic!("it is off") };
        assert!(reason.contains("2000 ms behind that of r2"), "{reason}");
        assert_eq!(own.judge(now), None, "told once");
        assert_eq!(clocks(&[("r2", -2_000, 1), ("r3", 5, 1)]).judge(now), None);
        assert!(clocks(&[("r2", -2_000, 1)]).judge(now).is_some(), "of two, both");
    }

    #[test]
    fn a_slow_answer_is_not_a_wrong_clock_and_a_right_one_is_told() {
        let now = Duration::from_secs(2);
        assert_eq!(clocks(&[("r2", 2_000, 1_600)]).judge(now), None);
        let mut own = clocks(&[("r2", 2_000, 1)]);
        assert!(own.judge(now).is_some() && own.off().is_some());
        assert_eq!(own.judge(now + FRESH * 2), None, "nobody to ask: as before");
        assert!(own.off().is_some());
        own.look("r2", Look { offset_millis: 20, doubt_millis: 3, at: now });
        assert_eq!(own.judge(now), Some(Verdict::Right));
        assert_eq!(own.off(), None);
    }
}
