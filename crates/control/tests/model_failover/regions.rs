//! What a region may do by what it sees, and what it proposes.

use crate::agreed::{Proposal, REGIONS, TABLE};
use crate::model::{Failover, Mutant};
use crate::world::{World, small};

impl Failover {
    pub(crate) fn holds_enough(&self, world: &World, region: usize, lsn: u8) -> bool {
        let node = &world.nodes[region];
        node.held.iter().filter(|held| **held >= lsn).count() >= usize::from(self.held_by)
    }

    pub(crate) fn may_open(&self, world: &World, region: usize) -> bool {
        let node = &world.nodes[region];
        let view = world.view(region);
        let tenure = World::tenure(&view);
        let epoch = small(tenure.epoch);
        let is_granted = tenure.vacant.is_none() && tenure.writer == REGIONS[region];
        let is_news = node.log_epoch() < epoch && node.sealed <= epoch && node.writing == 0;
        let after = tenure.history.last().map(|opening| opening.after);
        is_granted && is_news && after == Some(node.end().into())
    }

    pub(crate) fn may_ship(&self, world: &World, from: usize, to: usize) -> bool {
        let (sender, taker) = (&world.nodes[from], &world.nodes[to]);
        let Some(epoch) = world.ships_in(from) else { return false };
        if from == to || taker.is_dead || taker.writing != 0 || taker.sealed > epoch {
            return false;
        }
        match sender.log.starts_with(&taker.log) {
            true => taker.end() < sender.end(),
            // It must know that its tail is one.
            false => World::tenure(&world.view(to)).epoch == u64::from(epoch),
        }
    }

    pub(crate) fn ship(&self, world: &mut World, from: usize, to: usize) {
        let epoch = world.ships_in(from).unwrap();
        let log = world.nodes[from].log.clone();
        let view = world.view(to);
        let taker = &mut world.nodes[to];
        taker.sealed = taker.sealed.max(epoch);
        if log.starts_with(&taker.log) {
            taker.log.push(log[taker.log.len()]);
            let end = taker.end();
            if self.held_by > 0 && world.nodes[from].writing != 0 {
                world.nodes[from].held[to] = end;
            }
            return;
        }
        let tenure = World::tenure(&view);
        let through =
            tenure.agrees_through(taker.log_epoch().into(), taker.end().into()).map(small);
        taker.log.truncate(usize::from(through.unwrap_or(0)));
        world.is_tail_wrong |= through.is_none() || !log.starts_with(&taker.log);
    }

    pub(crate) fn claim(&self, world: &World, region: usize) -> Option<Proposal> {
        let node = &world.nodes[region];
        let view = world.view(region);
        let (_, _, vacancy) = view.vacancies_for(REGIONS[region]).next()?;
        let epoch = small(vacancy.epoch);
        let is_sealed = node.sealed >= epoch || self.mutant == Mutant::ForgottenSeal;
        let log_epoch = match self.mutant {
            Mutant::LongestLog => 1,
            _ => node.log_epoch(),
        };
        let (region, lsn) = (small(region as u64), node.end());
        is_sealed.then_some(Proposal::Claim { region, epoch, log_epoch, lsn })
    }

    pub(crate) fn suspect(&self, world: &World, by: usize, region: usize) -> Option<Proposal> {
        let view = world.view(by);
        let standing = &view.regions[REGIONS[region]];
        let is_said = standing.suspended || standing.suspicions.contains_key(REGIONS[by]);
        let (run, renewal) = (small(standing.run), small(standing.healthy_renewal));
        let (by, region) = (small(by as u64), small(region as u64));
        (!is_said).then_some(Proposal::Suspect { by, region, run, renewal })
    }

    /// Who has handed over to a region that is gone.
    pub(crate) fn resign(&self, world: &World, region: usize) -> Option<Proposal> {
        let (view, successor) = (world.view(region), world.successor(region)?);
        let (region, epoch) = (small(region as u64), world.nodes[region].log_epoch());
        let is_held = view.may_write(TABLE, REGIONS[usize::from(region)], epoch.into()).is_ok();
        let is_gone = view.is_suspended(REGIONS[successor]);
        (is_held && is_gone).then_some(Proposal::Resign { region, epoch })
    }
}
