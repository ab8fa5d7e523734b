//! The rows that are written and read, and the requests made of them before the clock runs.
//!
//! A row has one key column and 10 attribute columns: two integers, a double and seven texts;
//! with names and key it is 1024 bytes as the protocol counts them. Texts are letters and digits
//! by chance: they compress a little, as real text does. The same seed gives the same rows.

use base64::Engine;
use base64::alphabet::STANDARD as ALPHABET;
use bytes::Bytes;
use isthmus_model::change::{
    CellWrite, Condition, Direction, KeyPart, NamedKeyPart, Projection, Returned, RowAction,
    RowChange,
};
use isthmus_model::hlc::{Hlc, Stamp};
use isthmus_model::ids::{Origin, PartitionId, Timestamp};
use isthmus_model::key::{KeyValue, PrimaryKey};
use isthmus_model::row::{Cell, Column, Row};
use isthmus_model::value::{Text, Value};
use isthmus_protocol::client::encode_request;
use isthmus_protocol::request::{
    BatchWriteRow, GetRange, GetRow, Operation, TableWrites, WriteRow,
};
use isthmus_store::codec::row::encode_row;
use isthmus_store::keys;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, RngCore, SeedableRng};

use crate::load::Prepared;

/// Name of the table.
pub(crate) const TABLE: &str = "bench";
/// Name of the key column.
pub(crate) const KEY: &str = "id";
/// Rows of one BatchWriteRow: the most the protocol allows.
pub(crate) const BATCH_ROWS: usize = 200;
/// Rows of one GetRange.
pub(crate) const RANGE_ROWS: u32 = 1000;
/// Batches that are prepared; more would only cost memory.
const BATCHES_MAX: usize = 500;
/// Ranges that are prepared.
const RANGES: usize = 2000;

const COLUMNS: [&str; 10] = [
    "column0", "column1", "column2", "column3", "column4", "column5", "column6", "column7",
    "column8", "column9",
];
/// Bytes of the six shorter texts; the last one fills the row up.
const TEXT_BYTES: usize = 130;
const TEXT_BYTES_LAST: usize = 132;
/// Bytes of a row: names, key and values.
pub(crate) const ROW_BYTES: usize = 1024;

/// Rows with the numbers 0 to `count`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowSet {
    /// How many.
    pub(crate) count: u64,
}

impl RowSet {
    fn random(seed: u64) -> SmallRng {
        SmallRng::seed_from_u64(seed)
    }

    /// All numbers in an order by chance.
    fn shuffled(self, seed: u64) -> Vec<u64> {
        let mut numbers: Vec<u64> = (0..self.count).collect();
        numbers.shuffle(&mut RowSet::random(seed));
        numbers
    }

    /// One PutRow per row, in an order by chance.
    pub(crate) fn puts(self, seed: u64) -> Vec<Prepared> {
        let mut random = RowSet::random(seed);
        let numbers = self.shuffled(seed);
        numbers.iter().map(|number| put(key_text(*number), &mut random)).collect()
    }

    /// All rows once in the order of their keys, in batches.
    pub(crate) fn batches_of_all(self, seed: u64) -> Vec<Prepared> {
        let numbers: Vec<u64> = (0..self.count).collect();
        batches(&numbers, seed)
    }

    /// Batches of rows by chance.
    pub(crate) fn batches(self, seed: u64) -> Vec<Prepared> {
        let mut numbers = self.shuffled(seed);
        numbers.truncate(BATCHES_MAX * BATCH_ROWS);
        batches(&numbers, seed)
    }

    /// One GetRow per row, in an order by chance.
    pub(crate) fn gets(self, seed: u64) -> Vec<Prepared> {
        self.shuffled(seed).iter().map(|number| get(key_text(*number))).collect()
    }

    /// GetRange of 1000 rows from places by chance, never so near the end that one is shorter.
    pub(crate) fn ranges(self, seed: u64) -> Vec<Prepared> {
        let mut random = RowSet::random(seed);
        let starts = self.count.saturating_sub(u64::from(RANGE_ROWS)).max(1);
        (0..RANGES).map(|_| range(random.random_range(0..starts))).collect()
    }

    /// Keys and packed rows as the engine holds them, in the order of their keys.
    pub(crate) fn packed(self, seed: u64) -> Vec<(Bytes, Bytes)> {
        let mut random = RowSet::random(seed);
        let row = |number| (engine_key(number), encode_row(&stored_row(&mut random)));
        (0..self.count).map(row).collect()
    }
}

/// The partition that the raw engine's rows are in.
pub(crate) const PARTITION: PartitionId = PartitionId(1);

/// The key of a row in the raw engine.
pub(crate) fn engine_key(number: u64) -> Bytes {
    let key = PrimaryKey(vec![KeyValue::String(key_text(number))]).encode();
    keys::row::encode_key(PARTITION, &key)
}

fn key_text(number: u64) -> Text {
    Text::from(format!("user{number:012}"))
}

