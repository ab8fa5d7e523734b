//! Where two states of one row differ, register by register.
//!
//! With one writer two states at one place of its log must be alike: [`plain`] names what is not.
//! With several writers two regions rarely stand at the same place, so [`lagging`] asks of each
//! side whether it lacks what its vector says it has had: only that is a difference, everything
//! else is on its way. It names no register that is only late, and each that was lost, changed or
//! made up and that nothing newer has replaced.
//!
//! Kills that a side may have forgotten (below its horizon) are not compared. Where the other
//! side does not yet hold everything below that horizon, such a forgotten kill could explain a
//! missing register: then `lagging` says that it cannot tell.

use crate::expiry::Expiry;
use crate::family::Families;
use crate::hlc::{Hlc, Stamp};
use crate::ids::{Origin, Timestamp};
use crate::row::Row;
use crate::value::{Text, Value};

/// How the second side stands to the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// The second side lacks it.
    Missing,
    /// Only the second side has it.
    Extra,
    /// The second side's is older.
    Older,
    /// The second side's is newer.
    Newer,
    /// Of one stamp, and yet not the same.
    Different,
}

/// One register of a row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Register {
    /// The row's tombstone.
    Tombstone,
    /// The row's marker.
    Marker,
    /// A column's tombstone.
    ColumnTombstone(Text),
    /// A trim of a column, by its bound.
    Trim(Text, Timestamp),
    /// A version of a column.
    Cell(Text, Timestamp),
    /// A region's part of a counter.
    Count(Text, Origin),
    /// A region's write of a column under another rule.
    Share(Text, Origin),
    /// That writes of a column up to one of its origin are replaced.
    Seen(Text, Stamp),
}

/// What a side has in a register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// When it was written.
    pub stamp: Stamp,
    /// The value of a live cell.
    pub value: Option<Value>,
}

/// A register in which two sides differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CellDiff {
    /// Which.
    pub register: Register,
    /// How the second side stands to the first.
    pub class: Class,
    /// What the first side has.
    pub first: Option<Held>,
    /// What the second side has.
    pub second: Option<Held>,
}

/// What one side of a table with several writers knows.
#[derive(Clone, Copy, Debug)]
pub struct Knowledge<'a> {
    /// Per origin the moment up to which all its entries are applied.
    pub vector: &'a [(Origin, Hlc)],
    /// All entries of all origins below it are applied.
    pub safe: Hlc,
    /// Kills below it may be forgotten.
    pub floor: Hlc,
    /// What is logged as expired.
    pub expiry: &'a [Expiry],
    /// The families of the table.
    pub families: &'a Families,
}

/// What [`lagging`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// True differences.
    pub cells: Vec<CellDiff>,
    /// A register is missing that a forgotten kill could explain: to be looked at again later.
    pub unclear: bool,
    /// Something is on its way to one of the sides.
    pub lag: bool,
}

impl Knowledge<'_> {
    /// Whether this side has had what bears that stamp.
    pub fn covers(&self, stamp: Stamp) -> bool {
        let known = |(origin, hlc): &(Origin, Hlc)| *origin == stamp.origin && stamp.hlc <= *hlc;
        stamp.hlc < self.safe || self.vector.iter().any(known)
    }
}

impl Register {
    /// Whether it is never shown and only removes what is.
    pub fn is_kill(&self) -> bool {
        match self {
            Register::Tombstone
            | Register::ColumnTombstone(_)
            | Register::Trim(..)
            | Register::Seen(..) => true,
            Register::Marker | Register::Cell(..) | Register::Count(..) | Register::Share(..) => {
                false
            }
        }
    }

    /// Whether what it holds removes something: a kill, or a deleted version.
    pub fn kills(&self, held: &Held) -> bool {
        match self {
            Register::Cell(..) => held.value.is_none(),
            _ => self.is_kill(),
        }
    }
}

impl Held {
    fn of_stamp(stamp: Stamp) -> Held {
        Held { stamp, value: None }
    }
}

/// The registers of a row, in their order.
pub fn registers(row: &Row) -> Vec<(Register, Held)> {
    let mut all = Vec::new();
    all.extend(row.tombstone.map(|stamp| (Register::Tombstone, Held::of_stamp(stamp))));
    all.extend(row.marker.map(|stamp| (Register::Marker, Held::of_stamp(stamp))));
    for column in &row.columns {
        let name = || column.name.clone();
        let tombstone = |stamp| (Register::ColumnTombstone(name()), Held::of_stamp(stamp));
        all.extend(column.tombstone.map(tombstone));
        for trim in &column.trims {
            all.push((Register::Trim(name(), trim.below), Held::of_stamp(trim.stamp)));
        }
        for cell in &column.cells {
            let held = Held { stamp: cell.stamp, value: cell.value.clone() };
            all.push((Register::Cell(name(), cell.timestamp), held));
        }
        for share in column.shares() {
            let register = match share.is_counter() {
                true => Register::Count(name(), share.origin()),
                false => Register::Share(name(), share.origin()),
            };
            all.push((register, Held { stamp: share.stamp, value: Some(share.value.clone()) }));
        }
        for seen in column.shares.iter().flat_map(|shares| &shares.seen) {
            let register = Register::Seen(name(), seen.until);
            all.push((register, Held::of_stamp(seen.by)));
        }
    }
    all.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    all
}

