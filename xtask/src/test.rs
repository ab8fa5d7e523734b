//! `test`: every suite, each with what it needs, and the totals of all at the end.
//!
//! What must hold: a suite that fails does not keep the others from running; a suite that ran no
//! test counts as failed; the command fails if any did.

use std::collections::VecDeque;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use crate::Outcome;
use crate::run::{cargo, command, follow};
use crate::{dev, install};

const SUITES: [&str; 6] = ["rust", "python", "node", "java", "bad-input", "end-to-end"];

/// End-to-end files at once, of those that mostly wait: each takes a third of a processor or so.
const LANES: usize = 3;

/// What a runner's closing lines say.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Totals {
    passed: u64,
    failed: u64,
    skipped: u64,
}

/// Runs the named suites, all by default.
pub(crate) fn suites(named: &[String]) -> Outcome {
    if let Some(unknown) = named.iter().find(|name| !SUITES.contains(&name.as_str())) {
        return Err(format!("unknown suite `{unknown}`; there are: {}", SUITES.join(" ")));
    }
    let wanted = |suite: &&str| named.is_empty() || named.iter().any(|name| name == suite);
    install::build_tools()?;
    let mut results = Vec::new();
    for suite in SUITES.into_iter().filter(wanted) {
        println!("\n== {suite}");
        let mut totals = Totals::default();
        let outcome = run_suite(suite, &mut totals);
        results.push((suite, totals, outcome));
    }
    report(&results)
}

fn run_suite(suite: &str, totals: &mut Totals) -> Outcome {
    if suite == "rust" {
        let mut tests = cargo(&["test", "--release", "--workspace", "--no-fail-fast"]);
        return follow(&mut tests, |line| add_cargo(totals, line));
    }
    dev::build()?;
    match suite {
        "python" => pytest(&install::python()?, &["compat/python"], totals),
        "node" => {
            install::node()?;
            node(Path::new("tests/compat/node"), totals)
        }
        "java" => java(&install::java()?, totals),
        "bad-input" => {
            install::fault_tools();
            pytest(&install::python()?, &["bad_input"], totals)
        }
        _ => {
            install::fault_tools();
            end_to_end(&install::python()?, totals)
        }
    }
}

/// End-to-end tests that load the whole machine, or are disturbed by what else does.
const ALONE: [&str; 3] = ["test_power_cuts.py", "test_size.py", "test_wire.py"];

