//! Comparing the replicas of a distributed table, partition by partition.
//!
//! What must hold: each partition is compared where it is held, by a region that was named; one
//! that none of them holds is told as not known, never as alike.

use isthmus_connectors::admin::escaped;
use serde_json::{Value as Json, json};

use super::{VerifyArgs, unknown};
use crate::error::{CliError, Exit};
use crate::job::follow::{Started, report};
use crate::output;
use crate::target::Place;

/// What is known of the table, if it is distributed.
pub(super) async fn distribution(place: &Place, table: &str) -> Option<Json> {
    let path = format!("/v1/distributions/{}", escaped(table));
    // A region that knows no such thing, or is older, has no distributed table of that name.
    place.admin_client().ok()?.get_json(&path).await.ok()
}

/// Compares all partitions, and prints what was found.
pub(super) async fn compare(args: &VerifyArgs, told: &Json) -> Result<Exit, CliError> {
    if args.detach || !args.report.is_plain() {
        let message = format!("{} is distributed, and has a report for each partition", args.table);
        return Err(CliError::usage(message)
            .hint("leave --detach, --csv and --output out, or name a partition, like TABLE/0000"));
    }
    let places = args.target.places()?;
    let mut reports = Vec::new();
    for partition in told["partitions"].as_array().map_or(&[][..], Vec::as_slice) {
        reports.push(compare_one(args, &places, partition).await?);
    }
    let equal = verdict(&reports);
    if args.target.json {
        output::json(&json!({ "table": args.table, "equal": equal, "partitions": reports }))?;
    } else {
        reports.iter().try_for_each(|report| output::line(&in_words(report)))?;
    }
    Ok(match equal {
        Some(true) => Exit::Done,
        Some(false) => Exit::Different,
        None => Exit::CouldNotTell,
    })
}

async fn compare_one(
    args: &VerifyArgs,
    places: &[Place],
    partition: &Json,
) -> Result<Json, CliError> {
    let name = partition["table"].as_str().unwrap_or_default();
    let held = partition["held"].as_array().map_or(&[][..], Vec::as_slice);
    let held: Vec<String> = held.iter().filter_map(Json::as_str).map(str::to_owned).collect();
    let holds = |place: &&Place| place.name.as_ref().is_some_and(|name| held.contains(name));
    if held.len() < 2 {
        return Ok(json!({ "table": name, "regions": held, "equal": true, "rows_differing": 0 }));
    }
    let Some(place) = places.iter().find(holds) else {
        return Ok(unknown(name, &held, "no region that holds it was named; ask one that does"));
    };
    let wish = json!({
        "kind": "verify",
        "table": name,
        "regions": held,
        "deep": args.deep,
        "mib_per_second": args.mib_per_second,
        "rows_max": args.rows_max,
        "wait_seconds": args.wait,
    });
    let ended = Started::start(place, &wish).await?.wait(false).await?;
    Ok(report(ended).unwrap_or_else(|error| unknown(name, &held, &error.message)))
}

/// Whether all are alike; `None`: of some it is not known, and none is known to differ.
fn verdict(reports: &[Json]) -> Option<bool> {
    let found: Vec<Option<bool>> = reports.iter().map(|report| report["equal"].as_bool()).collect();
    match (found.contains(&Some(false)), found.contains(&None)) {
        (true, _) => Some(false),
        (false, true) => None,
        (false, false) => Some(true),
    }
}

fn in_words(report: &Json) -> String {
    let regions = report["regions"].as_array().map_or(&[][..], Vec::as_slice);
    let regions: Vec<String> = regions.iter().filter_map(Json::as_str).map(output::plain).collect();
    let found = match report["equal"].as_bool() {
        Some(true) => "alike".to_owned(),
        Some(false) => format!("{} rows differ", report["rows_differing"]),
        None => {
            let why = report["reason"].as_str().unwrap_or("no reason was told");
            format!("not known: {}", output::plain(why))
        }
    };
    let name = report["table"].as_str().unwrap_or_default();
    format!("{} in {}: {found}", output::plain(name), regions.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_alike_only_if_each_is() {
        let report = |equal: Option<bool>| json!({ "equal": equal });
        assert_eq!(verdict(&[report(Some(true)), report(Some(true))]), Some(true));
        assert_eq!(verdict(&[report(Some(true)), report(None)]), None);
        assert_eq!(verdict(&[report(None), report(Some(false))]), Some(false));
    }

    #[test]
    fn reports_are_told_in_words() {
        let report = json!({ "table": "t/0001", "regions": ["r1", "r2"], "equal": false,
            "rows_differing": 3 });
        assert_eq!(in_words(&report), "t/0001 in r1, r2: 3 rows differ");
        let report = unknown("t/0001", &["r1".to_owned()], "nobody answers");
        assert_eq!(in_words(&report), "t/0001 in r1: not known: nobody answers");
    }
}
