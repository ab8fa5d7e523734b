//! Distributed tables are made and deleted: asked of any region, decided in the base, which is the
//! region that was asked to make one. What is wrong makes nothing anywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use isthmus_control::distribution::wish::{Named, Wish};
use isthmus_control::distribution::{By, Distribution, Member, State, partition_named};
use isthmus_control::global_table::{GlobalTable, Serve, Sync};
use isthmus_control::writer::AtSecondary;
use isthmus_model::change::Direction;
use isthmus_model::check::check_table_name;
use isthmus_model::ids::{Epoch, Origin, PartitionId, TableId};
use isthmus_model::key::{EncodedKey, KeyKind};
use isthmus_model::schema::{KeyColumn, Schema};
use isthmus_model::value::Text;
use isthmus_protocol::error_code::ErrorCode;
use isthmus_protocol::request::{CreateTable, OptionsChange, ThroughputChange};
use isthmus_store::{Table, TableSpec, Writers, Writing, keys};
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::ask::{Ask, Look, Make, read};
use crate::api_error::ApiError;
use crate::node::events::EventKind;
use crate::node::{Node, Record, writers};
use crate::tables::{check_quota, new_schema, split_points};
use crate::together::{Piece, together};

/// How long is waited until all partitions are where they belong. They come later, too.
const READY_PATIENCE: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How long is waited for regions that are not reached.
const REACH_PATIENCE: Duration = Duration::from_secs(3);
/// Bytes of the name of a distributed table: partitions have longer ones.
const NAME_BYTES_MAX: usize = 240;
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
        let making = self.distributions.changing.lock().await;
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
        let record = self.plan_distribution(&wish, &name, schema, &members)?;
        if let Some(held) = &held {
            self.close_empty(held).await?;
        }
        let made = self.offer(record).await;
        if let (Err(_), Some(held)) = (&made, &held) {
            let (writers, epoch) = (held.spec().writers, held.epoch());
            self.store.set_writing(held.id(), Writing::Accept, writers, epoch).await?;
        }
        made?;
        drop(making);
        self.await_made(&name).await
    }

    fn plan_distribution(
        &self,
        wish: &Wish,
        name: &str,
        schema: Schema,
        members: &[Member],
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

    /// Nothing more is written to a table that holds nothing. An error: it holds something.
    async fn close_empty(&self, table: &Table) -> Result<(), ApiError> {
        let (id, writers, epoch) = (table.id(), table.spec().writers, table.epoch());
        self.store.set_writing(id, Writing::Refuse, writers, epoch).await?;
        let snapshot = table.snapshot()?;
        let mut rows = snapshot.scan_packed(&EncodedKey::default(), None, Direction::Forward);
        let is_empty = rows.next().transpose()?.is_none();
        drop(rows);
        if is_empty {
            return Ok(());
        }
        self.store.set_writing(id, Writing::Accept, writers, epoch).await?;
        Err(ApiError::invalid(format!(
            "Table {} holds rows, or has held some until a short time ago. Distribute an empty \
             one and load the rows into it.",
            table.name()
        )))
    }

    /// Keeps the record here and gives it to all others; if one refuses, nobody keeps it.
    async fn offer(&self, record: Distribution) -> Result<(), ApiError> {
        let record = self.keep_distribution(record).await?;
        let told = self.ask_all_others(&Ask::Take { record: Box::new((*record).clone()) }).await;
        let mut refusal = None;
        for (region, answer) in told {
            match answer {
                Ok(_) => self.note_told(&record, &region, record.version),
                Err(error) => refusal = Some(error),
            }
        }
        let Some(refusal) = refusal else {
            let (partitions, replicas) = (record.partitions.len(), record.replicas);
            let text = format!("divided into {partitions} partitions, each in {replicas} regions");
            let detail = json!({ "partitions": partitions, "replicas": replicas });
            self.notice(EventKind::TableDistributed, &record.name, text, detail);
            return Ok(());
        };
        self.ask_all_others(&Ask::Abandon { id: record.id.clone(), name: record.name.clone() })
            .await;
        self.forget_distribution(&record).await?;
        Err(refusal)
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
        Ok(json!({ "labels": self.config.region.labels }))
    }

    /// Takes what the base says.
    pub(super) async fn on_take(&self, from: &str, record: Distribution) -> Result<(), ApiError> {
        if record.base != from {
            return Err(ApiError::invalid("Only the base region gives the record of a table."));
        }
        let _one_at_a_time = self.distributions.changing.lock().await;
        if self.distributions.is_gone(&record.id) {
            return Ok(());
        }
        let known = self.distributions.get(&record.name);
        match &known {
            Some(known) if known.id != record.id => return Err(ApiError::table_exists()),
            Some(known) if known.version >= record.version => return Ok(()),
            Some(_) => {}
            None if record.state == State::Dropping => {}
            None if self.store.table_by_name(&record.name).is_some() => {
                return Err(ApiError::table_exists());
            }
            None => {}
        }
        if record.state == State::Dropping {
            self.remove_partitions(&record.name).await?;
            return self.forget_distribution(&record).await;
        }
        self.keep_distribution(record).await.map(drop)
    }

    /// Takes back what this region, whose word counts, has lost with its disk.
    pub(super) async fn on_give_back(&self, record: Distribution) -> Result<(), ApiError> {
        if record.base != self.config.region.name || record.state != State::Active {
            return Err(ApiError::invalid("Only the base of a table that is made takes it back."));
        }
        let _one_at_a_time = self.distributions.changing.lock().await;
        let known = self.distributions.get(&record.name);
        let is_news =
            known.is_none_or(|known| known.id == record.id && known.version < record.version);
        match is_news && !self.distributions.is_gone(&record.id) {
            true => {
                tracing::warn!(table = record.name, "the record of a distributed table is back");
                self.keep_distribution(record).await.map(drop)
            }
            false => Ok(()),
        }
    }

    /// Asks the base of a table for what it knows. Where its disk is new, it is given the record
    /// back; what it has never made is forgotten.
    pub(super) async fn look_at_base(&self, record: &Distribution) -> Result<(), ApiError> {
        let told = self.ask_about(&record.base, &Ask::Look { name: record.name.clone() }).await?;
        let Look { version, .. } = read(told.to_string().as_bytes())?;
        if record.state == State::Active && version < record.version {
            let record = Box::new(record.clone());
            return self.ask_about(&record.base.clone(), &Ask::GiveBack { record }).await.map(drop);
        }
        if record.state == State::Making && version == 0 {
            let _one_at_a_time = self.distributions.changing.lock().await;
            self.remove_partitions(&record.name).await?;
            return self.forget_distribution(record).await;
        }
        Ok(())
    }

    pub(super) async fn on_abandon(
        &self,
        from: &str,
        id: &str,
        name: &str,
    ) -> Result<(), ApiError> {
        let _one_at_a_time = self.distributions.changing.lock().await;
        self.distributions.note_gone(id);
        match self.distributions.get(name) {
            Some(record) if record.id == id && record.base == from => {
                self.forget_distribution(&record).await
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Makes the global table of a partition whose base is here, unless it is there.
    pub(super) async fn on_make(&self, make: &Make) -> Result<(), ApiError> {
        let _one_at_a_time = self.change_for_another().await?;
        let damaged = || ApiError::invalid("The table of a partition cannot be read.");
        let held = match self.store.table_by_name(&make.name) {
            Some(held) => held,
            None => {
                let spec = STANDARD.decode(&make.spec).map_err(|_| damaged())?;
                let spec = keys::table::decode_value(&Bytes::from(spec)).map_err(|_| damaged())?;
                let (id, own) = (self.store.reserve_id()?, Origin(self.config.region.number));
                self.store
                    .create_table(TableSpec {
                        id: TableId(id),
                        partition: PartitionId(id),
                        name: Text::from(make.name.as_str()),
                        base: own,
                        writer: own,
                        ..spec
                    })
                    .await?;
                self.store.table_by_name(&make.name).ok_or_else(ApiError::internal)?
            }
        };
        let id = held.id();
        if self.record(id).is_some() {
            return Ok(());
        }
        let own = &self.config.region.name;
        let mut table = GlobalTable::new(&make.name, id.0, own, Sync::Row, Serve::PrimarySecondary);
        table.epoch = held.epoch().0;
        table.at_secondary = Some(AtSecondary::Forward);
        for region in &make.others {
            table = table.with_replica(region, false, self.clock.wall_millis())?;
        }
        self.store.set_writing(id, Writing::Accept, writers(&table), held.epoch()).await?;
        self.save(id, Record { table, ready: true }).await
    }

    /// Deletes a distributed table, here or where its base is.
    pub async fn drop_distribution(&self, name: &str) -> Result<(), ApiError> {
        let record = self.distribution(name).ok_or_else(ApiError::no_table)?;
        self.ask_about(&record.base, &Ask::Drop { name: name.to_owned() }).await.map(drop)
    }

    /// From here on the table is deleted; who is away is told when it is back.
    pub(super) async fn decide_drop(&self, name: &str) -> Result<(), ApiError> {
        self.check_decides(name)?;
        self.change_distribution(name, |record| {
            let is_news = record.state != State::Dropping;
            record.state = State::Dropping;
            Ok(is_news)
        })
        .await?;
        self.reconcile_distribution(name).await;
        Ok(())
    }

    /// Only the base of a table decides about it.
    pub(super) fn check_decides(&self, name: &str) -> Result<(), ApiError> {
        let record = self.distribution(name).ok_or_else(ApiError::no_table)?;
        match record.base == self.config.region.name {
            true => Ok(()),
            false => Err(ApiError::new(
                ErrorCode::OperationConflict,
                format!("Region {} decides about the table. Nothing was done.", record.base),
            )),
        }
    }

    /// Removes what is held of a table's partitions.
    pub(super) async fn remove_partitions(&self, name: &str) -> Result<(), ApiError> {
        let _one_at_a_time = self.change_for_another().await?;
        let held = self.partitions_here(name);
        let mut ids: BTreeSet<TableId> = held.iter().map(|table| table.id()).collect();
        // What a crash has left may be a record alone.
        ids.extend(self.records.lock().iter().filter_map(|(id, record)| {
            partition_named(&record.table.name).filter(|(table, _)| *table == name).map(|_| *id)
        }));
        for id in ids {
            self.remove_dropped(id).await?;
        }
        Ok(())
    }
}
