//! A planned change of the writing region, in one step: asked for anywhere, judged in the base
//! region, done by the region that writes.
//!
//! That one waits until the successor lacks next to nothing, so that the pause is short, and ends
//! its epoch in the log. From there on nothing can go wrong but time: the successor opens the next
//! epoch when it has the last entry, whoever crashes meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use isthmus_control::change::Change;
use isthmus_control::global_table::{Progress, Replica, Serve};
use isthmus_control::writer::Switchover;
use isthmus_model::ids::{Lsn, TableId};
use isthmus_protocol::error_code::ErrorCode;
use isthmus_replication::frame::FORMAT_OF_HANDOVER;
use isthmus_replication::link::State;
use isthmus_store::Table;
use prost::Message;
use serde_json::{Value, json};
use tokio::sync::MutexGuard;

use super::events::EventKind;
use super::global_tables::no_global_table;
use super::reconcile::told;
use super::{Node, Record};
use crate::api_error::ApiError;
use crate::peer::call::{HandOver, HandedOver, MayWrite, Question};
use crate::peer::dial::OtherRegion;

/// How long the successor may take to catch up before nothing is handed over, with what comes
/// before that: a region that has just started listens first.
const CATCH_UP_PATIENCE: Duration = Duration::from_secs(12);
/// The epoch ends only when what was written was with the successor within this.
const LAG_WANTED: Duration = Duration::from_millis(50);
/// Or within this, when half of the patience is gone.
const LAG_MAX: Duration = Duration::from_millis(1000);
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// How long is waited for word of the successor. It opens later, too.
const OPENING_PATIENCE: Duration = Duration::from_secs(8);
/// How long the successor may take to say whether it could write.
const MAY_WRITE_PATIENCE: Duration = Duration::from_secs(3);
/// How long the region that writes may take for all of it: more than the three patiences together,
/// so that it is not left alone with what it may still do; less than a change may take.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(26);

/// Who was named to write a table next, and in which epoch, where it is not known whether it does.
pub(super) type Named = BTreeMap<TableId, (u64, String)>;

fn unavailable(why: String) -> ApiError {
    ApiError::new(ErrorCode::ServerUnavailable, why)
}

fn check_format_of(region: &str, format: u32, epoch: u64) -> Result<(), ApiError> {
    match epoch > 1 && (1..FORMAT_OF_HANDOVER).contains(&format) {
        false => Ok(()),
        true => Err(unavailable(format!(
            "The writing region of the table has changed, which region {region} cannot read: it \
             speaks format {format} and {FORMAT_OF_HANDOVER} is needed. Upgrade it first."
        ))),
    }
}

async fn ask_to_hand_over(
    other: &OtherRegion,
    from: &str,
    asked: HandOver,
) -> Result<Bytes, ApiError> {
    let reply = other.ask_within(Question::HandOver(asked), HAND_OVER_TIMEOUT).await;
    let reply = reply.map_err(|status| {
        let message = format!(
            "Region {from} did not answer ({}). Whether another region writes is not known; the \
             status tells.",
            status.message()
        );
        ApiError::new(ErrorCode::Timeout, message)
    })?;
    match reply.failure {
        None => Ok(reply.body),
        Some(failure) => Err(told(failure)),
    }
}

