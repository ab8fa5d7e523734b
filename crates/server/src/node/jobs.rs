//! Jobs of this node: verify, repair, scrub. Started, paused, resumed, cancelled, and taken up
//! again after a restart.
//!
//! What a job may become is decided in `state`; here it is given a thread, and what must survive
//! is kept in a note of the store: what was asked for and where it had come to. A job that is
//! paused gives its thread back. Few run at once and few are kept; the rows of old reports go
//! first.

pub mod control;
pub mod spec;
pub mod state;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use isthmus_protocol::error_code::ErrorCode;
use isthmus_store::{Store, StoreError};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use self::control::Control;
use self::spec::Spec;
use self::state::{Action, Event, Life, Outcome, State};
use crate::api_error::ApiError;
use crate::node::Node;

/// Jobs that run at once.
pub const RUNNING_MAX: usize = 4;
/// Jobs kept.
pub const JOBS_MAX: usize = 100;
/// Rows in the reports of all jobs; older reports lose theirs.
const REPORT_ROWS_MAX: usize = 200_000;
/// Bytes of a note; a place that is larger is not kept, and the job begins anew.
const NOTE_BYTES_MAX: usize = 4 * 1024 * 1024;
const NOTES: &str = "job/";
const LAST_NOTE: &[u8] = b"last-job";

/// One job.
struct Job {
    spec: Spec,
    life: Life,
    started_millis: i64,
    /// Time it has run before it was last begun.
    ran: Duration,
    began: Option<Duration>,
    control: Arc<Control>,
    place: Option<Json>,
    error: Option<String>,
    report: Option<Json>,
}

/// What is kept at rest of a job.
#[derive(Serialize, Deserialize)]
struct Note {
    spec: Spec,
    paused: bool,
    started_millis: i64,
    ran_millis: u64,
    place: Option<Json>,
}

#[derive(Default)]
struct Inner {
    jobs: BTreeMap<u64, Job>,
    last: u64,
    stopping: bool,
}

/// The jobs of a node.
#[derive(Default)]
pub struct Jobs(Mutex<Inner>);

fn note_name(id: u64) -> Vec<u8> {
    format!("{NOTES}{id:016x}").into_bytes()
}

fn no_job(id: &str) -> ApiError {
    let message = format!("There is no job {id}; GET /v1/jobs names all.");
    ApiError::new(ErrorCode::ObjectNotExist, message)
}

fn too_many_running() -> ApiError {
    let message =
        format!("{RUNNING_MAX} jobs run already: wait for one to end, or pause or cancel one.");
    ApiError::new(ErrorCode::ServerBusy, message)
}

