//! Searches all that three regions can do while the writer of a table changes.
//!
//! What is agreed on is the real state machine; every region sees its log late. Entries, answers,
//! renewals and rejoins are under way for as long as they like, detectors may be wrong, processes
//! start again and stop for good. Time is what it allows: a lease that may have run out, and one
//! that surely has, which comes later. Each mutant forgets one rule, and the search must find what
//! comes of it; otherwise the search would be too small to say anything.

#![cfg(test)]

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use isthmus_control::agreed::{Agreed, Command, Tenure};
use stateright::{Checker, HasDiscoveries, Model, Property, UniformChooser};

const REGIONS: [&str; 3] = ["a", "b", "c"];
const TABLE: u64 = 1;
/// An entry with which an epoch begins, and one with which it ends, plus who ends it times ten and
/// the successor. Lesser numbers are writes.
const OPENING: u8 = 0;
const EPOCHS: usize = 8;
const NOBODY: u8 = 3;
const HANDOVER: u8 = 100;

/// The rule that is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutant {
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

/// How often something may happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Budget {
    writes: u8,
    renewals: u8,
    suspicions: u8,
    restarts: u8,
    deaths: u8,
    handovers: u8,
}

#[derive(Clone, Debug)]
struct Failover {
    mutant: Mutant,
    held_by: u8,
    budget: Budget,
    /// Whose detectors may be wrong, or right. If all may, two that suspect a region do so at once.
    suspecting: [bool; 3],
    /// Who sees late what is agreed on.
    lags: [bool; 3],
    /// Rejoins come again.
    is_repeating: bool,
    /// Actions of which nothing comes are left out, which ways by chance need.
    is_exact: bool,
}

/// What is proposed to the quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Proposal {
    Renew { region: u8, run: u8, number: u8, acked: u8 },
    Suspect { by: u8, region: u8, run: u8, renewal: u8 },
    Claim { region: u8, epoch: u8, log_epoch: u8, lsn: u8 },
    Settle { epoch: u8 },
    Open { region: u8, epoch: u8, after: u8 },
    Resign { region: u8, epoch: u8 },
    Rejoin { region: u8, run: u8, suspended_at: u8 },
}

