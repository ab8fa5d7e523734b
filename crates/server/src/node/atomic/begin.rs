//! What the region that writes the anchor of a batch does: it has the members keep intents, decides
//! by making its own rows, and tells the members.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use isthmus_control::batches::Tried;
use isthmus_model::atomic::{BatchId, MEMBERS_MAX, Member};
use isthmus_model::ids::TableId;
use isthmus_model::value::Text;
use isthmus_protocol::error_code::ErrorCode;
use isthmus_store::{Beginning, StoreError, Table, Written};
use prost::Message;

use super::rows::{Group, PATH, Refused, all_or_refused, failure, of_store, refused_told};
use super::{ASKED_AT_ONCE, is_unknown};
use crate::api_error::ApiError;
use crate::node::{Node, SyncPart, SyncWrite};
use crate::peer::CALL_TIMEOUT;
use crate::peer::batch::{
    Batch, BatchDone, BatchGroup, GroupDone, Intend, Intended, RowRefused, Settle,
};
use crate::peer::call::Question;
use crate::together::{Piece, together};

/// How long the region that writes the anchor is looked for, and one that writes a member.
const ANCHOR_PATIENCE: Duration = Duration::from_secs(10);
const FIND_PATIENCE: Duration = Duration::from_secs(5);
/// How long the client waits until members have been told of the decision. Those that have not are
/// told later; nobody reads their rows before.
const TELL_PATIENCE: Duration = Duration::from_secs(2);

/// What a member has said.
enum Said {
    Intended {
        member: Member,
        answer: Bytes,
    },
    Refused(Vec<RowRefused>),
    /// It may have kept an intent, or not.
    Failed(ApiError),
}

/// A batch that is begun and not decided: given up, should nothing else come of it.
struct Begun<'a> {
    node: &'a Node,
    id: BatchId,
    /// Its end is for others to see to.
    is_left: bool,
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        if !self.is_left {
            self.node.batches.books.lock().close(self.id);
        }
    }
}

impl Node {
    /// Makes a batch whose anchor is written here.
    pub(in crate::node) async fn on_batch(
        self: &Arc<Self>,
        batch: Batch,
    ) -> Result<Bytes, ApiError> {
        Ok(self.make_batch(batch).await?.encode_to_vec().into())
    }

    /// Has a batch made by the region that writes its anchor, the first group.
    pub(crate) async fn have_batch_made(
        self: &Arc<Self>,
        batch: Batch,
    ) -> Result<BatchDone, ApiError> {
        let Some(anchor) = batch.groups.first() else { return Err(ApiError::no_table()) };
        let hint = anchor.region.clone();
        // All that it waits for comes on top.
        let names = batch.groups.iter().map(|group| self.patience_of_writes(&group.name));
        let within = CALL_TIMEOUT + FIND_PATIENCE + TELL_PATIENCE + names.sum::<Duration>();
        let question = Question::Batch(batch);
        let asked = self.ask_writer(&hint, question, (within, ANCHOR_PATIENCE)).await;
        let (_, done) = asked?;
        BatchDone::decode(done).map_err(|_| ApiError::internal())
    }

    async fn make_batch(self: &Arc<Self>, batch: Batch) -> Result<BatchDone, ApiError> {
        let (anchor, members) = match &batch.groups[..] {
            [anchor, members @ ..] if members.len() <= MEMBERS_MAX => (anchor, members),
            [] => return Err(ApiError::no_table()),
            _ => {
                return Err(ApiError::invalid(format!(
                    "A batch is made in at most {} partitions.",
                    MEMBERS_MAX + 1
                )));
            }
        };
        self.listen_first(&anchor.name).await;
        let table = self.writable_as(&anchor.name, anchor.table)?;
        if !members.is_empty() {
            self.check_takes_batches(&table)?;
        }
        let judged_millis = self.clock.wall_millis();
        let rows = Group::check(&table.schema(), &anchor.body, judged_millis, members.is_empty())?;
        let rows = match rows {
            Ok(rows) => rows,
            Err(refused) => return Ok(refused_at_anchor(refused, members.len())),
        };
        let (node, members) = (self.clone(), members.to_vec());
        // It goes on without the client, who may leave.
        let work = tokio::spawn(async move {
            match members.is_empty() {
                true => node.make_alone(&table, rows, judged_millis).await,
                false => {
                    node.batches.counts.begin();
                    let done = node.make_together(&table, rows, judged_millis, members).await;
                    node.batches.counts.end(&done);
                    done
                }
            }
        });
        match work.await {
            Ok(done) => done,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(ApiError::new(
                ErrorCode::Timeout,
                "Operation timeout. This region stops; whether the batch is made is not known.",
            )),
        }
    }

