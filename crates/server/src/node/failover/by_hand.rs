//! Failover as people see it and ask for it: who is suspended, which tables nobody writes, what
//! would be lost, and a person's word where the table waits for one.

use isthmus_control::agreed::{Command, Outcome, Tenure};
use isthmus_model::ids::TableId;
use isthmus_protocol::error_code::ErrorCode;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::super::Node;
use super::{Trouble, lease_clock};
use crate::api_error::ApiError;
use crate::registry::ProposeError;

/// What a person asks for.
#[derive(Deserialize)]
#[serde(tag = "failover", rename_all = "kebab-case", deny_unknown_fields)]
enum Asked {
    /// Takes a region out, whoever holds it to be alive: other regions write its tables.
    Suspend { region: String, who: String, why: String },
    /// Lets it come back.
    Release { region: String, who: String },
    /// Says who writes a table that nobody writes.
    Decide { table: String, to: String, who: String },
}

impl Node {
    /// How the quorum, leases and tables stand.
    pub fn failover_json(&self) -> Result<Json, ApiError> {
        let registry = self.registry().ok_or_else(no_quorum)?;
        let known = registry.known();
        let agreed = &known.agreed;
        let now = lease_clock();
        let tables = agreed.tables.iter().map(|(id, tenure)| self.tenure_json(*id, tenure));
        let regions = agreed.regions.iter().map(|(name, standing)| {
            json!({
                "region": name,
                "suspended": standing.suspended,
                "by_hand": standing.by_hand,
                "suspected_by": standing.suspicions,
                "renewal": standing.renewal,
            })
        });
        Ok(json!({
            "region": self.config.region.name,
            "index": known.index,
            "leased": self.is_leased(),
            "lease_left_ms": self.failover.lease.lock().valid_until().map(|until| {
                until.saturating_sub(now).as_millis() as u64
            }),
            "regions": regions.collect::<Vec<_>>(),
            "tables": tables.collect::<Vec<_>>(),
            "audit": agreed.audit,
        }))
    }

    fn tenure_json(&self, id: u64, tenure: &Tenure) -> Json {
        let lost = self.lost_by(TableId(id), tenure);
        json!({
            "table": tenure.name,
            "id": id,
            "epoch": tenure.epoch,
            "writer": tenure.writer,
            "replicas": tenure.replicas,
            "held_by": tenure.held_by,
            "automatic": tenure.automatic,
            "claims_needed": tenure.claims_needed(),
            "vacant": tenure.vacant,
            "openings": tenure.history,
            "would_be_lost_entries": lost,
        })
    }

    /// Entries of the region that writes of which it has told and that nobody who was heard has;
    /// absent where this region cannot tell.
    fn lost_by(&self, id: TableId, tenure: &Tenure) -> Option<u64> {
        let table = self.store.table(id)?;
        let end = self.end_told_by(id, &table, &tenure.writer);
        let best = match tenure.best_claim() {
            Some((_, claim)) => claim.lsn,
            None => table.durable_lsn().0,
        };
        Some(end.0.saturating_sub(best))
    }

    /// Does what a person asks for. `body` is its JSON.
    pub async fn fail_over(&self, body: &[u8]) -> Result<Json, ApiError> {
        self.registry().ok_or_else(no_quorum)?;
        let asked: Asked = serde_json::from_slice(body)
            .map_err(|error| ApiError::invalid(format!("The request cannot be read: {error}.")))?;
        let at_millis = self.now_millis();
        let command = match asked {
            Asked::Suspend { region, who, why } => {
                self.check_region(&region)?;
                Command::SuspendByHand { region, who, why, at_millis }
            }
            Asked::Release { region, who } => {
                self.check_region(&region)?;
                Command::Release { region, who, at_millis }
            }
            Asked::Decide { table, to, who } => {
                self.check_region(&to)?;
                let known = self.registry().ok_or_else(no_quorum)?.known();
                let mut tables = known.agreed.tables.iter();
                let found = tables.find(|(_, tenure)| tenure.name == table);
                let (id, tenure) =
                    found.ok_or_else(super::super::global_tables::no_global_table)?;
                let vacancy = tenure.vacant.as_ref().ok_or_else(|| {
                    ApiError::invalid(format!(
                        "Region {} writes the table. Use a switchover to let another one write.",
                        tenure.writer
                    ))
                })?;
                Command::Decide { table: *id, epoch: vacancy.epoch, region: to, who, at_millis }
            }
        };
        match self.propose(command).await {
            Ok(Outcome::Done | Outcome::Granted { .. } | Outcome::Refused(_)) => {
                Ok(json!({ "done": true }))
            }
            Err(Trouble::Refused(why)) => Err(ApiError::new(
                ErrorCode::OperationConflict,
                format!("Nothing was done: {why}."),
            )),
            Err(Trouble::Propose(ProposeError::Unknown)) => Err(ApiError::new(
                ErrorCode::Timeout,
                "The voters have not answered in time. Whether it was done is not known.",
            )),
            Err(error) => Err(ApiError::new(
                ErrorCode::ServerUnavailable,
                format!("Nothing was done: {error}."),
            )),
        }
    }

    fn check_region(&self, region: &str) -> Result<(), ApiError> {
        match region == self.config.region.name || self.is_member(region) {
            true => Ok(()),
            false => Err(ApiError::invalid(format!("Region {region} is not configured."))),
        }
    }
}

fn no_quorum() -> ApiError {
    ApiError::new(
        ErrorCode::ServerUnavailable,
        "This region has no quorum with others, so failover is by hand: see `[quorum]` in the \
         operating guide.",
    )
}
