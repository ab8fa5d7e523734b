//! Rows changed behind the back of the log, in random places of random regions.

use isthmus_model::key::EncodedKey;
use isthmus_model::row::{Cell, Row};
use isthmus_store::codec::row::encode_row;
use isthmus_store::engine::{Batch, Engine, Space};
use isthmus_store::{Plant, StoreError, keys};
use rand::Rng;

use crate::verify::nature::PARTITION;
use crate::verify::world::World;
use crate::verify::writes;

const KINDS: [Plant; 5] =
    [Plant::LostRow, Plant::ExtraRow, Plant::Cell, Plant::Version, Plant::Tombstone];

impl World {
    /// Changes something somewhere. Gives whether it did.
    pub(super) fn plant_somewhere(&mut self) -> bool {
        let region = self.rng.random_range(0..self.regions.len());
        // A plant whose commit fails may be there all the same, and nobody would know.
        self.regions[region].disk.engine.unplan();
        let key = self.some_key(region);
        let kind = match self.nature.rots {
            true => Plant::Bit,
            false if self.rng.random_range(0..6) == 0 => return self.swap(region),
            false => KINDS[self.rng.random_range(0..KINDS.len())],
        };
        self.plant(region, &key, kind)
    }

    /// Mostly of a row that is there.
    fn some_key(&mut self, region: usize) -> EncodedKey {
        let rows = &self.moments[region].rows;
        if rows.is_empty() || self.rng.random_range(0..4) == 0 {
            return writes::key(self.rng.random_range(0..self.nature.keys + 2));
        }
        let place = self.rng.random_range(0..rows.len());
        rows.keys().nth(place).cloned().unwrap_or_default()
    }

    fn plant(&mut self, region: usize, key: &EncodedKey, kind: Plant) -> bool {
        let Some(table) = self.regions[region].table() else { return false };
        if kind == Plant::Version && self.moments[region].rows.get(key).is_some_and(is_taken) {
            return false;
        }
        let rotten_before = self.rotten[region].get(key).copied();
        if kind == Plant::Bit {
            self.rotten[region].insert(key.clone(), self.step);
        }
        let mut planted = table.plant(key, kind);
        self.commit_all(region);
        let answer = planted.try_take();
        let done = matches!(answer, Some(Ok(())));
        // Where the commit failed nobody is told whether the disk has kept it.
        let is_unknown = matches!(answer, Some(Err(StoreError::Unknown)) | None);
        if done || is_unknown {
            let lsn = table.durable_lsn();
            self.planted[region].insert(key.clone(), lsn);
        }
        if kind == Plant::Bit {
            match rotten_before {
                _ if done || is_unknown => self.rotten[region].insert(key.clone(), self.step),
                Some(since) => self.rotten[region].insert(key.clone(), since),
                None => self.rotten[region].remove(key),
            };
        }
        if done {
            self.note(&format!("planted in region {region}: {kind:?} at {key:?}"));
            if kind == Plant::Bit {
                // What has rotted is not in memory any more.
                self.crash(region);
            }
        }
        done
    }

    /// Swaps what two rows hold, while the region is down; its digest is built anew from them.
    fn swap(&mut self, region: usize) -> bool {
        self.commit_all(region);
        let rows: Vec<(EncodedKey, Row)> =
            self.moments[region].rows.iter().map(|(key, row)| (key.clone(), row.clone())).collect();
        if rows.len() < 2 {
            return false;
        }
        let one = self.rng.random_range(0..rows.len());
        let other = (one + self.rng.random_range(1..rows.len())) % rows.len();
        let (one, other) = (&rows[one], &rows[other]);
        if one.1 == other.1 {
            return false;
        }
        let mut batch = Batch::default();
        let place = |key: &EncodedKey| keys::row::encode_key(PARTITION, key);
        batch.put(Space::Rows, place(&one.0), encode_row(&other.1));
        batch.put(Space::Rows, place(&other.0), encode_row(&one.1));
        batch.delete(Space::Meta, keys::digest_mark::encode_key(PARTITION));
        self.note(&format!("swapped in region {region}: {:?} and {:?}", one.0, other.0));
        let lsn = self.moments[region].lsn;
        for key in [&one.0, &other.0] {
            self.planted[region].insert(key.clone(), lsn);
        }
        let mut done = false;
        self.crash_with(region, |disk| done = disk.engine.commit(batch).is_ok());
        done
    }
}

/// Whether the version after the first live one of a row is taken, by a deleted one.
fn is_taken(row: &Row) -> bool {
    let live = |cell: &&Cell| cell.value.is_some();
    let first = row.columns.iter().find_map(|column| {
        let cell = column.cells.iter().find(live)?;
        Some((column, cell.timestamp.0 + 1))
    });
    first.is_some_and(|(column, next)| column.cells.iter().any(|cell| cell.timestamp.0 == next))
}
