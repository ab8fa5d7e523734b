//! Keeps the stream to one other region, on which this region ships as an origin.
//!
//! The state of the links outlives the stream; a stream that breaks is dialled again with a
//! growing pause. The committer only notes which logs have grown, under a lock of its own, so
//! that it never waits for a link.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use isthmus_model::ids::{Lsn, PartitionId};
use isthmus_replication::frame::Frame;
use isthmus_replication::ship::Outbound;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use super::call::{Call, Question, Reply};
use super::service::peer_client::PeerClient;
use super::tls::PeerTls;
use super::{
    CALL_TIMEOUT, FRAMES_WAITING_MAX, KEEP_ALIVE_EVERY, MESSAGE_BYTES_MAX, STREAM_WINDOW_BYTES,
    TICK_EVERY,
};

const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

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
    /// This region's name.
    own_name: String,
    channel: Channel,
    outbound: Mutex<Outbound>,
    grown: Mutex<BTreeMap<PartitionId, Lsn>>,
    wake: Notify,
    reached: Mutex<Reached>,
    wall_millis: Arc<dyn Fn() -> i64 + Send + Sync>,
}

impl OtherRegion {
    /// Prepares to dial the region `name` at `address` (host and port).
    pub fn new(
        name: &str,
        own_name: &str,
        address: &str,
        tls: &PeerTls,
        outbound: Outbound,
        wall_millis: Arc<dyn Fn() -> i64 + Send + Sync>,
    ) -> Result<OtherRegion, tonic::transport::Error> {
        let channel = Endpoint::from_shared(format!("https://{address}"))?
            .tls_config(tls.client(name))?
            .connect_timeout(Duration::from_secs(5))
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE_EVERY)
            .keep_alive_timeout(KEEP_ALIVE_EVERY)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(STREAM_WINDOW_BYTES)
            .connect_lazy();
        let reached = Reached {
            connected: false,
            since_millis: wall_millis(),
            reason: "not dialled yet".to_owned(),
        };
        Ok(OtherRegion {
            name: name.to_owned(),
            own_name: own_name.to_owned(),
            channel,
            outbound: Mutex::new(outbound),
            grown: Mutex::new(BTreeMap::new()),
            wake: Notify::new(),
            reached: Mutex::new(reached),
            wall_millis,
        })
    }

    /// The links to the region. Wake it after changing them.
    pub fn links(&self) -> MutexGuard<'_, Outbound> {
        self.outbound.lock()
    }

    /// Lets the stream look whether there is something to send.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Notes that a log has grown. Called by the committer: takes no lock that waits for work.
    pub fn grown(&self, partition: PartitionId, lsn: Lsn) {
        self.grown.lock().insert(partition, lsn);
        self.wake.notify_one();
    }

    /// Whether the region is reached.
    pub fn reached(&self) -> Reached {
        self.reached.lock().clone()
    }

    /// Asks the region one question.
    pub async fn ask(&self, question: Question) -> Result<Reply, tonic::Status> {
        self.ask_within(question, CALL_TIMEOUT).await
    }

    /// Asks the region one question that may take longer or less long.
    pub async fn ask_within(
        &self,
        question: Question,
        patience: Duration,
    ) -> Result<Reply, tonic::Status> {
        let call = Call { from: self.own_name.clone(), question: Some(question) };
        let mut request = tonic::Request::new(call);
        request.set_timeout(patience);
        let answer = tokio::time::timeout(patience, self.client().call(request)).await;
        match answer {
            Ok(answer) => answer.map(tonic::Response::into_inner),
            Err(_) => Err(tonic::Status::deadline_exceeded("no answer in time")),
        }
    }

    /// Dials, ships, dials again, until `stop` says so.
    pub async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut pause = PAUSE_MIN;
        while !*stop.borrow() {
            let ended = tokio::select! {
                ended = self.ship() => ended,
                _ = stop.changed() => return,
            };
            let was_connected = self.set_reached(false, &ended);
            self.links().disconnected(&ended);
            pause = if was_connected { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = stop.changed() => return,
            }
        }
    }

    fn client(&self) -> PeerClient<Channel> {
        PeerClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// One stream, from greeting to end; returns why it ended.
    async fn ship(&self) -> String {
        let (sender, receiver) = mpsc::channel::<Frame>(FRAMES_WAITING_MAX);
        let mut answers = match self.client().exchange(ReceiverStream::new(receiver)).await {
            Ok(response) => response.into_inner(),
            Err(status) => return describe(&status),
        };
        self.links().connected();
        let mut tick = tokio::time::interval(TICK_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut next = None;
        loop {
            if next.is_none() {
                next = self.next_frame();
            }
            tokio::select! {
                permit = sender.reserve(), if next.is_some() => match (permit, next.take()) {
                    (Ok(permit), Some(frame)) => permit.send(frame),
                    _ => return "the stream was closed".to_owned(),
                },
                answer = answers.message() => match answer {
                    Ok(Some(frame)) => {
                        if let Err(error) = self.links().receive(frame) {
                            return error.to_string();
                        }
                        self.set_reached(true, "");
                    }
                    Ok(None) => return "the other region ended the stream".to_owned(),
                    Err(status) => return describe(&status),
                },
                () = self.wake.notified() => {}
                _ = tick.tick() => self.links().tick(),
            }
        }
    }

    fn next_frame(&self) -> Option<Frame> {
        let grown = std::mem::take(&mut *self.grown.lock());
        let mut links = self.links();
        for (partition, lsn) in grown {
            links.appended(partition, lsn);
        }
        links.poll()
    }

    /// Returns what it was before.
    fn set_reached(&self, connected: bool, reason: &str) -> bool {
        let mut reached = self.reached.lock();
        let before = reached.connected;
        if before != connected {
            reached.since_millis = (self.wall_millis)();
            match connected {
                true => tracing::info!(region = %self.name, "stream open"),
                false => tracing::warn!(region = %self.name, reason, "stream lost"),
            }
        }
        reached.connected = connected;
        reached.reason = reason.to_owned();
        before
    }
}

fn describe(status: &tonic::Status) -> String {
    let mut line = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(inner) = source {
        line.push_str(": ");
        line.push_str(&inner.to_string());
        source = inner.source();
    }
    line
}
