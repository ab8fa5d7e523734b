//! The origin's end of all links to one peer: which frame to send next.
//!
//! There are two streams to a peer, one that this region dials and one that the peer dials. Each
//! link runs on one of them; nothing but that differs between push and pull.
//!
//! The links that may have something to do stand in a queue; an idle link costs nothing. `poll`
//! gives one frame at a time and takes the links in turn, so that one busy table does not starve
//! the others. Reading the log happens here, reading snapshots in `ship/copy.rs`; deciding is
//! `link.rs`.

mod asked;
mod carry;
pub(crate) mod copy;
mod lane;
mod promise;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use isthmus_model::clock::Clock;
use isthmus_model::compression::Compression;
use isthmus_model::entry::Entry;
use isthmus_model::hlc::{Hlc, Stamp};
use isthmus_model::ids::{Epoch, Lsn, Origin, PartitionId};
use isthmus_store::codec::Corrupt;
use isthmus_store::keys::log::{RecordBuilder, decode_head, decode_record};
use isthmus_store::{LogSlice, Store, StoreError, Table};
use prost::Message;

use crate::error::ReplicationError;
use crate::frame::{
    Body, Close, CopyChunk, CopyWant, FORMAT_OF_SEEN, FaultKind, Follow, Frame, Hello, Open,
    OriginRange, Packed, Parcel, Records,
};
use crate::horizon::SafeTimes;
use crate::limits::{
    BROKEN_RETRY_AFTER, CHANGES_KEPT_MAX, OLDEST_RECORDS_MAX, PROMISE_EVERY, RETRY_AFTER, WHOLE_FOR,
};
use crate::link::{Action, Event, Link, State};
use crate::mode::Modes;
use crate::pack::{Method, PackedLog, PackedLogs, Stretch, pack, pack_as_is};
use crate::patch::pack_patch;
use crate::progress::{CopyReport, Progress};
use crate::put_back::PutBacks;
use crate::standings::Standings;
use crate::streams::Streams;
use crate::terms::{Direction, Terms, Wish};
use crate::throttle::{Brake, CopyWork};
use crate::timing::Gate;
use crate::trace::{MARKS_MAX, Shipped, Traces};
use crate::traffic::{Rate, Traffic};

use self::asked::is_of_copy;
use self::carry::Carried;
use self::copy::CopyScan;
use self::lane::Lane;

/// What all links of one node share.
#[derive(Clone)]
pub struct Shared {
    /// Where rows and logs are.
    pub store: Arc<Store>,
    /// Tells time.
    pub clock: Arc<dyn Clock>,
    /// Safe times of all partitions.
    pub safe_times: Arc<SafeTimes>,
    /// How replicas stand, where regions pass on what others have made.
    pub standings: Arc<Standings>,
    /// Old disks that were put back.
    pub put_backs: Arc<PutBacks>,
    /// Parcels packed a moment ago.
    pub packed: Arc<PackedLogs>,
    /// The newest stream from each peer.
    pub streams: Arc<Streams>,
    /// Requests that are followed.
    pub traces: Arc<Traces>,
    /// Writes that wait until other regions hold them.
    pub modes: Arc<Modes>,
    /// How this node names itself, and the newest format that it speaks with others.
    pub hello: Hello,
    /// Log bytes in one parcel, before compression; one log record may be larger.
    pub parcel_bytes_max: usize,
    /// Parcels or chunks of one link under way.
    pub window_parcels: usize,
    /// Rows of a range that is offered before it is copied, about (`limits::OFFER_ROWS`).
    pub offer_rows: u64,
}

impl Shared {
    /// This region's number.
    pub fn origin(&self) -> Origin {
        Origin(self.hello.region as u8)
    }
}

/// How one link stands, for a person.
#[derive(Clone, Debug)]
pub struct LinkReport {
    /// Partition.
    pub partition: PartitionId,
    /// State.
    pub state: State,
    /// Why.
    pub reason: String,
    /// Since when, milliseconds since the Unix epoch.
    pub since_millis: i64,
    /// End of the log here.
    pub appended: Lsn,
    /// Sent through.
    pub shipped: Lsn,
    /// Durable at the replica through; `None`: not known.
    pub acked: Option<Lsn>,
    /// When the oldest entry that is not there yet was made; `None`: all are there, or unknown.
    pub oldest_millis: Option<i64>,
    /// Rows copied.
    pub copied_rows: u64,
    /// Rows that were alike and need not be copied, about.
    pub alike_rows: u64,
    /// Bytes of the log that wait for the replica, about.
    pub waiting_bytes: u64,
    /// The peer's region knows nothing of the table.
    pub unassigned: bool,
    /// Who dials.
    pub direction: Direction,
    /// The copy that is under way or halted.
    pub copy: Option<CopyReport>,
    /// When more may be shipped by its timing, milliseconds since the Unix epoch; `None`: now, or
    /// nobody knows.
    pub next_millis: Option<i64>,
    /// Bytes of log records and rows that were sent, before compression, since the link was made.
    pub sent_bytes: u64,
    /// Entries and rows that were sent.
    pub sent_entries: u64,
    /// How it is asked to compress.
    pub compression: Compression,
    /// Bytes that went on the way for it, with all that frames them; before encryption.
    pub wire_bytes: u64,
    /// What it has carried.
    pub traffic: Traffic,
    /// How fast it was lately.
    pub rate: Rate,
}

