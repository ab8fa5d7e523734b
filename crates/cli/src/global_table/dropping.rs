//! `isthmus global-table drop`: the table goes in every region.

use clap::Args;
use isthmus_connectors::admin::escaped;
use isthmus_protocol::response::{GlobalTableDescription, ReplicaStatus};
use serde_json::{Value as Json, json};
use std::time::Duration;
use tokio::time::Instant;

use super::{POLL, Session, WaitArgs};
use crate::error::{CliError, Exit};
use crate::output;
use crate::progress::Line;
use crate::target::Place;

/// Arguments of `isthmus global-table drop`.
#[derive(Args, Debug)]
#[command(after_help = "\
The drop is an entry of the table's log: each region obeys it where its log comes to it, and no
client sees the table there from then on. Rows and logs are removed when every region has had it;
one that is away learns it when it is back. A new table may have the name at once; it is another
table.

Examples:
  isthmus global-table drop notes
  isthmus global-table drop notes --no-wait")]
pub(super) struct DropArgs {
    /// The table
    name: String,
    #[command(flatten)]
    wait: WaitArgs,
}

impl Session {
    /// Drops the table and waits until every region has had that.
    pub(super) async fn drop_table(&self, args: DropArgs, place: &Place) -> Result<(), CliError> {
        let found = self.describe(&args.name).await?;
        let admin = place.admin_client()?;
        let path = format!("/v1/tables/{}/changes", escaped(&args.name));
        let told: Json = admin.post_json(&path, &json!({ "change": "drop" })).await?;
        let deadline = Instant::now() + Duration::from_secs(args.wait.timeout);
        let line = Line::new(!self.json && !args.wait.no_wait);
        let left = loop {
            let left = match self.describe_with(&args.name, Some(found.id.clone())).await {
                Ok(found) => Some(waited_for(&found)),
                Err(error) if error.is_not_found() => None,
                Err(error) => return Err(error),
            };
            if left.is_none() || args.wait.no_wait || Instant::now() >= deadline {
                break left;
            }
            line.set(&format!("dropped; waits for {}", words(left.as_deref())));
            tokio::time::sleep(POLL).await;
        };
        line.clear();
        if left.is_some() && !args.wait.no_wait {
            let message = format!(
                "table {} is dropped, and after {} s it still waits for {}",
                args.name,
                args.wait.timeout,
                words(left.as_deref())
            );
            return Err(CliError::new(Exit::Failed, message)
                .hint("it goes on by itself once these are reached and their links run"));
        }
        self.show_dropped(&args.name, &told["schema"], left)
    }

    fn show_dropped(
        &self,
        name: &str,
        schema: &Json,
        left: Option<Vec<String>>,
    ) -> Result<(), CliError> {
        if self.json {
            return output::json(&json!({
                "global_table": name,
                "schema": schema,
                "gone": left.is_none(),
                "waits_for": left.unwrap_or_default(),
            }));
        }
        let name = output::plain(name);
        output::line(&match &left {
            None => format!("table {name} is dropped and gone in every region"),
            Some(regions) => {
                let waits = words(Some(regions));
                format!("table {name} is dropped with schema {schema}; it waits for {waits}")
            }
        })
    }
}

/// The regions that have not had the drop; the base, which is the first one, has.
fn waited_for(found: &GlobalTableDescription) -> Vec<String> {
    let others = found.replicas.iter().skip(1);
    let waited_for = others.filter(|replica| replica.status != ReplicaStatus::Unbound);
    waited_for.map(|replica| replica.region.clone()).collect()
}

fn words(regions: Option<&[String]>) -> String {
    match regions.unwrap_or_default() {
        [] => "rows and logs to be removed".to_owned(),
        regions => output::plain(&regions.join(", ")),
    }
}
