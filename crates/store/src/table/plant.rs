//! Faults on purpose: a row is changed as a bug of replication or a rotten disk would change it.
//!
//! For tests and drills. Nothing is logged, so no other region hears of it; the digest follows the
//! row as it would follow a wrong change, but for `Bit`, which changes stored bytes only.

use bytes::Bytes;
use isthmus_model::change::Direction;
use isthmus_model::hlc::{Hlc, Stamp};
use isthmus_model::ids::Timestamp;
use isthmus_model::key::EncodedKey;
use isthmus_model::row::{Cell, Row};
use isthmus_model::value::Value;

use crate::codec::row::{decode_row, encode_row};
use crate::error::StoreError;
use crate::partition::{At, Inner};
use crate::pending::Pending;
use crate::table::Table;
use crate::table::prefetch::{Prefetched, Wanted};

/// What to do to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// Remove it, with its tombstones.
    LostRow,
    /// Make it, like its neighbour.
    ExtraRow,
    /// Change the value of its first cell.
    Cell,
    /// Change the timestamp of its first cell.
    Version,
    /// Remove its tombstones and deleted versions.
    Tombstone,
    /// Give its first cell the value of that of the next row, and the other way round.
    Swap,
    /// Change one bit of its stored bytes.
    Bit,
}

impl Table {
    /// Changes a row behind the back of the log.
    pub fn plant(&self, key: &EncodedKey, plant: Plant) -> Pending<()> {
        Pending::from_result(self.try_plant(key, plant))
    }

    fn try_plant(&self, key: &EncodedKey, plant: Plant) -> Result<Pending<()>, StoreError> {
        self.core.admit()?;
        let neighbour = match plant {
            Plant::ExtraRow | Plant::Swap => self.neighbour(key)?,
            Plant::LostRow | Plant::Cell | Plant::Version | Plant::Tombstone | Plant::Bit => None,
        };
        let wanted = std::iter::once(key).chain(neighbour.as_ref());
        let wanted = wanted.map(|key| Wanted { key: key.clone(), decoded: true }).collect();
        let read = Prefetched::read(&self.core, &self.partition, wanted)?;
        let mut inner = self.partition.inner.lock();
        let current = read.current(&self.core, &self.partition, &inner, key)?;
        let before = read.parts(&self.core, &self.partition, &inner, key)?;
        let row = current.row.map(std::sync::Arc::unwrap_or_clone);
        let at = At { lsn: inner.state.lsn, stamp: None };
        let other = match neighbour {
            None => None,
            Some(key) => {
                let row = read.current(&self.core, &self.partition, &inner, &key)?.row;
                row.map(|row| (key, std::sync::Arc::unwrap_or_clone(row)))
            }
        };
        let bytes_before = inner.part.bytes;
        match plant {
            Plant::Bit => {
                let row = row.ok_or(StoreError::BadPlant("there is no such row"))?;
                let flipped = flip_a_bit(&encode_row(&row));
                let row = decode_row(&flipped).ok().map(std::sync::Arc::new);
                inner.store_row(key.clone(), row, Some(flipped), before);
            }
            Plant::Swap => {
                let mut row = row.ok_or(StoreError::BadPlant("there is no such row"))?;
                let (next, mut other) =
                    other.ok_or(StoreError::BadPlant("there is no other row"))?;
                swap_values(&mut row, &mut other)?;
                let other_before = read.parts(&self.core, &self.partition, &inner, &next)?;
                inner.put_row(key.clone(), before, row, Hlc::MIN, at);
                inner.put_row(next, other_before, other, Hlc::MIN, at);
            }
            Plant::LostRow | Plant::ExtraRow | Plant::Cell | Plant::Version | Plant::Tombstone => {
                let planted = planted(&inner, plant, row, other.map(|(_, row)| row))?;
                inner.put_row(key.clone(), before, planted, Hlc::MIN, at);
            }
        }
        let (answer, pending) = Pending::new();
        let group = inner.open_group();
        inner.when_durable(group, Box::new(|done| answer.give(done)));
        self.core.enqueue(&self.partition, &mut inner, bytes_before);
        Ok(pending)
    }

