//! A node's tables on one engine.
//!
//! Opening reads what tables there are; everything after that which changes anything goes through
//! the committer. `run_committer` wants a thread of its own; a simulation calls `commit_step`
//! instead. Background work (`expire_step`, `sweep_step`) is bounded, may be repeated at will and
//! is started by whoever has a timer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use isthmus_digest::{Hasher, Tree};
use isthmus_model::change::Direction;
use isthmus_model::clock::Clock;
use isthmus_model::hlc::Hlc;
use isthmus_model::ids::{Epoch, Lsn, Origin, PartitionId, TableId, id_of_region};
use isthmus_model::value::Text;
use parking_lot::{Mutex, RwLock};

use crate::atomic::Atomics;
use crate::core::{Core, DurableHook, FatalHook, SpecHook};
use crate::counters::Counters;
use crate::digest::{LiveDigest, Rules};
use crate::engine::{BatchWrite, Engine, EngineError, Snapshot, Space};
use crate::error::StoreError;
use crate::forget;
use crate::keys;
use crate::keys::digest_mark::Mark;
use crate::keys::node::NodeState;
use crate::keys::partition::PartitionState;
use crate::limits;
use crate::partition::Partition;
use crate::pending::Pending;
use crate::prepared::PreparedChanges;
use crate::spec::{TableSpec, Writers, Writing};
use crate::table::{ConflictLog, Table};

/// How a store behaves.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The number of this region.
    pub origin: Origin,
    /// How far an origin's clock may be ahead of ours.
    pub skew_max: Duration,
    /// Bytes that may wait for the committer.
    pub queue_bytes_max: usize,
    /// Newest log records kept in memory.
    pub log_tail_bytes_max: usize,
    /// Memory for what rows were, of tables that are read as of cuts.
    pub past_bytes_max: usize,
    /// Room kept free on the disk.
    pub space_reserve_bytes: u64,
    /// Compress log records where that saves something.
    pub log_compression: bool,
    /// Memory for what of rows written lately is in the digest, 32 bytes a row: a change that
    /// replaces a row found there need not read it first.
    pub parts_cache_bytes: usize,
    /// Keep digests. Without them replicas cannot be compared but by reading everything.
    pub digests: bool,
}

impl StoreOptions {
    /// The defaults, for a region.
    pub fn new(origin: Origin) -> StoreOptions {
        StoreOptions {
            origin,
            skew_max: limits::SKEW_MAX,
            queue_bytes_max: limits::QUEUE_BYTES_MAX,
            log_tail_bytes_max: limits::LOG_TAIL_BYTES_MAX,
            past_bytes_max: limits::PAST_BYTES_MAX,
            space_reserve_bytes: limits::SPACE_RESERVE_BYTES,
            log_compression: true,
            parts_cache_bytes: limits::PARTS_CACHE_BYTES,
            digests: true,
        }
    }
}

#[derive(Default)]
struct Tables {
    by_id: BTreeMap<TableId, Arc<Table>>,
    by_name: BTreeMap<Text, TableId>,
    by_partition: BTreeMap<PartitionId, TableId>,
    /// Names and numbers of tables that are being made.
    coming: BTreeSet<(TableId, Text)>,
}

impl Tables {
    fn insert(&mut self, spec: &TableSpec, table: Arc<Table>) {
        // One that is dropped leaves its name to others, and may come back: an end that nobody goes
        // on from was none.
        if !spec.schema.options.is_dropped || !self.by_name.contains_key(&spec.name) {
            self.by_name.insert(spec.name.clone(), spec.id);
        }
        self.by_partition.insert(spec.partition, spec.id);
        self.by_id.insert(spec.id, table);
    }

    fn remove(&mut self, spec: &TableSpec) {
        if self.by_name.get(&spec.name) == Some(&spec.id) {
            self.by_name.remove(&spec.name);
        }
        self.by_partition.remove(&spec.partition);
        self.by_id.remove(&spec.id);
    }

    /// The table of that name, unless it is dropped.
    fn named(&self, name: &[u8]) -> Option<&Arc<Table>> {
        let table = self.by_id.get(self.by_name.get(name)?)?;
        (!table.is_dropped()).then_some(table)
    }

    fn has(&self, spec: &TableSpec) -> bool {
        self.by_id.contains_key(&spec.id)
            || self.named(spec.name.as_bytes()).is_some()
            || self.by_partition.contains_key(&spec.partition)
            || self.coming.iter().any(|(id, name)| *id == spec.id || *name == spec.name)
    }
}

