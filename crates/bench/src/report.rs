//! What was measured, as tables for people or as one JSON document.
//!
//! Every ratio stands with the two numbers behind it. What could not be measured is said so.

use std::io::Write;
use std::time::Duration;

use serde::Serialize;

use crate::Options;
use crate::error::{BenchError, Result, Tried};
use crate::floors::{Reached, cores};
use crate::load::Outcome;
use crate::rows::RowSet;

/// All of one run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    title: &'static str,
    cores: usize,
    memory_bytes: u64,
    data: String,
    seconds: u64,
    rows: u64,
    row_bytes: usize,
    notes: Vec<String>,
    lines: Vec<Line>,
    ratios: Vec<Ratio>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lag: Option<crate::lag::LagReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest_cost: Option<crate::digest_cost::DigestCost>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verify: Option<crate::verify::VerifyFound>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replicate: Option<crate::replicate::ReplicateFound>,
    #[serde(skip_serializing_if = "Option::is_none")]
    isolation: Option<crate::isolation::IsolationFound>,
    #[serde(skip_serializing_if = "Option::is_none")]
    split: Option<crate::split::SplitFound>,
    #[serde(skip_serializing_if = "Option::is_none")]
    join: Option<crate::join::JoinFound>,
}

/// One measurement.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Line {
    /// What was measured.
    pub(crate) what: String,
    /// The table's size against the cache; empty where it does not matter.
    pub(crate) table: String,
    /// Replicas in other regions; `None` for a floor.
    pub(crate) replicas: Option<u8>,
    /// Rows per second.
    pub(crate) rows_per_second: f64,
    /// Time of one request.
    pub(crate) p50_ms: f64,
    /// Time of one request.
    pub(crate) p99_ms: f64,
    /// Time of one request.
    pub(crate) max_ms: f64,
    /// Processor time of the first region, or of the floor, per row.
    pub(crate) cpu_us_per_row: Option<f64>,
    /// Processor time of the other regions per row, together.
    pub(crate) replicas_us_per_row: Option<f64>,
    /// Processor time of the load generator per row; `None` where it is one with the floor.
    pub(crate) generator_us_per_row: Option<f64>,
    /// Rows per sync, where syncs could be counted.
    pub(crate) rows_per_sync: Option<f64>,
    /// Entries that replicas had not yet when the measurement ended.
    pub(crate) behind: Option<u64>,
    /// What other processes used of all cores, from 0 to 1: it was not there to be measured.
    pub(crate) others: Option<f64>,
    /// Answers that were not as they must be, and requests that were not sent.
    pub(crate) errors: u64,
}

/// One number over another.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Ratio {
    /// What it says.
    pub(crate) what: String,
    /// The ratio.
    pub(crate) value: f64,
    /// The number above.
    pub(crate) of: f64,
    /// The number below.
    pub(crate) to: f64,
    /// What the number below is.
    pub(crate) floor: String,
    /// Unit of both.
    pub(crate) unit: &'static str,
    /// What is aimed at.
    pub(crate) aim: Option<String>,
}

impl Line {
    /// Of requests with so many rows each.
    pub(crate) fn of(
        what: &str,
        table: &str,
        replicas: Option<u8>,
        outcome: &Outcome,
        rows: usize,
    ) -> Line {
        let all = (outcome.answers as f64 * rows as f64).max(1.0);
        let rate = outcome.rate() * rows as f64;
        Line {
            what: what.to_owned(),
            table: table.to_owned(),
            replicas,
            rows_per_second: rate,
            p50_ms: outcome.times.quantile(0.5),
            p99_ms: outcome.times.quantile(0.99),
            max_ms: outcome.times.max(),
            cpu_us_per_row: outcome.cpu.first().map(|cpu| cpu.as_secs_f64() * 1e6 / all),
            replicas_us_per_row: outcome
                .cpu
                .get(1..)
                .filter(|others| !others.is_empty())
                .map(|others| others.iter().sum::<Duration>().as_secs_f64() * 1e6 / all),
            generator_us_per_row: Some(outcome.own_cpu.as_secs_f64() * 1e6 / all),
            rows_per_sync: outcome
                .syncs_per_second
                .filter(|syncs| *syncs > 0.0)
                .map(|syncs| rate / syncs),
            behind: None,
            others: outcome.others,
            errors: outcome.errors + outcome.missed,
        }
    }

    /// Of the raw engine.
    pub(crate) fn of_raw(what: &str, table: &str, reached: &Reached) -> Line {
        Line {
            what: what.to_owned(),
            table: table.to_owned(),
            rows_per_second: reached.rows_per_second,
            p50_ms: reached.times.quantile(0.5),
            p99_ms: reached.times.quantile(0.99),
            max_ms: reached.times.max(),
            cpu_us_per_row: Some(reached.cpu_per_row.as_secs_f64() * 1e6),
            rows_per_sync: reached.rows_per_commit,
            others: reached.others,
            ..Line::default()
        }
    }
}

