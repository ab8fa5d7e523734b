//! Messages that carry entries, how bytes are packed, and what is acknowledged of them.
//!
//! Numbers of fields are never used again for something else; what is new is left out by who does
//! not know it.

use bytes::Bytes;

use crate::trace::TraceMark;

/// Entries of the origin with LSNs after `from` through `to`. What is missing inside was left
/// out by the origin and will not come.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Parcel {
    /// Partition.
    #[prost(uint64, tag = "1")]
    pub partition: u64,
    /// Epoch of the origin.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// Exclusive.
    #[prost(uint64, tag = "3")]
    pub from: u64,
    /// Inclusive.
    #[prost(uint64, tag = "4")]
    pub to: u64,
    /// The entries.
    #[prost(message, optional, tag = "5")]
    pub body: Option<Packed>,
    /// Which of the entries are followed by traces. A peer that knows none of it passes it over.
    #[prost(message, repeated, tag = "15")]
    pub traces: Vec<TraceMark>,
    /// With several writers, where entries of others are passed on: what it brings of each
    /// origin. `from` and `to` are then addresses of the sender's log and may be equal, where an
    /// origin's range moved without entries.
    #[prost(message, repeated, tag = "10")]
    pub ranges: Vec<OriginRange>,
}

/// A range of one origin's log, in its own addresses.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OriginRange {
    /// Region number.
    #[prost(uint32, tag = "1")]
    pub origin: u32,
    /// Exclusive.
    #[prost(uint64, tag = "2")]
    pub from: u64,
    /// Inclusive.
    #[prost(uint64, tag = "3")]
    pub to: u64,
}

/// Bytes that are compressed and checked.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Packed {
    /// 0: as they are, 1: zstd, 2: zstd with a dictionary, 3: zstd with priors, 4: LZ4.
    #[prost(uint32, tag = "1")]
    pub codec: u32,
    /// Length when unpacked.
    #[prost(uint64, tag = "2")]
    pub bytes_unpacked: u64,
    /// XXH3-64 of the unpacked bytes.
    #[prost(fixed64, tag = "3")]
    pub checksum: u64,
    /// The bytes.
    #[prost(bytes = "bytes", tag = "4")]
    pub data: Bytes,
    /// Number of the dictionary, of codec 2.
    #[prost(uint32, tag = "5")]
    pub dictionary: u32,
    /// What the bytes were packed against, one after the other, of codec 3.
    #[prost(message, repeated, tag = "6")]
    pub priors: Vec<Prior>,
}

/// A value that the replica has before the entries of a parcel.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Prior {
    /// Encoded key of the row.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// Column.
    #[prost(bytes = "bytes", tag = "2")]
    pub column: Bytes,
    /// Its length.
    #[prost(uint64, tag = "3")]
    pub bytes: u64,
    /// XXH3-64 of it.
    #[prost(fixed64, tag = "4")]
    pub checksum: u64,
}

/// Tells a dictionary, before anything is packed against it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Dictionary {
    /// Partition.
    #[prost(uint64, tag = "1")]
    pub partition: u64,
    /// Its number.
    #[prost(uint32, tag = "2")]
    pub number: u32,
    /// XXH3-64 of it.
    #[prost(fixed64, tag = "3")]
    pub checksum: u64,
    /// The dictionary, as zstd makes it.
    #[prost(bytes = "bytes", tag = "4")]
    pub data: Bytes,
}

/// The log records of a parcel, as the store frames them.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Records {
    /// By rising LSN.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub records: Vec<Bytes>,
}

/// Entries are durable and applied.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Ack {
    /// Partition.
    #[prost(uint64, tag = "1")]
    pub partition: u64,
    /// Durable through this LSN of the origin.
    #[prost(uint64, tag = "2")]
    pub held: u64,
    /// Applied through this LSN of the origin.
    #[prost(uint64, tag = "3")]
    pub applied: u64,
}
