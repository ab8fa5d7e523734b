//! How numbers and strings lie in this crate's bytes.
//!
//! Numbers are little-endian base 128, seven bits a byte; signed ones are folded so that small
//! ones of either sign stay small. A number has one encoding only. Reading never goes beyond the
//! bytes at hand and never allocates.

use crate::Damaged;

/// Appends a number.
pub(crate) fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Appends a signed number.
pub(crate) fn put_signed(out: &mut Vec<u8>, number: i64) {
    put_number(out, ((number << 1) ^ (number >> 63)).cast_unsigned());
}

/// Appends bytes after their length.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// What is left to read of some bytes.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    /// Reads `bytes`; `what` they are is told if they are damaged.
    pub(crate) fn new(bytes: &'a [u8], what: &'static str) -> Reader<'a> {
        Reader { rest: bytes, what }
    }

    /// The error of these bytes.
    pub(crate) fn damaged<T>(&self) -> Result<T, Damaged> {
        Err(Damaged { what: self.what })
    }

    /// Refuses the bytes unless something holds.
    pub(crate) fn check(&self, holds: bool) -> Result<(), Damaged> {
        if holds { Ok(()) } else { self.damaged() }
    }

    /// Bytes that are left.
    pub(crate) fn len(&self) -> usize {
        self.rest.len()
    }

    /// The next so many bytes.
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], Damaged> {
        let Some((taken, rest)) = self.rest.split_at_checked(count) else {
            return self.damaged();
        };
        self.rest = rest;
        Ok(taken)
    }

    /// The next bytes of a fixed number.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Damaged> {
        let Some((taken, rest)) = self.rest.split_first_chunk::<N>() else {
            return self.damaged();
        };
        self.rest = rest;
        Ok(*taken)
    }

    /// The next byte.
    pub(crate) fn byte(&mut self) -> Result<u8, Damaged> {
        Ok(self.array::<1>()?[0])
    }

    /// The next number.
    pub(crate) fn number(&mut self) -> Result<u64, Damaged> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit; a last byte of zero would be a second encoding.
            self.check(shift < 63 || bits <= 1)?;
            number |= bits << shift;
            if byte < 0x80 {
                self.check(byte != 0 || shift == 0)?;
                return Ok(number);
            }
        }
        self.damaged()
    }

    /// The next signed number.
    pub(crate) fn signed(&mut self) -> Result<i64, Damaged> {
        let number = self.number()?;
        Ok((number >> 1).cast_signed() ^ -(number & 1).cast_signed())
    }

    /// The next number, which counts things of at least `each` bytes that are still to come.
    pub(crate) fn count(&mut self, each: usize) -> Result<usize, Damaged> {
        let count = self.number()?;
        self.check(count <= (self.rest.len() / each) as u64)?;
        Ok(count as usize)
    }

    /// The next bytes after their length.
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], Damaged> {
        let count = self.count(1)?;
        self.take(count)
    }

    /// That nothing is left.
    pub(crate) fn finish(&self) -> Result<(), Damaged> {
        self.check(self.rest.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::proptest;
    use proptest::{prop_assert, prop_assert_eq};

    use super::{Reader, put_bytes, put_number, put_signed};

    proptest! {
        #[test]
        fn what_is_put_is_read(number: u64, signed: i64, bytes: Vec<u8>) {
            let mut out = Vec::new();
            put_number(&mut out, number);
            put_signed(&mut out, signed);
            put_bytes(&mut out, &bytes);
            let mut reader = Reader::new(&out, "test");
            prop_assert_eq!(reader.number(), Ok(number));
            prop_assert_eq!(reader.signed(), Ok(signed));
            prop_assert_eq!(reader.bytes(), Ok(bytes.as_slice()));
            prop_assert_eq!(reader.finish(), Ok(()));
            let mut short = Reader::new(&out[..out.len() - 1], "test");
            let read = short.number().and(short.signed()).and(short.bytes().map(|_| 0));
            prop_assert!(read.is_err());
        }

        #[test]
        fn a_number_has_one_encoding(bytes: [u8; 11]) {
            let mut reader = Reader::new(&bytes, "test");
            if let Ok(number) = reader.number() {
                let mut out = Vec::new();
                put_number(&mut out, number);
                prop_assert_eq!(out.as_slice(), &bytes[..bytes.len() - reader.len()]);
            }
        }
    }

    #[test]
    fn the_greatest_numbers_fit() {
        for number in [0, 0x7f, 0x80, u64::MAX - 1, u64::MAX] {
            let mut out = Vec::new();
            put_number(&mut out, number);
            assert_eq!(Reader::new(&out, "test").number(), Ok(number));
        }
        for number in [i64::MIN, -1, 0, 1, i64::MAX] {
            let mut out = Vec::new();
            put_signed(&mut out, number);
            assert_eq!(Reader::new(&out, "test").signed(), Ok(number));
        }
        assert!(Reader::new(&[0x80, 0], "test").number().is_err());
    }
}
