//! `isthmus table families`: groups of columns that live and are kept otherwise.
//!
//! Without a name it shows them. With one it makes a family, or lets it live otherwise; any region
//! takes the change, the base region makes it.

use clap::Args;
use isthmus_connectors::admin::escaped;
use serde_json::{Value as Json, json};

use crate::error::CliError;
use crate::output;
use crate::target::Place;

/// Arguments of `isthmus table families`.
#[derive(Args, Debug)]
#[command(after_help = "\
A family takes the columns that are named and all whose names begin with its prefix. What it takes
is said when it is made and stays; of two families that would take a column the older one has it.
Time to live and versions can be changed at any time; what has expired stays so. The marker of a row
lives as the table says. A region can be bound with some families only:
`isthmus global-table bind TABLE --regions r4 --families meta,rest`.

Examples:
  isthmus table families events
  isthmus table families events meta --column author,source --prefix m_ --max-versions 3
  isthmus table families events meta --time-to-live 604800
  isthmus table families events meta --time-to-live -1       for ever
  isthmus table families events meta --time-to-live 0        as the table")]
pub(super) struct FamiliesArgs {
    /// The table
    name: String,
    /// The family to make or change
    family: Option<String>,
    /// Columns that a new family takes
    #[arg(long = "column", value_name = "NAMES", value_delimiter = ',', requires = "family")]
    columns: Vec<String>,
    /// A new family takes all columns whose names begin so
    #[arg(long, value_name = "TEXT", requires = "family")]
    prefix: Option<String>,
    /// Seconds its cells live, 86400 or more; -1: for ever; 0: as those of the table
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, requires = "family")]
    time_to_live: Option<i64>,
    /// Versions kept per column; 0: as many as the table keeps
    #[arg(long, value_name = "N", requires = "family")]
    max_versions: Option<u32>,
}

/// Shows or changes the families.
pub(super) async fn run(args: FamiliesArgs, place: &Place, json: bool) -> Result<(), CliError> {
    let admin = place.admin_client()?;
    let path = format!("/v1/tables/{}", escaped(&args.name));
    let Some(family) = args.family else {
        let told: Json = admin.get_json(&format!("{path}/schema")).await?;
        return show(&args.name, &told["families"], json);
    };
    let mut change = json!({ "change": "set-family", "family": family });
    if !args.columns.is_empty() {
        change["columns"] = json!(args.columns);
    }
    for (member, given) in [
        ("prefix", args.prefix.map(Json::from)),
        ("time_to_live", args.time_to_live.map(Json::from)),
        ("max_versions", args.max_versions.map(Json::from)),
    ] {
        if let Some(given) = given {
            change[member] = given;
        }
    }
    let told: Json = admin.post_json(&format!("{path}/changes"), &change).await?;
    let (table, number) = (&args.name, &told["schema"]);
    if json {
        return output::json(&json!({ "table": table, "family": family, "schema": number }));
    }
    let (table, family) = (output::plain(table), output::plain(&family));
    output::line(&format!("family {family} of {table} is set with schema {number}"))
}

fn show(name: &str, families: &Json, json: bool) -> Result<(), CliError> {
    if json {
        return output::json(&json!({ "table": name, "families": families }));
    }
    let rows: Vec<Vec<String>> = families.as_array().into_iter().flatten().map(row).collect();
    if rows.is_empty() {
        return output::line(&format!("table {} has no column families", output::plain(name)));
    }
    let headings = ["FAMILY", "COLUMNS", "PREFIX", "TIME TO LIVE", "MAX VERSIONS"];
    output::line(&output::table_text(&headings, &rows))
}

fn row(family: &Json) -> Vec<String> {
    let text = |value: &Json| output::plain(value.as_str().unwrap_or_default());
    let columns: Vec<String> =
        family["columns"].as_array().into_iter().flatten().map(text).collect();
    let time = match family["time_to_live"].as_i64() {
        None | Some(0) => "as the table".to_owned(),
        Some(-1) => "for ever".to_owned(),
        Some(seconds) => format!("{seconds} s"),
    };
    let versions = match family["max_versions"].as_u64() {
        None | Some(0) => "as the table".to_owned(),
        Some(versions) => versions.to_string(),
    };
    vec![text(&family["family"]), columns.join(","), text(&family["prefix"]), time, versions]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_family_does_not_say_is_shown_as_that_of_the_table() {
        let own = json!({ "family": "meta", "columns": ["a", "b"], "prefix": "m_",
            "time_to_live": -1, "max_versions": 3 });
        assert_eq!(row(&own), ["meta", "a,b", "m_", "for ever", "3"]);
        let plain = json!({ "family": "f", "columns": [], "prefix": "f", "time_to_live": 0,
            "max_versions": 0 });
        assert_eq!(row(&plain), ["f", "", "f", "as the table", "as the table"]);
    }
}
