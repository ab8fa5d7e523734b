//! When a write is answered, where other regions must hold it first.
//!
//! A write waits after its own batch is durable and before it is answered; acknowledgements of
//! replicas release those that wait, as many at once as they cover, so a way of any length bounds
//! no throughput. `watch.rs` says when too few keep up. What was told to hold is never more than
//! what a replica has said that it holds durably, so a write that was answered as held is in so
//! many other regions, whatever happens here.
//!
//! A region that answers without waiting, since it has fallen back, does so only after its node
//! has recorded that (`recorded`).

mod watch;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use isthmus_model::clock::Clock;
use isthmus_model::ids::{Lsn, Origin, PartitionId};
use isthmus_store::counters::Durations;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, oneshot};

use self::watch::Watch;
use crate::limits::{CHANGES_KEPT_MAX, WAITING_WRITES_MAX};

/// What writes of a partition wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SemiSync {
    /// Other regions that must hold a write.
    pub held_by: usize,
    /// Entries that so many others may lack.
    pub bound_entries: u64,
    /// How long they may lack one.
    pub bound: Duration,
    /// How long one write waits.
    pub patience: Duration,
    /// What happens past the bound.
    pub fallback: Fallback,
}

/// What a region does that has fallen back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// It goes on to write and to wait.
    Wait,
    /// It makes no more writes.
    Refuse,
    /// It answers without waiting.
    Async,
}

impl Fallback {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Fallback::Wait => "wait",
            Fallback::Refuse => "refuse",
            Fallback::Async => "async",
        }
    }
}

/// How a write that has waited is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// So many other regions hold it.
    Held,
    /// It is durable here, and nobody is waited for any more.
    NotHeld,
}

/// What becomes of a write that is durable here.
#[must_use = "the answer to a write depends on it"]
pub enum Begun {
    /// It can be answered now.
    Over(Answer),
    /// It waits.
    Waits(Wait),
}

/// Why no write may be made. Nothing was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The region has fallen back, for this reason.
    FallenBack(String),
    /// Too many wait.
    TooMany,
}

/// A partition has fallen back or is in sync again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModeChange {
    /// Partition.
    pub partition: PartitionId,
    /// Tells it from other changes of the partition.
    pub number: u64,
    /// Whether it has fallen back.
    pub fallen_back: bool,
    /// Why.
    pub reason: String,
    /// When, milliseconds since the Unix epoch.
    pub at_millis: i64,
}

/// How the writes of a partition stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModeReport {
    /// What is asked.
    pub asked: SemiSync,
    /// Whether it has fallen back.
    pub fallen_back: bool,
    /// Why it is in its state; empty at the beginning.
    pub reason: String,
    /// Since when, milliseconds since the Unix epoch.
    pub since_millis: i64,
    /// Entries written that not so many hold; `None`: not known.
    pub lag: Option<u64>,
    /// The regions that count and what each holds; `None`: not known.
    pub holders: BTreeMap<Origin, Option<Lsn>>,
    /// Writes that wait now.
    pub waiting: usize,
    /// What was counted.
    pub counts: Counts,
}

/// What was counted of a partition since the node started or its mode was set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Writes that were answered when others held them.
    pub held: u64,
    /// Writes that were answered though not so many held them.
    pub not_held: u64,
    /// Writes whose outcome was told as unknown.
    pub gave_up: u64,
    /// Writes that were not made.
    pub refused: u64,
    /// How often the region has fallen back.
    pub fallen_back: u64,
}

/// The modes of all partitions of a node. Shared by all links.
pub struct Modes {
    clock: Arc<dyn Clock>,
    partitions: RwLock<BTreeMap<PartitionId, Arc<OfPartition>>>,
    changes: Mutex<VecDeque<ModeChange>>,
    changed: Notify,
    waited: Durations,
}

/// A write that waits. Dropped, it waits no more; the write stands.
#[must_use = "the answer to a write depends on it"]
pub struct Wait {
    receiver: oneshot::Receiver<Answer>,
    partition: Arc<OfPartition>,
    key: (Lsn, u64),
}

