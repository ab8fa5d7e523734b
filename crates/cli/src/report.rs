//! What comparing, repairing and scrubbing found, as the region tells it, and the three ways it
//! is printed: for people, as JSON, as CSV.
//!
//! What must hold: JSON is what was told, member for member; the other two show nothing that was
//! not told, and the verdict comes first. What a newer region tells beyond this is left out of
//! text, never an error.

mod csv;
mod text;

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use serde::Deserialize;
use serde_json::{Map, Value as Json};

use crate::error::{CliError, Exit};
use crate::output;

pub(crate) use crate::report::text::{key_text, range_text, rows};

/// How a report is printed, and where to.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "How the report is printed")]
pub(crate) struct ReportArgs {
    /// Print CSV: a line for each cell that differs
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    /// Write the report into FILE, not to standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// A report of comparing or repairing.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Report {
    table: String,
    regions: Vec<String>,
    equal: Option<bool>,
    reason: Option<String>,
    rows_differing: u64,
    rows: Vec<RowDiff>,
    more: bool,
    ranges: Vec<Range>,
    bytes_exchanged: u64,
    round_trips: u64,
    rows_read: u64,
    rows_read_by_region: BTreeMap<String, u64>,
    elapsed_ms: f64,
    watermarks: BTreeMap<String, Watermark>,
    scrubbed_since: BTreeMap<String, Option<String>>,
    scrubbed_ranges: Vec<ScrubbedRange>,
    bad_on_disk: Vec<Range>,
    tree_wrong: Vec<Range>,
    deep: bool,
    hash: Option<String>,
    dry_run: Option<bool>,
    repaired: Option<u64>,
    skipped_changed: u64,
    rows_left: u64,
    equal_after: Option<bool>,
    bytes_moved: u64,
}

/// A row in which two regions differ; how the second one stands to the first.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct RowDiff {
    key: Json,
    class: String,
    regions: Vec<String>,
    cells: Vec<CellDiff>,
}

/// A cell of it; what each region has is a member of the region's name.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct CellDiff {
    column: String,
    /// What of the column or row it is, if not a cell: a tombstone, a marker, a trim.
    register: String,
    timestamp: Option<i64>,
    class: String,
    #[serde(flatten)]
    values: Map<String, Json>,
}

/// Rows between two keys.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Range {
    pub(crate) table: Option<String>,
    pub(crate) region: Option<String>,
    pub(crate) start: Json,
    pub(crate) end: Json,
    pub(crate) rows: Option<u64>,
    /// What became of it.
    pub(crate) settled: Option<String>,
}

/// When rows between two keys were last read from the disk of a region.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct ScrubbedRange {
    pub(crate) region: String,
    pub(crate) start: Json,
    pub(crate) end: Json,
    /// `None`: never.
    pub(crate) since: Option<String>,
}

/// What was compared of a region.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Watermark {
    lsn: Option<u64>,
    origins: BTreeMap<String, Origin>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Origin {
    lsn: u64,
}

impl Report {
    /// Reads what the region told.
    pub(crate) fn of_json(json: &Json) -> Result<Report, CliError> {
        Report::deserialize(json).map_err(|error| {
            CliError::failed(format!("the report cannot be read: {error}"))
                .hint("--json prints it as it is")
        })
    }

    /// What the exit code of `verify` says.
    pub(crate) fn verdict(&self) -> Exit {
        let sound = self.bad_on_disk.is_empty() && self.tree_wrong.is_empty();
        match self.equal {
            Some(true) if sound => Exit::Done,
            Some(_) => Exit::Different,
            None => Exit::CouldNotTell,
        }
    }

    /// What the exit code of `repair` says.
    pub(crate) fn repair_verdict(&self) -> Exit {
        let alike = match (self.dry_run, self.equal_after) {
            (Some(true), _) | (_, None) => self.equal.is_some() || self.reason.is_none(),
            (_, Some(alike)) => alike,
        };
        if alike && self.rows_left == 0 { Exit::Done } else { Exit::Different }
    }
}

impl ReportArgs {
    /// Whether standard output carries something that programs read.
    pub(crate) fn is_for_people(&self, json: bool) -> bool {
        !json && !self.csv
    }

    /// Whether it is printed as text or JSON to standard output.
    pub(crate) fn is_plain(&self) -> bool {
        !self.csv && self.output.is_none()
    }

