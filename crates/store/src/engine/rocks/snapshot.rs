//! A snapshot of the database that owns what it looks at.

use std::sync::Arc;

use bytes::Bytes;
use isthmus_model::change::Direction;
use rocksdb::{DB, DBRawIterator, ReadOptions};

use crate::engine::rocks::{failed, family, shared};
use crate::engine::{EngineError, Scan, Snapshot, Space};

/// One moment of the database.
pub(super) struct RocksSnapshot {
    /// Dropped first: it must not outlive the database it is of.
    snapshot: rocksdb::Snapshot<'static>,
    db: Arc<DB>,
}

impl RocksSnapshot {
    pub(super) fn new(db: Arc<DB>) -> RocksSnapshot {
        let snapshot = db.snapshot();
        // SAFETY: the snapshot borrows the `DB` inside the `Arc`, which has a fixed address. The
        // struct holds that `Arc` for longer than the snapshot, as fields are dropped in the order
        // in which they are declared, and never gives out the lifetime.
        #[allow(unsafe_code, reason = "a snapshot and its database in one struct")]
        let snapshot = unsafe {
            std::mem::transmute::<rocksdb::Snapshot<'_>, rocksdb::Snapshot<'static>>(snapshot)
        };
        RocksSnapshot { snapshot, db }
    }
}

impl Snapshot for RocksSnapshot {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let family = family(&self.db, space)?;
        let value = self.snapshot.get_pinned_cf(family, key).map_err(|error| failed(&error))?;
        Ok(shared(value))
    }

    fn scan(
        &self,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
        direction: Direction,
    ) -> Scan<'_> {
        let family = match family(&self.db, space) {
            Ok(family) => family,
            Err(error) => return Box::new(std::iter::once(Err(error))),
        };
        if end.is_some_and(|end| end <= start) {
            return Box::new(std::iter::empty());
        }
        let mut options = ReadOptions::default();
        options.set_snapshot(&self.snapshot);
        options.set_iterate_lower_bound(start);
        if let Some(end) = end {
            options.set_iterate_upper_bound(end);
        }
        let mut iterator = self.db.raw_iterator_cf_opt(family, options);
        match direction {
            Direction::Forward => iterator.seek_to_first(),
            Direction::Backward => iterator.seek_to_last(),
        }
        Box::new(RocksScan { iterator, direction, started: false })
    }
}

struct RocksScan<'a> {
    iterator: DBRawIterator<'a>,
    direction: Direction,
    started: bool,
}

impl Iterator for RocksScan<'_> {
    type Item = Result<(Bytes, Bytes), EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.started && self.iterator.valid() {
            match self.direction {
                Direction::Forward => self.iterator.next(),
                Direction::Backward => self.iterator.prev(),
            }
        }
        self.started = true;
        match self.iterator.item() {
            Some((key, value)) => {
                Some(Ok((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value))))
            }
            // The end, or a block that could not be read.
            None => self.iterator.status().err().map(|error| Err(failed(&error))),
        }
    }
}
