//! What a comparison asks of a side, as protobuf messages.
//!
//! The first question opens a session at a cut; the others are about the view that it keeps.
//! Decoding gives an error for whatever is not a question within its bounds.

use bytes::{BufMut, Bytes, BytesMut};
use isthmus_digest::Width;
use prost::Message;

use crate::verify::answer::{Floors, Roots};
use crate::verify::error::VerifyError;
use crate::verify::limits::{
    FINGERPRINTS_MAX, FROM_MAX, KEY_BYTES_MAX, LANES_MAX, LEAVES_MAX, QUESTION_BYTES_MAX, ROWS_MAX,
};

/// The format of questions and answers.
pub(crate) const FORMAT: u8 = 1;

/// One question.
#[derive(Clone, PartialEq, Message)]
pub struct Question {
    /// What is asked.
    #[prost(oneof = "Ask", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13")]
    pub ask: Option<Ask>,
    /// Rows of the answer may come packed.
    #[prost(bool, tag = "10")]
    pub packs: bool,
}

/// What is asked.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Ask {
    /// A view of a table.
    #[prost(message, tag = "1")]
    Open(Open),
    /// The roots without lanes that the other side has dropped.
    #[prost(message, tag = "2")]
    Raise(Raise),
    /// More of the sketch of leaves.
    #[prost(message, tag = "3")]
    LeafSymbols(LeafSymbols),
    /// Sums of coarse ranges.
    #[prost(message, tag = "4")]
    CoarseRanges(CoarseRanges),
    /// Reads the parts of rows in some leaves or a range, and keeps them for what follows.
    #[prost(message, tag = "5")]
    Select(Select),
    /// About what was selected.
    #[prost(message, tag = "6")]
    Selected(Selected),
    /// Rows of which parts were selected.
    #[prost(message, tag = "7")]
    RowsByFingerprint(RowsByFingerprint),
    /// Rows by their keys.
    #[prost(message, tag = "8")]
    RowsByKey(RowsByKey),
    /// The session ends.
    #[prost(message, tag = "9")]
    Close(Close),
    /// A sketch of the coarse ranges of all lanes.
    #[prost(message, tag = "11")]
    Sketch(Sketch),
    /// Leaves, one by one.
    #[prost(message, tag = "12")]
    Leaves(Named),
    /// Lays leaves beside those of the other side, and selects what is unlike.
    #[prost(message, tag = "13")]
    Lay(Lay),
}

/// Opens a session.
#[derive(Clone, PartialEq, Message)]
pub struct Open {
    /// Table.
    #[prost(uint64, tag = "1")]
    pub table: u64,
    /// As of when.
    #[prost(message, optional, tag = "2")]
    pub cut: Option<CutAt>,
    /// What the asker knows to be dropped.
    #[prost(message, optional, tag = "3")]
    pub floors: Option<Floors>,
    /// What the other side answered: if it is the same here, nothing more is told.
    #[prost(message, optional, tag = "4")]
    pub roots: Option<Roots>,
    /// Symbols over all leaves that are to come at once.
    #[prost(uint32, tag = "5")]
    pub first_symbols: u32,
    /// Symbols over coarse ranges that are to come at once, unless the roots are alike.
    #[prost(uint32, tag = "6")]
    pub coarse_symbols: u32,
    /// Leaves, coarse ranges and parts of rows are to be known by narrow names.
    #[prost(bool, tag = "7")]
    pub narrow: bool,
    /// It is to be told since when ranges were last read from disk.
    #[prost(bool, tag = "8")]
    pub scrubbed: bool,
    /// With several writers: rather later than as of a safe time that is long past.
    #[prost(bool, tag = "9")]
    pub fresh: bool,
}

/// A cut, as it is sent.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct CutAt {
    /// 0: now, 1: at an LSN, 2: at a moment, 3: as it is.
    #[prost(uint32, tag = "1")]
    pub kind: u32,
    /// The LSN or moment.
    #[prost(uint64, tag = "2")]
    pub at: u64,
}

