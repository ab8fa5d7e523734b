//! `isthmus repair`: makes replicas of a table alike again.
//!
//! What must hold: it is said before whose rows win; a dry run changes nothing; the report says
//! what was found, what was written and what was left.

use clap::Args;
use serde_json::json;

use crate::error::{CliError, Exit};
use crate::job::follow::{Started, report};
use crate::report::ReportArgs;
use crate::target::TargetArgs;
use crate::verify::check_regions;

/// Arguments of `isthmus repair`.
#[derive(Args, Debug)]
#[command(after_help = "\
Without --merge, what --from has replaces what --to has: rows that --to lacks are written there,
rows that only --to has are deleted there, differing cells take the values of --from. With --merge
both sides take what they lack from each other, the later version of a cell wins, and nothing that
one of them deleted comes back.

Only what differs is moved, by ordinary entries of the log, so other replicas get it too. A write
that comes meanwhile is newer and stays: such a row is left and counted.

Examples:
  isthmus repair notes --from r1 --to r2 --dry-run
  isthmus repair notes --from r1 --to r2
  isthmus repair notes --from r1 --to r2 --merge --rows-per-second 500

Exit codes: 0 done; 1 failed, or rows were left; 2 the command is wrong; 3 no region was reached;
130 stopped by a signal, which cancels the job; what was repaired stays.")]
pub(crate) struct RepairArgs {
    /// The table
    table: String,
    /// The region whose rows are right
    #[arg(long, value_name = "REGION")]
    from: String,
    /// The region that is changed
    #[arg(long, value_name = "REGION")]
    to: String,
    /// Let both take from each other what they lack
    #[arg(long)]
    merge: bool,
    /// Say what would be changed, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Rows to write per second at most [default: no limit]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    rows_per_second: Option<u64>,
    /// Rows to name in the report; all are repaired and counted
    #[arg(long, value_name = "N", default_value_t = 10_000,
        value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rows_max: u64,
    /// Print the job's id and do not wait for it
    #[arg(long)]
    detach: bool,
    #[command(flatten)]
    report: ReportArgs,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
}

/// Repairs, and prints what was done.
pub(crate) async fn run(args: RepairArgs) -> Result<Exit, CliError> {
    let regions = [args.from.clone(), args.to.clone()];
    check_regions(&regions)?;
    // The region that is changed does the work, where it can be asked.
    let place = args.target.answering(&[args.to.clone(), args.from.clone()]).await?;
    let wish = json!({
        "kind": "repair",
        "table": args.table,
        "from": args.from,
        "to": args.to,
        "mode": if args.merge { "merge" } else { "one-way" },
        "dry_run": args.dry_run,
        "rows_per_second": args.rows_per_second,
        "rows_max": args.rows_max,
    });
    let json = args.target.json;
    let mut job = Started::start(&place, &wish).await?;
    if args.detach {
        return job.detach(json).map(|()| Exit::Done);
    }
    let ended = job.wait(args.report.is_for_people(json)).await?;
    let told = report(ended)?;
    Ok(args.report.print(&told, json)?.repair_verdict())
}
