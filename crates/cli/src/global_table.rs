//! `isthmus global-table`: one table in several regions.
//!
//! What must hold: the commands work against any region; the first region named is the base,
//! whose table must exist; what takes time is waited for with a bound, and going on without
//! waiting changes nothing of what was asked.

mod dropping;

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use isthmus_connectors::tablestore::{ClientOptions, TableStore};
use isthmus_protocol::request::{
    BindGlobalTable, CreateGlobalTable, DescribeGlobalTable, Placement, Removal, ReplicaChange,
    ServeMode, SyncMode, TablePlace, UnbindGlobalTable, UpdateGlobalTable,
};
use isthmus_protocol::response::{
    GlobalTableDescription, GlobalTableStatus, ReplicaDescription, ReplicaStatus, SyncStage,
};
use serde_json::{Value as Json, json};
use tokio::time::Instant;

use crate::error::{CliError, Exit};
use crate::extract::ExtractArgs;
use crate::mode::{self, ModeArgs};
use crate::output;
use crate::progress::Line;
use crate::target::{Place, TargetArgs};
use crate::topology::{self, TopologyArgs};

/// How often a global table is looked at while it is waited for.
const POLL: Duration = Duration::from_millis(200);

/// Arguments of `isthmus global-table`.
#[derive(Args, Debug)]
#[command(after_help = "\
The first of --regions is the base: the table must exist there. The others get it with all its
rows. A region of another instance is written REGION/INSTANCE.

Examples:
  isthmus global-table create notes --regions r1,r2,r3 --serve peer-to-peer
  isthmus global-table create orders --regions r1,r2 --serve primary-secondary --no-wait
  isthmus global-table describe notes
  isthmus global-table bind notes --regions r4
  isthmus global-table bind notes --regions r4 --copy incremental --columns name,age
  isthmus global-table bind notes --regions r4 \\
    --filter '{\"column\":{\"name\":\"age\",\"is\":\">\",\"value\":17}}'
  isthmus global-table unbind notes --regions r3
  isthmus global-table update notes --region-name r2 --writable false
  isthmus global-table topology notes chain
  isthmus global-table drop notes
  isthmus global-table mode notes semi-sync --held-by 1")]
pub(crate) struct GlobalTableArgs {
    #[command(subcommand)]
    command: GlobalTableCommand,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
}

#[derive(Subcommand, Debug)]
enum GlobalTableCommand {
    /// Make a global table of a table
    Create(CreateArgs),
    /// Show a global table and its replicas
    Describe {
        /// The table
        name: String,
    },
    /// Add replicas
    Bind(BindArgs),
    /// Take replicas away
    Unbind(UnbindArgs),
    /// Change who writes
    Update(UpdateArgs),
    /// Show or change along which edges entries go
    Topology(TopologyArgs),
    /// Drop the table in every region, with all its rows
    Drop(dropping::DropArgs),
    /// Show or change when writes are answered
    Mode(ModeArgs),
}

/// Who writes.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Serve {
    /// The base writes, the others read
    PrimarySecondary,
    /// All regions write, the last writer wins
    PeerToPeer,
}

/// What one conflict is about.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Sync {
    /// A whole row
    Row,
    /// One column
    Column,
}

#[derive(Args, Debug)]
struct CreateArgs {
    /// The table
    name: String,
    /// Regions, the base first
    #[arg(long, value_name = "NAMES", value_delimiter = ',', required = true)]
    regions: Vec<String>,
    /// Who writes
    #[arg(long, value_name = "MODE", default_value = "primary-secondary")]
    serve: Serve,
    /// What one conflict is about
    #[arg(long, value_name = "UNIT", default_value = "row")]
    sync: Sync,
    /// Regions where clients may write [default: as --serve says]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    writable: Option<Vec<String>>,
    #[command(flatten)]
    wait: WaitArgs,
}

#[derive(Args, Debug)]
struct BindArgs {
    /// The table
    name: String,
    /// Regions
    #[arg(long, value_name = "NAMES", value_delimiter = ',', required = true)]
    regions: Vec<String>,
    #[command(flatten)]
    extract: ExtractArgs,
    #[command(flatten)]
    wait: WaitArgs,
}

#[derive(Args, Debug)]
struct UnbindArgs {
    /// The table
    name: String,
    /// Regions
    #[arg(long, value_name = "NAMES", value_delimiter = ',', required = true)]
    regions: Vec<String>,
    #[command(flatten)]
    wait: WaitArgs,
}

