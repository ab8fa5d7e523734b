//! Which stream from a region counts: the newest that was accepted.
//!
//! A stream that broke may still have frames here that were not looked at when the region has
//! dialled again. The rows of such a late chunk are older than what the new stream may have
//! brought since, so nothing of an older stream is taken once a newer one has named itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use isthmus_model::ids::Origin;
use parking_lot::{Mutex, MutexGuard};

/// The number of the newest stream from one region. Held while a frame is taken in, so that a
/// newer stream begins after it.
pub(crate) type Newest = Arc<Mutex<u64>>;

/// The newest stream from each region. Shared by all streams of a node.
#[derive(Debug, Default)]
pub struct Streams {
    accepted: AtomicU64,
    newest: Mutex<BTreeMap<Origin, Newest>>,
}

impl Streams {
    /// Numbers a stream that was accepted.
    pub(crate) fn accept(&self) -> u64 {
        self.accepted.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The stream has named its region and is the newest from there; `None`: a newer one is.
    pub(crate) fn claim(&self, origin: Origin, number: u64) -> Option<Newest> {
        let newest = self.newest.lock().entry(origin).or_default().clone();
        let mut known = newest.lock();
        let is_newest = *known <= number;
        if is_newest {
            *known = number;
        }
        drop(known);
        is_newest.then_some(newest)
    }
}

/// Keeps newer streams from beginning, if the stream of this number is the newest.
pub(crate) fn hold(newest: &Newest, number: u64) -> Option<MutexGuard<'_, u64>> {
    let known = newest.lock();
    (*known == number).then_some(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_stream_of_a_region_counts() {
        let streams = Streams::default();
        let (first, second, third) = (streams.accept(), streams.accept(), streams.accept());
        let old = streams.claim(Origin(1), first).unwrap();
        assert!(hold(&old, first).is_some());
        let new = streams.claim(Origin(1), third).unwrap();
        assert!(hold(&old, first).is_none());
        assert!(hold(&new, third).is_some());
        // It was accepted earlier and names itself late.
        assert!(streams.claim(Origin(1), second).is_none());
        assert!(hold(&new, third).is_some());
        assert!(streams.claim(Origin(2), second).is_some());
    }
}
