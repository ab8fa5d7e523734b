//! Planted bugs: each makes the shell around the nodes lie in one way that a checker must see.
//!
//! They live outside of the product's code, in the disk, the wire and the upkeep of this crate.

use bytes::Bytes;
use isthmus_model::ids::PartitionId;
use isthmus_replication::frame::{Body, CopiedRows, Frame, Records};
use isthmus_replication::pack::{Method, pack, unpack};
use isthmus_replication::timing::Timing;
use isthmus_store::engine::{Batch, BatchWrite, Space};
use isthmus_store::keys;
use isthmus_store::keys::log::{RecordBuilder, decode_record};
use prost::Message;

use crate::options::Scenario;

mod redo;

/// One bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// The disk says "durable" before it is; a crash takes the newest batches back.
    AnswerBeforeSync,
    /// An entry is missing inside of a parcel's range.
    EntryLeftOut,
    /// A row is missing in a chunk of a copy.
    RowLeftOut,
    /// The replica acknowledges what it has received and not yet made durable.
    AckBeforeDurable,
    /// The horizon does not wait for one of the replicas.
    HorizonWithoutReplica,
    /// A region passes on what it has of all others, whoever feeds whom.
    AllPassedOn,
    /// Safe times wait only for regions that an edge joins to this one.
    SafeOfNeighbours,
    /// A promise reaches farther than the origin's clock may be held to.
    PromiseTooFar,
    /// The bound of the clock is not found again after a crash.
    CeilingForgotten,
    /// A moment is taken for safe before everything up to then has come.
    SafeTooLate,
    /// Only the first row of an atomic entry arrives.
    RowsOfOneEntrySplit,
    /// A replica says of a range that it has all of it alike.
    DifferenceDenied,
    /// What waits because of its timing or a pause is promised as if it were sent.
    WaitingPromised,
    /// A dropped table is removed before all regions have had the drop.
    DropNotWaitedFor,
    /// Changes of schemas are missing in parcels.
    SchemaLeftOut,
    /// A link is not told that it is paused.
    PauseForgotten,
    /// What was cut off the log while a link was stopped is passed over when it is resumed.
    CutPassedOver,
    /// What was sent to a region is taken for what it holds.
    HeldWhenShipped,
    /// Nobody remembers of which life what it holds is.
    LifeForgotten,
    /// Nobody is asked for safe times, so that horizons stand still.
    HorizonStands,
    /// A region writes as soon as it is named as the successor.
    SuccessorOpensEarly,
    /// What a group changed in the digest is not written with it, now and then.
    RedoLeftOut,
    /// What is written of an overwritten row does not take all of its old part off.
    RedoOfOverwritesWrong,
    /// The old part of a row is not taken off the digest at every few overwrites.
    OldPartKept,
    /// A region that is to be looked at as of an entry is looked at as it is.
    CutIgnored,
    /// Rows that are written while they are compared are not looked at.
    WrittenSkipped,
    /// Tables with equally many rows are taken for equal.
    RowsCounted,
    /// Everything is thought to have arrived up to a moment that is too late.
    TooSafe,
    /// A repair overwrites what has changed since the comparison.
    RepairBlind,
    /// A repair does not ask what the log says of a row since the comparison.
    RepairForgetful,
    /// A new writer asks nobody what was prepared.
    NobodyAsked,
    /// A copy does not tell what was prepared and is in it.
    MadeNotTold,
    /// Writes are acknowledged whether or not the lease is over.
    LeaseForgotten,
    /// A write is made before anybody has voted for it.
    MadeBeforeVotes,
    /// What was prepared and lies in a tail is forgotten when that is cut off.
    TailForgotten,
    /// A table forgets the intents of batches when its region starts anew.
    IntentForgotten,
    /// Members are told of a decision before it is durable.
    ToldBeforeDurable,
    /// Members are told of a decision that is durable in its region alone.
    ToldBeforeHeld,
    /// An anchor that does not answer is taken for one that has given everything up.
    SilenceGivesUp,
    /// A batch that is open is said to be given up.
    OpenGivenUp,
    /// All other regions are waited for where most of them are enough.
    AllAwaited,
    /// What is written between the last round and the end of an old partition is not moved.
    HoldIgnored,
    /// A partition ends before all of its rows were copied.
    CopyUnfinished,
    /// New partitions are opened before the ends of the old ones are held by others.
    OpenedBeforeHeld,
    /// A peer that is bound again gives its rows to others before it has all that the base has.
    CopiesBeforeWhole,
    /// The log of a peer that is bound again goes on where it was.
    LogNotBegunAnew,
    /// A new replica is assigned before the others know of it.
    ReplicaNotWaitedFor,
    /// Nobody looks for what a region that has left had made, and only some have.
    LeftForgotten,
    /// The others are not told that a replica is gone.
    RemovalNotTold,
    /// A replica that takes rows which pass a filter is given all.
    FilterForgotten,
    /// A replica that takes what comes is given what is there, too.
    IncrementalCopied,
    /// A region says that it has a write which any region has.
    AnyReceiptTaken,
    /// Conflicts are lost when they are to be kept.
    ConflictLost,
    /// What a region had seen when it made a change is lost on the way.
    SeenForgotten,
    /// A delay is half as long as was asked for.
    DelayHalved,
    /// A link that is to ship once in an interval ships at once.
    IntervalIgnored,
    /// A link ships while no window is open.
    WindowIgnored,
    /// A link ships when half as many entries wait as were asked for.
    TriggeredEarly,
}

