//! An engine in memory whose disk fails, on plan or by seeded chance.
//!
//! A commit has two moments, written and synced. A failure before the first loses the batch; one
//! between them leaves it to the plan whether the batch is found again after the crash, as with a
//! real disk. From the first failure on everything fails until `crash`, after which the engine
//! holds exactly what was durable.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use isthmus_model::ids::PartitionId;
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::engine::memory::MemoryEngine;
use crate::engine::{Batch, Engine, EngineError, Snapshot, Space};
use crate::keys::LogOf;

/// What happens to one commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: it becomes durable.
    None,
    /// It fails, and the batch is lost.
    Lost,
    /// It fails, and the batch turns out to be durable after the crash.
    Kept,
}

/// How often what fails, out of a million.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultOdds {
    /// A commit fails.
    pub commit_fails_per_million: u32,
    /// A failed commit is durable all the same.
    pub failed_is_kept_per_million: u32,
    /// A read fails.
    pub read_fails_per_million: u32,
}

struct State {
    chance: SmallRng,
    odds: FaultOdds,
    /// Faults of the next commits; chance decides after them.
    plan: VecDeque<Fault>,
    failed: bool,
    commits: u64,
    space_left: u64,
}

/// Memory that fails.
pub struct FaultyEngine {
    memory: Arc<MemoryEngine>,
    state: Mutex<State>,
}

const MILLION: u32 = 1_000_000;

impl FaultyEngine {
    /// Faults come by the odds, from this seed.
    pub fn new(seed: u64, odds: FaultOdds) -> FaultyEngine {
        FaultyEngine {
            memory: Arc::new(MemoryEngine::new()),
            state: Mutex::new(State {
                chance: SmallRng::seed_from_u64(seed),
                odds,
                plan: VecDeque::new(),
                failed: false,
                commits: 0,
                space_left: u64::MAX,
            }),
        }
    }

    /// Lays down what happens to the next commits, before chance has its say again.
    pub fn plan(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state.lock().plan.extend(faults);
    }

    /// Takes back what was laid down and has not happened.
    pub fn unplan(&self) {
        self.state.lock().plan.clear();
    }

    /// Changes the odds.
    pub fn set_odds(&self, odds: FaultOdds) {
        self.state.lock().odds = odds;
    }

    /// Says how much room is left.
    pub fn set_space_left(&self, bytes: u64) {
        self.state.lock().space_left = bytes;
    }

    /// Power fails: what was not durable is gone, and the engine can be used anew.
    pub fn crash(&self) {
        let mut state = self.state.lock();
        state.failed = false;
        state.plan.clear();
    }

    /// Damages a value at rest, as a bad disk does. Gives whether there was one.
    pub fn damage(&self, space: Space, key: &[u8]) -> bool {
        let Ok(Some(value)) = self.memory.get(space, key) else { return false };
        let mut value = value.to_vec();
        let place = self.state.lock().chance.random_range(0..value.len().max(1));
        match value.get_mut(place) {
            Some(byte) => *byte ^= 0x40,
            None => return false,
        }
        let mut batch = Batch::default();
        batch.put(space, Bytes::copy_from_slice(key), value.into());
        self.memory.commit(batch).is_ok()
    }

    /// Commits that became durable so far.
    pub fn commits(&self) -> u64 {
        self.state.lock().commits
    }

    fn check_read(&self) -> Result<(), EngineError> {
        let mut state = self.state.lock();
        if state.failed {
            return Err(EngineError::Closed);
        }
        let odds = state.odds.read_fails_per_million;
        if odds > 0 && state.chance.random_range(0..MILLION) < odds {
            return Err(EngineError::Failed("read fails on plan".into()));
        }
        Ok(())
    }
}

impl State {
    fn next_fault(&mut self) -> Fault {
        if let Some(fault) = self.plan.pop_front() {
            return fault;
        }
        let FaultOdds { commit_fails_per_million, failed_is_kept_per_million, .. } = self.odds;
        if commit_fails_per_million == 0
            || self.chance.random_range(0..MILLION) >= commit_fails_per_million
        {
            return Fault::None;
        }
        let kept = self.chance.random_range(0..MILLION) < failed_is_kept_per_million;
        if kept { Fault::Kept } else { Fault::Lost }
    }
}

impl Engine for FaultyEngine {
    fn commit(&self, batch: Batch) -> Result<(), EngineError> {
        let mut state = self.state.lock();
        if state.failed {
            return Err(EngineError::Closed);
        }
        let fault = state.next_fault();
        if fault != Fault::Lost {
            self.memory.commit(batch)?;
            state.commits += 1;
        }
        if fault == Fault::None {
            return Ok(());
        }
        state.failed = true;
        Err(EngineError::Failed("sync fails on plan".into()))
    }

    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.check_read()?;
        self.memory.get(space, key)
    }

    fn get_many(&self, space: Space, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, EngineError> {
        self.check_read()?;
        self.memory.get_many(space, keys)
    }

    fn snapshot(&self) -> Result<Arc<dyn Snapshot>, EngineError> {
        self.check_read()?;
        self.memory.snapshot()
    }

    fn forget_log(&self, log: LogOf, through: u64) -> Result<(), EngineError> {
        self.memory.forget_log(log, through)
    }

    fn drop_partition(&self, partition: PartitionId) -> Result<(), EngineError> {
        self.memory.drop_partition(partition)
    }

    fn space_left(&self) -> Result<u64, EngineError> {
        Ok(self.state.lock().space_left)
    }

    /// A later `Store` may open it again: what is durable stays.
    fn close(&self) -> Result<(), EngineError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::contract;

    fn put(engine: &FaultyEngine, key: &'static [u8]) -> Result<(), EngineError> {
        let mut batch = Batch::default();
        batch.put(Space::Rows, Bytes::from_static(key), Bytes::from_static(b"v"));
        engine.commit(batch)
    }

    #[test]
    fn keeps_the_contract_without_faults() {
        contract::check_open_engine(&FaultyEngine::new(1, FaultOdds::default()));
    }

    #[test]
    fn after_a_crash_only_durable_batches_are_there() {
        let engine = FaultyEngine::new(1, FaultOdds::default());
        engine.plan([Fault::None, Fault::Lost]);
        assert!(put(&engine, b"a").is_ok());
        assert!(put(&engine, b"b").is_err());
        assert!(put(&engine, b"c").is_err());
        assert!(engine.get(Space::Rows, b"a").is_err());
        engine.crash();
        engine.plan([Fault::Kept]);
        assert!(put(&engine, b"d").is_err());
        engine.crash();
        let there = |key: &[u8]| engine.get(Space::Rows, key).unwrap().is_some();
        assert!(there(b"a") && !there(b"b") && !there(b"c") && there(b"d"));
    }
}
