//! Conflicts that this region has noticed: telling them, and writing a loser back.

use isthmus_model::change::{
    CellChange, CellWrite, Condition, KeyPart, NamedKeyPart, Returned, RowAction, RowChange,
};
use isthmus_model::check::check_change;
use isthmus_model::conflict::{Side, Winner};
use isthmus_model::key::{EncodedKey, PrimaryKey};
use isthmus_model::schema::Schema;
use isthmus_protocol::error_code::ErrorCode;
use isthmus_protocol::receipt::Receipt;
use isthmus_store::{Noticed, Table};
use serde_json::{Value as Json, json};

use super::Node;
use super::verify::json::{key_json, key_of_json, value_json};
use crate::api_error::ApiError;

/// Conflicts told at once.
pub(crate) const CONFLICTS_TOLD_MAX: usize = 1000;

impl Node {
    /// Conflicts of a table that this region has noticed, the newest first. `key` is the JSON of
    /// one row's key. May block for a moment.
    pub fn conflicts_json(
        &self,
        name: &str,
        key: Option<&str>,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Json, ApiError> {
        let table = self.store.table_by_name(name).ok_or_else(ApiError::no_table)?;
        let schema = table.schema();
        let key = key.map(|text| key_of_text(&schema, text)).transpose()?;
        let found = table.conflicts(key.as_ref(), before, limit.min(CONFLICTS_TOLD_MAX))?;
        let told = found.iter().map(|(number, noticed)| self.one(&schema, *number, noticed));
        let counts = table.conflict_counts();
        Ok(json!({
            "conflicts": told.collect::<Vec<_>>(),
            "noticed": counts.noticed,
            "dropped": counts.dropped,
        }))
    }

    /// Writes what lost a conflict back, as a write of now.
    pub async fn restore_conflict(&self, name: &str, id: &str) -> Result<Json, ApiError> {
        let gone = || ApiError::new(ErrorCode::ObjectNotExist, "No such conflict is kept here.");
        let table = self.writable(name)?;
        let number = id.strip_prefix(&self.config.region.name);
        let number = number.and_then(|rest| rest.strip_prefix('-')).and_then(|n| n.parse().ok());
        let noticed = table.conflict(number.ok_or_else(gone)?)?.ok_or_else(gone)?;
        let Some(loser) = noticed.conflict.loser() else {
            return Err(ApiError::invalid("Nothing was lost in this conflict."));
        };
        let change = written_back(&table, &noticed, loser)?;
        let checked = check_change(&table.schema(), change, self.clock.wall_millis())?;
        let results = table.write(vec![checked], false).await?;
        let mut receipt = Receipt::default();
        for result in results {
            let written = result?;
            self.until_held(&table, (written.lsn, written.epoch)).done().await?;
            self.note_receipt(&mut receipt, &table, written.lsn);
        }
        let restored = side_json(self, loser);
        Ok(json!({ "id": id, "restored": restored, "receipt": receipt.to_text() }))
    }

    fn one(&self, schema: &Schema, number: u64, noticed: &Noticed) -> Json {
        let conflict = &noticed.conflict;
        let winner = match conflict.winner {
            Winner::Here => self.name_of(conflict.here.stamp.origin),
            Winner::There => self.name_of(conflict.there.stamp.origin),
            Winner::Both => "both".to_owned(),
        };
        json!({
            "id": format!("{}-{number}", self.config.region.name),
            "at_ms": noticed.at_millis,
            "key": key_json(schema, &noticed.key),
            "column": conflict.column.as_str(),
            "rule": conflict.rule.as_str(),
            "winner": winner,
            "changes": [side_json(self, &conflict.here), side_json(self, &conflict.there)],
        })
    }
}

fn side_json(node: &Node, side: &Side) -> Json {
    let value = side.written.as_ref();
    json!({
        "region": node.name_of(side.stamp.origin),
        "written_ms": side.stamp.hlc.millis(),
        "deleted": value.is_none(),
        "timestamp": value.map(|(timestamp, _)| timestamp.0),
        "value": value.map(|(_, value)| value_json(value)),
    })
}

fn key_of_text(schema: &Schema, text: &str) -> Result<EncodedKey, ApiError> {
    let json: Json = serde_json::from_str(text)
        .map_err(|error| ApiError::invalid(format!("The key is no JSON: {error}.")))?;
    key_of_json(schema, &json).map_err(|reason| ApiError::invalid(format!("{reason}.")))
}

fn written_back(table: &Table, noticed: &Noticed, loser: &Side) -> Result<RowChange, ApiError> {
    let schema = table.schema();
    let key = PrimaryKey::decode(&noticed.key).map_err(|_| ApiError::internal())?;
    let named = schema.key_columns.iter().zip(key.0);
    let name = noticed.conflict.column.clone();
    let change = match &loser.written {
        Some((_, value)) => {
            CellChange::Put(CellWrite { name, value: value.clone(), timestamp: None })
        }
        None => CellChange::DeleteColumn { name },
    };
    Ok(RowChange {
        key: named
            .map(|(column, value)| NamedKeyPart {
                name: column.name.clone(),
                part: KeyPart::Value(value),
            })
            .collect(),
        action: RowAction::Update(vec![change]),
        condition: Condition::default(),
        returned: Returned::Nothing,
    })
}
