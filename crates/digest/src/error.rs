//! The one error of digests: stored or received bytes that cannot be what was written.
//!
//! It says no more than what was being read; the caller knows where the bytes came from, and what
//! takes their place (another answer of the peer, or a tree built again from the rows).

/// Bytes that this crate did not write, or that changed since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("damaged digest: {what}")]
pub struct Damaged {
    /// What could not be read.
    pub what: &'static str,
}
