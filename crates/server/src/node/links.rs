//! What people ask of links and what they are told of them.
//!
//! The record of a global table says what is asked of each link; here it is put as the replication
//! room takes it. Each change of state of a link that leaves this region is an event.

mod holds;
mod partitions;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use isthmus_control::change::Change;
use isthmus_control::global_table::GlobalTable;
use isthmus_control::link_rule::{
    DirectionRule, LinkRule, SetLink, TimingRule, Wanted, WindowRule,
};
use isthmus_protocol::error_code::ErrorCode;
use isthmus_replication::link::State;
use isthmus_replication::ship::StateChange;
use isthmus_replication::terms::{Direction, Terms, Wish};
use isthmus_replication::throttle::Throttle;
use isthmus_replication::timing::{Timing, Window};
use serde::Deserialize;
use serde_json::{Value as Json, json};

pub(super) use self::holds::Holds;
pub(super) use self::partitions::is_of_links;
use super::Node;
use super::events::{Event, EventKind};
use super::global_tables::no_global_table;
use crate::api_error::ApiError;
use crate::peer::call::{Question, Trigger};

/// Which links are to ship at once: those of a table, or the ones of them that begin or end there.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TriggerAsked {
    /// The table.
    pub table: String,
    /// The region that they leave; `None`: each.
    pub from: Option<String>,
    /// The region that they end in; `None`: each.
    pub to: Option<String>,
}

impl TriggerAsked {
    /// What the JSON of a request says.
    pub fn read(body: &[u8]) -> Result<TriggerAsked, ApiError> {
        serde_json::from_slice(body)
            .map_err(|error| ApiError::invalid(format!("The request cannot be read: {error}.")))
    }
}

/// More changes of one second, such as when a region is lost, are told together.
const TOLD_ONE_BY_ONE_MAX: usize = 32;

/// What is asked of a link, as the replication room takes it; an error tells what of it makes no
/// sense.
fn terms(rule: &LinkRule) -> Result<Terms, String> {
    Ok(Terms {
        wish: match rule.wanted {
            Wanted::Running => Wish::Run,
            Wanted::Paused => Wish::Pause,
            Wanted::Stopped => Wish::Stop,
        },
        timing: timing(&rule.timing)?,
        direction: match rule.direction {
            DirectionRule::Push => Direction::Push,
            DirectionRule::Pull => Direction::Pull,
        },
        compression: rule.compression,
        throttle: Throttle {
            bytes_per_second: rule.throttle.bytes_per_second,
            entries_per_second: rule.throttle.entries_per_second,
            copy_cpu_percent: rule.throttle.copy_cpu_percent,
        },
    })
}

fn timing(rule: &TimingRule) -> Result<Timing, String> {
    Ok(match rule {
        TimingRule::Immediate => Timing::Immediate,
        TimingRule::Delayed { seconds } => Timing::Delayed(Duration::from_secs(*seconds)),
        TimingRule::Interval { seconds } => Timing::Interval(Duration::from_secs(*seconds)),
        TimingRule::Windows { windows } => {
            let parse = |window: &WindowRule| {
                Window::parse(&window.opens, Duration::from_secs(window.seconds))
            };
            Timing::Windows(windows.iter().map(parse).collect::<Result<_, _>>()?)
        }
        TimingRule::Triggered { entries, bytes } => {
            Timing::Triggered { entries: *entries, bytes: *bytes }
        }
    })
}

/// Checks what only other rooms can tell of a change: whether windows make sense, and whether the
/// log keeps entries, for so many hours, until a delay is over.
pub(super) fn check(change: &Change, keep_hours: u32) -> Result<(), ApiError> {
    match change {
        Change::SetLink(SetLink { timing: Some(TimingRule::Delayed { seconds }), .. })
            if *seconds >= u64::from(keep_hours) * 3600 =>
        {
            Err(ApiError::invalid(format!(
                "A delay of {seconds} s is not possible: the log is kept for {keep_hours} hours, \
                 and what waits longer is cut. Give a shorter delay, or raise log.keep_hours in \
                 all regions."
            )))
        }
        Change::SetLink(SetLink { timing: Some(rule), .. }) => timing(rule)
            .map(drop)
            .map_err(|error| ApiError::invalid(format!("The timing makes no sense: {error}."))),
        Change::SetLink(_)
        | Change::SetEdges(_)
        | Change::BindExtract(_)
        | Change::SetMode(_)
        | Change::Switchover(_)
        | Change::SetBase(_)
        | Change::SetWrites(_)
        | Change::SetFailover(_) => Ok(()),
    }
}

/// The timing of a link in words.
pub(super) fn timing_text(rule: &TimingRule) -> String {
    match rule {
        TimingRule::Immediate => "immediate".to_owned(),
        TimingRule::Delayed { seconds } => format!("delayed by {seconds} s"),
        TimingRule::Interval { seconds } => format!("every {seconds} s"),
        TimingRule::Windows { windows } => {
            let one = |window: &WindowRule| format!("{} for {} s", window.opens, window.seconds);
            format!("windows {}", windows.iter().map(one).collect::<Vec<_>>().join(", "))
        }
        TimingRule::Triggered { entries, bytes } => {
            let mut text = "triggered".to_owned();
            if let Some(entries) = entries {
                text += &format!(" at {entries} entries");
            }
            if let Some(bytes) = bytes {
                text += &format!(" at {bytes} bytes");
            }
            text
        }
    }
}

