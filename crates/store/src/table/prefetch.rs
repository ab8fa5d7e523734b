//! Rows as the next change must see them: read before the lock is taken, checked under it.
//!
//! A change that replaces its row needs of it only what was in the digest; such a row is measured
//! in its packed form and not decoded.

use std::cell::Cell;
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
enum Fetched {
    /// It was not, since the cache knew enough of it.
    Not,
    /// It is not there.
    Absent,
    There(Box<There>),
}

/// A row that is there.
struct There {
    packed: Bytes,
    /// `None`: it was not asked for.
    row: Option<Arc<Row>>,
    parts: Parts,
}

/// A row that was looked up.
struct Found {
    key: EncodedKey,
    /// Its name in the cache of parts.
    tag: Option<Tag>,
    fetched: Fetched,
}

/// Rows read from the engine, and when.
pub(crate) struct Prefetched {
    groups_finished: u64,
    rules: Option<Rules>,
    /// As they were asked for.
    rows: Vec<Found>,
    /// Places of rows, in the order of their keys.
    order: Vec<u32>,
    /// The place of the row that was looked for last: the next one is likely that or the next.
    last: Cell<usize>,
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
    let keys = keys::row::encode_keys(partition, keys.iter());
    Ok(core.engine.get_many(Space::Rows, &keys)?)
}

/// Places of rows in the order of their keys.
fn order_of(wanted: &[Wanted]) -> Vec<u32> {
    let Some((first, others)) = wanted.split_first() else { return Vec::new() };
    let shared = |known: usize, other: &Wanted| shared_prefix(&first.key.0[..known], &other.key.0);
    let shared = others.iter().fold(first.key.0.len(), shared);
    // Most keys differ in the first bytes that not all have.
    let head = |wanted: &Wanted| {
        let mut head = [0; 8];
        let rest = &wanted.key.0[shared..];
        let length = rest.len().min(8);
        head[..length].copy_from_slice(&rest[..length]);
        u64::from_be_bytes(head)
    };
    let heads = wanted.iter().map(head).zip(0u32..);
    let mut order: Vec<(u64, u32)> = heads.collect();
    let key = |place: u32| &wanted[place as usize].key;
    order.sort_unstable_by(|one, other| {
        one.0.cmp(&other.0).then_with(|| key(one.1).cmp(key(other.1)))
    });
    order.into_iter().map(|(_, place)| place).collect()
}

/// How many bytes two strings begin with alike.
fn shared_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

fn decode(bytes: &Bytes) -> Result<Row, StoreError> {
    decode_row(bytes).map_err(StoreError::corrupt("row"))
}

impl Prefetched {
    /// Reads rows outside the lock. They are found soonest if looked for in the same order.
    pub(crate) fn read(
        core: &Core,
        partition: &Partition,
        mut wanted: Vec<Wanted>,
    ) -> Result<Prefetched, StoreError> {
        let groups_finished = partition.groups_finished();
        let has_digest = core.options.digests;
        wanted.retain(|wanted| wanted.decoded || has_digest);
        let mut read = Prefetched {
            groups_finished,
            rules: None,
            order: order_of(&wanted),
            rows: Vec::with_capacity(wanted.len()),
            last: Cell::new(0),
        };
        if wanted.is_empty() {
            return Ok(read);
        }
        let mut is_decoded = Vec::with_capacity(wanted.len());
        for Wanted { key, decoded } in wanted {
            let tag = has_digest.then(|| partition.tag(&key));
            is_decoded.push(decoded);
            read.rows.push(Found { key, tag, fetched: Fetched::Not });
        }
        let asked = read.rows.iter().zip(&is_decoded);
        let asked = asked.map(|(row, is_decoded)| row.tag.filter(|_| !is_decoded));
        let is_enough = core.parts.knows(asked);
        let mut unknown = read.order.clone();
        unknown.retain(|place| !is_enough[*place as usize]);
        if unknown.is_empty() {
            return Ok(read);
        }
        let values = match unknown[..] {
            [place] => read_packed(core, partition.id, &[read.rows[place as usize].key.clone()])?,
            // In this order the engine finds them sooner.
            _ => {
                let keys = unknown.iter().map(|place| &read.rows[*place as usize].key);
                let keys = keys::row::encode_keys(partition.id, keys);
                core.engine.get_many(Space::Rows, &keys)?
            }
        };
        let durable = partition.durable();
        let measure = partition.measure(&durable.state.rules, &durable.spec);
        for (place, packed) in unknown.into_iter().zip(values) {
            let place = place as usize;
            let row = &mut read.rows[place];
            let Some(packed) = packed else {
                row.fetched = Fetched::Absent;
                continue;
            };
            let decoded = is_decoded[place].then(|| decode(&packed).map(Arc::new)).transpose()?;
            let parts = match has_digest {
                true => {
                    measure.of_packed(&row.key.0, &packed).map_err(StoreError::corrupt("row"))?
                }
                false => Parts::new(),
            };
            row.fetched = Fetched::There(Box::new(There { packed, row: decoded, parts }));
        }
        read.rules = Some(durable.state.rules.clone());
        Ok(read)
    }

