//! A batch that a partition, its anchor, has decided and that not all members have settled.

use bytes::Bytes;
use isthmus_model::atomic::{BatchId, Member};
use isthmus_model::hlc::Hlc;
use isthmus_model::ids::{Lsn, PartitionId};

use crate::codec::entry::{put_members, read_members};
use crate::codec::{Corrupt, Reader, put_varint};
use crate::keys::{KIND_DECIDED, decode_batch_key, encode_batch_key, range_of_batches};

const VERSION: u8 = 1;

/// What is kept of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// The entry that decided it.
    pub lsn: Lsn,
    /// The moment of that entry.
    pub since: Hlc,
    /// Who is to settle it.
    pub members: Vec<Member>,
}

/// The key of a batch that is decided.
pub fn encode_key(partition: PartitionId, id: BatchId) -> Bytes {
    encode_batch_key(KIND_DECIDED, partition, id)
}

/// What `encode_key` was given.
pub fn decode_key(key: &[u8]) -> Result<(PartitionId, BatchId), Corrupt> {
    decode_batch_key(KIND_DECIDED, key)
}

/// All batches that a partition has decided: start inclusive, end exclusive.
pub fn range(partition: PartitionId) -> (Bytes, Bytes) {
    range_of_batches(KIND_DECIDED, partition)
}

/// The stored form.
pub fn encode_value(decided: &Decided) -> Bytes {
    let mut out = vec![VERSION];
    put_varint(&mut out, decided.lsn.0);
    out.extend_from_slice(&decided.since.0.to_le_bytes());
    put_members(&decided.members, &mut out);
    out.into()
}

/// What `encode_value` was given.
pub fn decode_value(bytes: &Bytes) -> Result<Decided, Corrupt> {
    let mut reader = Reader::new(bytes);
    reader.version(VERSION)?;
    let (lsn, since) = (Lsn(reader.varint()?), reader.hlc()?);
    let members = read_members(&mut reader)?;
    reader.end()?;
    Ok(Decided { lsn, since, members })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::*;
    use crate::codec::entry::tests::{batch_ids, members};

    proptest! {
        #[test]
        fn what_is_stored_is_read(
            partition: u64,
            id in batch_ids(),
            lsn: u64,
            since in any::<u64>(),
            members in proptest::collection::vec(members(), 0..3),
        ) {
            let partition = PartitionId(partition);
            prop_assert_eq!(decode_key(&encode_key(partition, id)), Ok((partition, id)));
            let decided = Decided { lsn: Lsn(lsn), since: Hlc(since), members };
            prop_assert_eq!(decode_value(&encode_value(&decided)), Ok(decided));
        }
    }
}
