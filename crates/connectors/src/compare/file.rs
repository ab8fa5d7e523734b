//! A file as one side of a comparison: its rows, sorted by key.
//!
//! What must hold: key columns are found by their names and have their types; every row of the
//! file is given once or the error is; memory is that of the sorting, whatever the file's size.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use isthmus_model::key::{EncodedKey, KeyValue, PrimaryKey};
use isthmus_model::schema::KeyColumn;
use isthmus_model::value::{Text, Value};

use super::error::CompareError;
use super::feed::Giver;
use super::json_versions::{JsonVersions, VersionedRow};
use super::report::key_json;
use super::row::{Cell, Row, Versions};
use super::sort::{Record, SortError, Sorter};
use crate::format::{self, Format};
use crate::source::{Source, SourceError};
use crate::types::{Types, kind_of_key, name_of};

/// Rows given at once at most.
const BATCH_ROWS_MAX: usize = 500;
/// Bytes of the rows given at once, but for the last of them.
const BATCH_BYTES_MAX: usize = 1024 * 1024;

/// What is needed to read a file.
pub(super) struct FileReading {
    pub(super) path: PathBuf,
    pub(super) format: Format,
    /// Whether it is of the form with versions.
    pub(super) versioned: bool,
    pub(super) types: Types,
    pub(super) key_columns: Vec<KeyColumn>,
    pub(super) versions: Versions,
    pub(super) sort_bytes_max: usize,
    pub(super) directory: Option<PathBuf>,
}

/// The format of a file, and whether it has versions.
pub(super) fn look_at(path: &Path, format: Option<Format>) -> Result<(Format, bool), CompareError> {
    let unknown = || CompareError::Unusable {
        message: format!("{}: format not known; formats are csv, jsonl, parquet", path.display()),
    };
    let format = format.or_else(|| Format::of_path(path)).ok_or_else(unknown)?;
    let versioned = match format {
        Format::JsonLines => JsonVersions::is_form_of(path)
            .map_err(|source| CompareError::File { path: path.to_owned(), source })?,
        Format::Csv | Format::Parquet => false,
    };
    Ok((format, versioned))
}

/// Rows of either form.
enum Rows {
    Plain(Box<dyn Source>),
    Versioned(JsonVersions),
}

impl Rows {
    fn next_row(&mut self) -> Result<Option<VersionedRow>, SourceError> {
        match self {
            Rows::Versioned(rows) => rows.next_row(),
            Rows::Plain(rows) => Ok(rows.next_row()?.map(|row| VersionedRow {
                line: row.line,
                key: row.cells,
                cells: Vec::new(),
            })),
        }
    }

    fn bytes(&self) -> u64 {
        match self {
            Rows::Plain(rows) => rows.place().bytes,
            Rows::Versioned(rows) => rows.place().bytes,
        }
    }
}

impl FileReading {
    /// Reads the whole file, sorts it and gives its rows. Blocks.
    pub(super) fn run(&self, giver: &Giver) -> Result<(), CompareError> {
        let mut rows = self.open().map_err(|source| self.file(source))?;
        let mut sorter = Sorter::new(self.directory.clone(), self.sort_bytes_max);
        let mut body = Vec::new();
        while let Some(row) = rows.next_row().map_err(|source| self.file(source))? {
            let row = self.row(row)?;
            body.clear();
            row.put_body(self.versions, &mut body);
            sorter.push(&row.encoded.0, row.line, &body).map_err(|error| self.sorting(error))?;
            giver.counts.read(rows.bytes());
            if giver.is_closed() {
                return Ok(());
            }
        }
        let mut sorted = sorter.finish().map_err(|error| self.sorting(error))?;
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some(record) = sorted.next_record().map_err(|error| self.sorting(error))? {
            let row = self.of_record(record)?;
            bytes += row.size();
            batch.push(row);
            if batch.len() >= BATCH_ROWS_MAX || bytes >= BATCH_BYTES_MAX {
                bytes = 0;
                if !giver.give_blocking(std::mem::take(&mut batch)) {
                    return Ok(());
                }
            }
        }
        giver.give_blocking(batch);
        Ok(())
    }

    fn open(&self) -> Result<Rows, SourceError> {
        let types = self.types.clone();
        if self.versioned {
            return JsonVersions::open(&self.path, types).map(Rows::Versioned);
        }
        format::open(&self.path, self.format, types).map(Rows::Plain)
    }

    /// Takes the key columns out; in the plain form the cells are among them.
    fn row(&self, row: VersionedRow) -> Result<Row, CompareError> {
        let VersionedRow { line, key: mut given, mut cells } = row;
        let mut key = Vec::with_capacity(self.key_columns.len());
        for column in &self.key_columns {
            let at = given.iter().position(|(name, _)| *name == column.name);
            let value = at.map(|at| given.swap_remove(at).1);
            let missing = || format!("key column {} has no value", column.name);
            let value = value.ok_or_else(missing).and_then(|value| key_value(column, value));
            key.push(value.map_err(|message| self.wrong(line, message))?);
        }
        if self.versioned {
            if let Some((name, _)) = given.first() {
                return Err(self.wrong(line, format!("{name} is no key column")));
            }
        } else {
            cells = given.into_iter().map(|(name, value)| plain(name, value)).collect();
        }
        Ok(Row::new(PrimaryKey(key), line, cells, self.versions))
    }

    fn of_record(&self, record: Record) -> Result<Row, CompareError> {
        let Record { key, line, body } = record;
        Row::of_body(key, body, self.versions)
            .map_err(|_| self.wrong(line, "the temporary file for sorting is damaged".to_owned()))
    }

    fn wrong(&self, line: u64, message: String) -> CompareError {
        CompareError::Row { path: self.path.clone(), line, message }
    }

    fn file(&self, source: SourceError) -> CompareError {
        CompareError::File { path: self.path.clone(), source }
    }

    fn sorting(&self, error: SortError) -> CompareError {
        match error {
            SortError::Io(source) => CompareError::Temporary { source },
            SortError::Duplicate { key, first, second } => {
                let path = self.path.clone();
                CompareError::Duplicate { path, key: self.shown_key(key), first, second }
            }
        }
    }

    fn shown_key(&self, key: Bytes) -> String {
        let names: Vec<Text> = self.key_columns.iter().map(|column| column.name.clone()).collect();
        match PrimaryKey::decode(&EncodedKey(key)) {
            Ok(key) => key_json(&names, &key).to_string(),
            Err(_) => String::new(),
        }
    }
}

fn plain(name: Text, value: Value) -> Cell {
    Cell { name, timestamp: None, value }
}

fn key_value(column: &KeyColumn, value: Value) -> Result<KeyValue, String> {
    let (found, wanted) = (value.kind(), kind_of_key(column.kind));
    match value {
        Value::Integer(number) if found == wanted => Ok(KeyValue::Integer(number)),
        Value::String(text) if found == wanted => Ok(KeyValue::String(text)),
        Value::Binary(bytes) if found == wanted => Ok(KeyValue::Binary(bytes)),
        _ => Err(format!(
            "key column {} is of type {}, not {}",
            column.name,
            name_of(found),
            name_of(wanted)
        )),
    }
}
