//! What can happen in a world, and which of it is tried.

use isthmus_control::commit::{Form, Participant, Term, Votes};
use stateright::{Model, Property};

use crate::rules::properties;
use crate::world::{Budget, Entry, Node, Phase, World, Writing, bits, small};

/// The rule that is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    None,
    /// A vote that comes again counts again.
    VoteTwice,
    /// A change is decided by one vote less.
    FewerVotes,
    /// The client is answered when the change is sent.
    EarlyAnswer,
    /// A participant that has sealed the table goes on preparing changes of older epochs.
    ForgottenPromise,
    /// A new writer goes on with one answer less.
    FewerAnswers,
    /// It writes before others hold the entry that settles the term.
    Unsettled,
    /// Participants keep what is void.
    KeptVoid,
    /// Participants do not know what their log holds, and keep what it holds prepared.
    IgnoredTag,
    /// Participants take the parts of a change into their logs one by one.
    PartsAlone,
    /// Who does not follow the new writer yet answers, too.
    AnswerBehind,
    /// What is in a tail is forgotten when that is cut off.
    CutForgets,
    /// A client is told that nothing was written when a participant refuses.
    RefusedForAll,
    /// Who leaves does not count from then on, before the quorum has agreed.
    LeftAtOnce,
    /// The quorum is told who counts before those hold what was committed.
    JoinedAtOnce,
    /// Writes are synchronous again without a new term.
    SynchronousAtOnce,
    /// A person accepts a loss, and the term is not settled: what others have stays prepared there.
    AcceptedUnsettled,
}

#[derive(Clone, Debug)]
pub(crate) struct Commit {
    pub(crate) mutant: Mutant,
    pub(crate) form: Form,
    pub(crate) replicas: u8,
    pub(crate) rows: u8,
    pub(crate) parts: u8,
    pub(crate) budget: Budget,
    /// A writer answers only until another one is granted an epoch. Otherwise no lease ends.
    pub(crate) is_leased: bool,
    /// Actions of which nothing comes are left out, which ways by chance need.
    pub(crate) is_exact: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Write(u8, u8),
    WriteAlone(u8, u8),
    Prepare(u8, u8),
    Vote(u8, u8),
    Ship(u8, u8),
    Seal(u8),
    Cut(u8),
    Vacate,
    Claim(u8),
    Grant(u8),
    Begin(u8),
    Ask(u8, u8),
    TakeOver(u8),
    Open(u8),
    Accept(u8),
    BeSynchronous(u8),
    Change(u8, u8),
    Agree(u8),
    Changed(u8),
    Restart(u8),
    Die(u8),
}

impl Commit {
    fn act(&self, world: &mut World, action: Action) -> Option<()> {
        match action {
            Action::Write(writer, row) => self.write(world, writer, row),
            Action::WriteAlone(writer, row) => self.write_alone(world, writer, row),
            Action::Prepare(change, to) => self.prepare(world, change, to),
            Action::Vote(change, from) => self.vote(world, change, from),
            Action::Ship(from, to) => self.ship(world, from, to),
            Action::Seal(node) => self.seal(world, node, world.epoch),
            Action::Cut(node) => self.cut(world, node),
            Action::Vacate => {
                if world.claims.is_some() {
                    return None;
                }
                if world.is_live(world.writer) {
                    world.left.failovers = world.left.failovers.checked_sub(1)?;
                }
                world.claims = Some(0);
                Some(())
            }
            Action::Claim(node) => {
                let claims = world.claims? | 1 << node;
                let is_member = world.members & (1 << node) != 0;
                if world.claims == Some(claims) || !is_member || world.has_tail(node) {
                    return None;
                }
                self.seal(world, node, world.epoch + 1)?;
                world.claims = Some(claims);
                Some(())
            }
            Action::Grant(node) => self.grant(world, node),
            Action::Begin(node) => self.begin(world, node),
            Action::Ask(own, of) => self.ask(world, own, of),
            Action::TakeOver(node) => self.take_over(world, node),
            Action::Open(node) => self.open(world, node),
            Action::Accept(node) => self.accept(world, node),
            Action::BeSynchronous(node) => {
                let count = self.others(world.members, node);
                let writing = world.node(node).writing.as_ref()?;
                let may = self.mutant == Mutant::SynchronousAtOnce && world.is_live(node);
                if !may || writing.phase != Phase::Asynchronous {
                    return None;
                }
                let mut term = writing.term;
                term.life += 1;
                let node = world.node_mut(node);
                node.participant.promise(term).ok()?;
                let phase = Phase::Open(Votes::begin(term, count));
                node.writing = Some(Writing { term, phase, coming: None, has_agreed: false });
                Some(())
            }
            Action::Change(node, coming) => self.change(world, node, coming),
            Action::Agree(node) => self.agree(world, node),
            Action::Changed(node) => self.changed(world, node, true),
            Action::Restart(node) => {
                world.left.restarts = world.left.restarts.checked_sub(1)?;
                world.node_mut(node).writing.take().map(drop)
            }
            Action::Die(node) => {
                world.left.deaths = world.left.deaths.checked_sub(1)?;
                let claims = world.claims;
                let node_mut = world.node_mut(node);
                if node_mut.is_dead {
                    return None;
                }
                (node_mut.is_dead, node_mut.writing) = (true, None);
                world.claims = claims.map(|claims| claims & !(1 << node));
                Some(())
            }
        }
    }

