//! The origin's end of all links to one peer: which frame to send next.
//!
//! The links that may have something to do stand in a queue; an idle link costs nothing. `poll`
//! gives one frame at a time and takes the links in turn, so that one busy table does not starve
//! the others. Reading the log and snapshots happens here; deciding is `link.rs`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use isthmus_model::change::Direction;
use isthmus_model::clock::Clock;
use isthmus_model::hlc::Hlc;
use isthmus_model::ids::{Lsn, Origin, PartitionId};
use isthmus_model::key::EncodedKey;
use isthmus_model::row::Trim;
use isthmus_store::codec::Corrupt;
use isthmus_store::digest::DigestView;
use isthmus_store::keys::log::{RecordBuilder, decode_head, decode_record};
use isthmus_store::{LogSlice, Store, StoreError, Table, TableSnapshot, keys};
use prost::Message;

use crate::differential::{self, Picked};
use crate::error::ReplicationError;
use crate::frame::{
    Body, Close, CopiedRow, CopiedRows, CopyBegin, CopyChunk, CopyProgress, CopyWant,
    ExpiredBefore, FORMAT_OF_OFFERS, FaultKind, Follow, Frame, Hello, Open, Parcel, Promise,
    Records, Watermark,
};
use crate::horizon::SafeTimes;
use crate::limits::{
    BROKEN_RETRY_AFTER, CHUNK_BYTES_MAX, PROMISE_EVERY, RETRY_AFTER, SNAPSHOT_AGE_MAX,
};
use crate::link::{Action, Event, Link, State};
use crate::pack::{PackedLog, PackedLogs, pack, pack_as_is};
use crate::streams::Streams;

/// What all links of one node share.
#[derive(Clone)]
pub struct Shared {
    /// Where rows and logs are.
    pub store: Arc<Store>,
    /// Tells time.
    pub clock: Arc<dyn Clock>,
    /// Safe times of all partitions.
    pub safe_times: Arc<SafeTimes>,
    /// Parcels packed a moment ago.
    pub packed: Arc<PackedLogs>,
    /// The newest stream from each peer.
    pub streams: Arc<Streams>,
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
}

struct Shipping {
    link: Link,
    table: Arc<Table>,
    reported: (State, String),
    since_millis: i64,
    copy: Option<CopyScan>,
    alike_rows: u64,
    /// The replica has a digest, too.
    offers: bool,
    unassigned: bool,
}

struct CopyScan {
    snapshot: TableSnapshot,
    /// The digest of that moment, if ranges are offered before they are sent.
    view: Option<DigestView>,
    taken_at: Duration,
    chunks: u64,
    offers: u64,
    /// Rows in the ranges that are offered, by number.
    offered_rows: BTreeMap<u64, u64>,
    /// What the replica answered, by number.
    wants: BTreeMap<u64, CopyWant>,
    /// What is being sent of the range that was answered first.
    picked: Option<Picked>,
}

/// The origin's end of all links to one peer.
pub struct Outbound {
    shared: Shared,
    peer: Origin,
    connected: bool,
    /// What the two have settled on; 0: nothing yet.
    format: u32,
    links: BTreeMap<PartitionId, Shipping>,
    ready: VecDeque<PartitionId>,
    is_ready: BTreeSet<PartitionId>,
    retries: Vec<(Duration, PartitionId)>,
    control: VecDeque<Frame>,
    promised_at: Duration,
}

impl Outbound {
    /// No links yet, not connected.
    pub fn new(shared: Shared, peer: Origin) -> Outbound {
        Outbound {
            shared,
            peer,
            connected: false,
            format: 0,
            links: BTreeMap::new(),
            ready: VecDeque::new(),
            is_ready: BTreeSet::new(),
            retries: Vec::new(),
            control: VecDeque::new(),
            promised_at: Duration::ZERO,
        }
    }

    /// The peer's region number.
    pub fn peer(&self) -> Origin {
        self.peer
    }

    /// The format that was settled with the peer; 0: none, it has not answered.
    pub fn format(&self) -> u32 {
        self.format
    }

