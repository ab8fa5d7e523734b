//! The writer's part of a split or merge: it fills the new partitions, ends the old ones, and says
//! so to the base of the record.
//!
//! Where it can be, all regions have put what they hold into the new partitions before (`seed.rs`).
//! Rows are copied from a snapshot, then what the log names since is made alike, until little is
//! left. Then writes of the old partitions are held, the rest is moved, and when the other replicas
//! of the new ones have it too, the old ones end in their logs. Only then clients write the new
//! ones. So what was acknowledged before is in them, wherever they are read; and a region that
//! writes an old one after a failover goes on with it only if it has not ended in its log.
//!
//! What is under way is forgotten in a crash: then it is begun anew, and rows that are alike are
//! left.

mod close;
mod copy;
mod finish;
mod seed;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use isthmus_control::distribution::reshape::words::Stopped;
use isthmus_control::distribution::reshape::{Phase, Reshape};
use isthmus_control::distribution::{Distribution, State, name_of_partition, partition_named};
use isthmus_model::ids::{Epoch, Lsn, PartitionId};
use isthmus_protocol::error_code::ErrorCode;
use isthmus_store::Table;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};

use crate::api_error::ApiError;
use crate::node::Node;

/// What has failed is not begun anew before.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// What a filling does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Doing {
    /// Rows are copied.
    #[default]
    Copying,
    /// What was written meanwhile is followed, and other replicas come after.
    Following,
    /// The old partitions have ended; the record is to say so.
    Ended,
    /// It has failed, and is begun anew.
    Failed,
}

impl Doing {
    /// The word for it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Doing::Copying => "copying",
            Doing::Following => "following",
            Doing::Ended => "ended",
            Doing::Failed => "failed",
        }
    }
}

/// How far a filling has come.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Progress {
    /// What it does.
    pub(super) doing: Doing,
    /// Rows that were looked at.
    pub(super) rows: u64,
    /// Of about so many, where rows are counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) rows_total: Option<u64>,
    /// How long it has copied, in milliseconds.
    pub(super) took_ms: u64,
    /// How often writes were held so that the old partitions could end.
    #[serde(default)]
    pub(super) holds: u32,
    /// What it waits for, or why it has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) waits: Option<String>,
}

impl Progress {
    /// How many seconds the copy will take yet, if it goes on as it did.
    pub(super) fn seconds_left(&self) -> Option<f64> {
        let left = self.rows_total?.saturating_sub(self.rows) as f64;
        (self.doing == Doing::Copying && self.rows > 0)
            .then(|| left * self.took_ms as f64 / 1000.0 / self.rows as f64)
    }
}

/// A filling that is under way, or has failed a moment ago.
#[derive(Default)]
pub(super) struct Filling {
    progress: Mutex<Progress>,
    /// When it failed, by the monotonic clock.
    failed_at: Mutex<Option<Duration>>,
}

impl Filling {
    fn note(&self, note: impl FnOnce(&mut Progress)) {
        note(&mut self.progress.lock());
    }

    fn holds(&self) -> u32 {
        self.progress.lock().holds
    }

    fn waits_for(&self, what: impl Into<String>) {
        self.progress.lock().waits = Some(what.into());
    }
}

/// Names a split or merge: the id of the table and the first of the new numbers.
type Name = (String, u32);

/// The fillings of this region.
#[derive(Default)]
pub(in crate::node) struct Fillings {
    under_way: Mutex<BTreeMap<Name, Arc<Filling>>>,
    /// Those that must not end what they fill from.
    stopped: Mutex<BTreeSet<Name>>,
    /// Ends of old partitions, and words that they must not end, come one after the other.
    ending: tokio::sync::Mutex<()>,
    /// New partitions that clients may write before the record says so here, and the epochs in
    /// which this region has opened them.
    opened: RwLock<BTreeMap<String, Epoch>>,
    /// What of logs is needed yet.
    followed: Mutex<BTreeMap<PartitionId, Lsn>>,
    seedings: seed::Seedings,
}

impl Fillings {
    /// After which entry the log of a partition is needed for what is under way.
    pub(in crate::node) fn needs_log_after(&self, partition: PartitionId) -> Option<Lsn> {
        self.followed.lock().get(&partition).copied()
    }

    /// Forgets what was of one that is over, or will never be.
    pub(super) fn forget(&self, record: &Distribution) {
        let keeps =
            |number: u32| record.reshape.as_ref().is_some_and(|reshape| reshape.has_target(number));
        self.opened.write().retain(|name, _| {
            partition_named(name)
                .is_none_or(|(table, number)| table != record.name || keeps(number))
        });
        self.stopped.lock().retain(|(id, number)| *id != record.id || keeps(*number));
        self.under_way.lock().retain(|(id, number), _| *id != record.id || keeps(*number));
        let over = self.seedings.forget(|(id, number)| *id != record.id || keeps(*number));
        self.followed.lock().retain(|partition, _| !over.contains(partition));
    }
}

/// What one filling is about.
pub(super) struct Plan {
    record: Arc<Distribution>,
    reshape: Reshape,
}