/// A link has come into another state.
#[derive(Clone, Debug, PartialEq)]
pub struct StateChange {
    /// Partition.
    pub partition: PartitionId,
    /// The state before.
    pub from: State,
    /// The state now.
    pub to: State,
    /// Why.
    pub reason: String,
    /// When, milliseconds since the Unix epoch.
    pub at_millis: i64,
    /// Rows copied by then since the link was made.
    pub copied_rows: u64,
    /// What it had carried by then.
    pub traffic: Traffic,
}

struct Shipping {
    link: Link,
    table: Arc<Table>,
    terms: Terms,
    gate: Gate,
    brake: Brake,
    next_millis: Option<i64>,
    sent_bytes: u64,
    sent_entries: u64,
    reported: (State, String),
    since_millis: i64,
    copy: Option<CopyScan>,
    /// Of the copy that is under way, or was when the link halted.
    progress: Option<Progress>,
    /// Chunks under way: number, rows that they settle, bytes.
    under_way: VecDeque<(u64, u64, u64)>,
    alike_rows: u64,
    /// The life that the replica was told when the link was offered.
    told_life: Stamp,
    /// The epoch that the replica was told when the link was last opened.
    told_epoch: Epoch,
    /// The replica has a digest, too.
    offers: bool,
    unassigned: bool,
    /// How it packs for the peer at hand.
    method: Method,
    /// The dictionary that the replica was told last on this stream.
    told_dictionary: u32,
    /// Until then values are shipped whole.
    whole_until: Duration,
    wire_bytes: u64,
    traffic: Traffic,
    /// Followed by traces and not acknowledged.
    traced: VecDeque<Shipped>,
    carried: Carried,
}

const NEW_LIFE: &str = "the log has begun a new life; opening anew";

/// Before each message: whether it is compressed, and its length.
const MESSAGE_HEAD_BYTES: usize = 5;

/// The origin's end of all links to one peer.
pub struct Outbound {
    shared: Shared,
    peer: Origin,
    /// How the peer last named itself.
    peer_name: String,
    push: Lane,
    pull: Lane,
    links: BTreeMap<PartitionId, Shipping>,
    retries: Vec<(Duration, PartitionId)>,
    /// Links that wait because of their throttle, until when.
    waits: BTreeMap<PartitionId, Duration>,
    /// Links that do not ship at once.
    timed: BTreeSet<PartitionId>,
    /// Links that ship nothing, as the disk here was put back.
    put_back: BTreeSet<PartitionId>,
    changes: VecDeque<StateChange>,
    /// Partitions of which it is told how replicas stand, and the newest promise told by region.
    told: BTreeMap<PartitionId, BTreeMap<Origin, u64>>,
}

impl Outbound {
    /// No links yet, not connected.
    pub fn new(shared: Shared, peer: Origin) -> Outbound {
        Outbound {
            shared,
            peer,
            peer_name: String::new(),
            push: Lane::default(),
            pull: Lane::default(),
            links: BTreeMap::new(),
            retries: Vec::new(),
            waits: BTreeMap::new(),
            timed: BTreeSet::new(),
            put_back: BTreeSet::new(),
            changes: VecDeque::new(),
            told: BTreeMap::new(),
        }
    }

    /// The peer's region number.
    pub fn peer(&self) -> Origin {
        self.peer
    }

    /// The format that was settled with the peer; 0: none, it has not answered.
    pub fn format(&self) -> u32 {
        self.push.format.max(self.pull.format)
    }

