//! A partition in memory: what is durable, what is accepted and waits, and the lock between them.
//!
//! All that is accepted between two commits is one group. Rows of groups that are not durable are
//! in the overlay, so that the next change of a row is judged against what will be there; reads do
//! not look at it. The lock is held for the time it takes to judge, stamp and pack a change, never
//! across a read of the disk that could have been made before, and never across a commit.

mod digest;
mod group;
mod log;
mod overlay;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use isthmus_digest::{Hasher, Parts};
use isthmus_model::hlc::Hlc;
use isthmus_model::ids::{Lsn, PartitionId, TableId};
use isthmus_model::key::EncodedKey;
use isthmus_model::schema::Schema;
use parking_lot::{Mutex, RwLock};

use crate::atomic::{Atomics, Counts, Total};
use crate::digest::{
    Checkpointing, LiveDigest, Measure, PartsCache, Rules, Tag, start_of_kills_bucket,
};
use crate::engine::{BatchWrite, Space};
use crate::keys;
use crate::keys::partition::{PartitionState, Watermark};
use crate::kills::Kills;
use crate::log_size::LogSizes;
use crate::prepared::PreparedChanges;
use crate::spec::TableSpec;
use crate::table::{ConflictLog, Sweep};

use self::group::Part;
use self::log::log_sizes;
use self::overlay::{Kept, Overlaid};

pub(crate) use self::group::{At, Finish, Group};
pub(crate) use self::log::{vector_in, watermark_in};
pub(crate) use self::overlay::Seen;

/// What is under the lock.
pub(crate) struct Inner {
    /// As of the last accepted change.
    pub(crate) state: PartitionState,
    pub(crate) spec: TableSpec,
    pub(crate) schema: Arc<Schema>,
    pub(crate) dropped: bool,
    /// Nothing is accepted for the moment: its rows go on in another table.
    pub(crate) is_held: bool,
    /// How rows are hashed; `None`: no digest is kept.
    hasher: Option<Hasher>,
    /// What of rows written lately is in the digest, and this digest's number there.
    cache: Arc<PartsCache>,
    /// What is to be put there of rows of the open group: all at once, since each place in it is
    /// waited for. The overlay knows of them.
    uncached: Vec<(Tag, Parts)>,
    life: Arc<AtomicU64>,
    pub(crate) part: Part,
    /// Whether it is in the committer's queue.
    pub(crate) queued: bool,
    /// Number of the group that takes what is accepted now.
    open_group: u64,
    /// All groups up to this one are durable and published.
    finished: u64,
    overlay: BTreeMap<EncodedKey, Overlaid>,
    /// Durable groups whose rows are still in the overlay, without a gap up to the last one.
    kept: VecDeque<Kept>,
    /// First and last LSN of the log records being committed.
    pub(crate) in_flight: Vec<(Lsn, Lsn)>,
    pub(crate) conflicts: ConflictLog,
    /// What is prepared here and not applied.
    pub(crate) prepared: PreparedChanges,
    /// What is kept of batches of several partitions.
    pub(crate) atomics: Atomics,
    /// Rows that the sweep is to look at one day.
    pub(crate) kills: Kills,
    /// What to tell when a group is durable, in order of groups.
    finishes: Vec<(u64, Finish)>,
}

/// What is durable.
pub(crate) struct Durable {
    pub(crate) state: PartitionState,
    pub(crate) spec: Arc<TableSpec>,
    pub(crate) schema: Arc<Schema>,
}

/// A horizon that has been passed once more. A counter's share says what its region has added
/// since a moment long ago, and may come from a region that had not heard of a delete between:
/// so in tables with rules a delete is forgotten only when all that any region had written before
/// the horizon passed the delete is here too.
#[derive(Default)]
struct SettledHorizon {
    horizon: Hlc,
    /// Takes its place when the horizon has passed `after`.
    next: Hlc,
    after: Hlc,
}

