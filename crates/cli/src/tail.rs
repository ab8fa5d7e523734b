//! `isthmus tail`: what regions hold aside that no other region took over, after a failover.
//!
//! What must hold: each region tells what it keeps itself; nothing is merged or dropped but by a
//! command that names it.

use clap::{Args, Subcommand};
use isthmus_connectors::admin::escaped;
use isthmus_protocol::date::format_date;
use serde_json::{Value as Json, json};

use crate::error::{CliError, Exit};
use crate::output;
use crate::target::{Place, TargetArgs};

/// Arguments of `isthmus tail`.
#[derive(Args, Debug)]
#[command(after_help = "\
When a region comes back that was lost before it had shipped all, what no other region has is set
aside row by row, in files below its data directory, before its table is made like the others.

Examples:
  isthmus tail list
  isthmus tail show FILE                 the changes, as JSON
  isthmus tail merge FILE                write again what nobody has overwritten since
  isthmus tail drop FILE                 forget it")]
pub(crate) struct TailArgs {
    #[command(subcommand)]
    command: TailCommand,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
}

#[derive(Subcommand, Debug)]
enum TailCommand {
    /// Show what is set aside
    List,
    /// Show the changes in a file
    Show {
        /// Its name
        file: String,
        /// Changes to pass over
        #[arg(long, value_name = "N", default_value_t = 0)]
        skip: u64,
        /// How many
        #[arg(long, value_name = "N", default_value_t = 100,
            value_parser = clap::value_parser!(u64).range(1..=1000))]
        limit: u64,
    },
    /// Write its changes again, where nothing newer is there
    Merge {
        /// Its name
        file: String,
    },
    /// Forget it
    Drop {
        /// Its name
        file: String,
    },
}

/// Runs one of the commands.
pub(crate) async fn run(args: TailArgs) -> Result<(), CliError> {
    let target = &args.target;
    match &args.command {
        TailCommand::List => list(target).await,
        TailCommand::Show { file, skip, limit } => {
            let place = keeper(target, file).await?;
            let path = format!("/v1/tails/{}?skip={skip}&limit={limit}", escaped(file));
            let told: Json = place.admin_client()?.get_json(&path).await?;
            if target.json {
                return output::json(&told);
            }
            for change in told["changes"].as_array().map_or(&[][..], Vec::as_slice) {
                output::line(&change.to_string())?;
            }
            Ok(())
        }
        TailCommand::Merge { file } => {
            let done = ask(target, file, "merge").await?;
            let words = format!(
                "{} changes written again, {} passed over because something newer is there",
                done["merged"], done["passed_over"]
            );
            told(target, &done, &words)
        }
        TailCommand::Drop { file } => {
            let done = ask(target, file, "drop").await?;
            told(target, &done, &format!("{} is forgotten", output::plain(file)))
        }
    }
}

fn told(target: &TargetArgs, done: &Json, words: &str) -> Result<(), CliError> {
    match target.json {
        true => output::json(done),
        false => output::line(words),
    }
}

async fn ask(target: &TargetArgs, file: &str, what: &str) -> Result<Json, CliError> {
    let place = keeper(target, file).await?;
    let path = format!("/v1/tails/{}/{what}", escaped(file));
    Ok(place.admin_client()?.post_json(&path, &json!({})).await?)
}

/// What each region that answers keeps.
async fn kept(target: &TargetArgs) -> Result<Vec<(Place, Json)>, CliError> {
    let (mut all, mut failure) = (Vec::new(), None);
    for place in target.places()? {
        match place.admin_client()?.get_json::<Json>("/v1/tails").await {
            Ok(told) => all.push((place, told)),
            Err(error) => {
                let error = CliError::from(error).context(place.shown());
                eprintln!("no answer: {}", output::plain(&error.message));
                failure = Some(error);
            }
        }
    }
    match failure.filter(|_| all.is_empty()) {
        Some(error) => Err(error),
        None => Ok(all),
    }
}

fn tails(told: &Json) -> &[Json] {
    told["tails"].as_array().map_or(&[], Vec::as_slice)
}

/// The region that keeps a file.
async fn keeper(target: &TargetArgs, file: &str) -> Result<Place, CliError> {
    let mut all = kept(target).await?.into_iter();
    let found = all.find(|(_, told)| tails(told).iter().any(|tail| tail["file"] == file));
    found.map(|(place, _)| place).ok_or_else(|| {
        let file = output::plain(file);
        CliError::new(Exit::Failed, format!("no region that answers keeps {file}"))
    })
}

async fn list(target: &TargetArgs) -> Result<(), CliError> {
    let all = kept(target).await?;
    if target.json {
        let told: Vec<&Json> = all.iter().map(|(_, told)| told).collect();
        return output::json(&told);
    }
    let text = |json: &Json| json.as_str().map(output::plain).unwrap_or_default();
    let rows = all.iter().flat_map(|(_, told)| {
        tails(told).iter().map(move |tail| {
            vec![
                text(&told["region"]),
                text(&tail["table"]),
                format_date(tail["set_aside_ms"].as_i64().unwrap_or_default()),
                format!("{} to {}", tail["after"].as_u64().unwrap_or(0) + 1, tail["through"]),
                tail["rows"].to_string(),
                text(&tail["file"]),
            ]
        })
    });
    let rows: Vec<Vec<String>> = rows.collect();
    if rows.is_empty() {
        eprintln!("nothing is set aside");
        return Ok(());
    }
    let headings = ["REGION", "TABLE", "SET ASIDE", "ENTRIES", "CHANGES", "FILE"];
    output::line(&output::table_text(&headings, &rows))
}
