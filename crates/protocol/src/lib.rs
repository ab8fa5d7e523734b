//! The bytes of the client's wire, and nothing else: no HTTP library, no disk, no clock.
//!
//! A request is checked by [`signature`], perhaps inflated by [`compression`], and becomes a
//! [`request::Operation`]; an answer is written by [`response`]. [`client`] is the other side of
//! both. Rows travel as [`plainbuffer`]. Bytes from outside can only cause a
//! [`error::ProtocolError`].
//!
//! ```
//! use bytes::Bytes;
//! use isthmus_protocol::request::{Operation, decode};
//!
//! assert_eq!(decode("/ListTable", Bytes::new()), Ok(Operation::ListTable));
//! let error = decode("/listtable", Bytes::new()).unwrap_err();
//! assert_eq!(error.message(), "Unsupported operation: 'listtable'.");
//! ```

pub mod client;
pub mod compression;
pub mod crc8;
pub mod date;
pub mod error;
pub mod error_code;
mod messages;
pub mod page_token;
pub mod plainbuffer;
pub mod receipt;
pub mod request;
pub mod response;
pub mod routed;
pub mod signature;