/// The PutRow of a row.
pub(crate) fn put(key: Text, random: &mut SmallRng) -> Prepared {
    let write = WriteRow { table: TABLE.into(), change: change(key, random) };
    Prepared::new(encode_request(&Operation::PutRow(write)))
}

/// The GetRow of a row.
pub(crate) fn get(key: Text) -> Prepared {
    let get = GetRow {
        table: TABLE.into(),
        key: key_parts(KeyPart::Value(KeyValue::String(key))),
        projection: newest(),
        token: None,
    };
    Prepared::new(encode_request(&Operation::GetRow(get)))
}

fn range(start: u64) -> Prepared {
    let range = GetRange {
        table: TABLE.into(),
        start: key_parts(KeyPart::Value(KeyValue::String(key_text(start)))),
        end: key_parts(KeyPart::Max),
        direction: Direction::Forward,
        limit: Some(RANGE_ROWS),
        projection: newest(),
        token: None,
    };
    Prepared::new(encode_request(&Operation::GetRange(range)))
}

fn batches(numbers: &[u64], seed: u64) -> Vec<Prepared> {
    let mut random = RowSet::random(seed);
    let batch = |numbers: &[u64]| {
        let rows = numbers.iter().map(|number| change(key_text(*number), &mut random)).collect();
        let tables = vec![TableWrites { table: TABLE.into(), rows }];
        let batch = BatchWriteRow { tables, atomic: false };
        Prepared::new(encode_request(&Operation::BatchWriteRow(batch)))
    };
    numbers.chunks(BATCH_ROWS).map(batch).collect()
}

fn newest() -> Projection {
    Projection { max_versions: Some(1), ..Projection::default() }
}

fn key_parts(part: KeyPart) -> Vec<NamedKeyPart> {
    vec![NamedKeyPart { name: KEY.into(), part }]
}

fn change(key: Text, random: &mut SmallRng) -> RowChange {
    let cell = |(name, value)| CellWrite { name, value, timestamp: None };
    RowChange {
        key: key_parts(KeyPart::Value(KeyValue::String(key))),
        action: RowAction::Put(cells(random).into_iter().map(cell).collect()),
        condition: Condition::default(),
        returned: Returned::Nothing,
    }
}

fn stored_row(random: &mut SmallRng) -> Row {
    let stamp = Stamp { hlc: Hlc::from_millis(1_700_000_000_000), origin: Origin(1) };
    let column = |(name, value)| {
        let timestamp = Timestamp(stamp.hlc.millis());
        let cell = Cell { timestamp, stamp, value: Some(value) };
        Column { cells: vec![cell], ..Column::new(name) }
    };
    Row {
        tombstone: Some(stamp),
        marker: Some(stamp),
        columns: cells(random).into_iter().map(column).collect(),
    }
}

fn cells(random: &mut SmallRng) -> Vec<(Text, Value)> {
    let value = |place: usize, random: &mut SmallRng| match place {
        0 | 1 => Value::Integer(random.random()),
        2 => Value::Double(random.random()),
        9 => Value::String(text(TEXT_BYTES_LAST, random)),
        _ => Value::String(text(TEXT_BYTES, random)),
    };
    COLUMNS.iter().enumerate().map(|(place, name)| ((*name).into(), value(place, random))).collect()
}

fn text(bytes: usize, random: &mut SmallRng) -> Text {
    let config = base64::engine::GeneralPurposeConfig::new();
    let encoder = base64::engine::GeneralPurpose::new(&ALPHABET, config);
    let mut chance = vec![0; bytes.div_ceil(4) * 3];
    random.fill_bytes(&mut chance);
    let mut text = encoder.encode(chance);
    text.truncate(bytes);
    Text::from(text)
}

#[cfg(test)]
mod tests {
    use isthmus_protocol::request::decode;

    use super::*;

    #[test]
    fn a_row_has_one_kibibyte_as_the_protocol_counts() {
        let key = key_text(7);
        let cells = cells(&mut RowSet::random(1));
        let of_cells: usize = cells.iter().map(|(name, value)| name.len() + value.size()).sum();
        assert_eq!(cells.len(), 10);
        assert_eq!(KEY.len() + key.len() + of_cells, ROW_BYTES);
    }

    #[test]
    fn requests_are_what_the_server_decodes() {
        let rows = RowSet { count: 2500 };
        for (path, requests, count) in [
            ("/PutRow", rows.puts(1), 2500),
            ("/BatchWriteRow", rows.batches_of_all(1), 13),
            ("/BatchWriteRow", rows.batches(1), 13),
            ("/GetRow", rows.gets(1), 2500),
            ("/GetRange", rows.ranges(1), RANGES),
        ] {
            assert_eq!(requests.len(), count);
            decode(path, requests[0].body.clone()).unwrap();
        }
        assert_eq!(rows.puts(3)[5].body, rows.puts(3)[5].body);
    }

    #[test]
    fn packed_rows_come_in_the_order_of_their_keys() {
        let packed = RowSet { count: 100 }.packed(1);
        assert!(packed.is_sorted_by(|a, b| a.0 < b.0));
        assert!(packed.iter().all(|(_, row)| (1000..1100).contains(&row.len())));
    }
}
