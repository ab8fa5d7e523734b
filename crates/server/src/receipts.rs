//! Receipts that a request asks for or brings, by headers.

use hyper::HeaderMap;
use isthmus_protocol::receipt::Receipt;
use isthmus_protocol::request::Operation;

use crate::api_error::ApiError;

/// Of a write: `wanted`; of its answer: the receipt.
pub const RECEIPT: &str = "x-isthmus-receipt";
/// Of a read: the receipt of a write that it must not be older than.
pub const AFTER: &str = "x-isthmus-after";

/// Whether the answer to a write is to bring a receipt.
pub fn is_wanted(headers: &HeaderMap) -> Result<bool, ApiError> {
    match headers.get(RECEIPT).map(|value| value.as_bytes()) {
        None => Ok(false),
        Some(b"wanted") => Ok(true),
        Some(_) => Err(invalid(RECEIPT, "It is 'wanted'.")),
    }
}

/// The write that a read must not be older than.
pub fn after(headers: &HeaderMap) -> Result<Option<Receipt>, ApiError> {
    let Some(value) = headers.get(AFTER) else { return Ok(None) };
    let receipt = value.to_str().ok().and_then(Receipt::parse);
    receipt.map(Some).ok_or_else(|| invalid(AFTER, "It is the receipt of a write."))
}

fn invalid(header: &str, hint: &str) -> ApiError {
    ApiError::invalid(format!("Invalid header: '{header}'. {hint}"))
}

/// Refuses to give a receipt for what is no write of rows.
pub fn check_write(operation: &Operation) -> Result<(), ApiError> {
    match operation {
        Operation::PutRow(_)
        | Operation::UpdateRow(_)
        | Operation::DeleteRow(_)
        | Operation::BatchWriteRow(_) => Ok(()),
        _ => Err(invalid(RECEIPT, "It is for writes of rows.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_say_what_is_wanted_and_nothing_else_is_taken() {
        let headers = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            headers
        };
        assert!(!is_wanted(&HeaderMap::new()).unwrap());
        assert!(is_wanted(&headers(RECEIPT, "wanted")).unwrap());
        for wrong in ["", "yes", "Wanted", "wanted "] {
            assert!(is_wanted(&headers(RECEIPT, wrong)).is_err(), "{wrong}");
        }
        assert_eq!(after(&HeaderMap::new()), Ok(None));
        assert!(after(&headers(AFTER, "wanted")).is_err());
    }
}
