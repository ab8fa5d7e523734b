//! Those who decide who writes: leases, suspicion, claims and grants, as `isthmus_control::agreed`
//! has them, of one table each and without faults of their own. That machine is searched by its
//! model.

use std::collections::BTreeMap;

use super::plan::REGIONS;

/// A lease lasts so long, in milliseconds.
pub(super) const LEASE: u64 = 400;
/// A region is suspended when its lease has surely run out.
const MARGIN: u64 = 100;
/// Others are waited for so long before the best of too many claims is taken.
const SETTLE_AFTER: u64 = 50;

/// A region was to write from an epoch on, after that entry of a log whose newest epoch that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) epoch: u64,
    pub(super) writer: usize,
    pub(super) after: u64,
    pub(super) log_epoch: u64,
}

/// Nobody writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Vacancy {
    pub(super) epoch: u64,
    since: u64,
    /// Of each region that may take over, the newest epoch in its log and its end.
    pub(super) claims: BTreeMap<usize, (u64, u64)>,
}

/// What is decided.
#[derive(Clone, Debug)]
pub(super) struct Quorum {
    /// All grants, the newest last.
    history: Vec<Grant>,
    pub(super) vacancy: Option<Vacancy>,
    suspended: [bool; REGIONS],
    heard: [u64; REGIONS],
    /// Other regions that hold a write before it is acknowledged.
    pub(super) held_by: usize,
    /// Of equal claims that of this region is taken.
    prefers: Option<usize>,
}

impl Quorum {
    /// A region writes.
    pub(super) fn new(held_by: usize, writer: usize) -> Quorum {
        Quorum {
            history: vec![Grant { epoch: 1, writer, after: 0, log_epoch: 0 }],
            vacancy: None,
            suspended: [false; REGIONS],
            heard: [0; REGIONS],
            held_by,
            prefers: None,
        }
    }

    /// The newest grant.
    pub(super) fn grant(&self) -> Grant {
        self.history[self.history.len() - 1]
    }

    /// How many epochs were granted.
    pub(super) fn epochs(&self) -> u64 {
        self.history.len() as u64
    }

    /// The region that may write, if there is one.
    pub(super) fn writer(&self) -> Option<usize> {
        self.vacancy.is_none().then(|| self.grant().writer)
    }

    /// A region renews its lease; gives until when, or `None` if it must fence itself first.
    pub(super) fn renew(&mut self, region: usize, now: u64) -> Option<u64> {
        self.heard[region] = now;
        (!self.suspended[region]).then_some(now + LEASE)
    }

    /// A region that has fenced itself comes back.
    pub(super) fn rejoin(&mut self, region: usize) {
        self.suspended[region] = false;
    }

    /// What time brings.
    pub(super) fn tick(&mut self, now: u64) {
        for region in 0..REGIONS {
            let is_over = now > self.heard[region] + LEASE + MARGIN;
            if is_over && !self.suspended[region] {
                self.suspended[region] = true;
                if self.writer() == Some(region) {
                    self.vacate(now);
                }
            }
        }
        let Some(vacancy) = &self.vacancy else { return };
        let needed = match self.held_by {
            0 => 1,
            held_by => REGIONS - held_by,
        };
        let is_preferred = |region: &usize| Some(*region) == self.prefers;
        let best =
            vacancy.claims.iter().max_by_key(|(region, claim)| (**claim, is_preferred(region)));
        let Some((region, claim)) = best.map(|(region, claim)| (*region, *claim)) else { return };
        if vacancy.claims.len() >= needed && now >= vacancy.since + SETTLE_AFTER {
            let (log_epoch, after) = claim;
            self.history.push(Grant { epoch: vacancy.epoch, writer: region, after, log_epoch });
            (self.vacancy, self.prefers) = (None, None);
            if self.suspended[region] {
                self.vacate(now);
            }
        }
    }

    /// Whoever writes cannot go on.
    pub(super) fn resign(&mut self, region: usize, epoch: u64, now: u64) {
        if self.writer() == Some(region) && self.grant().epoch == epoch {
            self.vacate(now);
        }
    }

    /// Another region is to write, as far as it has all that there is.
    pub(super) fn hand_to(&mut self, region: usize, now: u64) {
        if self.vacancy.is_none() && !self.suspended[region] {
            self.vacate(now);
            self.prefers = Some(region);
        }
    }

    fn vacate(&mut self, now: u64) {
        let epoch = self.grant().epoch + 1;
        self.vacancy = Some(Vacancy { epoch, since: now, claims: BTreeMap::new() });
    }

    /// A region that has sealed the table for the epoch can take over.
    pub(super) fn claim(&mut self, region: usize, epoch: u64, claim: (u64, u64)) {
        let is_suspended = self.suspended[region];
        if let Some(vacancy) = self.vacancy.as_mut().filter(|one| one.epoch == epoch)
            && !is_suspended
        {
            vacancy.claims.insert(region, claim);
        }
    }

    /// Through which entry a log is part of that which the newest grant goes on from.
    pub(super) fn agrees_through(&self, log_epoch: u64, end: u64) -> u64 {
        // Epochs of the newest grant's log, each with the entry through which it is part of it.
        let mut parts = BTreeMap::new();
        let (mut epoch, mut through) = (self.grant().epoch, u64::MAX);
        while let Some(grant) = self.history.iter().find(|grant| grant.epoch == epoch) {
            parts.insert(epoch, through);
            (epoch, through) = (grant.log_epoch, through.min(grant.after));
        }
        let (mut epoch, mut end) = (log_epoch, end);
        loop {
            if let Some(through) = parts.get(&epoch) {
                return end.min(*through);
            }
            let Some(grant) = self.history.iter().find(|grant| grant.epoch == epoch) else {
                return 0;
            };
            (epoch, end) = (grant.log_epoch, end.min(grant.after));
        }
    }

    /// Whether all of a log, through an entry, is part of what the newest grant goes on from.
    pub(super) fn goes_on_from(&self, log_epoch: u64, end: u64) -> bool {
        self.agrees_through(log_epoch, end) >= end
    }

    /// Whether a log has entries that the newest grant does not go on from.
    pub(super) fn has_tail(&self, log_epoch: u64, end: u64) -> bool {
        !self.goes_on_from(log_epoch, end)
    }
}
