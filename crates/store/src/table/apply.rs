//! Entries of other regions.
//!
//! A range is taken only where the last one of its origin ended, so that a hole cannot look like
//! order, and taken once, however often it comes. Entries are merged as they are: limits,
//! conditions and trims were their origin's to judge.

use std::collections::BTreeMap;

use isthmus_model::entry::{Entry, EntryBody, RowDelta};
use isthmus_model::hlc::{Hlc, Stamp};
use isthmus_model::ids::{Epoch, Lsn, Origin, SchemaNumber};
use isthmus_model::key::EncodedKey;
use isthmus_model::row::Row;
use isthmus_model::schema::Schema;

use crate::error::StoreError;
use crate::keys::partition::Watermark;
use crate::partition::{At, Inner};
use crate::pending::Pending;
use crate::spec::Writing;
use crate::table::Table;
use crate::table::prefetch::{Prefetched, Wanted};

impl Table {
    /// Applies the entries of one origin that lie in `(from, to]` of its log. What the range
    /// leaves out was left out by the origin or by a filter.
    ///
    /// `from` must be at or before the origin's watermark; what is applied already is skipped. The
    /// answer comes when the watermark is durably at or beyond `to`.
    pub fn apply(
        &self,
        origin: Origin,
        epoch: Epoch,
        from: Lsn,
        to: Lsn,
        entries: Vec<Entry>,
    ) -> Pending<()> {
        Pending::from_result(self.try_apply(origin, epoch, from, to, entries))
    }

    fn try_apply(
        &self,
        origin: Origin,
        epoch: Epoch,
        from: Lsn,
        to: Lsn,
        entries: Vec<Entry>,
    ) -> Result<Pending<()>, StoreError> {
        self.core.admit()?;
        check_range(from, to, &entries)?;
        let newest = entries.iter().map(|entry| entry.stamp.hlc).max().unwrap_or(Hlc::MIN);
        self.core.stamps.observe(newest, self.core.wall_millis())?;
        let rows = rows_to_read(&entries, |delta, stamp| {
            let many = self.partition.durable().spec.writers.are_many();
            self.partition.keeps_past() || !self.is_whole(delta, stamp, many)
        });
        let prefetched = Prefetched::read(&self.core, &self.partition, rows)?;

        let mut inner = self.partition.inner.lock();
        self.check_receivable(&inner, origin, epoch, &entries)?;
        let (watermark, _) = inner.watermark(self.own(), origin);
        if from > watermark {
            return Err(StoreError::Gap { watermark, from });
        }
        let (answer, pending) = Pending::new();
        if to <= watermark {
            match inner.last_pending_group() {
                Some(group) => inner.when_durable(group, Box::new(|done| answer.give(done))),
                None => answer.give(Ok(())),
            }
            return Ok(pending);
        }
        let mut entries = entries;
        entries.retain(|entry| entry.origin_lsn > watermark);
        check_schemas(inner.schema.number, &entries)?;
        let horizon = self.partition.exact_horizon();
        let too_old = |entry: &Entry| entry.stamp.hlc < horizon;
        if inner.spec.writers.are_many() && entries.iter().any(too_old) {
            return Err(StoreError::BelowHorizon);
        }
        let bytes_before = inner.part.bytes;
        inner.state.epoch = inner.state.epoch.max(epoch);
        let taken = self.take_entries(&mut inner, &prefetched, entries);
        if let Err(error) = taken {
            // What was taken before the bad entry stays, as a prefix of the range.
            self.core.enqueue(&self.partition, &mut inner, bytes_before);
            return Err(error);
        }
        if inner.spec.writers.are_many() {
            inner.state.set_watermark(Watermark { origin, lsn: to, hlc: newest });
        } else {
            inner.cover_log(to);
        }
        let group = inner.open_group();
        inner.when_durable(group, Box::new(|done| answer.give(done)));
        self.core.enqueue(&self.partition, &mut inner, bytes_before);
        Ok(pending)
    }

