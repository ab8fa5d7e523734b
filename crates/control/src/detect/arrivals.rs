//! Arrivals of one kind, and how unusual a silence is after them.

use std::collections::VecDeque;
use std::time::Duration;

use super::MISSING_MIN;

/// Times between arrivals that are kept.
const WINDOW: usize = 200;
/// As sure as this that a silence is none of the usual ones: one in 10^8.
const PHI_SUSPECT: f64 = 8.0;
/// As usual as this an arrival must be to speak against a suspicion.
const PHI_CLEAR: f64 = 1.0;
/// So many of them in a row end it.
const CLEARING_ARRIVALS: u32 = 3;

#[derive(Debug)]
pub(super) struct Arrivals {
    /// How often they are expected.
    every: Duration,
    /// Not silent for too long sooner, and always later.
    bounds: [Duration; 2],
    sigma_min: Duration,
    /// Of those that follow faster than this one is counted.
    apart: Duration,
    last: Duration,
    /// The last one that was counted.
    counted: Duration,
    /// Seconds between arrivals, the newest last.
    between: VecDeque<f64>,
    /// It was silent for too long, and too few usual arrivals have followed.
    is_unsteady: bool,
    steady: u32,
}

impl Arrivals {
    pub(super) fn new(
        every: Duration,
        bounds: [Duration; 2],
        sigma_min: Duration,
        apart: Duration,
        now: Duration,
    ) -> Arrivals {
        // Until something is known it is believed to be as it should be, give or take a quarter.
        let usual = every.as_secs_f64();
        let between = [0.75, 1.25, 0.75, 1.25].map(|share| share * usual).into();
        Arrivals {
            every,
            bounds,
            sigma_min,
            apart,
            last: now,
            counted: now,
            between,
            is_unsteady: false,
            steady: 0,
        }
    }

    pub(super) fn last(&self) -> Duration {
        self.last
    }

    pub(super) fn is_unsteady(&self) -> bool {
        self.is_unsteady
    }

    /// `counts`: a silence up to now is one of the region that is observed, and of nobody else.
    pub(super) fn arrived(&mut self, now: Duration, counts: bool) {
        if self.is_silent(now) {
            self.is_unsteady |= counts;
            self.steady = 0;
            self.counted = now;
        } else if now.saturating_sub(self.counted) >= self.apart {
            let is_usual = self.phi(now) < PHI_CLEAR;
            self.steady = if is_usual { self.steady.saturating_add(1) } else { 0 };
            self.is_unsteady &= self.steady < CLEARING_ARRIVALS;
            // A silence that was held to be an outage says nothing of what is usual, and neither
            // do arrivals that are far more often than what is waited for.
            self.between.push_back(now.saturating_sub(self.counted).as_secs_f64());
            if self.between.len() > WINDOW {
                self.between.pop_front();
            }
            self.counted = now;
        }
        self.last = self.last.max(now);
    }

    /// Whether it was silent for too long.
    pub(super) fn is_silent(&self, now: Duration) -> bool {
        let silence = now.saturating_sub(self.last);
        let [earliest, latest] = self.bounds;
        let earliest = earliest.max(self.every * MISSING_MIN).min(latest);
        silence >= latest || (silence >= earliest && self.phi(now) >= PHI_SUSPECT)
    }

    /// The negative decimal logarithm of the chance that a usual silence lasts longer, by a normal
    /// distribution, of which the tail is taken by a logistic one that comes close.
    pub(super) fn phi(&self, now: Duration) -> f64 {
        let count = self.between.len().max(1) as f64;
        let mean = self.between.iter().sum::<f64>() / count;
        let square = |between: &f64| (between - mean) * (between - mean);
        let variance = self.between.iter().map(square).sum::<f64>() / count;
        let sigma = variance.sqrt().max(self.sigma_min.as_secs_f64()).max(0.001);
        let y = (now.saturating_sub(self.last).as_secs_f64() - mean) / sigma;
        let exponent = y * (1.5976 + 0.070_566 * y * y);
        // log10(1 + e^x), which is close to x / ln 10 where e^x would overflow.
        match exponent > 30.0 {
            true => exponent / std::f64::consts::LN_10,
            false => exponent.exp().ln_1p() / std::f64::consts::LN_10,
        }
    }
}
