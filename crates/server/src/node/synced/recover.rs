//! The beginning of a term: what earlier ones have prepared is made or void before anything new is.
//!
//! A region that was granted an epoch asks as many replicas as it takes to find every write that
//! may have been acknowledged: those that promise to take nothing of earlier terms tell what they
//! hold. All of it is made, in the order in which it was prepared, except for what is in the log
//! here. A region that goes on in its own epoch has all that it acknowledged in its log. Then an
//! entry says that the rest is void, and before anything new is made so many others hold that entry
//! as a write asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use isthmus_control::agreed::How;
use isthmus_control::global_table::GlobalTable;
use isthmus_model::atomic::Intent;
use isthmus_model::change::Condition;
use isthmus_model::check::{CheckedChange, CheckedKey, check_change};
use isthmus_model::commit::{self, Recovery, Term, TxId};
use isthmus_model::entry::Entry;
use isthmus_model::ids::{Epoch, Origin};
use isthmus_protocol::error_code::ErrorCode;
use isthmus_protocol::request::{Operation, decode_passed_on};
use isthmus_replication::mode::{Answer, Begun};
use isthmus_store::codec::entry::decode_entry;
use isthmus_store::{Beginning, Table};
use prost::Message;
use serde_json::json;
use tokio::task::JoinSet;

use super::{Making, Stage, SyncTable};
use crate::api_error::ApiError;
use crate::node::Node;
use crate::node::events::EventKind;
use crate::peer::call::{
    AfterChange, PreparedDecision, PreparedIntent, PreparedWrite, Promise, Promised, Question,
};
use crate::peer::dial::OtherRegion;

/// What could not be done is tried again after this.
const TRY_AGAIN: Duration = Duration::from_millis(50);
/// How often it is looked whether the epoch has been opened.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// What is asked of other regions is asked again after this.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);
/// Those who are there are asked for so long after a person has said that a term is to begin
/// without those who are not.
const ACCEPTED_PATIENCE: Duration = Duration::from_secs(5);
/// Answers of one region to one question at most.
const PAGES_MAX: usize = 1_000;

impl Node {
    /// Begins a term of a table that this region writes or is about to write. Ends when writes are
    /// made or the table is written elsewhere.
    pub(super) async fn begin_term(self: Arc<Self>, sync: &Arc<SyncTable>, table: &Arc<Table>) {
        let mut warned = String::new();
        let mut accepted = Accepted::default();
        while *sync.stage.borrow() == Stage::Opening {
            let word = table.writer_word();
            if word.epoch.0 > sync.epoch {
                return;
            }
            if !word.accepts || word.epoch.0 != sync.epoch {
                tokio::time::sleep(LOOK_EVERY).await;
                continue;
            }
            // What an earlier one has under way is made before it is settled.
            let _drained = sync.under_way.clone().write_owned().await;
            match self.try_begin_term(sync, table, &mut accepted).await {
                Ok(term) => {
                    sync.open(term, self.count_of(table));
                    // It may not be written so any more.
                    return self.obey_modes_now();
                }
                Err(error) if warned != error.message => {
                    tracing::info!(table = %table.name(), %error, "a term is not begun yet");
                    warned = error.message;
                }
                Err(_) => {}
            }
            tokio::time::sleep(TRY_AGAIN).await;
        }
    }

    async fn try_begin_term(
        &self,
        sync: &SyncTable,
        table: &Arc<Table>,
        accepted: &mut Accepted,
    ) -> Result<Term, ApiError> {
        if self.config.quorum.is_some() && self.registry().is_none() {
            return Err(not_begun("what the regions have decided is not known yet"));
        }
        if self.may_be_put_back(table) {
            return Err(not_begun("this region may lack something of the table"));
        }
        self.check_lease(table, Epoch(sync.epoch))?;
        let (promised, _) = table.terms();
        let now = self.clock.wall_millis().unsigned_abs();
        let life = match promised.epoch == sync.epoch {
            true => now.max(promised.life + 1),
            false => now,
        };
        let term = Term { epoch: sync.epoch, life };
        table.promise(term).await?;
        let found = self.find_prepared(sync, table, term, accepted).await?;
        self.make_found(table, found).await?;
        let lsn = table.settle(term).await?;
        self.check_lease(table, Epoch(term.epoch))?;
        // Whoever follows must find it before anything that comes after it.
        match self.shared.modes.wait(table.partition(), lsn) {
            Begun::Over(Answer::Held | Answer::NotHeld) => {}
            Begun::Waits(wait) => {
                let patience = self.shared.modes.patience(table.partition());
                let held = tokio::time::timeout(patience, wait).await;
                held.map_err(|_| not_begun("too few others hold where it begins"))?;
            }
        }
        self.agreed_to_hold(table).await;
        self.check_lease(table, Epoch(term.epoch))?;
        Ok(term)
    }

