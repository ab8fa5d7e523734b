//! `isthmus witness`: a vote in the quorum of the regions, without rows.
//!
//! What must hold: SIGTERM and Ctrl-C stop it cleanly; a second signal ends it at once.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use isthmus_model::clock::SystemClock;
use isthmus_server::config::witness::WitnessFile;

use crate::error::CliError;
use crate::serve::{start_log, until_stopped};

/// Arguments of `isthmus witness`.
#[derive(Args, Debug)]
#[command(after_help = "\
Two regions cannot tell a lost region from a lost line; a third vote decides, and a witness is one
that needs no rows: a few megabytes of memory and disk. Run it where neither region is, so that no
one fault takes it and a region away.

Its file:
  [witness]
  name = \"w1\"                      as in its certificate and in [quorum.witness] of the regions
  number = 200                     no region's number
  listen = \"0.0.0.0:8112\"
  data = \"data\"                    where it keeps what is agreed on
  certificate = \"w1.pem\"           signed by the authority of the regions
  key = \"w1.key\"                   readable by its owner only
  authority = \"authority.pem\"
  lease_ms = 2000                  as in [quorum] of the regions; this is the default

  [[voters]]                       each region
  name = \"r1\"
  number = 1
  peer = \"r1.example:8112\"

And in the file of each region:
  [quorum.witness]
  name = \"w1\"
  number = 200
  peer = \"w1.example:8112\"

Examples:
  isthmus witness --config /etc/isthmus/w1.toml
  isthmus up --regions 2 --witness         two regions and a witness on this machine
  isthmus quorum                           who votes, who leads

SIGTERM and Ctrl-C stop it cleanly with exit code 0; a second signal ends it at once.")]
pub(crate) struct WitnessArgs {
    /// The witness's configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// error, warn, info, debug, trace or off, also per module
    #[arg(long, value_name = "LEVEL", env = "ISTHMUS_LOG", default_value = "info")]
    log: String,
    /// Stop when standard input closes
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
}

/// Votes until it is told to stop.
pub(crate) async fn run(args: WitnessArgs) -> Result<(), CliError> {
    start_log(&args.log)?;
    let config = WitnessFile::load(&args.config)?;
    let clock = Arc::new(SystemClock);
    until_stopped(args.stop_with_stdin, |stopped| {
        isthmus_server::witness::serve(config, clock, stopped)
    })
    .await
}
