//! Keys, cells and rows as JSON: strings, integers, doubles, true and false as JSON has them,
//! bytes as `{"binary": "base64"}`.
//!
//! What must hold: a key is given by the names and types of its table's schema, whatever the
//! order of the members; what is shown can be given back.

use isthmus_connectors::json_lines::{json_of_value, value_of_json};
use isthmus_model::change::{CellWrite, KeyPart, NamedKeyPart};
use isthmus_model::ids::Timestamp;
use isthmus_model::key::KeyValue;
use isthmus_model::schema::{KeyColumn, Schema};
use isthmus_model::value::{Text, Value};
use isthmus_protocol::plainbuffer::NamedRow;
use serde_json::{Map, Value as Json, json};

use crate::error::CliError;
use crate::schema::{key_text, value_kind};

/// The members of a JSON object on the command line.
pub(crate) fn object(what: &str, text: &str) -> Result<Map<String, Json>, CliError> {
    match serde_json::from_str(text) {
        Ok(Json::Object(members)) => Ok(members),
        Ok(_) => Err(not_an_object(what, "it is another JSON value")),
        Err(error) => Err(not_an_object(what, &error.to_string())),
    }
}

fn not_an_object(what: &str, why: &str) -> CliError {
    CliError::usage(format!("{what} is no JSON object: {why}"))
        .hint("write it like '{\"id\":\"a\",\"number\":7}', in single quotes for the shell")
}

/// A whole key. A column whose value the server gives may be left out of a put.
pub(crate) fn key(schema: &Schema, text: &str, put: bool) -> Result<Vec<NamedKeyPart>, CliError> {
    let members = object("the key", text)?;
    check_names(schema, &members)?;
    let part = |column: &KeyColumn| match part_of(column, &members)? {
        Some(value) => Ok(KeyPart::Value(value)),
        None if put && column.auto_increment => Ok(KeyPart::AutoIncrement),
        None => Err(CliError::usage(format!(
            "key column {} is missing; the key is {}",
            column.name,
            key_text(&schema.key_columns)
        ))),
    };
    schema.key_columns.iter().map(|column| Ok(named(column, part(column)?))).collect()
}

/// One end of a range: the first columns of a key, the rest filled up.
pub(crate) fn bound(
    schema: &Schema,
    text: Option<&str>,
    rest: KeyPart,
) -> Result<Vec<NamedKeyPart>, CliError> {
    let members = text.map(|text| object("the key", text)).transpose()?.unwrap_or_default();
    check_names(schema, &members)?;
    let mut parts = Vec::with_capacity(schema.key_columns.len());
    let mut ended = None;
    for column in &schema.key_columns {
        let part = match (part_of(column, &members)?, &ended) {
            (Some(value), None) => KeyPart::Value(value),
            (Some(_), Some(missing)) => {
                let message = format!("key column {} is given, but not {missing}", column.name);
                return Err(CliError::usage(message).hint("give the first columns of the key"));
            }
            (None, _) => {
                ended.get_or_insert(&column.name);
                rest.clone()
            }
        };
        parts.push(named(column, part));
    }
    Ok(parts)
}

fn check_names(schema: &Schema, members: &Map<String, Json>) -> Result<(), CliError> {
    let known = |name: &str| schema.key_columns.iter().any(|column| column.name.as_str() == name);
    match members.keys().find(|name| !known(name)) {
        None => Ok(()),
        Some(name) => Err(CliError::usage(format!(
            "{name:?} is no key column; the key is {}",
            key_text(&schema.key_columns)
        ))),
    }
}

fn part_of(column: &KeyColumn, members: &Map<String, Json>) -> Result<Option<KeyValue>, CliError> {
    let Some(json) = members.get(column.name.as_str()) else { return Ok(None) };
    let value = value_of_json(json, Some(value_kind(column.kind)))
        .map_err(|error| CliError::usage(format!("key column {}: {error}", column.name)))?;
    value.map(|value| key_value(&column.name, value)).transpose()
}

/// A value as a key can hold it.
pub(crate) fn key_value(name: &Text, value: Value) -> Result<KeyValue, CliError> {
    match value {
        Value::Integer(number) => Ok(KeyValue::Integer(number)),
        Value::String(text) => Ok(KeyValue::String(text)),
        Value::Binary(bytes) => Ok(KeyValue::Binary(bytes)),
        Value::Double(_) | Value::Boolean(_) => {
            Err(CliError::usage(format!("key column {name}: no double or boolean can be a key")))
        }
    }
}

fn named(column: &KeyColumn, part: KeyPart) -> NamedKeyPart {
    NamedKeyPart { name: column.name.clone(), part }
}

