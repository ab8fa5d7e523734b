//! The end of the log: entries that are appended, and what is applied of each origin.

use isthmus_model::entry::Entry;
use isthmus_model::hlc::{Hlc, Stamp};
use isthmus_model::ids::{Lsn, Origin};

use super::Inner;
use crate::keys::log::RecordBuilder;
use crate::keys::partition::{PartitionState, Watermark};
use crate::limits::LOG_RECORD_BYTES;
use crate::log_size::{LogSizes, Mark};
use crate::spec::TableSpec;

impl Inner {
    /// Appends an entry to the log; its LSN follows the last one, or leaves out what was left out.
    pub(crate) fn push_entry(&mut self, entry: &Entry) {
        let record = self.open_record();
        let before = record.size();
        record.push(entry);
        let grown = record.size() - before;
        self.part.bytes += grown;
        self.state.lsn = entry.lsn;
        self.state.hlc = self.state.hlc.max(entry.stamp.hlc);
    }

    /// Makes the log reach `last`, with no entry there.
    pub(crate) fn cover_log(&mut self, last: Lsn) {
        if last > self.state.lsn {
            self.open_record().cover(last);
            self.state.lsn = last;
        }
    }

    fn open_record(&mut self) -> &mut RecordBuilder {
        let next = self.state.lsn.next();
        let records = &mut self.part.records;
        if records.last().is_none_or(|record| record.size() >= LOG_RECORD_BYTES) {
            records.push(RecordBuilder::new(next));
        }
        let last = records.len() - 1;
        &mut records[last]
    }

    /// The address and epoch that the next own entry gets.
    pub(crate) fn next_lsn(&self) -> Lsn {
        self.state.lsn.next()
    }

    /// What is applied of an origin, counting what is accepted.
    pub(crate) fn watermark(&self, own: Origin, origin: Origin) -> (Lsn, Hlc) {
        watermark_in(&self.state, &self.spec, own, origin)
    }

    /// With one writer, remembers which origins this log holds.
    pub(crate) fn note_origin(&mut self, stamp: Stamp, lsn: Lsn) {
        self.state.set_watermark(Watermark { origin: stamp.origin, lsn, hlc: stamp.hlc });
    }
}

pub(super) fn log_sizes(state: &PartitionState) -> LogSizes {
    let (start, end) = (state.log_bytes_before.min(state.log_bytes), state.log_bytes);
    let last = state.hlc.millis();
    // Not known of a log that an earlier version wrote.
    let first = if state.log_start_millis == 0 { last } else { state.log_start_millis };
    LogSizes::new(
        Mark { lsn: state.log_start, bytes: start, millis: first.min(last) },
        Mark { lsn: state.lsn, bytes: end, millis: last },
    )
}

/// What is applied of an origin.
///
/// With one writer all origins share one sequence of LSNs, so that the log's end is the watermark
/// of each. With several, an origin that was not heard from stands before its first entry.
pub(crate) fn watermark_in(
    state: &PartitionState,
    spec: &TableSpec,
    own: Origin,
    origin: Origin,
) -> (Lsn, Hlc) {
    if !spec.writers.are_many() || origin == own {
        return (state.lsn, state.hlc);
    }
    state.watermark(origin).map_or_else(Default::default, |known| (known.lsn, known.hlc))
}

/// The watermarks of all origins that are known of, this region's own among them.
pub(crate) fn vector_in(state: &PartitionState, spec: &TableSpec, own: Origin) -> Vec<Watermark> {
    let mut origins: Vec<Origin> = state.watermarks.iter().map(|known| known.origin).collect();
    if !origins.contains(&own) {
        origins.push(own);
        origins.sort_unstable();
    }
    let watermark = |origin| {
        let (lsn, hlc) = watermark_in(state, spec, own, origin);
        Watermark { origin, lsn, hlc }
    };
    origins.into_iter().map(watermark).collect()
}
