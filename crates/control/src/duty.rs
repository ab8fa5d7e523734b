//! What a region has to do for a table next, by what is agreed on: pure, so that the simulator and
//! the server do the same.
//!
//! Each duty may be done twice and after any crash: what is there then is looked at again.

use crate::agreed::{Agreed, How, Tenure, Vacancy};
use crate::global_table::{GlobalTable, Serve};

/// How a table stands in a region.
#[derive(Clone, Copy, Debug)]
pub struct Stand<'a> {
    /// The region.
    pub own: &'a str,
    /// The record as it is known there.
    pub record: &'a GlobalTable,
    /// The epoch that the newest opening in its log began.
    pub log_epoch: u64,
    /// The last entry of its log; durable.
    pub end: u64,
    /// Nothing of an older epoch than this is taken there.
    pub sealed: u64,
    /// Clients may write there, as far as its log tells.
    pub accepts: bool,
    /// Whom its log names to open the next epoch, if it ends with that.
    pub successor: Option<&'a str>,
    /// Where it writes: other regions that hold a write there before it is answered, and all that
    /// was answered before.
    pub held_by: u8,
    /// It has all of the table: it is not being copied, and its disk is not an old one.
    pub is_whole: bool,
    /// It holds its own lease.
    pub is_leased: bool,
    /// All leases that the next writer must outlast are surely over.
    pub are_leases_over: bool,
    /// The vacancy, if there is one, has been seen there for long enough.
    pub has_waited: bool,
}

/// What a region has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Duty {
    /// Propose that the table be known to the quorum as its record says.
    Enrol,
    /// Take nothing of an epoch before that one, and accept no writes.
    Seal(u64),
    /// Propose to be the next writer, of that epoch.
    Claim(u64),
    /// Propose that those who have claimed are enough.
    Settle(u64),
    /// Open an epoch that was granted, after that entry.
    Open {
        /// The epoch.
        epoch: u64,
        /// The LSN of the last entry before it.
        after: u64,
    },
    /// Seal the table beyond an epoch that was granted, and propose that another one write.
    Resign(u64),
    /// Set aside what lies after that entry, and take a copy of the table.
    SetAside {
        /// The LSN of the last entry that stays.
        after: u64,
    },
    /// Take into the record who writes.
    Follow,
    /// Keep the record in place of the region that did and is suspended.
    TakeBase,
}

