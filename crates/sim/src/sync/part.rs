//! A table in one region: what it takes from the region that writes it, and what it has to do by
//! what is decided.

use std::sync::Arc;

use bytes::Bytes;
use isthmus_control::cut_tail::{CutTail, Place};
use isthmus_model::change::Direction;
use isthmus_model::commit::{Term, TxId};
use isthmus_model::entry::Entry;
use isthmus_model::ids::{Epoch, Lsn};
use isthmus_model::key::EncodedKey;
use isthmus_store::keys::log::decode_record;
use isthmus_store::{Pending, Table};

use super::copying::{Piece, Progress, next_piece};
use super::group::{Group, made_bytes};
use super::network::{Message, Standing, TableMessage};
use super::plan::{Plan, REGIONS, TablePlan, origin_of};
use super::quorum::Quorum;
use super::region::Out;
use super::writer::Writer;
use crate::plant::Plant;

/// Others are told so often how the table stands here, in milliseconds.
const STANDING_EVERY: u64 = 20;
/// No piece of a copy is sent sooner than this after the last one.
const COPY_EVERY: u64 = 100;
/// Bytes of log sent at once, about.
const SLICE_BYTES: usize = 2000;

/// What is on the disk beside the store.
#[derive(Clone, Debug)]
pub(super) struct AtRest {
    /// All of the table is here.
    pub(super) is_whole: bool,
    /// Where it is not: how far a copy has come.
    copy: Option<Progress>,
    /// The last tail that was cut off.
    cut_tail: Option<CutTail>,
    /// All entries that were ever cut off, as far as they were in the log here.
    pub(super) set_aside: Vec<Entry>,
    /// What came by a copy is not in the log here: the rows that were there when a tail began
    /// before its end.
    pub(super) set_aside_rows: Vec<EncodedKey>,
}

/// From a start to a crash.
pub(super) struct Part {
    pub(super) place: usize,
    /// Which table.
    pub(super) at: usize,
    pub(super) plan: TablePlan,
    pub(super) plant: Option<Plant>,
    pub(super) table: Arc<Table>,
    /// What was decided, as far as it is known here.
    pub(super) heard: Quorum,
    pub(super) lease_until: u64,
    /// What was begun and is to be durable before anything else is decided here.
    looking: Option<Pending<()>>,
    fencing: Option<Pending<()>>,
    opening: Option<Pending<Epoch>>,
    /// A tail is prepared again, and then cut off for the sake of an epoch.
    cutting: Option<(Pending<bool>, u64, Place)>,
    /// Entries, or a piece of a copy, that are being taken.
    taking: Option<Pending<()>>,
    copying: Option<Progress>,
    votes: Vec<(Pending<()>, usize, Vec<TxId>)>,
    promises: Vec<(Pending<()>, usize, Term)>,
    pub(super) writer: Option<Writer>,
    told_at: u64,
    copied_at: u64,
}

impl AtRest {
    /// All of the table is there.
    pub(super) fn whole() -> AtRest {
        AtRest {
            is_whole: true,
            copy: None,
            cut_tail: None,
            set_aside: Vec::new(),
            set_aside_rows: Vec::new(),
        }
    }

    /// Whether it takes entries of a region in an epoch: all of the table is here, or will be when
    /// the log has come to where the last rows were copied.
    fn follows(&self, from: usize, epoch: u64) -> bool {
        let is_copied = |copy: &Progress| copy.from == (from, epoch) && copy.next.is_none();
        self.is_whole || self.copy.as_ref().is_some_and(is_copied)
    }
}

impl Part {
    /// As it is after a start. `heard`: what is known from the beginning.
    pub(super) fn new(
        (place, at): (usize, usize),
        plan: &Plan,
        table: Arc<Table>,
        heard: Quorum,
    ) -> Part {
        Part {
            place,
            at,
            plan: plan.tables[at].clone(),
            plant: plan.plant,
            table,
            heard,
            lease_until: 0,
            looking: None,
            fencing: None,
            opening: None,
            cutting: None,
            taking: None,
            copying: None,
            votes: Vec::new(),
            promises: Vec::new(),
            writer: None,
            told_at: 0,
            copied_at: 0,
        }
    }

