//! One trial, from nothing to regions that are alike.

use isthmus_replication::verify::report::Verdict;
use rand::Rng;

use crate::checkers::Violation;
use crate::options::Options;
use crate::rng::{Purpose, split};
use crate::tally::Tally;
use crate::verify::nature::Nature;
use crate::verify::world::World;
use crate::world::{Failure, Report};

/// Runs the trial of a seed.
pub(crate) fn run(options: &Options) -> Result<Report, Box<Failure>> {
    let nature = Nature::draw(&mut split(options.seed, Purpose::Options));
    run_world(options, nature, trial)
}

/// Runs a world, whatever is done in it.
pub(super) fn run_world(
    options: &Options,
    nature: Nature,
    run: impl FnOnce(&mut World, &mut Tally) -> Result<(), Violation>,
) -> Result<Report, Box<Failure>> {
    let told = format!("{nature:#?}");
    let mut tally = Tally::default();
    let mut world = match World::new(options, nature) {
        Ok(world) => world,
        Err(violation) => {
            let trace = crate::trace::Trace::default();
            return Err(Box::new(Failure { violation, nature: told, trace }));
        }
    };
    match run(&mut world, &mut tally).and_then(|()| world.held()) {
        Ok(()) => Ok(Report {
            trace_hash: world.trace.hash(),
            events: world.trace.events(),
            acknowledged: world.acknowledged.len() as u64,
            batches: world.step,
            crashes: world.crashes,
            digests_checked: world.digests_checked,
            cuts_checked: 0,
            tally,
        }),
        Err(violation) => Err(Box::new(Failure { violation, nature: told, trace: world.trace })),
    }
}

fn trial(world: &mut World, tally: &mut Tally) -> Result<(), Violation> {
    world.is_busy = true;
    world.breaks = true;
    for _ in 0..world.nature.warm_steps {
        world.go();
    }
    world.held()?;
    // The digest of what is to rot is built and at rest before.
    if world.nature.rots {
        world.settle()?;
    }
    for _ in 0..world.nature.plants {
        tally.planted += u64::from(world.plant_somewhere());
        world.wander();
    }
    for _ in 0..world.rng.random_range(0..3) {
        let places = pair(world);
        let Some((report, _)) = world.compare_busy(places) else { continue };
        world.held()?;
        tally.compared += 1;
        tally.rows_named += report.rows_differing;
        tally.unsettled += report.unsettled;
        tally.could_not_tell += u64::from(matches!(report.verdict, Verdict::CouldNotTell(_)));
    }
    world.settle()?;
    for other in 1..world.nature.regions {
        let places = if world.rng.random() { [0, other] } else { [other, 0] };
        let (report, _) = world
            .compare_quiet(places)
            .map_err(|error| Violation::of("what is quiet can be compared", error.to_string()))?;
        world.note(&format!("compared {places:?} in quiet: {:?}", report.verdict));
        world.judge_quiet(places, &report)?;
        tally.compared_in_quiet += 1;
        tally.rows_named += report.rows_differing;
    }
    if world.nature.rots {
        tally.rot_found += world.check_deep()?;
    }
    tally.repaired += world.mend_all(world.nature.mending)?;
    for region in 0..world.nature.regions {
        world.check_digest(region);
    }
    Ok(())
}

fn pair(world: &mut World) -> [usize; 2] {
    let count = world.nature.regions;
    let first = world.rng.random_range(0..count);
    [first, (first + world.rng.random_range(1..count)) % count]
}
