//! Connections of clients of the public protocol: how many there may be, at which pace they send
//! and take, and how they end.
//!
//! What must hold: past the bound a connection waits to be accepted; none holds its place without
//! keeping its pace; when it is time to stop, requests in work are answered.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use crate::peer::serve::Work;
use crate::slow_peer::{Patience, TimedStream};

/// What a client is allowed.
const PATIENCE: Patience = Patience {
    idle: Duration::from_secs(120),
    head: Duration::from_secs(10),
    write: Duration::from_secs(30),
};
/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 48 * 1024;
/// Headers of a request.
const HEADERS_MAX: usize = 100;

/// Accepts so many connections at once and answers their requests until `stop` says so.
pub(crate) async fn serve<A, F>(
    listener: TcpListener,
    mut stop: watch::Receiver<bool>,
    connections_max: usize,
    spawn: impl Fn(Work),
    answer: A,
) where
    A: Fn(IpAddr, Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let connections = Arc::new(Semaphore::new(connections_max));
    loop {
        let connection = async {
            let permit = connections.clone().acquire_owned().await;
            (listener.accept().await, permit)
        };
        let accepted = tokio::select! {
            accepted = connection => accepted,
            _ = stop.changed() => return,
        };
        match accepted {
            (Ok((stream, from)), permit) => {
                let (answer, stop) = (answer.clone(), stop.clone());
                spawn(Box::pin(async move {
                    serve_connection(stream, from, stop, answer).await;
                    drop(permit);
                }));
            }
            // Out of file descriptors, most likely: wait until some are free.
            (Err(error), _) => {
                tracing::warn!(%error, "connection not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve_connection<A, F>(
    stream: TcpStream,
    from: SocketAddr,
    mut stop: watch::Receiver<bool>,
    answer: A,
) where
    A: Fn(IpAddr, Request<Incoming>) -> F,
    F: Future<Output = Response<Full<Bytes>>>,
{
    // A small answer must not wait for the client's acknowledgement of the one before.
    let _ = stream.set_nodelay(true);
    let stream = TimedStream::new(stream, PATIENCE);
    let head_watch = stream.head_watch();
    let service = service_fn(move |request| {
        head_watch.head_read();
        let answering = answer(from.ip(), request);
        async move { Ok::<_, Infallible>(answering.await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_header_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%from, %error, "connection ended");
                }
                return;
            }
            _ = stop.changed() => connection.as_mut().graceful_shutdown(),
        }
    }
}
