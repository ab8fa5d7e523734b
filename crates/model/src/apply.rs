//! Applies a checked change to a row: the row after it, and the delta that the entry carries.
//!
//! Pure: the stamp, the time and what has expired are handed in. The stamp must be greater than
//! every stamp in the row. A delta sets each register at most once, all at its stamp, and merging
//! it into the row gives the row after; so applying here and merging elsewhere agree.
//!
//! Trimming to max versions is part of the delta, never a side effect of reading or merging.

use std::borrow::Cow;

use crate::capacity::key_size;
use crate::change::{CellChange, CellWrite, Condition, Existence, Returned, RowAction, ShownCell};
use crate::check::CheckedChange;
use crate::error::{Kind, Outcome};
use crate::expiry::Expiry;
use crate::filter;
use crate::hlc::Stamp;
use crate::ids::Timestamp;
use crate::key::PrimaryKey;
use crate::row::{Cell, Column, Row, Trim};
use crate::schema::Schema;
use crate::show::{self, View};
use crate::value::{Text, Value};
use crate::view::Lens;

pub use again::apply_again;

/// What a delta holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granularity {
    /// The change only: with one writer, or where columns are what conflicts.
    Change,
    /// The same, and columns have rules: what is written under one is a share.
    ByRule,
    /// The whole row as it is after the change: with several writers, where rows are what
    /// conflicts.
    WholeRow,
    /// The same, and the table has rules: under region priority the row is made of shares.
    WholeRowByRule,
}

impl Granularity {
    /// Whether what is written depends on the shares that are there.
    fn is_by_rule(self) -> bool {
        match self {
            Granularity::ByRule | Granularity::WholeRowByRule => true,
            Granularity::Change | Granularity::WholeRow => false,
        }
    }
}

/// Under what a change is applied.
#[derive(Clone, Copy, Debug)]
pub struct ApplyContext<'a> {
    /// The table.
    pub schema: &'a Schema,
    /// The change's own stamp, greater than all in the row.
    pub stamp: Stamp,
    /// The time by which expiry is judged.
    pub now_millis: i64,
    /// What the delta holds.
    pub granularity: Granularity,
    /// What the partition has logged as expired.
    pub expiry: &'a [Expiry],
}

/// What a change made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// What to merge into the row elsewhere.
    pub delta: Row,
    /// The row after it.
    pub after: Row,
    /// The new versions of the columns that the client wants to see.
    pub shown: Vec<ShownCell>,
    /// Bytes that the condition had to look at.
    pub read_bytes: u64,
}

/// Why a change of a row is refused. The texts are sentences of the public service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The row is not as the condition wants it.
    #[error("Condition check failed.")]
    ConditionFailed,
    /// The newest version is of another type.
    #[error("Increment of a column that is not INTEGER: '{name}'.")]
    IncrementOfNonInteger {
        /// Column.
        name: Text,
    },
    /// The sum does not fit 64 bits.
    #[error("Increment overflows the column: '{name}'.")]
    IncrementOverflow {
        /// Column.
        name: Text,
    },
    /// What is put is no number.
    #[error("The column is a counter and holds INTEGER only: '{name}'.")]
    CounterOfNonInteger {
        /// Column.
        name: Text,
    },
    /// What is put is no set.
    #[error("The column is a set and holds STRING that is a JSON array only: '{name}'.")]
    NoSet {
        /// Column.
        name: Text,
    },
    /// The table does not allow UpdateRow.
    #[error("UpdateRow is not allowed on this table.")]
    UpdateNotAllowed,
}

impl Refusal {
    /// What kind of failure.
    pub fn kind(&self) -> Kind {
        match self {
            Refusal::ConditionFailed => Kind::ConditionFailed,
            Refusal::IncrementOfNonInteger { .. }
            | Refusal::IncrementOverflow { .. }
            | Refusal::CounterOfNonInteger { .. }
            | Refusal::NoSet { .. }
            | Refusal::UpdateNotAllowed => Kind::Invalid,
        }
    }

    /// Nothing took effect.
    pub fn outcome(&self) -> Outcome {
        Outcome::NotApplied
    }
}

/// Whether `apply` must be given the row as it is. Otherwise it may be given `None`, which then
/// means "not looked at".
///
/// A put or delete without a condition replaces all that has a lesser stamp, whatever it is. An
/// update always needs the row: to trim versions, and to give the row after it. Where columns have
/// rules every change does: it replaces the shares that it sees, and no others.
pub fn needs_row(change: &CheckedChange, granularity: Granularity) -> bool {
    let Condition { existence, columns } = &change.condition;
    match change.action {
        RowAction::Put(_) | RowAction::Delete => {
            *existence != Existence::Ignore || columns.is_some() || granularity.is_by_rule()
        }
        RowAction::Update(_) => true,
    }
}

