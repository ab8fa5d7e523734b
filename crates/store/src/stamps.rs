//! The node's clock: gives out stamps, and knows which of them are not durable yet.
//!
//! A stamp is seen by others only with the batch that carries its entry, and every batch carries a
//! ceiling above the stamps in it; a promise stays below the ceiling that is durable. So no life
//! of the node stamps or promises what an earlier one may have used.

use std::collections::BTreeSet;
use std::time::Duration;

use isthmus_model::hlc::{Hlc, HlcClock, SkewTooLarge, Stamp};
use isthmus_model::ids::Origin;
use parking_lot::Mutex;

use crate::limits::CEILING_MARGIN;

struct Inner {
    clock: HlcClock,
    /// The first stamp of every write that is not durable yet.
    pending: BTreeSet<Hlc>,
    /// The bound on disk.
    ceiling: Hlc,
}

/// Gives out stamps.
pub(crate) struct Stamps {
    origin: Origin,
    skew_millis_max: i64,
    inner: Mutex<Inner>,
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

impl Inner {
    /// The ceiling that should be made durable, if the durable one is too near.
    ///
    /// The margin is counted from the wall clock. Where the clock runs ahead of that, as after a
    /// crash, it is next to nothing: else each crash of many would push the clock further.
    fn wanted_ceiling(&self, wall_millis: i64) -> Option<Hlc> {
        let margin = millis(CEILING_MARGIN);
        let last = self.clock.last();
        let near = last >= self.ceiling
            || Hlc::from_millis(wall_millis.saturating_add(margin / 2)) > self.ceiling;
        let ahead = Hlc::from_millis(last.millis() + 1).max(last.next());
        near.then(|| ahead.max(Hlc::from_millis(wall_millis.saturating_add(margin))))
    }
}

impl Stamps {
    /// Starts after the durable bound of an earlier life.
    pub(crate) fn new(origin: Origin, skew_max: Duration, ceiling: Hlc) -> Stamps {
        let clock = HlcClock::starting_after(ceiling);
        let inner = Inner { clock, pending: BTreeSet::new(), ceiling };
        Stamps { origin, skew_millis_max: millis(skew_max), inner: Mutex::new(inner) }
    }

    /// The first stamp of a write, which holds back promises until `end` is told of it.
    pub(crate) fn begin(&self, wall_millis: i64) -> Stamp {
        let mut inner = self.inner.lock();
        let hlc = inner.clock.next(wall_millis);
        inner.pending.insert(hlc);
        Stamp { hlc, origin: self.origin }
    }

    /// A further stamp of the same write.
    pub(crate) fn next(&self, wall_millis: i64) -> Stamp {
        Stamp { hlc: self.inner.lock().clock.next(wall_millis), origin: self.origin }
    }

    /// The writes that began with these stamps are durable and published, or were refused.
    pub(crate) fn end(&self, begun: &[Hlc]) {
        let mut inner = self.inner.lock();
        for hlc in begun {
            inner.pending.remove(hlc);
        }
    }

    /// Takes note of a received moment, unless it is too far ahead.
    pub(crate) fn observe(&self, seen: Hlc, wall_millis: i64) -> Result<(), SkewTooLarge> {
        self.inner.lock().clock.observe(seen, wall_millis, self.skew_millis_max)
    }

    /// This region may have given out all before a moment, though its disk does not know of it.
    /// What is further ahead than its clock can have been is a mistake of who says so.
    pub(crate) fn rise_to(&self, moment: Hlc, wall_millis: i64) {
        let ahead_max = millis(CEILING_MARGIN) + 2 * self.skew_millis_max;
        // Refused, nothing has changed.
        let _ = self.inner.lock().clock.observe(moment, wall_millis, ahead_max);
    }

    /// The moment below which every stamp is durable and none will be given any more, and whether
    /// a higher ceiling should be made durable soon.
    pub(crate) fn promise(&self, wall_millis: i64) -> (Hlc, bool) {
        let mut inner = self.inner.lock();
        let now = inner.clock.promise(wall_millis);
        let oldest = inner.pending.first().copied().unwrap_or(Hlc::MAX);
        let low = inner.wanted_ceiling(wall_millis).is_some();
        (now.min(oldest).min(inner.ceiling), low)
    }

    /// The ceiling that the next batch must carry, if the durable one is too near.
    pub(crate) fn next_ceiling(&self, wall_millis: i64) -> Option<Hlc> {
        self.inner.lock().wanted_ceiling(wall_millis)
    }

    /// The least ceiling that covers all that was given out, for a clean stop.
    pub(crate) fn last_ceiling(&self) -> Hlc {
        self.inner.lock().clock.last().next()
    }

    /// A ceiling is durable.
    pub(crate) fn set_ceiling(&self, ceiling: Hlc) {
        self.inner.lock().ceiling = ceiling;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promise_stays_below_pending_stamps_and_the_durable_ceiling() {
        let stamps = Stamps::new(Origin(1), Duration::from_millis(500), Hlc::MIN);
        let (promise, low) = stamps.promise(1_000);
        assert!(promise == Hlc::MIN && low);
        let ceiling = stamps.next_ceiling(1_000).unwrap();
        stamps.set_ceiling(ceiling);
        assert_eq!(stamps.promise(1_000), (Hlc::from_millis(1_000), false));
        let first = stamps.begin(1_100).hlc;
        let second = stamps.begin(1_200).hlc;
        assert_eq!(stamps.promise(1_300).0, first);
        stamps.end(&[first]);
        assert_eq!(stamps.promise(1_300).0, second);
        stamps.end(&[second]);
        assert_eq!(stamps.promise(1_300).0, Hlc::from_millis(1_300));
        assert!(stamps.begin(1_300).hlc > Hlc::from_millis(1_300));
    }

    #[test]
    fn many_crashes_do_not_push_the_clock_further_than_one() {
        let mut ceiling = Hlc::MIN;
        for _ in 0..100 {
            let stamps = Stamps::new(Origin(1), Duration::ZERO, ceiling);
            let stamp = stamps.begin(1_000).hlc;
            let wanted = stamps.next_ceiling(1_000);
            assert!(stamp > ceiling && wanted.unwrap_or(ceiling) > stamp);
            ceiling = wanted.unwrap_or(ceiling);
        }
        assert!(ceiling.millis() < 1_000 + millis(CEILING_MARGIN) + 200);
    }

    #[test]
    fn next_life_stamps_above_the_ceiling() {
        let stamps = Stamps::new(Origin(1), Duration::ZERO, Hlc::from_millis(5_000));
        assert!(stamps.begin(1_000).hlc > Hlc::from_millis(5_000));
    }
}
