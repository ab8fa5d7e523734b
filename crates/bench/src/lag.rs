//! `lag`: how long after its acknowledgement in r1 a row is visible in r2 and r3.
//!
//! Beside the load, which has its own pace, a probe row is written every few milliseconds. From
//! its acknowledgement on, each other region is asked for it until it is there, with short pauses.
//! Nothing is subtracted, and a probe that comes late does not hold up the next one: one
//! partition's entries arrive in order. The floor is an append with fdatasync on the same disk.

mod probe;

use std::fs::OpenOptions;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use crate::Options;
use crate::cluster::{Cluster, Memory, Place};
use crate::error::{BenchError, Result, Tried};
pub(crate) use crate::lag::probe::{Probes, Sight};
use crate::load::{Outcome, Plan, Prepared, Times, micros, run as run_load};
use crate::report::{Line, Ratio, Report, table};
use crate::rows::{ROW_BYTES, RowSet};
use crate::write::{fill, put_plan};

/// Shares of the capacity, in percent.
const SHARES: [u32; 3] = [10, 50, 80];
/// The share at which growth is looked for.
const GROWTH_SHARE: u32 = 50;
/// Parts that a long measurement is cut into.
const WINDOWS: u32 = 10;
/// Appends of the floor.
const APPENDS: usize = 1000;
const APPENDS_TIME: Duration = Duration::from_secs(5);
const REGIONS: [&str; 2] = ["r2", "r3"];

/// Arguments of `lag`.
#[derive(Args, Debug)]
pub(crate) struct LagArgs {
    #[command(flatten)]
    pub(crate) options: Options,
    /// Seconds at each share of the capacity
    #[arg(long, value_name = "SECONDS", default_value_t = 20,
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    level_seconds: u64,
    /// Minutes at half the capacity in which lag must not grow; 0 leaves that out
    #[arg(long, value_name = "MINUTES", default_value_t = 1,
        value_parser = clap::value_parser!(u64).range(0..=600))]
    minutes: u64,
}

impl LagArgs {
    fn level(&self) -> Duration {
        let seconds = self.level_seconds;
        Duration::from_secs(if self.options.quick { seconds.min(3) } else { seconds })
    }

    fn growth(&self) -> Option<Duration> {
        let minutes = if self.options.quick { 0 } else { self.minutes };
        (minutes > 0).then(|| Duration::from_secs(minutes * 60))
    }
}

/// What `lag` found.
#[derive(Debug, Serialize)]
pub(crate) struct LagReport {
    /// PutRow per second, 64 connections, both replicas attached.
    accepted_per_second: f64,
    /// The same until both replicas held all of it: shares are of this.
    capacity_per_second: f64,
    /// How long the replicas took after the last write of that measurement.
    drained_ms: f64,
    /// Append of 1 KiB and fdatasync, nothing else running.
    sync_p50_ms: f64,
    /// The same.
    sync_p99_ms: f64,
    levels: Vec<Level>,
    growth: Vec<Level>,
}

/// Lag in one region under one load, over one span of time.
#[derive(Clone, Debug, Serialize)]
struct Level {
    share_percent: u32,
    region: &'static str,
    /// Which part of a longer measurement, from 1.
    window: u32,
    asked_per_second: f64,
    reached_per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    samples: usize,
    /// Probes that were not seen in time.
    unseen: u64,
    /// Mean time from one question to the next.
    resolution_ms: f64,
}

