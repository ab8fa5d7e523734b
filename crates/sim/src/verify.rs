//! Trials of digests: small worlds of two or three regions in which rows are changed behind the
//! back of the log, compared, found and mended, while writes go on.
//!
//! Stores, digests, sessions and the comparison are those of the server; only what lies between
//! the regions is made simple: entries are handed over one slice at a time. Every question of a
//! comparison lets the world go on before and after it is answered. What is planted is known, and
//! what a row ought to be is known from the logs alone (`truth.rs`), so that every verdict is
//! judged: never "equal" while different, never a difference that is only late, the rows named are
//! those that were changed. `crashes.rs` holds digests against rows after crashes.

mod compare;
mod crashes;
mod deep;
mod engine;
mod judge;
mod mend;
mod nature;
mod plants;
mod region;
mod trial;
mod truth;
mod world;
mod writes;

pub(crate) use crashes::run as run_crashes;
pub(crate) use trial::run as run_trial;
