//! What comes after the end of old partitions: the new ones are opened to clients where they are
//! written, and the base is told, whoever writes them by then and whether it was asked or not.
//!
//! Only what is in the logs counts here, so that it is finished after any crash, and also while the
//! base is away.

use std::time::Duration;

use isthmus_control::distribution::reshape::Phase;
use isthmus_control::distribution::reshape::words::Told;
use isthmus_control::distribution::{Distribution, name_of_partition, partition_named};
use isthmus_model::ids::Epoch;
use isthmus_protocol::error_code::ErrorCode;
use isthmus_replication::mode::Fallback;
use isthmus_store::Table;

use super::copy::Targets;
use super::{Doing, Filling, Plan};
use crate::api_error::ApiError;
use crate::node::Node;
use crate::node::distributions::ask::{Ask, read};

/// The base is told again after this that all is done.
const TELL_AGAIN: Duration = Duration::from_millis(200);

impl Node {
    /// Whether clients may write a partition here, as far as the record of its table says: it is
    /// one of those that divide the table, or it is to take the place of others, which have ended
    /// here, and was opened by this region in the epoch in which it writes it.
    pub(in crate::node) fn is_served(&self, partition: &str) -> bool {
        let Some((table, number)) = partition_named(partition) else { return true };
        let Some(record) = self.distributions.get(table) else { return true };
        if record.place_numbered(number).is_some() {
            return true;
        }
        let is_planned = record.reshape.as_ref().is_some_and(|reshape| reshape.has_target(number));
        let opened = self.distributions.fillings.opened.read().get(partition).copied();
        let Some(opened) = opened.filter(|_| is_planned) else { return false };
        let held = self.partition_held(partition);
        held.is_some_and(|table| table.writer_word().epoch == opened)
            && self.have_all_ended(&record)
    }

    /// Whether all partitions whose place others take have ended in their logs here.
    pub(super) fn have_all_ended(&self, record: &Distribution) -> bool {
        let mut sources = record.reshape.iter().flat_map(|reshape| &reshape.sources);
        sources.all(|number| self.has_ended(&name_of_partition(&record.name, *number)))
    }

    /// Whether one of them has.
    pub(in crate::node::distributions) fn has_any_ended(&self, record: &Distribution) -> bool {
        let mut sources = record.reshape.iter().flat_map(|reshape| &reshape.sources);
        sources.any(|number| self.has_ended(&name_of_partition(&record.name, *number)))
    }

    /// Goes on with splits and merges of which partitions have ended, where this region writes
    /// what is left of them: without a word of the base, which may be away.
    pub(in crate::node::distributions) fn go_on_with_ended(&self) {
        for record in self.distributions.all() {
            let Some(reshape) = &record.reshape else { continue };
            if reshape.phase == Phase::Removing || !self.has_any_ended(&record) {
                continue;
            }
            let targets = reshape.targets.iter().map(|target| target.number);
            let left = reshape.sources.iter().copied().chain(targets);
            let mut left = left.map(|number| name_of_partition(&record.name, number));
            if left.all(|name| self.has_ended(&name) || self.filled_here(&name).is_ok())
                && let Some(plan) = self.planned(&record.name, &(record.id.clone(), reshape.id()))
            {
                self.begin_filling(plan);
            }
        }
    }

    /// Opens the new partitions, and tells the base until the record here says so. Whether this
    /// region writes them yet is looked at before each word.
    pub(super) async fn finish(
        &self,
        plan: &Plan,
        targets: &Targets,
        filling: &Filling,
    ) -> Result<(), ApiError> {
        let (id, number) = plan.name();
        let is_planned = || self.planned(&plan.record.name, &plan.name()).is_some();
        while is_planned() {
            let ends = self.open_filled(plan, targets).await?;
            filling.note(|progress| progress.doing = Doing::Ended);
            let (name, id) = (plan.record.name.clone(), id.clone());
            let told = Ask::Filled { name, id, number, ends };
            let waits = self.ask_about(&plan.record.base, &told).await.err();
            filling.note(|progress| progress.waits = waits.map(|error| error.message));
            if is_planned() {
                tokio::time::sleep(TELL_AGAIN).await;
            }
        }
        Ok(())
    }

