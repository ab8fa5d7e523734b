//! `isthmus verify --against`: a table beside a file, or beside a table of another store.
//!
//! What must hold: the report has the shape of that of regions, so that what reads the one reads
//! the other; the first side is the table, and missing is what the other side lacks.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use isthmus_connectors::compare::{
    CompareOptions, HashKind, Phase, Progress, Side, Versions, compare,
};
use isthmus_connectors::format::Format;
use isthmus_connectors::tablestore::{ClientOptions, TableStore};
use isthmus_connectors::types::Types;
use isthmus_model::clock::SystemClock;
use serde_json::{Map, Value as Json, json};
use tokio::time::Instant;

use crate::error::{CliError, Exit};
use crate::progress::{Line, count};
use crate::target::{Elsewhere, Place};
use crate::up::StopSignals;

/// How long a store may be busy or away before reading it is given up.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the table is compared with, if not among regions.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Beside a file or another store")]
pub(crate) struct AgainstArgs {
    /// A CSV, JSON Lines or Parquet file, or the URL of any Tablestore endpoint
    #[arg(long, value_name = "FILE|URL",
        conflicts_with_all = ["regions", "deep", "detach", "wait"])]
    pub(super) against: Option<String>,
    /// The file's format [default: by its name]
    #[arg(long, value_name = "FORMAT", requires = "against")]
    format: Option<FileFormat>,
    /// Types of the file's columns, as NAME:TYPE with commas between [default: the table's]
    #[arg(long, value_name = "TYPES", value_parser = Types::parse, requires = "against")]
    types: Option<Types>,
    /// What of a row is compared [default: all versions where both sides have them]
    #[arg(long, value_name = "WHAT", requires = "against")]
    versions: Option<What>,
    /// Hash function that rows and both sides are told by
    #[arg(long, value_name = "NAME", default_value = "blake3", requires = "against")]
    hash: HashName,
    /// Where a file that does not fit into memory is sorted [default: the system's directory]
    #[arg(long, value_name = "DIR", requires = "against")]
    temporary: Option<PathBuf>,
    /// Name of the table there [default: the same]
    #[arg(long, value_name = "NAME", requires = "against")]
    against_table: Option<String>,
    /// Instance there [default: the same]
    #[arg(long, value_name = "NAME", env = "ISTHMUS_AGAINST_INSTANCE")]
    against_instance: Option<String>,
    /// Access key id there [default: the same]
    #[arg(
        long,
        value_name = "ID",
        env = "ISTHMUS_AGAINST_ACCESS_KEY_ID",
        requires = "against_access_key_secret"
    )]
    against_access_key_id: Option<String>,
    /// Access key secret there; better given in the variable
    #[arg(
        long,
        value_name = "SECRET",
        env = "ISTHMUS_AGAINST_ACCESS_KEY_SECRET",
        hide_env_values = true
    )]
    against_access_key_secret: Option<String>,
    /// Token of temporary credentials there
    #[arg(
        long,
        value_name = "TOKEN",
        env = "ISTHMUS_AGAINST_SECURITY_TOKEN",
        hide_env_values = true
    )]
    against_security_token: Option<String>,
    /// Sign with V4 for this region id there
    #[arg(long, value_name = "ID", env = "ISTHMUS_AGAINST_SIGN_REGION")]
    against_sign_region: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FileFormat {
    /// Comma-separated values
    Csv,
    /// One JSON object per line
    Jsonl,
    /// Apache Parquet
    Parquet,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum What {
    /// All versions with their timestamps
    All,
    /// The newest values
    Newest,
    /// The newest values and their timestamps
    NewestTimestamps,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum HashName {
    Blake3,
    Md5,
    Sha1,
    Sha256,
}

/// What both sides of a report are called.
struct Names<'a> {
    table: &'a str,
    first: &'a str,
    second: &'a str,
}

/// Compares; gives the report in the shape that regions tell theirs.
pub(super) async fn run(
    args: &AgainstArgs,
    against: &str,
    table: &str,
    rows_max: u64,
    place: &Place,
    shown: bool,
) -> Result<Json, CliError> {
    let left = Side::Store { client: client(place)?, table: table.to_owned() };
    let right = other_side(args, against, table, place)?;
    let options = CompareOptions {
        versions: args.versions.map(What::versions),
        hash: args.hash.kind(),
        rows_listed_max: usize::try_from(rows_max).unwrap_or(usize::MAX),
        directory: args.temporary.clone(),
        ..CompareOptions::default()
    };
    let line = Line::new(shown);
    let began = Instant::now();
    let mut tell = |progress: Progress| {
        line.set(&progress_text(&progress, began.elapsed()));
    };
    let mut stop = StopSignals::new()?;
    let told = tokio::select! {
        report = compare(&left, &right, &options, &SystemClock, &mut tell) => Ok(report.to_json()),
        () = stop.next() => Err(CliError::new(Exit::Stopped, "stopped")),
    };
    line.clear();
    Ok(shaped(told?, &Names { table, first: place.shown(), second: against }))
}

fn client(place: &Place) -> Result<TableStore, CliError> {
    let options = ClientOptions { patience: PATIENCE, ..ClientOptions::default() };
    place.client(options)
}

fn other_side(
    args: &AgainstArgs,
    against: &str,
    table: &str,
    place: &Place,
) -> Result<Side, CliError> {
    if against.contains("://") {
        let there = place.elsewhere(Elsewhere {
            endpoint: against.to_owned(),
            instance: args.against_instance.clone(),
            key: args.against_access_key_id.clone().zip(args.against_access_key_secret.clone()),
            security_token: args.against_security_token.clone(),
            sign_region: args.against_sign_region.clone(),
        });
        let table = args.against_table.as_deref().unwrap_or(table).to_owned();
        return Ok(Side::Store { client: client(&there)?, table });
    }
    let path = PathBuf::from(against);
    let format = args.format.map(FileFormat::format);
    if format.is_none() && Format::of_path(&path).is_none() {
        return Err(CliError::usage(format!("{against}: format not known"))
            .hint("say --format csv, jsonl or parquet; a URL begins with http://"));
    }
    if let Err(error) = std::fs::metadata(&path) {
        return Err(CliError::usage(format!("{against}: {error}")));
    }
    Ok(Side::File { path, format, types: args.types.clone().unwrap_or_default() })
}

fn progress_text(progress: &Progress, since: Duration) -> String {
    let phase = match progress.phase {
        Phase::Reading => "reading",
        Phase::Comparing => "comparing",
        Phase::LookingAgain => "looking again at what differed",
    };
    let rows = progress.left_rows + progress.right_rows;
    let rate = (rows as f64 / since.as_secs_f64().max(0.001)) as u64;
    let mut text = format!("{phase}  {} rows  {} rows/s", count(rows), count(rate));
    if progress.rows_differing > 0 {
        text += &format!("  {} differ", count(progress.rows_differing));
    }
    text
}

/// The report with the members that a report of regions has, before those of its own.
fn shaped(mut told: Json, names: &Names<'_>) -> Json {
    let mut report = Map::new();
    report.insert("table".into(), names.table.into());
    report.insert("regions".into(), json!([names.first, names.second]));
    let rows_of = |side: &str| told[side]["rows_read"].clone();
    let mut by = Map::new();
    by.insert(names.first.to_owned(), rows_of("left"));
    by.insert(names.second.to_owned(), rows_of("right"));
    for row in told["rows"].as_array_mut().into_iter().flatten() {
        row["regions"] = json!([names.first, names.second]);
        for cell in row["cells"].as_array_mut().into_iter().flatten() {
            *cell = cell_shaped(cell, names);
        }
    }
    if let Json::Object(members) = told {
        report.extend(members);
    }
    report.insert("rows_read_by_region".into(), by.into());
    for (name, none) in [
        ("ranges", json!([])),
        ("watermarks", json!({})),
        ("scrubbed_since", json!({})),
        ("bad_on_disk", json!([])),
        ("tree_wrong", json!([])),
    ] {
        report.entry(name).or_insert(none);
    }
    Json::Object(report)
}

/// A cell with what each side has under the side's name.
fn cell_shaped(cell: &Json, names: &Names<'_>) -> Json {
    let of = |side: &str, member: &str| cell[side].get(member).cloned().unwrap_or(Json::Null);
    let (left, right) = (of("left", "timestamp"), of("right", "timestamp"));
    let mut shaped = Map::new();
    shaped.insert("column".into(), cell["name"].clone());
    shaped.insert("timestamp".into(), if left.is_null() { right } else { left });
    shaped.insert("class".into(), cell["class"].clone());
    shaped.insert(names.first.to_owned(), of("left", "value"));
    shaped.insert(names.second.to_owned(), of("right", "value"));
    Json::Object(shaped)
}

impl FileFormat {
    fn format(self) -> Format {
        match self {
            FileFormat::Csv => Format::Csv,
            FileFormat::Jsonl => Format::JsonLines,
            FileFormat::Parquet => Format::Parquet,
        }
    }
}

impl What {
    fn versions(self) -> Versions {
        match self {
            What::All => Versions::All,
            What::Newest => Versions::Newest { timestamps: false },
            What::NewestTimestamps => Versions::Newest { timestamps: true },
        }
    }
}

impl HashName {
    fn kind(self) -> HashKind {
        match self {
            HashName::Blake3 => HashKind::Blake3,
            HashName::Md5 => HashKind::Md5,
            HashName::Sha1 => HashKind::Sha1,
            HashName::Sha256 => HashKind::Sha256,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Report;

    #[test]
    fn the_report_has_the_shape_of_that_of_regions() {
        let told = json!({
            "equal": false, "reason": null, "rows_differing": 1, "hash": "blake3", "more": false,
            "left": {"rows_read": 3, "hash": "aa"}, "right": {"rows_read": 2, "hash": "bb"},
            "rows": [{"key": {"id": "a"}, "class": "missing", "cells": [{"name": "text",
                "class": "missing", "left": {"value": "x", "timestamp": 5}, "right": null}]}],
        });
        let names = Names { table: "t", first: "r1", second: "t.csv" };
        let told = shaped(told, &names);
        assert_eq!(told["regions"], json!(["r1", "t.csv"]));
        assert_eq!(told["rows_read_by_region"], json!({"r1": 3, "t.csv": 2}));
        let cell = json!({"column": "text", "timestamp": 5, "class": "missing",
                          "r1": "x", "t.csv": null});
        assert_eq!(told["rows"][0]["cells"][0], cell);
        assert_eq!(told["left"]["hash"], "aa");
        assert_eq!(Report::of_json(&told).unwrap().verdict(), Exit::Different);
    }
}
