//! What a replica remembers of changes that it has prepared for others.
//!
//! It is kept durably with what it is about: a prepared change with its bytes, the rest in the same
//! step as the entry or the promise that changes it. The replica that writes keeps the same books,
//! since it was a participant before and may be one again.

use std::collections::BTreeMap;

use super::{Answer, PARTS_MAX, PENDING_MAX, PREPARED_MAX, Refusal, Term, TxId};

/// What a replica has promised and prepared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Participant {
    promised: Term,
    settled: Term,
    /// With how many parts.
    prepared: BTreeMap<TxId, u32>,
    /// Changes of which the log holds some parts and not all, and how many.
    begun: BTreeMap<TxId, u32>,
    /// Changes that the log holds wholly: first and last number of each range. Of all terms that
    /// are not void, so that what comes late is not prepared again, and whoever copies the rows
    /// knows what is in them.
    whole: BTreeMap<(Term, u64), u64>,
}

/// Changes of one term that the log holds wholly: the first and the last number of them.
pub type MadeRange = (Term, u64, u64);

/// What came of preparing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prepared {
    /// The change is to be stored durably, and voted for then.
    New,
    /// It is there, prepared or in the log, and can be voted for.
    Known,
}

/// What is kept besides the prepared changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// The latest term that was promised.
    pub promised: Term,
    /// The latest term that is settled in the log.
    pub settled: Term,
    /// Changes of which the log holds some parts and not all, and how many.
    pub begun: Vec<(TxId, u32)>,
    /// Changes that the log holds wholly.
    pub whole: Vec<MadeRange>,
}

/// A change of which parts lie in a tail that is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TailChange {
    /// Its name.
    pub tx: TxId,
    /// Its parts that lie before the tail.
    pub done: u32,
    /// All its parts.
    pub of: u32,
}

impl Participant {
    /// Takes up what was kept, and the prepared changes with how many parts each has.
    pub fn restore(kept: &Kept, prepared: impl IntoIterator<Item = (TxId, u32)>) -> Participant {
        let whole = kept.whole.iter().map(|(term, first, last)| ((*term, *first), *last));
        Participant {
            promised: kept.promised,
            settled: kept.settled,
            prepared: prepared.into_iter().collect(),
            begun: kept.begun.iter().copied().collect(),
            whole: whole.collect(),
        }
    }

    /// What is to be kept besides the prepared changes.
    pub fn kept(&self) -> Kept {
        Kept {
            promised: self.promised,
            settled: self.settled,
            begun: self.begun.iter().map(|(tx, done)| (*tx, *done)).collect(),
            whole: self.whole().collect(),
        }
    }

    /// The changes that the log holds wholly, of all terms that are not void.
    pub fn whole(&self) -> impl Iterator<Item = MadeRange> {
        self.whole.iter().map(|((term, first), last)| (*term, *first, *last))
    }

    /// The latest term that was promised. Who writes in an earlier one must stop.
    pub fn promised(&self) -> Term {
        self.promised
    }

    /// The latest term that is settled in the log.
    pub fn settled(&self) -> Term {
        self.settled
    }

    /// Prepares a change. A refusal does not say that nothing comes of the change: others may have
    /// prepared it.
    pub fn prepare(&mut self, tx: TxId, parts: u32) -> Result<Prepared, Refusal> {
        if tx.term < self.promised {
            return Err(Refusal::Promised(self.promised));
        }
        if tx.term < self.settled {
            return Err(Refusal::Settled(self.settled));
        }
        if self.is_whole(tx) {
            return Ok(Prepared::Known);
        }
        match self.prepared.get(&tx) {
            Some(known) if *known == parts => return Ok(Prepared::Known),
            _ if !(1..=PARTS_MAX).contains(&parts) => return Err(Refusal::Parts(parts)),
            Some(_) => return Err(Refusal::Parts(parts)),
            None => {}
        }
        if self.prepared.len() >= PREPARED_MAX {
            return Err(Refusal::TooMany(self.prepared.len()));
        }
        self.prepared.insert(tx, parts);
        Ok(Prepared::New)
    }

    /// Takes nothing of earlier terms from now on. Who seals a table for an epoch promises the
    /// first term of it; a replica that writes in an earlier term stops in the same step.
    pub fn promise(&mut self, term: Term) -> Result<(), Refusal> {
        if term < self.promised {
            return Err(Refusal::Promised(self.promised));
        }
        if term < self.settled {
            return Err(Refusal::Settled(self.settled));
        }
        self.promised = term;
        Ok(())
    }

