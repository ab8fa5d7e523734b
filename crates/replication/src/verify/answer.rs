//! What a side answers, as protobuf messages.
//!
//! Every answer tells how many rows were read from the engine for it. Lists are bounded; where
//! something is left out for its size, the answer says so and the asker asks on.

use bytes::{BufMut, Bytes, BytesMut};
use isthmus_digest::{Lane, LaneRoot, Sum};
use isthmus_model::expiry::Expiry;
use isthmus_model::family::Families;
use isthmus_model::hlc::Hlc;
use isthmus_model::ids::Origin;
use isthmus_model::limits::{FAMILIES_MAX, FAMILY_COLUMNS_MAX};
use prost::Message;

use crate::frame::{ExpiredBefore, FamilyColumns, Packed, Watermark};
use crate::pack::{Method, pack, unpack};
use crate::verify::error::VerifyError;
use crate::verify::limits::{
    ANSWER_BYTES_MAX, COARSE_RANGES_MAX, EXPIRIES_MAX, FINGERPRINTS_MAX, KEY_BYTES_MAX, LANES_MAX,
    LEAVES_MAX, ORIGINS_MAX, ROWS_MAX, WRONG_LEAVES_MAX,
};
use crate::verify::question::FORMAT;

/// Milliseconds of one bucket of kills, as a power of two.
const KILLS_BUCKET_BITS: u32 = 20;

/// One answer.
#[derive(Clone, PartialEq, Message)]
pub struct Answer {
    /// Rows read from the engine for it.
    #[prost(uint64, tag = "1")]
    pub rows_read: u64,
    /// What is told.
    #[prost(oneof = "Tell", tags = "2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14")]
    pub tell: Option<Tell>,
}

/// What is told.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Tell {
    /// The session is open, or was raised.
    #[prost(message, tag = "2")]
    Opened(Opened),
    /// The cut is not reached yet.
    #[prost(message, tag = "3")]
    NotYet(NotYet),
    /// There is nothing to compare by now, and why.
    #[prost(string, tag = "4")]
    Unready(String),
    /// There is no such table here.
    #[prost(bool, tag = "5")]
    NoTable(bool),
    /// Symbols.
    #[prost(bytes = "bytes", tag = "6")]
    Symbols(Bytes),
    /// Coarse ranges.
    #[prost(message, tag = "7")]
    Coarse(Coarse),
    /// Parts were selected, or more about them.
    #[prost(message, tag = "8")]
    Parts(SelectedParts),
    /// Rows.
    #[prost(message, tag = "9")]
    Rows(Rows),
    /// Done.
    #[prost(bool, tag = "10")]
    Closed(bool),
    /// It could not be answered.
    #[prost(message, tag = "11")]
    Failed(Failed),
    /// A sketch of coarse ranges.
    #[prost(message, tag = "12")]
    Sketch(SketchTold),
    /// Leaves; nothing: they are too many to be told.
    #[prost(bytes = "bytes", tag = "13")]
    Leaves(Bytes),
    /// Leaves were laid beside those here.
    #[prost(message, tag = "14")]
    Laid(Laid),
}

/// A session is open.
#[derive(Clone, PartialEq, Message)]
pub struct Opened {
    /// Its number.
    #[prost(uint64, tag = "1")]
    pub session: u64,
    /// Epoch obeyed.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// Last entry in the snapshot.
    #[prost(uint64, tag = "3")]
    pub lsn: u64,
    /// Greatest moment in the snapshot.
    #[prost(uint64, tag = "4")]
    pub hlc: u64,
    /// Everything of every origin below it is in the snapshot.
    #[prost(uint64, tag = "5")]
    pub safe: u64,
    /// The LSN that the sums are of.
    #[prost(uint64, tag = "6")]
    pub cut_lsn: u64,
    /// The moment that the sums are of, as well as that could be had.
    #[prost(uint64, tag = "7")]
    pub cut_hlc: u64,
    /// What is in the snapshot of each origin.
    #[prost(message, repeated, tag = "8")]
    pub vector: Vec<Watermark>,
    /// What is logged as expired.
    #[prost(message, repeated, tag = "9")]
    pub expiry: Vec<ExpiredBefore>,
    /// Lanes below are left out of all sums.
    #[prost(message, optional, tag = "10")]
    pub floors: Option<Floors>,
    /// Several regions write.
    #[prost(bool, tag = "11")]
    pub many_writers: bool,
    /// Number of the schema.
    #[prost(uint64, tag = "12")]
    pub schema: u64,
    /// The roots are those that the asker gave; neither they nor symbols are told.
    #[prost(bool, tag = "13")]
    pub alike: bool,
    /// Sums of everything.
    #[prost(message, optional, tag = "14")]
    pub roots: Option<Roots>,
    /// The first symbols over all leaves.
    #[prost(bytes = "bytes", tag = "15")]
    pub symbols: Bytes,
    /// All rows were read from disk since then, in milliseconds since the Unix epoch.
    #[prost(int64, optional, tag = "16")]
    pub scrubbed_since_millis: Option<i64>,
    /// What sums depend on besides the rows.
    #[prost(fixed64, tag = "17")]
    pub rules: u64,
    /// A sketch of coarse ranges.
    #[prost(message, optional, tag = "18")]
    pub sketch: Option<SketchTold>,
    /// What may be asked: 0: not for sketches of coarse ranges, nor for short symbols.
    #[prost(uint32, tag = "19")]
    pub skill: u32,
    /// Which columns the table's families take, in their order.
    #[prost(message, repeated, tag = "20")]
    pub families: Vec<FamilyColumns>,
}

