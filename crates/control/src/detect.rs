//! Whether another region seems to be gone, as one region sees it.
//!
//! What arrives by itself is the region's renewals, as they are applied, and frames of its links;
//! what is asked for is answers to probes. A renewal is healthy if the region knew of a newer one
//! that was accepted: a region that is heard and hears nothing renews and never learns of it. The
//! longer the silence is, compared with what was usual, the surer is its meaning (phi, by the
//! distribution of the times between arrivals), within bounds. Time in which nothing at all is
//! agreed on counts for nobody: then the quorum is gone, or this region is.
//!
//! One suspicion decides nothing: see [`crate::agreed::SUSPICIONS_NEEDED`]. Pure: moments are
//! handed in, of the monotonic clock of the region that observes.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Times between arrivals that are kept.
const WINDOW: usize = 200;
/// As sure as this that a silence is none of the usual ones: one in 10^8.
const PHI_SUSPECT: f64 = 8.0;
/// As usual as this an arrival must be to speak against a suspicion.
const PHI_CLEAR: f64 = 1.0;
/// So many of them in a row end it.
const CLEARING_ARRIVALS: u32 = 3;
/// Renewals that must be missing.
const MISSING_MIN: u32 = 3;
/// Times the longest wait for renewals that probes and links must be silent.
const SILENCE_TIMES: u32 = 3;
/// Healthy renewals that a suspicion may outlive which was raised in spite of them.
pub const OUTLIVES: u64 = 25;

/// By what a region is held to be gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Watch {
    /// By what arrives by itself.
    Passive,
    /// By what is asked for.
    Active,
    /// By its renewals, or by probes and links that are silent together.
    #[default]
    Mixed,
}

/// How a region is observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// By what.
    pub watch: Watch,
    /// How often regions renew.
    pub renew_every: Duration,
    /// It is not suspected sooner after the last sign of life.
    pub earliest: Duration,
    /// It is suspected when there was none for so long.
    pub latest: Duration,
    /// What times between arrivals vary by at least.
    pub sigma_min: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            watch: Watch::Mixed,
            renew_every: Duration::from_millis(400),
            earliest: Duration::from_millis(1_000),
            latest: Duration::from_millis(1_600),
            sigma_min: Duration::from_millis(50),
        }
    }
}

/// What is thought of a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is nothing to say.
    Alive,
    /// It was silent, is back, and is not steady yet: what was said of it is not taken back, and
    /// nothing new is said.
    Unsteady,
    /// It seems to be gone. The suspicion is about what was seen up to a healthy renewal, so that
    /// a newer one makes it void.
    Suspect {
        /// The run of the region that was observed.
        run: u64,
        /// The newest renewal that it was seen to know of.
        renewal: u64,
        /// How many newer ones the suspicion may outlive.
        outlives: u64,
        /// What was seen.
        evidence: String,
    },
}

/// Observes one region.
#[derive(Debug)]
pub struct Detector {
    settings: Settings,
    run: u64,
    healthy_renewal: u64,
    renewals: Arrivals,
    answers: Arrivals,
    /// The last frame of one of its links.
    frame_at: Option<Duration>,
    /// The last renewal, healthy or not.
    heard_at: Option<Duration>,
    last_error: Option<String>,
    failed_probes: u32,
    /// When anything was last agreed on, and since when that goes on without a gap.
    agreed_at: Duration,
    agreeing_since: Duration,
}

impl Detector {
    /// Begins to observe: the region counts as alive now.
    pub fn new(settings: Settings, now: Duration) -> Detector {
        Detector {
            settings,
            run: 0,
            healthy_renewal: 0,
            renewals: Arrivals::new(&settings, now),
            answers: Arrivals::new(&settings, now),
            frame_at: None,
            heard_at: None,
            last_error: None,
            failed_probes: 0,
            agreed_at: now,
            agreeing_since: now,
        }
    }

    /// Anything was applied here that the quorum has agreed on, by whomever.
    pub fn agreed(&mut self, now: Duration) {
        if now.saturating_sub(self.agreed_at) > self.settings.renew_every * 2 {
            self.agreeing_since = now;
        }
        self.agreed_at = self.agreed_at.max(now);
    }

    /// A renewal of the region was applied here. Tells itself that something was agreed on.
    pub fn renewed(&mut self, run: u64, acked: u64, now: Duration) {
        let counts = self.is_agreeing(now);
        self.agreed(now);
        self.heard_at = Some(now);
        let is_newer = (run, acked) > (self.run, self.healthy_renewal);
        if is_newer {
            (self.run, self.healthy_renewal) = (run, acked);
            self.renewals.arrived(&self.settings, now, counts);
        }
    }

