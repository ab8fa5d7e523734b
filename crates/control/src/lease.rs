//! A region's own lease, and when those of the others have surely run out.
//!
//! A region acknowledges a write only while its lease is valid: from a moment before the renewal
//! was sent, for as long as that said. Another region counts from the moment at which it applied
//! the renewal, which is later, and waits an eighth longer and 50 ms more, since two clocks do not
//! run alike. So nobody takes over from a region that may still acknowledge.
//!
//! Pure: moments are handed in. They are of a monotonic clock that goes on while the machine
//! sleeps; those of two regions are never compared.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// How long a lease is, unless set otherwise.
pub const LEASE: Duration = Duration::from_secs(2);
/// What is allowed beyond what clocks differ by in their rates.
const MARGIN: Duration = Duration::from_millis(50);
/// An eighth of a lease is allowed for the rates of two clocks.
const RATE_SHARE: u32 = 8;
/// Renewals of which an answer is still taken.
const SENT_MAX: usize = 8;

/// A renewal to propose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// Its number in this run.
    pub number: u64,
    /// The newest one that is known to be accepted.
    pub acked: u64,
}

/// This region's own lease, in this run of its process.
#[derive(Debug)]
pub struct Lease {
    length: Duration,
    /// Renewals without an answer and when each was made, the newest last.
    sent: VecDeque<(u64, Duration)>,
    newest: u64,
    last_made: Option<Duration>,
    acked: u64,
    valid_until: Option<Duration>,
}

impl Lease {
    /// None yet.
    pub fn new(length: Duration) -> Lease {
        Lease {
            length,
            sent: VecDeque::new(),
            newest: 0,
            last_made: None,
            acked: 0,
            valid_until: None,
        }
    }

    /// How long it is.
    pub fn length(&self) -> Duration {
        self.length
    }

    /// The renewal that is due, if one is; it counts as made now and is to be sent at once. None is
    /// while the own disk is not healthy: the region could not make a write durable.
    pub fn next_renewal(&mut self, now: Duration, is_healthy: bool) -> Option<Renewal> {
        let since = self.last_made.map(|made| now.saturating_sub(made));
        let wait = match self.sent.back() {
            Some((number, _)) if *number == self.newest => self.length / 2,
            _ => self.length / 5,
        };
        if !is_healthy || since.is_some_and(|since| since < wait) {
            return None;
        }
        self.newest += 1;
        self.last_made = Some(now);
        self.sent.push_back((self.newest, now));
        if self.sent.len() > SENT_MAX {
            self.sent.pop_front();
        }
        Some(Renewal { number: self.newest, acked: self.acked })
    }

    /// The renewal was applied and accepted, or refused, or is known not to be applied ever. An
    /// answer that comes twice or late does no harm.
    pub fn answered(&mut self, number: u64, is_accepted: bool) {
        let Some(place) = self.sent.iter().position(|(sent, _)| *sent == number) else { return };
        let Some((_, made)) = self.sent.remove(place) else { return };
        if is_accepted {
            self.acked = self.acked.max(number);
            self.valid_until = self.valid_until.max(Some(made + self.length));
        }
    }

    /// The region is suspended: whoever takes over waits for this lease, and it is not used.
    pub fn give_up(&mut self) {
        self.sent.clear();
        self.valid_until = None;
    }

    /// Until when it is valid, if it ever was.
    pub fn valid_until(&self) -> Option<Duration> {
        self.valid_until
    }

    /// Whether a write may be acknowledged now.
    pub fn is_valid(&self, now: Duration) -> bool {
        self.valid_until.is_some_and(|until| now < until)
    }
}

/// What this process has seen of the leases of others.
#[derive(Debug)]
pub struct OthersLeases {
    started: Duration,
    seen: BTreeMap<String, Seen>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    run: u64,
    renewal: u64,
    length: Duration,
    at: Duration,
}

impl OthersLeases {
    /// Nothing seen yet by a process that was started then.
    pub fn new(started: Duration) -> OthersLeases {
        OthersLeases { started, seen: BTreeMap::new() }
    }

    /// An accepted renewal of a region was applied here, or came with a snapshot.
    pub fn saw(&mut self, region: &str, run: u64, renewal: u64, length: Duration, now: Duration) {
        let is_old = |seen: &Seen| (seen.run, seen.renewal) >= (run, renewal);
        if !self.seen.get(region).is_some_and(is_old) {
            self.seen.insert(region.to_owned(), Seen { run, renewal, length, at: now });
        }
    }

