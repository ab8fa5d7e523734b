//! Makes where partitions are agree with where they are wanted. Safe to run at any time and any
//! number of times: what is to be done next is told by what is (`distribution/step.rs`).
//!
//! Only the base does it, for a bounded number of partitions of a table at once. Each step is one
//! that a person could ask of a global table, and is done by what does it then.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use isthmus_control::change::Change;
use isthmus_control::distribution::step::Step;
use isthmus_control::distribution::wish::Rebalance;
use isthmus_control::distribution::{Distribution, Member, Partition, State, name_of_partition};
use isthmus_control::global_table::{GlobalTable, Progress};
use isthmus_model::ids::TableId;
use isthmus_protocol::client::encode_request;
use isthmus_protocol::request::{
    BindGlobalTable, Operation, Placement, Removal, UnbindGlobalTable,
};
use parking_lot::Mutex;
use serde_json::{Value as Json, json};
use tokio::sync::watch;
use tokio::task::{self, JoinSet};

use super::ask::{Ask, Known, Look, Make, read};
use super::make::ASKED_AT_ONCE;
use super::samples::MEASURE_EVERY;
use crate::api_error::ApiError;
use crate::node::Node;
use crate::node::events::EventKind;
use crate::together::{Piece, together};

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// While something is on its way.
const LOOK_SOON: Duration = Duration::from_millis(300);
/// Where nothing is, it is looked every so many times where partitions are.
const LOOKS_BETWEEN: u64 = 5;
/// Tables that are looked at at once.
const PASSES_MAX: usize = 8;

/// The passes over tables, one at a time of each.
#[derive(Default)]
pub(super) struct Passes(Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>);

impl Passes {
    /// What a pass over the table of that name holds.
    fn of(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut all = self.0.lock();
        // Where nobody holds or awaits one, it is made anew.
        all.retain(|_, turn| Arc::strong_count(turn) > 1);
        all.entry(name.to_owned()).or_default().clone()
    }
}

/// A partition as it is, seen by whoever keeps its record.
struct Found {
    table: GlobalTable,
    /// Told by the base of its global table, which alone knows how far replicas have come.
    by_base: bool,
}

impl Node {
    /// Keeps distributed tables as their records say, until `stop` says so.
    pub async fn keep_distributed(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let (mut looks, mut rated_at) = (0u64, self.clock.monotonic());
        let mut measured_at = rated_at;
        let mut passes = JoinSet::new();
        let mut under_way: BTreeMap<task::Id, String> = BTreeMap::new();
        while !*stop.borrow() {
            while let Some(ended) = passes.try_join_next_with_id() {
                let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
                under_way.remove(&id);
            }
            self.go_on_with_ended();
            self.remove_begun().await;
            let own = &self.config.region.name;
            let mut is_busy = false;
            let mut records = self.distributions.all();
            records.retain(|record| record.base == *own);
            // Where there are too many, each is the first one in its turn.
            let first = looks.checked_rem(records.len() as u64).unwrap_or(0);
            records.rotate_left(first as usize);
            for record in &records {
                let is_unsettled =
                    record.state != State::Active || record.is_moving() || record.reshape.is_some();
                is_busy |= is_unsettled;
                let is_due = is_unsettled
                    || record.limits.are_set()
                    || !self.is_told(record)
                    || looks.is_multiple_of(LOOKS_BETWEEN);
                // One that is slow holds up no others.
                let is_under_way = under_way.values().any(|name| *name == record.name);
                if !is_due || is_under_way || under_way.len() >= PASSES_MAX {
                    continue;
                }
                let (node, name) = (self.clone(), record.name.clone());
                let pass = async move { node.reconcile_distribution(&name).await };
                under_way.insert(passes.spawn(pass).id(), record.name.clone());
            }
            if looks.is_multiple_of(LOOKS_BETWEEN) || self.has_unasked_bases() {
                self.look_at_bases().await;
            }
            looks += 1;
            if self.clock.monotonic().saturating_sub(measured_at) >= MEASURE_EVERY {
                measured_at = self.clock.monotonic();
                self.measure_partitions().await;
            }
            let since = self.clock.monotonic().saturating_sub(rated_at);
            if since >= LOOK_EVERY {
                rated_at += since;
                self.distributions.look_at_loads(since);
            }
            tokio::select! {
                () = self.distributions.soon.notified() => {}
                () = tokio::time::sleep(if is_busy { LOOK_SOON } else { LOOK_EVERY }) => {}
                _ = stop.changed() => return,
            }
        }
    }