    /// Adds the link of a partition; one that is there stays.
    pub fn open(&mut self, partition: PartitionId, table: Arc<Table>) {
        if self.links.contains_key(&partition) {
            return;
        }
        let mut link = Link::new(table.epoch(), table.durable_lsn(), self.shared.window_parcels);
        if self.connected {
            link.step(Event::Connected);
        }
        let shipping = Shipping {
            reported: (link.state(), link.reason().to_owned()),
            link,
            table,
            since_millis: self.shared.clock.wall_millis(),
            copy: None,
            alike_rows: 0,
            offers: false,
            unassigned: false,
        };
        self.links.insert(partition, shipping);
        self.wake(partition);
    }

    /// Ends the link of a partition.
    pub fn close(&mut self, partition: PartitionId) {
        if self.links.remove(&partition).is_some() && self.connected {
            self.control.push_back(Body::Close(Close { partition: partition.0 }).into());
        }
    }

    /// The partitions that have a link.
    pub fn partitions(&self) -> impl Iterator<Item = PartitionId> {
        self.links.keys().copied()
    }

    /// The stream to the peer is there. The first frame to send is the greeting.
    pub fn connected(&mut self) {
        self.connected = true;
        self.control.clear();
        self.control.push_back(Body::Hello(self.shared.hello.clone()).into());
        self.all_links(|link| link.step(Event::Connected));
    }

    /// The stream to the peer is gone.
    pub fn disconnected(&mut self, reason: &str) {
        self.connected = false;
        self.format = 0;
        self.control.clear();
        self.all_links(|link| link.step(Event::Disconnected(reason.to_owned())));
        for shipping in self.links.values_mut() {
            shipping.copy = None;
        }
    }

    /// The log of a partition has grown.
    pub fn appended(&mut self, partition: PartitionId, lsn: Lsn) {
        if let Some(shipping) = self.links.get_mut(&partition) {
            shipping.link.step(Event::Appended(lsn));
            self.wake(partition);
        }
    }

