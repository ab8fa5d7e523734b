//! The origin's end of one link: a pure state machine.
//!
//! `step` takes in what happened, `next` says what to do now. Both read no clock and do no I/O.
//! The link remembers nothing that the replica does not tell it at opening, so it may die at any
//! moment: the replica's watermark is the only truth about what it holds.

use std::collections::VecDeque;

use bytes::Bytes;
use isthmus_model::ids::{Epoch, Lsn};

use crate::frame::{CopyProgress, FaultKind};
use crate::limits::{OFFERS_AHEAD, WINDOW_BYTES};
use crate::terms::Wish;

/// How a link stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not connected, or the replica has not said yet where it stands.
    Opening,
    /// Rows are copied.
    Copying,
    /// Entries are shipped as they come.
    Following,
    /// A person stopped it for a while.
    Paused,
    /// A person stopped it.
    Stopped,
    /// Entries that the replica lacks are gone here; a copy will heal it.
    Gap,
    /// The replica knows a newer epoch.
    Fenced,
    /// Needs a person.
    Broken,
}

impl State {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Opening => "opening",
            State::Copying => "copying",
            State::Following => "following",
            State::Paused => "paused",
            State::Stopped => "stopped",
            State::Gap => "gap",
            State::Fenced => "fenced",
            State::Broken => "broken",
        }
    }
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The stream to the peer is there.
    Connected,
    /// The stream to the peer is gone.
    Disconnected(String),
    /// The replica said where it stands; the origin's log begins after `log_start`.
    Opened {
        /// Everything through this LSN is durable at the replica.
        watermark: Lsn,
        /// A copy that has begun and not ended.
        copy: Option<CopyProgress>,
        /// Nothing but a copy makes the replica alike.
        must_copy: bool,
        /// It cannot be read before it has what was there when the link opened.
        incomplete: bool,
        /// Entries through this LSN are gone here.
        log_start: Lsn,
    },
    /// A snapshot was taken for a copy. With `offers` ranges are offered before they are sent.
    CopyBegan {
        /// Where it begins.
        progress: CopyProgress,
        /// Both sides have a digest.
        offers: bool,
    },
    /// The digest of a range was sent.
    Offered {
        /// Its number, one more than that of the last one.
        number: u64,
        /// The first key after it; `None`: it was the last.
        next_key: Option<Bytes>,
    },
    /// The replica said what of an offered range it has not alike.
    Wanted(u64),
    /// A chunk was sent; of the range offered first, if there is one.
    ChunkSent {
        /// Its number.
        number: u64,
        /// Its size.
        bytes: usize,
        /// The first key after it; `None`: it was the last.
        next_key: Option<Bytes>,
        /// Rows in it.
        rows: u64,
    },
    /// A chunk is durable at the replica.
    ChunkAcked(u64),
    /// The log is durable here through this LSN.
    Appended(Lsn),
    /// A parcel was sent.
    Sent {
        /// Through this LSN.
        to: Lsn,
        /// Its size.
        bytes: usize,
    },
    /// The replica holds everything through this LSN.
    Acked(Lsn),
    /// Entries after the replica's watermark are gone here.
    Trimmed,
    /// The replica cannot take what it was given.
    Faulted(FaultKind, String),
    /// It is time to try again.
    RetryDue,
    /// A person says how it is to stand.
    Asked(Wish),
    /// This epoch is obeyed here now.
    Epoch(Epoch),
    /// By its timing it may ship so far.
    Released {
        /// Entries through this LSN.
        through: Lsn,
        /// Rows of a copy.
        copies: bool,
    },
}

/// What to do now.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Offer the link.
    Open,
    /// Take a snapshot and begin to copy, or go on with a copy that has begun.
    BeginCopy(Option<CopyProgress>),
    /// Send the next chunk, from this key.
    SendChunk(Bytes),
    /// Offer the next range, from this key.
    Offer(Bytes),
    /// Send the next chunk of a range that was offered and answered.
    SendWanted {
        /// Number of the offer.
        offer: u64,
        /// Where the chunk begins.
        start: Bytes,
        /// Where the range ends; `None`: at the end of the partition.
        end: Option<Bytes>,
    },
    /// Tell the replica that it follows.
    Follow,
    /// Send the log after this LSN.
    Send(Lsn),
}

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
    /// Entries through this LSN may be shipped, and whether rows of a copy may.
    released: (Lsn, bool),
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

