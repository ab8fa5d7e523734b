//! A report for people: the verdict, then what differs, then the figures.
//!
//! What must hold: the first line alone answers the question; a key is shown as `isthmus row get`
//! takes it.

use serde_json::{Map, Value as Json};

use crate::output::{self, plain};
use crate::progress::count;
use crate::report::{CellDiff, Range, Report, RowDiff, ScrubbedRange};

/// Characters of a value that are shown.
const VALUE_CHARS_MAX: usize = 60;

pub(super) fn text(report: &Report) -> String {
    let mut parts = vec![verdict(report)];
    parts.extend(report.rows.iter().map(|row| row_text(report, row)));
    if report.more {
        let shown = report.rows.len() as u64;
        parts
            .push(format!("{} rows are shown, more differ; --rows-max N shows more", count(shown)));
    }
    parts.extend(damage(report));
    parts.push(figures(report));
    parts.join("\n\n")
}

fn verdict(report: &Report) -> String {
    let (table, regions) = (plain(&report.table), plain(&and(&report.regions)));
    let rows = rows(report.rows_differing);
    let found = match report.equal {
        Some(true) => format!("ALIKE: {table} in {regions}"),
        Some(false) if report.rows_differing == 0 => {
            format!("DIFFERENT: {table} in {regions}")
        }
        Some(false) => format!("DIFFERENT: {table}, {rows}, in {regions}"),
        None => format!("COULD NOT TELL: {table} in {regions}"),
    };
    let reason = report.reason.as_deref().filter(|reason| !reason.is_empty());
    let found = match reason {
        Some(reason) => format!("{found}: {}", plain(reason)),
        None => found,
    };
    match repaired(report) {
        Some(done) => format!("{done}\n\nbefore: {found}"),
        None => found,
    }
}

fn repaired(report: &Report) -> Option<String> {
    let done = report.repaired?;
    if report.dry_run == Some(true) {
        return Some(format!(
            "DRY RUN: {} would be repaired, nothing was changed",
            rows(report.rows_differing)
        ));
    }
    let mut text = format!("REPAIRED: {}", rows(done));
    if report.skipped_changed > 0 {
        text += &format!(
            "; {} of them were compared again, because they had changed meanwhile",
            count(report.skipped_changed)
        );
    }
    if report.rows_left > 0 {
        text += &format!("; {} still differ", count(report.rows_left));
    }
    Some(text)
}

/// A number of rows.
pub(crate) fn rows(number: u64) -> String {
    if number == 1 { "1 row".to_owned() } else { format!("{} rows", count(number)) }
}

fn row_text(report: &Report, row: &RowDiff) -> String {
    let pair = if row.regions.len() == 2 { &row.regions } else { &report.regions };
    let region = |place: usize| pair.get(place).map_or("?", String::as_str);
    let (first, second) = (region(0), region(1));
    let head = match row.class.as_str() {
        "missing" => format!("missing in {second}, which {first} has"),
        "extra" => format!("only in {second}, not in {first}"),
        "older" | "newer" => format!("{} in {second} than in {first}", row.class),
        "different" => format!("different in {first} and {second}"),
        other => format!("{other} in {second}, beside {first}"),
    };
    let head = format!("{}  {}", key_text(&row.key), plain(&head));
    if row.cells.is_empty() {
        return head;
    }
    let one = |cell: &CellDiff| {
        vec![
            format!("  {}", plain(&cell.name())),
            cell.timestamp.map(|at| at.to_string()).unwrap_or_default(),
            plain(&cell.class),
            shown(cell.values.get(first)),
            shown(cell.values.get(second)),
        ]
    };
    let cells: Vec<Vec<String>> = row.cells.iter().map(one).collect();
    let (first, second) = (plain(first), plain(second));
    let headings = ["  COLUMN", "VERSION", "CLASS", first.as_str(), second.as_str()];
    format!("{head}\n{}", output::table_text(&headings, &cells))
}

fn shown(value: Option<&Json>) -> String {
    let text = match value {
        None | Some(Json::Null) => return "-".to_owned(),
        Some(value) => match written(value) {
            Some(text) => text,
            None => plain(&value.to_string()),
        },
    };
    if text.chars().count() <= VALUE_CHARS_MAX {
        return text;
    }
    text.chars().take(VALUE_CHARS_MAX).collect::<String>() + "..."
}

/// When something that has no value was written: an HLC has milliseconds above its low 16 bits.
fn written(value: &Json) -> Option<String> {
    let hlc: u64 = value.get("written")?.as_str()?.parse().ok()?;
    Some(format!("written at {}", hlc >> 16))
}

