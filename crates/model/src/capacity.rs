//! Sizes as the public service counts them, and the capacity units that they cost.
//!
//! One unit is 4 KiB, rounded up per row. A size counts the bytes of names and values, and 8 for
//! the timestamp of each version where a table keeps several versions or lets them expire.
//! Nothing here is the size on disk or on the wire.

use crate::key::{KeyValue, PrimaryKey};
use crate::schema::{Schema, TableOptions};
use crate::value::{Text, Value};

/// Bytes of one capacity unit.
pub const UNIT_BYTES: u64 = 4096;

/// What an operation cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapacityUnits {
    /// Units read.
    pub read: u32,
    /// Units written.
    pub write: u32,
}

impl CapacityUnits {
    /// What a write costs whose condition does not hold.
    pub const FAILED_CHECK: CapacityUnits = CapacityUnits { read: 1, write: 1 };

    /// The cost of a write that was made; `read_bytes` is what its condition had to look at.
    pub fn of_write(size: WriteSize, read_bytes: u64) -> CapacityUnits {
        CapacityUnits { read: units(read_bytes), write: units(size.total() as u64) }
    }

    /// The cost of a read. One that finds nothing costs one unit.
    pub fn of_read(bytes: u64) -> CapacityUnits {
        CapacityUnits { read: units(bytes).max(1), write: 0 }
    }

    /// Adds another cost.
    pub fn add(&mut self, other: CapacityUnits) {
        self.read = self.read.saturating_add(other.read);
        self.write = self.write.saturating_add(other.write);
    }
}

/// The size of one row's change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteSize {
    /// Names and values of the primary key.
    pub key: usize,
    /// Cells to write, and names of columns to delete.
    pub attributes: usize,
}

impl WriteSize {
    /// Both together.
    pub fn total(&self) -> usize {
        self.key + self.attributes
    }
}

/// Units that so many bytes cost.
pub fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX)
}

/// The size of a primary key: names and values.
pub fn key_size(schema: &Schema, key: &PrimaryKey) -> usize {
    values_size(schema, &key.0)
}

pub(crate) fn values_size(schema: &Schema, values: &[KeyValue]) -> usize {
    schema.key_names_size() + values.iter().map(KeyValue::size).sum::<usize>()
}

/// What each version of a column counts besides its name and value.
pub fn version_size(options: &TableOptions) -> usize {
    if options.max_versions > 1 || options.time_to_live_seconds.is_some() { 8 } else { 0 }
}

/// The size of one version.
pub fn cell_size(options: &TableOptions, name: &Text, value: &Value) -> usize {
    name.len() + value.size() + version_size(options)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::fixtures::schema;

    #[test]
    fn values_count_as_documented() {
        let table = [
            (Value::Integer(1), 8),
            (Value::Double(0.5), 8),
            (Value::Boolean(true), 1),
            (Value::String(Text::from("")), 0),
            (Value::String(Text::from("é")), 2),
            (Value::Binary(Bytes::from_static(b"abc")), 3),
        ];
        for (value, size) in table {
            let mut options = TableOptions::default();
            assert_eq!(cell_size(&options, &Text::from("ab"), &value), 2 + size);
            options.max_versions = 2;
            assert_eq!(cell_size(&options, &Text::from("ab"), &value), 10 + size);
            options.max_versions = 1;
            options.time_to_live_seconds = Some(86_400);
            assert_eq!(cell_size(&options, &Text::from("ab"), &value), 10 + size);
        }
    }

    #[test]
    fn units_are_rounded_up_per_row() {
        for (bytes, cost) in [(0, 0), (1, 1), (4096, 1), (4097, 2), (8192, 2), (1 << 22, 1024)] {
            assert_eq!(units(bytes), cost);
        }
        assert_eq!(units(u64::MAX), u32::MAX);
    }

    #[test]
    fn operations_cost_as_documented() {
        let size = WriteSize { key: 100, attributes: 5000 };
        let cost = |read, write| CapacityUnits { read, write };
        assert_eq!(CapacityUnits::of_write(size, 0), cost(0, 2));
        assert_eq!(CapacityUnits::of_write(size, 100), cost(1, 2));
        assert_eq!(CapacityUnits::of_write(size, 9000), cost(3, 2));
        assert_eq!(CapacityUnits::of_read(0), cost(1, 0));
        assert_eq!(CapacityUnits::of_read(4097), cost(2, 0));
        assert_eq!(CapacityUnits::FAILED_CHECK, cost(1, 1));
    }

    #[test]
    fn a_key_counts_its_names() {
        let key = PrimaryKey(vec![KeyValue::String(Text::from("abc")), KeyValue::Integer(1)]);
        // The columns are called "pk" and "id".
        assert_eq!(key_size(&schema(), &key), 2 + 3 + 2 + 8);
    }
}
