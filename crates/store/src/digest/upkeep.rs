//! What of a digest can wait: loading it, building it from rows, splitting leaves that have grown,
//! and checkpoints.
//!
//! A step is bounded, may be repeated at will and may be cut short anywhere. None of it changes
//! what the digest says of any row.

use std::time::Duration;

use bytes::Bytes;
use isthmus_digest::{
    Change, Hasher, LEAF_ZERO_BITS, Lane, LeafPart, PageWrite, Parts, SplitWanted, Sum, Tree,
};
use isthmus_model::change::Direction;
use isthmus_model::ids::{Lsn, PartitionId};
use isthmus_model::key::EncodedKey;

use crate::codec::Corrupt;
use crate::digest::live::{Live, key_of};
use crate::digest::{DigestState, LiveDigest};
use crate::engine::{BatchWrite, Snapshot, Space};
use crate::error::StoreError;
use crate::keys;
use crate::keys::LogOf;
use crate::keys::digest_mark::Mark;
use crate::table::Table;

/// Rows read in one step of building.
const BUILD_ROWS: usize = 2000;
/// Rows of leaves split in one step, about.
const SPLIT_ROWS: u64 = 2000;
/// While a table grows, only leaves of so many rows are split: each row that comes is read about
/// once for that, and more often the smaller the leaves are that are split.
const GROWING_LEAF_ROWS_MIN: u32 = 256;
/// A table grows if so many parts came a second,
const GROWING_ROWS: u64 = 1000;
/// by what is seen this often.
const GROWING_LOOK: Duration = Duration::from_secs(1);
/// Redo records after which pages are written: what a start has to take in again.
const CHECKPOINT_BYTES: usize = 64 * 1024 * 1024;
/// Pages are written after this long in any case.
const CHECKPOINT_PAUSE: Duration = Duration::from_secs(300);
/// Pages written at once.
const PAGE_BYTES: usize = 512 * 1024;

/// A checkpoint on its way.
#[derive(Default)]
pub(crate) struct Checkpointing {
    /// Of this generation of pages, every change up to this group is written when no page is older.
    goal: Option<(u32, u64)>,
    /// When the last one ended, on the monotonic clock.
    done: Duration,
}

/// How a digest grows, as it was seen last.
#[derive(Default)]
pub(crate) struct Growth {
    /// When it was looked at, on the monotonic clock.
    at: Duration,
    /// Its parts then.
    rows: u64,
    is_growing: bool,
    /// Nothing was left to be split since then.
    is_split: bool,
}

impl Live {
    /// Whether many parts come.
    fn look_at_growth(&mut self, now: Duration) -> bool {
        let passed = now.saturating_sub(self.growth.at);
        if passed >= GROWING_LOOK {
            let rows = self.tree.rows();
            let more = u128::from(rows.saturating_sub(self.growth.rows));
            let is_growing = more * 1000 > u128::from(GROWING_ROWS) * passed.as_millis();
            self.growth = Growth { at: now, rows, is_growing, is_split: false };
        }
        self.growth.is_growing
    }
}

impl LiveDigest {
    /// The digest as the engine has it; to be built if it has none, or a damaged one. `end` is the
    /// last group of the partition, and the end of its log.
    pub(crate) fn load(
        snapshot: &dyn Snapshot,
        partition: PartitionId,
        hasher: Hasher,
        end: (u64, Lsn),
    ) -> Result<LiveDigest, StoreError> {
        let stored = snapshot.get(Space::Meta, &keys::digest_mark::encode_key(partition))?;
        let Some(stored) = stored else {
            return LiveDigest::to_build(snapshot, partition, hasher, end);
        };
        let loaded = keys::digest_mark::decode_value(&stored)
            .map_err(StoreError::corrupt("mark of a digest"))
            .and_then(|mark| Ok((mark, load_tree(snapshot, partition, mark, &hasher)?)));
        match loaded {
            Ok((mark, (tree, redo_bytes))) => {
                let digest = LiveDigest::new(hasher, end, Some((mark, tree)));
                digest.lock().redo_bytes = redo_bytes;
                Ok(digest)
            }
            Err(StoreError::Engine(error)) => Err(StoreError::Engine(error)),
            Err(error) => {
                tracing::error!(%partition, %error, "digest is damaged and is built anew");
                LiveDigest::to_build(snapshot, partition, hasher, end)
            }
        }
    }

