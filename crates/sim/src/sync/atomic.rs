//! Batches of several tables, each written by a region and in a mode of its own, while regions are
//! lost, ways are cut and power fails.
//!
//! Intents, decisions and their ends are those of the store; what is begun, said, told and
//! forgotten is decided by `isthmus_control::batches`, as in the server. What lies around them is
//! made simple: a question goes to all regions at once, and what is not answered was not said.
//!
//! A batch moves amounts between rows of several tables and leaves a mark in each. So it is known
//! of each table which batches it has made, whatever the code says: a batch that was acknowledged
//! is in all of its tables, one that was refused in none, any other in all or in none, each once;
//! the sum of all rows is always nothing, also in reads of one moment; and in the end nothing is
//! kept of any. Where a table is written asynchronously and its region is lost, batches whose parts
//! were cut off are left out.

mod begun;
mod judge;
mod keep;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use isthmus_control::batches::{Books, Settled, Telling, Upkeep};
use isthmus_model::atomic::{BatchId, Verdict};
use isthmus_model::change::Direction;
use isthmus_model::clock::Clock;
use isthmus_model::commit::Term;
use isthmus_store::engine::faulty::FaultyEngine;
use isthmus_store::engine::{Batch, Engine, Space};
use isthmus_store::{Pending, Store, Table, keys};

use self::begun::Begun;
use self::keep::{Answering, Round};
use super::group::Group;
use super::network::Message;
use super::part::Part;
use super::plan::{Plan, REGIONS, spec, table_id};
use super::region::Out;
use super::writer::{Ended, Writer};
use crate::clock::NodeClock;
use crate::plant::Plant;

pub(in crate::sync) use self::world::run;

/// What one region tells another of batches.
#[derive(Clone, Debug)]
pub(super) enum Told {
    /// Keep an intent. Asked once.
    Intend {
        batch: u64,
        id: BatchId,
        anchor: usize,
        at: usize,
        group: Group,
    },
    /// It is kept, as durably as its table asks for, or refused.
    Intended {
        batch: u64,
        at: usize,
        is_kept: bool,
    },
    /// End intents.
    Settle {
        ask: u64,
        at: usize,
        ids: Vec<BatchId>,
        made: bool,
    },
    Settled {
        ask: u64,
        at: usize,
        settled: Vec<Settled>,
    },
    /// What became of batches? Asked for a table that has intents of them.
    Ask {
        at: usize,
        anchor: usize,
        ids: Vec<BatchId>,
    },
    Verdicts {
        at: usize,
        verdicts: Vec<(BatchId, Verdict)>,
    },
}

/// What a client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Done,
    Refused,
    Unknown,
}

/// What a write in a table is for.
enum Work {
    /// It decides that batch.
    Decision(u64),
    /// It is all of that batch.
    Alone(u64),
    Intent {
        from: usize,
        batch: u64,
        at: usize,
    },
    Settling(usize, BatchId),
}

impl Work {
    fn is_of(&self, batch: u64) -> bool {
        matches!(self, Work::Decision(of) | Work::Alone(of) if *of == batch)
    }
}

/// What a process remembers of batches.
pub(super) struct Batches {
    life: u64,
    clock: Arc<NodeClock>,
    plant: Option<Plant>,
    books: Books,
    upkeep: Upkeep,
    /// By the numbers of clients.
    begun: BTreeMap<u64, Begun>,
    works: BTreeMap<u64, Work>,
    settling: BTreeSet<(usize, BatchId)>,
    answering: Vec<Answering>,
    rounds: BTreeMap<u64, Round>,
    /// Batches that are being forgotten.
    forgetting: Vec<(Pending<()>, usize, Vec<BatchId>)>,
    /// Since when it was asked what became of intents, for a planted bug.
    asked: BTreeMap<(usize, BatchId), u64>,
    last: u64,
    looked_at: u64,
}

/// Numbers of writes are beyond those of clients.
const WRITES: u64 = 1 << 40;

impl Batches {
    /// Nothing is begun.
    pub(super) fn new(store: &Store, clock: Arc<NodeClock>, plant: Option<Plant>) -> Batches {
        Batches {
            life: store.life(),
            clock,
            plant,
            books: Books::default(),
            upkeep: Upkeep::default(),
            begun: BTreeMap::new(),
            works: BTreeMap::new(),
            settling: BTreeSet::new(),
            answering: Vec::new(),
            rounds: BTreeMap::new(),
            forgetting: Vec::new(),
            asked: BTreeMap::new(),
            last: WRITES,
            looked_at: 0,
        }
    }

    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn term(&self, epoch: u64) -> Term {
        Term { epoch, life: self.life }
    }

    /// Does what is to be done, and takes what became of writes.
    pub(super) fn step(&mut self, now: u64, parts: &mut [Part], out: &mut Out) {
        let ended = std::mem::take(&mut out.ended);
        for (at, number, ended) in ended {
            match self.works.contains_key(&number) {
                true => self.take_ended(number, ended, parts, out),
                false if number > WRITES => {}
                false => out.ended.push((at, number, ended)),
            }
        }
        self.go_on(now, parts, out);
        self.answer(now, parts, out);
        self.keep(now, parts, out);
    }

