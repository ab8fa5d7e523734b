//! Settling what batches have left: members ask anchors what became of intents, anchors tell
//! members what they have decided, until all have settled it and it is forgotten.
//!
//! Each round takes a bounded step, and may be repeated at will. What was asked in vain is asked
//! again after longer and longer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use isthmus_control::distribution::partition_named;
use isthmus_model::atomic::{BatchId, Member, Verdict};
use isthmus_model::ids::{Epoch, Lsn, TableId};
use isthmus_model::value::Text;
use isthmus_protocol::error_code::ErrorCode;
use isthmus_store::Table;
use parking_lot::Mutex;
use prost::Message;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::counts::SettledBy;
use super::member::{SETTLE_WITHIN, may_forget};
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
/// What is younger is seen to by the region that begins the batch.
const QUIET_MAX: Duration = Duration::from_secs(1);
/// What was asked in vain is asked again after this, then after twice as long, and so on.
const AGAIN: Duration = Duration::from_millis(500);
const AGAIN_MAX: Duration = Duration::from_secs(10);
/// Batches of one table that are seen to in one round.
const ROUND_MAX: usize = 500;
/// How long one question may take.
const ASK_WITHIN: Duration = Duration::from_secs(3);
/// Decisions that are kept until all replicas of all members hold that they are settled; beyond it
/// is enough that they are settled as durably as the members' modes ask for.
const KEPT_FOR_REPLICAS: usize = 2_000;
/// Batches of which it is remembered where they were settled.
const SETTLED_MAX: usize = 50_000;
/// One round takes so long at most; what is left is for a later one.
const ROUND_WITHIN: Duration = Duration::from_secs(10);
/// A table is gone that no region has had for so long: one that moves from region to region between
/// two questions is missing only for a moment.
const GONE_AFTER: Duration = Duration::from_secs(10);
/// Tables of which it is remembered since when they are missing.
const MISSING_MAX: usize = 10_000;
/// Somebody should look at a batch that is in doubt for so long.
const LONG_IN_DOUBT: Duration = Duration::from_secs(60);

/// What upkeep remembers, in memory only.
#[derive(Default)]
pub(super) struct Upkeep {
    /// When something is to be asked again, and how long after the last time that is.
    again: Mutex<BTreeMap<(TableId, BatchId), (Duration, Duration)>>,
    /// Entries of members at or before which they have settled batches, and the epochs in which
    /// that was said.
    settled: Mutex<BTreeMap<(TableId, BatchId), (Lsn, Epoch)>>,
    /// Batches that were long in doubt when they were last looked at, or that an anchor spoke of
    /// otherwise than a person had.
    noticed: Mutex<BTreeSet<(TableId, BatchId)>>,
    /// Which region was the last one to answer for a table.
    writers: Mutex<BTreeMap<TableId, String>>,
    /// Since when all regions have said that they do not have a table.
    missing: Mutex<BTreeMap<TableId, Duration>>,
}

impl Upkeep {
    /// The entry at or before which a batch was settled: the first one that was told in that
    /// epoch. What was said in an earlier one may be of entries that are not in the log any more.
    pub(super) fn settled_at(
        &self,
        table: TableId,
        batch: BatchId,
        (lsn, epoch): (Lsn, Epoch),
    ) -> Lsn {
        let mut settled = self.settled.lock();
        if settled.len() >= SETTLED_MAX {
            settled.clear();
        }
        let known = settled.entry((table, batch)).or_insert((lsn, epoch));
        if known.1 != epoch {
            *known = (lsn, epoch);
        }
        known.0
    }

    /// Whether no region has had a table for long, after all have said so once more.
    fn is_gone(&self, table: TableId, now: Duration) -> bool {
        let mut missing = self.missing.lock();
        if missing.len() >= MISSING_MAX {
            missing.clear();
        }
        let since = *missing.entry(table).or_insert(now);
        now.saturating_sub(since) >= GONE_AFTER
    }

    /// A region may have it.
    fn is_there(&self, table: TableId) {
        self.missing.lock().remove(&table);
    }

    /// Nobody asks any more where it was settled.
    pub(super) fn is_held(&self, table: TableId, batch: BatchId) {
        self.settled.lock().remove(&(table, batch));
    }

    /// Whether nothing was noticed of a batch yet.
    pub(super) fn is_first_notice(&self, table: TableId, batch: BatchId) -> bool {
        self.noticed.lock().insert((table, batch))
    }