    /// Makes rows of one partition, by one entry as any atomic write.
    async fn make_alone(
        self: &Arc<Self>,
        table: &Arc<Table>,
        rows: Group,
        judged_millis: i64,
    ) -> Result<BatchDone, ApiError> {
        self.await_writable(table, rows.keys()).await;
        let results = self.make_anchor(table, &rows, judged_millis, SyncPart::Alone).await?;
        let written = match all_or_refused(results) {
            Ok(written) => written,
            Err(refused) => return Ok(refused_at_anchor(refused, 0)),
        };
        self.await_held(table, &written).await?;
        let answer = rows.answer(table, written);
        Ok(BatchDone { groups: vec![GroupDone { answer, ..GroupDone::default() }] })
    }

    async fn make_together(
        self: &Arc<Self>,
        table: &Arc<Table>,
        rows: Group,
        judged_millis: i64,
        groups: Vec<BatchGroup>,
    ) -> Result<BatchDone, ApiError> {
        // What cannot be made costs the members nothing.
        self.await_writable(table, rows.keys()).await;
        let judged = table.judge(rows.changes.clone(), true).await?;
        let refusals = judged.into_iter().enumerate().filter_map(|(place, one)| match one {
            Ok(_) | Err(StoreError::AbortedTogether) => None,
            Err(error) => Some((place, error.into())),
        });
        let refusals: Refused = refusals.collect();
        if !refusals.is_empty() {
            return Ok(refused_at_anchor(refusals, groups.len()));
        }
        let term = self.batch_term(table.writer_word().epoch);
        let names: BTreeSet<Text> =
            groups.iter().map(|group| Text::from(group.name.as_str())).collect();
        let line = self.line_of(table).ok_or_else(ApiError::elsewhere)?;
        let id = self.batches.with_books(line, term, |books| books.begin(names));
        let id = id.ok_or_else(|| {
            ApiError::new(ErrorCode::ServerBusy, "Server is busy. Too many batches are open.")
        })?;
        let mut begun = Begun { node: self, id, is_left: false };
        let said = self.have_intents_kept(table, id, &groups).await;
        let mut members = Vec::with_capacity(groups.len());
        let mut answers = Vec::with_capacity(groups.len());
        for said in &said {
            if let Said::Intended { member, answer } = said {
                self.batches.with_books(line, term, |books| {
                    books.intended(id, &member.name);
                });
                members.push(member.clone());
                answers.push(answer.clone());
            }
        }
        if !self.batches.with_books(line, term, |books| books.may_decide(id)) {
            drop(begun);
            self.give_up(id, &groups, &said);
            // The epoch in which it was begun is over.
            let is_over = said.iter().all(|said| matches!(said, Said::Intended { .. }));
            return match is_over {
                true => Err(ApiError::elsewhere()),
                false => Ok(refused_by_members(said)),
            };
        }
        // From here on its end is what the store says.
        begun.is_left = true;
        self.await_writable(table, rows.keys()).await;
        let sent_in = Arc::new(OnceLock::new());
        let decision =
            SyncPart::Decision { id, members: members.clone(), sent_in: sent_in.clone() };
        let results = self.make_anchor(table, &rows, judged_millis, decision).await;
        let has_failed = match &results {
            Ok(results) => results.iter().any(|one| one.as_ref().is_err_and(is_unknown)),
            Err(error) => is_unknown(error),
        };
        let is_made = is_decided_durably(table, id);
        let tried = Tried::of(is_made, has_failed, sent_in.get().copied());
        self.batches.books.lock().tried(id, tried);
        let is_given_up = tried == Tried::Refused;
        let written = match results.map(all_or_refused) {
            Ok(Ok(written)) => written,
            Ok(Err(refused)) if is_given_up => {
                self.give_up(id, &groups, &said);
                return Ok(refused_at_anchor(refused, groups.len()));
            }
            Err(error) if is_given_up => {
                self.give_up(id, &groups, &said);
                return Err(error);
            }
            Ok(Err(refused)) => {
                let first = refused.into_iter().next();
                return Err(first.map_or_else(ApiError::internal, |(_, error)| error));
            }
            Err(error) => return Err(error),
        };
        self.await_held(table, &written).await?;
        self.tell_decided(id, &members, &groups).await;
        let own = rows.answer(table, written);
        let done = [own].into_iter().chain(answers);
        let done = done.map(|answer| GroupDone { answer, ..GroupDone::default() });
        Ok(BatchDone { groups: done.collect() })
    }

    /// Makes the rows of the anchor, which decides the batch. `part`: `Decision`, or `Alone` where
    /// there is nothing to decide.
    async fn make_anchor(
        self: &Arc<Self>,
        table: &Arc<Table>,
        rows: &Group,
        judged_millis: i64,
        part: SyncPart,
    ) -> Result<Vec<Result<Written, ApiError>>, ApiError> {
        if let Some(sync) = self.sync_table(table) {
            let write = SyncWrite {
                path: PATH,
                judged_millis,
                changes: rows.sync_rows(),
                atomic: true,
                part: Some(part),
            };
            return self.write_synced(sync, table, write).await;
        }
        let changes = rows.changes.clone();
        let made = self.at_once(table, || match part {
            SyncPart::Decision { id, members, .. } => {
                table.decide((id, members), changes, None, Beginning::Fresh)
            }
            SyncPart::Intent { .. } | SyncPart::Alone => table.write(changes, true),
        });
        Ok(of_store(made.await?))
    }

