//! What a partition has logged as expired.
//!
//! An expiry is a trim over every row: over the columns that no family takes and over those of the
//! families that it does not spare. Only the base region makes them, one after the other. They only
//! ever take away, so regions that have the same ones show the same, whatever each has removed from
//! its disk by now.

use std::cmp::Reverse;

use crate::family::{Families, FamilyNumber, FamilySet};
use crate::hlc::Stamp;
use crate::row::{Cell, Column, Row, Trim};
use crate::share::Share;

/// Versions below a bound have expired in all rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// What it kills.
    pub trim: Trim,
    /// Families whose columns it leaves alone.
    pub spared: FamilySet,
}

impl From<Trim> for Expiry {
    /// Of all columns.
    fn from(trim: Trim) -> Expiry {
        Expiry { trim, spared: FamilySet::default() }
    }
}

impl Expiry {
    /// The same, for whole buckets of timestamps only: what may go from the disk.
    #[must_use]
    pub fn of_whole_buckets(self) -> Expiry {
        Expiry { trim: self.trim.of_whole_buckets(), ..self }
    }

    /// Whether a cell of a family is killed.
    pub fn kills(&self, family: FamilyNumber, cell: &Cell) -> bool {
        !self.spared.has(family) && self.trim.kills(cell)
    }

    /// Whether a share of a family is killed.
    pub fn kills_share(&self, family: FamilyNumber, share: &Share) -> bool {
        !self.spared.has(family) && share.is_expired(&self.trim)
    }

    /// Whether a row's marker is killed: it is a cell of no family whose timestamp is its moment.
    pub fn kills_marker(&self, marker: Stamp) -> bool {
        !self.spared.has(FamilyNumber::NONE)
            && marker.hlc.timestamp() < self.trim.below
            && marker <= self.trim.stamp
    }

    fn covers(&self, other: &Expiry) -> bool {
        self.trim.covers(&other.trim) && self.spared.is_within(other.spared)
    }
}

/// Adds an expiry to a set in which none covers another, by falling bound.
pub fn add_expiry(list: &mut Vec<Expiry>, expiry: Expiry) {
    if list.iter().any(|known| known.covers(&expiry)) {
        return;
    }
    list.retain(|known| !expiry.covers(known));
    // Those of one bound have an order, too, so that equal sets are equal lists.
    let order = |one: &Expiry| (Reverse(one.trim.below), one.trim.stamp, one.spared.0);
    let place = list.partition_point(|known| order(known) < order(&expiry));
    list.insert(place, expiry);
}

/// The farthest of such a set that kills cells of a family.
pub fn farthest(list: &[Expiry], family: FamilyNumber) -> Option<Trim> {
    list.iter().find(|expiry| !expiry.spared.has(family)).map(|expiry| expiry.trim)
}

impl Row {
    /// Removes the cells and the marker that an expiry of the whole partition covers.
    pub fn expire(&mut self, expiry: &Expiry, families: &Families) {
        self.marker = self.marker.filter(|marker| !expiry.kills_marker(*marker));
        let spares_all = expiry.spared == FamilySet::default();
        for column in &mut self.columns {
            let family = if spares_all { FamilyNumber::NONE } else { families.of(&column.name) };
            expire_column(column, expiry, family);
        }
        self.columns.retain(|column| !column.is_bare());
    }
}

fn expire_column(column: &mut Column, expiry: &Expiry, family: FamilyNumber) {
    column.cells.retain(|cell| !expiry.kills(family, cell));
    column.change_shares(|shares| {
        shares.list.retain(|share| !expiry.kills_share(family, share));
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::{Family, FamilyTime};
    use crate::hlc::Hlc;
    use crate::ids::{Origin, Timestamp};
    use crate::value::Value;

    fn stamp(millis: i64) -> Stamp {
        Stamp { hlc: Hlc::from_millis(millis), origin: Origin(1) }
    }

    fn expiry(below: i64, at: i64, spared: u64) -> Expiry {
        let trim = Trim { below: Timestamp(below), stamp: stamp(at) };
        Expiry { trim, spared: FamilySet(spared) }
    }

    fn families() -> Families {
        Families::new(vec![Family {
            name: "f".into(),
            columns: Vec::new(),
            prefix: Some("f_".into()),
            time_to_live: FamilyTime::Forever,
            max_versions: None,
        }])
    }

    fn row() -> Row {
        let mut row = Row { marker: Some(stamp(5)), ..Row::default() };
        for name in ["a", "f_a"] {
            let cell =
                Cell { timestamp: Timestamp(5), stamp: stamp(5), value: Some(Value::Integer(1)) };
            row.column_mut(&name.into()).set(cell);
        }
        row
    }

    fn names(row: &Row) -> Vec<&str> {
        row.columns.iter().map(|column| column.name.as_str()).collect()
    }

    #[test]
    fn an_expiry_leaves_alone_the_families_that_it_spares() {
        let (mut of_others, mut of_family, mut of_all) = (row(), row(), row());
        of_others.expire(&expiry(9, 9, 0b10), &families());
        assert_eq!((names(&of_others), of_others.marker), (vec!["f_a"], None));
        let only_family = FamilySet::of(FamilyNumber(1)).others();
        of_family.expire(&Expiry { spared: only_family, ..expiry(9, 9, 0) }, &families());
        assert_eq!((names(&of_family), of_family.marker), (vec!["a"], Some(stamp(5))));
        of_all.expire(&expiry(9, 9, 0), &families());
        assert!(of_all.is_bare());
    }

    #[test]
    fn an_expiry_that_spares_more_does_not_take_the_place_of_another() {
        let mut list = Vec::new();
        add_expiry(&mut list, expiry(5, 5, 0));
        add_expiry(&mut list, expiry(9, 9, 0b10));
        assert_eq!(list, [expiry(9, 9, 0b10), expiry(5, 5, 0)]);
        assert_eq!(farthest(&list, FamilyNumber(1)), Some(expiry(5, 5, 0).trim));
        assert_eq!(farthest(&list, FamilyNumber::NONE), Some(expiry(9, 9, 0).trim));
        add_expiry(&mut list, expiry(4, 4, 0b100));
        assert_eq!(list.len(), 2);
        add_expiry(&mut list, expiry(9, 9, 0));
        assert_eq!(list, [expiry(9, 9, 0)]);
    }
}
