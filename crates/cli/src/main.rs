//! The program `isthmus`: server, tools and a laptop's set of regions in one.
//!
//! What must hold: every command but `serve`, `witness`, `gateway` and `up` works through the
//! public or the administration API and nothing else; standard output carries answers, standard
//! error the rest; exit codes mean the same in every command.

mod advise;
mod bench;
mod cells;
mod conflict;
mod debug;
mod distribute;
mod distribution;
mod drill;
mod error;
mod events;
mod extract;
mod failover;
mod gateway;
mod global_table;
mod job;
mod link;
mod load;
mod mode;
mod output;
mod plan;
mod progress;
mod quorum;
mod region;
mod repair;
mod report;
mod row;
mod schema;
mod scrub;
mod serve;
mod status;
mod switchover;
mod table;
mod tail;
mod target;
mod top;
mod topology;
mod units;
mod up;
mod verify;
mod wait;
mod witness;

use clap::{Parser, Subcommand};

use crate::error::{CliError, Exit};

/// Gives memory back after a burst, which the system's allocator does not.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// One table, many regions: a table store that speaks the Tablestore protocol
#[derive(Parser, Debug)]
#[command(
    name = "isthmus",
    version,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "\
Begin with:
  isthmus up                      three regions on this machine
  isthmus table create notes --key id:string
  isthmus row put notes '{\"id\":\"a\"}' '{\"text\":\"hello\"}'
  isthmus row get notes '{\"id\":\"a\"}'
  isthmus global-table create notes --regions r1,r2,r3 --serve peer-to-peer
  isthmus status --watch
  isthmus verify notes --regions r1,r2,r3

Client commands find their region by --config FILE (a region's own file), by --endpoint,
--instance, --access-key-id and --access-key-secret (or ISTHMUS_ENDPOINT, ISTHMUS_INSTANCE,
ISTHMUS_ACCESS_KEY_ID, ISTHMUS_ACCESS_KEY_SECRET), or else they take the regions that
`isthmus up` runs in ./.isthmus; --region NAME picks one of those.

Exit codes: 0 done; 1 refused or failed; 2 the command, its input or the configuration is
wrong; 3 no region was reached, nothing was changed; 4 it is not known whether the change took
effect; 130 stopped by a signal. `verify` has its own: 0 alike; 1 different; 2 could not tell."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run several regions on this machine
    Up(up::UpArgs),
    /// Run one region
    Serve(serve::ServeArgs),
    /// Run a witness: a vote for two regions, without rows
    Witness(witness::WitnessArgs),
    /// Pass clients' requests on to a region that lives
    Gateway(gateway::GatewayArgs),
    /// Make, show, change and delete tables
    Table(table::TableArgs),
    /// Read and write rows
    Row(row::RowArgs),
    /// Keep one table in several regions
    GlobalTable(global_table::GlobalTableArgs),
    /// Divide a table into partitions that regions share
    Distribute(distribute::DistributeArgs),
    /// Show where partitions are, and move them
    Distribution(distribution::DistributionArgs),
    /// Show links, and say when and how fast they ship
    Link(link::LinkArgs),
    /// Let another region write a table that one region writes
    Switchover(switchover::SwitchoverArgs),
    /// Show who votes in the quorum of the regions, and change it
    Quorum(quorum::QuorumArgs),
    /// Show and say who writes when a region is lost
    Failover(failover::FailoverArgs),
    /// Lose a region on purpose, and see what clients would have seen
    Drill(drill::DrillArgs),
    /// Show and merge what was set aside after a failover
    Tail(tail::TailArgs),
    /// Show regions, tables and links
    Status(status::StatusArgs),
    /// Show them, with events, on the whole terminal, again and again
    Top(top::TopArgs),
    /// Forecast how long a copy to another region takes
    Plan(plan::PlanArgs),
    /// Recommend how to keep a table in several regions
    Advise(advise::AdviseArgs),
    /// Recommend where another replica of a table is to be
    Region(region::RegionArgs),
    /// Load a CSV or JSON Lines file into a table
    Load(load::LoadArgs),
    /// Wait until regions have a write
    Wait(wait::WaitArgs),
    /// Find out whether replicas of a table are alike, and where not
    Verify(verify::VerifyArgs),
    /// Make replicas of a table alike again
    Repair(repair::RepairArgs),
    /// Read a region's rows from its disk and check them
    Scrub(scrub::ScrubArgs),
    /// Show, pause and cancel what takes time
    Job(job::JobArgs),
    /// Show what regions noticed
    Events(events::EventsArgs),
    /// Show what regions overwrote of each other unseen, and write losers back
    Conflict(conflict::ConflictArgs),
    /// Measure a running region
    Bench(bench::BenchArgs),
    /// Plant faults, for tests and drills
    Debug(debug::DebugArgs),
}