impl Node {
    /// Lets another region write a table whose base is here. Answers when it does.
    pub(super) async fn switch_over(&self, name: &str, to: &str) -> Result<Value, ApiError> {
        let Ok(_one_at_a_time) = self.switching.try_lock() else {
            return Err(ApiError::new(
                ErrorCode::OperationConflict,
                "Another change of a writing region, or an unbinding, is under way. Nothing was \
                 done.",
            ));
        };
        let (id, mut record) = self.record_named(name).ok_or_else(no_global_table)?;
        let before = record.table.primary().to_owned();
        record.table.change(&Change::Switchover(Switchover { to: to.to_owned() }))?;
        if before == to {
            return Ok(self.who_writes(id, false, &HandedOver::default()));
        }
        let epoch = record.table.epoch;
        let asked = HandOver { table: name.to_owned(), epoch, to: to.to_owned() };
        let answer = self.have_handed_over(id, &before, asked).await;
        let handed_over = answer.inspect_err(|error| {
            let text = format!("the change of the writer from {before} to {to} failed: {error}");
            let detail = json!({ "from": before, "to": to, "reason": error.message });
            self.notice(EventKind::SwitchoverFailed, name, text, detail);
        })?;
        if handed_over.pause_micros.is_none() {
            let message = format!(
                "Region {before} has handed the table over at entry {}, and region {to} has not \
                 been heard of since. It writes as soon as it has that entry; until then nobody \
                 does, and nothing that was acknowledged is lost.",
                handed_over.lsn
            );
            // Not one that is unavailable: nobody else must be asked to do it again.
            return Err(ApiError::new(ErrorCode::Timeout, message));
        }
        self.follow_writer(id, handed_over.epoch, to);
        self.named.lock().remove(&id);
        Ok(self.who_writes(id, true, &handed_over))
    }

