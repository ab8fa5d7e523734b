//! What a person asks of a link where it begins, while the base of its table is away.
//!
//! A hold only ever lets a link ship less than the record says, so that the base stays the
//! authority. It ends when a newer record says something else of the link: the base has decided
//! meanwhile, or has taken the hold into the record, which it is asked for when it is back.

use serde::{Deserialize, Serialize};

use crate::global_table::{ControlError, GlobalTable};
use crate::link_rule::{LinkRule, SetLink, ThrottleRule, Wanted};

/// What is asked of one link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkHold {
    /// What the record said of the link then.
    pub over: LinkRule,
    /// It waits.
    pub paused: bool,
    /// Bytes per second at most; absent: what the record says.
    pub bytes_per_second: Option<u64>,
    /// Entries per second at most; absent: what the record says.
    pub entries_per_second: Option<u64>,
}

impl LinkHold {
    /// Nothing is asked yet beyond what the record says.
    pub fn new(over: LinkRule) -> LinkHold {
        LinkHold { over, paused: false, bytes_per_second: None, entries_per_second: None }
    }

    /// Asks for something more, or takes it back. An error: only the base can do that.
    pub fn ask(&mut self, asked: &SetLink) -> Result<(), ControlError> {
        let only_base = |what: &str| {
            let text = format!(
                "while the base of the table is away a link can be paused, throttled and let go \
                 again where it begins; {what} must wait until the base is back"
            );
            Err(ControlError::OutOfRange(text))
        };
        let is_other = asked.timing.is_some()
            || asked.direction.is_some()
            || asked.compression.is_some()
            || asked.copy_cpu_percent.is_some();
        if is_other {
            return only_base("timing, direction, compression and the share of copies");
        }
        match asked.wanted {
            None => {}
            Some(Wanted::Stopped) => return only_base("stopping"),
            Some(Wanted::Paused) => self.paused = true,
            Some(Wanted::Running) if self.over.wanted != Wanted::Running => {
                return only_base("what the base has paused or stopped");
            }
            Some(Wanted::Running) => self.paused = false,
        }
        let unless_zero = |rate: u64| (rate > 0).then_some(rate);
        if let Some(rate) = asked.bytes_per_second {
            self.bytes_per_second = unless_zero(rate);
        }
        if let Some(rate) = asked.entries_per_second {
            self.entries_per_second = unless_zero(rate);
        }
        Ok(())
    }

    /// Whether it asks for nothing beyond what the record says.
    pub fn is_empty(&self) -> bool {
        self.held(self.over.clone()) == self.over
    }

    /// Whether the record of the table says something else of the link by now.
    pub fn is_over(&self, table: &GlobalTable) -> bool {
        table.link_rule(&self.over.from, &self.over.to) != self.over
    }

    /// What the link obeys, of what the record says.
    pub fn held(&self, rule: LinkRule) -> LinkRule {
        let least = |asked: Option<u64>, said: Option<u64>| match (asked, said) {
            (Some(asked), Some(said)) => Some(asked.min(said)),
            (asked, said) => asked.or(said),
        };
        let throttle = ThrottleRule {
            bytes_per_second: least(self.bytes_per_second, rule.throttle.bytes_per_second),
            entries_per_second: least(self.entries_per_second, rule.throttle.entries_per_second),
            ..rule.throttle
        };
        let is_paused = self.paused && rule.wanted == Wanted::Running;
        let wanted = if is_paused { Wanted::Paused } else { rule.wanted };
        LinkRule { wanted, throttle, ..rule }
    }

