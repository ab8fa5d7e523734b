//! `digest-cost`: what keeping digests costs the write path, with digests on and off in turns.
//!
//! Two stores, or two servers, hold the same table; one keeps digests, the other does not. Short
//! rounds of the same writes go to one and to the other in turns, so that whatever else the
//! machine does falls on both. The ratio is the median of those of neighbouring rounds: what others
//! use of the machine changes more slowly than that. Between rounds both sides come to rest. A
//! round lasts half as long as other measurements. `--store` leaves servers and HTTP out: the ratio
//! of the write path alone, fit for a profiler.

mod memory;
mod servers;
mod stores;

use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use crate::Options;
use crate::cluster::{Memory, Place};
use crate::error::Result;
use crate::process::cpu_of;
use crate::report::{Report, table};
use crate::rows::{RowSet, Shape};

/// Connections, or writers, of single rows.
const SINGLES: usize = 64;
/// Connections, or writers, of batches.
const BATCHERS: usize = 4;

/// At rest, processes use no more than this in the time of one look.
const REST_CPU: Duration = Duration::from_millis(10);
const REST_LOOK: Duration = Duration::from_millis(250);
/// Not at rest after this: measured all the same.
const REST_MAX: Duration = Duration::from_secs(10);

/// Arguments of `digest-cost`.
#[derive(Args, Debug)]
pub(crate) struct DigestCostArgs {
    #[command(flatten)]
    pub(crate) options: Options,
    /// Stores in this process instead of servers
    #[arg(long)]
    store: bool,
    /// Rows of 100 bytes instead of 1 KiB
    #[arg(long)]
    small: bool,
    /// Rounds of each side, in turns
    #[arg(long, value_name = "N", default_value_t = 5,
        value_parser = clap::value_parser!(u64).range(1..=99))]
    rounds: u64,
    /// Rows of the digest whose memory is measured
    #[arg(long, value_name = "N", default_value_t = 10_000_000,
        value_parser = clap::value_parser!(u64).range(0..=1_000_000_000))]
    digest_rows: u64,
    /// Only one side, for a profiler
    #[arg(long, value_enum)]
    side: Option<Side>,
    /// With --store: a round is so many rows and what they leave to do, not a time; told is the
    /// processor time of each kind of thread. Fit for a profiler that counts instructions
    #[arg(long, value_name = "N", requires = "store",
        value_parser = clap::value_parser!(u64).range(200..=100_000_000))]
    count: Option<u64>,
    /// Only the table that fits into the cache, or only the one that does not
    #[arg(long, value_enum)]
    size: Option<Size>,
}

/// What the table is to the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Size {
    Fits,
    FourTimes,
}

/// With digests or without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Side {
    On,
    Off,
}

impl Side {
    const BOTH: [Side; 2] = [Side::On, Side::Off];

    fn name(self) -> &'static str {
        match self {
            Side::On => "on",
            Side::Off => "off",
        }
    }
}

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writes {
    /// One row that is there.
    Single,
    /// 200 rows that are not there.
    NewRows,
    /// 200 rows that are there.
    Overwrites,
}

impl Writes {
    /// New rows last: with them the table outgrows any cache.
    const ALL: [Writes; 3] = [Writes::Single, Writes::Overwrites, Writes::NewRows];

    fn name(self) -> &'static str {
        match self {
            Writes::Single => "single PutRow",
            Writes::NewRows => "new rows, batches of 200",
            Writes::Overwrites => "overwrites, batches of 200",
        }
    }

    /// The least that throughput with digests may be of that without.
    fn aim(self) -> f64 {
        match self {
            Writes::Single | Writes::NewRows => 0.95,
            Writes::Overwrites => 0.85,
        }
    }

    fn writers(self) -> usize {
        match self {
            Writes::Single => SINGLES,
            Writes::NewRows | Writes::Overwrites => BATCHERS,
        }
    }
}

/// One round of one side.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    rows_per_second: f64,
    cpu_us_per_row: f64,
    others: Option<f64>,
}

