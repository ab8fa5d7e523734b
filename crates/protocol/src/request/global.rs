//! Operations on global tables.

use bytes::Bytes;

use crate::error::ProtocolError;
use crate::messages;
use crate::request::fields::{Result, message, non_empty, required, required_string};
use crate::request::shape::Field;
use crate::request::{
    BindGlobalTable, CreateGlobalTable, DescribeGlobalTable, Placement, Removal, ReplicaChange,
    ServeMode, SyncMode, TablePlace, UnbindGlobalTable, UpdateGlobalTable,
};

/// Replicas that one request may name: there are no more regions than that.
const REPLICAS_MAX: usize = 255;

fn too_many_replicas(_: usize) -> ProtocolError {
    ProtocolError::invalid(format!("Replicas count exceeds the upper limit: {REPLICAS_MAX}."))
}

const CREATE: &[Field] =
    &[Field { number: 3, max: REPLICAS_MAX, over: too_many_replicas, inner: &[] }];
const BIND: &[Field] =
    &[Field { number: 4, max: REPLICAS_MAX, over: too_many_replicas, inner: &[] }];

pub(super) fn create(body: Bytes) -> Result<CreateGlobalTable> {
    let wire: messages::CreateGlobalTableRequest = message(body, CREATE)?;
    let base = required(wire.base_table)?;
    Ok(CreateGlobalTable {
        base: place(base.region_id, base.instance_name, base.table_name)?,
        placements: placements(wire.placements)?,
        sync_mode: match required(wire.sync_mode)? {
            1 => SyncMode::Row,
            2 => SyncMode::Column,
            _ => return Err(ProtocolError::Malformed("sync mode is unknown")),
        },
        serve_mode: wire.serve_mode.map(serve_mode).transpose()?,
    })
}

pub(super) fn bind(body: Bytes) -> Result<BindGlobalTable> {
    let wire: messages::BindGlobalTableRequest = message(body, BIND)?;
    Ok(BindGlobalTable {
        id: required_string(wire.global_table_id)?,
        name: required_string(wire.global_table_name)?,
        placements: placements(wire.placements)?,
    })
}

pub(super) fn unbind(body: Bytes) -> Result<UnbindGlobalTable> {
    let wire: messages::UnbindGlobalTableRequest = message(body, BIND)?;
    if wire.removals.is_empty() {
        return Err(ProtocolError::invalid("No removal is specified in UnbindGlobalTable."));
    }
    let removals = wire.removals.into_iter().map(|removal| {
        Ok(Removal {
            region: required_string(removal.region_id)?,
            instance: required_string(removal.instance_name)?,
        })
    });
    Ok(UnbindGlobalTable {
        id: required_string(wire.global_table_id)?,
        name: required_string(wire.global_table_name)?,
        removals: removals.collect::<Result<_>>()?,
    })
}

pub(super) fn describe(body: Bytes) -> Result<DescribeGlobalTable> {
    let wire: messages::DescribeGlobalTableRequest = message(body, &[])?;
    let replica = wire.phy_table.map(|replica| {
        required(replica.writable)?;
        place(replica.region_id, replica.instance_name, replica.table_name)
    });
    Ok(DescribeGlobalTable {
        id: non_empty(wire.global_table_id).map(|id| required_string(Some(id))).transpose()?,
        name: required_string(wire.global_table_name)?,
        replica: replica.transpose()?,
        return_rpo: wire.return_rpo.unwrap_or(false),
    })
}

pub(super) fn update(body: Bytes) -> Result<UpdateGlobalTable> {
    let wire: messages::UpdateGlobalTableRequest = message(body, &[])?;
    let replica = wire.phy_table.map(|replica| {
        Ok(ReplicaChange {
            place: place(replica.region_id, replica.instance_name, replica.table_name)?,
            writable: replica.writable,
            primary_eligible: replica.primary_eligible,
        })
    });
    Ok(UpdateGlobalTable {
        id: required_string(wire.global_table_id)?,
        name: required_string(wire.global_table_name)?,
        replica: replica.transpose()?,
    })
}

fn place(
    region: Option<Bytes>,
    instance: Option<Bytes>,
    table: Option<Bytes>,
) -> Result<TablePlace> {
    Ok(TablePlace {
        region: required_string(region)?,
        instance: required_string(instance)?,
        table: required_string(table)?,
    })
}

fn placements(wire: Vec<messages::Placement>) -> Result<Vec<Placement>> {
    let placements = wire.into_iter().map(|placement| {
        Ok(Placement {
            region: required_string(placement.region_id)?,
            instance: required_string(placement.instance_name)?,
            // Required, but with a default: an absent one is read as it.
            writable: placement.writable.unwrap_or(false),
        })
    });
    placements.collect()
}

fn serve_mode(number: i32) -> Result<ServeMode> {
    match number {
        2 => Ok(ServeMode::PrimarySecondary),
        3 => Ok(ServeMode::PeerToPeer),
        _ => Err(ProtocolError::Malformed("serve mode is unknown")),
    }
}
