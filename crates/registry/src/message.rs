//! What members say to each other: bytes that begin with a version.
//!
//! After the version come four bytes, big-endian: how long the JSON is that follows; the rest is a
//! piece of a snapshot as it is. What is larger than `MESSAGE_BYTES_MAX` is not read.

use bytes::{BufMut, Bytes, BytesMut};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotResponse, VoteRequest, VoteResponse,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::RegistryError;
use crate::limits::MESSAGE_BYTES_MAX;
use crate::raft::{SnapshotMeta, Types, Vote};
use crate::{Machine, Member};

/// The version that is spoken.
const VERSION: u8 = 1;
const HEAD_BYTES: usize = 5;

/// What is asked of a member.
#[derive(Serialize, Deserialize)]
#[serde(bound = "")]
pub(crate) enum Question<M: Machine> {
    /// Take these entries; none: the leader is there.
    Append(AppendEntriesRequest<Types<M>>),
    /// Vote for the asker.
    Vote(VoteRequest<u64>),
    /// Take this piece of a snapshot.
    Install(Piece),
    /// Have a command done: only the leader can.
    Propose { command: M::Command, within_millis: u64 },
    /// Tell what is surely committed: only the leader can.
    Observe { within_millis: u64 },
    /// Let these be the members: only the leader can.
    Change { members: Vec<Member>, within_millis: u64 },
    /// Tell whether you hear this.
    Probe,
}

/// A piece of a snapshot; its bytes follow the JSON.
#[derive(Serialize, Deserialize)]
pub(crate) struct Piece {
    pub(crate) vote: Vote,
    pub(crate) meta: SnapshotMeta,
    pub(crate) offset: u64,
    pub(crate) done: bool,
}

/// What a member says to that.
#[derive(Serialize, Deserialize)]
#[serde(bound = "")]
pub(crate) enum Answer<M: Machine> {
    Appended(AppendEntriesResponse<u64>),
    Voted(VoteResponse<u64>),
    Installed(InstallSnapshotResponse<u64>),
    /// The piece does not follow what came before: begin anew.
    OutOfOrder {
        expect: u64,
        got: u64,
    },
    /// The command was done at that place in the order.
    Done {
        index: u64,
        outcome: M::Outcome,
    },
    /// What is committed goes up to there.
    Observed {
        index: u64,
    },
    /// The members are these now.
    Changed,
    /// It does not lead, or hears no majority. Nothing was done.
    NotLeading,
    /// Nothing was done, and will not be.
    Refused(String),
    /// Whether it was done or will be is not known.
    Unknown(String),
    /// It is there.
    Heard {
        /// Nothing was ever agreed on as far as it knows.
        is_blank: bool,
    },
}

/// Packs a question or an answer.
pub(crate) fn pack<T: Serialize>(value: &T, piece: &[u8]) -> Result<Bytes, RegistryError> {
    let json = serde_json::to_vec(value).map_err(|_| RegistryError::Garbage)?;
    let bytes = HEAD_BYTES + json.len() + piece.len();
    let length = u32::try_from(json.len()).ok().filter(|_| bytes <= MESSAGE_BYTES_MAX);
    let length = length.ok_or(RegistryError::TooLarge(bytes))?;
    let mut message = BytesMut::with_capacity(bytes);
    message.put_u8(VERSION);
    message.put_u32(length);
    message.put_slice(&json);
    message.put_slice(piece);
    Ok(message.freeze())
}

/// Unpacks one, and the piece that follows it.
pub(crate) fn unpack<T: DeserializeOwned>(message: &Bytes) -> Result<(T, Bytes), RegistryError> {
    if message.len() > MESSAGE_BYTES_MAX {
        return Err(RegistryError::TooLarge(message.len()));
    }
    let version = *message.first().ok_or(RegistryError::Garbage)?;
    if version != VERSION {
        return Err(RegistryError::Version(version));
    }
    let length = message.get(1..HEAD_BYTES).and_then(|length| length.try_into().ok());
    let length = u32::from_be_bytes(length.ok_or(RegistryError::Garbage)?) as usize;
    let json = message.get(HEAD_BYTES..).and_then(|rest| rest.get(..length));
    let value = serde_json::from_slice(json.ok_or(RegistryError::Garbage)?);
    let value = value.map_err(|_| RegistryError::Garbage)?;
    Ok((value, message.slice(HEAD_BYTES + length..)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_unpacked() {
        let packed = pack(&("probe", 7), b"piece").unwrap();
        let (value, piece) = unpack::<(String, u8)>(&packed).unwrap();
        assert_eq!((value.0.as_str(), value.1, &*piece), ("probe", 7, &b"piece"[..]));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let packed = pack(&7, b"").unwrap();
        for end in 0..packed.len() {
            let cut = packed.slice(..end);
            assert!(matches!(unpack::<u8>(&cut), Err(RegistryError::Garbage)), "{end}");
        }
        let far = Bytes::from_static(&[VERSION, 0xff, 0xff, 0xff, 0xff, b'7']);
        assert!(matches!(unpack::<u8>(&far), Err(RegistryError::Garbage)));
        let newer = Bytes::from_static(&[9, 0, 0, 0, 1, b'7']);
        assert!(matches!(unpack::<u8>(&newer), Err(RegistryError::Version(9))));
        let large = Bytes::from(vec![VERSION; MESSAGE_BYTES_MAX + 1]);
        assert!(matches!(unpack::<u8>(&large), Err(RegistryError::TooLarge(_))));
        assert!(matches!(pack(&7, &large), Err(RegistryError::TooLarge(_))));
    }
}
