//! Sends one batch until each of its rows is acknowledged or refused for good.
//!
//! What must hold: rows that failed for now are sent again, alone, for a bounded time; puts with
//! whole keys may be sent again whatever became of them, those whose key the server gives may
//! not.

use std::time::Duration;

use isthmus_connectors::tablestore::{TableStore, is_retried};
use isthmus_model::change::RowChange;
use isthmus_model::schema::Schema;
use isthmus_model::value::Text;
use isthmus_protocol::client::{ServiceError, TableResult};
use isthmus_protocol::request::{BatchWriteRow, TableWrites};
use tokio::time::Instant;

use crate::error::CliError;
use crate::load::batches::Batch;
use crate::row::row_error;

/// First wait before rows are sent again; it doubles.
const WAIT_MIN: Duration = Duration::from_millis(20);
/// Longest such wait.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// Sends batches into one table.
#[derive(Clone)]
pub(super) struct Sender {
    client: TableStore,
    table: Text,
    repeatable: bool,
    patience: Duration,
}

/// What became of a batch.
pub(super) struct Sent {
    pub(super) number: u64,
    /// Rows acknowledged.
    pub(super) rows: u64,
    /// Rows refused for good.
    pub(super) wrong: Vec<CliError>,
}

impl Sender {
    pub(super) fn new(
        client: TableStore,
        table: &str,
        schema: &Schema,
        patience: Duration,
    ) -> Sender {
        let repeatable = schema.auto_increment_column().is_none();
        Sender { client, table: Text::from(table), repeatable, patience }
    }

    /// Sends a batch. An error means that some of its rows are not known to be there.
    pub(super) async fn send(self, batch: Batch) -> Result<Sent, CliError> {
        let number = batch.number;
        let mut sent = Sent { number, rows: 0, wrong: Vec::new() };
        let mut left = batch.rows;
        let mut wait = WAIT_MIN;
        let began = Instant::now();
        while !left.is_empty() {
            let results = self.client.batch_write(self.request(&left), self.repeatable).await?;
            let (again, last) = self.sort(left, results, &mut sent)?;
            left = again;
            if let Some(error) = last {
                if began.elapsed() >= self.patience {
                    let line = left[0].0;
                    return Err(row_error(&format!("line {line}"), &error.code, &error.message)
                        .hint("the region did not take the row in time"));
                }
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(WAIT_MAX);
            }
        }
        Ok(sent)
    }

    fn request(&self, rows: &[(u64, RowChange)]) -> BatchWriteRow {
        let rows = rows.iter().map(|(_, change)| change.clone()).collect();
        BatchWriteRow {
            tables: vec![TableWrites { table: self.table.clone(), rows }],
            atomic: false,
        }
    }

    /// Sorts rows by what was answered; gives those to send again, with the last one's error.
    #[allow(clippy::type_complexity, reason = "rows with their lines, as everywhere here")]
    fn sort(
        &self,
        rows: Vec<(u64, RowChange)>,
        results: Vec<TableResult>,
        sent: &mut Sent,
    ) -> Result<(Vec<(u64, RowChange)>, Option<ServiceError>), CliError> {
        let results: Vec<_> = results.into_iter().flat_map(|table| table.rows).collect();
        if results.len() != rows.len() {
            return Err(CliError::failed(format!(
                "{} rows were sent and {} were answered",
                rows.len(),
                results.len()
            )));
        }
        let mut again = Vec::new();
        let mut last = None;
        for ((line, change), result) in rows.into_iter().zip(results) {
            match result {
                Ok(_) => sent.rows += 1,
                Err(error) if is_retried(&error.code, &error.message, self.repeatable) => {
                    again.push((line, change));
                    last = Some(error);
                }
                Err(error) => {
                    let what = format!("line {line}");
                    sent.wrong.push(row_error(&what, &error.code, &error.message));
                }
            }
        }
        Ok((again, last))
    }
}
