//! What two regions say to each other, as protobuf messages.
//!
//! One stream per pair of nodes and direction carries every link: the origin sends `Hello`,
//! `Open`, `CopyBegin`, `CopyOffer`, `CopyChunk`, `Follow`, `Dictionary`, `Parcel`, `Promise`,
//! `Close`; the replica answers `Welcome`, `Opened`, `CopyWant`, `CopyAck`, `Ack`, `Fault`, `Safe`.
//! Unknown fields and messages are ignored, so that a newer region can talk to an older one;
//! `Hello` and `Welcome` settle the format, the lower of the two. What an older region would
//! misread or miss has a `FORMAT_OF_..` below and is sent only where the settled format is at
//! least that.

mod copy;
mod parcel;
mod table;

use isthmus_model::limits::COUNT_MAX;

use crate::error::ReplicationError;

pub use self::copy::{
    CopiedRow, CopiedRows, CopyAck, CopyBegin, CopyChunk, CopyOffer, CopyProgress, CopyWant,
    Counts, DecidedBatch, Floors, Made, OfferedLane, OfferedLanes, WantedRange, WantedRanges,
};
pub use self::parcel::{Ack, Dictionary, OriginRange, Packed, Parcel, Prior, Records};
pub use self::table::{ExpiredBefore, FamilyColumns};

/// The newest format this program speaks.
pub const FORMAT: u32 = 8;
/// The first format in which a copy can leave out what is alike.
pub const FORMAT_OF_OFFERS: u32 = 2;
/// The first format with LZ4, and with parcels packed against a dictionary or replaced values.
pub const FORMAT_OF_CODECS: u32 = 3;
/// The first format in which entries tell what their origin had seen, and rows hold shares.
pub const FORMAT_OF_SEEN: u32 = 3;
/// The first format in which an origin says of which partitions it wants to be told safe times; an
/// older one is told of all.
pub const FORMAT_OF_WANTED: u32 = 3;
/// The first format in which regions pass on what others have made.
pub const FORMAT_OF_EDGES: u32 = 3;
/// The first format in which a schema may say that the table is dropped.
pub const FORMAT_OF_DROPS: u32 = 4;
/// The first format with column families.
pub const FORMAT_OF_FAMILIES: u32 = 5;
/// The first format in which logs say that another region writes.
pub const FORMAT_OF_HANDOVER: u32 = 6;
/// The first format with region priority where whole rows conflict.
pub const FORMAT_OF_ROW_PRIORITY: u32 = 6;
/// The first format in which writes are prepared before they are made.
pub const FORMAT_OF_PREPARED: u32 = 7;
/// The first format with batches that are made in several partitions or in none.
pub const FORMAT_OF_BATCHES: u32 = 8;

/// One message of either side.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Frame {
    /// What it says.
    #[prost(
        oneof = "Body",
        tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 20"
    )]
    pub body: Option<Body>,
}

/// What a frame says.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Body {
    /// The origin names itself.
    #[prost(message, tag = "1")]
    Hello(Hello),
    /// The replica accepts it.
    #[prost(message, tag = "2")]
    Welcome(Hello),
    /// The origin offers a link.
    #[prost(message, tag = "3")]
    Open(Open),
    /// The replica says where it stands.
    #[prost(message, tag = "4")]
    Opened(Opened),
    /// Entries.
    #[prost(message, tag = "5")]
    Parcel(Parcel),
    /// Entries are durable at the replica.
    #[prost(message, tag = "6")]
    Ack(Ack),
    /// The replica cannot take what it was given.
    #[prost(message, tag = "7")]
    Fault(Fault),
    /// A copy begins or goes on.
    #[prost(message, tag = "8")]
    CopyBegin(CopyBegin),
    /// Rows of a copy.
    #[prost(message, tag = "9")]
    CopyChunk(CopyChunk),
    /// Rows of a copy are durable at the replica.
    #[prost(message, tag = "10")]
    CopyAck(CopyAck),
    /// The origin will stamp nothing below this any more.
    #[prost(message, tag = "11")]
    Promise(Promise),
    /// The replica's safe time of a partition.
    #[prost(message, tag = "12")]
    Safe(Safe),
    /// The origin ends a link.
    #[prost(message, tag = "13")]
    Close(Close),
    /// From here on the replica follows the log.
    #[prost(message, tag = "14")]
    Follow(Follow),
    /// The origin tells the digest of a range that it is about to copy.
    #[prost(message, tag = "15")]
    CopyOffer(CopyOffer),
    /// The replica tells what of that range it has not alike.
    #[prost(message, tag = "16")]
    CopyWant(CopyWant),
    /// The origin tells what it will pack parcels against.
    #[prost(message, tag = "17")]
    Dictionary(Dictionary),
    /// A region tells how a replica stands, its own or one that it has heard of.
    #[prost(message, tag = "20")]
    Standing(Standing),
}

