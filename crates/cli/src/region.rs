//! `isthmus region`: where regions and replicas are to be.
//!
//! What must hold: it measures and changes nothing; each figure is measured, or told in the
//! configuration of a region, or said to be unknown.

mod rank;

use std::collections::BTreeMap;

use clap::{Args, Subcommand, ValueEnum};
use isthmus_connectors::tablestore::ClientOptions;
use isthmus_control::forecast::Measures;
use isthmus_protocol::request::DescribeGlobalTable;
use isthmus_server::node::measures::WayMeasured;
use isthmus_server::status::Status;
use serde::Deserialize;
use serde_json::json;

use self::rank::{By, Candidate, Place as Ranked, Seen, rank};
use crate::error::CliError;
use crate::output;
use crate::status;
use crate::target::{Place, TargetArgs};

/// Longer than all ways take to be measured.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(300);
/// Places that are not configured yet.
const CANDIDATES_MAX: usize = 16;

/// Arguments of `isthmus region`.
#[derive(Args, Debug)]
pub(crate) struct RegionArgs {
    #[command(subcommand)]
    command: RegionCommand,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
}

#[derive(Subcommand, Debug)]
enum RegionCommand {
    /// Rank places for another replica of a table
    Advise(AdviseArgs),
}

/// Arguments of `isthmus region advise`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Each region that holds the table measures the ways to the places that could: regions that are
configured and have no replica, and candidates that are named by the URL of a public port. For each
way ten round trips and little more than a MiB, between regions over their own connections, to
candidates by requests that nobody has signed. Then the places are ranked, each with its reasons.

Prices and labels are those of the files of the regions:
  [region]
  price_per_gib_egress = 0.02
  labels = { country = \"de\", provider = \"a\" }
A candidate's stand behind its URL. Labels that a place shares with one that holds the table tell
what could take both away at once.

Examples:
  isthmus region advise --table notes
  isthmus region advise --table notes --candidate ap=http://ap.example:8110,country=jp
  isthmus region advise --table notes --by delay --json")]
struct AdviseArgs {
    /// The table
    #[arg(long, value_name = "TABLE")]
    table: String,
    /// A place that is no region yet: NAME=URL, with labels KEY=VALUE after commas; may be given
    /// again
    #[arg(long, value_name = "PLACE", value_parser = candidate)]
    candidate: Vec<Candidate>,
    /// What matters most
    #[arg(long, value_name = "WHAT", default_value = "survival")]
    by: ByWord,
}

/// What matters most.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum ByWord {
    /// That what takes one place away does not take this one, too
    Survival,
    /// That writes are soon held there
    Delay,
    /// That it costs little
    Cost,
}

/// Reads `NAME=URL,KEY=VALUE,...`.
fn candidate(text: &str) -> Result<Candidate, String> {
    let wrong = || format!("{text:?} is not like ap=http://ap.example:8110,country=jp");
    let mut parts = text.split(',').map(|part| part.split_once('=').ok_or_else(wrong));
    let (name, endpoint) = parts.next().ok_or_else(wrong)??;
    if name.is_empty() || !endpoint.starts_with("http://") {
        return Err(wrong());
    }
    let labels: Result<BTreeMap<String, String>, String> =
        parts.map(|part| part.map(|(key, value)| (key.to_owned(), value.to_owned()))).collect();
    let (name, endpoint) = (name.to_owned(), Some(endpoint.to_owned()));
    Ok(Candidate { name, endpoint, labels: labels? })
}

/// What a region answers.
#[derive(Clone, Debug, Deserialize)]
struct Measured {
    from: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    price_per_gib_egress: Option<f64>,
    ways: Vec<WayMeasured>,
    #[serde(default)]
    copy: Option<Measures>,
}

