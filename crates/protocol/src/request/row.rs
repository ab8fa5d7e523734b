//! Operations on one row, and on a range of rows.

use bytes::Bytes;
use isthmus_model::change::{Direction, RowAction, RowChange};
use isthmus_model::limits::READ_COLUMNS_MAX;

use crate::error::ProtocolError;
use crate::messages;
use crate::plainbuffer;
use crate::request::fields::{
    ProjectionParts, Result, condition, message, no_transaction, non_empty, projection, required,
    returned, table_name, too_many_columns,
};
use crate::request::shape::Field;
use crate::request::{GetRange, GetRow, WriteRow};

/// Which of the three ways a row is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WriteKind {
    Put,
    Update,
    Delete,
}

const COLUMNS_TO_GET: Field =
    Field { number: 3, max: READ_COLUMNS_MAX, over: too_many_columns, inner: &[] };
const READ: &[Field] = &[COLUMNS_TO_GET];
pub(super) const RETURN_COLUMNS: &[Field] =
    &[Field { number: 2, max: READ_COLUMNS_MAX, over: too_many_columns, inner: &[] }];
const WRITE: &[Field] =
    &[Field { number: 4, max: usize::MAX, over: too_many_columns, inner: RETURN_COLUMNS }];

pub(super) const UNVERSIONED_ROW: &str = "No version condition is specified while querying row.";
const UNVERSIONED_RANGE: &str = "No version condition is specified.";

pub(super) fn get_row(body: Bytes) -> Result<GetRow> {
    let wire: messages::GetRowRequest = message(body, READ)?;
    let table = table_name(wire.table_name)?;
    no_transaction(wire.transaction_id)?;
    let key = plainbuffer::decode_key(&required(wire.primary_key)?)?;
    let projection = projection(ProjectionParts {
        columns: wire.columns_to_get,
        time_range: wire.time_range,
        max_versions: wire.max_versions,
        filter: wire.filter,
        start_column: wire.start_column,
        end_column: wire.end_column,
        unversioned: UNVERSIONED_ROW,
    })?;
    Ok(GetRow { table, key, projection, token: non_empty(wire.token) })
}

pub(super) fn write_row(body: Bytes, kind: WriteKind) -> Result<WriteRow> {
    let wire: messages::WriteRowRequest = message(body, WRITE)?;
    let table = table_name(wire.table_name)?;
    no_transaction(wire.transaction_id)?;
    let row = required(wire.row)?;
    let change = change(kind, &row, wire.condition, wire.return_content)?;
    Ok(WriteRow { table, change })
}

pub(super) fn change(
    kind: WriteKind,
    row: &Bytes,
    wire_condition: Option<messages::Condition>,
    return_content: Option<messages::ReturnContent>,
) -> Result<RowChange> {
    let (key, action) = match kind {
        WriteKind::Put => {
            let (key, cells) = plainbuffer::decode_put(row)?;
            (key, RowAction::Put(cells))
        }
        WriteKind::Update => {
            let (key, changes) = plainbuffer::decode_update(row)?;
            (key, RowAction::Update(changes))
        }
        WriteKind::Delete => (plainbuffer::decode_delete(row)?, RowAction::Delete),
    };
    let condition = condition(wire_condition)?;
    let returned = returned(return_content)?;
    Ok(RowChange { key, action, condition, returned })
}

pub(super) fn get_range(body: Bytes) -> Result<GetRange> {
    let wire: messages::GetRangeRequest = message(body, READ)?;
    let table = table_name(wire.table_name)?;
    no_transaction(wire.transaction_id)?;
    let direction = match required(wire.direction)? {
        0 => Direction::Forward,
        1 => Direction::Backward,
        _ => return Err(ProtocolError::Malformed("direction is unknown")),
    };
    let start = plainbuffer::decode_key(&required(wire.inclusive_start_primary_key)?)?;
    let end = plainbuffer::decode_key(&required(wire.exclusive_end_primary_key)?)?;
    let limit = wire.limit.map(limit).transpose()?;
    let projection = projection(ProjectionParts {
        columns: wire.columns_to_get,
        time_range: wire.time_range,
        max_versions: wire.max_versions,
        filter: wire.filter,
        start_column: wire.start_column,
        end_column: wire.end_column,
        unversioned: UNVERSIONED_RANGE,
    })?;
    Ok(GetRange { table, start, end, direction, limit, projection, token: non_empty(wire.token) })
}

fn limit(given: i32) -> Result<u32> {
    match u32::try_from(given) {
        Ok(limit) if limit > 0 => Ok(limit),
        _ => Err(ProtocolError::invalid("The limit must be greater than 0.")),
    }
}
