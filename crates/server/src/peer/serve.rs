//! The port for other regions.
//!
//! New certificates begin a new server on the same listener. The one before takes no connection
//! any more, ends its streams, which their origins dial anew at once, and answers what was asked.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use super::accept::PeerService;
use super::service::peer_server::{Peer, PeerServer};
use super::tls::PeerTls;
use super::{
    CONNECTION_AGE_MAX, KEEP_ALIVE_EVERY, MESSAGE_BYTES_MAX, READ_TIMEOUT, STREAM_WINDOW_BYTES,
};
use crate::node::Node;

/// Connections that wait for their handshake.
const ACCEPTED_MAX: usize = 64;
/// What a dialling region takes to end a connection by itself when its age is reached.
const AGE_GRACE: Duration = Duration::from_secs(300);

type Accepted = mpsc::Sender<std::io::Result<TcpStream>>;

/// Work of a server.
pub(crate) type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Whose port it is.
pub(crate) trait Host: Send + Sync + 'static {
    /// What is served there.
    type Service: Peer;

    /// Makes it; its streams end when `ended` says so.
    fn service(&self, ended: watch::Receiver<bool>) -> Self::Service;

    /// Runs what serves it.
    fn spawn(&self, work: Work);
}

impl Host for Arc<Node> {
    type Service = PeerService;

    fn service(&self, ended: watch::Receiver<bool>) -> PeerService {
        PeerService::new(self.clone(), ended)
    }

    fn spawn(&self, work: Work) {
        Node::spawn(self, work);
    }
}

/// Serves the port until `stop` says so, always with the newest certificates.
pub(crate) async fn serve(
    host: impl Host,
    mut tls: watch::Receiver<PeerTls>,
    listener: TcpListener,
    mut stop: watch::Receiver<bool>,
) {
    let mut incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    loop {
        let current = tls.borrow_and_update().clone();
        let (end, ended) = watch::channel(false);
        let accepted = match begin(&host, &current, ended, stop.clone()) {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::error!(%error, "the port for other regions cannot be served");
                return;
            }
        };
        loop {
            tokio::select! {
                connection = incoming.next() => match connection {
                    Some(connection) => {
                        if accepted.send(connection).await.is_err() {
                            tracing::error!("port for other regions ended");
                            return;
                        }
                    }
                    None => return,
                },
                changed = tls.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
                _ = stop.changed() => return,
            }
        }
        // Nobody listening is as good.
        let _ = end.send(true);
    }
}

/// Begins a server of its own for the connections that are sent to it.
fn begin(
    host: &impl Host,
    tls: &PeerTls,
    mut ended: watch::Receiver<bool>,
    mut stop: watch::Receiver<bool>,
) -> Result<Accepted, tonic::transport::Error> {
    let service = PeerServer::new(host.service(ended.clone()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let router = Server::builder()
        .tls_config(tls.server())?
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(STREAM_WINDOW_BYTES)
        .http2_keepalive_interval(Some(KEEP_ALIVE_EVERY))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_EVERY))
        .max_connection_age(CONNECTION_AGE_MAX + AGE_GRACE)
        .max_connection_age_grace(READ_TIMEOUT)
        .add_service(service);
    let (accepted, handed) = mpsc::channel(ACCEPTED_MAX);
    host.spawn(Box::pin(async move {
        let is_ended = async move {
            // An error is an end as well.
            let _ = ended.wait_for(|ended| *ended).await;
        };
        let served = router.serve_with_incoming_shutdown(ReceiverStream::new(handed), is_ended);
        tokio::select! {
            served = served => if let Err(error) = served {
                tracing::error!(%error, "a server for other regions ended");
            },
            _ = stop.changed() => {}
        }
    }));
    Ok(accepted)
}
