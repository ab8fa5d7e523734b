//! A table of a store as one side of a comparison: by ranges first, by keys afterwards.
//!
//! What must hold: what is shown of a row is the same in both ways of reading it.

use std::sync::Arc;

use isthmus_model::change::{Direction, KeyPart, NamedKeyPart, Projection};
use isthmus_model::key::PrimaryKey;
use isthmus_model::schema::KeyColumn;
use isthmus_model::value::Text;
use isthmus_protocol::plainbuffer::NamedRow;
use isthmus_protocol::request::GetRange;

use super::error::CompareError;
use super::feed::{Feed, Giver};
use super::row::{Cell, Row, Versions};
use crate::tablestore::{ClientError, TableStore};

/// What is needed to read a table.
#[derive(Clone)]
pub(super) struct StoreReading {
    pub(super) client: TableStore,
    pub(super) table: Text,
    pub(super) key_columns: Vec<KeyColumn>,
    pub(super) versions: Versions,
}

impl StoreReading {
    /// All rows, in the order of their keys.
    pub(super) fn feed(&self, name: &str) -> Feed {
        let reading = self.clone();
        Feed::spawned(name, move |giver| async move { reading.run(&giver).await })
    }

    async fn run(&self, giver: &Arc<Giver>) -> Result<(), CompareError> {
        let end = |part: KeyPart| {
            let named =
                |column: &KeyColumn| NamedKeyPart { name: column.name.clone(), part: part.clone() };
            self.key_columns.iter().map(named).collect()
        };
        let mut pages = self.client.range(GetRange {
            table: self.table.clone(),
            start: end(KeyPart::Min),
            end: end(KeyPart::Max),
            direction: Direction::Forward,
            limit: None,
            projection: self.projection(),
            token: None,
        });
        while let Some(page) = pages.next_page().await.map_err(|error| self.failed(error))? {
            let rows = page.into_iter().map(|row| self.row(row)).collect::<Result<Vec<_>, _>>()?;
            giver.counts.add_rows(rows.len());
            if !giver.give(rows).await {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The rows of these keys, in their order.
    pub(super) async fn rows(&self, keys: &[PrimaryKey]) -> Result<Vec<Option<Row>>, CompareError> {
        let named = |key: &PrimaryKey| -> Vec<NamedKeyPart> {
            let parts = self.key_columns.iter().zip(&key.0);
            parts
                .map(|(column, value)| NamedKeyPart {
                    name: column.name.clone(),
                    part: KeyPart::Value(value.clone()),
                })
                .collect()
        };
        let asked = keys.iter().map(named).collect();
        let found = self.client.get_rows(&self.table, asked, self.projection()).await;
        let found = found.map_err(|error| self.failed(error))?;
        let rows = found.into_iter().map(|row| row.map(|row| self.row(row)).transpose());
        let rows = rows.collect::<Result<Vec<_>, _>>()?;
        let other = |(row, key): (&Option<Row>, &PrimaryKey)| {
            row.as_ref().is_some_and(|row| row.key != *key)
        };
        if rows.len() != keys.len() || rows.iter().zip(keys).any(other) {
            return Err(self.wrong("other rows came than were asked for".to_owned()));
        }
        Ok(rows)
    }

    fn projection(&self) -> Projection {
        let max_versions = match self.versions {
            Versions::All => i32::MAX.unsigned_abs(),
            Versions::Newest { .. } => 1,
        };
        Projection { max_versions: Some(max_versions), ..Projection::default() }
    }

    fn row(&self, row: NamedRow) -> Result<Row, CompareError> {
        let names = self.key_columns.iter().map(|column| &column.name);
        if !row.key_names.iter().eq(names) {
            return Err(self.wrong("a row has other key columns than the table".to_owned()));
        }
        let cells = row.row.cells.into_iter().map(|cell| Cell {
            name: cell.name,
            timestamp: Some(cell.timestamp),
            value: cell.value,
        });
        Ok(Row::new(row.row.key, 0, cells.collect(), self.versions))
    }

    fn failed(&self, source: ClientError) -> CompareError {
        CompareError::Store {
            endpoint: self.client.endpoint().to_owned(),
            table: self.table.as_str().to_owned(),
            source: Box::new(source),
        }
    }

    fn wrong(&self, message: String) -> CompareError {
        CompareError::Answer {
            endpoint: self.client.endpoint().to_owned(),
            table: self.table.as_str().to_owned(),
            message,
        }
    }
}
