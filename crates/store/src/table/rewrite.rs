//! Rows of one table that go on in another one, when partitions are split or merged.
//!
//! The writer of both makes each row anew in the table where it goes on, as an entry of that one's
//! log: what a row shows moves, with the timestamps of its versions, and stamps and kills do not,
//! since nothing older than the entry can come to the other table. In the end the first table is
//! held: nothing more is accepted, so that what is left can be moved, and it ends with a drop. A
//! hold is forgotten in a crash, a drop is not.
//!
//! A table that has no entry yet can be seeded: then it holds rows as they are in another table,
//! with their stamps, and its log begins after them.

use std::sync::Arc;

use isthmus_model::entry::{EntryBody, RowDelta};
use isthmus_model::expiry::Expiry;
use isthmus_model::family::Families;
use isthmus_model::hlc::Hlc;
use isthmus_model::ids::{Epoch, Lsn, SchemaNumber};
use isthmus_model::key::EncodedKey;
use isthmus_model::row::{Cell, Row};

use crate::error::StoreError;
use crate::limits::WRITE_CHANGES_MAX;
use crate::partition::At;
use crate::pending::Pending;
use crate::snapshot::TableSnapshot;
use crate::spec::{Writers, Writing};
use crate::table::Table;
use crate::table::prefetch::{Prefetched, Wanted};
use crate::table::repair::made_anew;
use crate::table::write::check_writable;

/// A row as it is to go on elsewhere: bare if it does not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MovedRow {
    /// Its key.
    pub key: EncodedKey,
    /// What it shows, from `TableSnapshot::shown_row`.
    pub row: Row,
}

/// Nothing is accepted of a table while this is kept, but its end.
pub struct Held {
    table: Arc<Table>,
    /// In which it was written when the hold began.
    epoch: Epoch,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.table.partition.inner.lock().is_held = false;
    }
}

impl TableSnapshot {
    /// What a row shows, by what is logged as expired: cells and marker, and nothing that is
    /// killed or kills. Bare if it does not exist.
    pub fn shown_row(&self, key: &EncodedKey) -> Result<Row, StoreError> {
        let row = self.get(key)?;
        Ok(row.map_or_else(Row::default, |row| self.shown(row)))
    }

    /// As `shown_row`, of a row that was read from this snapshot.
    pub fn shown(&self, mut row: Row) -> Row {
        expire(&mut row, self.expiry(), &self.schema().options.families);
        stripped(row)
    }
}

impl Table {
    /// Makes rows as they are in another table, at most as many as one write may change, each
    /// as an entry of its own. Those that show the same already are left. Answers how many were
    /// made, when all of them are durable, also those that were left. Refused where clients could
    /// not write.
    pub fn rewrite(&self, rows: Vec<MovedRow>) -> Pending<usize> {
        Pending::from_result(self.try_rewrite(rows))
    }

    fn try_rewrite(&self, rows: Vec<MovedRow>) -> Result<Pending<usize>, StoreError> {
        self.core.admit()?;
        if rows.len() > WRITE_CHANGES_MAX {
            return Err(StoreError::TooLarge("rows to rewrite"));
        }
        let wanted = rows.iter().map(|row| Wanted { key: row.key.clone(), decoded: true });
        let read = Prefetched::read(&self.core, &self.partition, wanted.collect())?;
        let mut inner = self.partition.inner.lock();
        check_writable(&inner)?;
        if inner.spec.writers != Writers::One {
            return Err(StoreError::BadSchema("rows move between tables of one writer".into()));
        }
        let bytes_before = inner.part.bytes;
        let horizon = self.partition.horizon(&inner.spec);
        let mut made = 0;
        for MovedRow { key, row } in rows {
            let current = read.current(&self.core, &self.partition, &inner, &key)?;
            let mut after = current.row.map(Arc::unwrap_or_clone).unwrap_or_default();
            let mut here = after.clone();
            expire(&mut here, &inner.state.expiry, &inner.schema.options.families);
            if shows_alike(&stripped(here), &row) {
                continue;
            }
            let before = read.parts(&self.core, &self.partition, &inner, &key)?;
            let stamp = self.core.stamps.begin(self.core.wall_millis());
            inner.part.begun.push(stamp.hlc);
            let delta = made_anew(&row, stamp);
            let lsn = inner.next_lsn();
            self.keep_before((lsn, stamp), &key, Some(&after), &delta);
            after.merge(&delta);
            let at = At { lsn, stamp: Some(stamp) };
            inner.put_row(key.clone(), before, after, horizon, at);
            inner.push_own(lsn, stamp, None, EntryBody::Rows(vec![RowDelta { key, delta }]));
            made += 1;
        }
        if made == 0 {
            let Some(group) = inner.last_pending_group() else { return Ok(Pending::ready(Ok(0))) };
            let (answer, pending) = Pending::new();
            inner.when_durable(group, Box::new(|done| answer.give(done.map(|()| 0))));
            return Ok(pending);
        }
        Ok(self.enqueue_told(&mut inner, bytes_before, made))
    }

    /// Puts rows as they are in another table, with their stamps and without entries, at most as
    /// many as one write may change. Whoever stood anywhere in the log is given rows. Refused where
    /// clients could not write, and where there was ever an entry.
    pub fn seed(&self, rows: Vec<MovedRow>) -> Pending<()> {
        Pending::from_result(self.try_seed(rows))
    }

