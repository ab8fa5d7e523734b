//! Rows by their keys, many at once, and what all that costs on the wire.
//!
//! What must hold: a row is given whole or not at all; what a batch refuses or cuts is read by
//! itself, under the rules of single reads.

use std::sync::atomic::{AtomicU64, Ordering};

use isthmus_model::change::{NamedKeyPart, Projection};
use isthmus_model::value::Text;
use isthmus_protocol::client::{ReadRow, decode_batch};
use isthmus_protocol::plainbuffer::NamedRow;
use isthmus_protocol::request::{BatchGetRow, GetRow, Operation, RowRead, TableReads};

use crate::tablestore::{ClientError, TableStore};

/// What a client has sent and received, bodies only, what was sent again included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Requests.
    pub requests: u64,
    /// Bytes of their bodies.
    pub sent_bytes: u64,
    /// Bytes of the answers.
    pub received_bytes: u64,
}

#[derive(Default)]
pub(super) struct TrafficCount {
    requests: AtomicU64,
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
}

impl TrafficCount {
    pub(super) fn sent(&self, bytes: usize) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn received(&self, bytes: usize) {
        self.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl TableStore {
    /// What this client and its clones have sent and received so far.
    pub fn traffic(&self) -> Traffic {
        let count = &self.shared.traffic;
        Traffic {
            requests: count.requests.load(Ordering::Relaxed),
            sent_bytes: count.sent_bytes.load(Ordering::Relaxed),
            received_bytes: count.received_bytes.load(Ordering::Relaxed),
        }
    }

    /// Reads rows by their keys, 100 at most, in the order of the keys; `None` where there is
    /// no row.
    pub async fn get_rows(
        &self,
        table: &Text,
        keys: Vec<Vec<NamedKeyPart>>,
        projection: Projection,
    ) -> Result<Vec<Option<NamedRow>>, ClientError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let rows = keys.iter().map(|key| RowRead { key: key.clone(), token: None }).collect();
        let reads = TableReads { table: table.clone(), rows, projection: projection.clone() };
        let operation = Operation::BatchGetRow(BatchGetRow { tables: vec![reads] });
        let answer = match self.call(&operation, true).await {
            Ok(body) => decode_batch(body).ok(),
            // Too much at once, perhaps: single rows tell.
            Err(ClientError::Service { .. }) => None,
            Err(error) => return Err(error),
        };
        let mut answered = match answer.and_then(|mut tables| tables.pop()) {
            Some(table) if table.rows.len() == keys.len() => table.rows,
            Some(_) | None => Vec::new(),
        }
        .into_iter();
        let mut found = Vec::with_capacity(keys.len());
        for key in keys {
            found.push(match answered.next() {
                Some(Ok(ReadRow { row, next_token: None, .. })) => row,
                Some(_) | None => {
                    let (table, projection) = (table.clone(), projection.clone());
                    self.get_row(GetRow { table, key, projection, token: None }).await?
                }
            });
        }
        Ok(found)
    }
}