/// Measures lag.
pub(crate) fn run(args: &LagArgs) -> Result<Report> {
    let options = &args.options;
    let rows = RowSet::large(options.rows());
    let place = Place::take(options)?;
    let mut report = Report::new("isthmus-bench lag", options);
    let cluster = Cluster::fresh(options, &place, 3, Memory::holding(rows.count))?;
    fill(&cluster, &rows.batches_of_all(11))?;
    let sync = appends(&place)?;
    let puts = Arc::new(rows.puts(12));
    let (outcome, drained) = capacity(options, &cluster, &puts)?;
    let all = options.warm_up() + outcome.elapsed + drained;
    let mut found = LagReport {
        accepted_per_second: outcome.rate(),
        capacity_per_second: outcome.answers_in_all as f64 / all.as_secs_f64(),
        drained_ms: drained.as_secs_f64() * 1000.0,
        sync_p50_ms: sync.quantile(0.5),
        sync_p99_ms: sync.quantile(0.99),
        levels: Vec::new(),
        growth: Vec::new(),
    };
    report.note_errors("PutRow with two replicas", &outcome);
    report.line(Line::of("PutRow, as many as go", "in cache", Some(2), &outcome, 1));
    let mut run = Run { options, cluster, puts, capacity: found.capacity_per_second, probes: 0 };
    for share in SHARES {
        let levels = run.level(share, args.level(), 1, &mut report)?;
        found.levels.extend(levels);
    }
    if let Some(length) = args.growth() {
        found.growth = run.level(GROWTH_SHARE, length, WINDOWS, &mut report)?;
    }
    add_ratios(&found, &mut report);
    report.note(
        "lag counts from the moment the writer has its answer until a reader has the row; the \
         resolution is the mean time from one question to the next; nothing is subtracted",
    );
    report.lag(found);
    Ok(report)
}

/// The floor: append and sync.
fn appends(place: &Place) -> Result<Times> {
    let path = place.file();
    let what = || format!("append to {}", path.display());
    let mut file = OpenOptions::new().create(true).append(true).open(&path).tried(what)?;
    let block = [b'x'; ROW_BYTES];
    let mut times = Vec::with_capacity(APPENDS);
    let end = Instant::now() + APPENDS_TIME;
    while times.len() < APPENDS && Instant::now() < end {
        let start = Instant::now();
        file.write_all(&block).tried(what)?;
        file.sync_data().tried(what)?;
        times.push(micros(start.elapsed()));
    }
    Ok(Times::new(times))
}

/// As many writes as go, and how long the replicas take to hold them all.
fn capacity(
    options: &Options,
    cluster: &Cluster,
    puts: &Arc<Vec<Prepared>>,
) -> Result<(Outcome, Duration)> {
    let outcome = run_load(&put_plan(options, cluster, puts, None)?)?;
    Ok((outcome, cluster.catch_up()?))
}

struct Run<'a> {
    options: &'a Options,
    cluster: Cluster,
    puts: Arc<Vec<Prepared>>,
    capacity: f64,
    /// Measurements with probes so far: their keys differ.
    probes: u32,
}

impl Run<'_> {
    /// Lag at a share of the capacity, cut into windows.
    fn level(
        &mut self,
        share: u32,
        length: Duration,
        windows: u32,
        report: &mut Report,
    ) -> Result<Vec<Level>> {
        let asked = self.capacity * f64::from(share) / 100.0;
        let plan = put_plan(self.options, &self.cluster, &self.puts, Some(asked))?;
        let plan = Plan { measure: length, ..plan };
        self.probes += 1;
        let probes = Probes {
            writer: self.cluster.target(0)?,
            readers: vec![self.cluster.target(1)?, self.cluster.target(2)?],
            round: self.probes,
            after: self.options.warm_up(),
            length,
        };
        let probing = std::thread::spawn(move || probes.run());
        let outcome = run_load(&plan);
        let sights = probing.join().map_err(|_| BenchError::failed("the probes panicked"))?;
        let (outcome, sights) = (outcome?, sights?);
        let what = format!("PutRow at {share} %");
        report.note_errors(&what, &outcome);
        let mut line = Line::of(&what, "in cache", Some(2), &outcome, 1);
        line.behind = self.cluster.behind()?;
        report.line(line);
        self.cluster.catch_up()?;
        let mut levels = Vec::new();
        for window in 1..=windows {
            for (region, sight) in REGIONS.into_iter().zip(&sights) {
                let times = cut(sight, length, window, windows);
                levels.push(Level {
                    share_percent: share,
                    region,
                    window,
                    asked_per_second: asked,
                    reached_per_second: outcome.rate(),
                    p50_ms: times.quantile(0.5),
                    p99_ms: times.quantile(0.99),
                    max_ms: times.max(),
                    samples: times.len(),
                    unseen: sight.unseen,
                    resolution_ms: sight.resolution().as_secs_f64() * 1000.0,
                });
            }
        }
        Ok(levels)
    }
}

