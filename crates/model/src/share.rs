//! What each region has contributed to a column whose conflicts a rule decides.
//!
//! A share is one region's last write of such a column; it bears its rule. A write says of each
//! share that its region had seen that it is replaced (`Seen`), so what lives side by side are
//! writes that had not seen each other, at most one per region. Which of them a read shows is
//! decided by their rule, when it is read. A counter's share is all that its region has added
//! since the column was last set or deleted; they add up, on top of the newest plain version. Where
//! whole rows conflict, the shares of one write are shown together or not at all (`view.rs`).
//!
//! Merging keeps of each region the later share, and removes what is seen or killed; a share that
//! takes another's place is killed by nothing that would have spared the other. So merging is
//! commutative, associative and idempotent, and needs no schema.

use std::cmp::Ordering;

use serde_json::Value as Json;

use crate::hlc::{Hlc, Stamp};
use crate::ids::{Origin, Timestamp};
use crate::row::{Cell, Trim};
use crate::value::{Text, Value};

/// The rule under which a share was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShareKind {
    /// Region priority; the writer's rank.
    Priority(u8),
    /// The greatest value is shown.
    Max,
    /// The smallest value is shown.
    Min,
    /// They add up.
    Counter,
    /// The elements of all are shown.
    Set,
    /// Region priority where whole rows conflict; the writer's rank. The write has a share of this
    /// kind in each column of the row.
    Row(u8),
}

/// One region's last write of a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// Under which rule.
    pub kind: ShareKind,
    /// Of a counter: its first increment since the column was set. Else the same as `stamp`.
    pub first: Stamp,
    /// When it was last written; its origin is the region.
    pub stamp: Stamp,
    /// The version that it is shown as.
    pub timestamp: Timestamp,
    /// What was written; of a counter the sum of the increments.
    pub value: Value,
}

/// A region's shares up to one that had been seen when the column was written or deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Replaces the shares of this origin up to this moment.
    pub until: Stamp,
    /// The write that did so.
    pub by: Stamp,
}

/// All shares of a column.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shares {
    /// By origin; of each at most one counter and, after it, one of another kind.
    pub list: Vec<Share>,
    /// By origin and moment; none includes another.
    pub seen: Vec<Seen>,
}

impl Share {
    /// Whether it is part of a counter.
    pub fn is_counter(&self) -> bool {
        self.kind == ShareKind::Counter
    }

    /// The region that wrote it.
    pub fn origin(&self) -> Origin {
        self.stamp.origin
    }

    /// Whether it is part of a write of a whole row.
    pub fn is_of_row(&self) -> bool {
        matches!(self.kind, ShareKind::Row(_))
    }

    /// What it wrote, as a version.
    pub(crate) fn as_cell(&self) -> Cell {
        let Share { timestamp, stamp, .. } = *self;
        Cell { timestamp, stamp, value: Some(self.value.clone()) }
    }

    /// Its place among the shares of a column.
    fn slot(&self) -> (Origin, bool) {
        (self.origin(), !self.is_counter())
    }

    /// Whether an expiry covers it. It counts as a cell whose timestamp is its moment, as the
    /// marker does: a user's timestamp could let an older share outlive the one in its place.
    pub fn is_expired(&self, expiry: &Trim) -> bool {
        self.stamp.hlc.timestamp() < expiry.below && self.stamp <= expiry.stamp
    }
}

impl Seen {
    fn includes(&self, other: &Seen) -> bool {
        self.until.origin == other.until.origin && self.until >= other.until && self.by >= other.by
    }

    /// Whether it replaces a share.
    pub fn covers(&self, share: &Share) -> bool {
        self.until.origin == share.origin() && share.stamp <= self.until
    }
}

impl Shares {
    /// Whether nothing is known.
    pub fn is_bare(&self) -> bool {
        self.list.is_empty() && self.seen.is_empty()
    }

    /// Adds a share, unless a later one of its region is there.
    pub fn add(&mut self, share: Share) {
        match self.list.binary_search_by_key(&share.slot(), Share::slot) {
            Ok(place) => {
                let known = &mut self.list[place];
                if (known.first, known.stamp) < (share.first, share.stamp) {
                    *known = share;
                }
            }
            Err(place) => self.list.insert(place, share),
        }
    }

    /// Takes note of what is replaced. As with trims, all are kept that no other covers: what is
    /// forgotten below the horizon must not have hidden what is not.
    pub fn see(&mut self, seen: Seen) {
        if self.seen.iter().any(|known| known.includes(&seen)) {
            return;
        }
        self.seen.retain(|known| !seen.includes(known));
        let order = |seen: &Seen| (seen.until.origin, seen.until);
        let place = self.seen.partition_point(|known| order(known) < order(&seen));
        self.seen.insert(place, seen);
    }

