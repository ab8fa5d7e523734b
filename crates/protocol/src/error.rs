//! Why bytes of the wire are refused.
//!
//! A refused request has changed nothing. Each reason knows its code and the text that clients
//! are shown: several of those texts are compared by official clients, so they are kept to the
//! letter. What a client sent is shown cut and with control characters escaped.

use isthmus_model::error::{Kind, Outcome};

use crate::error_code::ErrorCode;

/// Why bytes of the wire are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A header that must be there is not, or is empty.
    #[error("header {name} is missing")]
    HeaderMissing {
        /// Name, lower case.
        name: &'static str,
    },
    /// A header that may be there once is there twice.
    #[error("header {name} is there twice")]
    HeaderDoubled {
        /// Name, lower case.
        name: String,
    },
    /// A header's value is not what it must be.
    #[error("header {name} is malformed")]
    HeaderMalformed {
        /// Name, lower case.
        name: &'static str,
    },
    /// A date is not written as it must be.
    #[error("date {date} is malformed")]
    DateMalformed {
        /// What was sent.
        date: String,
    },
    /// A date lies too far from the server's clock.
    #[error("date {date} is too far from the clock")]
    DateSkewed {
        /// What was sent.
        date: String,
    },
    /// The day of a signing key lies too far from the server's clock.
    #[error("sign date {date} is too far from the clock")]
    SignDateSkewed {
        /// What was sent.
        date: String,
    },
    /// No such access key.
    #[error("access key does not exist")]
    AccessKeyUnknown,
    /// The signature is not the one that the secret makes.
    #[error("signature does not match")]
    SignatureMismatch,
    /// The token of temporary credentials is missing, wrong or not asked for.
    #[error("security token does not match")]
    TokenMismatch,
    /// The body is not the one whose MD5 was sent.
    #[error("body does not match its digest")]
    DigestMismatch,
    /// No such operation.
    #[error("operation {name} is not supported")]
    OperationUnsupported {
        /// What was asked for.
        name: String,
    },
    /// The body, once decompressed, is over the limit.
    #[error("body is too large")]
    BodyTooLarge,
    /// Bytes that are no message, row, filter, token or compressed stream.
    #[error("malformed bytes: {0}")]
    Malformed(&'static str),
    /// A request that can be read but is not allowed.
    #[error("request refused: {0}")]
    Invalid(String),
}

impl ProtocolError {
    /// Its code on the wire.
    pub fn code(&self) -> ErrorCode {
        match self {
            ProtocolError::HeaderMissing { .. }
            | ProtocolError::HeaderDoubled { .. }
            | ProtocolError::HeaderMalformed { .. }
            | ProtocolError::DateMalformed { .. }
            | ProtocolError::OperationUnsupported { .. }
            | ProtocolError::Malformed(_)
            | ProtocolError::Invalid(_) => ErrorCode::ParameterInvalid,
            ProtocolError::DateSkewed { .. }
            | ProtocolError::SignDateSkewed { .. }
            | ProtocolError::AccessKeyUnknown
            | ProtocolError::SignatureMismatch
            | ProtocolError::TokenMismatch
            | ProtocolError::DigestMismatch => ErrorCode::AuthFailed,
            ProtocolError::BodyTooLarge => ErrorCode::RequestBodyTooLarge,
        }
    }

    /// The text that clients are shown.
    pub fn message(&self) -> String {
        match self {
            ProtocolError::HeaderMissing { name } => format!("Missing header: '{name}'."),
            ProtocolError::HeaderDoubled { name } => {
                format!("Duplicated header: '{}'.", shown(name))
            }
            ProtocolError::HeaderMalformed { name } => format!("Invalid header: '{name}'."),
            ProtocolError::DateMalformed { date } => {
                format!("Invalid date format: {}.", shown(date))
            }
            ProtocolError::DateSkewed { date } => {
                format!("Mismatch between system time and x-ots-date: {}.", shown(date))
            }
            ProtocolError::SignDateSkewed { date } => {
                format!("Mismatch between system time and x-ots-signdate: {}.", shown(date))
            }
            ProtocolError::AccessKeyUnknown => "The AccessKeyID does not exist.".to_owned(),
            ProtocolError::SignatureMismatch => "Signature mismatch.".to_owned(),
            ProtocolError::TokenMismatch => "The security token is invalid.".to_owned(),
            ProtocolError::DigestMismatch => {
                "Mismatch between MD5 value of request body and x-ots-contentmd5 in header."
                    .to_owned()
            }
            ProtocolError::OperationUnsupported { name } => {
                format!("Unsupported operation: '{}'.", shown(name))
            }
            ProtocolError::BodyTooLarge => "The size of POST data is too large.".to_owned(),
            ProtocolError::Malformed(what) => format!("Invalid request body: {what}."),
            ProtocolError::Invalid(message) => message.clone(),
        }
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> Kind {
        Kind::Invalid
    }

    /// A refused request has changed nothing.
    pub fn outcome(&self) -> Outcome {
        Outcome::NotApplied
    }

    pub(crate) fn invalid(message: impl Into<String>) -> ProtocolError {
        ProtocolError::Invalid(message.into())
    }
}

/// What a client sent, as it may be shown: at most 256 characters, none of them a control
/// character.
pub(crate) fn shown(text: &str) -> String {
    text.chars().take(256).flat_map(escape).collect()
}

fn escape(c: char) -> impl Iterator<Item = char> {
    let (plain, escaped) =
        if c.is_control() { (None, Some(c.escape_default())) } else { (Some(c), None) };
    plain.into_iter().chain(escaped.into_iter().flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_text_is_cut_and_escaped() {
        assert_eq!(shown("a\r\n\u{1b}é"), "a\\r\\n\\u{1b}é");
        assert_eq!(shown(&"x".repeat(1_000)).len(), 256);
    }
}
