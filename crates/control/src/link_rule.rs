//! What a person asks of one link of a global table, and how that is changed. What is not asked
//! has its default.
//!
//! A rule belongs to a pair of regions. A change may name the pair, one end of it or neither, and
//! then changes every link of the table that fits; a link that comes later has the default.

use isthmus_model::compression::Compression;
use serde::{Deserialize, Serialize};

use crate::as_text;
use crate::global_table::{ControlError, GlobalTable};

/// How a link is to stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wanted {
    /// It ships.
    #[default]
    Running,
    /// It waits; the log is kept for it, within its budget.
    Paused,
    /// It is out of use: the log is not kept for it, and a copy of what differs heals it later.
    Stopped,
}

/// When a link ships. Spans of time are in seconds, 1 to `SECONDS_MAX`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "when", rename_all = "kebab-case", deny_unknown_fields)]
pub enum TimingRule {
    /// Entries as they come.
    #[default]
    Immediate,
    /// An entry when it is so old.
    Delayed {
        /// How old.
        seconds: u64,
    },
    /// What there is, once in each interval.
    Interval {
        /// From one to the next.
        seconds: u64,
    },
    /// While a window is open.
    Windows {
        /// At most `WINDOWS_MAX`.
        windows: Vec<WindowRule>,
    },
    /// When a person or program asks for it, or when so much waits.
    Triggered {
        /// Entries that wait.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        entries: Option<u64>,
        /// Bytes of log records that wait.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bytes: Option<u64>,
    },
}

/// A window that opens again and again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowRule {
    /// When it opens: a cron expression of five fields and a time zone.
    pub opens: String,
    /// How long it is open.
    pub seconds: u64,
}

/// Windows of one link at most.
pub const WINDOWS_MAX: usize = 16;
/// The longest delay, interval or window: 31 days.
pub const SECONDS_MAX: u64 = 31 * 86_400;
/// Bytes of a cron expression at most.
const CRON_BYTES_MAX: usize = 256;

/// How fast a link may ship. What is absent has its default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ThrottleRule {
    /// Bytes per second, before compression; absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
    /// Entries, or rows of a copy, per second; absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entries_per_second: Option<u64>,
    /// Percent of one processor that a copy may take at the origin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy_cpu_percent: Option<u8>,
}

/// Who dials for a link. The entries flow the same way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DirectionRule {
    /// The origin.
    #[default]
    Push,
    /// The replica.
    Pull,
}

/// What is asked of one link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkRule {
    /// The origin's region.
    pub from: String,
    /// The replica's region.
    pub to: String,
    /// How it is to stand.
    #[serde(default)]
    pub wanted: Wanted,
    /// When it ships.
    #[serde(default, skip_serializing_if = "is_default")]
    pub timing: TimingRule,
    /// How fast.
    #[serde(default, skip_serializing_if = "is_default")]
    pub throttle: ThrottleRule,
    /// Who dials.
    #[serde(default, skip_serializing_if = "is_default")]
    pub direction: DirectionRule,
    /// How what it ships is compressed.
    #[serde(default, skip_serializing_if = "is_default", with = "as_text")]
    pub compression: Compression,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What is to be asked of links from now on. What is absent stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetLink {
    /// The origin's region; absent: each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The replica's region; absent: each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// How the links are to stand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted: Option<Wanted>,
    /// When they ship.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timing: Option<TimingRule>,
    /// Who dials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<DirectionRule>,
    /// How they compress: `auto`, `zstd`, `zstd:LEVEL`, `lz4` or `none`.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "as_text::optional")]
    pub compression: Option<Compression>,
    /// Bytes per second; 0: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
    /// Entries per second; 0: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entries_per_second: Option<u64>,
    /// Percent of one processor for copies, 1 to 100; 0: the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy_cpu_percent: Option<u8>,
}

impl LinkRule {
    /// The default between two regions.
    pub fn new(from: &str, to: &str) -> LinkRule {
        LinkRule {
            from: from.to_owned(),
            to: to.to_owned(),
            wanted: Wanted::default(),
            timing: TimingRule::default(),
            throttle: ThrottleRule::default(),
            direction: DirectionRule::default(),
            compression: Compression::default(),
        }
    }

    /// Whether it asks for nothing but defaults.
    pub fn is_default(&self) -> bool {
        *self == LinkRule::new(&self.from, &self.to)
    }
}

