//! A note: a small named record that another room keeps here, such as a topology or a checkpoint.
//!
//! The store does not look into it. Notes lie in the order of their names.

use bytes::{BufMut, Bytes, BytesMut};

use crate::codec::{Corrupt, corrupt};
use crate::keys::KIND_NOTE;

/// The key of a note.
pub fn encode_key(name: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(1 + name.len());
    out.put_u8(KIND_NOTE);
    out.put_slice(name);
    out.freeze()
}

/// What `encode_key` was given.
pub fn decode_key(key: &Bytes) -> Result<Bytes, Corrupt> {
    match key.first() {
        Some(&KIND_NOTE) => Ok(key.slice(1..)),
        _ => corrupt("key of another kind"),
    }
}

/// The keys of all notes whose names begin with `prefix`: start inclusive, end exclusive.
pub fn range(prefix: &[u8]) -> (Bytes, Bytes) {
    let start = encode_key(prefix);
    let mut end = start.to_vec();
    // The kind byte is never 0xff, so that something is left.
    while end.last() == Some(&0xff) {
        end.pop();
    }
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    (start, end.into())
}

/// The stored form: the bytes as given, whatever their version.
pub fn encode_value(note: &[u8]) -> Bytes {
    Bytes::copy_from_slice(note)
}

/// What `encode_value` was given.
pub fn decode_value(bytes: &Bytes) -> Bytes {
    bytes.clone()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::*;

    proptest! {
        #[test]
        fn note_round_trips_and_its_prefixes_hold_it(
            name in proptest::collection::vec(any::<u8>(), 0..6),
            prefix in proptest::collection::vec(any::<u8>(), 0..3),
            value in proptest::collection::vec(any::<u8>(), 0..6),
        ) {
            let key = encode_key(&name);
            prop_assert_eq!(decode_key(&key), Ok(Bytes::from(name.clone())));
            prop_assert_eq!(decode_value(&encode_value(&value)), Bytes::from(value));
            let (start, end) = range(&prefix);
            prop_assert_eq!(start <= key && key < end, name.starts_with(&prefix));
        }
    }
}