/// What is wrong within a region, whatever the others hold.
fn damage(report: &Report) -> Vec<String> {
    let mut parts = Vec::new();
    let list = |ranges: &[Range]| -> String {
        ranges.iter().map(|range| format!("\n  {}", range_text(range))).collect()
    };
    if !report.bad_on_disk.is_empty() {
        parts.push(format!(
            "what the disk holds is not what was written:{}\n\
             `isthmus scrub {} --repair` mends it from a healthy replica",
            list(&report.bad_on_disk),
            plain(&report.table)
        ));
    }
    if !report.tree_wrong.is_empty() {
        parts.push(format!(
            "the digest is not that of the rows:{}\n\
             this is a fault of the program; please report it",
            list(&report.tree_wrong)
        ));
    }
    parts
}

/// Where a range is and how many rows it concerns.
pub(crate) fn range_text(range: &Range) -> String {
    let mut text = String::new();
    if let Some(region) = &range.region {
        text += &format!("{}: ", plain(region));
    }
    if let Some(table) = &range.table {
        text += &format!("{}, ", plain(table));
    }
    let end = |key: &Json, none: &str| match key {
        Json::Null => none.to_owned(),
        key => key_text(key),
    };
    let (start, end) = (end(&range.start, "the first key"), end(&range.end, "the last key"));
    text += &if start == end { start } else { format!("{start} to {end}") };
    if let Some(number) = range.rows {
        text += &format!(", {}", rows(number));
    }
    if let Some(settled) = &range.settled {
        text += &format!(": {}", plain(settled));
    }
    text
}

fn figures(report: &Report) -> String {
    let mut lines = Vec::new();
    let mut line = |name: &str, text: String| lines.push(format!("{name:<12} {text}"));
    line("compared", compared(report));
    if !report.ranges.is_empty() && report.more {
        let ranges: Vec<String> = report.ranges.iter().take(5).map(range_text).collect();
        line("lie in", ranges.join("; "));
    }
    let by: Vec<String> = report
        .rows_read_by_region
        .iter()
        .map(|(region, rows)| format!("{} {}", plain(region), count(*rows)))
        .collect();
    let by = if by.is_empty() { String::new() } else { format!(" ({})", by.join(", ")) };
    line("rows read", format!("{}{by}", count(report.rows_read)));
    let trips = count(report.round_trips);
    line("exchanged", format!("{} in {trips} round trips", output::bytes(report.bytes_exchanged)));
    if report.repaired.is_some() && report.dry_run != Some(true) {
        line("moved", output::bytes(report.bytes_moved));
    }
    line("took", output::span(report.elapsed_ms as u64));
    for (region, watermark) in &report.watermarks {
        let mut text = format!("{} at", plain(region));
        if let Some(lsn) = watermark.lsn {
            text += &format!(" LSN {lsn}");
        }
        let origins = watermark.origins.iter();
        let origins: Vec<String> =
            origins.map(|(origin, mark)| format!("{} {}", plain(origin), mark.lsn)).collect();
        if origins.len() > 1 {
            text += &format!(" ({})", origins.join(", "));
        }
        line("watermark", text);
    }
    for (region, since) in &report.scrubbed_since {
        let since = match since {
            Some(since) => format!("all rows since {}", plain(since)),
            None => "not all rows yet".to_owned(),
        };
        let of_region = report.scrubbed_ranges.iter().filter(|range| range.region == *region);
        let ranges = scrubbed_text(&of_region.collect::<Vec<_>>());
        line("disk read", format!("{}: {since}{ranges}", plain(region)));
    }
    lines.join("\n")
}

/// Ranges that were read at different times, in short; nothing where they are one.
fn scrubbed_text(ranges: &[&ScrubbedRange]) -> String {
    if ranges.len() < 2 {
        return String::new();
    }
    let never = ranges.iter().filter(|range| range.since.is_none()).count();
    let oldest = ranges.iter().filter_map(|range| range.since.as_deref()).min();
    let never = match never {
        0 => String::new(),
        never => format!(", {} of them not yet", count(never as u64)),
    };
    let oldest = oldest.map(|oldest| format!(", the oldest at {}", plain(oldest)));
    format!("; {} ranges{never}{}", count(ranges.len() as u64), oldest.unwrap_or_default())
}