/// Where two rows differ that ought to be the same.
pub fn plain(first: &Row, second: &Row) -> Vec<CellDiff> {
    let (first, second) = (registers(first), registers(second));
    let mut names: Vec<&Register> = first.iter().chain(&second).map(|(name, _)| name).collect();
    names.sort_unstable();
    names.dedup();
    let diff = |name: &Register| {
        let (a, b) = (find(&first, name), find(&second, name));
        (a != b).then(|| cell_diff(name, a, b))
    };
    names.into_iter().filter_map(diff).collect()
}

/// Where two rows of a table with several writers differ otherwise than by what is on its way.
pub fn lagging(first: (&Row, Knowledge<'_>), second: (&Row, Knowledge<'_>)) -> Found {
    let expired = |row: &Row| {
        let mut row = row.clone();
        for side in [&first.1, &second.1] {
            side.expiry.iter().for_each(|expiry| row.expire(expiry, side.families));
        }
        row
    };
    let floor = first.1.floor.max(second.1.floor);
    // A kill that both sides have had, and may have forgotten: what it has not killed is alive,
    // also where the other side still remembers it. The vectors count as well, since a side that
    // has just started does not know yet how far all others are.
    let is_settled =
        |kill: Stamp| kill.hlc < floor && first.1.covers(kill) && second.1.covers(kill);
    let known = |row: &Row| {
        let mut row = expired(row);
        row.forget(&is_settled);
        row
    };
    let (a, b) = (known(first.0), known(second.0));
    let mut merged = a.clone();
    merged.merge(&b);
    let (a, b) = (registers(&a), registers(&b));
    let mut found = Found { lag: a != b, ..Found::default() };
    for (name, held) in registers(&merged) {
        let (in_a, in_b) = (find(&a, &name), find(&b, &name));
        let verdict = match (has(in_a, &held), has(in_b, &held)) {
            (true, true) if in_a == in_b => Verdict::Alike,
            (true, true) => Verdict::Differs,
            _ if name.kills(&held) && held.stamp.hlc < floor => Verdict::Alike,
            (false, _) => judge(&held, &first.1, &second.1),
            (true, false) => judge(&held, &second.1, &first.1),
        };
        match verdict {
            Verdict::Alike => {}
            Verdict::Unclear => found.unclear = true,
            Verdict::Differs => found.cells.push(cell_diff(&name, in_a, in_b)),
        }
    }
    found
}

enum Verdict {
    Alike,
    Differs,
    Unclear,
}

/// What it means that a side lacks a register that the other one has.
fn judge(held: &Held, lacks: &Knowledge<'_>, has: &Knowledge<'_>) -> Verdict {
    if !lacks.covers(held.stamp) {
        Verdict::Alike
    } else if held.stamp.hlc < lacks.floor && has.safe < lacks.floor {
        Verdict::Unclear
    } else {
        Verdict::Differs
    }
}

fn has(held: Option<&Held>, wanted: &Held) -> bool {
    held.is_some_and(|held| held.stamp == wanted.stamp)
}

fn find<'a>(all: &'a [(Register, Held)], name: &Register) -> Option<&'a Held> {
    let place = all.binary_search_by(|(known, _)| known.cmp(name)).ok()?;
    all.get(place).map(|(_, held)| held)
}

fn cell_diff(name: &Register, first: Option<&Held>, second: Option<&Held>) -> CellDiff {
    let class = match (first, second) {
        (_, None) => Class::Missing,
        (None, Some(_)) => Class::Extra,
        (Some(a), Some(b)) if a.stamp > b.stamp => Class::Older,
        (Some(a), Some(b)) if a.stamp < b.stamp => Class::Newer,
        (Some(_), Some(_)) => Class::Different,
    };
    CellDiff { register: name.clone(), class, first: first.cloned(), second: second.cloned() }
}

/// Whether a reader could see the row, were nothing expired by the clock alone.
pub fn lives(row: &Row) -> bool {
    let has_cell = |column: &crate::row::Column| {
        column.cells.iter().any(|cell| cell.value.is_some()) || !column.shares().is_empty()
    };
    row.marker.is_some() || row.columns.iter().any(has_cell)
}

/// The class of a whole row of which `cells` differ.
pub fn class_of_row(first: &Row, second: &Row, cells: &[CellDiff]) -> Class {
    match (lives(first), lives(second)) {
        (true, false) => Class::Missing,
        (false, true) => Class::Extra,
        (false, false) => class_of_cells(cells),
        (true, true) => match first.stamp_max().cmp(&second.stamp_max()) {
            std::cmp::Ordering::Greater => Class::Older,
            std::cmp::Ordering::Less => Class::Newer,
            std::cmp::Ordering::Equal => Class::Different,
        },
    }
}

/// The class that all have, if they have one.
fn class_of_cells(cells: &[CellDiff]) -> Class {
    match cells.split_first() {
        Some((one, rest)) if rest.iter().all(|cell| cell.class == one.class) => one.class,
        Some(_) | None => Class::Different,
    }
}

#[cfg(test)]
mod tests;
