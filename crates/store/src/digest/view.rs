//! One moment of a digest with the rows of that moment, for comparing.
//!
//! The digest in it can be taken back further than the rows, to where another region stands. Rows
//! that changed since are marked: their parts are those of then, their bytes those of the moment.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use isthmus_digest::{Change, Hasher, Lane, Parts, Sum, Tree};
use isthmus_model::change::Direction;
use isthmus_model::hlc::Hlc;
use isthmus_model::ids::Lsn;
use isthmus_model::key::EncodedKey;

use crate::digest::live::{RingGroup, Stamped};
use crate::digest::{DigestState, Measure, Rules};
use crate::error::StoreError;
use crate::partition::Partition;
use crate::snapshot::TableSnapshot;
use crate::table::Table;

/// A row of a view.
#[derive(Clone, Debug)]
pub struct ViewRow {
    /// Its key.
    pub key: EncodedKey,
    /// Its packed form at the moment of the snapshot; `None`: nothing is kept then.
    pub packed: Option<Bytes>,
    /// Its parts as of the cut.
    pub parts: Parts,
    /// It changed between the cut and the snapshot.
    pub moved: bool,
}

/// One moment of a digest and its rows. Keeping it for long keeps old bytes on the disk.
pub struct DigestView {
    partition: Arc<Partition>,
    snapshot: TableSnapshot,
    rules: Rules,
    tree: Tree,
    /// Groups at or before that of the snapshot, newest first.
    ring: VecDeque<Arc<RingGroup>>,
    /// Whether the ring goes back as far as anything was ever changed since the store was opened.
    ring_lsn_start: Lsn,
    /// What the changes after the cut have done to the parts of rows, to be taken off.
    moved: BTreeMap<Bytes, Vec<(Lane, Sum)>>,
}

/// Tries to catch the digest and the engine at one moment.
const TRIES_MAX: usize = 16;

impl Table {
    /// How the digest stands.
    pub fn digest_state(&self) -> DigestState {
        self.partition.digest.lock().state
    }

    /// The digest and the rows as they are now.
    pub fn digest_view(&self) -> Result<DigestView, StoreError> {
        for _ in 0..TRIES_MAX {
            if let Some(view) = self.try_view()? {
                return Ok(view);
            }
        }
        Err(StoreError::Busy)
    }

    fn try_view(&self) -> Result<Option<DigestView>, StoreError> {
        let snapshot = self.snapshot()?;
        let group = snapshot.groups();
        let digest = &self.partition.digest;
        if digest.is_off() {
            return Err(StoreError::NoDigest(DigestState::Off));
        }
        let live = digest.lock_at(group)?;
        if live.state != DigestState::Ready {
            return Err(StoreError::NoDigest(live.state));
        }
        let Some(later) = live.groups_after(group) else { return Ok(None) };
        let known = live.groups_known();
        let mut tree = live.tree.clone();
        drop(live);
        for stamped in later.iter().flat_map(|group| group.changes.iter().rev()) {
            if !tree.undo(&digest.hasher, &stamped.change) {
                return Ok(None);
            }
        }
        let ring: VecDeque<Arc<RingGroup>> = known.into_iter().skip(later.len()).collect();
        let oldest = ring.back().and_then(|group| group.changes.first());
        let ring_lsn_start = oldest.map_or(snapshot.lsn(), |stamped| stamped.lsn);
        let rules = snapshot.rules().clone();
        let partition = self.partition.clone();
        let moved = BTreeMap::new();
        Ok(Some(DigestView { partition, snapshot, rules, tree, ring, ring_lsn_start, moved }))
    }
}

impl DigestView {
    /// The rows' moment.
    pub fn snapshot(&self) -> &TableSnapshot {
        &self.snapshot
    }

    /// The digest, as of the cut.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// How parts are hashed.
    pub fn hasher(&self) -> &Hasher {
        &self.partition.digest.hasher
    }

    /// Lanes of time and of kills below these do not count here.
    pub fn floors(&self) -> (i64, u64) {
        (self.rules.time_floor, self.rules.kills_floor)
    }

    /// What the digest counts.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Takes the digest back to an earlier end of the log; `false`: that is too far back, and it
    /// is of no use any more. Exact where the log has one writer.
    pub fn roll_back_to_lsn(&mut self, cut: Lsn) -> bool {
        if cut >= self.snapshot.lsn() {
            return true;
        }
        // The oldest group that is known may have lost a part to what came before it.
        if cut < self.ring_lsn_start {
            return false;
        }
        self.roll_back(|stamped| stamped.lsn > cut)
    }

    /// Takes back what entries after a moment have done, as far as that is known and the digest
    /// was not begun anew since.
    pub fn roll_back_to_hlc(&mut self, cut: Hlc) {
        self.roll_back(|stamped| stamped.stamp.is_some_and(|stamp| stamp.hlc > cut));
    }

    fn roll_back(&mut self, is_after: impl Fn(&Stamped) -> bool) -> bool {
        let hasher = &self.partition.digest.hasher;
        let (mut whole, mut begun_anew) = (true, false);
        for group in &self.ring {
            if begun_anew {
                // What changed before was counted otherwise, and cannot be taken off this digest.
                whole &= !group.changes.iter().any(&is_after);
                continue;
            }
            begun_anew = group.begins_anew;
            for stamped in group.changes.iter().rev().filter(|stamped| is_after(stamped)) {
                if !self.tree.undo(hasher, &stamped.change) {
                    whole = false;
                    continue;
                }
                if let Change::Part { key, lane, delta, .. } = &stamped.change {
                    self.moved.entry(key.clone()).or_default().push((*lane, *delta));
                }
            }
        }
        whole
    }

