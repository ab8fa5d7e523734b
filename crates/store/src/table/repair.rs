//! Rows made like those of another replica, after both were compared.
//!
//! Each is changed only if it still is as it was compared, so that no newer change is lost: the
//! caller names what of the row was in the digest then. With one writer no entry after the compared
//! one may name the row, either: a delete of what is lost here changes nothing of it, and counts.
//! With several writers, and at a writer, a repair is an entry of the log like any change. At a
//! secondary of one writer it is not: its log is the writer's, and the row only becomes what that
//! log says.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use isthmus_digest::{Change, Parts, Sum};
use isthmus_model::change::Direction;
use isthmus_model::entry::{EntryBody, RowDelta};
use isthmus_model::hlc::Stamp;
use isthmus_model::ids::Lsn;
use isthmus_model::key::EncodedKey;
use isthmus_model::row::{Cell, Row};

use crate::codec::row::encode_row;
use crate::digest::{BadRange, Stamped};
use crate::error::StoreError;
use crate::limits::WRITE_CHANGES_MAX;
use crate::partition::{At, Inner, Seen};
use crate::pending::Pending;
use crate::snapshot::TableSnapshot;
use crate::spec::Writing;
use crate::table::Table;
use crate::table::prefetch::{Prefetched, Wanted};

/// A sum over rows, and how many they are.
type Total = (Sum, u64);

/// A row to repair.
#[derive(Clone, Debug)]
pub struct RepairRow {
    /// Its key.
    pub key: EncodedKey,
    /// What of it must be in the digest still; `None`: whatever it is.
    pub expected: Option<Parts>,
    /// One writer: the row as it shall be. Several: what to merge into it, with its own stamps.
    pub row: Row,
}

/// How the repair of a row ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repaired {
    /// It is as it shall be.
    Done,
    /// It has changed since it was compared, and was left as it is.
    Changed,
}

/// What was done to a range of which the disk and the digest differed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Healed {
    /// Nothing: they agree by now.
    Nothing,
    /// The rows were given back the bytes that the digest says.
    Rows,
    /// The digest was wrong and now says what the rows are.
    Digest,
}

/// The rows that entries have named since they were compared.
enum Named {
    /// It does not matter: what a repair writes bears stamps, and each register decides.
    Stamped,
    /// These, and what waits to become durable.
    Some(HashSet<Bytes>),
    /// It is not known any more.
    Unknown,
}

impl Named {
    fn has(&self, inner: &Inner, key: &EncodedKey) -> bool {
        match self {
            Named::Stamped => false,
            Named::Some(keys) => {
                keys.contains(&key.0) || matches!(inner.see(key), Seen::Pending(..))
            }
            Named::Unknown => true,
        }
    }
}

impl Table {
    /// Repairs rows, at most as many as one write may change; one result each, in order. They were
    /// compared as of the entry `since`. With one writer a row that a later entry names is left as
    /// it is; at the writer also one that such an entry may name, because that is too long ago.
    pub fn repair(&self, rows: Vec<RepairRow>, since: Lsn) -> Pending<Vec<Repaired>> {
        Pending::from_result(self.try_repair(rows, since))
    }

    fn try_repair(
        &self,
        rows: Vec<RepairRow>,
        since: Lsn,
    ) -> Result<Pending<Vec<Repaired>>, StoreError> {
        self.core.admit()?;
        if rows.len() > WRITE_CHANGES_MAX {
            return Err(StoreError::TooLarge("rows to repair"));
        }
        let newest = rows.iter().filter_map(|row| row.row.stamp_max()).max();
        if let Some(newest) = newest {
            self.core.stamps.observe(newest.hlc, self.core.wall_millis())?;
        }
        let wanted = rows.iter().map(|row| Wanted { key: row.key.clone(), decoded: true });
        let read = Prefetched::read(&self.core, &self.partition, wanted.collect())?;
        let mut inner = self.partition.inner.lock();
        if inner.dropped || inner.schema.options.is_dropped {
            return Err(StoreError::NoTable(inner.spec.id));
        }
        let bytes_before = inner.part.bytes;
        let named = self.named_after(&inner, since)?;
        let mut repaired = Vec::with_capacity(rows.len());
        for row in rows {
            repaired.push(match named.has(&inner, &row.key) {
                true => Repaired::Changed,
                false => self.repair_one(&mut inner, &read, row)?,
            });
        }
        if !repaired.contains(&Repaired::Done) {
            return Ok(Pending::ready(Ok(repaired)));
        }
        let (answer, pending) = Pending::new();
        let group = inner.open_group();
        inner.when_durable(group, Box::new(|done| answer.give(done.map(|()| repaired))));
        self.core.enqueue(&self.partition, &mut inner, bytes_before);
        Ok(pending)
    }

