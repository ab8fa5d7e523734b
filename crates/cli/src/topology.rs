//! `isthmus global-table topology`: along which edges the regions of a table give each other
//! entries.
//!
//! What must hold: the base decides; edges that leave a region out are refused there and nothing
//! changes. A name of a region may have dashes in it, so an edge is read by the names that are
//! known.

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::{Value as Json, json};

use crate::error::CliError;
use crate::global_table::record_path;
use crate::output;
use crate::target::TargetArgs;

/// How often it is looked whether the region that was asked knows of a change.
const LOOK_EVERY: Duration = Duration::from_millis(200);
const LOOKS_MAX: usize = 25;

/// Arguments of `isthmus global-table topology`.
#[derive(Args, Debug)]
#[command(after_help = "\
Without --edges and SHAPE it shows the edges. Edges have no direction; the entries of each region
go along shortest ways, so that each crosses an edge at most once.

Examples:
  isthmus global-table topology notes
  isthmus global-table topology notes chain
  isthmus global-table topology notes star --hub r2
  isthmus global-table topology notes mesh
  isthmus global-table topology notes --edges r1-r2,r2-r3,r2-r4")]
pub(crate) struct TopologyArgs {
    /// The table
    name: String,
    /// A shape over the regions in their order
    #[arg(value_name = "SHAPE", conflicts_with = "edges")]
    shape: Option<Shape>,
    /// The region in the middle of a star [default: the base]
    #[arg(long, value_name = "NAME", requires = "shape")]
    hub: Option<String>,
    /// Edges, each as two regions
    #[arg(long, value_name = "EDGES", value_delimiter = ',')]
    edges: Option<Vec<String>>,
}

/// A shape.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shape {
    /// Each gives to the next
    Chain,
    /// A chain whose ends are joined
    Ring,
    /// One in the middle
    Star,
    /// Everyone gives its own entries to everyone
    Mesh,
}

/// Shows or changes the edges.
pub(crate) async fn run(args: &TopologyArgs, target: &TargetArgs) -> Result<(), CliError> {
    let admin = target.place()?.admin_client()?;
    let path = record_path(&args.name);
    let found: Json = admin.get_json(&path).await?;
    let edges = wanted(args, &regions(&found))?;
    let found = match edges {
        None => found,
        Some(edges) => {
            let change = json!({ "change": "set-edges", "edges": edges });
            let told: Json = admin.post_json(&format!("{path}/changes"), &change).await?;
            let mut record: Json = admin.get_json(&path).await?;
            for _ in 0..LOOKS_MAX {
                if record["version"].as_u64() >= told["version"].as_u64() {
                    break;
                }
                // The base has it; the region that was asked is told of it soon.
                tokio::time::sleep(LOOK_EVERY).await;
                record = admin.get_json(&path).await?;
            }
            record
        }
    };
    show(&args.name, &found, target.json)
}

/// The regions of a record, in order.
fn regions(record: &Json) -> Vec<String> {
    let replicas = record["replicas"].as_array().into_iter().flatten();
    replicas.filter_map(|replica| replica["region"].as_str()).map(str::to_owned).collect()
}

fn wanted(
    args: &TopologyArgs,
    regions: &[String],
) -> Result<Option<Vec<(String, String)>>, CliError> {
    if let Some(given) = &args.edges {
        return given.iter().map(|text| edge(text, regions)).collect::<Result<_, _>>().map(Some);
    }
    let Some(shape) = args.shape else { return Ok(None) };
    let hub = match (&args.hub, shape) {
        (Some(hub), Shape::Star) if !regions.contains(hub) => {
            return Err(CliError::usage(format!("region {hub} holds no replica of the table")));
        }
        (Some(_), Shape::Chain | Shape::Ring | Shape::Mesh) => {
            return Err(CliError::usage("--hub is for a star"));
        }
        (hub, _) => hub.as_ref().or(regions.first()),
    };
    Ok(Some(shaped(shape, regions, hub)))
}

