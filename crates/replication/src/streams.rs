//! Which stream from a region counts, and which stream a link belongs to.
//!
//! A region may send on two streams: one that it dials and one that this region dials. Of each
//! kind the newest that was accepted counts. A stream that broke may still have frames here that
//! were not looked at when there is another one. The rows of such a late chunk are older than what
//! the new stream may have brought since, so nothing of an older stream is taken once a newer one
//! has named itself; and nothing of a link once it was opened on the other stream.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use isthmus_model::ids::{Origin, PartitionId};
use parking_lot::{Mutex, MutexGuard};

use crate::terms::Direction;

/// The streams from one region. Held while a frame is taken in, so that a newer stream begins
/// after it.
pub(crate) type Newest = Arc<Mutex<Claims>>;

/// What the streams from one region have claimed.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    newest: BTreeMap<Direction, u64>,
    /// The stream on which a link was opened last.
    links: BTreeMap<PartitionId, u64>,
}

impl Claims {
    /// A link is opened on this stream.
    pub(crate) fn open(&mut self, partition: PartitionId, number: u64) {
        self.links.insert(partition, number);
    }

    /// Whether it was opened on this stream and on no other since.
    pub(crate) fn has(&self, partition: PartitionId, number: u64) -> bool {
        self.links.get(&partition) == Some(&number)
    }
}

/// The newest streams from each region. Shared by all streams of a node.
#[derive(Debug, Default)]
pub struct Streams {
    accepted: AtomicU64,
    newest: Mutex<BTreeMap<Origin, Newest>>,
}

impl Streams {
    /// Numbers a stream that was accepted or dialled.
    pub(crate) fn accept(&self) -> u64 {
        self.accepted.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The stream has named its region and is the newest of its kind from there; `None`: a newer
    /// one is.
    pub(crate) fn claim(
        &self,
        origin: Origin,
        direction: Direction,
        number: u64,
    ) -> Option<Newest> {
        let newest = self.newest.lock().entry(origin).or_default().clone();
        let mut claims = newest.lock();
        let known = claims.newest.entry(direction).or_default();
        let is_newest = *known <= number;
        if is_newest {
            *known = number;
        }
        drop(claims);
        is_newest.then_some(newest)
    }
}

/// Keeps newer streams from beginning, if the stream of this number is the newest of its kind.
pub(crate) fn hold(
    newest: &Newest,
    direction: Direction,
    number: u64,
) -> Option<MutexGuard<'_, Claims>> {
    let claims = newest.lock();
    (claims.newest.get(&direction) == Some(&number)).then_some(claims)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUSH: Direction = Direction::Push;

    #[test]
    fn only_the_newest_stream_of_a_region_counts() {
        let streams = Streams::default();
        let (first, second, third) = (streams.accept(), streams.accept(), streams.accept());
        let old = streams.claim(Origin(1), PUSH, first).unwrap();
        assert!(hold(&old, PUSH, first).is_some());
        let new = streams.claim(Origin(1), PUSH, third).unwrap();
        assert!(hold(&old, PUSH, first).is_none());
        assert!(hold(&new, PUSH, third).is_some());
        // It was accepted earlier and names itself late.
        assert!(streams.claim(Origin(1), PUSH, second).is_none());
        assert!(hold(&new, PUSH, third).is_some());
        assert!(streams.claim(Origin(2), PUSH, second).is_some());
    }

    #[test]
    fn a_link_belongs_to_the_stream_that_opened_it_last() {
        let streams = Streams::default();
        let (push, pull) = (streams.accept(), streams.accept());
        let claims = streams.claim(Origin(1), PUSH, push).unwrap();
        streams.claim(Origin(1), Direction::Pull, pull).unwrap();
        // Both count, each for its links.
        hold(&claims, PUSH, push).unwrap().open(PartitionId(7), push);
        assert!(hold(&claims, PUSH, push).unwrap().has(PartitionId(7), push));
        hold(&claims, Direction::Pull, pull).unwrap().open(PartitionId(7), pull);
        assert!(!hold(&claims, PUSH, push).unwrap().has(PartitionId(7), push));
        assert!(hold(&claims, Direction::Pull, pull).unwrap().has(PartitionId(7), pull));
    }
}
