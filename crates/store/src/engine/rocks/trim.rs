//! Drops trimmed log records when RocksDB merges files anyway.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::sync::Arc;

use parking_lot::RwLock;
use rocksdb::CompactionDecision;
use rocksdb::compaction_filter::CompactionFilter;
use rocksdb::compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory};

use crate::keys::LogOf;

const NAME: &CStr = c"isthmus trimmed log";

type Through = BTreeMap<LogOf, u64>;

/// Through where each log may go.
#[derive(Default)]
pub(super) struct Trims(RwLock<Arc<Through>>);

impl Trims {
    /// Records with numbers at or before `through` may go; later ones may not.
    pub(super) fn set(&self, log: LogOf, through: u64) {
        Arc::make_mut(&mut *self.0.write()).insert(log, through);
    }

    pub(super) fn clear(&self, log: LogOf) {
        Arc::make_mut(&mut *self.0.write()).remove(&log);
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
        match LogOf::decode_key(key) {
            Ok((log, number)) if self.0.get(&log).is_some_and(|through| number <= *through) => {
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
