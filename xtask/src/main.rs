//! `cargo xtask`: every command of this project's development, the same here and in CI.
//!
//! What must hold: each command does the set-up that it needs and says what it cannot do itself;
//! the exit code is 0 only if everything it ran succeeded; it uses the release profile only, so
//! that the embedded engine is compiled once. It depends on nothing but the standard library.

mod check;
mod compat;
mod dev;
mod install;
mod run;
mod test;

use std::process::ExitCode;

const HELP: &str = "\
cargo xtask COMMAND

  up [ARGS]          build, then run `isthmus up ARGS`: three regions on this machine
  check              format, lints, docs, licences, what must not be in the tree
  test [SUITE...]    all tests, or: rust python node java bad-input end-to-end
  sim [ARGS]         the simulator with the given seed and options
  bench NAME [ARGS]  a benchmark: write, read, lag, verify, digest-cost, replicate, isolation,
                     semi-sync, sync, split, join, gap [ROWS]
  compat [--newest]  the SDK suites, with the pinned SDKs or with the newest ones
  fuzz TARGET [SECS] request_decoder or plainbuffer_decoder, 60 seconds by default
  soak [NAME]        the long tests: overwrites (ten million), peers (an hour), semi-sync (200
                     regions lost), deletes (ten million), faults (200 of each), schemas (1 000
                     changes); all by default
  setup              install what the commands above need

Tests take their sizes from the environment, for a quick run:
  FLIGHTS_ROWS CRASHES POWER_CUTS LOAD_ROWS INGEST_ROWS RESTART_ROWS EMPTY_TABLES";

/// What a command ends with; the text goes to standard error.
type Outcome = Result<(), String>;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next().unwrap_or_default();
    let rest: Vec<String> = arguments.collect();
    let outcome = match command.as_str() {
        "up" => dev::up(&rest),
        "check" => check::all(),
        "test" => test::suites(&rest),
        "sim" => dev::sim(&rest),
        "bench" => dev::bench(&rest),
        "compat" => compat::all(&rest),
        "fuzz" => dev::fuzz(&rest),
        "soak" => test::soak(&rest),
        "setup" => dev::setup(),
        "" | "help" | "-h" | "--help" => {
            println!("{HELP}");
            Ok(())
        }
        other => Err(format!("unknown command `{other}`\n\n{HELP}")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("\nxtask: {message}");
            ExitCode::FAILURE
        }
    }
}
