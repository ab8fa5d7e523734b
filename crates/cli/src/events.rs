//! `isthmus events`: what regions noticed: replicas that differ, disks that rot.
//!
//! What must hold: the newest comes first, or last where they are followed; a region that does not
//! answer does not hide the others; text that came from elsewhere cannot steer a terminal.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use isthmus_protocol::date::format_date;
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

use crate::error::CliError;
use crate::output;
use crate::target::{Place, TargetArgs};
use crate::up::StopSignals;

/// How often regions are asked, with `--follow`.
const POLL: Duration = Duration::from_secs(1);

/// Arguments of `isthmus events`.
#[derive(Args, Debug)]
#[command(after_help = "\
All regions that `isthmus up` runs are asked, or the one that is named. A region keeps its last
thousand events in memory, since it started.

Examples:
  isthmus events
  isthmus events --table notes --limit 20
  isthmus events --follow --json          one object per line, until Ctrl-C")]
pub(crate) struct EventsArgs {
    /// Events of this table only
    #[arg(long, value_name = "NAME")]
    table: Option<String>,
    /// Events of this kind only, like replicas-differ
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// How many to print
    #[arg(long, value_name = "N", default_value_t = 100,
        value_parser = clap::value_parser!(u64).range(1..=10_000))]
    limit: u64,
    /// Go on with new ones until Ctrl-C
    #[arg(long)]
    follow: bool,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    events: Vec<Event>,
}

/// One event. What is not known here is kept.
#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Event {
    #[serde(default)]
    at_ms: i64,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    table: Option<String>,
    #[serde(default)]
    text: String,
    #[serde(flatten)]
    more: Map<String, Json>,
}

/// An event and the region that told it.
pub(crate) struct Told {
    region: String,
    event: Event,
}

impl Told {
    /// As it is shown in a table: when, where, what kind, which table, what.
    pub(crate) fn cells(&self) -> Vec<String> {
        row(&self.region, &self.event)
    }
}

/// The newest events of all regions that answer, newest first.
pub(crate) async fn newest(places: &[Place], limit: usize) -> Vec<Told> {
    let found = ask(places, &mut Seen::default(), false).await.unwrap_or_default();
    let mut all: Vec<Told> =
        found.into_iter().map(|(region, event)| Told { region, event }).collect();
    all.sort_by_key(|told| std::cmp::Reverse(told.event.at_ms));
    all.truncate(limit);
    all
}

/// Prints events.
pub(crate) async fn run(args: EventsArgs) -> Result<(), CliError> {
    let places = args.target.places()?;
    let mut stop = StopSignals::new()?;
    let mut seen = Seen::default();
    let mut first = true;
    loop {
        let mut events = ask(&places, &mut seen, first).await?;
        events.retain(|(_, event)| {
            args.table.as_deref().is_none_or(|table| event.table.as_deref() == Some(table))
                && args.kind.as_deref().is_none_or(|kind| event.kind == kind)
        });
        events.sort_by_key(|(_, event)| std::cmp::Reverse(event.at_ms));
        if first {
            events.truncate(usize::try_from(args.limit).unwrap_or(usize::MAX));
        }
        if !args.follow {
            return print(&events, args.target.json);
        }
        events.reverse();
        events.iter().try_for_each(|(region, event)| {
            output::line(&match args.target.json {
                true => event_json(region, event).to_string(),
                false => line(region, event),
            })
        })?;
        first = false;
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            () = stop.next() => return Ok(()),
        }
    }
}

/// The newest events that were printed of each region: those of the last moment.
#[derive(Default)]
struct Seen(BTreeMap<String, Vec<Event>>);

