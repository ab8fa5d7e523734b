//! An engine in memory: for tests, simulation, and a trial that may be forgotten.
//!
//! Every key has its versions by commit number, so that a snapshot is a number and not a copy.
//! Versions which no living snapshot can see are dropped when the key is written again or the
//! last snapshot goes.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use isthmus_model::change::Direction;
use isthmus_model::ids::PartitionId;
use parking_lot::RwLock;

use crate::engine::{Batch, Engine, EngineError, Scan, Snapshot, Space};
use crate::keys::{self, LogOf};

/// Pairs taken from the map at a time during a scan.
const SCAN_CHUNK: usize = 64;

/// Oldest first: commit number and value.
type Versions = Vec<(u64, Option<Bytes>)>;

#[derive(Default)]
struct Inner {
    spaces: [BTreeMap<Bytes, Versions>; 3],
    commit: u64,
    /// Living snapshots: commit number and how many.
    snapshots: BTreeMap<u64, usize>,
    /// Keys that may hold more than their newest value.
    garbage: Vec<(Space, Bytes)>,
    closed: bool,
}

/// Keeps everything in memory; nothing outlives it.
#[derive(Default)]
pub struct MemoryEngine {
    inner: Arc<RwLock<Inner>>,
}

impl MemoryEngine {
    /// An empty one.
    pub fn new() -> MemoryEngine {
        MemoryEngine::default()
    }

    /// Number of keys in a space, for tests.
    pub fn len(&self, space: Space) -> usize {
        let inner = self.inner.read();
        let live = |versions: &&Versions| versions.last().is_some_and(|(_, v)| v.is_some());
        inner.spaces[space.index()].values().filter(live).count()
    }

    /// Whether a space has no keys.
    pub fn is_empty(&self, space: Space) -> bool {
        self.len(space) == 0
    }

    fn remove_range(&self, space: Space, start: &[u8], end: &[u8]) -> Result<(), EngineError> {
        let mut inner = self.inner.write();
        inner.check_open()?;
        let range = (Bound::Included(start), Bound::Excluded(end));
        let map = &mut inner.spaces[space.index()];
        let keys: Vec<Bytes> = map.range::<[u8], _>(range).map(|(key, _)| key.clone()).collect();
        for key in keys {
            map.remove(&key);
        }
        Ok(())
    }
}

impl Inner {
    fn check_open(&self) -> Result<(), EngineError> {
        if self.closed { Err(EngineError::Closed) } else { Ok(()) }
    }

    fn newest(&self, space: Space, key: &[u8]) -> Option<Bytes> {
        let versions = self.spaces[space.index()].get(key)?;
        as_of(versions, u64::MAX).cloned()
    }

    fn set(&mut self, space: Space, key: Bytes, value: Option<Bytes>) {
        let commit = self.commit;
        let map = &mut self.spaces[space.index()];
        if self.snapshots.is_empty() {
            match value {
                Some(value) => map.insert(key, vec![(commit, Some(value))]),
                None => map.remove(&key),
            };
            return;
        }
        self.garbage.push((space, key.clone()));
        let versions = map.entry(key).or_default();
        versions.retain(|(number, _)| *number != commit);
        versions.push((commit, value));
    }

    fn collect_garbage(&mut self) {
        for (space, key) in std::mem::take(&mut self.garbage) {
            let map = &mut self.spaces[space.index()];
            let Some(versions) = map.get_mut(&key) else { continue };
            match versions.pop() {
                Some((number, Some(value))) => *versions = vec![(number, Some(value))],
                Some((_, None)) | None => {
                    map.remove(&key);
                }
            }
        }
    }
}

fn as_of(versions: &Versions, commit: u64) -> Option<&Bytes> {
    let seen = versions.iter().rev().find(|(number, _)| *number <= commit)?;
    seen.1.as_ref()
}

impl Engine for MemoryEngine {
    fn commit(&self, batch: Batch) -> Result<(), EngineError> {
        let mut inner = self.inner.write();
        inner.check_open()?;
        inner.commit += 1;
        for write in batch.into_writes() {
            inner.set(write.space, write.key, write.value);
        }
        Ok(())
    }

    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let inner = self.inner.read();
        inner.check_open()?;
        Ok(inner.newest(space, key))
    }

    fn get_many(&self, space: Space, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, EngineError> {
        let inner = self.inner.read();
        inner.check_open()?;
        Ok(keys.iter().map(|key| inner.newest(space, key)).collect())
    }

    fn snapshot(&self) -> Result<Arc<dyn Snapshot>, EngineError> {
        let mut inner = self.inner.write();
        inner.check_open()?;
        let commit = inner.commit;
        *inner.snapshots.entry(commit).or_default() += 1;
        Ok(Arc::new(MemorySnapshot { inner: self.inner.clone(), commit }))
    }

    fn forget_log(&self, log: LogOf, through: u64) -> Result<(), EngineError> {
        let end = log.encode_key(through.saturating_add(1));
        self.remove_range(Space::Log, &log.encode_key(0), &end)
    }

    fn drop_partition(&self, partition: PartitionId) -> Result<(), EngineError> {
        for (space, start, end) in keys::ranges_of_partition(partition) {
            self.remove_range(space, &start, &end)?;
        }
        Ok(())
    }

    fn space_left(&self) -> Result<u64, EngineError> {
        Ok(u64::MAX)
    }

    fn close(&self) -> Result<(), EngineError> {
        self.inner.write().closed = true;
        Ok(())
    }
}

