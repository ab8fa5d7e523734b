//! The replica's end of all links from one peer.
//!
//! Frames come in as fast as the window allows; each is checked, handed to the one door for
//! writes, and acknowledged when it is durable, in order. What a peer sends is never trusted: it
//! is checked for who sends it, for which partition, for epoch, range and checksum.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use isthmus_model::entry::Entry;
use isthmus_model::error::Kind;
use isthmus_model::expiry::Expiry;
use isthmus_model::hlc::{Hlc, Stamp};
use isthmus_model::ids::{Epoch, Lsn, Origin, PartitionId};
use isthmus_model::key::EncodedKey;
use isthmus_store::codec::row::decode_row;
use isthmus_store::digest::{DigestState, Rules};
use isthmus_store::keys::log::decode_record;
use isthmus_store::{Beside, CopyDone, Pending, StoreError, Table, TableSpec, Watermark, keys};
use prost::Message;

use crate::dictionary::ToldDictionaries;
use crate::differential::{self, Remembered};
use crate::error::{ReplicationError, chain};
use crate::frame::{
    self, Ack, Body, CopiedRows, CopyAck, CopyBegin, CopyChunk, CopyOffer, CopyProgress, Counts,
    ExpiredBefore, FORMAT_OF_WANTED, Fault, FaultKind, Follow, Frame, Hello, Open, Opened, Parcel,
    Promise, Records, Safe, Standing,
};
use crate::limits::{
    OFFERS_MAX, PROMISE_EVERY, RECEIVE_BYTES_MAX, RECEIVE_FRAMES_MAX, SAFE_REPORTS_MAX,
    WANT_BYTES_MAX,
};
use crate::pack::{CODEC_ZSTD_DICTIONARY, CODEC_ZSTD_PATCH, unpack};
use crate::patch::unpack_patch;
use crate::relay;
use crate::ship::Shared;
use crate::streams::{Claims, Newest, hold};
use crate::terms::Direction;
use crate::trace::{Context as Followed, MARKS_MAX, TraceMark};

/// What this region is to others: decided elsewhere, asked here.
pub trait Assignments: Send + Sync {
    /// Checks that the peer is who it says: its number, name and instance are those of a member.
    fn accepts(&self, hello: &Hello) -> Result<Origin, String>;

    /// The table of a partition that this origin, which obeys that epoch, may feed, or why it may
    /// not. Where one region writes, whoever obeys a newer epoch than is known here may.
    fn fed_by(
        &self,
        origin: Origin,
        epoch: Epoch,
        partition: PartitionId,
    ) -> Result<Arc<Table>, Unfed>;

    /// Whether the replica waits for this origin, the base, to give it all that it has.
    fn is_incomplete(&self, origin: Origin, partition: PartitionId) -> bool;

    /// A copy from this origin is about to take the place of rows here. A replica of one writer
    /// is a mixture from here on until it follows again, and must not be read. An error refuses
    /// the copy for the moment.
    fn copies(&self, origin: Origin, partition: PartitionId) -> Result<(), StoreError>;

    /// The replica has all that was there when it was made, and follows from now on.
    fn follows(&self, origin: Origin, partition: PartitionId);

    /// The other regions that write the partition.
    fn other_writers(&self, partition: PartitionId) -> Vec<Origin>;

    /// Whether an edge joins this region and another one, so that they tell each other how
    /// replicas stand.
    fn is_neighbour(&self, region: Origin, partition: PartitionId) -> bool;

    /// Counts how often what is assigned has changed, so that links of feeders that are none any
    /// more are ended.
    fn changes(&self) -> u64;
}

/// Why an origin may not feed a partition here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfed {
    /// Nothing is known of the table here.
    Unassigned,
    /// Another region does that.
    NotTheFeeder,
}

const NEEDS_A_PERSON: &str = "an old disk was put back there, and a person must decide";
const OLD_DISK: &str = "an old disk was put back there; opening anew to copy";
const OLD_EPOCH: &str = "another region writes the table in a newer epoch";

struct Receiving {
    /// Tells the times apart that the link was opened on this stream.
    opening: u64,
    /// The epoch that the origin obeyed then.
    epoch: Epoch,
    table: Arc<Table>,
    copy: Option<Copying>,
    safe_reported: Hlc,
    /// Of which life of the log is what comes.
    life: Stamp,
    /// The replica was said to lack what only a copy brings.
    incomplete: bool,
}

struct Copying {
    first: CopyProgress,
    /// Where the next chunk must begin.
    next_key: Bytes,
    epoch: Epoch,
    vector: Vec<(Origin, Hlc)>,
    expiry: Vec<Expiry>,
    table: TableSpec,
    /// What the origin's digest counts; `None`: an older origin, which offers nothing.
    counts: Option<Counts>,
    /// Where the next offer must begin; `None`: all was offered.
    next_offer: Option<Bytes>,
    /// What was accepted before the copy is durable.
    is_settled: bool,
    /// Offers that wait for their answers.
    unanswered: usize,
    /// What was answered and not yet copied, in order.
    answered: VecDeque<Remembered>,
    /// Bytes of keys in it.
    answered_bytes: usize,
    /// Keys to be removed in what is left of the range that is being copied.
    gone: Vec<EncodedKey>,
}

