//! A deleted cell never comes back.

use isthmus_model::key::EncodedKey;
use isthmus_model::row::Row;

use super::Violation;
use super::registers::{Expired, kills, live};

const NAME: &str = "a delete stays deleted";

/// Checks that no kill ever seen here covers what is shown.
pub(crate) fn check(
    node: usize,
    key: &EncodedKey,
    shadow: &Row,
    shown: &Row,
) -> Result<(), Violation> {
    let mut killed = shown.clone();
    killed.merge(&kills(shadow));
    if live(&killed, Expired::NOTHING) == *shown {
        return Ok(());
    }
    let what = format!("node {node}, {key:?}: {shown:?} shows what {shadow:?} had killed");
    Err(Violation::of(NAME, what))
}