/// What may be asked of this version.
pub(crate) const SKILL: u32 = 1;

/// A sketch of the coarse ranges of all lanes.
#[derive(Clone, PartialEq, Message)]
pub struct SketchTold {
    /// Symbols, in the short form.
    #[prost(bytes = "bytes", tag = "1")]
    pub symbols: Bytes,
    /// Tells about how many ranges differ, if the symbols do not name them.
    #[prost(bytes = "bytes", tag = "2")]
    pub estimate: Bytes,
    /// How many ranges there are.
    #[prost(uint64, tag = "3")]
    pub ranges: u64,
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

/// What one side has dropped: lanes of time and of kills below these.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Floors {
    /// Bucket of time.
    #[prost(sint64, tag = "1")]
    pub time: i64,
    /// Bucket of kills.
    #[prost(uint64, tag = "2")]
    pub kills: u64,
}

/// Sums of everything above the floors.
#[derive(Clone, PartialEq, Message)]
pub struct Roots {
    /// Sum of all lanes.
    #[prost(bytes = "bytes", tag = "1")]
    pub total: Bytes,
    /// Parts in all lanes.
    #[prost(uint64, tag = "2")]
    pub rows: u64,
    /// Leaves in all lanes.
    #[prost(uint64, tag = "3")]
    pub leaves: u64,
    /// Lane by lane, unless there are too many.
    #[prost(message, repeated, tag = "4")]
    pub lanes: Vec<LaneSum>,
    /// The floors they were taken above.
    #[prost(message, optional, tag = "5")]
    pub floors: Option<Floors>,
    /// There are more lanes than are told.
    #[prost(bool, tag = "6")]
    pub combined: bool,
}

/// The sum of a lane.
#[derive(Clone, PartialEq, Message)]
pub struct LaneSum {
    /// The lane, encoded.
    #[prost(bytes = "bytes", tag = "1")]
    pub lane: Bytes,
    /// Its sum.
    #[prost(bytes = "bytes", tag = "2")]
    pub sum: Bytes,
    /// Parts.
    #[prost(uint64, tag = "3")]
    pub rows: u64,
    /// Leaves.
    #[prost(uint64, tag = "4")]
    pub leaves: u64,
}

/// How far a side has come that is behind a cut.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct NotYet {
    /// Last entry.
    #[prost(uint64, tag = "1")]
    pub lsn: u64,
    /// Greatest moment.
    #[prost(uint64, tag = "2")]
    pub hlc: u64,
}

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

/// Why it could not be answered.
#[derive(Clone, PartialEq, Message)]
pub struct Failed {
    /// What kind.
    #[prost(enumeration = "FailedKind", tag = "1")]
    pub kind: i32,
    /// In words.
    #[prost(string, tag = "2")]
    pub reason: String,
}

/// What kind of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
pub enum FailedKind {
    /// The table could not be read.
    Read = 0,
    /// The session is not known.
    NoSession = 1,
    /// Too many sessions.
    Busy = 2,
    /// The question is wrong.
    Invalid = 3,
}

impl Floors {
    /// Nothing is dropped.
    pub const NONE: Floors = Floors { time: i64::MIN, kills: 0 };

    /// What either has dropped.
    pub fn joined(self, other: Floors) -> Floors {
        Floors { time: self.time.max(other.time), kills: self.kills.max(other.kills) }
    }

    /// Whether a lane is above.
    pub fn keep(&self, lane: Lane) -> bool {
        match lane {
            Lane::Data => true,
            Lane::Time(bucket) => bucket >= self.time,
            Lane::Kills(bucket) => bucket >= self.kills,
        }
    }