    /// Does what is to be done. `quorum`: those who decide are reached.
    pub(super) fn step(
        &mut self,
        now: u64,
        at_rest: &mut AtRest,
        mut quorum: Option<&mut Quorum>,
        out: &mut Out,
    ) {
        if let Some(quorum) = &mut quorum {
            self.renew(now, quorum, out);
        }
        self.look_at_pending(at_rest, out);
        self.attend(now, at_rest, quorum, out);
        self.write_on(now, at_rest, out);
        if now >= self.told_at + STANDING_EVERY {
            self.told_at = now;
            let standing = self.standing(at_rest);
            let others = (0..REGIONS).filter(|other| *other != self.place);
            let told = |other| (other, self.message(TableMessage::Standing(standing.clone())));
            out.messages.extend(others.map(told));
        }
    }

    fn message(&self, message: TableMessage) -> Message {
        Message::Of(self.at, message)
    }

    /// Takes what another region has sent.
    pub(super) fn receive(
        &mut self,
        now: u64,
        from: usize,
        message: TableMessage,
        at_rest: &mut AtRest,
        out: &mut Out,
    ) {
        match message {
            TableMessage::Standing(standing) => self.feed(now, from, &standing, out),
            TableMessage::Prepare { term, changes } => self.prepare(from, term, changes, at_rest),
            TableMessage::Voted(txs) => {
                self.writer.iter_mut().for_each(|one| one.voted(from, &txs));
            }
            TableMessage::Promise(term) => {
                if self.may_take(from, term, at_rest) {
                    self.promises.push((self.table.promise(term), from, term));
                }
            }
            TableMessage::Promised { term, held, prepared } => {
                if let Some(writer) = &mut self.writer {
                    writer.promised(from, term, held, prepared);
                }
            }
            TableMessage::Entries { epoch, from: have, to, entries } => {
                let is_free = self.taking.is_none() && !self.table.writer_word().accepts;
                let is_known = self.heard.grant().epoch >= epoch;
                if is_free && is_known && at_rest.follows(from, epoch) && !self.has_tail() {
                    let (origin, epoch) = (origin_of(from), Epoch(epoch));
                    self.taking = Some(self.table.apply(origin, epoch, have, to, entries));
                }
            }
            TableMessage::Copy(piece) => self.take_piece(*piece, at_rest),
        }
    }

    fn renew(&mut self, now: u64, quorum: &mut Quorum, out: &mut Out) {
        match quorum.renew(self.place, now) {
            Some(until) => self.lease_until = until,
            None => {
                // It answers nothing more before it knows what was decided.
                self.leave(out);
                self.lease_until = 0;
                quorum.rejoin(self.place);
            }
        }
        self.heard = quorum.clone();
    }

    /// Writes no more. What is under way may be made or not.
    fn leave(&mut self, out: &mut Out) {
        if let Some(writer) = self.writer.take() {
            out.ended.extend(writer.end().map(|(number, ended)| (self.at, number, ended)));
        }
    }

    pub(super) fn log(&self) -> (u64, u64) {
        (self.table.writer_word().epoch.0, self.table.durable_lsn().0)
    }

    fn has_tail(&self) -> bool {
        let (log_epoch, end) = self.log();
        self.heard.has_tail(log_epoch, end)
    }

    /// Whether something may be lacking here that was prepared or made here.
    fn may_lack(&self, cut_tail: Option<&CutTail>) -> bool {
        let (_, settled) = self.table.terms();
        let is_part = |log_epoch, end| self.heard.goes_on_from(log_epoch, end);
        cut_tail.is_some_and(|cut| cut.may_lack(settled, is_part))
    }

