//! Rows from JSON Lines: each line is an object, each member a cell.
//!
//! What must hold: numbers without a point are integers, others doubles; `null` is an absent
//! cell; bytes are written `{"binary": "base64"}`. Nothing else nests. Lines have a bound, blank
//! ones are passed over.

use std::fmt;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use isthmus_model::value::{Text, Value, ValueKind};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use crate::source::{Input, Place, RECORD_BYTES_MAX, Source, SourceError, SourceRow};
use crate::types::{self, Types, shown};

/// Rows of a JSON Lines file.
pub struct JsonLines {
    reader: BufReader<Box<dyn Input>>,
    types: Types,
    buffer: Vec<u8>,
    place: Place,
}

impl JsonLines {
    /// Opens a file.
    pub fn open(path: &Path, types: Types) -> Result<JsonLines, SourceError> {
        let file =
            std::fs::File::open(path).map_err(|source| SourceError::Read { line: 0, source })?;
        Ok(JsonLines::new(Box::new(file), types))
    }

    /// Reads JSON Lines bytes.
    pub fn new(input: Box<dyn Input>, types: Types) -> JsonLines {
        let place = Place { bytes: 0, line: 1, rows: 0 };
        JsonLines { reader: BufReader::new(input), types, buffer: Vec::new(), place }
    }

    /// Reads the next line into the buffer; false at the end.
    fn read_line(&mut self) -> Result<bool, SourceError> {
        self.buffer.clear();
        let line = self.place.line;
        let mut bounded = (&mut self.reader).take(RECORD_BYTES_MAX + 1);
        let read = bounded
            .read_until(b'\n', &mut self.buffer)
            .map_err(|source| SourceError::Read { line, source })?;
        if read as u64 > RECORD_BYTES_MAX {
            return Err(SourceError::TooLong { line });
        }
        self.place.bytes += read as u64;
        self.place.line += u64::from(read > 0);
        Ok(read > 0)
    }
}

impl JsonLines {
    /// Reads the next line that is not blank; gives its number. It counts as a row.
    pub(crate) fn next_line(&mut self) -> Result<Option<u64>, SourceError> {
        loop {
            let line = self.place.line;
            if !self.read_line()? {
                return Ok(None);
            }
            if !self.line_bytes(line).trim_ascii().is_empty() {
                self.place.rows += 1;
                return Ok(Some(line));
            }
        }
    }

    /// The bytes of the line that was read last.
    pub(crate) fn line_bytes(&self, line: u64) -> &[u8] {
        match self.buffer.strip_prefix(b"\xef\xbb\xbf") {
            Some(rest) if line == 1 => rest,
            _ => &self.buffer,
        }
    }

    /// The stated types.
    pub(crate) fn types(&self) -> &Types {
        &self.types
    }
}

impl Source for JsonLines {
    fn next_row(&mut self) -> Result<Option<SourceRow>, SourceError> {
        let Some(line) = self.next_line()? else { return Ok(None) };
        let cells = cells(line, self.line_bytes(line), &self.types)?;
        Ok(Some(SourceRow { line, cells }))
    }

    fn place(&self) -> Place {
        self.place
    }

    fn move_to(&mut self, place: Place) -> Result<(), SourceError> {
        self.reader
            .seek(SeekFrom::Start(place.bytes))
            .map_err(|source| SourceError::Read { line: place.line, source })?;
        self.place = place;
        Ok(())
    }
}

fn cells(line: u64, bytes: &[u8], types: &Types) -> Result<Vec<(Text, Value)>, SourceError> {
    let members: Members = serde_json::from_slice(bytes)
        .map_err(|error| not_json(line, "is no JSON object", &error))?;
    let mut cells = Vec::<(Text, Value)>::with_capacity(members.0.len());
    for (name, json) in members.0 {
        let cell = |message: String| SourceError::Cell { line, column: shown(&name), message };
        let value = value_of_json(&json, types.get(&name)).map_err(cell)?;
        let text = Text::from(name.as_str());
        if cells.iter().any(|(other, _)| *other == text) {
            return Err(cell("is given twice".to_owned()));
        }
        if let Some(value) = value {
            cells.push((text, value));
        }
    }
    Ok(cells)
}

pub(crate) fn not_json(line: u64, what: &str, error: &serde_json::Error) -> SourceError {
    // The parser sees one line only, so its own line number says nothing.
    let message = format!("{what}: {error}").replace(" at line 1 column ", " at byte ");
    SourceError::Malformed { line, message }
}

/// The cell that a JSON value stands for, `None` for null. A column of a stated type takes
/// values of it; an integer will do as a double, and text is read as that type.
pub fn value_of_json(
    json: &serde_json::Value,
    kind: Option<ValueKind>,
) -> Result<Option<Value>, String> {
    let value = match json {
        serde_json::Value::Null => return Ok(None),
        serde_json::Value::Bool(truth) => Value::Boolean(*truth),
        serde_json::Value::Number(number) => number_of_json(number)?,
        serde_json::Value::String(text) => match kind {
            Some(kind) => types::read_as(kind, text)?,
            None => Value::String(Text::from(text.as_str())),
        },
        serde_json::Value::Object(members) => match (members.len(), members.get("binary")) {
            (1, Some(serde_json::Value::String(text))) => types::read_as(ValueKind::Binary, text)?,
            _ => return Err("is an object; only {\"binary\": \"base64\"} is one cell".into()),
        },
        serde_json::Value::Array(_) => return Err("is a list, which no cell can hold".into()),
    };
    match (kind, value) {
        (Some(ValueKind::Double), Value::Integer(number)) => {
            let double = number as f64;
            if double as i128 != i128::from(number) {
                return Err(format!("{number} has more digits than a double holds"));
            }
            Ok(Some(Value::Double(double)))
        }
        (Some(kind), value) if value.kind() != kind => {
            Err(format!("is of type {}, not {}", name(value.kind()), name(kind)))
        }
        (_, value) => Ok(Some(value)),
    }
}

