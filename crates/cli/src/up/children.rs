//! The process of one region, or of the witness: started, watched, stopped.
//!
//! What must hold: the process is in a group of its own, so that a Ctrl-C in the terminal reaches
//! only `up`, which then stops its regions in order; and it stops by itself when the pipe that is
//! its standard input closes, so that a killed `up` leaves nothing running.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use isthmus_connectors::admin::healthy;
use isthmus_server::config::Config;
use isthmus_server::config::witness::WitnessFile;
use tokio::process::Command;

use crate::error::CliError;
use crate::up::files::{CONFIG_FILE, LOG_FILE};

/// A log larger than this is put aside before a region starts.
const LOG_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// What of a log is shown when its region has ended.
const TAIL_BYTES: u64 = 4096;
const TAIL_LINES: usize = 8;
/// How long a process has to show that it serves.
const HEALTHY_WITHIN: Duration = Duration::from_secs(2);

/// How a process shows that it serves.
#[derive(Clone)]
pub(super) enum Alive {
    /// A region, at this URL of its administration port.
    Admin(String),
    /// A witness, which takes connections at this address.
    Port(SocketAddr),
}

/// What a process is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Region,
    Witness,
}

impl Kind {
    /// The word for it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Kind::Region => "region",
            Kind::Witness => "witness",
        }
    }

    /// The command that runs it.
    pub(super) fn command(self) -> &'static str {
        match self {
            Kind::Region => "serve",
            Kind::Witness => "witness",
        }
    }
}

/// A region's or a witness's process.
pub(super) struct Child {
    process: tokio::process::Child,
    pid: u32,
    log: PathBuf,
    /// Where this process began to write into the log.
    log_start: u64,
    alive: Alive,
    follower: Option<tokio::task::JoinHandle<()>>,
}

impl Child {
    /// Starts the region or witness whose files are in this directory.
    pub(super) fn start(
        kind: Kind,
        name: &str,
        directory: &Path,
        level: &str,
        verbose: bool,
    ) -> Result<Child, CliError> {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            let kind = kind.as_str();
            CliError::failed(format!("{kind} {name} cannot be started: {what}: {error}"))
        };
        let config_file = directory.join(CONFIG_FILE);
        let alive = match kind {
            Kind::Region => Alive::Admin(Config::load(&config_file)?.admin.endpoint),
            Kind::Witness => Alive::Port(WitnessFile::load(&config_file)?.witness.listen),
        };
        let log = directory.join(LOG_FILE);
        let log_file = open_log(&log).map_err(|error| failed("log", &error))?;
        let log_start = log_file.metadata().map_err(|error| failed("log", &error))?.len();
        let errors = log_file.try_clone().map_err(|error| failed("log", &error))?;
        let program = std::env::current_exe().map_err(|error| failed("program", &error))?;
        let process = Command::new(program)
            .args([kind.command(), "--stop-with-stdin", "--log", level, "--config"])
            .arg(&config_file)
            .stdin(Stdio::piped())
            .stdout(log_file)
            .stderr(errors)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed("process", &error))?;
        let pid = process.id().unwrap_or_default();
        let follower =
            verbose.then(|| tokio::spawn(follow(name.to_owned(), log.clone(), log_start)));
        Ok(Child { process, pid, log, log_start, alive, follower })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// How it shows that it serves.
    pub(super) fn alive(&self) -> Alive {
        self.alive.clone()
    }

    /// Its exit status, once it has ended.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().ok().flatten()
    }

    /// Asks it to stop.
    pub(super) fn stop(&mut self) {
        drop(self.process.stdin.take());
    }

    /// Ends it at once.
    pub(super) async fn kill(&mut self) {
        if let Err(error) = self.process.kill().await {
            eprintln!("process {} cannot be killed: {error}", self.pid);
        }
    }

    /// The last lines it wrote, each on a line of its own, after a line break.
    pub(super) fn log_tail(&self) -> String {
        match read_tail(&self.log, self.log_start) {
            Ok(lines) if lines.is_empty() => String::new(),
            Ok(lines) => format!("\n  {}", lines.join("\n  ")),
            Err(error) => format!("\n  (its log cannot be read: {error})"),
        }
    }
}

impl Alive {
    /// Whether it serves now.
    pub(super) async fn serves(&self) -> bool {
        match self {
            Alive::Admin(admin) => healthy(admin, HEALTHY_WITHIN).await,
            Alive::Port(address) => {
                let connect = tokio::net::TcpStream::connect(address);
                matches!(tokio::time::timeout(HEALTHY_WITHIN, connect).await, Ok(Ok(_)))
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Some(follower) = self.follower.take() {
            follower.abort();
        }
    }
}

fn open_log(log: &Path) -> std::io::Result<File> {
    if std::fs::metadata(log).is_ok_and(|metadata| metadata.len() > LOG_BYTES_MAX) {
        std::fs::rename(log, log.with_extension("old.txt"))?;
    }
    OpenOptions::new().create(true).append(true).open(log)
}

fn read_tail(log: &Path, start: u64) -> std::io::Result<Vec<String>> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    let from = start.max(length.saturating_sub(TAIL_BYTES));
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let skipped = lines.len().saturating_sub(TAIL_LINES);
    Ok(lines[skipped..].iter().map(|line| crate::output::plain(line)).collect())
}

/// Copies what the log gains to standard error, line by line, with the region's name in front.
async fn follow(name: String, log: PathBuf, start: u64) {
    let mut at = start;
    let mut rest = String::new();
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let Ok(gained) = read_from(&log, at) else { continue };
        at += gained.len() as u64;
        rest += &String::from_utf8_lossy(&gained);
        while let Some((line, after)) = rest.split_once('\n') {
            let shown = writeln!(std::io::stderr(), "{name} | {line}");
            rest = after.to_owned();
            if shown.is_err() {
                return;
            }
        }
    }
}

/// At most 64 KiB after this place.
fn read_from(log: &Path, at: u64) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(log)?;
    file.seek(SeekFrom::Start(at))?;
    let mut bytes = Vec::new();
    file.take(64 * 1024).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_the_last_lines_of_this_run() {
        let place = tempfile::tempdir().unwrap();
        let log = place.path().join("log.txt");
        std::fs::write(&log, "earlier run\n").unwrap();
        let start = std::fs::metadata(&log).unwrap().len();
        assert!(read_tail(&log, start).unwrap().is_empty());
        let mut file = open_log(&log).unwrap();
        for number in 0..20 {
            writeln!(file, "line {number}").unwrap();
        }
        let tail = read_tail(&log, start).unwrap();
        assert_eq!(tail.len(), TAIL_LINES);
        assert_eq!(tail.last().unwrap(), "line 19");
    }
}
