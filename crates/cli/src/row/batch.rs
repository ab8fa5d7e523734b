//! `isthmus row batch`: changes of rows of several tables, all of them or none.

use std::collections::BTreeMap;

use clap::Args;
use isthmus_connectors::tablestore::TableStore;
use isthmus_model::change::{CellChange, Existence, Returned, RowAction, RowChange};
use isthmus_model::schema::Schema;
use isthmus_model::value::Text;
use isthmus_protocol::request::{BatchWriteRow, TableWrites};
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

use super::{If, row_error, schema_of};
use crate::cells::{self, key};
use crate::error::CliError;
use crate::output;

#[derive(Args, Debug)]
pub(super) struct BatchArgs {
    /// Changes, each a JSON object with `table`, `key` and what to do: `put` (cells), `update`
    /// (cells), `increment` (columns and numbers) or `delete` (true); `if`: exists or not-exists
    #[arg(required = true, value_name = "CHANGE")]
    changes: Vec<String>,
}

/// One change, as it is given.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    table: String,
    key: Map<String, Json>,
    put: Option<Map<String, Json>>,
    update: Option<Map<String, Json>>,
    #[serde(default)]
    increment: BTreeMap<String, i64>,
    #[serde(default)]
    delete: bool,
    #[serde(rename = "if")]
    condition: Option<String>,
}

pub(super) async fn run(client: &TableStore, args: BatchArgs, json: bool) -> Result<(), CliError> {
    let mut schemas: BTreeMap<String, Schema> = BTreeMap::new();
    let mut tables: Vec<TableWrites> = Vec::new();
    for (place, text) in args.changes.iter().enumerate() {
        let named = |error: CliError| error.context(format!("change {}", place + 1));
        let asked: Asked = serde_json::from_str(text)
            .map_err(|error| named(CliError::usage(format!("it is not a change: {error}"))))?;
        if !schemas.contains_key(&asked.table) {
            let schema = schema_of(client, &asked.table).await.map_err(named)?;
            schemas.insert(asked.table.clone(), schema);
        }
        let Some(schema) = schemas.get(&asked.table) else { continue };
        let change = change(schema, &asked).map_err(named)?;
        let table = Text::from(asked.table.as_str());
        match tables.iter_mut().find(|known| known.table == table) {
            Some(known) => known.rows.push(change),
            None => tables.push(TableWrites { table, rows: vec![change] }),
        }
    }
    let batch = BatchWriteRow { tables, atomic: false };
    let told = client.all_or_none().batch_write(batch, false).await?;
    let rows = || told.iter().flat_map(|table| table.rows.iter().map(|row| (&table.table, row)));
    if let Some((table, Err(error))) = rows().find(|(_, row)| row.is_err()) {
        return Err(row_error(table, &error.code, &error.message));
    }
    let count = rows().count();
    match json {
        true => output::json(&json!({ "done": "written", "rows": count })),
        false => output::line(&format!("{count} rows written")),
    }
}

fn change(schema: &Schema, asked: &Asked) -> Result<RowChange, CliError> {
    let text = |members: &Map<String, Json>| Json::Object(members.clone()).to_string();
    let key = key(schema, &text(&asked.key), asked.put.is_some())?;
    let updates = asked.update.is_some() || !asked.increment.is_empty();
    let action = match (&asked.put, updates, asked.delete) {
        (Some(cells), false, false) => RowAction::Put(cells::cells(schema, &text(cells), None)?),
        (None, true, false) => {
            let empty = Map::new();
            let cells = text(asked.update.as_ref().unwrap_or(&empty));
            let puts = cells::cells(schema, &cells, None)?.into_iter().map(CellChange::Put);
            let additions = asked.increment.iter().map(|(name, delta)| CellChange::Increment {
                name: Text::from(name.as_str()),
                delta: *delta,
            });
            RowAction::Update(puts.chain(additions).collect())
        }
        (None, false, true) => RowAction::Delete,
        _ => {
            return Err(CliError::usage(
                "it says to do one thing: put, delete, or update and increment",
            ));
        }
    };
    let mut condition = If::Any.condition();
    condition.existence = match asked.condition.as_deref() {
        None | Some("any") => Existence::Ignore,
        Some("exists") => Existence::MustExist,
        Some("not-exists") => Existence::MustNotExist,
        Some(other) => {
            return Err(CliError::usage(format!("`if` is exists or not-exists, not {other:?}")));
        }
    };
    Ok(RowChange { key, action, condition, returned: Returned::Nothing })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(text: &str) -> Result<RowChange, String> {
        let schema = Schema {
            number: isthmus_model::ids::SchemaNumber(1),
            key_columns: crate::schema::key_columns("a:string").unwrap(),
            defined_columns: Vec::new(),
            options: isthmus_model::schema::TableOptions::default(),
        };
        let asked = serde_json::from_str(text).map_err(|error| error.to_string())?;
        change(&schema, &asked).map_err(|error| error.message)
    }

    #[test]
    fn a_change_does_one_thing() {
        let put = changed(r#"{"table":"t","key":{"a":"x"},"put":{"v":1},"if":"not-exists"}"#);
        let put = put.unwrap();
        assert!(matches!(put.action, RowAction::Put(cells) if cells.len() == 1));
        assert_eq!(put.condition.existence, Existence::MustNotExist);
        let update =
            changed(r#"{"table":"t","key":{"a":"x"},"update":{"v":1},"increment":{"n":-2}}"#);
        assert!(matches!(update.unwrap().action, RowAction::Update(cells) if cells.len() == 2));
        let delete = changed(r#"{"table":"t","key":{"a":"x"},"delete":true}"#);
        assert_eq!(delete.unwrap().action, RowAction::Delete);
        for wrong in [
            r#"{"table":"t","key":{"a":"x"}}"#,
            r#"{"table":"t","key":{"a":"x"},"put":{},"delete":true}"#,
            r#"{"table":"t","key":{"a":"x"},"put":{},"if":"maybe"}"#,
            r#"{"table":"t","key":{"b":"x"},"delete":true}"#,
            r#"{"table":"t","key":{"a":"x"},"delete":true,"more":1}"#,
        ] {
            assert!(changed(wrong).is_err(), "{wrong}");
        }
    }
}
