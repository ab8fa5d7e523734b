//! What clients ask for: the wire types end here.
//!
//! `decode` turns a path and a body into an `Operation`, made of plain structs and the model's
//! types. Shape is checked here (counts, required fields, ranges of numbers that need no
//! schema); what needs the table's schema is checked by the model. Bytes of names and values
//! are views of the body. Whatever the bytes are, the memory used stays within a few times the
//! body's size, and nothing panics.

mod batch;
mod fields;
mod filter;
mod global;
mod parts;
mod row;
mod shape;
mod table;

use bytes::Bytes;
use isthmus_model::change::{Direction, NamedKeyPart, Projection, RowChange};
use isthmus_model::key::KeyValue;
use isthmus_model::schema::{DefinedColumn, KeyColumn, TableOptions};
use isthmus_model::value::Text;

use crate::error::ProtocolError;
pub use crate::request::filter::decode_filter;
pub use crate::request::parts::{
    BatchGroup, BatchPartsAnswer, BatchWritePart, BatchWriteParts, RowPlace, TableCounts,
    atomic_groups, batches_by_group, batches_by_row, batches_by_table,
};

/// An operation that a client asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    /// Makes a table.
    CreateTable(CreateTable),
    /// Names all tables.
    ListTable,
    /// Describes the table of that name.
    DescribeTable(Text),
    /// Changes what may change of a table.
    UpdateTable(UpdateTable),
    /// Deletes the table of that name.
    DeleteTable(Text),
    /// Adds columns to the schema.
    AddDefinedColumn(AddDefinedColumn),
    /// Takes columns out of the schema.
    DeleteDefinedColumn(DeleteDefinedColumn),
    /// Reads a row.
    GetRow(GetRow),
    /// Replaces a row.
    PutRow(WriteRow),
    /// Changes parts of a row.
    UpdateRow(WriteRow),
    /// Deletes a row.
    DeleteRow(WriteRow),
    /// Reads rows of several tables.
    BatchGetRow(BatchGetRow),
    /// Writes rows of several tables.
    BatchWriteRow(BatchWriteRow),
    /// Reads rows in the order of their keys.
    GetRange(GetRange),
    /// Makes a global table of a table.
    CreateGlobalTable(CreateGlobalTable),
    /// Adds replicas.
    BindGlobalTable(BindGlobalTable),
    /// Takes replicas away.
    UnbindGlobalTable(UnbindGlobalTable),
    /// Describes a global table and its replicas.
    DescribeGlobalTable(DescribeGlobalTable),
    /// Changes who writes.
    UpdateGlobalTable(UpdateGlobalTable),
    /// Names search indexes, of one table or all.
    ListSearchIndex(Option<Text>),
    /// Names streams, of one table or all.
    ListStream(Option<Text>),
    /// Names tunnels, of one table or all.
    ListTunnel(Option<Text>),
}

/// Makes a table. The columns form a legal schema: counts, names and types have been checked.
#[derive(Clone, Debug, PartialEq)]
pub struct CreateTable {
    /// Name.
    pub table: Text,
    /// Key columns.
    pub key_columns: Vec<KeyColumn>,
    /// Defined columns.
    pub defined_columns: Vec<DefinedColumn>,
    /// Options; time to live and max versions are there.
    pub options: OptionsChange,
    /// Reserved throughput.
    pub reserved: ThroughputChange,
    /// Where the table is to be split from the start, in rising order.
    pub split_points: Vec<KeyValue>,
}

/// Changes what may change of a table. At least one part is there.
#[derive(Clone, Debug, PartialEq)]
pub struct UpdateTable {
    /// Name.
    pub table: Text,
    /// Reserved throughput, where it is to change.
    pub reserved: Option<ThroughputChange>,
    /// Options, where they are to change.
    pub options: Option<OptionsChange>,
}

/// Adds columns to the schema of a table; at least one.
#[derive(Clone, Debug, PartialEq)]
pub struct AddDefinedColumn {
    /// Name of the table.
    pub table: Text,
    /// The columns, each name once.
    pub columns: Vec<DefinedColumn>,
}

/// Takes columns out of the schema of a table; at least one.
#[derive(Clone, Debug, PartialEq)]
pub struct DeleteDefinedColumn {
    /// Name of the table.
    pub table: Text,
    /// Names of the columns.
    pub columns: Vec<Text>,
}

