//! Messages of a copy: where it begins, what is offered of it, rows, and how far it has come.
//!
//! Numbers of fields are never used again for something else; what is new is left out by who does
//! not know it.

use bytes::Bytes;
use isthmus_model::commit;
use isthmus_model::limits::COUNT_MAX;

use super::{ExpiredBefore, Packed, Watermark};

/// How far a copy has come; kept at rest by the replica.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CopyProgress {
    /// LSN of the first snapshot used: the log is followed from there.
    #[prost(uint64, tag = "1")]
    pub first_lsn: u64,
    /// HLC of the first snapshot used.
    #[prost(uint64, tag = "2")]
    pub first_hlc: u64,
    /// What the first snapshot had of every origin.
    #[prost(message, repeated, tag = "3")]
    pub vector: Vec<Watermark>,
    /// The first key not copied yet.
    #[prost(bytes = "bytes", tag = "4")]
    pub next_key: Bytes,
    /// The region that is copied from; 0: the base.
    #[prost(uint32, tag = "10")]
    pub feeder: u32,
    /// What was prepared and is in the first snapshot; none: from who does not tell.
    #[prost(message, optional, tag = "11")]
    pub made: Option<Made>,
}

/// Changes that were prepared in terms that are not void and are in the log.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Made {
    /// By rising term and number.
    #[prost(message, repeated, tag = "1")]
    pub ranges: Vec<MadeRange>,
    /// The latest term that is settled in that log; none: from who does not tell.
    #[prost(message, optional, tag = "2")]
    pub settled: Option<SettledTerm>,
}

/// A term of which nothing earlier is made any more.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct SettledTerm {
    /// Its epoch.
    #[prost(uint64, tag = "1")]
    pub epoch: u64,
    /// Its life.
    #[prost(uint64, tag = "2")]
    pub life: u64,
}

/// Changes of one term.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct MadeRange {
    /// The term's epoch.
    #[prost(uint64, tag = "1")]
    pub epoch: u64,
    /// Its life.
    #[prost(uint64, tag = "2")]
    pub life: u64,
    /// The first number.
    #[prost(uint64, tag = "3")]
    pub first: u64,
    /// The last one.
    #[prost(uint64, tag = "4")]
    pub last: u64,
}

impl Made {
    /// What is told of these.
    pub(crate) fn of(made: &[commit::MadeRange], settled: commit::Term) -> Made {
        let range = |(term, first, last): &commit::MadeRange| MadeRange {
            epoch: term.epoch,
            life: term.life,
            first: *first,
            last: *last,
        };
        let commit::Term { epoch, life } = settled;
        Made {
            ranges: made.iter().map(range).collect(),
            settled: Some(SettledTerm { epoch, life }),
        }
    }

    /// The term that was told of.
    pub(crate) fn settled(&self) -> Option<commit::Term> {
        self.settled.map(|SettledTerm { epoch, life }| commit::Term { epoch, life })
    }

    /// What was told of.
    pub(crate) fn ranges(&self) -> Vec<commit::MadeRange> {
        let range = |one: &MadeRange| {
            (commit::Term { epoch: one.epoch, life: one.life }, one.first, one.last)
        };
        self.ranges.iter().map(range).collect()
    }

    /// Whether they can be ranges of changes, and no more than there can be.
    pub(crate) fn is_in_bounds(&self) -> bool {
        let is_range = |one: &MadeRange| {
            one.first <= one.last && one.epoch.max(one.life).max(one.last) < COUNT_MAX
        };
        let is_term = |one: &SettledTerm| one.epoch.max(one.life) < COUNT_MAX;
        self.ranges.len() <= commit::PENDING_MAX + 1
            && self.ranges.iter().all(is_range)
            && self.settled.as_ref().is_none_or(is_term)
    }
}

/// A copy begins, or goes on from another snapshot.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CopyBegin {
    /// Partition.
    #[prost(uint64, tag = "1")]
    pub partition: u64,
    /// Epoch of the origin.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// What holds when it has ended.
    #[prost(message, optional, tag = "3")]
    pub progress: Option<CopyProgress>,
    /// What the snapshot now used has of every origin.
    #[prost(message, repeated, tag = "4")]
    pub vector: Vec<Watermark>,
    /// The table, as the store writes it.
    #[prost(bytes = "bytes", tag = "5")]
    pub table: Bytes,
    /// What the snapshot now used had logged as expired.
    #[prost(message, repeated, tag = "6")]
    pub expiry: Vec<ExpiredBefore>,
    /// What the digest of the snapshot counts; none: from a region of format 1.
    #[prost(message, optional, tag = "7")]
    pub counts: Option<Counts>,
    /// Intents of batches of several partitions, as the store writes them.
    #[prost(bytes = "bytes", repeated, tag = "8")]
    pub intents: Vec<Bytes>,
    /// Batches of several partitions that are decided there.
    #[prost(message, repeated, tag = "9")]
    pub decided: Vec<DecidedBatch>,
}

/// A batch of several partitions that is decided, as the store writes it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DecidedBatch {
    /// Its key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// Its value.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

/// What of the rows a digest counts.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Counts {
    /// Live cells lie in lanes by the bucket of their timestamps.
    #[prost(bool, tag = "1")]
    pub time_lanes: bool,
    /// Expiries whose victims never count.
    #[prost(message, repeated, tag = "2")]
    pub base: Vec<ExpiredBefore>,
    /// Lanes below do not count.
    #[prost(message, optional, tag = "3")]
    pub floors: Option<Floors>,
    /// Which columns do not expire as the table says, as a number; 0: there are none.
    #[prost(fixed64, tag = "4")]
    pub families: u64,
}

