//! Answers to bytes of the wire.
//!
//! Every field that any official client requires, or looks into without a check, is there: both
//! capacity units, `row` and `rows` even where they are empty, the stream details of a table
//! without a stream. Rows go straight into the answer's own buffer: its head is written
//! in front of them when its length is known, so that a page of 4 MiB is never copied.

mod global;
mod rows;

use bytes::{BufMut, Bytes, BytesMut};
use isthmus_model::change::ShownRow;
use isthmus_model::key::KeyKind;
use isthmus_model::schema::{Schema, TableOptions};
use isthmus_model::value::{Text, ValueKind};
use prost::Message;

use crate::error_code::{ErrorCode, error_message};
use crate::messages;
use crate::plainbuffer::{put_header, put_row};
pub(crate) use crate::response::global::serve_mode_number;
pub use crate::response::global::{
    GlobalTableDescription, GlobalTableStatus, ReplicaDescription, ReplicaStatus, SyncStage,
    encode_describe_global_table, encode_global_table,
};
pub use crate::response::rows::RowsAnswer;
use crate::response::rows::{
    HEAD_BYTES_MAX, WIRE_BYTES, consumed_field, field_size, put_bytes, put_key, put_varint,
};

/// Capacity units that an operation used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Consumed {
    /// For reading.
    pub read: u32,
    /// For writing.
    pub write: u32,
}

/// Throughput that is reserved for a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throughput {
    /// Capacity units for reading.
    pub read: u32,
    /// Capacity units for writing.
    pub write: u32,
    /// When it was last increased, in seconds since the Unix epoch.
    pub last_increase_seconds: i64,
    /// When it was last decreased.
    pub last_decrease_seconds: Option<i64>,
}

/// Whether a table can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableStatus {
    /// It can.
    Active,
    /// It is being made.
    Loading,
    /// It is being deleted.
    Unloading,
    /// Its options are being changed.
    Updating,
}

/// What DescribeTable answers.
#[derive(Clone, Copy, Debug)]
pub struct TableDescription<'a> {
    /// Name.
    pub table: &'a str,
    /// Columns and options.
    pub schema: &'a Schema,
    /// Reserved throughput.
    pub throughput: Throughput,
    /// Whether it can be used.
    pub status: TableStatus,
    /// When it was made, in microseconds since the Unix epoch.
    pub creation_micros: Option<i64>,
    /// Its own id.
    pub table_id: Option<&'a str>,
    /// The id of the global table that it is a replica of.
    pub global_table_id: Option<&'a str>,
}

/// What a batch answers for one row.
#[derive(Clone, Debug, PartialEq)]
pub enum RowAnswer {
    /// It was read or written.
    Done {
        /// Capacity units that it used.
        consumed: Consumed,
        /// The row, where there is one to show.
        row: Option<ShownRow>,
        /// Where to go on, if the row was cut.
        next_token: Option<Bytes>,
    },
    /// It was not.
    Failed {
        /// Why.
        code: ErrorCode,
        /// Text for a person.
        message: String,
    },
}

/// What a batch answers for the rows of one table.
#[derive(Clone, Copy, Debug)]
pub struct TableAnswer<'a> {
    /// Name, as in the request.
    pub table: &'a Text,
    /// Its schema; needed where any row is shown.
    pub schema: Option<&'a Schema>,
    /// One answer per row, in the order of the request.
    pub rows: &'a [RowAnswer],
}

/// Answers that hold nothing: CreateTable, DeleteTable, UpdateGlobalTable, and the empty lists of
/// ListSearchIndex, ListStream and ListTunnel.
pub fn encode_empty() -> Bytes {
    Bytes::new()
}

/// The answer of ListTable.
pub fn encode_list_table<'a>(names: impl IntoIterator<Item = &'a str>) -> Bytes {
    let table_names = names.into_iter().map(copied).collect();
    bytes_of(&messages::ListTableResponse { table_names })
}

/// The answer of DescribeTable.
pub fn encode_describe_table(table: &TableDescription<'_>) -> Bytes {
    let meta = messages::TableMeta {
        table_name: Some(copied(table.table)),
        primary_key: table.schema.key_columns.iter().map(key_column).collect(),
        defined_column: table.schema.defined_columns.iter().map(defined_column).collect(),
        index_meta: Vec::new(),
        table_id: table.table_id.map(copied),
        global_table_id: table.global_table_id.map(copied),
    };
    bytes_of(&messages::DescribeTableResponse {
        table_meta: Some(meta),
        reserved_throughput_details: Some(throughput(table.throughput)),
        table_options: Some(options(&table.schema.options)),
        table_status: Some(match table.status {
            TableStatus::Active => 1,
            TableStatus::Loading => 3,
            TableStatus::Unloading => 4,
            TableStatus::Updating => 5,
        }),
        stream_details: Some(no_stream()),
        creation_time: table.creation_micros,
    })
}

/// The answer of UpdateTable.
pub fn encode_update_table(now: &TableOptions, reserved: Throughput) -> Bytes {
    bytes_of(&messages::UpdateTableResponse {
        reserved_throughput_details: Some(throughput(reserved)),
        table_options: Some(options(now)),
        stream_details: Some(no_stream()),
    })
}

