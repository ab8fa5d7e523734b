//! Doing what is to be done for one table (`isthmus_control::duty`).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use isthmus_control::agreed::{Command, Outcome, Refusal, Tenure};
use isthmus_control::duty::{Duty, Stand};
use isthmus_control::global_table::GlobalTable;
use isthmus_model::commit::Term;
use isthmus_model::ids::{Epoch, Lsn, TableId};
use isthmus_replication::mode::Fallback;
use isthmus_store::Table;
use serde_json::json;

use super::super::events::EventKind;
use super::super::synced::prepare_again;
use super::super::tail::TailError;
use super::super::{Node, record_note};
use super::{Done, SETTLE_AFTER, Trouble, Vacant, lease_clock};
use crate::registry::{Known, Registry};

impl Node {
    /// What is to be done next for a table here.
    pub(super) fn duty_of(&self, id: TableId, known: &Known) -> Option<Duty> {
        let (table, record) = (self.store.table(id)?, self.record(id)?);
        let word = table.writer_word();
        let now = lease_clock();
        let vacant = known.agreed.tenure(id.0).and_then(|tenure| tenure.vacant.as_ref());
        let has_waited = vacant.is_some_and(|vacancy| {
            let seen = self.failover.vacant.lock().get(&id).copied();
            let seen = seen.filter(|seen| seen.epoch == vacancy.epoch);
            seen.is_some_and(|seen| now.saturating_sub(seen.since) >= SETTLE_AFTER)
        });
        let watch = self.failover.detection.watch();
        let are_leases_over =
            known.agreed.leases_to_outlast(id.0).all(|region| watch.is_over(region, now));
        drop(watch);
        let successor = word.successor.map(|region| self.name_of(region));
        let stand = Stand {
            successor: successor.as_deref(),
            own: &self.config.region.name,
            record: &record.table,
            log_epoch: word.epoch.0,
            end: table.durable_lsn().0,
            sealed: table.epoch().0,
            accepts: word.accepts,
            held_by: self.held_by_now(id, &table, &record.table, known.agreed.tenure(id.0)),
            is_whole: record.ready && !self.may_be_put_back(&table),
            is_leased: self.is_leased(),
            are_leases_over,
            has_waited,
        };
        let duty = stand.duty(&known.agreed);
        let is_known = known.agreed.tenure(id.0).is_some();
        let must_wait = is_known && !self.has_gathered(&table, &record.table);
        duty.filter(|duty| *duty != Duty::Enrol || !must_wait)
    }

    /// Does the next thing that is to be done for a table.
    pub(super) async fn attend_to(&self, id: TableId, known: &Known) -> Done {
        let Some(table) = self.store.table(id) else { return Ok(()) };
        // What is pending may already be what was to be done.
        table.settled().await?;
        let own = self.config.region.name.clone();
        let at_millis = self.now_millis();
        match self.duty_of(id, known) {
            None => Ok(()),
            Some(Duty::Enrol) => self.enrol(id, &table, known).await,
            Some(Duty::Seal(epoch)) => {
                table.fence(Epoch(epoch)).await?;
                self.changes.fetch_add(1, Ordering::AcqRel);
                self.others.values().for_each(|other| other.wake());
                Ok(())
            }
            Some(Duty::Claim(epoch)) => {
                let lsn = table.durable_lsn().0;
                let claim = Command::Claim {
                    table: id.0,
                    region: own,
                    epoch,
                    log_epoch: table.writer_word().epoch.0,
                    lsn,
                    known_end: self.known_end(id, &table).0.max(lsn),
                    at_millis,
                };
                self.propose(claim).await.map(drop)
            }
            Some(Duty::Settle(epoch)) => {
                let settle = Command::Settle { table: id.0, epoch, by: own, at_millis };
                self.propose(settle).await.map(drop)
            }
            Some(Duty::Open { epoch, after }) => {
                self.open_granted(id, &table, (Epoch(epoch), Lsn(after))).await
            }
            Some(Duty::Resign(epoch)) => {
                table.fence(Epoch(epoch + 1)).await?;
                let end = table.durable_lsn();
                let why = format!("it cannot write on after entry {end}");
                let resign = Command::Resign { table: id.0, epoch, region: own, why, at_millis };
                self.propose(resign).await.map(drop)
            }
            Some(Duty::SetAside { after }) => self.set_aside(id, &table, known, Lsn(after)).await,
            Some(Duty::Follow) => {
                if let Some(tenure) = known.agreed.tenure(id.0) {
                    self.follow_writer(id, tenure.epoch, &tenure.writer);
                }
                Ok(())
            }
            Some(Duty::TakeBase) => {
                let epoch = known.agreed.tenure(id.0).map_or(0, |tenure| tenure.epoch);
                self.take_base(id, epoch).await
            }
        }
    }

