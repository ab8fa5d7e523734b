//! Running other programs: shown, from the project's root, without standard input.
//!
//! What must hold: a program that fails makes the command fail, and what it printed was seen.
//! Standard output belongs to the program that the user asked for: what is said about commands,
//! and what those print that only prepare for it, goes to standard error, so that a script can
//! read `up --json`.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// Commands that take so long tell how long it was.
const TOLD_SECONDS: u64 = 10;

/// The project's root.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("xtask lies in the root").to_path_buf()
}

/// A command that runs in the root without standard input.
pub(crate) fn command(program: impl AsRef<OsStr>, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root()).stdin(Stdio::null());
    command
}

/// The cargo that runs this, in the release profile.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = command(program, arguments);
    // What cargo set for this process must not reach the next one: it would build anew.
    for name in ["CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "CARGO_PKG_NAME"] {
        command.env_remove(name);
    }
    command
}

/// Prints the command and runs it to its end, and how long it took.
pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    show(command);
    let begun = now();
    let status = command.status();
    took(command, begun);
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{}: {status}", shown(command))),
        Err(error) => Err(format!("{}: {error}", shown(command))),
    }
}

/// Like `run`, for what comes before the program that was asked for.
pub(crate) fn prepare(command: &mut Command) -> Result<(), String> {
    run(command.stdout(std::io::stderr()))
}

/// Prints the command and becomes it, so that signals reach it and nothing stands between.
pub(crate) fn become_it(command: &mut Command) -> Result<(), String> {
    show(command);
    Err(format!("{}: {}", shown(command), command.exec()))
}

/// Like `run`, and hands each line of the output to `line` as it is printed.
pub(crate) fn follow(command: &mut Command, mut line: impl FnMut(&str)) -> Result<(), String> {
    show(command);
    let begun = now();
    let name = shown(command);
    let program = command.stdout(Stdio::piped()).spawn();
    let mut child = program.map_err(|error| format!("{name}: {error}"))?;
    if let Some(output) = child.stdout.take() {
        let mut reader = BufReader::new(output);
        let mut bytes = Vec::new();
        while reader.read_until(b'\n', &mut bytes).unwrap_or(0) > 0 {
            let text = String::from_utf8_lossy(&bytes);
            print!("{text}");
            line(text.trim_end());
            bytes.clear();
        }
    }
    let status = child.wait();
    took(command, begun);
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{name}: {status}")),
        Err(error) => Err(format!("{name}: {error}")),
    }
}

/// What a command prints, if it succeeds.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command.stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a command succeeds; it is not shown.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    output(command).is_some()
}

fn show(command: &Command) {
    eprintln!("\n$ {}", shown(command));
}

#[allow(clippy::disallowed_methods, reason = "a person waits for it")]
fn now() -> Instant {
    Instant::now()
}

/// Tells how long a command took of which somebody may wonder.
fn took(command: &Command, begun: Instant) {
    let seconds = begun.elapsed().as_secs();
    if seconds >= TOLD_SECONDS {
        eprintln!("({}: {seconds} s)", shown(command));
    }
}

fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str());
    let arguments = command.get_args().map(OsStr::to_string_lossy);
    let words: Vec<_> = std::iter::once(name.to_string_lossy()).chain(arguments).collect();
    words.join(" ")
}
