//! What a link carries where that is not all that this region has made: entries of others that
//! are passed on (`relay.rs`), or less than all (`extract.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use isthmus_model::hlc::Hlc;
use isthmus_model::ids::{Lsn, Origin, PartitionId};
use isthmus_store::{LogSlice, Table};
use prost::Message;

use super::left::Members;
use super::{Outbound, Shared, Shipping};
use crate::error::ReplicationError;
use crate::extract::Extract;
use crate::frame::{
    Body, FORMAT_OF_EDGES, FORMAT_OF_OFFERS, FaultKind, Opened, OriginRange, Parcel, Records,
    Watermark,
};
use crate::limits::STANDINGS_MAX;
use crate::link::Event;
use crate::pack::{Method, PackedLog, pack};
use crate::relay::{Feeding, PassedOn, Passing};
use crate::terms::Direction;

/// What a link carries.
#[derive(Debug, Default)]
pub(super) struct Carried {
    feeding: Feeding,
    /// With several writers, where entries of others are passed on.
    passing: Option<Passing>,
    /// What the replica takes; `None`: all.
    pub(super) extract: Option<Arc<Extract>>,
    /// Who holds the table.
    pub(super) members: Members,
    /// What is left out at the beginning of a replica that is not copied.
    begins_after: Option<Lsn>,
    /// When the link was opened; rows of its copy are judged by it.
    pub(super) opened_millis: i64,
}

impl Carried {
    /// Whether entries that region `own` has made are among what is carried to a replica.
    pub(super) fn carries(&self, own: Origin) -> bool {
        self.feeding.carries(own)
    }

    /// The origins of which entries are picked out of the log to be passed on; none: otherwise.
    pub(super) fn origins(&self) -> &[Origin] {
        self.passing.as_ref().map_or(&[], Passing::origins)
    }
}

/// Where a replica stands in the log here.
struct Stands {
    /// `None`: the log does not reach back so far.
    place: Option<Lsn>,
    log_start: Lsn,
    /// It takes what comes and nothing that was there.
    is_not_copied: bool,
}

impl Outbound {
    /// Says whose entries the link of a partition carries. If that changes, the link opens anew.
    pub fn feed(&mut self, partition: PartitionId, feeding: Feeding) {
        let Some(shipping) = self.links.get_mut(&partition) else { return };
        if shipping.carried.feeding == feeding {
            return;
        }
        shipping.carried.passing = None;
        shipping.carried.feeding = feeding;
        self.open_anew(partition, "whose entries it carries has changed");
    }

    /// Opens the link of a partition anew, at once.
    pub(super) fn open_anew(&mut self, partition: PartitionId, reason: &str) {
        self.on_fault(partition, FaultKind::Retry, reason.to_owned());
        self.retries.retain(|(_, waiting)| *waiting != partition);
        self.on_link(partition.0, |_, link| link.step(Event::RetryDue));
    }

    /// Says that the replica of a partition takes less than all, once the link is open.
    pub fn extract(&mut self, partition: PartitionId, extract: Option<Arc<Extract>>) {
        if let Some(shipping) = self.links.get_mut(&partition) {
            shipping.carried.extract = extract;
            self.note_linked(partition);
        }
    }

    /// Says whether this region has all of the table: until then no copy begins on the link.
    pub fn whole(&mut self, partition: PartitionId, whole: bool) {
        let Some(shipping) = self.links.get_mut(&partition) else { return };
        if shipping.link.is_whole() != whole {
            shipping.copy = None;
            self.on_link(partition.0, |_, link| link.step(Event::Whole(whole)));
        }
    }

    /// Names the partitions of which the peer is told how replicas stand.
    pub fn tell_of(&mut self, partitions: &BTreeSet<PartitionId>) {
        self.told.retain(|partition, _| partitions.contains(partition));
        for partition in partitions {
            self.told.entry(*partition).or_default();
        }
    }

    /// Whether the replica of a partition was told that it has all and follows.
    pub fn has_told_follow(&self, partition: PartitionId) -> bool {
        self.links.get(&partition).is_some_and(|shipping| shipping.link.has_told_follow())
    }

