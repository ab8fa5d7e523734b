//! What can happen in a world, and which of it is tried.

use isthmus_control::atomic::Verdict;
use stateright::{Model, Property};

use crate::rules::properties;
use crate::world::{Entry, Message, Part, World, row};

/// The rule that is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    None,
    /// What is open in this term counts as given up.
    OpenIsAbandoned,
    /// The anchor decides when the first member has its intent.
    EarlyDecision,
    /// A member tells of its intent before that is durable.
    IntentNotDurable,
    /// Members are told of a decision that is not durable.
    DecisionNotDurable,
    /// A decision is forgotten when members have been told.
    ForgottenEarly,
    /// A member says that it has settled before that is durable.
    SettledNotDurable,
    /// Locks are in memory only.
    LocksForgotten,
    /// A process goes on in the term of the one before it.
    SameTerm,
    /// Members wait to be told.
    NobodyAsks,
    /// Clients are answered when all intents are there.
    EarlyAnswer,
}

#[derive(Clone, Debug)]
pub(crate) struct Batches {
    pub(crate) mutant: Mutant,
    /// The partitions of each; the first one is the anchor.
    pub(crate) batches: &'static [&'static [u8]],
    pub(crate) crashes: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Begin(u8),
    Deliver(Message),
    Decide(u8),
    GiveUp(u8),
    /// All that a partition has appended becomes durable.
    Sync(u8),
    /// A member asks what became of a batch.
    Ask(u8, u8),
    /// The anchor tells a member of a decision.
    Tell(u8, u8),
    Forget(u8),
    Crash(u8),
}

impl World {
    pub(crate) fn part(&self, part: u8) -> &Part {
        &self.parts[usize::from(part)]
    }

    fn append(&mut self, part: u8, entry: Entry) {
        self.parts[usize::from(part)].append(entry, &self.ids);
    }
}

impl Batches {
    /// The batches with their numbers.
    pub(crate) fn numbered(&self) -> impl Iterator<Item = (u8, &'static [u8])> {
        (0..).zip(self.batches.iter().copied())
    }

    fn anchor(&self, batch: u8) -> u8 {
        self.batches[usize::from(batch)][0]
    }

    fn act(&self, world: &mut World, action: Action) -> Option<()> {
        match action {
            Action::Begin(batch) => {
                let parts = self.batches[usize::from(batch)];
                let anchor = &mut world.parts[usize::from(parts[0])];
                if world.ids[usize::from(batch)].is_some() {
                    return None;
                }
                let id = anchor.books.begin(parts[1..].iter().copied().collect())?;
                world.ids[usize::from(batch)] = Some(id);
                let intend = |member: &u8| Message::Intend(batch, *member);
                world.messages.extend(parts[1..].iter().map(intend));
                Some(())
            }
            Action::Deliver(message) => self.deliver(world, message),
            Action::Decide(batch) => {
                let id = world.ids[usize::from(batch)]?;
                let anchor = world.part(self.anchor(batch));
                let is_any = self.mutant == Mutant::EarlyDecision
                    && anchor.books.verdict(id, false) == Verdict::Open
                    && world.messages.contains(&Message::Intended(batch, 1));
                let may = anchor.books.may_decide(id) || is_any;
                let is_locked = anchor.locks.holder(&row()).is_some();
                if !may || is_locked || anchor.has(Entry::Decided(batch)) {
                    return None;
                }
                world.append(self.anchor(batch), Entry::Decided(batch));
                if self.mutant == Mutant::EarlyAnswer {
                    world.told_made.insert(batch);
                }
                Some(())
            }
            Action::GiveUp(batch) => {
                let id = world.ids[usize::from(batch)]?;
                let anchor = &mut world.parts[usize::from(self.anchor(batch))];
                let is_open = anchor.books.verdict(id, false) == Verdict::Open;
                if !is_open || anchor.has(Entry::Decided(batch)) {
                    return None;
                }
                anchor.books.close(id);
                world.told_refused.insert(batch);
                Some(())
            }
            Action::Sync(part) => self.sync(world, part),
            Action::Ask(part, batch) => {
                let id = world.ids[usize::from(batch)]?;
                if !world.part(part).locks.has(id) || self.mutant == Mutant::NobodyAsks {
                    return None;
                }
                let verdict = world.part(self.anchor(batch)).verdict(batch, id);
                let told = match verdict {
                    Verdict::Open if self.mutant != Mutant::OpenIsAbandoned => return None,
                    Verdict::Committed => Message::Commit(batch, part),
                    Verdict::Open | Verdict::Abandoned => Message::Abandon(batch, part),
                };
                world.messages.insert(told).then_some(())
            }
            Action::Tell(batch, member) => {
                let id = world.ids[usize::from(batch)]?;
                let anchor = world.part(self.anchor(batch));
                let is_early = self.mutant == Mutant::DecisionNotDurable;
                let is_made = anchor.verdict(batch, id) == Verdict::Committed
                    || is_early && anchor.is_decided(batch);
                let told = Message::Commit(batch, member);
                (is_made && world.messages.insert(told)).then_some(())
            }
            Action::Forget(batch) => {
                let parts = self.batches[usize::from(batch)];
                let is_told = |member: &u8| {
                    let settled = Message::HasSettled(batch, *member);
                    let early = self.mutant == Mutant::ForgottenEarly;
                    let told = Message::Commit(batch, *member);
                    world.messages.contains(&settled) || early && world.messages.contains(&told)
                };
                let is_decided = world.part(parts[0]).is_decided(batch);
                if !is_decided || !parts[1..].iter().all(is_told) {
                    return None;
                }
                world.append(parts[0], Entry::Forgotten(batch));
                Some(())
            }
            Action::Crash(part) => {
                world.crashes = world.crashes.checked_sub(1)?;
                let ids = world.ids.clone();
                let is_same_term = self.mutant == Mutant::SameTerm;
                let keeps = self.mutant != Mutant::LocksForgotten;
                world.parts[usize::from(part)].crash(&ids, is_same_term, keeps);
                Some(())
            }
        }
    }

