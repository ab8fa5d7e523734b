//! Receipts of writes: what they name, whether a region has it, and waiting until it does.
//!
//! A region has a write when its replica has applied it durably. Each region answers for itself,
//! so it does not matter who feeds whom.

use std::time::Duration;

use isthmus_model::ids::Lsn;
use isthmus_protocol::error_code::ErrorCode;
use isthmus_protocol::receipt::{Mark, Receipt};
use isthmus_store::Table;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use tokio::task::JoinSet;

use super::Node;
use crate::api_error::ApiError;
use crate::peer::CALL_TIMEOUT;
use crate::peer::call::{Holds, Question};

/// How long a read waits for a write that its region does not have yet.
const READ_PATIENCE: Duration = Duration::from_secs(2);
/// How long one question to another region lets it wait.
const ASKED_WAIT: Duration = Duration::from_secs(2);
/// Before a region is asked again that did not answer.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// The longest wait that can be asked for.
const WAIT_MAX: Duration = Duration::from_secs(600);
const REGIONS_MAX: usize = 16;

/// What is asked over the administration port.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WaitAsked {
    receipt: String,
    /// None: all regions of the tables that the receipt names.
    #[serde(default)]
    regions: Vec<String>,
    #[serde(default = "wait_ms")]
    timeout_ms: u64,
}

fn wait_ms() -> u64 {
    5_000
}