impl Report {
    pub(crate) fn new(title: &'static str, options: &Options) -> Report {
        Report::of(title, options, RowSet::large(options.rows()))
    }

    /// Of a table with these rows.
    pub(crate) fn of(title: &'static str, options: &Options, rows: RowSet) -> Report {
        let data = match &options.around.data {
            Some(data) => data.display().to_string(),
            None => "target/bench".to_owned(),
        };
        Report {
            title,
            cores: cores(),
            memory_bytes: memory_bytes(),
            data,
            seconds: options.measure().as_secs(),
            rows: rows.count,
            row_bytes: rows.shape.row_bytes(),
            notes: Vec::new(),
            lines: Vec::new(),
            ratios: Vec::new(),
            lag: None,
            digest_cost: None,
            verify: None,
            replicate: None,
            isolation: None,
            split: None,
            join: None,
        }
    }

    /// Adds a measurement and shows it at once on standard error: a run takes minutes.
    pub(crate) fn line(&mut self, line: Line) -> &Line {
        let place = match line.replicas {
            Some(replicas) => format!("{}, {replicas} replicas", line.table),
            None => line.table.clone(),
        };
        eprintln!("{:<42} {place:<26} {:>10.0} rows/s", line.what, line.rows_per_second);
        self.lines.push(line);
        &self.lines[self.lines.len() - 1]
    }

    pub(crate) fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// Tells what went wrong during a measurement.
    pub(crate) fn note_errors(&mut self, what: &str, outcome: &Outcome) {
        if let Some(error) = &outcome.first_error {
            let text = format!("{what}: {} bad answers, the first: {error}", outcome.errors);
            eprintln!("{text}");
            self.note(text);
        }
        if outcome.missed > 0 {
            let text = format!("{what}: {} requests could not be sent in time", outcome.missed);
            eprintln!("{text}");
            self.note(text);
        }
    }

    pub(crate) fn lag(&mut self, lag: crate::lag::LagReport) {
        self.lag = Some(lag);
    }

    pub(crate) fn digest_cost(&mut self, found: crate::digest_cost::DigestCost) {
        self.digest_cost = Some(found);
    }

    pub(crate) fn verify(&mut self, found: crate::verify::VerifyFound) {
        self.verify = Some(found);
    }

    pub(crate) fn replicate(&mut self, found: crate::replicate::ReplicateFound) {
        self.replicate = Some(found);
    }

    pub(crate) fn isolation(&mut self, found: crate::isolation::IsolationFound) {
        self.isolation = Some(found);
    }

    pub(crate) fn split(&mut self, found: crate::split::SplitFound) {
        self.split = Some(found);
    }

    pub(crate) fn join(&mut self, found: crate::join::JoinFound) {
        self.join = Some(found);
    }

    /// The measurement of that name, table and replicas.
    pub(crate) fn find(&self, what: &str, table: &str, replicas: Option<u8>) -> Option<&Line> {
        let same = |line: &&Line| {
            line.what == what
                && line.replicas == replicas
                && (line.table == table || table.is_empty())
        };
        self.lines.iter().find(same)
    }

    /// Adds what a measurement is to the lower of its floors, given as names with their tables.
    pub(crate) fn ratio_to_lower(
        &mut self,
        (what, table, replicas): (&str, &str, u8),
        floors: &[(&str, &str)],
        aim: f64,
    ) {
        let Some(of) = self.find(what, table, Some(replicas)).map(|line| line.rows_per_second)
        else {
            return;
        };
        let found = floors.iter().filter_map(|(name, table)| self.find(name, table, None));
        let lower = found.min_by(|a, b| a.rows_per_second.total_cmp(&b.rows_per_second));
        let Some(lower) = lower else { return };
        let ratio = Ratio {
            what: format!("{what}, {table}, {replicas} replicas"),
            value: of / lower.rows_per_second,
            of,
            to: lower.rows_per_second,
            floor: lower.what.clone(),
            unit: "rows/s",
            aim: Some(format!("{aim}")),
        };
        self.ratios.push(ratio);
    }

    pub(crate) fn ratio(&mut self, ratio: Ratio) {
        self.ratios.push(ratio);
    }

    /// Prints all.
    pub(crate) fn print(&self, json: bool) -> Result<()> {
        let text = if json {
            serde_json::to_string_pretty(self)
                .map_err(|error| BenchError::failed(error.to_string()))?
        } else {
            self.text()
        };
        writeln!(std::io::stdout(), "{text}").tried(|| "print the report".to_owned())
    }