    /// Kills below this moment are dropped.
    pub fn kills_hlc(&self) -> Hlc {
        let millis = u128::from(self.kills) << KILLS_BUCKET_BITS;
        Hlc::from_millis(i64::try_from(millis).unwrap_or(i64::MAX).min((1 << 48) - 1))
    }
}

/// A sum as it is sent.
pub(crate) fn sum_bytes(sum: Sum) -> Bytes {
    Bytes::copy_from_slice(&sum.0.to_be_bytes())
}

/// A sum as it was sent.
pub(crate) fn read_sum(bytes: &Bytes) -> Result<Sum, VerifyError> {
    let array = bytes[..].try_into().map_err(|_| VerifyError::Damaged("sum has a wrong length"))?;
    Ok(Sum(u128::from_be_bytes(array)))
}

impl Roots {
    /// Of a tree's lanes above the floors.
    pub fn of(lanes: &[LaneRoot], floors: Floors) -> Roots {
        let kept: Vec<&LaneRoot> = lanes.iter().filter(|root| floors.keep(root.lane)).collect();
        let lane_sum = |root: &&LaneRoot| LaneSum {
            lane: Bytes::copy_from_slice(&root.lane.encode()),
            sum: sum_bytes(root.sum),
            rows: root.rows,
            leaves: root.leaves,
        };
        let combined = kept.len() > LANES_MAX;
        Roots {
            total: sum_bytes(kept.iter().map(|root| root.sum).sum()),
            rows: kept.iter().map(|root| root.rows).sum(),
            leaves: kept.iter().map(|root| root.leaves).sum(),
            lanes: if combined { Vec::new() } else { kept.iter().map(lane_sum).collect() },
            floors: Some(floors),
            combined,
        }
    }

    /// The total above floors that may be higher, if that can be told.
    pub fn total_above(&self, floors: Floors) -> Result<Option<Sum>, VerifyError> {
        if self.floors == Some(floors) {
            return read_sum(&self.total).map(Some);
        }
        if self.combined {
            return Ok(None);
        }
        let mut total = Sum::default();
        for root in &self.lanes {
            let lane = root.lane[..].try_into().ok().and_then(Lane::decode);
            let lane = lane.ok_or(VerifyError::Damaged("unknown lane"))?;
            if floors.keep(lane) {
                total += read_sum(&root.sum)?;
            }
        }
        Ok(Some(total))
    }
}

impl Opened {
    /// What is left out of its sums.
    pub fn floors(&self) -> Floors {
        self.floors.unwrap_or(Floors::NONE)
    }

    /// The moments up to which each origin's entries are in the snapshot.
    pub fn vector_hlc(&self) -> Vec<(Origin, Hlc)> {
        let mark =
            |mark: &Watermark| Some((Origin(u8::try_from(mark.origin).ok()?), Hlc(mark.hlc)));
        self.vector.iter().filter_map(mark).collect()
    }

    /// What may have gone from the disk by what is logged as expired.
    pub fn expired(&self) -> Vec<Expiry> {
        let expiries = self.expiry.iter().filter_map(ExpiredBefore::expiry);
        expiries.map(Expiry::of_whole_buckets).collect()
    }

    /// The families that expiries name.
    pub fn families(&self) -> Families {
        FamilyColumns::families(&self.families)
    }
}

impl Answer {
    /// An answer for which so many rows were read.
    pub fn new(rows_read: u64, tell: Tell) -> Answer {
        Answer { rows_read, tell: Some(tell) }
    }

    /// The answer that tells of an error.
    pub fn failed(error: &VerifyError) -> Answer {
        let kind = match error {
            VerifyError::NoSession => FailedKind::NoSession,
            VerifyError::Busy => FailedKind::Busy,
            VerifyError::Damaged(_) | VerifyError::Protocol(_) => FailedKind::Invalid,
            VerifyError::Unreachable(_) | VerifyError::Read(_) => FailedKind::Read,
        };
        let reason = match error {
            VerifyError::Unreachable(reason) | VerifyError::Read(reason) => reason.clone(),
            VerifyError::Damaged(_)
            | VerifyError::Protocol(_)
            | VerifyError::NoSession
            | VerifyError::Busy => error.to_string(),
        };
        Answer::new(0, Tell::Failed(Failed { kind: kind.into(), reason }))
    }

    /// What is told, or the error that is.
    pub fn tell(self) -> Result<Tell, VerifyError> {
        match self.tell {
            Some(Tell::Failed(failed)) => Err(match failed.kind() {
                FailedKind::Read => VerifyError::Read(failed.reason),
                FailedKind::NoSession => VerifyError::NoSession,
                FailedKind::Busy => VerifyError::Busy,
                FailedKind::Invalid => VerifyError::Protocol("the question was refused as wrong"),
            }),
            Some(tell) => Ok(tell),
            None => Err(VerifyError::Protocol("an answer without one")),
        }
    }