impl Plant {
    /// All of them.
    pub const ALL: [Plant; 18] = [
        Plant::AnswerBeforeSync,
        Plant::EntryLeftOut,
        Plant::RowLeftOut,
        Plant::AckBeforeDurable,
        Plant::HorizonWithoutReplica,
        Plant::PromiseTooFar,
        Plant::CeilingForgotten,
        Plant::SafeTooLate,
        Plant::RowsOfOneEntrySplit,
        Plant::DifferenceDenied,
        Plant::WaitingPromised,
        Plant::PauseForgotten,
        Plant::CutPassedOver,
        Plant::HeldWhenShipped,
        Plant::HorizonStands,
        Plant::AnyReceiptTaken,
        Plant::ConflictLost,
        Plant::SeenForgotten,
    ];

    /// Those of regions that pass on.
    pub const OF_EDGES: [Plant; 2] = [Plant::SafeOfNeighbours, Plant::AllPassedOn];

    /// Those of changes of schemas.
    pub const OF_SCHEMAS: [Plant; 2] = [Plant::DropNotWaitedFor, Plant::SchemaLeftOut];

    /// Those of disks that are put back.
    pub const OF_RESTORES: [Plant; 1] = [Plant::LifeForgotten];
    /// Those of changes of the writer.
    pub const OF_WRITERS: [Plant; 1] = [Plant::SuccessorOpensEarly];

    /// Those of synchronous writes.
    pub const OF_SYNC: [Plant; 5] = [
        Plant::NobodyAsked,
        Plant::MadeNotTold,
        Plant::LeaseForgotten,
        Plant::MadeBeforeVotes,
        Plant::TailForgotten,
    ];

    /// Those of batches of several tables.
    pub const OF_BATCHES: [Plant; 6] = [
        Plant::IntentForgotten,
        Plant::ToldBeforeDurable,
        Plant::ToldBeforeHeld,
        Plant::SilenceGivesUp,
        Plant::OpenGivenUp,
        Plant::AllAwaited,
    ];

    /// Those of splits and merges.
    pub const OF_RESHAPES: [Plant; 3] =
        [Plant::HoldIgnored, Plant::CopyUnfinished, Plant::OpenedBeforeHeld];
    /// Those of regions that come and go.
    pub const OF_BINDINGS: [Plant; 5] = [
        Plant::LeftForgotten,
        Plant::CopiesBeforeWhole,
        Plant::LogNotBegunAnew,
        Plant::ReplicaNotWaitedFor,
        Plant::RemovalNotTold,
    ];

    /// Those of replicas that take less than all.
    pub const OF_EXTRACTS: [Plant; 2] = [Plant::FilterForgotten, Plant::IncrementalCopied];

