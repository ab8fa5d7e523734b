//! Partitions that are split and merged: what is planned, and what is to be done next.
//!
//! A reshape makes new partitions, with numbers of their own, of one partition or of two
//! neighbours. The record holds the plan beside the partitions until the new ones hold all that
//! the old ones do; then, in one version, they take their place. What is to be done next is told by
//! what is: after a crash the same is told again.
//!
//! What must hold: in every version each key has exactly one partition; the old partitions have
//! ended for good before the new ones are in their place; and what is given up is given up only
//! where they have not.

pub mod automatic;
pub mod rates;
pub mod words;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use isthmus_model::key::{EncodedKey, PrimaryKey};

use super::step::Step;
use super::wish::key_value;
use super::{
    By, Distribution, DistributionError, PARTITIONS_MAX, Partition, Point, State, refused,
};
use crate::global_table::GlobalTable;
use crate::write_mode::WriteMode;

pub use self::automatic::Limits;

/// New partitions that were given up and may be left in silent regions, at most.
pub const GIVEN_UP_MAX: usize = 64;

pub(super) const UNDER_WAY: &str =
    "a partition of the table is being split or merged; wait until that has ended, or cancel it";

/// What is asked of the partitions of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Ask {
    /// Make two of one.
    Split {
        /// Its number.
        partition: u32,
        /// Where the second one begins: a value of the first key column, or by hash a point of 16
        /// hexadecimal digits. None: in the middle of what it holds.
        #[serde(default)]
        at: Option<String>,
    },
    /// Make one of two neighbours.
    Merge {
        /// Their numbers.
        partitions: [u32; 2],
    },
    /// Give up what is under way.
    Cancel {},
    /// Say when partitions are split and merged by themselves.
    Limits {
        /// From now on, all of them.
        limits: Limits,
    },
}

/// Why partitions are split or merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// Somebody asked for it.
    Asked,
    /// For what they hold.
    Size,
    /// For what is asked of them.
    Load,
}

impl Why {
    /// The words for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Why::Asked => "as was asked for",
            Why::Size => "for its size",
            Why::Load => "for its load",
        }
    }
}

/// How far it has come, as the base says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The new partitions are made and filled.
    Filling,
    /// It is to be given up, if the old ones have not ended.
    Cancelling,
    /// It is given up; what was made is removed.
    Removing,
}

/// A partition that is to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Its number.
    pub number: u32,
    /// Where it begins.
    pub from: Point,
}

/// A split or merge that is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reshape {
    /// The partitions that end, in their order.
    pub sources: Vec<u32>,
    /// Those that take their place, in their order; the first begins where the first source does.
    pub targets: Vec<Target>,
    /// How far it has come.
    pub phase: Phase,
    /// Why.
    pub why: Why,
    /// When it was begun, in milliseconds since the Unix epoch.
    pub begun_millis: i64,
    /// Where the second of two that merge was wanted before; empty: it moves nowhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub back: Vec<String>,
}

impl Reshape {
    /// Names it for ever within its table.
    pub fn id(&self) -> u32 {
        self.targets.first().map_or(0, |target| target.number)
    }

    /// Whether a partition is among those that take the place of others.
    pub fn has_target(&self, number: u32) -> bool {
        self.targets.iter().any(|target| target.number == number)
    }

    /// Whether a partition is part of it, old or new.
    pub fn concerns(&self, number: u32) -> bool {
        self.sources.contains(&number) || self.has_target(number)
    }

    /// The number of the new partition that a point belongs to, of those that the sources cover.
    pub fn target_of(&self, point: &Point) -> u32 {
        let place = self.targets.partition_point(|target| target.from <= *point);
        self.targets.get(place.saturating_sub(1)).map_or(0, |target| target.number)
    }
}

/// A partition as it is, old or new.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Its global table, as its base tells.
    pub table: &'a GlobalTable,
    /// The regions in which it has ended.
    pub ended_in: &'a [String],
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReshapeStep {
    /// Nothing can be done before this has changed.
    Wait(String),
    /// Make this new partition in this region, which writes the old one.
    Make(u32, String),
    /// Take this step with a new partition, so that it is where the old one is.
    Bring(u32, Step),
    /// Have this region, which writes all of them, fill the new ones, and end the old ones when
    /// they are full.
    Fill(String),
    /// Have these regions, which write the old ones, end them no more.
    Stop(Vec<String>),
    /// It cannot be given up any more, since something has ended.
    Finish,
    /// Remove what is seen of this new partition.
    Remove(u32),
    /// It is given up, and nothing is seen of it.
    Forget,
}