/// Reserved throughput: the parts that are to change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThroughputChange {
    /// Capacity units for reading, 0 to 100000.
    pub read: Option<u32>,
    /// Capacity units for writing, 0 to 100000.
    pub write: Option<u32>,
}

/// Options of a table: the parts that are to change, as sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OptionsChange {
    /// Seconds; -1: for ever.
    pub time_to_live: Option<i32>,
    /// Versions kept per column.
    pub max_versions: Option<i32>,
    /// How far a given timestamp may lie from the server's time, in seconds.
    pub deviation_seconds: Option<i64>,
    /// Whether UpdateRow is allowed.
    pub allow_update: Option<bool>,
}

impl OptionsChange {
    /// The options `base` with these parts changed, if every part is in its range.
    ///
    /// A time to live is -1 or at least `time_to_live_seconds_min`.
    pub fn merged(
        &self,
        base: &TableOptions,
        time_to_live_seconds_min: u32,
    ) -> Result<TableOptions, ProtocolError> {
        table::merged_options(self, base, time_to_live_seconds_min)
    }
}

/// Reads a row.
#[derive(Clone, Debug, PartialEq)]
pub struct GetRow {
    /// Table.
    pub table: Text,
    /// Key, as sent.
    pub key: Vec<NamedKeyPart>,
    /// What to show.
    pub projection: Projection,
    /// Where to go on in a wide row; opened by `PageTokens`.
    pub token: Option<Bytes>,
}

/// Writes one row.
#[derive(Clone, Debug, PartialEq)]
pub struct WriteRow {
    /// Table.
    pub table: Text,
    /// The change.
    pub change: RowChange,
}

/// Reads rows of several tables: 1 to 100 rows in all.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchGetRow {
    /// Tables in the order of the request; one may be there twice.
    pub tables: Vec<TableReads>,
}

/// The rows to read of one table.
#[derive(Clone, Debug, PartialEq)]
pub struct TableReads {
    /// Table.
    pub table: Text,
    /// Rows in the order of the request.
    pub rows: Vec<RowRead>,
    /// What to show of each.
    pub projection: Projection,
}

/// One row to read.
#[derive(Clone, Debug, PartialEq)]
pub struct RowRead {
    /// Key, as sent.
    pub key: Vec<NamedKeyPart>,
    /// Where to go on in a wide row; opened by `PageTokens`.
    pub token: Option<Bytes>,
}

/// Writes rows of several tables: 1 to 200 rows and up to 4 MiB of data in all.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchWriteRow {
    /// Tables in the order of the request; one may be there twice.
    pub tables: Vec<TableWrites>,
    /// All rows of a table together or not at all.
    pub atomic: bool,
}

/// The rows to write of one table.
#[derive(Clone, Debug, PartialEq)]
pub struct TableWrites {
    /// Table.
    pub table: Text,
    /// Changes in the order of the request.
    pub rows: Vec<RowChange>,
}

/// Reads rows in the order of their keys.
#[derive(Clone, Debug, PartialEq)]
pub struct GetRange {
    /// Table.
    pub table: Text,
    /// First key, inclusive.
    pub start: Vec<NamedKeyPart>,
    /// End, exclusive.
    pub end: Vec<NamedKeyPart>,
    /// Which way.
    pub direction: Direction,
    /// Rows at most.
    pub limit: Option<u32>,
    /// What to show of each.
    pub projection: Projection,
    /// Where to go on in the wide row that `start` names; opened by `PageTokens`.
    pub token: Option<Bytes>,
}

/// Makes a global table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateGlobalTable {
    /// The table it starts from.
    pub base: TablePlace,
    /// Where replicas are to be.
    pub placements: Vec<Placement>,
    /// What one conflict is about.
    pub sync_mode: SyncMode,
    /// Who writes.
    pub serve_mode: Option<ServeMode>,
}

/// Adds replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindGlobalTable {
    /// Id of the global table.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Where replicas are to be.
    pub placements: Vec<Placement>,
}

/// Takes replicas away; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnbindGlobalTable {
    /// Id of the global table.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Which replicas.
    pub removals: Vec<Removal>,
}

/// Describes a global table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribeGlobalTable {
    /// Id, where known.
    pub id: Option<String>,
    /// Its name.
    pub name: String,
    /// Looks it up by this replica instead of by id.
    pub replica: Option<TablePlace>,
    /// Asks up to when each replica holds everything.
    pub return_rpo: bool,
}

/// Changes who writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpdateGlobalTable {
    /// Id of the global table.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Which replica, and how.
    pub replica: Option<ReplicaChange>,
}

