//! What several requests have in common: required fields, names, projections, conditions.

use bytes::Bytes;
use isthmus_model::change::{Condition, Existence, Projection, Returned};
use isthmus_model::ids::Timestamp;
use isthmus_model::limits::{NAME_BYTES_MAX, READ_COLUMNS_MAX, TIMESTAMP_MAX};
use isthmus_model::value::Text;
use prost::Message;

use crate::error::{ProtocolError, shown};
use crate::messages;
use crate::request::filter::decode_filter;
use crate::request::shape::{self, Field};

/// What stands between the name of a table and the number of its partition.
const PARTITION_SEPARATOR: char = '/';

pub(super) type Result<T> = std::result::Result<T, ProtocolError>;

/// Decodes a message whose repeated fields are within their counts.
pub(super) fn message<M: Message + Default>(body: Bytes, shape: &'static [Field]) -> Result<M> {
    if !shape.is_empty() {
        shape::check(&body, shape)?;
    }
    M::decode(body).map_err(|_| ProtocolError::Malformed("it is not a message of this operation"))
}

/// A field that must be there.
pub(super) fn required<T>(field: Option<T>) -> Result<T> {
    field.ok_or(ProtocolError::Malformed("a required field is missing"))
}

pub(super) fn text(bytes: Bytes) -> Result<Text> {
    Text::from_bytes(bytes).map_err(|_| ProtocolError::Malformed("text is not UTF-8"))
}

/// Text of a required field, in a buffer of its own: it outlives the request.
pub(super) fn required_string(field: Option<Bytes>) -> Result<String> {
    let bytes = required(field)?;
    let text =
        std::str::from_utf8(&bytes).map_err(|_| ProtocolError::Malformed("text is not UTF-8"))?;
    Ok(text.to_owned())
}

/// Bytes that mean nothing where they are empty.
pub(super) fn non_empty(field: Option<Bytes>) -> Option<Bytes> {
    field.filter(|bytes| !bytes.is_empty())
}

/// The name of a table, in the charset of names, or of a partition: that of its table, `/` and a
/// number. Whether the latter is allowed is for `decode` to say.
pub(super) fn table_name(field: Option<Bytes>) -> Result<Text> {
    let name = text(required(field)?)?;
    let is_partition = || {
        let (table, number) = name.as_str().split_once(PARTITION_SEPARATOR)?;
        let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        Some(is_number && is_name(table.as_bytes()))
    };
    if is_name(name.as_bytes()) || is_partition() == Some(true) {
        return Ok(name);
    }
    Err(no_name(name.as_str()))
}

/// Refuses the name of a partition, which is not for clients.
pub(super) fn client_name(name: &str) -> Result<()> {
    if name.contains(PARTITION_SEPARATOR) { Err(no_name(name)) } else { Ok(()) }
}

fn no_name(name: &str) -> ProtocolError {
    ProtocolError::invalid(format!("Invalid table name: '{}'.", shown(name)))
}

/// Whether bytes are a legal name of a table or column.
pub(super) fn is_name(name: &[u8]) -> bool {
    let starts = |byte: &u8| byte.is_ascii_alphabetic() || *byte == b'_';
    name.len() <= NAME_BYTES_MAX
        && name.first().is_some_and(starts)
        && name.iter().all(|byte| starts(byte) || byte.is_ascii_digit())
}

/// Transactions do not exist, so no id can be one of them.
pub(super) fn no_transaction(id: Option<Bytes>) -> Result<()> {
    match non_empty(id) {
        None => Ok(()),
        Some(_) => Err(ProtocolError::invalid("TransactionID is invalid.")),
    }
}

pub(super) fn too_many_columns(count: usize) -> ProtocolError {
    ProtocolError::invalid(format!(
        "The number of columns from the request exceeds the limit, \
         limit count: {READ_COLUMNS_MAX}, column count: {count}."
    ))
}

/// The parts of a read that make its projection.
pub(super) struct ProjectionParts {
    pub(super) columns: Vec<Bytes>,
    pub(super) time_range: Option<messages::TimeRange>,
    pub(super) max_versions: Option<i32>,
    pub(super) filter: Option<Bytes>,
    pub(super) start_column: Option<Bytes>,
    pub(super) end_column: Option<Bytes>,
    /// What is said where neither versions nor times are given.
    pub(super) unversioned: &'static str,
}

pub(super) fn projection(parts: ProjectionParts) -> Result<Projection> {
    if parts.columns.len() > READ_COLUMNS_MAX {
        return Err(too_many_columns(parts.columns.len()));
    }
    if parts.max_versions.is_none() && parts.time_range.is_none() {
        return Err(ProtocolError::invalid(parts.unversioned));
    }
    let filter = non_empty(parts.filter);
    Ok(Projection {
        columns: parts.columns.into_iter().map(text).collect::<Result<_>>()?,
        start_column: non_empty(parts.start_column).map(text).transpose()?,
        end_column: non_empty(parts.end_column).map(text).transpose()?,
        max_versions: parts.max_versions.map(max_versions).transpose()?,
        time_range: parts.time_range.map(time_range).transpose()?,
        filter: filter.map(|bytes| decode_filter(bytes, true)).transpose()?,
        resume: None,
    })
}

fn max_versions(given: i32) -> Result<u32> {
    match u32::try_from(given) {
        Ok(versions) if versions > 0 => Ok(versions),
        _ => Err(ProtocolError::invalid("The max_versions must be greater than 0.")),
    }
}

fn time_range(range: messages::TimeRange) -> Result<(Timestamp, Timestamp)> {
    let messages::TimeRange { start_time, end_time, specific_time } = range;
    let (start, end) = match (start_time, end_time, specific_time) {
        (None, None, Some(moment)) => (moment, moment.saturating_add(1)),
        (None, None, None) | (Some(_), _, Some(_)) | (_, Some(_), Some(_)) => {
            return Err(ProtocolError::invalid(
                "The time range must be either start and end or a specific time.",
            ));
        }
        (start, end, None) => (start.unwrap_or(0), end.unwrap_or(TIMESTAMP_MAX)),
    };
    // The end is exclusive, so it may be the bound itself.
    if !(0..TIMESTAMP_MAX).contains(&start) || !(0..=TIMESTAMP_MAX).contains(&end) {
        return Err(ProtocolError::invalid("Timestamp must be in range [0, INT64_MAX/1000)."));
    }
    if start >= end {
        return Err(ProtocolError::invalid("The start of the time range must be before its end."));
    }
    Ok((Timestamp(start), Timestamp(end)))
}

pub(super) fn condition(wire: Option<messages::Condition>) -> Result<Condition> {
    let wire = required(wire)?;
    let existence = match required(wire.row_existence)? {
        0 => Existence::Ignore,
        1 => Existence::MustExist,
        2 => Existence::MustNotExist,
        _ => return Err(ProtocolError::Malformed("row existence expectation is unknown")),
    };
    let columns = non_empty(wire.column_condition);
    let columns = columns.map(|bytes| decode_filter(bytes, false)).transpose()?;
    Ok(Condition { existence, columns })
}

pub(super) fn returned(wire: Option<messages::ReturnContent>) -> Result<Returned> {
    let Some(wire) = wire else { return Ok(Returned::Nothing) };
    match wire.return_type.unwrap_or(0) {
        0 => Ok(Returned::Nothing),
        1 => Ok(Returned::Key),
        2 => {
            let names = wire.return_column_names.into_iter();
            Ok(Returned::AfterModify(names.map(text).collect::<Result<_>>()?))
        }
        _ => Err(ProtocolError::Malformed("return type is unknown")),
    }
}
