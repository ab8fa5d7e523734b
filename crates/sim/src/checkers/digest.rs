//! A digest is what the rows say, at any moment and after any crash; and regions that have applied
//! the same have the same digest, as far as it counts in both.

use std::collections::BTreeSet;

use isthmus_digest::{Lane, Sum};
use isthmus_model::error::Kind;
use isthmus_model::ids::PartitionId;
use isthmus_model::key::EncodedKey;
use isthmus_store::digest::{DigestState, DigestView};
use isthmus_store::{Store, Table};

use super::Violation;

const NAME: &str = "a digest is what the rows say";
const ALIKE: &str = "equal regions have equal digests";

/// Lane, sum and rows, in the order of lanes.
pub(crate) type Lanes = Vec<(Lane, Sum, u64)>;

/// Checks every digest of a node that is ready. Gives how many were.
pub(crate) fn check(node: usize, store: &Store) -> Result<u64, Violation> {
    let mut checked = 0;
    for table in store.tables() {
        checked += u64::from(check_table(node, &table)?);
    }
    Ok(checked)
}

/// Checks one digest; gives whether there was one to check.
pub(crate) fn check_table(node: usize, table: &Table) -> Result<bool, Violation> {
    // One that is being built, or that a failing disk keeps from being read, is checked later.
    let Ok(view) = table.digest_view() else { return Ok(false) };
    let counted = match view.recount() {
        Ok(counted) => counted,
        Err(error) if error.kind() == Kind::Corrupt => {
            let what = format!("node {node}, {}: {error}", table.name());
            return Err(Violation::of(NAME, what));
        }
        Err(_) => return Ok(false),
    };
    let kept = lanes(&view);
    if kept == counted {
        return Ok(true);
    }
    let (table, lsn) = (table.name(), view.snapshot().lsn());
    let what = format!(
        "node {node}, {table} at {lsn}: the digest says {kept:?}, the rows say {counted:?}"
    );
    Err(Violation::of(NAME, what))
}

fn lanes(view: &DigestView) -> Lanes {
    view.tree().lanes().into_iter().map(|root| (root.lane, root.sum, root.rows)).collect()
}

/// Whether all digests of a node are ready; else which is not.
pub(crate) fn are_ready(node: usize, store: &Store) -> Result<(), String> {
    for table in store.tables() {
        let state = table.digest_state();
        if state != DigestState::Ready {
            return Err(format!("the digest of {} at node {node} is {state:?}", table.name()));
        }
    }
    Ok(())
}

/// Checks that regions which have applied the same have the same digests.
pub(crate) fn check_alike(
    stores: &[&Store],
    counts: impl Fn(usize, PartitionId) -> bool,
) -> Result<(), Violation> {
    let tables = stores.iter().flat_map(|store| store.tables());
    let all: BTreeSet<_> = tables.map(|table| (table.partition(), table.id())).collect();
    for (partition, id) in all {
        let counting = stores.iter().enumerate().filter(|(node, _)| counts(*node, partition));
        let mut tables = counting.filter_map(|(_, store)| store.table(id));
        let Some(first) = tables.next() else { continue };
        for other in tables {
            check_pair(&first, &other)?;
        }
    }
    Ok(())
}

fn check_pair(one: &Table, other: &Table) -> Result<(), Violation> {
    let (Ok(a), Ok(b)) = (one.digest_view(), other.digest_view()) else { return Ok(()) };
    let vector = |view: &DigestView| {
        let marks = view.snapshot().vector();
        marks.iter().map(|mark| (mark.origin, mark.lsn)).collect::<Vec<_>>()
    };
    if vector(&a) != vector(&b) {
        return Ok(());
    }
    let name = one.name();
    let alike = |view: &DigestView| {
        let rules = view.rules();
        (rules.time_lanes, rules.base.clone(), rules.families)
    };
    // Sums of rows are alike only where the same of them counts.
    if alike(&a) != alike(&b) {
        return Ok(());
    }
    let (x, y) = (a.floors(), b.floors());
    let (time, kills) = (x.0.max(y.0), x.1.max(y.1));
    let counts = |lane: Lane| match lane {
        Lane::Data => true,
        Lane::Time(bucket) => bucket >= time,
        Lane::Kills(bucket) => bucket >= kills,
    };
    let above = |view: &DigestView| -> Lanes {
        lanes(view).into_iter().filter(|(lane, ..)| counts(*lane)).collect()
    };
    // Only live cells are sure to have the same sums. Where cells expire, a deleted version can go
    // with its bucket before the horizon has come so far; and a region that was the only writer
    // has no tombstones of that time, while others that hear of them from its log do.
    let sure = |lanes: Lanes| -> Lanes {
        lanes.into_iter().filter(|(lane, ..)| !matches!(lane, Lane::Kills(_))).collect()
    };
    match (sure(above(&a)), sure(above(&b))) {
        (a, b) if a == b => Ok(()),
        (x, y) => {
            let row = first_unlike(&a, &b);
            Err(Violation::of(ALIKE, format!("{name}: one says {x:?}, another {y:?}; {row}")))
        }
    }
}

/// The first row whose parts differ, for whoever looks into a violation.
fn first_unlike(a: &DigestView, b: &DigestView) -> String {
    let all = EncodedKey::default();
    for row in a.rows(&all, None).flatten() {
        let Ok(other) = b.row(&row.key) else { continue };
        if other.parts != row.parts {
            let decode = |packed: Option<bytes::Bytes>| {
                packed.and_then(|packed| isthmus_store::codec::row::decode_row(&packed).ok())
            };
            return format!(
                "{:?}: {:?} and {:?}",
                row.key,
                decode(row.packed),
                decode(other.packed)
            );
        }
    }
    "the second has a row more".to_owned()
}
