//! What a replica that takes less than all holds in the end is what it takes of the history of its
//! table: of all rows, of what came since it began, or of what there was once.
//!
//! It is judged from the entries of the table alone, with a filter and a cut of its own. Where
//! rows are judged by a filter they come as they are when they are sent, so one that is taken once
//! may be newer than the place to which it has come.

use std::collections::{BTreeMap, BTreeSet};

use isthmus_control::extract::{ColumnRule, CopyKind, Extract, FilterRule, Is};
use isthmus_model::entry::{Entry, EntryBody};
use isthmus_model::ids::{Lsn, PartitionId, Timestamp};
use isthmus_model::key::EncodedKey;
use isthmus_model::row::Row;
use isthmus_model::value::{Text, Value};
use isthmus_store::Table;

use super::Violation;
use super::acked::all_rows;
use super::registers::{Expired, live};
use crate::observer::Observer;

const NAME: &str = "an extract is what it takes of the history";

/// What is seen of a row: versions by column, the newest first. A row may be there without any.
type Seen = BTreeMap<Text, Vec<(Timestamp, Value)>>;

type Rows = BTreeMap<EncodedKey, Row>;

struct Judge<'a> {
    entries: Vec<&'a Entry>,
    extract: &'a Extract,
    start: EncodedKey,
    end: Option<EncodedKey>,
    max_versions: usize,
}

/// Checks what a node holds of a table whose log ends at `source_end`.
pub(crate) fn check(
    observer: &Observer,
    node: usize,
    table: &Table,
    source_end: Lsn,
    extract: &Extract,
) -> Result<(), Violation> {
    let partition = table.partition();
    let broken = |what: String| {
        let what = format!("node {node}, {} with {extract:?}: {what}", table.name());
        Err(Violation::of(NAME, what))
    };
    let at = table.durable_lsn();
    let is_once = extract.copy == CopyKind::Full;
    if !is_once && at != source_end {
        return broken(format!("it has come to {at} of {source_end}"));
    }
    let Ok((start, end)) = extract.range() else { return Ok(()) };
    let judge = Judge {
        entries: entries_of(observer, partition),
        extract,
        start,
        end,
        max_versions: table.schema().options.max_versions as usize,
    };
    let rows = match all_rows(table) {
        Ok(rows) => rows,
        Err(error) => return broken(format!("it cannot be read: {error}")),
    };
    let have: BTreeMap<EncodedKey, Seen> =
        rows.iter().filter_map(|(key, row)| Some((key.clone(), judge.seen(row)?))).collect();
    let begins = match extract.copy {
        CopyKind::Incremental => observer.extract_begins(node, partition),
        CopyKind::Full | CopyKind::FullThenIncremental => vec![Lsn(0)],
    };
    let mut last = String::new();
    for begin in begins {
        match judge.first_difference(&have, begin, at, is_once.then_some(source_end)) {
            None => return Ok(()),
            Some(what) => last = format!("since {begin}, at {at} of {source_end}: {what}"),
        }
    }
    broken(last)
}

fn entries_of(observer: &Observer, partition: PartitionId) -> Vec<&Entry> {
    let of_partition = observer.known.iter().filter(|((known, ..), _)| *known == partition);
    let mut entries: Vec<&Entry> = of_partition.map(|(_, known)| &known.entry).collect();
    entries.sort_by_key(|entry| entry.lsn);
    entries
}

