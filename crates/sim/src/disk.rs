//! A node's disk: the store's faulty engine, and the place where what is durable is told.
//!
//! The observer sees every batch the moment it is durable, also one whose commit is said to have
//! failed. The disk outlives the node's crashes; a crash takes what was not durable.

use std::sync::Arc;

use bytes::Bytes;
use isthmus_model::change::Direction;
use isthmus_model::ids::PartitionId;
use isthmus_store::engine::faulty::{Fault, FaultOdds, FaultyEngine};
use isthmus_store::engine::{Batch, Engine, EngineError, Snapshot, Space};
use isthmus_store::keys::{self, LogOf};
use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::SmallRng;

use crate::observer::Observer;
use crate::plant::Plant;
use crate::rng::{Purpose, happens, split};

struct State {
    rng: SmallRng,
    engine: Arc<FaultyEngine>,
    commit_fails_per_million: u32,
    /// The next commit fails.
    fails_next: bool,
    failed: bool,
    /// With a planted lie: everything that is durable, and what was only said to be.
    synced: Vec<Batch>,
    unsynced: Vec<Batch>,
}

/// A disk.
pub(crate) struct Disk {
    node: usize,
    seed: u64,
    plant: Option<Plant>,
    observer: Arc<Mutex<Observer>>,
    state: Mutex<State>,
}

impl Disk {
    /// An empty one.
    pub(crate) fn new(
        node: usize,
        seed: u64,
        plant: Option<Plant>,
        observer: Arc<Mutex<Observer>>,
    ) -> Disk {
        let state = State {
            rng: split(seed, Purpose::Disk(node)),
            engine: Arc::new(FaultyEngine::new(seed ^ node as u64, FaultOdds::default())),
            commit_fails_per_million: 0,
            fails_next: false,
            failed: false,
            synced: Vec::new(),
            unsynced: Vec::new(),
        };
        Disk { node, seed, plant, observer, state: Mutex::new(state) }
    }

    fn engine(&self) -> Arc<FaultyEngine> {
        self.state.lock().engine.clone()
    }

    /// Sets how often what fails.
    pub(crate) fn set_odds(&self, commit_fails_per_million: u32, read_fails_per_million: u32) {
        let mut state = self.state.lock();
        state.commit_fails_per_million = commit_fails_per_million;
        state.engine.set_odds(FaultOdds { read_fails_per_million, ..FaultOdds::default() });
    }

    /// Says how much room is left.
    pub(crate) fn set_full(&self, full: bool) {
        self.engine().set_space_left(if full { 0 } else { u64::MAX });
    }

    /// Lets the next commit fail, as power does that goes in the middle of it.
    pub(crate) fn fail_next(&self) {
        self.state.lock().fails_next = true;
    }

    /// All that is durable, if it can be read.
    pub(crate) fn copy(&self) -> Option<Batch> {
        let snapshot = self.engine().snapshot().ok()?;
        let mut batch = Batch::default();
        for space in Space::ALL {
            for pair in snapshot.scan(space, &[], None, Direction::Forward) {
                let (key, value) = pair.ok()?;
                batch.put(space, key, value);
            }
        }
        Some(batch)
    }

    /// What is on the disk: the space, key and bytes of each pair.
    pub(crate) fn sizes(&self) -> Vec<(Space, Bytes, u64)> {
        let mut sizes = Vec::new();
        let Ok(snapshot) = self.engine().snapshot() else { return sizes };
        for space in Space::ALL {
            let pairs = snapshot.scan(space, &[], None, Direction::Forward);
            sizes.extend(pairs.filter_map(Result::ok).map(|(key, value)| {
                let bytes = (key.len() + value.len()) as u64;
                (space, key, bytes)
            }));
        }
        sizes
    }

    /// An old copy takes the place of what is on the disk.
    pub(crate) fn put_back(&self, copy: Batch) {
        let mut state = self.state.lock();
        let engine = FaultyEngine::new(self.seed ^ self.node as u64, FaultOdds::default());
        // Nothing fails where no odds are set.
        let _ = engine.commit(copy);
        state.engine = Arc::new(engine);
    }

    /// Power is gone: so is what was not durable.
    pub(crate) fn crash(&self) {
        let mut state = self.state.lock();
        state.engine.crash();
        state.failed = false;
        state.fails_next = false;
        if self.plant == Some(Plant::CeilingForgotten) {
            let mut batch = Batch::default();
            batch.delete(Space::Meta, keys::node::encode_key());
            // A planted bug: whether it succeeds shows in the checkers.
            let _ = state.engine.commit(batch);
        }
        if self.plant == Some(Plant::AnswerBeforeSync) {
            state.unsynced.clear();
            let engine = FaultyEngine::new(self.seed, FaultOdds::default());
            for batch in &state.synced {
                let _ = engine.commit(batch.clone());
            }
            state.engine = Arc::new(engine);
        }
    }

    fn next_fault(state: &mut State) -> Fault {
        let odds = state.commit_fails_per_million;
        if !(std::mem::take(&mut state.fails_next) || happens(&mut state.rng, odds)) {
            return Fault::None;
        }
        if state.rng.random() { Fault::Kept } else { Fault::Lost }
    }
}

impl Engine for Disk {
    fn commit(&self, batch: Batch) -> Result<(), EngineError> {
        let batch = match self.plant {
            Some(plant) => plant.lose(batch),
            None => batch,
        };
        let mut state = self.state.lock();
        if state.failed {
            return Err(EngineError::Closed);
        }
        let fault = Disk::next_fault(&mut state);
        state.engine.plan([fault]);
        let done = state.engine.commit(batch.clone());
        state.failed = done.is_err();
        if self.plant == Some(Plant::AnswerBeforeSync) {
            state.unsynced.push(batch.clone());
            if state.rng.random_range(0..4) == 0 {
                let unsynced = std::mem::take(&mut state.unsynced);
                state.synced.extend(unsynced);
            }
        }
        drop(state);
        if fault != Fault::Lost {
            self.observer.lock().durable(self.node, &batch);
        }
        done
    }

    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.engine().get(space, key)
    }

    fn get_many(&self, space: Space, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, EngineError> {
        self.engine().get_many(space, keys)
    }

    fn snapshot(&self) -> Result<Arc<dyn Snapshot>, EngineError> {
        self.engine().snapshot()
    }

    fn forget_log(&self, log: LogOf, through: u64) -> Result<(), EngineError> {
        self.engine().forget_log(log, through)
    }

    fn drop_partition(&self, partition: PartitionId) -> Result<(), EngineError> {
        self.engine().drop_partition(partition)
    }

    fn space_left(&self) -> Result<u64, EngineError> {
        self.engine().space_left()
    }

    fn close(&self) -> Result<(), EngineError> {
        self.engine().close()
    }
}