/// Applies a change to a row; `None`: the row is not there, or need not be known.
pub fn apply(
    context: &ApplyContext<'_>,
    row: Option<&Row>,
    key: &PrimaryKey,
    change: &CheckedChange,
) -> Result<Applied, Refusal> {
    debug_assert!(
        row.and_then(Row::stamp_max).is_none_or(|known| known < context.stamp),
        "the clock gives a change a greater stamp than all that it knows of"
    );
    let view = View::new(&context.schema.options, context.now_millis, context.expiry);
    let chosen = row.map(|row| view.chosen(row));
    let chosen = chosen.as_deref();
    let read_bytes = judge(context, &view, chosen, key, &change.condition)?;
    let (delta, after) = match &change.action {
        RowAction::Update(_) if !context.schema.options.allow_update => {
            return Err(Refusal::UpdateNotAllowed);
        }
        action if context.granularity == Granularity::ByRule => {
            by_rule::change(context, &view, row, action)?
        }
        action if context.granularity == Granularity::WholeRowByRule => {
            let image = match action {
                RowAction::Put(cells) => put_delta(context, cells),
                RowAction::Update(changes) => update(context, &view, chosen, changes)?.0,
                RowAction::Delete => deletion(context),
            };
            by_rule::replace_row(context, &view, row, image)
        }
        RowAction::Put(cells) => replaced(put_delta(context, cells)),
        RowAction::Update(changes) => update(context, &view, row, changes)?,
        RowAction::Delete => replaced(deletion(context)),
    };
    let shown = match &change.returned {
        Returned::AfterModify(names) => shown_after(&view, &after, names, &change.action),
        Returned::Nothing | Returned::Key => Vec::new(),
    };
    Ok(Applied { delta, after, shown, read_bytes })
}

/// The row tombstone in such a delta kills all that was there.
fn replaced(delta: Row) -> (Row, Row) {
    let after = delta.clone();
    (delta, after)
}

fn deletion(context: &ApplyContext<'_>) -> Row {
    Row { tombstone: Some(context.stamp), ..Row::default() }
}

/// Judges a condition; gives the bytes that it had to look at.
fn judge(
    context: &ApplyContext<'_>,
    view: &View,
    row: Option<&Row>,
    key: &PrimaryKey,
    condition: &Condition,
) -> Result<u64, Refusal> {
    if condition.existence == Existence::Ignore && condition.columns.is_none() {
        return Ok(0);
    }
    let exists = row.is_some_and(|row| view.exists(row));
    match condition.existence {
        Existence::MustExist if !exists => return Err(Refusal::ConditionFailed),
        Existence::MustNotExist if exists => return Err(Refusal::ConditionFailed),
        Existence::Ignore | Existence::MustExist | Existence::MustNotExist => {}
    }
    let key_bytes = key_size(context.schema, key) as u64;
    let Some(filter) = &condition.columns else { return Ok(key_bytes) };
    let lens = Lens { row, key, schema: context.schema, view, projection: None };
    if !filter::passes(filter, &lens) {
        return Err(Refusal::ConditionFailed);
    }
    let data_bytes = row.map_or(0, |row| show::data_size(row, context.schema, view));
    Ok(key_bytes + data_bytes as u64)
}

/// A put replaces the row, so what exceeds max versions need not be written and trimmed.
fn put_delta(context: &ApplyContext<'_>, cells: &[CellWrite]) -> Row {
    let stamp = context.stamp;
    let mut columns: Vec<Column> = Vec::with_capacity(cells.len());
    let mut sorted: Vec<&CellWrite> = cells.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    for write in sorted {
        if columns.last().is_none_or(|column| column.name != write.name) {
            columns.push(Column::new(write.name.clone()));
        }
        if let Some(column) = columns.last_mut() {
            column.set(written(stamp, write));
        }
    }
    for column in &mut columns {
        column.cells.truncate(versions_kept(context, &column.name));
    }
    Row { tombstone: Some(stamp), marker: Some(stamp), columns }
}

/// How many versions of a column the table keeps.
fn versions_kept(context: &ApplyContext<'_>, column: &Text) -> usize {
    let options = &context.schema.options;
    options.max_versions_of(options.families.of(column)) as usize
}

/// A cell without a timestamp takes its stamp's; no second clock is read.
fn written(stamp: Stamp, write: &CellWrite) -> Cell {
    let timestamp = write.timestamp.unwrap_or(stamp.hlc.timestamp());
    Cell { timestamp, stamp, value: Some(write.value.clone()) }
}

fn update(
    context: &ApplyContext<'_>,
    view: &View,
    row: Option<&Row>,
    changes: &[CellChange],
) -> Result<(Row, Row), Refusal> {
    let delta = update_delta(context, view, row, changes)?;
    let (delta, after) = taken_in(context, row, delta);
    Ok(match context.granularity {
        Granularity::Change | Granularity::ByRule => (delta, after),
        Granularity::WholeRow | Granularity::WholeRowByRule => {
            replaced(image(context.stamp, view, &after))
        }
    })
}