struct OfPartition(Mutex<Inner>);

struct Inner {
    watch: Watch,
    reason: String,
    since_millis: i64,
    /// Number of the last change, and whether it is recorded.
    number: u64,
    is_recorded: bool,
    /// The mode was taken back.
    is_over: bool,
    /// Since when the region writes no more; what waits still does.
    left_at: Option<Duration>,
    /// What the regions that count hold.
    marks: BTreeMap<Origin, Option<Lsn>>,
    waiting: BTreeMap<(Lsn, u64), (oneshot::Sender<Answer>, Duration)>,
    next: u64,
    counts: Counts,
}

impl Modes {
    /// Nothing waits for anybody.
    pub fn new(clock: Arc<dyn Clock>) -> Modes {
        Modes {
            clock,
            partitions: RwLock::default(),
            changes: Mutex::default(),
            changed: Notify::new(),
            waited: Durations::default(),
        }
    }

    /// Lets writes of a partition wait until so many of the regions `counting` hold them.
    /// `fallen_back` is why it had fallen back in an earlier life, as it was recorded. What was
    /// set before goes over into it.
    pub fn set(
        &self,
        partition: PartitionId,
        asked: SemiSync,
        counting: &BTreeSet<Origin>,
        fallen_back: Option<String>,
    ) {
        let known = self.partitions.read().get(&partition).cloned();
        let known = known.unwrap_or_else(|| {
            let made = Arc::new(OfPartition(Mutex::new(Inner {
                watch: Watch::new(asked, fallen_back.is_some()),
                reason: fallen_back.unwrap_or_default(),
                since_millis: self.clock.wall_millis(),
                number: 0,
                is_recorded: true,
                is_over: false,
                left_at: None,
                marks: BTreeMap::new(),
                waiting: BTreeMap::new(),
                next: 0,
                counts: Counts::default(),
            })));
            self.partitions.write().entry(partition).or_insert(made).clone()
        });
        let mut inner = known.0.lock();
        let marks = |origin: &Origin| (*origin, inner.marks.get(origin).copied().flatten());
        inner.marks = counting.iter().map(marks).collect();
        inner.watch.ask(asked);
        inner.left_at = None;
        self.count_holders(partition, &mut inner);
    }

    /// This region writes a partition no more. What waits goes on to wait, since what it waits for
    /// may still be told; nothing is answered because of this alone. `end_left` ends it.
    pub fn leave(&self, partition: PartitionId) {
        if let Some(known) = self.known(partition) {
            known.0.lock().left_at.get_or_insert_with(|| self.clock.monotonic());
        }
    }

    /// The other regions that hold what they were given and count, and how many of them must hold
    /// a write now: none where the region answers without waiting, and that is recorded.
    pub fn holders(&self, partition: PartitionId) -> (BTreeSet<Origin>, usize) {
        let Some(known) = self.known(partition) else { return Default::default() };
        let inner = known.0.lock();
        let holders = inner.marks.iter().filter(|(_, mark)| mark.is_some());
        let needed = match inner.is_over || inner.answers_unheld() {
            true => 0,
            false => inner.watch.asked().held_by,
        };
        (holders.map(|(region, _)| *region).collect(), needed)
    }

    /// Since when the oldest write has waited for votes that is prepared and not made, by the
    /// monotonic clock; `None`: none waits.
    pub fn wait_for_votes(&self, partition: PartitionId, since: Option<Duration>) {
        if let Some(known) = self.known(partition) {
            let mut inner = known.0.lock();
            inner.watch.wait_for_votes(since);
            let news = inner.watch.look(self.clock.monotonic());
            self.settle(partition, &mut inner, news);
        }
    }

    /// Takes back the modes of partitions that this region writes no more, as long ago as a write
    /// waits, and in which nothing waits any more; tells of which. Not at the same time as `set`.
    pub fn end_left(&self) -> Vec<PartitionId> {
        let (mut ended, now) = (Vec::new(), self.clock.monotonic());
        self.partitions.write().retain(|partition, known| {
            let mut inner = known.0.lock();
            let patience = inner.watch.asked().patience;
            let is_long_ago = inner.left_at.is_some_and(|left| now.saturating_sub(left) > patience);
            inner.is_over = is_long_ago && inner.waiting.is_empty();
            ended.extend(inner.is_over.then_some(*partition));
            !inner.is_over
        });
        ended
    }

