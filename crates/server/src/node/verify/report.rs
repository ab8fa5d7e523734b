//! What comparing found, as the administration API tells it: gathered over pairs of regions and
//! over pauses of the job.

use std::collections::{BTreeMap, BTreeSet};

use isthmus_model::diff::{CellDiff, Class, Held, Register};
use isthmus_model::key::EncodedKey;
use isthmus_model::schema::Schema;
use isthmus_replication::verify::answer::ScrubbedFrom;
use isthmus_replication::verify::report::{Compared, Report, RowDiff, Verdict};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};

use super::json::{hex, key_json, value_json};
use crate::config::Config;

/// Ranges told of one kind.
const RANGES_MAX: usize = 256;

/// What comparing found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct VerifyReport {
    pub(super) table: String,
    pub(super) regions: Vec<String>,
    /// `None`: could not tell.
    pub(super) equal: Option<bool>,
    pub(super) reason: Option<String>,
    pub(super) rows_differing: u64,
    pub(super) rows: Vec<Json>,
    pub(super) more: bool,
    pub(super) ranges: Vec<Json>,
    pub(super) bytes_exchanged: u64,
    pub(super) round_trips: u64,
    pub(super) rows_read: u64,
    pub(super) rows_read_by_region: BTreeMap<String, u64>,
    pub(super) elapsed_ms: u64,
    pub(super) watermarks: BTreeMap<String, Json>,
    pub(super) scrubbed_since: BTreeMap<String, Option<String>>,
    /// Since when each range of each region was last read from its disk.
    #[serde(default)]
    pub(super) scrubbed_ranges: Vec<Json>,
    pub(super) bad_on_disk: Vec<Json>,
    pub(super) tree_wrong: Vec<Json>,
    pub(super) deep: bool,
    /// Rows that differ by no more than what is on its way.
    pub(super) rows_late: u64,
}

/// Names that reports need.
pub(super) struct Names<'a> {
    pub(super) config: &'a Config,
    pub(super) schema: &'a Schema,
}

impl Names<'_> {
    /// A region by its number.
    fn region(&self, number: u32) -> String {
        let own = &self.config.region;
        if u32::from(own.number) == number {
            return own.name.clone();
        }
        let others = &self.config.regions;
        let other = others.iter().find(|other| u32::from(other.number) == number);
        other.map_or_else(|| number.to_string(), |other| other.name.clone())
    }

    pub(super) fn key(&self, key: &EncodedKey) -> Json {
        key_json(self.schema, key)
    }

    fn end(&self, end: Option<&EncodedKey>) -> Json {
        end.map_or(Json::Null, |end| self.key(end))
    }

    /// A range of a region.
    pub(super) fn range(
        &self,
        region: &str,
        start: &EncodedKey,
        end: Option<&EncodedKey>,
        rows: Option<u64>,
    ) -> Json {
        json!({ "region": region, "start": self.key(start), "end": self.end(end), "rows": rows })
    }

    /// Since when each range of a region was last read from disk: all keys, the first range from
    /// before them and the last one beyond.
    pub(super) fn scrubbed(&self, region: &str, ranges: &[ScrubbedFrom]) -> Vec<Json> {
        let key = |from: &ScrubbedFrom| self.key(&EncodedKey(from.start.clone()));
        let told = |(place, from): (usize, &ScrubbedFrom)| {
            let since = (from.minute > 0).then(|| utc_text(i64::from(from.minute) * 60_000));
            json!({
                "region": region,
                "start": key(from),
                "end": ranges.get(place + 1).map_or(Json::Null, key),
                "since": since,
            })
        };
        ranges.iter().enumerate().map(told).collect()
    }
}

impl VerifyReport {
    pub(super) fn new(table: &str, regions: &[String], deep: bool) -> VerifyReport {
        VerifyReport {
            table: table.to_owned(),
            regions: regions.to_vec(),
            equal: Some(true),
            deep,
            ..VerifyReport::default()
        }
    }

    /// Takes in what a comparison of two of the regions found. One that was interrupted has no
    /// verdict but that of the rows it found.
    pub(super) fn absorb(
        &mut self,
        names: &Names<'_>,
        pair: [&str; 2],
        report: &Report,
        rows_max: usize,
    ) {
        match &report.verdict {
            Verdict::Equal => {}
            Verdict::Different => self.equal = Some(false),
            Verdict::CouldNotTell(_) if report.resume.is_some() => {}
            Verdict::CouldNotTell(why) => self.could_not_tell(why),
        }
        for diff in &report.rows {
            self.list(row_json(names, pair, diff), rows_max);
        }
        self.rows_differing += report.rows_differing;
        self.more |= report.more;
        for range in &report.ranges {
            let told = json!({
                "regions": pair,
                "start": names.key(&range.first),
                "end": names.key(&range.last),
                "rows": range.rows,
            });
            push_bounded(&mut self.ranges, told);
        }
        self.rows_late += report.late;
        self.bytes_exchanged += report.bytes_exchanged();
        self.round_trips += report.round_trips();
        for (region, cost) in pair.iter().zip(&report.costs) {
            self.count_rows_read(region, cost.rows_read);
        }
        for (region, compared) in pair.iter().zip(&report.compared) {
            if let Some(compared) = compared {
                self.note_compared(names, region, compared);
            }
        }
        for wrong in &report.tree_wrong {
            let region = pair[wrong.side.min(1)];
            let told = names.range(region, &wrong.start, wrong.end.as_ref(), None);
            push_bounded(&mut self.tree_wrong, told);
        }
    }

