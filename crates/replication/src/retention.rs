//! How long change logs are kept for replicas that do not come: within a budget of bytes and time.
//!
//! The budget is the node's: its disk is what it protects. Where all logs together need more, the
//! largest are cut, to one common length, so that a busy table never costs a quiet one its place.
//! A replica that still needed what was cut stands in a gap and is healed by a copy. Pure.

/// How much of all logs is kept for replicas that need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Bytes of all logs of the node.
    pub keep_bytes: u64,
    /// Age of an entry.
    pub keep_millis: i64,
}

/// Shares of the budget at which people are warned.
pub const WARN_AT: [f64; 3] = [0.5, 0.8, 0.95];
/// A warning is given again when the share has fallen so far below its mark meanwhile.
const CALM: f64 = 0.05;

impl Retention {
    /// The length to which larger logs are cut, so that all of them fit; `u64::MAX` if they do.
    pub fn length_max(&self, sizes: impl Iterator<Item = u64>) -> u64 {
        let mut sizes: Vec<u64> = sizes.collect();
        sizes.sort_unstable();
        let mut left = self.keep_bytes;
        for (place, size) in sizes.iter().enumerate() {
            let others = (sizes.len() - place) as u64;
            let share = left / others;
            if *size > share {
                return share;
            }
            left -= size;
        }
        u64::MAX
    }

    /// Entries made before this moment are not kept.
    pub fn since_millis(&self, now_millis: i64) -> i64 {
        now_millis.saturating_sub(self.keep_millis)
    }

    /// The share of the budget that is used, by bytes or by age, whichever is more.
    pub fn used(&self, bytes: u64, oldest_millis: Option<i64>, now_millis: i64) -> f64 {
        let of_bytes = bytes as f64 / self.keep_bytes.max(1) as f64;
        let age = oldest_millis.map_or(0, |oldest| now_millis.saturating_sub(oldest).max(0));
        of_bytes.max(age as f64 / self.keep_millis.max(1) as f64)
    }
}

/// Remembers which warnings were given.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alarm {
    given: usize,
}

impl Alarm {
    /// The highest mark that is passed now, if one is.
    pub fn mark(&self) -> Option<f64> {
        self.given.checked_sub(1).and_then(|place| WARN_AT.get(place)).copied()
    }

    /// The highest mark that was passed since the last look, if one was.
    pub fn look(&mut self, used: f64) -> Option<f64> {
        let passed = WARN_AT.iter().filter(|mark| used >= **mark).count();
        let before = self.given;
        let calm = WARN_AT.iter().filter(|mark| used >= **mark - CALM).count();
        self.given = if passed > before { passed } else { before.min(calm) };
        (passed > before).then(|| WARN_AT[passed - 1])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn of(keep_bytes: u64) -> Retention {
        Retention { keep_bytes, keep_millis: 1000 }
    }

    #[test]
    fn largest_logs_are_cut_first() {
        assert_eq!(of(100).length_max([30, 30, 40].into_iter()), u64::MAX);
        assert_eq!(of(100).length_max([1, 2, 300].into_iter()), 97);
        assert_eq!(of(100).length_max([10, 200, 300].into_iter()), 45);
        assert_eq!(of(0).length_max([10].into_iter()), 0);
        assert_eq!(of(0).length_max([].into_iter()), u64::MAX);
    }

    #[test]
    fn use_is_by_bytes_or_by_age() {
        let retention = of(100);
        assert_eq!(retention.used(50, None, 0), 0.5);
        assert_eq!(retention.used(50, Some(100), 1000), 0.9);
        assert_eq!(retention.since_millis(5000), 4000);
    }

    #[test]
    fn each_warning_is_given_once_until_it_has_calmed_down() {
        let mut alarm = Alarm::default();
        let told: Vec<Option<f64>> = [0.1, 0.6, 0.7, 0.97, 0.93, 0.96, 0.2, 0.49, 0.5]
            .into_iter()
            .map(|used| alarm.look(used))
            .collect();
        let expected = [None, Some(0.5), None, Some(0.95), None, None, None, None, Some(0.5)];
        assert_eq!(told, expected);
        assert_eq!(alarm.mark(), Some(0.5));
        alarm.look(0.1);
        assert_eq!(alarm.mark(), None);
    }

    proptest! {
        #[test]
        fn logs_of_that_length_fit_and_use_the_budget(
            sizes in proptest::collection::vec(0u64..1000, 0..20), keep in 0u64..5000,
        ) {
            let length = of(keep).length_max(sizes.iter().copied());
            let kept: u64 = sizes.iter().map(|size| (*size).min(length)).sum();
            prop_assert!(kept <= keep || length == u64::MAX);
            if length == u64::MAX {
                prop_assert_eq!(kept, sizes.iter().sum::<u64>());
                prop_assert!(kept <= keep);
            } else {
                prop_assert!(keep - kept < sizes.len() as u64);
            }
        }
    }
}
