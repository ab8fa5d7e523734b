//! What can happen in a world, and which of it is tried.

use stateright::{Model, Property};

use crate::agreed::{Proposal, REGIONS, TABLE, place, start};
use crate::rules::properties;
use crate::world::{Budget, HANDOVER, NOBODY, Node, OPENING, World, small};

/// The rule that is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    None,
    /// A replica claims and goes on taking entries of the old epoch.
    ForgottenSeal,
    /// The old lease is taken to be over at once.
    NoMargin,
    /// One claim is taken to be enough.
    TooFewClaims,
    /// One region's suspicion counts as two.
    OneVoice,
    /// A rejoin that comes late ends a suspension that it does not know of.
    OldRejoin,
    /// The longest log wins, of whatever epoch it is.
    LongestLog,
    /// A region goes on writing after it has rejoined.
    RejoinUnfenced,
}

#[derive(Clone, Debug)]
pub(crate) struct Failover {
    pub(crate) mutant: Mutant,
    pub(crate) held_by: u8,
    pub(crate) budget: Budget,
    /// Whose detectors may be wrong, or right. If all may, two that suspect a region do so at once.
    pub(crate) suspecting: [bool; 3],
    /// Who sees late what is agreed on.
    pub(crate) lags: [bool; 3],
    /// Rejoins come again.
    pub(crate) is_repeating: bool,
    /// Actions of which nothing comes are left out, which ways by chance need.
    pub(crate) is_exact: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Apply(usize),
    Write(usize),
    Ship(usize, usize),
    Acknowledge(usize),
    Renew(usize),
    Renewed(usize),
    Suspect(usize, usize),
    Suspend(usize),
    Seal(usize),
    Rejoin(usize),
    Rejoined(usize),
    Claim(usize),
    Settle(u8),
    Open(usize),
    HandOver(usize, usize),
    AskToOpen(usize),
    Resign(usize),
    Restart(usize),
    Die(usize),
}

impl Failover {
    fn actions_of(&self, world: &World, region: usize, actions: &mut Vec<Action>) {
        let node = &world.nodes[region];
        let left = &world.left;
        let mut may = |is_possible: bool, action: Action| {
            if is_possible {
                actions.push(action);
            }
        };
        may(node.renewing.is_some(), Action::Renewed(region));
        may(node.rejoining.is_some(), Action::Rejoined(region));
        if node.is_dead {
            return;
        }
        may(usize::from(node.applied) + 1 < world.agreed.len(), Action::Apply(region));
        may(left.restarts > 0, Action::Restart(region));
        may(left.deaths > 0, Action::Die(region));
        let view = world.view(region);
        let standing = &view.regions[REGIONS[region]];
        let may_renew = left.renewals > 0 && node.renewing.is_none() && !standing.suspended;
        may(may_renew, Action::Renew(region));
        let rejoin = Some(Proposal::Rejoin {
            region: small(region as u64),
            run: node.run,
            suspended_at: small(standing.suspended_at),
        });
        may(standing.suspended && node.rejoining != rejoin, Action::Rejoin(region));
        for other in (0..3).filter(|other| *other != region) {
            may(self.may_ship(world, region, other), Action::Ship(region, other));
            let may_suspect = left.suspicions > 0 && self.suspecting[region] && !self.is_any();
            let is_news = may_suspect && self.suspect(world, region, other).is_some();
            may(is_news, Action::Suspect(region, other));
            may(left.handovers > 0 && node.writing != 0, Action::HandOver(region, other));
        }
        if node.writing != 0 {
            may(left.writes > 0, Action::Write(region));
            let next = node.answered + 1;
            let is_due = next <= node.end() && self.holds_enough(world, region, next);
            may(is_due && world.can_acknowledge(region), Action::Acknowledge(region));
        }
        let vacancy = World::tenure(&view).vacant.as_ref();
        may(vacancy.is_some_and(|it| small(it.epoch) > node.sealed), Action::Seal(region));
        may(self.claim(world, region).is_some(), Action::Claim(region));
        may(self.may_open(world, region), Action::Open(region));
        let is_successor = node.log.last().is_some_and(|(epoch, what)| {
            *what >= HANDOVER
                && usize::from(*what - HANDOVER) % 10 == region
                && node.sealed <= epoch + 1
        });
        may(is_successor, Action::AskToOpen(region));
        may(self.resign(world, region).is_some(), Action::Resign(region));
    }