    /// Those of when links ship.
    pub const OF_TIMINGS: [Plant; 4] =
        [Plant::DelayHalved, Plant::IntervalIgnored, Plant::WindowIgnored, Plant::TriggeredEarly];

    /// Those that spoil digests and what is made of them.
    pub const OF_DIGESTS: [Plant; 9] = [
        Plant::RedoLeftOut,
        Plant::RedoOfOverwritesWrong,
        Plant::OldPartKept,
        Plant::CutIgnored,
        Plant::WrittenSkipped,
        Plant::RowsCounted,
        Plant::TooSafe,
        Plant::RepairBlind,
        Plant::RepairForgetful,
    ];

    /// Where it must be seen.
    pub fn scenario(self) -> Scenario {
        match self {
            Plant::SafeOfNeighbours | Plant::AllPassedOn => Scenario::Edges,
            Plant::DropNotWaitedFor | Plant::SchemaLeftOut => Scenario::Schemas,
            Plant::LifeForgotten => Scenario::Restores,
            Plant::SuccessorOpensEarly => Scenario::Writers,
            Plant::CopiesBeforeWhole
            | Plant::LeftForgotten
            | Plant::LogNotBegunAnew
            | Plant::ReplicaNotWaitedFor
            | Plant::RemovalNotTold => Scenario::Bindings,
            Plant::FilterForgotten | Plant::IncrementalCopied => Scenario::Extracts,
            Plant::DelayHalved
            | Plant::IntervalIgnored
            | Plant::WindowIgnored
            | Plant::TriggeredEarly => Scenario::Timings,
            Plant::NobodyAsked
            | Plant::MadeNotTold
            | Plant::LeaseForgotten
            | Plant::MadeBeforeVotes
            | Plant::TailForgotten => Scenario::Sync,
            Plant::IntentForgotten
            | Plant::ToldBeforeDurable
            | Plant::ToldBeforeHeld
            | Plant::SilenceGivesUp
            | Plant::OpenGivenUp
            | Plant::AllAwaited => Scenario::Batches,
            Plant::HoldIgnored | Plant::CopyUnfinished | Plant::OpenedBeforeHeld => {
                Scenario::Reshapes
            }
            Plant::RedoLeftOut | Plant::RedoOfOverwritesWrong | Plant::OldPartKept => {
                Scenario::Crashes
            }
            Plant::CutIgnored
            | Plant::WrittenSkipped
            | Plant::RowsCounted
            | Plant::TooSafe
            | Plant::RepairBlind
            | Plant::RepairForgetful => Scenario::Verify,
            _ => Scenario::Links,
        }
    }

    /// What the bug makes of a batch that is to become durable.
    pub(crate) fn lose(self, batch: Batch) -> Batch {
        let is_conflict = |write: &BatchWrite| {
            write.space == Space::Meta && keys::conflict::decode_key(&write.key).is_ok()
        };
        if self != Plant::ConflictLost || !batch.writes().iter().any(is_conflict) {
            return batch;
        }
        let mut left = Batch::default();
        let writes = batch.into_writes().into_iter().filter(|write| !is_conflict(write));
        writes.for_each(|write| left.write(write));
        left
    }

    /// Does to the timing that a link is told what the bug does.
    pub(crate) fn misunderstand(self, timing: &mut Timing) {
        match (self, &mut *timing) {
            (Plant::DelayHalved, Timing::Delayed(by)) => *by /= 2,
            (Plant::IntervalIgnored, Timing::Interval(_))
            | (Plant::WindowIgnored, Timing::Windows(_)) => *timing = Timing::Immediate,
            (Plant::TriggeredEarly, Timing::Triggered { entries: Some(least), .. }) => *least /= 2,
            _ => {}
        }
    }

