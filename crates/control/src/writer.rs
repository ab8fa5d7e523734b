//! Which region writes a table with one writer, and how that changes.
//!
//! The record never decides it: a writer changes only through the log, whose last entry of an
//! epoch names the successor and whose first entry of the next one shows that it writes. The
//! record follows. So a record that comes late, twice or to a region whose log is behind makes
//! nobody write; here is decided only whether a change may be asked for, and what a region has to
//! do when its log says something else than its record.

use serde::{Deserialize, Serialize};

use crate::global_table::{ControlError, GlobalTable, Progress, Serve};
use crate::link_rule::{LinkRule, TimingRule, Wanted};

/// Asks for another writing region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Switchover {
    /// The region that is to write.
    pub to: String,
}

/// Asks for another base region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetBase {
    /// The region that is to keep the record. It writes the table.
    pub to: String,
}

/// What a secondary does with a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AtSecondary {
    /// Refuses it and names the region that writes.
    Refuse,
    /// Has it done there, and answers what is answered there.
    Forward,
}

/// Says what secondaries do with writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetWrites {
    /// What.
    pub at_secondary: AtSecondary,
}

/// Who decides which region writes when the one that did is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Failover {
    /// The quorum, by itself, where writes are held by other regions before they are answered, so
    /// that none is given up; else a person.
    #[default]
    Safe,
    /// The quorum, by itself, also where the lost region has answered writes that no other has.
    Automatic,
    /// A person.
    ByHand,
}

impl Failover {
    /// Whether nobody has said otherwise.
    pub fn is_default(&self) -> bool {
        *self == Failover::default()
    }
}

/// Says who decides when the region that writes is lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetFailover {
    /// Who.
    pub failover: Failover,
}

/// What a region's log says of who writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogWord<'a> {
    /// The epoch that its newest opening began.
    pub epoch: u64,
    /// Who writes in it.
    pub writer: &'a str,
    /// Who opens the next one, if its last entry is the last one of the epoch.
    pub successor: Option<&'a str>,
}

/// What a region has to do by what its log says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is as it should be.
    Nothing,
    /// Open the next epoch: it is the successor and has all of the last one.
    Open,
    /// Take the writer that the log names into its record.
    Follow,
}

impl GlobalTable {
    /// The region that writes, where one does; else the base.
    pub fn primary(&self) -> &str {
        self.primary.as_deref().unwrap_or(&self.base)
    }

    /// The region that makes the entries which concern the whole table, such as its schema.
    pub fn speaker(&self) -> &str {
        match self.serve {
            Serve::PrimarySecondary => self.primary(),
            Serve::PeerToPeer => &self.base,
        }
    }

    /// Whether secondaries have writes done where they belong. Where nobody has said, they do once
    /// the writer has changed, since clients point at the region that wrote before, and where the
    /// table is written synchronously, since its reads belong there, too.
    pub fn forwards(&self) -> bool {
        let chosen = self.at_secondary.map(|chosen| chosen == AtSecondary::Forward);
        self.serve == Serve::PrimarySecondary
            && chosen.unwrap_or(self.epoch > 1 || self.sync_commit().is_some())
    }

    /// What a region has to do by its log. `is_ready`: it has all of the table.
    pub fn next_step(&self, own: &str, is_ready: bool, log: &LogWord<'_>) -> Step {
        if self.serve != Serve::PrimarySecondary {
            return Step::Nothing;
        }
        if log.epoch > self.epoch {
            return Step::Follow;
        }
        // Another life of this region may have opened an epoch that the log here knows nothing of.
        let is_newest = log.epoch == self.epoch;
        let is_successor = log.successor == Some(own);
        match is_successor && is_ready && is_newest {
            true => Step::Open,
            false => Step::Nothing,
        }
    }

    /// Whether a region that obeys an epoch newer than what is known here may give this region
    /// entries, though by the record it does not: it has heard of a writer that this one has not.
    pub fn is_ahead(&self, region: &str, own: &str, epoch: u64) -> bool {
        self.serve == Serve::PrimarySecondary
            && epoch > self.epoch
            && self.are_neighbours(region, own)
            && self.replica(region).is_some_and(|replica| replica.extract.is_none())
    }

