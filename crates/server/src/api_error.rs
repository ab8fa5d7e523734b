//! From the product's errors to the codes of the public API: the one table.
//!
//! A definite error means that nothing happened and nothing will. What may have happened is told
//! with `OTSTimeout`, which official clients do not take as a refusal of a write.

use isthmus_control::distribution::DistributionError;
use isthmus_control::global_table::ControlError;
use isthmus_model::check::{CheckCode, CheckError};
use isthmus_model::error::{Kind, Outcome};
use isthmus_protocol::error::ProtocolError;
use isthmus_protocol::error_code::ErrorCode;
use isthmus_store::StoreError;

const GIVEN_UP: &str = "Another row of the batch was refused.";

/// An answer that is no success, in the words of the public API.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", code.as_str())]
pub struct ApiError {
    /// Code.
    pub code: ErrorCode,
    /// Message for a person.
    pub message: String,
    /// Nothing was done, because another region writes the table or is about to.
    pub is_elsewhere: bool,
}

impl ApiError {
    /// An error with this code and message.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> ApiError {
        ApiError { code, message: message.into(), is_elsewhere: false }
    }

    /// The request is wrong.
    pub fn invalid(message: impl Into<String>) -> ApiError {
        ApiError::new(ErrorCode::ParameterInvalid, message)
    }

    /// Another region writes the table, or is about to. Official clients try again by themselves.
    pub fn elsewhere() -> ApiError {
        let message = "The writing region of the table is changing. Nothing was done.";
        ApiError { is_elsewhere: true, ..ApiError::new(ErrorCode::PartitionUnavailable, message) }
    }

    /// Another row of the same batch was refused.
    pub fn given_up() -> ApiError {
        ApiError::new(ErrorCode::ConditionCheckFail, GIVEN_UP)
    }

    /// Whether another row is the reason.
    pub fn is_given_up(&self) -> bool {
        self.message == GIVEN_UP
    }

    /// Something here is broken.
    pub fn internal() -> ApiError {
        ApiError::new(ErrorCode::InternalServerError, "Internal server error.")
    }

    /// The table is not there.
    pub fn no_table() -> ApiError {
        ApiError::new(ErrorCode::ObjectNotExist, "Requested table does not exist.")
    }

    /// A table of that name is there.
    pub fn table_exists() -> ApiError {
        ApiError::new(ErrorCode::ObjectAlreadyExist, "Requested table already exists.")
    }
}

impl From<ProtocolError> for ApiError {
    fn from(error: ProtocolError) -> ApiError {
        ApiError::new(error.code(), error.message())
    }
}

impl From<CheckError> for ApiError {
    fn from(error: CheckError) -> ApiError {
        let code = match error.code() {
            CheckCode::ParameterInvalid => ErrorCode::ParameterInvalid,
            CheckCode::InvalidPk => ErrorCode::InvalidPk,
            CheckCode::OutOfColumnCount => ErrorCode::OutOfColumnCountLimit,
            CheckCode::OutOfRowSize => ErrorCode::OutOfRowSizeLimit,
            CheckCode::DataOutOfRange => ErrorCode::DataOutOfRange,
        };
        ApiError::new(code, error.to_string())
    }
}

impl From<ControlError> for ApiError {
    fn from(error: ControlError) -> ApiError {
        let code = match error.kind() {
            Kind::Exists => ErrorCode::ObjectAlreadyExist,
            Kind::NotFound => ErrorCode::ObjectNotExist,
            Kind::Invalid
            | Kind::ConditionFailed
            | Kind::Conflict
            | Kind::Busy
            | Kind::Unavailable
            | Kind::Fenced
            | Kind::Corrupt
            | Kind::Internal => ErrorCode::ParameterInvalid,
        };
        ApiError::new(code, sentence(&error.to_string()))
    }
}

impl From<DistributionError> for ApiError {
    fn from(error: DistributionError) -> ApiError {
        ApiError::invalid(sentence(&error.to_string()))
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> ApiError {
        if error.outcome() == Outcome::Unknown {
            return ApiError::new(
                ErrorCode::Timeout,
                "Operation timeout. Whether it took effect is not known.",
            );
        }
        if let StoreError::CutGone { .. } = error {
            return ApiError::invalid(format!(
                "{} Begin anew as of 'safe'; storage.past_bytes says how much is kept.",
                sentence(&error.to_string())
            ));
        }
        if matches!(error, StoreError::NotWritable { .. }) {
            return ApiError::elsewhere();
        }
        let (code, message) = match error.kind() {
            Kind::ConditionFailed => {
                (ErrorCode::ConditionCheckFail, "Condition check failed.".to_owned())
            }
            Kind::Invalid => (ErrorCode::ParameterInvalid, sentence(&error.to_string())),
            Kind::NotFound => return ApiError::no_table(),
            Kind::Exists => return ApiError::table_exists(),
            Kind::Conflict => (
                ErrorCode::RowOperationConflict,
                "Data is being modified by the other request.".to_owned(),
            ),
            Kind::Busy => (ErrorCode::ServerBusy, "Server is busy.".to_owned()),
            Kind::Unavailable => (
                ErrorCode::ServerUnavailable,
                format!("Server is not available. {}", sentence(&error.to_string())),
            ),
            Kind::Fenced => (ErrorCode::NoPermissionAccess, sentence(&error.to_string())),
            Kind::Corrupt | Kind::Internal => {
                tracing::error!(%error, "request failed");
                (ErrorCode::InternalServerError, "Internal server error.".to_owned())
            }
        };
        ApiError::new(code, message)
    }
}

/// A message of ours as the public API writes its own: a capital first, a full stop last.
pub fn sentence(message: &str) -> String {
    let mut chars = message.chars();
    let first: String = chars.next().map(|c| c.to_uppercase().collect()).unwrap_or_default();
    let rest = chars.as_str();
    let stop = if rest.ends_with('.') { "" } else { "." };
    format!("{first}{rest}{stop}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_have_a_capital_and_a_stop() {
        assert_eq!(sentence("disk is full"), "Disk is full.");
        assert_eq!(sentence(""), ".");
    }
}