/// As of when a table is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// As of now. With several writers: as of this side's safe time, as well as that can be had.
    Now,
    /// With one writer: after the entry with this LSN.
    Lsn(u64),
    /// With several writers: as of this moment or the side's safe time, if that is earlier.
    Hlc(u64),
    /// As of now, whatever is in it.
    AsItIs,
}

/// Leaves out what the other side has dropped, or goes over to wide names.
#[derive(Clone, PartialEq, Message)]
pub struct Raise {
    /// Session.
    #[prost(uint64, tag = "1")]
    pub session: u64,
    /// What the other side has dropped.
    #[prost(message, optional, tag = "2")]
    pub floors: Option<Floors>,
    /// Wide names from here on.
    #[prost(bool, tag = "3")]
    pub wide: bool,
}

/// A sketch of the coarse ranges of all lanes.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Sketch {
    /// Session.
    #[prost(uint64, tag = "1")]
    pub session: u64,
    /// Symbols.
    #[prost(uint32, tag = "2")]
    pub count: u32,
}

/// Leaves by their fingerprints: those in some coarse ranges, or single ones.
#[derive(Clone, PartialEq, Message)]
pub struct Named {
    /// Session.
    #[prost(uint64, tag = "1")]
    pub session: u64,
    /// Coarse ranges, by fingerprint. Without leaves.
    #[prost(fixed64, repeated, tag = "2")]
    pub coarse: Vec<u64>,
    /// Leaves, by fingerprint. Without coarse ranges.
    #[prost(fixed64, repeated, tag = "3")]
    pub leaves: Vec<u64>,
}

impl Named {
    /// Those in coarse ranges. Without a session.
    pub(crate) fn coarse(coarse: Vec<u64>) -> Named {
        Named { coarse, ..Named::default() }
    }

    /// Single ones. Without a session.
    pub(crate) fn leaves(leaves: Vec<u64>) -> Named {
        Named { leaves, ..Named::default() }
    }
}

/// Lays leaves beside those of the other side.
#[derive(Clone, PartialEq, Message)]
pub struct Lay {
    /// The leaves here.
    #[prost(message, optional, tag = "1")]
    pub named: Option<Named>,
    /// The leaves there, as told.
    #[prost(bytes = "bytes", tag = "2")]
    pub told: Bytes,
    /// Whether rows come with what is in them.
    #[prost(bool, tag = "3")]
    pub contents: bool,
}

/// Symbols over the leaves that start in a range.
#[derive(Clone, PartialEq, Message)]
pub struct LeafSymbols {
    /// Session.
    #[prost(uint64, tag = "1")]
    pub session: u64,
    /// First key.
    #[prost(bytes = "bytes", tag = "2")]
    pub start: Bytes,
    /// First key beyond; none: to the end.
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub end: Option<Bytes>,
    /// The first symbol wanted.
    #[prost(uint32, tag = "4")]
    pub from: u32,
    /// How many.
    #[prost(uint32, tag = "5")]
    pub count: u32,
    /// In the short form.
    #[prost(bool, tag = "6")]
    pub short: bool,
    /// Only leaves in some coarse ranges.
    #[prost(bool, tag = "7")]
    pub in_coarse: bool,
    /// These, by fingerprint.
    #[prost(fixed64, repeated, tag = "8")]
    pub coarse: Vec<u64>,
}

/// Sums of the coarse ranges from a key on.
#[derive(Clone, PartialEq, Message)]
pub struct CoarseRanges {
    /// Session.
    #[prost(uint64, tag = "1")]
    pub session: u64,
    /// First key: the start of a coarse range, or of all.
    #[prost(bytes = "bytes", tag = "2")]
    pub start: Bytes,
    /// First key beyond; none: to the end.
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub end: Option<Bytes>,
    /// At most so many.
    #[prost(uint32, tag = "4")]
    pub limit: u32,
}

