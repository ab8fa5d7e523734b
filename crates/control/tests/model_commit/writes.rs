//! What a writer does that has opened its term, and who takes part: changes, votes, entries.

use isthmus_control::commit::{Count, Kept, Participant, Prepared, Refusal, Term, TxId};

use crate::model::{Commit, Mutant};
use crate::world::{Change, Entry, Node, Phase, World, bits, small};

impl Commit {
    pub(crate) fn write(&self, world: &mut World, writer: u8, row: u8) -> Option<()> {
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
    pub(crate) fn write_alone(&self, world: &mut World, writer: u8, row: u8) -> Option<()> {
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

    pub(crate) fn prepare(&self, world: &mut World, change: u8, to: u8) -> Option<()> {
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

    pub(crate) fn vote(&self, world: &mut World, change: u8, from: u8) -> Option<()> {
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

    pub(crate) fn ship(&self, world: &mut World, from: u8, to: u8) -> Option<()> {
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

    pub(crate) fn decided(&self, world: &mut World, writer: u8, tx: TxId) {
        let change = world.number_of(tx);
        self.commit(world, writer, change, 0);
        self.answer(world, writer, change, tx.term);
    }

    pub(crate) fn answer(&self, world: &mut World, writer: u8, change: u8, term: Term) {
        if !self.is_leased || world.is_held_by(writer, term) {
            world.see(change);
            world.is_answered_twice |= self.is_leased && term < world.newest_open;
        }
    }

    /// Commits what is missing of a change, in one step.
    pub(crate) fn commit(&self, world: &mut World, writer: u8, change: u8, done: u8) {
        let World { nodes, changes, .. } = world;
        for part in done + 1..=self.parts {
            self.apply(&mut nodes[usize::from(writer)], Entry::Part(change, part), changes);
        }
    }

    pub(crate) fn apply(&self, node: &mut Node, entry: Entry, changes: &[Change]) {
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

    pub(crate) fn others(&self, members: u8, own: u8) -> Count<u8> {
        let mut count = Count::new(self.form, bits(members & !(1 << own)));
        if self.mutant == Mutant::FewerVotes {
            count.needed -= 1;
        }
        count
    }

    pub(crate) fn others_count(members: u8) -> usize {
        members.count_ones() as usize - 1
    }

    pub(crate) fn answers_needed(&self, members: u8) -> usize {
        self.form.answers_needed(Commit::others_count(members))
    }
}

fn set_promised(participant: &mut Participant, promised: Term, parts: u8) {
    let prepared = participant.prepared().map(|(tx, _)| (tx, parts.into()));
    let prepared: Vec<(TxId, u32)> = prepared.collect();
    *participant = Participant::restore(&Kept { promised, ..participant.kept() }, prepared);
}
