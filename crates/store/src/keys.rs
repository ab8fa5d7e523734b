//! Keys and values at rest, one file per kind.
//!
//! The first byte of every key is its kind; a kind is never used again for something else. Numbers
//! in keys are big-endian, so that keys compare as what they name. `docs/formats.md` lists them.

use bytes::Bytes;
use isthmus_model::ids::PartitionId;

use crate::codec::{Corrupt, corrupt};
use crate::engine::Space;

pub mod dropped;
pub mod log;
pub mod node;
pub mod note;
pub mod partition;
pub mod row;
pub mod table;

const KIND_ROW: u8 = 0x01;
const KIND_LOG: u8 = 0x02;
const KIND_PARTITION: u8 = 0x03;
const KIND_TABLE: u8 = 0x04;
const KIND_NODE: u8 = 0x05;
const KIND_NOTE: u8 = 0x06;
const KIND_DROPPED: u8 = 0x07;

/// The keys which belong to a partition in the spaces of rows and logs: start inclusive, end
/// exclusive.
pub fn ranges_of_partition(partition: PartitionId) -> [(Space, Bytes, Bytes); 2] {
    let next = PartitionId(partition.0.saturating_add(1));
    [
        (Space::Rows, number_key(KIND_ROW, partition.0), number_key(KIND_ROW, next.0)),
        (Space::Log, number_key(KIND_LOG, partition.0), number_key(KIND_LOG, next.0)),
    ]
}

/// A kind and a number.
fn number_key(kind: u8, number: u64) -> Bytes {
    let mut key = [kind; 9];
    key[1..].copy_from_slice(&number.to_be_bytes());
    Bytes::copy_from_slice(&key)
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