/// What was seen in one of the windows.
fn cut(sight: &Sight, length: Duration, window: u32, windows: u32) -> Times {
    let part = length / windows;
    let range = part * (window - 1)..part * window;
    let inside = sight.seen.iter().filter(|(at, _)| range.contains(at) || windows == 1);
    Times::new(inside.map(|(_, lag)| micros(*lag)).collect())
}

fn add_ratios(found: &LagReport, report: &mut Report) {
    for level in found.levels.iter().filter(|level| level.share_percent == 50) {
        let p50_aim = 3.0 * found.sync_p50_ms + 2.0;
        let p99_aim = 10.0 * found.sync_p50_ms + 10.0;
        for (what, of, to, floor) in [
            ("p50", level.p50_ms, p50_aim, "3 x p50 of append and fdatasync + 2 ms"),
            ("p99", level.p99_ms, p99_aim, "10 x p50 of append and fdatasync + 10 ms"),
        ] {
            report.ratio(Ratio {
                what: format!("lag at 50 % in {}, {what}", level.region),
                value: of / to,
                of,
                to,
                floor: floor.to_owned(),
                unit: "ms",
                aim: Some("at most 1".to_owned()),
            });
        }
    }
    let windows: Vec<&Level> = found.growth.iter().filter(|level| level.region == "r2").collect();
    if let (Some(first), Some(last)) = (windows.first(), windows.last()) {
        report.ratio(Ratio {
            what: "lag at 50 % in r2, p50 of the last window".to_owned(),
            value: last.p50_ms / first.p50_ms,
            of: last.p50_ms,
            to: first.p50_ms,
            floor: "p50 of the first window".to_owned(),
            unit: "ms",
            aim: Some("no growth".to_owned()),
        });
    }
}

impl LagReport {
    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "append of 1 KiB and fdatasync: p50 {:.2} ms, p99 {:.2} ms\n\
             PutRow with both replicas: {:.0} rows/s accepted, {:.0} rows/s until both replicas \
             had them ({:.0} ms after the last); shares are of the latter\n\n",
            self.sync_p50_ms,
            self.sync_p99_ms,
            self.accepted_per_second,
            self.capacity_per_second,
            self.drained_ms,
        );
        text += &level_table("SHARE", &self.levels, |level| format!("{} %", level.share_percent));
        if !self.growth.is_empty() {
            text += "\n";
            text += &level_table("WINDOW", &self.growth, |level| level.window.to_string());
        }
        text
    }
}

fn level_table(first: &'static str, levels: &[Level], name: impl Fn(&Level) -> String) -> String {
    let headings = [
        first,
        "REGION",
        "ASKED/S",
        "REACHED/S",
        "LAG P50 MS",
        "P99 MS",
        "MAX MS",
        "SAMPLES",
        "UNSEEN",
        "RESOLUTION MS",
    ];
    let cells = |level: &Level| {
        vec![
            name(level),
            level.region.to_owned(),
            format!("{:.0}", level.asked_per_second),
            format!("{:.0}", level.reached_per_second),
            format!("{:.2}", level.p50_ms),
            format!("{:.2}", level.p99_ms),
            format!("{:.2}", level.max_ms),
            level.samples.to_string(),
            level.unseen.to_string(),
            format!("{:.2}", level.resolution_ms),
        ]
    };
    table(&headings, &levels.iter().map(cells).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_share_what_was_seen() {
        let second = Duration::from_secs(1);
        let seen = (0..10).map(|at| (second * at, second * (at + 1)));
        let mut sight = Sight::default();
        sight.seen.extend(seen);
        let first = cut(&sight, second * 10, 1, 2);
        assert_eq!((first.len(), first.max()), (5, 5000.0));
        let last = cut(&sight, second * 10, 2, 2);
        assert_eq!((last.len(), last.max()), (5, 10_000.0));
    }
}
