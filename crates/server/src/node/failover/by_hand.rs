//! Failover as people see it and ask for it: who is suspended, which tables nobody writes, what
//! would be lost, and a person's word where the table waits for one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use isthmus_control::agreed::{Command, How, Outcome, Tenure};
use isthmus_model::ids::TableId;
use isthmus_protocol::error_code::ErrorCode;
use prost::Message;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::super::Node;
use super::{Trouble, lease_clock};
use crate::api_error::ApiError;
use crate::peer::call::{Probe, Probed, Question};
use crate::registry::ProposeError;
use crate::together::{Piece, together};

/// How long voters are asked which commands they know.
const VOTERS_WITHIN: Duration = Duration::from_secs(2);
/// From this on voters know that a person accepts a loss.
const COMMANDS_OF_LOSS: u32 = 1;

/// How far a region is that is to write a table after a failover, as it tells itself.
#[derive(Default, Serialize, Deserialize)]
pub(in crate::node) struct Beginning {
    /// The epoch of its log, if all is in it that was prepared before.
    gathered: Option<u64>,
    /// What was prepared in it may be lacking, so that one more must tell.
    may_lack: bool,
    /// Writes that are prepared in it.
    prepared: usize,
    /// The table is written synchronously.
    sync: bool,
    /// Replicas that have not told what they have prepared, if it waits for them.
    silent: Option<BTreeSet<String>>,
    /// Regions that it reaches.
    reaches: BTreeSet<String>,
}

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
    pub async fn fail_over(self: &Arc<Self>, body: &[u8]) -> Result<Json, ApiError> {
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
                let there = match accept_loss || dry_run {
                    true => self.beginning_in(&to, TableId(*id)).await,
                    false => Ok(None),
                };
                // Only that region knows what it waits for.
                let there = if accept_loss { there? } else { there.ok().flatten() };
                let epoch = epoch_to_decide(tenure, (&to, accept_loss), there.as_ref())?;
                if accept_loss {
                    self.check_voters_know_losses().await?;
                }
                if dry_run {
                    return Ok(self.loss_json(*id, tenure, &to, there.as_ref()));
                }
                let (table, region) = (*id, to);
                let accepted = Command::AcceptLoss {
                    table,
                    epoch,
                    region: region.clone(),
                    who: who.clone(),
                    at_millis,
                };
                let decided = Command::Decide { table, epoch, region, who, at_millis };
                if tenure.vacant.is_some() {
                    self.propose_by_hand(decided).await?;
                }
                if !accept_loss {
                    return Ok(json!({ "done": true }));
                }
                accepted
            }
        };
        self.propose_by_hand(command).await.map(|()| json!({ "done": true }))
    }

    /// How far this region is with a table; `None`: it has no replica.
    pub(in super::super) fn beginning_of(&self, id: TableId) -> Option<Beginning> {
        let table = self.store.table(id)?;
        let record = self.record(id)?.table;
        let epoch = table.writer_word().epoch.0;
        let reached = self.others().keys().filter(|region| self.is_reached(region));
        Some(Beginning {
            gathered: self.has_gathered(&table, &record).then_some(epoch),
            may_lack: self.may_lack_prepared(&table),
            prepared: table.prepared_count(),
            sync: record.sync_commit().is_some(),
            silent: self.silent_of(&table),
            reaches: reached.cloned().collect(),
        })
    }

    async fn beginning_in(
        self: &Arc<Self>,
        region: &str,
        table: TableId,
    ) -> Result<Option<Beginning>, ApiError> {
        if *region == self.config.region.name {
            return Ok(self.beginning_of(table));
        }
        let told = self.ask_beginning(region, table).await.map_err(|error| {
            let why = error.message;
            ApiError::new(
                ErrorCode::ServerUnavailable,
                format!(
                    "Nothing was done. Region {region} is to write the table, and has not told \
                     what it waits for: {why}"
                ),
            )
        })?;
        serde_json::from_slice(&told).map_err(|_| ApiError::internal())
    }

    /// An error: a voter is reached that would take it for something else that a loss is accepted.
    async fn check_voters_know_losses(&self) -> Result<(), ApiError> {
        let Some(quorum) = self.quorum() else { return Ok(()) };
        let own = &self.config.region.name;
        let voters = quorum.standing().members.into_iter().map(|member| member.name);
        let asking = voters.filter(|voter| voter != own).map(|voter| -> Piece<'_, _> {
            Box::pin(async move {
                let probe = Question::Probe(Probe { sent_micros: 0, heard_micros_ago: None });
                let told = quorum.ask(&voter, probe, VOTERS_WITHIN).await;
                (voter, told)
            })
        });
        let asking: Vec<_> = asking.collect();
        let count = asking.len();
        let told = together(asking, count).await;
        match told.into_iter().find(|(_, told)| is_older(told)) {
            None => Ok(()),
            Some((voter, _)) => Err(ApiError::new(
                ErrorCode::ServerUnavailable,
                format!(
                    "Nothing was done. {voter} votes and runs a former version, which does not \
                     know that a loss can be accepted. Upgrade it first."
                ),
            )),
        }
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

    /// What may be lost if a region writes a table without those who are not heard.
    fn loss_json(&self, id: u64, tenure: &Tenure, to: &str, there: Option<&Beginning>) -> Json {
        let is_reached = |region: &str| {
            let from_there = there.map(|there| there.reaches.contains(region));
            let own = *region == self.config.region.name;
            region == to || from_there.unwrap_or_else(|| own || self.is_reached(region))
        };
        let known = self.registry().map(|registry| registry.known());
        let is_suspended =
            |region: &str| known.as_ref().is_some_and(|known| known.agreed.is_suspended(region));
        let forecast = Forecast::of(tenure, to, there, is_reached, is_suspended);
        // Not known in a region without a replica.
        let here = self.record(TableId(id)).map(|it| it.table.sync_commit().is_some());
        json!({
            "table": tenure.name,
            "to": to,
            "needed": forecast.needed,
            "heard": forecast.heard,
            "silent": forecast.silent,
            "awaited": forecast.awaited,
            "may_lose_answered": forecast.heard < forecast.needed || tenure.held_by == 0,
            "would_be_lost_entries": forecast.lost,
            "sync": there.map(|there| there.sync).or(here),
            "prepared": there.map(|there| there.prepared),
        })
    }

    fn check_region(&self, region: &str) -> Result<(), ApiError> {
        match region == self.config.region.name || self.is_member(region) {
            true => Ok(()),
            false => Err(ApiError::invalid(format!("Region {region} is not configured."))),
        }
    }
}