    /// Clients may write the new partitions here from now on. They all hold everything, and the
    /// ends of the old ones are held by as many regions as their writes. Answers in which epochs.
    async fn open_filled(&self, plan: &Plan, targets: &Targets) -> Result<Vec<Told>, ApiError> {
        let mut told = Vec::new();
        for number in &plan.reshape.sources {
            let name = plan.partition(*number);
            let table = self.partition_held(&name).filter(|table| table.is_dropped());
            let table = table.ok_or_else(|| not_yet(format!("{name} has not ended here")))?;
            for target in targets.values() {
                target.skip_numbers(table.numbers_given()).await?;
            }
            let epoch = match table.writer_word().accepts {
                true => self.held_end(&table).await?,
                false => self.ask_for_end(plan, *number, &table).await?,
            };
            told.push(Told { number: *number, table: table.id().0, epoch: epoch.0 });
        }
        let mut opened = Vec::new();
        for (number, table) in targets {
            let name = plan.partition(*number);
            self.filled_here(&name)?;
            self.check_agreed(table)?;
            let epoch = table.writer_word().epoch;
            self.until_held(table, (table.durable_lsn(), epoch)).done().await?;
            told.push(Told { number: *number, table: table.id().0, epoch: epoch.0 });
            opened.push((name, epoch));
        }
        let mut open = self.distributions.fillings.opened.write();
        let mut is_news = false;
        for (name, epoch) in opened {
            is_news |= open.insert(name, epoch) != Some(epoch);
        }
        drop(open);
        if is_news {
            self.writers.send_modify(|writers| *writers += 1);
        }
        Ok(told)
    }

    /// The epoch in which a partition has ended that is written here, when its end is held by as
    /// many regions as its writes.
    async fn held_end(&self, table: &Table) -> Result<Epoch, ApiError> {
        let epoch = table.writer_word().epoch;
        self.until_held(table, (table.durable_lsn(), epoch)).done().await?;
        Ok(epoch)
    }

    /// The same, of one that another region writes: in no newer epoch than the log here.
    async fn ask_for_end(
        &self,
        plan: &Plan,
        number: u32,
        table: &Table,
    ) -> Result<Epoch, ApiError> {
        let record = self.record(table.id()).ok_or_else(ApiError::no_table)?;
        let (name, id) = (plan.record.name.clone(), plan.record.id.clone());
        let writer = record.table.primary();
        let told = self.ask_about(writer, &Ask::Ended { name, id, number }).await?;
        let told: u64 = read(told.to_string().as_bytes())?;
        let epoch = table.writer_word().epoch;
        match told == epoch.0 {
            true => Ok(epoch),
            false => Err(not_yet(format!(
                "region {writer} writes {} in epoch {told}, the log here is in epoch {epoch}",
                table.name()
            ))),
        }
    }

    /// Answers a region that goes on in place of a partition which is written here.
    pub(in crate::node::distributions) async fn on_ended(
        &self,
        table: &str,
        (id, number): (&str, u32),
    ) -> Result<u64, ApiError> {
        let name = name_of_partition(table, number);
        let is_it = self.distributions.get(table).is_some_and(|record| record.id == id);
        let held = self.partition_held(&name).filter(|_| is_it);
        let held = held.filter(|table| table.is_dropped() && table.writer_word().accepts);
        let own = &self.config.region.name;
        let held = held.ok_or_else(|| not_yet(format!("{name} has not ended in region {own}")))?;
        Ok(self.held_end(&held).await?.0)
    }

    /// Where regions agree on who writes: an error as long as they have not agreed on what they
    /// need to know of a new partition, so that none comes to write it that lacks a part.
    pub(super) fn check_agreed(&self, table: &Table) -> Result<(), ApiError> {
        let Some(registry) = self.registry() else { return Ok(()) };
        let record = self.record(table.id()).ok_or_else(ApiError::no_table)?;
        let report = self.shared.modes.report(table.partition());
        let has_fallen = report
            .is_some_and(|report| report.fallen_back && report.asked.fallback == Fallback::Async);
        let held_by = if has_fallen { 0 } else { record.table.held_by() };
        let known = registry.known();
        let is_agreed = known.agreed.tenure(table.id().0).is_some_and(|tenure| {
            let whole = record.table.whole_replicas();
            tenure.vacant.is_none()
                && tenure.writer == self.config.region.name
                && tenure.epoch == table.writer_word().epoch.0
                && tenure.held_by >= held_by
                && tenure.replicas.iter().all(|region| whole.contains(region))
        });
        match is_agreed {
            true => Ok(()),
            false => Err(not_yet(format!("the regions have not agreed on {} yet", table.name()))),
        }
    }

    /// An error as long as fewer regions hold a write of a new partition, as is agreed on, than one
    /// of an old one.
    pub(super) fn check_as_safe(&self, target: &Table, source: &Table) -> Result<(), ApiError> {
        let Some(registry) = self.registry() else { return Ok(()) };
        let known = registry.known();
        let held_by = |table: &Table| known.agreed.tenure(table.id().0).map(|it| it.held_by);
        match held_by(target) >= held_by(source) {
            true => Ok(()),
            false => Err(not_yet(format!(
                "writes of {} are not yet held by as many regions as those of {}",
                target.name(),
                source.name()
            ))),
        }
    }
}

fn not_yet(why: String) -> ApiError {
    ApiError::new(ErrorCode::ServerUnavailable, format!("It waits: {why}."))
}
