//! `isthmus advise`: how to keep a table in several regions, from a few answers and what running
//! regions measure.
//!
//! What must hold: it changes nothing; each figure is measured or said to be a guess; what is not
//! given on the command line is asked for, and only where a person can answer. `rules` decides.

mod rules;

use std::io::{BufRead, IsTerminal, Write};

use clap::{Args, ValueEnum};
use isthmus_server::status::Status;
use serde_json::json;

use self::rules::{Advice, Load, Needs, Way, advise};
use crate::error::CliError;
use crate::output;
use crate::plan;
use crate::status;
use crate::target::TargetArgs;

/// Bytes of an entry where no table is named.
const ENTRY_BYTES: f64 = 200.0;
/// How long a write takes where nothing was probed, in milliseconds.
const WRITE_MS: f64 = 5.0;

/// Who writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum WhoWrites {
    /// One region
    One,
    /// Several, mostly different rows
    Rows,
    /// Several, different columns of the same rows
    Columns,
}

/// Who can open connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Dials {
    /// The region that writes, or both
    Origin,
    /// Only the region that is to get the copy
    Replica,
}

/// Arguments of `isthmus advise`.
#[derive(Args, Debug)]
#[command(after_help = "\
What is not given is asked for on a terminal; without one, the value in brackets is taken. The
regions are measured: round trip, bandwidth, how long writes take, how much is written.

Examples:
  isthmus advise
  isthmus advise --table notes --from r1 --to r2,r3 --loss 0 --answer 20
  isthmus advise --to r2 --writes columns --loss 60 --json")]
pub(crate) struct AdviseArgs {
    /// A table that is there, to measure its rows and its load
    #[arg(long, value_name = "NAME")]
    table: Option<String>,
    /// The region that writes, or the busiest [the first that answers]
    #[arg(long, value_name = "REGION")]
    from: Option<String>,
    /// Regions that are to have the table too [all others]
    #[arg(long, value_name = "REGIONS", value_delimiter = ',')]
    to: Vec<String>,
    /// Who writes [default: one]
    #[arg(long, value_enum)]
    writes: Option<WhoWrites>,
    /// Seconds of writes that may be lost with a region [default: 5]
    #[arg(long, value_name = "SECONDS", value_parser = figure)]
    loss: Option<f64>,
    /// Milliseconds that the answer to a write may take [default: 50]
    #[arg(long, value_name = "MS", value_parser = figure)]
    answer: Option<f64>,
    /// Hours for which a wrong delete is to be kept out of one replica [default: 0]
    #[arg(long, value_name = "HOURS", value_parser = figure)]
    undo: Option<f64>,
    /// The network may be used at some hours only [false]
    #[arg(long)]
    at_hours: Option<bool>,
    /// Who can open connections [default: origin]
    #[arg(long, value_enum)]
    dials: Option<Dials>,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
}

fn figure(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(figure) if (0.0..=1e9).contains(&figure) => Ok(figure),
        _ => Err("must be a number of at least 0".to_owned()),
    }
}

/// Asks, measures, recommends.
pub(crate) async fn run(args: AdviseArgs) -> Result<(), CliError> {
    let needs = needs(&args)?;
    let mut places = args.target.places()?;
    let told = status::ask(&places, None).await?;
    let statuses: Vec<&Status> = told.iter().filter_map(|told| told.status.as_ref().ok()).collect();
    let is_wanted =
        |status: &&&Status| args.from.as_ref().is_none_or(|from| *from == status.region);
    let Some(own) = statuses.iter().find(is_wanted) else {
        let name = args.from.as_deref().unwrap_or("any region");
        return Err(CliError::failed(format!("{name} does not answer")));
    };
    let others: Vec<String> = match args.to.is_empty() {
        true => own.regions.iter().map(|region| region.name.clone()).collect(),
        false => args.to.clone(),
    };
    let others: Vec<String> = others.into_iter().filter(|name| *name != own.region).collect();
    // Where several places are known, the one that was chosen is asked to measure.
    places.retain(|place| place.name.as_ref().is_none_or(|name| *name == own.region));
    let mut ways = Vec::new();
    let mut row_bytes = None;
    for to in &others {
        let plan = plan::ask(&places, args.table.as_deref(), to).await?;
        let measured = plan.measures;
        row_bytes = (measured.rows > 0).then_some(measured.row_bytes).or(row_bytes);
        ways.push(Way {
            to: to.clone(),
            round_trip_ms: measured.round_trip_ms,
            bandwidth: measured.bandwidth,
            compression: measured.compression.max(1.0),
            write_ms: write_ms(&statuses, to).unwrap_or(WRITE_MS),
        });
    }
    let entries = entries_per_second(own, args.table.as_deref());
    let load = Load { entries, entry_bytes: row_bytes.unwrap_or(ENTRY_BYTES) };
    let own_write_ms = write_ms(&statuses, &own.region).unwrap_or(WRITE_MS);
    let advice = advise(&needs, own_write_ms, &ways, load);
    if args.target.json {
        let measured: Vec<_> = ways
            .iter()
            .map(|way| {
                json!({ "to": way.to, "round_trip_ms": way.round_trip_ms,
                "bandwidth": way.bandwidth, "compression": way.compression,
                "write_ms": way.write_ms })
            })
            .collect();
        return output::json(&json!({ "from": own.region, "ways": measured,
            "entries_per_second": load.entries, "entry_bytes": load.entry_bytes,
            "advice": advice }));
    }
    output::line(&text(&own.region, &ways, load, &advice))
}

