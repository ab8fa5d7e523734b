//! The messages of the wire, as they are numbered there.
//!
//! All are proto2. Every singular field is an `Option`, because the runtime does not check that
//! required fields are there: who decodes a message does. Text is kept as bytes that share the
//! body's buffer, and is checked to be UTF-8 where it becomes a `Text`. Enumerations are plain
//! numbers here and are checked where they get a meaning. Nothing outside this crate sees these
//! types.
#![allow(unreachable_pub, reason = "derived accessors are public")]

mod global_table;

use bytes::Bytes;
use prost::Message;

pub(crate) use crate::messages::global_table::{
    BaseTable, BindGlobalTableRequest, CreateGlobalTableRequest, DescribeGlobalTableRequest,
    DescribeGlobalTableResponse, GlobalTableResponse, PhyTable, Placement, Removal,
    UnbindGlobalTableRequest, UpdateGlobalTableRequest, UpdatePhyTable,
};

/// Body of every answer that is no success, and of failed rows.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Error {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub(crate) code: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(crate) message: Option<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct PrimaryKeySchema {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub(crate) name: Option<Bytes>,
    #[prost(int32, optional, tag = "2")]
    pub(crate) kind: Option<i32>,
    #[prost(int32, optional, tag = "3")]
    pub(crate) option: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct DefinedColumnSchema {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub(crate) name: Option<Bytes>,
    #[prost(int32, optional, tag = "2")]
    pub(crate) kind: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct AddDefinedColumnRequest {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub(crate) table_name: Option<Bytes>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) columns: Vec<DefinedColumnSchema>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct DeleteDefinedColumnRequest {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub(crate) table_name: Option<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub(crate) columns: Vec<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct TableMeta {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub(crate) table_name: Option<Bytes>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) primary_key: Vec<PrimaryKeySchema>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) defined_column: Vec<DefinedColumnSchema>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) index_meta: Vec<IndexMeta>,
    #[prost(bytes = "bytes", optional, tag = "5")]
    pub(crate) table_id: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "6")]
    pub(crate) global_table_id: Option<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct TableOptions {
    #[prost(int32, optional, tag = "1")]
    pub(crate) time_to_live: Option<i32>,
    #[prost(int32, optional, tag = "2")]
    pub(crate) max_versions: Option<i32>,
    #[prost(int32, optional, tag = "3")]
    pub(crate) bloom_filter_type: Option<i32>,
    #[prost(int32, optional, tag = "4")]
    pub(crate) block_size: Option<i32>,
    #[prost(int64, optional, tag = "5")]
    pub(crate) deviation_cell_version_in_sec: Option<i64>,
    #[prost(bool, optional, tag = "6")]
    pub(crate) allow_update: Option<bool>,
    #[prost(bool, optional, tag = "7")]
    pub(crate) update_full_row: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct CapacityUnit {
    #[prost(int32, optional, tag = "1")]
    pub(crate) read: Option<i32>,
    #[prost(int32, optional, tag = "2")]
    pub(crate) write: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ReservedThroughput {
    #[prost(message, optional, tag = "1")]
    pub(crate) capacity_unit: Option<CapacityUnit>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ReservedThroughputDetails {
    #[prost(message, optional, tag = "1")]
    pub(crate) capacity_unit: Option<CapacityUnit>,
    #[prost(int64, optional, tag = "2")]
    pub(crate) last_increase_time: Option<i64>,
    #[prost(int64, optional, tag = "3")]
    pub(crate) last_decrease_time: Option<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ConsumedCapacity {
    #[prost(message, optional, tag = "1")]
    pub(crate) capacity_unit: Option<CapacityUnit>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct StreamSpecification {
    #[prost(bool, optional, tag = "1")]
    pub(crate) enable_stream: Option<bool>,
    #[prost(int32, optional, tag = "2")]
    pub(crate) expiration_time: Option<i32>,
    #[prost(bytes = "bytes", repeated, tag = "3")]
    pub(crate) columns_to_get: Vec<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct StreamDetails {
    #[prost(bool, optional, tag = "1")]
    pub(crate) enable_stream: Option<bool>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(crate) stream_id: Option<Bytes>,
    #[prost(int32, optional, tag = "3")]
    pub(crate) expiration_time: Option<i32>,
    #[prost(int64, optional, tag = "4")]
    pub(crate) last_enable_time: Option<i64>,
    #[prost(bytes = "bytes", repeated, tag = "5")]
    pub(crate) columns_to_get: Vec<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SseSpecification {
    #[prost(bool, optional, tag = "1")]
    pub(crate) enable: Option<bool>,
    #[prost(int32, optional, tag = "2")]
    pub(crate) key_type: Option<i32>,
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub(crate) key_id: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "4")]
    pub(crate) role_arn: Option<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct PartitionRange {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub(crate) begin: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(crate) end: Option<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct IndexMeta {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub(crate) name: Option<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct CreateTableRequest {
    #[prost(message, optional, tag = "1")]
    pub(crate) table_meta: Option<TableMeta>,
    #[prost(message, optional, tag = "2")]
    pub(crate) reserved_throughput: Option<ReservedThroughput>,
    #[prost(message, optional, tag = "3")]
    pub(crate) table_options: Option<TableOptions>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) partitions: Vec<PartitionRange>,
    #[prost(message, optional, tag = "5")]
    pub(crate) stream_spec: Option<StreamSpecification>,
    #[prost(message, optional, tag = "6")]
    pub(crate) sse_spec: Option<SseSpecification>,
    #[prost(message, repeated, tag = "7")]
    pub(crate) index_metas: Vec<IndexMeta>,
    #[prost(bool, optional, tag = "8")]
    pub(crate) enable_local_txn: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct UpdateTableRequest {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub(crate) table_name: Option<Bytes>,
    #[prost(message, optional, tag = "2")]
    pub(crate) reserved_throughput: Option<ReservedThroughput>,
    #[prost(message, optional, tag = "3")]
    pub(crate) table_options: Option<TableOptions>,
    #[prost(message, optional, tag = "4")]
    pub(crate) stream_spec: Option<StreamSpecification>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct UpdateTableResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) reserved_throughput_details: Option<ReservedThroughputDetails>,
    #[prost(message, optional, tag = "2")]
    pub(crate) table_options: Option<TableOptions>,
    #[prost(message, optional, tag = "3")]
    pub(crate) stream_details: Option<StreamDetails>,
}

/// DescribeTableRequest, DeleteTableRequest, ListSearchIndexRequest, ListStreamRequest and
/// ListTunnelRequest.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TableNameRequest {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub(crate) table_name: Option<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct DescribeTableResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) table_meta: Option<TableMeta>,
    #[prost(message, optional, tag = "2")]
    pub(crate) reserved_throughput_details: Option<ReservedThroughputDetails>,
    #[prost(message, optional, tag = "3")]
    pub(crate) table_options: Option<TableOptions>,
    #[prost(int32, optional, tag = "4")]
    pub(crate) table_status: Option<i32>,
    #[prost(message, optional, tag = "5")]
    pub(crate) stream_details: Option<StreamDetails>,
    #[prost(int64, optional, tag = "9")]
    pub(crate) creation_time: Option<i64>,
}

/// Messages without fields.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Empty {}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ListTableResponse {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub(crate) table_names: Vec<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Condition {
    #[prost(int32, optional, tag = "1")]
    pub(crate) row_existence: Option<i32>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(crate) column_condition: Option<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ReturnContent {
    #[prost(int32, optional, tag = "1")]
    pub(crate) return_type: Option<i32>,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub(crate) return_column_names: Vec<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct TimeRange {
    #[prost(int64, optional, tag = "1")]
    pub(crate) start_time: Option<i64>,
    #[prost(int64, optional, tag = "2")]
    pub(crate) end_time: Option<i64>,
    #[prost(int64, optional, tag = "3")]
    pub(crate) specific_time: Option<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct GetRowRequest {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub(crate) table_name: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(crate) primary_key: Option<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "3")]
    pub(crate) columns_to_get: Vec<Bytes>,
    #[prost(message, optional, tag = "4")]
    pub(crate) time_range: Option<TimeRange>,
    #[prost(int32, optional, tag = "5")]
    pub(crate) max_versions: Option<i32>,
    #[prost(bytes = "bytes", optional, tag = "7")]
    pub(crate) filter: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "8")]
    pub(crate) start_column: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "9")]
    pub(crate) end_column: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "10")]
    pub(crate) token: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "11")]
    pub(crate) transaction_id: Option<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct GetRowResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) consumed: Option<ConsumedCapacity>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(crate) row: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub(crate) next_token: Option<Bytes>,
}

