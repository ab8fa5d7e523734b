//! The single questions that regions ask each other.

use bytes::Bytes;
use isthmus_replication::frame::Packed;

use super::batch::{AskVerdict, Batch, BatchName, ByHand, Intend, MemberTold, Settle};
use super::verify::{Compare, Heal, Repair, Roots, Rows, Scrub};

/// A question.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Call {
    /// Name of the asking region; must be the one in its certificate.
    #[prost(string, tag = "1")]
    pub from: String,
    /// What is asked.
    #[prost(
        oneof = "Question",
        tags = "2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 15, 20, 21, 22, 25, 30, 40, 41, 42, 50, 60, 61, \
                62, 63, 70, 71, 72, 80, 81, 82, 83, 84"
    )]
    pub question: Option<Question>,
}

/// What is asked.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Question {
    /// Take the record of a global table and obey it.
    #[prost(message, tag = "2")]
    Assign(Assign),
    /// The replica is taken out of its global table.
    #[prost(message, tag = "3")]
    Unassign(Unassign),
    /// Do a client's operation here, where it belongs.
    #[prost(message, tag = "4")]
    Forward(Forward),
    /// A question of a comparison.
    #[prost(message, tag = "5")]
    Compare(Compare),
    /// Read rows from the disk.
    #[prost(message, tag = "6")]
    Scrub(Scrub),
    /// Make rows as another replica has them.
    #[prost(message, tag = "7")]
    Repair(Repair),
    /// Settle a range of which disk and digest differ.
    #[prost(message, tag = "8")]
    Heal(Heal),
    /// Tell rows as the disk holds them.
    #[prost(message, tag = "9")]
    Rows(Rows),
    /// Tell the roots of tables.
    #[prost(message, tag = "10")]
    Roots(Roots),
    /// Change the record of a global table whose base is here.
    #[prost(message, tag = "11")]
    Change(Change),
    /// Tell what time it is there.
    #[prost(message, tag = "15")]
    Time(Time),
    /// Ship now what waits.
    #[prost(message, tag = "20")]
    Trigger(Trigger),
    /// Pause or throttle links that leave the region, while the base of their table is away.
    #[prost(message, tag = "21")]
    HoldLinks(HoldLinks),
    /// Take what was held so into the record. A question of its own: who does not know it would
    /// decide a change over whatever the record says by then.
    #[prost(message, tag = "22")]
    TakeHold(TakeHold),
    /// Tell whether the region has a write.
    #[prost(message, tag = "25")]
    Holds(Holds),
    /// Take bytes and rows, so that the way here is measured.
    #[prost(message, tag = "30")]
    Measure(Measure),
    /// The global table is dropped.
    #[prost(message, tag = "50")]
    Drop(Drop),
    /// Let another region write a table that is written here.
    #[prost(message, tag = "40")]
    HandOver(HandOver),
    /// Do a client's write here, where the table is written.
    #[prost(message, tag = "41")]
    Write(Write),
    /// Tell whether the table could be written here.
    #[prost(message, tag = "42")]
    MayWrite(MayWrite),
    /// A message of one voter of the quorum to another.
    #[prost(message, tag = "60")]
    Agree(Agree),
    /// Keep changes that the asking region is about to write.
    #[prost(message, tag = "61")]
    Prepare(Prepare),
    /// Take nothing of earlier terms any more, and tell what was prepared in them.
    #[prost(message, tag = "62")]
    Promise(Promise),
    /// Tell whether the region is well.
    #[prost(message, tag = "63")]
    Probe(Probe),
    /// Do a client's read here, at a replica of a partition.
    #[prost(message, tag = "70")]
    Read(Read),
    /// A question about a distributed table.
    #[prost(message, tag = "71")]
    Distribute(Distribute),
    /// Tell which moments a replica of a partition can be read as of.
    #[prost(message, tag = "72")]
    Moments(Moments),
    /// Make a batch in several partitions or in none; the anchor is written here.
    #[prost(message, tag = "80")]
    Batch(Batch),
    /// Keep the intent of a batch.
    #[prost(message, tag = "81")]
    Intend(Intend),
    /// End the intents of batches.
    #[prost(message, tag = "82")]
    Settle(Settle),
    /// Tell what became of batches.
    #[prost(message, tag = "83")]
    Verdict(AskVerdict),
    /// Tell of batches in doubt, or take what a person says of one.
    #[prost(message, tag = "84")]
    ByHand(ByHand),
}