    /// The key of the row after a key, or of the first one; none where there is no other.
    fn neighbour(&self, key: &EncodedKey) -> Result<Option<EncodedKey>, StoreError> {
        let snapshot = self.snapshot()?;
        let next = |from: &EncodedKey| {
            let mut rows = snapshot.scan(from, None, Direction::Forward);
            let is_other = |row: &Result<(EncodedKey, Row), StoreError>| {
                row.as_ref().map_or(true, |(other, row)| other != key && !row.is_bare())
            };
            rows.find(is_other).transpose().map(|row| row.map(|(key, _)| key))
        };
        match next(key)? {
            Some(next) => Ok(Some(next)),
            None => next(&EncodedKey::default()),
        }
    }
}

fn planted(
    inner: &Inner,
    plant: Plant,
    row: Option<Row>,
    neighbour: Option<Row>,
) -> Result<Row, StoreError> {
    if plant == Plant::ExtraRow {
        return match row.is_some_and(|row| !row.is_bare()) {
            true => Err(StoreError::BadPlant("the row is there already")),
            false => Ok(neighbour.unwrap_or_else(|| lone_row(inner))),
        };
    }
    let mut row = row.ok_or(StoreError::BadPlant("there is no such row"))?;
    match plant {
        Plant::LostRow => row = Row::default(),
        Plant::Cell => change_value(first_cell(&mut row)?),
        Plant::Version => {
            move_a_version(&mut row)?;
        }
        Plant::Tombstone => {
            let before = row.clone();
            row.purge(Hlc::MAX);
            if row == before {
                return Err(StoreError::BadPlant("the row has no tombstone"));
            }
        }
        Plant::ExtraRow | Plant::Swap | Plant::Bit => {}
    }
    Ok(row)
}

fn lone_row(inner: &Inner) -> Row {
    let stamp = Stamp { hlc: inner.state.hlc, origin: inner.spec.base };
    let mut row = Row { marker: Some(stamp), ..Row::default() };
    let value = Some(Value::Integer(1));
    row.column_mut(&"planted".into()).set(Cell { timestamp: stamp.hlc.timestamp(), stamp, value });
    row
}

fn first_cell(row: &mut Row) -> Result<&mut Cell, StoreError> {
    let mut cells = row.columns.iter_mut().flat_map(|column| &mut column.cells);
    cells.find(|cell| cell.value.is_some()).ok_or(StoreError::BadPlant("the row has no cell"))
}

/// Gives the first live version the next timestamp that its column has none of.
fn move_a_version(row: &mut Row) -> Result<(), StoreError> {
    let is_live = |cell: &Cell| cell.value.is_some();
    let mut columns = row.columns.iter_mut();
    let column = columns.find(|column| column.cells.iter().any(is_live));
    let column = column.ok_or(StoreError::BadPlant("the row has no cell"))?;
    let Some(place) = column.cells.iter().position(is_live) else { return Ok(()) };
    let mut cell = column.cells.remove(place);
    let taken = |at: Timestamp, cells: &[Cell]| cells.iter().any(|cell| cell.timestamp == at);
    cell.timestamp = Timestamp(cell.timestamp.0 + 1);
    while taken(cell.timestamp, &column.cells) {
        cell.timestamp = Timestamp(cell.timestamp.0 + 1);
    }
    column.set(cell);
    Ok(())
}

/// Swaps the values of the first cells of two rows.
fn swap_values(one: &mut Row, other: &mut Row) -> Result<(), StoreError> {
    let (one, other) = (first_cell(one)?, first_cell(other)?);
    if one.value == other.value {
        return Err(StoreError::BadPlant("the next row has the same value"));
    }
    std::mem::swap(&mut one.value, &mut other.value);
    Ok(())
}

fn change_value(cell: &mut Cell) {
    cell.value = cell.value.take().map(|value| match value {
        Value::Integer(number) => Value::Integer(number ^ 1),
        Value::Double(number) => Value::Double(f64::from_bits(number.to_bits() ^ 1)),
        Value::Boolean(truth) => Value::Boolean(!truth),
        Value::String(text) => Value::String(format!("{}?", text.as_str()).as_str().into()),
        Value::Binary(bytes) => Value::Binary([&bytes[..], b"?"].concat().into()),
    });
}

/// The last bit that can be flipped so that the row can still be read; else the very last.
fn flip_a_bit(packed: &Bytes) -> Bytes {
    let flipped = |place: usize| {
        let mut bytes = packed.to_vec();
        bytes[place] ^= 1;
        Bytes::from(bytes)
    };
    let readable = (0..packed.len()).rev().map(flipped).find(|bytes| decode_row(bytes).is_ok());
    readable.unwrap_or_else(|| flipped(packed.len() - 1))
}
