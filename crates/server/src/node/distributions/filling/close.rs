//! The end of old partitions: their writes are held for a moment, not refused, while the rest of
//! them is moved and other replicas take it.

use std::sync::Arc;
use std::time::Duration;

use isthmus_control::global_table::Progress as ReplicaProgress;
use isthmus_model::ids::Lsn;
use isthmus_model::schema::Schema;
use isthmus_protocol::error_code::ErrorCode;
use isthmus_store::{BatchesHeld, Held, Table};
use serde_json::json;

use super::copy::{Source, Targets};
use super::{Doing, Filling, Plan};
use crate::api_error::ApiError;
use crate::node::Node;
use crate::node::distributions::counts::Holding;
use crate::node::events::EventKind;

/// Writes are held when the last round had so many entries at most, or after so many rounds took so
/// long at most.
const ENTRIES_LEFT: u64 = 64;
const ROUNDS_MAX: u32 = 40;
const ROUND_MAX: Duration = Duration::from_millis(500);
/// Writes are held for so long at most before the old partitions end; else they go on for a while.
const HOLD_MAX: Duration = Duration::from_millis(1500);
/// How long is waited after that until other regions know of the end.
const TOLD_PATIENCE: Duration = Duration::from_millis(500);
/// So many entries are moved while writes are held before it is looked how long that takes.
const ENTRIES_AT_ONCE: u64 = 256;
/// What was in vain is tried again after this.
const TRY_AGAIN: Duration = Duration::from_millis(500);
/// Where writes were held in vain, twice as long each time, to this.
const REST_MAX: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// So long new batches are held back until old partitions keep no parts of any, and after that was
/// in vain they are taken for so long.
const BATCHES_PATIENCE: Duration = Duration::from_secs(5);
const BATCHES_AGAIN: Duration = Duration::from_secs(10);
const LOOK_FOR_BATCHES: Duration = Duration::from_millis(20);

