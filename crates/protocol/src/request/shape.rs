//! Counts what repeats in a message before it is decoded.
//!
//! Two bytes of a body can make an element of a hundred bytes in memory, so a decoder that takes
//! all that comes could be made to use many times the body's size. Here each repeated field of
//! each request has its most; unknown fields are skipped, as often as they come. Counts run over
//! the whole message: fields of a doubled message add up, as they do when it is merged.

use crate::error::ProtocolError;

/// A field that repeats or that holds some that do.
pub(super) struct Field {
    pub(super) number: u32,
    pub(super) max: usize,
    pub(super) over: fn(usize) -> ProtocolError,
    pub(super) inner: &'static [Field],
}

const WIRE_VARINT: u64 = 0;
const WIRE_FIXED64: u64 = 1;
const WIRE_BYTES: u64 = 2;
const WIRE_FIXED32: u64 = 5;
/// Fields that one table of shapes can hold, at all levels.
const FIELDS_MAX: usize = 16;

/// Refuses a message with too many of something.
///
/// What is malformed is left to the decoder: counting stops there, and so does it.
pub(super) fn check(message: &[u8], fields: &'static [Field]) -> Result<(), ProtocolError> {
    let mut counts = [0usize; FIELDS_MAX];
    count(message, fields, &mut counts, 0);
    report(fields, &counts, 0)
}

/// Adds up occurrences; `base` is the first place in `counts` of these fields.
fn count(mut rest: &[u8], fields: &[Field], counts: &mut [usize; FIELDS_MAX], base: usize) {
    while let Some(key) = varint(&mut rest) {
        let value = match key & 7 {
            WIRE_VARINT => varint(&mut rest).map(|_| None),
            WIRE_FIXED64 => take(&mut rest, 8).map(|_| None),
            WIRE_BYTES => varint(&mut rest)
                .and_then(|length| usize::try_from(length).ok())
                .and_then(|length| take(&mut rest, length))
                .map(Some),
            WIRE_FIXED32 => take(&mut rest, 4).map(|_| None),
            // Groups, and what no wire type is.
            _ => None,
        };
        let Some(value) = value else { return };
        let Some(bytes) = value else { continue };
        let mut place = base;
        for field in fields {
            if u64::from(field.number) == key >> 3 {
                counts[place] += 1;
                count(bytes, field.inner, counts, place + 1);
                break;
            }
            place += 1 + places(field.inner);
        }
    }
}

fn report(
    fields: &[Field],
    counts: &[usize; FIELDS_MAX],
    base: usize,
) -> Result<(), ProtocolError> {
    let mut place = base;
    for field in fields {
        if counts[place] > field.max {
            return Err((field.over)(counts[place]));
        }
        report(field.inner, counts, place + 1)?;
        place += 1 + places(field.inner);
    }
    Ok(())
}

fn places(fields: &[Field]) -> usize {
    fields.iter().map(|field| 1 + places(field.inner)).sum()
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for place in 0..10 {
        let (byte, tail) = rest.split_first()?;
        *rest = tail;
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INNER: &[Field] = &[Field { number: 2, max: 3, over: inner, inner: &[] }];
    const OUTER: &[Field] = &[
        Field { number: 1, max: 2, over: outer, inner: INNER },
        Field { number: 3, max: 1, over: outer, inner: &[] },
    ];

    fn inner(count: usize) -> ProtocolError {
        ProtocolError::invalid(format!("inner {count}"))
    }

    fn outer(count: usize) -> ProtocolError {
        ProtocolError::invalid(format!("outer {count}"))
    }

    #[test]
    fn counts_run_over_the_whole_message() {
        let two = b"\x0a\x04\x12\x00\x12\x00";
        assert_eq!(check(two, OUTER), Ok(()));
        let four = [&two[..], &two[..]].concat();
        assert_eq!(check(&four, OUTER), Err(inner(4)));
        assert_eq!(check(b"\x0a\x00\x0a\x00\x0a\x00", OUTER), Err(outer(3)));
        assert_eq!(check(b"\x1a\x00\x1a\x00", OUTER), Err(outer(2)));
    }

    #[test]
    fn unknown_fields_and_malformed_ends_are_left_alone() {
        assert_eq!(check(b"\x08\x01\x11\0\0\0\0\0\0\0\0\x25\0\0\0\0\x2a\x01x", OUTER), Ok(()));
        assert_eq!(check(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", OUTER), Ok(()));
        assert_eq!(check(b"\x0b\x0c", OUTER), Ok(()));
        assert_eq!(check(b"\x0a", OUTER), Ok(()));
    }
}
