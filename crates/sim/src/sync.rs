//! Synchronous writes: three regions of which one writes, with disks that fail, processes that
//! stall, and ways that are cut, also in one direction; the writer is lost again and again.
//!
//! Stores, votes and the recovery of terms are those of the server. What lies around them is made
//! simple: the wire loses, delays and reorders messages, entries are handed over a slice at a
//! time, and those who decide who writes (`quorum.rs`) are one machine that never fails, with
//! leases, claims and grants as the product has them.
//!
//! Each client increments a row of its own, so that what a read may show is known at any moment:
//! not less than was acknowledged, not more than was asked for, never less than was shown before.
//! In the end all regions are alike. So nothing acknowledged is lost, nothing is made twice and
//! every row is linearizable.

mod atomic;
mod copying;
mod group;
mod machines;
mod network;
mod part;
mod plan;
mod quorum;
mod region;
mod reshape;
mod world;
mod writer;

use crate::checkers::Violation;
use crate::options::Options;
use crate::tally::Tally;
use crate::world::{Failure, Report};

use self::machines::Machines;
use self::plan::Plan;
use self::world::World;

/// Runs the world of a seed.
pub(crate) fn run(options: &Options) -> Result<Report, Box<Failure>> {
    let plan = Plan::draw(options.seed, options.plant);
    let nature = format!("{plan:#?}");
    let mut world = World::new(options, plan);
    match world.live() {
        Ok(()) => Ok(report(&world.machines, world.acknowledged())),
        Err(violation) => Err(Box::new(failure(violation, nature, world.machines))),
    }
}

/// Runs the world of batches of a seed.
pub(crate) fn run_batches(options: &Options) -> Result<Report, Box<Failure>> {
    atomic::run(options)
}

/// Runs the world of splits and merges of a seed.
pub(crate) fn run_reshapes(options: &Options) -> Result<Report, Box<Failure>> {
    reshape::run(options)
}

fn report(machines: &Machines, acknowledged: u64) -> Report {
    Report {
        trace_hash: machines.trace.hash(),
        events: machines.trace.events(),
        acknowledged,
        batches: machines.commits(),
        crashes: machines.crashes,
        digests_checked: 0,
        cuts_checked: 0,
        tally: Tally { switches: machines.epochs(), held: acknowledged, ..Tally::default() },
    }
}

fn failure(violation: Violation, nature: String, machines: Machines) -> Failure {
    Failure { violation, nature, trace: machines.trace }
}
