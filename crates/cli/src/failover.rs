//! `isthmus failover`: who decides which region writes when one is lost, how that stands, and a
//! person's word.
//!
//! What must hold: any region that reaches the quorum can be asked; before a region is taken out
//! by hand it is told what would be lost.

use clap::{Args, ValueEnum};
use isthmus_protocol::date::format_date;
use serde_json::{Value as Json, json};

use crate::error::CliError;
use crate::global_table::record_path;
use crate::output;
use crate::target::TargetArgs;

/// Arguments of `isthmus failover`.
#[derive(Args, Debug)]
#[command(after_help = "\
Regions with a quorum (`[quorum]` in their files) let another region write what a lost one wrote,
about three seconds after it has stopped: by themselves where writes are held by other regions
before they are answered (`isthmus global-table mode`), so that none is lost; else when a person
says so, or where the table is set to automatic. What the lost region had answered and not shipped
is then counted here, and set aside row by row when it is back (`isthmus tail`).

Examples:
  isthmus failover                              how regions and tables stand, and the audit
  isthmus failover --table notes --set automatic
  isthmus failover --table notes --to r2        a person's word, when nobody writes the table
  isthmus failover --table notes --to r2 --accept-loss --dry-run
  isthmus failover --table notes --to r2 --accept-loss
                                                also without those who are gone for good
  isthmus failover --suspend r1 --why \"disk fails\" --dry-run
  isthmus failover --suspend r1 --why \"disk fails\"
  isthmus failover --release r1                 let it come back")]
pub(crate) struct FailoverArgs {
    /// The table
    #[arg(long, value_name = "TABLE")]
    table: Option<String>,
    /// The region that is to write the table, which nobody writes
    #[arg(long, value_name = "REGION", requires = "table")]
    to: Option<String>,
    /// Who decides when the region that writes the table is lost
    #[arg(long, value_name = "WHO", requires = "table", conflicts_with = "to")]
    set: Option<Decider>,
    /// Take a region out: others write its tables
    #[arg(long, value_name = "REGION", conflicts_with_all = ["table", "release"], requires = "why")]
    suspend: Option<String>,
    /// Let a region come back that was taken out by hand
    #[arg(long, value_name = "REGION", conflicts_with = "table")]
    release: Option<String>,
    /// Why, for the audit
    #[arg(long, value_name = "TEXT")]
    why: Option<String>,
    /// Who, for the audit [default: the user's name]
    #[arg(long, value_name = "NAME")]
    who: Option<String>,
    /// Begin without what replicas that are gone for good may have prepared of synchronous writes;
    /// also for a region that was to write the table already and waits for them
    #[arg(long, requires = "to")]
    accept_loss: bool,
    /// Only tell what would be lost
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
}

/// Who decides.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Decider {
    /// The quorum, where writes are held by other regions before they are answered; else a person
    Safe,
    /// The quorum, also where the lost region has answered writes that no other has
    Automatic,
    /// A person
    ByHand,
}

/// Runs it.
pub(crate) async fn run(args: FailoverArgs) -> Result<(), CliError> {
    if args.dry_run && args.suspend.is_none() && args.to.is_none() {
        return Err(CliError::usage("--dry-run is for --suspend and for --to"));
    }
    let admin = args.target.answering(&[]).await?.admin_client()?;
    let who = args.who.clone().or_else(|| std::env::var("USER").ok());
    let who = who.unwrap_or_else(|| "a person".to_owned());
    let asked = match (&args.table, &args.to, args.set, &args.suspend, &args.release) {
        (Some(table), _, Some(set), ..) => {
            let path = format!("{}/changes", record_path(table));
            let failover = match set {
                Decider::Safe => "safe",
                Decider::Automatic => "automatic",
                Decider::ByHand => "by-hand",
            };
            let change = json!({ "change": "set-failover", "failover": failover });
            let done: Json = admin.post_json(&path, &change).await?;
            return told(&args, &done, &format!("{} is {failover} now", output::plain(table)));
        }
        (Some(table), Some(to), ..) => {
            let accept_loss = args.accept_loss;
            let asked = |dry_run: bool| {
                json!({ "failover": "decide", "table": table, "to": to, "who": who,
                    "accept_loss": accept_loss, "dry_run": dry_run })
            };
            if args.dry_run || accept_loss {
                let forecast: Json = admin.post_json("/v1/failover", &asked(true)).await?;
                let words = acceptance_in_words(&forecast);
                if args.dry_run {
                    return told(&args, &forecast, &words);
                }
                if !args.target.json {
                    eprintln!("{words}");
                }
            }
            match accept_loss {
                true => asked(false),
                false => {
                    json!({ "failover": "decide", "table": table, "to": to, "who": who })
                }
            }
        }
        (_, _, _, Some(region), _) => {
            let stands: Json = admin.get_json("/v1/failover").await?;
            let tables = of_writer(&stands, region);
            if args.dry_run {
                return show_loss(&args, region, &tables);
            }
            if !args.target.json {
                eprintln!("{}", loss_in_words(region, &tables));
            }
            json!({ "failover": "suspend", "region": region, "who": who, "why": args.why })
        }
        (_, _, _, _, Some(region)) => {
            json!({ "failover": "release", "region": region, "who": who })
        }
        _ => return show(&args, &admin.get_json("/v1/failover").await?),
    };
    let done: Json = admin.post_json("/v1/failover", &asked).await?;
    told(&args, &done, "done; `isthmus failover` tells how it stands")
}