impl Seen {
    /// What is new in a region's answer, whose events come newest first.
    fn new_of(&mut self, region: &str, events: Vec<Event>) -> Vec<Event> {
        let known = self.0.entry(region.to_owned()).or_default();
        let since = known.first().map_or(i64::MIN, |event| event.at_ms);
        let new: Vec<Event> = events
            .iter()
            .filter(|event| event.at_ms >= since && !known.contains(event))
            .cloned()
            .collect();
        let newest = events.iter().map(|event| event.at_ms).max().unwrap_or(since);
        if newest >= since {
            *known = events.into_iter().filter(|event| event.at_ms == newest).collect();
        }
        new
    }
}

async fn ask(
    places: &[Place],
    seen: &mut Seen,
    first: bool,
) -> Result<Vec<(String, Event)>, CliError> {
    let mut all = Vec::new();
    let mut silent = Vec::new();
    for place in places {
        match place.admin_client()?.get_json::<Answer>("/v1/events").await {
            Ok(answer) => {
                let new = seen.new_of(place.shown(), answer.events);
                all.extend(new.into_iter().map(|event| (place.shown().to_owned(), event)));
            }
            Err(error) => silent.push(CliError::from(error).context(place.shown())),
        }
    }
    if first
        && silent.len() == places.len()
        && let Some(error) = silent.pop()
    {
        return Err(error);
    }
    if first {
        for error in &silent {
            eprintln!("no answer: {}", output::plain(&error.message));
        }
    }
    Ok(all)
}

fn print(events: &[(String, Event)], json: bool) -> Result<(), CliError> {
    if json {
        let events: Vec<Json> =
            events.iter().map(|(region, event)| event_json(region, event)).collect();
        return output::json(&json!({ "events": events }));
    }
    if events.is_empty() {
        eprintln!("no events");
        return Ok(());
    }
    let rows: Vec<Vec<String>> = events.iter().map(|(region, event)| row(region, event)).collect();
    output::line(&output::table_text(&["AT", "REGION", "KIND", "TABLE", "EVENT"], &rows))
}

fn row(region: &str, event: &Event) -> Vec<String> {
    vec![
        format_date(event.at_ms),
        output::plain(region),
        output::plain(&event.kind),
        event.table.as_deref().map_or_else(|| "-".to_owned(), output::plain),
        output::plain(&event.text),
    ]
}

fn line(region: &str, event: &Event) -> String {
    row(region, event).join("  ")
}

fn event_json(region: &str, event: &Event) -> Json {
    let mut told = Map::new();
    told.insert("at_ms".into(), event.at_ms.into());
    told.insert("region".into(), region.into());
    told.insert("kind".into(), event.kind.clone().into());
    told.insert("table".into(), event.table.clone().into());
    told.insert("text".into(), event.text.clone().into());
    for (name, value) in &event.more {
        told.entry(name.clone()).or_insert_with(|| value.clone());
    }
    Json::Object(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(at_ms: i64, text: &str) -> Event {
        Event {
            at_ms,
            kind: "replicas-differ".into(),
            table: Some("notes".into()),
            text: text.into(),
            more: Map::new(),
        }
    }

    #[test]
    fn followed_events_are_told_once() {
        let mut seen = Seen::default();
        let one = vec![event(5, "b"), event(5, "a"), event(3, "x")];
        assert_eq!(seen.new_of("r1", one.clone()).len(), 3);
        assert!(seen.new_of("r1", one.clone()).is_empty());
        let more = vec![event(7, "d"), event(5, "c"), event(5, "b"), event(5, "a")];
        let new = seen.new_of("r1", more.clone());
        assert_eq!(new, [event(7, "d"), event(5, "c")]);
        assert!(seen.new_of("r1", more).is_empty());
        assert_eq!(seen.new_of("r2", one).len(), 3, "each region has its own");
    }

    #[test]
    fn an_event_is_a_line_that_steers_nothing() {
        let text = line("r1", &event(1_700_000_000_000, "r2 \u{1b}[2J differs"));
        assert!(text.starts_with("2023-11-14T22:13:20.000Z  r1  replicas-differ  notes"), "{text}");
        assert!(!text.contains('\u{1b}'));
    }
}
