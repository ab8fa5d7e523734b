//! A client of a region's administration API: JSON over HTTP.
//!
//! What must hold: requests are signed as those of the public API are, but over method, path and
//! query; only the health check is open to everybody; nothing but reading is repeated.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use isthmus_model::clock::Clock;
use isthmus_protocol::signature::admin_path;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::http::{Http, HttpError, HttpOptions};
use crate::tablestore::{Signer, Target};

/// Characters of a refusal's text that are shown.
const TEXT_CHARS_MAX: usize = 300;
/// Where jobs are.
const JOBS: &str = "/v1/jobs";

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
    /// The request cannot be made, or its answer cannot be read.
    #[error("{path}: no request or no answer that can be read: {message}")]
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
        self.exchange(Method::GET, path, Bytes::new()).await
    }

    /// Sends a JSON document and reads the answer. Not repeated: what was asked for may have
    /// happened although no answer came, and the error tells.
    pub async fn post_json<T: DeserializeOwned>(
        &self,
        path: &str,
        value: &impl Serialize,
    ) -> Result<T, AdminError> {
        let body = serde_json::to_vec(value).map_err(|error| AdminError::Answer {
            path: path.to_owned(),
            message: error.to_string(),
        })?;
        self.exchange(Method::POST, path, body.into()).await
    }

    /// Starts a job and gives its id.
    pub async fn start_job(&self, kind: &str, spec: &Json) -> Result<String, AdminError> {
        let wish = serde_json::json!({ "kind": kind, "spec": spec });
        let started: Started = self.post_json(JOBS, &wish).await?;
        Ok(started.id)
    }

    /// What a job does.
    pub async fn job(&self, id: &str) -> Result<Job, AdminError> {
        self.get_json(&job_path(id, "")).await
    }

    /// All jobs that the region knows of.
    pub async fn jobs(&self) -> Result<Vec<Job>, AdminError> {
        let list: JobList = self.get_json(JOBS).await?;
        Ok(list.jobs)
    }

    /// Ends a job before its end; what it did stays.
    pub async fn cancel_job(&self, id: &str) -> Result<Job, AdminError> {
        self.post_json(&job_path(id, "/cancel"), &serde_json::json!({})).await
    }

    /// Lets a job rest where it is.
    pub async fn pause_job(&self, id: &str) -> Result<Job, AdminError> {
        self.post_json(&job_path(id, "/pause"), &serde_json::json!({})).await
    }

    /// Lets a job go on.
    pub async fn resume_job(&self, id: &str) -> Result<Job, AdminError> {
        self.post_json(&job_path(id, "/resume"), &serde_json::json!({})).await
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, AdminError> {
        let refused = |message: String| AdminError::Answer { path: path.to_owned(), message };
        let signed = self.signer.sign(&admin_path(method.as_str(), path), &body);
        let signed = signed.map_err(|error| refused(error.to_string()))?;
        let mut headers = signed.headers;
        if !body.is_empty() {
            headers.push(("content-type", "application/json".to_owned()));
        }
        let answer = self.http.send(method, path, &headers, body).await?;
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

/// A job, as the region tells it. What is particular to its kind is left as JSON.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Job {
    /// Names it.
    pub id: String,
    /// What it does: verify, repair, scrub.
    #[serde(default)]
    pub kind: String,
    /// How far it is: a word such as running, paused, done, failed, cancelled.
    pub state: String,
    /// How much of it is done.
    #[serde(default)]
    pub progress: Json,
    /// What came of it, once it is done.
    #[serde(default, alias = "report")]
    pub result: Json,
    /// Why it failed.
    #[serde(default)]
    pub error: Option<String>,
    /// Everything else that was told of it.
    #[serde(flatten)]
    pub more: serde_json::Map<String, Json>,
}

#[derive(Deserialize)]
struct Started {
    id: String,
}

#[derive(Deserialize)]
struct JobList {
    jobs: Vec<Job>,
}

fn job_path(id: &str, act: &str) -> String {
    format!("{JOBS}/{}{act}", escaped(id))
}

/// A text as part of a path or query. What is no plain character is escaped, so that no name
/// leads elsewhere.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'-' | b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => out.push(char::from(byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
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
    use isthmus_model::clock::SystemClock;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::demo::target;

    #[test]
    fn refusals_are_shown_in_their_own_words() {
        assert_eq!(words(b"{\"error\":\"no such key\"}"), "no such key");
        assert_eq!(words(b"{\"code\":1,\"message\":\"later\"}"), "later");
        assert_eq!(words(b" plain\x1b text \n"), "plain text");
        assert_eq!(words(&[b'x'; 5000]).len(), TEXT_CHARS_MAX);
    }

    /// Serves one request with this body; gives the URL and, later, what was asked.
    async fn answering(body: &'static str) -> (String, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let asked = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut text = Vec::new();
            let mut buffer = [0; 4096];
            loop {
                let read = stream.read(&mut buffer).await.unwrap();
                text.extend_from_slice(&buffer[..read]);
                let whole = String::from_utf8_lossy(&text).into_owned();
                let Some((head, rest)) = whole.split_once("\r\n\r\n") else { continue };
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                if rest.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                    break;
                }
            }
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all((head + body).as_bytes()).await.unwrap();
            String::from_utf8(text).unwrap()
        });
        (endpoint, asked)
    }

    fn admin(endpoint: String) -> Admin {
        Admin::new(target(endpoint), HttpOptions::default(), Arc::new(SystemClock)).unwrap()
    }

    #[tokio::test]
    async fn a_job_is_started_with_a_signed_document() {
        let (endpoint, asked) = answering("{\"id\":\"7\"}").await;
        let spec = serde_json::json!({ "table": "t" });
        assert_eq!(admin(endpoint).start_job("verify", &spec).await.unwrap(), "7");
        let asked = asked.await.unwrap();
        assert!(asked.starts_with("POST /v1/jobs HTTP/1.1\r\n"), "{asked}");
        assert!(asked.contains("x-ots-signature: ") && asked.contains("application/json"));
        let body = "{\"kind\":\"verify\",\"spec\":{\"table\":\"t\"}}";
        let digest = isthmus_protocol::signature::content_md5(body.as_bytes());
        assert!(asked.ends_with(body) && asked.contains(&digest), "{asked}");
    }

    #[tokio::test]
    async fn jobs_keep_what_is_particular_to_them() {
        let body = "{\"jobs\":[{\"id\":\"7\",\"state\":\"running\",\"since\":5}]}";
        let (endpoint, _) = answering(body).await;
        let jobs = admin(endpoint).jobs().await.unwrap();
        assert_eq!((jobs[0].id.as_str(), jobs[0].state.as_str()), ("7", "running"));
        assert_eq!(jobs[0].more["since"], 5);
        let (endpoint, asked) = answering("{\"id\":\"7\",\"state\":\"paused\"}").await;
        assert_eq!(admin(endpoint).pause_job("7/../x?y").await.unwrap().state, "paused");
        assert!(asked.await.unwrap().starts_with("POST /v1/jobs/7%2F%2E%2E%2Fx%3Fy/pause HTTP"));
    }
}
