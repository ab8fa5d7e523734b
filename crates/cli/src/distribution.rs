//! `isthmus distribution`: shows where the partitions of a table are; moves, splits, merges them.
//!
//! What must hold: any region can be asked; what is only to be told changes nothing.

use std::time::Duration;

use clap::{Args, Subcommand};
use isthmus_connectors::admin::escaped;
use serde_json::{Map, Value as Json, json};

use crate::distribute::weight;
use crate::error::CliError;
use crate::output;
use crate::target::TargetArgs;

/// Longer than a region waits for the one that decides.
const PATIENCE: Duration = Duration::from_secs(32);

/// Arguments of `isthmus distribution`.
#[derive(Args, Debug)]
#[command(after_help = "\
Partitions move in the background, one at a time or a few at once: a region takes a copy and
follows, then it writes if it is to, and only then another region gives its replica up. No request
is refused for it. `show` tells how far they are.

They are split and merged in the background, too, one split or merge of a table at a time: new
partitions are filled beside the old ones, which then end, after a pause of writes that is well
below a second. By themselves only where `set` says when.

Examples:
  isthmus distribution list
  isthmus distribution show events
  isthmus distribution rebalance events --add-region r4 --dry-run
  isthmus distribution rebalance events --add-region r4
  isthmus distribution rebalance events --empty r2
  isthmus distribution split events --partition 3
  isthmus distribution split users --partition 1 --at m --dry-run
  isthmus distribution merge events --partitions 12,13
  isthmus distribution set events --split-size 4GiB --split-load 2000 --merge-size 1GiB
  isthmus distribution set events --split-load none")]
pub(crate) struct DistributionArgs {
    #[command(subcommand)]
    command: DistributionCommand,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
}

#[derive(Subcommand, Debug)]
enum DistributionCommand {
    /// Name the distributed tables
    List,
    /// Show the partitions of a table and where they are
    Show {
        /// The table
        name: String,
    },
    /// Move partitions to where they belong
    Rebalance {
        /// The table
        name: String,
        /// A region that is to share the table; may be given again
        #[arg(long = "add-region", value_name = "REGION")]
        add: Vec<String>,
        /// A region that is to hold nothing any more; may be given again
        #[arg(long, value_name = "REGION")]
        empty: Vec<String>,
        /// How much a region holds beside the others, as REGION=WEIGHT; may be given again
        #[arg(long = "weight", value_name = "WEIGHT", value_parser = weight)]
        weights: Vec<(String, u32)>,
        /// How many partitions move at once
        #[arg(long, value_name = "COUNT")]
        moves_at_once: Option<u32>,
        /// Only tell what would move
        #[arg(long)]
        dry_run: bool,
    },
    /// Make two partitions of one
    Split {
        /// The table
        name: String,
        /// The number of the partition
        #[arg(long, value_name = "NUMBER")]
        partition: u32,
        /// Where the second one begins: a value of the first key column, or by hash a point of 16
        /// hexadecimal digits [default: in the middle of its rows]
        #[arg(long, value_name = "KEY")]
        at: Option<String>,
        /// Only tell what would be made
        #[arg(long)]
        dry_run: bool,
    },
    /// Make one partition of two that follow each other
    Merge {
        /// The table
        name: String,
        /// The numbers of the partitions, as N,M
        #[arg(long, value_name = "NUMBERS", value_parser = pair)]
        partitions: Pair,
        /// Only tell what would be made
        #[arg(long)]
        dry_run: bool,
    },
    /// Give up the split or merge that is under way, if it has not come to its end
    Cancel {
        /// The table
        name: String,
    },
    /// Say when partitions are split and merged by themselves; what is not named stays as it is
    Set {
        /// The table
        name: String,
        /// Split a partition that holds more, such as 4GiB, or never (none)
        #[arg(long, value_name = "SIZE", value_parser = Limit::size)]
        split_size: Option<Limit>,
        /// Split a partition that is asked for more often in a second, or never (none)
        #[arg(long, value_name = "REQUESTS", value_parser = Limit::count)]
        split_load: Option<Limit>,
        /// Merge neighbours that hold less together, or never (none)
        #[arg(long, value_name = "SIZE", value_parser = Limit::size)]
        merge_size: Option<Limit>,
    },
}

/// The numbers of two partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pair([u32; 2]);