    /// A region is no longer known.
    pub fn forget(&mut self, region: &str) {
        self.seen.remove(region);
    }

    /// When the lease of a region that may not renew any more has surely run out. It is asked only
    /// after the suspension was applied here. What a process before this one has seen of it may
    /// have been applied until this one was started.
    pub fn surely_over_at(&self, region: &str) -> Duration {
        let longest = Duration::from_millis(*crate::agreed::LEASE_MILLIS.end());
        let (from, length) = match self.seen.get(region) {
            Some(seen) => (seen.at, seen.length),
            None => (self.started, longest),
        };
        from + length + length / RATE_SHARE + MARGIN
    }

    /// Whether it has by now.
    pub fn is_surely_over(&self, region: &str, now: Duration) -> bool {
        now >= self.surely_over_at(region)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_lease_counts_from_before_its_renewal_was_sent() {
        let mut lease = Lease::new(LEASE);
        assert!(!lease.is_valid(Duration::ZERO));
        let renewal = lease.next_renewal(millis(100), true).unwrap();
        assert_eq!(renewal, Renewal { number: 1, acked: 0 });
        assert!(!lease.is_valid(millis(150)), "not before it is accepted");
        lease.answered(1, true);
        assert!(lease.is_valid(millis(2_099)) && !lease.is_valid(millis(2_100)));
        assert_eq!(lease.next_renewal(millis(499), true), None);
        let next = lease.next_renewal(millis(500), true);
        assert_eq!(next, Some(Renewal { number: 2, acked: 1 }));
        lease.answered(2, false);
        assert_eq!(lease.valid_until(), Some(millis(2_100)));
        lease.give_up();
        assert!(!lease.is_valid(millis(600)));
    }

    #[test]
    fn one_renewal_is_under_way_and_an_unhealthy_disk_makes_none() {
        let mut lease = Lease::new(LEASE);
        assert!(lease.next_renewal(millis(0), true).is_some());
        assert_eq!(lease.next_renewal(millis(999), true), None);
        assert_eq!(lease.next_renewal(millis(1_000), false), None);
        assert_eq!(lease.next_renewal(millis(1_000), true).map(|next| next.number), Some(2));
        lease.answered(1, true);
        assert_eq!(lease.valid_until(), Some(LEASE), "a late answer to the first one counts");
        assert_eq!(lease.next_renewal(millis(1_500), true), None, "the second is under way");
        lease.answered(2, true);
        lease.answered(1, true);
        assert_eq!(lease.valid_until(), Some(millis(3_000)));
        assert_eq!(lease.next_renewal(millis(1_500), true), Some(Renewal { number: 3, acked: 2 }));
    }

    #[test]
    fn another_lease_is_over_an_eighth_and_a_little_later() {
        let mut leases = OthersLeases::new(millis(10));
        leases.saw("r1", 1, 5, LEASE, millis(1_000));
        leases.saw("r1", 1, 4, LEASE, millis(3_000));
        leases.saw("r1", 1, 5, LEASE, millis(3_000));
        assert_eq!(leases.surely_over_at("r1"), millis(3_300));
        assert!(!leases.is_surely_over("r1", millis(3_299)));
        assert!(leases.is_surely_over("r1", millis(3_300)));
        leases.saw("r1", 2, 1, LEASE, millis(3_100));
        assert_eq!(leases.surely_over_at("r1"), millis(5_400), "a new run counts anew");
        assert!(!leases.is_surely_over("r2", millis(60_000)), "not seen by this process");
    }

    proptest! {
        /// Two clocks of which one runs up to a tenth faster, answers and logs that come late.
        #[test]
        fn nobody_takes_over_while_the_old_lease_is_valid(
            steps in proptest::collection::vec((0..600_u64, 0..1_500_u64, any::<bool>()), 1..40),
            rate in 900..1_100_u64,
        ) {
            let mut lease = Lease::new(LEASE);
            let mut others = OthersLeases::new(Duration::ZERO);
            let other_clock = |own: Duration| own * u32::try_from(rate).unwrap() / 1_000;
            let mut now = Duration::ZERO;
            for (wait, on_the_way, is_answered) in steps {
                now += millis(wait);
                let Some(renewal) = lease.next_renewal(now, true) else { continue };
                let applied = other_clock(now + millis(on_the_way));
                others.saw("r1", 1, renewal.number, LEASE, applied);
                if is_answered {
                    lease.answered(renewal.number, true);
                }
                if let Some(until) = lease.valid_until() {
                    prop_assert!(others.surely_over_at("r1") >= other_clock(until));
                }
            }
        }
    }
}
