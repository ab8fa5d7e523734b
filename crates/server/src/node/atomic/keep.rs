//! Settling what batches have left: members ask anchors what became of intents, anchors tell
//! members what they have decided, until all have settled it and it is forgotten.
//!
//! Each round takes a bounded step, and may be repeated at will. What was asked in vain is asked
//! again after longer and longer.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use isthmus_control::batches::{AnchorLog, Settled, Upkeep, is_made};
use isthmus_control::distribution::partition_named;
use isthmus_model::atomic::{BatchId, Verdict};
use isthmus_model::ids::TableId;
use isthmus_model::value::Text;
use isthmus_protocol::error_code::ErrorCode;
use isthmus_store::Table;
use prost::Message;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::begin::is_decided_durably;
use super::counts::SettledBy;
use super::member::SETTLE_WITHIN;
use super::{ASKED_AT_ONCE, primary_of};
use crate::api_error::ApiError;
use crate::node::Node;
use crate::node::events::EventKind;
use crate::peer::batch::{AskVerdict, Settle, SettleTold, VerdictTold, verdict_of};
use crate::peer::call::Question;

/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often regions that were away are told what people have said of batches.
const TELL_WORDS_EVERY: Duration = Duration::from_secs(2);
/// How long one question may take.
const ASK_WITHIN: Duration = Duration::from_secs(3);
/// One round takes so long at most; what is left is for a later one.
const ROUND_WITHIN: Duration = Duration::from_secs(10);

/// The tables that are seen to at the moment, each by a task of its own: one that waits for other
/// regions holds up no other.
#[derive(Default)]
struct AtWork {
    tasks: JoinSet<TableId>,
    tables: BTreeSet<TableId>,
    /// The last one that was begun with; those after it are next.
    last: TableId,
}

impl AtWork {
    fn take_ended(&mut self) {
        while let Some(ended) = self.tasks.try_join_next() {
            match ended {
                Ok(table) => drop(self.tables.remove(&table)),
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => {}
            }
        }
    }

    fn begin(&mut self, node: &Arc<Node>, tables: Vec<Arc<Table>>) {
        let (before, after): (Vec<_>, Vec<_>) =
            tables.into_iter().partition(|table| table.id() <= self.last);
        for table in after.into_iter().chain(before) {
            if self.tables.len() >= ASKED_AT_ONCE {
                return;
            }
            let id = table.id();
            if self.tables.insert(id) {
                self.last = id;
                let node = node.clone();
                self.tasks.spawn(async move {
                    node.settle_table(&table).await;
                    id
                });
            }
        }
    }
}

