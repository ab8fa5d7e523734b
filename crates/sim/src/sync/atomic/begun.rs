//! What the region that writes the anchor of a batch does, as the server does it: intents are kept,
//! the rows of the anchor are made, the members are told.

use std::collections::{BTreeMap, BTreeSet};

use isthmus_control::batches::Tried;
use isthmus_model::atomic::BatchId;
use isthmus_model::key::PrimaryKey;
use isthmus_model::value::Text;
use isthmus_store::{Pending, StoreError};

use super::{Answer, Batches, Told, Work, answer_of, is_decided_durably, line, written};
use crate::plant::Plant;
use crate::sync::group::{Group, Task};
use crate::sync::network::Message;
use crate::sync::part::Part;
use crate::sync::plan::table_name;
use crate::sync::region::Out;
use crate::sync::writer::Ended;

/// How long intents, and then the decision, are waited for, in milliseconds.
const PATIENCE: u64 = 1500;

type Judged = Pending<Vec<Result<PrimaryKey, StoreError>>>;

/// A batch whose anchor is written here.
pub(super) struct Begun {
    groups: Vec<(usize, Group)>,
    stage: Stage,
    /// What members have said: whether they have an intent.
    said: BTreeMap<usize, bool>,
    until: u64,
}

enum Stage {
    Judging(Judged),
    Intending(BatchId),
    /// By that write.
    Deciding(BatchId, u64),
}

impl Begun {
    pub(super) fn said(&mut self, member: usize, is_kept: bool) {
        if matches!(self.stage, Stage::Intending(_)) {
            self.said.entry(member).or_insert(is_kept);
        }
    }

    fn members(&self) -> impl Iterator<Item = usize> {
        self.groups[1..].iter().map(|(at, _)| *at)
    }

    fn intended(&self) -> Vec<usize> {
        self.said.iter().filter(|(_, is_kept)| **is_kept).map(|(at, _)| *at).collect()
    }
}

fn name(at: usize) -> Text {
    table_name(at).as_str().into()
}

impl Batches {
    /// Begins a batch that a client asks for. Whether its anchor is written here.
    pub(in crate::sync) fn begin(
        &mut self,
        now: u64,
        batch: u64,
        groups: Vec<(usize, Group)>,
        parts: &mut [Part],
        out: &mut Out,
    ) -> bool {
        let (anchor, group) = groups[0].clone();
        let part = &mut parts[anchor];
        if written(part, now).is_none() {
            return false;
        }
        if groups.len() == 1 {
            let number = self.number();
            let table = part.table.clone();
            let writer = part.writer.as_mut();
            match writer.is_some_and(|writer| writer.write(&table, group, Task::Rows, number)) {
                true => {
                    self.works.insert(number, Work::Alone(batch));
                }
                false => out.answers.push((batch, Answer::Refused)),
            }
            return true;
        }
        let stage = Stage::Judging(part.table.judge(group.changes(false), true));
        let begun = Begun { groups, stage, said: BTreeMap::new(), until: now + PATIENCE };
        self.begun.insert(batch, begun);
        true
    }

    /// Goes on with all of them.
    pub(super) fn go_on(&mut self, now: u64, parts: &mut [Part], out: &mut Out) {
        for batch in self.begun.keys().copied().collect::<Vec<_>>() {
            let Some(mut begun) = self.begun.remove(&batch) else { continue };
            match self.go_on_with(now, (batch, &mut begun), parts, out) {
                None => {
                    self.begun.insert(batch, begun);
                }
                Some(answer) => out.answers.push((batch, answer)),
            }
        }
    }

