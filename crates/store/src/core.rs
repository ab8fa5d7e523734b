//! What every table of a store shares: engine, clocks, queue, tail, and the committer.
//!
//! One commit takes all that waits, over all partitions, as one batch of the engine. Whatever
//! comes while it is synced waits for the next one; there is no timer. A commit that fails is the
//! last: all answers that wait become "unknown", nothing is tried again, and the process must be
//! started anew.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use isthmus_model::clock::Clock;
use isthmus_model::hlc::Hlc;
use isthmus_model::ids::{Lsn, PartitionId};
use parking_lot::{Condvar, Mutex, RwLock};

use crate::atomic::Total;
use crate::counters::Counters;
use crate::digest::PartsCache;
use crate::engine::{Batch, BatchWrite, Engine, EngineError, Space};
use crate::error::StoreError;
use crate::forget::forget_step;
use crate::keys;
use crate::keys::node::NodeState;
use crate::keys::partition::PartitionState;
use crate::limits::REPLACED_BYTES_MAX;
use crate::log_size::Mark;
use crate::partition::{Finish, Group, Inner, Partition};
use crate::past::Past;
use crate::replaced::Replaced;
use crate::stamps::Stamps;
use crate::store::StoreOptions;
use crate::tail::{Tail, TailRecord};

/// Called with each partition that a commit has moved, and where its log ends now.
pub type DurableHook = Arc<dyn Fn(PartitionId, Lsn) + Send + Sync>;

/// Told which partition's table is something else now, such as written by another region.
pub type SpecHook = Arc<dyn Fn(PartitionId) + Send + Sync>;
/// Called once, when a commit has failed.
pub type FatalHook = Arc<dyn Fn(&StoreError) + Send + Sync>;

/// Keys that belong to no partition, with whom to tell.
struct Loose {
    writes: Vec<BatchWrite>,
    /// The life of a digest that they are of no use without.
    digest: Option<(Arc<Partition>, u32)>,
    finish: Finish,
}

impl Loose {
    /// Whether they are still to be written beside groups: the mark of a digest that begins anew
    /// with one of them, or has done so, must not come back after it was removed.
    fn holds(&self, groups: &[Group]) -> bool {
        let Some((partition, generation)) = &self.digest else { return true };
        let begins_anew =
            |group: &Group| group.partition.id == partition.id && group.part.digest_anew;
        !groups.iter().any(begins_anew) && partition.digest.lock().generation == *generation
    }
}

#[derive(Default)]
struct Queue {
    partitions: Vec<Arc<Partition>>,
    loose: VecDeque<Loose>,
    raise_ceiling: bool,
    /// When the first of them came.
    since: Option<Duration>,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.partitions.is_empty() && self.loose.is_empty() && !self.raise_ceiling
    }
}

/// What the committer alone touches.
struct Committing {
    node: NodeState,
    /// Groups to go before compression is tried again.
    compress_pause: u32,
}

/// What every table of a store shares.
pub(crate) struct Core {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) options: StoreOptions,
    pub(crate) stamps: Stamps,
    /// When this life of the store began, by the wall clock: the hybrid one may run ahead of it,
    /// and an older disk would know nothing of that.
    pub(crate) life: Hlc,
    /// The first stamp of this life, which is below the ceiling that is durable before anything
    /// else happens: no other life has it.
    pub(crate) life_number: u64,
    pub(crate) tail: Tail,
    pub(crate) replaced: Replaced,
    pub(crate) past: Past,
    pub(crate) parts: Arc<PartsCache>,
    pub(crate) counters: Counters,
    pub(crate) locking: Total,
    /// Partitions whose digests may want upkeep.
    pub(crate) digests_due: Mutex<BTreeSet<PartitionId>>,
    /// Partitions of which rows may want to be swept.
    pub(crate) sweeps_due: Mutex<BTreeSet<PartitionId>>,
    queue: Mutex<Queue>,
    wake: Condvar,
    /// Bytes that wait or are being committed.
    queue_bytes: AtomicUsize,
    committing: Mutex<Committing>,
    stopped: AtomicBool,
    poisoned: AtomicBool,
    full: AtomicBool,
    /// When the first came of what is being committed, in microseconds; 0: nothing is.
    committing_since: AtomicU64,
    on_durable: RwLock<Vec<DurableHook>>,
    on_spec: RwLock<Vec<SpecHook>>,
    on_fatal: RwLock<Vec<FatalHook>>,
}

