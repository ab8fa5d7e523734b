//! Answers whose rows are written where they will stay.
//!
//! The head of such an answer says how long its rows are, so it is known last. Room for it is
//! left in front of the rows; what is not needed of that room is dropped.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use isthmus_model::change::ShownRow;
use isthmus_model::key::PrimaryKey;
use isthmus_model::schema::Schema;
use prost::Message;

use crate::plainbuffer::{RowWriter, put_header, put_key_row, put_row};
use crate::response::{Consumed, consumed_message};

/// Collects the rows of GetRow or GetRange in the buffer that becomes the answer.
#[derive(Debug)]
pub struct RowsAnswer<'a> {
    schema: &'a Schema,
    /// Room for the head, then the rows.
    out: BytesMut,
}

/// Bytes that the fields in front of the rows can take.
pub(super) const HEAD_BYTES_MAX: usize = 32;

impl<'a> RowsAnswer<'a> {
    /// Starts an answer without rows.
    pub fn new(schema: &'a Schema) -> RowsAnswer<'a> {
        RowsAnswer::with_capacity(schema, 2048)
    }

    /// Starts an answer whose rows will take about so many bytes.
    pub fn with_capacity(schema: &'a Schema, row_bytes: usize) -> RowsAnswer<'a> {
        let mut out = BytesMut::with_capacity(HEAD_BYTES_MAX + row_bytes + 256);
        out.put_bytes(0, HEAD_BYTES_MAX);
        RowsAnswer { schema, out }
    }

    /// Adds a row.
    pub fn push(&mut self, row: &ShownRow) {
        self.start();
        put_row(&mut self.out, self.schema, row);
    }

    /// Adds a row that the caller writes itself, cell by cell.
    pub fn row_writer(&mut self) -> RowWriter<'_> {
        self.start();
        RowWriter::begin(&mut self.out)
    }

    /// Makes room for so many bytes of rows more, so that they need not be moved as they come.
    pub fn reserve(&mut self, row_bytes: usize) {
        self.out.reserve(row_bytes);
    }

    /// Bytes of the rows so far.
    pub fn row_bytes(&self) -> usize {
        self.out.len() - HEAD_BYTES_MAX
    }

    fn start(&mut self) {
        if self.row_bytes() == 0 {
            put_header(&mut self.out);
        }
    }

    /// The answer of GetRow.
    pub fn finish_row(mut self, consumed: Consumed, next_token: Option<&[u8]>) -> Bytes {
        let row_bytes = self.row_bytes();
        if let Some(token) = next_token {
            put_bytes(&mut self.out, 3, token);
        }
        self.finish(consumed, row_bytes)
    }

    /// The answer of GetRange. `next_start` is where the next page starts, if there is one.
    pub fn finish_range(
        mut self,
        consumed: Consumed,
        next_start: Option<&PrimaryKey>,
        next_token: Option<&[u8]>,
    ) -> Bytes {
        let row_bytes = self.row_bytes();
        if let Some(key) = next_start {
            let mut row = BytesMut::with_capacity(256);
            put_header(&mut row);
            put_key_row(&mut row, self.schema, key);
            put_bytes(&mut self.out, 3, &row);
        }
        if let Some(token) = next_token {
            put_bytes(&mut self.out, 4, token);
        }
        self.finish(consumed, row_bytes)
    }

    /// Writes the head right before the rows and drops the room that is left.
    fn finish(mut self, consumed: Consumed, row_bytes: usize) -> Bytes {
        let mut head = BytesMut::with_capacity(HEAD_BYTES_MAX);
        head.put_slice(&consumed_field(1, consumed));
        put_key(&mut head, 2, WIRE_BYTES);
        put_varint(&mut head, row_bytes as u64);
        let unused = HEAD_BYTES_MAX - head.len();
        self.out[unused..HEAD_BYTES_MAX].copy_from_slice(&head);
        self.out.advance(unused);
        self.out.freeze()
    }
}

/// The capacity units as a whole field; at most 16 bytes.
pub(super) fn consumed_field(number: u32, consumed: Consumed) -> BytesMut {
    let message = consumed_message(consumed);
    let mut out = BytesMut::with_capacity(16);
    put_key(&mut out, number, WIRE_BYTES);
    put_varint(&mut out, message.encoded_len() as u64);
    message.encode(&mut out).expect("a growing buffer takes everything");
    out
}

pub(super) const WIRE_BYTES: u8 = 2;

pub(super) fn put_key(out: &mut BytesMut, number: u32, wire_type: u8) {
    put_varint(out, u64::from(number << 3 | u32::from(wire_type)));
}

pub(super) fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

pub(super) fn put_bytes(out: &mut BytesMut, number: u32, bytes: &[u8]) {
    put_key(out, number, WIRE_BYTES);
    put_varint(out, bytes.len() as u64);
    out.put_slice(bytes);
}

/// Bytes of a field with a number below 16.
pub(super) fn field_size(length: usize) -> usize {
    1 + prost::length_delimiter_len(length) + length
}
