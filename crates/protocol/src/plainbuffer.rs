//! The encoding of rows and primary keys on the wire, with its checksums.
//!
//! ```text
//! plainbuffer  = header row*
//! row          = 01 cell* [02 cell*] [08] 09 row-checksum
//! cell         = 03 name [value] [type] [timestamp] 0A cell-checksum
//! name         = 04 length bytes            value = 05 length type-byte payload
//! type         = 06 op                      timestamp = 07 int64
//! ```
//!
//! Decoding shares the bytes of its source and believes nothing: every length is compared with
//! what is left before it is used, tags have one legal order, the value's length field must
//! agree with its type, both checksums must be right, and nothing may follow. Extensions
//! (sequence information of streams) are refused: a client must not be able to forge them.

mod decode;
mod encode;

pub use crate::plainbuffer::decode::{
    NamedRow, Variant, decode_delete, decode_key, decode_put, decode_rows, decode_update,
    decode_variant, split_rows,
};
pub use crate::plainbuffer::encode::{
    RowWriter, ValueRef, encode_change, encode_named_key, put_header, put_key_row, put_row,
    put_variant,
};

const HEADER: u32 = 0x75;

const TAG_ROW_PK: u8 = 0x01;
const TAG_ROW_DATA: u8 = 0x02;
const TAG_CELL: u8 = 0x03;
const TAG_CELL_NAME: u8 = 0x04;
const TAG_CELL_VALUE: u8 = 0x05;
const TAG_CELL_TYPE: u8 = 0x06;
const TAG_CELL_TIMESTAMP: u8 = 0x07;
const TAG_DELETE_ROW_MARKER: u8 = 0x08;
const TAG_ROW_CHECKSUM: u8 = 0x09;
const TAG_CELL_CHECKSUM: u8 = 0x0a;

const TYPE_INTEGER: u8 = 0x00;
const TYPE_DOUBLE: u8 = 0x01;
const TYPE_BOOLEAN: u8 = 0x02;
const TYPE_STRING: u8 = 0x03;
const TYPE_BINARY: u8 = 0x07;
const TYPE_INF_MIN: u8 = 0x09;
const TYPE_INF_MAX: u8 = 0x0a;
const TYPE_AUTO_INCREMENT: u8 = 0x0b;

const OP_DELETE_ALL_VERSIONS: u8 = 0x01;
const OP_DELETE_ONE_VERSION: u8 = 0x03;
const OP_INCREMENT: u8 = 0x04;

#[cfg(test)]
mod tests;
