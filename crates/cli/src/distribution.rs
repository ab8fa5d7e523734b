//! `isthmus distribution`: shows where the partitions of a table are, and moves them.
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
Partitions move in the background, a few at once: a region takes a copy and follows, then it
writes if it is to, and only then another region gives its replica up. No request is refused for
it. `show` tells how far they are.

Examples:
  isthmus distribution list
  isthmus distribution show events
  isthmus distribution rebalance events --add-region r4 --dry-run
  isthmus distribution rebalance events --add-region r4
  isthmus distribution rebalance events --empty r2")]
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
    };
    match args.target.json {
        true => output::json(&told),
        false => output::line(&words(&told)),
    }
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
    fn what_is_not_known_is_shown_as_such() {
        let row = partition_row(&json!({ "number": 1, "from": "", "state": "moving",
            "wanted": ["r1"], "waits": "region r1 takes a copy" }));
        assert_eq!(row[1], "-");
        assert_eq!(row[4], "-");
        assert_eq!(row[7], "moving to r1 (region r1 takes a copy)");
    }
}
