//! Seeding: before anybody follows a new partition, each region that holds the old ones puts the
//! rows into it that it has, so that they do not cross the network once more.
//!
//! The region that makes a new partition seeds it before it has a record of it, so before anybody
//! is told. Another region that is to hold it seeds its replica before it lets itself be fed. Rows
//! are put as they are, with their stamps, so digests of both are alike as far as the old partition
//! was: the copy that follows offers digests, and brings what is not alike. So nothing is believed
//! of what was seeded; it is only not sent. Who lacks the old partition, or was behind, is sent
//! more.
//!
//! What is under way is forgotten in a crash. Then what was begun to be made without a record is
//! removed and begun anew, and a replica is copied.

mod pace;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use isthmus_control::distribution::reshape::{Phase, Reshape};
use isthmus_control::distribution::{Distribution, State, partition_named};
use isthmus_model::ids::{Epoch, Lsn, PartitionId, TableId};
use isthmus_protocol::error_code::ErrorCode;
use isthmus_replication::frame::CopyProgress;
use isthmus_replication::receive::copy_note;
use isthmus_replication::throttle::Commits;
use isthmus_store::digest::DigestState;
use isthmus_store::{Beside, MovedRow, Table};
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::Notify;

use self::pace::{Pace, Puts};
use super::copy::{Reader, Source, blocking};
use super::{Doing, Name, Plan, Progress};
use crate::api_error::ApiError;
use crate::node::Node;

/// So long who asks for a new partition waits until it is seeded; else it asks again.
const PATIENCE: Duration = Duration::from_millis(800);
/// So long a replica that is to be made waits for it at most; it goes on after that.
const HOLDS_UP: Duration = Duration::from_millis(250);
/// So long a digest may take to know what was seeded; without it all is copied.
const DIGEST_PATIENCE: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// A copy that no region goes on with: all of it is to be compared.
const NO_FEEDER: u32 = u32::MAX;

/// How a seeding of new partitions stands where they are made.
#[derive(Default)]
struct Seeding {
    rows: AtomicU64,
    rows_total: Option<u64>,
    /// It is to end, since it is not worth it any more.
    stops: AtomicBool,
    over: Mutex<Option<Result<Arc<Seeded>, ApiError>>>,
    is_over: Notify,
}

/// What new partitions were seeded with.
#[derive(Debug, Default)]
pub(super) struct Seeded {
    /// Of each old one: all through this entry, in this epoch.
    sources: BTreeMap<PartitionId, (Lsn, Epoch)>,
    /// The tables that were seeded.
    targets: BTreeSet<TableId>,
}

/// What is seeded here.
#[derive(Default)]
pub(super) struct Seedings {
    /// Where new partitions are made, by split or merge.
    made: Mutex<BTreeMap<Name, Arc<Seeding>>>,
    /// Replicas that nobody feeds yet.
    replicas: Mutex<BTreeSet<PartitionId>>,
}

/// While this is there, nobody feeds a replica.
struct Unfed {
    node: Arc<Node>,
    partition: PartitionId,
}

impl Drop for Unfed {
    fn drop(&mut self) {
        let fillings = &self.node.distributions.fillings;
        fillings.seedings.replicas.lock().remove(&self.partition);
    }
}

impl Seedings {
    /// Ends what is seeded of that name, which is not seeded any more, and forgets it; gives the
    /// old partitions of it. `None`: it goes on yet.
    fn stop(&self, name: &Name) -> Option<Vec<PartitionId>> {
        let mut made = self.made.lock();
        let Some(seeding) = made.get(name).cloned() else { return Some(Vec::new()) };
        seeding.stops.store(true, Ordering::Release);
        let over = seeding.over.lock().clone()?;
        made.remove(name);
        Some(over.map(|seeded| seeded.sources.keys().copied().collect()).unwrap_or_default())
    }

