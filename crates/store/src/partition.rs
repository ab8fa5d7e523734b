//! A partition in memory: what is durable, what is accepted and waits, and the lock between them.
//!
//! All that is accepted between two commits is one group. Rows of groups that are not durable are
//! in the overlay, so that the next change of a row is judged against what will be there; reads do
//! not look at it. The lock is held for the time it takes to judge, stamp and pack a change, never
//! across a read of the disk that could have been made before, and never across a commit.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use isthmus_digest::{Change, Hasher, Parts, changes_between};
use isthmus_model::entry::Entry;
use isthmus_model::expiry::{Expiry, add_expiry};
use isthmus_model::family::FamilyNumber;
use isthmus_model::hlc::{Hlc, Stamp};
use isthmus_model::ids::{Lsn, Origin, PartitionId, TableId};
use isthmus_model::key::EncodedKey;
use isthmus_model::row::{Row, expiry_bucket};
use isthmus_model::schema::Schema;
use parking_lot::{Mutex, RwLock};

use crate::codec::row::encode_row;
use crate::digest::{
    Checkpointing, LiveDigest, Measure, PartsCache, Rules, Silent, Stamped, Tag, families_of,
    kills_bucket, start_of_kills_bucket,
};
use crate::engine::{BatchWrite, Space};
use crate::error::StoreError;
use crate::keys;
use crate::keys::log::RecordBuilder;
use crate::keys::partition::{PartitionState, Watermark};
use crate::kills::Kills;
use crate::limits::LOG_RECORD_BYTES;
use crate::log_size::{LogSizes, Mark};
use crate::prepared::PreparedChanges;
use crate::spec::TableSpec;
use crate::table::{ConflictLog, Sweep};

/// Told how a group ended.
pub(crate) type Finish = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// What waits for the next commit of one partition.
#[derive(Default)]
pub(crate) struct Part {
    /// Rows, each once.
    pub(crate) rows: Vec<(EncodedKey, Option<Bytes>)>,
    /// What they change in the digest, in order.
    pub(crate) digest: Vec<Stamped>,
    /// Rows that entries name and that are in the digest as they were.
    pub(crate) silent: Vec<Silent>,
    /// The digest counts otherwise from here on and is built anew.
    pub(crate) digest_anew: bool,
    /// Log records, in order; the last one is open.
    pub(crate) records: Vec<RecordBuilder>,
    /// Other keys.
    pub(crate) writes: Vec<BatchWrite>,
    /// First stamps of the writes in it.
    pub(crate) begun: Vec<Hlc>,
    /// Bytes charged to the queue.
    pub(crate) bytes: usize,
    /// The table's spec changed.
    pub(crate) spec_changed: bool,
    /// The log begins anew, elsewhere.
    pub(crate) log_replaced: bool,
    /// The table goes.
    pub(crate) dropped: bool,
    /// Cells of all rows have expired.
    pub(crate) expired: bool,
}

/// A group taken by the committer.
pub(crate) struct Group {
    pub(crate) partition: Arc<Partition>,
    pub(crate) number: u64,
    pub(crate) part: Part,
    pub(crate) state: PartitionState,
    /// What its rows change in the digest, in order.
    pub(crate) digest: Arc<Vec<Stamped>>,
    pub(crate) spec: Option<Arc<TableSpec>>,
}

impl Group {
    /// Whether the partition's digest keeps anything of it.
    pub(crate) fn concerns_digest(&self) -> bool {
        !self.digest.is_empty() || !self.part.silent.is_empty() || self.part.digest_anew
    }
}

/// Groups whose rows stay in the overlay after they are durable, so that rows read from the
/// engine a moment before need not be read again.
const GROUPS_KEPT_MAX: usize = 4;
/// Bytes of rows in such groups.
const KEPT_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A row that is accepted and not durable, or was so a moment ago.
struct Overlaid {
    /// `None`: it is not kept.
    row: Option<Arc<Row>>,
    /// What of it is in the digest.
    parts: Parts,
    /// The group that has it last.
    group: u64,
    /// Its place in the rows of that group.
    place: usize,
}

