//! Measures the product against its floors, in one run on one machine; a tool for developers.
//!
//! `write` and `read` print rows per second of three real processes beside what the engine alone
//! and the HTTP stack alone reach under the same load; `lag` prints how long a write takes to be
//! visible in the other regions, `replicate` how fast a replica gets what it lacks, `isolation`
//! what a dead and a slow peer cost the others, `split` what becomes of a hot partition, `join`
//! what a region that joins a distributed table costs. Nothing is asserted about times. Every
//! measurement has a bound, and every process that is started ends with this one, however it ends.

// Measuring is reading the clock and waiting.
#![allow(clippy::disallowed_methods, reason = "a measurement reads the machine's clock")]

mod clients;
mod cluster;
mod digest_cost;
mod distributed;
mod echo;
mod error;
mod flights;
mod floors;
mod isolation;
mod join;
mod lag;
mod load;
mod process;
mod proxy;
mod read;
mod replicate;
mod report;
mod rows;
mod semi_sync;
mod split;
mod sync;
mod verify;
mod write;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::error::{BenchError, Result};

/// The product's allocator, so that the floors are measured with it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Measures Isthmus against its floors
#[derive(Parser, Debug)]
#[command(
    name = "isthmus-bench",
    version,
    after_help = "\
Needs the program `isthmus`, built with the same profile, beside this one or named by
ISTHMUS_BIN. Everything runs on this machine: regions and load generator share its cores."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// PutRow and BatchWriteRow, with 0 and 2 replicas, beside the raw engine and the HTTP stack
    Write(Options),
    /// GetRow and GetRange, with 0 and 2 replicas, beside the raw engine and the HTTP stack
    Read(Options),
    /// Time from the acknowledgement in r1 to visibility in r2 and r3
    Lag(lag::LagArgs),
    /// What digests cost the write path: the same writes with digests on and off
    DigestCost(digest_cost::DigestCostArgs),
    /// Comparing and repairing two regions by digests, beside a full scan of both
    Verify(verify::VerifyArgs),
    /// Catch-up and copies beside loading directly, bytes on the way, and the same over a long way
    Replicate(replicate::ReplicateArgs),
    /// What a dead and a slow peer cost the others
    Isolation(isolation::IsolationArgs),
    /// Writes that are answered when another region holds them, beside those that do not wait
    SemiSync(semi_sync::SemiSyncArgs),
    /// Every mode of writing, over ways of several lengths
    Sync(sync::SyncArgs),
    /// A hot partition that is split for its load, beside a table that is used evenly
    Split(split::SplitArgs),
    /// A region that joins a distributed table which is used
    Join(join::JoinArgs),
    /// Passes connections on, later and slower: stands for a long way
    Proxy(proxy::ProxyArgs),
    /// Answers requests without doing anything: the floor of the HTTP stack
    #[command(hide = true)]
    Echo(echo::EchoArgs),
    /// Becomes another program that ends with its parent
    #[command(hide = true)]
    Guard(process::GuardArgs),
}

/// How every measurement is told, and where it runs.
#[derive(Args, Clone, Debug)]
struct Around {
    /// Print one JSON document instead of tables
    #[arg(long)]
    json: bool,
    /// Where the data of the measured processes lies [default: target/bench]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Ports are counted from here
    #[arg(long, value_name = "PORT", default_value_t = 21_100,
        value_parser = clap::value_parser!(u16).range(1024..=65_000))]
    base_port: u16,
    /// Regions log at this level
    #[arg(long, value_name = "LEVEL", default_value = "warn")]
    log: String,
}

impl Around {
    /// What shared code is told by a measurement that has arguments of its own.
    fn options(&self, seconds: u64, rows: u64, replicas: u8) -> Options {
        Options {
            seconds,
            quick: false,
            rows,
            around: self.clone(),
            replicas: vec![replicas],
            only: Vec::new(),
        }
    }
}

/// What the measurements of the write path, the read path and the lag share.
#[derive(Args, Clone, Debug)]
struct Options {
    /// Seconds of each measurement, after a warm-up
    #[arg(long, value_name = "SECONDS", default_value_t = 8,
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Short measurements on a small table: shows that it works, not how fast it is
    #[arg(long)]
    quick: bool,
    /// Rows of the table, 1 KiB each
    #[arg(long, value_name = "N", default_value_t = 80_000,
        value_parser = clap::value_parser!(u64).range(2_000..=100_000_000))]
    rows: u64,
    #[command(flatten)]
    around: Around,
    /// How many replicas other regions have, one set-up after the other
    #[arg(long, value_name = "COUNTS", value_delimiter = ',', default_values_t = [2, 0],
        value_parser = clap::value_parser!(u8).range(0..=8))]
    replicas: Vec<u8>,
    /// Only these measurements: their names begin so, in lower case
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    only: Vec<String>,
}

impl Options {
    /// How long a measurement lasts.
    fn measure(&self) -> Duration {
        Duration::from_secs(if self.quick { self.seconds.min(2) } else { self.seconds })
    }

    /// What runs before it and does not count.
    fn warm_up(&self) -> Duration {
        Duration::from_millis(if self.quick { 500 } else { 1500 })
    }

    fn rows(&self) -> u64 {
        if self.quick { self.rows.min(36_000) } else { self.rows }
    }

    fn wants(&self, name: &str) -> bool {
        let name = name.to_lowercase();
        self.only.is_empty() || self.only.iter().any(|only| name.starts_with(&only.to_lowercase()))
    }
}

fn main() -> std::process::ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", chain(&error));
            std::process::ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Write(options) => write::run(&options)?.print(options.around.json),
        Command::Read(options) => read::run(&options)?.print(options.around.json),
        Command::Lag(args) => lag::run(&args)?.print(args.options.around.json),
        Command::DigestCost(args) => digest_cost::run(&args)?.print(args.options.around.json),
        Command::Verify(args) => verify::run(&args)?.print(args.around.json),
        Command::Replicate(args) => replicate::run(&args)?.print(args.around.json),
        Command::Isolation(args) => isolation::run(&args)?.print(args.around.json),
        Command::SemiSync(args) => semi_sync::run(&args)?.print(args.around.json),
        Command::Sync(args) => sync::run(&args)?.print(args.around.json),
        Command::Join(args) => join::run(&args)?.print(args.around.json),
        Command::Split(args) => split::run(&args)?.print(args.around.json),
        Command::Proxy(args) => proxy::serve(&args),
        Command::Echo(args) => echo::serve(&args),
        Command::Guard(args) => process::become_guarded(&args),
    }
}

/// An error with its causes.
fn chain(error: &BenchError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn measurements_are_chosen_by_the_beginning_of_their_names() {
        let cli = Cli::try_parse_from(["isthmus-bench", "write", "--only", "put,raw"]).unwrap();
        let Command::Write(options) = cli.command else { panic!("another command") };
        assert!(options.wants("PutRow") && options.wants("raw engine"));
        assert!(!options.wants("BatchWriteRow"));
    }
}
