//! What a region had written, or taken, that the next epoch does not go on from: its tail. It is
//! set aside row by row in a file before the replica is made like the others, and a person may
//! look at it and merge it.
//!
//! A file is JSON Lines: first what it is, then one line for each change of a row, in the order of
//! the log. It is complete and on disk before anything of it is taken away.

mod merge;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use isthmus_model::entry::{Entry, EntryBody, RowDelta};
use isthmus_model::ids::Lsn;
use isthmus_model::schema::Schema;
use isthmus_store::keys::log::decode_record;
use isthmus_store::{StoreError, Table};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::verify::json::{key_json, value_json};

/// The directory below that of all data.
const DIRECTORY: &str = "set-aside";
/// Bytes of the log that are read at once.
const SLICE_BYTES: usize = 1024 * 1024;

/// What a file of a tail begins with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TailHead {
    /// Name of the table.
    pub table: String,
    /// Its id.
    pub table_id: u64,
    /// The epoch that its log was in.
    pub epoch: u64,
    /// The epoch that did not go on from it.
    pub overtaken_by: u64,
    /// The last entry that both have.
    pub after: u64,
    /// The last entry that was set aside.
    pub through: u64,
    /// When it was set aside, milliseconds since the Unix epoch.
    pub set_aside_ms: i64,
    /// Entries that could not be set aside, because the log had been trimmed.
    pub lost_entries: u64,
}

/// A tail that is kept here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptTail {
    /// What it is.
    #[serde(flatten)]
    pub head: TailHead,
    /// Name of the file.
    pub file: String,
    /// Changes of rows in it.
    pub rows: u64,
}

/// Why a tail could not be set aside or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TailError {
    /// The log cannot be read.
    #[error("read the log")]
    Store(#[from] StoreError),
    /// The file cannot be written or read.
    #[error("{}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
}

fn at(path: &Path) -> impl Fn(std::io::Error) -> TailError + '_ {
    |source| TailError::File { path: path.to_owned(), source }
}

/// Where tails are kept.
#[derive(Clone)]
pub(super) struct Tails(PathBuf);

impl Tails {
    /// Below the directory of all data.
    pub(super) fn new(data: &Path) -> Tails {
        Tails(data.join(DIRECTORY))
    }

    /// Sets aside what a table's log holds after an entry. Blocks. Done twice it gives the same
    /// file. Returns how many changes of rows there are.
    pub(super) fn set_aside(
        &self,
        table: &Arc<Table>,
        after: Lsn,
        overtaken_by: u64,
        now_millis: i64,
    ) -> Result<KeptTail, TailError> {
        fs::create_dir_all(&self.0).map_err(at(&self.0))?;
        let (epoch, through) = (table.writer_word().epoch.0, table.durable_lsn());
        let start = table.log_start().max(after);
        let head = TailHead {
            table: table.name().as_str().to_owned(),
            table_id: table.id().0,
            epoch,
            overtaken_by,
            after: after.0,
            through: through.0,
            set_aside_ms: now_millis,
            lost_entries: start.0 - after.0,
        };
        let file = format!("{:016x}-{epoch}-{}-{}.jsonl", head.table_id, after.0, through.0);
        let path = self.0.join(&file);
        // It was finished before a crash; the log may have been trimmed since.
        if let Some(kept) = self.list()?.into_iter().find(|kept| kept.file == file) {
            return Ok(kept);
        }
        let unfinished = path.with_extension("unfinished");
        let rows = write(table, &head, start, &unfinished).inspect_err(|_| {
            // What is left of it takes room; it is written again.
            let _ = fs::remove_file(&unfinished);
        })?;
        fs::rename(&unfinished, &path).map_err(at(&path))?;
        let directory = File::open(&self.0).map_err(at(&self.0))?;
        directory.sync_all().map_err(at(&self.0))?;
        Ok(KeptTail { head, file, rows })
    }