#[derive(Args, Debug)]
struct UpdateArgs {
    /// The table
    name: String,
    /// The region whose replica is changed
    #[arg(long, value_name = "NAME")]
    region_name: String,
    /// Whether clients may write there
    #[arg(long, value_name = "BOOL")]
    writable: Option<bool>,
    /// Whether it may become the primary
    #[arg(long, value_name = "BOOL")]
    primary_eligible: Option<bool>,
}

#[derive(Args, Clone, Copy, Debug)]
struct WaitArgs {
    /// Do not wait until all replicas are in use
    #[arg(long)]
    no_wait: bool,
    /// How long to wait, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600,
        value_parser = clap::value_parser!(u64).range(1..=604_800))]
    timeout: u64,
}

/// One command's surroundings.
struct Session {
    client: TableStore,
    instance: String,
    json: bool,
}

/// Runs one of the commands.
pub(crate) async fn run(args: GlobalTableArgs) -> Result<(), CliError> {
    let place = args.target.place()?;
    let session = Session {
        client: place.client(ClientOptions::default())?,
        instance: place.instance.clone(),
        json: args.target.json,
    };
    match args.command {
        GlobalTableCommand::Create(args) => session.create(args).await,
        GlobalTableCommand::Describe { name } => {
            let found = session.describe(&name).await?;
            if !session.json {
                return session.show(&name, &found);
            }
            let mut told = description_json(&name, &found);
            // Only the administration port knows of edges, and only where there is a replica.
            if let Ok(admin) = place.admin_client()
                && let Ok(record) = admin.get_json(&record_path(&name)).await
            {
                told["edges"] = json!(topology::edges_text(&record));
                told["extracts"] = topology::extracts(&record);
            }
            output::json(&told)
        }
        GlobalTableCommand::Bind(args) => session.bind(args, &place).await,
        GlobalTableCommand::Unbind(args) => session.unbind(args).await,
        GlobalTableCommand::Update(args) => session.update(args).await,
        GlobalTableCommand::Drop(args) => session.drop_table(args, &place).await,
        GlobalTableCommand::Topology(topology) => topology::run(&topology, &args.target).await,
        GlobalTableCommand::Mode(mode) => mode::run(&mode, &args.target).await,
    }
}

impl Session {
    async fn create(&self, args: CreateArgs) -> Result<(), CliError> {
        let request = create_request(&self.instance, &args)?;
        let id = self.client.create_global_table(request).await?.id;
        self.settle(&args.name, Some(id), args.wait).await
    }

    async fn bind(&self, args: BindArgs, place: &Place) -> Result<(), CliError> {
        let found = self.describe(&args.name).await?;
        if let Some(extract) = args.extract.to_json()? {
            let admin = place.admin_client()?;
            for region in &args.regions {
                let change =
                    json!({ "change": "bind-extract", "region": region, "extract": extract });
                let path = format!("{}/changes", record_path(&args.name));
                let _: Json = admin.post_json(&path, &change).await?;
            }
            return self.settle(&args.name, Some(found.id), args.wait).await;
        }
        let writable = found.serve_mode == Some(ServeMode::PeerToPeer);
        let placements = args
            .regions
            .iter()
            .map(|region| {
                let (region, instance) = split_region(region, &self.instance);
                Placement { region, instance, writable }
            })
            .collect();
        let request = BindGlobalTable { id: found.id.clone(), name: args.name.clone(), placements };
        self.client.bind_global_table(request).await?;
        self.settle(&args.name, Some(found.id), args.wait).await
    }

    async fn unbind(&self, args: UnbindArgs) -> Result<(), CliError> {
        let found = self.describe(&args.name).await?;
        let removals = args
            .regions
            .iter()
            .map(|region| {
                let (region, instance) = split_region(region, &self.instance);
                Removal { region, instance }
            })
            .collect();
        let request = UnbindGlobalTable { id: found.id.clone(), name: args.name.clone(), removals };
        self.client.unbind_global_table(request).await?;
        match self.settle(&args.name, Some(found.id), args.wait).await {
            // With its last replica the global table itself goes.
            Err(error) if error.is_not_found() => self.show_gone(&args.name),
            settled => settled,
        }
    }

