//! Keeps tables: rows, change logs and watermarks, durable together or not at all.
//!
//! A [`Store`] holds a node's tables on one [`engine::Engine`]. A [`Table`] is the only door for
//! changes of rows: what clients write, what other regions send, what a copy brings. Each change
//! becomes a batch of rows and log entries; batches that wait together are committed together, and
//! answered when they are durable. Reads, snapshots and the log show durable state only.
//!
//! Checked here: what commits together, in which order, and what survives a crash. Left to others:
//! which region may write (`control`), what is shipped where (`replication`), what a row means
//! (`model`).
//!
//! ```
//! use std::sync::Arc;
//!
//! use isthmus_model::clock::SystemClock;
//! use isthmus_model::ids::{Epoch, Origin, PartitionId, SchemaNumber, TableId};
//! use isthmus_model::key::KeyKind;
//! use isthmus_model::schema::{KeyColumn, Schema, TableOptions};
//! use isthmus_store::engine::memory::MemoryEngine;
//! use isthmus_store::{Store, StoreOptions, TableSpec, Writers, Writing};
//!
//! let options = StoreOptions::new(Origin(1));
//! let store = Store::open(Arc::new(MemoryEngine::new()), Arc::new(SystemClock), options)?;
//! let id = TableId(store.reserve_id()?);
//! let key = KeyColumn { name: "id".into(), kind: KeyKind::Integer, auto_increment: false };
//! let mut made = store.create_table(TableSpec {
//!     id,
//!     name: "letters".into(),
//!     partition: PartitionId(id.0),
//!     schema: Schema {
//!         number: SchemaNumber(1),
//!         key_columns: vec![key],
//!         defined_columns: Vec::new(),
//!         options: TableOptions::default(),
//!     },
//!     created_millis: 0,
//!     epoch: Epoch(1),
//!     base: Origin(1),
//!     writing: Writing::Accept,
//!     writers: Writers::One,
//!     writer: Origin(1),
//!     handed_over: None,
//!     settled: Default::default(),
//! });
//! // A server gives `run_committer` a thread; here one step is enough.
//! assert!(made.try_take().is_none());
//! store.commit_step();
//! let table = made.try_take().expect("it was committed")?;
//! assert_eq!(table.name(), "letters".into());
//! # Ok::<(), isthmus_store::StoreError>(())
//! ```

pub mod codec;
pub mod counters;
pub mod digest;
pub mod engine;
pub mod keys;
pub mod limits;

mod atomic;
mod core;
mod cut;
mod error;
mod forget;
mod kills;
mod lives;
mod log_size;
mod partition;
mod past;
mod pending;
mod prepared;
mod replaced;
mod snapshot;
mod spec;
mod stamps;
mod store;
mod table;
mod tail;

pub use crate::core::{DurableHook, FatalHook, SpecHook};
pub use atomic::{AtomicState, BatchesHeld, Room};
pub use cut::TableCut;
pub use error::StoreError;
pub use keys::conflict::Noticed;
pub use keys::decided::Decided;
pub use keys::partition::Watermark;
pub use lives::{Lives, Run};
pub use log_size::LogSize;
pub use pending::Pending;
pub use replaced::{ReplacedValue, bytes_of};
pub use snapshot::TableSnapshot;
pub use spec::{HandedOver, TableSpec, Writers, Writing};
pub use store::{Store, StoreOptions};
pub use table::{
    Beginning, Beside, ConflictCounts, CopyDone, Healed, Held, LogSlice, MovedRow, Plant,
    RepairRow, Repaired, Table, WriterWord, Written,
};

#[cfg(test)]
mod tests;
