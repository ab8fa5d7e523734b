//! Rows from CSV: the first line names the columns, every further record is a row.
//!
//! What must hold: an empty cell is an absent one; each record has as many cells as the header;
//! a record has a bound, so that a quote that is never closed does not fill the memory.

use std::io::{self, Read, Seek};
use std::path::Path;

use isthmus_model::value::{Text, Value};

use crate::source::{Input, Place, RECORD_BYTES_MAX, Source, SourceError, SourceRow};
use crate::types::{self, Types, shown};

/// Rows of a CSV file.
pub struct Csv {
    reader: csv::Reader<Bounded>,
    columns: Vec<Text>,
    types: Types,
    record: csv::ByteRecord,
    rows: u64,
    /// What to add to the reader's line. Where lines end in CR LF it counts the LF with the next.
    line_shift: u64,
}

/// Reads at most so much before the allowance is renewed.
struct Bounded {
    input: Box<dyn Input>,
    allowed: u64,
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.allowed == 0 {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "record too long"));
        }
        let length = buffer.len().min(usize::try_from(self.allowed).unwrap_or(usize::MAX));
        let read = self.input.read(&mut buffer[..length])?;
        self.allowed -= read as u64;
        Ok(read)
    }
}

impl Seek for Bounded {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        self.input.seek(to)
    }
}

impl Csv {
    /// Opens a file and reads its header.
    pub fn open(path: &Path, types: Types) -> Result<Csv, SourceError> {
        let file =
            std::fs::File::open(path).map_err(|source| SourceError::Read { line: 0, source })?;
        Csv::new(Box::new(file), types)
    }

    /// Reads the header of CSV bytes.
    pub fn new(input: Box<dyn Input>, types: Types) -> Result<Csv, SourceError> {
        let bounded = Bounded { input, allowed: RECORD_BYTES_MAX };
        let mut reader = csv::ReaderBuilder::new().from_reader(bounded);
        let header = reader.byte_headers().map_err(|error| of_csv(1, error))?;
        let columns = columns(header)?;
        let in_names: usize = columns.iter().map(|name| name.as_str().matches('\n').count()).sum();
        let line_shift = u64::from(reader.position().line() < 2 + in_names as u64);
        Ok(Csv { reader, columns, types, record: csv::ByteRecord::new(), rows: 0, line_shift })
    }

    /// The names in the header.
    pub fn columns(&self) -> &[Text] {
        &self.columns
    }

    fn cells(&self, line: u64) -> Result<Vec<(Text, Value)>, SourceError> {
        let mut cells = Vec::with_capacity(self.columns.len());
        for (name, bytes) in self.columns.iter().zip(self.record.iter()) {
            if bytes.is_empty() {
                continue;
            }
            let cell = |message: String| SourceError::Cell {
                line,
                column: name.as_str().to_owned(),
                message,
            };
            let text = std::str::from_utf8(bytes).map_err(|_| cell("is not UTF-8".to_owned()))?;
            let value = match self.types.get(name.as_str()) {
                Some(kind) => types::read_as(kind, text).map_err(cell)?,
                None => types::infer(text),
            };
            cells.push((name.clone(), value));
        }
        Ok(cells)
    }
}

impl Source for Csv {
    fn next_row(&mut self) -> Result<Option<SourceRow>, SourceError> {
        self.reader.get_mut().allowed = RECORD_BYTES_MAX;
        let line = self.reader.position().line() + self.line_shift;
        let read = self.reader.read_byte_record(&mut self.record);
        if !read.map_err(|error| of_csv(line, error))? {
            return Ok(None);
        }
        self.rows += 1;
        let line = self.record.position().map_or(line, |at| at.line() + self.line_shift);
        Ok(Some(SourceRow { line, cells: self.cells(line)? }))
    }

    fn place(&self) -> Place {
        let position = self.reader.position();
        Place { bytes: position.byte(), line: position.line(), rows: self.rows }
    }

    fn move_to(&mut self, place: Place) -> Result<(), SourceError> {
        let mut position = csv::Position::new();
        position.set_byte(place.bytes).set_line(place.line).set_record(place.rows + 1);
        self.reader.seek(position).map_err(|error| of_csv(place.line, error))?;
        self.rows = place.rows;
        Ok(())
    }
}

