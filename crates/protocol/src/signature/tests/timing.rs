//! That the time of a comparison tells nothing of the place of the first difference.
//!
//! Whether two sets of times differ is asked of statistics, never of a clock: samples of both
//! kinds are taken in turns by chance, so that whatever else the machine does falls on both
//! alike, and Welch's t of their means is judged. A comparison that stops at the first difference
//! is measured in the same way and must be found, or the measurement would be blind.

use std::hint::black_box;
use std::time::Instant;

use crate::signature::same;

/// Samples of each kind.
const SAMPLES: usize = 20_000;
/// Comparisons of one sample: more than the clock's own step.
const COMPARISONS: usize = 16;
/// Beyond this t a difference is no chance.
const T_MAX: f64 = 4.5;
/// A machine that is busy elsewhere can mislead once; a real difference shows every time.
const ATTEMPTS: u64 = 5;
/// Of all samples the slowest share is left out: they tell of interrupts.
const KEPT: f64 = 0.9;

fn stops_at_the_first_difference(made: &[u8], given: &[u8]) -> bool {
    made.len() == given.len()
        && made.iter().zip(given).all(|(made, given)| black_box(made) == black_box(given))
}

/// Welch's t of the times for a difference in the last byte and one in the first.
fn t(compare: fn(&[u8], &[u8]) -> bool, length: usize, seed: u64) -> f64 {
    let made: Vec<u8> = (0..length as u8).map(|byte| byte.wrapping_mul(37)).collect();
    let mut kinds = [made.clone(), made.clone()];
    kinds[0][0] ^= 1;
    kinds[1][length - 1] ^= 1;
    // Both kinds are compared in the same place of the memory.
    let mut given = made.clone();
    let mut samples: Vec<(bool, f64)> = Vec::with_capacity(2 * SAMPLES);
    let mut chance = seed;
    for _ in 0..SAMPLES {
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let first = (chance >> 63) as usize;
        for kind in [first, 1 - first] {
            given.copy_from_slice(black_box(&kinds[kind]));
            samples.push((kind == 1, time(compare, &made, &given)));
        }
    }
    welch(&mut samples)
}

#[allow(clippy::disallowed_methods, reason = "measures real time")]
fn time(compare: fn(&[u8], &[u8]) -> bool, made: &[u8], given: &[u8]) -> f64 {
    let began = Instant::now();
    for _ in 0..COMPARISONS {
        assert!(!black_box(compare)(black_box(made), black_box(given)));
    }
    began.elapsed().as_nanos() as f64
}

fn welch(samples: &mut Vec<(bool, f64)>) -> f64 {
    samples.sort_by(|a, b| a.1.total_cmp(&b.1));
    samples.truncate((samples.len() as f64 * KEPT) as usize);
    let side = |kind| {
        let times = || samples.iter().filter(|sample| sample.0 == kind).map(|sample| sample.1);
        let count = times().count() as f64;
        let mean = times().sum::<f64>() / count;
        let variance = times().map(|time| (time - mean).powi(2)).sum::<f64>() / (count - 1.0);
        (mean, variance / count)
    };
    let ((early, early_error), (late, late_error)) = (side(false), side(true));
    (late - early) / (early_error + late_error).sqrt().max(f64::MIN_POSITIVE)
}

#[test]
fn comparing_takes_as_long_for_a_late_difference_as_for_an_early_one() {
    // Signatures V2 and V4.
    for length in [20, 32] {
        let is_even = |seed: u64| {
            let t = t(same, length, seed);
            println!("{length} bytes: t {t:.2}");
            t.abs() < T_MAX
        };
        assert!((1..=ATTEMPTS).any(is_even), "a difference of {length} bytes shows in the time");
    }
}

#[test]
fn comparing_that_stops_early_is_found_by_the_same_measurement() {
    let found = |seed: u64| t(stops_at_the_first_difference, 20, seed) > T_MAX;
    assert!((1..=ATTEMPTS).any(found));
}
