//! The simulation as a test: a bounded number of seeds, the same trace from the same seed, every
//! seed that has failed before, and planted bugs that the checkers must see. The same for trials
//! of digests.

use isthmus_sim::{Options, Plant, Report, Scenario, Tally, run};

/// Seeds in one test run; `cargo xtask sim` runs more.
const SEEDS: u64 = 40;
/// A planted bug must be seen within so many seeds.
const PLANT_SEEDS: u64 = 60;
/// Worlds in which old disks are put back, in one test run.
const RESTORES_SEEDS: u64 = 12;
/// Worlds whose regions pass on over edges, in one test run.
const EDGES_SEEDS: u64 = 2;
/// Worlds whose schemas change all the time, in one test run.
const SCHEMAS_SEEDS: u64 = 6;
/// A planted bug of edges must be seen within so many of them.
const EDGES_PLANT_SEEDS: u64 = 6;
/// Worlds whose tables change their writer all the time, in one test run.
const WRITERS_SEEDS: u64 = 30;
/// Worlds with a table that is written synchronously, in one test run.
const SYNC_SEEDS: u64 = 400;
/// A planted bug of synchronous writes must be seen within so many of them.
const SYNC_PLANT_SEEDS: u64 = 3000;
/// Worlds with batches of several tables, in one test run.
const BATCHES_SEEDS: u64 = 40;
/// A planted bug of batches must be seen within so many of them.
const BATCHES_PLANT_SEEDS: u64 = 60;
/// Worlds in which partitions are split and merged, in one test run.
const RESHAPES_SEEDS: u64 = 60;
/// A planted bug of splits and merges must be seen within so many of them.
const RESHAPES_PLANT_SEEDS: u64 = 300;
/// Worlds whose regions are unbound and bound again, in one test run: two that failed once.
const BINDINGS_SEEDS: [u64; 2] = [2, 3];
/// Worlds with replicas that take less than all, in one test run.
const EXTRACTS_SEEDS: u64 = 4;
/// Worlds whose links ship later, in one test run.
const TIMINGS_SEEDS: u64 = 3;
/// Worlds in which a region is away for a week, in one test run.
const AWAY_SEEDS: u64 = 1;
/// Trials of comparing and mending in one test run.
const TRIALS: u64 = 2000;
/// Worlds in which power fails about forty times each.
const CRASH_SEEDS: u64 = 60;
/// Crashes that there must be in them, so that they show anything.
const CRASHES_MIN: u64 = 1000;
/// A planted bug of digests must be seen within so many trials.
const PLANT_TRIALS: u64 = 1000;

fn hold(seed: u64) -> u64 {
    hold_in(Scenario::Links, seed)
}

fn hold_in(scenario: Scenario, seed: u64) -> u64 {
    report_of(scenario, seed).trace_hash
}

fn report_of(scenario: Scenario, seed: u64) -> Report {
    match run(&Options { scenario, ..Options::new(seed) }) {
        Ok(report) => report,
        Err(failure) => panic!(
            "seed {seed}: {}; see it again: cargo xtask sim --scenario {} --seed {seed}",
            failure.violation,
            format!("{scenario:?}").to_lowercase(),
        ),
    }
}

#[test]
fn invariants_hold_whatever_breaks() {
    for seed in 1..=SEEDS {
        hold(seed);
    }
}

/// The seeds that lines of a list of regressions begin with.
fn seeds_of(list: &str) -> impl Iterator<Item = u64> {
    let lines = list.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    lines.map(|line| {
        let seed = line.split_whitespace().next().and_then(|word| word.parse().ok());
        seed.expect("a line of regressions begins with a seed")
    })
}

#[test]
fn seeds_that_failed_once_hold() {
    for seed in seeds_of(include_str!("../regressions.txt")) {
        hold(seed);
    }
}

#[test]
fn trials_that_failed_once_hold() {
    for seed in seeds_of(include_str!("../regressions-verify.txt")) {
        hold_in(Scenario::Verify, seed);
    }
}

