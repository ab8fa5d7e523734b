//! What regions ask each other when tables are compared, repaired and scrubbed.
//!
//! Questions of a comparison travel in the codec of the replication room; the others are here.
//! Whatever a region asks is bounded, and whoever answers checks the bounds.

use bytes::Bytes;
use isthmus_digest::{Lane, Parts, Sum};
use isthmus_model::key::EncodedKey;
use isthmus_replication::frame::{ExpiredBefore, FamilyColumns, Watermark};
use isthmus_replication::verify::answer::ScrubbedFrom;
use isthmus_store::digest::BadRange;

/// Rows read by one scrub question at most.
pub const SCRUB_ROWS_MAX: u32 = 8192;
/// Rows repaired by one question at most.
pub const REPAIR_ROWS_MAX: usize = 200;
/// Bytes of rows of a repair that one question aims at.
pub const REPAIR_BYTES: usize = 4 * 1024 * 1024;
/// Rows told by one answer at most.
pub const ROWS_TOLD_MAX: usize = 4096;
/// Bytes of rows that an answer aims at.
pub const ROWS_TOLD_BYTES: usize = 4 * 1024 * 1024;
/// Tables of which the roots are asked at once.
pub const ROOTS_MAX: usize = 256;

/// A question of a comparison, encoded by the replication room.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Compare {
    /// The question.
    #[prost(bytes = "bytes", tag = "1")]
    pub question: Bytes,
}

/// Read some rows from the disk and hold them against the digest.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Scrub {
    /// Table.
    #[prost(uint64, tag = "1")]
    pub table: u64,
    /// First key.
    #[prost(bytes = "bytes", tag = "2")]
    pub from: Bytes,
    /// About how many rows.
    #[prost(uint32, tag = "3")]
    pub rows: u32,
    /// Names the pass over the table that this step belongs to.
    #[prost(uint64, tag = "4")]
    pub pass: u64,
}

/// What a step of a scrub has found.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ScrubTold {
    /// Where to go on; none: all was read.
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub next: Option<Bytes>,
    /// Rows read.
    #[prost(uint64, tag = "2")]
    pub rows: u64,
    /// Bytes read.
    #[prost(uint64, tag = "3")]
    pub bytes: u64,
    /// What is wrong.
    #[prost(message, repeated, tag = "4")]
    pub bad: Vec<Bad>,
    /// Rows of the table, about.
    #[prost(uint64, tag = "5")]
    pub rows_total: u64,
    /// With the last step: when each range was last read, by key and without gaps.
    #[prost(message, repeated, tag = "6")]
    pub scrubbed: Vec<ScrubbedFrom>,
}

/// A range whose rows do not add up to what the digest says.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Bad {
    /// The lane, encoded.
    #[prost(bytes = "bytes", tag = "1")]
    pub lane: Bytes,
    /// First key.
    #[prost(bytes = "bytes", tag = "2")]
    pub start: Bytes,
    /// First key beyond; none: to the end.
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub end: Option<Bytes>,
    /// Rows that the digest counts.
    #[prost(uint64, tag = "4")]
    pub rows_expected: u64,
    /// Rows that are there.
    #[prost(uint64, tag = "5")]
    pub rows_found: u64,
    /// A row that cannot be read.
    #[prost(bytes = "bytes", optional, tag = "6")]
    pub damaged: Option<Bytes>,
}

/// Make rows as another replica has them.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Repair {
    /// Table.
    #[prost(uint64, tag = "1")]
    pub table: u64,
    /// Rows.
    #[prost(message, repeated, tag = "2")]
    pub rows: Vec<RepairOne>,
    /// Lanes of time below were left out of what is expected.
    #[prost(sint64, tag = "3")]
    pub floor_time: i64,
    /// Lanes of kills below were left out.
    #[prost(uint64, tag = "4")]
    pub floor_kills: u64,
    /// One writer: the entry as of which the rows were compared.
    #[prost(uint64, tag = "5")]
    pub cut_lsn: u64,
}

/// One row of a repair.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RepairOne {
    /// Key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// What it must still be known by; 0: that it is not there.
    #[prost(fixed64, tag = "2")]
    pub expected: u64,
    /// One writer: the row. Several: what to merge into it. Packed.
    #[prost(bytes = "bytes", tag = "3")]
    pub row: Bytes,
}