fn told(args: &FailoverArgs, done: &Json, words: &str) -> Result<(), CliError> {
    match args.target.json {
        true => output::json(done),
        false => output::line(words),
    }
}

fn list<'a>(json: &'a Json, name: &str) -> &'a [Json] {
    json[name].as_array().map_or(&[], Vec::as_slice)
}

fn text(json: &Json) -> String {
    json.as_str().map(output::plain).unwrap_or_default()
}

fn of_writer(stands: &Json, region: &str) -> Vec<Json> {
    let tables = list(stands, "tables").iter();
    tables.filter(|table| table["writer"] == region).cloned().collect()
}

fn show_loss(args: &FailoverArgs, region: &str, tables: &[Json]) -> Result<(), CliError> {
    match args.target.json {
        true => output::json(&json!({ "region": region, "tables": tables })),
        false => output::line(&loss_in_words(region, tables)),
    }
}

fn loss_in_words(region: &str, tables: &[Json]) -> String {
    let region = output::plain(region);
    if tables.is_empty() {
        return format!("region {region} writes no table that others could take over");
    }
    let one = |table: &Json| match table["would_be_lost_entries"].as_u64() {
        Some(lost) => format!("{}: {lost} entries", text(&table["table"])),
        None => format!("{}: not known in the region that was asked", text(&table["table"])),
    };
    let lost: Vec<String> = tables.iter().map(one).collect();
    format!(
        "region {region} writes {} tables; of its entries others lack, by what it has told: {}",
        tables.len(),
        lost.join(", ")
    )
}

fn acceptance_in_words(forecast: &Json) -> String {
    let names = list(forecast, "silent").iter().map(text).collect::<Vec<_>>().join(", ");
    let (table, to) = (text(&forecast["table"]), text(&forecast["to"]));
    let entries = match forecast["would_be_lost_entries"].as_u64() {
        Some(lost) => format!("{lost} entries that others have told of are not in {to}"),
        None => format!("how many entries {to} lacks is not known"),
    };
    let loss = match (forecast["may_lose_answered"] == true, forecast["sync"] != false) {
        (false, _) => "no answered write can be lost".to_owned(),
        (true, true) => format!(
            "writes that were answered may be prepared in {names} and nowhere else: they are lost, \
             also when these regions come back; what {to} holds prepared is made, and may have \
             been judged on what is lost"
        ),
        (true, false) => "writes that were answered may be lost".to_owned(),
    };
    let awaited = list(forecast, "awaited").iter().map(text).collect::<Vec<_>>().join(", ");
    let waits = match awaited.is_empty() {
        true => String::new(),
        false => format!(
            "; {awaited} can be reached and has not told yet what it holds: it is waited for, \
             unless it is taken out (`isthmus failover --suspend`)"
        ),
    };
    format!(
        "{table} in {to}: {} of {} replicas are heard that must be{}{waits}; {entries}; {loss}",
        forecast["heard"],
        forecast["needed"],
        if names.is_empty() { String::new() } else { format!(", {names} not") },
    )
}

