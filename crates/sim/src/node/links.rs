//! Links of a node, and the streams that they go on.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use isthmus_model::ids::{Origin, PartitionId};
use isthmus_replication::error::ReplicationError;
use isthmus_replication::frame::Frame;
use isthmus_replication::receive::{Assignments, Inbound};
use isthmus_replication::relay::Feeding;
use isthmus_replication::terms::Direction;

use super::Life;
use crate::network::StreamId;
use crate::plant::Plant;
use crate::roles::origin_of;

impl Life {
    /// Opens the links that are named at rest.
    pub(crate) fn obey_links(&mut self) {
        self.roles.refresh();
        self.obeyed = self.changes();
        let shared = self.roles.shared();
        let partitions: BTreeSet<PartitionId> = shared.iter().map(|plan| plan.partition).collect();
        for outbound in self.outbound.values_mut() {
            let left: Vec<PartitionId> =
                outbound.partitions().filter(|one| !partitions.contains(one)).collect();
            left.into_iter().for_each(|partition| outbound.close(partition));
        }
        let shared_regions = self.outbound.len() + 1;
        for plan in &shared {
            let Some(table) = self.store.table(plan.id) else {
                self.outbound.values_mut().for_each(|links| links.close(plan.partition));
                continue;
            };
            for (peer, outbound) in &mut self.outbound {
                let to = self.shared.put_backs.gives_back_to(plan.partition);
                let gives_back = (to == Some(origin_of(*peer))).then_some(Feeding::Own);
                let feeding = self.roles.feeding(plan.partition, *peer).map(|feeding| {
                    let all = self.plant == Some(Plant::AllPassedOn) && plan.writers.are_many();
                    let regions = (1..=shared_regions).map(|number| Origin(number as u8));
                    if all { Feeding::of(origin_of(self.node), regions.collect()) } else { feeding }
                });
                match gives_back.or(feeding) {
                    Some(feeding) => {
                        let terms = self.asked.get(&(*peer, plan.partition)).cloned();
                        outbound.open(plan.partition, table.clone(), &terms.unwrap_or_default());
                        outbound.feed(plan.partition, feeding);
                        let extract = self.roles.extract(plan.partition, *peer, self.plant);
                        outbound.extract(plan.partition, extract);
                        // As the server's: one of several writers that was not completed may
                        // still have rows that the others have deleted and forgotten.
                        let is_whole =
                            self.roles.is_ready(plan.partition) || !plan.writers.are_many();
                        let denied = self.plant == Some(Plant::CopiesBeforeWhole);
                        outbound.whole(plan.partition, is_whole || denied);
                        if self.plant != Some(Plant::LeftForgotten) {
                            let members = self.roles.members(plan.partition);
                            outbound.members(plan.partition, members);
                        }
                    }
                    None => outbound.close(plan.partition),
                }
            }
        }
        for (peer, outbound) in &mut self.outbound {
            let joined = shared.iter().map(|plan| plan.partition);
            let joined = joined.filter(|p| self.roles.is_neighbour(origin_of(*peer), *p));
            outbound.tell_of(&joined.collect());
        }
        self.obey_modes();
    }

    /// A link is to ship what waits.
    pub(crate) fn trigger(&mut self, peer: usize, partition: PartitionId) {
        if let Some(outbound) = self.outbound.get_mut(&peer) {
            outbound.trigger(partition);
        }
    }

    /// What the links to a peer have to send now, if anything.
    pub(crate) fn poll_outbound(&mut self, peer: usize, direction: Direction) -> Option<Frame> {
        if self.obeyed != self.changes() {
            self.obey_links();
        }
        let grown = std::mem::take(&mut *self.grown.lock());
        for (partition, lsn) in grown {
            for outbound in self.outbound.values_mut() {
                outbound.appended(partition, lsn);
            }
        }
        self.outbound.get_mut(&peer)?.poll(direction)
    }

    /// What a stream from a peer has to answer now, if anything.
    pub(crate) fn poll_inbound(&mut self, stream: StreamId) -> Option<Frame> {
        let inbound = self.inbound.get_mut(&stream)?;
        match inbound.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(frame) => Some(frame),
            Poll::Pending => None,
        }
    }

    /// A stream on which this node receives.
    pub(crate) fn receive_on(&mut self, direction: Direction, peer: usize, stream: StreamId) {
        let roles: Arc<dyn Assignments> = self.roles.clone();
        self.inbound.insert(stream, Inbound::new(self.shared.clone(), roles, direction));
        if direction == Direction::Pull {
            self.pulling.insert(peer, stream);
        }
    }

    /// A stream on which this node ships; the one before it is over.
    pub(crate) fn ship_on(&mut self, direction: Direction, peer: usize, stream: StreamId) {
        if self.shipping.contains_key(&(peer, direction)) {
            self.lost(direction, peer, "the other region has dialled anew");
        }
        self.shipping.insert((peer, direction), stream);
        if let Some(outbound) = self.outbound.get_mut(&peer) {
            outbound.connected(direction);
        }
    }

    /// A stream to a peer is gone.
    pub(crate) fn lost(&mut self, direction: Direction, peer: usize, reason: &str) {
        self.shipping.remove(&(peer, direction));
        if let Some(outbound) = self.outbound.get_mut(&peer) {
            outbound.disconnected(direction, reason);
        }
    }

    /// Takes in what a replica answered.
    pub(crate) fn receive_outbound(
        &mut self,
        direction: Direction,
        peer: usize,
        frame: Frame,
    ) -> Result<(), ReplicationError> {
        match self.outbound.get_mut(&peer) {
            Some(outbound) => outbound.receive(direction, frame),
            None => Ok(()),
        }
    }
}