    /// Forgets what was of splits and merges that are over; gives the old partitions of those.
    pub(super) fn forget(&self, is_kept: impl Fn(&Name) -> bool) -> Vec<PartitionId> {
        let mut made = self.made.lock();
        let over: Vec<Name> = made.keys().filter(|name| !is_kept(name)).cloned().collect();
        let over = over.iter().filter_map(|name| made.remove(name));
        let seeded = over.filter_map(|seeding| seeding.over.lock().take()?.ok());
        seeded.flat_map(|seeded| seeded.sources.keys().copied().collect::<Vec<_>>()).collect()
    }
}

impl Node {
    /// Whether a replica is being seeded, so that nobody feeds it yet.
    pub(in crate::node) fn is_seeded_now(&self, partition: PartitionId) -> bool {
        self.distributions.fillings.seedings.replicas.lock().contains(&partition)
    }

    /// The plan that a new partition is part of, if rows are to be put into it before there is a
    /// record of it: others are to hold it, too, and can compare digests.
    pub(in crate::node::distributions) fn plan_to_seed(
        &self,
        record: &Arc<Distribution>,
        partition: &str,
        has_others: bool,
    ) -> Option<Plan> {
        let (_, number) = partition_named(partition)?;
        let reshape = record.reshape.clone().filter(|it| it.phase == Phase::Filling)?;
        let plan = Plan { record: record.clone(), reshape };
        let has_digest = |number: &u32| {
            let held = self.partition_held(&plan.partition(*number));
            held.is_some_and(|table| table.digest_state() != DigestState::Off)
        };
        let is_worth_it = has_others
            && plan.reshape.has_target(number)
            && plan.reshape.sources.iter().all(has_digest);
        is_worth_it.then_some(plan)
    }

    /// Whether new partitions of a plan are seeded, or were: what is in them is of that.
    pub(in crate::node::distributions) fn knows_seeding(&self, plan: &Plan) -> bool {
        let made = self.distributions.fillings.seedings.made.lock();
        let seeding = made.get(&plan.name());
        seeding.is_some_and(|seeding| !matches!(&*seeding.over.lock(), Some(Err(_))))
    }

    /// Nothing is known of a seeding that has failed, so that it is begun anew.
    pub(in crate::node::distributions) fn forget_seeding(&self, plan: &Plan) {
        self.distributions.fillings.seedings.made.lock().remove(&plan.name());
    }

    /// New partitions of a split or merge are made without seeds: what seeds them ends. An error:
    /// it goes on yet.
    pub(in crate::node::distributions) fn stop_seeding(
        &self,
        record: &Distribution,
        reshape: &Reshape,
    ) -> Result<(), ApiError> {
        let fillings = &self.distributions.fillings;
        let Some(sources) = fillings.seedings.stop(&(record.id.clone(), reshape.id())) else {
            return Err(ApiError::new(
                ErrorCode::ServerUnavailable,
                "Rows are put into the new partitions; that ends first. Nothing was done.",
            ));
        };
        fillings.followed.lock().retain(|partition, _| !sources.contains(partition));
        Ok(())
    }

    /// Seeds the new partitions of a plan, which are there and empty, if that is not under way. An
    /// error: it will take longer, or has failed and is begun anew when it is asked for again.
    pub(in crate::node::distributions) async fn await_seeded(
        &self,
        plan: Plan,
    ) -> Result<(), ApiError> {
        let rows_total = self.rows_of_sources(&plan);
        let seeding = {
            let mut made = self.distributions.fillings.seedings.made.lock();
            match made.get(&plan.name()) {
                Some(seeding) => seeding.clone(),
                None => {
                    // It is going down.
                    let Some(node) = self.this.upgrade() else { return Err(ApiError::internal()) };
                    let seeding = Arc::new(Seeding { rows_total, ..Seeding::default() });
                    made.insert(plan.name(), seeding.clone());
                    let of_task = seeding.clone();
                    self.spawn(async move { node.seed(plan, &of_task).await });
                    seeding
                }
            }
        };
        let waits = async {
            loop {
                let over = seeding.is_over.notified();
                tokio::pin!(over);
                // Else it could end between the look and the wait.
                over.as_mut().enable();
                if let Some(over) = &*seeding.over.lock() {
                    return over.as_ref().map(|_| ()).map_err(Clone::clone);
                }
                over.await;
            }
        };
        match tokio::time::timeout(PATIENCE, waits).await {
            Ok(ended) => ended,
            Err(_) => Err(ApiError::new(
                ErrorCode::ServerUnavailable,
                format!(
                    "Region {} puts the rows that it has into the new partitions, {} so far",
                    self.config.region.name,
                    seeding.rows.load(Ordering::Relaxed)
                ),
            )),
        }
    }

