//! Distributed tables are made and deleted: asked of any region, decided in the base, which is the
//! region that was asked to make one. What is wrong makes nothing anywhere.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use isthmus_control::distribution::reshape::Phase;
use isthmus_control::distribution::wish::{Named, Wish};
use isthmus_control::distribution::{
    By, Distribution, Member, State, name_of_partition, partition_named,
};
use isthmus_control::global_table::{GlobalTable, Serve, Sync};
use isthmus_control::writer::AtSecondary;
use isthmus_model::change::Direction;
use isthmus_model::check::check_table_name;
use isthmus_model::ids::{Epoch, Lsn, Origin, PartitionId, TableId};
use isthmus_model::key::{EncodedKey, KeyKind};
use isthmus_model::schema::{KeyColumn, Schema};
use isthmus_model::value::Text;
use isthmus_protocol::error_code::ErrorCode;
use isthmus_protocol::request::{CreateTable, OptionsChange, ThroughputChange};
use isthmus_store::{Table, TableSpec, Writers, Writing, keys};
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::ask::{Ask, Known, Make, read};
use super::filling::Plan;
use super::is_alive;
use super::take::spec_of;
use crate::api_error::ApiError;
use crate::node::events::EventKind;
use crate::node::{Node, Record, writers};
use crate::tables::{check_quota, forget_split_points, new_schema, split_points};
use crate::together::{Piece, together};

/// How long is waited until all partitions are where they belong. They come later, too.
const READY_PATIENCE: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How long is waited for regions that are not reached.
const REACH_PATIENCE: Duration = Duration::from_secs(3);
/// Bytes of the name of a distributed table: partitions have longer ones.
pub(super) const NAME_BYTES_MAX: usize = 240;
/// Regions that are asked at once.
pub(super) const ASKED_AT_ONCE: usize = 16;

