//! `isthmus job`: what regions are asked to do that takes time: verify, repair, scrub.
//!
//! What must hold: a job belongs to the region that was asked to do it, and its id means nothing
//! elsewhere; where several regions have a job of that id, none is taken by chance.

pub(crate) mod follow;

use clap::{Args, Subcommand};
use isthmus_connectors::admin::{AdminError, Job};
use serde_json::{Value as Json, json};

use crate::error::{CliError, Exit};
use crate::job::follow::{is_over, progress_text, refusal};
use crate::output;
use crate::report::{ReportArgs, json_text};
use crate::target::{Place, TargetArgs};

/// Arguments of `isthmus job`.
#[derive(Args, Debug)]
#[command(after_help = "\
A job is known to the region that started it. Jobs that were running when a region stopped go on
when it is back. All regions that `isthmus up` runs are asked, or the one that is named.

Examples:
  isthmus verify notes --regions r1,r2 --deep --detach
  isthmus job list
  isthmus job show j-12
  isthmus job pause j-12
  isthmus job resume j-12
  isthmus job cancel j-12 --region r1")]
pub(crate) struct JobArgs {
    #[command(subcommand)]
    command: JobCommand,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
}

#[derive(Subcommand, Debug)]
enum JobCommand {
    /// Name all jobs, the newest first
    List {
        /// Running and paused ones only
        #[arg(long)]
        running: bool,
    },
    /// Show a job, with its report once it is done
    Show {
        /// The job
        id: String,
    },
    /// Let a job rest where it is
    Pause {
        /// The job
        id: String,
    },
    /// Let a job go on
    Resume {
        /// The job
        id: String,
    },
    /// End a job; what it did stays
    Cancel {
        /// The job
        id: String,
    },
}

/// Runs one of the commands.
pub(crate) async fn run(args: JobArgs) -> Result<(), CliError> {
    let places = args.target.places()?;
    let json = args.target.json;
    match args.command {
        JobCommand::List { running } => list(&places, running, json).await,
        JobCommand::Show { id } => {
            let (place, job) = find(&places, &id).await?;
            show(&place, &job, json)
        }
        JobCommand::Pause { id } => {
            let (place, _) = find(&places, &id).await?;
            let job = place.admin_client()?.pause_job(&id).await?;
            show(&place, &job, json)
        }
        JobCommand::Resume { id } => {
            let (place, _) = find(&places, &id).await?;
            let job = place.admin_client()?.resume_job(&id).await?;
            show(&place, &job, json)
        }
        JobCommand::Cancel { id } => {
            let (place, _) = find(&places, &id).await?;
            let job = place.admin_client()?.cancel_job(&id).await?;
            show(&place, &job, json)
        }
    }
}

async fn list(places: &[Place], running: bool, json: bool) -> Result<(), CliError> {
    let mut all = Vec::new();
    let mut silent = Vec::new();
    for place in places {
        match place.admin_client()?.jobs().await.map_err(refusal) {
            Ok(jobs) => all.extend(jobs.into_iter().map(|job| (place.shown(), job))),
            Err(error) => silent.push((place, error)),
        }
    }
    if silent.len() == places.len()
        && let Some((place, error)) = silent.pop()
    {
        return Err(error.context(place.shown()));
    }
    for (place, error) in silent {
        eprintln!("{} does not answer: {}", place.shown(), output::plain(&error.message));
    }
    all.retain(|(_, job)| !running || !is_over(&job.state));
    all.sort_by_key(|(_, job)| std::cmp::Reverse(started_ms(job)));
    if json {
        let jobs: Vec<Json> = all.iter().map(|(region, job)| job_json(region, job)).collect();
        return output::json(&json!({ "jobs": jobs }));
    }
    let rows: Vec<Vec<String>> = all.iter().map(|(region, job)| row(region, job)).collect();
    let headings = ["JOB", "REGION", "KIND", "TABLE", "STATE", "TOOK", "PROGRESS"];
    output::line(&output::table_text(&headings, &rows))
}

