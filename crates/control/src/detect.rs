//! Whether another region seems to be gone, as one region sees it.
//!
//! What arrives by itself is the region's renewals, as they are applied, and frames of its links;
//! what is asked for is answers to probes. A renewal is healthy if the region knew of a newer one
//! that was accepted: a region that is heard and hears nothing renews and never learns of it. An
//! answer proves both ways, and so does a probe that says that its answers arrive. The longer the
//! silence is, compared with what was usual, the surer is its meaning (phi, by the distribution of
//! the times between arrivals), within bounds. A link that has nothing to say is no sign of
//! anything: its silence counts only while an answer is owed. Time in which nothing at all is
//! agreed on counts for nobody: then the quorum is gone, or this region is.
//!
//! One suspicion decides nothing: see [`crate::agreed::SUSPICIONS_NEEDED`]. Pure: moments are
//! handed in, of the monotonic clock of the region that observes.

mod arrivals;
mod evidence;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::arrivals::Arrivals;
pub use self::evidence::Heard;

/// Renewals or answers that must be missing.
const MISSING_MIN: u32 = 3;
/// Times the longest wait for renewals that probes and links must be silent.
const SILENCE_TIMES: u32 = 3;
/// What is told of an error at most: the words of all who suspect a region stand side by side.
const ERROR_CHARS_MAX: usize = 60;
/// Healthy renewals that a suspicion may outlive which was raised in spite of them.
pub const OUTLIVES: u64 = 25;

/// By what a region is held to be gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Detection {
    /// By its renewals, and by answers that its links owe. Nothing is sent for it.
    Passive,
    /// By probes, at even times.
    Active,
    /// By its renewals, or by links and probes that are silent together. A probe is sent only
    /// where links are silent.
    #[default]
    Mixed,
}

impl Detection {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Detection::Passive => "passive",
            Detection::Active => "active",
            Detection::Mixed => "mixed",
        }
    }
}

/// How regions are observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// By what.
    pub detection: Detection,
    /// How often regions renew.
    pub renew_every: Duration,
    /// How often a region is probed that is not heard otherwise.
    pub probe_every: Duration,
    /// It is not suspected sooner after the last sign of life.
    pub earliest: Duration,
    /// It is suspected when there was none for so long.
    pub latest: Duration,
    /// What times between arrivals vary by at least.
    pub sigma_min: Duration,
    /// Bytes that the probes of one voter may take in a second, to all regions, with their answers.
    pub probe_bytes_per_second_max: u32,
}

/// Bytes that probes may take in a second, unless set otherwise.
pub const PROBE_BYTES_PER_SECOND_MAX: u32 = 64 * 1024;
/// Leases are renewed so often in the time of one.
const RENEWALS_IN_LEASE: u32 = 5;