    /// Takes in what another region knows.
    pub fn merge(&mut self, other: &Shares) {
        for share in &other.list {
            self.add(share.clone());
        }
        for seen in &other.seen {
            self.see(*seen);
        }
    }

    /// Removes what is replaced, and counters that began before a tombstone.
    pub fn settle(&mut self, tombstone: Option<Stamp>) {
        let seen = &self.seen;
        self.list.retain(|share| {
            let is_killed = share.is_counter() && tombstone.is_some_and(|kill| share.first < kill);
            !is_killed && !seen.iter().any(|seen| seen.covers(share))
        });
    }

    /// Forgets what was replaced by old writes.
    pub(crate) fn forget(&mut self, is_old: impl Fn(Stamp) -> bool) {
        self.seen.retain(|seen| !is_old(seen.by));
    }

    /// The moment of the newest write whose replacing is remembered.
    pub fn newest_kill(&self) -> Option<Hlc> {
        self.seen.iter().map(|seen| seen.by.hlc).max()
    }

    /// The greatest stamp in it.
    pub fn stamp_max(&self) -> Option<Stamp> {
        let shares = self.list.iter().map(|share| share.stamp).max();
        let seen = self.seen.iter().map(|seen| seen.by.max(seen.until)).max();
        shares.max(seen)
    }

    /// What a read shows in place of the plain versions (newest first), if anything; shares that
    /// do not live at its moment are handed in as dead by `lives`.
    pub fn face<'a>(
        &self,
        plain: impl Iterator<Item = &'a Cell> + Clone,
        lives: impl Fn(&Share) -> bool,
    ) -> Option<Cell> {
        let plain_stamp = plain.clone().map(|cell| cell.stamp).max();
        let living = || self.list.iter().filter(|share| lives(share));
        let rivals = || living().filter(|share| !share.is_counter());
        if let Some(latest) = rivals().max_by_key(|share| share.stamp)
            && Some(latest.stamp) > plain_stamp
        {
            return Some(shown_of_rivals(latest, rivals()));
        }
        let counts = living().filter(|share| share.is_counter());
        counted(plain.clone().next(), counts)
    }
}

/// Which of several writes that had not seen each other is shown. The latest one's rule decides
/// among those of that rule.
fn shown_of_rivals<'a>(latest: &'a Share, rivals: impl Iterator<Item = &'a Share>) -> Cell {
    let same = |share: &&Share| {
        std::mem::discriminant(&share.kind) == std::mem::discriminant(&latest.kind)
    };
    let rivals: Vec<&Share> = rivals.filter(same).collect();
    let best = rivals.iter().copied().max_by(|a, b| rivalry(a, b)).unwrap_or(latest);
    let value = match latest.kind {
        ShareKind::Set if rivals.len() > 1 => union(&rivals),
        ShareKind::Set
        | ShareKind::Priority(_)
        | ShareKind::Row(_)
        | ShareKind::Max
        | ShareKind::Min
        | ShareKind::Counter => best.value.clone(),
    };
    Cell { value: Some(value), ..best.as_cell() }
}

/// Orders two shares of one rule by who wins.
pub fn rivalry(a: &Share, b: &Share) -> Ordering {
    let by_rule = match (a.kind, b.kind) {
        (ShareKind::Priority(a), ShareKind::Priority(b))
        | (ShareKind::Row(a), ShareKind::Row(b)) => a.cmp(&b),
        (ShareKind::Max, ShareKind::Max) => compare_values(&a.value, &b.value),
        (ShareKind::Min, ShareKind::Min) => compare_values(&b.value, &a.value),
        _ => Ordering::Equal,
    };
    by_rule.then(a.stamp.cmp(&b.stamp))
}

/// Orders values: by type, then by value.
pub fn compare_values(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Integer(a), Value::Integer(b)) => a.cmp(b),
        (Value::Double(a), Value::Double(b)) => a.total_cmp(b),
        (Value::Boolean(a), Value::Boolean(b)) => a.cmp(b),
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Binary(a), Value::Binary(b)) => a.cmp(b),
        _ => type_order(a).cmp(&type_order(b)),
    }
}

fn type_order(value: &Value) -> u8 {
    match value {
        Value::Integer(_) => 0,
        Value::Double(_) => 1,
        Value::Boolean(_) => 2,
        Value::String(_) => 3,
        Value::Binary(_) => 4,
    }
}