    /// A digest that is to be built, whose pages are not taken for those of an earlier life.
    fn to_build(
        snapshot: &dyn Snapshot,
        partition: PartitionId,
        hasher: Hasher,
        end: (u64, Lsn),
    ) -> Result<LiveDigest, StoreError> {
        let digest = LiveDigest::new(hasher, end, None);
        let (start, end) = keys::digest_page::range_of_partition(partition);
        let last = snapshot.scan(Space::Meta, &start, Some(&end), Direction::Backward).next();
        if let Some((key, _)) = last.transpose()? {
            let (_, generation, _, _) = keys::digest_page::decode_key(&key)
                .map_err(StoreError::corrupt("key of a digest's page"))?;
            digest.lock().generation = generation.saturating_add(1);
        }
        Ok(digest)
    }
}

/// The digest, and the bytes of redo log that it took.
fn load_tree(
    snapshot: &dyn Snapshot,
    partition: PartitionId,
    mark: Mark,
    hasher: &Hasher,
) -> Result<(Tree, usize), StoreError> {
    let damaged = StoreError::corrupt;
    let (start, end) = keys::digest_page::range(partition, mark.generation);
    let mut pages: Vec<(Lane, Vec<u8>, Bytes)> = Vec::new();
    for pair in snapshot.scan(Space::Meta, &start, Some(&end), Direction::Forward) {
        let (key, page) = pair?;
        let key = keys::digest_page::decode_key(&key).map_err(damaged("key of a digest's page"))?;
        pages.push((key.2, key.3, page));
    }
    let mut tree = Tree::load(pages.into_iter())
        .map_err(|error| damaged("page of a digest")(Corrupt { what: error.what }))?;
    let mut redo_bytes = 0;
    let start = keys::digest_redo::encode_key(partition, mark.checkpoint.saturating_add(1));
    let end = keys::digest_redo::encode_key(partition, u64::MAX);
    for pair in snapshot.scan(Space::Log, &start, Some(&end), Direction::Forward) {
        let (key, record) = pair?;
        let (_, group) = keys::digest_redo::decode_key(&key).map_err(damaged("key of a digest"))?;
        redo_bytes += record.len();
        let changes = keys::digest_redo::decode_value(&record);
        for change in changes.map_err(damaged("redo log of a digest"))? {
            tree.apply(hasher, group, &change);
        }
    }
    Ok((tree, redo_bytes))
}

impl Table {
    /// Makes the rules durable under which a missing digest is built.
    pub(crate) fn begin_digest_if_missing(&self) {
        let live = self.partition.digest.lock();
        let is_missing = live.mark.is_none() && live.state != DigestState::Off;
        drop(live);
        if is_missing {
            let mut inner = self.partition.inner.lock();
            let bytes_before = inner.part.bytes;
            inner.part.digest_anew = true;
            self.core.enqueue(&self.partition, &mut inner, bytes_before);
        }
    }

    /// One bounded step; gives whether there is more to do right away.
    pub(crate) fn digest_step(&self) -> Result<bool, StoreError> {
        let state = self.digest_state();
        match state {
            DigestState::Off => Ok(false),
            DigestState::Building { .. } => self.build_step().map(|()| true),
            DigestState::Ready => {
                let split = self.split_step()?;
                Ok(self.checkpoint_step() || split)
            }
        }
    }

    /// Whether there is nothing to do until a row changes. Forgets what has been known for long.
    pub(crate) fn digest_rests(&self) -> bool {
        let now = self.core.clock.monotonic();
        let is_checkpointing = self.partition.checkpointing.lock().goal.is_some();
        let mut live = self.partition.digest.lock();
        match live.state {
            DigestState::Off => true,
            DigestState::Building { .. } => false,
            DigestState::Ready => {
                let is_stored = live.redo_bytes == 0 && live.mark.is_some() && !is_checkpointing;
                live.age_ring(now) && is_stored && live.tree.wants_split().is_none()
            }
        }
    }

    /// Reads some rows into a digest that is being built.
    fn build_step(&self) -> Result<(), StoreError> {
        let digest = &self.partition.digest;
        let from = digest.lock().built_to.clone();
        let snapshot = self.snapshot()?;
        let measure = self.partition.measure(snapshot.rules(), snapshot.spec());
        let mut rows = snapshot.scan_packed(&from, None, Direction::Forward);
        let mut changes = Vec::new();
        let mut count = 0;
        let mut next = None;
        for row in rows.by_ref() {
            let (key, packed) = row?;
            if count == BUILD_ROWS {
                next = Some(key);
                break;
            }
            count += 1;
            let parts = measure.of_packed(&key.0, &packed).map_err(StoreError::corrupt("row"))?;
            for (lane, delta) in parts.iter() {
                changes.push(Change::Part { key: key.0.clone(), lane, delta, rows: 1 });
            }
        }
        let group = snapshot.groups();
        let mut live = digest.lock_at(group)?;
        let begun_anew = live.built_to != from;
        let Some(later) = live.groups_after(group).filter(|_| !begun_anew) else { return Ok(()) };
        if later.iter().any(|group| group.begins_anew) {
            return Ok(());
        }
        let in_step = |key: &Bytes| *key >= from.0 && next.as_ref().is_none_or(|n| *key < n.0);
        for change in &changes {
            live.tree.apply(&digest.hasher, group, change);
        }
        for known in later.iter().rev() {
            for stamped in known.changes.iter() {
                if key_of(&stamped.change).is_some_and(in_step) {
                    live.tree.apply(&digest.hasher, known.group, &stamped.change);
                }
            }
        }
        let rows = match live.state {
            DigestState::Building { rows } => rows + count as u64,
            DigestState::Off | DigestState::Ready => count as u64,
        };
        live.state = DigestState::Building { rows };
        match next {
            Some(next) => live.built_to = next,
            None => live.state = DigestState::Ready,
        }
        Ok(())
    }