    /// Adds the link of a partition, or changes what is asked of one that is there.
    pub fn open(&mut self, partition: PartitionId, table: Arc<Table>, terms: &Terms) {
        if self.links.contains_key(&partition) {
            return self.ask(partition, terms);
        }
        let mut link = Link::new(table.epoch(), table.durable_lsn(), self.shared.window_parcels);
        if self.lane(terms.direction).connected {
            link.step(Event::Connected);
        }
        link.step(Event::Asked(terms.wish));
        let shipping = Shipping {
            gate: Gate::new(terms.timing.clone()),
            brake: Brake::new(terms.throttle, self.shared.clock.monotonic()),
            next_millis: None,
            sent_bytes: 0,
            sent_entries: 0,
            progress: None,
            under_way: VecDeque::new(),
            terms: terms.clone(),
            reported: (link.state(), link.reason().to_owned()),
            told_epoch: link.epoch,
            link,
            table,
            since_millis: self.shared.clock.wall_millis(),
            copy: None,
            alike_rows: 0,
            told_life: Stamp { hlc: Hlc::MIN, origin: self.peer },
            offers: false,
            unassigned: false,
            method: Method::default(),
            told_dictionary: 0,
            whole_until: Duration::ZERO,
            wire_bytes: 0,
            traffic: Traffic::default(),
            traced: VecDeque::new(),
            carried: Carried::default(),
        };
        self.links.insert(partition, shipping);
        self.note_linked(partition);
        self.look_at_gate(partition);
        self.wake(partition);
    }

    /// Ends the link of a partition.
    pub fn close(&mut self, partition: PartitionId) {
        if let Some(shipping) = self.links.remove(&partition) {
            self.timed.remove(&partition);
            self.waits.remove(&partition);
            self.note_linked(partition);
            self.tell_closed(partition, shipping.terms.direction);
        }
    }

    /// Takes note of whether the peer will say where it stands, and holds all. One that writes,
    /// too, says so where its own link opens, though the one to it is stopped.
    fn note_linked(&self, partition: PartitionId) {
        let is_linked = self.links.get(&partition).is_some_and(|shipping| {
            let is_told = shipping.table.spec().writers.are_many();
            (is_told || shipping.terms.wish != Wish::Stop) && shipping.carried.extract.is_none()
        });
        self.shared.put_backs.linked(partition, self.peer, is_linked);
    }

    fn tell_closed(&mut self, partition: PartitionId, direction: Direction) {
        self.lane(direction).tell(Body::Close(Close { partition: partition.0 }));
    }

    fn lane(&mut self, direction: Direction) -> &mut Lane {
        match direction {
            Direction::Push => &mut self.push,
            Direction::Pull => &mut self.pull,
        }
    }

    fn step(&mut self, partition: PartitionId, event: Event) {
        if let Some(shipping) = self.links.get_mut(&partition) {
            shipping.link.step(event);
        }
    }

    /// The partitions that have a link.
    pub fn partitions(&self) -> impl Iterator<Item = PartitionId> {
        self.links.keys().copied()
    }

    /// A stream to the peer is there. The first frame to send is the greeting.
    pub fn connected(&mut self, direction: Direction) {
        let greeting = Body::Hello(self.shared.hello.clone());
        self.lane(direction).connect(greeting);
        self.tell_anew();
        self.all_links(direction, |shipping| shipping.link.step(Event::Connected));
    }

    /// A stream to the peer is gone.
    pub fn disconnected(&mut self, direction: Direction, reason: &str) {
        self.lane(direction).disconnect();
        self.all_links(direction, |shipping| {
            shipping.traffic.retries += u64::from(shipping.link.state() != State::Opening);
            shipping.copy = None;
            shipping.link.step(Event::Disconnected(reason.to_owned()));
        });
    }

    /// The log of a partition has grown.
    pub fn appended(&mut self, partition: PartitionId, lsn: Lsn) {
        if let Some(shipping) = self.links.get_mut(&partition) {
            shipping.link.step(Event::Appended(lsn));
            shipping.renew_epoch();
            if self.timed.contains(&partition) {
                self.look_at_gate(partition);
            }
            self.wake(partition);
        }
    }

