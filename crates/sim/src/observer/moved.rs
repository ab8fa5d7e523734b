//! What a batch that became durable did, read from its bytes.

use std::collections::BTreeMap;

use isthmus_model::entry::Entry;
use isthmus_model::ids::{Lsn, PartitionId};
use isthmus_model::key::EncodedKey;
use isthmus_model::row::Row;
use isthmus_store::codec::row::decode_row;
use isthmus_store::engine::{Batch, Space};
use isthmus_store::keys;
use isthmus_store::keys::partition::PartitionState;
use isthmus_store::{Noticed, TableSpec};

use super::Observer;
use crate::checkers::Violation;

/// What one batch did to one partition.
#[derive(Debug, Default)]
pub(crate) struct Moved {
    pub(crate) spec: Option<TableSpec>,
    pub(crate) state: Option<PartitionState>,
    pub(crate) ranges: Vec<(Lsn, Lsn)>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) rows: BTreeMap<EncodedKey, Row>,
    pub(crate) copied: bool,
    /// Conflicts by number; without one, that is dropped.
    pub(crate) conflicts: Vec<(u64, Option<Noticed>)>,
    pub(crate) became_many: bool,
    /// All that was held of it goes.
    pub(crate) removed: bool,
}

impl Observer {
    /// What a batch of a node did, by partition.
    pub(super) fn parse(
        &mut self,
        node: usize,
        batch: &Batch,
    ) -> Result<BTreeMap<PartitionId, Moved>, Violation> {
        let damaged = |what: &str| Violation::of("bytes at rest can be read", what);
        let mut parts: BTreeMap<PartitionId, Moved> = BTreeMap::new();
        for write in batch.writes() {
            match write.space {
                Space::Rows => {
                    let (partition, key) = keys::row::decode_key(write.key.clone())
                        .map_err(|_| damaged("key of a row"))?;
                    let row = write.value.as_ref().map(decode_row).transpose();
                    let row = row.map_err(|_| damaged("row"))?.unwrap_or_default();
                    parts.entry(partition).or_default().rows.insert(key, row);
                }
                Space::Log => {
                    let Some(value) = &write.value else { continue };
                    // What a digest redoes is no entry.
                    if keys::log::decode_key(&write.key).is_err() {
                        continue;
                    }
                    let (head, entries) =
                        keys::log::decode_record(value).map_err(|_| damaged("record of a log"))?;
                    let part = parts.entry(head.partition).or_default();
                    part.ranges.push((head.first, head.last));
                    part.entries.extend(entries);
                }
                Space::Meta => {
                    let Some(value) = &write.value else {
                        // A table's partition has its number.
                        if let Ok(table) = keys::table::decode_key(&write.key) {
                            parts.entry(PartitionId(table.0)).or_default().removed = true;
                        } else if let Ok((p, number)) = keys::conflict::decode_key(&write.key) {
                            parts.entry(p).or_default().conflicts.push((number, None));
                        }
                        continue;
                    };
                    if let Ok(partition) = keys::partition::decode_key(&write.key) {
                        let state = keys::partition::decode_value(value)
                            .map_err(|_| damaged("state of a partition"))?;
                        parts.entry(partition).or_default().state = Some(state);
                    } else if keys::table::decode_key(&write.key).is_ok() {
                        let spec = keys::table::decode_value(value)
                            .map_err(|_| damaged("record of a table"))?;
                        let part = parts.entry(spec.partition).or_default();
                        part.spec = Some(spec);
                    } else if let Ok((p, number)) = keys::conflict::decode_key(&write.key) {
                        let noticed =
                            keys::conflict::decode_value(value).map_err(|_| damaged("conflict"))?;
                        parts.entry(p).or_default().conflicts.push((number, Some(noticed)));
                    }
                }
            }
        }
        if let Some(view) = self.nodes.get_mut(node) {
            for (partition, part) in &mut parts {
                part.copied = view.copying.remove(partition);
            }
        }
        Ok(parts)
    }
}