    /// Takes over who writes in an epoch that has been opened, unless a newer one is known.
    /// Returns whether that is news. The version stays: whoever has the log knows it, too.
    pub fn follow_writer(&mut self, epoch: u64, writer: &str) -> bool {
        if epoch <= self.epoch || self.serve != Serve::PrimarySecondary {
            return false;
        }
        let before = self.primary().to_owned();
        self.epoch = epoch;
        self.primary = (writer != self.base).then(|| writer.to_owned());
        for replica in &mut self.replicas {
            replica.writable = replica.region == writer;
            (replica.eligible, replica.steps_down) = (false, false);
        }
        self.turn_links(&before, writer);
        true
    }

    /// What was asked of the links from the region that wrote is asked of those that take their
    /// place, so that a replica which is kept behind, or slowly fed, stays so.
    fn turn_links(&mut self, before: &str, writer: &str) {
        if self.has_edges() {
            return;
        }
        let has_rule =
            |to: &str| self.links.iter().any(|rule| rule.from == writer && rule.to == to);
        let turned: Vec<LinkRule> = self
            .links
            .iter()
            .filter(|rule| rule.from == before && rule.to != writer && !has_rule(&rule.to))
            .map(|rule| LinkRule { from: writer.to_owned(), ..rule.clone() })
            .collect();
        self.links.extend(turned);
    }

    /// Checks that a region may be asked to write, as far as the record tells. Returns whether it
    /// does not do so already.
    pub fn check_successor(&self, to: &str) -> Result<bool, ControlError> {
        if self.serve != Serve::PrimarySecondary {
            return Err(ControlError::SeveralWriters);
        }
        let replica = self.replica(to).ok_or_else(|| ControlError::NoReplica(to.to_owned()))?;
        if to == self.primary() {
            return Ok(false);
        }
        let unfit = |why: String| Err(ControlError::Unfit(to.to_owned(), why));
        if replica.extract.is_some() {
            return unfit("it takes only a part of the table; unbind it and bind it whole".into());
        }
        if replica.progress != Progress::Active {
            return unfit("it has not all of the table yet; wait until it is active".into());
        }
        for (from, to) in self.way_to(to) {
            let rule = self.link_rule(&from, &to);
            if rule.wanted != Wanted::Running {
                return unfit(format!(
                    "the link from {from} to {to} does not run; resume it first"
                ));
            }
            if rule.timing != TimingRule::Immediate {
                let what = format!("the link from {from} to {to} does not ship at once");
                return unfit(format!("{what}; set its timing to immediate first"));
            }
        }
        Ok(true)
    }

    /// Lets the region that writes keep the record from now on, as if the one that does were lost:
    /// the epoch in which it writes counts for more than any version of before. Returns whether
    /// that is news.
    pub fn hand_base_to(&mut self, to: &str) -> Result<bool, ControlError> {
        if self.base == to {
            return Ok(false);
        }
        let unfit = |why: &str| Err(ControlError::Unfit(to.to_owned(), why.to_owned()));
        if self.serve != Serve::PrimarySecondary {
            return Err(ControlError::SeveralWriters);
        }
        if self.primary() != to {
            return unfit("it does not write the table; let it write first");
        }
        match self.replica(to).is_some_and(|replica| replica.progress == Progress::Active)
            && self.move_base(to, self.epoch)
        {
            true => Ok(true),
            false => unfit("it has not all of the table yet; wait until it is active"),
        }
    }

    /// The links over which a region gets what the primary makes, the last one first.
    fn way_to(&self, region: &str) -> Vec<(String, String)> {
        let (mut way, mut at) = (Vec::new(), region);
        while let Some(feeder) = self.feeder(self.primary(), at) {
            way.push((feeder.to_owned(), at.to_owned()));
            at = feeder;
        }
        way
    }

