//! A prepared change of a partition, as whoever has it prepared wrote it.

use bytes::Bytes;
use isthmus_model::commit::{Term, TxId};
use isthmus_model::ids::PartitionId;

use crate::codec::{Corrupt, Reader, corrupt};
use crate::keys::{KIND_PREPARED, number_key};

const VERSION: u8 = 1;

/// The key of a prepared change.
pub fn encode_key(partition: PartitionId, tx: TxId) -> Bytes {
    let mut key = number_key(KIND_PREPARED, partition.0).to_vec();
    for number in [tx.term.epoch, tx.term.life, tx.number] {
        key.extend_from_slice(&number.to_be_bytes());
    }
    key.into()
}

/// What `encode_key` was given.
pub fn decode_key(key: &[u8]) -> Result<(PartitionId, TxId), Corrupt> {
    let Some(([KIND_PREPARED, partition @ ..], rest)) = key.split_first_chunk::<9>() else {
        return corrupt("key of another kind");
    };
    let Ok(rest) = <&[u8; 24]>::try_from(rest) else {
        return corrupt("length of the key of a prepared change");
    };
    let number =
        |at: usize| rest[at..at + 8].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    let term = Term { epoch: number(0), life: number(8) };
    let tx = TxId { term, number: number(16) };
    Ok((PartitionId(u64::from_be_bytes(*partition)), tx))
}

/// All prepared changes of a partition: start inclusive, end exclusive.
pub fn range(partition: PartitionId) -> (Bytes, Bytes) {
    let next = partition.0.saturating_add(1);
    (number_key(KIND_PREPARED, partition.0), number_key(KIND_PREPARED, next))
}

/// The stored form.
pub fn encode_value(change: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(change.len() + 1);
    out.push(VERSION);
    out.extend_from_slice(change);
    out.into()
}

/// What `encode_value` was given.
pub fn decode_value(bytes: &Bytes) -> Result<Bytes, Corrupt> {
    let mut reader = Reader::new(bytes);
    reader.version(VERSION)?;
    Ok(reader.take_rest())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::*;

    proptest! {
        #[test]
        fn what_is_stored_is_read_and_keys_keep_their_order(
            partition: u64,
            a in any::<[u64; 3]>(),
            b in any::<[u64; 3]>(),
            change in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let partition = PartitionId(partition);
            let tx = |n: [u64; 3]| TxId { term: Term { epoch: n[0], life: n[1] }, number: n[2] };
            let (a, b) = (tx(a), tx(b));
            prop_assert_eq!(decode_key(&encode_key(partition, a)), Ok((partition, a)));
            prop_assert_eq!(encode_key(partition, a).cmp(&encode_key(partition, b)), a.cmp(&b));
            prop_assert_eq!(decode_value(&encode_value(&change)), Ok(change.into()));
        }
    }
}
