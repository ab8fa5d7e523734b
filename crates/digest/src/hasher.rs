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

/// Bytes that are gathered before they are hashed.
const GATHERED_MAX: usize = 128;

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
        let head = frame(lane, key);
        let mut state = self.gather(PART, &[&head, key]);
        for slice in slices {
            state.append(slice);
        }
        let [low, high] = state.finalize128();
        Sum(u128::from(high) << 64 | u128::from(low))
    }

    /// The hash of a row key, which decides where leaves start.
    pub fn key_hash(&self, key: &[u8]) -> u64 {
        self.gather(ROW_KEY, &[key]).finalize64()
    }

    /// Zero bits at the low end of a key's hash: the more, the higher the boundary it is.
    pub fn zero_bits(&self, key: &[u8]) -> u32 {
        self.key_hash(key).trailing_zeros()
    }

    /// The element that stands for a leaf in a sketch.
    pub fn leaf_fingerprint(&self, lane: Lane, start: &[u8], sum: Sum) -> u64 {
        let head = frame(lane, start);
        self.gather(LEAF, &[&head, start, &sum.0.to_le_bytes()]).finalize64()
    }

    /// The element that stands for a row in a sketch.
    pub(crate) fn row_fingerprint(
        &self,
        key: &[u8],
        parts: impl Iterator<Item = (Lane, Sum)>,
    ) -> u64 {
        let mut state = self.gather(ROW, &[&(key.len() as u64).to_le_bytes(), key]);
        for (lane, sum) in parts {
            let mut part = [0; 25];
            part[..9].copy_from_slice(&lane.encode());
            part[9..].copy_from_slice(&sum.0.to_le_bytes());
            state.append(&part);
        }
        state.finalize64()
    }

    /// Begins a hash with a few short pieces. One long piece is hashed faster than several.
    fn gather(&self, kind: u8, pieces: &[&[u8]]) -> HighwayHasher {
        let mut buffer = [0; GATHERED_MAX];
        buffer[0] = kind;
        let mut end = 1;
        for piece in pieces {
            let Some(room) = buffer.get_mut(end..end + piece.len()) else {
                let mut state = self.start(kind);
                pieces.iter().for_each(|piece| state.append(piece));
                return state;
            };
            room.copy_from_slice(piece);
            end += piece.len();
        }
        let mut state = HighwayHasher::new(Key(self.key));
        state.append(&buffer[..end]);
        state
    }

    fn start(&self, kind: u8) -> HighwayHasher {
        let mut state = HighwayHasher::new(Key(self.key));
        state.append(&[kind]);
        state
    }
}

/// What goes before a key, so that what follows it cannot pass for a piece of it.
fn frame(lane: Lane, key: &[u8]) -> [u8; 17] {
    let mut head = [0; 17];
    head[..9].copy_from_slice(&lane.encode());
    head[9..].copy_from_slice(&(key.len() as u64).to_le_bytes());
    head
}

#[cfg(test)]
mod tests {
    use proptest::prelude::proptest;
    use proptest::{prop_assert_eq, prop_assert_ne};

    use super::{Hasher, HighwayHash, Key, Lane, PART, Sum, frame};

    /// The same hash by the implementation that uses no vector instructions.
    fn portable_part(hasher: &Hasher, lane: Lane, key: &[u8], bytes: &[u8]) -> Sum {
        let mut framed = vec![PART];
        framed.extend_from_slice(&lane.encode());
        framed.extend_from_slice(&(key.len() as u64).to_le_bytes());
        framed.extend_from_slice(key);
        framed.extend_from_slice(bytes);
        let [low, high] = highway::PortableHash::new(Key(hasher.key)).hash128(&framed);
        Sum(u128::from(high) << 64 | u128::from(low))
    }

    #[test]
    fn the_hashes_are_pinned() {
        let key: [u8; 32] = std::array::from_fn(|at| at as u8);
        let hasher = Hasher::new(key);
        let parts = [
            hasher.part(Lane::Data, b"key", b"bytes").0,
            hasher.part(Lane::Time(-7), b"", b"").0,
            hasher.part(Lane::Kills(9), &[1; 100], &[2; 1000]).0,
        ];
        let pinned = [
            0x0409_cdec_24e0_46e7_d419_ae45_1bd8_6122,
            0x38ca_705d_477f_4722_bc99_f861_3369_140c,
            0xb146_af81_31e0_095a_6a94_66ec_48a2_d7f9,
        ];
        assert_eq!(parts, pinned);
        let row = [(Lane::Data, Sum(1))].into_iter();
        assert_eq!(hasher.key_hash(b"key"), 0x7d4f_555e_f4d4_39d6);
        let leaf = hasher.leaf_fingerprint(Lane::Data, b"key", Sum(1));
        assert_eq!(leaf, 0x1200_e66c_7fa0_9cb3);
        assert_eq!(hasher.row_fingerprint(b"key", row), 0xd089_bf7a_50da_20ba);
        assert_eq!(Hasher::for_table(1, 2).key_hash(b"key"), 0xf8ec_4f4b_d187_f970);
    }

    proptest! {
        #[test]
        fn vector_instructions_change_nothing(
            table: u64, bucket: i64, key: Vec<u8>, bytes: Vec<u8>
        ) {
            let hasher = Hasher::for_table(table, 0);
            let lane = Lane::Time(bucket);
            let sum = hasher.part(lane, &key, &bytes);
            prop_assert_eq!(sum, portable_part(&hasher, lane, &key, &bytes));
        }

        #[test]
        fn only_the_concatenation_of_slices_matters(
            key: Vec<u8>, a: Vec<u8>, b: Vec<u8>
        ) {
            let hasher = Hasher::for_table(7, 7);
            let whole = hasher.part(Lane::Data, &key, &[a.as_slice(), &b].concat());
            prop_assert_eq!(whole, hasher.part_of(Lane::Data, &key, &[&a, &[], &b]));
            // A byte that moves from the contents into the key is another row.
            if let [first, rest @ ..] = a.as_slice() {
                let longer = [key.as_slice(), &[*first]].concat();
                let moved = hasher.part_of(Lane::Data, &longer, &[rest, &b]);
                prop_assert_ne!(whole, moved);
            }
        }
    }

    #[test]
    fn every_kind_and_table_hashes_apart() {
        let (a, b) = (Hasher::for_table(1, 2), Hasher::for_table(2, 1));
        assert_ne!(a.key_hash(b"k"), b.key_hash(b"k"));
        assert_ne!(a.part(Lane::Data, b"k", b"v"), a.part(Lane::Time(0), b"k", b"v"));
        let sum = [0; 16];
        let part = a.gather(PART, &[&frame(Lane::Data, b"k"), b"k", &sum]).finalize64();
        assert_ne!(a.leaf_fingerprint(Lane::Data, b"k", Sum(0)), part);
    }
}
