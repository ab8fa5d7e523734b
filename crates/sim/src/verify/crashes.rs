//! Power fails again and again, in the middle of commits and between them; after every start the
//! digest is what the rows say.

use isthmus_store::digest::DigestState;

use crate::checkers::Violation;
use crate::options::Options;
use crate::rng::{Purpose, split};
use crate::tally::Tally;
use crate::verify::nature::Nature;
use crate::verify::trial::run_world;
use crate::verify::world::World;
use crate::world::{Failure, Report};

/// Steps of upkeep within which a digest must be built.
const STEPS_MAX: u32 = 1000;

/// Runs the world of a seed.
pub(crate) fn run(options: &Options) -> Result<Report, Box<Failure>> {
    let nature = Nature::draw_crashes(&mut split(options.seed, Purpose::Options));
    run_world(options, nature, live)
}

fn live(world: &mut World, _: &mut Tally) -> Result<(), Violation> {
    world.is_busy = true;
    world.breaks = true;
    for _ in 0..world.nature.warm_steps {
        world.go();
        world.held()?;
    }
    world.breaks = false;
    for region in 0..world.nature.regions {
        world.crash(region);
        build(world, region)?;
        world.check_digest(region);
    }
    world.settle()
}

fn build(world: &mut World, region: usize) -> Result<(), Violation> {
    for _ in 0..STEPS_MAX {
        world.commit_all(region);
        let Some(table) = world.regions[region].table() else { return Ok(()) };
        if table.digest_state() == DigestState::Ready {
            return Ok(());
        }
        world.regions[region].life.store.digest_step();
    }
    Err(Violation::of("a digest is built", format!("region {region}")))
}