/// Selects parts of rows: those in leaves, or those in a range of keys.
#[derive(Clone, PartialEq, Message)]
pub struct Select {
    /// Session.
    #[prost(uint64, tag = "1")]
    pub session: u64,
    /// Leaves, by fingerprint. Without a range.
    #[prost(fixed64, repeated, tag = "2")]
    pub leaves: Vec<u64>,
    /// A range of keys. Without leaves.
    #[prost(message, optional, tag = "3")]
    pub range: Option<Range>,
    /// What to tell of them.
    #[prost(message, optional, tag = "4")]
    pub want: Option<Want>,
    /// Leaves, by their places among those that were told last. Without a range.
    #[prost(uint32, repeated, tag = "5")]
    pub places: Vec<u32>,
    /// Leaves, by narrow names, one after the other. Without a range.
    #[prost(bytes = "bytes", tag = "6")]
    pub narrow_leaves: Bytes,
}

/// A range of keys.
#[derive(Clone, PartialEq, Message)]
pub struct Range {
    /// First key.
    #[prost(bytes = "bytes", tag = "1")]
    pub start: Bytes,
    /// First key beyond; none: to the end.
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub end: Option<Bytes>,
    /// At most about so many parts.
    #[prost(uint32, tag = "3")]
    pub limit: u32,
}

/// What to tell of the parts that are selected.
#[derive(Clone, PartialEq, Message)]
pub struct Want {
    /// 0: nothing, 1: fingerprints, 2: symbols, 3: rows unlike those of a list, 4: rows unlike
    /// those of a sketch.
    #[prost(uint32, tag = "1")]
    pub kind: u32,
    /// The first fingerprint or symbol.
    #[prost(uint32, tag = "2")]
    pub from: u32,
    /// How many.
    #[prost(uint32, tag = "3")]
    pub count: u32,
    /// What the other side has: rows with parts that are not among these are told, and which of
    /// these are not here.
    #[prost(fixed64, repeated, tag = "4")]
    pub like: Vec<u64>,
    /// Whether rows come with what is in them.
    #[prost(bool, tag = "5")]
    pub contents: bool,
    /// Symbols over what the other side has, from the first on.
    #[prost(bytes = "bytes", tag = "6")]
    pub sketch: Bytes,
    /// Symbols in the short form.
    #[prost(bool, tag = "7")]
    pub short: bool,
}

impl Want {
    /// Nothing but how many there are.
    pub const NOTHING: u32 = 0;
    /// Fingerprints.
    pub const FINGERPRINTS: u32 = 1;
    /// Symbols.
    pub const SYMBOLS: u32 = 2;
    /// Rows that are unlike those of the other side.
    pub const UNLIKE: u32 = 3;
    /// Rows that are unlike those of the other side, of which a sketch is given.
    pub const UNLIKE_SKETCH: u32 = 4;
}

/// More about what was selected.
#[derive(Clone, PartialEq, Message)]
pub struct Selected {
    /// Session.
    #[prost(uint64, tag = "1")]
    pub session: u64,
    /// What to tell.
    #[prost(message, optional, tag = "2")]
    pub want: Option<Want>,
}

/// Rows of which these parts were selected.
#[derive(Clone, PartialEq, Message)]
pub struct RowsByFingerprint {
    /// Session.
    #[prost(uint64, tag = "1")]
    pub session: u64,
    /// Parts.
    #[prost(fixed64, repeated, tag = "2")]
    pub fingerprints: Vec<u64>,
    /// Whether rows come with what is in them.
    #[prost(bool, tag = "3")]
    pub contents: bool,
}

/// Rows by key.
#[derive(Clone, PartialEq, Message)]
pub struct RowsByKey {
    /// Session.
    #[prost(uint64, tag = "1")]
    pub session: u64,
    /// Keys.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub keys: Vec<Bytes>,
    /// Whether rows come with what is in them.
    #[prost(bool, tag = "3")]
    pub contents: bool,
}

/// Ends a session.
#[derive(Clone, PartialEq, Message)]
pub struct Close {
    /// Session.
    #[prost(uint64, tag = "1")]
    pub session: u64,
}

