//! Conflicts: two changes of one column of which neither region had seen the other.
//!
//! Each region looks for conflicts of its own changes with those that come from others: what it
//! has written itself and the other region had not seen when it made its change. So every conflict
//! is noticed in both regions that are part of it, exactly, and no third one must know who had seen
//! what. Changes that lose nothing are no conflicts: increments of a counter add up.

use crate::hlc::Stamp;
use crate::ids::Timestamp;
use crate::row::{Column, Row};
use crate::rule::Rule;
use crate::share::{Share, ShareKind, rivalry};
use crate::value::{Text, Value};

/// What one region did to a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    /// When, and which region.
    pub stamp: Stamp,
    /// The version that it wrote, and its value; `None`: it deleted the column or the row.
    pub written: Option<(Timestamp, Value)>,
}

/// Whose change stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Winner {
    /// That of the region which noticed the conflict.
    Here,
    /// That of the other region.
    There,
    /// Both, united.
    Both,
}

/// Two changes of one column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The column.
    pub column: Text,
    /// The change of the region that noticed it.
    pub here: Side,
    /// The other one.
    pub there: Side,
    /// How it was decided.
    pub rule: Rule,
    /// Who won.
    pub winner: Winner,
}

impl Conflict {
    /// The side that did not stay, if one did not.
    pub fn loser(&self) -> Option<&Side> {
        match self.winner {
            Winner::Here => Some(&self.there),
            Winner::There => Some(&self.here),
            Winner::Both => None,
        }
    }
}

/// The conflicts of a change from elsewhere with what this region has written to the row. `unseen`
/// tells of a stamp whether it is this region's own and the other one had not seen it.
pub fn conflicts(row: &Row, delta: &Row, unseen: impl Fn(Stamp) -> bool) -> Vec<Conflict> {
    let mut found = of_columns(row, delta, &unseen);
    let newest = delta.stamp_max();
    let here = write_of_row(row, &unseen);
    let there = write_of_row(delta, |stamp| Some(stamp) == newest);
    if let (Some(here), Some(there)) = (here, there) {
        let winner = if rivalry(here, there).is_gt() { Winner::Here } else { Winner::There };
        found.iter_mut().for_each(|one| one.winner = winner);
    }
    found
}

/// A share of the newest write of the whole row that is meant, where whole rows conflict by a rule.
fn write_of_row(row: &Row, is_meant: impl Fn(Stamp) -> bool) -> Option<&Share> {
    let shares = row.columns.iter().flat_map(|column| column.shares());
    shares.filter(|share| share.is_of_row() && is_meant(share.stamp)).max_by_key(|one| one.stamp)
}

fn of_columns(row: &Row, delta: &Row, unseen: &impl Fn(Stamp) -> bool) -> Vec<Conflict> {
    let newest = delta.stamp_max();
    let (Some(stamp), true) = (newest, row.stamp_max().is_some()) else { return Vec::new() };
    let row_kill = row.tombstone.filter(|stamp| unseen(*stamp));
    let empty = Column::new(Text::default());
    let mut found = Vec::new();
    for column in &row.columns {
        let change = delta.column(column.name.as_bytes());
        if change.is_none() && delta.tombstone.is_none() {
            continue;
        }
        let Some(here) = own_change(column, row_kill, unseen) else { continue };
        let there = change.unwrap_or(&empty);
        // What the other region only trims or replaces it had seen.
        if let Some(there) = change_of(there, delta.tombstone, stamp) {
            found.extend(between(&column.name, here, there));
        }
    }
    let Some(kill) = row_kill else { return found };
    let deleted = || Change { side: Side { stamp: kill, written: None }, share: None, kills: true };
    for column in &delta.columns {
        if row.column(column.name.as_bytes()).is_none()
            && let Some(there) = change_of(column, None, stamp)
        {
            found.extend(between(&column.name, deleted(), there));
        }
    }
    found
}

struct Change<'a> {
    side: Side,
    share: Option<&'a Share>,
    /// It kills all versions of before.
    kills: bool,
}

fn of_share(share: &Share) -> Change<'_> {
    let written = Some((share.timestamp, share.value.clone()));
    Change { side: Side { stamp: share.stamp, written }, share: Some(share), kills: false }
}