enum Waiting {
    Applied {
        opening: u64,
        partition: PartitionId,
        to: Lsn,
        bytes: usize,
        pending: Option<Pending<()>>,
        /// The shipping of what is followed, and when it was handed over.
        traced: Vec<(Followed, u64)>,
    },
    Copied {
        opening: u64,
        partition: PartitionId,
        number: u64,
        bytes: usize,
        pending: Option<Pending<()>>,
    },
    Offered {
        opening: u64,
        offer: Box<CopyOffer>,
        bytes: usize,
        pending: Option<Pending<()>>,
    },
    Promised {
        hlc: Hlc,
        partitions: Vec<PartitionId>,
    },
}

/// The replica's end of the links from one peer that run on one stream; a new stream starts
/// afresh and ends what came before it.
pub struct Inbound {
    shared: Shared,
    direction: Direction,
    assignments: Arc<dyn Assignments>,
    number: u64,
    openings: u64,
    origin: Option<(Origin, Newest)>,
    /// What the two have settled on; 0: nothing yet.
    format: u32,
    links: BTreeMap<PartitionId, Receiving>,
    /// What the origin packs parcels against.
    dictionaries: ToldDictionaries,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    outgoing: VecDeque<Frame>,
    reported_at: Duration,
    /// Partitions whose safe times the origin wants to be told.
    wanted: BTreeSet<PartitionId>,
    /// Assignments were looked at when they had changed so often.
    changes_seen: u64,
}

impl Inbound {
    /// A stream on which nothing was said yet.
    pub fn new(shared: Shared, assignments: Arc<dyn Assignments>, direction: Direction) -> Inbound {
        Inbound {
            direction,
            number: shared.streams.accept(),
            shared,
            changes_seen: assignments.changes(),
            assignments,
            openings: 0,
            origin: None,
            format: 0,
            links: BTreeMap::new(),
            dictionaries: ToldDictionaries::default(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            outgoing: VecDeque::new(),
            reported_at: Duration::ZERO,
            wanted: BTreeSet::new(),
        }
    }

    /// The peer, once it has named itself.
    pub fn origin(&self) -> Option<Origin> {
        self.origin.as_ref().map(|(origin, _)| *origin)
    }

    /// The format that was settled with the peer; 0: none, it has not named itself.
    pub fn format(&self) -> u32 {
        self.format
    }

    /// Whether as much waits for its sync as may.
    pub fn is_full(&self) -> bool {
        self.waiting_bytes >= RECEIVE_BYTES_MAX
            || self.waiting.len() + self.outgoing.len() >= RECEIVE_FRAMES_MAX
    }

    /// Takes in a frame. An error ends the stream.
    pub fn receive(&mut self, frame: Frame) -> Result<(), ReplicationError> {
        let Some(body) = frame.body else { return Ok(()) };
        body.check_bounds()?;
        if let Body::Hello(hello) = body {
            return self.on_hello(&hello);
        }
        let (origin, newest) = self
            .origin
            .clone()
            .ok_or(ReplicationError::Protocol("a frame came before the greeting"))?;
        let mut claims = hold(&newest, self.direction, self.number)
            .ok_or(ReplicationError::Protocol("a newer stream has taken its place"))?;
        // What was opened on the other stream since has ended here. The origin is told, because
        // that opening may have been the older one and late.
        if let Some(partition) = partition_of(&body)
            && !claims.has(partition, self.number)
            && self.links.remove(&partition).is_some()
        {
            let reason = "the link was opened on another stream".to_owned();
            self.fault(partition, FaultKind::Retry, reason);
        }
        self.end_stale_links(origin);
        match body {
            Body::Open(open) => {
                claims.open(PartitionId(open.partition), self.number);
                self.on_open(origin, &open);
            }
            Body::Follow(follow) => self.on_follow(origin, &follow),
            Body::Parcel(parcel) => {
                let partition = PartitionId(parcel.partition);
                self.on_link(partition, |inbound| inbound.on_parcel(origin, parcel));
            }
            Body::Dictionary(told) => {
                let partition = PartitionId(told.partition);
                self.on_link(partition, |inbound| inbound.dictionaries.take(&told));
            }
            Body::CopyBegin(begin) => {
                let partition = PartitionId(begin.partition);
                self.on_link(partition, |inbound| inbound.on_copy_begin(origin, begin));
            }
            Body::CopyOffer(offer) => {
                let partition = PartitionId(offer.partition);
                self.on_link(partition, |inbound| inbound.on_copy_offer(offer));
            }
            Body::CopyChunk(chunk) => {
                let partition = PartitionId(chunk.partition);
                self.on_link(partition, |inbound| inbound.on_copy_chunk(origin, chunk));
            }
            Body::Promise(promise) => self.on_promise(&promise, &claims),
            Body::Standing(standing) => self.on_standing(origin, standing),
            Body::Close(close) => {
                self.links.remove(&PartitionId(close.partition));
            }
            Body::Hello(_)
            | Body::Welcome(_)
            | Body::Opened(_)
            | Body::Ack(_)
            | Body::Fault(_)
            | Body::CopyAck(_)
            | Body::CopyWant(_)
            | Body::Safe(_) => {
                return Err(ReplicationError::Protocol("an origin sent a replica's frame"));
            }
        }
        Ok(())
    }

    /// The next frame to send: pending until there is one.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Frame> {
        loop {
            if let Some(frame) = self.outgoing.pop_front() {
                return Poll::Ready(frame);
            }
            let result = match self.waiting.front_mut() {
                None => return Poll::Pending,
                Some(Waiting::Promised { .. }) => Ok(()),
                Some(
                    Waiting::Applied { pending, .. }
                    | Waiting::Copied { pending, .. }
                    | Waiting::Offered { pending, .. },
                ) => match pending.as_mut().map(|pending| Pin::new(pending).poll(context)) {
                    None => Ok(()),
                    Some(Poll::Ready(result)) => result,
                    Some(Poll::Pending) => return Poll::Pending,
                },
            };
            if let Some(settled) = self.waiting.pop_front() {
                self.on_settled(settled, result);
            }
        }
    }