    /// How far the seeding is that is under way here for a table.
    pub(super) fn seeding_of(&self, id: &str) -> Option<Progress> {
        let made = self.distributions.fillings.seedings.made.lock();
        let mut of_it = made.iter().filter(|((of, _), _)| of == id);
        let (_, seeding) = of_it.next_back()?;
        seeding.over.lock().is_none().then(|| Progress {
            doing: Doing::Copying,
            rows: seeding.rows.load(Ordering::Relaxed),
            rows_total: seeding.rows_total,
            ..Progress::default()
        })
    }

    /// What new partitions were seeded with, once: the rest is to be followed from there. `None`:
    /// it is not known, or they or the old ones were written elsewhere since.
    pub(super) fn take_seeded(
        &self,
        plan: &Plan,
        sources: &[Source],
        targets: &super::copy::Targets,
    ) -> Option<BTreeMap<PartitionId, Lsn>> {
        let made = self.distributions.fillings.seedings.made.lock();
        let seeded = made.get(&plan.name())?.over.lock().replace(Err(ApiError::elsewhere()))?;
        let seeded = seeded.ok()?;
        let are_same = targets.values().all(|table| seeded.targets.contains(&table.id()))
            && sources.len() == plan.reshape.sources.len();
        let done = |source: &Source| {
            let (lsn, epoch) = seeded.sources.get(&source.table.partition())?;
            let is_same = source.table.writer_word().epoch == *epoch;
            is_same.then_some((source.table.partition(), *lsn))
        };
        let done: Option<BTreeMap<PartitionId, Lsn>> = sources.iter().map(done).collect();
        done.filter(|_| are_same)
    }

    fn rows_of_sources(&self, plan: &Plan) -> Option<u64> {
        let rows = |number: &u32| {
            let table = self.partition_held(&plan.partition(*number))?;
            table.digest_view().ok().map(|view| view.tree().rows())
        };
        plan.reshape.sources.iter().map(rows).sum()
    }

    async fn seed(self: Arc<Self>, plan: Plan, seeding: &Seeding) {
        let seeded = self.try_seed(&plan, seeding).await;
        if let Err(error) = &seeded {
            tracing::warn!(table = plan.record.name, %error, "new partitions not seeded");
            let sources = plan.reshape.sources.iter();
            let sources =
                sources.filter_map(|number| self.partition_held(&plan.partition(*number)));
            let sources: BTreeSet<PartitionId> = sources.map(|table| table.partition()).collect();
            let mut followed = self.distributions.fillings.followed.lock();
            followed.retain(|partition, _| !sources.contains(partition));
        }
        *seeding.over.lock() = Some(seeded.map(Arc::new));
        seeding.is_over.notify_waiters();
    }