    /// Whether bases have not been asked since the start here: its disk may be an old one.
    fn has_unasked_bases(&self) -> bool {
        let is_unasked = |record: &Arc<Distribution>| {
            self.is_reached(&record.base) && self.distributions.at_base(&record.id).is_none()
        };
        self.distributions.all().iter().any(is_unasked)
    }

    /// Looks whether the bases of tables know what they have said.
    async fn look_at_bases(&self) {
        let of_others = |record: &&Arc<Distribution>| self.is_reached(&record.base);
        for record in self.distributions.all().iter().filter(of_others) {
            if let Err(error) = self.look_at_base(record).await {
                tracing::debug!(table = record.name, %error, "its base was not asked");
            }
        }
    }

    /// One bounded pass over a table whose base is here, one at a time: two that see the same
    /// might take out one replica each.
    pub(super) async fn reconcile_distribution(&self, name: &str) {
        let turn = self.distributions.passes.of(name);
        let _one_at_a_time = turn.lock().await;
        let Some(record) = self.distributions.get(name) else { return };
        if record.state != State::Offered {
            self.tell_all(&record).await;
        }
        let done = match record.state {
            State::Offered => self.withdraw_left(&record).await,
            State::Dropping => self.finish_drop(&record).await,
            State::Making => self.make_partitions(&record).await,
            State::Active => self.keep_partitions(&record).await,
        };
        if let Err(error) = done {
            tracing::warn!(table = name, %error, "distributed table not reconciled");
        }
    }

    /// Notes the version of a record that a region obeys.
    pub(super) fn note_told(&self, record: &Distribution, region: &str, version: u64) {
        let mut told = self.distributions.told.lock();
        told.entry(record.id.clone()).or_default().insert(region.to_owned(), version);
    }

    pub(super) fn untold(&self, record: &Distribution) -> Vec<String> {
        let told = self.distributions.told.lock();
        let by_region = told.get(&record.id);
        let is_untold = |region: &&String| {
            let version = by_region.and_then(|told| told.get(*region));
            version.is_none_or(|version| *version != record.version)
        };
        self.others.keys().filter(is_untold).cloned().collect()
    }

    pub(super) fn is_told(&self, record: &Distribution) -> bool {
        self.untold(record).is_empty()
    }

    pub(super) async fn tell_all(&self, record: &Distribution) {
        let ask = Ask::Take { record: Box::new(record.clone()) };
        let ask = &ask;
        let mut telling: Vec<Piece<'_, ()>> = Vec::new();
        for region in self.untold(record) {
            telling.push(Box::pin(async move {
                if let Err(error) = self.tell(record, &region, ask).await {
                    tracing::debug!(region, %error, "record not taken yet");
                }
            }));
        }
        together(telling, ASKED_AT_ONCE).await;
    }

    async fn tell(&self, record: &Distribution, region: &str, ask: &Ask) -> Result<(), ApiError> {
        let told = self.ask_about(region, ask).await?;
        let known: Known = read(told.to_string().as_bytes())?;
        if known.obeys(record) {
            self.note_told(record, region, record.version);
        } else if known.is_gone {
            // The disk here is an older one.
            tracing::warn!(table = record.name, region, "the table has been deleted already");
            self.change_distribution(record, |record| {
                record.state = State::Dropping;
                Ok(true)
            })
            .await?;
        }
        Ok(())
    }

    async fn finish_drop(&self, record: &Distribution) -> Result<(), ApiError> {
        self.remove_partitions(record).await?;
        if !self.is_told(record) {
            return Ok(());
        }
        let _one_at_a_time = self.distributions.changing.lock().await;
        self.forget_distribution(record).await
    }

    async fn make_partitions(&self, record: &Distribution) -> Result<(), ApiError> {
        self.remove_replaced(record).await?;
        let mut making: Vec<Piece<'_, Option<u32>>> = Vec::new();
        for partition in record.partitions.iter().filter(|partition| !partition.made) {
            making.push(Box::pin(self.make_partition(record, partition)));
        }
        let made: Vec<u32> = together(making, ASKED_AT_ONCE).await.into_iter().flatten().collect();
        let record = self
            .change_distribution(record, |record| {
                for partition in &mut record.partitions {
                    partition.made |= made.contains(&partition.number);
                }
                Ok(!made.is_empty())
            })
            .await?;
        if record.partitions.iter().any(|partition| !partition.made) {
            return Ok(());
        }
        let found = self.find_partitions(&record).await;
        let is_ready =
            |number: &u32| found.get(number).is_some_and(|it| it.by_base && it.table.is_active());
        if record.partitions.iter().all(|partition| is_ready(&partition.number)) {
            self.change_distribution(&record, |record| {
                let is_made = record.state == State::Making;
                if is_made {
                    record.state = State::Active;
                }
                Ok(is_made)
            })
            .await?;
        }
        Ok(())
    }

