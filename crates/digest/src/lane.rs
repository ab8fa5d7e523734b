//! Lanes: which parts of rows share one list of leaves.
//!
//! Parts that one decision removes together lie in one lane, so the removal drops the lane and
//! reads no row. The encoding orders as the lanes do: stored pages lie lane after lane.

/// One list of leaves among those of a partition.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Lane {
    /// The live cells of tables whose cells do not expire.
    Data,
    /// Cells that expire together: the bucket of their timestamps.
    Time(i64),
    /// What kills older writes, collected together: the bucket of its time.
    Kills(u64),
}

const DATA: u8 = 1;
const TIME: u8 = 2;
const KILLS: u8 = 3;
const SIGN: u64 = 1 << 63;

impl Lane {
    /// Nine bytes that order as lanes do.
    pub fn encode(self) -> [u8; 9] {
        let (class, bucket) = match self {
            Lane::Data => (DATA, 0),
            Lane::Time(bucket) => (TIME, bucket.cast_unsigned() ^ SIGN),
            Lane::Kills(bucket) => (KILLS, bucket),
        };
        let mut bytes = [class; 9];
        bytes[1..].copy_from_slice(&bucket.to_be_bytes());
        bytes
    }

    /// The lane that encodes to exactly these bytes, if there is one.
    pub fn decode(bytes: &[u8; 9]) -> Option<Lane> {
        let [class, bucket @ ..] = *bytes;
        let bucket = u64::from_be_bytes(bucket);
        match class {
            DATA if bucket == 0 => Some(Lane::Data),
            TIME => Some(Lane::Time((bucket ^ SIGN).cast_signed())),
            KILLS => Some(Lane::Kills(bucket)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};
    use proptest::{prop_assert, prop_assert_eq};

    use super::Lane;

    fn lanes() -> impl Strategy<Value = Lane> {
        prop_oneof![
            Just(Lane::Data),
            any::<i64>().prop_map(Lane::Time),
            any::<u64>().prop_map(Lane::Kills)
        ]
    }

    proptest! {
        #[test]
        fn a_lane_round_trips_and_its_bytes_keep_the_order(a in lanes(), b in lanes()) {
            prop_assert_eq!(Lane::decode(&a.encode()), Some(a));
            prop_assert_eq!(a.encode().cmp(&b.encode()), a.cmp(&b));
        }

        #[test]
        fn bytes_of_no_lane_are_refused(bytes: [u8; 9]) {
            if let Some(lane) = Lane::decode(&bytes) {
                prop_assert_eq!(lane.encode(), bytes);
            } else {
                prop_assert!(bytes[0] == 1 || !(1..=3).contains(&bytes[0]));
            }
        }
    }
}