#[test]
fn same_seed_gives_the_same_trace() {
    for seed in 1..=5 {
        assert_eq!(hold(seed), hold(seed));
    }
}

fn seen(plant: Plant, seeds: u64) -> Option<(u64, &'static str)> {
    (1..=seeds).find_map(|seed| {
        let scenario = plant.scenario();
        let options = Options { plant: Some(plant), scenario, ..Options::new(seed) };
        run(&options).err().map(|failure| (seed, failure.violation.invariant))
    })
}

#[test]
fn every_planted_bug_is_seen() {
    for plant in Plant::ALL {
        assert!(
            seen(plant, PLANT_SEEDS).is_some(),
            "{plant:?} was not seen within {PLANT_SEEDS} seeds"
        );
    }
}

#[test]
fn old_disks_that_are_put_back_are_found_out_and_healed() {
    for seed in 1..=RESTORES_SEEDS {
        hold_in(Scenario::Restores, seed);
    }
    for plant in Plant::OF_RESTORES {
        let found = seen(plant, PLANT_SEEDS);
        assert!(found.is_some(), "{plant:?} was not seen within {PLANT_SEEDS} seeds");
    }
}

#[test]
fn regions_that_pass_on_are_alike_whatever_breaks() {
    for seed in 1..=EDGES_SEEDS {
        hold_in(Scenario::Edges, seed);
    }
}

#[test]
fn schemas_change_and_tables_are_dropped_whatever_breaks() {
    for seed in 1..=SCHEMAS_SEEDS {
        hold_in(Scenario::Schemas, seed);
    }
}

#[test]
fn one_region_writes_and_nothing_is_lost_whatever_breaks() {
    for seed in 1..=WRITERS_SEEDS {
        hold_in(Scenario::Writers, seed);
    }
}

#[test]
fn what_is_kept_for_a_region_that_is_away_for_a_week_is_bounded() {
    for seed in 1..=AWAY_SEEDS {
        hold_in(Scenario::Away, seed);
    }
}

#[test]
fn synchronous_writes_are_linearizable_whatever_breaks() {
    for seed in 1..=SYNC_SEEDS {
        hold_in(Scenario::Sync, seed);
    }
    assert_eq!(hold_in(Scenario::Sync, 1), hold_in(Scenario::Sync, 1));
    for plant in Plant::OF_SYNC {
        let found = seen(plant, SYNC_PLANT_SEEDS);
        assert!(found.is_some(), "{plant:?} was not seen within {SYNC_PLANT_SEEDS} seeds");
    }
}

#[test]
fn batches_of_several_tables_are_whole_whatever_breaks() {
    let mut all = Tally::default();
    for seed in 1..=BATCHES_SEEDS {
        all.add(&report_of(Scenario::Batches, seed).tally);
    }
    assert!(all.held > 0 && all.batches_refused > 0 && all.sums > 0, "it shows nothing: {all:?}");
    assert_eq!(hold_in(Scenario::Batches, 1), hold_in(Scenario::Batches, 1));
    let quickly = [
        Plant::IntentForgotten,
        Plant::ToldBeforeDurable,
        Plant::SilenceGivesUp,
        Plant::OpenGivenUp,
        Plant::AllAwaited,
    ];
    for plant in quickly {
        let found = seen(plant, BATCHES_PLANT_SEEDS);
        assert!(found.is_some(), "{plant:?} was not seen within {BATCHES_PLANT_SEEDS} seeds");
    }
}

#[test]
fn partitions_are_split_and_merged_whatever_breaks() {
    let mut all = Tally::default();
    for seed in 1..=RESHAPES_SEEDS {
        all.add(&report_of(Scenario::Reshapes, seed).tally);
    }
    assert!(all.held > all.made_in_new && all.made_in_new > 0, "it shows nothing: {all:?}");
    assert_eq!(hold_in(Scenario::Reshapes, 1), hold_in(Scenario::Reshapes, 1));
    for plant in Plant::OF_RESHAPES {
        let found = seen(plant, RESHAPES_PLANT_SEEDS);
        assert!(found.is_some(), "{plant:?} was not seen within {RESHAPES_PLANT_SEEDS} seeds");
    }
}

