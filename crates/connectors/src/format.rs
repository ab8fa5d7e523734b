//! The formats of files that rows come from, known by their names.
//!
//! What must hold: a format that is not stated is told by the file's extension and never guessed
//! from its contents, so that a command means the same whatever a file holds.

use std::path::Path;

use crate::csv::Csv;
use crate::json_lines::JsonLines;
use crate::parquet::Parquet;
use crate::source::{Source, SourceError};
use crate::types::Types;

/// A format of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Comma-separated values; the first line names the columns.
    Csv,
    /// One JSON object per line.
    JsonLines,
    /// Apache Parquet.
    Parquet,
}

impl Format {
    /// The format that a file's name tells.
    pub fn of_path(path: &Path) -> Option<Format> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        match extension.as_str() {
            "csv" => Some(Format::Csv),
            "jsonl" | "ndjson" | "json" => Some(Format::JsonLines),
            "parquet" | "pq" => Some(Format::Parquet),
            _ => None,
        }
    }
}

/// Opens a file of this format.
pub fn open(path: &Path, format: Format, types: Types) -> Result<Box<dyn Source>, SourceError> {
    Ok(match format {
        Format::Csv => Box::new(Csv::open(path, types)?),
        Format::JsonLines => Box::new(JsonLines::open(path, types)?),
        Format::Parquet => Box::new(Parquet::open(path, types)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_by_extensions() {
        assert_eq!(Format::of_path(Path::new("a/b.CSV")), Some(Format::Csv));
        assert_eq!(Format::of_path(Path::new("b.ndjson")), Some(Format::JsonLines));
        assert_eq!(Format::of_path(Path::new("b.parquet")), Some(Format::Parquet));
        assert_eq!(Format::of_path(Path::new("b.txt")), None);
        assert_eq!(Format::of_path(Path::new("b")), None);
    }
}