/// PutRowRequest, UpdateRowRequest, DeleteRowRequest: their fields have the same numbers.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct WriteRowRequest {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub(crate) table_name: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(crate) row: Option<Bytes>,
    #[prost(message, optional, tag = "3")]
    pub(crate) condition: Option<Condition>,
    #[prost(message, optional, tag = "4")]
    pub(crate) return_content: Option<ReturnContent>,
    #[prost(bytes = "bytes", optional, tag = "5")]
    pub(crate) transaction_id: Option<Bytes>,
}

/// PutRowResponse, UpdateRowResponse, DeleteRowResponse.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct WriteRowResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) consumed: Option<ConsumedCapacity>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(crate) row: Option<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct TableInBatchGetRowRequest {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub(crate) table_name: Option<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub(crate) primary_key: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "3")]
    pub(crate) token: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "4")]
    pub(crate) columns_to_get: Vec<Bytes>,
    #[prost(message, optional, tag = "5")]
    pub(crate) time_range: Option<TimeRange>,
    #[prost(int32, optional, tag = "6")]
    pub(crate) max_versions: Option<i32>,
    #[prost(bytes = "bytes", optional, tag = "8")]
    pub(crate) filter: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "9")]
    pub(crate) start_column: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "10")]
    pub(crate) end_column: Option<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct BatchGetRowRequest {
    #[prost(message, repeated, tag = "1")]
    pub(crate) tables: Vec<TableInBatchGetRowRequest>,
}

