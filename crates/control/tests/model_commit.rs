//! Searches all that the replicas of a table with one writer can do while its writes are committed
//! synchronously.
//!
//! What a participant remembers, how votes are counted and what is taken over are the real code.
//! Prepared changes and votes are under way for as long as they like and come again; entries come
//! one by one; writers start again, are superseded, stop for good, and go on without knowing that
//! another one has been granted an epoch. The quorum is one step: what it does is searched in
//! `model_failover.rs`. Each mutant forgets one rule, and the search must find what comes of it.

#![cfg(test)]

use isthmus_control::commit::{
    Answer, Count, Form, Kept, Participant, Prepared, Recovery, Refusal, TailChange, Term, TxId,
    Votes,
};
use stateright::{Checker, HasDiscoveries, Model, Property, UniformChooser};

/// The rule that is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutant {
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
}

/// How often something may happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Budget {
    writes: u8,
    failovers: u8,
    restarts: u8,
    deaths: u8,
    changes: u8,
    /// Writes without anybody else.
    asynchronous: u8,
}

#[derive(Clone, Debug)]
struct Commit {
    mutant: Mutant,
    form: Form,
    replicas: u8,
    rows: u8,
    parts: u8,
    budget: Budget,
    /// A writer answers only until another one is granted an epoch. Otherwise no lease ends.
    is_leased: bool,
    /// Actions of which nothing comes are left out, which ways by chance need.
    is_exact: bool,
}

/// An entry of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Entry {
    Opening(u8),
    Settled(Term),
    /// Which change, and which part of it, from 1.
    Part(u8, u8),
}

/// A change that was sent, or written without anybody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Change {
    tx: TxId,
    writer: u8,
    row: u8,
    /// The change of the row on which it was judged.
    base: Option<u8>,
    /// Who has voted for it.
    votes: u8,
    /// Its client was told that nothing was written.
    is_refused: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Node {
    is_dead: bool,
    log: Vec<Entry>,
    participant: Participant,
    writing: Option<Writing>,
}

/// What a process that writes has in memory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Writing {
    term: Term,
    phase: Phase,
    /// Who will count, and the end of the log when that was asked for.
    coming: Option<(u8, u8)>,
    has_agreed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Gathering(Recovery<u8>),
    Committing(Vec<(TxId, u32)>),
    Settling,
    Open(Votes<u8>),
    Asynchronous,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    nodes: Vec<Node>,
    changes: Vec<Change>,
    /// What was answered, or could be read while nobody else had been granted an epoch.
    seen: Vec<u8>,
    epoch: u8,
    writer: u8,
    /// Who counts.
    members: u8,
    /// Nobody writes, and those have claimed.
    claims: Option<u8>,
    newest_open: Term,
    is_answered_twice: bool,
    left: Budget,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
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
    BeSynchronous(u8),
    Change(u8, u8),
    Agree(u8),
    Changed(u8),
    Restart(u8),
    Die(u8),
}

fn set_promised(participant: &mut Participant, promised: Term, parts: u8) {
    let prepared = participant.prepared().map(|(tx, _)| (tx, parts.into()));
    let prepared: Vec<(TxId, u32)> = prepared.collect();
    *participant = Participant::restore(&Kept { promised, ..participant.kept() }, prepared);
}

fn bits(mask: u8) -> impl Iterator<Item = u8> {
    (0..8).filter(move |bit| mask & (1 << bit) != 0)
}

fn small(number: usize) -> u8 {
    u8::try_from(number).unwrap()
}

impl Entry {
    fn change(self) -> Option<u8> {
        match self {
            Entry::Part(change, _) => Some(change),
            _ => None,
        }
    }
}

impl Node {
    fn end(&self) -> u8 {
        small(self.log.len())
    }

    /// By which logs are compared: the epoch of the newest entry, and its LSN.
    fn reach(&self) -> (u8, u8) {
        let opening = self.log.iter().rev().find_map(|entry| match entry {
            Entry::Opening(epoch) => Some(*epoch),
            _ => None,
        });
        (opening.unwrap(), self.end())
    }

