//! What a person asks of a distributed table, checked whole: what is wrong makes nothing.

use std::collections::{BTreeMap, BTreeSet};

use isthmus_model::key::{KeyKind, KeyValue};
use isthmus_model::value::Text;
use serde::{Deserialize, Serialize};

use super::reshape::{Limits, UNDER_WAY};
use super::spread::{Question, Slot, spread};
use super::{
    By, Distribution, DistributionError, MOVES_DEFAULT, MOVES_MAX, Member, Only, PARTITIONS_MAX,
    Partition, Place, Point, RULES_MAX, Rule, State, WEIGHT_MAX, refused,
};
use crate::global_table::REPLICAS_MAX;
use crate::write_mode::WriteMode;
use crate::writer::Failover;

/// How a table is to be distributed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wish {
    /// How rows are divided.
    pub by: By,
    /// Into how many partitions, by hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<usize>,
    /// In how many regions each is.
    pub replicas: usize,
    /// The regions that may hold some; none: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub regions: Vec<String>,
    /// How they are chosen.
    #[serde(default)]
    pub place: Place,
    /// How much regions are to hold beside the others; 1 where nothing is said.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub weights: BTreeMap<String, u32>,
    /// Where some keys may be, by range.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keep: Vec<Rule>,
    /// Where the table is divided, by range: values of the first key column.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub split_points: Vec<String>,
    /// The chance by which equals are chosen; none: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// How many partitions move at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moves_at_once: Option<u32>,
}

/// What names a new distributed table.
#[derive(Clone, Copy, Debug)]
pub struct Named<'a> {
    /// Its name.
    pub name: &'a str,
    /// Names it for ever.
    pub id: &'a str,
    /// The region that keeps its record.
    pub base: &'a str,
    /// The kind of its first key column.
    pub key: KeyKind,
    /// The chance that is taken where nobody has said one.
    pub seed: u64,
    /// The table that each partition is made as.
    pub spec: &'a str,
    /// The table in the base whose place it takes, by its id there.
    pub replaces: Option<u64>,
}

/// What is to change of where partitions may be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rebalance {
    /// Regions that may hold some from now on.
    pub add: Vec<String>,
    /// Regions that are to hold none any more.
    pub empty: Vec<String>,
    /// How much regions are to hold.
    pub weights: BTreeMap<String, u32>,
    /// How many partitions move at once.
    pub moves_at_once: Option<u32>,
}

/// A replica that is to be moved, or a writer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Move {
    /// Of which partition.
    pub partition: u32,
    /// The region that is to hold it and does not; none: only the writer changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// The region that holds it and is not to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The region that is to write it, where that is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub writer: Option<String>,
}

impl Wish {
    /// The record of a new table, where these are all regions there are.
    pub fn plan(
        &self,
        named: Named<'_>,
        known: &[Member],
    ) -> Result<Distribution, DistributionError> {
        let members = self.members(known)?;
        if self.replicas == 0 || self.replicas > REPLICAS_MAX {
            return refused(format!("there are 1 to {REPLICAS_MAX} replicas of each partition"));
        }
        let can_hold = members.iter().filter(|member| member.weight > 0).count();
        if self.replicas > can_hold {
            return refused(format!(
                "each partition is to be in {} regions and there are {can_hold} that may hold \
                 some; name more regions or fewer replicas",
                self.replicas
            ));
        }
        check_rules(&self.keep, self.by, &members, self.replicas)?;
        let partitions =
            self.begins(named.key)?.into_iter().enumerate().map(|(place, from)| Partition {
                number: place as u32,
                from,
                wanted: Vec::new(),
                held: Vec::new(),
                primary: String::new(),
                made: false,
                moving: false,
                born_millis: 0,
                sibling: None,
            });
        let mut distribution = Distribution {
            id: named.id.to_owned(),
            name: named.name.to_owned(),
            base: named.base.to_owned(),
            version: 1,
            state: State::Offered,
            replaces: named.replaces,
            key: named.key.into(),
            spec: named.spec.to_owned(),
            by: self.by,
            place: self.place,
            seed: self.seed.unwrap_or(named.seed),
            replicas: self.replicas,
            moves_at_once: check_moves(self.moves_at_once)?.unwrap_or(MOVES_DEFAULT),
            members,
            rules: self.keep.clone(),
            mode: WriteMode::default(),
            failover: Failover::default(),
            partitions: partitions.collect(),
            next_number: 0,
            limits: Limits::default(),
            reshape: None,
            given_up: Vec::new(),
        };
        distribution.place_all()?;
        for partition in &mut distribution.partitions {
            partition.held = partition.wanted.clone();
            partition.primary = partition.wanted.first().cloned().unwrap_or_default();
        }
        Ok(distribution)
    }

