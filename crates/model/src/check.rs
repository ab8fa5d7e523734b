//! Checks requests against limits and schema, before any row is looked at.
//!
//! What comes out of here can be applied without further checks of shape: every bound of the data
//! model holds, names are valid, no register is changed twice, timestamps lie in the window of the
//! table. Limits are judged here, at the origin, and nowhere again.

mod error;
mod key;
mod read;
mod table;

use std::cmp::Ordering;

use crate::capacity::{WriteSize, cell_size, values_size, version_size};
use crate::change::{
    CellChange, CellWrite, Condition, Existence, NamedKeyPart, Returned, RowAction, RowChange,
};
use crate::ids::Timestamp;
use crate::key::{KeyBound, KeyValue, PrimaryKey};
use crate::limits;
use crate::schema::{Schema, TableOptions};
use crate::value::{Text, Value};

pub use error::{CheckCode, CheckError};
pub use key::{check_key, check_range};
pub use read::{
    ReadScope, check_atomic, check_batch_get, check_batch_size, check_batch_write, check_filter,
    check_projection, check_range_limit,
};
pub use table::{
    check_column_name, check_max_versions, check_options, check_schema, check_table_name,
    check_time_to_live,
};

/// The change of one row, known to keep every rule that needs no row.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckedChange {
    /// The row.
    pub key: CheckedKey,
    /// What to do.
    pub action: RowAction,
    /// Whether to do it.
    pub condition: Condition,
    /// What to answer.
    pub returned: Returned,
    /// Its size, as the capacity units count it.
    pub size: WriteSize,
}

/// The key of a checked change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckedKey {
    /// A whole key.
    Whole(PrimaryKey),
    /// The server must give one value.
    AutoIncrement {
        /// All values; a 0 where the server's goes.
        values: Vec<KeyValue>,
        /// The place of the server's value.
        column: usize,
    },
}

impl CheckedKey {
    /// The whole key; `number` gives the server's value where it is asked for.
    pub fn whole(self, number: impl FnOnce() -> i64) -> PrimaryKey {
        match self {
            CheckedKey::Whole(key) => key,
            CheckedKey::AutoIncrement { mut values, column } => {
                if let Some(value) = values.get_mut(column) {
                    *value = KeyValue::Integer(number());
                }
                PrimaryKey(values)
            }
        }
    }
}

/// Checks a change of a row.
pub fn check_change(
    schema: &Schema,
    change: RowChange,
    now_millis: i64,
) -> Result<CheckedChange, CheckError> {
    let RowChange { key, action, mut condition, returned } = change;
    let key = check_write_key(schema, key)?;
    check_condition(schema, &key, &action, &mut condition)?;
    if let Returned::AfterModify(names) = &returned {
        read::check_names(names)?;
    }
    let key_values = match &key {
        CheckedKey::Whole(key) => &key.0,
        CheckedKey::AutoIncrement { values, .. } => values,
    };
    let attributes = match &action {
        RowAction::Put(cells) => check_put(schema, cells, now_millis)?,
        RowAction::Update(changes) => check_update(schema, changes, now_millis)?,
        RowAction::Delete => 0,
    };
    let size = WriteSize { key: values_size(schema, key_values), attributes };
    if size.total() > limits::WRITE_BYTES_MAX {
        return Err(CheckError::RowSize);
    }
    Ok(CheckedChange { key, action, condition, returned, size })
}

fn check_write_key(schema: &Schema, parts: Vec<NamedKeyPart>) -> Result<CheckedKey, CheckError> {
    key::check_shape(schema, &parts, false)?;
    let mut values = Vec::with_capacity(parts.len());
    let mut given_by_server = None;
    for (place, (column, named)) in schema.key_columns.iter().zip(parts).enumerate() {
        match key::check_part(column, named)? {
            key::CheckedPart::Bound(KeyBound::Value(value)) => values.push(value),
            key::CheckedPart::Bound(KeyBound::Min) => return Err(key::key_type("VT_INF_MIN")),
            key::CheckedPart::Bound(KeyBound::Max) => return Err(key::key_type("VT_INF_MAX")),
            key::CheckedPart::AutoIncrement => {
                values.push(KeyValue::Integer(0));
                given_by_server = Some(place);
            }
        }
    }
    Ok(match given_by_server {
        Some(column) => CheckedKey::AutoIncrement { values, column },
        None => CheckedKey::Whole(PrimaryKey(values)),
    })
}

fn check_condition(
    schema: &Schema,
    key: &CheckedKey,
    action: &RowAction,
    condition: &mut Condition,
) -> Result<(), CheckError> {
    if let Some(filter) = &condition.columns {
        check_filter(filter, false)?;
    }
    if *action == RowAction::Delete && condition.existence == Existence::MustNotExist {
        return Err(CheckError::DeleteExpectsNothing);
    }
    match key {
        CheckedKey::AutoIncrement { .. } => check_new_key(action, condition),
        CheckedKey::Whole(_) if schema.auto_increment_column().is_none() => Ok(()),
        CheckedKey::Whole(_) => check_given_key(action, condition),
    }
}

