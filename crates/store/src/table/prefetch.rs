//! Rows as the next change must see them: read before the lock is taken, checked under it.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use isthmus_model::ids::PartitionId;
use isthmus_model::key::EncodedKey;
use isthmus_model::row::Row;

use crate::codec::row::decode_row;
use crate::core::Core;
use crate::engine::Space;
use crate::error::StoreError;
use crate::keys;
use crate::partition::{Inner, Partition, Seen};

/// Rows read from the engine, and when.
pub(crate) struct Prefetched {
    groups_finished: u64,
    rows: HashMap<EncodedKey, Option<Arc<Row>>>,
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
    if let [key] = keys {
        let value = core.engine.get(Space::Rows, &keys::row::encode_key(partition, key))?;
        return Ok(vec![value.map(|bytes| decode(&bytes)).transpose()?]);
    }
    let keys: Vec<Bytes> = keys.iter().map(|key| keys::row::encode_key(partition, key)).collect();
    let values = core.engine.get_many(Space::Rows, &keys)?;
    values.into_iter().map(|value| value.map(|bytes| decode(&bytes)).transpose()).collect()
}

fn decode(bytes: &Bytes) -> Result<Row, StoreError> {
    decode_row(bytes).map_err(StoreError::corrupt("row"))
}

impl Prefetched {
    /// Reads rows outside the lock.
    pub(crate) fn read(
        core: &Core,
        partition: &Partition,
        keys: Vec<EncodedKey>,
    ) -> Result<Prefetched, StoreError> {
        let groups_finished = partition.groups_finished();
        if keys.is_empty() {
            return Ok(Prefetched { groups_finished, rows: HashMap::new() });
        }
        let rows = read_rows(core, partition.id, &keys)?;
        let rows = keys.into_iter().zip(rows).map(|(key, row)| (key, row.map(Arc::new))).collect();
        Ok(Prefetched { groups_finished, rows })
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
        let known = self.rows.get(key).filter(|_| inner.is_covered(self.groups_finished));
        let row = match known {
            Some(row) => row.clone(),
            None => {
                let mut rows = read_rows(core, partition.id, std::slice::from_ref(key))?;
                rows.pop().flatten().map(Arc::new)
            }
        };
        Ok(Current { row, pending: None })
    }
}