/// Whether a voter has answered as one of a former version does. No answer says nothing: such a
/// voter takes nothing more before it knows the command.
fn is_older(told: &Result<Option<Bytes>, String>) -> bool {
    match told {
        Err(_) => false,
        Ok(None) => true,
        Ok(Some(told)) => {
            Probed::decode(told.clone()).map_or(true, |told| told.commands < COMMANDS_OF_LOSS)
        }
    }
}

/// The epoch of which a person says who writes in it. `there`: what the region tells that is to.
fn epoch_to_decide(
    tenure: &Tenure,
    (to, accepts_loss): (&str, bool),
    there: Option<&Beginning>,
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
    match there.and_then(|there| there.gathered) == Some(tenure.epoch) {
        true => Err(ApiError::invalid(format!(
            "Region {to} writes the table and waits for no word of what was prepared before: there \
             is no loss to accept. If writes wait, see what its mode asks for (`isthmus status`)."
        ))),
        false => Ok(tenure.epoch),
    }
}

/// What may be lost.
struct Forecast {
    /// So many replicas must have told what they have.
    needed: usize,
    heard: usize,
    /// The others.
    silent: Vec<String>,
    /// Those of them that are reached: they are waited for.
    awaited: Vec<String>,
    /// Entries that others have told of and the region lacks.
    lost: Option<u64>,
}