fn check_new_key(action: &RowAction, condition: &Condition) -> Result<(), CheckError> {
    match action {
        RowAction::Put(_) => {}
        RowAction::Update(_) => return Err(CheckError::AutoIncrementUpdate),
        RowAction::Delete => return Err(CheckError::AutoIncrementDelete),
    }
    if condition.existence == Existence::MustExist {
        return Err(CheckError::AutoIncrementExpect);
    }
    if condition.columns.is_some() {
        return Err(CheckError::AutoIncrementCondition);
    }
    Ok(())
}

/// In a table whose keys the server gives, a row with a given key can be changed but not made.
fn check_given_key(action: &RowAction, condition: &mut Condition) -> Result<(), CheckError> {
    match (action, condition.existence) {
        (RowAction::Delete, _) | (_, Existence::MustExist) => Ok(()),
        (_, Existence::MustNotExist) => Err(CheckError::AutoIncrementGiven),
        (_, Existence::Ignore) => {
            condition.existence = Existence::MustExist;
            Ok(())
        }
    }
}

/// The register, or registers, that a step changes; in the order in which doubles are found.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Slot {
    Column,
    Version(Option<Timestamp>),
    /// Reads the newest version, so it must be the only step on its column.
    Increment,
}

fn check_put(schema: &Schema, cells: &[CellWrite], now: i64) -> Result<usize, CheckError> {
    let mut size = 0;
    let mut slots = Vec::with_capacity(cells.len());
    for cell in cells {
        size += check_write(schema, cell, now)?;
        slots.push((&cell.name, Slot::Version(cell.timestamp)));
    }
    check_slots(slots, "putting")?;
    Ok(size)
}

fn check_update(schema: &Schema, changes: &[CellChange], now: i64) -> Result<usize, CheckError> {
    if changes.is_empty() {
        return Err(CheckError::NoColumns);
    }
    let mut size = 0;
    let mut slots = Vec::with_capacity(changes.len());
    for change in changes {
        let slot = match change {
            CellChange::Put(cell) => {
                size += check_write(schema, cell, now)?;
                (&cell.name, Slot::Version(cell.timestamp))
            }
            CellChange::DeleteVersion { name, timestamp } => {
                check_attribute_name(schema, name)?;
                read::check_timestamp(*timestamp)?;
                size += name.len();
                (name, Slot::Version(Some(*timestamp)))
            }
            CellChange::DeleteColumn { name } => {
                check_attribute_name(schema, name)?;
                size += name.len();
                (name, Slot::Column)
            }
            CellChange::Increment { name, delta } => {
                check_attribute_name(schema, name)?;
                size += name.len() + Value::Integer(*delta).size() + version_size(&schema.options);
                (name, Slot::Increment)
            }
        };
        slots.push(slot);
    }
    check_slots(slots, "updating")?;
    Ok(size)
}

/// Checks one cell and gives its size.
fn check_write(schema: &Schema, cell: &CellWrite, now: i64) -> Result<usize, CheckError> {
    check_attribute_name(schema, &cell.name)?;
    if let Value::String(_) | Value::Binary(_) = &cell.value {
        let (max, length) = (limits::VALUE_BYTES_MAX, cell.value.size());
        if length > max {
            return Err(CheckError::ValueLength { name: cell.name.clone(), max, length });
        }
    }
    if let Some(timestamp) = cell.timestamp {
        read::check_timestamp(timestamp)?;
        if !in_window(&schema.options, timestamp, now) {
            return Err(CheckError::TimestampDeviation { name: cell.name.clone() });
        }
    }
    Ok(cell_size(&schema.options, &cell.name, &cell.value))
}

fn check_attribute_name(schema: &Schema, name: &Text) -> Result<(), CheckError> {
    check_column_name(name)?;
    match schema.key_column(name) {
        Some(_) => Err(CheckError::ColumnNamedAsKey { name: name.clone() }),
        None => Ok(()),
    }
}

/// Whether a given timestamp lies near enough to now and has not outlived the time to live. By
/// whole seconds.
fn in_window(options: &TableOptions, timestamp: Timestamp, now_millis: i64) -> bool {
    let now = now_millis.div_euclid(1000);
    let seconds = timestamp.0.div_euclid(1000);
    let mut first = now.saturating_sub(options.deviation_seconds);
    if let Some(time_to_live) = options.time_to_live_seconds {
        first = first.max(now.saturating_sub(i64::from(time_to_live)));
    }
    first <= seconds && seconds < now.saturating_add(options.deviation_seconds)
}

/// Counts columns and finds two steps on one register.
fn check_slots(mut slots: Vec<(&Text, Slot)>, doing: &'static str) -> Result<(), CheckError> {
    slots.sort_unstable();
    let mut columns = slots.len().min(1);
    for pair in slots.windows(2) {
        let [(name, slot), (next_name, next_slot)] = pair else { continue };
        match name.cmp(next_name) {
            Ordering::Equal if slot == next_slot || *next_slot == Slot::Increment => {
                return Err(CheckError::ColumnTwice { name: (*name).clone(), doing });
            }
            Ordering::Equal => {}
            Ordering::Less | Ordering::Greater => columns += 1,
        }
    }
    if columns > limits::WRITE_COLUMNS_MAX {
        let limit = limits::WRITE_COLUMNS_MAX;
        return Err(CheckError::WriteColumns { limit, count: columns });
    }
    if slots.len() > limits::WRITE_CELLS_MAX {
        return Err(CheckError::WriteCells);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