    /// What cannot be told does not make a difference that was found go away.
    pub(super) fn could_not_tell(&mut self, why: &str) {
        if self.equal == Some(true) {
            self.equal = None;
        }
        self.reason.get_or_insert_with(|| why.to_owned());
    }

    pub(super) fn count_rows_read(&mut self, region: &str, rows: u64) {
        self.rows_read += rows;
        *self.rows_read_by_region.entry(region.to_owned()).or_default() += rows;
    }

    /// Lists a row while there is room; counting is the caller's.
    pub(super) fn list(&mut self, row: Json, rows_max: usize) {
        match self.rows.len() < rows_max {
            true => self.rows.push(row),
            false => self.more = true,
        }
    }

    /// The keys listed of a pair.
    pub(super) fn listed(&self, pair: [&str; 2]) -> BTreeSet<String> {
        let of_pair = self.rows.iter().filter(|row| row["regions"] == json!(pair));
        of_pair.map(|row| row["key"].to_string()).collect()
    }

    fn note_compared(&mut self, names: &Names<'_>, region: &str, compared: &Compared) {
        let mut origins = Map::new();
        for (origin, lsn, hlc) in &compared.vector {
            let told = json!({ "lsn": lsn, "hlc": hlc.to_string() });
            origins.insert(names.region(*origin), told);
        }
        let told = json!({
            "lsn": compared.lsn,
            "hlc": compared.hlc.to_string(),
            "epoch": compared.epoch,
            "origins": origins,
        });
        self.watermarks.insert(region.to_owned(), told);
        let since = compared.scrubbed_since_millis.map(utc_text);
        self.scrubbed_since.insert(region.to_owned(), since);
        self.scrubbed_ranges.retain(|known| known["region"] != region);
        self.scrubbed_ranges.extend(names.scrubbed(region, &compared.scrubbed));
    }

    pub(super) fn to_json(&self) -> Json {
        serde_json::to_value(self).unwrap_or(Json::Null)
    }
}

/// Adds to a list that stays short.
pub(super) fn push_bounded(list: &mut Vec<Json>, told: Json) {
    if list.len() < RANGES_MAX {
        list.push(told);
    }
}

/// A row that differs.
pub(super) fn row_json(names: &Names<'_>, pair: [&str; 2], diff: &RowDiff) -> Json {
    let cells: Vec<Json> = diff.cells.iter().map(|cell| cell_json(pair, cell)).collect();
    let key = match names.key(&diff.key) {
        Json::Null => json!({ "bytes": hex(&diff.key) }),
        key => key,
    };
    json!({ "key": key, "class": class_word(diff.class), "regions": pair, "cells": cells })
}

fn class_word(class: Class) -> &'static str {
    match class {
        Class::Missing => "missing",
        Class::Extra => "extra",
        Class::Older => "older",
        Class::Newer => "newer",
        Class::Different => "different",
    }
}

fn cell_json(pair: [&str; 2], cell: &CellDiff) -> Json {
    let (word, column, timestamp) = match &cell.register {
        Register::Tombstone => ("tombstone", "", None),
        Register::Marker => ("marker", "", None),
        Register::ColumnTombstone(name) => ("column-tombstone", name.as_str(), None),
        Register::Trim(name, below) => ("trim", name.as_str(), Some(below.0)),
        Register::Cell(name, timestamp) => ("cell", name.as_str(), Some(timestamp.0)),
        Register::Count(name, _) => ("count", name.as_str(), None),
        Register::Share(name, _) => ("share", name.as_str(), None),
        Register::Seen(name, _) => ("seen", name.as_str(), None),
    };
    let mut told = Map::new();
    told.insert("column".to_owned(), column.into());
    told.insert("register".to_owned(), word.into());
    told.insert("timestamp".to_owned(), timestamp.into());
    told.insert("class".to_owned(), class_word(cell.class).into());
    for (region, held) in pair.iter().zip([&cell.first, &cell.second]) {
        told.insert((*region).to_owned(), held.as_ref().map_or(Json::Null, held_json));
    }
    Json::Object(told)
}

/// A value; of a register without one, when it was written.
fn held_json(held: &Held) -> Json {
    match &held.value {
        Some(value) => value_json(value),
        None => json!({ "written": held.stamp.hlc.0.to_string(), "origin": held.stamp.origin.0 }),
    }
}

/// A time in UTC, to the second.
pub(super) fn utc_text(millis: i64) -> String {
    let seconds = millis.div_euclid(1000);
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days are counted in eras of 400 years that begin on the first of March.
    let shifted = days + 719_468;
    let (era, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let date = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_calendar_has_them() {
        assert_eq!(utc_text(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc_text(951_827_696_700), "2000-02-29T12:34:56Z");
        assert_eq!(utc_text(1_896_091_200_000), "2030-01-31T12:00:00Z");
        assert_eq!(utc_text(-1), "1969-12-31T23:59:59Z");
    }

    #[test]
    fn what_cannot_be_told_does_not_hide_a_difference() {
        let mut report = VerifyReport::new("t", &["a".into(), "b".into()], false);
        report.could_not_tell("b is behind");
        assert_eq!(report.equal, None);
        report.equal = Some(false);
        report.could_not_tell("c is behind");
        assert_eq!((report.equal, report.reason.as_deref()), (Some(false), Some("b is behind")));
    }
}
