//! Where rows come from and go to outside of this product: files, and any store that speaks the
//! Tablestore protocol.
//!
//! What must hold: a source gives typed cells with the place they came from, holds one row in
//! memory at a time and can go on at a place it told before; the client tells for every failed
//! request whether it may have taken effect. What is compared is compared to the last bit, and
//! never called equal unless all of it was read.
//!
//! ```
//! use isthmus_connectors::csv::Csv;
//! use isthmus_connectors::source::Source;
//! use isthmus_connectors::types::Types;
//! use isthmus_model::value::Value;
//!
//! let file = std::io::Cursor::new("name,age\nada,36\n");
//! let mut rows = Csv::new(Box::new(file), Types::default()).unwrap();
//! let row = rows.next_row().unwrap().unwrap();
//! assert_eq!(row.cells[1], ("age".into(), Value::Integer(36)));
//! ```

pub mod admin;
pub mod compare;
pub mod csv;
#[cfg(test)]
mod demo;
pub mod format;
pub mod http;
pub mod json_lines;
pub mod parquet;
pub mod source;
pub mod tablestore;
pub mod types;
