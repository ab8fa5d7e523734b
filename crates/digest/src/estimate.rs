//! About how many elements two sets differ in, from a few bytes of each.
//!
//! Each element is counted up or down in one of a fixed number of counters, both by its own bits
//! (Alon, Matias and Szegedy's sketch of the second moment, in the form of Charikar's). What both
//! sets have cancels, so the squares of what is left add up to about the number of elements that
//! only one of them has: with so many counters within an eighth of it, two times out of three.

use crate::Damaged;
use crate::codec::{Reader, put_signed};

const COUNTERS: usize = 128;
const VERSION: u8 = 1;
const WHAT: &str = "estimate of a difference";

/// Counters of one set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Estimate([i64; COUNTERS]);

impl Estimate {
    /// Of a set of keyed fingerprints.
    pub fn of(elements: impl Iterator<Item = u64>) -> Estimate {
        let mut counters = [0; COUNTERS];
        for element in elements {
            // Other bits than those by which a sketch spreads elements.
            let bits = element.wrapping_mul(0x9fb2_1c65_1e98_df25) >> 56;
            let step = if bits & 1 == 0 { 1 } else { -1 };
            counters[(bits >> 1) as usize % COUNTERS] += step;
        }
        Estimate(counters)
    }

    /// About how many elements only one of two sets has.
    pub fn difference(&self, other: &Estimate) -> f64 {
        let square = |(a, b): (&i64, &i64)| a.wrapping_sub(*b) as f64 * a.wrapping_sub(*b) as f64;
        self.0.iter().zip(&other.0).map(square).sum()
    }

    /// The form on the wire.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(1 + 2 * COUNTERS);
        out.push(VERSION);
        self.0.iter().for_each(|counter| put_signed(&mut out, *counter));
        out
    }

    /// What was encoded.
    pub fn decode(bytes: &[u8]) -> Result<Estimate, Damaged> {
        let mut reader = Reader::new(bytes, WHAT);
        let version = reader.byte()?;
        reader.check(version == VERSION)?;
        let mut counters = [0; COUNTERS];
        for counter in &mut counters {
            *counter = reader.signed()?;
        }
        reader.finish()?;
        Ok(Estimate(counters))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::proptest;
    use proptest::{prop_assert, prop_assert_eq};

    use super::Estimate;
    use crate::Hasher;

    #[test]
    fn an_estimate_is_near_whatever_both_have() {
        let hasher = Hasher::for_table(1, 2);
        let elements =
            |numbers: std::ops::Range<u64>| numbers.map(|n| hasher.key_hash(&n.to_le_bytes()));
        for differing in [0u64, 1, 40, 2000, 50_000] {
            let mut total = 0.0;
            for trial in 0..10u64 {
                let first = trial * 1_000_000;
                let both = first..first + 20_000;
                let own = first + 20_000..first + 20_000 + differing / 2;
                let others = first + 500_000..first + 500_000 + differing - differing / 2;
                let one = Estimate::of(elements(both.clone()).chain(elements(own)));
                let other = Estimate::of(elements(both).chain(elements(others)));
                assert!(one.encode().len() < 400);
                total += one.difference(&other);
            }
            let (mean, expected) = (total / 10.0, differing as f64);
            assert!((mean - expected).abs() <= expected / 6.0, "{mean} for {differing}");
        }
    }

    proptest! {
        #[test]
        fn an_estimate_round_trips_and_noise_is_refused(elements: Vec<u64>, noise: Vec<u8>) {
            let estimate = Estimate::of(elements.into_iter());
            let bytes = estimate.encode();
            prop_assert!(Estimate::decode(&bytes[1..]).is_err());
            prop_assert_eq!(Estimate::decode(&bytes), Ok(estimate));
            let _ = Estimate::decode(&noise);
        }
    }
}