/// Reads two numbers like `3,4`.
fn pair(text: &str) -> Result<Pair, String> {
    let wrong = || format!("{text:?} is not like 3,4");
    let (one, other) = text.split_once(',').ok_or_else(wrong)?;
    let number = |text: &str| text.trim().parse().map_err(|_| wrong());
    Ok(Pair([number(one)?, number(other)?]))
}

/// A limit, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limit(Option<u64>);

impl Limit {
    fn size(text: &str) -> Result<Limit, String> {
        match text {
            "none" => Ok(Limit(None)),
            _ => bytes(text).map(|bytes| Limit(Some(bytes))),
        }
    }

    fn count(text: &str) -> Result<Limit, String> {
        match text {
            "none" => Ok(Limit(None)),
            _ => match text.parse() {
                Ok(count) => Ok(Limit(Some(count))),
                Err(_) => Err(format!("{text:?} is no number of requests")),
            },
        }
    }
}

/// Reads a size like `512MiB`; without a unit it is in bytes.
fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit: u64 = match unit {
        "" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return Err(format!("{text:?} is not like 512MiB")),
    };
    let number: Option<u64> = number.parse().ok();
    number.and_then(|number| number.checked_mul(unit)).ok_or(format!("{text:?} is not like 512MiB"))
}

/// Runs one of the commands.
pub(crate) async fn run(args: DistributionArgs) -> Result<(), CliError> {
    let admin = args.target.answering(&[]).await?.admin_client_within(PATIENCE)?;
    let (told, words): (Json, fn(&Json) -> String) = match args.command {
        DistributionCommand::List => (admin.get_json("/v1/distributions").await?, list_text),
        DistributionCommand::Show { name } => {
            let path = format!("/v1/distributions/{}", escaped(&name));
            (admin.get_json(&path).await?, show_text)
        }
        DistributionCommand::Rebalance { name, add, empty, weights, moves_at_once, dry_run } => {
            let path = format!("/v1/distributions/{}/rebalance", escaped(&name));
            let weights: Map<String, Json> =
                weights.into_iter().map(|(region, weight)| (region, weight.into())).collect();
            let change = json!({
                "add": add,
                "empty": empty,
                "weights": weights,
                "moves_at_once": moves_at_once,
            });
            let asked = json!({ "dry_run": dry_run, "change": change });
            (admin.post_json(&path, &asked).await?, moves_text)
        }
        DistributionCommand::Split { name, partition, at, dry_run } => {
            let split = json!({ "change": "split", "partition": partition, "at": at });
            let asked = json!({ "dry_run": dry_run, "reshape": split });
            (admin.post_json(&reshape_path(&name), &asked).await?, reshape_text)
        }
        DistributionCommand::Merge { name, partitions: Pair(partitions), dry_run } => {
            let merge = json!({ "change": "merge", "partitions": partitions });
            let asked = json!({ "dry_run": dry_run, "reshape": merge });
            (admin.post_json(&reshape_path(&name), &asked).await?, reshape_text)
        }
        DistributionCommand::Cancel { name } => {
            let asked = json!({ "reshape": { "change": "cancel" } });
            (admin.post_json(&reshape_path(&name), &asked).await?, |_| {
                "it is given up, unless it has come to its end".to_owned()
            })
        }
        DistributionCommand::Set { name, split_size, split_load, merge_size } => {
            let path = format!("/v1/distributions/{}", escaped(&name));
            let mut told: Json = admin.get_json(&path).await?;
            let mut limits = told["limits"].take();
            let named = [
                ("split_bytes", split_size),
                ("split_rate", split_load),
                ("merge_bytes", merge_size),
            ];
            for (key, limit) in named {
                if let Some(Limit(limit)) = limit {
                    limits[key] = limit.into();
                }
            }
            let asked = json!({ "reshape": { "change": "limits", "limits": limits } });
            (admin.post_json(&reshape_path(&name), &asked).await?, |told| {
                Some(limits_text(told))
                    .filter(|text| !text.is_empty())
                    .unwrap_or_else(|| "nothing is split or merged by itself".to_owned())
            })
        }
    };
    match args.target.json {
        true => output::json(&told),
        false => output::line(&words(&told)),
    }
}

fn reshape_path(name: &str) -> String {
    format!("/v1/distributions/{}/reshape", escaped(name))
}

fn items(value: &Json) -> &[Json] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Json) -> String {
    match value {
        Json::Null => "-".to_owned(),
        Json::String(text) => output::plain(text),
        other => other.to_string(),
    }
}

