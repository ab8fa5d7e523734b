//! Questions to a region that cannot be dialled: they go over a stream that it dials.
//!
//! A region keeps such a stream to every other region that it dials, whether that one needs it or
//! not. Questions are numbered and may be answered in any order; those that wait when the stream
//! ends fail, and whether they were done is not known.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tonic::{ConnectError, Status, Streaming};

use super::call::{Answering, Asking, Call, Reply};

/// Questions that wait to be written, or for their answers.
const ASKED_MAX: usize = 256;

/// The stream from a region over which it is asked.
#[derive(Default)]
pub struct Callbacks {
    open: Mutex<Option<Open>>,
    numbers: AtomicU64,
}

struct Open {
    /// The number of the stream.
    stream: u64,
    sender: mpsc::Sender<Result<Asking, Status>>,
    waiting: BTreeMap<u64, oneshot::Sender<Reply>>,
}

impl Callbacks {
    /// Asks, and waits so long for the answer.
    pub async fn ask(&self, call: Call, patience: Duration) -> Result<Reply, Status> {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = self.expect(number)?;
        let asking = Ok(Asking { number, call: Some(call) });
        let asked = async {
            sender.send(asking).await.map_err(|_| lost())?;
            answer.await.map_err(|_| lost())
        };
        let answer = tokio::time::timeout(patience, asked).await;
        if answer.is_err()
            && let Some(open) = self.open.lock().as_mut()
        {
            open.waiting.remove(&number);
        }
        answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")))
    }

    /// Takes in answers until the stream ends or a newer one takes its place.
    pub async fn serve(
        &self,
        sender: mpsc::Sender<Result<Asking, Status>>,
        mut answers: Streaming<Answering>,
    ) {
        let stream = self.numbers.fetch_add(1, Ordering::Relaxed);
        *self.open.lock() = Some(Open { stream, sender: sender.clone(), waiting: BTreeMap::new() });
        loop {
            let answer = tokio::select! {
                answer = answers.message() => answer,
                () = sender.closed() => break,
            };
            let Ok(Some(answer)) = answer else { break };
            let mut open = self.open.lock();
            let Some(open) = open.as_mut().filter(|open| open.stream == stream) else { return };
            if let Some(asker) = open.waiting.remove(&answer.number) {
                // Who does not wait any more does not need it.
                let _ = asker.send(answer.reply.unwrap_or_default());
            }
        }
        let mut open = self.open.lock();
        if open.as_ref().is_some_and(|open| open.stream == stream) {
            *open = None;
        }
    }

    #[allow(clippy::type_complexity)]
    fn expect(
        &self,
        number: u64,
    ) -> Result<(mpsc::Sender<Result<Asking, Status>>, oneshot::Receiver<Reply>), Status> {
        let mut open = self.open.lock();
        let open = open.as_mut().ok_or_else(|| unsent("it has not dialled"))?;
        if open.waiting.len() >= ASKED_MAX {
            return Err(unsent("too many questions wait"));
        }
        let (asker, answer) = oneshot::channel();
        open.waiting.insert(number, asker);
        Ok((open.sender.clone(), answer))
    }
}

/// As where a region that can be dialled is not there.
fn unsent(why: &str) -> Status {
    Status::from_error(Box::new(ConnectError(why.into())))
}

fn lost() -> Status {
    Status::unavailable("the stream that the region had dialled is lost")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::dial::is_unsent;

    #[tokio::test]
    async fn who_has_not_dialled_cannot_be_asked() {
        let callbacks = Callbacks::default();
        let asked = callbacks.ask(Call::default(), Duration::from_secs(1)).await;
        let status = asked.unwrap_err();
        assert_eq!(status.code(), tonic::Code::Unavailable);
        assert!(is_unsent(&status));
    }

    #[tokio::test]
    async fn what_is_not_answered_is_forgotten() {
        let callbacks = Callbacks::default();
        let (sender, _receiver) = mpsc::channel(4);
        let waiting = BTreeMap::new();
        *callbacks.open.lock() = Some(Open { stream: 7, sender, waiting });
        let asked = callbacks.ask(Call::default(), Duration::from_millis(1)).await;
        assert_eq!(asked.unwrap_err().code(), tonic::Code::DeadlineExceeded);
        assert!(callbacks.open.lock().as_ref().is_some_and(|open| open.waiting.is_empty()));
    }
}