    /// Takes what UpdateGlobalTable asks of one replica of a table with one writer. Returns the
    /// region that is to write from now on, if that is another one.
    ///
    /// Made writable, a region takes the place of the one that writes, in one step. That one is
    /// told to stop writing before or after: after, it has stopped; before, it writes until its
    /// successor is named. So there is a writer at any moment, whatever the order.
    pub fn ask_of_replica(
        &mut self,
        region: &str,
        writable: Option<bool>,
        eligible: Option<bool>,
    ) -> Result<Option<String>, ControlError> {
        let is_primary = region == self.primary();
        if writable == Some(true) && eligible == Some(false) {
            let text = "a region cannot be made writable and not eligible to be the primary";
            return Err(ControlError::OutOfRange(text.to_owned()));
        }
        let before = self.clone();
        let replica = self.replica_mut(region)?;
        replica.eligible = eligible.unwrap_or(replica.eligible);
        if is_primary {
            replica.steps_down = writable.map_or(replica.steps_down, |writable| !writable);
        }
        if *self != before {
            self.version += 1;
        }
        if !is_primary && writable == Some(true) {
            return Ok(Some(region.to_owned()));
        }
        let primary = self.primary();
        let steps_down = self.replica(primary).is_some_and(|replica| replica.steps_down);
        let mut fit = self.replicas.iter().filter(|r| r.eligible && r.region != primary);
        match (steps_down, fit.next(), fit.next()) {
            (true, Some(only), None) => Ok(Some(only.region.clone())),
            _ => Ok(None),
        }
    }

    /// Whether the quorum decides by itself when the region that writes is lost, where writes are
    /// held by so many others before they are answered.
    pub fn fails_over_by_itself(&self, held_by: u8) -> bool {
        match self.failover {
            Failover::Safe => held_by > 0,
            Failover::Automatic => true,
            Failover::ByHand => false,
        }
    }

    /// Says who decides when the region that writes is lost.
    pub(crate) fn set_failover(&mut self, asked: &SetFailover) -> Result<(), ControlError> {
        if self.serve != Serve::PrimarySecondary {
            return Err(ControlError::SeveralWriters);
        }
        self.failover = asked.failover;
        Ok(())
    }

