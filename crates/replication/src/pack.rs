//! Compressing and checking what is shipped.
//!
//! Bytes are compressed once: the parcels of one log are kept a short while for the next link
//! that stands at the same place and packs alike. A parcel may be packed against something that
//! the replica has as well: a dictionary of its table (`dictionary.rs`), or the values that its
//! entries replace (`patch.rs`). Such parcels go to peers of format 3 only.
//!
//! What must hold: unpacking costs at most what the packed form declares, which is bounded, and
//! gives what was packed or an error.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use isthmus_model::compression::Compression;
use isthmus_model::ids::{Lsn, Origin, PartitionId};
use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

use crate::dictionary::{Dictionaries, Dictionary};
use crate::error::ReplicationError;
use crate::frame::{FORMAT_OF_CODECS, Packed};
use crate::limits::{PARCEL_CACHE_BYTES, PARCEL_CACHE_ENTRIES, UNPACKED_BYTES_MAX};

pub(crate) const CODEC_NONE: u32 = 0;
pub(crate) const CODEC_ZSTD: u32 = 1;
pub(crate) const CODEC_ZSTD_DICTIONARY: u32 = 2;
pub(crate) const CODEC_ZSTD_PATCH: u32 = 3;
const CODEC_LZ4: u32 = 4;
/// Below this size compressing does not pay, but for a dictionary.
const COMPRESS_BYTES_MIN: usize = 256;
/// zstd's fastest ordinary level: links are to keep up with the write path.
const LEVEL: i32 = 1;

/// How one link packs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// As it is.
    AsIs,
    /// zstd at a level.
    Zstd {
        /// zstd's level.
        level: i32,
        /// Dictionaries and patches may be used.
        with_priors: bool,
    },
    /// LZ4.
    Lz4,
    /// zstd as every peer knows it.
    #[default]
    Plain,
}

impl Method {
    /// What comes nearest to the wish with a peer of that format.
    pub fn agreed(wanted: Compression, format: u32) -> Method {
        let with_priors = format >= FORMAT_OF_CODECS;
        match wanted {
            Compression::Auto if with_priors => Method::Zstd { level: LEVEL, with_priors },
            Compression::Auto => Method::Plain,
            Compression::Zstd(level) => Method::Zstd { level: level.into(), with_priors },
            Compression::Lz4 if with_priors => Method::Lz4,
            Compression::Lz4 => Method::Plain,
            Compression::None => Method::AsIs,
        }
    }

    /// The level of zstd at which dictionaries and patches are made, if they are.
    pub(crate) fn level_with_priors(self) -> Option<i32> {
        match self {
            Method::Zstd { level, with_priors: true } => Some(level),
            Method::Zstd { .. } | Method::AsIs | Method::Lz4 | Method::Plain => None,
        }
    }

    fn compress(self, bytes: &[u8]) -> Option<(u32, Vec<u8>)> {
        let zstd = |level| zstd::bulk::compress(bytes, level).ok().map(|data| (CODEC_ZSTD, data));
        match self {
            Method::AsIs => None,
            Method::Zstd { level, .. } => zstd(level),
            Method::Lz4 => Some((CODEC_LZ4, lz4_flex::block::compress(bytes))),
            Method::Plain => zstd(LEVEL),
        }
    }
}

/// Packs bytes, compressed where it pays.
pub fn pack(bytes: Vec<u8>, method: Method) -> Packed {
    let compressed = (bytes.len() >= COMPRESS_BYTES_MIN)
        .then(|| method.compress(&bytes))
        .flatten()
        .filter(|(_, smaller)| smaller.len() < bytes.len());
    match compressed {
        Some((codec, smaller)) => packed(codec, &bytes, smaller.into()),
        None => pack_as_is(bytes),
    }
}

/// Packs bytes that are compressed already.
pub fn pack_as_is(bytes: Vec<u8>) -> Packed {
    let bytes = Bytes::from(bytes);
    packed(CODEC_NONE, &bytes, bytes.clone())
}

/// What says how `data` came from `bytes`.
pub(crate) fn packed(codec: u32, bytes: &[u8], data: Bytes) -> Packed {
    Packed {
        codec,
        bytes_unpacked: bytes.len() as u64,
        checksum: xxh3_64(bytes),
        data,
        ..Packed::default()
    }
}