impl Stand<'_> {
    /// What is to be done next; `None`: nothing for now.
    pub fn duty(&self, agreed: &Agreed) -> Option<Duty> {
        if self.record.serve != Serve::PrimarySecondary {
            return None;
        }
        let Some(tenure) = agreed.tenure(self.record.table) else {
            return self.may_enrol().then_some(Duty::Enrol);
        };
        match &tenure.vacant {
            Some(vacancy) => self.duty_in_vacancy(tenure, vacancy),
            None => self.duty_in_tenure(agreed, tenure),
        }
    }

    fn duty_in_vacancy(&self, tenure: &Tenure, vacancy: &Vacancy) -> Option<Duty> {
        if !tenure.has_replica(self.own) {
            return None;
        }
        if self.sealed < vacancy.epoch || self.accepts {
            return Some(Duty::Seal(vacancy.epoch));
        }
        let claimed = vacancy.claims.get(self.own).map(|claim| (claim.log_epoch, claim.lsn));
        let is_claimed = claimed == Some((self.log_epoch, self.end));
        if self.is_whole && self.has_no_tail(tenure) && !is_claimed {
            return Some(Duty::Claim(vacancy.epoch));
        }
        let are_enough = vacancy.claims.len() >= tenure.claims_needed();
        let best = tenure.best_claim().map(|(region, _)| region);
        let needs_no_person = tenure.automatic || best == Some(tenure.writer.as_str());
        let may_settle = self.has_waited && needs_no_person && are_enough;
        may_settle.then_some(Duty::Settle(vacancy.epoch))
    }

    fn duty_in_tenure(&self, agreed: &Agreed, tenure: &Tenure) -> Option<Duty> {
        let is_own = tenure.writer == self.own;
        if tenure.epoch > self.log_epoch {
            let newest = tenure.history.last()?;
            return match (is_own, newest.how) {
                // Its log names this region, which opens the epoch by that.
                (true, How::Enrolled | How::Planned) => None,
                (true, How::Failover) => {
                    self.duty_of_granted(newest.after, newest.log_epoch, tenure.epoch)
                }
                (false, _) => self.duty_of_follower(tenure),
            };
        }
        if tenure.epoch > self.record.epoch {
            return Some(Duty::Follow);
        }
        if !is_own {
            return None;
        }
        if !self.accepts && self.is_stuck(agreed) {
            return Some(Duty::Resign(tenure.epoch));
        }
        if agreed.is_suspended(&self.record.base) {
            return Some(Duty::TakeBase);
        }
        (self.is_stale(tenure) && self.may_enrol()).then_some(Duty::Enrol)
    }

    fn duty_of_granted(&self, after: u64, log_epoch: u64, epoch: u64) -> Option<Duty> {
        if !self.are_leases_over || !self.is_leased {
            return None;
        }
        match (self.end, self.log_epoch) == (after, log_epoch) {
            true => Some(Duty::Open { epoch, after }),
            // The disk is not the one that was spoken of.
            false => Some(Duty::Resign(epoch)),
        }
    }

    fn duty_of_follower(&self, tenure: &Tenure) -> Option<Duty> {
        if self.sealed < tenure.epoch || self.accepts {
            return Some(Duty::Seal(tenure.epoch));
        }
        if self.is_whole && !self.has_no_tail(tenure) {
            // Where that is not known any more, all that the log still has.
            let after = tenure.agrees_through(self.log_epoch, self.end).unwrap_or(0);
            return Some(Duty::SetAside { after });
        }
        (tenure.epoch > self.record.epoch).then_some(Duty::Follow)
    }

    /// Whether nobody will go on in the epoch that this region holds and does not write in: it was
    /// sealed, or has handed over to a region that is suspended.
    fn is_stuck(&self, agreed: &Agreed) -> bool {
        match self.successor {
            Some(successor) => agreed.is_suspended(successor),
            None => self.is_whole,
        }
    }

    /// Whether all of the log is part of that which the newest epoch goes on from.
    fn has_no_tail(&self, tenure: &Tenure) -> bool {
        has_no_tail(tenure, self.log_epoch, self.end)
    }

    fn may_enrol(&self) -> bool {
        self.accepts && self.record.primary() == self.own && self.record.epoch == self.log_epoch
    }

    /// Whether what is agreed on is not what the record says.
    fn is_stale(&self, tenure: &Tenure) -> bool {
        tenure.replicas != self.record.whole_replicas()
            || tenure.held_by != self.held_by
            || tenure.automatic != self.record.fails_over_by_itself(self.held_by)
    }
}

/// Whether all of a log is part of that which the newest granted epoch goes on from.
pub fn has_no_tail(tenure: &Tenure, log_epoch: u64, end: u64) -> bool {
    tenure.agrees_through(log_epoch, end).is_some_and(|through| through >= end)
}

/// A region that wants to feed a table to another one.
#[derive(Clone, Copy, Debug)]
pub struct Feeding<'a> {
    /// The region that wants to.
    pub origin: &'a str,
    /// The epoch that it obeys.
    pub epoch: u64,
    /// Regions pass on what they were given.
    pub passes_on: bool,
    /// The region that is to be fed.
    pub own: &'a str,
    /// That one has all of the table.
    pub is_whole: bool,
    /// The epoch of the newest entry there.
    pub log_epoch: u64,
    /// The end of the log there.
    pub end: u64,
    /// Whoever writes by that log does not accept writes any more.
    pub is_sealed: bool,
}

