//! A row as registers, and how two states of it merge.
//!
//! Each register is ordered by its stamp (HLC, origin) and merging keeps the greater. A kill (row
//! tombstone, column tombstone, trim) removes the registers that it covers for ever, so that
//! `merge` is commutative, associative and idempotent: what is removed early by one region would
//! be removed late by another. A change is a row of its own (what it sets and kills); making it is
//! `apply`'s work, taking it in is `merge`.
//!
//! Trims of one column are kept as the set of those that no other trim covers: with "the latest
//! trim wins" an older trim with a higher bound would be forgotten, and a late cell under it
//! would live in one region only. Columns with a rule hold shares beside (`share.rs`).

use crate::hlc::{Hlc, Stamp};
use crate::ids::Timestamp;
use crate::share::{Share, Shares};
use crate::value::{Text, Value};

/// All that a region knows of one row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// Kills every register with a stamp strictly less.
    pub tombstone: Option<Stamp>,
    /// The row was put, or an update wrote a cell: it exists while this or a cell lives.
    pub marker: Option<Stamp>,
    /// Columns, by name.
    pub columns: Vec<Column>,
}

/// All that a region knows of one column of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Name.
    pub name: Text,
    /// Kills every cell of the column with a stamp strictly less.
    pub tombstone: Option<Stamp>,
    /// None covers another; by falling bound.
    pub trims: Vec<Trim>,
    /// Versions, newest first, one per timestamp.
    pub cells: Vec<Cell>,
    /// What was written under a rule of its own; never bare.
    pub shares: Option<Box<Shares>>,
}

/// Kills the versions with a timestamp below its bound and a stamp at or below its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trim {
    /// Bound, exclusive.
    pub below: Timestamp,
    /// When it was made.
    pub stamp: Stamp,
}

/// One version of a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// The version's name.
    pub timestamp: Timestamp,
    /// When it was written.
    pub stamp: Stamp,
    /// `None`: this version was deleted.
    pub value: Option<Value>,
}

/// Cells expire from the disk, and from digests, in buckets of this many milliseconds of their
/// timestamps: four hours. Reads go by the clock.
pub const EXPIRY_BUCKET_MILLIS: i64 = 4 * 3600 * 1000;

/// The bucket that a timestamp lies in.
pub fn expiry_bucket(timestamp: Timestamp) -> i64 {
    timestamp.0.div_euclid(EXPIRY_BUCKET_MILLIS)
}

impl Trim {
    /// The same, for whole buckets of timestamps only: what may go from the disk. Rows that are
    /// rewritten before and after an expiry then hold the same cells in every bucket that counts.
    pub fn of_whole_buckets(self) -> Trim {
        let below = Timestamp(expiry_bucket(self.below) * EXPIRY_BUCKET_MILLIS);
        Trim { below, ..self }
    }

    /// Whether a cell is killed.
    pub fn kills(&self, cell: &Cell) -> bool {
        cell.timestamp < self.below && cell.stamp <= self.stamp
    }

    pub(crate) fn covers(&self, other: &Trim) -> bool {
        self.below >= other.below && self.stamp >= other.stamp
    }
}

/// Adds a trim to a set in which none covers another.
pub fn add_trim(trims: &mut Vec<Trim>, trim: Trim) {
    if trims.iter().any(|known| known.covers(&trim)) {
        return;
    }
    trims.retain(|known| !trim.covers(known));
    let place = trims.partition_point(|known| known.below > trim.below);
    trims.insert(place, trim);
}

impl Column {
    /// A column of which nothing is known.
    pub fn new(name: Text) -> Column {
        Column { name, tombstone: None, trims: Vec::new(), cells: Vec::new(), shares: None }
    }

    /// Whether nothing at all is known of it.
    pub fn is_bare(&self) -> bool {
        self.tombstone.is_none()
            && self.trims.is_empty()
            && self.cells.is_empty()
            && self.shares.is_none()
    }

    /// Its shares, to add to.
    pub fn shares_mut(&mut self) -> &mut Shares {
        self.shares.get_or_insert_default()
    }

    /// Its living shares.
    pub fn shares(&self) -> &[Share] {
        self.shares.as_deref().map_or(&[], |shares| &shares.list)
    }

    /// Changes the shares, if there are any.
    pub fn change_shares(&mut self, change: impl FnOnce(&mut Shares)) {
        if let Some(shares) = &mut self.shares {
            change(shares);
            if shares.is_bare() {
                self.shares = None;
            }
        }
    }

    /// Sets a version, unless a greater stamp has set it.
    pub fn set(&mut self, cell: Cell) {
        let place = self.cells.partition_point(|known| known.timestamp > cell.timestamp);
        match self.cells.get_mut(place) {
            Some(known) if known.timestamp == cell.timestamp => {
                if known.stamp < cell.stamp {
                    *known = cell;
                }
            }
            _ => {
                // Most columns have one version; the usual growth would take room for four.
                if self.cells.is_empty() {
                    self.cells.reserve_exact(1);
                }
                self.cells.insert(place, cell);
            }
        }
    }