    fn standing(&self, at_rest: &AtRest) -> Standing {
        let (log_epoch, end) = self.log();
        let sealed = self.table.epoch().0;
        let (is_whole, copy) = (at_rest.is_whole, at_rest.copy.clone().map(Box::new));
        Standing { log_epoch, end, sealed, is_whole, copy }
    }

    /// Whether the table is written here in an epoch, and may be.
    pub(super) fn holds(&self, epoch: u64, now: u64) -> bool {
        let word = self.table.writer_word();
        let is_newest = word.epoch.0 == epoch && self.table.epoch().0 == epoch && word.accepts;
        is_newest && (now < self.lease_until || self.plant == Some(Plant::LeaseForgotten))
    }

    fn look_at_pending(&mut self, at_rest: &mut AtRest, out: &mut Out) {
        if let Some(taken) = self.taking.as_mut().and_then(Pending::try_take) {
            self.taking = None;
            let copied = self.copying.take().filter(|_| taken.is_ok());
            at_rest.copy = copied.or_else(|| at_rest.copy.take());
        }
        let end = self.table.durable_lsn().0;
        let is_whole = |copy: &Progress| copy.next.is_none() && end >= copy.through;
        if at_rest.copy.as_ref().is_some_and(is_whole) {
            (at_rest.is_whole, at_rest.copy) = (true, None);
        }
        let mut ended = Vec::new();
        self.votes.retain_mut(|(pending, from, txs)| {
            let answer = pending.try_take();
            if matches!(answer, Some(Ok(()))) {
                ended.push((*from, std::mem::take(txs)));
            }
            answer.is_none()
        });
        out.messages.extend(
            ended.into_iter().map(|(to, txs)| (to, Message::Of(self.at, TableMessage::Voted(txs)))),
        );
        let mut promised = Vec::new();
        self.promises.retain_mut(|(pending, from, term)| {
            let answer = pending.try_take();
            if matches!(answer, Some(Ok(()))) {
                promised.push((*from, *term));
            }
            answer.is_none()
        });
        for (to, term) in promised {
            let follows = self.table.writer_word().epoch.0 == term.epoch;
            if follows && at_rest.is_whole && !self.may_lack(at_rest.cut_tail.as_ref()) {
                let mut prepared = self.table.prepared();
                prepared.retain(|(tx, _)| tx.term < term);
                let held = self.table.durable_lsn().0;
                let promised = TableMessage::Promised { term, held, prepared };
                out.messages.push((to, self.message(promised)));
            }
        }
    }