    /// Takes in what the peer said on one of the streams.
    pub fn receive(&mut self, direction: Direction, frame: Frame) -> Result<(), ReplicationError> {
        if partition_of(&frame).is_some_and(|partition| !self.runs_on(partition, direction)) {
            // What was on its way when the link went over to the other stream belongs to nobody.
            return Ok(());
        }
        frame.body.iter().try_for_each(Body::check_bounds)?;
        match frame.body {
            Some(Body::Welcome(hello)) => self.on_welcome(direction, &hello),
            Some(Body::Opened(opened)) => {
                self.on_opened(direction, opened);
                Ok(())
            }
            Some(Body::Ack(ack)) => {
                self.count_acked(PartitionId(ack.partition), Lsn(ack.held));
                self.on_link(ack.partition, |_, link| link.step(Event::Acked(Lsn(ack.held))));
                self.tell_held(PartitionId(ack.partition));
                Ok(())
            }
            Some(Body::CopyWant(want)) => {
                self.on_want(want);
                Ok(())
            }
            Some(Body::CopyAck(ack)) => {
                let now = self.shared.clock.monotonic();
                if let Some(shipping) = self.links.get_mut(&PartitionId(ack.partition)) {
                    shipping.chunk_acked(ack.number, now);
                }
                self.on_link(ack.partition, |_, link| link.step(Event::ChunkAcked(ack.number)));
                Ok(())
            }
            Some(Body::Fault(fault)) => {
                self.on_fault(PartitionId(fault.partition), fault.kind(), fault.reason.clone());
                Ok(())
            }
            Some(Body::Safe(safe)) => {
                let partition = PartitionId(safe.partition);
                self.shared.safe_times.reported(partition, self.peer, Hlc(safe.hlc));
                Ok(())
            }
            // A newer peer may say more than this program knows.
            None => Ok(()),
            Some(_) => Err(ReplicationError::Protocol("a replica sent an origin's frame")),
        }
    }

    /// The next frame to send on a stream; `None`: nothing until something happens.
    pub fn poll(&mut self, direction: Direction) -> Option<Frame> {
        if !self.lane(direction).connected {
            return None;
        }
        if let Some(frame) = self.lane(direction).take_told() {
            return Some(frame);
        }
        self.end_waits();
        while let Some(partition) = self.lane(direction).take_ready() {
            if !self.runs_on(partition, direction) {
                continue;
            }
            let frame = match self.work(partition) {
                Ok(frame) => frame,
                Err(error) => {
                    self.on_fault(partition, FaultKind::Retry, error.to_string());
                    None
                }
            };
            let has_moved = self.note_state(partition);
            if frame.is_some() || has_moved {
                // Also a link that found its entries trimmed has something else to do now.
                self.wake(partition);
            }
            if let Some(mut frame) = frame {
                self.count_sent(partition, &frame);
                self.follow(partition, &mut frame);
                return Some(frame);
            }
        }
        None
    }

    /// What time alone brings: links to open anew, promises.
    pub fn tick(&mut self) {
        let now = self.shared.clock.monotonic();
        let due: Vec<PartitionId> = self
            .retries
            .iter()
            .filter(|(at, _)| *at <= now)
            .map(|(_, partition)| *partition)
            .collect();
        self.retries.retain(|(at, _)| *at > now);
        for partition in due {
            self.on_link(partition.0, |_, link| link.step(Event::RetryDue));
        }
        self.shared.put_backs.settle();
        for partition in std::mem::take(&mut self.put_back) {
            self.wake(partition);
        }
        for partition in self.timed.clone() {
            self.look_at_gate(partition);
            self.note_state(partition);
            self.wake(partition);
        }
        for direction in Direction::BOTH {
            let lane = self.lane(direction);
            if !lane.connected {
                continue;
            }
            if now >= lane.promised_at + PROMISE_EVERY {
                lane.promised_at = now;
                self.promise(direction);
                self.tell_of_others(direction);
            }
            self.settle_owed(direction);
        }
    }

    /// Whether something was sent on any link that was not answered.
    pub fn awaits_answer(&self) -> bool {
        self.links.values().any(|shipping| shipping.link.awaits_answer())
    }

    /// Whether there is no link to the peer.
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// How every link stands.
    pub fn reports(&self) -> Vec<LinkReport> {
        let report = |(id, shipping): (&PartitionId, &Shipping)| shipping.report(*id, &self.shared);
        self.links.iter().map(report).collect()
    }

    /// How one link stands.
    pub fn report(&self, partition: PartitionId) -> Option<LinkReport> {
        self.links.get(&partition).map(|shipping| shipping.report(partition, &self.shared))
    }

    /// The log of the partition is needed after this LSN by this peer. The outer `None`: there
    /// is no link, or it is stopped; the inner: not known, so all of it.
    pub fn needs_after(&self, partition: PartitionId) -> Option<Option<Lsn>> {
        let shipping = self.links.get(&partition)?;
        (shipping.terms.wish != Wish::Stop).then(|| shipping.link.needs_after())
    }

    /// Which links have come into another state since this was last asked, the oldest first; the
    /// oldest are left out where there are very many.
    pub fn take_changes(&mut self) -> VecDeque<StateChange> {
        std::mem::take(&mut self.changes)
    }

    fn runs_on(&self, partition: PartitionId, direction: Direction) -> bool {
        let shipping = self.links.get(&partition);
        shipping.is_some_and(|shipping| shipping.terms.direction == direction)
    }