    async fn update(&self, args: UpdateArgs) -> Result<(), CliError> {
        if args.writable.is_none() && args.primary_eligible.is_none() {
            return Err(CliError::usage("nothing to change is given")
                .hint("give --writable or --primary-eligible"));
        }
        let found = self.describe(&args.name).await?;
        let (region, instance) = split_region(&args.region_name, &self.instance);
        let replica = ReplicaChange {
            place: TablePlace { region, instance, table: args.name.clone() },
            writable: args.writable,
            primary_eligible: args.primary_eligible,
        };
        let request =
            UpdateGlobalTable { id: found.id, name: args.name.clone(), replica: Some(replica) };
        self.client.update_global_table(request).await?;
        let found = self.describe(&args.name).await?;
        self.show(&args.name, &found)
    }

    async fn describe(&self, name: &str) -> Result<GlobalTableDescription, CliError> {
        self.describe_with(name, None).await
    }

    async fn describe_with(
        &self,
        name: &str,
        id: Option<String>,
    ) -> Result<GlobalTableDescription, CliError> {
        let request =
            DescribeGlobalTable { id, name: name.to_owned(), replica: None, return_rpo: true };
        Ok(self.client.describe_global_table(request).await?)
    }

    /// Waits until all replicas are in use, unless that is not wanted, and shows them.
    async fn settle(&self, name: &str, id: Option<String>, wait: WaitArgs) -> Result<(), CliError> {
        let deadline = Instant::now() + Duration::from_secs(wait.timeout);
        let line = Line::new(!self.json && !wait.no_wait);
        loop {
            let found = self.describe_with(name, id.clone()).await?;
            if wait.no_wait || found.status == GlobalTableStatus::Active {
                line.clear();
                return self.show(name, &found);
            }
            line.set(&progress_text(&found));
            if Instant::now() >= deadline {
                line.clear();
                let message = format!(
                    "global table {name} is not in use everywhere after {} s: {}",
                    wait.timeout,
                    progress_text(&found)
                );
                return Err(CliError::new(Exit::Failed, message).hint(
                    "it goes on by itself; look again with `isthmus global-table describe`",
                ));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn show_gone(&self, name: &str) -> Result<(), CliError> {
        if self.json {
            return output::json(&serde_json::json!({"name": name, "status": "gone"}));
        }
        output::line(&format!(
            "global table {} is gone with its last replica; its tables stay, each for itself",
            output::plain(name)
        ))
    }

    fn show(&self, name: &str, found: &GlobalTableDescription) -> Result<(), CliError> {
        if self.json {
            return output::json(&description_json(name, found));
        }
        let mode = found.serve_mode.map_or("-", serve_word);
        let head = format!(
            "global table {} ({}), {mode}, {}",
            output::plain(name),
            output::plain(&found.id),
            status_word(found.status)
        );
        let rows: Vec<Vec<String>> = found.replicas.iter().map(replica_row).collect();
        let headings = ["REGION", "INSTANCE", "WRITABLE", "STATUS", "STAGE", "ENDPOINT", "MESSAGE"];
        output::line(&format!("{head}\n{}", output::table_text(&headings, &rows)))
    }
}

fn create_request(instance: &str, args: &CreateArgs) -> Result<CreateGlobalTable, CliError> {
    let places: Vec<(String, String)> =
        args.regions.iter().map(|region| split_region(region, instance)).collect();
    for (place, one) in places.iter().enumerate() {
        if places[..place].contains(one) {
            return Err(CliError::usage(format!("region {} is named twice", one.0)));
        }
    }
    if let Some(unknown) = args.writable.iter().flatten().find(|name| !args.regions.contains(name))
    {
        return Err(CliError::usage(format!("--writable {unknown} is not among --regions")));
    }
    let peers = matches!(args.serve, Serve::PeerToPeer);
    let mut places = places.into_iter().zip(&args.regions);
    let ((region, base_instance), _) =
        places.next().ok_or_else(|| CliError::usage("--regions names none"))?;
    let placements = places
        .map(|((region, instance), given)| {
            let writable = args.writable.as_ref().map_or(peers, |names| names.contains(given));
            Placement { region, instance, writable }
        })
        .collect();
    Ok(CreateGlobalTable {
        base: TablePlace { region, instance: base_instance, table: args.name.clone() },
        placements,
        sync_mode: match args.sync {
            Sync::Row => SyncMode::Row,
            Sync::Column => SyncMode::Column,
        },
        serve_mode: Some(match args.serve {
            Serve::PrimarySecondary => ServeMode::PrimarySecondary,
            Serve::PeerToPeer => ServeMode::PeerToPeer,
        }),
    })
}

/// `REGION/INSTANCE`, or a region of the instance that is asked.
fn split_region(text: &str, instance: &str) -> (String, String) {
    match text.split_once('/') {
        Some((region, instance)) => (region.to_owned(), instance.to_owned()),
        None => (text.to_owned(), instance.to_owned()),
    }
}

fn serve_word(mode: ServeMode) -> &'static str {
    match mode {
        ServeMode::PrimarySecondary => "primary-secondary",
        ServeMode::PeerToPeer => "peer-to-peer",
    }
}

fn status_word(status: GlobalTableStatus) -> &'static str {
    match status {
        GlobalTableStatus::Init => "init",
        GlobalTableStatus::Reconfiguring => "reconfiguring",
        GlobalTableStatus::Active => "active",
    }
}

fn replica_word(status: ReplicaStatus) -> &'static str {
    match status {
        ReplicaStatus::Pending => "pending",
        ReplicaStatus::Init => "init",
        ReplicaStatus::SyncData => "copying",
        ReplicaStatus::Ready => "ready",
        ReplicaStatus::Active => "active",
        ReplicaStatus::Unbinding => "unbinding",
        ReplicaStatus::Unbound => "unbound",
    }
}

