//! Changes of global tables in use: asked for anywhere, decided in the base region.

use std::time::Duration;

use bytes::Bytes;
use isthmus_control::change::Change;
use isthmus_control::schema_change::SchemaChange;
use isthmus_model::ids::TableId;
use isthmus_protocol::error_code::ErrorCode;
use isthmus_replication::frame::FORMAT_OF_PREPARED;
use serde_json::{Value, json};
use tonic::{Code, Status};

use super::events::EventKind;
use super::global_tables::no_global_table;
use super::reconcile::told;
use super::{Node, Record};
use crate::api_error::ApiError;
use crate::peer::call::{self, Question, Reply};
use crate::peer::dial::is_unsent;

/// How long a change may take. Another writing region is waited for until it has caught up.
pub(super) const CHANGE_TIMEOUT: Duration = Duration::from_secs(28);

/// The name of a change.
#[derive(Default, serde::Deserialize)]
struct Named {
    #[serde(default)]
    change: String,
}

/// Why there is no answer to a change that was passed on.
fn not_answered(region: &str, status: &Status) -> ApiError {
    let why = status.message();
    if is_unsent(status) || status.code() == Code::Unimplemented {
        let message = format!("Region {region} cannot be reached: {why}. Nothing was done.");
        return ApiError::new(ErrorCode::ServerUnavailable, message);
    }
    let message = format!(
        "Region {region} did not answer ({why}). Whether it was done is not known; see \
         `isthmus status`."
    );
    ApiError::new(ErrorCode::Timeout, message)
}

fn passed_on_twice(decides: &str) -> ApiError {
    let message = format!(
        "The regions do not agree yet which one decides: it is {decides} by what is known here. \
         Nothing was done; try again in a moment."
    );
    ApiError::new(ErrorCode::OperationConflict, message)
}

impl Node {
    /// The global tables that have a replica here.
    pub fn global_tables_json(&self) -> Vec<Value> {
        self.records.lock().values().map(|record| json!(record.table)).collect()
    }

    /// What is kept of a global table that has a replica here.
    pub fn global_table_json(&self, name: &str) -> Result<Value, ApiError> {
        if let Some(record) = self.distribution(name) {
            let (version, base) = (record.version, &record.base);
            let (mode, failover) = (record.mode, record.failover);
            return Ok(json!({
                "name": name,
                "version": version,
                "base": base,
                "mode": mode,
                "failover": failover,
            }));
        }
        self.record_named(name).map(|(_, record)| json!(record.table)).ok_or_else(no_global_table)
    }

    /// Changes the record of a global table here or where its base is. `change` is the JSON of a
    /// `Change`. Tells the version of the record and whether anything is different.
    pub async fn change_global_table(&self, name: &str, change: Bytes) -> Result<Value, ApiError> {
        if let Some(record) = self.distribution(name) {
            if super::links::is_of_links(&change) {
                return self.set_links_of_partitions(&record, &change).await;
            }
            return self.set_distribution(&record, &change).await;
        }
        self.change_one_global_table(name, change).await
    }