    /// What time alone brings: safe times to report.
    pub fn tick(&mut self) {
        let now = self.shared.clock.monotonic();
        if now < self.reported_at + PROMISE_EVERY {
            return;
        }
        self.reported_at = now;
        let own = self.shared.store.promise();
        let mut reports = 0;
        if self.format < FORMAT_OF_WANTED {
            self.wanted = self.links.keys().copied().collect();
        }
        // Asked for again, if more is wanted.
        for partition in std::mem::take(&mut self.wanted) {
            let Some(receiving) = self.links.get_mut(&partition) else { continue };
            if !receiving.table.spec().writers.are_many()
                || receiving.copy.is_some()
                || reports >= SAFE_REPORTS_MAX
            {
                continue;
            }
            let others = self.assignments.other_writers(partition);
            let safe = self.shared.safe_times.safe(partition, &others, own);
            if safe > receiving.safe_reported {
                receiving.safe_reported = safe;
                reports += 1;
                let report = Safe { partition: partition.0, hlc: safe.0 };
                self.outgoing.push_back(Body::Safe(report).into());
            }
        }
    }

    fn on_hello(&mut self, hello: &Hello) -> Result<(), ReplicationError> {
        if self.origin.is_some() {
            return Err(ReplicationError::Protocol("the greeting came twice"));
        }
        if hello.format == 0 {
            return Err(ReplicationError::Protocol("the peer speaks no format"));
        }
        let origin = self.assignments.accepts(hello).map_err(ReplicationError::Refused)?;
        let newest = self
            .shared
            .streams
            .claim(origin, self.direction, self.number)
            .ok_or(ReplicationError::Protocol("a newer stream has taken its place"))?;
        self.origin = Some((origin, newest));
        self.format = hello.format.min(self.shared.hello.format);
        let welcome = Hello { format: self.format, ..self.shared.hello.clone() };
        self.outgoing.push_back(Body::Welcome(welcome).into());
        Ok(())
    }

    /// Two feeders of one table must not copy to it at the same time.
    fn end_stale_links(&mut self, origin: Origin) {
        let changes = self.assignments.changes() + self.shared.put_backs.changes();
        if self.changes_seen == changes {
            return;
        }
        self.changes_seen = changes;
        let is_stale = |partition: &PartitionId, receiving: &Receiving| {
            let lacks = !receiving.incomplete && self.takes_back(origin, *partition);
            lacks.then_some("an old disk was put back there").or_else(|| {
                let is_fed = self.fed_by(origin, receiving.epoch, *partition).is_ok();
                (!is_fed).then_some("another region feeds the table there")
            })
        };
        let stale: Vec<(PartitionId, &str)> = self
            .links
            .iter()
            .filter_map(|(id, receiving)| Some((*id, is_stale(id, receiving)?)))
            .collect();
        for (partition, reason) in stale {
            self.links.remove(&partition);
            self.fault(partition, FaultKind::Retry, reason.to_owned());
        }
    }

    /// Whether this origin gives back what an old disk here lacks.
    fn takes_back(&self, origin: Origin, partition: PartitionId) -> bool {
        self.shared.put_backs.takes_from(partition, origin)
    }

    /// The table that this origin may feed: also one that is written here, where it gives back
    /// what was lost.
    fn fed_by(
        &self,
        origin: Origin,
        epoch: Epoch,
        partition: PartitionId,
    ) -> Result<Arc<Table>, Unfed> {
        match self.takes_back(origin, partition) {
            true => self.shared.store.table_of_partition(partition).ok_or(Unfed::Unassigned),
            false => self.assignments.fed_by(origin, epoch, partition),
        }
    }

    fn on_standing(&mut self, origin: Origin, standing: Standing) {
        let partition = PartitionId(standing.partition);
        let Ok(region) = u8::try_from(standing.region).map(Origin) else { return };
        let may_tell = self.assignments.is_neighbour(origin, partition);
        // Of a neighbour only its own word counts.
        let is_its_own = region == origin;
        let is_far =
            region != self.shared.origin() && !self.assignments.is_neighbour(region, partition);
        if may_tell && (is_its_own || is_far) {
            self.shared.standings.hear(standing, &self.shared.safe_times);
        }
    }

