//! Distributed tables: what this region knows of them, and what it has seen of those who hold them.
//!
//! The record of a distributed table (`control/distribution.rs`) is kept in every region and
//! decided in its base. Each partition is an ordinary global table; this room makes these, asks
//! for the steps that bring them where the record wants them, and tells requests where to go
//! (`http/route.rs`). It has no second way to copy, hand over or repair anything.

mod ask;
mod counts;
mod filling;
mod make;
mod moving;
mod reshaping;
mod samples;
mod take;
mod tell;
mod ways;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use isthmus_control::distribution::reshape::Reshape;
use isthmus_control::distribution::{
    By, Distribution, Point, State, name_of_partition, partition_named,
};
use isthmus_model::ids::{Lsn, PartitionId};
use isthmus_model::key::{KeyBound, KeyValue};
use isthmus_store::{Store, StoreError, Table};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use super::Node;
use crate::api_error::ApiError;

use self::counts::Counts;
pub(crate) use self::counts::{KINDS as RESHAPE_KINDS, ReshapeFigures};
use self::filling::Fillings;
use self::moving::Passes;
use self::reshaping::Reshapings;
use self::samples::Sizes;
pub(super) use self::ways::Ways;

const NOTES: &str = "distribution/";
const GONE_NOTES: &str = "distribution-gone/";
/// Deleted tables of which a record that comes late is not taken any more.
const GONE_MAX: usize = 1000;
/// What rates are smoothed over, in seconds.
const RATE_SECONDS: f64 = 8.0;

fn note_of(name: &str) -> Vec<u8> {
    format!("{NOTES}{name}").into_bytes()
}

fn gone_note_of(id: &str) -> Vec<u8> {
    format!("{GONE_NOTES}{id}").into_bytes()
}

/// What is known of distributed tables.
pub(super) struct Distributions {
    /// By the names of the tables.
    known: RwLock<BTreeMap<String, Arc<Distribution>>>,
    /// Whether any of them has a split or merge under way.
    is_any_reshaped: AtomicBool,
    /// One change of a record at a time.
    changing: tokio::sync::Mutex<()>,
    /// Names of tables are judged and taken one at a time.
    naming: tokio::sync::Mutex<()>,
    /// Names of tables that are offered to the other regions.
    offering: Mutex<BTreeSet<String>>,
    /// Of tables whose base is here, by id and region: the version that the region has confirmed.
    told: Mutex<BTreeMap<String, BTreeMap<String, u64>>>,
    /// Why partitions do not come further, by their names.
    trouble: Mutex<BTreeMap<String, String>>,
    /// The regions that were last found to write partitions which have no replica here.
    writers: Mutex<BTreeMap<String, String>>,
    /// What was asked of partitions through this region.
    loads: RwLock<HashMap<String, Arc<Load>>>,
    /// Of tables whose base is elsewhere, by id: whether it keeps the same one, as last asked.
    at_base: RwLock<HashMap<String, bool>>,
    /// Ids of tables that are gone.
    gone: Mutex<BTreeSet<String>>,
    ways: Ways,
    passes: Passes,
    /// Splits and merges: what is filled here, and what is known of tables whose base is here.
    fillings: Fillings,
    reshapings: Reshapings,
    sizes: Sizes,
    counts: Counts,
    soon: Notify,
}

/// What was asked of one partition.
#[derive(Default)]
struct Load {
    requests: AtomicU64,
    /// Rows that were asked for, where it is remembered what for.
    rows: AtomicU64,
    /// Requests at the last look, and the smoothed number in a second.
    rate: Mutex<(u64, f64)>,
    /// What some of the last ones were for, and when, by the monotonic clock.
    points: Mutex<VecDeque<(Duration, Point)>>,
}

/// A partition that a request is for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Partition<'a> {
    /// The table.
    pub(crate) table: &'a Distribution,
    /// The place of the partition in it.
    pub(crate) place: usize,
}

impl Partition<'_> {
    /// The name of its global table.
    pub(crate) fn name(&self) -> String {
        name_of_partition(&self.table.name, self.table.partitions[self.place].number)
    }
}

