//! The other side: requests to bytes, answers from bytes, for programs that are clients.
//!
//! Answers are believed no more than requests are: they come from outside too.

mod encode;

use bytes::Bytes;
use isthmus_model::change::NamedKeyPart;
use isthmus_model::ids::SchemaNumber;
use isthmus_model::key::KeyKind;
use isthmus_model::schema::{DefinedColumn, KeyColumn, Schema, TableOptions};
use isthmus_model::value::{Text, ValueKind};
use prost::Message;

pub use crate::client::encode::encode_request;
use crate::error::ProtocolError;
use crate::messages;
use crate::plainbuffer::{NamedRow, decode_key, decode_rows};
use crate::request::ServeMode;
use crate::response::{
    Consumed, GlobalTableDescription, GlobalTableStatus, ReplicaDescription, ReplicaStatus,
    SyncStage, TableStatus, Throughput,
};

type Result<T> = std::result::Result<T, ProtocolError>;

/// The body of an answer that is no success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceError {
    /// Code, such as `OTSServerBusy`.
    pub code: String,
    /// Text for a person.
    pub message: String,
}

/// What DescribeTable answered.
#[derive(Clone, Debug, PartialEq)]
pub struct DescribedTable {
    /// Name.
    pub table: String,
    /// Columns and options; the wire has no schema number, so it is 0.
    pub schema: Schema,
    /// Reserved throughput.
    pub throughput: Throughput,
    /// Whether it can be used, where it was said.
    pub status: Option<TableStatus>,
    /// When it was made, in microseconds since the Unix epoch.
    pub creation_micros: Option<i64>,
    /// Its own id.
    pub table_id: Option<String>,
    /// The id of the global table that it is a replica of.
    pub global_table_id: Option<String>,
}

/// What GetRow answered.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadRow {
    /// Capacity units used.
    pub consumed: Consumed,
    /// The row, if there is one.
    pub row: Option<NamedRow>,
    /// Where to go on, if it was cut.
    pub next_token: Option<Bytes>,
}

/// What PutRow, UpdateRow or DeleteRow answered.
#[derive(Clone, Debug, PartialEq)]
pub struct WrittenRow {
    /// Capacity units used.
    pub consumed: Consumed,
    /// The row, if it was asked for.
    pub row: Option<NamedRow>,
}

/// What a batch answered for the rows of one table.
#[derive(Clone, Debug, PartialEq)]
pub struct TableResult {
    /// Table.
    pub table: String,
    /// One per row, in the order of the request.
    pub rows: Vec<std::result::Result<ReadRow, ServiceError>>,
}

/// What GetRange answered.
#[derive(Clone, Debug, PartialEq)]
pub struct RangePage {
    /// Capacity units used.
    pub consumed: Consumed,
    /// Rows.
    pub rows: Vec<NamedRow>,
    /// Where the next page starts, if there is one.
    pub next_start: Option<Vec<NamedKeyPart>>,
    /// Where to go on in the row that `next_start` names, if it was cut.
    pub next_token: Option<Bytes>,
}

/// What CreateGlobalTable, BindGlobalTable or UnbindGlobalTable answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GlobalTableResult {
    /// Id.
    pub id: String,
    /// How far it is.
    pub status: GlobalTableStatus,
    /// Who writes, where it was said.
    pub serve_mode: Option<ServeMode>,
}

fn message<M: Message + Default>(body: Bytes) -> Result<M> {
    M::decode(body).map_err(|_| ProtocolError::Malformed("answer is not a message"))
}

fn required<T>(field: Option<T>) -> Result<T> {
    field.ok_or(ProtocolError::Malformed("a required field of an answer is missing"))
}

fn string(bytes: &Bytes) -> Result<String> {
    let text = std::str::from_utf8(bytes);
    text.map(str::to_owned).map_err(|_| ProtocolError::Malformed("text is not UTF-8"))
}

fn required_string(field: Option<Bytes>) -> Result<String> {
    string(&required(field)?)
}

fn optional_string(field: Option<Bytes>) -> Result<Option<String>> {
    field.as_ref().map(string).transpose()
}

fn non_empty(field: Option<Bytes>) -> Option<Bytes> {
    field.filter(|bytes| !bytes.is_empty())
}

/// Decodes the body of an answer that is no success.
pub fn decode_error(body: Bytes) -> Result<ServiceError> {
    service_error(message(body)?)
}

fn service_error(wire: messages::Error) -> Result<ServiceError> {
    Ok(ServiceError {
        code: required_string(wire.code)?,
        message: optional_string(wire.message)?.unwrap_or_default(),
    })
}

/// Decodes the answer of ListTable.
pub fn decode_list_table(body: Bytes) -> Result<Vec<String>> {
    let wire: messages::ListTableResponse = message(body)?;
    wire.table_names.iter().map(string).collect()
}

