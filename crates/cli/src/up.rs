//! `isthmus up`: several regions on this machine, each a process of its own.
//!
//! What must hold: nothing is printed before every region serves; a region that ends is told and
//! stays down unless `--restart`; when this process ends, however it ends, its regions end too,
//! because each of them stops when its standard input closes.

mod children;
mod files;
mod tls;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use clap::Args;
use isthmus_server::config::{UP_ACCESS_KEY_ID, UP_ACCESS_KEY_SECRET, UP_INSTANCE};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep, timeout};

use crate::error::{CliError, Exit};
use crate::output;
use crate::target::{DEFAULT_DATA, UP_FILE, UpFile, UpRegion, UpWitness};
use crate::up::children::{Child, Kind};
use crate::up::files::Layout;

/// How long regions have to stop before they are killed.
const STOP: Duration = Duration::from_secs(15);
/// Votes without which nobody can be lost, and the most that are waited for.
const VOTERS_MIN: u8 = 3;
const VOTERS_MAX: u8 = 9;
/// How often a starting region is asked whether it serves.
const POLL: Duration = Duration::from_millis(50);
/// Longest wait before a region is started again.
const RESTART_WAIT_MAX: Duration = Duration::from_secs(10);
/// A region that served this long before it ended is started again at once.
const RESTART_CALM: Duration = Duration::from_secs(60);

/// Arguments of `isthmus up`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Region i listens on BASE + 10 * i (clients), + 1 (administration) and + 2 (other regions), on
127.0.0.1 only. Instance, access key id and secret are always demo, isthmus-demo and
isthmus-demo-secret-0123456789, so that scripts can rely on them.

With --quorum three regions or more decide together who writes when one of them is lost; two need
--witness for that, which listens on BASE + 2. Else failover is by hand.

Examples:
  isthmus up                                    three regions in ./.isthmus
  isthmus up --quorum                           the same, and they fail over by themselves
  isthmus up --regions 2 --witness              two regions and a third vote
  isthmus up --regions 1 --base-port 9100       one region, http://127.0.0.1:9110
  isthmus up --json --fresh --data /tmp/demo    for scripts: one JSON line once all serve
  isthmus serve --config .isthmus/r1/isthmus.toml
                                                brings back a region that was killed")]
pub(crate) struct UpArgs {
    /// How many regions, 1 to 10
    #[arg(long, value_name = "N", default_value_t = 3,
        value_parser = clap::value_parser!(u8).range(1..=10))]
    regions: u8,
    /// Ports are counted from here
    #[arg(long, value_name = "PORT", default_value_t = 8100,
        value_parser = clap::value_parser!(u16).range(1..=65_400))]
    base_port: u16,
    /// Where everything is kept, between runs too
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DATA)]
    data: PathBuf,
    /// Delete what earlier runs left in DIR
    #[arg(long)]
    fresh: bool,
    /// Start a region again when it ends
    #[arg(long)]
    restart: bool,
    /// How many tables a region may hold
    #[arg(long, value_name = "N", default_value_t = 20_000,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    tables_max: u32,
    /// Let the regions, three or more, decide together who writes when one is lost
    #[arg(long)]
    quorum: bool,
    /// Let two regions or more do so with a witness: a third vote, without rows
    #[arg(long)]
    witness: bool,
    /// How long regions have to come up, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60,
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    /// Log level of the regions, as in `serve`
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log: String,
    /// Show the regions' logs on standard error too
    #[arg(long, short)]
    verbose: bool,
    /// Print one JSON line once all regions serve
    #[arg(long)]
    pub(crate) json: bool,
}

/// Runs the regions until it is told to stop.
pub(crate) async fn run(args: UpArgs) -> Result<(), CliError> {
    let mut stop = StopSignals::new()?;
    let quorum = args.quorum || args.witness;
    let voters = args.regions + u8::from(args.witness);
    if quorum && !(VOTERS_MIN..=VOTERS_MAX).contains(&voters) {
        let message = format!("a quorum has {VOTERS_MIN} to {VOTERS_MAX} votes, not {voters}");
        return Err(
            CliError::usage(message).hint("say --regions 3 --quorum, or --regions 2 --witness")
        );
    }
    let layout = Layout {
        directory: args.data.clone(),
        regions: args.regions,
        base_port: args.base_port,
        table_quota: args.tables_max,
        quorum,
        witness: args.witness,
    };
    // Held until the end: two runs in one directory would fight over its regions.
    let _lock = layout.lock()?;
    if args.fresh {
        layout.empty()?;
    }
    layout.write()?;
    layout.check_ports()?;
    let mut regions = Vec::with_capacity(usize::from(args.regions));
    for number in 1..=args.regions {
        regions.push(Running::start(&layout, Kind::Region, number, &args)?);
    }
    if args.witness {
        regions.push(Running::start(&layout, Kind::Witness, 0, &args)?);
    }
    let served = tokio::select! {
        served = serving(&mut regions, Duration::from_secs(args.timeout)) => served,
        () = stop.next() => Err(CliError::new(Exit::Stopped, "stopped before all regions served")),
    };
    if let Err(error) = served {
        stop_all(regions, &mut stop).await;
        return Err(error);
    }
    announce(&layout, &regions, args.json)?;
    watch(&layout, &mut regions, &args, &mut stop).await?;
    if !args.json {
        eprintln!("stopping ...");
    }
    stop_all(regions, &mut stop).await;
    Ok(())
}

