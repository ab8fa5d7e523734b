//! A replica that takes less than all: some columns, a range of keys, rows that pass a filter.
//!
//! Columns and keys are left out of entries as they are. A filter judges whole rows, of which an
//! entry knows only what it changes; so the rows that a piece of the log touches are read as they
//! are now, and each goes whole, under the stamp of the last entry that touches it, or as a delete
//! where it does not pass. What comes out is what judging the row before and after each change
//! comes to: a row that stays in changes, one that comes in comes whole, one that goes out is
//! deleted. Only tables with one writer have such replicas.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use isthmus_model::change::{Direction, Filter, Projection};
use isthmus_model::entry::{Entry, EntryBody, RowDelta};
use isthmus_model::family::{Families, NO_FAMILY};
use isthmus_model::hlc::Stamp;
use isthmus_model::ids::{Lsn, PartitionId};
use isthmus_model::key::{EncodedKey, PrimaryKey};
use isthmus_model::row::Row;
use isthmus_model::show::{View, show};
use isthmus_model::value::Text;

use isthmus_store::codec::row::encode_row;
use isthmus_store::keys::log::{RecordBuilder, decode_record};
use isthmus_store::{LogSlice, StoreError, Table, TableSnapshot};

use crate::error::ReplicationError;
use crate::frame::{CopiedRow, CopiedRows};
use crate::limits::CHUNK_LOOKED_AT_MAX;

/// What a replica takes.
#[derive(Clone, Debug, Default)]
pub struct Extract {
    /// The first key.
    pub start: EncodedKey,
    /// The key after the last; `None`: to the end.
    pub end: Option<EncodedKey>,
    /// Columns; `None`: all.
    pub columns: Option<BTreeSet<Text>>,
    /// Families by name, `rest` for the columns that none takes; `None`: all.
    pub families: Option<BTreeSet<Text>>,
    /// Rows that pass.
    pub filter: Option<Filter>,
    /// What is there when it begins is left out.
    pub is_incremental: bool,
}

/// A chunk of what is taken.
pub(crate) struct Chunk {
    pub(crate) rows: CopiedRows,
    /// Their size.
    pub(crate) bytes: usize,
    /// The first key after them, if there is one.
    pub(crate) next_key: Option<Bytes>,
    /// Rows that were looked at.
    pub(crate) looked_at: usize,
}

impl Extract {
    /// Whether nothing is left out but by time.
    pub(crate) fn is_of_everything(&self) -> bool {
        self.start == EncodedKey::default()
            && self.end.is_none()
            && self.columns.is_none()
            && self.families.is_none()
            && self.filter.is_none()
    }

    /// The keys that are looked at: the first, and the one after the last if there is one.
    pub(crate) fn range(&self) -> (&[u8], Option<&[u8]>) {
        (&self.start.0, self.end.as_ref().map(|end| &end.0[..]))
    }

    fn takes_key(&self, key: &EncodedKey) -> bool {
        *key >= self.start && self.end.as_ref().is_none_or(|end| key < end)
    }

    /// What of a row or of its change is taken. A column that gets a family later was one of the
    /// rest before.
    fn cut(&self, mut row: Row, families: &Families) -> Row {
        if let Some(columns) = &self.columns {
            row.columns.retain(|column| columns.contains(&column.name));
        }
        if let Some(taken) = &self.families {
            row.columns.retain(|column| {
                let family = families.get(families.of(&column.name));
                taken.contains(family.map_or(NO_FAMILY.as_bytes(), |one| one.name.as_bytes()))
            });
        }
        row
    }

    /// Rows of a copy from `start`.
    pub(crate) fn read_chunk(
        &self,
        snapshot: &TableSnapshot,
        start: &EncodedKey,
        now_millis: i64,
        bytes_max: usize,
    ) -> Result<Chunk, ReplicationError> {
        let judge = Judge::new(self, snapshot, now_millis);
        let (mut rows, mut bytes, mut looked_at) = (CopiedRows::default(), 0, 0);
        let start = start.max(&self.start);
        let scan = snapshot.scan(start, self.end.as_ref(), Direction::Forward);
        for row in scan {
            let (key, row) = row?;
            if bytes >= bytes_max || looked_at >= CHUNK_LOOKED_AT_MAX {
                return Ok(Chunk { rows, bytes, next_key: Some(key.0), looked_at });
            }
            looked_at += 1;
            if !judge.passes(&key, &row) {
                continue;
            }
            let row = encode_row(&self.cut(row, &snapshot.schema().options.families));
            bytes += key.0.len() + row.len();
            rows.rows.push(CopiedRow { key: key.0, row });
        }
        Ok(Chunk { rows, bytes, next_key: None, looked_at })
    }

