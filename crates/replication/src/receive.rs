//! The replica's end of all links from one peer.
//!
//! Frames come in as fast as the window allows; each is checked, handed to the one door for
//! writes, and acknowledged when it is durable, in order. What a peer sends is never trusted: it
//! is checked for who sends it, for which partition, for epoch, range and checksum.

mod copy;
mod held;
mod open;
mod parcel;
mod settle;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use isthmus_model::error::Kind;
use isthmus_model::hlc::{Hlc, Stamp};
use isthmus_model::ids::{Epoch, Origin, PartitionId};
use isthmus_store::{StoreError, Table};

use crate::dictionary::ToldDictionaries;
use crate::error::{ReplicationError, chain};
use crate::frame::{
    Body, FORMAT_OF_WANTED, Fault, FaultKind, Follow, Frame, Hello, Promise, Safe, Standing,
};
use crate::limits::{PROMISE_EVERY, RECEIVE_BYTES_MAX, RECEIVE_FRAMES_MAX, SAFE_REPORTS_MAX};
use crate::ship::Shared;
use crate::streams::{Claims, Newest, hold};
use crate::terms::Direction;

use self::copy::Copying;
use self::held::Held;
use self::settle::Waiting;

pub use self::copy::copy_note;
pub(crate) use self::copy::noted_as;

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
    /// Rows that are here otherwise are put into it first.
    NotYet,
}

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
    /// What came on links on which it is waited for a schema.
    held: BTreeMap<PartitionId, Held>,
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
            held: BTreeMap::new(),
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
        let of_link = partition_of(&body);
        if let Some(partition) = of_link {
            self.end_if_opened_elsewhere(partition, &claims);
        }
        self.end_stale_links(origin);
        if let Some(partition) = of_link {
            self.on_link_frame(origin, partition, body);
            return Ok(());
        }
        match body {
            Body::Open(open) => {
                claims.open(PartitionId(open.partition), self.number);
                self.on_open(origin, &open);
            }
            Body::Promise(promise) => self.on_promise(&promise, &claims),
            Body::Standing(standing) => self.on_standing(origin, standing),
            Body::Close(close) => {
                self.links.remove(&PartitionId(close.partition));
            }
            Body::Follow(_)
            | Body::Parcel(_)
            | Body::Dictionary(_)
            | Body::CopyBegin(_)
            | Body::CopyOffer(_)
            | Body::CopyChunk(_) => {}
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

    /// What time alone brings: schemas that were waited for, safe times to report.
    pub fn tick(&mut self) {
        self.take_held();
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

    fn on_follow(&mut self, origin: Origin, follow: &Follow) {
        let partition = PartitionId(follow.partition);
        if let Some(receiving) = self.links.get_mut(&partition) {
            receiving.copy = None;
            self.shared.put_backs.follows(&receiving.table, origin);
            self.assignments.follows(origin, partition);
        }
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
                && !self.holds(**partition)
                && claims.has(**partition, self.number)
        };
        let partitions = self.links.iter().filter(kept).map(|(partition, _)| *partition).collect();
        self.waiting.push_back(Waiting::Promised { hlc: Hlc(promise.hlc), partitions });
    }

    /// What was opened on the other stream since has ended here. The origin is told, because that
    /// opening may have been the older one and late.
    fn end_if_opened_elsewhere(&mut self, partition: PartitionId, claims: &Claims) {
        if !claims.has(partition, self.number) && self.links.remove(&partition).is_some() {
            let reason = "the link was opened on another stream".to_owned();
            self.fault(partition, FaultKind::Retry, reason);
        }
    }

    fn on_failure(&mut self, partition: PartitionId, error: &ReplicationError) {
        let epoch = self.links.remove(&partition).map(|receiving| receiving.epoch);
        let kind = match error.kind() {
            // It is written here in the very epoch of the sender, who is not behind: the region
            // has it alone and has yet to forget the others.
            Kind::Fenced if error.fenced_at().is_some_and(|at| Some(at) == epoch) => {
                FaultKind::Retry
            }
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

/// The partition that a frame of an open link is about.
fn partition_of(body: &Body) -> Option<PartitionId> {
    let partition = match body {
        Body::Follow(follow) => follow.partition,
        Body::Parcel(parcel) => parcel.partition,
        Body::Dictionary(told) => told.partition,
        Body::CopyBegin(begin) => begin.partition,
        Body::CopyOffer(offer) => offer.partition,
        Body::CopyChunk(chunk) => chunk.partition,
        _ => return None,
    };
    Some(PartitionId(partition))
}