impl Plan {
    fn name(&self) -> Name {
        (self.record.id.clone(), self.reshape.id())
    }

    fn partition(&self, number: u32) -> String {
        name_of_partition(&self.record.name, number)
    }
}

impl Node {
    /// The split or merge of that name, as the record here says, if it is not given up: what has
    /// ended is finished also while it is to be given up.
    fn planned(&self, table: &str, name: &Name) -> Option<Plan> {
        let record = self.distributions.get(table)?;
        let reshape = record.reshape.clone()?;
        let is_it = record.id == name.0
            && reshape.id() == name.1
            && reshape.phase != Phase::Removing
            && record.state == State::Active;
        is_it.then_some(Plan { record, reshape })
    }

    /// The same, if old partitions may be ended for it: it is to go on, or one has ended.
    fn to_be_filled(&self, table: &str, name: &Name) -> Option<Plan> {
        let plan = self.planned(table, name)?;
        let goes_on = plan.reshape.phase == Phase::Filling || self.has_any_ended(&plan.record);
        goes_on.then_some(plan)
    }

    /// Fills new partitions for the base of the record, and tells how far it is.
    pub(super) fn on_fill(
        &self,
        from: &str,
        table: &str,
        name: &Name,
    ) -> Result<Progress, ApiError> {
        let plan = self.to_be_filled(table, name).filter(|plan| plan.record.base == from);
        let Some(plan) = plan else {
            return Err(ApiError::new(
                ErrorCode::ServerUnavailable,
                format!(
                    "Region {} does not know of such a split or merge yet. Nothing was done.",
                    self.config.region.name
                ),
            ));
        };
        Ok(self.begin_filling(plan))
    }

    /// Begins a filling, unless it is under way or has failed a moment ago; tells how far it is.
    fn begin_filling(&self, plan: Plan) -> Progress {
        let now = self.clock.monotonic();
        let mut under_way = self.distributions.fillings.under_way.lock();
        if let Some(filling) = under_way.get(&plan.name()) {
            let failed_at = *filling.failed_at.lock();
            if failed_at.is_none_or(|at| now < at + TRY_AGAIN) {
                return filling.progress.lock().clone();
            }
        }
        // It is going down.
        let Some(node) = self.this.upgrade() else { return Progress::default() };
        let filling = Arc::new(Filling::default());
        under_way.insert(plan.name(), filling.clone());
        drop(under_way);
        self.spawn(async move { node.fill(plan, filling).await });
        Progress::default()
    }

    /// What is filled for the base is not ended any more, unless it has ended. Speaks only for
    /// the old partitions that this region writes for certain.
    pub(super) async fn on_stop_filling(
        &self,
        from: &str,
        table: &str,
        name: &Name,
    ) -> Result<Stopped, ApiError> {
        let _alone = self.distributions.fillings.ending.lock().await;
        let record = self.distributions.get(table);
        let record = record.filter(|record| record.base == from && record.id == name.0);
        let reshape = record.as_ref().and_then(|record| record.reshape.as_ref());
        let Some(reshape) = reshape.filter(|reshape| reshape.id() == name.1) else {
            return Err(ApiError::new(
                ErrorCode::ServerUnavailable,
                "The region does not know of such a split or merge. Nothing was done.",
            ));
        };
        let partition = |number: &u32| name_of_partition(table, *number);
        if reshape.sources.iter().any(|number| self.has_ended(&partition(number))) {
            return Ok(Stopped { has_ended: true, keeps: Vec::new() });
        }
        // First, so that what is said below stays so.
        self.distributions.fillings.stopped.lock().insert(name.clone());
        let is_written_here = |number: &&u32| {
            self.filled_here(&partition(number))
                .is_ok_and(|table| self.check_lease(&table, table.writer_word().epoch).is_ok())
        };
        let keeps = reshape.sources.iter().filter(is_written_here).copied().collect();
        Ok(Stopped { has_ended: false, keeps })
    }

    /// Whether a partition has ended in its log here.
    pub(super) fn has_ended(&self, partition: &str) -> bool {
        self.partition_held(partition).is_some_and(|table| table.is_dropped())
    }

    /// Whether a partition has ended, or is about to, and the record does not say yet what goes on
    /// in its place: until then it is kept.
    pub(in crate::node) fn is_reshaped_from(&self, partition: &str) -> bool {
        let Some((table, number)) = partition_named(partition) else { return false };
        self.distributions.get(table).is_some_and(|record| {
            record.reshape.as_ref().is_some_and(|reshape| reshape.sources.contains(&number))
        })
    }

    /// Whether others have taken the place of a partition for good, as the record here says.
    pub(in crate::node) fn is_replaced(&self, partition: &str) -> bool {
        let Some((table, number)) = partition_named(partition) else { return false };
        self.distributions.get(table).is_some_and(|record| record.has_replaced(number))
    }

    /// The replica of a partition here, also where it has ended.
    pub(super) fn partition_held(&self, partition: &str) -> Option<Arc<Table>> {
        self.store.table_held_by_name(partition)
    }