/// Holds seeds of a scenario, and sees each of these planted bugs.
fn hold_and_see(scenario: Scenario, seeds: u64, plants: &[Plant]) -> Tally {
    let mut tally = Tally::default();
    for seed in 1..=seeds {
        tally.add(&report_of(scenario, seed).tally);
    }
    for plant in plants {
        let found = seen(*plant, PLANT_SEEDS);
        assert!(found.is_some(), "{plant:?} was not seen within {PLANT_SEEDS} seeds");
    }
    tally
}

#[test]
fn regions_are_unbound_and_bound_again_whatever_breaks() {
    for seed in BINDINGS_SEEDS {
        let tally = report_of(Scenario::Bindings, seed).tally;
        assert!(tally.bound_again > 0, "seed {seed} shows nothing: {tally:?}");
    }
}

#[test]
fn extracts_are_what_they_take_whatever_breaks() {
    let tally = hold_and_see(Scenario::Extracts, EXTRACTS_SEEDS, &[]);
    assert!(tally.extracts > EXTRACTS_SEEDS, "{tally:?}");
}

#[test]
fn links_ship_when_their_timing_lets_them_whatever_breaks() {
    let tally = hold_and_see(Scenario::Timings, TIMINGS_SEEDS, &[]);
    assert!(tally.timed_parcels > TIMINGS_SEEDS, "{tally:?}");
}

#[test]
#[ignore = "takes half an hour: worlds that take seconds each, and bugs that few worlds show"]
fn every_planted_bug_that_takes_long_is_seen() {
    for plant in Plant::OF_BATCHES {
        assert!(seen(plant, 2000).is_some(), "{plant:?} was not seen within 2000 seeds");
    }
    hold_and_see(Scenario::Extracts, 0, &Plant::OF_EXTRACTS);
    hold_and_see(Scenario::Timings, 0, &Plant::OF_TIMINGS);
}

#[test]
fn every_planted_bug_of_schemas_is_seen() {
    hold_and_see(Scenario::Schemas, 0, &Plant::OF_SCHEMAS);
}

#[test]
fn every_planted_bug_of_edges_is_seen() {
    for plant in Plant::OF_EDGES {
        let found = seen(plant, EDGES_PLANT_SEEDS);
        assert!(found.is_some(), "{plant:?} was not seen within {EDGES_PLANT_SEEDS} seeds");
    }
}

#[test]
fn successor_that_writes_too_early_is_seen() {
    for plant in Plant::OF_WRITERS {
        assert!(seen(plant, PLANT_SEEDS).is_some(), "{plant:?} was not seen");
    }
}

#[test]
fn differences_are_found_and_no_others() {
    for seed in 1..=TRIALS {
        hold_in(Scenario::Verify, seed);
    }
}

#[test]
fn digests_are_what_the_rows_say_after_any_crash() {
    let reports = (1..=CRASH_SEEDS).map(|seed| report_of(Scenario::Crashes, seed));
    let crashes: u64 = reports.map(|report| report.crashes).sum();
    assert!(crashes >= CRASHES_MIN, "{crashes} crashes");
}

#[test]
fn same_seed_gives_the_same_trial() {
    for seed in 1..=20 {
        assert_eq!(hold_in(Scenario::Verify, seed), hold_in(Scenario::Verify, seed));
    }
}

#[test]
fn every_planted_bug_of_digests_is_seen() {
    for plant in Plant::OF_DIGESTS {
        let found = seen(plant, PLANT_TRIALS);
        assert!(found.is_some(), "{plant:?} was not seen within {PLANT_TRIALS} trials");
    }
}
