//! `isthmus drill`: does for real what a fault would do, and tells what clients would have seen.
//!
//! What must hold: whatever was taken out is released, also on Ctrl-C and after an error; no row
//! of users is touched; the exit code is 0 only if nothing acknowledged was lost and the replicas
//! were found alike.

mod plan;
mod prober;
mod steps;

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use isthmus_model::clock::{Clock, SystemClock};
use isthmus_protocol::date::{format_date, parse_date};
use isthmus_server::status::{DrillStatus, DrilledTable};

use crate::drill::plan::Plan;
use crate::drill::steps::Drill;
use crate::error::{CliError, Exit};
use crate::output;
use crate::target::TargetArgs;
use crate::units;
use crate::up::StopSignals;

/// Arguments of `isthmus drill`.
#[derive(Args, Debug)]
#[command(after_help = "\
A failover that was never tried is a hope. A drill takes a region out while it plays a client,
brings it back, and tells what was lost, for how long nobody wrote, and which errors came.

Examples:
  isthmus drill region-loss --table notes --dry-run
  isthmus drill region-loss --table notes
  isthmus drill list")]
pub(crate) struct DrillArgs {
    #[command(subcommand)]
    command: DrillCommand,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
}

#[derive(Subcommand, Debug)]
enum DrillCommand {
    /// Lose the region that writes
    RegionLoss(RegionLossArgs),
    /// Show the last drills
    List,
}

/// Arguments of `isthmus drill region-loss`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Rows of its own, named __isthmus_drill__, are written to and read from each table through a region
that lives, until the end, and deleted then. The steps:
  1. write and read for a second
  2. take out the region that writes: by hand, as `isthmus failover --suspend` does, or by a command
     of yours that kills it
  3. wait until another region writes and acknowledges; see what is missing there
  4. let the region come back: release it, or start it by a command of yours
  5. wait until it has come back and `verify` finds the replicas alike; see what is missing
Whatever happens, the region is released at the end. What came of it is kept in the regions, and
shown by `isthmus status`, `isthmus drill list` and /metrics.

A region is taken out whole: with the tables that are named go those that it writes besides, which
--with-others allows. Where writes are answered before other regions hold them (`isthmus
global-table mode`), what the region has answered and not shipped is set aside (`isthmus tail`),
which --accept-loss allows; where a person decides who writes next, the drill does.

--region names the region that is lost; without it it is the one that writes the tables.

RPO is the rows that were acknowledged and are missing; RTO the longest time from one acknowledged
write to the next.

Examples:
  isthmus drill region-loss --table notes --dry-run
  isthmus drill region-loss --table notes --table orders --at 2030-01-31T03:00:00Z --json
  isthmus drill region-loss --table notes --how kill-command --kill-command 'kill -9 4711' \\
      --start-command 'systemctl start isthmus'

Exit codes: 0 nothing acknowledged was lost and the replicas are alike; 1 otherwise, or an error;
2 the command is wrong; 130 stopped by a signal, with the region released.")]
pub(crate) struct RegionLossArgs {
    /// A table that is watched; may be given again
    #[arg(long, value_name = "TABLE", required = true)]
    table: Vec<String>,
    /// When to begin, as 2030-01-31T03:00:00Z, or after a time such as 10m [default: now]
    #[arg(long, value_name = "TIME", value_parser = moment)]
    at: Option<Moment>,
    /// How the region is lost
    #[arg(long, value_name = "HOW", default_value = "suspend")]
    how: How,
    /// With --how kill-command: a command of the shell that kills the region
    #[arg(long, value_name = "COMMAND", required_if_eq("how", "kill-command"))]
    kill_command: Option<String>,
    /// With --how kill-command: one that starts it again [default: it starts by itself]
    #[arg(long, value_name = "COMMAND", requires = "kill_command")]
    start_command: Option<String>,
    /// The region through which clients are played [default: another one]
    #[arg(long, value_name = "NAME")]
    through: Option<String>,
    /// How long the region stays out once another one writes, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 2,
        value_parser = clap::value_parser!(u64).range(0..=3600))]
    out_for: u64,
    /// How long another region may take to write, and this one to come back, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120,
        value_parser = clap::value_parser!(u64).range(1..=86_400))]
    patience: u64,
    /// Let the region write again at the end, as `isthmus switchover` does
    #[arg(long)]
    switch_back: bool,
    /// Also where the region writes tables besides, which others then write
    #[arg(long)]
    with_others: bool,
    /// Also where acknowledged writes may be set aside
    #[arg(long)]
    accept_loss: bool,
    /// Print the plan and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// How a region is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum How {
    /// Taken out by hand; its process lives
    Suspend,
    /// By a command that kills it
    KillCommand,
}