/// RowInBatchGetRowResponse and RowInBatchWriteRowResponse.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RowInBatchResponse {
    #[prost(bool, optional, tag = "1")]
    pub(crate) is_ok: Option<bool>,
    #[prost(message, optional, tag = "2")]
    pub(crate) error: Option<Error>,
    #[prost(message, optional, tag = "3")]
    pub(crate) consumed: Option<ConsumedCapacity>,
    #[prost(bytes = "bytes", optional, tag = "4")]
    pub(crate) row: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "5")]
    pub(crate) next_token: Option<Bytes>,
}

/// TableInBatchGetRowResponse and TableInBatchWriteRowResponse.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TableInBatchResponse {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub(crate) table_name: Option<Bytes>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) rows: Vec<RowInBatchResponse>,
}

/// BatchGetRowResponse and BatchWriteRowResponse.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct BatchResponse {
    #[prost(message, repeated, tag = "1")]
    pub(crate) tables: Vec<TableInBatchResponse>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct RowInBatchWriteRowRequest {
    #[prost(int32, optional, tag = "1")]
    pub(crate) kind: Option<i32>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(crate) row_change: Option<Bytes>,
    #[prost(message, optional, tag = "3")]
    pub(crate) condition: Option<Condition>,
    #[prost(message, optional, tag = "4")]
    pub(crate) return_content: Option<ReturnContent>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct TableInBatchWriteRowRequest {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub(crate) table_name: Option<Bytes>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) rows: Vec<RowInBatchWriteRowRequest>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct BatchWriteRowRequest {
    #[prost(message, repeated, tag = "1")]
    pub(crate) tables: Vec<TableInBatchWriteRowRequest>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(crate) transaction_id: Option<Bytes>,
    #[prost(bool, optional, tag = "3")]
    pub(crate) is_atomic: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct GetRangeRequest {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub(crate) table_name: Option<Bytes>,
    #[prost(int32, optional, tag = "2")]
    pub(crate) direction: Option<i32>,
    #[prost(bytes = "bytes", repeated, tag = "3")]
    pub(crate) columns_to_get: Vec<Bytes>,
    #[prost(message, optional, tag = "4")]
    pub(crate) time_range: Option<TimeRange>,
    #[prost(int32, optional, tag = "5")]
    pub(crate) max_versions: Option<i32>,
    #[prost(int32, optional, tag = "6")]
    pub(crate) limit: Option<i32>,
    #[prost(bytes = "bytes", optional, tag = "7")]
    pub(crate) inclusive_start_primary_key: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "8")]
    pub(crate) exclusive_end_primary_key: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "10")]
    pub(crate) filter: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "11")]
    pub(crate) start_column: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "12")]
    pub(crate) end_column: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "13")]
    pub(crate) token: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "14")]
    pub(crate) transaction_id: Option<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct GetRangeResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) consumed: Option<ConsumedCapacity>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(crate) rows: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub(crate) next_start_primary_key: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "4")]
    pub(crate) next_token: Option<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Filter {
    #[prost(int32, optional, tag = "1")]
    pub(crate) kind: Option<i32>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(crate) filter: Option<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SingleColumnValueFilter {
    #[prost(int32, optional, tag = "1")]
    pub(crate) comparator: Option<i32>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(crate) column_name: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub(crate) column_value: Option<Bytes>,
    #[prost(bool, optional, tag = "4")]
    pub(crate) filter_if_missing: Option<bool>,
    #[prost(bool, optional, tag = "5")]
    pub(crate) latest_version_only: Option<bool>,
    #[prost(message, optional, tag = "6")]
    pub(crate) value_trans_rule: Option<ValueTransferRule>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ValueTransferRule {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub(crate) regex: Option<Bytes>,
    #[prost(int32, optional, tag = "2")]
    pub(crate) cast_type: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct CompositeColumnValueFilter {
    #[prost(int32, optional, tag = "1")]
    pub(crate) combinator: Option<i32>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) sub_filters: Vec<Filter>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ColumnPaginationFilter {
    #[prost(int32, optional, tag = "1")]
    pub(crate) offset: Option<i32>,
    #[prost(int32, optional, tag = "2")]
    pub(crate) limit: Option<i32>,
}