/// A table that is to be distributed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    /// Its name.
    name: String,
    /// What it is, where it does not exist yet.
    #[serde(default)]
    schema: Option<AskedSchema>,
    /// How.
    wish: Wish,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AskedSchema {
    key: Vec<AskedColumn>,
    #[serde(default)]
    max_versions: Option<i32>,
    #[serde(default)]
    time_to_live: Option<i32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AskedColumn {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    auto_increment: bool,
}

/// What a region answers that would take such a table.
#[derive(Deserialize)]
struct May {
    labels: BTreeMap<String, String>,
}

impl AskedSchema {
    fn schema(self, name: &str) -> Result<Schema, ApiError> {
        let column = |column: AskedColumn| {
            let kind = match column.kind.as_str() {
                "integer" => KeyKind::Integer,
                "string" => KeyKind::String,
                "binary" => KeyKind::Binary,
                other => {
                    return Err(ApiError::invalid(format!(
                        "A key column is of type integer, string or binary, not '{other}'."
                    )));
                }
            };
            let (name, auto_increment) = (Text::from(column.name), column.auto_increment);
            Ok(KeyColumn { name, kind, auto_increment })
        };
        new_schema(&CreateTable {
            table: Text::from(name),
            key_columns: self.key.into_iter().map(column).collect::<Result<_, _>>()?,
            defined_columns: Vec::new(),
            options: OptionsChange {
                time_to_live: self.time_to_live.or(Some(-1)),
                max_versions: self.max_versions.or(Some(1)),
                ..OptionsChange::default()
            },
            reserved: ThroughputChange::default(),
            split_points: Vec::new(),
        })
    }
}

impl Node {
    /// Distributes a table that is empty or does not exist. `body` is the JSON of what is asked.
    /// Answers when it can be used, or after a while.
    pub async fn distribute(&self, body: &[u8]) -> Result<Json, ApiError> {
        let asked: Asked = serde_json::from_slice(body)
            .map_err(|error| ApiError::invalid(format!("The wish is wrong: {error}.")))?;
        check_table_name(&asked.name)?;
        if asked.name.len() > NAME_BYTES_MAX {
            return Err(ApiError::invalid(format!(
                "The name of a distributed table has at most {NAME_BYTES_MAX} bytes."
            )));
        }
        let name = asked.name.clone();
        // Only what is asked of others takes long, and holds up no other table.
        let _offering = self.distributions.begin_offer(&name)?;
        if self.is_distribution_name(&name) {
            return Err(ApiError::table_exists());
        }
        let held = self.store.table_by_name(&name);
        let schema = match (&held, asked.schema) {
            (Some(_), Some(_)) => return Err(ApiError::table_exists()),
            (Some(held), None) => held.schema().as_ref().clone(),
            (None, Some(schema)) => schema.schema(&name)?,
            (None, None) => {
                return Err(ApiError::invalid(format!(
                    "Table {name} does not exist in region {}. Give its key columns, or make it \
                     there first.",
                    self.config.region.name
                )));
            }
        };
        if held.is_none() {
            check_quota(self)?;
        }
        if held.as_ref().is_some_and(|held| self.record(held.id()).is_some()) {
            return Err(ApiError::invalid(format!(
                "Table {name} is a global table; only a table of one region can be distributed."
            )));
        }
        let mut wish = asked.wish;
        if let Some(held) = &held
            && wish.by == By::Range
            && wish.split_points.is_empty()
        {
            wish.split_points = split_points(&self.store, held.id())?;
        }
        let members = self.members_for(&name).await?;
        let replaces = held.as_ref().map(|held| held.id());
        let record = self.plan_distribution(&wish, &name, schema, &members, replaces)?;
        let record = self.keep_offered(record).await?;
        if let Err(refusal) = self.offer(&record, held.as_deref()).await {
            self.withdraw(&record).await?;
            return Err(refusal);
        }
        self.await_made(&name).await
    }

    fn plan_distribution(
        &self,
        wish: &Wish,
        name: &str,
        schema: Schema,
        members: &[Member],
        replaces: Option<TableId>,
    ) -> Result<Distribution, ApiError> {
        let key = schema.key_columns.first().map(|column| column.kind);
        let id = self.store.reserve_id()?;
        let own = Origin(self.config.region.number);
        let spec = keys::table::encode_value(&TableSpec {
            id: TableId(id),
            name: Text::from(name),
            partition: PartitionId(id),
            schema,
            created_millis: self.clock.wall_millis(),
            epoch: Epoch(1),
            base: own,
            writing: Writing::Accept,
            writers: Writers::One,
            writer: own,
            handed_over: None,
            settled: Default::default(),
        });
        let named = Named {
            name,
            id: &format!("ds-{id:016x}"),
            base: &self.config.region.name,
            key: key.ok_or_else(ApiError::internal)?,
            seed: id,
            spec: &STANDARD.encode(spec),
            replaces: replaces.map(|table| table.0),
        };
        Ok(wish.plan(named, members)?)
    }

    /// All regions, each of which would take a table of that name.
    async fn members_for(&self, name: &str) -> Result<Vec<Member>, ApiError> {
        // After a start of all, some are dialled a little later.
        let deadline = self.clock.monotonic() + REACH_PATIENCE;
        let is_away = |region: &String| !self.is_reached(region);
        while self.others.keys().any(is_away) && self.clock.monotonic() < deadline {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        let ask = Ask::May { name: name.to_owned() };
        let told = self.ask_all_others(&ask).await;
        let own = &self.config.region;
        let mut members =
            vec![Member { name: own.name.clone(), weight: 1, labels: own.labels.clone() }];
        for (region, answer) in told {
            let May { labels } = read(answer?.to_string().as_bytes())?;
            members.push(Member { name: region, weight: 1, labels });
        }
        members.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(members)
    }

    /// What each other region answers.
    pub(super) async fn ask_all_others(&self, ask: &Ask) -> Vec<(String, Result<Json, ApiError>)> {
        let mut asked: Vec<Piece<'_, _>> = Vec::new();
        for region in self.others.keys() {
            asked.push(Box::pin(async move {
                let answer = self.ask_about(region, ask).await.map_err(|error| ApiError {
                    message: match error.message.contains(region.as_str()) {
                        true => error.message,
                        false => format!("Region {region}: {}", error.message),
                    },
                    ..error
                });
                (region.clone(), answer)
            }));
        }
        together(asked, ASKED_AT_ONCE).await
    }

    /// Nothing more is written to a table that holds nothing, until the offer is withdrawn. An
    /// error: it holds something.
    async fn close_empty(&self, table: &Table) -> Result<(), ApiError> {
        let (id, writers, epoch) = (table.id(), table.spec().writers, table.epoch());
        self.store.set_writing(id, Writing::Refuse, writers, epoch).await?;
        if is_empty(table)? {
            return Ok(());
        }
        Err(ApiError::invalid(format!(
            "Table {} holds rows, or has held some until a short time ago. Distribute an empty \
             one and load the rows into it.",
            table.name()
        )))
    }

    /// Takes the name here, if nobody has meanwhile.
    async fn keep_offered(&self, record: Distribution) -> Result<Arc<Distribution>, ApiError> {
        let _one_at_a_time = self.distributions.changing.lock().await;
        let _names = self.hold_names().await;
        let held = self.store.table_by_name(&record.name).map(|held| held.id().0);
        if self.is_distribution_name(&record.name) || held != record.replaces {
            return Err(ApiError::table_exists());
        }
        self.check_no_partitions(&record.name)?;
        self.keep_distribution(record).await
    }

    /// Gives the record to all others; when all have it, the table is being made. An error: it is
    /// to be withdrawn.
    async fn offer(&self, record: &Distribution, held: Option<&Table>) -> Result<(), ApiError> {
        if let Some(held) = held {
            self.close_empty(held).await?;
        }
        let ask = Ask::Take { record: Box::new(record.clone()) };
        for (region, answer) in self.ask_all_others(&ask).await {
            let known: Known = read(answer?.to_string().as_bytes())?;
            if !known.obeys(record) {
                return Err(ApiError::new(
                    ErrorCode::OperationConflict,
                    format!("Region {region} has not taken the table. Nothing was made."),
                ));
            }
        }
        self.check_replaced(record)?;
        self.change_distribution(record, |record| {
            record.state = State::Making;
            Ok(true)
        })
        .await?;
        let (partitions, replicas) = (record.partitions.len(), record.replicas);
        let text = format!("divided into {partitions} partitions, each in {replicas} regions");
        let detail = json!({ "partitions": partitions, "replicas": replicas });
        self.notice(EventKind::TableDistributed, &record.name, text, detail);
        Ok(())
    }

    /// What was offered is not made: nobody keeps the record, and the table whose place it would
    /// have taken is written again. A region that does not hear it learns it when it asks the base.
    async fn withdraw(&self, record: &Distribution) -> Result<(), ApiError> {
        let ask = Ask::Abandon { id: record.id.clone(), name: record.name.clone() };
        let told = self.ask_all_others(&ask).await;
        let is_made = |error: &ApiError| error.code == ErrorCode::OperationConflict;
        if told.iter().any(|(_, answer)| answer.as_ref().is_err_and(is_made)) {
            tracing::warn!(table = record.name, "it has been made; the disk here is an older one");
            return Ok(());
        }
        let _one_at_a_time = self.distributions.changing.lock().await;
        let known = self.distributions.get(&record.name);
        if known.is_none_or(|known| known.id != record.id || known.state != State::Offered) {
            return Ok(());
        }
        if let Some(held) = self.replaced_by(record).filter(|held| is_closed(held))
            && self.record(held.id()).is_none()
        {
            let (writers, epoch) = (held.spec().writers, held.epoch());
            self.store.set_writing(held.id(), Writing::Accept, writers, epoch).await?;
        }
        self.forget_distribution(record).await
    }

    /// Withdraws what a crash, or a client that went away, has left of an offer.
    pub(super) async fn withdraw_left(&self, record: &Distribution) -> Result<(), ApiError> {
        // Whoever offers it goes on.
        let Ok(_offering) = self.distributions.begin_offer(&record.name) else { return Ok(()) };
        match self.distributions.get(&record.name) {
            Some(known) if known.id == record.id && known.state == State::Offered => {
                self.withdraw(&known).await
            }
            Some(_) | None => Ok(()),
        }
    }

    fn replaced_by(&self, record: &Distribution) -> Option<Arc<Table>> {
        self.store.table(TableId(record.replaces?))
    }

    /// Whether the table whose place another takes is still as it was when it was closed.
    fn check_replaced(&self, record: &Distribution) -> Result<(), ApiError> {
        let Some(held) = self.replaced_by(record) else { return Ok(()) };
        match self.record(held.id()).is_none() && is_closed(&held) && is_empty(&held)? {
            true => Ok(()),
            false => Err(ApiError::new(
                ErrorCode::OperationConflict,
                format!("Table {} was changed while it was being distributed.", record.name),
            )),
        }
    }

    /// Removes the table whose place another takes.
    pub(super) async fn remove_replaced(&self, record: &Distribution) -> Result<(), ApiError> {
        let _one_at_a_time = self.changing.lock().await;
        let Some(held) = self.replaced_by(record) else { return Ok(()) };
        self.check_replaced(record)?;
        self.store.drop_table(held.id()).await?;
        forget_split_points(&self.store, held.id()).await
    }

    async fn await_made(&self, name: &str) -> Result<Json, ApiError> {
        let deadline = self.clock.monotonic() + READY_PATIENCE;
        loop {
            let record = self.distributions.get(name).ok_or_else(ApiError::no_table)?;
            if record.state == State::Active || self.clock.monotonic() > deadline {
                return Ok(json!({
                    "name": record.name,
                    "id": record.id,
                    "base": record.base,
                    "state": record.state,
                    "version": record.version,
                    "partitions": record.partitions.len(),
                    "replicas": record.replicas,
                }));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    pub(super) fn on_may(&self, name: &str) -> Result<Json, ApiError> {
        if self.is_distribution_name(name) || self.store.table_by_name(name).is_some() {
            return Err(ApiError::new(
                ErrorCode::ObjectAlreadyExist,
                format!("Region {} has a table of that name already.", self.config.region.name),
            ));
        }
        self.check_no_partitions(name)?;
        Ok(json!({ "labels": self.config.region.labels }))
    }

    /// Makes the global table of a partition whose base is here, unless it is there. One that is
    /// to take the place of others is seeded first.
    pub(super) async fn on_make(&self, from: &str, make: &Make) -> Result<(), ApiError> {
        if let Some(plan) = self.begin_to_seed(from, make).await? {
            self.await_seeded(plan).await?;
        }
        let _one_at_a_time = self.change_for_another().await?;
        let own = &self.config.region.name;
        let (record, others) = self.wanted_of(from, make).ok_or_else(|| self.not_known_yet())?;
        let held = self.begin_partition(&record, &make.name).await?;
        self.check_held_name(&held.spec())?;
        let id = held.id();
        if self.record(id).is_some() {
            return Ok(());
        }
        let mut table = GlobalTable::new(&make.name, id.0, own, Sync::Row, Serve::PrimarySecondary);
        table.epoch = held.epoch().0;
        table.at_secondary = Some(AtSecondary::Forward);
        for region in &others {
            table = table.with_replica(region, false, self.clock.wall_millis())?;
        }
        self.store.set_writing(id, Writing::Accept, writers(&table), held.epoch()).await?;
        self.save(id, Record { table, ready: true }).await
    }

    fn not_known_yet(&self) -> ApiError {
        let own = &self.config.region.name;
        ApiError::new(
            ErrorCode::ServerUnavailable,
            format!("Region {own} does not know of such a partition yet. Nothing was done."),
        )
    }

    /// The table of a partition that is made here, of which there may be no record yet.
    async fn begin_partition(
        &self,
        record: &Distribution,
        name: &str,
    ) -> Result<Arc<Table>, ApiError> {
        if let Some(held) = self.store.table_by_name(name) {
            return Ok(held);
        }
        let mut spec = spec_of(record)?;
        if let Some(source) = self.source_of(record, name) {
            spec.schema = source.schema().as_ref().clone();
        }
        let (id, base) = (self.store.reserve_id()?, Origin(self.config.region.number));
        let spec = TableSpec {
            id: TableId(id),
            partition: PartitionId(id),
            name: Text::from(name),
            base,
            writer: base,
            ..spec
        };
        self.store.create_table(spec).await?;
        self.store.table_by_name(name).ok_or_else(ApiError::internal)
    }

    /// Begins the new partitions of a split or merge, if the one that is to be made has no record
    /// yet. What an earlier turn has put into them is removed. Gives the plan if they are to be
    /// seeded.
    async fn begin_to_seed(&self, from: &str, make: &Make) -> Result<Option<Plan>, ApiError> {
        let _one_at_a_time = self.change_for_another().await?;
        let (record, others) = self.wanted_of(from, make).ok_or_else(|| self.not_known_yet())?;
        let has_record = |held: &Arc<Table>| self.record(held.id()).is_some();
        let is_made = self.store.table_by_name(&make.name).is_some_and(|held| has_record(&held));
        let Some(reshape) = record.reshape.as_ref().filter(|_| !is_made) else { return Ok(None) };
        let plan = self.plan_to_seed(&record, &make.name, !others.is_empty());
        match &plan {
            Some(known) if self.knows_seeding(known) => return Ok(plan),
            Some(_) => {}
            // Whether it is worth it may have changed while they are seeded.
            None => self.stop_seeding(&record, reshape)?,
        }
        let (mut is_any_made, targets) = (false, reshape.targets.iter());
        for name in targets.map(|target| name_of_partition(&record.name, target.number)) {
            if let Some(held) = self.store.table_by_name(&name) {
                if has_record(&held) {
                    is_any_made = true;
                    continue;
                }
                if held.durable_lsn() > Lsn(0) {
                    self.remove_dropped(held.id()).await?;
                }
            }
            self.begin_partition(&record, &name).await?;
        }
        let plan = plan.filter(|_| !is_any_made);
        if let Some(plan) = &plan {
            self.forget_seeding(plan);
        }
        Ok(plan)
    }

    /// The record of a table that is being made, by which this region makes a partition of it
    /// first, and the other regions that are to hold it. `None`: it is not known here so.
    fn wanted_of(&self, from: &str, make: &Make) -> Option<(Arc<Distribution>, Vec<String>)> {
        let (table, number) = partition_named(&make.name)?;
        let record = self
            .distributions
            .get(table)
            .filter(|record| record.id == make.id && record.base == from && is_alive(record))?;
        if let Some(source) = self.source_of(&record, &make.name) {
            // Of a split or merge: where the old one is, and first where that is written.
            let own = &self.config.region.name;
            let held = self.record(source.id())?.table.replicas;
            let others = held.into_iter().map(|replica| replica.region);
            let others = others.filter(|region| region != own).collect();
            return source.writer_word().accepts.then_some((record, others));
        }
        if record.state != State::Making {
            return None;
        }
        let partition = record.partitions.iter().find(|partition| partition.number == number)?;
        let (first, others) = partition.wanted.split_first()?;
        let is_it = *first == self.config.region.name
            && name_of_partition(&record.name, number) == make.name;
        let others = others.to_vec();
        is_it.then_some((record, others))
    }
}

impl Node {
    /// The partition here that the one of that name is to take the place of, or one of two.
    fn source_of(&self, record: &Distribution, name: &str) -> Option<Arc<Table>> {
        let (_, number) = partition_named(name)?;
        let reshape = record.reshape.as_ref().filter(|it| it.phase == Phase::Filling)?;
        let sources = reshape.has_target(number).then_some(&reshape.sources)?;
        let held =
            |number: &u32| self.store.table_by_name(&name_of_partition(&record.name, *number));
        sources.iter().find_map(held)
    }
}

/// Whether nothing is written to a table any more.
fn is_closed(table: &Table) -> bool {
    table.spec().writing == Writing::Refuse
}

fn is_empty(table: &Table) -> Result<bool, ApiError> {
    let snapshot = table.snapshot()?;
    let mut rows = snapshot.scan_packed(&EncodedKey::default(), None, Direction::Forward);
    Ok(rows.next().transpose()?.is_none())
}
