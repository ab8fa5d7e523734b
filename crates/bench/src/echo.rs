//! The floor of the HTTP stack: a server that takes and gives as many bytes as the real one and
//! does nothing between.
//!
//! It is the stack of the public port, in a process of its own: hyper's HTTP/1.1 on as many
//! threads as there are cores. Unless it is `bare`, it checks date, signature and MD5 of each
//! request and makes those of each answer. It ends when its standard input closes.

use std::convert::Infallible;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use isthmus_model::clock::{Clock, SystemClock};
use isthmus_protocol::date::format_date;
use isthmus_protocol::signature::{
    AccessKey, CONTENT_MD5, CONTENT_TYPE, DATE, REQUEST_ID, ResponseKey, Secret, SignedHeaders,
    SignedRequest, SigningKeys, content_md5,
};
use tokio::net::{TcpListener, TcpStream};

use crate::error::{BenchError, Result, Tried};
use crate::load::{Access, Target};
use crate::process::end;

/// Bytes of a request's body.
const BODY_BYTES_MAX: usize = 5 * 1024 * 1024;
const SECRET: &str = "echo-secret";
const ID: &str = "echo";

/// Arguments of the hidden command.
#[derive(Args, Debug)]
pub(crate) struct EchoArgs {
    /// Bytes of an answer's body
    #[arg(long)]
    answer_bytes: usize,
    /// Neither check nor make signatures and MD5
    #[arg(long)]
    bare: bool,
}

/// The floor of the HTTP stack, as a process.
pub(crate) struct Echo {
    child: Child,
    input: Option<ChildStdin>,
    target: Target,
}

impl Echo {
    /// Starts it.
    pub(crate) fn start(answer_bytes: usize, bare: bool) -> Result<Echo> {
        let own = std::env::current_exe().tried(|| "find the own program".to_owned())?;
        let mut command = std::process::Command::new(own);
        command.args(["echo", "--answer-bytes", &answer_bytes.to_string()]);
        if bare {
            command.arg("--bare");
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .tried(|| "start the echo server".to_owned())?;
        let input = child.stdin.take();
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output)
                .read_line(&mut line)
                .tried(|| "read the echo server's address".to_owned())?;
        }
        let access = Access { instance: "demo".into(), id: ID.into(), secret: SECRET.into() };
        Ok(Echo { child, input, target: Target { address: line.trim().to_owned(), access } })
    }

    pub(crate) fn target(&self) -> Target {
        self.target.clone()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        drop(self.input.take());
        end(&mut self.child, Duration::from_secs(5));
    }
}

struct Handler {
    bare: bool,
    answer: Bytes,
    secret: Secret,
    signing_keys: SigningKeys,
    requests: AtomicU64,
}

/// Serves until standard input closes.
pub(crate) fn serve(args: &EchoArgs) -> Result<()> {
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin().take(u64::MAX), &mut std::io::sink());
        std::process::exit(0);
    });
    let handler = Arc::new(Handler {
        bare: args.bare,
        answer: Bytes::from(vec![b'x'; args.answer_bytes]),
        secret: Secret::new(SECRET.as_bytes()),
        signing_keys: SigningKeys::new(),
        requests: AtomicU64::new(0),
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .tried(|| "start a runtime".to_owned())?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.tried(|| "open a port".to_owned())?;
        let address = listener.local_addr().tried(|| "ask for the port".to_owned())?;
        writeln!(std::io::stdout(), "{address}").tried(|| "tell the port".to_owned())?;
        loop {
            let (stream, _) = listener.accept().await.tried(|| "accept a connection".to_owned())?;
            tokio::spawn(connection(handler.clone(), stream));
        }
    })
}

async fn connection(handler: Arc<Handler>, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let handler = handler.clone();
        async move { Ok::<_, Infallible>(handler.answer(request).await) }
    });
    // As the public port sets it up.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(10))
        .max_buf_size(64 * 1024)
        .max_headers(100)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

impl Handler {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let body = match Limited::new(body, BODY_BYTES_MAX).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => return refusal(&error.to_string()),
        };
        if self.bare {
            return Response::new(Full::new(self.answer.clone()));
        }
        let headers = head.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        match self.check(head.uri.path(), headers, &body) {
            Ok(key) => self.signed(head.uri.path(), &key),
            Err(error) => refusal(&error.to_string()),
        }
    }

    fn check<'a>(
        &self,
        path: &'a str,
        headers: impl Iterator<Item = (&'a str, &'a [u8])>,
        body: &[u8],
    ) -> Result<ResponseKey> {
        let request = SignedRequest::read(SignedHeaders::collect(headers)?)?;
        if request.access_key_id() != ID {
            return Err(BenchError::failed("another access key"));
        }
        let key = AccessKey { secret: &self.secret, security_token: None };
        let now = SystemClock.wall_millis();
        let verified = request.verify(path, Some(key), &self.signing_keys, now)?;
        request.check_body(body)?;
        Ok(verified.response_key)
    }

    fn signed(&self, path: &str, key: &ResponseKey) -> Response<Full<Bytes>> {
        let md5 = content_md5(&self.answer);
        let date = format_date(SystemClock.wall_millis());
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let id = format!("00000001-0123456789abcdef-{number:012x}");
        let mut signed = [
            (CONTENT_MD5, md5.as_str()),
            (CONTENT_TYPE, "protocol buffer"),
            (DATE, date.as_str()),
            (REQUEST_ID, id.as_str()),
        ];
        let authorization = key.authorization(ID, path, &mut signed);
        let mut response = Response::new(Full::new(self.answer.clone()));
        let headers = response.headers_mut();
        for (name, value) in signed {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        if let Ok(value) = HeaderValue::try_from(authorization) {
            headers.insert(AUTHORIZATION, value);
        }
        response
    }
}

fn refusal(text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(text.as_bytes())));
    *response.status_mut() = StatusCode::BAD_REQUEST;
    response
}
