//! Rows, their changes and their rules, pure: no disk, no network, no runtime, no clock but the
//! one handed in.
//!
//! A client's wish is a [`change::RowChange`]. It is checked against a [`schema::Schema`], then
//! applied to a [`row::Row`] under a [`hlc::Stamp`], which gives the row after it and the delta
//! that an [`entry::Entry`] carries to the other regions, where [`row::Row::merge`] takes it in.
//!
//! ```
//! use isthmus_model::hlc::{Hlc, Stamp};
//! use isthmus_model::ids::Origin;
//! use isthmus_model::row::Row;
//!
//! let stamp = Stamp { hlc: Hlc::from_millis(1_000), origin: Origin(1) };
//! let put = Row { marker: Some(stamp), ..Row::default() };
//! let mut row = Row::default();
//! row.merge(&put);
//! row.merge(&put);
//! assert_eq!(row, put);
//! ```

pub mod apply;
pub mod atomic;
pub mod capacity;
pub mod change;
pub mod check;
pub mod clock;
pub mod commit;
pub mod compression;
pub mod conflict;
pub mod diff;
pub mod entry;
pub mod error;
pub mod expiry;
pub mod family;
pub mod filter;
pub mod hlc;
pub mod ids;
pub mod key;
pub mod limits;
pub mod row;
pub mod rule;
pub mod schema;
pub mod share;
pub mod show;
pub mod value;

mod view;

#[cfg(test)]
mod fixtures;