    /// What was appended is durable, and what waits for that is told.
    fn sync(&self, world: &mut World, part: u8) -> Option<()> {
        let known = &mut world.parts[usize::from(part)];
        if known.durable == known.log.len() {
            return None;
        }
        let new = known.log[known.durable..].to_vec();
        known.durable = known.log.len();
        for entry in new {
            match entry {
                Entry::Intent(batch) => {
                    world.messages.insert(Message::Intended(batch, part));
                }
                Entry::Settled(batch) => {
                    world.messages.insert(Message::HasSettled(batch, part));
                }
                Entry::Decided(batch) => {
                    let id = world.ids[usize::from(batch)]?;
                    world.parts[usize::from(part)].books.close(id);
                    world.told_made.insert(batch);
                }
                Entry::Abandoned(_) | Entry::Forgotten(_) => {}
            }
        }
        Some(())
    }

    fn deliver(&self, world: &mut World, message: Message) -> Option<()> {
        match message {
            Message::Intend(batch, member) => {
                // It is sent once.
                world.messages.remove(&message);
                if world.part(member).locks.holder(&row()).is_some() {
                    return Some(());
                }
                world.append(member, Entry::Intent(batch));
                if self.mutant == Mutant::IntentNotDurable {
                    world.messages.insert(Message::Intended(batch, member));
                }
                Some(())
            }
            Message::Intended(batch, member) => {
                let id = world.ids[usize::from(batch)]?;
                let books = &mut world.parts[usize::from(self.anchor(batch))].books;
                let before = books.clone();
                books.intended(id, &member);
                (*books != before).then_some(())
            }
            Message::Commit(batch, member) | Message::Abandon(batch, member) => {
                let id = world.ids[usize::from(batch)]?;
                if !world.part(member).locks.has(id) {
                    return None;
                }
                let is_made = matches!(message, Message::Commit(..));
                let entry = if is_made { Entry::Settled(batch) } else { Entry::Abandoned(batch) };
                world.append(member, entry);
                if is_made && self.mutant == Mutant::SettledNotDurable {
                    world.messages.insert(Message::HasSettled(batch, member));
                }
                Some(())
            }
            // The anchor looks at it when it forgets.
            Message::HasSettled(..) => None,
        }
    }

    fn steps(&self, world: &World, actions: &mut Vec<Action>) {
        actions.extend(world.messages.iter().map(|message| Action::Deliver(*message)));
        for (batch, parts) in self.numbered() {
            actions.extend([Action::Decide(batch), Action::GiveUp(batch), Action::Forget(batch)]);
            for member in &parts[1..] {
                actions.extend([Action::Tell(batch, *member), Action::Ask(*member, batch)]);
            }
        }
        actions.extend((0..3).map(Action::Sync));
    }

    /// Whether nothing happens any more by itself.
    pub(crate) fn is_over(&self, world: &World) -> bool {
        let mut actions = Vec::new();
        self.steps(world, &mut actions);
        actions.into_iter().all(|action| self.next_state(world, action).is_none())
    }
}

impl Model for Batches {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World {
            parts: (0..3).map(Part::new).collect(),
            ids: vec![None; self.batches.len()],
            messages: Default::default(),
            told_made: Default::default(),
            told_refused: Default::default(),
            crashes: self.crashes,
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        self.steps(world, actions);
        actions.extend(self.numbered().map(|(batch, _)| Action::Begin(batch)));
        if world.crashes > 0 {
            actions.extend((0..3).map(Action::Crash));
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        self.act(&mut next, action)?;
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Batches>> {
        properties()
    }
}
