//! Keys, cells and rows to bytes of the wire, with checksums made on the way.
//!
//! Nothing is allocated per cell: all goes into the buffer that was handed in, in one pass.

use bytes::{BufMut, Bytes, BytesMut};
use isthmus_model::change::{CellChange, KeyPart, NamedKeyPart, RowAction, ShownRow};
use isthmus_model::key::{KeyValue, PrimaryKey};
use isthmus_model::schema::Schema;
use isthmus_model::value::Value;

use crate::crc8;
use crate::plainbuffer::{
    HEADER, OP_DELETE_ALL_VERSIONS, OP_DELETE_ONE_VERSION, OP_INCREMENT, TAG_CELL,
    TAG_CELL_CHECKSUM, TAG_CELL_NAME, TAG_CELL_TIMESTAMP, TAG_CELL_TYPE, TAG_CELL_VALUE,
    TAG_DELETE_ROW_MARKER, TAG_ROW_CHECKSUM, TAG_ROW_DATA, TAG_ROW_PK, TYPE_AUTO_INCREMENT,
    TYPE_BINARY, TYPE_BOOLEAN, TYPE_DOUBLE, TYPE_INF_MAX, TYPE_INF_MIN, TYPE_INTEGER, TYPE_STRING,
    Variant,
};

/// A value that is only looked at.
#[derive(Clone, Copy, Debug)]
pub enum ValueRef<'a> {
    /// 64-bit signed.
    Integer(i64),
    /// IEEE 754 binary64.
    Double(f64),
    /// True or false.
    Boolean(bool),
    /// Bytes of UTF-8 text.
    String(&'a [u8]),
    /// Bytes.
    Binary(&'a [u8]),
}

impl<'a> From<&'a Value> for ValueRef<'a> {
    fn from(value: &'a Value) -> ValueRef<'a> {
        match value {
            Value::Integer(number) => ValueRef::Integer(*number),
            Value::Double(number) => ValueRef::Double(*number),
            Value::Boolean(truth) => ValueRef::Boolean(*truth),
            Value::String(text) => ValueRef::String(text.as_bytes()),
            Value::Binary(bytes) => ValueRef::Binary(bytes),
        }
    }
}

impl<'a> From<&'a KeyValue> for ValueRef<'a> {
    fn from(value: &'a KeyValue) -> ValueRef<'a> {
        match value {
            KeyValue::Integer(number) => ValueRef::Integer(*number),
            KeyValue::String(text) => ValueRef::String(text.as_bytes()),
            KeyValue::Binary(bytes) => ValueRef::Binary(bytes),
        }
    }
}

/// Puts the header, which stands once before the first row.
pub fn put_header(out: &mut BytesMut) {
    out.put_u32_le(HEADER);
}

/// Puts one row, without the header.
pub fn put_row(out: &mut BytesMut, schema: &Schema, row: &ShownRow) {
    let mut writer = RowWriter::begin(out);
    writer.key(schema, &row.key);
    for cell in &row.cells {
        writer.cell(cell.name.as_bytes(), ValueRef::from(&cell.value), Some(cell.timestamp.0));
    }
    writer.finish(false);
}

/// Puts a row that is only a key, without the header.
pub fn put_key_row(out: &mut BytesMut, schema: &Schema, key: &PrimaryKey) {
    let mut writer = RowWriter::begin(out);
    writer.key(schema, key);
    writer.finish(false);
}

/// Puts a value without tag and length, as filters and split points carry it.
pub fn put_variant(out: &mut BytesMut, variant: &Variant) {
    match variant {
        Variant::Value(value) => {
            put_typed(out, 0, ValueRef::from(value));
        }
        Variant::Min => out.put_u8(TYPE_INF_MIN),
        Variant::Max => out.put_u8(TYPE_INF_MAX),
        Variant::AutoIncrement => out.put_u8(TYPE_AUTO_INCREMENT),
    }
}

/// Encodes a key as a client sends it.
pub fn encode_named_key(key: &[NamedKeyPart]) -> Bytes {
    let mut out = BytesMut::with_capacity(64 * key.len() + 16);
    put_header(&mut out);
    let mut writer = RowWriter::begin(&mut out);
    writer.named_key(key);
    writer.finish(false);
    out.freeze()
}

/// Encodes a change of a row as a client sends it.
pub fn encode_change(key: &[NamedKeyPart], action: &RowAction) -> Bytes {
    let mut out = BytesMut::with_capacity(1024);
    put_header(&mut out);
    let mut writer = RowWriter::begin(&mut out);
    writer.named_key(key);
    match action {
        RowAction::Put(cells) => {
            for cell in cells {
                let timestamp = cell.timestamp.map(|timestamp| timestamp.0);
                writer.cell(cell.name.as_bytes(), ValueRef::from(&cell.value), timestamp);
            }
        }
        RowAction::Update(changes) => {
            for change in changes {
                writer.change(change);
            }
        }
        RowAction::Delete => {}
    }
    writer.finish(matches!(action, RowAction::Delete));
    out.freeze()
}

/// Writes one row: first its key columns, then its cells, then `finish`.
pub struct RowWriter<'a> {
    out: &'a mut BytesMut,
    crc: u8,
    has_data: bool,
}

