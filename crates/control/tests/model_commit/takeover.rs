//! How another writer takes over, and how it is agreed on who counts.

use isthmus_control::commit::{
    Answer, Kept, MadeRange, Participant, Recovery, TailChange, Term, TxId, Votes,
};

use crate::model::{Commit, Mutant};
use crate::world::{Entry, Node, Phase, World, Writing, bits, small};

impl Commit {
    /// Takes nothing of older epochs from now on.
    pub(crate) fn seal(&self, world: &mut World, node: u8, epoch: u8) -> Option<()> {
        let node = world.node_mut(node);
        if node.is_dead || node.sealed() >= epoch {
            return None;
        }
        node.participant.promise(Term::first_of(epoch.into())).unwrap();
        node.writing = None;
        Some(())
    }

    pub(crate) fn cut(&self, world: &mut World, node: u8) -> Option<()> {
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
        let settled = settled.unwrap();
        replica.participant.prepare_again(in_tail).unwrap();
        match self.parts {
            // As the product does it, which copies the log with what it knows of it.
            1 => {
                let mut made: Vec<TxId> = replica
                    .log
                    .iter()
                    .filter_map(|entry| entry.change())
                    .map(|change| changes[usize::from(change)].tx)
                    .filter(|tx| tx.term >= settled)
                    .collect();
                made.sort_unstable();
                let made: Vec<MadeRange> =
                    made.into_iter().map(|tx| (tx.term, tx.number, tx.number)).collect();
                replica.participant.copied(settled, &made);
            }
            _ => {
                let kept = Kept { settled, ..replica.participant.kept() };
                let prepared = replica.participant.prepared();
                let prepared: Vec<_> = prepared.map(|(tx, _)| (tx, self.parts.into())).collect();
                replica.participant = Participant::restore(&kept, prepared);
            }
        }
        Some(())
    }

    pub(crate) fn grant(&self, world: &mut World, node: u8) -> Option<()> {
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

    pub(crate) fn begin(&self, world: &mut World, own: u8) -> Option<()> {
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

    pub(crate) fn ask(&self, world: &mut World, own: u8, of: u8) -> Option<()> {
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

    /// A person says that the term begins without those who have not answered.
    pub(crate) fn accept(&self, world: &mut World, own: u8) -> Option<()> {
        world.left.accepts = world.left.accepts.checked_sub(1)?;
        let term = world.node(own).writing.as_ref()?.term;
        // The leases of earlier writers have been outlasted: they answer nothing any more.
        let answers = |node: &Node| {
            !node.is_dead && node.writing.as_ref().is_some_and(|writing| writing.term < term)
        };
        if world.nodes.iter().any(answers) {
            return None;
        }
        let writing = world.node_mut(own).writing.as_mut()?;
        let Phase::Gathering(recovery) = &mut writing.phase else { return None };
        if recovery.plan().is_some() {
            return None;
        }
        recovery.accept_loss();
        world.accepted = Some(writing.term);
        Some(())
    }

    /// Commits the next change that was found; after the last one the term is settled.
    pub(crate) fn take_over(&self, world: &mut World, own: u8) -> Option<()> {
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
            if self.mutant == Mutant::AcceptedUnsettled && world.accepted == Some(term) {
                return Some(());
            }
            let World { nodes, changes, .. } = world;
            self.apply(&mut nodes[usize::from(own)], Entry::Settled(term), changes);
            if world.accepted == Some(term) {
                // What is not there now was accepted to be lost, whoever opens the next term.
                let log = world.node(own).log.clone();
                let is_there = |one: &u8| log.iter().any(|entry| entry.change() == Some(*one));
                world.seen.retain(is_there);
            }
            return Some(());
        }
        let (tx, done) = found.remove(0);
        let change = world.number_of(tx);
        self.commit(world, own, change, small(done as usize));
        Some(())
    }

    pub(crate) fn open(&self, world: &mut World, own: u8) -> Option<()> {
        let count = self.others(world.members, own);
        let writing = world.node(own).writing.as_ref()?;
        let term = writing.term;
        if writing.phase != Phase::Settling || !world.is_live(own) {
            return None;
        }
        let holds = |node: &u8| world.node(*node).log.contains(&Entry::Settled(term));
        let is_held = count.others.iter().filter(|node| holds(node)).count() >= count.needed;
        let is_forgotten = match self.mutant {
            Mutant::Unsettled => true,
            Mutant::AcceptedUnsettled => world.accepted == Some(term),
            _ => false,
        };
        if !is_held && !is_forgotten {
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
    pub(crate) fn change(&self, world: &mut World, own: u8, coming: u8) -> Option<()> {
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
    pub(crate) fn agree(&self, world: &mut World, own: u8) -> Option<()> {
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

    pub(crate) fn changed(&self, world: &mut World, own: u8, is_told: bool) -> Option<()> {
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
}