/// What is under the lock.
pub(crate) struct Inner {
    /// As of the last accepted change.
    pub(crate) state: PartitionState,
    pub(crate) spec: TableSpec,
    pub(crate) schema: Arc<Schema>,
    pub(crate) dropped: bool,
    /// How rows are hashed; `None`: no digest is kept.
    hasher: Option<Hasher>,
    /// What of rows written lately is in the digest, and this digest's number there.
    cache: Arc<PartsCache>,
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
    /// Rows that the sweep is to look at one day.
    pub(crate) kills: Kills,
    /// What to tell when a group is durable, in order of groups.
    finishes: Vec<(u64, Finish)>,
}

struct Kept {
    group: u64,
    keys: Vec<EncodedKey>,
    bytes: usize,
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
}

/// Which entry makes a change; `stamp` is `None` for what no entry makes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At {
    pub(crate) lsn: Lsn,
    pub(crate) stamp: Option<Stamp>,
}

/// A row as the next change must see it.
pub(crate) enum Seen {
    /// Not durable yet, in this group.
    Pending(Option<Arc<Row>>, u64),
    /// Durable since a moment.
    Settled(Option<Arc<Row>>),
    /// What is read from the engine holds.
    Durable,
}

impl Partition {
    pub(crate) fn new(
        spec: TableSpec,
        state: PartitionState,
        digest: LiveDigest,
        cache: Arc<PartsCache>,
        (conflicts, prepared): (ConflictLog, PreparedChanges),
    ) -> Partition {
        let schema = Arc::new(spec.schema.clone());
        let durable =
            Durable { state: state.clone(), spec: Arc::new(spec.clone()), schema: schema.clone() };
        let hasher = (!digest.is_off()).then(|| digest.hasher.clone());
        let life = Arc::new(AtomicU64::new(cache.begin_life()));
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
            inner: Mutex::new(Inner {
                state,
                spec,
                schema,
                dropped: false,
                hasher,
                cache,
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
        let mut part = std::mem::take(&mut inner.part);
        let digest = Arc::new(std::mem::take(&mut part.digest));
        let number = inner.open_group;
        inner.open_group += 1;
        inner.state.groups += 1;
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

    /// Keeps the rows of a group that became durable for a moment.
    fn keep(&mut self, group: &Group) {
        let rows = &group.part.rows;
        let bytes = rows.iter().map(|(_, value)| value.as_ref().map_or(0, Bytes::len)).sum();
        let keys = rows.iter().map(|(key, _)| key.clone()).collect();
        self.kept.push_back(Kept { group: group.number, keys, bytes });
        let mut total: usize = self.kept.iter().map(|kept| kept.bytes).sum();
        while self.kept.len() > GROUPS_KEPT_MAX || total > KEPT_BYTES_MAX {
            let Some(oldest) = self.kept.pop_front() else { return };
            total -= oldest.bytes;
            for key in &oldest.keys {
                if self.overlay.get(key).is_some_and(|known| known.group <= oldest.group) {
                    self.overlay.remove(key);
                }
            }
        }
    }

    /// Whether rows read after `groups_finished` was asked are still the newest durable ones.
    pub(crate) fn is_current(&self, groups_finished: u64) -> bool {
        self.finished == groups_finished
    }

    /// Whether whatever became durable after `groups_finished` was asked is in the overlay.
    pub(crate) fn is_covered(&self, groups_finished: u64) -> bool {
        let oldest = self.kept.front().map_or(self.finished + 1, |kept| kept.group);
        groups_finished + 1 >= oldest
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

    /// How the next change must see a row.
    pub(crate) fn see(&self, key: &EncodedKey) -> Seen {
        match self.overlay.get(key) {
            Some(known) if known.group > self.finished => {
                Seen::Pending(known.row.clone(), known.group)
            }
            Some(known) => Seen::Settled(known.row.clone()),
            None => Seen::Durable,
        }
    }

    /// Keys in a range that are in the overlay, in order.
    pub(crate) fn overlaid_keys(
        &self,
        start: &EncodedKey,
        end: Option<&EncodedKey>,
    ) -> Vec<EncodedKey> {
        let inside = |key: &&EncodedKey| *key >= start && end.is_none_or(|end| *key < end);
        self.overlay.keys().filter(inside).cloned().collect()
    }

    /// Sets right what is known of a row in the digest.
    pub(crate) fn know_parts(&mut self, key: &EncodedKey, parts: Parts) {
        if let Some(tag) = self.tag(key) {
            self.cache.put(tag, &parts);
        }
        if let Some(known) = self.overlay.get_mut(key) {
            known.parts = parts;
        }
    }

    /// Keys in a range that wait to become durable, in order.
    pub(crate) fn pending_keys(
        &self,
        start: &EncodedKey,
        end: Option<&EncodedKey>,
    ) -> Vec<EncodedKey> {
        if end.is_some_and(|end| end <= start) {
            return Vec::new();
        }
        let end = end.map_or(Bound::Unbounded, Bound::Excluded);
        let range = self.overlay.range::<EncodedKey, _>((Bound::Included(start), end));
        let pending = range.filter(|(_, known)| known.group > self.finished);
        pending.map(|(key, _)| key.clone()).collect()
    }

    /// Accepts a row as it is from now on. Forgets what is below the horizon. `before` is what of
    /// the row was in the digest (`parts_of`).
    pub(crate) fn put_row(
        &mut self,
        key: EncodedKey,
        before: Parts,
        mut row: Row,
        horizon: Hlc,
        at: At,
    ) {
        row.purge(horizon);
        self.raise_kills_floor(horizon, at);
        let (row, value) = match row.is_bare() {
            true => (None, None),
            false => {
                let value = encode_row(&row);
                (Some(Arc::new(row)), Some(value))
            }
        };
        let parts = match (&row, &value) {
            (Some(row), Some(value)) => self.measure_row(&key, row, value),
            (Some(_) | None, Some(_) | None) => Parts::new(),
        };
        self.change_digest(&key, before, &parts, at);
        self.part.bytes += key.0.len() + value.as_ref().map_or(0, Bytes::len);
        self.store_row(key, row, value, parts);
    }

    /// Accepts bytes of a row, and says nothing of it to the digest.
    pub(crate) fn store_row(
        &mut self,
        key: EncodedKey,
        row: Option<Arc<Row>>,
        value: Option<Bytes>,
        parts: Parts,
    ) {
        if let Some(tag) = self.tag(&key) {
            self.cache.put(tag, &parts);
        }
        if let Some(row) = &row {
            self.note_kills(&key, row);
        }
        let group = self.open_group;
        match self.overlay.get_mut(&key) {
            Some(known) if known.group == group => {
                known.row = row;
                known.parts = parts;
                self.part.rows[known.place].1 = value;
            }
            _ => {
                let place = self.part.rows.len();
                self.part.rows.push((key.clone(), value));
                self.overlay.insert(key, Overlaid { row, parts, group, place });
            }
        }
    }

    /// Takes note of what the sweep will find in a row.
    pub(crate) fn note_kills(&mut self, key: &EncodedKey, row: &Row) {
        if let Some(newest) = row.newest_kill() {
            self.kills.note(kills_bucket(newest), key);
        }
    }

    fn change_digest(&mut self, key: &EncodedKey, mut before: Parts, after: &Parts, at: At) {
        if self.hasher.is_none() {
            return;
        }
        let rules = &self.state.rules;
        before.retain(|lane| rules.counts(lane));
        let mut changes = Vec::new();
        changes_between(&key.0, &before, after, &mut changes);
        if changes.is_empty() && at.stamp.is_some() {
            self.part.silent.push(Silent { key: key.0.clone(), lsn: at.lsn });
        }
        for change in changes {
            self.part.bytes += key.0.len();
            self.part.digest.push(Stamped { change, lsn: at.lsn, stamp: at.stamp });
        }
    }

    /// Lanes of kills that are wholly below the horizon count no more.
    fn raise_kills_floor(&mut self, horizon: Hlc, at: At) {
        let floor = kills_bucket(horizon);
        let many = self.spec.writers.are_many();
        if many {
            self.drop_kills_below(floor, at);
        }
    }

    /// Kills below this bucket may be gone here, and count no more.
    pub(crate) fn drop_kills_below(&mut self, floor: u64, at: At) {
        if floor > self.state.rules.kills_floor {
            self.state.rules.kills_floor = floor;
            self.drop_lanes(Change::DropKills(floor), at);
        }
    }

    fn drop_lanes(&mut self, change: Change, at: At) {
        if self.hasher.is_some() {
            self.part.digest.push(Stamped { change, lsn: at.lsn, stamp: at.stamp });
        }
    }

    fn measure_row(&self, key: &EncodedKey, row: &Row, value: &Bytes) -> Parts {
        let Some(hasher) = &self.hasher else { return Parts::new() };
        let may_hold_kills = self.spec.writers.are_many();
        let families = &self.schema.options.families;
        let rules = &self.state.rules;
        Measure { hasher, rules, families, may_hold_kills }.of_row(&key.0, row, value)
    }

    /// What of a row is in the digest, if the overlay tells, or else by the row as it is known to
    /// be in the engine.
    pub(crate) fn parts_of(&self, key: &EncodedKey, stored: Option<&Row>) -> Parts {
        match (self.overlay.get(key), stored) {
            (Some(known), _) => known.parts.clone(),
            (None, Some(row)) if self.hasher.is_some() => {
                self.measure_row(key, row, &encode_row(row))
            }
            (None, Some(_) | None) => Parts::new(),
        }
    }

    /// What of a row is in the digest, if it is in the overlay.
    pub(crate) fn parts_overlaid(&self, key: &EncodedKey) -> Option<Parts> {
        self.overlay.get(key).map(|known| known.parts.clone())
    }

    /// The name of a row in the cache of parts.
    fn tag(&self, key: &EncodedKey) -> Option<Tag> {
        let life = self.life.load(Ordering::Relaxed);
        self.hasher.as_ref().map(|hasher| PartsCache::tag(hasher, life, &key.0))
    }

    /// Nothing is known of rows written lately but by the overlay: the digest has come to say
    /// otherwise what they are.
    pub(crate) fn forget_parts(&mut self) {
        self.life.store(self.cache.begin_life(), Ordering::Relaxed);
    }

    /// What of a row is in the digest, if it was written lately.
    pub(crate) fn parts_cached(&self, key: &EncodedKey) -> Option<Parts> {
        self.tag(key).and_then(|tag| self.cache.get(tag))
    }

    /// Whether a digest is kept.
    pub(crate) fn has_digest(&self) -> bool {
        self.hasher.is_some()
    }

    /// A change of the schema changes what the digest counts where it changes how long cells live
    /// so that what would have been dropped may stay, or which of them live otherwise.
    pub(crate) fn follow_schema(&mut self, before: Option<u32>, after: Option<u32>) {
        let lives_longer = match (before, after) {
            (Some(before), Some(after)) => after > before,
            (Some(_), None) | (None, Some(_)) => true,
            (None, None) => false,
        };
        let families = families_of(&self.schema);
        if lives_longer || families != self.state.rules.families {
            self.begin_digest_anew(Rules::of(&self.spec.schema, &self.state.expiry));
        }
    }

    /// Makes the digest count what that of another replica counts.
    pub(crate) fn take_rules(&mut self, rules: &Rules) {
        if !rules.measure_alike(&self.state.rules) {
            self.begin_digest_anew(rules.clone());
        }
    }

    fn begin_digest_anew(&mut self, rules: Rules) {
        let kills_floor = self.state.rules.kills_floor;
        // Also where no digest is kept now: one may be built some day.
        self.state.rules = Rules { kills_floor, ..rules };
        if self.hasher.is_none() {
            return;
        }
        self.forget_parts();
        self.part.digest.clear();
        self.part.digest_anew = true;
        // In front, so that the floor is there when the rest comes.
        let lsn = self.state.lsn;
        let change = Change::DropKills(kills_floor);
        self.part.digest.push(Stamped { change, lsn, stamp: None });
        let mut overlay = std::mem::take(&mut self.overlay);
        for (key, known) in &mut overlay {
            known.parts = match &known.row {
                Some(row) => self.measure_row(key, row, &encode_row(row)),
                None => Parts::new(),
            };
        }
        self.overlay = overlay;
    }

    /// Appends an entry to the log; its LSN follows the last one, or leaves out what was left out.
    pub(crate) fn push_entry(&mut self, entry: &Entry) {
        let record = self.open_record();
        let before = record.size();
        record.push(entry);
        let grown = record.size() - before;
        self.part.bytes += grown;
        self.state.lsn = entry.lsn;
        self.state.hlc = self.state.hlc.max(entry.stamp.hlc);
    }

    /// Makes the log reach `last`, with no entry there.
    pub(crate) fn cover_log(&mut self, last: Lsn) {
        if last > self.state.lsn {
            self.open_record().cover(last);
            self.state.lsn = last;
        }
    }

    fn open_record(&mut self) -> &mut RecordBuilder {
        let next = self.state.lsn.next();
        let records = &mut self.part.records;
        if records.last().is_none_or(|record| record.size() >= LOG_RECORD_BYTES) {
            records.push(RecordBuilder::new(next));
        }
        let last = records.len() - 1;
        &mut records[last]
    }

    /// The address and epoch that the next own entry gets.
    pub(crate) fn next_lsn(&self) -> Lsn {
        self.state.lsn.next()
    }

    /// What is applied of an origin, counting what is accepted.
    pub(crate) fn watermark(&self, own: Origin, origin: Origin) -> (Lsn, Hlc) {
        watermark_in(&self.state, &self.spec, own, origin)
    }

    /// Takes note of an expiry of all rows.
    pub(crate) fn expire(&mut self, expiry: Expiry, at: At) {
        add_expiry(&mut self.state.expiry, expiry);
        self.part.expired = true;
        let own_time = self.schema.options.families.with_own_time();
        if !own_time.is_within(expiry.spared) {
            // No lane is theirs alone, so what has gone of them is left out by counting anew.
            return self.begin_digest_anew(Rules::of(&self.schema, &self.state.expiry));
        }
        if expiry.spared.has(FamilyNumber::NONE) {
            return;
        }
        let floor = expiry_bucket(expiry.trim.below);
        let rules = &mut self.state.rules;
        if rules.time_lanes && floor > rules.time_floor {
            rules.time_floor = floor;
            self.drop_lanes(Change::DropTime(floor), at);
        }
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

    /// With one writer, remembers which origins this log holds.
    pub(crate) fn note_origin(&mut self, stamp: Stamp, lsn: Lsn) {
        self.state.set_watermark(Watermark { origin: stamp.origin, lsn, hlc: stamp.hlc });
    }
}

fn log_sizes(state: &PartitionState) -> LogSizes {
    let (start, end) = (state.log_bytes_before.min(state.log_bytes), state.log_bytes);
    let last = state.hlc.millis();
    // Not known of a log that an earlier version wrote.
    let first = if state.log_start_millis == 0 { last } else { state.log_start_millis };
    LogSizes::new(
        Mark { lsn: state.log_start, bytes: start, millis: first.min(last) },
        Mark { lsn: state.lsn, bytes: end, millis: last },
    )
}

/// What is applied of an origin.
///
/// With one writer all origins share one sequence of LSNs, so that the log's end is the watermark
/// of each. With several, an origin that was not heard from stands before its first entry.
pub(crate) fn watermark_in(
    state: &PartitionState,
    spec: &TableSpec,
    own: Origin,
    origin: Origin,
) -> (Lsn, Hlc) {
    if !spec.writers.are_many() || origin == own {
        return (state.lsn, state.hlc);
    }
    state.watermark(origin).map_or_else(Default::default, |known| (known.lsn, known.hlc))
}

/// The watermarks of all origins that are known of, this region's own among them.
pub(crate) fn vector_in(state: &PartitionState, spec: &TableSpec, own: Origin) -> Vec<Watermark> {
    let mut origins: Vec<Origin> = state.watermarks.iter().map(|known| known.origin).collect();
    if !origins.contains(&own) {
        origins.push(own);
        origins.sort_unstable();
    }
    let watermark = |origin| {
        let (lsn, hlc) = watermark_in(state, spec, own, origin);
        Watermark { origin, lsn, hlc }
    };
    origins.into_iter().map(watermark).collect()
}