/// One region, or the witness, and its process.
struct Running {
    kind: Kind,
    /// 0 for the witness.
    number: u8,
    name: String,
    /// `None` once it has ended.
    child: Option<Child>,
    pid: u32,
    since: Instant,
    /// When to start it again.
    again: Option<Instant>,
    wait: Duration,
}

impl Running {
    fn start(layout: &Layout, kind: Kind, number: u8, args: &UpArgs) -> Result<Running, CliError> {
        let (name, directory) = match kind {
            Kind::Region => (Layout::name(number), layout.region_directory(number)),
            Kind::Witness => (files::WITNESS.to_owned(), layout.witness_directory()),
        };
        let child = Child::start(kind, &name, &directory, &args.log, args.verbose)?;
        Ok(Running {
            kind,
            number,
            name,
            pid: child.pid(),
            child: Some(child),
            since: Instant::now(),
            again: None,
            wait: Duration::from_millis(200),
        })
    }

    fn config_file(&self, layout: &Layout) -> PathBuf {
        match self.kind {
            Kind::Region => layout.config_file(self.number),
            Kind::Witness => layout.witness_directory().join(files::CONFIG_FILE),
        }
    }

    /// Its exit status, once it has ended.
    fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.ended()?;
        self.child = None;
        Some(status)
    }
}

impl fmt::Display for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.name)
    }
}

/// Waits until every region serves. One that ends before makes the whole start fail.
async fn serving(regions: &mut [Running], limit: Duration) -> Result<(), CliError> {
    let deadline = Instant::now() + limit;
    for place in 0..regions.len() {
        loop {
            for region in regions.iter_mut() {
                let tail = region.child.as_ref().map(Child::log_tail).unwrap_or_default();
                if let Some(status) = region.ended() {
                    let status = status_text(status);
                    let message = format!("{region} ended before it served ({status}){tail}");
                    return Err(CliError::failed(message));
                }
            }
            let region = &regions[place];
            let Some(child) = &region.child else { break };
            if child.alive().serves().await {
                break;
            }
            if Instant::now() >= deadline {
                let seconds = limit.as_secs();
                let tail = child.log_tail();
                let message = format!("{region} does not serve after {seconds} s{tail}");
                return Err(CliError::failed(message).hint("give it longer with --timeout"));
            }
            sleep(POLL).await;
        }
    }
    Ok(())
}

/// Tells what runs: in the file that client commands read, and on standard output.
fn announce(layout: &Layout, regions: &[Running], json: bool) -> Result<(), CliError> {
    let up = remember(layout, regions)?;
    if json {
        return output::json(&up);
    }
    let rows: Vec<Vec<String>> = up
        .regions
        .iter()
        .map(|region| {
            let (name, pid) = (region.name.clone(), region.pid.to_string());
            vec![name, region.endpoint.clone(), region.admin.clone(), pid, region.data.clone()]
        })
        .collect();
    let quorum = match (&up.witness, layout.quorum, up.regions.len()) {
        (Some(witness), ..) => format!(
            "Witness {} (process {}) has a vote when a region is lost.\n\n",
            witness.name, witness.pid
        ),
        (None, false, 2) => "Without a witness nobody decides who writes when a region is lost: \
                             failover is by hand.\nAdd one with: isthmus up --regions 2 --witness\
                             \n\n"
            .to_owned(),
        (None, ..) => String::new(),
    };
    let headings = ["REGION", "ENDPOINT", "ADMINISTRATION", "PID", "DATA"];
    let first = &up.regions[0];
    let data = layout.directory.display();
    let all: Vec<&str> = up.regions.iter().map(|region| region.name.as_str()).collect();
    output::line(&format!(
        "{}\n\n\
         instance {}, access key id {}, secret {}\n\n{quorum}\
         Point an SDK at {}, or in another terminal{}:\n\n  \
         isthmus table create notes --key id:string\n  \
         isthmus global-table create notes --regions {} --serve peer-to-peer\n  \
         isthmus row put notes '{{\"id\":\"a\"}}' '{{\"text\":\"hello\"}}'\n  \
         isthmus row get notes '{{\"id\":\"a\"}}' --region {}\n  \
         isthmus status\n\n\
         Logs are in {data}/REGION/{}. Ctrl-C stops all regions; the data stays.",
        output::table_text(&headings, &rows),
        up.instance,
        up.access_key_id,
        up.access_key_secret,
        first.endpoint,
        if layout.directory == Path::new(DEFAULT_DATA) {
            String::new()
        } else {
            format!(" (with ISTHMUS_DATA={data})")
        },
        all.join(","),
        all.last().copied().unwrap_or("r1"),
        files::LOG_FILE,
    ))
}

