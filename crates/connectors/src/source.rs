//! The door for what gives rows: a file, a table elsewhere.
//!
//! What must hold: rows come in the source's own order, each with its place, and a source opened
//! again and moved to a place gives exactly the rows that came after it. At most one row is held.

use std::io::ErrorKind;

use isthmus_model::error::{Kind, Outcome};
use isthmus_model::value::{Text, Value};

/// Bytes of one line or record at most.
pub const RECORD_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Bytes that can be read and moved in.
pub trait Input: std::io::Read + std::io::Seek + Send {}

impl<T: std::io::Read + std::io::Seek + Send> Input for T {}

/// A row as a source gives it. Absent cells are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceRow {
    /// The line it begins in, from 1; where there are no lines, the number of the row.
    pub line: u64,
    /// Its cells, key columns among them.
    pub cells: Vec<(Text, Value)>,
}

/// Where a source stands: after so many bytes, lines and rows.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct Place {
    /// Bytes read.
    pub bytes: u64,
    /// The next line, from 1; 0 before anything was read.
    pub line: u64,
    /// Rows given.
    pub rows: u64,
}

/// What gives rows.
pub trait Source: Send {
    /// The next row, or `None` at the end. After an error about one row the next call may go on
    /// with the row after it.
    fn next_row(&mut self) -> Result<Option<SourceRow>, SourceError>;

    /// The place after the row that was given last.
    fn place(&self) -> Place;

    /// Goes on at a place that this source told before.
    fn move_to(&mut self, place: Place) -> Result<(), SourceError>;
}

/// Why a source cannot give a row. Line 0 is no line: the message itself tells the place.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The bytes cannot be read.
    #[error("{}cannot be read", at(*line))]
    Read {
        /// The line.
        line: u64,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// A line is over the limit; most often a quote that is never closed.
    #[error("{}is longer than {RECORD_BYTES_MAX} bytes", at(*line))]
    TooLong {
        /// The line it begins in.
        line: u64,
    },
    /// The line is not of the format.
    #[error("{}{message}", at(*line))]
    Malformed {
        /// The line.
        line: u64,
        /// What is wrong.
        message: String,
    },
    /// A cell is not of its type.
    #[error("line {line}, column {column}: {message}")]
    Cell {
        /// The line.
        line: u64,
        /// The column.
        column: String,
        /// What is wrong.
        message: String,
    },
}

fn at(line: u64) -> String {
    if line == 0 { String::new() } else { format!("line {line}: ") }
}

impl SourceError {
    /// What kind of failure it is.
    pub fn kind(&self) -> Kind {
        match self {
            SourceError::Read { source, .. } if source.kind() == ErrorKind::InvalidData => {
                Kind::Corrupt
            }
            SourceError::Read { .. } => Kind::Unavailable,
            SourceError::TooLong { .. }
            | SourceError::Malformed { .. }
            | SourceError::Cell { .. } => Kind::Invalid,
        }
    }

    /// Reading changes nothing.
    pub fn outcome(&self) -> Outcome {
        Outcome::NotApplied
    }
}
