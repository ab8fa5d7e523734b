//! Processes: what they used, how often they synced, and that none outlives this one.
//!
//! A child is started through this program itself, which asks the system to be stopped when its
//! parent ends and then becomes the child's program. So nothing is left over, even where this
//! process is killed.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

use crate::error::{BenchError, Result, Tried};

/// How often an ending process is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Arguments of the hidden command that becomes another program.
#[derive(Args, Debug)]
pub(crate) struct GuardArgs {
    /// Program and arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    command: Vec<std::ffi::OsString>,
}

/// Becomes the program, to be stopped when the parent ends.
pub(crate) fn become_guarded(args: &GuardArgs) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::TERM)).tried(|| "ask for a signal".to_owned())?;
    let (program, rest) =
        args.command.split_first().ok_or_else(|| BenchError::failed("no program is given"))?;
    let error = Command::new(program).args(rest).exec();
    Err(error).tried(|| format!("start {}", program.display()))
}

/// A command for this program that runs the other one under guard. Must be spawned by the main
/// thread: the guard follows the thread that started it.
pub(crate) fn guarded(program: &Path) -> Result<Command> {
    let own = std::env::current_exe().tried(|| "find the own program".to_owned())?;
    let mut command = Command::new(own);
    command.args(["guard", "--"]).arg(program);
    Ok(command)
}

/// Sends a signal; that the process has ended already is no error.
pub(crate) fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// Asks a child to end and kills it after a while. Gives whether it ended by itself.
pub(crate) fn end(child: &mut Child, limit: Duration) -> bool {
    signal(child.id(), Signal::TERM);
    let deadline = Instant::now() + limit;
    loop {
        match child.try_wait() {
            Ok(Some(_)) => return true,
            Ok(None) if Instant::now() < deadline => std::thread::sleep(POLL),
            Ok(None) | Err(_) => break,
        }
    }
    let _ = child.kill();
    let _ = child.wait();
    false
}

/// Processor time that a process has used so far, in all its threads.
pub(crate) fn cpu_of(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).tried(|| format!("read {path}"))?;
    cpu_in(&text).ok_or_else(|| BenchError::failed(format!("{path} has another form")))
}

fn cpu_in(stat: &str) -> Option<Duration> {
    // The program's name stands in brackets and may hold anything.
    let rest = stat.rsplit_once(')')?.1;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let ticks = rustix::param::clock_ticks_per_second().max(1);
    Some(Duration::from_secs_f64((user + system) as f64 / ticks as f64))
}

/// Processor time of the threads of this process that live, by name without trailing digits.
pub(crate) fn cpu_of_threads() -> BTreeMap<String, Duration> {
    let mut found: BTreeMap<String, Duration> = BTreeMap::new();
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    for thread in threads.map(|entry| entry.path()) {
        let read = |name: &str| std::fs::read_to_string(thread.join(name)).unwrap_or_default();
        let nanoseconds = read("schedstat").split(' ').next().and_then(|text| text.parse().ok());
        let name = read("comm");
        let name = name.trim_end().trim_end_matches(|c: char| c.is_ascii_digit());
        *found.entry(name.to_owned()).or_default() +=
            Duration::from_nanos(nanoseconds.unwrap_or(0));
    }
    found
}

/// Processor time that the whole machine has used so far; `None` where the system does not tell.
/// Time that the machine itself was not given counts as used.
pub(crate) fn cpu_of_all() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/stat").ok()?;
    busy_in(&text)
}

fn busy_in(stat: &str) -> Option<Duration> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<u64> = line.split_ascii_whitespace().map_while(|f| f.parse().ok()).collect();
    // user, nice, system, idle, waiting for disks, interrupts, soft interrupts, stolen
    let [user, nice, system, _, _, interrupts, soft, stolen] = *fields.first_chunk::<8>()?;
    let ticks = rustix::param::clock_ticks_per_second().max(1);
    let busy = user + nice + system + interrupts + soft + stolen;
    Some(Duration::from_secs_f64(busy as f64 / ticks as f64))
}

/// What others have used of the machine's cores, as a share of all of them.
pub(crate) fn share_of_others(
    all: Option<Duration>,
    measured: impl Iterator<Item = Duration>,
    elapsed: Duration,
) -> Option<f64> {
    let others = all?.saturating_sub(measured.sum());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Some(others.as_secs_f64() / elapsed.as_secs_f64().max(1e-9) / cores as f64)
}

/// Counts the syncs of a process with the system's `perf`, where that is there and allowed.
pub(crate) struct SyncCounter {
    perf: Child,
    since: Instant,
}

impl SyncCounter {
    /// Starts counting; `None` where it cannot be done.
    pub(crate) fn start(pid: u32) -> Option<SyncCounter> {
        let perf = Command::new("perf")
            .args(["stat", "-x,", "-e", "syscalls:sys_enter_fdatasync"])
            .args(["-e", "syscalls:sys_enter_fsync", "-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .ok()?;
        Some(SyncCounter { perf, since: Instant::now() })
    }

    /// Syncs per second since it was started; `None` where nothing could be counted.
    pub(crate) fn finish(mut self) -> Option<f64> {
        let own_span = self.since.elapsed().as_secs_f64();
        signal(self.perf.id(), Signal::INT);
        let mut text = String::new();
        self.perf.stderr.take()?.read_to_string(&mut text).ok()?;
        if !end(&mut self.perf, Duration::from_secs(5)) {
            return None;
        }
        rate_in(&text, own_span)
    }
}

impl Drop for SyncCounter {
    fn drop(&mut self) {
        let _ = self.perf.kill();
        let _ = self.perf.wait();
    }
}

/// Adds up `count,,event,nanoseconds counted,...`. An event's time is that of all threads
/// together, so the span is the caller's.
fn rate_in(text: &str, span: f64) -> Option<f64> {
    let counts: Vec<f64> = text
        .lines()
        .filter(|line| line.contains("sync"))
        .map(|line| line.split(',').next().and_then(|count| count.parse().ok()))
        .collect::<Option<_>>()?;
    (!counts.is_empty() && span > 0.0).then(|| counts.iter().sum::<f64>() / span)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let stat = "7 (a ) b) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0";
        let ticks = rustix::param::clock_ticks_per_second();
        assert_eq!(cpu_in(stat), Some(Duration::from_secs_f64(200.0 / ticks as f64)));
        assert_eq!(cpu_in("7 (a) S 1"), None);
        assert!(cpu_of(std::process::id()).is_ok());
    }

    #[test]
    fn the_machine_is_busy_with_all_but_idling_and_waiting() {
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let busy = busy_in("cpu  1 2 3 400 500 4 5 6 7 8\ncpu0 1\n");
        assert_eq!(busy, Some(Duration::from_secs_f64(21.0 / ticks)));
        assert_eq!(busy_in("intr 1"), None);
        let second = Duration::from_secs(1);
        assert_eq!(share_of_others(Some(second), [second].into_iter(), second), Some(0.0));
    }

    #[test]
    fn counts_are_added_and_what_was_not_counted_is_told() {
        let text =
            "30,,syscalls:sys_enter_fdatasync,9,100.00,,\n10,,syscalls:sys_enter_fsync,9,1,,";
        assert_eq!(rate_in(text, 2.0), Some(20.0));
        assert_eq!(rate_in("<not supported>,,syscalls:sys_enter_fsync,0,1,,", 2.0), None);
        assert_eq!(rate_in("", 2.0), None);
    }
}