    /// Takes in what the peer said.
    pub fn receive(&mut self, frame: Frame) -> Result<(), ReplicationError> {
        match frame.body {
            Some(Body::Welcome(hello)) => self.on_welcome(&hello),
            Some(Body::Opened(opened)) => {
                let peer = self.peer;
                if let Some(shipping) = self.links.get_mut(&PartitionId(opened.partition)) {
                    shipping.offers = opened.has_digest && self.format >= FORMAT_OF_OFFERS;
                }
                self.on_link(opened.partition, |table, link| {
                    // Entries of the replica's own that are known here, though it has lost them.
                    let was_known =
                        table.spec().writers.are_many() && table.watermark(peer).0 > Lsn(0);
                    link.step(Event::Appended(table.durable_lsn()));
                    link.step(Event::Opened {
                        watermark: Lsn(opened.watermark),
                        copy: opened.copy,
                        must_copy: opened.incomplete && (opened.has_past || was_known),
                        log_start: table.log_start(),
                    });
                });
                Ok(())
            }
            Some(Body::Ack(ack)) => {
                self.on_link(ack.partition, |_, link| link.step(Event::Acked(Lsn(ack.held))));
                Ok(())
            }
            Some(Body::CopyWant(want)) => {
                self.on_want(want);
                Ok(())
            }
            Some(Body::CopyAck(ack)) => {
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

    /// The next frame to send; `None`: nothing until something happens.
    pub fn poll(&mut self) -> Option<Frame> {
        if !self.connected {
            return None;
        }
        if let Some(frame) = self.control.pop_front() {
            return Some(frame);
        }
        while let Some(partition) = self.ready.pop_front() {
            self.is_ready.remove(&partition);
            let frame = match self.work(partition) {
                Ok(frame) => frame,
                Err(error) => {
                    self.on_fault(partition, FaultKind::Retry, error.to_string());
                    None
                }
            };
            self.note_state(partition);
            if frame.is_some() {
                self.wake(partition);
                return frame;
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
        if self.connected && now >= self.promised_at + PROMISE_EVERY {
            self.promised_at = now;
            self.promise();
        }
    }

    /// How every link stands.
    pub fn reports(&self) -> Vec<LinkReport> {
        self.links.iter().map(|(partition, shipping)| shipping.report(*partition)).collect()
    }

    /// How one link stands.
    pub fn report(&self, partition: PartitionId) -> Option<LinkReport> {
        self.links.get(&partition).map(|shipping| shipping.report(partition))
    }

    /// The log of the partition is needed after this LSN by this peer. The outer `None`: there
    /// is no link; the inner: not known, so all of it.
    pub fn needs_after(&self, partition: PartitionId) -> Option<Option<Lsn>> {
        self.links.get(&partition).map(|shipping| shipping.link.needs_after())
    }

    fn on_welcome(&mut self, hello: &Hello) -> Result<(), ReplicationError> {
        if hello.region != u32::from(self.peer.0) {
            return Err(ReplicationError::Protocol("another region answers at this address"));
        }
        if hello.format == 0 || hello.format > self.shared.hello.format {
            return Err(ReplicationError::Protocol("the peer chose a format that was not offered"));
        }
        self.format = hello.format;
        Ok(())
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
        shipping.link.step(Event::Faulted(kind, reason));
        if !matches!(kind, FaultKind::Fenced | FaultKind::Broken) {
            let at = self.shared.clock.monotonic() + RETRY_AFTER;
            self.retries.retain(|(_, waiting)| *waiting != partition);
            self.retries.push((at, partition));
        }
        self.note_state(partition);
    }

    fn all_links(&mut self, act: impl Fn(&mut Link)) {
        let partitions: Vec<PartitionId> = self.links.keys().copied().collect();
        for partition in partitions {
            if let Some(shipping) = self.links.get_mut(&partition) {
                act(&mut shipping.link);
            }
            self.note_state(partition);
            self.wake(partition);
        }
    }

    fn wake(&mut self, partition: PartitionId) {
        if self.is_ready.insert(partition) {
            self.ready.push_back(partition);
        }
    }

    fn note_state(&mut self, partition: PartitionId) {
        let Some(shipping) = self.links.get_mut(&partition) else { return };
        let now = (shipping.link.state(), shipping.link.reason().to_owned());
        if shipping.reported.0 != now.0 {
            shipping.since_millis = self.shared.clock.wall_millis();
            // What made no sense a while ago may make sense when the replica has moved on.
            if now.0 == State::Broken {
                self.retries.push((self.shared.clock.monotonic() + BROKEN_RETRY_AFTER, partition));
            }
        }
        shipping.reported = now;
    }

    fn work(&mut self, partition: PartitionId) -> Result<Option<Frame>, ReplicationError> {
        let Some(shipping) = self.links.get_mut(&partition) else { return Ok(None) };
        let Some(action) = shipping.link.next() else { return Ok(None) };
        let body = match &action {
            Action::Open => {
                Some(Body::Open(Open { partition: partition.0, epoch: shipping.link.epoch.0 }))
            }
            Action::Follow => Some(Body::Follow(Follow { partition: partition.0 })),
            Action::BeginCopy(resumed) => {
                self.shared.safe_times.forget_report(partition, self.peer);
                Some(shipping.begin_copy(
                    partition,
                    resumed.clone(),
                    self.shared.clock.monotonic(),
                )?)
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
            Action::Send(after) => shipping.send_log(partition, *after, &self.shared)?,
        };
        shipping.link.done(&action);
        Ok(body.map(Frame::from))
    }

    fn promise(&mut self) {
        let with_horizon = |shipping: &&Shipping| shipping.table.spec().writers.are_many();
        if !self.links.values().any(|shipping| with_horizon(&shipping)) {
            return;
        }
        // The promise is taken before the ends of the logs: what it covers is in them.
        let hlc = self.shared.store.promise();
        let behind = |(partition, shipping): (&PartitionId, &Shipping)| {
            let ahead = shipping.table.durable_lsn() > shipping.link.shipped();
            (ahead || !shipping.link.is_caught_up()).then_some(partition.0)
        };
        let behind = self.links.iter().filter_map(behind).collect();
        self.control.push_back(Body::Promise(Promise { hlc: hlc.0, behind }).into());
    }
}

impl Shipping {
    fn begin_copy(
        &mut self,
        partition: PartitionId,
        resumed: Option<CopyProgress>,
        now: Duration,
    ) -> Result<Body, ReplicationError> {
        let view = match self.offers.then(|| self.table.digest_view()) {
            Some(Ok(view)) => Some(view),
            // Without a digest at hand all is copied.
            None | Some(Err(StoreError::NoDigest(_) | StoreError::Busy)) => None,
            Some(Err(error)) => return Err(error.into()),
        };
        let snapshot = match &view {
            Some(view) => view.snapshot().clone(),
            None => self.table.snapshot()?,
        };
        let snapshot_lsn = snapshot.lsn();
        let vector = watermarks(&snapshot);
        let progress = resumed.unwrap_or_else(|| CopyProgress {
            first_lsn: snapshot.lsn().0,
            first_hlc: snapshot.hlc().0,
            vector: vector.clone(),
            next_key: Bytes::new(),
        });
        let table = keys::table::encode_value(snapshot.spec());
        let expiry = snapshot.expiry().iter().map(expired_before).collect();
        let (counts, offers) = (differential::counts(snapshot.rules()), view.is_some());
        self.copy = Some(CopyScan {
            snapshot,
            view,
            taken_at: now,
            chunks: 0,
            offers: 0,
            offered_rows: BTreeMap::new(),
            wants: BTreeMap::new(),
            picked: None,
        });
        self.link.step(Event::Appended(snapshot_lsn));
        self.link.step(Event::CopyBegan { progress: progress.clone(), offers });
        Ok(Body::CopyBegin(CopyBegin {
            partition: partition.0,
            epoch: self.link.epoch.0,
            progress: Some(progress),
            vector,
            table,
            expiry,
            counts: Some(counts),
        }))
    }

    fn check_age(&self, shared: &Shared) -> Result<(), ReplicationError> {
        let Some(copy) = &self.copy else {
            return Err(ReplicationError::Refused("the snapshot of the copy is gone".to_owned()));
        };
        if shared.clock.monotonic() > copy.taken_at + SNAPSHOT_AGE_MAX {
            // An old snapshot keeps what is overwritten on disk; opening anew takes a new one.
            return Err(ReplicationError::Refused("taking a new snapshot for the copy".to_owned()));
        }
        Ok(())
    }

    fn send_offer(
        &mut self,
        partition: PartitionId,
        key: &Bytes,
        offer_rows: u64,
    ) -> Result<Option<Body>, ReplicationError> {
        let copy = self.copy.as_mut().and_then(|copy| Some((copy.view.take()?, copy)));
        let Some((view, copy)) = copy else {
            return Err(ReplicationError::Refused("the digest of the copy is gone".to_owned()));
        };
        copy.offers += 1;
        let number = copy.offers;
        let offered = differential::offer(&view, (partition.0, number), key, offer_rows);
        copy.view = Some(view);
        copy.offered_rows.insert(number, offered.rows);
        self.link.step(Event::Offered { number, next_key: offered.end });
        Ok(Some(Body::CopyOffer(offered.offer)))
    }

    /// Sends what the replica wants of a range, as much as fits a chunk.
    fn send_wanted(
        &mut self,
        partition: PartitionId,
        offer: u64,
        start: &Bytes,
        end: Option<&Bytes>,
    ) -> Result<Option<Body>, ReplicationError> {
        let gone_error = || ReplicationError::Refused("the digest of the copy is gone".to_owned());
        let copy = self.copy.as_mut().ok_or_else(gone_error)?;
        let range_rows = copy.offered_rows.get(&offer).copied().unwrap_or_default();
        if copy.picked.is_none() {
            let view = copy.view.as_ref().ok_or_else(gone_error)?;
            let want = copy.wants.remove(&offer).ok_or_else(gone_error)?;
            let picked = differential::pick(view, &want, range_rows)?;
            if let Picked::Rows { rows, .. } = &picked {
                self.alike_rows += range_rows.saturating_sub(rows.len() as u64);
            }
            copy.picked = Some(picked);
        }
        let Some(Picked::Rows { rows, gone }) = &mut copy.picked else {
            return self.send_chunk(partition, start, end, offer);
        };
        let mut sent = CopiedRows { rows: Vec::new(), gone: std::mem::take(gone).into() };
        let mut bytes = sent.gone.len();
        let mut next_key = end.cloned();
        while let Some((key, kept)) = rows.pop_front() {
            if bytes >= CHUNK_BYTES_MAX {
                next_key = Some(key.clone());
                rows.push_front((key, kept));
                break;
            }
            let key = EncodedKey(key);
            let row = match kept {
                Some(row) => row,
                None => copy.snapshot.get_packed(&key)?.unwrap_or_default(),
            };
            bytes += key.0.len() + row.len();
            sent.rows.push(CopiedRow { key: key.0, row });
        }
        copy.chunks += 1;
        let (number, count) = (copy.chunks, sent.rows.len() as u64);
        let chunk = CopyChunk {
            partition: partition.0,
            number,
            start: start.clone(),
            end: next_key.clone().unwrap_or_default(),
            body: Some(pack(sent.encode_to_vec())),
            rows: count,
            offer,
            scattered: true,
        };
        self.chunk_sent(number, bytes, next_key, count, end);
        Ok(Some(Body::CopyChunk(chunk)))
    }

    /// Takes note of a chunk of a range that ends at `end`.
    fn chunk_sent(
        &mut self,
        number: u64,
        bytes: usize,
        next_key: Option<Bytes>,
        rows: u64,
        end: Option<&Bytes>,
    ) {
        if let Some(copy) = self.copy.as_mut().filter(|_| next_key.as_ref() == end) {
            copy.picked = None;
        }
        if next_key.is_none() {
            self.copy = None;
        }
        self.link.step(Event::ChunkSent { number, bytes, next_key, rows });
    }

    fn send_chunk(
        &mut self,
        partition: PartitionId,
        key: &Bytes,
        end: Option<&Bytes>,
        offer: u64,
    ) -> Result<Option<Body>, ReplicationError> {
        let Some(copy) = &mut self.copy else {
            return Err(ReplicationError::Refused("the snapshot of the copy is gone".to_owned()));
        };
        let start = EncodedKey(key.clone());
        let (rows, bytes, next_key) = read_chunk(&copy.snapshot, &start, end)?;
        let next_key = next_key.or_else(|| end.cloned());
        copy.chunks += 1;
        let number = copy.chunks;
        let count = rows.rows.len() as u64;
        let chunk = CopyChunk {
            partition: partition.0,
            number,
            start: key.clone(),
            end: next_key.clone().unwrap_or_default(),
            body: Some(pack(rows.encode_to_vec())),
            rows: count,
            offer,
            scattered: false,
        };
        self.chunk_sent(number, bytes, next_key, count, end);
        Ok(Some(Body::CopyChunk(chunk)))
    }

    fn send_log(
        &mut self,
        partition: PartitionId,
        after: Lsn,
        shared: &Shared,
    ) -> Result<Option<Body>, ReplicationError> {
        let log = match shared.packed.get(partition, after) {
            Some(log) => log,
            None => match self.pack_log(partition, after, shared) {
                Ok(Some(log)) => log,
                Ok(None) => return Ok(None),
                Err(ReplicationError::Store(StoreError::LogTrimmed { .. })) => {
                    self.link.step(Event::Trimmed);
                    return Ok(None);
                }
                Err(error) => return Err(error),
            },
        };
        self.link.step(Event::Sent { to: log.to, bytes: log.bytes });
        Ok(Some(Body::Parcel(Parcel {
            partition: partition.0,
            epoch: self.link.epoch.0,
            from: after.0,
            to: log.to.0,
            body: Some(log.packed),
        })))
    }

    fn pack_log(
        &self,
        partition: PartitionId,
        after: Lsn,
        shared: &Shared,
    ) -> Result<Option<PackedLog>, ReplicationError> {
        let slice = self.table.read_log(after, shared.parcel_bytes_max)?;
        if slice.to <= after {
            return Ok(None);
        }
        let records = if self.table.spec().writers.are_many() {
            vec![own_entries(partition, &slice, after, shared.origin())?]
        } else {
            // Every record is this region's own and goes as it is.
            slice.records
        };
        let is_compressed = mostly_compressed(&records);
        let bytes = Records { records }.encode_to_vec();
        let log = PackedLog {
            to: slice.to,
            bytes: bytes.len(),
            packed: if is_compressed { pack_as_is(bytes) } else { pack(bytes) },
        };
        shared.packed.put(partition, after, log.clone());
        Ok(Some(log))
    }

    fn report(&self, partition: PartitionId) -> LinkReport {
        let appended = self.table.durable_lsn();
        let acked = self.link.acked();
        let behind = acked.is_some_and(|acked| acked < appended);
        let oldest = || {
            let slice = self.table.read_log(acked?, 1).ok()?;
            let (_, entries) = decode_record(slice.records.first()?).ok()?;
            let waits = entries.iter().find(|entry| Some(entry.lsn) > acked)?;
            Some(waits.stamp.hlc.millis())
        };
        LinkReport {
            partition,
            state: self.link.state(),
            reason: self.link.reason().to_owned(),
            since_millis: self.since_millis,
            appended,
            shipped: self.link.shipped(),
            acked,
            oldest_millis: if behind { oldest() } else { None },
            copied_rows: self.link.copied_rows(),
            alike_rows: self.alike_rows,
            waiting_bytes: match acked {
                Some(acked) => self.table.log_size_after(acked).bytes,
                None => self.table.log_size().bytes,
            },
            unassigned: self.unassigned,
        }
    }
}

fn watermarks(snapshot: &TableSnapshot) -> Vec<Watermark> {
    let vector = snapshot.vector().into_iter();
    vector
        .map(|mark| Watermark {
            origin: u32::from(mark.origin.0),
            lsn: mark.lsn.0,
            hlc: mark.hlc.0,
        })
        .collect()
}

pub(crate) fn expired_before(trim: &Trim) -> ExpiredBefore {
    ExpiredBefore {
        below: trim.below.0,
        hlc: trim.stamp.hlc.0,
        origin: u32::from(trim.stamp.origin.0),
    }
}

/// One record with what this region itself has accepted.
fn own_entries(
    partition: PartitionId,
    slice: &LogSlice,
    after: Lsn,
    origin: Origin,
) -> Result<Bytes, ReplicationError> {
    let mut own = RecordBuilder::new(after.next());
    for record in &slice.records {
        let (_, entries) = decode_record(record).map_err(damaged_log)?;
        entries
            .iter()
            .filter(|entry| entry.stamp.origin == origin && entry.lsn > after)
            .for_each(|entry| own.push(entry));
    }
    own.cover(slice.to);
    Ok(own.finish(partition, true).bytes)
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

/// Rows from `start`, their size, and the first key after them before `end`, if there is one.
fn read_chunk(
    snapshot: &TableSnapshot,
    start: &EncodedKey,
    end: Option<&Bytes>,
) -> Result<(CopiedRows, usize, Option<Bytes>), ReplicationError> {
    let mut rows = CopiedRows::default();
    let mut bytes = 0;
    let end = end.map(|end| EncodedKey(end.clone()));
    for row in snapshot.scan_packed(start, end.as_ref(), Direction::Forward) {
        let (key, row) = row?;
        if bytes >= CHUNK_BYTES_MAX {
            return Ok((rows, bytes, Some(key.0)));
        }
        bytes += key.0.len() + row.len();
        rows.rows.push(CopiedRow { key: key.0, row });
    }
    Ok((rows, bytes, None))
}
