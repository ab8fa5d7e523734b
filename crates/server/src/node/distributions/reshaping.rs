//! Splits and merges as the base of the record sees them: they are planned, brought on step by
//! step, and taken into the record when the writer says that the old partitions have ended.
//!
//! What is to be done next is told by what is (`control/distribution/reshape.rs`); what fills the
//! new partitions is in `filling.rs`.

mod automatic;
mod seen;

use std::collections::BTreeMap;

use isthmus_control::distribution::reshape::automatic::{Choice, choose_point};
use isthmus_control::distribution::reshape::words::{Stopped, Told};
use isthmus_control::distribution::reshape::{self, Phase, Reshape, ReshapeStep, Seen, Why};
use isthmus_control::distribution::{By, Distribution, Partition, Point, name_of_partition};
use isthmus_control::global_table::GlobalTable;
use isthmus_model::ids::TableId;
use isthmus_protocol::error_code::ErrorCode;
use serde_json::{Value as Json, json};

use super::ask::{self, Ask, Look, Make, read};
use crate::api_error::ApiError;
use crate::node::Node;
use crate::node::events::EventKind;

pub(super) use self::automatic::Reshapings;

impl Node {
    /// Splits or merges partitions, gives that up, or says when it is done by itself: here or where
    /// the base is. `body` is the JSON of what is asked.
    pub async fn reshape(&self, name: &str, body: &[u8]) -> Result<Json, ApiError> {
        /// What is asked, and whether it is only to be told.
        #[derive(serde::Deserialize)]
        struct Asked {
            #[serde(default)]
            dry_run: bool,
            reshape: reshape::Ask,
        }
        let asked: Asked = serde_json::from_slice(body)
            .map_err(|error| ApiError::invalid(format!("What is asked is wrong: {error}.")))?;
        let record = self.distribution(name).ok_or_else(ApiError::no_table)?;
        let (name, reshape, dry_run) = (name.to_owned(), asked.reshape, asked.dry_run);
        self.ask_about(&record.base, &Ask::Reshape { name, reshape, dry_run }).await
    }

    pub(super) async fn decide_reshape(
        &self,
        name: &str,
        ask: reshape::Ask,
        dry_run: bool,
    ) -> Result<Json, ApiError> {
        let record = self.decided_here(name)?;
        match ask {
            reshape::Ask::Split { partition, at } => {
                let place = record.place_numbered(partition).ok_or_else(|| {
                    ApiError::invalid(format!("The table has no partition {partition}."))
                })?;
                let at = match at {
                    Some(text) => record.point_named(&text)?,
                    None => self.middle_of(&record, place).await?,
                };
                self.begin_split(&record, partition, &at, Why::Asked, dry_run).await
            }
            reshape::Ask::Merge { partitions } => {
                self.begin_merge(&record, partitions, Why::Asked, dry_run).await
            }
            reshape::Ask::Cancel {} => self.cancel_reshape(&record, dry_run).await,
            reshape::Ask::Limits { limits } => {
                limits.check()?;
                if !dry_run {
                    self.change_distribution(&record, |record| {
                        let is_news = record.limits != limits;
                        record.limits = limits.clone();
                        Ok(is_news)
                    })
                    .await?;
                    self.distributions.reshapings.end_rests(name);
                }
                Ok(json!({ "name": name, "limits": limits, "begun": !dry_run }))
            }
        }
    }

    async fn begin_split(
        &self,
        record: &Distribution,
        number: u32,
        at: &Point,
        why: Why,
        dry_run: bool,
    ) -> Result<Json, ApiError> {
        let because = (why, self.clock.wall_millis());
        self.begin_reshape(record, dry_run, |record| Ok(record.with_split(number, at, because)?))
            .await
    }

    async fn begin_merge(
        &self,
        record: &Distribution,
        numbers: [u32; 2],
        why: Why,
        dry_run: bool,
    ) -> Result<Json, ApiError> {
        let because = (why, self.clock.wall_millis());
        self.begin_reshape(record, dry_run, |record| Ok(record.with_merge(numbers, because)?)).await
    }