/// The region that has the job.
async fn find(places: &[Place], id: &str) -> Result<(Place, Job), CliError> {
    let mut found = Vec::new();
    let mut silent = None;
    for place in places {
        match place.admin_client()?.job(id).await {
            Ok(job) => found.push((place.clone(), job)),
            Err(AdminError::Refused { status: 404, .. }) => {}
            Err(error) => silent = Some(CliError::from(error).context(place.shown())),
        }
    }
    if found.len() > 1 {
        let names: Vec<&str> = found.iter().map(|(place, _)| place.shown()).collect();
        let message = format!("job {id} is in each of {}", names.join(", "));
        return Err(CliError::usage(message).hint("name one with --region"));
    }
    match (found.pop(), silent) {
        (Some(found), _) => Ok(found),
        (None, Some(error)) => Err(error),
        (None, None) => Err(CliError::new(Exit::Failed, format!("there is no job {id}"))
            .hint("`isthmus job list` names all")),
    }
}

fn show(place: &Place, job: &Job, json: bool) -> Result<(), CliError> {
    if json {
        return output::line(&json_text(&job_json(place.shown(), job))?);
    }
    let mut text = output::table_text(
        &["JOB", "REGION", "KIND", "TABLE", "STATE", "TOOK", "PROGRESS"],
        &[row(place.shown(), job)],
    );
    if let Some(error) = &job.error {
        text += &format!("\n\nerror: {}", output::plain(error));
    }
    output::line(&text)?;
    if job.result.is_null() {
        return Ok(());
    }
    output::line("")?;
    if job.kind == "scrub" {
        return output::line(&crate::scrub::text(&job.result));
    }
    ReportArgs::default().print(&job.result, false).map(|_| ())
}

fn row(region: &str, job: &Job) -> Vec<String> {
    let word = |name: &str| job.more.get(name).and_then(Json::as_str).map(output::plain);
    let took = job.more.get("elapsed_ms").and_then(Json::as_f64);
    let progress = match is_over(&job.state) {
        true => outcome(job),
        false => progress_text(&job.state, &job.progress),
    };
    vec![
        output::plain(&job.id),
        output::plain(region),
        output::plain(&job.kind),
        word("table").unwrap_or_else(|| "all".to_owned()),
        output::plain(&job.state),
        took.map(|millis| output::span(millis as u64)).unwrap_or_default(),
        progress,
    ]
}

/// What came of a job, in a few words.
fn outcome(job: &Job) -> String {
    if let Some(error) = &job.error {
        return output::plain(error);
    }
    let number = |name: &str| job.result.get(name).and_then(Json::as_u64);
    match (job.kind.as_str(), number("repaired"), job.result.get("equal")) {
        ("scrub", _, _) if !job.result.is_null() => {
            let bad = job.result.get("bad").and_then(Json::as_array).map_or(0, Vec::len);
            if bad == 0 { "sound".to_owned() } else { format!("{bad} ranges damaged") }
        }
        ("repair", Some(rows), _) => format!("{rows} rows repaired"),
        (_, _, Some(Json::Bool(true))) => "alike".to_owned(),
        (_, _, Some(Json::Bool(false))) => {
            format!("{} rows differ", number("rows_differing").unwrap_or(0))
        }
        (_, _, Some(Json::Null)) => "could not tell".to_owned(),
        _ => String::new(),
    }
}

fn started_ms(job: &Job) -> i64 {
    job.more.get("started_ms").and_then(Json::as_i64).unwrap_or(0)
}

/// The job as the region told it, and which region that was.
fn job_json(region: &str, job: &Job) -> Json {
    let mut told = serde_json::Map::new();
    told.insert("id".into(), job.id.clone().into());
    told.insert("region".into(), region.into());
    told.insert("kind".into(), job.kind.clone().into());
    told.insert("state".into(), job.state.clone().into());
    for (name, value) in &job.more {
        told.entry(name.clone()).or_insert_with(|| value.clone());
    }
    told.insert("progress".into(), job.progress.clone());
    told.insert("error".into(), job.error.clone().into());
    told.insert("report".into(), job.result.clone());
    Json::Object(told)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[test]
    fn a_job_is_shown_with_what_came_of_it() {
        let told = json!({"id": "j-3", "kind": "verify", "table": "notes", "state": "done",
            "started_ms": 5, "elapsed_ms": 40, "spec": {"deep": true}, "progress": {},
            "error": null, "report": {"equal": false, "rows_differing": 2}});
        let job = Job::deserialize(told).unwrap();
        let expected = ["j-3", "r1", "verify", "notes", "done", "40 ms", "2 rows differ"];
        assert_eq!(row("r1", &job), expected);
        let again = job_json("r1", &job);
        assert_eq!(again["spec"]["deep"], true);
        assert_eq!(again["report"]["rows_differing"], 2);
        assert_eq!(again["region"], "r1");
    }
}
