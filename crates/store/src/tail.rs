//! The newest log records of all partitions, in memory, for peers near the end of the log.
//!
//! One budget of bytes for all: the oldest record of the node goes first. What is here is durable.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use isthmus_model::ids::{Lsn, PartitionId};
use parking_lot::Mutex;

/// One record and the range that it covers.
#[derive(Clone, Debug)]
pub(crate) struct TailRecord {
    pub(crate) first: Lsn,
    pub(crate) last: Lsn,
    pub(crate) bytes: Bytes,
}

#[derive(Default)]
struct Inner {
    partitions: BTreeMap<PartitionId, VecDeque<TailRecord>>,
    /// In the order they came; a record may be gone already.
    order: VecDeque<(PartitionId, Lsn)>,
    bytes: usize,
    records: usize,
}

/// Places of records that are gone, beyond as many as live, before they are cleared away.
const STALE_MAX: usize = 1024;

/// The newest records.
pub(crate) struct Tail {
    bytes_max: usize,
    inner: Mutex<Inner>,
}

impl Tail {
    pub(crate) fn new(bytes_max: usize) -> Tail {
        Tail { bytes_max, inner: Mutex::new(Inner::default()) }
    }

    /// Appends a record that follows the last one of its partition.
    pub(crate) fn push(&self, partition: PartitionId, record: TailRecord) {
        let mut inner = self.inner.lock();
        inner.bytes += record.bytes.len();
        inner.records += 1;
        inner.order.push_back((partition, record.first));
        inner.partitions.entry(partition).or_default().push_back(record);
        while inner.bytes > self.bytes_max {
            let Some((oldest, first)) = inner.order.pop_front() else { break };
            inner.drop_through(oldest, first);
        }
        inner.clear_stale();
    }

    /// Drops the records of a partition that lie wholly at or before an LSN.
    pub(crate) fn trim(&self, partition: PartitionId, through: Lsn) {
        let mut inner = self.inner.lock();
        loop {
            let records = inner.partitions.get(&partition);
            let Some(first) = records.and_then(|records| records.front()) else { return };
            if first.last > through {
                return;
            }
            let first = first.first;
            inner.drop_through(partition, first);
        }
    }

    /// Forgets a partition.
    pub(crate) fn clear(&self, partition: PartitionId) {
        self.trim(partition, Lsn(u64::MAX));
    }

    /// The records that hold what comes after `after`, up to and with `through`, as many as fit
    /// `bytes_max` but at least one. `None`: the first of them is not here.
    pub(crate) fn read(
        &self,
        partition: PartitionId,
        after: Lsn,
        through: Lsn,
        bytes_max: usize,
    ) -> Option<Vec<TailRecord>> {
        let inner = self.inner.lock();
        let records = inner.partitions.get(&partition)?;
        let place = records.partition_point(|record| record.last <= after);
        if records.get(place)?.first > after.next() {
            return None;
        }
        let mut taken: Vec<TailRecord> = Vec::new();
        let mut bytes = 0;
        for record in records.range(place..).take_while(|record| record.last <= through) {
            bytes += record.bytes.len();
            if bytes > bytes_max && !taken.is_empty() {
                break;
            }
            taken.push(record.clone());
        }
        (!taken.is_empty()).then_some(taken)
    }
}

impl Inner {
    /// Drops from the front of a partition through the record that begins at `first`.
    fn drop_through(&mut self, partition: PartitionId, first: Lsn) {
        let Some(records) = self.partitions.get_mut(&partition) else { return };
        while records.front().is_some_and(|record| record.first <= first) {
            if let Some(record) = records.pop_front() {
                self.bytes -= record.bytes.len();
                self.records -= 1;
            }
        }
        if records.is_empty() {
            self.partitions.remove(&partition);
        }
    }

    fn clear_stale(&mut self) {
        if self.order.len() <= 2 * self.records + STALE_MAX {
            return;
        }
        let partitions = &self.partitions;
        self.order.retain(|(partition, first)| {
            let front = partitions.get(partition).and_then(|records| records.front());
            front.is_some_and(|front| front.first <= *first)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(first: u64, last: u64) -> TailRecord {
        TailRecord { first: Lsn(first), last: Lsn(last), bytes: Bytes::from(vec![0; 100]) }
    }

    fn firsts(read: Option<Vec<TailRecord>>) -> Option<Vec<u64>> {
        read.map(|records| records.iter().map(|record| record.first.0).collect())
    }

    #[test]
    fn oldest_record_of_the_node_goes_first() {
        let tail = Tail::new(300);
        let (a, b) = (PartitionId(1), PartitionId(2));
        tail.push(a, record(1, 5));
        tail.push(b, record(1, 1));
        tail.push(a, record(6, 6));
        let end = Lsn(100);
        assert_eq!(firsts(tail.read(a, Lsn(3), end, 1000)), Some(vec![1, 6]));
        assert_eq!(firsts(tail.read(a, Lsn(3), end, 50)), Some(vec![1]));
        assert_eq!(firsts(tail.read(a, Lsn(3), Lsn(5), 1000)), Some(vec![1]));
        tail.push(b, record(2, 9));
        assert_eq!(firsts(tail.read(a, Lsn(3), end, 1000)), None);
        assert_eq!(firsts(tail.read(a, Lsn(5), end, 1000)), Some(vec![6]));
        assert_eq!(firsts(tail.read(a, Lsn(6), end, 1000)), None);
        tail.trim(b, Lsn(1));
        assert_eq!(firsts(tail.read(b, Lsn(0), end, 1000)), None);
        assert_eq!(firsts(tail.read(b, Lsn(1), end, 1000)), Some(vec![2]));
        tail.clear(b);
        assert_eq!(firsts(tail.read(b, Lsn(1), end, 1000)), None);
        assert_eq!(tail.inner.lock().bytes, 100);
    }

    #[test]
    fn trimmed_records_leave_no_places_behind() {
        let tail = Tail::new(1000);
        tail.push(PartitionId(1), record(1, 1));
        for lsn in 1..10_000 {
            tail.push(PartitionId(2), record(lsn, lsn));
            tail.trim(PartitionId(2), Lsn(lsn));
        }
        assert!(tail.inner.lock().order.len() <= STALE_MAX + 4);
    }
}