    /// Makes a table that is written here known to those who decide.
    async fn enrol(&self, id: TableId, table: &Table, known: &Known) -> Done {
        let Some(record) = self.record(id) else { return Ok(()) };
        let tenure = known.agreed.tenure(id.0);
        let held_by = self.held_by_now(id, table, &record.table, tenure);
        let at_millis = self.now_millis();
        // Versions of the record begin anew where a table is made global again.
        let version = tenure.map_or(at_millis, |tenure| at_millis.max(tenure.version + 1));
        let command = Command::Enrol {
            table: id.0,
            name: record.table.name.clone(),
            epoch: table.writer_word().epoch.0,
            writer: self.config.region.name.clone(),
            replicas: record.table.whole_replicas(),
            held_by,
            automatic: record.table.fails_over_by_itself(held_by),
            version,
            at_millis,
        };
        self.propose(command).await.map(drop)
    }

    /// Other regions that hold a write of a table before it is answered, and all that was answered
    /// before. More than is agreed on only from when they hold all of that.
    fn held_by_now(
        &self,
        id: TableId,
        table: &Table,
        record: &GlobalTable,
        tenure: Option<&Tenure>,
    ) -> u8 {
        let report = self.shared.modes.report(table.partition());
        let has_fallen = report
            .as_ref()
            .is_some_and(|report| report.fallen_back && report.asked.fallback == Fallback::Async);
        let wanted = if has_fallen { 0 } else { record.held_by() };
        let agreed = tenure.map_or(0, |tenure| tenure.held_by);
        let mut goals = self.failover.goals.lock();
        if wanted <= agreed {
            goals.remove(&id);
            return wanted;
        }
        // What is answered until the table asks for more counts to the goal.
        if report.as_ref().is_none_or(|report| report.asked.held_by < usize::from(wanted)) {
            return agreed;
        }
        let goal = *goals.entry(id).or_insert_with(|| table.durable_lsn());
        let holders = report.iter().flat_map(|report| &report.holders);
        let held = holders.filter(|(_, held)| held.is_some_and(|held| held >= goal)).count();
        if held >= usize::from(wanted) { wanted } else { agreed }
    }

    /// Has it agreed on that writes of a table are not held by others any more, before the first
    /// one is answered so.
    pub(in super::super) async fn agree_to_fall_back(&self, id: TableId) -> bool {
        let Some(registry) = self.registry() else { return true };
        let known = registry.known();
        let tenure = known.agreed.tenure(id.0);
        let is_agreed = tenure.is_none_or(|tenure| tenure.held_by == 0);
        let Some(table) = self.store.table(id).filter(|_| !is_agreed) else { return true };
        let record = self.record(id);
        if record.is_some_and(|record| !self.has_gathered(&table, &record.table)) {
            return false;
        }
        self.enrol(id, &table, &known).await.is_ok()
    }

