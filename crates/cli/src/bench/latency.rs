//! Many latencies in little memory: counts in buckets, each at most 1/32 wide.
//!
//! What must hold: a quantile is never told smaller than it was, and at most by a thirty-second
//! larger.

use std::time::Duration;

/// Buckets per doubling, as a power of two.
const FINE: u32 = 5;
/// Up to 2^40 microseconds.
const BUCKETS: usize = (40 << FINE) + (1 << FINE);

/// Latencies, counted.
pub(super) struct Latencies {
    counts: Vec<u64>,
    count: u64,
    max: Duration,
    failures: u64,
    failure: Option<String>,
}

impl Default for Latencies {
    fn default() -> Latencies {
        Latencies {
            counts: vec![0; BUCKETS],
            count: 0,
            max: Duration::ZERO,
            failures: 0,
            failure: None,
        }
    }
}

impl Latencies {
    /// A request was answered after this time.
    pub(super) fn record(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.counts[bucket(micros)] += 1;
        self.count += 1;
        self.max = self.max.max(latency);
    }

    /// A request failed.
    pub(super) fn fail(&mut self, why: &str) {
        self.failures += 1;
        self.failure.get_or_insert_with(|| why.to_owned());
    }

    /// Takes in those of another connection.
    pub(super) fn add(&mut self, other: &Latencies) {
        for (sum, count) in self.counts.iter_mut().zip(&other.counts) {
            *sum += count;
        }
        self.count += other.count;
        self.max = self.max.max(other.max);
        self.failures += other.failures;
        if self.failure.is_none() {
            self.failure.clone_from(&other.failure);
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn max(&self) -> Duration {
        self.max
    }

    pub(super) fn failures(&self) -> u64 {
        self.failures
    }

    /// The first failure.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// The latency below which this share of all lies.
    pub(super) fn quantile(&self, share: f64) -> Duration {
        let wanted = (self.count as f64 * share).ceil() as u64;
        let mut sum = 0;
        for (place, count) in self.counts.iter().enumerate() {
            sum += count;
            if sum >= wanted && sum > 0 {
                return Duration::from_micros(upper(place)).min(self.max);
            }
        }
        self.max
    }
}

fn bucket(micros: u64) -> usize {
    if micros < 1 << FINE {
        return micros as usize;
    }
    let shift = 63 - micros.leading_zeros() - FINE;
    let place = ((shift as usize + 1) << FINE) + ((micros >> shift) as usize - (1 << FINE));
    place.min(BUCKETS - 1)
}

/// The largest value of a bucket.
fn upper(place: usize) -> u64 {
    if place < 1 << FINE {
        return place as u64;
    }
    let shift = (place >> FINE) - 1;
    let low = ((place & ((1 << FINE) - 1)) + (1 << FINE)) as u64;
    ((low + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket() {
        for micros in (0..70_000).chain([1 << 30, (1 << 39) + 12_345]) {
            let place = bucket(micros);
            assert!(upper(place) >= micros, "{micros}");
            assert!(upper(place) - micros <= micros / 32, "{micros}");
            assert!(place == 0 || upper(place - 1) < micros, "{micros}");
        }
    }

    #[test]
    fn quantiles_of_many_connections_are_told_together() {
        let (mut one, mut two) = (Latencies::default(), Latencies::default());
        for millis in 1..=50 {
            one.record(Duration::from_millis(millis));
            two.record(Duration::from_millis(millis + 50));
        }
        two.fail("away");
        one.add(&two);
        assert_eq!((one.count(), one.failures(), one.failure()), (100, 1, Some("away")));
        let median = one.quantile(0.5).as_millis();
        assert!((50..=52).contains(&median), "{median}");
        assert_eq!(one.quantile(1.0), Duration::from_millis(100));
        assert_eq!(Latencies::default().quantile(0.5), Duration::ZERO);
    }
}