    fn on_open(&mut self, origin: Origin, open: &Open) {
        let partition = PartitionId(open.partition);
        self.links.remove(&partition);
        let put_backs = self.shared.put_backs.clone();
        put_backs.asked_back(partition, origin, open.asks_back);
        let epoch = Epoch(open.epoch);
        let table = match self.fed_by(origin, epoch, partition) {
            Ok(table) => table,
            Err(Unfed::NotTheFeeder) if self.is_overtaken(epoch, partition) => {
                return self.fault(partition, FaultKind::Fenced, OLD_EPOCH.to_owned());
            }
            Err(Unfed::Unassigned) => {
                let reason = "the table does not exist there yet".to_owned();
                return self.fault(partition, FaultKind::Unassigned, reason);
            }
            Err(Unfed::NotTheFeeder) => {
                let reason = "another region feeds the table there".to_owned();
                return self.fault(partition, FaultKind::Retry, reason);
            }
        };
        let known = table.epoch();
        if epoch < known {
            let reason = format!("epoch {} is offered, epoch {known} is known", open.epoch);
            return self.fault(partition, FaultKind::Fenced, reason);
        }
        let writes_by_its_disk = !table.spec().writers.are_many()
            && table.writer_word().is_unended_epoch_of(self.shared.origin());
        if epoch > known && writes_by_its_disk {
            // What was made here since the disk was copied, in this life or an earlier one, stands
            // in the place of what others made: the rows are copied, whatever the addresses say.
            if let Err(error) = self.assignments.copies(origin, partition) {
                return self.fault(partition, FaultKind::Retry, chain(&error));
            }
            put_backs.overtaken(&table, origin);
            drop(table.fence(epoch));
            return self.fault(partition, FaultKind::Retry, OLD_DISK.to_owned());
        }
        if put_backs.needs_a_person(partition) {
            return self.fault(partition, FaultKind::Retry, NEEDS_A_PERSON.to_owned());
        }
        if let Some(holds) = &open.holds
            && table.spec().writers.are_many()
        {
            // The link the other way, by which it would be heard, may be stopped.
            put_backs.heard(&table, origin, Hlc(holds.life), Lsn(holds.lsn));
        }
        match saved_progress(&self.shared, &table, origin) {
            Ok(copy) => {
                let watermark = table.watermark(origin).0.0;
                // An older region tells nothing.
                let log_of = if open.log_of == 0 { origin } else { Origin(open.log_of as u8) };
                let takes_back = put_backs.takes_from(partition, origin);
                let incomplete = takes_back || self.assignments.is_incomplete(origin, partition);
                let opened = Opened {
                    partition: partition.0,
                    watermark,
                    copy,
                    incomplete,
                    has_past: table.durable_lsn() > Lsn(0),
                    has_digest: table.digest_state() == DigestState::Ready,
                    vector: table.vector().iter().map(frame::Watermark::from).collect(),
                    life: table.life_met(log_of).0,
                    moment: self.moment_had(&table, origin).0,
                };
                self.outgoing.push_back(Body::Opened(opened).into());
                self.openings += 1;
                let opening = self.openings;
                let receiving = Receiving {
                    opening,
                    epoch,
                    table,
                    copy: None,
                    safe_reported: Hlc::MIN,
                    life: Stamp { hlc: Hlc(open.life), origin: log_of },
                    incomplete: takes_back,
                };
                self.links.insert(partition, receiving);
            }
            Err(error) => self.fault(partition, FaultKind::Retry, chain(&error)),
        }
    }

    /// Whether a table with one writer has come to a newer epoch, so that whoever offers this one,
    /// and does not feed the table here, may be a writer that does not know it.
    fn is_overtaken(&self, epoch: Epoch, partition: PartitionId) -> bool {
        let table = self.shared.store.table_of_partition(partition);
        table.is_some_and(|table| !table.spec().writers.are_many() && epoch < table.epoch())
    }

    /// The greatest moment that was had here of an origin.
    fn moment_had(&self, table: &Table, origin: Origin) -> Hlc {
        let marks = table.vector().into_iter().filter(|mark| mark.origin == origin);
        let applied = marks.map(|mark| mark.hlc).max().unwrap_or(Hlc::MIN);
        applied.max(self.shared.safe_times.promised_by(table.partition(), origin))
    }

    fn on_follow(&mut self, origin: Origin, follow: &Follow) {
        let partition = PartitionId(follow.partition);
        if let Some(receiving) = self.links.get_mut(&partition) {
            receiving.copy = None;
            self.shared.put_backs.follows(&receiving.table, origin);
            self.assignments.follows(origin, partition);
        }
    }

    /// Runs what a frame asks of an open link; a failure closes the link and tells the origin.
    fn on_link(
        &mut self,
        partition: PartitionId,
        act: impl FnOnce(&mut Inbound) -> Result<(), ReplicationError>,
    ) {
        // Frames on their way when a link was refused or closed belong to nobody.
        if !self.links.contains_key(&partition) {
            return;
        }
        if let Err(error) = act(self) {
            self.on_failure(partition, &error);
        }
    }