/// Where a table is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TablePlace {
    /// Region.
    pub region: String,
    /// Instance.
    pub instance: String,
    /// Table.
    pub table: String,
}

/// Where a replica is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Region.
    pub region: String,
    /// Instance.
    pub instance: String,
    /// Whether clients may write there.
    pub writable: bool,
}

/// A replica to take away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    /// Region.
    pub region: String,
    /// Instance.
    pub instance: String,
}

/// What is to change of one replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaChange {
    /// Where it is.
    pub place: TablePlace,
    /// Whether clients may write there.
    pub writable: Option<bool>,
    /// Whether it may become the primary.
    pub primary_eligible: Option<bool>,
}

/// What one conflict is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncMode {
    /// A whole row.
    Row,
    /// One column.
    Column,
}

/// Who writes a global table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServeMode {
    /// One region writes, the others read.
    PrimarySecondary,
    /// Every region writes.
    PeerToPeer,
}

/// The path of each operation.
pub const PATHS: [&str; 22] = [
    "/GetRow",
    "/PutRow",
    "/UpdateRow",
    "/DeleteRow",
    "/BatchGetRow",
    "/BatchWriteRow",
    "/GetRange",
    "/CreateTable",
    "/ListTable",
    "/DescribeTable",
    "/UpdateTable",
    "/DeleteTable",
    "/AddDefinedColumn",
    "/DeleteDefinedColumn",
    "/CreateGlobalTable",
    "/BindGlobalTable",
    "/UnbindGlobalTable",
    "/DescribeGlobalTable",
    "/UpdateGlobalTable",
    "/ListSearchIndex",
    "/ListStream",
    "/tunnel/list",
];

/// Checks that a path names an operation, byte by byte.
pub fn check_path(path: &str) -> Result<(), ProtocolError> {
    if PATHS.contains(&path) { Ok(()) } else { Err(unsupported(path)) }
}

fn unsupported(path: &str) -> ProtocolError {
    let name = path.strip_prefix('/').unwrap_or(path);
    ProtocolError::OperationUnsupported { name: crate::error::shown(name) }
}

/// Decodes a request of a client.
///
/// `path` is compared byte by byte: nothing is normalised into another operation than was
/// signed.
pub fn decode(path: &str, body: Bytes) -> Result<Operation, ProtocolError> {
    let operation = decode_passed_on(path, body)?;
    operation.table_names().into_iter().try_for_each(fields::client_name)?;
    Ok(operation)
}

/// Decodes a request that another region has passed on: it may name partitions of a distributed
/// table, which no client can.
pub fn decode_passed_on(path: &str, body: Bytes) -> Result<Operation, ProtocolError> {
    match path {
        "/GetRow" => row::get_row(body).map(Operation::GetRow),
        "/PutRow" => row::write_row(body, row::WriteKind::Put).map(Operation::PutRow),
        "/UpdateRow" => row::write_row(body, row::WriteKind::Update).map(Operation::UpdateRow),
        "/DeleteRow" => row::write_row(body, row::WriteKind::Delete).map(Operation::DeleteRow),
        "/BatchGetRow" => batch::get_rows(body).map(Operation::BatchGetRow),
        "/BatchWriteRow" => batch::write_rows(body).map(Operation::BatchWriteRow),
        "/GetRange" => row::get_range(body).map(Operation::GetRange),
        "/CreateTable" => table::create(body).map(Operation::CreateTable),
        "/ListTable" => table::list(body).map(|()| Operation::ListTable),
        "/DescribeTable" => table::name(body).map(Operation::DescribeTable),
        "/UpdateTable" => table::update(body).map(Operation::UpdateTable),
        "/DeleteTable" => table::name(body).map(Operation::DeleteTable),
        "/AddDefinedColumn" => table::add_columns(body).map(Operation::AddDefinedColumn),
        "/DeleteDefinedColumn" => table::delete_columns(body).map(Operation::DeleteDefinedColumn),
        "/CreateGlobalTable" => global::create(body).map(Operation::CreateGlobalTable),
        "/BindGlobalTable" => global::bind(body).map(Operation::BindGlobalTable),
        "/UnbindGlobalTable" => global::unbind(body).map(Operation::UnbindGlobalTable),
        "/DescribeGlobalTable" => global::describe(body).map(Operation::DescribeGlobalTable),
        "/UpdateGlobalTable" => global::update(body).map(Operation::UpdateGlobalTable),
        "/ListSearchIndex" => table::optional_name(body).map(Operation::ListSearchIndex),
        "/ListStream" => table::optional_name(body).map(Operation::ListStream),
        "/tunnel/list" => table::optional_name(body).map(Operation::ListTunnel),
        _ => Err(unsupported(path)),
    }
}

