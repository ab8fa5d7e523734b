//! What a read shows of a row.
//!
//! Order of the rules: live versions, as many as the table keeps; the projection (columns, time
//! range, versions asked for); the filter, on what that leaves; column paging; the page of a wide
//! row. A row is shown while it exists, but a read that names columns, a range of columns or a time
//! range shows only rows that have something there, unless it names a key column.

use crate::capacity::{key_size, version_size};
use crate::change::{Projection, RowResume, ShownCell, ShownRow};
use crate::filter;
use crate::key::PrimaryKey;
use crate::limits;
use crate::row::{Cell, Column, Row};
use crate::schema::Schema;
use crate::value::Text;
use crate::view::{self, Lens};

pub use crate::view::View;

/// What a read shows of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The row, or the part of it that fits a page.
    pub row: ShownRow,
    /// Where to go on if it did not fit.
    pub resume: Option<RowResume>,
    /// Size of the key and of the cells shown.
    pub read_bytes: u64,
}

/// What looking at one row found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// What to show, if anything.
    pub shown: Option<Shown>,
    /// What was read, also where a filter hides the row. 0 where there is no row.
    pub read_bytes: u64,
}

/// Whether a row exists.
pub fn exists(row: &Row, view: &View) -> bool {
    view.exists(row)
}

/// What a read shows of a row; `None`: no row.
pub fn show(
    row: &Row,
    key: PrimaryKey,
    schema: &Schema,
    view: &View,
    projection: &Projection,
) -> Option<Shown> {
    look(row, key, schema, view, projection).shown
}

/// As `show`, but tells what was read also where nothing is shown.
pub fn look(
    row: &Row,
    key: PrimaryKey,
    schema: &Schema,
    view: &View,
    projection: &Projection,
) -> Look {
    let row = &*view.chosen(row);
    if !view.exists(row) {
        return Look::default();
    }
    let key_bytes = key_size(schema, &key);
    if let Some(filter) = &projection.filter {
        let lens = Lens { row: Some(row), key: &key, schema, view, projection: Some(projection) };
        if !filter::passes(filter, &lens) {
            let mut sum = Sum { bytes: key_bytes, version_bytes: version_size(&schema.options) };
            walk(row, view, projection, &mut sum);
            return Look { shown: None, read_bytes: sum.bytes as u64 };
        }
    }
    let mut page = Page::new(row, key_bytes, schema, projection);
    let found = walk(row, view, projection, &mut page);
    let read_bytes = page.bytes as u64;
    if !found && !shown_without_cells(row, schema, view, projection) {
        return Look { shown: None, read_bytes };
    }
    let row = ShownRow { key, cells: page.cells };
    Look { shown: Some(Shown { row, resume: page.resume, read_bytes }), read_bytes }
}

/// The size of all that a chosen row shows, without its key.
pub(crate) fn data_size(row: &Row, schema: &Schema, view: &View) -> usize {
    let mut sum = Sum { bytes: 0, version_bytes: version_size(&schema.options) };
    walk(row, view, &Projection::default(), &mut sum);
    sum.bytes
}

/// Whether an existing row is shown of which the projection leaves no cell.
fn shown_without_cells(row: &Row, schema: &Schema, view: &View, projection: &Projection) -> bool {
    let Projection { columns, start_column, end_column, time_range, .. } = projection;
    if columns.iter().any(|name| schema.key_column(name).is_some()) {
        return true;
    }
    if !columns.is_empty() || start_column.is_some() || end_column.is_some() {
        return false;
    }
    let in_range = |marker: crate::hlc::Stamp| {
        view.marker_lives(marker) && view::in_range(*time_range, marker.hlc.timestamp())
    };
    time_range.is_none() || row.marker.is_some_and(in_range)
}

/// Takes the cells of a row in the order in which they are shown.
trait Taker {
    /// A column that has a version. False: take none of it.
    fn column(&mut self, column: &Column) -> bool;
    /// A version of the column. False: stop.
    fn cell(&mut self, column: &Column, cell: &Cell) -> bool;
}

