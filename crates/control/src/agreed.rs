//! What the regions agree on through a quorum: who holds a lease, who writes which table.
//!
//! Pure and deterministic: regions that apply the same commands in the same order hold the same.
//! What must always hold: one region at most is granted an epoch of a table, epochs grow, a
//! suspended region is granted nothing, and a command that is refused changes nothing.
//!
//! Not decided here is when an old lease has run out ([`crate::lease`]) and whether a
//! region seems to be gone ([`crate::detect`]). A region acknowledges a write only while its lease
//! is valid, the table accepts writes there in the epoch that it was granted, and, since the start
//! of its process, it has seen that it still holds that epoch ([`Agreed::may_write`]). One that
//! sees a vacancy first seals its table for the coming epoch and then claims it.

mod apply;
mod command;

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

pub use command::{Command, Outcome, Refusal};

/// Regions that are known at most.
pub const REGIONS_MAX: usize = 32;
/// Tables under the quorum at most.
pub const TABLES_MAX: usize = 10_000;
/// Elements of the audit that are kept here.
pub const AUDIT_MAX: usize = 1_000;
/// Openings of one table that are kept.
pub const HISTORY_MAX: usize = 64;
/// Other regions that must suspect a region.
pub const SUSPICIONS_NEEDED: usize = 2;
/// Bytes of a name at most.
pub const NAME_BYTES_MAX: usize = 255;
/// Bytes of what people read; more is cut off.
pub const TEXT_BYTES_MAX: usize = 400;
/// Healthy renewals that a suspicion may outlive at most.
pub const OUTLIVES_MAX: u64 = 50;
/// How long a lease may be, in milliseconds.
pub const LEASE_MILLIS: std::ops::RangeInclusive<u64> = 100..=60_000;
/// Tables that were taken out and whose old records are still known as such.
const LEFT_MAX: usize = 1_000;

/// All that is agreed on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreed {
    /// By name.
    pub regions: BTreeMap<String, Standing>,
    /// By id.
    pub tables: BTreeMap<u64, Tenure>,
    /// What has changed and why, the newest last.
    pub audit: VecDeque<Audited>,
    /// Tables taken out, with the version that said so.
    left: VecDeque<(u64, u64)>,
}

/// How a region stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Names its newest process.
    pub run: u64,
    /// The number of its newest accepted renewal.
    pub renewal: u64,
    /// The index of that.
    pub renewed_at: u64,
    /// The newest renewal that it knew to be accepted: it hears as well as it is heard.
    pub healthy_renewal: u64,
    /// How long its lease is.
    pub lease_millis: u64,
    /// It may not renew, and holds no table.
    pub suspended: bool,
    /// The index of its newest suspension; 0: none yet.
    pub suspended_at: u64,
    /// A person has suspended it and not released it.
    pub by_hand: bool,
    /// Who holds it to be gone.
    pub suspicions: BTreeMap<String, Suspicion>,
}

/// What one region says of another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspicion {
    /// The newest healthy renewal that it had seen.
    pub renewal: u64,
    /// How many may follow before this is void.
    pub outlives: u64,
    /// What it had seen.
    pub evidence: String,
}

/// Who writes a table with one writer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenure {
    /// The table's name, for people.
    pub name: String,
    /// The newest epoch that was granted; its region may not have opened it yet.
    pub epoch: u64,
    /// To whom.
    pub writer: String,
    /// That region holds it no more, and the next epoch waits for who takes over.
    pub vacant: Option<Vacancy>,
    /// Who has all of the table; those first that are preferred.
    pub replicas: Vec<String>,
    /// Other replicas that hold a write before it is acknowledged; 0: none.
    pub held_by: u8,
    /// Whether another region takes over without a person's word.
    pub automatic: bool,
    /// The version of the record that the last three come from.
    pub version: u64,
    /// The newest grants, the newest last.
    pub history: Vec<Opening>,
}