impl Feeding<'_> {
    /// Whether it may: not while nobody knows who writes next, not in an epoch that is not known
    /// there yet, not beside entries that the epoch does not go on from, and not what a region may
    /// hold that the epoch does not go on from: that obeys the epoch, too, once it is back, and
    /// has a tail.
    pub fn is_right(&self, tenure: &Tenure) -> bool {
        let opens = tenure.history.last().is_some_and(|newest| {
            newest.how == How::Failover && newest.epoch == self.epoch && self.log_epoch < self.epoch
        });
        let may_be_tail = match tenure.writer == self.own {
            true => opens,
            false => opens && !self.passes_on && tenure.writer != self.origin,
        };
        tenure.vacant.is_none()
            && self.epoch <= tenure.epoch
            && self.is_sealed
            && !may_be_tail
            && (!self.is_whole || has_no_tail(tenure, self.log_epoch, self.end))
    }
}

impl GlobalTable {
    /// The replicas that take all of the table, the one that writes among them.
    pub fn whole_replicas(&self) -> Vec<String> {
        let whole = self.replicas.iter().filter(|replica| replica.extract.is_none());
        whole.map(|replica| replica.region.clone()).collect()
    }

    /// Other regions that hold a write before it is answered.
    pub fn held_by(&self) -> u8 {
        self.semi_sync().map_or(0, |terms| terms.held_by)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agreed::{Command, Outcome};
    use crate::global_table::{Progress, Sync};

    fn table() -> GlobalTable {
        let mut table = GlobalTable::new("t", 1, "r1", Sync::Row, Serve::PrimarySecondary);
        for region in ["r2", "r3"] {
            table = table.with_replica(region, false, 0).unwrap();
            table.advance(region, Progress::Active, 1).unwrap();
        }
        table
    }

    fn stand<'a>(own: &'a str, record: &'a GlobalTable) -> Stand<'a> {
        Stand {
            own,
            record,
            log_epoch: 1,
            end: 10,
            sealed: 1,
            accepts: own == record.primary(),
            successor: None,
            held_by: 0,
            is_whole: true,
            is_leased: true,
            are_leases_over: true,
            has_waited: false,
        }
    }

    /// Three regions of which the first writes, under a quorum.
    fn enrolled(record: &GlobalTable) -> Agreed {
        let mut agreed = Agreed::default();
        for (place, region) in (1_u64..).zip(["r1", "r2", "r3"]) {
            let region = region.to_owned();
            let (run, number, acked, lease_millis, at_millis) = (1, 1, 0, 2000, 0);
            let renew = Command::Renew { region, run, number, acked, lease_millis, at_millis };
            assert_eq!(agreed.apply(place, &renew), Outcome::Done);
        }
        assert_eq!(stand("r1", record).duty(&agreed), Some(Duty::Enrol));
        assert_eq!(stand("r2", record).duty(&agreed), None);
        let enrol = Command::Enrol {
            table: 1,
            name: "t".to_owned(),
            epoch: 1,
            writer: "r1".to_owned(),
            replicas: record.whole_replicas(),
            held_by: 0,
            automatic: false,
            version: record.version,
            at_millis: 0,
        };
        assert_eq!(agreed.apply(9, &enrol), Outcome::Done);
        assert_eq!(stand("r1", record).duty(&agreed), None);
        agreed
    }

    fn suspend(agreed: &mut Agreed, region: &str) {
        let (region, who) = (region.to_owned(), "a person".to_owned());
        let why = "drill".to_owned();
        let suspend = Command::SuspendByHand { region, who, why, at_millis: 0 };
        assert_eq!(agreed.apply(20, &suspend), Outcome::Done);
    }

    fn claim(agreed: &mut Agreed, region: &str, lsn: u64) {
        let region = region.to_owned();
        let (table, epoch, log_epoch, known_end, at_millis) = (1, 2, 1, lsn, 0);
        let claim = Command::Claim { table, region, epoch, log_epoch, lsn, known_end, at_millis };
        assert_eq!(agreed.apply(30, &claim), Outcome::Done);
    }

    #[test]
    fn replicas_seal_then_claim_and_the_granted_one_opens() {
        let record = table();
        let mut agreed = enrolled(&record);
        suspend(&mut agreed, "r1");
        let second = stand("r2", &record);
        assert_eq!(second.duty(&agreed), Some(Duty::Seal(2)));
        let sealed = Stand { sealed: 2, ..second };
        assert_eq!(sealed.duty(&agreed), Some(Duty::Claim(2)));
        assert_eq!(Stand { is_whole: false, ..sealed }.duty(&agreed), None);
        claim(&mut agreed, "r2", 10);
        claim(&mut agreed, "r3", 8);
        assert_eq!(sealed.duty(&agreed), None, "a person decides");
        let waited = Stand { has_waited: true, ..sealed };
        assert_eq!(waited.duty(&agreed), None, "however long it takes");
        let (who, region) = ("a person".to_owned(), "r2".to_owned());
        let decide = Command::Decide { table: 1, epoch: 2, region, who, at_millis: 0 };
        assert!(!matches!(agreed.apply(40, &decide), Outcome::Refused(_)));
        assert_eq!(sealed.duty(&agreed), Some(Duty::Open { epoch: 2, after: 10 }));
        assert_eq!(Stand { are_leases_over: false, ..sealed }.duty(&agreed), None);
        assert_eq!(Stand { is_leased: false, ..sealed }.duty(&agreed), None);
        assert_eq!(Stand { end: 9, ..sealed }.duty(&agreed), Some(Duty::Resign(2)));
    }

    #[test]
    fn who_comes_back_with_a_tail_sets_it_aside_and_follows() {
        let record = table();
        let mut agreed = enrolled(&record);
        suspend(&mut agreed, "r1");
        claim(&mut agreed, "r2", 10);
        let (who, region) = ("a person".to_owned(), "r2".to_owned());
        let decide = Command::Decide { table: 1, epoch: 2, region, who, at_millis: 0 };
        agreed.apply(40, &decide);
        let back = Stand { end: 12, ..stand("r1", &record) };
        assert_eq!(back.duty(&agreed), Some(Duty::Seal(2)));
        let sealed = Stand { sealed: 2, accepts: false, ..back };
        assert_eq!(sealed.duty(&agreed), Some(Duty::SetAside { after: 10 }));
        assert_eq!(Stand { is_whole: false, ..sealed }.duty(&agreed), Some(Duty::Follow));
        assert_eq!(Stand { end: 10, ..sealed }.duty(&agreed), Some(Duty::Follow));
        let tenure = agreed.tenure(1).unwrap();
        let fed = Feeding {
            origin: "r2",
            epoch: 2,
            passes_on: false,
            own: "r3",
            is_whole: true,
            log_epoch: 1,
            end: 10,
            is_sealed: true,
        };
        assert!(fed.is_right(tenure));
        assert!(!Feeding { end: 12, ..fed }.is_right(tenure), "not beside its tail");
        assert!(Feeding { end: 12, is_whole: false, ..fed }.is_right(tenure));
        assert!(!Feeding { is_sealed: false, ..fed }.is_right(tenure), "not before it is sealed");
        assert!(!Feeding { epoch: 3, ..fed }.is_right(tenure), "not under what is not known");
        // The one that wrote before obeys the new epoch, and holds more than that goes on from.
        let back = Feeding { origin: "r1", ..fed };
        assert!(!back.is_right(tenure), "its tail is given to nobody");
        assert!(Feeding { passes_on: true, ..back }.is_right(tenure), "it may pass on r2's");
        let granted = Feeding { own: "r2", passes_on: true, ..back };
        assert!(!granted.is_right(tenure), "nor to the one that is about to open the epoch");
        assert!(Feeding { log_epoch: 2, ..back }.is_right(tenure));
        let mut followed = record.clone();
        followed.follow_writer(2, "r2");
        let writes =
            Stand { log_epoch: 2, sealed: 2, end: 11, accepts: true, ..stand("r2", &followed) };
        assert_eq!(writes.duty(&agreed), Some(Duty::TakeBase));
    }

    #[test]
    fn who_has_handed_over_to_a_lost_region_resigns() {
        let record = table();
        let mut agreed = enrolled(&record);
        let handed_over = Stand { accepts: false, successor: Some("r2"), ..stand("r1", &record) };
        assert_eq!(handed_over.duty(&agreed), None);
        suspend(&mut agreed, "r2");
        assert_eq!(handed_over.duty(&agreed), Some(Duty::Resign(1)));
    }
}
