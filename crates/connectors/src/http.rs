//! HTTP/1.1 to one endpoint: a pool of connections kept alive, timeouts and bounds.
//!
//! What must hold: a failure tells whether the request can have reached the other side; nothing
//! is sent twice unless it was certainly not sent; an answer has a bound. Signing and the
//! meaning of answers belong to the callers.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use isthmus_model::error::Outcome;

/// Bytes of an answer at most.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long an idle connection is kept; less than servers keep them.
const IDLE: Duration = Duration::from_secs(20);

/// How long to wait, and how many connections to keep.
#[derive(Clone, Copy, Debug)]
pub struct HttpOptions {
    /// Until a connection stands.
    pub connect_timeout: Duration,
    /// Until the whole answer is there.
    pub answer_timeout: Duration,
    /// Idle connections kept.
    pub idle_max: usize,
}

impl Default for HttpOptions {
    fn default() -> HttpOptions {
        HttpOptions {
            connect_timeout: Duration::from_secs(5),
            answer_timeout: Duration::from_secs(30),
            idle_max: 256,
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The endpoint is no URL that can be used.
    #[error("endpoint {endpoint}: {message}")]
    Endpoint {
        /// As given.
        endpoint: String,
        /// What is wrong.
        message: String,
    },
    /// A header cannot be sent.
    #[error("header {name} holds characters that cannot be sent")]
    Header {
        /// Its name.
        name: String,
    },
    /// No connection could be made; nothing was sent.
    #[error("cannot connect to {endpoint}: {message}")]
    Connect {
        /// Where to.
        endpoint: String,
        /// Why not.
        message: String,
    },
    /// The connection broke after the request may have been sent.
    #[error("connection to {endpoint} broke: {message}")]
    Broken {
        /// Where to.
        endpoint: String,
        /// How.
        message: String,
    },
    /// No answer in time.
    #[error("no answer from {endpoint} within {} ms", waited.as_millis())]
    Timeout {
        /// Where to.
        endpoint: String,
        /// How long was waited.
        waited: Duration,
    },
}

impl HttpError {
    /// Whether the request may have taken effect.
    pub fn outcome(&self) -> Outcome {
        match self {
            HttpError::Endpoint { .. } | HttpError::Header { .. } | HttpError::Connect { .. } => {
                Outcome::NotApplied
            }
            HttpError::Broken { .. } | HttpError::Timeout { .. } => Outcome::Unknown,
        }
    }
}

/// An answer, whole.
#[derive(Debug)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

/// Connections to one endpoint.
#[derive(Clone, Debug)]
pub struct Http {
    client: Client<HttpConnector, Full<Bytes>>,
    endpoint: String,
    answer_timeout: Duration,
}

impl Http {
    /// Prepares connections; none is made before the first request.
    pub fn new(endpoint: &str, options: HttpOptions) -> Result<Http, HttpError> {
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        check(&endpoint)
            .map_err(|message| HttpError::Endpoint { endpoint: endpoint.clone(), message })?;
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(options.connect_timeout));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(options.idle_max)
            .build(connector);
        Ok(Http { client, endpoint, answer_timeout: options.answer_timeout })
    }

    /// The endpoint, without a slash at its end.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Sends one request and waits for its whole answer.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, String)],
        body: Bytes,
    ) -> Result<Answer, HttpError> {
        let request = self.request(method, path, headers, body)?;
        self.in_time(self.exchange(request)).await
    }

