//! One log record: partition and first LSN, to the entries that one group of commits made.
//!
//! These bytes are what is shipped. A record covers a closed range of LSNs; the entries of it may
//! be fewer, where a filter or the origin left some out. Layout: magic, version, flags, partition,
//! first and last LSN, number of entries, bytes of the entries as written and as they were before
//! compression, the entries each with its length, and a CRC-32 of all before it.

use bytes::Bytes;
use isthmus_model::entry::Entry;
use isthmus_model::ids::{Lsn, PartitionId};

use crate::codec::entry::{decode_entry, encode_entry_into};
use crate::codec::{Corrupt, Reader, corrupt, put_varint};
use crate::keys::LogOf;
use crate::limits::LOG_RECORD_RAW_BYTES_MAX;

const MAGIC: [u8; 3] = *b"isL";
const VERSION: u8 = 1;
const FLAG_ZSTD: u8 = 1;
/// Magic, version, flags, partition, first, last, count, packed bytes, raw bytes.
const HEADER_BYTES: usize = 3 + 1 + 1 + 8 + 8 + 8 + 4 + 4 + 4;
const CHECKSUM_BYTES: usize = 4;
/// Smaller bodies are not worth compressing.
const COMPRESS_BYTES_MIN: usize = 1024;
const COMPRESS_LEVEL: i32 = 1;

/// The key of a record.
pub fn encode_key(partition: PartitionId, first: Lsn) -> Bytes {
    LogOf::Changes(partition).encode_key(first.0)
}

/// What `encode_key` was given.
pub fn decode_key(key: &[u8]) -> Result<(PartitionId, Lsn), Corrupt> {
    match LogOf::decode_key(key)? {
        (LogOf::Changes(partition), first) => Ok((partition, Lsn(first))),
        (LogOf::Digest(_), _) => corrupt("key of another kind"),
    }
}

/// Collects the entries of one record.
#[derive(Debug)]
pub struct RecordBuilder {
    first: Lsn,
    last: Lsn,
    count: u32,
    body: Vec<u8>,
    scratch: Vec<u8>,
}

impl RecordBuilder {
    /// A record whose range begins at `first` and is empty yet.
    pub fn new(first: Lsn) -> RecordBuilder {
        let last = Lsn(first.0.saturating_sub(1));
        RecordBuilder { first, last, count: 0, body: Vec::new(), scratch: Vec::new() }
    }

    /// Appends an entry; its LSN is after all before it.
    pub fn push(&mut self, entry: &Entry) {
        assert!(entry.lsn > self.last || self.count == 0, "entries come in the order of LSNs");
        self.scratch.clear();
        encode_entry_into(entry, &mut self.scratch);
        put_varint(&mut self.body, self.scratch.len() as u64);
        self.body.extend_from_slice(&self.scratch);
        self.last = entry.lsn;
        self.count += 1;
    }

    /// Makes the range end at `last`, beyond the last entry.
    pub fn cover(&mut self, last: Lsn) {
        self.last = self.last.max(last);
    }

    /// Bytes of the entries so far.
    pub fn size(&self) -> usize {
        self.body.len()
    }

    /// First LSN of the range.
    pub fn first(&self) -> Lsn {
        self.first
    }

    /// Last LSN of the range.
    pub fn last(&self) -> Lsn {
        self.last
    }