/// File by file: one at a time what needs the machine, then several at once of what mostly waits.
fn end_to_end(python: &Path, totals: &mut Totals) -> Outcome {
    let folder = crate::run::root().join("tests/end_to_end");
    let files = std::fs::read_dir(&folder).map_err(|error| format!("read tests: {error}"))?;
    let names = files.flatten().map(|file| file.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> =
        names.filter(|name| name.starts_with("test_") && name.ends_with(".py")).collect();
    names.sort_unstable();
    let (alone, together): (VecDeque<String>, VecDeque<String>) =
        names.into_iter().partition(|name| ALONE.contains(&name.as_str()));
    let found = Mutex::new((totals, Ok(())));
    let run = |names: &Mutex<VecDeque<String>>, share: usize| {
        let next = || names.lock().ok()?.pop_front();
        while let Some(name) = next() {
            let file = format!("end_to_end/{name}");
            let mut of_file = Totals::default();
            // What the tests measure is printed, so it is not held back.
            let mut tests = pytest_command(python, &[&file, "-v", "-s"]);
            tests.env("PORTS", format!("{share}/{LANES}"));
            let ended = follow(&mut tests, |line| add_pytest(&mut of_file, line));
            if let Ok(mut found) = found.lock() {
                found.0.passed += of_file.passed;
                found.0.failed += of_file.failed;
                found.0.skipped += of_file.skipped;
                found.1 = std::mem::replace(&mut found.1, Ok(())).and(ended);
            }
        }
    };
    run(&Mutex::new(alone), 0);
    let together = Mutex::new(together);
    std::thread::scope(|scope| {
        for share in 0..LANES {
            let (run, together) = (&run, &together);
            scope.spawn(move || run(together, share));
        }
    });
    found.into_inner().map_err(|_| "a run of the tests ended by a fault".to_owned())?.1
}

/// Runs pytest in `tests` with this Python.
pub(crate) fn pytest_with(python: &Path, arguments: &[&str]) -> Outcome {
    let mut totals = Totals::default();
    let outcome = pytest(python, arguments, &mut totals);
    report(&[("pytest", totals, outcome)])
}

/// Runs the Node suite in a folder.
pub(crate) fn node_in(folder: &Path) -> Outcome {
    let mut totals = Totals::default();
    let outcome = node(folder, &mut totals);
    report(&[("node", totals, outcome)])
}

fn pytest(python: &Path, arguments: &[&str], totals: &mut Totals) -> Outcome {
    follow(&mut pytest_command(python, arguments), |line| add_pytest(totals, line))
}

fn pytest_command(python: &Path, arguments: &[&str]) -> Command {
    let head = ["-B", "-m", "pytest", "--color=no", "--durations=5"];
    let mut tests = command(python, &[&head[..], arguments].concat());
    tests.current_dir(crate::run::root().join("tests")).env("PYTHONUNBUFFERED", "1");
    tests
}

fn node(folder: &Path, totals: &mut Totals) -> Outcome {
    let mut tests = command("node", &["--test", "--test-reporter=tap", "suite.test.js"]);
    let folder = crate::run::root().join(folder);
    follow(tests.current_dir(folder), |line| add_node(totals, line))
}

fn java(class_path: &str, totals: &mut Totals) -> Outcome {
    let program = crate::run::root().join("target/release/isthmus");
    let words = ["-cp", class_path, "Suite", &program.to_string_lossy()];
    follow(&mut command("java", &words), |line| add_node(totals, line))
}

/// The tests that take too long for every run, all or one of them.
pub(crate) fn soak(named: &[String]) -> Outcome {
    let wanted = match named {
        [] => {
            "overwrites or never_rest or outlives_the_region or ten_million_deletes or one_history \
               or jitter or random_changes"
        }
        [one] if one == "overwrites" => "overwrites",
        [one] if one == "peers" => "never_rest",
        [one] if one == "semi-sync" => "outlives_the_region",
        [one] if one == "deletes" => "ten_million_deletes",
        [one] if one == "faults" => "one_history or jitter",
        [one] if one == "schemas" => "random_changes",
        _ => {
            return Err(
                "soak knows: overwrites, peers, semi-sync, deletes, faults, schemas".to_owned()
            );
        }
    };
    install::fault_tools();
    dev::build()?;
    let python = install::python()?;
    let names = ["size", "soak", "modes", "deletes", "faults", "schemas"];
    let files = names.map(|name| format!("end_to_end/test_{name}.py"));
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let arguments = [&["-B", "-m", "pytest"][..], &files, &["-v", "-s", "-k", wanted]].concat();
    let mut tests = command(python, &arguments);
    let folder = crate::run::root().join("tests");
    let changes = std::env::var("SCHEMA_CHANGES").unwrap_or_else(|_| "1000".to_owned());
    crate::run::run(tests.current_dir(folder).env("SOAK", "1").env("SCHEMA_CHANGES", changes))
}

fn report(results: &[(&str, Totals, Outcome)]) -> Outcome {
    let mut sum = Totals::default();
    let mut broken = Vec::new();
    println!("\n== totals");
    for (suite, totals, outcome) in results {
        let Totals { passed, failed, skipped } = totals;
        println!("{suite:<11} {passed} passed, {failed} failed, {skipped} skipped");
        match outcome {
            Err(error) => broken.push(format!("{suite}: {error}")),
            Ok(()) if passed + failed == 0 => broken.push(format!("{suite}: no test ran")),
            Ok(()) => {}
        }
        sum.passed += passed;
        // A runner that failed without a failed test, by a compile error say, is a failure too.
        sum.failed += if outcome.is_err() { (*failed).max(1) } else { *failed };
        sum.skipped += skipped;
    }
    println!("\n{} passed, {} failed, {} skipped", sum.passed, sum.failed, sum.skipped);
    if broken.is_empty() { Ok(()) } else { Err(broken.join("\n")) }
}

/// `test result: ok. 5 passed; 0 failed; 1 ignored; ...`
fn add_cargo(totals: &mut Totals, line: &str) {
    if let Some(rest) = line.strip_prefix("test result: ") {
        add_words(totals, rest);
    }
}

/// `==== 1 failed, 29 passed, 2 skipped in 3.1s ====`
fn add_pytest(totals: &mut Totals, line: &str) {
    if line.starts_with("==") && line.contains(" in ") && line.ends_with("==") {
        add_words(totals, line.trim_matches('='));
    }
}

/// `# pass 44`
fn add_node(totals: &mut Totals, line: &str) {
    let mut words = line.split(' ');
    if words.next() != Some("#") {
        return;
    }
    let (Some(name), Some(count)) = (words.next(), words.next().and_then(|n| n.parse().ok()))
    else {
        return;
    };
    count_word(totals, name, count);
}

/// Pairs of a number and a word.
fn add_words(totals: &mut Totals, text: &str) {
    let words: Vec<&str> =
        text.split([' ', ',', ';', '.']).filter(|word| !word.is_empty()).collect();
    for pair in words.windows(2) {
        if let Ok(count) = pair[0].parse() {
            count_word(totals, pair[1], count);
        }
    }
}

fn count_word(totals: &mut Totals, word: &str, count: u64) {
    match word {
        "passed" | "pass" => totals.passed += count,
        "failed" | "fail" | "error" | "errors" | "cancelled" => totals.failed += count,
        "skipped" | "ignored" | "deselected" => totals.skipped += count,
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::{Totals, add_cargo, add_node, add_pytest};

    fn totals(passed: u64, failed: u64, skipped: u64) -> Totals {
        Totals { passed, failed, skipped }
    }

    #[test]
    fn closing_lines_of_each_runner_are_understood() {
        let mut found = Totals::default();
        add_cargo(&mut found, "running 3 tests");
        add_cargo(&mut found, "test result: ok. 3 passed; 0 failed; 1 ignored; finished in 0.01s");
        assert_eq!(found, totals(3, 0, 1));
        let mut found = Totals::default();
        add_pytest(
            &mut found,
            "=== 2 failed, 290 passed, 1 skipped, 4 errors in 70.44s (0:01:10) ===",
        );
        assert_eq!(found, totals(290, 6, 1));
        let mut found = Totals::default();
        for line in ["# tests 45", "# suites 7", "# pass 44", "# fail 1", "# skipped 0"] {
            add_node(&mut found, line);
        }
        assert_eq!(found, totals(44, 1, 0));
    }
}
