//! The origin's end of one link: a pure state machine.
//!
//! `step` takes in what happened, `next` says what to do now. Both read no clock and do no I/O.
//! The link remembers nothing that the replica does not tell it at opening, so it may die at any
//! moment: the replica's watermark is the only truth about what it holds.

mod copy;
mod event;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use bytes::Bytes;
use isthmus_model::ids::{Epoch, Lsn};

use crate::frame::{CopyProgress, FaultKind};
use crate::limits::WINDOW_BYTES;
use crate::terms::Wish;
use crate::timing::Copies;

use self::copy::Copy;

pub use self::event::{Action, Event, State};

const WHEN_ASKED: &str = "entries it needs are trimmed here, and a copy would bring it up to now: \
                          it is delayed, so `isthmus link trigger` begins the copy";
const IN_WINDOW: &str = "entries it needs are trimmed here; copying heals it when a window opens";
const INCOMPLETE: &str = "this region has not all of the table yet; it copies when it has";

#[derive(Debug)]
struct InFlight {
    /// LSN of a parcel or number of a chunk.
    mark: u64,
    bytes: usize,
    next_key: Option<Bytes>,
}

/// The origin's end of one link.
#[derive(Debug)]
pub struct Link {
    /// Epoch under which entries are shipped.
    pub epoch: Epoch,
    wish: Wish,
    /// How it stands, or would without what a person asks.
    state: State,
    reason: String,
    connected: bool,
    offered: bool,
    told_follow: bool,
    /// Entries through this LSN may be shipped, and when rows of a copy may.
    released: (Lsn, Copies),
    /// This region has all of the table, so that its rows may take the place of others.
    whole: bool,
    /// A copy may have used snapshots up to here: before it the replica is a mixture.
    complete_at: Lsn,
    /// The replica may be such a mixture.
    incomplete: bool,
    appended: Lsn,
    shipped: Lsn,
    acked: Option<Lsn>,
    in_flight: VecDeque<InFlight>,
    in_flight_bytes: usize,
    window_parcels: usize,
    copy: Option<Copy>,
    copied_rows: u64,
}

impl Link {
    /// A link that is not connected yet, from a log that is durable through `appended`, with at
    /// most `window_parcels` parcels or chunks under way.
    pub fn new(epoch: Epoch, appended: Lsn, window_parcels: usize) -> Link {
        Link {
            epoch,
            wish: Wish::Run,
            state: State::Opening,
            reason: "not connected".to_owned(),
            connected: false,
            offered: false,
            told_follow: false,
            released: (Lsn(u64::MAX), Copies::Now),
            whole: true,
            complete_at: Lsn(0),
            incomplete: false,
            appended,
            shipped: Lsn(0),
            acked: None,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            window_parcels,
            copy: None,
            copied_rows: 0,
        }
    }

    /// How it stands.
    pub fn state(&self) -> State {
        match (self.wish, self.state) {
            (Wish::Stop, _) => State::Stopped,
            // What needs a person is told, whatever else was asked.
            (Wish::Pause, State::Fenced | State::Broken) | (Wish::Run, _) => self.state,
            (Wish::Pause, _) => State::Paused,
        }
    }

    /// Why, in words.
    pub fn reason(&self) -> &str {
        match self.state() {
            State::Paused => "a person paused it; the log is kept for it, within its budget",
            State::Stopped => "a person stopped it; nothing is kept for it",
            State::Gap | State::Copying if !self.may_copy() => INCOMPLETE,
            State::Gap if self.waits_to_be_asked() => WHEN_ASKED,
            State::Gap if self.released.1 == Copies::InWindow => IN_WINDOW,
            State::Opening
            | State::Copying
            | State::Following
            | State::Gap
            | State::Fenced
            | State::Broken => &self.reason,
        }
    }