    /// Nobody may write a table next who is not bound to it: then nobody would, for good. So a
    /// region that was named as the next one stays until it has written. The answer is to be kept
    /// until the record is saved.
    pub(super) fn check_may_go(
        &self,
        id: TableId,
        record: &Record,
        regions: &[&str],
    ) -> Result<Option<MutexGuard<'_, ()>>, ApiError> {
        if record.table.serve != Serve::PrimarySecondary {
            return Ok(None);
        }
        // Clients try that again by themselves.
        let alone = self.switching.try_lock().map_err(|_| {
            ApiError::new(
                ErrorCode::OperationConflict,
                "The writing region of a table is being changed. Nothing was done; try again when \
                 that has ended.",
            )
        })?;
        let epoch = record.table.epoch;
        let named = self.named.lock().get(&id).filter(|(next, _)| *next > epoch).cloned();
        let word = self.store.table(id).map(|table| table.writer_word());
        let word = word.filter(|word| word.epoch.0 >= epoch);
        let by_log = word.map(|word| self.name_of(word.next_writer()));
        let next = |region: &str| {
            named.as_ref().is_some_and(|(_, named)| named == region)
                || by_log.as_deref() == Some(region)
        };
        match regions.iter().find(|region| next(region)) {
            None => Ok(Some(alone)),
            Some(region) => Err(ApiError::invalid(format!(
                "Region {region} was named as the next one to write the table and cannot be \
                 unbound: nobody could write it. Nothing was done. When `isthmus status` shows \
                 that it writes, let another region write first; if it shows that another one \
                 does, ask for the switchover again."
            ))),
        }
    }

    async fn have_handed_over(
        &self,
        id: TableId,
        from: &str,
        asked: HandOver,
    ) -> Result<HandedOver, ApiError> {
        let own = &self.config.region.name;
        let other = self.others.get(from).filter(|other| other.reached().connected);
        if from != own && other.is_none() {
            return Err(unavailable(format!(
                "Region {from}, which writes the table, cannot be reached. Nothing was done."
            )));
        }
        let earlier = self.named.lock().insert(id, (asked.epoch + 1, asked.to.clone()));
        let answer = match other {
            None => self.on_hand_over(own, &asked).await,
            Some(other) => ask_to_hand_over(other, from, asked).await,
        };
        if let Err(error) = &answer {
            let named = &mut *self.named.lock();
            match (error.code, earlier) {
                // It may have been done.
                (ErrorCode::Timeout, _) => {}
                // It still writes: what was asked for before has not been done either.
                (ErrorCode::ServerUnavailable, _) | (_, None) => drop(named.remove(&id)),
                (_, Some(earlier)) => drop(named.insert(id, earlier)),
            }
        }
        HandedOver::decode(answer?).map_err(|_| ApiError::internal())
    }

    fn who_writes(&self, id: TableId, changed: bool, handed_over: &HandedOver) -> Value {
        let record = self.record(id);
        let table = record.as_ref().map(|record| &record.table);
        json!({
            "version": table.map(|table| table.version),
            "changed": changed,
            "primary": table.map(|table| table.primary()),
            "epoch": table.map(|table| table.epoch),
            "lsn": changed.then_some(handed_over.lsn),
            "pause_ms": handed_over.pause_micros.map(|micros| micros as f64 / 1000.0),
        })
    }

    /// Ends the epoch in which this region writes, for the base region.
    pub(super) async fn on_hand_over(
        &self,
        from: &str,
        asked: &HandOver,
    ) -> Result<Bytes, ApiError> {
        let (id, record) = self.record_named(&asked.table).ok_or_else(no_global_table)?;
        if record.table.base != from {
            return Err(ApiError::invalid("Only the base region of the table may ask for that."));
        }
        let table = self.store.table(id).ok_or_else(no_global_table)?;
        let successor = self
            .number_of(&asked.to)
            .ok_or_else(|| ApiError::invalid(format!("Region {} is not configured.", asked.to)))?;
        let asked_at = self.clock.monotonic();
        self.listen_first(&asked.table).await;
        self.check_epoch(&table, asked.epoch)?;
        self.check_disk(&table)?;
        self.check_formats(&record)?;
        let may_write = MayWrite { table: asked.table.clone() };
        self.ask_in_time(&asked.to, Question::MayWrite(may_write), MAY_WRITE_PATIENCE).await?;
        self.await_gathered(&table).await?;
        self.await_caught_up((id, asked_at), &table, &record, &asked.to).await?;
        self.check_bound(id, &asked.to)?;

        let _drained = self.drain_synced(&table).await?;
        let mut moved = self.writers_moved();
        let began = self.clock.monotonic();
        let lsn = table.hand_over(successor).await?;
        let text = format!("handed over to region {} at entry {lsn}", asked.to);
        let detail = json!({ "to": asked.to, "lsn": lsn.0, "epoch": asked.epoch });
        self.notice(EventKind::WriterHandedOver, &asked.table, text, detail);
        let opened = async {
            let is_known = |_: &u64| self.record(id).is_none_or(|r| r.table.epoch > asked.epoch);
            let is_told = moved.wait_for(is_known).await.is_ok();
            // With a quorum the record knows who is to write before that one does.
            while self.is_decided_by_quorum() && table.writer_word().epoch.0 <= asked.epoch {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            is_told
        };
        let is_open = matches!(tokio::time::timeout(OPENING_PATIENCE, opened).await, Ok(true));
        let pause = self.clock.monotonic().saturating_sub(began);
        let handed_over = HandedOver {
            lsn: lsn.0,
            epoch: asked.epoch + 1,
            pause_micros: is_open.then_some(pause.as_micros() as u64),
        };
        Ok(handed_over.encode_to_vec().into())
    }

    /// An old disk must be found out before its log goes on.
    fn check_disk(&self, table: &Table) -> Result<(), ApiError> {
        match self.may_be_put_back(table) {
            false => Ok(()),
            true => Err(ApiError::new(
                ErrorCode::ServerUnavailable,
                format!(
                    "Region {} has just started and has not heard from all replicas of the table, \
                     or lacks something of it (`isthmus status` tells). Nothing was done. Try \
                     again in some seconds.",
                    self.config.region.name
                ),
            )),
        }
    }

    /// It may have been unbound while it caught up.
    fn check_bound(&self, id: TableId, to: &str) -> Result<(), ApiError> {
        let record = self.record(id).ok_or_else(no_global_table)?;
        let is_bound = |replica: &Replica| replica.progress != Progress::Unbinding;
        match record.table.replica(to).is_some_and(is_bound) {
            true => Ok(()),
            false => Err(ApiError::new(
                ErrorCode::OperationConflict,
                format!("Region {to} is being unbound. Nothing was done."),
            )),
        }
    }

    fn check_epoch(&self, table: &Table, epoch: u64) -> Result<(), ApiError> {
        let word = table.writer_word();
        if word.accepts && word.epoch.0 == epoch {
            return Ok(());
        }
        let own = &self.config.region.name;
        Err(ApiError::new(
            ErrorCode::OperationConflict,
            format!(
                "Region {own} does not write the table in epoch {epoch}: its log is in epoch {}, \
                 written by region {}. Nothing was done.",
                word.epoch,
                self.name_of(word.writer)
            ),
        ))
    }

    /// Every replica that is reached must be able to read that another region writes.
    fn check_formats(&self, record: &Record) -> Result<(), ApiError> {
        for replica in &record.table.replicas {
            let Some(other) = self.others.get(&replica.region) else { continue };
            let format = other.links().format();
            if other.reached().connected && format < FORMAT_OF_HANDOVER {
                return Err(unavailable(format!(
                    "Region {} speaks format {format} and {FORMAT_OF_HANDOVER} is needed. Upgrade \
                     it first.",
                    replica.region
                )));
            }
        }
        Ok(())
    }

    /// A region must be able to read the log of a table of which the writer has changed. One that
    /// has not been heard is judged when it is.
    pub(super) fn check_format(&self, region: &str, epoch: u64) -> Result<(), ApiError> {
        let format = self.others.get(region).map_or(0, |other| other.links().format());
        check_format_of(region, format, epoch)
    }

    /// Waits until the successor has what is written soon after it is.
    async fn await_caught_up(
        &self,
        (id, asked_at): (TableId, Duration),
        table: &Arc<Table>,
        record: &Record,
        to: &str,
    ) -> Result<(), ApiError> {
        let deadline = asked_at + CATCH_UP_PATIENCE;
        let is_direct = record.table.feeder(&self.config.region.name, to)
            == Some(self.config.region.name.as_str());
        loop {
            let (goal, began) = (table.durable_lsn(), self.clock.monotonic());
            while self.held_by_successor(id, table, to, is_direct)? < goal {
                let now = self.clock.monotonic();
                if now > deadline {
                    return Err(unavailable(format!(
                        "Region {to} does not catch up with what is written. Nothing was done; try \
                         again when the lag that the status shows is small."
                    )));
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            let is_late = began > asked_at + CATCH_UP_PATIENCE / 2;
            let lag_max = if is_late { LAG_MAX } else { LAG_WANTED };
            // Over several edges it is told once a second, which says nothing of the lag.
            if !is_direct || self.clock.monotonic() <= began + lag_max {
                return Ok(());
            }
        }
    }

    pub(super) fn held_by_successor(
        &self,
        id: TableId,
        table: &Table,
        to: &str,
        is_direct: bool,
    ) -> Result<Lsn, ApiError> {
        if !is_direct {
            let standing = self.standing_of(id, to).filter(|standing| standing.is_complete);
            return Ok(standing.and_then(|s| self.held_of_here(table, &s)).unwrap_or_default());
        }
        let links = self.others.get(to).map(|other| other.links());
        let report = links.as_ref().and_then(|links| links.report(table.partition()));
        let Some(report) = report else {
            return Err(unavailable(format!("There is no link to region {to}.")));
        };
        match report.state {
            State::Following => Ok(report.acked.unwrap_or_default()),
            State::Opening => Ok(Lsn(0)),
            state => Err(unavailable(format!(
                "The link to region {to} is {}: {}. Nothing was done.",
                state.as_str(),
                report.reason
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::change::CHANGE_TIMEOUT;
    use super::*;

    #[test]
    fn patiences_fit_in_each_other() {
        let within = MAY_WRITE_PATIENCE + CATCH_UP_PATIENCE + OPENING_PATIENCE;
        assert!(within < HAND_OVER_TIMEOUT && HAND_OVER_TIMEOUT < CHANGE_TIMEOUT);
    }

    #[test]
    fn a_region_that_cannot_read_of_another_writer_is_given_no_such_table() {
        let old = FORMAT_OF_HANDOVER - 1;
        assert!(check_format_of("r2", old, 2).unwrap_err().message.contains("Upgrade it first"));
        for (format, epoch) in [(old, 1), (FORMAT_OF_HANDOVER, 2), (0, 2)] {
            assert_eq!(check_format_of("r2", format, epoch), Ok(()));
        }
    }
}