impl<'a> RowWriter<'a> {
    /// Starts a row.
    pub fn begin(out: &'a mut BytesMut) -> RowWriter<'a> {
        out.put_u8(TAG_ROW_PK);
        RowWriter { out, crc: 0, has_data: false }
    }

    /// Writes a whole key under the schema's names.
    pub fn key(&mut self, schema: &Schema, key: &PrimaryKey) {
        for (column, value) in schema.key_columns.iter().zip(&key.0) {
            self.key_column(column.name.as_bytes(), ValueRef::from(value));
        }
    }

    /// Writes a key column.
    #[inline]
    pub fn key_column(&mut self, name: &[u8], value: ValueRef<'_>) {
        let crc = self.value_cell(name, value);
        self.checksum(crc);
    }

    fn named_key(&mut self, key: &[NamedKeyPart]) {
        for NamedKeyPart { name, part } in key {
            let name = name.as_bytes();
            match part {
                KeyPart::Value(value) => self.key_column(name, ValueRef::from(value)),
                KeyPart::NotAKeyType(value) => self.key_column(name, ValueRef::from(value)),
                KeyPart::AutoIncrement => self.bare_key_column(name, TYPE_AUTO_INCREMENT),
                KeyPart::Min => self.bare_key_column(name, TYPE_INF_MIN),
                KeyPart::Max => self.bare_key_column(name, TYPE_INF_MAX),
            }
        }
    }

    fn bare_key_column(&mut self, name: &[u8], kind: u8) {
        let crc = self.cell_name(name);
        self.out.put_slice(&[TAG_CELL_VALUE, 1, 0, 0, 0, kind]);
        self.checksum(crc8::feed_byte(crc, kind));
    }

    /// Writes an attribute cell.
    #[inline]
    pub fn cell(&mut self, name: &[u8], value: ValueRef<'_>, timestamp: Option<i64>) {
        self.begin_data();
        let mut crc = self.value_cell(name, value);
        if let Some(timestamp) = timestamp {
            crc = self.timestamp(crc, timestamp);
        }
        self.checksum(crc);
    }

    fn change(&mut self, change: &CellChange) {
        self.begin_data();
        let (mut crc, op, timestamp) = match change {
            CellChange::Put(cell) => {
                let timestamp = cell.timestamp.map(|timestamp| timestamp.0);
                self.cell(cell.name.as_bytes(), ValueRef::from(&cell.value), timestamp);
                return;
            }
            CellChange::DeleteVersion { name, timestamp } => {
                (self.cell_name(name.as_bytes()), OP_DELETE_ONE_VERSION, Some(timestamp.0))
            }
            CellChange::DeleteColumn { name } => {
                (self.cell_name(name.as_bytes()), OP_DELETE_ALL_VERSIONS, None)
            }
            CellChange::Increment { name, delta } => {
                let crc = self.value_cell(name.as_bytes(), ValueRef::Integer(*delta));
                (crc, OP_INCREMENT, None)
            }
        };
        self.out.put_slice(&[TAG_CELL_TYPE, op]);
        if let Some(timestamp) = timestamp {
            crc = self.timestamp(crc, timestamp);
        }
        self.checksum(crc8::feed_byte(crc, op));
    }

    /// Ends the row.
    pub fn finish(self, deletes: bool) {
        if deletes {
            self.out.put_u8(TAG_DELETE_ROW_MARKER);
        }
        let crc = crc8::feed_byte(self.crc, u8::from(deletes));
        self.out.put_slice(&[TAG_ROW_CHECKSUM, crc]);
    }

    fn begin_data(&mut self) {
        if !self.has_data {
            self.has_data = true;
            self.out.put_u8(TAG_ROW_DATA);
        }
    }

    #[inline]
    fn cell_name(&mut self, name: &[u8]) -> u8 {
        let [a, b, c, d] = length(name);
        self.out.put_slice(&[TAG_CELL, TAG_CELL_NAME, a, b, c, d]);
        self.out.put_slice(name);
        crc8::feed(0, name)
    }

    #[inline]
    fn value_cell(&mut self, name: &[u8], value: ValueRef<'_>) -> u8 {
        let crc = self.cell_name(name);
        let size: u32 = match value {
            ValueRef::Integer(_) | ValueRef::Double(_) => 9,
            ValueRef::Boolean(_) => 2,
            ValueRef::String(bytes) | ValueRef::Binary(bytes) => {
                u32::from_le_bytes(length(bytes)) + 5
            }
        };
        let [a, b, c, d] = size.to_le_bytes();
        self.out.put_slice(&[TAG_CELL_VALUE, a, b, c, d]);
        put_typed(self.out, crc, value)
    }

    #[inline]
    fn timestamp(&mut self, crc: u8, timestamp: i64) -> u8 {
        let mut bytes = [TAG_CELL_TIMESTAMP; 9];
        bytes[1..].copy_from_slice(&timestamp.to_le_bytes());
        self.out.put_slice(&bytes);
        crc8::feed_u64(crc, timestamp as u64)
    }

    #[inline]
    fn checksum(&mut self, crc: u8) {
        self.out.put_slice(&[TAG_CELL_CHECKSUM, crc]);
        self.crc = crc8::feed_byte(self.crc, crc);
    }
}

fn length(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).expect("names and values are far below 4 GiB").to_le_bytes()
}

