//! Rows from Parquet: each top-level column is a cell, a null is an absent one.
//!
//! What must hold: booleans, integers and doubles stay what they are, single floats become
//! doubles; text is a string, other bytes are binary; dates, times and timestamps become the
//! integer that the file holds, in its own unit (days, milliseconds, microseconds, nanoseconds;
//! the old 96-bit timestamps in nanoseconds since the Unix epoch). What a cell cannot hold
//! exactly (lists, groups, decimals, half floats, large unsigned integers) is refused. A few pages
//! of each column are held. The file is not trusted: its lengths are checked before memory is
//! taken, and errors name the row group and the row. Rows are numbered from 1.

mod column;
mod input;
#[cfg(test)]
mod tests;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use isthmus_model::value::{Text, Value};
use parquet::errors::ParquetError;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};

use crate::parquet::column::{Chunk, Column, columns};
use crate::parquet::input::SharedInput;
use crate::source::{Input, Place, Source, SourceError, SourceRow};
use crate::types::Types;

/// Rows decoded at once at most.
const BATCH_ROWS_MAX: u64 = 1024;
/// Bytes of the rows decoded at once, as far as the file tells them truly.
const BATCH_BYTES_AIM: u64 = 8 * 1024 * 1024;

/// Rows of a Parquet file.
pub struct Parquet {
    file: SerializedFileReader<SharedInput>,
    columns: Vec<Column>,
    /// The row group being read.
    group: Option<Group>,
    /// The row group to open next.
    next_group: usize,
    /// Bytes of the row groups before the one being read.
    bytes_before: u64,
    rows: u64,
}

/// A row group being read.
struct Group {
    number: usize,
    chunks: Vec<Chunk>,
    rows: u64,
    bytes: u64,
    /// Rows of it that were given or skipped.
    given: u64,
    /// Rows that are decoded and not given.
    decoded: u64,
    batch_rows: u64,
    /// What is broken in it: the rows after that place mean nothing and are never given.
    damage: Option<String>,
}

impl Parquet {
    /// Opens a file and reads its footer.
    pub fn open(path: &Path, types: Types) -> Result<Parquet, SourceError> {
        let file =
            std::fs::File::open(path).map_err(|source| SourceError::Read { line: 0, source })?;
        Parquet::new(Box::new(file), types)
    }

    /// Reads the footer of Parquet bytes.
    pub fn new(input: Box<dyn Input>, types: Types) -> Result<Parquet, SourceError> {
        let input =
            SharedInput::new(input).map_err(|source| SourceError::Read { line: 0, source })?;
        let file = guarded(|| SerializedFileReader::new(input))
            .map_err(|error| malformed(format!("is not Parquet: {}", words(&error))))?;
        let columns = columns(file.metadata().file_metadata().schema_descr(), &types)?;
        for (number, group) in file.metadata().row_groups().iter().enumerate() {
            let placed = |column: &ColumnChunkMetaData| {
                let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
                start >= 0 && column.data_page_offset() >= 0 && column.compressed_size() >= 0
            };
            let whole = group.num_columns() == columns.len() && group.num_rows() >= 0;
            if !whole || !group.columns().iter().all(placed) {
                let message = format!("row group {number}: is not described as the file is");
                return Err(malformed(message));
            }
        }
        Ok(Parquet { file, columns, group: None, next_group: 0, bytes_before: 0, rows: 0 })
    }

    /// The names of the columns.
    pub fn columns(&self) -> impl Iterator<Item = &Text> {
        self.columns.iter().map(|column| &column.name)
    }

    /// Opens the next row group; false at the end.
    fn open_group(&mut self) -> Result<bool, SourceError> {
        if let Some(done) = self.group.take() {
            self.bytes_before += done.bytes;
        }
        let number = self.next_group;
        if number >= self.file.num_row_groups() {
            return Ok(false);
        }
        let broken =
            |error: ParquetError| damaged(format!("row group {number}: {}", words(&error)));
        let reader = self.file.get_row_group(number).map_err(broken)?;
        let metadata = reader.metadata();
        let rows = metadata.num_rows().unsigned_abs();
        let memory = metadata.total_byte_size().max(1).unsigned_abs();
        let bytes = metadata.compressed_size().max(0).unsigned_abs();
        let mut chunks = Vec::with_capacity(self.columns.len());
        for place in 0..self.columns.len() {
            let opened = guarded(|| reader.get_column_reader(place)).map_err(broken)?;
            chunks.push(Chunk::new(opened));
        }
        let row_bytes = (memory / rows.max(1)).max(1);
        let batch_rows = (BATCH_BYTES_AIM / row_bytes).clamp(1, BATCH_ROWS_MAX);
        self.next_group += 1;
        self.group = Some(Group {
            number,
            chunks,
            rows,
            bytes,
            given: 0,
            decoded: 0,
            batch_rows,
            damage: None,
        });
        Ok(true)
    }