impl Distribution {
    /// Where a row is in the order of partitions; `None`: its key is damaged.
    pub fn point_of_row(&self, key: &EncodedKey) -> Option<Point> {
        let PrimaryKey(values) = PrimaryKey::decode(key).ok()?;
        values.first().map(|value| self.point_of(value))
    }

    /// The place of the partition with that number.
    pub fn place_numbered(&self, number: u32) -> Option<usize> {
        self.partitions.iter().position(|partition| partition.number == number)
    }

    /// Whether a partition of that number was there, or planned, and will never be again.
    pub fn has_replaced(&self, number: u32) -> bool {
        self.state == State::Active
            && number < self.next_number
            && self.place_numbered(number).is_none()
            && !self.reshape.as_ref().is_some_and(|reshape| reshape.concerns(number))
    }

    fn place_to_reshape(&self, number: u32) -> Result<usize, DistributionError> {
        if self.state != State::Active {
            return refused("the table is being made or deleted; wait until that has ended");
        }
        if self.reshape.is_some() {
            return refused(UNDER_WAY);
        }
        let Some(place) = self.place_numbered(number) else {
            return refused(format!("the table has no partition {number}"));
        };
        match self.partitions[place].moving {
            false => Ok(place),
            true => {
                refused(format!("partition {number} is being moved; wait until that has ended"))
            }
        }
    }

    /// The least number that no partition has had.
    fn free_number(&self) -> u32 {
        let numbers = self.partitions.iter().map(|partition| partition.number);
        numbers.max().map_or(0, |most| most + 1).max(self.next_number)
    }

    fn planned(
        &self,
        sources: Vec<u32>,
        begins: Vec<Point>,
        (why, begun_millis): (Why, i64),
    ) -> Distribution {
        let first = self.free_number();
        let targets = (first..).zip(begins).map(|(number, from)| Target { number, from });
        let targets: Vec<Target> = targets.collect();
        let next_number = first + targets.len() as u32;
        let phase = Phase::Filling;
        let back = Vec::new();
        let reshape = Some(Reshape { sources, targets, phase, why, begun_millis, back });
        Distribution { next_number, reshape, ..self.clone() }
    }

    /// The same, where a partition is to be split.
    pub fn with_split(
        &self,
        number: u32,
        at: &Point,
        because: (Why, i64),
    ) -> Result<Distribution, DistributionError> {
        let place = self.place_to_reshape(number)?;
        if self.partitions.len() >= PARTITIONS_MAX {
            return refused(format!("a table has at most {PARTITIONS_MAX} partitions"));
        }
        let from = &self.partitions[place].from;
        if *at <= *from || self.end_of(place).is_some_and(|end| *at >= *end) {
            return refused(format!(
                "partition {number} cannot be split there: the point is not within it"
            ));
        }
        Ok(self.planned(vec![number], vec![from.clone(), at.clone()], because))
    }

    /// The same, where two neighbours are to become one. If they are not in the same regions, the
    /// second one moves to where the first one is.
    pub fn with_merge(
        &self,
        numbers: [u32; 2],
        because: (Why, i64),
    ) -> Result<Distribution, DistributionError> {
        let mut places = [self.place_to_reshape(numbers[0])?, self.place_to_reshape(numbers[1])?];
        places.sort_unstable();
        let [first, second] = places;
        if second != first + 1 {
            return refused("only two partitions of which one ends where the other begins merge");
        }
        let prefix = |place| self.rule_at(place).map(|rule| rule.prefix.as_str());
        if prefix(first) != prefix(second) {
            return refused(format!(
                "partitions {} and {} are under different rules ('{}' and '{}'): one partition \
                 could not be under both",
                self.partitions[first].number,
                self.partitions[second].number,
                prefix(first).unwrap_or("none"),
                prefix(second).unwrap_or("none"),
            ));
        }
        let (one, other) = (&self.partitions[first], &self.partitions[second]);
        let sources = vec![one.number, other.number];
        let mut next = self.planned(sources, vec![one.from.clone()], because);
        let wanted = in_order(&one.primary, &one.held);
        if in_order(&other.primary, &other.held) != wanted {
            if !self.may_come_together(one, other) {
                return refused(format!(
                    "partitions {} and {} are written synchronously and are not in the same \
                     regions, and no region leaves such a partition: set another mode first",
                    one.number, other.number
                ));
            }
            if let Some(reshape) = &mut next.reshape {
                reshape.back.clone_from(&other.wanted);
            }
            next.partitions[second].wanted.clone_from(&wanted);
            next.partitions[second].moving = true;
        }
        Ok(next)
    }