fn remember(layout: &Layout, regions: &[Running]) -> Result<UpFile, CliError> {
    let is_region = |running: &&Running| running.kind == Kind::Region;
    let region = |running: &Running| UpRegion {
        name: running.name.clone(),
        endpoint: layout.endpoint(running.number),
        admin: layout.admin(running.number),
        pid: running.pid,
        config: layout.config_file(running.number).display().to_string(),
        data: layout.region_directory(running.number).display().to_string(),
    };
    let up = UpFile {
        instance: UP_INSTANCE.to_owned(),
        access_key_id: UP_ACCESS_KEY_ID.to_owned(),
        access_key_secret: UP_ACCESS_KEY_SECRET.to_owned(),
        regions: regions.iter().filter(is_region).map(region).collect(),
        witness: regions.iter().find(|running| !is_region(running)).map(|running| UpWitness {
            name: running.name.clone(),
            peer: layout.witness_address().to_string(),
            pid: running.pid,
            config: running.config_file(layout).display().to_string(),
            data: layout.witness_directory().display().to_string(),
        }),
    };
    let text = serde_json::to_string(&up).map_err(|error| CliError::failed(error.to_string()))?;
    files::write_private(&layout.directory.join(UP_FILE), &text)?;
    Ok(up)
}

/// Watches the regions until it is told to stop.
async fn watch(
    layout: &Layout,
    regions: &mut [Running],
    args: &UpArgs,
    stop: &mut StopSignals,
) -> Result<(), CliError> {
    loop {
        tokio::select! {
            () = stop.next() => return Ok(()),
            () = sleep(Duration::from_millis(100)) => {}
        }
        let mut changed = false;
        for region in regions.iter_mut() {
            let tail = region.child.as_ref().map(Child::log_tail).unwrap_or_default();
            if let Some(status) = region.ended() {
                tell_end(layout, region, status, &tail, args.restart);
            }
            if region.again.is_some_and(|at| Instant::now() >= at) {
                restart(layout, region, args);
                changed = true;
            }
        }
        if changed {
            remember(layout, regions)?;
        }
    }
}

fn tell_end(layout: &Layout, region: &mut Running, status: ExitStatus, tail: &str, restarts: bool) {
    let text = status_text(status);
    eprintln!("{region} (process {}) ended: {text}{tail}", region.pid);
    if restarts {
        let calm = region.since.elapsed() >= RESTART_CALM;
        let wait = if calm { Duration::from_millis(200) } else { region.wait };
        region.wait = (wait * 2).min(RESTART_WAIT_MAX);
        region.again = Some(Instant::now() + wait);
        eprintln!("{region} is started again in {} ms", wait.as_millis());
    } else {
        let (config, command) = (region.config_file(layout), region.kind.command());
        eprintln!("{region} stays down; bring it back with:");
        eprintln!("  isthmus {command} --config {}", config.display());
    }
}

fn restart(layout: &Layout, region: &mut Running, args: &UpArgs) {
    region.again = None;
    match Running::start(layout, region.kind, region.number, args) {
        Ok(started) => {
            let wait = region.wait;
            *region = Running { wait, ..started };
            eprintln!("{region} runs again as process {}", region.pid);
        }
        Err(error) => {
            eprintln!("{region} could not be started: {}", error.message);
            region.wait = (region.wait * 2).min(RESTART_WAIT_MAX);
            region.again = Some(Instant::now() + region.wait);
        }
    }
}

/// Asks all regions to stop and waits; kills what has not stopped in time, or at once when asked
/// to stop once more.
async fn stop_all(mut regions: Vec<Running>, stop: &mut StopSignals) {
    for region in &mut regions {
        if let Some(child) = &mut region.child {
            child.stop();
        }
    }
    let mut children: Vec<(String, Child)> = regions
        .into_iter()
        .filter_map(|region| Some((region.to_string(), region.child?)))
        .collect();
    let all_ended = async {
        while children.iter_mut().any(|(_, child)| child.ended().is_none()) {
            sleep(POLL).await;
        }
    };
    tokio::select! {
        _ = timeout(STOP, all_ended) => {}
        () = stop.next() => {}
    }
    for (name, child) in &mut children {
        if child.ended().is_none() {
            eprintln!("{name} does not stop and is killed");
            child.kill().await;
        }
    }
}

/// What a process ended with, in words.
fn status_text(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(0), _) => "stopped, exit code 0".to_owned(),
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(9)) => "killed by signal 9".to_owned(),
        (None, Some(number)) => format!("signal {number}"),
        (None, None) => "no exit status".to_owned(),
    }
}

/// Ctrl-C, SIGTERM and the end of the terminal.
pub(crate) struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl StopSignals {
    pub(crate) fn new() -> Result<StopSignals, CliError> {
        let listen = |kind| {
            signal(kind)
                .map_err(|error| CliError::failed(format!("cannot wait for signals: {error}")))
        };
        Ok(StopSignals {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
