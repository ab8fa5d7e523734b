//! Operations on rows of several tables.
//!
//! What is wrong with the batch's shape or bytes refuses it whole; what is wrong with one row
//! against its table's schema is found later and answered for that row.

use bytes::Bytes;
use isthmus_model::change::{CellChange, CellWrite, KeyPart, RowAction, RowChange};
use isthmus_model::limits::{
    BATCH_GET_ROWS_MAX, BATCH_WRITE_ROWS_MAX, READ_COLUMNS_MAX, WRITE_BYTES_MAX,
};
use isthmus_model::value::Text;

use crate::error::ProtocolError;
use crate::messages;
use crate::plainbuffer;
use crate::request::fields::{
    ProjectionParts, Result, message, no_transaction, non_empty, projection, required, table_name,
    too_many_columns,
};
use crate::request::parts::BatchWriteParts;
use crate::request::row::{RETURN_COLUMNS, UNVERSIONED_ROW, WriteKind, change};
use crate::request::shape::Field;
use crate::request::{BatchGetRow, BatchWriteRow, RowRead, TableReads};

fn too_many_reads(_: usize) -> ProtocolError {
    ProtocolError::invalid(format!("Rows count exceeds the upper limit: {BATCH_GET_ROWS_MAX}."))
}

fn too_many_writes(_: usize) -> ProtocolError {
    ProtocolError::invalid(format!("Rows count exceeds the upper limit: {BATCH_WRITE_ROWS_MAX}."))
}

/// Columns named in one batch: so many for each of its rows.
const BATCH_COLUMNS_MAX: usize = BATCH_GET_ROWS_MAX * READ_COLUMNS_MAX;

// A table without rows is refused, so there are no more tables than rows.
const READS: &[Field] = &[Field {
    number: 1,
    max: BATCH_GET_ROWS_MAX,
    over: too_many_reads,
    inner: &[
        Field { number: 2, max: BATCH_GET_ROWS_MAX, over: too_many_reads, inner: &[] },
        Field { number: 3, max: BATCH_GET_ROWS_MAX, over: too_many_reads, inner: &[] },
        Field { number: 4, max: BATCH_COLUMNS_MAX, over: too_many_columns, inner: &[] },
    ],
}];
const WRITES: &[Field] = &[Field {
    number: 1,
    max: BATCH_WRITE_ROWS_MAX,
    over: too_many_writes,
    inner: &[Field {
        number: 2,
        max: BATCH_WRITE_ROWS_MAX,
        over: too_many_writes,
        inner: &[Field {
            number: 4,
            max: usize::MAX,
            over: too_many_columns,
            inner: RETURN_COLUMNS,
        }],
    }],
}];

pub(super) fn get_rows(body: Bytes) -> Result<BatchGetRow> {
    let wire: messages::BatchGetRowRequest = message(body, READS)?;
    if wire.tables.is_empty() {
        return Err(ProtocolError::invalid("No row specified in the request of BatchGetRow."));
    }
    let tables = wire.tables.into_iter().map(table_reads).collect::<Result<_>>()?;
    Ok(BatchGetRow { tables })
}

fn table_reads(wire: messages::TableInBatchGetRowRequest) -> Result<TableReads> {
    let table = table_name(wire.table_name)?;
    if wire.primary_key.is_empty() {
        return Err(no_operation(&table));
    }
    if wire.token.len() > wire.primary_key.len() {
        return Err(ProtocolError::Malformed("there are more tokens than rows"));
    }
    let tokens = wire.token.into_iter().map(Some).chain(std::iter::repeat(None));
    let rows = wire.primary_key.iter().zip(tokens).map(|(key, token)| {
        let key = plainbuffer::decode_key(key)?;
        Ok(RowRead { key, token: non_empty(token) })
    });
    let rows = rows.collect::<Result<_>>()?;
    let projection = projection(ProjectionParts {
        columns: wire.columns_to_get,
        time_range: wire.time_range,
        max_versions: wire.max_versions,
        filter: wire.filter,
        start_column: wire.start_column,
        end_column: wire.end_column,
        unversioned: UNVERSIONED_ROW,
    })?;
    Ok(TableReads { table, rows, projection })
}

fn no_operation(table: &Text) -> ProtocolError {
    ProtocolError::invalid(format!("No operation is specified for table: '{table}'."))
}

/// All rows at once.
pub(super) fn write_rows(body: Bytes) -> Result<BatchWriteRow> {
    BatchWriteParts::decode_whole(body)
}

/// The tables of a batch that are not yet decoded, and whether they belong together.
pub(super) fn wire_writes(
    body: Bytes,
) -> Result<(Vec<messages::TableInBatchWriteRowRequest>, bool)> {
    let wire: messages::BatchWriteRowRequest = message(body, WRITES)?;
    no_transaction(wire.transaction_id)?;
    if wire.tables.is_empty() {
        return Err(ProtocolError::invalid("No row is specified in BatchWriteRow."));
    }
    Ok((wire.tables, wire.is_atomic.unwrap_or(false)))
}

/// The name of a table of which at least one row is written.
pub(super) fn written_table(wire: &messages::TableInBatchWriteRowRequest) -> Result<Text> {
    let table = table_name(wire.table_name.clone())?;
    if wire.rows.is_empty() { Err(no_operation(&table)) } else { Ok(table) }
}

pub(super) fn row_write(wire: &messages::RowInBatchWriteRowRequest) -> Result<RowChange> {
    let kind = match required(wire.kind)? {
        1 => WriteKind::Put,
        2 => WriteKind::Update,
        3 => WriteKind::Delete,
        _ => return Err(ProtocolError::Malformed("kind of a row change is unknown")),
    };
    let row = required(wire.row_change.as_ref())?;
    change(kind, row, wire.condition.clone(), wire.return_content.clone())
}

/// Bytes of names and values in a batch, as its limit counts them.
#[derive(Default)]
pub(super) struct DataSize(usize);

impl DataSize {
    pub(super) fn add(&mut self, change: &RowChange) {
        self.0 += data_size(change);
    }

    pub(super) fn check(&self) -> Result<()> {
        let size = self.0;
        if size <= WRITE_BYTES_MAX {
            return Ok(());
        }
        Err(ProtocolError::invalid(format!(
            "The total data size of BatchWriteRow request exceeds the limit, \
             limit size: {WRITE_BYTES_MAX}, data size: {size}."
        )))
    }
}

fn data_size(change: &RowChange) -> usize {
    let key = change.key.iter().map(|part| {
        let value = match &part.part {
            KeyPart::Value(value) => value.size(),
            KeyPart::NotAKeyType(value) => value.size(),
            KeyPart::AutoIncrement => 8,
            KeyPart::Min | KeyPart::Max => 0,
        };
        part.name.len() + value
    });
    let cell = |cell: &CellWrite| cell.name.len() + cell.value.size();
    let cells: usize = match &change.action {
        RowAction::Put(cells) => cells.iter().map(cell).sum(),
        RowAction::Update(changes) => changes
            .iter()
            .map(|change| match change {
                CellChange::Put(write) => cell(write),
                CellChange::DeleteVersion { name, .. } | CellChange::DeleteColumn { name } => {
                    name.len()
                }
                CellChange::Increment { name, .. } => name.len() + 8,
            })
            .sum(),
        RowAction::Delete => 0,
    };
    key.sum::<usize>() + cells
}
