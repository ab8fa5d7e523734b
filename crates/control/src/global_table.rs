//! The record of a global table and how it may change.
//!
//! Every change gives the record the next version, except the progress of a replica, which only
//! its base region keeps. A record is obeyed by whoever has an older version and ignored by
//! whoever has a newer one, so it may arrive twice and late.

use isthmus_model::error::Kind;
use serde::{Deserialize, Serialize};

use crate::edges::Edge;
use crate::extract::Extract;
use crate::link_rule::LinkRule;
use crate::write_mode::WriteMode;
use crate::writer::{AtSecondary, Failover};

/// Replicas of one table at most, the base included.
pub const REPLICAS_MAX: usize = 10;

/// What one conflict is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sync {
    /// A whole row.
    Row,
    /// One column.
    Column,
}

/// Who writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Serve {
    /// One region writes, the others read.
    PrimarySecondary,
    /// All regions write.
    PeerToPeer,
}

impl Serve {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Serve::PrimarySecondary => "primary-secondary",
            Serve::PeerToPeer => "peer-to-peer",
        }
    }
}

/// How far a replica has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Progress {
    /// Its region does not know of it yet.
    Pending,
    /// Its region has made the table.
    Assigned,
    /// Rows are being copied to it.
    Copying,
    /// It follows the log.
    Active,
    /// It is being taken out.
    Unbinding,
    /// The table is dropped and its region has had all entries up to that, or never will.
    Dropped,
}

/// One replica of a global table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// Name of its region.
    pub region: String,
    /// Whether clients may write there.
    pub writable: bool,
    /// How far it has come, as its base region knows.
    pub progress: Progress,
    /// Since when, milliseconds since the Unix epoch.
    pub since_millis: i64,
    /// The version of the record that its region has confirmed.
    pub confirmed_version: u64,
    /// Why it does not come further, if so.
    pub message: Option<String>,
    /// What it takes; none: all, always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extract: Option<Extract>,
    /// A person calls it fit to take the place of the one that writes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub eligible: bool,
    /// It writes until another one takes its place.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub steps_down: bool,
}

/// A table that is kept alike in several regions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GlobalTable {
    /// Names it for ever.
    pub id: String,
    /// Name of the global table and of each replica's table.
    pub name: String,
    /// The id of the table, alike in all regions.
    pub table: u64,
    /// Name of the region whose word counts.
    pub base: String,
    /// What one conflict is about.
    pub sync: Sync,
    /// Who writes.
    pub serve: Serve,
    /// Grows with each change that replicas must know.
    pub version: u64,
    /// The base region's replica first.
    pub replicas: Vec<Replica>,
    /// What a person asks of links, where it is not the default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<LinkRule>,
    /// Along which edges entries go; none: from every region to every other one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub edges: Vec<Edge>,
    /// Regions that the base has not reached for long, and that entries go around.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub away: Vec<String>,
    /// When a write is answered.
    #[serde(default, skip_serializing_if = "WriteMode::is_async")]
    pub mode: WriteMode,
    /// The region that writes, where one does and it is not the base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<String>,
    /// The epoch in which it does, by what has been heard.
    #[serde(default = "first_epoch", skip_serializing_if = "is_first_epoch")]
    pub epoch: u64,
    /// What secondaries do with writes, if a person has said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_secondary: Option<AtSecondary>,
    /// Who decides which region writes when the one that did is lost, where there is a quorum.
    #[serde(default, skip_serializing_if = "Failover::is_default")]
    pub failover: Failover,
    /// The epoch for which the base was moved by those who decide about failover; 0: never. A
    /// record of a greater reign counts, whatever the versions.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub reign: u64,
    /// The number by which batches of several partitions know the log, where that is not the
    /// table's: it was made of a table that had gone its own way when it was unbound before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn first_epoch() -> u64 {
    1
}

fn is_first_epoch(epoch: &u64) -> bool {
    *epoch == first_epoch()
}

