//! The count of votes of one term at its writer.
//!
//! A change is decided when as many of those who count have voted as are needed. While those change
//! who count, it must be so by the old count and by the coming one: until the quorum has agreed on
//! the change, the next writer may be chosen by either.

use std::collections::{BTreeMap, BTreeSet};

use super::{Form, PENDING_MAX, Refusal, Term, TxId};

/// Whose votes count, and how many are needed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Count<M> {
    /// The other replicas.
    pub others: BTreeSet<M>,
    /// So many of them.
    pub needed: usize,
}

/// The votes of a term.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Votes<M = String> {
    term: Term,
    count: Count<M>,
    coming: Option<Count<M>>,
    last: u64,
    pending: BTreeMap<TxId, Pending<M>>,
}

/// A change that is not decided.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Pending<M> {
    since: u64,
    votes: BTreeSet<M>,
}

impl<M: Ord + Clone> Count<M> {
    /// By the form in which a table is written.
    pub fn new(form: Form, others: impl IntoIterator<Item = M>) -> Count<M> {
        let others: BTreeSet<M> = others.into_iter().collect();
        let needed = form.votes_needed(others.len());
        Count { others, needed }
    }

    fn is_enough(&self, votes: &BTreeSet<M>) -> bool {
        self.others.intersection(votes).count() >= self.needed
    }
}

impl<M: Ord + Clone> Votes<M> {
    /// Begins a term that is settled.
    pub fn begin(term: Term, count: Count<M>) -> Votes<M> {
        Votes { term, count, coming: None, last: 0, pending: BTreeMap::new() }
    }

    /// The term.
    pub fn term(&self) -> Term {
        self.term
    }

    /// Whose votes count now, and how many are needed.
    pub fn count(&self) -> &Count<M> {
        &self.count
    }

    /// The name of the next change.
    pub fn next(&self) -> TxId {
        TxId { term: self.term, number: self.last + 1 }
    }

    /// Begins to count for a change, before it is sent to anybody. The change can be decided at
    /// once, where nobody's vote is needed: then true. After a refusal nothing has happened.
    pub fn open(&mut self, tx: TxId, since: u64) -> Result<bool, Refusal> {
        if tx != self.next() {
            return Err(Refusal::NotNext(tx));
        }
        if self.pending.len() >= PENDING_MAX {
            return Err(Refusal::TooMany(self.pending.len()));
        }
        self.last = tx.number;
        self.pending.insert(tx, Pending { since, votes: BTreeSet::new() });
        Ok(self.decide(tx))
    }

    /// Counts a vote; again does no harm. Whether the change is decided by it: it must be committed
    /// then.
    pub fn vote(&mut self, member: &M, tx: TxId) -> bool {
        if !self.counts(member) {
            return false;
        }
        let Some(pending) = self.pending.get_mut(&tx) else { return false };
        pending.votes.insert(member.clone()) && self.decide(tx)
    }

    /// From now on others will count: both counts must be met. The quorum may be told when so many
    /// of the coming others as are needed then hold, in their logs, all that was committed before
    /// this.
    ///
    /// A change that is under way can be replaced only while nobody can have agreed on it.
    pub fn change(&mut self, coming: Count<M>) {
        self.coming = Some(coming);
    }

    /// The quorum has agreed on the coming count. Returns what is decided by that, in order.
    pub fn changed(&mut self) -> Vec<TxId> {
        let Some(coming) = self.coming.take() else { return Vec::new() };
        self.count = coming;
        for pending in self.pending.values_mut() {
            pending.votes.retain(|member| self.count.others.contains(member));
        }
        let all: Vec<TxId> = self.pending.keys().copied().collect();
        all.into_iter().filter(|tx| self.decide(*tx)).collect()
    }

    /// The quorum has not agreed on the coming count and will not. Returns what is decided by that.
    pub fn unchanged(&mut self) -> Vec<TxId> {
        self.coming = Some(self.count.clone());
        self.changed()
    }

    /// What is not decided, in order, each with since when.
    pub fn pending(&self) -> impl Iterator<Item = (TxId, u64)> {
        self.pending.iter().map(|(tx, pending)| (*tx, pending.since))
    }

    /// Whether a change is not decided.
    pub fn is_pending(&self, tx: TxId) -> bool {
        self.pending.contains_key(&tx)
    }

    /// Who has not voted for a change that is not decided, and is to be asked again.
    pub fn missing(&self, tx: TxId) -> impl Iterator<Item = &M> {
        let coming =
            self.coming.iter().flat_map(|coming| coming.others.difference(&self.count.others));
        self.pending.get(&tx).into_iter().flat_map(move |pending| {
            let members = self.count.others.iter().chain(coming.clone());
            members.filter(|member| !pending.votes.contains(member))
        })
    }

    fn counts(&self, member: &M) -> bool {
        let coming = self.coming.as_ref();
        self.count.others.contains(member)
            || coming.is_some_and(|coming| coming.others.contains(member))
    }

    fn decide(&mut self, tx: TxId) -> bool {
        let Some(pending) = self.pending.get(&tx) else { return false };
        let coming = self.coming.as_ref();
        let is_decided = self.count.is_enough(&pending.votes)
            && coming.is_none_or(|coming| coming.is_enough(&pending.votes));
        if is_decided {
            self.pending.remove(&tx);
        }
        is_decided
    }
}