fn columns(header: &csv::ByteRecord) -> Result<Vec<Text>, SourceError> {
    let malformed = |message: String| SourceError::Malformed { line: 1, message };
    if header.is_empty() {
        return Err(malformed("the file is empty, its first line must name the columns".into()));
    }
    let mut columns = Vec::<Text>::with_capacity(header.len());
    for (place, name) in header.iter().enumerate() {
        let name = std::str::from_utf8(name)
            .map_err(|_| malformed(format!("the name of column {} is not UTF-8", place + 1)))?;
        if name.is_empty() {
            return Err(malformed(format!("column {} has no name", place + 1)));
        }
        let name = Text::from(name);
        if columns.contains(&name) {
            return Err(malformed(format!("column {} is named twice", shown(name.as_str()))));
        }
        columns.push(name);
    }
    Ok(columns)
}

fn of_csv(line: u64, error: csv::Error) -> SourceError {
    match error.into_kind() {
        csv::ErrorKind::Io(source) if source.kind() == io::ErrorKind::FileTooLarge => {
            SourceError::TooLong { line }
        }
        csv::ErrorKind::Io(source) => SourceError::Read { line, source },
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => SourceError::Malformed {
            line,
            message: format!("has {len} cells, the header has {expected_len}"),
        },
        other => SourceError::Malformed { line, message: format!("is not CSV: {other:?}") },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(text: &str, types: &str) -> Result<Csv, SourceError> {
        let input = io::Cursor::new(text.as_bytes().to_vec());
        Csv::new(Box::new(input), Types::parse(types).unwrap())
    }

    fn rows(csv: &mut Csv) -> Vec<SourceRow> {
        std::iter::from_fn(|| csv.next_row().unwrap()).collect()
    }

    const TEXT: &str = "\u{feff}id,name,score\r\n1,\"a, \"\"b\"\"\nc\",2.5\r\n2,,\r\n03,x,true\r\n";

    #[test]
    fn cells_are_typed_and_empty_ones_are_absent() {
        let mut csv = open(TEXT, "id:string").unwrap();
        assert_eq!(csv.columns(), ["id".into(), "name".into(), "score".into()]);
        let found = rows(&mut csv);
        assert_eq!(found[0].cells[0].1, Value::String("1".into()));
        assert_eq!(found[0].cells[1].1, Value::String("a, \"b\"\nc".into()));
        assert_eq!(found[0].cells[2].1, Value::Double(2.5));
        assert_eq!(found[1].cells.len(), 1);
        assert_eq!(found[2].cells[2].1, Value::Boolean(true));
        assert_eq!(found.iter().map(|row| row.line).collect::<Vec<_>>(), [2, 4, 5]);
    }

    #[test]
    fn goes_on_at_every_place_it_told() {
        let mut csv = open(TEXT, "").unwrap();
        let all = rows(&mut csv);
        let mut csv = open(TEXT, "").unwrap();
        let mut places = vec![csv.place()];
        while csv.next_row().unwrap().is_some() {
            places.push(csv.place());
        }
        for (given, place) in places.into_iter().enumerate() {
            assert_eq!(place.rows, given as u64);
            let mut again = open(TEXT, "").unwrap();
            again.move_to(place).unwrap();
            assert_eq!(rows(&mut again), all[given..]);
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let mut csv = open("a,b\n1,2\n1\n", "").unwrap();
        csv.next_row().unwrap();
        let error = csv.next_row().unwrap_err().to_string();
        assert_eq!(error, "line 3: has 1 cells, the header has 2");
        let mut csv = open("a\nx\n", "a:integer").unwrap();
        let error = csv.next_row().unwrap_err().to_string();
        assert_eq!(error, "line 2, column a: \"x\" is not of type integer");
        assert!(open("", "").err().unwrap().to_string().contains("is empty"));
        assert!(open("a,a\n", "").err().unwrap().to_string().contains("named twice"));
        assert!(open("a,\n", "").err().unwrap().to_string().contains("column 2 has no name"));
    }

    #[test]
    fn a_quote_that_is_never_closed_is_refused_in_bounded_memory() {
        let endless = io::Cursor::new(b"a\n\"".to_vec()).chain(io::repeat(b'x'));
        struct Endless<R>(R);
        impl<R: Read> Read for Endless<R> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                self.0.read(buffer)
            }
        }
        impl<R> Seek for Endless<R> {
            fn seek(&mut self, _: io::SeekFrom) -> io::Result<u64> {
                Err(io::ErrorKind::NotSeekable.into())
            }
        }
        let mut csv = Csv::new(Box::new(Endless(endless)), Types::default()).unwrap();
        assert!(matches!(csv.next_row(), Err(SourceError::TooLong { line: 2 })));
    }
}