/// The sum of a counter: increments on top of the newest plain version. `None`: there are none, or
/// the version is no number.
fn counted<'a>(base: Option<&Cell>, shares: impl Iterator<Item = &'a Share>) -> Option<Cell> {
    let base_value = match base.map(|cell| &cell.value) {
        None | Some(None) => 0,
        Some(Some(Value::Integer(number))) => *number,
        Some(Some(Value::Double(_) | Value::Boolean(_) | Value::String(_) | Value::Binary(_))) => {
            return None;
        }
    };
    let mut sum = i128::from(base_value);
    let mut newest: Option<(Timestamp, Stamp)> = None;
    for share in shares {
        if let Value::Integer(number) = &share.value {
            sum += i128::from(*number);
        }
        newest = newest.max(Some((share.timestamp, share.stamp)));
    }
    let (timestamp, stamp) = newest?;
    let timestamp = base.map_or(timestamp, |cell| cell.timestamp.max(timestamp));
    let sum = sum.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64;
    Some(Cell { timestamp, stamp, value: Some(Value::Integer(sum)) })
}

/// The elements of a value that stands for a set: a text that is a JSON array.
pub fn elements(value: &Value) -> Option<Vec<String>> {
    let Value::String(text) = value else { return None };
    let elements: Vec<Json> = serde_json::from_str(text.as_str()).ok()?;
    Some(elements.iter().map(Json::to_string).collect())
}

/// The elements of all, each once, in the order of their texts.
fn union(shares: &[&Share]) -> Value {
    let all = shares.iter().filter_map(|share| elements(&share.value)).flatten();
    let all: std::collections::BTreeSet<String> = all.collect();
    let list: Vec<String> = all.into_iter().collect();
    Value::String(Text::from(format!("[{}]", list.join(","))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(hlc: u64, origin: u8) -> Stamp {
        Stamp { hlc: Hlc(hlc), origin: Origin(origin) }
    }

    fn share(kind: ShareKind, at: Stamp, value: Value) -> Share {
        Share { kind, first: at, stamp: at, timestamp: at.hlc.timestamp(), value }
    }

    fn face(shares: &Shares, plain: &[Cell]) -> Option<Value> {
        shares.face(plain.iter(), |_| true)?.value
    }

    fn of(kind: ShareKind, values: [Value; 2]) -> Shares {
        let mut shares = Shares::default();
        for (value, at) in values.into_iter().zip([stamp(5, 1), stamp(6, 2)]) {
            shares.add(share(kind, at, value));
        }
        shares
    }

    #[test]
    fn each_rule_shows_what_it_says() {
        let pair = [Value::Integer(9), Value::Integer(3)];
        assert_eq!(face(&of(ShareKind::Max, pair.clone()), &[]), Some(Value::Integer(9)));
        assert_eq!(face(&of(ShareKind::Min, pair.clone()), &[]), Some(Value::Integer(3)));
        assert_eq!(face(&of(ShareKind::Counter, pair.clone()), &[]), Some(Value::Integer(12)));
        let mut ranked = of(ShareKind::Priority(1), pair);
        assert_eq!(face(&ranked, &[]), Some(Value::Integer(3)));
        ranked.list[0].kind = ShareKind::Priority(2);
        assert_eq!(face(&ranked, &[]), Some(Value::Integer(9)));
        let sets = [Value::String("[\"b\", 1]".into()), Value::String("[\"a\",\"b\"]".into())];
        let both = Value::String("[\"a\",\"b\",1]".into());
        assert_eq!(face(&of(ShareKind::Set, sets), &[]), Some(both));
    }

    #[test]
    fn counters_stand_on_the_newest_version_and_rivals_yield_to_a_later_one() {
        let cell = |at, value| {
            let stamp = stamp(at, 3);
            Cell { timestamp: stamp.hlc.timestamp(), stamp, value: Some(value) }
        };
        let pair = [Value::Integer(9), Value::Integer(3)];
        let counter = of(ShareKind::Counter, pair.clone());
        assert_eq!(face(&counter, &[cell(2, Value::Integer(100))]), Some(Value::Integer(112)));
        assert_eq!(face(&counter, &[cell(2, Value::Boolean(true))]), None);
        let max = of(ShareKind::Max, pair);
        assert_eq!(face(&max, &[cell(7, Value::Integer(1))]), None);
        assert_eq!(face(&max, &[cell(2, Value::Integer(50))]), Some(Value::Integer(9)));
    }

    #[test]
    fn what_was_seen_is_replaced_and_what_was_not_stays() {
        let mut shares = of(ShareKind::Max, [Value::Integer(9), Value::Integer(3)]);
        shares.see(Seen { until: stamp(5, 1), by: stamp(8, 3) });
        shares.see(Seen { until: stamp(5, 2), by: stamp(8, 3) });
        shares.settle(Some(stamp(7, 3)));
        assert_eq!(shares.list.len(), 1);
        assert_eq!(face(&shares, &[]), Some(Value::Integer(3)));
        shares.forget(|by| by.hlc < Hlc(9));
        assert!(shares.seen.is_empty());
    }
}
