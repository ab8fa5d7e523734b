//! `isthmus scrub`: reads a region's rows from its disk and checks them against the digest.
//!
//! What must hold: damage that is left makes the exit code 1; text names the region, the table and
//! the keys of what is damaged.

use clap::Args;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use crate::error::{CliError, Exit};
use crate::job::follow::{Started, report};
use crate::output;
use crate::progress::count;
use crate::report::{Range, ReportArgs, csv_line, json_text, key_text, range_text, rows as words};
use crate::target::TargetArgs;

/// Arguments of `isthmus scrub`.
#[derive(Args, Debug)]
#[command(after_help = "\
What a disk has lost or changed is found by reading it: every row is read at a throttle and summed
up, and the sum must be that of the digest, which was kept when the row was written. --repair
takes the rows that are damaged from another region that has them sound.

Examples:
  isthmus scrub                          all tables of the region
  isthmus scrub notes --region r2
  isthmus scrub notes --region r2 --repair
  isthmus scrub --mib-per-second 8 --detach

Exit codes: 0 sound, or all damage repaired; 1 damage is left, or it failed; 2 the command is
wrong; 3 no region was reached; 130 stopped by a signal, which cancels the job.")]
pub(crate) struct ScrubArgs {
    /// The table [default: all]
    table: Option<String>,
    /// Read so much per second at most
    #[arg(long, value_name = "N", default_value_t = 32,
        value_parser = clap::value_parser!(u64).range(1..=100_000))]
    mib_per_second: u64,
    /// Take damaged rows from a healthy replica
    #[arg(long)]
    repair: bool,
    /// Print the job's id and do not wait for it
    #[arg(long)]
    detach: bool,
    #[command(flatten)]
    report: ReportArgs,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
}

/// What a scrub found.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Scrubbed {
    rows_read: u64,
    bytes_read: u64,
    bad: Vec<Range>,
    repaired: u64,
    bad_left: Option<u64>,
    elapsed_ms: f64,
}

impl Scrubbed {
    fn of_json(told: &Json) -> Result<Scrubbed, CliError> {
        Scrubbed::deserialize(told)
            .map_err(|error| CliError::failed(format!("the report cannot be read: {error}")))
    }

    fn bad_rows(&self) -> u64 {
        self.bad.iter().map(|range| range.rows.unwrap_or(1)).sum()
    }

    fn verdict(&self) -> Exit {
        let left = match self.bad_left {
            Some(left) => left > 0,
            None => self.bad_rows() > self.repaired,
        };
        if left { Exit::Different } else { Exit::Done }
    }
}

/// Scrubs, and prints what was found.
pub(crate) async fn run(args: ScrubArgs) -> Result<Exit, CliError> {
    let preferred: Vec<String> = args.target.region_name().map(str::to_owned).into_iter().collect();
    let place = args.target.answering(&preferred).await?;
    let mut wish = json!({
        "kind": "scrub",
        "mib_per_second": args.mib_per_second,
        "repair": args.repair,
    });
    if let Some(table) = &args.table {
        wish["table"] = table.as_str().into();
    }
    if let Some(region) = args.target.region_name() {
        wish["region"] = region.into();
    }
    let json = args.target.json;
    let mut job = Started::start(&place, &wish).await?;
    if args.detach {
        return job.detach(json).map(|()| Exit::Done);
    }
    let ended = job.wait(args.report.is_for_people(json)).await?;
    let told = report(ended)?;
    if json {
        args.report.put(&json_text(&told)?)?;
    } else if args.report.csv() {
        args.report.put(&csv(&Scrubbed::of_json(&told)?))?;
    } else {
        args.report.put(&text(&told))?;
    }
    Ok(Scrubbed::of_json(&told)?.verdict())
}

/// What a scrub found, for people.
pub(crate) fn text(told: &Json) -> String {
    let Ok(found) = Scrubbed::of_json(told) else { return output::plain(&told.to_string()) };
    let read = format!(
        "{} rows and {} were read in {}",
        count(found.rows_read),
        output::bytes(found.bytes_read),
        output::span(found.elapsed_ms as u64)
    );
    if found.bad.is_empty() {
        return format!("SOUND: what the disk holds is what was written\n\n{read}");
    }
    let list: String = found.bad.iter().map(|range| format!("\n  {}", range_text(range))).collect();
    let next = match (found.repaired, found.verdict()) {
        (rows, Exit::Done) => format!("all of it is mended, {} repaired", words(rows)),
        (0, _) => "nothing was repaired; --repair takes these rows from a healthy replica".into(),
        (rows, _) => format!("{} repaired, the rest is left", words(rows)),
    };
    format!("DAMAGED: what the disk holds is not what was written{list}\n\n{next}\n{read}")
}

fn csv(found: &Scrubbed) -> String {
    let headings = ["region", "table", "start", "end", "rows"].map(str::to_owned);
    let key = |key: &Json| if key.is_null() { String::new() } else { key_text(key) };
    let line = |range: &Range| {
        csv_line(&[
            range.region.clone().unwrap_or_default(),
            range.table.clone().unwrap_or_default(),
            key(&range.start),
            key(&range.end),
            range.rows.map(|rows| rows.to_string()).unwrap_or_default(),
        ])
    };
    let lines = found.bad.iter().map(line);
    std::iter::once(csv_line(&headings)).chain(lines).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn damaged(repaired: u64) -> Json {
        json!({"table": "t", "rows_read": 10, "bytes_read": 2048, "repaired": repaired,
            "elapsed_ms": 3, "bad": [{"region": "r2", "table": "t", "start": {"id": "a"},
            "end": {"id": "a"}, "rows": 1}]})
    }

    #[test]
    fn damage_that_is_left_makes_the_exit_code_one() {
        let verdict = |told: Json| Scrubbed::of_json(&told).unwrap().verdict().code();
        assert_eq!(verdict(json!({"rows_read": 10, "bad": []})), 0);
        assert_eq!(verdict(damaged(0)), 1);
        assert_eq!(verdict(damaged(1)), 0);
    }

    #[test]
    fn damage_is_named() {
        let found = text(&damaged(0));
        assert!(found.contains("\n  r2: t, {\"id\":\"a\"}, 1 row\n"), "{found}");
        assert!(csv(&Scrubbed::of_json(&damaged(0)).unwrap()).contains("\nr2,t,\"{\"\"id"));
        assert!(text(&json!({"bad": []})).starts_with("SOUND"));
    }
}