/// Advises.
pub(crate) async fn run(args: RegionArgs) -> Result<(), CliError> {
    let RegionCommand::Advise(advise) = &args.command;
    let places = args.target.places()?;
    let told = status::ask(&places, Some(&advise.table)).await?;
    let answers: Vec<(&Place, &Status)> =
        told.iter().filter_map(|told| Some((&told.place, told.status.as_ref().ok()?))).collect();
    let table = output::plain(&advise.table);
    let holders: Vec<&(&Place, &Status)> =
        answers.iter().filter(|(_, status)| !status.tables.is_empty()).collect();
    let Some((first, of_first)) = holders.first() else {
        status::silent_error(told)?;
        return Err(CliError::failed(format!("no region that answers has a table {table}")));
    };
    let replicas = replicas(first, &of_first.region, &advise.table).await?;
    let candidates = candidates(advise, of_first, &replicas)?;
    if candidates.is_empty() {
        return Err(CliError::failed(format!("every region that is configured has {table}"))
            .hint("name other places with --candidate NAME=URL"));
    }
    let writer = of_first.tables.iter().find_map(|found| found.primary.clone());
    let mut seen = Vec::new();
    for (place, status) in &holders {
        let measured = measure(place, &advise.table, &candidates).await;
        match measured {
            Ok(measured) => seen.push(seen_by(measured, status, &advise.table)),
            Err(error) => {
                eprintln!("{} cannot measure: {}", place.shown(), output::plain(&error.message));
            }
        }
    }
    // Regions that could get a replica tell their own labels.
    let mut candidates = candidates;
    for (place, status) in &answers {
        let own =
            candidates.iter_mut().find(|it| it.endpoint.is_none() && it.name == status.region);
        let Some(own) = own else { continue };
        if let Ok(measured) = measure(place, "", &[]).await {
            own.labels = measured.labels;
        }
    }
    if seen.is_empty() {
        return Err(CliError::failed("no way could be measured"));
    }
    let by = match advise.by {
        ByWord::Survival => By::Survival,
        ByWord::Delay => By::Delay,
        ByWord::Cost => By::Cost,
    };
    let ranked = rank(&candidates, &seen, writer.as_deref(), by);
    match args.target.json {
        true => output::json(&json!({
            "table": advise.table,
            "writer": writer,
            "held_by": replicas,
            "places": ranked,
        })),
        false => output::line(&text(&table, &replicas, &ranked)),
    }
}

/// The regions that hold the table.
async fn replicas(place: &Place, region: &str, table: &str) -> Result<Vec<String>, CliError> {
    let client = place.client(ClientOptions::default())?;
    let request =
        DescribeGlobalTable { id: None, name: table.to_owned(), replica: None, return_rpo: false };
    match client.describe_global_table(request).await.map_err(CliError::from) {
        Ok(found) => Ok(found.replicas.into_iter().map(|replica| replica.region).collect()),
        // It is in this region only.
        Err(error) if error.is_not_found() => Ok(vec![region.to_owned()]),
        Err(error) => Err(error),
    }
}

/// Where a replica could be.
fn candidates(
    args: &AdviseArgs,
    status: &Status,
    replicas: &[String],
) -> Result<Vec<Candidate>, CliError> {
    if args.candidate.len() > CANDIDATES_MAX {
        return Err(CliError::usage(format!("more than {CANDIDATES_MAX} candidates are named")));
    }
    let regions = status.regions.iter().map(|region| region.name.clone());
    let configured = regions.filter(|name| !replicas.contains(name)).map(|name| Candidate {
        name,
        endpoint: None,
        labels: BTreeMap::new(),
    });
    let mut all: Vec<Candidate> = configured.collect();
    for candidate in &args.candidate {
        let is_known = replicas.contains(&candidate.name)
            || all.iter().any(|other| other.name == candidate.name);
        if is_known {
            let name = output::plain(&candidate.name);
            return Err(CliError::usage(format!("{name} is a region, or named twice")));
        }
        all.push(candidate.clone());
    }
    Ok(all)
}

