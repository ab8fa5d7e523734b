//! Why a comparison cannot go on.

use isthmus_model::error::{Kind, Outcome};

/// Why a question was not answered, or an answer could not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// What a side sent is damaged or breaks a bound.
    #[error("{0}")]
    Damaged(&'static str),
    /// The answer does not fit the question.
    #[error("side broke the protocol: {0}")]
    Protocol(&'static str),
    /// The side holds the question for wrong.
    #[error("side refused a question as wrong: {0}")]
    Refused(String),
    /// The session is not known, or ended because nobody asked anything for long.
    #[error("session of the comparison has ended")]
    NoSession,
    /// More is compared at once than is allowed.
    #[error("too many comparisons at once")]
    Busy,
    /// The side cannot be reached, or its answer did not come.
    #[error("side cannot be reached: {0}")]
    Unreachable(String),
    /// The side could not read its table.
    #[error("side cannot read its table: {0}")]
    Read(String),
}

impl VerifyError {
    /// The kind of failure.
    pub fn kind(&self) -> Kind {
        match self {
            VerifyError::Damaged(_) | VerifyError::Protocol(_) | VerifyError::Refused(_) => {
                Kind::Corrupt
            }
            VerifyError::NoSession => Kind::NotFound,
            VerifyError::Busy => Kind::Busy,
            VerifyError::Unreachable(_) => Kind::Unavailable,
            VerifyError::Read(_) => Kind::Internal,
        }
    }

    /// Comparing changes nothing.
    pub fn outcome(&self) -> Outcome {
        Outcome::NotApplied
    }
}