    fn on_welcome(&mut self, direction: Direction, hello: &Hello) -> Result<(), ReplicationError> {
        if hello.region != u32::from(self.peer.0) {
            return Err(ReplicationError::Protocol("another region answers at this address"));
        }
        if hello.format == 0 || hello.format > self.shared.hello.format {
            return Err(ReplicationError::Protocol("the peer chose a format that was not offered"));
        }
        self.lane(direction).format = hello.format;
        self.peer_name.clone_from(&hello.name);
        Ok(())
    }

    fn count_sent(&mut self, partition: PartitionId, frame: &Frame) {
        let Some(shipping) = self.links.get_mut(&partition) else { return };
        let now = self.shared.clock.monotonic();
        let sizes = |packed: &Packed| (packed.bytes_unpacked as usize, packed.data.len());
        match &frame.body {
            Some(Body::Parcel(Parcel { body: Some(packed), .. })) => {
                let (bytes, wire_bytes) = sizes(packed);
                shipping.traffic.parcel(bytes, wire_bytes, now);
            }
            Some(Body::CopyChunk(CopyChunk { body: Some(packed), .. })) => {
                let (bytes, wire_bytes) = sizes(packed);
                shipping.traffic.chunk(bytes, wire_bytes, now);
            }
            _ => {}
        }
    }

    /// Sends the contexts of what is followed with a parcel.
    fn follow(&mut self, partition: PartitionId, frame: &mut Frame) {
        let Some(Body::Parcel(parcel)) = &mut frame.body else { return };
        let Some(shipping) = self.links.get_mut(&partition) else { return };
        let range = (Lsn(parcel.from), Lsn(parcel.to));
        for (mark, shipped) in self.shared.traces.ship(partition, range, &self.peer_name) {
            parcel.traces.push(mark);
            // What was sent on a stream that broke is never acknowledged.
            if shipping.traced.len() >= MARKS_MAX {
                shipping.traced.pop_front();
            }
            shipping.traced.push_back(shipped);
        }
    }

    /// Tells what the peer holds of this region, where its link carries that.
    pub fn tell_held(&self, partition: PartitionId) {
        let Some(shipping) = self.links.get(&partition) else { return };
        if shipping.carried.carries(self.shared.origin()) {
            self.shared.modes.held(partition, self.peer, shipping.link.held());
        }
    }

    fn count_acked(&mut self, partition: PartitionId, held: Lsn) {
        let Some(shipping) = self.links.get_mut(&partition) else { return };
        // What was never shipped is a fault of the peer and counts for nothing.
        let held = held.min(shipping.link.shipped());
        let more = held.0.saturating_sub(shipping.link.acked().unwrap_or(held).0);
        shipping.traffic.acked(more, self.shared.clock.monotonic());
        self.shared.traces.acked(&mut shipping.traced, held, &self.peer_name);
    }

    fn on_want(&mut self, want: CopyWant) {
        let partition = PartitionId(want.partition);
        let Some(shipping) = self.links.get_mut(&partition) else { return };
        let Some(copy) = &mut shipping.copy else { return };
        shipping.link.step(Event::Wanted(want.number));
        if shipping.link.state() == State::Copying {
            copy.wants.insert(want.number, want);
        }
        self.note_state(partition);
        self.wake(partition);
    }

    fn on_link(&mut self, partition: u64, act: impl FnOnce(&Table, &mut Link)) {
        let partition = PartitionId(partition);
        if let Some(shipping) = self.links.get_mut(&partition) {
            act(&shipping.table, &mut shipping.link);
            self.note_state(partition);
            self.wake(partition);
        }
    }

    fn on_fault(&mut self, partition: PartitionId, kind: FaultKind, reason: String) {
        let Some(shipping) = self.links.get_mut(&partition) else { return };
        shipping.copy = None;
        shipping.unassigned = kind == FaultKind::Unassigned;
        if shipping.unassigned {
            self.shared.put_backs.knows_nothing(partition, self.peer);
        }
        let table = &shipping.table;
        // What was told before an epoch was opened here says nothing about that one.
        if kind == FaultKind::Fenced && shipping.told_epoch == table.epoch() {
            self.shared.put_backs.overtaken(table, self.peer);
        }
        if kind == FaultKind::PriorMissing {
            shipping.whole_until = self.shared.clock.monotonic() + WHOLE_FOR;
        }
        shipping.traffic.retries += 1;
        shipping.link.step(Event::Faulted(kind, reason));
        if !matches!(kind, FaultKind::Fenced | FaultKind::Broken) {
            let at = self.shared.clock.monotonic() + RETRY_AFTER;
            self.retries.retain(|(_, waiting)| *waiting != partition);
            self.retries.push((at, partition));
        }
        self.note_state(partition);
    }

