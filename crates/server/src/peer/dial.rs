//! Keeps the streams to one other region: on one this region ships as an origin (push), on one it
//! receives as a replica (pull), on one it is asked.
//!
//! The state of the links outlives the streams; a stream that breaks is dialled again with a
//! growing pause, or as soon as the region dials this one. The committer only notes which logs have
//! grown, under a lock of its own, so that it never waits for a link. A region without an address
//! is not dialled: it dials.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use isthmus_model::ids::{Lsn, PartitionId};
use isthmus_replication::frame::{Body, Frame};
use isthmus_replication::receive::Inbound;
use isthmus_replication::ship::Outbound;
use isthmus_replication::terms::Direction;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, ConnectError, Status, Streaming};

use super::call::{Answering, Call, Question, Reply};
use super::callback::Callbacks;
use super::carry::{self, describe};
use super::service::peer_client::PeerClient;
use super::tls::PeerTls;
use super::traffic::StreamTraffic;
use super::{
    CONNECTION_AGE_MAX, FRAMES_WAITING_MAX, KEEP_ALIVE_EVERY, MESSAGE_BYTES_MAX,
    STREAM_WINDOW_BYTES,
};
use crate::node::Node;

const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Before a stream is dialled again that an older region does not know.
const PAUSE_UNKNOWN: Duration = Duration::from_secs(30);
/// A stream that lasted so long was refused by nobody.
const LASTED_MIN: Duration = Duration::from_secs(1);
/// Questions of one region that are worked on at once, of those that come over a stream dialled
/// from here.
const ANSWERING_MAX: usize = 16;

/// Whether the region is reached, and since when.
#[derive(Clone, Debug)]
pub struct Reached {
    /// A stream is open.
    pub connected: bool,
    /// Milliseconds since the Unix epoch.
    pub since_millis: i64,
    /// Why not.
    pub reason: String,
}

/// One other region, seen from here.
pub struct OtherRegion {
    /// Its name.
    pub name: String,
    /// Questions to it, where it cannot be dialled.
    pub callbacks: Callbacks,
    /// This region's name.
    own_name: String,
    /// `None`: it cannot be dialled.
    address: Option<String>,
    tls: watch::Receiver<PeerTls>,
    /// The way to it, if it can be dialled.
    channel: Mutex<Option<Channel>>,
    /// Counts the ways there were.
    renewals: watch::Sender<u64>,
    outbound: Mutex<Outbound>,
    grown: Mutex<BTreeMap<PartitionId, Lsn>>,
    wake_push: Notify,
    wake_pull: Notify,
    /// Counts the streams on which the region has asked to pull; only the newest counts.
    pulls: watch::Sender<u64>,
    pulling: tokio::sync::Mutex<()>,
    reached: Mutex<Reached>,
    traffic: StreamTraffic,
    wall_millis: Arc<dyn Fn() -> i64 + Send + Sync>,
}

/// How a stream ended.
struct Ended {
    reason: String,
    /// It was in use for a while.
    was_open: bool,
    /// The other region knows no such stream.
    is_unknown: bool,
    /// No stream came about: it may have been away.
    found_nobody: bool,
}

impl Ended {
    fn of(reason: String, was_open: bool) -> Ended {
        Ended { reason, was_open, is_unknown: false, found_nobody: false }
    }

    fn refused(status: &Status) -> Ended {
        let is_unknown = status.code() == Code::Unimplemented;
        let reason = describe(status);
        Ended { reason, was_open: false, is_unknown, found_nobody: !is_unknown }
    }
}

