//! Whose word counts in a split or merge: what its base believes of what regions tell.
//!
//! A region that was cut off says what was true in its epoch. So each word names the epochs it is
//! of, and counts only while nobody is known to have written since in a newer one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Phase, Reshape};

/// A partition, old or new, as the region knows it that says that all of it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Its number.
    pub number: u32,
    /// The number of its global table.
    pub table: u64,
    /// The epoch that its log is in: that in which an old one has ended.
    pub epoch: u64,
}

/// Who writes the global table of a partition, as somebody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tenant<'a> {
    /// The number of the global table.
    pub table: u64,
    /// The epoch.
    pub epoch: u64,
    /// Who writes in it; `None`: nobody, and a newer one is to be granted.
    pub writer: Option<&'a str>,
}

/// What a region answers that is to fill new partitions no more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {
    /// One of the old partitions has ended in its log.
    pub has_ended: bool,
    /// The old partitions that it writes, and will not end.
    pub keeps: Vec<u32>,
}

impl Reshape {
    /// Whether the new partitions may take the place of the old ones on the word of a region. An
    /// error: what speaks against it.
    pub fn check_filled(
        &self,
        from: &str,
        told: &[Told],
        known: &[Tenant<'_>],
    ) -> Result<(), String> {
        let targets = self.targets.iter().map(|target| target.number);
        for number in self.sources.iter().copied().chain(targets) {
            let Some(told) = told.iter().find(|told| told.number == number) else {
                return Err(format!("region {from} does not tell of partition {number}"));
            };
            for tenant in known.iter().filter(|tenant| tenant.table == told.table) {
                if tenant.epoch > told.epoch {
                    return Err(format!(
                        "region {from} tells of epoch {} of partition {number}, and epoch {} is \
                         known",
                        told.epoch, tenant.epoch
                    ));
                }
                if tenant.writer.is_none() {
                    return Err(format!("nobody writes partition {number} for the moment"));
                }
                let is_current = tenant.epoch == told.epoch && tenant.writer == Some(from);
                if self.has_target(number) && tenant.epoch == told.epoch && !is_current {
                    return Err(format!("region {from} does not write partition {number}"));
                }
            }
        }
        Ok(())
    }

    /// What follows from the answers of regions that were to fill it no more. An error: nothing
    /// yet, since nobody has spoken for one of the old partitions.
    pub fn after_stop(&self, answers: &[Stopped]) -> Result<Phase, String> {
        if answers.iter().any(|answer| answer.has_ended) {
            // What has ended cannot be taken back: then it is finished.
            return Ok(Phase::Filling);
        }
        let is_kept = |number: &u32| answers.iter().any(|answer| answer.keeps.contains(number));
        match self.sources.iter().find(|number| !is_kept(number)) {
            None => Ok(Phase::Removing),
            Some(number) => {
                Err(format!("no region that writes partition {number} says that it goes on"))
            }
        }
    }
}

/// Whether all regions know what a plan is, so that none goes on with old partitions that have
/// ended or takes new ones for what anybody may write. `told`: what each region that has answered
/// says of itself. An error: which one does not.
pub fn check_all_know_plans<'a>(
    told: &BTreeMap<String, bool>,
    mut holders: impl Iterator<Item = &'a String>,
) -> Result<(), String> {
    if let Some((region, _)) = told.iter().find(|(_, knows)| !**knows) {
        return Err(format!(
            "region {region} runs a version that cannot split or merge partitions; upgrade it first"
        ));
    }
    match holders.find(|region| !told.contains_key(*region)) {
        None => Ok(()),
        Some(region) => Err(format!(
            "region {region}, which holds partitions, has not said yet that it can split and \
             merge; try again when it is reached"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Target, Why};
    use super::*;

    fn merge() -> Reshape {
        Reshape {
            sources: vec![0, 1],
            targets: vec![Target { number: 2, from: Default::default() }],
            phase: Phase::Filling,
            why: Why::Asked,
            begun_millis: 0,
            back: Vec::new(),
        }
    }

    fn told(epochs: [u64; 3]) -> Vec<Told> {
        let all = (0..).zip(epochs);
        all.map(|(number, epoch)| Told { number, table: u64::from(number) + 10, epoch }).collect()
    }

    fn tenant(table: u64, epoch: u64, writer: &str) -> Tenant<'_> {
        Tenant { table, epoch, writer: Some(writer) }
    }

    #[test]
    fn a_region_that_was_cut_off_is_not_believed() {
        let check = |known: &[Tenant<'_>]| merge().check_filled("r2", &told([1, 3, 2]), known);
        let now = [tenant(10, 1, "r2"), tenant(11, 3, "r1"), tenant(12, 2, "r2")];
        check(&now).unwrap();
        check(&[]).unwrap();
        // Somebody writes an old one since, which may not have ended there.
        assert!(check(&[now[1], tenant(10, 2, "r3")]).unwrap_err().contains("epoch 2 is known"));
        assert!(check(&[tenant(12, 3, "r3")]).unwrap_err().contains("epoch 3 is known"));
        assert!(check(&[tenant(12, 2, "r3")]).unwrap_err().contains("does not write"));
        let vacant = Tenant { writer: None, ..now[0] };
        assert!(check(&[vacant]).unwrap_err().contains("nobody"));
        // Others have not heard yet that it writes, or speak of a table that was made twice.
        check(&[tenant(12, 1, "r3"), tenant(99, 9, "r3")]).unwrap();
        let silent = merge().check_filled("r2", &told([1, 3, 2])[..2], &[]);
        assert!(silent.unwrap_err().contains("partition 2"));
    }

    #[test]
    fn what_is_given_up_is_spoken_for() {
        let keeps = |keeps: &[u32]| Stopped { has_ended: false, keeps: keeps.to_vec() };
        let ended = Stopped { has_ended: true, keeps: Vec::new() };
        assert_eq!(merge().after_stop(&[keeps(&[0, 1])]), Ok(Phase::Removing));
        assert_eq!(merge().after_stop(&[keeps(&[1]), keeps(&[0])]), Ok(Phase::Removing));
        assert_eq!(merge().after_stop(&[keeps(&[0, 1]), ended]), Ok(Phase::Filling));
        assert!(merge().after_stop(&[keeps(&[0])]).unwrap_err().contains("partition 1"));
        assert!(merge().after_stop(&[]).is_err());
    }

    #[test]
    fn nothing_is_planned_that_a_region_does_not_know() {
        let told = |all: &[(&str, bool)]| {
            let all = all.iter().map(|(region, knows)| ((*region).to_owned(), *knows));
            all.collect::<BTreeMap<String, bool>>()
        };
        let holders = ["r1".to_owned(), "r2".to_owned()];
        let check = |all: &[(&str, bool)]| check_all_know_plans(&told(all), holders.iter());
        check(&[("r1", true), ("r2", true)]).unwrap();
        assert!(check(&[("r1", true)]).unwrap_err().contains("region r2, which holds"));
        let old = check(&[("r1", true), ("r2", true), ("r3", false)]);
        assert!(old.unwrap_err().contains("upgrade"));
    }
}