struct Ids {
    next: u64,
    /// Durable: ids below it may be given.
    reserved: u64,
    /// Asked for.
    asked: u64,
}

/// A node's tables on one engine.
pub struct Store {
    core: Arc<Core>,
    tables: Arc<RwLock<Tables>>,
    ids: Arc<Mutex<Ids>>,
}

impl Store {
    /// Opens what the engine holds. Blocks.
    pub fn open(
        engine: Arc<dyn Engine>,
        clock: Arc<dyn Clock>,
        options: StoreOptions,
    ) -> Result<Arc<Store>, StoreError> {
        let snapshot = engine.snapshot()?;
        let node = match snapshot.get(Space::Meta, &keys::node::encode_key())? {
            Some(bytes) => keys::node::decode_value(&bytes)
                .map_err(StoreError::corrupt("record of the node"))?,
            None => NodeState::default(),
        };
        let reserved = node.ids_reserved;
        let core = Arc::new(Core::new(engine, clock, options, node));
        let mut tables = Tables::default();
        for partition in read_tables(&core, &*snapshot)? {
            let log_start = partition.durable().state.log_start;
            if log_start.0 > 0 {
                forget::forget(&*core.engine, &partition, log_start)?;
            }
            let spec = partition.durable().spec.clone();
            tables.insert(&spec, Arc::new(Table::new(core.clone(), Arc::new(partition))));
        }
        for table in tables.by_id.values() {
            table.begin_digest_if_missing();
            core.digests_due.lock().insert(table.partition());
            core.sweeps_due.lock().insert(table.partition());
        }
        let ids = Ids { next: reserved, reserved, asked: reserved };
        let store =
            Store { core, tables: Arc::new(RwLock::new(tables)), ids: Arc::new(Mutex::new(ids)) };
        store.drop_leftovers(&*snapshot)?;
        if !store.core.options.digests {
            store.drop_digest_marks(&*snapshot)?;
        }
        store.reserve_more_ids(&mut store.ids.lock());
        store.core.ask_for_ceiling();
        // Nobody else can commit yet, so that ids and promises are there from the start.
        store.commit_step();
        store.core.check_alive()?;
        store.core.look_at_space();
        Ok(Arc::new(store))
    }

    /// Finishes drops that a crash has cut short.
    fn drop_leftovers(&self, snapshot: &dyn Snapshot) -> Result<(), StoreError> {
        let (start, end) = keys::dropped::range();
        for pair in snapshot.scan(Space::Meta, &start, Some(&end), Direction::Forward) {
            let (key, _) = pair?;
            let partition = keys::dropped::decode_key(&key)
                .map_err(StoreError::corrupt("record of a dropped table"))?;
            self.core.engine.drop_partition(partition)?;
            let write = BatchWrite { space: Space::Meta, key, value: None };
            self.core.enqueue_loose(vec![write], Box::new(|_| {}));
        }
        Ok(())
    }

    /// What changes from here on is not in the digests: they must be built anew one day.
    fn drop_digest_marks(&self, snapshot: &dyn Snapshot) -> Result<(), StoreError> {
        let (start, end) = keys::digest_mark::range();
        for pair in snapshot.scan(Space::Meta, &start, Some(&end), Direction::Forward) {
            let (key, _) = pair?;
            let write = BatchWrite { space: Space::Meta, key, value: None };
            self.core.enqueue_loose(vec![write], Box::new(|_| {}));
        }
        Ok(())
    }

    /// The number of this region.
    pub fn origin(&self) -> Origin {
        self.core.options.origin
    }

    /// Whether rows of any table may be locked by intents: cheap, and never no where one is.
    pub fn may_be_locked(&self) -> bool {
        self.core.locking.load(Ordering::Acquire) > 0
    }

    /// The number of this life of the store: greater than that of every earlier one on this disk,
    /// whatever the wall clock says.
    pub fn life(&self) -> u64 {
        self.core.life_number
    }

    /// Makes a table, empty. Its numbers must never have been used.
    pub fn create_table(&self, spec: TableSpec) -> Pending<Arc<Table>> {
        Pending::from_result(self.try_create_table(spec))
    }

