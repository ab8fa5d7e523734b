//! Watching the other regions: which leases are surely over, and who seems to be gone.
//!
//! A voter sees the others by what the quorum decides, by what their links bring and by the
//! answers to its probes; each is judged by a detector of its own (`detect.rs`), and what there is
//! to say of it is proposed to the quorum.
//!
//! What must hold: probes take no more bytes than they may, and a probe is sent to nobody who has
//! [`UNDER_WAY_MAX`] of them to answer.

mod bytes;
mod told;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use self::bytes::{Budget, Meter};
pub use self::told::{Figures, News, RegionFigures};
use crate::agreed::{Agreed, Command};
use crate::detect::{Detection, Detector, Settings, Verdict};
use crate::lease::OthersLeases;

/// Bytes that a probe and its answer take on the way, with all that carries them: counted in
/// packets of a test where nothing else was said, and rounded up.
pub const PROBE_BYTES: u32 = 640;
/// Probes of one region that wait for an answer at once.
pub const UNDER_WAY_MAX: u32 = 8;
/// Times to detect that are kept.
const DETECTIONS_KEPT: usize = 100;

/// What a voter has seen of the others. Moments are of one clock that goes on during sleep.
#[derive(Debug)]
pub struct Watch {
    own: String,
    settings: Settings,
    leases: OthersLeases,
    seen: BTreeMap<String, Seen>,
    budget: Budget,
    /// Bytes of probes that were sent and of those that were answered here.
    probe_bytes: Meter,
    /// What the voters say to each other to agree: renewals above all, when nothing is changed.
    quorum_bytes: Meter,
    /// How long regions had been silent when they were suspected here, the newest last.
    detections: VecDeque<Duration>,
    detections_count: u64,
}

#[derive(Debug)]
struct Seen {
    run: u64,
    renewal: u64,
    suspended_at: u64,
    detector: Detector,
    /// When it was last probed, and how many probes have not ended.
    probed_at: Option<Duration>,
    under_way: u32,
    /// Whether it was said that it is suspected.
    is_suspected: bool,
}

impl Watch {
    /// A voter that has seen nothing.
    pub fn new(own: &str, settings: Settings, now: Duration) -> Watch {
        Watch {
            own: own.to_owned(),
            settings,
            leases: OthersLeases::new(now),
            seen: BTreeMap::new(),
            budget: Budget::new(settings.probe_bytes_per_second_max, now),
            probe_bytes: Meter::new(now),
            quorum_bytes: Meter::new(now),
            detections: VecDeque::new(),
            detections_count: 0,
        }
    }

    /// Takes note of what is agreed on by now, which is more than before.
    pub fn saw(&mut self, agreed: &Agreed, now: Duration) {
        for (name, standing) in &agreed.regions {
            let lease = Duration::from_millis(standing.lease_millis);
            self.leases.saw(name, standing.run, standing.renewal, lease, now);
            let seen = self.seen.entry(name.clone()).or_insert_with(|| Seen {
                run: 0,
                renewal: 0,
                suspended_at: standing.suspended_at,
                detector: Detector::new(self.settings, now),
                probed_at: None,
                under_way: 0,
                is_suspected: false,
            });
            if standing.suspended || seen.suspended_at != standing.suspended_at {
                // When it is back, it is observed anew.
                seen.suspended_at = standing.suspended_at;
                seen.detector = Detector::new(self.settings, now);
            }
            let newest = (standing.run, standing.renewal);
            if (seen.run, seen.renewal) == newest {
                seen.detector.agreed(now);
            } else {
                (seen.run, seen.renewal) = newest;
                seen.detector.renewed(standing.run, standing.healthy_renewal, now);
            }
        }
        for name in self.seen.keys().filter(|name| !agreed.regions.contains_key(*name)) {
            self.leases.forget(name);
        }
        self.seen.retain(|name, _| agreed.regions.contains_key(name));
    }

    /// A frame of a region arrived then, and since when a link waits for an answer of it.
    pub fn heard(&mut self, region: &str, at: Option<Duration>, awaits_since: Option<Duration>) {
        if let Some(seen) = self.seen.get_mut(region) {
            if let Some(at) = at {
                seen.detector.heard(at);
            }
            seen.detector.awaits(awaits_since);
        }
    }

    /// The regions to probe now. They count as probed: [`Watch::answered`] or [`Watch::failed`]
    /// must follow.
    pub fn to_probe(&mut self, agreed: &Agreed, now: Duration) -> Vec<String> {
        let is_judged = |name: &str| name != self.own && !agreed.is_suspended(name);
        let mut due: Vec<(&String, &mut Seen)> = self
            .seen
            .iter_mut()
            .filter(|(name, _)| is_judged(name))
            .filter(|(_, seen)| seen.under_way < UNDER_WAY_MAX)
            .filter(|(_, seen)| seen.is_due(&self.settings, now))
            .collect();
        // Where there are too few bytes for all, each has its turn.
        due.sort_by_key(|(_, seen)| seen.probed_at);
        let mut probed = Vec::new();
        for (name, seen) in due {
            if !self.budget.take(PROBE_BYTES, now) {
                break;
            }
            self.probe_bytes.add(PROBE_BYTES.into(), now);
            seen.probed_at = Some(now);
            seen.under_way += 1;
            seen.detector.probed();
            probed.push(name.clone());
        }
        probed
    }

