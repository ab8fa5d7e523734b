//! Keys and ranges of keys against the key columns of a table.

use crate::change::{Direction, KeyPart, KeyRange, NamedKeyPart};
use crate::check::error::CheckError;
use crate::check::table::check_column_name;
use crate::key::{KeyBound, KeyKind, KeyValue, PrimaryKey, encode_bound};
use crate::limits;
use crate::schema::{KeyColumn, Schema};
use crate::value::{Value, ValueKind};

/// What a key column of a request holds, once it fits the table.
pub(super) enum CheckedPart {
    Bound(KeyBound),
    AutoIncrement,
}

/// Checks the key of a read.
pub fn check_key(schema: &Schema, parts: Vec<NamedKeyPart>) -> Result<PrimaryKey, CheckError> {
    check_shape(schema, &parts, false)?;
    let mut values = Vec::with_capacity(parts.len());
    for (column, named) in schema.key_columns.iter().zip(parts) {
        match check_part(column, named)? {
            CheckedPart::Bound(KeyBound::Value(value)) => values.push(value),
            CheckedPart::Bound(KeyBound::Min) => return Err(key_type("VT_INF_MIN")),
            CheckedPart::Bound(KeyBound::Max) => return Err(key_type("VT_INF_MAX")),
            CheckedPart::AutoIncrement => return Err(CheckError::AutoIncrementRead),
        }
    }
    Ok(PrimaryKey(values))
}

/// Checks the ends of a range. It is never empty.
pub fn check_range(
    schema: &Schema,
    start: Vec<NamedKeyPart>,
    end: Vec<NamedKeyPart>,
    direction: Direction,
) -> Result<KeyRange, CheckError> {
    let start = check_bound(schema, start)?;
    let end = check_bound(schema, end)?;
    let (from, to) = (encode_bound(&start), encode_bound(&end));
    match direction {
        Direction::Forward if from >= to => Err(CheckError::RangeForward),
        Direction::Backward if from <= to => Err(CheckError::RangeBackward),
        Direction::Forward | Direction::Backward => Ok(KeyRange { start, end, direction }),
    }
}

fn check_bound(schema: &Schema, parts: Vec<NamedKeyPart>) -> Result<Vec<KeyBound>, CheckError> {
    check_shape(schema, &parts, true)?;
    let mut bounds = Vec::with_capacity(parts.len());
    let mut infinite = false;
    for (column, named) in schema.key_columns.iter().zip(parts) {
        match check_part(column, named)? {
            CheckedPart::AutoIncrement => return Err(CheckError::AutoIncrementRead),
            CheckedPart::Bound(KeyBound::Value(_)) if infinite => {
                return Err(CheckError::RangeInfinity);
            }
            CheckedPart::Bound(bound) => {
                infinite |= !matches!(bound, KeyBound::Value(_));
                bounds.push(bound);
            }
        }
    }
    Ok(bounds)
}

/// What holds of a key whatever the table is, then count and names. Infinite parts are refused
/// first where they are not allowed, as the public service does.
pub(super) fn check_shape(
    schema: &Schema,
    parts: &[NamedKeyPart],
    infinite_allowed: bool,
) -> Result<(), CheckError> {
    if parts.is_empty() || parts.len() > limits::KEY_COLUMNS_MAX {
        return Err(CheckError::KeyColumnCount);
    }
    for named in parts {
        check_column_name(&named.name)?;
        match &named.part {
            KeyPart::Min if !infinite_allowed => return Err(key_type("VT_INF_MIN")),
            KeyPart::Max if !infinite_allowed => return Err(key_type("VT_INF_MAX")),
            KeyPart::NotAKeyType(value) => return Err(key_type(value_kind_name(value))),
            KeyPart::Value(_) | KeyPart::AutoIncrement | KeyPart::Min | KeyPart::Max => {}
        }
    }
    if parts.len() != schema.key_columns.len() {
        let (input, meta) = (parts.len(), schema.key_columns.len());
        return Err(CheckError::KeySize { input, meta });
    }
    Ok(())
}

/// One part against its column.
pub(super) fn check_part(
    column: &KeyColumn,
    named: NamedKeyPart,
) -> Result<CheckedPart, CheckError> {
    if named.name != column.name {
        return Err(CheckError::KeyName { input: named.name, meta: column.name.clone() });
    }
    match named.part {
        KeyPart::Value(value) => {
            check_value(column, &value)?;
            Ok(CheckedPart::Bound(KeyBound::Value(value)))
        }
        KeyPart::AutoIncrement if column.auto_increment => Ok(CheckedPart::AutoIncrement),
        KeyPart::AutoIncrement => Err(CheckError::NotAutoIncrement { name: named.name }),
        KeyPart::Min => Ok(CheckedPart::Bound(KeyBound::Min)),
        KeyPart::Max => Ok(CheckedPart::Bound(KeyBound::Max)),
        KeyPart::NotAKeyType(value) => Err(key_type(value_kind_name(&value))),
    }
}

fn check_value(column: &KeyColumn, value: &KeyValue) -> Result<(), CheckError> {
    if value.kind() != column.kind {
        let (input, meta) = (key_kind_name(value.kind()), key_kind_name(column.kind));
        return Err(CheckError::KeyKind { input, meta });
    }
    if value.size() > limits::KEY_VALUE_BYTES_MAX {
        let (max, length) = (limits::KEY_VALUE_BYTES_MAX, value.size());
        return Err(CheckError::KeyLength { name: column.name.clone(), max, length });
    }
    Ok(())
}

pub(super) fn key_type(kind: &'static str) -> CheckError {
    CheckError::KeyType { kind }
}

fn key_kind_name(kind: KeyKind) -> &'static str {
    match kind {
        KeyKind::Integer => "VT_INTEGER",
        KeyKind::String => "VT_STRING",
        KeyKind::Binary => "VT_BLOB",
    }
}

fn value_kind_name(value: &Value) -> &'static str {
    match value.kind() {
        ValueKind::Integer => "VT_INTEGER",
        ValueKind::Double => "VT_DOUBLE",
        ValueKind::Boolean => "VT_BOOLEAN",
        ValueKind::String => "VT_STRING",
        ValueKind::Binary => "VT_BLOB",
    }
}
