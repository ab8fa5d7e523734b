//! `isthmus serve`: one region.
//!
//! What must hold: SIGTERM and Ctrl-C stop it cleanly, which has a bound of its own; a second
//! signal ends it at once. What it logs carries colours on a terminal only.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use isthmus_model::clock::{Clock, SystemClock, WrongClock};
use isthmus_server::config::Config;
use tokio::sync::oneshot;
use tracing_subscriber::EnvFilter;

use crate::error::{CliError, chain};
use crate::up::StopSignals;

/// A server that has not stopped after this time is given up; what it acknowledged is on disk.
const STOP: Duration = Duration::from_secs(30);

/// Arguments of `isthmus serve`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  isthmus serve --config /etc/isthmus/r1.toml
  isthmus serve --config r1.toml --log debug
  ISTHMUS_LOG=info,isthmus_replication=debug isthmus serve --config r1.toml

SIGTERM and Ctrl-C stop it cleanly with exit code 0; a second signal ends it at once.")]
pub(crate) struct ServeArgs {
    /// The region's configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// error, warn, info, debug, trace or off, also per module: info,isthmus_store=debug
    #[arg(long, value_name = "LEVEL", env = "ISTHMUS_LOG", default_value = "info")]
    log: String,
    /// For drills: run with a clock that is so many milliseconds ahead
    #[arg(long, value_name = "MS", hide = true, allow_negative_numbers = true)]
    clock_ahead_ms: Option<i64>,
    /// Stop when standard input closes
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
}

/// Serves until it is told to stop.
pub(crate) async fn run(args: ServeArgs) -> Result<(), CliError> {
    start_log(&args.log)?;
    let config = Config::load(&args.config)?;
    let clock: Arc<dyn Clock> = match args.clock_ahead_ms {
        Some(ahead_millis) => Arc::new(WrongClock { ahead_millis }),
        None => Arc::new(SystemClock),
    };
    until_stopped(args.stop_with_stdin, |stopped| isthmus_server::serve(config, clock, stopped))
        .await
}

/// Is done when it is told to stop.
pub(crate) type Stopped = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// Lets a server run until a signal comes, or standard input closes if that counts, and stop.
pub(crate) async fn until_stopped<S: Future<Output = Result<(), isthmus_server::ServerError>>>(
    stop_with_stdin: bool,
    serve: impl FnOnce(Stopped) -> S,
) -> Result<(), CliError> {
    let mut signals = StopSignals::new()?;
    let mut input = stop_with_stdin.then(input_closed);
    let (stop, stopped) = oneshot::channel::<()>();
    let mut serving = std::pin::pin!(serve(Box::pin(async {
        // A sender that is gone is a reason to stop, too.
        let _ = stopped.await;
    })));
    tokio::select! {
        ended = &mut serving => return result(ended),
        () = signals.next() => {}
        () = closed(&mut input) => {}
    }
    tracing::info!("stopping");
    let _ = stop.send(());
    tokio::select! {
        ended = &mut serving => result(ended),
        () = signals.next() => Err(CliError::failed("ended by a second signal")),
        () = tokio::time::sleep(STOP) => {
            Err(CliError::failed(format!("not stopped after {} s, given up", STOP.as_secs())))
        }
    }
}

fn result(ended: Result<(), isthmus_server::ServerError>) -> Result<(), CliError> {
    ended.map_err(|error| CliError::failed(chain(&error)))
}

/// Tells when standard input has closed. A thread of its own waits, because a read of standard
/// input cannot be called off and must not hold up the end of the program.
fn input_closed() -> oneshot::Receiver<()> {
    let (closed, told) = oneshot::channel();
    std::thread::spawn(move || {
        let read = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        if let Err(error) = read {
            tracing::warn!("standard input: {error}");
        }
        let _ = closed.send(());
    });
    told
}

async fn closed(input: &mut Option<oneshot::Receiver<()>>) {
    match input {
        Some(told) => {
            let _ = told.await;
        }
        None => std::future::pending().await,
    }
}

/// Where the quorum's library says what only its authors need; the quorum tells what matters.
const QUIET: &str = "openraft=off";

/// Logs to standard error from that level on.
pub(crate) fn start_log(level: &str) -> Result<(), CliError> {
    let filter = match level.contains("openraft") {
        true => EnvFilter::try_new(level),
        false => EnvFilter::try_new(format!("{QUIET},{level}")),
    };
    let filter = filter.map_err(|error| {
        CliError::usage(format!("--log {level:?}: {error}"))
            .hint("say error, warn, info, debug, trace or off")
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .try_init()
        .map_err(|error| CliError::failed(format!("log: {error}")))
}