impl Node {
    /// Settles what batches have left, until `stop` says so.
    pub async fn keep_batches(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut have_lines = false;
        let mut at_work = AtWork::default();
        let mut telling = JoinSet::new();
        let mut tell_at = Duration::ZERO;
        while !*stop.borrow() {
            if !have_lines {
                let given = tokio::select! {
                    given = self.give_lines() => given,
                    _ = stop.changed() => return,
                };
                match given {
                    Ok(()) => have_lines = true,
                    Err(error) => tracing::info!(%error, "tables have no lines for batches yet"),
                }
            }
            self.look_at_doubtful();
            while telling.try_join_next().is_some() {}
            let now = self.clock.monotonic();
            if telling.is_empty() && now >= tell_at {
                tell_at = now + TELL_WORDS_EVERY;
                let node = self.clone();
                telling.spawn(async move { node.tell_words().await });
            }
            at_work.take_ended();
            let mut kept = self.store.tables();
            kept.retain(|table| table.keeps_batches() && self.may_settle(table));
            at_work.begin(&self, kept);
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                _ = stop.changed() => return,
            }
        }
    }

    fn may_settle(&self, table: &Table) -> bool {
        let is_here = self.is_written_here(table);
        if !is_here {
            self.batches.upkeep.lock().forget_table(table.id());
        }
        is_here
    }

    /// What was sent to others and not found made here is made, or void, or still open.
    fn look_at_doubtful(&self) {
        let doubtful = self.batches.books.lock().doubtful();
        for id in doubtful {
            let log = self.table_of_line(id.anchor).map(|table| AnchorLog {
                is_made: is_decided_durably(&table, id),
                settled: table.terms().1,
                epoch: table.writer_word().epoch.0,
            });
            self.batches.books.lock().look(id, log);
        }
    }

    async fn settle_table(self: &Arc<Self>, table: &Arc<Table>) {
        self.ask_for_verdicts(table).await;
        self.tell_decisions(table).await;
    }

    /// Asks what became of the batches whose intents are here.
    async fn ask_for_verdicts(self: &Arc<Self>, table: &Arc<Table>) {
        let (now, wall) = (self.clock.monotonic(), self.clock.wall_millis());
        let mut intents = Vec::new();
        for (id, anchor, rows, since) in table.intents() {
            let age = age(wall, since.millis());
            if self.batches.upkeep.lock().is_long(table.id(), id, age) {
                self.notice_long(table, id, anchor.as_str(), rows);
            }
            match self.batches.words.outcome(id).filter(|_| Upkeep::sees_to(age)) {
                Some(made) => self.settle_told(table, id, made, now).await,
                None => intents.push((id, anchor, age)),
            }
        }
        let by_anchor = self.batches.upkeep.lock().to_ask(table.id(), intents, now);
        for (anchor, (name, ids)) in by_anchor {
            if self.clock.monotonic() >= now + ROUND_WITHIN {
                return;
            }
            let batches = ids.iter().map(|id| (*id).into()).collect();
            let question = Question::Verdict(AskVerdict { batches });
            let asked = self.ask_for(anchor, name.as_str(), question).await;
            let verdicts: Vec<Verdict> = match asked {
                Ok(told) => match VerdictTold::decode(told) {
                    Ok(told) => told.verdicts.into_iter().map(verdict_of).collect(),
                    Err(_) => continue,
                },
                // No region has the anchor any more, and it cannot have been dropped while a
                // decision was to be told.
                Err(error) if error.code == ErrorCode::ObjectNotExist => {
                    vec![Verdict::Abandoned; ids.len()]
                }
                Err(error) => {
                    let name = table.name();
                    tracing::info!(table = %name, %error, "what became of a batch is not known");
                    continue;
                }
            };
            for (id, verdict) in ids.into_iter().zip(verdicts) {
                let Some(made) = is_made(verdict) else { continue };
                self.settle_told(table, id, made, now).await;
            }
        }
    }

    /// Settles a batch of which it is known what became, in a round that began at that time.
    async fn settle_told(
        self: &Arc<Self>,
        table: &Arc<Table>,
        id: BatchId,
        made: bool,
        round_began: Duration,
    ) {
        let begun = self.clock.monotonic();
        if begun >= round_began + ROUND_WITHIN {
            return;
        }
        match self.settle(table, id, (made, SettledBy::Upkeep), begun + SETTLE_WITHIN).await {
            Ok(_) => self.batches.upkeep.lock().is_over(table.id(), id),
            Err(error) => {
                let name = table.name();
                tracing::warn!(table = %name, batch = %id, %error, "not settled yet");
            }
        }
    }

    /// Tells members of the batches that were decided here, and forgets what all have settled.
    async fn tell_decisions(self: &Arc<Self>, table: &Arc<Table>) {
        let (now, wall) = (self.clock.monotonic(), self.clock.wall_millis());
        let epoch = table.writer_word().epoch;
        let Some(line) = self.line_of(table) else { return };
        let decided = table.decided_batches();
        let decided = decided.into_iter().map(|(id, decided)| {
            let age = age(wall, decided.since.millis());
            (id, decided.members, age)
        });
        let may_be_told = |id| {
            let decided = table.decided_batch(id);
            decided.is_some_and(|decided| self.may_be_told(table, &decided, epoch))
        };
        let mut telling = self.batches.upkeep.lock().to_tell(
            (table.id(), line),
            decided.collect(),
            may_be_told,
            now,
        );
        // Another region may write the anchor by now.
        if self.check_written_line(table, line, epoch).is_err() {
            return;
        }
        let members: Vec<(TableId, Text, Vec<BatchId>)> =
            telling.members().map(|(line, name, ids)| (line, name.clone(), ids.to_vec())).collect();
        for (member, name, ids) in members {
            if self.clock.monotonic() >= now + ROUND_WITHIN {
                break;
            }
            let batches = ids.into_iter().map(Into::into).collect();
            let settle = Settle { batches, table: member.0, made: true };
            match self.ask_for(member, name.as_str(), Question::Settle(settle)).await {
                Ok(told) => {
                    let Ok(told) = SettleTold::decode(told) else { continue };
                    telling.told(member, told.held.into_iter().map(Settled::of));
                }
                // It is dropped, with its rows.
                Err(error) if error.code == ErrorCode::ObjectNotExist => telling.is_gone(member),
                Err(error) => {
                    let name = table.name();
                    tracing::info!(table = %name, %error, "a decision is not told yet");
                }
            }
        }
        let over = telling.over();
        if over.is_empty() {
            return;
        }
        match table.forget_batches(&over).await {
            Ok(()) => {
                self.batches.words.note_told(&over);
                let mut upkeep = self.batches.upkeep.lock();
                over.iter().for_each(|id| upkeep.is_over(table.id(), *id));
            }
            Err(error) => {
                let name = table.name();
                tracing::info!(table = %name, %error, "decisions are not forgotten yet");
            }
        }
    }

    /// Asks the region that writes the table of a line, the likeliest one first. An error that
    /// names no table: it is gone for good.
    async fn ask_for(
        self: &Arc<Self>,
        line: TableId,
        name: &str,
        question: Question,
    ) -> Result<Bytes, ApiError> {
        let upkeep = &self.batches.upkeep;
        if self.is_replaced(name) {
            // When it ended it kept no intent, and no decision that was not settled everywhere.
            return Err(ApiError::no_table());
        }
        let known = self.batches.writers.lock().get(&line).cloned();
        let hint = known.unwrap_or_else(|| {
            let held = self.table_of_line(line);
            primary_of(held.and_then(|table| self.record(table.id())))
        });
        let asked = self.ask_writer(&hint, question, (ASK_WITHIN, Duration::ZERO)).await;
        match asked {
            Ok((region, told)) => {
                upkeep.lock().is_there(line);
                if region != hint {
                    self.batches.writers.lock().insert(line, region);
                }
                Ok(told)
            }
            Err(error) if error.code == ErrorCode::ObjectNotExist => {
                let is_distributed = |(table, _)| self.distribution(table).is_some();
                let may_be =
                    !self.knows_maker_of(line) || partition_named(name).is_some_and(is_distributed);
                match upkeep.lock().is_gone(line, may_be, self.clock.monotonic()) {
                    true => Err(error),
                    false => Err(ApiError::elsewhere()),
                }
            }
            Err(error) => {
                upkeep.lock().is_there(line);
                Err(error)
            }
        }
    }

    fn notice_long(&self, table: &Table, id: BatchId, anchor: &str, rows: usize) {
        let name = table.name();
        let text = format!(
            "{rows} rows are locked by batch {id}, since the region that writes {anchor} has not \
             said what became of it"
        );
        let detail = json!({ "batch": id.to_string(), "anchor": anchor, "rows": rows });
        self.notice(EventKind::BatchInDoubt, name.as_str(), text, detail);
    }
}

fn age(now_millis: i64, since_millis: i64) -> Duration {
    Duration::from_millis(now_millis.saturating_sub(since_millis).max(0).unsigned_abs())
}