impl Forecast {
    fn of(
        tenure: &Tenure,
        to: &str,
        there: Option<&Beginning>,
        is_reached: impl Fn(&str) -> bool,
        is_suspended: impl Fn(&str) -> bool,
    ) -> Forecast {
        let claims = tenure.vacant.as_ref().map(|vacancy| &vacancy.claims);
        let told = there.and_then(|there| there.silent.as_ref());
        let is_heard = |region: &str| match (claims, told) {
            (Some(claims), _) => claims.contains_key(region),
            (None, Some(silent)) => !silent.contains(region),
            (None, None) => is_reached(region),
        };
        let silent: Vec<String> =
            tenure.replicas.iter().filter(|one| !is_heard(one)).cloned().collect();
        let awaited = silent.iter().filter(|one| is_reached(one) && !is_suspended(one));
        let awaited = awaited.cloned().collect();
        let claim = claims.and_then(|claims| claims.get(to));
        let known_end = claims.into_iter().flatten().map(|(_, claim)| claim.known_end).max();
        let lost = claim.zip(known_end).map(|(claim, end)| end.saturating_sub(claim.lsn));
        let may_lack = there.is_some_and(|there| there.may_lack);
        let needed = tenure.claims_needed() + usize::from(may_lack);
        Forecast { needed, heard: tenure.replicas.len() - silent.len(), silent, awaited, lost }
    }
}

fn no_quorum() -> ApiError {
    ApiError::new(
        ErrorCode::ServerUnavailable,
        "This region has no quorum with others, so failover is by hand: see `[quorum]` in the \
         operating guide.",
    )
}

#[cfg(test)]
mod tests {
    use isthmus_control::agreed::Opening;

    use super::*;

    /// Three replicas, of which the second was granted epoch 4.
    fn granted() -> Tenure {
        let opening = Opening {
            epoch: 4,
            writer: "r2".to_owned(),
            after: 9,
            log_epoch: 3,
            how: How::Failover,
            accepts_loss: false,
        };
        Tenure {
            name: "t".to_owned(),
            epoch: 4,
            writer: "r2".to_owned(),
            vacant: None,
            replicas: ["r1", "r2", "r3"].map(str::to_owned).to_vec(),
            held_by: 1,
            automatic: true,
            version: 1,
            history: vec![opening],
        }
    }

    #[test]
    fn there_is_a_loss_to_accept_until_the_writer_itself_says_otherwise() {
        let decide = |there: Option<&Beginning>| {
            epoch_to_decide(&granted(), ("r2", true), there).map_err(|error| error.message)
        };
        let gathered = |gathered| Beginning { gathered, ..Beginning::default() };
        assert_eq!(decide(Some(&gathered(None))), Ok(4));
        assert_eq!(decide(Some(&gathered(Some(3)))), Ok(4), "it has not opened its epoch");
        assert!(decide(Some(&gathered(Some(4)))).unwrap_err().contains("no loss to accept"));
        assert!(epoch_to_decide(&granted(), ("r3", true), None).is_err());
        assert!(epoch_to_decide(&granted(), ("r2", false), None).is_err());
    }

    #[test]
    fn who_is_there_and_has_not_told_is_named_as_awaited() {
        let forecast = |there: Option<&Beginning>| {
            Forecast::of(&granted(), "r2", there, |region| region != "r1", |_| false)
        };
        let there = Beginning {
            may_lack: true,
            silent: Some(["r1", "r3"].map(str::to_owned).into()),
            ..Beginning::default()
        };
        let told = forecast(Some(&there));
        assert_eq!((told.heard, told.needed), (1, 3), "one more than else, as it may lack some");
        assert_eq!(
            (told.silent, told.awaited),
            (vec!["r1".to_owned(), "r3".to_owned()], vec!["r3".to_owned()],)
        );
        let reached = forecast(None);
        assert_eq!((reached.heard, reached.needed), (2, 2));
        assert!(reached.awaited.is_empty());
        let all = |_: &str| true;
        assert!(Forecast::of(&granted(), "r2", Some(&there), all, all).awaited.is_empty());
    }

    #[test]
    fn a_voter_that_answers_and_does_not_know_losses_is_older() {
        let probed = |commands| {
            Ok(Some(Bytes::from(Probed { commands, ..Probed::default() }.encode_to_vec())))
        };
        assert!(is_older(&Ok(None)) && is_older(&probed(0)));
        assert!(!is_older(&probed(COMMANDS_OF_LOSS)));
        assert!(!is_older(&probed(crate::peer::call::COMMANDS)));
        assert!(!is_older(&Err("it is away".to_owned())));
    }
}
