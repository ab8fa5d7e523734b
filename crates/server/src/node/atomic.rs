//! Batches that are made in several partitions or in none. What decides is in
//! [`isthmus_model::atomic`] and [`isthmus_control::batches`]; here regions ask each other.
//!
//! The region that writes the anchor coordinates (`begin.rs`): it has the others keep intents
//! (`member.rs`), makes its own rows, which is the decision, and tells the others. What is left
//! open by a crash, or by a region that is away, is settled later (`keep.rs`): members ask the
//! anchor, and the anchor tells its members until all have settled what it decided. Nothing is said
//! of a batch but by a region that may write the anchor, and never while the batch is open.

mod begin;
mod by_hand;
mod counts;
mod keep;
mod lines;
mod locked;
mod member;
mod rows;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use isthmus_control::batches::{Books, Upkeep};
use isthmus_control::distribution::partition_named;
use isthmus_model::atomic::{BatchId, Coordinator, Verdict};
use isthmus_model::commit::Term;
use isthmus_model::ids::{Epoch, Lsn, TableId};
use isthmus_model::value::Text;
use isthmus_protocol::error_code::ErrorCode;
use isthmus_replication::frame::FORMAT_OF_BATCHES;
use isthmus_store::keys::decided::Decided;
use isthmus_store::{Store, Table};
use parking_lot::Mutex;
use prost::Message;

use super::reconcile::told;
use super::writer::Place;
use super::{Node, NodeError, Record};
use crate::api_error::ApiError;
use crate::peer::batch::{AskVerdict, VerdictTold, verdict_number};
use crate::peer::call::{Question, Reply};
use crate::peer::dial::is_unsent;
use crate::status::{BatchCounts, BatchStatus, BatchesStatus};

pub(crate) use self::locked::Wanted;

/// Partitions that are asked at once for one batch.
const ASKED_AT_ONCE: usize = 16;
/// Regions are asked again after this, then after twice as long, and so on.
const ASK_AGAIN: Duration = Duration::from_millis(20);
const ASK_AGAIN_MAX: Duration = Duration::from_millis(200);
/// Batches that the status tells of by name.
const TOLD_MAX: usize = 100;

/// What a process remembers of batches. Tables are named by their lines (`lines.rs`).
#[derive(Default)]
pub(super) struct Batches {
    books: Mutex<Books>,
    upkeep: Mutex<Upkeep>,
    /// Which region was the last one to answer for a table.
    writers: Mutex<BTreeMap<TableId, String>>,
    /// What members are settling.
    settling: Mutex<BTreeSet<(TableId, BatchId)>>,
    lines: lines::Lines,
    counts: counts::Counts,
    /// What people have said of batches.
    words: words::Words,
}

impl Batches {
    /// Nothing is open, and what is kept of lines and words.
    pub(super) fn read(store: &Store) -> Result<Batches, NodeError> {
        let (lines, words) = (lines::Lines::read(store)?, words::Words::read(store)?);
        Ok(Batches { lines, words, ..Batches::default() })
    }

    /// Does something with the books of an anchor in a term.
    fn with_books<T>(
        &self,
        anchor: TableId,
        term: Term,
        work: impl FnOnce(&mut Coordinator<Text>) -> T,
    ) -> T {
        self.books.lock().with(anchor, term, work)
    }
}

impl Node {
    /// The term in which this process begins batches whose anchor is that table.
    fn batch_term(&self, epoch: Epoch) -> Term {
        Term { epoch: epoch.0, life: self.store.life() }
    }

    /// What became of batches whose anchor is written here.
    pub(super) async fn on_verdict(&self, asked: AskVerdict) -> Result<Bytes, ApiError> {
        let ids: Vec<BatchId> = asked.batches.into_iter().map(BatchId::from).collect();
        // What a person has said counts, whoever is back since.
        let words: Vec<Option<bool>> =
            ids.iter().map(|id| self.batches.words.outcome(*id)).collect();
        let has_words = words.iter().any(Option::is_some);
        let mut says_no_more = false;
        let mut verdicts = Vec::with_capacity(ids.len());
        for (id, word) in ids.into_iter().zip(words) {
            let verdict = match word {
                Some(true) => Verdict::Committed,
                Some(false) => Verdict::Abandoned,
                None if says_no_more => Verdict::Open,
                None => match self.verdict(id).await {
                    Ok(verdict) => verdict,
                    // What was said of others is told all the same.
                    Err(_) if has_words => {
                        says_no_more = true;
                        Verdict::Open
                    }
                    Err(error) => return Err(error),
                },
            };
            verdicts.push(verdict_number(verdict));
        }
        Ok(VerdictTold { verdicts }.encode_to_vec().into())
    }