    fn check_receivable(
        &self,
        inner: &Inner,
        origin: Origin,
        epoch: Epoch,
        entries: &[Entry],
    ) -> Result<(), StoreError> {
        if inner.dropped {
            return Err(StoreError::NoTable(inner.spec.id));
        }
        let many = inner.spec.writers.are_many();
        let is_writer = !many && inner.spec.writing == Writing::Accept;
        if epoch < inner.state.epoch || is_writer {
            let partition = inner.spec.partition;
            return Err(StoreError::Fenced { partition, epoch: inner.state.epoch });
        }
        if many && origin == self.own() {
            return Err(StoreError::BadRange("it is of this region"));
        }
        if many && entries.iter().any(|entry| entry.stamp.origin != origin) {
            return Err(StoreError::BadRange("it holds entries of another origin"));
        }
        Ok(())
    }

    /// Takes entries one by one. The watermark of the origin goes with each, so that an error in
    /// the middle leaves a state that was.
    fn take_entries(
        &self,
        inner: &mut Inner,
        prefetched: &Prefetched,
        entries: Vec<Entry>,
    ) -> Result<(), StoreError> {
        let many = inner.spec.writers.are_many();
        for mut entry in entries {
            let Entry { stamp, origin_lsn, .. } = entry;
            entry.lsn = if many { inner.next_lsn() } else { origin_lsn };
            let at = At { lsn: entry.lsn, stamp: Some(stamp) };
            self.take_body(inner, prefetched, at, &entry)?;
            if let Some(tx) = entry.tx.filter(|_| !many) {
                inner.note_applied(tx);
            }
            if let Some(mark) = entry.batch.as_ref().filter(|_| !many) {
                inner.take_batch_mark(entry.lsn, stamp, mark);
            }
            inner.push_entry(&entry);
            inner.note_origin(stamp, origin_lsn);
        }
        Ok(())
    }

    fn take_body(
        &self,
        inner: &mut Inner,
        prefetched: &Prefetched,
        at: At,
        entry: &Entry,
    ) -> Result<(), StoreError> {
        match &entry.body {
            EntryBody::Rows(deltas) => self.merge_rows(inner, prefetched, at, entry, deltas),
            EntryBody::Schema(schema) => take_schema(inner, schema),
            EntryBody::Expiry(expiry) => {
                inner.expire(*expiry, at);
                Ok(())
            }
            EntryBody::Handover(_)
            | EntryBody::Opening
            | EntryBody::Settled(_)
            | EntryBody::Intent(_)
            | EntryBody::Abandoned(_)
            | EntryBody::Forgotten(_)
                if inner.spec.writers.are_many() =>
            {
                Err(StoreError::BadRange("it is of a table with one writer"))
            }
            EntryBody::Handover(handover) => {
                inner.take_handover(entry, *handover);
                Ok(())
            }
            EntryBody::Opening => {
                inner.take_opening(entry);
                Ok(())
            }
            EntryBody::Settled(term) => {
                inner.take_settled(*term);
                Ok(())
            }
            body @ (EntryBody::Intent(_) | EntryBody::Abandoned(_) | EntryBody::Forgotten(_)) => {
                inner.take_batch_body(body, entry.stamp);
                Ok(())
            }
        }
    }

    /// Whether a delta is the row after it, whatever the row was: with one writer all that was
    /// there is older, and its tombstone kills it, unless the row may be a copy from later.
    fn is_whole(&self, delta: &Row, stamp: Stamp, many: bool) -> bool {
        !many && delta.tombstone == Some(stamp) && stamp.hlc > self.partition.newest_copied()
    }