fn compared(report: &Report) -> String {
    match (&report.hash, report.deep) {
        (Some(hash), _) => format!("all rows, by {}", plain(hash)),
        (None, true) => "digests, after all rows were read from disk".to_owned(),
        (None, false) => "digests, which prove replication; --deep reads all rows first".to_owned(),
    }
}

fn and(names: &[String]) -> String {
    match names {
        [] => "?".to_owned(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// A key as one JSON object, whichever way it was told.
pub(super) fn key_json(key: &Json) -> Json {
    let Json::Array(parts) = key else { return key.clone() };
    let mut members = Map::new();
    for part in parts {
        let name = part.get("name").and_then(Json::as_str).unwrap_or("?");
        members.insert(name.to_owned(), part.get("value").cloned().unwrap_or(Json::Null));
    }
    Json::Object(members)
}

/// A key as `isthmus row get` takes it.
pub(crate) fn key_text(key: &Json) -> String {
    plain(&key_json(key).to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::report::tests::different;

    fn text_of(told: &Json) -> String {
        text(&Report::of_json(told).unwrap())
    }

    #[test]
    fn the_verdict_comes_first_and_rows_with_their_cells() {
        let found = text_of(&different());
        assert!(found.starts_with("DIFFERENT: notes, 3 rows, in r1 and r2\n"), "{found}");
        assert!(found.contains("{\"id\":\"a\",\"n\":-7}  missing in r2, which r1 has"), "{found}");
        assert!(found.contains("\"he said \\\"no\\\"\"  -"), "{found}");
        assert!(found.contains("only in r2, not in r1"), "{found}");
        assert!(found.contains("2.0 KiB in 2 round trips"), "{found}");
        assert!(found.contains("r2: not all rows yet"), "{found}");
        assert!(found.contains("--rows-max"), "{found}");
        assert!(!found.contains('\u{1b}'), "{found:?}");
    }

    #[test]
    fn ranges_that_were_read_at_different_times_are_told_in_short() {
        let mut told = different();
        let range =
            |since: Json| json!({"region": "r2", "start": null, "end": null, "since": since});
        told["scrubbed_ranges"] = json!([range(json!("2026-11-21T05:00:00Z"))]);
        assert!(text_of(&told).ends_with("r2: not all rows yet"), "one range adds nothing");
        told["scrubbed_ranges"] = json!([
            range(json!("2026-11-21T05:00:00Z")),
            range(Json::Null),
            range(json!("2026-11-20T05:00:00Z")),
        ]);
        let expected =
            "r2: not all rows yet; 3 ranges, 1 of them not yet, the oldest at 2026-11-20T05:00:00Z";
        assert!(text_of(&told).ends_with(expected), "{}", text_of(&told));
    }

    #[test]
    fn what_could_not_be_told_says_why() {
        let told = json!({"table": "t", "regions": ["r1", "r2", "r3"], "equal": null,
                          "reason": "r3 is away"});
        let found = text_of(&told);
        assert!(found.starts_with("COULD NOT TELL: t in r1, r2 and r3: r3 is away\n"), "{found}");
    }

    #[test]
    fn a_repair_says_what_it_did_and_what_it_found() {
        let mut told = different();
        told["dry_run"] = false.into();
        told["repaired"] = 2.into();
        told["rows_left"] = 1.into();
        let found = text_of(&told);
        assert!(found.starts_with("REPAIRED: 2 rows; 1 still differ\n\nbefore: DIFFER"), "{found}");
        told["dry_run"] = true.into();
        assert!(text_of(&told).starts_with("DRY RUN: 3 rows would be repaired"));
    }

    #[test]
    fn what_has_no_value_is_told_by_its_time() {
        let told = json!({"table": "t", "regions": ["r1", "r2"], "equal": false, "rows": [{
            "key": {"id": "a"}, "class": "missing", "cells": [{"column": "", "class": "missing",
            "register": "tombstone", "r1": {"written": "117653016892276736", "origin": 1}}]}]});
        let found = text_of(&told);
        assert!(found.contains("(tombstone)"), "{found}");
        assert!(found.contains("written at 1795242567326  -"), "{found}");
    }

    #[test]
    fn damage_on_a_disk_names_the_region_and_the_keys() {
        let told = json!({"table": "t", "regions": ["r1", "r2"], "equal": true, "bad_on_disk": [
            {"region": "r2", "start": {"id": "a"}, "end": null, "rows": 1}]});
        assert!(text_of(&told).contains("r2: {\"id\":\"a\"} to the last key, 1 row\n"));
    }
}
