//! The five operations on global tables.
//!
//! The base region decides; any other region passes the operation on to it. So every region can
//! be asked, and the record has one author.

use bytes::Bytes;
use isthmus_control::global_table::{ControlError, GlobalTable, Progress, Serve, Sync};
use isthmus_model::ids::TableId;
use isthmus_protocol::error_code::ErrorCode;
use isthmus_protocol::request::{
    BindGlobalTable, CreateGlobalTable, DescribeGlobalTable, Operation, Placement, ServeMode,
    SyncMode, TablePlace, UnbindGlobalTable, UpdateGlobalTable, decode_passed_on,
};
use isthmus_protocol::response::{
    GlobalTableDescription, GlobalTableStatus, ReplicaDescription, ReplicaStatus, SyncStage,
    encode_describe_global_table, encode_empty, encode_global_table,
};
use isthmus_replication::ship::LinkReport;
use isthmus_store::Writing;

use super::change::CHANGE_TIMEOUT;
use super::schema::check_rules_of_rows;
use super::{Node, Record, writers};
use crate::api_error::ApiError;
use crate::peer::call::{Forward, Question};

impl Node {
    /// Does an operation on a global table here or where its base is.
    ///
    /// `body` is the request as the client sent it, to pass it on.
    pub async fn global_table(
        &self,
        operation: &Operation,
        body: &Bytes,
    ) -> Result<Bytes, ApiError> {
        let base = match operation {
            Operation::CreateGlobalTable(create) => create.base.region.clone(),
            _ => self.base_of(operation),
        };
        if base == self.config.region.name {
            return self.decide(operation).await;
        }
        if self.is_member(&base) {
            return self.pass_on(&base, operation, body).await;
        }
        if !base.is_empty() {
            return Err(ApiError::invalid(format!("Region {base} is not configured.")));
        }
        // It has no replica here: whoever has one knows its base.
        for region in self.others.keys() {
            match self.pass_on(region, operation, body).await {
                Err(error)
                    if matches!(
                        error.code,
                        ErrorCode::ObjectNotExist | ErrorCode::ServerUnavailable
                    ) => {}
                answer => return answer,
            }
        }
        Err(no_global_table())
    }

    /// Does an operation that another region passed on.
    pub(super) async fn on_forward(&self, path: &str, body: Bytes) -> Result<Bytes, ApiError> {
        let operation = decode_passed_on(path, body.clone())?;
        let base = match &operation {
            Operation::CreateGlobalTable(create) => create.base.region.clone(),
            Operation::BindGlobalTable(_)
            | Operation::UnbindGlobalTable(_)
            | Operation::DescribeGlobalTable(_)
            | Operation::UpdateGlobalTable(_) => self.base_of(&operation),
            _ => return Err(ApiError::invalid("This operation is not passed on.")),
        };
        if base == self.config.region.name {
            return self.decide(&operation).await;
        }
        // One step further where the base is known; never in circles, since the base decides.
        if self.is_member(&base) {
            return self.pass_on(&base, &operation, &body).await;
        }
        Err(no_global_table())
    }

    async fn pass_on(
        &self,
        region: &str,
        operation: &Operation,
        body: &Bytes,
    ) -> Result<Bytes, ApiError> {
        let forward = Forward { path: operation.path().to_owned(), body: body.clone() };
        if matches!(operation, Operation::DescribeGlobalTable(_)) {
            return self.ask_in_time(region, Question::Forward(forward), CHANGE_TIMEOUT).await;
        }
        self.pass_change_on(region, Question::Forward(forward)).await
    }

    /// The base region of the global table that the operation names; empty where not known here.
    fn base_of(&self, operation: &Operation) -> String {
        self.named(operation).map(|(_, record)| record.table.base).unwrap_or_default()
    }

    fn named(&self, operation: &Operation) -> Option<(TableId, Record)> {
        let (id, name, replica) = match operation {
            Operation::BindGlobalTable(bind) => (Some(&bind.id), &bind.name, None),
            Operation::UnbindGlobalTable(unbind) => (Some(&unbind.id), &unbind.name, None),
            Operation::DescribeGlobalTable(describe) => {
                (describe.id.as_ref(), &describe.name, describe.replica.as_ref())
            }
            Operation::UpdateGlobalTable(update) => (Some(&update.id), &update.name, None),
            _ => return None,
        };
        let holds = |record: &Record, place: &TablePlace| {
            record.table.name == place.table && record.table.replica(&place.region).is_some()
        };
        let records = self.records.lock();
        let found = records.iter().filter(|(_, record)| match (id, replica) {
            (Some(id), _) if !id.is_empty() => record.table.id == *id && record.table.name == *name,
            (_, Some(place)) => holds(record, place),
            _ => record.table.name == *name,
        });
        self.not_dropped_first(found)
    }