    fn sealed(&self) -> u8 {
        small(self.participant.promised().epoch as usize)
    }

    fn has_opened(&self, epoch: u8) -> bool {
        self.log.contains(&Entry::Opening(epoch))
    }

    fn parts_of(&self, change: u8) -> usize {
        self.log.iter().filter(|entry| entry.change() == Some(change)).count()
    }

    fn newest_of(&self, row: u8, changes: &[Change]) -> Option<u8> {
        self.log.iter().rev().find_map(|entry| match entry {
            Entry::Part(change, _) if changes[usize::from(*change)].row == row => Some(*change),
            _ => None,
        })
    }

    fn is_open(&self) -> bool {
        let phase = self.writing.as_ref().map(|writing| &writing.phase);
        !self.is_dead && matches!(phase, Some(Phase::Open(_) | Phase::Asynchronous))
    }
}

impl Change {
    /// Others are asked for it.
    fn is_prepared(&self) -> bool {
        self.tx.term.epoch > 0
    }
}

impl World {
    fn node(&self, node: u8) -> &Node {
        &self.nodes[usize::from(node)]
    }

    fn node_mut(&mut self, node: u8) -> &mut Node {
        &mut self.nodes[usize::from(node)]
    }

    fn number_of(&self, tx: TxId) -> u8 {
        small(self.changes.iter().position(|change| change.tx == tx).unwrap())
    }

    /// Through where the log of a node is that of the region that was granted the newest epoch.
    fn agrees_through(&self, node: u8) -> usize {
        let logs = self.node(node).log.iter().zip(&self.node(self.writer).log);
        logs.take_while(|(own, other)| own == other).count()
    }

    fn has_tail(&self, node: u8) -> bool {
        self.agrees_through(node) < self.node(node).log.len()
    }

    fn follows(&self, node: u8, writer: u8) -> bool {
        self.node(writer).log.starts_with(&self.node(node).log)
    }

    fn is_live(&self, node: u8) -> bool {
        !self.node(node).is_dead
    }

    fn live(&self) -> u8 {
        (0..small(self.nodes.len())).filter(|node| self.is_live(*node)).map(|node| 1 << node).sum()
    }

    fn pending(&self, writer: u8) -> Option<&Votes<u8>> {
        match &self.node(writer).writing.as_ref()?.phase {
            Phase::Open(votes) => Some(votes),
            _ => None,
        }
    }

    fn is_held_by(&self, writer: u8, term: Term) -> bool {
        self.writer == writer && u64::from(self.epoch) == term.epoch
    }

    fn see(&mut self, change: u8) {
        let is_prepared = self.changes[usize::from(change)].is_prepared();
        if is_prepared && !self.seen.contains(&change) {
            self.seen.push(change);
        }
    }
}

impl Commit {
    fn others(&self, members: u8, own: u8) -> Count<u8> {
        let mut count = Count::new(self.form, bits(members & !(1 << own)));
        if self.mutant == Mutant::FewerVotes {
            count.needed -= 1;
        }
        count
    }

    fn others_count(members: u8) -> usize {
        members.count_ones() as usize - 1
    }

    fn answers_needed(&self, members: u8) -> usize {
        self.form.answers_needed(Commit::others_count(members))
    }

    fn apply(&self, node: &mut Node, entry: Entry, changes: &[Change]) {
        node.log.push(entry);
        match entry {
            Entry::Opening(_) => {}
            Entry::Settled(_) if self.mutant == Mutant::KeptVoid => {}
            Entry::Settled(term) => drop(node.participant.settle(term)),
            Entry::Part(..) if self.mutant == Mutant::IgnoredTag => {}
            Entry::Part(change, part) => {
                let change = changes[usize::from(change)];
                if change.is_prepared() {
                    node.participant.applied(change.tx, part.into(), self.parts.into());
                }
            }
        }
    }

    /// Commits what is missing of a change, in one step.
    fn commit(&self, world: &mut World, writer: u8, change: u8, done: u8) {
        let World { nodes, changes, .. } = world;
        for part in done + 1..=self.parts {
            self.apply(&mut nodes[usize::from(writer)], Entry::Part(change, part), changes);
        }
    }

