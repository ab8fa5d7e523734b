//! Why a request to a store failed, whether it took effect, and whether it is sent again.

use isthmus_model::error::{Kind, Outcome};
use isthmus_protocol::error::ProtocolError;

use crate::http::HttpError;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no answer.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The store refused or failed.
    #[error("{code}: {message} (request {request_id})")]
    Service {
        /// HTTP status.
        status: u16,
        /// Code, such as `OTSServerBusy`.
        code: String,
        /// Text for a person.
        message: String,
        /// The store's name for the request.
        request_id: String,
    },
    /// The answer cannot be trusted or read.
    #[error("{operation}: {message}")]
    Answer {
        /// The operation.
        operation: &'static str,
        /// What is wrong.
        message: String,
    },
    /// The request cannot be sent.
    #[error("request cannot be signed")]
    Request {
        /// Why.
        #[source]
        source: ProtocolError,
    },
}

/// Codes after which nothing was written and the same request may succeed later.
const RETRIED: [&str; 8] = [
    "OTSRowOperationConflict",
    "OTSNotEnoughCapacityUnit",
    "OTSTableNotReady",
    "OTSPartitionUnavailable",
    "OTSServerBusy",
    "OTSStorageServerBusy",
    "OTSOperationThrottled",
    "OTSOperationConflict",
];
/// The one text of this code that means "later".
const TOO_FREQUENT: (&str, &str) = ("OTSQuotaExhausted", "Too frequent table operations.");
/// Codes after which the request may have taken effect.
const UNKNOWN: [&str; 3] = ["OTSTimeout", "OTSInternalServerError", "OTSServerUnavailable"];

/// Whether a code says that the same row or request may succeed later. With `repeatable` also
/// where it may have taken effect.
pub fn is_retried(code: &str, message: &str, repeatable: bool) -> bool {
    RETRIED.contains(&code)
        || (code, message) == TOO_FREQUENT
        || (repeatable && UNKNOWN.contains(&code))
}

impl ClientError {
    /// The store's error code.
    pub fn code(&self) -> Option<&str> {
        match self {
            ClientError::Service { code, .. } => Some(code),
            ClientError::Http(_) | ClientError::Answer { .. } | ClientError::Request { .. } => None,
        }
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> Kind {
        match self {
            ClientError::Http(_) => Kind::Unavailable,
            ClientError::Answer { .. } => Kind::Corrupt,
            ClientError::Request { .. } => Kind::Invalid,
            ClientError::Service { status, code, message, .. } => match code.as_str() {
                "OTSObjectNotExist" => Kind::NotFound,
                "OTSObjectAlreadyExist" => Kind::Exists,
                "OTSConditionCheckFail" => Kind::ConditionFailed,
                "OTSRowOperationConflict" => Kind::Conflict,
                "OTSServerUnavailable" | "OTSTimeout" => Kind::Unavailable,
                "OTSInternalServerError" => Kind::Internal,
                code if is_retried(code, message, false) => Kind::Busy,
                _ if *status >= 500 => Kind::Unavailable,
                _ => Kind::Invalid,
            },
        }
    }

    /// Whether the request may have taken effect.
    pub fn outcome(&self) -> Outcome {
        match self {
            ClientError::Http(error) => error.outcome(),
            // Whoever answered, the request may have reached the store.
            ClientError::Answer { .. } => Outcome::Unknown,
            ClientError::Request { .. } => Outcome::NotApplied,
            ClientError::Service { status, code, message, .. } => {
                let refused = is_retried(code, message, false);
                if !refused && (UNKNOWN.contains(&code.as_str()) || *status >= 500) {
                    Outcome::Unknown
                } else {
                    Outcome::NotApplied
                }
            }
        }
    }

    /// Whether sending the request again is right and may help.
    pub(super) fn is_retried(&self, repeatable: bool, connecting: bool) -> bool {
        match self {
            ClientError::Http(HttpError::Connect { .. }) => connecting,
            ClientError::Http(HttpError::Broken { .. } | HttpError::Timeout { .. }) => repeatable,
            ClientError::Http(HttpError::Endpoint { .. } | HttpError::Header { .. }) => false,
            // A wrong signature or digest will not become right.
            ClientError::Answer { .. } | ClientError::Request { .. } => false,
            ClientError::Service { status, code, message, .. } => {
                is_retried(code, message, repeatable) || (repeatable && *status >= 500)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(status: u16, code: &str, message: &str) -> ClientError {
        let (code, message) = (code.to_owned(), message.to_owned());
        ClientError::Service { status, code, message, request_id: "id".into() }
    }

    #[test]
    fn what_may_have_taken_effect_is_repeated_only_where_that_is_harmless() {
        let timeout = service(503, "OTSTimeout", "Operation timeout.");
        assert_eq!(timeout.outcome(), Outcome::Unknown);
        assert!(!timeout.is_retried(false, false) && timeout.is_retried(true, false));
        let busy = service(503, "OTSServerBusy", "Server is busy.");
        assert_eq!(busy.outcome(), Outcome::NotApplied);
        assert!(busy.is_retried(false, false));
        let unknown = service(502, "Whatever", "");
        assert_eq!(unknown.outcome(), Outcome::Unknown);
        assert!(!unknown.is_retried(false, false));
    }

    #[test]
    fn only_the_frequency_quota_is_waited_for() {
        assert!(service(403, TOO_FREQUENT.0, TOO_FREQUENT.1).is_retried(false, false));
        let tables = service(403, TOO_FREQUENT.0, "Number of tables exceeds the quota:64.");
        assert!(!tables.is_retried(true, true));
        assert_eq!(tables.outcome(), Outcome::NotApplied);
    }
}
