//! The region that writes: the beginning of a term, and writes that others prepare before they are
//! made, as the server does both.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use isthmus_model::commit::{Answer, Count, Recovery, Term, TxId, Votes};
use isthmus_model::entry::Entry;
use isthmus_model::error::Outcome;
use isthmus_model::ids::Lsn;
use isthmus_model::key::PrimaryKey;
use isthmus_store::codec::entry::{decode_entry, encode_entry};
use isthmus_store::{Pending, StoreError, Table, Written};

use super::network::Message;
use super::plan::{REGIONS, encoded, increment};
use super::region::{Life, Out};
use crate::plant::Plant;

/// What was not answered is sent again after this, in milliseconds.
const AGAIN: u64 = 50;

type Judged = Pending<Vec<Result<PrimaryKey, StoreError>>>;
type Made = Pending<Vec<Result<Written, StoreError>>>;

/// A change that was prepared and is made.
enum Remade {
    AsAsked(Made),
    /// As it was made in a log that was cut off.
    Again(Pending<Lsn>),
}

/// One epoch of a region that writes.
pub(super) struct Writer {
    pub(super) epoch: u64,
    stage: Stage,
    jobs: BTreeMap<u64, Job>,
    locked: BTreeSet<usize>,
    /// Through which entry each region holds the log.
    held: [u64; REGIONS],
    asked_at: u64,
}

#[allow(clippy::large_enum_variant, reason = "there is one of it")]
enum Stage {
    Promising(Term, Pending<()>),
    Gathering(Recovery<usize>, BTreeMap<TxId, Bytes>),
    Making(Term, VecDeque<(TxId, Bytes)>, Option<Remade>),
    Settling(Term, Pending<Lsn>),
    Holding(Term, Lsn),
    Open(Votes<usize>),
}

/// A client's write.
struct Job {
    row: usize,
    tx: Option<TxId>,
    state: State,
}

enum State {
    Judging(Judged),
    Voting,
    Making(Made),
}

/// Says that an entry follows, and not a row.
const ENTRY_FOLLOWS: u64 = u64::MAX;

/// A change as it is prepared: the row, and whose write it is.
fn change_bytes(row: usize, number: u64) -> Bytes {
    [(row as u64).to_le_bytes(), number.to_le_bytes()].concat().into()
}

/// A change as it is prepared again that was made in a tail.
pub(super) fn made_bytes(entry: &Entry) -> Bytes {
    [&ENTRY_FOLLOWS.to_le_bytes()[..], &encode_entry(entry)].concat().into()
}

fn remake(table: &Table, tx: TxId, change: &Bytes) -> Result<Remade, StoreError> {
    let first = change.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    if first != ENTRY_FOLLOWS {
        return Ok(Remade::AsAsked(make(table, tx, first as usize)));
    }
    let entry = decode_entry(&change.slice(8..));
    let entry = entry.map_err(|source| StoreError::Corrupt { what: "prepared change", source })?;
    Ok(Remade::Again(table.write_again(&entry)))
}

impl Remade {
    fn try_take(&mut self) -> Option<Result<(), StoreError>> {
        match self {
            Remade::AsAsked(made) => made.try_take().map(|made| made.map(drop)),
            Remade::Again(made) => made.try_take().map(|made| made.map(drop)),
        }
    }
}

impl Writer {
    /// Begins a term.
    pub(super) fn begin(table: &Table, epoch: u64, now: u64) -> Writer {
        let (promised, _) = table.terms();
        let life = match promised.epoch == epoch {
            true => now.max(promised.life + 1),
            false => now,
        };
        let term = Term { epoch, life };
        Writer {
            epoch,
            stage: Stage::Promising(term, table.promise(term)),
            jobs: BTreeMap::new(),
            locked: BTreeSet::new(),
            held: [0; REGIONS],
            asked_at: 0,
        }
    }

    /// Another region holds the log through an entry.
    pub(super) fn holds(&mut self, region: usize, end: u64) {
        self.held[region] = self.held[region].max(end);
    }