    fn all_links(&mut self, direction: Direction, act: impl Fn(&mut Shipping)) {
        let partitions: Vec<PartitionId> = self.links.keys().copied().collect();
        for partition in partitions {
            if !self.runs_on(partition, direction) {
                continue;
            }
            if let Some(shipping) = self.links.get_mut(&partition) {
                act(shipping);
            }
            self.note_state(partition);
            self.wake(partition);
        }
    }

    fn wake(&mut self, partition: PartitionId) {
        if let Some(shipping) = self.links.get(&partition) {
            self.lane(shipping.terms.direction).wake(partition);
        }
    }

    /// Takes note of the state of a link; gives whether it has come into another one.
    fn note_state(&mut self, partition: PartitionId) -> bool {
        let Some(shipping) = self.links.get_mut(&partition) else { return false };
        let now = (shipping.link.state(), shipping.link.reason().to_owned());
        if now.0 == State::Following {
            shipping.progress = None;
        }
        let has_moved = shipping.reported.0 != now.0;
        if has_moved {
            shipping.since_millis = self.shared.clock.wall_millis();
            if self.changes.len() >= CHANGES_KEPT_MAX {
                self.changes.pop_front();
            }
            self.changes.push_back(StateChange {
                partition,
                from: shipping.reported.0,
                to: now.0,
                reason: now.1.clone(),
                at_millis: shipping.since_millis,
                copied_rows: shipping.link.copied_rows(),
                traffic: shipping.traffic,
            });
            // What made no sense a while ago may make sense when the replica has moved on.
            if now.0 == State::Broken {
                self.retries.push((self.shared.clock.monotonic() + BROKEN_RETRY_AFTER, partition));
            }
        }
        shipping.reported = now;
        has_moved
    }

    fn work(&mut self, partition: PartitionId) -> Result<Option<Frame>, ReplicationError> {
        let format = self.format();
        let Some(shipping) = self.links.get_mut(&partition) else { return Ok(None) };
        let Some(action) = shipping.link.next() else { return Ok(None) };
        if action != Action::Open && self.shared.put_backs.is_put_back(partition) {
            self.put_back.insert(partition);
            return Ok(None);
        }
        let life = shipping.table.life();
        if action != Action::Open && shipping.told_life != life {
            // Else the replica would take it for what an earlier life has made.
            self.open_anew(partition, NEW_LIFE);
            return Ok(None);
        }
        let began = self.shared.clock.monotonic();
        if let Some(due) = shipping.due(&action, began) {
            self.waits.insert(partition, due);
            return Ok(None);
        }
        let sent = (shipping.sent_bytes, shipping.sent_entries);
        let body = match &action {
            Action::Open => {
                shipping.told_life = life;
                shipping.told_epoch = shipping.link.epoch;
                Some(Body::Open(Open {
                    partition: partition.0,
                    epoch: shipping.link.epoch.0,
                    log_of: life.origin.0.into(),
                    life: life.hlc.0,
                    asks_back: self.shared.put_backs.asks_back(partition, self.peer),
                    holds: shipping.held_of(self.peer),
                }))
            }
            Action::Follow => Some(Body::Follow(Follow { partition: partition.0 })),
            Action::BeginCopy(resumed) => {
                self.shared.safe_times.forget_report(partition, self.peer);
                Some(shipping.begin_copy(partition, resumed.clone(), began)?)
            }
            Action::SendChunk(key) => {
                shipping.check_age(&self.shared)?;
                shipping.send_chunk(partition, key, None, 0)?
            }
            Action::Offer(key) => {
                shipping.check_age(&self.shared)?;
                shipping.send_offer(partition, key, self.shared.offer_rows)?
            }
            Action::SendWanted { offer, start, end } => {
                shipping.check_age(&self.shared)?;
                shipping.send_wanted(partition, *offer, start, end.as_ref())?
            }
            Action::Send(after) => shipping.send_log(partition, *after, format, &self.shared)?,
        };
        shipping.link.done(&action);
        let now = self.shared.clock.monotonic();
        let (bytes, entries) = (shipping.sent_bytes - sent.0, shipping.sent_entries - sent.1);
        shipping.brake.shipped(bytes, entries, now);
        if is_of_copy(&action) {
            let work = match (&action, &body) {
                (Action::Offer(_), _) => CopyWork::Compares,
                (_, Some(Body::CopyChunk(chunk))) if chunk.scattered => CopyWork::Compares,
                _ => CopyWork::Sends,
            };
            shipping.brake.copied(work, now.saturating_sub(began), now);
        }
        if action == Action::Follow {
            self.tell_held(partition);
        }
        let Some(shipping) = self.links.get_mut(&partition) else { return Ok(None) };
        let frame = body.map(Frame::from);
        let on_the_way = |frame: &Frame| (frame.encoded_len() + MESSAGE_HEAD_BYTES) as u64;
        shipping.wire_bytes += frame.as_ref().map_or(0, on_the_way);
        Ok(frame)
    }
}

