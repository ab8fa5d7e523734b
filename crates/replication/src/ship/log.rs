//! Parcels: log records after what was sent last, packed for the peer.
//!
//! Where all logs are the same every record goes as it is; with several writers a parcel holds what
//! this region itself has accepted, and what `carry.rs` adds. A parcel that was packed a moment ago
//! for another peer is sent again.

use bytes::Bytes;
use isthmus_model::entry::Entry;
use isthmus_model::ids::{Lsn, Origin, PartitionId};
use isthmus_store::codec::Corrupt;
use isthmus_store::keys::log::{RecordBuilder, decode_head, decode_record};
use isthmus_store::{LogSlice, StoreError};
use prost::Message;

use super::{Shared, Shipping};
use crate::error::ReplicationError;
use crate::frame::{Body, FORMAT_OF_SEEN, OriginRange, Parcel, Records};
use crate::link::Event;
use crate::pack::{PackedLog, Stretch, pack, pack_as_is};
use crate::patch::pack_patch;

impl Shipping {
    pub(super) fn send_log(
        &mut self,
        partition: PartitionId,
        after: Lsn,
        format: u32,
        shared: &Shared,
    ) -> Result<Option<Body>, ReplicationError> {
        let tells = format >= FORMAT_OF_SEEN;
        if let Some(log) = self.beginning(partition, after, shared) {
            return Ok(Some(self.sent(partition, after, log, Vec::new())));
        }
        let origins = self.carried.origins().to_vec();
        let here = if origins.is_empty() { Vec::new() } else { self.table.vector() };
        let stretch = Stretch { partition, after, method: self.method, tells, origins };
        let through = self.link.may_ship_through();
        let may_ship = |log: &PackedLog| log.to <= through && self.may_ship(log, shared);
        let kept = shared.packed.get(&stretch).filter(may_ship);
        let log = match kept.filter(|_| self.carried.extract.is_none()) {
            Some(log) => log,
            None => match self.pack_log(stretch, through, shared) {
                Ok(Some(log)) => log,
                Ok(None) => return Ok(None),
                Err(ReplicationError::Store(StoreError::LogTrimmed { .. })) => {
                    self.link.step(Event::Trimmed);
                    return Ok(None);
                }
                Err(error) => return Err(error),
            },
        };
        if let Some(dictionary) = &log.dictionary
            && self.told_dictionary != dictionary.number
        {
            self.told_dictionary = dictionary.number;
            return Ok(Some(Body::Dictionary(dictionary.frame(partition))));
        }
        let ranges = self.ranges(&log, &here)?;
        Ok(Some(self.sent(partition, after, log, ranges)))
    }

    /// Takes note of a parcel that is sent.
    fn sent(
        &mut self,
        partition: PartitionId,
        after: Lsn,
        log: PackedLog,
        ranges: Vec<OriginRange>,
    ) -> Body {
        self.sent_bytes += log.bytes as u64;
        self.sent_entries += log.entries;
        // What was read may have begun an epoch.
        self.renew_epoch();
        self.link.step(Event::Sent { to: log.to, bytes: log.bytes });
        Body::Parcel(Parcel {
            partition: partition.0,
            epoch: self.link.epoch.0,
            from: after.0,
            to: log.to.0,
            body: Some(log.packed),
            traces: Vec::new(),
            ranges,
        })
    }

    /// Whether values may be shipped as what has changed in them.
    fn patches(&self, shared: &Shared) -> bool {
        self.method.level_with_priors().is_some() && shared.clock.monotonic() >= self.whole_until
    }

    fn may_ship(&self, log: &PackedLog, shared: &Shared) -> bool {
        log.packed.priors.is_empty() || self.patches(shared)
    }

