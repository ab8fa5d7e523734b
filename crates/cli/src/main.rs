//! The program `isthmus`: server, tools and a laptop's set of regions in one.
//!
//! What must hold: every command but `serve` and `up` works through the public or the
//! administration API and nothing else; standard output carries answers, standard error the
//! rest; exit codes mean the same in every command.

mod bench;
mod cells;
mod error;
mod global_table;
mod load;
mod output;
mod progress;
mod row;
mod schema;
mod serve;
mod status;
mod table;
mod target;
mod up;

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

Client commands find their region by --config FILE (a region's own file), by --endpoint,
--instance, --access-key-id and --access-key-secret (or ISTHMUS_ENDPOINT, ISTHMUS_INSTANCE,
ISTHMUS_ACCESS_KEY_ID, ISTHMUS_ACCESS_KEY_SECRET), or else they take the regions that
`isthmus up` runs in ./.isthmus; --region NAME picks one of those.

Exit codes: 0 done; 1 refused or failed; 2 the command, its input or the configuration is
wrong; 3 no region was reached, nothing was changed; 4 it is not known whether the change took
effect; 130 stopped by a signal."
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
    /// Make, show, change and delete tables
    Table(table::TableArgs),
    /// Read and write rows
    Row(row::RowArgs),
    /// Keep one table in several regions
    GlobalTable(global_table::GlobalTableArgs),
    /// Show regions, tables and links
    Status(status::StatusArgs),
    /// Load a CSV or JSON Lines file into a table
    Load(load::LoadArgs),
    /// Measure a running region
    Bench(bench::BenchArgs),
}

impl Command {
    fn json(&self) -> bool {
        match self {
            Command::Up(args) => args.json,
            Command::Serve(_) => false,
            Command::Table(args) => args.target.json,
            Command::Row(args) => args.target.json,
            Command::GlobalTable(args) => args.target.json,
            Command::Status(args) => args.target.json,
            Command::Load(args) => args.target.json,
            Command::Bench(args) => args.target.json,
        }
    }

    /// Servers and load generators use all cores; everything else is one conversation.
    fn uses_all_cores(&self) -> bool {
        matches!(self, Command::Serve(_) | Command::Load(_) | Command::Bench(_))
    }
}

fn main() -> std::process::ExitCode {
    let command = Cli::parse().command;
    let json = command.json();
    match run(command) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            error.print(json);
            std::process::ExitCode::from(error.exit as u8)
        }
    }
}

fn run(command: Command) -> Result<(), CliError> {
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
        match command {
            Command::Up(args) => up::run(args).await,
            Command::Serve(args) => serve::run(args).await,
            Command::Table(args) => table::run(args).await,
            Command::Row(args) => row::run(args).await,
            Command::GlobalTable(args) => global_table::run(args).await,
            Command::Status(args) => status::run(args).await,
            Command::Load(args) => load::run(args).await,
            Command::Bench(args) => bench::run(args).await,
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
