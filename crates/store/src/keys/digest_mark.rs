//! Where the checkpoint of a digest stands.
//!
//! Without this record a partition has no digest: it must be built from the rows.

use bytes::Bytes;
use isthmus_model::ids::PartitionId;

use crate::codec::{Corrupt, Reader, put_varint};
use crate::keys::{KIND_DIGEST_MARK, decode_number_key, number_key, range_of_kind};

const VERSION: u8 = 1;

/// A digest at rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Which pages count.
    pub generation: u32,
    /// The pages hold every group up to this one; later ones are in the redo log.
    pub checkpoint: u64,
}

/// The key of a partition's mark.
pub fn encode_key(partition: PartitionId) -> Bytes {
    number_key(KIND_DIGEST_MARK, partition.0)
}

/// What `encode_key` was given.
pub fn decode_key(key: &[u8]) -> Result<PartitionId, Corrupt> {
    decode_number_key(KIND_DIGEST_MARK, key).map(PartitionId)
}

/// All marks.
pub fn range() -> (Bytes, Bytes) {
    range_of_kind(KIND_DIGEST_MARK)
}

/// The stored form.
pub fn encode_value(mark: Mark) -> Bytes {
    let mut out = vec![VERSION];
    put_varint(&mut out, u64::from(mark.generation));
    put_varint(&mut out, mark.checkpoint);
    out.into()
}

/// What `encode_value` was given.
pub fn decode_value(bytes: &Bytes) -> Result<Mark, Corrupt> {
    let mut reader = Reader::new(bytes);
    reader.version(VERSION)?;
    let generation = u32::try_from(reader.varint()?);
    let generation = generation.map_err(|_| Corrupt { what: "generation of a digest" })?;
    let mark = Mark { generation, checkpoint: reader.varint()? };
    reader.end()?;
    Ok(mark)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert_eq, proptest};

    use super::*;

    proptest! {
        #[test]
        fn mark_round_trips(p: u64, generation: u32, checkpoint: u64) {
            let mark = Mark { generation, checkpoint };
            prop_assert_eq!(decode_value(&encode_value(mark)), Ok(mark));
            prop_assert_eq!(decode_key(&encode_key(PartitionId(p))), Ok(PartitionId(p)));
        }
    }
}