    /// A frame of one of its links arrived.
    pub fn heard(&mut self, now: Duration) {
        self.frame_at = Some(now);
    }

    /// A probe of it was answered.
    pub fn answered(&mut self, now: Duration) {
        self.failed_probes = 0;
        self.answers.arrived(&self.settings, now, true);
    }

    /// A probe failed, or a connection to it did.
    pub fn failed(&mut self, error: &str) {
        self.failed_probes = self.failed_probes.saturating_add(1);
        self.last_error = Some(error.chars().take(120).collect());
    }

    /// How unusual the silence is by now.
    pub fn phi(&self, now: Duration) -> f64 {
        match self.settings.watch {
            Watch::Active => self.answers.phi(&self.settings, now),
            Watch::Passive | Watch::Mixed => self.renewals.phi(&self.settings, now),
        }
    }

    /// What is thought of it now.
    pub fn verdict(&self, now: Duration) -> Verdict {
        let by_renewals = self.settings.watch != Watch::Active;
        let is_silent = self.renewals.is_silent(&self.settings, now);
        if by_renewals && is_silent && self.is_agreeing(now) {
            return self.suspect(0, self.tell_renewals(now));
        }
        let are_silent = self.are_probes_silent(now);
        let silence = self.settings.latest * SILENCE_TIMES;
        let is_over = |at: Duration| now.saturating_sub(at) >= silence;
        let (is_gone, is_unsteady) = match self.settings.watch {
            Watch::Passive => (false, self.renewals.is_unsteady),
            Watch::Active => (are_silent, self.answers.is_unsteady),
            Watch::Mixed => {
                let are_links_silent = self.frame_at.is_some_and(is_over);
                let is_gone = are_silent && is_over(self.answers.last) && are_links_silent;
                (is_gone, self.renewals.is_unsteady)
            }
        };
        match (is_gone, is_unsteady) {
            (true, _) => self.suspect(OUTLIVES, self.tell_probes(now)),
            (false, true) => Verdict::Unsteady,
            (false, false) => Verdict::Alive,
        }
    }

    /// Whether others were heard in the quorum for long enough that this region would have been.
    fn is_agreeing(&self, now: Duration) -> bool {
        let two = self.settings.renew_every * 2;
        now.saturating_sub(self.agreed_at) <= two && now.saturating_sub(self.agreeing_since) >= two
    }

    fn are_probes_silent(&self, now: Duration) -> bool {
        self.failed_probes >= MISSING_MIN && self.answers.is_silent(&self.settings, now)
    }

    fn suspect(&self, outlives: u64, evidence: String) -> Verdict {
        let (run, renewal) = (self.run, self.healthy_renewal);
        Verdict::Suspect { run, renewal, outlives, evidence }
    }

    fn tell_renewals(&self, now: Duration) -> String {
        let since = |at: Duration| format!("{} ms", now.saturating_sub(at).as_millis());
        let silence = since(self.renewals.last);
        let is_heard = self.heard_at.is_some_and(|at| at > self.renewals.last);
        let phi = self.renewals.phi(&self.settings, now);
        let mut told = match is_heard {
            true => format!("it renews and for {silence} has not heard the answers, phi {phi:.1}"),
            false => format!("no renewal for {silence}, phi {phi:.1}"),
        };
        if let Some(at) = self.frame_at {
            told.push_str(&format!(", a link frame {} ago", since(at)));
        }
        self.tell_errors(&mut told);
        told
    }

    fn tell_probes(&self, now: Duration) -> String {
        let silence = now.saturating_sub(self.answers.last).as_millis();
        let mut told = format!("no probe answered for {silence} ms");
        if let Some(at) = self.frame_at {
            let ago = now.saturating_sub(at).as_millis();
            told.push_str(&format!(", no link frame for {ago} ms"));
        }
        self.tell_errors(&mut told);
        told
    }

    fn tell_errors(&self, told: &mut String) {
        let error = self.last_error.as_ref().filter(|_| self.failed_probes > 0);
        if let Some(error) = error {
            told.push_str(&format!(", {} probes failed: {error}", self.failed_probes));
        }
    }
}

/// Arrivals of one kind.
#[derive(Debug)]
struct Arrivals {
    last: Duration,
    /// Seconds between arrivals, the newest last.
    between: VecDeque<f64>,
    /// It was silent for too long, and too few usual arrivals have followed.
    is_unsteady: bool,
    steady: u32,
}