    fn try_create_table(&self, spec: TableSpec) -> Result<Pending<Arc<Table>>, StoreError> {
        self.core.admit()?;
        let mut tables = self.tables.write();
        if tables.has(&spec) {
            return Err(StoreError::TableExists(spec.name));
        }
        tables.coming.insert((spec.id, spec.name.clone()));
        drop(tables);
        let rules = Rules::of(&spec.schema, &[]);
        let mut state = PartitionState { epoch: spec.epoch, rules, ..PartitionState::default() };
        state.lives.begin(self.core.life, Lsn(0));
        let put = |key, value| BatchWrite { space: Space::Meta, key, value: Some(value) };
        let mut writes = vec![
            put(keys::table::encode_key(spec.id), keys::table::encode_value(&spec)),
            put(keys::partition::encode_key(spec.partition), keys::partition::encode_value(&state)),
        ];
        let digest = match self.core.options.digests {
            true => {
                let mark = Mark::default();
                let key = keys::digest_mark::encode_key(spec.partition);
                writes.push(put(key, keys::digest_mark::encode_value(mark)));
                LiveDigest::new(hasher_of(&spec), (0, Lsn(0)), Some((mark, Tree::new())))
            }
            false => LiveDigest::off(hasher_of(&spec)),
        };
        let partition = Partition::new(
            spec.clone(),
            state,
            digest,
            self.core.parts.clone(),
            Default::default(),
            self.core.locking.clone(),
        );
        // It has no rows that could remember anything.
        partition.kills_counted.store(true, Ordering::Release);
        let table = Arc::new(Table::new(self.core.clone(), Arc::new(partition)));
        let tables = self.tables.clone();
        let (answer, pending) = Pending::new();
        let finish = move |done: Result<(), StoreError>| {
            let mut tables = tables.write();
            tables.coming.remove(&(spec.id, spec.name.clone()));
            if done.is_ok() {
                tables.insert(&spec, table.clone());
            }
            drop(tables);
            answer.give(done.map(|()| table));
        };
        self.core.enqueue_loose(writes, Box::new(finish));
        Ok(pending)
    }

    /// Removes a table and, soon after, all its bytes.
    pub fn drop_table(&self, id: TableId) -> Pending<()> {
        Pending::from_result(self.try_drop_table(id, false))
    }

    /// The same, but refused as busy while the table has decided batches that members have not all
    /// made: nobody else could tell them.
    pub fn drop_table_if_settled(&self, id: TableId) -> Pending<()> {
        Pending::from_result(self.try_drop_table(id, true))
    }

    fn try_drop_table(&self, id: TableId, is_asked: bool) -> Result<Pending<()>, StoreError> {
        self.core.check_alive()?;
        let table = self.table(id).ok_or(StoreError::NoTable(id))?;
        let (answer, pending) = Pending::new();
        let tables = self.tables.clone();
        let spec = table.spec();
        let finish = move |done: Result<(), StoreError>| {
            if done.is_ok() {
                tables.write().remove(&spec);
            }
            answer.give(done);
        };
        table.drop_all(is_asked, Box::new(finish))?;
        Ok(pending)
    }

    /// Says who writes a table from here on, under which epoch.
    ///
    /// One writer can become several while it is alone: the others are new, their logs begin at 0,
    /// and they begin with a copy of the rows, since the log here begins anew where it is. The way
    /// back needs a full copy and is refused.
    pub fn set_writing(
        &self,
        id: TableId,
        writing: Writing,
        writers: Writers,
        epoch: Epoch,
    ) -> Pending<()> {
        match self.table(id) {
            Some(table) => table.set_writing(writing, writers, epoch),
            None => Pending::ready(Err(StoreError::NoTable(id))),
        }
    }

    /// Begins a table with one writer anew where one of that number is held from an earlier
    /// binding: clients may not write here, and `writer` does in that epoch, whatever the log here
    /// says.
    pub fn forget_writer(&self, id: TableId, writer: Origin, epoch: Epoch) -> Pending<()> {
        match self.table(id) {
            Some(table) => table.forget_writer(writer, epoch),
            None => Pending::ready(Err(StoreError::NoTable(id))),
        }
    }

    /// The table with a number.
    pub fn table(&self, id: TableId) -> Option<Arc<Table>> {
        self.tables.read().by_id.get(&id).cloned()
    }

    /// The table with a name. One that is dropped has none any more.
    pub fn table_by_name(&self, name: &str) -> Option<Arc<Table>> {
        self.tables.read().named(name.as_bytes()).cloned()
    }