/// A table that nobody may write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vacancy {
    /// The epoch that is to be granted.
    pub epoch: u64,
    /// The index since which it is so.
    pub since_index: u64,
    /// And the time that was told.
    pub since_millis: u64,
    /// What those have who want to take over.
    pub claims: BTreeMap<String, Claim>,
}

/// How much of a table a region has, which has sealed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The epoch of its newest entry. Of two logs that of the later epoch is the more complete one.
    pub log_epoch: u64,
    /// The LSN of it.
    pub lsn: u64,
    /// The newest LSN of the last writer that it has heard of.
    pub known_end: u64,
}

/// An epoch that was granted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    /// The epoch.
    pub epoch: u64,
    /// To whom.
    pub writer: String,
    /// The LSN of the last entry before it.
    pub after: u64,
    /// The epoch of that entry: what it goes on from.
    pub log_epoch: u64,
    /// How it came to that.
    pub how: How,
    /// A person has said that it begins without what replicas that are gone may have prepared.
    #[serde(default)]
    pub accepts_loss: bool,
}

/// How a region came to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// It wrote when the table came under the quorum; what was before is not known here.
    Enrolled,
    /// The one before has handed over.
    Planned,
    /// It took over.
    Failover,
}

/// Something that has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audited {
    /// The index of the command.
    pub index: u64,
    /// When, by the clock of who proposed it.
    pub at_millis: u64,
    /// The region or person that proposed it.
    pub who: String,
    /// What.
    pub what: String,
    /// Why.
    pub why: String,
}

impl Agreed {
    /// Whether a renewal by this run of a region would be accepted now.
    pub fn may_renew(&self, region: &str, run: u64) -> Result<(), Refusal> {
        let Some(standing) = self.regions.get(region) else { return Ok(()) };
        if run < standing.run {
            return Err(Refusal::OldRun { region: region.to_owned(), run: standing.run });
        }
        match (standing.suspended, standing.by_hand) {
            (true, true) => Err(Refusal::SuspendedByHand(region.to_owned())),
            (true, false) => Err(Refusal::Suspended(region.to_owned())),
            (false, _) => Ok(()),
        }
    }

    /// Whether a region holds a table in this epoch, by what is known here. After the start of its
    /// process it must have seen a renewal of this run accepted first.
    pub fn may_write(&self, table: u64, region: &str, epoch: u64) -> Result<(), Refusal> {
        if self.is_suspended(region) {
            return Err(Refusal::Suspended(region.to_owned()));
        }
        let tenure = self.held(table)?;
        match tenure.epoch == epoch && tenure.writer == region {
            true => Ok(()),
            false => Err(tenure.held_otherwise(table)),
        }
    }

    /// Who writes a table, if it is under the quorum.
    pub fn tenure(&self, table: u64) -> Option<&Tenure> {
        self.tables.get(&table)
    }

    /// Whether a region may not renew.
    pub fn is_suspended(&self, region: &str) -> bool {
        self.regions.get(region).is_some_and(|standing| standing.suspended)
    }

    /// Vacant tables that a region may claim; it may have done so already.
    pub fn vacancies_for<'a>(
        &'a self,
        region: &'a str,
    ) -> impl Iterator<Item = (u64, &'a Tenure, &'a Vacancy)> {
        let is_known = self.regions.get(region).is_some_and(|standing| !standing.suspended);
        self.tables
            .iter()
            .filter(move |(_, tenure)| is_known && tenure.has_replica(region))
            .filter_map(|(table, tenure)| Some((*table, tenure, tenure.vacant.as_ref()?)))
    }

    /// Whose leases must surely be over before the region that was granted the epoch of a table
    /// opens it. Whoever has rejoined since has fenced itself and is not waited for.
    pub fn leases_to_outlast(&self, table: u64) -> impl Iterator<Item = &str> {
        let tenure = self.tables.get(&table).filter(|tenure| {
            tenure.history.last().is_some_and(|newest| newest.how == How::Failover)
        });
        let writers: std::collections::BTreeSet<&str> = tenure
            .into_iter()
            .flat_map(|tenure| tenure.history.iter())
            .map(|opening| opening.writer.as_str())
            .collect();
        writers.into_iter().filter(|writer| self.is_suspended(writer))
    }

    /// The tenure of a table that somebody holds.
    fn held(&self, table: u64) -> Result<&Tenure, Refusal> {
        let tenure = self.tables.get(&table).ok_or(Refusal::NoTable(table))?;
        match &tenure.vacant {
            Some(vacancy) => Err(Refusal::Vacant { table, epoch: vacancy.epoch }),
            None => Ok(tenure),
        }
    }
}

