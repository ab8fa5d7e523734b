//! How fast rows are put into new partitions: no faster than a part of a processor, more slowly
//! where that is felt by those who write, and not at all while much waits to be durable.

use std::collections::VecDeque;
use std::time::Duration;

use isthmus_replication::throttle::{Brake, Commits, CopyWork, Courtesy, Throttle};
use isthmus_store::Pending;

use crate::api_error::ApiError;

/// Batches of seeds that wait to be durable at once.
const PUTS_MAX: usize = 8;
/// So long it rests while much waits to be durable, before it looks again.
const BUSY_REST: Duration = Duration::from_millis(20);

/// Tells when a seeding rests. Moments are of the monotonic clock.
pub(super) struct Pace {
    brake: Brake,
    courtesy: Courtesy,
}

impl Pace {
    pub(super) fn new(now: Duration) -> Pace {
        let brake = Brake::new(Throttle::default(), now);
        Pace { brake, courtesy: Courtesy::default() }
    }

    /// How long it rests before the next piece; `None`: not at all. `is_busy`: much waits.
    pub(super) fn rest(&self, now: Duration, is_busy: bool) -> Option<Duration> {
        let until = self.brake.copy_due(now).max(self.courtesy.due(now));
        let rest = until.map(|until| until.saturating_sub(now)).filter(|rest| !rest.is_zero());
        rest.or(is_busy.then_some(BUSY_REST))
    }

    /// Takes note of a piece that was begun then, and of the commits by now.
    pub(super) fn worked(&mut self, began: Duration, commits: Commits, now: Duration) {
        self.courtesy.copied(commits, now);
        // It is like finding out which rows a replica lacks, and is waited for like that.
        let took = now.saturating_sub(began);
        self.brake.copied(CopyWork::Compares, took, self.courtesy.slower(), now);
    }
}

/// Batches that were put and are not known to be durable.
#[derive(Default)]
pub(super) struct Puts(VecDeque<Pending<()>>);

impl Puts {
    /// One more; waits where there are too many.
    pub(super) async fn add(&mut self, put: Pending<()>) -> Result<(), ApiError> {
        self.0.push_back(put);
        while self.0.len() > PUTS_MAX
            && let Some(first) = self.0.pop_front()
        {
            first.await?;
        }
        Ok(())
    }

    /// Waits for all.
    pub(super) async fn finish(self) -> Result<(), ApiError> {
        for put in self.0 {
            put.await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seeding_rests_by_its_work_and_while_much_waits() {
        let (ms, start) = (Duration::from_millis, Duration::from_secs(7));
        let mut pace = Pace::new(start);
        assert_eq!(pace.rest(start, false), None);
        assert_eq!(pace.rest(start, true), Some(BUSY_REST), "it waits and does not begin anew");
        pace.worked(start, Commits::default(), start + ms(30));
        assert_eq!(pace.rest(start + ms(30), false), Some(ms(10)));
        assert_eq!(pace.rest(start + ms(40), false), None);
    }
}
