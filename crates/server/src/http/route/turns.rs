//! Requests whose partition is split or merged under them: they are routed anew, and notice nothing
//! but that.
//!
//! Where a partition has ended, the record that says what goes on in its place may come a little
//! later, or the region that keeps it may be away. What is planned is known by then, so the new
//! partitions are asked in turn with the old ones: they refuse until they are to serve.

use std::sync::Arc;

use isthmus_control::distribution::Distribution;
use isthmus_model::value::Text;
use tokio::sync::watch;

use crate::api_error::ApiError;
use crate::http::PublicApi;
use crate::http::forward::{SETTLE_PATIENCE, WaitForWriter};

/// The turns of one request.
pub(super) struct Turns<'a> {
    api: &'a PublicApi,
    wait: WaitForWriter<'a>,
    moved: watch::Receiver<u64>,
    number: u32,
}

impl PublicApi {
    pub(super) fn turns(&self) -> Turns<'_> {
        let moved = self.node.writers_moved();
        Turns { api: self, wait: self.wait_for_writer(SETTLE_PATIENCE), moved, number: 0 }
    }
}

impl Turns<'_> {
    /// The table as it is to be asked in this turn.
    pub(super) fn shape_of(&mut self, name: &Text) -> Result<Arc<Distribution>, ApiError> {
        self.moved.borrow_and_update();
        let known = self.api.distributed(name)?;
        let planned = (!self.number.is_multiple_of(2)).then(|| known.reshaped(0)).flatten();
        Ok(planned.map_or(known, Arc::new))
    }

    /// Whether a request that was refused is for another partition now.
    pub(super) fn may_be_elsewhere(&self, table: &Distribution, error: &ApiError) -> bool {
        error.is_elsewhere && self.api.node.may_be_reshaped(table)
    }

    /// Waits for the next turn, since this one was refused so. That is the error after too long.
    pub(super) async fn next(&mut self, refused: ApiError) -> Result<(), ApiError> {
        self.number += 1;
        self.wait.once(&mut self.moved).await.map_err(|_| refused)
    }
}
