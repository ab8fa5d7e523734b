//! Moves rows between two regions: links, what they say, and safe times.
//!
//! An origin has one [`ship::Outbound`] per peer, a replica one [`receive::Inbound`] per stream.
//! Neither does network I/O: they take frames and give frames, so that the same code runs over
//! gRPC in the server and over a simulated network in the simulator.
//!
//! What must hold: a replica applies each origin's entries in order, without holes, and tells of
//! nothing that is not durable there; a link that cannot be given what it needs says so in its
//! state and is healed by a copy.

pub mod dictionary;
mod differential;
pub mod error;
pub mod extract;
pub mod frame;
pub mod horizon;
pub mod limits;
pub mod link;
pub mod mode;
pub mod pack;
pub mod patch;
pub mod progress;
pub mod put_back;
pub mod receive;
pub mod relay;
pub mod retention;
pub mod ship;
pub mod standings;
pub mod streams;
pub mod terms;
pub mod throttle;
pub mod timing;
pub mod trace;
pub mod traffic;
pub mod verify;