/// Asks whether a region lives and is well. The answer is a `Probed`, and proves both ways.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Probe {
    /// When it was sent, by the clock of who sends it, which means nothing to others.
    #[prost(uint64, tag = "1")]
    pub sent_micros: u64,
    /// How long ago the asking voter has heard the asked region, so that this proves both ways,
    /// too; absent: it never has.
    #[prost(uint64, optional, tag = "2")]
    pub heard_micros_ago: Option<u64>,
}

/// The answer to a probe.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Probed {
    /// As in the probe.
    #[prost(uint64, tag = "1")]
    pub sent_micros: u64,
    /// Why the region is not well; empty: it is.
    #[prost(string, tag = "2")]
    pub ill: String,
    /// Which commands the voter knows; grows with them.
    #[prost(uint32, tag = "3")]
    pub commands: u32,
}

/// The commands of this version. From 1 on it is known that a person accepts a loss.
pub const COMMANDS: u32 = 1;

/// A client's read of a partition, already authenticated by the asking region. The answer's body
/// is the answer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Read {
    /// Path of the public API.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Request body.
    #[prost(bytes = "bytes", tag = "2")]
    pub body: Bytes,
    /// What the asked replica has is enough, though another region writes synchronously.
    #[prost(bool, tag = "3")]
    pub is_local: bool,
    /// Only the region that writes the partition is to answer.
    #[prost(bool, tag = "5")]
    pub is_newest: bool,
    /// Only a replica is to answer that lacks nothing older than so many milliseconds; 0: any.
    #[prost(uint64, tag = "6")]
    pub within_millis: u64,
    /// The answer is a part of a page of a range, with so many bytes of rows at most, and tells the
    /// bytes that it read in the place of units; 0: as for a client.
    #[prost(uint64, tag = "4")]
    pub bytes_max: u64,
    /// The receipt of writes that the answer must not be older than.
    #[prost(string, optional, tag = "7")]
    pub after: Option<String>,
    /// The moment as of which it is read, as an HLC.
    #[prost(fixed64, optional, tag = "8")]
    pub cut: Option<u64>,
}

/// Asks as of which moments a replica of a partition can be read. What it needs for that is kept
/// from then on. The answer is a `MomentsTold`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Moments {
    /// The partition's name.
    #[prost(string, tag = "1")]
    pub table: String,
}

/// The answer to `Moments`.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct MomentsTold {
    /// The first one, as an HLC.
    #[prost(fixed64, tag = "1")]
    pub from: u64,
    /// The last one: everything before it is there. It may be before the first one yet.
    #[prost(fixed64, tag = "2")]
    pub safe: u64,
}

/// A question about a distributed table.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Distribute {
    /// The question in JSON, as is the answer's body.
    #[prost(bytes = "bytes", tag = "1")]
    pub asked: Bytes,
}

/// A message of one voter of the quorum to another; the answer's body is the answer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Agree {
    /// As the registry writes it.
    #[prost(bytes = "bytes", tag = "1")]
    pub message: Bytes,
}

/// Changes that the asking region is about to write; who answers without a failure holds them
/// durably.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Prepare {
    /// Number of the table.
    #[prost(uint64, tag = "1")]
    pub table: u64,
    /// The epoch of their term.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// Which beginning in it.
    #[prost(uint64, tag = "3")]
    pub life: u64,
    /// The changes.
    #[prost(message, repeated, tag = "4")]
    pub changes: Vec<PreparedChange>,
}