/// The newest change of a column that the other region had not seen.
fn own_change<'a>(
    column: &'a Column,
    row_kill: Option<Stamp>,
    unseen: &impl Fn(Stamp) -> bool,
) -> Option<Change<'a>> {
    let kill = column.tombstone.filter(|stamp| unseen(*stamp)).max(row_kill);
    let cells = column.cells.iter().filter(|cell| unseen(cell.stamp));
    let cell = cells.max_by_key(|cell| (cell.stamp, cell.timestamp)).map(|cell| Change {
        side: Side {
            stamp: cell.stamp,
            written: cell.value.clone().map(|value| (cell.timestamp, value)),
        },
        share: None,
        kills: kill == Some(cell.stamp),
    });
    let shares = column.shares().iter().filter(|share| unseen(share.stamp));
    let share = shares.max_by_key(|share| share.stamp).map(of_share);
    let kill = kill.map(|stamp| {
        let side = Side { stamp, written: None };
        Change { side, share: None, kills: true }
    });
    // A put or a set is a kill and what is written, at one stamp.
    let order = |change: &Change<'_>| (change.side.stamp, change.side.written.is_some());
    [kill, cell, share].into_iter().flatten().max_by_key(order)
}

/// What a change does to a column.
fn change_of(column: &Column, row_kill: Option<Stamp>, stamp: Stamp) -> Option<Change<'_>> {
    if let Some(share) = column.shares().iter().find(|share| share.stamp == stamp) {
        return Some(of_share(share));
    }
    let kill = column.tombstone.max(row_kill);
    let newest = column.cells.iter().max_by_key(|cell| cell.timestamp);
    if let Some(cell) = newest {
        let written = cell.value.clone().map(|value| (cell.timestamp, value));
        return Some(Change { side: Side { stamp, written }, share: None, kills: kill.is_some() });
    }
    Some(Change { side: Side { stamp: kill?, written: None }, share: None, kills: true })
}

fn between(name: &Text, here: Change<'_>, there: Change<'_>) -> Option<Conflict> {
    let counts = |change: &Change<'_>| change.share.is_some_and(Share::is_counter);
    if counts(&here) && counts(&there) {
        return None;
    }
    if here.side.written.is_none() && there.side.written.is_none() {
        return None;
    }
    let is_rival = |change: &Change<'_>| change.share.is_some_and(|share| !share.is_counter());
    let rule = rule_of(&here, &there);
    let winner = match (here.share, there.share) {
        (Some(a), Some(b)) if rule == Rule::Set && a.kind == b.kind => Winner::Both,
        (Some(a), Some(b)) if is_rival(&here) && is_rival(&there) => match rivalry(a, b).is_gt() {
            true => Winner::Here,
            false => Winner::There,
        },
        // A delete takes no share that it had not seen.
        (Some(_), _) if is_rival(&here) && there.side.written.is_none() => Winner::Here,
        (_, Some(_)) if is_rival(&there) && here.side.written.is_none() => Winner::There,
        _ => later(&here, &there),
    };
    Some(Conflict { column: name.clone(), here: here.side, there: there.side, rule, winner })
}

/// Of two versions side by side the newer one is shown; a put or delete leaves none of before.
fn later(here: &Change<'_>, there: &Change<'_>) -> Winner {
    let is_here = match here.side.stamp > there.side.stamp {
        true if here.kills => true,
        false if there.kills => false,
        _ => {
            let timestamp = |side: &Side| side.written.as_ref().map(|(timestamp, _)| *timestamp);
            let order = |side: &Side| (timestamp(side), side.stamp);
            order(&here.side) > order(&there.side)
        }
    };
    if is_here { Winner::Here } else { Winner::There }
}