    fn named_after(&self, inner: &Inner, since: Lsn) -> Result<Named, StoreError> {
        if inner.spec.writers.are_many() {
            return Ok(Named::Stamped);
        }
        if !inner.has_digest() {
            return Ok(Named::Unknown);
        }
        let live = self.partition.digest.lock_at(self.partition.durable().state.groups)?;
        Ok(match (live.named_after(since), inner.spec.writing) {
            (Some(named), _) => Named::Some(named),
            (None, Writing::Accept) => Named::Unknown,
            // What is brought back here the writer has not: the next comparison finds it.
            (None, Writing::Refuse) => Named::Some(HashSet::new()),
        })
    }

    fn repair_one(
        &self,
        inner: &mut Inner,
        read: &Prefetched,
        wanted: RepairRow,
    ) -> Result<Repaired, StoreError> {
        let RepairRow { key, expected, row } = wanted;
        let before = read.parts(&self.core, &self.partition, inner, &key)?;
        if expected.is_some_and(|expected| counted(inner, &expected) != counted(inner, &before)) {
            return Ok(Repaired::Changed);
        }
        let horizon = self.partition.horizon(&inner.spec);
        let many = inner.spec.writers.are_many();
        if !many && inner.spec.writing == Writing::Refuse {
            let at = At { lsn: inner.state.lsn, stamp: None };
            inner.put_row(key, before, row, horizon, at);
            self.keep_past_anew(inner);
            return Ok(Repaired::Done);
        }
        let stamp = self.core.stamps.begin(self.core.wall_millis());
        inner.part.begun.push(stamp.hlc);
        let delta = if many { row } else { made_anew(&row, stamp) };
        let current = read.current(&self.core, &self.partition, inner, &key)?;
        let lsn = inner.next_lsn();
        self.keep_before((lsn, stamp), &key, current.row.as_deref(), &delta);
        let mut after = current.row.map(Arc::unwrap_or_clone).unwrap_or_default();
        after.merge(&delta);
        let at = At { lsn, stamp: Some(stamp) };
        inner.put_row(key.clone(), before, after, horizon, at);
        inner.push_own(lsn, stamp, None, EntryBody::Rows(vec![RowDelta { key, delta }]));
        Ok(Repaired::Done)
    }

    /// Settles a range of which a scrub has found that the disk and the digest differ. `healthy`
    /// are the rows of the range that another replica has otherwise, as it has them: they are
    /// written if they are what the digest says, and else nothing is (`Busy`). If none are given,
    /// the rows are right and the digest is set right.
    pub fn heal(
        &self,
        range: &BadRange,
        healthy: Vec<(EncodedKey, Option<Row>)>,
    ) -> Pending<Healed> {
        Pending::from_result(self.try_heal(range, healthy))
    }

    fn try_heal(
        &self,
        range: &BadRange,
        healthy: Vec<(EncodedKey, Option<Row>)>,
    ) -> Result<Pending<Healed>, StoreError> {
        self.core.admit()?;
        let mut inner = self.partition.inner.lock();
        if !inner.pending_keys(&range.start, range.end.as_ref()).is_empty() {
            return Err(StoreError::Busy);
        }
        let (expected, found) = self.sums_of(&inner, range)?;
        if expected == found {
            return Ok(Pending::ready(Ok(Healed::Nothing)));
        }
        let bytes_before = inner.part.bytes;
        let snapshot = self.snapshot()?;
        let mut sum = found;
        let mut writes = Vec::with_capacity(healthy.len());
        for (key, row) in healthy {
            let measure = self.partition.measure(&inner.state.rules, &inner.spec);
            // What cannot be read was not counted.
            let stored = snapshot.get_packed(&key)?;
            let stored = stored.and_then(|packed| measure.of_packed(&key.0, &packed).ok());
            let packed = row.as_ref().map(encode_row);
            let parts = match (&row, &packed) {
                (Some(row), Some(packed)) => measure.of_row(&key.0, row, packed),
                (Some(_) | None, Some(_) | None) => Parts::new(),
            };
            move_sum(&mut sum, range, &stored.unwrap_or_default(), &parts);
            writes.push((key, row.map(Arc::new), packed, parts));
        }
        let healed = if !writes.is_empty() {
            // Something changed meanwhile, or more is wrong than these rows.
            if sum != expected {
                return Err(StoreError::Busy);
            }
            for (key, row, packed, parts) in writes {
                inner.store_row(key, row, packed, parts);
            }
            Healed::Rows
        } else if range.damaged.is_some() {
            return Err(StoreError::corrupt("row")(crate::codec::Corrupt {
                what: "no replica has what the digest says",
            }));
        } else {
            set_digest(&mut inner, range, expected, found);
            self.measure_overlaid(&mut inner, range, &snapshot)?;
            Healed::Digest
        };
        let (answer, pending) = Pending::new();
        let group = inner.open_group();
        inner.when_durable(group, Box::new(move |done| answer.give(done.map(|()| healed))));
        self.core.enqueue(&self.partition, &mut inner, bytes_before);
        Ok(pending)
    }