    /// Waits until what was made is as durable as the table's mode asks for.
    async fn await_held(&self, table: &Table, written: &[Written]) -> Result<(), ApiError> {
        match written.first() {
            Some(one) => self.until_held(table, (one.lsn, one.epoch)).done().await,
            None => Ok(()),
        }
    }

    /// Has the members of a batch keep their intents.
    async fn have_intents_kept(
        self: &Arc<Self>,
        table: &Table,
        id: BatchId,
        groups: &[BatchGroup],
    ) -> Vec<Said> {
        let anchor = table.name();
        let asking = groups.iter().map(|group| -> Piece<'_, Said> {
            let intend = Intend {
                batch: Some(id.into()),
                anchor: anchor.as_str().to_owned(),
                name: group.name.clone(),
                body: group.body.clone(),
                table: group.table,
            };
            Box::pin(async move {
                let within = CALL_TIMEOUT + self.patience_of_writes(&group.name);
                let question = Question::Intend(intend);
                let asked = self.ask_writer(&group.region, question, (within, FIND_PATIENCE));
                match asked.await {
                    Ok((_, body)) => match Intended::decode(body) {
                        Ok(told) if told.refused.is_empty() => {
                            let name = Text::from(group.name.as_str());
                            let member = Member { table: TableId(told.table), name };
                            Said::Intended { member, answer: told.answer }
                        }
                        Ok(told) => Said::Refused(told.refused),
                        Err(_) => Said::Failed(ApiError::internal()),
                    },
                    Err(error) => Said::Failed(error),
                }
            })
        });
        together(asking.collect(), ASKED_AT_ONCE).await
    }

    /// Tells those members that a batch is given up which have an intent. Those that may have one
    /// ask for themselves.
    fn give_up(self: &Arc<Self>, id: BatchId, groups: &[BatchGroup], said: &[Said]) {
        let told = groups.iter().zip(said).filter_map(|(group, said)| match said {
            Said::Intended { member, .. } => Some((group.region.clone(), member.table)),
            Said::Refused(_) | Said::Failed(_) => None,
        });
        for (hint, table) in told {
            let node = self.clone();
            self.spawn(async move {
                let settle = Settle { batches: vec![id.into()], table: table.0, made: false };
                let question = Question::Settle(settle);
                // Should it not be heard, the member asks.
                let patience = (TELL_PATIENCE, Duration::ZERO);
                drop(node.ask_writer(&hint, question, patience).await);
            });
        }
    }

    /// Tells the members that a batch is made, and waits for them for a while.
    async fn tell_decided(
        self: &Arc<Self>,
        id: BatchId,
        members: &[Member],
        groups: &[BatchGroup],
    ) {
        let telling = members.iter().zip(groups).map(|(member, group)| {
            let (node, hint) = (self.clone(), group.region.clone());
            let settle = Settle { batches: vec![id.into()], table: member.table.0, made: true };
            tokio::spawn(async move {
                let patience = (CALL_TIMEOUT, Duration::ZERO);
                // Should it not be heard, it is told again.
                drop(node.ask_writer(&hint, Question::Settle(settle), patience).await);
            })
        });
        let telling: Vec<_> = telling.collect();
        let all = async {
            for told in telling {
                drop(told.await);
            }
        };
        // Late or not, it is decided.
        let _ = tokio::time::timeout(TELL_PATIENCE, all).await;
    }
}

/// Whether a decision is in the log for good: what is not durable may be lost with this region.
pub(super) fn is_decided_durably(table: &Table, id: BatchId) -> bool {
    table.decided_batch(id).is_some_and(|decided| decided.lsn <= table.durable_lsn())
}

/// Rows of the anchor are why nothing is made.
fn refused_at_anchor(refused: Refused, members: usize) -> BatchDone {
    let own = GroupDone { refused: refused_told(refused), ..GroupDone::default() };
    let others = std::iter::repeat_n(GroupDone::default(), members);
    BatchDone { groups: [own].into_iter().chain(others).collect() }
}

/// Members are why nothing is made.
fn refused_by_members(said: Vec<Said>) -> BatchDone {
    let groups = said.into_iter().map(|said| match said {
        Said::Intended { .. } => GroupDone::default(),
        Said::Refused(refused) => GroupDone { refused, ..GroupDone::default() },
        Said::Failed(error) => {
            GroupDone { failure: Some(failure(nothing_made(error))), ..GroupDone::default() }
        }
    });
    BatchDone { groups: [GroupDone::default()].into_iter().chain(groups).collect() }
}

/// What was unknown of one member is known of the batch: it is not made.
fn nothing_made(error: ApiError) -> ApiError {
    match is_unknown(&error) {
        false => error,
        true => ApiError::new(
            ErrorCode::PartitionUnavailable,
            format!("Nothing was written, since a region did not answer: {}", error.message),
        ),
    }
}