    fn go_on_with(
        &mut self,
        now: u64,
        (batch, begun): (u64, &mut Begun),
        parts: &mut [Part],
        out: &mut Out,
    ) -> Option<Answer> {
        let anchor = begun.groups[0].0;
        match &mut begun.stage {
            Stage::Judging(judged) => match judged.try_take()? {
                Ok(keys) if keys.iter().all(Result::is_ok) => {
                    let epoch = parts[anchor].table.writer_word().epoch.0;
                    let names: BTreeSet<Text> = begun.members().map(name).collect();
                    let term = self.term(epoch);
                    let begins = self.books.with(line(anchor), term, |books| books.begin(names));
                    let Some(id) = begins else { return Some(Answer::Refused) };
                    for (at, group) in &begun.groups[1..] {
                        let (at, group) = (*at, group.clone());
                        let told = Told::Intend { batch, id, anchor, at, group };
                        let writer = parts[at].heard.grant().writer;
                        out.messages.push((writer, Message::OfBatch(told)));
                    }
                    begun.stage = Stage::Intending(id);
                    begun.until = now + PATIENCE;
                    None
                }
                _ => Some(Answer::Refused),
            },
            Stage::Intending(id) => {
                let id = *id;
                if begun.said.len() < begun.groups.len() - 1 && now < begun.until {
                    return None;
                }
                let term = id.term;
                for member in begun.intended() {
                    self.books.with(line(anchor), term, |books| books.intended(id, &name(member)));
                }
                let may = self.books.with(line(anchor), term, |books| books.may_decide(id));
                match may.then(|| self.decide(batch, (id, begun), &mut parts[anchor])) {
                    Some(Some(number)) => {
                        begun.stage = Stage::Deciding(id, number);
                        begun.until = now + PATIENCE;
                        if self.plant == Some(Plant::ToldBeforeDurable) {
                            tell((id, begun), true, parts, out);
                        }
                        None
                    }
                    // Nothing was sent or made.
                    Some(None) | None => {
                        self.books.tried(id, Tried::Refused);
                        tell((id, begun), false, parts, out);
                        Some(Answer::Refused)
                    }
                }
            }
            Stage::Deciding(id, number) => {
                if now < begun.until {
                    return None;
                }
                let (id, number) = (*id, *number);
                self.works.remove(&number);
                let part = &mut parts[anchor];
                let is_made = is_decided_durably(&part.table, id);
                let is_unsent = part.writer.as_mut().is_some_and(|writer| writer.take_back(number));
                let sent_in = part.writer.as_ref().and_then(|writer| writer.sent_in(number));
                let tried = Tried::of(is_made, !is_unsent, sent_in);
                self.books.tried(id, tried);
                if tried == Tried::Refused {
                    tell((id, begun), false, parts, out);
                    return Some(Answer::Refused);
                }
                Some(Answer::Unknown)
            }
        }
    }

    /// Makes the rows of the anchor. `None`: it is not begun.
    fn decide(
        &mut self,
        batch: u64,
        (id, begun): (BatchId, &Begun),
        part: &mut Part,
    ) -> Option<u64> {
        let number = self.number();
        let table = part.table.clone();
        let (group, members) = (begun.groups[0].1.clone(), begun.members().collect());
        let writer = part.writer.as_mut().filter(|writer| writer.is_open())?;
        let is_begun = writer.write(&table, group, Task::Decision(id, members), number);
        if is_begun {
            self.works.insert(number, Work::Decision(batch));
        }
        is_begun.then_some(number)
    }

    /// The decision is in the log, and others may lack it.
    pub(super) fn is_written(&mut self, batch: u64, parts: &[Part], out: &mut Out) {
        let Some(begun) = self.begun.get(&batch) else { return };
        if let Stage::Deciding(id, _) = begun.stage
            && is_decided_durably(&parts[begun.groups[0].0].table, id)
        {
            self.books.tried(id, Tried::Made);
            if self.plant == Some(Plant::ToldBeforeHeld) {
                tell((id, begun), true, parts, out);
            }
        }
    }

    /// The write that decides has come to something.
    pub(super) fn is_decided(
        &mut self,
        batch: u64,
        ended: Ended,
        parts: &mut [Part],
        out: &mut Out,
    ) {
        let Some(begun) = self.begun.remove(&batch) else { return };
        let Stage::Deciding(id, _) = begun.stage else { return };
        let is_made = is_decided_durably(&parts[begun.groups[0].0].table, id);
        let (has_failed, sent_in) = match ended {
            Ended::Written(_) | Ended::Made(_) | Ended::Refused => (false, None),
            Ended::Unknown(sent_in) => (true, sent_in),
        };
        let tried = Tried::of(is_made, has_failed, sent_in);
        self.books.tried(id, tried);
        match (tried, ended) {
            (Tried::Refused, _) => tell((id, &begun), false, parts, out),
            (_, Ended::Made(_)) => tell((id, &begun), true, parts, out),
            _ => {}
        }
        let answer = if tried == Tried::Refused { Answer::Refused } else { answer_of(ended) };
        out.answers.push((batch, answer));
    }
}

/// Tells the members what became of a batch. Those that do not hear it ask, or are told again.
fn tell((id, begun): (BatchId, &Begun), made: bool, parts: &[Part], out: &mut Out) {
    let members: Vec<usize> = if made { begun.members().collect() } else { begun.intended() };
    for at in members {
        let settle = Told::Settle { ask: 0, at, ids: vec![id], made };
        out.messages.push((parts[at].heard.grant().writer, Message::OfBatch(settle)));
    }
}