/// One kind of writes with both sides.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Compared {
    what: &'static str,
    table: String,
    rounds: u64,
    on_rows_per_second: f64,
    off_rows_per_second: f64,
    /// Median of the pairs of rounds.
    ratio: f64,
    /// Of the pairs of rounds, the lowest and the highest.
    ratio_min: f64,
    ratio_max: f64,
    aim: f64,
    on_cpu_us_per_row: f64,
    off_cpu_us_per_row: f64,
    others: Option<f64>,
}

impl Compared {
    fn of(what: Writes, table: &str, rounds: &[(Side, Round)]) -> Compared {
        let side = |side| move |known: &&(Side, Round)| known.0 == side;
        let median_of = |wanted, number: fn(&Round) -> f64| {
            median(rounds.iter().filter(side(wanted)).map(|(_, round)| number(round)).collect())
        };
        let rate = |round: &Round| round.rows_per_second;
        let cpu = |round: &Round| round.cpu_us_per_row;
        let on = rounds.iter().filter(side(Side::On));
        let off = rounds.iter().filter(side(Side::Off));
        let pairs: Vec<f64> = on.zip(off).map(|((_, on), (_, off))| rate(on) / rate(off)).collect();
        let others: Vec<f64> = rounds.iter().filter_map(|(_, round)| round.others).collect();
        Compared {
            what: what.name(),
            table: table.to_owned(),
            rounds: rounds.len() as u64,
            on_rows_per_second: median_of(Side::On, rate),
            off_rows_per_second: median_of(Side::Off, rate),
            ratio: median(pairs.clone()),
            ratio_min: pairs.iter().copied().fold(f64::NAN, f64::min),
            ratio_max: pairs.iter().copied().fold(f64::NAN, f64::max),
            aim: what.aim(),
            on_cpu_us_per_row: median_of(Side::On, cpu),
            off_cpu_us_per_row: median_of(Side::Off, cpu),
            others: (!others.is_empty()).then(|| median(others)),
        }
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.what.to_owned(),
            self.table.clone(),
            format!("{:.0}", self.on_rows_per_second),
            format!("{:.0}", self.off_rows_per_second),
            format!("{:.3}", self.ratio),
            format!("{:.2}", self.aim),
            format!("{:.2} to {:.2}", self.ratio_min, self.ratio_max),
            format!("{:.2}", self.on_cpu_us_per_row),
            format!("{:.2}", self.off_cpu_us_per_row),
            self.others.map_or("-".to_owned(), |share| format!("{:.0}", share * 100.0)),
        ]
    }
}

const HEADINGS: [&str; 10] = [
    "WRITES",
    "TABLE",
    "ON ROWS/S",
    "OFF ROWS/S",
    "ON/OFF",
    "AIM",
    "OF PAIRS",
    "ON CPU US/ROW",
    "OFF CPU US/ROW",
    "OTHERS %",
];

/// What `digest-cost` found.
#[derive(Debug, Default, Serialize)]
pub(crate) struct DigestCost {
    compared: Vec<Compared>,
    memory: Vec<memory::DigestMemory>,
    /// What went wrong.
    problems: Vec<String>,
}

impl DigestCost {
    /// As tables.
    pub(crate) fn text(&self) -> String {
        let rows: Vec<Vec<String>> = self.compared.iter().map(Compared::cells).collect();
        let memory: Vec<Vec<String>> =
            self.memory.iter().map(memory::DigestMemory::cells).collect();
        let problems: String =
            self.problems.iter().map(|problem| format!("wrong: {problem}\n")).collect();
        let compared = table(&HEADINGS, &rows);
        format!("{problems}{compared}\n{}", table(&memory::HEADINGS, &memory))
    }
}

/// What is measured of one size of the table: rounds of all writes.
struct Sizes<'a> {
    args: &'a DigestCostArgs,
    rows: RowSet,
    memory: Memory,
}

