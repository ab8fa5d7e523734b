//! What a member of a batch does, and how what batches have left is settled, as the server does it.

use std::collections::BTreeMap;
use std::time::Duration;

use isthmus_control::batches::{AnchorLog, Settled, Step, Telling, is_made};
use isthmus_model::atomic::{BatchId, Verdict};
use isthmus_model::ids::{Epoch, Lsn};

use super::{
    Batches, Told, Work, age, is_complete, is_decided_durably, line, time, to_all, written,
};
use crate::plant::Plant;
use crate::sync::group::{Group, Task, anchor_of};
use crate::sync::network::Message;
use crate::sync::part::Part;
use crate::sync::plan::table_of;
use crate::sync::region::Out;
use crate::sync::writer::Ended;

/// How often it is looked, in milliseconds.
const LOOK_EVERY: u64 = 250;
/// How long a question waits for what it settles.
const SETTLE_WITHIN: u64 = 2000;
/// How long one round waits for answers.
const ROUND_WITHIN: u64 = 3000;
/// With a planted bug: who does not answer for so long has given everything up.
const SILENCE: u64 = 1500;

/// A question that waits for what it settles.
pub(super) struct Answering {
    to: usize,
    ask: u64,
    at: usize,
    epoch: u64,
    ids: Vec<BatchId>,
    settled: BTreeMap<BatchId, Settled>,
    until: u64,
}

/// An anchor tells its members.
pub(super) struct Round {
    at: usize,
    telling: Telling,
    until: u64,
}

impl Round {
    pub(super) fn told(&mut self, member: usize, settled: Vec<Settled>) {
        self.telling.told(line(member), settled);
    }
}

impl Batches {
    /// Keeps an intent. Whether that is begun.
    pub(super) fn on_intend(
        &mut self,
        (from, batch): (usize, u64),
        (id, anchor): (BatchId, usize),
        (part, group): (&mut Part, Group),
        now: u64,
    ) -> bool {
        if written(part, now).is_none() {
            return false;
        }
        let (number, at) = (self.number(), part.at);
        let table = part.table.clone();
        let Some(writer) = &mut part.writer else { return false };
        let is_begun = writer.write(&table, group, Task::Intent(id, anchor), number);
        if is_begun {
            self.works.insert(number, Work::Intent { from, batch, at });
        }
        is_begun
    }

    /// Ends intents, if their table is written here.
    pub(super) fn on_settle(
        &mut self,
        (to, ask): (usize, u64),
        (at, ids): (usize, Vec<BatchId>),
        made: bool,
        now: u64,
        parts: &mut [Part],
    ) {
        let Some((_, epoch)) = written(&parts[at], now) else { return };
        let mut settled = BTreeMap::new();
        for id in &ids {
            if !self.settle(*id, made, &mut parts[at]) {
                settled.insert(*id, Settled::Not);
            }
        }
        let until = now + SETTLE_WITHIN;
        self.answering.push(Answering { to, ask, at, epoch, ids, settled, until });
    }

    /// Ends an intent, if there is one. Whether that is begun.
    fn settle(&mut self, id: BatchId, made: bool, part: &mut Part) -> bool {
        let (number, at) = (self.number(), part.at);
        let table = part.table.clone();
        let Some(writer) = part.writer.as_mut().filter(|writer| writer.is_open()) else {
            return false;
        };
        if !self.settling.insert((at, id)) {
            return false;
        }
        let known = table.intent(id).map(|(intent, _)| intent);
        let task = Task::Settle(id);
        match Step::of(known, made) {
            Step::Make(intent) => {
                let Some(group) = Group::decode(&intent.request) else { return false };
                writer.settle(&table, group, task, number);
            }
            Step::GiveUp => writer.end_intent(false, &table, task, number),
            Step::Nothing => writer.end_intent(true, &table, task, number),
        }
        self.works.insert(number, Work::Settling(at, id));
        true
    }

    /// A batch is settled here, or not.
    pub(super) fn has_settled(&mut self, (at, id): (usize, BatchId), ended: Ended, parts: &[Part]) {
        self.settling.remove(&(at, id));
        let settled = match ended {
            Ended::Made(lsn) => {
                self.upkeep.is_over(line(at), id);
                self.asked.remove(&(at, id));
                self.how_held(&parts[at], id, lsn)
            }
            Ended::Written(_) | Ended::Refused | Ended::Unknown(_) => Settled::Not,
        };
        for one in self.answering.iter_mut().filter(|one| one.at == at && one.ids.contains(&id)) {
            one.settled.entry(id).or_insert(settled);
        }
    }

    fn how_held(&mut self, part: &Part, id: BatchId, lsn: Lsn) -> Settled {
        let Some(writer) = &part.writer else { return Settled::Not };
        let lsn = self.upkeep.settled_at(line(part.at), id, (lsn, Epoch(writer.epoch)));
        match writer.is_held_by_all(part.place, lsn) {
            true => {
                self.upkeep.is_held(line(part.at), id);
                Settled::ByAll
            }
            false => Settled::AsAsked,
        }
    }

    /// Answers questions for which all is settled, or which have waited for too long.
    pub(super) fn answer(&mut self, now: u64, parts: &[Part], out: &mut Out) {
        let (over, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.answering)
            .into_iter()
            .partition(|one| one.settled.len() == one.ids.len() || now >= one.until);
        self.answering = waiting;
        for Answering { to, ask, at, epoch, ids, settled, .. } in over {
            // Whoever writes now says what is settled.
            if written(&parts[at], now).is_none_or(|(_, now_epoch)| now_epoch != epoch) {
                continue;
            }
            let of = |id| settled.get(id).copied().unwrap_or(Settled::Not);
            let told = Told::Settled { ask, at, settled: ids.iter().map(of).collect() };
            out.messages.push((to, Message::OfBatch(told)));
        }
    }

