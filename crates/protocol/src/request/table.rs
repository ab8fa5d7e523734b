//! Operations on tables.
//!
//! Names that a schema keeps are copied out of the body, so that a table does not keep the
//! request alive that made it.

use bytes::Bytes;
use isthmus_model::key::{KeyKind, KeyValue};
use isthmus_model::limits::{DEFINED_COLUMNS_MAX, KEY_COLUMNS_MAX};
use isthmus_model::schema::{DefinedColumn, KeyColumn, TableOptions};
use isthmus_model::value::{Text, Value, ValueKind};

use crate::error::{ProtocolError, shown};
use crate::messages;
use crate::plainbuffer::{Variant, decode_variant};
use crate::request::fields::{
    Result, is_name, message, non_empty, required, required_string, table_name,
};
use crate::request::shape::Field;
use crate::request::{
    AddDefinedColumn, CreateTable, DeleteDefinedColumn, OptionsChange, ThroughputChange,
    UpdateTable,
};

/// Pieces that a table may be split into when it is made.
const PARTITIONS_MAX: usize = 1024;
/// Capacity units that may be reserved.
const THROUGHPUT_MAX: u32 = 100_000;

fn wrong_key_count(_: usize) -> ProtocolError {
    ProtocolError::invalid(format!(
        "The number of primary key columns must be in range: [1, {KEY_COLUMNS_MAX}]."
    ))
}

fn too_many_defined(count: usize) -> ProtocolError {
    ProtocolError::invalid(format!(
        "The number of defined columns exceeds the limit, limit count: {DEFINED_COLUMNS_MAX}, \
         column count: {count}."
    ))
}

fn too_many_partitions(_: usize) -> ProtocolError {
    ProtocolError::invalid(format!(
        "The number of partitions must be in range: [1, {PARTITIONS_MAX}]."
    ))
}

fn no_indexes(_: usize) -> ProtocolError {
    ProtocolError::invalid("Secondary indexes are not supported.")
}

fn too_many_stream_columns(_: usize) -> ProtocolError {
    ProtocolError::invalid("Streams are not supported.")
}

const META: &[Field] = &[
    Field { number: 2, max: KEY_COLUMNS_MAX, over: wrong_key_count, inner: &[] },
    Field { number: 3, max: DEFINED_COLUMNS_MAX, over: too_many_defined, inner: &[] },
    Field { number: 4, max: 0, over: no_indexes, inner: &[] },
];
const STREAM: &[Field] = &[Field { number: 3, max: 0, over: too_many_stream_columns, inner: &[] }];
const CREATE: &[Field] = &[
    Field { number: 1, max: usize::MAX, over: wrong_key_count, inner: META },
    Field { number: 4, max: PARTITIONS_MAX, over: too_many_partitions, inner: &[] },
    Field { number: 5, max: usize::MAX, over: too_many_stream_columns, inner: STREAM },
    Field { number: 7, max: 0, over: no_indexes, inner: &[] },
];
const UPDATE: &[Field] =
    &[Field { number: 4, max: usize::MAX, over: too_many_stream_columns, inner: STREAM }];

const COLUMNS: &[Field] =
    &[Field { number: 2, max: DEFINED_COLUMNS_MAX, over: too_many_defined, inner: &[] }];

pub(super) fn list(body: Bytes) -> Result<()> {
    message::<messages::Empty>(body, &[]).map(|_| ())
}

pub(super) fn name(body: Bytes) -> Result<Text> {
    let wire: messages::TableNameRequest = message(body, &[])?;
    table_name(wire.table_name)
}

pub(super) fn optional_name(body: Bytes) -> Result<Option<Text>> {
    let wire: messages::TableNameRequest = message(body, &[])?;
    non_empty(wire.table_name).map(|name| table_name(Some(name))).transpose()
}

pub(super) fn create(body: Bytes) -> Result<CreateTable> {
    let wire: messages::CreateTableRequest = message(body, CREATE)?;
    let meta = required(wire.table_meta)?;
    let table = Text::from(table_name(meta.table_name)?.as_str());
    let key_columns = key_columns(meta.primary_key)?;
    let defined_columns = defined_columns(meta.defined_column, &key_columns)?;
    let reserved = throughput(required(wire.reserved_throughput)?)?;
    let options = wire.table_options.map(options).transpose()?.unwrap_or_default();
    if options.time_to_live.is_none() || options.max_versions.is_none() {
        return Err(ProtocolError::invalid(
            "The maxVersions and timeToLive must be set while creating table.",
        ));
    }
    no_stream(wire.stream_spec)?;
    if let Some(spec) = wire.sse_spec
        && required(spec.enable)?
    {
        return Err(ProtocolError::invalid("Encryption per table is not supported."));
    }
    if wire.enable_local_txn == Some(true) {
        return Err(ProtocolError::invalid("Local transactions are not supported."));
    }
    let split_points = split_points(wire.partitions, &key_columns)?;
    Ok(CreateTable { table, key_columns, defined_columns, options, reserved, split_points })
}

