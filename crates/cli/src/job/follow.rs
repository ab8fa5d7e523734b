//! Starts a job in a region and stays with it until it ends.
//!
//! What must hold: Ctrl-C cancels the job and says so; a region that goes away for a while does
//! not end the waiting, since its jobs go on when it is back; what the job found is left to the
//! caller.

use std::time::Duration;

use isthmus_connectors::admin::{Admin, AdminError, Job};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use tokio::time::Instant;

use crate::error::{CliError, Exit};
use crate::output;
use crate::progress::{Share, count};
use crate::target::Place;
use crate::up::StopSignals;

/// Where jobs are.
const JOBS: &str = "/v1/jobs";
/// The first wait before a job is asked for; short, because most are done in milliseconds.
const POLL_MIN: Duration = Duration::from_millis(2);
/// The longest.
const POLL_MAX: Duration = Duration::from_millis(250);
/// How long a region may be silent while its job is waited for.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How long cancelling may take.
const CANCEL_MAX: Duration = Duration::from_secs(5);

/// A job that was started.
pub(crate) struct Started {
    admin: Admin,
    region: String,
    /// Names it within the region.
    pub(crate) id: String,
    /// Listens since before the job was asked for, so that no signal leaves it running.
    stop: StopSignals,
}

/// The answer to starting one.
#[derive(Deserialize)]
struct Id {
    id: String,
}

/// What a job says of how far it is.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Progress {
    phase: String,
    rows_done: u64,
    rows_total: Option<u64>,
    bytes: u64,
    fraction: Option<f64>,
    seconds_left: Option<f64>,
}

impl Started {
    /// Asks the region to begin. A signal meanwhile cancels what has begun.
    pub(crate) async fn start(place: &Place, wish: &Json) -> Result<Started, CliError> {
        let mut stop = StopSignals::new()?;
        let admin = place.admin_client()?;
        let asked = async {
            let mut asked = std::pin::pin!(admin.post_json(JOBS, wish));
            tokio::select! {
                answer = &mut asked => Some((answer, false)),
                () = stop.next() => {
                    let answer = tokio::time::timeout(CANCEL_MAX, asked).await;
                    answer.ok().map(|answer| (answer, true))
                }
            }
        };
        let Some((answer, is_stopped)) = asked.await else {
            return Err(CliError::new(Exit::Stopped, "stopped, but a job may have begun")
                .hint("`isthmus job list --running` tells"));
        };
        let Id { id } = answer.map_err(refusal)?;
        let mut started = Started { admin, region: place.shown().to_owned(), id, stop };
        match is_stopped {
            false => Ok(started),
            true => Err(started.cancel().await),
        }
    }

    /// Says which job it is and leaves it to itself.
    pub(crate) fn detach(&self, json: bool) -> Result<(), CliError> {
        if json {
            return output::json(&json!({ "id": self.id, "region": self.region }));
        }
        eprintln!("`isthmus job show {}` tells how it does", self.id);
        output::line(&self.id)
    }

    /// Waits until it has ended, whichever way.
    pub(crate) async fn wait(&mut self, shown: bool) -> Result<Job, CliError> {
        let bar = Share::new(shown);
        let ended = tokio::select! {
            ended = ended(&self.admin, &self.region, &self.id, &bar) => Some(ended),
            () = self.stop.next() => None,
        };
        let ended = match ended {
            Some(ended) => ended,
            None => Err(self.cancel().await),
        };
        bar.clear();
        ended
    }

    /// Ends the job; what to tell about it. A second signal does not wait for the answer.
    async fn cancel(&mut self) -> CliError {
        let cancelled = tokio::select! {
            answer = tokio::time::timeout(CANCEL_MAX, self.admin.cancel_job(&self.id)) => {
                matches!(answer, Ok(Ok(_)))
            }
            () = self.stop.next() => false,
        };
        if cancelled {
            return CliError::new(Exit::Stopped, format!("stopped, job {} is cancelled", self.id));
        }
        CliError::new(Exit::Stopped, format!("stopped, but job {} may go on", self.id))
            .hint(format!("`isthmus job cancel {}` ends it", self.id))
    }
}

