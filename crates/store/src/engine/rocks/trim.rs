//! Drops trimmed log records when RocksDB merges files anyway.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::sync::Arc;

use isthmus_model::ids::{Lsn, PartitionId};
use parking_lot::RwLock;
use rocksdb::CompactionDecision;
use rocksdb::compaction_filter::CompactionFilter;
use rocksdb::compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory};

use crate::keys;

const NAME: &CStr = c"isthmus trimmed log";

type Through = BTreeMap<PartitionId, Lsn>;

/// Through where each partition's log may go.
#[derive(Default)]
pub(super) struct Trims(RwLock<Arc<Through>>);

impl Trims {
    /// Records that begin at or before `through` may go; later ones may not.
    pub(super) fn set(&self, partition: PartitionId, through: Lsn) {
        Arc::make_mut(&mut *self.0.write()).insert(partition, through);
    }

    pub(super) fn clear(&self, partition: PartitionId) {
        Arc::make_mut(&mut *self.0.write()).remove(&partition);
    }
}

/// Makes a filter for each merge.
pub(super) struct LogFilters(Arc<Trims>);

impl LogFilters {
    pub(super) fn new(trims: Arc<Trims>) -> LogFilters {
        LogFilters(trims)
    }
}

impl CompactionFilterFactory for LogFilters {
    type Filter = LogFilter;

    fn create(&mut self, _context: CompactionFilterContext) -> LogFilter {
        LogFilter(self.0.0.read().clone())
    }

    fn name(&self) -> &CStr {
        NAME
    }
}

/// Drops what was trimmed when the merge began.
pub(super) struct LogFilter(Arc<Through>);

impl CompactionFilter for LogFilter {
    fn filter(&mut self, _level: u32, key: &[u8], _value: &[u8]) -> CompactionDecision {
        match keys::log::decode_key(key) {
            Ok((partition, first)) if self.0.get(&partition).is_some_and(|t| first <= *t) => {
                CompactionDecision::Remove
            }
            // A key that is none of ours is for a reader to complain about.
            Ok(_) | Err(_) => CompactionDecision::Keep,
        }
    }

    fn name(&self) -> &CStr {
        NAME
    }
}
