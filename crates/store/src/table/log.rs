//! Reads of the change log, for links and tunnels: from memory near its end, else from the engine.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use isthmus_model::change::Direction;
use isthmus_model::ids::Lsn;

use crate::engine::{BatchWrite, EngineError, Scan, Snapshot, Space};
use crate::error::StoreError;
use crate::keys;
use crate::keys::LogOf;
use crate::keys::log::decode_head;
use crate::limits::{FORGET_STEP, LOG_SLICE_RECORDS_MAX};
use crate::log_size::LogSize;
use crate::partition::Inner;
use crate::pending::Pending;
use crate::table::Table;

/// A piece of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSlice {
    /// Whole records, one after the other (`keys::log::decode_record`). The first one may begin
    /// before what was asked for.
    pub records: Vec<Bytes>,
    /// The last LSN that they cover; what was asked for if there are none.
    pub to: Lsn,
}

impl Table {
    /// The durable entries after `after`, as whole records of together `bytes_max` bytes, or one
    /// record if that is larger.
    pub fn read_log(&self, after: Lsn, bytes_max: usize) -> Result<LogSlice, StoreError> {
        let state = &self.partition.durable().state;
        if after < state.log_start {
            return Err(StoreError::LogTrimmed { start: state.log_start });
        }
        if after >= state.lsn {
            return Ok(LogSlice { records: Vec::new(), to: after });
        }
        let tail = self.core.tail.read(self.partition.id, after, state.lsn, bytes_max);
        if let Some(records) = tail {
            let to = records.last().map_or(after, |record| record.last);
            return Ok(LogSlice { records: records.into_iter().map(|r| r.bytes).collect(), to });
        }
        self.read_log_from_engine(after, state.lsn, bytes_max)
    }

    fn read_log_from_engine(
        &self,
        after: Lsn,
        through: Lsn,
        bytes_max: usize,
    ) -> Result<LogSlice, StoreError> {
        let snapshot = self.core.engine.snapshot()?;
        let mut slice = LogSlice { records: Vec::new(), to: after };
        let mut bytes = 0;
        for pair in self.records_from(&*snapshot, after.next())? {
            let (_, record) = pair?;
            let head = decode_head(&record).map_err(StoreError::corrupt("log record"))?;
            bytes += record.len();
            let enough = bytes > bytes_max || slice.records.len() >= LOG_SLICE_RECORDS_MAX;
            if head.last > through || (enough && !slice.records.is_empty()) {
                break;
            }
            if head.first > slice.to.next() {
                return Err(self.log_lost(slice.to));
            }
            slice.to = slice.to.max(head.last);
            slice.records.push(record);
        }
        if slice.records.is_empty() { Err(self.log_lost(after)) } else { Ok(slice) }
    }