fn id_of(text: &str) -> Option<u64> {
    let digits = text.strip_prefix("j-")?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

impl Jobs {
    /// The jobs that had not ended when the node stopped. One whose note is damaged is left out.
    pub(crate) fn read(store: &Store) -> Result<Jobs, StoreError> {
        let mut inner = Inner::default();
        if let Some(last) = store.note(LAST_NOTE)? {
            inner.last = serde_json::from_slice(&last).unwrap_or(0);
        }
        for (name, note) in store.notes(NOTES.as_bytes())? {
            let text = name.strip_prefix(NOTES.as_bytes()).map(String::from_utf8_lossy);
            let id = text.and_then(|text| u64::from_str_radix(&text, 16).ok());
            let (Some(id), Ok(note)) = (id, serde_json::from_slice::<Note>(&note)) else {
                tracing::warn!("the note of a job is damaged, the job is left out");
                continue;
            };
            inner.last = inner.last.max(id);
            let life = Life::kept(note.paused);
            let job = Job {
                spec: note.spec,
                life,
                started_millis: note.started_millis,
                ran: Duration::from_millis(note.ran_millis),
                began: None,
                control: Arc::default(),
                place: note.place,
                error: None,
                report: None,
            };
            inner.jobs.insert(id, job);
        }
        Ok(Jobs(Mutex::new(inner)))
    }

    /// Tells all that run to halt where they are; they go on after the next start.
    pub(crate) fn stop(&self) {
        let mut inner = self.0.lock();
        inner.stopping = true;
        inner.jobs.values().for_each(|job| job.control.halt());
    }

    /// Whether a job on this table runs.
    pub(crate) fn is_busy_with(&self, table: &str) -> bool {
        let inner = self.0.lock();
        let mut running = inner.jobs.values().filter(|job| job.life.state() == State::Running);
        running.any(|job| job.spec.table() == Some(table))
    }
}

impl Inner {
    fn running(&self) -> usize {
        self.jobs.values().filter(|job| job.life.is_working()).count()
    }

    /// Makes room for one more.
    fn make_room(&mut self) -> Result<(), ApiError> {
        if self.running() >= RUNNING_MAX {
            return Err(too_many_running());
        }
        if self.jobs.len() < JOBS_MAX {
            return Ok(());
        }
        let over = |(id, job): (&u64, &Job)| job.life.is_over().then_some(*id);
        let Some(oldest) = self.jobs.iter().find_map(over) else {
            let message = format!("{JOBS_MAX} jobs are kept and none has ended: cancel one.");
            return Err(ApiError::new(ErrorCode::ServerBusy, message));
        };
        self.jobs.remove(&oldest);
        Ok(())
    }

    /// Takes the rows out of old reports where all together are too many.
    fn bound_reports(&mut self) {
        let mut rows = 0;
        for job in self.jobs.values_mut().rev() {
            let Some(report) = &mut job.report else { continue };
            let listed = report["rows"].as_array().map_or(0, Vec::len);
            rows += listed;
            if rows > REPORT_ROWS_MAX && listed > 0 {
                report["rows"] = json!([]);
                report["more"] = json!(true);
            }
        }
    }
}

impl Node {
    /// Starts a job and gives its id.
    pub async fn start_job(self: &Arc<Self>, spec: Spec) -> Result<String, ApiError> {
        self.check_spec(&spec)?;
        let (id, note) = {
            let mut inner = self.jobs.0.lock();
            if inner.stopping {
                let message = "The region is stopping.";
                return Err(ApiError::new(ErrorCode::ServerUnavailable, message));
            }
            inner.make_room()?;
            inner.last += 1;
            let id = inner.last;
            let job = Job {
                spec,
                life: Life::new(),
                started_millis: self.clock.wall_millis(),
                ran: Duration::ZERO,
                began: None,
                control: Arc::default(),
                place: None,
                error: None,
                report: None,
            };
            let note = job.note();
            inner.jobs.insert(id, job);
            (id, note)
        };
        let last = serde_json::to_vec(&id).unwrap_or_default();
        let kept = async {
            self.store.put_note(LAST_NOTE, &last).await?;
            self.store.put_note(&note_name(id), &note).await
        };
        if let Err(error) = kept.await {
            self.jobs.0.lock().jobs.remove(&id);
            return Err(error.into());
        }
        self.step_job(id, Event::Begin);
        Ok(format!("j-{id}"))
    }

    /// Tells all jobs to halt where they are; they go on after the next start.
    pub(crate) fn stop_jobs(&self) {
        self.jobs.stop();
    }

    /// Takes up the jobs that ran when the node stopped.
    pub(crate) fn take_up_jobs(self: &Arc<Self>) {
        let waiting: Vec<u64> = self.jobs.0.lock().jobs.keys().copied().collect();
        for id in waiting {
            self.step_job(id, Event::Begin);
        }
    }

    /// All jobs, newest first, or one.
    pub fn jobs_json(&self) -> Vec<Json> {
        let inner = self.jobs.0.lock();
        inner.jobs.iter().rev().map(|(id, job)| self.job_json(*id, job)).collect()
    }

    /// One job.
    pub fn job(&self, id: &str) -> Result<Json, ApiError> {
        let inner = self.jobs.0.lock();
        let found = id_of(id).and_then(|id| Some((id, inner.jobs.get(&id)?)));
        found.map(|(id, job)| self.job_json(id, job)).ok_or_else(|| no_job(id))
    }

    /// Pauses, resumes or cancels a job, and gives it.
    pub fn act_on_job(self: &Arc<Self>, id: &str, act: &str) -> Result<Json, ApiError> {
        let number = id_of(id).ok_or_else(|| no_job(id))?;
        let event = match act {
            "pause" => Event::Pause,
            "resume" => Event::Resume,
            "cancel" => Event::Cancel,
            _ => return Err(ApiError::invalid("A job can be paused, resumed or cancelled.")),
        };
        {
            let inner = self.jobs.0.lock();
            let job = inner.jobs.get(&number).ok_or_else(|| no_job(id))?;
            job.life.allows(&event).map_err(ApiError::invalid)?;
            let needs_thread = event == Event::Resume && !job.life.is_working();
            if needs_thread && inner.running() >= RUNNING_MAX {
                return Err(too_many_running());
            }
        }
        self.step_job(number, event);
        self.job(id)
    }

    /// Lets something happen to a job and does what follows from it.
    fn step_job(self: &Arc<Self>, id: u64, event: Event) {
        let (actions, note) = {
            let mut inner = self.jobs.0.lock();
            let stopping = inner.stopping;
            let Some(job) = inner.jobs.get_mut(&id) else { return };
            job.take_in(&event, self.clock.monotonic());
            let actions: Vec<Action> = job.life.step(&event).into_iter().collect();
            let begins = actions.contains(&Action::Begin) && !stopping;
            if begins {
                job.control = Arc::default();
                job.began = Some(self.clock.monotonic());
            }
            if actions.contains(&Action::Halt) {
                job.control.halt();
            }
            if job.life.is_over() && job.report.is_some() {
                job.place = None;
            }
            let note = (!job.life.is_over()).then(|| job.note());
            let actions = if begins || !actions.contains(&Action::Begin) {
                actions
            } else {
                // It is kept, and taken up after the next start.
                Vec::new()
            };
            inner.bound_reports();
            (actions, note)
        };
        // Should a crash lose it, the job is found as it was noted before.
        match note {
            Some(note) => drop(self.store.put_note(&note_name(id), &note)),
            None => drop(self.store.delete_note(&note_name(id))),
        }
        if actions.contains(&Action::Begin) {
            self.begin_job(id);
        }
    }

    /// Gives a job a thread.
    fn begin_job(self: &Arc<Self>, id: u64) {
        let begun = {
            let inner = self.jobs.0.lock();
            let job = inner.jobs.get(&id);
            job.map(|job| (job.spec.clone(), job.place.clone(), job.control.clone()))
        };
        let Some((spec, place, control)) = begun else { return };
        let node = self.clone();
        self.spawn(async move {
            let runner = node.clone();
            let run = move || runner.run_job(id, &spec, place, &control);
            let outcome = tokio::task::spawn_blocking(run).await;
            let outcome = outcome.unwrap_or_else(|_| Outcome::Failed("the job broke".to_owned()));
            node.step_job(id, Event::Ended(outcome));
        });
    }

    /// Keeps where a running job has come to.
    pub(crate) fn keep_place(&self, id: u64, place: Json) {
        let note = {
            let mut inner = self.jobs.0.lock();
            let Some(job) = inner.jobs.get_mut(&id) else { return };
            if job.life.is_over() {
                return;
            }
            job.place = Some(place);
            job.note()
        };
        drop(self.store.put_note(&note_name(id), &note));
    }

    fn job_json(&self, id: u64, job: &Job) -> Json {
        let running = job.began.filter(|_| job.life.is_working());
        let now = self.clock.monotonic();
        let elapsed = job.ran + running.map_or(Duration::ZERO, |began| now.saturating_sub(began));
        json!({
            "id": format!("j-{id}"),
            "kind": job.spec.kind(),
            "table": job.spec.table(),
            "state": job.life.state().as_str(),
            "spec": job.spec.to_json(),
            "started_ms": job.started_millis,
            "elapsed_ms": elapsed.as_millis() as u64,
            "progress": job.control.progress_json(elapsed),
            "error": job.error,
            "report": job.report,
        })
    }
}

impl Job {
    fn note(&self) -> Vec<u8> {
        let mut note = Note {
            spec: self.spec.clone(),
            paused: self.life.state() == State::Paused,
            started_millis: self.started_millis,
            ran_millis: self.ran.as_millis() as u64,
            place: self.place.clone(),
        };
        let bytes = serde_json::to_vec(&note).unwrap_or_default();
        if bytes.len() <= NOTE_BYTES_MAX {
            return bytes;
        }
        note.place = None;
        serde_json::to_vec(&note).unwrap_or_default()
    }

    /// Keeps what came of a run.
    fn take_in(&mut self, event: &Event, now: Duration) {
        let Event::Ended(outcome) = event else { return };
        if let Some(began) = self.began.take() {
            self.ran += now.saturating_sub(began);
        }
        if self.life.state() == State::Cancelled {
            return;
        }
        match outcome {
            Outcome::Done(report) => {
                let mut report = report.clone();
                // That of the whole job, pauses left out.
                report["elapsed_ms"] = json!(self.ran.as_millis() as u64);
                self.report = Some(report);
            }
            Outcome::Failed(error) => self.error = Some(error.clone()),
            Outcome::Halted(place) => self.place = Some(place.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_they_are_told_and_nothing_else() {
        assert_eq!(id_of("j-12"), Some(12));
        for wrong in ["12", "j-", "j-+1", "j-1x", "j-99999999999999999999", "../j-1"] {
            assert_eq!(id_of(wrong), None, "{wrong}");
        }
    }
}