    /// A probe that was sent then was answered, by a region that is well.
    pub fn answered(&mut self, region: &str, sent: Duration, now: Duration) {
        if let Some(seen) = self.seen.get_mut(region) {
            seen.under_way = seen.under_way.saturating_sub(1);
            seen.detector.answered(now.saturating_sub(sent), now);
        }
    }

    /// A probe had no answer, or one that says that the region is not well.
    pub fn failed(&mut self, region: &str, error: &str) {
        if let Some(seen) = self.seen.get_mut(region) {
            seen.under_way = seen.under_way.saturating_sub(1);
            seen.detector.failed(error);
        }
    }

    /// A stream to a region has ended or could not be opened.
    pub fn lost(&mut self, region: &str, error: &str) {
        if let Some(seen) = self.seen.get_mut(region) {
            seen.detector.failed(error);
        }
    }

    /// A region has probed this one; so long ago it had heard this one, if it ever did.
    pub fn asked(&mut self, region: &str, heard_ago: Option<Duration>, now: Duration) {
        self.probe_bytes.add(PROBE_BYTES.into(), now);
        let hears = heard_ago.is_some_and(|ago| ago <= self.settings.earliest);
        if let Some(seen) = self.seen.get_mut(region).filter(|_| hears) {
            seen.detector.asked(now);
        }
    }

    /// How long ago a region was heard without the quorum.
    pub fn heard_ago(&self, region: &str, now: Duration) -> Option<Duration> {
        let told = self.seen.get(region)?.detector.told(now);
        [told.frame, told.answer, told.question].into_iter().flatten().min()
    }

    /// The voters have said so many bytes to each other through this one.
    pub fn agreed_by_bytes(&mut self, bytes: u64, now: Duration) {
        self.quorum_bytes.add(bytes, now);
    }

    /// Whether no lease of a region, of which the suspension was seen, is valid any more.
    pub fn is_over(&self, region: &str, now: Duration) -> bool {
        self.leases.is_surely_over(region, now)
    }

    /// Whether another region renews as it should.
    pub fn is_another_well(&self, agreed: &Agreed, now: Duration) -> bool {
        self.seen.keys().any(|name| *name != self.own && self.is_well(agreed, name, now))
    }

    /// Whether another region renews as it should: it could take over.
    pub fn is_well(&self, agreed: &Agreed, region: &str, now: Duration) -> bool {
        self.seen.get(region).is_some_and(|seen| {
            let since = now.saturating_sub(seen.detector.last_renewal());
            !agreed.is_suspended(region) && since < self.settings.earliest
        })
    }

    /// Whether another region that does well would take over a table that this one writes, without
    /// a person's word.
    pub fn would_be_relieved(&self, agreed: &Agreed, now: Duration) -> bool {
        let mut written = agreed.tables.values().filter(|it| it.writer == self.own && it.automatic);
        written.any(|tenure| {
            let mut others = tenure.replicas.iter().filter(|region| **region != self.own);
            others.any(|region| self.is_well(agreed, region, now))
        })
    }

    /// What this voter has to say of regions that seem to be gone, and of those that do not any
    /// more.
    pub fn words(&self, agreed: &Agreed, now: Duration, at_millis: u64) -> Vec<Command> {
        let mut words = Vec::new();
        for (name, standing) in agreed.regions.iter().filter(|(name, _)| self.judges(agreed, name))
        {
            let Some(seen) = self.seen.get(name) else { continue };
            let said = standing.suspicions.get(&self.own);
            let (by, region) = (self.own.clone(), name.clone());
            match seen.detector.verdict(now) {
                Verdict::Suspect { run, renewal, outlives, evidence, .. } => {
                    if said.is_none_or(|word| word.renewal < renewal) {
                        words.push(Command::Suspect {
                            by,
                            region,
                            run,
                            renewal,
                            outlives,
                            evidence,
                            at_millis,
                        });
                    }
                }
                Verdict::Alive if said.is_some() => words.push(Command::Unsuspect { by, region }),
                Verdict::Alive | Verdict::Unsteady => {}
            }
        }
        words
    }

    fn judges(&self, agreed: &Agreed, name: &str) -> bool {
        name != self.own && !agreed.is_suspended(name)
    }
}

impl Seen {
    fn is_due(&self, settings: &Settings, now: Duration) -> bool {
        let is_over = |at: Duration| now.saturating_sub(at) >= settings.probe_every;
        let is_time = self.probed_at.is_none_or(is_over);
        match settings.detection {
            Detection::Passive => false,
            Detection::Active => is_time,
            Detection::Mixed => is_time && is_over(self.detector.last_sign()),
        }
    }
}

#[cfg(test)]
mod tests;