    fn found(&self, key: &EncodedKey) -> Option<&Found> {
        let last = self.last.get();
        let likely = [last, last + 1];
        let is_it = |place: &usize| self.rows.get(*place).is_some_and(|row| row.key == *key);
        let place = likely.into_iter().find(is_it).or_else(|| {
            let key_at = |place: &u32| self.rows.get(*place as usize).map(|row| &row.key);
            let at = self.order.binary_search_by(|place| key_at(place).cmp(&Some(key))).ok()?;
            self.order.get(at).map(|place| *place as usize)
        })?;
        self.last.set(place);
        self.rows.get(place)
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
        let holds = |_: &&Found| inner.is_covered(self.groups_finished);
        let row = match self.found(key).filter(holds).map(|found| &found.fetched) {
            Some(Fetched::Absent) => None,
            Some(Fetched::There(there)) => match &there.row {
                Some(row) => Some(row.clone()),
                None => Some(Arc::new(decode(&there.packed)?)),
            },
            Some(Fetched::Not) | None => {
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
        let measured_so =
            || self.rules.as_ref().is_some_and(|rules| rules.measure_alike(&inner.state.rules));
        if let Some(found) = found.filter(|_| inner.is_covered(self.groups_finished)) {
            match &found.fetched {
                // By whatever rules.
                Fetched::Absent => return Ok(Before { parts: Parts::new(), tag }),
                Fetched::There(there) if measured_so() => {
                    return Ok(Before { parts: there.parts.clone(), tag });
                }
                Fetched::There(_) | Fetched::Not => {}
            }
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

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::proptest;
    use proptest::prop_assert_eq;

    use super::*;

    proptest! {
        #[test]
        fn rows_are_put_in_the_order_of_their_keys_and_found_in_any(
            shared in vec(0..3u8, 0..3),
            rests in vec(vec(0..3u8, 0..12), 0..20),
            asked in vec(0..20usize, 0..20),
        ) {
            let key = |rest: &Vec<u8>| EncodedKey([&shared[..], rest].concat().into());
            let keys: Vec<EncodedKey> = rests.iter().map(key).collect();
            let wanted = |key: &EncodedKey| Wanted { key: key.clone(), decoded: false };
            let order = order_of(&keys.iter().map(wanted).collect::<Vec<_>>());
            let ordered: Vec<&EncodedKey> = order.iter().map(|at| &keys[*at as usize]).collect();
            let mut sorted: Vec<&EncodedKey> = keys.iter().collect();
            sorted.sort();
            prop_assert_eq!(ordered, sorted);
            let row =
                |key: &EncodedKey| Found { key: key.clone(), tag: None, fetched: Fetched::Not };
            let rows = keys.iter().map(row).collect();
            let last = Cell::new(0);
            let read = Prefetched { groups_finished: 0, rules: None, rows, order, last };
            for at in asked {
                let key = keys.get(at).cloned().unwrap_or_default();
                let found = read.found(&key).map(|found| &found.key);
                prop_assert_eq!(found, Some(&key).filter(|key| keys.contains(key)));
            }
        }
    }
}
