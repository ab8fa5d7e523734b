//! Merging what was set aside: each change that nobody has overwritten since is written again, as a
//! write of now, where the table is written.

use std::collections::{BTreeMap, BTreeSet};

use isthmus_model::change::{
    CellChange, CellWrite, Condition, KeyPart, NamedKeyPart, Returned, RowAction, RowChange,
};
use isthmus_model::hlc::Hlc;
use isthmus_model::ids::Timestamp;
use isthmus_model::key::{EncodedKey, PrimaryKey};
use isthmus_model::row::Row;
use isthmus_model::schema::Schema;
use isthmus_model::value::{Text, Value};
use isthmus_protocol::client::encode_request;
use isthmus_protocol::error_code::ErrorCode;
use isthmus_protocol::request::{Operation, WriteRow};
use isthmus_store::Table;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::super::verify::json::{key_of_json, value_of_json};
use super::super::{Node, Place};
use super::TailError;
use crate::api_error::ApiError;

/// Changes read from a file at once.
const CHANGES_AT_ONCE: usize = 1000;
/// Changes that were passed over and are told by name.
const TOLD_MAX: usize = 100;

#[derive(Deserialize)]
struct KeptChange {
    stamp: u64,
    action: String,
    key: Json,
    deleted_columns: Vec<String>,
    cells: Vec<KeptCell>,
}

#[derive(Deserialize)]
struct KeptCell {
    column: String,
    deleted: bool,
    timestamp: i64,
    value: Json,
}

fn unreadable(error: &TailError) -> ApiError {
    let mut text = error.to_string();
    if let Some(source) = std::error::Error::source(error) {
        text += &format!(": {source}");
    }
    ApiError::new(
        ErrorCode::InternalServerError,
        format!("What is set aside cannot be read: {text}."),
    )
}

impl Node {
    /// The tails that are kept here. Blocks.
    pub fn tails_json(&self) -> Result<Json, ApiError> {
        let kept = self.failover.tails().list().map_err(|error| unreadable(&error))?;
        Ok(json!({ "region": self.config.region.name, "tails": kept }))
    }

    /// The changes of one of them, at most so many after the first `skip`. Blocks.
    pub fn tail_json(&self, file: &str, skip: usize, limit: usize) -> Result<Json, ApiError> {
        let limit = limit.min(CHANGES_AT_ONCE);
        let changes = self.failover.tails().changes(file, skip, limit);
        let changes = changes.map_err(|error| unreadable(&error))?.ok_or_else(no_tail)?;
        Ok(json!({ "changes": changes }))
    }

    /// Forgets one. Blocks.
    pub fn drop_tail(&self, file: &str) -> Result<Json, ApiError> {
        match self.failover.tails().remove(file).map_err(|error| unreadable(&error))? {
            true => Ok(json!({ "dropped": file })),
            false => Err(no_tail()),
        }
    }

    /// Writes what one holds again, where nothing newer is there. Done twice, the second time finds
    /// its own writes newer.
    pub async fn merge_tail(&self, file: &str) -> Result<Json, ApiError> {
        let kept = self.failover.tails().list().map_err(|error| unreadable(&error))?;
        let kept = kept.into_iter().find(|kept| kept.file == file).ok_or_else(no_tail)?;
        let name = kept.head.table;
        let (mut merged, mut newer, mut told, mut skip) = (0_u64, 0_u64, Vec::new(), 0);
        let mut mine = BTreeMap::new();
        loop {
            let changes = self.failover.tails().changes(file, skip, CHANGES_AT_ONCE);
            let changes = changes.map_err(|error| unreadable(&error))?.unwrap_or_default();
            if changes.is_empty() {
                break;
            }
            skip += changes.len();
            for change in changes {
                if change["action"] == "schema" {
                    // A person makes it again, if it is still wanted.
                    newer += 1;
                    continue;
                }
                let key = change["key"].clone();
                let written = self.merge_change(&name, change, &mut mine).await?;
                merged += u64::from(written);
                newer += u64::from(!written);
                if !written && told.len() < TOLD_MAX {
                    told.push(key);
                }
            }
        }
        Ok(json!({
            "file": file,
            "table": name,
            "merged": merged,
            "passed_over": newer,
            "passed_over_keys": told,
        }))
    }

    /// Gives whether there was anything to write.
    async fn merge_change(
        &self,
        name: &str,
        change: Json,
        mine: &mut BTreeMap<EncodedKey, Mine>,
    ) -> Result<bool, ApiError> {
        let damaged = || ApiError::invalid("What is set aside is damaged.");
        let change: KeptChange = serde_json::from_value(change).map_err(|_| damaged())?;
        let table = self.readable(name)?;
        let Some(change) = row_change(&table, change, mine)? else { return Ok(false) };
        let table_name: Text = name.into();
        let write = WriteRow { table: table_name, change };
        let operation = match &write.change.action {
            RowAction::Put(_) => Operation::PutRow(write),
            RowAction::Update(_) => Operation::UpdateRow(write),
            RowAction::Delete => Operation::DeleteRow(write),
        };
        let (path, body) = (operation.path(), encode_request(&operation));
        match self.place_of_writes(name)? {
            Place::Here(_) => {
                let api = self.public.get().and_then(std::sync::Weak::upgrade);
                api.ok_or_else(ApiError::elsewhere)?.take_write(path, body, None).await?;
            }
            Place::There(region) => {
                self.forward_write(name, &region, path, &body, None).await?;
            }
            Place::Unsettled => return Err(ApiError::elsewhere()),
        }
        Ok(true)
    }
}

