//! Serves the streams and questions of the other regions.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use isthmus_replication::frame::{Body, Frame};
use isthmus_replication::receive::Inbound;
use isthmus_replication::terms::Direction;
use rustls_pki_types::CertificateDer;
use tokio::sync::{mpsc, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::call::{Answering, Asking, Call, Question, Reply};
use super::carry;
use super::dial::OtherRegion;
use super::service::peer_server::Peer;
use super::tls::bears_name;
use super::{CALL_TIMEOUT, FRAMES_WAITING_MAX};
use crate::node::Node;

/// The peer port's service.
pub struct PeerService {
    node: Arc<Node>,
    stop: watch::Receiver<bool>,
}

type Answer<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
pub(crate) type Shown = Arc<Vec<CertificateDer<'static>>>;

impl PeerService {
    /// Serves for this node until `stop` says so.
    pub fn new(node: Arc<Node>, stop: watch::Receiver<bool>) -> PeerService {
        PeerService { node, stop }
    }

    /// Runs a stream until it ends or the node stops.
    fn spawn(&self, stream: impl Future<Output = ()> + Send + 'static) {
        let mut stop = self.stop.clone();
        self.node.spawn(async move {
            tokio::select! {
                () = stream => {}
                _ = stop.changed() => {}
            }
        });
    }

    /// The region that a dialler says it is, if its certificate says so, too.
    fn member(&self, shown: &Shown, claimed: &str) -> Result<Arc<OtherRegion>, Status> {
        let known = self.node.others().get(claimed);
        known.filter(|_| bears_name(shown, claimed)).cloned().ok_or_else(|| {
            tracing::warn!(%claimed, "stream or question from no member refused");
            Status::permission_denied("the certificate does not bear a member's name")
        })
    }
}

#[tonic::async_trait]
impl Peer for PeerService {
    type ExchangeStream = Answer<Frame>;
    type PullStream = Answer<Frame>;
    type AnswerStream = Answer<Asking>;

    async fn exchange(
        &self,
        request: Request<Streaming<Frame>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let shown = shown(&request)?;
        let inbound = Inbound::new(self.node.shared(), self.node.clone(), Direction::Push);
        let (sender, receiver) = mpsc::channel(FRAMES_WAITING_MAX);
        let (node, origin) = (self.node.clone(), OnceLock::<Arc<OtherRegion>>::new());
        let stream =
            carry::receive(inbound, request.into_inner(), sender, move |inbound, frame| {
                if let Some(Body::Hello(hello)) = &frame.body
                    && bears_name(&shown, &hello.name)
                    && let Some(region) = node.others().get(&hello.name)
                {
                    let _ = origin.set(region.clone());
                }
                if let Some(region) = origin.get() {
                    region.traffic().heard();
                }
                take(&shown, inbound, frame)
            });
        self.spawn(async { drop(stream.await) });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn pull(
        &self,
        request: Request<Streaming<Frame>>,
    ) -> Result<Response<Self::PullStream>, Status> {
        let shown = shown(&request)?;
        let mut answers = request.into_inner();
        let first = first(&mut answers).await?;
        let Some(Body::Hello(hello)) = first.body else {
            return Err(Status::failed_precondition("a frame came before the greeting"));
        };
        let region = self.member(&shown, &hello.name)?;
        let (sender, receiver) = mpsc::channel(FRAMES_WAITING_MAX);
        self.spawn(async move { region.serve_pull(sender, answers).await });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn answer(
        &self,
        request: Request<Streaming<Answering>>,
    ) -> Result<Response<Self::AnswerStream>, Status> {
        let shown = shown(&request)?;
        let mut answers = request.into_inner();
        let first = first(&mut answers).await?;
        let region = self.member(&shown, &first.from)?;
        let (sender, receiver) = mpsc::channel(FRAMES_WAITING_MAX);
        self.spawn(async move { region.callbacks.serve(sender, answers).await });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn call(&self, request: Request<Call>) -> Result<Response<Reply>, Status> {
        let shown = shown(&request)?;
        let call = request.into_inner();
        let is_voter = matches!(call.question, Some(Question::Agree(_) | Question::Probe(_)))
            && self.node.is_witness(&call.from)
            && bears_name(&shown, &call.from);
        if !is_voter {
            self.member(&shown, &call.from)?;
        }
        let question = call.question.ok_or_else(|| Status::unimplemented("unknown question"))?;
        Ok(Response::new(self.node.clone().answer(&call.from, question).await))
    }
}

/// The certificates that whoever asks has shown.
pub(crate) fn shown<T>(request: &Request<T>) -> Result<Shown, Status> {
    request.peer_certs().ok_or_else(|| Status::unauthenticated("no certificate was shown"))
}

/// The first message of a stream, by which the dialler names itself.
async fn first<T>(stream: &mut Streaming<T>) -> Result<T, Status> {
    match tokio::time::timeout(CALL_TIMEOUT, stream.message()).await {
        Ok(Ok(Some(first))) => Ok(first),
        Ok(Ok(None)) => Err(Status::cancelled("the stream ended before the greeting")),
        Ok(Err(status)) => Err(status),
        Err(_) => Err(Status::deadline_exceeded("no greeting came")),
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