    async fn begin_reshape(
        &self,
        record: &Distribution,
        dry_run: bool,
        plan: impl Fn(&Distribution) -> Result<Distribution, ApiError>,
    ) -> Result<Json, ApiError> {
        self.check_plans_are_known(record)?;
        if dry_run {
            return Ok(plan_json(&plan(record)?, false));
        }
        let planned = self
            .change_distribution(record, |record| {
                *record = plan(record)?;
                Ok(true)
            })
            .await?;
        let told = plan_json(&planned, true);
        if let Some(reshape) = &planned.reshape {
            self.distributions.counts.begin(reshape);
            let (sources, why) = (named(&reshape.sources), reshape.why.as_str());
            let targets = named(&numbers_of(reshape));
            let text = format!("{sources} become {targets}, {why}");
            self.notice(EventKind::PartitionsReshape, &record.name, text, told.clone());
        }
        Ok(told)
    }

    async fn cancel_reshape(&self, record: &Distribution, dry_run: bool) -> Result<Json, ApiError> {
        if record.reshape.is_none() {
            return Err(ApiError::invalid("No partition is being split or merged."));
        }
        if !dry_run {
            self.change_distribution(record, |record| {
                let Some(reshape) = &mut record.reshape else { return Ok(false) };
                let is_news = reshape.phase == Phase::Filling;
                if is_news {
                    reshape.phase = Phase::Cancelling;
                }
                Ok(is_news)
            })
            .await?;
        }
        Ok(plan_json(record, !dry_run))
    }

    /// Where a partition is to be split by what it holds.
    async fn middle_of(&self, record: &Distribution, place: usize) -> Result<Point, ApiError> {
        let partition = &record.partitions[place];
        let points = self.points_at(record, partition, &partition.primary, Why::Size).await?;
        match choose_point(&partition.from, points) {
            Choice::At(point) => Ok(point),
            Choice::Unknown if record.by == By::Hash => {
                Ok(partition.from.middle(record.end_of(place)))
            }
            Choice::Unknown => {
                Err(ApiError::invalid("The partition holds nothing: say where it is to be split."))
            }
            Choice::OneKey(percent) => Err(ApiError::invalid(format!(
                "{percent} % of the rows of partition {} have one first key column: no split \
                 divides them. Say where it is to be split all the same.",
                partition.number
            ))),
        }
    }

    /// A sample of the points of a partition, as a region tells.
    async fn points_at(
        &self,
        record: &Distribution,
        partition: &Partition,
        region: &str,
        of: Why,
    ) -> Result<Vec<Point>, ApiError> {
        let (name, id) = (record.name.clone(), record.id.clone());
        let ask = Ask::Points { name, id, number: partition.number, of };
        read(self.ask_about(region, &ask).await?.to_string().as_bytes())
    }

    /// Brings a split or merge on by a step, or begins one where limits ask for it.
    pub(super) async fn reshape_pass(&self, looks: &[(String, Look)], record: &Distribution) {
        let name = record.name.clone();
        let silent: Vec<String> = self
            .others
            .keys()
            .filter(|region| !looks.iter().any(|(told, _)| told == *region))
            .cloned()
            .collect();
        self.remove_given_up(looks, record, silent.is_empty()).await;
        if record.reshape.is_none() {
            self.look_at_limits(looks, record).await;
            return;
        }
        let superfluous = superfluous(record, looks);
        for (region, number, which) in &superfluous {
            if let Err(error) = self.remove_filled(record, region, (*number, *which)).await {
                tracing::debug!(region, %error, "a partition that was made twice is left");
            }
        }
        let superfluous: Vec<u64> = superfluous.iter().map(|(_, _, which)| *which).collect();
        let seen::Partitions { mut tables, ended } = seen::partitions_of(looks, &superfluous);
        self.follow_agreed(&mut tables);
        if self.resume_ended(record, &ended).await {
            return;
        }
        let of = |number: u32| {
            let table = tables.get(&number)?;
            Some(Seen { table, ended_in: ended.get(&number).map_or(&[], Vec::as_slice) })
        };
        let Some(step) = record.reshape_step(of, &silent) else { return };
        let is_taken = match &step {
            ReshapeStep::Make(..) => true,
            ReshapeStep::Bring(target, step) => step.is_taken() && tables.contains_key(target),
            _ => false,
        };
        let waits = match self.give_up_what_is_vain(looks, record).await {
            Ok(true) => None,
            Ok(false) => self.take_reshape_step(record, looks, &tables, step).await.err(),
            Err(error) => Some(error),
        };
        if is_taken && waits.is_none() {
            // The next step is another one; what is only waited for would come again at once.
            self.distributions.soon.notify_one();
        }
        let first = record.reshape.as_ref().map_or(0, Reshape::id);
        let partition = name_of_partition(&name, first);
        self.distributions.note_trouble(&partition, waits.map(|error| error.message));
    }

