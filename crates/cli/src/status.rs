//! `isthmus status`: what the regions say of themselves, each asked at its administration port.
//!
//! What must hold: a region that does not answer is shown as such and does not hide the others;
//! a link is told by the region it leaves, which alone knows its lag, unless that one is silent.

pub(crate) mod detection;
mod figures;
mod grouped;
mod reshapes;

use std::time::Duration;

use clap::Args;
use isthmus_control::distribution::partition_named;
use isthmus_server::status::{
    CopyStatus, DifferingStatus, DigestWord, LinkStatus, QuorumStatus, Status, TableStatus,
};
use serde_json::json;

use crate::error::{CliError, Exit};
use crate::output;
use crate::target::{Place, TargetArgs};

/// Arguments of `isthmus status`.
#[derive(Args, Debug)]
#[command(after_help = "\
All regions that `isthmus up` runs are asked, or the one that is named. With --json one line:
{\"regions\":[{\"name\":...,\"admin\":...,\"status\":{...} or null,\"error\":null or text}, ...]}

Examples:
  isthmus status
  isthmus status --watch --table notes
  isthmus status --table events         partition by partition, if it is distributed
  isthmus status --region r1 --json
  isthmus status --config /etc/isthmus/r1.toml

Exit code 3 if no region answered.")]
pub(crate) struct StatusArgs {
    /// Show again and again until Ctrl-C
    #[arg(long)]
    watch: bool,
    /// Seconds between, with --watch
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds)]
    interval: f64,
    /// Show this table only
    #[arg(long, value_name = "NAME")]
    table: Option<String>,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
}

pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("must be 0.1 to 3600".to_owned()),
    }
}

/// What one region answered.
pub(crate) struct Told {
    /// Who was asked.
    pub(crate) place: Place,
    /// Its answer.
    pub(crate) status: Result<Status, CliError>,
}

/// Shows the status, once or until Ctrl-C.
pub(crate) async fn run(args: StatusArgs) -> Result<(), CliError> {
    let places = args.target.places()?;
    let is_whole = args.table.is_none();
    loop {
        let told = ask(&places, args.table.as_deref()).await?;
        if args.target.json {
            print_json(&told)?;
        } else if args.watch {
            // Home, then clear what is below: without a flicker.
            output::line(&format!("\x1b[H\x1b[2J{}", text(&told, is_whole)))?;
        } else {
            output::line(&text(&told, is_whole))?;
        }
        if !args.watch {
            return silent_error(told);
        }
        tokio::time::sleep(Duration::from_secs_f64(args.interval)).await;
    }
}

/// Asks all regions at once.
pub(crate) async fn ask(places: &[Place], table: Option<&str>) -> Result<Vec<Told>, CliError> {
    let mut waiting = Vec::with_capacity(places.len());
    for place in places {
        let admin = place.admin_client()?;
        waiting.push(tokio::spawn(async move { admin.get_json::<Status>("/v1/status").await }));
    }
    let mut all = Vec::with_capacity(places.len());
    for (place, answer) in places.iter().zip(waiting) {
        let answer = answer.await.map_err(|error| CliError::failed(error.to_string()))?;
        let status = answer.map_err(CliError::from).map(|mut status| {
            let is_shown = |found: &TableStatus| {
                table.is_none_or(|name| {
                    found.name == name || found.distribution.as_deref() == Some(name)
                })
            };
            status.tables.retain(is_shown);
            let is_of = |found: &LinkStatus| {
                let table_of = partition_named(&found.table).map(|(table, _)| table);
                table.is_none_or(|name| found.table == name || table_of == Some(name))
            };
            status.links.retain(is_of);
            status.reshapes.retain(|found| table.is_none_or(|name| found.table == name));
            status
        });
        all.push(Told { place: place.clone(), status });
    }
    Ok(all)
}

/// An error if no region answered at all.
pub(crate) fn silent_error(told: Vec<Told>) -> Result<(), CliError> {
    if told.iter().any(|told| told.status.is_ok()) {
        return Ok(());
    }
    match told.into_iter().next() {
        Some(Told { status: Err(error), place }) => Err(error.context(place.shown())),
        _ => Err(CliError::new(Exit::Unreachable, "no region is named")),
    }
}