    /// A client writes. Whether it is begun.
    pub(super) fn write(&mut self, table: &Table, row: usize, number: u64) -> bool {
        let is_open = matches!(self.stage, Stage::Open(_)) && self.locked.insert(row);
        if is_open {
            let state = State::Judging(table.judge(vec![increment(row)], false));
            self.jobs.insert(number, Job { row, tx: None, state });
        }
        is_open
    }

    /// Whether a client's write is under way.
    pub(super) fn has(&self, number: u64) -> bool {
        self.jobs.contains_key(&number)
    }

    /// Whether writes are made and none is under way.
    pub(super) fn rests(&self) -> bool {
        matches!(self.stage, Stage::Open(_)) && self.jobs.is_empty()
    }

    /// In words, for a report.
    pub(super) fn told(&self) -> String {
        let stage = match &self.stage {
            Stage::Promising(term, _) => format!("promises {term}"),
            Stage::Gathering(recovery, _) => format!("gathers for {}", recovery.term()),
            Stage::Making(term, changes, _) => format!("makes {} for {term}", changes.len()),
            Stage::Settling(term, _) => format!("settles {term}"),
            Stage::Holding(term, lsn) => format!("waits for holders of {lsn} of {term}"),
            Stage::Open(votes) => format!("is open in {}", votes.term()),
        };
        format!("{stage}, {} writes under way, {:?} held", self.jobs.len(), self.held)
    }

