//! One moment of a table: its rows, and the watermarks that belong to exactly them.

use std::sync::Arc;

use bytes::Bytes;
use isthmus_model::change::Direction;
use isthmus_model::commit::MadeRange;
use isthmus_model::expiry::Expiry;
use isthmus_model::hlc::Hlc;
use isthmus_model::ids::{Epoch, Lsn, Origin, PartitionId};
use isthmus_model::key::EncodedKey;
use isthmus_model::row::Row;
use isthmus_model::schema::Schema;

use crate::atomic::{AtomicState, read_state as read_state_of_batches};
use crate::codec::Corrupt;
use crate::codec::row::decode_row;
use crate::digest::Rules;
use crate::engine::{EngineError, ScanRange, Snapshot, Space};
use crate::error::StoreError;
use crate::keys;
use crate::keys::partition::{PartitionState, Watermark};
use crate::partition::vector_in;
use crate::spec::TableSpec;
use crate::store::read_state;

/// One moment of a table. Keeping it for long keeps old bytes on the disk.
#[derive(Clone)]
pub struct TableSnapshot {
    snapshot: Arc<dyn Snapshot>,
    own: Origin,
    state: PartitionState,
    spec: TableSpec,
}

impl TableSnapshot {
    pub(crate) fn new(
        snapshot: Arc<dyn Snapshot>,
        own: Origin,
        spec: &TableSpec,
    ) -> Result<TableSnapshot, StoreError> {
        let key = keys::table::encode_key(spec.id);
        let stored = snapshot.get(Space::Meta, &key)?.ok_or(StoreError::NoTable(spec.id))?;
        let spec =
            keys::table::decode_value(&stored).map_err(StoreError::corrupt("record of a table"))?;
        let state = read_state(&*snapshot, spec.partition)?;
        Ok(TableSnapshot { snapshot, own, state, spec })
    }

    /// The last entry whose changes are in it.
    pub fn lsn(&self) -> Lsn {
        self.state.lsn
    }

    /// The greatest moment of any entry in it.
    pub fn hlc(&self) -> Hlc {
        self.state.hlc
    }

    /// The epoch that was obeyed.
    pub fn epoch(&self) -> Epoch {
        self.state.epoch
    }

    /// What is in it of each origin.
    pub fn vector(&self) -> Vec<Watermark> {
        vector_in(&self.state, &self.spec, self.own)
    }

    /// Of which life of an origin the last entry in it is; `Hlc::MIN`: nobody knows.
    pub fn life_met(&self, origin: Origin) -> Hlc {
        self.state.life_met(origin)
    }

    /// What the table was.
    pub fn spec(&self) -> &TableSpec {
        &self.spec
    }

    /// Its schema then.
    pub fn schema(&self) -> &Schema {
        &self.spec.schema
    }

    /// What was prepared in terms that are not void and is in it.
    pub fn made(&self) -> &[MadeRange] {
        &self.state.made
    }

    /// What was kept of batches of several partitions.
    pub fn atomics(&self) -> Result<AtomicState, StoreError> {
        read_state_of_batches(&*self.snapshot, self.spec.partition)
    }

    /// What had been logged as expired.
    pub fn expiry(&self) -> &[Expiry] {
        &self.state.expiry
    }

    /// Groups of commits up to it.
    pub(crate) fn groups(&self) -> u64 {
        self.state.groups
    }

    /// What the digest counted then.
    pub fn rules(&self) -> &Rules {
        &self.state.rules
    }

    /// As `get`, but gives the row in its packed form.
    pub fn get_packed(&self, key: &EncodedKey) -> Result<Option<Bytes>, StoreError> {
        let key = keys::row::encode_key(self.spec.partition, key);
        Ok(self.snapshot.get(Space::Rows, &key)?)
    }

    /// One row, with tombstones and trims. What expiries have killed may still be in it.
    pub fn get(&self, key: &EncodedKey) -> Result<Option<Row>, StoreError> {
        self.get_packed(key)?.map(|bytes| decode(&bytes)).transpose()
    }

