//! Parcels: entries that are checked and handed to the one door for writes.
//!
//! A parcel holds what it names and nothing else: entries of its partition, from after `from`
//! through `to`, and of its origin where several regions write. Whatever else comes closes the
//! link.

use bytes::Bytes;
use isthmus_model::entry::Entry;
use isthmus_model::hlc::{Hlc, Stamp};
use isthmus_model::ids::{Epoch, Lsn, Origin, PartitionId};
use isthmus_store::keys::log::decode_record;
use prost::Message;

use super::Inbound;
use super::settle::{Waiting, unless_refused};
use crate::error::ReplicationError;
use crate::frame::{Parcel, Records};
use crate::pack::{CODEC_ZSTD_DICTIONARY, CODEC_ZSTD_PATCH, unpack};
use crate::patch::unpack_patch;
use crate::relay;
use crate::trace::{Context as Followed, MARKS_MAX, TraceMark};

impl Inbound {
    pub(super) fn on_parcel(
        &mut self,
        origin: Origin,
        parcel: &Parcel,
    ) -> Result<(), ReplicationError> {
        let partition = PartitionId(parcel.partition);
        let Some(receiving) = self.links.get(&partition) else { return Ok(()) };
        receiving.table.meet(receiving.life);
        if !parcel.ranges.is_empty() {
            return self.on_passed(origin, parcel);
        }
        let packed = parcel.body.as_ref();
        let packed = packed.ok_or(ReplicationError::Damaged("a parcel is empty"))?;
        let received = self.shared.traces.now_nanos();
        let (from, to) = (Lsn(parcel.from), Lsn(parcel.to));
        if to <= from {
            return Err(ReplicationError::Damaged("a parcel's range is empty"));
        }
        let many = receiving.table.spec().writers.are_many();
        let bytes = match packed.codec {
            CODEC_ZSTD_DICTIONARY => self.dictionaries.unpack(parcel.partition, packed)?,
            CODEC_ZSTD_PATCH => unpack_patch(packed, |key| receiving.table.accepted(key))?,
            _ => unpack(packed)?,
        };
        let mut entries = decode_entries(bytes.clone(), partition)?;
        entries.retain(|entry| entry.origin_lsn > from);
        // With one writer all logs are the same, whoever passes its log on.
        let is_named = |entry: &Entry| !many || entry.stamp.origin == origin;
        if entries.iter().any(|entry| !is_named(entry) || entry.origin_lsn > to) {
            return Err(ReplicationError::Damaged("a parcel holds entries that it does not name"));
        }
        let pending = receiving.table.apply(origin, Epoch(parcel.epoch), from, to, entries);
        let pending = unless_refused(pending)?;
        let traced = self.received(&parcel.traces, received);
        let (opening, bytes) = (receiving.opening, bytes.len());
        self.waiting_bytes += bytes;
        let waiting = Waiting::Applied { opening, partition, to, bytes, pending, traced };
        self.waiting.push_back(waiting);
        Ok(())
    }

    /// Notes of what is followed that it was received; gives what is to be noted when it is
    /// durable.
    fn received(&self, marks: &[TraceMark], began: u64) -> Vec<(Followed, u64)> {
        let traces = &self.shared.traces;
        if marks.is_empty() || !traces.is_on() {
            return Vec::new();
        }
        let shippings = marks.iter().take(MARKS_MAX).filter_map(TraceMark::context);
        let receive = |shipping: Followed| {
            traces.ended(traces.below(shipping), shipping.span, "receive", began, Vec::new());
            (shipping, traces.now_nanos())
        };
        shippings.map(receive).collect()
    }

    /// A parcel with entries of others, or ranges of theirs.
    fn on_passed(&mut self, origin: Origin, parcel: &Parcel) -> Result<(), ReplicationError> {
        let partition = PartitionId(parcel.partition);
        let Some(receiving) = self.links.get(&partition) else { return Ok(()) };
        if !receiving.table.spec().writers.are_many() {
            let reason = "the table has one writer here and several there";
            return Err(ReplicationError::Refused(reason.to_owned()));
        }
        let bytes = match &parcel.body {
            Some(packed) => unpack(packed)?,
            None => Bytes::new(),
        };
        let entries = decode_entries(bytes.clone(), partition)?;
        let (table, epoch) = (receiving.table.clone(), Epoch(parcel.epoch));
        let mut pending = None;
        for part in relay::part(&parcel.ranges, entries)? {
            if part.origin != origin {
                // Who passes it on knows not of which life it is.
                table.meet(Stamp { hlc: Hlc::MIN, origin: part.origin });
            }
            let taken = table.apply(part.origin, epoch, part.from, part.to, part.entries);
            // All are durable when the last one is.
            pending = unless_refused(taken)?.or(pending);
        }
        let (to, opening, bytes) = (Lsn(parcel.to), receiving.opening, bytes.len());
        self.waiting_bytes += bytes;
        let traced = Vec::new();
        let waiting = Waiting::Applied { opening, partition, to, bytes, pending, traced };
        self.waiting.push_back(waiting);
        Ok(())
    }
}

fn decode_entries(
    bytes: bytes::Bytes,
    partition: PartitionId,
) -> Result<Vec<Entry>, ReplicationError> {
    let parcel = Records::decode(bytes)
        .map_err(|_| ReplicationError::Damaged("a parcel cannot be decoded"))?;
    let mut entries = Vec::new();
    for record in &parcel.records {
        let (head, more) = decode_record(record)
            .map_err(|_| ReplicationError::Damaged("a log record of a parcel is damaged"))?;
        if head.partition != partition {
            return Err(ReplicationError::Damaged("a parcel holds another partition's entries"));
        }
        entries.extend(more);
    }
    Ok(entries)
}
