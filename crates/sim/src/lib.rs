//! Whole regions in one thread: real stores and links on seeded time, chance, network and disks.
//!
//! A seed decides everything: what clients ask for, which node steps next, what breaks and when.
//! The same seed gives the same trace, so that a failure found once is found again. Nothing here
//! decides how the product behaves: nodes are the store and the links that the server runs, and
//! only what lies around them (clocks, disks, wires, the order of steps) is made up.
//!
//! `run` takes a seed through boot, chaos, healing and comparing, and gives a report or the first
//! invariant that did not hold. Every invariant is a file in `checkers/`; `plant.rs` has the
//! bugs that show that the checkers see.

mod branches;
mod checkers;
mod clients;
mod clock;
mod disk;
mod extracts;
mod families;
mod network;
mod node;
mod observer;
mod options;
mod plant;
mod rng;
mod roles;
mod sync;
mod tally;
mod trace;
mod verify;
mod world;

pub use checkers::Violation;
pub use options::{Options, Scenario};
pub use plant::Plant;
pub use tally::Tally;
pub use trace::Trace;
pub use world::{Failure, Report};

/// Runs a seed.
pub fn run(options: &Options) -> Result<Report, Box<Failure>> {
    match options.scenario {
        Scenario::Links
        | Scenario::Schemas
        | Scenario::Edges
        | Scenario::Restores
        | Scenario::Writers
        | Scenario::Bindings
        | Scenario::Extracts
        | Scenario::Timings
        | Scenario::Away => world::run(options),
        Scenario::Verify => verify::run_trial(options),
        Scenario::Crashes => verify::run_crashes(options),
        Scenario::Sync => sync::run(options),
        Scenario::Batches => sync::run_batches(options),
        Scenario::Reshapes => sync::run_reshapes(options),
    }
}
