//! Jobs of the administration API: started, and looked at until they end.

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use crate::error::{BenchError, Result};
use crate::load::{Connection, Target, runtime};
use crate::rows::TABLE;

/// Between two looks: short against what is measured.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// A job that takes longer is a fault.
const JOB_MAX: Duration = Duration::from_secs(900);
/// Rows named in a report.
const ROWS_NAMED: u64 = 10_000;

/// What is read of a report, of a comparison or of a repair.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct JobReport {
    equal: Option<bool>,
    reason: Option<String>,
    pub(super) rows_differing: u64,
    rows: Vec<Json>,
    pub(super) bytes_exchanged: u64,
    pub(super) round_trips: u64,
    pub(super) rows_read: u64,
    pub(super) elapsed_ms: f64,
    pub(super) bytes_moved: u64,
}

impl JobReport {
    /// What is wrong with it if so many rows differ.
    pub(super) fn problem(&self, differing: u64) -> Option<String> {
        let named = differing.min(ROWS_NAMED);
        let right = self.equal == Some(differing == 0)
            && self.rows_differing == differing
            && self.rows.len() as u64 == named;
        if right {
            return None;
        }
        Some(format!(
            "{differing} rows differ, the report says equal: {:?}, {} rows, {} named, reason {:?}",
            self.equal,
            self.rows_differing,
            self.rows.len(),
            self.reason
        ))
    }
}

/// A job that has ended.
#[derive(Clone, Debug, Default)]
pub(super) struct Ended {
    pub(super) report: JobReport,
    /// From asking for it until its end was seen.
    pub(super) seen: Duration,
}

impl Ended {
    pub(super) fn seen_ms(&self) -> f64 {
        self.seen.as_secs_f64() * 1000.0
    }
}

#[derive(Deserialize)]
struct Started {
    id: String,
}

#[derive(Deserialize)]
struct Job {
    state: String,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    report: Option<JobReport>,
}

/// The jobs of a region.
pub(super) struct Jobs {
    admin: Target,
    runtime: tokio::runtime::Runtime,
}

impl Jobs {
    pub(super) fn of(admin: Target) -> Result<Jobs> {
        Ok(Jobs { admin, runtime: runtime()? })
    }

    /// Compares the two regions.
    pub(super) fn verify(&self) -> Result<Ended> {
        self.run(&json!({
            "kind": "verify", "table": TABLE, "regions": ["r1", "r2"], "rows_max": ROWS_NAMED,
        }))
    }

    /// Makes the second region like the first.
    pub(super) fn repair(&self) -> Result<Ended> {
        self.run(&json!({ "kind": "repair", "table": TABLE, "from": "r1", "to": "r2" }))
    }

    fn run(&self, job: &Json) -> Result<Ended> {
        self.runtime.block_on(async {
            let mut connection = Connection::open(&self.admin).await?;
            let body = Bytes::from(job.to_string());
            let start = Instant::now();
            let answer = connection.administer("POST", "/v1/jobs", body).await?;
            let started: Started = read(answer.status, connection.body(answer))?;
            let path = format!("/v1/jobs/{}", started.id);
            loop {
                let answer = connection.administer("GET", &path, Bytes::new()).await?;
                let seen = start.elapsed();
                let job: Job = read(answer.status, connection.body(answer))?;
                match (job.state.as_str(), job.report) {
                    ("running", _) if seen < JOB_MAX => tokio::time::sleep(LOOK_EVERY).await,
                    ("done", Some(report)) => return Ok(Ended { report, seen }),
                    (state, _) => {
                        let error = job.error.unwrap_or_default();
                        let text = format!("job {} is {state}: {error}", started.id);
                        return Err(BenchError::Failed(text));
                    }
                }
            }
        })
    }
}

fn read<T: serde::de::DeserializeOwned>(status: u16, body: &[u8]) -> Result<T> {
    let text = || String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned();
    if !(200..300).contains(&status) {
        return Err(BenchError::Failed(format!("status {status}: {}", text())));
    }
    serde_json::from_slice(body).map_err(|error| {
        BenchError::Failed(format!("an answer cannot be read: {error}: {}", text()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_right_if_it_says_and_names_what_differs() {
        let text =
            r#"{"equal":false,"rows_differing":2,"rows":[{},{}],"elapsed_ms":7,"more":false}"#;
        let report: JobReport = serde_json::from_str(text).unwrap();
        assert_eq!(report.problem(2), None);
        assert!(report.problem(3).is_some() && report.problem(0).is_some());
        let text = r#"{"equal":null,"reason":"far behind","rows_differing":0,"rows":[]}"#;
        let report: JobReport = serde_json::from_str(text).unwrap();
        assert!(report.problem(0).unwrap().contains("far behind"));
    }
}