    /// The same of one that is no distributed table as a whole.
    pub(super) async fn change_one_global_table(
        &self,
        name: &str,
        change: Bytes,
    ) -> Result<Value, ApiError> {
        let own = &self.config.region.name;
        let known_base = self.record_named(name).map(|(_, record)| record.table.base);
        if known_base.as_ref() == Some(own) {
            return self.decide_change(name, &change, None).await;
        }
        // It may have no replica here: whoever has one passes it on to the base.
        let asked: Vec<&String> = match &known_base {
            Some(base) => vec![base],
            None => self.others.keys().collect(),
        };
        let mut outcome = Err(no_global_table());
        for region in asked {
            let change = change.clone();
            let is_away = known_base.is_some() && !self.is_reached(region);
            if is_away && super::links::is_of_links(&change) {
                return self.hold_links(name, &change).await;
            }
            let question =
                call::Change { table: name.to_owned(), change, ..call::Change::default() };
            match self.pass_change_on(region, Question::Change(question)).await {
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
    /// its entries; a question that has not come there goes on, once.
    pub(super) async fn on_change(&self, asked: &call::Change) -> Result<Bytes, ApiError> {
        let (_, record) = self.record_named(&asked.table).ok_or_else(no_global_table)?;
        let named: Named = serde_json::from_slice(&asked.change).unwrap_or_default();
        let is_of_schema = SchemaChange::is_named(&named.change);
        let decides = match is_of_schema {
            true => record.table.speaker(),
            false => record.table.base.as_str(),
        };
        if decides != self.config.region.name {
            if asked.passed_on {
                return Err(passed_on_twice(decides));
            }
            let question = Question::Change(call::Change { passed_on: true, ..asked.clone() });
            return self.pass_change_on(decides, question).await;
        }
        let told = match is_of_schema {
            true => self.decide_schema_change(&asked.table, &asked.change).await?,
            false => self.decide_change(&asked.table, &asked.change, None).await?,
        };
        Ok(told.to_string().into())
    }

    /// Passes a change on to another region. Where no answer comes it may have been done there:
    /// only what is not sent for certain is told as a region that cannot be reached.
    pub(super) async fn pass_change_on(
        &self,
        region: &str,
        question: Question,
    ) -> Result<Bytes, ApiError> {
        let other = self
            .others
            .get(region)
            .ok_or_else(|| ApiError::invalid(format!("Region {region} is not configured.")))?;
        match other.ask_within(question, CHANGE_TIMEOUT).await {
            Ok(Reply { failure: None, body }) => Ok(body),
            Ok(Reply { failure: Some(failure), .. }) => Err(told(failure)),
            Err(status) => Err(not_answered(region, &status)),
        }
    }

    /// `over`: it counts only if that reign and version of the record are the newest.
    pub(super) async fn decide_change(
        &self,
        name: &str,
        change: &[u8],
        over: Option<(u64, u64)>,
    ) -> Result<Value, ApiError> {
        let change: Change = serde_json::from_slice(change)
            .map_err(|error| ApiError::invalid(format!("The change cannot be read: {error}.")))?;
        super::links::check(&change, self.config.log.keep_hours)?;
        if let Change::Switchover(asked) = &change {
            return self.switch_over(name, &asked.to).await;
        }
        if let Change::SetBase(asked) = &change {
            return self.hand_base_over(name, &asked.to).await;
        }
        let _one_at_a_time = self.changing.lock().await;
        let (id, mut record) = self.record_named(name).ok_or_else(no_global_table)?;
        if over.is_some_and(|over| over != (record.table.reign, record.table.version)) {
            return Err(ApiError::new(
                ErrorCode::OperationConflict,
                "The record of the table has changed. Nothing was done.",
            ));
        }
        if let Change::BindExtract(asked) = &change {
            if self.config.instance_of(&asked.region).is_none() {
                let message = format!("Region {} is not configured.", asked.region);
                return Err(ApiError::invalid(message));
            }
            self.check_format(&asked.region, record.table.epoch)?;
            self.check_families(id, &asked.extract.families)?;
        }
        let is_changed = record.table.change(&change)?;
        if record.table.sync_commit().is_some() && is_changed {
            self.check_peers_know(Some(&record), |format| format >= FORMAT_OF_PREPARED)?;
        }
        let _no_switchover = match &change {
            // It would never have all of the table.
            Change::BindExtract(asked) => self.check_may_go(id, &record, &[&asked.region])?,
            _ => None,
        };
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

    /// Lets the region that writes a table keep its record. It is told first: should this one stop
    /// in between, the other one tells it.
    async fn hand_base_over(&self, name: &str, to: &str) -> Result<Value, ApiError> {
        let _one_at_a_time = self.changing.lock().await;
        let (id, mut record) = self.record_named(name).ok_or_else(no_global_table)?;
        let is_changed = record.table.hand_base_to(to)?;
        let version = record.table.version;
        if is_changed {
            self.assign(id, &record.table, to).await?;
            let before = &self.config.region.name;
            let text = format!("{to} keeps the record of the table from now on, after {before}");
            let detail = json!({ "base": to, "before": before, "epoch": record.table.epoch });
            self.save(id, record).await?;
            self.notice(EventKind::BaseMoved, name, text, detail);
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

#[cfg(test)]
mod tests {
    use tonic::ConnectError;

    use super::*;

    #[test]
    fn what_may_have_been_done_is_told_so() {
        let refused = Status::from_error(Box::new(ConnectError("refused".into())));
        let not_sent = not_answered("r2", &refused);
        assert_eq!(not_sent.code, ErrorCode::ServerUnavailable);
        assert!(not_sent.message.contains("Nothing was done"), "{not_sent}");
        for status in [Status::deadline_exceeded("late"), Status::unavailable("broken off")] {
            let unknown = not_answered("r2", &status);
            assert_eq!(unknown.code, ErrorCode::Timeout, "the next region must not be asked");
            assert!(unknown.message.contains("is not known"), "{unknown}");
        }
    }

    #[test]
    fn a_change_that_an_older_region_passes_on_may_go_on_once() {
        let old = prost::Message::encode_to_vec(&call::Change {
            table: "t".to_owned(),
            ..call::Change::default()
        });
        let read: call::Change = prost::Message::decode(&old[..]).unwrap();
        assert!(!read.passed_on);
    }
}