    /// Rows written lately are known as the digest had them; from here on as they are.
    fn measure_overlaid(
        &self,
        inner: &mut Inner,
        range: &BadRange,
        snapshot: &TableSnapshot,
    ) -> Result<(), StoreError> {
        inner.forget_parts();
        for key in inner.overlaid_keys(&range.start, range.end.as_ref()) {
            let measure = self.partition.measure(&inner.state.rules, &inner.spec);
            let stored = snapshot.get_packed(&key)?;
            let parts = stored.and_then(|packed| measure.of_packed(&key.0, &packed).ok());
            inner.know_parts(&key, parts.unwrap_or_default());
        }
        Ok(())
    }

    /// What the digest says of a range in its lane, and what the rows of it add up to.
    fn sums_of(&self, inner: &Inner, range: &BadRange) -> Result<(Total, Total), StoreError> {
        let end = range.end.as_ref();
        let snapshot = self.snapshot()?;
        let live = self.partition.digest.lock_at(snapshot.groups())?;
        if live.group != snapshot.groups() {
            return Err(StoreError::Busy);
        }
        let mut expected = (Sum::default(), 0);
        for leaf in live.tree.leaves(range.lane, &range.start.0, end.map(|end| &end.0[..])) {
            expected.0 += leaf.sum;
            expected.1 += u64::from(leaf.rows);
        }
        drop(live);
        let measure = self.partition.measure(&inner.state.rules, &inner.spec);
        let mut found = (Sum::default(), 0);
        for row in snapshot.scan_packed(&range.start, end, Direction::Forward) {
            let (key, packed) = row?;
            let parts = measure.of_packed(&key.0, &packed).unwrap_or_default();
            move_sum(&mut found, range, &Parts::new(), &parts);
        }
        Ok((expected, found))
    }
}

/// What of a row still counts. What is remembered of a row written lately was measured before the
/// floors rose, and what a comparison saw may have been as well.
fn counted(inner: &Inner, parts: &Parts) -> Parts {
    let mut parts = parts.clone();
    parts.retain(|lane| inner.state.rules.counts(lane));
    parts
}

/// What a sum becomes when a row of it changes.
fn move_sum(sum: &mut Total, range: &BadRange, before: &Parts, after: &Parts) {
    if let Some((_, part)) = before.iter().find(|(lane, _)| *lane == range.lane) {
        sum.0 -= part;
        sum.1 = sum.1.wrapping_sub(1);
    }
    if let Some((_, part)) = after.iter().find(|(lane, _)| *lane == range.lane) {
        sum.0 += part;
        sum.1 = sum.1.wrapping_add(1);
    }
}

/// Changes the digest by what it lacks, as if a row at the start of the range had changed.
fn set_digest(inner: &mut Inner, range: &BadRange, expected: Total, found: Total) {
    let lsn = inner.state.lsn;
    let mut push = |delta: Sum, rows: i8| {
        let change = Change::Part { key: range.start.0.clone(), lane: range.lane, delta, rows };
        inner.part.digest.push(Stamped { change, lsn, stamp: None });
    };
    if found.0 != expected.0 {
        push(found.0 - expected.0, 0);
    }
    let step = if found.1 > expected.1 { 1 } else { -1 };
    for _ in 0..found.1.abs_diff(expected.1) {
        push(Sum::default(), step);
    }
}

/// A row written anew at a stamp; versions keep their timestamps.
pub(crate) fn made_anew(row: &Row, stamp: Stamp) -> Row {
    let mut anew = row.clone();
    anew.tombstone = Some(stamp);
    anew.marker = row.marker.map(|_| stamp);
    for column in &mut anew.columns {
        column.tombstone = None;
        column.trims.clear();
        column.cells.retain(|cell| cell.value.is_some());
        for cell in &mut column.cells {
            *cell = Cell { stamp, ..cell.clone() };
        }
    }
    anew.columns.retain(|column| !column.cells.is_empty());
    anew
}