impl Operation {
    /// Its path.
    pub fn path(&self) -> &'static str {
        match self {
            Operation::CreateTable(_) => "/CreateTable",
            Operation::ListTable => "/ListTable",
            Operation::DescribeTable(_) => "/DescribeTable",
            Operation::UpdateTable(_) => "/UpdateTable",
            Operation::DeleteTable(_) => "/DeleteTable",
            Operation::AddDefinedColumn(_) => "/AddDefinedColumn",
            Operation::DeleteDefinedColumn(_) => "/DeleteDefinedColumn",
            Operation::GetRow(_) => "/GetRow",
            Operation::PutRow(_) => "/PutRow",
            Operation::UpdateRow(_) => "/UpdateRow",
            Operation::DeleteRow(_) => "/DeleteRow",
            Operation::BatchGetRow(_) => "/BatchGetRow",
            Operation::BatchWriteRow(_) => "/BatchWriteRow",
            Operation::GetRange(_) => "/GetRange",
            Operation::CreateGlobalTable(_) => "/CreateGlobalTable",
            Operation::BindGlobalTable(_) => "/BindGlobalTable",
            Operation::UnbindGlobalTable(_) => "/UnbindGlobalTable",
            Operation::DescribeGlobalTable(_) => "/DescribeGlobalTable",
            Operation::UpdateGlobalTable(_) => "/UpdateGlobalTable",
            Operation::ListSearchIndex(_) => "/ListSearchIndex",
            Operation::ListStream(_) => "/ListStream",
            Operation::ListTunnel(_) => "/tunnel/list",
        }
    }

    /// The names of the tables it is about, in the order of the request.
    pub fn table_names(&self) -> Vec<&str> {
        match self {
            Operation::ListTable => Vec::new(),
            Operation::CreateTable(create) => vec![create.table.as_str()],
            Operation::DescribeTable(name) | Operation::DeleteTable(name) => vec![name.as_str()],
            Operation::UpdateTable(update) => vec![update.table.as_str()],
            Operation::AddDefinedColumn(add) => vec![add.table.as_str()],
            Operation::DeleteDefinedColumn(delete) => vec![delete.table.as_str()],
            Operation::GetRow(get) => vec![get.table.as_str()],
            Operation::PutRow(write)
            | Operation::UpdateRow(write)
            | Operation::DeleteRow(write) => {
                vec![write.table.as_str()]
            }
            Operation::BatchGetRow(batch) => {
                batch.tables.iter().map(|part| part.table.as_str()).collect()
            }
            Operation::BatchWriteRow(batch) => {
                batch.tables.iter().map(|part| part.table.as_str()).collect()
            }
            Operation::GetRange(get) => vec![get.table.as_str()],
            Operation::CreateGlobalTable(create) => vec![&create.base.table],
            Operation::BindGlobalTable(bind) => vec![&bind.name],
            Operation::UnbindGlobalTable(unbind) => vec![&unbind.name],
            Operation::DescribeGlobalTable(describe) => {
                let replica = describe.replica.as_ref().map(|place| place.table.as_str());
                [describe.name.as_str()].into_iter().chain(replica).collect()
            }
            Operation::UpdateGlobalTable(update) => vec![&update.name],
            Operation::ListSearchIndex(table)
            | Operation::ListStream(table)
            | Operation::ListTunnel(table) => table.iter().map(Text::as_str).collect(),
        }
    }

    /// Its name, as the path has it without the slash in front.
    pub fn name(&self) -> &'static str {
        &self.path()[1..]
    }

    /// Whether it changes nothing, so that a client may ask again after an unknown outcome.
    pub fn is_read(&self) -> bool {
        matches!(
            self,
            Operation::ListTable
                | Operation::DescribeTable(_)
                | Operation::GetRow(_)
                | Operation::BatchGetRow(_)
                | Operation::GetRange(_)
                | Operation::DescribeGlobalTable(_)
                | Operation::ListSearchIndex(_)
                | Operation::ListStream(_)
                | Operation::ListTunnel(_)
        )
    }
}

#[cfg(test)]
mod tests;