/// After entries that did not compress, this many records go uncompressed.
const COMPRESS_PAUSE: u32 = 32;
/// The part of the queue beyond which upkeep waits.
const UPKEEP_SHARE: usize = 8;
/// Charged to the queue for a write beside its bytes.
const WRITE_OVERHEAD_BYTES: usize = 64;

impl Core {
    pub(crate) fn new(
        engine: Arc<dyn Engine>,
        clock: Arc<dyn Clock>,
        options: StoreOptions,
        node: NodeState,
    ) -> Core {
        let stamps = Stamps::new(options.origin, options.skew_max, node.ceiling);
        let life_number = stamps.next(clock.wall_millis()).hlc.0;
        Core {
            locking: Total::default(),
            life: Hlc::from_millis(clock.wall_millis()),
            life_number,
            stamps,
            tail: Tail::new(options.log_tail_bytes_max),
            replaced: Replaced::new(REPLACED_BYTES_MAX),
            past: Past::new(options.past_bytes_max),
            parts: Arc::new(PartsCache::new(match options.digests {
                true => options.parts_cache_bytes,
                false => 0,
            })),
            counters: Counters::default(),
            digests_due: Mutex::default(),
            sweeps_due: Mutex::default(),
            engine,
            clock,
            options,
            queue: Mutex::default(),
            wake: Condvar::new(),
            queue_bytes: AtomicUsize::new(0),
            committing: Mutex::new(Committing { node, compress_pause: 0 }),
            stopped: AtomicBool::new(false),
            poisoned: AtomicBool::new(false),
            full: AtomicBool::new(false),
            committing_since: AtomicU64::new(0),
            on_durable: RwLock::default(),
            on_spec: RwLock::default(),
            on_fatal: RwLock::default(),
        }
    }

    pub(crate) fn add_durable_hook(&self, hook: DurableHook) {
        self.on_durable.write().push(hook);
    }

    pub(crate) fn add_spec_hook(&self, hook: SpecHook) {
        self.on_spec.write().push(hook);
    }

    pub(crate) fn add_fatal_hook(&self, hook: FatalHook) {
        self.on_fatal.write().push(hook);
    }

    pub(crate) fn wall_millis(&self) -> i64 {
        self.clock.wall_millis()
    }

    /// Whether anything may be accepted.
    pub(crate) fn check_alive(&self) -> Result<(), StoreError> {
        if self.poisoned.load(Ordering::Acquire) || self.stopped.load(Ordering::Acquire) {
            return Err(StoreError::Stopped);
        }
        Ok(())
    }

    /// Whether something that needs room may be accepted.
    pub(crate) fn admit(&self) -> Result<(), StoreError> {
        self.check_alive()?;
        if self.queue_bytes.load(Ordering::Acquire) >= self.options.queue_bytes_max {
            return Err(StoreError::Busy);
        }
        if self.full.load(Ordering::Acquire) {
            self.look_at_space();
            if self.full.load(Ordering::Acquire) {
                return Err(StoreError::DiskFull);
            }
        }
        Ok(())
    }

    /// Whether upkeep may add to what waits: it leaves most of the queue to clients.
    pub(crate) fn admit_upkeep(&self) -> Result<(), StoreError> {
        self.admit()?;
        let share = self.options.queue_bytes_max / UPKEEP_SHARE;
        match self.queue_bytes.load(Ordering::Acquire) <= share {
            true => Ok(()),
            false => Err(StoreError::Busy),
        }
    }

    /// Why nothing that needs room is accepted, if so.
    pub(crate) fn refuses(&self) -> Option<StoreError> {
        match self.check_alive() {
            Ok(()) => self.full.load(Ordering::Acquire).then_some(StoreError::DiskFull),
            Err(error) => Some(error),
        }
    }

    /// How old the oldest write is that is not durable; zero where there is none.
    pub(crate) fn oldest_not_durable(&self) -> Duration {
        let since = match self.committing_since.load(Ordering::Acquire) {
            0 => self.queue.lock().since,
            micros => Some(Duration::from_micros(micros)),
        };
        since.map_or(Duration::ZERO, |since| self.clock.monotonic().saturating_sub(since))
    }

