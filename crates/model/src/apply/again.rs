//! A change that is made again, by the delta that it had in another log.
//!
//! With one writer each change of a row is judged by the one before it, and both logs hold those in
//! the same order. So what the delta sets is right in any of them. Its stamps are not: what came
//! before it may have been made again, too, and later.

use super::{Applied, ApplyContext, replaced, taken_in};
use crate::hlc::Stamp;
use crate::ids::Timestamp;
use crate::row::{Cell, Column, Row};

/// Applies a change to a row by the delta that it had where it was made first, with that stamp.
/// `None`: the row is not there, or need not be known since the delta replaces it.
///
/// Versions keep the timestamps that they had. One that was named by the moment at which it was
/// made gets that of the context where the row has a later version that was made again since: it
/// is to be the newest, as it was there.
pub fn apply_again(
    context: &ApplyContext<'_>,
    row: Option<&Row>,
    made: Stamp,
    delta: &Row,
) -> Applied {
    let stamp = context.stamp;
    let anew = |column: &Column| {
        let known = row.and_then(|row| row.column(column.name.as_bytes()));
        let since = known.and_then(|known| newest_since(known, made));
        let mut again = Column::new(column.name.clone());
        again.tombstone = column.tombstone.map(|_| stamp);
        for cell in &column.cells {
            let is_named_by_moment = cell.value.is_some() && cell.timestamp == made.hlc.timestamp();
            let timestamp = match since {
                Some(newest) if is_named_by_moment && cell.timestamp < newest => {
                    stamp.hlc.timestamp()
                }
                Some(_) | None => cell.timestamp,
            };
            again.set(Cell { timestamp, stamp, value: cell.value.clone() });
        }
        again
    };
    // What exceeds max versions is judged by the row here.
    let delta = Row {
        tombstone: delta.tombstone.map(|_| stamp),
        marker: delta.marker.map(|_| stamp),
        columns: delta.columns.iter().map(anew).collect(),
    };
    let (mut delta, after) = match delta.tombstone {
        Some(_) => replaced(delta),
        None => taken_in(context, row, delta),
    };
    delta.columns.retain(|column| !column.is_bare());
    Applied { delta, after, ..Applied::default() }
}

/// The newest version that was written after that moment.
fn newest_since(column: &Column, made: Stamp) -> Option<Timestamp> {
    let later = column.cells.iter().filter(|cell| cell.stamp > made);
    later.map(|cell| cell.timestamp).max()
}
