//! Comparing a table with the outside: another table of any store that speaks the Tablestore
//! protocol, or a file of CSV, JSON Lines or Parquet.
//!
//! Both sides are streams of rows in the order of their keys, merged as they come; a file is
//! sorted first. What must hold: memory is bounded whatever the tables' sizes; rows are compared
//! to the last bit; the sides are called equal only if both were read to their ends; a row that
//! was written while it was passed is looked at again, and reported only if it still differs.
//!
//! A file holds names and newest values, so these are compared; a JSON Lines file of rows with
//! versions, and two tables, are compared version by version. Text of a CSV has the type that is
//! stated or that the table has for its column, else the one it looks like; an empty text there
//! is no cell.

mod again;
mod difference;
mod error;
mod feed;
mod file;
mod hash;
mod json_versions;
mod report;
mod row;
mod run;
mod sort;
mod store;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use isthmus_model::clock::Clock;
use isthmus_model::ids::SchemaNumber;
use isthmus_model::schema::{KeyColumn, Schema, TableOptions};
use isthmus_model::value::Text;

pub use crate::compare::difference::{
    CellClass, CellDifference, RowClass, RowDifference, difference,
};
pub use crate::compare::error::CompareError;
use crate::compare::feed::Feed;
use crate::compare::file::{FileReading, look_at};
pub use crate::compare::hash::{Hash, HashKind, RowHasher, TableHasher, hash};
pub use crate::compare::report::{Report, SideReport, Verdict, key_json};
pub use crate::compare::row::{Cell, Row, Versions};
use crate::compare::store::StoreReading;
use crate::format::Format;
use crate::tablestore::{TableStore, Traffic};
use crate::types::Types;

/// One side of a comparison.
#[derive(Clone)]
pub enum Side {
    /// A table of a store.
    Store {
        /// The store. Two sides should not share one client: its traffic is counted.
        client: TableStore,
        /// The table.
        table: String,
    },
    /// A file.
    File {
        /// Where it is.
        path: PathBuf,
        /// Its format; told by its name where it is not stated.
        format: Option<Format>,
        /// Types of its columns. The table on the other side says the rest.
        types: Types,
    },
}

/// How to compare.
#[derive(Clone, Debug)]
pub struct CompareOptions {
    /// What to compare of each row: all versions if both sides have them, else newest values.
    pub versions: Option<Versions>,
    /// Key columns where no side is a table.
    pub key_columns: Option<Vec<KeyColumn>>,
    /// The hash function.
    pub hash: HashKind,
    /// Rows listed in the report; all are counted.
    pub rows_listed_max: usize,
    /// Bytes of memory that the listed rows take, about.
    pub listed_bytes_max: usize,
    /// Bytes of memory for sorting each file.
    pub sort_bytes_max: usize,
    /// Where sorting spills to; the system's directory for temporary files else.
    pub directory: Option<PathBuf>,
    /// How often rows that differ are looked at again.
    pub looks_again: u32,
    /// How long to wait before each such look.
    pub pause: Duration,
}

impl Default for CompareOptions {
    fn default() -> CompareOptions {
        CompareOptions {
            versions: None,
            key_columns: None,
            hash: HashKind::default(),
            rows_listed_max: 10_000,
            listed_bytes_max: 64 * 1024 * 1024,
            sort_bytes_max: 64 * 1024 * 1024,
            directory: None,
            looks_again: 3,
            pause: Duration::from_secs(1),
        }
    }
}

/// What a comparison is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Reading and sorting, before the first row is compared.
    Reading,
    /// Comparing.
    Comparing,
    /// Looking again at rows that differed.
    LookingAgain,
}

/// How far a comparison is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What it is at.
    pub phase: Phase,
    /// Keys that were compared.
    pub rows_done: u64,
    /// Rows read of the left side.
    pub left_rows: u64,
    /// Rows read of the right side.
    pub right_rows: u64,
    /// Rows that differ, or differed when they were passed.
    pub rows_differing: u64,
}

/// The hash of one side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableHash {
    /// The hash of the hashes of its rows.
    pub hash: Hash,
    /// Rows.
    pub rows: u64,
    /// What of the rows it is of.
    pub versions: Versions,
}

