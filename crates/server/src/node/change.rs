//! Changes of global tables in use: asked for anywhere, decided in the base region.

use std::time::Duration;

use bytes::Bytes;
use isthmus_control::change::Change;
use isthmus_control::schema_change::SchemaChange;
use isthmus_model::ids::TableId;
use isthmus_protocol::error_code::ErrorCode;
use serde_json::{Value, json};

use super::events::EventKind;
use super::global_tables::no_global_table;
use super::{Node, Record};
use crate::api_error::ApiError;
use crate::peer::call::{self, Question};

/// How long a change may take. Another writing region is waited for until it has caught up.
pub(super) const CHANGE_TIMEOUT: Duration = Duration::from_secs(28);

/// The name of a change.
#[derive(Default, serde::Deserialize)]
struct Named {
    #[serde(default)]
    change: String,
}

impl Node {
    /// The global tables that have a replica here.
    pub fn global_tables_json(&self) -> Vec<Value> {
        self.records.lock().values().map(|record| json!(record.table)).collect()
    }

    /// What is kept of a global table that has a replica here.
    pub fn global_table_json(&self, name: &str) -> Result<Value, ApiError> {
        self.record_named(name).map(|(_, record)| json!(record.table)).ok_or_else(no_global_table)
    }

    /// Changes the record of a global table here or where its base is. `change` is the JSON of a
    /// `Change`. Tells the version of the record and whether anything is different.
    pub async fn change_global_table(&self, name: &str, change: Bytes) -> Result<Value, ApiError> {
        let own = &self.config.region.name;
        let known_base = self.record_named(name).map(|(_, record)| record.table.base);
        if known_base.as_ref() == Some(own) {
            return self.decide_change(name, &change).await;
        }
        // It may have no replica here: whoever has one passes it on to the base.
        let asked: Vec<&String> = match &known_base {
            Some(base) => vec![base],
            None => self.others.keys().collect(),
        };
        let mut outcome = Err(no_global_table());
        for region in asked {
            let question = call::Change { table: name.to_owned(), change: change.clone() };
            match self.ask_in_time(region, Question::Change(question), CHANGE_TIMEOUT).await {
                Ok(told) => return serde_json::from_slice(&told).map_err(|_| ApiError::internal()),
                Err(error) if error.code == ErrorCode::ObjectNotExist => {}
                Err(error)
                    if known_base.is_none() && error.code == ErrorCode::ServerUnavailable =>
                {
                    outcome = Err(error);
                }
                Err(error) => return Err(error),
            }
        }
        outcome
    }

    /// Does what another region passed on. Only the base decides, and of the schema whoever makes
    /// its entries; a question that has not come there goes on.
    pub(super) async fn on_change(&self, asked: &call::Change) -> Result<Bytes, ApiError> {
        let (_, record) = self.record_named(&asked.table).ok_or_else(no_global_table)?;
        let named: Named = serde_json::from_slice(&asked.change).unwrap_or_default();
        let is_of_schema = SchemaChange::is_named(&named.change);
        let decides = match is_of_schema {
            true => record.table.speaker(),
            false => record.table.base.as_str(),
        };
        if decides != self.config.region.name {
            let question = Question::Change(asked.clone());
            return self.ask_in_time(decides, question, CHANGE_TIMEOUT).await;
        }
        let told = match is_of_schema {
            true => self.decide_schema_change(&asked.table, &asked.change).await?,
            false => self.decide_change(&asked.table, &asked.change).await?,
        };
        Ok(told.to_string().into())
    }

    async fn decide_change(&self, name: &str, change: &[u8]) -> Result<Value, ApiError> {
        let change: Change = serde_json::from_slice(change)
            .map_err(|error| ApiError::invalid(format!("The change cannot be read: {error}.")))?;
        super::links::check(&change)?;
        if let Change::Switchover(asked) = &change {
            return self.switch_over(name, &asked.to).await;
        }
        let _one_at_a_time = self.changing.lock().await;
        let (id, mut record) = self.record_named(name).ok_or_else(no_global_table)?;
        if let Change::BindExtract(asked) = &change {
            if self.config.instance_of(&asked.region).is_none() {
                let message = format!("Region {} is not configured.", asked.region);
                return Err(ApiError::invalid(message));
            }
            self.check_families(id, &asked.extract.families)?;
        }
        let is_changed = record.table.change(&change)?;
        let (version, mode) = (record.table.version, record.table.mode);
        if is_changed {
            self.save(id, record).await?;
        }
        if is_changed && matches!(change, Change::SetMode(_)) {
            let text = format!("writes are answered {mode}");
            self.notice(EventKind::WriteModeSet, name, text, json!({ "mode": mode }));
        }
        Ok(json!({ "version": version, "changed": is_changed }))
    }

    pub(super) fn record_named(&self, name: &str) -> Option<(TableId, Record)> {
        let records = self.records.lock();
        self.not_dropped_first(records.iter().filter(|(_, record)| record.table.name == name))
    }

    /// Of records of one name, that of a table that is not dropped, if there is one.
    pub(super) fn not_dropped_first<'a>(
        &self,
        found: impl Iterator<Item = (&'a TableId, &'a Record)>,
    ) -> Option<(TableId, Record)> {
        let found = found.min_by_key(|(id, _)| self.is_dropped(**id));
        found.map(|(id, record)| (*id, record.clone()))
    }
}