    /// Notes since when tables are seen here that nobody writes, and what was heard of their ends.
    pub(super) fn note_vacancies(&self, known: &Known) {
        let vacancies = known.agreed.vacancies_for(&self.config.region.name);
        for (id, tenure, vacancy) in vacancies {
            let id = TableId(id);
            let Some(table) = self.store.table(id) else { continue };
            let known_end = self.end_told_by(id, &table, &tenure.writer);
            let mut vacant = self.failover.vacant.lock();
            let begin = Vacant { epoch: vacancy.epoch, since: lease_clock(), known_end };
            let seen = vacant.entry(id).or_insert(begin);
            if seen.epoch != vacancy.epoch {
                *seen = begin;
            }
            seen.known_end = seen.known_end.max(known_end);
        }
    }

    fn known_end(&self, id: TableId, table: &Table) -> Lsn {
        let seen = self.failover.vacant.lock().get(&id).copied();
        seen.map_or(table.durable_lsn(), |seen| seen.known_end)
    }

    /// The newest end of the log of the region that wrote of which has been heard here.
    pub(super) fn end_told_by(&self, id: TableId, table: &Table, writer: &str) -> Lsn {
        let standing = self.standing_of(id, writer);
        standing.and_then(|standing| self.held_of_here(table, &standing)).unwrap_or(Lsn(0))
    }

    /// This region was granted the newest epoch.
    async fn open_granted(&self, id: TableId, table: &Table, (epoch, after): (Epoch, Lsn)) -> Done {
        let own = &self.config.region.name;
        let Some(before) = self.record(id).map(|record| record.table) else { return Ok(()) };
        self.follow_writer(id, epoch.0, own);
        // From the first one on, writes are answered as the table asks for.
        self.obey_modes_now();
        table.open_granted(epoch, after).await?;
        // The log may have been more than one epoch behind.
        self.obey_modes_now();
        self.writers.send_modify(|writers| *writers += 1);
        let seen = self.failover.vacant.lock().remove(&id);
        let lost = seen.map_or(0, |seen| seen.known_end.0.saturating_sub(after.0));
        let lost_region = before.primary();
        let text = format!(
            "{own} writes in place of {lost_region} from epoch {epoch} on, after entry {after}; \
             {lost} entries of which {lost_region} had told are not here"
        );
        let detail = json!({
            "primary": own,
            "before": lost_region,
            "epoch": epoch.0,
            "after_lsn": after.0,
            "known_lost_entries": lost,
        });
        self.notice(EventKind::FailedOver, &before.name, text, detail);
        Ok(())
    }

    /// What the newest epoch does not go on from is set aside, and the replica made anew.
    async fn set_aside(&self, id: TableId, table: &Arc<Table>, known: &Known, after: Lsn) -> Done {
        let Some(tenure) = known.agreed.tenure(id.0) else { return Ok(()) };
        let end = table.durable_lsn();
        let (held, tails) = (table.clone(), self.failover.tails.clone());
        let (epoch, now) = (tenure.epoch, self.clock.wall_millis());
        let kept = tokio::task::spawn_blocking(move || {
            let kept = tails.set_aside(&held, after, epoch, now)?;
            Ok::<_, TailError>((kept, prepare_again(&held, after)))
        });
        let (kept, again) = kept.await.map_err(|error| Trouble::Refused(error.to_string()))??;
        // In a log in which no term is settled nothing was ever prepared.
        let is_kept = again.await? || table.terms().1 == Term::default();
        self.note_cut_tail(table, epoch, after, is_kept).await?;
        self.await_copy(id).await?;
        let own = &self.config.region.name;
        let silence = match is_kept {
            true => "",
            false => {
                "; not all that others had prepared of them can be kept, so nothing is told to a \
                 new writer before a term is settled"
            }
        };
        let text = format!(
            "{own} held entries {} to {end} that epoch {epoch} does not go on from; {} changes of \
             rows are set aside in {}, and the table is made like that of {}{silence}",
            after.0 + 1,
            kept.rows,
            kept.file,
            tenure.writer,
        );
        let detail = json!({
            "region": own,
            "file": kept.file,
            "entries": end.0 - after.0,
            "rows": kept.rows,
            "epoch": epoch,
            "prepared_again": is_kept,
        });
        self.notice(EventKind::TailSetAside, &tenure.name, text, detail);
        Ok(())
    }

