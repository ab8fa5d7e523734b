//! What a voter tells of what it has seen: verdicts as they change, and figures.

use std::time::Duration;

use super::{DETECTIONS_KEPT, Watch};
use crate::agreed::Agreed;
use crate::detect::{Heard, Settings, Verdict};

/// A verdict on a region has changed.
#[derive(Clone, Debug, PartialEq)]
pub struct News {
    /// The region.
    pub region: String,
    /// It is suspected now; else it is trusted again.
    pub is_suspected: bool,
    /// What was seen, in words.
    pub evidence: String,
    /// For how long what speaks against it was silent.
    pub silence: Duration,
    /// How unusual that is.
    pub phi: f64,
    /// How it was last heard.
    pub heard: Heard,
    /// Who else says that it is gone.
    pub also_suspected_by: Vec<String>,
}

/// What a voter has seen, at one moment.
#[derive(Clone, Debug)]
pub struct Figures {
    /// How it observes.
    pub settings: Settings,
    /// Bytes of probes in a second, its own and those that it answers, over the last minute.
    pub probe_bytes_per_second: f64,
    /// All of them since it was started.
    pub probe_bytes: u64,
    /// Bytes in a second that voters say to each other through it to agree, renewals among them.
    pub quorum_bytes_per_second: f64,
    /// How many suspicions it has had.
    pub detections: u64,
    /// How long the last region had been silent when it was suspected.
    pub detected_after_last: Option<Duration>,
    /// Half of the last 100 had been silent for less.
    pub detected_after_p50: Option<Duration>,
    /// The others, by name.
    pub regions: Vec<RegionFigures>,
}

/// How another region is seen.
#[derive(Clone, Debug)]
pub struct RegionFigures {
    /// Its name.
    pub region: String,
    /// `suspended`, `suspect`, `unsteady` or `alive`.
    pub verdict: &'static str,
    /// How unusual its silence is.
    pub phi: f64,
    /// How it was last heard.
    pub heard: Heard,
}

impl Watch {
    /// The verdicts that have changed since this was last asked.
    pub fn news(&mut self, agreed: &Agreed, now: Duration) -> Vec<News> {
        let mut news = Vec::new();
        for (name, seen) in &mut self.seen {
            let Some(standing) = agreed.regions.get(name) else { continue };
            if *name == self.own || standing.suspended {
                continue;
            }
            let verdict = seen.detector.verdict(now);
            let heard = seen.detector.told(now);
            let (silence, evidence) = match (verdict, seen.is_suspected) {
                (Verdict::Suspect { silence, evidence, .. }, false) => (silence, evidence),
                (Verdict::Alive, true) => {
                    let last = seen.detector.last_sign().max(seen.detector.last_renewal());
                    (now.saturating_sub(last), seen.detector.tell_alive(now))
                }
                _ => continue,
            };
            seen.is_suspected = !seen.is_suspected;
            if seen.is_suspected {
                self.detections_count += 1;
                self.detections.push_back(silence);
                if self.detections.len() > DETECTIONS_KEPT {
                    self.detections.pop_front();
                }
            }
            let others = standing.suspicions.keys().filter(|by| **by != self.own);
            news.push(News {
                region: name.clone(),
                is_suspected: seen.is_suspected,
                evidence,
                silence,
                phi: seen.detector.phi(now),
                heard,
                also_suspected_by: others.cloned().collect(),
            });
        }
        news
    }

    /// What it has seen and what that has cost.
    pub fn figures(&self, agreed: &Agreed, now: Duration) -> Figures {
        let others = self.seen.iter().filter(|(name, _)| **name != self.own);
        let regions = others.map(|(name, seen)| RegionFigures {
            region: name.clone(),
            verdict: match (agreed.is_suspended(name), seen.detector.verdict(now)) {
                (true, _) => "suspended",
                (false, Verdict::Suspect { .. }) => "suspect",
                (false, Verdict::Unsteady) => "unsteady",
                (false, Verdict::Alive) => "alive",
            },
            phi: seen.detector.phi(now),
            heard: seen.detector.told(now),
        });
        let mut detections: Vec<Duration> = self.detections.iter().copied().collect();
        detections.sort_unstable();
        Figures {
            settings: self.settings,
            probe_bytes_per_second: self.probe_bytes.per_second(now),
            probe_bytes: self.probe_bytes.all(),
            quorum_bytes_per_second: self.quorum_bytes.per_second(now),
            detections: self.detections_count,
            detected_after_last: self.detections.back().copied(),
            detected_after_p50: detections.get(detections.len().saturating_sub(1) / 2).copied(),
            regions: regions.collect(),
        }
    }
}