    fn decided(&self, world: &mut World, writer: u8, tx: TxId) {
        let change = world.number_of(tx);
        self.commit(world, writer, change, 0);
        self.answer(world, writer, change, tx.term);
    }

    fn answer(&self, world: &mut World, writer: u8, change: u8, term: Term) {
        if !self.is_leased || world.is_held_by(writer, term) {
            world.see(change);
            world.is_answered_twice |= self.is_leased && term < world.newest_open;
        }
    }

    fn write(&self, world: &mut World, writer: u8, row: u8) -> Option<()> {
        world.left.writes = world.left.writes.checked_sub(1)?;
        let base = world.node(writer).newest_of(row, &world.changes);
        let World { changes, nodes, .. } = world;
        let Phase::Open(votes) = &mut nodes[usize::from(writer)].writing.as_mut()?.phase else {
            return None;
        };
        let is_locked = |(tx, _)| changes.iter().any(|it| it.tx == tx && it.row == row);
        if votes.pending().any(is_locked) {
            return None;
        }
        let tx = votes.next();
        let is_decided = votes.open(tx, 0).unwrap();
        changes.push(Change { tx, writer, row, base, votes: 0, is_refused: false });
        if is_decided {
            self.decided(world, writer, tx);
        }
        if self.mutant == Mutant::EarlyAnswer {
            self.answer(world, writer, small(world.changes.len() - 1), tx.term);
        }
        Some(())
    }

    /// A write that nobody else is asked for, and whose client was promised no more than that.
    fn write_alone(&self, world: &mut World, writer: u8, row: u8) -> Option<()> {
        world.left.asynchronous = world.left.asynchronous.checked_sub(1)?;
        let node = world.node_mut(writer);
        let writing = node.writing.as_mut()?;
        match &writing.phase {
            Phase::Asynchronous => {}
            // What is under way is waited for.
            Phase::Open(votes) if votes.pending().next().is_none() => {}
            _ => return None,
        }
        writing.phase = Phase::Asynchronous;
        // It has no name; here one that nobody else has.
        let term = Term { epoch: 0, life: 0 };
        let number = world.changes.len() as u64 + 1;
        let base = world.node(writer).newest_of(row, &world.changes);
        let tx = TxId { term, number };
        let change = small(world.changes.len());
        world.changes.push(Change { tx, writer, row, base, votes: 0, is_refused: false });
        self.commit(world, writer, change, 0);
        Some(())
    }

    fn prepare(&self, world: &mut World, change: u8, to: u8) -> Option<()> {
        let known = world.changes[usize::from(change)];
        let Change { tx, writer, votes, is_refused, .. } = known;
        if writer == to || !world.is_live(to) || !known.is_prepared() {
            return None;
        }
        let participant = &mut world.node_mut(to).participant;
        let promised = participant.promised();
        if self.mutant == Mutant::ForgottenPromise {
            set_promised(participant, Term::default(), self.parts);
        }
        let prepared = participant.prepare(tx, self.parts.into());
        if self.mutant == Mutant::ForgottenPromise {
            set_promised(participant, promised, self.parts);
        }
        match prepared {
            Ok(prepared) => {
                world.changes[usize::from(change)].votes |= 1 << to;
                let is_news = prepared == Prepared::New || votes & (1 << to) == 0;
                is_news.then_some(())
            }
            Err(Refusal::Promised(_)) if self.mutant == Mutant::RefusedForAll => {
                let is_pending = world.pending(writer).is_some_and(|votes| votes.is_pending(tx));
                world.changes[usize::from(change)].is_refused = true;
                (is_pending && !is_refused).then_some(())
            }
            Err(_) => None,
        }
    }

