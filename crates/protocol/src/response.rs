//! Answers to bytes of the wire.
//!
//! Every field that any official client requires, or looks into without a check, is there: both
//! capacity units, `row` and `rows` even where they are empty, the stream details of a table
//! without a stream. Rows go straight into the answer's own buffer: its head is written
//! in front of them when its length is known, so that a page of 4 MiB is never copied.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use isthmus_model::change::ShownRow;
use isthmus_model::key::{KeyKind, PrimaryKey};
use isthmus_model::schema::{Schema, TableOptions};
use isthmus_model::value::{Text, ValueKind};
use prost::Message;

use crate::error_code::{ErrorCode, error_message};
use crate::messages;
use crate::plainbuffer::{RowWriter, put_header, put_key_row, put_row};
use crate::request::ServeMode;

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

/// How far a global table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GlobalTableStatus {
    /// It is being made.
    Init,
    /// Its replicas are being changed.
    Reconfiguring,
    /// All its replicas are in use.
    Active,
}

/// How far one replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaStatus {
    /// Waits to be made.
    Pending,
    /// Is being made.
    Init,
    /// Is being filled.
    SyncData,
    /// Holds all there was.
    Ready,
    /// Is in use.
    Active,
    /// Is being taken away.
    Unbinding,
    /// Was taken away.
    Unbound,
}

/// How a replica follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncStage {
    /// Not yet.
    Init,
    /// It is being copied.
    Full,
    /// It follows the changes.
    Incremental,
}

/// What DescribeGlobalTable answers for one replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaDescription {
    /// Region.
    pub region: String,
    /// Instance.
    pub instance: String,
    /// Table.
    pub table: String,
    /// Whether clients may write there.
    pub writable: bool,
    /// How far it is.
    pub status: ReplicaStatus,
    /// Since when, in milliseconds since the Unix epoch.
    pub status_millis: Option<i64>,
    /// Its own id.
    pub table_id: Option<String>,
    /// Its number within the global table.
    pub number: Option<i32>,
    /// Where clients reach it.
    pub endpoint: Option<String>,
    /// How it follows.
    pub stage: Option<SyncStage>,
    /// Whether it has failed.
    pub failed: bool,
    /// Text for a person.
    pub message: Option<String>,
    /// Its role.
    pub role: Option<String>,
    /// Up to when it holds everything, in nanoseconds since the Unix epoch.
    pub rpo_nanos: Option<i64>,
}

/// What DescribeGlobalTable answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GlobalTableDescription {
    /// Id.
    pub id: String,
    /// How far it is.
    pub status: GlobalTableStatus,
    /// Who writes.
    pub serve_mode: Option<ServeMode>,
    /// Its replicas.
    pub replicas: Vec<ReplicaDescription>,
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
        RowAnswer::Failed { code, message } => messages::RowInBatchResponse {
            is_ok: Some(false),
            error: Some(error_message(*code, message)),
            consumed: None,
            row: None,
            next_token: None,
        },
    }
}

/// Collects the rows of GetRow or GetRange in the buffer that becomes the answer.
#[derive(Debug)]
pub struct RowsAnswer<'a> {
    schema: &'a Schema,
    /// Room for the head, then the rows.
    out: BytesMut,
}

/// Bytes that the fields in front of the rows can take.
const HEAD_BYTES_MAX: usize = 32;

