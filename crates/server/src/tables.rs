//! The operations on tables.

use std::sync::Arc;

use bytes::Bytes;
use isthmus_control::distribution::partition_named;
use isthmus_model::check::{check_schema, check_table_name};
use isthmus_model::ids::{Epoch, Origin, PartitionId, SchemaNumber, TableId};
use isthmus_model::key::KeyValue;
use isthmus_model::schema::{Schema, TableOptions};
use isthmus_model::value::Text;
use isthmus_protocol::error_code::ErrorCode;
use isthmus_protocol::request::{AddDefinedColumn, CreateTable, DeleteDefinedColumn, UpdateTable};
use isthmus_protocol::response::{
    TableDescription, TableStatus, Throughput, encode_describe_table, encode_empty,
    encode_list_table, encode_update_table,
};
use isthmus_store::{Store, StoreError, TableSpec, Writers, Writing};

use crate::api_error::ApiError;
use crate::node::Node;
use crate::probe::PROBE_TABLE;

/// The least time to live. The public service asks for a day; nothing here needs that much.
const TIME_TO_LIVE_SECONDS_MIN: u32 = 86_400;

/// Serves operations on tables.
pub struct Tables {
    node: Arc<Node>,
    /// One at a time, so that quota and names are judged on what is there.
    changing: tokio::sync::Mutex<()>,
}

impl Tables {
    /// Serves for this node.
    pub fn new(node: Arc<Node>) -> Tables {
        Tables { node, changing: tokio::sync::Mutex::new(()) }
    }

    /// CreateTable.
    pub async fn create(&self, create: CreateTable) -> Result<Bytes, ApiError> {
        check_table_name(create.table.as_str())?;
        let schema = new_schema(&create)?;
        let _one_at_a_time = self.changing.lock().await;
        let _names = self.node.hold_names().await;
        let store = self.node.store();
        if create.table.as_str() == PROBE_TABLE {
            return Err(ApiError::invalid(format!("The name {PROBE_TABLE} is reserved.")));
        }
        let name = create.table.as_str();
        if store.table_by_name(name).is_some() || self.node.is_distribution_name(name) {
            return Err(ApiError::table_exists());
        }
        check_quota(&self.node)?;
        let id = store.reserve_id()?;
        keep_split_points(store, TableId(id), &create.split_points).await?;
        store
            .create_table(TableSpec {
                id: TableId(id),
                name: create.table,
                partition: PartitionId(id),
                schema,
                created_millis: self.node.clock().wall_millis(),
                epoch: Epoch(1),
                base: Origin(self.node.config().region.number),
                writing: Writing::Accept,
                writers: Writers::One,
                writer: Origin(self.node.config().region.number),
                handed_over: None,
                settled: Default::default(),
            })
            .await?;
        Ok(encode_empty())
    }

    /// ListTable.
    pub fn list(&self) -> Bytes {
        encode_list_table(client_names(&self.node).iter().map(Text::as_str))
    }

    /// DescribeTable.
    pub fn describe(&self, name: &Text) -> Result<Bytes, ApiError> {
        let table = self.node.table_named(name.as_str())?;
        let spec = table.spec();
        let record = self.node.record(spec.id);
        let ready = record.as_ref().is_none_or(|record| record.ready);
        Ok(encode_describe_table(&TableDescription {
            table: spec.name.as_str(),
            schema: &spec.schema,
            throughput: no_throughput(&spec),
            status: if ready { TableStatus::Active } else { TableStatus::Loading },
            creation_micros: Some(spec.created_millis * 1000),
            table_id: Some(&format!("{:016x}", spec.id.0)),
            global_table_id: record.as_ref().map(|record| record.table.id.as_str()),
        }))
    }

    /// UpdateTable.
    pub async fn update(&self, update: UpdateTable) -> Result<Bytes, ApiError> {
        let table = self.node.changeable(update.table.as_str())?;
        let epoch = table.writer_word().epoch;
        if let Some(change) = update.options {
            let now = table.spec().schema.options.clone();
            // Judged before it is queued, so that a wrong one costs nothing.
            change.merged(&now, TIME_TO_LIVE_SECONDS_MIN)?;
            let merged = move |schema: &Schema| {
                let options = change.merged(&schema.options, TIME_TO_LIVE_SECONDS_MIN);
                Ok(match options {
                    Ok(options) => Schema { options, ..schema.clone() },
                    Err(_) => schema.clone(),
                })
            };
            self.node.change_schema_in_turn(&table, merged).await?;
            self.node.until_schema_held(&table, epoch).await?;
        }
        let spec = table.spec();
        Ok(encode_update_table(&spec.schema.options, no_throughput(&spec)))
    }

    /// AddDefinedColumn.
    pub async fn add_columns(&self, add: AddDefinedColumn) -> Result<Bytes, ApiError> {
        self.change_columns(&add.table, move |schema| {
            let mut schema = schema.clone();
            schema.defined_columns.extend(add.columns.iter().cloned());
            check_schema(&schema)?;
            Ok(schema)
        })
        .await
    }

