//! One row: partition and encoded primary key, to the packed row.
//!
//! The value is what `codec::row` makes. Rows of one partition lie together, in key order.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use isthmus_model::ids::PartitionId;
use isthmus_model::key::EncodedKey;

use crate::codec::{Corrupt, corrupt};
use crate::keys::KIND_ROW;

/// Bytes before the primary key.
const PREFIX_BYTES: usize = 9;

/// The key of a row.
pub fn encode_key(partition: PartitionId, key: &EncodedKey) -> Bytes {
    let mut out = BytesMut::with_capacity(PREFIX_BYTES + key.0.len());
    out.put_u8(KIND_ROW);
    out.put_u64(partition.0);
    out.put_slice(&key.0);
    out.freeze()
}

/// The keys of some rows, which lie in one buffer.
pub(crate) fn encode_keys<'a>(
    partition: PartitionId,
    keys: impl Iterator<Item = &'a EncodedKey> + Clone,
) -> Vec<Bytes> {
    let lengths = keys.clone().map(|key| PREFIX_BYTES + key.0.len());
    let mut out = BytesMut::with_capacity(lengths.clone().sum());
    for key in keys {
        out.put_u8(KIND_ROW);
        out.put_u64(partition.0);
        out.put_slice(&key.0);
    }
    let mut all = out.freeze();
    lengths.map(|length| all.split_to(length)).collect()
}

/// What `encode_key` was given; the primary key takes the buffer.
pub fn decode_key(mut key: Bytes) -> Result<(PartitionId, EncodedKey), Corrupt> {
    match key.first_chunk::<PREFIX_BYTES>() {
        Some([KIND_ROW, partition @ ..]) => {
            let partition = PartitionId(u64::from_be_bytes(*partition));
            // A slice of it would share the buffer, and count who does.
            key.advance(PREFIX_BYTES);
            Ok((partition, EncodedKey(key)))
        }
        _ => corrupt("key of another kind"),
    }
}

/// The encoded primary key in the key of a row.
pub(crate) fn primary_key_in(key: &[u8]) -> Result<&[u8], Corrupt> {
    match key.split_first_chunk::<PREFIX_BYTES>() {
        Some(([KIND_ROW, ..], key)) => Ok(key),
        _ => corrupt("key of another kind"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::*;
    use crate::keys::ranges_of_partition;

    proptest! {
        #[test]
        fn key_round_trips_and_keeps_the_order(
            p: u64,
            a in proptest::collection::vec(any::<u8>(), 0..9),
            b in proptest::collection::vec(any::<u8>(), 0..9),
        ) {
            let (p, a, b) = (PartitionId(p), EncodedKey(a.into()), EncodedKey(b.into()));
            prop_assert_eq!(decode_key(encode_key(p, &a)), Ok((p, a.clone())));
            prop_assert_eq!(encode_key(p, &a).cmp(&encode_key(p, &b)), a.cmp(&b));
            let each = [&b, &a].map(|key| encode_key(p, key));
            prop_assert_eq!(encode_keys(p, [&b, &a].into_iter()), each);
            let [(_, start, end), ..] = ranges_of_partition(p);
            let key = encode_key(p, &a);
            prop_assert!(start <= key && (p.0 == u64::MAX || key < end));
        }
    }
}
