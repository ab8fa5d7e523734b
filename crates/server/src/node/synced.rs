//! Tables that are written synchronously: other regions prepare a write before it is made, so that
//! it is seen nowhere before it would outlive the loss of this region.
//!
//! A write locks its rows, is judged, and goes to all regions that count. The vote that makes
//! enough of them is the decision: the write is made here like any other, in one batch with its
//! entry, which names what was prepared; whoever applies the entry forgets it. What was sent is
//! never taken back, since it may have been decided by the time one thinks of it: a write whose
//! votes do not come keeps its rows locked, and its client is told that the outcome is unknown.
//!
//! Each beginning of a region that writes is a term (`recover.rs`), which first settles what
//! earlier ones have left.

mod cut;
mod drain;
mod locks;
mod part;
mod recover;
mod send;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use bytes::Bytes;
use isthmus_control::global_table::GlobalTable;
use isthmus_model::change::Condition;
use isthmus_model::check::{CheckedChange, CheckedKey};
use isthmus_model::commit::{Count, Term, TxId, Votes};
use isthmus_model::error::Outcome;
use isthmus_model::ids::{Epoch, Origin, TableId};
use isthmus_model::key::{EncodedKey, KeyValue};
use isthmus_protocol::error_code::ErrorCode;
use isthmus_replication::limits::SYNC_WRITES_MAX;
use isthmus_store::{Beginning, Pending, StoreError, Table, Written};
use parking_lot::{Mutex, RwLock};
use prost::Message;
use tokio::sync::{OwnedRwLockReadGuard, oneshot, watch};

pub(super) use self::cut::prepare_again;
use self::locks::{Locked, RowLocks};
use self::part::Making;
use self::send::{Senders, ToPrepare};
use super::Node;
use crate::api_error::ApiError;
use crate::peer::call::{NumberGiven, PreparedWrite};

pub use self::part::SyncPart;

/// A write that could not be made for the moment is tried again after this.
const MAKE_AGAIN: Duration = Duration::from_millis(50);
/// How long reads, and writes of a table that is not synchronous any more, wait until what earlier
/// terms have left is settled.
const SETTLE_PATIENCE: Duration = Duration::from_secs(5);
/// Writes that the status tells of by name.
const IN_DOUBT_TOLD_MAX: usize = 100;

/// The tables that this region writes synchronously.
#[derive(Default)]
pub(super) struct Synced {
    tables: RwLock<BTreeMap<TableId, Arc<SyncTable>>>,
    /// What was so until its mode was changed, while writes are under way.
    leaving: Mutex<Vec<Arc<SyncTable>>>,
    senders: Senders,
}

/// One of them.
pub struct SyncTable {
    id: TableId,
    epoch: u64,
    locks: RowLocks,
    stage: watch::Sender<Stage>,
    /// While a term begins: the replicas that had not told what they have prepared when they were
    /// last asked.
    silent: Mutex<Option<BTreeSet<String>>>,
    undecided: Mutex<Undecided>,
    /// Held for reading by each write that is under way.
    under_way: Arc<tokio::sync::RwLock<()>>,
}

/// What is done with writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// They wait until what earlier terms have left is settled.
    Opening,
    /// They are made in this term.
    Open(Term),
    /// Those of this term that are under way are made; others are written otherwise.
    Leaving(Term),
    /// They belong elsewhere.
    Closed,
}

/// Who has voted for what, while a term is open.
type Undecided = Option<(Votes<Origin>, BTreeMap<TxId, Waiting>)>;

/// Rows that nobody else writes, while a write is under way.
pub(super) struct RowsLocked {
    _rows: Locked,
    _under_way: OwnedRwLockReadGuard<()>,
}

/// A write that was prepared and is not decided.
struct Waiting {
    decide: oneshot::Sender<()>,
    change: Bytes,
    /// Regions of an older format would take it for another write.
    for_format: u32,
}

/// A client's write of one table.
pub struct SyncWrite {
    /// Path of the public API.
    pub path: &'static str,
    /// When it was checked, in milliseconds since the Unix epoch.
    pub judged_millis: i64,
    /// The rows that passed its checks.
    pub changes: Vec<SyncRow>,
    /// They are one entry, or none.
    pub atomic: bool,
    /// What that entry is to a batch of several partitions. With it `atomic` is set.
    pub part: Option<SyncPart>,
}