impl Node {
    /// What the link from here to a region obeys.
    pub(super) fn terms_of(&self, table: &GlobalTable, region: &str) -> Terms {
        let rule = self.obeyed_rule(table, region);
        let terms = terms(&rule).unwrap_or_else(|error| {
            // The base has checked it; a newer one may know of more.
            tracing::error!(table = %table.name, region, error, "what is asked of a link is wrong");
            Terms::default()
        });
        match self.others.get(region).is_some_and(|other| other.is_dialled()) {
            true => terms,
            // Who cannot be dialled dials, whatever is asked.
            false => Terms { direction: Direction::Pull, ..terms },
        }
    }

    /// Lets links ship what waits, whatever their timing, here and in other regions.
    pub async fn trigger_links(&self, asked: &TriggerAsked) -> Result<Json, ApiError> {
        if let Some(record) = self.distribution(&asked.table) {
            return self.trigger_links_of_partitions(&record, asked).await;
        }
        self.trigger_links_of_one(asked).await
    }

    async fn trigger_links_of_one(&self, asked: &TriggerAsked) -> Result<Json, ApiError> {
        let (_, record) = self.record_named(&asked.table).ok_or_else(no_global_table)?;
        let links = record.table.links_between(asked.from.as_deref(), asked.to.as_deref());
        let mut triggered = 0;
        for origin in links.iter().map(|(from, _)| from).collect::<BTreeSet<_>>() {
            let trigger = Trigger { table: asked.table.clone(), to: asked.to.clone() };
            triggered += self.trigger_from(origin, trigger).await?;
        }
        match triggered {
            0 => Err(ApiError::new(ErrorCode::ObjectNotExist, "There is no such link.")),
            links => Ok(json!({ "triggered": links })),
        }
    }

    /// The same for the links that leave a region; tells how many.
    async fn trigger_from(&self, origin: &str, trigger: Trigger) -> Result<u64, ApiError> {
        let told = match origin == self.config.region.name {
            true => self.on_trigger(&trigger)?,
            false => self.ask(origin, Question::Trigger(trigger)).await?,
        };
        Ok(std::str::from_utf8(&told).ok().and_then(|n| n.parse().ok()).unwrap_or(0))
    }

    /// The same for the links that leave this region; tells how many.
    pub(super) fn on_trigger(&self, trigger: &Trigger) -> Result<Bytes, ApiError> {
        let (id, record) = self.record_named(&trigger.table).ok_or_else(no_global_table)?;
        let own = &self.config.region.name;
        let links = record.table.links_between(Some(own), trigger.to.as_deref());
        let Some(partition) = self.partition_of(id) else { return Err(no_global_table()) };
        // One that fell out of the log waits to be asked for the copy that heals it.
        let waits_to_be_asked = |to: &str| {
            let report = self.others.get(to).and_then(|other| other.links().report(partition));
            report.is_some_and(|report| report.state == State::Gap)
        };
        let is_delayed =
            |to: &str| matches!(record.table.link_rule(own, to).timing, TimingRule::Delayed { .. });
        let is_refused = |to: &str| is_delayed(to) && !waits_to_be_asked(to);
        if let Some((_, to)) = links.iter().find(|(_, to)| is_refused(to)) {
            return Err(ApiError::invalid(format!(
                "The link from {own} to {to} is delayed on purpose; set its timing instead."
            )));
        }
        let others = links.iter().filter_map(|(_, to)| self.others.get(to));
        let triggered = others
            .filter(|other| {
                let is_there = other.links().trigger(partition);
                other.wake();
                is_there
            })
            .count();
        Ok(triggered.to_string().into())
    }

    /// Makes events of what links have come into another state.
    pub(super) fn tell_link_changes(&self) {
        for (region, other) in &self.others {
            let changes = other.links().take_changes();
            for change in &changes {
                let table = self.table_of(change.partition);
                let throttle = table.map(|table| self.throttle_to(&table, region));
                let throttled = throttle.is_some_and(|asked| asked != Throttle::default());
                self.copies.changed(&self.store, region, change, throttled);
            }
            if changes.len() <= TOLD_ONE_BY_ONE_MAX {
                changes.iter().for_each(|change| self.tell_link_change(region, change));
                continue;
            }
            let mut alike: BTreeMap<(&str, &str), Vec<&StateChange>> = BTreeMap::new();
            for change in &changes {
                alike.entry((change.to.as_str(), &change.reason)).or_default().push(change);
            }
            for together in alike.values() {
                match together[..] {
                    [change] => self.tell_link_change(region, change),
                    _ => self.tell_together(region, together),
                }
            }
        }
    }

    fn tell_link_change(&self, region: &str, change: &StateChange) {
        let table = self.table_of(change.partition);
        let table = table.map_or_else(String::new, |table| table.name().as_str().to_owned());
        let (own, to) = (&self.config.region.name, change.to.as_str());
        let mut text = format!("link from {own} to {region} is {to}");
        if !change.reason.is_empty() {
            text += &format!(": {}", change.reason);
        }
        let event = Event {
            at_ms: change.at_millis,
            kind: EventKind::LinkState,
            table,
            text,
            detail: json!({
                "from": own,
                "to": region,
                "partition": change.partition.0,
                "state": to,
                "before": change.from.as_str(),
                "reason": change.reason,
            }),
        };
        self.verification.events.push(event, &self.store);
    }

    fn tell_together(&self, region: &str, changes: &[&StateChange]) {
        let Some(last) = changes.last() else { return };
        let (own, to, count) = (&self.config.region.name, last.to.as_str(), changes.len());
        let event = Event {
            at_ms: last.at_millis,
            kind: EventKind::LinkState,
            table: String::new(),
            text: format!("{count} links from {own} to {region} are {to}: {}", last.reason),
            detail: json!({
                "from": own,
                "to": region,
                "links": count,
                "state": to,
                "reason": last.reason,
            }),
        };
        self.verification.events.push(event, &self.store);
    }
}