    /// What became of a batch whose anchor is written here; elsewhere if it is not.
    async fn verdict(&self, id: BatchId) -> Result<Verdict, ApiError> {
        let (table, epoch) = self.written_line(id.anchor).await?;
        let decided =
            || table.decided_batch(id).map(|decided| self.may_be_told(&table, &decided, epoch));
        let verdict = self.batches.books.lock().verdict(id, self.batch_term(epoch), decided);
        self.check_written_line(&table, id.anchor, epoch)?;
        Ok(verdict)
    }

    /// Whether a decision is durable here and held by as many as the table's mode asks for.
    fn may_be_told(&self, table: &Table, decided: &Decided, epoch: Epoch) -> bool {
        decided.lsn <= table.durable_lsn() && self.is_held(table, (decided.lsn, epoch))
    }

    /// The table of a line and its epoch, if this region may say what is in its log: it writes it,
    /// and has what its disk lacked and what was prepared in earlier terms. Elsewhere if it is not
    /// so; what is said is to be checked again after whatever was waited for.
    async fn written_line(&self, line: TableId) -> Result<(Arc<Table>, Epoch), ApiError> {
        let table = self.table_of_line(line).ok_or_else(ApiError::no_table)?;
        let name = table.name();
        if table.is_dropped() {
            // A partition that has ended goes on in others. Only its record says that it has.
            return Err(match partition_named(name.as_str()) {
                Some(_) => ApiError::elsewhere(),
                None => ApiError::no_table(),
            });
        }
        match self.place_of_writes(name.as_str()) {
            Ok(Place::Here(here)) if here.id() == table.id() && !self.may_be_put_back(&table) => {}
            // It is there, whatever else is the matter.
            Ok(_) | Err(_) => return Err(ApiError::elsewhere()),
        }
        self.await_settled(&table).await?;
        let epoch = table.writer_word().epoch;
        self.check_written_line(&table, line, epoch)?;
        Ok((table, epoch))
    }

    /// Looks whether this region still may say it.
    fn check_written_line(
        &self,
        table: &Table,
        line: TableId,
        epoch: Epoch,
    ) -> Result<(), ApiError> {
        self.check_lease(table, epoch)?;
        let word = table.writer_word();
        let is_written = word.accepts && word.epoch == epoch && !self.may_be_put_back(table);
        match is_written && self.line_of(table) == Some(line) {
            true => Ok(()),
            false => Err(ApiError::elsewhere()),
        }
    }

    /// The table of that name, if it is written here; elsewhere if another one was meant. `line`
    /// is 0 where who asks has no replica of a partition.
    fn writable_as(&self, name: &str, line: u64) -> Result<Arc<Table>, ApiError> {
        let table = self.writable(name)?;
        let is_meant = match line {
            0 => partition_named(name).is_some(),
            line => self.line_of(&table) == Some(TableId(line)),
        };
        if is_meant { Ok(table) } else { Err(ApiError::elsewhere()) }
    }

    /// Whether a table can be part of a batch of several partitions, as far as its record says.
    fn check_takes_batches(&self, table: &Table) -> Result<(), ApiError> {
        let name = table.name();
        if table.spec().writers.are_many() {
            return Err(ApiError::invalid(format!(
                "Table {name} is written by several regions. A batch that is made in several \
                 partitions or in none is for tables that one region writes."
            )));
        }
        let record = self.record(table.id());
        let replicas = record.iter().flat_map(|record| &record.table.replicas);
        let format_of = |region: &str| {
            let other = self.others.get(region)?;
            Some(other.links().format()).filter(|format| *format > 0)
        };
        let is_old = |region: &&str| format_of(region).is_some_and(|it| it < FORMAT_OF_BATCHES);
        match replicas.map(|replica| replica.region.as_str()).find(is_old) {
            None => Ok(()),
            Some(region) => Err(ApiError::new(
                ErrorCode::ServerUnavailable,
                format!(
                    "Region {region}, which has a replica of {name}, runs a version that knows no \
                     batches of several partitions. Nothing was written."
                ),
            )),
        }
    }