/// A row of such a write.
pub struct SyncRow {
    /// A request that asks for what becomes one entry: this row alone, or all of an atomic one.
    pub body: Bytes,
    /// What it asks for.
    pub change: CheckedChange,
}

/// Rows of a write of which none is there twice, with their places in it.
struct Wave {
    term: Term,
    path: &'static str,
    judged_millis: i64,
    atomic: bool,
    part: Option<SyncPart>,
    rows: Vec<(usize, SyncRow)>,
}

/// One result per change, in order.
type Results<E = ApiError> = Vec<Result<Written, E>>;

/// How a synchronous table stands.
pub(super) struct SyncReport {
    /// The term in which writes are made; `None`: not yet.
    pub term: Option<Term>,
    /// Rows that are locked.
    pub locked: usize,
    /// Writes that wait for votes, the oldest first: number, milliseconds, who has voted.
    pub in_doubt: Vec<(u64, u64, Vec<Origin>)>,
}

/// Whether anything was sent by the time the client's patience ended.
const WAITING: u8 = 0;
const SENT: u8 = 1;
const GIVEN_UP: u8 = 2;

impl SyncTable {
    /// Rows that writes of the one `before` have locked stay so until those are made.
    fn new(id: TableId, epoch: u64, before: Option<&SyncTable>) -> SyncTable {
        SyncTable {
            id,
            epoch,
            locks: before.map(|before| before.locks.clone()).unwrap_or_default(),
            stage: watch::Sender::new(Stage::Opening),
            silent: Mutex::default(),
            undecided: Mutex::default(),
            under_way: before.map(|before| before.under_way.clone()).unwrap_or_default(),
        }
    }

    /// The term in which writes are made that are under way.
    fn term(&self) -> Option<Term> {
        match *self.stage.borrow() {
            Stage::Open(term) | Stage::Leaving(term) => Some(term),
            Stage::Opening | Stage::Closed => None,
        }
    }

    fn leave(&self) {
        let term = self.term();
        self.stage.send_replace(term.map_or(Stage::Closed, Stage::Leaving));
    }

    fn close(&self) {
        self.stage.send_replace(Stage::Closed);
        // Whoever waits learns that nobody decides here any more.
        *self.undecided.lock() = None;
    }

    /// Waits until writes are made, and gives the term in which.
    async fn opened(&self) -> Result<Term, ApiError> {
        let mut stage = self.stage.subscribe();
        let ended = stage.wait_for(|stage| *stage != Stage::Opening).await;
        match ended.as_deref() {
            Ok(Stage::Open(term)) => Ok(*term),
            Ok(Stage::Opening | Stage::Leaving(_) | Stage::Closed) | Err(_) => {
                Err(ApiError::elsewhere())
            }
        }
    }

    /// Writes are made from now on.
    fn open(&self, term: Term, count: Count<Origin>) {
        let mut undecided = self.undecided.lock();
        let opens = self.stage.send_if_modified(|stage| {
            let opens = *stage == Stage::Opening;
            if opens {
                *stage = Stage::Open(term);
            }
            opens
        });
        if opens {
            *undecided = Some((Votes::begin(term, count), BTreeMap::new()));
        }
    }

    /// Begins to wait for votes for writes: their names, and what ends when each is decided.
    fn begin(
        &self,
        term: Term,
        (changes, for_format): (Vec<Bytes>, u32),
        now: u64,
    ) -> Result<(Vec<TxId>, Vec<oneshot::Receiver<()>>), ApiError> {
        let mut undecided = self.undecided.lock();
        let Some((votes, waiting)) = &mut *undecided else { return Err(ApiError::elsewhere()) };
        if *self.stage.borrow() != Stage::Open(term) {
            return Err(ApiError::elsewhere());
        }
        if waiting.len() + changes.len() > SYNC_WRITES_MAX {
            return Err(ApiError::new(
                ErrorCode::ServerBusy,
                "Server is busy. Too many writes wait for the votes of other regions.",
            ));
        }
        let (mut txs, mut ends) = (Vec::new(), Vec::new());
        for change in changes {
            let tx = votes.next();
            let is_decided = votes.open(tx, now).map_err(|_| ApiError::internal())?;
            let (decide, decided) = oneshot::channel();
            match is_decided {
                true => drop(decide.send(())),
                false => drop(waiting.insert(tx, Waiting { decide, change, for_format })),
            }
            txs.push(tx);
            ends.push(decided);
        }
        Ok((txs, ends))
    }

