//! What a member of a batch does: it keeps an intent, and ends it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use isthmus_control::batches::{Settled, Step};
use isthmus_model::atomic::{BatchId, Intent};
use isthmus_model::check::CheckedKey;
use isthmus_model::ids::{Epoch, Lsn, TableId};
use isthmus_model::key::KeyValue;
use isthmus_model::value::Text;
use isthmus_protocol::error_code::ErrorCode;
use isthmus_store::{StoreError, Table, Written};
use prost::Message;

use super::counts::SettledBy;
use super::is_unknown;
use super::rows::{Group, PATH, Refused, all_or_refused, of_store, refused_told};
use crate::api_error::ApiError;
use crate::node::{Node, SyncPart, SyncWrite};
use crate::peer::batch::{Intend, Intended, Settle, SettleTold};
use crate::peer::call::{NumberGiven, PreparedWrite};

/// So long a question waits for what it settles; it goes on after that.
pub(super) const SETTLE_WITHIN: Duration = Duration::from_secs(2);
/// So long after others were found not to hold what was settled it is looked again.
const HELD_AGAIN: Duration = Duration::from_millis(50);

/// A member is settling a batch; at most once at a time.
struct Settling {
    node: Arc<Node>,
    what: (TableId, BatchId),
}

impl Settling {
    fn begin(node: &Arc<Node>, table: TableId, id: BatchId) -> Option<Settling> {
        let what = (table, id);
        let is_new = node.batches.settling.lock().insert(what);
        is_new.then(|| Settling { node: node.clone(), what })
    }
}

impl Drop for Settling {
    fn drop(&mut self) {
        self.node.batches.settling.lock().remove(&self.what);
    }
}

impl Node {
    /// Keeps the intent of a batch.
    pub(in crate::node) async fn on_intend(
        self: &Arc<Self>,
        asked: Intend,
    ) -> Result<Bytes, ApiError> {
        let id: BatchId =
            asked.batch.ok_or_else(|| ApiError::invalid("A batch has no name."))?.into();
        self.listen_first(&asked.name).await;
        let table = self.writable_as(&asked.name, asked.table)?;
        self.check_takes_batches(&table)?;
        let judged_millis = self.clock.wall_millis();
        let group = Group::check(&table.schema(), &asked.body, judged_millis, false)?;
        let line = self.line_of(&table).ok_or_else(ApiError::elsewhere)?.0;
        let told = |refused: Refused| Intended {
            table: line,
            answer: Bytes::new(),
            refused: refused_told(refused),
        };
        let group = match group {
            Ok(group) => group,
            Err(refused) => return Ok(told(refused).encode_to_vec().into()),
        };
        self.await_writable(&table, group.keys()).await;
        let anchor = Text::from(asked.anchor.as_str());
        let results = self.keep_intent(&table, (id, anchor), &group, judged_millis).await?;
        let intended = match all_or_refused(results) {
            Ok(written) => {
                let answer = group.answer(&table, written);
                Intended { table: line, answer, refused: Vec::new() }
            }
            Err(refused) => told(refused),
        };
        Ok(intended.encode_to_vec().into())
    }

    async fn keep_intent(
        self: &Arc<Self>,
        table: &Arc<Table>,
        (id, anchor): (BatchId, Text),
        group: &Group,
        judged_millis: i64,
    ) -> Result<Vec<Result<Written, ApiError>>, ApiError> {
        if let Some(sync) = self.sync_table(table) {
            let write = SyncWrite {
                path: PATH,
                judged_millis,
                changes: group.sync_rows(),
                atomic: true,
                part: Some(SyncPart::Intent { id, anchor }),
            };
            return self.write_synced(sync, table, write).await;
        }
        let mut changes = group.changes.clone();
        let mut numbers = Vec::new();
        if changes.iter().any(|change| matches!(change.key, CheckedKey::AutoIncrement { .. })) {
            let judged = table.judge(changes.clone(), true).await?;
            if judged.iter().any(Result::is_err) {
                let refused = |one: Result<_, StoreError>| match one {
                    Ok(_) | Err(StoreError::AbortedTogether) => Err(ApiError::given_up()),
                    Err(error) => Err(error.into()),
                };
                return Ok(judged.into_iter().map(refused).collect());
            }
            for ((place, change), key) in (0..).zip(&mut changes).zip(judged) {
                let CheckedKey::AutoIncrement { column, .. } = &change.key else { continue };
                let Ok(key) = key else { continue };
                if let Some(KeyValue::Integer(number)) = key.0.get(*column) {
                    numbers.push(NumberGiven { place, number: *number });
                }
                change.key = CheckedKey::Whole(key);
            }
        }
        let (path, body) = (PATH.to_owned(), group.body().clone());
        let write = PreparedWrite { path, body, judged_millis, numbers, ..Default::default() };
        let request = write.encode_to_vec().into();
        let intent = Intent { id, anchor, keys: Vec::new(), request };
        let results = self.at_once(table, || table.intend(intent, changes, None)).await?;
        if let Some(Ok(Written { lsn, epoch, .. })) = results.first() {
            self.until_held(table, (*lsn, *epoch)).done().await?;
        }
        Ok(of_store(results))
    }