/// Unpacks and checks what a peer packed against nothing. Costs at most what the peer declared,
/// which is bounded.
pub fn unpack(packed: &Packed) -> Result<Bytes, ReplicationError> {
    let length = length(packed)?;
    let bytes = match packed.codec {
        CODEC_NONE => packed.data.clone(),
        CODEC_ZSTD => zstd::bulk::decompress(&packed.data, length)
            .map(Bytes::from)
            .map_err(|_| CANNOT_DECOMPRESS)?,
        CODEC_LZ4 => lz4_flex::block::decompress(&packed.data, length)
            .map(Bytes::from)
            .map_err(|_| CANNOT_DECOMPRESS)?,
        CODEC_ZSTD_DICTIONARY | CODEC_ZSTD_PATCH => {
            return Err(ReplicationError::Damaged("it is packed against what it may not be"));
        }
        _ => return Err(ReplicationError::Damaged("a parcel has an unknown codec")),
    };
    checked(packed, bytes)
}

const CANNOT_DECOMPRESS: ReplicationError =
    ReplicationError::Damaged("a parcel cannot be decompressed");

/// The length that the packed form declares.
pub(crate) fn length(packed: &Packed) -> Result<usize, ReplicationError> {
    if packed.bytes_unpacked > UNPACKED_BYTES_MAX {
        return Err(ReplicationError::Damaged("a parcel claims to be larger than any may be"));
    }
    Ok(packed.bytes_unpacked as usize)
}

/// The bytes, if they are what was packed.
pub(crate) fn checked(packed: &Packed, bytes: Bytes) -> Result<Bytes, ReplicationError> {
    if bytes.len() as u64 != packed.bytes_unpacked || xxh3_64(&bytes) != packed.checksum {
        return Err(ReplicationError::Damaged("a parcel's checksum does not match"));
    }
    Ok(bytes)
}

/// Unpacks what was compressed by zstd, with what `prepare` does to the context before.
pub(crate) fn decompress_with(
    packed: &Packed,
    decompressor: &mut zstd::bulk::Decompressor<'_>,
) -> Result<Bytes, ReplicationError> {
    let bytes =
        decompressor.decompress(&packed.data, length(packed)?).map_err(|_| CANNOT_DECOMPRESS)?;
    checked(packed, bytes.into())
}

/// A packed stretch of one partition's log.
#[derive(Clone, Debug)]
pub struct PackedLog {
    /// Through this LSN.
    pub to: Lsn,
    /// Size before compression.
    pub bytes: usize,
    /// How many entries are in it: none of those that are left out.
    pub entries: u64,
    /// The entries.
    pub packed: Packed,
    /// What the replica must have been told before, to unpack them.
    pub dictionary: Option<Arc<Dictionary>>,
    /// Where entries of others are passed on, the last one in it by origin.
    pub ends: Vec<(Origin, Lsn)>,
}

/// Where a stretch begins, and how it was packed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Partition.
    pub partition: PartitionId,
    /// Entries after this LSN.
    pub after: Lsn,
    /// How.
    pub method: Method,
    /// Whether entries tell what their origin had seen.
    pub tells: bool,
    /// Whose entries are passed on; none: this region's own, or all.
    pub origins: Vec<Origin>,
}

/// The stretches packed last, shared by the links of all peers, and the dictionaries of tables.
#[derive(Debug, Default)]
pub struct PackedLogs {
    recent: Mutex<Recent>,
    /// What parcels are packed against.
    pub dictionaries: Dictionaries,
}

#[derive(Debug, Default)]
struct Recent {
    logs: VecDeque<(Stretch, PackedLog)>,
    bytes: usize,
}

impl PackedLogs {
    /// None yet. A dictionary is made of about so many parcels.
    pub fn learning_from(samples: usize) -> PackedLogs {
        PackedLogs { recent: Mutex::default(), dictionaries: Dictionaries::new(samples) }
    }

    /// The stretch, if it was packed a moment ago.
    pub fn get(&self, stretch: &Stretch) -> Option<PackedLog> {
        let recent = self.recent.lock();
        recent.logs.iter().rev().find(|(known, _)| known == stretch).map(|(_, log)| log.clone())
    }

    /// Keeps a stretch for a while.
    pub fn put(&self, stretch: Stretch, log: PackedLog) {
        let mut recent = self.recent.lock();
        recent.bytes += log.packed.data.len();
        recent.logs.push_back((stretch, log));
        while recent.logs.len() > PARCEL_CACHE_ENTRIES || recent.bytes > PARCEL_CACHE_BYTES {
            let Some((_, gone)) = recent.logs.pop_front() else { return };
            recent.bytes -= gone.packed.data.len();
        }
    }

