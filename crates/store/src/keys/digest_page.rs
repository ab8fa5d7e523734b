//! Checkpoints of a digest: its pages, each as of some group.
//!
//! A generation is one life of the digest; when it is built anew the pages of the older generation
//! mean nothing any more and are removed at leisure.

use bytes::Bytes;
use isthmus_digest::Lane;
use isthmus_model::ids::PartitionId;

use crate::codec::{Corrupt, corrupt};
use crate::keys::KIND_DIGEST_PAGE;

const LANE_BYTES: usize = 9;
const HEAD_BYTES: usize = 1 + 8 + 4 + LANE_BYTES;

/// The key of the page that begins at `start`.
pub fn encode_key(partition: PartitionId, generation: u32, lane: Lane, start: &[u8]) -> Bytes {
    let mut key = Vec::with_capacity(HEAD_BYTES + start.len());
    key.push(KIND_DIGEST_PAGE);
    key.extend_from_slice(&partition.0.to_be_bytes());
    key.extend_from_slice(&generation.to_be_bytes());
    key.extend_from_slice(&lane.encode());
    key.extend_from_slice(start);
    key.into()
}

/// All pages of a partition.
pub fn range_of_partition(partition: PartitionId) -> (Bytes, Bytes) {
    let (start, _) = range(partition, 0);
    let (_, end) = range(partition, u32::MAX);
    (start, end)
}

/// All pages of a generation, but for the last of all numbers, which is never reached.
pub fn range(partition: PartitionId, generation: u32) -> (Bytes, Bytes) {
    let key = |generation: u32| {
        let mut key = vec![KIND_DIGEST_PAGE];
        key.extend_from_slice(&partition.0.to_be_bytes());
        key.extend_from_slice(&generation.to_be_bytes());
        Bytes::from(key)
    };
    (key(generation), key(generation.saturating_add(1)))
}

/// What `encode_key` was given: partition, generation, lane, start.
pub fn decode_key(key: &[u8]) -> Result<(PartitionId, u32, Lane, Vec<u8>), Corrupt> {
    let Some((head, start)) = key.split_first_chunk::<HEAD_BYTES>() else {
        return corrupt("length of the key of a digest's page");
    };
    let (Some(partition), Some(generation), Some(lane)) = (
        head.get(1..9).and_then(|bytes| bytes.first_chunk::<8>()),
        head.get(9..13).and_then(|bytes| bytes.first_chunk::<4>()),
        head.get(13..).and_then(|bytes| bytes.first_chunk::<LANE_BYTES>()),
    ) else {
        return corrupt("length of the key of a digest's page");
    };
    let Some(lane) = Lane::decode(lane).filter(|_| head[0] == KIND_DIGEST_PAGE) else {
        return corrupt("key of another kind");
    };
    let partition = PartitionId(u64::from_be_bytes(*partition));
    Ok((partition, u32::from_be_bytes(*generation), lane, start.to_vec()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert_eq, proptest};

    use super::*;

    proptest! {
        #[test]
        fn key_round_trips(p: u64, generation: u32, bucket: i64, start: Vec<u8>) {
            let p = PartitionId(p);
            for lane in [Lane::Data, Lane::Time(bucket), Lane::Kills(bucket as u64)] {
                let key = encode_key(p, generation, lane, &start);
                prop_assert_eq!(decode_key(&key), Ok((p, generation, lane, start.clone())));
            }
        }
    }
}
