//! What a comparison found.
//!
//! What must hold: the counts are exact whatever the bound of the list; nothing is called equal
//! unless both sides were read to their ends.

use std::time::Duration;

use isthmus_model::key::{KeyValue, PrimaryKey};
use isthmus_model::value::{Text, Value};
use serde_json::{Map, Value as Json, json};

use super::difference::{RowClass, RowDifference};
use super::hash::{Hash, HashKind};
use super::row::{Cell, Versions};
use crate::json_lines::json_of_value;

/// Whether the sides are alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// They are.
    Equal,
    /// They are not.
    Different,
    /// Not all could be read or looked at.
    CouldNotTell {
        /// Why.
        reason: String,
    },
}

/// One side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SideReport {
    /// The table and its endpoint, or the file.
    pub name: String,
    /// Rows read, those that were looked at again too.
    pub rows_read: u64,
    /// Bytes read from the file; bodies sent to and received from the store.
    pub bytes_read: u64,
    /// Requests to the store; 0 for a file.
    pub requests: u64,
    /// The hash of the rows as they were passed, if all were. Where rows were written at the same
    /// time, it is of no one moment.
    pub hash: Option<Hash>,
}

/// What was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The verdict.
    pub verdict: Verdict,
    /// What was compared of each row.
    pub versions: Versions,
    /// The hash function.
    pub hash: HashKind,
    /// Names of the key columns.
    pub key_columns: Vec<Text>,
    /// Rows that differ: the three below together.
    pub rows_differing: u64,
    /// Rows that the right side lacks.
    pub rows_missing: u64,
    /// Rows that only the right side has.
    pub rows_extra: u64,
    /// Rows of both sides with other cells.
    pub rows_different: u64,
    /// Rows that differed when they were passed and were alike when looked at again.
    pub rows_moved: u64,
    /// The first of the rows that differ, in the order of their keys.
    pub rows: Vec<RowDifference>,
    /// The left side.
    pub left: SideReport,
    /// The right side.
    pub right: SideReport,
    /// How long it took.
    pub elapsed: Duration,
}

impl Report {
    /// A report of which nothing is known yet.
    pub(super) fn new(hash: HashKind, left: String, right: String) -> Report {
        let side = |name| SideReport { name, ..SideReport::default() };
        Report {
            verdict: Verdict::CouldNotTell { reason: String::new() },
            versions: Versions::All,
            hash,
            key_columns: Vec::new(),
            rows_differing: 0,
            rows_missing: 0,
            rows_extra: 0,
            rows_different: 0,
            rows_moved: 0,
            rows: Vec::new(),
            left: side(left),
            right: side(right),
            elapsed: Duration::ZERO,
        }
    }

    /// Counts a row that differs.
    pub(super) fn count(&mut self, class: RowClass) {
        self.rows_differing += 1;
        match class {
            RowClass::Missing => self.rows_missing += 1,
            RowClass::Extra => self.rows_extra += 1,
            RowClass::Different => self.rows_different += 1,
        }
    }

    /// Whether there are more rows that differ than are listed.
    pub fn has_more(&self) -> bool {
        (self.rows.len() as u64) < self.rows_differing
    }

    /// The report as JSON.
    pub fn to_json(&self) -> Json {
        let (equal, verdict, reason) = match &self.verdict {
            Verdict::Equal => (Some(true), "equal", None),
            Verdict::Different => (Some(false), "different", None),
            Verdict::CouldNotTell { reason } => (None, "could not tell", Some(reason)),
        };
        let rows: Vec<Json> = self.rows.iter().map(|row| self.row_json(row)).collect();
        json!({
            "equal": equal,
            "verdict": verdict,
            "reason": reason,
            "versions": match self.versions {
                Versions::All => "all",
                Versions::Newest { timestamps: true } => "newest with timestamps",
                Versions::Newest { timestamps: false } => "newest",
            },
            "hash": self.hash.name(),
            "rows_differing": self.rows_differing,
            "rows_missing": self.rows_missing,
            "rows_extra": self.rows_extra,
            "rows_different": self.rows_different,
            "rows_moved": self.rows_moved,
            "rows_listed": self.rows.len(),
            "more": self.has_more(),
            "rows": rows,
            "rows_read": self.left.rows_read + self.right.rows_read,
            "bytes_exchanged": self.left.bytes_read + self.right.bytes_read,
            "round_trips": self.left.requests + self.right.requests,
            "left": side_json(&self.left),
            "right": side_json(&self.right),
            "elapsed_ms": u64::try_from(self.elapsed.as_millis()).unwrap_or(u64::MAX),
        })
    }

    fn row_json(&self, row: &RowDifference) -> Json {
        let cells: Vec<Json> = row
            .cells
            .iter()
            .map(|cell| {
                json!({
                    "name": cell.name.as_str(),
                    "class": cell.class.name(),
                    "left": cell.left.as_ref().map(cell_json),
                    "right": cell.right.as_ref().map(cell_json),
                })
            })
            .collect();
        let mut members = Map::new();
        members.insert("key".to_owned(), key_json(&self.key_columns, &row.key));
        members.insert("class".to_owned(), row.class.name().into());
        for (name, line) in [("left_line", row.left_line), ("right_line", row.right_line)] {
            if let Some(line) = line {
                members.insert(name.to_owned(), line.into());
            }
        }
        members.insert("cells".to_owned(), cells.into());
        Json::Object(members)
    }
}

fn side_json(side: &SideReport) -> Json {
    json!({
        "name": side.name,
        "rows_read": side.rows_read,
        "bytes_read": side.bytes_read,
        "requests": side.requests,
        "hash": side.hash.as_ref().map(Hash::to_string),
    })
}

fn cell_json(cell: &Cell) -> Json {
    let mut members = Map::new();
    members.insert("value".to_owned(), json_of_value(&cell.value));
    if let Some(timestamp) = cell.timestamp {
        members.insert("timestamp".to_owned(), timestamp.0.into());
    }
    Json::Object(members)
}

/// A key as JSON, by the names of its columns.
pub fn key_json(names: &[Text], key: &PrimaryKey) -> Json {
    let value = |value: &KeyValue| match value {
        KeyValue::Integer(number) => json_of_value(&Value::Integer(*number)),
        KeyValue::String(text) => json_of_value(&Value::String(text.clone())),
        KeyValue::Binary(bytes) => json_of_value(&Value::Binary(bytes.clone())),
    };
    let members = names.iter().zip(&key.0);
    Json::Object(members.map(|(name, part)| (name.as_str().to_owned(), value(part))).collect())
}