/// Why a global table cannot be changed so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// The region is there already.
    #[error("region {0} already holds a replica of the table")]
    ReplicaExists(String),
    /// The region is not there.
    #[error("region {0} holds no replica of the table")]
    NoReplica(String),
    /// Nothing is shipped that way.
    #[error("there is no link from region {0} to region {1}")]
    NoLink(String, String),
    /// A figure or list that is not allowed.
    #[error("{0}")]
    OutOfRange(String),
    /// An edge joins two regions.
    #[error("an edge joins region {0} to itself")]
    EdgeToItself(String),
    /// Every region must be reached.
    #[error("the edges do not lead from region {0} to region {1}")]
    EdgesApart(String, String),
    /// It cannot be taken so.
    #[error("{0}")]
    BadExtract(String),
    /// Too many.
    #[error("a global table has at most {REPLICAS_MAX} replicas")]
    TooManyReplicas,
    /// The base cannot go.
    #[error("region {0} is the base of the table and cannot be unbound")]
    BaseStays(String),
    /// Writes would wait for regions that are not there.
    #[error(
        "writes are answered when {0} other regions hold them, and {1} others would take all of \
         the table; change its mode first"
    )]
    TooFewToHold(u8, usize),
    /// The writer cannot go.
    #[error("region {0} writes the table and cannot be unbound; let another region write first")]
    PrimaryStays(String),
    /// It cannot write, and why.
    #[error("region {0} cannot become the writing region: {1}")]
    Unfit(String, String),
    /// There is no one writer to speak of.
    #[error("all regions of the table may write; only a primary-secondary table has one writer")]
    SeveralWriters,
    /// No rule is called so.
    #[error("there is no rule {0}; the rules are last-writer, priority, max, min, counter, set")]
    UnknownRule(String),
    /// Which columns a family takes is fixed when it is made.
    #[error("what column family {0} takes stays as it was made; make another family")]
    FamilyStays(String),
    /// No region is called so.
    #[error("region {0} is not configured")]
    NoRegion(String),
    /// The schema would make no sense.
    #[error(transparent)]
    Schema(#[from] isthmus_model::check::CheckError),
    /// Not while one region writes.
    #[error(
        "a primary-secondary table has one writing region, which is changed by a switchover and \
         not by making a second one writable"
    )]
    OneWriter,
}

impl ControlError {
    /// The kind of failure.
    pub fn kind(&self) -> Kind {
        match self {
            ControlError::ReplicaExists(_) => Kind::Exists,
            ControlError::NoReplica(_) | ControlError::NoLink(..) => Kind::NotFound,
            ControlError::EdgeToItself(_)
            | ControlError::EdgesApart(..)
            | ControlError::BadExtract(_)
            | ControlError::TooManyReplicas
            | ControlError::OutOfRange(_)
            | ControlError::TooFewToHold(..)
            | ControlError::UnknownRule(_)
            | ControlError::FamilyStays(_)
            | ControlError::NoRegion(_)
            | ControlError::Schema(_)
            | ControlError::BaseStays(_)
            | ControlError::PrimaryStays(_)
            | ControlError::Unfit(..)
            | ControlError::SeveralWriters
            | ControlError::OneWriter => Kind::Invalid,
        }
    }
}

impl GlobalTable {
    /// A global table that so far has its base only.
    pub fn new(name: &str, table: u64, base: &str, sync: Sync, serve: Serve) -> GlobalTable {
        GlobalTable {
            id: format!("gt-{table:016x}"),
            name: name.to_owned(),
            table,
            base: base.to_owned(),
            sync,
            serve,
            version: 1,
            replicas: vec![Replica {
                region: base.to_owned(),
                writable: true,
                progress: Progress::Active,
                since_millis: 0,
                confirmed_version: 1,
                message: None,
                extract: None,
                eligible: false,
                steps_down: false,
            }],
            links: Vec::new(),
            edges: Vec::new(),
            away: Vec::new(),
            mode: WriteMode::default(),
            primary: None,
            epoch: first_epoch(),
            at_secondary: None,
            failover: Failover::default(),
            reign: 0,
            line: None,
        }
    }

    /// Whether this record counts beside another one of the same table.
    pub fn is_newer_than(&self, other: &GlobalTable) -> bool {
        (self.reign, self.version) > (other.reign, other.version)
    }