fn no_tail() -> ApiError {
    ApiError::new(ErrorCode::ObjectNotExist, "Nothing is set aside here in a file of that name.")
}

/// What this merge has written of a row: what it finds newer there is its own.
struct Mine {
    /// None of its changes was passed over.
    is_whole: bool,
    columns: BTreeSet<String>,
}

/// The change to write, without what was overwritten since; `None`: all was.
fn row_change(
    table: &Table,
    kept: KeptChange,
    mine: &mut BTreeMap<EncodedKey, Mine>,
) -> Result<Option<RowChange>, ApiError> {
    let schema = table.schema();
    let key =
        key_of_json(&schema, &kept.key).map_err(|why| ApiError::invalid(format!("{why}.")))?;
    let made = Hlc(kept.stamp);
    let row = table.get(&key)?.unwrap_or_default();
    let cells = kept.cells.iter();
    let cells = cells.filter_map(|cell| Some((cell, value_of_json(&cell.value)?)));
    let is_first = !mine.contains_key(&key);
    let mine = mine.entry(key.clone()).or_insert(Mine { is_whole: true, columns: BTreeSet::new() });
    let is_row_ours = mine.is_whole && (!is_first || newest(&row, None) <= made);
    let action = match kept.action.as_str() {
        "put" | "delete" if !is_row_ours => {
            mine.is_whole = false;
            return Ok(None);
        }
        "delete" => RowAction::Delete,
        "put" => RowAction::Put(cells.map(|(cell, value)| written(cell, value)).collect()),
        _ => {
            let is_ours = |column: &str| {
                (!is_first && mine.is_whole)
                    || mine.columns.contains(column)
                    || newest(&row, Some(column)) <= made
            };
            let deleted = kept.deleted_columns.iter().filter(|column| is_ours(column));
            let deleted =
                deleted.map(|name| CellChange::DeleteColumn { name: name.as_str().into() });
            let put = kept.cells.iter().filter(|cell| is_ours(&cell.column)).filter_map(|cell| {
                let name = cell.column.as_str().into();
                let timestamp = Timestamp(cell.timestamp);
                match cell.deleted {
                    true => Some(CellChange::DeleteVersion { name, timestamp }),
                    false => Some(CellChange::Put(written(cell, value_of_json(&cell.value)?))),
                }
            });
            let changes: Vec<CellChange> = deleted.chain(put).collect();
            let asked = kept.deleted_columns.len() + kept.cells.len();
            mine.is_whole &= changes.len() == asked;
            if changes.is_empty() {
                return Ok(None);
            }
            mine.columns.extend(changes.iter().map(|change| column_of(change).to_owned()));
            RowAction::Update(changes)
        }
    };
    let key = named_key(&schema, &key)?;
    Ok(Some(RowChange {
        key,
        action,
        condition: Condition::default(),
        returned: Returned::Nothing,
    }))
}

fn column_of(change: &CellChange) -> &str {
    match change {
        CellChange::Put(cell) => cell.name.as_str(),
        CellChange::DeleteVersion { name, .. }
        | CellChange::DeleteColumn { name }
        | CellChange::Increment { name, .. } => name.as_str(),
    }
}

fn written(cell: &KeptCell, value: Value) -> CellWrite {
    let timestamp = Some(Timestamp(cell.timestamp));
    CellWrite { name: cell.column.as_str().into(), value, timestamp }
}

fn named_key(
    schema: &Schema,
    key: &isthmus_model::key::EncodedKey,
) -> Result<Vec<NamedKeyPart>, ApiError> {
    let key = PrimaryKey::decode(key).map_err(|_| ApiError::internal())?;
    let named = schema.key_columns.iter().zip(key.0);
    let part = |value| KeyPart::Value(value);
    Ok(named
        .map(|(column, value)| NamedKeyPart { name: column.name.clone(), part: part(value) })
        .collect())
}

/// When the row, or one of its columns, was last changed.
fn newest(row: &Row, column: Option<&str>) -> Hlc {
    let of_row = [row.tombstone, row.marker.filter(|_| column.is_none())];
    let columns =
        row.columns.iter().filter(|known| column.is_none_or(|c| known.name.as_str() == c));
    let of_columns =
        columns.flat_map(|known| known.cells.iter().map(|cell| cell.stamp).chain(known.tombstone));
    of_row.into_iter().flatten().chain(of_columns).map(|stamp| stamp.hlc).max().unwrap_or(Hlc::MIN)
}
