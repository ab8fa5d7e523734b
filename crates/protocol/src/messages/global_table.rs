//! The messages of global tables, as they are numbered on the wire.
//!
//! The rules are those of the other messages: see there.

use bytes::Bytes;
use prost::Message;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct BaseTable {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub(crate) region_id: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(crate) instance_name: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub(crate) table_name: Option<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Placement {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub(crate) region_id: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(crate) instance_name: Option<Bytes>,
    #[prost(bool, optional, tag = "3")]
    pub(crate) writable: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Removal {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub(crate) region_id: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(crate) instance_name: Option<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct PhyTable {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub(crate) region_id: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(crate) instance_name: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub(crate) table_name: Option<Bytes>,
    #[prost(bool, optional, tag = "4")]
    pub(crate) writable: Option<bool>,
    #[prost(int32, optional, tag = "5")]
    pub(crate) status: Option<i32>,
    #[prost(int64, optional, tag = "6")]
    pub(crate) status_timestamp: Option<i64>,
    #[prost(bytes = "bytes", optional, tag = "7")]
    pub(crate) table_id: Option<Bytes>,
    #[prost(int32, optional, tag = "8")]
    pub(crate) table_hash_key: Option<i32>,
    #[prost(bytes = "bytes", optional, tag = "9")]
    pub(crate) endpoint: Option<Bytes>,
    #[prost(int32, optional, tag = "10")]
    pub(crate) stage: Option<i32>,
    #[prost(int64, optional, tag = "11")]
    pub(crate) meta_version: Option<i64>,
    #[prost(bool, optional, tag = "12")]
    pub(crate) is_failed: Option<bool>,
    #[prost(bytes = "bytes", optional, tag = "13")]
    pub(crate) message: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "14")]
    pub(crate) role: Option<Bytes>,
    #[prost(int64, optional, tag = "15")]
    pub(crate) rpo_nanos: Option<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct UpdatePhyTable {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub(crate) region_id: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(crate) instance_name: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub(crate) table_name: Option<Bytes>,
    #[prost(bool, optional, tag = "4")]
    pub(crate) writable: Option<bool>,
    #[prost(bool, optional, tag = "5")]
    pub(crate) primary_eligible: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct CreateGlobalTableRequest {
    #[prost(message, optional, tag = "2")]
    pub(crate) base_table: Option<BaseTable>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) placements: Vec<Placement>,
    #[prost(int32, optional, tag = "4")]
    pub(crate) sync_mode: Option<i32>,
    #[prost(int32, optional, tag = "5")]
    pub(crate) serve_mode: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct BindGlobalTableRequest {
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(crate) global_table_id: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub(crate) global_table_name: Option<Bytes>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) placements: Vec<Placement>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct UnbindGlobalTableRequest {
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(crate) global_table_id: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub(crate) global_table_name: Option<Bytes>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) removals: Vec<Removal>,
}

/// CreateGlobalTableResponse, BindGlobalTableResponse, UnbindGlobalTableResponse.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct GlobalTableResponse {
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(crate) global_table_id: Option<Bytes>,
    #[prost(int32, optional, tag = "3")]
    pub(crate) status: Option<i32>,
    #[prost(int32, optional, tag = "4")]
    pub(crate) serve_mode: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct DescribeGlobalTableRequest {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub(crate) global_table_id: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(crate) global_table_name: Option<Bytes>,
    #[prost(message, optional, tag = "3")]
    pub(crate) phy_table: Option<PhyTable>,
    #[prost(bool, optional, tag = "4")]
    pub(crate) return_rpo: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct DescribeGlobalTableResponse {
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(crate) global_table_id: Option<Bytes>,
    #[prost(int32, optional, tag = "3")]
    pub(crate) status: Option<i32>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) phy_tables: Vec<PhyTable>,
    #[prost(int32, optional, tag = "5")]
    pub(crate) serve_mode: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct UpdateGlobalTableRequest {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub(crate) global_table_id: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(crate) global_table_name: Option<Bytes>,
    #[prost(message, optional, tag = "3")]
    pub(crate) phy_table: Option<UpdatePhyTable>,
}
