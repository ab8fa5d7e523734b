//! Bytes of rows, entries and schemas, at rest and on the way between regions.
//!
//! Numbers are varints (7 bits a byte, lowest first), signed ones zigzag. Decoding copies no text
//! or value: they are views of the buffer. Whatever the bytes, decoding ends in a value or in
//! `Corrupt`, allocates no more than a small multiple of the bytes, and never panics.

use bytes::Bytes;
use isthmus_model::hlc::{Hlc, Stamp};
use isthmus_model::ids::Origin;
use isthmus_model::value::Text;

pub mod entry;
pub mod plain;
pub mod row;
pub mod schema;

/// Bytes that are not what this program wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bytes are damaged: {what}")]
pub struct Corrupt {
    /// What did not fit.
    pub what: &'static str,
}

/// Shorthand for an error.
pub(crate) fn corrupt<T>(what: &'static str) -> Result<T, Corrupt> {
    Err(Corrupt { what })
}

/// Bytes of the longest varint.
const VARINT_BYTES_MAX: usize = 10;
/// Bytes of an encoded stamp.
pub(crate) const STAMP_BYTES: usize = 9;

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_varint(out, ((value << 1) ^ (value >> 63)) as u64);
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(crate) fn put_stamp(out: &mut Vec<u8>, stamp: Stamp) {
    out.extend_from_slice(&stamp.hlc.0.to_le_bytes());
    out.push(stamp.origin.0);
}

/// Reads from the front of a shared buffer.
pub(crate) struct Reader<'a> {
    buffer: &'a Bytes,
    place: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(buffer: &'a Bytes) -> Reader<'a> {
        Reader { buffer, place: 0 }
    }

    pub(crate) fn left(&self) -> usize {
        self.buffer.len() - self.place
    }

    fn rest(&self) -> &[u8] {
        &self.buffer[self.place..]
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Corrupt> {
        let Some(byte) = self.rest().first().copied() else { return corrupt("ends too early") };
        self.place += 1;
        Ok(byte)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Corrupt> {
        let Some(array) = self.rest().first_chunk::<N>().copied() else {
            return corrupt("ends too early");
        };
        self.place += N;
        Ok(array)
    }

    pub(crate) fn varint(&mut self) -> Result<u64, Corrupt> {
        let first = self.byte()?;
        if first < 0x80 {
            return Ok(u64::from(first));
        }
        let mut value = u64::from(first & 0x7f);
        for index in 1..VARINT_BYTES_MAX {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if index == VARINT_BYTES_MAX - 1 && bits > 1 {
                return corrupt("number too large");
            }
            value |= bits << (7 * index);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        corrupt("number too long")
    }

    pub(crate) fn signed(&mut self) -> Result<i64, Corrupt> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// A number of things of which each takes at least `bytes_min`, so that no claim of a count
    /// makes us allocate more than the bytes warrant.
    pub(crate) fn count(&mut self, bytes_min: usize) -> Result<usize, Corrupt> {
        let count = self.varint()?;
        if count > (self.left() / bytes_min.max(1)) as u64 {
            return corrupt("count exceeds the bytes");
        }
        Ok(count as usize)
    }

    /// The next `length` bytes, shared.
    pub(crate) fn take(&mut self, length: usize) -> Result<Bytes, Corrupt> {
        if length > self.left() {
            return corrupt("ends too early");
        }
        let bytes = self.buffer.slice(self.place..self.place + length);
        self.place += length;
        Ok(bytes)
    }

    /// All that is left, shared.
    pub(crate) fn take_rest(&mut self) -> Bytes {
        let bytes = self.buffer.slice(self.place..);
        self.place = self.buffer.len();
        bytes
    }

    /// The next `length` bytes, only looked at.
    pub(crate) fn slice(&mut self, length: usize) -> Result<&'a [u8], Corrupt> {
        let bytes = self.place.checked_add(length).and_then(|end| self.buffer.get(self.place..end));
        let Some(bytes) = bytes else { return corrupt("ends too early") };
        self.place += length;
        Ok(bytes)
    }

    /// Bytes with their length before them.
    pub(crate) fn bytes(&mut self) -> Result<Bytes, Corrupt> {
        let length = self.count(1)?;
        self.take(length)
    }

    pub(crate) fn text(&mut self) -> Result<Text, Corrupt> {
        Text::from_bytes(self.bytes()?).map_err(|_| Corrupt { what: "text is not UTF-8" })
    }

    pub(crate) fn stamp(&mut self) -> Result<Stamp, Corrupt> {
        let hlc = Hlc(u64::from_le_bytes(self.array()?));
        Ok(Stamp { hlc, origin: Origin(self.byte()?) })
    }

    pub(crate) fn hlc(&mut self) -> Result<Hlc, Corrupt> {
        Ok(Hlc(u64::from_le_bytes(self.array()?)))
    }

    /// Checks the version byte at the front of a stored value.
    pub(crate) fn version(&mut self, version: u8) -> Result<(), Corrupt> {
        if self.byte()? == version { Ok(()) } else { corrupt("unknown version") }
    }

    pub(crate) fn end(&self) -> Result<(), Corrupt> {
        if self.left() == 0 { Ok(()) } else { corrupt("bytes after the end") }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::*;

    proptest! {
        #[test]
        fn numbers_round_trip(a: u64, b: i64, text in any::<String>()) {
            let mut out = Vec::new();
            put_varint(&mut out, a);
            put_signed(&mut out, b);
            put_bytes(&mut out, text.as_bytes());
            let bytes = Bytes::from(out);
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.varint(), Ok(a));
            prop_assert_eq!(reader.signed(), Ok(b));
            let decoded = reader.text().unwrap();
            prop_assert_eq!(decoded.as_str(), text.as_str());
            prop_assert_eq!(reader.end(), Ok(()));
        }
    }

    #[test]
    fn overlong_numbers_are_refused() {
        let long = Bytes::from_static(&[0xff; 11]);
        assert!(Reader::new(&long).varint().is_err());
        let large = Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]);
        assert!(Reader::new(&large).varint().is_err());
    }
}
