//! The one error of digests: stored or received bytes that cannot be what was written.
//!
//! It never says more than what was being read; the caller knows where the bytes came from, and
//! what takes their place (another replica's answer, or a tree built again from the rows).

/// Bytes that this crate did not write, or that changed since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("damaged digest: {0}")]
pub struct Damaged(pub &'static str);