impl Tenure {
    /// Whether a region has all of the table.
    pub fn has_replica(&self, region: &str) -> bool {
        self.replicas.iter().any(|replica| replica == region)
    }

    /// Regions that must have claimed the table before one of them is granted it without a
    /// person's word: one of so many holds each write that was acknowledged.
    pub fn claims_needed(&self) -> usize {
        let others = self.replicas.len().saturating_sub(1);
        match usize::from(self.held_by) {
            0 => 1,
            held_by => (others + 1).saturating_sub(held_by).max(1),
        }
    }

    /// Who has claimed the most complete log; of equal ones the preferred region.
    pub fn best_claim(&self) -> Option<(&str, Claim)> {
        let claims = &self.vacant.as_ref()?.claims;
        let mut best: Option<(&str, Claim)> = None;
        for region in &self.replicas {
            let Some(claim) = claims.get(region) else { continue };
            // A table that waits for a person does not change its writer for a tie.
            let is_preferred = !self.automatic && *region == self.writer;
            let is_better = best.is_none_or(|(_, other)| match is_preferred {
                true => claim.reach() >= other.reach(),
                false => claim.reach() > other.reach(),
            });
            if is_better {
                best = Some((region, *claim));
            }
        }
        best
    }

    /// Through which LSN a log, whose newest entry has this epoch and LSN, is part of the log
    /// that the newest granted epoch goes on from; what follows it there is a tail. `None`: it
    /// cannot be told from what is kept, and only a copy helps.
    pub fn agrees_through(&self, log_epoch: u64, lsn: u64) -> Option<u64> {
        let opening = |epoch: u64| self.history.iter().find(|opening| opening.epoch == epoch);
        let oldest = self.history.first()?;
        let is_all_known = oldest.how == How::Enrolled;
        // The epochs that are part of the log, each with the LSN through which it is.
        let mut parts = vec![(self.epoch, u64::MAX)];
        let mut epoch = self.epoch;
        while let Some(next) = opening(epoch).filter(|opening| opening.how != How::Enrolled) {
            epoch = next.log_epoch;
            parts.push((epoch, next.after));
        }
        let (mut epoch, mut through) = (log_epoch, lsn);
        loop {
            if let Some((_, end)) = parts.iter().find(|(part, _)| *part == epoch) {
                return Some(through.min(*end));
            }
            match opening(epoch) {
                Some(opening) if opening.how != How::Enrolled => {
                    epoch = opening.log_epoch;
                    through = through.min(opening.after);
                }
                Some(_) => return None,
                // Before the quorum every writer had handed over.
                None if is_all_known && epoch < oldest.epoch => {
                    return parts.last().map(|(_, end)| through.min(*end));
                }
                None => return None,
            }
        }
    }

    fn held_otherwise(&self, table: u64) -> Refusal {
        Refusal::Held { table, epoch: self.epoch, writer: self.writer.clone() }
    }

    /// The grant of the newest epoch, if it is this region's.
    fn granted_to(&self, region: &str, epoch: u64) -> Option<Outcome> {
        let is_its = self.vacant.is_none() && self.writer == region && self.epoch == epoch;
        let newest = self.history.last().filter(|_| is_its)?;
        (newest.how != How::Enrolled).then_some(Outcome::Granted { epoch, after: newest.after })
    }
}

impl Claim {
    /// Orders logs by how complete they are.
    fn reach(&self) -> (u64, u64) {
        (self.log_epoch, self.lsn)
    }
}

#[cfg(test)]
mod tests;