    fn on_parcel(&mut self, origin: Origin, parcel: Parcel) -> Result<(), ReplicationError> {
        let partition = PartitionId(parcel.partition);
        let Some(receiving) = self.links.get(&partition) else { return Ok(()) };
        receiving.table.meet(receiving.life);
        if !parcel.ranges.is_empty() {
            return self.on_passed(origin, parcel);
        }
        let packed = parcel.body.ok_or(ReplicationError::Damaged("a parcel is empty"))?;
        let received = self.shared.traces.now_nanos();
        let (from, to) = (Lsn(parcel.from), Lsn(parcel.to));
        if to <= from {
            return Err(ReplicationError::Damaged("a parcel's range is empty"));
        }
        let many = receiving.table.spec().writers.are_many();
        let bytes = match packed.codec {
            CODEC_ZSTD_DICTIONARY => self.dictionaries.unpack(parcel.partition, &packed)?,
            CODEC_ZSTD_PATCH => unpack_patch(&packed, |key| receiving.table.accepted(key))?,
            _ => unpack(&packed)?,
        };
        let mut entries = decode_entries(bytes.clone(), partition)?;
        entries.retain(|entry| entry.origin_lsn > from);
        // With one writer all logs are the same, whoever passes its log on.
        let is_named = |entry: &Entry| !many || entry.stamp.origin == origin;
        if entries.iter().any(|entry| !is_named(entry) || entry.origin_lsn > to) {
            return Err(ReplicationError::Damaged("a parcel holds entries that it does not name"));
        }
        let pending = receiving.table.apply(origin, Epoch(parcel.epoch), from, to, entries);
        let pending = unless_refused(pending)?;
        let traced = self.received(&parcel.traces, received);
        let (opening, bytes) = (receiving.opening, bytes.len());
        self.waiting_bytes += bytes;
        let waiting = Waiting::Applied { opening, partition, to, bytes, pending, traced };
        self.waiting.push_back(waiting);
        Ok(())
    }

    /// Notes of what is followed that it was received; gives what is to be noted when it is
    /// durable.
    fn received(&self, marks: &[TraceMark], began: u64) -> Vec<(Followed, u64)> {
        let traces = &self.shared.traces;
        if marks.is_empty() || !traces.is_on() {
            return Vec::new();
        }
        let shippings = marks.iter().take(MARKS_MAX).filter_map(TraceMark::context);
        let receive = |shipping: Followed| {
            traces.ended(traces.below(shipping), shipping.span, "receive", began, Vec::new());
            (shipping, traces.now_nanos())
        };
        shippings.map(receive).collect()
    }

    /// A parcel with entries of others, or ranges of theirs.
    fn on_passed(&mut self, origin: Origin, parcel: Parcel) -> Result<(), ReplicationError> {
        let partition = PartitionId(parcel.partition);
        let Some(receiving) = self.links.get(&partition) else { return Ok(()) };
        if !receiving.table.spec().writers.are_many() {
            let reason = "the table has one writer here and several there";
            return Err(ReplicationError::Refused(reason.to_owned()));
        }
        let bytes = match &parcel.body {
            Some(packed) => unpack(packed)?,
            None => Bytes::new(),
        };
        let entries = decode_entries(bytes.clone(), partition)?;
        let (table, epoch) = (receiving.table.clone(), Epoch(parcel.epoch));
        let mut pending = None;
        for part in relay::part(&parcel.ranges, entries)? {
            if part.origin != origin {
                // Who passes it on knows not of which life it is.
                table.meet(Stamp { hlc: Hlc::MIN, origin: part.origin });
            }
            let taken = table.apply(part.origin, epoch, part.from, part.to, part.entries);
            // All are durable when the last one is.
            pending = unless_refused(taken)?.or(pending);
        }
        let (to, opening, bytes) = (Lsn(parcel.to), receiving.opening, bytes.len());
        self.waiting_bytes += bytes;
        let traced = Vec::new();
        let waiting = Waiting::Applied { opening, partition, to, bytes, pending, traced };
        self.waiting.push_back(waiting);
        Ok(())
    }

    fn on_copy_begin(&mut self, origin: Origin, begin: CopyBegin) -> Result<(), ReplicationError> {
        let first =
            begin.progress.ok_or(ReplicationError::Damaged("a copy says not from where"))?;
        let partition = PartitionId(begin.partition);
        let table = keys::table::decode_value(&begin.table)
            .map_err(|_| ReplicationError::Damaged("the table of a copy is damaged"))?;
        let vector = begin.vector.iter();
        let vector = vector.map(|mark| (Origin(mark.origin as u8), Hlc(mark.hlc))).collect();
        let expiry: Vec<Expiry> = begin.expiry.iter().filter_map(ExpiredBefore::expiry).collect();
        if !self.takes_back(origin, partition) {
            self.assignments.copies(origin, partition)?;
        }
        if let Some(receiving) = self.links.get_mut(&partition) {
            receiving.table.meet(receiving.life);
            // Rows become durable with it or after it, so nobody waits for its answer.
            let begun = receiving.table.begin_copy(&table.schema, &expiry);
            drop(unless_refused(begun)?);
            receiving.copy = Some(Copying {
                next_key: first.next_key.clone(),
                next_offer: Some(first.next_key.clone()),
                first,
                epoch: Epoch(begin.epoch),
                vector,
                expiry,
                table,
                counts: begin.counts,
                is_settled: false,
                unanswered: 0,
                answered: VecDeque::new(),
                answered_bytes: 0,
                gone: Vec::new(),
            });
        }
        Ok(())
    }