/// How a repair went.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RepairTold {
    /// Per row: it was repaired; else it had changed.
    #[prost(bool, repeated, tag = "1")]
    pub done: Vec<bool>,
}

/// Settle a range of which disk and digest differ.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Heal {
    /// Table.
    #[prost(uint64, tag = "1")]
    pub table: u64,
    /// The range.
    #[prost(message, optional, tag = "2")]
    pub bad: Option<Bad>,
    /// All rows that a healthy replica has there.
    #[prost(message, repeated, tag = "3")]
    pub rows: Vec<StoredRow>,
}

/// How a range was settled.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HealTold {
    /// How.
    #[prost(enumeration = "HealEnd", tag = "1")]
    pub end: i32,
    /// Rows written.
    #[prost(uint64, tag = "2")]
    pub rows: u64,
}

/// How a range was settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
pub enum HealEnd {
    /// Not: the replica has neither what the digest says nor what the disk holds.
    Unsettled = 0,
    /// They agree by now.
    Nothing = 1,
    /// Rows were written.
    Rows = 2,
    /// The digest was set right.
    Digest = 3,
}

/// Tell the rows of a range as the disk holds them.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Rows {
    /// Table.
    #[prost(uint64, tag = "1")]
    pub table: u64,
    /// First key.
    #[prost(bytes = "bytes", tag = "2")]
    pub start: Bytes,
    /// First key beyond; none: to the end.
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub end: Option<Bytes>,
}

/// Rows of a range, at one moment.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RowsTold {
    /// The last entry in them.
    #[prost(uint64, tag = "1")]
    pub lsn: u64,
    /// Everything of every origin below it is in them.
    #[prost(uint64, tag = "2")]
    pub safe: u64,
    /// What is in them of each origin.
    #[prost(message, repeated, tag = "3")]
    pub vector: Vec<Watermark>,
    /// What is logged as expired.
    #[prost(message, repeated, tag = "4")]
    pub expiry: Vec<ExpiredBefore>,
    /// Lanes of kills below are dropped.
    #[prost(uint64, tag = "5")]
    pub floor_kills: u64,
    /// Several regions write.
    #[prost(bool, tag = "6")]
    pub many_writers: bool,
    /// Rows, by key.
    #[prost(message, repeated, tag = "7")]
    pub rows: Vec<StoredRow>,
    /// Where to go on, if there are more.
    #[prost(bytes = "bytes", optional, tag = "8")]
    pub next: Option<Bytes>,
    /// Which columns the table's families take, in their order.
    #[prost(message, repeated, tag = "9")]
    pub families: Vec<FamilyColumns>,
}

/// A row as the disk holds it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StoredRow {
    /// Key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// What is stored.
    #[prost(bytes = "bytes", tag = "2")]
    pub packed: Bytes,
    /// It cannot be read.
    #[prost(bool, tag = "3")]
    pub damaged: bool,
    /// What of it counts in the digest.
    #[prost(message, repeated, tag = "4")]
    pub parts: Vec<LanePart>,
}

/// A part of a row.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LanePart {
    /// The lane, encoded.
    #[prost(bytes = "bytes", tag = "1")]
    pub lane: Bytes,
    /// Its sum.
    #[prost(bytes = "bytes", tag = "2")]
    pub sum: Bytes,
}

/// Openings of comparisons, each answered with its roots and closed at once.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Roots {
    /// Questions, encoded by the replication room; only openings.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub questions: Vec<Bytes>,
    /// What the asking region has found out, for the other one to show.
    #[prost(message, repeated, tag = "2")]
    pub verdicts: Vec<VerdictTold>,
}

/// The answers, in order.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RootsTold {
    /// Encoded by the replication room.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub answers: Vec<Bytes>,
}

/// How many rows differ between two keys.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PlaceTold {
    /// The first that differs.
    #[prost(bytes = "bytes", tag = "1")]
    pub first: Bytes,
    /// The last that differs.
    #[prost(bytes = "bytes", tag = "2")]
    pub last: Bytes,
    /// How many.
    #[prost(uint64, tag = "3")]
    pub rows: u64,
}

