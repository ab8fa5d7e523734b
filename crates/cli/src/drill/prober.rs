//! A client played during a drill: writes and reads rows of its own in a table, and remembers what
//! was acknowledged and when.
//!
//! What must hold: only rows that it has made are ever changed or deleted, since each is put where
//! there is none, and each has a cell that names the drill; nothing is sent twice; the number of
//! rows is bounded.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use isthmus_connectors::http::{HttpError, HttpOptions};
use isthmus_connectors::tablestore::{ClientError, ClientOptions, TableStore};
use isthmus_model::change::{
    CellWrite, Condition, Direction, Existence, KeyPart, NamedKeyPart, Projection, Returned,
    RowAction, RowChange,
};
use isthmus_model::key::{KeyKind, KeyValue};
use isthmus_model::limits::BATCH_WRITE_ROWS_MAX;
use isthmus_model::schema::{KeyColumn, Schema};
use isthmus_model::value::{Text, Value};
use isthmus_protocol::plainbuffer::NamedRow;
use isthmus_protocol::request::{
    BatchWriteRow, GetRange, GetRow, Operation, TableWrites, WriteRow,
};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::CliError;
use crate::target::Place;

/// What names rows of a drill: the column of their numbers, and how their keys begin.
const NAME: &str = "__isthmus_drill__";
/// Rows of a table at most.
const ROWS_MAX: u64 = 20_000;
/// From one write to the next, at least.
const EVERY: Duration = Duration::from_millis(25);
/// How long one request may take: longer than a region waits for the next writer.
const PATIENCE: Duration = Duration::from_secs(15);
/// Keys of integers are counted from here, and from a number of the drill.
const INTEGERS_FROM: i64 = i64::MIN + (1 << 40);

/// The rows of a drill in a table.
#[derive(Clone, Debug)]
pub(super) struct Rows {
    table: Text,
    columns: Vec<KeyColumn>,
    drill: u32,
}

impl Rows {
    /// Those of a drill, in a table of this schema.
    pub(super) fn new(table: &str, schema: &Schema, drill: u32) -> Rows {
        Rows { table: Text::from(table), columns: schema.key_columns.clone(), drill }
    }

    fn value(&self, kind: KeyKind, number: u64) -> KeyValue {
        let text = || format!("{NAME}/{:08x}/{number:08}", self.drill);
        match kind {
            KeyKind::String => KeyValue::String(Text::from(text().as_str())),
            KeyKind::Binary => KeyValue::Binary(Bytes::from(text())),
            KeyKind::Integer => {
                let first = INTEGERS_FROM + (i64::from(self.drill) << 16);
                KeyValue::Integer(first + number.min(ROWS_MAX) as i64)
            }
        }
    }

    /// The key of the row of that number.
    fn key(&self, number: u64) -> Vec<NamedKeyPart> {
        let part = |(place, column): (usize, &KeyColumn)| NamedKeyPart {
            name: column.name.clone(),
            part: match (place, column.auto_increment) {
                (_, true) => KeyPart::AutoIncrement,
                (0, false) => KeyPart::Value(self.value(column.kind, number)),
                (_, false) => KeyPart::Value(match column.kind {
                    KeyKind::Integer => KeyValue::Integer(0),
                    KeyKind::String => KeyValue::String(Text::from(NAME)),
                    KeyKind::Binary => KeyValue::Binary(Bytes::from_static(NAME.as_bytes())),
                }),
            },
        };
        self.columns.iter().enumerate().map(part).collect()
    }

    /// A place before or after all of its rows.
    fn end(&self, number: u64, rest: &KeyPart) -> Vec<NamedKeyPart> {
        let part = |(place, column): (usize, &KeyColumn)| NamedKeyPart {
            name: column.name.clone(),
            part: match place {
                0 => KeyPart::Value(self.value(column.kind, number)),
                _ => rest.clone(),
            },
        };
        self.columns.iter().enumerate().map(part).collect()
    }

    fn has_own_number(&self) -> bool {
        self.columns.iter().any(|column| column.auto_increment)
    }

