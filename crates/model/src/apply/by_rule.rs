//! Changes of rows of which columns have rules: what is written under a rule is a share.
//!
//! A write replaces the shares that it sees and kills what was written plainly; a share that it
//! does not see lives on beside it, and the rule decides between them when they are read. A counter
//! is a plain version, which a put sets, and shares, which only increments add to: a put, and a
//! delete, kill the increments of before. A change under another rule than before takes the
//! value as it is and writes it anew. What has expired is not looked at, whether or not it is still
//! on the disk.
//!
//! Where whole rows conflict, every write is the row as it is after it, and replaces all shares of
//! the row that it sees. Under region priority it is made of shares of its own.

use super::{
    ApplyContext, Refusal, deletion, incremented, put_delta, taken_in, update_delta, written,
};
use crate::change::{CellChange, CellWrite, RowAction};
use crate::hlc::Stamp;
use crate::row::{Cell, Column, Row};
use crate::rule::{ConflictRules, Rule};
use crate::share::{Seen, Share, ShareKind, elements};
use crate::show::View;
use crate::value::{Text, Value};

/// The delta and the row after it.
pub(super) fn change(
    context: &ApplyContext<'_>,
    view: &View,
    row: Option<&Row>,
    action: &RowAction,
) -> Result<(Row, Row), Refusal> {
    let none = ConflictRules::default();
    let rules = context.schema.options.rules.as_ref().unwrap_or(&none);
    let writer = Writer { context, view, row, rules };
    let delta = match action {
        RowAction::Put(cells) => writer.put(cells)?,
        RowAction::Update(changes) => writer.update(changes)?,
        RowAction::Delete => {
            let mut delta = deletion(context);
            writer.replace_all(&mut delta);
            delta
        }
    };
    Ok(taken_in(context, row, delta))
}

/// The delta that makes an image the row, where whole rows conflict, and the row after it.
pub(super) fn replace_row(
    context: &ApplyContext<'_>,
    view: &View,
    row: Option<&Row>,
    mut image: Row,
) -> (Row, Row) {
    let none = ConflictRules::default();
    let rules = context.schema.options.rules.as_ref().unwrap_or(&none);
    let writer = Writer { context, view, row, rules };
    if rules.default == Rule::Priority {
        let kind = ShareKind::Row(rules.rank(context.stamp.origin));
        for column in &mut image.columns {
            let newest = column.cells.drain(..).next();
            if let Some(Cell { timestamp, stamp, value: Some(value) }) = newest {
                column.shares_mut().add(Share { kind, first: stamp, stamp, timestamp, value });
            }
        }
    }
    writer.replace_all(&mut image);
    taken_in(context, row, image)
}

struct Writer<'a> {
    context: &'a ApplyContext<'a>,
    view: &'a View,
    row: Option<&'a Row>,
    rules: &'a ConflictRules,
}