impl From<Body> for Frame {
    fn from(body: Body) -> Frame {
        Frame { body: Some(body) }
    }
}

impl Body {
    /// Refuses what is not `is_in_bounds`.
    pub(crate) fn check_bounds(&self) -> Result<(), ReplicationError> {
        match self.is_in_bounds() {
            true => Ok(()),
            false => Err(ReplicationError::Protocol("a place beyond the end of any log is named")),
        }
    }

    /// Whether the epochs and the addresses in logs that it names are such that there is a next
    /// one, so that nothing that is reckoned from them overflows.
    fn is_in_bounds(&self) -> bool {
        let ok = |number: u64| number < COUNT_MAX;
        let all = |marks: &[Watermark]| marks.iter().all(|mark| ok(mark.lsn));
        let copy = |copy: &CopyProgress| {
            let is_made = copy.made.as_ref().is_none_or(Made::is_in_bounds);
            ok(copy.first_lsn) && all(&copy.vector) && is_made
        };
        match self {
            Body::Open(open) => ok(open.epoch) && open.holds.iter().all(|held| ok(held.lsn)),
            Body::Opened(opened) => {
                ok(opened.watermark) && all(&opened.vector) && opened.copy.iter().all(copy)
            }
            Body::Parcel(parcel) => {
                let ranges = || parcel.ranges.iter().all(|range| ok(range.from) && ok(range.to));
                ok(parcel.epoch) && ok(parcel.from) && ok(parcel.to) && ranges()
            }
            Body::Ack(ack) => ok(ack.held) && ok(ack.applied),
            Body::CopyBegin(begin) => {
                ok(begin.epoch) && all(&begin.vector) && begin.progress.iter().all(copy)
            }
            Body::Standing(standing) => all(&standing.held),
            Body::Hello(_)
            | Body::Welcome(_)
            | Body::Fault(_)
            | Body::CopyChunk(_)
            | Body::CopyAck(_)
            | Body::Promise(_)
            | Body::Safe(_)
            | Body::Close(_)
            | Body::Follow(_)
            | Body::CopyOffer(_)
            | Body::CopyWant(_)
            | Body::Dictionary(_) => true,
        }
    }
}

/// Who speaks, and how.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Hello {
    /// Newest format that is offered; in a `Welcome` the settled one.
    #[prost(uint32, tag = "1")]
    pub format: u32,
    /// Region number.
    #[prost(uint32, tag = "2")]
    pub region: u32,
    /// Region name; must be the one in the certificate.
    #[prost(string, tag = "3")]
    pub name: String,
    /// Instance, which must be the same on both sides.
    #[prost(string, tag = "4")]
    pub instance: String,
}

/// Offers a link.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Open {
    /// Partition.
    #[prost(uint64, tag = "1")]
    pub partition: u64,
    /// Epoch of the origin.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// The region whose log is shipped: with one writer that writer.
    #[prost(uint32, tag = "3")]
    pub log_of: u32,
    /// The life of that log; 0: not known.
    #[prost(uint64, tag = "4")]
    pub life: u64,
    /// The writer has lost what the replica holds, and asks it to ship it back.
    #[prost(bool, tag = "5")]
    pub asks_back: bool,
    /// With several writers: what is held here of the log of the region to which it is offered.
    #[prost(message, optional, tag = "6")]
    pub holds: Option<Watermark>,
}

/// Where a replica stands.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Opened {
    /// Partition.
    #[prost(uint64, tag = "1")]
    pub partition: u64,
    /// The origin's LSN through which everything is durable.
    #[prost(uint64, tag = "2")]
    pub watermark: u64,
    /// A copy that has begun and not ended.
    #[prost(message, optional, tag = "3")]
    pub copy: Option<CopyProgress>,
    /// The replica has not had all of the base's rows since it was bound.
    #[prost(bool, tag = "4")]
    pub incomplete: bool,
    /// It holds something from before: only a copy makes it alike.
    #[prost(bool, tag = "5")]
    pub has_past: bool,
    /// It has rows and a digest of them, so that a copy can leave out what is alike.
    #[prost(bool, tag = "6")]
    pub has_digest: bool,
    /// What it has of every origin.
    #[prost(message, repeated, tag = "10")]
    pub vector: Vec<Watermark>,
    /// The life of which the last entry is that it holds of the log that is offered; 0: not known.
    #[prost(uint64, tag = "11")]
    pub life: u64,
    /// The greatest moment that it has had of the region that is answered: of an entry or of a
    /// promise.
    #[prost(uint64, tag = "12")]
    pub moment: u64,
}