    /// Whether something is to be asked now; if so it is not due again for a while.
    fn is_due(&self, table: TableId, batch: BatchId, now: Duration) -> bool {
        let mut again = self.again.lock();
        let (due, pause) = again.entry((table, batch)).or_insert((now, AGAIN));
        if *due > now {
            return false;
        }
        *due = now + *pause;
        *pause = (*pause * 2).min(AGAIN_MAX);
        true
    }

    fn is_over(&self, table: TableId, batch: BatchId) {
        self.again.lock().remove(&(table, batch));
        self.noticed.lock().remove(&(table, batch));
    }

    fn forget_table(&self, table: TableId) {
        self.again.lock().retain(|(known, _), _| *known != table);
        self.noticed.lock().retain(|(known, _)| *known != table);
        self.settled.lock().retain(|(known, _), _| *known != table);
    }
}

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
            self.batches.upkeep.forget_table(table.id());
        }
        is_here
    }

    /// What was sent to others and not found made here is made, or void, or still open.
    fn look_at_doubtful(&self) {
        let doubtful: Vec<_> =
            self.batches.doubtful.lock().iter().map(|(id, term)| (*id, *term)).collect();
        for (id, settled_before) in doubtful {
            let Some(table) = self.table_of_line(id.anchor) else {
                self.close_batch(id);
                continue;
            };
            let is_made =
                table.decided_batch(id).is_some_and(|decided| decided.lsn <= table.durable_lsn());
            let is_void =
                table.terms().1 > settled_before || table.writer_word().epoch.0 != id.term.epoch;
            if is_made || is_void {
                self.close_batch(id);
            }
        }
    }

    async fn settle_table(self: &Arc<Self>, table: &Arc<Table>) {
        self.ask_for_verdicts(table).await;
        self.tell_decisions(table).await;
    }

    /// Asks what became of the batches whose intents are here.
    async fn ask_for_verdicts(self: &Arc<Self>, table: &Arc<Table>) {
        let (now, wall) = (self.clock.monotonic(), self.clock.wall_millis());
        let mut by_anchor: BTreeMap<TableId, (Text, Vec<BatchId>)> = BTreeMap::new();
        let mut count = 0;
        for (id, anchor, rows, since) in table.intents() {
            let age = age(wall, since.millis());
            if age >= LONG_IN_DOUBT {
                self.notice_long(table, id, anchor.as_str(), rows);
            }
            if age < QUIET_MAX || count >= ROUND_MAX {
                continue;
            }
            if let Some(made) = self.batches.words.outcome(id) {
                self.settle_told(table, id, made, now).await;
                continue;
            }
            if self.batches.upkeep.is_due(table.id(), id, now) {
                let of_anchor = by_anchor.entry(id.anchor).or_insert_with(|| (anchor, Vec::new()));
                of_anchor.1.push(id);
                count += 1;
            }
        }
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
                let made = match verdict {
                    Verdict::Open => continue,
                    Verdict::Committed => true,
                    Verdict::Abandoned => false,
                };
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
            Ok(_) => self.batches.upkeep.is_over(table.id(), id),
            Err(error) => {
                let name = table.name();
                tracing::warn!(table = %name, batch = %id, %error, "not settled yet");
            }
        }
    }

    /// Tells members of the batches that were decided here, and forgets what all have settled.
    async fn tell_decisions(self: &Arc<Self>, table: &Arc<Table>) {
        let (now, wall) = (self.clock.monotonic(), self.clock.wall_millis());
        let decided = table.decided_batches();
        let needs_room = decided.len() > KEPT_FOR_REPLICAS;
        let epoch = table.writer_word().epoch;
        let Some(line) = self.line_of(table) else { return };
        let mut by_member: BTreeMap<TableId, (Text, Vec<BatchId>)> = BTreeMap::new();
        let mut left: BTreeMap<BatchId, usize> = BTreeMap::new();
        for (id, decided) in decided {
            let is_young = age(wall, decided.since.millis()) < QUIET_MAX;
            // Nobody is told of what may be lost with this region, unless the mode says so.
            let is_told = !is_young && self.may_be_told(table, &decided, epoch);
            let is_full = left.len() >= ROUND_MAX;
            if !is_told || is_full || !self.batches.upkeep.is_due(table.id(), id, now) {
                continue;
            }
            if id.anchor != line {
                // It came with the log of which this replica was unbound; others tell of it.
                left.insert(id, 0);
                continue;
            }
            left.insert(id, decided.members.len());
            for Member { table, name } in decided.members {
                let of_member = by_member.entry(table).or_insert_with(|| (name, Vec::new()));
                of_member.1.push(id);
            }
        }
        // Another region may write the anchor by now.
        if self.check_written_line(table, line, epoch).is_err() {
            return;
        }
        for (member, (name, ids)) in by_member {
            if self.clock.monotonic() >= now + ROUND_WITHIN {
                break;
            }
            let batches = ids.iter().map(|id| (*id).into()).collect();
            let settle = Settle { batches, table: member.0, made: true };
            let held = match self.ask_for(member, name.as_str(), Question::Settle(settle)).await {
                Ok(told) => match SettleTold::decode(told) {
                    Ok(told) => told.held,
                    Err(_) => continue,
                },
                // It is dropped, with its rows.
                Err(error) if error.code == ErrorCode::ObjectNotExist => {
                    vec![u32::MAX; ids.len()]
                }
                Err(error) => {
                    let name = table.name();
                    tracing::info!(table = %name, %error, "a decision is not told yet");
                    continue;
                }
            };
            for (id, held) in ids.into_iter().zip(held) {
                if may_forget(held, needs_room)
                    && let Some(missing) = left.get_mut(&id)
                {
                    *missing -= 1;
                }
            }
        }
        let over: Vec<BatchId> =
            left.into_iter().filter(|(_, missing)| *missing == 0).map(|(id, _)| id).collect();
        if over.is_empty() {
            return;
        }
        match table.forget_batches(&over).await {
            Ok(()) => over.iter().for_each(|id| self.batches.upkeep.is_over(table.id(), *id)),
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
        let known = upkeep.writers.lock().get(&line).cloned();
        let hint = known.unwrap_or_else(|| {
            let held = self.table_of_line(line);
            primary_of(held.and_then(|table| self.record(table.id())))
        });
        let asked = self.ask_writer(&hint, question, (ASK_WITHIN, Duration::ZERO)).await;
        match asked {
            Ok((region, told)) => {
                upkeep.is_there(line);
                if region != hint {
                    upkeep.writers.lock().insert(line, region);
                }
                Ok(told)
            }
            Err(error) if error.code == ErrorCode::ObjectNotExist => {
                let is_distributed = |(table, _)| self.distribution(table).is_some();
                let may_be =
                    !self.knows_maker_of(line) || partition_named(name).is_some_and(is_distributed);
                match !may_be && upkeep.is_gone(line, self.clock.monotonic()) {
                    true => Err(error),
                    false => Err(ApiError::elsewhere()),
                }
            }
            Err(error) => {
                upkeep.is_there(line);
                Err(error)
            }
        }
    }

    fn notice_long(&self, table: &Table, id: BatchId, anchor: &str, rows: usize) {
        if !self.batches.upkeep.is_first_notice(table.id(), id) {
            return;
        }
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

#[cfg(test)]
mod tests {
    use isthmus_model::commit::Term;

    use super::*;

    #[test]
    fn what_is_asked_in_vain_is_asked_less_and_less_often() {
        let upkeep = Upkeep::default();
        let (table, id) =
            (TableId(1), BatchId { anchor: TableId(2), term: Term::default(), number: 3 });
        let mut now = Duration::ZERO;
        for pause in [500, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000] {
            assert!(upkeep.is_due(table, id, now) && !upkeep.is_due(table, id, now));
            now += Duration::from_millis(pause);
        }
        upkeep.is_over(table, id);
        assert!(upkeep.is_due(table, id, Duration::ZERO));
    }

    #[test]
    fn where_a_batch_was_settled_is_what_was_said_first() {
        let upkeep = Upkeep::default();
        let (table, id) =
            (TableId(1), BatchId { anchor: TableId(2), term: Term::default(), number: 3 });
        let settled = |lsn, epoch| upkeep.settled_at(table, id, (Lsn(lsn), Epoch(epoch)));
        assert_eq!((settled(5, 1), settled(9, 1)), (Lsn(5), Lsn(5)));
        assert_eq!((settled(7, 2), settled(9, 2)), (Lsn(7), Lsn(7)), "that log may have ended");
        upkeep.is_held(table, id);
        assert_eq!(settled(9, 2), Lsn(9));
    }

    #[test]
    fn a_table_is_gone_when_it_was_missing_for_long() {
        let (upkeep, table) = (Upkeep::default(), TableId(1));
        let at = Duration::from_secs;
        assert!(!upkeep.is_gone(table, at(5)) && !upkeep.is_gone(table, at(14)));
        upkeep.is_there(table);
        assert!(!upkeep.is_gone(table, at(16)), "a region had it");
        assert!(!upkeep.is_gone(table, at(25)) && upkeep.is_gone(table, at(26)));
    }
}
