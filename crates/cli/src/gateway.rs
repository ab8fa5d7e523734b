//! `isthmus gateway`: a process without state that passes clients' requests on to a region that
//! lives.
//!
//! What must hold: it needs no key; SIGTERM and Ctrl-C stop it cleanly; a second signal ends it at
//! once.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use isthmus_model::clock::SystemClock;
use isthmus_server::config::gateway::{
    Balance, GatewayConfig, GatewayFile, GatewayProbe, PassedTo,
};
use isthmus_server::gateway::Gateway;
use serde_json::json;

use crate::error::{CliError, chain};
use crate::output;
use crate::serve::{start_log, until_stopped};

/// Arguments of `isthmus gateway`.
#[derive(Args, Debug)]
#[command(after_help = "\
Point any official SDK at a gateway instead of at a region: it passes each request on, unchanged and
with its signature, to a region that lives. It keeps nothing and needs no key; run several, near
where the clients are. A region that does not write a table passes writes on by itself, if that is
said (`isthmus switchover TABLE --at-secondary forward`) or its writer has changed.

It looks at each region twice a second and learns from requests, too: a region is down after three
failures in a row and up again after two answered probes. What was certainly not sent, and every
read, goes to another region where one fails. A write that a region may have and did not answer is
answered with OTSTimeout: whether it took effect is not known, and it is never sent again.

Its file:
  [gateway]
  listen = \"0.0.0.0:8100\"          for clients; GET /health here, too
  admin = \"127.0.0.1:8101\"         GET /health and GET /metrics
  balance = \"nearest\"              or least-loaded, round-robin
  prefer = \"eu\"                    with nearest: this one while it lives

  [[regions]]
  name = \"eu\"
  endpoint = \"http://eu.example:8110\"
  [[regions]]
  name = \"us\"
  endpoint = \"http://us.example:8110\"

Examples:
  isthmus gateway --config gateway.toml
  isthmus gateway --listen 127.0.0.1:8100 --region r1=http://127.0.0.1:8110 \\
      --region r2=http://127.0.0.1:8120 --prefer r1
  curl http://127.0.0.1:8101/metrics

With --json one line is printed once it serves: {\"listen\":...,\"admin\":...,\"regions\":[...]}.
SIGTERM and Ctrl-C stop it cleanly with exit code 0; a second signal ends it at once.")]
pub(crate) struct GatewayArgs {
    /// The gateway's configuration file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["listen", "admin", "region", "prefer",
        "balance"], required_unless_present = "region")]
    config: Option<PathBuf>,
    /// Address to listen on for clients [default: 127.0.0.1:8100]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Address of its health and metrics [default: 127.0.0.1:8101]
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
    /// A region and the URL of its public port; once for each
    #[arg(long, value_name = "NAME=URL", value_parser = region)]
    region: Vec<PassedTo>,
    /// The region that is taken while it lives, whatever the delays
    #[arg(long, value_name = "NAME")]
    prefer: Option<String>,
    /// Which of the living regions a request goes to [default: nearest]
    #[arg(long, value_name = "HOW")]
    balance: Option<BalanceWord>,
    /// error, warn, info, debug, trace or off, also per module
    #[arg(long, value_name = "LEVEL", env = "ISTHMUS_LOG", default_value = "info")]
    log: String,
    /// Print one JSON line once it serves
    #[arg(long)]
    pub(crate) json: bool,
    /// Stop when standard input closes
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
}

/// Which of the living regions a request goes to.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum BalanceWord {
    /// The one that answers soonest
    Nearest,
    /// The one with the fewest requests in work
    LeastLoaded,
    /// Each in its turn
    RoundRobin,
}

impl From<BalanceWord> for Balance {
    fn from(word: BalanceWord) -> Balance {
        match word {
            BalanceWord::Nearest => Balance::Nearest,
            BalanceWord::LeastLoaded => Balance::LeastLoaded,
            BalanceWord::RoundRobin => Balance::RoundRobin,
        }
    }
}

/// Reads `NAME=URL`.
fn region(text: &str) -> Result<PassedTo, String> {
    match text.split_once('=') {
        Some((name, endpoint)) if !name.is_empty() && !endpoint.is_empty() => {
            Ok(PassedTo { name: name.to_owned(), endpoint: endpoint.to_owned() })
        }
        _ => Err("must be NAME=URL, such as eu=http://eu.example:8110".to_owned()),
    }
}

/// Passes requests on until it is told to stop.
pub(crate) async fn run(args: GatewayArgs) -> Result<(), CliError> {
    start_log(&args.log)?;
    let config = match &args.config {
        Some(file) => GatewayFile::load(file)?,
        None => of_arguments(&args)?,
    };
    let regions: Vec<String> = config.regions.iter().map(|region| region.name.clone()).collect();
    let gateway = Gateway::open(config, Arc::new(SystemClock)).await;
    let gateway = gateway.map_err(|error| CliError::failed(chain(&error)))?;
    gateway.look().await;
    let addresses = gateway.addresses().map_err(|error| CliError::failed(chain(&error)))?;
    let (listen, admin) = addresses;
    match args.json {
        true => output::json(&json!({
            "listen": format!("http://{listen}"),
            "admin": format!("http://{admin}"),
            "regions": regions,
        }))?,
        false => tracing::info!(%listen, %admin, regions = regions.join(","), "serving"),
    }
    until_stopped(args.stop_with_stdin, |stopped| gateway.serve(stopped)).await
}

fn of_arguments(args: &GatewayArgs) -> Result<GatewayFile, CliError> {
    let default = GatewayConfig::default();
    let gateway = GatewayConfig {
        listen: args.listen.unwrap_or(default.listen),
        admin: args.admin.unwrap_or(default.admin),
        balance: args.balance.map_or(default.balance, Balance::from),
        prefer: args.prefer.clone(),
        ..default
    };
    let probe = GatewayProbe::default();
    let file = GatewayFile { gateway, probe, regions: args.region.clone() };
    file.checked().map_err(|message| CliError::usage(format!("it cannot be so: {message}")))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: GatewayArgs,
    }

    #[test]
    fn a_gateway_is_named_by_a_file_or_by_its_regions() {
        let parse = |words: &[&str]| Line::try_parse_from([&["g"], words].concat());
        assert!(parse(&[]).is_err());
        assert!(parse(&["--config", "f", "--prefer", "r1"]).is_err());
        assert!(parse(&["--region", "r1"]).is_err());
        let words = ["--region", "r1=http://h:1", "--region", "r2=http://h:2", "--prefer", "r2"];
        let args = parse(&words).map(|line| line.args).ok().unwrap();
        let config = of_arguments(&args).unwrap();
        assert_eq!(config.regions[1].endpoint, "http://h:2");
        let args = parse(&[&words[..], &["--balance", "round-robin"]].concat());
        let error = of_arguments(&args.map(|line| line.args).ok().unwrap()).unwrap_err();
        assert!(error.message.contains("does not go with balance round-robin"), "{error:?}");
    }
}