    /// Whether a decision is durable here and held by as many as the table's mode asks for.
    fn may_be_told(&self, part: &Part, lsn: Lsn) -> bool {
        let lies = self.plant == Some(Plant::ToldBeforeHeld);
        let writer = part.writer.as_ref();
        lsn <= part.table.durable_lsn()
            && writer.is_some_and(|writer| lies || writer.is_held(part.place, lsn))
    }

    /// What became of batches whose anchor is written here; `None`: it is not.
    pub(super) fn verdicts(
        &mut self,
        now: u64,
        part: &Part,
        ids: Vec<BatchId>,
    ) -> Option<Vec<(BatchId, Verdict)>> {
        let (_, epoch) = written(part, now)?;
        let term = self.term(epoch);
        let mut verdicts = Vec::new();
        for id in ids {
            let decided = part.table.decided_batch(id);
            let told = decided.map(|decided| self.may_be_told(part, decided.lsn));
            let verdict = match self.plant {
                Some(Plant::OpenGivenUp) if told.is_none() => Verdict::Abandoned,
                _ => self.books.verdict(id, term, || told),
            };
            verdicts.push((id, verdict));
        }
        Some(verdicts)
    }

    /// Ends the intents of batches that are over.
    pub(super) fn on_verdicts(
        &mut self,
        at: usize,
        verdicts: Vec<(BatchId, Verdict)>,
        parts: &mut [Part],
    ) {
        for (id, verdict) in verdicts {
            self.asked.remove(&(at, id));
            if let Some(made) = is_made(verdict) {
                self.settle(id, made, &mut parts[at]);
            }
        }
    }

    /// Asks and tells what is to be asked and told.
    pub(super) fn keep(&mut self, now: u64, parts: &mut [Part], out: &mut Out) {
        self.forget(now, parts);
        if now < self.looked_at + LOOK_EVERY {
            return;
        }
        self.looked_at = now;
        for id in self.books.doubtful() {
            let table = &parts[anchor_of(id)].table;
            let log = AnchorLog {
                is_made: is_decided_durably(table, id),
                settled: table.terms().1,
                epoch: table.writer_word().epoch.0,
            };
            self.books.look(id, Some(log));
        }
        for part in parts {
            if written(part, now).is_none() {
                self.upkeep.forget_table(line(part.at));
                continue;
            }
            self.ask_for_verdicts(now, part, out);
            self.tell_decisions(now, part, out);
        }
    }

    fn ask_for_verdicts(&mut self, now: u64, part: &mut Part, out: &mut Out) {
        let at = part.at;
        // Who asks at once meets more batches that are open.
        let asks_at_once = self.plant == Some(Plant::OpenGivenUp);
        let age_of = |since: i64| match asks_at_once {
            true => Duration::MAX,
            false => age(&self.clock, since),
        };
        let intents: Vec<_> = part
            .table
            .intents()
            .into_iter()
            .map(|(id, anchor, _, since)| (id, anchor, age_of(since.millis())))
            .collect();
        if self.plant == Some(Plant::SilenceGivesUp) {
            for (id, ..) in &intents {
                if self.asked.get(&(at, *id)).is_some_and(|since| now >= since + SILENCE) {
                    self.settle(*id, false, part);
                }
            }
        }
        for (anchor, (_, ids)) in self.upkeep.to_ask(line(at), intents, time(now)) {
            for id in &ids {
                self.asked.entry((at, *id)).or_insert(now);
            }
            to_all(&Told::Ask { at, anchor: table_of(anchor), ids }, out);
        }
    }

    fn tell_decisions(&mut self, now: u64, part: &Part, out: &mut Out) {
        let at = part.at;
        let decided = part.table.decided_batches();
        let lsns: BTreeMap<BatchId, Lsn> =
            decided.iter().map(|(id, decided)| (*id, decided.lsn)).collect();
        let held: BTreeMap<BatchId, bool> =
            lsns.iter().map(|(id, lsn)| (*id, self.may_be_told(part, *lsn))).collect();
        let aged = decided
            .into_iter()
            .map(|(id, decided)| (id, decided.members, age(&self.clock, decided.since.millis())));
        let may_be_told = |id: BatchId| held.get(&id).copied().unwrap_or(false);
        let telling =
            self.upkeep.to_tell((line(at), line(at)), aged.collect(), may_be_told, time(now));
        let mut is_empty = true;
        let ask = self.number();
        for (member, _, ids) in telling.members() {
            is_empty = false;
            let (at, ids) = (table_of(member), ids.to_vec());
            to_all(&Told::Settle { ask, at, ids, made: true }, out);
        }
        if !is_empty {
            self.rounds.insert(ask, Round { at, telling, until: now + ROUND_WITHIN });
        }
    }

    /// Forgets what all members have settled.
    fn forget(&mut self, now: u64, parts: &[Part]) {
        let (over, going): (BTreeMap<_, _>, BTreeMap<_, _>) = std::mem::take(&mut self.rounds)
            .into_iter()
            .partition(|(_, round)| now >= round.until || is_complete(&round.telling));
        self.rounds = going;
        for Round { at, telling, .. } in over.into_values() {
            let ids = telling.over();
            if !ids.is_empty() {
                self.forgetting.push((parts[at].table.forget_batches(&ids), at, ids));
            }
        }
        let upkeep = &mut self.upkeep;
        self.forgetting.retain_mut(|(pending, at, ids)| {
            let forgotten = pending.try_take();
            if matches!(forgotten, Some(Ok(()))) {
                ids.iter().for_each(|id| upkeep.is_over(line(*at), *id));
            }
            forgotten.is_none()
        });
    }
}