    /// Asks the engine whether there is more room than the reserve.
    pub(crate) fn look_at_space(&self) {
        let full = match self.engine.space_left() {
            Ok(left) => left < self.options.space_reserve_bytes,
            Err(error) => {
                tracing::warn!(%error, "cannot tell how much room is left");
                false
            }
        };
        if full != self.full.swap(full, Ordering::AcqRel) {
            tracing::warn!(full, "room on the disk crossed the reserve");
        }
    }

    /// Puts a partition with something to commit into the queue. Call it under the partition's
    /// lock, after its part has grown from `bytes_before`.
    pub(crate) fn enqueue(
        &self,
        partition: &Arc<Partition>,
        inner: &mut Inner,
        bytes_before: usize,
    ) {
        let grown = inner.part.bytes.saturating_sub(bytes_before) + WRITE_OVERHEAD_BYTES;
        inner.part.bytes = bytes_before + grown;
        self.queue_bytes.fetch_add(grown, Ordering::AcqRel);
        if !inner.queued {
            inner.queued = true;
            let mut queue = self.queue.lock();
            queue.partitions.push(partition.clone());
            queue.since.get_or_insert_with(|| self.clock.monotonic());
            self.wake.notify_one();
        }
    }

    /// Puts keys that belong to no partition into the queue.
    pub(crate) fn enqueue_loose(&self, writes: Vec<BatchWrite>, finish: Finish) {
        self.push_loose(Loose { writes, digest: None, finish });
    }

    /// Puts the mark of a digest into the queue; it is left out if the digest begins anew first.
    pub(crate) fn enqueue_mark(
        &self,
        partition: &Arc<Partition>,
        generation: u32,
        write: BatchWrite,
        finish: Finish,
    ) {
        let digest = Some((partition.clone(), generation));
        self.push_loose(Loose { writes: vec![write], digest, finish });
    }

    fn push_loose(&self, loose: Loose) {
        let mut queue = self.queue.lock();
        self.queue_bytes.fetch_add(loose_bytes(&loose.writes), Ordering::AcqRel);
        queue.loose.push_back(loose);
        queue.since.get_or_insert_with(|| self.clock.monotonic());
        self.wake.notify_one();
    }

    /// Asks for a higher ceiling without waiting for it.
    pub(crate) fn ask_for_ceiling(&self) {
        let mut queue = self.queue.lock();
        queue.raise_ceiling = true;
        self.wake.notify_one();
    }

    /// Commits all that waits, as one batch. Gives whether there was anything.
    pub(crate) fn commit_step(&self) -> bool {
        let mut committing = self.committing.lock();
        let work = std::mem::take(&mut *self.queue.lock());
        if work.is_empty() {
            return false;
        }
        let groups: Vec<Group> = work.partitions.iter().map(Partition::take_group).collect();
        if self.poisoned.load(Ordering::Acquire) {
            self.fail(groups, work.loose);
            return true;
        }
        let (batch, records, node) = self.make_batch(&mut committing, &groups, &work.loose);
        let committed = if batch.is_empty() { Ok(()) } else { self.commit(batch, work.since) };
        match committed {
            Ok(()) => {
                committing.node = node;
                self.stamps.set_ceiling(node.ceiling);
                self.publish(groups, work.loose, records);
            }
            Err(error) => {
                drop(committing);
                self.poison(&error);
                self.fail(groups, work.loose);
            }
        }
        true
    }

    fn commit(&self, batch: Batch, since: Option<Duration>) -> Result<(), EngineError> {
        let began = self.clock.monotonic();
        // Nothing begins at 0, which says that there is none.
        let micros = u64::try_from(since.unwrap_or(began).as_micros()).unwrap_or(u64::MAX).max(1);
        self.committing_since.store(micros, Ordering::Release);
        let committed = self.engine.commit(batch);
        self.committing_since.store(0, Ordering::Release);
        self.counters.commits.one();
        self.counters.commit_time.note(self.clock.monotonic().saturating_sub(began));
        committed
    }

