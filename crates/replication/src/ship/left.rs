//! What a region has made that holds the table no more: nobody ships it any longer, and it may have
//! come to some and not to others when it left.
//!
//! With several writers whoever has more of it than the peer copies to it what differs. It is
//! looked when a region has left, and once more when all that was on its way has come.

use std::collections::BTreeSet;
use std::time::Duration;

use isthmus_model::ids::{Origin, PartitionId};

use super::{Outbound, Shipping};
use crate::frame::{FORMAT_OF_EDGES, Opened};
use crate::limits::LOOK_AGAIN_AFTER;

const LEFT: &str = "a region that wrote the table has left; looking whether the peer has all of it";

/// The regions that hold a table.
#[derive(Debug, Default)]
pub(super) struct Members {
    /// `None`: not said.
    regions: Option<BTreeSet<Origin>>,
    /// When it is looked again whether the peer lacks something of one that has left.
    look_at: Option<Duration>,
}

impl Outbound {
    /// Says which regions hold the table of a partition, once the link is open.
    pub fn members(&mut self, partition: PartitionId, members: BTreeSet<Origin>) {
        let now = self.shared.clock.monotonic();
        let Some(shipping) = self.links.get_mut(&partition) else { return };
        let known = &mut shipping.carried.members;
        let has_left = known.regions.as_ref().is_some_and(|before| !before.is_subset(&members));
        known.regions = Some(members);
        if has_left && shipping.table.spec().writers.are_many() {
            known.look_at = Some(now + LOOK_AGAIN_AFTER);
            self.open_anew(partition, LEFT);
        }
    }

    /// Opens links anew of which it is time to look again.
    pub(super) fn look_for_what_was_left(&mut self, now: Duration) {
        let is_due = |shipping: &Shipping| {
            shipping.carried.members.look_at.is_some_and(|look_at| look_at <= now)
        };
        let due = self.links.iter().filter(|(_, shipping)| is_due(shipping));
        let due: Vec<PartitionId> = due.map(|(partition, _)| *partition).collect();
        for partition in due {
            if let Some(shipping) = self.links.get_mut(&partition) {
                shipping.carried.members.look_at = None;
            }
            self.open_anew(partition, LEFT);
        }
    }
}

impl Shipping {
    /// Whether the peer, by where it says that it stands, lacks what was made by a region that
    /// holds the table no more and that has come here.
    pub(super) fn has_more_of_who_left(
        &self,
        opened: &Opened,
        format: u32,
        (own, peer): (Origin, Origin),
    ) -> bool {
        let Some(members) = &self.carried.members.regions else { return false };
        if !self.table.spec().writers.are_many() || format < FORMAT_OF_EDGES {
            return false;
        }
        self.table.vector().iter().any(|mark| {
            let region = u32::from(mark.origin.0);
            let had = opened.vector.iter().find(|had| had.origin == region);
            let is_there =
                mark.origin == own || mark.origin == peer || members.contains(&mark.origin);
            !is_there && mark.lsn.0 > had.map_or(0, |had| had.lsn)
        })
    }
}
