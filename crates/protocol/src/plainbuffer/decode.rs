//! Bytes of the wire to keys, cells and rows.
//!
//! Everything comes from outside, so an error is the only thing that wrong bytes can cause. What
//! is allocated is bounded by counts of the data model before it is bounded by the bytes.

use bytes::Bytes;
use isthmus_model::change::{CellChange, CellWrite, KeyPart, NamedKeyPart, ShownCell, ShownRow};
use isthmus_model::ids::Timestamp;
use isthmus_model::key::{KeyValue, PrimaryKey};
use isthmus_model::limits::{KEY_COLUMNS_MAX, WRITE_COLUMNS_MAX};
use isthmus_model::value::{Text, Value};

use crate::crc8;
use crate::error::ProtocolError;
use crate::plainbuffer::{
    HEADER, OP_DELETE_ALL_VERSIONS, OP_DELETE_ONE_VERSION, OP_INCREMENT, TAG_CELL,
    TAG_CELL_CHECKSUM, TAG_CELL_NAME, TAG_CELL_TIMESTAMP, TAG_CELL_TYPE, TAG_CELL_VALUE,
    TAG_DELETE_ROW_MARKER, TAG_ROW_CHECKSUM, TAG_ROW_DATA, TAG_ROW_PK, TYPE_AUTO_INCREMENT,
    TYPE_BINARY, TYPE_BOOLEAN, TYPE_DOUBLE, TYPE_INF_MAX, TYPE_INF_MIN, TYPE_INTEGER, TYPE_STRING,
};

type Result<T> = std::result::Result<T, ProtocolError>;

/// A row of an answer, with the names of its key columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedRow {
    /// Names of the key columns, in the key's order.
    pub key_names: Vec<Text>,
    /// The row.
    pub row: ShownRow,
}

/// A value that stands alone, or one of the ends of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Variant {
    /// A value.
    Value(Value),
    /// Below every value.
    Min,
    /// Above every value.
    Max,
    /// The server shall give the value.
    AutoIncrement,
}

/// Decodes the row of a put.
pub fn decode_put(source: &Bytes) -> Result<(Vec<NamedKeyPart>, Vec<CellWrite>)> {
    let mut reader = Reader::with_header(source)?;
    let mut crc = 0;
    let key = reader.request_key(&mut crc)?;
    let cells = reader.request_cells(&mut crc, put_cell)?;
    reader.row_end(crc, false)?;
    reader.end()?;
    Ok((key, cells))
}

/// Decodes the row of an update.
pub fn decode_update(source: &Bytes) -> Result<(Vec<NamedKeyPart>, Vec<CellChange>)> {
    let mut reader = Reader::with_header(source)?;
    let mut crc = 0;
    let key = reader.request_key(&mut crc)?;
    let cells = reader.request_cells(&mut crc, change_cell)?;
    reader.row_end(crc, false)?;
    reader.end()?;
    Ok((key, cells))
}

/// Decodes the row of a delete: a key and the delete marker.
pub fn decode_delete(source: &Bytes) -> Result<Vec<NamedKeyPart>> {
    let mut reader = Reader::with_header(source)?;
    let mut crc = 0;
    let key = reader.request_key(&mut crc)?;
    reader.row_end(crc, true)?;
    reader.end()?;
    Ok(key)
}

/// Decodes a key that stands alone: of a read, of an end of a range.
pub fn decode_key(source: &Bytes) -> Result<Vec<NamedKeyPart>> {
    let mut reader = Reader::with_header(source)?;
    let mut crc = 0;
    let key = reader.request_key(&mut crc)?;
    reader.row_end(crc, false)?;
    reader.end()?;
    Ok(key)
}

/// Decodes the rows of an answer. No bytes are no rows.
pub fn decode_rows(source: &Bytes) -> Result<Vec<NamedRow>> {
    let mut rows = Vec::new();
    if source.is_empty() {
        return Ok(rows);
    }
    let mut reader = Reader::with_header(source)?;
    while !reader.is_at_end() {
        rows.push(reader.shown_row()?);
    }
    Ok(rows)
}

/// The rows of an answer as they are, without the header, each with what it says.
pub fn split_rows(source: &Bytes) -> Result<Vec<(NamedRow, Bytes)>> {
    let mut rows = Vec::new();
    if source.is_empty() {
        return Ok(rows);
    }
    let mut reader = Reader::with_header(source)?;
    while !reader.is_at_end() {
        let from = reader.at;
        let row = reader.shown_row()?;
        rows.push((row, source.slice(from..reader.at)));
    }
    Ok(rows)
}