    /// The table with a name, also one that is dropped, as long as anything of it is kept.
    pub fn table_held_by_name(&self, name: &str) -> Option<Arc<Table>> {
        let tables = self.tables.read();
        let known = tables.by_name.get(name.as_bytes()).and_then(|id| tables.by_id.get(id));
        // One that is dropped may have left its name to another that has gone since.
        let mut all = tables.by_id.values();
        known.or_else(|| all.find(|table| table.name().as_str() == name)).cloned()
    }

    /// The table that a partition belongs to.
    pub fn table_of_partition(&self, partition: PartitionId) -> Option<Arc<Table>> {
        let tables = self.tables.read();
        let id = tables.by_partition.get(&partition)?;
        tables.by_id.get(id).cloned()
    }

    /// All tables, by number.
    pub fn tables(&self) -> Vec<Arc<Table>> {
        self.tables.read().by_id.values().cloned().collect()
    }

    /// An id that no region has given and none will give again. Ids are reserved in durable
    /// blocks; if the next block is late this is refused as busy.
    pub fn reserve_id(&self) -> Result<u64, StoreError> {
        let mut ids = self.ids.lock();
        let left = ids.reserved.saturating_sub(ids.next);
        if left <= limits::ID_BLOCK / 2 && ids.asked == ids.reserved {
            self.reserve_more_ids(&mut ids);
        }
        if left == 0 {
            return Err(StoreError::Busy);
        }
        ids.next += 1;
        Ok(id_of_region(self.origin(), ids.next))
    }

    /// Leaves out so many ids that none is given which was given since the disk here was copied.
    pub fn leave_out_ids(&self) {
        let mut ids = self.ids.lock();
        ids.next += limits::IDS_LEFT_OUT;
        self.reserve_more_ids(&mut ids);
    }

    fn reserve_more_ids(&self, ids: &mut Ids) {
        let asked = ids.reserved.max(ids.next) + limits::ID_BLOCK;
        ids.asked = asked;
        let state = NodeState { ids_reserved: asked, ..NodeState::default() };
        let write = BatchWrite {
            space: Space::Meta,
            key: keys::node::encode_key(),
            value: Some(keys::node::encode_value(&state)),
        };
        let ids = self.ids.clone();
        let finish = move |done: Result<(), StoreError>| {
            let mut ids = ids.lock();
            match done {
                Ok(()) => ids.reserved = ids.reserved.max(asked),
                Err(_) => ids.asked = ids.reserved,
            }
        };
        self.core.enqueue_loose(vec![write], Box::new(finish));
    }

    /// A moment below which this node issues nothing more, and below which all that it has issued
    /// is durable and in its logs. Never goes back, not even over a restart.
    pub fn promise(&self) -> Hlc {
        let (promise, ceiling_is_low) = self.core.stamps.promise(self.core.wall_millis());
        if ceiling_is_low && self.core.check_alive().is_ok() {
            self.core.ask_for_ceiling();
        }
        promise
    }

    /// Another region has had something of this one with this moment: nothing is stamped before
    /// it, even if the disk here is an old one.
    pub fn rise_to(&self, moment: Hlc) {
        self.core.stamps.rise_to(moment, self.core.wall_millis());
    }

    /// Bytes in memory of what rows were, for reads as of cuts.
    pub fn past_bytes(&self) -> usize {
        self.core.past.bytes()
    }

    /// What was done since it was opened.
    pub fn counters(&self) -> &Counters {
        &self.core.counters
    }

    /// Why no writes are accepted at the moment; `None`: they are.
    pub fn refuses_writes(&self) -> Option<StoreError> {
        self.core.refuses()
    }

    /// Whether upkeep is to wait: too much waits already, and more of it would hold up clients.
    pub fn is_too_busy_for_upkeep(&self) -> bool {
        matches!(self.core.admit_upkeep(), Err(StoreError::Busy))
    }

    /// How old the oldest write is that is not durable yet; zero where all are. A disk that hangs
    /// or is slow shows here.
    pub fn oldest_not_durable(&self) -> Duration {
        self.core.oldest_not_durable()
    }

    /// Bytes that can still be written to its disk, the reserve included.
    pub fn space_left(&self) -> Result<u64, StoreError> {
        Ok(self.core.engine.space_left()?)
    }

    /// Keeps a small named record.
    pub fn put_note(&self, name: &[u8], note: &[u8]) -> Pending<()> {
        self.write_note(name, Some(note))
    }

