//! The door to what keeps bytes: ordered keys in three spaces, and one batch at a time.
//!
//! An engine promises little, and all of it is in `contract.rs`: a batch is durable, whole, when
//! `commit` returns `Ok`; a batch whose `commit` failed is there whole or not at all, and nobody
//! knows which; a snapshot shows one moment. It knows nothing of rows, clocks or answers.
//!
//! Implementations: `memory` (tests, simulation), `faulty` (memory that fails on plan) and `rocks`
//! (disk).

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use isthmus_model::change::Direction;
use isthmus_model::error::{Kind, Outcome};
use isthmus_model::ids::PartitionId;

use crate::keys::LogOf;

#[allow(clippy::disallowed_methods, reason = "an engine is used by several threads")]
pub mod contract;
pub mod faulty;
#[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "the door to the disk")]
pub mod format;
pub mod memory;
#[cfg(feature = "rocks")]
#[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "the door to the disk")]
pub mod rocks;

/// What kind of keys; each space is kept apart from the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Space {
    /// One key per row.
    Rows,
    /// Change logs. Written once, in order, and trimmed from the front.
    Log,
    /// Everything else: tables, partitions, notes. Small.
    Meta,
}

impl Space {
    /// All of them.
    pub const ALL: [Space; 3] = [Space::Rows, Space::Log, Space::Meta];

    pub(crate) fn index(self) -> usize {
        match self {
            Space::Rows => 0,
            Space::Log => 1,
            Space::Meta => 2,
        }
    }
}

/// One write of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchWrite {
    /// Where.
    pub space: Space,
    /// Which key.
    pub key: Bytes,
    /// The new value; `None` deletes.
    pub value: Option<Bytes>,
}

/// Writes that become durable together or not at all. Later ones win over earlier ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    writes: Vec<BatchWrite>,
    size: usize,
}

impl Batch {
    /// Sets a key.
    pub fn put(&mut self, space: Space, key: Bytes, value: Bytes) {
        self.write(BatchWrite { space, key, value: Some(value) });
    }

    /// Removes a key.
    pub fn delete(&mut self, space: Space, key: Bytes) {
        self.write(BatchWrite { space, key, value: None });
    }

    /// Adds a write.
    pub fn write(&mut self, write: BatchWrite) {
        self.size += write.key.len() + write.value.as_ref().map_or(0, Bytes::len);
        self.writes.push(write);
    }

    /// The writes, in order.
    pub fn writes(&self) -> &[BatchWrite] {
        &self.writes
    }

    /// The writes, in order.
    pub fn into_writes(self) -> Vec<BatchWrite> {
        self.writes
    }

    /// Bytes of all keys and values.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether it would change nothing.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }
}

/// Why an engine could not do something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// It was closed, or has failed before.
    #[error("engine is closed")]
    Closed,
    /// No room. Nothing was written.
    #[error("no space left for the engine")]
    Full,
    /// Bytes at rest are not what was written.
    #[error("bytes at rest are damaged: {0}")]
    Corrupt(String),
    /// Another process has the data open.
    #[error(
        "data directory {0} is in use by another process: stop that one, or name another directory"
    )]
    InUse(PathBuf),
    /// The directory is not a data directory of this version.
    #[error("data directory {path}: {reason}")]
    Format {
        /// The directory.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The disk or the engine failed.
    #[error("engine failed: {0}")]
    Failed(String),
}

impl EngineError {
    /// What kind of failure.
    pub fn kind(&self) -> Kind {
        match self {
            EngineError::Closed | EngineError::InUse(_) => Kind::Unavailable,
            EngineError::Full => Kind::Busy,
            EngineError::Corrupt(_) => Kind::Corrupt,
            EngineError::Format { .. } => Kind::Invalid,
            EngineError::Failed(_) => Kind::Internal,
        }
    }

    /// Whether a commit that ended so may be durable all the same.
    pub fn outcome(&self) -> Outcome {
        match self {
            EngineError::Closed
            | EngineError::Full
            | EngineError::InUse(_)
            | EngineError::Format { .. } => Outcome::NotApplied,
            EngineError::Corrupt(_) | EngineError::Failed(_) => Outcome::Unknown,
        }
    }
}

/// Keys and values in order, read as they are asked for. An error ends it, or the range that it
/// is in where it goes through several.
pub type Scan<'a> = Box<dyn Iterator<Item = Result<(Bytes, Bytes), EngineError>> + Send + 'a>;

/// Keeps bytes. Every method blocks.
pub trait Engine: Send + Sync {
    /// Makes a batch durable, all or nothing. After an error the batch may or may not be there,
    /// and the engine must be opened anew before it is written to again.
    fn commit(&self, batch: Batch) -> Result<(), EngineError>;

    /// The value of a key as of the last commit.
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// The values of many keys, in their order, all as of one commit not before the call.
    fn get_many(&self, space: Space, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, EngineError>;

    /// A view of everything as of the last commit. Keeping one for long keeps old bytes.
    fn snapshot(&self) -> Result<Arc<dyn Snapshot>, EngineError>;

    /// Gives back, sooner or later, the records of a log whose numbers are at or before
    /// `through`. Nobody reads them again, not even in an older snapshot. Not durable: it is told
    /// again after a restart. A lower number takes back a higher one, for records yet to come.
    fn forget_log(&self, log: LogOf, through: u64) -> Result<(), EngineError>;

    /// Removes all keys of a partition that can be many, for ever: its number is never used again.
    /// Older snapshots may lose them too. May be repeated.
    fn drop_partition(&self, partition: PartitionId) -> Result<(), EngineError>;

    /// Bytes that can still be written.
    fn space_left(&self) -> Result<u64, EngineError>;

    /// Lets go of everything. Later calls fail with `Closed`; snapshots live on.
    fn close(&self) -> Result<(), EngineError>;
}

/// One moment of an engine.
pub trait Snapshot: Send + Sync {
    /// The value of a key.
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// Keys from `start` (inclusive) to `end` (exclusive; `None`: to the last one), ascending or
    /// descending. Holds a block or so at a time, whatever the length of the range.
    fn scan(
        &self,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
        direction: Direction,
    ) -> Scan<'_>;

    /// What scanning ranges one after the other gives, ascending. They ascend, and none reaches
    /// into the next. To begin another range costs less than to begin a scan.
    fn scan_ranges(&self, space: Space, ranges: Vec<ScanRange>) -> Scan<'_> {
        Box::new(ranges.into_iter().flat_map(move |ScanRange { start, end }| {
            self.scan(space, &start, Some(&end), Direction::Forward)
        }))
    }

    /// Shows what `scan_ranges` would give, in the same order and without copying it; ends at the
    /// first error. For upkeep that passes over much once: it pushes nothing out of a cache.
    fn visit_ranges(
        &self,
        space: Space,
        ranges: Vec<ScanRange>,
        visit: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<(), EngineError> {
        for pair in self.scan_ranges(space, ranges) {
            let (key, value) = pair?;
            visit(&key, &value);
        }
        Ok(())
    }
}

/// Keys from `start` (inclusive) to `end` (exclusive).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanRange {
    /// The first key.
    pub start: Bytes,
    /// The first key that is no part of it.
    pub end: Bytes,
}
