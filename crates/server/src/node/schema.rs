//! Changes of a table's schema over the administration port: asked for anywhere, made in the base
//! region, whose log carries them to the others.

use std::time::Duration;

use bytes::Bytes;
use isthmus_control::global_table::{Replica, Sync};
use isthmus_control::schema_change::SchemaChange;
use isthmus_model::family::{Family, FamilyTime, NO_FAMILY};
use isthmus_model::ids::{Epoch, TableId};
use isthmus_model::rule::ConflictRules;
use isthmus_model::schema::Schema;
use isthmus_model::value::Text;
use isthmus_protocol::error_code::ErrorCode;
use isthmus_replication::frame::{
    FORMAT_OF_DROPS, FORMAT_OF_FAMILIES, FORMAT_OF_ROW_PRIORITY, FORMAT_OF_SEEN,
};
use isthmus_store::{StoreError, Table};
use serde_json::{Value, json};

use super::events::EventKind;
use super::{Node, Record};
use crate::api_error::ApiError;
use crate::peer::call::{self, Question};

/// How long a change waits for batches that have locked rows, and how often it is tried.
const BATCHES_PATIENCE: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(20);

impl Node {
    /// What of a table's schema the public API does not tell.
    pub fn schema_json(&self, name: &str) -> Result<Value, ApiError> {
        let table = self.store.table_by_name(name).ok_or_else(ApiError::no_table)?;
        let schema = table.schema();
        Ok(json!({
            "table": name,
            "schema": schema.number.0,
            "rules": schema.options.rules.as_ref().map(|rules| self.rules_json(rules)),
            "families": schema.options.families.list().iter().map(family_json).collect::<Vec<_>>(),
        }))
    }

    /// Changes the schema of a table here or in the region that makes such entries. `change` is
    /// the JSON of a `SchemaChange`. Tells the number of the schema.
    pub async fn change_schema(&self, name: &str, change: Bytes) -> Result<Value, ApiError> {
        let speaker = self.record_named(name).map(|(_, r)| r.table.speaker().to_owned());
        match speaker {
            Some(speaker) if speaker != self.config.region.name => {
                let question =
                    call::Change { table: name.to_owned(), change, ..call::Change::default() };
                let told = self.pass_change_on(&speaker, Question::Change(question)).await?;
                serde_json::from_slice(&told).map_err(|_| ApiError::internal())
            }
            Some(_) | None => self.decide_schema_change(name, &change).await,
        }
    }

    pub(super) async fn decide_schema_change(
        &self,
        name: &str,
        change: &[u8],
    ) -> Result<Value, ApiError> {
        let change: SchemaChange = serde_json::from_slice(change)
            .map_err(|error| ApiError::invalid(format!("The change cannot be read: {error}.")))?;
        let table = self.changeable(name)?;
        let epoch = table.writer_word().epoch;
        // Judged before it is queued, so that a wrong one costs nothing, and again on what is
        // there when its turn comes.
        let apply = |schema: &Schema| change.apply(schema, |region| self.number_of(region));
        let before = table.schema();
        let after = apply(&before)?;
        self.check_schema_change(&table, &change, &after)?;
        if after == *before {
            return Ok(json!({ "schema": before.number.0, "changed": false }));
        }
        let refused = |error: isthmus_control::global_table::ControlError| {
            StoreError::BadSchema(error.to_string())
        };
        let changed = |schema: &Schema| apply(schema).map_err(refused);
        let schema = self.change_schema_in_turn(&table, changed).await?;
        self.until_schema_held(&table, epoch).await?;
        if schema.options.is_dropped {
            let text = "the table is dropped; each region obeys where its log comes to that";
            let detail = json!({ "schema": schema.number.0 });
            self.notice(EventKind::TableDropped, name, text.to_owned(), detail);
            self.reconcile_soon.notify_one();
        }
        Ok(json!({ "schema": schema.number.0, "changed": true }))
    }