    /// Reads all rows before it writes any, so that an entry is taken whole or not at all.
    fn merge_rows(
        &self,
        inner: &mut Inner,
        prefetched: &Prefetched,
        at: At,
        entry: &Entry,
        deltas: &[RowDelta],
    ) -> Result<(), StoreError> {
        let many = inner.spec.writers.are_many();
        let mut merged = Vec::with_capacity(deltas.len());
        let mut noticed = Vec::new();
        let keeps_past = self.partition.keeps_past();
        let mut pasts = Vec::new();
        for RowDelta { key, delta } in deltas {
            let is_whole = self.is_whole(delta, entry.stamp, many);
            let known = match is_whole && !keeps_past {
                true => None,
                false => prefetched.current(&self.core, &self.partition, inner, key)?.row,
            };
            if keeps_past {
                pasts.push((key, known.clone(), delta));
            }
            let mut row = if is_whole {
                delta.clone()
            } else {
                let mut row = known.map(std::sync::Arc::unwrap_or_clone).unwrap_or_default();
                let seen = entry.seen.as_deref();
                noticed.extend(self.conflicts_with(inner, seen, key, &row, delta));
                row.merge(delta);
                row
            };
            let families = &inner.schema.options.families;
            for expiry in &inner.state.expiry {
                row.expire(&expiry.of_whole_buckets(), families);
            }
            let before = prefetched.parts_below(&self.core, &self.partition, inner, key)?;
            merged.push((key.clone(), before, row));
        }
        for (key, before, delta) in pasts {
            let id = self.partition.id;
            self.core.past.note(id, key, before.as_deref(), entry.stamp.hlc, delta);
        }
        let horizon = self.partition.horizon(&inner.spec);
        for (key, before, row) in merged {
            inner.put_row(key, before, row, horizon, at);
        }
        noticed.iter().for_each(|one| self.keep_conflict(inner, one));
        Ok(())
    }
}

fn rows_to_read(entries: &[Entry], is_read: impl Fn(&Row, Stamp) -> bool) -> Vec<Wanted> {
    let mut rows: BTreeMap<&EncodedKey, bool> = BTreeMap::new();
    for entry in entries {
        if let EntryBody::Rows(deltas) = &entry.body {
            for RowDelta { key, delta } in deltas {
                *rows.entry(key).or_default() |= is_read(delta, entry.stamp);
            }
        }
    }
    rows.into_iter().map(|(key, decoded)| Wanted { key: key.clone(), decoded }).collect()
}

fn check_range(from: Lsn, to: Lsn, entries: &[Entry]) -> Result<(), StoreError> {
    if from > to {
        return Err(StoreError::BadRange("it ends before it begins"));
    }
    let mut last = from;
    for entry in entries {
        if entry.origin_lsn <= last || entry.origin_lsn > to {
            return Err(StoreError::BadRange("an entry lies outside of it or out of order"));
        }
        last = entry.origin_lsn;
        if let EntryBody::Rows(deltas) = &entry.body
            && has_twice(deltas)
        {
            return Err(StoreError::BadRange("an entry has a row twice"));
        }
    }
    Ok(())
}

fn has_twice(deltas: &[RowDelta]) -> bool {
    let mut keys: Vec<&EncodedKey> = deltas.iter().map(|delta| &delta.key).collect();
    keys.sort_unstable();
    keys.windows(2).any(|pair| pair[0] == pair[1])
}

/// Every entry's schema is here, or comes before it in the same range.
fn check_schemas(have: SchemaNumber, entries: &[Entry]) -> Result<(), StoreError> {
    let mut have = have;
    for entry in entries {
        if let EntryBody::Schema(schema) = &entry.body {
            have = have.max(schema.number);
        }
        if entry.schema > have {
            return Err(StoreError::SchemaMissing { need: entry.schema, have });
        }
    }
    Ok(())
}

/// Takes a newer schema; an older one is known already.
pub(crate) fn take_schema(inner: &mut Inner, schema: &Schema) -> Result<(), StoreError> {
    if schema.number <= inner.schema.number {
        return Ok(());
    }
    put_schema(inner, schema)
}

/// Takes a schema, whichever is newer: that here may be of a log that nobody goes on from.
pub(crate) fn put_schema(inner: &mut Inner, schema: &Schema) -> Result<(), StoreError> {
    if *schema == *inner.schema {
        return Ok(());
    }
    if schema.key_columns != inner.schema.key_columns {
        return Err(StoreError::BadSchema("key columns never change".into()));
    }
    let before = inner.schema.options.time_to_live_seconds;
    inner.spec.schema = schema.clone();
    inner.put_spec();
    inner.follow_schema(before, schema.options.time_to_live_seconds);
    Ok(())
}
