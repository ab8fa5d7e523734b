//! The digest of a partition in memory, as of the last group that is durable.
//!
//! The changes of the newest groups are kept beside it, so that a copy of the digest can be taken
//! back to the moment of a snapshot, or to the moment at which another region stands. With them
//! is known which rows the newest entries name, so that a repair can tell what it must leave alone.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use isthmus_digest::{Change, Hasher, Tree};
use isthmus_model::hlc::Stamp;
use isthmus_model::ids::Lsn;
use isthmus_model::key::EncodedKey;
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::digest::DigestState;
use crate::digest::upkeep::Growth;
use crate::error::StoreError;
use crate::keys::digest_mark::Mark;
use crate::partition::Group;

/// A change of the digest, and which entry made it.
#[derive(Clone, Debug)]
pub(crate) struct Stamped {
    pub(crate) change: Change,
    /// The entry's address in the log here; for what no entry made, the log's end then.
    pub(crate) lsn: Lsn,
    /// `None`: no entry made it.
    pub(crate) stamp: Option<Stamp>,
}

/// A row that an entry names and that is in the digest as it was, such as a delete of what is not
/// there.
#[derive(Clone, Debug)]
pub(crate) struct Silent {
    /// The encoded key of the row.
    pub(crate) key: Bytes,
    /// The entry's address in the log here.
    pub(crate) lsn: Lsn,
}

impl Stamped {
    fn bytes(&self) -> usize {
        let key = match &self.change {
            Change::Part { key, .. } => key.len(),
            Change::DropTime(_) | Change::DropKills(_) => 0,
        };
        key + std::mem::size_of::<Stamped>()
    }
}

impl Silent {
    fn bytes(&self) -> usize {
        self.key.len() + std::mem::size_of::<Silent>()
    }
}

/// The changes of one group.
pub(crate) struct RingGroup {
    pub(crate) group: u64,
    pub(crate) changes: Arc<Vec<Stamped>>,
    silent: Vec<Silent>,
    /// The last entry that is in either.
    lsn: Lsn,
    /// The digest was begun anew before them.
    pub(crate) begins_anew: bool,
    bytes: usize,
}

/// Changes kept for taking copies back, per partition.
const RING_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Groups kept for it, of whatever size.
const RING_GROUPS_MAX: usize = 16 * 1024;
/// A group that is durable is shown at once; waiting longer for it than this means a fault.
const PUBLISH_WAIT: Duration = Duration::from_secs(5);
/// Groups are kept about this long, at most twice as long.
const RING_AGE_MAX: Duration = Duration::from_secs(30);

/// What is under the lock.
pub(crate) struct Live {
    pub(crate) tree: Tree,
    /// The last group that is in it.
    pub(crate) group: u64,
    pub(crate) state: DigestState,
    /// While it is built: rows before this key are in it.
    pub(crate) built_to: EncodedKey,
    pub(crate) mark: Option<Mark>,
    pub(crate) generation: u32,
    pub(crate) growth: Growth,
    /// Bytes of redo records since the last checkpoint.
    pub(crate) redo_bytes: usize,
    ring: VecDeque<Arc<RingGroup>>,
    ring_bytes: usize,
    /// Groups at or before this one are not in the ring any more.
    ring_start: u64,
    /// Entries at or before this one may be unknown to the ring.
    ring_lsn: Lsn,
    /// When the ring was aged, on the monotonic clock, and the last group then.
    aged: (Duration, u64),
}

/// The digest of a partition.
pub(crate) struct LiveDigest {
    pub(crate) hasher: Hasher,
    inner: Mutex<Live>,
    shown: Condvar,
}

impl LiveDigest {
    /// A digest that is `tree` as of a group and an end of the log, or is to be built if there is
    /// none.
    pub(crate) fn new(
        hasher: Hasher,
        (group, lsn): (u64, Lsn),
        loaded: Option<(Mark, Tree)>,
    ) -> LiveDigest {
        let state = match &loaded {
            Some(_) => DigestState::Ready,
            None => DigestState::Building { rows: 0 },
        };
        let mark = loaded.as_ref().map(|(mark, _)| *mark);
        let live = Live {
            tree: loaded.map(|(_, tree)| tree).unwrap_or_default(),
            group,
            state,
            built_to: EncodedKey::default(),
            generation: mark.map_or(0, |mark| mark.generation),
            mark,
            growth: Growth::default(),
            redo_bytes: 0,
            ring: VecDeque::new(),
            ring_bytes: 0,
            ring_start: group,
            ring_lsn: lsn,
            aged: (Duration::ZERO, group),
        };
        LiveDigest { hasher, inner: Mutex::new(live), shown: Condvar::new() }
    }

    /// A digest that is not kept.
    pub(crate) fn off(hasher: Hasher) -> LiveDigest {
        let digest = LiveDigest::new(hasher, (0, Lsn(0)), None);
        digest.lock().state = DigestState::Off;
        digest
    }

