//! `isthmus plan`: how long a copy of a table to another region will take, and what it will send.
//!
//! What must hold: it measures and changes nothing; what it says is kept, and afterwards shown
//! beside what the copy took.

use clap::Args;
use isthmus_connectors::admin::AdminError;
use isthmus_control::forecast::{Forecast, Limit, Measures};
use isthmus_server::status::EndedCopy;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::error::CliError;
use crate::output;
use crate::target::{Place, TargetArgs};

/// Where plans are made.
const PLANS: &str = "/v1/plans";
/// HTTP status of a region that does not hold the table.
const NOT_HERE: u16 = 404;

/// Arguments of `isthmus plan`.
#[derive(Args, Debug)]
#[command(after_help = "\
The region that holds the table measures the way to the other one: round trip, bandwidth, how well
rows are compressed, how fast they are read here and made durable there. That takes a second or so
and some MiB. Then the time is n*d/(b*r): n rows of d bytes, bandwidth b, gain r; where reading,
the other disk, what the link may ship (`link set`; a copy takes 25 % of one processor unless asked
otherwise, and less where writes feel it) or the last copy between the two was slower, that counts,
and it is said which.

Ask before `global-table bind`; when the copy has ended, this and `status --json` show forecast
and measured side by side.

Examples:
  isthmus plan notes --to r3
  isthmus plan notes --to r3 --region r1 --json
  isthmus global-table bind notes --regions r3")]
pub(crate) struct PlanArgs {
    /// The table
    table: String,
    /// The region that is to get a copy
    #[arg(long, value_name = "REGION")]
    to: String,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
}

/// What a region answers.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Plan {
    /// The region that measured.
    pub(crate) from: String,
    /// The other one.
    pub(crate) to: String,
    /// What was measured.
    pub(crate) measures: Measures,
    /// What follows for the table, if one was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) forecast: Option<Forecast>,
    /// The last copy that ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_copy: Option<EndedCopy>,
}

/// Asks and prints.
pub(crate) async fn run(args: PlanArgs) -> Result<(), CliError> {
    let plan = ask(&args.target.places()?, Some(&args.table), &args.to).await?;
    if args.target.json {
        return output::json(&plan);
    }
    output::line(&text(&args.table, &plan))
}

/// Has the first region that can, other than the one it is about, measure the way there.
pub(crate) async fn ask(places: &[Place], table: Option<&str>, to: &str) -> Result<Plan, CliError> {
    let mut refused = CliError::failed(format!("no region but {to} is known"));
    for place in places.iter().filter(|place| place.name.as_deref() != Some(to)) {
        let wish = json!({ "to": to, "table": table });
        match place.admin_client()?.post_json(PLANS, &wish).await {
            Ok(plan) => return Ok(plan),
            // Another region may hold the table, or be reached.
            Err(error @ (AdminError::Refused { status: NOT_HERE, .. } | AdminError::Http(_))) => {
                refused = CliError::from(error).context(place.shown());
            }
            Err(error) => return Err(CliError::from(error).context(place.shown())),
        }
    }
    Err(refused)
}

fn text(table: &str, plan: &Plan) -> String {
    let Plan { from, to, measures, forecast, last_copy } = plan;
    let rate = |bytes: f64| format!("{}/s", output::bytes(bytes as u64));
    let mut rows = vec![
        vec!["rows (n)".to_owned(), measures.rows.to_string()],
        vec!["bytes of a row (d)".to_owned(), format!("{:.1}", measures.row_bytes)],
        vec!["round trip".to_owned(), format!("{:.2} ms", measures.round_trip_ms)],
        vec!["bandwidth (b)".to_owned(), rate(measures.bandwidth)],
        vec!["gain by compression".to_owned(), format!("{:.2}", measures.compression)],
        vec!["gain by parallelism".to_owned(), format!("{:.2}", measures.parallelism)],
        vec!["gain (r)".to_owned(), format!("{:.2}", measures.gain())],
        vec!["read and packed here".to_owned(), rate(measures.reads)],
        vec!["made durable there".to_owned(), rate(measures.takes)],
    ];
    if let Some(past) = measures.past {
        rows.push(vec!["the last large copy".to_owned(), rate(past)]);
    }
    if let Some(most) = measures.bytes_per_second {
        rows.push(vec!["the link may ship".to_owned(), rate(most as f64)]);
    }
    if let Some(most) = measures.entries_per_second {
        rows.push(vec!["rows it may ship".to_owned(), format!("{most}/s")]);
    }
    if let Some(percent) = measures.copy_cpu_percent {
        rows.push(vec!["a copy may take here".to_owned(), format!("{percent} % of a processor")]);
    }
    let mut parts = vec![format!(
        "A copy of {} from {} to {}, as measured now:",
        output::plain(table),
        output::plain(from),
        output::plain(to)
    )];
    parts.push(output::table_text(&["MEASURED", ""], &rows));
    if let Some(forecast) = forecast {
        parts.push(format!(
            "It will take about {} and send {} ({} of rows); {}.\nAfterwards a write shows there \
             {:.1} ms later, and more under load.",
            seconds(forecast.seconds),
            output::bytes(forecast.wire_bytes),
            output::bytes(forecast.bytes),
            limit(forecast.limit),
            forecast.sync_delay_ms,
        ));
    }
    if let Some(last) = last_copy {
        let forecast = |figure: Option<String>| figure.unwrap_or_else(|| "-".to_owned());
        let rows = [
            vec![
                "time".to_owned(),
                forecast(last.forecast_seconds.map(seconds)),
                seconds(last.seconds()),
            ],
            vec![
                "bytes sent".to_owned(),
                forecast(last.forecast_wire_bytes.map(output::bytes)),
                output::bytes(last.wire_bytes),
            ],
            vec!["rows".to_owned(), "-".to_owned(), last.rows.to_string()],
        ];
        parts.push(output::table_text(&["LAST COPY", "FORECAST", "MEASURED"], &rows));
    }
    parts.join("\n\n")
}

fn seconds(seconds: f64) -> String {
    output::span((seconds * 1e3) as u64)
}

fn limit(limit: Limit) -> &'static str {
    match limit {
        Limit::Network => "the network is the slowest part",
        Limit::Reading => "reading rows here is the slowest part",
        Limit::Taking => "making them durable there is the slowest part",
        Limit::LikeTheLast => "the last large copy was slower than what is measured now",
        Limit::Bytes => "it is slowed down by the bytes each second that the link may ship",
        Limit::Entries => "it is slowed down by the entries each second that the link may ship",
        Limit::Cpu => "it is slowed down by the share of a processor that a copy may take here",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forecast_and_measured_stand_side_by_side() {
        let measures = Measures { rows: 10, row_bytes: 100.0, ..Measures::default() };
        let forecast = Forecast {
            seconds: 1.5,
            bytes: 1000,
            wire_bytes: 500,
            limit: Limit::Taking,
            sync_delay_ms: 2.0,
        };
        let last = EndedCopy {
            began_ms: 1_000,
            ended_ms: 3_000,
            throttled: false,
            rows: 10,
            bytes: 1000,
            wire_bytes: 510,
            forecast_seconds: Some(1.5),
            forecast_wire_bytes: Some(500),
        };
        let (from, to) = ("r1".to_owned(), "r2".to_owned());
        let plan = Plan { from, to, measures, forecast: Some(forecast), last_copy: Some(last) };
        let text = text("t", &plan);
        assert!(text.contains("about 1.5 s and send 500 B (1000 B of rows)"), "{text}");
        assert!(text.contains("bytes sent  500 B     510 B"), "{text}");
    }
}