/// An entry of the table: its epoch and what it is.
type Entry = (u8, u8);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Node {
    is_dead: bool,
    /// Its place in what was agreed on.
    applied: u8,
    run: u8,
    log: Vec<Entry>,
    /// It takes nothing of an older epoch.
    sealed: u8,
    /// The epoch in which it accepts writes; 0: none.
    writing: u8,
    /// Through here everything is acknowledged, or its outcome was told as unknown.
    answered: u8,
    /// What it has heard that the others hold, in its own epoch.
    held: [u8; 3],
    /// The newest renewal that was made, and through which the leases have run out.
    renewal: u8,
    ended: u8,
    /// On its way to the quorum.
    renewing: Option<Proposal>,
    rejoining: Option<Proposal>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    /// What was agreed on, step by step, as far as some region has not seen all of it; the newest
    /// last. See [`state`].
    agreed: Vec<u32>,
    /// Suspensions so far.
    suspensions: u8,
    nodes: [Node; 3],
    /// LSN and entry.
    acknowledged: Vec<(u8, Entry)>,
    /// By whom each epoch was opened; [`NOBODY`].
    opened: [u8; EPOCHS],
    is_opened_again: bool,
    left: Budget,
    is_tail_wrong: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
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

/// All have renewed once and the first region writes.
fn start(needs: u8) -> u32 {
    let mut agreed = Agreed::default();
    for region in REGIONS {
        let renew = Proposal::Renew { region: place(region), run: 1, number: 1, acked: 0 };
        agreed.apply(0, &renew.command());
    }
    let enrol = Command::Enrol {
        table: TABLE,
        name: "t".to_owned(),
        epoch: 1,
        writer: REGIONS[0].to_owned(),
        replicas: REGIONS.map(str::to_owned).to_vec(),
        held_by: needs,
        automatic: true,
        version: 1,
        at_millis: 0,
    };
    agreed.apply(0, &enrol);
    KNOWN.lock().unwrap().number(agreed)
}

fn place(region: &str) -> u8 {
    small(REGIONS.iter().position(|name| *name == region).unwrap() as u64)
}

impl Proposal {
    fn command(self) -> Command {
        let name = |region: u8| REGIONS[usize::from(region)].to_owned();
        let (table, at_millis) = (TABLE, 0);
        match self {
            Proposal::Renew { region, run, number, acked } => Command::Renew {
                region: name(region),
                run: run.into(),
                number: number.into(),
                acked: acked.into(),
                lease_millis: 2_000,
                at_millis,
            },
            Proposal::Suspect { by, region, run, renewal } => Command::Suspect {
                by: name(by),
                region: name(region),
                run: run.into(),
                renewal: renewal.into(),
                outlives: 0,
                evidence: String::new(),
                at_millis,
            },
            Proposal::Claim { region, epoch, log_epoch, lsn } => Command::Claim {
                table,
                region: name(region),
                epoch: epoch.into(),
                log_epoch: log_epoch.into(),
                lsn: lsn.into(),
                known_end: 0,
                at_millis,
            },
            Proposal::Settle { epoch } => {
                Command::Settle { table, epoch: epoch.into(), by: name(0), at_millis }
            }
            Proposal::Open { region, epoch, after } => Command::Open {
                table,
                epoch: epoch.into(),
                region: name(region),
                after: after.into(),
                at_millis,
            },
            Proposal::Resign { region, epoch } => Command::Resign {
                table,
                epoch: epoch.into(),
                region: name(region),
                why: String::new(),
                at_millis,
            },
            Proposal::Rejoin { region, run, suspended_at } => Command::Rejoin {
                region: name(region),
                run: run.into(),
                suspended_at: suspended_at.into(),
                at_millis,
            },
        }
    }
}

/// All that can be agreed on, by number, so that worlds are small and are compared quickly.
struct Known {
    states: Vec<Arc<Agreed>>,
    numbers: Option<HashMap<String, u32>>,
    steps: Option<HashMap<(u32, Proposal, u8), u32>>,
}

static KNOWN: Mutex<Known> = Mutex::new(Known { states: Vec::new(), numbers: None, steps: None });

impl Known {
    fn number(&mut self, mut agreed: Agreed) -> u32 {
        agreed.audit.clear();
        let text = serde_json::to_string(&agreed).unwrap();
        let states = &mut self.states;
        *self.numbers.get_or_insert_default().entry(text).or_insert_with(|| {
            states.push(Arc::new(agreed));
            u32::try_from(states.len() - 1).unwrap()
        })
    }

    /// The index is the same for all commands that cannot suspend a region, so that what is
    /// agreed on does not depend on their order where nothing else does.
    fn step(&mut self, from: u32, proposal: Proposal, index: u8) -> u32 {
        let step = (from, proposal, index);
        if let Some(known) = self.steps.get_or_insert_default().get(&step) {
            return *known;
        }
        let mut agreed = (*self.states[from as usize]).clone();
        agreed.apply(index.into(), &proposal.command());
        let to = self.number(agreed);
        self.steps.get_or_insert_default().insert(step, to);
        to
    }
}

fn state(number: u32) -> Arc<Agreed> {
    thread_local! {
        static SEEN: RefCell<Vec<Arc<Agreed>>> = RefCell::default();
    }
    SEEN.with_borrow_mut(|seen| {
        if seen.len() <= number as usize {
            let known = KNOWN.lock().unwrap();
            seen.extend(known.states[seen.len()..].iter().cloned());
        }
        Arc::clone(&seen[number as usize])
    })
}

/// Whether it makes a difference to see one without the other: claims and single suspicions do
/// not.
fn differ(older: &Agreed, newer: &Agreed) -> bool {
    let (was, is) = (World::tenure(older), World::tenure(newer));
    let standings = older.regions.values().zip(newer.regions.values());
    was.epoch != is.epoch
        || was.vacant.is_some() != is.vacant.is_some()
        || standings.into_iter().any(|(was, is)| {
            (was.run, was.renewal, was.suspended) != (is.run, is.renewal, is.suspended)
        })
}

fn small(number: u64) -> u8 {
    u8::try_from(number).unwrap()
}

impl Node {
    fn new() -> Node {
        Node {
            is_dead: false,
            applied: 0,
            run: 1,
            log: Vec::new(),
            sealed: 1,
            writing: 0,
            answered: 0,
            held: [0; 3],
            renewal: 1,
            ended: 0,
            renewing: None,
            rejoining: None,
        }
    }

    fn end(&self) -> u8 {
        small(self.log.len() as u64)
    }

    fn log_epoch(&self) -> u8 {
        self.log.last().map_or(1, |(epoch, _)| *epoch)
    }

    /// What waits for an answer gets none.
    fn stop_writing(&mut self) {
        self.writing = 0;
        self.answered = 0;
        self.held = [0; 3];
    }
}

impl World {
    fn view(&self, region: usize) -> Arc<Agreed> {
        state(self.agreed[usize::from(self.nodes[region].applied)])
    }

    fn newest(&self) -> u32 {
        *self.agreed.last().unwrap()
    }

    fn now(&self) -> Arc<Agreed> {
        state(self.newest())
    }

    /// Agrees on a proposal, unless nothing would come of it.
    fn propose(&mut self, proposal: Proposal) -> bool {
        let before = self.newest();
        let index = match proposal {
            Proposal::Suspect { .. } => self.suspensions + 1,
            _ => 0,
        };
        let after = KNOWN.lock().unwrap().step(before, proposal, index);
        if after == before {
            return false;
        }
        let (was, is) = (state(before), state(after));
        let count = |agreed: &Agreed| agreed.regions.values().filter(|it| it.suspended).count();
        if count(&is) > count(&was) {
            self.suspensions += 1;
        }
        match differ(&was, &is) {
            true => self.agreed.push(after),
            false => *self.agreed.last_mut().unwrap() = after,
        }
        true
    }

    /// Forgets what all have seen.
    fn trim(&mut self, lags: [bool; 3]) {
        let end = small(self.agreed.len() as u64 - 1);
        for (node, lags) in self.nodes.iter_mut().zip(lags) {
            if node.is_dead || !lags {
                node.applied = end;
            }
        }
        let seen = self.nodes.iter().map(|node| node.applied).min().unwrap();
        self.agreed.drain(..usize::from(seen));
        for node in &mut self.nodes {
            node.applied -= seen;
        }
    }

    fn has_lease(&self, region: usize) -> bool {
        let node = &self.nodes[region];
        let standing = &self.view(region).regions[REGIONS[region]];
        standing.run == u64::from(node.run) && standing.renewal > u64::from(node.ended)
    }

    fn can_acknowledge(&self, region: usize) -> bool {
        let node = &self.nodes[region];
        !node.is_dead && node.writing != 0 && self.has_lease(region)
    }

    /// The epoch in which a region gives its entries to others.
    fn ships_in(&self, region: usize) -> Option<u8> {
        let node = &self.nodes[region];
        if node.writing != 0 {
            return Some(node.writing);
        }
        self.successor(region)?;
        (node.sealed <= node.log_epoch()).then_some(node.log_epoch())
    }

    /// To whom a region has handed over, if that is the last thing it did.
    fn successor(&self, region: usize) -> Option<usize> {
        let (_, what) = *self.nodes[region].log.last()?;
        let names = usize::from(what.checked_sub(HANDOVER)?);
        (names / 10 == region).then_some(names % 10)
    }

    fn tenure(view: &Agreed) -> &Tenure {
        view.tenure(TABLE).unwrap()
    }
}

impl Failover {
    fn holds_enough(&self, world: &World, region: usize, lsn: u8) -> bool {
        let node = &world.nodes[region];
        node.held.iter().filter(|held| **held >= lsn).count() >= usize::from(self.held_by)
    }

    fn may_open(&self, world: &World, region: usize) -> bool {
        let node = &world.nodes[region];
        let view = world.view(region);
        let tenure = World::tenure(&view);
        let epoch = small(tenure.epoch);
        let is_granted = tenure.vacant.is_none() && tenure.writer == REGIONS[region];
        let is_news = node.log_epoch() < epoch && node.sealed <= epoch && node.writing == 0;
        let after = tenure.history.last().map(|opening| opening.after);
        is_granted && is_news && after == Some(node.end().into())
    }

    fn may_ship(&self, world: &World, from: usize, to: usize) -> bool {
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

    fn ship(&self, world: &mut World, from: usize, to: usize) {
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

    fn claim(&self, world: &World, region: usize) -> Option<Proposal> {
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

    fn suspect(&self, world: &World, by: usize, region: usize) -> Option<Proposal> {
        let view = world.view(by);
        let standing = &view.regions[REGIONS[region]];
        let is_said = standing.suspended || standing.suspicions.contains_key(REGIONS[by]);
        let (run, renewal) = (small(standing.run), small(standing.healthy_renewal));
        let (by, region) = (small(by as u64), small(region as u64));
        (!is_said).then_some(Proposal::Suspect { by, region, run, renewal })
    }

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

    /// Who has handed over to a region that is gone.
    fn resign(&self, world: &World, region: usize) -> Option<Proposal> {
        let (view, successor) = (world.view(region), world.successor(region)?);
        let (region, epoch) = (small(region as u64), world.nodes[region].log_epoch());
        let is_held = view.may_write(TABLE, REGIONS[usize::from(region)], epoch.into()).is_ok();
        let is_gone = view.is_suspended(REGIONS[successor]);
        (is_held && is_gone).then_some(Proposal::Resign { region, epoch })
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

    fn is_over(&self, world: &World) -> bool {
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
        vec![
            Property::always(ONE, |_, world: &World| {
                (0..3).filter(|region| world.can_acknowledge(*region)).count() <= 1
            }),
            Property::always(KEPT, |model: &Failover, world: &World| {
                let is_kept = |node: &Node| {
                    let older =
                        world.acknowledged.iter().filter(|(_, entry)| entry.0 < node.writing);
                    older
                        .into_iter()
                        .all(|(lsn, entry)| node.log.get(usize::from(*lsn) - 1) == Some(entry))
                };
                let epoch = world.opened.iter().rposition(|region| *region != NOBODY).unwrap();
                let node = &world.nodes[usize::from(world.opened[epoch])];
                model.held_by == 0 || usize::from(node.writing) != epoch || is_kept(node)
            }),
            Property::always(ONCE, |_, world: &World| !world.is_opened_again),
            Property::always(TAIL, |_, world: &World| !world.is_tail_wrong),
            Property::always(HEARD, |model: &Failover, world: &World| {
                let suspecting = model.suspecting.iter().filter(|may| **may).count();
                suspecting > 1 || REGIONS.iter().all(|region| !world.now().is_suspended(region))
            }),
            Property::always(GOES_ON, |model: &Failover, world: &World| {
                let now = world.now();
                let tenure = World::tenure(&now);
                let writer = REGIONS.iter().position(|name| *name == tenure.writer).unwrap();
                let node = &world.nodes[writer];
                let is_held = tenure.vacant.is_none()
                    && (node.is_dead || u64::from(node.writing) == tenure.epoch);
                // Nobody has found out that it is.
                let is_successor_dead = world.successor(writer).is_some_and(|successor| {
                    world.nodes[successor].is_dead && !now.is_suspended(REGIONS[successor])
                });
                is_held || is_successor_dead || !model.is_over(world)
            }),
            Property::sometimes(THIRD, |_, world: &World| world.opened[3] != NOBODY),
        ]
    }
}

const ONE: &str = "one region at most can acknowledge";
const KEPT: &str = "who takes over has what was acknowledged";
const ONCE: &str = "an epoch is opened once";
const TAIL: &str = "tails are found where they begin";
const HEARD: &str = "a region that two hear is not suspended";
const THIRD: &str = "a third epoch is opened";
const GOES_ON: &str = "somebody writes in the end";

const ALL: [bool; 3] = [true; 3];
const NONE: [bool; 3] = [false; 3];
const RULES: [&str; 6] = [ONE, KEPT, ONCE, TAIL, HEARD, GOES_ON];
/// Worlds that are looked at where there are too many; `WAYS_WORLDS` sets another number.
const WORLDS: usize = 60_000;

/// Nobody may do anything yet, and all see late what is agreed on.
fn model(held_by: u8, budget: Budget) -> Failover {
    let mutant = Mutant::None;
    Failover {
        mutant,
        held_by,
        budget,
        suspecting: ALL,
        is_repeating: false,
        is_exact: false,
        lags: ALL,
    }
}

fn once() -> Budget {
    Budget { suspicions: 1, ..Budget::default() }
}

fn twice() -> Budget {
    Budget { suspicions: 2, ..Budget::default() }
}

/// Searches everything.
fn holds(model: Failover) {
    let checker = model.checker().threads(2).spawn_bfs().join();
    eprintln!("{} worlds", checker.unique_state_count());
    RULES.into_iter().for_each(|rule| checker.assert_no_discovery(rule));
}

/// Goes ways by chance through what is too large to be searched.
fn holds_by_chance(model: Failover) {
    let model = Failover { is_exact: true, ..model };
    let number = |name: &str| std::env::var(name).ok()?.parse().ok();
    let worlds = number("WAYS_WORLDS").map_or(WORLDS, |worlds: u64| worlds as usize);
    let search = model.checker().target_state_count(worlds);
    let seed = number("SEED").unwrap_or(7);
    let checker = search.spawn_simulation(seed, UniformChooser).join();
    eprintln!("{} worlds on ways of up to {} steps", checker.state_count(), checker.max_depth());
    RULES.into_iter().for_each(|rule| checker.assert_no_discovery(rule));
    checker.assert_any_discovery(THIRD);
}

/// Searches until a rule is seen broken.
fn breaks(mutant: Mutant, rule: &'static str, model: Failover) {
    let search = Failover { mutant, ..model }.checker().threads(2);
    let checker = search.finish_when(HasDiscoveries::AnyOf([rule].into())).spawn_bfs().join();
    eprintln!("{} worlds", checker.unique_state_count());
    assert!(checker.discovery(rule).is_some(), "the search is too small to find it");
}

#[test]
fn one_failover_holds_where_all_see_late() {
    holds(model(0, Budget { writes: 1, deaths: 1, ..once() }));
    holds(model(1, Budget { writes: 2, ..once() }));
}

#[test]
fn failover_holds_with_renewals_and_restarts_on_the_way() {
    holds(Failover { lags: [true, true, false], ..model(0, Budget { renewals: 1, ..once() }) });
    holds(model(1, Budget { writes: 1, restarts: 1, ..once() }));
    let both = Budget { writes: 1, renewals: 1, restarts: 1, ..once() };
    holds(Failover { lags: NONE, ..model(1, both) });
}

#[test]
fn two_failovers_hold() {
    holds(Failover { lags: NONE, ..model(1, Budget { writes: 2, ..twice() }) });
    holds(Failover { lags: [false, true, false], ..model(0, twice()) });
}

#[test]
fn late_rejoins_hold() {
    holds(Failover { lags: [true, false, false], is_repeating: true, ..model(0, twice()) });
}

#[test]
fn a_planned_change_that_meets_a_failover_holds() {
    holds(Failover { lags: [true, true, false], ..model(0, Budget { handovers: 1, ..once() }) });
}

#[test]
fn who_is_cut_off_from_one_other_is_not_suspended() {
    let budget = Budget { writes: 1, renewals: 2, ..twice() };
    holds(Failover { suspecting: [false, false, true], ..model(0, budget) });
}

#[test]
fn many_failovers_hold_on_ways_by_chance() {
    let budget =
        Budget { writes: 4, renewals: 3, suspicions: 4, restarts: 1, deaths: 0, handovers: 1 };
    holds_by_chance(Failover { is_repeating: true, ..model(1, budget) });
    holds_by_chance(model(0, Budget { deaths: 1, ..budget }));
}

#[test]
fn a_forgotten_seal_is_found() {
    breaks(Mutant::ForgottenSeal, KEPT, model(1, Budget { writes: 1, ..once() }));
}

#[test]
fn a_lease_without_margin_is_found() {
    breaks(Mutant::NoMargin, ONE, model(0, once()));
}

#[test]
fn too_few_claims_are_found() {
    breaks(Mutant::TooFewClaims, KEPT, model(1, Budget { writes: 1, ..once() }));
}

#[test]
fn a_suspicion_of_one_region_is_found() {
    let cut = Failover { suspecting: [false, false, true], ..model(0, twice()) };
    breaks(Mutant::OneVoice, HEARD, cut);
}

#[test]
fn a_rejoin_that_ends_a_later_suspension_is_found() {
    let repeating = Failover { is_repeating: true, lags: NONE, ..model(0, twice()) };
    breaks(Mutant::OldRejoin, ONE, repeating);
}

#[test]
fn the_longest_log_of_an_older_epoch_is_found() {
    let prompt = Failover { lags: NONE, ..model(1, Budget { writes: 3, ..twice() }) };
    breaks(Mutant::LongestLog, KEPT, prompt);
}

#[test]
fn a_region_that_rejoins_and_writes_on_is_found() {
    breaks(Mutant::RejoinUnfenced, ONE, model(0, once()));
}