/// Compares two sides. Missing is what the right side lacks.
pub async fn compare(
    left: &Side,
    right: &Side,
    options: &CompareOptions,
    clock: &dyn Clock,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Report {
    let began = clock.monotonic();
    let mut report = Report::new(options.hash, left.name(), right.name());
    let before = [left.traffic(), right.traffic()];
    let ended = match prepare(&[left, right], options).await {
        Ok(prepared) => run::run(prepared, options, &mut report, progress).await,
        Err(error) => Err(error),
    };
    report.verdict = match ended {
        Ok(()) if report.rows_differing == 0 => Verdict::Equal,
        Ok(()) => Verdict::Different,
        Err(error) => Verdict::CouldNotTell { reason: error.words() },
    };
    left.count(before[0], &mut report.left);
    right.count(before[1], &mut report.right);
    report.elapsed = clock.monotonic().saturating_sub(began);
    report
}

/// The hash of one side by itself, to be compared with that of another export. The same options
/// give the same value for equal tables.
pub async fn hash_side(
    side: &Side,
    options: &CompareOptions,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<TableHash, CompareError> {
    let prepared = prepare(&[side], options).await?;
    run::hash(prepared, options, progress).await
}

impl Side {
    /// The side as a report names it.
    pub fn name(&self) -> String {
        match self {
            Side::Store { client, table } => format!("{table} at {}", client.endpoint()),
            Side::File { path, .. } => path.display().to_string(),
        }
    }

    fn traffic(&self) -> Traffic {
        match self {
            Side::Store { client, .. } => client.traffic(),
            Side::File { .. } => Traffic::default(),
        }
    }

    fn count(&self, before: Traffic, report: &mut SideReport) {
        if let Side::Store { client, .. } = self {
            let now = client.traffic();
            report.requests = now.requests - before.requests;
            report.bytes_read =
                (now.sent_bytes - before.sent_bytes) + (now.received_bytes - before.received_bytes);
        }
    }
}

/// A side that is ready to be read.
enum Reading {
    Store(StoreReading),
    File(Arc<FileReading>),
}

impl Reading {
    fn feed(&self, name: &str) -> Feed {
        match self {
            Reading::Store(reading) => reading.feed(name),
            Reading::File(reading) => {
                let reading = Arc::clone(reading);
                Feed::blocking(name, move |giver| reading.run(giver))
            }
        }
    }
}

/// Sides that are ready to be read, and what they have in common.
struct Prepared {
    sides: Vec<Reading>,
    key_columns: Vec<KeyColumn>,
    versions: Versions,
}

/// What was found out of a side before reading it.
enum Looked {
    Store(Box<Schema>),
    File(Format, bool),
}

/// Finds out what the sides are and whether they go together.
async fn prepare(sides: &[&Side], options: &CompareOptions) -> Result<Prepared, CompareError> {
    let mut looked = Vec::with_capacity(sides.len());
    for side in sides {
        looked.push(match side {
            Side::Store { client, table } => {
                let described = client.describe_table(table).await;
                let failed = |source| CompareError::Store {
                    endpoint: client.endpoint().to_owned(),
                    table: table.clone(),
                    source: Box::new(source),
                };
                Looked::Store(Box::new(described.map_err(failed)?.schema))
            }
            Side::File { path, format, .. } => {
                let (format, versioned) = look_at(path, *format)?;
                Looked::File(format, versioned)
            }
        });
    }
    let schema = common_schema(&looked, options)?;
    let versions = versions(sides, &looked, options)?;
    let key_columns = schema.key_columns.clone();
    let reading = |(side, looked): (&&Side, Looked)| match (side, looked) {
        (Side::Store { client, table }, _) => Some(Reading::Store(StoreReading {
            client: client.clone(),
            table: Text::from(table.as_str()),
            key_columns: key_columns.clone(),
            versions,
        })),
        (Side::File { path, types, .. }, Looked::File(format, versioned)) => {
            Some(Reading::File(Arc::new(FileReading {
                path: path.clone(),
                format,
                versioned,
                types: types.clone().with_schema(&schema),
                key_columns: key_columns.clone(),
                versions,
                sort_bytes_max: options.sort_bytes_max,
                directory: options.directory.clone(),
            })))
        }
        (Side::File { .. }, Looked::Store(_)) => None,
    };
    let sides = sides.iter().zip(looked).filter_map(reading).collect();
    Ok(Prepared { sides, key_columns, versions })
}

/// The schema that files are read by: that of the table, or the stated key.
fn common_schema(looked: &[Looked], options: &CompareOptions) -> Result<Schema, CompareError> {
    let unusable = |message: String| CompareError::Unusable { message };
    let mut common: Option<&Schema> = None;
    for side in looked {
        let Looked::Store(schema) = side else { continue };
        let plain = |schema: &Schema| -> Vec<_> {
            schema.key_columns.iter().map(|column| (column.name.clone(), column.kind)).collect()
        };
        match common {
            Some(other) if plain(other) != plain(schema) => {
                let (left, right) = (plain(other), plain(schema));
                let message = format!("the key columns differ: {left:?} and {right:?}");
                return Err(unusable(message));
            }
            Some(_) => {}
            None => common = Some(schema),
        }
    }
    match (common, &options.key_columns) {
        (Some(schema), _) => Ok(schema.clone()),
        (None, Some(key_columns)) if !key_columns.is_empty() => Ok(Schema {
            number: SchemaNumber(0),
            key_columns: key_columns.clone(),
            defined_columns: Vec::new(),
            options: TableOptions::default(),
        }),
        (None, _) => Err(unusable("no side is a table, so the key columns must be stated".into())),
    }
}

fn versions(
    sides: &[&Side],
    looked: &[Looked],
    options: &CompareOptions,
) -> Result<Versions, CompareError> {
    let without = sides.iter().zip(looked).find(|(_, looked)| match looked {
        Looked::Store(_) => false,
        Looked::File(_, versioned) => !versioned,
    });
    match (options.versions, without) {
        (Some(versions), Some((side, _))) if versions.with_timestamps() => {
            let name = side.name();
            let message = format!("{name}: holds no versions; compare the newest values instead");
            Err(CompareError::Unusable { message })
        }
        (Some(versions), _) => Ok(versions),
        (None, Some(_)) => Ok(Versions::Newest { timestamps: false }),
        (None, None) => Ok(Versions::All),
    }
}
