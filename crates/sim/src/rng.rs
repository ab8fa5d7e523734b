//! Chance, split by purpose: one more draw in one place does not change what happens elsewhere.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// What a generator is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    /// What a seed's world is like.
    Options,
    /// Which node steps when.
    Schedule,
    /// Latency and what becomes of bytes on the wire.
    Network,
    /// What breaks and when.
    Faults,
    /// What clients ask for.
    Clients,
    /// What people ask of links.
    Wishes,
    /// What is read as of which cut.
    Cuts,
    /// When writes are to be answered.
    Modes,
    /// When writing regions change.
    Switches,
    /// Which regions are bound and unbound.
    Bindings,
    /// Which receipts are asked for.
    Receipts,
    /// The disk of the node with this index.
    Disk(usize),
}

/// A generator that depends on the seed and the purpose alone.
pub(crate) fn split(seed: u64, purpose: Purpose) -> SmallRng {
    let number = match purpose {
        Purpose::Options => 1,
        Purpose::Schedule => 2,
        Purpose::Network => 3,
        Purpose::Faults => 4,
        Purpose::Clients => 5,
        Purpose::Wishes => 6,
        Purpose::Cuts => 7,
        Purpose::Modes => 8,
        Purpose::Switches => 9,
        Purpose::Bindings => 10,
        Purpose::Receipts => 11,
        Purpose::Disk(node) => 100 + node as u64,
    };
    SmallRng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number)
}

/// Whether something of these odds happens now.
pub(crate) fn happens(rng: &mut SmallRng, per_million: u32) -> bool {
    per_million > 0 && rng.random_range(0..1_000_000) < per_million
}