pub(super) fn update(body: Bytes) -> Result<UpdateTable> {
    let wire: messages::UpdateTableRequest = message(body, UPDATE)?;
    let table = table_name(wire.table_name)?;
    if wire.reserved_throughput.is_none()
        && wire.table_options.is_none()
        && wire.stream_spec.is_none()
    {
        return Err(ProtocolError::invalid("Nothing to update is specified."));
    }
    no_stream(wire.stream_spec)?;
    Ok(UpdateTable {
        table,
        reserved: wire.reserved_throughput.map(throughput).transpose()?,
        options: wire.table_options.map(options).transpose()?,
    })
}

pub(super) fn add_columns(body: Bytes) -> Result<AddDefinedColumn> {
    let wire: messages::AddDefinedColumnRequest = message(body, COLUMNS)?;
    let table = table_name(wire.table_name)?;
    let columns = defined_columns(wire.columns, &[])?;
    if columns.is_empty() {
        return Err(no_defined_column());
    }
    Ok(AddDefinedColumn { table, columns })
}

pub(super) fn delete_columns(body: Bytes) -> Result<DeleteDefinedColumn> {
    let wire: messages::DeleteDefinedColumnRequest = message(body, COLUMNS)?;
    let table = table_name(wire.table_name)?;
    let names = wire.columns.into_iter().map(|name| column_name(Some(name)));
    let columns: Vec<Text> = names.collect::<Result<_>>()?;
    if columns.is_empty() {
        return Err(no_defined_column());
    }
    Ok(DeleteDefinedColumn { table, columns })
}

fn no_defined_column() -> ProtocolError {
    ProtocolError::invalid("No defined column is specified.")
}

fn column_name(field: Option<Bytes>) -> Result<Text> {
    let name = required_string(field)?;
    if is_name(name.as_bytes()) {
        return Ok(Text::from(name));
    }
    Err(ProtocolError::invalid(format!("Invalid column name: '{}'.", shown(&name))))
}

fn key_columns(wire: Vec<messages::PrimaryKeySchema>) -> Result<Vec<KeyColumn>> {
    if wire.is_empty() {
        return Err(wrong_key_count(0));
    }
    let mut columns: Vec<KeyColumn> = Vec::with_capacity(wire.len());
    for column in wire {
        let name = column_name(column.name)?;
        if columns.iter().any(|known| known.name == name) {
            return Err(ProtocolError::invalid(format!("Duplicated primary key name: '{name}'.")));
        }
        let kind = match required(column.kind)? {
            1 => KeyKind::Integer,
            2 => KeyKind::String,
            3 => KeyKind::Binary,
            5 => return Err(not_a_key_type("PK_BOOLEAN")),
            other => return Err(not_a_key_type(&other.to_string())),
        };
        let auto_increment = match column.option {
            None => false,
            Some(1) => true,
            Some(_) => return Err(ProtocolError::Malformed("primary key option is unknown")),
        };
        columns.push(KeyColumn { name, kind, auto_increment });
    }
    check_auto_increment(&columns)?;
    Ok(columns)
}

fn not_a_key_type(name: &str) -> ProtocolError {
    ProtocolError::invalid(format!("{name} is an invalid type for the primary key."))
}

fn check_auto_increment(columns: &[KeyColumn]) -> Result<()> {
    let given = || columns.iter().enumerate().filter(|(_, column)| column.auto_increment);
    if given().count() > 1 {
        return Err(ProtocolError::invalid("Only one auto-increment column is allowed."));
    }
    match given().next() {
        Some((0, _)) => {
            Err(ProtocolError::invalid("The partition key must not be auto-increment."))
        }
        Some((_, column)) if column.kind != KeyKind::Integer => {
            Err(ProtocolError::invalid("An auto-increment column must be of type INTEGER."))
        }
        Some(_) | None => Ok(()),
    }
}

fn defined_columns(
    wire: Vec<messages::DefinedColumnSchema>,
    key_columns: &[KeyColumn],
) -> Result<Vec<DefinedColumn>> {
    let mut columns: Vec<DefinedColumn> = Vec::with_capacity(wire.len());
    for column in wire {
        let name = column_name(column.name)?;
        if columns.iter().any(|known| known.name == name)
            || key_columns.iter().any(|known| known.name == name)
        {
            return Err(ProtocolError::invalid(format!("Duplicated column name: '{name}'.")));
        }
        let kind = match required(column.kind)? {
            1 => ValueKind::Integer,
            2 => ValueKind::Double,
            3 => ValueKind::Boolean,
            4 => ValueKind::String,
            7 => ValueKind::Binary,
            _ => return Err(ProtocolError::Malformed("type of a defined column is unknown")),
        };
        columns.push(DefinedColumn { name, kind });
    }
    Ok(columns)
}

