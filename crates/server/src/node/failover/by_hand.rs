//! Failover as people see it and ask for it: who is suspended, which tables nobody writes, what
//! would be lost, and a person's word where the table waits for one.

use isthmus_control::agreed::{Command, How, Outcome, Tenure};
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
    Decide {
        table: String,
        to: String,
        who: String,
        /// It begins without what replicas that are gone may have prepared; also of a table that
        /// this region was granted and cannot begin to write.
        #[serde(default)]
        accept_loss: bool,
        /// Nothing is done; what may be lost is told.
        #[serde(default)]
        dry_run: bool,
    },
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
            Asked::Decide { table, to, who, accept_loss, dry_run } => {
                self.check_region(&to)?;
                let known = self.registry().ok_or_else(no_quorum)?.known();
                let mut tables = known.agreed.tables.iter();
                let found = tables.find(|(_, tenure)| tenure.name == table);
                let (id, tenure) =
                    found.ok_or_else(super::super::global_tables::no_global_table)?;
                let epoch = self.epoch_to_decide(*id, tenure, (&to, accept_loss))?;
                if dry_run {
                    return Ok(self.loss_json(*id, tenure, &to));
                }
                let (table, region) = (*id, to);
                Command::Decide { table, epoch, region, who, at_millis, accept_loss }
            }
        };
        self.propose_by_hand(command).await.map(|()| json!({ "done": true }))
    }

    /// Writes something that a person did into the audit; an error: it is not known to be there.
    pub(in super::super) async fn note_in_audit(&self, note: Command) -> Result<(), ApiError> {
        self.propose_by_hand(note).await
    }

    async fn propose_by_hand(&self, command: Command) -> Result<(), ApiError> {
        match self.propose(command).await {
            Ok(Outcome::Done | Outcome::Granted { .. } | Outcome::Refused(_)) => Ok(()),
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

    /// The epoch of which a person says who writes in it.
    fn epoch_to_decide(
        &self,
        id: u64,
        tenure: &Tenure,
        (to, accepts_loss): (&str, bool),
    ) -> Result<u64, ApiError> {
        if let Some(vacancy) = &tenure.vacant {
            return Ok(vacancy.epoch);
        }
        let newest = tenure.history.last();
        let is_granted = newest.is_some_and(|newest| newest.how == How::Failover);
        if tenure.writer != to || !accepts_loss || !is_granted {
            return Err(ApiError::invalid(format!(
                "Region {} writes the table. Use a switchover to let another one write.",
                tenure.writer
            )));
        }
        let held = self.store.table(TableId(id)).filter(|_| self.config.region.name == to);
        let record = self.record(TableId(id));
        let has_all = held.zip(record).is_some_and(|(held, record)| {
            held.writer_word().epoch.0 == tenure.epoch && self.has_gathered(&held, &record.table)
        });
        match has_all {
            true => Err(ApiError::invalid(format!(
                "Region {to} writes the table and waits for no word of what was prepared before: \
                 there is no loss to accept. If writes wait, see what its mode asks for \
                 (`isthmus status`)."
            ))),
            false => Ok(tenure.epoch),
        }
    }

    /// What may be lost if a region writes a table without those who are not heard.
    fn loss_json(&self, id: u64, tenure: &Tenure, to: &str) -> Json {
        let claims = tenure.vacant.as_ref().map(|vacancy| &vacancy.claims);
        let is_heard = |region: &String| match claims {
            Some(claims) => claims.contains_key(region),
            None => region == to || self.is_reached(region) || *region == self.config.region.name,
        };
        let silent: Vec<&String> = tenure.replicas.iter().filter(|one| !is_heard(one)).collect();
        let claim = claims.and_then(|claims| claims.get(to));
        let known_end = claims.into_iter().flatten().map(|(_, claim)| claim.known_end).max();
        let lost = claim.zip(known_end).map(|(claim, end)| end.saturating_sub(claim.lsn));
        let heard = tenure.replicas.len() - silent.len();
        let needed = tenure.claims_needed();
        let table = self.store.table(TableId(id));
        // Not known in a region without a replica.
        let is_sync = self.record(TableId(id)).map(|it| it.table.sync_commit().is_some());
        json!({
            "table": tenure.name,
            "to": to,
            "needed": needed,
            "heard": heard,
            "silent": silent,
            "may_lose_answered": heard < needed || tenure.held_by == 0,
            "would_be_lost_entries": lost,
            "sync": is_sync,
            "prepared_here": table.map(|table| table.prepared_count()),
        })
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
