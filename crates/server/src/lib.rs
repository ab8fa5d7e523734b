//! Placeholder.

pub mod config;
pub mod status;