    fn vote(&self, world: &mut World, change: u8, from: u8) -> Option<()> {
        let Change { tx, writer, votes, .. } = world.changes[usize::from(change)];
        if votes & (1 << from) == 0 || !world.is_live(writer) {
            return None;
        }
        let before = world.pending(writer)?.clone();
        let Phase::Open(votes) = &mut world.node_mut(writer).writing.as_mut()?.phase else {
            return None;
        };
        let mut is_decided = votes.vote(&from, tx);
        if self.mutant == Mutant::VoteTwice && *votes == before && before.is_pending(tx) {
            // As a count would be that does not look at who votes.
            let other = before.missing(tx).next().copied();
            is_decided = votes.vote(&other?, tx);
        }
        if !is_decided && *votes == before {
            return None;
        }
        if is_decided {
            self.decided(world, writer, tx);
        }
        Some(())
    }

    fn ship(&self, world: &mut World, from: u8, to: u8) -> Option<()> {
        let term = world.node(from).writing.as_ref()?.term;
        let may_send = from != to && world.is_live(from) && world.is_live(to);
        let taker = world.node(to);
        let is_taken = taker.writing.is_none() && taker.participant.promised().epoch <= term.epoch;
        if !may_send || !is_taken || !world.follows(to, from) {
            return None;
        }
        let entry = *world.node(from).log.get(taker.log.len())?;
        let following = world.node(from).log[taker.log.len() + 1..].iter();
        let is_rest = |it: &&Entry| entry.change().is_some() && it.change() == entry.change();
        let rest: Vec<Entry> = following.take_while(is_rest).copied().collect();
        let World { nodes, changes, .. } = world;
        let taker = &mut nodes[usize::from(to)];
        if taker.participant.promised().epoch < term.epoch {
            taker.participant.promise(Term { epoch: term.epoch, life: 0 }).unwrap();
        }
        self.apply(taker, entry, changes);
        // All parts of a change in one step.
        if self.mutant != Mutant::PartsAlone {
            for part in rest {
                self.apply(taker, part, changes);
            }
        }
        Some(())
    }

    /// Takes nothing of older epochs from now on.
    fn seal(&self, world: &mut World, node: u8, epoch: u8) -> Option<()> {
        let node = world.node_mut(node);
        if node.is_dead || node.sealed() >= epoch {
            return None;
        }
        node.participant.promise(Term::first_of(epoch.into())).unwrap();
        node.writing = None;
        Some(())
    }

    fn cut(&self, world: &mut World, node: u8) -> Option<()> {
        let through = world.agrees_through(node);
        let World { nodes, changes, epoch, writer, .. } = world;
        let replica = &mut nodes[usize::from(node)];
        let is_sealed = replica.sealed() >= *epoch && replica.writing.is_none();
        if replica.is_dead || !is_sealed || node == *writer || replica.log.len() == through {
            return None;
        }
        let tail = replica.log.split_off(through);
        let settled = replica.log.iter().rev().find_map(|entry| match entry {
            Entry::Settled(term) => Some(*term),
            _ => None,
        });
        let mut in_tail: Vec<u8> = tail.iter().filter_map(|entry| entry.change()).collect();
        in_tail.dedup();
        in_tail.retain(|change| changes[usize::from(*change)].is_prepared());
        if self.mutant == Mutant::CutForgets {
            in_tail.clear();
        }
        let in_tail: Vec<TailChange> = in_tail
            .into_iter()
            .map(|change| TailChange {
                tx: changes[usize::from(change)].tx,
                done: u32::from(small(replica.parts_of(change))),
                of: self.parts.into(),
            })
            .collect();
        replica.participant.cut(settled.unwrap(), in_tail);
        Some(())
    }

    fn grant(&self, world: &mut World, node: u8) -> Option<()> {
        let claims = world.claims?;
        let best = bits(claims).map(|node| world.node(node).reach()).max()?;
        let are_enough = claims.count_ones() as usize >= self.answers_needed(world.members);
        let has_claimed = claims & (1 << node) != 0;
        if !are_enough || !has_claimed || world.node(node).reach() != best {
            return None;
        }
        world.epoch += 1;
        world.writer = node;
        world.claims = None;
        Some(())
    }