    /// Forgets a named record.
    pub fn delete_note(&self, name: &[u8]) -> Pending<()> {
        self.write_note(name, None)
    }

    /// Writes a named record, or forgets it, however much waits for the committer: for what must
    /// become durable with what is accepted after it. To be used for little.
    pub fn note_surely(&self, name: &[u8], note: Option<&[u8]>) -> Pending<()> {
        self.write_checked_note(self.core.check_alive(), name, note)
    }

    fn write_note(&self, name: &[u8], note: Option<&[u8]>) -> Pending<()> {
        self.write_checked_note(self.core.admit(), name, note)
    }

    fn write_checked_note(
        &self,
        admitted: Result<(), StoreError>,
        name: &[u8],
        note: Option<&[u8]>,
    ) -> Pending<()> {
        let checked = admitted.and_then(|()| check_note(name, note));
        if let Err(error) = checked {
            return Pending::ready(Err(error));
        }
        let (answer, pending) = Pending::new();
        let write = note_write(name, note);
        self.core.enqueue_loose(vec![write], Box::new(|done| answer.give(done)));
        pending
    }

    /// A named record.
    pub fn note(&self, name: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let value = self.core.engine.get(Space::Meta, &keys::note::encode_key(name))?;
        Ok(value.map(|bytes| keys::note::decode_value(&bytes)))
    }

    /// The named records whose names begin with `prefix`, by name.
    pub fn notes(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let (start, end) = keys::note::range(prefix);
        let snapshot = self.core.engine.snapshot()?;
        let scan = snapshot.scan(Space::Meta, &start, Some(&end), Direction::Forward);
        let note = |pair: Result<(Bytes, Bytes), EngineError>| {
            let (key, value) = pair?;
            let name = keys::note::decode_key(&key).map_err(StoreError::corrupt("note"))?;
            Ok((name, keys::note::decode_value(&value)))
        };
        scan.map(note).collect()
    }

    /// Commits all that waits, as one batch, and answers. Gives whether there was anything.
    pub fn commit_step(&self) -> bool {
        self.core.commit_step()
    }

    /// Commits what comes, until `stop` is called and nothing waits. Wants a thread.
    pub fn run_committer(&self) {
        self.core.run_committer();
    }

    /// Accepts nothing more; what waits is still committed.
    pub fn stop(&self) {
        self.core.stop();
    }

    /// Stops, commits what waits and closes the engine. Call it after the committer has ended.
    pub fn close(&self) -> Result<(), StoreError> {
        self.stop();
        while self.commit_step() {}
        for table in self.tables() {
            table.checkpoint_digest_at_close();
        }
        while self.commit_step() {}
        self.core.settle_ceiling()?;
        self.core.engine.close()?;
        Ok(())
    }

    /// Logs, for every table whose cells expire and that this region may speak for, what has
    /// expired since a minute ago or longer. Gives whether it logged anything.
    pub fn expire_step(&self) -> bool {
        let mut done = false;
        for table in self.tables() {
            done |= table.expire_step();
        }
        done
    }

    /// Takes one bounded step of removing from the disk what has expired and what no region needs
    /// to remember. Gives whether there may be more to do right away. A table of which nothing can
    /// go costs nothing. May refuse while much waits for the committer.
    pub fn sweep_step(&self) -> bool {
        let due: Vec<PartitionId> = {
            let due = self.core.sweeps_due.lock();
            due.iter().take(limits::SWEEP_TABLES).copied().collect()
        };
        let mut more = false;
        let mut left = Vec::new();
        for partition in &due {
            // Taken out first, so that a horizon which moves meanwhile puts it in again.
            self.core.sweeps_due.lock().remove(partition);
            let Some(table) = self.table_of_partition(*partition) else { continue };
            match table.sweep_step() {
                Ok(false) => {}
                Ok(true) => {
                    more = true;
                    left.push(*partition);
                }
                Err(error) => {
                    tracing::debug!(table = %table.id(), %error, "sweep waits");
                    left.push(*partition);
                }
            }
        }
        let mut due = self.core.sweeps_due.lock();
        more |= !due.is_empty();
        due.extend(left);
        more
    }

    /// How many rows wait for the sweep, at most, over all tables.
    pub fn rows_to_sweep(&self) -> u64 {
        let due: Vec<PartitionId> = self.core.sweeps_due.lock().iter().copied().collect();
        let tables = due.into_iter().filter_map(|partition| self.table_of_partition(partition));
        tables.map(|table| table.rows_to_sweep()).sum()
    }