fn names(value: &Json) -> String {
    items(value).iter().map(text).collect::<Vec<_>>().join(", ")
}

fn list_text(told: &Json) -> String {
    let row = |table: &Json| {
        ["name", "base", "state", "by", "partitions", "replicas", "moving"]
            .map(|key| text(&table[key]))
            .to_vec()
    };
    let rows: Vec<Vec<String>> = items(&told["distributions"]).iter().map(row).collect();
    let headings = ["TABLE", "BASE", "STATE", "BY", "PARTITIONS", "REPLICAS", "MOVING"];
    output::table_text(&headings, &rows)
}

fn show_text(told: &Json) -> String {
    let mut parts = vec![format!(
        "{} by {}, {} partitions, each in {} regions, {}; {} moving, {} at once; base {}",
        text(&told["name"]),
        text(&told["by"]),
        items(&told["partitions"]).len(),
        text(&told["replicas"]),
        text(&told["place"]),
        text(&told["moving"]),
        text(&told["moves_at_once"]),
        text(&told["base"]),
    )];
    let region = |region: &Json| {
        let way = region["round_trip_ms"].as_f64();
        vec![
            text(&region["name"]),
            text(&region["weight"]),
            text(&region["partitions"]),
            text(&region["written"]),
            way.map_or_else(|| "-".to_owned(), |way| format!("{way:.1} ms")),
        ]
    };
    let rows: Vec<Vec<String>> = items(&told["regions"]).iter().map(region).collect();
    let headings = ["REGION", "WEIGHT", "PARTITIONS", "WRITTEN", "ROUND TRIP"];
    parts.push(output::table_text(&headings, &rows));
    let rows: Vec<Vec<String>> = items(&told["partitions"]).iter().map(partition_row).collect();
    let headings =
        ["PARTITION", "FROM", "REGIONS", "WRITES", "ROWS", "ENTRIES", "REQUESTS/S", "STATE"];
    parts.push(output::table_text(&headings, &rows));
    if told["reshape"].is_object() {
        parts.push(under_way_text(&told["reshape"]));
    }
    let limits = limits_text(told);
    if !limits.is_empty() {
        parts.push(limits);
    }
    if !items(&told["silent"]).is_empty() {
        parts.push(format!("not asked: {} did not answer", names(&told["silent"])));
    }
    parts.join("\n\n")
}

fn partition_row(partition: &Json) -> Vec<String> {
    let mut state = text(&partition["state"]);
    if partition["state"] == "moving" {
        state += &format!(" to {}", names(&partition["wanted"]));
    }
    for copy in items(&partition["copies"]) {
        let total = text(&copy["rows_total"]);
        state += &format!(", {} of {total} rows to {}", copy["rows_done"], text(&copy["to"]));
    }
    if let Some(waits) = partition["waits"].as_str() {
        state += &format!(" ({})", output::plain(waits));
    }
    let from = match partition["from_text"].as_str().or(partition["from"].as_str()) {
        Some("") | None => "-".to_owned(),
        Some(from) => output::plain(from),
    };
    let rate = partition["requests_per_second"].as_f64().unwrap_or_default();
    vec![
        text(&partition["number"]),
        from,
        names(&partition["held"]),
        text(&partition["primary"]),
        text(&partition["rows"]),
        text(&partition["entries"]),
        format!("{rate:.1}"),
        state,
    ]
}

/// The split or merge that is under way.
fn under_way_text(reshape: &Json) -> String {
    let numbers: Vec<String> =
        items(&reshape["targets"]).iter().map(|target| text(&target["number"])).collect();
    let mut what = format!(
        "{} {}, {} ({})",
        becoming(&reshape["sources"]),
        numbers.join(", "),
        reshape["doing"].as_str().unwrap_or("beginning"),
        text(&reshape["phase"]),
    );
    if let Some(done) = reshape["rows_done"].as_u64() {
        what += &format!(", {done} of {} rows", text(&reshape["rows_total"]));
    }
    if let Some(left) = reshape["seconds_left"].as_f64() {
        what += &format!(", about {left:.0} s left");
    }
    if let Some(waits) = reshape["waits"].as_str() {
        what += &format!(" ({})", output::plain(waits));
    }
    what
}

