//! The batches that a process has begun, of all anchors that it writes.

use std::collections::BTreeMap;

use isthmus_model::atomic::{BatchId, Coordinator, Verdict};
use isthmus_model::commit::Term;
use isthmus_model::ids::TableId;
use isthmus_model::value::Text;

/// What came of making the rows of an anchor, which decides a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tried {
    /// They are in the log for good.
    Made,
    /// They are not, and nothing that was sent can make them any more.
    Refused,
    /// They were sent to others in this term and may be made; `None`: nobody knows in which term,
    /// so that only the end of the epoch tells.
    Unknown(Option<Term>),
}

impl Tried {
    /// `is_made`: the decision is in the log, durably. `is_unknown`: the write has failed, and may
    /// have taken effect.
    pub fn of(is_made: bool, is_unknown: bool, sent_in: Option<Term>) -> Tried {
        match (is_made, is_unknown) {
            (true, _) => Tried::Made,
            (false, true) => Tried::Unknown(sent_in),
            (false, false) => Tried::Refused,
        }
    }
}

/// What the log of an anchor says of a batch that is in doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnchorLog {
    /// Its decision is in it, durably.
    pub is_made: bool,
    /// What was prepared in earlier terms than this one and is not in the log is void.
    pub settled: Term,
    /// Its newest epoch.
    pub epoch: u64,
}

/// What a process remembers of the batches that it has begun. Anchors are named by their lines.
#[derive(Clone, Debug, Default)]
pub struct Books {
    begun: BTreeMap<TableId, Coordinator<Text>>,
    /// Those whose decision was sent to others and not found made here, with the term in which it
    /// was sent.
    doubtful: BTreeMap<BatchId, Term>,
}

/// Settled by no entry: what is sent in it stays open until its epoch is over.
const NO_TERM: Term = Term { epoch: u64::MAX, life: u64::MAX };

impl Books {
    /// Does something with the books of an anchor in a term. Those of an earlier one are closed.
    pub fn with<T>(
        &mut self,
        anchor: TableId,
        term: Term,
        work: impl FnOnce(&mut Coordinator<Text>) -> T,
    ) -> T {
        let books = self.begun.entry(anchor).or_insert_with(|| Coordinator::new(anchor, term));
        if books.term() > term {
            // Nothing is open of a term that is over.
            return work(&mut Coordinator::new(anchor, term));
        }
        if books.term() < term {
            *books = Coordinator::new(anchor, term);
        }
        work(books)
    }

    /// Nothing is decided any more of a batch that this process has begun, or it is made.
    pub fn close(&mut self, id: BatchId) {
        if let Some(books) = self.begun.get_mut(&id.anchor) {
            books.close(id);
        }
        self.doubtful.remove(&id);
    }

    /// The rows of the anchor were tried.
    pub fn tried(&mut self, id: BatchId, tried: Tried) {
        match tried {
            Tried::Made | Tried::Refused => self.close(id),
            Tried::Unknown(sent_in) => {
                self.doubtful.insert(id, sent_in.unwrap_or(NO_TERM));
            }
        }
    }

    /// The batches whose decision may still come.
    pub fn doubtful(&self) -> Vec<BatchId> {
        self.doubtful.keys().copied().collect()
    }

    /// Looks at one of them: it is over if it is made, or void by now. `None`: its anchor is gone.
    pub fn look(&mut self, id: BatchId, log: Option<AnchorLog>) {
        let Some(sent_in) = self.doubtful.get(&id).copied() else { return };
        let is_over = log
            .is_none_or(|log| log.is_made || log.settled > sent_in || log.epoch != id.term.epoch);
        if is_over {
            self.close(id);
        }
    }

    /// What is to be said of a batch, by a process that writes its anchor in that term; to be
    /// looked at afterwards whether it still does. `decided` is asked after it is known that no
    /// decision comes any more: whether there is one, and whether it may be told, since it is
    /// durable and held as the anchor's mode asks for.
    pub fn verdict(
        &mut self,
        id: BatchId,
        term: Term,
        decided: impl FnOnce() -> Option<bool>,
    ) -> Verdict {
        self.with(id.anchor, term, |books| {
            if books.verdict(id, false) == Verdict::Open {
                return Verdict::Open;
            }
            match decided() {
                // What may be lost with this region is not said, and nobody waits for it.
                Some(false) => Verdict::Open,
                Some(true) => books.verdict(id, true),
                None => books.verdict(id, false),
            }
        })
    }
}
