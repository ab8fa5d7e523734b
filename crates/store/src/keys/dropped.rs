//! A partition whose table was dropped and whose bytes have yet to go.
//!
//! Written in the batch that drops the table, removed when the engine has let go of the rest, so
//! that a crash between the two leaves nothing behind for ever.

use bytes::Bytes;
use isthmus_model::ids::PartitionId;

use crate::codec::{Corrupt, Reader};
use crate::keys::{KIND_DROPPED, decode_number_key, number_key, range_of_kind};

const VERSION: u8 = 1;

/// The key of a dropped partition.
pub fn encode_key(partition: PartitionId) -> Bytes {
    number_key(KIND_DROPPED, partition.0)
}

/// What `encode_key` was given.
pub fn decode_key(key: &[u8]) -> Result<PartitionId, Corrupt> {
    decode_number_key(KIND_DROPPED, key).map(PartitionId)
}

/// The keys of all dropped partitions.
pub fn range() -> (Bytes, Bytes) {
    range_of_kind(KIND_DROPPED)
}

/// The stored form: nothing but a version.
pub fn encode_value() -> Bytes {
    Bytes::from_static(&[VERSION])
}

/// Checks what `encode_value` made.
pub fn decode_value(bytes: &Bytes) -> Result<(), Corrupt> {
    let mut reader = Reader::new(bytes);
    reader.version(VERSION)?;
    reader.end()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert_eq, proptest};

    use super::*;

    proptest! {
        #[test]
        fn dropped_partition_round_trips(partition: u64) {
            let partition = PartitionId(partition);
            prop_assert_eq!(decode_key(&encode_key(partition)), Ok(partition));
            prop_assert_eq!(decode_value(&encode_value()), Ok(()));
        }
    }
}