    /// Says what secondaries do with writes.
    pub(crate) fn set_writes(&mut self, asked: &SetWrites) -> Result<(), ControlError> {
        if self.serve != Serve::PrimarySecondary {
            return Err(ControlError::SeveralWriters);
        }
        self.at_secondary = Some(asked.at_secondary);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::*;
    use crate::change::Change;
    use crate::edges::{Edge, SetEdges};
    use crate::global_table::Sync;
    use crate::link_rule::SetLink;

    fn table() -> GlobalTable {
        let mut table = GlobalTable::new("t", 1, "r1", Sync::Row, Serve::PrimarySecondary);
        for region in ["r2", "r3"] {
            table = table.with_replica(region, false, 0).unwrap();
            table.advance(region, Progress::Active, 1).unwrap();
        }
        table
    }

    fn unfit(table: &GlobalTable, to: &str) -> String {
        match table.check_successor(to) {
            Err(ControlError::Unfit(_, why)) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn record_follows_the_log_and_links_turn_round() {
        let mut table = table();
        let delayed = r#"{"change":"set-link","to":"r3","timing":{"when":"delayed","seconds":9}}"#;
        table.change(&serde_json::from_str(delayed).unwrap()).unwrap();
        let version = table.version;
        assert!(table.follow_writer(2, "r2"));
        assert!(!table.follow_writer(2, "r3") && !table.follow_writer(1, "r1"));
        assert_eq!((table.primary(), table.version), ("r2", version));
        assert!(table.writes("r2") && !table.writes("r1"));
        assert_eq!(table.ships_to("r2").collect::<Vec<_>>(), ["r1", "r3"]);
        assert_eq!(table.ships_to("r1").count(), 0);
        assert_eq!(table.link_rule("r2", "r3").timing, TimingRule::Delayed { seconds: 9 });
        assert_eq!(table.link_rule("r2", "r1").timing, TimingRule::Immediate);
        assert!(matches!(table.unbind("r2", 7), Err(ControlError::PrimaryStays(_))));
        assert_eq!(GlobalTable::from_json(&table.to_json()).unwrap(), table);
        assert!(table.follow_writer(3, "r1"));
        assert_eq!((table.primary(), &table.primary), ("r1", &None));
    }

    #[test]
    fn region_that_is_not_whole_or_not_fed_at_once_is_unfit() {
        let mut table = table();
        assert_eq!(table.check_successor("r1"), Ok(false));
        assert_eq!(table.check_successor("r2"), Ok(true));
        assert!(matches!(table.check_successor("r9"), Err(ControlError::NoReplica(_))));
        let pause = SetLink { wanted: Some(Wanted::Paused), ..SetLink::default() };
        table.change(&Change::SetLink(pause)).unwrap();
        assert!(unfit(&table, "r2").contains("does not run"));
        let mut copied = self::table();
        copied.advance("r2", Progress::Copying, 2).unwrap();
        assert!(unfit(&copied, "r2").contains("not all"));
    }

    #[test]
    fn every_link_on_the_way_counts() {
        let mut table = table();
        let edges = vec![Edge::new("r1", "r2"), Edge::new("r2", "r3")];
        table.change(&Change::SetEdges(SetEdges { edges })).unwrap();
        let delayed = r#"{"change":"set-link","from":"r1","to":"r2",
            "timing":{"when":"interval","seconds":9}}"#;
        table.change(&serde_json::from_str(delayed).unwrap()).unwrap();
        assert!(unfit(&table, "r3").contains("from r1 to r2"));
    }

    #[test]
    fn only_the_whole_successor_of_the_newest_epoch_opens() {
        let table = table();
        let log = LogWord { epoch: 1, writer: "r1", successor: Some("r2") };
        assert_eq!(table.next_step("r2", true, &log), Step::Open);
        assert_eq!(table.next_step("r2", false, &log), Step::Nothing);
        assert_eq!(table.next_step("r1", true, &log), Step::Nothing);
        let goes_on = LogWord { successor: None, ..log };
        assert_eq!(table.next_step("r2", true, &goes_on), Step::Nothing);
        let opened = LogWord { epoch: 2, writer: "r2", successor: None };
        assert_eq!(table.next_step("r3", true, &opened), Step::Follow);
        let mut newer = table;
        newer.follow_writer(2, "r2");
        assert_eq!(newer.next_step("r2", true, &log), Step::Nothing);
    }

    #[test]
    fn secondaries_forward_when_asked_or_once_the_writer_has_changed() {
        let mut table = table();
        assert!(!table.forwards());
        table.follow_writer(2, "r2");
        assert!(table.forwards());
        let refuse = r#"{"change":"set-writes","at_secondary":"refuse"}"#;
        assert_eq!(table.change(&serde_json::from_str(refuse).unwrap()), Ok(true));
        assert!(!table.forwards());
    }

    #[test]
    fn both_orders_of_the_two_calls_name_the_same_writer() {
        let mut table = table();
        // Writable first: the step itself; then the old one is not writable already.
        let named = table.clone().ask_of_replica("r2", Some(true), Some(true)).unwrap();
        assert_eq!(named.as_deref(), Some("r2"));
        // The other way round: it goes on writing until the successor is named.
        assert_eq!(table.ask_of_replica("r1", Some(false), None), Ok(None));
        assert!(table.writes("r1"));
        let named = table.clone().ask_of_replica("r3", Some(true), Some(true)).unwrap();
        assert_eq!(named.as_deref(), Some("r3"));
        let named = table.clone().ask_of_replica("r3", None, Some(true)).unwrap();
        assert_eq!(named.as_deref(), Some("r3"));
        table.follow_writer(2, "r3");
        assert_eq!(table.ask_of_replica("r1", Some(false), None), Ok(None));
        assert_eq!(table.ask_of_replica("r2", None, Some(true)), Ok(None));
        assert!(table.ask_of_replica("r2", Some(true), Some(false)).is_err());
    }

    proptest! {
        #[test]
        fn there_is_one_writer_whatever_is_asked(
            calls in proptest::collection::vec((0..3usize, any::<[Option<bool>; 2]>()), 0..12),
        ) {
            let mut table = table();
            for (place, [writable, eligible]) in calls {
                let region = ["r1", "r2", "r3"][place];
                let asked = table.ask_of_replica(region, writable, eligible);
                if let Ok(Some(to)) = asked {
                    prop_assert_eq!(table.check_successor(&to), Ok(true));
                    let epoch = table.epoch + 1;
                    prop_assert!(table.follow_writer(epoch, &to));
                }
                let writers = table.replicas.iter().filter(|r| table.writes(&r.region)).count();
                prop_assert_eq!(writers, 1);
            }
        }
    }
}