    fn try_seed(&self, rows: Vec<MovedRow>) -> Result<Pending<()>, StoreError> {
        self.core.admit()?;
        if rows.len() > WRITE_CHANGES_MAX {
            return Err(StoreError::TooLarge("rows to seed"));
        }
        let newest = rows.iter().filter_map(|moved| moved.row.stamp_max()).max();
        let newest = newest.map_or(Hlc::MIN, |stamp| stamp.hlc);
        self.partition.note_copied(newest);
        self.core.stamps.observe(newest, self.core.wall_millis())?;
        let wanted = rows.iter().map(|row| Wanted { key: row.key.clone(), decoded: true });
        let read = Prefetched::read(&self.core, &self.partition, wanted.collect())?;
        let mut inner = self.partition.inner.lock();
        check_writable(&inner)?;
        // A log of which nothing is left looks like one that has only seeds before it.
        let has_entries = inner.state.log_start < inner.state.lsn || !inner.part.records.is_empty();
        if inner.spec.writers != Writers::One || has_entries || self.has_logged() {
            return Err(StoreError::BadSchema("only a table without entries is seeded".into()));
        }
        let bytes_before = inner.part.bytes;
        let horizon = self.partition.horizon(&inner.spec);
        // An address of its own, at which there is no entry.
        let next = inner.next_lsn();
        (inner.state.lsn, inner.state.log_start) = (next, next);
        // What it will accept is newer than all of it.
        inner.state.hlc = inner.state.hlc.max(newest);
        let at = At { lsn: next, stamp: None };
        for MovedRow { key, row } in rows {
            let current = read.current(&self.core, &self.partition, &inner, &key)?.row;
            if current.as_deref().unwrap_or(&Row::default()) != &row {
                let before = read.parts(&self.core, &self.partition, &inner, &key)?;
                inner.put_row(key, before, row, horizon, at);
            }
        }
        self.keep_past_anew(&inner);
        Ok(self.enqueue_told(&mut inner, bytes_before, ()))
    }

    /// How many numbers this region has given to an auto-increment column, or knows of.
    pub fn numbers_given(&self) -> u64 {
        self.partition.inner.lock().state.auto_increment
    }

    /// No number is given here that another table, whose rows go on here, may have given.
    pub fn skip_numbers(&self, given: u64) -> Pending<()> {
        let mut inner = self.partition.inner.lock();
        if inner.dropped {
            return Pending::ready(Err(StoreError::NoTable(inner.spec.id)));
        }
        if inner.state.auto_increment >= given {
            return Pending::ready(Ok(()));
        }
        let bytes_before = inner.part.bytes;
        inner.state.auto_increment = given;
        self.enqueue_told(&mut inner, bytes_before, ())
    }

    /// Accepts nothing from now on, until what is answered is dropped. Refused where clients could
    /// not write, or it is held already.
    pub fn hold(self: &Arc<Self>) -> Result<Held, StoreError> {
        let mut inner = self.partition.inner.lock();
        check_writable(&inner)?;
        inner.is_held = true;
        Ok(Held { table: self.clone(), epoch: inner.state.epoch })
    }
}

impl Held {
    /// The table.
    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// The last entry that was accepted before.
    pub fn last(&self) -> Lsn {
        self.table.accepted_lsn()
    }

    /// The epoch in which it was written when the hold began.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Ends the table with a drop, the last entry that this region makes of it. Refused where
    /// clients could not have written since the hold began: then another region may write, and
    /// what it accepts would be lost with the end.
    pub fn end(&self) -> Pending<Lsn> {
        Pending::from_result(self.try_end())
    }

    fn try_end(&self) -> Result<Pending<Lsn>, StoreError> {
        let table = &*self.table;
        table.core.admit()?;
        let mut inner = table.partition.inner.lock();
        if inner.dropped || inner.schema.options.is_dropped {
            return Err(StoreError::NoTable(inner.spec.id));
        }
        if inner.spec.writing != Writing::Accept || inner.state.epoch != self.epoch {
            return Err(StoreError::NotWritable {
                partition: inner.spec.partition,
                epoch: inner.state.epoch,
            });
        }
        let bytes_before = inner.part.bytes;
        let mut schema = (*inner.schema).clone();
        schema.number = SchemaNumber(schema.number.0 + 1);
        schema.options.is_dropped = true;
        let stamp = table.core.stamps.begin(table.core.wall_millis());
        inner.part.begun.push(stamp.hlc);
        let lsn = inner.next_lsn();
        inner.push_own(lsn, stamp, None, EntryBody::Schema(schema.clone()));
        inner.spec.schema = schema;
        inner.put_spec();
        Ok(table.enqueue_told(&mut inner, bytes_before, lsn))
    }
}

fn expire(row: &mut Row, expiry: &[Expiry], families: &Families) {
    expiry.iter().for_each(|expiry| row.expire(expiry, families));
}

/// A row without what kills; what is killed has gone already, but for deleted versions.
fn stripped(mut row: Row) -> Row {
    row.tombstone = None;
    for column in &mut row.columns {
        column.tombstone = None;
        column.trims.clear();
        // One writer makes none.
        column.shares = None;
        column.cells.retain(|cell| cell.value.is_some());
    }
    row.columns.retain(|column| !column.is_bare());
    row
}

/// Whether two rows without kills show the same, whenever it was written.
fn shows_alike(one: &Row, other: &Row) -> bool {
    let alike = |a: &Cell, b: &Cell| a.timestamp == b.timestamp && a.value == b.value;
    one.marker.is_some() == other.marker.is_some()
        && one.columns.len() == other.columns.len()
        && one.columns.iter().zip(&other.columns).all(|(a, b)| {
            a.name == b.name
                && a.cells.len() == b.cells.len()
                && a.cells.iter().zip(&b.cells).all(|(a, b)| alike(a, b))
        })
}