impl Arrivals {
    fn new(settings: &Settings, now: Duration) -> Arrivals {
        // Until something is known it is believed to be as it should be, give or take a quarter.
        let usual = settings.renew_every.as_secs_f64();
        let between = [0.75, 1.25, 0.75, 1.25].map(|share| share * usual).into();
        Arrivals { last: now, between, is_unsteady: false, steady: 0 }
    }

    /// `counts`: a silence up to now is one of the region that is observed, and of nobody else.
    fn arrived(&mut self, settings: &Settings, now: Duration, counts: bool) {
        if self.is_silent(settings, now) {
            self.is_unsteady |= counts;
            self.steady = 0;
        } else {
            let is_usual = self.phi(settings, now) < PHI_CLEAR;
            self.steady = if is_usual { self.steady.saturating_add(1) } else { 0 };
            self.is_unsteady &= self.steady < CLEARING_ARRIVALS;
            // A silence that was held to be an outage says nothing of what is usual.
            self.between.push_back(now.saturating_sub(self.last).as_secs_f64());
            if self.between.len() > WINDOW {
                self.between.pop_front();
            }
        }
        self.last = self.last.max(now);
    }

    /// Whether it was silent for too long.
    fn is_silent(&self, settings: &Settings, now: Duration) -> bool {
        let silence = now.saturating_sub(self.last);
        let missing = settings.renew_every * MISSING_MIN;
        let earliest = settings.earliest.max(missing).min(settings.latest);
        silence >= settings.latest
            || (silence >= earliest && self.phi(settings, now) >= PHI_SUSPECT)
    }

