//! A witness as a process: it votes in the quorum of the regions, and holds no rows.
//!
//! It also says which regions seem to be gone: two have to, and of two regions only one is left.
//!
//! What must hold: only voters are answered, each as its certificate names it, and nothing but
//! messages of the quorum. It opens no port but that for the regions, and stores nothing but the
//! registry.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use isthmus_model::clock::Clock;
use isthmus_replication::frame::Frame;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use crate::api_error::ApiError;
use crate::config::witness::WitnessFile;
use crate::detection::{self, Detection};
use crate::fault;
use crate::node::lease_clock;
use crate::peer;
use crate::peer::accept::shown;
use crate::peer::call::{Answering, Asking, Call, Failure, Question, Reply};
use crate::peer::serve::{Host, Work};
use crate::peer::service::peer_server::Peer;
use crate::peer::tls::{TlsFiles, bears_name};
use crate::quorum::{Quorum, QuorumError, Voter};
use crate::registry::Registry;
use crate::{ServerError, listen};

/// How often it is looked whether time alone has brought something.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long what serves has to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves a witness until `shutdown` is done.
pub async fn serve(
    config: WitnessFile,
    clock: Arc<dyn Clock>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServerError> {
    let own = config.witness;
    let settings = own.settings();
    let files = TlsFiles { certificate: own.certificate, key: own.key, authority: own.authority };
    let current = watch::Sender::new(files.parse(files.read()?)?);
    let listener = listen(own.listen, "the regions").await?;
    let voters: Vec<Voter> = config.voters.into_iter().map(voter).collect();
    let names = voters.iter().map(|voter| voter.name.clone()).collect();
    let (name, number, data) = (own.name.clone(), own.number, own.data);
    let dialling = current.subscribe();
    let opening = move || Quorum::open(&data, (number, &name), &voters, &dialling);
    let opened = tokio::task::spawn_blocking(opening).await;
    let quorum = opened.map_err(|error| QuorumError::Runtime(std::io::Error::other(error)))??;
    let witness = Witness { quorum: quorum.clone(), names: Arc::new(names), tasks: Arc::default() };
    let (stop, stopped) = watch::channel(false);
    let port = peer::serve::serve(witness.clone(), current.subscribe(), listener, stopped.clone());
    witness.spawn(Box::pin(fault::or_end("peer port", port)));
    let detection = Arc::new(Detection::new(&own.name, settings));
    let probing = detection.clone().keep_probing(quorum.clone(), |_, _| {}, stopped.clone());
    witness.spawn(Box::pin(fault::or_end("keep_probing", probing)));
    let watching = Watching { detection, quorum: quorum.clone(), clock: clock.clone() };
    let watching = watching.keep(stopped.clone());
    witness.spawn(Box::pin(fault::or_end("keep_watching", watching)));
    let notice = |_, text| tracing::warn!("{text}");
    let renewed =
        peer::renew::keep_renewed(own.name.clone(), clock, notice, files, current, stopped);
    witness.spawn(Box::pin(fault::or_end("keep_renewed", renewed)));
    tracing::info!(witness = %own.name, listen = %own.listen, "serving");
    let failed = tokio::select! {
        () = shutdown => None,
        reason = quorum.failed() => Some(reason),
    };
    tracing::info!("stopping");
    // Nobody listening is as good.
    let _ = stop.send(true);
    witness.finish().await;
    let _ = tokio::task::spawn_blocking(move || quorum.stop()).await;
    match failed {
        None => Ok(()),
        Some(reason) => Err(QuorumError::Ended(reason).into()),
    }
}

fn voter(voter: crate::config::witness::VoterConfig) -> Voter {
    Voter { number: voter.number, name: voter.name, peer: voter.peer }
}

/// What a witness sees of the regions.
struct Watching {
    detection: Arc<Detection>,
    quorum: Arc<Quorum>,
    clock: Arc<dyn Clock>,
}

impl Watching {
    /// Says which regions seem to be gone and which do not any more, until `stop` says so.
    async fn keep(self, mut stop: watch::Receiver<bool>) {
        let mut seen = None;
        let mut said = JoinSet::new();
        while !*stop.borrow() {
            let known = self.quorum.known();
            let now = lease_clock();
            while said.try_join_next().is_some() {}
            let news = {
                let mut watch = self.detection.watch();
                if seen.replace(known.index) != Some(known.index) {
                    watch.saw(&known.agreed, now);
                }
                // What is not taken is said again, but not before that is known.
                if said.is_empty() {
                    let at_millis = self.clock.wall_millis().max(0) as u64;
                    for word in watch.words(&known.agreed, now, at_millis) {
                        let quorum = self.quorum.clone();
                        said.spawn(async move { drop(quorum.propose(word).await) });
                    }
                }
                watch.news(&known.agreed, now)
            };
            for verdict in news {
                let (text, _) = detection::tell(&verdict);
                match verdict.is_suspected {
                    true => tracing::warn!("{text}"),
                    false => tracing::info!("{text}"),
                }
            }
            tokio::select! {
                () = self.quorum.known_beyond(known.index) => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
                _ = stop.changed() => return,
            }
        }
    }
}

/// What the peer port of a witness serves.
#[derive(Clone)]
pub struct Witness {
    quorum: Arc<Quorum>,
    /// Who else votes.
    names: Arc<Vec<String>>,
    tasks: Arc<Mutex<JoinSet<()>>>,
}

impl Witness {
    /// Waits until all has ended; ends what takes long.
    async fn finish(&self) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        let all_ended = async { while tasks.join_next().await.is_some() {} };
        let in_time = tokio::time::timeout(STOP_TIMEOUT, all_ended).await.is_ok();
        if !in_time {
            tasks.shutdown().await;
        }
    }
}

impl Host for Witness {
    type Service = Witness;

    fn service(&self, _ended: watch::Receiver<bool>) -> Witness {
        self.clone()
    }

    fn spawn(&self, work: Work) {
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(work);
    }
}

type Answer<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Peer for Witness {
    type ExchangeStream = Answer<Frame>;
    type PullStream = Answer<Frame>;
    type AnswerStream = Answer<Asking>;

    async fn exchange(
        &self,
        _request: Request<Streaming<Frame>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        Err(holds_no_rows())
    }

    async fn pull(
        &self,
        _request: Request<Streaming<Frame>>,
    ) -> Result<Response<Self::PullStream>, Status> {
        Err(holds_no_rows())
    }

    async fn answer(
        &self,
        _request: Request<Streaming<Answering>>,
    ) -> Result<Response<Self::AnswerStream>, Status> {
        Err(holds_no_rows())
    }

    async fn call(&self, request: Request<Call>) -> Result<Response<Reply>, Status> {
        let shown = shown(&request)?;
        let Call { from, question } = request.into_inner();
        if !self.names.contains(&from) || !bears_name(&shown, &from) {
            tracing::warn!(%from, "question from no voter refused");
            return Err(Status::permission_denied("the certificate does not bear a voter's name"));
        }
        let Some(Question::Agree(asked)) = question else { return Err(holds_no_rows()) };
        Ok(Response::new(reply(self.quorum.answer(&from, asked.message).await)))
    }
}

fn reply(answer: Result<bytes::Bytes, ApiError>) -> Reply {
    match answer {
        Ok(body) => Reply { failure: None, body },
        Err(error) => {
            let code = error.code.as_str().to_owned();
            let failure = Failure { code, message: error.message, is_elsewhere: false };
            Reply { failure: Some(failure), body: bytes::Bytes::new() }
        }
    }
}

fn holds_no_rows() -> Status {
    Status::unimplemented("a witness votes and holds no rows")
}