    /// Whether one of two partitions can move to where the other is.
    fn may_come_together(&self, one: &Partition, other: &Partition) -> bool {
        let is_held_alike = in_order("", &one.held) == in_order("", &other.held);
        is_held_alike || !matches!(self.mode, WriteMode::Sync(_))
    }

    /// The same after a split or merge was given up; `None`: none is, or more is left to be
    /// removed in silent regions than is remembered.
    pub fn given_up(&self, is_any_silent: bool) -> Option<Distribution> {
        let reshape = self.reshape.as_ref().filter(|it| it.phase == Phase::Removing)?;
        let mut next = self.clone();
        next.reshape = None;
        if is_any_silent {
            next.given_up.extend(reshape.targets.iter().map(|target| target.number));
        }
        let moved = reshape.sources.last().and_then(|number| self.place_numbered(*number));
        if let Some(place) = moved.filter(|_| !reshape.back.is_empty()) {
            next.partitions[place].wanted.clone_from(&reshape.back);
            next.partitions[place].moving = true;
        }
        (next.given_up.len() <= GIVEN_UP_MAX).then_some(next)
    }

    /// Where a partition ends; `None`: where everything does.
    pub fn end_of(&self, place: usize) -> Option<&Point> {
        self.partitions.get(place + 1).map(|next| &next.from)
    }

    /// The point that a person names within a partition.
    pub fn point_named(&self, text: &str) -> Result<Point, DistributionError> {
        match self.by {
            By::Range => Ok(Point::of_key(&key_value(self.key.kind(), text)?)),
            By::Hash => match Point::of_hash_text(text) {
                Some(point) => Ok(point),
                None => refused(format!(
                    "by hash, partitions are split at a point of 16 hexadecimal digits, not \
                     '{text}'"
                )),
            },
        }
    }

    /// Whether a plan fits the partitions.
    pub(super) fn check_reshape(&self, reshape: &Reshape) -> Result<(), DistributionError> {
        let places: Option<Vec<usize>> =
            reshape.sources.iter().map(|number| self.place_numbered(*number)).collect();
        let fits = places.is_some_and(|places| {
            let Some((first, last)) = places.first().zip(places.last()) else { return false };
            let begins = reshape.targets.first().map(|target| &target.from);
            let end = self.end_of(*last);
            places.is_sorted_by(|a, b| a + 1 == *b)
                && begins == Some(&self.partitions[*first].from)
                && reshape.targets.is_sorted_by(|a, b| a.from < b.from)
                && end.is_none_or(|end| reshape.targets.iter().all(|target| target.from < *end))
                && self.partitions.len() + reshape.targets.len() - places.len() <= PARTITIONS_MAX
        });
        match fits {
            true => Ok(()),
            false => refused("the record plans a split or merge that does not fit the partitions"),
        }
    }

    /// The same with the new partitions in the place of the old ones; `None`: none are planned.
    /// They rest from `now_millis` on, a time since the Unix epoch.
    pub fn reshaped(&self, now_millis: i64) -> Option<Distribution> {
        self.reshaped_by_load(now_millis, |_| 0.0)
    }