    /// Rows from `start` (inclusive) to `end` (exclusive; `None`: the last), with those that are
    /// nothing but tombstones. What expiries have killed may still be in them.
    pub fn scan(
        &self,
        start: &EncodedKey,
        end: Option<&EncodedKey>,
        direction: Direction,
    ) -> impl Iterator<Item = Result<(EncodedKey, Row), StoreError>> + Send + '_ {
        scan_rows(&*self.snapshot, self.spec.partition, start, end, direction)
    }

    /// As `scan`, but gives rows in their packed form.
    pub fn scan_packed(
        &self,
        start: &EncodedKey,
        end: Option<&EncodedKey>,
        direction: Direction,
    ) -> impl Iterator<Item = Result<(EncodedKey, Bytes), StoreError>> + Send + '_ {
        scan_packed_rows(&*self.snapshot, self.spec.partition, start, end, direction)
    }

    /// The rows of some ranges, ascending, in their packed form; `None` as an end: the last row.
    /// The ranges ascend, and none reaches into the next. Cheaper than to scan one after the other.
    pub fn scan_packed_ranges<'a>(
        &'a self,
        ranges: &[(EncodedKey, Option<EncodedKey>)],
    ) -> impl Iterator<Item = Result<(EncodedKey, Bytes), StoreError>> + Send + use<'a> {
        let ranges = scan_ranges_of(self.spec.partition, ranges);
        self.snapshot.scan_ranges(Space::Rows, ranges).map(row)
    }

    /// Shows the encoded key and the packed form of each row that `scan_packed_ranges` would give,
    /// uncopied; for upkeep that passes over much. Ends at the first error.
    pub(crate) fn visit_packed_ranges(
        &self,
        ranges: &[(EncodedKey, Option<EncodedKey>)],
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), Corrupt>,
    ) -> Result<(), StoreError> {
        let partition = self.spec.partition;
        let mut damaged = Ok(());
        let mut visit = |key: &[u8], packed: &[u8]| {
            if damaged.is_ok() {
                damaged = keys::row::primary_key_in(key).and_then(|key| visit(key, packed));
            }
        };
        let ranges = scan_ranges_of(partition, ranges);
        self.snapshot.visit_ranges(Space::Rows, ranges, &mut visit)?;
        damaged.map_err(StoreError::corrupt("row"))
    }
}

fn scan_ranges_of(
    partition: PartitionId,
    ranges: &[(EncodedKey, Option<EncodedKey>)],
) -> Vec<ScanRange> {
    let range = |(start, end): &(EncodedKey, Option<EncodedKey>)| ScanRange {
        start: keys::row::encode_key(partition, start),
        end: end_of(partition, end.as_ref()),
    };
    ranges.iter().map(range).collect()
}

fn decode(bytes: &Bytes) -> Result<Row, StoreError> {
    decode_row(bytes).map_err(StoreError::corrupt("row"))
}

/// Rows of a partition in a snapshot of the engine.
pub(crate) fn scan_rows<'a>(
    snapshot: &'a dyn Snapshot,
    partition: PartitionId,
    start: &EncodedKey,
    end: Option<&EncodedKey>,
    direction: Direction,
) -> impl Iterator<Item = Result<(EncodedKey, Row), StoreError>> + Send + 'a {
    scan_packed_rows(snapshot, partition, start, end, direction).map(|row| {
        let (key, packed) = row?;
        Ok((key, decode(&packed)?))
    })
}

fn scan_packed_rows<'a>(
    snapshot: &'a dyn Snapshot,
    partition: PartitionId,
    start: &EncodedKey,
    end: Option<&EncodedKey>,
    direction: Direction,
) -> impl Iterator<Item = Result<(EncodedKey, Bytes), StoreError>> + Send + 'a {
    let start = keys::row::encode_key(partition, start);
    let end = end_of(partition, end);
    snapshot.scan(Space::Rows, &start, Some(&end), direction).map(row)
}

/// Where a range of rows ends in the engine.
fn end_of(partition: PartitionId, end: Option<&EncodedKey>) -> Bytes {
    end.map_or_else(|| keys::end_of_rows(partition), |end| keys::row::encode_key(partition, end))
}

/// A row as the engine holds it.
fn row(pair: Result<(Bytes, Bytes), EngineError>) -> Result<(EncodedKey, Bytes), StoreError> {
    let (key, value) = pair?;
    let (_, key) = keys::row::decode_key(key).map_err(StoreError::corrupt("key of a row"))?;
    Ok((key, value))
}