    async fn decide(&self, operation: &Operation) -> Result<Bytes, ApiError> {
        if let Operation::DescribeGlobalTable(describe) = operation {
            return self.describe(operation, describe);
        }
        let one_at_a_time = self.changing.lock().await;
        // One that is dropped can be shown and left, and nothing else.
        let stays =
            matches!(operation, Operation::BindGlobalTable(_) | Operation::UpdateGlobalTable(_));
        if stays && self.named(operation).is_some_and(|(id, _)| self.is_dropped(id)) {
            return Err(no_global_table());
        }
        if let Operation::UpdateGlobalTable(update) = operation {
            let successor = self.update(operation, update).await?;
            drop(one_at_a_time);
            if let Some(successor) = successor {
                self.switch_over(&update.name, &successor).await?;
            }
            return Ok(encode_empty());
        }
        match operation {
            Operation::CreateGlobalTable(create) => self.create(create).await,
            Operation::BindGlobalTable(bind) => self.bind(operation, bind).await,
            Operation::UnbindGlobalTable(unbind) => self.unbind(operation, unbind).await,
            _ => Err(ApiError::invalid("This is no operation on a global table.")),
        }
    }

    async fn create(&self, create: &CreateGlobalTable) -> Result<Bytes, ApiError> {
        self.check_place(&create.base.region, &create.base.instance)?;
        let held = self.table_named(&create.base.table)?;
        let id = held.id();
        if self.record(id).is_some() {
            return Err(ApiError::new(
                ErrorCode::ObjectAlreadyExist,
                "Requested table is a global table already.",
            ));
        }
        let sync = match create.sync_mode {
            SyncMode::Row => Sync::Row,
            SyncMode::Column => Sync::Column,
        };
        if sync == Sync::Row {
            check_rules_of_rows(&held.schema())?;
        }
        let serve = match create.serve_mode {
            None | Some(ServeMode::PrimarySecondary) => Serve::PrimarySecondary,
            Some(ServeMode::PeerToPeer) => Serve::PeerToPeer,
        };
        let own = &self.config.region.name;
        let mut table = GlobalTable::new(&create.base.table, id.0, own, sync, serve);
        // Its log goes on where an earlier global table of it has ended.
        table.epoch = held.epoch().0;
        table.line = self.line_of(&held).map(|line| line.0).filter(|line| *line != id.0);
        let placements: Vec<&Placement> =
            create.placements.iter().filter(|place| place.region != *own).collect();
        if placements.is_empty() {
            return Err(ApiError::invalid("A global table needs a placement in another region."));
        }
        let table = self.with_placements(table, &placements)?;
        self.store.set_writing(id, Writing::Accept, writers(&table), held.epoch()).await?;
        let answer = encode_global_table(
            &table.id,
            GlobalTableStatus::Reconfiguring,
            Some(serve_mode(table.serve)),
        );
        self.save(id, Record { table, ready: true }).await?;
        self.follow_line_of_record(id);
        self.forget_line(id).await?;
        Ok(answer)
    }

    async fn bind(&self, operation: &Operation, bind: &BindGlobalTable) -> Result<Bytes, ApiError> {
        let (id, record) = self.named(operation).ok_or_else(no_global_table)?;
        let placements: Vec<&Placement> = bind.placements.iter().collect();
        if placements.is_empty() {
            return Err(ApiError::invalid("No placement is given."));
        }
        let table = self.with_placements(record.table, &placements)?;
        let answer = encode_global_table(&table.id, GlobalTableStatus::Reconfiguring, None);
        self.save(id, Record { table, ready: record.ready }).await?;
        Ok(answer)
    }

    async fn unbind(
        &self,
        operation: &Operation,
        unbind: &UnbindGlobalTable,
    ) -> Result<Bytes, ApiError> {
        let (id, mut record) = self.named(operation).ok_or_else(no_global_table)?;
        let now = self.clock.wall_millis();
        for removal in &unbind.removals {
            self.check_place(&removal.region, &removal.instance)?;
            record.table.unbind(&removal.region, now)?;
        }
        let regions: Vec<&str> = unbind.removals.iter().map(|one| one.region.as_str()).collect();
        let _no_switchover = self.check_may_go(id, &record, &regions)?;
        let answer = encode_global_table(&record.table.id, GlobalTableStatus::Reconfiguring, None);
        self.save(id, record).await?;
        Ok(answer)
    }

    /// Changes what the record says of one replica. Returns the region that is to write from now
    /// on, where that is another one.
    async fn update(
        &self,
        operation: &Operation,
        update: &UpdateGlobalTable,
    ) -> Result<Option<String>, ApiError> {
        let (id, mut record) = self.named(operation).ok_or_else(no_global_table)?;
        let Some(change) = &update.replica else {
            return Err(ApiError::invalid("No replica is given."));
        };
        self.check_place(&change.place.region, &change.place.instance)?;
        let region = &change.place.region;
        if record.table.serve == Serve::PrimarySecondary {
            let eligible = change.primary_eligible;
            let successor = record.table.ask_of_replica(region, change.writable, eligible)?;
            if let Some(successor) = &successor {
                record.table.check_successor(successor)?;
            }
            self.save(id, record).await?;
            return Ok(successor);
        }
        if change.primary_eligible == Some(true) {
            return Err(ControlError::SeveralWriters.into());
        }
        if let Some(writable) = change.writable {
            record.table.set_writable(region, writable)?;
        }
        let writing = self.writing_of(&record.table);
        let epoch = self.store.table(id).ok_or_else(ApiError::no_table)?.epoch();
        self.store.set_writing(id, writing, writers(&record.table), epoch).await?;
        self.save(id, record).await?;
        Ok(None)
    }