/// Decodes the answer of DescribeTable.
pub fn decode_describe_table(body: Bytes) -> Result<DescribedTable> {
    let wire: messages::DescribeTableResponse = message(body)?;
    let meta = required(wire.table_meta)?;
    let schema = Schema {
        number: SchemaNumber(0),
        key_columns: meta.primary_key.into_iter().map(key_column).collect::<Result<_>>()?,
        defined_columns: meta
            .defined_column
            .into_iter()
            .map(defined_column)
            .collect::<Result<_>>()?,
        options: options(&required(wire.table_options)?)?,
    };
    let status = match wire.table_status {
        Some(1) => Some(TableStatus::Active),
        Some(3) => Some(TableStatus::Loading),
        Some(4) => Some(TableStatus::Unloading),
        Some(5) => Some(TableStatus::Updating),
        Some(_) | None => None,
    };
    Ok(DescribedTable {
        table: required_string(meta.table_name)?,
        schema,
        throughput: throughput(required(wire.reserved_throughput_details)?)?,
        status,
        creation_micros: wire.creation_time,
        table_id: optional_string(meta.table_id)?,
        global_table_id: optional_string(meta.global_table_id)?,
    })
}

/// Decodes the answer of UpdateTable: the options as they are now.
pub fn decode_update_table(body: Bytes) -> Result<TableOptions> {
    let wire: messages::UpdateTableResponse = message(body)?;
    options(&required(wire.table_options)?)
}

fn key_column(wire: messages::PrimaryKeySchema) -> Result<KeyColumn> {
    let kind = match required(wire.kind)? {
        1 => KeyKind::Integer,
        2 => KeyKind::String,
        3 => KeyKind::Binary,
        _ => return Err(ProtocolError::Malformed("type of a key column is unknown")),
    };
    let name = Text::from(required_string(wire.name)?);
    Ok(KeyColumn { name, kind, auto_increment: wire.option == Some(1) })
}

fn defined_column(wire: messages::DefinedColumnSchema) -> Result<DefinedColumn> {
    let kind = match required(wire.kind)? {
        1 => ValueKind::Integer,
        2 => ValueKind::Double,
        3 => ValueKind::Boolean,
        4 => ValueKind::String,
        7 => ValueKind::Binary,
        _ => return Err(ProtocolError::Malformed("type of a defined column is unknown")),
    };
    Ok(DefinedColumn { name: Text::from(required_string(wire.name)?), kind })
}

fn options(wire: &messages::TableOptions) -> Result<TableOptions> {
    let malformed = || ProtocolError::Malformed("a table option is out of its range");
    let default = TableOptions::default();
    let time_to_live_seconds = match wire.time_to_live {
        None | Some(-1) => None,
        Some(seconds) => Some(u32::try_from(seconds).map_err(|_| malformed())?),
    };
    let max_versions = wire.max_versions.map(u32::try_from).transpose();
    Ok(TableOptions {
        time_to_live_seconds,
        max_versions: max_versions.map_err(|_| malformed())?.unwrap_or(default.max_versions),
        deviation_seconds: wire.deviation_cell_version_in_sec.unwrap_or(default.deviation_seconds),
        allow_update: wire.allow_update.unwrap_or(default.allow_update),
        ..default
    })
}

fn throughput(wire: messages::ReservedThroughputDetails) -> Result<Throughput> {
    let Consumed { read, write } = units(wire.capacity_unit)?;
    Ok(Throughput {
        read,
        write,
        last_increase_seconds: wire.last_increase_time.unwrap_or(0),
        last_decrease_seconds: wire.last_decrease_time,
    })
}

fn units(wire: Option<messages::CapacityUnit>) -> Result<Consumed> {
    let unit = required(wire)?;
    let part = |units: Option<i32>| u32::try_from(units.unwrap_or(0)).unwrap_or(0);
    Ok(Consumed { read: part(unit.read), write: part(unit.write) })
}

fn consumed(wire: Option<messages::ConsumedCapacity>) -> Result<Consumed> {
    units(required(wire)?.capacity_unit)
}

fn one_row(bytes: Option<Bytes>) -> Result<Option<NamedRow>> {
    let Some(bytes) = non_empty(bytes) else { return Ok(None) };
    let mut rows = decode_rows(&bytes)?;
    let row = rows.pop();
    if rows.is_empty() { Ok(row) } else { Err(ProtocolError::Malformed("more than one row")) }
}

/// Decodes the answer of GetRow.
pub fn decode_get_row(body: Bytes) -> Result<ReadRow> {
    let wire: messages::GetRowResponse = message(body)?;
    Ok(ReadRow {
        consumed: consumed(wire.consumed)?,
        row: one_row(Some(required(wire.row)?))?,
        next_token: non_empty(wire.next_token),
    })
}

