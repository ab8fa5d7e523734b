//! When a region was last heard on its streams, and whether one waits for an answer.
//!
//! Noted for each frame and read now and then, so it takes no lock. Moments are microseconds of the
//! clock of leases; 0: never.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::node::lease_clock;

/// What streams have brought.
#[derive(Debug, Default)]
pub(crate) struct StreamTraffic {
    heard: AtomicU64,
    awaits: AtomicU64,
    /// The other end has spoken on a stream that it has dialled, and on which this region ships.
    is_pulled: AtomicBool,
}

impl StreamTraffic {
    /// A frame has arrived that says nothing of what is waited for.
    pub(crate) fn heard(&self) {
        self.heard.store(now_micros(), Ordering::Relaxed);
    }

    /// A frame has arrived from the end to which this region ships.
    pub(crate) fn answered(&self) {
        self.heard();
        self.owes_nothing();
    }

    /// Something was sent that is to be answered.
    pub(crate) fn asked(&self) {
        // The first one since the last answer counts.
        let _ = self.awaits.compare_exchange(0, now_micros(), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// No answer is waited for.
    pub(crate) fn owes_nothing(&self) {
        self.awaits.store(0, Ordering::Relaxed);
    }

    /// Whether the other end speaks on a stream that it has dialled.
    pub(crate) fn pulled(&self, is_pulled: bool) {
        self.is_pulled.store(is_pulled, Ordering::Relaxed);
    }

    /// When a frame last arrived.
    pub(crate) fn heard_at(&self) -> Option<Duration> {
        moment(&self.heard)
    }

    /// Since when an answer is owed. `is_open`: the other end has spoken on the stream that was
    /// dialled from here; `awaits`: whether what was sent waits for an answer. What was asked
    /// before a connection was replaced, and the greeting of the new one, is owed until something
    /// comes, as long as there is a link (`has_links`). Who speaks on a stream that it has dialled
    /// itself owes no greeting on one that cannot be dialled from here.
    pub(crate) fn owed_since(
        &self,
        is_open: bool,
        awaits: impl FnOnce() -> bool,
        has_links: impl FnOnce() -> bool,
    ) -> Option<Duration> {
        let since = moment(&self.awaits)?;
        let speaks = is_open || self.is_pulled.load(Ordering::Relaxed);
        let is_owed = if speaks { awaits() } else { has_links() };
        if !is_owed {
            self.owes_nothing();
        }
        is_owed.then_some(since)
    }
}

fn moment(micros: &AtomicU64) -> Option<Duration> {
    let micros = micros.load(Ordering::Relaxed);
    (micros > 0).then(|| Duration::from_micros(micros))
}

fn now_micros() -> u64 {
    u64::try_from(lease_clock().as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether an answer is owed on a stream that the other end has not spoken on.
    fn owed(traffic: &StreamTraffic) -> Option<Duration> {
        traffic.owed_since(false, || unreachable!("nothing is open"), || true)
    }

    #[test]
    fn an_answer_is_owed_across_connections_until_something_comes() {
        let traffic = StreamTraffic::default();
        assert_eq!(owed(&traffic), None, "nothing was asked");
        traffic.asked();
        let since = traffic.owed_since(true, || true, || true);
        assert!(since.is_some());
        // The connection is replaced, again and again; each greeting is a question, too.
        for _ in 0..3 {
            assert_eq!(owed(&traffic), since);
            let now = lease_clock();
            while lease_clock() == now {}
            traffic.asked();
        }
        assert_eq!(owed(&traffic), since, "the first question counts");
        traffic.answered();
        assert_eq!(owed(&traffic), None);
    }

    #[test]
    fn a_greeting_that_is_not_answered_is_owed_where_there_are_links() {
        let traffic = StreamTraffic::default();
        traffic.asked();
        assert!(owed(&traffic).is_some());
        assert_eq!(traffic.owed_since(false, || true, || false), None, "nobody waits for it");
        assert_eq!(owed(&traffic), None, "and it is forgotten");
        traffic.asked();
        assert_eq!(traffic.owed_since(true, || false, || true), None, "it was answered");
    }

    #[test]
    fn who_can_only_dial_and_does_owes_no_greeting() {
        let traffic = StreamTraffic::default();
        traffic.pulled(true);
        traffic.asked();
        assert_eq!(traffic.owed_since(false, || false, || true), None);
        traffic.asked();
        assert!(traffic.owed_since(false, || true, || true).is_some(), "what was sent is owed");
        traffic.pulled(false);
        assert!(owed(&traffic).is_some(), "it dials no more");
    }
}