fn print_json(told: &[Told]) -> Result<(), CliError> {
    let regions: Vec<serde_json::Value> = told
        .iter()
        .map(|told| {
            json!({
                "name": told.status.as_ref().ok().map(|status| status.region.as_str())
                    .or(told.place.name.as_deref()),
                "admin": told.place.admin,
                "status": told.status.as_ref().ok(),
                "error": told.status.as_ref().err().map(|error| error.message.as_str()),
            })
        })
        .collect();
    output::json(&json!({ "regions": regions }))
}

/// `is_whole`: partitions of distributed tables are shown together, and their links where
/// something is to be seen.
fn text(told: &[Told], is_whole: bool) -> String {
    let mut parts = vec![regions_text(told)];
    parts.extend(quorum_text(told));
    parts.extend(detection::text(told));
    parts.extend(drill_text(told));
    let tables = tables_text(told, is_whole);
    if !tables.is_empty() {
        parts.push(tables);
    }
    parts.extend(reshapes::text(told));
    parts.extend(figures::text(told));
    let mut links = links(told);
    links.retain(|(link, _)| !(is_whole && grouped::is_quiet(link)));
    if !links.is_empty() {
        parts.push(links_text(&links));
    }
    parts.join("\n\n")
}

fn regions_text(told: &[Told]) -> String {
    let rows: Vec<Vec<String>> = told.iter().map(region_row).collect();
    output::table_text(&["REGION", "STATE", "SERVES FOR", "MEMORY", "DISK", "OTHER REGIONS"], &rows)
}

fn region_row(told: &Told) -> Vec<String> {
    match &told.status {
        Ok(status) => {
            let others = status.regions.iter().filter(|region| region.name != status.region);
            let others: Vec<String> = others
                .map(|region| {
                    let since = age(status.now_ms, region.since_ms);
                    let name = output::plain(&region.name);
                    let mut text = format!("{name} {} for {since}", region.state.as_str());
                    if !region.reason.is_empty() {
                        text += &format!(" ({})", output::plain(&region.reason));
                    }
                    text
                })
                .collect();
            let mut state = match &status.refuses_writes {
                Some(reason) => format!("refuses writes: {}", output::plain(reason)),
                None => "serving".to_owned(),
            };
            if let Some(log) = status.log.as_ref().filter(|log| log.alarm_percent.is_some()) {
                state += &format!(", logs at {:.0} % of their budget", log.budget_used * 100.0);
            }
            vec![
                output::plain(&status.region),
                state,
                age(status.now_ms, status.serving_since_ms),
                status.memory_bytes.map_or_else(String::new, output::bytes),
                status.disk_bytes.map_or_else(String::new, output::bytes),
                others.join(", "),
            ]
        }
        Err(error) => {
            let name = told.place.shown().to_owned();
            let state = format!("silent: {}", output::plain(&error.message));
            vec![name, state, String::new(), String::new(), String::new(), String::new()]
        }
    }
}

/// The quorum in one line, as the region sees it that knows most of it.
fn quorum_text(told: &[Told]) -> Option<String> {
    let told = told.iter().filter_map(|told| told.status.as_ref().ok());
    let quorum = told.filter_map(|status| status.quorum.as_ref());
    quorum.max_by_key(|quorum| (quorum.leader.is_some(), quorum.term, quorum.applied)).map(in_line)
}

/// A quorum in one line.
pub(crate) fn in_line(quorum: &QuorumStatus) -> String {
    let members: Vec<String> = quorum.members.iter().map(|name| output::plain(name)).collect();
    let leader = match &quorum.leader {
        Some(leader) => format!("{} leads", output::plain(leader)),
        None => "none of them leads that hears a majority".to_owned(),
    };
    if members.is_empty() {
        return "quorum: not begun; a majority of those who vote has to run".to_owned();
    }
    format!(
        "quorum of {}: {leader}, term {}, {} applied, leases of {} ms",
        members.join(", "),
        quorum.term,
        quorum.applied,
        quorum.lease_ms
    )
}

/// The last drill that a region knows of, in one line.
fn drill_text(told: &[Told]) -> Option<String> {
    let statuses = told.iter().filter_map(|told| told.status.as_ref().ok());
    let known = statuses.filter_map(|status| Some((status.now_ms, status.last_drill.as_ref()?)));
    let (now, drill) = known.max_by_key(|(_, drill)| drill.ended_ms)?;
    let result = if drill.passed { "passed" } else { "failed" };
    let rto = drill.rto_ms().map_or_else(
        || "not written again".to_owned(),
        |rto| format!("written again after {}", output::span(rto)),
    );
    let mut text = format!(
        "last drill: {} of {} {result} {} ago, {} rows lost, {rto}",
        output::plain(&drill.kind),
        output::plain(&drill.region),
        age(now, drill.ended_ms),
        drill.missing_rows(),
    );
    if !drill.reason.is_empty() {
        text += &format!(" ({})", output::plain(&drill.reason));
    }
    Some(text)
}

