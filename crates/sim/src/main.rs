//! Runs seeds: `isthmus-sim --seeds 200`, or one: `isthmus-sim --seed 7 --until 900 --dump`.
//!
//! A seed that fails prints what did not hold, what the world was like, what happened last and
//! how to see it again. The last line counts.

use std::process::ExitCode;

use isthmus_sim::{Failure, Options, Plant, Report, Scenario, Tally, run};

struct Arguments {
    from: u64,
    seeds: u64,
    twice: bool,
    until: Option<u64>,
    dumps: bool,
    plant: Option<Plant>,
    scenario: Scenario,
}

const USAGE: &str = "usage: isthmus-sim [--seeds N] [--from S] [--seed S] [--twice] [--until N] \
                     [--dump] [--plant NAME] [--scenario links|edges|verify|crashes|schemas|\
                     restores|writers|away|sync|batches|reshapes|bindings|extracts|timings]";

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = Arguments {
        from: 1,
        seeds: 200,
        twice: false,
        until: None,
        dumps: false,
        plant: None,
        scenario: Scenario::Links,
    };
    while let Some(word) = words.next() {
        let mut number = || {
            let value = words.next().ok_or(format!("{word} needs a number"))?;
            value.parse::<u64>().map_err(|_| format!("{word} needs a number, not {value}"))
        };
        match word.as_str() {
            "--seeds" => arguments.seeds = number()?,
            "--from" => arguments.from = number()?,
            "--seed" => {
                arguments.from = number()?;
                arguments.seeds = 1;
            }
            "--until" => arguments.until = Some(number()?),
            "--twice" => arguments.twice = true,
            "--dump" => arguments.dumps = true,
            "--plant" => {
                let name = words.next().ok_or("--plant needs a name")?;
                let mut all = Plant::ALL
                    .into_iter()
                    .chain(Plant::OF_EDGES)
                    .chain(Plant::OF_SCHEMAS)
                    .chain(Plant::OF_RESTORES)
                    .chain(Plant::OF_WRITERS)
                    .chain(Plant::OF_SYNC)
                    .chain(Plant::OF_BATCHES)
                    .chain(Plant::OF_RESHAPES)
                    .chain(Plant::OF_BINDINGS)
                    .chain(Plant::OF_TIMINGS)
                    .chain(Plant::OF_EXTRACTS)
                    .chain(Plant::OF_DIGESTS);
                let found = all.find(|plant| format!("{plant:?}") == name);
                let plant = found.ok_or(format!("no bug is called {name}"))?;
                arguments.plant = Some(plant);
                arguments.scenario = plant.scenario();
            }
            "--scenario" => {
                arguments.scenario = match words.next().as_deref() {
                    Some("links") => Scenario::Links,
                    Some("edges") => Scenario::Edges,
                    Some("verify") => Scenario::Verify,
                    Some("crashes") => Scenario::Crashes,
                    Some("schemas") => Scenario::Schemas,
                    Some("restores") => Scenario::Restores,
                    Some("writers") => Scenario::Writers,
                    Some("away") => Scenario::Away,
                    Some("sync") => Scenario::Sync,
                    Some("batches") => Scenario::Batches,
                    Some("reshapes") => Scenario::Reshapes,
                    Some("bindings") => Scenario::Bindings,
                    Some("extracts") => Scenario::Extracts,
                    Some("timings") => Scenario::Timings,
                    other => return Err(format!("there is no scenario {other:?}; {USAGE}")),
                };
            }
            other => return Err(format!("{other} is not understood; {USAGE}")),
        }
    }
    Ok(arguments)
}

fn tell(options: &Options, failure: &Failure) {
    failure.trace.recent().for_each(|line| println!("  {line}"));
    println!("{}", failure.nature);
    println!("seed {} failed: {}", options.seed, failure.violation);
    println!("trace {:016x}, {} events", failure.trace.hash(), failure.trace.events());
    let until = failure.trace.events();
    let scenario = match options.scenario {
        Scenario::Links => format!("--until {until}"),
        Scenario::Edges => format!("--scenario edges --until {until}"),
        Scenario::Verify => "--scenario verify".to_owned(),
        Scenario::Crashes => "--scenario crashes".to_owned(),
        Scenario::Schemas => format!("--scenario schemas --until {until}"),
        Scenario::Restores => format!("--scenario restores --until {until}"),
        Scenario::Writers => format!("--scenario writers --until {until}"),
        Scenario::Away => format!("--scenario away --until {until}"),
        Scenario::Sync => "--scenario sync".to_owned(),
        Scenario::Batches => "--scenario batches".to_owned(),
        Scenario::Reshapes => "--scenario reshapes".to_owned(),
        Scenario::Bindings => format!("--scenario bindings --until {until}"),
        Scenario::Extracts => format!("--scenario extracts --until {until}"),
        Scenario::Timings => format!("--scenario timings --until {until}"),
    };
    println!("again: cargo xtask sim --seed {} {scenario} --dump", options.seed);
}

/// Gives the report, or `None` after telling what failed.
fn run_one(options: &Options, twice: bool) -> Option<Report> {
    let report = match run(options) {
        Ok(report) => report,
        Err(failure) => {
            tell(options, &failure);
            return None;
        }
    };
    if twice {
        let again = run(options).map(|again| again.trace_hash).unwrap_or_default();
        if again != report.trace_hash {
            println!("seed {} is not deterministic", options.seed);
            return None;
        }
    }
    Some(report)
}

fn main() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(reason) => {
            eprintln!("{reason}");
            return ExitCode::from(2);
        }
    };
    let (mut passed, mut failed, mut acknowledged, mut crashes) = (0u64, 0u64, 0u64, 0u64);
    let (mut digests, mut cuts, mut tally) = (0u64, 0u64, Tally::default());
    for seed in arguments.from..arguments.from.saturating_add(arguments.seeds) {
        let options = Options {
            seed,
            until: arguments.until,
            dumps: arguments.dumps,
            plant: arguments.plant,
            scenario: arguments.scenario,
        };
        match run_one(&options, arguments.twice) {
            Some(report) => {
                passed += 1;
                acknowledged += report.acknowledged;
                crashes += report.crashes;
                digests += report.digests_checked;
                cuts += report.cuts_checked;
                tally.add(&report.tally);
                if arguments.seeds == 1 {
                    println!("{report:?}");
                }
            }
            None => failed += 1,
        }
    }
    println!(
        "{acknowledged} changes acknowledged, {crashes} crashes, {digests} digests held to rows, \
         {cuts} cuts read"
    );
    if tally.held > 0 {
        println!("{} requests answered when other regions held them", tally.held);
    }
    let untallied = [Scenario::Links, Scenario::Edges, Scenario::Crashes, Scenario::Sync];
    if !untallied.contains(&arguments.scenario) {
        println!("{tally:?}");
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