impl<'a> RowsAnswer<'a> {
    /// Starts an answer without rows.
    pub fn new(schema: &'a Schema) -> RowsAnswer<'a> {
        RowsAnswer::with_capacity(schema, 2048)
    }

    /// Starts an answer whose rows will take about so many bytes.
    pub fn with_capacity(schema: &'a Schema, row_bytes: usize) -> RowsAnswer<'a> {
        let mut out = BytesMut::with_capacity(HEAD_BYTES_MAX + row_bytes + 256);
        out.put_bytes(0, HEAD_BYTES_MAX);
        RowsAnswer { schema, out }
    }

    /// Adds a row.
    pub fn push(&mut self, row: &ShownRow) {
        self.start();
        put_row(&mut self.out, self.schema, row);
    }

    /// Adds a row that the caller writes itself, cell by cell.
    pub fn row_writer(&mut self) -> RowWriter<'_> {
        self.start();
        RowWriter::begin(&mut self.out)
    }

    /// Bytes of the rows so far.
    pub fn row_bytes(&self) -> usize {
        self.out.len() - HEAD_BYTES_MAX
    }

    fn start(&mut self) {
        if self.row_bytes() == 0 {
            put_header(&mut self.out);
        }
    }

    /// The answer of GetRow.
    pub fn finish_row(mut self, consumed: Consumed, next_token: Option<&[u8]>) -> Bytes {
        let row_bytes = self.row_bytes();
        if let Some(token) = next_token {
            put_bytes(&mut self.out, 3, token);
        }
        self.finish(consumed, row_bytes)
    }

    /// The answer of GetRange. `next_start` is where the next page starts, if there is one.
    pub fn finish_range(
        mut self,
        consumed: Consumed,
        next_start: Option<&PrimaryKey>,
        next_token: Option<&[u8]>,
    ) -> Bytes {
        let row_bytes = self.row_bytes();
        if let Some(key) = next_start {
            let mut row = BytesMut::with_capacity(256);
            put_header(&mut row);
            put_key_row(&mut row, self.schema, key);
            put_bytes(&mut self.out, 3, &row);
        }
        if let Some(token) = next_token {
            put_bytes(&mut self.out, 4, token);
        }
        self.finish(consumed, row_bytes)
    }

    /// Writes the head right before the rows and drops the room that is left.
    fn finish(mut self, consumed: Consumed, row_bytes: usize) -> Bytes {
        let mut head = BytesMut::with_capacity(HEAD_BYTES_MAX);
        head.put_slice(&consumed_field(1, consumed));
        put_key(&mut head, 2, WIRE_BYTES);
        put_varint(&mut head, row_bytes as u64);
        let unused = HEAD_BYTES_MAX - head.len();
        self.out[unused..HEAD_BYTES_MAX].copy_from_slice(&head);
        self.out.advance(unused);
        self.out.freeze()
    }
}

/// The answer of CreateGlobalTable, with the mode, and of BindGlobalTable and UnbindGlobalTable,
/// without.
pub fn encode_global_table(
    id: &str,
    status: GlobalTableStatus,
    serve_mode: Option<ServeMode>,
) -> Bytes {
    bytes_of(&messages::GlobalTableResponse {
        global_table_id: Some(copied(id)),
        status: Some(global_status(status)),
        serve_mode: serve_mode.map(serve_mode_number),
    })
}

/// The answer of DescribeGlobalTable.
pub fn encode_describe_global_table(table: &GlobalTableDescription) -> Bytes {
    bytes_of(&messages::DescribeGlobalTableResponse {
        global_table_id: Some(copied(&table.id)),
        status: Some(global_status(table.status)),
        phy_tables: table.replicas.iter().map(replica).collect(),
        serve_mode: table.serve_mode.map(serve_mode_number),
    })
}

fn global_status(status: GlobalTableStatus) -> i32 {
    match status {
        GlobalTableStatus::Init => 1,
        GlobalTableStatus::Reconfiguring => 2,
        GlobalTableStatus::Active => 3,
    }
}

pub(crate) fn serve_mode_number(mode: ServeMode) -> i32 {
    match mode {
        ServeMode::PrimarySecondary => 2,
        ServeMode::PeerToPeer => 3,
    }
}

fn replica(replica: &ReplicaDescription) -> messages::PhyTable {
    messages::PhyTable {
        region_id: Some(copied(&replica.region)),
        instance_name: Some(copied(&replica.instance)),
        table_name: Some(copied(&replica.table)),
        writable: Some(replica.writable),
        status: Some(match replica.status {
            ReplicaStatus::Pending => 1,
            ReplicaStatus::Init => 2,
            ReplicaStatus::SyncData => 3,
            ReplicaStatus::Ready => 4,
            ReplicaStatus::Active => 5,
            ReplicaStatus::Unbinding => 6,
            ReplicaStatus::Unbound => 7,
        }),
        status_timestamp: replica.status_millis,
        table_id: replica.table_id.as_deref().map(copied),
        table_hash_key: replica.number,
        endpoint: replica.endpoint.as_deref().map(copied),
        stage: replica.stage.map(|stage| match stage {
            SyncStage::Init => 1,
            SyncStage::Full => 2,
            SyncStage::Incremental => 3,
        }),
        meta_version: None,
        is_failed: Some(replica.failed),
        message: replica.message.as_deref().map(copied),
        role: replica.role.as_deref().map(copied),
        rpo_nanos: replica.rpo_nanos,
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

/// The capacity units as a whole field; at most 16 bytes.
fn consumed_field(number: u32, consumed: Consumed) -> BytesMut {
    let message = consumed_message(consumed);
    let mut out = BytesMut::with_capacity(16);
    put_key(&mut out, number, WIRE_BYTES);
    put_varint(&mut out, message.encoded_len() as u64);
    message.encode(&mut out).expect("a growing buffer takes everything");
    out
}

fn copied(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn bytes_of(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

const WIRE_BYTES: u8 = 2;

fn put_key(out: &mut BytesMut, number: u32, wire_type: u8) {
    put_varint(out, u64::from(number << 3 | u32::from(wire_type)));
}

fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

fn put_bytes(out: &mut BytesMut, number: u32, bytes: &[u8]) {
    put_key(out, number, WIRE_BYTES);
    put_varint(out, bytes.len() as u64);
    out.put_slice(bytes);
}

/// Bytes of a field with a number below 16.
fn field_size(length: usize) -> usize {
    1 + prost::length_delimiter_len(length) + length
}

#[cfg(test)]
mod tests;
