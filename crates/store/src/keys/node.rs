//! What a node keeps about itself: the bound of its clock, and of the ids it has given.

use bytes::Bytes;
use isthmus_model::hlc::Hlc;

use crate::codec::{Corrupt, Reader, put_varint};
use crate::keys::KIND_NODE;

const VERSION: u8 = 1;

/// What a node keeps about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeState {
    /// Nothing was stamped or promised above it.
    pub ceiling: Hlc,
    /// Ids up to this counter may have been given.
    pub ids_reserved: u64,
}

/// The only key of its kind.
pub fn encode_key() -> Bytes {
    Bytes::from_static(&[KIND_NODE])
}

/// The stored form.
pub fn encode_value(state: &NodeState) -> Bytes {
    let mut out = Vec::with_capacity(20);
    out.push(VERSION);
    out.extend_from_slice(&state.ceiling.0.to_le_bytes());
    put_varint(&mut out, state.ids_reserved);
    out.into()
}

/// What `encode_value` was given.
pub fn decode_value(bytes: &Bytes) -> Result<NodeState, Corrupt> {
    let mut reader = Reader::new(bytes);
    reader.version(VERSION)?;
    let state = NodeState { ceiling: reader.hlc()?, ids_reserved: reader.varint()? };
    reader.end()?;
    Ok(state)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::*;

    proptest! {
        #[test]
        fn state_round_trips_and_truncations_are_refused(ceiling: u64, ids_reserved: u64) {
            let state = NodeState { ceiling: Hlc(ceiling), ids_reserved };
            let bytes = encode_value(&state);
            prop_assert_eq!(decode_value(&bytes), Ok(state));
            for length in 0..bytes.len() {
                prop_assert!(decode_value(&bytes.slice(..length)).is_err());
            }
        }
    }
}
