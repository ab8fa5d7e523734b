//! A report as CSV: a line for each cell that differs, and one for a row of which no cell is told;
//! then a line for each range of a region whose disk, or digest, is not what it should be.
//!
//! What must hold: every line has all columns, and a key or value is JSON, so that `7` and `"7"`
//! are told apart and a spreadsheet takes none of them for a formula.

use serde_json::Value as Json;

use crate::report::text::key_json;
use crate::report::{CellDiff, Range, Report, RowDiff};

const HEADINGS: [&str; 9] = [
    "first",
    "second",
    "key",
    "row_class",
    "column",
    "timestamp",
    "cell_class",
    "first_value",
    "second_value",
];

pub(super) fn text(report: &Report) -> String {
    let mut lines = vec![line(&HEADINGS.map(str::to_owned))];
    for row in &report.rows {
        let before = before(report, row);
        if row.cells.is_empty() {
            let none = std::iter::repeat_n(String::new(), 5);
            lines.push(line(&before.iter().cloned().chain(none).collect::<Vec<_>>()));
        }
        for cell in &row.cells {
            let mut fields = before.to_vec();
            fields.push(cell.name());
            fields.push(cell.timestamp.map(|at| at.to_string()).unwrap_or_default());
            fields.push(cell.class.clone());
            fields.extend([value(cell, &before[0]), value(cell, &before[1])]);
            lines.push(line(&fields));
        }
    }
    lines.extend(report.bad_on_disk.iter().map(|range| damage(range, "bad-on-disk")));
    lines.extend(report.tree_wrong.iter().map(|range| damage(range, "tree-wrong")));
    lines.join("\n")
}

/// A range of one region: its first key and the key that is its end are where values are, empty
/// for the ends of the table.
fn damage(range: &Range, class: &str) -> String {
    let key = |key: &Json| match key {
        Json::Null => String::new(),
        key => key_json(key).to_string(),
    };
    let (start, end) = (key(&range.start), key(&range.end));
    let region = range.region.clone().unwrap_or_default();
    let none = String::new;
    let (class, what) = (class.to_owned(), "(range)".to_owned());
    line(&[region, none(), start.clone(), class, what, none(), none(), start, end])
}

fn before(report: &Report, row: &RowDiff) -> [String; 4] {
    let pair = if row.regions.len() == 2 { &row.regions } else { &report.regions };
    let region = |place: usize| pair.get(place).cloned().unwrap_or_default();
    [region(0), region(1), key_json(&row.key).to_string(), row.class.clone()]
}

fn value(cell: &CellDiff, region: &str) -> String {
    match cell.values.get(region) {
        None | Some(Json::Null) => String::new(),
        Some(value) => value.to_string(),
    }
}

/// One line, fields in quotes where they need them.
pub(super) fn line(fields: &[String]) -> String {
    let field = |text: &String| match text.contains(['"', ',', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.clone(),
    };
    fields.iter().map(field).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::report::tests::different;

    #[test]
    fn every_differing_cell_is_a_line_with_the_key_and_both_values() {
        let report = Report::of_json(&different()).unwrap();
        let expected = "first,second,key,row_class,column,timestamp,cell_class,first_value,\
                        second_value\n\
                        r1,r2,\"{\"\"id\"\":\"\"a\"\",\"\"n\"\":-7}\",missing,text,5,missing,\
                        \"\"\"he said \\\"\"no\\\"\"\"\"\",\n";
        let found = text(&report);
        assert!(found.starts_with(expected), "{found}");
        assert!(found.lines().nth(2).unwrap().ends_with(",extra,,,,,"), "{found}");
        assert!(!found.contains('\u{1b}'), "JSON escapes what steers a terminal");
    }

    #[test]
    fn a_disk_that_is_not_sound_is_a_line_with_the_range() {
        let told = json!({"equal": true, "bad_on_disk": [{"region": "r2", "start": null,
            "end": [{"name": "n", "type": "integer", "value": 7}], "rows": 9}]});
        let found = text(&Report::of_json(&told).unwrap());
        let last = found.lines().last().unwrap();
        assert_eq!(last, "r2,,,bad-on-disk,(range),,,,\"{\"\"n\"\":7}\"");
    }
}
