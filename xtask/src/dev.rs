//! The commands that run something of the project's own: regions, simulator, benchmarks, fuzzers.

use crate::Outcome;
use crate::install;
use crate::run::{become_it, cargo, command, output, prepare, root, run, succeeds};

/// Everything that other commands would install.
pub(crate) fn setup() -> Outcome {
    install::build_tools()?;
    install::fault_tools();
    install::python()?;
    install::java()?;
    install::node()
}

/// Builds the program, then runs regions until they are stopped.
pub(crate) fn up(arguments: &[String]) -> Outcome {
    build()?;
    let program = root().join("target/release/isthmus");
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    become_it(&mut command(program, &[&["up"], &words[..]].concat()))
}

/// The program in the release profile.
pub(crate) fn build() -> Outcome {
    install::build_tools()?;
    prepare(&mut cargo(&["build", "--release", "--workspace"]))
}

/// The simulator.
pub(crate) fn sim(arguments: &[String]) -> Outcome {
    run_built("isthmus-sim", arguments)
}

/// A benchmark, against the program as it is built now.
pub(crate) fn bench(arguments: &[String]) -> Outcome {
    match arguments {
        [name, rows @ ..] if name == "gap" => gap(rows),
        _ => run_built("isthmus-bench", arguments),
    }
}

/// The benchmark that stops and starts regions, with so many rows.
fn gap(rows: &[String]) -> Outcome {
    build()?;
    let (script, target) = (root().join("tests/end_to_end/gap_copy.py"), root().join("target"));
    let mut line = command(install::python()?, &["-B"]);
    line.arg(script).arg(target.join("release/isthmus")).arg(target.join("bench/gap"));
    run(line.args(rows))
}

/// Builds the whole workspace and runs one of its programs. One package alone would be built with
/// other features of shared crates, and the embedded engine would be compiled once more.
fn run_built(program: &str, arguments: &[String]) -> Outcome {
    build()?;
    let program = root().join("target/release").join(program);
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    run(&mut command(program, &words))
}

/// What a stable compiler can do of the fuzzer's instrumentation.
const COVERAGE: &str = "--cfg fuzzing -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1";

/// Runs a fuzz target: with cargo-fuzz and its sanitizers where they are installed, else with the
/// stable compiler, which finds panics, hangs and memory beyond the limit but not bad reads.
pub(crate) fn fuzz(arguments: &[String]) -> Outcome {
    let target = arguments.first().ok_or("name a target: request_decoder, plainbuffer_decoder")?;
    let seconds = arguments.get(1).map_or("60", String::as_str);
    let limit = format!("-max_total_time={seconds}");
    if succeeds(&mut command("cargo", &["+nightly", "fuzz", "--version"])) {
        return run(&mut command("cargo", &["+nightly", "fuzz", "run", target, "--", &limit]));
    }
    install::build_tools()?;
    let version = output(&mut command("rustc", &["-vV"])).unwrap_or_default();
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.ok_or("rustc does not tell its host")?;
    let corpus = root().join("target/fuzz/corpus").join(target);
    std::fs::create_dir_all(&corpus).map_err(|error| format!("{}: {error}", corpus.display()))?;
    let artifacts = format!("-artifact_prefix={}/", root().join("target/fuzz").display());
    let corpus = corpus.to_string_lossy().into_owned();
    // A target of its own keeps the flags away from build scripts.
    let head = [
        "run",
        "--release",
        "--manifest-path",
        "fuzz/Cargo.toml",
        "--target-dir",
        "target/fuzz",
        "--target",
        host,
        "--bin",
        target,
        "--",
    ];
    let tail = [corpus.as_str(), &limit, &artifacts, "-rss_limit_mb=1024", "-timeout=10"];
    run(cargo(&[&head[..], &tail].concat()).env("RUSTFLAGS", COVERAGE))
}
