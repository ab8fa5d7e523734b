//! Requests to bytes.

use bytes::{Bytes, BytesMut};
use isthmus_model::change::{
    Cast, Comparator, Condition, Direction, Existence, Filter, Projection, Returned, RowAction,
    RowChange, Transfer,
};
use isthmus_model::key::KeyValue;
use isthmus_model::schema::DefinedColumn;
use isthmus_model::value::{Text, Value};
use prost::Message;

use crate::messages;
use crate::plainbuffer::{Variant, encode_change, encode_named_key, put_variant};
use crate::request::{
    BatchGetRow, BatchWriteRow, BindGlobalTable, CreateGlobalTable, CreateTable,
    DescribeGlobalTable, GetRange, GetRow, Operation, OptionsChange, Placement, SyncMode,
    TableReads, TableWrites, ThroughputChange, UnbindGlobalTable, UpdateGlobalTable, UpdateTable,
    WriteRow,
};
use crate::response::{key_kind_number, serve_mode_number, value_kind_number};

/// The body of a request. It goes to `Operation::path`.
///
/// Whether the operation is allowed is for the server to say.
pub fn encode_request(operation: &Operation) -> Bytes {
    match operation {
        Operation::CreateTable(create) => bytes_of(&create_table(create)),
        Operation::ListTable => Bytes::new(),
        Operation::DescribeTable(table) | Operation::DeleteTable(table) => table_name(Some(table)),
        Operation::UpdateTable(update) => bytes_of(&update_table(update)),
        Operation::AddDefinedColumn(add) => bytes_of(&messages::AddDefinedColumnRequest {
            table_name: Some(shared(&add.table)),
            columns: add.columns.iter().map(defined_column).collect(),
        }),
        Operation::DeleteDefinedColumn(delete) => bytes_of(&messages::DeleteDefinedColumnRequest {
            table_name: Some(shared(&delete.table)),
            columns: delete.columns.iter().map(shared).collect(),
        }),
        Operation::GetRow(get) => bytes_of(&get_row(get)),
        Operation::PutRow(write) | Operation::UpdateRow(write) | Operation::DeleteRow(write) => {
            bytes_of(&write_row(write))
        }
        Operation::BatchGetRow(batch) => bytes_of(&batch_get(batch)),
        Operation::BatchWriteRow(batch) => bytes_of(&batch_write(batch)),
        Operation::GetRange(range) => bytes_of(&get_range(range)),
        Operation::CreateGlobalTable(create) => bytes_of(&create_global(create)),
        Operation::BindGlobalTable(bind) => bytes_of(&bind_global(bind)),
        Operation::UnbindGlobalTable(unbind) => bytes_of(&unbind_global(unbind)),
        Operation::DescribeGlobalTable(describe) => bytes_of(&describe_global(describe)),
        Operation::UpdateGlobalTable(update) => bytes_of(&update_global(update)),
        Operation::ListSearchIndex(table)
        | Operation::ListStream(table)
        | Operation::ListTunnel(table) => table_name(table.as_ref()),
    }
}