/// The partition that an answer is about.
fn partition_of(answer: &Frame) -> Option<PartitionId> {
    let partition = match answer.body.as_ref()? {
        Body::Opened(opened) => opened.partition,
        Body::Ack(ack) => ack.partition,
        Body::CopyWant(want) => want.partition,
        Body::CopyAck(ack) => ack.partition,
        Body::Fault(fault) => fault.partition,
        _ => return None,
    };
    Some(PartitionId(partition))
}

impl Shipping {
    fn send_log(
        &mut self,
        partition: PartitionId,
        after: Lsn,
        format: u32,
        shared: &Shared,
    ) -> Result<Option<Body>, ReplicationError> {
        let tells = format >= FORMAT_OF_SEEN;
        if let Some(log) = self.beginning(partition, after, shared) {
            return Ok(Some(self.sent(partition, after, log, Vec::new())));
        }
        let origins = self.carried.origins().to_vec();
        let here = if origins.is_empty() { Vec::new() } else { self.table.vector() };
        let stretch = Stretch { partition, after, method: self.method, tells, origins };
        let kept = shared.packed.get(&stretch).filter(|log| self.may_ship(log, shared));
        let log = match kept.filter(|_| self.carried.extract.is_none()) {
            Some(log) => log,
            None => match self.pack_log(stretch, shared) {
                Ok(Some(log)) => log,
                Ok(None) => return Ok(None),
                Err(ReplicationError::Store(StoreError::LogTrimmed { .. })) => {
                    self.link.step(Event::Trimmed);
                    return Ok(None);
                }
                Err(error) => return Err(error),
            },
        };
        if let Some(dictionary) = &log.dictionary
            && self.told_dictionary != dictionary.number
        {
            self.told_dictionary = dictionary.number;
            return Ok(Some(Body::Dictionary(dictionary.frame(partition))));
        }
        let ranges = self.ranges(&log, &here)?;
        Ok(Some(self.sent(partition, after, log, ranges)))
    }

    /// The link goes on under the newest epoch that is obeyed here.
    fn renew_epoch(&mut self) {
        self.link.step(Event::Epoch(self.table.epoch()));
    }

    /// Takes note of a parcel that is sent.
    fn sent(
        &mut self,
        partition: PartitionId,
        after: Lsn,
        log: PackedLog,
        ranges: Vec<OriginRange>,
    ) -> Body {
        self.sent_bytes += log.bytes as u64;
        self.sent_entries += log.to.0 - after.0;
        // What was read may have begun an epoch.
        self.renew_epoch();
        self.link.step(Event::Sent { to: log.to, bytes: log.bytes });
        Body::Parcel(Parcel {
            partition: partition.0,
            epoch: self.link.epoch.0,
            from: after.0,
            to: log.to.0,
            body: Some(log.packed),
            traces: Vec::new(),
            ranges,
        })
    }

    /// Whether values may be shipped as what has changed in them.
    fn patches(&self, shared: &Shared) -> bool {
        self.method.level_with_priors().is_some() && shared.clock.monotonic() >= self.whole_until
    }

    fn may_ship(&self, log: &PackedLog, shared: &Shared) -> bool {
        log.packed.priors.is_empty() || self.patches(shared)
    }