/// A prepared change.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PreparedChange {
    /// Counts them in their term.
    #[prost(uint64, tag = "1")]
    pub number: u64,
    /// What it is: a `PreparedWrite`.
    #[prost(bytes = "bytes", tag = "2")]
    pub change: Bytes,
    /// Its term, where it is told back.
    #[prost(uint64, tag = "3")]
    pub epoch: u64,
    /// The same.
    #[prost(uint64, tag = "4")]
    pub life: u64,
}

/// Begins a term of a table: nothing of earlier ones is to be taken any more. The answer is a
/// `Promised`.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Promise {
    /// Number of the table.
    #[prost(uint64, tag = "1")]
    pub table: u64,
    /// The epoch of the term.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// Which beginning in it.
    #[prost(uint64, tag = "3")]
    pub life: u64,
    /// What comes after this change is to be told; absent: all.
    #[prost(message, optional, tag = "4")]
    pub after: Option<AfterChange>,
}

/// The name of a prepared change.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct AfterChange {
    /// The epoch of its term.
    #[prost(uint64, tag = "1")]
    pub epoch: u64,
    /// Which beginning in it.
    #[prost(uint64, tag = "2")]
    pub life: u64,
    /// Counts them in it.
    #[prost(uint64, tag = "3")]
    pub number: u64,
}

/// What was prepared in earlier terms and is not applied in the answering region.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Promised {
    /// By their names.
    #[prost(message, repeated, tag = "1")]
    pub changes: Vec<PreparedChange>,
    /// More follow.
    #[prost(bool, tag = "2")]
    pub more: bool,
    /// Its log is that of the asking region through this entry.
    #[prost(uint64, tag = "3")]
    pub held: u64,
    /// Something may be lacking here that was prepared here, so that nothing is told until a later
    /// term is settled: whoever waits for this region waits in vain. Then `held` is 0.
    #[prost(bool, tag = "4")]
    pub lacks: bool,
}

/// A client's write that becomes one entry, judged where its table is written and not made yet.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PreparedWrite {
    /// Path of the public API.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Request body.
    #[prost(bytes = "bytes", tag = "2")]
    pub body: Bytes,
    /// When it was judged, in milliseconds since the Unix epoch.
    #[prost(sint64, tag = "3")]
    pub judged_millis: i64,
    /// The numbers that the server gave to keys, by the places of the rows.
    #[prost(message, repeated, tag = "4")]
    pub numbers: Vec<NumberGiven>,
    /// It becomes an intent and changes nothing.
    #[prost(message, optional, tag = "5")]
    pub intent: Option<PreparedIntent>,
    /// Making it decides a batch of several partitions.
    #[prost(message, optional, tag = "6")]
    pub decision: Option<PreparedDecision>,
    /// In place of all that: the entry that it was in a log of which the end was cut off.
    #[prost(bytes = "bytes", tag = "7")]
    pub entry: Bytes,
}

/// The intent that a prepared write becomes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PreparedIntent {
    /// The batch.
    #[prost(message, optional, tag = "1")]
    pub batch: Option<BatchName>,
    /// Name of the table that its anchor is.
    #[prost(string, tag = "2")]
    pub anchor: String,
}

/// The batch that a prepared write decides.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PreparedDecision {
    /// The batch.
    #[prost(message, optional, tag = "1")]
    pub batch: Option<BatchName>,
    /// Its members.
    #[prost(message, repeated, tag = "2")]
    pub members: Vec<MemberTold>,
}

/// The number that the server gave to the key of a row.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct NumberGiven {
    /// The row's place in the request.
    #[prost(uint32, tag = "1")]
    pub place: u32,
    /// The number.
    #[prost(sint64, tag = "2")]
    pub number: i64,
}

/// Let another region write a table.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HandOver {
    /// Name of the table.
    #[prost(string, tag = "1")]
    pub table: String,
    /// The epoch that is to end.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// Name of the region that is to write.
    #[prost(string, tag = "3")]
    pub to: String,
}

