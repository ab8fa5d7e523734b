//! Serves the streams and questions of the other regions.

use std::pin::Pin;
use std::sync::Arc;

use isthmus_replication::frame::{Body, Frame};
use isthmus_replication::receive::Inbound;
use rustls_pki_types::CertificateDer;
use tokio::sync::{mpsc, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::call::{Call, Reply};
use super::service::peer_server::Peer;
use super::tls::bears_name;
use super::{FRAMES_WAITING_MAX, TICK_EVERY};
use crate::node::Node;

/// The peer port's service.
pub struct PeerService {
    node: Arc<Node>,
    stop: watch::Receiver<bool>,
}

impl PeerService {
    /// Serves for this node until `stop` says so.
    pub fn new(node: Arc<Node>, stop: watch::Receiver<bool>) -> PeerService {
        PeerService { node, stop }
    }
}

#[tonic::async_trait]
impl Peer for PeerService {
    type ExchangeStream = Pin<Box<dyn Stream<Item = Result<Frame, Status>> + Send>>;

    async fn exchange(
        &self,
        request: Request<Streaming<Frame>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let shown = shown(&request)?;
        let inbound = Inbound::new(self.node.shared(), self.node.clone());
        let (sender, receiver) = mpsc::channel(FRAMES_WAITING_MAX);
        let mut stop = self.stop.clone();
        let stream = receive(shown, request.into_inner(), inbound, sender);
        self.node.spawn(async move {
            tokio::select! {
                () = stream => {}
                _ = stop.changed() => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn call(&self, request: Request<Call>) -> Result<Response<Reply>, Status> {
        let shown = shown(&request)?;
        let call = request.into_inner();
        if !bears_name(&shown, &call.from) || !self.node.is_member(&call.from) {
            tracing::warn!(claimed = %call.from, "question from no member refused");
            return Err(Status::permission_denied("the certificate does not bear a member's name"));
        }
        let question = call.question.ok_or_else(|| Status::unimplemented("unknown question"))?;
        Ok(Response::new(self.node.clone().answer(&call.from, question).await))
    }
}

fn shown<T>(request: &Request<T>) -> Result<Arc<Vec<CertificateDer<'static>>>, Status> {
    request.peer_certs().ok_or_else(|| Status::unauthenticated("no certificate was shown"))
}

/// One stream, from greeting to end.
async fn receive(
    shown: Arc<Vec<CertificateDer<'static>>>,
    mut incoming: Streaming<Frame>,
    mut inbound: Inbound,
    sender: mpsc::Sender<Result<Frame, Status>>,
) {
    let mut tick = tokio::time::interval(TICK_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut next = None;
    loop {
        tokio::select! {
            message = incoming.message(), if !inbound.is_full() => {
                let Ok(Some(frame)) = message else { return };
                if let Err(refusal) = take(&shown, &mut inbound, frame) {
                    tracing::warn!(reason = %refusal.message(), "stream refused");
                    // The stream ends either way; whether the reason arrives does not matter.
                    let _ = sender.send(Err(refusal)).await;
                    return;
                }
            }
            frame = std::future::poll_fn(|context| inbound.poll(context)), if next.is_none() => {
                next = Some(frame);
            }
            permit = sender.reserve(), if next.is_some() => match (permit, next.take()) {
                (Ok(permit), Some(frame)) => permit.send(Ok(frame)),
                _ => return,
            },
            _ = tick.tick() => inbound.tick(),
        }
    }
}

fn take(
    shown: &[CertificateDer<'static>],
    inbound: &mut Inbound,
    frame: Frame,
) -> Result<(), Status> {
    if let Some(Body::Hello(hello)) = &frame.body
        && !bears_name(shown, &hello.name)
    {
        return Err(Status::permission_denied("the certificate does not bear the region's name"));
    }
    inbound.receive(frame).map_err(|error| Status::failed_precondition(error.to_string()))
}
