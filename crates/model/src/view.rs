//! What of a row lives at a moment: not deleted, not expired, within the versions of the table.
//!
//! Expiry is judged by the clock that is handed in, and by what the partition has logged as
//! expired: a longer time to live does not bring back what had expired. Both are a column's, by its
//! family. Where whole rows conflict by a rule, one write is shown of those that had not seen each
//! other, as a whole.

use std::borrow::Cow;

use crate::change::Projection;
use crate::expiry::{Expiry, farthest};
use crate::family::{Families, FamilyNumber};
use crate::filter::FilterCells;
use crate::hlc::Stamp;
use crate::ids::Timestamp;
use crate::key::{KeyValue, PrimaryKey};
use crate::row::{Cell, Column, Row, Trim};
use crate::schema::{Schema, TableOptions};
use crate::share::{Share, rivalry};
use crate::value::{Text, Value};

/// Under which rules a row is looked at. Made once per request, used for every row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Of columns that no family takes, and of markers.
    plain: Limits,
    families: Families,
    /// Of each family.
    of_families: Vec<Limits>,
}

/// What of one column lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Versions below it have outlived the time to live.
    pub alive_from: Timestamp,
    /// Versions that the table shows, at least 1.
    pub max_versions: u32,
    /// What the partition has logged as expired.
    pub expiry: Option<Trim>,
}

impl View {
    /// The rules of a table at a moment.
    pub fn new(options: &TableOptions, now_millis: i64, expiry: &[Expiry]) -> View {
        let limits = |number: FamilyNumber| Limits {
            alive_from: Timestamp(match options.time_to_live_of(number) {
                Some(seconds) => now_millis.saturating_sub(i64::from(seconds) * 1000),
                None => i64::MIN,
            }),
            max_versions: options.max_versions_of(number),
            expiry: farthest(expiry, number),
        };
        View {
            plain: limits(FamilyNumber::NONE),
            families: options.families.clone(),
            of_families: options.families.numbers().skip(1).map(limits).collect(),
        }
    }

    /// What of a column of that name lives.
    pub fn of(&self, column: &Text) -> &Limits {
        let number = usize::from(self.families.of(column).0);
        let own = number.checked_sub(1).and_then(|place| self.of_families.get(place));
        own.unwrap_or(&self.plain)
    }

    /// The live versions of a column, newest first, as many as the table keeps. A column with
    /// shares shows one, which its rule makes of them.
    pub fn versions<'a>(
        &self,
        column: &'a Column,
    ) -> impl Iterator<Item = Cow<'a, Cell>> + use<'a> {
        let limits = *self.of(&column.name);
        let plain = column.cells.iter().filter(move |cell| limits.lives(cell));
        let shares = column.shares.as_deref();
        let face =
            shares.and_then(|shares| shares.face(plain.clone(), |share| limits.share_lives(share)));
        let plain_max = if face.is_some() { 0 } else { limits.max_versions as usize };
        face.map(Cow::Owned).into_iter().chain(plain.take(plain_max).map(Cow::Borrowed))
    }

    /// The row as it is shown, where whole rows conflict by a rule and there is something to decide
    /// between: the plain cells, or those of the one write whose region has the highest priority,
    /// whichever side has the latest. Any other row is as it is.
    pub fn chosen<'a>(&self, row: &'a Row) -> Cow<'a, Row> {
        if row.columns.iter().all(|column| column.shares.is_none()) {
            return Cow::Borrowed(row);
        }
        let shares = |column: &'a Column| {
            let limits = *self.of(&column.name);
            let rivals = column.shares().iter().filter(|share| !share.is_counter());
            rivals.filter(move |share| limits.share_lives(share))
        };
        let rivals = || row.columns.iter().flat_map(shares);
        let latest = rivals().max_by_key(|share| share.stamp);
        let Some(latest) = latest.filter(|latest| latest.is_of_row()) else {
            return Cow::Borrowed(row);
        };
        let of_rows = rivals().filter(|share| share.is_of_row());
        let best = of_rows.max_by(|a, b| rivalry(a, b)).unwrap_or(latest);
        let plain_lives = |column: &Column| {
            let limits = self.of(&column.name);
            let living = column.cells.iter().filter(|cell| limits.lives(cell));
            living.map(|cell| cell.stamp).max()
        };
        let is_plain = row.columns.iter().filter_map(plain_lives).max() > Some(latest.stamp);
        let shown = |column: &'a Column| {
            let mut shown = Column::new(column.name.clone());
            if is_plain {
                shown.cells.clone_from(&column.cells);
            } else if let Some(share) = shares(column).find(|share| share.stamp == best.stamp) {
                shown.set(share.as_cell());
            }
            shown
        };
        let columns = row.columns.iter().map(shown).filter(|column| !column.is_bare()).collect();
        // A tombstone of a write that had not seen it would kill it when it is merged as it is.
        Cow::Owned(Row { tombstone: None, marker: row.marker, columns })
    }

    /// Whether a row exists: its marker or a cell lives.
    pub fn exists(&self, row: &Row) -> bool {
        let column_lives = |column: &Column| {
            let limits = self.of(&column.name);
            column.cells.iter().any(|cell| limits.lives(cell))
                || column.shares().iter().any(|share| limits.share_lives(share))
        };
        let row = self.chosen(row);
        row.marker.is_some_and(|marker| self.marker_lives(marker))
            || row.columns.iter().any(column_lives)
    }

    /// Whether no version is too old to be shown.
    pub fn shows_all_ages(&self) -> bool {
        let shows_all =
            |limits: &Limits| limits.alive_from == Timestamp(i64::MIN) && limits.expiry.is_none();
        shows_all(&self.plain) && self.of_families.iter().all(shows_all)
    }

    /// The marker is a cell of no family whose timestamp is its moment.
    pub(crate) fn marker_lives(&self, marker: Stamp) -> bool {
        let timestamp = marker.hlc.timestamp();
        let expired = |expiry: Trim| timestamp < expiry.below && marker <= expiry.stamp;
        timestamp >= self.plain.alive_from && !self.plain.expiry.is_some_and(expired)
    }
}