    /// Waits until those who decide know that so many hold a write before it is answered: a
    /// successor asks as many as that tells it to.
    async fn agreed_to_hold(&self, table: &Table) {
        let Some(registry) = self.registry() else { return };
        loop {
            let known = registry.known();
            let agreed = known.agreed.tenure(table.id().0).map_or(0, |tenure| tenure.held_by);
            let (_, needed) = self.shared.modes.holders(table.partition());
            if usize::from(agreed) >= needed || !table.writer_word().accepts {
                return;
            }
            tokio::select! {
                () = registry.known_beyond(known.index) => {}
                () = tokio::time::sleep(TRY_AGAIN) => {}
            }
        }
    }

    /// Whose word is needed of what was prepared, so that nothing acknowledged is missed: so many
    /// of these regions, this one among them. `None`: all of that is in the log here.
    fn who_knows(&self, table: &Table, epoch: u64) -> Option<WhoKnows> {
        let known = self.registry()?.known();
        let tenure = known.agreed.tenure(table.id().0)?;
        let opening = tenure.history.iter().find(|opening| opening.epoch == epoch)?;
        // Who was handed the table has everything, and who wrote it before.
        if opening.how != How::Failover || tenure.held_by == 0 {
            return None;
        }
        let needed = tenure.replicas.len().saturating_sub(usize::from(tenure.held_by)).max(1);
        let accepts_loss = opening.accepts_loss;
        Some(WhoKnows { needed, replicas: tenure.replicas.clone(), accepts_loss })
    }

    /// What was prepared in earlier terms and may have been acknowledged, in its order.
    async fn find_prepared(
        &self,
        sync: &SyncTable,
        table: &Arc<Table>,
        term: Term,
        accepted: &mut Accepted,
    ) -> Result<Vec<(TxId, Bytes)>, ApiError> {
        let Some(WhoKnows { needed, replicas, accepts_loss }) = self.who_knows(table, term.epoch)
        else {
            return Ok(Vec::new());
        };
        let now = self.clock.monotonic();
        let since = accepted.since.filter(|_| accepts_loss).unwrap_or(now);
        accepted.since = accepts_loss.then_some(since);
        let takes_what_there_is = accepts_loss && now.saturating_sub(since) >= ACCEPTED_PATIENCE;
        let end = table.durable_lsn().0;
        let own = Origin(self.config.region.number);
        // What was in a tail that was cut off here may not be found here.
        let needed = needed + usize::from(self.may_lack_prepared(table));
        let recovery =
            table.with_participant(|own_books| Recovery::new(term, (own, own_books), needed, end));
        let mut recovery = recovery.map_err(|refusal| not_begun(&refusal.to_string()))?;
        let mut changes: BTreeMap<TxId, Bytes> = table.prepared().into_iter().collect();
        let mut told_by = BTreeSet::from([self.config.region.name.clone()]);
        let mut lacking = BTreeSet::new();
        if recovery.plan().is_none() {
            let others = replicas.iter().filter_map(|region| self.others.get(region));
            let mut asked: JoinSet<_> =
                others.map(|other| ask_for_prepared(other.clone(), table.id().0, term)).collect();
            while recovery.plan().is_none() {
                let Some(told) = asked.join_next().await else { break };
                let Ok(Some((region, told))) = told else { continue };
                let Some(member) = self.number_of(&region) else { continue };
                let Told::Prepared(held, told) = told else {
                    lacking.insert(region);
                    continue;
                };
                let prepared = told.iter().map(|(tx, _)| (*tx, 0)).collect();
                let answer = commit::Answer { promised: term, held, prepared };
                if recovery.answer(member, answer).is_ok() {
                    changes.extend(told);
                    told_by.insert(region);
                }
            }
        }
        let silent = missing(&replicas, &told_by);
        *sync.silent.lock() = recovery.plan().is_none().then(|| silent.clone());
        let there = silent.iter().filter(|one| !lacking.contains(*one) && self.may_tell_yet(one));
        let there = there.cloned().collect::<Vec<_>>().join(", ");
        let takes = takes_what_there_is && recovery.plan().is_none() && there.is_empty();
        if takes {
            recovery.accept_loss();
        }
        let Some(plan) = recovery.plan() else {
            return Err(not_begun(&match accepts_loss && !there.is_empty() {
                true => format!(
                    "{there} can be reached and has not told yet what it has prepared; it is \
                     waited for though a loss is accepted, unless it is suspended by hand"
                ),
                false => "too few others have told what they have prepared".to_owned(),
            }));
        };
        if takes && !std::mem::replace(&mut accepted.noticed, true) {
            self.notice_accepted(table, term, &silent, &plan.torn);
        }
        let found = plan.commit.into_iter();
        Ok(found.filter_map(|(tx, _)| Some((tx, changes.remove(&tx)?))).collect())
    }