    async fn try_seed(&self, plan: &Plan, seeding: &Seeding) -> Result<Seeded, ApiError> {
        let mut targets = BTreeMap::new();
        for target in &plan.reshape.targets {
            let name = plan.partition(target.number);
            let table = self.store.table_by_name(&name).ok_or_else(ApiError::no_table)?;
            targets.insert(target.number, table);
        }
        let mut seeded = Seeded {
            targets: targets.values().map(|table| table.id()).collect(),
            ..Seeded::default()
        };
        let (mut puts, mut pace) = (Puts::default(), Pace::new(self.clock.monotonic()));
        for number in &plan.reshape.sources {
            let source = self.filled_here(&plan.partition(*number))?;
            let epoch = source.writer_word().epoch;
            let snapshot = Arc::new(source.snapshot()?);
            let (partition, lsn) = (source.partition(), snapshot.lsn());
            self.distributions.fillings.followed.lock().insert(partition, lsn);
            seeded.sources.insert(partition, (lsn, epoch));
            let mut reader = Reader::new(snapshot);
            loop {
                self.check_seeded(plan, seeding)?;
                if self.rests(&pace).await {
                    continue;
                }
                let began = self.clock.monotonic();
                let (read, rows) =
                    blocking(move || reader.read().map(|rows| (reader, rows))).await?;
                reader = read;
                if rows.is_empty() {
                    break;
                }
                seeding.rows.fetch_add(rows.len() as u64, Ordering::Relaxed);
                let mut by_target: BTreeMap<u32, Vec<MovedRow>> = BTreeMap::new();
                for moved in reader.shown(rows) {
                    let point = plan.record.point_of_row(&moved.key);
                    let number = plan.reshape.target_of(&point.ok_or_else(ApiError::internal)?);
                    by_target.entry(number).or_default().push(moved);
                }
                let mut begun = Vec::new();
                for (number, rows) in by_target {
                    let target = targets.get(&number).ok_or_else(ApiError::internal)?.clone();
                    begun.push(blocking(move || Ok(target.seed(rows))).await?);
                }
                self.worked(&mut pace, began);
                for put in begun {
                    puts.add(put).await?;
                }
            }
        }
        puts.finish().await?;
        for table in targets.values() {
            self.await_digest(table).await;
        }
        self.check_seeded(plan, seeding)?;
        Ok(seeded)
    }

    /// An error: it is not to go on.
    fn check_seeded(&self, plan: &Plan, seeding: &Seeding) -> Result<(), ApiError> {
        match seeding.stops.load(Ordering::Acquire) {
            true => Err(ApiError::invalid("It was given up.")),
            false => self.check_planned(plan),
        }
    }

    /// Rests a while where a seeding is to; `false`: it goes on.
    async fn rests(&self, pace: &Pace) -> bool {
        let rest = pace.rest(self.clock.monotonic(), self.store.is_too_busy_for_upkeep());
        if let Some(rest) = rest {
            tokio::time::sleep(rest).await;
        }
        rest.is_some()
    }

    /// Takes note of a piece of a seeding.
    fn worked(&self, pace: &mut Pace, began: Duration) {
        pace.worked(began, Commits::of(self.store.counters()), self.clock.monotonic());
    }