    /// What is to be sent to a region of a write, if that is not decided and the region's vote is
    /// wanted, and the format that it must know.
    fn wanted(&self, region: Origin, tx: TxId) -> Option<(Bytes, u32)> {
        let undecided = self.undecided.lock();
        let (votes, waiting) = undecided.as_ref()?;
        votes.missing(tx).any(|missing| *missing == region).then_some(())?;
        waiting.get(&tx).map(|waiting| (waiting.change.clone(), waiting.for_format))
    }

    /// A region has voted for these.
    fn vote(&self, voter: Origin, txs: &[TxId]) {
        let mut undecided = self.undecided.lock();
        let Some((votes, waiting)) = &mut *undecided else { return };
        for tx in txs {
            if votes.vote(&voter, *tx)
                && let Some(waiting) = waiting.remove(tx)
            {
                // Whoever waits for it never gives up.
                let _ = waiting.decide.send(());
            }
        }
    }

    /// These count from now on. Gives which regions are to be asked for which writes.
    fn recount(&self, count: &Count<Origin>) -> Vec<(Origin, TxId)> {
        let mut undecided = self.undecided.lock();
        let Some((votes, waiting)) = &mut *undecided else { return Vec::new() };
        if votes.count() == count {
            return Vec::new();
        }
        votes.change(count.clone());
        for tx in votes.changed() {
            if let Some(waiting) = waiting.remove(&tx) {
                let _ = waiting.decide.send(());
            }
        }
        let missing =
            |tx: &TxId| votes.missing(*tx).map(|region| (*region, *tx)).collect::<Vec<_>>();
        waiting.keys().flat_map(missing).collect()
    }

    /// Locks rows that the intent of a batch has locked, as a write of them would: until what is
    /// given is dropped nothing is judged on what becomes of them.
    pub(super) async fn lock_for_batch(
        &self,
        keys: Vec<EncodedKey>,
    ) -> Result<RowsLocked, ApiError> {
        self.opened().await?;
        let rows = self.locks.lock(keys).await;
        Ok(RowsLocked { _rows: rows, _under_way: self.under_way.clone().read_owned().await })
    }

    /// Whether writes are made.
    pub(super) fn is_open(&self) -> bool {
        matches!(*self.stage.borrow(), Stage::Open(_))
    }

    /// Since when the oldest one waits, by the monotonic clock.
    fn oldest(&self) -> Option<Duration> {
        let undecided = self.undecided.lock();
        let (votes, _) = undecided.as_ref()?;
        votes.pending().next().map(|(_, since)| Duration::from_millis(since))
    }
}

impl Node {
    /// The table, if it is written synchronously here.
    pub fn sync_table(&self, table: &Table) -> Option<Arc<SyncTable>> {
        self.synced.tables.read().get(&table.id()).cloned()
    }

    /// Writes rows of a table that is not written synchronously; refused as to be done elsewhere if
    /// it has come to be so.
    pub fn write_at_once(
        &self,
        table: &Table,
        changes: Vec<CheckedChange>,
        atomic: bool,
    ) -> Pending<Vec<Result<Written, StoreError>>> {
        self.at_once(table, || table.write(changes, atomic))
    }

    /// Does a write of a table that is not written synchronously; refused as `write_at_once` does.
    pub(super) fn at_once<T>(
        &self,
        table: &Table,
        write: impl FnOnce() -> Pending<T>,
    ) -> Pending<T> {
        // Held until the changes are accepted, so that what is judged after the table has become
        // synchronous sees them.
        let tables = self.synced.tables.read();
        let leaving = self.synced.leaving.lock();
        let is_sync =
            tables.contains_key(&table.id()) || leaving.iter().any(|sync| sync.id == table.id());
        drop(leaving);
        match is_sync {
            true => Pending::ready(Err(StoreError::NotWritable {
                partition: table.partition(),
                epoch: table.epoch(),
            })),
            false => write(),
        }
    }

