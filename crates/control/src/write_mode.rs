//! When a write of a global table is answered: when it is durable in its own region, or when
//! other regions hold it as well.
//!
//! A record says how many others, how far they may be behind before the region that writes falls
//! back, and what it does then. Only replicas that take all, and get it at once, count: who is
//! delayed or paused on purpose must not hold up a write.

use isthmus_model::commit::Form;
use serde::{Deserialize, Serialize};

use crate::global_table::{ControlError, GlobalTable, Progress, REPLICAS_MAX, Serve};
use crate::link_rule::{TimingRule, Wanted};

/// Entries that others may lack, at most.
pub const BOUND_ENTRIES_MAX: u64 = 10_000_000;
/// How long they may lack one, in milliseconds.
pub const BOUND_MILLIS: std::ops::RangeInclusive<u64> = 50..=600_000;
/// How long one write waits, in milliseconds.
pub const PATIENCE_MILLIS: std::ops::RangeInclusive<u64> = 100..=60_000;

/// When a write is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answers", rename_all = "kebab-case", deny_unknown_fields)]
pub enum WriteMode {
    /// When it is durable in its region.
    #[default]
    Async,
    /// When other regions hold it durably, too.
    SemiSync(SemiSync),
    /// When it has been made, after others have prepared it: it is seen nowhere before.
    Sync(SyncCommit),
}

/// How synchronous writes are committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyncCommit {
    /// Whose votes make the decision.
    #[serde(with = "crate::as_text")]
    pub form: Form,
    /// The region falls back when a write has waited longer than this for the votes, in
    /// milliseconds.
    #[serde(default = "bound_ms")]
    pub bound_ms: u64,
    /// How long one write waits before its outcome is told as unknown, in milliseconds.
    #[serde(default = "patience_ms")]
    pub patience_ms: u64,
    /// What happens past the bound.
    #[serde(default)]
    pub fallback: Fallback,
}

/// What semi-synchronous writes wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SemiSync {
    /// Other regions that must hold a write before it is answered.
    pub held_by: u8,
    /// The region falls back when so many of them lack more entries than this.
    #[serde(default = "bound_entries")]
    pub bound_entries: u64,
    /// Or when they have lacked one for longer than this, in milliseconds.
    #[serde(default = "bound_ms")]
    pub bound_ms: u64,
    /// How long one write waits before its outcome is told as unknown, in milliseconds.
    #[serde(default = "patience_ms")]
    pub patience_ms: u64,
    /// What happens past the bound.
    #[serde(default)]
    pub fallback: Fallback,
}

fn bound_entries() -> u64 {
    100_000
}

fn bound_ms() -> u64 {
    2_000
}

fn patience_ms() -> u64 {
    10_000
}

/// What a region does that has fallen back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fallback {
    /// It goes on to write and to wait.
    #[default]
    Wait,
    /// It makes no more writes.
    Refuse,
    /// It answers without waiting, and counts.
    Async,
}

impl Fallback {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Fallback::Wait => "wait",
            Fallback::Refuse => "refuse",
            Fallback::Async => "async",
        }
    }
}

/// When writes are to be answered from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetMode {
    /// When.
    pub mode: WriteMode,
}

impl WriteMode {
    /// Whether nobody else is waited for.
    pub fn is_async(&self) -> bool {
        *self == WriteMode::Async
    }

    /// How long one write waits for other regions at most, in milliseconds.
    pub fn patience_ms(&self) -> u64 {
        match self {
            WriteMode::Async => 0,
            WriteMode::SemiSync(asked) => asked.patience_ms,
            WriteMode::Sync(asked) => asked.patience_ms,
        }
    }
}

impl std::fmt::Display for WriteMode {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            WriteMode::Async => to.write_str("async"),
            WriteMode::SemiSync(asked) => {
                write!(to, "semi-sync {}, else {}", asked.held_by, asked.fallback.as_str())
            }
            WriteMode::Sync(asked) => {
                write!(to, "sync {}, else {}", asked.form, asked.fallback.as_str())
            }
        }
    }
}