    /// Trims it; what the trim covers goes. The trim must not be older than the tombstones.
    pub(crate) fn trim(&mut self, trim: Trim) {
        add_trim(&mut self.trims, trim);
        self.cells.retain(|cell| !trim.kills(cell));
    }

    fn merge(&mut self, other: &Column) {
        self.tombstone = self.tombstone.max(other.tombstone);
        for trim in &other.trims {
            add_trim(&mut self.trims, *trim);
        }
        for cell in &other.cells {
            self.set(cell.clone());
        }
        if let Some(shares) = &other.shares {
            self.shares_mut().merge(shares);
        }
    }

    /// Removes what the kills cover.
    fn settle(&mut self, row_tombstone: Option<Stamp>) {
        if let Some(stamp) = row_tombstone {
            self.trims.retain(|trim| trim.stamp >= stamp);
            // At equal stamps the row's tombstone kills the same cells and more.
            if self.tombstone.is_some_and(|own| own <= stamp) {
                self.tombstone = None;
            }
        }
        let floor = self.tombstone.max(row_tombstone);
        self.change_shares(|shares| shares.settle(floor));
        let trims = &self.trims;
        self.cells.retain(|cell| {
            floor.is_none_or(|stamp| cell.stamp >= stamp)
                && !trims.iter().any(|trim| trim.kills(cell))
        });
        if let Some(stamp) = self.tombstone {
            self.trims.retain(|trim| trim.stamp >= stamp);
        }
    }
}

impl Row {
    /// Whether nothing at all is known: such a row need not be kept.
    pub fn is_bare(&self) -> bool {
        self.tombstone.is_none() && self.marker.is_none() && self.columns.is_empty()
    }

    /// The column of that name.
    pub fn column(&self, name: &[u8]) -> Option<&Column> {
        let place =
            self.columns.binary_search_by(|column| column.name.as_bytes().cmp(name)).ok()?;
        self.columns.get(place)
    }

    /// The column of that name, made if it is not there.
    pub fn column_mut(&mut self, name: &Text) -> &mut Column {
        let place = match self.columns.binary_search_by(|column| column.name.cmp(name)) {
            Ok(place) => place,
            Err(place) => {
                self.columns.insert(place, Column::new(name.clone()));
                place
            }
        };
        &mut self.columns[place]
    }

    /// Takes in another state or change of the same row.
    ///
    /// Commutative, associative and idempotent.
    pub fn merge(&mut self, other: &Row) {
        self.tombstone = self.tombstone.max(other.tombstone);
        self.marker = self.marker.max(other.marker);
        for column in &other.columns {
            self.column_mut(&column.name).merge(column);
        }
        self.settle();
    }

    /// Removes what the kills cover.
    fn settle(&mut self) {
        let tombstone = self.tombstone;
        if let Some(stamp) = tombstone
            && self.marker.is_some_and(|marker| marker < stamp)
        {
            self.marker = None;
        }
        for column in &mut self.columns {
            column.settle(tombstone);
        }
        self.columns.retain(|column| !column.is_bare());
    }

    /// Forgets tombstones, deleted versions and trims below the horizon: nothing older than them
    /// can come any more.
    pub fn purge(&mut self, horizon: Hlc) {
        self.forget(&|stamp| stamp.hlc < horizon);
    }

    /// Forgets the kills that are old.
    pub(crate) fn forget(&mut self, old: &dyn Fn(Stamp) -> bool) {
        self.tombstone = self.tombstone.filter(|stamp| !old(*stamp));
        for column in &mut self.columns {
            column.tombstone = column.tombstone.filter(|stamp| !old(*stamp));
            column.trims.retain(|trim| !old(trim.stamp));
            column.cells.retain(|cell| cell.value.is_some() || !old(cell.stamp));
            column.change_shares(|shares| shares.forget(old));
        }
        self.columns.retain(|column| !column.is_bare());
    }

    /// The moment of the newest of the kills that it still remembers; `None`: there are none.
    pub fn newest_kill(&self) -> Option<Hlc> {
        let of_column = |column: &Column| {
            let trims = column.trims.iter().map(|trim| trim.stamp);
            let deleted = column.cells.iter().filter(|cell| cell.value.is_none());
            let stamps = trims.chain(deleted.map(|cell| cell.stamp)).chain(column.tombstone).max();
            let shares = column.shares.as_ref().and_then(|shares| shares.newest_kill());
            stamps.map(|stamp| stamp.hlc).max(shares)
        };
        let of_row = self.tombstone.map(|stamp| stamp.hlc);
        self.columns.iter().filter_map(of_column).max().max(of_row)
    }

    /// The greatest stamp in it.
    pub fn stamp_max(&self) -> Option<Stamp> {
        let of_column = |column: &Column| {
            let trims = column.trims.iter().map(|trim| trim.stamp).max();
            let cells = column.cells.iter().map(|cell| cell.stamp).max();
            let shares = column.shares.as_ref().and_then(|shares| shares.stamp_max());
            column.tombstone.max(trims).max(cells).max(shares)
        };
        self.columns.iter().filter_map(of_column).max().max(self.tombstone).max(self.marker)
    }
}