    /// Ends the intents of batches.
    pub(in crate::node) async fn on_settle(
        self: &Arc<Self>,
        asked: Settle,
    ) -> Result<Bytes, ApiError> {
        let line = TableId(asked.table);
        if let Some(table) = self.table_of_line(line) {
            self.listen_first(table.name().as_str()).await;
        }
        let (table, epoch) = self.written_line(line).await?;
        let until = self.clock.monotonic() + SETTLE_WITHIN;
        let mut held = Vec::with_capacity(asked.batches.len());
        for batch in asked.batches.into_iter().map(BatchId::from) {
            // What is not settled now is asked for again.
            let became = (asked.made, SettledBy::Anchor);
            let settled = match self.settle(&table, batch, became, until).await {
                Ok(lsn) => self.how_held(&table, batch, (lsn, epoch)),
                Err(error) => {
                    let name = table.name();
                    tracing::info!(%batch, table = %name, %error, "a batch is not settled yet");
                    Settled::Not
                }
            };
            held.push(settled.number());
        }
        // Whoever writes now says what is settled.
        self.check_written_line(&table, line, epoch)?;
        Ok(SettleTold { held }.encode_to_vec().into())
    }

    fn how_held(&self, table: &Table, batch: BatchId, (lsn, epoch): (Lsn, Epoch)) -> Settled {
        let upkeep = &self.batches.upkeep;
        let lsn = upkeep.lock().settled_at(table.id(), batch, (lsn, epoch));
        match self.is_held_by_all(table, lsn) {
            true => {
                upkeep.lock().is_held(table.id(), batch);
                Settled::ByAll
            }
            false => Settled::AsAsked,
        }
    }

    /// Ends an intent, if there is one. Gives an entry at or before which it has ended, which is as
    /// durable as the table's mode asks for. It goes on after `until`, by the monotonic clock, and
    /// where nobody waits any more. What a person has said of the batch counts before `made`.
    pub(super) async fn settle(
        self: &Arc<Self>,
        table: &Arc<Table>,
        id: BatchId,
        (made, by): (bool, SettledBy),
        until: Duration,
    ) -> Result<Lsn, ApiError> {
        let patience = until.saturating_sub(self.clock.monotonic());
        if patience.is_zero() {
            return Err(ApiError::new(ErrorCode::ServerBusy, "Server is busy. It was not begun."));
        }
        let under_way = Settling::begin(self, table.id(), id).ok_or_else(|| {
            ApiError::new(ErrorCode::ServerBusy, "Server is busy. The batch is being settled.")
        })?;
        let (node, table) = (self.clone(), table.clone());
        // What protects rows until others have them must not fall with whoever asks.
        let mut work = tokio::spawn(async move {
            let is_open = table.intent(id).is_some();
            let made = node.outcome_of(&table, id, made);
            let settled = node.settle_now(&table, id, made).await;
            if is_open && settled.is_ok() {
                node.batches.counts.settled(by);
            }
            drop(under_way);
            settled
        });
        match tokio::time::timeout(patience, &mut work).await {
            Ok(Ok(settled)) => settled,
            Ok(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Ok(Err(_)) => Err(ApiError::new(ErrorCode::Timeout, "This region stops.")),
            Err(_) => Err(ApiError::new(
                ErrorCode::Timeout,
                "Other regions do not hold what a batch has become here yet.",
            )),
        }
    }

    async fn settle_now(
        self: &Arc<Self>,
        table: &Arc<Table>,
        id: BatchId,
        made: bool,
    ) -> Result<Lsn, ApiError> {
        let epoch = table.writer_word().epoch;
        let known = table.intent(id).map(|(intent, _)| intent);
        let intent = match Step::of(known, made) {
            Step::Make(intent) => intent,
            Step::Nothing => {
                // It may have ended a moment ago.
                table.settled().await?;
                return self.held_through(table, table.durable_lsn(), epoch).await;
            }
            Step::GiveUp => {
                table.abandon_batch(id).await?;
                return Ok(table.durable_lsn());
            }
        };
        let (rows, _) = self.read_prepared(table, intent.request)?;
        let Some(sync) = self.sync_table(table) else {
            let settled = self.at_once(table, || table.settle_batch(id, rows)).await?;
            return self.settled_through(table, settled, epoch).await;
        };
        // Nothing is judged on it before enough others have it.
        let _under_way = sync.lock_for_batch(intent.keys).await?;
        let settled = table.settle_batch(id, rows).await?;
        loop {
            match self.settled_through(table, settled.clone(), epoch).await {
                Err(error) if is_unknown(&error) && sync.is_open() => {
                    tokio::time::sleep(HELD_AGAIN).await;
                }
                ended => return ended,
            }
        }
    }

    async fn settled_through(
        &self,
        table: &Table,
        results: Vec<Result<Written, StoreError>>,
        epoch: Epoch,
    ) -> Result<Lsn, ApiError> {
        let mut through = table.durable_lsn();
        for result in results {
            through = result?.lsn;
        }
        self.held_through(table, through, epoch).await
    }

    async fn held_through(&self, table: &Table, lsn: Lsn, epoch: Epoch) -> Result<Lsn, ApiError> {
        self.until_held(table, (lsn, epoch)).done().await?;
        Ok(lsn)
    }
}