    fn take_ended(&mut self, number: u64, ended: Ended, parts: &mut [Part], out: &mut Out) {
        if let Ended::Written(_) = ended {
            if let Some(Work::Decision(batch)) = self.works.get(&number) {
                let batch = *batch;
                self.is_written(batch, parts, out);
            }
            return;
        }
        match self.works.remove(&number) {
            Some(Work::Decision(batch)) => self.is_decided(batch, ended, parts, out),
            Some(Work::Alone(batch)) => out.answers.push((batch, answer_of(ended))),
            Some(Work::Intent { from, batch, at }) => {
                let is_kept = match ended {
                    Ended::Written(_) | Ended::Unknown(_) => return,
                    Ended::Made(_) => true,
                    Ended::Refused => false,
                };
                let told = Told::Intended { batch, at, is_kept };
                out.messages.push((from, Message::OfBatch(told)));
            }
            Some(Work::Settling(at, id)) => self.has_settled((at, id), ended, parts),
            None => {}
        }
    }

    /// Takes what another region has told.
    pub(super) fn receive(
        &mut self,
        now: u64,
        from: usize,
        told: Told,
        parts: &mut [Part],
        out: &mut Out,
    ) {
        match told {
            Told::Intend { batch, id, anchor, at, group } => {
                let is_begun =
                    self.on_intend((from, batch), (id, anchor), (&mut parts[at], group), now);
                if !is_begun {
                    let told = Told::Intended { batch, at, is_kept: false };
                    out.messages.push((from, Message::OfBatch(told)));
                }
            }
            Told::Intended { batch, at, is_kept } => {
                if let Some(begun) = self.begun.get_mut(&batch) {
                    begun.said(at, is_kept);
                }
            }
            Told::Settle { ask, at, ids, made } => {
                self.on_settle((from, ask), (at, ids), made, now, parts);
            }
            Told::Settled { ask, at, settled } => {
                if let Some(round) = self.rounds.get_mut(&ask) {
                    round.told(at, settled);
                }
            }
            Told::Ask { at, anchor, ids } => {
                if let Some(verdicts) = self.verdicts(now, &parts[anchor], ids) {
                    let told = Told::Verdicts { at, verdicts };
                    out.messages.push((from, Message::OfBatch(told)));
                }
            }
            Told::Verdicts { at, verdicts } => self.on_verdicts(at, verdicts, parts),
        }
    }

    /// Whether a batch is under way.
    pub(super) fn has(&self, batch: u64) -> bool {
        self.begun.contains_key(&batch) || self.works.values().any(|work| work.is_of(batch))
    }

    /// Whether nothing is begun, asked or told.
    pub(super) fn rests(&self) -> bool {
        self.begun.is_empty() && self.works.is_empty()
    }
}

fn answer_of(ended: Ended) -> Answer {
    match ended {
        Ended::Made(_) => Answer::Done,
        Ended::Refused => Answer::Refused,
        Ended::Written(_) | Ended::Unknown(_) => Answer::Unknown,
    }
}

/// The writer of a table, if this region may say what is in its log, with the epoch.
fn written(part: &Part, now: u64) -> Option<(&Writer, u64)> {
    let writer = part.writer.as_ref()?;
    (writer.is_open() && part.holds(writer.epoch, now)).then_some((writer, writer.epoch))
}

fn is_decided_durably(table: &Table, id: BatchId) -> bool {
    table.decided_batch(id).is_some_and(|decided| decided.lsn <= table.durable_lsn())
}

fn to_all(told: &Told, out: &mut Out) {
    out.messages.extend((0..REGIONS).map(|to| (to, Message::OfBatch(told.clone()))));
}

fn time(now: u64) -> Duration {
    Duration::from_millis(now)
}

/// How old something is.
fn age(clock: &NodeClock, since_millis: i64) -> Duration {
    time(clock.wall_millis().saturating_sub(since_millis).max(0).unsigned_abs())
}

/// Does to a disk before a start what a planted bug does.
pub(super) fn spoil(engine: &FaultyEngine, plan: &Plan) {
    if plan.plant != Some(Plant::IntentForgotten) {
        return;
    }
    let Ok(snapshot) = engine.snapshot() else { return };
    let mut batch = Batch::default();
    for (at, table) in plan.tables.iter().enumerate() {
        let (start, end) = keys::intent::range(spec(0, at, table).partition);
        for (key, _) in snapshot
            .scan(Space::Meta, &start, Some(&end), Direction::Forward)
            .filter_map(Result::ok)
        {
            batch.delete(Space::Meta, key);
        }
    }
    // What was to fail later does not fail now.
    engine.unplan();
    // A planted bug: whether it succeeds shows in the end.
    let _ = engine.commit(batch);
}

/// What is kept of batches by a table.
fn kept(table: &Table) -> usize {
    table.intents().len() + table.decided_batches().len()
}

/// A round of telling is over when all that it tells of is settled.
fn is_complete(telling: &Telling) -> bool {
    telling.members().flat_map(|(_, _, ids)| ids).collect::<BTreeSet<_>>().len()
        == telling.over().len()
}

fn line(at: usize) -> isthmus_model::ids::TableId {
    table_id(at)
}