/// The old partitions, up to the new ones.
fn becoming(sources: &Json) -> String {
    match items(sources) {
        [one] => format!("partition {} becomes", text(one)),
        _ => format!("partitions {} become", names(sources)),
    }
}

fn reshape_text(told: &Json) -> String {
    let target = |target: &Json| match target["from_text"].as_str() {
        Some("") | None => format!("{} from the start", target["number"]),
        Some(from) => format!("{} from {}", target["number"], output::plain(from)),
    };
    let targets: Vec<String> = items(&told["targets"]).iter().map(target).collect();
    let begun = if told["begun"] == true { "begun" } else { "not begun" };
    format!("{} {}; {begun}", becoming(&told["sources"]), targets.join(", "))
}

fn limits_text(told: &Json) -> String {
    let limits = &told["limits"];
    let mut parts = Vec::new();
    if let Some(bytes) = limits["split_bytes"].as_u64() {
        parts.push(format!("split above {bytes} bytes"));
    }
    if let Some(rate) = limits["split_rate"].as_u64() {
        parts.push(format!("split above {rate} requests/s"));
    }
    if let Some(bytes) = limits["merge_bytes"].as_u64() {
        parts.push(format!("merged below {bytes} bytes together"));
    }
    match parts.is_empty() {
        true => String::new(),
        false => format!("by themselves partitions are {}", parts.join(", ")),
    }
}

fn moves_text(told: &Json) -> String {
    let mut lines: Vec<String> = items(&told["moves"])
        .iter()
        .map(|one| {
            let mut what = format!("partition {}", one["partition"]);
            match (&one["from"], &one["to"]) {
                (Json::String(from), Json::String(to)) => {
                    what += &format!(": {} to {}", output::plain(from), output::plain(to));
                }
                (_, Json::String(to)) => what += &format!(": to {}", output::plain(to)),
                (Json::String(from), _) => what += &format!(": out of {}", output::plain(from)),
                _ => {}
            }
            if let Json::String(writer) = &one["writer"] {
                what += &format!("; {} writes", output::plain(writer));
            }
            what
        })
        .collect();
    let begun = if told["begun"] == true { "begun" } else { "not begun" };
    lines.push(format!(
        "{} of {} replicas move, {} partitions get another writer; {begun}",
        told["replicas_moved"], told["replicas"], told["writers_changed"]
    ));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_are_told_in_words() {
        let told = json!({
            "begun": false, "replicas": 24, "replicas_moved": 1, "writers_changed": 1,
            "moves": [{ "partition": 3, "from": "r1", "to": "r4", "writer": "r4" }],
        });
        let words = "partition 3: r1 to r4; r4 writes\n\
                     1 of 24 replicas move, 1 partitions get another writer; not begun";
        assert_eq!(moves_text(&told), words);
    }

    #[test]
    fn limits_are_read_and_told() {
        assert_eq!(Limit::size("4GiB"), Ok(Limit(Some(4 << 30))));
        assert_eq!(Limit::size("100"), Ok(Limit(Some(100))));
        assert_eq!(Limit::count("none"), Ok(Limit(None)));
        assert_eq!(pair("3, 4"), Ok(Pair([3, 4])));
        assert!(pair("3").is_err() && pair("3,4,5").is_err());
        for wrong in ["", "GiB", "4GB", "-1", "99999999999TiB"] {
            assert!(Limit::size(wrong).is_err(), "{wrong}");
        }
        let told = json!({ "limits": { "split_rate": 500, "merge_bytes": 1024 } });
        let words = "by themselves partitions are split above 500 requests/s, merged below 1024 \
                     bytes together";
        assert_eq!(limits_text(&told), words);
        assert_eq!(limits_text(&json!({ "limits": {} })), "");
    }

    #[test]
    fn splits_are_told_in_words() {
        let told = json!({ "begun": true, "sources": [3], "targets": [
            { "number": 4, "from_text": "" }, { "number": 5, "from_text": "m" },
        ]});
        assert_eq!(reshape_text(&told), "partition 3 becomes 4 from the start, 5 from m; begun");
    }

    #[test]
    fn what_is_not_known_is_shown_as_such() {
        let row = partition_row(&json!({ "number": 1, "from": "", "state": "moving",
            "wanted": ["r1"], "waits": "region r1 takes a copy" }));
        assert_eq!(row[1], "-");
        assert_eq!(row[4], "-");
        assert_eq!(row[7], "moving to r1 (region r1 takes a copy)");
    }
}