/// How long a write takes in a region, as its own prober finds.
fn write_ms(statuses: &[&Status], region: &str) -> Option<f64> {
    let own = statuses.iter().find(|status| status.region == region)?;
    own.probes.iter().find(|probe| probe.region == region)?.write_ms
}

fn entries_per_second(status: &Status, table: Option<&str>) -> f64 {
    let links = status.links.iter().filter(|link| table.is_none_or(|name| link.table == name));
    // Each link carries what is written: the busiest tells how much that is.
    links.map(|link| link.entries_rate).fold(0.0, f64::max)
}

fn needs(args: &AdviseArgs) -> Result<Needs, CliError> {
    let asks = std::io::stdin().is_terminal() && !args.target.json;
    let writes = match args.writes {
        Some(writes) => writes,
        None => ask(
            asks,
            "Who writes: one region, several (rows) or several (columns)?",
            "one",
            |text| WhoWrites::from_str(text, true),
        )?,
    };
    let number = |given: Option<f64>, question: &str, usual: &str| match given {
        Some(given) => Ok(given),
        None => ask(asks, question, usual, figure),
    };
    Ok(Needs {
        many_write: writes != WhoWrites::One,
        by_column: writes == WhoWrites::Columns,
        loss_seconds: number(args.loss, "Seconds of writes that may be lost with a region?", "5")?,
        answer_ms: number(args.answer, "Milliseconds the answer to a write may take?", "50")?,
        undo_hours: number(args.undo, "Hours to keep mistakes out of one replica?", "0")?,
        at_hours: match args.at_hours {
            Some(given) => given,
            None => ask(asks, "May the network be used at some hours only (yes, no)?", "no", yes)?,
        },
        only_replica_dials: match args.dials {
            Some(dials) => dials == Dials::Replica,
            None => ask(asks, "Can only the replica open connections (yes, no)?", "no", yes)?,
        },
    })
}

fn yes(text: &str) -> Result<bool, String> {
    match text {
        "y" | "yes" | "true" => Ok(true),
        "n" | "no" | "false" => Ok(false),
        _ => Err("must be yes or no".to_owned()),
    }
}

/// Asks until there is an answer that can be read; takes the usual one where nobody is there.
fn ask<T>(
    asks: bool,
    question: &str,
    usual: &str,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<T, CliError> {
    loop {
        let mut line = String::new();
        if asks {
            let failed = |error: std::io::Error| CliError::failed(error.to_string());
            let mut shown = std::io::stderr().lock();
            write!(shown, "{question} [{usual}] ").and_then(|()| shown.flush()).map_err(failed)?;
            if std::io::stdin().lock().read_line(&mut line).map_err(failed)? == 0 {
                return Err(CliError::usage("there is no answer"));
            }
        }
        let line = line.trim();
        match read(if line.is_empty() { usual } else { line }) {
            Ok(answer) => return Ok(answer),
            Err(error) if asks => eprintln!("{error}"),
            Err(error) => return Err(CliError::usage(error)),
        }
    }
}

fn text(from: &str, ways: &[Way], load: Load, advice: &Advice) -> String {
    let ways: Vec<Vec<String>> = ways
        .iter()
        .map(|way| {
            vec![
                format!("{} -> {}", output::plain(from), output::plain(&way.to)),
                format!("{:.2} ms", way.round_trip_ms),
                format!("{}/s", output::bytes(way.bandwidth as u64)),
                format!("{:.2}", way.compression),
                format!("{:.1} ms", way.write_ms),
            ]
        })
        .collect();
    let measured = output::table_text(
        &["WAY", "ROUND TRIP", "BANDWIDTH", "COMPRESSION", "A WRITE THERE"],
        &ways,
    );
    let mode = match advice.acks {
        0 => advice.mode.to_owned(),
        acks => format!("{} (answer when {acks} other region holds it)", advice.mode),
    };
    let rows = [
        ["who writes", &format!("{}, conflicts by {}", advice.serve, advice.sync)],
        ["mode", &mode],
        ["timing", &advice.timing.join("; ")],
        ["direction", advice.direction],
        ["answer to a write", &format!("{:.1} ms", advice.answer_ms)],
        ["shows in the farthest region", &span(advice.delay_ms)],
        ["lost with the writing region", &span(advice.rpo_ms)],
        ["sent", &format!("{} a day", output::bytes(advice.wire_bytes_per_day as u64))],
    ];
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| (*cell).to_owned()).collect()).collect();
    let reasons: Vec<String> = advice.reasons.iter().map(|reason| format!("- {reason}")).collect();
    format!(
        "{measured}\n\nAt {:.0} writes a second of {:.0} bytes:\n\n{}\n\n{}",
        load.entries,
        load.entry_bytes,
        output::table_text(&["RECOMMENDED", ""], &rows),
        reasons.join("\n")
    )
}

fn span(millis: f64) -> String {
    if millis.is_finite() { output::span(millis.ceil() as u64) } else { "everything".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_person_the_usual_answers_are_taken() {
        assert_eq!(ask(false, "?", "5", figure).unwrap(), 5.0);
        assert!(ask(false, "?", "x", figure).is_err());
        assert_eq!((yes("yes"), yes("n"), yes("x").is_err()), (Ok(true), Ok(false), true));
        assert_eq!((span(f64::INFINITY).as_str(), span(0.2).as_str()), ("everything", "1 ms"));
    }
}