    /// An entry is in the log: that part, from 1, of so many of a change. Whether the change, which
    /// was prepared, is wholly there now and its bytes can be forgotten.
    pub fn applied(&mut self, tx: TxId, part: u32, of: u32) -> bool {
        if part < of {
            self.begun.insert(tx, part);
            return false;
        }
        self.begun.remove(&tx);
        if tx.term >= self.settled {
            self.add_whole(tx);
        }
        self.prepared.remove(&tx).is_some()
    }

    /// The entry that settles a term is in the log. Returns the prepared changes that are void by
    /// that and forgotten.
    pub fn settle(&mut self, term: Term) -> Vec<TxId> {
        self.settled = self.settled.max(term);
        let settled = TxId { term: self.settled, number: 0 };
        let kept = self.prepared.split_off(&settled);
        let void = std::mem::replace(&mut self.prepared, kept);
        self.begun = self.begun.split_off(&settled);
        self.forget_whole();
        void.into_keys().collect()
    }

    /// The end of the log is about to be cut off, since a later epoch goes on from before it. Each
    /// change of which a part lies in that tail is prepared again, whatever was promised: the tail
    /// may be the only place where a change is that was answered. All of them, or none where that
    /// would be too many. Done again before the log is cut it changes nothing.
    ///
    /// A later epoch must have been promised before, and nobody be told what is prepared until the
    /// log is that of the later epoch.
    pub fn prepare_again(
        &mut self,
        tail: impl IntoIterator<Item = TailChange>,
    ) -> Result<(), Refusal> {
        let tail: BTreeMap<TxId, (u32, u32)> =
            tail.into_iter().map(|TailChange { tx, done, of }| (tx, (done, of))).collect();
        let new = tail.keys().filter(|tx| !self.prepared.contains_key(tx)).count();
        if self.prepared.len() + new > PREPARED_MAX {
            return Err(Refusal::TooMany(self.prepared.len()));
        }
        for (tx, (done, of)) in tail {
            self.begun.remove(&tx);
            if done > 0 {
                self.begun.insert(tx, done);
            }
            self.prepared.insert(tx, of);
        }
        Ok(())
    }

    /// Another replica's log, in which that term is settled and which holds these changes wholly,
    /// takes the place of this one's. What it does not hold and is not void there stays prepared:
    /// the vote for it may be what it was decided by. Returns the changes that are forgotten.
    ///
    /// The term may be an earlier one than that of this log, which had a tail.
    pub fn copied(&mut self, settled: Term, made: &[MadeRange]) -> Vec<TxId> {
        self.settled = settled;
        self.whole = made.iter().map(|(term, first, last)| ((*term, *first), *last)).collect();
        self.begun.clear();
        let is_over = |tx: &TxId| tx.term < settled || self.is_whole(*tx);
        let gone: Vec<TxId> = self.prepared.keys().copied().filter(is_over).collect();
        for tx in &gone {
            self.prepared.remove(tx);
        }
        gone
    }

    /// The prepared changes, in order, each with how many of its parts are in the log.
    pub fn prepared(&self) -> impl Iterator<Item = (TxId, u32)> {
        self.prepared.keys().map(|tx| (*tx, self.done(*tx)))
    }

    /// How many changes are prepared.
    pub fn prepared_count(&self) -> usize {
        self.prepared.len()
    }

    /// Changes of which the log holds some parts and not all.
    pub fn begun(&self) -> impl Iterator<Item = (TxId, u32)> {
        self.begun.iter().map(|(tx, done)| (*tx, *done))
    }

    /// What to tell a new writer, whose log this replica's log is through that entry.
    pub fn answer(&self, held: u64) -> Answer {
        Answer { promised: self.promised, held, prepared: self.prepared().collect() }
    }

    fn done(&self, tx: TxId) -> u32 {
        self.begun.get(&tx).copied().unwrap_or(0)
    }

    fn is_whole(&self, tx: TxId) -> bool {
        let before = self.whole.range(..=(tx.term, tx.number)).next_back();
        before.is_some_and(|((term, _), last)| *term == tx.term && tx.number <= *last)
    }

    fn add_whole(&mut self, tx: TxId) {
        if self.is_whole(tx) {
            return;
        }
        let TxId { term, number } = tx;
        let last = self.whole.remove(&(term, number.saturating_add(1))).unwrap_or(number);
        let before = self.whole.range(..(term, number)).next_back();
        let first = match before {
            Some(((of, first), end)) if *of == term && end.checked_add(1) == Some(number) => *first,
            _ => number,
        };
        self.whole.insert((term, first), last);
        // What lies between two ranges is under way, so there are no more than that.
        if self.whole.len() > PENDING_MAX + 1 {
            self.whole.pop_first();
        }
    }

    /// Of what is void nothing comes late.
    fn forget_whole(&mut self) {
        let from = (self.settled, 0);
        if self.whole.first_key_value().is_some_and(|(first, _)| *first < from) {
            self.whole = self.whole.split_off(&from);
        }
    }
}