    fn notice_accepted(&self, table: &Table, term: Term, silent: &BTreeSet<String>, torn: &[TxId]) {
        let own = &self.config.region.name;
        let text = accepted_in_words(own, term, silent, torn.len());
        let torn: Vec<String> = torn.iter().map(TxId::to_string).collect();
        let detail =
            json!({ "region": own, "epoch": term.epoch, "silent": silent, "in_part": torn });
        self.notice(EventKind::LossAccepted, table.name().as_str(), text, detail);
    }

    /// Whether what a replica has prepared may still be heard of: it is reached, and what it says
    /// counts.
    fn may_tell_yet(&self, region: &str) -> bool {
        let is_suspended =
            self.registry().is_some_and(|registry| registry.known().agreed.is_suspended(region));
        self.is_reached(region) && !is_suspended
    }

    /// The replicas of a table that have not told what they have prepared, if a term of it waits
    /// for them here.
    pub(in crate::node) fn silent_of(&self, table: &Table) -> Option<BTreeSet<String>> {
        let sync = self.sync_table(table)?;
        let silent = sync.silent.lock().clone();
        silent.filter(|_| *sync.stage.borrow() == Stage::Opening)
    }

    /// Whether all that was prepared before this region wrote a table is in its log, as far as it
    /// is needed. Until then those who decide must not take the table to be held by fewer than
    /// before, nor by others: so many of them are asked.
    pub(in crate::node) fn has_gathered(&self, table: &Table, record: &GlobalTable) -> bool {
        let (_, settled) = table.terms();
        let was_sync = settled > Term::default() || table.prepared_count() > 0;
        let is_sync = record.sync_commit().is_some() || was_sync;
        !is_sync || settled.epoch >= table.writer_word().epoch.0
    }

    /// Makes what was prepared in earlier terms, in its order.
    async fn make_found(
        &self,
        table: &Arc<Table>,
        found: Vec<(TxId, Bytes)>,
    ) -> Result<(), ApiError> {
        let count = found.len();
        for (tx, change) in found {
            let read = read_prepared(table, change).inspect_err(|error| {
                tracing::error!(%tx, %error, "what was prepared cannot be read");
            })?;
            let (rows, making) = match read {
                Read::Asked(rows, making) => (rows, making),
                Read::Made(entry) => {
                    table.write_again(&entry).await?;
                    continue;
                }
            };
            let made = making.write(table, vec![tx], rows, Beginning::Recovered).await?;
            for refused in made.into_iter().filter_map(Result::err) {
                tracing::warn!(%tx, %refused, "what was prepared does not fit any more");
            }
        }
        if count > 0 {
            let own = &self.config.region.name;
            let name = table.name();
            let text = format!("{own} has made {count} writes that were prepared before it wrote");
            let detail = json!({ "region": own, "writes": count });
            self.notice(EventKind::PreparedMade, name.as_str(), text, detail);
        }
        Ok(())
    }

    /// The rows of what was prepared or intended, and what they become.
    pub(in crate::node) fn read_prepared(
        &self,
        table: &Table,
        change: Bytes,
    ) -> Result<(Vec<CheckedChange>, Making), ApiError> {
        match read_prepared(table, change)? {
            Read::Asked(rows, making) => Ok((rows, making)),
            Read::Made(_) => Err(damaged()),
        }
    }
}

/// Whose word is needed of what was prepared.
struct WhoKnows {
    /// Of so many of them, this region among them.
    needed: usize,
    replicas: Vec<String>,
    /// A person has said that it goes on without those who are gone.
    accepts_loss: bool,
}

/// What a replica has told.
enum Told {
    /// Through which entry its log is that of this region, and the changes.
    Prepared(u64, Vec<(TxId, Bytes)>),
    /// It may lack something, and tells nothing.
    Lacks,
}

/// Since when it is known that a person accepts a loss.
#[derive(Default)]
struct Accepted {
    since: Option<Duration>,
    noticed: bool,
}

/// A prepared change.
enum Read {
    /// As a client asked for it: its rows, and what they become.
    Asked(Vec<CheckedChange>, Making),
    /// As it was made in a log that was cut off.
    Made(Box<Entry>),
}

fn damaged() -> ApiError {
    ApiError::invalid("A prepared write is damaged.")
}