    /// All tails that are kept here, by the names of their files. Blocks.
    pub(super) fn list(&self) -> Result<Vec<KeptTail>, TailError> {
        let entries = match fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(at(&self.0)(error)),
        };
        let mut kept = Vec::new();
        for entry in entries {
            let path = entry.map_err(at(&self.0))?.path();
            if path.extension().is_none_or(|extension| extension != "jsonl") {
                continue;
            }
            let mut lines = BufReader::new(File::open(&path).map_err(at(&path))?).lines();
            let first = lines.next().transpose().map_err(at(&path))?;
            let head = first.and_then(|line| serde_json::from_str::<TailHead>(&line).ok());
            let name = path.file_name().and_then(|name| name.to_str());
            let (Some(head), Some(file)) = (head, name) else { continue };
            kept.push(KeptTail { head, file: file.to_owned(), rows: lines.count() as u64 });
        }
        kept.sort_by(|a, b| a.file.cmp(&b.file));
        Ok(kept)
    }

    /// Forgets a tail. Gives whether there was one. Blocks.
    pub(super) fn remove(&self, file: &str) -> Result<bool, TailError> {
        if !self.list()?.iter().any(|kept| kept.file == file) {
            return Ok(false);
        }
        let path = self.0.join(file);
        fs::remove_file(&path).map_err(at(&path))?;
        Ok(true)
    }

    /// The changes of a tail, at most so many after the first `skip`. Blocks.
    pub(super) fn changes(
        &self,
        file: &str,
        skip: usize,
        limit: usize,
    ) -> Result<Option<Vec<Json>>, TailError> {
        if !self.list()?.iter().any(|kept| kept.file == file) {
            return Ok(None);
        }
        let path = self.0.join(file);
        let lines = BufReader::new(File::open(&path).map_err(at(&path))?).lines();
        let mut changes = Vec::new();
        for line in lines.skip(1 + skip).take(limit) {
            let line = line.map_err(at(&path))?;
            changes.extend(serde_json::from_str::<Json>(&line).ok());
        }
        Ok(Some(changes))
    }
}

fn write(table: &Table, head: &TailHead, start: Lsn, path: &Path) -> Result<u64, TailError> {
    let mut to = BufWriter::new(File::create(path).map_err(at(path))?);
    let mut line = |json: &Json| writeln!(to, "{json}").map_err(at(path));
    line(&json!(head))?;
    let (mut at_lsn, mut rows) = (start, 0);
    while at_lsn.0 < head.through {
        let slice = table.read_log(at_lsn, SLICE_BYTES)?;
        if slice.to <= at_lsn {
            break;
        }
        for record in &slice.records {
            let (_, entries) = decode_record(record)
                .map_err(|source| StoreError::Corrupt { what: "log record", source })?;
            let new = entries.iter().filter(|entry| entry.lsn > at_lsn);
            for entry in new {
                if let EntryBody::Schema(schema) = &entry.body {
                    line(&json!({
                        "lsn": entry.lsn.0,
                        "written_ms": entry.stamp.hlc.millis(),
                        "action": "schema",
                        "schema": schema.number.0,
                        "options": format!("{:?}", schema.options),
                    }))?;
                    rows += 1;
                }
                let EntryBody::Rows(deltas) = &entry.body else { continue };
                for delta in deltas {
                    line(&change_json(&table.schema(), entry, delta))?;
                    rows += 1;
                }
            }
        }
        at_lsn = slice.to;
    }
    let file = to.into_inner().map_err(|error| at(path)(error.into_error()))?;
    file.sync_all().map_err(at(path))?;
    Ok(rows)
}

/// One change of a row, for people and for merging it.
fn change_json(schema: &Schema, entry: &Entry, delta: &RowDelta) -> Json {
    let row = &delta.delta;
    let cells = row.columns.iter().flat_map(|column| {
        let name = column.name.as_str();
        column.cells.iter().map(move |cell| {
            json!({
                "column": name,
                "timestamp": cell.timestamp.0,
                "deleted": cell.value.is_none(),
                "value": cell.value.as_ref().map(value_json),
            })
        })
    });
    let deleted = row.columns.iter().filter(|column| column.tombstone.is_some());
    let deleted: Vec<&str> = deleted.map(|column| column.name.as_str()).collect();
    let action = match (row.tombstone, row.marker) {
        (Some(_), None) => "delete",
        (Some(_), Some(_)) => "put",
        (None, _) => "update",
    };
    json!({
        "lsn": entry.lsn.0,
        "written_ms": entry.stamp.hlc.millis(),
        "stamp": entry.stamp.hlc.0,
        "action": action,
        "key": key_json(schema, &delta.key),
        "deleted_columns": deleted,
        "cells": cells.collect::<Vec<_>>(),
    })
}
