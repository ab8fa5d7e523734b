//! Answers about global tables.

use bytes::Bytes;

use crate::messages;
use crate::request::ServeMode;
use crate::response::{bytes_of, copied};

/// How far a global table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GlobalTableStatus {
    /// It is being made.
    Init,
    /// Its replicas are being changed.
    Reconfiguring,
    /// All its replicas are in use.
    Active,
}

/// How far one replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaStatus {
    /// Waits to be made.
    Pending,
    /// Is being made.
    Init,
    /// Is being filled.
    SyncData,
    /// Holds all there was.
    Ready,
    /// Is in use.
    Active,
    /// Is being taken away.
    Unbinding,
    /// Was taken away.
    Unbound,
}

/// How a replica follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncStage {
    /// Not yet.
    Init,
    /// It is being copied.
    Full,
    /// It follows the changes.
    Incremental,
}

/// What DescribeGlobalTable answers for one replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaDescription {
    /// Region.
    pub region: String,
    /// Instance.
    pub instance: String,
    /// Table.
    pub table: String,
    /// Whether clients may write there.
    pub writable: bool,
    /// How far it is.
    pub status: ReplicaStatus,
    /// Since when, in milliseconds since the Unix epoch.
    pub status_millis: Option<i64>,
    /// Its own id.
    pub table_id: Option<String>,
    /// Its number within the global table.
    pub number: Option<i32>,
    /// Where clients reach it.
    pub endpoint: Option<String>,
    /// How it follows.
    pub stage: Option<SyncStage>,
    /// Whether it has failed.
    pub failed: bool,
    /// Text for a person.
    pub message: Option<String>,
    /// Its role.
    pub role: Option<String>,
    /// Up to when it holds everything, in nanoseconds since the Unix epoch.
    pub rpo_nanos: Option<i64>,
}

/// What DescribeGlobalTable answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GlobalTableDescription {
    /// Id.
    pub id: String,
    /// How far it is.
    pub status: GlobalTableStatus,
    /// Who writes.
    pub serve_mode: Option<ServeMode>,
    /// Its replicas.
    pub replicas: Vec<ReplicaDescription>,
}

/// The answer of CreateGlobalTable, with the mode, and of BindGlobalTable and UnbindGlobalTable,
/// without.
pub fn encode_global_table(
    id: &str,
    status: GlobalTableStatus,
    serve_mode: Option<ServeMode>,
) -> Bytes {
    bytes_of(&messages::GlobalTableResponse {
        global_table_id: Some(copied(id)),
        status: Some(global_status(status)),
        serve_mode: serve_mode.map(serve_mode_number),
    })
}

/// The answer of DescribeGlobalTable.
pub fn encode_describe_global_table(table: &GlobalTableDescription) -> Bytes {
    bytes_of(&messages::DescribeGlobalTableResponse {
        global_table_id: Some(copied(&table.id)),
        status: Some(global_status(table.status)),
        phy_tables: table.replicas.iter().map(replica).collect(),
        serve_mode: table.serve_mode.map(serve_mode_number),
    })
}

fn global_status(status: GlobalTableStatus) -> i32 {
    match status {
        GlobalTableStatus::Init => 1,
        GlobalTableStatus::Reconfiguring => 2,
        GlobalTableStatus::Active => 3,
    }
}

pub(crate) fn serve_mode_number(mode: ServeMode) -> i32 {
    match mode {
        ServeMode::PrimarySecondary => 2,
        ServeMode::PeerToPeer => 3,
    }
}

fn replica(replica: &ReplicaDescription) -> messages::PhyTable {
    messages::PhyTable {
        region_id: Some(copied(&replica.region)),
        instance_name: Some(copied(&replica.instance)),
        table_name: Some(copied(&replica.table)),
        writable: Some(replica.writable),
        status: Some(match replica.status {
            ReplicaStatus::Pending => 1,
            ReplicaStatus::Init => 2,
            ReplicaStatus::SyncData => 3,
            ReplicaStatus::Ready => 4,
            ReplicaStatus::Active => 5,
            ReplicaStatus::Unbinding => 6,
            ReplicaStatus::Unbound => 7,
        }),
        status_timestamp: replica.status_millis,
        table_id: replica.table_id.as_deref().map(copied),
        table_hash_key: replica.number,
        endpoint: replica.endpoint.as_deref().map(copied),
        stage: replica.stage.map(|stage| match stage {
            SyncStage::Init => 1,
            SyncStage::Full => 2,
            SyncStage::Incremental => 3,
        }),
        meta_version: None,
        is_failed: Some(replica.failed),
        message: replica.message.as_deref().map(copied),
        role: replica.role.as_deref().map(copied),
        rpo_nanos: replica.rpo_nanos,
    }
}
