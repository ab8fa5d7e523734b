//! `isthmus wait`: until regions have a write that a receipt names, or time is up.
//!
//! What must hold: exit code 0 says that all of the regions have it durably and show it, and
//! nothing else does.

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use crate::error::CliError;
use crate::output;
use crate::target::TargetArgs;
use crate::units;

/// Arguments of `isthmus wait`.
#[derive(Args, Debug)]
#[command(after_help = "\
A write that is sent with the header `x-isthmus-receipt: wanted` is answered with one that names
it. With --table the receipt is made now and names all that the region which is asked has written
of the table. With --json one line: {\"held\":BOOL,\"regions\":[{\"region\":..., \"held\":BOOL,
\"reason\":...}, ...]}

Examples:
  isthmus wait --receipt AQEAAA... --regions r2,r3 --timeout 5s
  isthmus wait --table notes --region r1

Exit code 1 if time is up before all have it.")]
pub(crate) struct WaitArgs {
    /// The receipt
    #[arg(long, alias = "token", value_name = "RECEIPT", required_unless_present = "table")]
    receipt: Option<String>,
    /// The table of which everything written so far is waited for
    #[arg(long, value_name = "NAME", conflicts_with = "receipt")]
    table: Option<String>,
    /// The regions [default: all that hold the table]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    regions: Vec<String>,
    /// How long to wait, at most 10m
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = units::seconds)]
    timeout: u64,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
}

/// What is answered.
#[derive(Debug, Deserialize, Serialize)]
struct Told {
    held: bool,
    regions: Vec<Standing>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Standing {
    region: String,
    held: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// Waits and tells.
pub(crate) async fn run(args: WaitArgs) -> Result<(), CliError> {
    let admin = args.target.place()?.admin_client()?;
    let receipt = match (&args.receipt, &args.table) {
        (Some(receipt), _) => json!(receipt),
        (None, table) => {
            let name = table.as_deref().unwrap_or_default();
            let made: Json = admin.get_json(&format!("/v1/tables/{name}/receipt")).await?;
            made["receipt"].clone()
        }
    };
    // The port is asked again and again, so that no single answer takes long.
    let mut left = args.timeout.min(600) * 1000;
    let told = loop {
        let step = left.min(5_000);
        left -= step;
        let asked = json!({ "receipt": receipt, "regions": args.regions, "timeout_ms": step });
        let told: Told = admin.post_json("/v1/receipts/wait", &asked).await?;
        if told.held || left == 0 {
            break told;
        }
    };
    let text = told.regions.iter().map(text).collect::<Vec<_>>().join("\n");
    match (args.target.json, told.held) {
        (true, _) => output::json(&told)?,
        (false, _) => output::line(&text)?,
    }
    if told.held {
        return Ok(());
    }
    Err(CliError::failed(format!("not all regions have it after {} s", args.timeout))
        .hint("it is on its way; `isthmus status` shows the links"))
}

fn text(one: &Standing) -> String {
    let region = output::plain(&one.region);
    match &one.reason {
        None => format!("{region} has it"),
        Some(reason) => format!("{region} does not have it: {}", output::plain(reason)),
    }
}