impl How {
    fn as_str(self) -> &'static str {
        match self {
            How::Suspend => "suspend",
            How::KillCommand => "kill-command",
        }
    }
}

/// When to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    /// At this time, in milliseconds since the Unix epoch.
    At(i64),
    /// After this time.
    After(Duration),
}

fn moment(text: &str) -> Result<Moment, String> {
    if let Some(millis) = parse_date(text) {
        return Ok(Moment::At(millis));
    }
    let seconds = units::seconds(text);
    seconds
        .map(|seconds| Moment::After(Duration::from_secs(seconds)))
        .map_err(|_| format!("{text:?} is no time such as 2030-01-31T03:00:00Z or 10m"))
}

impl Moment {
    fn left(self) -> Duration {
        match self {
            Moment::After(time) => time,
            Moment::At(millis) => {
                let left = millis.saturating_sub(SystemClock.wall_millis());
                Duration::from_millis(u64::try_from(left).unwrap_or(0))
            }
        }
    }
}

/// Runs a drill, or shows what they came to.
pub(crate) async fn run(args: DrillArgs) -> Result<Exit, CliError> {
    match &args.command {
        DrillCommand::List => list(&args.target).await.map(|()| Exit::Done),
        DrillCommand::RegionLoss(loss) => region_loss(loss, &args.target).await,
    }
}

async fn list(target: &TargetArgs) -> Result<(), CliError> {
    #[derive(serde::Deserialize, serde::Serialize)]
    struct Kept {
        drills: Vec<DrillStatus>,
    }
    let admin = target.answering(&[]).await?.admin_client()?;
    let kept: Kept = admin.get_json("/v1/drills").await?;
    if target.json {
        return output::json(&kept);
    }
    let row = |drill: &DrillStatus| {
        let tables: Vec<&str> = drill.tables.iter().map(|table| table.table.as_str()).collect();
        vec![
            format_date(drill.ended_ms),
            output::plain(&drill.kind),
            output::plain(&drill.region),
            output::plain(&tables.join(", ")),
            if drill.passed { "passed" } else { "failed" }.to_owned(),
            drill.missing_rows().to_string(),
            drill.rto_ms().map_or_else(|| "-".to_owned(), output::span),
            output::plain(&drill.reason),
        ]
    };
    let rows: Vec<Vec<String>> = kept.drills.iter().map(row).collect();
    let headings = ["ENDED", "DRILL", "REGION", "TABLES", "RESULT", "LOST", "RTO", "REASON"];
    output::line(&output::table_text(&headings, &rows))
}

async fn region_loss(args: &RegionLossArgs, target: &TargetArgs) -> Result<Exit, CliError> {
    let plan = Plan::make(args, target.region_name(), &target.of_any_region()).await?;
    if args.dry_run {
        match target.json {
            true => output::json(&plan.json())?,
            false => output::line(&plan.text())?,
        }
        return Ok(Exit::Done);
    }
    plan.check_allowed(args)?;
    let mut stop = StopSignals::new()?;
    if let Some(at) = args.at {
        let left = at.left();
        eprintln!("the drill begins in {}", output::span(left.as_millis() as u64));
        tokio::select! {
            () = tokio::time::sleep(left) => {}
            () = stop.next() => {
                return Err(CliError::new(Exit::Stopped, "stopped; nothing was done"));
            }
        }
    }
    let mut drill = Drill::new(plan, args.clone());
    let ended = tokio::select! {
        ended = drill.go() => ended,
        () = stop.next() => Err(CliError::new(Exit::Stopped, "stopped by a signal")),
    };
    let released = drill.release().await;
    let cleaned = drill.clean_up().await;
    let status = drill.report(ended.as_ref().err());
    drill.keep(&status).await;
    match target.json {
        true => output::json(&status)?,
        false => output::line(&text(&status))?,
    }
    ended?;
    released?;
    cleaned?;
    Ok(if status.passed { Exit::Done } else { Exit::Different })
}