    /// Passes over rows without decoding more than must be.
    fn skip(&mut self, mut rows: u64) -> Result<(), SourceError> {
        while rows > 0 {
            if !self.open_group()? {
                return Err(malformed("has fewer rows than were read before".to_owned()));
            }
            let Some(group) = &mut self.group else { continue };
            let here = rows.min(group.rows);
            if here < group.rows {
                for (chunk, column) in group.chunks.iter_mut().zip(&self.columns) {
                    if let Err(error) = guarded(|| chunk.skip(here as usize)) {
                        let damage = place_of(group.number, 0, column, &words(&error));
                        group.damage = Some(damage.clone());
                        return Err(damaged(damage));
                    }
                }
            }
            group.given = here;
            rows -= here;
        }
        Ok(())
    }
}

impl Group {
    /// Decodes the next rows of all columns, where none are left; false at the group's end.
    fn fill(&mut self, columns: &[Column]) -> Result<bool, SourceError> {
        if let Some(damage) = &self.damage {
            return Err(damaged(damage.clone()));
        }
        if self.decoded > 0 {
            return Ok(true);
        }
        let want = (self.rows - self.given).min(self.batch_rows);
        for (chunk, column) in self.chunks.iter_mut().zip(columns) {
            let read = guarded(|| chunk.fill(want as usize)).and_then(|read| {
                let few = || ParquetError::General("the column has too few values".to_owned());
                if read as u64 == want { Ok(()) } else { Err(few()) }
            });
            if let Err(error) = read {
                let damage = place_of(self.number, 0, column, &words(&error));
                self.damage = Some(damage.clone());
                return Err(damaged(damage));
            }
        }
        self.decoded = want;
        Ok(want > 0)
    }
}

impl Source for Parquet {
    fn next_row(&mut self) -> Result<Option<SourceRow>, SourceError> {
        loop {
            if let Some(group) = &mut self.group
                && group.fill(&self.columns)?
            {
                break;
            }
            if !self.open_group()? {
                return Ok(None);
            }
        }
        let Some(group) = &mut self.group else { return Ok(None) };
        group.given += 1;
        group.decoded -= 1;
        self.rows += 1;
        let mut cells = Vec::<(Text, Value)>::with_capacity(self.columns.len());
        let mut wrong = None;
        // Every column moves on by one value, also in a row that is refused.
        for (chunk, column) in group.chunks.iter_mut().zip(&self.columns) {
            match chunk.next_value(column) {
                Ok(Some(value)) => cells.push((column.name.clone(), value)),
                Ok(None) => {}
                Err(message) => {
                    wrong.get_or_insert_with(|| {
                        malformed(place_of(group.number, self.rows, column, &message))
                    });
                }
            }
        }
        match wrong {
            Some(error) => Err(error),
            None => Ok(Some(SourceRow { line: self.rows, cells })),
        }
    }

    fn place(&self) -> Place {
        let share = |group: &Group| {
            let bytes = u128::from(group.bytes) * u128::from(group.given);
            u64::try_from(bytes / u128::from(group.rows.max(1))).unwrap_or(group.bytes)
        };
        let bytes = self.bytes_before + self.group.as_ref().map_or(0, share);
        Place { bytes, line: self.rows + 1, rows: self.rows }
    }

    fn move_to(&mut self, place: Place) -> Result<(), SourceError> {
        (self.group, self.next_group, self.bytes_before, self.rows) = (None, 0, 0, place.rows);
        self.skip(place.rows)
    }
}

/// The library takes some lengths in a file for granted and panics where they are wrong. To the
/// caller that is a damaged file; whatever was being read is not used again.
fn guarded<T>(read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    let damaged = || ParquetError::General("the file is damaged".to_owned());
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| Err(damaged()))
}

/// An error that tells its place itself: the file has no lines.
fn malformed(message: String) -> SourceError {
    SourceError::Malformed { line: 0, message }
}

/// An error after which no row can be given any more.
fn damaged(message: String) -> SourceError {
    let source = std::io::Error::new(std::io::ErrorKind::InvalidData, message);
    SourceError::Read { line: 0, source }
}

fn place_of(group: usize, row: u64, column: &Column, message: &str) -> String {
    let row = if row == 0 { String::new() } else { format!(", row {row}") };
    format!("row group {group}{row}, column {}: {message}", column.name)
}

/// The library's words without its own prefixes.
fn words(error: &ParquetError) -> String {
    match error {
        ParquetError::General(text) | ParquetError::NYI(text) | ParquetError::EOF(text) => {
            text.clone()
        }
        other => other.to_string(),
    }
}