    fn members(&self, known: &[Member]) -> Result<Vec<Member>, DistributionError> {
        let named: BTreeSet<&String> = self.regions.iter().collect();
        let unknown = |name: &&String| !known.iter().any(|member| member.name == **name);
        if let Some(name) = self.regions.iter().chain(self.weights.keys()).find(unknown) {
            return refused(format!("region {name} is not configured"));
        }
        let is_named = |member: &&Member| named.is_empty() || named.contains(&member.name);
        let members = known.iter().filter(is_named).map(|member| {
            let weight = self.weights.get(&member.name).copied().unwrap_or(1);
            check_weight(weight).map(|weight| Member { weight, ..member.clone() })
        });
        let members: Vec<Member> = members.collect::<Result<_, _>>()?;
        let is_other = |name: &&String| !members.iter().any(|member| member.name == **name);
        if let Some(name) = self.weights.keys().find(is_other) {
            return refused(format!("region {name} has a weight and is not among the regions"));
        }
        Ok(members)
    }

    /// Where partitions begin.
    fn begins(&self, key: KeyKind) -> Result<Vec<Point>, DistributionError> {
        match self.by {
            By::Hash => {
                if !self.split_points.is_empty() {
                    return refused("split points are for tables divided by range");
                }
                let Some(count) = self.partitions else {
                    return refused("say into how many partitions the table is divided");
                };
                check_count(count)?;
                Ok((0..count).map(|place| Point::of_part(place, count)).collect())
            }
            By::Range => {
                if self.partitions.is_some() {
                    return refused(
                        "by range, split points and rules say how many partitions there are",
                    );
                }
                let mut begins = BTreeSet::from([Point::default()]);
                for text in &self.split_points {
                    if !begins.insert(Point::of_key(&key_value(key, text)?)) {
                        return refused(format!("split point '{text}' is given twice"));
                    }
                }
                for rule in &self.keep {
                    let (begin, end) = ends_of(key, rule)?;
                    begins.insert(begin);
                    begins.extend(end);
                }
                if begins.len() == 1 {
                    return refused("by range, at least one split point or rule is needed");
                }
                check_count(begins.len())?;
                Ok(begins.into_iter().collect())
            }
        }
    }
}

fn check_count(count: usize) -> Result<(), DistributionError> {
    match (1..=PARTITIONS_MAX).contains(&count) {
        true => Ok(()),
        false => refused(format!("a table has 1 to {PARTITIONS_MAX} partitions, not {count}")),
    }
}

fn check_weight(weight: u32) -> Result<u32, DistributionError> {
    match weight <= WEIGHT_MAX {
        true => Ok(weight),
        false => refused(format!("a weight is 0 to {WEIGHT_MAX}, not {weight}")),
    }
}

fn check_moves(moves: Option<u32>) -> Result<Option<u32>, DistributionError> {
    match moves.is_none_or(|moves| (1..=MOVES_MAX).contains(&moves)) {
        true => Ok(moves),
        false => refused(format!("1 to {MOVES_MAX} partitions move at once")),
    }
}

fn check_rules(
    rules: &[Rule],
    by: By,
    members: &[Member],
    replicas: usize,
) -> Result<(), DistributionError> {
    if by == By::Hash && !rules.is_empty() {
        return refused("rules about prefixes are for tables divided by range");
    }
    if rules.len() > RULES_MAX {
        return refused(format!("there are at most {RULES_MAX} rules"));
    }
    let mut prefixes = BTreeSet::new();
    for rule in rules {
        if rule.prefix.is_empty() || !prefixes.insert(&rule.prefix) {
            return refused("each rule has a prefix of its own, which is not empty");
        }
        if let Only::Regions(names) = &rule.only
            && let Some(name) = names.iter().find(|n| !members.iter().any(|m| m.name == **n))
        {
            return refused(format!(
                "the rule for prefix '{}' names region {name}, which is not among the regions",
                rule.prefix
            ));
        }
        let allowed = members.iter().filter(|m| m.weight > 0 && rule.only.allows(m)).count();
        if allowed < replicas {
            return refused(format!(
                "the rule for prefix '{}' allows {allowed} regions and each partition is to be in \
                 {replicas}; allow more regions or ask for fewer replicas",
                rule.prefix
            ));
        }
    }
    Ok(())
}

/// A value of the first key column, as a person writes it.
pub(super) fn key_value(key: KeyKind, text: &str) -> Result<KeyValue, DistributionError> {
    match key {
        KeyKind::Integer => match text.parse() {
            Ok(number) => Ok(KeyValue::Integer(number)),
            Err(_) => refused(format!(
                "the first key column is an integer and split point '{text}' is none"
            )),
        },
        KeyKind::String => Ok(KeyValue::String(Text::from(text))),
        KeyKind::Binary => Ok(KeyValue::Binary(text.as_bytes().to_vec().into())),
    }
}

/// Where the keys of a rule begin and where they end.
fn ends_of(key: KeyKind, rule: &Rule) -> Result<(Point, Option<Point>), DistributionError> {
    if key == KeyKind::Integer {
        return refused("rules about prefixes are for a first key column of strings or binaries");
    }
    let begin = Point::of_prefix(&key_value(key, &rule.prefix)?);
    let end = begin.after_all();
    Ok((begin, end))
}

