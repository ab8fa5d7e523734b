//! Messages between regions: lost, late, out of order, and cut in one direction.

use bytes::Bytes;
use isthmus_model::commit::{Term, TxId};
use isthmus_model::entry::Entry;
use isthmus_model::ids::Lsn;
use rand::Rng;
use rand::rngs::SmallRng;

use super::atomic::Told;
use super::copying::{Piece, Progress};
use super::plan::REGIONS;
use super::reshape::Word;
use crate::rng::happens;

/// How a table stands in a region.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    /// The newest epoch in its log, and the end of that; durable.
    pub(super) log_epoch: u64,
    pub(super) end: u64,
    /// Nothing of an older epoch is taken.
    pub(super) sealed: u64,
    pub(super) is_whole: bool,
    /// Where it is not whole: how far a copy has come.
    pub(super) copy: Option<Box<Progress>>,
}

/// What one region tells another.
#[derive(Clone, Debug)]
pub(super) enum Message {
    /// About that table.
    Of(usize, TableMessage),
    /// About batches of several tables.
    OfBatch(Told),
    /// About partitions that are split or merged.
    OfReshape(Word),
}

/// What one region tells another of a table.
#[derive(Clone, Debug)]
pub(super) enum TableMessage {
    Standing(Standing),
    Prepare { term: Term, changes: Vec<(TxId, Bytes)> },
    Voted(Vec<TxId>),
    Promise(Term),
    Promised { term: Term, held: u64, prepared: Vec<(TxId, Bytes)> },
    Entries { epoch: u64, from: Lsn, to: Lsn, entries: Vec<Entry> },
    Copy(Box<Piece>),
}

/// A message on its way.
struct Sent {
    due: u64,
    from: usize,
    to: usize,
    message: Message,
}

/// All ways.
pub(super) struct Network {
    rng: SmallRng,
    loss: u32,
    delay: u64,
    sent: Vec<Sent>,
    /// By sender and receiver. A region reaches those who decide by the way to itself.
    pub(super) is_cut: [[bool; REGIONS]; REGIONS],
}

impl Network {
    pub(super) fn new(rng: SmallRng, loss: u32, delay: u64) -> Network {
        let is_cut = [[false; REGIONS]; REGIONS];
        Network { rng, loss, delay, sent: Vec::new(), is_cut }
    }

    /// From now on nothing is lost.
    pub(super) fn heal(&mut self) {
        self.loss = 0;
        self.is_cut = [[false; REGIONS]; REGIONS];
    }

    /// What a region tells itself arrives.
    pub(super) fn send(&mut self, now: u64, from: usize, to: usize, message: Message) {
        if from == to {
            self.sent.push(Sent { due: now + 1, from, to, message });
        } else if !self.is_cut[from][to] && !happens(&mut self.rng, self.loss) {
            let due = now + 1 + self.rng.random_range(0..=self.delay);
            self.sent.push(Sent { due, from, to, message });
        }
    }

    /// What arrives now, in the order of sending or not.
    pub(super) fn arrived(&mut self, now: u64) -> Vec<(usize, usize, Message)> {
        let (arrived, waiting) =
            std::mem::take(&mut self.sent).into_iter().partition(|sent| sent.due <= now);
        self.sent = waiting;
        let mut arrived: Vec<Sent> = arrived;
        arrived.sort_by_key(|sent| sent.due);
        let is_cut = &self.is_cut;
        let through =
            arrived.into_iter().filter(|sent| sent.from == sent.to || !is_cut[sent.from][sent.to]);
        through.map(|sent| (sent.from, sent.to, sent.message)).collect()
    }
}
