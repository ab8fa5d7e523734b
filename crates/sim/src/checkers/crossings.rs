//! Where nothing breaks, an entry crosses an edge between two regions at most once.
//!
//! Whatever breaks and however edges change, a region is sent nothing twice before the link is
//! opened anew, nothing that it has made itself, and by its maker nothing that it had when the
//! link was opened.

use std::collections::{BTreeMap, BTreeSet};

use isthmus_model::entry::Entry;
use isthmus_model::ids::{Lsn, Origin, PartitionId};
use isthmus_replication::frame::{Opened, Parcel, Records};
use isthmus_replication::pack::unpack;
use isthmus_store::keys::log::decode_record;
use prost::Message;

use super::Violation;
use crate::network::StreamId;

/// An entry, and the edge, the lesser node first.
type Crossing = (PartitionId, Origin, Lsn, usize, usize);

/// What has crossed.
#[derive(Debug, Default)]
pub(crate) struct Crossings {
    crossed: BTreeSet<Crossing>,
    /// By stream and partition.
    links: BTreeMap<(StreamId, PartitionId), Opening>,
}

/// A link since it was opened last.
#[derive(Debug, Default)]
struct Opening {
    /// What the replica had of each origin.
    had: BTreeMap<Origin, Lsn>,
    sent: BTreeSet<(Origin, Lsn)>,
}

/// The entries of a parcel that can be read by itself, and that are meant.
pub(crate) fn entries_of(parcel: &Parcel) -> Vec<Entry> {
    let bytes = parcel.body.as_ref().and_then(|body| unpack(body).ok()).unwrap_or_default();
    let records = Records::decode(bytes).unwrap_or_default().records;
    let entries = records.iter().filter_map(|record| decode_record(record).ok());
    // A record may begin before what is meant.
    let is_meant = |entry: &Entry| !parcel.ranges.is_empty() || entry.lsn.0 > parcel.from;
    entries.flat_map(|(_, entries)| entries).filter(is_meant).collect()
}

impl Crossings {
    /// A replica has said where it stands.
    pub(crate) fn opened(&mut self, stream: StreamId, opened: &Opened) {
        let marks = opened.vector.iter();
        let had = marks.map(|mark| (Origin(mark.origin as u8), Lsn(mark.lsn))).collect();
        let link = (stream, PartitionId(opened.partition));
        self.links.insert(link, Opening { had, sent: BTreeSet::new() });
    }

    /// Takes note of a parcel of a table with several writers that is sent to the region of a
    /// number, whatever breaks.
    pub(crate) fn check_opening(
        &mut self,
        stream: StreamId,
        to: Origin,
        parcel: &Parcel,
    ) -> Result<(), Violation> {
        let partition = PartitionId(parcel.partition);
        let Some(link) = self.links.get_mut(&(stream, partition)) else { return Ok(()) };
        for entry in entries_of(parcel) {
            let (origin, lsn) = (entry.stamp.origin, entry.origin_lsn);
            // Where a link passes on, it begins at a place before which nothing is lacking.
            let had = match parcel.ranges.is_empty() {
                true => link.had.get(&origin).copied().unwrap_or_default(),
                false => Lsn(0),
            };
            let why = match (origin == to, lsn <= had, link.sent.insert((origin, lsn))) {
                (true, ..) => "who has made it",
                (_, true, _) => "who had it when the link was opened",
                (.., false) => "who was sent it already",
                (false, false, true) => continue,
            };
            let what = format!("{origin}'s entry {lsn} of {partition} goes to {to}, {why}");
            return Err(Violation::of("nothing goes in a circle", what));
        }
        Ok(())
    }

    /// Takes note of a parcel that is sent where nothing breaks.
    pub(crate) fn check(
        &mut self,
        from: usize,
        to: usize,
        parcel: &Parcel,
    ) -> Result<(), Violation> {
        for entry in entries_of(parcel) {
            let (partition, origin) = (PartitionId(parcel.partition), entry.stamp.origin);
            let crossing = (partition, origin, entry.origin_lsn, from.min(to), from.max(to));
            if !self.crossed.insert(crossing) {
                let lsn = entry.origin_lsn;
                let what = format!("{origin}'s entry {lsn} of {partition} from {from} to {to}");
                return Err(Violation::of("an entry crosses an edge once", what));
            }
        }
        Ok(())
    }
}
