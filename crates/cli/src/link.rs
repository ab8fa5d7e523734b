//! `isthmus link`: how the links of a global table stand, and what is asked of them.
//!
//! What must hold: the commands work against any region; what is asked is in the record of the
//! global table when the command ends, outlives restarts, and is obeyed by each region within a
//! second of hearing it; without --from and --to all links of the table are meant.

use std::collections::BTreeMap;

use clap::{Args, Subcommand, ValueEnum};
use isthmus_connectors::admin::Admin;
use isthmus_model::compression::Compression;
use isthmus_server::status::LinkStatus;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use crate::error::CliError;
use crate::global_table::record_path;
use crate::output;
use crate::status;
use crate::target::TargetArgs;
use crate::units;

/// Arguments of `isthmus link`.
#[derive(Args, Debug)]
#[command(after_help = "\
A link carries the entries of a table from one region to another. A paused one waits and its log
is kept, within the budget of [log]; for a stopped one nothing is kept, and a copy of what differs
heals it when it runs again.

The base of the table decides. While it is away, links that leave other regions can be paused,
throttled and let go again; the base is asked to take that over when it is back.

Examples:
  isthmus link list --table notes
  isthmus link pause --table notes --from r1 --to r2
  isthmus link resume --table notes                 all links of the table
  isthmus link stop --table notes --to r3
  isthmus link set --table notes --to r3 --timing delayed --by 1h
  isthmus link set --table notes --timing interval --every 30s
  isthmus link set --table notes --to r2 --timing windows \\
      --window '0 2 * * * Europe/Berlin for 2h' --window '0 12 * * 6,0 +00:00 for 4h'
  isthmus link set --table notes --to r2 --timing triggered --entries 1000 --bytes 10MiB
  isthmus link set --table notes --timing immediate --bytes-per-second 10MiB
  isthmus link set --table notes --bytes-per-second 0 --copy-cpu-percent 10
  isthmus link set --table notes --from r1 --to r2 --direction pull
  isthmus link set --table notes --to r3 --compression zstd:9
  isthmus link trigger --table notes --from r1 --to r2")]
pub(crate) struct LinkArgs {
    #[command(subcommand)]
    command: LinkCommand,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
}

#[derive(Subcommand, Debug)]
enum LinkCommand {
    /// Show links, as `status` tells them
    List {
        /// Those of this table only
        #[arg(long, value_name = "NAME")]
        table: Option<String>,
    },
    /// Let links wait; their logs are kept
    Pause(Links),
    /// Let links ship that were paused or stopped
    #[command(visible_alias = "start")]
    Resume(Links),
    /// Put links out of use; nothing is kept for them
    Stop(Links),
    /// Say when and how fast links ship; what is not given stays as it is
    Set(SetArgs),
    /// Ship now what waits, whatever the timing
    Trigger(Links),
}

/// Which links.
#[derive(Args, Debug)]
struct Links {
    /// The table
    #[arg(long, value_name = "NAME")]
    table: String,
    /// The region they leave [default: each]
    #[arg(long, value_name = "REGION")]
    from: Option<String>,
    /// The region they end in [default: each]
    #[arg(long, value_name = "REGION")]
    to: Option<String>,
}

/// Who dials.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Direction {
    /// The region that a link leaves
    Push,
    /// The region that it ends in
    Pull,
}

/// When a link ships.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum When {
    /// Entries as they come
    Immediate,
    /// An entry when it is as old as --by says
    Delayed,
    /// What there is, once in each --every
    Interval,
    /// While a --window is open
    Windows,
    /// When `link trigger` asks for it, or --entries or --bytes wait
    Triggered,
}

