//! The rows that are written and read, and the requests made of them before the clock runs.
//!
//! A large row has one key column and 10 attribute columns: two integers, a double and seven
//! texts; with names and key it is 1024 bytes as the protocol counts them. A small one has an
//! integer, a double and a text, and 100 bytes. Texts are letters and digits by chance: they
//! compress a little, as real text does. The same seed gives the same rows.

use base64::Engine;
use base64::alphabet::STANDARD as ALPHABET;
use bytes::Bytes;
use isthmus_model::change::{
    CellWrite, Condition, Direction, KeyPart, NamedKeyPart, Projection, Returned, RowAction,
    RowChange,
};
use isthmus_model::hlc::{Hlc, Stamp};
use isthmus_model::ids::{Origin, PartitionId, Timestamp};
use isthmus_model::key::{EncodedKey, KeyValue, PrimaryKey};
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
/// Bytes of a large row: names, key and values.
pub(crate) const ROW_BYTES: usize = 1024;
/// Bytes of the text of a small row.
const TEXT_BYTES_SMALL: usize = 45;
/// Bytes of a small row: names, key and values.
const SMALL_ROW_BYTES: usize = 100;
/// New rows, of which every number comes once as their places go up: a prime.
const NEW_ROWS: u64 = 99_999_999_977;
/// From one new row to the next.
const NEW_STEP: u64 = 61_803_398_875;

/// What columns a row has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// 10 columns, 1024 bytes.
    Large,
    /// 3 columns, 100 bytes.
    Small,
}

impl Shape {
    /// Bytes of a row: names, key and values.
    pub(crate) fn row_bytes(self) -> usize {
        match self {
            Shape::Large => ROW_BYTES,
            Shape::Small => SMALL_ROW_BYTES,
        }
    }
}

/// Rows with the numbers 0 to `count`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowSet {
    /// How many.
    pub(crate) count: u64,
    /// What they hold.
    pub(crate) shape: Shape,
}

impl RowSet {
    pub(crate) fn large(count: u64) -> RowSet {
        RowSet { count, shape: Shape::Large }
    }

    pub(crate) fn small(count: u64) -> RowSet {
        RowSet { count, shape: Shape::Small }
    }

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
        numbers.iter().map(|number| self.put(key_text(*number), &mut random)).collect()
    }

    /// The same of those rows of whose first key column something holds.
    pub(crate) fn puts_where(self, seed: u64, holds: impl Fn(&KeyValue) -> bool) -> Vec<Prepared> {
        let mut random = RowSet::random(seed);
        let keys = self.shuffled(seed).into_iter().map(key_text);
        let chosen = keys.filter(|key| holds(&KeyValue::String(key.clone())));
        chosen.map(|key| self.put(key, &mut random)).collect()
    }

    /// All rows once in the order of their keys, in batches.
    pub(crate) fn batches_of_all(self, seed: u64) -> Vec<Prepared> {
        let numbers: Vec<u64> = (0..self.count).collect();
        self.batches_of(&numbers, BATCH_ROWS, seed)
    }

    /// Batches of rows by chance.
    pub(crate) fn batches(self, seed: u64) -> Vec<Prepared> {
        let mut numbers = self.shuffled(seed);
        numbers.truncate(BATCHES_MAX * BATCH_ROWS);
        self.batches_of(&numbers, BATCH_ROWS, seed)
    }

    /// Batches of rows that are not among these: from the place `first` on, of an order in which
    /// they are spread over all keys.
    pub(crate) fn batches_of_new(self, first: u64, batches: usize, seed: u64) -> Vec<Prepared> {
        let last = first + (batches * BATCH_ROWS) as u64;
        let numbers: Vec<u64> = (first..last).map(|place| self.new_number(place)).collect();
        self.batches_of(&numbers, BATCH_ROWS, seed)
    }

    /// The number of the row that comes at this place among the new ones; each is there once.
    pub(crate) fn new_number(self, place: u64) -> u64 {
        let spread = place.wrapping_mul(NEW_STEP) % NEW_ROWS;
        // Above the rows that are there and below the most that twelve digits can say.
        self.count + spread
    }

    /// What is written to a row.
    pub(crate) fn change(self, number: u64, random: &mut SmallRng) -> RowChange {
        change(key_text(number), self.shape, random)
    }

    /// The PutRow of a row.
    pub(crate) fn put(self, key: Text, random: &mut SmallRng) -> Prepared {
        let write = WriteRow { table: TABLE.into(), change: change(key, self.shape, random) };
        Prepared::new(encode_request(&Operation::PutRow(write)))
    }

    /// The key of a row as a request has it.
    pub(crate) fn key_parts(number: u64) -> Vec<NamedKeyPart> {
        key_parts(KeyPart::Value(KeyValue::String(key_text(number))))
    }

    /// Batches of these rows.
    pub(crate) fn batches_of(self, numbers: &[u64], size: usize, seed: u64) -> Vec<Prepared> {
        let mut random = RowSet::random(seed);
        let batch = |numbers: &[u64]| {
            let rows = numbers.iter().map(|number| self.change(*number, &mut random)).collect();
            let tables = vec![TableWrites { table: TABLE.into(), rows }];
            let batch = BatchWriteRow { tables, atomic: false };
            Prepared::new(encode_request(&Operation::BatchWriteRow(batch)))
        };
        numbers.chunks(size).map(batch).collect()
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

    /// Bytes of one row as it is stored, with its key.
    pub(crate) fn stored_bytes(self) -> usize {
        let row = stored_row(self.shape, &mut RowSet::random(1));
        encoded_key(0).0.len() + encode_row(&row).len()
    }

    /// Keys and packed rows as the engine holds them, in the order of their keys.
    pub(crate) fn packed(self, seed: u64) -> Vec<(Bytes, Bytes)> {
        let mut random = RowSet::random(seed);
        let row = |number| (engine_key(number), encode_row(&stored_row(self.shape, &mut random)));
        (0..self.count).map(row).collect()
    }
}