    /// Waits until the digest of a table knows what was put into it, or for too long.
    async fn await_digest(&self, table: &Table) {
        let deadline = self.clock.monotonic() + DIGEST_PATIENCE;
        while table.digest_view().is_err() && self.clock.monotonic() < deadline {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Seeds a replica of a new partition that another region makes, if this one holds the old
    /// ones. Nobody feeds it before that is over, which is waited for a while.
    pub(in crate::node) async fn seed_replica(&self, table: &Arc<Table>) {
        let Some(node) = self.this.upgrade() else { return };
        let Some(plan) = self.plan_of_replica(table) else { return };
        let partition = table.partition();
        if !self.distributions.fillings.seedings.replicas.lock().insert(partition) {
            return;
        }
        let (unfed, table) = (Unfed { node: node.clone(), partition }, table.clone());
        let (ended, ends) = tokio::sync::oneshot::channel::<()>();
        self.spawn(async move {
            if let Err(error) = node.try_seed_replica(&plan, &table).await {
                tracing::info!(table = %table.name(), %error, "not seeded; it is copied");
            }
            drop((unfed, ended));
        });
        // In time or not, it goes on.
        let _ = tokio::time::timeout(HOLDS_UP, ends).await;
    }

    fn plan_of_replica(&self, table: &Table) -> Option<Plan> {
        let name = table.name();
        let record = self.planned_partition(name.as_str())?;
        let reshape = record.reshape.clone().filter(|it| it.phase == Phase::Filling)?;
        let plan = Plan { record, reshape };
        let is_whole = |number: &u32| {
            let held = self.partition_held(&plan.partition(*number));
            held.is_some_and(|table| {
                !table.is_dropped() && self.record(table.id()).is_some_and(|record| record.ready)
            })
        };
        let is_new = table.durable_lsn() == Lsn(0) && table.digest_state() != DigestState::Off;
        (is_new && plan.reshape.sources.iter().all(is_whole)).then_some(plan)
    }

    async fn try_seed_replica(&self, plan: &Plan, table: &Arc<Table>) -> Result<(), ApiError> {
        let name = table.name();
        let (_, number) = partition_named(name.as_str()).ok_or_else(ApiError::internal)?;
        // Rows lie in it that are in no log: whoever feeds it is to compare all of it.
        let progress = CopyProgress { feeder: NO_FEEDER, ..CopyProgress::default() };
        let note = (copy_note(table.spec().base, table.partition()), progress.encode_to_vec());
        let (mut puts, mut pace) = (Puts::default(), Pace::new(self.clock.monotonic()));
        for source in &plan.reshape.sources {
            let source = self.partition_held(&plan.partition(*source));
            let source = source.ok_or_else(ApiError::no_table)?;
            let mut reader = Reader::new(Arc::new(source.snapshot()?));
            loop {
                if self.planned(&plan.record.name, &plan.name()).is_none() {
                    return Err(ApiError::invalid("It was given up."));
                }
                if self.rests(&pace).await {
                    continue;
                }
                let began = self.clock.monotonic();
                let (read, rows) =
                    blocking(move || reader.read().map(|rows| (reader, rows))).await?;
                reader = read;
                if rows.is_empty() {
                    break;
                }
                let is_its = |moved: &MovedRow| {
                    let point = plan.record.point_of_row(&moved.key);
                    point.is_some_and(|point| plan.reshape.target_of(&point) == number)
                };
                let rows = reader.shown(rows).into_iter().filter(is_its);
                let rows: Vec<_> = rows.map(|moved| (moved.key, moved.row)).collect();
                if rows.is_empty() {
                    self.worked(&mut pace, began);
                    continue;
                }
                let (table, note) = (table.clone(), Some(note.clone()));
                let beside = Beside { done: None, note };
                let put = blocking(move || Ok(table.replace_rows(rows, Vec::new(), &[], beside)));
                let put = put.await?;
                self.worked(&mut pace, began);
                puts.add(put).await?;
            }
        }
        puts.finish().await?;
        self.await_digest(table).await;
        Ok(())
    }

    /// Removes what was begun to be made of new partitions without a record of it, where their
    /// split or merge is over.
    pub(in crate::node::distributions) async fn remove_begun(&self) {
        let is_left = |table: &Arc<Table>| {
            let name = table.name();
            let Some((of, number)) = partition_named(name.as_str()) else { return false };
            self.record(table.id()).is_none()
                && self.distributions.get(of).is_some_and(|record| {
                    record.state == State::Active && record.has_replaced(number)
                })
        };
        if !self.store.tables().iter().any(is_left) {
            return;
        }
        // What goes on meanwhile is not held up; it comes again.
        let Ok(_one_at_a_time) = self.changing.try_lock() else { return };
        let mut left = self.store.tables();
        left.retain(is_left);
        for table in left {
            tracing::info!(table = %table.name(), "what was begun is removed");
            if let Err(error) = self.remove_dropped(table.id()).await {
                tracing::warn!(table = %table.name(), %error, "what was begun is left");
            }
        }
    }
}