    /// What is compared is what is durable. So offers wait until all that was accepted before the
    /// copy is; chunks of the copy itself lie before what is offered now, and are not waited for.
    fn on_copy_offer(&mut self, offer: CopyOffer) -> Result<(), ReplicationError> {
        let partition = PartitionId(offer.partition);
        let Some(receiving) = self.links.get_mut(&partition) else { return Ok(()) };
        let copy = receiving.copy.as_mut().filter(|copy| copy.counts.is_some());
        let copy = copy.ok_or(ReplicationError::Protocol("an offer without a copy"))?;
        if Some(&offer.start) != copy.next_offer.as_ref() {
            return Err(ReplicationError::Protocol("an offer does not begin where the last ended"));
        }
        copy.next_offer = (!offer.end.is_empty()).then(|| offer.end.clone());
        copy.unanswered += 1;
        if copy.unanswered + copy.answered.len() > OFFERS_MAX {
            return Err(ReplicationError::Protocol("too much is offered at once"));
        }
        let opening = receiving.opening;
        if copy.is_settled && copy.unanswered == 1 {
            return self.answer_offer(opening, &offer);
        }
        let pending = unless_refused(receiving.table.settled())?;
        let bytes = offer.body.as_ref().map_or(0, |body| body.data.len());
        self.waiting_bytes += bytes;
        let offer = Box::new(offer);
        self.waiting.push_back(Waiting::Offered { opening, offer, bytes, pending });
        Ok(())
    }

    fn answer_offer(&mut self, opening: u64, offer: &CopyOffer) -> Result<(), ReplicationError> {
        let receiving = self.links.get_mut(&PartitionId(offer.partition));
        let Some(receiving) = receiving.filter(|link| link.opening == opening) else {
            return Ok(());
        };
        let Some(copy) = &mut receiving.copy else { return Ok(()) };
        let room = WANT_BYTES_MAX.saturating_sub(copy.answered_bytes);
        let counts = copy.counts.clone().unwrap_or_default();
        let (want, remembered) = match receiving.table.digest_view() {
            Ok(view) => differential::answer(&view, &counts, offer, room)?,
            Err(StoreError::NoDigest(_) | StoreError::Busy) => differential::want_all(offer),
            Err(error) => return Err(error.into()),
        };
        copy.is_settled = true;
        copy.unanswered -= 1;
        copy.answered_bytes += remembered.bytes;
        copy.answered.push_back(remembered);
        self.outgoing.push_back(Body::CopyWant(want).into());
        Ok(())
    }

    fn on_copy_chunk(&mut self, origin: Origin, chunk: CopyChunk) -> Result<(), ReplicationError> {
        let partition = PartitionId(chunk.partition);
        let Some(receiving) = self.links.get_mut(&partition) else { return Ok(()) };
        let copy =
            receiving.copy.as_mut().ok_or(ReplicationError::Protocol("a chunk without a copy"))?;
        if chunk.start != copy.next_key {
            return Err(ReplicationError::Protocol("a chunk does not begin where the last ended"));
        }
        let packed = chunk.body.ok_or(ReplicationError::Damaged("a chunk is empty"))?;
        let bytes = unpack(&packed)?;
        let (rows, gone) = decode_rows(bytes.clone())?;
        let gone = copy.take_gone(chunk.offer, &chunk.end, &gone)?;
        let end = (!chunk.end.is_empty()).then(|| EncodedKey(chunk.end.clone()));
        copy.next_key = chunk.end.clone();
        let feeder = u32::from(origin.0);
        let progress = CopyProgress { next_key: chunk.end, feeder, ..copy.first.clone() };
        let done = end.is_none().then(|| copy_done(origin, copy));
        // An empty note says that no copy is under way.
        let value = if end.is_some() { progress.encode_to_vec() } else { Vec::new() };
        let note = (copy_note(noted_as(&receiving.table, origin), partition), value);
        let start = EncodedKey(chunk.start);
        let pending = match chunk.scattered {
            true => {
                check_inside(&start, end.as_ref(), &rows)?;
                let beside = Beside { done, note: Some(note) };
                receiving.table.replace_rows(rows, gone, &copy.vector, beside)
            }
            false => {
                let (end, note) = (end.as_ref(), Some(note));
                receiving.table.replace_range(&start, end, rows, &copy.vector, done, note)
            }
        };
        let pending = unless_refused(pending)?;
        self.waiting_bytes += bytes.len();
        self.waiting.push_back(Waiting::Copied {
            opening: receiving.opening,
            partition,
            number: chunk.number,
            bytes: bytes.len(),
            pending,
        });
        Ok(())
    }