    pub(crate) fn is_off(&self) -> bool {
        self.lock().state == DigestState::Off
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Live> {
        self.inner.lock()
    }

    /// Waits until a durable group is in it.
    pub(crate) fn lock_at(&self, group: u64) -> Result<MutexGuard<'_, Live>, StoreError> {
        let mut live = self.lock();
        while live.group < group {
            if self.shown.wait_for(&mut live, PUBLISH_WAIT).timed_out() {
                return Err(StoreError::Busy);
            }
        }
        Ok(live)
    }

    /// Takes in a group that is durable.
    pub(crate) fn show(&self, group: &Group) {
        let mut live = self.lock();
        if live.state == DigestState::Off {
            return;
        }
        if group.part.digest_anew {
            live.begin_anew();
        }
        let number = group.state.groups;
        for stamped in group.digest.iter() {
            live.take(&self.hasher, number, &stamped.change);
        }
        live.group = number;
        live.remember(group);
        self.shown.notify_all();
    }
}

impl Live {
    /// Forgets everything: it is built from the rows again.
    pub(crate) fn begin_anew(&mut self) {
        self.tree = Tree::new();
        self.state = DigestState::Building { rows: 0 };
        self.built_to = EncodedKey::default();
        self.mark = None;
        self.generation += 1;
        self.redo_bytes = 0;
    }

    fn take(&mut self, hasher: &Hasher, group: u64, change: &Change) {
        let is_building = matches!(self.state, DigestState::Building { .. });
        match change {
            // Read later, as it is by then.
            Change::Part { key, .. } if is_building && *key >= self.built_to.0 => {}
            Change::Part { .. } | Change::DropTime(_) | Change::DropKills(_) => {
                self.tree.apply(hasher, group, change);
            }
        }
    }

    fn remember(&mut self, group: &Group) {
        let (changes, silent) = (&group.digest, &group.part.silent);
        if !group.concerns_digest() {
            return;
        }
        let changed_bytes: usize = changes.iter().map(Stamped::bytes).sum();
        let silent_bytes: usize = silent.iter().map(Silent::bytes).sum();
        let bytes = changed_bytes + silent_bytes;
        let changed = changes.iter().map(|stamped| stamped.lsn).max();
        let lsn = silent.iter().map(|silent| silent.lsn).max().max(changed).unwrap_or_default();
        self.redo_bytes += changed_bytes;
        self.ring_bytes += bytes;
        if group.part.digest_anew {
            // What was changed before in the same group is not told.
            self.ring_lsn = self.ring_lsn.max(lsn);
        }
        self.ring.push_back(Arc::new(RingGroup {
            group: group.state.groups,
            changes: changes.clone(),
            silent: silent.clone(),
            lsn,
            begins_anew: group.part.digest_anew,
            bytes,
        }));
        while self.ring_bytes > RING_BYTES_MAX || self.ring.len() > RING_GROUPS_MAX {
            self.drop_oldest();
        }
    }

    /// The rows that entries after an LSN name. `None`: it lies too far back to be known.
    pub(crate) fn named_after(&self, lsn: Lsn) -> Option<HashSet<Bytes>> {
        if lsn < self.ring_lsn || self.state == DigestState::Off {
            return None;
        }
        let mut named = HashSet::new();
        for group in self.ring.iter().rev().filter(|group| group.lsn > lsn) {
            let changes = group.changes.iter().filter(|stamped| stamped.lsn > lsn);
            named.extend(changes.filter_map(|stamped| key_of(&stamped.change).cloned()));
            let silent = group.silent.iter().filter(|silent| silent.lsn > lsn);
            named.extend(silent.map(|silent| silent.key.clone()));
        }
        Some(named)
    }

    /// The groups after `group`, newest first; `None` if some of them are not known any more.
    pub(crate) fn groups_after(&self, group: u64) -> Option<Vec<Arc<RingGroup>>> {
        if group < self.ring_start {
            return None;
        }
        let later = self.ring.iter().rev().take_while(|known| known.group > group);
        Some(later.cloned().collect())
    }

    /// All groups that are known, newest first.
    pub(crate) fn groups_known(&self) -> Vec<Arc<RingGroup>> {
        self.ring.iter().rev().cloned().collect()
    }

    /// Forgets groups that have been known for a while; to be called now and then. Gives whether
    /// none are left.
    pub(crate) fn age_ring(&mut self, now: Duration) -> bool {
        if now >= self.aged.0 + RING_AGE_MAX {
            let through = self.aged.1;
            while self.ring.front().is_some_and(|oldest| oldest.group <= through) {
                self.drop_oldest();
            }
            self.aged = (now, self.group);
        }
        self.ring.is_empty()
    }

    fn drop_oldest(&mut self) {
        let Some(oldest) = self.ring.pop_front() else { return };
        self.ring_bytes -= oldest.bytes;
        self.ring_start = oldest.group;
        self.ring_lsn = self.ring_lsn.max(oldest.lsn);
    }
}

/// The key of a part that a change concerns.
pub(crate) fn key_of(change: &Change) -> Option<&Bytes> {
    match change {
        Change::Part { key, .. } => Some(key),
        Change::DropTime(_) | Change::DropKills(_) => None,
    }
}