    /// Splits some leaves that have grown. They are read by one iterator.
    fn split_step(&self) -> Result<bool, StoreError> {
        let digest = &self.partition.digest;
        let wanted = {
            let mut live = digest.lock();
            let is_growing = live.look_at_growth(self.core.clock.monotonic());
            // Nothing was found to split since it was looked last.
            if is_growing && live.growth.is_split {
                return Ok(false);
            }
            let least = if is_growing { GROWING_LEAF_ROWS_MIN } else { 0 };
            let wanted = live.tree.wants_splits(SPLIT_ROWS, least);
            live.growth.is_split = wanted.is_empty();
            wanted
        };
        if wanted.is_empty() {
            return Ok(false);
        }
        let mut leaves: Vec<Splitting> = wanted.into_iter().map(Splitting::new).collect();
        let snapshot = self.snapshot()?;
        let measure = self.partition.measure(snapshot.rules(), snapshot.spec());
        let ranges: Vec<_> = leaves.iter().map(Splitting::range).collect();
        // Both ascend.
        let mut place = 0;
        snapshot.visit_packed_ranges(&ranges, |key, packed| {
            while leaves.get(place + 1).is_some_and(|next| next.wanted.start[..] <= *key) {
                place += 1;
            }
            let row = measure.of_slice(key, packed)?;
            if let Some(leaf) = leaves.get_mut(place) {
                leaf.add_row(&digest.hasher, key, &row);
            }
            Ok(())
        })?;
        let group = snapshot.groups();
        let mut live = digest.lock_at(group)?;
        let Some(later) = live.groups_after(group) else { return Ok(true) };
        for stamped in later.iter().rev().flat_map(|group| group.changes.iter()) {
            if let Change::Part { key, lane, delta, rows } = &stamped.change
                && let Some(leaf) = leaf_of(&mut leaves, key).filter(|l| l.wanted.lane == *lane)
            {
                leaf.add_change(key, *delta, *rows);
            }
        }
        let group = live.group;
        for Splitting { wanted, parts } in &leaves {
            if !live.tree.split(wanted.lane, &wanted.start, group, parts) {
                live.tree.skip_split(wanted.lane, &wanted.start);
            }
        }
        Ok(true)
    }

    /// Writes some pages of a checkpoint, if one is due.
    fn checkpoint_step(&self) -> bool {
        let now = self.core.clock.monotonic();
        let mut checkpointing = self.partition.checkpointing.lock();
        let mut live = self.partition.digest.lock();
        // One that was begun before the digest was begun anew is of no use.
        checkpointing.goal = checkpointing.goal.filter(|(of, _)| *of == live.generation);
        if checkpointing.goal.is_none() {
            let is_due = live.mark.is_none()
                || live.redo_bytes >= CHECKPOINT_BYTES
                || (live.redo_bytes > 0 && now >= checkpointing.done + CHECKPOINT_PAUSE);
            if !is_due || self.core.admit().is_err() {
                return false;
            }
            checkpointing.goal = Some((live.generation, live.group));
            live.tree.begin_checkpoint();
            live.redo_bytes = 0;
        }
        let Some((generation, goal)) = checkpointing.goal else { return false };
        let pages = live.tree.take_dirty(PAGE_BYTES);
        if !pages.is_empty() {
            drop(live);
            self.core.enqueue_loose(self.page_writes(generation, pages), Box::new(|_| {}));
            return true;
        }
        let mark = Mark { generation, checkpoint: goal };
        let is_first = live.mark.replace(mark).is_none();
        drop(live);
        if is_first {
            self.remove_old_pages(generation);
        }
        checkpointing.goal = None;
        checkpointing.done = now;
        self.write_mark(mark);
        false
    }

