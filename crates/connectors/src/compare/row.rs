//! A row as it is compared, and its canonical bytes.
//!
//! What must hold: two rows have the same canonical bytes if and only if they are equal, wherever
//! they came from. The bytes, numbers big-endian:
//!
//! ```text
//! form        1 byte: 1 values only, 2 values with timestamps
//! key         length (4), then the encoding that keeps the order of keys
//! cells       number (4), then each: length of the name (4), name, timestamp (8, form 2 only),
//!             type (1 integer, 2 double, 3 boolean, 4 string, 5 binary), value
//! value       integer and double: 8, the double bit by bit; boolean: 1; else length (4), bytes
//! ```
//!
//! Cells are ordered by the bytes of their names, versions of one column newest first.

use bytes::{Buf, Bytes};
use isthmus_model::ids::Timestamp;
use isthmus_model::key::{EncodedKey, PrimaryKey};
use isthmus_model::value::{Text, Value};

/// Which versions of a column are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Versions {
    /// All, each with its timestamp.
    All,
    /// The newest one.
    Newest {
        /// Whether its timestamp is compared too.
        timestamps: bool,
    },
}

impl Versions {
    /// Whether timestamps are compared.
    pub fn with_timestamps(self) -> bool {
        match self {
            Versions::All => true,
            Versions::Newest { timestamps } => timestamps,
        }
    }
}

/// A cell of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Column.
    pub name: Text,
    /// Version, where versions are compared.
    pub timestamp: Option<Timestamp>,
    /// Value.
    pub value: Value,
}

/// A row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its key.
    pub key: PrimaryKey,
    /// The key, in the encoding that keeps the order.
    pub encoded: EncodedKey,
    /// Where it is in its file: the line, or the number of the row; 0 where it is in a table.
    pub line: u64,
    /// Cells in the order of the canonical bytes.
    pub cells: Vec<Cell>,
}

/// Stored bytes that are no row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Damaged;

impl Row {
    /// A row of these cells, of which only what is compared is kept.
    pub fn new(key: PrimaryKey, line: u64, mut cells: Vec<Cell>, versions: Versions) -> Row {
        cells.sort_by(|a, b| a.name.cmp(&b.name).then(b.timestamp.cmp(&a.timestamp)));
        if let Versions::Newest { timestamps } = versions {
            cells.dedup_by(|later, first| later.name == first.name);
            if !timestamps {
                cells.iter_mut().for_each(|cell| cell.timestamp = None);
            }
        }
        Row { encoded: key.encode(), key, line, cells }
    }

    /// Appends the canonical bytes.
    pub fn put_canonical(&self, versions: Versions, out: &mut Vec<u8>) {
        out.push(form(versions));
        put_bytes(&self.encoded.0, out);
        self.put_cells(versions, out);
    }

    /// Appends all but the key, as it is kept on disk for a while.
    pub(super) fn put_body(&self, versions: Versions, out: &mut Vec<u8>) {
        out.extend(self.line.to_be_bytes());
        self.put_cells(versions, out);
    }

    /// The row of a key and what `put_body` made.
    pub(super) fn of_body(key: Bytes, body: Bytes, versions: Versions) -> Result<Row, Damaged> {
        let mut rest = body;
        let line = rest.try_get_u64().map_err(|_| Damaged)?;
        let number = rest.try_get_u32().map_err(|_| Damaged)?;
        let mut cells = Vec::with_capacity((number as usize).min(rest.len()));
        for _ in 0..number {
            cells.push(take_cell(&mut rest, versions)?);
        }
        let encoded = EncodedKey(key);
        let key = PrimaryKey::decode(&encoded).map_err(|_| Damaged)?;
        if rest.is_empty() { Ok(Row { key, encoded, line, cells }) } else { Err(Damaged) }
    }

    /// Bytes it takes in memory, roughly.
    pub(super) fn size(&self) -> usize {
        let cells = self.cells.iter().map(|cell| cell.name.len() + cell.value.size() + 96);
        self.encoded.0.len() * 2 + 128 + cells.sum::<usize>()
    }

    fn put_cells(&self, versions: Versions, out: &mut Vec<u8>) {
        out.extend((self.cells.len() as u32).to_be_bytes());
        for cell in &self.cells {
            put_bytes(cell.name.as_bytes(), out);
            if versions.with_timestamps() {
                out.extend(cell.timestamp.unwrap_or_default().0.to_be_bytes());
            }
            put_value(&cell.value, out);
        }
    }
}

fn form(versions: Versions) -> u8 {
    if versions.with_timestamps() { 2 } else { 1 }
}

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    // Lines and values are bounded far below 4 GiB.
    out.extend((bytes.len() as u32).to_be_bytes());
    out.extend(bytes);
}

fn put_value(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Integer(number) => {
            out.push(1);
            out.extend(number.to_be_bytes());
        }
        Value::Double(number) => {
            out.push(2);
            out.extend(number.to_bits().to_be_bytes());
        }
        Value::Boolean(truth) => out.extend([3, u8::from(*truth)]),
        Value::String(text) => {
            out.push(4);
            put_bytes(text.as_bytes(), out);
        }
        Value::Binary(bytes) => {
            out.push(5);
            put_bytes(bytes, out);
        }
    }
}

fn take_bytes(rest: &mut Bytes) -> Result<Bytes, Damaged> {
    let length = rest.try_get_u32().map_err(|_| Damaged)? as usize;
    if length > rest.len() { Err(Damaged) } else { Ok(rest.split_to(length)) }
}

fn take_text(rest: &mut Bytes) -> Result<Text, Damaged> {
    Text::from_bytes(take_bytes(rest)?).map_err(|_| Damaged)
}

fn take_cell(rest: &mut Bytes, versions: Versions) -> Result<Cell, Damaged> {
    let name = take_text(rest)?;
    let timestamp = match versions.with_timestamps() {
        true => Some(Timestamp(rest.try_get_i64().map_err(|_| Damaged)?)),
        false => None,
    };
    let value = match rest.try_get_u8().map_err(|_| Damaged)? {
        1 => Value::Integer(rest.try_get_i64().map_err(|_| Damaged)?),
        2 => Value::Double(f64::from_bits(rest.try_get_u64().map_err(|_| Damaged)?)),
        3 => Value::Boolean(rest.try_get_u8().map_err(|_| Damaged)? == 1),
        4 => Value::String(take_text(rest)?),
        5 => Value::Binary(take_bytes(rest)?),
        _ => return Err(Damaged),
    };
    Ok(Cell { name, timestamp, value })
}
