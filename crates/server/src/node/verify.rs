//! Comparing, repairing and scrubbing tables: this node's side of it, and the running of jobs.
//!
//! What is compared and what a difference is, is the replication room's; here sides are put
//! together (this process, other regions), jobs are run on threads that may block, and what is
//! found is told. Every write goes through the store's one door.

mod answer;
mod compare;
mod deep;
mod healing;
pub(crate) mod json;
mod mend;
pub(crate) mod place;
mod report;
mod run;
mod scrubbing;
pub(crate) mod scrubs;
mod views;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use isthmus_model::clock::Clock;
use isthmus_protocol::error_code::ErrorCode;
use isthmus_replication::verify::session::Sessions;
use isthmus_store::Store;
use serde_json::Value as Json;
use tokio::sync::Semaphore;

use self::scrubs::Scrubs;
use self::views::NodeViews;
use super::Node;
use super::events::{Event, EventKind, Events};
use super::gauge::Gauge;
use crate::api_error::ApiError;
use crate::peer::READ_TIMEOUT;
use crate::peer::call::Question;

pub(crate) use json::key_json as key_told;
pub(crate) use json::key_of_json;

/// Questions about rows that are answered at once; more wait.
const CALLS_MAX: usize = 8;

/// What a node keeps to compare its tables with those of others.
pub(crate) struct Verification {
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) scrubs: Scrubs,
    pub(crate) events: Events,
    pub(crate) gauge: Gauge,
    calls: Semaphore,
    passes: AtomicU64,
}

impl Verification {
    /// `seed` makes the numbers of passes unlike those of other regions and of earlier starts.
    pub(crate) fn new(
        node: Weak<Node>,
        store: &Arc<Store>,
        clock: Arc<dyn Clock>,
        scrubs: Scrubs,
        events: Events,
        seed: u64,
    ) -> Verification {
        Verification {
            sessions: Arc::new(Sessions::new(Arc::new(NodeViews::new(node, store.clone())), clock)),
            scrubs,
            events,
            gauge: Gauge::default(),
            calls: Semaphore::new(CALLS_MAX),
            passes: AtomicU64::new(seed),
        }
    }

    /// A number for a pass over a table that nobody else uses.
    pub(crate) fn next_pass(&self) -> u64 {
        self.passes.fetch_add(1, Ordering::Relaxed)
    }
}

impl Node {
    /// Answers another region's question about rows on a thread that may block.
    pub(super) async fn answer_blocking(
        self: &Arc<Self>,
        from: &str,
        question: Question,
    ) -> Result<Bytes, ApiError> {
        let busy = || ApiError::new(ErrorCode::ServerBusy, "Too much is compared at once.");
        let wait = tokio::time::timeout(READ_TIMEOUT, self.verification.calls.acquire());
        let _one_of_few = wait.await.map_err(|_| busy())?.map_err(|_| busy())?;
        let (node, from) = (self.clone(), from.to_owned());
        let answer = tokio::task::spawn_blocking(move || node.answer_about_rows(&from, question));
        answer
            .await
            .map_err(|_| ApiError::new(ErrorCode::InternalServerError, "Internal server error."))?
    }

    /// Notes what was noticed.
    pub(crate) fn notice(&self, kind: EventKind, table: &str, text: String, detail: Json) {
        let at_ms = self.clock.wall_millis();
        let event = Event { at_ms, kind, table: table.to_owned(), text, detail };
        self.verification.events.push(event, &self.store);
    }

    /// What was noticed lately, newest first.
    pub fn events(&self) -> Vec<Event> {
        self.verification.events.all()
    }
}
