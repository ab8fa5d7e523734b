//! Makes what is agree with what the records say. Safe to run at any time and any number of times.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use isthmus_control::binding::BindStep;
use isthmus_control::distribution::partition_named;
use isthmus_control::global_table::{GlobalTable, Progress, Replica, Serve};
use isthmus_model::ids::{Epoch, Lsn, TableId};
use isthmus_model::limits::COUNT_MAX;
use isthmus_protocol::error_code::ErrorCode;
use isthmus_replication::link::State;
use isthmus_replication::receive::copy_note;
use isthmus_store::{TableSpec, Writers, Writing, keys};
use tokio::sync::{MutexGuard, watch};

use super::edges::extract_of;
use super::{Node, Record, record_note, writers};
use crate::api_error::ApiError;
use crate::peer::CALL_TIMEOUT;
use crate::peer::call::{Assign, Failure, Question, Reply, Unassign};

const RECONCILE_EVERY: Duration = Duration::from_millis(500);
/// How long another region waits for the change that is under way here.
const CHANGE_PATIENCE: Duration = Duration::from_millis(400);

impl Node {
    /// Reconciles again and again, until `stop` says so.
    pub async fn keep_reconciled(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            self.reconcile().await;
            self.look_at_holds();
            tokio::select! {
                () = self.reconcile_soon.notified() => {}
                () = tokio::time::sleep(RECONCILE_EVERY) => {}
                _ = stop.changed() => return,
            }
        }
    }

    /// One bounded pass over the tables whose base is here and that are not settled.
    async fn reconcile(&self) {
        let own = &self.config.region.name;
        let unsettled: Vec<TableId> = {
            let records = self.records.lock();
            let unsettled = records.iter().filter(|(id, record)| {
                record.table.base == *own
                    && (!record.table.is_active()
                        || self.is_dropped(**id)
                        || self.is_forgotten_somewhere(**id)
                        || self.is_way_to_change(**id, &record.table)
                        || record.table.replicas.iter().any(|replica| {
                            replica.region != *own
                                && replica.confirmed_version < record.table.version
                        }))
            });
            unsettled.map(|(id, _)| *id).collect()
        };
        for id in unsettled {
            let _one_at_a_time = self.changing.lock().await;
            if let Some(record) = self.record(id)
                && let Err(error) = self.reconcile_table(id, record).await
            {
                tracing::warn!(table = id.0, %error, "global table not reconciled");
            }
        }
    }

    async fn reconcile_table(&self, id: TableId, mut record: Record) -> Result<(), ApiError> {
        let before = record.table.clone();
        let is_dropped = self.is_dropped(id);
        self.look_who_is_away(id, &mut record.table);
        let regions: Vec<String> =
            before.replicas.iter().skip(1).map(|replica| replica.region.clone()).collect();
        for region in regions {
            let is_unbinding = |replica: &Replica| replica.progress == Progress::Unbinding;
            if !is_dropped || record.table.replica(&region).is_some_and(is_unbinding) {
                self.reconcile_replica(id, &mut record.table, &region).await;
            }
        }
        if is_dropped && record.table == before {
            return self.reconcile_drop(id, record).await;
        }
        if record.table == before {
            return Ok(());
        }
        let is_left_alone = record.table.replicas.len() == 1 && !is_partition(&record.table);
        if !is_dropped && is_left_alone {
            return self.dissolve(id, true).await;
        }
        self.save(id, record).await
    }

    async fn reconcile_replica(&self, id: TableId, table: &mut GlobalTable, region: &str) {
        let now = self.clock.wall_millis();
        let version = table.version;
        if table.replica(region).is_none() || !self.is_reached(region) {
            return;
        }
        let is_reached = |other: &str| self.is_reached(other);
        match table.bind_step(region, self.is_forgotten(id, region), is_reached) {
            BindStep::Nothing => {}
            BindStep::Unassign => {
                if let Some(other) = self.lacks_what_leaves(id, table) {
                    let why = format!("Region {other} has to have all of the partition first.");
                    return self.note_trouble(table, region, &ApiError::invalid(why));
                }
                let question = Question::Unassign(Unassign { id: table.id.clone(), version });
                return match self.ask(region, question).await {
                    Ok(_) => table.remove(region),
                    Err(error) => self.note_trouble(table, region, &error),
                };
            }
            BindStep::WaitFor(other) => {
                let why = format!("Region {other} has to know of the new replica first.");
                return self.note_trouble(table, region, &ApiError::invalid(why));
            }
            BindStep::Assign => match self.assign(id, table, region).await {
                Ok(()) => table.confirm(region, version, now),
                Err(error) => return self.note_trouble(table, region, &error),
            },
        }
        let Some(progress) = self.progress_of(id, region) else { return };
        if table.replica(region).is_some_and(|replica| replica.progress != Progress::Active) {
            let _ = table.advance(region, progress, now);
        }
    }

    /// Of a partition that is written here, a region that is to keep its replica and does not have
    /// all of it any more, as by the loss of its disk.
    fn lacks_what_leaves(&self, id: TableId, table: &GlobalTable) -> Option<String> {
        let own = &self.config.region.name;
        if !is_partition(table) || table.primary() != own || self.is_dropped(id) {
            return None;
        }
        let lacks = |replica: &&Replica| {
            replica.region != *own
                && replica.progress == Progress::Active
                && self.progress_of(id, &replica.region) != Some(Progress::Active)
        };
        table.replicas.iter().find(lacks).map(|replica| replica.region.clone())
    }

    /// Whether the region has lost what it was told of the table.
    fn is_forgotten(&self, id: TableId, region: &str) -> bool {
        let Some(partition) = self.partition_of(id) else { return false };
        if self.number_of(region).is_some_and(|n| self.shared.standings.is_unassigned(partition, n))
        {
            return true;
        }
        let report = self.others.get(region).and_then(|other| other.links().report(partition));
        // A paused link opens, too.
        let opens = |state| matches!(state, State::Opening | State::Paused);
        report.is_some_and(|report| report.unassigned && opens(report.state))
    }

    fn is_forgotten_somewhere(&self, id: TableId) -> bool {
        self.others.keys().any(|region| self.is_forgotten(id, region))
    }

    /// How far the replica has come, by the link to it.
    fn progress_of(&self, id: TableId, region: &str) -> Option<Progress> {
        if let Some(standing) = self.standing_of(id, region) {
            let is_complete = standing.is_complete;
            return Some(if is_complete { Progress::Active } else { Progress::Copying });
        }
        let partition = self.partition_of(id)?;
        let once = self.record(id).is_some_and(|record| record.table.is_taken_once(region));
        let links = self.others.get(region)?.links();
        let report = links.report(partition)?;
        let is_complete = links.has_told_follow(partition);
        drop(links);
        match report.state {
            // Its link ends when it is active.
            State::Following if once && !is_complete => None,
            State::Copying | State::Gap => Some(Progress::Copying),
            State::Following => Some(Progress::Active),
            State::Opening | State::Paused | State::Stopped | State::Fenced | State::Broken => None,
        }
    }

    pub(super) fn note_trouble(&self, table: &mut GlobalTable, region: &str, error: &ApiError) {
        if let Ok(replica) = table.replica_mut(region) {
            replica.message = Some(error.to_string());
        }
    }

    pub(super) async fn assign(
        &self,
        id: TableId,
        table: &GlobalTable,
        region: &str,
    ) -> Result<(), ApiError> {
        let held = self.store.table(id).ok_or_else(ApiError::no_table)?;
        if table.serve == Serve::PrimarySecondary {
            self.check_format(region, table.epoch.max(held.epoch().0))?;
        }
        let question = Question::Assign(Assign {
            record: table.to_json().into(),
            table: keys::table::encode_value(&held.spec()),
            has_rows: held.log_start() > Lsn(0),
        });
        self.ask(region, question).await.map(|_| ())
    }

    /// Asks another region a question.
    pub(super) async fn ask(&self, region: &str, question: Question) -> Result<Bytes, ApiError> {
        self.ask_in_time(region, question, CALL_TIMEOUT).await
    }

    /// Asks another region a question that may take longer.
    pub(super) async fn ask_in_time(
        &self,
        region: &str,
        question: Question,
        patience: Duration,
    ) -> Result<Bytes, ApiError> {
        let other = self
            .others
            .get(region)
            .ok_or_else(|| ApiError::invalid(format!("Region {region} is not configured.")))?;
        let reply = other.ask_within(question, patience).await.map_err(|status| {
            ApiError::new(
                ErrorCode::ServerUnavailable,
                format!("Region {region} cannot be reached: {}.", status.message()),
            )
        })?;
        match reply.failure {
            None => Ok(reply.body),
            Some(failure) => Err(told(failure)),
        }
    }

    /// Answers another region's question.
    pub async fn answer(self: Arc<Self>, from: &str, question: Question) -> Reply {
        let answer = match question {
            Question::Assign(assign) => self.on_assign(from, assign).await.map(|()| Bytes::new()),
            Question::Unassign(unassign) => {
                self.on_unassign(from, &unassign).await.map(|()| Bytes::new())
            }
            Question::Forward(forward) => self.on_forward(&forward.path, forward.body).await,
            Question::Change(change) => self.on_change(&change).await,
            Question::HandOver(asked) => self.on_hand_over(from, &asked).await,
            Question::Write(write) => self.on_write(write).await,
            Question::MayWrite(asked) => self.on_may_write(&asked.table).map(|()| Bytes::new()),
            Question::Agree(asked) => self.on_agree(from, asked.message).await,
            Question::Prepare(asked) => self.on_prepare(from, asked).await,
            Question::Promise(asked) => self.on_promise(from, asked).await,
            Question::Probe(probe) => Ok(self.on_probe(from, probe)),
            Question::Trigger(trigger) => self.on_trigger(&trigger),
            Question::HoldLinks(asked) => self.on_hold_links(&asked).await,
            Question::TakeHold(asked) => self.on_take_hold(&asked).await,
            Question::Drop(asked) => self.on_drop(from, &asked).await.map(|()| Bytes::new()),
            Question::Holds(holds) => self.on_holds(&holds).await.map(|()| Bytes::new()),
            Question::Measure(measure) => self.on_measure(measure).await,
            Question::Time(_) => Ok(self.tell_time()),
            Question::Read(read) => Box::pin(self.on_read(read)).await,
            Question::Moments(asked) => self.on_moments(&asked),
            Question::Distribute(asked) => self.on_distribute(from, &asked.asked).await,
            Question::Batch(batch) => Box::pin(self.on_batch(batch)).await,
            Question::Intend(asked) => Box::pin(self.on_intend(asked)).await,
            Question::Settle(asked) => Box::pin(self.on_settle(asked)).await,
            Question::Verdict(asked) => Box::pin(self.on_verdict(asked)).await,
            Question::ByHand(asked) => Box::pin(self.on_by_hand(asked)).await,
            about_rows @ (Question::Compare(_)
            | Question::Scrub(_)
            | Question::Repair(_)
            | Question::Heal(_)
            | Question::Rows(_)
            | Question::Roots(_)) => self.answer_blocking(from, about_rows).await,
        };
        match answer {
            Ok(body) => Reply { failure: None, body },
            Err(error) => Reply {
                failure: Some(Failure {
                    code: error.code.as_str().to_owned(),
                    message: error.message,
                    is_elsewhere: error.is_elsewhere,
                }),
                body: Bytes::new(),
            },
        }
    }

    async fn on_assign(&self, from: &str, assign: Assign) -> Result<(), ApiError> {
        let damaged = || ApiError::invalid("The record of the global table is damaged.");
        let table = GlobalTable::from_json(&assign.record).map_err(|_| damaged())?;
        let spec = keys::table::decode_value(&assign.table).map_err(|_| damaged())?;
        let own = &self.config.region.name;
        let is_beyond = table.epoch.max(table.version) >= COUNT_MAX;
        let is_from_base = table.base == from || self.is_given_base(from, &table);
        if !is_from_base || table.replica(own).is_none() || spec.id.0 != table.table || is_beyond {
            return Err(damaged());
        }
        let is_known = || {
            let known = self.record(spec.id);
            known.is_some_and(|known| !table.is_newer_than(&known.table))
        };
        if is_known() {
            return Ok(());
        }
        let _one_at_a_time = self.change_for_another().await?;
        if is_known() {
            return Ok(());
        }
        self.check_held_name(&spec)?;
        let known = self.record(spec.id);
        let id = spec.id;
        // It may have been a table of this region alone.
        let left = if known.is_none() { self.store.table(id) } else { None };
        let is_of_one = writers(&table) == Writers::One;
        if let Some(left) = left.as_ref().filter(|_| is_of_one) {
            check_left(own, left.epoch(), &table)?;
        }
        // A partition without a record is one that was begun here and interrupted. Nobody has fed
        // it, and what a note says of seeds in it holds still.
        let is_begun = left.is_some() && is_partition(&table);
        if known.is_none()
            && !is_begun
            && let Some(base) = self.number_of(&table.base)
        {
            // What an earlier binding had copied says nothing about what is here now.
            let regions = self.others.keys().filter_map(|region| self.number_of(region));
            for region in regions.chain([base]).collect::<BTreeSet<_>>() {
                self.store.put_note(&copy_note(region, spec.partition), &[]).await?;
            }
        }
        if known.is_some() {
            self.obey_newer_epoch(id, &table);
        }
        self.hold(spec, &table).await?;
        if let Some(left) = left {
            let writer = self.number_of(table.primary()).ok_or_else(damaged)?;
            match is_of_one {
                true => self.store.forget_writer(id, writer, Epoch(table.epoch)).await?,
                // What was written alone lies below the horizon of the others, so that as entries
                // they take none of it. It comes to them as rows, once all of theirs are here.
                false => left.begin_log_anew().await?,
            }
        }
        let is_new = known.is_none();
        if is_new {
            self.forget_line(id).await?;
        }
        let may_seed = is_new && is_of_one && assign.has_rows;
        if let Some(held) = self.store.table(id).filter(|_| may_seed) {
            self.seed_replica(&held).await;
        }
        let ready = known.is_some_and(|known| known.ready) || table.has_enough(own);
        self.save(id, Record { table, ready }).await?;
        if is_new {
            self.follow_line_of_record(id);
        }
        Ok(())
    }

    /// Whether the base makes this region the base.
    fn is_given_base(&self, from: &str, table: &GlobalTable) -> bool {
        let known = self.record(TableId(table.table));
        table.base == self.config.region.name && known.is_some_and(|k| k.table.base == from)
    }

    /// A region that accepts writes, and by a newer record does not write any more, has an old
    /// disk.
    fn obey_newer_epoch(&self, id: TableId, table: &GlobalTable) {
        let Some(held) = self.store.table(id).filter(|_| writers(table) == Writers::One) else {
            return;
        };
        let word = held.writer_word();
        if let Some(writer) = self.number_of(table.primary())
            && word.accepts
            && word.epoch.0 < table.epoch
        {
            self.shared.put_backs.overtaken(&held, writer);
        }
    }

    /// Whether clients may write a table with several writers here.
    pub(super) fn writing_of(&self, table: &GlobalTable) -> Writing {
        match table.writes(&self.config.region.name) {
            true => Writing::Accept,
            false => Writing::Refuse,
        }
    }

    /// Makes the table, or lets it obey a newer record. Who writes a table with one writer is for
    /// its log to say.
    async fn hold(&self, spec: TableSpec, table: &GlobalTable) -> Result<(), ApiError> {
        let writers = writers(table);
        let writing = match writers.are_many() {
            true => self.writing_of(table),
            false => Writing::Refuse,
        };
        if let Some(held) = self.store.table(spec.id) {
            if writers == Writers::One {
                return Ok(());
            }
            let epoch = held.epoch().max(spec.epoch);
            return Ok(self.store.set_writing(spec.id, writing, writers, epoch).await?);
        }
        if let Some(other) = self.store.table_by_name(spec.name.as_str()) {
            // A partition that this region began to make, and was lost before it had a record of
            // it: nobody was told, so it never had an entry, and others have made it since.
            let is_left = partition_named(spec.name.as_str()).is_some()
                && self.record(other.id()).is_none()
                && !other.has_logged();
            if !is_left {
                tracing::warn!(table = %spec.name, id = other.id().0, "name is taken");
                return Err(ApiError::table_exists());
            }
            tracing::info!(table = %spec.name, id = other.id().0, "what was begun is removed");
            self.remove_dropped(other.id()).await?;
        }
        self.store.create_table(TableSpec { writing, writers, ..spec }).await?;
        Ok(())
    }

    /// For a change of records that another region asks for while it holds up its own: two that
    /// ask each other at once do not wait for each other.
    pub(super) async fn change_for_another(&self) -> Result<MutexGuard<'_, ()>, ApiError> {
        let patience =
            CHANGE_PATIENCE + CHANGE_PATIENCE / 8 * u32::from(self.config.region.number % 8);
        tokio::time::timeout(patience, self.changing.lock()).await.map_err(|_| {
            ApiError::new(
                ErrorCode::ServerUnavailable,
                "The records of global tables are being changed here. Nothing was done.",
            )
        })
    }

    async fn on_unassign(&self, from: &str, unassign: &Unassign) -> Result<(), ApiError> {
        let _one_at_a_time = self.change_for_another().await?;
        let known = {
            let records = self.records.lock();
            records.iter().find(|(_, r)| r.table.id == unassign.id).map(|(id, r)| (*id, r.clone()))
        };
        let Some((id, record)) = known else { return Ok(()) };
        let is_told_by_base = record.table.base == from && record.table.version <= unassign.version;
        let is_lost_base = is_partition(&record.table) && self.is_writer_agreed_on(id, from);
        if !is_told_by_base && !is_lost_base {
            return Err(ApiError::invalid("The record of the global table is an older one."));
        }
        self.check_no_tail(id, &record)?;
        self.dissolve(id, false).await
    }

    /// A partition is not removed while its log may hold what no other region has: it ends its
    /// epoch first, and what others do not go on from is set aside.
    fn check_no_tail(&self, id: TableId, record: &Record) -> Result<(), ApiError> {
        let Some(held) = self.store.table(id) else { return Ok(()) };
        let is_safe = held.is_dropped() || !is_partition(&record.table);
        if is_safe || !self.may_hold_tail(&held, record.ready) {
            return Ok(());
        }
        Err(ApiError::new(
            ErrorCode::ServerUnavailable,
            format!(
                "The log of {} in region {} may hold entries that no other region has; they are \
                 set aside first. Nothing was done.",
                held.name(),
                self.config.region.name
            ),
        ))
    }

    /// The table is a table of this region alone from now on, with the rows it has. A partition is
    /// nothing without the others. `goes_on`: there are no others any more, and the log goes on
    /// here.
    async fn dissolve(&self, id: TableId, goes_on: bool) -> Result<(), ApiError> {
        if let Some(held) = self.store.table(id) {
            let is_partition = partition_named(held.name().as_str()).is_some();
            if held.is_dropped() || is_partition {
                self.store.drop_table(id).await?;
                return self.forget(id).await;
            }
            // First, so that it is not taken for the log that others go on with.
            self.begin_line(&held, goes_on).await?;
            // What several have written stays merged by stamps: there is no way back to one.
            let writers = held.spec().writers;
            self.note_last_replica(id, goes_on && writers.are_many()).await?;
            self.store.set_writing(id, Writing::Accept, writers, held.epoch()).await?;
        }
        self.forget(id).await
    }

    /// Nothing is known here of a global table any more.
    pub(super) async fn forget(&self, id: TableId) -> Result<(), ApiError> {
        self.store.delete_note(&record_note(id)).await?;
        self.records.lock().remove(&id);
        self.named.lock().remove(&id);
        self.leave_quorum(id);
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.obey_links();
        Ok(())
    }

    /// Keeps a record at rest, then obeys it.
    pub(super) async fn save(&self, id: TableId, record: Record) -> Result<(), ApiError> {
        let note = serde_json::to_vec(&record)
            .map_err(|_| ApiError::new(ErrorCode::InternalServerError, "Internal server error."))?;
        self.store.put_note(&record_note(id), &note).await?;
        let before = {
            let mut records = self.records.lock();
            let mut record = record;
            let mut before = None;
            if let Some(known) = records.get(&id) {
                // A replica may have become ready, and another region the writer, while the note
                // was written.
                record.ready |= known.ready;
                if record.table.follow_writer(known.table.epoch, known.table.primary())
                    && record.table.base == self.config.region.name
                {
                    record.table.version = record.table.version.max(known.table.version) + 1;
                }
                // The base may have said it before the log here did.
                let is_news = record.table.epoch > known.table.epoch;
                before = is_news.then(|| (known.table.primary().to_owned(), record.table.clone()));
            }
            records.insert(id, record);
            self.changes.fetch_add(1, Ordering::AcqRel);
            before
        };
        self.obey_links();
        self.reconcile_soon.notify_one();
        if let Some((before, table)) = before {
            self.tell_writer_changed(&table, &before);
        }
        Ok(())
    }

    /// Opens and closes links so that they are the ones that the records name.
    pub(super) fn obey_links(&self) {
        let _one_at_a_time = self.obeying.lock();
        let records = self.records.lock().clone();
        for (id, _) in records.iter().filter(|(_, record)| !record.table.tells_standings()) {
            if let Some(partition) = self.partition_of(*id) {
                self.shared.standings.forget(partition);
            }
        }
        for (region, other) in &self.others {
            let wanted: Vec<_> = records
                .iter()
                .filter_map(|(id, record)| {
                    let terms = self.terms_of(&record.table, region);
                    let feeding = self.feeding(record, region)?;
                    let extract = extract_of(record, region);
                    let numbers = record.table.replicas.iter();
                    let members = numbers.filter_map(|replica| self.number_of(&replica.region));
                    let whole = (record.may_copy(), members.collect::<BTreeSet<_>>());
                    Some((self.store.table(*id)?, terms, feeding, extract, whole))
                })
                .collect();
            let told_of = self.told_of(Some(region));
            let mut links = other.links();
            let superfluous: Vec<_> = links
                .partitions()
                .filter(|partition| !wanted.iter().any(|(t, ..)| t.partition() == *partition))
                .collect();
            superfluous.into_iter().for_each(|partition| links.close(partition));
            for (table, terms, feeding, extract, (is_whole, members)) in wanted {
                let partition = table.partition();
                links.open(partition, table, &terms);
                links.feed(partition, feeding);
                links.extract(partition, extract);
                links.whole(partition, is_whole);
                links.members(partition, members);
            }
            links.tell_of(&told_of);
            drop(links);
            other.wake();
        }
        self.obey_modes(&records);
    }
}

/// A partition of a distributed table stays a global table, also where one region holds it.
fn is_partition(table: &GlobalTable) -> bool {
    partition_named(&table.name).is_some()
}

/// Whether a table that is left of an earlier binding can become a replica: its log must not have
/// gone through more epochs than that of the base, or entries of the base would be fenced here.
fn check_left(own: &str, left: Epoch, table: &GlobalTable) -> Result<(), ApiError> {
    if left.0 <= table.epoch {
        return Ok(());
    }
    Err(ApiError::new(
        ErrorCode::ObjectAlreadyExist,
        format!(
            "Region {own} holds a table of that name from an earlier binding, in epoch {left}; the \
             global table is in epoch {}. Delete the table in region {own} first.",
            table.epoch
        ),
    ))
}

/// What another region says that it did not do.
pub(super) fn told(failure: Failure) -> ApiError {
    let code = ErrorCode::from_name(&failure.code).unwrap_or(ErrorCode::InternalServerError);
    ApiError { is_elsewhere: failure.is_elsewhere, ..ApiError::new(code, failure.message) }
}