    /// Whether anybody may be suspected by anybody.
    fn is_any(&self) -> bool {
        self.suspecting == [true; 3]
    }

    /// What comes of an action; `None`: nothing.
    fn act(&self, world: &mut World, action: Action) -> Option<()> {
        match action {
            Action::Apply(region) => world.nodes[region].applied += 1,
            Action::Write(region) => {
                let node = &mut world.nodes[region];
                let what = world.left.writes;
                world.left.writes -= 1;
                node.log.push((node.writing, what));
            }
            Action::Ship(from, to) => self.ship(world, from, to),
            Action::Acknowledge(region) => {
                let node = &mut world.nodes[region];
                node.answered += 1;
                let entry = node.log[usize::from(node.answered) - 1];
                world.acknowledged.push((node.answered, entry));
                world.acknowledged.sort_unstable();
            }
            Action::Renew(region) => {
                world.left.renewals -= 1;
                let standing = world.view(region).regions[REGIONS[region]].clone();
                let node = &mut world.nodes[region];
                let is_own = standing.run == u64::from(node.run);
                node.renewal += 1;
                node.renewing = Some(Proposal::Renew {
                    region: small(region as u64),
                    run: node.run,
                    number: node.renewal,
                    acked: if is_own { small(standing.renewal) } else { 0 },
                });
            }
            Action::Renewed(region) => {
                let proposal = world.nodes[region].renewing.take()?;
                world.propose(proposal);
            }
            Action::Suspend(region) => {
                world.left.suspicions -= 1;
                for by in (0..3).filter(|by| *by != region) {
                    let proposal = self.suspect(world, by, region)?;
                    world.propose(proposal);
                }
                return world.now().is_suspended(REGIONS[region]).then_some(());
            }
            Action::Suspect(by, region) => {
                let proposal = self.suspect(world, by, region)?;
                world.left.suspicions -= 1;
                if !world.propose(proposal) {
                    return None;
                }
                if let (Mutant::OneVoice, Proposal::Suspect { run, renewal, .. }) =
                    (self.mutant, proposal)
                {
                    let (by, region) = (small((3 - by - region) as u64), small(region as u64));
                    world.propose(Proposal::Suspect { by, region, run, renewal });
                }
            }
            Action::Seal(region) => {
                let view = world.view(region);
                let node = &mut world.nodes[region];
                if self.mutant == Mutant::ForgottenSeal && node.writing == 0 {
                    return None;
                }
                node.sealed = small(World::tenure(&view).vacant.as_ref()?.epoch);
                node.stop_writing();
            }
            Action::Rejoin(region) => {
                let suspended_at = small(world.view(region).regions[REGIONS[region]].suspended_at);
                let node = &mut world.nodes[region];
                if self.mutant != Mutant::RejoinUnfenced {
                    node.stop_writing();
                }
                let (region, run) = (small(region as u64), node.run);
                node.rejoining = Some(Proposal::Rejoin { region, run, suspended_at });
            }
            Action::Rejoined(region) => {
                let mut proposal = world.nodes[region].rejoining?;
                let newest = small(world.now().regions[REGIONS[region]].suspended_at);
                if let (Mutant::OldRejoin, Proposal::Rejoin { suspended_at, .. }) =
                    (self.mutant, &mut proposal)
                {
                    *suspended_at = newest;
                }
                if !self.is_repeating {
                    world.nodes[region].rejoining = None;
                }
                return world.propose(proposal).then_some(());
            }
            Action::Claim(region) => {
                let proposal = self.claim(world, region)?;
                return world.propose(proposal).then_some(());
            }
            Action::Settle(epoch) => {
                return world.propose(Proposal::Settle { epoch }).then_some(());
            }
            // Nothing becomes possible by a lease that runs out before somebody waits for it.
            Action::Open(region) => {
                let view = world.view(region);
                let epoch = small(World::tenure(&view).epoch);
                let waits = self.mutant != Mutant::NoMargin;
                for other in view.leases_to_outlast(TABLE).filter(|_| waits) {
                    let ended = &mut world.nodes[usize::from(place(other))].ended;
                    *ended = small(view.regions[other].renewal).max(*ended);
                }
                let node = &mut world.nodes[region];
                node.log.push((epoch, OPENING));
                (node.writing, node.sealed, node.held) = (epoch, epoch, [0; 3]);
                node.answered = node.end();
                let opened = &mut world.opened[usize::from(epoch)];
                world.is_opened_again |= *opened != NOBODY;
                *opened = small(region as u64);
            }
            Action::HandOver(region, to) => {
                world.left.handovers -= 1;
                let node = &mut world.nodes[region];
                node.log.push((node.writing, HANDOVER + small(10 * region as u64 + to as u64)));
                node.stop_writing();
            }
            Action::AskToOpen(region) => {
                let node = &world.nodes[region];
                let (epoch, after) = (node.log_epoch() + 1, node.end());
                let region = small(region as u64);
                return world.propose(Proposal::Open { region, epoch, after }).then_some(());
            }
            Action::Resign(region) => {
                let proposal = self.resign(world, region)?;
                return world.propose(proposal).then_some(());
            }
            Action::Restart(region) => {
                world.left.restarts -= 1;
                let node = &mut world.nodes[region];
                node.run += 1;
                node.answered = if node.writing == 0 { 0 } else { node.end() };
                node.held = [0; 3];
            }
            Action::Die(region) => {
                world.left.deaths -= 1;
                world.nodes[region].is_dead = true;
            }
        }
        Some(())
    }