    /// The replica here is not read until it is made like the others.
    async fn await_copy(&self, id: TableId) -> Done {
        let note = {
            let mut records = self.records.lock();
            let Some(record) = records.get_mut(&id) else { return Ok(()) };
            record.ready = false;
            serde_json::to_vec(record)
        };
        let note = note.map_err(|error| Trouble::Refused(error.to_string()))?;
        self.store.put_note(&record_note(id), &note).await?;
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.obey_links();
        Ok(())
    }

    /// The base of a table is suspended, and this region, which writes it, takes its place.
    async fn take_base(&self, id: TableId, epoch: u64) -> Done {
        let own = &self.config.region.name;
        let _one_at_a_time = self.changing.lock().await;
        let Some(mut record) = self.record(id) else { return Ok(()) };
        let (name, before) = (record.table.name.clone(), record.table.base.clone());
        if !record.table.move_base(own, epoch) {
            return Ok(());
        }
        let saved = self.save(id, record).await;
        saved.map_err(|error| Trouble::Refused(error.to_string()))?;
        let text = format!("{own} keeps the record of the table from now on, in place of {before}");
        let detail = json!({ "base": own, "before": before, "epoch": epoch });
        self.notice(EventKind::BaseMoved, &name, text, detail);
        Ok(())
    }

    /// This region is suspended: it stops to write what others may write, then comes back.
    pub(super) async fn rejoin(&self, registry: &Arc<dyn Registry>, known: &Known) {
        let own = &self.config.region.name;
        self.failover.lease.lock().give_up();
        for (id, tenure) in &known.agreed.tables {
            let Some(table) = self.store.table(TableId(*id)) else { continue };
            let next = tenure.vacant.as_ref().map_or(tenure.epoch, |vacancy| vacancy.epoch);
            let is_over = tenure.vacant.is_some() || tenure.writer != *own;
            // Behind whatever is pending: an opening may be.
            if is_over
                && (table.epoch() < Epoch(next) || table.writer_word().accepts)
                && let Err(error) = table.fence(Epoch(next)).await
            {
                tracing::warn!(%error, table = %table.name(), "not fenced");
                return;
            }
        }
        let Some(standing) = known.agreed.regions.get(own).filter(|standing| !standing.by_hand)
        else {
            return;
        };
        let (run, at_millis) = (self.failover.run.load(Ordering::Acquire), self.now_millis());
        let suspended_at = standing.suspended_at;
        let rejoin = Command::Rejoin { region: own.clone(), run, suspended_at, at_millis };
        match registry.propose(rejoin).await {
            Ok(Outcome::Refused(refusal)) => {
                if let Refusal::OldRun { run, .. } = &refusal {
                    self.failover.run.fetch_max(run + 1, Ordering::AcqRel);
                }
                tracing::debug!(%refusal, "not taken back yet");
            }
            Ok(_) => {
                let text = format!("{own} had been suspended and is back");
                let detail = json!({ "region": own });
                self.notice(EventKind::RegionRejoined, "", text, detail);
            }
            Err(error) => tracing::debug!(%error, "not back yet"),
        }
    }

    /// A successor opens its epoch only with the consent of those who decide, where some do.
    pub(in super::super) async fn may_open(&self, table: &Table) -> bool {
        if self.registry().is_none() {
            return true;
        }
        let open = Command::Open {
            table: table.id().0,
            epoch: table.writer_word().epoch.0 + 1,
            region: self.config.region.name.clone(),
            after: table.durable_lsn().0,
            at_millis: self.now_millis(),
        };
        match self.propose(open).await {
            Ok(_) => true,
            Err(error) => {
                tracing::debug!(table = %table.name(), %error, "not granted yet");
                false
            }
        }
    }
}