    fn pack_log(
        &self,
        stretch: Stretch,
        shared: &Shared,
    ) -> Result<Option<PackedLog>, ReplicationError> {
        let (partition, after, method) = (stretch.partition, stretch.after, stretch.method);
        let tells = stretch.tells;
        let bytes_max = self.brake.parcel_bytes(shared.parcel_bytes_max);
        let slice = self.table.read_log(after, bytes_max)?;
        if slice.to <= after {
            return Ok(None);
        }
        let carried = self.carried_records(partition, &slice, after, shared)?;
        let is_carried = carried.is_some() || self.carried.extract.is_some();
        let (records, ends) = match carried {
            Some((record, ends)) => (vec![record], ends),
            None if self.table.spec().writers.are_many() => {
                (vec![own_entries(partition, &slice, after, shared.origin(), tells)?], Vec::new())
            }
            // All logs are the same, and every record goes as it is.
            None => (slice.records, Vec::new()),
        };
        let is_compressed = mostly_compressed(&records);
        let bytes = Records { records }.encode_to_vec();
        let size = bytes.len();
        let patched = match method.level_with_priors() {
            Some(level) if !is_compressed && !is_carried && self.patches(shared) => {
                pack_patch(&bytes, &self.table.replaced(after, slice.to), level)
            }
            Some(_) | None => None,
        };
        let (packed, dictionary) = match patched {
            Some(patched) => (patched, None),
            None if is_compressed => (pack_as_is(bytes), None),
            None if is_carried => (pack(bytes, method), None),
            None => shared.packed.pack(partition, bytes, method),
        };
        let log = PackedLog { to: slice.to, bytes: size, packed, dictionary, ends };
        if self.carried.extract.is_none() {
            shared.packed.put(stretch, log.clone());
        }
        Ok(Some(log))
    }

    fn report(&self, partition: PartitionId, shared: &Shared) -> LinkReport {
        let appended = self.table.durable_lsn();
        let acked = self.link.acked();
        // Before the replica has said where it stands, all that is kept for it may be missing.
        let held = acked.unwrap_or_else(|| self.table.log_start());
        let now = shared.clock.monotonic();
        LinkReport {
            partition,
            state: self.link.state(),
            reason: self.link.reason().to_owned(),
            since_millis: self.since_millis,
            appended,
            shipped: self.link.shipped(),
            acked,
            oldest_millis: oldest_millis(&self.table, held, shared.origin()),
            copied_rows: self.link.copied_rows(),
            alike_rows: self.alike_rows,
            waiting_bytes: match acked {
                Some(acked) => self.table.log_size_after(acked).bytes,
                None => self.table.log_size().bytes,
            },
            unassigned: self.unassigned,
            direction: self.terms.direction,
            copy: self.progress.as_ref().map(|progress| progress.report(now)),
            next_millis: self.next_millis,
            sent_bytes: self.sent_bytes,
            sent_entries: self.sent_entries,
            compression: self.terms.compression,
            wire_bytes: self.wire_bytes,
            traffic: self.traffic,
            rate: self.traffic.rate(now),
        }
    }
}

/// When the oldest entry after `held` was made that this region itself has accepted: what others
/// have accepted reaches the replica from them, and is not waited for here. Looks through a
/// bounded part of the log; where that holds nothing of its own, its end is told.
fn oldest_millis(table: &Table, held: Lsn, own: Origin) -> Option<i64> {
    let writers_are_many = table.spec().writers.are_many();
    let (mut after, mut last) = (held, None);
    for _ in 0..OLDEST_RECORDS_MAX {
        let slice = table.read_log(after, 1).ok()?;
        let (_, entries) = decode_record(slice.records.first()?).ok()?;
        let waiting = entries.iter().filter(|entry| entry.lsn > held);
        for entry in waiting {
            last = Some(entry.stamp.hlc.millis());
            if !writers_are_many || entry.stamp.origin == own {
                return last;
            }
        }
        after = slice.to;
    }
    last
}

/// One record with what this region itself has accepted. With `tells` the entries tell what it had
/// seen of others.
fn own_entries(
    partition: PartitionId,
    slice: &LogSlice,
    after: Lsn,
    origin: Origin,
    tells: bool,
) -> Result<Bytes, ReplicationError> {
    let mut own = RecordBuilder::new(after.next());
    for record in &slice.records {
        let (_, entries) = decode_record(record).map_err(damaged_log)?;
        let of_own = |entry: &Entry| entry.stamp.origin == origin && entry.lsn > after;
        for mut entry in entries.into_iter().filter(of_own) {
            entry.seen = entry.seen.filter(|_| tells);
            own.push(&entry);
        }
    }
    own.cover(slice.to);
    // The parcel is compressed as a whole.
    Ok(own.finish(partition, false).bytes)
}

fn damaged_log(source: Corrupt) -> ReplicationError {
    StoreError::Corrupt { what: "log record", source }.into()
}

/// Whether compressing once more would not pay.
fn mostly_compressed(records: &[Bytes]) -> bool {
    let total: usize = records.iter().map(Bytes::len).sum();
    let is_compressed = |record: &&Bytes| {
        decode_head(record).is_ok_and(|head| record.len() < head.raw_bytes as usize)
    };
    let compressed: usize = records.iter().filter(is_compressed).map(Bytes::len).sum();
    compressed * 2 > total
}
