//! Addresses that send wrong signatures faster than any honest client would.
//!
//! Past the bound nothing more is read of an address until the second is over, and what had been
//! read already is answered "busy" before any signature is computed. Other addresses notice
//! nothing. What is remembered is bounded: with too many addresses the oldest second is forgotten
//! first.

use std::collections::HashMap;
use std::net::IpAddr;

use parking_lot::Mutex;

/// Refusals of one address within a second before it is no longer listened to.
const REFUSALS_PER_SECOND_MAX: u32 = 500;
/// Addresses that are remembered.
const ADDRESSES_MAX: usize = 65_536;

#[derive(Clone, Copy)]
struct Count {
    second: i64,
    refusals: u32,
}

/// Counts refusals by address and second.
#[derive(Default)]
pub struct Refusals {
    counts: Mutex<HashMap<IpAddr, Count>>,
}

impl Refusals {
    /// Whether the address has been refused too often in this second.
    pub fn is_over(&self, from: IpAddr, second: i64) -> bool {
        let counts = self.counts.lock();
        counts.get(&from).is_some_and(|count| {
            count.second == second && count.refusals >= REFUSALS_PER_SECOND_MAX
        })
    }

    /// The address was refused in this second.
    pub fn count(&self, from: IpAddr, second: i64) {
        let mut counts = self.counts.lock();
        if counts.len() >= ADDRESSES_MAX && !counts.contains_key(&from) {
            counts.retain(|_, count| count.second == second);
            if counts.len() >= ADDRESSES_MAX {
                return;
            }
        }
        let count = counts.entry(from).or_insert(Count { second, refusals: 0 });
        if count.second != second {
            *count = Count { second, refusals: 0 };
        }
        count.refusals = count.refusals.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_is_over_for_the_rest_of_its_second_and_no_other_is() {
        let refusals = Refusals::default();
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        for _ in 0..REFUSALS_PER_SECOND_MAX {
            assert!(!refusals.is_over(one, 7));
            refusals.count(one, 7);
        }
        assert!(refusals.is_over(one, 7));
        assert!(!refusals.is_over(other, 7));
        assert!(!refusals.is_over(one, 8));
        refusals.count(one, 8);
        assert!(!refusals.is_over(one, 8));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let refusals = Refusals::default();
        for number in 0..ADDRESSES_MAX as u32 + 10 {
            refusals.count(IpAddr::from(number.to_be_bytes()), 1);
        }
        assert_eq!(refusals.counts.lock().len(), ADDRESSES_MAX);
        refusals.count(IpAddr::from([0; 16]), 2);
        assert_eq!(refusals.counts.lock().len(), 1);
    }
}