impl Distribution {
    /// The same with partitions where they belong now. They are on their way where that is
    /// another place than before.
    pub fn rebalanced(
        &self,
        asked: &Rebalance,
        known: &[Member],
    ) -> Result<Distribution, DistributionError> {
        if self.state != State::Active {
            return refused("the table is being made or deleted; wait until that has ended");
        }
        if self.reshape.is_some() {
            return refused(UNDER_WAY);
        }
        let mut next = self.clone();
        for name in &asked.add {
            let Some(member) = known.iter().find(|member| member.name == *name) else {
                return refused(format!("region {name} is not configured"));
            };
            match next.members.iter_mut().find(|member| member.name == *name) {
                Some(known) if known.weight > 0 => {
                    return refused(format!("region {name} may hold partitions already"));
                }
                Some(known) => known.weight = 1,
                None => next.members.push(Member { weight: 1, ..member.clone() }),
            }
        }
        let emptied = asked.empty.iter().map(|name| (name, 0));
        let weighed = asked.weights.iter().map(|(name, weight)| (name, *weight));
        for (name, weight) in emptied.chain(weighed) {
            check_weight(weight)?;
            match next.members.iter_mut().find(|member| member.name == *name) {
                Some(member) => member.weight = weight,
                None => {
                    return refused(format!("region {name} is not among those of the table"));
                }
            }
        }
        next.moves_at_once = check_moves(asked.moves_at_once)?.unwrap_or(self.moves_at_once);
        let can_hold = next.members.iter().filter(|member| member.weight > 0).count();
        if can_hold < next.replicas {
            return refused(format!(
                "each partition is in {} regions and {can_hold} would be left",
                next.replicas
            ));
        }
        check_rules(&next.rules, next.by, &next.members, next.replicas)?;
        next.place_all()?;
        for (before, after) in self.partitions.iter().zip(&mut next.partitions) {
            after.moving = before.moving || !is_at(before, &after.wanted);
        }
        next.version += 1;
        Ok(next)
    }

    /// What is moved to come from here to `next`.
    pub fn moves_to(&self, next: &Distribution) -> Vec<Move> {
        let mut moves = Vec::new();
        for (before, after) in self.partitions.iter().zip(&next.partitions) {
            let to: Vec<_> = after.wanted.iter().filter(|r| !before.held.contains(r)).collect();
            let from: Vec<_> = before.held.iter().filter(|r| !after.wanted.contains(r)).collect();
            let writer = after.wanted.first().filter(|first| **first != before.primary);
            let count = to.len().max(from.len()).max(usize::from(writer.is_some()));
            moves.extend((0..count).map(|place| Move {
                partition: after.number,
                to: to.get(place).map(|region| (*region).clone()),
                from: from.get(place).map(|region| (*region).clone()),
                writer: writer.filter(|_| place == 0).cloned(),
            }));
        }
        moves
    }

    /// Says where each partition is wanted, by where it is now.
    fn place_all(&mut self) -> Result<(), DistributionError> {
        let allowed: Vec<Vec<usize>> =
            (0..self.partitions.len()).map(|place| self.allowed_at(place)).collect();
        let member = |name: &String| self.members.iter().position(|m| m.name == *name);
        let before: Vec<Slot> = self
            .partitions
            .iter()
            .map(|partition| Slot {
                holders: partition.held.iter().filter_map(member).collect(),
                writer: member(&partition.primary),
            })
            .collect();
        let question = Question {
            members: &self.members,
            replicas: self.replicas,
            place: self.place,
            seed: self.seed,
            allowed: &allowed,
        };
        let slots = spread(&question, &before)?;
        for (partition, slot) in self.partitions.iter_mut().zip(slots) {
            let mut order = slot.holders;
            order.sort_by_key(|holder| Some(*holder) != slot.writer);
            partition.wanted =
                order.into_iter().map(|member| self.members[member].name.clone()).collect();
        }
        Ok(())
    }

    /// The members that may hold a partition.
    fn allowed_at(&self, place: usize) -> Vec<usize> {
        let rule = self.rule_at(place);
        let is_allowed =
            |member: &Member| member.weight > 0 && rule.is_none_or(|rule| rule.only.allows(member));
        let allowed = self.members.iter().enumerate().filter(|(_, member)| is_allowed(member));
        allowed.map(|(place, _)| place).collect()
    }

    /// The rule that a partition is under: of several the one with the longest prefix.
    pub fn rule_at(&self, place: usize) -> Option<&Rule> {
        let key = match self.key.kind() {
            KeyKind::Integer => return None,
            key => key,
        };
        let from = &self.partitions.get(place)?.from;
        let covers = |rule: &&Rule| {
            ends_of(key, rule)
                .is_ok_and(|(begin, end)| begin <= *from && end.is_none_or(|end| *from < end))
        };
        self.rules.iter().filter(covers).max_by_key(|rule| rule.prefix.len())
    }
}

/// Whether a partition is where it is wanted.
fn is_at(partition: &Partition, wanted: &[String]) -> bool {
    let held: BTreeSet<&String> = partition.held.iter().collect();
    held == wanted.iter().collect() && wanted.first() == Some(&partition.primary)
}