/// How one region stands to a receipt.
#[derive(Serialize)]
struct Standing {
    region: String,
    held: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl Node {
    /// Adds a write of this region to a receipt.
    pub fn note_receipt(&self, receipt: &mut Receipt, table: &Table, lsn: Lsn) {
        receipt.add(Mark {
            table: table.id(),
            partition: table.partition(),
            origin: self.shared.origin(),
            epoch: table.epoch(),
            lsn,
        });
    }

    /// A receipt of all that this region has written of a table by now.
    pub fn receipt_json(&self, name: &str) -> Result<Json, ApiError> {
        let table = self.table_named(name)?;
        let mut receipt = Receipt::default();
        self.note_receipt(&mut receipt, &table, table.durable_lsn());
        Ok(json!({ "receipt": receipt.to_text() }))
    }

    /// Waits until a table here has what a receipt names of it, for as long as a read may wait.
    pub async fn read_after(&self, table: &Table, receipt: &Receipt) -> Result<(), ApiError> {
        let marks = receipt.marks().iter().filter(|mark| mark.table == table.id());
        let marks: Vec<&Mark> = marks.collect();
        if marks.is_empty() {
            return Err(ApiError::invalid("The receipt names no write of this table."));
        }
        let has_all = || marks.iter().all(|mark| has(table, mark));
        if self.wait_until(has_all, READ_PATIENCE).await {
            return Ok(());
        }
        Err(ApiError::new(
            ErrorCode::PartitionUnavailable,
            format!(
                "Region {} does not have the write yet that the receipt names. Try again later.",
                self.config.region.name
            ),
        ))
    }

    /// Waits until regions have what a receipt names, or time is up. `asked` is the JSON of a
    /// request; tells how each region stands.
    pub async fn wait_for_regions(&self, asked: &[u8]) -> Result<Json, ApiError> {
        let asked: WaitAsked = serde_json::from_slice(asked)
            .map_err(|error| ApiError::invalid(format!("The request cannot be read: {error}.")))?;
        let receipt = Receipt::parse(&asked.receipt)
            .ok_or_else(|| ApiError::invalid("The receipt is not one that a write gave."))?;
        let regions = match asked.regions.is_empty() {
            true => self.regions_of(&receipt).await?,
            false => asked.regions.into_iter().map(|it| (it, receipt.clone())).collect(),
        };
        if regions.len() > REGIONS_MAX {
            return Err(ApiError::invalid("Too many regions are named."));
        }
        if let Some((unknown, _)) = regions.iter().find(|(it, _)| self.number_of(it).is_none()) {
            return Err(ApiError::invalid(format!("Region {unknown} is not configured.")));
        }
        let patience = Duration::from_millis(asked.timeout_ms).min(WAIT_MAX);
        let mut asking = JoinSet::new();
        for (place, (region, receipt)) in regions.iter().enumerate() {
            let other = self.others.get(region).cloned();
            let (text, begun) = (receipt.to_text(), self.clock.clone());
            let until = begun.monotonic() + patience;
            let Some(other) = other else { continue };
            asking.spawn(async move {
                loop {
                    let left = until.saturating_sub(begun.monotonic());
                    let wait = left.min(ASKED_WAIT);
                    let holds =
                        Holds { receipt: text.clone(), wait_millis: wait.as_millis() as u64 };
                    let reply = other.ask_within(Question::Holds(holds), CALL_TIMEOUT).await;
                    let reason = match reply {
                        Ok(reply) => match reply.failure {
                            None => return (place, None),
                            Some(failure) => failure.message,
                        },
                        Err(status) => format!("it cannot be reached: {}", status.message()),
                    };
                    if begun.monotonic() + ASK_AGAIN >= until {
                        return (place, Some(reason));
                    }
                    tokio::time::sleep(ASK_AGAIN).await;
                }
            });
        }
        let mut reasons: Vec<Option<String>> = vec![None; regions.len()];
        let own = &self.config.region.name;
        if let Some(place) = regions.iter().position(|(region, _)| region == own) {
            reasons[place] = self.holds(&regions[place].1, patience).await.err().map(|e| e.message);
        }
        while let Some(told) = asking.join_next().await {
            let (place, reason) = told.map_err(|_| ApiError::internal())?;
            reasons[place] = reason;
        }
        let standings: Vec<Standing> = regions
            .into_iter()
            .zip(reasons)
            .map(|((region, _), reason)| Standing { region, held: reason.is_none(), reason })
            .collect();
        Ok(json!({ "held": standings.iter().all(|one| one.held), "regions": standings }))
    }

    /// Answers another region whether this one has what a receipt names, waiting a while for it.
    pub(super) async fn on_holds(&self, asked: &Holds) -> Result<(), ApiError> {
        let receipt = Receipt::parse(&asked.receipt)
            .ok_or_else(|| ApiError::invalid("the receipt is not one that a write gave"))?;
        let patience = Duration::from_millis(asked.wait_millis).min(ASKED_WAIT);
        self.holds(&receipt, patience).await
    }

    async fn holds(&self, receipt: &Receipt, patience: Duration) -> Result<(), ApiError> {
        let lacks = || {
            receipt.marks().iter().find(|mark| {
                let table = self.table_of(mark.partition);
                !table.is_some_and(|table| table.id() == mark.table && has(&table, mark))
            })
        };
        if self.wait_until(|| lacks().is_none(), patience).await {
            return Ok(());
        }
        let Some(mark) = lacks() else { return Ok(()) };
        let message = match self.table_of(mark.partition) {
            None => "it holds no replica of the table".to_owned(),
            Some(table) => format!(
                "of {} it has {} of {}",
                table.name(),
                table.watermark(mark.origin).0,
                mark.lsn
            ),
        };
        Err(ApiError::new(ErrorCode::PartitionUnavailable, message))
    }

    /// All regions that hold a table which a receipt names, each with what it names of those.
    async fn regions_of(&self, receipt: &Receipt) -> Result<Vec<(String, Receipt)>, ApiError> {
        let mut regions: Vec<(String, Receipt)> = Vec::new();
        let mut elsewhere = None;
        for mark in receipt.marks() {
            let mut table = self.record(mark.table).map(|record| record.table);
            if table.is_none() && self.has_distributions() {
                if elsewhere.is_none() {
                    elsewhere = Some(self.all_partitions().await);
                }
                table = elsewhere.as_ref().and_then(|known| known.get(&mark.table)).cloned();
            }
            let Some(table) = table else {
                return Err(ApiError::invalid(
                    "The receipt names a table that is not known here as a global table; name \
                     the regions, or ask one that holds it.",
                ));
            };
            for replica in table.replicas {
                match regions.iter_mut().find(|(region, _)| *region == replica.region) {
                    Some((_, of_region)) => of_region.add(*mark),
                    None => {
                        let mut of_region = Receipt::default();
                        of_region.add(*mark);
                        regions.push((replica.region, of_region));
                    }
                }
            }
        }
        Ok(regions)
    }

    /// Waits until something holds of what is durable here; tells whether it does.
    async fn wait_until(&self, holds: impl Fn() -> bool, patience: Duration) -> bool {
        if holds() {
            return true;
        }
        let until = tokio::time::sleep(patience);
        tokio::pin!(until);
        loop {
            // Listened before it is looked, so that nothing is missed.
            let committed = self.committed.notified();
            tokio::pin!(committed);
            committed.as_mut().enable();
            if holds() {
                return true;
            }
            tokio::select! {
                () = committed => {}
                () = &mut until => return holds(),
            }
        }
    }
}

/// Whether a table has a write.
fn has(table: &Table, mark: &Mark) -> bool {
    table.has_written(mark.origin, mark.epoch, mark.lsn)
}