/// Decodes the answer of PutRow, UpdateRow or DeleteRow.
pub fn decode_write_row(body: Bytes) -> Result<WrittenRow> {
    let wire: messages::WriteRowResponse = message(body)?;
    Ok(WrittenRow { consumed: consumed(wire.consumed)?, row: one_row(wire.row)? })
}

/// Decodes the answer of BatchGetRow or BatchWriteRow.
pub fn decode_batch(body: Bytes) -> Result<Vec<TableResult>> {
    let wire: messages::BatchResponse = message(body)?;
    let tables = wire.tables.into_iter().map(|table| {
        Ok(TableResult {
            table: required_string(table.table_name)?,
            rows: table.rows.into_iter().map(row_result).collect::<Result<_>>()?,
        })
    });
    tables.collect()
}

fn row_result(
    wire: messages::RowInBatchResponse,
) -> Result<std::result::Result<ReadRow, ServiceError>> {
    if !required(wire.is_ok)? {
        return Ok(Err(service_error(required(wire.error)?)?));
    }
    let consumed = wire.consumed.map(|wire| consumed(Some(wire))).transpose()?;
    Ok(Ok(ReadRow {
        consumed: consumed.unwrap_or_default(),
        row: one_row(wire.row)?,
        next_token: non_empty(wire.next_token),
    }))
}

/// Decodes the answer of GetRange.
pub fn decode_get_range(body: Bytes) -> Result<RangePage> {
    let wire: messages::GetRangeResponse = message(body)?;
    let next_start = non_empty(wire.next_start_primary_key);
    Ok(RangePage {
        consumed: consumed(wire.consumed)?,
        rows: decode_rows(&required(wire.rows)?)?,
        next_start: next_start.map(|key| decode_key(&key)).transpose()?,
        next_token: non_empty(wire.next_token),
    })
}

/// Decodes the answer of CreateGlobalTable, BindGlobalTable or UnbindGlobalTable.
pub fn decode_global_table(body: Bytes) -> Result<GlobalTableResult> {
    let wire: messages::GlobalTableResponse = message(body)?;
    Ok(GlobalTableResult {
        id: required_string(wire.global_table_id)?,
        status: global_status(required(wire.status)?)?,
        serve_mode: wire.serve_mode.map(serve_mode).transpose()?,
    })
}

/// Decodes the answer of DescribeGlobalTable.
pub fn decode_describe_global_table(body: Bytes) -> Result<GlobalTableDescription> {
    let wire: messages::DescribeGlobalTableResponse = message(body)?;
    Ok(GlobalTableDescription {
        id: required_string(wire.global_table_id)?,
        status: global_status(required(wire.status)?)?,
        serve_mode: wire.serve_mode.map(serve_mode).transpose()?,
        replicas: wire.phy_tables.into_iter().map(replica).collect::<Result<_>>()?,
    })
}

fn global_status(number: i32) -> Result<GlobalTableStatus> {
    match number {
        1 => Ok(GlobalTableStatus::Init),
        2 => Ok(GlobalTableStatus::Reconfiguring),
        3 => Ok(GlobalTableStatus::Active),
        _ => Err(ProtocolError::Malformed("status of a global table is unknown")),
    }
}

fn serve_mode(number: i32) -> Result<ServeMode> {
    match number {
        2 => Ok(ServeMode::PrimarySecondary),
        3 => Ok(ServeMode::PeerToPeer),
        _ => Err(ProtocolError::Malformed("serve mode is unknown")),
    }
}

fn replica(wire: messages::PhyTable) -> Result<ReplicaDescription> {
    let status = match wire.status.unwrap_or(1) {
        1 => ReplicaStatus::Pending,
        2 => ReplicaStatus::Init,
        3 => ReplicaStatus::SyncData,
        4 => ReplicaStatus::Ready,
        5 => ReplicaStatus::Active,
        6 => ReplicaStatus::Unbinding,
        7 => ReplicaStatus::Unbound,
        _ => return Err(ProtocolError::Malformed("status of a replica is unknown")),
    };
    let stage = match wire.stage {
        None => None,
        Some(1) => Some(SyncStage::Init),
        Some(2) => Some(SyncStage::Full),
        Some(3) => Some(SyncStage::Incremental),
        Some(_) => return Err(ProtocolError::Malformed("stage of a replica is unknown")),
    };
    Ok(ReplicaDescription {
        region: required_string(wire.region_id)?,
        instance: required_string(wire.instance_name)?,
        table: required_string(wire.table_name)?,
        writable: required(wire.writable)?,
        status,
        status_millis: wire.status_timestamp,
        table_id: optional_string(wire.table_id)?,
        number: wire.table_hash_key,
        endpoint: optional_string(wire.endpoint)?,
        stage,
        failed: wire.is_failed.unwrap_or(false),
        message: optional_string(wire.message)?,
        role: optional_string(wire.role)?,
        rpo_nanos: wire.rpo_nanos,
    })
}