    fn make_batch(
        &self,
        committing: &mut Committing,
        groups: &[Group],
        loose: &VecDeque<Loose>,
    ) -> (Batch, Vec<Vec<TailRecord>>, NodeState) {
        let mut batch = Batch::default();
        let mut records = Vec::with_capacity(groups.len());
        for group in groups {
            records.push(self.add_group(committing, group, &mut batch));
        }
        let node_key = keys::node::encode_key();
        let mut node = committing.node;
        let held = loose.iter().filter(|loose| loose.holds(groups));
        for write in held.flat_map(|loose| &loose.writes) {
            // The node's own record is written here alone; others only raise what it reserves.
            match (&write.value, write.key == node_key) {
                (Some(value), true) => {
                    let asked = keys::node::decode_value(value).unwrap_or_default();
                    node.ids_reserved = node.ids_reserved.max(asked.ids_reserved);
                }
                (Some(_) | None, _) => batch.write(write.clone()),
            }
        }
        if let Some(ceiling) = self.stamps.next_ceiling(self.wall_millis()) {
            node.ceiling = ceiling;
        }
        if node != committing.node {
            batch.put(Space::Meta, node_key, keys::node::encode_value(&node));
        }
        (batch, records, node)
    }

    /// Adds a partition's group to the batch, and gives its log records.
    fn add_group(
        &self,
        committing: &mut Committing,
        group: &Group,
        batch: &mut Batch,
    ) -> Vec<TailRecord> {
        let id = group.partition.id;
        for write in &group.part.writes {
            batch.write(write.clone());
        }
        if group.part.dropped {
            return Vec::new();
        }
        for (key, value) in &group.part.rows {
            let key = keys::row::encode_key(id, key);
            batch.write(BatchWrite { space: Space::Rows, key, value: value.clone() });
        }
        if group.part.digest_anew {
            batch.delete(Space::Meta, keys::digest_mark::encode_key(id));
        }
        if !group.digest.is_empty() {
            let key = keys::digest_redo::encode_key(id, group.state.groups);
            let changes = group.digest.iter().map(|stamped| &stamped.change);
            batch.put(Space::Log, key, keys::digest_redo::encode_value(changes));
        }
        let mut records = Vec::with_capacity(group.part.records.len());
        for builder in &group.part.records {
            let (first, last) = (builder.first(), builder.last());
            let bytes = self.finish_record(committing, builder, id);
            batch.put(Space::Log, keys::log::encode_key(id, first), bytes.clone());
            records.push(TailRecord { first, last, bytes });
        }
        let appended = records.iter().map(|record| record.bytes.len() as u64).sum();
        let entries = records.iter().map(|record| record.last.0 + 1 - record.first.0).sum();
        self.counters.groups.one();
        self.counters.entries.add(entries);
        self.counters.log_bytes.add(appended);
        let state = keys::partition::encode_value(&with_log_size(group, appended));
        batch.put(Space::Meta, keys::partition::encode_key(id), state);
        records
    }

    /// Compresses where that has lately saved something.
    fn finish_record(
        &self,
        committing: &mut Committing,
        builder: &keys::log::RecordBuilder,
        partition: PartitionId,
    ) -> Bytes {
        let compress = self.options.log_compression && committing.compress_pause == 0;
        committing.compress_pause = committing.compress_pause.saturating_sub(1);
        let record = builder.finish(partition, compress);
        if compress && record.is_incompressible {
            committing.compress_pause = COMPRESS_PAUSE;
        }
        record.bytes
    }

    fn publish(&self, groups: Vec<Group>, loose: VecDeque<Loose>, records: Vec<Vec<TailRecord>>) {
        let mut finishes: Vec<Finish> = Vec::new();
        let mut freed = loose.iter().map(|loose| loose_bytes(&loose.writes)).sum::<usize>();
        for (group, records) in groups.iter().zip(records) {
            let id = group.partition.id;
            if group.part.log_replaced || group.part.dropped {
                self.tail.clear(id);
            }
            for record in records {
                self.tail.push(id, record);
            }
            self.tail.trim(id, group.state.log_start);
            finishes.extend(group.partition.publish(group));
            self.stamps.end(&group.part.begun);
            freed += group.part.bytes;
        }
        self.queue_bytes.fetch_sub(freed, Ordering::AcqRel);
        for finish in finishes.into_iter().chain(loose.into_iter().map(|loose| loose.finish)) {
            finish(Ok(()));
        }
        let hooks = self.on_durable.read().clone();
        for group in &groups {
            for hook in &hooks {
                hook(group.partition.id, group.state.lsn);
            }
        }
        let hooks = self.on_spec.read().clone();
        for group in groups.iter().filter(|group| group.spec.is_some()) {
            hooks.iter().for_each(|hook| hook(group.partition.id));
        }
        for group in &groups {
            self.tidy(group);
        }
        let expired = groups.iter().filter(|group| group.part.expired);
        self.sweeps_due.lock().extend(expired.map(|group| group.partition.id));
        let changed = groups.iter().filter(|group| group.concerns_digest());
        self.digests_due.lock().extend(changed.map(|group| group.partition.id));
        self.look_at_space();
    }

