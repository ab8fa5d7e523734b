//! Tables that several regions have written and all others have left: they stay merged by stamps,
//! and nobody is waited for any more who could send something older than what was deleted.
//!
//! A region that went its own way while others go on is none of these: should it be bound again,
//! what it deleted alone must be known.

use std::collections::BTreeSet;

use isthmus_model::ids::TableId;
use isthmus_store::{Store, StoreError};
use parking_lot::Mutex;

use super::Node;
use crate::api_error::ApiError;

const NOTES: &str = "last-replica/";

fn note_name(table: TableId) -> Vec<u8> {
    format!("{NOTES}{:016x}", table.0).into_bytes()
}

/// Which tables these are.
#[derive(Default)]
pub(super) struct LastReplicas(Mutex<BTreeSet<TableId>>);

impl LastReplicas {
    /// What is kept, of tables that are there.
    pub(super) fn read(store: &Store) -> Result<LastReplicas, StoreError> {
        let notes = store.notes(NOTES.as_bytes())?;
        let tables = notes.iter().filter_map(|(name, _)| {
            let name = std::str::from_utf8(name.strip_prefix(NOTES.as_bytes())?).ok()?;
            u64::from_str_radix(name, 16).ok().map(TableId)
        });
        Ok(LastReplicas(Mutex::new(tables.filter(|table| store.table(*table).is_some()).collect())))
    }
}

impl Node {
    /// Whether a table without a record was left by all others.
    pub(super) fn is_last_replica(&self, table: TableId) -> bool {
        self.last_replicas.0.lock().contains(&table)
    }

    /// The record of a table is about to be forgotten; `is_last`: since all others have left it.
    pub(super) async fn note_last_replica(
        &self,
        table: TableId,
        is_last: bool,
    ) -> Result<(), ApiError> {
        match is_last {
            true => {
                self.store.put_note(&note_name(table), &[]).await?;
                self.last_replicas.0.lock().insert(table);
            }
            false if self.is_last_replica(table) => {
                self.store.delete_note(&note_name(table)).await?;
                self.last_replicas.0.lock().remove(&table);
            }
            false => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use isthmus_model::clock::SystemClock;
    use isthmus_model::ids::Origin;
    use isthmus_store::StoreOptions;
    use isthmus_store::engine::memory::MemoryEngine;

    use super::*;

    #[test]
    fn a_table_that_is_gone_is_not_known_as_left() {
        let engine = Arc::new(MemoryEngine::new());
        let options = StoreOptions::new(Origin(1));
        let store = Store::open(engine, Arc::new(SystemClock), options).unwrap();
        drop(store.put_note(&note_name(TableId(257)), &[]));
        while store.commit_step() {}
        assert!(LastReplicas::read(&store).unwrap().0.lock().is_empty());
    }
}