/// How two replicas of a table stand, by the region that compares them.
#[derive(Clone, PartialEq, prost::Message)]
pub struct VerdictTold {
    /// Table.
    #[prost(uint64, tag = "1")]
    pub table: u64,
    /// Rows that differ.
    #[prost(uint64, tag = "2")]
    pub rows: u64,
    /// Ranges they lie in.
    #[prost(uint64, tag = "3")]
    pub ranges: u64,
    /// Since when that is so.
    #[prost(int64, tag = "4")]
    pub since_millis: i64,
    /// How long ago it was looked at.
    #[prost(uint64, tag = "5")]
    pub checked_millis_ago: u64,
    /// Where the rows lie, a few ranges at most.
    #[prost(message, repeated, tag = "6")]
    pub places: Vec<PlaceTold>,
}

/// The bytes of a key that is an end of a range.
pub fn end_bytes(end: Option<&EncodedKey>) -> Option<Bytes> {
    end.map(|end| end.0.clone())
}

impl Bad {
    /// As it is sent.
    pub fn of(range: &BadRange) -> Bad {
        Bad {
            lane: Bytes::copy_from_slice(&range.lane.encode()),
            start: range.start.0.clone(),
            end: end_bytes(range.end.as_ref()),
            rows_expected: range.rows_expected,
            rows_found: range.rows_found,
            damaged: end_bytes(range.damaged.as_ref()),
        }
    }

    /// As it was found; none if the lane is unknown.
    pub fn range(&self) -> Option<BadRange> {
        Some(BadRange {
            lane: lane(&self.lane)?,
            start: EncodedKey(self.start.clone()),
            end: self.end.clone().map(EncodedKey),
            rows_expected: self.rows_expected,
            rows_found: self.rows_found,
            damaged: self.damaged.clone().map(EncodedKey),
        })
    }
}

fn lane(bytes: &Bytes) -> Option<Lane> {
    Lane::decode(bytes[..].try_into().ok()?)
}

impl StoredRow {
    /// A row with its parts; none: it cannot be read.
    pub fn new(key: Bytes, packed: Bytes, parts: Option<&Parts>) -> StoredRow {
        let part = |(lane, sum): (Lane, Sum)| LanePart {
            lane: Bytes::copy_from_slice(&lane.encode()),
            sum: Bytes::copy_from_slice(&sum.0.to_be_bytes()),
        };
        StoredRow {
            key,
            packed,
            damaged: parts.is_none(),
            parts: parts.into_iter().flat_map(Parts::iter).map(part).collect(),
        }
    }

    /// The sum of its part in a lane, if it has one there.
    pub fn sum_in(&self, wanted: Lane) -> Option<Sum> {
        let part = self.parts.iter().find(|part| lane(&part.lane) == Some(wanted))?;
        let sum: [u8; 16] = part.sum[..].try_into().ok()?;
        Some(Sum(u128::from_be_bytes(sum)))
    }
}

#[cfg(test)]
mod tests {
    use isthmus_digest::{Lane, Parts, Sum};
    use prost::Message;

    use super::*;

    #[test]
    fn bad_ranges_and_rows_come_over_whole() {
        let range = BadRange {
            lane: Lane::Time(-3),
            start: EncodedKey(Bytes::from_static(b"a")),
            end: None,
            rows_expected: 4,
            rows_found: 3,
            damaged: Some(EncodedKey(Bytes::from_static(b"b"))),
        };
        let bytes = Bad::of(&range).encode_to_vec();
        assert_eq!(Bad::decode(&bytes[..]).unwrap().range(), Some(range));
        assert_eq!(Bad { lane: Bytes::from_static(b"?"), ..Bad::default() }.range(), None);
        let parts = Parts::one(Lane::Kills(7), Sum(u128::MAX - 1));
        let row = StoredRow::new(Bytes::from_static(b"k"), Bytes::new(), Some(&parts));
        let row = StoredRow::decode(&row.encode_to_vec()[..]).unwrap();
        assert_eq!(row.sum_in(Lane::Kills(7)), Some(Sum(u128::MAX - 1)));
        assert_eq!((row.sum_in(Lane::Data), row.damaged), (None, false));
    }
}