    /// One record with what of a piece of the log is taken.
    pub(crate) fn entries(
        &self,
        table: &Table,
        slice: &LogSlice,
        after: Lsn,
        now_millis: i64,
    ) -> Result<Bytes, ReplicationError> {
        let mut entries = Vec::new();
        for record in &slice.records {
            let (_, more) = decode_record(record)
                .map_err(|source| StoreError::Corrupt { what: "log record", source })?;
            entries.extend(more.into_iter().filter(|entry| entry.lsn > after));
        }
        if self.filter.is_some() {
            self.judge_rows(table, &mut entries, now_millis)?;
        }
        let schema = table.schema();
        let families = &schema.options.families;
        let mut taken = RecordBuilder::new(after.next());
        for mut entry in entries {
            // It is a replica that never writes, and may not have all rows of a batch.
            entry.batch = None;
            if matches!(
                entry.body,
                EntryBody::Intent(_) | EntryBody::Abandoned(_) | EntryBody::Forgotten(_)
            ) {
                continue;
            }
            if let EntryBody::Rows(deltas) = &mut entry.body {
                deltas.retain(|delta| self.takes_key(&delta.key));
                for delta in deltas.iter_mut() {
                    delta.delta = self.cut(std::mem::take(&mut delta.delta), families);
                }
                deltas.retain(|delta| !delta.delta.is_bare());
                if deltas.is_empty() {
                    continue;
                }
            }
            taken.push(&entry);
        }
        taken.cover(slice.to);
        Ok(taken.finish(table.partition(), false).bytes)
    }

    /// Puts in the place of each change the whole row as it is now, or its delete, at the last
    /// entry that touches it.
    fn judge_rows(
        &self,
        table: &Table,
        entries: &mut [Entry],
        now_millis: i64,
    ) -> Result<(), ReplicationError> {
        let mut last: BTreeMap<EncodedKey, Lsn> = BTreeMap::new();
        for entry in entries.iter() {
            if let EntryBody::Rows(deltas) = &entry.body {
                let keys = deltas.iter().map(|delta| &delta.key);
                last.extend(keys.filter(|k| self.takes_key(k)).map(|k| (k.clone(), entry.lsn)));
            }
        }
        let snapshot = table.snapshot()?;
        let judge = Judge::new(self, &snapshot, now_millis);
        for entry in entries {
            let (lsn, stamp) = (entry.lsn, entry.stamp);
            let EntryBody::Rows(deltas) = &mut entry.body else { continue };
            deltas.retain(|delta| last.get(&delta.key) == Some(&lsn));
            for RowDelta { key, delta } in deltas {
                let row = snapshot.get(key)?.unwrap_or_default();
                *delta = match judge.passes(key, &row) {
                    true => put_whole(row, stamp),
                    false => Row { tombstone: Some(stamp), ..Row::default() },
                };
            }
        }
        Ok(())
    }

    /// An entry that takes the place of all that is left out at the beginning of a replica that
    /// is not copied: it brings the schema.
    pub(crate) fn beginning(
        table: &Table,
        partition: PartitionId,
        after: Lsn,
        to: Lsn,
        origin: isthmus_model::ids::Origin,
    ) -> Bytes {
        let schema = (*table.schema()).clone();
        let entry = Entry {
            lsn: to,
            epoch: table.epoch(),
            stamp: Stamp { hlc: table.durable_hlc(), origin },
            origin_lsn: to,
            schema: schema.number,
            seen: None,
            tx: None,
            batch: None,
            body: EntryBody::Schema(schema),
        };
        let mut record = RecordBuilder::new(after.next());
        record.push(&entry);
        record.finish(partition, false).bytes
    }
}

/// Judges rows of one moment.
struct Judge<'a> {
    snapshot: &'a TableSnapshot,
    view: View,
    projection: Option<Projection>,
}

impl<'a> Judge<'a> {
    fn new(extract: &Extract, snapshot: &'a TableSnapshot, now_millis: i64) -> Judge<'a> {
        let options = &snapshot.schema().options;
        Judge {
            snapshot,
            view: View::new(options, now_millis, snapshot.expiry()),
            projection: extract
                .filter
                .clone()
                .map(|filter| Projection { filter: Some(filter), ..Projection::default() }),
        }
    }

    fn passes(&self, key: &EncodedKey, row: &Row) -> bool {
        let Some(projection) = &self.projection else { return true };
        let Ok(key) = PrimaryKey::decode(key) else { return false };
        show(row, key, self.snapshot.schema(), &self.view, projection).is_some()
    }
}

/// A change that puts a row as it is, whatever was there.
fn put_whole(row: Row, stamp: Stamp) -> Row {
    let mut put = Row { tombstone: Some(stamp), marker: row.marker.map(|_| stamp), ..row };
    for column in &mut put.columns {
        column.tombstone = None;
        column.trims.clear();
        column.cells.retain(|cell| cell.value.is_some());
        column.cells.iter_mut().for_each(|cell| cell.stamp = stamp);
    }
    put.columns.retain(|column| !column.cells.is_empty());
    put
}
