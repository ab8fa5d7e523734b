//! Rows that are made to differ, in the store of a region that is stopped.
//!
//! Which rows is left to chance, the same in each run. One row in four may be chosen, and writes
//! of the benchmark keep to the others: a write would make the row alike again.

use std::collections::{HashSet, VecDeque};
use std::path::Path;
use std::sync::Arc;

use isthmus_model::clock::SystemClock;
use isthmus_model::ids::Origin;
use isthmus_store::engine::rocks::{RocksEngine, RocksOptions};
use isthmus_store::{Plant, Store, StoreOptions};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::error::{BenchError, Result, Tried};
use crate::rows::{RowSet, TABLE, encoded_key};

/// One row in so many may differ.
const ONE_IN: u64 = 4;
/// Plants that wait for their commit together.
const PENDING: usize = 512;

/// Rows that differ.
pub(super) struct Plants {
    rows: RowSet,
    random: SmallRng,
    planted: HashSet<u64>,
}

impl Plants {
    pub(super) fn new(rows: RowSet) -> Plants {
        Plants { rows, random: SmallRng::seed_from_u64(77), planted: HashSet::new() }
    }

    /// Rows that never differ, by chance.
    pub(super) fn untouched(&self, count: usize) -> Vec<u64> {
        let mut random = SmallRng::seed_from_u64(78);
        let number = |_| {
            let group = random.random_range(0..self.rows.count / ONE_IN);
            group * ONE_IN + random.random_range(1..ONE_IN)
        };
        (0..count).map(number).collect()
    }

    /// Changes rows of the region with this configuration until so many differ.
    pub(super) fn plant(&mut self, config: &Path, differing: u64) -> Result<()> {
        let wanted = differing.min(self.rows.count / ONE_IN / 2);
        if self.planted.len() as u64 >= wanted {
            return Ok(());
        }
        let store = open(config)?;
        let committer = {
            let store = store.clone();
            std::thread::spawn(move || store.run_committer())
        };
        let planted = self.plant_into(&store, wanted);
        store.stop();
        committer.join().map_err(|_| BenchError::failed("the committer panicked"))?;
        planted?;
        Ok(store.close()?)
    }

    fn plant_into(&mut self, store: &Store, wanted: u64) -> Result<()> {
        let table = store.table_by_name(TABLE);
        let table = table.ok_or_else(|| BenchError::failed("the region lacks the table"))?;
        let mut pending = VecDeque::new();
        while (self.planted.len() as u64) < wanted {
            let number = self.random.random_range(0..self.rows.count / ONE_IN) * ONE_IN;
            if !self.planted.insert(number) {
                continue;
            }
            // Half of them lose a cell's value, the others are lost or have another version.
            let plant = match self.random.random_range(0..4) {
                0 => Plant::LostRow,
                1 => Plant::Version,
                _ => Plant::Cell,
            };
            pending.push_back(table.plant(&encoded_key(number), plant));
            if pending.len() >= PENDING
                && let Some(oldest) = pending.pop_front()
            {
                oldest.wait()?;
            }
        }
        pending.into_iter().try_for_each(|one| Ok(one.wait()?))
    }
}

fn open(config: &Path) -> Result<Arc<Store>> {
    let shown = config.display();
    let text = std::fs::read_to_string(config).tried(|| format!("read {shown}"))?;
    let malformed = || BenchError::Failed(format!("{shown} has another form"));
    let read: toml::Table = text.parse().map_err(|_| malformed())?;
    let number = read.get("region").and_then(|region| region.get("number")?.as_integer());
    let data = read.get("storage").and_then(|storage| storage.get("data")?.as_str());
    let (Some(number), Some(data)) = (number, data) else { return Err(malformed()) };
    let origin = Origin(u8::try_from(number).map_err(|_| malformed())?);
    let directory = config.parent().unwrap_or(Path::new(".")).join(data);
    let engine = RocksEngine::open(&directory, &RocksOptions::default())?;
    let options = StoreOptions { log_compression: false, ..StoreOptions::new(origin) };
    Ok(Store::open(Arc::new(engine), Arc::new(SystemClock), options)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_keep_off_the_rows_that_may_differ() {
        let plants = Plants::new(RowSet::small(1000));
        let untouched = plants.untouched(500);
        assert!(untouched.iter().all(|number| number % ONE_IN != 0 && *number < 1000));
        assert_eq!(untouched, plants.untouched(500));
    }
}