#[derive(Debug)]
struct Copy {
    progress: CopyProgress,
    began: bool,
    /// `None`: the last chunk was sent, or the last range offered.
    next_key: Option<Bytes>,
    /// Ranges are offered before they are sent.
    offers: bool,
    /// Offered and not sent to their ends.
    offered: VecDeque<OfferedRange>,
}

#[derive(Debug)]
struct OfferedRange {
    number: u64,
    /// Rows before it were sent.
    start: Bytes,
    end: Option<Bytes>,
    is_answered: bool,
}

impl Copy {
    fn from(progress: CopyProgress) -> Copy {
        Copy { progress, began: false, next_key: None, offers: false, offered: VecDeque::new() }
    }
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
            released: (Lsn(u64::MAX), true),
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

    /// Rows copied since the link was made.
    pub fn copied_rows(&self) -> u64 {
        self.copied_rows
    }

    /// The log of the origin is needed after this LSN; `None`: not known, so all of it.
    pub fn needs_after(&self) -> Option<Lsn> {
        match &self.copy {
            Some(copy) if copy.began => Some(Lsn(copy.progress.first_lsn)),
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
                let next_key = Some(progress.next_key.clone());
                self.copy = Some(Copy { began: true, next_key, offers, ..Copy::from(progress) });
            }
            Event::Offered { number, next_key } => {
                let Some(copy) = &mut self.copy else { return };
                let start = std::mem::replace(&mut copy.next_key, next_key).unwrap_or_default();
                let (end, is_answered) = (copy.next_key.clone(), false);
                copy.offered.push_back(OfferedRange { number, start, end, is_answered });
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
                if before.1 != copies {
                    self.reopen_copy();
                }
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
            (State::Gap | State::Copying, _) if !self.released.1 => None,
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

    /// Entries that make a copy complete are shipped whatever the timing.
    fn ships_through(&self) -> Lsn {
        let needed = if self.incomplete { self.complete_at } else { Lsn(0) };
        self.released.0.max(needed).min(self.appended)
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

    /// A copy halts or goes on: the snapshot is given up meanwhile, and the log may not reach
    /// back to where it began.
    fn reopen_copy(&mut self) {
        if matches!(self.state, State::Copying | State::Gap) {
            self.reopen("opening anew to go on with the copy");
        }
    }

    fn next_of_copy(&self, copy: &Copy) -> Option<Action> {
        if let Some(range) = copy.offered.front().filter(|range| range.is_answered) {
            let (offer, start, end) = (range.number, range.start.clone(), range.end.clone());
            return self.has_room().then_some(Action::SendWanted { offer, start, end });
        }
        let next_key = copy.next_key.clone()?;
        match copy.offers {
            // Chunks of all that is offered must find room, too.
            true if copy.offered.len() + self.in_flight.len() < self.offers_max() => {
                Some(Action::Offer(next_key))
            }
            true => None,
            false => self.has_room().then_some(Action::SendChunk(next_key)),
        }
    }

    fn on_wanted(&mut self, number: u64) {
        // Answers on their way when the link began anew belong to nobody.
        let copying = self.state == State::Copying;
        let Some(copy) = self.copy.as_mut().filter(|copy| copying && copy.began) else { return };
        let Some(range) = copy.offered.iter_mut().find(|range| !range.is_answered) else {
            return self.stop(State::Broken, "the replica answers what was not offered");
        };
        if range.number != number {
            return self.stop(State::Broken, "the replica answers an offer out of order");
        }
        range.is_answered = true;
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

    fn on_chunk_acked(&mut self, number: u64) {
        let Some(front) = self.in_flight.front() else { return };
        if self.state != State::Copying || front.mark != number {
            return self.stop(State::Broken, "the replica acknowledges a chunk out of order");
        }
        let acked = self.pop();
        let Some(copy) = &mut self.copy else { return };
        match acked.and_then(|chunk| chunk.next_key) {
            Some(next_key) => copy.progress.next_key = next_key,
            None => {
                let first = Lsn(copy.progress.first_lsn);
                self.incomplete = true;
                self.follow_from(first);
            }
        }
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
            copy.began = false;
            copy.offered.clear();
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

    fn offers_max(&self) -> usize {
        self.window_parcels.min(OFFERS_AHEAD)
    }

    fn has_room(&self) -> bool {
        self.in_flight.len() < self.window_parcels && self.in_flight_bytes < WINDOW_BYTES
    }
}

impl Copy {
    /// Rows before a key were sent; `None`: all.
    fn sent_to(&mut self, key: Option<Bytes>) {
        let Some(range) = self.offered.front_mut() else {
            self.next_key = key;
            return;
        };
        match key {
            Some(key) if range.end.as_ref() != Some(&key) => range.start = key,
            Some(_) | None => drop(self.offered.pop_front()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: usize = 8;

    fn opened(link: &mut Link, watermark: u64, log_start: u64) {
        link.step(Event::Connected);
        assert_eq!(link.next(), Some(Action::Open));
        link.done(&Action::Open);
        assert_eq!(link.next(), None);
        link.step(Event::Opened {
            watermark: Lsn(watermark),
            copy: None,
            must_copy: false,
            incomplete: false,
            log_start: Lsn(log_start),
        });
    }

    fn following(appended: u64) -> Link {
        let mut link = Link::new(Epoch(1), Lsn(0), WINDOW);
        opened(&mut link, 0, 0);
        assert_eq!(link.next(), Some(Action::Follow));
        link.done(&Action::Follow);
        link.step(Event::Appended(Lsn(appended)));
        link
    }

    #[test]
    fn replica_that_needs_nothing_else_follows_at_once() {
        let mut link = following(5);
        assert_eq!(link.next(), Some(Action::Send(Lsn(0))));
        link.step(Event::Sent { to: Lsn(5), bytes: 10 });
        assert_eq!(link.next(), None);
        link.step(Event::Acked(Lsn(5)));
        assert_eq!(link.acked(), Some(Lsn(5)));
        assert!(link.is_caught_up());
    }

    #[test]
    fn window_bounds_what_is_under_way() {
        let mut link = following(1_000);
        let mut sent = 0;
        while let Some(Action::Send(after)) = link.next() {
            link.step(Event::Sent { to: after.next(), bytes: 10 });
            sent += 1;
        }
        assert_eq!(sent, WINDOW);
        link.step(Event::Acked(Lsn(1)));
        assert!(link.next().is_some());
    }

    #[test]
    fn lost_stream_rewinds_to_what_the_replica_holds() {
        let mut link = following(9);
        link.step(Event::Sent { to: Lsn(9), bytes: 10 });
        link.step(Event::Disconnected("reset".to_owned()));
        assert_eq!((link.state(), link.next()), (State::Opening, None));
        opened(&mut link, 4, 0);
        assert_eq!(link.next(), Some(Action::Send(Lsn(4))));
        // Until it has what was there when it opened, it may be a mixture.
        link.step(Event::Sent { to: Lsn(9), bytes: 10 });
        assert_eq!(link.next(), None);
        link.step(Event::Acked(Lsn(9)));
        assert_eq!(link.next(), Some(Action::Follow));
    }

    #[test]
    fn trimmed_log_is_healed_by_a_copy_and_then_followed() {
        let mut link = Link::new(Epoch(1), Lsn(90), WINDOW);
        opened(&mut link, 3, 50);
        assert_eq!((link.state(), link.needs_after()), (State::Gap, None));
        let begin = link.next().unwrap();
        assert_eq!(begin, Action::BeginCopy(None));
        link.done(&begin);
        let progress = CopyProgress { first_lsn: 90, ..CopyProgress::default() };
        link.step(Event::CopyBegan { progress, offers: false });
        assert_eq!(link.needs_after(), Some(Lsn(90)));
        assert_eq!(link.next(), Some(Action::SendChunk(Bytes::new())));
        assert_eq!(link.held(), None);
        let key = Bytes::from_static(b"m");
        link.step(Event::ChunkSent { number: 1, bytes: 5, next_key: Some(key.clone()), rows: 1 });
        assert_eq!(link.next(), Some(Action::SendChunk(key)));
        link.step(Event::ChunkSent { number: 2, bytes: 5, next_key: None, rows: 1 });
        assert_eq!(link.next(), None);
        link.step(Event::ChunkAcked(1));
        assert_eq!(link.state(), State::Copying);
        link.step(Event::ChunkAcked(2));
        assert_eq!((link.state(), link.acked()), (State::Following, Some(Lsn(90))));
        // Until it was told that it follows, it may be read as a mixture.
        assert_eq!(link.held(), None);
        assert_eq!(link.next(), Some(Action::Follow));
        link.done(&Action::Follow);
        assert_eq!(link.held(), Some(Lsn(90)));
    }

    /// A link that copies with offers, from the beginning, and has offered as much as it may.
    fn offering(window: usize) -> Link {
        let mut link = Link::new(Epoch(1), Lsn(90), window);
        opened(&mut link, 3, 50);
        let begin = link.next().unwrap();
        link.done(&begin);
        let progress = CopyProgress { first_lsn: 90, ..CopyProgress::default() };
        link.step(Event::CopyBegan { progress, offers: true });
        link
    }

    fn key_of(number: u64) -> Bytes {
        Bytes::copy_from_slice(&[number as u8])
    }

    #[test]
    fn ranges_are_offered_ahead_and_sent_in_order_as_they_are_answered() {
        let mut link = offering(3);
        assert_eq!(link.next(), Some(Action::Offer(Bytes::new())));
        for number in 1..=3 {
            let next_key = (number < 3).then(|| key_of(number));
            link.step(Event::Offered { number, next_key });
        }
        assert_eq!(link.next(), None);
        link.step(Event::Wanted(1));
        let (start, end) = (Bytes::new(), Some(key_of(1)));
        assert_eq!(link.next(), Some(Action::SendWanted { offer: 1, start, end: end.clone() }));
        // A range may take several chunks.
        let start = Bytes::from_static(&[0, 7]);
        let next_key = Some(start.clone());
        link.step(Event::ChunkSent { number: 1, bytes: 5, next_key, rows: 2 });
        assert_eq!(link.next(), Some(Action::SendWanted { offer: 1, start, end: end.clone() }));
        link.step(Event::ChunkSent { number: 2, bytes: 5, next_key: end, rows: 2 });
        assert_eq!(link.next(), None, "the next range is not answered");
        link.step(Event::Wanted(2));
        link.step(Event::Wanted(3));
        link.step(Event::ChunkSent { number: 3, bytes: 0, next_key: Some(key_of(2)), rows: 0 });
        assert_eq!(link.next(), None, "three chunks are under way");
        link.step(Event::ChunkAcked(1));
        let (start, end) = (key_of(2), None);
        assert_eq!(link.next(), Some(Action::SendWanted { offer: 3, start, end }));
        link.step(Event::ChunkSent { number: 4, bytes: 0, next_key: None, rows: 1 });
        for number in 2..=4 {
            assert_eq!(link.state(), State::Copying);
            link.step(Event::ChunkAcked(number));
        }
        assert_eq!((link.state(), link.acked()), (State::Following, Some(Lsn(90))));
        assert_eq!(link.copied_rows(), 5);
    }

    #[test]
    fn answer_out_of_order_breaks_the_link() {
        for number in [0, 2, 9] {
            let mut link = offering(3);
            link.step(Event::Offered { number: 1, next_key: Some(key_of(1)) });
            link.step(Event::Offered { number: 2, next_key: None });
            link.step(Event::Wanted(number));
            assert_eq!((link.state(), link.next()), (State::Broken, None));
        }
        let mut link = offering(3);
        link.step(Event::Wanted(1));
        assert_eq!(link.state(), State::Broken);
    }

    #[test]
    fn lost_stream_forgets_what_was_offered() {
        let mut link = offering(3);
        link.step(Event::Offered { number: 1, next_key: Some(key_of(1)) });
        link.step(Event::Disconnected(String::new()));
        link.step(Event::Connected);
        link.done(&Action::Open);
        let progress = CopyProgress { first_lsn: 90, ..CopyProgress::default() };
        let (copy, log_start) = (Some(progress.clone()), Lsn(50));
        link.step(Event::Opened {
            watermark: Lsn(3),
            copy,
            must_copy: false,
            incomplete: false,
            log_start,
        });
        assert_eq!(link.next(), Some(Action::BeginCopy(Some(progress.clone()))));
        link.done(&Action::BeginCopy(None));
        link.step(Event::CopyBegan { progress, offers: true });
        assert_eq!(link.next(), Some(Action::Offer(Bytes::new())));
    }

    #[test]
    fn replica_with_a_past_is_copied_though_the_log_is_there() {
        let mut link = Link::new(Epoch(1), Lsn(9), WINDOW);
        link.step(Event::Connected);
        link.done(&Action::Open);
        let (watermark, log_start) = (Lsn(12), Lsn(0));
        link.step(Event::Opened {
            watermark,
            copy: None,
            must_copy: true,
            incomplete: true,
            log_start,
        });
        assert_eq!((link.state(), link.next()), (State::Gap, Some(Action::BeginCopy(None))));
    }

    #[test]
    fn copy_goes_on_where_the_replica_says() {
        let mut link = Link::new(Epoch(1), Lsn(90), WINDOW);
        link.step(Event::Connected);
        link.done(&Action::Open);
        let progress = CopyProgress {
            first_lsn: 60,
            next_key: Bytes::from_static(b"k"),
            ..CopyProgress::default()
        };
        link.step(Event::Opened {
            watermark: Lsn(0),
            copy: Some(progress.clone()),
            must_copy: true,
            incomplete: true,
            log_start: Lsn(50),
        });
        assert_eq!(link.next(), Some(Action::BeginCopy(Some(progress))));
    }

    #[test]
    fn acknowledgement_of_what_was_never_shipped_breaks_the_link() {
        let mut link = following(9);
        link.step(Event::Acked(Lsn(3)));
        assert_eq!((link.state(), link.next()), (State::Broken, None));
    }

    #[test]
    fn paused_link_ships_nothing_and_goes_on_where_it_was() {
        let mut link = following(9);
        link.step(Event::Sent { to: Lsn(5), bytes: 10 });
        link.step(Event::Asked(Wish::Pause));
        assert_eq!((link.state(), link.next()), (State::Paused, None));
        // What was under way arrives.
        link.step(Event::Acked(Lsn(5)));
        assert_eq!((link.acked(), link.needs_after()), (Some(Lsn(5)), Some(Lsn(5))));
        assert!(!link.is_caught_up());
        // A new stream tells where the replica stands, and no more.
        link.step(Event::Disconnected(String::new()));
        opened(&mut link, 5, 0);
        assert_eq!((link.state(), link.next()), (State::Paused, None));
        link.step(Event::Asked(Wish::Run));
        assert_eq!((link.state(), link.next()), (State::Following, Some(Action::Send(Lsn(5)))));
    }

    #[test]
    fn copy_that_is_paused_gives_up_its_snapshot_and_goes_on_from_another() {
        let mut link = offering(3);
        link.step(Event::Offered { number: 1, next_key: Some(key_of(1)) });
        link.step(Event::Asked(Wish::Pause));
        assert_eq!((link.state(), link.next()), (State::Paused, Some(Action::Open)));
        link.done(&Action::Open);
        let progress = CopyProgress { first_lsn: 90, ..CopyProgress::default() };
        let (copy, log_start) = (Some(progress.clone()), Lsn(50));
        let answer = Event::Opened {
            watermark: Lsn(3),
            copy,
            must_copy: false,
            incomplete: false,
            log_start,
        };
        link.step(answer.clone());
        assert_eq!((link.state(), link.next()), (State::Paused, None));
        link.step(Event::Asked(Wish::Run));
        assert_eq!(link.next(), Some(Action::Open));
        link.done(&Action::Open);
        link.step(answer);
        assert_eq!(link.next(), Some(Action::BeginCopy(Some(progress))));
    }

    #[test]
    fn no_more_is_shipped_than_is_released() {
        let mut link = following(9);
        link.step(Event::Released { through: Lsn(0), copies: true });
        assert_eq!((link.state(), link.next()), (State::Following, None));
        link.step(Event::Released { through: Lsn(4), copies: true });
        assert_eq!(link.next(), Some(Action::Send(Lsn(0))));
        link.step(Event::Sent { to: Lsn(4), bytes: 10 });
        assert_eq!((link.next(), link.is_caught_up()), (None, false));
    }

    #[test]
    fn what_makes_a_copy_complete_is_shipped_whatever_the_timing() {
        let mut link = offering(3);
        link.step(Event::Offered { number: 1, next_key: None });
        link.step(Event::Wanted(1));
        link.step(Event::ChunkSent { number: 1, bytes: 5, next_key: None, rows: 2 });
        link.step(Event::Released { through: Lsn(0), copies: true });
        link.step(Event::Appended(Lsn(95)));
        link.step(Event::ChunkAcked(1));
        assert_eq!(link.next(), Some(Action::Send(Lsn(90))));
        link.step(Event::Sent { to: Lsn(95), bytes: 10 });
        link.step(Event::Acked(Lsn(95)));
        assert_eq!(link.next(), Some(Action::Follow));
        link.done(&Action::Follow);
        link.step(Event::Appended(Lsn(99)));
        assert_eq!(link.next(), None);
    }

    #[test]
    fn copy_waits_for_its_window() {
        let mut link = offering(3);
        link.step(Event::Released { through: Lsn(0), copies: false });
        assert_eq!(link.next(), Some(Action::Open));
        link.done(&Action::Open);
        let log_start = Lsn(50);
        let answer = Event::Opened {
            watermark: Lsn(3),
            copy: None,
            must_copy: false,
            incomplete: false,
            log_start,
        };
        link.step(answer);
        assert_eq!((link.state(), link.next()), (State::Gap, None));
        link.step(Event::Released { through: Lsn(99), copies: true });
        assert_eq!(link.next(), Some(Action::Open));
    }

    #[test]
    fn stopped_link_opens_anew_when_it_runs_again() {
        let mut link = following(9);
        link.step(Event::Sent { to: Lsn(5), bytes: 10 });
        link.step(Event::Asked(Wish::Stop));
        assert_eq!((link.state(), link.next()), (State::Stopped, None));
        link.step(Event::Disconnected(String::new()));
        link.step(Event::Connected);
        assert_eq!((link.state(), link.next()), (State::Stopped, None));
        link.step(Event::Asked(Wish::Run));
        opened(&mut link, 5, 7);
        assert_eq!((link.state(), link.next()), (State::Gap, Some(Action::BeginCopy(None))));
    }

    #[test]
    fn fenced_link_stays_fenced_when_the_stream_returns() {
        let mut link = following(9);
        link.step(Event::Faulted(FaultKind::Fenced, "epoch 2 is known".to_owned()));
        link.step(Event::Disconnected(String::new()));
        link.step(Event::Connected);
        assert_eq!((link.state(), link.next()), (State::Fenced, None));
    }

    #[test]
    fn fenced_link_opens_anew_under_a_newer_epoch() {
        let mut link = following(9);
        link.step(Event::Faulted(FaultKind::Fenced, "epoch 2 is known".to_owned()));
        link.step(Event::Epoch(Epoch(1)));
        assert_eq!((link.state(), link.next()), (State::Fenced, None));
        link.step(Event::Epoch(Epoch(2)));
        assert_eq!((link.epoch, link.next()), (Epoch(2), Some(Action::Open)));
    }
}