    /// Rows in it, and where they go when they are packed.
    fn rows(&mut self) -> Option<(&mut Vec<RowAnswer>, &mut Option<Packed>)> {
        match &mut self.tell {
            Some(Tell::Rows(told)) => Some((&mut told.rows, &mut told.packed)),
            Some(Tell::Parts(parts)) => Some((&mut parts.unlike, &mut parts.packed)),
            Some(Tell::Laid(laid)) => {
                laid.parts.as_mut().map(|parts| (&mut parts.unlike, &mut parts.packed))
            }
            Some(_) | None => None,
        }
    }

    /// Packs the rows in it: they are much alike.
    pub fn pack_rows(&mut self) {
        let Some((rows, packed)) = self.rows() else { return };
        if !rows.is_empty() {
            let rows = Rows { rows: std::mem::take(rows), ..Rows::default() };
            *packed = Some(pack(rows.encode_to_vec(), Method::Plain));
        }
    }

    /// With the rows that were packed.
    pub fn unpacked(mut self) -> Result<Answer, VerifyError> {
        let damaged = |_| VerifyError::Damaged("rows cannot be unpacked");
        if let Some((rows, packed)) = self.rows()
            && let Some(packed) = packed.take()
        {
            let bytes = unpack(&packed).map_err(damaged)?;
            let told = Rows::decode(bytes);
            rows.extend(told.map_err(|_| VerifyError::Damaged("rows cannot be read"))?.rows);
        }
        self.check()?;
        Ok(self)
    }

    /// The bytes that travel.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(1 + self.encoded_len());
        out.put_u8(FORMAT);
        Message::encode(self, &mut out).expect("a buffer in memory grows");
        out.freeze()
    }

    /// What `encode` made, within its bounds.
    pub fn decode(bytes: &Bytes) -> Result<Answer, VerifyError> {
        if bytes.len() > ANSWER_BYTES_MAX {
            return Err(VerifyError::Damaged("answer is too large"));
        }
        let mut rest = bytes.clone();
        if rest.is_empty() || rest.split_to(1)[0] != FORMAT {
            return Err(VerifyError::Damaged("unknown format of an answer"));
        }
        let answer: Answer =
            Message::decode(rest).map_err(|_| VerifyError::Damaged("answer cannot be read"))?;
        answer.check()?;
        Ok(answer)
    }

    /// Whether it keeps the bounds.
    pub fn check(&self) -> Result<(), VerifyError> {
        let key = |key: &Bytes| key.len() <= KEY_BYTES_MAX;
        let next = |next: &Option<Bytes>| next.as_ref().is_none_or(key);
        let rows =
            |rows: &[RowAnswer]| rows.len() <= ROWS_MAX && rows.iter().all(|row| key(&row.key));
        let families = |told: &[FamilyColumns]| {
            told.len() <= FAMILIES_MAX
                && told.iter().all(|family| family.columns.len() <= FAMILY_COLUMNS_MAX)
        };
        let parts = |parts: &SelectedParts| {
            parts.fingerprints.len() <= FINGERPRINTS_MAX
                && parts.lacking.len() <= FINGERPRINTS_MAX
                && parts.wrong.len() <= WRONG_LEAVES_MAX
                && next(&parts.next)
                && rows(&parts.unlike)
        };
        let fits = match &self.tell {
            None => return Err(VerifyError::Damaged("answer tells nothing")),
            Some(Tell::Opened(opened)) => {
                opened.vector.len() <= ORIGINS_MAX
                    && opened.expiry.len() <= EXPIRIES_MAX
                    && families(&opened.families)
                    && opened.roots.as_ref().is_none_or(|roots| roots.lanes.len() <= LANES_MAX)
            }
            Some(Tell::Coarse(coarse)) => {
                coarse.ranges.len() <= COARSE_RANGES_MAX
                    && coarse.ranges.iter().all(|range| key(&range.start))
                    && next(&coarse.next)
            }
            Some(Tell::Parts(told)) => parts(told),
            Some(Tell::Laid(laid)) => {
                laid.unlike.len() <= LEAVES_MAX && laid.parts.as_ref().is_none_or(parts)
            }
            Some(Tell::Rows(told)) => rows(&told.rows),
            Some(
                Tell::NotYet(_)
                | Tell::Unready(_)
                | Tell::NoTable(_)
                | Tell::Symbols(_)
                | Tell::Closed(_)
                | Tell::Failed(_)
                | Tell::Sketch(_)
                | Tell::Leaves(_),
            ) => true,
        };
        fits.then_some(()).ok_or(VerifyError::Damaged("answer breaks a bound"))
    }
}
