//! Faults of the program itself.
//!
//! A panic while a request is served costs that request: its caller is told that the outcome is
//! not known. A panic in what keeps the region going would leave it half alive, so the process
//! ends, and recovers at its next start as after a crash. What panicked and where is written to
//! standard error by the standard library.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::task::Poll;

use crate::EXIT_FAULT;

/// Does the work; `None` if it panicked. It is not polled again then.
pub(crate) async fn caught<T>(work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    poll_fn(|context| {
        let polled = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context)));
        polled.map_or(Poll::Ready(None), |polled| polled.map(Some))
    })
    .await
}

/// Does work that the region cannot do without: a panic ends the process.
pub(crate) async fn or_end(name: &'static str, work: impl Future<Output = ()>) {
    if caught(work).await.is_none() {
        end(name);
    }
}

/// Does work that blocks on a thread of its own; its panic becomes one of whoever waits.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // The runtime ends, and whoever waits with it.
            Err(_) => std::future::pending().await,
        },
    }
}

/// The same as `or_end` for work of a thread.
pub(crate) fn thread_or_end(name: &'static str, work: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(work)).is_err() {
        end(name);
    }
}

fn end(name: &'static str) -> ! {
    tracing::error!(
        what = name,
        "a fault of the program; the process ends and recovers at its next start"
    );
    std::process::exit(EXIT_FAULT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_told_and_what_is_done_is_given() {
        assert_eq!(caught(async { 7 }).await, Some(7));
        let work = async {
            tokio::task::yield_now().await;
            assert_eq!(std::hint::black_box(1), 2, "planted");
        };
        assert_eq!(caught(work).await, None);
    }

    #[tokio::test]
    async fn a_panic_of_work_that_blocks_reaches_who_waits() {
        assert_eq!(caught(blocking(|| 7)).await, Some(7));
        let work = || assert_eq!(std::hint::black_box(1), 2, "planted");
        assert_eq!(caught(blocking(work)).await, None);
    }
}