    fn on_promise(&mut self, promise: &Promise, claims: &Claims) {
        let wanted = promise.wanted.iter().map(|partition| PartitionId(*partition));
        let has_link = |partition: &PartitionId| self.links.contains_key(partition);
        self.wanted.extend(wanted.filter(has_link).take(SAFE_REPORTS_MAX));
        let origin = self.origin();
        let kept = |(partition, receiving): &(&PartitionId, &Receiving)| {
            let spec = receiving.table.spec();
            // With one writer the promise of whoever else feeds says nothing.
            (spec.writers.are_many() || origin == Some(spec.writer))
                && !promise.behind.contains(&partition.0)
                && claims.has(**partition, self.number)
        };
        let partitions = self.links.iter().filter(kept).map(|(partition, _)| *partition).collect();
        self.waiting.push_back(Waiting::Promised { hlc: Hlc(promise.hlc), partitions });
    }

    fn on_settled(&mut self, settled: Waiting, result: Result<(), StoreError>) {
        match settled {
            Waiting::Applied { opening, partition, to, bytes, traced, .. } => {
                self.waiting_bytes -= bytes;
                let traces = &self.shared.traces;
                for (shipping, began) in traced {
                    let apply = traces.below(shipping);
                    traces.ended(apply, shipping.span, "apply", began, Vec::new());
                }
                let ack = Ack { partition: partition.0, held: to.0, applied: to.0 };
                self.answer((partition, opening), Body::Ack(ack), result);
            }
            Waiting::Copied { opening, partition, number, bytes, .. } => {
                self.waiting_bytes -= bytes;
                let ack = CopyAck { partition: partition.0, number };
                self.answer((partition, opening), Body::CopyAck(ack), result);
            }
            Waiting::Offered { opening, offer, bytes, .. } => {
                self.waiting_bytes -= bytes;
                let result = result.map_err(ReplicationError::Store);
                let partition = PartitionId(offer.partition);
                let is_there =
                    self.links.get(&partition).is_some_and(|link| link.opening == opening);
                let answered = result.and_then(|()| self.answer_offer(opening, &offer));
                if let Err(error) = answered
                    && is_there
                {
                    self.on_failure(partition, &error);
                }
            }
            Waiting::Promised { hlc, partitions } => {
                let Some(origin) = self.origin() else { return };
                // A link that failed meanwhile has not got everything.
                for partition in partitions.iter().filter(|held| self.links.contains_key(held)) {
                    self.shared.safe_times.applied(*partition, origin, hlc);
                }
            }
        }
    }

    fn answer(
        &mut self,
        (partition, opening): (PartitionId, u64),
        ack: Body,
        result: Result<(), StoreError>,
    ) {
        // An answer that belongs to an earlier opening of the link belongs to nobody.
        if self.links.get(&partition).is_none_or(|link| link.opening != opening) {
            return;
        }
        match result {
            Ok(()) => self.outgoing.push_back(ack.into()),
            Err(error) => self.on_failure(partition, &ReplicationError::Store(error)),
        }
    }

    fn on_failure(&mut self, partition: PartitionId, error: &ReplicationError) {
        self.links.remove(&partition);
        let kind = match error.kind() {
            Kind::Fenced => FaultKind::Fenced,
            Kind::Corrupt => FaultKind::Broken,
            Kind::Invalid
            | Kind::NotFound
            | Kind::Exists
            | Kind::ConditionFailed
            | Kind::Conflict
            | Kind::Busy
            | Kind::Unavailable
            | Kind::Internal => FaultKind::Retry,
        };
        let is_prior_missing = matches!(error, ReplicationError::PriorMissing);
        let kind = if is_prior_missing { FaultKind::PriorMissing } else { kind };
        self.fault(partition, kind, chain(error));
    }

    fn fault(&mut self, partition: PartitionId, kind: FaultKind, reason: String) {
        let fault = Fault { partition: partition.0, kind: kind.into(), reason };
        self.outgoing.push_back(Body::Fault(fault).into());
    }
}

impl Copying {
    /// The keys to be removed with a chunk that ends at `end`, of what its offer's answer named.
    fn take_gone(
        &mut self,
        offer: u64,
        end: &Bytes,
        named: &Bytes,
    ) -> Result<Vec<EncodedKey>, ReplicationError> {
        if offer == 0 {
            return Ok(Vec::new());
        }
        let front = self.answered.front().filter(|front| front.number == offer);
        let front =
            front.ok_or(ReplicationError::Protocol("a chunk of an offer that was not answered"))?;
        if !named.is_empty() {
            self.gone = front.keys(named)?;
        }
        let is_last = front.end == *end;
        if is_last {
            self.answered_bytes -= front.bytes;
            self.answered.pop_front();
            return Ok(std::mem::take(&mut self.gone));
        }
        let later = self.gone.partition_point(|key| key.0 < *end);
        let rest = self.gone.split_off(later);
        Ok(std::mem::replace(&mut self.gone, rest))
    }
}

