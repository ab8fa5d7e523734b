//! `isthmus global-table mode`: when writes of a table are answered.
//!
//! What must hold: the base decides, and a mode that asks for more regions than there are is
//! refused there and nothing changes.

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::{Value as Json, json};

use crate::error::CliError;
use crate::global_table::record_path;
use crate::output;
use crate::target::TargetArgs;

/// How often it is looked whether the region that was asked knows of a change.
const LOOK_EVERY: Duration = Duration::from_millis(200);
const LOOKS_MAX: usize = 25;

/// Arguments of `isthmus global-table mode`.
#[derive(Args, Debug)]
#[command(after_help = "\
Without MODE it shows the mode. A write that is answered in semi-sync is durable in so many other
regions. Past the bound in entries or in time the region that writes falls back, and climbs back by
itself when the others keep up: `wait` goes on and tells the outcome of writes that wait too long
as unknown, `refuse` makes no writes, `async` answers without waiting. Replicas that are paused,
timed or take less than all do not count.

In sync a write is prepared in other regions before it is made, so it is seen nowhere before it
would outlive the loss of a region, and reads give the newest state whatever region is asked.
Two-phase asks all regions for their votes; three-phase as many as make a majority with the one that
writes, so that one of three may be away. `--fallback async` makes writes alone past the bound.

Examples:
  isthmus global-table mode notes
  isthmus global-table mode notes semi-sync
  isthmus global-table mode notes semi-sync --held-by 2 --bound-ms 500 --fallback async
  isthmus global-table mode notes sync
  isthmus global-table mode notes sync --form two-phase --patience-ms 5000
  isthmus global-table mode notes async")]
pub(crate) struct ModeArgs {
    /// The table
    name: String,
    /// When writes are answered
    #[arg(value_name = "MODE")]
    mode: Option<Mode>,
    /// Other regions that must hold a write [default: 1]
    #[arg(long, value_name = "COUNT", requires = "mode")]
    held_by: Option<u8>,
    /// Whose votes decide a synchronous write [default: three-phase]
    #[arg(long, value_name = "FORM", requires = "mode")]
    form: Option<Form>,
    /// Entries that they may lack [default: 100000]
    #[arg(long, value_name = "COUNT", requires = "mode")]
    bound_entries: Option<u64>,
    /// How long they may lack one, in milliseconds [default: 2000]
    #[arg(long, value_name = "MS", requires = "mode")]
    bound_ms: Option<u64>,
    /// How long one write waits, in milliseconds [default: 10000]
    #[arg(long, value_name = "MS", requires = "mode")]
    patience_ms: Option<u64>,
    /// What happens past the bound [default: wait]
    #[arg(long, value_name = "WHAT", requires = "mode")]
    fallback: Option<Fallback>,
}

/// When writes are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// When they are durable in their region
    Async,
    /// When other regions hold them, too
    SemiSync,
    /// When they are made, after other regions have prepared them
    Sync,
}

/// Whose votes decide.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Form {
    /// Those of all other regions
    TwoPhase,
    /// Those of so many that a majority holds the write
    ThreePhase,
}

/// What happens past the bound.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Fallback {
    /// Go on writing and waiting
    Wait,
    /// Make no more writes
    Refuse,
    /// Answer without waiting
    Async,
}

