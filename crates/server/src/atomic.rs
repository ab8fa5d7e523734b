//! Whether a request asks for all of its rows or none, by a header.

use hyper::HeaderMap;

use crate::api_error::ApiError;

/// Of BatchWriteRow: it is made in all partitions that it is about, or in none. Of BatchGetRow: all
/// rows are as of one moment.
pub(crate) const ATOMIC: &str = "x-isthmus-atomic";

/// Whether a request asks for it.
pub(crate) fn is_wanted(headers: &HeaderMap) -> Result<bool, ApiError> {
    match headers.get(ATOMIC).map(|value| value.as_bytes()) {
        None => Ok(false),
        Some(b"true") => Ok(true),
        Some(_) => Err(invalid("It is 'true'.")),
    }
}

/// The header, and what is wrong with it.
pub(crate) fn invalid(hint: &str) -> ApiError {
    ApiError::invalid(format!("Invalid header: '{ATOMIC}'. {hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_true_is_taken() {
        let asked = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ATOMIC, value.parse().unwrap());
            is_wanted(&headers)
        };
        assert_eq!(is_wanted(&HeaderMap::new()), Ok(false));
        assert_eq!(asked("true"), Ok(true));
        for wrong in ["", "false", "True", "1", "true "] {
            assert!(asked(wrong).is_err(), "{wrong}");
        }
    }
}
