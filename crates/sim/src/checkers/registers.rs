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
        column.change_shares(|shares| shares.seen.clear());
    }
    live.columns.retain(|column| !column.is_bare());
    live
}

/// What forbids older registers to come back.
pub(crate) fn kills(row: &Row) -> Row {
    let mut kills = row.clone();
    kills.marker = None;
    for column in &mut kills.columns {
        column.cells.retain(|cell| cell.value.is_none());
        column.change_shares(|shares| shares.list.clear());
    }
    kills.columns.retain(|column| !column.is_bare());
    kills
}
