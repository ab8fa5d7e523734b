//! How many splits and merges were begun and what became of them, as the region counts that keeps
//! the record of the table, and how long writes were held for them, as the one counts that writes.
//!
//! Since this process serves; what is under way is read from the records.

use std::time::Duration;

use isthmus_control::distribution::Distribution;
use isthmus_control::distribution::name_of_partition;
use isthmus_control::distribution::reshape::{Phase, Reshape};
use isthmus_model::clock::Clock;
use isthmus_store::counters::{Counter, Durations};

use crate::node::Node;
use crate::status::{ReshapeCounts, ReshapeStatus};

/// What partitions become: a closed list.
pub(crate) const KINDS: [&str; 2] = ["split", "merge"];

/// The place of a reshape in that list.
fn kind_of(reshape: &Reshape) -> usize {
    usize::from(reshape.sources.len() > 1)
}

/// The counts, by kind where a kind is known.
#[derive(Debug, Default)]
pub(super) struct Counts {
    begun: [Counter; KINDS.len()],
    done: [Counter; KINDS.len()],
    given_up: [Counter; KINDS.len()],
    /// How often writes were held in vain.
    in_vain: Counter,
    /// How long writes were held, each time.
    held: Durations,
}

impl Counts {
    pub(super) fn begin(&self, reshape: &Reshape) {
        self.begun[kind_of(reshape)].one();
    }

    pub(super) fn done(&self, reshape: &Reshape) {
        self.done[kind_of(reshape)].one();
    }

    pub(super) fn give_up(&self, reshape: &Reshape) {
        self.given_up[kind_of(reshape)].one();
    }
}

/// While this is there, writes of partitions are held.
pub(super) struct Holding<'a> {
    counts: &'a Counts,
    clock: &'a dyn Clock,
    since: Duration,
    has_ended: bool,
}

impl<'a> Holding<'a> {
    pub(super) fn begin(counts: &'a Counts, clock: &'a dyn Clock) -> Holding<'a> {
        Holding { counts, clock, since: clock.monotonic(), has_ended: false }
    }

    /// Since when they are held.
    pub(super) fn since(&self) -> Duration {
        self.since
    }

    /// What they were held for is done; gives how long that took.
    pub(super) fn end(mut self) -> Duration {
        self.has_ended = true;
        self.clock.monotonic().saturating_sub(self.since)
    }
}

impl Drop for Holding<'_> {
    fn drop(&mut self) {
        self.counts.held.note(self.clock.monotonic().saturating_sub(self.since));
        if !self.has_ended {
            self.counts.in_vain.one();
        }
    }
}

/// What is told of splits and merges.
#[derive(Debug)]
pub(crate) struct ReshapeFigures {
    /// Of each kind: under way, of tables whose record is kept here.
    pub(crate) running: [u64; KINDS.len()],
    /// The same: begun, done and given up.
    pub(crate) counts: [[u64; 3]; KINDS.len()],
    /// How long writes were held: the classes and the sum.
    pub(crate) held: (Vec<u64>, Duration),
    /// How often in vain.
    pub(crate) in_vain: u64,
}

impl Node {
    /// What is counted of splits and merges here.
    pub(crate) fn reshape_figures(&self) -> ReshapeFigures {
        let counts = &self.distributions.counts;
        let mut running = [0; KINDS.len()];
        for record in self.distributions.all() {
            if let Some(reshape) = &record.reshape
                && record.base == self.config.region.name
            {
                running[kind_of(reshape)] += 1;
            }
        }
        let of = |kind: usize| {
            [counts.begun[kind].get(), counts.done[kind].get(), counts.given_up[kind].get()]
        };
        ReshapeFigures {
            running,
            counts: [of(0), of(1)],
            held: counts.held.get(),
            in_vain: counts.in_vain.get(),
        }
    }

    /// The same for the status; `None`: nothing was begun, and no writes were held.
    pub(in crate::node) fn reshape_counts(&self) -> Option<ReshapeCounts> {
        let ReshapeFigures { counts, held: (classes, held), in_vain, .. } = self.reshape_figures();
        let sum = |place: usize| counts.iter().map(|of_kind| of_kind[place]).sum::<u64>();
        let told = ReshapeCounts {
            begun: sum(0),
            done: sum(1),
            given_up: sum(2),
            holds: classes.iter().sum(),
            holds_in_vain: in_vain,
            held_ms: held.as_millis() as u64,
        };
        (told != ReshapeCounts::default()).then_some(told)
    }

    /// The splits and merges that are under way, as far as this region knows.
    pub(in crate::node) fn reshape_statuses(&self) -> Vec<ReshapeStatus> {
        let all = self.distributions.all();
        all.iter().filter_map(|record| self.reshape_status(record)).collect()
    }

    fn reshape_status(&self, record: &Distribution) -> Option<ReshapeStatus> {
        let reshape = record.reshape.as_ref()?;
        let filling = self.filling_of(&record.id);
        let name = name_of_partition(&record.name, reshape.id());
        let waits = filling.as_ref().and_then(|filling| filling.waits.clone());
        Some(ReshapeStatus {
            table: record.name.clone(),
            sources: reshape.sources.clone(),
            targets: reshape.targets.iter().map(|target| target.number).collect(),
            why: reshape.why.as_str().to_owned(),
            phase: match reshape.phase {
                Phase::Filling => "filling",
                Phase::Cancelling => "cancelling",
                Phase::Removing => "removing",
            }
            .to_owned(),
            begun_ms: reshape.begun_millis,
            doing: filling.as_ref().map(|filling| filling.doing.as_str().to_owned()),
            rows_done: filling.as_ref().map(|filling| filling.rows),
            rows_total: filling.as_ref().and_then(|filling| filling.rows_total),
            waits: waits.or_else(|| self.distributions.trouble.lock().get(&name).cloned()),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// Goes on when it is told to.
    #[derive(Default)]
    struct ByHand(AtomicU64);

    impl ByHand {
        fn advance(&self, millis: u64) {
            self.0.fetch_add(millis, Ordering::Relaxed);
        }
    }

    impl Clock for ByHand {
        fn wall_millis(&self) -> i64 {
            0
        }

        fn monotonic(&self) -> Duration {
            Duration::from_millis(self.0.load(Ordering::Relaxed))
        }
    }

    #[test]
    fn writes_that_are_held_are_counted_whether_it_helps_or_not() {
        let (counts, clock) = (Counts::default(), ByHand::default());
        let first = Holding::begin(&counts, &clock);
        clock.advance(30);
        assert_eq!(first.end(), Duration::from_millis(30));
        let second = Holding::begin(&counts, &clock);
        clock.advance(70);
        drop(second);
        let (classes, sum) = counts.held.get();
        assert_eq!((classes.iter().sum::<u64>(), sum), (2, Duration::from_millis(100)));
        assert_eq!(counts.in_vain.get(), 1);
    }
}