    /// Makes a region the base in the place of one that is lost, as was decided with that epoch.
    /// Returns whether that is news. What the others have confirmed they are told again.
    pub fn move_base(&mut self, to: &str, epoch: u64) -> bool {
        let Some(place) = self.replicas.iter().position(|replica| replica.region == to) else {
            return false;
        };
        if self.base == to || epoch <= self.reign {
            return false;
        }
        let primary = self.primary().to_owned();
        self.replicas[..=place].rotate_right(1);
        to.clone_into(&mut self.base);
        self.primary = (primary != to).then_some(primary);
        (self.reign, self.version) = (epoch, self.version + 1);
        for replica in &mut self.replicas {
            replica.confirmed_version = 0;
        }
        self.replicas[0].progress = Progress::Active;
        true
    }

    /// The same with one more replica. Peers always write, secondaries never.
    pub fn with_replica(
        mut self,
        region: &str,
        writable: bool,
        now_millis: i64,
    ) -> Result<GlobalTable, ControlError> {
        if self.replica(region).is_some() {
            return Err(ControlError::ReplicaExists(region.to_owned()));
        }
        if self.replicas.len() >= REPLICAS_MAX {
            return Err(ControlError::TooManyReplicas);
        }
        if writable && self.serve == Serve::PrimarySecondary {
            return Err(ControlError::OneWriter);
        }
        self.replicas.push(Replica {
            region: region.to_owned(),
            writable: self.serve == Serve::PeerToPeer,
            progress: Progress::Pending,
            since_millis: now_millis,
            confirmed_version: 0,
            message: None,
            extract: None,
            eligible: false,
            steps_down: false,
        });
        self.join_edges(region);
        self.version += 1;
        Ok(self)
    }

    /// Begins to take a replica out. It goes when its region has confirmed.
    pub fn unbind(&mut self, region: &str, now_millis: i64) -> Result<(), ControlError> {
        if region == self.base {
            return Err(ControlError::BaseStays(region.to_owned()));
        }
        if self.serve == Serve::PrimarySecondary && region == self.primary() {
            return Err(ControlError::PrimaryStays(region.to_owned()));
        }
        let mut left = self.clone();
        left.advance(region, Progress::Unbinding, now_millis)?;
        left.check_mode()?;
        if left.sync_commit().is_some() {
            return Err(ControlError::OutOfRange(
                "a region leaves a table that is written synchronously when its mode has been \
                 changed"
                    .to_owned(),
            ));
        }
        left.leave_edges(region);
        left.version += 1;
        *self = left;
        Ok(())
    }

    /// Forgets a replica whose region has confirmed that it is out. The others must know: they wait
    /// for what it has not heard of.
    pub fn remove(&mut self, region: &str) {
        self.version += u64::from(self.replica(region).is_some());
        self.replicas.retain(|replica| replica.region != region);
        self.links.retain(|rule| rule.from != region && rule.to != region);
        self.away.retain(|away| away != region);
    }

    /// Allows or forbids writing in a region of a table of peers.
    pub fn set_writable(&mut self, region: &str, writable: bool) -> Result<(), ControlError> {
        let serve = self.serve;
        let replica = self.replica_mut(region)?;
        if replica.writable == writable {
            return Ok(());
        }
        if serve == Serve::PrimarySecondary {
            return Err(ControlError::OneWriter);
        }
        replica.writable = writable;
        self.version += 1;
        Ok(())
    }

    /// Notes how far a replica has come. Returns whether that is news.
    pub fn advance(
        &mut self,
        region: &str,
        progress: Progress,
        now_millis: i64,
    ) -> Result<bool, ControlError> {
        let replica = self.replica_mut(region)?;
        if replica.progress == progress {
            return Ok(false);
        }
        replica.progress = progress;
        replica.since_millis = now_millis;
        replica.message = None;
        if self.has_enough(region) {
            // Whoever feeds it must know.
            self.version += 1;
        }
        Ok(true)
    }

    /// The replica in a region.
    pub fn replica(&self, region: &str) -> Option<&Replica> {
        self.replicas.iter().find(|replica| replica.region == region)
    }