impl Limits {
    pub(crate) fn lives(&self, cell: &Cell) -> bool {
        cell.value.is_some()
            && cell.timestamp >= self.alive_from
            && !self.expiry.is_some_and(|expiry| expiry.kills(cell))
    }

    /// A share counts as a cell whose timestamp is its moment.
    pub(crate) fn share_lives(&self, share: &Share) -> bool {
        share.stamp.hlc.timestamp() >= self.alive_from
            && !self.expiry.is_some_and(|expiry| share.is_expired(&expiry))
    }
}

/// A row under a view and, in reads, a projection: what a filter can see.
pub(crate) struct Lens<'a> {
    pub(crate) row: Option<&'a Row>,
    pub(crate) key: &'a PrimaryKey,
    pub(crate) schema: &'a Schema,
    pub(crate) view: &'a View,
    pub(crate) projection: Option<&'a Projection>,
}

impl FilterCells for Lens<'_> {
    fn visit(&self, name: &Text, stop: &mut dyn FnMut(&Value) -> bool) -> bool {
        if let Some(place) = self.schema.key_column(name) {
            return match self.key.0.get(place) {
                Some(value) => {
                    stop(&as_value(value));
                    true
                }
                None => false,
            };
        }
        if self.projection.is_some_and(|projection| !selects(projection, name)) {
            return false;
        }
        let Some(column) = self.row.and_then(|row| row.column(name.as_bytes())) else {
            return false;
        };
        let mut found = false;
        for cell in versions(self.view, self.projection, column) {
            found = true;
            if cell.value.as_ref().is_some_and(&mut *stop) {
                break;
            }
        }
        found
    }
}

/// The versions of a column that a projection leaves, newest first.
pub(crate) fn versions<'a>(
    view: &View,
    projection: Option<&Projection>,
    column: &'a Column,
) -> impl Iterator<Item = Cow<'a, Cell>> + use<'a> {
    let range = projection.and_then(|projection| projection.time_range);
    let bound = projection.and_then(|projection| projection.max_versions).unwrap_or(u32::MAX);
    view.versions(column).filter(move |cell| in_range(range, cell.timestamp)).take(bound as usize)
}

pub(crate) fn in_range(range: Option<(Timestamp, Timestamp)>, timestamp: Timestamp) -> bool {
    range.is_none_or(|(start, end)| start <= timestamp && timestamp < end)
}

/// Whether a projection leaves an attribute column of that name.
fn selects(projection: &Projection, name: &Text) -> bool {
    (projection.columns.is_empty() || projection.columns.contains(name))
        && projection.start_column.as_ref().is_none_or(|start| name >= start)
        && projection.end_column.as_ref().is_none_or(|end| name < end)
}

fn as_value(value: &KeyValue) -> Value {
    match value {
        KeyValue::Integer(number) => Value::Integer(*number),
        KeyValue::String(text) => Value::String(text.clone()),
        KeyValue::Binary(bytes) => Value::Binary(bytes.clone()),
    }
}
