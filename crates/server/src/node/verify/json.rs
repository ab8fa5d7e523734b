//! Keys and values as JSON, for reports: strings, integers, doubles, true and false as JSON has
//! them, bytes as `{"binary": "base64"}`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use isthmus_model::key::{EncodedKey, KeyKind, KeyValue, PrimaryKey};
use isthmus_model::schema::{KeyColumn, Schema};
use isthmus_model::value::Value;
use serde_json::{Value as Json, json};

/// The JSON form of a value.
pub(crate) fn value_json(value: &Value) -> Json {
    match value {
        Value::Integer(number) => (*number).into(),
        Value::Double(number) => match serde_json::Number::from_f64(*number) {
            Some(number) => number.into(),
            None => number.to_string().into(),
        },
        Value::Boolean(truth) => (*truth).into(),
        Value::String(text) => text.as_str().into(),
        Value::Binary(bytes) => json!({ "binary": STANDARD.encode(bytes) }),
    }
}

/// Reads the JSON form of a value; `None`: it is none.
pub(crate) fn value_of_json(json: &Json) -> Option<Value> {
    Some(match json {
        Json::Bool(truth) => Value::Boolean(*truth),
        Json::Number(number) => match number.as_i64() {
            Some(integer) => Value::Integer(integer),
            None => Value::Double(number.as_f64()?),
        },
        Json::String(text) => Value::String(text.as_str().into()),
        Json::Object(members) => {
            Value::Binary(STANDARD.decode(members.get("binary")?.as_str()?).ok()?.into())
        }
        Json::Null | Json::Array(_) => return None,
    })
}

fn part_json(column: &KeyColumn, value: &KeyValue) -> Json {
    let (kind, value) = match value {
        KeyValue::Integer(number) => ("integer", (*number).into()),
        KeyValue::String(text) => ("string", text.as_str().into()),
        KeyValue::Binary(bytes) => ("binary", json!({ "binary": STANDARD.encode(bytes) })),
    };
    json!({ "name": column.name.as_str(), "type": kind, "value": value })
}

/// The JSON form of a key; null for what is no whole key, like the ends of all rows.
pub(crate) fn key_json(schema: &Schema, key: &EncodedKey) -> Json {
    let Ok(key) = PrimaryKey::decode(key) else { return Json::Null };
    if key.0.len() != schema.key_columns.len() {
        return Json::Null;
    }
    let parts = schema.key_columns.iter().zip(&key.0);
    parts.map(|(column, value)| part_json(column, value)).collect()
}

/// Reads a key: an object of names and values, or the list that reports have.
pub(crate) fn key_of_json(schema: &Schema, json: &Json) -> Result<EncodedKey, String> {
    let member = |name: &str| match json {
        Json::Object(members) => members.get(name),
        Json::Array(parts) => {
            let part = parts.iter().find(|part| part["name"] == name)?;
            part.get("value")
        }
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => None,
    };
    let count = match json {
        Json::Object(members) => members.len(),
        Json::Array(parts) => parts.len(),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => 0,
    };
    let wanted = || {
        let name = |column: &KeyColumn| format!("{:?}: {}", column.name.as_str(), word(column));
        let names: Vec<String> = schema.key_columns.iter().map(name).collect();
        format!("a key of this table is an object like {{{}}}", names.join(", "))
    };
    if count != schema.key_columns.len() {
        return Err(wanted());
    }
    let mut key = PrimaryKey(Vec::with_capacity(count));
    for column in &schema.key_columns {
        let value = member(column.name.as_str()).ok_or_else(wanted)?;
        key.0.push(part_of_json(column, value).ok_or_else(wanted)?);
    }
    Ok(key.encode())
}

fn word(column: &KeyColumn) -> &'static str {
    match column.kind {
        KeyKind::Integer => "7",
        KeyKind::String => "\"text\"",
        KeyKind::Binary => "{\"binary\": \"base64\"}",
    }
}

fn part_of_json(column: &KeyColumn, value: &Json) -> Option<KeyValue> {
    match column.kind {
        KeyKind::Integer => value.as_i64().map(KeyValue::Integer),
        KeyKind::String => value.as_str().map(|text| KeyValue::String(text.into())),
        KeyKind::Binary => {
            let text = value.get("binary").unwrap_or(value).as_str()?;
            Some(KeyValue::Binary(STANDARD.decode(text).ok()?.into()))
        }
    }
}

/// Bytes of a key in a note.
pub(super) fn hex(key: &EncodedKey) -> String {
    key.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A key from a note; one that is damaged is the first of all.
pub(super) fn unhex(text: &str) -> EncodedKey {
    let byte = |place: usize| {
        text.get(place..place + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok())
    };
    let bytes: Option<Vec<u8>> = (0..text.len()).step_by(2).map(byte).collect();
    EncodedKey(bytes.unwrap_or_default().into())
}

#[cfg(test)]
mod tests {
    use isthmus_model::ids::SchemaNumber;
    use isthmus_model::schema::TableOptions;

    use super::*;

    fn schema() -> Schema {
        let column =
            |name: &str, kind| KeyColumn { name: name.into(), kind, auto_increment: false };
        Schema {
            number: SchemaNumber(1),
            key_columns: vec![
                column("a", KeyKind::String),
                column("b", KeyKind::Integer),
                column("c", KeyKind::Binary),
            ],
            defined_columns: Vec::new(),
            options: TableOptions::default(),
        }
    }

    #[test]
    fn values_come_back_with_their_types() {
        for value in [
            Value::Integer(7),
            Value::Double(7.0),
            Value::Boolean(true),
            Value::String("7".into()),
            Value::Binary(vec![0, 255].into()),
        ] {
            let text = value_json(&value).to_string();
            assert_eq!(value_of_json(&serde_json::from_str(&text).unwrap()), Some(value));
        }
        assert_eq!(value_of_json(&Json::Null), None);
    }

    #[test]
    fn keys_are_read_in_both_forms_and_come_back() {
        let schema = schema();
        let object = json!({"c": {"binary": "AAE="}, "a": "x", "b": -7});
        let key = key_of_json(&schema, &object).unwrap();
        let told = key_json(&schema, &key);
        assert_eq!(told[1], json!({"name": "b", "type": "integer", "value": -7}));
        assert_eq!(key_of_json(&schema, &told), Ok(key.clone()));
        assert_eq!(unhex(&hex(&key)), key);
        assert_eq!(key_json(&schema, &EncodedKey::default()), Json::Null);
    }

    #[test]
    fn what_is_no_key_is_told_with_one_that_is() {
        for wrong in [json!({"a": "x"}), json!(7), json!({"a": 1, "b": 2, "c": "AA=="})] {
            let error = key_of_json(&schema(), &wrong).unwrap_err();
            assert!(error.contains("\"a\": \"text\""), "{error}");
        }
        assert_eq!(unhex("zz"), EncodedKey::default());
    }
}
