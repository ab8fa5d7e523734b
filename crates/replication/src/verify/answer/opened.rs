//! What is told when a session is opened: where a side stands, what it leaves out, and its roots.

use bytes::Bytes;
use isthmus_digest::{Lane, LaneRoot, ScrubbedRange, Sum, Tree};
use isthmus_model::expiry::Expiry;
use isthmus_model::family::Families;
use isthmus_model::hlc::Hlc;
use isthmus_model::ids::Origin;
use prost::Message;

use crate::frame::{ExpiredBefore, FamilyColumns, Watermark};
use crate::verify::error::VerifyError;
use crate::verify::limits::{LANES_MAX, SCRUBBED_RANGES_MAX};

/// Milliseconds of one bucket of kills, as a power of two.
const KILLS_BUCKET_BITS: u32 = 20;

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
    /// Leaves, coarse ranges and parts of rows are known by narrow names.
    #[prost(bool, tag = "21")]
    pub narrow: bool,
    /// When ranges were last read from disk, by key and without gaps, if that was asked for.
    #[prost(message, repeated, tag = "22")]
    pub scrubbed: Vec<ScrubbedFrom>,
}

/// When a range was last read from disk, which ends where the next one starts.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ScrubbedFrom {
    /// First key.
    #[prost(bytes = "bytes", tag = "1")]
    pub start: Bytes,
    /// In minutes of the Unix epoch; 0: never.
    #[prost(uint32, tag = "2")]
    pub minute: u32,
}

impl ScrubbedFrom {
    /// What a digest says of all keys.
    pub fn of(tree: &Tree) -> Vec<ScrubbedFrom> {
        tree.scrubbed(SCRUBBED_RANGES_MAX).into_iter().map(ScrubbedFrom::from).collect()
    }

    /// So many at most, one in any case: of neighbours that become one the oldest is told.
    pub fn joined(ranges: &[ScrubbedFrom], ranges_max: usize) -> Vec<ScrubbedFrom> {
        let range =
            |from: &ScrubbedFrom| ScrubbedRange { start: from.start.to_vec(), minute: from.minute };
        let joined = ScrubbedRange::joined(ranges.iter().map(range).collect(), ranges_max);
        joined.into_iter().map(ScrubbedFrom::from).collect()
    }
}

impl From<ScrubbedRange> for ScrubbedFrom {
    fn from(range: ScrubbedRange) -> ScrubbedFrom {
        ScrubbedFrom { start: range.start.into(), minute: range.minute }
    }
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

    /// What is logged as expired. A bound inside of a bucket is logged when cells begin to live
    /// longer, and what lies below it counts in no digest from there on, whether or not a disk
    /// still holds it.
    pub fn expired(&self) -> Vec<Expiry> {
        self.expiry.iter().filter_map(ExpiredBefore::expiry).collect()
    }

    /// The families that expiries name.
    pub fn families(&self) -> Families {
        FamilyColumns::families(&self.families)
    }
}