    /// Takes a bounded step of the upkeep of each digest that has changed: building, splitting,
    /// checkpoints. Gives whether there may be more to do right away. A table that rests costs
    /// nothing.
    pub fn digest_step(&self) -> bool {
        let due: Vec<PartitionId> = self.core.digests_due.lock().iter().copied().collect();
        let mut more = false;
        for partition in due {
            // Taken out first, so that a change which comes meanwhile puts it in again.
            self.core.digests_due.lock().remove(&partition);
            let Some(table) = self.table_of_partition(partition) else { continue };
            match table.digest_step() {
                Ok(left) => more |= left,
                Err(error) => tracing::debug!(table = %table.id(), %error, "digest waits"),
            }
            if !table.digest_rests() {
                self.core.digests_due.lock().insert(partition);
            }
        }
        more
    }

    /// Calls back after each commit, for each partition it moved. The callback must be quick and
    /// must not commit.
    pub fn on_durable(&self, hook: DurableHook) {
        self.core.add_durable_hook(hook);
    }

    /// Calls back after each commit that changed what a table is or who writes it. The callback
    /// must be quick and must not commit.
    pub fn on_spec(&self, hook: SpecHook) {
        self.core.add_spec_hook(hook);
    }

    /// Calls back once when a commit has failed: the process must end and open the engine anew.
    pub fn on_fatal(&self, hook: FatalHook) {
        self.core.add_fatal_hook(hook);
    }
}

/// Checks the bounds of a note.
pub(crate) fn check_note(name: &[u8], note: Option<&[u8]>) -> Result<(), StoreError> {
    if name.len() > limits::NOTE_NAME_BYTES_MAX {
        return Err(StoreError::TooLarge("name of a note"));
    }
    if note.is_some_and(|note| note.len() > limits::NOTE_BYTES_MAX) {
        return Err(StoreError::TooLarge("note"));
    }
    Ok(())
}

/// The write of a note; `None` removes it.
pub(crate) fn note_write(name: &[u8], note: Option<&[u8]>) -> BatchWrite {
    BatchWrite {
        space: Space::Meta,
        key: keys::note::encode_key(name),
        value: note.map(keys::note::encode_value),
    }
}

fn hasher_of(spec: &TableSpec) -> Hasher {
    Hasher::for_table(spec.id.0, spec.created_millis)
}

fn read_tables(core: &Core, snapshot: &dyn Snapshot) -> Result<Vec<Partition>, StoreError> {
    let (start, end) = keys::table::range();
    let mut partitions = Vec::new();
    for pair in snapshot.scan(Space::Meta, &start, Some(&end), Direction::Forward) {
        let (_, value) = pair?;
        let spec =
            keys::table::decode_value(&value).map_err(StoreError::corrupt("record of a table"))?;
        let mut state = read_state(snapshot, spec.partition)?;
        let hasher = hasher_of(&spec);
        let digest = match core.options.digests {
            true => {
                let end = (state.groups, state.lsn);
                LiveDigest::load(snapshot, spec.partition, hasher, end)?
            }
            false => LiveDigest::off(hasher),
        };
        // A table of a format that had no digests; else the rules are what every region has.
        if state.groups == 0 && digest.lock().mark.is_none() {
            state.rules = Rules::of(&spec.schema, &state.expiry);
        }
        state.lives.begin(core.life, state.lsn);
        let conflicts = ConflictLog::read(snapshot, spec.partition)?;
        let prepared = PreparedChanges::read(snapshot, spec.partition, &state)?;
        let kept = (conflicts, prepared, Atomics::read(snapshot, spec.partition)?);
        partitions.push(Partition::new(
            spec,
            state,
            digest,
            core.parts.clone(),
            kept,
            core.locking.clone(),
        ));
    }
    Ok(partitions)
}

/// A partition's state as a snapshot has it.
pub(crate) fn read_state(
    snapshot: &dyn Snapshot,
    partition: PartitionId,
) -> Result<PartitionState, StoreError> {
    let key = keys::partition::encode_key(partition);
    let damaged = StoreError::corrupt("state of a partition");
    match snapshot.get(Space::Meta, &key)? {
        Some(bytes) => keys::partition::decode_value(&bytes).map_err(damaged),
        None => Err(damaged(crate::codec::Corrupt { what: "not there" })),
    }
}