/// Cells to write.
pub(crate) fn cells(
    schema: &Schema,
    text: &str,
    timestamp: Option<i64>,
) -> Result<Vec<CellWrite>, CliError> {
    let mut cells = Vec::new();
    for (name, json) in object("the cells", text)? {
        let name = Text::from(name);
        let defined = schema.defined_columns.iter().find(|column| column.name == name);
        let wrong = |error: String| CliError::usage(format!("column {name}: {error}"));
        match value_of_json(&json, defined.map(|column| column.kind)).map_err(wrong)? {
            Some(value) => {
                cells.push(CellWrite { name, value, timestamp: timestamp.map(Timestamp) });
            }
            None => {
                return Err(wrong("null is no value".to_owned())
                    .hint("leave the column out; `row update --delete` deletes one"));
            }
        }
    }
    Ok(cells)
}

/// The JSON form of a key.
pub(crate) fn key_json(row: &NamedRow) -> Json {
    let mut members = Map::new();
    for (name, value) in row.key_names.iter().zip(&row.row.key.0) {
        members.insert(name.as_str().to_owned(), key_value_json(value));
    }
    Json::Object(members)
}

fn key_value_json(value: &KeyValue) -> Json {
    match value {
        KeyValue::Integer(number) => json_of_value(&Value::Integer(*number)),
        KeyValue::String(text) => json_of_value(&Value::String(text.clone())),
        KeyValue::Binary(bytes) => json_of_value(&Value::Binary(bytes.clone())),
    }
}

/// The whole row with every version shown.
pub(crate) fn row_json(row: &NamedRow) -> Json {
    let cells: Vec<Json> = row
        .row
        .cells
        .iter()
        .map(|cell| {
            json!({
                "name": cell.name.as_str(),
                "value": json_of_value(&cell.value),
                "timestamp": cell.timestamp.0,
            })
        })
        .collect();
    json!({ "key": key_json(row), "cells": cells })
}

/// The row as people read it: keys and newest values in one object.
pub(crate) fn row_line(row: &NamedRow) -> Json {
    let Json::Object(mut members) = key_json(row) else { return Json::Null };
    for cell in &row.row.cells {
        // Versions come newest first.
        let name = cell.name.as_str().to_owned();
        members.entry(name).or_insert_with(|| json_of_value(&cell.value));
    }
    Json::Object(members)
}

#[cfg(test)]
mod tests {
    use isthmus_model::ids::SchemaNumber;
    use isthmus_model::schema::TableOptions;

    use super::*;
    use crate::schema::key_columns;

    fn schema(key: &str) -> Schema {
        Schema {
            number: SchemaNumber(1),
            key_columns: key_columns(key).unwrap(),
            defined_columns: vec![crate::schema::defined_column("price:double").unwrap()],
            options: TableOptions::default(),
        }
    }

    #[test]
    fn keys_follow_the_schema_and_not_the_text() {
        let schema = schema("a:string,b:integer");
        let parts = key(&schema, r#"{"b":7,"a":"x"}"#, false).unwrap();
        assert_eq!(parts[0].part, KeyPart::Value(KeyValue::String("x".into())));
        assert_eq!(parts[1].part, KeyPart::Value(KeyValue::Integer(7)));
        let wrong = |text: &str| key(&schema, text, false).unwrap_err().message;
        assert!(wrong(r#"{"a":"x"}"#).contains("b is missing; the key is a:string,b:integer"));
        assert!(wrong(r#"{"a":"x","b":1,"c":2}"#).contains("\"c\" is no key column"));
        assert!(wrong(r#"{"a":1,"b":1}"#).contains("key column a: is of type integer"));
        assert!(wrong("[]").contains("no JSON object"));
    }

    #[test]
    fn a_value_that_the_server_gives_may_be_left_out_of_a_put() {
        let schema = schema("a:string,b:integer:auto-increment");
        assert_eq!(key(&schema, r#"{"a":"x"}"#, true).unwrap()[1].part, KeyPart::AutoIncrement);
        assert!(key(&schema, r#"{"a":"x"}"#, false).is_err());
    }

    #[test]
    fn ends_of_ranges_are_filled_up() {
        let schema = schema("a:string,b:integer");
        let parts = bound(&schema, Some(r#"{"a":"x"}"#), KeyPart::Min).unwrap();
        assert_eq!(parts[1].part, KeyPart::Min);
        let parts = bound(&schema, None, KeyPart::Max).unwrap();
        assert_eq!(parts[0].part, KeyPart::Max);
        assert!(bound(&schema, Some(r#"{"b":1}"#), KeyPart::Min).is_err());
    }

    #[test]
    fn cells_take_the_types_of_defined_columns() {
        let schema = schema("a:string");
        let found = cells(&schema, r#"{"price":3,"n":3}"#, Some(5)).unwrap();
        assert_eq!(found[0].value, Value::Double(3.0));
        assert_eq!(found[1].value, Value::Integer(3));
        assert_eq!(found[1].timestamp, Some(Timestamp(5)));
        assert!(cells(&schema, r#"{"n":null}"#, None).is_err());
    }
}
