//! A full copy: ranges of rows of another region take the place of what is here.
//!
//! A copied range replaces. With several writers that means register by register: what the source
//! has, and of what is here only that which the source has not yet heard of. With one writer there
//! is one history, the source's, and nothing else stays.

use isthmus_model::change::Direction;
use isthmus_model::commit::{MadeRange, Term};
use isthmus_model::expiry::Expiry;
use isthmus_model::hlc::{Hlc, Stamp};
use isthmus_model::ids::{Epoch, Lsn, Origin};
use isthmus_model::key::EncodedKey;
use isthmus_model::row::Row;
use isthmus_model::schema::Schema;

use crate::atomic::AtomicState;
use crate::digest::Rules;
use crate::error::StoreError;
use crate::keys::partition::Watermark;
use crate::limits::REPLACE_ROWS_MAX;
use crate::partition::{At, Inner};
use crate::pending::Pending;
use crate::snapshot::scan_rows;
use crate::spec::{TableSpec, Writing};
use crate::store::{check_note, note_write};
use crate::table::Table;
use crate::table::apply::{put_schema, take_schema};
use crate::table::prefetch::{Prefetched, Wanted};

/// What a copy leaves behind at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyDone {
    /// The region that was copied from.
    pub origin: Origin,
    /// The epoch that it obeyed.
    pub epoch: Epoch,
    /// The end of its log when the first chunk was read: entries after it follow.
    pub lsn: Lsn,
    /// The greatest moment in its log then.
    pub hlc: Hlc,
    /// What it had applied of every origin then.
    pub vector: Vec<Watermark>,
    /// Of which lives of their origins that is, where it is known.
    pub lives: Vec<Stamp>,
    /// What it had logged as expired.
    pub expiry: Vec<Expiry>,
    /// The table as it had it, whose schema and writer may be newer than those here. With one
    /// writer its schema takes the place of that here, newer or not.
    pub table: Option<TableSpec>,
    /// What was prepared and is in its log then, of terms that are not void; `None`: it did not
    /// tell, and everything that is prepared here counts as such.
    pub made: Option<Vec<MadeRange>>,
    /// The latest term that was settled in its log then; `None`: that of the table. That may be
    /// later, since the copy may have gone on from newer rows: what is prepared here and void by a
    /// later term may not be in what is copied.
    pub settled: Option<Term>,
    /// What it kept of batches of several partitions; of any later moment, too.
    pub atomics: AtomicState,
    /// What its digest counted, which is what the digest here must count under that schema.
    pub rules: Option<Rules>,
}

/// What becomes durable with a chunk, beside its rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beside {
    /// Ends the copy and sets the watermarks.
    pub done: Option<CopyDone>,
    /// A named record, for resuming.
    pub note: Option<(Vec<u8>, Vec<u8>)>,
}

/// The range of a chunk.
struct Range<'a> {
    start: &'a EncodedKey,
    end: Option<&'a EncodedKey>,
}

/// What a chunk is judged by.
struct Chunk<'a> {
    vector: &'a [(Origin, Hlc)],
    keep_uncovered: bool,
}

impl Table {
    /// Takes what the rows to come were written under, before they come: what the source has logged
    /// as expired, and its schema where that is newer. Only with several writers: a write that
    /// meets a share under a schema without rules would replace it here and nowhere else. With
    /// one writer nobody writes here meanwhile, and all of it comes with the copy's end; but what
    /// has expired here alone, in a history that ends here, stands in the way of what comes.
    pub fn begin_copy(&self, schema: &Schema, expiry: &[Expiry]) -> Pending<()> {
        Pending::from_result(self.try_begin_copy(schema, expiry))
    }