/// The answer of GetRow; no row where it does not exist or shows nothing.
pub fn encode_get_row(
    schema: &Schema,
    consumed: Consumed,
    row: Option<&ShownRow>,
    next_token: Option<&[u8]>,
) -> Bytes {
    let mut writer = RowsAnswer::new(schema);
    if let Some(row) = row {
        writer.push(row);
    }
    writer.finish_row(consumed, next_token)
}

/// The answer of PutRow, UpdateRow or DeleteRow, with the row that was asked for.
pub fn encode_write_row(schema: &Schema, consumed: Consumed, row: Option<&ShownRow>) -> Bytes {
    match row {
        None => {
            let mut out = BytesMut::with_capacity(HEAD_BYTES_MAX);
            out.put_slice(&consumed_field(1, consumed));
            out.freeze()
        }
        Some(row) => encode_get_row(schema, consumed, Some(row), None),
    }
}

/// The answer of BatchGetRow or BatchWriteRow.
pub fn encode_batch(tables: &[TableAnswer<'_>]) -> Bytes {
    let mut out = BytesMut::with_capacity(4096);
    let mut scratch = BytesMut::new();
    for table in tables {
        let mut body = Vec::with_capacity(table.rows.len());
        let mut size = field_size(table.table.len());
        scratch.clear();
        for row in table.rows {
            let answer = row_answer(table.schema, row, &mut scratch);
            size += field_size(answer.encoded_len());
            body.push(answer);
        }
        out.reserve(size + 16);
        put_key(&mut out, 1, WIRE_BYTES);
        put_varint(&mut out, size as u64);
        put_bytes(&mut out, 1, table.table.as_bytes());
        for answer in &body {
            put_key(&mut out, 2, WIRE_BYTES);
            put_varint(&mut out, answer.encoded_len() as u64);
            answer.encode(&mut out).expect("a growing buffer takes everything");
        }
    }
    out.freeze()
}

fn row_answer(
    schema: Option<&Schema>,
    row: &RowAnswer,
    scratch: &mut BytesMut,
) -> messages::RowInBatchResponse {
    match row {
        RowAnswer::Done { consumed, row, next_token } => messages::RowInBatchResponse {
            is_ok: Some(true),
            error: None,
            consumed: Some(consumed_message(*consumed)),
            row: row.as_ref().zip(schema).map(|(row, schema)| {
                put_header(scratch);
                put_row(scratch, schema, row);
                scratch.split().freeze()
            }),
            next_token: next_token.clone(),
        },
        RowAnswer::Failed { code, message } => failed_row(*code, message),
    }
}

pub(crate) fn failed_row(code: ErrorCode, message: &str) -> messages::RowInBatchResponse {
    messages::RowInBatchResponse {
        is_ok: Some(false),
        error: Some(error_message(code, message)),
        consumed: None,
        row: None,
        next_token: None,
    }
}

fn key_column(column: &isthmus_model::schema::KeyColumn) -> messages::PrimaryKeySchema {
    messages::PrimaryKeySchema {
        name: Some(column.name.bytes().clone()),
        kind: Some(key_kind_number(column.kind)),
        option: column.auto_increment.then_some(1),
    }
}

pub(crate) fn key_kind_number(kind: KeyKind) -> i32 {
    match kind {
        KeyKind::Integer => 1,
        KeyKind::String => 2,
        KeyKind::Binary => 3,
    }
}

fn defined_column(column: &isthmus_model::schema::DefinedColumn) -> messages::DefinedColumnSchema {
    messages::DefinedColumnSchema {
        name: Some(column.name.bytes().clone()),
        kind: Some(value_kind_number(column.kind)),
    }
}

pub(crate) fn value_kind_number(kind: ValueKind) -> i32 {
    match kind {
        ValueKind::Integer => 1,
        ValueKind::Double => 2,
        ValueKind::Boolean => 3,
        ValueKind::String => 4,
        ValueKind::Binary => 7,
    }
}

fn options(options: &TableOptions) -> messages::TableOptions {
    let time_to_live = match options.time_to_live_seconds {
        None => -1,
        Some(seconds) => i32::try_from(seconds).unwrap_or(i32::MAX),
    };
    messages::TableOptions {
        time_to_live: Some(time_to_live),
        max_versions: Some(i32::try_from(options.max_versions).unwrap_or(i32::MAX)),
        bloom_filter_type: None,
        block_size: None,
        deviation_cell_version_in_sec: Some(options.deviation_seconds),
        allow_update: Some(options.allow_update),
        update_full_row: None,
    }
}

fn throughput(throughput: Throughput) -> messages::ReservedThroughputDetails {
    messages::ReservedThroughputDetails {
        capacity_unit: Some(capacity_unit(throughput.read, throughput.write)),
        last_increase_time: Some(throughput.last_increase_seconds),
        last_decrease_time: throughput.last_decrease_seconds,
    }
}

fn no_stream() -> messages::StreamDetails {
    messages::StreamDetails { enable_stream: Some(false), ..messages::StreamDetails::default() }
}

fn capacity_unit(read: u32, write: u32) -> messages::CapacityUnit {
    let units = |units: u32| Some(i32::try_from(units).unwrap_or(i32::MAX));
    messages::CapacityUnit { read: units(read), write: units(write) }
}

fn consumed_message(consumed: Consumed) -> messages::ConsumedCapacity {
    messages::ConsumedCapacity { capacity_unit: Some(capacity_unit(consumed.read, consumed.write)) }
}

fn copied(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn bytes_of(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

#[cfg(test)]
mod tests;
