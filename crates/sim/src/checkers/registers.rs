//! Two parts of a row: what it shows, and what kills.

use isthmus_model::expiry::Expiry;
use isthmus_model::family::{Families, NO_FAMILIES};
use isthmus_model::row::Row;

/// What a region has logged as expired, with the families that this names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expired<'a> {
    pub(crate) list: &'a [Expiry],
    pub(crate) families: &'a Families,
}

impl Expired<'_> {
    /// Nothing has.
    pub(crate) const NOTHING: Expired<'static> = Expired { list: &[], families: &NO_FAMILIES };

    /// Removes what has expired.
    pub(crate) fn remove_from(self, row: &mut Row) {
        self.list.iter().for_each(|expiry| row.expire(expiry, self.families));
    }
}

/// What could be shown: the marker and the cells that are not deleted.
pub(crate) fn live(row: &Row, expired: Expired<'_>) -> Row {
    let mut live = row.clone();
    expired.remove_from(&mut live);
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