/// A partition.
pub(crate) struct Partition {
    pub(crate) id: PartitionId,
    pub(crate) table: TableId,
    pub(crate) inner: Mutex<Inner>,
    pub(crate) digest: LiveDigest,
    /// Number of the digest's life in the cache of parts.
    life: Arc<AtomicU64>,
    /// As of the last group that was given to the engine.
    pub(crate) log_sizes: Mutex<LogSizes>,
    durable: RwLock<Arc<Durable>>,
    /// Groups published so far; read before reading rows outside the lock.
    groups_finished: AtomicU64,
    /// With several writers: nothing older than this can come.
    horizon: AtomicU64,
    settled_horizon: Mutex<SettledHorizon>,
    /// The engine was told to forget the log through this.
    pub(crate) forgotten: AtomicU64,
    /// What had been applied of each origin when rows of a copy last stood for entries, and where.
    pub(crate) whole_marks: Mutex<(Lsn, Vec<Watermark>)>,
    pub(crate) sweep: Mutex<Sweep>,
    /// What rows remember is known: all were looked at since the store was opened.
    pub(crate) kills_counted: AtomicBool,
    pub(crate) checkpointing: Mutex<Checkpointing>,
    /// The newest moment in rows that were copied in this life: entries may be older than they.
    newest_copied: AtomicU64,
    /// Large values that are replaced are asked for.
    pub(crate) keeps_replaced: AtomicBool,
    /// It is read as of cuts. Changes under the lock only.
    pub(crate) keeps_past: AtomicBool,
    /// How much is kept of batches of several partitions.
    pub(crate) atomics: Arc<Counts>,
}

impl Partition {
    pub(crate) fn new(
        spec: TableSpec,
        state: PartitionState,
        digest: LiveDigest,
        cache: Arc<PartsCache>,
        (conflicts, prepared, mut atomics): (ConflictLog, PreparedChanges, Atomics),
        locking: Total,
    ) -> Partition {
        let schema = Arc::new(spec.schema.clone());
        let durable =
            Durable { state: state.clone(), spec: Arc::new(spec.clone()), schema: schema.clone() };
        let hasher = (!digest.is_off()).then(|| digest.hasher.clone());
        let life = Arc::new(AtomicU64::new(cache.begin_life()));
        atomics.count_in(locking);
        Partition {
            id: spec.partition,
            digest,
            life: life.clone(),
            log_sizes: Mutex::new(log_sizes(&state)),
            table: spec.id,
            durable: RwLock::new(Arc::new(durable)),
            groups_finished: AtomicU64::new(0),
            horizon: AtomicU64::new(0),
            settled_horizon: Mutex::default(),
            forgotten: AtomicU64::new(0),
            whole_marks: Mutex::default(),
            sweep: Mutex::default(),
            kills_counted: AtomicBool::new(false),
            checkpointing: Mutex::default(),
            newest_copied: AtomicU64::new(0),
            keeps_replaced: AtomicBool::new(false),
            keeps_past: AtomicBool::new(false),
            atomics: atomics.counts(),
            inner: Mutex::new(Inner {
                state,
                spec,
                schema,
                dropped: false,
                is_held: false,
                hasher,
                cache,
                uncached: Vec::new(),
                life,
                part: Part::default(),
                queued: false,
                open_group: 1,
                finished: 0,
                overlay: BTreeMap::new(),
                kept: VecDeque::new(),
                in_flight: Vec::new(),
                conflicts,
                prepared,
                atomics,
                kills: Kills::default(),
                finishes: Vec::new(),
            }),
        }
    }

    /// What is durable now.
    pub(crate) fn durable(&self) -> Arc<Durable> {
        self.durable.read().clone()
    }

    /// To be called before reading rows outside the lock; `Inner::is_current` tells under the lock
    /// whether they still hold.
    pub(crate) fn groups_finished(&self) -> u64 {
        self.groups_finished.load(Ordering::Acquire)
    }

    /// Raises the horizon; no region has given out a moment after `latest` yet.
    pub(crate) fn set_horizon(&self, horizon: Hlc, latest: Hlc) {
        self.horizon.fetch_max(horizon.0, Ordering::AcqRel);
        let mut settled = self.settled_horizon.lock();
        if horizon > settled.after {
            settled.horizon = settled.next;
            (settled.next, settled.after) = (horizon, latest);
        }
    }

    /// With several writers: nothing older than this can come.
    pub(crate) fn exact_horizon(&self) -> Hlc {
        Hlc(self.horizon.load(Ordering::Acquire))
    }

    /// Below it tombstones and trims are forgotten, bucket by bucket as the digest counts them.
    /// With one writer the log's order alone decides, and nothing older can come.
    pub(crate) fn horizon(&self, spec: &TableSpec) -> Hlc {
        match spec.writers.are_many() {
            true if spec.schema.options.rules.is_some() => {
                start_of_kills_bucket(self.settled_horizon.lock().horizon)
            }
            true => start_of_kills_bucket(self.exact_horizon()),
            false => Hlc::MAX,
        }
    }