    /// Lets the engine give back what a durable group no longer needs. What fails here is done
    /// again later, at the latest when the store is opened.
    fn tidy(&self, group: &Group) {
        let id = group.partition.id;
        let done = match group.part.dropped {
            true => self.engine.drop_partition(id).map(|()| {
                let key = keys::dropped::encode_key(id);
                let write = BatchWrite { space: Space::Meta, key, value: None };
                self.enqueue_loose(vec![write], Box::new(|_| {}));
            }),
            false => forget_step(&*self.engine, &group.partition, group.state.log_start),
        };
        if let Err(error) = done {
            tracing::warn!(partition = %id, %error, "cannot give back room yet");
        }
    }

    fn poison(&self, error: &EngineError) {
        tracing::error!(%error, "commit failed; nothing more is accepted");
        self.poisoned.store(true, Ordering::Release);
        let error = StoreError::Engine(error.clone());
        for hook in self.on_fatal.read().clone() {
            hook(&error);
        }
    }

    fn fail(&self, groups: Vec<Group>, loose: VecDeque<Loose>) {
        let of_groups = groups.iter().flat_map(|group| group.partition.abandon());
        let mut finishes: Vec<Finish> = of_groups.collect();
        finishes.extend(loose.into_iter().map(|loose| loose.finish));
        for finish in finishes {
            finish(Err(StoreError::Unknown));
        }
        // Stamps of what failed hold back promises for ever: the batch may be there.
    }

    /// Commits what comes until `stop`, then all that waits.
    pub(crate) fn run_committer(&self) {
        loop {
            while self.commit_step() {}
            let mut queue = self.queue.lock();
            while queue.is_empty() && !self.stopped.load(Ordering::Acquire) {
                self.wake.wait(&mut queue);
            }
            if queue.is_empty() {
                break;
            }
        }
    }

    /// Accepts nothing more.
    pub(crate) fn stop(&self) {
        // Under the lock, so that the committer cannot miss it between looking and waiting.
        let _queue = self.queue.lock();
        self.stopped.store(true, Ordering::Release);
        self.wake.notify_all();
    }

    /// Lowers the ceiling to what was used, so that the next life need not start ahead of the
    /// clock. Call it when nothing is accepted any more.
    pub(crate) fn settle_ceiling(&self) -> Result<(), EngineError> {
        let mut committing = self.committing.lock();
        if self.poisoned.load(Ordering::Acquire) {
            return Ok(());
        }
        let ceiling = self.stamps.last_ceiling().min(committing.node.ceiling);
        let node = NodeState { ceiling, ..committing.node };
        let mut batch = Batch::default();
        batch.put(Space::Meta, keys::node::encode_key(), keys::node::encode_value(&node));
        self.engine.commit(batch)?;
        committing.node = node;
        self.stamps.set_ceiling(ceiling);
        Ok(())
    }
}

/// The state of a group as it is stored, after its log grew by some bytes.
fn with_log_size(group: &Group, appended: u64) -> PartitionState {
    let state = &group.state;
    let mut sizes = group.partition.log_sizes.lock();
    let bytes = sizes.ends().1.bytes + appended;
    sizes.note(Mark { lsn: state.lsn, bytes, millis: state.hlc.millis() }, state.log_start);
    let (start, end) = sizes.ends();
    PartitionState {
        log_bytes: end.bytes,
        log_bytes_before: start.bytes,
        log_start_millis: start.millis,
        ..state.clone()
    }
}

fn loose_bytes(writes: &[BatchWrite]) -> usize {
    let of_write =
        |write: &BatchWrite| write.key.len() + write.value.as_ref().map_or(0, Bytes::len);
    writes.iter().map(of_write).sum::<usize>() + WRITE_OVERHEAD_BYTES
}
