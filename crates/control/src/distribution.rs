//! The record of a distributed table: which partition a row belongs to, and where partitions are.
//!
//! A distributed table is divided by its first key column. Each partition is kept by an ordinary
//! global table of its own, whose name no client can give (`name_of_partition`): logs, links,
//! digests, modes, switchover and failover are those of that table. The record says the rest: how
//! the table is divided, in which regions each partition is wanted, and where it was last seen.
//! Its base region alone changes it and gives each version to all regions, so that every one of
//! them can tell where a row is. Where a partition really is its global table says; a record that
//! is late costs a detour and nothing else.

pub mod choose;
pub mod point;
pub mod reshape;
pub mod spread;
pub mod step;
pub mod wish;

use std::collections::{BTreeMap, BTreeSet};

use isthmus_model::error::Kind;
use isthmus_model::key::{KeyBound, KeyKind, KeyValue};
use serde::{Deserialize, Serialize};

use crate::change::Change;
use crate::global_table::{ControlError, GlobalTable, Serve, Sync};
use crate::write_mode::{SetMode, WriteMode};
use crate::writer::{Failover, SetFailover};

pub use self::point::Point;
use self::reshape::{GIVEN_UP_MAX, Limits, Reshape};

/// Partitions of one table at most.
pub const PARTITIONS_MAX: usize = 256;
/// Weight of a region at most; the least that holds anything is 1.
pub const WEIGHT_MAX: u32 = 100;
/// Rules of one table at most.
pub const RULES_MAX: usize = 64;
/// Partitions of one table that move at once, at most.
pub const MOVES_MAX: u32 = 16;
/// And where nobody has said.
pub const MOVES_DEFAULT: u32 = 1;

/// How rows are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// By a hash of the first key column: evenly, whatever the keys.
    Hash,
    /// By the first key column itself: rows that follow each other are together.
    Range,
}

impl By {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            By::Hash => "hash",
            By::Range => "range",
        }
    }
}

/// How partitions are given to regions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// So that the regions hold as many as their weights say, to one.
    #[default]
    Balanced,
    /// By chance, by weight: what a region holds depends on no other region.
    Random,
}

impl Place {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Place::Balanced => "balanced",
            Place::Random => "random",
        }
    }
}

/// How far a distributed table has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It is made if all regions take it, and only then is anything done about it.
    Offered,
    /// Its partitions are being made.
    Making,
    /// It serves.
    Active,
    /// It is deleted; regions remove what they hold.
    Dropping,
}

/// A region that may hold partitions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// How much it is to hold, beside the others; 0: nothing, it is emptied.
    pub weight: u32,
    /// What is known of the place, as its configuration says.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// Where keys with a prefix may be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// The prefix of the first key column, as a person gave it.
    pub prefix: String,
    /// Where.
    pub only: Only,
}

/// The regions that a rule allows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Only {
    /// These.
    Regions(Vec<String>),
    /// Those with this label: its key and value.
    Label(String, String),
}

impl Only {
    /// Whether it allows a region.
    pub fn allows(&self, member: &Member) -> bool {
        match self {
            Only::Regions(names) => names.contains(&member.name),
            Only::Label(key, value) => member.labels.get(key) == Some(value),
        }
    }
}

