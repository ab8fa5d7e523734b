//! The region that writes a table: the beginning of a term, and writes that others prepare before
//! they are made, as the server does both; or writes that are made and then held by others.

mod job;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use isthmus_model::commit::{Answer, Count, Recovery, Term, TxId, Votes};
use isthmus_model::ids::Lsn;
use isthmus_model::key::EncodedKey;
use isthmus_store::{Beginning, Pending, StoreError, Table};

use self::job::{Job, Next, State, unknown, written};
use super::group::{Group, Prepared, Results, Task, members_of, prepared_bytes, read_prepared};
use super::network::{Message, TableMessage};
use super::part::Part;
use super::plan::{Mode, REGIONS};
use super::region::Out;
use crate::plant::Plant;

/// What was not answered is sent again after this, in milliseconds.
const AGAIN: u64 = 50;

/// A change that was prepared and is made.
enum Remade {
    AsAsked(Pending<Results>),
    /// As it was made in a log that was cut off.
    Again(Pending<Lsn>),
}

/// What a write has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It is durable here, in that entry; more follows.
    Written(Lsn),
    /// It is as durable as the table's mode asks for; it, or what it was about, is at or before
    /// that entry.
    Made(Lsn),
    /// Nothing of it is made, and never will be.
    Refused,
    /// It may be made: it was sent to others in that term.
    Unknown(Option<Term>),
}

/// One epoch of a region that writes.
pub(super) struct Writer {
    pub(super) epoch: u64,
    stage: Stage,
    held_by: usize,
    jobs: BTreeMap<u64, Job>,
    /// Rows of writes that are prepared.
    locked: BTreeSet<EncodedKey>,
    /// Through which entry each region holds the log.
    held: [u64; REGIONS],
    asked_at: u64,
    /// No write is begun.
    drains: bool,
}

#[allow(clippy::large_enum_variant, reason = "there is one of it")]
enum Stage {
    Promising(Term, Pending<()>),
    Gathering(Recovery<usize>, BTreeMap<TxId, Bytes>),
    Making(Term, VecDeque<(TxId, Bytes)>, Option<Remade>),
    Settling(Term, Pending<Lsn>),
    Holding(Term, Lsn),
    Open(Votes<usize>),
    /// Nothing is prepared.
    Plain,
}

impl Remade {
    fn try_take(&mut self) -> Option<Result<(), StoreError>> {
        match self {
            Remade::AsAsked(made) => made.try_take().map(|made| made.map(drop)),
            Remade::Again(made) => made.try_take().map(|made| made.map(drop)),
        }
    }
}

fn remake(table: &Table, tx: TxId, change: &Bytes) -> Option<Remade> {
    Some(match read_prepared(change)? {
        Prepared::Asked(group, task) => {
            Remade::AsAsked(group.make(table, &task, Some(tx), Beginning::Recovered))
        }
        Prepared::Made(entry) => Remade::Again(table.write_again(&entry)),
    })
}

impl Writer {
    /// Begins an epoch.
    pub(super) fn begin(table: &Table, mode: Mode, epoch: u64, now: u64) -> Writer {
        let (promised, _) = table.terms();
        let life = match promised.epoch == epoch {
            true => now.max(promised.life + 1),
            false => now,
        };
        let term = Term { epoch, life };
        let stage = match mode.is_sync() {
            true => Stage::Promising(term, table.promise(term)),
            false => Stage::Plain,
        };
        Writer {
            epoch,
            stage,
            held_by: mode.held_by(),
            jobs: BTreeMap::new(),
            locked: BTreeSet::new(),
            held: [0; REGIONS],
            asked_at: 0,
            drains: false,
        }
    }

    /// Begins no more writes, or does again.
    pub(super) fn drain(&mut self, drains: bool) {
        self.drains = drains;
    }

    /// Whether no write is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Another region holds the log through an entry.
    pub(super) fn holds(&mut self, region: usize, end: u64) {
        self.held[region] = self.held[region].max(end);
    }

    /// Whether so many other regions hold an entry as a write waits for.
    pub(super) fn is_held(&self, place: usize, lsn: Lsn) -> bool {
        self.holders(place, lsn) >= self.held_by
    }

    /// Whether all others hold an entry.
    pub(super) fn is_held_by_all(&self, place: usize, lsn: Lsn) -> bool {
        self.holders(place, lsn) == REGIONS - 1
    }

    fn holders(&self, place: usize, lsn: Lsn) -> usize {
        let others = self.held.iter().enumerate().filter(|(other, _)| *other != place);
        others.filter(|(_, held)| **held >= lsn.0).count()
    }