    async fn take_reshape_step(
        &self,
        record: &Distribution,
        looks: &[(String, Look)],
        tables: &BTreeMap<u32, GlobalTable>,
        step: ReshapeStep,
    ) -> Result<(), ApiError> {
        let number = record.reshape.as_ref().map_or(0, Reshape::id);
        let (table, id) = (record.name.clone(), record.id.clone());
        match step {
            ReshapeStep::Wait(why) => Err(ApiError::new(ErrorCode::ServerUnavailable, why)),
            ReshapeStep::Make(target, region) => {
                let name = name_of_partition(&record.name, target);
                self.ask_about(&region, &Ask::Make(Make { id, name })).await.map(drop)
            }
            ReshapeStep::Bring(target, step) => match tables.get(&target) {
                Some(table) => self.take_step(table, &step).await,
                None => Ok(()),
            },
            ReshapeStep::Fill(region) => {
                // Who does not know the plan would find nothing where the old ones have ended.
                if let Some(region) = self.untold(record).iter().find(|it| self.is_reached(it)) {
                    return Err(ApiError::new(
                        ErrorCode::ServerUnavailable,
                        format!("region {region} has not taken the record yet"),
                    ));
                }
                self.ask_about(&region, &Ask::Fill { name: table, id, number }).await.map(drop)
            }
            ReshapeStep::Stop(writers) => {
                let mut answers = Vec::with_capacity(writers.len());
                for region in &writers {
                    let (name, id) = (table.clone(), id.clone());
                    let ask = Ask::StopFilling { name, id, number };
                    let told = self.ask_about(region, &ask).await?;
                    let stopped: Stopped = read(told.to_string().as_bytes())?;
                    answers.push(stopped);
                }
                let phase = record.reshape.as_ref().map(|it| it.after_stop(&answers));
                let phase = phase.transpose().map_err(|why| {
                    ApiError::new(ErrorCode::ServerUnavailable, format!("It waits: {why}."))
                })?;
                let Some(phase) = phase else { return Ok(()) };
                self.go_on_from_cancelling(record, phase).await
            }
            ReshapeStep::Finish => self.go_on_from_cancelling(record, Phase::Filling).await,
            ReshapeStep::Remove(target) => {
                for (region, seen) in seen_of(looks, target) {
                    let Some(which) = seen.table.as_ref().map(|table| table.table) else {
                        continue;
                    };
                    self.remove_filled(record, region, (target, which)).await?;
                }
                Ok(())
            }
            ReshapeStep::Forget => {
                let mut over = None;
                let is_any_silent = looks.len() <= self.others.len();
                self.change_distribution(record, |record| {
                    let next = record.given_up(is_any_silent);
                    let is_it = record.reshape.as_ref().is_some_and(|it| it.id() == number);
                    let Some(next) = next.filter(|_| is_it) else { return Ok(false) };
                    over = record.reshape.take();
                    *record = next;
                    Ok(true)
                })
                .await?;
                let Some(over) = over else { return Ok(()) };
                self.distributions.counts.give_up(&over);
                self.distributions.reshapings.rest_long(&*self.clock, &record.name, &over.sources);
                let text = "it was given up; all is as before".to_owned();
                self.notice(EventKind::ReshapeFailed, &record.name, text, Json::Null);
                Ok(())
            }
        }
    }

    /// Takes into the records of partitions what regions have agreed on since.
    fn follow_agreed(&self, tables: &mut BTreeMap<u32, GlobalTable>) {
        let Some(registry) = self.registry() else { return };
        let known = registry.known();
        for table in tables.values_mut() {
            if let Some(tenure) = known.agreed.tenure(table.table) {
                table.follow_writer(tenure.epoch, &tenure.writer);
            }
        }
    }

    /// Where a partition has ended after all, nothing of what it goes on in is dropped. Returns
    /// whether it is so; the split or merge goes on.
    async fn resume_ended(
        &self,
        record: &Distribution,
        ended: &BTreeMap<u32, Vec<String>>,
    ) -> bool {
        let Some(reshape) = record.reshape.as_ref().filter(|it| it.phase == Phase::Removing) else {
            return false;
        };
        let Some(number) = reshape.sources.iter().find(|number| ended.contains_key(number)) else {
            return false;
        };
        let id = reshape.id();
        if reshape.targets.iter().any(|target| ended.contains_key(&target.number)) {
            let partition = name_of_partition(&record.name, id);
            let text = format!(
                "partition {number} has ended, and what was to go on in its place is dropped in \
                 part: nothing more is"
            );
            self.distributions.note_trouble(&partition, Some(text));
            return true;
        }
        let resumed = self
            .change_distribution(record, |record| {
                let Some(reshape) = &mut record.reshape else { return Ok(false) };
                let is_it = reshape.id() == id && reshape.phase == Phase::Removing;
                if is_it {
                    reshape.phase = Phase::Filling;
                }
                Ok(is_it)
            })
            .await;
        tracing::warn!(table = record.name, number, ?resumed, "it has ended: it is not given up");
        true
    }

