//! An intent of a partition: rows that are locked until a batch is made or given up.

use bytes::Bytes;
use isthmus_model::atomic::{BatchId, Intent};
use isthmus_model::hlc::Hlc;
use isthmus_model::ids::PartitionId;

use crate::codec::entry::{put_intent, read_intent};
use crate::codec::{Corrupt, Reader};
use crate::keys::{KIND_INTENT, decode_batch_key, encode_batch_key, range_of_batches};

const VERSION: u8 = 1;

/// The key of an intent.
pub fn encode_key(partition: PartitionId, id: BatchId) -> Bytes {
    encode_batch_key(KIND_INTENT, partition, id)
}

/// What `encode_key` was given.
pub fn decode_key(key: &[u8]) -> Result<(PartitionId, BatchId), Corrupt> {
    decode_batch_key(KIND_INTENT, key)
}

/// All intents of a partition: start inclusive, end exclusive.
pub fn range(partition: PartitionId) -> (Bytes, Bytes) {
    range_of_batches(KIND_INTENT, partition)
}

/// The stored form; `since` is the moment of its entry.
pub fn encode_value(intent: &Intent, since: Hlc) -> Bytes {
    let mut out = vec![VERSION];
    out.extend_from_slice(&since.0.to_le_bytes());
    put_intent(intent, &mut out);
    out.into()
}

/// What `encode_value` was given.
pub fn decode_value(bytes: &Bytes) -> Result<(Intent, Hlc), Corrupt> {
    let mut reader = Reader::new(bytes);
    reader.version(VERSION)?;
    let since = reader.hlc()?;
    let intent = read_intent(&mut reader)?;
    reader.end()?;
    Ok((intent, since))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::*;
    use crate::codec::entry::tests::{batch_ids, intents};

    proptest! {
        #[test]
        fn what_is_stored_is_read(
            partition: u64, id in batch_ids(), intent in intents(), since in any::<u64>(),
        ) {
            let partition = PartitionId(partition);
            prop_assert_eq!(decode_key(&encode_key(partition, id)), Ok((partition, id)));
            let since = Hlc(since);
            prop_assert_eq!(decode_value(&encode_value(&intent, since)), Ok((intent, since)));
        }
    }
}