    /// Has a write of a table prepared by others, and makes it. An error says that nothing was
    /// written, or that the outcome is unknown.
    pub async fn write_synced(
        self: &Arc<Self>,
        sync: Arc<SyncTable>,
        table: &Arc<Table>,
        write: SyncWrite,
    ) -> Result<Results, ApiError> {
        let patience = match self.patience_of_writes(table.name().as_str()) {
            // It is not written so any more, and what is left is being settled.
            Duration::ZERO => SETTLE_PATIENCE,
            patience => patience,
        };
        let sent = Arc::new(AtomicU8::new(WAITING));
        let mut work = {
            let (node, table, sent) = (self.clone(), table.clone(), sent.clone());
            // It goes on without the client, who may leave.
            tokio::spawn(async move { node.commit(&sync, &table, write, &sent).await })
        };
        match tokio::time::timeout(patience, &mut work).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Ok(Err(_)) => Err(unknown("this region stops")),
            Err(_) => {
                let began =
                    sent.compare_exchange(WAITING, GIVEN_UP, Ordering::AcqRel, Ordering::Acquire);
                match began {
                    Ok(_) => {
                        work.abort();
                        Err(ApiError::new(
                            ErrorCode::PartitionUnavailable,
                            "Nothing was written: other writes of the same rows wait for the \
                             votes of other regions. Try again later.",
                        ))
                    }
                    Err(_) => Err(unknown("too few other regions have voted for it in time")),
                }
            }
        }
    }

    async fn commit(
        self: &Arc<Self>,
        sync: &Arc<SyncTable>,
        table: &Arc<Table>,
        write: SyncWrite,
        sent: &AtomicU8,
    ) -> Result<Results, ApiError> {
        let SyncWrite { path, judged_millis, changes, atomic, part } = write;
        let term = sync.opened().await?;
        let keys = changes.iter().filter_map(|row| match &row.change.key {
            CheckedKey::Whole(key) => Some(key.encode()),
            // It names a row that is not there.
            CheckedKey::AutoIncrement { .. } => None,
        });
        let _locked = sync.locks.lock(keys.collect()).await;
        let _under_way = sync.under_way.clone().read_owned().await;
        if table.is_dropped() {
            // It has ended while this waited; if it was a partition, its rows go on in others.
            return Err(ApiError::elsewhere());
        }
        let mut results: Vec<Option<Result<Written, ApiError>>> = Vec::new();
        results.resize_with(changes.len(), || None);
        for wave in waves(changes, atomic) {
            let part = part.clone();
            let wave = Wave { term, path, judged_millis, atomic, part, rows: wave };
            let ended = self.commit_wave(sync, table, wave, sent, &mut results).await;
            let Err(error) = ended else { continue };
            if results.iter().flatten().all(Result::is_err) {
                return Err(error);
            }
            // Some rows are made, so that the whole must not be done again.
            let error = ApiError { is_elsewhere: false, ..error };
            let open = results.iter_mut().filter(|result| result.is_none());
            open.for_each(|result| *result = Some(Err(error.clone())));
            break;
        }
        let unknown = || Err(unknown("it was not made"));
        Ok(results.into_iter().map(|result| result.unwrap_or_else(unknown)).collect())
    }

    /// Does those of a write that name no row twice.
    async fn commit_wave(
        &self,
        sync: &Arc<SyncTable>,
        table: &Arc<Table>,
        wave: Wave,
        sent: &AtomicU8,
        results: &mut [Option<Result<Written, ApiError>>],
    ) -> Result<(), ApiError> {
        let Wave { term, path, judged_millis, atomic, part, rows } = wave;
        let only = rows.iter().map(|(_, row)| row.change.clone()).collect();
        let judged = table.judge(only, atomic).await?;
        let mut passed = Vec::with_capacity(rows.len());
        let mut prepared = Vec::with_capacity(rows.len());
        let mut refused = Vec::new();
        for ((place, row), judged) in rows.into_iter().zip(judged) {
            let key = match judged {
                Ok(key) => key,
                Err(error) => {
                    refused.push((place, error));
                    continue;
                }
            };
            let SyncRow { body, mut change } = row;
            let number = number_given(&change.key, &key.0);
            change.key = CheckedKey::Whole(key);
            // It holds, and nothing changes the row before the write is made.
            change.condition = Condition::default();
            passed.push((place, change));
            let at = if atomic { u32::try_from(place).unwrap_or(u32::MAX) } else { 0 };
            let given = number.map(|number| NumberGiven { place: at, number });
            prepared.push((body, given));
        }
        if passed.is_empty() {
            // Another region may have changed the rows since.
            self.check_lease(table, Epoch(term.epoch))?;
        }
        for (place, error) in refused {
            let is_together = part.is_some() && error == StoreError::AbortedTogether;
            let error = if is_together { ApiError::given_up() } else { error.into() };
            results[place] = Some(Err(error));
        }
        if passed.is_empty() {
            return Ok(());
        }
        if let Some(SyncPart::Decision { id, sent_in, .. }) = &part {
            // In another epoch it may have been said that the batch is given up, and whoever finds
            // the decision prepared would make it.
            if id.term.epoch != term.epoch {
                return Err(ApiError::elsewhere());
            }
            // Nothing else sends it.
            let _ = sent_in.set(term);
        }
        let write = |body: Bytes, numbers| {
            let path = path.to_owned();
            PreparedWrite { path, body, judged_millis, numbers, ..PreparedWrite::default() }
        };
        let mut making = Making::Rows { atomic };
        let prepared: Vec<Bytes> = match atomic {
            true => {
                let body = prepared.first().map(|(body, _)| body.clone()).unwrap_or_default();
                let write = write(body, prepared.iter().filter_map(|(_, given)| *given).collect());
                let (write, what) = match part {
                    Some(part) => part.apply(write),
                    None => (write, Making::Rows { atomic }),
                };
                making = what;
                vec![write.encode_to_vec().into()]
            }
            false => {
                let one = |(body, given): (Bytes, Option<NumberGiven>)| {
                    write(body, given.into_iter().collect()).encode_to_vec().into()
                };
                prepared.into_iter().map(one).collect()
            }
        };
        // What others have prepared is made, room or not, so that it is kept before.
        let _room = making.room(table)?;
        let began = sent.compare_exchange(WAITING, SENT, Ordering::AcqRel, Ordering::Acquire);
        if began == Err(GIVEN_UP) {
            return Err(ApiError::elsewhere());
        }
        let (places, passed): (Vec<usize>, Vec<CheckedChange>) = passed.into_iter().unzip();
        let needed = self.count_of(table).needed;
        let for_format = making.for_format();
        let txs = self.voted_for(sync, table, term, (prepared, for_format)).await?;
        let made = self.make(table, txs, passed, &making).await?;
        let last = made.iter().flatten().map(|written| written.lsn).max();
        // Nobody will ask any more what was prepared, or fewer than it takes to find this one.
        let is_outdated =
            *sync.stage.borrow() != Stage::Open(term) || self.count_of(table).needed > needed;
        if let Some(lsn) = last.filter(|_| is_outdated) {
            self.until_held(table, (lsn, Epoch(term.epoch))).done().await?;
        }
        self.check_lease(table, Epoch(term.epoch))?;
        for (place, result) in places.into_iter().zip(made) {
            // It was sent, and others may make it.
            results[place] = Some(result.map_err(|error| unknown(&error.to_string())));
        }
        Ok(())
    }

    /// Sends writes to the regions that count and waits until they are decided.
    async fn voted_for(
        &self,
        sync: &Arc<SyncTable>,
        table: &Table,
        term: Term,
        changes: (Vec<Bytes>, u32),
    ) -> Result<Vec<TxId>, ApiError> {
        let now = self.clock.monotonic().as_millis();
        let (txs, ends) = sync.begin(term, changes, u64::try_from(now).unwrap_or(u64::MAX))?;
        for region in self.count_of(table).others {
            for tx in &txs {
                self.synced.senders.send(region, ToPrepare { sync: sync.clone(), tx: *tx });
            }
        }
        for decided in ends {
            decided.await.map_err(|_| unknown("another region writes the table now"))?;
        }
        Ok(txs)
    }

    /// The regions whose votes count, and how many of them are needed. Never fewer than those who
    /// decide believe, but for where this region has fallen back, which they have agreed to.
    fn count_of(&self, table: &Table) -> Count<Origin> {
        let (others, needed) = self.shared.modes.holders(table.partition());
        let agreed = match (needed, self.registry()) {
            (0, _) | (_, None) => 0,
            (_, Some(registry)) => {
                let known = registry.known();
                known.agreed.tenure(table.id().0).map_or(0, |tenure| tenure.held_by)
            }
        };
        Count { others, needed: needed.max(usize::from(agreed)) }
    }

    /// Makes a write that is decided.
    async fn make(
        &self,
        table: &Table,
        txs: Vec<TxId>,
        changes: Vec<CheckedChange>,
        making: &Making,
    ) -> Result<Vec<Result<Written, StoreError>>, ApiError> {
        loop {
            let made = making.write(table, txs.clone(), changes.clone(), Beginning::Fresh);
            match made.await {
                Ok(results) => return Ok(results),
                Err(error) if error.outcome() == Outcome::Unknown => return Err(error.into()),
                Err(
                    error @ (StoreError::NotWritable { .. }
                    | StoreError::NoTable(_)
                    | StoreError::Stopped),
                ) => {
                    tracing::warn!(%error, "a write that is decided is not made here");
                    return Err(unknown("another region may make it"));
                }
                // It is decided, and others may see it made should this region be lost.
                Err(error) => tracing::warn!(%error, "a write that is decided is made later"),
            }
            tokio::time::sleep(MAKE_AGAIN).await;
        }
    }

    /// What time, and a mode that has changed, bring to writes that wait for votes.
    pub(super) fn look_at_votes(&self) {
        let mut all: Vec<Arc<SyncTable>> = self.synced.tables.read().values().cloned().collect();
        {
            let mut leaving = self.synced.leaving.lock();
            let (under_way, ended): (Vec<_>, Vec<_>) =
                leaving.drain(..).partition(|sync| sync.under_way.try_write().is_err());
            all.extend(under_way.iter().cloned());
            *leaving = under_way;
            drop(leaving);
            ended.into_iter().for_each(|sync| self.end_left(&sync));
        }
        for sync in all {
            let Some(table) = self.store.table(sync.id) else { continue };
            self.shared.modes.wait_for_votes(table.partition(), sync.oldest());
            for (region, tx) in sync.recount(&self.count_of(&table)) {
                self.synced.senders.send(region, ToPrepare { sync: sync.clone(), tx });
            }
        }
    }

    /// Nothing of a table is under way any more that was written synchronously until its mode was
    /// changed: what others may have left of it is void.
    fn end_left(&self, sync: &SyncTable) {
        let Some(table) = self.store.table(sync.id) else { return };
        self.shared.modes.wait_for_votes(table.partition(), None);
        let is_written = table.writer_word().accepts && table.writer_word().epoch.0 == sync.epoch;
        let is_sync = self.sync_table(&table).is_some();
        if let Some(term) = sync.term().filter(|_| is_written && !is_sync) {
            // Should it be lost in a crash, the next epoch settles it.
            drop(table.settle(term.next()));
        }
    }

    /// Lets a table be written synchronously, or not any more, as its record says. `writes`: this
    /// region writes it, or is about to.
    pub(super) fn obey_sync(&self, table: &GlobalTable, held: &Arc<Table>, writes: bool) {
        let id = held.id();
        let word = held.writer_word();
        let epoch = if word.accepts { word.epoch.0 } else { word.epoch.0 + 1 };
        let (_, settled) = held.terms();
        let was_sync = settled > Term::default() || held.prepared_count() > 0;
        // What was prepared is settled in each epoch, whatever the table's mode is by then.
        let is_open = was_sync && settled.epoch >= epoch;
        let wanted = writes && (table.sync_commit().is_some() || was_sync && !is_open);
        let mut tables = self.synced.tables.write();
        let known = tables.get(&id).filter(|known| known.epoch == epoch);
        let is_closed = known.is_some_and(|known| *known.stage.borrow() == Stage::Closed);
        if wanted && known.is_some() && !is_closed {
            return;
        }
        let known = tables.remove(&id);
        let is_left = writes && word.accepts && word.epoch.0 == epoch;
        match &known {
            Some(known) if is_left && known.epoch == epoch => {
                known.leave();
                self.synced.leaving.lock().push(known.clone());
            }
            Some(known) => known.close(),
            None => {}
        }
        let leaving = self.synced.leaving.lock();
        if !writes {
            let of_table = leaving.iter().filter(|sync| sync.id == id);
            of_table.for_each(|sync| sync.close());
        }
        if wanted {
            let before = known.or_else(|| leaving.iter().find(|sync| sync.id == id).cloned());
            drop(leaving);
            let sync = Arc::new(SyncTable::new(id, epoch, before.as_deref()));
            tables.insert(id, sync.clone());
            let Some(node) = self.this.upgrade() else { return };
            let held = held.clone();
            self.spawn(async move { node.begin_term(&sync, &held).await });
        }
    }

    /// Tables that are no global tables any more are written synchronously no more.
    pub(super) fn forget_sync(&self, is_known: impl Fn(TableId) -> bool) {
        self.synced.tables.write().retain(|id, sync| {
            let stays = is_known(*id);
            if !stays {
                sync.close();
            }
            stays
        });
        self.synced.leaving.lock().retain(|sync| {
            let stays = is_known(sync.id);
            if !stays {
                sync.close();
            }
            stays
        });
    }

    /// How a table stands that is written synchronously here.
    pub(super) fn sync_report(&self, table: &Table) -> Option<SyncReport> {
        let sync = self.sync_table(table)?;
        let term = sync.term();
        let now = self.clock.monotonic();
        let undecided = sync.undecided.lock();
        let told = undecided.iter().flat_map(|(votes, _)| {
            let count = &votes.count().others;
            votes.pending().take(IN_DOUBT_TOLD_MAX).map(move |(tx, since)| {
                let waited = now.saturating_sub(Duration::from_millis(since)).as_millis();
                let missing: BTreeSet<&Origin> = votes.missing(tx).collect();
                let voters = count.iter().filter(|voter| !missing.contains(voter)).copied();
                (tx.number, u64::try_from(waited).unwrap_or(u64::MAX), voters.collect())
            })
        });
        Some(SyncReport { term, locked: sync.locks.count(), in_doubt: told.collect() })
    }
}