    /// Asks the region that writes a table, wherever that is, until one answers or the patience
    /// ends. `hint` is asked first. An error that names no table: no region has it. What may be
    /// repeated is asked of the next region, too, where one does not answer.
    async fn ask_writer(
        self: &Arc<Self>,
        hint: &str,
        question: Question,
        (within, patience): (Duration, Duration),
    ) -> Result<(String, Bytes), ApiError> {
        let deadline = self.clock.monotonic() + patience;
        let mut pause = ASK_AGAIN;
        let own = self.config.region.name.as_str();
        let may_repeat = matches!(question, Question::Verdict(_) | Question::Settle(_));
        loop {
            let (mut likeliest, mut are_all_without) = (None, true);
            let regions = [hint, own].into_iter().chain(self.others.keys().map(String::as_str));
            let mut asked = BTreeSet::new();
            for region in regions.filter(|region| !region.is_empty()) {
                if !asked.insert(region) {
                    continue;
                }
                match Box::pin(self.ask_region(region, question.clone(), within)).await {
                    Ok(body) => return Ok((region.to_owned(), body)),
                    Err(error) if error.code == ErrorCode::ObjectNotExist => {}
                    Err(error)
                        if error.is_elsewhere
                            || is_about_region(&error)
                            || (may_repeat && is_unknown(&error)) =>
                    {
                        are_all_without = false;
                        likeliest = likeliest.filter(|known: &ApiError| !known.is_elsewhere);
                        likeliest = likeliest.or(Some(error));
                    }
                    Err(error) => return Err(error),
                }
            }
            if are_all_without {
                return Err(ApiError::no_table());
            }
            if self.clock.monotonic() >= deadline {
                return Err(likeliest.unwrap_or_else(ApiError::elsewhere));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(ASK_AGAIN_MAX);
        }
    }

    /// Answers a question that this region asks itself.
    fn answer_here(
        self: &Arc<Self>,
        question: Question,
    ) -> Pin<Box<dyn Future<Output = Reply> + Send>> {
        let (node, own) = (self.clone(), self.config.region.name.clone());
        Box::pin(async move { node.answer(&own, question).await })
    }

    async fn ask_region(
        self: &Arc<Self>,
        region: &str,
        question: Question,
        within: Duration,
    ) -> Result<Bytes, ApiError> {
        let unavailable = |why: &str| {
            let message = format!("Region {region} cannot be reached: {why}. Nothing was done.");
            ApiError::new(ErrorCode::ServerUnavailable, message)
        };
        let reply = if region == self.config.region.name {
            self.answer_here(question).await
        } else {
            let other = self.others.get(region).ok_or_else(ApiError::elsewhere)?;
            let reached = other.reached();
            if !reached.connected {
                return Err(unavailable(&reached.reason));
            }
            if (1..FORMAT_OF_BATCHES).contains(&other.links().format()) {
                return Err(unavailable("its version knows no batches of several partitions"));
            }
            let answer = tokio::select! {
                answer = other.ask_within(question, within) => answer,
                // Nothing it says counts any more.
                () = self.until_suspended(region) => {
                    Err(tonic::Status::unavailable("it is suspended"))
                }
            };
            answer.map_err(|status| match is_unsent(&status) {
                true => unavailable(status.message()),
                false => ApiError::new(
                    ErrorCode::Timeout,
                    format!(
                        "Region {region} did not answer ({}). Whether the batch took effect is \
                         not known.",
                        status.message()
                    ),
                ),
            })?
        };
        match reply.failure {
            None => Ok(reply.body),
            Some(failure) => Err(told(failure)),
        }
    }

    /// Whether all replicas of a table are known to hold an entry.
    fn is_held_by_all(&self, table: &Table, lsn: Lsn) -> bool {
        let reaches = |held: Option<Lsn>| held.is_some_and(|held| held >= lsn);
        if !reaches(self.log_needed_after(table.partition(), lsn)) {
            return false;
        }
        match self.log_held_by_all(table) {
            Some(held) => reaches(held),
            // All are fed from here. A link that is not there yet says nothing of its replica.
            None => self.replicas_to_hold(table).iter().all(|region| {
                let links = self.others.get(region).map(|other| other.links());
                links.is_some_and(|links| links.needs_after(table.partition()).is_some_and(reaches))
            }),
        }
    }

    /// What a table keeps of batches of several partitions; `None`: nothing.
    pub(crate) fn batches_status(&self, table: &Table) -> Option<BatchesStatus> {
        if !table.keeps_batches() {
            return None;
        }
        let now = self.clock.wall_millis();
        let intents = table.intents();
        let in_doubt = intents.len() as u64;
        let mut oldest: Vec<BatchStatus> = intents
            .into_iter()
            .map(|(id, anchor, rows, since)| BatchStatus {
                batch: id.to_string(),
                anchor: anchor.as_str().to_owned(),
                rows: rows as u64,
                waited_ms: now.saturating_sub(since.millis()).max(0).unsigned_abs(),
            })
            .collect();
        oldest.sort_by_key(|batch| std::cmp::Reverse(batch.waited_ms));
        oldest.truncate(TOLD_MAX);
        let unsettled = table.decided_batches().len() as u64;
        Some(BatchesStatus { in_doubt, oldest, unsettled })
    }

    /// What was counted of batches of several partitions.
    pub(crate) fn batch_counts(&self) -> BatchCounts {
        self.batches.counts.told()
    }
}

/// Whether another region may be able to do it.
fn is_about_region(error: &ApiError) -> bool {
    matches!(
        error.code,
        ErrorCode::NoPermissionAccess | ErrorCode::TableNotReady | ErrorCode::ServerUnavailable
    )
}

/// Whether a write may have taken effect though it failed.
fn is_unknown(error: &ApiError) -> bool {
    error.code == ErrorCode::Timeout
}

/// Which region is likely to write a table, by its record; empty: nobody knows.
fn primary_of(record: Option<Record>) -> String {
    record.map_or_else(String::new, |record| record.table.primary().to_owned())
}
