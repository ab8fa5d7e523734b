//! What a side answers, as protobuf messages.
//!
//! Every answer tells how many rows were read from the engine for it. Lists are bounded; where
//! something is left out for its size, the answer says so and the asker asks on.

use bytes::{BufMut, Bytes, BytesMut};
use isthmus_digest::Width;
use isthmus_model::limits::{FAMILIES_MAX, FAMILY_COLUMNS_MAX};
use prost::Message;

use crate::frame::{FamilyColumns, Packed};
use crate::pack::{Method, pack, unpack};
use crate::verify::error::VerifyError;
use crate::verify::limits::{
    ANSWER_BYTES_MAX, COARSE_RANGES_MAX, EXPIRIES_MAX, FINGERPRINTS_MAX, KEY_BYTES_MAX, LANES_MAX,
    LEAVES_MAX, ORIGINS_MAX, ROWS_MAX, SCRUBBED_RANGES_MAX, WRONG_LEAVES_MAX,
};
use crate::verify::question::FORMAT;

mod opened;
mod rows;

pub use opened::{Floors, LaneSum, NotYet, Opened, Roots, ScrubbedFrom, SketchTold};
pub use rows::{Coarse, CoarseRange, Laid, RowAnswer, Rows, SelectedParts, WrongLeaf};

pub(crate) use opened::{SKILL, read_sum, sum_bytes};

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
            VerifyError::Damaged(_) | VerifyError::Protocol(_) | VerifyError::Refused(_) => {
                FailedKind::Invalid
            }
            VerifyError::Unreachable(_) | VerifyError::Read(_) => FailedKind::Read,
        };
        let reason = match error {
            VerifyError::Unreachable(reason) | VerifyError::Read(reason) => reason.clone(),
            VerifyError::Damaged(_)
            | VerifyError::Protocol(_)
            | VerifyError::Refused(_)
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
                FailedKind::Invalid => VerifyError::Refused(failed.reason),
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
                && parts.narrow_lacking.len() <= FINGERPRINTS_MAX * Width::Narrow.bytes()
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
                    && opened.scrubbed.len() <= SCRUBBED_RANGES_MAX
                    && opened.scrubbed.iter().all(|range| key(&range.start))
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
