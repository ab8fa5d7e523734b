//! Why a measurement could not be made.

use isthmus_protocol::error::ProtocolError;
use isthmus_store::StoreError;
use isthmus_store::engine::EngineError;

/// Shorthand.
pub(crate) type Result<T> = std::result::Result<T, BenchError>;

/// Why a measurement could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    /// The system refused something.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The engine refused something.
    #[error("raw engine")]
    Engine(#[from] EngineError),
    /// The store refused something.
    #[error("store")]
    Store(#[from] StoreError),
    /// An answer is not what the protocol allows.
    #[error("an answer cannot be read")]
    Protocol(#[from] ProtocolError),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

impl BenchError {
    pub(crate) fn failed(text: impl Into<String>) -> BenchError {
        BenchError::Failed(text.into())
    }
}

/// Names what was tried when it fails.
pub(crate) trait Tried<T> {
    /// Adds what was tried.
    fn tried(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Tried<T> for std::io::Result<T> {
    fn tried(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| BenchError::Io { what: what(), source })
    }
}

impl<T> Tried<T> for rustix::io::Result<T> {
    fn tried(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| BenchError::Io { what: what(), source: source.into() })
    }
}
