//! Promises: below which moment this node makes nothing more, told once a second per stream.
//!
//! A promise holds of a link if all that was in the log when it was made was sent before it. Where
//! that is not so the promise is owed, and told as soon as it is: so safe times get on in the
//! other region however busy a table is.

use std::collections::{BTreeMap, BTreeSet};

use isthmus_model::hlc::Hlc;
use isthmus_model::ids::{Lsn, PartitionId};

use super::{Outbound, Shipping};
use crate::frame::{Body, Promise};
use crate::terms::Direction;

/// What is owed of partitions: a promise, and the LSN that must have been sent before it.
pub(super) type Owed = BTreeMap<PartitionId, (Hlc, Lsn)>;

impl Shipping {
    /// Whether a promise holds that was made when the log ended there.
    fn has_sent(&self, end: Lsn) -> bool {
        self.link.has_told_follow() && self.link.shipped() >= end && self.table.makes_entries()
    }

    fn has_sent_all(&self) -> bool {
        self.has_sent(self.table.durable_lsn())
    }
}

impl Outbound {
    /// Promises anew.
    pub(super) fn promise(&mut self, direction: Direction) {
        let promises = |shipping: &Shipping| {
            shipping.terms.direction == direction && shipping.table.makes_entries()
        };
        if !self.links.values().any(promises) {
            return;
        }
        // The promise is taken before the ends of the logs, and before it is looked who writes:
        // what it covers is in them.
        let hlc = self.shared.store.promise();
        let mut owed = std::mem::take(&mut self.lane(direction).owed);
        let mut behind = Vec::new();
        for (partition, shipping) in self.links_of(direction) {
            let end = shipping.table.durable_lsn();
            if shipping.has_sent(end) {
                continue;
            }
            behind.push(partition.0);
            if shipping.table.makes_entries() {
                owed.entry(*partition).or_insert((hlc, end));
            }
        }
        let lane = self.lane(direction);
        lane.owed = owed;
        lane.tell(Body::Promise(Promise { hlc: hlc.0, behind }));
    }

    /// Tells promises that have come to hold.
    pub(super) fn settle_owed(&mut self, direction: Direction) {
        let owed = std::mem::take(&mut self.lane(direction).owed);
        let (mut reached, mut left) = (Owed::new(), Owed::new());
        for (partition, (hlc, end)) in owed {
            let link = self.links.get(&partition);
            let link = link.filter(|shipping| shipping.terms.direction == direction);
            match link.map(|shipping| shipping.has_sent(end)) {
                Some(true) => drop(reached.insert(partition, (hlc, end))),
                Some(false) => drop(left.insert(partition, (hlc, end))),
                None => {}
            }
        }
        let moments: BTreeSet<Hlc> = reached.values().map(|(hlc, _)| *hlc).collect();
        let promise = |hlc: Hlc| {
            let holds = |partition: &PartitionId, shipping: &Shipping| {
                let is_reached = reached.get(partition).is_some_and(|(owed, _)| *owed >= hlc);
                is_reached || shipping.has_sent_all()
            };
            let links = self.links_of(direction);
            let behind = links.filter(|(partition, shipping)| !holds(partition, shipping));
            Promise { hlc: hlc.0, behind: behind.map(|(partition, _)| partition.0).collect() }
        };
        let promises: Vec<Promise> = moments.into_iter().map(promise).collect();
        let lane = self.lane(direction);
        lane.owed = left;
        promises.into_iter().for_each(|promise| lane.tell(Body::Promise(promise)));
    }

    fn links_of(&self, direction: Direction) -> impl Iterator<Item = (&PartitionId, &Shipping)> {
        self.links.iter().filter(move |(_, shipping)| shipping.terms.direction == direction)
    }
}