impl Writer<'_> {
    fn stamp(&self) -> Stamp {
        self.context.stamp
    }

    fn column(&self, name: &Text) -> Option<&Column> {
        self.row.and_then(|row| row.column(name.as_bytes()))
    }

    /// The living shares of a column.
    fn shares(&self, name: &Text) -> impl Iterator<Item = &Share> {
        let shares = self.column(name).map_or(&[][..], Column::shares);
        let limits = *self.view.of(name);
        shares.iter().filter(move |share| limits.share_lives(share))
    }

    /// Those that are no part of a counter.
    fn rivals(&self, name: &Text) -> impl Iterator<Item = &Share> {
        self.shares(name).filter(|share| !share.is_counter())
    }

    /// The kind of share that a write of a column becomes; `None`: it is written plainly.
    fn kind(&self, rule: Rule) -> Option<ShareKind> {
        match rule {
            Rule::LastWriter | Rule::Counter => None,
            Rule::Priority => Some(ShareKind::Priority(self.rules.rank(self.stamp().origin))),
            Rule::Max => Some(ShareKind::Max),
            Rule::Min => Some(ShareKind::Min),
            Rule::Set => Some(ShareKind::Set),
        }
    }

    /// Replaces all shares of the row, as a put and a delete do.
    fn replace_all(&self, delta: &mut Row) {
        let columns = self.row.iter().flat_map(|row| &row.columns);
        columns.for_each(|column| self.replace(delta, &column.name));
    }

    /// Replaces the shares of a column; a counter's are killed by a tombstone instead.
    fn replace(&self, delta: &mut Row, name: &Text) {
        for share in self.rivals(name) {
            let seen = Seen { until: share.stamp, by: self.stamp() };
            delta.column_mut(name).shares_mut().see(seen);
        }
    }

    fn put(&self, cells: &[CellWrite]) -> Result<Row, Refusal> {
        let mut plain = Vec::with_capacity(cells.len());
        let mut ruled = Vec::new();
        for cell in cells {
            let rule = self.rules.of(&cell.name);
            check_value(rule, &cell.name, &cell.value)?;
            match self.kind(rule) {
                None => plain.push(cell.clone()),
                Some(kind) => ruled.push((kind, cell)),
            }
        }
        let mut delta = put_delta(self.context, &plain);
        self.replace_all(&mut delta);
        for (kind, cell) in ruled {
            self.add_share(&mut delta, kind, &cell.name, &written(self.stamp(), cell));
        }
        Ok(delta)
    }

    fn update(&self, changes: &[CellChange]) -> Result<Row, Refusal> {
        let mut delta = Row::default();
        for change in changes {
            match change {
                CellChange::Put(write) => self.write(&mut delta, write)?,
                CellChange::Increment { name, delta: by } => {
                    self.increment(&mut delta, name, *by)?;
                }
                CellChange::DeleteColumn { name } => {
                    delta.column_mut(name).tombstone = Some(self.stamp());
                    self.replace(&mut delta, name);
                }
                CellChange::DeleteVersion { name, timestamp } => {
                    let plain = std::slice::from_ref(change);
                    delta.merge(&update_delta(self.context, self.view, self.row, plain)?);
                    for share in self.rivals(name).filter(|one| one.timestamp == *timestamp) {
                        let seen = Seen { until: share.stamp, by: self.stamp() };
                        delta.column_mut(name).shares_mut().see(seen);
                    }
                }
            }
        }
        Ok(delta)
    }

    fn write(&self, delta: &mut Row, write: &CellWrite) -> Result<(), Refusal> {
        let rule = self.rules.of(&write.name);
        check_value(rule, &write.name, &write.value)?;
        let cell = written(self.stamp(), write);
        match self.kind(rule) {
            Some(kind) => self.share(delta, kind, &write.name, &cell),
            None => self.set(delta, rule, &write.name, cell),
        }
        Ok(())
    }

    /// Writes plainly; shares of the column go.
    fn set(&self, delta: &mut Row, rule: Rule, name: &Text, cell: Cell) {
        let stamp = self.stamp();
        delta.marker = Some(stamp);
        let has_shares = self.shares(name).next().is_some();
        let column = delta.column_mut(name);
        // A counter is set for good: increments from before it that are still on their way go too.
        if rule == Rule::Counter || has_shares {
            column.tombstone = Some(stamp);
        }
        column.set(cell);
        self.replace(delta, name);
    }

    /// Writes a share in place of all that is seen.
    fn share(&self, delta: &mut Row, kind: ShareKind, name: &Text, cell: &Cell) {
        delta.marker = Some(self.stamp());
        self.replace(delta, name);
        let cells = self.column(name).map_or(&[][..], |column| &column.cells);
        let limits = self.view.of(name);
        let is_plain = cells.iter().any(|cell| limits.lives(cell));
        if is_plain || self.shares(name).any(Share::is_counter) {
            delta.column_mut(name).tombstone = Some(self.stamp());
        }
        self.add_share(delta, kind, name, cell);
    }

    /// Of several versions of a column in one change the newest counts.
    fn add_share(&self, delta: &mut Row, kind: ShareKind, name: &Text, cell: &Cell) {
        let Some(value) = cell.value.clone() else { return };
        let stamp = self.stamp();
        let shares = delta.column_mut(name).shares_mut();
        let is_newer = |share: &Share| share.stamp == stamp && share.timestamp >= cell.timestamp;
        if !shares.list.iter().any(is_newer) {
            shares.list.retain(|share| share.stamp != stamp);
            shares.add(Share { kind, first: stamp, stamp, timestamp: cell.timestamp, value });
        }
    }

    fn increment(&self, delta: &mut Row, name: &Text, by: i64) -> Result<(), Refusal> {
        let rule = self.rules.of(name);
        let cell = incremented(self.stamp(), self.view, self.row, name, by)?;
        let has_rivals = self.rivals(name).next().is_some();
        match self.kind(rule) {
            Some(kind) => {
                if let Some(value) = &cell.value {
                    check_value(rule, name, value)?;
                }
                self.share(delta, kind, name, &cell);
            }
            None if rule == Rule::Counter && !has_rivals => self.count(delta, name, by)?,
            None => self.set(delta, rule, name, cell),
        }
        Ok(())
    }

    /// Adds to what this region has added since the counter was set.
    fn count(&self, delta: &mut Row, name: &Text, by: i64) -> Result<(), Refusal> {
        let stamp = self.stamp();
        delta.marker = Some(stamp);
        let is_own = |share: &&Share| share.origin() == stamp.origin && share.is_counter();
        let own = self.shares(name).find(is_own);
        let (first, before) = match own.map(|share| (share.first, &share.value)) {
            Some((first, Value::Integer(sum))) => (first, *sum),
            Some(_) | None => (stamp, 0),
        };
        let Some(sum) = before.checked_add(by) else {
            return Err(Refusal::IncrementOverflow { name: name.clone() });
        };
        let (kind, value) = (ShareKind::Counter, Value::Integer(sum));
        let timestamp = stamp.hlc.timestamp();
        let share = Share { kind, first, stamp, timestamp, value };
        delta.column_mut(name).shares_mut().add(share);
        Ok(())
    }
}

/// Whether a value is of the kind that a rule is for.
fn check_value(rule: Rule, name: &Text, value: &Value) -> Result<(), Refusal> {
    match (rule, value) {
        (Rule::Counter, Value::Integer(_)) => Ok(()),
        (Rule::Counter, _) => Err(Refusal::CounterOfNonInteger { name: name.clone() }),
        (Rule::Set, value) if elements(value).is_none() => {
            Err(Refusal::NoSet { name: name.clone() })
        }
        (Rule::LastWriter | Rule::Priority | Rule::Max | Rule::Min | Rule::Set, _) => Ok(()),
    }
}