    /// The replica in a region, to change.
    pub fn replica_mut(&mut self, region: &str) -> Result<&mut Replica, ControlError> {
        self.replicas
            .iter_mut()
            .find(|replica| replica.region == region)
            .ok_or_else(|| ControlError::NoReplica(region.to_owned()))
    }

    /// Whether clients may write in the region.
    pub fn writes(&self, region: &str) -> bool {
        self.replica(region).is_some_and(|replica| replica.writable)
    }

    /// Whether the region makes entries of its own, now or in a log that others may still need.
    pub fn originates(&self, region: &str) -> bool {
        match self.serve {
            Serve::PrimarySecondary => region == self.primary(),
            Serve::PeerToPeer => self.replica(region).is_some(),
        }
    }

    /// The regions to which a region ships entries, its own or those of others. One that does not
    /// know of the table yet refuses the link until it does.
    pub fn ships_to<'a>(&'a self, region: &'a str) -> impl Iterator<Item = &'a str> {
        let others = self.replicas.iter().map(|replica| replica.region.as_str());
        others.filter(move |other| self.feeds(region, other).next().is_some())
    }

    /// Whether every replica follows.
    pub fn is_active(&self) -> bool {
        self.replicas.iter().all(|replica| replica.progress == Progress::Active)
    }

    /// The bytes kept at rest and sent to the other regions.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain data has no key that is not text")
    }

    /// Reads what `to_json` wrote.
    pub fn from_json(bytes: &[u8]) -> Result<GlobalTable, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers() -> GlobalTable {
        GlobalTable::new("t", 1, "r1", Sync::Column, Serve::PeerToPeer)
            .with_replica("r2", true, 5)
            .and_then(|table| table.with_replica("r3", true, 5))
            .unwrap()
    }

    #[test]
    fn peers_ship_to_every_other() {
        let table = peers();
        assert_eq!(table.ships_to("r1").count(), 2);
        assert_eq!(table.ships_to("r2").collect::<Vec<_>>(), ["r1", "r3"]);
        assert!(!table.is_active());
    }

    #[test]
    fn base_that_is_lost_moves_and_its_later_record_does_not_count() {
        let mut table = GlobalTable::new("t", 1, "r1", Sync::Row, Serve::PrimarySecondary)
            .with_replica("r2", false, 5)
            .and_then(|table| table.with_replica("r3", false, 5))
            .unwrap();
        let mut lost = table.clone();
        lost.version += 10;
        assert!(table.follow_writer(2, "r3"));
        assert!(table.move_base("r3", 2) && !table.move_base("r2", 2) && !table.move_base("r9", 3));
        assert_eq!((table.base.as_str(), table.primary(), &table.primary), ("r3", "r3", &None));
        let order: Vec<&str> = table.replicas.iter().map(|r| r.region.as_str()).collect();
        assert_eq!(order, ["r3", "r1", "r2"]);
        assert!(table.is_newer_than(&lost) && !lost.is_newer_than(&table));
        assert!(table.ships_to("r3").eq(["r1", "r2"]));
        assert_eq!(GlobalTable::from_json(&table.to_json()).unwrap(), table);
    }

    #[test]
    fn primary_secondary_keeps_one_writer() {
        let table = GlobalTable::new("t", 1, "r1", Sync::Row, Serve::PrimarySecondary);
        assert_eq!(table.clone().with_replica("r2", true, 0), Err(ControlError::OneWriter));
        let mut table = table.with_replica("r2", false, 0).unwrap();
        assert_eq!(table.set_writable("r2", true), Err(ControlError::OneWriter));
        assert_eq!(table.ships_to("r2").count(), 0);
    }

    #[test]
    fn base_cannot_be_unbound_and_others_go_when_confirmed() {
        let mut table = peers();
        assert!(matches!(table.unbind("r1", 7), Err(ControlError::BaseStays(_))));
        table.unbind("r2", 7).unwrap();
        assert_eq!(table.ships_to("r1").collect::<Vec<_>>(), ["r3"]);
        let told = table.clone();
        table.remove("r2");
        assert!(table.replica("r2").is_none() && table.is_newer_than(&told));
        assert_eq!(GlobalTable::from_json(&table.to_json()).unwrap(), table);
    }
}
