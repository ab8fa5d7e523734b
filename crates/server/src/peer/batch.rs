//! What regions ask each other about batches that are made in several partitions or in none.

use bytes::Bytes;
use isthmus_model::atomic::{BatchId, Member, Verdict};
use isthmus_model::commit::Term;
use isthmus_model::ids::TableId;

use super::call::Failure;

/// The name of a batch.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct BatchName {
    /// Number of the table that its anchor is.
    #[prost(uint64, tag = "1")]
    pub anchor: u64,
    /// The anchor's epoch in which it was begun.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// The life of the process that began it.
    #[prost(uint64, tag = "3")]
    pub life: u64,
    /// Counts the batches of that life.
    #[prost(uint64, tag = "4")]
    pub number: u64,
}

impl From<BatchId> for BatchName {
    fn from(id: BatchId) -> BatchName {
        BatchName {
            anchor: id.anchor.0,
            epoch: id.term.epoch,
            life: id.term.life,
            number: id.number,
        }
    }
}

impl From<BatchName> for BatchId {
    fn from(name: BatchName) -> BatchId {
        let term = Term { epoch: name.epoch, life: name.life };
        BatchId { anchor: TableId(name.anchor), term, number: name.number }
    }
}

/// A member of a batch, as it is prepared.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MemberTold {
    /// Number of its table.
    #[prost(uint64, tag = "1")]
    pub table: u64,
    /// The table's name.
    #[prost(string, tag = "2")]
    pub name: String,
}

impl From<&Member> for MemberTold {
    fn from(member: &Member) -> MemberTold {
        MemberTold { table: member.table.0, name: member.name.as_str().to_owned() }
    }
}

impl From<MemberTold> for Member {
    fn from(told: MemberTold) -> Member {
        Member { table: TableId(told.table), name: told.name.into() }
    }
}

/// A batch to be made, already authenticated by the asking region; the asked region writes its
/// anchor, which is the first group. The answer is a `BatchDone`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Batch {
    /// One for each partition.
    #[prost(message, repeated, tag = "1")]
    pub groups: Vec<BatchGroup>,
}

/// The rows of a batch in one partition.
#[derive(Clone, PartialEq, prost::Message)]
pub struct BatchGroup {
    /// Name of its table.
    #[prost(string, tag = "1")]
    pub name: String,
    /// A request of BatchWriteRow of that table.
    #[prost(bytes = "bytes", tag = "2")]
    pub body: Bytes,
    /// The region that writes it, as far as the asking region knows; empty: it does not.
    #[prost(string, tag = "3")]
    pub region: String,
    /// Number of its table; 0: the asking region does not know.
    #[prost(uint64, tag = "4")]
    pub table: u64,
}

/// What became of a batch: it is made if all groups have answers.
#[derive(Clone, PartialEq, prost::Message)]
pub struct BatchDone {
    /// In the order of the groups.
    #[prost(message, repeated, tag = "1")]
    pub groups: Vec<GroupDone>,
}

/// What became of a group.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GroupDone {
    /// The answer to its request, if it is made.
    #[prost(bytes = "bytes", tag = "1")]
    pub answer: Bytes,
    /// The rows because of which it is not.
    #[prost(message, repeated, tag = "2")]
    pub refused: Vec<RowRefused>,
    /// Why it is not, if that is about all of its rows.
    #[prost(message, optional, tag = "3")]
    pub failure: Option<Failure>,
}

/// A row that cannot be written.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RowRefused {
    /// Its place in the group.
    #[prost(uint32, tag = "1")]
    pub place: u32,
    /// Why.
    #[prost(message, optional, tag = "2")]
    pub failure: Option<Failure>,
}

/// Lock rows and keep what is asked for until it is known whether it is made. It is asked once.
/// The answer is an `Intended`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Intend {
    /// The batch.
    #[prost(message, optional, tag = "1")]
    pub batch: Option<BatchName>,
    /// Name of the table that its anchor is.
    #[prost(string, tag = "2")]
    pub anchor: String,
    /// Name of the table.
    #[prost(string, tag = "3")]
    pub name: String,
    /// A request of BatchWriteRow of that table.
    #[prost(bytes = "bytes", tag = "4")]
    pub body: Bytes,
    /// Number of the table; 0: the asking region does not know.
    #[prost(uint64, tag = "5")]
    pub table: u64,
}

/// There is an intent, if no row is refused.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Intended {
    /// Number of the table.
    #[prost(uint64, tag = "1")]
    pub table: u64,
    /// The answer to the request, should it be made.
    #[prost(bytes = "bytes", tag = "2")]
    pub answer: Bytes,
    /// The rows that cannot be written.
    #[prost(message, repeated, tag = "3")]
    pub refused: Vec<RowRefused>,
}

/// Batches are made, or given up. The answer is a `SettleTold`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Settle {
    /// The batches.
    #[prost(message, repeated, tag = "1")]
    pub batches: Vec<BatchName>,
    /// Number of the table that is to settle them.
    #[prost(uint64, tag = "2")]
    pub table: u64,
    /// They are made.
    #[prost(bool, tag = "3")]
    pub made: bool,
}

/// How well it is kept that batches are settled.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SettleTold {
    /// In the order of the question: 0 where one is not settled, 1 where that is as durable as the
    /// table's mode asks for, 2 where all replicas hold it.
    #[prost(uint32, repeated, tag = "1")]
    pub held: Vec<u32>,
}

/// What became of batches that were begun in one anchor. The answer is a `VerdictTold`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AskVerdict {
    /// The batches.
    #[prost(message, repeated, tag = "1")]
    pub batches: Vec<BatchName>,
}

/// What became of them.
#[derive(Clone, PartialEq, prost::Message)]
pub struct VerdictTold {
    /// In the order of the question: 0 where it is open, 1 where it is made, 2 where it is given
    /// up.
    #[prost(uint32, repeated, tag = "1")]
    pub verdicts: Vec<u32>,
}

/// A question about what a person decides: a batch, or the loss of what was prepared.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ByHand {
    /// The question in JSON, as is the answer's body.
    #[prost(bytes = "bytes", tag = "1")]
    pub asked: Bytes,
}

/// As it is told.
pub fn verdict_number(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Open => 0,
        Verdict::Committed => 1,
        Verdict::Abandoned => 2,
    }
}

/// What was told; what is not known is open.
pub fn verdict_of(number: u32) -> Verdict {
    match number {
        1 => Verdict::Committed,
        2 => Verdict::Abandoned,
        _ => Verdict::Open,
    }
}