    fn begin(&self, world: &mut World, own: u8) -> Option<()> {
        let (epoch, members) = (world.epoch, world.members);
        let World { nodes, changes, .. } = world;
        let node = &mut nodes[usize::from(own)];
        if node.is_dead || own != world.writer || node.sealed() != epoch {
            return None;
        }
        let is_anew = match &node.writing {
            None => true,
            Some(writing) => writing.phase == Phase::Asynchronous,
        };
        if !is_anew {
            return None;
        }
        let mut term = node.participant.promised();
        if node.has_opened(epoch) {
            term = term.next();
            node.participant.promise(term).unwrap();
        } else {
            self.apply(node, Entry::Opening(epoch), changes);
        }
        let needed =
            self.answers_needed(members) - usize::from(self.mutant == Mutant::FewerAnswers);
        let end = node.end().into();
        let recovery = Recovery::new(term, (own, &node.participant), needed, end).unwrap();
        let phase = Phase::Gathering(recovery);
        node.writing = Some(Writing { term, phase, coming: None, has_agreed: false });
        Some(())
    }

    fn ask(&self, world: &mut World, own: u8, of: u8) -> Option<()> {
        let may_answer = world.is_live(own) && world.is_live(of) && own != of;
        if !may_answer || world.members & (1 << of) == 0 || world.node(of).writing.is_some() {
            return None;
        }
        let term = world.node(own).writing.as_ref()?.term;
        let is_behind = !world.follows(of, own);
        let asked = world.node(of);
        if asked.participant.promised().epoch > term.epoch {
            return None;
        }
        let held = if is_behind { 0 } else { asked.log.len() as u64 };
        let mut answer: Answer = asked.participant.answer(held);
        let Phase::Gathering(recovery) = &mut world.node_mut(own).writing.as_mut()?.phase else {
            return None;
        };
        if self.mutant == Mutant::AnswerBehind {
            (answer.held, answer.promised) = (recovery.end(), term);
        }
        if recovery.has_answered(&of) {
            return None;
        }
        recovery.answer(of, answer).ok()
    }

    /// Commits the next change that was found; after the last one the term is settled.
    fn take_over(&self, world: &mut World, own: u8) -> Option<()> {
        let node = world.node_mut(own);
        if node.is_dead {
            return None;
        }
        let writing = node.writing.as_mut()?;
        let term = writing.term;
        if let Phase::Gathering(recovery) = &writing.phase {
            let found = recovery.plan()?;
            assert!(found.torn.is_empty() || self.mutant != Mutant::None, "{found:?}");
            writing.phase = Phase::Committing(found.commit);
        }
        let Phase::Committing(found) = &mut writing.phase else { return None };
        if found.is_empty() {
            writing.phase = Phase::Settling;
            let World { nodes, changes, .. } = world;
            self.apply(&mut nodes[usize::from(own)], Entry::Settled(term), changes);
            return Some(());
        }
        let (tx, done) = found.remove(0);
        let change = world.number_of(tx);
        self.commit(world, own, change, small(done as usize));
        Some(())
    }

    fn open(&self, world: &mut World, own: u8) -> Option<()> {
        let count = self.others(world.members, own);
        let writing = world.node(own).writing.as_ref()?;
        let term = writing.term;
        if writing.phase != Phase::Settling || !world.is_live(own) {
            return None;
        }
        let holds = |node: &u8| world.node(*node).log.contains(&Entry::Settled(term));
        let is_held = count.others.iter().filter(|node| holds(node)).count() >= count.needed;
        if !is_held && self.mutant != Mutant::Unsettled {
            return None;
        }
        let node = world.node_mut(own);
        node.writing.as_mut()?.phase = Phase::Open(Votes::begin(term, count));
        // What it holds can be read.
        if world.is_held_by(own, term) {
            let log = world.node(own).log.clone();
            log.into_iter().filter_map(Entry::change).for_each(|change| world.see(change));
        }
        world.newest_open = world.newest_open.max(term);
        Some(())
    }