    fn try_begin_copy(
        &self,
        schema: &Schema,
        expiry: &[Expiry],
    ) -> Result<Pending<()>, StoreError> {
        self.core.admit()?;
        let mut inner = self.partition.inner.lock();
        if inner.dropped {
            return Err(StoreError::NoTable(inner.spec.id));
        }
        let bytes_before = inner.part.bytes;
        if !inner.spec.writers.are_many() {
            return match inner.leave_expiry_for(expiry) {
                true => Ok(self.enqueue_told(&mut inner, bytes_before, ())),
                false => Ok(Pending::ready(Ok(()))),
            };
        }
        if schema.number <= inner.schema.number {
            return Ok(Pending::ready(Ok(())));
        }
        take_schema(&mut inner, schema)?;
        for expiry in expiry {
            let at = At { lsn: inner.state.lsn, stamp: None };
            inner.expire(*expiry, at);
        }
        Ok(self.enqueue_told(&mut inner, bytes_before, ()))
    }

    /// Replaces the rows from `start` (inclusive) to `end` (exclusive; `None`: the last) with
    /// `rows`, which must lie in it, in order. `source_vector` tells what the source had heard of.
    /// `note` is a named record that becomes durable with it, for resuming; `done` ends the copy
    /// and sets the watermarks.
    pub fn replace_range(
        &self,
        start: &EncodedKey,
        end: Option<&EncodedKey>,
        rows: Vec<(EncodedKey, Row)>,
        source_vector: &[(Origin, Hlc)],
        done: Option<CopyDone>,
        note: Option<(Vec<u8>, Vec<u8>)>,
    ) -> Pending<()> {
        let range = Range { start, end };
        Pending::from_result(self.try_replace(range, rows, source_vector, Beside { done, note }))
    }

    /// Replaces single rows, as `replace_range` would if the range's other rows were alike: `rows`
    /// by what the source has, those at `gone` by nothing. Both ascend.
    pub fn replace_rows(
        &self,
        rows: Vec<(EncodedKey, Row)>,
        gone: Vec<EncodedKey>,
        source_vector: &[(Origin, Hlc)],
        beside: Beside,
    ) -> Pending<()> {
        Pending::from_result(self.try_replace_rows(rows, gone, source_vector, beside))
    }

    /// Answers when all that was accepted until now is durable.
    pub fn settled(&self) -> Pending<()> {
        if let Err(error) = self.core.check_alive() {
            return Pending::ready(Err(error));
        }
        let mut inner = self.partition.inner.lock();
        let Some(group) = inner.last_pending_group() else { return Pending::ready(Ok(())) };
        let (answer, pending) = Pending::new();
        inner.when_durable(group, Box::new(|done| answer.give(done)));
        pending
    }

    fn try_replace_rows(
        &self,
        rows: Vec<(EncodedKey, Row)>,
        gone: Vec<EncodedKey>,
        vector: &[(Origin, Hlc)],
        beside: Beside,
    ) -> Result<Pending<()>, StoreError> {
        let everything = Range { start: &EncodedKey::default(), end: None };
        if rows.len() + gone.len() > REPLACE_ROWS_MAX {
            return Err(StoreError::TooLarge("rows of a copied range"));
        }
        self.admit_chunk(&everything, &rows, &beside)?;
        let mut changes: std::collections::BTreeMap<EncodedKey, Row> =
            gone.into_iter().map(|key| (key, Row::default())).collect();
        changes.extend(rows);
        let wanted = changes.keys().map(|key| Wanted { key: key.clone(), decoded: true });
        let read = Prefetched::read(&self.core, &self.partition, wanted.collect())?;
        let mut inner = self.partition.inner.lock();
        self.check_copyable(&inner, beside.done.as_ref())?;
        let bytes_before = inner.part.bytes;
        let keep_uncovered = inner.spec.writers.are_many();
        if let Some(done) = beside.done.as_ref().filter(|_| !keep_uncovered) {
            self.remove_log_after(&mut inner, done.lsn)?;
        }
        let chunk = Chunk { vector, keep_uncovered };
        let horizon = self.partition.horizon(&inner.spec);
        let at = At { lsn: inner.state.lsn, stamp: None };
        for (key, row) in changes {
            let known = read.current(&self.core, &self.partition, &inner, &key)?.row;
            let next = chunk.next_row(known.as_deref(), row);
            if known.as_deref().unwrap_or(&Row::default()) != &next {
                let before = read.parts(&self.core, &self.partition, &inner, &key)?;
                inner.put_row(key, before, next, horizon, at);
            }
        }
        self.accept_chunk(&mut inner, bytes_before, beside)
    }