/// A partition of a distributed table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// Names it for ever within its table.
    pub number: u32,
    /// Where it begins; it ends where the next one does.
    pub from: Point,
    /// The regions that are to hold it, the one that is to write first.
    pub wanted: Vec<String>,
    /// The regions that hold it, as last seen; the base of its global table first.
    #[serde(default)]
    pub held: Vec<String>,
    /// The region that writes it, as last seen.
    #[serde(default)]
    pub primary: String,
    /// Its global table has been made.
    #[serde(default)]
    pub made: bool,
    /// It is on its way to where it is wanted.
    #[serde(default)]
    pub moving: bool,
    /// When it was made of others, in milliseconds since the Unix epoch; 0: it was not.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub born_millis: i64,
    /// The number of the other half of what was split for its load; none: it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sibling: Option<u32>,
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// What is known of a distributed table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Distribution {
    /// Names it for ever.
    pub id: String,
    /// Its name, as clients give it.
    pub name: String,
    /// The region whose word counts.
    pub base: String,
    /// Grows with each change.
    pub version: u64,
    /// How far it has come.
    pub state: State,
    /// The table in the base, by its id there, whose place it takes: one that holds nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<u64>,
    /// The kind of the first key column.
    pub key: Key,
    /// The table that each partition is made as, as the store writes it, in base64.
    pub spec: String,
    /// How rows are divided.
    pub by: By,
    /// How partitions are given to regions.
    #[serde(default)]
    pub place: Place,
    /// The chance by which they are.
    pub seed: u64,
    /// In how many regions each partition is.
    pub replicas: usize,
    /// How many of them move at once.
    pub moves_at_once: u32,
    /// The regions that may hold some.
    pub members: Vec<Member>,
    /// Where some keys may be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
    /// When writes of its partitions are answered.
    #[serde(default, skip_serializing_if = "WriteMode::is_async")]
    pub mode: WriteMode,
    /// Who decides which region writes a partition when the one that did is lost.
    #[serde(default, skip_serializing_if = "Failover::is_default")]
    pub failover: Failover,
    /// In the order of where they begin; the first begins where everything does.
    pub partitions: Vec<Partition>,
    /// The least number that no partition has had; 0: none was split or merged.
    #[serde(default)]
    pub next_number: u32,
    /// When partitions are split and merged by themselves.
    #[serde(default)]
    pub limits: Limits,
    /// The split or merge that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reshape: Option<Reshape>,
    /// Numbers of new partitions of splits and merges that were given up while some regions were
    /// silent: what is found of them is removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub given_up: Vec<u32>,
}

/// The kind of a key column, as the record names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Key {
    /// 64-bit signed.
    Integer,
    /// UTF-8 text.
    String,
    /// Bytes.
    Binary,
}

impl Key {
    /// As the schema names it.
    pub fn kind(self) -> KeyKind {
        match self {
            Key::Integer => KeyKind::Integer,
            Key::String => KeyKind::String,
            Key::Binary => KeyKind::Binary,
        }
    }
}

impl From<KeyKind> for Key {
    fn from(kind: KeyKind) -> Key {
        match kind {
            KeyKind::Integer => Key::Integer,
            KeyKind::String => Key::String,
            KeyKind::Binary => Key::Binary,
        }
    }
}

/// Why a table cannot be distributed so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DistributionError(pub String);

impl DistributionError {
    /// The kind of failure.
    pub fn kind(&self) -> Kind {
        Kind::Invalid
    }
}

pub(crate) fn refused<T>(why: impl Into<String>) -> Result<T, DistributionError> {
    Err(DistributionError(why.into()))
}

/// What stands between the name of a table and the number of its partition: no client can give
/// such a name.
const SEPARATOR: char = '/';

/// The name of the global table that keeps a partition.
pub fn name_of_partition(table: &str, number: u32) -> String {
    format!("{table}{SEPARATOR}{number:04}")
}

/// The table that a partition is of, and its number; `None`: it is the name of no partition.
pub fn partition_named(name: &str) -> Option<(&str, u32)> {
    let (table, number) = name.split_once(SEPARATOR)?;
    let is_number = number.len() >= 4 && number.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| Some((table, number.parse().ok()?))).flatten()
}

impl Distribution {
    /// Where a row is in the order of partitions, by its first key column.
    pub fn point_of(&self, value: &KeyValue) -> Point {
        match self.by {
            By::Hash => Point::of_hash(value),
            By::Range => Point::of_key(value),
        }
    }

    /// The place of the partition that holds rows with this first key column.
    pub fn place_of(&self, value: &KeyValue) -> usize {
        self.place_at(&self.point_of(value))
    }

    fn place_at(&self, point: &Point) -> usize {
        self.partitions.partition_point(|partition| partition.from <= *point).saturating_sub(1)
    }

