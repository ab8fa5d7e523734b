//! Rows as the next change must see them: read before the lock is taken, checked under it.
//!
//! A change that replaces its row needs of it only what was in the digest; such a row is measured
//! in its packed form and not decoded.

use std::sync::Arc;

use bytes::Bytes;
use isthmus_digest::Parts;
use isthmus_model::ids::PartitionId;
use isthmus_model::key::EncodedKey;
use isthmus_model::row::Row;

use crate::codec::row::decode_row;
use crate::core::Core;
use crate::digest::{Before, Rules, Tag};
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

/// A row that was looked up.
struct Found {
    key: EncodedKey,
    /// Its name in the cache of parts.
    tag: Option<Tag>,
    /// `None`: it was not read, since the cache knew enough of it.
    fetched: Option<Fetched>,
}

/// Rows read from the engine, and when.
pub(crate) struct Prefetched {
    groups_finished: u64,
    rules: Option<Rules>,
    /// In the order of their keys.
    rows: Vec<Found>,
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
        mut wanted: Vec<Wanted>,
    ) -> Result<Prefetched, StoreError> {
        let groups_finished = partition.groups_finished();
        let mut read = Prefetched { groups_finished, rules: None, rows: Vec::new() };
        let has_digest = core.options.digests;
        wanted.retain(|wanted| wanted.decoded || has_digest);
        if wanted.is_empty() {
            return Ok(read);
        }
        // In this order the engine finds them sooner, and they are found here.
        wanted.sort_unstable_by(|one, other| one.key.cmp(&other.key));
        let tag = |wanted: &Wanted| has_digest.then(|| partition.tag(&wanted.key));
        let tags: Vec<Option<Tag>> = wanted.iter().map(tag).collect();
        let asked = wanted.iter().zip(&tags).map(|(wanted, tag)| tag.filter(|_| !wanted.decoded));
        let is_enough = core.parts.knows(&asked.collect::<Vec<Option<Tag>>>());
        let unknown = wanted.iter().zip(&is_enough).filter(|(_, enough)| !**enough);
        let keys: Vec<EncodedKey> = unknown.map(|(wanted, _)| wanted.key.clone()).collect();
        let values = match keys.is_empty() {
            true => Vec::new(),
            false => read_packed(core, partition.id, &keys)?,
        };
        let durable = partition.durable();
        let measure = partition.measure(&durable.state.rules, &durable.spec);
        let mut values = values.into_iter();
        read.rows.reserve(wanted.len());
        for ((Wanted { key, decoded }, tag), enough) in wanted.into_iter().zip(tags).zip(is_enough)
        {
            let value = if enough { None } else { values.next() };
            let Some(packed) = value else {
                read.rows.push(Found { key, tag, fetched: None });
                continue;
            };
            let row = match (&packed, decoded) {
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
            read.rows.push(Found { key, tag, fetched: Some(Fetched { packed, row, parts }) });
        }
        if !keys.is_empty() {
            read.rules = Some(durable.state.rules.clone());
        }
        Ok(read)
    }

    fn found(&self, key: &EncodedKey) -> Option<&Found> {
        let place = self.rows.binary_search_by(|found| found.key.cmp(key)).ok()?;
        self.rows.get(place)
    }

    /// What was read of a row, if the overlay has all that became durable since.
    fn known(&self, inner: &Inner, key: &EncodedKey) -> Option<&Fetched> {
        self.found(key)?.fetched.as_ref().filter(|_| inner.is_covered(self.groups_finished))
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
        match inner.parts_overlaid(key) {
            Some(parts) if inner.has_digest() => Ok(parts),
            Some(_) | None => {
                self.parts_below(core, partition, inner, key).map(|before| before.parts)
            }
        }
    }

    /// As `parts`, unless the overlay knows of the row: for `put_row`, which asks it anyhow.
    pub(crate) fn parts_below(
        &self,
        core: &Core,
        partition: &Partition,
        inner: &Inner,
        key: &EncodedKey,
    ) -> Result<Before, StoreError> {
        if !inner.has_digest() {
            return Ok(Parts::new().into());
        }
        let found = self.found(key);
        let tag = found.and_then(|found| found.tag);
        let fetched = found.and_then(|found| found.fetched.as_ref());
        let measured_so =
            || self.rules.as_ref().is_some_and(|rules| rules.measure_alike(&inner.state.rules));
        let holds = |_: &&Fetched| inner.is_covered(self.groups_finished) && measured_so();
        if let Some(known) = fetched.filter(holds) {
            return Ok(Before { parts: known.parts.clone(), tag });
        }
        let remembered = inner.parts_cached(key, tag).or_else(|| inner.parts_overlaid(key));
        if let Some(parts) = remembered {
            return Ok(Before { parts, tag });
        }
        let mut packed = read_packed(core, partition.id, std::slice::from_ref(key))?;
        let measure = partition.measure(&inner.state.rules, &inner.spec);
        let parts = match packed.pop().flatten() {
            Some(packed) => {
                measure.of_packed(&key.0, &packed).map_err(StoreError::corrupt("row"))?
            }
            None => Parts::new(),
        };
        Ok(Before { parts, tag })
    }
}
