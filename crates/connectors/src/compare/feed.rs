//! Rows of one side on their way to the comparison, a few batches at a time.
//!
//! What must hold: rows come in strictly ascending order of their keys; a side that stops
//! without saying that it is at its end is an error, never an end; what nobody takes any more is
//! not read on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use isthmus_model::key::EncodedKey;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::error::CompareError;
use super::row::Row;

/// Batches that wait at most.
const BATCHES_MAX: usize = 2;

/// What was read so far.
#[derive(Default)]
pub(super) struct Counts {
    rows: AtomicU64,
    bytes: AtomicU64,
}

impl Counts {
    /// One row more; so many bytes in all.
    pub(super) fn read(&self, bytes: u64) {
        self.rows.fetch_add(1, Ordering::Relaxed);
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn add_rows(&self, rows: usize) {
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
    }

    pub(super) fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// Rows, or with `None` the end.
type Given = Result<Option<Vec<Row>>, CompareError>;

/// The end that gives.
pub(super) struct Giver {
    give: mpsc::Sender<Given>,
    pub(super) counts: Arc<Counts>,
}

impl Giver {
    pub(super) fn is_closed(&self) -> bool {
        self.give.is_closed()
    }

    /// Gives rows from a thread that may block; false where nobody takes them.
    pub(super) fn give_blocking(&self, rows: Vec<Row>) -> bool {
        self.give.blocking_send(Ok(Some(rows))).is_ok()
    }

    pub(super) async fn give(&self, rows: Vec<Row>) -> bool {
        self.give.send(Ok(Some(rows))).await.is_ok()
    }
}

/// The end that takes.
pub(super) struct Feed {
    name: String,
    take: mpsc::Receiver<Given>,
    rows: VecDeque<Row>,
    last: Option<EncodedKey>,
    ended: bool,
    pub(super) counts: Arc<Counts>,
    /// Ends with the feed.
    tasks: JoinSet<()>,
}

impl Feed {
    fn new(name: &str) -> (Giver, Feed) {
        let (give, take) = mpsc::channel(BATCHES_MAX);
        let counts = Arc::new(Counts::default());
        let giver = Giver { give, counts: Arc::clone(&counts) };
        let feed = Feed {
            name: name.to_owned(),
            take,
            rows: VecDeque::new(),
            last: None,
            ended: false,
            counts,
            tasks: JoinSet::new(),
        };
        (giver, feed)
    }

    /// Rows that a blocking reader gives.
    pub(super) fn blocking(
        name: &str,
        read: impl FnOnce(&Giver) -> Result<(), CompareError> + Send + 'static,
    ) -> Feed {
        let (giver, mut feed) = Feed::new(name);
        feed.tasks.spawn_blocking(move || {
            let end = read(&giver).map(|()| None);
            // Whoever has gone does not want to know the end.
            let _ = giver.give.blocking_send(end);
        });
        feed
    }

    /// Rows that an asynchronous reader gives.
    pub(super) fn spawned<F>(name: &str, read: impl FnOnce(Arc<Giver>) -> F) -> Feed
    where
        F: Future<Output = Result<(), CompareError>> + Send + 'static,
    {
        let (giver, mut feed) = Feed::new(name);
        let giver = Arc::new(giver);
        let reading = read(Arc::clone(&giver));
        feed.tasks.spawn(async move {
            let end = reading.await.map(|()| None);
            let _ = giver.give.send(end).await;
        });
        feed
    }

    /// The next row if it is here already.
    pub(super) fn ready(&mut self) -> Result<Option<Row>, CompareError> {
        let Some(row) = self.rows.pop_front() else { return Ok(None) };
        if self.last.as_ref().is_some_and(|last| *last >= row.encoded) {
            let message = format!("{}: rows do not come in the order of their keys", self.name);
            return Err(CompareError::Unusable { message });
        }
        self.last = Some(row.encoded.clone());
        Ok(Some(row))
    }

    /// Waits for more rows; false at the end. Nothing is lost where the waiting is given up.
    pub(super) async fn more(&mut self) -> Result<bool, CompareError> {
        while self.rows.is_empty() && !self.ended {
            match self.take.recv().await {
                Some(Ok(Some(rows))) => self.rows.extend(rows),
                Some(Ok(None)) => self.ended = true,
                Some(Err(error)) => return Err(error),
                None => return Err(CompareError::Stopped { side: self.name.clone() }),
            }
        }
        Ok(!self.rows.is_empty())
    }
}
