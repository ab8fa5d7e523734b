//! `isolation`: what one dead and one slow peer cost the others.
//!
//! One region writes at a fixed share of what it can take and ships to several peers. Some rounds
//! all is well; then one peer is stopped and the way to another is slowed, and as many rounds
//! follow. The lag of the other links and the time of a write are compared with the undisturbed
//! rounds and with how much those differ among themselves.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::cluster::{Cluster, Memory, Place, set_number};
use crate::error::{BenchError, Result};
use crate::lag::Probes;
use crate::load::{Prepared, Times, micros, run as run_load};
use crate::proxy::Way;
use crate::report::{Line, Ratio, Report, table};
use crate::rows::RowSet;
use crate::write::{fill, put_plan};
use crate::{Around, Options};

/// The peer that is stopped and the one whose way is slowed, by place.
const STOPPED: usize = 1;
const SLOWED: usize = 2;
const ORIGIN: usize = 0;
/// The log is to be kept for those that are behind.
const KEEP_MIB: i64 = 1 << 20;
const KIB: f64 = 1024.0;

/// Arguments of `isolation`.
#[derive(Args, Debug)]
pub(crate) struct IsolationArgs {
    /// Rows of the table, 1 KiB each
    #[arg(long, value_name = "N", default_value_t = 36_000,
        value_parser = clap::value_parser!(u64).range(2_000..=100_000_000))]
    rows: u64,
    /// Peers of the writing region
    #[arg(long, value_name = "N", default_value_t = 5,
        value_parser = clap::value_parser!(u8).range(3..=8))]
    peers: u8,
    /// KiB a second that the slow way takes
    #[arg(long, value_name = "N", default_value_t = 1024,
        value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    slow_kib: u64,
    /// The share of what goes at which is written, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 30,
        value_parser = clap::value_parser!(u8).range(1..=100))]
    load: u8,
    /// Rounds without and with the disturbance
    #[arg(long, value_name = "N", default_value_t = 5,
        value_parser = clap::value_parser!(u32).range(2..=99))]
    rounds: u32,
    /// Seconds of each round, after a warm-up
    #[arg(long, value_name = "SECONDS", default_value_t = 20,
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    #[command(flatten)]
    pub(crate) around: Around,
}

impl IsolationArgs {
    fn options(&self) -> Options {
        self.around.options(self.seconds, self.rows, self.peers)
    }
}

/// What one round showed, in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
struct Round {
    disturbed: bool,
    write_p50_ms: f64,
    write_p99_ms: f64,
    /// Of the other links, the worst one's.
    lag_p50_ms: f64,
    /// The same.
    lag_p99_ms: f64,
    /// Probes that were not seen in time.
    unseen: u64,
}

/// What `isolation` found.
#[derive(Debug, Default, Serialize)]
pub(crate) struct IsolationFound {
    rounds: Vec<Round>,
    judged: Vec<Judged>,
}

/// One figure without and with the disturbance.
#[derive(Clone, Debug, Serialize)]
struct Judged {
    what: &'static str,
    /// Medians of the rounds.
    undisturbed_ms: f64,
    disturbed_ms: f64,
    /// The greatest less the least of the undisturbed rounds.
    spread_ms: f64,
    /// Worse by at most a tenth, or by at most twice the spread.
    holds: bool,
}