impl Command {
    fn json(&self) -> bool {
        match self {
            Command::Up(args) => args.json,
            Command::Serve(_) | Command::Witness(_) => false,
            Command::Gateway(args) => args.json,
            Command::Table(args) => args.target.json,
            Command::Row(args) => args.target.json,
            Command::GlobalTable(args) => args.target.json,
            Command::Distribute(args) => args.target.json,
            Command::Distribution(args) => args.target.json,
            Command::Link(args) => args.target.json,
            Command::Switchover(args) => args.target.json,
            Command::Quorum(args) => args.target.json,
            Command::Failover(args) => args.target.json,
            Command::Drill(args) => args.target.json,
            Command::Tail(args) => args.target.json,
            Command::Status(args) => args.target.json,
            Command::Top(args) => args.target.json,
            Command::Plan(args) => args.target.json,
            Command::Advise(args) => args.target.json,
            Command::Region(args) => args.target.json,
            Command::Load(args) => args.target.json,
            Command::Wait(args) => args.target.json,
            Command::Verify(args) => args.target.json,
            Command::Repair(args) => args.target.json,
            Command::Scrub(args) => args.target.json,
            Command::Job(args) => args.target.json,
            Command::Events(args) => args.target.json,
            Command::Conflict(args) => args.target.json,
            Command::Bench(args) => args.target.json,
            Command::Debug(args) => args.json(),
        }
    }

    /// Servers and load generators use all cores; everything else is one conversation.
    fn uses_all_cores(&self) -> bool {
        match self {
            Command::Serve(_) | Command::Gateway(_) | Command::Load(_) | Command::Bench(_) => true,
            Command::Verify(args) => args.reads_rows(),
            Command::Up(_)
            | Command::Table(_)
            | Command::Row(_)
            | Command::GlobalTable(_)
            | Command::Distribute(_)
            | Command::Distribution(_)
            | Command::Link(_)
            | Command::Switchover(_)
            | Command::Witness(_)
            | Command::Quorum(_)
            | Command::Failover(_)
            | Command::Drill(_)
            | Command::Tail(_)
            | Command::Status(_)
            | Command::Top(_)
            | Command::Plan(_)
            | Command::Advise(_)
            | Command::Region(_)
            | Command::Wait(_)
            | Command::Repair(_)
            | Command::Scrub(_)
            | Command::Job(_)
            | Command::Events(_)
            | Command::Conflict(_)
            | Command::Debug(_) => false,
        }
    }
}

fn main() -> std::process::ExitCode {
    let command = Cli::parse().command;
    let json = command.json();
    match run(command) {
        Ok(exit) => std::process::ExitCode::from(exit.code()),
        Err(error) => {
            error.print(json);
            std::process::ExitCode::from(error.exit.code())
        }
    }
}

fn run(command: Command) -> Result<Exit, CliError> {
    let mut builder = if command.uses_all_cores() {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    let runtime = builder
        .enable_all()
        .build()
        .map_err(|error| CliError::new(Exit::Failed, format!("no runtime: {error}")))?;
    let done = runtime.block_on(async {
        let done = |()| Exit::Done;
        match command {
            Command::Up(args) => up::run(args).await.map(done),
            Command::Serve(args) => serve::run(args).await.map(done),
            Command::Witness(args) => witness::run(args).await.map(done),
            Command::Gateway(args) => gateway::run(args).await.map(done),
            Command::Table(args) => table::run(args).await.map(done),
            Command::Row(args) => row::run(args).await.map(done),
            Command::GlobalTable(args) => global_table::run(args).await.map(done),
            Command::Distribute(args) => distribute::run(args).await.map(done),
            Command::Distribution(args) => distribution::run(args).await.map(done),
            Command::Link(args) => link::run(args).await.map(done),
            Command::Switchover(args) => switchover::run(args).await.map(done),
            Command::Quorum(args) => quorum::run(args).await.map(done),
            Command::Failover(args) => failover::run(args).await.map(done),
            Command::Drill(args) => drill::run(args).await,
            Command::Tail(args) => tail::run(args).await.map(done),
            Command::Status(args) => status::run(args).await.map(done),
            Command::Top(args) => top::run(args).await.map(done),
            Command::Plan(args) => plan::run(args).await.map(done),
            Command::Advise(args) => advise::run(args).await.map(done),
            Command::Region(args) => region::run(args).await.map(done),
            Command::Load(args) => load::run(args).await.map(done),
            Command::Wait(args) => wait::run(args).await.map(done),
            Command::Verify(args) => verify::run(args).await,
            Command::Repair(args) => repair::run(args).await,
            Command::Scrub(args) => scrub::run(args).await,
            Command::Job(args) => job::run(args).await.map(done),
            Command::Events(args) => events::run(args).await.map(done),
            Command::Conflict(args) => conflict::run(args).await.map(done),
            Command::Bench(args) => bench::run(args).await.map(done),
            Command::Debug(args) => debug::run(args).await.map(done),
        }
    });
    // What is left in the background has been given up by its owner.
    runtime.shutdown_background();
    done
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn region_arguments_may_stand_after_nested_commands() {
        let words = ["isthmus", "table", "list", "--endpoint", "http://h:1", "--json"];
        let cli = Cli::try_parse_from(words).unwrap();
        assert!(cli.command.json());
    }
}