    /// Has a partition made where it is wanted first. Returns its number if it is.
    async fn make_partition(&self, record: &Distribution, partition: &Partition) -> Option<u32> {
        let name = name_of_partition(&record.name, partition.number);
        let first = partition.wanted.first()?;
        let make = Make { id: record.id.clone(), name: name.clone() };
        let answer = self.ask_about(first, &Ask::Make(make)).await;
        self.distributions.note_trouble(&name, answer.as_ref().err().map(ToString::to_string));
        answer.ok().map(|_| partition.number)
    }

    /// What each region holds of a table.
    pub(super) async fn looks(&self, record: &Distribution) -> Vec<(String, Look)> {
        let ask = Ask::Look { name: record.name.clone(), id: record.id.clone() };
        let own = self.on_look(&record.name, &record.id);
        let mut looks = vec![(self.config.region.name.clone(), own)];
        for (region, answer) in self.ask_all_others(&ask).await {
            match answer.and_then(|told| read(told.to_string().as_bytes())) {
                Ok(look) => looks.push((region, look)),
                Err(error) => tracing::debug!(region, %error, "it is not known what it holds"),
            }
        }
        self.distributions.reshapings.note_who_knows_plans(&looks);
        looks
    }

    /// The global tables of the partitions of all distributed tables, by id, as the regions that
    /// are reached tell.
    pub(in crate::node) async fn all_partitions(&self) -> BTreeMap<TableId, GlobalTable> {
        let mut all: BTreeMap<TableId, GlobalTable> = BTreeMap::new();
        for record in self.distributions.all() {
            let looks = self.looks(&record).await.into_iter();
            for table in looks.flat_map(|(_, look)| look.partitions).filter_map(|seen| seen.table) {
                let id = TableId(table.table);
                if all.get(&id).is_none_or(|known| table.is_newer_than(known)) {
                    all.insert(id, table);
                }
            }
        }
        all
    }

    /// The partitions of a table as they are, by number.
    async fn find_partitions(&self, record: &Distribution) -> BTreeMap<u32, Found> {
        self.partitions_in(record, &self.looks(record).await)
    }

    /// The partitions of a table as regions tell, by number.
    fn partitions_in(
        &self,
        record: &Distribution,
        looks: &[(String, Look)],
    ) -> BTreeMap<u32, Found> {
        let mut found: BTreeMap<u32, Found> = BTreeMap::new();
        for (region, look) in looks {
            // Its disk may be another one than when it was told.
            let is_obeyed = look.known.id == record.id;
            self.note_told(record, region, if is_obeyed { look.known.version } else { 0 });
            for seen in look.partitions.iter().filter(|seen| !seen.has_ended) {
                let Some(table) = &seen.table else { continue };
                let by_base = table.base == *region;
                let is_better = found.get(&seen.number).is_none_or(|known| {
                    table.is_newer_than(&known.table)
                        || (by_base && !known.table.is_newer_than(table))
                });
                if is_better {
                    found.insert(seen.number, Found { table: table.clone(), by_base });
                }
            }
        }
        found
    }

    /// One bounded step of what moves, and one of what is split or merged.
    async fn keep_partitions(&self, record: &Distribution) -> Result<(), ApiError> {
        let looks = self.looks(record).await;
        let moved = self.move_partitions(record, &looks).await;
        let now = self.distributions.get(&record.name);
        if let Some(now) = now.filter(|now| now.id == record.id && now.state == State::Active) {
            self.reshape_pass(&looks, &now).await;
        }
        moved
    }