/// Measures isolation.
pub(crate) fn run(args: &IsolationArgs) -> Result<Report> {
    let options = args.options();
    let rows = RowSet::large(args.rows);
    let place = Place::take(&options)?;
    let mut report = Report::of("isthmus-bench isolation", &options, rows);
    let memory = Memory::holding(rows.count);
    let cluster = Cluster::fresh(&options, &place, args.peers + 1, memory)?;
    let mut cluster = cluster
        .restart_after(memory, |files| set_number(&files[ORIGIN], "log", "keep_mib", KEEP_MIB))?;
    let proxy = cluster.route(ORIGIN, SLOWED, Way::default())?;
    fill(&cluster, &rows.batches_of_all(11))?;
    let puts = Arc::new(rows.puts(12));
    let full = run_load(&put_plan(&options, &cluster, &puts, None)?)?;
    cluster.catch_up()?;
    report.note_errors("PutRow", &full);
    report.line(Line::of("PutRow, as many as go", "in cache", Some(args.peers), &full, 1));
    let pace = full.rate() * f64::from(args.load) / 100.0;
    let mut measured = Measured { args, options, cluster, puts, pace, found: Vec::new() };
    for _ in 0..args.rounds {
        measured.round(false, &mut report)?;
        measured.cluster.catch_up()?;
    }
    measured.cluster.stop_region(STOPPED)?;
    let rate = Some(args.slow_kib as f64 * KIB);
    proxy.set(Way { delay: Duration::ZERO, bytes_per_second: rate });
    for _ in 0..args.rounds {
        measured.round(true, &mut report)?;
    }
    report.note(format!(
        "behind at the end: {}",
        words(
            &measured
                .cluster
                .links()?
                .iter()
                .map(|l| (l.to.as_str(), l.lag_entries))
                .collect::<Vec<_>>()
        )
    ));
    proxy.set(Way::default());
    measured.cluster.start_region(STOPPED)?;
    let healed = measured.cluster.catch_up()?;
    report.note(format!("all peers had everything {:.1} s after the end", healed.as_secs_f64()));
    let rounds = measured.found;
    let judged = FIGURES.iter().map(|(what, of)| judge(what, &rounds, *of)).collect();
    let found = IsolationFound { rounds, judged };
    for judged in &found.judged {
        report.ratio(Ratio {
            what: judged.what.to_owned(),
            value: judged.disturbed_ms / judged.undisturbed_ms,
            of: judged.disturbed_ms,
            to: judged.undisturbed_ms,
            floor: "undisturbed".to_owned(),
            unit: "ms",
            aim: Some("1.1, or twice the spread".to_owned()),
        });
    }
    report.isolation(found);
    Ok(report)
}

/// What is looked at of a round.
type Figure = fn(&Round) -> f64;

const FIGURES: [(&str, Figure); 3] = [
    ("lag of the other links, p99", |round| round.lag_p99_ms),
    ("write in the origin, p50", |round| round.write_p50_ms),
    ("write in the origin, p99", |round| round.write_p99_ms),
];

fn judge(what: &'static str, rounds: &[Round], figure: Figure) -> Judged {
    let sorted = |disturbed: bool| {
        let of = rounds.iter().filter(|round| round.disturbed == disturbed);
        let mut all: Vec<f64> = of.map(figure).collect();
        all.sort_by(f64::total_cmp);
        all
    };
    let (calm, disturbed) = (sorted(false), sorted(true));
    let median = |all: &[f64]| all.get(all.len() / 2).copied().unwrap_or(f64::NAN);
    let spread_ms = match (calm.first(), calm.last()) {
        (Some(least), Some(greatest)) => greatest - least,
        _ => f64::NAN,
    };
    let (undisturbed_ms, disturbed_ms) = (median(&calm), median(&disturbed));
    let worse = disturbed_ms - undisturbed_ms;
    let holds = worse <= undisturbed_ms / 10.0 || worse <= 2.0 * spread_ms;
    Judged { what, undisturbed_ms, disturbed_ms, spread_ms, holds }
}

fn words(behind: &[(&str, u64)]) -> String {
    let one = |(to, entries): &(&str, u64)| format!("{to} {entries} entries");
    behind.iter().map(one).collect::<Vec<_>>().join(", ")
}

struct Measured<'a> {
    args: &'a IsolationArgs,
    options: Options,
    cluster: Cluster,
    puts: Arc<Vec<Prepared>>,
    pace: f64,
    found: Vec<Round>,
}