    /// What the lanes would be if they were made from the rows of the snapshot: lane, sum, rows.
    /// Reads everything. Equal to `tree().lanes()` unless something is wrong or the digest was
    /// taken back.
    pub fn recount(&self) -> Result<Vec<(Lane, Sum, u64)>, StoreError> {
        let mut lanes: BTreeMap<Lane, (Sum, u64)> = BTreeMap::new();
        for row in self.stored_rows(&EncodedKey::default()) {
            let (key, packed) = row?;
            for (lane, sum) in self.measure_stored(&key, &packed)?.iter() {
                let known = lanes.entry(lane).or_default();
                known.0 += sum;
                known.1 += 1;
            }
        }
        Ok(lanes.into_iter().map(|(lane, (sum, rows))| (lane, sum, rows)).collect())
    }

    fn measure(&self) -> Measure<'_> {
        self.partition.measure(&self.rules, self.snapshot.spec())
    }

    fn view_row(&self, key: EncodedKey, packed: Option<Bytes>) -> Result<ViewRow, StoreError> {
        let parts = match &packed {
            Some(packed) => self.measure_stored(&key, packed)?,
            None => Parts::new(),
        };
        let moved = self.moved.get(&key.0);
        let parts = match moved {
            Some(deltas) => without(&parts, deltas),
            None => parts,
        };
        Ok(ViewRow { key, packed, parts, moved: moved.is_some() })
    }

    /// The rows from `start` on as the disk holds them.
    pub(crate) fn stored_rows(
        &self,
        start: &EncodedKey,
    ) -> impl Iterator<Item = Result<(EncodedKey, Bytes), StoreError>> + Send + '_ {
        self.snapshot.scan_packed(start, None, Direction::Forward)
    }

    /// The parts of a row as the disk holds it.
    pub(crate) fn measure_stored(
        &self,
        key: &EncodedKey,
        packed: &Bytes,
    ) -> Result<Parts, StoreError> {
        self.measure().of_packed(&key.0, packed).map_err(StoreError::corrupt("row"))
    }

    /// One row.
    pub fn row(&self, key: &EncodedKey) -> Result<ViewRow, StoreError> {
        let packed = self.snapshot.get_packed(key)?;
        self.view_row(key.clone(), packed)
    }

    /// The rows from `start` (inclusive) to `end` (exclusive; `None`: the last), in order, with
    /// those that are there only at the cut or only since.
    pub fn rows(
        &self,
        start: &EncodedKey,
        end: Option<&EncodedKey>,
    ) -> impl Iterator<Item = Result<ViewRow, StoreError>> + Send + '_ {
        self.rows_of(vec![(start.clone(), end.cloned())])
    }

    /// The same of some ranges that ascend, none of which reaches into the next.
    pub fn rows_of(
        &self,
        ranges: Vec<(EncodedKey, Option<EncodedKey>)>,
    ) -> impl Iterator<Item = Result<ViewRow, StoreError>> + Send + '_ {
        let mut stored = self.snapshot.scan_packed_ranges(&ranges).peekable();
        let moved = ranges.into_iter().flat_map(|(start, end)| {
            let is_empty = end.as_ref().is_some_and(|end| *end <= start);
            let upper =
                end.map_or(std::ops::Bound::Unbounded, |end| std::ops::Bound::Excluded(end.0));
            let from = std::ops::Bound::Included(start.0);
            (!is_empty).then(|| self.moved.range((from, upper))).into_iter().flatten()
        });
        let mut moved = moved.map(|(key, _)| key).peekable();
        std::iter::from_fn(move || {
            if moved.peek().is_none() {
                let row = stored.next()?;
                return Some(row.and_then(|(key, packed)| self.view_row(key, Some(packed))));
            }
            let first_stored = match stored.peek() {
                Some(Ok((key, _))) => Some(key.0.clone()),
                Some(Err(_)) => return stored.next().and_then(Result::err).map(Err),
                None => None,
            };
            while let (Some(key), Some(first)) = (moved.peek(), &first_stored)
                && *key == first
            {
                moved.next();
            }
            match (moved.peek(), first_stored) {
                (Some(key), Some(first)) if **key < first => {
                    let key = EncodedKey((*key).clone());
                    moved.next();
                    Some(self.view_row(key, None))
                }
                (Some(key), None) => {
                    let key = EncodedKey((*key).clone());
                    moved.next();
                    Some(self.view_row(key, None))
                }
                (_, Some(_)) => {
                    let (key, packed) = stored.next()?.ok()?;
                    Some(self.view_row(key, Some(packed)))
                }
                (None, None) => None,
            }
        })
    }
}

/// The parts of a row before some changes.
fn without(parts: &Parts, deltas: &[(Lane, Sum)]) -> Parts {
    let mut sums: BTreeMap<Lane, Sum> = parts.iter().collect();
    for (lane, delta) in deltas {
        *sums.entry(*lane).or_default() -= *delta;
    }
    let mut before = Parts::new();
    for (lane, sum) in sums.into_iter().filter(|(_, sum)| !sum.is_zero()) {
        before.push(lane, sum);
    }
    before
}