    fn pack_log(
        &self,
        stretch: Stretch,
        through: Lsn,
        shared: &Shared,
    ) -> Result<Option<PackedLog>, ReplicationError> {
        let (partition, after, method) = (stretch.partition, stretch.after, stretch.method);
        let tells = stretch.tells;
        let bytes_max = self.brake.parcel_bytes(shared.parcel_bytes_max);
        let mut slice = self.table.read_log(after, bytes_max)?;
        let is_cut = slice.to > through;
        if is_cut {
            cut(&mut slice, after, through)?;
        }
        if slice.to <= after {
            return Ok(None);
        }
        let carried = self.carried_records(partition, &slice, after, shared)?;
        let is_carried = carried.is_some() || self.carried.extract.is_some();
        let (records, ends) = match carried {
            Some((record, ends)) => (vec![record], ends),
            None if self.table.spec().writers.are_many() => {
                (vec![own_entries(partition, &slice, after, shared.origin(), tells)?], Vec::new())
            }
            // All logs are the same, and every record goes as it is.
            None => (slice.records, Vec::new()),
        };
        let entries = match is_carried || self.table.spec().writers.are_many() {
            true => records.iter().map(entries_in).sum(),
            false => slice.to.0 - after.0,
        };
        let is_compressed = mostly_compressed(&records);
        let bytes = Records { records }.encode_to_vec();
        let size = bytes.len();
        let patched = match method.level_with_priors() {
            Some(level) if !is_compressed && !is_carried && self.patches(shared) => {
                pack_patch(&bytes, &self.table.replaced(after, slice.to), level)
            }
            Some(_) | None => None,
        };
        let (packed, dictionary) = match patched {
            Some(patched) => (patched, None),
            None if is_compressed => (pack_as_is(bytes), None),
            None if is_carried => (pack(bytes, method), None),
            None => shared.packed.pack(partition, bytes, method),
        };
        let log = PackedLog { to: slice.to, bytes: size, entries, packed, dictionary, ends };
        // Others may be let go farther.
        if self.carried.extract.is_none() && !is_cut {
            shared.packed.put(stretch, log.clone());
        }
        Ok(Some(log))
    }
}

/// Leaves out the records that may not be shipped yet.
fn cut(slice: &mut LogSlice, after: Lsn, through: Lsn) -> Result<(), ReplicationError> {
    let mut to = after;
    let mut kept = Vec::new();
    for record in std::mem::take(&mut slice.records) {
        let last = decode_head(&record).map_err(damaged_log)?.last;
        if last > through {
            break;
        }
        to = last;
        kept.push(record);
    }
    (slice.records, slice.to) = (kept, to);
    Ok(())
}

/// One record with what this region itself has accepted. With `tells` the entries tell what it had
/// seen of others.
fn own_entries(
    partition: PartitionId,
    slice: &LogSlice,
    after: Lsn,
    origin: Origin,
    tells: bool,
) -> Result<Bytes, ReplicationError> {
    let mut own = RecordBuilder::new(after.next());
    for record in &slice.records {
        let (_, entries) = decode_record(record).map_err(damaged_log)?;
        let of_own = |entry: &Entry| entry.stamp.origin == origin && entry.lsn > after;
        for mut entry in entries.into_iter().filter(of_own) {
            entry.seen = entry.seen.filter(|_| tells);
            own.push(&entry);
        }
    }
    own.cover(slice.to);
    // The parcel is compressed as a whole.
    Ok(own.finish(partition, false).bytes)
}

fn damaged_log(source: Corrupt) -> ReplicationError {
    StoreError::Corrupt { what: "log record", source }.into()
}

fn entries_in(record: &Bytes) -> u64 {
    decode_head(record).map_or(0, |head| head.count.into())
}

/// Whether compressing once more would not pay.
fn mostly_compressed(records: &[Bytes]) -> bool {
    let total: usize = records.iter().map(Bytes::len).sum();
    let is_compressed = |record: &&Bytes| {
        decode_head(record).is_ok_and(|head| record.len() < head.raw_bytes as usize)
    };
    let compressed: usize = records.iter().filter(is_compressed).map(Bytes::len).sum();
    compressed * 2 > total
}