    fn describe(
        &self,
        operation: &Operation,
        describe: &DescribeGlobalTable,
    ) -> Result<Bytes, ApiError> {
        let (id, record) = self.named(operation).ok_or_else(no_global_table)?;
        let table = &record.table;
        let replicas = table
            .replicas
            .iter()
            .map(|replica| self.describe_replica(id, table, &replica.region, describe.return_rpo));
        Ok(encode_describe_global_table(&GlobalTableDescription {
            id: table.id.clone(),
            status: match table.is_active() {
                true => GlobalTableStatus::Active,
                false => GlobalTableStatus::Reconfiguring,
            },
            serve_mode: Some(serve_mode(table.serve)),
            replicas: replicas.collect(),
        }))
    }

    fn describe_replica(
        &self,
        id: TableId,
        table: &GlobalTable,
        region: &str,
        with_rpo: bool,
    ) -> ReplicaDescription {
        let replica = table.replica(region);
        let progress = replica.map_or(Progress::Pending, |replica| replica.progress);
        let speaks = region == table.speaker();
        let report = self.link_report(id, region);
        let now = self.clock.wall_millis();
        let rpo_millis = match (&report, speaks) {
            (_, true) => Some(now),
            (Some(report), _) => holds_until_millis(report, now),
            (None, _) if region == self.config.region.name => self.holds_until(id, table),
            (None, _) => self.far_replica_holds_until(id, region),
        };
        ReplicaDescription {
            region: region.to_owned(),
            instance: self.config.instance_of(region).unwrap_or_default().to_owned(),
            table: table.name.clone(),
            writable: table.writes(region),
            status: match progress {
                Progress::Pending => ReplicaStatus::Pending,
                Progress::Assigned => ReplicaStatus::Init,
                Progress::Copying => ReplicaStatus::SyncData,
                Progress::Active => ReplicaStatus::Active,
                Progress::Unbinding => ReplicaStatus::Unbinding,
                Progress::Dropped => ReplicaStatus::Unbound,
            },
            status_millis: replica.map(|replica| replica.since_millis),
            table_id: Some(format!("{:016x}", id.0)),
            number: self.number_of(region).map(|number| i32::from(number.0)),
            endpoint: self.endpoint_of(region),
            stage: Some(match progress {
                Progress::Pending | Progress::Assigned => SyncStage::Init,
                Progress::Copying => SyncStage::Full,
                Progress::Active | Progress::Unbinding | Progress::Dropped => {
                    SyncStage::Incremental
                }
            }),
            failed: false,
            message: replica.and_then(|replica| match replica.steps_down {
                true => Some(STEPS_DOWN.to_owned()),
                false => replica.message.clone(),
            }),
            role: Some(match (table.serve, speaks) {
                (Serve::PeerToPeer, _) => "peer".to_owned(),
                (Serve::PrimarySecondary, true) => "primary".to_owned(),
                (Serve::PrimarySecondary, false) => "secondary".to_owned(),
            }),
            rpo_nanos: with_rpo.then_some(rpo_millis).flatten().map(|millis| millis * 1_000_000),
        }
    }

    fn link_report(&self, id: TableId, region: &str) -> Option<LinkReport> {
        self.others.get(region)?.links().report(self.partition_of(id)?)
    }

    fn with_placements(
        &self,
        mut table: GlobalTable,
        placements: &[&Placement],
    ) -> Result<GlobalTable, ApiError> {
        let now = self.clock.wall_millis();
        for place in placements {
            self.check_place(&place.region, &place.instance)?;
            if table.serve == Serve::PrimarySecondary {
                self.check_format(&place.region, table.epoch)?;
            }
            table = table.with_replica(&place.region, place.writable, now)?;
        }
        Ok(table)
    }

    fn check_place(&self, region: &str, instance: &str) -> Result<(), ApiError> {
        match self.config.instance_of(region) {
            None => Err(ApiError::invalid(format!("Region {region} is not configured."))),
            Some(known) if known != instance => {
                Err(ApiError::invalid(format!("Region {region} serves instance {known}.")))
            }
            Some(_) => Ok(()),
        }
    }
}

const STEPS_DOWN: &str = "It writes until another replica is made writable.";

/// Up to when a replica holds everything.
fn holds_until_millis(report: &LinkReport, now: i64) -> Option<i64> {
    match (report.acked, report.oldest_millis) {
        (Some(acked), _) if acked >= report.appended => Some(now),
        (Some(_), Some(oldest)) => Some(oldest),
        _ => None,
    }
}

fn serve_mode(serve: Serve) -> ServeMode {
    match serve {
        Serve::PrimarySecondary => ServeMode::PrimarySecondary,
        Serve::PeerToPeer => ServeMode::PeerToPeer,
    }
}

pub(super) fn no_global_table() -> ApiError {
    ApiError::new(ErrorCode::ObjectNotExist, "Requested global table does not exist.")
}
