//! `isthmus quorum`: how those stand who decide together, and who they are.
//!
//! What must hold: who votes is changed by a person's word only, and it is said whether anything
//! may have happened.

use std::time::Duration;

use clap::Args;
use isthmus_server::status::Status;
use serde_json::{Value as Json, json};

use crate::error::CliError;
use crate::output;
use crate::status::{detection, in_line};
use crate::target::TargetArgs;

/// Longer than a change takes or is given up.
const PATIENCE: Duration = Duration::from_secs(35);

/// Arguments of `isthmus quorum`.
#[derive(Args, Debug)]
#[command(after_help = "\
Regions with [quorum] in their files, and a witness where there is one, decide together who writes
when a region is lost. A majority of those who vote has to be reached for that.

To let one more vote: write it into the files of all regions and of the witness, start them again
one by one, start the new one, and name all who are to vote from then on. To take one out: name the
others, then stop it, and take it out of the files. Change one at a time.

Examples:
  isthmus quorum                            who votes, who leads, how others are observed
  isthmus quorum --voters r1,r2,r3,r4,w1    those vote from now on
  isthmus quorum --region r2 --json")]
pub(crate) struct QuorumArgs {
    /// Let these vote from now on: names of regions and of the witness
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    voters: Vec<String>,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
}

/// Shows the quorum or changes who votes.
pub(crate) async fn run(args: QuorumArgs) -> Result<(), CliError> {
    let admin = args.target.answering(&[]).await?.admin_client_within(PATIENCE)?;
    if !args.voters.is_empty() {
        let done: Json = admin.post_json("/v1/quorum", &json!({ "voters": args.voters })).await?;
        return match args.target.json {
            true => output::json(&done),
            false => output::line(&format!("from now on {} vote", args.voters.join(", "))),
        };
    }
    let status: Status = admin.get_json("/v1/status").await?;
    let Some(quorum) = &status.quorum else {
        return Err(CliError::failed(format!(
            "region {} takes no part in a quorum",
            output::plain(&status.region)
        ))
        .hint("add [quorum] to the files of all regions: `docs/operating.md` says how"));
    };
    match args.target.json {
        true => output::json(&json!(quorum)),
        false => {
            output::line(&in_line(quorum))?;
            match &quorum.detection {
                Some(told) => output::line(&format!(
                    "{} detects {}",
                    output::plain(&status.region),
                    detection::in_line(told)
                )),
                None => Ok(()),
            }
        }
    }
}