impl Distributions {
    /// Those of earlier lives.
    pub(super) fn read<'a>(
        store: &Store,
        others: impl Iterator<Item = &'a String>,
    ) -> Result<Distributions, StoreError> {
        let mut known = BTreeMap::new();
        for (name, value) in store.notes(NOTES.as_bytes())? {
            match Distribution::from_json(&value) {
                Ok(record) => drop(known.insert(record.name.clone(), Arc::new(record))),
                // Its base gives it again.
                Err(error) => {
                    let name = String::from_utf8_lossy(&name).into_owned();
                    tracing::warn!(name, %error, "the record of a distributed table is damaged");
                }
            }
        }
        let mut gone = BTreeSet::new();
        for (name, _) in store.notes(GONE_NOTES.as_bytes())? {
            let name = String::from_utf8_lossy(&name);
            gone.extend(name.strip_prefix(GONE_NOTES).map(str::to_owned));
        }
        Ok(Distributions {
            is_any_reshaped: AtomicBool::new(known.values().any(|record| record.reshape.is_some())),
            known: RwLock::new(known),
            changing: tokio::sync::Mutex::new(()),
            naming: tokio::sync::Mutex::new(()),
            offering: Mutex::default(),
            told: Mutex::default(),
            trouble: Mutex::default(),
            writers: Mutex::default(),
            loads: RwLock::default(),
            at_base: RwLock::default(),
            gone: Mutex::new(gone),
            ways: Ways::new(others),
            passes: Passes::default(),
            fillings: Fillings::default(),
            reshapings: Reshapings::default(),
            sizes: Sizes::default(),
            counts: Counts::default(),
            soon: Notify::new(),
        })
    }

    fn get(&self, name: &str) -> Option<Arc<Distribution>> {
        self.known.read().get(name).cloned()
    }

    /// From now on a record is obeyed, or none of that name.
    fn put(&self, name: &str, record: Option<Arc<Distribution>>) {
        let mut known = self.known.write();
        match record {
            Some(record) => drop(known.insert(name.to_owned(), record)),
            None => drop(known.remove(name)),
        }
        let is_any_reshaped = known.values().any(|record| record.reshape.is_some());
        self.is_any_reshaped.store(is_any_reshaped, Ordering::SeqCst);
    }

    /// Whether any table has a split or merge under way: looked at before anything is looked for.
    fn is_any_reshaped(&self) -> bool {
        self.is_any_reshaped.load(Ordering::SeqCst)
    }

    fn all(&self) -> Vec<Arc<Distribution>> {
        self.known.read().values().cloned().collect()
    }

    fn load_of(&self, partition: &str) -> Arc<Load> {
        if let Some(load) = self.loads.read().get(partition) {
            return load.clone();
        }
        self.loads.write().entry(partition.to_owned()).or_default().clone()
    }

    /// Brings rates up to date, about once a second; `since`: the last time.
    fn look_at_loads(&self, since: Duration) {
        let seconds = since.as_secs_f64();
        for load in self.loads.read().values() {
            let now = load.requests.load(Ordering::Relaxed);
            let mut rate = load.rate.lock();
            let each_second = now.saturating_sub(rate.0) as f64 / seconds;
            let share = (seconds / RATE_SECONDS).min(1.0);
            *rate = (now, rate.1 + (each_second - rate.1) * share);
        }
    }

    fn note_trouble(&self, partition: &str, trouble: Option<String>) {
        let mut all = self.trouble.lock();
        match trouble {
            Some(trouble) => drop(all.insert(partition.to_owned(), trouble)),
            None => drop(all.remove(partition)),
        }
    }

    /// After which entry the log of a partition is needed for a split or merge.
    pub(super) fn needs_log_after(&self, partition: PartitionId) -> Option<Lsn> {
        self.fillings.needs_log_after(partition)
    }

    fn at_base(&self, id: &str) -> Option<bool> {
        self.at_base.read().get(id).copied()
    }

    fn is_gone(&self, id: &str) -> bool {
        self.gone.lock().contains(id)
    }
}