/// Type byte and payload; gives the checksum after them.
#[inline]
fn put_typed(out: &mut BytesMut, crc: u8, value: ValueRef<'_>) -> u8 {
    match value {
        ValueRef::Integer(number) => put_fixed(out, crc, TYPE_INTEGER, number as u64),
        ValueRef::Double(number) => put_fixed(out, crc, TYPE_DOUBLE, number.to_bits()),
        ValueRef::Boolean(truth) => {
            let bytes = [TYPE_BOOLEAN, u8::from(truth)];
            out.put_slice(&bytes);
            crc8::feed(crc, &bytes)
        }
        ValueRef::String(bytes) => put_variable(out, crc, TYPE_STRING, bytes),
        ValueRef::Binary(bytes) => put_variable(out, crc, TYPE_BINARY, bytes),
    }
}

#[inline]
fn put_fixed(out: &mut BytesMut, crc: u8, kind: u8, bits: u64) -> u8 {
    let mut bytes = [kind; 9];
    bytes[1..].copy_from_slice(&bits.to_le_bytes());
    out.put_slice(&bytes);
    crc8::feed_u64(crc8::feed_byte(crc, kind), bits)
}

#[inline]
fn put_variable(out: &mut BytesMut, crc: u8, kind: u8, bytes: &[u8]) -> u8 {
    let [a, b, c, d] = length(bytes);
    let head = [kind, a, b, c, d];
    out.put_slice(&head);
    out.put_slice(bytes);
    crc8::feed(crc8::feed(crc, &head), bytes)
}
