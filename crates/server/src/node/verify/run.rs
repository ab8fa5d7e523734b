//! Checks what a job is to do against what is here, and runs it on its thread.

use std::sync::Arc;

use isthmus_model::schema::Schema;
use isthmus_protocol::error_code::ErrorCode;
use isthmus_store::Table;
use serde_json::Value as Json;

use super::place::Place;
use super::report::Names;
use crate::api_error::ApiError;
use crate::node::Node;
use crate::node::jobs::control::Control;
use crate::node::jobs::spec::{RepairMode, Spec};
use crate::node::jobs::state::Outcome;

/// A job that works on one table.
pub(super) struct Work<'a> {
    pub(super) node: &'a Arc<Node>,
    pub(super) id: u64,
    pub(super) control: &'a Control,
    pub(super) table: Arc<Table>,
    pub(super) schema: Arc<Schema>,
}

impl Work<'_> {
    pub(super) fn names(&self) -> Names<'_> {
        Names { config: &self.node.config, schema: &self.schema }
    }

    pub(super) fn place(&self, region: &str) -> Result<Place, ApiError> {
        Place::named(self.node, region)
    }
}

impl Node {
    /// Whether a job makes sense here.
    pub(crate) fn check_spec(&self, spec: &Spec) -> Result<(), ApiError> {
        match spec {
            Spec::Verify(spec) => {
                let table = self.known_table(&spec.table)?;
                spec.regions.iter().try_for_each(|region| self.check_whole(&table, region))?;
                match &spec.resume {
                    None => Ok(()),
                    Some(key) => super::key_of_json(&table.schema(), key)
                        .map(|_| ())
                        .map_err(|error| ApiError::invalid(format!("resume: {error}."))),
                }
            }
            Spec::Repair(spec) => {
                let table = self.known_table(&spec.table)?;
                self.check_whole(&table, &spec.from)?;
                self.check_whole(&table, &spec.to)?;
                if spec.mode == RepairMode::Merge && !table.spec().writers.are_many() {
                    return Err(ApiError::invalid(format!(
                        "Only one region writes table {}, there is nothing to merge: use mode \
                         one-way.",
                        spec.table
                    )));
                }
                Ok(())
            }
            Spec::Scrub(spec) => {
                let region = spec.region.as_deref().unwrap_or(&self.config.region.name);
                if region != self.config.region.name && !self.is_member(region) {
                    return Err(self.unknown_region(region));
                }
                let Some(name) = &spec.table else { return Ok(()) };
                let table = self.known_table(name)?;
                match region == self.config.region.name {
                    true => Ok(()),
                    false => self.check_replica(&table, region),
                }
            }
        }
    }

    pub(super) fn known_table(&self, name: &str) -> Result<Arc<Table>, ApiError> {
        self.store.table_by_name(name).ok_or_else(|| {
            let own = &self.config.region.name;
            let message =
                format!("There is no table {name} in region {own}; ask a region that has it.");
            ApiError::new(ErrorCode::ParameterInvalid, message)
        })
    }

    fn unknown_region(&self, region: &str) -> ApiError {
        let mut names = vec![self.config.region.name.as_str()];
        names.extend(self.others.keys().map(String::as_str));
        let message =
            format!("Region {region} is not configured here; there are {}.", names.join(", "));
        ApiError::invalid(message)
    }

    fn check_replica(&self, table: &Table, region: &str) -> Result<(), ApiError> {
        if region != self.config.region.name && !self.is_member(region) {
            return Err(self.unknown_region(region));
        }
        let name = table.name();
        let Some(record) = self.record(table.id()) else {
            return Err(ApiError::invalid(format!(
                "Table {} is in region {} only; there is nothing to compare it with.",
                name.as_str(),
                self.config.region.name
            )));
        };
        if record.table.replica(region).is_some() {
            return Ok(());
        }
        let replicas: Vec<&str> =
            record.table.replicas.iter().map(|replica| replica.region.as_str()).collect();
        Err(ApiError::invalid(format!(
            "Region {region} holds no replica of table {}; {} do.",
            name.as_str(),
            replicas.join(", ")
        )))
    }

    /// A replica that takes less than all has another digest than the others.
    fn check_whole(&self, table: &Table, region: &str) -> Result<(), ApiError> {
        self.check_replica(table, region)?;
        match self.record(table.id()).is_some_and(|record| record.table.takes_extract(region)) {
            false => Ok(()),
            true => Err(ApiError::invalid(format!(
                "Region {region} takes only a part of table {} (`isthmus global-table describe` \
                 tells which), so digests cannot be compared: export the part that it takes from \
                 another region and use `isthmus verify --against` that file in region {region}.",
                table.name().as_str()
            ))),
        }
    }

    /// Runs a job to its end, or until it is told to halt. Blocks.
    pub(crate) fn run_job(
        self: &Arc<Self>,
        id: u64,
        spec: &Spec,
        place: Option<Json>,
        control: &Control,
    ) -> Outcome {
        // Since it was started the table may have been dropped, or unbound from a region.
        let outcome = self.check_spec(spec).and_then(|()| match spec {
            Spec::Verify(spec) => self.work(id, &spec.table, control)?.verify(spec, place),
            Spec::Repair(spec) => self.work(id, &spec.table, control)?.repair(spec, place),
            Spec::Scrub(spec) => self.run_scrub(id, spec, place, control),
        });
        outcome.unwrap_or_else(|error| Outcome::Failed(error.message))
    }

    pub(super) fn work<'a>(
        self: &'a Arc<Self>,
        id: u64,
        table: &str,
        control: &'a Control,
    ) -> Result<Work<'a>, ApiError> {
        let table = self.known_table(table)?;
        let schema = table.schema();
        Ok(Work { node: self, id, control, table, schema })
    }
}