/// Has a region measure its ways; without a table and candidates it tells of itself only.
async fn measure(
    place: &Place,
    table: &str,
    candidates: &[Candidate],
) -> Result<Measured, CliError> {
    let regions = candidates.iter().filter(|candidate| candidate.endpoint.is_none());
    let others = candidates.iter().filter_map(|candidate| {
        let endpoint = candidate.endpoint.as_ref()?;
        Some(json!({ "name": candidate.name, "endpoint": endpoint }))
    });
    let wish = json!({
        "to": regions.map(|region| region.name.as_str()).collect::<Vec<_>>(),
        "places": others.collect::<Vec<_>>(),
        "table": (!table.is_empty()).then_some(table),
    });
    Ok(place.admin_client_within(PATIENCE)?.post_json("/v1/measures", &wish).await?)
}

/// What a region that holds the table has found.
fn seen_by(measured: Measured, status: &Status, table: &str) -> Seen {
    let links = status.links.iter();
    let of_table = links.filter(|link| link.table == table && link.from == measured.from);
    Seen {
        from: measured.from.clone(),
        labels: measured.labels,
        price: measured.price_per_gib_egress,
        ways: measured.ways,
        copy: measured.copy.unwrap_or_default(),
        // Another replica gets what each of those that are there gets.
        wire_bytes_rate: of_table.map(|link| link.wire_bytes_rate).reduce(f64::max),
    }
}

fn text(table: &str, replicas: &[String], ranked: &[Ranked]) -> String {
    let held: Vec<String> = replicas.iter().map(|name| output::plain(name)).collect();
    let number = |figure: Option<f64>, unit: &str| match figure {
        Some(figure) => format!("{figure:.2}{unit}"),
        None => "-".to_owned(),
    };
    let row = |(place, ranked): (usize, &Ranked)| {
        vec![
            (place + 1).to_string(),
            output::plain(&ranked.name),
            number(ranked.round_trip_ms, " ms"),
            number(ranked.jitter_ms, " ms"),
            ranked.bandwidth.map_or_else(
                || "-".to_owned(),
                |bandwidth| format!("{}/s", output::bytes(bandwidth as u64)),
            ),
            ranked
                .copy_seconds
                .map_or_else(|| "-".to_owned(), |seconds| output::span((seconds * 1e3) as u64)),
            ranked.copy_bytes.map_or_else(|| "-".to_owned(), output::bytes),
            number(ranked.copy_cost, ""),
            number(ranked.month_cost, ""),
        ]
    };
    let rows: Vec<Vec<String>> = ranked.iter().enumerate().map(row).collect();
    let headings = [
        "RANK",
        "PLACE",
        "ROUND TRIP",
        "JITTER",
        "BANDWIDTH",
        "FIRST COPY",
        "SENT",
        "ITS COST",
        "A MONTH",
    ];
    let reasons = ranked.iter().map(|place| {
        let reasons: Vec<String> =
            place.reasons.iter().map(|reason| format!("  {}", output::plain(reason))).collect();
        format!("{}\n{}", output::plain(&place.name), reasons.join("\n"))
    });
    format!(
        "{table} is held by {}. Places for another replica, the best first; costs are in the \
         currency of the prices:\n\n{}\n\n{}",
        held.join(", "),
        output::table_text(&headings, &rows),
        reasons.collect::<Vec<_>>().join("\n")
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: AdviseArgs,
    }

    #[test]
    fn a_candidate_has_a_name_a_url_and_labels() {
        let parse = |text: &str| {
            let words = ["a", "--table", "t", "--candidate", text];
            Line::try_parse_from(words).map(|line| line.args.candidate[0].clone())
        };
        let found = parse("ap=http://ap:8110,country=jp,provider=b").ok().unwrap();
        assert_eq!((found.name.as_str(), found.labels.len()), ("ap", 2));
        assert_eq!(found.endpoint.as_deref(), Some("http://ap:8110"));
        for wrong in ["ap", "ap=https://h", "=http://h", "ap=http://h,country"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