impl Measured<'_> {
    fn round(&mut self, disturbed: bool, report: &mut Report) -> Result<()> {
        let others = (SLOWED + 1)..=usize::from(self.args.peers);
        let readers = others.map(|place| self.cluster.target(place)).collect::<Result<_>>()?;
        let number = self.found.len() as u32 + 1;
        let probes = Probes {
            writer: self.cluster.target(ORIGIN)?,
            readers,
            round: number,
            after: self.options.warm_up(),
            length: self.options.measure(),
        };
        let mut plan = put_plan(&self.options, &self.cluster, &self.puts, Some(self.pace))?;
        // Of a stopped process no time can be taken.
        plan.processes.truncate(1);
        let probing = std::thread::spawn(move || probes.run());
        let outcome = run_load(&plan);
        let sights = probing.join().map_err(|_| BenchError::failed("the probes panicked"))??;
        let outcome = outcome?;
        let what = match disturbed {
            false => format!("PutRow at {} %, round {number}", self.args.load),
            true => format!("PutRow at {} %, disturbed, round {number}", self.args.load),
        };
        report.note_errors(&what, &outcome);
        report.line(Line::of(&what, "in cache", Some(self.args.peers), &outcome, 1));
        let lags = sights
            .iter()
            .map(|sight| Times::new(sight.seen.iter().map(|(_, lag)| micros(*lag)).collect()));
        let lags: Vec<Times> = lags.collect();
        let worst = |part: f64| lags.iter().map(|lag| lag.quantile(part)).fold(0.0, f64::max);
        self.found.push(Round {
            disturbed,
            write_p50_ms: outcome.times.quantile(0.5),
            write_p99_ms: outcome.times.quantile(0.99),
            lag_p50_ms: worst(0.5),
            lag_p99_ms: worst(0.99),
            unseen: sights.iter().map(|sight| sight.unseen).sum(),
        });
        Ok(())
    }
}

impl IsolationFound {
    /// As tables.
    pub(crate) fn text(&self) -> String {
        let headings =
            ["ROUND", "DISTURBED", "WRITE P50 MS", "P99 MS", "LAG P50 MS", "P99 MS", "UNSEEN"];
        let round = |(place, round): (usize, &Round)| {
            vec![
                (place + 1).to_string(),
                if round.disturbed { "yes" } else { "no" }.to_owned(),
                format!("{:.2}", round.write_p50_ms),
                format!("{:.2}", round.write_p99_ms),
                format!("{:.2}", round.lag_p50_ms),
                format!("{:.2}", round.lag_p99_ms),
                round.unseen.to_string(),
            ]
        };
        let rounds: Vec<Vec<String>> = self.rounds.iter().enumerate().map(round).collect();
        let mut text = table(&headings, &rounds);
        let headings = ["FIGURE", "UNDISTURBED MS", "DISTURBED MS", "SPREAD MS", "HOLDS"];
        let judged = |judged: &Judged| {
            vec![
                judged.what.to_owned(),
                format!("{:.2}", judged.undisturbed_ms),
                format!("{:.2}", judged.disturbed_ms),
                format!("{:.2}", judged.spread_ms),
                if judged.holds { "yes" } else { "NO" }.to_owned(),
            ]
        };
        text += "\n";
        text += &table(&headings, &self.judged.iter().map(judged).collect::<Vec<_>>());
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(disturbed: bool, lag_p99_ms: f64) -> Round {
        Round {
            disturbed,
            write_p50_ms: 1.0,
            write_p99_ms: 2.0,
            lag_p50_ms: 1.0,
            lag_p99_ms,
            unseen: 0,
        }
    }

    #[test]
    fn a_tenth_or_twice_the_spread_is_allowed() {
        let judged = |disturbed: f64| {
            let rounds = [
                round(false, 10.0),
                round(false, 12.0),
                round(false, 11.0),
                round(true, disturbed),
            ];
            judge("lag", &rounds, |round| round.lag_p99_ms)
        };
        assert_eq!((judged(15.0).undisturbed_ms, judged(15.0).spread_ms), (11.0, 2.0));
        assert!(judged(15.0).holds && judged(9.0).holds);
        assert!(!judged(15.1).holds && !judged(f64::NAN).holds);
    }
}
