//! When a region was last heard on its streams, and whether one waits for an answer.
//!
//! Noted for each frame and read now and then, so it takes no lock. Moments are microseconds of the
//! clock of leases; 0: never.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::node::lease_clock;

/// What streams have brought.
#[derive(Debug, Default)]
pub(crate) struct StreamTraffic {
    heard: AtomicU64,
    awaits: AtomicU64,
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

    /// When a frame last arrived.
    pub(crate) fn heard_at(&self) -> Option<Duration> {
        moment(&self.heard)
    }

    /// Since when an answer is waited for.
    pub(crate) fn awaits_since(&self) -> Option<Duration> {
        moment(&self.awaits)
    }
}

fn moment(micros: &AtomicU64) -> Option<Duration> {
    let micros = micros.load(Ordering::Relaxed);
    (micros > 0).then(|| Duration::from_micros(micros))
}

fn now_micros() -> u64 {
    u64::try_from(lease_clock().as_micros()).unwrap_or(u64::MAX)
}