    pub(crate) fn is_over(&self, world: &World) -> bool {
        let mut actions = Vec::new();
        self.actions(world, &mut actions);
        actions.into_iter().rev().all(|action| self.next_state(world, action).is_none())
    }
}

impl Model for Failover {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let mut nodes = [Node::new(), Node::new(), Node::new()];
        nodes[0].writing = 1;
        let needs = match self.mutant {
            Mutant::TooFewClaims => 2,
            _ => self.held_by,
        };
        vec![World {
            agreed: vec![start(needs)],
            suspensions: 0,
            nodes,
            acknowledged: Vec::new(),
            opened: [NOBODY, 0, NOBODY, NOBODY, NOBODY, NOBODY, NOBODY, NOBODY],
            is_opened_again: false,
            left: self.budget,
            is_tail_wrong: false,
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        for region in 0..3 {
            self.actions_of(world, region, actions);
        }
        let may_suspend = |region: &usize| {
            (0..3).all(|by| by == *region || self.suspect(world, by, *region).is_some())
        };
        if self.is_any() && world.left.suspicions > 0 {
            actions.extend((0..3).filter(may_suspend).map(Action::Suspend));
        }
        let views = (0..3).filter(|region| !world.nodes[*region].is_dead);
        let epochs = views.filter_map(|region| {
            let view = world.view(region);
            Some(small(World::tenure(&view).vacant.as_ref()?.epoch))
        });
        actions.extend(epochs.max().map(Action::Settle));
        if self.is_exact {
            actions.retain(|action| self.next_state(world, *action).is_some());
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        self.act(&mut next, action)?;
        next.trim(self.lags);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Failover>> {
        properties()
    }
}
