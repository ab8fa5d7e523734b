//! Projections, filters and the shape of batches.

use crate::change::{Filter, Projection};
use crate::check::error::CheckError;
use crate::check::table::check_column_name;
use crate::ids::Timestamp;
use crate::key::{KeyValue, PrimaryKey};
use crate::limits;
use crate::value::Text;

/// Which read a projection belongs to: each has its own sentence for a missing bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadScope {
    /// GetRow and BatchGetRow.
    Row,
    /// GetRange.
    Range,
}

/// Checks what a read asks to see.
pub fn check_projection(projection: &Projection, scope: ReadScope) -> Result<(), CheckError> {
    check_names(&projection.columns)?;
    if projection.max_versions.is_none() && projection.time_range.is_none() {
        return Err(match scope {
            ReadScope::Row => CheckError::NoVersionsOfRow,
            ReadScope::Range => CheckError::NoVersions,
        });
    }
    if projection.max_versions == Some(0) {
        return Err(CheckError::ReadVersions { versions: 0 });
    }
    if let Some((start, end)) = projection.time_range {
        check_timestamp(start)?;
        // The end is exclusive, so it may be the bound itself.
        if end.0 < 0 || end.0 > limits::TIMESTAMP_MAX {
            return Err(CheckError::TimestampRange);
        }
        if start >= end {
            return Err(CheckError::TimeRange);
        }
    }
    match &projection.filter {
        Some(filter) => check_filter(filter, true),
        None => Ok(()),
    }
}

pub(super) fn check_names(names: &[Text]) -> Result<(), CheckError> {
    if names.len() > limits::READ_COLUMNS_MAX {
        let (limit, count) = (limits::READ_COLUMNS_MAX, names.len());
        return Err(CheckError::ReadColumns { limit, count });
    }
    names.iter().try_for_each(check_column_name)
}

pub(super) fn check_timestamp(timestamp: Timestamp) -> Result<(), CheckError> {
    if (0..limits::TIMESTAMP_MAX).contains(&timestamp.0) {
        return Ok(());
    }
    Err(CheckError::TimestampRange)
}

/// Checks a filter of a read, or the column part of a condition.
pub fn check_filter(filter: &Filter, in_read: bool) -> Result<(), CheckError> {
    let mut counts = Counts { nodes: 0, pages: 0, in_read };
    counts.take(filter, true)
}

struct Counts {
    nodes: usize,
    pages: usize,
    in_read: bool,
}

impl Counts {
    /// The count bounds the depth too.
    fn take(&mut self, filter: &Filter, page_allowed: bool) -> Result<(), CheckError> {
        self.nodes += 1;
        if self.nodes > limits::FILTER_NODES_MAX {
            return Err(CheckError::FilterCount { max: limits::FILTER_NODES_MAX });
        }
        match filter {
            Filter::Column(column) => check_column_name(&column.name),
            Filter::Not(part) => self.take(part, false),
            Filter::And(parts) => self.take_parts(parts, page_allowed),
            Filter::Or(parts) => self.take_parts(parts, false),
            Filter::Page { limit, .. } => self.take_page(*limit, page_allowed),
        }
    }

    fn take_parts(&mut self, parts: &[Filter], page_allowed: bool) -> Result<(), CheckError> {
        if parts.len() < 2 {
            return Err(CheckError::FilterAndOr);
        }
        parts.iter().try_for_each(|part| self.take(part, page_allowed))
    }

    fn take_page(&mut self, limit: u32, page_allowed: bool) -> Result<(), CheckError> {
        self.pages += 1;
        if !self.in_read {
            return Err(CheckError::FilterPageInCondition);
        }
        if !page_allowed || self.pages > 1 {
            return Err(CheckError::FilterPagePlace);
        }
        if limit == 0 {
            return Err(CheckError::FilterPageLimit);
        }
        Ok(())
    }
}

/// The row limit that a range read means; none is the limit of a page.
pub fn check_range_limit(limit: Option<i32>) -> Result<usize, CheckError> {
    match limit.map(usize::try_from) {
        None => Ok(limits::RANGE_ROWS_MAX),
        Some(Err(_) | Ok(0)) => Err(CheckError::RangeLimit),
        Some(Ok(limit)) => Ok(limit.min(limits::RANGE_ROWS_MAX)),
    }
}

/// Checks the shape of BatchGetRow: names of tables and how many rows are asked of each.
pub fn check_batch_get(tables: &[(&str, usize)]) -> Result<(), CheckError> {
    check_batch(tables, CheckError::NoRowToGet, limits::BATCH_GET_ROWS_MAX)
}

/// Checks the shape of BatchWriteRow: names of tables and how many rows each is given.
pub fn check_batch_write(tables: &[(&str, usize)]) -> Result<(), CheckError> {
    check_batch(tables, CheckError::NoRowToWrite, limits::BATCH_WRITE_ROWS_MAX)
}

fn check_batch(
    tables: &[(&str, usize)],
    empty: CheckError,
    limit: usize,
) -> Result<(), CheckError> {
    if tables.is_empty() {
        return Err(empty);
    }
    if let Some((table, _)) = tables.iter().find(|(_, rows)| *rows == 0) {
        return Err(CheckError::NoOperation { table: (*table).to_owned() });
    }
    if tables.iter().fold(0usize, |sum, (_, rows)| sum.saturating_add(*rows)) > limit {
        return Err(CheckError::BatchRows { limit });
    }
    Ok(())
}

/// Checks the size of a whole BatchWriteRow.
pub fn check_batch_size(size: usize) -> Result<(), CheckError> {
    let limit = limits::WRITE_BYTES_MAX;
    if size > limit {
        return Err(CheckError::BatchSize { limit, size });
    }
    Ok(())
}

/// Checks that a row of an atomic batch has the partition key of the first row.
pub fn check_atomic(first: &PrimaryKey, other: &PrimaryKey) -> Result<(), CheckError> {
    if first.0.first() == other.0.first() {
        return Ok(());
    }
    let told = |key: &PrimaryKey| key.0.first().map(told_value).unwrap_or_default();
    Err(CheckError::AtomicScope { first: told(first), other: told(other) })
}

fn told_value(value: &KeyValue) -> String {
    match value {
        KeyValue::Integer(number) => number.to_string(),
        KeyValue::String(text) => text.to_string(),
        KeyValue::Binary(bytes) => bytes.escape_ascii().to_string(),
    }
}