impl TimingRule {
    /// Whether all of it lies in its ranges. Whether a cron expression makes sense is for others
    /// to say.
    fn check(&self) -> Result<(), ControlError> {
        let wrong = |what: &str| Err(ControlError::OutOfRange(what.to_owned()));
        let spans: Vec<u64> = match self {
            TimingRule::Immediate | TimingRule::Triggered { .. } => Vec::new(),
            TimingRule::Delayed { seconds } | TimingRule::Interval { seconds } => vec![*seconds],
            TimingRule::Windows { windows } => {
                if windows.is_empty() || windows.len() > WINDOWS_MAX {
                    return wrong(&format!("there must be 1 to {WINDOWS_MAX} windows"));
                }
                if windows.iter().any(|window| window.opens.len() > CRON_BYTES_MAX) {
                    return wrong(&format!("a cron expression has {CRON_BYTES_MAX} bytes at most"));
                }
                windows.iter().map(|window| window.seconds).collect()
            }
        };
        if spans.iter().any(|seconds| !(1..=SECONDS_MAX).contains(seconds)) {
            return wrong(&format!("a span of time must be 1 to {SECONDS_MAX} seconds"));
        }
        if let TimingRule::Triggered { entries, bytes } = self
            && entries.iter().chain(bytes).any(|least| *least == 0)
        {
            return wrong("what must wait must be at least 1");
        }
        Ok(())
    }
}

impl SetLink {
    fn apply(&self, rule: &mut LinkRule) -> Result<(), ControlError> {
        let unless_zero = |rate: u64| (rate > 0).then_some(rate);
        if let Some(wanted) = self.wanted {
            rule.wanted = wanted;
        }
        if let Some(timing) = &self.timing {
            timing.check()?;
            rule.timing = timing.clone();
        }
        if let Some(direction) = self.direction {
            rule.direction = direction;
        }
        if let Some(compression) = self.compression {
            rule.compression = compression;
        }
        if let Some(rate) = self.bytes_per_second {
            rule.throttle.bytes_per_second = unless_zero(rate);
        }
        if let Some(rate) = self.entries_per_second {
            rule.throttle.entries_per_second = unless_zero(rate);
        }
        if let Some(percent) = self.copy_cpu_percent {
            if percent > 100 {
                let wrong = "a share of a processor must be 0 to 100 percent";
                return Err(ControlError::OutOfRange(wrong.to_owned()));
            }
            rule.throttle.copy_cpu_percent = (percent > 0).then_some(percent);
        }
        Ok(())
    }
}

impl GlobalTable {
    /// What is asked of the link between two regions.
    pub fn link_rule(&self, from: &str, to: &str) -> LinkRule {
        let rule = self.links.iter().find(|rule| rule.from == from && rule.to == to);
        rule.cloned().unwrap_or_else(|| LinkRule::new(from, to))
    }

    /// Asks something of links. Regions that are named must hold a replica, and there must be a
    /// link that fits.
    pub(crate) fn set_link(&mut self, asked: &SetLink) -> Result<(), ControlError> {
        for region in asked.from.iter().chain(&asked.to) {
            if self.replica(region).is_none() {
                return Err(ControlError::NoReplica(region.clone()));
            }
        }
        let fitting = self.links_between(asked.from.as_deref(), asked.to.as_deref());
        if fitting.is_empty() {
            let shown = |end: &Option<String>| end.clone().unwrap_or_else(|| "any".to_owned());
            return Err(ControlError::NoLink(shown(&asked.from), shown(&asked.to)));
        }
        for (from, to) in fitting {
            asked.apply(self.link_rule_mut(&from, &to))?;
        }
        self.links.retain(|rule| !rule.is_default());
        Ok(())
    }