#[derive(Args, Debug)]
struct SetArgs {
    #[command(flatten)]
    links: Links,
    /// When they ship
    #[arg(long, value_name = "WHEN")]
    timing: Option<When>,
    /// How old an entry must be, with --timing delayed, such as 90s, 5m, 2h or 1d
    #[arg(long, value_name = "TIME", value_parser = units::seconds)]
    by: Option<u64>,
    /// The interval, with --timing interval; counted from 1970
    #[arg(long, value_name = "TIME", value_parser = units::seconds)]
    every: Option<u64>,
    /// `CRON ZONE for TIME`, with --timing windows: minute, hour, day, month and day of the week
    /// when it opens, a time zone such as Europe/Berlin or +01:00, and how long it is open
    #[arg(long, value_name = "WINDOW")]
    window: Vec<String>,
    /// Ship when so many entries wait, with --timing triggered
    #[arg(long, value_name = "N")]
    entries: Option<u64>,
    /// Ship when so many bytes wait, with --timing triggered, such as 10MiB
    #[arg(long, value_name = "SIZE", value_parser = units::bytes)]
    bytes: Option<u64>,
    /// Who dials for them
    #[arg(long, value_name = "WHO")]
    direction: Option<Direction>,
    /// How they compress: auto, zstd, zstd:LEVEL, lz4 or none
    #[arg(long, value_name = "METHOD")]
    compression: Option<Compression>,
    /// At most so much per second, before compression; 0: any
    #[arg(long, value_name = "SIZE", value_parser = units::bytes)]
    bytes_per_second: Option<u64>,
    /// At most so many entries, or rows of a copy, per second; 0: any
    #[arg(long, value_name = "N")]
    entries_per_second: Option<u64>,
    /// Percent of one processor that a copy may take at its origin; 0: the default, 25, and 75
    /// while it is found what a replica lacks that has most rows
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=100))]
    copy_cpu_percent: Option<u8>,
}

impl SetArgs {
    fn wish(&self) -> Result<Json, CliError> {
        let mut wish = json!({});
        if let Some(timing) = self.timing_json()? {
            wish["timing"] = timing;
        }
        match self.direction {
            None => {}
            Some(Direction::Push) => wish["direction"] = "push".into(),
            Some(Direction::Pull) => wish["direction"] = "pull".into(),
        }
        if let Some(compression) = self.compression {
            wish["compression"] = compression.to_string().into();
        }
        let rates = [
            ("bytes_per_second", self.bytes_per_second),
            ("entries_per_second", self.entries_per_second),
            ("copy_cpu_percent", self.copy_cpu_percent.map(u64::from)),
        ];
        for (name, rate) in rates {
            if let Some(rate) = rate {
                wish[name] = rate.into();
            }
        }
        match wish.as_object().is_some_and(serde_json::Map::is_empty) {
            true => Err(CliError::usage("nothing to change is given")
                .hint("give --timing, --bytes-per-second or another; --help names all")),
            false => Ok(wish),
        }
    }

    fn timing_json(&self) -> Result<Option<Json>, CliError> {
        let given = [
            ("--by", self.by.is_some(), matches!(self.timing, Some(When::Delayed))),
            ("--every", self.every.is_some(), matches!(self.timing, Some(When::Interval))),
            ("--window", !self.window.is_empty(), matches!(self.timing, Some(When::Windows))),
            ("--entries", self.entries.is_some(), matches!(self.timing, Some(When::Triggered))),
            ("--bytes", self.bytes.is_some(), matches!(self.timing, Some(When::Triggered))),
        ];
        for (name, is_given, fits) in given {
            if is_given && !fits {
                return Err(CliError::usage(format!("{name} does not go with that --timing")));
            }
        }
        let needed = |value: Option<u64>, name: &str| {
            value.ok_or_else(|| CliError::usage(format!("{name} is missing")))
        };
        Ok(Some(match self.timing {
            None => return Ok(None),
            Some(When::Immediate) => json!({ "when": "immediate" }),
            Some(When::Delayed) => {
                json!({ "when": "delayed", "seconds": needed(self.by, "--by")? })
            }
            Some(When::Interval) => {
                json!({ "when": "interval", "seconds": needed(self.every, "--every")? })
            }
            Some(When::Windows) => {
                let windows: Result<Vec<Json>, CliError> =
                    self.window.iter().map(|text| window_json(text)).collect();
                json!({ "when": "windows", "windows": windows? })
            }
            Some(When::Triggered) => {
                let mut timing = json!({ "when": "triggered" });
                for (name, least) in [("entries", self.entries), ("bytes", self.bytes)] {
                    if let Some(least) = least {
                        timing[name] = least.into();
                    }
                }
                timing
            }
        }))
    }
}

fn window_json(text: &str) -> Result<Json, CliError> {
    let wrong = || {
        CliError::usage(format!("{text:?} is no window"))
            .hint("write it like '0 2 * * * Europe/Berlin for 2h'")
    };
    let (opens, lasts) = text.rsplit_once(" for ").ok_or_else(wrong)?;
    let seconds = units::seconds(lasts.trim()).map_err(|_| wrong())?;
    Ok(json!({ "opens": opens.trim(), "seconds": seconds }))
}

/// What came of a change.
#[derive(Debug, Deserialize)]
struct Changed {
    version: u64,
    changed: bool,
    /// The regions that hold links, since the base is away.
    #[serde(default)]
    held_in: Vec<String>,
    /// Those that do not, and why.
    #[serde(default)]
    not_held_in: BTreeMap<String, String>,
    #[serde(default)]
    base: String,
}