    /// Whether reads show the newest.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open(_))
    }

    pub(super) fn voted(&mut self, from: usize, txs: &[TxId]) {
        let Stage::Open(votes) = &mut self.stage else { return };
        for tx in txs {
            votes.vote(&from, *tx);
        }
    }

    pub(super) fn promised(
        &mut self,
        from: usize,
        term: Term,
        held: u64,
        prepared: Vec<(TxId, Bytes)>,
    ) {
        let Stage::Gathering(recovery, changes) = &mut self.stage else { return };
        if recovery.term() != term {
            return;
        }
        let told = prepared.iter().map(|(tx, _)| (*tx, 0)).collect();
        let answer = Answer { promised: term, held, prepared: told };
        if recovery.answer(from, answer).is_ok() {
            changes.extend(prepared);
        }
    }

    /// Goes on. False: it cannot, and is begun anew if the table is still written here.
    pub(super) fn step(&mut self, life: &Life, now: u64, may_lack: bool, out: &mut Out) -> bool {
        let table = &life.table;
        let asks = now >= self.asked_at + AGAIN;
        if asks {
            self.asked_at = now;
        }
        let others = |place: usize| (0..REGIONS).filter(move |other| *other != place);
        let own = life.place;
        match &mut self.stage {
            Stage::Promising(term, promise) => {
                let term = *term;
                match promise.try_take() {
                    None => return true,
                    Some(Err(_)) => return false,
                    Some(Ok(())) => {}
                }
                if life.heard.grant().epoch != term.epoch || term.epoch == 1 {
                    self.stage = Stage::Making(term, VecDeque::new(), None);
                    return term.epoch == life.heard.grant().epoch;
                }
                let needed = match life.plant {
                    Some(Plant::NobodyAsked) => 1,
                    _ => (REGIONS - life.heard.held_by).max(1) + usize::from(may_lack),
                };
                let end = table.durable_lsn().0;
                let recovery =
                    table.with_participant(|books| Recovery::new(term, (own, books), needed, end));
                let Ok(recovery) = recovery else { return false };
                self.stage = Stage::Gathering(recovery, table.prepared().into_iter().collect());
            }
            Stage::Gathering(recovery, changes) => {
                let term = recovery.term();
                if let Some(plan) = recovery.plan() {
                    let found = plan.commit.into_iter();
                    let found = found.filter_map(|(tx, _)| Some((tx, changes.remove(&tx)?)));
                    self.stage = Stage::Making(term, found.collect(), None);
                } else if asks {
                    out.messages.extend(others(own).map(|other| (other, Message::Promise(term))));
                }
            }
            Stage::Making(term, changes, making) => {
                if let Some(made) = making {
                    match made.try_take() {
                        None => return true,
                        Some(Err(_)) => return false,
                        Some(Ok(())) => *making = None,
                    }
                }
                match changes.pop_front() {
                    Some((tx, change)) => {
                        let Ok(remade) = remake(table, tx, &change) else { return false };
                        *making = Some(remade);
                    }
                    None => self.stage = Stage::Settling(*term, table.settle(*term)),
                }
            }
            Stage::Settling(term, settling) => match settling.try_take() {
                None => {}
                Some(Err(_)) => return false,
                Some(Ok(lsn)) => self.stage = Stage::Holding(*term, lsn),
            },
            Stage::Holding(term, lsn) => {
                let holders = others(own).filter(|other| self.held[*other] >= lsn.0).count();
                let needed = match life.plant {
                    Some(Plant::MadeBeforeVotes) => 0,
                    _ => life.heard.held_by,
                };
                if holders >= needed && life.holds(self.epoch, now) {
                    let count = Count { others: others(own).collect(), needed };
                    self.stage = Stage::Open(Votes::begin(*term, count));
                }
            }
            Stage::Open(_) => return self.commit(life, now, asks, out),
        }
        true
    }

    fn commit(&mut self, life: &Life, now: u64, asks: bool, out: &mut Out) -> bool {
        let Stage::Open(votes) = &mut self.stage else { return true };
        let term = votes.term();
        let mut ended = Vec::new();
        for (number, job) in &mut self.jobs {
            let mut sends = asks;
            if let State::Judging(judged) = &mut job.state {
                match judged.try_take() {
                    None => continue,
                    Some(Ok(keys)) if keys.iter().all(Result::is_ok) => {}
                    // Nothing was sent of it.
                    Some(_) => {
                        ended.push(*number);
                        continue;
                    }
                }
                let tx = votes.next();
                if votes.open(tx, now).is_err() {
                    ended.push(*number);
                    continue;
                }
                (job.tx, job.state, sends) = (Some(tx), State::Voting, true);
            }
            let Some(tx) = job.tx else { continue };
            if matches!(job.state, State::Voting) {
                if votes.is_pending(tx) {
                    let changes = vec![(tx, change_bytes(job.row, *number))];
                    for other in votes.missing(tx).filter(|_| sends) {
                        let changes = changes.clone();
                        out.messages.push((*other, Message::Prepare { term, changes }));
                    }
                    continue;
                }
                job.state = State::Making(make(&life.table, tx, job.row));
            }
            let State::Making(making) = &mut job.state else { continue };
            match making.try_take() {
                None => {}
                Some(Ok(_)) => {
                    if life.holds(self.epoch, now) {
                        out.acknowledged.push(*number);
                    }
                    ended.push(*number);
                }
                Some(Err(error)) => match (error.outcome(), error) {
                    (Outcome::Unknown, _)
                    | (_, StoreError::NotWritable { .. } | StoreError::Stopped) => return false,
                    // It is decided, and made later.
                    _ => job.state = State::Making(make(&life.table, tx, job.row)),
                },
            }
        }
        for number in ended {
            if let Some(job) = self.jobs.remove(&number) {
                self.locked.remove(&job.row);
            }
        }
        true
    }
}

fn make(table: &Table, tx: TxId, row: usize) -> Made {
    table.write_prepared(vec![tx], vec![increment(row)], false)
}

/// What a counter shows.
pub(super) fn counter(table: &Table, row: usize) -> Result<i64, StoreError> {
    let row = table.get(&encoded(row))?;
    let cells = row.as_ref().and_then(|row| row.column(b"n"));
    let value = cells.and_then(|column| column.cells.first()?.value.clone());
    Ok(match value {
        Some(isthmus_model::value::Value::Integer(number)) => number,
        _ => 0,
    })
}