    /// The same, where it is known how often each partition is asked for in a second, new ones
    /// beside: what was split for its load is written by regions that bear it.
    pub fn reshaped_by_load(
        &self,
        now_millis: i64,
        rate: impl Fn(u32) -> f64,
    ) -> Option<Distribution> {
        let reshape = self.reshape.as_ref()?;
        let first = self.place_numbered(*reshape.sources.first()?)?;
        let old = self.partitions.get(first)?;
        let held = in_order(&old.primary, &old.held);
        let other_half = |number: u32| {
            let mut others = reshape.targets.iter().map(|target| target.number);
            others.find(|other| reshape.why == Why::Load && *other != number)
        };
        let made = reshape.targets.iter().map(|target| Partition {
            number: target.number,
            from: target.from.clone(),
            wanted: held.clone(),
            held: held.clone(),
            primary: old.primary.clone(),
            made: true,
            moving: false,
            born_millis: now_millis,
            sibling: other_half(target.number),
        });
        let made: Vec<Partition> = made.collect();
        let mut next = self.clone();
        next.partitions.splice(first..first + reshape.sources.len(), made);
        next.reshape = None;
        next.version += 1;
        if reshape.why == Why::Load && reshape.targets.len() > 1 {
            // It was divided in the middle of what it is asked for.
            let of_part = rate(old.number) / reshape.targets.len() as f64;
            let rate = |number: u32| match reshape.has_target(number) {
                true => of_part,
                false => rate(number),
            };
            next.write_elsewhere(first + 1, rate);
        }
        Some(next)
    }

    /// Lets a partition be written by the region that holds it and bears least, other than now: two
    /// parts of what was too much for one are not for the same. Where no load is known, by how many
    /// partitions regions write.
    fn write_elsewhere(&mut self, place: usize, rate: impl Fn(u32) -> f64) {
        let now = self.partitions[place].primary.clone();
        let is_known = rate(self.partitions[place].number) > 0.0;
        let weight = |one: &Partition| if is_known { rate(one.number) } else { 1.0 };
        let borne = |region: &String| {
            let written = self.partitions.iter().filter(|one| one.primary == *region);
            written.map(weight).sum::<f64>()
        };
        let others = self.partitions[place].held.iter().filter(|region| **region != now);
        let next = others.min_by(|a, b| borne(a).total_cmp(&borne(b))).cloned();
        let Some(next) = next else { return };
        // The more even, the better; by numbers also where it is only the other way round.
        let more = if is_known { weight(&self.partitions[place]) } else { 0.0 };
        if borne(&next) + more < borne(&now) {
            let partition = &mut self.partitions[place];
            partition.wanted = in_order(&next, &partition.held);
            partition.moving = true;
        }
    }