    /// Whether a chunk may be accepted, and that nothing of it is from too far ahead.
    fn admit_chunk(
        &self,
        range: &Range<'_>,
        rows: &[(EncodedKey, Row)],
        beside: &Beside,
    ) -> Result<(), StoreError> {
        self.core.admit()?;
        check_rows(range, rows)?;
        if let Some((name, note)) = &beside.note {
            check_note(name, Some(note))?;
        }
        let newest = rows.iter().filter_map(|(_, row)| row.stamp_max()).max();
        let newest = newest.map_or(Hlc::MIN, |stamp| stamp.hlc);
        self.partition.note_copied(newest);
        let newest = newest.max(beside.done.as_ref().map_or(Hlc::MIN, |done| done.hlc));
        self.core.stamps.observe(newest, self.core.wall_millis())?;
        Ok(())
    }

    /// Accepts what was put, and what becomes durable with it.
    fn accept_chunk(
        &self,
        inner: &mut Inner,
        bytes_before: usize,
        beside: Beside,
    ) -> Result<Pending<()>, StoreError> {
        // A copy brings rows and not the entries that made them.
        self.keep_past_anew(inner);
        if let Some((name, note)) = beside.note {
            inner.part.bytes += note.len();
            inner.part.writes.push(note_write(&name, Some(&note)));
        }
        if let Some(done) = beside.done {
            self.end_copy(inner, done)?;
        }
        let (answer, pending) = Pending::new();
        let group = inner.open_group();
        inner.when_durable(group, Box::new(|done| answer.give(done)));
        self.core.enqueue(&self.partition, inner, bytes_before);
        Ok(pending)
    }

    fn try_replace(
        &self,
        range: Range<'_>,
        mut rows: Vec<(EncodedKey, Row)>,
        vector: &[(Origin, Hlc)],
        beside: Beside,
    ) -> Result<Pending<()>, StoreError> {
        self.admit_chunk(&range, &rows, &beside)?;
        // Rows that are only here may be more than fit one batch: those of the front go first,
        // with the copied rows among them.
        let mut start = range.start.clone();
        while let Some(cut) = self.key_after(&start, range.end, REPLACE_ROWS_MAX)? {
            let later = rows.partition_point(|(key, _)| *key < cut);
            let rest = rows.split_off(later);
            let front = Range { start: &start, end: Some(&cut) };
            // Its answer is that of the last piece, which becomes durable with it or after it.
            drop(self.replace_piece(front, rows, vector, Beside::default())?);
            rows = rest;
            start = cut;
        }
        self.replace_piece(Range { start: &start, end: range.end }, rows, vector, beside)
    }

    /// The key that comes `count` keys after the first one of a range, if it has so many.
    fn key_after(
        &self,
        start: &EncodedKey,
        end: Option<&EncodedKey>,
        count: usize,
    ) -> Result<Option<EncodedKey>, StoreError> {
        let snapshot = self.core.engine.snapshot()?;
        let id = self.partition.id;
        let mut keys = scan_rows(&*snapshot, id, start, end, Direction::Forward).skip(count);
        Ok(keys.next().transpose()?.map(|(key, _)| key))
    }

    fn replace_piece(
        &self,
        range: Range<'_>,
        rows: Vec<(EncodedKey, Row)>,
        vector: &[(Origin, Hlc)],
        beside: Beside,
    ) -> Result<Pending<()>, StoreError> {
        let groups_finished = self.partition.groups_finished();
        let here = self.rows_here(&range)?;
        let mut inner = self.partition.inner.lock();
        self.check_copyable(&inner, beside.done.as_ref())?;
        // Looked at again under the lock only if a commit came between.
        let here = match inner.is_current(groups_finished) {
            true => here,
            false => self.rows_here(&range)?,
        };
        let bytes_before = inner.part.bytes;
        let keep_uncovered = inner.spec.writers.are_many();
        if let Some(done) = beside.done.as_ref().filter(|_| !keep_uncovered) {
            self.remove_log_after(&mut inner, done.lsn)?;
        }
        self.put_chunk(&mut inner, &range, here, rows, &Chunk { vector, keep_uncovered })?;
        self.accept_chunk(&mut inner, bytes_before, beside)
    }