/// Below these lanes do not count.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Floors {
    /// Lanes of cells by time.
    #[prost(sint64, tag = "1")]
    pub time: i64,
    /// Lanes of tombstones and trims.
    #[prost(uint64, tag = "2")]
    pub kills: u64,
}

/// The digest of a range, as of the snapshot of the copy.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CopyOffer {
    /// Partition.
    #[prost(uint64, tag = "1")]
    pub partition: u64,
    /// Counts the offers of this connection, from 1.
    #[prost(uint64, tag = "2")]
    pub number: u64,
    /// First key, inclusive.
    #[prost(bytes = "bytes", tag = "3")]
    pub start: Bytes,
    /// Last key, exclusive; empty: the end of the partition.
    #[prost(bytes = "bytes", tag = "4")]
    pub end: Bytes,
    /// The leaves: `OfferedLanes`.
    #[prost(message, optional, tag = "5")]
    pub body: Option<Packed>,
}

/// The lanes of a range that count and hold anything.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OfferedLanes {
    /// By rising lane.
    #[prost(message, repeated, tag = "1")]
    pub lanes: Vec<OfferedLane>,
}

/// The leaves of one lane in a range, without gaps.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OfferedLane {
    /// The lane, encoded.
    #[prost(bytes = "bytes", tag = "1")]
    pub lane: Bytes,
    /// Where the leaves begin, the first at the start of the range: bytes shared with the start
    /// before, then the length and the bytes of the rest, each length a varint.
    #[prost(bytes = "bytes", tag = "2")]
    pub starts: Bytes,
    /// Their sums, 16 bytes each, little-endian.
    #[prost(bytes = "bytes", tag = "3")]
    pub sums: Bytes,
    /// How many parts lie in each.
    #[prost(uint32, repeated, tag = "4")]
    pub rows: Vec<u32>,
    /// The first leaf reaches beyond the range, so that its sum says nothing of it.
    #[prost(bool, tag = "5")]
    pub first_is_cut: bool,
    /// The last one does.
    #[prost(bool, tag = "6")]
    pub last_is_cut: bool,
}

/// What of an offered range the replica has not alike.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CopyWant {
    /// Partition.
    #[prost(uint64, tag = "1")]
    pub partition: u64,
    /// Number of the offer.
    #[prost(uint64, tag = "2")]
    pub number: u64,
    /// All of the range is to be sent.
    #[prost(bool, tag = "3")]
    pub all: bool,
    /// What the fingerprints were taken of.
    #[prost(message, optional, tag = "4")]
    pub floors: Option<Floors>,
    /// What is not alike: `WantedRanges`. None where all is alike, or all is wanted.
    #[prost(message, optional, tag = "5")]
    pub body: Option<Packed>,
}

/// Ranges that are not alike.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WantedRanges {
    /// By rising start, apart from each other.
    #[prost(message, repeated, tag = "1")]
    pub ranges: Vec<WantedRange>,
}

/// A range that is not alike, and the rows that the replica has in it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WantedRange {
    /// First key, inclusive.
    #[prost(bytes = "bytes", tag = "1")]
    pub start: Bytes,
    /// Last key, exclusive; empty: the end of the partition.
    #[prost(bytes = "bytes", tag = "2")]
    pub end: Bytes,
    /// Fingerprints of the rows, 8 bytes each, little-endian.
    #[prost(bytes = "bytes", tag = "3")]
    pub rows: Bytes,
}

/// All rows of one range, or those that the replica has not alike.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CopyChunk {
    /// Partition.
    #[prost(uint64, tag = "1")]
    pub partition: u64,
    /// Counts the chunks of this connection, from 1.
    #[prost(uint64, tag = "2")]
    pub number: u64,
    /// First key, inclusive.
    #[prost(bytes = "bytes", tag = "3")]
    pub start: Bytes,
    /// Last key, exclusive; empty: the end of the partition.
    #[prost(bytes = "bytes", tag = "4")]
    pub end: Bytes,
    /// The rows.
    #[prost(message, optional, tag = "5")]
    pub body: Option<Packed>,
    /// How many.
    #[prost(uint64, tag = "6")]
    pub rows: u64,
    /// The offer that it belongs to; 0: the range was not offered.
    #[prost(uint64, tag = "7")]
    pub offer: u64,
    /// Other rows of the range are alike and stay.
    #[prost(bool, tag = "8")]
    pub scattered: bool,
}

/// One row inside a chunk.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CopiedRow {
    /// Encoded key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// Packed row.
    #[prost(bytes = "bytes", tag = "2")]
    pub row: Bytes,
}

/// The rows of a chunk.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CopiedRows {
    /// By rising key.
    #[prost(message, repeated, tag = "1")]
    pub rows: Vec<CopiedRow>,
    /// Fingerprints of rows of the whole offered range that the origin has not, or otherwise.
    #[prost(bytes = "bytes", tag = "2")]
    pub gone: Bytes,
}

/// A chunk is durable.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CopyAck {
    /// Partition.
    #[prost(uint64, tag = "1")]
    pub partition: u64,
    /// Its number.
    #[prost(uint64, tag = "2")]
    pub number: u64,
    /// Microseconds that taking it took, so that who sends can spare the replica, too; 0: not told.
    #[prost(uint64, tag = "3")]
    pub took_micros: u64,
}