    /// The negative decimal logarithm of the chance that a usual silence lasts longer, by a normal
    /// distribution, of which the tail is taken by a logistic one that comes close.
    fn phi(&self, settings: &Settings, now: Duration) -> f64 {
        let count = self.between.len().max(1) as f64;
        let mean = self.between.iter().sum::<f64>() / count;
        let square = |between: &f64| (between - mean) * (between - mean);
        let variance = self.between.iter().map(square).sum::<f64>() / count;
        let sigma = variance.sqrt().max(settings.sigma_min.as_secs_f64()).max(0.001);
        let y = (now.saturating_sub(self.last).as_secs_f64() - mean) / sigma;
        let exponent = y * (1.5976 + 0.070_566 * y * y);
        // log10(1 + e^x), which is close to x / ln 10 where e^x would overflow.
        match exponent > 30.0 {
            true => exponent / std::f64::consts::LN_10,
            false => exponent.exp().ln_1p() / std::f64::consts::LN_10,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn is_suspect(detector: &Detector, now: u64) -> bool {
        matches!(detector.verdict(millis(now)), Verdict::Suspect { .. })
    }

    /// A region that has renewed as it should until a moment, and a quorum that goes on.
    fn steady(watch: Watch, until: u64) -> Detector {
        let settings = Settings { watch, ..Settings::default() };
        let mut detector = Detector::new(settings, Duration::ZERO);
        for (number, at) in (0..=until).step_by(400).enumerate() {
            detector.renewed(1, number as u64, millis(at));
            detector.answered(millis(at));
            detector.heard(millis(at));
        }
        detector
    }

    fn others_agree(detector: &mut Detector, from: u64, until: u64) {
        for at in (from..=until).step_by(200) {
            detector.agreed(millis(at));
        }
    }

    fn evidence(detector: &Detector, now: u64) -> (u64, u64, String) {
        match detector.verdict(millis(now)) {
            Verdict::Suspect { renewal, outlives, evidence, .. } => (renewal, outlives, evidence),
            other => panic!("it is suspect, not {other:?}"),
        }
    }

    #[test]
    fn three_renewals_must_be_missing_and_the_latest_is_kept() {
        let mut detector = steady(Watch::Passive, 40_000);
        others_agree(&mut detector, 40_000, 42_000);
        assert!(!is_suspect(&detector, 41_199), "the times between were even, and yet");
        assert!(is_suspect(&detector, 41_200));
        let (renewal, outlives, told) = evidence(&detector, 41_600);
        assert_eq!((renewal, outlives), (100, 0));
        assert!(told.contains("no renewal for 1600 ms"), "{told}");
        // Arrivals that vary a lot make it slower, up to the latest.
        let mut detector = Detector::new(Settings::default(), Duration::ZERO);
        let mut now = 0;
        for number in 1..200 {
            now += if number % 2 == 0 { 20 } else { 1_100 };
            detector.renewed(1, number, millis(now));
        }
        others_agree(&mut detector, now, now + 2_000);
        assert!(!is_suspect(&detector, now + 1_599));
        assert!(is_suspect(&detector, now + 1_600));
    }

    #[test]
    fn a_region_that_is_heard_and_hears_nothing_is_suspected() {
        let mut detector = steady(Watch::Mixed, 8_000);
        for at in (8_400..=9_600).step_by(400) {
            detector.renewed(1, 20, millis(at));
            detector.heard(millis(at));
        }
        let (renewal, _, told) = evidence(&detector, 9_600);
        assert_eq!(renewal, 20);
        assert!(told.contains("has not heard the answers"), "{told}");
    }

    #[test]
    fn time_without_a_quorum_counts_for_nobody() {
        let mut detector = steady(Watch::Mixed, 8_000);
        assert!(!is_suspect(&detector, 60_000), "nothing was agreed on at all");
        others_agree(&mut detector, 60_000, 60_600);
        assert!(!is_suspect(&detector, 60_600), "it may renew at once");
        others_agree(&mut detector, 60_800, 60_800);
        assert!(is_suspect(&detector, 60_800));
    }

    #[test]
    fn who_comes_back_must_be_steady_before_a_suspicion_is_taken_back() {
        let mut detector = steady(Watch::Passive, 8_000);
        others_agree(&mut detector, 8_000, 10_000);
        assert_eq!(evidence(&detector, 10_000).0, 20);
        detector.renewed(1, 22, millis(10_000));
        for (number, at) in [(23, 10_400), (24, 10_800)] {
            assert_eq!(detector.verdict(millis(at)), Verdict::Unsteady);
            detector.renewed(1, number, millis(at));
        }
        assert_eq!(detector.verdict(millis(11_100)), Verdict::Unsteady);
        detector.renewed(1, 25, millis(11_200));
        assert_eq!(detector.verdict(millis(11_200)), Verdict::Alive);
    }

    #[test]
    fn probes_and_links_that_are_silent_together_outweigh_renewals() {
        let renew = |detector: &mut Detector, from: u64, until: u64| {
            for at in (from..=until).step_by(400) {
                detector.renewed(1, at / 400, millis(at));
                detector.failed("connection refused");
            }
        };
        let mut mixed = steady(Watch::Mixed, 8_000);
        renew(&mut mixed, 8_400, 12_400);
        assert!(!is_suspect(&mixed, 12_400));
        renew(&mut mixed, 12_800, 12_800);
        let (renewal, outlives, told) = evidence(&mixed, 12_800);
        assert_eq!((renewal, outlives), (32, OUTLIVES));
        assert!(told.contains("12 probes failed: connection refused"), "{told}");
        mixed.heard(millis(12_800));
        assert!(!is_suspect(&mixed, 12_800), "its links are alive");

        let mut active = steady(Watch::Active, 8_000);
        renew(&mut active, 8_400, 9_200);
        assert!(is_suspect(&active, 9_600));
        let mut passive = steady(Watch::Passive, 8_000);
        renew(&mut passive, 8_400, 12_800);
        assert!(!is_suspect(&passive, 12_800));
    }

    #[test]
    fn a_new_run_is_a_sign_of_life() {
        let mut detector = steady(Watch::Passive, 8_000);
        others_agree(&mut detector, 8_000, 9_000);
        detector.renewed(2, 0, millis(9_000));
        detector.renewed(1, 90, millis(9_100));
        others_agree(&mut detector, 9_200, 12_000);
        let Verdict::Suspect { run, renewal, .. } = detector.verdict(millis(10_600)) else {
            panic!("it renewed once and never again")
        };
        assert_eq!((run, renewal), (2, 0));
    }

    proptest! {
        #[test]
        fn nobody_is_suspected_too_early_or_too_late(
            waits in proptest::collection::vec(1..1_000_u64, 0..300),
            silence in 0..4_000_u64,
        ) {
            let settings = Settings { watch: Watch::Passive, ..Settings::default() };
            let mut detector = Detector::new(settings, Duration::ZERO);
            let mut now = 0;
            for (number, wait) in waits.iter().enumerate() {
                now += wait;
                detector.renewed(1, number as u64 + 1, millis(now));
                prop_assert!(!is_suspect(&detector, now), "no wait was too long");
            }
            others_agree(&mut detector, now, now + silence);
            let suspect = is_suspect(&detector, now + silence);
            prop_assert!(!suspect || silence >= 1_000);
            prop_assert!(suspect || silence < 1_600);
        }
    }
}