    /// Rows are to be copied in which nothing is newer than this.
    pub(crate) fn note_copied(&self, newest: Hlc) {
        self.newest_copied.fetch_max(newest.0, Ordering::AcqRel);
    }

    /// Rows that were copied in this life hold nothing that is newer.
    pub(crate) fn newest_copied(&self) -> Hlc {
        Hlc(self.newest_copied.load(Ordering::Acquire))
    }

    /// Whether what its rows are before they change is kept for cuts.
    pub(crate) fn keeps_past(&self) -> bool {
        self.keeps_past.load(Ordering::Relaxed)
    }

    /// The name of a row in the cache of parts, as of now.
    pub(crate) fn tag(&self, key: &EncodedKey) -> Tag {
        let life = self.life.load(Ordering::Relaxed);
        PartsCache::tag(&self.digest.hasher, life, &key.0)
    }

    /// How rows are measured under some rules.
    pub(crate) fn measure<'a>(&'a self, rules: &'a Rules, spec: &'a TableSpec) -> Measure<'a> {
        let may_hold_kills = spec.writers.are_many();
        let families = &spec.schema.options.families;
        Measure { hasher: &self.digest.hasher, rules, families, may_hold_kills }
    }

    /// Takes all that waits as a group.
    pub(crate) fn take_group(self: &Arc<Self>) -> Group {
        let mut inner = self.inner.lock();
        inner.queued = false;
        inner.fill_cache();
        let mut part = std::mem::take(&mut inner.part);
        let digest = Arc::new(std::mem::take(&mut part.digest));
        let number = inner.open_group;
        inner.open_group += 1;
        inner.state.groups += 1;
        inner.state.made = inner.prepared.participant.whole().collect();
        inner.in_flight = part.records.iter().map(|r| (r.first(), r.last())).collect();
        let spec = part.spec_changed.then(|| Arc::new(inner.spec.clone()));
        Group { partition: self.clone(), number, part, state: inner.state.clone(), digest, spec }
    }

    /// Shows a durable group, and gives what is to be told.
    pub(crate) fn publish(&self, group: &Group) -> Vec<Finish> {
        let mut inner = self.inner.lock();
        let before = self.durable();
        let (spec, schema) = match &group.spec {
            Some(spec) => (spec.clone(), Arc::new(spec.schema.clone())),
            None => (before.spec.clone(), before.schema.clone()),
        };
        *self.durable.write() = Arc::new(Durable { state: group.state.clone(), spec, schema });
        inner.finished = group.number;
        inner.atomics.durable_through(group.number);
        inner.in_flight.clear();
        self.groups_finished.store(group.number, Ordering::Release);
        inner.keep(group);
        let finishes = inner.take_finishes(group.number);
        drop(inner);
        // Nobody is told of the group before it shows; writers need not wait for it.
        self.digest.show(group);
        finishes
    }

    /// Gives everything that is to be told, after a failure.
    pub(crate) fn abandon(&self) -> Vec<Finish> {
        self.inner.lock().take_finishes(u64::MAX)
    }
}

impl Inner {
    fn take_finishes(&mut self, through: u64) -> Vec<Finish> {
        let later = self.finishes.partition_point(|(group, _)| *group <= through);
        self.finishes.drain(..later).map(|(_, finish)| finish).collect()
    }

    /// Number of the group that takes what is accepted now.
    pub(crate) fn open_group(&self) -> u64 {
        self.open_group
    }

    /// The last group that is not durable, if there is one.
    pub(crate) fn last_pending_group(&self) -> Option<u64> {
        let last = if self.queued { self.open_group } else { self.open_group - 1 };
        (last > self.finished).then_some(last)
    }

    /// Calls back when a group is durable. It must not be so yet.
    pub(crate) fn when_durable(&mut self, group: u64, finish: Finish) {
        let place = self.finishes.partition_point(|(known, _)| *known <= group);
        self.finishes.insert(place, (group, finish));
    }

    /// Writes the table's spec with the next group.
    pub(crate) fn put_spec(&mut self) {
        self.schema = Arc::new(self.spec.schema.clone());
        self.part.spec_changed = true;
        self.part.writes.push(BatchWrite {
            space: Space::Meta,
            key: keys::table::encode_key(self.spec.id),
            value: Some(keys::table::encode_value(&self.spec)),
        });
    }
}