    /// Does what comes next by what is decided, one thing at a time.
    fn attend(
        &mut self,
        now: u64,
        at_rest: &mut AtRest,
        quorum: Option<&mut Quorum>,
        out: &mut Out,
    ) {
        if let Some(fencing) = &mut self.fencing {
            if fencing.try_take().is_none() {
                return;
            }
            self.fencing = None;
        }
        if let Some(opening) = &mut self.opening {
            if opening.try_take().is_none() {
                return;
            }
            self.opening = None;
        }
        if let Some((again, epoch, place)) = &mut self.cutting {
            let Some(again) = again.try_take() else { return };
            let cut = CutTail { epoch: *epoch, again: again.unwrap_or(false).then_some(*place) };
            let place = *place;
            let may_lack = self.may_lack(at_rest.cut_tail.as_ref());
            let cut_tail = Some(cut.following(at_rest.cut_tail, may_lack));
            self.set_aside(place.after, at_rest);
            (at_rest.is_whole, at_rest.copy, at_rest.cut_tail) = (false, None, cut_tail);
            self.cutting = None;
        }
        // What is pending may already be what was to be done.
        let looking = self.looking.get_or_insert_with(|| self.table.settled());
        if looking.try_take().is_none() {
            return;
        }
        self.looking = None;
        let word = self.table.writer_word();
        let (log_epoch, end) = self.log();
        let sealed = self.table.epoch().0;
        let grant = self.heard.grant();
        let newest = self.heard.vacancy.as_ref().map_or(grant.epoch, |vacancy| vacancy.epoch);
        if self.writer.as_ref().is_some_and(|writer| writer.epoch < newest) {
            self.leave(out);
        }
        if let Some(vacancy) = &self.heard.vacancy {
            if sealed < vacancy.epoch || word.accepts {
                self.fencing = Some(self.table.fence(Epoch(vacancy.epoch)));
            } else if at_rest.is_whole
                && self.taking.is_none()
                && !self.has_tail()
                && let Some(quorum) = quorum
            {
                quorum.claim(self.place, vacancy.epoch, (log_epoch, end));
            }
            return;
        }
        let is_own = grant.writer == self.place;
        if grant.epoch > log_epoch {
            if !is_own && (sealed < grant.epoch || word.accepts) {
                self.fencing = Some(self.table.fence(Epoch(grant.epoch)));
            } else if !is_own && at_rest.is_whole && self.has_tail() && self.taking.is_none() {
                let after = self.heard.agrees_through(log_epoch, end);
                let again = match self.plant {
                    Some(Plant::TailForgotten) => Pending::ready(Ok(true)),
                    _ => self.table.prepare_again(Lsn(after), made_bytes),
                };
                self.cutting = Some((again, grant.epoch, Place { log_epoch, after }));
            } else if is_own && now < self.lease_until {
                match (end, log_epoch) == (grant.after, grant.log_epoch) {
                    true => {
                        let (epoch, after) = (Epoch(grant.epoch), Lsn(grant.after));
                        self.opening = Some(self.table.open_granted(epoch, after));
                    }
                    false => quorum.into_iter().for_each(|quorum| {
                        quorum.resign(self.place, grant.epoch, now);
                    }),
                }
            }
        } else if is_own && word.accepts {
            if self.writer.is_none() && now < self.lease_until {
                self.writer = Some(Writer::begin(&self.table, self.plan.mode, grant.epoch, now));
            }
        } else if is_own && let Some(quorum) = quorum {
            // It was sealed, and nobody goes on in its epoch.
            quorum.resign(self.place, grant.epoch, now);
        }
    }

    /// Notes what is cut off with a tail.
    fn set_aside(&self, after: u64, at_rest: &mut AtRest) {
        let copied = self.table.log_start().0;
        at_rest.set_aside.extend(entries_after(&self.table, after.max(copied)));
        if copied > after {
            at_rest.set_aside_rows.extend(all_keys(&self.table));
        }
    }

    /// Goes on with what is written here.
    fn write_on(&mut self, now: u64, at_rest: &AtRest, out: &mut Out) {
        let Some(mut writer) = self.writer.take() else { return };
        let may_lack = self.may_lack(at_rest.cut_tail.as_ref());
        let goes_on = writer.step(self, now, may_lack, out);
        self.writer = Some(writer);
        if !goes_on {
            self.leave(out);
        }
    }

    /// Whether another region may have its writes prepared here, in that term.
    fn may_take(&self, from: usize, term: Term, at_rest: &AtRest) -> bool {
        let word = self.table.writer_word();
        let grant = self.heard.grant();
        let is_granted = grant.epoch == term.epoch && grant.writer == from;
        is_granted && at_rest.is_whole && word.epoch.0 <= term.epoch && !word.accepts
    }

    fn prepare(&mut self, from: usize, term: Term, changes: Vec<(TxId, Bytes)>, at: &AtRest) {
        if self.may_take(from, term, at) && !self.has_tail() {
            let txs = changes.iter().map(|(tx, _)| *tx).collect();
            self.votes.push((self.table.prepare(changes), from, txs));
        }
    }

