//! The error codes of the wire, each with its HTTP status.
//!
//! Which of the product's errors gets which code is decided where requests are served; here is
//! only what the codes are called and how an error is written into a body.

use bytes::Bytes;
use prost::Message;

use crate::messages;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:literal;)*) => {
        /// An error code of the public interface.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $($(#[$doc])* $name,)*
        }

        impl ErrorCode {
            /// Every code.
            pub const ALL: &[ErrorCode] = &[$(ErrorCode::$name,)*];

            /// The code as it is written into bodies.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(ErrorCode::$name => $text,)*
                }
            }

            /// The HTTP status that it goes with.
            pub fn http_status(self) -> u16 {
                match self {
                    $(ErrorCode::$name => $status,)*
                }
            }
        }
    };
}

codes! {
    /// Who asks is not who it says, or asks at the wrong time.
    AuthFailed = "OTSAuthFailed", 403;
    /// Who asks may not do this.
    NoPermissionAccess = "OTSNoPermissionAccess", 403;
    /// Only POST is answered.
    MethodNotAllowed = "OTSMethodNotAllowed", 405;
    /// The request did not arrive whole in time.
    RequestTimeout = "OTSRequestTimeout", 408;
    /// The body is over the limit.
    RequestBodyTooLarge = "OTSRequestBodyTooLarge", 413;
    /// The request is wrong.
    ParameterInvalid = "OTSParameterInvalid", 400;
    /// What it names does not exist.
    ObjectNotExist = "OTSObjectNotExist", 404;
    /// What it would make exists.
    ObjectAlreadyExist = "OTSObjectAlreadyExist", 409;
    /// Its condition is not met.
    ConditionCheckFail = "OTSConditionCheckFail", 403;
    /// Another write of the row is in the way.
    RowOperationConflict = "OTSRowOperationConflict", 409;
    /// The primary key does not fit the table.
    InvalidPk = "OTSInvalidPK", 400;
    /// Too many columns in one row.
    OutOfColumnCountLimit = "OTSOutOfColumnCountLimit", 400;
    /// Too many bytes in one row.
    OutOfRowSizeLimit = "OTSOutOfRowSizeLimit", 400;
    /// A quota is used up.
    QuotaExhausted = "OTSQuotaExhausted", 403;
    /// Throughput was changed too often.
    TooFrequentReservedThroughputAdjustment =
        "OTSTooFrequentReservedThroughputAdjustment", 403;
    /// The reserved throughput is used up.
    NotEnoughCapacityUnit = "OTSNotEnoughCapacityUnit", 403;
    /// The table is being made.
    TableNotReady = "OTSTableNotReady", 404;
    /// The partition is not served here now.
    PartitionUnavailable = "OTSPartitionUnavailable", 503;
    /// Too much at once.
    ServerBusy = "OTSServerBusy", 503;
    /// Not reachable now.
    ServerUnavailable = "OTSServerUnavailable", 503;
    /// No answer in time; whether it took effect is not known.
    Timeout = "OTSTimeout", 503;
    /// A bug.
    InternalServerError = "OTSInternalServerError", 500;
    /// A row lies outside of the scope of an atomic batch.
    DataOutOfRange = "OTSDataOutOfRange", 400;
    /// A transaction or session does not exist or has timed out.
    SessionNotExist = "OTSSessionNotExist", 400;
    /// A session is over.
    SessionExpired = "OTSSessionExpired", 400;
    /// An index does not exist.
    MetaNotMatch = "OTSMetaNotMatch", 400;
    /// The store below has too much to do.
    StorageServerBusy = "OTSStorageServerBusy", 503;
    /// Slowed down on purpose.
    OperationThrottled = "OTSOperationThrottled", 403;
    /// Another operation on the same object is in the way.
    OperationConflict = "OTSOperationConflict", 409;
}

impl ErrorCode {
    /// The code of that name.
    pub fn from_name(name: &str) -> Option<ErrorCode> {
        ErrorCode::ALL.iter().copied().find(|code| code.as_str() == name)
    }
}

/// The body of an answer that is no success.
pub fn encode_error(code: ErrorCode, message: &str) -> Bytes {
    error_message(code, message).encode_to_vec().into()
}

pub(crate) fn error_message(code: ErrorCode, message: &str) -> messages::Error {
    messages::Error {
        code: Some(Bytes::from_static(code.as_str().as_bytes())),
        message: Some(Bytes::copy_from_slice(message.as_bytes())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_found_by_its_name() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_name(code.as_str()), Some(*code));
            assert!((400..600).contains(&code.http_status()));
        }
        assert_eq!(ErrorCode::from_name("OTSNothing"), None);
    }

    #[test]
    fn error_body_holds_code_and_message() {
        let body = encode_error(ErrorCode::ServerBusy, "Server is busy.");
        assert_eq!(&body[..], b"\x0a\x0dOTSServerBusy\x12\x0fServer is busy.");
    }
}