/// Hands over all that the projection leaves. Tells whether there is anything.
fn walk(row: &Row, view: &View, projection: &Projection, taker: &mut impl Taker) -> bool {
    let columns = column_range(row, projection);
    if projection.columns.is_empty() {
        return walk_columns(columns.iter(), view, projection, taker);
    }
    // Few are asked for of many, so they are looked up; they are shown in the row's order.
    let find = |name: &Text| {
        let place = columns.binary_search_by(|column| column.name.cmp(name)).ok()?;
        columns.get(place)
    };
    let mut named: Vec<&Column> = projection.columns.iter().filter_map(find).collect();
    named.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    named.dedup_by(|a, b| a.name == b.name);
    walk_columns(named.into_iter(), view, projection, taker)
}

fn walk_columns<'a>(
    columns: impl Iterator<Item = &'a Column>,
    view: &View,
    projection: &Projection,
    taker: &mut impl Taker,
) -> bool {
    let mut found = false;
    for column in columns {
        let mut cells = view::versions(view, Some(projection), column).peekable();
        if cells.peek().is_none() {
            continue;
        }
        found = true;
        if taker.column(column) && !cells.all(|cell| taker.cell(column, &cell)) {
            return true;
        }
    }
    found
}

fn column_range<'a>(row: &'a Row, projection: &Projection) -> &'a [Column] {
    let columns = &row.columns[..];
    let place = |name: &Text| columns.partition_point(|column| column.name < *name);
    let start = projection.start_column.as_ref().map_or(0, place);
    let end = projection.end_column.as_ref().map_or(columns.len(), place);
    columns.get(start..end).unwrap_or_default()
}

/// Only counts.
struct Sum {
    bytes: usize,
    version_bytes: usize,
}

impl Taker for Sum {
    fn column(&mut self, _column: &Column) -> bool {
        true
    }

    fn cell(&mut self, column: &Column, cell: &Cell) -> bool {
        let value_bytes = cell.value.as_ref().map_or(0, |value| value.size());
        self.bytes += column.name.len() + value_bytes + self.version_bytes;
        true
    }
}

/// Collects what one page shows.
struct Page<'a> {
    cells: Vec<ShownCell>,
    bytes: usize,
    version_bytes: usize,
    resume_at: Option<&'a RowResume>,
    resume: Option<RowResume>,
    skip: u32,
    left: u32,
}

impl<'a> Page<'a> {
    fn new(row: &Row, key_bytes: usize, schema: &Schema, projection: &'a Projection) -> Page<'a> {
        let (skip, left) =
            projection.filter.as_ref().and_then(filter::page).unwrap_or((0, u32::MAX));
        let columns = match projection.columns.len() {
            0 => row.columns.len(),
            named => named.min(row.columns.len()),
        };
        Page {
            cells: Vec::with_capacity(columns.min(left as usize)),
            bytes: key_bytes,
            version_bytes: version_size(&schema.options),
            resume_at: projection.resume.as_ref(),
            resume: None,
            skip,
            left,
        }
    }
}

impl Taker for Page<'_> {
    fn column(&mut self, column: &Column) -> bool {
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        self.resume_at.is_none_or(|resume| column.name >= resume.column)
    }

    fn cell(&mut self, column: &Column, cell: &Cell) -> bool {
        let Some(value) = &cell.value else { return true };
        let shown_before = |resume: &RowResume| {
            column.name == resume.column
                && resume.below.is_some_and(|below| cell.timestamp >= below)
        };
        if self.resume_at.is_some_and(shown_before) {
            return true;
        }
        let bytes = column.name.len() + value.size() + self.version_bytes;
        // A page has at least one cell, so that reading gets on.
        if self.bytes + bytes > limits::PAGE_BYTES_MAX && !self.cells.is_empty() {
            let last = self.cells.last().filter(|last| last.name == column.name);
            let below = last.map(|last| last.timestamp);
            self.resume = Some(RowResume { column: column.name.clone(), below });
            return false;
        }
        self.bytes += bytes;
        self.cells.push(ShownCell {
            name: column.name.clone(),
            value: value.clone(),
            timestamp: cell.timestamp,
        });
        true
    }
}

#[cfg(test)]
mod tests;
