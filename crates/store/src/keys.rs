//! Keys and values at rest, one file per kind.
//!
//! The first byte of every key is its kind; a kind is never used again for something else. Numbers
//! in keys are big-endian, so that keys compare as what they name. `docs/formats.md` lists them.

use bytes::Bytes;
use isthmus_model::atomic::BatchId;
use isthmus_model::commit::Term;
use isthmus_model::ids::{PartitionId, TableId};

use crate::codec::{Corrupt, corrupt};
use crate::engine::Space;

pub mod conflict;
pub mod decided;
pub mod digest_mark;
pub mod digest_page;
pub mod digest_redo;
pub mod dropped;
pub mod intent;
pub mod log;
pub mod node;
pub mod note;
pub mod partition;
pub mod prepared;
pub mod row;
pub mod table;

const KIND_ROW: u8 = 0x01;
const KIND_LOG: u8 = 0x02;
const KIND_PARTITION: u8 = 0x03;
const KIND_TABLE: u8 = 0x04;
const KIND_NODE: u8 = 0x05;
const KIND_NOTE: u8 = 0x06;
const KIND_DROPPED: u8 = 0x07;
const KIND_DIGEST_PAGE: u8 = 0x08;
const KIND_DIGEST_REDO: u8 = 0x09;
const KIND_DIGEST_MARK: u8 = 0x0a;
const KIND_CONFLICT: u8 = 0x0b;
const KIND_PREPARED: u8 = 0x0c;
const KIND_INTENT: u8 = 0x0d;
const KIND_DECIDED: u8 = 0x0e;

/// One of the logs of a partition. Its records are trimmed from the front by their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogOf {
    /// The change log, by LSN.
    Changes(PartitionId),
    /// The redo log of the digest, by group.
    Digest(PartitionId),
}

impl LogOf {
    /// The key of the record with a number, or that begins with it.
    pub fn encode_key(self, number: u64) -> Bytes {
        let (kind, partition) = match self {
            LogOf::Changes(partition) => (KIND_LOG, partition),
            LogOf::Digest(partition) => (KIND_DIGEST_REDO, partition),
        };
        let mut key = [kind; 17];
        key[1..9].copy_from_slice(&partition.0.to_be_bytes());
        key[9..].copy_from_slice(&number.to_be_bytes());
        Bytes::copy_from_slice(&key)
    }

    /// What `encode_key` was given.
    pub fn decode_key(key: &[u8]) -> Result<(LogOf, u64), Corrupt> {
        let Some(([kind, partition @ ..], number)) = key.split_first_chunk::<9>() else {
            return corrupt("length of a log key");
        };
        let Ok(number) = <[u8; 8]>::try_from(number) else { return corrupt("length of a log key") };
        let partition = PartitionId(u64::from_be_bytes(*partition));
        let log = match *kind {
            KIND_LOG => LogOf::Changes(partition),
            KIND_DIGEST_REDO => LogOf::Digest(partition),
            _ => return corrupt("key of another kind"),
        };
        Ok((log, u64::from_be_bytes(number)))
    }
}

/// All keys which belong to a partition and can be many: start inclusive, end exclusive.
pub fn ranges_of_partition(partition: PartitionId) -> [(Space, Bytes, Bytes); 8] {
    [
        range_of(Space::Rows, KIND_ROW, partition),
        range_of(Space::Log, KIND_LOG, partition),
        range_of(Space::Log, KIND_DIGEST_REDO, partition),
        range_of(Space::Meta, KIND_DIGEST_PAGE, partition),
        range_of(Space::Meta, KIND_CONFLICT, partition),
        range_of(Space::Meta, KIND_PREPARED, partition),
        range_of(Space::Meta, KIND_INTENT, partition),
        range_of(Space::Meta, KIND_DECIDED, partition),
    ]
}

/// The end of the rows of a partition, exclusive.
pub(crate) fn end_of_rows(partition: PartitionId) -> Bytes {
    range_of(Space::Rows, KIND_ROW, partition).2
}

fn range_of(space: Space, kind: u8, partition: PartitionId) -> (Space, Bytes, Bytes) {
    let next = partition.0.saturating_add(1);
    (space, number_key(kind, partition.0), number_key(kind, next))
}

/// A kind and a number.
fn number_key(kind: u8, number: u64) -> Bytes {
    let mut key = [kind; 9];
    key[1..].copy_from_slice(&number.to_be_bytes());
    Bytes::copy_from_slice(&key)
}

/// The key of a batch of a partition.
fn encode_batch_key(kind: u8, partition: PartitionId, id: BatchId) -> Bytes {
    let mut key = number_key(kind, partition.0).to_vec();
    for number in [id.anchor.0, id.term.epoch, id.term.life, id.number] {
        key.extend_from_slice(&number.to_be_bytes());
    }
    key.into()
}

fn decode_batch_key(kind: u8, key: &[u8]) -> Result<(PartitionId, BatchId), Corrupt> {
    let Some((head, rest)) = key.split_first_chunk::<9>() else {
        return corrupt("length of the key of a batch");
    };
    let partition = PartitionId(decode_number_key(kind, head)?);
    let Ok(rest) = <&[u8; 32]>::try_from(rest) else {
        return corrupt("length of the key of a batch");
    };
    let number =
        |at: usize| rest[at..at + 8].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    let term = Term { epoch: number(8), life: number(16) };
    Ok((partition, BatchId { anchor: TableId(number(0)), term, number: number(24) }))
}

/// All batches of a partition: start inclusive, end exclusive.
fn range_of_batches(kind: u8, partition: PartitionId) -> (Bytes, Bytes) {
    let (_, start, end) = range_of(Space::Meta, kind, partition);
    (start, end)
}

fn decode_number_key(kind: u8, key: &[u8]) -> Result<u64, Corrupt> {
    match key.split_first_chunk::<9>() {
        Some(([found, number @ ..], [])) if *found == kind => Ok(u64::from_be_bytes(*number)),
        _ => corrupt("key of another kind"),
    }
}

/// All keys of one kind: start inclusive, end exclusive.
fn range_of_kind(kind: u8) -> (Bytes, Bytes) {
    (Bytes::copy_from_slice(&[kind]), Bytes::copy_from_slice(&[kind + 1]))
}
