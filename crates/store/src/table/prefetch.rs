//! Rows as the next change must see them: read before the lock is taken, checked under it.
//!
//! A change that replaces its row needs of it only what was in the digest; such a row is measured
//! in its packed form and not decoded.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use isthmus_digest::Parts;
use isthmus_model::ids::PartitionId;
use isthmus_model::key::EncodedKey;
use isthmus_model::row::Row;

use crate::codec::row::decode_row;
use crate::core::Core;
use crate::digest::{Rules, Tag};
use crate::engine::Space;
use crate::error::StoreError;
use crate::keys;
use crate::partition::{Inner, Partition, Seen};

/// A row that a change needs to know.
pub(crate) struct Wanted {
    pub(crate) key: EncodedKey,
    /// Its registers are needed, not only what of it is in the digest.
    pub(crate) decoded: bool,
}

/// A row as it was read.
struct Fetched {
    packed: Option<Bytes>,
    /// `None`: it was not asked for.
    row: Option<Option<Arc<Row>>>,
    parts: Parts,
}

/// Rows read from the engine, and when.
pub(crate) struct Prefetched {
    groups_finished: u64,
    rules: Option<Rules>,
    rows: HashMap<EncodedKey, Fetched>,
}

/// A row as it will be when all that is accepted is durable.
pub(crate) struct Current {
    pub(crate) row: Option<Arc<Row>>,
    /// The group that makes it durable, if it is not.
    pub(crate) pending: Option<u64>,
}

/// Reads and decodes rows, in the order of their keys.
pub(crate) fn read_rows(
    core: &Core,
    partition: PartitionId,
    keys: &[EncodedKey],
) -> Result<Vec<Option<Row>>, StoreError> {
    let packed = read_packed(core, partition, keys)?;
    packed.into_iter().map(|value| value.map(|bytes| decode(&bytes)).transpose()).collect()
}

/// Reads rows as of one commit, in the order of their keys.
pub(crate) fn read_packed(
    core: &Core,
    partition: PartitionId,
    keys: &[EncodedKey],
) -> Result<Vec<Option<Bytes>>, StoreError> {
    if let [key] = keys {
        return Ok(vec![core.engine.get(Space::Rows, &keys::row::encode_key(partition, key))?]);
    }
    let keys: Vec<Bytes> = keys.iter().map(|key| keys::row::encode_key(partition, key)).collect();
    Ok(core.engine.get_many(Space::Rows, &keys)?)
}

fn decode(bytes: &Bytes) -> Result<Row, StoreError> {
    decode_row(bytes).map_err(StoreError::corrupt("row"))
}

impl Prefetched {
    /// Reads rows outside the lock.
    pub(crate) fn read(
        core: &Core,
        partition: &Partition,
        wanted: Vec<Wanted>,
    ) -> Result<Prefetched, StoreError> {
        let groups_finished = partition.groups_finished();
        let mut read = Prefetched { groups_finished, rules: None, rows: HashMap::new() };
        let has_digest = core.options.digests;
        let (mut wanted, measured): (Vec<Wanted>, Vec<Wanted>) =
            wanted.into_iter().partition(|wanted| wanted.decoded);
        if has_digest && !measured.is_empty() {
            let tags: Vec<Tag> = measured.iter().map(|wanted| partition.tag(&wanted.key)).collect();
            let known = core.parts.knows(&tags);
            let unknown = measured.into_iter().zip(known).filter(|(_, known)| !known);
            wanted.extend(unknown.map(|(wanted, _)| wanted));
        }
        if wanted.is_empty() {
            return Ok(read);
        }
        let durable = partition.durable();
        let (keys, decoded): (Vec<EncodedKey>, Vec<bool>) =
            wanted.into_iter().map(|wanted| (wanted.key, wanted.decoded)).unzip();
        read.rows.reserve(keys.len());
        let measure = partition.measure(&durable.state.rules, &durable.spec);
        let values = read_packed(core, partition.id, &keys)?;
        for ((key, packed), is_decoded) in keys.into_iter().zip(values).zip(decoded) {
            let row = match (&packed, is_decoded) {
                (Some(packed), true) => Some(Some(Arc::new(decode(packed)?))),
                (None, _) => Some(None),
                (Some(_), false) => None,
            };
            let parts = match &packed {
                Some(packed) if has_digest => {
                    measure.of_packed(&key.0, packed).map_err(StoreError::corrupt("row"))?
                }
                Some(_) | None => Parts::new(),
            };
            read.rows.insert(key, Fetched { packed, row, parts });
        }
        read.rules = Some(durable.state.rules.clone());
        Ok(read)
    }

    /// What was read of a row, if the overlay has all that became durable since.
    fn known(&self, inner: &Inner, key: &EncodedKey) -> Option<&Fetched> {
        self.rows.get(key).filter(|_| inner.is_covered(self.groups_finished))
    }

    /// The row as it is under the lock. What was read holds if the overlay has all that became
    /// durable since; else, or if it was not read, it is read now.
    pub(crate) fn current(
        &self,
        core: &Core,
        partition: &Partition,
        inner: &Inner,
        key: &EncodedKey,
    ) -> Result<Current, StoreError> {
        match inner.see(key) {
            Seen::Pending(row, group) => return Ok(Current { row, pending: Some(group) }),
            Seen::Settled(row) => return Ok(Current { row, pending: None }),
            Seen::Durable => {}
        }
        let row = match self.known(inner, key) {
            Some(Fetched { row: Some(row), .. }) => row.clone(),
            Some(Fetched { packed, .. }) => {
                packed.as_ref().map(|packed| decode(packed).map(Arc::new)).transpose()?
            }
            None => {
                let mut rows = read_rows(core, partition.id, std::slice::from_ref(key))?;
                rows.pop().flatten().map(Arc::new)
            }
        };
        Ok(Current { row, pending: None })
    }

    /// What of a row is in the digest under the lock.
    pub(crate) fn parts(
        &self,
        core: &Core,
        partition: &Partition,
        inner: &Inner,
        key: &EncodedKey,
    ) -> Result<Parts, StoreError> {
        if !inner.has_digest() {
            return Ok(Parts::new());
        }
        if let Some(parts) = inner.parts_overlaid(key) {
            return Ok(parts);
        }
        let measured_so =
            self.rules.as_ref().is_some_and(|rules| rules.measure_alike(&inner.state.rules));
        if let Some(known) = self.known(inner, key).filter(|_| measured_so) {
            return Ok(known.parts.clone());
        }
        if let Some(parts) = inner.parts_cached(key) {
            return Ok(parts);
        }
        let mut packed = read_packed(core, partition.id, std::slice::from_ref(key))?;
        let measure = partition.measure(&inner.state.rules, &inner.spec);
        match packed.pop().flatten() {
            Some(packed) => measure.of_packed(&key.0, &packed).map_err(StoreError::corrupt("row")),
            None => Ok(Parts::new()),
        }
    }
}