    /// What the base is asked for when it is back.
    pub fn to_base(&self) -> SetLink {
        let held = self.held(self.over.clone());
        SetLink {
            from: Some(held.from),
            to: Some(held.to),
            wanted: self.paused.then_some(held.wanted),
            bytes_per_second: self.bytes_per_second.and(held.throttle.bytes_per_second),
            entries_per_second: self.entries_per_second.and(held.throttle.entries_per_second),
            ..SetLink::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Change;
    use crate::global_table::{Serve, Sync};
    use crate::link_rule::TimingRule;

    fn table() -> GlobalTable {
        GlobalTable::new("t", 1, "r1", Sync::Row, Serve::PeerToPeer)
            .with_replica("r2", false, 0)
            .and_then(|table| table.with_replica("r3", false, 0))
            .unwrap()
    }

    fn wanted(wanted: Wanted) -> SetLink {
        SetLink { wanted: Some(wanted), ..SetLink::default() }
    }

    fn hold(table: &GlobalTable) -> LinkHold {
        LinkHold::new(table.link_rule("r2", "r3"))
    }

    #[test]
    fn a_hold_lets_a_link_ship_less_and_never_more() {
        let mut table = table();
        let slow = SetLink { bytes_per_second: Some(1000), ..SetLink::default() };
        table.change(&Change::SetLink(slow)).unwrap();
        let mut hold = hold(&table);
        let asked = SetLink { bytes_per_second: Some(5000), ..wanted(Wanted::Paused) };
        hold.ask(&asked).unwrap();
        let held = hold.held(table.link_rule("r2", "r3"));
        assert_eq!((held.wanted, held.throttle.bytes_per_second), (Wanted::Paused, Some(1000)));
        let slower = SetLink { bytes_per_second: Some(10), ..SetLink::default() };
        hold.ask(&slower).unwrap();
        let held = hold.held(table.link_rule("r2", "r3"));
        assert_eq!(held.throttle.bytes_per_second, Some(10));
        hold.ask(&SetLink { bytes_per_second: Some(0), ..wanted(Wanted::Running) }).unwrap();
        assert!(hold.is_empty());
        assert_eq!(hold.held(table.link_rule("r2", "r3")), table.link_rule("r2", "r3"));
    }

    #[test]
    fn what_the_record_says_already_is_not_asked() {
        let mut table = table();
        let slow = SetLink { entries_per_second: Some(10), ..wanted(Wanted::Paused) };
        table.change(&Change::SetLink(slow)).unwrap();
        let mut hold = hold(&table);
        hold.ask(&wanted(Wanted::Paused)).unwrap();
        hold.ask(&SetLink { entries_per_second: Some(50), ..SetLink::default() }).unwrap();
        assert!(hold.is_empty(), "the base would be asked for ever and change nothing");
        assert_eq!(table.change(&Change::SetLink(hold.to_base())), Ok(false));
        hold.ask(&SetLink { entries_per_second: Some(9), ..SetLink::default() }).unwrap();
        assert!(!hold.is_empty());
    }

    #[test]
    fn what_only_the_base_can_do_is_refused() {
        let mut table = table();
        let refused = |table: &GlobalTable, asked: &SetLink| {
            let before = hold(table);
            let mut hold = before.clone();
            assert!(hold.ask(asked).is_err(), "{asked:?}");
            assert_eq!(hold, before);
        };
        refused(&table, &wanted(Wanted::Stopped));
        let late = TimingRule::Interval { seconds: 5 };
        refused(&table, &SetLink { timing: Some(late), ..wanted(Wanted::Paused) });
        table.change(&Change::SetLink(wanted(Wanted::Paused))).unwrap();
        refused(&table, &wanted(Wanted::Running));
    }

    #[test]
    fn the_base_takes_a_hold_or_has_decided_otherwise() {
        let mut table = table();
        let mut hold = hold(&table);
        hold.ask(&SetLink { entries_per_second: Some(7), ..wanted(Wanted::Paused) }).unwrap();
        // Of other links anything may be decided.
        let other = SetLink { from: Some("r1".into()), ..wanted(Wanted::Paused) };
        table.change(&Change::SetLink(other)).unwrap();
        assert!(!hold.is_over(&table));
        let mut taken = table.clone();
        assert_eq!(taken.change(&Change::SetLink(hold.to_base())), Ok(true));
        assert!(hold.is_over(&taken));
        assert_eq!(taken.link_rule("r2", "r3"), hold.held(table.link_rule("r2", "r3")));
        assert_eq!(taken.link_rule("r3", "r2"), table.link_rule("r3", "r2"));
        table.change(&Change::SetLink(wanted(Wanted::Stopped))).unwrap();
        assert!(hold.is_over(&table));
        assert_eq!(hold.held(table.link_rule("r2", "r3")).wanted, Wanted::Stopped);
    }
}