/// Changes with their places, so that no row is twice in one wave.
fn waves(changes: Vec<SyncRow>, atomic: bool) -> Vec<Vec<(usize, SyncRow)>> {
    let mut waves: Vec<(BTreeSet<EncodedKey>, Vec<_>)> = Vec::new();
    for (place, row) in changes.into_iter().enumerate() {
        let key = match &row.change.key {
            CheckedKey::Whole(key) if !atomic => Some(key.encode()),
            CheckedKey::Whole(_) | CheckedKey::AutoIncrement { .. } => None,
        };
        let has = |wave: &(BTreeSet<EncodedKey>, Vec<_>)| {
            key.as_ref().is_some_and(|key| wave.0.contains(key))
        };
        // After the last one that has the row.
        let free = waves.iter().rposition(has).map_or(0, |last| last + 1);
        if free == waves.len() {
            waves.push(Default::default());
        }
        waves[free].0.extend(key);
        waves[free].1.push((place, row));
    }
    waves.into_iter().map(|(_, wave)| wave).collect()
}

/// The number that the server gave to a key.
fn number_given(asked: &CheckedKey, given: &[KeyValue]) -> Option<i64> {
    let CheckedKey::AutoIncrement { column, .. } = asked else { return None };
    match given.get(*column) {
        Some(KeyValue::Integer(number)) => Some(*number),
        _ => None,
    }
}

fn unknown(why: &str) -> ApiError {
    ApiError::new(
        ErrorCode::Timeout,
        format!(
            "Operation timeout. The write was sent to other regions and is not decided here: \
             {why}. Whether it takes effect is not known."
        ),
    )
}