    fn check_copyable(&self, inner: &Inner, done: Option<&CopyDone>) -> Result<(), StoreError> {
        if inner.dropped {
            return Err(StoreError::NoTable(inner.spec.id));
        }
        let is_writer = !inner.spec.writers.are_many() && inner.spec.writing == Writing::Accept;
        if is_writer || done.is_some_and(|done| done.epoch < inner.state.epoch) {
            let partition = inner.spec.partition;
            return Err(StoreError::Fenced { partition, epoch: inner.state.epoch });
        }
        if let Some(table) = done.and_then(|done| done.table.as_ref())
            && table.schema.key_columns != inner.schema.key_columns
        {
            return Err(StoreError::BadSchema("key columns never change".into()));
        }
        Ok(())
    }

    fn rows_here(&self, range: &Range<'_>) -> Result<Vec<(EncodedKey, Row)>, StoreError> {
        let snapshot = self.core.engine.snapshot()?;
        let id = self.partition.id;
        scan_rows(&*snapshot, id, range.start, range.end, Direction::Forward).collect()
    }

    fn put_chunk(
        &self,
        inner: &mut Inner,
        range: &Range<'_>,
        here: Vec<(EncodedKey, Row)>,
        rows: Vec<(EncodedKey, Row)>,
        chunk: &Chunk<'_>,
    ) -> Result<(), StoreError> {
        let horizon = self.partition.horizon(&inner.spec);
        let at = At { lsn: inner.state.lsn, stamp: None };
        let mut here: std::collections::BTreeMap<EncodedKey, Row> = here.into_iter().collect();
        let nothing_read = Prefetched::read(&self.core, &self.partition, Vec::new())?;
        for key in inner.pending_keys(range.start, range.end) {
            let current = nothing_read.current(&self.core, &self.partition, inner, &key)?;
            match current.row {
                Some(row) => here.insert(key, std::sync::Arc::unwrap_or_clone(row)),
                None => here.remove(&key),
            };
        }
        for (key, row) in rows {
            let known = here.remove(&key);
            let next = chunk.next_row(known.as_ref(), row);
            if known.as_ref() != Some(&next) {
                let before = inner.parts_of(&key, known.as_ref());
                inner.put_row(key, before, next, horizon, at);
            }
        }
        for (key, known) in here {
            let next = chunk.next_row(Some(&known), Row::default());
            if next != known {
                let before = inner.parts_of(&key, Some(&known));
                inner.put_row(key, before, next, horizon, at);
            }
        }
        Ok(())
    }