/// The JSON form of a value; the inverse of `value_of_json` but for doubles that are no number.
pub fn json_of_value(value: &Value) -> serde_json::Value {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    match value {
        Value::Integer(number) => (*number).into(),
        Value::Double(number) => match serde_json::Number::from_f64(*number) {
            Some(number) => number.into(),
            None => number.to_string().into(),
        },
        Value::Boolean(truth) => (*truth).into(),
        Value::String(text) => text.as_str().into(),
        Value::Binary(bytes) => serde_json::json!({ "binary": STANDARD.encode(bytes) }),
    }
}

fn name(kind: ValueKind) -> &'static str {
    types::name_of(kind)
}

fn number_of_json(number: &serde_json::Number) -> Result<Value, String> {
    if let Some(integer) = number.as_i64() {
        return Ok(Value::Integer(integer));
    }
    if number.is_u64() {
        return Err(format!("{number} is larger than an integer can be"));
    }
    number.as_f64().map(Value::Double).ok_or_else(|| format!("{number} is out of range"))
}

/// The members of an object in their order, repeated names too.
struct Members(Vec<(String, serde_json::Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Members, D::Error> {
        struct MembersVisitor;
        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(MembersVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(text: &str, types: &str) -> JsonLines {
        let input = std::io::Cursor::new(text.as_bytes().to_vec());
        JsonLines::new(Box::new(input), Types::parse(types).unwrap())
    }

    fn rows(source: &mut JsonLines) -> Vec<SourceRow> {
        std::iter::from_fn(|| source.next_row().unwrap()).collect()
    }

    const TEXT: &str = "{\"a\":1,\"b\":1.0,\"c\":null}\n\n{\"a\":true,\"b\":\"x\"}\r\n\
                        {\"a\":{\"binary\":\"AP8=\"}}";

    #[test]
    fn values_are_typed_and_null_is_absent() {
        let found = rows(&mut open(TEXT, ""));
        assert_eq!(found[0].cells[0], ("a".into(), Value::Integer(1)));
        assert_eq!(found[0].cells[1], ("b".into(), Value::Double(1.0)));
        assert_eq!(found[0].cells.len(), 2);
        assert_eq!(found[1].cells[0].1, Value::Boolean(true));
        assert_eq!(found[2].cells[0].1, Value::Binary(vec![0, 255].into()));
        assert_eq!(found.iter().map(|row| row.line).collect::<Vec<_>>(), [1, 3, 4]);
    }

    #[test]
    fn goes_on_at_every_place_it_told() {
        let all = rows(&mut open(TEXT, ""));
        let mut source = open(TEXT, "");
        let mut places = vec![source.place()];
        while source.next_row().unwrap().is_some() {
            places.push(source.place());
        }
        for (given, place) in places.into_iter().enumerate() {
            let mut again = open(TEXT, "");
            again.move_to(place).unwrap();
            assert_eq!(rows(&mut again), all[given..]);
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let cases = [
            ("[1]", "", "line 1: is no JSON object: invalid type"),
            ("{\"a\":1", "", "line 1: is no JSON object: EOF"),
            ("{\"a\":[1]}", "", "line 1, column a: is a list"),
            ("{\"a\":{}}", "", "line 1, column a: is an object"),
            ("{\"a\":1,\"a\":2}", "", "line 1, column a: is given twice"),
            ("{\"a\":9223372036854775808}", "", "line 1, column a: 9223372036854775808 is larger"),
            ("{\"a\":1.5}", "a:integer", "line 1, column a: is of type double, not integer"),
            ("{\"a\":1}", "a:string", "line 1, column a: is of type integer, not string"),
        ];
        for (text, types, expected) in cases {
            let error = open(text, types).next_row().unwrap_err().to_string();
            assert!(error.starts_with(expected), "expected {expected:?}, found {error:?}");
        }
        let long = format!("{{\"a\":\"{}\"}}", "x".repeat(RECORD_BYTES_MAX as usize));
        assert!(matches!(open(&long, "").next_row(), Err(SourceError::TooLong { line: 1 })));
    }

    #[test]
    fn a_stated_type_converts_what_loses_nothing() {
        let mut source = open("{\"a\":1,\"b\":\"7\"}", "a:double,b:integer");
        let row = source.next_row().unwrap().unwrap();
        assert_eq!(row.cells[0].1, Value::Double(1.0));
        assert_eq!(row.cells[1].1, Value::Integer(7));
    }

    #[test]
    fn values_round_trip_through_json() {
        let values = [
            Value::Integer(i64::MIN),
            Value::Double(0.1),
            Value::Double(2.0),
            Value::Boolean(false),
            Value::String("é".into()),
            Value::Binary(vec![1, 2].into()),
        ];
        for value in values {
            let text = json_of_value(&value).to_string();
            let json = serde_json::from_str(&text).unwrap();
            assert_eq!(value_of_json(&json, None), Ok(Some(value)));
        }
    }
}