    /// Does to a frame on its way what the bug does. Gives whether it changed.
    pub(crate) fn tamper(self, frame: &mut Frame) -> bool {
        match (self, &mut frame.body) {
            (Plant::EntryLeftOut, Some(Body::Parcel(parcel))) => {
                let partition = PartitionId(parcel.partition);
                change_packed(&mut parcel.body, |bytes| leave_out_entry(partition, bytes))
            }
            (Plant::SchemaLeftOut, Some(Body::Parcel(parcel))) => {
                let partition = PartitionId(parcel.partition);
                change_packed(&mut parcel.body, |bytes| leave_out_schema(partition, bytes))
            }
            (Plant::SeenForgotten, Some(Body::Parcel(parcel))) => {
                let partition = PartitionId(parcel.partition);
                change_packed(&mut parcel.body, |bytes| forget_seen(partition, bytes))
            }
            (Plant::RowsOfOneEntrySplit, Some(Body::Parcel(parcel))) => {
                let partition = PartitionId(parcel.partition);
                change_packed(&mut parcel.body, |bytes| split_entry(partition, bytes))
            }
            (Plant::RowLeftOut, Some(Body::CopyChunk(chunk))) => {
                change_packed(&mut chunk.body, leave_out_row)
            }
            (Plant::DifferenceDenied, Some(Body::CopyWant(want))) => {
                want.all = false;
                want.body.take().is_some()
            }
            (Plant::PromiseTooFar, Some(Body::Promise(promise))) => {
                promise.hlc += 400 << 16;
                true
            }
            _ => false,
        }
    }
}

type Packed = isthmus_replication::frame::Packed;

fn change_packed(
    packed: &mut Option<Packed>,
    change: impl FnOnce(Bytes) -> Option<Vec<u8>>,
) -> bool {
    let bytes = packed.as_ref().and_then(|packed| unpack(packed).ok());
    match bytes.and_then(change) {
        Some(changed) => {
            *packed = Some(pack(changed, Method::Plain));
            true
        }
        None => false,
    }
}

fn leave_out_entry(partition: PartitionId, bytes: Bytes) -> Option<Vec<u8>> {
    change_record(partition, bytes, |entries| {
        let middle = entries.len() / 2;
        (entries.len() > 1).then(|| entries.remove(middle)).is_some()
    })
}

fn leave_out_schema(partition: PartitionId, bytes: Bytes) -> Option<Vec<u8>> {
    use isthmus_model::entry::EntryBody;
    change_record(partition, bytes, |entries| {
        let before = entries.len();
        entries.retain(|entry| !matches!(entry.body, EntryBody::Schema(_)));
        entries.len() < before
    })
}

fn forget_seen(partition: PartitionId, bytes: Bytes) -> Option<Vec<u8>> {
    change_record(partition, bytes, |entries| {
        let seen = entries.iter_mut().filter_map(|entry| entry.seen.as_mut());
        let mut is_changed = false;
        for seen in seen {
            is_changed |= !seen.is_empty();
            seen.clear();
        }
        is_changed
    })
}

/// Loses all but the first row of an atomic entry.
fn split_entry(partition: PartitionId, bytes: Bytes) -> Option<Vec<u8>> {
    use isthmus_model::entry::EntryBody;
    change_record(partition, bytes, |entries| {
        let rows = entries.iter_mut().find_map(|entry| match &mut entry.body {
            EntryBody::Rows(rows) if rows.len() > 1 => Some(rows),
            _ => None,
        });
        rows.map(|rows| rows.truncate(1)).is_some()
    })
}

fn change_record(
    partition: PartitionId,
    bytes: Bytes,
    change: impl Fn(&mut Vec<isthmus_model::entry::Entry>) -> bool,
) -> Option<Vec<u8>> {
    let mut parcel = Records::decode(bytes).ok()?;
    for record in &mut parcel.records {
        let (head, mut entries) = decode_record(record).ok()?;
        if change(&mut entries) {
            let mut anew = RecordBuilder::new(head.first);
            entries.iter().for_each(|entry| anew.push(entry));
            anew.cover(head.last);
            *record = anew.finish(partition, false).bytes;
            return Some(parcel.encode_to_vec());
        }
    }
    None
}

fn leave_out_row(bytes: Bytes) -> Option<Vec<u8>> {
    let mut rows = CopiedRows::decode(bytes).ok()?;
    let middle = rows.rows.len() / 2;
    (rows.rows.len() > 1).then(|| rows.rows.remove(middle))?;
    Some(rows.encode_to_vec())
}