impl Node {
    /// Follows what is written to the old partitions, and ends them when nothing is left to move.
    pub(super) async fn follow_and_end(
        &self,
        plan: &Plan,
        sources: &mut [Source],
        targets: &Targets,
        filling: &Filling,
    ) -> Result<(), ApiError> {
        let mut rests_until = Duration::ZERO;
        loop {
            self.check_planned(plan)?;
            self.catch_up(plan, sources, targets, filling).await?;
            if self.clock.monotonic() < rests_until {
                tokio::time::sleep(TRY_AGAIN).await;
                continue;
            }
            if let Err(error) = self.check_may_end(plan, sources, targets) {
                filling.waits_for(error.message);
                tokio::time::sleep(TRY_AGAIN).await;
                continue;
            }
            // Batches know a partition by its log, so none may be left in one that ends.
            let held_back = match self.await_no_batches(sources).await {
                Ok(held_back) => held_back,
                Err(error) => {
                    filling.waits_for(error.message);
                    tokio::time::sleep(BATCHES_AGAIN).await;
                    continue;
                }
            };
            self.catch_up(plan, sources, targets, filling).await?;
            let holds = filling.holds();
            let ended = self.end_sources(plan, sources, targets, filling).await;
            drop(held_back);
            match ended {
                Ok(()) => return Ok(()),
                // Nothing has ended, and writes go on.
                Err(error) if sources.iter().all(|source| !source.table.is_dropped()) => {
                    filling.waits_for(error.message);
                    if filling.holds() > holds {
                        rests_until = self.clock.monotonic() + rest_after(filling.holds());
                    }
                    tokio::time::sleep(TRY_AGAIN).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits until the old partitions keep no parts of batches. New ones are held back meanwhile,
    /// and until what is given is dropped.
    async fn await_no_batches(&self, sources: &[Source]) -> Result<Vec<BatchesHeld>, ApiError> {
        let held_back = sources.iter().map(|source| source.table.hold_batches()).collect();
        let deadline = self.clock.monotonic() + BATCHES_PATIENCE;
        while let Err(error) = check_batches(sources) {
            if self.clock.monotonic() > deadline {
                return Err(error);
            }
            tokio::time::sleep(LOOK_FOR_BATCHES).await;
        }
        Ok(held_back)
    }

    /// Follows until little is left.
    async fn catch_up(
        &self,
        plan: &Plan,
        sources: &mut [Source],
        targets: &Targets,
        filling: &Filling,
    ) -> Result<(), ApiError> {
        let mut rounds = 0;
        loop {
            if self.follow_schemas(sources, targets).await? {
                self.copy_all(plan, sources, targets, filling).await?;
                filling.note(|progress| progress.doing = Doing::Following);
            }
            let (entries, took) = self.follow_once(plan, sources, targets).await?;
            rounds += 1;
            if entries <= ENTRIES_LEFT || (rounds > ROUNDS_MAX && took <= ROUND_MAX) {
                return Ok(());
            }
            self.check_planned(plan)?;
        }
    }

    /// Follows what was written so far. Returns how many entries that were, and how long it took.
    async fn follow_once(
        &self,
        plan: &Plan,
        sources: &mut [Source],
        targets: &Targets,
    ) -> Result<(u64, Duration), ApiError> {
        let began = self.clock.monotonic();
        let mut entries = 0;
        for source in sources {
            let through = source.table.durable_lsn();
            entries += self.follow_log(plan, source, through, targets).await?;
        }
        Ok((entries, self.clock.monotonic().saturating_sub(began)))
    }

    /// Gives the new partitions the schema of the old ones. Answers whether rows lived there, or
    /// were kept, otherwise until now: then they may lack what the old ones show and no later entry
    /// names, and all rows are to be copied again.
    pub(super) async fn follow_schemas(
        &self,
        sources: &[Source],
        targets: &Targets,
    ) -> Result<bool, ApiError> {
        let Some(schema) = schema_of(sources) else { return Ok(false) };
        let mut lived_otherwise = false;
        for target in targets.values() {
            let known = target.schema();
            lived_otherwise |= !keep_alike(&known, &schema);
            if !are_alike(&known, &schema) {
                target.change_schema(|_| Ok(schema.clone())).await?;
            }
        }
        Ok(lived_otherwise)
    }

    /// An error: what is in the way.
    fn check_may_end(
        &self,
        plan: &Plan,
        sources: &[Source],
        targets: &Targets,
    ) -> Result<(), ApiError> {
        let unavailable = |why: String| Err(ApiError::new(ErrorCode::ServerUnavailable, why));
        let Some(schema) = schema_of(sources) else {
            return unavailable("the schemas of the two partitions differ".to_owned());
        };
        if targets.values().any(|target| !are_alike(&target.schema(), &schema)) {
            return unavailable("the schema of the new partitions is behind".to_owned());
        }
        let record = self.distributions.get(&plan.record.name).ok_or_else(ApiError::no_table)?;
        let has_settings = |table: &Arc<Table>| {
            let known = self.record(table.id());
            known.is_some_and(|known| record.setting_to_change(&known.table).is_none())
        };
        if !targets.values().all(has_settings) {
            return unavailable("the new partitions have not all the settings yet".to_owned());
        }
        for target in targets.values() {
            self.check_agreed(target)?;
            for source in sources {
                self.check_as_safe(target, &source.table)?;
            }
        }
        for source in sources {
            self.check_gathered(&source.table)?;
        }
        if self.has_any_ended(&plan.record) {
            // Then nobody serves a part of the table, and that is no time to wait for others.
            return Ok(());
        }
        let base = &plan.record.base;
        if *base != self.config.region.name && !self.is_reached(base) {
            return unavailable(format!("region {base}, which keeps the record, is not reached"));
        }
        let tables = sources.iter().map(|source| &source.table).chain(targets.values());
        for table in tables {
            for region in self.replicas_of(table) {
                if !self.is_reached(&region) {
                    return unavailable(format!("region {region} is not reached"));
                }
            }
        }
        Ok(())
    }

    /// The other regions that hold a partition.
    fn replicas_of(&self, table: &Table) -> Vec<String> {
        let Some(record) = self.record(table.id()) else { return Vec::new() };
        let is_other = |region: &String| *region != self.config.region.name;
        let whole = record.table.replicas.iter().filter(|replica| {
            replica.progress != ReplicaProgress::Unbinding
                && replica.progress != ReplicaProgress::Dropped
        });
        whole.map(|replica| replica.region.clone()).filter(is_other).collect()
    }

    /// Moves the rest and ends the old partitions. An error after which none has ended: their
    /// writes go on.
    async fn end_sources(
        &self,
        plan: &Plan,
        sources: &mut [Source],
        targets: &Targets,
        filling: &Filling,
    ) -> Result<(), ApiError> {
        // Before anything is held, replicas must be near.
        let near = self.clock.monotonic() + 4 * HOLD_MAX;
        for target in targets.values() {
            self.await_replicas(plan, target, target.durable_lsn(), near).await?;
        }
        let fillings = &self.distributions.fillings;
        let _alone = fillings.ending.lock().await;
        self.check_planned(plan)?;
        let has_begun = self.has_any_ended(&plan.record);
        if fillings.stopped.lock().contains(&plan.name()) && !has_begun {
            return Err(ApiError::invalid("It was given up."));
        }
        // What was written while that was waited for would be moved while writes are held.
        let (_, took) = self.follow_once(plan, sources, targets).await?;
        if took > ROUND_MAX {
            return Err(late("Much was written meanwhile."));
        }
        let holding = Holding::begin(&self.distributions.counts, &*self.clock);
        let deadline = holding.since() + HOLD_MAX;
        filling.note(|progress| progress.holds += 1);
        // From here on writes wait: those that are prepared in other regions come to their end.
        let mut drained = Vec::new();
        for source in &*sources {
            let left = deadline.saturating_sub(self.clock.monotonic());
            let drain = tokio::time::timeout(left, self.drain_synced(&source.table)).await;
            drained.extend(drain.map_err(|_| late("Writes wait for the votes of others."))??);
        }
        let held: Vec<Held> =
            sources.iter().map(|source| source.table.hold()).collect::<Result<_, _>>()?;
        for (source, held) in sources.iter_mut().zip(&held) {
            let last = held.last();
            self.await_durable(&source.table, last, deadline).await?;
            while source.done < last {
                if self.clock.monotonic() > deadline {
                    return Err(late("Much is to be moved yet."));
                }
                let through = Lsn(last.0.min(source.done.0 + ENTRIES_AT_ONCE));
                self.follow_log(plan, source, through, targets).await?;
            }
        }
        self.check_may_end(plan, sources, targets)?;
        check_batches(sources)?;
        for target in targets.values() {
            self.await_replicas(plan, target, target.durable_lsn(), deadline).await?;
            // Those that are not reached may come to have the end, and go on without this region.
            let last = (target.durable_lsn(), target.writer_word().epoch);
            let left = deadline.saturating_sub(self.clock.monotonic());
            let held = tokio::time::timeout(left, self.until_held(target, last).done()).await;
            held.map_err(|_| late("Too few regions hold the new partitions."))??;
        }
        if self.clock.monotonic() > deadline {
            return Err(ApiError::new(ErrorCode::Timeout, "Writes were held for too long."));
        }
        for held in &held {
            self.check_lease(held.table(), held.epoch()).map_err(|_| {
                let why = format!("another region may write {} by now", held.table().name());
                ApiError::new(ErrorCode::ServerUnavailable, why)
            })?;
        }
        // All of them are under way before one is waited for: a crash is not to part them.
        let ends: Vec<_> = held.iter().map(Held::end).collect();
        let mut ended = Ok(());
        for end in ends {
            ended = ended.and(end.await.map(drop));
        }
        ended?;
        // A region that has not heard of it might write an old one after a failover.
        let told = self.clock.monotonic() + TOLD_PATIENCE;
        for held in &held {
            let table = held.table();
            if let Err(error) = self.await_replicas(plan, table, table.durable_lsn(), told).await {
                tracing::warn!(table = %table.name(), %error, "its end is not known everywhere");
            }
        }
        let pause = holding.end();
        for held in &held {
            let (name, lsn) = (held.table().name(), held.table().durable_lsn());
            let pause_ms = pause.as_secs_f64() * 1000.0;
            let text = format!(
                "it has ended at entry {lsn} and its rows go on in others; writes were held for \
                 {pause_ms:.0} ms"
            );
            let into: Vec<&u32> = targets.keys().collect();
            let detail = json!({ "lsn": lsn.0, "into": into, "pause_ms": pause_ms });
            self.notice(EventKind::PartitionEnded, name.as_str(), text, detail);
        }
        self.reconcile_soon.notify_one();
        Ok(())
    }

    async fn await_durable(
        &self,
        table: &Table,
        lsn: Lsn,
        deadline: Duration,
    ) -> Result<(), ApiError> {
        while table.durable_lsn() < lsn {
            if self.clock.monotonic() > deadline {
                return Err(late("The disk is slow."));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    /// Waits until all other replicas hold a partition up to an entry; where an old partition has
    /// ended already, those that are reached. An error: in vain.
    async fn await_replicas(
        &self,
        plan: &Plan,
        table: &Arc<Table>,
        lsn: Lsn,
        deadline: Duration,
    ) -> Result<(), ApiError> {
        for region in self.replicas_of(table) {
            while self.is_reached(&region) || !self.has_any_ended(&plan.record) {
                let is_direct = self.record(table.id()).is_some_and(|record| {
                    let own = self.config.region.name.as_str();
                    record.table.feeder(own, &region) == Some(own)
                });
                let held = self.held_by_successor(table.id(), table, &region, is_direct)?;
                if held >= lsn {
                    break;
                }
                if self.clock.monotonic() > deadline {
                    return Err(late(format!("region {region} is behind with {}", table.name())));
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
        Ok(())
    }
}

/// For how long writes are not held again when they were so often in vain.
fn rest_after(holds: u32) -> Duration {
    TRY_AGAIN.saturating_mul(1 << holds.min(16)).min(REST_MAX)
}

fn late(why: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::Timeout, why)
}

/// An error: batches have left something in an old partition.
fn check_batches(sources: &[Source]) -> Result<(), ApiError> {
    match sources.iter().find(|source| source.table.keeps_batches()) {
        None => Ok(()),
        Some(source) => {
            let name = source.table.name();
            let why = format!("partition {name} keeps parts of batches");
            Err(ApiError::new(ErrorCode::ServerUnavailable, why))
        }
    }
}

/// The schema of the old partitions; `None`: theirs differ.
fn schema_of(sources: &[Source]) -> Option<Schema> {
    let (first, others) = sources.split_first()?;
    let schema = first.table.schema();
    let alike = others.iter().all(|other| are_alike(&other.table.schema(), &schema));
    alike.then(|| (*schema).clone())
}

/// Whether two schemas say the same, whatever their numbers.
fn are_alike(one: &Schema, other: &Schema) -> bool {
    let one = Schema { number: other.number, ..one.clone() };
    one == *other
}

/// Whether rows live as long, and as many of their versions are kept, under two schemas.
fn keep_alike(one: &Schema, other: &Schema) -> bool {
    let kept = |schema: &Schema| (schema.options.time_to_live_seconds, schema.options.max_versions);
    kept(one) == kept(other) && one.options.families == other.options.families
}

#[cfg(test)]
mod tests {
    use isthmus_model::ids::SchemaNumber;
    use isthmus_model::schema::TableOptions;

    use super::*;

    #[test]
    fn rows_are_kept_otherwise_where_times_or_versions_differ() {
        let schema = Schema {
            number: SchemaNumber(1),
            key_columns: Vec::new(),
            defined_columns: Vec::new(),
            options: TableOptions::default(),
        };
        let mut other = Schema { number: SchemaNumber(7), ..schema.clone() };
        assert!(are_alike(&schema, &other));
        other.options.allow_update = false;
        assert!(!are_alike(&schema, &other) && keep_alike(&schema, &other));
        other.options.time_to_live_seconds = Some(60);
        assert!(!keep_alike(&schema, &other));
        let mut other = schema.clone();
        other.options.max_versions = 2;
        assert!(!keep_alike(&schema, &other));
    }

    #[test]
    fn writes_that_were_held_in_vain_rest_longer_each_time() {
        assert_eq!(rest_after(1), Duration::from_secs(1));
        assert_eq!(rest_after(4), Duration::from_secs(8));
        assert_eq!(rest_after(7), REST_MAX);
        assert_eq!(rest_after(u32::MAX), REST_MAX);
    }
}
