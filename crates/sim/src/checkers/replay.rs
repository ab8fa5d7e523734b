//! The table at LSN b is the table at LSN a and the entries between.
//!
//! A shadow of every table is made from durable entries alone, with all kills kept for ever; after
//! each batch the rows that it wrote must show what the shadow shows. Rows of a copy are taken
//! over, after looking whether a deleted one came back.

use isthmus_model::hlc::Stamp;
use isthmus_model::key::EncodedKey;
use isthmus_model::row::Row;

use super::registers::{Expired, kills, live};
use super::{Violation, deleted};

const NAME: &str = "a table is its log";

/// Checks one row after a batch, and gives what the shadow is from here on. `alone` tells of a
/// moment whether it is of what a region wrote while it was unbound: a copy may bring that back.
pub(crate) fn check(
    (node, key): (usize, &EncodedKey),
    shadow: Row,
    stored: &Row,
    expired: Expired<'_>,
    copied: bool,
    alone: impl Fn(Stamp) -> bool,
) -> Result<Row, Violation> {
    let (shows, holds) = (live(&shadow, expired), live(stored, expired));
    if shows != holds {
        deleted::check(node, key, &shadow, &without(&holds, &alone))?;
        if !copied {
            let what =
                format!("node {node}, {key:?}: the log gives {shows:?}, stored is {stored:?}");
            return Err(Violation::of(NAME, what));
        }
    }
    if !copied {
        return Ok(shadow);
    }
    let mut taken = stored.clone();
    taken.merge(&kills(&shadow));
    // What came back would be killed again.
    let is_kept = live(&taken, Expired::NOTHING) == live(stored, Expired::NOTHING);
    Ok(if is_kept { taken } else { stored.clone() })
}

/// A row without what was written at such moments.
fn without(row: &Row, is_meant: impl Fn(Stamp) -> bool) -> Row {
    let mut row = row.clone();
    row.marker = row.marker.filter(|stamp| !is_meant(*stamp));
    row.columns.iter_mut().for_each(|column| column.cells.retain(|cell| !is_meant(cell.stamp)));
    row.columns.retain(|column| !column.is_bare());
    row
}