fn text(drill: &DrillStatus) -> String {
    let figure = |figure: Option<u64>| figure.map_or_else(|| "-".to_owned(), |it| it.to_string());
    let time = |time: Option<u64>| time.map_or_else(|| "-".to_owned(), output::span);
    let row = |table: &DrilledTable| {
        let errors: Vec<String> =
            table.errors.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        vec![
            output::plain(&table.table),
            table.writer.as_deref().map_or_else(|| "-".to_owned(), output::plain),
            table.acked_rows.to_string(),
            table.missing_rows.to_string(),
            figure(table.known_lost_entries),
            figure(table.set_aside_rows),
            time(table.rto_ms),
            time(table.failback_ms),
            figure(table.differing_rows),
            if errors.is_empty() { "-".to_owned() } else { output::plain(&errors.join(", ")) },
        ]
    };
    let rows: Vec<Vec<String>> = drill.tables.iter().map(row).collect();
    let headings = [
        "TABLE",
        "WRITTEN BY",
        "ACKNOWLEDGED",
        "MISSING",
        "KNOWN LOST",
        "SET ASIDE",
        "RTO",
        "FAILBACK",
        "DIFFERING",
        "ERRORS",
    ];
    let verdict = match drill.passed {
        true => format!(
            "passed: region {} was lost for {}; nothing acknowledged was lost and the replicas \
             are alike",
            output::plain(&drill.region),
            output::span((drill.ended_ms - drill.began_ms).max(0) as u64),
        ),
        false => format!("failed: {}", output::plain(&drill.reason)),
    };
    format!("{}\n\n{verdict}", output::table_text(&headings, &rows))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: RegionLossArgs,
    }

    pub(super) fn args(words: &[&str]) -> RegionLossArgs {
        Line::try_parse_from([&["d"], words].concat()).map(|line| line.args).ok().unwrap()
    }

    #[test]
    fn what_makes_no_sense_together_is_refused() {
        let parse = |words: &[&str]| Line::try_parse_from([&["d"], words].concat());
        assert!(parse(&[]).is_err());
        assert!(parse(&["--table", "t", "--how", "kill-command"]).is_err());
        assert!(parse(&["--table", "t", "--start-command", "x"]).is_err());
        assert!(parse(&["--table", "t", "--at", "soon"]).is_err());
        let given = args(&["--table", "t", "--table", "u", "--at", "10m"]);
        assert_eq!((given.table.len(), given.how), (2, How::Suspend));
        assert_eq!(given.at, Some(Moment::After(Duration::from_secs(600))));
        assert_eq!(moment("1970-01-01T00:00:01Z"), Ok(Moment::At(1000)));
        assert_eq!(Moment::At(1000).left(), Duration::ZERO);
    }

    #[test]
    fn a_report_is_told_in_words() {
        let errors = [("OTSTimeout".to_owned(), 2)].into();
        let table = DrilledTable {
            table: "notes".into(),
            writer: Some("r2".into()),
            acked_rows: 70,
            rto_ms: Some(2300),
            errors,
            ..DrilledTable::default()
        };
        let mut drill = DrillStatus {
            region: "r1".into(),
            passed: true,
            tables: vec![table],
            ended_ms: 9000,
            ..DrillStatus::default()
        };
        let told = text(&drill);
        assert!(told.contains("2 OTSTimeout") && told.contains("2.3 s"), "{told}");
        assert!(told.ends_with("the replicas are alike"), "{told}");
        (drill.passed, drill.reason) = (false, "1 row is missing".into());
        assert!(text(&drill).ends_with("failed: 1 row is missing"));
    }
}