    /// What is to be done next about the split or merge that is under way; `None`: there is none.
    /// What is not seen may be there in a region that is `silent`.
    pub fn reshape_step<'a>(
        &self,
        seen: impl Fn(u32) -> Option<Seen<'a>>,
        silent: &[String],
    ) -> Option<ReshapeStep> {
        let reshape = self.reshape.as_ref()?;
        Some(match reshape.phase {
            Phase::Filling => {
                self.filling_step(reshape, &seen, silent).unwrap_or_else(ReshapeStep::Wait)
            }
            Phase::Cancelling => stopping_step(reshape, &seen).unwrap_or_else(ReshapeStep::Wait),
            Phase::Removing => {
                let mut numbers = reshape.targets.iter().map(|target| target.number);
                match numbers.find(|number| seen(*number).is_some()) {
                    Some(number) => ReshapeStep::Remove(number),
                    None if self.given_up(!silent.is_empty()).is_some() => ReshapeStep::Forget,
                    None => ReshapeStep::Wait(
                        "too many that were given up may be left in regions that are silent"
                            .to_owned(),
                    ),
                }
            }
        })
    }

    /// The region that writes what is left of the old partitions, or where all of them have ended
    /// the first new one. An error: why it is not known.
    fn writer_of<'a>(
        &self,
        reshape: &Reshape,
        seen: &impl Fn(u32) -> Option<Seen<'a>>,
    ) -> Result<String, String> {
        let mut writers: Vec<&str> = Vec::new();
        for number in &reshape.sources {
            let Seen { table, ended_in } = seen(*number).ok_or_else(|| unseen(*number))?;
            if ended_in.is_empty() {
                writers.push(table.primary());
            }
        }
        match writers.split_first() {
            // Those of the others are brought there, too.
            None => {
                let first = reshape.id();
                Ok(seen(first).ok_or_else(|| unseen(first))?.table.primary().to_owned())
            }
            Some((first, others)) if others.iter().all(|other| other == first) => {
                Ok((*first).to_owned())
            }
            Some(_) => Err("other regions write the one partition than the other".to_owned()),
        }
    }

    fn filling_step<'a>(
        &self,
        reshape: &Reshape,
        seen: &impl Fn(u32) -> Option<Seen<'a>>,
        silent: &[String],
    ) -> Result<ReshapeStep, String> {
        let of = |number: &u32| self.place_numbered(*number).map(|place| &self.partitions[place]);
        if let Some(moving) = reshape.sources.iter().filter_map(of).find(|one| one.moving) {
            return Err(format!("partition {} moves to where its neighbour is", moving.number));
        }
        let writer = self.writer_of(reshape, seen)?;
        let (mut holders, mut has_ended) = (None, false);
        for number in &reshape.sources {
            let Some(Seen { table, ended_in }) = seen(*number) else { continue };
            if !ended_in.is_empty() {
                has_ended = true;
                continue;
            }
            if !table.is_active() {
                return Err(format!("not all replicas of partition {number} are whole"));
            }
            let held = in_order(&writer, &regions_of(table));
            if holders.as_ref().is_some_and(|known| *known != held) {
                return Err(format!("partition {number} is not where its neighbour is"));
            }
            holders = Some(held);
        }
        // All are made before one is waited for: they come to the other regions side by side.
        for target in &reshape.targets {
            if seen(target.number).is_none() {
                if has_ended {
                    // It is there, and holds what nothing else does.
                    return Err(format!("nobody tells of partition {}", target.number));
                }
                // It would be made twice where a region that has made it is silent for a moment.
                let holders: &[String] = holders.as_ref().ok_or_else(|| unseen(target.number))?;
                return match holders.iter().find(|region| silent.contains(region)) {
                    None => Ok(ReshapeStep::Make(target.number, writer)),
                    Some(region) => Err(format!(
                        "region {region} is silent, and may hold partition {} already",
                        target.number
                    )),
                };
            }
        }
        let mut waits = None;
        for target in &reshape.targets {
            let Some(Seen { table, .. }) = seen(target.number) else { continue };
            let wanted = match &holders {
                Some(holders) => holders.clone(),
                // All have ended: only who writes is to be one region.
                None if table.primary() == writer => continue,
                None => in_order(&writer, &with(&writer, regions_of(table))),
            };
            match table.step_towards(&wanted) {
                Step::Nothing => {}
                Step::Copying(region) => {
                    let number = target.number;
                    waits.get_or_insert(format!("region {region} takes partition {number}"));
                }
                step => return Ok(ReshapeStep::Bring(target.number, step)),
            }
        }
        match waits {
            None => Ok(ReshapeStep::Fill(writer)),
            Some(why) => Err(why),
        }
    }
}

fn regions_of(table: &GlobalTable) -> Vec<String> {
    table.replicas.iter().map(|replica| replica.region.clone()).collect()
}

/// The regions and this one.
fn with(region: &str, mut regions: Vec<String>) -> Vec<String> {
    if !regions.iter().any(|known| known == region) {
        regions.push(region.to_owned());
    }
    regions
}

/// Whom to ask so that no old partition ends any more.
fn stopping_step<'a>(
    reshape: &Reshape,
    seen: &impl Fn(u32) -> Option<Seen<'a>>,
) -> Result<ReshapeStep, String> {
    let mut writers = BTreeSet::new();
    for number in &reshape.sources {
        let Seen { table, ended_in } = seen(*number).ok_or_else(|| unseen(*number))?;
        if !ended_in.is_empty() {
            return Ok(ReshapeStep::Finish);
        }
        // Each stops what it writes: those that are to merge may not be in one region yet.
        writers.insert(table.primary().to_owned());
    }
    Ok(ReshapeStep::Stop(writers.into_iter().collect()))
}

fn unseen(number: u32) -> String {
    format!("the region that keeps the record of partition {number} is silent")
}

/// The regions, this one first, the others by name.
fn in_order(first: &str, regions: &[String]) -> Vec<String> {
    let mut order = regions.to_vec();
    order.sort_by(|a, b| (a != first, a).cmp(&(b != first, b)));
    order
}

#[cfg(test)]
mod tests;