/// The partition that the raw engine's rows are in.
pub(crate) const PARTITION: PartitionId = PartitionId(1);

/// The key of a row in the raw engine.
pub(crate) fn engine_key(number: u64) -> Bytes {
    keys::row::encode_key(PARTITION, &encoded_key(number))
}

/// The key of a row in its table.
pub(crate) fn encoded_key(number: u64) -> EncodedKey {
    PrimaryKey(vec![KeyValue::String(key_text(number))]).encode()
}

fn key_text(number: u64) -> Text {
    Text::from(format!("user{number:012}"))
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
    range_to(start, key_parts(KeyPart::Max), RANGE_ROWS)
}

/// The GetRange of the rows from one number to before another.
pub(crate) fn range_between(start: u64, end: u64) -> Prepared {
    // One more than there can be, so that the end is reached and not the limit.
    let rows = u32::try_from(end - start + 1).unwrap_or(u32::MAX);
    range_to(start, RowSet::key_parts(end), rows)
}

fn range_to(start: u64, end: Vec<NamedKeyPart>, rows: u32) -> Prepared {
    let range = GetRange {
        table: TABLE.into(),
        start: RowSet::key_parts(start),
        end,
        direction: Direction::Forward,
        limit: Some(rows),
        projection: newest(),
        token: None,
    };
    Prepared::new(encode_request(&Operation::GetRange(range)))
}

fn newest() -> Projection {
    Projection { max_versions: Some(1), ..Projection::default() }
}

fn key_parts(part: KeyPart) -> Vec<NamedKeyPart> {
    vec![NamedKeyPart { name: KEY.into(), part }]
}

fn change(key: Text, shape: Shape, random: &mut SmallRng) -> RowChange {
    let cell = |(name, value)| CellWrite { name, value, timestamp: None };
    RowChange {
        key: key_parts(KeyPart::Value(KeyValue::String(key))),
        action: RowAction::Put(cells(shape, random).into_iter().map(cell).collect()),
        condition: Condition::default(),
        returned: Returned::Nothing,
    }
}

fn stored_row(shape: Shape, random: &mut SmallRng) -> Row {
    let stamp = Stamp { hlc: Hlc::from_millis(1_700_000_000_000), origin: Origin(1) };
    let column = |(name, value)| {
        let timestamp = Timestamp(stamp.hlc.millis());
        let cell = Cell { timestamp, stamp, value: Some(value) };
        Column { cells: vec![cell], ..Column::new(name) }
    };
    Row {
        tombstone: Some(stamp),
        marker: Some(stamp),
        columns: cells(shape, random).into_iter().map(column).collect(),
    }
}

fn cells(shape: Shape, random: &mut SmallRng) -> Vec<(Text, Value)> {
    match shape {
        Shape::Large => large_cells(random),
        Shape::Small => small_cells(random),
    }
}

fn small_cells(random: &mut SmallRng) -> Vec<(Text, Value)> {
    let values = [
        Value::Integer(random.random()),
        Value::Double(random.random()),
        Value::String(text(TEXT_BYTES_SMALL, random)),
    ];
    COLUMNS.iter().map(|name| (*name).into()).zip(values).collect()
}

fn large_cells(random: &mut SmallRng) -> Vec<(Text, Value)> {
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
    fn rows_have_their_sizes_as_the_protocol_counts() {
        for (shape, columns) in [(Shape::Large, 10), (Shape::Small, 3)] {
            let key = key_text(7);
            let cells = cells(shape, &mut RowSet::random(1));
            let of_cells: usize = cells.iter().map(|(name, value)| name.len() + value.size()).sum();
            assert_eq!(cells.len(), columns);
            assert_eq!(KEY.len() + key.len() + of_cells, shape.row_bytes());
        }
    }

    #[test]
    fn requests_are_what_the_server_decodes() {
        let rows = RowSet::large(2500);
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
        let packed = RowSet::large(100).packed(1);
        assert!(packed.is_sorted_by(|a, b| a.0 < b.0));
        assert!(packed.iter().all(|(_, row)| (1000..1100).contains(&row.len())));
    }
}
