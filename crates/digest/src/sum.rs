//! Sums of row hashes modulo 2^128.
//!
//! A sum, not an exclusive or: two equal parts do not cancel, and a part can be taken out of a sum
//! without knowing the others. Arithmetic wraps everywhere; the order of additions never matters.

use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};

/// The sum of the parts of any set of rows, modulo 2^128.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Hash)]
pub struct Sum(pub u128);

impl Sum {
    /// What no row, or rows that came and went, add up to.
    pub const ZERO: Sum = Sum(0);

    /// Whether this is what no rows add up to.
    pub fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl Add for Sum {
    type Output = Sum;

    fn add(self, other: Sum) -> Sum {
        Sum(self.0.wrapping_add(other.0))
    }
}

impl Sub for Sum {
    type Output = Sum;

    fn sub(self, other: Sum) -> Sum {
        Sum(self.0.wrapping_sub(other.0))
    }
}

impl Neg for Sum {
    type Output = Sum;

    fn neg(self) -> Sum {
        Sum(self.0.wrapping_neg())
    }
}

impl AddAssign for Sum {
    fn add_assign(&mut self, other: Sum) {
        *self = *self + other;
    }
}

impl SubAssign for Sum {
    fn sub_assign(&mut self, other: Sum) {
        *self = *self - other;
    }
}

impl std::iter::Sum for Sum {
    fn sum<I: Iterator<Item = Sum>>(sums: I) -> Sum {
        sums.fold(Sum::ZERO, Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::Sum;

    #[test]
    fn sums_wrap_and_what_is_added_can_be_taken_out() {
        let mut sum = Sum(u128::MAX);
        sum += Sum(3);
        assert_eq!(sum, Sum(2));
        sum -= Sum(3);
        assert_eq!(sum, Sum(u128::MAX));
        assert!((sum + -sum).is_zero());
        assert!([Sum(1), Sum(u128::MAX)].into_iter().sum::<Sum>().is_zero());
    }
}