fn shaped(shape: Shape, regions: &[String], hub: Option<&String>) -> Vec<(String, String)> {
    let next = regions.iter().cloned().zip(regions.iter().skip(1).cloned());
    match shape {
        Shape::Mesh => Vec::new(),
        Shape::Chain => next.collect(),
        Shape::Ring => {
            let ends = regions.first().cloned().zip(regions.last().cloned());
            // Two regions have one edge, however it is walked.
            next.chain(ends.filter(|_| regions.len() > 2)).collect()
        }
        Shape::Star => regions
            .iter()
            .filter(|region| Some(*region) != hub)
            .filter_map(|region| Some((hub?.clone(), region.clone())))
            .collect(),
    }
}

/// Two known regions, with a dash between them.
fn edge(text: &str, regions: &[String]) -> Result<(String, String), CliError> {
    let known = |name: &str| regions.iter().any(|region| region == name);
    let splits = text.match_indices('-').map(|(at, _)| (&text[..at], &text[at + 1..]));
    let mut found = splits.filter(|(one, other)| known(one) && known(other));
    match found.next() {
        Some((one, other)) => Ok((one.to_owned(), other.to_owned())),
        None => Err(CliError::usage(format!("{text} does not name two regions of the table"))
            .hint(format!("its regions are {}", regions.join(", ")))),
    }
}

/// The edges of a record, as text.
pub(crate) fn edges_text(record: &Json) -> Vec<String> {
    let edges = record["edges"].as_array().into_iter().flatten();
    edges.filter_map(|edge| Some(format!("{}-{}", edge[0].as_str()?, edge[1].as_str()?))).collect()
}

/// What regions take that take less than all, by their names.
pub(crate) fn extracts(record: &Json) -> Json {
    let replicas = record["replicas"].as_array().into_iter().flatten();
    let taken = replicas.filter_map(|replica| {
        Some((replica["region"].as_str()?.to_owned(), replica.get("extract")?.clone()))
    });
    Json::Object(taken.collect())
}

fn show(name: &str, record: &Json, as_json: bool) -> Result<(), CliError> {
    let edges = edges_text(record);
    if as_json {
        return output::json(&json!({
            "global_table": name,
            "version": record["version"],
            "regions": regions(record),
            "edges": edges,
            "away": record.get("away").unwrap_or(&json!([])),
        }));
    }
    let shown = match edges.is_empty() {
        true => "mesh: every region gives its own entries to every other one".to_owned(),
        false => edges.join(", "),
    };
    output::line(&format!("global table {}: {}", output::plain(name), output::plain(&shown)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<String> {
        (1..=count).map(|number| format!("r{number}")).collect()
    }

    #[test]
    fn shapes_join_the_regions_in_their_order() {
        let regions = names(4);
        let text = |shape| {
            let edges = shaped(shape, &regions, Some(&regions[1]));
            edges.iter().map(|(a, b)| format!("{a}-{b}")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(text(Shape::Chain), "r1-r2 r2-r3 r3-r4");
        assert_eq!(text(Shape::Ring), "r1-r2 r2-r3 r3-r4 r1-r4");
        assert_eq!(text(Shape::Star), "r2-r1 r2-r3 r2-r4");
        assert_eq!(text(Shape::Mesh), "");
        assert_eq!(shaped(Shape::Ring, &names(2), None).len(), 1);
    }

    #[test]
    fn edges_are_read_by_the_names_of_regions() {
        let regions = vec!["cn-north".to_owned(), "cn".to_owned(), "eu-west-1".to_owned()];
        let read = |text: &str| edge(text, &regions).ok();
        let pair = |one: &str, other: &str| Some((one.to_owned(), other.to_owned()));
        assert_eq!(read("cn-north-eu-west-1"), pair("cn-north", "eu-west-1"));
        assert_eq!(read("cn-cn-north"), pair("cn", "cn-north"));
        assert_eq!(read("cn-south"), None);
    }
}