impl Node {
    /// The distributed table of that name, if there is one that is made and not deleted, and its
    /// base keeps no other one: then the disk here is an old one, and would divide rows otherwise.
    pub(crate) fn distribution(&self, name: &str) -> Option<Arc<Distribution>> {
        self.distributions.get(name).filter(|record| {
            is_alive(record) && self.distributions.at_base(&record.id) != Some(false)
        })
    }

    /// While this is held, nobody else takes the name of a table here.
    pub(crate) async fn hold_names(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.distributions.naming.lock().await
    }

    /// Whether there is any distributed table.
    pub(crate) fn has_distributions(&self) -> bool {
        !self.distributions.known.read().is_empty()
    }

    /// Whether a distributed table has that name, or one that is not deleted everywhere yet.
    pub(crate) fn is_distribution_name(&self, name: &str) -> bool {
        self.distributions.known.read().contains_key(name)
    }

    /// The names of all distributed tables.
    pub(crate) fn distribution_names(&self) -> Vec<String> {
        let known = self.distributions.known.read();
        let alive = known.values().filter(|record| is_alive(record));
        alive.map(|record| record.name.clone()).collect()
    }

    /// The partitions of distributed tables that have a replica here.
    fn partitions_here(&self, name: &str) -> Vec<Arc<Table>> {
        let mut tables = self.store.tables();
        tables.retain(|table| {
            partition_named(table.name().as_str()).is_some_and(|(table, _)| table == name)
        });
        tables
    }

    /// Whether this region has a replica of a partition, and knows what it is.
    pub(crate) fn holds_partition(&self, partition: &str) -> bool {
        self.store.table_by_name(partition).is_some_and(|table| self.is_recorded(table.id()))
    }

