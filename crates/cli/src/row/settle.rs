//! `isthmus row settle`: batches of which it is not known whether they are made, and a person's
//! word on one of which no region can tell any more.
//!
//! What must hold: nothing is settled before it was told what is known and what the risk is, and
//! without `--yes`.

use clap::Args;
use serde_json::{Value as Json, json};

use crate::error::CliError;
use crate::output;
use crate::target::TargetArgs;

#[derive(Args, Debug)]
pub(super) struct SettleArgs {
    /// The batch, as the list names it [default: show all that are in doubt]
    #[arg(value_name = "BATCH")]
    batch: Option<String>,
    /// Its rows are made in all members
    #[arg(long, requires = "batch", conflicts_with = "given_up")]
    made: bool,
    /// Its rows stay as they were in all members
    #[arg(long, requires = "batch")]
    given_up: bool,
    /// Why, for the audit
    #[arg(long, value_name = "TEXT", requires = "batch")]
    why: Option<String>,
    /// Who, for the audit [default: the user's name]
    #[arg(long, value_name = "NAME", requires = "batch")]
    who: Option<String>,
    /// Do it; else it is only told what is known and what the risk is
    #[arg(long, requires = "batch", requires = "why")]
    yes: bool,
}

pub(super) async fn run(args: SettleArgs, target: &TargetArgs) -> Result<(), CliError> {
    let admin = target.answering(&[]).await?.admin_client()?;
    let Some(batch) = &args.batch else {
        let told: Json = admin.get_json("/v1/batches").await?;
        return list(target, &told);
    };
    if args.made == args.given_up {
        return Err(CliError::usage("say what became of the batch")
            .hint("give --made or --given-up; `isthmus row settle` shows what is in doubt"));
    }
    let who = args.who.clone().or_else(|| std::env::var("USER").ok());
    let mut asked = json!({
        "batch": batch,
        "made": args.made,
        "who": who.unwrap_or_else(|| "a person".to_owned()),
        "why": args.why.clone().unwrap_or_default(),
        "dry_run": true,
    });
    let known: Json = admin.post_json("/v1/batches/settle", &asked).await?;
    if !args.yes {
        match target.json {
            true => output::json(&known)?,
            false => output::line(&in_words(&known))?,
        }
        return Err(CliError::usage("nothing was done")
            .hint("give --yes and --why TEXT if it is to be settled so"));
    }
    if !target.json {
        eprintln!("{}", in_words(&known));
    }
    asked["dry_run"] = json!(false);
    let done: Json = admin.post_json("/v1/batches/settle", &asked).await?;
    if target.json {
        return output::json(&done);
    }
    let word = if args.made { "made" } else { "given up" };
    for one in items(&done, "settled") {
        let place =
            format!("{} rows of {} in {}", one["rows"], text(&one["table"]), text(&one["region"]));
        match one["done"] == true {
            true => output::line(&format!("{place}: {word}"))?,
            false => output::line(&format!("{place}: not yet: {}", text(&one["why"])))?,
        }
    }
    for region in done["told_later"].as_object().into_iter().flat_map(|left| left.keys()) {
        output::line(&format!("{} is told when it is reached", output::plain(region)))?;
    }
    for (region, why) in done["refused_by"].as_object().into_iter().flatten() {
        output::line(&format!("{} does not take it: {}", output::plain(region), text(why)))?;
    }
    output::line(&format!("settled as {word}"))
}

fn items<'a>(json: &'a Json, name: &str) -> &'a [Json] {
    json[name].as_array().map_or(&[], Vec::as_slice)
}

fn text(json: &Json) -> String {
    json.as_str().map(output::plain).unwrap_or_default()
}

fn list(target: &TargetArgs, told: &Json) -> Result<(), CliError> {
    if target.json {
        return output::json(told);
    }
    for region in told["unreached"].as_object().into_iter().flat_map(|left| left.keys()) {
        eprintln!("not reached: {}", output::plain(region));
    }
    let rows: Vec<Vec<String>> = items(told, "batches").iter().map(row).collect();
    if rows.is_empty() {
        return output::line("no batch is in doubt in the regions that are reached");
    }
    let headings = ["BATCH", "DECIDED BY", "WAITED", "ROWS LOCKED"];
    output::line(&output::table_text(&headings, &rows))
}

fn row(batch: &Json) -> Vec<String> {
    let written = items(batch, "members").iter().filter(|member| member["written"] == true);
    let locked = written.map(|member| {
        format!("{} of {} in {}", member["rows"], text(&member["table"]), text(&member["region"]))
    });
    vec![
        text(&batch["batch"]),
        text(&batch["anchor"]),
        format!("{} s", batch["waited_ms"].as_u64().unwrap_or_default() / 1000),
        locked.collect::<Vec<_>>().join(", "),
    ]
}

fn in_words(known: &Json) -> String {
    let member = |member: &Json| {
        let keys: Vec<String> = items(member, "keys").iter().map(Json::to_string).collect();
        let role = if member["written"] == true { "written" } else { "a replica" };
        format!(
            "  {} in {} ({role}): {} rows: {}",
            text(&member["table"]),
            text(&member["region"]),
            member["rows"],
            output::plain(&keys.join(" "))
        )
    };
    let members: Vec<String> = items(known, "members").iter().map(member).collect();
    format!(
        "batch {}, which {} decides, locks\n{}\n{}\nRisk: {}",
        text(&known["batch"]),
        text(&known["anchor"]),
        members.join("\n"),
        text(&known["known"]),
        text(&known["risk"])
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_comes_with_its_risk() {
        let known = json!({
            "batch": "7/1.5/3", "anchor": "cash", "known": "Nobody knows.", "risk": "In part.",
            "members": [{ "region": "r2", "table": "bank", "rows": 1, "written": true,
                "keys": [{ "id": "a" }] }],
        });
        let words = in_words(&known);
        assert!(words.contains("bank in r2 (written): 1 rows: {\"id\":\"a\"}"), "{words}");
        assert!(words.ends_with("Nobody knows.\nRisk: In part."), "{words}");
        let listed = row(&json!({ "batch": "7/1.5/3", "anchor": "cash", "waited_ms": 61_000,
            "members": known["members"] }));
        assert_eq!(listed, ["7/1.5/3", "cash", "61 s", "1 of bank in r2"]);
    }
}