    /// Changes the schema of a table, as `Table::change_schema` does, between batches of several
    /// partitions: while it waits for those that have locked rows, no new ones are taken. Busy: not
    /// all came to an end in time.
    pub(crate) async fn change_schema_in_turn(
        &self,
        table: &Table,
        change: impl Fn(&Schema) -> Result<Schema, StoreError>,
    ) -> Result<Schema, StoreError> {
        let deadline = self.clock.monotonic() + BATCHES_PATIENCE;
        let mut held = None;
        loop {
            let changed = table.change_schema(&change).await;
            let is_late = self.clock.monotonic() >= deadline;
            if changed != Err(StoreError::Busy) || !table.keeps_batches() || is_late {
                return changed;
            }
            held.get_or_insert_with(|| table.hold_batches());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until a change of a schema, which is durable here, may be answered: it is held by as
    /// many other regions as a write.
    pub async fn until_schema_held(&self, table: &Table, epoch: Epoch) -> Result<(), ApiError> {
        self.until_held(table, (table.durable_lsn(), epoch)).done().await
    }

    /// Whether a change may be made of this table now.
    fn check_schema_change(
        &self,
        table: &Table,
        change: &SchemaChange,
        after: &Schema,
    ) -> Result<(), ApiError> {
        let record = self.record(table.id());
        match change {
            SchemaChange::SetRules { .. } => {
                // Also where one region writes: it may be several one day.
                let whole_rows = record.as_ref().is_some_and(|one| one.table.sync == Sync::Row);
                if whole_rows {
                    check_rules_of_rows(after)?;
                }
                let least = if whole_rows { FORMAT_OF_ROW_PRIORITY } else { FORMAT_OF_SEEN };
                self.check_peers_know(record.as_ref(), |format| format >= least)
            }
            SchemaChange::SetFamily(asked) => {
                let is_new = table.schema().options.families.named(&asked.family).is_none();
                let taker = record.as_ref().and_then(|record| record.table.takes_rest());
                if let Some(region) = taker.filter(|_| is_new) {
                    return Err(ApiError::invalid(format!(
                        "Region {region} is bound to the columns without a family, of which a new \
                         one would take some. Unbind it first."
                    )));
                }
                self.check_peers_know(record.as_ref(), |format| format >= FORMAT_OF_FAMILIES)
            }
            SchemaChange::Drop {} if record.is_none() => {
                Err(ApiError::invalid("The table is no global table; DeleteTable removes it."))
            }
            // Whoever is away learns it when it is back.
            SchemaChange::Drop {} => self.check_peers_know(record.as_ref(), |format| {
                format == 0 || format >= FORMAT_OF_DROPS
            }),
        }
    }

    /// Whether every region that holds the table can read what the change writes. A region that
    /// is not reached has format 0.
    pub(super) fn check_peers_know(
        &self,
        record: Option<&Record>,
        knows: impl Fn(u32) -> bool,
    ) -> Result<(), ApiError> {
        let own = &self.config.region.name;
        let replicas = record.into_iter().flat_map(|record| &record.table.replicas);
        for Replica { region, .. } in replicas.filter(|one| one.region != *own) {
            let format = self.others.get(region).map_or(0, |one| one.links().format());
            if !knows(format) {
                return Err(ApiError::new(
                    ErrorCode::ServerUnavailable,
                    format!("Region {region} is not reached, or its version knows no such change."),
                ));
            }
        }
        Ok(())
    }

    /// Whether a table has families of these names, where `rest` is none.
    pub(super) fn check_families(&self, id: TableId, names: &[String]) -> Result<(), ApiError> {
        let schema = self.store.table(id).ok_or_else(ApiError::no_table)?.schema();
        let families = &schema.options.families;
        let is_there = |name: &str| name == NO_FAMILY || families.named(name).is_some();
        match names.iter().find(|name| !is_there(name)) {
            None => Ok(()),
            Some(name) => {
                Err(ApiError::invalid(format!("The table has no column family: '{name}'.")))
            }
        }
    }

    fn rules_json(&self, rules: &ConflictRules) -> Value {
        let columns = rules.columns.iter();
        let columns: serde_json::Map<String, Value> =
            columns.map(|(name, rule)| (name.to_string(), rule.as_str().into())).collect();
        let priority = rules.priority.iter().map(|origin| self.name_of(*origin));
        json!({
            "default": rules.default.as_str(),
            "columns": columns,
            "priority": priority.collect::<Vec<_>>(),
        })
    }

    /// The name of the region with that number, or the number where it is not configured.
    pub(crate) fn name_of(&self, origin: isthmus_model::ids::Origin) -> String {
        if origin.0 == self.config.region.number {
            return self.config.region.name.clone();
        }
        let other = self.config.regions.iter().find(|other| other.number == origin.0);
        other.map_or_else(|| origin.to_string(), |other| other.name.clone())
    }
}

/// Whether a table of which whole rows conflict can have the rules that its schema says.
pub(super) fn check_rules_of_rows(schema: &Schema) -> Result<(), ApiError> {
    let Some(rules) = schema.options.rules.as_ref().filter(|rules| !rules.suit_whole_rows()) else {
        return Ok(());
    };
    let column = rules.columns.first();
    let what = match column {
        Some((name, rule)) => format!("rule {} of column '{name}'", rule.as_str()),
        None => format!("rule {} for all columns", rules.default.as_str()),
    };
    Err(ApiError::invalid(format!(
        "Whole rows of the table conflict (sync mode row), so it cannot have {what}: rows would be \
         made that no region wrote. Its own rule can be last-writer or priority; for others, \
         make it a global table of sync mode column."
    )))
}

fn family_json(family: &Family) -> Value {
    json!({
        "family": family.name.as_str(),
        "columns": family.columns.iter().map(Text::as_str).collect::<Vec<_>>(),
        "prefix": family.prefix.as_ref().map(Text::as_str),
        // As a change says it.
        "time_to_live": match family.time_to_live {
            FamilyTime::AsTable => 0,
            FamilyTime::Forever => -1,
            FamilyTime::Seconds(seconds) => i64::from(seconds),
        },
        "max_versions": family.max_versions.unwrap_or(0),
    })
}