impl Settings {
    /// What fits leases of that length.
    pub fn of_lease(lease: Duration) -> Settings {
        Settings {
            detection: Detection::Mixed,
            renew_every: lease / RENEWALS_IN_LEASE,
            probe_every: lease / RENEWALS_IN_LEASE,
            earliest: lease / 2,
            latest: lease * 4 / 5,
            sigma_min: Duration::from_millis(50),
            probe_bytes_per_second_max: PROBE_BYTES_PER_SECOND_MAX,
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
        /// For how long what speaks against it was silent.
        silence: Duration,
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
    /// What proves that the region lives and is reached without the quorum: answers to probes, and
    /// where links count, their frames and probes of the region that hears this one.
    signs: Arrivals,
    /// The last renewal, healthy or not.
    heard_at: Option<Duration>,
    frame_at: Option<Duration>,
    answer_at: Option<Duration>,
    question_at: Option<Duration>,
    round_trip: Option<Duration>,
    /// Since when a link waits for an answer.
    awaits_since: Option<Duration>,
    last_error: Option<String>,
    /// Probes that were sent since the last sign.
    unanswered: u32,
    /// When anything was last agreed on, and since when that goes on without a gap.
    agreed_at: Duration,
    agreeing_since: Duration,
}

impl Detector {
    /// Begins to observe: the region counts as alive now.
    pub fn new(settings: Settings, now: Duration) -> Detector {
        let bounds = [settings.earliest, settings.latest];
        let arrivals = |every: Duration, apart: Duration| {
            Arrivals::new(every, bounds, settings.sigma_min, apart, now)
        };
        Detector {
            settings,
            run: 0,
            healthy_renewal: 0,
            renewals: arrivals(settings.renew_every, Duration::ZERO),
            signs: arrivals(settings.probe_every, settings.probe_every / 4),
            heard_at: None,
            frame_at: None,
            answer_at: None,
            question_at: None,
            round_trip: None,
            awaits_since: None,
            last_error: None,
            unanswered: 0,
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
            self.renewals.arrived(now, counts);
        }
    }

    /// A frame of one of its links arrived then.
    pub fn heard(&mut self, at: Duration) {
        if self.frame_at >= Some(at) {
            return;
        }
        self.frame_at = Some(at);
        if self.settings.detection != Detection::Active {
            self.sign(at);
        }
    }

    /// Since when a link waits for an answer of it; `None`: none does.
    pub fn awaits(&mut self, since: Option<Duration>) {
        self.awaits_since = since;
    }

    /// It was probed.
    pub fn probed(&mut self) {
        self.unanswered = self.unanswered.saturating_add(1);
    }

    /// A probe of it was answered, which says that it is well.
    pub fn answered(&mut self, round_trip: Duration, now: Duration) {
        self.answer_at = Some(now);
        self.round_trip = Some(round_trip);
        self.sign(now);
    }

    /// It has probed this region, and says that it hears it.
    pub fn asked(&mut self, now: Duration) {
        self.question_at = Some(now);
        if self.settings.detection == Detection::Mixed {
            self.sign(now);
        }
    }

    /// A probe failed, or a connection to it did, or it says that it is not well.
    pub fn failed(&mut self, error: &str) {
        self.last_error = Some(error.chars().take(ERROR_CHARS_MAX).collect());
    }

    fn sign(&mut self, now: Duration) {
        self.unanswered = 0;
        self.last_error = None;
        self.signs.arrived(now, true);
    }

    /// The last sign of life that did not come through the quorum, or the beginning.
    pub fn last_sign(&self) -> Duration {
        self.signs.last()
    }

    /// The last healthy renewal, or the beginning.
    pub fn last_renewal(&self) -> Duration {
        self.renewals.last()
    }

    /// How unusual the silence is by now.
    pub fn phi(&self, now: Duration) -> f64 {
        match self.settings.detection {
            Detection::Active => self.signs.phi(now),
            Detection::Passive | Detection::Mixed => self.renewals.phi(now),
        }
    }

    /// What is thought of it now.
    pub fn verdict(&self, now: Duration) -> Verdict {
        // Time without a quorum speaks against nobody.
        if self.is_agreeing(now) {
            let by_renewals = self.settings.detection != Detection::Active;
            if by_renewals && self.renewals.is_silent(now) {
                let silence = now.saturating_sub(self.renewals.last());
                return self.suspect(0, silence, self.tell_renewals(now));
            }
            if let Some(silence) = self.silence_in_spite_of_renewals(now) {
                return self.suspect(OUTLIVES, silence, self.tell_signs(now));
            }
        }
        let signs = match self.settings.detection {
            Detection::Active => &self.signs,
            Detection::Passive | Detection::Mixed => &self.renewals,
        };
        match signs.is_unsteady() || signs.is_silent(now) {
            true => Verdict::Unsteady,
            false => Verdict::Alive,
        }
    }

    /// For how long all was silent that is not a renewal, if that is too long.
    fn silence_in_spite_of_renewals(&self, now: Duration) -> Option<Duration> {
        let patience = self.settings.latest * SILENCE_TIMES;
        let silence = now.saturating_sub(self.signs.last());
        // A region that had no quorum was not well, and needs time to say that it is.
        let agreeing = now.saturating_sub(self.agreeing_since);
        let are_probes_missing = self.unanswered >= MISSING_MIN && agreeing >= self.settings.latest;
        let is_gone = match self.settings.detection {
            Detection::Active => are_probes_missing && self.signs.is_silent(now),
            Detection::Mixed => are_probes_missing && silence >= patience,
            Detection::Passive => {
                let owed = self.awaits_since.map(|since| now.saturating_sub(since));
                owed.is_some_and(|owed| owed.min(silence) >= patience)
            }
        };
        is_gone.then_some(silence)
    }

    /// Whether others were heard in the quorum for long enough that this region would have been.
    fn is_agreeing(&self, now: Duration) -> bool {
        let two = self.settings.renew_every * 2;
        now.saturating_sub(self.agreed_at) <= two && now.saturating_sub(self.agreeing_since) >= two
    }

    fn suspect(&self, outlives: u64, silence: Duration, evidence: String) -> Verdict {
        let (run, renewal) = (self.run, self.healthy_renewal);
        Verdict::Suspect { run, renewal, outlives, silence, evidence }
    }
}

#[cfg(test)]
mod tests;