    /// Begins a write, unless its rows are locked or nothing is written yet. Whether it is begun.
    pub(super) fn write(&mut self, table: &Table, group: Group, task: Task, number: u64) -> bool {
        let keys = group.keys();
        let state = match &self.stage {
            _ if self.drains => return false,
            Stage::Plain => State::Making(group.make(table, &task, None, Beginning::Fresh)),
            Stage::Open(_) if !keys.iter().any(|key| self.locked.contains(key)) => {
                self.locked.extend(keys.iter().cloned());
                State::Judging(table.judge(group.changes(false), true))
            }
            _ => return false,
        };
        let keys = if self.is_plain() { Vec::new() } else { keys };
        self.jobs.insert(number, Job { group, task, keys, tx: None, room: None, state });
        true
    }

    /// Ends an intent by making its rows.
    pub(super) fn settle(&mut self, table: &Table, group: Group, task: Task, number: u64) {
        let state = match self.is_plain() {
            true => State::Making(group.make(table, &task, None, Beginning::Fresh)),
            false => State::Waiting,
        };
        let keys = Vec::new();
        self.jobs.insert(number, Job { group, task, keys, tx: None, room: None, state });
    }

    /// Ends an intent without a change, or waits until one that is not there has ended durably.
    pub(super) fn end_intent(&mut self, looks: bool, table: &Table, task: Task, number: u64) {
        let state = match (looks, &task) {
            (false, Task::Settle(id)) => State::GivingUp(table.abandon_batch(*id)),
            _ => State::Looking(table.settled()),
        };
        let group = Group { moves: Vec::new(), mark: None };
        let keys = Vec::new();
        self.jobs.insert(number, Job { group, task, keys, tx: None, room: None, state });
    }

    /// Takes back a write of which nothing was sent to others and nothing made. Whether it was so.
    pub(super) fn take_back(&mut self, number: u64) -> bool {
        let is_unsent = |job: &Job| matches!(job.state, State::Waiting | State::Judging(_));
        let is_begun = self.jobs.get(&number).is_some_and(is_unsent);
        if is_begun && let Some(job) = self.jobs.remove(&number) {
            self.unlock(&job.keys);
        }
        is_begun
    }

    /// The term in which a write was sent to others.
    pub(super) fn sent_in(&self, number: u64) -> Option<Term> {
        self.jobs.get(&number).and_then(|job| job.tx).map(|tx| tx.term)
    }

    /// Nothing is written here any more: what becomes of the writes under way.
    pub(super) fn end(self) -> impl Iterator<Item = (u64, Ended)> {
        self.jobs.into_iter().map(|(number, job)| {
            let ended = match (job.state, job.tx) {
                (State::Waiting | State::Judging(_), _) => Ended::Refused,
                (_, tx) => Ended::Unknown(tx.map(|tx| tx.term)),
            };
            (number, ended)
        })
    }

    /// Whether a write is under way.
    pub(super) fn has(&self, number: u64) -> bool {
        self.jobs.contains_key(&number)
    }

    /// Whether writes are made and none is under way.
    pub(super) fn rests(&self) -> bool {
        self.is_open() && self.jobs.is_empty()
    }

    fn unlock(&mut self, keys: &[EncodedKey]) {
        for key in keys {
            self.locked.remove(key);
        }
    }

