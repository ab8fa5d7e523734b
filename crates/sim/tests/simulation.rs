//! The simulation as a test: a bounded number of seeds, the same trace from the same seed, every
//! seed that has failed before, and planted bugs that the checkers must see.

use isthmus_sim::{Options, Plant, run};

/// Seeds in one test run; `cargo xtask sim` runs more.
const SEEDS: u64 = 40;
/// A planted bug must be seen within so many seeds.
const PLANT_SEEDS: u64 = 60;

fn hold(seed: u64) -> u64 {
    match run(&Options::new(seed)) {
        Ok(report) => report.trace_hash,
        Err(failure) => panic!(
            "seed {seed}: {}; see it again: cargo xtask sim --seed {seed}",
            failure.violation
        ),
    }
}

#[test]
fn invariants_hold_whatever_breaks() {
    for seed in 1..=SEEDS {
        hold(seed);
    }
}

#[test]
fn seeds_that_failed_once_hold() {
    let lines = include_str!("../regressions.txt").lines();
    for line in lines.filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        let seed = line.split_whitespace().next().and_then(|word| word.parse().ok());
        hold(seed.expect("a line of regressions.txt begins with a seed"));
    }
}

#[test]
fn same_seed_gives_the_same_trace() {
    for seed in 1..=5 {
        assert_eq!(hold(seed), hold(seed));
    }
}

fn seen(plant: Plant) -> Option<(u64, &'static str)> {
    (1..=PLANT_SEEDS).find_map(|seed| {
        let options = Options { plant: Some(plant), ..Options::new(seed) };
        run(&options).err().map(|failure| (seed, failure.violation.invariant))
    })
}

#[test]
fn every_planted_bug_is_seen() {
    for plant in Plant::ALL {
        assert!(seen(plant).is_some(), "{plant:?} was not seen within {PLANT_SEEDS} seeds");
    }
}