impl SemiSync {
    fn check(&self) -> Result<(), ControlError> {
        let wrong = |what: String| Err(ControlError::OutOfRange(what));
        if self.held_by == 0 || usize::from(self.held_by) >= REPLICAS_MAX {
            return wrong(format!("a write is held by 1 to {} other regions", REPLICAS_MAX - 1));
        }
        if !(1..=BOUND_ENTRIES_MAX).contains(&self.bound_entries) {
            return wrong(format!("the bound in entries must be 1 to {BOUND_ENTRIES_MAX}"));
        }
        let (from, to) = BOUND_MILLIS.into_inner();
        if !(from..=to).contains(&self.bound_ms) {
            return wrong(format!("the bound in time must be {from} to {to} ms"));
        }
        let (from, to) = PATIENCE_MILLIS.into_inner();
        if !(from..=to).contains(&self.patience_ms) {
            return wrong(format!("a write waits {from} to {to} ms"));
        }
        Ok(())
    }
}

impl GlobalTable {
    /// Sets when writes are answered. So many other replicas must take all of the table.
    pub(crate) fn set_mode(&mut self, asked: &SetMode) -> Result<(), ControlError> {
        self.mode = asked.mode;
        if let Some(terms) = self.semi_sync() {
            terms.check()?;
        }
        self.check_mode()
    }

    /// What writes wait for, whether before or after they are made; `None`: for nothing.
    pub fn semi_sync(&self) -> Option<SemiSync> {
        match self.mode {
            WriteMode::Async => None,
            WriteMode::SemiSync(asked) => Some(asked),
            WriteMode::Sync(asked) => {
                let needed = asked.form.votes_needed(self.others_that_take_all());
                Some(SemiSync {
                    held_by: u8::try_from(needed).unwrap_or(u8::MAX).max(1),
                    bound_entries: BOUND_ENTRIES_MAX,
                    bound_ms: asked.bound_ms,
                    patience_ms: asked.patience_ms,
                    fallback: asked.fallback,
                })
            }
        }
    }

    /// How writes are prepared in other regions before they are made, if they are.
    pub fn sync_commit(&self) -> Option<SyncCommit> {
        match self.mode {
            WriteMode::Sync(asked) => Some(asked),
            WriteMode::Async | WriteMode::SemiSync(_) => None,
        }
    }

    /// Whether a table in sync is one that can be so.
    fn check_may_be_sync(&self) -> Result<(), ControlError> {
        let wrong = |what: &str| Err(ControlError::OutOfRange(what.to_owned()));
        if self.serve != Serve::PrimarySecondary {
            return wrong("a table is written synchronously where one region writes it");
        }
        match self.edges.is_empty() {
            true => Ok(()),
            false => wrong("a table with edges cannot be written synchronously"),
        }
    }

    fn others_that_take_all(&self) -> usize {
        let takes_all = |region: &str| self.is_bound(region) && !self.takes_extract(region);
        self.replicas.iter().filter(|r| takes_all(&r.region)).count().saturating_sub(1)
    }

    /// Whether there are as many other replicas that take all as the mode asks for.
    pub(crate) fn check_mode(&self) -> Result<(), ControlError> {
        if self.sync_commit().is_some() {
            self.check_may_be_sync()?;
        }
        let Some(asked) = self.semi_sync() else { return Ok(()) };
        let others = self.others_that_take_all();
        match others < usize::from(asked.held_by) {
            true => Err(ControlError::TooFewToHold(asked.held_by, others)),
            false => Ok(()),
        }
    }

    /// Whether a region is waited for by writes of an origin: it takes all of the table, and
    /// every link on the way to it runs and ships at once.
    pub fn counts(&self, origin: &str, region: &str) -> bool {
        if !self.is_bound(region) || self.takes_extract(region) {
            return false;
        }
        let mut at = region;
        // No way is longer than there are regions.
        for _ in 0..self.replicas.len() {
            let Some(feeder) = self.feeder(origin, at) else { return false };
            let rule = self.link_rule(feeder, at);
            if rule.wanted != Wanted::Running || rule.timing != TimingRule::Immediate {
                return false;
            }
            if feeder == origin {
                return true;
            }
            at = feeder;
        }
        false
    }