    fn is_plain(&self) -> bool {
        matches!(self.stage, Stage::Plain)
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
            Stage::Plain => "is open".to_owned(),
        };
        format!("{stage}, {} writes under way, {:?} held", self.jobs.len(), self.held)
    }

    /// Whether reads show the newest.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open(_) | Stage::Plain)
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
    pub(super) fn step(&mut self, part: &Part, now: u64, may_lack: bool, out: &mut Out) -> bool {
        let table = &part.table;
        let asks = now >= self.asked_at + AGAIN;
        if asks {
            self.asked_at = now;
        }
        let others = |place: usize| (0..REGIONS).filter(move |other| *other != place);
        let own = part.place;
        match &mut self.stage {
            Stage::Promising(term, promise) => {
                let term = *term;
                match promise.try_take() {
                    None => return true,
                    Some(Err(_)) => return false,
                    Some(Ok(())) => {}
                }
                if part.heard.grant().epoch != term.epoch || term.epoch == 1 {
                    self.stage = Stage::Making(term, VecDeque::new(), None);
                    return term.epoch == part.heard.grant().epoch;
                }
                let needed = match part.plant {
                    Some(Plant::NobodyAsked) => 1,
                    _ => (REGIONS - part.heard.held_by).max(1) + usize::from(may_lack),
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
                    out.messages.extend(
                        others(own).map(|other| {
                            (other, Message::Of(part.at, TableMessage::Promise(term)))
                        }),
                    );
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
                        let Some(remade) = remake(table, tx, &change) else { return false };
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
                let needed = match part.plant {
                    Some(Plant::MadeBeforeVotes) => 0,
                    Some(Plant::AllAwaited) => REGIONS - 1,
                    _ => part.heard.held_by,
                };
                if holders >= needed && part.holds(self.epoch, now) {
                    let count = Count { others: others(own).collect(), needed };
                    self.stage = Stage::Open(Votes::begin(*term, count));
                }
            }
            Stage::Open(_) | Stage::Plain => return self.work(part, now, asks, out),
        }
        true
    }

    fn work(&mut self, part: &Part, now: u64, asks: bool, out: &mut Out) -> bool {
        let numbers: Vec<u64> = self.jobs.keys().copied().collect();
        for number in numbers {
            let Some(mut job) = self.jobs.remove(&number) else { continue };
            match self.go_on(part, now, (number, &mut job), asks, out) {
                Next::Later => {
                    self.jobs.insert(number, job);
                }
                Next::Stop => {
                    self.jobs.insert(number, job);
                    return false;
                }
                Next::Over(ended) => {
                    self.unlock(&job.keys);
                    out.ended.push((part.at, number, ended));
                }
            }
        }
        true
    }

    fn go_on(
        &mut self,
        part: &Part,
        now: u64,
        (number, job): (u64, &mut Job),
        asks: bool,
        out: &mut Out,
    ) -> Next {
        if let State::Waiting = job.state {
            let keys = job.group.keys();
            if keys.iter().any(|key| self.locked.contains(key)) {
                return Next::Later;
            }
            self.locked.extend(keys.iter().cloned());
            job.keys = keys;
            job.state = State::Making(job.make(&part.table));
        }
        let mut sends = asks;
        if let State::Judging(judged) = &mut job.state {
            match judged.try_take() {
                None => return Next::Later,
                Some(Ok(keys)) if keys.iter().all(Result::is_ok) => {}
                Some(_) => return Next::Over(Ended::Refused),
            }
            if !self.send(part, job, now) {
                return Next::Over(Ended::Refused);
            }
            sends = true;
        }
        if let (State::Voting, Some(tx), Stage::Open(votes)) = (&job.state, job.tx, &self.stage) {
            if votes.is_pending(tx) {
                let term = votes.term();
                let changes = vec![(tx, prepared_bytes(&job.group, &job.task, number))];
                for other in votes.missing(tx).filter(|_| sends) {
                    let prepare = TableMessage::Prepare { term, changes: changes.clone() };
                    out.messages.push((*other, Message::Of(part.at, prepare)));
                }
                return Next::Later;
            }
            job.state = State::Making(job.make(&part.table));
        }
        if let State::Making(making) = &mut job.state {
            let lsn = match making.try_take() {
                None => return Next::Later,
                Some(Ok(results)) => match written(results, &part.table) {
                    Ok(lsn) => lsn,
                    // It was sent, and others may make it.
                    Err(_) if job.tx.is_some() => return Next::Over(unknown(job)),
                    Err(_) => return Next::Over(Ended::Refused),
                },
                Some(Err(error)) => return job.failed(&error, &part.table),
            };
            out.ended.push((part.at, number, Ended::Written(lsn)));
            let is_settling = matches!(job.task, Task::Settle(_));
            if job.tx.is_some() && !is_settling {
                return Next::Over(match part.holds(self.epoch, now) {
                    true => Ended::Made(lsn),
                    false => unknown(job),
                });
            }
            job.state = State::Holding(lsn);
        }
        if let State::Looking(looking) = &mut job.state {
            match looking.try_take() {
                None => return Next::Later,
                Some(Ok(())) => job.state = State::Holding(part.table.durable_lsn()),
                Some(Err(_)) => return Next::Over(Ended::Unknown(None)),
            }
        }
        if let State::GivingUp(giving_up) = &mut job.state {
            return match giving_up.try_take() {
                None => Next::Later,
                Some(Ok(())) => Next::Over(Ended::Made(part.table.durable_lsn())),
                Some(Err(_)) => Next::Over(Ended::Unknown(None)),
            };
        }
        if let State::Holding(lsn) = job.state
            && self.is_held(part.place, lsn)
        {
            return Next::Over(match part.holds(self.epoch, now) {
                true => Ended::Made(lsn),
                false => unknown(job),
            });
        }
        Next::Later
    }

    /// Sends what was judged to the others. False: it is not sent.
    fn send(&mut self, part: &Part, job: &mut Job, now: u64) -> bool {
        let Stage::Open(votes) = &mut self.stage else { return false };
        let room = match &job.task {
            Task::Rows | Task::Settle(_) => Ok(None),
            Task::Intent(..) => part.table.room_for_intent(job.group.encode().len()).map(Some),
            // In another epoch it may have been said that the batch is given up.
            Task::Decision(id, _) if id.term.epoch != votes.term().epoch => return false,
            Task::Decision(_, members) => {
                part.table.room_for_decision(&members_of(members)).map(Some)
            }
        };
        let Ok(room) = room else { return false };
        let tx = votes.next();
        if votes.open(tx, now).is_err() {
            return false;
        }
        (job.tx, job.room, job.state) = (Some(tx), room, State::Voting);
        true
    }
}