async fn ended(admin: &Admin, region: &str, id: &str, bar: &Share) -> Result<Job, CliError> {
    let mut wait = POLL_MIN;
    let mut silent_since = None;
    let mut rates = Rates::new();
    loop {
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(POLL_MAX);
        match admin.job(id).await {
            Ok(job) if is_over(&job.state) => return Ok(job),
            Ok(job) => {
                silent_since = None;
                let progress = Progress::deserialize(&job.progress).unwrap_or_default();
                let rate = rates.next(progress.rows_done);
                bar.set(progress.fraction.unwrap_or(0.0), &text(&job.state, &progress, rate));
            }
            Err(AdminError::Http(error)) => {
                let since = *silent_since.get_or_insert_with(Instant::now);
                bar.set(0.0, &format!("{region} does not answer, waiting"));
                if since.elapsed() > SILENCE_MAX {
                    return Err(CliError::from(AdminError::Http(error)).hint(format!(
                        "job {id} goes on once the region is back: `isthmus job show {id}`"
                    )));
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// The report of a job that is done; why there is none.
pub(crate) fn report(job: Job) -> Result<Json, CliError> {
    let id = &job.id;
    if !job.result.is_null() {
        return Ok(job.result);
    }
    match (job.error, job.state.as_str()) {
        (Some(error), _) => Err(CliError::failed(format!("job {id} failed: {error}"))),
        (None, "cancelled") => Err(CliError::failed(format!("job {id} was cancelled"))),
        (None, state) => Err(CliError::failed(format!("job {id} is {state} without a report"))),
    }
}

/// Whether a job in this state does nothing any more.
pub(crate) fn is_over(state: &str) -> bool {
    matches!(state, "done" | "failed" | "cancelled")
}

/// What a region says of a wish that it refuses: in its own words, which are for people.
pub(crate) fn refusal(error: AdminError) -> CliError {
    match error {
        AdminError::Refused { status: 404, path, .. } if path == JOBS => {
            CliError::failed("the region has no jobs")
                .hint("its program is older than this one; replace it")
        }
        AdminError::Refused { status: 400, message, .. } => {
            CliError::usage(message.trim_end_matches('.'))
        }
        AdminError::Refused { message, .. } => CliError::failed(message.trim_end_matches('.')),
        AdminError::Http(_) | AdminError::Answer { .. } => error.into(),
    }
}

/// What a job does, in one line.
pub(crate) fn progress_text(state: &str, progress: &Json) -> String {
    text(state, &Progress::deserialize(progress).unwrap_or_default(), None)
}

fn text(state: &str, progress: &Progress, rate: Option<u64>) -> String {
    let phase = if progress.phase.is_empty() { state } else { &progress.phase };
    let mut text = output::plain(phase);
    if state == "paused" {
        text = "paused".to_owned();
    }
    match progress.rows_total {
        Some(total) if total > 0 => {
            text += &format!("  {} of {} rows", count(progress.rows_done), count(total));
        }
        _ if progress.rows_done > 0 => text += &format!("  {} rows", count(progress.rows_done)),
        _ => {}
    }
    if let Some(rate) = rate.filter(|rate| *rate > 0) {
        text += &format!("  {} rows/s", count(rate));
    }
    if progress.bytes > 0 {
        text += &format!("  {}", output::bytes(progress.bytes));
    }
    if let Some(left) = progress.seconds_left.filter(|_| state == "running") {
        text += &format!("  {} left", output::span((left.max(0.0) * 1e3) as u64));
    }
    text
}

/// Rows per second, over at least a second.
struct Rates {
    since: Instant,
    rows: u64,
    rate: Option<u64>,
}

impl Rates {
    fn new() -> Rates {
        Rates { since: Instant::now(), rows: 0, rate: None }
    }

    fn next(&mut self, rows: u64) -> Option<u64> {
        let seconds = self.since.elapsed().as_secs_f64();
        if seconds >= 1.0 {
            self.rate = Some((rows.saturating_sub(self.rows) as f64 / seconds) as u64);
            (self.since, self.rows) = (Instant::now(), rows);
        }
        self.rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_in_words() {
        let told = json!({"phase": "reading", "rows_done": 1200, "rows_total": 5000,
                          "bytes": 2048, "fraction": 0.24, "seconds_left": 3});
        let expected = "reading  1,200 of 5,000 rows  2.0 KiB  3.0 s left";
        assert_eq!(progress_text("running", &told), expected);
        assert_eq!(progress_text("paused", &json!({"phase": "reading"})), "paused");
        assert_eq!(progress_text("running", &Json::Null), "running");
    }

    #[test]
    fn a_job_without_a_report_says_why() {
        let job = |told: Json| report(Job::deserialize(told).unwrap());
        let done = json!({"id": "j-1", "state": "done", "report": {"equal": true}});
        assert_eq!(job(done).unwrap(), json!({"equal": true}));
        let failed = json!({"id": "j-1", "state": "failed", "error": "no such table"});
        assert_eq!(job(failed).unwrap_err().message, "job j-1 failed: no such table");
        let cancelled = json!({"id": "j-1", "state": "cancelled", "report": null});
        assert_eq!(job(cancelled).unwrap_err().message, "job j-1 was cancelled");
    }
}