/// The partition that a frame of an open link is about.
fn partition_of(body: &Body) -> Option<PartitionId> {
    let partition = match body {
        Body::Follow(follow) => follow.partition,
        Body::Parcel(parcel) => parcel.partition,
        Body::CopyBegin(begin) => begin.partition,
        Body::CopyOffer(offer) => offer.partition,
        Body::CopyChunk(chunk) => chunk.partition,
        _ => return None,
    };
    Some(PartitionId(partition))
}

fn check_inside(
    start: &EncodedKey,
    end: Option<&EncodedKey>,
    rows: &[(EncodedKey, isthmus_model::row::Row)],
) -> Result<(), ReplicationError> {
    let is_inside = |key: &EncodedKey| key >= start && end.is_none_or(|end| key < end);
    match rows.iter().all(|(key, _)| is_inside(key)) {
        true => Ok(()),
        false => Err(ReplicationError::Damaged("a row lies outside of its chunk")),
    }
}

/// The name of the note that keeps how far a copy has come; empty where none is under way.
pub fn copy_note(origin: Origin, partition: PartitionId) -> Vec<u8> {
    format!("copy/{partition}/{origin}").into_bytes()
}

/// With one writer there is one copy at most, noted as that of the base, so that one from another
/// feeder takes the place of an older one. With several each feeder's goes on by itself.
pub(crate) fn noted_as(table: &Table, feeder: Origin) -> Origin {
    let spec = table.spec();
    if spec.writers.are_many() { feeder } else { spec.base }
}

fn saved_progress(
    shared: &Shared,
    table: &Table,
    feeder: Origin,
) -> Result<Option<CopyProgress>, ReplicationError> {
    let noted_as = noted_as(table, feeder);
    let saved = shared.store.note(&copy_note(noted_as, table.partition()))?;
    let Some(bytes) = saved.filter(|bytes| !bytes.is_empty()) else { return Ok(None) };
    let progress = CopyProgress::decode(bytes)
        .map_err(|_| ReplicationError::Damaged("the saved progress of a copy is damaged"))?;
    let from = if progress.feeder == 0 { noted_as.0.into() } else { progress.feeder };
    Ok((from == u32::from(feeder.0)).then_some(progress))
}

/// Tells at once of what was refused at once: what comes after it must find the link closed.
fn unless_refused(mut pending: Pending<()>) -> Result<Option<Pending<()>>, StoreError> {
    match pending.try_take() {
        None => Ok(Some(pending)),
        Some(Ok(())) => Ok(None),
        Some(Err(error)) => Err(error),
    }
}

fn rules(counts: &Counts) -> Rules {
    Rules {
        time_lanes: counts.time_lanes,
        base: counts.base.iter().filter_map(ExpiredBefore::expiry).collect(),
        time_floor: counts.floors.as_ref().map_or(i64::MIN, |floors| floors.time),
        kills_floor: counts.floors.as_ref().map_or(0, |floors| floors.kills),
        families: counts.families,
    }
}

fn copy_done(origin: Origin, copy: &Copying) -> CopyDone {
    let vector = copy.first.vector.iter();
    let vector = vector
        .map(|mark| Watermark {
            origin: Origin(mark.origin as u8),
            lsn: Lsn(mark.lsn),
            hlc: Hlc(mark.hlc),
        })
        .collect();
    let known = copy.first.vector.iter().filter(|mark| mark.life > 0);
    let life =
        |mark: &frame::Watermark| Stamp { hlc: Hlc(mark.life), origin: Origin(mark.origin as u8) };
    CopyDone {
        origin,
        lives: known.map(life).collect(),
        epoch: copy.epoch,
        lsn: Lsn(copy.first.first_lsn),
        hlc: Hlc(copy.first.first_hlc),
        vector,
        expiry: copy.expiry.clone(),
        table: Some(copy.table.clone()),
        rules: copy.counts.as_ref().map(rules),
    }
}

fn decode_entries(
    bytes: bytes::Bytes,
    partition: PartitionId,
) -> Result<Vec<Entry>, ReplicationError> {
    let parcel = Records::decode(bytes)
        .map_err(|_| ReplicationError::Damaged("a parcel cannot be decoded"))?;
    let mut entries = Vec::new();
    for record in &parcel.records {
        let (head, more) = decode_record(record)
            .map_err(|_| ReplicationError::Damaged("a log record of a parcel is damaged"))?;
        if head.partition != partition {
            return Err(ReplicationError::Damaged("a parcel holds another partition's entries"));
        }
        entries.extend(more);
    }
    Ok(entries)
}

type Rows = Vec<(EncodedKey, isthmus_model::row::Row)>;

/// The rows of a chunk, and the fingerprints of what is to go.
fn decode_rows(bytes: bytes::Bytes) -> Result<(Rows, Bytes), ReplicationError> {
    let copied = CopiedRows::decode(bytes)
        .map_err(|_| ReplicationError::Damaged("a chunk cannot be decoded"))?;
    let mut rows = Vec::with_capacity(copied.rows.len());
    for row in copied.rows {
        let decoded = decode_row(&row.row)
            .map_err(|_| ReplicationError::Damaged("a row of a chunk is damaged"))?;
        rows.push((EncodedKey(row.key), decoded));
    }
    Ok((rows, copied.gone))
}
