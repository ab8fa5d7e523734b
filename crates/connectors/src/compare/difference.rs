//! Where two rows of one key differ.
//!
//! What must hold: two rows differ here if and only if their canonical bytes differ, and every
//! cell that differs is named once, in the order of the canonical bytes.

use std::cmp::Ordering;

use isthmus_model::key::PrimaryKey;
use isthmus_model::value::Text;

use super::row::{Cell, Row, Versions};

/// How a row differs, seen from the left side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowClass {
    /// The right side lacks it.
    Missing,
    /// The right side has it and the left one does not.
    Extra,
    /// Both have it, with other cells.
    Different,
}

/// How the cell of the right side differs from that of the left one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CellClass {
    /// The right side lacks it.
    Missing,
    /// Only the right side has it.
    Extra,
    /// The right side's version is older.
    Older,
    /// The right side's version is newer.
    Newer,
    /// The values differ, at the same version where versions are compared.
    Different,
}

/// A row that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowDifference {
    /// Its key.
    pub key: PrimaryKey,
    /// How.
    pub class: RowClass,
    /// Its line in the left file.
    pub left_line: Option<u64>,
    /// Its line in the right file.
    pub right_line: Option<u64>,
    /// The cells that differ.
    pub cells: Vec<CellDifference>,
}

/// A cell that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CellDifference {
    /// Column.
    pub name: Text,
    /// How.
    pub class: CellClass,
    /// What the left side has.
    pub left: Option<Cell>,
    /// What the right side has.
    pub right: Option<Cell>,
}

impl RowClass {
    /// Its word in reports.
    pub fn name(self) -> &'static str {
        match self {
            RowClass::Missing => "missing",
            RowClass::Extra => "extra",
            RowClass::Different => "different",
        }
    }
}

impl CellClass {
    /// Its word in reports.
    pub fn name(self) -> &'static str {
        match self {
            CellClass::Missing => "missing",
            CellClass::Extra => "extra",
            CellClass::Older => "older",
            CellClass::Newer => "newer",
            CellClass::Different => "different",
        }
    }
}

impl RowDifference {
    /// Bytes it takes in memory, roughly.
    pub(super) fn size(&self) -> usize {
        let of_cell = |cell: &Option<Cell>| {
            cell.as_ref().map_or(0, |cell| cell.name.len() + cell.value.size() + 96)
        };
        let cells = self.cells.iter().map(|cell| 64 + of_cell(&cell.left) + of_cell(&cell.right));
        self.key.size() + 256 + cells.sum::<usize>()
    }
}

/// The difference between what two sides have under one key; `None`: they are alike.
pub fn difference(
    left: Option<&Row>,
    right: Option<&Row>,
    versions: Versions,
) -> Option<RowDifference> {
    let key = &left.or(right)?.key;
    let class = match (left, right) {
        (Some(_), None) => RowClass::Missing,
        (None, _) => RowClass::Extra,
        (Some(left), Some(right)) if left.cells == right.cells => return None,
        (Some(_), Some(_)) => RowClass::Different,
    };
    let line = |row: Option<&Row>| row.map(|row| row.line).filter(|line| *line > 0);
    Some(RowDifference {
        key: key.clone(),
        class,
        left_line: line(left),
        right_line: line(right),
        cells: cells(left, right, versions),
    })
}

fn cells(left: Option<&Row>, right: Option<&Row>, versions: Versions) -> Vec<CellDifference> {
    let mut left = left.map_or(&[][..], |row| &row.cells).iter().peekable();
    let mut right = right.map_or(&[][..], |row| &row.cells).iter().peekable();
    let mut found = Vec::new();
    loop {
        let order = match (left.peek(), right.peek()) {
            (None, None) => return found,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) => match versions {
                Versions::All => a.name.cmp(&b.name).then(b.timestamp.cmp(&a.timestamp)),
                Versions::Newest { .. } => a.name.cmp(&b.name),
            },
        };
        let a = if order.is_le() { left.next() } else { None };
        let b = if order.is_ge() { right.next() } else { None };
        let (name, class) = match (a, b) {
            (Some(a), Some(b)) if a == b => continue,
            (Some(a), Some(b)) => (&a.name, class_of(a, b)),
            (Some(a), None) => (&a.name, CellClass::Missing),
            (None, Some(b)) => (&b.name, CellClass::Extra),
            (None, None) => return found,
        };
        let (left, right) = (a.cloned(), b.cloned());
        found.push(CellDifference { name: name.clone(), class, left, right });
    }
}

fn class_of(left: &Cell, right: &Cell) -> CellClass {
    match right.timestamp.cmp(&left.timestamp) {
        Ordering::Less => CellClass::Older,
        Ordering::Greater => CellClass::Newer,
        Ordering::Equal => CellClass::Different,
    }
}
