//! Keyed hashing for one table: HighwayHash, the same on every machine.
//!
//! A key per table makes collisions something nobody can prepare without the table at hand, and
//! makes equal rows of two tables differ. What is hashed is framed: each kind of hash starts with
//! its own byte, and every piece but the last carries its length. The outputs are on disk and on
//! the wire, so they never change; a test pins them.

use highway::{HighwayHash, HighwayHasher, Key};

use crate::{Lane, Sum};

const PART: u8 = 1;
const ROW_KEY: u8 = 2;
const LEAF: u8 = 3;
const ROW: u8 = 4;
const TABLE: u8 = 5;
/// Where the keys of all tables come from. An arbitrary constant.
const ROOT: [u64; 4] =
    [0x6973_7468_6d75_7320, 0x6469_6765_7374_2031, 0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03];

/// Hashes keys and rows of one table.
#[derive(Clone, Debug)]
pub struct Hasher {
    key: [u64; 4],
}

impl Hasher {
    /// With a key that is known.
    pub fn new(table_key: [u8; 32]) -> Hasher {
        let (words, _) = table_key.as_chunks::<8>();
        let mut key = [0; 4];
        for (word, bytes) in key.iter_mut().zip(words) {
            *word = u64::from_le_bytes(*bytes);
        }
        Hasher { key }
    }

    /// With the key that every region derives for a table.
    pub fn for_table(table_id: u64, created_millis: i64) -> Hasher {
        let mut state = Hasher { key: ROOT }.start(TABLE);
        state.append(&table_id.to_le_bytes());
        state.append(&created_millis.to_le_bytes());
        Hasher { key: state.finalize256() }
    }

    /// The hash of what a row holds in a lane.
    pub fn part(&self, lane: Lane, key: &[u8], bytes: &[u8]) -> Sum {
        self.part_of(lane, key, &[bytes])
    }

    /// As `part`, of bytes that lie in several slices: only their concatenation matters.
    pub fn part_of(&self, lane: Lane, key: &[u8], slices: &[&[u8]]) -> Sum {
        let mut state = self.start(PART);
        append_framed(&mut state, lane, key);
        for slice in slices {
            state.append(slice);
        }
        let [low, high] = state.finalize128();
        Sum(u128::from(high) << 64 | u128::from(low))
    }

    /// The hash of a row key, which decides where leaves start.
    pub fn key_hash(&self, key: &[u8]) -> u64 {
        let mut state = self.start(ROW_KEY);
        state.append(key);
        state.finalize64()
    }

    /// Zero bits at the low end of a key's hash: the more, the higher the boundary it is.
    pub fn zero_bits(&self, key: &[u8]) -> u32 {
        self.key_hash(key).trailing_zeros()
    }

    /// The element that stands for a leaf in a sketch.
    pub fn leaf_fingerprint(&self, lane: Lane, start: &[u8], sum: Sum) -> u64 {
        let mut state = self.start(LEAF);
        append_framed(&mut state, lane, start);
        state.append(&sum.0.to_le_bytes());
        state.finalize64()
    }

    /// The element that stands for a row in a sketch.
    pub(crate) fn row_fingerprint(
        &self,
        key: &[u8],
        parts: impl Iterator<Item = (Lane, Sum)>,
    ) -> u64 {
        let mut state = self.start(ROW);
        state.append(&(key.len() as u64).to_le_bytes());
        state.append(key);
        for (lane, sum) in parts {
            state.append(&lane.encode());
            state.append(&sum.0.to_le_bytes());
        }
        state.finalize64()
    }

    fn start(&self, kind: u8) -> HighwayHasher {
        let mut state = HighwayHasher::new(Key(self.key));
        state.append(&[kind]);
        state
    }
}

fn append_framed(state: &mut HighwayHasher, lane: Lane, key: &[u8]) {
    let mut head = [0; 17];
    head[..9].copy_from_slice(&lane.encode());
    head[9..].copy_from_slice(&(key.len() as u64).to_le_bytes());
    state.append(&head);
    state.append(key);
}
