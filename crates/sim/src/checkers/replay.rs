//! The table at LSN b is the table at LSN a and the entries between.
//!
//! A shadow of every table is made from durable entries alone, with all kills kept for ever; after
//! each batch the rows that it wrote must show what the shadow shows. Rows of a copy are taken
//! over, after looking whether a deleted one came back.

use isthmus_model::key::EncodedKey;
use isthmus_model::row::Row;

use super::registers::{Expired, kills, live};
use super::{Violation, deleted};

const NAME: &str = "a table is its log";

/// Checks one row after a batch, and gives what the shadow is from here on.
pub(crate) fn check(
    node: usize,
    key: &EncodedKey,
    shadow: Row,
    stored: &Row,
    expired: Expired<'_>,
    copied: bool,
) -> Result<Row, Violation> {
    let (shows, holds) = (live(&shadow, expired), live(stored, expired));
    if shows != holds {
        deleted::check(node, key, &shadow, &holds)?;
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
    Ok(taken)
}
