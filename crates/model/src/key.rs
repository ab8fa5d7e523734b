//! Primary keys and their order.
//!
//! A key has 1 to 4 values. Its encoding compares, byte by byte, as the keys compare: integers by
//! value, strings and binaries by bytes. The encoding is what partitions, logs and engines use;
//! `docs/formats.md` has it byte by byte.

use bytes::{BufMut, Bytes, BytesMut};

use crate::value::Text;

/// The type of a primary key column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// 64-bit signed.
    Integer,
    /// UTF-8 text.
    String,
    /// Bytes.
    Binary,
}

/// One value of a primary key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyValue {
    /// 64-bit signed.
    Integer(i64),
    /// UTF-8 text, ordered by its bytes.
    String(Text),
    /// Bytes.
    Binary(Bytes),
}

impl KeyValue {
    /// The type.
    pub fn kind(&self) -> KeyKind {
        match self {
            KeyValue::Integer(_) => KeyKind::Integer,
            KeyValue::String(_) => KeyKind::String,
            KeyValue::Binary(_) => KeyKind::Binary,
        }
    }

    /// Bytes as the capacity units count them.
    pub fn size(&self) -> usize {
        match self {
            KeyValue::Integer(_) => 8,
            KeyValue::String(text) => text.len(),
            KeyValue::Binary(bytes) => bytes.len(),
        }
    }
}

/// A whole primary key: one value per key column of the schema, in its order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PrimaryKey(pub Vec<KeyValue>);

/// One part of an end of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyBound {
    /// Below every value.
    Min,
    /// A value.
    Value(KeyValue),
    /// Above every value.
    Max,
}

/// A key, or the end of a range, in the encoding that keeps the order.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EncodedKey(pub Bytes);

impl EncodedKey {
    /// The least that comes after it: the end of a range that has it as its last key.
    pub fn successor(&self) -> EncodedKey {
        let mut bytes = BytesMut::with_capacity(self.0.len() + 1);
        bytes.extend_from_slice(&self.0);
        bytes.put_u8(0);
        EncodedKey(bytes.freeze())
    }
}

/// Bytes that are no encoded key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bytes are not an encoded primary key")]
pub struct NotAKey;

const TAG_MIN: u8 = 0x01;
const TAG_INTEGER: u8 = 0x10;
const TAG_STRING: u8 = 0x20;
const TAG_BINARY: u8 = 0x30;
const TAG_MAX: u8 = 0xfe;
/// A zero byte of the value is written as these two.
const ESCAPED_ZERO: [u8; 2] = [0x00, 0xff];
/// Ends a string or binary; less than any continuation.
const END: [u8; 2] = [0x00, 0x01];

impl PrimaryKey {
    /// The encoding that keeps the order.
    pub fn encode(&self) -> EncodedKey {
        let mut out = BytesMut::with_capacity(self.0.iter().map(|v| v.size() + 6).sum());
        for value in &self.0 {
            encode_value(value, &mut out);
        }
        EncodedKey(out.freeze())
    }

    /// Decodes what `encode` made.
    pub fn decode(key: &EncodedKey) -> Result<PrimaryKey, NotAKey> {
        let mut rest = &key.0[..];
        let mut values = Vec::with_capacity(4);
        while !rest.is_empty() {
            values.push(decode_value(&mut rest)?);
        }
        Ok(PrimaryKey(values))
    }

    /// Bytes of the values as the capacity units count them, without the names.
    pub fn size(&self) -> usize {
        self.0.iter().map(KeyValue::size).sum()
    }
}

/// Encodes the end of a range. It compares with encoded keys as the range means it.
pub fn encode_bound(parts: &[KeyBound]) -> EncodedKey {
    let mut out = BytesMut::with_capacity(32);
    for part in parts {
        match part {
            KeyBound::Min => out.put_u8(TAG_MIN),
            KeyBound::Max => out.put_u8(TAG_MAX),
            KeyBound::Value(value) => encode_value(value, &mut out),
        }
    }
    EncodedKey(out.freeze())
}

fn encode_value(value: &KeyValue, out: &mut BytesMut) {
    match value {
        KeyValue::Integer(number) => {
            out.put_u8(TAG_INTEGER);
            out.put_u64((*number as u64) ^ 1 << 63);
        }
        KeyValue::String(text) => {
            out.put_u8(TAG_STRING);
            put_escaped(text.as_bytes(), out);
        }
        KeyValue::Binary(bytes) => {
            out.put_u8(TAG_BINARY);
            put_escaped(bytes, out);
        }
    }
}

fn put_escaped(bytes: &[u8], out: &mut BytesMut) {
    let mut pieces = bytes.split(|byte| *byte == 0);
    out.put_slice(pieces.next().unwrap_or_default());
    for piece in pieces {
        out.put_slice(&ESCAPED_ZERO);
        out.put_slice(piece);
    }
    out.put_slice(&END);
}

fn decode_value(rest: &mut &[u8]) -> Result<KeyValue, NotAKey> {
    let (tag, tail) = rest.split_first().ok_or(NotAKey)?;
    *rest = tail;
    match *tag {
        TAG_INTEGER => {
            let (number, tail) = rest.split_first_chunk::<8>().ok_or(NotAKey)?;
            *rest = tail;
            Ok(KeyValue::Integer((u64::from_be_bytes(*number) ^ 1 << 63) as i64))
        }
        TAG_STRING => {
            Text::from_bytes(take_escaped(rest)?).map(KeyValue::String).map_err(|_| NotAKey)
        }
        TAG_BINARY => take_escaped(rest).map(KeyValue::Binary),
        _ => Err(NotAKey),
    }
}

fn take_escaped(rest: &mut &[u8]) -> Result<Bytes, NotAKey> {
    let mut out = BytesMut::new();
    loop {
        let zero = rest.iter().position(|byte| *byte == 0).ok_or(NotAKey)?;
        out.put_slice(&rest[..zero]);
        let follows = *rest.get(zero + 1).ok_or(NotAKey)?;
        *rest = &rest[zero + 2..];
        match [0, follows] {
            END => return Ok(out.freeze()),
            ESCAPED_ZERO => out.put_u8(0),
            _ => return Err(NotAKey),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Just, Strategy, any, prop_assert_eq, prop_oneof, proptest};

    use super::*;

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(255), any::<u8>()], 0..6)
    }

    fn keys() -> impl Strategy<Value = PrimaryKey> {
        (bytes(), any::<i64>(), "[a\u{0}b]{0,3}").prop_map(|(binary, number, text)| {
            PrimaryKey(vec![
                KeyValue::Binary(binary.into()),
                KeyValue::Integer(number),
                KeyValue::String(Text::from(text)),
            ])
        })
    }

    proptest! {
        #[test]
        fn encoding_round_trips_and_keeps_the_order(a in keys(), b in keys()) {
            prop_assert_eq!(PrimaryKey::decode(&a.encode()), Ok(a.clone()));
            prop_assert_eq!(a.encode().cmp(&b.encode()), a.cmp(&b));
        }
    }

    #[test]
    fn bounds_enclose_every_value() {
        let key = PrimaryKey(vec![KeyValue::Integer(i64::MIN)]).encode();
        assert!(encode_bound(&[KeyBound::Min]) < key);
        let key = PrimaryKey(vec![KeyValue::Binary(vec![255; 9].into())]).encode();
        assert!(encode_bound(&[KeyBound::Max]) > key);
    }
}
