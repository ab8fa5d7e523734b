//! The redo log of a digest: what each group of commits changed in it, one record a group.
//!
//! It is written in the batch that changes the rows, so that after a crash the pages of the last
//! checkpoint and the records after it make the digest that belongs to exactly the rows there are.

use bytes::Bytes;
use isthmus_digest::{Change, Damaged, decode_changes, encode_changes};
use isthmus_model::ids::PartitionId;

use crate::codec::{Corrupt, corrupt};
use crate::keys::LogOf;

/// The key of a group's record.
pub fn encode_key(partition: PartitionId, group: u64) -> Bytes {
    LogOf::Digest(partition).encode_key(group)
}

/// What `encode_key` was given.
pub fn decode_key(key: &[u8]) -> Result<(PartitionId, u64), Corrupt> {
    match LogOf::decode_key(key)? {
        (LogOf::Digest(partition), group) => Ok((partition, group)),
        (LogOf::Changes(_), _) => corrupt("key of another kind"),
    }
}

/// The stored form.
pub fn encode_value<'a>(changes: impl ExactSizeIterator<Item = &'a Change>) -> Bytes {
    encode_changes(changes).into()
}

/// What `encode_value` was given.
pub fn decode_value(bytes: &Bytes) -> Result<Vec<Change>, Corrupt> {
    decode_changes(bytes).map_err(|Damaged { what }| Corrupt { what })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert_eq, proptest};

    use super::*;

    proptest! {
        #[test]
        fn key_round_trips_and_keeps_the_order_of_groups(p: u64, a: u64, b: u64) {
            let p = PartitionId(p);
            prop_assert_eq!(decode_key(&encode_key(p, a)), Ok((p, a)));
            prop_assert_eq!(encode_key(p, a).cmp(&encode_key(p, b)), a.cmp(&b));
        }
    }
}