/// Decodes a value without tag and length, as filters and split points carry it.
pub fn decode_variant(source: &Bytes) -> Result<Variant> {
    let mut reader = Reader { source, bytes: source, at: 0 };
    let mut crc = 0;
    let value = reader.typed_value(&mut crc)?;
    if !reader.is_at_end() {
        return malformed("bytes follow the value");
    }
    match value {
        RawValue::Min => Ok(Variant::Min),
        RawValue::Max => Ok(Variant::Max),
        RawValue::AutoIncrement => Ok(Variant::AutoIncrement),
        value => reader.value(value).map(Variant::Value),
    }
}

/// A value whose bytes are not yet taken: strings and binaries are places in the source.
#[derive(Clone, Copy)]
enum RawValue {
    Integer(i64),
    Double(f64),
    Boolean(bool),
    String(usize, usize),
    Binary(usize, usize),
    Min,
    Max,
    AutoIncrement,
}

/// A cell whose checksum is right and whose bytes are not yet taken.
struct RawCell {
    name: (usize, usize),
    value: Option<RawValue>,
    op: Option<u8>,
    timestamp: Option<i64>,
}

struct Reader<'a> {
    source: &'a Bytes,
    bytes: &'a [u8],
    at: usize,
}

fn malformed<T>(what: &'static str) -> Result<T> {
    Err(ProtocolError::Malformed(what))
}

