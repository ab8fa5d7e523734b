//! `isthmus table rules`: how conflicts between regions are decided.
//!
//! Without options it shows the rules. With options it changes what is named and leaves the rest;
//! any region takes the change, the base region makes it.

use std::collections::BTreeMap;

use clap::Args;
use isthmus_connectors::admin::escaped;
use isthmus_model::rule::Rule;
use serde_json::{Value as Json, json};

use crate::error::CliError;
use crate::output;
use crate::target::Place;

/// Arguments of `isthmus table rules`.
#[derive(Args, Debug)]
#[command(after_help = "\
Rules decide between writes of one column of which neither region had seen the other, in tables
that several regions write column by column. A write that has seen the other always replaces it.
Where whole rows conflict (sync mode row) the table's own rule is last-writer or priority.
  last-writer  the later one stays
  priority     that of the region that --priority names first stays
  max, min     the greater or the smaller value stays
  counter      increments of all regions count; a put sets the counter
  set          values are JSON arrays; the elements of both stay

Examples:
  isthmus table rules stock
  isthmus table rules stock --column count=counter --column tags=set
  isthmus table rules stock --default priority --priority r2,r1
  isthmus table rules stock --column tags=default")]
pub(super) struct RulesArgs {
    /// The table
    name: String,
    /// Rule of a column as COLUMN=RULE, or COLUMN=default; may be given again
    #[arg(long = "column", value_name = "COLUMN=RULE", value_parser = column_rule)]
    columns: Vec<(String, Option<String>)>,
    /// Rule of all other columns: last-writer, priority, max or min
    #[arg(long, value_name = "RULE", value_parser = rule)]
    default: Option<String>,
    /// Regions, the one that wins over all others first
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    priority: Option<Vec<String>>,
}

fn rule(name: &str) -> Result<String, String> {
    match Rule::named(name) {
        Some(_) => Ok(name.to_owned()),
        None => Err(format!("the rules are {}", Rule::names().collect::<Vec<_>>().join(", "))),
    }
}

fn column_rule(text: &str) -> Result<(String, Option<String>), String> {
    let (column, name) = text.split_once('=').ok_or("give COLUMN=RULE")?;
    match name {
        "default" => Ok((column.to_owned(), None)),
        name => Ok((column.to_owned(), Some(rule(name)?))),
    }
}

/// Shows or changes the rules.
pub(super) async fn run(args: RulesArgs, place: &Place, json: bool) -> Result<(), CliError> {
    let admin = place.admin_client()?;
    let path = format!("/v1/tables/{}", escaped(&args.name));
    if args.columns.is_empty() && args.default.is_none() && args.priority.is_none() {
        let told: Json = admin.get_json(&format!("{path}/schema")).await?;
        return show(&args.name, &told["rules"], json);
    }
    let columns: BTreeMap<String, Option<String>> = args.columns.into_iter().collect();
    let change = json!({
        "change": "set-rules",
        "default": args.default,
        "columns": columns,
        "priority": args.priority,
    });
    let told: Json = admin.post_json(&format!("{path}/changes"), &change).await?;
    if json {
        return output::json(&json!({ "table": args.name, "schema": told["schema"] }));
    }
    let number = &told["schema"];
    output::line(&format!("rules of {} are set with schema {number}", output::plain(&args.name)))
}

fn show(name: &str, rules: &Json, json: bool) -> Result<(), CliError> {
    if json {
        return output::json(&json!({ "table": name, "rules": rules }));
    }
    let word = |rule: &Json| output::plain(rule.as_str().unwrap_or("last-writer"));
    let mut rows = vec![vec!["(others)".to_owned(), word(&rules["default"])]];
    for (column, rule) in rules["columns"].as_object().into_iter().flatten() {
        rows.push(vec![output::plain(column), word(rule)]);
    }
    output::line(&output::table_text(&["COLUMN", "RULE"], &rows))?;
    let regions = rules["priority"].as_array().into_iter().flatten();
    let regions: Vec<String> = regions.map(&word).collect();
    match regions.is_empty() {
        true => Ok(()),
        false => output::line(&format!("priority: {}", regions.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_columns_are_read_and_others_refused() {
        assert_eq!(column_rule("a=max"), Ok(("a".into(), Some("max".into()))));
        assert_eq!(column_rule("a=default"), Ok(("a".into(), None)));
        assert!(column_rule("a").is_err() && column_rule("a=best").is_err());
    }
}
