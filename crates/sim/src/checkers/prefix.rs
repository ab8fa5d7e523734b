//! A replica of a table with one writer is always some earlier state of its origin, never a
//! mixture; its watermark says which.

use isthmus_model::ids::Lsn;
use xxhash_rust::xxh3::xxh3_64;

use std::collections::BTreeMap;

use isthmus_model::key::EncodedKey;
use isthmus_model::row::Row;

use super::Violation;
use super::registers::{Expired, live};
use crate::observer::{Observer, PartitionView};

/// What a state shows, as one number.
pub(crate) fn digest(rows: &BTreeMap<EncodedKey, Row>, expired: Expired<'_>) -> u64 {
    let mut digest = 0u64;
    for (key, row) in rows {
        let shows = live(row, expired);
        if !shows.is_bare() {
            let line = format!("{digest:x} {key:?} {shows:?}");
            digest = xxh3_64(line.as_bytes());
        }
    }
    digest
}

/// Checks a replica that clients may read.
pub(crate) fn check(
    observer: &Observer,
    node: usize,
    view: &PartitionView,
) -> Result<(), Violation> {
    let lsn: Lsn = view.state.lsn;
    let Some(then) = observer.state_at(view.spec.partition, lsn) else { return Ok(()) };
    if digest(view.stored(), view.expired()) == then {
        return Ok(());
    }
    let what = format!(
        "node {node} shows of {} at {lsn} what its origin never was: {:?}",
        view.spec.name,
        view.stored()
    );
    Err(Violation::of("a replica is an earlier state", what))
}