fn read_prepared(table: &Table, change: Bytes) -> Result<Read, ApiError> {
    let write = PreparedWrite::decode(change).map_err(|_| damaged())?;
    if !write.entry.is_empty() {
        let entry = decode_entry(&write.entry).map_err(|_| damaged())?;
        return Ok(Read::Made(Box::new(entry)));
    }
    let plain = PreparedWrite { intent: None, decision: None, ..write.clone() };
    let (rows, atomic) = match decode_passed_on(&write.path, write.body)? {
        Operation::PutRow(one) | Operation::UpdateRow(one) | Operation::DeleteRow(one) => {
            (vec![one.change], false)
        }
        Operation::BatchWriteRow(batch) => {
            let rows = batch.tables.into_iter().flat_map(|table| table.rows);
            (rows.collect(), batch.atomic)
        }
        _ => return Err(damaged()),
    };
    // It passed when it was taken, whatever the schema has become since.
    let schema = table.schema().for_taken();
    let mut read = Vec::with_capacity(rows.len());
    for (place, row) in (0..).zip(rows) {
        let mut checked = check_change(&schema, row, write.judged_millis)?;
        if let Some(given) = write.numbers.iter().find(|given| given.place == place) {
            checked.key = CheckedKey::Whole(checked.key.whole(|| given.number));
        }
        // It was judged where it was prepared.
        checked.condition = Condition::default();
        read.push(checked);
    }
    if read.len() != 1 && !atomic {
        return Err(damaged());
    }
    let making = match (write.intent, write.decision) {
        (None, None) => Making::Rows { atomic },
        (Some(PreparedIntent { batch: Some(id), anchor }), None) => Making::Intent(Intent {
            id: id.into(),
            anchor: anchor.into(),
            keys: Vec::new(),
            request: plain.encode_to_vec().into(),
        }),
        (None, Some(PreparedDecision { batch: Some(id), members })) => {
            Making::Decision(id.into(), members.into_iter().map(Into::into).collect())
        }
        _ => return Err(damaged()),
    };
    Ok(Read::Asked(read, making))
}

fn not_begun(why: &str) -> ApiError {
    let message = format!("Writes wait until what was prepared before is settled: {why}.");
    ApiError::new(ErrorCode::PartitionUnavailable, message)
}

fn missing(replicas: &[String], told_by: &BTreeSet<String>) -> BTreeSet<String> {
    replicas.iter().filter(|region| !told_by.contains(*region)).cloned().collect()
}

/// `torn`: so many writes are there only in part.
fn accepted_in_words(own: &str, term: Term, silent: &BTreeSet<String>, torn: usize) -> String {
    let names = silent.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    let in_part = match torn {
        0 => String::new(),
        count => format!("; of {count} writes only a part is there"),
    };
    format!(
        "{own} writes in epoch {} without what {names} may have prepared before; a person has \
         accepted that answered writes can be lost by it{in_part}",
        term.epoch
    )
}

/// Has a region promise a term, and asks what it holds of earlier ones; with its name.
async fn ask_for_prepared(
    other: Arc<OtherRegion>,
    table: u64,
    term: Term,
) -> Option<(String, Told)> {
    let (mut changes, mut held) = (Vec::new(), u64::MAX);
    for _ in 0..PAGES_MAX {
        let after: Option<&(TxId, Bytes)> = changes.last();
        let after = after.map(|(tx, _)| AfterChange {
            epoch: tx.term.epoch,
            life: tx.term.life,
            number: tx.number,
        });
        let promise = Promise { table, epoch: term.epoch, life: term.life, after };
        let reply = other.ask_within(Question::Promise(promise), ANSWER_PATIENCE).await.ok()?;
        if reply.failure.is_some() {
            return None;
        }
        let told = Promised::decode(reply.body).ok()?;
        if told.lacks {
            return Some((other.name.clone(), Told::Lacks));
        }
        held = held.min(told.held);
        changes.extend(told.changes.into_iter().map(|one| {
            let term = Term { epoch: one.epoch, life: one.life };
            (TxId { term, number: one.number }, one.change)
        }));
        if !told.more {
            return Some((other.name.clone(), Told::Prepared(held, changes)));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_person_accepts_is_told_with_who_was_silent_and_what_is_in_part() {
        let replicas = ["r1", "r2", "r3"].map(str::to_owned);
        let silent = missing(&replicas, &BTreeSet::from(["r3".to_owned()]));
        assert_eq!(silent, BTreeSet::from(["r1".to_owned(), "r2".to_owned()]));
        let term = Term { epoch: 4, life: 1 };
        let words = accepted_in_words("r3", term, &silent, 0);
        assert!(words.contains("epoch 4 without what r1, r2 may"), "{words}");
        assert!(words.ends_with("can be lost by it"), "{words}");
        let words = accepted_in_words("r3", term, &silent, 2);
        assert!(words.ends_with("of 2 writes only a part is there"), "{words}");
    }
}