    /// Prints a report of comparing or repairing, in the way that was asked for.
    pub(crate) fn print(&self, told: &Json, json: bool) -> Result<Report, CliError> {
        // What is printed as it is must not fail for what this program does not know.
        let report = Report::of_json(told);
        if json {
            self.put(&json_text(told)?)?;
            return report;
        }
        let report = report?;
        let text = if self.csv { csv::text(&report) } else { text::text(&report) };
        self.put(&text)?;
        Ok(report)
    }

    /// Prints text where it was asked for.
    pub(crate) fn put(&self, text: &str) -> Result<(), CliError> {
        let Some(file) = &self.output else { return output::line(text) };
        std::fs::write(file, format!("{text}\n"))
            .map_err(|error| CliError::failed(format!("{}: {error}", file.display())))
    }

    /// Whether CSV was asked for.
    pub(crate) fn csv(&self) -> bool {
        self.csv
    }
}

impl CellDiff {
    /// Its column, or what it is of it.
    fn name(&self) -> String {
        match (self.register.as_str(), self.column.as_str()) {
            ("" | "cell", column) => column.to_owned(),
            (register, "") => format!("({register})"),
            (register, column) => format!("{column} ({register})"),
        }
    }
}

/// A JSON value in one line.
pub(crate) fn json_text(told: &Json) -> Result<String, CliError> {
    serde_json::to_string(told).map_err(|error| CliError::failed(error.to_string()))
}

/// One line of CSV.
pub(crate) fn csv_line(fields: &[String]) -> String {
    csv::line(fields)
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    pub(crate) fn different() -> Json {
        json!({
            "table": "notes", "regions": ["r1", "r2"], "equal": false, "reason": null,
            "rows_differing": 3, "more": true,
            "rows": [
                {"key": [{"name": "id", "type": "string", "value": "a"},
                         {"name": "n", "type": "integer", "value": -7}],
                 "class": "missing", "regions": ["r1", "r2"],
                 "cells": [{"column": "text", "timestamp": 5, "class": "missing",
                            "r1": "he said \"no\"", "r2": null}]},
                {"key": {"id": "b\u{1b}", "n": 1}, "class": "extra", "regions": ["r1", "r2"],
                 "cells": []},
            ],
            "ranges": [], "bytes_exchanged": 2048, "round_trips": 2, "rows_read": 4,
            "rows_read_by_region": {"r1": 2, "r2": 2}, "elapsed_ms": 12,
            "watermarks": {"r1": {"lsn": 9, "hlc": "1", "origins": {"r1": {"lsn": 9}}},
                           "r2": {"lsn": 8}},
            "scrubbed_since": {"r1": "2026-11-21T05:00:00Z", "r2": null},
            "bad_on_disk": [], "tree_wrong": [], "something_new": 1,
        })
    }

    #[test]
    fn the_exit_code_says_alike_different_or_could_not_tell() {
        let verdict = |told: Json| Report::of_json(&told).unwrap().verdict().code();
        assert_eq!(verdict(json!({"equal": true})), 0);
        assert_eq!(verdict(different()), 1);
        assert_eq!(verdict(json!({"equal": null, "reason": "r2 is away"})), 2);
        assert_eq!(verdict(json!({})), 2);
        // Alike by their digests, and yet not what the disk holds.
        assert_eq!(verdict(json!({"equal": true, "bad_on_disk": [{"region": "r2"}]})), 1);
        assert_eq!(verdict(json!({"equal": true, "tree_wrong": [{"region": "r2"}]})), 1);
    }

    #[test]
    fn a_repair_that_left_rows_is_told() {
        let verdict = |told: Json| Report::of_json(&told).unwrap().repair_verdict().code();
        assert_eq!(verdict(json!({"equal": false, "repaired": 3, "rows_left": 0})), 0);
        assert_eq!(verdict(json!({"equal": false, "repaired": 3, "rows_left": 2})), 1);
        assert_eq!(verdict(json!({"equal": null, "reason": "r2 is away", "rows_left": 0})), 1);
        assert_eq!(verdict(json!({"equal": false, "equal_after": true})), 0);
        assert_eq!(verdict(json!({"equal": true, "equal_after": false})), 1);
        assert_eq!(verdict(json!({"equal": false, "equal_after": false, "dry_run": true})), 0);
    }
}
