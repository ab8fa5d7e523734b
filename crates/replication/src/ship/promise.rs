//! Promises: below which moment this node makes nothing more, told once a second per stream.
//!
//! A promise holds of a link if all that was in the log when it was made was sent before it. Where
//! that is not so the promise is owed, and told as soon as it is: so safe times get on in the
//! other region however busy a table is.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use isthmus_model::hlc::Hlc;
use isthmus_model::ids::{Lsn, PartitionId};

use super::{Outbound, Shipping};
use crate::frame::{Body, Promise};
use crate::limits::SAFE_REPORTS_MAX;
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
            if !self.is_whole(*partition) {
                behind.push(partition.0);
                continue;
            }
            if shipping.has_sent(end) {
                continue;
            }
            behind.push(partition.0);
            if shipping.table.makes_entries() {
                owed.entry(*partition).or_insert((hlc, end));
            }
        }
        let wanted = self.wanted(direction);
        let lane = self.lane(direction);
        lane.owed = owed;
        lane.tell(Body::Promise(Promise { hlc: hlc.0, behind, wanted }));
    }

    /// The partitions whose safe times at the peer are waited for here: some at a time, in turn.
    fn wanted(&mut self, direction: Direction) -> Vec<u64> {
        let waits = |(_, shipping): &(&PartitionId, &Shipping)| {
            shipping.terms.direction == direction && shipping.table.remembers_kills()
        };
        let after = (Bound::Excluded(self.lane(direction).wanted_to), Bound::Unbounded);
        let later = self.links.range(after).filter(waits);
        let wanted: Vec<u64> =
            later.map(|(partition, _)| partition.0).take(SAFE_REPORTS_MAX).collect();
        // Begins anew where all were named.
        let full = wanted.len() == SAFE_REPORTS_MAX;
        let last = wanted.last().copied().filter(|_| full).unwrap_or_default();
        self.lane(direction).wanted_to = PartitionId(last);
        wanted
    }

    /// Tells promises that have come to hold.
    pub(super) fn settle_owed(&mut self, direction: Direction) {
        let owed = std::mem::take(&mut self.lane(direction).owed);
        let (mut reached, mut left) = (Owed::new(), Owed::new());
        for (partition, (hlc, end)) in owed {
            let link = self.links.get(&partition);
            let link = link.filter(|shipping| shipping.terms.direction == direction);
            match link.map(|shipping| shipping.has_sent(end)).filter(|_| self.is_whole(partition)) {
                Some(true) => drop(reached.insert(partition, (hlc, end))),
                Some(false) => drop(left.insert(partition, (hlc, end))),
                None => {}
            }
        }
        let moments: BTreeSet<Hlc> = reached.values().map(|(hlc, _)| *hlc).collect();
        let promise = |hlc: Hlc| {
            let holds = |partition: &PartitionId, shipping: &Shipping| {
                let is_reached = reached.get(partition).is_some_and(|(owed, _)| *owed >= hlc);
                is_reached || (shipping.has_sent_all() && self.is_whole(*partition))
            };
            let links = self.links_of(direction);
            let behind = links.filter(|(partition, shipping)| !holds(partition, shipping));
            let behind = behind.map(|(partition, _)| partition.0).collect();
            Promise { hlc: hlc.0, behind, wanted: Vec::new() }
        };
        let promises: Vec<Promise> = moments.into_iter().map(promise).collect();
        let lane = self.lane(direction);
        lane.owed = left;
        promises.into_iter().for_each(|promise| lane.tell(Body::Promise(promise)));
    }

    /// Whether all that was made here is. An old disk lacks something of it, and is not known to be
    /// one before all replicas have said what they hold.
    fn is_whole(&self, partition: PartitionId) -> bool {
        let put_backs = &self.shared.put_backs;
        !put_backs.is_put_back(partition) && put_backs.are_all_heard(partition)
    }

    fn links_of(&self, direction: Direction) -> impl Iterator<Item = (&PartitionId, &Shipping)> {
        self.links.iter().filter(move |(_, shipping)| shipping.terms.direction == direction)
    }
}
