//! The hybrid logical clock, which orders entries between regions.
//!
//! 48 bits of milliseconds and 16 of counter. Physical time comes in as an argument, so that
//! this file reads no clock. Source: Kulkarni et al., "Logical Physical Clocks", 2014.

use std::fmt;
use std::str::FromStr;

use crate::ids::{Origin, Timestamp};

/// A moment of the hybrid logical clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hlc(pub u64);

impl Hlc {
    /// Before everything.
    pub const MIN: Hlc = Hlc(0);
    /// After everything.
    pub const MAX: Hlc = Hlc(u64::MAX);

    /// The first moment of a millisecond. Times before 1970 count as 1970.
    pub fn from_millis(millis: i64) -> Hlc {
        Hlc((millis.max(0) as u64) << 16)
    }

    /// Milliseconds since the Unix epoch.
    pub fn millis(self) -> i64 {
        (self.0 >> 16) as i64
    }

    /// The timestamp of a cell written at this moment without one of its own.
    pub fn timestamp(self) -> Timestamp {
        Timestamp(self.millis())
    }

    /// The smallest moment after this one.
    pub fn next(self) -> Hlc {
        Hlc(self.0.saturating_add(1))
    }
}

impl fmt::Display for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.millis(), self.0 & 0xffff)
    }
}

/// Text that names no moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a moment like 1764547200000.0")]
pub struct NotAMoment;

/// Reads what `Display` writes.
impl FromStr for Hlc {
    type Err = NotAMoment;

    fn from_str(text: &str) -> Result<Hlc, NotAMoment> {
        let (millis, counter) = text.split_once('.').ok_or(NotAMoment)?;
        let number = |part: &str, bits: u32| {
            let is_plain = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            let number = is_plain.then(|| part.parse::<u64>().ok()).flatten();
            number.filter(|number| *number < 1 << bits).ok_or(NotAMoment)
        };
        Ok(Hlc(number(millis, 48)? << 16 | number(counter, 16)?))
    }
}

/// What orders two changes of one register: time first, then the region's number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// When.
    pub hlc: Hlc,
    /// Where it was first accepted.
    pub origin: Origin,
}

/// A received moment lies further ahead of the local clock than the allowed skew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("clock of the origin is {ahead_millis} ms ahead, {allowed_millis} ms are allowed")]
pub struct SkewTooLarge {
    /// How far ahead.
    pub ahead_millis: i64,
    /// How far is allowed.
    pub allowed_millis: i64,
}

/// Gives out strictly increasing moments, never before what it has observed.
#[derive(Debug, Default)]
pub struct HlcClock {
    last: Hlc,
}

impl HlcClock {
    /// Starts after `ceiling`, the durable bound of an earlier life.
    pub fn starting_after(ceiling: Hlc) -> HlcClock {
        HlcClock { last: ceiling }
    }

    /// The next moment, given the wall clock.
    pub fn next(&mut self, wall_millis: i64) -> Hlc {
        self.last = self.last.next().max(Hlc::from_millis(wall_millis));
        self.last
    }

    /// The moment below which nothing more will be given out, without using it up.
    pub fn promise(&mut self, wall_millis: i64) -> Hlc {
        self.last = self.last.max(Hlc::from_millis(wall_millis));
        self.last
    }

    /// The last moment given out or observed.
    pub fn last(&self) -> Hlc {
        self.last
    }

    /// Takes note of a moment of another region, unless it is too far ahead.
    pub fn observe(
        &mut self,
        seen: Hlc,
        wall_millis: i64,
        skew_millis_max: i64,
    ) -> Result<(), SkewTooLarge> {
        let ahead_millis = seen.millis() - wall_millis;
        // What this clock itself has already given out cannot push it.
        if seen > self.last && ahead_millis > skew_millis_max {
            return Err(SkewTooLarge { ahead_millis, allowed_millis: skew_millis_max });
        }
        self.last = self.last.max(seen);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_grow_when_the_wall_clock_steps_back() {
        let mut clock = HlcClock::default();
        let first = clock.next(1_000);
        let second = clock.next(500);
        assert!(second > first);
        assert_eq!(second.millis(), 1_000);
        assert_eq!(clock.next(2_000), Hlc::from_millis(2_000));
    }

    #[test]
    fn far_future_does_not_touch_the_clock() {
        let mut clock = HlcClock::default();
        clock.next(1_000);
        assert!(clock.observe(Hlc::from_millis(1_501), 1_000, 500).is_err());
        assert_eq!(clock.last().millis(), 1_000);
        assert!(clock.observe(Hlc::from_millis(1_500), 1_000, 500).is_ok());
        assert!(clock.next(1_000) > Hlc::from_millis(1_500));
    }
}