    pub(super) fn on_opened(&mut self, direction: Direction, opened: Opened) {
        let (partition, peer) = (PartitionId(opened.partition), self.peer);
        let format = self.lane(direction).format;
        let Some(shipping) = self.links.get_mut(&partition) else { return };
        shipping.carried.opened_millis = self.shared.clock.wall_millis();
        let is_whole = shipping.carried.extract.is_none();
        shipping.offers = is_whole && opened.has_digest && format >= FORMAT_OF_OFFERS;
        shipping.method = Method::agreed(shipping.terms.compression, format);
        shipping.told_dictionary = 0;
        shipping.unassigned = false;
        let table = shipping.table.clone();
        self.shared.store.rise_to(Hlc(opened.moment));
        if is_whole && table.life().origin == self.shared.origin() {
            let (life, held) = (Hlc(opened.life), held_of_own(&table, &opened, &self.shared));
            if opened.incomplete && !table.spec().writers.are_many() {
                // It is to be made like the table here and can give nothing back.
                self.shared.put_backs.knows_nothing(partition, peer);
            } else if self.shared.put_backs.heard(&table, peer, life, held) {
                return self.on_fault(partition, FaultKind::Retry, PUT_BACK.to_owned());
            }
        }
        let Some(shipping) = self.links.get_mut(&partition) else { return };
        let stands = match shipping.where_stands(&opened, format, &self.shared) {
            Ok(stands) => stands,
            Err(error) => return self.on_fault(partition, FaultKind::Retry, error.to_string()),
        };
        let lacks_left = is_whole
            && shipping.has_more_of_who_left(&opened, format, (self.shared.origin(), peer));
        self.on_link(opened.partition, |table, link| {
            // Entries of the replica's own that are known here, though it has lost them.
            let was_known = table.spec().writers.are_many() && table.watermark(peer).0 > Lsn(0);
            let is_lost = opened.incomplete && (opened.has_past || was_known);
            link.step(Event::Appended(table.durable_lsn()));
            link.step(Event::Opened {
                watermark: stands.place.unwrap_or_default(),
                copy: opened.copy,
                must_copy: (is_lost && !stands.is_not_copied)
                    || stands.place.is_none()
                    || lacks_left,
                incomplete: opened.incomplete,
                log_start: stands.log_start,
            });
        });
        self.tell_held(partition);
    }

    /// Tells on one of the streams how replicas stand, as far as that is news, and of ranges of
    /// origins that have moved without entries.
    pub(super) fn tell_of_others(&mut self, direction: Direction) {
        for (partition, shipping) in &mut self.links {
            let lane = match direction {
                Direction::Push => &mut self.push,
                Direction::Pull => &mut self.pull,
            };
            if shipping.terms.direction == direction
                && lane.waiting() < STANDINGS_MAX
                && let Some(parcel) = shipping.moved_ranges(*partition)
            {
                lane.tell(Body::Parcel(parcel));
            }
        }
        // One of two streams is enough.
        let other_does = direction == Direction::Pull && self.push.connected;
        if self.lane(direction).format < FORMAT_OF_EDGES || other_does {
            return;
        }
        let mut told = std::mem::take(&mut self.told);
        for (partition, told) in &mut told {
            if self.lane(direction).waiting() >= STANDINGS_MAX {
                break;
            }
            for word in self.shared.standings.newer(*partition, told, self.peer) {
                self.lane(direction).tell(Body::Standing(word));
            }
        }
        self.told = told;
    }

    /// A new stream: nothing was told on it.
    pub(super) fn tell_anew(&mut self) {
        self.told.values_mut().for_each(BTreeMap::clear);
    }
}

fn refused(reason: &str) -> ReplicationError {
    ReplicationError::Refused(reason.to_owned())
}

/// How far the replica holds the log that this region makes.
fn held_of_own(table: &Table, opened: &Opened, shared: &Shared) -> Lsn {
    if !table.spec().writers.are_many() {
        return Lsn(opened.watermark);
    }
    let own = u32::from(shared.origin().0);
    let mark = opened.vector.iter().find(|mark| mark.origin == own);
    mark.map_or(Lsn(opened.watermark), |mark| Lsn(mark.lsn))
}

const PUT_BACK: &str = "the region holds entries of this one that are not here any more: an old \
                        disk was put back";
const HAS_MORE: &str = "the replica has more than this region, which passes on to it";
const ROWS_CAME: &str = "rows of a copy came here; looking anew where the replica stands";

impl Shipping {
    /// What is held here of the log of a peer that writes, too.
    pub(super) fn held_of(&self, peer: Origin) -> Option<Watermark> {
        let (lsn, hlc) = self.table.watermark(peer);
        let life = self.table.life_met(peer).0;
        let is_told = self.table.spec().writers.are_many();
        is_told.then(|| Watermark { origin: peer.0.into(), lsn: lsn.0, hlc: hlc.0, life })
    }

    fn where_stands(
        &mut self,
        opened: &Opened,
        format: u32,
        shared: &Shared,
    ) -> Result<Stands, ReplicationError> {
        let place = Lsn(opened.watermark);
        if self.carried.extract.as_ref().is_some_and(|extract| extract.is_incremental) {
            return self.where_not_copied_stands(place, opened.incomplete);
        }
        let passes_on = self.carried.feeding != Feeding::Own;
        if passes_on && format < FORMAT_OF_EDGES {
            return Err(refused("the region is too old to be passed on what others have made"));
        }
        self.carried.passing = match &self.carried.feeding {
            Feeding::Passed(origins) if self.table.spec().writers.are_many() => {
                Some(Passing::new(shared.origin(), origins.clone()))
            }
            Feeding::Own | Feeding::Passed(_) => None,
        };
        let Some(passing) = &mut self.carried.passing else {
            if passes_on && place > self.table.durable_lsn() {
                return Err(refused(HAS_MORE));
            }
            let log_start = self.table.log_start();
            return Ok(Stands { place: Some(place), log_start, is_not_copied: false });
        };
        passing.begin(&self.table);
        passing.stand(&opened.vector);
        let place = passing.place(&self.table, &opened.vector, &shared.standings)?;
        let log_start = self.table.log_start().max(self.table.log_whole_after().0);
        Ok(Stands { place, log_start, is_not_copied: false })
    }

