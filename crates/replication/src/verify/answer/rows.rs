//! What is told of ranges, leaves and rows.

use bytes::Bytes;
use prost::Message;

use crate::frame::Packed;

/// Coarse ranges without a gap.
#[derive(Clone, PartialEq, Message)]
pub struct Coarse {
    /// Each ends where the next begins.
    #[prost(message, repeated, tag = "1")]
    pub ranges: Vec<CoarseRange>,
    /// Where the last one ends, if more follow.
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub next: Option<Bytes>,
}

/// The parts in the leaves that start in a range.
#[derive(Clone, PartialEq, Message)]
pub struct CoarseRange {
    /// First key.
    #[prost(bytes = "bytes", tag = "1")]
    pub start: Bytes,
    /// Sum over all lanes.
    #[prost(bytes = "bytes", tag = "2")]
    pub sum: Bytes,
    /// Leaves.
    #[prost(uint64, tag = "3")]
    pub leaves: u64,
}

/// What came of laying leaves beside those here. What is unlike here is selected.
#[derive(Clone, PartialEq, Message)]
pub struct Laid {
    /// Places of those that were told and are unlike.
    #[prost(uint32, repeated, tag = "1")]
    pub unlike: Vec<u32>,
    /// What is told of the parts that are selected; of rows all, unless there are more.
    #[prost(message, optional, tag = "2")]
    pub parts: Option<SelectedParts>,
}

/// What is told of the parts that are selected.
#[derive(Clone, PartialEq, Message)]
pub struct SelectedParts {
    /// How many.
    #[prost(uint64, tag = "1")]
    pub count: u64,
    /// They would be too many: nothing is selected.
    #[prost(bool, tag = "2")]
    pub too_many: bool,
    /// Where the selected range ends, if that is before its end.
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub next: Option<Bytes>,
    /// Leaves whose sum is not that of their rows.
    #[prost(message, repeated, tag = "4")]
    pub wrong: Vec<WrongLeaf>,
    /// Fingerprints of parts.
    #[prost(fixed64, repeated, tag = "5")]
    pub fingerprints: Vec<u64>,
    /// Symbols over them.
    #[prost(bytes = "bytes", tag = "6")]
    pub symbols: Bytes,
    /// Rows with parts unlike those that were given.
    #[prost(message, repeated, tag = "7")]
    pub unlike: Vec<RowAnswer>,
    /// More rows are unlike than are told.
    #[prost(bool, tag = "8")]
    pub more: bool,
    /// Those that were given and are not here.
    #[prost(fixed64, repeated, tag = "9")]
    pub lacking: Vec<u64>,
    /// The rows that are unlike, packed.
    #[prost(message, optional, tag = "10")]
    pub packed: Option<Packed>,
    /// The sum of all leaves that are not selected, where leaves are.
    #[prost(bytes = "bytes", tag = "11")]
    pub outside: Bytes,
    /// The sum of all parts that are selected.
    #[prost(bytes = "bytes", tag = "12")]
    pub inside: Bytes,
    /// The sum of those of them that are unlike the sketch that was given.
    #[prost(bytes = "bytes", tag = "13")]
    pub unlike_sum: Bytes,
    /// Those of the sketch that are not here, by narrow names, one after the other.
    #[prost(bytes = "bytes", tag = "14")]
    pub narrow_lacking: Bytes,
}

/// A leaf whose sum is not that of its rows.
#[derive(Clone, PartialEq, Message)]
pub struct WrongLeaf {
    /// First key.
    #[prost(bytes = "bytes", tag = "1")]
    pub start: Bytes,
    /// First key beyond; none: to the end.
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub end: Option<Bytes>,
}

/// Rows.
#[derive(Clone, PartialEq, Message)]
pub struct Rows {
    /// The rows.
    #[prost(message, repeated, tag = "1")]
    pub rows: Vec<RowAnswer>,
    /// How many of what was asked for are answered.
    #[prost(uint32, tag = "2")]
    pub answered: u32,
    /// The rows, packed.
    #[prost(message, optional, tag = "3")]
    pub packed: Option<Packed>,
    /// The sum of the parts by which they were asked for.
    #[prost(bytes = "bytes", tag = "4")]
    pub asked_sum: Bytes,
}

/// One row.
#[derive(Clone, PartialEq, Message)]
pub struct RowAnswer {
    /// Key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// The row at the snapshot, packed; none: not there, or not asked for.
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub packed: Option<Bytes>,
    /// It is there at the snapshot.
    #[prost(bool, tag = "3")]
    pub present: bool,
    /// Of its parts as of the cut; 0: it had none.
    #[prost(fixed64, tag = "4")]
    pub fingerprint: u64,
    /// It changed between the cut and the snapshot.
    #[prost(bool, tag = "5")]
    pub moved: bool,
}