/// Whether a question that was not answered was not sent either.
pub fn is_unsent(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

impl OtherRegion {
    /// Prepares to dial the region `name` at `address` (host and port); `None`: it will dial.
    pub fn new(
        name: &str,
        own_name: &str,
        address: Option<&str>,
        tls: watch::Receiver<PeerTls>,
        outbound: Outbound,
        wall_millis: Arc<dyn Fn() -> i64 + Send + Sync>,
    ) -> Result<OtherRegion, tonic::transport::Error> {
        let channel = match address {
            Some(address) => Some(channel(name, address, &tls.borrow())?),
            None => None,
        };
        let reason = if channel.is_some() { "not dialled yet" } else { "it has not dialled yet" };
        let reached =
            Reached { connected: false, since_millis: wall_millis(), reason: reason.to_owned() };
        Ok(OtherRegion {
            name: name.to_owned(),
            callbacks: Callbacks::default(),
            own_name: own_name.to_owned(),
            address: address.map(str::to_owned),
            tls,
            channel: Mutex::new(channel),
            renewals: watch::Sender::new(0),
            outbound: Mutex::new(outbound),
            grown: Mutex::new(BTreeMap::new()),
            wake_push: Notify::new(),
            wake_pull: Notify::new(),
            pulls: watch::Sender::new(0),
            pulling: tokio::sync::Mutex::new(()),
            reached: Mutex::new(reached),
            traffic: StreamTraffic::default(),
            wall_millis,
        })
    }

    /// Whether it can be dialled.
    pub fn is_dialled(&self) -> bool {
        self.address.is_some()
    }

    /// The links to the region. Wake it after changing them.
    pub fn links(&self) -> MutexGuard<'_, Outbound> {
        self.outbound.lock()
    }

    /// Lets the streams look whether there is something to send.
    pub fn wake(&self) {
        self.wake_push.notify_one();
        self.wake_pull.notify_one();
    }

    /// Until a stream is to look whether there is something to send.
    pub(super) async fn woken(&self, direction: Direction) {
        match direction {
            Direction::Push => self.wake_push.notified().await,
            Direction::Pull => self.wake_pull.notified().await,
        }
    }

    /// Notes that a log has grown. Called by the committer: takes no lock that waits for work.
    pub fn grown(&self, partition: PartitionId, lsn: Lsn) {
        self.grown.lock().insert(partition, lsn);
        self.wake();
    }

    /// Whether the region is reached.
    pub fn reached(&self) -> Reached {
        self.reached.lock().clone()
    }

    /// What its streams have brought.
    pub(crate) fn traffic(&self) -> &StreamTraffic {
        &self.traffic
    }

    /// Since when it owes an answer on a stream.
    pub(crate) fn awaits_since(&self) -> Option<Duration> {
        let is_open = self.reached.lock().connected;
        let awaits = || self.links().awaits_answer();
        self.traffic.owed_since(is_open, awaits, || !self.links().is_empty())
    }

    /// Asks the region one question.
    pub async fn ask_within(
        &self,
        question: Question,
        patience: Duration,
    ) -> Result<Reply, Status> {
        let call = Call { from: self.own_name.clone(), question: Some(question) };
        let Some(mut client) = self.client() else {
            return self.callbacks.ask(call, patience).await;
        };
        let mut request = tonic::Request::new(call);
        request.set_timeout(patience);
        let answer = tokio::time::timeout(patience, client.call(request)).await;
        match answer {
            Ok(answer) => answer.map(tonic::Response::into_inner),
            Err(_) => Err(Status::deadline_exceeded("no answer in time")),
        }
    }

    /// Dials, ships, dials again, until `stop` says so.
    pub async fn keep_pushing(self: Arc<Self>, stop: watch::Receiver<bool>) {
        let push = || async {
            let ended = self.unless_renewed(self.push()).await;
            self.set_reached(false, &ended.reason);
            self.links().disconnected(Direction::Push, &ended.reason);
            ended
        };
        self.dial_again_and_again(stop, push).await;
    }

    /// Dials, receives what is to be pulled, dials again, until `stop` says so.
    pub async fn keep_pulling(self: Arc<Self>, node: Arc<Node>, stop: watch::Receiver<bool>) {
        self.dial_again_and_again(stop, || self.unless_renewed(self.pull(&node))).await;
    }

    /// Dials, answers questions, dials again, until `stop` says so.
    pub async fn keep_answering(self: Arc<Self>, node: Arc<Node>, stop: watch::Receiver<bool>) {
        self.dial_again_and_again(stop, || self.unless_renewed(self.answer(&node))).await;
    }

    /// Makes the connection anew when there are new certificates or it has reached its age, until
    /// `stop` says so.
    pub async fn keep_fresh(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let Some(address) = &self.address else { return };
        let mut tls = self.tls.clone();
        loop {
            tokio::select! {
                changed = tls.changed() => if changed.is_err() {
                    return;
                },
                () = tokio::time::sleep(CONNECTION_AGE_MAX) => {}
                _ = stop.changed() => return,
            }
            match channel(&self.name, address, &tls.borrow_and_update()) {
                Ok(channel) => *self.channel.lock() = Some(channel),
                Err(error) => tracing::error!(region = %self.name, %error, "no new connection"),
            }
            self.renewals.send_modify(|renewals| *renewals += 1);
        }
    }

    /// Ends a stream when the connection is made anew.
    async fn unless_renewed(&self, stream: impl Future<Output = Ended>) -> Ended {
        let mut renewed = self.renewals.subscribe();
        tokio::select! {
            ended = stream => ended,
            _ = renewed.changed() => Ended::of("the connection is made anew".to_owned(), true),
        }
    }

    async fn dial_again_and_again<F: Future<Output = Ended>>(
        &self,
        stop: watch::Receiver<bool>,
        dial: impl Fn() -> F,
    ) {
        if self.is_dialled() {
            let dialled_here = self.pulls.subscribe();
            again_and_again(&self.name, stop, dialled_here, [PAUSE_MIN, PAUSE_MAX], dial).await;
        }
    }

    fn client(&self) -> Option<PeerClient<Channel>> {
        let client = PeerClient::new(self.channel.lock().clone()?);
        let client = client.max_decoding_message_size(MESSAGE_BYTES_MAX);
        Some(client.max_encoding_message_size(MESSAGE_BYTES_MAX))
    }

    /// One stream on which this region ships.
    async fn push(&self) -> Ended {
        let Some(mut client) = self.client() else { return not_dialled() };
        // Who is dialled is to greet, if there is anything to ship; else nobody waits for it.
        self.traffic.asked();
        let (sender, receiver) = mpsc::channel::<Result<Frame, Status>>(FRAMES_WAITING_MAX);
        let frames = ReceiverStream::new(receiver).filter_map(Result::ok);
        let answers = match client.exchange(frames).await {
            Ok(response) => response.into_inner(),
            Err(status) => return Ended::refused(&status),
        };
        let heard = || self.set_reached(true, "");
        let reason = carry::ship(self, Direction::Push, sender, answers, heard).await;
        Ended::of(reason, self.reached().connected)
    }

    /// One stream on which this region receives.
    async fn pull(&self, node: &Arc<Node>) -> Ended {
        let Some(mut client) = self.client() else { return not_dialled() };
        let shared = node.shared();
        let (sender, receiver) = mpsc::channel::<Result<Frame, Status>>(FRAMES_WAITING_MAX);
        // By its greeting the other region knows who dials; the certificate proves it.
        let greeting = Body::Hello(shared.hello.clone()).into();
        if sender.send(Ok(greeting)).await.is_err() {
            return Ended::of("the stream was closed".to_owned(), false);
        }
        let answers = ReceiverStream::new(receiver).filter_map(Result::ok);
        let frames = match client.pull(answers).await {
            Ok(response) => response.into_inner(),
            Err(status) => return Ended::refused(&status),
        };
        let inbound = Inbound::new(shared, node.clone(), Direction::Pull);
        let take = |inbound: &mut Inbound, frame: Frame| {
            self.traffic.heard();
            if let Some(Body::Hello(hello)) = &frame.body
                && hello.name != self.name
            {
                return Err(Status::permission_denied("another region answers at this address"));
            }
            inbound.receive(frame).map_err(|error| Status::failed_precondition(error.to_string()))
        };
        let began = node.clock().monotonic();
        let ended = carry::receive(inbound, frames, sender, take).await;
        let reason = ended.map_or_else(String::new, |status| describe(&status));
        Ended::of(reason, node.clock().monotonic() > began + LASTED_MIN)
    }

    /// One stream on which this region is asked.
    async fn answer(&self, node: &Arc<Node>) -> Ended {
        let Some(mut client) = self.client() else { return not_dialled() };
        let (sender, receiver) = mpsc::channel::<Answering>(FRAMES_WAITING_MAX);
        let greeting = Answering { from: self.own_name.clone(), ..Answering::default() };
        if sender.send(greeting).await.is_err() {
            return Ended::of("the stream was closed".to_owned(), false);
        }
        let mut questions = match client.answer(ReceiverStream::new(receiver)).await {
            Ok(response) => response.into_inner(),
            Err(status) => return Ended::refused(&status),
        };
        let few = Arc::new(Semaphore::new(ANSWERING_MAX));
        let began = node.clock().monotonic();
        let ended = |reason| Ended::of(reason, node.clock().monotonic() > began + LASTED_MIN);
        loop {
            let Ok(one_of_few) = few.clone().acquire_owned().await else { return not_dialled() };
            let asking = match questions.message().await {
                Ok(Some(asking)) => asking,
                Ok(None) => return ended("the other region ended the stream".to_owned()),
                Err(status) => return ended(describe(&status)),
            };
            let Some(question) = asking.call.and_then(|call| call.question) else { continue };
            let (node, from, sender) = (node.clone(), self.name.clone(), sender.clone());
            let number = asking.number;
            node.clone().spawn(async move {
                let reply = Some(node.answer(&from, question).await);
                // If the stream is gone, whoever asked has given up.
                let _ = sender.send(Answering { from: String::new(), number, reply }).await;
                drop(one_of_few);
            });
        }
    }

    /// Ships on a stream that the region has dialled, until it ends or there is a newer one.
    pub(super) async fn serve_pull(&self, sender: carry::Sender, answers: Streaming<Frame>) {
        let mut number = 0;
        self.pulls.send_modify(|pulls| {
            *pulls += 1;
            number = *pulls;
        });
        let mut newest = self.pulls.subscribe();
        let _one_at_a_time = self.pulling.lock().await;
        if *newest.borrow() != number {
            return;
        }
        let heard = || {
            self.traffic.pulled(true);
            if !self.is_dialled() {
                self.set_reached(true, "");
            }
        };
        let reason = tokio::select! {
            ended = carry::ship(self, Direction::Pull, sender, answers, heard) => ended,
            _ = newest.wait_for(|newest| *newest != number) => "it has dialled anew".to_owned(),
        };
        self.traffic.pulled(false);
        self.links().disconnected(Direction::Pull, &reason);
        if !self.is_dialled() {
            self.set_reached(false, &reason);
        }
    }

    /// The next frame to send on a stream.
    pub(super) fn next_frame(&self, direction: Direction) -> Option<Frame> {
        let grown = std::mem::take(&mut *self.grown.lock());
        let mut links = self.links();
        for (partition, lsn) in grown {
            links.appended(partition, lsn);
        }
        links.poll(direction)
    }

    fn set_reached(&self, connected: bool, reason: &str) {
        let mut reached = self.reached.lock();
        if reached.connected != connected {
            reached.since_millis = (self.wall_millis)();
            match connected {
                true => tracing::info!(region = %self.name, "stream open"),
                false => tracing::warn!(region = %self.name, reason, "stream lost"),
            }
        }
        reached.connected = connected;
        reached.reason = reason.to_owned();
    }
}