/// Trims what a delta writes, and gives the row after it.
fn taken_in(context: &ApplyContext<'_>, row: Option<&Row>, mut delta: Row) -> (Row, Row) {
    let mut after = row.cloned().unwrap_or_default();
    after.merge(&delta);
    trim(context, &mut delta, &mut after);
    for expiry in context.expiry {
        after.expire(&expiry.of_whole_buckets(), &context.schema.options.families);
    }
    (delta, after)
}

fn update_delta(
    context: &ApplyContext<'_>,
    view: &View,
    row: Option<&Row>,
    changes: &[CellChange],
) -> Result<Row, Refusal> {
    let stamp = context.stamp;
    let mut delta = Row::default();
    for change in changes {
        match change {
            CellChange::Put(write) => {
                delta.marker = Some(stamp);
                delta.column_mut(&write.name).set(written(stamp, write));
            }
            CellChange::DeleteVersion { name, timestamp } => {
                let cell = Cell { timestamp: *timestamp, stamp, value: None };
                delta.column_mut(name).set(cell);
            }
            CellChange::DeleteColumn { name } => {
                delta.column_mut(name).tombstone = Some(stamp);
            }
            CellChange::Increment { name, delta: by } => {
                delta.marker = Some(stamp);
                let cell = incremented(stamp, view, row, name, *by)?;
                delta.column_mut(name).set(cell);
            }
        }
    }
    Ok(delta)
}

/// The result is the newest version, also where an older one has a timestamp in the future.
fn incremented(
    stamp: Stamp,
    view: &View,
    row: Option<&Row>,
    name: &Text,
    by: i64,
) -> Result<Cell, Refusal> {
    let column = row.and_then(|row| row.column(name.as_bytes()));
    let newest = column.and_then(|column| view.versions(column).next());
    let before = match newest.as_ref().and_then(|cell| cell.value.as_ref()) {
        None => 0,
        Some(Value::Integer(number)) => *number,
        Some(Value::Double(_) | Value::Boolean(_) | Value::String(_) | Value::Binary(_)) => {
            return Err(Refusal::IncrementOfNonInteger { name: name.clone() });
        }
    };
    let Some(sum) = before.checked_add(by) else {
        return Err(Refusal::IncrementOverflow { name: name.clone() });
    };
    let own = stamp.hlc.timestamp();
    let timestamp = newest.map_or(own, |cell| cell.timestamp.max(own));
    Ok(Cell { timestamp, stamp, value: Some(Value::Integer(sum)) })
}

/// Adds to the delta, and does to the row after it, the trims of the columns that it touches.
fn trim(context: &ApplyContext<'_>, delta: &mut Row, after: &mut Row) {
    for touched in &mut delta.columns {
        let versions = versions_kept(context, &touched.name);
        let Some(below) = oldest_kept(after, &touched.name, versions) else { continue };
        let trim = Trim { below, stamp: context.stamp };
        touched.trim(trim);
        after.column_mut(&touched.name).trim(trim);
    }
}

/// The oldest version to keep, if there are more than that.
fn oldest_kept(after: &Row, name: &Text, versions: usize) -> Option<Timestamp> {
    let column = after.column(name.as_bytes())?;
    let mut live = column.cells.iter().filter(|cell| cell.value.is_some());
    let oldest = live.nth(versions.checked_sub(1)?)?;
    live.next().map(|_| oldest.timestamp)
}

/// The whole row, made anew at the stamp. Versions keep their timestamps.
fn image(stamp: Stamp, view: &View, after: &Row) -> Row {
    let restamped = |column: &Column| {
        let mut anew = Column::new(column.name.clone());
        let versions = view.versions(column).map(Cow::into_owned);
        anew.cells.extend(versions.map(|cell| Cell { stamp, ..cell }));
        anew
    };
    Row {
        tombstone: Some(stamp),
        marker: after.marker.filter(|marker| view.marker_lives(*marker)).map(|_| stamp),
        columns: after
            .columns
            .iter()
            .map(restamped)
            .filter(|column| !column.cells.is_empty())
            .collect(),
    }
}

/// The newest version of each column that the client names and the change has written.
fn shown_after(view: &View, after: &Row, names: &[Text], action: &RowAction) -> Vec<ShownCell> {
    let writes = |name: &Text| match action {
        RowAction::Put(cells) => cells.iter().any(|cell| cell.name == *name),
        RowAction::Update(changes) => changes.iter().any(|change| match change {
            CellChange::Put(cell) => cell.name == *name,
            CellChange::Increment { name: other, .. } => other == name,
            CellChange::DeleteVersion { .. } | CellChange::DeleteColumn { .. } => false,
        }),
        RowAction::Delete => false,
    };
    let after = &*view.chosen(after);
    let newest = |name: &Text| {
        let cell = view.versions(after.column(name.as_bytes())?).next()?;
        let value = cell.value.clone()?;
        Some(ShownCell { name: name.clone(), value, timestamp: cell.timestamp })
    };
    let mut named: Vec<&Text> = names.iter().filter(|name| writes(name)).collect();
    named.sort_unstable();
    named.dedup();
    named.into_iter().filter_map(newest).collect()
}

mod again;
mod by_rule;

#[cfg(test)]
mod tests;
