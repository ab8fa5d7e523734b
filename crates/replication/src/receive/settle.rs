//! What waits until it is durable, and is then answered, in order.
//!
//! An answer that belongs to an earlier opening of a link belongs to nobody, and a failure closes
//! the link and tells the origin.

use std::time::Duration;

use isthmus_model::hlc::Hlc;
use isthmus_model::ids::{Lsn, PartitionId};
use isthmus_store::{Pending, StoreError};

use super::Inbound;
use crate::error::ReplicationError;
use crate::frame::{Ack, Body, CopyAck, CopyOffer};
use crate::trace::Context as Followed;

/// What is answered when it is durable, or when its turn has come.
pub(super) enum Waiting {
    Applied {
        opening: u64,
        partition: PartitionId,
        to: Lsn,
        bytes: usize,
        pending: Option<Pending<()>>,
        /// The shipping of what is followed, and when it was handed over.
        traced: Vec<(Followed, u64)>,
    },
    Copied {
        opening: u64,
        partition: PartitionId,
        number: u64,
        bytes: usize,
        /// How long the work took so far.
        took: Duration,
        pending: Option<Pending<()>>,
    },
    Offered {
        opening: u64,
        offer: Box<CopyOffer>,
        bytes: usize,
        pending: Option<Pending<()>>,
    },
    Promised {
        hlc: Hlc,
        partitions: Vec<PartitionId>,
    },
}

impl Inbound {
    pub(super) fn on_settled(&mut self, settled: Waiting, result: Result<(), StoreError>) {
        match settled {
            Waiting::Applied { opening, partition, to, bytes, traced, .. } => {
                self.waiting_bytes -= bytes;
                let traces = &self.shared.traces;
                for (shipping, began) in traced {
                    let apply = traces.below(shipping);
                    traces.ended(apply, shipping.span, "apply", began, Vec::new());
                }
                let ack = Ack { partition: partition.0, held: to.0, applied: to.0 };
                self.answer((partition, opening), Body::Ack(ack), result);
            }
            Waiting::Copied { opening, partition, number, bytes, took, .. } => {
                self.waiting_bytes -= bytes;
                let took_micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                let ack = CopyAck { partition: partition.0, number, took_micros };
                self.answer((partition, opening), Body::CopyAck(ack), result);
            }
            Waiting::Offered { opening, offer, bytes, .. } => {
                self.waiting_bytes -= bytes;
                let result = result.map_err(ReplicationError::Store);
                let partition = PartitionId(offer.partition);
                let is_there =
                    self.links.get(&partition).is_some_and(|link| link.opening == opening);
                let answered = result.and_then(|()| self.answer_offer(opening, &offer));
                if let Err(error) = answered
                    && is_there
                {
                    self.on_failure(partition, &error);
                }
            }
            Waiting::Promised { hlc, partitions } => {
                let Some(origin) = self.origin() else { return };
                // A link that failed meanwhile has not got everything.
                for partition in partitions.iter().filter(|held| self.links.contains_key(held)) {
                    self.shared.safe_times.applied(*partition, origin, hlc);
                }
            }
        }
    }

    fn answer(
        &mut self,
        (partition, opening): (PartitionId, u64),
        ack: Body,
        result: Result<(), StoreError>,
    ) {
        // An answer that belongs to an earlier opening of the link belongs to nobody.
        if self.links.get(&partition).is_none_or(|link| link.opening != opening) {
            return;
        }
        match result {
            Ok(()) => self.outgoing.push_back(ack.into()),
            Err(error) => self.on_failure(partition, &ReplicationError::Store(error)),
        }
    }
}

/// Tells at once of what was refused at once: what comes after it must find the link closed.
pub(super) fn unless_refused(mut pending: Pending<()>) -> Result<Option<Pending<()>>, StoreError> {
    match pending.try_take() {
        None => Ok(Some(pending)),
        Some(Ok(())) => Ok(None),
        Some(Err(error)) => Err(error),
    }
}