/// Shows or changes the mode.
pub(crate) async fn run(args: &ModeArgs, target: &TargetArgs) -> Result<(), CliError> {
    let wanted = wanted(args)?;
    let admin = target.place()?.admin_client()?;
    let path = record_path(&args.name);
    let mut record: Json = admin.get_json(&path).await?;
    if let Some(mode) = wanted {
        let change = json!({ "change": "set-mode", "mode": mode });
        let told: Json = admin.post_json(&format!("{path}/changes"), &change).await?;
        for _ in 0..LOOKS_MAX {
            record = admin.get_json(&path).await?;
            if record["version"].as_u64() >= told["version"].as_u64() {
                break;
            }
            // The base has it; the region that was asked is told of it soon.
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    show(&args.name, &record, target.json)
}

/// The mode that is asked for; `None`: it is to be shown.
fn wanted(args: &ModeArgs) -> Result<Option<Json>, CliError> {
    let Some(mode) = args.mode else { return Ok(None) };
    let numbers = [
        ("bound_entries", args.bound_entries),
        ("bound_ms", args.bound_ms),
        ("patience_ms", args.patience_ms),
    ];
    let given = numbers.into_iter().filter_map(|(name, number)| Some((name, json!(number?))));
    let fallback = args.fallback.map(|fallback| match fallback {
        Fallback::Wait => json!("wait"),
        Fallback::Refuse => json!("refuse"),
        Fallback::Async => json!("async"),
    });
    let given: Vec<(&str, Json)> = given.chain(fallback.map(|it| ("fallback", it))).collect();
    match mode {
        Mode::Async | Mode::SemiSync if args.form.is_some() => {
            Err(CliError::usage("--form is for the mode sync").hint("leave it out"))
        }
        Mode::Sync if args.held_by.is_some() || args.bound_entries.is_some() => {
            Err(CliError::usage("--held-by and --bound-entries are for semi-sync")
                .hint("`--form` says whose votes a synchronous write needs"))
        }
        Mode::Sync => {
            let form = match args.form {
                Some(Form::TwoPhase) => "two-phase",
                Some(Form::ThreePhase) | None => "three-phase",
            };
            let mut asked = json!({ "answers": "sync", "form": form });
            for (name, value) in given {
                asked[name] = value;
            }
            Ok(Some(asked))
        }
        Mode::Async if args.held_by.is_some() || !given.is_empty() => {
            Err(CliError::usage("in async nobody is waited for").hint("leave the options out"))
        }
        Mode::Async => Ok(Some(json!({ "answers": "async" }))),
        Mode::SemiSync => {
            let mut asked = json!({ "answers": "semi-sync", "held_by": args.held_by.unwrap_or(1) });
            for (name, value) in given {
                asked[name] = value;
            }
            Ok(Some(asked))
        }
    }
}

fn show(name: &str, record: &Json, as_json: bool) -> Result<(), CliError> {
    let mode = match record.get("mode") {
        Some(mode) => mode.clone(),
        None => json!({ "answers": "async" }),
    };
    if as_json {
        return output::json(&json!({
            "global_table": name,
            "version": record["version"],
            "mode": mode,
        }));
    }
    let text = match mode["answers"].as_str() {
        Some("semi-sync") => format!(
            "semi-sync: writes are answered when {} other regions hold them; past {} entries or \
             {} ms: {}; a write waits {} ms",
            mode["held_by"],
            mode["bound_entries"],
            mode["bound_ms"],
            mode["fallback"].as_str().unwrap_or("-"),
            mode["patience_ms"]
        ),
        Some("sync") => format!(
            "sync, {}: writes are made when other regions have prepared them; past {} ms: {}; a \
             write waits {} ms",
            mode["form"].as_str().unwrap_or("-"),
            mode["bound_ms"],
            mode["fallback"].as_str().unwrap_or("-"),
            mode["patience_ms"]
        ),
        _ => "async: writes are answered when they are durable in their region".to_owned(),
    };
    output::line(&format!("global table {}: {}", output::plain(name), output::plain(&text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(mode: Option<Mode>) -> ModeArgs {
        ModeArgs {
            name: "t".into(),
            mode,
            held_by: None,
            form: None,
            bound_entries: None,
            bound_ms: None,
            patience_ms: None,
            fallback: None,
        }
    }

    #[test]
    fn what_is_given_is_asked_and_the_rest_has_its_default() {
        assert_eq!(wanted(&args(None)).unwrap(), None);
        let asked = ModeArgs {
            bound_ms: Some(500),
            fallback: Some(Fallback::Refuse),
            ..args(Some(Mode::SemiSync))
        };
        let expected =
            json!({"answers": "semi-sync", "held_by": 1, "bound_ms": 500, "fallback": "refuse"});
        assert_eq!(wanted(&asked).unwrap(), Some(expected));
        let asked = ModeArgs { patience_ms: Some(900), ..args(Some(Mode::Sync)) };
        let expected = json!({"answers": "sync", "form": "three-phase", "patience_ms": 900});
        assert_eq!(wanted(&asked).unwrap(), Some(expected));
        assert!(wanted(&ModeArgs { held_by: Some(2), ..args(Some(Mode::Sync)) }).is_err());
        assert!(
            wanted(&ModeArgs { form: Some(Form::TwoPhase), ..args(Some(Mode::Async)) }).is_err()
        );
        let none = ModeArgs { held_by: Some(2), ..args(Some(Mode::Async)) };
        assert!(wanted(&none).is_err());
    }
}