/// What is known of one origin.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Watermark {
    /// Region number.
    #[prost(uint32, tag = "1")]
    pub origin: u32,
    /// LSN in its log.
    #[prost(uint64, tag = "2")]
    pub lsn: u64,
    /// HLC of that entry.
    #[prost(uint64, tag = "3")]
    pub hlc: u64,
    /// Of which life of the origin's log that entry is; 0: not known.
    #[prost(uint64, tag = "4")]
    pub life: u64,
}

impl From<&isthmus_store::Watermark> for Watermark {
    fn from(mark: &isthmus_store::Watermark) -> Watermark {
        Watermark { origin: u32::from(mark.origin.0), lsn: mark.lsn.0, hlc: mark.hlc.0, life: 0 }
    }
}

/// Why a replica cannot take what it was given.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Fault {
    /// Partition.
    #[prost(uint64, tag = "1")]
    pub partition: u64,
    /// What kind.
    #[prost(enumeration = "FaultKind", tag = "2")]
    pub kind: i32,
    /// In words, for a person.
    #[prost(string, tag = "3")]
    pub reason: String,
}

/// What kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
pub enum FaultKind {
    /// Again later: open anew.
    Retry = 0,
    /// The origin's epoch is an old one.
    Fenced = 1,
    /// The bytes are damaged or make no sense: opening anew will not help by itself.
    Broken = 2,
    /// The replica's region knows nothing of the table.
    Unassigned = 3,
    /// What the bytes were packed against is not there: to be sent whole. From format 3 on.
    PriorMissing = 4,
}

/// The origin has sent everything that it stamped below `hlc`, and will stamp no more there.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Promise {
    /// Exclusive.
    #[prost(uint64, tag = "1")]
    pub hlc: u64,
    /// Partitions for which it has not sent everything yet.
    #[prost(uint64, repeated, tag = "2")]
    pub behind: Vec<u64>,
    /// Partitions whose safe time at the replica it waits for, because rows remember kills there.
    #[prost(uint64, repeated, tag = "3")]
    pub wanted: Vec<u64>,
}

/// A replica has everything of every origin below `hlc`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Safe {
    /// Partition.
    #[prost(uint64, tag = "1")]
    pub partition: u64,
    /// Exclusive.
    #[prost(uint64, tag = "2")]
    pub hlc: u64,
}

/// How the replica of one region stands, as that region told it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Standing {
    /// Partition.
    #[prost(uint64, tag = "1")]
    pub partition: u64,
    /// Number of the region that stands so.
    #[prost(uint32, tag = "2")]
    pub region: u32,
    /// It makes nothing below this any more, and what it made there lies before the end of its
    /// log; of two words of a region that with the greater one is the newer.
    #[prost(uint64, tag = "3")]
    pub promise: u64,
    /// It has everything of every origin below this.
    #[prost(uint64, tag = "4")]
    pub safe: u64,
    /// It has all that was there when it was made.
    #[prost(bool, tag = "5")]
    pub is_complete: bool,
    /// What is durable there of every origin; of itself, the end of its log.
    #[prost(message, repeated, tag = "6")]
    pub held: Vec<Watermark>,
    /// Regions that it feeds and that know nothing of the table.
    #[prost(uint32, repeated, tag = "7")]
    pub unassigned: Vec<u32>,
}

/// Ends a link.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Close {
    /// Partition.
    #[prost(uint64, tag = "1")]
    pub partition: u64,
}

/// The replica follows the log from its watermark.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Follow {
    /// Partition.
    #[prost(uint64, tag = "1")]
    pub partition: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_after_which_none_comes_are_out_of_bounds() {
        let end = Watermark { lsn: u64::MAX, ..Watermark::default() };
        let copy = CopyProgress { first_lsn: u64::MAX, ..CopyProgress::default() };
        let bodies = [
            Body::Open(Open { holds: Some(end.clone()), ..Open::default() }),
            Body::Open(Open { epoch: u64::MAX, ..Open::default() }),
            Body::Opened(Opened { watermark: u64::MAX, ..Opened::default() }),
            Body::Opened(Opened { vector: vec![end.clone()], ..Opened::default() }),
            Body::Opened(Opened { copy: Some(copy.clone()), ..Opened::default() }),
            Body::Parcel(Parcel { epoch: u64::MAX, ..Parcel::default() }),
            Body::Parcel(Parcel { to: u64::MAX, ..Parcel::default() }),
            Body::Ack(Ack { held: u64::MAX, ..Ack::default() }),
            Body::CopyBegin(CopyBegin { progress: Some(copy), ..CopyBegin::default() }),
            Body::Standing(Standing { held: vec![end], ..Standing::default() }),
        ];
        for body in bodies {
            assert!(!body.is_in_bounds(), "{body:?}");
        }
        assert!(Body::Open(Open::default()).is_in_bounds());
        assert!(Body::Opened(Opened { watermark: 1 << 50, ..Opened::default() }).is_in_bounds());
    }
}