    /// Writes all pages, when nothing is accepted any more.
    pub(crate) fn checkpoint_digest_at_close(&self) {
        let mut live = self.partition.digest.lock();
        if live.state != DigestState::Ready || live.mark.is_some_and(|m| m.checkpoint == live.group)
        {
            return;
        }
        let (group, generation) = (live.group, live.generation);
        live.tree.begin_checkpoint();
        loop {
            let pages = live.tree.take_dirty(PAGE_BYTES);
            if pages.is_empty() {
                break;
            }
            self.core.enqueue_loose(self.page_writes(generation, pages), Box::new(|_| {}));
        }
        drop(live);
        self.write_mark(Mark { generation, checkpoint: group });
    }

    fn page_writes(&self, generation: u32, pages: Vec<PageWrite>) -> Vec<BatchWrite> {
        let write = |page: PageWrite| BatchWrite {
            space: Space::Meta,
            key: keys::digest_page::encode_key(
                self.partition.id,
                generation,
                page.lane,
                &page.start,
            ),
            value: page.bytes,
        };
        pages.into_iter().map(write).collect()
    }

    /// Pages of earlier lives of the digest mean nothing any more.
    fn remove_old_pages(&self, generation: u32) {
        let id = self.partition.id;
        let (start, _) = keys::digest_page::range_of_partition(id);
        let (end, _) = keys::digest_page::range(id, generation);
        let Ok(snapshot) = self.core.engine.snapshot() else { return };
        let keys = snapshot.scan(Space::Meta, &start, Some(&end), Direction::Forward).flatten();
        let write = |(key, _)| BatchWrite { space: Space::Meta, key, value: None };
        let writes: Vec<BatchWrite> = keys.map(write).collect();
        if !writes.is_empty() {
            self.core.enqueue_loose(writes, Box::new(|_| {}));
        }
    }

    /// Loose writes are committed in the order they come, so the mark follows its pages.
    fn write_mark(&self, mark: Mark) {
        let id = self.partition.id;
        let write = BatchWrite {
            space: Space::Meta,
            key: keys::digest_mark::encode_key(id),
            value: Some(keys::digest_mark::encode_value(mark)),
        };
        let engine = self.core.engine.clone();
        let forget = move |done: Result<(), StoreError>| {
            if done.is_ok()
                && let Err(error) = engine.forget_log(LogOf::Digest(id), mark.checkpoint)
            {
                tracing::warn!(partition = %id, %error, "cannot give back room yet");
            }
        };
        self.core.enqueue_mark(&self.partition, mark.generation, write, Box::new(forget));
    }
}

/// A leaf that is being split.
struct Splitting {
    wanted: SplitWanted,
    parts: Vec<LeafPart>,
}

impl Splitting {
    fn new(wanted: SplitWanted) -> Splitting {
        let start = wanted.start.clone();
        let first = LeafPart { start, zero_bits: 0, sum: Sum::default(), rows: 0 };
        Splitting { wanted, parts: vec![first] }
    }

    fn range(&self) -> (EncodedKey, Option<EncodedKey>) {
        let key = |key: &Vec<u8>| EncodedKey(Bytes::copy_from_slice(key));
        (key(&self.wanted.start), self.wanted.end.as_ref().map(key))
    }

    /// Takes in a row; they come in the order of their keys.
    fn add_row(&mut self, hasher: &Hasher, key: &[u8], row: &Parts) {
        let zero_bits = hasher.zero_bits(key);
        if zero_bits >= LEAF_ZERO_BITS && *key != *self.wanted.start {
            let (start, zero_bits) = (key.to_vec(), zero_bits.min(255) as u8);
            self.parts.push(LeafPart { start, zero_bits, sum: Sum::default(), rows: 0 });
        }
        if let (Some(sum), Some(part)) = (row.get(self.wanted.lane), self.parts.last_mut()) {
            part.sum += sum;
            part.rows += 1;
        }
    }

    /// Takes in a change that came while the leaf was read.
    fn add_change(&mut self, key: &[u8], delta: Sum, rows: i8) {
        let place = self.parts.partition_point(|part| part.start[..] <= *key);
        if let Some(part) = place.checked_sub(1).and_then(|place| self.parts.get_mut(place)) {
            part.sum += delta;
            part.rows = part.rows.saturating_add_signed(i32::from(rows));
        }
    }
}

/// That of some leaves in which a key lies. They ascend.
fn leaf_of<'a>(leaves: &'a mut [Splitting], key: &[u8]) -> Option<&'a mut Splitting> {
    let place = leaves.partition_point(|leaf| leaf.wanted.start[..] <= *key);
    let leaf = leaves.get_mut(place.checked_sub(1)?)?;
    let is_inside = leaf.wanted.end.as_ref().is_none_or(|end| *key < end[..]);
    is_inside.then_some(leaf)
}