    async fn move_partitions(
        &self,
        record: &Distribution,
        looks: &[(String, Look)],
    ) -> Result<(), ApiError> {
        let found = self.partitions_in(record, looks);
        // What is wanted may have changed meanwhile.
        let now = self.distributions.get(&record.name);
        let now = now.filter(|now| now.id == record.id && now.state == State::Active);
        let Some(record) = now.as_deref() else { return Ok(()) };
        self.set_partitions(record, &found).await;
        let mut steps: Vec<Piece<'_, ()>> = Vec::new();
        let (mut arrived, mut under_way) = (Vec::new(), 0);
        for partition in record.partitions.iter().filter(|partition| partition.moving) {
            let by_base = found.get(&partition.number).filter(|found| found.by_base);
            let name = name_of_partition(&record.name, partition.number);
            let Some(Found { table, .. }) = by_base else {
                let why = "the region that keeps its record does not answer";
                self.distributions.note_trouble(&name, Some(why.to_owned()));
                continue;
            };
            let step = table.step_towards(&partition.wanted);
            if step == Step::Nothing {
                self.distributions.note_trouble(&name, None);
                arrived.push(partition.number);
                continue;
            }
            // Those that wait for a region which is away hold up no others.
            let is_stuck = match &step {
                Step::Leaving(_) => true,
                Step::Copying(region) | Step::Bind(region) => !self.is_here_or_reached(region),
                Step::Switchover(to) | Step::MoveBase(to) => {
                    !self.is_here_or_reached(to) || !self.is_here_or_reached(table.primary())
                }
                Step::Nothing | Step::Unbind(_) => false,
            };
            under_way += u32::from(!is_stuck);
            if under_way <= record.moves_at_once || is_stuck {
                steps.push(Box::pin(self.take_step_noted(table, step)));
            }
        }
        together(steps, ASKED_AT_ONCE).await;
        self.note_found(record, &found, &arrived).await
    }

    /// Notes where partitions are, and that some have come where they were wanted.
    async fn note_found(
        &self,
        record: &Distribution,
        found: &BTreeMap<u32, Found>,
        arrived: &[u32],
    ) -> Result<(), ApiError> {
        let mut moved = Vec::new();
        self.change_distribution(record, |record| {
            let mut is_changed = false;
            for place in 0..record.partitions.len() {
                let number = record.partitions[place].number;
                let Some(Found { table, by_base: true }) = found.get(&number) else { continue };
                let mut held = vec![table.base.clone()];
                let whole = table.replicas.iter().filter(|r| r.progress == Progress::Active);
                held.extend(whole.map(|r| r.region.clone()).filter(|r| *r != table.base));
                is_changed |= record.note_seen(place, held, table.primary());
                let partition = &mut record.partitions[place];
                // It may be wanted elsewhere since.
                if arrived.contains(&number)
                    && partition.moving
                    && table.step_towards(&partition.wanted) == Step::Nothing
                {
                    (partition.moving, is_changed) = (false, true);
                    moved.push((table.name.clone(), partition.wanted.clone()));
                }
            }
            Ok(is_changed)
        })
        .await?;
        for (name, held) in moved {
            let text = format!("it is where it is wanted: {}", held.join(", "));
            self.notice(EventKind::PartitionMoved, &name, text, json!({ "held": held }));
        }
        Ok(())
    }

    fn is_here_or_reached(&self, region: &str) -> bool {
        region == self.config.region.name || self.is_reached(region)
    }

    /// Sets of partitions what the record says.
    async fn set_partitions(&self, record: &Distribution, found: &BTreeMap<u32, Found>) {
        let mut setting: Vec<Piece<'_, ()>> = Vec::new();
        for Found { table, .. } in found.values().filter(|found| found.by_base) {
            let Some(change) = record.setting_to_change(table) else { continue };
            setting.push(Box::pin(async move {
                let change = json!(change).to_string();
                let done = self.change_global_table(&table.name, change.into()).await;
                let trouble = done.err().map(|error| error.message);
                self.distributions.note_trouble(&table.name, trouble);
            }));
        }
        together(setting, ASKED_AT_ONCE).await;
    }

    /// Takes a step, and notes what the partition waits for.
    async fn take_step_noted(&self, table: &GlobalTable, step: Step) {
        let waits = match &step {
            Step::Copying(region) => Some(format!("region {region} takes a copy")),
            Step::Leaving(region) => Some(format!("region {region} gives its replica up")),
            _ => self.take_step(table, &step).await.err().map(|error| error.message),
        };
        self.distributions.note_trouble(&table.name, waits);
    }

    pub(super) async fn take_step(&self, table: &GlobalTable, step: &Step) -> Result<(), ApiError> {
        let (id, name) = (table.id.clone(), table.name.clone());
        let instance =
            |region: &str| self.config.instance_of(region).unwrap_or_default().to_owned();
        match step {
            Step::Nothing | Step::Copying(_) | Step::Leaving(_) => Ok(()),
            Step::Bind(region) => {
                let (region, instance) = (region.clone(), instance(region));
                let placements = vec![Placement { region, instance, writable: false }];
                let bind = Operation::BindGlobalTable(BindGlobalTable { id, name, placements });
                self.global_table(&bind, &encode_request(&bind)).await.map(drop)
            }
            Step::Unbind(region) => {
                let removals = vec![Removal { region: region.clone(), instance: instance(region) }];
                let unbind = Operation::UnbindGlobalTable(UnbindGlobalTable { id, name, removals });
                self.global_table(&unbind, &encode_request(&unbind)).await.map(drop)
            }
            Step::Switchover(to) => {
                let change = json!({ "change": "switchover", "to": to });
                self.change_global_table(&name, change.to_string().into()).await.map(drop)
            }
            Step::MoveBase(to) => {
                let change = json!({ "change": "set-base", "to": to });
                self.change_global_table(&name, change.to_string().into()).await.map(drop)
            }
        }
    }