    /// Whether something may come of preparing a change, and of its vote.
    fn may_come(&self, world: &World, number: u8, own: u8) -> (bool, bool) {
        let change = world.changes[usize::from(number)];
        if change.writer == own || !change.is_prepared() {
            return (false, false);
        }
        let participant = &world.node(own).participant;
        let has_voted = change.votes & (1 << own) != 0;
        let is_refused = change.tx.term < participant.promised().max(participant.settled());
        let may_be_refused = [Mutant::ForgottenPromise, Mutant::RefusedForAll];
        let is_there = has_voted && participant.prepared().any(|(tx, _)| tx == change.tx);
        let may_prepare = !is_there && (!is_refused || may_be_refused.contains(&self.mutant));
        let pending = world.pending(change.writer);
        (may_prepare, has_voted && pending.is_some_and(|votes| votes.is_pending(change.tx)))
    }

    /// What needs nobody's wish and no bad luck; most of that of which nothing comes is left out.
    fn steps(&self, world: &World, actions: &mut Vec<Action>) {
        for own in bits(world.live()) {
            let node = world.node(own);
            for change in 0..small(world.changes.len()) {
                let (may_prepare, may_vote) = self.may_come(world, change, own);
                actions.extend(may_prepare.then_some(Action::Prepare(change, own)));
                actions.extend(may_vote.then_some(Action::Vote(change, own)));
            }
            if let Some(writing) = &node.writing {
                for to in bits(world.live()) {
                    let lacks = world.node(to).log.len() < node.log.len();
                    actions.extend(lacks.then_some(Action::Ship(own, to)));
                }
                match &writing.phase {
                    Phase::Gathering(_) => {
                        actions.extend(bits(world.live()).map(|of| Action::Ask(own, of)));
                        actions.push(Action::TakeOver(own));
                    }
                    Phase::Committing(_) => actions.push(Action::TakeOver(own)),
                    Phase::Settling => actions.push(Action::Open(own)),
                    Phase::Open(_) | Phase::Asynchronous => {}
                }
                if writing.coming.is_some() {
                    actions.extend([Action::Agree(own), Action::Changed(own)]);
                }
            }
            let is_fallow = node.writing.as_ref().is_none_or(|it| it.phase == Phase::Asynchronous);
            if node.sealed() < world.epoch {
                actions.push(Action::Seal(own));
            } else if own == world.writer {
                actions.extend(is_fallow.then_some(Action::Begin(own)));
            } else if world.has_tail(own) {
                actions.push(Action::Cut(own));
            }
            if let Some(claims) = world.claims {
                let has_claimed = claims & (1 << own) != 0;
                actions.push(if has_claimed { Action::Grant(own) } else { Action::Claim(own) });
            }
        }
        if !world.is_live(world.writer) {
            actions.push(Action::Vacate);
        }
    }

    pub(crate) fn is_over(&self, world: &World) -> bool {
        let mut actions = Vec::new();
        self.steps(world, &mut actions);
        actions.into_iter().all(|action| self.next_state(world, action).is_none())
    }

    /// Whether the table is open and nothing is under way, as far as those allow it who live.
    pub(crate) fn is_well(&self, world: &World) -> bool {
        let node = world.node(world.writer);
        let coming = node.writing.as_ref().and_then(|writing| writing.coming);
        let are_too_few = |members: u8| {
            let others = Commit::others_count(members);
            let needed = (self.form.votes_needed(others) + 1).max(self.answers_needed(members));
            ((world.live() & members).count_ones() as usize) < needed
        };
        let is_idle = world.pending(world.writer).is_none_or(|it| it.pending().next().is_none());
        are_too_few(world.members)
            || coming.is_some_and(|(members, _)| are_too_few(members))
            || (node.is_open() && world.claims.is_none() && is_idle)
    }
}

impl Model for Commit {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let term = Term::first_of(1);
        let mut participant = Participant::default();
        participant.promise(term).unwrap();
        participant.settle(term);
        let log = vec![Entry::Opening(1), Entry::Settled(term)];
        let node = Node { is_dead: false, log, participant, writing: None };
        let members = (1 << self.replicas) - 1;
        let mut world = World {
            nodes: vec![node; self.replicas.into()],
            changes: Vec::new(),
            seen: Vec::new(),
            epoch: 1,
            writer: 0,
            members,
            claims: None,
            newest_open: term,
            is_answered_twice: false,
            accepted: None,
            left: self.budget,
        };
        let phase = Phase::Open(Votes::begin(term, self.others(members, 0)));
        world.nodes[0].writing = Some(Writing { term, phase, coming: None, has_agreed: false });
        vec![world]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        self.steps(world, actions);
        let left = world.left;
        if left.failovers > 0 && world.is_live(world.writer) {
            actions.push(Action::Vacate);
        }
        for own in 0..self.replicas {
            let node = world.node(own);
            if node.is_dead {
                continue;
            }
            if left.deaths > 0 {
                actions.push(Action::Die(own));
            }
            if node.writing.is_none() {
                continue;
            }
            if left.restarts > 0 {
                actions.push(Action::Restart(own));
            }
            if left.accepts > 0 {
                actions.push(Action::Accept(own));
            }
            if !node.is_open() {
                continue;
            }
            for row in 0..self.rows {
                actions.extend((left.writes > 0).then_some(Action::Write(own, row)));
                actions.extend((left.asynchronous > 0).then_some(Action::WriteAlone(own, row)));
            }
            if self.mutant == Mutant::SynchronousAtOnce {
                actions.push(Action::BeSynchronous(own));
            }
            if left.changes > 0 {
                let one_other = (0..self.replicas).map(|other| world.members ^ (1 << other));
                actions.extend(one_other.map(|coming| Action::Change(own, coming)));
            }
        }
        if self.is_exact {
            actions.retain(|action| self.next_state(world, *action).is_some());
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        self.act(&mut next, action)?;
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Commit>> {
        properties()
    }
}