impl<'a> Reader<'a> {
    fn with_header(source: &'a Bytes) -> Result<Reader<'a>> {
        let mut reader = Reader { source, bytes: source, at: 0 };
        if reader.u32()? != HEADER {
            return malformed("row does not start with the plainbuffer header");
        }
        Ok(reader)
    }

    fn is_at_end(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// Nothing follows but zeros: one client pads what it sends with them.
    fn end(&self) -> Result<()> {
        let is_padding = self.bytes[self.at..].iter().all(|byte| *byte == 0);
        if is_padding { Ok(()) } else { malformed("bytes follow the row") }
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        match self.bytes[self.at..].first_chunk::<N>() {
            Some(array) => {
                self.at += N;
                Ok(*array)
            }
            None => malformed("row ends too early"),
        }
    }

    #[inline]
    fn u8(&mut self) -> Result<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    #[inline]
    fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    #[inline]
    fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// Takes the next byte if it is this tag.
    #[inline]
    fn takes(&mut self, tag: u8) -> bool {
        let is_next = self.bytes.get(self.at) == Some(&tag);
        self.at += usize::from(is_next);
        is_next
    }

    #[inline]
    fn expect(&mut self, tag: u8, what: &'static str) -> Result<()> {
        if self.takes(tag) { Ok(()) } else { malformed(what) }
    }

    /// Takes so many bytes, if they are there.
    #[inline]
    fn span(&mut self, length: u32) -> Result<(usize, usize)> {
        let length = length as usize;
        if length > self.bytes.len() - self.at {
            return malformed("length is past the end of the row");
        }
        let start = self.at;
        self.at += length;
        Ok((start, self.at))
    }

    #[inline]
    fn text(&self, span: (usize, usize)) -> Result<Text> {
        Text::from_bytes(self.source.slice(span.0..span.1))
            .map_err(|_| ProtocolError::Malformed("text in a row is not UTF-8"))
    }

    /// Type byte and payload.
    #[inline]
    fn typed_value(&mut self, crc: &mut u8) -> Result<RawValue> {
        let kind = self.u8()?;
        *crc = crc8::feed_byte(*crc, kind);
        Ok(match kind {
            TYPE_INTEGER | TYPE_DOUBLE => {
                let bits = self.u64()?;
                *crc = crc8::feed_u64(*crc, bits);
                if kind == TYPE_INTEGER {
                    RawValue::Integer(bits as i64)
                } else {
                    RawValue::Double(f64::from_bits(bits))
                }
            }
            TYPE_BOOLEAN => {
                let byte = self.u8()?;
                *crc = crc8::feed_byte(*crc, byte);
                match byte {
                    0 => RawValue::Boolean(false),
                    1 => RawValue::Boolean(true),
                    _ => return malformed("boolean is neither 0 nor 1"),
                }
            }
            TYPE_STRING | TYPE_BINARY => {
                let length = self.u32()?;
                let (start, end) = self.span(length)?;
                *crc = crc8::feed_u32(*crc, length);
                *crc = crc8::feed(*crc, &self.bytes[start..end]);
                if kind == TYPE_STRING {
                    RawValue::String(start, end)
                } else {
                    RawValue::Binary(start, end)
                }
            }
            TYPE_INF_MIN => RawValue::Min,
            TYPE_INF_MAX => RawValue::Max,
            TYPE_AUTO_INCREMENT => RawValue::AutoIncrement,
            _ => return malformed("type of a value is unknown"),
        })
    }

    /// What follows the tag of a cell.
    #[inline]
    fn cell(&mut self, row_crc: &mut u8) -> Result<RawCell> {
        self.expect(TAG_CELL_NAME, "cell has no name")?;
        let length = self.u32()?;
        let name = self.span(length)?;
        let mut crc = crc8::feed(0, &self.bytes[name.0..name.1]);
        let mut value = None;
        if self.takes(TAG_CELL_VALUE) {
            let length = self.u32()? as usize;
            let start = self.at;
            value = Some(self.typed_value(&mut crc)?);
            if self.at - start != length {
                return malformed("length of a value does not agree with its type");
            }
        }
        let op = if self.takes(TAG_CELL_TYPE) { Some(self.u8()?) } else { None };
        let mut timestamp = None;
        // The checksum takes the timestamp before the operation, the wire has them the other
        // way round.
        if self.takes(TAG_CELL_TIMESTAMP) {
            let bits = self.u64()?;
            crc = crc8::feed_u64(crc, bits);
            timestamp = Some(bits as i64);
        }
        if let Some(op) = op {
            crc = crc8::feed_byte(crc, op);
        }
        self.expect(TAG_CELL_CHECKSUM, "cell is malformed")?;
        if self.u8()? != crc {
            return malformed("checksum of a cell is wrong");
        }
        *row_crc = crc8::feed_byte(*row_crc, crc);
        Ok(RawCell { name, value, op, timestamp })
    }

    /// Marker and checksum.
    fn row_end(&mut self, mut crc: u8, deletes: bool) -> Result<()> {
        if deletes != self.takes(TAG_DELETE_ROW_MARKER) {
            return malformed(if deletes {
                "delete marker is missing"
            } else {
                "delete marker is not allowed here"
            });
        }
        crc = crc8::feed_byte(crc, u8::from(deletes));
        self.expect(TAG_ROW_CHECKSUM, "row is malformed")?;
        if self.u8()? != crc { malformed("checksum of a row is wrong") } else { Ok(()) }
    }

    fn request_key(&mut self, crc: &mut u8) -> Result<Vec<NamedKeyPart>> {
        self.expect(TAG_ROW_PK, "row has no primary key")?;
        let mut key = Vec::with_capacity(KEY_COLUMNS_MAX);
        while self.takes(TAG_CELL) {
            let cell = self.cell(crc)?;
            if key.len() == KEY_COLUMNS_MAX {
                return Err(wrong_key_count());
            }
            key.push(self.key_part(cell)?);
        }
        if key.is_empty() { Err(wrong_key_count()) } else { Ok(key) }
    }

    fn key_part(&self, cell: RawCell) -> Result<NamedKeyPart> {
        let RawCell { name, value: Some(value), op: None, timestamp: None } = cell else {
            return malformed("cell of a primary key is not a plain value");
        };
        let name = self.text(name)?;
        let part = match value {
            RawValue::Min => KeyPart::Min,
            RawValue::Max => KeyPart::Max,
            RawValue::AutoIncrement => KeyPart::AutoIncrement,
            value => match self.value(value)? {
                Value::Integer(number) => KeyPart::Value(KeyValue::Integer(number)),
                Value::String(text) => KeyPart::Value(KeyValue::String(text)),
                Value::Binary(bytes) => KeyPart::Value(KeyValue::Binary(bytes)),
                value @ (Value::Double(_) | Value::Boolean(_)) => KeyPart::NotAKeyType(value),
            },
        };
        Ok(NamedKeyPart { name, part })
    }

    /// Attribute cells of a request, at most as many as a write may have.
    fn request_cells<T>(
        &mut self,
        crc: &mut u8,
        make: fn(&Reader<'a>, RawCell) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut cells = Vec::new();
        if !self.takes(TAG_ROW_DATA) {
            return Ok(cells);
        }
        cells.reserve(((self.bytes.len() - self.at) / CELL_BYTES_MIN).min(16));
        let mut count = 0;
        while self.takes(TAG_CELL) {
            let cell = self.cell(crc)?;
            count += 1;
            // The rest is only counted: the error says how many there were.
            if count <= WRITE_COLUMNS_MAX {
                cells.push(make(self, cell)?);
            }
        }
        if count > WRITE_COLUMNS_MAX {
            return Err(ProtocolError::invalid(format!(
                "The number of attribute columns exceeds the limit, limit count: \
                 {WRITE_COLUMNS_MAX}, column count: {count}."
            )));
        }
        // A wide row waits for its batch with up to half of its room unused.
        if cells.capacity() - cells.len() > SPARE_CELLS_MAX {
            cells.shrink_to_fit();
        }
        Ok(cells)
    }

    #[inline]
    fn value(&self, value: RawValue) -> Result<Value> {
        Ok(match value {
            RawValue::Integer(number) => Value::Integer(number),
            RawValue::Double(number) => Value::Double(number),
            RawValue::Boolean(truth) => Value::Boolean(truth),
            RawValue::String(start, end) => Value::String(self.text((start, end))?),
            RawValue::Binary(start, end) => Value::Binary(self.source.slice(start..end)),
            RawValue::Min | RawValue::Max | RawValue::AutoIncrement => {
                return malformed("value of an attribute column is of no type that it can have");
            }
        })
    }

    fn shown_row(&mut self) -> Result<NamedRow> {
        let mut crc = 0;
        let named = self.request_key(&mut crc)?;
        let mut key_names = Vec::with_capacity(named.len());
        let mut key = Vec::with_capacity(named.len());
        for NamedKeyPart { name, part } in named {
            let KeyPart::Value(value) = part else {
                return malformed("primary key of an answer is not of plain values");
            };
            key_names.push(name);
            key.push(value);
        }
        let mut cells = Vec::new();
        if self.takes(TAG_ROW_DATA) {
            while self.takes(TAG_CELL) {
                let cell = self.cell(&mut crc)?;
                cells.push(self.shown_cell(cell)?);
            }
        }
        self.row_end(crc, false)?;
        Ok(NamedRow { key_names, row: ShownRow { key: PrimaryKey(key), cells } })
    }

    fn shown_cell(&self, cell: RawCell) -> Result<ShownCell> {
        let RawCell { name, value: Some(value), op: None, timestamp: Some(timestamp) } = cell
        else {
            return malformed("cell of an answer is not a value with a timestamp");
        };
        Ok(ShownCell {
            name: self.text(name)?,
            value: self.value(value)?,
            timestamp: Timestamp(timestamp),
        })
    }
}

/// Cells for which a decoded row may have room to spare.
const SPARE_CELLS_MAX: usize = 64;
/// Bytes of the smallest attribute cell.
const CELL_BYTES_MIN: usize = 15;

fn wrong_key_count() -> ProtocolError {
    ProtocolError::invalid(format!(
        "The number of primary key columns must be in range: [1, {KEY_COLUMNS_MAX}]."
    ))
}

#[inline]
fn put_cell(reader: &Reader<'_>, cell: RawCell) -> Result<CellWrite> {
    let RawCell { name, value: Some(value), op: None, timestamp } = cell else {
        return malformed("cell of a put is not a plain value");
    };
    Ok(CellWrite {
        name: reader.text(name)?,
        value: reader.value(value)?,
        timestamp: timestamp.map(Timestamp),
    })
}

fn change_cell(reader: &Reader<'_>, cell: RawCell) -> Result<CellChange> {
    match (cell.op, cell.value, cell.timestamp) {
        (None, _, _) => put_cell(reader, cell).map(CellChange::Put),
        (Some(OP_DELETE_ALL_VERSIONS), None, None) => {
            Ok(CellChange::DeleteColumn { name: reader.text(cell.name)? })
        }
        (Some(OP_DELETE_ONE_VERSION), None, Some(timestamp)) => Ok(CellChange::DeleteVersion {
            name: reader.text(cell.name)?,
            timestamp: Timestamp(timestamp),
        }),
        (Some(OP_INCREMENT), Some(RawValue::Integer(delta)), None) => {
            Ok(CellChange::Increment { name: reader.text(cell.name)?, delta })
        }
        (Some(_), _, _) => malformed("operation of a cell does not go with its parts"),
    }
}