    /// Moves partitions to where they belong, here or where the base is. `body` is the JSON of
    /// what is asked.
    pub async fn rebalance(&self, name: &str, body: &[u8]) -> Result<Json, ApiError> {
        /// What is asked, and whether it is only to be told.
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Asked {
            #[serde(default)]
            dry_run: bool,
            #[serde(default)]
            change: Rebalance,
        }
        let asked: Asked = match body.is_empty() {
            true => Asked { dry_run: false, change: Rebalance::default() },
            false => serde_json::from_slice(body)
                .map_err(|error| ApiError::invalid(format!("The wish is wrong: {error}.")))?,
        };
        let record = self.distribution(name).ok_or_else(ApiError::no_table)?;
        let ask =
            Ask::Rebalance { name: name.to_owned(), change: asked.change, dry_run: asked.dry_run };
        self.ask_about(&record.base, &ask).await
    }

    pub(super) async fn decide_rebalance(
        &self,
        name: &str,
        change: &Rebalance,
        dry_run: bool,
    ) -> Result<Json, ApiError> {
        let record = self.decided_here(name)?;
        let known = self.known_members(&record, change).await?;
        let found = self.find_partitions(&record).await;
        self.note_found(&record, &found, &[]).await?;
        if dry_run {
            let record = self.distribution(name).ok_or_else(ApiError::no_table)?;
            let next = record.rebalanced(change, &known)?;
            return Ok(moves_json(&record, &next, false));
        }
        let mut told = Json::Null;
        self.change_distribution(&record, |record| {
            let next = record.rebalanced(change, &known)?;
            told = moves_json(record, &next, true);
            *record = next;
            Ok(true)
        })
        .await?;
        let text = format!(
            "{} of {} replicas move, {} partitions get another writer",
            told["replicas_moved"], told["replicas"], told["writers_changed"]
        );
        self.notice(EventKind::PartitionsMove, name, text, json!({ "moves": told["moves"] }));
        Ok(told)
    }

    /// Sets something of all partitions, here or where the base is.
    pub(in crate::node) async fn set_distribution(
        &self,
        record: &Distribution,
        change: &[u8],
    ) -> Result<Json, ApiError> {
        let change = serde_json::from_slice(change)
            .map_err(|error| ApiError::invalid(format!("The change cannot be read: {error}.")))?;
        let ask = Ask::Set { name: record.name.clone(), change };
        self.ask_about(&record.base, &ask).await
    }

    pub(super) async fn decide_set(&self, name: &str, change: &Change) -> Result<Json, ApiError> {
        let record = self.decided_here(name)?;
        let mut changed = false;
        let record = self
            .change_distribution(&record, |record| {
                let next = record.clone().with_setting(change)?;
                changed = next != *record;
                *record = next;
                Ok(changed)
            })
            .await?;
        self.reconcile_distribution(name).await;
        Ok(json!({ "version": record.version, "changed": changed }))
    }

    /// The regions that are to be added, with their labels.
    async fn known_members(
        &self,
        record: &Distribution,
        change: &Rebalance,
    ) -> Result<Vec<Member>, ApiError> {
        let own = &self.config.region.name;
        let is_known = |region: &&String| *region == own || self.is_member(region);
        let mut known = Vec::new();
        for region in change.add.iter().filter(is_known) {
            let ask = Ask::Look { name: record.name.clone(), id: record.id.clone() };
            let told = self.ask_about(region, &ask).await?;
            let Look { labels, .. } = read(told.to_string().as_bytes())?;
            known.push(Member { name: region.clone(), weight: 1, labels });
        }
        Ok(known)
    }
}

fn moves_json(before: &Distribution, after: &Distribution, begun: bool) -> Json {
    let moves = before.moves_to(after);
    let replicas: usize = before.partitions.iter().map(|partition| partition.held.len()).sum();
    let moved = moves.iter().filter(|one| one.to.is_some()).count();
    json!({
        "name": before.name,
        "begun": begun,
        "version": after.version,
        "replicas": replicas,
        "replicas_moved": moved,
        "writers_changed": moves.iter().filter(|one| one.writer.is_some()).count(),
        "moves": moves,
    })
}
