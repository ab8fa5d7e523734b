//! Decides who does what: which regions hold a table, who writes, who ships to whom.
//!
//! Pure: it reads no disk and calls nobody. The base region of a global table is its authority: it
//! alone changes the record and hands every version of it to the other replicas, which obey it.
//!
//! ```
//! use isthmus_control::global_table::{GlobalTable, Serve, Sync};
//!
//! let table = GlobalTable::new("flights", 7, "r1", Sync::Row, Serve::PrimarySecondary)
//!     .with_replica("r2", false, 0)
//!     .unwrap();
//! assert!(table.writes("r1") && !table.writes("r2"));
//! assert_eq!(table.ships_to("r1").collect::<Vec<_>>(), ["r2"]);
//! ```

pub mod agreed;
mod as_text;
pub mod batches;
pub mod binding;
pub mod change;
pub mod clocks;
pub use isthmus_model::{atomic, commit};
pub mod cut_tail;
pub mod detect;
pub mod disk;
pub mod distribution;
pub mod dropping;
pub mod duty;
pub mod edges;
pub mod extract;
pub mod forecast;
pub mod global_table;
pub mod lease;
pub mod link_hold;
pub mod link_rule;
pub mod schema_change;
pub mod watch;
pub mod write_mode;
pub mod writer;
