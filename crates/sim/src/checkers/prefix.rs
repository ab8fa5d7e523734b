//! A replica of a table with one writer is always some earlier state of its origin, never a
//! mixture; its watermark says which.

use std::collections::{BTreeMap, BTreeSet};

use isthmus_model::entry::EntryBody;
use isthmus_model::expiry::{Expiry, add_expiry};
use isthmus_model::ids::Lsn;
use isthmus_model::key::EncodedKey;
use isthmus_model::row::Row;
use xxhash_rust::xxh3::xxh3_64;

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
    let (expired, was) = origin_at(observer, view);
    let there = Expired { list: &expired, families: &view.spec.schema.options.families };
    let nothing = Row::default();
    let keys: BTreeSet<&EncodedKey> = view.stored().keys().chain(was.keys()).collect();
    let unlike = keys.into_iter().filter_map(|key| {
        let shows = live(view.stored().get(key).unwrap_or(&nothing), view.expired());
        let showed = live(was.get(key).unwrap_or(&nothing), there);
        (shows != showed).then(|| format!("{key:?}: {shows:?}, there {showed:?}"))
    });
    let what = format!(
        "node {node} shows of {} at {lsn} what its origin never was; expired: {:?}, there {:?}; {}",
        view.spec.name,
        view.state.expiry,
        expired,
        unlike.collect::<Vec<_>>().join("; ")
    );
    Err(Violation::of("a replica is an earlier state", what))
}

/// What its origin had logged as expired where a replica is, and its rows, made again from entries.
fn origin_at(
    observer: &Observer,
    view: &PartitionView,
) -> (Vec<Expiry>, BTreeMap<EncodedKey, Row>) {
    let (mut expired, mut rows) = (Vec::new(), BTreeMap::<EncodedKey, Row>::new());
    let known = observer.known.iter().filter(|((partition, ..), known)| {
        *partition == view.spec.partition && known.entry.lsn <= view.state.lsn
    });
    for (_, known) in known {
        match &known.entry.body {
            EntryBody::Rows(deltas) => deltas.iter().for_each(|delta| {
                rows.entry(delta.key.clone()).or_default().merge(&delta.delta);
            }),
            EntryBody::Expiry(expiry) => add_expiry(&mut expired, *expiry),
            _ => {}
        }
    }
    (expired, rows)
}