    /// The links of the table, from a region or all, to a region or all.
    pub fn links_between(&self, from: Option<&str>, to: Option<&str>) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for origin in &self.replicas {
            for replica in self.ships_to(&origin.region) {
                if from.is_none_or(|from| from == origin.region)
                    && to.is_none_or(|to| to == replica)
                {
                    found.push((origin.region.clone(), replica.to_owned()));
                }
            }
        }
        found
    }

    fn link_rule_mut(&mut self, from: &str, to: &str) -> &mut LinkRule {
        let known = self.links.iter().position(|rule| rule.from == from && rule.to == to);
        let place = known.unwrap_or_else(|| {
            self.links.push(LinkRule::new(from, to));
            self.links.len() - 1
        });
        &mut self.links[place]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Change;
    use crate::global_table::{Serve, Sync};

    fn table(serve: Serve) -> GlobalTable {
        GlobalTable::new("t", 1, "r1", Sync::Row, serve)
            .with_replica("r2", false, 0)
            .and_then(|table| table.with_replica("r3", false, 0))
            .unwrap()
    }

    fn set_link(from: Option<&str>, to: Option<&str>, wanted: Wanted) -> Change {
        let owned = |end: Option<&str>| end.map(str::to_owned);
        let (from, to) = (owned(from), owned(to));
        Change::SetLink(SetLink { from, to, wanted: Some(wanted), ..SetLink::default() })
    }

    #[test]
    fn pausing_a_link_is_a_new_version_once() {
        let mut table = table(Serve::PrimarySecondary);
        let version = table.version;
        let pause = set_link(Some("r1"), Some("r2"), Wanted::Paused);
        assert_eq!(table.change(&pause), Ok(true));
        assert_eq!(table.change(&pause), Ok(false));
        assert_eq!(table.version, version + 1);
        assert_eq!(table.link_rule("r1", "r2").wanted, Wanted::Paused);
        assert_eq!(table.link_rule("r1", "r3").wanted, Wanted::Running);
        let run = set_link(Some("r1"), Some("r2"), Wanted::Running);
        assert_eq!(table.change(&run), Ok(true));
        assert!(table.links.is_empty());
    }

    #[test]
    fn links_that_do_not_exist_are_refused() {
        let mut table = table(Serve::PrimarySecondary);
        let before = table.clone();
        for (from, to) in [("r2", "r1"), ("r1", "r1"), ("r1", "r9"), ("r9", "r2")] {
            let change = set_link(Some(from), Some(to), Wanted::Paused);
            assert!(table.change(&change).is_err(), "{from} {to}");
        }
        assert!(table.change(&set_link(Some("r2"), None, Wanted::Paused)).is_err());
        assert_eq!(table, before);
    }

    #[test]
    fn where_no_end_is_named_all_links_change() {
        let mut table = table(Serve::PeerToPeer);
        assert_eq!(table.change(&set_link(None, None, Wanted::Stopped)), Ok(true));
        assert_eq!(table.links.len(), 6);
        assert_eq!(table.change(&set_link(None, Some("r3"), Wanted::Running)), Ok(true));
        assert_eq!(table.link_rule("r2", "r3").wanted, Wanted::Running);
        assert_eq!(table.link_rule("r3", "r2").wanted, Wanted::Stopped);
        table.remove("r3");
        assert_eq!(table.links.len(), 2);
    }

    #[test]
    fn compression_is_set_beside_the_rest() {
        let mut table = table(Serve::PrimarySecondary);
        table.change(&set_link(None, Some("r2"), Wanted::Paused)).unwrap();
        let text = r#"{"change":"set-link","to":"r2","compression":"zstd"}"#;
        let change: Change = serde_json::from_str(text).unwrap();
        assert_eq!(table.change(&change), Ok(true));
        assert_eq!(table.change(&change), Ok(false));
        let rule = table.link_rule("r1", "r2");
        assert_eq!((rule.wanted, rule.compression), (Wanted::Paused, Compression::Zstd(3)));
        assert_eq!(table.link_rule("r1", "r3").compression, Compression::Auto);
        assert_eq!(GlobalTable::from_json(&table.to_json()).unwrap(), table);
        for bad in ["gzip", "zstd:0", "zstd:99", ""] {
            assert!(serde_json::from_str::<Change>(&text.replace("zstd", bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn timing_and_throttle_are_kept_and_set_back() {
        let mut table = table(Serve::PrimarySecondary);
        let text = r#"{"change":"set-link","to":"r2","timing":{"when":"delayed","seconds":60},
            "bytes_per_second":1000,"copy_cpu_percent":10}"#;
        let change: Change = serde_json::from_str(text).unwrap();
        assert_eq!(table.change(&change), Ok(true));
        let rule = table.link_rule("r1", "r2");
        assert_eq!(rule.timing, TimingRule::Delayed { seconds: 60 });
        assert_eq!(rule.throttle.bytes_per_second, Some(1000));
        assert_eq!(rule.throttle.copy_cpu_percent, Some(10));
        assert_eq!(GlobalTable::from_json(&table.to_json()).unwrap(), table);
        let text = r#"{"change":"set-link","timing":{"when":"immediate"},"bytes_per_second":0,
            "copy_cpu_percent":0}"#;
        let change: Change = serde_json::from_str(text).unwrap();
        assert_eq!(table.change(&change), Ok(true));
        assert!(table.links.is_empty());
    }

    #[test]
    fn what_is_out_of_range_is_refused_and_changes_nothing() {
        let mut table = table(Serve::PrimarySecondary);
        let before = table.clone();
        for wrong in [
            r#""copy_cpu_percent":101"#,
            r#""timing":{"when":"delayed","seconds":0}"#,
            r#""timing":{"when":"interval","seconds":99999999}"#,
            r#""timing":{"when":"windows","windows":[]}"#,
            r#""timing":{"when":"windows","windows":[{"opens":"0 2 * * * UTC","seconds":0}]}"#,
            r#""timing":{"when":"triggered","entries":0}"#,
        ] {
            let text = format!(r#"{{"change":"set-link","wanted":"paused",{wrong}}}"#);
            let change: Change = serde_json::from_str(&text).unwrap();
            assert!(table.change(&change).is_err(), "{wrong}");
            assert_eq!(table, before);
        }
    }

    #[test]
    fn changes_are_plain_json() {
        let text = r#"{"change":"set-link","from":"r1","to":"r2","wanted":"paused"}"#;
        let change: Change = serde_json::from_str(text).unwrap();
        assert_eq!(change, set_link(Some("r1"), Some("r2"), Wanted::Paused));
        assert_eq!(serde_json::to_string(&change).unwrap(), text);
        let unknown = r#"{"change":"set-link","from":"r1","to":"r2","wanted":"paused","x":1}"#;
        assert!(serde_json::from_str::<Change>(unknown).is_err());
    }
}
