//! Batches that are made in several partitions or in none.
//!
//! One partition of a batch is its anchor; the others are its members. A member keeps an intent,
//! which locks the rows of the batch there. When all members have one, the anchor makes its own
//! rows, by an entry that is the decision. Then each member makes its rows and ends its intent.
//! Before the decision the batch can be given up, and the intents end without a change.
//!
//! Only the region that writes the anchor can decide, in the term in which the batch was begun. So
//! a batch of another term that is not among those decided is given up for ever, and nothing has to
//! be kept of batches that were given up. In its own term the coordinator knows what is still open.
//!
//! Everything here is in memory; what is kept, and when it is durable, is for the caller to see to.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::commit::Term;
use crate::ids::TableId;
use crate::key::EncodedKey;
use crate::value::Text;

/// Members of one batch.
pub const MEMBERS_MAX: usize = 64;
/// Batches of one anchor that are open at once.
pub const OPEN_MAX: usize = 1_000;
/// Intents of one partition.
pub const INTENTS_MAX: usize = 1_000;
/// Batches of one anchor that are decided and not settled by all members.
pub const DECIDED_MAX: usize = 20_000;

/// The name of a batch, never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId {
    /// The table that its anchor is.
    pub anchor: TableId,
    /// The epoch of the anchor in which it was begun, and the life of the process that did so.
    pub term: Term,
    /// Counts the batches of the term.
    pub number: u64,
}

impl std::fmt::Display for BatchId {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "{}/{}/{}", self.anchor, self.term, self.number)
    }
}

/// It is no name of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a batch is named like 770/1.1764547200000/3")]
pub struct NoBatchId;

impl std::str::FromStr for BatchId {
    type Err = NoBatchId;

    fn from_str(text: &str) -> Result<BatchId, NoBatchId> {
        let number = |text: &str| text.parse::<u64>().map_err(|_| NoBatchId);
        let [anchor, term, count] = text.split('/').collect::<Vec<_>>()[..] else {
            return Err(NoBatchId);
        };
        let (epoch, life) = term.split_once('.').ok_or(NoBatchId)?;
        let term = Term { epoch: number(epoch)?, life: number(life)? };
        Ok(BatchId { anchor: TableId(number(anchor)?), term, number: number(count)? })
    }
}

/// A partition that a batch is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Its table.
    pub table: TableId,
    /// The table's name.
    pub name: Text,
}

/// What a member keeps of a batch until it knows whether that is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// The batch.
    pub id: BatchId,
    /// Name of the table that its anchor is.
    pub anchor: Text,
    /// The rows that are locked, each once.
    pub keys: Vec<EncodedKey>,
    /// The rows' changes, as the region that writes the member took them.
    pub request: Bytes,
}

/// What an entry that changes rows is to a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BatchMark {
    /// It decides the batch: the members make it, too.
    Decided {
        /// The batch.
        id: BatchId,
        /// Its members.
        members: Vec<Member>,
    },
    /// A member's part of a batch that was decided. It ends the intent.
    Settled(BatchId),
}

/// What the region that writes an anchor says of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It may still be made or given up.
    Open,
    /// It is made.
    Committed,
    /// It is given up for ever, or all members have settled it.
    Abandoned,
}

/// The rows of one partition that intents lock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Locks {
    rows: BTreeMap<EncodedKey, BatchId>,
    keys: BTreeMap<BatchId, Vec<EncodedKey>>,
}

impl Locks {
    /// Which batch locks a row.
    pub fn holder(&self, key: &EncodedKey) -> Option<BatchId> {
        self.rows.get(key).copied()
    }

    /// The batches that lock rows from `start` (inclusive) to `end` (exclusive; `None`: the last).
    pub fn holders_between(
        &self,
        start: &EncodedKey,
        end: Option<&EncodedKey>,
    ) -> BTreeSet<BatchId> {
        let rows = self.rows.range(start..);
        rows.take_while(|(key, _)| end.is_none_or(|end| *key < end)).map(|(_, id)| *id).collect()
    }

    /// Whether there is an intent of the batch.
    pub fn has(&self, id: BatchId) -> bool {
        self.keys.contains_key(&id)
    }

    /// Intents.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// An intent locks these rows from now on. Gives whether it is new. What the log says is taken
    /// as it is; whoever writes the log makes no intent of a row that another one has locked.
    pub fn take(&mut self, id: BatchId, keys: &[EncodedKey]) -> bool {
        if self.has(id) {
            return false;
        }
        self.rows.extend(keys.iter().map(|key| (key.clone(), id)));
        self.keys.insert(id, keys.to_vec());
        true
    }

    /// The intent has ended. Gives the rows that it had locked; `None`: there was none.
    pub fn end(&mut self, id: BatchId) -> Option<Vec<EncodedKey>> {
        let keys = self.keys.remove(&id)?;
        for key in &keys {
            if self.rows.get(key) == Some(&id) {
                self.rows.remove(key);
            }
        }
        Some(keys)
    }
}

/// The batches of one anchor that were begun in one term and are not known to be over, in the
/// memory of the process that began them. `K` names members.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Coordinator<K> {
    anchor: TableId,
    term: Term,
    last: u64,
    /// Of each, the members that have no intent yet.
    open: BTreeMap<u64, BTreeSet<K>>,
}

impl<K: Ord> Coordinator<K> {
    /// Nothing is begun in this term, in which no other process begins anything.
    pub fn new(anchor: TableId, term: Term) -> Coordinator<K> {
        Coordinator { anchor, term, last: 0, open: BTreeMap::new() }
    }

