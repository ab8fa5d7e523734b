//! `isthmus conflict`: what regions have overwritten of each other without having seen it.
//!
//! What must hold: each region tells what it noticed itself, and one that does not answer does not
//! hide the others; text that came from elsewhere cannot steer a terminal.

use clap::{Args, Subcommand};
use isthmus_connectors::admin::{AdminError, escaped};
use isthmus_protocol::date::format_date;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use crate::error::{CliError, Exit};
use crate::output;
use crate::target::TargetArgs;

/// Arguments of `isthmus conflict`.
#[derive(Args, Debug)]
#[command(after_help = "\
A conflict is two changes of one column, made in two regions of which neither had seen the other's.
Both regions notice it, each under an id of its own. The newest 10 000 of a table are kept.

Examples:
  isthmus conflict list notes
  isthmus conflict list notes --key '{\"id\":\"a\"}' --json
  isthmus conflict restore notes r1-17        write the value that lost back")]
pub(crate) struct ConflictArgs {
    #[command(subcommand)]
    command: ConflictCommand,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
}

#[derive(Subcommand, Debug)]
enum ConflictCommand {
    /// Show conflicts, the newest first
    List {
        /// The table
        table: String,
        /// Of one row only
        #[arg(long, value_name = "JSON")]
        key: Option<String>,
        /// How many of each region
        #[arg(long, value_name = "N", default_value_t = 100,
            value_parser = clap::value_parser!(u64).range(1..=1000))]
        limit: u64,
        /// Those before this number of an id, where one region is asked
        #[arg(long, value_name = "N")]
        before: Option<u64>,
    },
    /// Write the change that lost back, as a write of now
    Restore {
        /// The table
        table: String,
        /// The conflict's id, as `list` shows it
        id: String,
    },
}

#[derive(Default, Deserialize)]
struct Answer {
    #[serde(default)]
    conflicts: Vec<Json>,
    #[serde(default)]
    noticed: u64,
    #[serde(default)]
    dropped: u64,
}

/// Runs one of the commands.
pub(crate) async fn run(args: ConflictArgs) -> Result<(), CliError> {
    match &args.command {
        ConflictCommand::List { table, key, limit, before } => {
            let mut path = format!("/v1/tables/{}/conflicts?limit={limit}", escaped(table));
            if let Some(key) = key {
                path += &format!("&key={}", escaped(key));
            }
            if let Some(before) = before {
                path += &format!("&before={before}");
            }
            list(&args.target, &path).await
        }
        ConflictCommand::Restore { table, id } => restore(&args.target, table, id).await,
    }
}

async fn list(target: &TargetArgs, path: &str) -> Result<(), CliError> {
    let mut all = Answer::default();
    let mut failures = Vec::new();
    let places = target.places()?;
    for place in &places {
        match place.admin_client()?.get_json::<Answer>(path).await {
            Ok(answer) => {
                all.conflicts.extend(answer.conflicts);
                all.noticed += answer.noticed;
                all.dropped += answer.dropped;
            }
            Err(error) => failures.push(CliError::from(error).context(place.shown())),
        }
    }
    if failures.len() == places.len()
        && let Some(error) = failures.pop()
    {
        return Err(error);
    }
    for error in &failures {
        eprintln!("no answer: {}", output::plain(&error.message));
    }
    all.conflicts.sort_by_key(|conflict| std::cmp::Reverse(conflict["at_ms"].as_i64()));
    if target.json {
        return output::json(&json!({
            "conflicts": all.conflicts, "noticed": all.noticed, "dropped": all.dropped,
        }));
    }
    if all.conflicts.is_empty() {
        eprintln!("no conflicts");
        return Ok(());
    }
    let rows: Vec<Vec<String>> = all.conflicts.iter().map(row).collect();
    let headings = ["ID", "AT", "KEY", "COLUMN", "RULE", "WON", "CHANGES"];
    output::line(&output::table_text(&headings, &rows))?;
    output::line(&format!("{} noticed, {} of them not kept any more", all.noticed, all.dropped))
}

fn row(conflict: &Json) -> Vec<String> {
    let text = |name: &str| output::plain(conflict[name].as_str().unwrap_or("-"));
    let changes: Vec<String> =
        conflict["changes"].as_array().into_iter().flatten().map(change_text).collect();
    let key = conflict["key"].as_array().into_iter().flatten();
    let key: Vec<String> = key.map(|part| output::plain(&part["value"].to_string())).collect();
    vec![
        text("id"),
        format_date(conflict["at_ms"].as_i64().unwrap_or_default()),
        key.join(", "),
        text("column"),
        text("rule"),
        text("winner"),
        changes.join("; "),
    ]
}

/// Characters of a value that are shown.
const VALUE_CHARS_MAX: usize = 40;

fn change_text(change: &Json) -> String {
    let value = match change["deleted"].as_bool() {
        Some(true) => "deleted".to_owned(),
        Some(false) | None => change["value"].to_string().chars().take(VALUE_CHARS_MAX).collect(),
    };
    output::plain(&format!("{} {value}", change["region"].as_str().unwrap_or("-")))
}

async fn restore(target: &TargetArgs, table: &str, id: &str) -> Result<(), CliError> {
    let path = format!("/v1/tables/{}/conflicts/{}/restore", escaped(table), escaped(id));
    for place in target.places()? {
        let told: Result<Json, AdminError> =
            place.admin_client()?.post_json(&path, &json!({})).await;
        match told {
            // Ids name the region that noticed the conflict; this is another one.
            Err(AdminError::Refused { status: 404, .. }) => {}
            Err(error) => return Err(CliError::from(error).context(place.shown())),
            Ok(told) if target.json => return output::json(&told),
            Ok(told) => {
                return output::line(&format!("written back: {}", change_text(&told["restored"])));
            }
        }
    }
    Err(CliError::new(Exit::Failed, format!("no region keeps conflict {id} of {table}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conflict_is_a_line_that_steers_nothing() {
        let conflict = json!({
            "id": "r1-1", "at_ms": 1_700_000_000_000_i64, "column": "a", "rule": "max",
            "winner": "r2", "key": [{"name": "id", "type": "string", "value": "x\u{1b}"}],
            "changes": [{"region": "r1", "deleted": true}, {"region": "r2", "value": 7}],
        });
        let row = row(&conflict);
        assert_eq!(row[6], "r1 deleted; r2 7");
        assert!(!row.join(" ").contains('\u{1b}'));
    }
}
