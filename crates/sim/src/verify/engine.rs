//! A region's disk: the faulty engine, in front of which a planted bug may sit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use isthmus_model::ids::PartitionId;
use isthmus_store::engine::faulty::{FaultOdds, FaultyEngine};
use isthmus_store::engine::{Batch, Engine, EngineError, Snapshot, Space};
use isthmus_store::keys::LogOf;

use crate::plant::Plant;

/// A planted bug strikes at one in so many chances.
const STRIKES_ONE_IN: u64 = 7;

/// A disk.
pub(super) struct Disk {
    pub(super) engine: FaultyEngine,
    plant: Option<Plant>,
    chances: AtomicU64,
}

impl Disk {
    pub(super) fn new(seed: u64, plant: Option<Plant>) -> Disk {
        let engine = FaultyEngine::new(seed, FaultOdds::default());
        Disk { engine, plant, chances: AtomicU64::new(0) }
    }

    fn strikes(&self, plant: Plant) -> bool {
        self.plant == Some(plant)
            && self.chances.fetch_add(1, Ordering::Relaxed) % STRIKES_ONE_IN == STRIKES_ONE_IN - 1
    }

    /// What is read of a row before it is overwritten.
    fn seen(&self, space: Space, value: Option<Bytes>) -> Option<Bytes> {
        let hides = space == Space::Rows && value.is_some() && self.strikes(Plant::OldPartKept);
        value.filter(|_| !hides)
    }
}

impl Engine for Disk {
    fn commit(&self, batch: Batch) -> Result<(), EngineError> {
        match self.plant {
            Some(plant) if plant.tampers_with_redo(&batch) && self.strikes(plant) => {
                self.engine.commit(plant.tamper_redo(batch))
            }
            Some(_) | None => self.engine.commit(batch),
        }
    }

    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.seen(space, self.engine.get(space, key)?))
    }

    fn get_many(&self, space: Space, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, EngineError> {
        let values = self.engine.get_many(space, keys)?;
        Ok(values.into_iter().map(|value| self.seen(space, value)).collect())
    }

    fn snapshot(&self) -> Result<Arc<dyn Snapshot>, EngineError> {
        self.engine.snapshot()
    }

    fn forget_log(&self, log: LogOf, through: u64) -> Result<(), EngineError> {
        self.engine.forget_log(log, through)
    }

    fn drop_partition(&self, partition: PartitionId) -> Result<(), EngineError> {
        self.engine.drop_partition(partition)
    }

    fn space_left(&self) -> Result<u64, EngineError> {
        self.engine.space_left()
    }

    fn close(&self) -> Result<(), EngineError> {
        self.engine.close()
    }
}