    /// Counts a request.
    pub(crate) fn count_request(&self, partition: &str) {
        self.distributions.load_of(partition).requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Remembers some of the keys that are asked for, so that a partition can be split among them,
    /// where it is split for its load.
    pub(crate) fn note_asked(&self, partition: &Partition<'_>, key: &KeyValue) {
        if partition.table.limits.split_rate.is_some() {
            let load = self.distributions.load_of(&partition.name());
            load.note_point(self.clock.monotonic(), || partition.table.point_of(key));
        }
    }

    /// Remembers where some of the ranges of a partition begin that are asked for, likewise.
    pub(crate) fn note_asked_from(&self, partition: &Partition<'_>, start: &KeyBound) {
        // By hash a range is read of all partitions, however they are divided.
        if partition.table.by == By::Range && partition.table.limits.split_rate.is_some() {
            let load = self.distributions.load_of(&partition.name());
            let begin = &partition.table.partitions[partition.place].from;
            load.note_point(self.clock.monotonic(), || match start {
                KeyBound::Value(start) => partition.table.point_of(start).max(begin.clone()),
                KeyBound::Min | KeyBound::Max => begin.clone(),
            });
        }
    }

    /// Whether what a request was to find in a table as it was may be elsewhere now: its partitions
    /// are split or merged, or were since.
    pub(crate) fn may_be_reshaped(&self, table: &Distribution) -> bool {
        self.distributions.get(&table.name).is_some_and(|known| {
            known.id == table.id && (known.reshape.is_some() || known.version != table.version)
        })
    }

    /// Notes that a region writes a partition.
    pub(crate) fn note_writer(&self, partition: &str, region: &str) {
        let mut writers = self.distributions.writers.lock();
        if writers.get(partition).is_none_or(|known| known != region) {
            writers.insert(partition.to_owned(), region.to_owned());
        }
    }

    /// The other regions that may write a partition, the likeliest first.
    pub(crate) fn likely_writers(&self, partition: &Partition<'_>) -> Vec<String> {
        let known = self.distributions.writers.lock().get(&partition.name()).cloned();
        let part = &partition.table.partitions[partition.place];
        let likely = known.iter().chain([&part.primary]).chain(&part.held).chain(&part.wanted);
        let mut all: Vec<String> = Vec::new();
        for region in likely.chain(self.others.keys()) {
            if self.others.contains_key(region) && !all.contains(region) {
                all.push(region.clone());
            }
        }
        all
    }

    /// Changes the record of a table whose base is here, unless another one has its name since.
    /// `change` says whether it changed it.
    async fn change_distribution(
        &self,
        of: &Distribution,
        change: impl FnOnce(&mut Distribution) -> Result<bool, ApiError>,
    ) -> Result<Arc<Distribution>, ApiError> {
        let _one_at_a_time = self.distributions.changing.lock().await;
        let known = self.distributions.get(&of.name).filter(|known| known.id == of.id);
        let known = known.ok_or_else(ApiError::no_table)?;
        let mut record = (*known).clone();
        if !change(&mut record)? {
            return Ok(known);
        }
        record.version = known.version + 1;
        self.keep_distribution(record).await
    }

    /// Keeps a record at rest, then obeys it.
    async fn keep_distribution(&self, record: Distribution) -> Result<Arc<Distribution>, ApiError> {
        self.store.put_note(&note_of(&record.name), &record.to_json()).await?;
        self.carry_given_numbers(&record).await?;
        let record = Arc::new(record);
        let before = self.distributions.get(&record.name);
        self.distributions.put(&record.name, Some(record.clone()));
        self.distributions.fillings.forget(&record);
        let under_way = |record: &Distribution| record.reshape.as_ref().map(Reshape::id);
        if before.is_some_and(|it| it.reshape.is_some() && under_way(&it) != under_way(&record)) {
            self.forget_ended(&record);
        }
        self.distributions.soon.notify_one();
        // Requests may wait for it.
        self.writers.send_modify(|writers| *writers += 1);
        Ok(record)
    }

    /// Forgets what was known of partitions that a table has no more.
    fn forget_ended(&self, record: &Distribution) {
        let numbers = record.partitions.iter().map(|partition| partition.number);
        let targets = record.reshape.iter().flat_map(|reshape| &reshape.targets);
        let numbers: BTreeSet<u32> = numbers.chain(targets.map(|target| target.number)).collect();
        let is_kept = |name: &String| {
            partition_named(name)
                .is_none_or(|(of, number)| of != record.name || numbers.contains(&number))
        };
        self.distributions.trouble.lock().retain(|name, _| is_kept(name));
        self.distributions.writers.lock().retain(|name, _| is_kept(name));
        self.distributions.loads.write().retain(|name, _| is_kept(name));
        self.distributions.reshapings.keep_of(&record.name, &numbers);
    }

    /// Nothing is known here of a distributed table any more, but that it is gone.
    async fn forget_distribution(&self, record: &Distribution) -> Result<(), ApiError> {
        self.unlearn_distribution(record).await?;
        self.note_gone(&record.id).await
    }

    /// Nothing is known here of a distributed table any more.
    async fn unlearn_distribution(&self, record: &Distribution) -> Result<(), ApiError> {
        let known = self.distributions.get(&record.name);
        if known.is_none_or(|known| known.id == record.id) {
            self.store.delete_note(&note_of(&record.name)).await?;
            self.distributions.put(&record.name, None);
            let is_of_it = |name: &String| {
                partition_named(name).is_some_and(|(table, _)| table == record.name)
            };
            self.distributions.trouble.lock().retain(|name, _| !is_of_it(name));
            self.distributions.writers.lock().retain(|name, _| !is_of_it(name));
            self.distributions.loads.write().retain(|name, _| !is_of_it(name));
            self.distributions.reshapings.forget(&record.name);
        }
        self.distributions.told.lock().remove(&record.id);
        self.distributions.at_base.write().remove(&record.id);
        Ok(())
    }

    /// From here on no record of that table is taken, also after a restart.
    async fn note_gone(&self, id: &str) -> Result<(), ApiError> {
        self.store.put_note(&gone_note_of(id), &[]).await?;
        let superfluous = {
            let mut gone = self.distributions.gone.lock();
            gone.insert(id.to_owned());
            (gone.len() > GONE_MAX).then(|| gone.pop_first()).flatten()
        };
        match superfluous {
            Some(superfluous) => {
                Ok(self.store.delete_note(&gone_note_of(&superfluous)).await.map(drop)?)
            }
            None => Ok(()),
        }
    }
}

/// Whether requests for its name are requests for it.
fn is_alive(record: &Distribution) -> bool {
    match record.state {
        State::Making | State::Active => true,
        State::Offered | State::Dropping => false,
    }
}