    /// Packs a parcel of a partition's log, with the partition's dictionary where it pays.
    pub fn pack(
        &self,
        partition: PartitionId,
        bytes: Vec<u8>,
        method: Method,
    ) -> (Packed, Option<Arc<Dictionary>>) {
        let level = method.level_with_priors();
        let chosen = level.and_then(|level| {
            let dictionary = self.dictionaries.choose(partition, &bytes)?;
            let data = dictionary.compress(&bytes, level)?;
            Some((dictionary, data))
        });
        let Some((dictionary, data)) = chosen else { return (pack(bytes, method), None) };
        if self.dictionaries.is_to_be_judged(partition) {
            let plain = pack(bytes.clone(), method);
            self.dictionaries.judge(partition, &dictionary, plain.data.len(), data.len());
            if plain.data.len() <= data.len() {
                return (plain, None);
            }
        }
        if data.len() >= bytes.len() {
            return (pack(bytes, method), None);
        }
        let packed = Packed {
            dictionary: dictionary.number,
            ..packed(CODEC_ZSTD_DICTIONARY, &bytes, data.into())
        };
        (packed, Some(dictionary))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::*;

    const METHODS: [Method; 4] =
        [Method::AsIs, Method::Zstd { level: 3, with_priors: true }, Method::Lz4, Method::Plain];

    proptest! {
        #[test]
        fn packing_round_trips(
            seed in proptest::collection::vec(any::<u8>(), 0..64),
            times in 0usize..64,
        ) {
            let bytes = seed.repeat(times);
            for method in METHODS {
                prop_assert_eq!(unpack(&pack(bytes.clone(), method)).unwrap(), &bytes);
            }
        }
    }

    #[test]
    fn damage_and_bombs_are_refused() {
        for method in METHODS {
            let good = pack(vec![7; 4096], method);
            let mut longer = good.clone();
            longer.bytes_unpacked = UNPACKED_BYTES_MAX + 1;
            let mut shorter = good.clone();
            shorter.bytes_unpacked = 100;
            let mut torn = good.clone();
            torn.data.truncate(good.data.len() / 2);
            let mut other = good.clone();
            other.checksum ^= 1;
            let mut codec = good.clone();
            codec.codec = 9;
            let mut dictionary = good;
            dictionary.codec = CODEC_ZSTD_DICTIONARY;
            for packed in [longer, shorter, torn, other, codec, dictionary] {
                assert!(unpack(&packed).is_err(), "{method:?}");
            }
        }
    }

    #[test]
    fn older_peers_are_sent_what_they_know() {
        let bytes = vec![7; 4096];
        for wanted in ["auto", "zstd:9", "lz4", "none"] {
            let wanted: Compression = wanted.parse().unwrap();
            for format in [1, 2] {
                let method = Method::agreed(wanted, format);
                let codec = pack(bytes.clone(), method).codec;
                assert!([CODEC_NONE, CODEC_ZSTD].contains(&codec), "{wanted} {format}");
                assert_eq!(method.level_with_priors(), None);
            }
        }
        assert_eq!(pack(bytes, Method::agreed(Compression::Lz4, 3)).codec, CODEC_LZ4);
    }

    #[test]
    fn packed_stretches_are_kept_by_place_and_method_within_bounds() {
        let logs = PackedLogs::default();
        let stretch = |after: u64, method| Stretch {
            partition: PartitionId(1),
            after: Lsn(after),
            method,
            tells: true,
            origins: Vec::new(),
        };
        let log = |bytes: usize| PackedLog {
            to: Lsn(9),
            bytes,
            entries: 9,
            packed: pack_as_is(vec![0; bytes]),
            dictionary: None,
            ends: Vec::new(),
        };
        logs.put(stretch(1, Method::Plain), log(10));
        assert!(logs.get(&stretch(1, Method::Plain)).is_some());
        assert!(logs.get(&stretch(1, Method::Lz4)).is_none());
        logs.put(stretch(2, Method::Plain), log(PARCEL_CACHE_BYTES));
        assert!(logs.get(&stretch(1, Method::Plain)).is_none());
        assert!(logs.get(&stretch(2, Method::Plain)).is_some());
        for after in 3..3 + PARCEL_CACHE_ENTRIES as u64 {
            logs.put(stretch(after, Method::Plain), log(1));
        }
        assert!(logs.get(&stretch(2, Method::Plain)).is_none());
    }
}