    /// DeleteDefinedColumn. What rows hold in the column stays, as an attribute like any other.
    pub async fn delete_columns(&self, delete: DeleteDefinedColumn) -> Result<Bytes, ApiError> {
        self.change_columns(&delete.table, move |schema| {
            let mut schema = schema.clone();
            for name in &delete.columns {
                let place = schema.defined_columns.iter().position(|known| known.name == *name);
                let Some(place) = place else {
                    let message = format!("The defined column does not exist: '{name}'.");
                    return Err(ApiError::invalid(message));
                };
                schema.defined_columns.remove(place);
            }
            Ok(schema)
        })
        .await
    }

    async fn change_columns(
        &self,
        table: &Text,
        change: impl Fn(&Schema) -> Result<Schema, ApiError>,
    ) -> Result<Bytes, ApiError> {
        let table = self.node.changeable(table.as_str())?;
        let epoch = table.writer_word().epoch;
        // Judged before it is queued, so that a wrong one costs nothing, and again in its turn.
        change(&table.schema())?;
        let refused = |error: ApiError| StoreError::BadSchema(error.message);
        let changed = |schema: &Schema| change(schema).map_err(refused);
        self.node.change_schema_in_turn(&table, changed).await?;
        self.node.until_schema_held(&table, epoch).await?;
        Ok(encode_empty())
    }

    /// DeleteTable.
    pub async fn delete(&self, name: &Text) -> Result<Bytes, ApiError> {
        let _one_at_a_time = self.changing.lock().await;
        let table = self.node.table_named(name.as_str())?;
        let id = table.id();
        if let Some(record) = self.node.record(id) {
            return Err(ApiError::invalid(format!(
                "The table is a replica of global table {}. Drop that, or unbind its replicas \
                 first.",
                record.table.id
            )));
        }
        match self.node.store().drop_table_if_settled(id).await {
            Err(StoreError::Busy) => {
                return Err(ApiError::new(
                    ErrorCode::ServerBusy,
                    "Server is busy. Other tables have not made all of a batch yet that was \
                     decided in this one. Try again later.",
                ));
            }
            dropped => dropped?,
        }
        forget_split_points(self.node.store(), id).await?;
        Ok(encode_empty())
    }
}

/// The names of all tables as clients know them: of a distributed table one, not those of its
/// partitions.
fn client_names(node: &Node) -> Vec<Text> {
    let mut names: Vec<Text> = node.tables().iter().map(|table| table.name()).collect();
    names.retain(|name| partition_named(name.as_str()).is_none());
    names.extend(node.distribution_names().into_iter().map(Text::from));
    names.sort();
    names.dedup();
    names
}

/// Whether there may be one more table.
pub(crate) fn check_quota(node: &Node) -> Result<(), ApiError> {
    let quota = node.config().instance.table_quota;
    match client_names(node).len() < quota as usize {
        true => Ok(()),
        false => Err(ApiError::new(
            ErrorCode::QuotaExhausted,
            format!("Number of tables exceeds the quota:{quota}."),
        )),
    }
}

fn split_points_note(table: TableId) -> Vec<u8> {
    format!("split-points/{:016x}", table.0).into_bytes()
}

/// Keeps where a table is to be divided, should it be distributed. They count from then on only.
async fn keep_split_points(
    store: &Store,
    table: TableId,
    points: &[KeyValue],
) -> Result<(), ApiError> {
    if points.is_empty() {
        return Ok(());
    }
    let text = |point: &KeyValue| match point {
        KeyValue::Integer(number) => Some(number.to_string()),
        KeyValue::String(text) => Some(text.as_str().to_owned()),
        KeyValue::Binary(bytes) => std::str::from_utf8(bytes).ok().map(str::to_owned),
    };
    let points: Option<Vec<String>> = points.iter().map(text).collect();
    let points = points.ok_or_else(|| {
        ApiError::invalid("A split point of a binary key column has to be UTF-8 text.")
    })?;
    let note = serde_json::to_vec(&points).map_err(|_| ApiError::internal())?;
    Ok(store.put_note(&split_points_note(table), &note).await?)
}

/// Where a table is to be divided, as CreateTable has said; empty: it has not.
pub(crate) fn split_points(store: &Store, table: TableId) -> Result<Vec<String>, ApiError> {
    let Some(note) = store.note(&split_points_note(table))? else { return Ok(Vec::new()) };
    serde_json::from_slice(&note).map_err(|_| ApiError::internal())
}

/// Forgets that.
pub(crate) async fn forget_split_points(store: &Store, table: TableId) -> Result<(), ApiError> {
    Ok(store.delete_note(&split_points_note(table)).await?)
}

/// The schema of a new table, if it is a legal one.
pub(crate) fn new_schema(create: &CreateTable) -> Result<Schema, ApiError> {
    let schema = Schema {
        number: SchemaNumber(1),
        key_columns: create.key_columns.clone(),
        defined_columns: create.defined_columns.clone(),
        options: create.options.merged(&TableOptions::default(), TIME_TO_LIVE_SECONDS_MIN)?,
    };
    check_schema(&schema)?;
    Ok(schema)
}

/// Throughput is not reserved: every table uses what there is.
fn no_throughput(spec: &TableSpec) -> Throughput {
    Throughput {
        read: 0,
        write: 0,
        last_increase_seconds: spec.created_millis / 1000,
        last_decrease_seconds: None,
    }
}