    /// The record. With `compress` the entries are compressed if that saves something.
    pub fn finish(&self, partition: PartitionId, compress: bool) -> FinishedRecord {
        let raw = self.body.len();
        let tried = compress && raw >= COMPRESS_BYTES_MIN;
        let packed = if tried { pack(&self.body) } else { None };
        let is_incompressible = tried && packed.is_none();
        let (flags, body) = match &packed {
            Some(packed) => (FLAG_ZSTD, packed),
            None => (0, &self.body),
        };
        let mut out = Vec::with_capacity(HEADER_BYTES + body.len() + CHECKSUM_BYTES);
        out.extend_from_slice(&MAGIC);
        out.push(VERSION);
        out.push(flags);
        out.extend_from_slice(&partition.0.to_be_bytes());
        out.extend_from_slice(&self.first.0.to_be_bytes());
        out.extend_from_slice(&self.last.0.to_be_bytes());
        out.extend_from_slice(&self.count.to_be_bytes());
        out.extend_from_slice(&(body.len() as u32).to_be_bytes());
        out.extend_from_slice(&(raw as u32).to_be_bytes());
        out.extend_from_slice(body);
        let checksum = crc32fast::hash(&out);
        out.extend_from_slice(&checksum.to_be_bytes());
        FinishedRecord { bytes: out.into(), is_incompressible }
    }
}

/// A record as it is stored and shipped.
#[derive(Clone, Debug)]
pub struct FinishedRecord {
    /// Its bytes.
    pub bytes: Bytes,
    /// Compressing was tried and saved too little.
    pub is_incompressible: bool,
}

/// The compressed body, unless compressing saves less than an eighth.
fn pack(body: &[u8]) -> Option<Vec<u8>> {
    let packed = zstd::bulk::compress(body, COMPRESS_LEVEL).ok()?;
    (packed.len() < body.len() - body.len() / 8).then_some(packed)
}

/// The head of a record: what it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHead {
    /// Whose log.
    pub partition: PartitionId,
    /// First LSN of the range.
    pub first: Lsn,
    /// Last LSN of the range.
    pub last: Lsn,
    /// Number of entries in it.
    pub count: u32,
    compressed: bool,
    packed_bytes: u32,
    /// Bytes of the entries before compression.
    pub raw_bytes: u32,
}

/// Reads the head alone, without the checksum.
pub fn decode_head(record: &Bytes) -> Result<RecordHead, Corrupt> {
    let mut reader = Reader::new(record);
    if reader.array::<3>()? != MAGIC {
        return corrupt("not a log record");
    }
    reader.version(VERSION)?;
    let flags = reader.byte()?;
    if flags & !FLAG_ZSTD != 0 {
        return corrupt("unknown flag of a log record");
    }
    let partition = PartitionId(u64::from_be_bytes(reader.array()?));
    let first = Lsn(u64::from_be_bytes(reader.array()?));
    let last = Lsn(u64::from_be_bytes(reader.array()?));
    let count = u32::from_be_bytes(reader.array()?);
    let packed_bytes = u32::from_be_bytes(reader.array()?);
    let raw_bytes = u32::from_be_bytes(reader.array()?);
    let compressed = flags & FLAG_ZSTD != 0;
    if reader.left() != packed_bytes as usize + CHECKSUM_BYTES {
        return corrupt("length of a log record");
    }
    if !compressed && packed_bytes != raw_bytes {
        return corrupt("length of the entries of a log record");
    }
    Ok(RecordHead { partition, first, last, count, compressed, packed_bytes, raw_bytes })
}

/// Decodes a record after checking its checksum, its range and the order of its entries.
pub fn decode_record(record: &Bytes) -> Result<(RecordHead, Vec<Entry>), Corrupt> {
    let head = decode_head(record)?;
    let (checked, checksum) = record.split_at(record.len() - CHECKSUM_BYTES);
    if crc32fast::hash(checked).to_be_bytes() != checksum {
        return corrupt("checksum of a log record");
    }
    let body = record.slice(HEADER_BYTES..record.len() - CHECKSUM_BYTES);
    let body = if head.compressed { unpack(&body, head.raw_bytes)? } else { body };
    let mut reader = Reader::new(&body);
    if head.count as usize > reader.left() {
        return corrupt("count exceeds the bytes");
    }
    let mut entries: Vec<Entry> = Vec::with_capacity(head.count as usize);
    for _ in 0..head.count {
        let entry = decode_entry(&reader.bytes()?)?;
        let after = entries.last().map_or(Lsn(head.first.0.saturating_sub(1)), |last| last.lsn);
        if entry.lsn <= after || entry.lsn > head.last {
            return corrupt("entry outside the range of its record");
        }
        entries.push(entry);
    }
    reader.end()?;
    Ok((head, entries))
}