    /// The term.
    pub fn term(&self) -> Term {
        self.term
    }

    /// Batches that are open.
    pub fn open_count(&self) -> usize {
        self.open.len()
    }

    /// Begins a batch of these members. `None`: too many are open.
    pub fn begin(&mut self, members: BTreeSet<K>) -> Option<BatchId> {
        if self.open.len() >= OPEN_MAX {
            return None;
        }
        self.last += 1;
        self.open.insert(self.last, members);
        Some(BatchId { anchor: self.anchor, term: self.term, number: self.last })
    }

    /// A member has an intent that is as durable there as its table's mode asks for.
    pub fn intended(&mut self, id: BatchId, member: &K) {
        if let Some(missing) = self.open.get_mut(&id.number).filter(|_| id.term == self.term) {
            missing.remove(member);
        }
    }

    /// Whether the anchor may make its rows, which decides the batch.
    pub fn may_decide(&self, id: BatchId) -> bool {
        let missing = self.open.get(&id.number).filter(|_| id.term == self.term);
        missing.is_some_and(BTreeSet::is_empty)
    }

    /// The batch is over: its decision is as durable as the anchor's mode asks for, or it will not
    /// be decided any more, whatever comes.
    pub fn close(&mut self, id: BatchId) {
        if id.term == self.term {
            self.open.remove(&id.number);
        }
    }

    /// What is to be said of a batch; `is_decided`: its decision is in the log and not forgotten.
    /// To be asked only while this process is the one that writes the anchor, in the epoch of this
    /// term, and has what was decided in earlier ones.
    pub fn verdict(&self, id: BatchId, is_decided: bool) -> Verdict {
        let is_open = id.term == self.term && self.open.contains_key(&id.number);
        match (is_open, is_decided) {
            // A decision that is being made may still be lost.
            (true, _) => Verdict::Open,
            // Another process knows, which writes the anchor by now.
            (false, _) if id.term.epoch > self.term.epoch => Verdict::Open,
            (false, true) => Verdict::Committed,
            (false, false) => Verdict::Abandoned,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> BatchId {
        BatchId { anchor: TableId(7), term: Term { epoch: 2, life: 5 }, number }
    }

    fn keys(names: &[u8]) -> Vec<EncodedKey> {
        names.iter().map(|name| EncodedKey(vec![*name].into())).collect()
    }

    #[test]
    fn a_batch_is_read_as_it_is_shown() {
        assert_eq!(id(3).to_string().parse(), Ok(id(3)));
        for wrong in ["", "7/2/3", "7/2.5", "7/2.5/3/1", "7/2.x/3", "-7/2.5/3"] {
            assert_eq!(wrong.parse::<BatchId>(), Err(NoBatchId), "{wrong}");
        }
    }

    #[test]
    fn rows_are_locked_by_the_intent_that_has_them() {
        let mut locks = Locks::default();
        assert!(locks.take(id(1), &keys(&[3, 5])));
        assert!(!locks.take(id(1), &keys(&[4])), "it is known");
        assert_eq!(locks.holder(&keys(&[5])[0]), Some(id(1)));
        assert_eq!(locks.holder(&keys(&[4])[0]), None);
        let [one, four, six] = [1, 4, 6].map(|name| keys(&[name]).remove(0));
        assert_eq!(locks.holders_between(&one, None), [id(1)].into());
        assert_eq!(locks.holders_between(&four, Some(&six)), [id(1)].into());
        assert!(locks.holders_between(&six, None).is_empty());
        assert!(locks.holders_between(&one, Some(&keys(&[3])[0])).is_empty());
        assert_eq!(locks.end(id(1)), Some(keys(&[3, 5])));
        assert_eq!((locks.end(id(1)), locks.is_empty()), (None, true));
        assert_eq!(locks, Locks::default());
    }

    #[test]
    fn what_is_open_is_neither_made_nor_given_up() {
        let mut books = Coordinator::new(TableId(7), id(0).term);
        let one = books.begin([1, 2].into()).unwrap();
        assert_eq!((one, books.verdict(one, false)), (id(1), Verdict::Open));
        books.intended(one, &1);
        assert!(!books.may_decide(one));
        books.intended(one, &2);
        assert!(books.may_decide(one));
        assert_eq!(books.verdict(one, true), Verdict::Open, "it may still be lost");
        books.close(one);
        assert!(!books.may_decide(one));
        assert_eq!(books.verdict(one, true), Verdict::Committed);
        assert_eq!(books.verdict(one, false), Verdict::Abandoned);
    }

    #[test]
    fn batches_of_other_terms_are_what_the_log_says() {
        let books = Coordinator::<u8>::new(TableId(7), Term { epoch: 2, life: 5 });
        let of = |epoch, life| BatchId { term: Term { epoch, life }, ..id(1) };
        for earlier in [of(1, 9), of(2, 4), of(2, 6)] {
            assert_eq!(books.verdict(earlier, true), Verdict::Committed);
            assert_eq!(books.verdict(earlier, false), Verdict::Abandoned);
        }
        assert_eq!(books.verdict(of(3, 1), false), Verdict::Open);
    }

    #[test]
    fn no_more_are_open_than_may_be() {
        let mut books = Coordinator::<u8>::new(TableId(7), id(0).term);
        let ids: Vec<_> = (0..OPEN_MAX).map(|_| books.begin([1].into()).unwrap()).collect();
        assert_eq!(books.begin([1].into()), None);
        books.close(ids[5]);
        assert_eq!(books.begin([1].into()), Some(id(OPEN_MAX as u64 + 1)));
        assert_eq!(books.open_count(), OPEN_MAX);
    }
}