fn stage_word(stage: SyncStage) -> &'static str {
    match stage {
        SyncStage::Init => "init",
        SyncStage::Full => "full",
        SyncStage::Incremental => "incremental",
    }
}

fn replica_row(replica: &ReplicaDescription) -> Vec<String> {
    vec![
        output::plain(&replica.region),
        output::plain(&replica.instance),
        if replica.writable { "yes" } else { "no" }.to_owned(),
        replica_word(replica.status).to_owned(),
        replica.stage.map_or("-", stage_word).to_owned(),
        output::plain(replica.endpoint.as_deref().unwrap_or("-")),
        output::plain(replica.message.as_deref().unwrap_or_default()),
    ]
}

fn progress_text(found: &GlobalTableDescription) -> String {
    let one = |replica: &ReplicaDescription| {
        let mut text = format!("{} {}", replica.region, replica_word(replica.status));
        if let Some(message) = &replica.message {
            text += &format!(" ({message})");
        }
        text
    };
    output::plain(&found.replicas.iter().map(one).collect::<Vec<_>>().join(", "))
}

fn description_json(name: &str, found: &GlobalTableDescription) -> Json {
    let replica = |replica: &ReplicaDescription| {
        json!({
            "region": replica.region,
            "instance": replica.instance,
            "table": replica.table,
            "writable": replica.writable,
            "status": replica_word(replica.status),
            "status_ms": replica.status_millis,
            "stage": replica.stage.map(stage_word),
            "endpoint": replica.endpoint,
            "role": replica.role,
            "failed": replica.failed,
            "message": replica.message,
            "rpo_nanos": replica.rpo_nanos,
        })
    };
    json!({
        "global_table": name,
        "id": found.id,
        "status": status_word(found.status),
        "serve": found.serve_mode.map(serve_word),
        "replicas": found.replicas.iter().map(replica).collect::<Vec<_>>(),
    })
}

/// The path of the record of a table; the names of partitions have a slash in them.
pub(crate) fn record_path(name: &str) -> String {
    format!("/v1/global-tables/{}", name.replace('/', "%2F"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(regions: &[&str], serve: Serve, writable: Option<&[&str]>) -> CreateArgs {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        CreateArgs {
            name: "t".into(),
            regions: owned(regions),
            serve,
            sync: Sync::Row,
            writable: writable.map(owned),
            wait: WaitArgs { no_wait: true, timeout: 1 },
        }
    }

    #[test]
    fn the_first_region_is_the_base_and_the_others_are_placed() {
        let asked = args(&["r1", "r2", "r3/other"], Serve::PeerToPeer, None);
        let request = create_request("demo", &asked).unwrap();
        assert_eq!((&*request.base.region, &*request.base.instance), ("r1", "demo"));
        assert_eq!(request.placements.len(), 2);
        assert!(request.placements.iter().all(|placement| placement.writable));
        assert_eq!(request.placements[1].instance, "other");
        let asked = args(&["r1", "r2"], Serve::PrimarySecondary, None);
        assert!(!create_request("demo", &asked).unwrap().placements[0].writable);
    }

    #[test]
    fn regions_that_make_no_sense_are_refused() {
        let twice = args(&["r1", "r1"], Serve::PeerToPeer, None);
        assert!(create_request("demo", &twice).unwrap_err().message.contains("named twice"));
        let other = args(&["r1", "r2"], Serve::PeerToPeer, Some(&["r9"]));
        assert!(create_request("demo", &other).unwrap_err().message.contains("r9"));
    }
}