/// The rule that decides: that of the later share, if there is one.
fn rule_of(here: &Change<'_>, there: &Change<'_>) -> Rule {
    let latest = here.share.into_iter().chain(there.share).max_by_key(|share| share.stamp);
    match latest.map(|share| share.kind) {
        None => Rule::LastWriter,
        Some(ShareKind::Priority(_) | ShareKind::Row(_)) => Rule::Priority,
        Some(ShareKind::Max) => Rule::Max,
        Some(ShareKind::Min) => Rule::Min,
        Some(ShareKind::Counter) => Rule::Counter,
        Some(ShareKind::Set) => Rule::Set,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hlc::Hlc;
    use crate::ids::Origin;
    use crate::row::Cell;

    fn stamp(hlc: u64, origin: u8) -> Stamp {
        Stamp { hlc: Hlc(hlc), origin: Origin(origin) }
    }

    fn written(name: &str, at: Stamp, value: i64) -> Row {
        let mut row = Row { marker: Some(at), ..Row::default() };
        let cell = Cell { timestamp: Timestamp(9), stamp: at, value: Some(Value::Integer(value)) };
        row.column_mut(&name.into()).set(cell);
        row
    }

    fn shared(kind: ShareKind, at: Stamp, value: i64) -> Row {
        let (timestamp, value) = (Timestamp(9), Value::Integer(value));
        let mut row = Row { marker: Some(at), ..Row::default() };
        let share = Share { kind, first: at, stamp: at, timestamp, value };
        row.column_mut(&"a".into()).shares_mut().add(share);
        row
    }

    fn own(at: Stamp) -> bool {
        at.origin == Origin(1)
    }

    #[test]
    fn only_what_the_other_had_not_seen_is_a_conflict() {
        let (row, delta) = (written("a", stamp(5, 1), 1), written("a", stamp(6, 2), 2));
        let found = conflicts(&row, &delta, own);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].winner, found[0].rule), (Winner::There, Rule::LastWriter));
        assert_eq!(found[0].loser().unwrap().stamp, stamp(5, 1));
        assert!(conflicts(&row, &delta, |_| false).is_empty());
        assert!(conflicts(&row, &written("b", stamp(6, 2), 2), own).is_empty());
    }

    #[test]
    fn a_delete_conflicts_with_what_it_had_not_seen_either_way() {
        let row = written("a", stamp(5, 1), 1);
        let delete = Row { tombstone: Some(stamp(6, 2)), ..Row::default() };
        let found = conflicts(&row, &delete, own);
        assert_eq!((found.len(), found[0].winner), (1, Winner::There));
        let deleted = Row { tombstone: Some(stamp(7, 1)), ..Row::default() };
        let found = conflicts(&deleted, &written("a", stamp(6, 2), 1), own);
        assert_eq!((found.len(), found[0].winner), (1, Winner::Here));
        assert!(conflicts(&deleted, &delete, own).is_empty());
    }

    #[test]
    fn of_whole_rows_one_wins_in_all_columns() {
        let of_row = |rank, at, name: &str| {
            let kind = ShareKind::Row(rank);
            let mut row = Row { tombstone: Some(at), ..shared(kind, at, 1) };
            row.columns.push(Column { name: name.into(), ..row.columns[0].clone() });
            row
        };
        let (row, delta) = (of_row(1, stamp(7, 1), "b"), of_row(2, stamp(6, 2), "c"));
        let found = conflicts(&row, &delta, own);
        let columns: Vec<&str> = found.iter().map(|one| one.column.as_str()).collect();
        assert_eq!(columns, ["a", "b", "c"]);
        assert!(found.iter().all(|one| one.winner == Winner::There), "{found:?}");
        let found = conflicts(&row, &of_row(1, stamp(6, 2), "c"), own);
        assert!(found.iter().all(|one| one.winner == Winner::Here), "{found:?}");
    }

    #[test]
    fn rules_decide_and_counters_do_not_conflict() {
        let max = ShareKind::Max;
        let found = conflicts(&shared(max, stamp(5, 1), 9), &shared(max, stamp(6, 2), 2), own);
        assert_eq!((found[0].winner, found[0].rule), (Winner::Here, Rule::Max));
        let count = ShareKind::Counter;
        let (row, delta) = (shared(count, stamp(5, 1), 9), shared(count, stamp(6, 2), 2));
        assert!(conflicts(&row, &delta, own).is_empty());
        let delete = Row { tombstone: Some(stamp(9, 2)), ..Row::default() };
        assert_eq!(conflicts(&shared(max, stamp(5, 1), 9), &delete, own)[0].winner, Winner::Here);
        assert_eq!(conflicts(&row, &delete, own)[0].winner, Winner::There);
    }
}
