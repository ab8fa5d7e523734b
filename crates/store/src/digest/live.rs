//! The digest of a partition in memory, as of the last group that is durable.
//!
//! The changes of the newest groups are kept beside it, so that a copy of the digest can be taken
//! back to the moment of a snapshot, or to the moment at which another region stands.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use isthmus_digest::{Change, Hasher, Tree};
use isthmus_model::hlc::Stamp;
use isthmus_model::ids::Lsn;
use isthmus_model::key::EncodedKey;
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::digest::DigestState;
use crate::error::StoreError;
use crate::keys::digest_mark::Mark;

/// A change of the digest, and which entry made it.
#[derive(Clone, Debug)]
pub(crate) struct Stamped {
    pub(crate) change: Change,
    /// The entry's address in the log here; for what no entry made, the log's end then.
    pub(crate) lsn: Lsn,
    /// `None`: no entry made it.
    pub(crate) stamp: Option<Stamp>,
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

/// The changes of one group.
pub(crate) struct RingGroup {
    pub(crate) group: u64,
    pub(crate) changes: Arc<Vec<Stamped>>,
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
    /// Bytes of redo records since the last checkpoint.
    pub(crate) redo_bytes: usize,
    ring: VecDeque<Arc<RingGroup>>,
    ring_bytes: usize,
    /// Groups at or before this one are not in the ring any more.
    ring_start: u64,
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
    /// A digest that is `tree` as of a group, or is to be built if there is none.
    pub(crate) fn new(hasher: Hasher, group: u64, loaded: Option<(Mark, Tree)>) -> LiveDigest {
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
            redo_bytes: 0,
            ring: VecDeque::new(),
            ring_bytes: 0,
            ring_start: group,
            aged: (Duration::ZERO, group),
        };
        LiveDigest { hasher, inner: Mutex::new(live), shown: Condvar::new() }
    }

    /// A digest that is not kept.
    pub(crate) fn off(hasher: Hasher) -> LiveDigest {
        let digest = LiveDigest::new(hasher, 0, None);
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
    pub(crate) fn show(&self, group: u64, changes: &Arc<Vec<Stamped>>, begin_anew: bool) {
        let mut live = self.lock();
        if live.state == DigestState::Off {
            return;
        }
        if begin_anew {
            live.begin_anew();
        }
        for stamped in changes.iter() {
            live.take(&self.hasher, group, &stamped.change);
        }
        live.group = group;
        live.remember(group, changes, begin_anew);
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

    fn remember(&mut self, group: u64, changes: &Arc<Vec<Stamped>>, begins_anew: bool) {
        if changes.is_empty() && !begins_anew {
            return;
        }
        let bytes = changes.iter().map(Stamped::bytes).sum();
        self.redo_bytes += bytes;
        self.ring_bytes += bytes;
        self.ring.push_back(Arc::new(RingGroup {
            group,
            changes: changes.clone(),
            begins_anew,
            bytes,
        }));
        while self.ring_bytes > RING_BYTES_MAX || self.ring.len() > RING_GROUPS_MAX {
            self.drop_oldest();
        }
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
    }
}

/// The key of a part that a change concerns.
pub(crate) fn key_of(change: &Change) -> Option<&Bytes> {
    match change {
        Change::Part { key, .. } => Some(key),
        Change::DropTime(_) | Change::DropKills(_) => None,
    }
}
