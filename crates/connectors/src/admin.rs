//! A client of a region's administration API: JSON over HTTP.
//!
//! What must hold: requests are signed as those of the public API are (path and headers, V2);
//! only the health check is open to everybody; nothing but reading is repeated.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use isthmus_model::clock::Clock;
use serde::de::DeserializeOwned;

use crate::http::{Http, HttpError, HttpOptions};
use crate::tablestore::{ClientError, Signer, Target};

/// Characters of a refusal's text that are shown.
const TEXT_CHARS_MAX: usize = 300;

/// Why there is no answer from the administration API.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// It was not reached.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// It refused.
    #[error("{path}: HTTP status {status}: {message}")]
    Refused {
        /// What was asked for.
        path: String,
        /// HTTP status.
        status: u16,
        /// Its words.
        message: String,
    },
    /// Its answer cannot be read.
    #[error("{path}: the answer cannot be read: {message}")]
    Answer {
        /// What was asked for.
        path: String,
        /// Why.
        message: String,
    },
}

/// A client of one region's administration API.
pub struct Admin {
    http: Http,
    signer: Signer,
}

impl Admin {
    /// A client; the target's endpoint is the administration port.
    pub fn new(
        target: Target,
        options: HttpOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Admin, AdminError> {
        let http = Http::new(&target.endpoint, options)?;
        Ok(Admin { http, signer: Signer::new(target, clock) })
    }

    /// Asks for a JSON document.
    pub async fn get_json<T: DeserializeOwned>(&self, path: &str) -> Result<T, AdminError> {
        let refused = |error: ClientError| AdminError::Answer {
            path: path.to_owned(),
            message: error.to_string(),
        };
        let signed = self.signer.sign(path, b"").map_err(refused)?;
        let answer = self.http.send(Method::GET, path, &signed.headers, Bytes::new()).await?;
        if !answer.status.is_success() {
            return Err(AdminError::Refused {
                path: path.to_owned(),
                status: answer.status.as_u16(),
                message: words(&answer.body),
            });
        }
        serde_json::from_slice(&answer.body).map_err(|error| AdminError::Answer {
            path: path.to_owned(),
            message: error.to_string(),
        })
    }
}

/// The text of a refusal: a JSON member if it has one, else the body, cut.
fn words(body: &[u8]) -> String {
    let json: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let member = json.as_ref().and_then(|json| json.get("message").or(json.get("error")));
    let text = match member.and_then(serde_json::Value::as_str) {
        Some(text) => text.to_owned(),
        None => String::from_utf8_lossy(body).trim().to_owned(),
    };
    text.chars().filter(|c| !c.is_control()).take(TEXT_CHARS_MAX).collect()
}

/// Whether the region behind this administration port serves. Any failure means no.
pub async fn healthy(endpoint: &str, timeout: Duration) -> bool {
    let options = HttpOptions { connect_timeout: timeout, answer_timeout: timeout, idle_max: 0 };
    let Ok(http) = Http::new(endpoint, options) else { return false };
    let answer = http.send(Method::GET, "/v1/health", &[], Bytes::new()).await;
    answer.is_ok_and(|answer| answer.status.is_success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_shown_in_their_own_words() {
        assert_eq!(words(b"{\"error\":\"no such key\"}"), "no such key");
        assert_eq!(words(b"{\"code\":1,\"message\":\"later\"}"), "later");
        assert_eq!(words(b" plain\x1b text \n"), "plain text");
        assert_eq!(words(&[b'x'; 5000]).len(), TEXT_CHARS_MAX);
    }
}