fn unpack(packed: &[u8], raw_bytes: u32) -> Result<Bytes, Corrupt> {
    let raw_bytes = raw_bytes as usize;
    if raw_bytes > LOG_RECORD_RAW_BYTES_MAX {
        return corrupt("log record is too large");
    }
    match zstd::bulk::decompress(packed, raw_bytes) {
        Ok(raw) if raw.len() == raw_bytes => Ok(raw.into()),
        Ok(_) | Err(_) => corrupt("compressed entries of a log record"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::*;
    use crate::codec::entry::tests::entries;

    fn record(mut list: Vec<Entry>, extra: u64, compress: bool) -> (Vec<Entry>, Bytes) {
        let mut builder = RecordBuilder::new(Lsn(10));
        for (index, entry) in list.iter_mut().enumerate() {
            entry.lsn = Lsn(10 + index as u64 * 2);
            builder.push(entry);
        }
        let last = Lsn(builder.last().0 + extra);
        builder.cover(last);
        (list, builder.finish(PartitionId(7), compress).bytes)
    }

    proptest! {
        #[test]
        fn key_round_trips_and_keeps_the_order_of_lsns(p: u64, a: u64, b: u64) {
            let (p, a, b) = (PartitionId(p), Lsn(a), Lsn(b));
            prop_assert_eq!(decode_key(&encode_key(p, a)), Ok((p, a)));
            prop_assert_eq!(encode_key(p, a).cmp(&encode_key(p, b)), a.cmp(&b));
        }

        #[test]
        fn record_round_trips(
            list in proptest::collection::vec(entries(), 0..8),
            extra in 0..5u64,
            compress: bool,
        ) {
            let (list, bytes) = record(list, extra, compress);
            let (head, decoded) = decode_record(&bytes).unwrap();
            prop_assert_eq!(head.first, Lsn(10));
            prop_assert_eq!(head.partition, PartitionId(7));
            let last = list.last().map_or(9, |entry| entry.lsn.0) + extra;
            prop_assert_eq!(head.last, Lsn(last));
            prop_assert_eq!(decoded, list);
        }

        #[test]
        fn any_flipped_bit_and_any_truncation_is_refused(
            list in proptest::collection::vec(entries(), 0..3),
            flip: u32,
        ) {
            let (_, whole) = record(list, 0, true);
            for length in 0..whole.len() {
                prop_assert!(decode_record(&whole.slice(..length)).is_err());
            }
            let mut bytes = whole.to_vec();
            let bit = flip as usize % (bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode_record(&bytes.into()).is_err());
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = decode_record(&bytes.into());
        }
    }

    #[test]
    fn repeating_entries_are_compressed() {
        use isthmus_model::entry::{EntryBody, RowDelta};
        use isthmus_model::key::EncodedKey;
        let entry = |lsn| Entry {
            lsn: Lsn(lsn),
            epoch: isthmus_model::ids::Epoch(1),
            stamp: isthmus_model::hlc::Stamp::default(),
            origin_lsn: Lsn(lsn),
            schema: isthmus_model::ids::SchemaNumber(1),
            seen: None,
            tx: None,
            batch: None,
            body: EntryBody::Rows(vec![RowDelta {
                key: EncodedKey(Bytes::from(vec![7; 100])),
                delta: isthmus_model::row::Row::default(),
            }]),
        };
        let list: Vec<Entry> = (0..50).map(entry).collect();
        let (_, plain) = record(list.clone(), 0, false);
        let (list, packed) = record(list, 0, true);
        assert!(packed.len() * 4 < plain.len());
        assert_eq!(decode_record(&packed).unwrap().1, list);
    }
}