    /// A replica that is not copied begins at the end of the log here.
    fn where_not_copied_stands(
        &mut self,
        place: Lsn,
        incomplete: bool,
    ) -> Result<Stands, ReplicationError> {
        let end = self.table.durable_lsn();
        let begins = incomplete && place == Lsn(0);
        self.carried.begins_after = (begins && end > place).then_some(end);
        if place > end {
            return Err(refused(HAS_MORE));
        }
        if !begins && place < self.table.log_start() {
            return Err(refused(
                "entries that the replica lacks are trimmed here, and it takes no copy: unbind \
                 and bind it",
            ));
        }
        Ok(Stands { place: Some(place), log_start: place, is_not_copied: true })
    }

    /// A snapshot is about to be copied, from the beginning or from where a copy had come to.
    pub(super) fn stand_for_copy(&mut self, first: Option<Lsn>) -> Result<(), ReplicationError> {
        let Some(passing) = &mut self.carried.passing else { return Ok(()) };
        passing.begin(&self.table);
        match first.is_some_and(|first| first < self.table.log_whole_after().0) {
            true => Err(refused(ROWS_CAME)),
            false => Ok(()),
        }
    }

    /// The replica will hold so much when it is copied.
    pub(super) fn stands_when_copied(&mut self, vector: &[crate::frame::Watermark]) {
        if let Some(passing) = &mut self.carried.passing {
            passing.stand(vector);
        }
    }

    /// What takes the place of all that a replica which is not copied leaves out at its beginning.
    pub(super) fn beginning(
        &mut self,
        partition: PartitionId,
        after: Lsn,
        shared: &Shared,
    ) -> Option<PackedLog> {
        let to = self.carried.begins_after.take().filter(|to| *to > after)?;
        let record = Extract::beginning(&self.table, partition, after, to, shared.origin());
        let bytes = Records { records: vec![record] }.encode_to_vec();
        let (size, packed) = (bytes.len(), pack(bytes, self.method));
        let (entries, ends) = (0, Vec::new());
        Some(PackedLog { to, bytes: size, entries, packed, dictionary: None, ends })
    }

    /// The records of a piece of the log as the link carries them, where it does not carry all as
    /// it is or what this region has made, and the last entry in them by origin.
    pub(super) fn carried_records(
        &self,
        partition: PartitionId,
        slice: &LogSlice,
        after: Lsn,
        shared: &Shared,
    ) -> Result<Option<PassedOn>, ReplicationError> {
        if let Some(passing) = &self.carried.passing {
            return passing.entries(partition, slice, after).map(Some);
        }
        match &self.carried.extract {
            Some(extract) if !extract.is_of_everything() => {
                let now = shared.clock.wall_millis();
                let record = extract.entries(&self.table, slice, after, now)?;
                Ok(Some((record, Vec::new())))
            }
            Some(_) | None => Ok(None),
        }
    }

    /// Names what a piece of the log brings of each origin; none where nothing is passed on.
    /// `here` is what was applied here before it was read.
    pub(super) fn ranges(
        &mut self,
        log: &PackedLog,
        here: &[isthmus_store::Watermark],
    ) -> Result<Vec<OriginRange>, ReplicationError> {
        let base = self.table.spec().base;
        let Some(passing) = &mut self.carried.passing else { return Ok(Vec::new()) };
        // Looked at after the log was read, so that no copy ended in what was read.
        if passing.is_stale(&self.table) {
            return Err(refused(ROWS_CAME));
        }
        Ok(passing.ranges(log.to, &log.ends, here, base))
    }

    /// A parcel of ranges that have moved without entries, if all entries are there.
    fn moved_ranges(&mut self, partition: PartitionId) -> Option<Parcel> {
        let passing = self.carried.passing.as_mut().filter(|_| self.link.is_caught_up())?;
        let (at, here) = (self.link.shipped(), self.table.vector());
        if self.link.acked() != Some(at) || passing.is_stale(&self.table) {
            return None;
        }
        let ranges = passing.ranges(at, &[], &here, self.table.spec().base);
        (!ranges.is_empty()).then(|| Parcel {
            partition: partition.0,
            epoch: self.link.epoch.0,
            from: at.0,
            to: at.0,
            body: None,
            traces: Vec::new(),
            ranges,
        })
    }
}