struct MemorySnapshot {
    inner: Arc<RwLock<Inner>>,
    commit: u64,
}

impl Drop for MemorySnapshot {
    fn drop(&mut self) {
        let mut inner = self.inner.write();
        if let Some(count) = inner.snapshots.get_mut(&self.commit) {
            *count -= 1;
            if *count == 0 {
                inner.snapshots.remove(&self.commit);
            }
        }
        if inner.snapshots.is_empty() {
            inner.collect_garbage();
        }
    }
}

impl Snapshot for MemorySnapshot {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let inner = self.inner.read();
        let versions = inner.spaces[space.index()].get(key);
        Ok(versions.and_then(|versions| as_of(versions, self.commit)).cloned())
    }

    fn scan(
        &self,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
        direction: Direction,
    ) -> Scan<'_> {
        Box::new(MemoryScan {
            snapshot: self,
            space,
            start: Bound::Included(Bytes::copy_from_slice(start)),
            end: end.map_or(Bound::Unbounded, |end| Bound::Excluded(Bytes::copy_from_slice(end))),
            direction,
            chunk: Vec::new().into_iter(),
            done: false,
        })
    }
}

struct MemoryScan<'a> {
    snapshot: &'a MemorySnapshot,
    space: Space,
    start: Bound<Bytes>,
    end: Bound<Bytes>,
    direction: Direction,
    chunk: std::vec::IntoIter<(Bytes, Bytes)>,
    done: bool,
}

fn is_empty_range(start: &Bound<Bytes>, end: &Bound<Bytes>) -> bool {
    match (start, end) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(start), Bound::Included(end)) => start > end,
        (Bound::Included(start) | Bound::Excluded(start), Bound::Excluded(end))
        | (Bound::Excluded(start), Bound::Included(end)) => start >= end,
    }
}

impl MemoryScan<'_> {
    /// Takes the next chunk; an empty one means the end.
    fn refill(&mut self) {
        let mut chunk = Vec::with_capacity(SCAN_CHUNK);
        while chunk.is_empty() && !self.done {
            if is_empty_range(&self.start, &self.end) {
                self.done = true;
                break;
            }
            let last = self.visit(&mut chunk);
            match (last, self.direction) {
                (None, _) => self.done = true,
                (Some(key), Direction::Forward) => self.start = Bound::Excluded(key),
                (Some(key), Direction::Backward) => self.end = Bound::Excluded(key),
            }
        }
        self.chunk = chunk.into_iter();
    }

    /// Looks at up to a chunk of keys and gives the last one looked at.
    fn visit(&self, chunk: &mut Vec<(Bytes, Bytes)>) -> Option<Bytes> {
        let inner = self.snapshot.inner.read();
        let range = inner.spaces[self.space.index()].range((self.start.clone(), self.end.clone()));
        let mut last = None;
        let mut see = |(key, versions): (&Bytes, &Versions)| {
            last = Some(key.clone());
            if let Some(value) = as_of(versions, self.snapshot.commit) {
                chunk.push((key.clone(), value.clone()));
            }
        };
        match self.direction {
            Direction::Forward => range.take(SCAN_CHUNK).for_each(&mut see),
            Direction::Backward => range.rev().take(SCAN_CHUNK).for_each(&mut see),
        }
        last
    }
}

impl Iterator for MemoryScan<'_> {
    type Item = Result<(Bytes, Bytes), EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(pair) = self.chunk.next() {
            return Some(Ok(pair));
        }
        self.refill();
        self.chunk.next().map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::contract;

    #[test]
    fn keeps_the_contract() {
        contract::check(&|| Arc::new(MemoryEngine::new()));
    }

    #[test]
    fn old_versions_go_with_the_last_snapshot() {
        let engine = MemoryEngine::new();
        let put = |value: &'static str| {
            let mut batch = Batch::default();
            batch.put(Space::Meta, Bytes::from_static(b"k"), Bytes::from_static(value.as_bytes()));
            engine.commit(batch).unwrap();
        };
        put("a");
        let snapshot = engine.snapshot().unwrap();
        put("b");
        put("c");
        assert_eq!(snapshot.get(Space::Meta, b"k").unwrap().unwrap(), "a");
        drop(snapshot);
        assert_eq!(engine.inner.read().spaces[Space::Meta.index()][&b"k"[..]].len(), 1);
    }
}