impl From<Ask> for Question {
    fn from(ask: Ask) -> Question {
        Question { ask: Some(ask), packs: false }
    }
}

impl From<Cut> for CutAt {
    fn from(cut: Cut) -> CutAt {
        let (kind, at) = match cut {
            Cut::Now => (0, 0),
            Cut::Lsn(at) => (1, at),
            Cut::Hlc(at) => (2, at),
            Cut::AsItIs => (3, 0),
        };
        CutAt { kind, at }
    }
}

impl CutAt {
    /// The cut, if there is such a kind.
    pub fn cut(&self) -> Result<Cut, VerifyError> {
        match self.kind {
            0 => Ok(Cut::Now),
            1 => Ok(Cut::Lsn(self.at)),
            2 => Ok(Cut::Hlc(self.at)),
            3 => Ok(Cut::AsItIs),
            _ => Err(VerifyError::Damaged("unknown kind of cut")),
        }
    }
}

impl Question {
    /// The bytes that travel.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(1 + self.encoded_len());
        out.put_u8(FORMAT);
        Message::encode(self, &mut out).expect("a buffer in memory grows");
        out.freeze()
    }

    /// What `encode` made, within its bounds.
    pub fn decode(bytes: &Bytes) -> Result<Question, VerifyError> {
        if bytes.len() > QUESTION_BYTES_MAX {
            return Err(VerifyError::Damaged("question is too large"));
        }
        let mut rest = bytes.clone();
        if rest.is_empty() || rest.split_to(1)[0] != FORMAT {
            return Err(VerifyError::Damaged("unknown format of a question"));
        }
        let question: Question =
            Message::decode(rest).map_err(|_| VerifyError::Damaged("question cannot be read"))?;
        question.check()?;
        Ok(question)
    }

    /// Whether it keeps the bounds.
    pub fn check(&self) -> Result<(), VerifyError> {
        let key = |key: &Bytes| key.len() <= KEY_BYTES_MAX;
        let end = |end: &Option<Bytes>| end.as_ref().is_none_or(key);
        let want = |want: &Option<Want>| {
            want.as_ref()
                .is_none_or(|want| want.like.len() <= FINGERPRINTS_MAX && want.from <= FROM_MAX)
        };
        let named =
            |named: &Named| named.coarse.len() <= LEAVES_MAX && named.leaves.len() <= LEAVES_MAX;
        let fits = match &self.ask {
            None => return Err(VerifyError::Damaged("question asks nothing")),
            Some(Ask::Open(open)) => {
                open.roots.as_ref().is_none_or(|roots| roots.lanes.len() <= LANES_MAX)
            }
            Some(Ask::LeafSymbols(ask)) => {
                key(&ask.start)
                    && end(&ask.end)
                    && ask.from <= FROM_MAX
                    && ask.coarse.len() <= LEAVES_MAX
            }
            Some(Ask::CoarseRanges(ask)) => key(&ask.start) && end(&ask.end),
            Some(Ask::Select(ask)) => {
                let range = |range: &Range| key(&range.start) && end(&range.end);
                ask.leaves.len() <= LEAVES_MAX
                    && ask.narrow_leaves.len() <= LEAVES_MAX * Width::Narrow.bytes()
                    && ask.places.len() <= LEAVES_MAX
                    && ask.range.as_ref().is_none_or(range)
                    && want(&ask.want)
            }
            Some(Ask::Selected(ask)) => want(&ask.want),
            Some(Ask::RowsByFingerprint(ask)) => ask.fingerprints.len() <= FINGERPRINTS_MAX,
            Some(Ask::RowsByKey(ask)) => ask.keys.len() <= ROWS_MAX && ask.keys.iter().all(key),
            Some(Ask::Leaves(ask)) => named(ask),
            Some(Ask::Lay(ask)) => ask.named.as_ref().is_none_or(named),
            Some(Ask::Raise(_) | Ask::Close(_) | Ask::Sketch(_)) => true,
        };
        fits.then_some(()).ok_or(VerifyError::Damaged("question breaks a bound"))
    }
}
