//! From rows of a file to batches of puts.
//!
//! What must hold: a batch keeps within the service's limits; each row knows its line, so that
//! what is wrong with it can be told; rows that are wrong in themselves are never sent.

use isthmus_connectors::source::{Place, Source, SourceError, SourceRow};
use isthmus_model::change::{KeyPart, NamedKeyPart, RowChange};
use isthmus_model::limits::WRITE_BYTES_MAX;
use isthmus_model::schema::Schema;
use isthmus_model::value::{Text, Value};

use crate::cells::key_value;
use crate::error::CliError;
use crate::row::plain_put;

/// Bytes of a batch as the limits count them; a margin is left for what the wire adds.
const BATCH_BYTES_MAX: usize = WRITE_BYTES_MAX * 3 / 4;
/// Wrong rows in a batch; more of them end it.
const WRONG_MAX: usize = 1000;

/// Rows to be sent together.
pub(super) struct Batch {
    /// Counts the batches of this run.
    pub(super) number: u64,
    /// The changes, each with its line.
    pub(super) rows: Vec<(u64, RowChange)>,
    /// The rows that cannot be sent.
    pub(super) wrong: Vec<CliError>,
    /// Where the file stands after it.
    pub(super) end: Place,
}

/// Gives the batches of a file.
pub(super) struct Batches {
    source: Box<dyn Source>,
    table: String,
    schema: Schema,
    rows_max: usize,
    number: u64,
    /// A row that did not fit into the batch before.
    held: Option<(u64, RowChange, usize, Place)>,
}

impl Batches {
    pub(super) fn new(
        source: Box<dyn Source>,
        table: &str,
        schema: Schema,
        rows_max: usize,
    ) -> Batches {
        Batches { source, table: table.to_owned(), schema, rows_max, number: 0, held: None }
    }

    /// The next batch; `None` at the end of the file. An error ends the load.
    pub(super) fn next_batch(&mut self) -> Result<Option<Batch>, CliError> {
        let mut batch = Batch {
            number: self.number,
            rows: Vec::new(),
            wrong: Vec::new(),
            end: Place::default(),
        };
        let mut bytes = 0;
        if let Some((line, change, size, place)) = self.held.take() {
            batch.rows.push((line, change));
            bytes = size;
            batch.end = place;
        }
        while batch.rows.len() < self.rows_max && batch.wrong.len() < WRONG_MAX {
            let (line, cells) = match self.source.next_row() {
                Ok(None) => break,
                Ok(Some(SourceRow { line, cells })) => (line, cells),
                Err(error @ (SourceError::Malformed { .. } | SourceError::Cell { .. })) => {
                    batch.wrong.push(error.into());
                    batch.end = self.source.place();
                    continue;
                }
                Err(error @ (SourceError::Read { .. } | SourceError::TooLong { .. })) => {
                    return Err(error.into());
                }
            };
            let place = self.source.place();
            let size = self.table.len() + cells.iter().map(cell_size).sum::<usize>();
            match change(&self.schema, cells) {
                Err(error) => batch.wrong.push(error.context(format_args!("line {line}"))),
                Ok(change) if bytes > 0 && bytes + size > BATCH_BYTES_MAX => {
                    self.held = Some((line, change, size, place));
                    break;
                }
                Ok(change) => {
                    bytes += size;
                    batch.rows.push((line, change));
                }
            }
            batch.end = place;
        }
        if batch.rows.is_empty() && batch.wrong.is_empty() {
            return Ok(None);
        }
        self.number += 1;
        Ok(Some(batch))
    }
}

/// Name, value and what the wire adds.
fn cell_size((name, value): &(Text, Value)) -> usize {
    name.len() + value.size() + 24
}

/// The put of a row: key columns as the schema orders them, the rest as cells.
fn change(schema: &Schema, mut cells: Vec<(Text, Value)>) -> Result<RowChange, CliError> {
    let mut key = Vec::with_capacity(schema.key_columns.len());
    for column in &schema.key_columns {
        let at = cells.iter().position(|(name, _)| *name == column.name);
        let part = match at.map(|at| cells.remove(at)) {
            Some((name, value)) => KeyPart::Value(key_value(&name, value)?),
            None if column.auto_increment => KeyPart::AutoIncrement,
            None => {
                return Err(CliError::usage(format!("key column {} has no value", column.name)));
            }
        };
        key.push(NamedKeyPart { name: column.name.clone(), part });
    }
    Ok(plain_put(key, cells))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use isthmus_connectors::csv::Csv;
    use isthmus_connectors::types::Types;
    use isthmus_model::ids::SchemaNumber;
    use isthmus_model::schema::TableOptions;

    use super::*;

    fn batches(text: String, rows_max: usize) -> Batches {
        let schema = Schema {
            number: SchemaNumber(1),
            key_columns: crate::schema::key_columns("id:integer").unwrap(),
            defined_columns: Vec::new(),
            options: TableOptions::default(),
        };
        let types = Types::parse("id:integer").unwrap();
        let csv = Csv::new(Box::new(Cursor::new(text)), types).unwrap();
        Batches::new(Box::new(csv), "t", schema, rows_max)
    }

    fn all(mut batches: Batches) -> Vec<Batch> {
        std::iter::from_fn(|| batches.next_batch().unwrap()).collect()
    }

    #[test]
    fn batches_have_bounded_rows_and_end_at_their_last_row() {
        let text: String = (0..5).map(|id| format!("{id},x\n")).collect();
        let found = all(batches(format!("id,v\n{text}"), 2));
        assert_eq!(found.iter().map(|batch| batch.rows.len()).collect::<Vec<_>>(), [2, 2, 1]);
        assert_eq!(found.iter().map(|batch| batch.end.rows).collect::<Vec<_>>(), [2, 4, 5]);
        assert_eq!(found[1].rows[0].0, 4);
    }

    #[test]
    fn a_row_that_does_not_fit_opens_the_next_batch() {
        let large = "x".repeat(BATCH_BYTES_MAX / 2);
        let text: String = (0..3).map(|id| format!("{id},{large}\n")).collect();
        let found = all(batches(format!("id,v\n{text}"), 200));
        assert_eq!(found.iter().map(|batch| batch.rows.len()).collect::<Vec<_>>(), [1, 1, 1]);
        assert_eq!(found.iter().map(|batch| batch.end.rows).collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn wrong_rows_are_told_with_their_line_and_left_out() {
        let found = all(batches("id,v\n1,a\n,b\nx,c\n2,d,e\n3,f\n".to_owned(), 200));
        assert_eq!(found[0].rows.len(), 2);
        let told: Vec<&str> = found[0].wrong.iter().map(|error| error.message.as_str()).collect();
        assert_eq!(
            told,
            [
                "line 3: key column id has no value",
                "line 4, column id: \"x\" is not of type integer",
                "line 5: has 3 cells, the header has 2",
            ]
        );
    }
}