fn tables_text(told: &[Told], is_whole: bool) -> String {
    let mut rows = Vec::new();
    for status in told.iter().filter_map(|told| told.status.as_ref().ok()) {
        if is_whole {
            rows.extend(grouped::rows(status));
        }
        let alone = status.tables.iter();
        for table in alone.filter(|table| !is_whole || table.distribution.is_none()) {
            rows.push(vec![
                output::plain(&table.name),
                output::plain(&status.region),
                if table.writable { "yes" } else { "no" }.to_owned(),
                served_text(table),
                table.write_mode.as_ref().map_or_else(|| "async".to_owned(), |mode| mode.words()),
                table.partitions.to_string(),
                table.entries.to_string(),
                table.digest.as_ref().map_or("-", |digest| digest_word(digest.state)).to_owned(),
                differing_text(&table.differing),
            ]);
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    rows.sort();
    let headings = [
        "TABLE",
        "REGION",
        "WRITABLE",
        "SERVED",
        "ANSWERS",
        "PARTITIONS",
        "ENTRIES",
        "DIGEST",
        "DIFFERS",
    ];
    output::table_text(&headings, &rows) + &put_back_text(told) + &batches_text(told)
}

/// Batches of several partitions of which it is not known yet whether they are made.
fn batches_text(told: &[Told]) -> String {
    let statuses = told.iter().filter_map(|told| told.status.as_ref().ok());
    let of_status = |status: &Status| {
        let one = |table: &TableStatus| {
            let batches = table.batches.as_ref().filter(|batches| batches.in_doubt > 0)?;
            let oldest = batches.oldest.first()?;
            Some(format!(
                "{} in {}: {} batches of several partitions in doubt, the oldest for {}, decided \
                 in {}\n",
                output::plain(&table.name),
                output::plain(&status.region),
                batches.in_doubt,
                output::span(oldest.waited_ms),
                output::plain(&oldest.anchor),
            ))
        };
        status.tables.iter().filter_map(one).collect::<String>()
    };
    statuses.map(of_status).collect()
}

/// Why tables are neither read nor written whose old disks were put back.
fn put_back_text(told: &[Told]) -> String {
    let statuses = told.iter().filter_map(|told| told.status.as_ref().ok());
    let of_status = |status: &Status| {
        let reason = |table: &TableStatus| {
            let reason = table.put_back.as_ref()?;
            let (table, region) = (output::plain(&table.name), output::plain(&status.region));
            Some(format!("\n{table} in {region}: {}", output::plain(reason)))
        };
        status.tables.iter().filter_map(reason).collect::<String>()
    };
    statuses.map(of_status).collect()
}

/// Who serves a table, and the region and epoch of its writer where there is one.
fn served_text(table: &TableStatus) -> String {
    let mode = table.serve_mode.map_or("this region only", |mode| mode.as_str());
    match (&table.primary, table.epoch) {
        (Some(primary), Some(epoch)) => {
            format!("{mode}, {} in epoch {epoch}", output::plain(primary))
        }
        _ => mode.to_owned(),
    }
}

fn digest_word(state: DigestWord) -> &'static str {
    match state {
        DigestWord::Ready => "ready",
        DigestWord::Building => "building",
        DigestWord::Off => "off",
    }
}

/// From which other regions a replica differs, by how many rows.
fn differing_text(all: &[DifferingStatus]) -> String {
    let one = |other: &DifferingStatus| match other.rows {
        0 => None,
        rows => Some(format!("{rows} rows from {}", output::plain(&other.region))),
    };
    let found: Vec<String> = all.iter().filter_map(one).collect();
    match (found.is_empty(), all.is_empty()) {
        (false, _) => found.join(", "),
        (true, false) => "no".to_owned(),
        (true, true) => "-".to_owned(),
    }
}

/// Each link once, from the region it leaves where that one answered; with the teller's time.
pub(crate) fn links(told: &[Told]) -> Vec<(&LinkStatus, i64)> {
    let answers = || told.iter().filter_map(|told| told.status.as_ref().ok());
    let origin_answers = |link: &LinkStatus| answers().any(|status| status.region == link.from);
    let mut all: Vec<(&LinkStatus, i64)> = Vec::new();
    for status in answers() {
        for link in &status.links {
            let same = |other: &LinkStatus| {
                (&other.table, other.partition, &other.from, &other.to)
                    == (&link.table, link.partition, &link.from, &link.to)
            };
            let told_by_origin = link.from == status.region || !origin_answers(link);
            if told_by_origin && !all.iter().any(|(other, _)| same(other)) {
                all.push((link, status.now_ms));
            }
        }
    }
    all.sort_by_key(|(link, _)| (&link.table, link.partition, &link.from, &link.to));
    all
}

/// How far a copy is, such as `400 of 1000 rows, 100 rows/s, 5 MiB/s, 6 s left`.
fn copy_text(copy: &CopyStatus) -> String {
    let mut text = copy.rows_done.to_string();
    if let Some(total) = copy.rows_total {
        text += &format!(" of {total}");
    }
    text += " rows";
    if copy.rows_per_second > 0.0 {
        let bytes = output::bytes(copy.bytes_per_second as u64);
        text += &format!(", {:.0} rows/s, {bytes}/s", copy.rows_per_second);
    }
    if let Some(left) = copy.left_ms {
        text += &format!(", {} left", output::span(left));
    }
    text
}

/// Why a link stands as it does, and what is asked of it.
fn reason_text(link: &LinkStatus, now: i64) -> String {
    let mut parts = Vec::new();
    if !link.reason.is_empty() {
        parts.push(output::plain(&link.reason));
    }
    if link.direction != "push" {
        parts.push(output::plain(&link.direction));
    }
    if let Some(timing) = &link.timing {
        parts.push(output::plain(timing));
    }
    if let Some(next) = link.next_ms {
        parts.push(format!("next in {}", output::span((next - now).max(0) as u64)));
    }
    if let Some(rate) = link.bytes_per_second {
        parts.push(format!("at most {}/s", output::bytes(rate)));
    }
    if let Some(rate) = link.entries_per_second {
        parts.push(format!("at most {rate} entries/s"));
    }
    if let Some(percent) = link.copy_cpu_percent {
        parts.push(format!("copies take {percent} % of a processor"));
    }
    parts.join("; ")
}

pub(crate) fn links_text(links: &[(&LinkStatus, i64)]) -> String {
    let rows: Vec<Vec<String>> = links
        .iter()
        .map(|(link, now)| {
            let mut state = link.state.as_str().to_owned();
            if let Some(copy) = &link.copy {
                state += &format!(" {}", copy_text(copy));
            } else if let Some(rows) = link.copied_rows {
                state += &format!(" {rows} rows");
            }
            vec![
                output::plain(&link.table),
                link.partition.to_string(),
                format!("{} -> {}", output::plain(&link.from), output::plain(&link.to)),
                state,
                age(*now, link.since_ms),
                link.lag_entries.to_string(),
                output::span(link.lag_ms),
                link.oldest_entry_ms.map_or_else(|| "-".to_owned(), |at| age(*now, at)),
                reason_text(link, *now),
            ]
        })
        .collect();
    let headings =
        ["TABLE", "PARTITION", "LINK", "STATE", "FOR", "LAG", "LAG TIME", "OLDEST", "REASON"];
    output::table_text(&headings, &rows)
}

/// How long ago something was.
pub(crate) fn age(now: i64, then: i64) -> String {
    output::span(u64::try_from(now.saturating_sub(then)).unwrap_or(0))
}

#[cfg(test)]
pub(crate) mod tests {
    use isthmus_server::status::{DrillStatus, DrilledTable, LinkState, RegionState, RegionStatus};

    use super::*;

    pub(crate) fn status(region: &str, lag: u64) -> Status {
        Status {
            version: "0.1.0".into(),
            instance: "demo".into(),
            region: region.into(),
            number: 1,
            serving_since_ms: 0,
            now_ms: 5_000,
            regions: vec![RegionStatus {
                name: "r2".into(),
                number: 2,
                endpoint: "http://h:1".into(),
                state: RegionState::Unreachable,
                since_ms: 1_000,
                reason: "connection\u{1b} refused".into(),
                format: None,
            }],
            tables: Vec::new(),
            links: vec![LinkStatus {
                table: "t".into(),
                partition: 1,
                from: "r1".into(),
                to: "r2".into(),
                state: LinkState::Following,
                held: false,
                reason: String::new(),
                since_ms: 0,
                lag_entries: lag,
                lag_ms: 20,
                oldest_entry_ms: Some(4_980),
                shipped_lsn: 9,
                acked_lsn: 7,
                copied_rows: None,
                alike_rows: None,
                waiting_bytes: None,
                log_budget_used: None,
                direction: "push".into(),
                timing: None,
                next_ms: None,
                bytes_per_second: None,
                entries_per_second: None,
                copy_cpu_percent: None,
                copy: None,
                compression: "auto".into(),
                sent_bytes: 0,
                wire_bytes: 0,
                sent_entries: 0,
                entries_rate: 0.0,
                wire_bytes_rate: 0.0,
                retries: 0,
                conflicts: 0,
                last_copy: None,
            }],
            probes: Vec::new(),
            instance_availability: None,
            log: None,
            quorum: None,
            last_drill: None,
            batches: None,
            reshapes: Vec::new(),
            reshaped: None,
            memory_bytes: None,
            disk_bytes: None,
            disk_free_bytes: None,
            refuses_writes: None,
        }
    }

    pub(crate) fn told(name: &str, status: Result<Status, CliError>) -> Told {
        Told { place: Place::for_tests(name), status }
    }

    #[test]
    fn a_link_is_told_by_the_region_it_leaves() {
        let both = [told("r2", Ok(status("r2", 99))), told("r1", Ok(status("r1", 2)))];
        let found = links(&both);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0.lag_entries, 2);
        let silent = Err(CliError::failed("refused"));
        let one = [told("r2", Ok(status("r2", 99))), told("r1", silent)];
        assert_eq!(links(&one)[0].0.lag_entries, 99);
    }

    /// One that answers and one that does not.
    pub(crate) fn two_regions() -> Vec<Told> {
        vec![told("r1", Ok(status("r1", 2))), told("r2", Err(CliError::failed("refused")))]
    }

    #[test]
    fn the_quorum_is_told_as_the_one_sees_it_that_knows_most() {
        let quorum = |leader: Option<&str>, term| QuorumStatus {
            members: vec!["r1".into(), "r2".into(), "w1".into()],
            leader: leader.map(str::to_owned),
            term,
            stored: 9,
            applied: 8,
            votes: true,
            majority_heard_ms_ago: None,
            lease_ms: 2000,
            detection: None,
        };
        let seen =
            |name: &str, quorum| told(name, Ok(Status { quorum: Some(quorum), ..status(name, 0) }));
        let all = [seen("r1", quorum(None, 7)), seen("r2", quorum(Some("w1"), 6))];
        let line = "quorum of r1, r2, w1: w1 leads, term 6, 8 applied, leases of 2000 ms";
        assert_eq!(quorum_text(&all).as_deref(), Some(line));
        assert!(quorum_text(&all[..1]).unwrap().contains("none of them leads"));
        assert_eq!(quorum_text(&two_regions()), None);
    }

    #[test]
    fn the_last_drill_is_told_in_one_line() {
        assert_eq!(drill_text(&two_regions()), None);
        let drill = |ended_ms, passed| DrillStatus {
            kind: "region-loss".into(),
            region: "r1".into(),
            ended_ms,
            passed,
            tables: vec![DrilledTable { rto_ms: Some(2_500), ..DrilledTable::default() }],
            ..DrillStatus::default()
        };
        let knows = |drill| told("r", Ok(Status { last_drill: Some(drill), ..status("r", 0) }));
        let all = [knows(drill(1_000, false)), knows(drill(4_000, true))];
        let line = "last drill: region-loss of r1 passed 1.0 s ago, 0 rows lost, written again \
                    after 2.5 s";
        assert_eq!(drill_text(&all).as_deref(), Some(line));
    }

    #[test]
    fn silent_regions_are_shown_beside_the_others() {
        let all = two_regions();
        let text = text(&all, true);
        assert!(text.contains("r1") && text.contains("silent: refused"), "{text}");
        assert!(text.contains("r1 -> r2") && text.contains("following"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text:?}");
        assert!(silent_error(all).is_ok());
        assert!(silent_error(vec![told("r1", Err(CliError::failed("x")))]).is_err());
    }
}