fn bytes_of(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

fn shared(text: &Text) -> Bytes {
    text.bytes().clone()
}

fn copied(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn table_name(table: Option<&Text>) -> Bytes {
    bytes_of(&messages::TableNameRequest { table_name: table.map(shared) })
}

fn create_table(create: &CreateTable) -> messages::CreateTableRequest {
    let key_columns = create.key_columns.iter().map(|column| messages::PrimaryKeySchema {
        name: Some(shared(&column.name)),
        kind: Some(key_kind_number(column.kind)),
        option: column.auto_increment.then_some(1),
    });
    let defined = create.defined_columns.iter().map(defined_column);
    messages::CreateTableRequest {
        table_meta: Some(messages::TableMeta {
            table_name: Some(shared(&create.table)),
            primary_key: key_columns.collect(),
            defined_column: defined.collect(),
            ..messages::TableMeta::default()
        }),
        reserved_throughput: Some(throughput(create.reserved)),
        table_options: Some(options(create.options)),
        partitions: partitions(&create.split_points),
        ..messages::CreateTableRequest::default()
    }
}

fn defined_column(column: &DefinedColumn) -> messages::DefinedColumnSchema {
    messages::DefinedColumnSchema {
        name: Some(shared(&column.name)),
        kind: Some(value_kind_number(column.kind)),
    }
}

fn partitions(points: &[KeyValue]) -> Vec<messages::PartitionRange> {
    if points.is_empty() {
        return Vec::new();
    }
    let inner = points.iter().map(|point| {
        Variant::Value(match point {
            KeyValue::Integer(number) => Value::Integer(*number),
            KeyValue::String(text) => Value::String(text.clone()),
            KeyValue::Binary(bytes) => Value::Binary(bytes.clone()),
        })
    });
    let ends = std::iter::once(Variant::Min).chain(inner).chain(std::iter::once(Variant::Max));
    let ends: Vec<Bytes> = ends.map(|end| variant(&end)).collect();
    let range = |pair: &[Bytes]| messages::PartitionRange {
        begin: pair.first().cloned(),
        end: pair.last().cloned(),
    };
    ends.windows(2).map(range).collect()
}

fn variant(value: &Variant) -> Bytes {
    let mut out = BytesMut::with_capacity(16);
    put_variant(&mut out, value);
    out.freeze()
}

fn throughput(change: ThroughputChange) -> messages::ReservedThroughput {
    let units = |units: Option<u32>| units.map(|units| i32::try_from(units).unwrap_or(i32::MAX));
    messages::ReservedThroughput {
        capacity_unit: Some(messages::CapacityUnit {
            read: units(change.read),
            write: units(change.write),
        }),
    }
}

fn options(change: OptionsChange) -> messages::TableOptions {
    messages::TableOptions {
        time_to_live: change.time_to_live,
        max_versions: change.max_versions,
        deviation_cell_version_in_sec: change.deviation_seconds,
        allow_update: change.allow_update,
        ..messages::TableOptions::default()
    }
}

fn update_table(update: &UpdateTable) -> messages::UpdateTableRequest {
    // Something must be there: a stream that is off and stays off changes nothing.
    let is_empty = update.reserved.is_none() && update.options.is_none();
    messages::UpdateTableRequest {
        table_name: Some(shared(&update.table)),
        reserved_throughput: update.reserved.map(throughput),
        table_options: update.options.map(options),
        stream_spec: is_empty.then(|| messages::StreamSpecification {
            enable_stream: Some(false),
            ..messages::StreamSpecification::default()
        }),
    }
}

/// The parts of a projection as several messages have them.
struct ProjectionFields {
    columns: Vec<Bytes>,
    time_range: Option<messages::TimeRange>,
    max_versions: Option<i32>,
    filter: Option<Bytes>,
    start_column: Option<Bytes>,
    end_column: Option<Bytes>,
}

fn projection(projection: &Projection) -> ProjectionFields {
    ProjectionFields {
        columns: projection.columns.iter().map(shared).collect(),
        time_range: projection.time_range.map(|(start, end)| messages::TimeRange {
            start_time: Some(start.0),
            end_time: Some(end.0),
            specific_time: None,
        }),
        max_versions: projection.max_versions.map(number),
        filter: projection.filter.as_ref().map(filter_bytes),
        start_column: projection.start_column.as_ref().map(shared),
        end_column: projection.end_column.as_ref().map(shared),
    }
}

fn number(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn get_row(get: &GetRow) -> messages::GetRowRequest {
    let fields = projection(&get.projection);
    messages::GetRowRequest {
        table_name: Some(shared(&get.table)),
        primary_key: Some(encode_named_key(&get.key)),
        columns_to_get: fields.columns,
        time_range: fields.time_range,
        max_versions: fields.max_versions,
        filter: fields.filter,
        start_column: fields.start_column,
        end_column: fields.end_column,
        token: get.token.clone(),
        transaction_id: None,
    }
}

fn get_range(range: &GetRange) -> messages::GetRangeRequest {
    let fields = projection(&range.projection);
    messages::GetRangeRequest {
        table_name: Some(shared(&range.table)),
        direction: Some(match range.direction {
            Direction::Forward => 0,
            Direction::Backward => 1,
        }),
        columns_to_get: fields.columns,
        time_range: fields.time_range,
        max_versions: fields.max_versions,
        limit: range.limit.map(number),
        inclusive_start_primary_key: Some(encode_named_key(&range.start)),
        exclusive_end_primary_key: Some(encode_named_key(&range.end)),
        filter: fields.filter,
        start_column: fields.start_column,
        end_column: fields.end_column,
        token: range.token.clone(),
        transaction_id: None,
    }
}

fn batch_get(batch: &BatchGetRow) -> messages::BatchGetRowRequest {
    let table = |table: &TableReads| {
        let fields = projection(&table.projection);
        messages::TableInBatchGetRowRequest {
            table_name: Some(shared(&table.table)),
            primary_key: table.rows.iter().map(|row| encode_named_key(&row.key)).collect(),
            token: table.rows.iter().map(|row| row.token.clone().unwrap_or_default()).collect(),
            columns_to_get: fields.columns,
            time_range: fields.time_range,
            max_versions: fields.max_versions,
            filter: fields.filter,
            start_column: fields.start_column,
            end_column: fields.end_column,
        }
    };
    messages::BatchGetRowRequest { tables: batch.tables.iter().map(table).collect() }
}

fn write_row(write: &WriteRow) -> messages::WriteRowRequest {
    let change = &write.change;
    messages::WriteRowRequest {
        table_name: Some(shared(&write.table)),
        row: Some(encode_change(&change.key, &change.action)),
        condition: Some(condition(&change.condition)),
        return_content: returned(&change.returned),
        transaction_id: None,
    }
}

fn batch_write(batch: &BatchWriteRow) -> messages::BatchWriteRowRequest {
    let row = |change: &RowChange| messages::RowInBatchWriteRowRequest {
        kind: Some(match &change.action {
            RowAction::Put(_) => 1,
            RowAction::Update(_) => 2,
            RowAction::Delete => 3,
        }),
        row_change: Some(encode_change(&change.key, &change.action)),
        condition: Some(condition(&change.condition)),
        return_content: returned(&change.returned),
    };
    let table = |table: &TableWrites| messages::TableInBatchWriteRowRequest {
        table_name: Some(shared(&table.table)),
        rows: table.rows.iter().map(row).collect(),
    };
    messages::BatchWriteRowRequest {
        tables: batch.tables.iter().map(table).collect(),
        transaction_id: None,
        is_atomic: batch.atomic.then_some(true),
    }
}

fn condition(condition: &Condition) -> messages::Condition {
    messages::Condition {
        row_existence: Some(match condition.existence {
            Existence::Ignore => 0,
            Existence::MustExist => 1,
            Existence::MustNotExist => 2,
        }),
        column_condition: condition.columns.as_ref().map(filter_bytes),
    }
}

fn returned(returned: &Returned) -> Option<messages::ReturnContent> {
    let (kind, names) = match returned {
        Returned::Nothing => return None,
        Returned::Key => (1, Vec::new()),
        Returned::AfterModify(names) => (2, names.iter().map(shared).collect()),
    };
    Some(messages::ReturnContent { return_type: Some(kind), return_column_names: names })
}

fn filter_bytes(filter: &Filter) -> Bytes {
    bytes_of(&filter_message(filter))
}

fn filter_message(filter: &Filter) -> messages::Filter {
    let (kind, inner) = match filter {
        Filter::Column(column) => {
            let inner = messages::SingleColumnValueFilter {
                comparator: Some(comparator_number(column.comparator)),
                column_name: Some(shared(&column.name)),
                column_value: Some(variant(&Variant::Value(column.value.clone()))),
                filter_if_missing: Some(column.filter_if_missing),
                latest_version_only: Some(column.latest_version_only),
                value_trans_rule: column.transfer.as_ref().map(transfer),
            };
            (1, bytes_of(&inner))
        }
        Filter::Not(part) => (2, composite(1, std::slice::from_ref(part.as_ref()))),
        Filter::And(parts) => (2, composite(2, parts)),
        Filter::Or(parts) => (2, composite(3, parts)),
        Filter::Page { offset, limit } => {
            let inner = messages::ColumnPaginationFilter {
                offset: Some(number(*offset)),
                limit: Some(number(*limit)),
            };
            (3, bytes_of(&inner))
        }
    };
    messages::Filter { kind: Some(kind), filter: Some(inner) }
}

fn composite(combinator: i32, parts: &[Filter]) -> Bytes {
    bytes_of(&messages::CompositeColumnValueFilter {
        combinator: Some(combinator),
        sub_filters: parts.iter().map(filter_message).collect(),
    })
}

fn comparator_number(comparator: Comparator) -> i32 {
    match comparator {
        Comparator::Equal => 1,
        Comparator::NotEqual => 2,
        Comparator::Greater => 3,
        Comparator::GreaterEqual => 4,
        Comparator::Less => 5,
        Comparator::LessEqual => 6,
        Comparator::Exists => 7,
        Comparator::NotExists => 8,
    }
}

fn transfer(transfer: &Transfer) -> messages::ValueTransferRule {
    messages::ValueTransferRule {
        regex: Some(copied(transfer.regex.as_str())),
        cast_type: Some(match transfer.cast {
            Cast::Integer => 0,
            Cast::Double => 1,
            Cast::String => 3,
            Cast::Binary => 7,
        }),
    }
}

fn placements(placements: &[Placement]) -> Vec<messages::Placement> {
    let placement = |placement: &Placement| messages::Placement {
        region_id: Some(copied(&placement.region)),
        instance_name: Some(copied(&placement.instance)),
        writable: Some(placement.writable),
    };
    placements.iter().map(placement).collect()
}

fn create_global(create: &CreateGlobalTable) -> messages::CreateGlobalTableRequest {
    messages::CreateGlobalTableRequest {
        base_table: Some(messages::BaseTable {
            region_id: Some(copied(&create.base.region)),
            instance_name: Some(copied(&create.base.instance)),
            table_name: Some(copied(&create.base.table)),
        }),
        placements: placements(&create.placements),
        sync_mode: Some(match create.sync_mode {
            SyncMode::Row => 1,
            SyncMode::Column => 2,
        }),
        serve_mode: create.serve_mode.map(serve_mode_number),
    }
}

fn bind_global(bind: &BindGlobalTable) -> messages::BindGlobalTableRequest {
    messages::BindGlobalTableRequest {
        global_table_id: Some(copied(&bind.id)),
        global_table_name: Some(copied(&bind.name)),
        placements: placements(&bind.placements),
    }
}

fn unbind_global(unbind: &UnbindGlobalTable) -> messages::UnbindGlobalTableRequest {
    let removals = unbind.removals.iter().map(|removal| messages::Removal {
        region_id: Some(copied(&removal.region)),
        instance_name: Some(copied(&removal.instance)),
    });
    messages::UnbindGlobalTableRequest {
        global_table_id: Some(copied(&unbind.id)),
        global_table_name: Some(copied(&unbind.name)),
        removals: removals.collect(),
    }
}

fn describe_global(describe: &DescribeGlobalTable) -> messages::DescribeGlobalTableRequest {
    messages::DescribeGlobalTableRequest {
        global_table_id: describe.id.as_deref().map(copied),
        global_table_name: Some(copied(&describe.name)),
        phy_table: describe.replica.as_ref().map(|place| messages::PhyTable {
            region_id: Some(copied(&place.region)),
            instance_name: Some(copied(&place.instance)),
            table_name: Some(copied(&place.table)),
            writable: Some(false),
            ..messages::PhyTable::default()
        }),
        return_rpo: Some(describe.return_rpo),
    }
}

fn update_global(update: &UpdateGlobalTable) -> messages::UpdateGlobalTableRequest {
    messages::UpdateGlobalTableRequest {
        global_table_id: Some(copied(&update.id)),
        global_table_name: Some(copied(&update.name)),
        phy_table: update.replica.as_ref().map(|replica| messages::UpdatePhyTable {
            region_id: Some(copied(&replica.place.region)),
            instance_name: Some(copied(&replica.place.instance)),
            table_name: Some(copied(&replica.place.table)),
            writable: replica.writable,
            primary_eligible: replica.primary_eligible,
        }),
    }
}
