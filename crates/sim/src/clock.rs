//! Time as the world makes it.
//!
//! One monotonic time for all; each node's wall clock is that plus an offset of its own, which
//! only the world moves. Nothing here advances by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use isthmus_model::clock::Clock;

/// Wall time at the beginning, in milliseconds since the Unix epoch: a full minute.
const BEGINNING_MILLIS: i64 = 1_700_000_040_000;

/// The monotonic time of the whole world, in microseconds.
#[derive(Debug, Default)]
pub(crate) struct WorldTime(AtomicU64);

impl WorldTime {
    /// Moves on; never back.
    pub(crate) fn advance(&self, to_micros: u64) {
        self.0.fetch_max(to_micros, Ordering::Relaxed);
    }

    /// Now.
    pub(crate) fn micros(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The clocks of one node.
#[derive(Debug)]
pub(crate) struct NodeClock {
    time: Arc<WorldTime>,
    begins_millis: i64,
    offset_millis: AtomicI64,
}

impl NodeClock {
    /// Right at first, which is at a full minute.
    pub(crate) fn new(time: Arc<WorldTime>) -> NodeClock {
        NodeClock { time, begins_millis: 0, offset_millis: AtomicI64::new(0) }
    }

    /// The same, so long after a full minute.
    pub(crate) fn beginning_at(self, begins_millis: i64) -> NodeClock {
        NodeClock { begins_millis, ..self }
    }

    /// Sets how far the wall clock is from the right time.
    pub(crate) fn set_offset(&self, millis: i64) {
        self.offset_millis.store(millis, Ordering::Relaxed);
    }
}

impl Clock for NodeClock {
    fn wall_millis(&self) -> i64 {
        let since = (self.time.micros() / 1000) as i64;
        BEGINNING_MILLIS + self.begins_millis + since + self.offset_millis.load(Ordering::Relaxed)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_micros(self.time.micros())
    }
}
