//! What a new term takes over: the changes of earlier terms that may have been decided.
//!
//! A replica's answer counts only if it has sealed the table for the epoch, and if its log is the
//! new writer's through the entry at which the term began. Then what it has prepared is not in the
//! new writer's log, and nothing of an earlier epoch will be prepared there.
//!
//! Who begins anew in an epoch that is settled in its log asks nobody: all that it has answered in
//! that epoch is in its log. The rest becomes void with the new term.

use std::collections::BTreeMap;

use super::{PREPARED_MAX, Participant, Refusal, Term, TxId};

/// Gathers answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Recovery<M = String> {
    term: Term,
    /// The last entry of the log when the term began.
    end: u64,
    needed: usize,
    /// Of itself and others, what each has prepared.
    answers: BTreeMap<M, Vec<(TxId, u32)>>,
    begun: Vec<(TxId, u32)>,
}

/// What a replica tells a new writer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The latest term that it has promised.
    pub promised: Term,
    /// Through which entry its log is the new writer's.
    pub held: u64,
    /// What it has prepared, each with how many of its parts are in the log.
    pub prepared: Vec<(TxId, u32)>,
}

/// What is to be committed before the term is settled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// In this order, each with how many of its parts are in the log already.
    pub commit: Vec<(TxId, u32)>,
    /// Changes of which the log holds some parts, and nobody who was asked the rest. It cannot be
    /// while as many answer as are needed; a person who decides with fewer must be told.
    pub torn: Vec<TxId>,
}

impl<M: Ord + Clone> Recovery<M> {
    /// Begins a term, which the replica itself has promised durably, after that entry of its log.
    /// So many answers are needed in a new epoch, its own among them
    /// ([`super::Form::answers_needed`]). There the entry is the one that opens the epoch, so that
    /// only who follows it can answer.
    pub fn new(
        term: Term,
        own: (M, &Participant),
        needed: usize,
        end: u64,
    ) -> Result<Recovery<M>, Refusal> {
        let (name, own) = own;
        if own.promised() != term {
            return Err(Refusal::Promised(own.promised()));
        }
        let needed = if own.settled().epoch == term.epoch { 1 } else { needed };
        let begun = own.begun().collect();
        let answers = BTreeMap::from([(name, own.prepared().collect())]);
        Ok(Recovery { term, end, needed, answers, begun })
    }

    /// The term.
    pub fn term(&self) -> Term {
        self.term
    }

    /// The entry that must be held by whoever answers.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// A person has said that it goes on without those who do not answer. What is found then may
    /// lack what was answered, and may have been judged on it.
    pub fn accept_loss(&mut self) {
        self.needed = 1;
    }

    /// Takes the answer of a replica that counts. A later one of the same replica replaces it.
    /// `Refusal::Promised` of a later epoch: somebody else is to write.
    pub fn answer(&mut self, member: M, answer: Answer) -> Result<(), Refusal> {
        if answer.promised.epoch != self.term.epoch {
            return Err(Refusal::Promised(answer.promised));
        }
        if answer.held < self.end {
            return Err(Refusal::Behind(self.end));
        }
        if answer.prepared.len() > PREPARED_MAX {
            return Err(Refusal::TooMany(answer.prepared.len()));
        }
        self.answers.insert(member, answer.prepared);
        Ok(())
    }

    /// Whether a replica has answered.
    pub fn has_answered(&self, member: &M) -> bool {
        self.answers.contains_key(member)
    }

    /// Who holds the bytes of a change that was found.
    pub fn holders(&self, tx: TxId) -> impl Iterator<Item = &M> {
        let has = move |prepared: &[(TxId, u32)]| prepared.iter().any(|(known, _)| *known == tx);
        self.answers.iter().filter(move |(_, prepared)| has(prepared)).map(|(member, _)| member)
    }

    /// What is to be committed, once enough have answered; then the term is to be settled.
    pub fn plan(&self) -> Option<Found> {
        if self.answers.len() < self.needed {
            return None;
        }
        let earlier = |tx: &TxId| tx.term < self.term;
        let mut found: BTreeMap<TxId, u32> = BTreeMap::new();
        for (tx, done) in self.answers.values().flatten().filter(|(tx, _)| earlier(tx)) {
            let most = found.entry(*tx).or_default();
            *most = (*most).max(*done);
        }
        let torn = self.begun.iter().map(|(tx, _)| *tx).filter(|tx| !found.contains_key(tx));
        Some(Found { torn: torn.collect(), commit: found.into_iter().collect() })
    }
}