fn show(args: &FailoverArgs, stands: &Json) -> Result<(), CliError> {
    if args.target.json {
        return output::json(stands);
    }
    let regions = list(stands, "regions").iter().map(|region| {
        let state = match (region["suspended"].as_bool(), region["by_hand"].as_bool()) {
            (Some(true), Some(true)) => "suspended by hand",
            (Some(true), _) => "suspended",
            _ => "serving",
        };
        let suspected = region["suspected_by"].as_object();
        let by = suspected.map(|by| by.keys().map(|name| output::plain(name)).collect::<Vec<_>>());
        vec![text(&region["region"]), state.to_owned(), by.unwrap_or_default().join(", ")]
    });
    let headings = ["REGION", "STATE", "SUSPECTED BY"];
    output::line(&output::table_text(&headings, &regions.collect::<Vec<_>>()))?;
    let tables: Vec<Vec<String>> = list(stands, "tables").iter().map(table_row).collect();
    if !tables.is_empty() {
        let headings = ["TABLE", "EPOCH", "WRITER", "HELD BY", "FAILOVER", "LAST CHANGE"];
        output::line(&output::table_text(&headings, &tables))?;
    }
    let audit = list(stands, "audit").iter().rev().take(20).map(|one| {
        let at = one["at_millis"].as_i64().unwrap_or_default();
        vec![format_date(at), text(&one["who"]), text(&one["what"]), text(&one["why"])]
    });
    let audit: Vec<Vec<String>> = audit.collect();
    if audit.is_empty() {
        return Ok(());
    }
    output::line(&output::table_text(&["AT", "WHO", "WHAT", "WHY"], &audit))
}

fn table_row(table: &Json) -> Vec<String> {
    let vacancy = &table["vacant"];
    let writer = match vacancy.is_null() {
        true => text(&table["writer"]),
        false => {
            let claims = vacancy["claims"].as_object();
            let claims = claims.map(|claims| claims.keys().cloned().collect::<Vec<_>>());
            let claims = claims.unwrap_or_default();
            let heard = claims.iter().map(|name| output::plain(name)).collect::<Vec<_>>();
            format!("nobody; {} needed, claimed by {}", table["claims_needed"], heard.join(", "))
        }
    };
    let failover = if table["automatic"] == true { "automatic" } else { "by hand" };
    let last = list(table, "openings").last();
    let last =
        last.map(|opening| format!("{} after entry {}", text(&opening["how"]), opening["after"]));
    vec![
        text(&table["table"]),
        table["epoch"].to_string(),
        writer,
        table["held_by"].to_string(),
        failover.to_owned(),
        last.unwrap_or_default(),
    ]
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: FailoverArgs,
    }

    #[test]
    fn what_makes_no_sense_together_is_refused() {
        let parse = |words: &[&str]| Line::try_parse_from([&["f"], words].concat());
        assert!(parse(&[]).is_ok());
        assert!(parse(&["--suspend", "r1"]).is_err());
        assert!(parse(&["--suspend", "r1", "--why", "drill", "--dry-run"]).is_ok());
        assert!(parse(&["--to", "r2"]).is_err());
        assert!(parse(&["--table", "t", "--accept-loss"]).is_err());
        assert!(parse(&["--table", "t", "--to", "r2", "--accept-loss", "--dry-run"]).is_ok());
        assert!(parse(&["--table", "t", "--set", "by-hand"]).is_ok());
        assert!(parse(&["--table", "t", "--set", "by-hand", "--to", "r2"]).is_err());
    }

    #[test]
    fn what_is_accepted_is_told_before() {
        let forecast = json!({
            "table": "a", "to": "r3", "needed": 2, "heard": 1, "silent": ["r1", "r2"],
            "may_lose_answered": true, "would_be_lost_entries": 4, "sync": true,
        });
        let words = acceptance_in_words(&forecast);
        assert!(words.contains("1 of 2 replicas are heard that must be, r1, r2 not"), "{words}");
        assert!(words.contains("4 entries") && words.contains("prepared in r1, r2"), "{words}");
        assert!(!words.contains("waited for"), "{words}");
        let mut awaited = forecast.clone();
        awaited["awaited"] = json!(["r2"]);
        assert!(acceptance_in_words(&awaited).contains("r2 can be reached"));
    }

    #[test]
    fn loss_is_told_by_table() {
        let stands = json!({ "tables": [
            { "table": "a", "writer": "r1", "would_be_lost_entries": 3 },
            { "table": "b", "writer": "r2", "would_be_lost_entries": 9 },
            { "table": "c", "writer": "r1", "would_be_lost_entries": null },
        ]});
        let words = loss_in_words("r1", &of_writer(&stands, "r1"));
        assert!(words.contains("a: 3 entries, c: not known"), "{words}");
        assert!(loss_in_words("r3", &of_writer(&stands, "r3")).contains("no table"));
    }
}
