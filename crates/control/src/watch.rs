//! Watching the other regions: which leases are surely over, and who seems to be gone.
//!
//! A voter sees the others by what the quorum decides; each is judged by a detector of its own
//! (`detect.rs`), and what there is to say of it is proposed to the quorum.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::agreed::{Agreed, Command};
use crate::detect::{Detector, Settings, Verdict};
use crate::lease::OthersLeases;

/// Leases are renewed so often in the time of one.
const RENEWALS_IN_LEASE: u32 = 5;

/// What a voter has seen of the others. Moments are of one clock that goes on during sleep.
#[derive(Debug)]
pub struct Watch {
    own: String,
    settings: Settings,
    leases: OthersLeases,
    seen: BTreeMap<String, Seen>,
}

#[derive(Debug)]
struct Seen {
    run: u64,
    renewal: u64,
    suspended_at: u64,
    detector: Detector,
}

impl Watch {
    /// A voter that has seen nothing, in a quorum with leases of that length.
    pub fn new(own: &str, lease: Duration, now: Duration) -> Watch {
        let settings = Settings {
            renew_every: lease / RENEWALS_IN_LEASE,
            earliest: lease / 2,
            latest: lease * 4 / 5,
            ..Settings::default()
        };
        let leases = OthersLeases::new(now);
        Watch { own: own.to_owned(), settings, leases, seen: BTreeMap::new() }
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

    /// A frame of a region arrived.
    pub fn heard(&mut self, region: &str, now: Duration) {
        if let Some(seen) = self.seen.get_mut(region) {
            seen.detector.heard(now);
        }
    }

    /// Whether no lease of a region, of which the suspension was seen, is valid any more.
    pub fn is_over(&self, region: &str, now: Duration) -> bool {
        self.leases.is_surely_over(region, now)
    }

    /// What this voter has to say of regions that seem to be gone, and of those that do not any
    /// more.
    pub fn words(&self, agreed: &Agreed, now: Duration, at_millis: u64) -> Vec<Command> {
        let is_other = |name: &str| name != self.own && !agreed.is_suspended(name);
        let others = agreed.regions.iter().filter(|(name, _)| is_other(name));
        let mut words = Vec::new();
        for (name, standing) in others {
            let Some(seen) = self.seen.get(name) else { continue };
            let said = standing.suspicions.get(&self.own);
            let (by, region) = (self.own.clone(), name.clone());
            match seen.detector.verdict(now) {
                Verdict::Suspect { run, renewal, outlives, evidence } => {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_millis(2000);

    fn at(millis: u64) -> Duration {
        Duration::from_secs(100) + Duration::from_millis(millis)
    }

    fn renew(agreed: &mut Agreed, region: &str, number: u64, acked: u64) {
        let lease_millis = 2000;
        let region = region.to_owned();
        let index = number * 10;
        agreed.apply(
            index,
            &Command::Renew { region, run: 1, number, acked, lease_millis, at_millis: 0 },
        );
    }

    #[test]
    fn a_region_that_is_not_heard_or_does_not_hear_is_suspected() {
        let mut agreed = Agreed::default();
        let mut watch = Watch::new("r1", LEASE, at(0));
        for step in 0..10 {
            renew(&mut agreed, "r1", step + 1, step);
            if step < 3 {
                renew(&mut agreed, "r2", step + 1, step);
            }
            // Heard, and hears nothing.
            renew(&mut agreed, "r3", step + 1, 0);
            watch.saw(&agreed, at(step * 400));
            let words = watch.words(&agreed, at(step * 400), 7);
            assert_eq!(words.is_empty(), step < 4, "{step}: {words:?}");
        }
        let words = watch.words(&agreed, at(3600), 7);
        let named: Vec<&str> = words
            .iter()
            .map(|word| match word {
                Command::Suspect { region, .. } => region.as_str(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(named, ["r2", "r3"]);
        // The last renewal of r2 was seen at 800 ms.
        assert!(!watch.is_over("r2", at(3090)) && watch.is_over("r2", at(3110)));
        assert!(!watch.is_over("r3", at(3600)));
    }

    #[test]
    fn who_is_back_has_time_to_be_heard() {
        let mut agreed = Agreed::default();
        let mut watch = Watch::new("r1", LEASE, at(0));
        renew(&mut agreed, "r2", 1, 0);
        for step in 0..12 {
            renew(&mut agreed, "r1", step + 1, step);
            watch.saw(&agreed, at(step * 400));
        }
        assert_eq!(watch.words(&agreed, at(4400), 7).len(), 1);
        let (region, who, why) = ("r2".to_owned(), "r1".to_owned(), "drill".to_owned());
        agreed.apply(200, &Command::SuspendByHand { region, who, why, at_millis: 7 });
        watch.saw(&agreed, at(4500));
        let (region, who) = ("r2".to_owned(), "r1".to_owned());
        agreed.apply(201, &Command::Release { region, who, at_millis: 7 });
        let (region, run, suspended_at) = ("r2".to_owned(), 1, 200);
        agreed.apply(202, &Command::Rejoin { region, run, suspended_at, at_millis: 7 });
        assert!(!agreed.is_suspended("r2"));
        watch.saw(&agreed, at(4510));
        assert!(watch.words(&agreed, at(4900), 7).is_empty());
    }

    #[test]
    fn nobody_is_judged_while_nothing_is_decided() {
        let mut agreed = Agreed::default();
        let mut watch = Watch::new("r1", LEASE, at(0));
        for step in 0..5 {
            renew(&mut agreed, "r1", step + 1, step);
            renew(&mut agreed, "r2", step + 1, step);
            watch.saw(&agreed, at(step * 400));
        }
        assert!(watch.words(&agreed, at(9000), 7).is_empty());
        renew(&mut agreed, "r1", 6, 5);
        watch.saw(&agreed, at(9000));
        assert!(watch.words(&agreed, at(9100), 7).is_empty(), "it has time to be heard");
        renew(&mut agreed, "r1", 7, 6);
        watch.saw(&agreed, at(9500));
        renew(&mut agreed, "r1", 8, 7);
        watch.saw(&agreed, at(9900));
        assert_eq!(watch.words(&agreed, at(9900), 7).len(), 1);
    }
}