    fn text(&self) -> String {
        let mut text = format!(
            "\n{}\n{} cores, {:.0} GiB of memory; the load generator shares the cores\n\
             {} rows of {} bytes{}; data in {}\n",
            self.title,
            self.cores,
            self.memory_bytes as f64 / (1u64 << 30) as f64,
            self.rows,
            self.row_bytes,
            if self.seconds == 0 { String::new() } else { format!("; {} s each", self.seconds) },
            self.data,
        );
        for note in &self.notes {
            text += &format!("note: {note}\n");
        }
        if !self.lines.is_empty() {
            text += "\n";
            text += &table(&HEADINGS, &self.lines.iter().map(cells).collect::<Vec<_>>());
        }
        if let Some(found) = &self.digest_cost {
            text += "\n";
            text += &found.text();
        }
        if let Some(found) = &self.verify {
            text += "\n";
            text += &found.text();
        }
        if let Some(found) = &self.replicate {
            text += "\n";
            text += &found.text();
        }
        if let Some(found) = &self.isolation {
            text += "\n";
            text += &found.text();
        }
        if let Some(found) = &self.split {
            text += "\n";
            text += &found.text();
        }
        if let Some(lag) = &self.lag {
            text += "\n";
            text += &lag.text();
        }
        if !self.ratios.is_empty() {
            text += "\n";
            text +=
                &table(&RATIO_HEADINGS, &self.ratios.iter().map(ratio_cells).collect::<Vec<_>>());
        }
        text
    }
}

const HEADINGS: [&str; 14] = [
    "MEASURED",
    "TABLE",
    "REPLICAS",
    "ROWS/S",
    "P50 MS",
    "P99 MS",
    "MAX MS",
    "CPU US/ROW",
    "REPLICAS US/ROW",
    "GENERATOR US/ROW",
    "ROWS/SYNC",
    "BEHIND",
    "OTHERS %",
    "ERRORS",
];

fn cells(line: &Line) -> Vec<String> {
    let some = |number: Option<f64>, digits: usize| {
        number.map_or("-".to_owned(), |number| format!("{number:.digits$}"))
    };
    vec![
        line.what.clone(),
        line.table.clone(),
        line.replicas.map_or("floor".to_owned(), |replicas| replicas.to_string()),
        format!("{:.0}", line.rows_per_second),
        format!("{:.2}", line.p50_ms),
        format!("{:.2}", line.p99_ms),
        format!("{:.2}", line.max_ms),
        some(line.cpu_us_per_row, 1),
        some(line.replicas_us_per_row, 1),
        some(line.generator_us_per_row, 1),
        some(line.rows_per_sync, 1),
        line.behind.map_or("-".to_owned(), |behind| behind.to_string()),
        some(line.others.map(|share| share * 100.0), 0),
        line.errors.to_string(),
    ]
}

const RATIO_HEADINGS: [&str; 6] = ["RATIO OF", "RATIO", "AIM", "NUMBER", "FLOOR", "FLOOR IS"];

fn ratio_cells(ratio: &Ratio) -> Vec<String> {
    let digits = if ratio.to.abs() < 1000.0 { 2 } else { 0 };
    vec![
        ratio.what.clone(),
        format!("{:.2}", ratio.value),
        ratio.aim.clone().unwrap_or_default(),
        format!("{:.digits$} {}", ratio.of, ratio.unit),
        format!("{:.digits$} {}", ratio.to, ratio.unit),
        ratio.floor.clone(),
    ]
}

/// Columns as wide as their widest cell.
pub(crate) fn table<const N: usize>(headings: &[&str; N], rows: &[Vec<String>]) -> String {
    let width = |place: usize| {
        let cells = rows.iter().filter_map(|row| row.get(place)).map(|cell| cell.chars().count());
        cells.chain([headings[place].len()]).max().unwrap_or(0)
    };
    let line = |cells: Vec<&str>| {
        let padded: Vec<String> = cells
            .iter()
            .enumerate()
            .map(|(place, cell)| format!("{cell:<width$}", width = width(place)))
            .collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let mut text = line(headings.to_vec());
    for row in rows {
        text += &line(row.iter().map(String::as_str).collect());
    }
    text
}

fn memory_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = kib.and_then(|rest| rest.split_ascii_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows =
            vec![vec!["a".to_owned(), "1".to_owned()], vec!["bbb".to_owned(), "22".to_owned()]];
        assert_eq!(table(&["X", "Y"], &rows), "X    Y\na    1\nbbb  22\n");
    }
}