    /// It was to be given up; now it is known whether that can be.
    async fn go_on_from_cancelling(
        &self,
        record: &Distribution,
        phase: Phase,
    ) -> Result<(), ApiError> {
        let number = record.reshape.as_ref().map_or(0, Reshape::id);
        self.change_distribution(record, |record| {
            let Some(reshape) = &mut record.reshape else { return Ok(false) };
            let is_it = reshape.id() == number && reshape.phase == Phase::Cancelling;
            if is_it {
                reshape.phase = phase;
            }
            Ok(is_it)
        })
        .await
        .map(drop)
    }

    /// Has a region remove what it holds of a new partition: its number, and which table it is.
    async fn remove_filled(
        &self,
        record: &Distribution,
        region: &str,
        (number, which): (u32, u64),
    ) -> Result<(), ApiError> {
        let (name, id) = (record.name.clone(), record.id.clone());
        let ask = Ask::RemoveFilled { name, id, number, which };
        self.ask_about(region, &ask).await.map(drop)
    }

    /// Removes what regions hold that were silent when it was given up, and forgets it when all
    /// have answered.
    async fn remove_given_up(
        &self,
        looks: &[(String, Look)],
        record: &Distribution,
        do_all_answer: bool,
    ) {
        let (mut is_any_left, given_up) = (false, &record.given_up);
        for number in given_up {
            for (region, seen) in seen_of(looks, *number) {
                is_any_left = true;
                let Some(which) = seen.table.as_ref().map(|table| table.table) else { continue };
                if let Err(error) = self.remove_filled(record, region, (*number, which)).await {
                    tracing::debug!(region, number, %error, "what was given up is left");
                }
            }
        }
        if given_up.is_empty() || is_any_left || !do_all_answer || !self.is_told(record) {
            return;
        }
        let forgotten = self.change_distribution(record, |record| {
            let is_it = record.given_up == *given_up;
            if is_it {
                record.given_up.clear();
            }
            Ok(is_it)
        });
        if let Err(error) = forgotten.await {
            tracing::debug!(table = record.name, %error, "what was given up is not forgotten");
        }
    }

    /// The old partitions have ended: the new ones are in their place from here on.
    pub(super) async fn on_filled(
        &self,
        from: &str,
        name: &str,
        (id, number): (&str, u32),
        ends: &[Told],
    ) -> Result<(), ApiError> {
        let record = self.decided_here(name)?;
        let is_it = |record: &Distribution| {
            let mut reshape = record.reshape.iter();
            record.id == id && reshape.any(|it| it.id() == number && it.phase != Phase::Removing)
        };
        if !is_it(&record) {
            // It may not have been told.
            self.tell_all(&record).await;
            return Ok(());
        }
        self.check_filled(&record, from, ends).await?;
        let mut done = None;
        let record = self
            .change_distribution(&record, |record| {
                let rate = |number| self.rate_of(&record.name, number);
                let next = record.reshaped_by_load(self.clock.wall_millis(), rate);
                let Some(next) = next.filter(|_| is_it(record)) else {
                    return Ok(false);
                };
                done = record.reshape.take();
                *record = next;
                Ok(true)
            })
            .await?;
        if let Some(reshape) = done {
            self.distributions.counts.done(&reshape);
            let took = self.clock.wall_millis().saturating_sub(reshape.begun_millis);
            let sources = named(&reshape.sources);
            let targets = named(&numbers_of(&reshape));
            let text = format!("{targets} are in the place of {sources}, {}", reshape.why.as_str());
            let detail = json!({ "reshape": reshape, "took_ms": took, "writer": from });
            self.notice(EventKind::PartitionsReshaped, name, text, detail);
        }
        self.tell_all(&record).await;
        Ok(())
    }

