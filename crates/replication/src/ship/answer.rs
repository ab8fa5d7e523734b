//! What the peer answers: where it stands, what is durable there, what it cannot take.
//!
//! A peer can be wrong: what it says is checked before anything is reckoned from it, and what was
//! on its way when a link went over to the other stream belongs to nobody.

use std::time::Duration;

use isthmus_model::hlc::Hlc;
use isthmus_model::ids::{Lsn, PartitionId};
use isthmus_store::Table;

use super::Outbound;
use crate::error::ReplicationError;
use crate::frame::{Body, CopyWant, FaultKind, Frame, Hello};
use crate::limits::{RETRY_AFTER, WHOLE_FOR};
use crate::link::{Event, Link, State};
use crate::terms::Direction;

impl Outbound {
    /// Takes in what the peer said on one of the streams.
    pub fn receive(&mut self, direction: Direction, frame: Frame) -> Result<(), ReplicationError> {
        if partition_of(&frame).is_some_and(|partition| !self.runs_on(partition, direction)) {
            // What was on its way when the link went over to the other stream belongs to nobody.
            return Ok(());
        }
        frame.body.iter().try_for_each(Body::check_bounds)?;
        match frame.body {
            Some(Body::Welcome(hello)) => self.on_welcome(direction, &hello),
            Some(Body::Opened(opened)) => {
                self.on_opened(direction, opened);
                Ok(())
            }
            Some(Body::Ack(ack)) => {
                self.count_acked(PartitionId(ack.partition), Lsn(ack.held));
                self.on_link(ack.partition, |_, link| link.step(Event::Acked(Lsn(ack.held))));
                self.tell_held(PartitionId(ack.partition));
                Ok(())
            }
            Some(Body::CopyWant(want)) => {
                self.on_want(want);
                Ok(())
            }
            Some(Body::CopyAck(ack)) => {
                let now = self.shared.clock.monotonic();
                if let Some(shipping) = self.links.get_mut(&PartitionId(ack.partition)) {
                    shipping.chunk_acked(ack.number, now);
                    let slower = shipping.slower(&self.courtesy);
                    shipping.brake.taken(Duration::from_micros(ack.took_micros), slower, now);
                }
                self.on_link(ack.partition, |_, link| link.step(Event::ChunkAcked(ack.number)));
                Ok(())
            }
            Some(Body::Fault(fault)) => {
                self.on_fault(PartitionId(fault.partition), fault.kind(), fault.reason.clone());
                Ok(())
            }
            Some(Body::Safe(safe)) => {
                let partition = PartitionId(safe.partition);
                self.shared.safe_times.reported(partition, self.peer, Hlc(safe.hlc));
                Ok(())
            }
            // A newer peer may say more than this program knows.
            None => Ok(()),
            Some(_) => Err(ReplicationError::Protocol("a replica sent an origin's frame")),
        }
    }

    fn on_welcome(&mut self, direction: Direction, hello: &Hello) -> Result<(), ReplicationError> {
        if hello.region != u32::from(self.peer.0) {
            return Err(ReplicationError::Protocol("another region answers at this address"));
        }
        if hello.format == 0 || hello.format > self.shared.hello.format {
            return Err(ReplicationError::Protocol("the peer chose a format that was not offered"));
        }
        self.lane(direction).format = hello.format;
        self.peer_name.clone_from(&hello.name);
        Ok(())
    }

    fn count_acked(&mut self, partition: PartitionId, held: Lsn) {
        let Some(shipping) = self.links.get_mut(&partition) else { return };
        // What was never shipped is a fault of the peer and counts for nothing.
        let held = held.min(shipping.link.shipped());
        let more = held.0.saturating_sub(shipping.link.acked().unwrap_or(held).0);
        shipping.traffic.acked(more, self.shared.clock.monotonic());
        self.shared.traces.acked(&mut shipping.traced, held, &self.peer_name);
    }

    /// Tells what the peer holds of this region, where its link carries that.
    pub fn tell_held(&self, partition: PartitionId) {
        let Some(shipping) = self.links.get(&partition) else { return };
        if shipping.carried.carries(self.shared.origin()) {
            self.shared.modes.held(partition, self.peer, shipping.link.held());
        }
    }

    fn on_want(&mut self, want: CopyWant) {
        let partition = PartitionId(want.partition);
        let Some(shipping) = self.links.get_mut(&partition) else { return };
        let Some(copy) = &mut shipping.copy else { return };
        shipping.link.step(Event::Wanted(want.number));
        if shipping.link.state() == State::Copying {
            copy.wants.insert(want.number, want);
        }
        self.note_state(partition);
        self.wake(partition);
    }

    pub(super) fn on_link(&mut self, partition: u64, act: impl FnOnce(&Table, &mut Link)) {
        let partition = PartitionId(partition);
        if let Some(shipping) = self.links.get_mut(&partition) {
            act(&shipping.table, &mut shipping.link);
            self.note_state(partition);
            self.wake(partition);
        }
    }

    pub(super) fn on_fault(&mut self, partition: PartitionId, kind: FaultKind, reason: String) {
        let Some(shipping) = self.links.get_mut(&partition) else { return };
        shipping.copy = None;
        shipping.unassigned = kind == FaultKind::Unassigned;
        if shipping.unassigned {
            self.shared.put_backs.knows_nothing(partition, self.peer);
        }
        let table = &shipping.table;
        // What was told before an epoch was opened here says nothing about that one.
        if kind == FaultKind::Fenced && shipping.told_epoch == table.epoch() {
            self.shared.put_backs.overtaken(table, self.peer);
        }
        // It fences an epoch that is over here, too: nothing newer would open the link anew.
        let is_late = kind == FaultKind::Fenced && shipping.told_epoch < shipping.link.epoch;
        let kind = if is_late { FaultKind::Retry } else { kind };
        if kind == FaultKind::PriorMissing {
            shipping.whole_until = self.shared.clock.monotonic() + WHOLE_FOR;
        }
        shipping.traffic.retries += 1;
        shipping.link.step(Event::Faulted(kind, reason));
        if !matches!(kind, FaultKind::Fenced | FaultKind::Broken) {
            let at = self.shared.clock.monotonic() + RETRY_AFTER;
            self.retries.retain(|(_, waiting)| *waiting != partition);
            self.retries.push((at, partition));
        }
        self.note_state(partition);
    }
}

/// The partition that an answer is about.
fn partition_of(answer: &Frame) -> Option<PartitionId> {
    let partition = match answer.body.as_ref()? {
        Body::Opened(opened) => opened.partition,
        Body::Ack(ack) => ack.partition,
        Body::CopyWant(want) => want.partition,
        Body::CopyAck(ack) => ack.partition,
        Body::Fault(fault) => fault.partition,
        _ => return None,
    };
    Some(PartitionId(partition))
}
