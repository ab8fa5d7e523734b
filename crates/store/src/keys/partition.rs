//! The state of one partition: where its log ends and begins, and what it has applied.
//!
//! It is written in every batch that moves it, so that it always tells of exactly the rows and
//! entries beside it.

use bytes::Bytes;
use isthmus_model::hlc::{Hlc, Stamp};
use isthmus_model::ids::{Epoch, Lsn, Origin, PartitionId, Timestamp};
use isthmus_model::row::Trim;

use crate::codec::{Corrupt, Reader, put_signed, put_stamp, put_varint};
use crate::keys::{KIND_PARTITION, decode_number_key, number_key};

const VERSION: u8 = 1;
const WATERMARK_BYTES_MIN: usize = 10;
const TRIM_BYTES_MIN: usize = 10;

/// Everything of one origin at or before it is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermark {
    /// Whose.
    pub origin: Origin,
    /// Address in the origin's log.
    pub lsn: Lsn,
    /// Moment of the last entry there.
    pub hlc: Hlc,
}

/// What a partition knows of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionState {
    /// The last entry of its log.
    pub lsn: Lsn,
    /// The greatest moment of any entry in its log.
    pub hlc: Hlc,
    /// The newest epoch it has obeyed.
    pub epoch: Epoch,
    /// Entries at or before it are gone from its log.
    pub log_start: Lsn,
    /// What is applied of each origin that was heard from.
    pub watermarks: Vec<Watermark>,
    /// Expiries of all rows; none covers another.
    pub expiry: Vec<Trim>,
    /// The last counter given to an auto-increment column.
    pub auto_increment: u64,
}

impl PartitionState {
    /// The watermark of an origin, once it has one of its own.
    pub fn watermark(&self, origin: Origin) -> Option<Watermark> {
        self.watermarks.iter().find(|known| known.origin == origin).copied()
    }

    /// Sets the watermark of an origin; the moment never goes back.
    pub fn set_watermark(&mut self, new: Watermark) {
        match self.watermarks.iter_mut().find(|known| known.origin == new.origin) {
            Some(known) => {
                known.lsn = new.lsn;
                known.hlc = known.hlc.max(new.hlc);
            }
            None => {
                self.watermarks.push(new);
                self.watermarks.sort_by_key(|known| known.origin);
            }
        }
    }
}

/// The key of a partition's state.
pub fn encode_key(partition: PartitionId) -> Bytes {
    number_key(KIND_PARTITION, partition.0)
}

/// What `encode_key` was given.
pub fn decode_key(key: &[u8]) -> Result<PartitionId, Corrupt> {
    decode_number_key(KIND_PARTITION, key).map(PartitionId)
}

/// The stored form.
pub fn encode_value(state: &PartitionState) -> Bytes {
    let mut out = Vec::with_capacity(96);
    out.push(VERSION);
    put_varint(&mut out, state.lsn.0);
    put_hlc(&mut out, state.hlc);
    put_varint(&mut out, state.epoch.0);
    put_varint(&mut out, state.log_start.0);
    put_varint(&mut out, state.watermarks.len() as u64);
    for watermark in &state.watermarks {
        put_stamp(&mut out, Stamp { hlc: watermark.hlc, origin: watermark.origin });
        put_varint(&mut out, watermark.lsn.0);
    }
    put_varint(&mut out, state.expiry.len() as u64);
    for trim in &state.expiry {
        put_signed(&mut out, trim.below.0);
        put_stamp(&mut out, trim.stamp);
    }
    put_varint(&mut out, state.auto_increment);
    out.into()
}

fn put_hlc(out: &mut Vec<u8>, hlc: Hlc) {
    out.extend_from_slice(&hlc.0.to_le_bytes());
}

/// What `encode_value` was given.
pub fn decode_value(bytes: &Bytes) -> Result<PartitionState, Corrupt> {
    let mut reader = Reader::new(bytes);
    reader.version(VERSION)?;
    let mut state = PartitionState {
        lsn: Lsn(reader.varint()?),
        hlc: reader.hlc()?,
        epoch: Epoch(reader.varint()?),
        log_start: Lsn(reader.varint()?),
        ..PartitionState::default()
    };
    for _ in 0..reader.count(WATERMARK_BYTES_MIN)? {
        let Stamp { hlc, origin } = reader.stamp()?;
        state.watermarks.push(Watermark { origin, lsn: Lsn(reader.varint()?), hlc });
    }
    for _ in 0..reader.count(TRIM_BYTES_MIN)? {
        let below = Timestamp(reader.signed()?);
        state.expiry.push(Trim { below, stamp: reader.stamp()? });
    }
    state.auto_increment = reader.varint()?;
    reader.end()?;
    Ok(state)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn states() -> impl Strategy<Value = PartitionState> {
        let watermark = (any::<u8>(), any::<u64>(), any::<u64>()).prop_map(|(o, lsn, hlc)| {
            Watermark { origin: Origin(o), lsn: Lsn(lsn), hlc: Hlc(hlc) }
        });
        let trim = (any::<i64>(), any::<u64>()).prop_map(|(below, hlc)| Trim {
            below: Timestamp(below),
            stamp: Stamp { hlc: Hlc(hlc), origin: Origin(2) },
        });
        let watermarks = proptest::collection::vec(watermark, 0..4);
        let expiry = proptest::collection::vec(trim, 0..3);
        (any::<[u64; 7]>(), watermarks, expiry).prop_map(|(n, watermarks, expiry)| PartitionState {
            lsn: Lsn(n[0]),
            hlc: Hlc(n[1]),
            epoch: Epoch(n[2]),
            log_start: Lsn(n[3]),
            watermarks,
            expiry,
            auto_increment: n[6],
        })
    }

    proptest! {
        #[test]
        fn state_round_trips_and_truncations_are_refused(id: u64, state in states()) {
            prop_assert_eq!(decode_key(&encode_key(PartitionId(id))), Ok(PartitionId(id)));
            let bytes = encode_value(&state);
            prop_assert_eq!(decode_value(&bytes), Ok(state));
            for length in 0..bytes.len() {
                prop_assert!(decode_value(&bytes.slice(..length)).is_err());
            }
        }
    }
}