/// Dials with pauses that grow from the first to the second, until `stop` says so. What has found
/// nobody is tried again as soon as the region has dialled this one: it is back.
async fn again_and_again<F: Future<Output = Ended>>(
    region: &str,
    mut stop: watch::Receiver<bool>,
    mut dialled_here: watch::Receiver<u64>,
    [pause_min, pause_max]: [Duration; 2],
    dial: impl Fn() -> F,
) {
    let mut pause = pause_min;
    while !*stop.borrow() {
        dialled_here.borrow_and_update();
        let ended = tokio::select! {
            ended = dial() => ended,
            _ = stop.changed() => return,
        };
        tracing::debug!(region, reason = ended.reason, "a dialled stream ended");
        pause = match (ended.is_unknown, ended.was_open) {
            (true, _) => PAUSE_UNKNOWN,
            (false, true) => pause_min,
            (false, false) => (pause * 2).min(pause_max),
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            Ok(()) = dialled_here.changed(), if ended.found_nobody => pause = pause_min,
            _ = stop.changed() => return,
        }
    }
}

/// A way to the region, which is dialled when something is asked of it.
pub(crate) fn channel(
    name: &str,
    address: &str,
    tls: &PeerTls,
) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("https://{address}"))?
        .tls_config(tls.client(name))?
        .connect_timeout(Duration::from_secs(5))
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE_EVERY)
        .keep_alive_timeout(KEEP_ALIVE_EVERY)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(STREAM_WINDOW_BYTES);
    Ok(endpoint.connect_lazy())
}