    fn put(&self, number: u64) -> Operation {
        let value = Value::Integer(number as i64);
        let cell = CellWrite { name: Text::from(NAME), value, timestamp: None };
        // The server numbers a row, so that it cannot be there; else it must not.
        let existence = match self.has_own_number() {
            true => Existence::Ignore,
            false => Existence::MustNotExist,
        };
        let change = RowChange {
            key: self.key(number),
            action: RowAction::Put(vec![cell]),
            condition: Condition { existence, columns: None },
            returned: Returned::Nothing,
        };
        Operation::PutRow(WriteRow { table: self.table.clone(), change })
    }

    fn get(&self, number: u64) -> GetRow {
        let projection = Projection { max_versions: Some(1), ..Projection::default() };
        GetRow { table: self.table.clone(), key: self.key(number), projection, token: None }
    }

    /// The keys of all rows that are there, with their numbers.
    async fn there(
        &self,
        client: &TableStore,
    ) -> Result<Vec<(u64, Vec<NamedKeyPart>)>, ClientError> {
        let mut pages = client.range(GetRange {
            table: self.table.clone(),
            start: self.end(0, &KeyPart::Min),
            end: self.end(ROWS_MAX, &KeyPart::Max),
            direction: Direction::Forward,
            limit: None,
            projection: Projection { max_versions: Some(1), ..Projection::default() },
            token: None,
        });
        let mut all = Vec::new();
        while let Some(rows) = pages.next_page().await? {
            all.extend(rows.iter().filter_map(of_drill));
        }
        Ok(all)
    }

    /// How many of the acknowledged rows are missing in a region.
    pub(super) async fn missing(
        &self,
        client: &TableStore,
        acked: &[u64],
    ) -> Result<u64, ClientError> {
        let there: std::collections::BTreeSet<u64> =
            self.there(client).await?.into_iter().map(|(number, _)| number).collect();
        Ok(acked.iter().filter(|number| !there.contains(number)).count() as u64)
    }

    /// Deletes all that are there.
    pub(super) async fn delete(&self, client: &TableStore) -> Result<(), ClientError> {
        let there = self.there(client).await?;
        for some in there.chunks(BATCH_WRITE_ROWS_MAX) {
            let delete = |(_, key): &(u64, Vec<NamedKeyPart>)| RowChange {
                key: key.clone(),
                action: RowAction::Delete,
                condition: Condition::default(),
                returned: Returned::Nothing,
            };
            let rows = some.iter().map(delete).collect();
            let tables = vec![TableWrites { table: self.table.clone(), rows }];
            client.batch_write(BatchWriteRow { tables, atomic: false }, true).await?;
        }
        Ok(())
    }
}

/// The number and key of a row, if a drill has made it.
fn of_drill(row: &NamedRow) -> Option<(u64, Vec<NamedKeyPart>)> {
    let cell = row.row.cells.iter().find(|cell| cell.name.as_str() == NAME)?;
    let Value::Integer(number) = cell.value else { return None };
    let parts = row.key_names.iter().zip(&row.row.key.0);
    let key = parts.map(|(name, value)| NamedKeyPart {
        name: name.clone(),
        part: KeyPart::Value(value.clone()),
    });
    Some((u64::try_from(number).ok()?, key.collect()))
}

/// A client for a region, that sends nothing twice by itself.
pub(super) fn client(place: &Place, patience: Duration) -> Result<TableStore, CliError> {
    let http = HttpOptions { answer_timeout: PATIENCE, ..HttpOptions::default() };
    place.client(ClientOptions { http, patience, ..ClientOptions::default() })
}

/// What a client has seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// Rows that were acknowledged, with when.
    pub(super) acked: Vec<(u64, Instant)>,
    /// Reads that were answered.
    pub(super) reads: u64,
    /// Errors by kind.
    pub(super) errors: BTreeMap<String, u64>,
}

impl Seen {
    /// When a write was last acknowledged.
    pub(super) fn last(&self) -> Option<Instant> {
        self.acked.last().map(|(_, at)| *at)
    }

