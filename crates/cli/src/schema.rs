//! How tables are written on the command line: key columns, defined columns, options.
//!
//! What must hold: what is wrong is told with the column it is in, before anything is sent; a
//! schema is shown in the words in which it is given.

use isthmus_connectors::types;
use isthmus_model::key::KeyKind;
use isthmus_model::limits::KEY_COLUMNS_MAX;
use isthmus_model::schema::{DefinedColumn, KeyColumn, Schema};
use isthmus_model::value::{Text, ValueKind};
use serde_json::{Value as Json, json};

/// Reads key columns like `user:string,number:integer:auto-increment`.
pub(crate) fn key_columns(list: &str) -> Result<Vec<KeyColumn>, String> {
    let columns: Vec<KeyColumn> =
        list.split(',').map(|item| key_column(item.trim())).collect::<Result<_, _>>()?;
    if columns.len() > KEY_COLUMNS_MAX {
        return Err(format!("{} key columns, a key has 1 to {KEY_COLUMNS_MAX}", columns.len()));
    }
    for (place, column) in columns.iter().enumerate() {
        if columns[..place].iter().any(|other| other.name == column.name) {
            return Err(format!("key column {} is given twice", column.name));
        }
        if column.auto_increment && (place == 0 || column.kind != KeyKind::Integer) {
            return Err(format!(
                "{} cannot be auto-increment: only an integer that is not the first column can",
                column.name
            ));
        }
    }
    Ok(columns)
}

fn key_column(item: &str) -> Result<KeyColumn, String> {
    let mut parts = item.split(':');
    let (name, kind) = (parts.next().unwrap_or_default(), parts.next());
    let kind = kind.ok_or_else(|| format!("{item:?} is not like NAME:TYPE"))?;
    let auto_increment = match (parts.next(), parts.next()) {
        (None, _) => false,
        (Some("auto-increment"), None) => true,
        _ => return Err(format!("{item:?}: only auto-increment may follow the type")),
    };
    let kind = key_kind(kind).ok_or_else(|| {
        format!("{kind:?} is no type of key columns; they are integer, string or binary")
    })?;
    Ok(KeyColumn { name: name_of_column(name)?, kind, auto_increment })
}

fn key_kind(word: &str) -> Option<KeyKind> {
    match word {
        "integer" => Some(KeyKind::Integer),
        "string" => Some(KeyKind::String),
        "binary" => Some(KeyKind::Binary),
        _ => None,
    }
}

/// Reads a defined column like `price:double`.
pub(crate) fn defined_column(item: &str) -> Result<DefinedColumn, String> {
    let (name, kind) =
        item.rsplit_once(':').ok_or_else(|| format!("{item:?} is not like NAME:TYPE"))?;
    Ok(DefinedColumn { name: name_of_column(name)?, kind: types::kind_of(kind)? })
}

fn name_of_column(name: &str) -> Result<Text, String> {
    let starts = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    let goes_on = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if starts && goes_on && name.len() <= 255 {
        return Ok(Text::from(name));
    }
    Err(format!("{name:?} is no name; names are letters, digits and _, a letter or _ first"))
}

/// The type that values of a key column have.
pub(crate) fn value_kind(kind: KeyKind) -> ValueKind {
    match kind {
        KeyKind::Integer => ValueKind::Integer,
        KeyKind::String => ValueKind::String,
        KeyKind::Binary => ValueKind::Binary,
    }
}

/// Key columns as `key_columns` reads them.
pub(crate) fn key_text(columns: &[KeyColumn]) -> String {
    let one = |column: &KeyColumn| {
        let more = if column.auto_increment { ":auto-increment" } else { "" };
        format!("{}:{}{more}", column.name, types::name_of(value_kind(column.kind)))
    };
    columns.iter().map(one).collect::<Vec<_>>().join(",")
}

/// The JSON form of a schema.
pub(crate) fn schema_json(schema: &Schema) -> Json {
    let key: Vec<Json> = schema
        .key_columns
        .iter()
        .map(|column| {
            json!({
                "name": column.name.as_str(),
                "type": types::name_of(value_kind(column.kind)),
                "auto_increment": column.auto_increment,
            })
        })
        .collect();
    let defined: Vec<Json> = schema
        .defined_columns
        .iter()
        .map(|column| json!({"name": column.name.as_str(), "type": types::name_of(column.kind)}))
        .collect();
    json!({
        "key": key,
        "columns": defined,
        "options": {
            "max_versions": schema.options.max_versions,
            "time_to_live_seconds": schema.options.time_to_live_seconds,
            "deviation_seconds": schema.options.deviation_seconds,
            "allow_update": schema.options.allow_update,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_and_shown_in_the_same_words() {
        let text = "user:string,at:integer,n:integer:auto-increment,raw:binary";
        assert_eq!(key_text(&key_columns(text).unwrap()), text);
    }

    #[test]
    fn wrong_columns_are_refused_with_their_name() {
        let cases = [
            ("a", "NAME:TYPE"),
            ("a:double", "\"double\" is no type of key columns"),
            ("a:integer:auto-increment", "a cannot be auto-increment"),
            ("a:string,b:string:auto-increment", "b cannot be auto-increment"),
            ("a:string,a:string", "a is given twice"),
            ("a:string,b:string,c:string,d:string,e:string", "5 key columns"),
            ("a:string:x", "only auto-increment"),
            ("1a:string", "is no name"),
            ("", "NAME:TYPE"),
        ];
        for (text, expected) in cases {
            let error = key_columns(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        assert_eq!(defined_column("x:double").unwrap().kind, ValueKind::Double);
        assert!(defined_column("x:float").is_err());
    }
}
