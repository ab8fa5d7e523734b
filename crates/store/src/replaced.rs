//! Large values that were replaced a moment ago, in memory, so that what is shipped of their
//! successors can be what has changed.
//!
//! One budget of bytes for all partitions: the oldest goes first. Values are kept of partitions
//! that were asked for them; what is not here any more costs bytes on the way, nothing else.

use std::collections::VecDeque;

use bytes::Bytes;
use isthmus_model::ids::{Lsn, PartitionId};
use isthmus_model::key::EncodedKey;
use isthmus_model::row::Row;
use isthmus_model::value::{Text, Value};
use parking_lot::Mutex;

use crate::limits::LARGE_VALUE_BYTES;

/// A value that an entry replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplacedValue {
    /// The row.
    pub key: EncodedKey,
    /// The column.
    pub column: Text,
    /// The bytes of its newest version before the entry.
    pub value: Bytes,
}

/// The values replaced last.
#[derive(Debug)]
pub(crate) struct Replaced {
    bytes_max: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    values: VecDeque<(PartitionId, Lsn, ReplacedValue)>,
    bytes: usize,
}

/// The bytes of a text or binary value.
pub fn bytes_of(value: &Value) -> Option<&Bytes> {
    match value {
        Value::String(text) => Some(text.bytes()),
        Value::Binary(bytes) => Some(bytes),
        Value::Integer(_) | Value::Double(_) | Value::Boolean(_) => None,
    }
}

/// Whether a value is so large that its predecessor is kept.
pub(crate) fn is_large(value: &Value) -> bool {
    bytes_of(value).is_some_and(|bytes| bytes.len() >= LARGE_VALUE_BYTES)
}

impl Replaced {
    pub(crate) fn new(bytes_max: usize) -> Replaced {
        Replaced { bytes_max, inner: Mutex::default() }
    }

    /// Keeps what the large values of a change replace.
    pub(crate) fn keep(
        &self,
        (partition, lsn): (PartitionId, Lsn),
        key: &EncodedKey,
        before: &Row,
        delta: &Row,
    ) {
        let large = delta.columns.iter().filter(|column| {
            column.cells.iter().any(|cell| cell.value.as_ref().is_some_and(is_large))
        });
        for column in large {
            let old = before.column(column.name.as_bytes());
            let value = old.and_then(|old| old.cells.iter().find_map(|cell| cell.value.as_ref()));
            let Some(value) = value.filter(|value| is_large(value)).and_then(bytes_of) else {
                continue;
            };
            // Copied, since a part of a row would hold all of it in memory.
            let value = Bytes::copy_from_slice(value);
            let (key, column) = (key.clone(), column.name.clone());
            self.push(partition, lsn, ReplacedValue { key, column, value });
        }
    }

    fn push(&self, partition: PartitionId, lsn: Lsn, value: ReplacedValue) {
        let mut inner = self.inner.lock();
        inner.bytes += value.value.len();
        inner.values.push_back((partition, lsn, value));
        while inner.bytes > self.bytes_max {
            let Some((_, _, gone)) = inner.values.pop_front() else { return };
            inner.bytes -= gone.value.len();
        }
    }

    /// What the entries in `(after, to]` replaced, as far as it is kept.
    pub(crate) fn between(
        &self,
        partition: PartitionId,
        after: Lsn,
        to: Lsn,
    ) -> Vec<ReplacedValue> {
        let inner = self.inner.lock();
        let wanted = |of: &PartitionId, lsn: &Lsn| *of == partition && *lsn > after && *lsn <= to;
        let found = inner.values.iter().filter(|(of, lsn, _)| wanted(of, lsn));
        found.map(|(_, _, value)| value.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(number: u8, bytes: usize) -> ReplacedValue {
        let key = EncodedKey(Bytes::from(vec![number]));
        ReplacedValue { key, column: "c".into(), value: vec![number; bytes].into() }
    }

    #[test]
    fn values_are_found_by_their_entries_until_newer_ones_need_the_room() {
        let replaced = Replaced::new(100);
        let (one, two) = (PartitionId(1), PartitionId(2));
        replaced.push(one, Lsn(5), value(1, 40));
        replaced.push(two, Lsn(5), value(2, 40));
        assert_eq!(replaced.between(one, Lsn(4), Lsn(5)), [value(1, 40)]);
        assert_eq!(replaced.between(one, Lsn(5), Lsn(9)), []);
        assert_eq!(replaced.between(one, Lsn(0), Lsn(4)), []);
        replaced.push(one, Lsn(6), value(3, 40));
        assert_eq!(replaced.between(one, Lsn(0), Lsn(9)), [value(3, 40)]);
        assert_eq!(replaced.between(two, Lsn(0), Lsn(9)), [value(2, 40)]);
        replaced.push(one, Lsn(7), value(4, 200));
        assert_eq!(replaced.between(one, Lsn(0), Lsn(9)), []);
    }
}