/// Runs one of the commands.
pub(crate) async fn run(args: LinkArgs) -> Result<(), CliError> {
    let target = &args.target;
    match args.command {
        LinkCommand::List { table } => list(target, table.as_deref()).await,
        LinkCommand::Pause(links) => set(target, &links, json!({ "wanted": "paused" })).await,
        LinkCommand::Resume(links) => set(target, &links, json!({ "wanted": "running" })).await,
        LinkCommand::Stop(links) => set(target, &links, json!({ "wanted": "stopped" })).await,
        LinkCommand::Set(args) => set(target, &args.links, args.wish()?).await,
        LinkCommand::Trigger(links) => trigger(target, &links).await,
    }
}

async fn list(target: &TargetArgs, table: Option<&str>) -> Result<(), CliError> {
    let places = target.places()?;
    let told = status::ask(&places, table).await?;
    let links = status::links(&told);
    if links.is_empty() {
        status::silent_error(told)?;
        return match target.json {
            true => output::json(&json!({ "links": [] })),
            false => output::line("no links"),
        };
    }
    if target.json {
        let links: Vec<&LinkStatus> = links.iter().map(|(link, _)| *link).collect();
        return output::json(&json!({ "links": links }));
    }
    output::line(&status::links_text(&links))
}

/// Asks something of links. `wish` has what is to change.
async fn set(target: &TargetArgs, links: &Links, mut wish: Json) -> Result<(), CliError> {
    wish["change"] = "set-link".into();
    for (end, region) in [("from", &links.from), ("to", &links.to)] {
        if let Some(region) = region {
            wish[end] = region.as_str().into();
        }
    }
    let done = change(&target.answering(&[]).await?.admin_client()?, &links.table, &wish).await?;
    if target.json {
        return output::json(&json!({
            "table": links.table,
            "version": done.version,
            "changed": done.changed,
            "held_in": done.held_in,
            "not_held_in": done.not_held_in,
        }));
    }
    let name = output::plain(&links.table);
    if !done.held_in.is_empty() {
        for (region, why) in &done.not_held_in {
            eprintln!("not in {}: {}", output::plain(region), output::plain(why));
        }
        return output::line(&format!(
            "held in {}, since base {} is away; it is asked to take that into the record of {name} \
             when it is back",
            output::plain(&done.held_in.join(", ")),
            output::plain(&done.base)
        ));
    }
    output::line(&match done.changed {
        true => format!("asked; version {} of the record of {name}", done.version),
        false => format!("it is so already in version {} of the record of {name}", done.version),
    })
}

async fn change(admin: &Admin, table: &str, change: &Json) -> Result<Changed, CliError> {
    let path = format!("{}/changes", record_path(table));
    Ok(admin.post_json(&path, change).await?)
}

/// Lets links ship now what waits.
async fn trigger(target: &TargetArgs, links: &Links) -> Result<(), CliError> {
    let admin = target.answering(&[]).await?.admin_client()?;
    let wish = json!({ "table": links.table, "from": links.from, "to": links.to });
    let done: Json = admin.post_json("/v1/links/trigger", &wish).await?;
    if target.json {
        return output::json(&done);
    }
    output::line(&format!("{} links ship what waits", done["triggered"]))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: LinkArgs,
    }

    fn wish(words: &str) -> Result<Json, String> {
        let words = ["link", "set", "--table", "t"].into_iter().chain(words.split_whitespace());
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        match line.args.command {
            LinkCommand::Set(set) => set.wish().map_err(|error| error.message),
            _ => Err("another command".to_owned()),
        }
    }

    #[test]
    fn timing_and_rates_are_asked_as_the_api_takes_them() {
        assert_eq!(
            wish("--timing delayed --by 2h --bytes-per-second 1KiB"),
            Ok(json!({"timing": {"when": "delayed", "seconds": 7200}, "bytes_per_second": 1024}))
        );
        assert_eq!(
            wish("--timing triggered --entries 5"),
            Ok(json!({"timing": {"when": "triggered", "entries": 5}}))
        );
        assert_eq!(
            window_json("0 2 * * * Europe/Berlin for 2h").ok(),
            Some(json!({"opens": "0 2 * * * Europe/Berlin", "seconds": 7200}))
        );
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for wrong in ["", "--by 5s", "--timing interval", "--timing immediate --every 5s"] {
            assert!(wish(wrong).is_err(), "{wrong}");
        }
        assert!(window_json("0 2 * * *").is_err());
    }
}
