//! `check`: what a machine can check of the rules. Every check runs, even where one fails.

use std::path::Path;

use crate::Outcome;
use crate::install;
use crate::run::{cargo, command, output, root, run};

/// Licences that may be linked into the program.
const LICENCES: [&str; 16] = [
    "Apache-2.0",
    "MIT",
    "MIT-0",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "Unicode-3.0",
    "Unlicense",
    "CC0-1.0",
    "0BSD",
    "BSL-1.0",
    "CDLA-Permissive-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "bzip2-1.0.6",
];
/// Columns of a line of code.
const COLUMNS_MAX: usize = 100;

/// Every check; all run, even where one fails.
pub(crate) fn all() -> Outcome {
    install::build_tools()?;
    let lints = ["clippy", "--release", "--workspace", "--all-targets", "--", "-D", "warnings"];
    let docs = ["doc", "--release", "--no-deps", "--workspace"];
    let checks: [(&str, Outcome); 6] = [
        ("format", run(&mut cargo(&["fmt", "--all", "--check"]))),
        ("tree", tree()),
        ("licences", licences()),
        ("lints", run(&mut cargo(&lints))),
        ("fuzz", fuzz()),
        ("docs", run(cargo(&docs).env("RUSTDOCFLAGS", "-D warnings"))),
    ];
    println!();
    let mut failed = Vec::new();
    for (name, outcome) in checks {
        println!("{name:<9} {}", if outcome.is_ok() { "ok" } else { "FAILED" });
        if let Err(message) = outcome {
            failed.push(format!("{name}: {message}"));
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(failed.join("\n")) }
}

/// The fuzz targets compile: a workspace of its own, without the engine. Nothing is linked, so that
/// the fuzzer's library need not be there.
fn fuzz() -> Outcome {
    let words = ["check", "--locked", "--manifest-path", "fuzz/Cargo.toml", "--target-dir"];
    let words = [&words[..], &["target/fuzz"]].concat();
    run(cargo(&words).env("CUSTOM_LIBFUZZER_PATH", "not-linked/libfuzzer.a"))
}

/// Every crate that is linked has a licence from the list.
fn licences() -> Outcome {
    let tree = [
        "tree",
        "--workspace",
        "--prefix",
        "none",
        "--edges",
        "normal,build",
        "--format",
        "{l}|{p}",
    ];
    let found = output(&mut cargo(&tree)).ok_or("cargo tree failed")?;
    let mut wrong: Vec<&str> = found
        .lines()
        .map(|line| line.trim_end_matches(" (*)"))
        .filter(|line| line.split_once('|').is_some_and(|(licence, _)| !permitted(licence)))
        .collect();
    wrong.sort_unstable();
    wrong.dedup();
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

/// Whether a licence expression can be met: each part joined by AND has a permitted choice.
fn permitted(expression: &str) -> bool {
    let plain = expression.replace(['(', ')'], "").replace('/', " OR ");
    plain
        .split(" AND ")
        .all(|part| part.split(" OR ").any(|licence| LICENCES.contains(&licence.trim())))
}

/// What must and must not be in the tracked files.
fn tree() -> Outcome {
    let listed = output(&mut command("git", &["ls-files", "-z"])).ok_or("git ls-files failed")?;
    let mut wrong = Vec::new();
    for path in listed.split('\0').filter(|path| !path.is_empty()) {
        let Ok(text) = std::fs::read_to_string(root().join(path)) else { continue };
        places(path, &text, &mut wrong);
        if path.ends_with(".rs") {
            source(path, &text, &mut wrong);
        }
        if path.ends_with("Cargo.toml") && path.starts_with("crates/") {
            wants(path, &text, "license.workspace = true", &mut wrong);
            wants(path, &text, "[lints]", &mut wrong);
        }
        if path == "COMPAT.md" {
            named_tests(&text, &mut wrong);
        }
        if path == "crates/pure.clippy.toml" {
            forbids_as_all(path, &text, &mut wrong);
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

/// Paths of one machine and addresses of registries belong to nobody else's copy.
fn places(path: &str, text: &str, wrong: &mut Vec<String>) {
    // In two parts, so that this file does not find itself.
    let forbidden = [
        ["/wo", "rk/"],
        ["/ro", "ot/"],
        ["/ho", "me/"],
        ["/tmp/ba", "sh_jobs"],
        ["index.crat", "es.io"],
        ["static.crat", "es.io"],
        ["files.pythonho", "sted.org"],
        ["registry.npm", "js.org"],
        ["pypi", ".org"],
        ["repo1.maven", ".org"],
        ["repo.maven.apa", "che.org"],
    ];
    for (number, line) in text.lines().enumerate() {
        for word in forbidden.map(|parts| parts.concat()) {
            if line.contains(&word) {
                wrong.push(format!("{path}:{}: names {word}", number + 1));
            }
        }
    }
}

fn source(path: &str, text: &str, wrong: &mut Vec<String>) {
    if path.ends_with("/mod.rs") {
        wrong.push(format!("{path}: a module is `name.rs`, not `name/mod.rs`"));
    }
    let is_test = path.contains("/tests/") || path.ends_with("/tests.rs");
    let head = text.lines().find(|line| !line.starts_with("#!["));
    if !is_test && !head.is_some_and(|line| line.starts_with("//!")) {
        wrong.push(format!("{path}: does not open with //! saying what it is for"));
    }
    for (number, line) in text.lines().enumerate() {
        if line.chars().count() > COLUMNS_MAX {
            wrong.push(format!("{path}:{}: more than {COLUMNS_MAX} columns", number + 1));
        }
    }
}

fn wants(path: &str, text: &str, line: &str, wrong: &mut Vec<String>) {
    if !text.lines().any(|found| found.trim() == line) {
        wrong.push(format!("{path}: lacks `{line}`"));
    }
}

/// What is forbidden in all rooms is forbidden in those with a file of their own.
fn forbids_as_all(path: &str, text: &str, wrong: &mut Vec<String>) {
    let all = std::fs::read_to_string(root().join("clippy.toml")).unwrap_or_default();
    let is_setting =
        |line: &&str| line.contains("path = ") || line.starts_with(char::is_alphabetic);
    for line in all.lines().filter(is_setting).filter(|line| !line.starts_with("disallowed-")) {
        wants(path, text, line.trim(), wrong);
    }
}

/// Each test that the compatibility table names exists: `folder/file::name`.
fn named_tests(text: &str, wrong: &mut Vec<String>) {
    for named in text.split('`').filter(|part| part.contains("::")) {
        let Some((file, name)) = named.split_once("::") else { continue };
        let path = Path::new("tests/compat").join(file);
        let found = std::fs::read_to_string(root().join(&path));
        if !found.is_ok_and(|text| text.contains(name)) {
            wrong.push(format!("COMPAT.md: no test `{name}` in {}", path.display()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::permitted;

    #[test]
    fn licence_expressions_are_read() {
        assert!(permitted("MIT OR Apache-2.0"));
        assert!(permitted("MIT/Apache-2.0"));
        assert!(permitted("(MIT OR GPL-3.0) AND Unicode-3.0"));
        assert!(permitted("Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT"));
        assert!(!permitted("GPL-3.0"));
        assert!(!permitted("MIT AND GPL-3.0"));
        assert!(!permitted(""));
    }
}