fn not_dialled() -> Ended {
    Ended::of("the region cannot be dialled".to_owned(), false)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often it dials when all of it ends alike and the region dials twice.
    async fn dialled(found_nobody: bool) -> u64 {
        let pauses = [Duration::from_secs(3600); 2];
        let (stop, stopped) = watch::channel(false);
        let pulls = watch::Sender::new(0);
        let dials = watch::Sender::new(0u64);
        let mut seen = dials.subscribe();
        let dial = || {
            dials.send_modify(|dials| *dials += 1);
            std::future::ready(Ended { found_nobody, ..Ended::of(String::new(), false) })
        };
        let dialling = again_and_again("r2", stopped, pulls.subscribe(), pauses, dial);
        let region = async {
            for times in [1, 2] {
                let _ = seen.wait_for(|dials| *dials >= times).await;
                pulls.send_modify(|pulls| *pulls += 1);
                if !found_nobody {
                    tokio::task::yield_now().await;
                    break;
                }
            }
            let _ = seen.wait_for(|dials| *dials >= 3 || !found_nobody).await;
            let _ = stop.send(true);
        };
        let both = async { tokio::join!(dialling, region) };
        let _ = tokio::time::timeout(Duration::from_secs(60), both).await;
        *dials.borrow()
    }

    #[tokio::test]
    async fn a_region_that_was_away_is_dialled_as_soon_as_it_dials() {
        assert_eq!(dialled(true).await, 3);
    }

    #[tokio::test]
    async fn one_that_ends_its_streams_is_not_dialled_more_often_for_it() {
        assert_eq!(dialled(false).await, 1);
    }
}
