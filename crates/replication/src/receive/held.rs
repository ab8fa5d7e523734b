//! What comes on an open link, and waits where a schema that it names has not come yet.
//!
//! Only the base makes schemas. Where several regions write, and all the more where they pass on,
//! an entry can be here before the schema that it was made under, which goes another way. What
//! comes on such a link waits, in order and bounded, until that schema is here: so it need not be
//! sent once more. If it stays away the origin is told, and opens the link anew.

use std::collections::VecDeque;
use std::time::Duration;

use isthmus_model::ids::{Origin, PartitionId, SchemaNumber};
use isthmus_store::StoreError;

use super::Inbound;
use crate::error::ReplicationError;
use crate::frame::Body;
use crate::limits::{HELD_MAX, RECEIVE_BYTES_MAX, RECEIVE_FRAMES_MAX};
use crate::streams::hold;

/// Frames of a link that wait for a schema.
pub(super) struct Held {
    /// Of this opening of the link; what belongs to an earlier one belongs to nobody.
    opening: u64,
    needs: SchemaNumber,
    since: Duration,
    frames: VecDeque<Body>,
    bytes: usize,
}

impl Held {
    fn new(opening: u64, since: Duration, (needs, first): (SchemaNumber, Body)) -> Held {
        let bytes = first.encoded_len();
        Held { opening, needs, since, frames: VecDeque::from([first]), bytes }
    }

    fn push(&mut self, body: Body) {
        self.bytes += body.encoded_len();
        self.frames.push_back(body);
    }
}

impl Inbound {
    /// Takes in a frame of a link, or lets it wait behind others.
    pub(super) fn on_link_frame(&mut self, origin: Origin, partition: PartitionId, body: Body) {
        // Frames on their way when a link was refused or closed belong to nobody.
        let Some(opening) = self.links.get(&partition).map(|link| link.opening) else { return };
        match self.held.get_mut(&partition).filter(|held| held.opening == opening) {
            Some(held) => held.push(body),
            None => {
                let Some(waits) = self.take_in(origin, partition, body) else { return };
                let now = self.shared.clock.monotonic();
                self.held.insert(partition, Held::new(opening, now, waits));
            }
        }
        let bytes: usize = self.held.values().map(|held| held.bytes).sum();
        let frames: usize = self.held.values().map(|held| held.frames.len()).sum();
        if bytes > RECEIVE_BYTES_MAX || frames > RECEIVE_FRAMES_MAX {
            self.give_up(partition);
        }
    }

    /// Does what a frame of an open link asks. A failure closes the link and tells the origin; if
    /// all that is missing is a schema, the frame is given back, and which one.
    fn take_in(
        &mut self,
        origin: Origin,
        partition: PartitionId,
        body: Body,
    ) -> Option<(SchemaNumber, Body)> {
        if !self.links.contains_key(&partition) {
            return None;
        }
        let taken = match body {
            Body::Parcel(parcel) => match self.on_parcel(origin, &parcel) {
                Err(ReplicationError::Store(StoreError::SchemaMissing { need, .. })) => {
                    return Some((need, Body::Parcel(parcel)));
                }
                taken => taken,
            },
            Body::Follow(follow) => {
                self.on_follow(origin, &follow);
                Ok(())
            }
            Body::Dictionary(told) => self.dictionaries.take(&told),
            Body::CopyBegin(begin) => self.on_copy_begin(origin, begin),
            Body::CopyOffer(offer) => self.on_copy_offer(offer),
            Body::CopyChunk(chunk) => self.on_copy_chunk(origin, chunk),
            _ => Ok(()),
        };
        if let Err(error) = taken {
            self.on_failure(partition, &error);
        }
        None
    }

    /// Whether something of a link waits, so that not all that was sent is taken in.
    pub(super) fn holds(&self, partition: PartitionId) -> bool {
        self.held.contains_key(&partition)
    }

    /// Takes in what waited for a schema that is here by now.
    pub(super) fn take_held(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let Some((origin, newest)) = self.origin.clone() else { return };
        let Some(claims) = hold(&newest, self.direction, self.number) else { return };
        self.end_stale_links(origin);
        let partitions: Vec<PartitionId> = self.held.keys().copied().collect();
        for partition in partitions {
            self.end_if_opened_elsewhere(partition, &claims);
            self.take_held_of(origin, partition);
        }
    }

    fn take_held_of(&mut self, origin: Origin, partition: PartitionId) {
        let Some(mut held) = self.held.remove(&partition) else { return };
        let link = self.links.get(&partition).filter(|link| link.opening == held.opening);
        let Some(have) = link.map(|link| link.table.schema().number) else { return };
        let now = self.shared.clock.monotonic();
        if have < held.needs {
            let is_late = now >= held.since + HELD_MAX;
            self.held.insert(partition, held);
            if is_late {
                self.give_up(partition);
            }
            return;
        }
        while let Some(body) = held.frames.pop_front() {
            held.bytes -= body.encoded_len();
            if let Some((needs, body)) = self.take_in(origin, partition, body) {
                // It waits for a later one.
                held.bytes += body.encoded_len();
                held.frames.push_front(body);
                (held.needs, held.since) = (needs, now);
                self.held.insert(partition, held);
                return;
            }
        }
    }

    /// The origin is to send again what waits.
    fn give_up(&mut self, partition: PartitionId) {
        let Some(held) = self.held.remove(&partition) else { return };
        let link = self.links.get(&partition).filter(|link| link.opening == held.opening);
        if let Some(have) = link.map(|link| link.table.schema().number) {
            let missing = StoreError::SchemaMissing { need: held.needs, have };
            self.on_failure(partition, &missing.into());
        }
    }
}

#[cfg(test)]
mod tests;
