//! Whether clients of this region can read and write each of its tables.
//!
//! A table is probed without touching it: a row is read that nobody has, and a delete is asked for
//! whose condition can never be met. So each goes the whole way of a client's request, to the
//! region that writes the table where it is passed on, and nothing is written: that the disk takes
//! writes is shown by the rows of the regions' own probes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use isthmus_connectors::tablestore::{ClientError, TableStore};
use isthmus_model::change::{
    ColumnFilter, Comparator, Condition, Existence, Filter, KeyPart, NamedKeyPart, Projection,
    Returned, RowAction, RowChange,
};
use isthmus_model::ids::TableId;
use isthmus_model::key::{KeyKind, KeyValue};
use isthmus_model::schema::{KeyColumn, Schema};
use isthmus_model::value::{Text, Value};
use isthmus_protocol::request::{GetRow, Operation, WriteRow};
use isthmus_store::Table;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::windows::{Sums, Tally};
use crate::node::Node;
use crate::status::{DifferingStatus, Ratios};

/// The key and column that probes name.
const NAME: &str = "__isthmus_probe__";

/// What is known of one table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct TableRecord(Tally);

impl TableRecord {
    /// Takes in a round: whether it could be read and written, and whether its replica is like the
    /// others, where that is known.
    fn note(&mut self, up: bool, alike: Option<bool>, stands_for: Duration, now_millis: i64) {
        let millis = u64::try_from(stands_for.as_millis()).unwrap_or(u64::MAX);
        let sums = Sums {
            up_millis: if up { millis } else { 0 },
            all_millis: millis,
            valid: if alike == Some(true) { millis } else { 0 },
            all: if alike.is_some() { millis } else { 0 },
        };
        self.0.add(&sums, now_millis);
    }

    /// Its availability, and the share of the time in which replicas were alike.
    pub(super) fn ratios(&self, now_millis: i64) -> (Ratios, Option<Ratios>) {
        let alike = self.0.consistency(now_millis);
        (self.0.availability(now_millis), alike.since_start.is_some().then_some(alike))
    }
}

/// Probes the oldest tables of this region through its public port.
pub(super) async fn probe_tables(node: &Arc<Node>, client: &TableStore, stands_for: Duration) {
    let mut tables = node.tables();
    tables.sort_by_key(|table| table.id());
    tables.truncate(node.config().probe.tables_max as usize);
    let mut under_way = JoinSet::new();
    for table in tables {
        let (node, client) = (node.clone(), client.clone());
        under_way.spawn(async move {
            let up = is_up(&client, &table).await;
            let alike = alike(&node.differing(table.id(), &table.schema()));
            let now = node.clock().wall_millis();
            node.probes().note_table(table.id(), |record| record.note(up, alike, stands_for, now));
        });
    }
    while under_way.join_next().await.is_some() {}
}

/// Whether it is like all replicas that it was compared with; `None`: with none.
fn alike(differing: &[DifferingStatus]) -> Option<bool> {
    (!differing.is_empty()).then(|| differing.iter().all(|other| other.rows == 0))
}

async fn is_up(client: &TableStore, table: &Table) -> bool {
    let (name, schema) = (table.name().clone(), table.schema());
    if client.get_row(read(&name, &schema)).await.is_err() {
        return false;
    }
    let written = client.write_row(write(&name, &schema)).await;
    written.as_ref().err().is_some_and(is_answered)
}

/// Whether a write was answered as it must be: it came as far as its condition, or the region
/// takes no writes of the table and says so.
fn is_answered(error: &ClientError) -> bool {
    matches!(error.code(), Some("OTSConditionCheckFail" | "OTSNoPermissionAccess"))
}

fn key(schema: &Schema) -> Vec<NamedKeyPart> {
    let part = |column: &KeyColumn| NamedKeyPart {
        name: column.name.clone(),
        part: KeyPart::Value(match column.kind {
            KeyKind::Integer => KeyValue::Integer(i64::MIN),
            KeyKind::String => KeyValue::String(Text::from(NAME)),
            KeyKind::Binary => KeyValue::Binary(Bytes::from_static(NAME.as_bytes())),
        }),
    };
    schema.key_columns.iter().map(part).collect()
}

fn read(table: &Text, schema: &Schema) -> GetRow {
    let projection = Projection {
        columns: vec![Text::from(NAME)],
        max_versions: Some(1),
        ..Projection::default()
    };
    GetRow { table: table.clone(), key: key(schema), projection, token: None }
}

/// A delete of a row that must be there and have a column of two values at once.
fn write(table: &Text, schema: &Schema) -> Operation {
    let is = |value| {
        Filter::Column(ColumnFilter {
            name: Text::from(NAME),
            comparator: Comparator::Equal,
            value: Value::Integer(value),
            filter_if_missing: true,
            latest_version_only: true,
            transfer: None,
        })
    };
    let columns = Some(Filter::And(vec![is(1), is(2)]));
    let change = RowChange {
        key: key(schema),
        action: RowAction::Delete,
        condition: Condition { existence: Existence::MustExist, columns },
        returned: Returned::Nothing,
    };
    Operation::DeleteRow(WriteRow { table: table.clone(), change })
}

/// Records of tables, by id.
pub(super) type TableRecords = BTreeMap<TableId, TableRecord>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_up_and_alike_for_shares_of_the_time() {
        let (mut record, second) = (TableRecord::default(), Duration::from_secs(1));
        assert_eq!(record.ratios(0), (Ratios::default(), None));
        record.note(true, None, second, 1_800_000_000_000);
        record.note(false, Some(true), second, 1_800_000_001_000);
        record.note(true, Some(false), second * 2, 1_800_000_002_000);
        let (availability, alike) = record.ratios(1_800_000_003_000);
        assert_eq!(availability.hour, Some(0.75));
        assert_eq!(alike.and_then(|alike| alike.since_start), Some(1.0 / 3.0));
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<TableRecord>(&text).unwrap(), record);
    }

    #[test]
    fn what_was_compared_with_nobody_is_neither_alike_nor_not() {
        let other = |rows| DifferingStatus {
            region: "r2".into(),
            rows,
            ranges: 0,
            places: Vec::new(),
            since_ms: 0,
            checked_ms_ago: 0,
        };
        assert_eq!(alike(&[]), None);
        assert_eq!(alike(&[other(0), other(0)]), Some(true));
        assert_eq!(alike(&[other(0), other(1)]), Some(false));
    }
}