    /// The record of a partition that is to take the place of others.
    fn planned_partition(&self, partition: &str) -> Option<Arc<Distribution>> {
        if !self.distributions.is_any_reshaped() {
            return None;
        }
        let (table, number) = partition_named(partition)?;
        let record = self.distributions.get(table)?;
        let is_planned = record.reshape.as_ref().is_some_and(|reshape| reshape.has_target(number));
        is_planned.then_some(record)
    }

    /// Whether a partition must not be read here: it may lack something yet.
    pub(crate) fn is_unread(&self, partition: &str) -> bool {
        let Some(record) = self.planned_partition(partition) else { return false };
        !self.have_all_ended(&record)
    }

    async fn fill(self: Arc<Self>, plan: Plan, filling: Arc<Filling>) {
        let done = self.try_fill(&plan, &filling).await;
        self.distributions.fillings.followed.lock().retain(|partition, _| {
            let name = self.table_of(*partition).map(|table| table.name());
            let number = name.as_ref().and_then(|name| partition_named(name.as_str()));
            number.is_some_and(|(table, number)| {
                table != plan.record.name || !plan.reshape.sources.contains(&number)
            })
        });
        match done {
            Ok(()) => {
                self.distributions.fillings.under_way.lock().remove(&plan.name());
            }
            Err(error) => {
                tracing::warn!(table = plan.record.name, %error, "partitions not filled");
                filling.note(|progress| {
                    progress.doing = Doing::Failed;
                    progress.waits = Some(error.message);
                });
                *filling.failed_at.lock() = Some(self.clock.monotonic());
            }
        }
    }

    async fn try_fill(self: &Arc<Self>, plan: &Plan, filling: &Filling) -> Result<(), ApiError> {
        let mut targets = BTreeMap::new();
        for target in &plan.reshape.targets {
            let table = self.filled_here(&plan.partition(target.number))?;
            targets.insert(target.number, table);
        }
        let mut sources = Vec::new();
        for number in &plan.reshape.sources {
            let name = plan.partition(*number);
            if !self.has_ended(&name) {
                sources.push(copy::Source::new(plan, *number, self.filled_here(&name)?));
            }
        }
        if !sources.is_empty() {
            // They were opened here in an earlier turn that came to nothing.
            let of_it = |name: &String| targets.keys().any(|it| plan.partition(*it) == *name);
            self.distributions.fillings.opened.write().retain(|name, _| !of_it(name));
            // First, so that rows are kept there as they are here from the beginning.
            let lived_otherwise = self.follow_schemas(&sources, &targets).await?;
            let seeded = self.take_seeded(plan, &sources, &targets);
            match seeded.filter(|_| !lived_otherwise) {
                Some(seeded) => {
                    for source in &mut sources {
                        let done = seeded.get(&source.table.partition()).copied();
                        source.done = done.ok_or_else(ApiError::internal)?;
                    }
                }
                None => self.copy_all(plan, &mut sources, &targets, filling).await?,
            }
            filling.note(|progress| progress.doing = Doing::Following);
            self.follow_and_end(plan, &mut sources, &targets, filling).await?;
        }
        self.finish(plan, &targets, filling).await
    }

    /// A partition that is written here, of the new or of the old ones.
    fn filled_here(&self, name: &str) -> Result<Arc<Table>, ApiError> {
        let table = self.partition_held(name);
        let table = table.filter(|table| !table.is_dropped() && self.is_recorded(table.id()));
        let table = table.ok_or_else(ApiError::no_table)?;
        let is_put_back = self.shared.put_backs.is_put_back(table.partition());
        match table.writer_word().accepts && !is_put_back && self.is_leased() {
            true => Ok(table),
            false => Err(ApiError::new(
                ErrorCode::ServerUnavailable,
                format!("Region {} does not write {name}.", self.config.region.name),
            )),
        }
    }

    /// Numbers that this region has given in partitions that another record takes the place of are
    /// not given again in those that go on, should it come to write them.
    pub(super) async fn carry_given_numbers(&self, next: &Distribution) -> Result<(), ApiError> {
        let Some(known) = self.distributions.get(&next.name) else { return Ok(()) };
        // The next record may have another one under way already.
        let is_over = |reshape: &&Reshape| {
            known.id == next.id && next.reshape.as_ref().is_none_or(|it| it.id() != reshape.id())
        };
        let Some(reshape) = known.reshape.as_ref().filter(is_over) else { return Ok(()) };
        let partition = |number: &u32| self.partition_held(&name_of_partition(&next.name, *number));
        let sources = reshape.sources.iter().filter_map(partition);
        let given = sources.map(|table| table.numbers_given()).max().unwrap_or_default();
        for target in reshape.targets.iter().filter_map(|target| partition(&target.number)) {
            target.skip_numbers(given).await?;
        }
        Ok(())
    }

    /// How far the filling is that is under way here for a table.
    pub(super) fn filling_of(&self, id: &str) -> Option<Progress> {
        let under_way = self.distributions.fillings.under_way.lock();
        let mut of_it = under_way.iter().filter(|((of, _), _)| of == id);
        let progress = of_it.next_back().map(|(_, filling)| filling.progress.lock().clone());
        progress.or_else(|| self.seeding_of(id))
    }
}
