//! What a link is told and what it says: its states, events and actions.

use bytes::Bytes;
use isthmus_model::ids::{Epoch, Lsn};

use crate::frame::{CopyProgress, FaultKind};
use crate::terms::Wish;
use crate::timing::Copies;

/// How a link stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not connected, or the replica has not said yet where it stands.
    Opening,
    /// Rows are copied.
    Copying,
    /// Entries are shipped as they come.
    Following,
    /// A person stopped it for a while.
    Paused,
    /// A person stopped it.
    Stopped,
    /// Entries that the replica lacks are gone here; a copy will heal it.
    Gap,
    /// The replica knows a newer epoch.
    Fenced,
    /// Needs a person.
    Broken,
}

impl State {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Opening => "opening",
            State::Copying => "copying",
            State::Following => "following",
            State::Paused => "paused",
            State::Stopped => "stopped",
            State::Gap => "gap",
            State::Fenced => "fenced",
            State::Broken => "broken",
        }
    }
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The stream to the peer is there.
    Connected,
    /// The stream to the peer is gone.
    Disconnected(String),
    /// The replica said where it stands; the origin's log begins after `log_start`.
    Opened {
        /// Everything through this LSN is durable at the replica.
        watermark: Lsn,
        /// A copy that has begun and not ended.
        copy: Option<CopyProgress>,
        /// Nothing but a copy makes the replica alike.
        must_copy: bool,
        /// It cannot be read before it has what was there when the link opened.
        incomplete: bool,
        /// Entries through this LSN are gone here.
        log_start: Lsn,
    },
    /// A snapshot was taken for a copy. With `offers` ranges are offered before they are sent.
    CopyBegan {
        /// Where it begins.
        progress: CopyProgress,
        /// Both sides have a digest.
        offers: bool,
    },
    /// The digest of a range was sent.
    Offered {
        /// Its number, one more than that of the last one.
        number: u64,
        /// The first key after it; `None`: it was the last.
        next_key: Option<Bytes>,
    },
    /// The replica said what of an offered range it has not alike.
    Wanted(u64),
    /// A chunk was sent; of the range offered first, if there is one.
    ChunkSent {
        /// Its number.
        number: u64,
        /// Its size.
        bytes: usize,
        /// The first key after it; `None`: it was the last.
        next_key: Option<Bytes>,
        /// Rows in it.
        rows: u64,
    },
    /// A chunk is durable at the replica.
    ChunkAcked(u64),
    /// The log is durable here through this LSN.
    Appended(Lsn),
    /// A parcel was sent.
    Sent {
        /// Through this LSN.
        to: Lsn,
        /// Its size.
        bytes: usize,
    },
    /// The replica holds everything through this LSN.
    Acked(Lsn),
    /// Entries after the replica's watermark are gone here.
    Trimmed,
    /// The replica cannot take what it was given.
    Faulted(FaultKind, String),
    /// It is time to try again.
    RetryDue,
    /// A person says how it is to stand.
    Asked(Wish),
    /// This epoch is obeyed here now.
    Epoch(Epoch),
    /// Whether this region has all of the table, so that others may be made like it.
    Whole(bool),
    /// By its timing it may ship so far.
    Released {
        /// Entries through this LSN.
        through: Lsn,
        /// Rows of a copy.
        copies: Copies,
    },
}

/// What to do now.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Offer the link.
    Open,
    /// Take a snapshot and begin to copy, or go on with a copy that has begun.
    BeginCopy(Option<CopyProgress>),
    /// Send the next chunk, from this key.
    SendChunk(Bytes),
    /// Offer the next range, from this key.
    Offer(Bytes),
    /// Send the next chunk of a range that was offered and answered.
    SendWanted {
        /// Number of the offer.
        offer: u64,
        /// Where the chunk begins.
        start: Bytes,
        /// Where the range ends; `None`: at the end of the partition.
        end: Option<Bytes>,
    },
    /// Tell the replica that it follows.
    Follow,
    /// Send the log after this LSN.
    Send(Lsn),
}
