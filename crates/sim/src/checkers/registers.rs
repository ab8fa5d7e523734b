//! Two parts of a row: what it shows, and what kills.

use isthmus_model::row::{Row, Trim};

/// What could be shown: the marker and the cells that are not deleted.
pub(crate) fn live(row: &Row, expiry: &[Trim]) -> Row {
    let mut live = row.clone();
    expiry.iter().for_each(|trim| live.expire(trim));
    live.tombstone = None;
    for column in &mut live.columns {
        column.tombstone = None;
        column.trims.clear();
        column.cells.retain(|cell| cell.value.is_some());
    }
    live.columns.retain(|column| !column.cells.is_empty());
    live
}

/// What forbids older registers to come back.
pub(crate) fn kills(row: &Row) -> Row {
    let mut kills = row.clone();
    kills.marker = None;
    for column in &mut kills.columns {
        column.cells.retain(|cell| cell.value.is_none());
    }
    kills.columns.retain(|c| c.tombstone.is_some() || !c.trims.is_empty() || !c.cells.is_empty());
    kills
}
