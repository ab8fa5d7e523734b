//! What is waited for before a synchronous table is read, handed over or ended here: that nothing
//! which may have been answered is lacking in its log, and that no write is under way.

use std::time::Duration;

use isthmus_protocol::error_code::ErrorCode;
use isthmus_store::Table;
use tokio::sync::OwnedRwLockWriteGuard;

use super::SETTLE_PATIENCE;
use crate::api_error::ApiError;
use crate::node::Node;

/// How long a planned change of the writer waits for writes that are prepared.
const DRAIN_PATIENCE: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

impl Node {
    /// Reads of a table that is written synchronously here wait until what earlier terms have left
    /// is settled, and say then that they belong elsewhere if it is not written here any more.
    pub async fn await_settled(&self, table: &Table) -> Result<(), ApiError> {
        let Some(sync) = self.sync_table(table) else { return Ok(()) };
        match tokio::time::timeout(SETTLE_PATIENCE, sync.opened()).await {
            Ok(opened) => opened.map(drop),
            Err(_) => Err(not_settled()),
        }
    }

    /// Waits until no write of a table is under way, if it is written synchronously here. None is
    /// begun while the answer is kept. An error as long as something may be lacking in the log that
    /// was prepared before this region wrote it: others hold that, and it may have been answered.
    pub(in crate::node) async fn drain_synced(
        &self,
        table: &Table,
    ) -> Result<Option<OwnedRwLockWriteGuard<()>>, ApiError> {
        let drained = match self.sync_table(table) {
            None => None,
            Some(sync) => {
                let drained = sync.under_way.clone().write_owned();
                let drained = tokio::time::timeout(DRAIN_PATIENCE, drained).await;
                Some(drained.map_err(|_| in_doubt())?)
            }
        };
        self.check_gathered(table)?;
        Ok(drained)
    }

    /// Waits until nothing is lacking in the log of a table that was prepared before this region
    /// wrote it.
    pub(in crate::node) async fn await_gathered(&self, table: &Table) -> Result<(), ApiError> {
        let deadline = self.clock.monotonic() + SETTLE_PATIENCE;
        loop {
            match self.check_gathered(table) {
                Err(_) if self.clock.monotonic() < deadline => {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                gathered => return gathered,
            }
        }
    }

    /// An error as long as something may be lacking there.
    pub(in crate::node) fn check_gathered(&self, table: &Table) -> Result<(), ApiError> {
        let record = self.record(table.id());
        match record.is_none_or(|record| self.has_gathered(table, &record.table)) {
            true => Ok(()),
            false => Err(not_settled()),
        }
    }
}

fn in_doubt() -> ApiError {
    ApiError::new(
        ErrorCode::ServerUnavailable,
        "Writes of the table wait for the votes of other regions, and may be decided. Nothing was \
         done; try again when `isthmus status` shows none in doubt.",
    )
}

fn not_settled() -> ApiError {
    ApiError::new(
        ErrorCode::PartitionUnavailable,
        "What was prepared before this region wrote the table is not settled yet. Try again later.",
    )
}
