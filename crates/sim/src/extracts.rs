//! Random replicas that take less than all, for the tables of worlds.

use isthmus_control::extract::{ColumnRule, CopyKind, Extract, FilterRule, Is};
use rand::Rng;
use rand::rngs::SmallRng;

/// What a replica is to take.
pub(crate) fn draw(rng: &mut SmallRng) -> Extract {
    let kinds = [CopyKind::Full, CopyKind::Incremental, CopyKind::FullThenIncremental];
    let mut extract =
        Extract { copy: kinds[rng.random_range(0..kinds.len())], ..Extract::default() };
    if rng.random_range(0..3) == 0 {
        let (from, to) = (rng.random_range(0..3), rng.random_range(3..6));
        extract.range_from = vec![format!("p{from}").into()];
        extract.range_to = vec![format!("p{to}").into()];
    }
    if rng.random_range(0..3) == 0 {
        let columns = ["c0", "n0", "c2"];
        let taken = columns.iter().take(rng.random_range(1..4));
        extract.columns = taken.map(|name| (*name).to_owned()).collect();
    }
    extract.filter = match rng.random_range(0..4) {
        0 => Some(column("n0", Is::Greater, Some(rng.random_range(-2..9)), rng.random())),
        1 => Some(FilterRule::Or(vec![
            column("c1", Is::NotExists, None, false),
            FilterRule::Not(Box::new(column("n1", Is::LessEqual, Some(4), rng.random()))),
        ])),
        _ => None,
    };
    extract
}

fn column(name: &str, is: Is, value: Option<i64>, if_missing: bool) -> FilterRule {
    let value = value.map(Into::into);
    FilterRule::Column(ColumnRule {
        name: name.to_owned(),
        is,
        value,
        if_missing,
        any_version: false,
    })
}
