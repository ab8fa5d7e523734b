//! An answer that comes when what it tells of is durable.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use crate::error::StoreError;

/// An answer to come. Dropping it does not take the change back.
#[must_use = "a change is known to be durable only by its answer"]
#[derive(Debug)]
pub struct Pending<T> {
    state: State<T>,
}

#[derive(Debug)]
enum State<T> {
    Ready(Option<Result<T, StoreError>>),
    Waiting(oneshot::Receiver<Result<T, StoreError>>),
}

/// Gives the answer; dropped without one, the answer is "unknown".
#[derive(Debug)]
pub(crate) struct Answer<T>(oneshot::Sender<Result<T, StoreError>>);

impl<T> Answer<T> {
    pub(crate) fn give(self, answer: Result<T, StoreError>) {
        // Nobody may be waiting any more; the change stands all the same.
        let _ = self.0.send(answer);
    }
}

impl<T> Pending<T> {
    /// One whose answer is there.
    pub fn ready(answer: Result<T, StoreError>) -> Pending<T> {
        Pending { state: State::Ready(Some(answer)) }
    }

    pub(crate) fn new() -> (Answer<T>, Pending<T>) {
        let (sender, receiver) = oneshot::channel();
        (Answer(sender), Pending { state: State::Waiting(receiver) })
    }

    pub(crate) fn from_result(result: Result<Pending<T>, StoreError>) -> Pending<T> {
        result.unwrap_or_else(|error| Pending::ready(Err(error)))
    }

    /// The answer, if it is there; it is given once.
    pub fn try_take(&mut self) -> Option<Result<T, StoreError>> {
        match &mut self.state {
            State::Ready(answer) => answer.take(),
            State::Waiting(receiver) => {
                let answer = match receiver.try_recv() {
                    Ok(answer) => answer,
                    Err(oneshot::error::TryRecvError::Empty) => return None,
                    Err(oneshot::error::TryRecvError::Closed) => Err(StoreError::Unknown),
                };
                self.state = State::Ready(None);
                Some(answer)
            }
        }
    }

    /// Blocks the thread until the answer comes. Not for use inside an asynchronous runtime.
    pub fn wait(self) -> Result<T, StoreError> {
        match self.state {
            State::Ready(answer) => answer.unwrap_or(Err(StoreError::Unknown)),
            State::Waiting(receiver) => {
                receiver.blocking_recv().unwrap_or(Err(StoreError::Unknown))
            }
        }
    }
}

// No field is ever pinned in place.
impl<T> Unpin for Pending<T> {}

impl<T> Future for Pending<T> {
    type Output = Result<T, StoreError>;

    /// An answer that was taken already is "unknown".
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.get_mut().state {
            State::Ready(answer) => Poll::Ready(answer.take().unwrap_or(Err(StoreError::Unknown))),
            State::Waiting(receiver) => Pin::new(receiver)
                .poll(context)
                .map(|answer| answer.unwrap_or(Err(StoreError::Unknown))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_is_given_once_and_a_lost_one_is_unknown() {
        let (answer, mut pending) = Pending::new();
        assert_eq!(pending.try_take(), None);
        answer.give(Ok(1));
        assert_eq!(pending.try_take(), Some(Ok(1)));
        assert_eq!(pending.try_take(), None);
        let (answer, pending) = Pending::<u8>::new();
        drop(answer);
        assert_eq!(pending.wait(), Err(StoreError::Unknown));
    }
}