    /// Takes a piece of a copy, if that is wanted.
    fn take_piece(&mut self, piece: Piece, at_rest: &mut AtRest) {
        let (Progress { from, first, .. }, number) = (&piece.progress, piece.number);
        let is_newest = self.heard.vacancy.is_none()
            && self.heard.grant().epoch == from.1
            && self.table.epoch().0 <= from.1;
        let is_free = self.taking.is_none() && !self.table.writer_word().accepts;
        let known = at_rest.copy.as_ref().filter(|known| known.from == *from);
        let is_next = match known {
            Some(known) => known.next == Some(number),
            None => number == 0,
        };
        let is_wanted = !at_rest.is_whole || self.table.durable_lsn() < first.lsn;
        if !(is_free && is_newest && is_next && is_wanted) {
            return;
        }
        // Rows of two moments are not all of a table.
        at_rest.is_whole = false;
        let ((start, end), done) = (piece.range.clone(), piece.done());
        let taking = self.table.replace_range(&start, end.as_ref(), piece.rows, &[], done, None);
        (self.taking, self.copying) = (Some(taking), Some(piece.progress));
    }

    /// Sends a region what it lacks, if this one writes.
    fn feed(&mut self, now: u64, to: usize, standing: &Standing, out: &mut Out) {
        let word = self.table.writer_word();
        let epoch = word.epoch.0;
        let Some(writer) = &mut self.writer else { return };
        let is_current = self.heard.vacancy.is_none() && self.heard.grant().epoch == epoch;
        if writer.epoch != epoch || !is_current || standing.sealed < epoch {
            return;
        }
        let so_far = standing.copy.as_deref().filter(|copy| copy.from == (self.place, epoch));
        let is_copied = so_far.is_some_and(|copy| copy.next.is_none());
        let is_gap = standing.end < self.table.log_start().0;
        if is_gap || !(standing.is_whole || is_copied) {
            if now >= self.copied_at + COPY_EVERY
                && let Ok(piece) =
                    next_piece((self.place, epoch), &self.table, &self.plan, so_far, self.plant)
            {
                self.copied_at = now;
                out.messages.push((to, Message::Of(self.at, TableMessage::Copy(Box::new(piece)))));
            }
            return;
        }
        if self.heard.has_tail(standing.log_epoch, standing.end) {
            return;
        }
        if standing.is_whole {
            writer.holds(to, standing.end);
        }
        if self.table.durable_lsn().0 > standing.end
            && let Some((until, entries)) = slice_of(&self.table, standing.end)
        {
            let from = Lsn(standing.end);
            let entries = TableMessage::Entries { epoch, from, to: until, entries };
            out.messages.push((to, Message::Of(self.at, entries)));
        }
    }
}

fn slice_of(table: &Table, after: u64) -> Option<(Lsn, Vec<Entry>)> {
    let slice = table.read_log(Lsn(after), SLICE_BYTES).ok()?;
    let mut entries = Vec::new();
    for record in &slice.records {
        entries.extend(decode_record(record).ok()?.1);
    }
    entries.retain(|entry| entry.lsn.0 > after && entry.lsn <= slice.to);
    Some((slice.to, entries))
}

/// The entries of the log after one.
pub(super) fn entries_after(table: &Table, after: u64) -> Vec<Entry> {
    let (mut all, mut at) = (Vec::new(), after);
    while let Some((to, entries)) = slice_of(table, at).filter(|(to, _)| to.0 > at) {
        all.extend(entries);
        at = to.0;
    }
    all
}

/// The keys of all rows, and of those that batches in doubt would leave.
fn all_keys(table: &Table) -> Vec<EncodedKey> {
    let Ok(snapshot) = table.snapshot() else { return Vec::new() };
    let rows = snapshot.scan(&EncodedKey::default(), None, Direction::Forward);
    let shown = rows.filter_map(|row| row.ok().map(|(key, _)| key));
    let intents = table.intents().into_iter().filter_map(|(id, ..)| table.intent(id));
    let in_doubt = intents.filter_map(|(intent, _)| Group::decode(&intent.request));
    shown.chain(in_doubt.flat_map(|group| group.keys())).collect()
}