    /// Asks that others count.
    fn change(&self, world: &mut World, own: u8, coming: u8) -> Option<()> {
        world.left.changes = world.left.changes.checked_sub(1)?;
        let count = self.others(coming, own);
        let is_change = coming != world.members && coming & (1 << own) != 0;
        let node = world.node_mut(own);
        let end = node.end();
        let writing = node.writing.as_mut()?;
        let Phase::Open(votes) = &mut writing.phase else { return None };
        if writing.coming.is_some() || !is_change || node.is_dead {
            return None;
        }
        votes.change(count);
        writing.coming = Some((coming, end));
        if self.mutant == Mutant::LeftAtOnce {
            self.changed(world, own, false);
        }
        Some(())
    }

    /// The quorum agrees on who counts.
    fn agree(&self, world: &mut World, own: u8) -> Option<()> {
        let writing = world.node(own).writing.as_ref()?;
        let (coming, end) = writing.coming?;
        let is_its = world.claims.is_none() && u64::from(world.epoch) == writing.term.epoch;
        if writing.has_agreed || !is_its || world.writer != own || !world.is_live(own) {
            return None;
        }
        let count = self.others(coming, own);
        let holds = |node: &u8| world.follows(*node, own) && world.node(*node).end() >= end;
        let is_held = count.others.iter().filter(|node| holds(node)).count() >= count.needed;
        if !is_held && self.mutant != Mutant::JoinedAtOnce {
            return None;
        }
        world.members = coming;
        world.node_mut(own).writing.as_mut()?.has_agreed = true;
        Some(())
    }

    fn changed(&self, world: &mut World, own: u8, is_told: bool) -> Option<()> {
        let node = world.node_mut(own);
        let writing = node.writing.as_mut()?;
        if node.is_dead || (is_told && !writing.has_agreed) {
            return None;
        }
        let Phase::Open(votes) = &mut writing.phase else { return None };
        let decided = votes.changed();
        if is_told {
            (writing.coming, writing.has_agreed) = (None, false);
        }
        for tx in decided {
            self.decided(world, own, tx);
        }
        Some(())
    }

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

    fn is_over(&self, world: &World) -> bool {
        let mut actions = Vec::new();
        self.steps(world, &mut actions);
        actions.into_iter().all(|action| self.next_state(world, action).is_none())
    }

    /// Whether the table is open and nothing is under way, as far as those allow it who live.
    fn is_well(&self, world: &World) -> bool {
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
        /// Whether a rule holds of every writer that has opened its term.
        fn of_open(world: &World, holds: impl Fn(&Node, Term) -> bool) -> bool {
            let open = world.nodes.iter().filter(|node| node.is_open());
            open.into_iter().all(|node| holds(node, node.writing.as_ref().unwrap().term))
        }
        vec![
            Property::always(KEPT, |model: &Commit, world: &World| {
                of_open(world, |node, term| {
                    let older = |change: &&u8| world.changes[usize::from(**change)].tx.term < term;
                    let is_kept = |change: &u8| node.parts_of(*change) >= model.parts.into();
                    let is_newest = term >= world.newest_open;
                    !is_newest || world.seen.iter().filter(older).all(is_kept)
                })
            }),
            Property::always(ATOMIC, |model: &Commit, world: &World| {
                of_open(world, |node, _| {
                    world.changes.iter().enumerate().all(|(number, change)| {
                        let parts = node.parts_of(small(number));
                        !change.is_prepared() || parts == 0 || parts == usize::from(model.parts)
                    })
                })
            }),
            Property::always(TWICE, |_, world: &World| {
                world.nodes.iter().all(|node| {
                    let mut log = node.log.iter().enumerate();
                    log.all(|(at, entry)| !node.log[..at].contains(entry))
                })
            }),
            Property::always(ORDER, |_, world: &World| {
                world.nodes.iter().all(|node| {
                    let mut newest = [None; 4];
                    node.log.iter().all(|entry| match entry {
                        Entry::Part(change, 1) => {
                            let Change { row, base, .. } = world.changes[usize::from(*change)];
                            newest[usize::from(row)].replace(*change) == base
                        }
                        _ => true,
                    })
                })
            }),
            Property::always(REFUSED, |_, world: &World| {
                of_open(world, |node, _| {
                    let refused = world.changes.iter().enumerate().filter(|(_, it)| it.is_refused);
                    refused.into_iter().all(|(change, _)| node.parts_of(small(change)) == 0)
                })
            }),
            Property::always(ONE, |_, world: &World| !world.is_answered_twice),
            Property::always(GOES_ON, |model: &Commit, world: &World| {
                model.is_well(world) || !model.is_over(world)
            }),
            Property::sometimes(SECOND, |_, world: &World| world.newest_open.epoch > 1),
        ]
    }
}