/// The last entry of the epoch is durable.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct HandedOver {
    /// Its LSN.
    #[prost(uint64, tag = "1")]
    pub lsn: u64,
    /// The epoch that the successor opens.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// For how many microseconds nobody wrote, as seen where the table was written before; absent:
    /// the successor has not been heard of yet.
    #[prost(uint64, optional, tag = "3")]
    pub pause_micros: Option<u64>,
}

/// A client's write, already authenticated by the asking region.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Write {
    /// Path of the public API.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Request body.
    #[prost(bytes = "bytes", tag = "2")]
    pub body: Bytes,
    /// A receipt is to come with the answer.
    #[prost(bool, tag = "3")]
    pub wants_receipt: bool,
}

/// The answer to a client's write.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Wrote {
    /// Body of the answer.
    #[prost(bytes = "bytes", tag = "1")]
    pub body: Bytes,
    /// The receipt; absent: none is wanted, or nothing was written.
    #[prost(string, optional, tag = "2")]
    pub receipt: Option<String>,
}

/// Whether a table could be written in the asked region. The failure says why not.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MayWrite {
    /// Name of the table.
    #[prost(string, tag = "1")]
    pub table: String,
}

/// Asks for the time.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Time {}

/// The time at a region.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct TimeTold {
    /// Its wall clock, in milliseconds since the Unix epoch.
    #[prost(sint64, tag = "1")]
    pub wall_millis: i64,
}

/// A question to a region that cannot be dialled, on a stream that it dials.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Asking {
    /// Names the question on its stream.
    #[prost(uint64, tag = "1")]
    pub number: u64,
    /// What is asked.
    #[prost(message, optional, tag = "2")]
    pub call: Option<Call>,
}

/// What such a region says on it: first who it is, then its answers.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Answering {
    /// Its name, in the first message.
    #[prost(string, tag = "1")]
    pub from: String,
    /// The question.
    #[prost(uint64, tag = "2")]
    pub number: u64,
    /// The answer.
    #[prost(message, optional, tag = "3")]
    pub reply: Option<Reply>,
}

/// The record of a global table, and the table where it does not exist yet.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Assign {
    /// The record, as the control room writes it.
    #[prost(bytes = "bytes", tag = "1")]
    pub record: Bytes,
    /// The table, as the store writes it.
    #[prost(bytes = "bytes", tag = "2")]
    pub table: Bytes,
    /// Rows of it are in no log of the asking region, so a copy is to come: whoever has them in
    /// other tables may put them there first. A region that does not say so seeds nothing.
    #[prost(bool, tag = "3")]
    pub has_rows: bool,
}

/// The replica is taken out.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Unassign {
    /// The global table.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Version of the record in which it is out.
    #[prost(uint64, tag = "2")]
    pub version: u64,
}

/// The global table is dropped: whether the asked region has had that, or that it removes what it
/// holds. Who knows nothing of the table has had it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Drop {
    /// The global table.
    #[prost(string, tag = "1")]
    pub id: String,
    /// All regions have had it.
    #[prost(bool, tag = "2")]
    pub remove: bool,
}

/// A client's operation, already authenticated by the asking region.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Forward {
    /// Path of the public API.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Request body.
    #[prost(bytes = "bytes", tag = "2")]
    pub body: Bytes,
}

/// Whether the asked region has what a receipt names; it waits a while until it does.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Holds {
    /// The receipt, as text.
    #[prost(string, tag = "1")]
    pub receipt: String,
    /// How long it may wait before it says no, in milliseconds.
    #[prost(uint64, tag = "2")]
    pub wait_millis: u64,
}

/// The links of a table that leave the asked region ship what waits, whatever their timing.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Trigger {
    /// Name of the table.
    #[prost(string, tag = "1")]
    pub table: String,
    /// The region they end in; absent: each.
    #[prost(string, optional, tag = "2")]
    pub to: Option<String>,
}