impl Judge<'_> {
    /// All rows as entries in `(from, to]` make them.
    fn rows(&self, from: Lsn, to: Lsn) -> Rows {
        let mut rows = Rows::new();
        for entry in self.entries.iter().filter(|entry| entry.lsn > from && entry.lsn <= to) {
            if let EntryBody::Rows(deltas) = &entry.body {
                for delta in deltas {
                    rows.entry(delta.key.clone()).or_default().merge(&delta.delta);
                }
            }
        }
        rows
    }

    fn touched(&self, from: Lsn, to: Lsn) -> BTreeSet<EncodedKey> {
        self.rows(from, to).into_keys().collect()
    }

    /// What is seen of what is taken, as of a place in the log.
    fn taken(&self, begin: Lsn, at: Lsn) -> BTreeMap<EncodedKey, Seen> {
        let filter = self.extract.filter.as_ref();
        let rows = match filter {
            None => self.rows(begin, at),
            Some(_) => {
                let touched = self.touched(begin, at);
                let mut rows = self.rows(Lsn(0), at);
                rows.retain(|key, _| touched.contains(key));
                rows
            }
        };
        let is_inside =
            |key: &EncodedKey| *key >= self.start && self.end.as_ref().is_none_or(|end| key < end);
        let rows = rows.into_iter().filter(|(key, row)| {
            is_inside(key) && filter.is_none_or(|rule| passes(rule, &live(row, Expired::NOTHING)))
        });
        let cut = rows.map(|(key, mut row)| {
            let named = &self.extract.columns;
            let is_taken =
                |name: &Text| named.is_empty() || named.iter().any(|n| n == name.as_str());
            row.columns.retain(|column| is_taken(&column.name));
            (key, row)
        });
        cut.filter_map(|(key, row)| Some((key, self.seen(&row)?))).collect()
    }

    fn seen(&self, row: &Row) -> Option<Seen> {
        let row = live(row, Expired::NOTHING);
        let mut seen = Seen::new();
        for column in &row.columns {
            let cells = column.cells.iter();
            let mut versions: Vec<(Timestamp, Value)> =
                cells.filter_map(|cell| Some((cell.timestamp, cell.value.clone()?))).collect();
            versions.sort_by_key(|(timestamp, _)| std::cmp::Reverse(*timestamp));
            versions.truncate(self.max_versions);
            if !versions.is_empty() {
                seen.insert(column.name.clone(), versions);
            }
        }
        (row.marker.is_some() || !seen.is_empty()).then_some(seen)
    }

    /// The first row that is not as it is taken. Taken once and by a filter, a row may be as it was
    /// at any place from there `until` the end.
    fn first_difference(
        &self,
        have: &BTreeMap<EncodedKey, Seen>,
        begin: Lsn,
        at: Lsn,
        until: Option<Lsn>,
    ) -> Option<String> {
        let want = self.taken(begin, at);
        let keys: BTreeSet<&EncodedKey> = have.keys().chain(want.keys()).collect();
        let differs = |key: &&&EncodedKey| have.get(**key) != want.get(**key);
        let mut differing: Vec<&EncodedKey> = keys.iter().filter(differs).copied().collect();
        if let (Some(until), Some(_)) = (until, &self.extract.filter) {
            let later = self.entries.iter().map(|entry| entry.lsn);
            for at in later.filter(|lsn| *lsn > at && *lsn <= until) {
                if differing.is_empty() {
                    break;
                }
                let want = self.taken(begin, at);
                differing.retain(|key| have.get(*key) != want.get(*key));
            }
        }
        let key = differing.first()?;
        Some(format!("{key:?}: it has {:?}, taken is {:?}", have.get(*key), want.get(*key)))
    }
}

fn passes(rule: &FilterRule, row: &Row) -> bool {
    match rule {
        FilterRule::And(parts) => parts.iter().all(|part| passes(part, row)),
        FilterRule::Or(parts) => parts.iter().any(|part| passes(part, row)),
        FilterRule::Not(part) => !passes(part, row),
        FilterRule::Column(rule) => column_passes(rule, row),
    }
}

/// By the newest version, and for integers alone.
fn column_passes(rule: &ColumnRule, row: &Row) -> bool {
    let cells = row.columns.iter().filter(|column| column.name.as_str() == rule.name);
    let cells = cells.flat_map(|column| &column.cells).filter(|cell| cell.value.is_some());
    let newest = cells.max_by_key(|cell| cell.timestamp);
    let number = rule.value.as_ref().and_then(serde_json::Value::as_i64).unwrap_or_default();
    match (rule.is, newest.and_then(|cell| cell.value.as_ref())) {
        (Is::Exists, found) => found.is_some(),
        (Is::NotExists, found) => found.is_none(),
        (_, None) => rule.if_missing,
        (Is::Greater, Some(Value::Integer(value))) => *value > number,
        (Is::LessEqual, Some(Value::Integer(value))) => *value <= number,
        _ => false,
    }
}