const KEPT: &str = "what was answered is in the log of a later term";
const ATOMIC: &str = "a change is there wholly or not at all";
const TWICE: &str = "no entry is there twice";
const ORDER: &str = "each change of a row follows the one on which it was judged";
const REFUSED: &str = "what was refused is never there";
const ONE: &str = "nobody answers in a term before one that was opened";
const GOES_ON: &str = "the table opens again in the end";
const SECOND: &str = "another epoch is opened";

const RULES: [&str; 7] = [KEPT, ATOMIC, TWICE, ORDER, REFUSED, ONE, GOES_ON];
/// Worlds that are looked at where there are too many; `WAYS_WORLDS` sets another number.
const WORLDS: usize = 20_000;

fn model(form: Form, replicas: u8, budget: Budget) -> Commit {
    Commit {
        mutant: Mutant::None,
        form,
        replicas,
        rows: 1,
        parts: 1,
        budget,
        is_leased: false,
        is_exact: false,
    }
}

/// Searches everything.
fn holds(model: Commit) {
    let what = format!("{:?} {} {:?}", model.form, model.replicas, model.budget);
    let checker = model.checker().threads(2).spawn_bfs().join();
    eprintln!("{} worlds: {what}", checker.unique_state_count());
    for rule in RULES {
        checker.assert_no_discovery(rule);
    }
}

/// Goes ways by chance through what is too large to be searched.
fn holds_by_chance(model: Commit) {
    let model = Commit { is_exact: true, ..model };
    let number = |name: &str| std::env::var(name).ok()?.parse().ok();
    let worlds = number("WAYS_WORLDS").map_or(WORLDS, |worlds: u64| worlds as usize);
    let search = model.checker().target_state_count(worlds);
    let seed = number("SEED").unwrap_or(7);
    let checker = search.spawn_simulation(seed, UniformChooser).join();
    eprintln!("{} worlds on ways of up to {} steps", checker.state_count(), checker.max_depth());
    RULES.into_iter().for_each(|rule| checker.assert_no_discovery(rule));
    checker.assert_any_discovery(SECOND);
}

/// Searches until a rule is seen broken.
fn breaks(mutant: Mutant, rule: &'static str, model: Commit) {
    let search = Commit { mutant, ..model }.checker().threads(2);
    let checker = search.finish_when(HasDiscoveries::AnyOf([rule].into())).spawn_bfs().join();
    eprintln!("{} worlds: {mutant:?}", checker.unique_state_count());
    assert!(checker.discovery(rule).is_some(), "the search is too small to find it");
}

fn once() -> Budget {
    Budget { writes: 1, failovers: 1, ..Budget::default() }
}

fn three(budget: Budget) -> Commit {
    model(Form::ThreePhase, 3, budget)
}

fn two(budget: Budget) -> Commit {
    model(Form::TwoPhase, 3, budget)
}

#[test]
fn one_failover_holds() {
    holds(three(Budget { writes: 2, ..once() }));
    holds(two(Budget { writes: 2, ..once() }));
    holds(Commit { is_leased: true, ..three(Budget { writes: 2, ..once() }) });
}

#[test]
fn changes_of_several_parts_hold() {
    holds(Commit { parts: 2, ..three(once()) });
    holds(Commit { parts: 2, ..two(Budget { writes: 2, ..once() }) });
}

#[test]
fn changes_of_several_rows_at_once_hold() {
    holds(Commit { rows: 2, ..three(Budget { writes: 2, ..once() }) });
}