    /// The places of the partitions that can hold rows between two bounds of the first key
    /// column, the lower one first. Both are within.
    pub fn places_between(&self, lower: &KeyBound, upper: &KeyBound) -> std::ops::Range<usize> {
        match (self.by, lower, upper) {
            (_, KeyBound::Value(from), KeyBound::Value(to)) if from == to => {
                let place = self.place_of(from);
                place..place + 1
            }
            (By::Hash, _, _) => 0..self.partitions.len(),
            (By::Range, _, _) => {
                let first = match lower {
                    KeyBound::Min => 0,
                    KeyBound::Value(value) => self.place_of(value),
                    KeyBound::Max => self.partitions.len() - 1,
                };
                let last = match upper {
                    KeyBound::Min => 0,
                    KeyBound::Value(value) => self.place_of(value),
                    KeyBound::Max => self.partitions.len() - 1,
                };
                first..last.max(first) + 1
            }
        }
    }

    /// What of a partition's global table is not as the record says, as a change of it.
    pub fn setting_to_change(&self, table: &GlobalTable) -> Option<Change> {
        if table.mode != self.mode {
            return Some(Change::SetMode(SetMode { mode: self.mode }));
        }
        let failover = self.failover;
        (table.failover != failover).then_some(Change::SetFailover(SetFailover { failover }))
    }

    /// The same with a setting of all partitions changed. An error: it cannot be one of them.
    pub fn with_setting(mut self, change: &Change) -> Result<Distribution, DistributionError> {
        match change {
            Change::SetMode(asked) => self.mode = asked.mode,
            Change::SetFailover(asked) => self.failover = asked.failover,
            Change::SetLink(_)
            | Change::SetEdges(_)
            | Change::BindExtract(_)
            | Change::Switchover(_)
            | Change::SetBase(_)
            | Change::SetWrites(_) => {
                return refused(
                    "of a distributed table as a whole, only the mode, the failover and what is \
                     asked of links can be set; ask for one of its partitions, such as TABLE/0000",
                );
            }
        }
        // What a global table of as many replicas refuses, each partition would.
        let told = |error: ControlError| DistributionError(error.to_string());
        let serve = Serve::PrimarySecondary;
        let mut partition = GlobalTable::new(&self.name, 0, "1", Sync::Row, serve);
        for other in 2..=self.replicas {
            partition = partition.with_replica(&other.to_string(), false, 0).map_err(told)?;
        }
        partition.change(change).map_err(told)?;
        Ok(self)
    }

    /// The region that may hold partitions and is called so.
    pub fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name == name)
    }

    /// Whether it has partitions on their way.
    pub fn is_moving(&self) -> bool {
        self.partitions.iter().any(|partition| partition.moving)
    }

    /// Notes where a partition was seen. Returns whether that is news.
    pub fn note_seen(&mut self, place: usize, held: Vec<String>, primary: &str) -> bool {
        let Some(partition) = self.partitions.get_mut(place) else { return false };
        if partition.held == held && partition.primary == primary {
            return false;
        }
        partition.held = held;
        primary.clone_into(&mut partition.primary);
        true
    }

    /// The bytes kept at rest and sent to the other regions.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain data has no key that is not text")
    }

    /// Reads what `to_json` wrote, and what another region says.
    pub fn from_json(bytes: &[u8]) -> Result<Distribution, DistributionError> {
        let read: Distribution = serde_json::from_slice(bytes)
            .map_err(|error| DistributionError(format!("the record cannot be read: {error}")))?;
        read.check().map(|()| read)
    }

    /// Whether every key has exactly one partition, and each its own name, which the others rely
    /// on. Asked of whatever was read from elsewhere.
    pub fn check(&self) -> Result<(), DistributionError> {
        let partitions = &self.partitions;
        let targets = self.reshape.iter().flat_map(|reshape| &reshape.targets);
        let all = partitions.iter().map(|partition| partition.number);
        let all = all.chain(targets.map(|target| target.number)).chain(self.given_up.clone());
        let all: Vec<u32> = all.collect();
        if all.iter().collect::<BTreeSet<_>>().len() != all.len() {
            return refused("the record names a partition twice");
        }
        let begins = partitions.first().is_some_and(|first| first.from.is_first());
        let rises = partitions.is_sorted_by(|a, b| a.from < b.from);
        if !begins || !rises || partitions.len() > PARTITIONS_MAX {
            return refused("the record does not divide all keys in rising order");
        }
        if self.given_up.len() > GIVEN_UP_MAX {
            return refused("the record names too many partitions that were given up");
        }
        match &self.reshape {
            Some(reshape) => self.check_reshape(reshape),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
