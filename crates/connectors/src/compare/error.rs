//! Why two tables cannot be compared.

use std::path::PathBuf;

use isthmus_model::error::{Kind, Outcome};

use crate::source::SourceError;
use crate::tablestore::ClientError;

/// Why a side cannot be read, or what is wrong with it.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// A store refused or does not answer.
    #[error("table {table} at {endpoint}")]
    Store {
        /// The store.
        endpoint: String,
        /// The table.
        table: String,
        /// Why.
        #[source]
        source: Box<ClientError>,
    },
    /// A store gave rows that cannot be compared.
    #[error("table {table} at {endpoint}: {message}")]
    Answer {
        /// The store.
        endpoint: String,
        /// The table.
        table: String,
        /// What is wrong.
        message: String,
    },
    /// A file cannot be read or is not of its format.
    #[error("{}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: SourceError,
    },
    /// A row of a file does not fit the table.
    #[error("{}: line {line}: {message}", path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// The line, or the number of the row where there are no lines.
        line: u64,
        /// What is wrong.
        message: String,
    },
    /// A file names a key twice.
    #[error("{}: lines {first} and {second} have the same key {key}", path.display())]
    Duplicate {
        /// The file.
        path: PathBuf,
        /// The key, as JSON.
        key: String,
        /// The one line.
        first: u64,
        /// The other.
        second: u64,
    },
    /// The temporary files fail.
    #[error("temporary file for sorting")]
    Temporary {
        /// How.
        #[source]
        source: std::io::Error,
    },
    /// The two sides, or the options, do not go together.
    #[error("{message}")]
    Unusable {
        /// Why.
        message: String,
    },
    /// Reading ended without telling why.
    #[error("reading {side} stopped before its end")]
    Stopped {
        /// The side.
        side: String,
    },
}

impl CompareError {
    /// What kind of failure it is.
    pub fn kind(&self) -> Kind {
        match self {
            CompareError::Store { source, .. } => source.kind(),
            CompareError::Answer { .. } => Kind::Corrupt,
            CompareError::File { source, .. } => source.kind(),
            CompareError::Row { .. }
            | CompareError::Duplicate { .. }
            | CompareError::Unusable { .. } => Kind::Invalid,
            CompareError::Temporary { .. } => Kind::Unavailable,
            CompareError::Stopped { .. } => Kind::Internal,
        }
    }

    /// Comparing changes nothing.
    pub fn outcome(&self) -> Outcome {
        Outcome::NotApplied
    }

    /// It and its causes in one line.
    pub fn words(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text += &format!(": {error}");
            cause = error.source();
        }
        text
    }
}
