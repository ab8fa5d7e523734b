//! `isthmus verify`: are the replicas of a table alike, and where not?
//!
//! What must hold: the exit code is 0 only if they were found alike, 1 only if they were found to
//! differ, and 2 in every other case; standard output carries the report and nothing else.

mod against;
mod partitions;

use std::time::Duration;

use clap::Args;
use isthmus_connectors::tablestore::ClientOptions;
use isthmus_protocol::request::DescribeGlobalTable;
use serde_json::{Value as Json, json};

use crate::error::{CliError, Exit};
use crate::job::follow::{Started, report};
use crate::report::ReportArgs;
use crate::target::TargetArgs;
use crate::verify::against::AgainstArgs;

/// Arguments of `isthmus verify`.
#[derive(Args, Debug)]
#[command(after_help = "\
Regions keep a digest of each table, and this compares the digests: no row is read but those that
differ, so it takes milliseconds whatever the table's size, while writes go on. What is only late
is never called a difference. That proves that replication did its work; --deep reads all rows of
both sides from disk first, and so finds what a disk has lost or changed, too.

The report names each row that differs and its cells. They are classed by how the second region
stands to the first: missing, extra, older, newer, or different (one version, two values).

Examples:
  isthmus verify notes                              all regions that have the table
  isthmus verify notes --regions r1,r2
  isthmus verify events                             all partitions, if it is distributed
  isthmus verify notes --regions r1,r2,r3 --deep --json
  isthmus verify notes --regions r1,r2 --csv --output differing.csv
  isthmus verify notes --regions r1,r2 --deep --detach     prints the job's id
  isthmus verify notes --against notes.parquet
  isthmus verify notes --against export.csv --types price:double --hash sha256
  isthmus verify notes --against http://other:8110 --against-table notes_copy

--against reads all rows of both sides in the order of their keys; a file may have any order and
any size. A file of plain values is compared with the newest versions; a JSON Lines file of rows
as `isthmus row range --json` prints them is compared version by version.

Exit codes: 0 alike; 1 different; 2 could not tell, or an error; 130 stopped by a signal, which
cancels the job.")]
pub(crate) struct VerifyArgs {
    /// The table
    table: String,
    /// Regions to compare, two or more [default: all that have the table]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    regions: Vec<String>,
    /// Read all rows from disk first
    #[arg(long)]
    deep: bool,
    /// With --deep: read so much per second of each region at most
    #[arg(long, value_name = "N", default_value_t = 32, requires = "deep",
        value_parser = clap::value_parser!(u64).range(1..=100_000))]
    mib_per_second: u64,
    /// Differing rows to name; all are counted
    #[arg(long, value_name = "N", default_value_t = 10_000,
        value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rows_max: u64,
    /// How long to wait for a region that is behind, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30,
        value_parser = clap::value_parser!(u64).range(0..=86_400))]
    wait: u64,
    /// Print the job's id and do not wait for it
    #[arg(long)]
    detach: bool,
    #[command(flatten)]
    against: AgainstArgs,
    #[command(flatten)]
    report: ReportArgs,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
}

/// Compares, and prints what was found.
pub(crate) async fn run(args: VerifyArgs) -> Result<Exit, CliError> {
    compare(args).await.map_err(CliError::could_not_tell)
}

impl VerifyArgs {
    /// Rows are read here only where the other side is no region.
    pub(crate) fn reads_rows(&self) -> bool {
        self.against.against.is_some()
    }
}

async fn compare(args: VerifyArgs) -> Result<Exit, CliError> {
    if let Some(against) = &args.against.against {
        let place = args.target.place()?;
        let json = args.target.json;
        let shown = args.report.is_for_people(json);
        let compared =
            against::run(&args.against, against, &args.table, args.rows_max, &place, shown);
        return Ok(args.report.print(&compared.await?, json)?.verdict());
    }
    check_regions(&args.regions)?;
    let place = args.target.answering(&args.regions).await?;
    if args.regions.is_empty()
        && let Some(told) = partitions::distribution(&place, &args.table).await
    {
        return partitions::compare(&args, &told).await;
    }
    let regions = match args.regions.is_empty() {
        true => {
            let client = place.client(ClientOptions {
                patience: Duration::from_secs(5),
                ..ClientOptions::default()
            })?;
            replicas(&client, &args.table).await?
        }
        false => args.regions.clone(),
    };
    let wish = json!({
        "kind": "verify",
        "table": args.table,
        "regions": regions,
        "deep": args.deep,
        "mib_per_second": args.mib_per_second,
        "rows_max": args.rows_max,
        "wait_seconds": args.wait,
    });
    let json = args.target.json;
    let mut job = Started::start(&place, &wish).await?;
    if args.detach {
        return job.detach(json).map(|()| Exit::Done);
    }
    let ended = job.wait(args.report.is_for_people(json)).await?;
    let mut told = match report(ended) {
        Ok(told) => told,
        // No verdict is one of the three answers, and has the shape of the others.
        Err(error) => unknown(&args.table, &regions, &error.message),
    };
    if args.deep
        && let Some(told) = told.as_object_mut()
    {
        told.entry("deep").or_insert(true.into());
    }
    Ok(args.report.print(&told, json)?.verdict())
}

fn unknown(table: &str, regions: &[String], reason: &str) -> Json {
    json!({ "table": table, "regions": regions, "equal": null, "reason": reason })
}

/// Names that make no sense are told before anything is asked.
pub(crate) fn check_regions(regions: &[String]) -> Result<(), CliError> {
    for (place, name) in regions.iter().enumerate() {
        if name.is_empty() {
            return Err(CliError::usage("--regions has an empty name"));
        }
        if regions[..place].contains(name) {
            return Err(CliError::usage(format!("region {name} is named twice")));
        }
    }
    if regions.len() == 1 {
        return Err(CliError::usage("--regions names one region only")
            .hint("name two or more to compare, like --regions r1,r2"));
    }
    Ok(())
}

/// The regions that have the table.
async fn replicas(
    client: &isthmus_connectors::tablestore::TableStore,
    table: &str,
) -> Result<Vec<String>, CliError> {
    let request =
        DescribeGlobalTable { id: None, name: table.to_owned(), replica: None, return_rpo: false };
    let found = client.describe_global_table(request).await.map_err(|error| {
        CliError::from(error).hint("name the regions with --regions, or a file with --against")
    })?;
    Ok(found.replicas.into_iter().map(|replica| replica.region).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_that_make_no_sense_are_refused_before_anything_is_asked() {
        let check = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            check_regions(&names)
        };
        assert!(check(&[]).is_ok());
        assert!(check(&["r1", "r2"]).is_ok());
        assert!(check(&["r1"]).unwrap_err().message.contains("one region only"));
        assert!(check(&["r1", "r2", "r1"]).unwrap_err().message.contains("r1 is named twice"));
        assert!(check(&["r1", ""]).is_err());
    }
}
