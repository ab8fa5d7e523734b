//! `isthmus debug`: faults on purpose, for tests and drills.
//!
//! What must hold: nothing is touched unless the region is stopped; what was done is said in words
//! that name the row, since nothing else will ever tell of it.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use isthmus_server::config::Config;
use isthmus_server::{PlantError, plant};
use serde_json::json;

use crate::cells::object;
use crate::error::{CliError, chain};
use crate::output;

/// Arguments of `isthmus debug`.
#[derive(Args, Debug)]
#[command(after_help = "\
A drill, to see that differences are found and mended:
  1. stop a region (SIGTERM), here r2
  2. isthmus debug plant --config .isthmus/r2/isthmus.toml --table notes \\
         --key '{\"id\":\"a\"}' --kind cell
  3. isthmus serve --config .isthmus/r2/isthmus.toml
  4. isthmus verify notes --regions r1,r2          exit code 1, names the row
  5. isthmus repair notes --from r1 --to r2
  6. isthmus verify notes --regions r1,r2          exit code 0")]
pub(crate) struct DebugArgs {
    #[command(subcommand)]
    command: DebugCommand,
}

#[derive(Subcommand, Debug)]
enum DebugCommand {
    /// Change a row of a stopped region behind the back of its log
    Plant(PlantArgs),
}

#[derive(Args, Debug)]
#[command(after_help = "\
The region must be stopped. The row is changed as a bug of replication would change it: nothing
is logged and no other region hears of it; the digest follows. `bit` changes stored bytes only,
as a rotten disk would: plain `verify` does not see it, `verify --deep` and `scrub` do.

  lost-row    the row is gone
  extra-row   a row that nobody wrote; no row may have the key
  cell        the value of the first cell is another one
  version     the timestamp of the first cell is another one
  tombstone   what the row remembers of deletions is gone; tables with several writers only
  swap        the first cell has the value of the next row's, and the other way round
  bit         one bit of the stored row

Example:
  isthmus debug plant --config .isthmus/r2/isthmus.toml --table notes \\
      --key '{\"pk1\":\"a\",\"pk2\":1}' --kind lost-row")]
struct PlantArgs {
    /// The configuration file of the stopped region
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The table
    #[arg(long, value_name = "NAME")]
    table: String,
    /// The whole key, a JSON object
    #[arg(long, value_name = "KEY")]
    key: String,
    /// What to do to the row
    #[arg(long, value_name = "KIND")]
    kind: Kind,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    /// Remove the row
    LostRow,
    /// Make a row
    ExtraRow,
    /// Change a value
    Cell,
    /// Change a timestamp
    Version,
    /// Forget deletions
    Tombstone,
    /// Swap values with the next row
    Swap,
    /// Change one bit on disk
    Bit,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::LostRow => "lost-row",
            Kind::ExtraRow => "extra-row",
            Kind::Cell => "cell",
            Kind::Version => "version",
            Kind::Tombstone => "tombstone",
            Kind::Swap => "swap",
            Kind::Bit => "bit",
        }
    }
}

impl DebugArgs {
    pub(crate) fn json(&self) -> bool {
        let DebugCommand::Plant(args) = &self.command;
        args.json
    }
}

/// Runs one of the commands.
pub(crate) async fn run(args: DebugArgs) -> Result<(), CliError> {
    let DebugCommand::Plant(args) = args.command;
    object("the key", &args.key)?;
    let config = Config::load(&args.config)?;
    let (region, kind) = (config.region.name.clone(), args.kind.word());
    let planted = plant(config, &args.table, &args.key, kind).await;
    planted.map_err(|error| refusal(&error, &region))?;
    if args.json {
        let key: serde_json::Value =
            serde_json::from_str(&args.key).map_err(|error| CliError::usage(error.to_string()))?;
        return output::json(&json!({
            "planted": kind, "region": region, "table": args.table, "key": key,
        }));
    }
    output::line(&format!(
        "planted {kind} in {} {} of {}",
        output::plain(&args.table),
        output::plain(&args.key),
        output::plain(&region)
    ))
}

fn refusal(error: &PlantError, region: &str) -> CliError {
    let message = chain(error);
    match error {
        PlantError::Open(_) if message.contains("in use") || message.contains("lock") => {
            CliError::failed(format!("region {region} runs: {message}"))
                .hint("stop it first, with SIGTERM; nothing was changed")
        }
        PlantError::Open(_) | PlantError::Store(_) | PlantError::Broke => CliError::failed(message),
        PlantError::NoTable { .. } | PlantError::Key(_) | PlantError::Kind(_) => {
            CliError::usage(message)
        }
    }
}