    /// Sends a request with these headers and nothing added but what names its place and length,
    /// and gives the answer with its body unread: whoever asks bounds how much of it is read, and
    /// for how long.
    pub async fn pass(
        &self,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>, HttpError> {
        let mut request = self.request(Method::POST, path, &[], body)?;
        *request.headers_mut() = headers;
        self.in_time(self.begin(request)).await
    }

    async fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T, HttpError>>,
    ) -> Result<T, HttpError> {
        let waited = self.answer_timeout;
        let late = |_| HttpError::Timeout { endpoint: self.endpoint.clone(), waited };
        tokio::time::timeout(waited, work).await.map_err(late)?
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, String)],
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, HttpError> {
        let uri = format!("{}{path}", self.endpoint);
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri.parse().map_err(|_| HttpError::Endpoint {
            endpoint: self.endpoint.clone(),
            message: format!("{path:?} is no path"),
        })?;
        for (name, value) in headers {
            let header = || HttpError::Header { name: (*name).to_owned() };
            let value = HeaderValue::from_str(value).map_err(|_| header())?;
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| header())?;
            request.headers_mut().append(name, value);
        }
        Ok(request)
    }

    async fn begin(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, HttpError> {
        self.client.request(request).await.map_err(|error| {
            let (endpoint, message) = (self.endpoint.clone(), innermost(&error));
            if error.is_connect() {
                HttpError::Connect { endpoint, message }
            } else {
                HttpError::Broken { endpoint, message }
            }
        })
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Answer, HttpError> {
        let (head, body) = self.begin(request).await?.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|error| {
            let message = innermost(error.as_ref());
            HttpError::Broken { endpoint: self.endpoint.clone(), message }
        })?;
        Ok(Answer { status: head.status, headers: head.headers, body: body.to_bytes() })
    }
}

fn check(endpoint: &str) -> Result<(), String> {
    let uri: Uri = endpoint.parse().map_err(|_| "is no URL like http://host:port".to_owned())?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => {
            return Err("https is not spoken by this client, put a TLS tunnel before it".into());
        }
        _ => return Err("is no URL like http://host:port".into()),
    }
    if uri.host().is_none_or(str::is_empty) || uri.query().is_some() {
        return Err("is no URL like http://host:port".into());
    }
    Ok(())
}

/// The last cause says most: "connection refused" instead of "client error".
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(cause) = error.source() {
        error = cause;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    fn options() -> HttpOptions {
        HttpOptions { answer_timeout: Duration::from_millis(200), ..HttpOptions::default() }
    }

    async fn send(endpoint: &str) -> Result<Answer, HttpError> {
        let http = Http::new(endpoint, options())?;
        http.send(Method::POST, "/x", &[("a", "b".to_owned())], Bytes::from("body")).await
    }

    /// Serves one connection: reads once, then writes this and closes after a while.
    async fn answering(bytes: &'static [u8], wait: Duration) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 4096];
            let read = stream.read(&mut buffer).await.unwrap();
            assert!(buffer[..read].starts_with(b"POST /x HTTP/1.1\r\na: b\r\n"));
            stream.write_all(bytes).await.unwrap();
            tokio::time::sleep(wait).await;
        });
        endpoint
    }

    #[tokio::test]
    async fn an_answer_comes_whole() {
        let endpoint =
            answering(b"HTTP/1.1 404 X\r\ncontent-length: 2\r\n\r\nhi", Duration::ZERO).await;
        let answer = send(&endpoint).await.unwrap();
        assert_eq!((answer.status.as_u16(), &answer.body[..]), (404, &b"hi"[..]));
    }

    #[tokio::test]
    async fn failures_tell_whether_anything_was_sent() {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let error = send(&format!("http://{closed}")).await.unwrap_err();
        assert_eq!(error.outcome(), Outcome::NotApplied);
        assert!(error.to_string().contains("refused"), "{error}");
        let broken = answering(b"", Duration::ZERO).await;
        assert_eq!(send(&broken).await.unwrap_err().outcome(), Outcome::Unknown);
        let silent = answering(b"", Duration::from_secs(5)).await;
        let error = send(&silent).await.unwrap_err();
        assert!(matches!(error, HttpError::Timeout { .. }), "{error}");
    }

    #[tokio::test]
    async fn endpoints_that_cannot_be_used_are_refused() {
        for endpoint in ["", "localhost:80", "https://h", "ftp://h", "http://", "http://h/?q"] {
            let error = Http::new(endpoint, options()).unwrap_err();
            assert!(matches!(error, HttpError::Endpoint { .. }), "{endpoint}");
        }
    }
}