fn throughput(wire: messages::ReservedThroughput) -> Result<ThroughputChange> {
    let unit = required(wire.capacity_unit)?;
    let part = |given: Option<i32>| match given.map(u32::try_from) {
        None => Ok(None),
        Some(Ok(units)) if units <= THROUGHPUT_MAX => Ok(Some(units)),
        Some(_) => Err(ProtocolError::invalid(format!(
            "Reserved throughput must be in range: [0, {THROUGHPUT_MAX}]."
        ))),
    };
    Ok(ThroughputChange { read: part(unit.read)?, write: part(unit.write)? })
}

fn options(wire: messages::TableOptions) -> Result<OptionsChange> {
    if wire.update_full_row == Some(true) {
        return Err(ProtocolError::invalid("Option update_full_row is not supported."));
    }
    Ok(OptionsChange {
        time_to_live: wire.time_to_live,
        max_versions: wire.max_versions,
        deviation_seconds: wire.deviation_cell_version_in_sec,
        allow_update: wire.allow_update,
    })
}

pub(super) fn merged_options(
    change: &OptionsChange,
    base: &TableOptions,
    time_to_live_seconds_min: u32,
) -> Result<TableOptions> {
    let time_to_live_seconds = match change.time_to_live {
        None => base.time_to_live_seconds,
        Some(-1) => None,
        Some(given) => match u32::try_from(given) {
            Ok(seconds) if seconds > 0 && seconds >= time_to_live_seconds_min => Some(seconds),
            _ => {
                return Err(ProtocolError::invalid(format!(
                    "The time to live must be -1 or at least {time_to_live_seconds_min} seconds."
                )));
            }
        },
    };
    let max_versions = match change.max_versions.map(u32::try_from) {
        None => base.max_versions,
        Some(Ok(versions)) if versions > 0 => versions,
        Some(_) => {
            return Err(ProtocolError::invalid("The max versions must be greater than 0."));
        }
    };
    let deviation_seconds = match change.deviation_seconds {
        None => base.deviation_seconds,
        Some(seconds) if seconds > 0 => seconds,
        Some(_) => {
            return Err(ProtocolError::invalid(
                "The deviation of cell versions must be greater than 0.",
            ));
        }
    };
    let allow_update = change.allow_update.unwrap_or(base.allow_update);
    Ok(TableOptions {
        time_to_live_seconds,
        max_versions,
        deviation_seconds,
        allow_update,
        ..base.clone()
    })
}

fn no_stream(wire: Option<messages::StreamSpecification>) -> Result<()> {
    let Some(spec) = wire else { return Ok(()) };
    if required(spec.enable_stream)? {
        return Err(ProtocolError::invalid("Streams are not supported."));
    }
    Ok(())
}

/// Where each piece after the first begins; the pieces must cover everything, in order.
fn split_points(
    wire: Vec<messages::PartitionRange>,
    key_columns: &[KeyColumn],
) -> Result<Vec<KeyValue>> {
    let refused = || {
        ProtocolError::invalid(
            "The partitions must be contiguous, rising and of the partition key's type.",
        )
    };
    let Some(pieces_after_first) = wire.len().checked_sub(1) else { return Ok(Vec::new()) };
    let kind = key_columns.first().map(|column| column.kind);
    let mut points: Vec<KeyValue> = Vec::with_capacity(pieces_after_first);
    let mut expected = Variant::Min;
    for range in wire {
        if decode_variant(&required(range.begin)?)? != expected || expected == Variant::Max {
            return Err(refused());
        }
        expected = decode_variant(&required(range.end)?)?;
        let point = match &expected {
            Variant::Value(Value::Integer(number)) => KeyValue::Integer(*number),
            Variant::Value(Value::String(text)) => KeyValue::String(Text::from(text.as_str())),
            Variant::Value(Value::Binary(bytes)) => KeyValue::Binary(Bytes::copy_from_slice(bytes)),
            Variant::Max => continue,
            Variant::Value(_) | Variant::Min | Variant::AutoIncrement => return Err(refused()),
        };
        if Some(point.kind()) != kind || points.last().is_some_and(|last| *last >= point) {
            return Err(refused());
        }
        points.push(point);
    }
    if expected == Variant::Max { Ok(points) } else { Err(refused()) }
}