    /// Removes here what was made of a new partition whose split or merge was given up, or that
    /// was made again elsewhere since, because this region was lost before anybody knew. Nothing
    /// that was acknowledged is in it.
    pub(super) async fn on_remove_filled(
        &self,
        from: &str,
        table: &str,
        (id, number, which): (&str, u32, u64),
    ) -> Result<(), ApiError> {
        let _one_at_a_time = self.change_for_another().await?;
        let name = name_of_partition(table, number);
        let record = self.distributions.get(table);
        let record = record.filter(|record| record.id == id && record.base == from);
        let reshape = record.as_ref().and_then(|record| record.reshape.as_ref());
        let is_filled = reshape.is_some_and(|reshape| {
            let source = |number: &u32| name_of_partition(table, *number);
            reshape.has_target(number)
                && reshape.phase != Phase::Cancelling
                && !reshape.sources.iter().any(|number| self.has_ended(&source(number)))
        });
        let is_given_up = record.as_ref().is_some_and(|record| record.given_up.contains(&number));
        let is_of_it = self.record(TableId(which)).is_some_and(|known| known.table.name == name);
        if !(is_filled || is_given_up) || !is_of_it || self.is_served(&name) {
            return Err(ApiError::new(
                ErrorCode::ServerUnavailable,
                "It is not known here that the partition is given up or was made twice. Nothing \
                 was done.",
            ));
        }
        self.remove_dropped(TableId(which)).await
    }
}

/// New partitions that were made twice, since the region that made one was lost before anybody
/// knew of it: region, number and table. The one stays that is written where the old ones are.
fn superfluous(record: &Distribution, looks: &[(String, Look)]) -> Vec<(String, u32, u64)> {
    let Some(reshape) = record.reshape.as_ref().filter(|it| it.phase == Phase::Filling) else {
        return Vec::new();
    };
    let all = looks
        .iter()
        .flat_map(|(region, look)| look.partitions.iter().map(move |seen| (region, seen)));
    let all: Vec<(&String, &ask::Seen)> = all.collect();
    if all.iter().any(|(_, seen)| seen.has_ended && reshape.sources.contains(&seen.number)) {
        return Vec::new();
    }
    let of = |number: u32| {
        let of_it = all.iter().filter(move |(_, seen)| seen.number == number);
        of_it.filter_map(|(region, seen)| Some((*region, seen.table.as_ref()?)))
    };
    let writers = reshape.sources.iter().flat_map(|number| of(*number));
    let newest = writers.max_by_key(|(_, table)| table.epoch);
    let Some(writer) = newest.map(|(_, table)| table.primary()) else { return Vec::new() };
    let mut found = Vec::new();
    for target in &reshape.targets {
        let stays = of(target.number)
            .max_by_key(|(_, table)| (table.primary() == writer, table.version, table.table));
        let Some((_, stays)) = stays else { continue };
        let others = of(target.number).filter(|(_, table)| table.table != stays.table);
        found.extend(others.map(|(region, table)| (region.clone(), target.number, table.table)));
    }
    found
}

/// The regions that hold a partition, and what they tell of it.
fn seen_of(looks: &[(String, Look)], number: u32) -> impl Iterator<Item = (&str, &ask::Seen)> {
    let all = looks
        .iter()
        .flat_map(|(region, look)| look.partitions.iter().map(move |seen| (region.as_str(), seen)));
    all.filter(move |(_, seen)| seen.number == number)
}

fn numbers_of(reshape: &Reshape) -> Vec<u32> {
    reshape.targets.iter().map(|target| target.number).collect()
}

fn named(numbers: &[u32]) -> String {
    let all: Vec<String> = numbers.iter().map(u32::to_string).collect();
    match all.len() {
        1 => format!("partition {}", all[0]),
        _ => format!("partitions {}", all.join(" and ")),
    }
}

/// What is planned, in words and numbers.
fn plan_json(record: &Distribution, begun: bool) -> Json {
    let text = |point: &Point| match record.by {
        By::Range => point.to_text(),
        By::Hash => point.to_hex(),
    };
    let reshape = record.reshape.as_ref();
    let targets = reshape.into_iter().flat_map(|reshape| &reshape.targets).map(|target| {
        json!({ "number": target.number, "from": target.from, "from_text": text(&target.from) })
    });
    json!({
        "name": record.name,
        "begun": begun,
        "version": record.version,
        "sources": reshape.map(|reshape| &reshape.sources),
        "targets": targets.collect::<Vec<_>>(),
        "why": reshape.map(|reshape| reshape.why),
    })
}
