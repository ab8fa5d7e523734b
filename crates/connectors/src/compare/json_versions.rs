//! The form of JSON Lines that has versions: each line is `{"key":{...},"cells":[{"name":...,
//! "value":...,"timestamp":...}]}`, as rows are shown with all their versions.
//!
//! What must hold: a line of another form is refused, never taken for a row; values are read as
//! those of plain JSON Lines are.

use std::path::Path;

use isthmus_model::ids::Timestamp;
use isthmus_model::value::{Text, Value};
use serde::Deserialize;
use serde_json::{Map, Value as Json};

use super::row::Cell;
use crate::json_lines::{JsonLines, not_json, value_of_json};
use crate::source::{Place, Source, SourceError};
use crate::types::{Types, shown};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    key: Map<String, Json>,
    cells: Vec<LineCell>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LineCell {
    name: String,
    value: Json,
    timestamp: i64,
}

/// A row with its versions.
pub(super) struct VersionedRow {
    pub(super) line: u64,
    pub(super) key: Vec<(Text, Value)>,
    pub(super) cells: Vec<Cell>,
}

/// Rows with versions.
pub(super) struct JsonVersions(JsonLines);

impl JsonVersions {
    pub(super) fn open(path: &Path, types: Types) -> Result<JsonVersions, SourceError> {
        JsonLines::open(path, types).map(JsonVersions)
    }

    /// Whether the first line of a file has this form. Plain rows cannot: there no cell is a
    /// list.
    pub(super) fn is_form_of(path: &Path) -> Result<bool, SourceError> {
        let mut lines = JsonLines::open(path, Types::default())?;
        let Some(line) = lines.next_line()? else { return Ok(false) };
        let json: Option<Map<String, Json>> = serde_json::from_slice(lines.line_bytes(line)).ok();
        let has = |json: &Map<String, Json>| {
            json.get("key").is_some_and(Json::is_object)
                && json.get("cells").is_some_and(Json::is_array)
        };
        Ok(json.as_ref().is_some_and(has))
    }

    pub(super) fn place(&self) -> Place {
        self.0.place()
    }

    pub(super) fn next_row(&mut self) -> Result<Option<VersionedRow>, SourceError> {
        let Some(line) = self.0.next_line()? else { return Ok(None) };
        let row: Line = serde_json::from_slice(self.0.line_bytes(line))
            .map_err(|error| not_json(line, "is no row with key and cells", &error))?;
        let mut key = Vec::with_capacity(row.key.len());
        for (name, json) in row.key {
            key.push((Text::from(name.as_str()), self.value(line, &name, &json)?));
        }
        let mut cells = Vec::<Cell>::with_capacity(row.cells.len());
        for cell in row.cells {
            let value = self.value(line, &cell.name, &cell.value)?;
            let timestamp = Some(Timestamp(cell.timestamp));
            cells.push(Cell { name: Text::from(cell.name), timestamp, value });
        }
        cells.sort_by(|a, b| a.name.cmp(&b.name).then(b.timestamp.cmp(&a.timestamp)));
        let twice = cells
            .windows(2)
            .find(|two| two[0].name == two[1].name && two[0].timestamp == two[1].timestamp);
        match twice {
            Some(two) => Err(SourceError::Cell {
                line,
                column: shown(two[0].name.as_str()),
                message: "has two values of one timestamp".to_owned(),
            }),
            None => Ok(Some(VersionedRow { line, key, cells })),
        }
    }

    fn value(&self, line: u64, name: &str, json: &Json) -> Result<Value, SourceError> {
        let wrong = |message: String| SourceError::Cell { line, column: shown(name), message };
        value_of_json(json, self.0.types().get(name))
            .map_err(wrong)?
            .ok_or_else(|| wrong("null is no value".to_owned()))
    }
}
