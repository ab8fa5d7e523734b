//! Compressing and checking what is shipped.
//!
//! Bytes are compressed once: the parcels of one log are kept a short while for the next link
//! that stands at the same place.

use std::collections::VecDeque;

use bytes::Bytes;
use isthmus_model::ids::{Lsn, PartitionId};
use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

use crate::error::ReplicationError;
use crate::frame::Packed;
use crate::limits::{PARCEL_CACHE_ENTRIES, UNPACKED_BYTES_MAX};

const CODEC_NONE: u32 = 0;
const CODEC_ZSTD: u32 = 1;
/// Below this size compressing does not pay.
const COMPRESS_BYTES_MIN: usize = 256;
/// zstd's fastest ordinary level: links are to keep up with the write path.
const LEVEL: i32 = 1;

/// Packs bytes, compressed where it pays.
pub fn pack(bytes: Vec<u8>) -> Packed {
    let compressed = (bytes.len() >= COMPRESS_BYTES_MIN)
        .then(|| zstd::bulk::compress(&bytes, LEVEL).ok())
        .flatten()
        .filter(|smaller| smaller.len() < bytes.len());
    let Some(smaller) = compressed else { return pack_as_is(bytes) };
    Packed {
        codec: CODEC_ZSTD,
        bytes_unpacked: bytes.len() as u64,
        checksum: xxh3_64(&bytes),
        data: smaller.into(),
    }
}

/// Packs bytes that are compressed already.
pub fn pack_as_is(bytes: Vec<u8>) -> Packed {
    Packed {
        codec: CODEC_NONE,
        bytes_unpacked: bytes.len() as u64,
        checksum: xxh3_64(&bytes),
        data: bytes.into(),
    }
}

/// Unpacks and checks what a peer packed. Costs at most what the peer declared, which is bounded.
pub fn unpack(packed: &Packed) -> Result<Bytes, ReplicationError> {
    if packed.bytes_unpacked > UNPACKED_BYTES_MAX {
        return Err(ReplicationError::Damaged("a parcel claims to be larger than any may be"));
    }
    let bytes = match packed.codec {
        CODEC_NONE => packed.data.clone(),
        CODEC_ZSTD => zstd::bulk::decompress(&packed.data, packed.bytes_unpacked as usize)
            .map(Bytes::from)
            .map_err(|_| ReplicationError::Damaged("a parcel cannot be decompressed"))?,
        _ => return Err(ReplicationError::Damaged("a parcel has an unknown codec")),
    };
    if bytes.len() as u64 != packed.bytes_unpacked || xxh3_64(&bytes) != packed.checksum {
        return Err(ReplicationError::Damaged("a parcel's checksum does not match"));
    }
    Ok(bytes)
}

/// A packed stretch of one partition's log.
#[derive(Clone, Debug)]
pub struct PackedLog {
    /// Through this LSN.
    pub to: Lsn,
    /// Size before compression.
    pub bytes: usize,
    /// The entries.
    pub packed: Packed,
}

/// The stretches packed last, shared by the links of all peers.
#[derive(Debug, Default)]
pub struct PackedLogs {
    recent: Mutex<VecDeque<((PartitionId, Lsn), PackedLog)>>,
}

impl PackedLogs {
    /// The stretch after `after`, if it was packed a moment ago.
    pub fn get(&self, partition: PartitionId, after: Lsn) -> Option<PackedLog> {
        let recent = self.recent.lock();
        recent
            .iter()
            .rev()
            .find(|(place, _)| *place == (partition, after))
            .map(|(_, log)| log.clone())
    }

    /// Keeps a stretch for a while.
    pub fn put(&self, partition: PartitionId, after: Lsn, log: PackedLog) {
        let mut recent = self.recent.lock();
        if recent.len() >= PARCEL_CACHE_ENTRIES {
            recent.pop_front();
        }
        recent.push_back(((partition, after), log));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::*;

    proptest! {
        #[test]
        fn packing_round_trips(
            seed in proptest::collection::vec(any::<u8>(), 0..64),
            times in 0usize..64,
        ) {
            let bytes = seed.repeat(times);
            prop_assert_eq!(unpack(&pack(bytes.clone())).unwrap(), Bytes::from(bytes));
        }
    }

    #[test]
    fn damage_and_bombs_are_refused() {
        let good = pack(vec![7; 4096]);
        let mut longer = good.clone();
        longer.bytes_unpacked = UNPACKED_BYTES_MAX + 1;
        let mut shorter = good.clone();
        shorter.bytes_unpacked = 100;
        let mut torn = good.clone();
        torn.data.truncate(good.data.len() / 2);
        let mut other = good.clone();
        other.checksum ^= 1;
        let mut codec = good;
        codec.codec = 9;
        for packed in [longer, shorter, torn, other, codec] {
            assert!(unpack(&packed).is_err());
        }
    }
}