#[test]
fn restarts_hold() {
    holds(three(Budget { writes: 2, restarts: 1, ..Budget::default() }));
    holds(three(Budget { restarts: 1, ..once() }));
    holds(two(Budget { restarts: 1, ..once() }));
}

#[test]
fn two_failovers_hold() {
    holds(three(Budget { failovers: 2, ..once() }));
    holds(two(Budget { failovers: 2, ..once() }));
}

#[test]
fn the_loss_of_any_one_region_holds() {
    holds(three(Budget { deaths: 1, ..once() }));
    holds(two(Budget { deaths: 1, ..once() }));
}

#[test]
fn four_replicas_hold() {
    holds(model(Form::ThreePhase, 4, Budget { failovers: 0, deaths: 1, ..once() }));
}

#[test]
fn who_leaves_and_comes_back_holds() {
    holds(two(Budget { changes: 2, ..once() }));
    holds(three(Budget { changes: 1, ..once() }));
}

#[test]
fn writes_without_the_others_in_between_hold() {
    holds(three(Budget { asynchronous: 1, ..once() }));
}

#[test]
fn much_at_once_holds_on_ways_by_chance() {
    let budget =
        Budget { writes: 4, failovers: 3, restarts: 2, deaths: 1, changes: 2, asynchronous: 1 };
    let several = Commit { rows: 2, parts: 2, ..model(Form::ThreePhase, 5, budget) };
    holds_by_chance(several.clone());
    holds_by_chance(Commit { replicas: 3, ..several.clone() });
    holds_by_chance(Commit { replicas: 4, form: Form::TwoPhase, ..several });
}

#[test]
fn a_vote_that_counts_twice_is_found() {
    breaks(Mutant::VoteTwice, KEPT, two(once()));
}

#[test]
fn one_vote_too_few_is_found() {
    breaks(Mutant::FewerVotes, KEPT, three(once()));
}

#[test]
fn an_answer_before_the_decision_is_found() {
    breaks(Mutant::EarlyAnswer, KEPT, three(once()));
}

#[test]
fn a_forgotten_promise_is_found() {
    breaks(Mutant::ForgottenPromise, KEPT, three(once()));
}

#[test]
fn a_new_writer_that_asks_too_few_is_found() {
    breaks(Mutant::FewerAnswers, KEPT, three(once()));
}

#[test]
fn a_term_that_is_not_waited_for_is_found() {
    breaks(Mutant::Unsettled, ORDER, three(Budget { writes: 2, restarts: 1, ..once() }));
}

#[test]
fn void_changes_that_are_kept_are_found() {
    breaks(Mutant::KeptVoid, ORDER, three(Budget { writes: 2, restarts: 1, ..once() }));
}

#[test]
fn ignored_names_of_entries_are_found() {
    breaks(Mutant::IgnoredTag, TWICE, three(once()));
}

#[test]
fn parts_that_come_one_by_one_are_found() {
    let budget = Budget { failovers: 2, ..once() };
    breaks(Mutant::PartsAlone, ATOMIC, Commit { parts: 2, ..three(budget) });
}

#[test]
fn answers_of_who_does_not_follow_are_found() {
    breaks(Mutant::AnswerBehind, TWICE, three(once()));
}

#[test]
fn a_tail_that_is_forgotten_is_found() {
    breaks(Mutant::CutForgets, KEPT, three(once()));
}

#[test]
fn a_refusal_after_a_change_was_sent_is_found() {
    breaks(Mutant::RefusedForAll, REFUSED, three(once()));
}

#[test]
fn who_leaves_before_the_quorum_agrees_is_found() {
    breaks(Mutant::LeftAtOnce, KEPT, two(Budget { changes: 1, ..once() }));
}

#[test]
fn who_comes_back_without_all_that_was_committed_is_found() {
    breaks(Mutant::JoinedAtOnce, KEPT, two(Budget { changes: 2, ..once() }));
}

#[test]
fn writes_that_are_synchronous_again_without_a_new_term_are_found() {
    breaks(Mutant::SynchronousAtOnce, ORDER, three(Budget { asynchronous: 1, ..once() }));
}
