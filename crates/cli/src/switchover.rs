//! `isthmus switchover`: another region writes a primary-secondary table from now on.
//!
//! What must hold: it works against any region; when it ends with 0 the other region writes; when
//! it ends otherwise the message says whether anything may have happened.

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::error::CliError;
use crate::global_table::record_path;
use crate::output;
use crate::target::TargetArgs;

/// Longer than the regions take to do it or to give up.
const PATIENCE: Duration = Duration::from_secs(32);

/// Arguments of `isthmus switchover`.
#[derive(Args, Debug)]
#[command(after_help = "\
Only a whole replica that follows can take over: not one that is being copied, takes a part of the
table, or whose link is paused, stopped or does not ship at once. No acknowledged write is lost, and
at no moment two regions write. Clients of the region that wrote before need not be changed: it
passes writes on, unless --at-secondary refuse says otherwise.

Examples:
  isthmus switchover notes --to r2
  isthmus switchover notes --at-secondary forward      set that alone")]
pub(crate) struct SwitchoverArgs {
    /// The table
    name: String,
    /// The region that is to write
    #[arg(long, value_name = "REGION", required_unless_present = "at_secondary")]
    to: Option<String>,
    /// What secondaries do with writes from now on [default: forward once the writer has changed]
    #[arg(long, value_name = "WHAT")]
    at_secondary: Option<AtSecondary>,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
}

/// What secondaries do with writes.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum AtSecondary {
    /// Refuse them and name the region that writes
    Refuse,
    /// Have them done there
    Forward,
}

impl AtSecondary {
    fn as_str(self) -> &'static str {
        match self {
            AtSecondary::Refuse => "refuse",
            AtSecondary::Forward => "forward",
        }
    }
}

/// What came of it.
#[derive(Debug, Default, Deserialize, Serialize)]
struct Switched {
    version: u64,
    changed: bool,
    primary: Option<String>,
    epoch: Option<u64>,
    lsn: Option<u64>,
    pause_ms: Option<f64>,
}

/// Lets another region write.
pub(crate) async fn run(args: SwitchoverArgs) -> Result<(), CliError> {
    let admin = args.target.answering(&[]).await?.admin_client_within(PATIENCE)?;
    let path = format!("{}/changes", record_path(&args.name));
    let mut done = Switched::default();
    if let Some(what) = args.at_secondary {
        let change = json!({ "change": "set-writes", "at_secondary": what.as_str() });
        done = admin.post_json(&path, &change).await?;
    }
    if let Some(to) = &args.to {
        if !args.target.json {
            eprintln!("waiting for region {} to catch up and take over", output::plain(to));
        }
        done = admin.post_json(&path, &json!({ "change": "switchover", "to": to })).await?;
    }
    match args.target.json {
        true => output::json(&done),
        false => output::line(&in_words(&args.name, &done)),
    }
}

fn in_words(name: &str, done: &Switched) -> String {
    let name = output::plain(name);
    match (&done.primary, done.changed) {
        (Some(primary), true) => format!(
            "region {} writes {name} in epoch {}; nobody wrote for {:.1} ms",
            output::plain(primary),
            done.epoch.unwrap_or_default(),
            done.pause_ms.unwrap_or_default(),
        ),
        (Some(primary), false) => {
            format!("region {} writes {name} already", output::plain(primary))
        }
        (None, true) => format!("set; version {} of the record of {name}", done.version),
        (None, false) => {
            format!("it is so already in version {} of the record of {name}", done.version)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: SwitchoverArgs,
    }

    #[test]
    fn something_must_be_asked_for() {
        let parse = |words: &[&str]| Line::try_parse_from([&["s", "t"], words].concat());
        assert!(parse(&[]).is_err());
        assert_eq!(parse(&["--to", "r2"]).unwrap().args.to.as_deref(), Some("r2"));
        assert!(parse(&["--at-secondary", "forward"]).is_ok());
        assert!(parse(&["--at-secondary", "drop"]).is_err());
    }

    #[test]
    fn answer_is_told_in_words() {
        let told =
            r#"{"version":7,"changed":true,"primary":"r2","epoch":2,"lsn":9,"pause_ms":12.3}"#;
        let done: Switched = serde_json::from_str(told).unwrap();
        let words = "region r2 writes t in epoch 2; nobody wrote for 12.3 ms";
        assert_eq!(in_words("t", &done), words);
        let done: Switched = serde_json::from_str(r#"{"version":7,"changed":true}"#).unwrap();
        assert_eq!(in_words("t", &done), "set; version 7 of the record of t");
    }
}
