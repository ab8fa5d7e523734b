//! A snapshot of the database that owns what it looks at.

use std::sync::Arc;

use bytes::Bytes;
use isthmus_model::change::Direction;
use rocksdb::{DB, DBRawIterator, ReadOptions};

use crate::engine::rocks::{failed, family, shared};
use crate::engine::{EngineError, Scan, ScanRange, Snapshot, Space};

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
        Box::new(RocksScan { iterator, direction, started: false, has_failed: false })
    }

    fn scan_ranges(&self, space: Space, ranges: Vec<ScanRange>) -> Scan<'_> {
        match self.ranges_scan(space, ranges, true) {
            Ok(Some(scan)) => Box::new(scan),
            Ok(None) => Box::new(std::iter::empty()),
            Err(error) => Box::new(std::iter::once(Err(error))),
        }
    }

    fn visit_ranges(
        &self,
        space: Space,
        ranges: Vec<ScanRange>,
        visit: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<(), EngineError> {
        let Some(mut scan) = self.ranges_scan(space, ranges, false)? else { return Ok(()) };
        while scan.go_on()? {
            if let Some((key, value)) = scan.iterator.item() {
                visit(key, value);
            }
        }
        Ok(())
    }
}

impl RocksSnapshot {
    /// `None`: there are no ranges.
    fn ranges_scan(
        &self,
        space: Space,
        ranges: Vec<ScanRange>,
        fill_cache: bool,
    ) -> Result<Option<RangesScan<'_>>, EngineError> {
        let family = family(&self.db, space)?;
        let (Some(first), Some(last)) = (ranges.first(), ranges.last()) else { return Ok(None) };
        let mut options = ReadOptions::default();
        options.set_snapshot(&self.snapshot);
        options.set_iterate_lower_bound(&first.start[..]);
        options.set_iterate_upper_bound(&last.end[..]);
        options.fill_cache(fill_cache);
        let iterator = self.db.raw_iterator_cf_opt(family, options);
        Ok(Some(RangesScan { iterator, ranges: ranges.into_iter(), end: None }))
    }
}

/// One iterator that goes through some ranges. Where a block cannot be read the rest of its range
/// is left out after the error.
struct RangesScan<'a> {
    iterator: DBRawIterator<'a>,
    /// Those that were not begun.
    ranges: std::vec::IntoIter<ScanRange>,
    /// Where the one ends that it is in.
    end: Option<Bytes>,
}

impl Iterator for RangesScan<'_> {
    type Item = Result<(Bytes, Bytes), EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.go_on() {
            Ok(true) => {
                let (key, value) = self.iterator.item()?;
                Some(Ok((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value))))
            }
            Ok(false) => None,
            Err(error) => Some(Err(error)),
        }
    }
}

impl RangesScan<'_> {
    /// Goes to the next key; gives whether there is one.
    fn go_on(&mut self) -> Result<bool, EngineError> {
        if self.end.is_some() && self.iterator.valid() {
            self.iterator.next();
        }
        loop {
            if let Some(end) = &self.end {
                match self.iterator.key() {
                    Some(key) if key < &end[..] => return Ok(true),
                    Some(_) => {}
                    // Past the last key of all ranges, or a block that could not be read.
                    None => {
                        if let Err(error) = self.iterator.status() {
                            self.end = None;
                            return Err(failed(&error));
                        }
                    }
                }
            }
            let Some(ScanRange { start, end }) = self.ranges.next() else { return Ok(false) };
            // Where it stands at or beyond the start, no key lies between.
            let stands = self.end.is_some() && self.iterator.valid();
            if !stands || self.iterator.key().is_none_or(|key| key < &start[..]) {
                self.iterator.seek(&start);
            }
            self.end = Some(end);
        }
    }
}

struct RocksScan<'a> {
    iterator: DBRawIterator<'a>,
    direction: Direction,
    started: bool,
    /// A block could not be read; nothing is told of what comes after it.
    has_failed: bool,
}

impl Iterator for RocksScan<'_> {
    type Item = Result<(Bytes, Bytes), EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.has_failed {
            return None;
        }
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
            None => self.iterator.status().err().map(|error| {
                self.has_failed = true;
                Err(failed(&error))
            }),
        }
    }
}
