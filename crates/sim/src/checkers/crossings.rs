//! Where nothing breaks, an entry crosses an edge between two regions at most once.

use std::collections::BTreeSet;

use isthmus_model::ids::{Lsn, Origin, PartitionId};
use isthmus_replication::frame::{Parcel, Records};
use isthmus_replication::pack::unpack;
use isthmus_store::keys::log::decode_record;
use prost::Message;

use super::Violation;

/// An entry, and the edge, the lesser node first.
type Crossing = (PartitionId, Origin, Lsn, usize, usize);

/// What has crossed.
#[derive(Debug, Default)]
pub(crate) struct Crossings(BTreeSet<Crossing>);

impl Crossings {
    /// Takes note of a parcel that is sent.
    pub(crate) fn check(
        &mut self,
        from: usize,
        to: usize,
        parcel: &Parcel,
    ) -> Result<(), Violation> {
        let bytes = parcel.body.as_ref().and_then(|body| unpack(body).ok()).unwrap_or_default();
        let records = Records::decode(bytes).unwrap_or_default().records;
        let entries = records.iter().filter_map(|record| decode_record(record).ok());
        for entry in entries.flat_map(|(_, entries)| entries) {
            // A record may begin before what is meant.
            if parcel.ranges.is_empty() && entry.lsn.0 <= parcel.from {
                continue;
            }
            let (partition, origin) = (PartitionId(parcel.partition), entry.stamp.origin);
            let crossing = (partition, origin, entry.origin_lsn, from.min(to), from.max(to));
            if !self.0.insert(crossing) {
                let lsn = entry.origin_lsn;
                let what = format!("{origin}'s entry {lsn} of {partition} from {from} to {to}");
                return Err(Violation::of("an entry crosses an edge once", what));
            }
        }
        Ok(())
    }
}
