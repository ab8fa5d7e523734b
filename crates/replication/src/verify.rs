//! Compares two replicas of a table without reading them, and plans how to make them equal.
//!
//! Each side answers questions about one view of its table ([`session`]); [`compare`] asks both
//! sides and never touches a store itself, so that it is alike whether a side is this process or
//! another region. It goes from the roots of the digest trees by a sketch to the leaves that
//! differ, from there to rows, and from rows to cells.
//!
//! What must hold: two tables that differ are never called equal, what is only late is never
//! called a difference, and a side that says nonsense can only waste what the bounds allow. What
//! is written to mend a difference is planned in [`repair`] and goes through the store's one door.

pub mod answer;
pub mod compare;
pub mod error;
pub mod limits;
pub mod question;
pub mod repair;
pub mod report;
pub mod session;
pub mod side;
pub mod store;
pub mod view;

#[cfg(test)]
mod tests;