impl Sizes<'_> {
    fn sides(&self) -> Vec<Side> {
        self.args.side.map_or(Side::BOTH.to_vec(), |side| vec![side])
    }

    /// What the table is to the cache, in words.
    fn words(&self) -> String {
        self.memory.words_for(self.rows.count * self.rows.shape.row_bytes() as u64)
    }

    /// All rounds of all writes, sides in turns.
    fn measure(
        &self,
        found: &mut DigestCost,
        mut one: impl FnMut(Side, Writes, Duration, Duration) -> Result<Round>,
    ) -> Result<()> {
        let options = &self.args.options;
        for writes in Writes::ALL.into_iter().filter(|writes| options.wants(writes.name())) {
            let mut rounds = Vec::new();
            for number in 0..self.args.rounds {
                let mut sides = self.sides();
                // Who goes first changes, so that being second is no handicap.
                if number % 2 == 1 {
                    sides.reverse();
                }
                for side in sides {
                    let round = one(side, writes, options.warm_up(), options.measure() / 2)?;
                    eprintln!(
                        "{:<28} {:<12} digests {:<4} {:>10.0} rows/s {:>8.2} us CPU a row",
                        writes.name(),
                        self.words(),
                        side.name(),
                        round.rows_per_second,
                        round.cpu_us_per_row
                    );
                    rounds.push((side, round));
                }
            }
            found.compared.push(Compared::of(writes, &self.words(), &rounds));
        }
        Ok(())
    }
}

/// Measures what digests cost.
pub(crate) fn run(args: &DigestCostArgs) -> Result<Report> {
    let options = &args.options;
    let shape = if args.small { Shape::Small } else { Shape::Large };
    let rows = RowSet { count: options.rows(), shape };
    let mut report = Report::of("isthmus-bench digest-cost", options, rows);
    report.note("a round lasts half of the time given; new rows come last, the table outgrows it");
    let mut found = DigestCost::default();
    let bytes = rows.count * shape.row_bytes() as u64;
    let all = [(Size::Fits, Memory::at_least(bytes * 2)), (Size::FourTimes, Memory::of(bytes / 4))];
    let wanted = all.into_iter().filter(|(size, _)| args.size.is_none_or(|only| only == *size));
    for (_, memory) in wanted {
        let place = Place::take(options)?;
        let sizes = Sizes { args, rows, memory };
        match args.store {
            true => stores::measure(&sizes, &place, &mut found)?,
            false => servers::measure(&sizes, &place, &mut found)?,
        }
    }
    if args.digest_rows > 0 {
        found.memory = memory::measure(args.digest_rows);
    }
    report.digest_cost(found);
    Ok(report)
}

/// Waits until some processes have nothing more to do, such as merging files.
fn rest(processes: &[u32]) -> Result<()> {
    let start = Instant::now();
    loop {
        let all = || processes.iter().map(|pid| cpu_of(*pid)).sum::<Result<Duration>>();
        let before = all()?;
        std::thread::sleep(REST_LOOK);
        let used = all()?.saturating_sub(before);
        if used <= REST_CPU || start.elapsed() > REST_MAX {
            return Ok(());
        }
    }
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    match numbers.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => numbers[count / 2],
        count => (numbers[count / 2 - 1] + numbers[count / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_pairs_are_of_the_same_rounds() {
        let round = |rate| Round { rows_per_second: rate, cpu_us_per_row: 1.0, others: None };
        let rounds = [
            (Side::On, round(9.0)),
            (Side::Off, round(10.0)),
            (Side::Off, round(20.0)),
            (Side::On, round(10.0)),
            (Side::On, round(8.0)),
            (Side::Off, round(10.0)),
        ];
        let compared = Compared::of(Writes::Single, "in cache", &rounds);
        assert_eq!(compared.ratio, 0.8);
        assert_eq!((compared.ratio_min, compared.ratio_max), (0.5, 0.9));
        assert!(median(Vec::new()).is_nan());
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), 2.5);
    }
}