    /// Writes of a partition wait for nobody any more.
    pub fn unset(&self, partition: PartitionId) {
        let Some(known) = self.partitions.write().remove(&partition) else { return };
        let mut inner = known.0.lock();
        inner.is_over = true;
        self.release(&mut inner, Lsn(u64::MAX), Answer::NotHeld);
    }

    /// The partitions whose writes wait.
    pub fn partitions(&self) -> Vec<PartitionId> {
        self.partitions.read().keys().copied().collect()
    }

    /// Whether a write may be made now.
    pub fn admit(&self, partition: PartitionId) -> Result<(), Refusal> {
        let Some(known) = self.known(partition) else { return Ok(()) };
        let mut inner = known.0.lock();
        let refuses = inner.watch.has_fallen_back()
            && inner.watch.asked().fallback == Fallback::Refuse
            && !inner.is_over;
        let refusal = match refuses {
            true => Refusal::FallenBack(inner.reason.clone()),
            false if inner.waiting.len() >= WAITING_WRITES_MAX => Refusal::TooMany,
            false => return Ok(()),
        };
        inner.counts.refused += 1;
        Err(refusal)
    }

    /// Begins to wait with a write that is durable here.
    pub fn wait(&self, partition: PartitionId, lsn: Lsn) -> Begun {
        let Some(known) = self.known(partition) else { return Begun::Over(Answer::NotHeld) };
        let mut inner = known.0.lock();
        let now = self.clock.monotonic();
        if inner.is_over {
            return Begun::Over(Answer::NotHeld);
        }
        let news = inner.watch.written(lsn, now);
        self.settle(partition, &mut inner, news);
        if inner.watch.held_through() >= Some(lsn) {
            inner.counts.held += 1;
            return Begun::Over(Answer::Held);
        }
        if inner.answers_unheld() {
            inner.counts.not_held += 1;
            return Begun::Over(Answer::NotHeld);
        }
        let (sender, receiver) = oneshot::channel();
        let key = (lsn, inner.next);
        inner.next += 1;
        inner.waiting.insert(key, (sender, now));
        drop(inner);
        Begun::Waits(Wait { receiver, partition: known, key })
    }

    /// How long a write of a partition waits.
    pub fn patience(&self, partition: PartitionId) -> Duration {
        let known = self.known(partition);
        known.map_or(Duration::ZERO, |known| known.0.lock().watch.asked().patience)
    }

    /// The replica in a region holds everything of this region durably through this; `None`: it
    /// is not known, or it is a mixture.
    pub fn held(&self, partition: PartitionId, region: Origin, held: Option<Lsn>) {
        let Some(known) = self.known(partition) else { return };
        let mut inner = known.0.lock();
        match inner.marks.get_mut(&region) {
            Some(mark) if *mark != held => *mark = held,
            Some(_) | None => return,
        }
        self.count_holders(partition, &mut inner);
    }

    /// What time alone brings. Regions that are `suspended`, as those have agreed who decide that,
    /// are not waited for as long as others where without them too few are left.
    pub fn tick(&self, suspended: &BTreeSet<Origin>) {
        let all: Vec<_> =
            self.partitions.read().iter().map(|(id, known)| (*id, known.clone())).collect();
        for (partition, known) in all {
            let mut inner = known.0.lock();
            let left = inner.marks.keys().filter(|region| !suspended.contains(region)).count();
            let is_lost = left < inner.watch.asked().held_by;
            inner.watch.lose(is_lost);
            let news = inner.watch.look(self.clock.monotonic());
            self.settle(partition, &mut inner, news);
        }
    }

    /// Until a partition has fallen back or is in sync again.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// What has changed since this was last asked, the oldest first. Each is to be recorded, then
    /// told with `recorded`.
    pub fn take_changes(&self) -> VecDeque<ModeChange> {
        std::mem::take(&mut *self.changes.lock())
    }

