//! What there is: partitions with their logs, batches, and messages under way.

use std::collections::BTreeSet;

use isthmus_control::atomic::{BatchId, Coordinator, Locks, Verdict};
use isthmus_control::commit::Term;
use isthmus_model::ids::TableId;
use isthmus_model::key::EncodedKey;

/// An entry of a partition's log; of which batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Entry {
    Intent(u8),
    /// The anchor's rows.
    Decided(u8),
    /// A member's rows.
    Settled(u8),
    Abandoned(u8),
    Forgotten(u8),
}

/// A message under way: of which batch, and to or from which member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Message {
    Intend(u8, u8),
    Intended(u8, u8),
    /// It is made.
    Commit(u8, u8),
    /// It is given up.
    Abandon(u8, u8),
    HasSettled(u8, u8),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Part {
    number: u8,
    pub(crate) log: Vec<Entry>,
    /// Entries that a crash leaves.
    pub(crate) durable: usize,
    /// In the memory of the process.
    pub(crate) books: Coordinator<u8>,
    pub(crate) locks: Locks,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) parts: Vec<Part>,
    /// By their places in the model, once they are begun.
    pub(crate) ids: Vec<Option<BatchId>>,
    pub(crate) messages: BTreeSet<Message>,
    /// What clients were told.
    pub(crate) told_made: BTreeSet<u8>,
    pub(crate) told_refused: BTreeSet<u8>,
    pub(crate) crashes: u8,
}

/// The one row of a partition.
pub(crate) fn row() -> EncodedKey {
    EncodedKey(vec![1].into())
}

impl Part {
    pub(crate) fn new(number: u8) -> Part {
        let term = Term { epoch: 1, life: 1 };
        let books = Coordinator::new(TableId(number.into()), term);
        Part { number, log: Vec::new(), durable: 0, books, locks: Locks::default() }
    }

    pub(crate) fn has(&self, entry: Entry) -> bool {
        self.log.contains(&entry)
    }

    pub(crate) fn has_durable(&self, entry: Entry) -> bool {
        self.log[..self.durable].contains(&entry)
    }

    pub(crate) fn is_decided(&self, batch: u8) -> bool {
        self.has(Entry::Decided(batch)) && !self.has(Entry::Forgotten(batch))
    }

    /// The process ends and another one reads what is durable.
    pub(crate) fn crash(&mut self, ids: &[Option<BatchId>], is_same_term: bool, keeps_locks: bool) {
        self.log.truncate(self.durable);
        let mut term = self.books.term();
        term.life += u64::from(!is_same_term);
        self.books = Coordinator::new(TableId(self.number.into()), term);
        self.locks = Locks::default();
        for entry in self.log.clone().into_iter().filter(|_| keeps_locks) {
            self.follow(entry, ids);
        }
    }

    /// Appends an entry.
    pub(crate) fn append(&mut self, entry: Entry, ids: &[Option<BatchId>]) {
        self.log.push(entry);
        self.follow(entry, ids);
    }

    fn follow(&mut self, entry: Entry, ids: &[Option<BatchId>]) {
        let id = |batch: u8| ids[usize::from(batch)].unwrap();
        match entry {
            Entry::Intent(batch) => drop(self.locks.take(id(batch), &[row()])),
            Entry::Settled(batch) | Entry::Abandoned(batch) => drop(self.locks.end(id(batch))),
            Entry::Decided(_) | Entry::Forgotten(_) => {}
        }
    }

    pub(crate) fn verdict(&self, batch: u8, id: BatchId) -> Verdict {
        self.books.verdict(id, self.is_decided(batch))
    }
}