    /// Records from the one that covers `lsn`.
    fn records_from<'a>(
        &self,
        snapshot: &'a dyn Snapshot,
        lsn: Lsn,
    ) -> Result<Scan<'a>, EngineError> {
        let id = self.partition.id;
        let start = keys::log::encode_key(id, Lsn(0));
        let end = keys::log::encode_key(id, lsn.next());
        let mut before = snapshot.scan(Space::Log, &start, Some(&end), Direction::Backward);
        let first = before.next().transpose()?.map_or(end, |(key, _)| key);
        drop(before);
        let end = keys::log::encode_key(id, Lsn(u64::MAX));
        Ok(snapshot.scan(Space::Log, &first, Some(&end), Direction::Forward))
    }

    /// The last entry that is accepted; it may not be durable yet.
    pub fn accepted_lsn(&self) -> Lsn {
        self.partition.inner.lock().state.lsn
    }

    /// How much of the log is kept.
    pub fn log_size(&self) -> LogSize {
        let (start, end) = self.partition.log_sizes.lock().ends();
        let is_empty = end.lsn <= start.lsn;
        LogSize {
            bytes: end.bytes - start.bytes,
            oldest_millis: (!is_empty).then_some(start.millis),
        }
    }

    /// How much of the log lies after an entry, about.
    pub fn log_size_after(&self, after: Lsn) -> LogSize {
        let sizes = self.partition.log_sizes.lock();
        let (at, end) = (sizes.at(after), sizes.ends().1);
        LogSize {
            bytes: end.bytes - at.bytes,
            oldest_millis: (end.lsn > after).then_some(at.millis),
        }
    }

    /// Where the log must begin so that about `bytes_max` bytes are kept, and all from a moment
    /// or later; where it begins now if that is so.
    pub fn log_start_within(&self, bytes_max: u64, since_millis: i64) -> Lsn {
        self.partition.log_sizes.lock().start_within(bytes_max, since_millis)
    }

    /// It was trimmed while it was read, or it is damaged.
    fn log_lost(&self, after: Lsn) -> StoreError {
        let start = self.partition.durable().state.log_start;
        match after < start {
            true => StoreError::LogTrimmed { start },
            false => StoreError::corrupt("change log")(crate::codec::Corrupt {
                what: "a record is missing",
            }),
        }
    }

    /// Says that entries through `through` are wanted no more. The bytes are given back coarsely
    /// and later; a small step becomes durable with whatever is committed next, and a crash before
    /// that only brings the entries back.
    pub fn trim_log(&self, through: Lsn) -> Pending<()> {
        if let Err(error) = self.core.check_alive() {
            return Pending::ready(Err(error));
        }
        let mut inner = self.partition.inner.lock();
        // What is not durable has not been read by anyone.
        let through = through.min(self.partition.durable().state.lsn);
        if inner.dropped || through <= inner.state.log_start {
            return Pending::ready(Ok(()));
        }
        let bytes_before = inner.part.bytes;
        inner.state.log_start = through;
        let saved = self.partition.durable().state.log_start;
        if through.0.saturating_sub(saved.0) < FORGET_STEP {
            return Pending::ready(Ok(()));
        }
        let (answer, pending) = Pending::new();
        let group = inner.open_group();
        inner.when_durable(group, Box::new(|done| answer.give(done)));
        self.core.enqueue(&self.partition, &mut inner, bytes_before);
        pending
    }

    /// Says that nothing of the log is wanted any more: it goes on where it ends. That is durable
    /// with the answer, so that who stood anywhere before it is given rows.
    pub fn begin_log_anew(&self) -> Pending<()> {
        if let Err(error) = self.core.check_alive() {
            return Pending::ready(Err(error));
        }
        let mut inner = self.partition.inner.lock();
        if inner.dropped {
            return Pending::ready(Err(StoreError::NoTable(inner.spec.id)));
        }
        let bytes_before = inner.part.bytes;
        inner.state.log_start = inner.state.lsn;
        self.enqueue_told(&mut inner, bytes_before, ())
    }

    /// Makes the next batch remove all records that cover anything after `last`: the log goes on
    /// there with other entries, which the engine must not take for forgotten ones.
    pub(crate) fn remove_log_after(&self, inner: &mut Inner, last: Lsn) -> Result<(), StoreError> {
        let id = self.partition.id;
        let mut stale: Vec<Lsn> = Vec::new();
        let snapshot = self.core.engine.snapshot()?;
        let [_, (space, start, end), ..] = keys::ranges_of_partition(id);
        for pair in snapshot.scan(space, &start, Some(&end), Direction::Backward) {
            let (_, record) = pair?;
            let head = decode_head(&record).map_err(StoreError::corrupt("log record"))?;
            if head.last <= last {
                break;
            }
            stale.push(head.first);
        }
        let in_flight = inner.in_flight.iter().filter(|(_, to)| *to > last);
        stale.extend(in_flight.map(|(first, _)| *first));
        if self.partition.forgotten.load(Ordering::Acquire) > last.0 {
            self.core.engine.forget_log(LogOf::Changes(id), 0)?;
            self.partition.forgotten.store(0, Ordering::Release);
        }
        inner.part.records.clear();
        inner.part.log_replaced = true;
        inner.part.writes.extend(stale.into_iter().map(|first| BatchWrite {
            space: Space::Log,
            key: keys::log::encode_key(id, first),
            value: None,
        }));
        Ok(())
    }
}