    /// Whether something was sent that the replica has not answered.
    pub fn awaits_answer(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// The replica holds everything through this LSN; `None`: not known yet.
    pub fn acked(&self) -> Option<Lsn> {
        self.acked
    }

    /// The replica has all through this LSN and is no mixture of older and newer rows; `None`: it
    /// is one, or it is not known.
    pub fn held(&self) -> Option<Lsn> {
        self.acked.filter(|_| self.copy.is_none() && !self.incomplete)
    }

    /// Everything through this LSN was sent.
    pub fn shipped(&self) -> Lsn {
        self.shipped
    }

    /// Whether this region has all of the table.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// Whether the replica had everything until entries that it lacks were gone here.
    pub fn has_fallen_out(&self) -> bool {
        self.state == State::Gap && !self.incomplete
    }

    fn waits_to_be_asked(&self) -> bool {
        self.state == State::Gap && self.released.1 == Copies::WhenAsked
    }

    /// Rows copied since the link was made.
    pub fn copied_rows(&self) -> u64 {
        self.copied_rows
    }

    /// The log of the origin is needed after this LSN; `None`: not known, so all of it.
    pub fn needs_after(&self) -> Option<Lsn> {
        match &self.copy {
            Some(copy) if copy.began => Some(Lsn(copy.progress.first_lsn)),
            // Whenever that is, the copy brings all that is in the log by then.
            Some(_) if self.waits_to_be_asked() => Some(Lsn(u64::MAX)),
            Some(_) => None,
            None => self.acked,
        }
    }

    /// Whether the replica was told that it follows: it is complete then.
    pub fn has_told_follow(&self) -> bool {
        self.state == State::Following && self.told_follow
    }

    /// Whether everything that is durable here was sent.
    pub fn is_caught_up(&self) -> bool {
        self.state == State::Following && self.told_follow && self.shipped >= self.appended
    }

    /// Takes in what happened. A peer can be wrong, so its words are checked, never asserted.
    pub fn step(&mut self, event: Event) {
        match event {
            Event::Connected => {
                self.connected = true;
                self.reopen("waiting for the replica to answer");
            }
            Event::Disconnected(reason) => {
                self.connected = false;
                self.reopen(&reason);
            }
            Event::Opened { watermark, copy, must_copy, incomplete, log_start } => {
                self.incomplete = incomplete;
                self.on_opened(watermark, copy, must_copy, log_start);
            }
            Event::CopyBegan { progress, offers } => {
                self.copy = Some(Copy::begun(progress, offers));
            }
            Event::Offered { number, next_key } => {
                if let Some(copy) = &mut self.copy {
                    copy.offered_to(number, next_key);
                }
            }
            Event::Wanted(number) => self.on_wanted(number),
            Event::ChunkSent { number, bytes, next_key, rows } => {
                self.push(InFlight { mark: number, bytes, next_key: next_key.clone() });
                self.copied_rows += rows;
                if let Some(copy) = &mut self.copy {
                    copy.sent_to(next_key);
                }
            }
            Event::ChunkAcked(number) => self.on_chunk_acked(number),
            Event::Appended(lsn) => self.appended = self.appended.max(lsn),
            Event::Sent { to, bytes } => {
                self.push(InFlight { mark: to.0, bytes, next_key: None });
                self.shipped = to;
                self.appended = self.appended.max(to);
            }
            Event::Acked(lsn) if lsn > self.shipped => {
                self.stop(State::Broken, "the replica acknowledges what was never shipped");
            }
            Event::Acked(lsn) => self.on_acked(lsn),
            Event::Trimmed => {
                self.drop_in_flight();
                self.state = State::Gap;
                self.reason = "entries it needs are trimmed here; copying heals it".to_owned();
                self.copy = Some(Copy::from(CopyProgress::default()));
            }
            Event::Faulted(
                FaultKind::Retry | FaultKind::Unassigned | FaultKind::PriorMissing,
                reason,
            ) => {
                self.reopen(&reason);
                // Offered until the retry is due, so that it does not ask again at once.
                self.offered = true;
            }
            Event::Faulted(FaultKind::Fenced, reason) => self.stop(State::Fenced, &reason),
            Event::Faulted(FaultKind::Broken, reason) => self.stop(State::Broken, &reason),
            Event::Asked(wish) => self.on_asked(wish),
            Event::Epoch(epoch) => self.on_epoch(epoch),
            Event::Released { through, copies } => {
                let before = std::mem::replace(&mut self.released, (through, copies));
                if before.1 != copies && self.state == State::Copying {
                    self.reopen_copy();
                }
            }
            Event::Whole(whole) => {
                self.whole = whole;
                self.reopen_copy();
            }
            Event::RetryDue => {
                if matches!(self.state, State::Opening | State::Broken) {
                    self.reopen("opening anew");
                }
            }
        }
        // Our own books can only be wrong through a bug: stop at once.
        assert!(self.acked.unwrap_or_default() <= self.shipped || self.state != State::Following);
    }

    /// What to do now, if anything.
    pub fn next(&self) -> Option<Action> {
        if !self.connected || self.wish == Wish::Stop {
            return None;
        }
        match (self.state, &self.copy) {
            // One that waits opens, too, so that it is known where the replica stands.
            (State::Opening, _) => (!self.offered).then_some(Action::Open),
            _ if self.wish == Wish::Pause => None,
            (State::Gap | State::Copying, _)
                if self.released.1 != Copies::Now || !self.may_copy() =>
            {
                None
            }
            (State::Gap, _) => Some(Action::BeginCopy(None)),
            (State::Copying, Some(copy)) if !copy.began => {
                let resumed = copy.progress.first_lsn > 0;
                Some(Action::BeginCopy(resumed.then(|| copy.progress.clone())))
            }
            (State::Copying, Some(copy)) => self.next_of_copy(copy),
            (State::Following, _) if !self.told_follow && self.acked >= Some(self.complete_at) => {
                Some(Action::Follow)
            }
            (State::Following, _) if self.shipped < self.ships_through() && self.has_room() => {
                Some(Action::Send(self.shipped))
            }
            _ => None,
        }
    }

    /// Notes that the action was done, where no event follows from it.
    pub fn done(&mut self, action: &Action) {
        match action {
            Action::Open => self.offered = true,
            Action::Follow => {
                self.told_follow = true;
                self.incomplete = false;
            }
            Action::BeginCopy(_) => {
                self.state = State::Copying;
                self.reason = "copying a snapshot".to_owned();
            }
            Action::SendChunk(_)
            | Action::Offer(_)
            | Action::SendWanted { .. }
            | Action::Send(_) => {}
        }
    }

    /// What lacks something, or still has what others have deleted and forgotten, is not copied,
    /// but to a replica that asks for what it has lost.
    fn may_copy(&self) -> bool {
        self.whole || self.incomplete
    }

    /// Entries that make a copy complete are shipped whatever the timing.
    fn ships_through(&self) -> Lsn {
        self.may_ship_through().min(self.appended)
    }

    /// Nothing after this entry may be shipped yet.
    pub fn may_ship_through(&self) -> Lsn {
        let needed = if self.incomplete { self.complete_at } else { Lsn(0) };
        self.released.0.max(needed)
    }

    fn on_opened(
        &mut self,
        watermark: Lsn,
        copy: Option<CopyProgress>,
        must_copy: bool,
        log_start: Lsn,
    ) {
        if self.state != State::Opening || !self.offered {
            return;
        }
        self.drop_in_flight();
        match copy {
            Some(progress) if Lsn(progress.first_lsn) >= log_start => {
                self.state = State::Copying;
                self.reason = "going on with a copy".to_owned();
                self.copy = Some(Copy::from(progress));
            }
            None if watermark > self.appended && !must_copy => {
                self.stop(State::Broken, "the replica holds entries that are not in this log");
            }
            None if watermark >= log_start && !must_copy => self.follow_from(watermark),
            Some(_) | None => {
                self.state = State::Gap;
                self.reason =
                    "the replica lacks entries that are not in the log; copying".to_owned();
                self.copy = Some(Copy::from(CopyProgress::default()));
            }
        }
    }

    fn on_epoch(&mut self, epoch: Epoch) {
        let is_newer = epoch > self.epoch;
        self.epoch = self.epoch.max(epoch);
        // Who is ahead takes what comes under the newer epoch.
        if is_newer && self.state == State::Fenced {
            self.state = State::Opening;
            self.reopen("opening anew under a newer epoch");
        }
    }

    fn on_asked(&mut self, wish: Wish) {
        let before = std::mem::replace(&mut self.wish, wish);
        match (before, wish) {
            (Wish::Run, Wish::Run) | (Wish::Pause, Wish::Pause) | (Wish::Stop, Wish::Stop) => {}
            // The replica forgets the link, or had forgotten it.
            (Wish::Stop, _) | (_, Wish::Stop) => self.reopen("opening anew"),
            (Wish::Run, Wish::Pause) | (Wish::Pause, Wish::Run) => self.reopen_copy(),
        }
    }

    fn follow_from(&mut self, watermark: Lsn) {
        self.copy = None;
        self.state = State::Following;
        self.reason = String::new();
        self.shipped = watermark;
        self.acked = Some(watermark);
        self.told_follow = false;
        // No snapshot that was used, in this life or an earlier one, is newer.
        self.complete_at = self.appended;
    }

    fn on_acked(&mut self, lsn: Lsn) {
        if self.state != State::Following {
            return;
        }
        while self.in_flight.front().is_some_and(|sent| sent.mark <= lsn.0) {
            self.pop();
        }
        self.acked = self.acked.max(Some(lsn));
    }

    fn reopen(&mut self, reason: &str) {
        self.drop_in_flight();
        if self.state == State::Fenced {
            return;
        }
        self.state = State::Opening;
        self.reason = reason.to_owned();
        self.offered = false;
        self.told_follow = false;
        if let Some(copy) = &mut self.copy {
            copy.halt();
        }
    }

    fn stop(&mut self, state: State, reason: &str) {
        self.drop_in_flight();
        self.state = state;
        self.reason = reason.to_owned();
    }

    fn push(&mut self, sent: InFlight) {
        self.in_flight_bytes += sent.bytes;
        self.in_flight.push_back(sent);
    }

    fn pop(&mut self) -> Option<InFlight> {
        let sent = self.in_flight.pop_front()?;
        self.in_flight_bytes -= sent.bytes;
        Some(sent)
    }

    fn drop_in_flight(&mut self) {
        self.in_flight.clear();
        self.in_flight_bytes = 0;
    }

    fn has_room(&self) -> bool {
        self.in_flight.len() < self.window_parcels && self.in_flight_bytes < WINDOW_BYTES
    }
}