    /// A change is recorded durably: what follows from it may be answered.
    pub fn recorded(&self, change: &ModeChange) {
        let Some(known) = self.known(change.partition) else { return };
        let mut inner = known.0.lock();
        if inner.number == change.number {
            inner.is_recorded = true;
            self.settle(change.partition, &mut inner, None);
        }
    }

    /// How the writes of a partition stand; `None`: they wait for nobody.
    pub fn report(&self, partition: PartitionId) -> Option<ModeReport> {
        let known = self.known(partition)?;
        let inner = known.0.lock();
        Some(ModeReport {
            asked: *inner.watch.asked(),
            fallen_back: inner.watch.has_fallen_back(),
            reason: inner.reason.clone(),
            since_millis: inner.since_millis,
            lag: inner.watch.lag(),
            holders: inner.marks.clone(),
            waiting: inner.waiting.len(),
            counts: inner.counts,
        })
    }

    /// How long writes have waited, of all partitions.
    pub fn waited(&self) -> &Durations {
        &self.waited
    }

    fn known(&self, partition: PartitionId) -> Option<Arc<OfPartition>> {
        self.partitions.read().get(&partition).cloned()
    }

    fn count_holders(&self, partition: PartitionId, inner: &mut Inner) {
        let mut held: Vec<Lsn> = inner.marks.values().flatten().copied().collect();
        held.sort_unstable_by(|a, b| b.cmp(a));
        let place = inner.watch.asked().held_by.saturating_sub(1);
        let through = held.get(place).copied();
        let news = inner.watch.held(through, self.clock.monotonic());
        self.settle(partition, inner, news);
    }

    /// Takes note of a state that has changed, and answers what can be answered.
    fn settle(&self, partition: PartitionId, inner: &mut Inner, news: Option<String>) {
        if let Some(reason) = news {
            let fallen_back = inner.watch.has_fallen_back();
            inner.counts.fallen_back += u64::from(fallen_back);
            inner.number += 1;
            inner.is_recorded = false;
            inner.reason.clone_from(&reason);
            inner.since_millis = self.clock.wall_millis();
            let (number, at_millis) = (inner.number, inner.since_millis);
            let change = ModeChange { partition, number, fallen_back, reason, at_millis };
            let mut changes = self.changes.lock();
            if changes.len() >= CHANGES_KEPT_MAX {
                changes.pop_front();
            }
            changes.push_back(change);
            self.changed.notify_one();
        }
        if let Some(held) = inner.watch.held_through() {
            self.release(inner, held, Answer::Held);
        }
        if inner.answers_unheld() {
            self.release(inner, Lsn(u64::MAX), Answer::NotHeld);
        }
    }

    fn release(&self, inner: &mut Inner, through: Lsn, answer: Answer) {
        let now = self.clock.monotonic();
        while let Some(first) = inner.waiting.first_entry()
            && first.key().0 <= through
        {
            let (sender, began) = first.remove();
            self.waited.note(now.saturating_sub(began));
            match answer {
                Answer::Held => inner.counts.held += 1,
                Answer::NotHeld => inner.counts.not_held += 1,
            }
            // Who has given up a moment ago does not listen.
            let _ = sender.send(answer);
        }
    }
}

impl Inner {
    fn answers_unheld(&self) -> bool {
        let is_async = self.watch.asked().fallback == Fallback::Async;
        is_async && self.watch.has_fallen_back() && self.is_recorded
    }
}

impl Wait {
    /// The answer, if it is there.
    pub fn try_take(&mut self) -> Option<Answer> {
        self.receiver.try_recv().ok()
    }

    /// It has waited long enough: the outcome is told as unknown.
    pub fn give_up(self) {
        self.partition.0.lock().counts.gave_up += 1;
    }
}

impl Future for Wait {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answer> {
        // Nobody lets go of the other end without an answer.
        Pin::new(&mut self.receiver).poll(context).map(|got| got.unwrap_or(Answer::NotHeld))
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.partition.0.lock().waiting.remove(&self.key);
    }
}

#[cfg(test)]
mod tests;