    fn is_bound(&self, region: &str) -> bool {
        self.replica(region).is_some_and(|replica| replica.progress != Progress::Unbinding)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Change;
    use crate::edges::{Edge, SetEdges};
    use crate::global_table::Sync;

    fn table(serve: Serve) -> GlobalTable {
        GlobalTable::new("t", 1, "r1", Sync::Row, serve)
            .with_replica("r2", false, 0)
            .and_then(|table| table.with_replica("r3", false, 0))
            .unwrap()
    }

    fn change(text: &str) -> Change {
        serde_json::from_str(text).unwrap()
    }

    fn semi_sync(held_by: u8) -> Change {
        change(&format!(
            r#"{{"change":"set-mode","mode":{{"answers":"semi-sync","held_by":{held_by}}}}}"#
        ))
    }

    #[test]
    fn a_mode_is_set_once_and_set_back() {
        let mut table = table(Serve::PrimarySecondary);
        let version = table.version;
        assert_eq!(table.change(&semi_sync(2)), Ok(true));
        assert_eq!(table.change(&semi_sync(2)), Ok(false));
        assert_eq!(table.version, version + 1);
        assert_eq!(table.mode.to_string(), "semi-sync 2, else wait");
        assert_eq!(GlobalTable::from_json(&table.to_json()).unwrap(), table);
        let back = change(r#"{"change":"set-mode","mode":{"answers":"async"}}"#);
        assert_eq!(table.change(&back), Ok(true));
        assert!(!String::from_utf8(table.to_json()).unwrap().contains("mode"));
    }

    #[test]
    fn more_regions_than_there_are_cannot_be_waited_for() {
        let mut table = table(Serve::PeerToPeer);
        assert_eq!(table.change(&semi_sync(3)), Err(ControlError::TooFewToHold(3, 2)));
        assert_eq!(table.change(&semi_sync(2)), Ok(true));
        let before = table.clone();
        assert_eq!(table.unbind("r3", 0), Err(ControlError::TooFewToHold(2, 1)));
        assert_eq!(table, before);
        table.change(&semi_sync(1)).unwrap();
        table.unbind("r3", 0).unwrap();
        assert_eq!(table.change(&semi_sync(2)), Err(ControlError::TooFewToHold(2, 1)));
    }

    #[test]
    fn who_takes_less_or_later_does_not_count() {
        let mut table = table(Serve::PrimarySecondary);
        let extract = r#"{"change":"bind-extract","region":"r4","extract":{"columns":["a"]}}"#;
        table.change(&change(extract)).unwrap();
        let counting = |table: &GlobalTable| {
            ["r1", "r2", "r3", "r4"].into_iter().filter(|r| table.counts("r1", r)).count()
        };
        assert_eq!(counting(&table), 2);
        let slow = [
            r#""wanted":"paused""#,
            r#""wanted":"stopped""#,
            r#""timing":{"when":"delayed","seconds":9}"#,
            r#""timing":{"when":"triggered"}"#,
        ];
        for wish in slow {
            let mut table = table.clone();
            let wish = format!(r#"{{"change":"set-link","from":"r1","to":"r2",{wish}}}"#);
            table.change(&change(&wish)).unwrap();
            assert!(!table.counts("r1", "r2"), "{wish}");
            assert_eq!(counting(&table), 1);
        }
    }

    #[test]
    fn over_edges_every_link_on_the_way_must_ship_at_once() {
        let mut table = table(Serve::PeerToPeer);
        let edges = vec![Edge::new("r1", "r2"), Edge::new("r2", "r3")];
        table.change(&Change::SetEdges(SetEdges { edges })).unwrap();
        assert!(table.counts("r1", "r3") && table.counts("r3", "r1"));
        let pause = r#"{"change":"set-link","from":"r1","to":"r2","wanted":"paused"}"#;
        table.change(&change(pause)).unwrap();
        assert!(!table.counts("r1", "r3") && !table.counts("r1", "r2"));
        assert!(table.counts("r2", "r3") && table.counts("r3", "r1"));
    }

    #[test]
    fn what_is_out_of_range_is_refused_and_changes_nothing() {
        let mut table = table(Serve::PrimarySecondary);
        let before = table.clone();
        for wrong in [
            r#""held_by":0"#,
            r#""held_by":10"#,
            r#""held_by":1,"bound_entries":0"#,
            r#""held_by":1,"bound_ms":1"#,
            r#""held_by":1,"patience_ms":99999999"#,
        ] {
            let text = r#"{"change":"set-mode","mode":{"answers":"semi-sync",WRONG}}"#;
            let asked = change(&text.replace("WRONG", wrong));
            assert!(table.change(&asked).is_err(), "{wrong}");
            assert_eq!(table, before);
        }
        let unknown = r#"{"change":"set-mode","mode":{"answers":"semi-sync","held_by":1,"x":1}}"#;
        assert!(serde_json::from_str::<Change>(unknown).is_err());
    }
}