    /// The longest time from one acknowledged write to the next, of those that ended after
    /// `from` and began before `until`; `None` if none was acknowledged after `until`.
    pub(super) fn longest_pause(&self, from: Instant, until: Instant) -> Option<Duration> {
        self.last().filter(|last| *last >= until)?;
        let pairs = self.acked.windows(2).map(|pair| (pair[0].1, pair[1].1));
        let within = pairs.filter(|(before, after)| *after >= from && *before <= until);
        within.map(|(before, after)| after.saturating_duration_since(before)).max()
    }

    fn failed(&mut self, what: &str, error: &ClientError) {
        let kind = match error {
            ClientError::Service { code, .. } => code.clone(),
            ClientError::Http(HttpError::Connect { .. }) => "not connected".to_owned(),
            ClientError::Http(HttpError::Timeout { .. }) => "no answer in time".to_owned(),
            ClientError::Http(_) => "connection broken".to_owned(),
            ClientError::Answer { .. } | ClientError::Request { .. } => "unreadable".to_owned(),
        };
        *self.errors.entry(format!("{what}: {kind}")).or_default() += 1;
    }
}

/// Writes and reads again and again until `stop` says so. What is seen is told as it is seen.
pub(super) async fn play(
    client: TableStore,
    rows: Rows,
    seen: watch::Sender<Seen>,
    mut stop: watch::Receiver<bool>,
) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for number in 0..ROWS_MAX {
        tokio::select! {
            _ = tick.tick() => {}
            _ = stop.changed() => return,
        }
        if *stop.borrow() {
            return;
        }
        let written = client.write_row(rows.put(number)).await;
        let at = Instant::now();
        seen.send_modify(|seen| match &written {
            Ok(_) => seen.acked.push((number, at)),
            Err(error) => seen.failed("write", error),
        });
        // A row that the server numbered cannot be named; a range would read others, too.
        if rows.has_own_number() {
            continue;
        }
        let read = client.get_row(rows.get(number)).await;
        seen.send_modify(|seen| match &read {
            Ok(_) => seen.reads += 1,
            Err(error) => seen.failed("read", error),
        });
    }
}

#[cfg(test)]
mod tests {
    use isthmus_model::ids::SchemaNumber;
    use isthmus_model::schema::TableOptions;

    use super::*;

    fn rows(kinds: &[KeyKind]) -> Rows {
        let column = |kind: &KeyKind| KeyColumn {
            name: Text::from(format!("{kind:?}").as_str()),
            kind: *kind,
            auto_increment: false,
        };
        let schema = Schema {
            number: SchemaNumber(1),
            key_columns: kinds.iter().map(column).collect(),
            defined_columns: Vec::new(),
            options: TableOptions::default(),
        };
        Rows::new("t", &schema, 7)
    }

    fn first(key: &[NamedKeyPart]) -> KeyValue {
        match &key[0].part {
            KeyPart::Value(value) => value.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn rows_lie_together_between_their_ends_in_the_order_of_their_numbers() {
        for kind in [KeyKind::Integer, KeyKind::String, KeyKind::Binary] {
            let rows = rows(&[kind, KeyKind::Integer]);
            let keys: Vec<KeyValue> =
                [0, 1, 9, 10, 9_999, 10_000].map(|number| first(&rows.key(number))).into();
            assert!(keys.is_sorted(), "{keys:?}");
            let (start, end) = (rows.end(0, &KeyPart::Min), rows.end(ROWS_MAX, &KeyPart::Max));
            assert!(first(&start) <= keys[0] && keys[5] <= first(&end));
        }
        let other = Rows { drill: 8, ..rows(&[KeyKind::Integer]) };
        let own = rows(&[KeyKind::Integer]);
        assert!(first(&own.key(ROWS_MAX)) < first(&other.key(0)));
    }

    #[test]
    fn the_longest_pause_is_that_around_the_loss() {
        let begun = Instant::now();
        let at = |millis| begun + Duration::from_millis(millis);
        let acked = [0, 500, 600, 2900, 3000].map(at).into_iter().enumerate();
        let acked = acked.map(|(number, at)| (number as u64, at)).collect();
        let seen = Seen { acked, ..Seen::default() };
        let pause = seen.longest_pause(at(550), at(2800));
        assert_eq!(pause, Some(Duration::from_millis(2300)));
        assert_eq!(seen.longest_pause(at(550), at(3100)), None);
    }
}