/// A change of a global table's record, asked for by a person whom the asking region knows.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Change {
    /// Name of the table.
    #[prost(string, tag = "1")]
    pub table: String,
    /// The change, as the control room writes it.
    #[prost(bytes = "bytes", tag = "2")]
    pub change: Bytes,
    /// A region that did not decide has passed it on: it goes no further.
    #[prost(bool, tag = "3")]
    pub passed_on: bool,
}

/// A change of links of which the base cannot be asked, for the region that they leave.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HoldLinks {
    /// Name of the table.
    #[prost(string, tag = "1")]
    pub table: String,
    /// The change, as the control room writes it.
    #[prost(bytes = "bytes", tag = "2")]
    pub change: Bytes,
}

/// What a region holds of a link that leaves it, for the base that is back: to be decided over one
/// version of the record only. The answer's body is that of a change.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TakeHold {
    /// Name of the table.
    #[prost(string, tag = "1")]
    pub table: String,
    /// The change, as the control room writes it.
    #[prost(bytes = "bytes", tag = "2")]
    pub change: Bytes,
    /// The reign of the record as the asking region knows it.
    #[prost(uint64, tag = "3")]
    pub reign: u64,
    /// Its version.
    #[prost(uint64, tag = "4")]
    pub version: u64,
}

/// Bytes of a measurement. The answer is how many nanoseconds the rows took: 8 bytes, big-endian;
/// empty where there were none.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Measure {
    /// To be thrown away.
    #[prost(bytes = "bytes", tag = "1")]
    pub payload: Bytes,
    /// Rows of a copy, to be unpacked and written to the disk, and to be forgotten.
    #[prost(message, optional, tag = "2")]
    pub rows: Option<Packed>,
}

/// An answer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Reply {
    /// Absent: it was done.
    #[prost(message, optional, tag = "1")]
    pub failure: Option<Failure>,
    /// What was asked for.
    #[prost(bytes = "bytes", tag = "2")]
    pub body: Bytes,
}

/// Why it was not done, in the public API's words.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Failure {
    /// Code.
    #[prost(string, tag = "1")]
    pub code: String,
    /// Message.
    #[prost(string, tag = "2")]
    pub message: String,
    /// Nothing was done, because the table is not written in the asked region.
    #[prost(bool, tag = "3")]
    pub is_elsewhere: bool,
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    /// What a region of a former version knows of a question.
    #[derive(Clone, PartialEq, prost::Message)]
    struct FormerCall {
        #[prost(string, tag = "1")]
        from: String,
        #[prost(message, optional, tag = "2")]
        assign: Option<FormerAssign>,
        #[prost(message, optional, tag = "11")]
        change: Option<Change>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct FormerAssign {
        #[prost(bytes = "bytes", tag = "1")]
        record: Bytes,
        #[prost(bytes = "bytes", tag = "2")]
        table: Bytes,
    }

    #[test]
    fn who_does_not_know_holds_takes_none_for_a_change() {
        let taken = TakeHold { table: "t".into(), version: 7, ..TakeHold::default() };
        let call = Call { from: "r2".into(), question: Some(Question::TakeHold(taken)) };
        let read = FormerCall::decode(&call.encode_to_vec()[..]).unwrap();
        assert_eq!(read, FormerCall { from: "r2".into(), ..FormerCall::default() });
    }

    #[test]
    fn a_region_of_a_former_version_says_of_no_table_that_it_may_be_seeded() {
        let assign = FormerAssign { record: "record".into(), table: "table".into() };
        let call = FormerCall { assign: Some(assign), ..FormerCall::default() };
        let read = Call::decode(&call.encode_to_vec()[..]).unwrap();
        let Some(Question::Assign(assign)) = read.question else { panic!("{read:?}") };
        assert_eq!((&assign.table[..], assign.has_rows), (&b"table"[..], false));
    }
}
