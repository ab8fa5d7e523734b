//! The origin's end of all links to one peer: which frame to send next.
//!
//! There are two streams to a peer, one that this region dials and one that the peer dials. Each
//! link runs on one of them; nothing but that differs between push and pull.
//!
//! The links that may have something to do stand in a queue; an idle link costs nothing. `poll`
//! gives one frame at a time and takes the links in turn, so that one busy table does not starve
//! the others. Reading the log is `ship/log.rs`, reading snapshots `ship/copy.rs`, hearing the peer
//! `ship/answer.rs`; deciding is `link.rs`.

mod answer;
mod asked;
mod carry;
pub(crate) mod copy;
mod lane;
mod left;
mod log;
mod promise;
mod report;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use isthmus_model::clock::Clock;
use isthmus_model::hlc::{Hlc, Stamp};
use isthmus_model::ids::{Epoch, Lsn, Origin, PartitionId};
use isthmus_store::{Store, Table};
use prost::Message;

use crate::error::ReplicationError;
use crate::frame::{Body, Close, CopyChunk, FaultKind, Follow, Frame, Hello, Open, Packed, Parcel};
use crate::horizon::SafeTimes;
use crate::limits::PROMISE_EVERY;
use crate::link::{Action, Event, Link, State};
use crate::mode::Modes;
use crate::pack::{Method, PackedLogs};
use crate::progress::Progress;
use crate::put_back::PutBacks;
use crate::standings::Standings;
use crate::streams::Streams;
use crate::terms::{Direction, Terms, Wish};
use crate::throttle::{Brake, Commits, CopyWork, Courtesy};
use crate::timing::Gate;
use crate::trace::{MARKS_MAX, Shipped, Traces};
use crate::traffic::Traffic;

use self::asked::is_of_copy;
use self::carry::Carried;
use self::copy::CopyScan;
use self::lane::Lane;

pub use self::report::{LinkReport, StateChange};

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
    /// How far copies give way to writes.
    courtesy: Courtesy,
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
            courtesy: Courtesy::default(),
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
        self.look_for_what_was_left(now);
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

    /// The log of the partition is needed after this LSN by this peer. The outer `None`: there
    /// is no link, or it is stopped; the inner: not known, so all of it.
    pub fn needs_after(&self, partition: PartitionId) -> Option<Option<Lsn>> {
        let shipping = self.links.get(&partition)?;
        (shipping.terms.wish != Wish::Stop).then(|| shipping.link.needs_after())
    }

    fn runs_on(&self, partition: PartitionId, direction: Direction) -> bool {
        let shipping = self.links.get(&partition);
        shipping.is_some_and(|shipping| shipping.terms.direction == direction)
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

    fn work(&mut self, partition: PartitionId) -> Result<Option<Frame>, ReplicationError> {
        let format = self.format();
        let has_gap = |shipping: &Shipping| shipping.link.state() == State::Gap;
        if self.timed.contains(&partition) && self.links.get(&partition).is_some_and(has_gap) {
            // It may just have opened, or found its entries trimmed.
            self.look_at_gate(partition);
        }
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
        if let Some(due) = shipping.due(&action, &self.courtesy, began) {
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
            let commits = Commits::of(shipping.table.counters());
            self.courtesy.copied(commits, now);
            let slower = shipping.slower(&self.courtesy);
            shipping.brake.copied(work, now.saturating_sub(began), slower, now);
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

impl Shipping {
    /// The link goes on under the newest epoch that is obeyed here.
    fn renew_epoch(&mut self) {
        self.link.step(Event::Epoch(self.table.epoch()));
    }
}
