//! The part of a link that copies: chunks, and ranges that are offered before they are sent.
//!
//! Ranges are offered ahead of what is sent and answered in order; chunks are sent of the range
//! that was offered first, once it is answered, and acknowledged in order. A copy that halts is
//! begun anew, from where the replica says.

use std::collections::VecDeque;

use bytes::Bytes;
use isthmus_model::ids::Lsn;

use super::{Action, Link, State};
use crate::frame::CopyProgress;
use crate::limits::OFFERS_AHEAD;

/// A copy that has begun, or is to begin.
#[derive(Debug)]
pub(super) struct Copy {
    pub(super) progress: CopyProgress,
    pub(super) began: bool,
    /// `None`: the last chunk was sent, or the last range offered.
    next_key: Option<Bytes>,
    /// Ranges are offered before they are sent.
    offers: bool,
    /// Offered and not sent to their ends.
    offered: VecDeque<OfferedRange>,
}

#[derive(Debug)]
struct OfferedRange {
    number: u64,
    /// Rows before it were sent.
    start: Bytes,
    end: Option<Bytes>,
    is_answered: bool,
}

impl Copy {
    /// One that is to begin, or to go on from here.
    pub(super) fn from(progress: CopyProgress) -> Copy {
        Copy { progress, began: false, next_key: None, offers: false, offered: VecDeque::new() }
    }

    /// One of which a snapshot was taken, with ranges that are offered before they are sent or not.
    pub(super) fn begun(progress: CopyProgress, offers: bool) -> Copy {
        let next_key = Some(progress.next_key.clone());
        Copy { began: true, next_key, offers, ..Copy::from(progress) }
    }

    /// Nothing that is under way counts any more.
    pub(super) fn halt(&mut self) {
        self.began = false;
        self.offered.clear();
    }

    /// The range from `next_key` on was offered; it ends before a key, or at the end.
    pub(super) fn offered_to(&mut self, number: u64, key: Option<Bytes>) {
        let start = std::mem::replace(&mut self.next_key, key).unwrap_or_default();
        let (end, is_answered) = (self.next_key.clone(), false);
        self.offered.push_back(OfferedRange { number, start, end, is_answered });
    }

    /// Rows before a key were sent; `None`: all.
    pub(super) fn sent_to(&mut self, key: Option<Bytes>) {
        let Some(range) = self.offered.front_mut() else {
            self.next_key = key;
            return;
        };
        match key {
            Some(key) if range.end.as_ref() != Some(&key) => range.start = key,
            Some(_) | None => drop(self.offered.pop_front()),
        }
    }
}

impl Link {
    pub(super) fn next_of_copy(&self, copy: &Copy) -> Option<Action> {
        if let Some(range) = copy.offered.front().filter(|range| range.is_answered) {
            let (offer, start, end) = (range.number, range.start.clone(), range.end.clone());
            return self.has_room().then_some(Action::SendWanted { offer, start, end });
        }
        let next_key = copy.next_key.clone()?;
        match copy.offers {
            // Chunks of all that is offered must find room, too.
            true if copy.offered.len() + self.in_flight.len() < self.offers_max() => {
                Some(Action::Offer(next_key))
            }
            true => None,
            false => self.has_room().then_some(Action::SendChunk(next_key)),
        }
    }

    pub(super) fn on_wanted(&mut self, number: u64) {
        // Answers on their way when the link began anew belong to nobody.
        let copying = self.state == State::Copying;
        let Some(copy) = self.copy.as_mut().filter(|copy| copying && copy.began) else { return };
        let Some(range) = copy.offered.iter_mut().find(|range| !range.is_answered) else {
            return self.stop(State::Broken, "the replica answers what was not offered");
        };
        if range.number != number {
            return self.stop(State::Broken, "the replica answers an offer out of order");
        }
        range.is_answered = true;
    }

    pub(super) fn on_chunk_acked(&mut self, number: u64) {
        let Some(front) = self.in_flight.front() else { return };
        if self.state != State::Copying || front.mark != number {
            return self.stop(State::Broken, "the replica acknowledges a chunk out of order");
        }
        let acked = self.pop();
        let Some(copy) = &mut self.copy else { return };
        match acked.and_then(|chunk| chunk.next_key) {
            Some(next_key) => copy.progress.next_key = next_key,
            None => {
                let first = Lsn(copy.progress.first_lsn);
                self.incomplete = true;
                self.follow_from(first);
            }
        }
    }

    /// A copy halts or goes on: the snapshot is given up meanwhile, and the log may not reach
    /// back to where it began.
    pub(super) fn reopen_copy(&mut self) {
        if matches!(self.state, State::Copying | State::Gap) {
            self.reopen("opening anew to go on with the copy");
        }
    }

    fn offers_max(&self) -> usize {
        self.window_parcels.min(OFFERS_AHEAD)
    }
}