    /// Sets the watermarks to where the source's log goes on.
    fn end_copy(&self, inner: &mut Inner, done: CopyDone) -> Result<(), StoreError> {
        inner.state.epoch = inner.state.epoch.max(done.epoch);
        let mut is_as_new = false;
        // First, since an expiry names families of it.
        if let Some(schema) = done.table.as_ref().map(|table| &table.schema) {
            if inner.spec.writers.are_many() {
                is_as_new = schema.number >= inner.schema.number;
                take_schema(inner, schema)?;
            } else {
                // Also in place of a newer one, which was of a tail: a change that the source has
                // not, or an end that was none.
                is_as_new = true;
                put_schema(inner, schema)?;
            }
        }
        for expiry in &done.expiry {
            inner.expire(*expiry, At { lsn: inner.state.lsn, stamp: None });
        }
        if let Some(rules) = done.rules.as_ref().filter(|_| is_as_new) {
            inner.take_rules(rules);
        }
        if !inner.spec.writers.are_many() {
            inner.state.lsn = done.lsn;
            inner.state.hlc = done.hlc;
            inner.state.log_start = done.lsn;
            inner.state.watermarks = done.vector;
            let of_table = done.table.as_ref().map(|table| table.settled);
            let settled = done.settled.or(of_table).unwrap_or(inner.state.settled);
            inner.take_made(settled, done.made.as_deref());
            let (partition, group) = (inner.spec.partition, inner.open_group());
            let writes = inner.atomics.replace(partition, done.atomics, group);
            inner.part.writes.extend(writes);
            if let Some(table) = &done.table {
                inner.take_writer_of(table);
            }
            return Ok(());
        }
        if let Some(rules) = &done.rules {
            // What the source has forgotten by its horizon, copied rows here have forgotten too.
            let at = At { lsn: inner.state.lsn, stamp: None };
            inner.drop_kills_below(rules.kills_floor, at);
        }
        let source = Watermark { origin: done.origin, lsn: done.lsn, hlc: done.hlc };
        let mut has_passed_by = false;
        for mark in done.vector.into_iter().chain([source]) {
            if mark.origin == self.own() {
                // Others have seen our log go so far: a region that lost its disk goes on there.
                if mark.lsn > inner.state.lsn {
                    inner.part.records.clear();
                    inner.part.log_replaced = true;
                    inner.state.lsn = mark.lsn;
                    inner.state.log_start = mark.lsn;
                }
                inner.state.hlc = inner.state.hlc.max(mark.hlc);
                continue;
            }
            let (lsn, hlc) = inner.watermark(self.own(), mark.origin);
            if mark.lsn > lsn {
                inner.state.set_watermark(mark);
                if mark.origin != done.origin {
                    let life = done.lives.iter().find(|life| life.origin == mark.origin);
                    let unknown = Stamp { hlc: Hlc::MIN, origin: mark.origin };
                    inner.state.meet(life.copied().unwrap_or(unknown));
                }
                // A range without entries has no later moment.
                has_passed_by |= mark.hlc > hlc;
            }
        }
        if has_passed_by {
            // Entries that came as rows are not in this log. An address of its own, so that
            // whoever has the log through here is not taken for one that has them.
            let here = inner.next_lsn();
            inner.cover_log(here);
            inner.state.whole_after = here;
            *self.partition.whole_marks.lock() = (here, inner.state.watermarks.clone());
        }
        Ok(())
    }
}

impl Chunk<'_> {
    /// The row that takes the place of `known` where the source has `row`.
    fn next_row(&self, known: Option<&Row>, row: Row) -> Row {
        let Some(known) = known.filter(|_| self.keep_uncovered) else { return row };
        let mut next = row;
        next.merge(&self.uncovered(known));
        next
    }

    fn covers(&self, stamp: Stamp) -> bool {
        self.vector.iter().any(|(origin, hlc)| *origin == stamp.origin && stamp.hlc <= *hlc)
    }

    /// What of a row the source had not heard of.
    fn uncovered(&self, known: &Row) -> Row {
        let new = |stamp: &Stamp| !self.covers(*stamp);
        let mut row = known.clone();
        row.tombstone = row.tombstone.filter(new);
        row.marker = row.marker.filter(new);
        for column in &mut row.columns {
            column.tombstone = column.tombstone.filter(new);
            column.trims.retain(|trim| new(&trim.stamp));
            column.cells.retain(|cell| new(&cell.stamp));
            column.change_shares(|shares| {
                shares.list.retain(|share| new(&share.stamp));
                shares.seen.retain(|seen| new(&seen.by));
            });
        }
        row.columns.retain(|column| !column.is_bare());
        row
    }
}

fn check_rows(range: &Range<'_>, rows: &[(EncodedKey, Row)]) -> Result<(), StoreError> {
    if rows.len() > REPLACE_ROWS_MAX {
        return Err(StoreError::TooLarge("rows of a copied range"));
    }
    if !rows.is_sorted_by(|(a, _), (b, _)| a < b) {
        return Err(StoreError::BadRange("rows are out of order"));
    }
    let before = rows.first().is_some_and(|(key, _)| key < range.start);
    let after = rows.last().is_some_and(|(key, _)| range.end.is_some_and(|end| key >= end));
    match before || after {
        true => Err(StoreError::BadRange("a row lies outside of it")),
        false => Ok(()),
    }
}
