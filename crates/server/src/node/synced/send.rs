//! Prepared writes on their way to other regions, and what those answer.
//!
//! What waits for a region goes together, many times over at once, so that the way there bounds no
//! throughput. What was not answered is sent again until it is decided.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use isthmus_control::agreed::Tenure;
use isthmus_control::duty::has_no_tail;
use isthmus_control::global_table::Serve;
use isthmus_model::commit::{Term, TxId};
use isthmus_model::ids::{Origin, TableId};
use isthmus_model::limits::COUNT_MAX;
use isthmus_protocol::error_code::ErrorCode;
use isthmus_replication::frame::FORMAT_OF_BATCHES;
use isthmus_store::{StoreError, Table};
use parking_lot::RwLock;
use prost::Message;
use tokio::sync::{Semaphore, mpsc, watch};

use super::SyncTable;
use crate::api_error::ApiError;
use crate::node::Node;
use crate::peer::call::{
    AfterChange, Prepare, PreparedChange, PreparedWrite, Promise, Promised, Question,
};
use crate::peer::dial::OtherRegion;

/// Changes, and bytes of them, that are sent together.
const TOGETHER_MAX: usize = 512;
const TOGETHER_BYTES: usize = 1024 * 1024;
/// What is under way to one region at once.
const UNDER_WAY_MAX: usize = 64;
/// How long an answer may take.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// What was not taken is sent again after this.
const SEND_AGAIN: Duration = Duration::from_millis(50);
/// How long a question waits for what those who decide have told the asking region already.
const HEAR_PATIENCE: Duration = Duration::from_millis(500);
/// Bytes of prepared changes told at once.
const TOLD_BYTES_MAX: usize = 4 * 1024 * 1024;

fn not_yet(why: &str) -> ApiError {
    ApiError::new(ErrorCode::ServerUnavailable, format!("Nothing is prepared or told: {why}."))
}

/// Whether a prepared write is part of a batch of several partitions. What cannot be read is for
/// whoever is told it to refuse.
fn is_of_batch(change: &Bytes) -> bool {
    PreparedWrite::decode(change.clone())
        .is_ok_and(|write| write.intent.is_some() || write.decision.is_some())
}

/// A prepared write for one region.
#[derive(Clone)]
pub(super) struct ToPrepare {
    pub(super) sync: Arc<SyncTable>,
    pub(super) tx: TxId,
}

/// What waits for each region. Bounded by how many writes may wait for votes.
#[derive(Default)]
pub(super) struct Senders(RwLock<BTreeMap<Origin, mpsc::UnboundedSender<ToPrepare>>>);

impl Senders {
    pub(super) fn send(&self, region: Origin, job: ToPrepare) {
        if let Some(sender) = self.0.read().get(&region) {
            // Nobody listening: this region stops.
            let _ = sender.send(job);
        }
    }

    fn begin(&self, region: Origin) -> mpsc::UnboundedReceiver<ToPrepare> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.0.write().insert(region, sender);
        receiver
    }
}

/// What is there, or the first thing to come.
async fn next_together(jobs: &mut mpsc::UnboundedReceiver<ToPrepare>) -> Option<Vec<ToPrepare>> {
    let mut together = vec![jobs.recv().await?];
    while together.len() < TOGETHER_MAX {
        let Ok(job) = jobs.try_recv() else { break };
        together.push(job);
    }
    Some(together)
}

/// Changes of one table and term.
type Parcel = (Arc<SyncTable>, Vec<(TxId, Bytes)>);

/// Changes of one table and term each, of those that the region's vote is wanted for; and what it
/// does not know yet, by the format that was settled with it.
fn in_parcels(region: Origin, format: u32, jobs: Vec<ToPrepare>) -> (Vec<Parcel>, Vec<ToPrepare>) {
    let (mut parcels, mut later) = (Vec::<Parcel>::new(), Vec::new());
    let mut bytes = 0;
    for ToPrepare { sync, tx } in jobs {
        let Some((change, for_format)) = sync.wanted(region, tx) else { continue };
        if format < for_format {
            later.push(ToPrepare { sync, tx });
            continue;
        }
        let fits = parcels.last().is_some_and(|(last, _)| Arc::ptr_eq(last, &sync));
        if !fits || bytes >= TOGETHER_BYTES {
            bytes = 0;
            parcels.push((sync, Vec::new()));
        }
        bytes += change.len();
        if let Some((_, changes)) = parcels.last_mut() {
            changes.push((tx, change));
        }
    }
    (parcels, later)
}

impl Node {
    /// Sends what is to be prepared to another region, until `stop` says so.
    pub(crate) async fn keep_preparing(
        self: Arc<Self>,
        other: Arc<OtherRegion>,
        mut stop: watch::Receiver<bool>,
    ) {
        let Some(region) = self.number_of(&other.name) else { return };
        let mut jobs = self.synced.senders.begin(region);
        let places = Arc::new(Semaphore::new(UNDER_WAY_MAX));
        while !*stop.borrow() {
            let together = tokio::select! {
                together = next_together(&mut jobs) => together,
                _ = stop.changed() => return,
            };
            let Some(together) = together else { return };
            let format = other.links().format();
            let (parcels, later) = in_parcels(region, format, together);
            if !later.is_empty() {
                let node = self.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(SEND_AGAIN).await;
                    later.into_iter().for_each(|job| node.synced.senders.send(region, job));
                });
            }
            for (sync, changes) in parcels {
                let Ok(place) = places.clone().acquire_owned().await else { return };
                let (node, other) = (self.clone(), other.clone());
                tokio::spawn(async move {
                    node.prepare_there(&other, region, &sync, changes).await;
                    drop(place);
                });
            }
        }
    }

    async fn prepare_there(
        &self,
        other: &OtherRegion,
        region: Origin,
        sync: &Arc<SyncTable>,
        changes: Vec<(TxId, Bytes)>,
    ) {
        let Some((TxId { term, .. }, _)) = changes.first().cloned() else { return };
        let txs: Vec<TxId> = changes.iter().map(|(tx, _)| *tx).collect();
        let change = |(tx, change): (TxId, Bytes)| PreparedChange {
            number: tx.number,
            change,
            ..PreparedChange::default()
        };
        let prepare = Prepare {
            table: sync.id.0,
            epoch: term.epoch,
            life: term.life,
            changes: changes.into_iter().map(change).collect(),
        };
        let answer = other.ask_within(Question::Prepare(prepare), ANSWER_PATIENCE).await;
        if answer.as_ref().is_ok_and(|reply| reply.failure.is_none()) {
            return sync.vote(region, &txs);
        }
        tracing::debug!(region = region.0, %term, ?answer, "not prepared there");
        tokio::time::sleep(SEND_AGAIN).await;
        // Whoever does not count now is sent what there is when it does again.
        for tx in txs {
            self.synced.senders.send(region, ToPrepare { sync: sync.clone(), tx });
        }
    }

    /// Keeps changes that another region is about to write.
    pub(in crate::node) async fn on_prepare(
        &self,
        from: &str,
        prepare: Prepare,
    ) -> Result<Bytes, ApiError> {
        let term = Term { epoch: prepare.epoch, life: prepare.life };
        self.hear_of(TableId(prepare.table), term).await;
        let table = self.prepares_for(from, TableId(prepare.table), term)?;
        if self.has_tail(&table) {
            return Err(not_yet(
                "it has entries that the log of the asking region does not go on from, and takes \
                 a copy",
            ));
        }
        if !self.is_synchronous(table.name().as_str()) {
            return Err(not_yet("the table is not written synchronously by what is known here"));
        }
        let changes = prepare.changes.into_iter().map(|change| {
            let tx = TxId { term, number: change.number };
            (tx, change.change)
        });
        table.prepare(changes.collect()).await?;
        Ok(Bytes::new())
    }

    /// Takes nothing of earlier terms any more, and tells what was prepared in them.
    pub(in crate::node) async fn on_promise(
        &self,
        from: &str,
        promise: Promise,
    ) -> Result<Bytes, ApiError> {
        let term = Term { epoch: promise.epoch, life: promise.life };
        self.hear_of(TableId(promise.table), term).await;
        let table = self.prepares_for(from, TableId(promise.table), term)?;
        table.promise(term).await?;
        // What is prepared here and in the log of the asking region must not be told.
        if table.writer_word().epoch.0 != term.epoch {
            return Err(not_yet("its log is not that of the asking region"));
        }
        // It had entries that the log of the asking region does not go on from, and could not keep
        // them as prepared.
        if self.may_lack_prepared(&table) {
            let told = Promised { lacks: true, ..Promised::default() };
            return Ok(told.encode_to_vec().into());
        }
        let mut told = Promised { held: table.durable_lsn().0, ..Promised::default() };
        let mut bytes = 0;
        let after = promise
            .after
            .map(|AfterChange { epoch, life, number }| TxId { term: Term { epoch, life }, number });
        let earlier = table.prepared().into_iter().filter(|(tx, _)| tx.term < term);
        let format = self.others.get(from).map_or(0, |other| other.links().format());
        for (tx, change) in earlier.filter(|(tx, _)| after.is_none_or(|after| *tx > after)) {
            if bytes > TOLD_BYTES_MAX {
                told.more = true;
                break;
            }
            if (1..FORMAT_OF_BATCHES).contains(&format) && is_of_batch(&change) {
                return Err(not_yet(
                    "it has prepared parts of batches, which the version of the asking region does \
                     not know",
                ));
            }
            bytes += change.len() + 32;
            let TxId { term: Term { epoch, life }, number } = tx;
            told.changes.push(PreparedChange { number, change, epoch, life });
        }
        Ok(told.encode_to_vec().into())
    }

    /// The table, if another region may have its writes prepared here in that term.
    fn prepares_for(&self, from: &str, id: TableId, term: Term) -> Result<Arc<Table>, ApiError> {
        let refused = |why: &str| Err(not_yet(why));
        // No table comes there, and none could be written here after it had been promised.
        if term.epoch.max(term.life) >= COUNT_MAX {
            return Err(ApiError::invalid("A term beyond the end of any log."));
        }
        let (Some(table), Some(record)) = (self.store.table(id), self.record(id)) else {
            return Err(ApiError::no_table());
        };
        if record.table.serve != Serve::PrimarySecondary || record.table.replica(from).is_none() {
            return refused("the asking region does not write the table");
        }
        if !record.ready || self.shared.put_backs.is_put_back(table.partition()) {
            return refused("this region has not all of the table");
        }
        let word = table.writer_word();
        if word.epoch.0 == term.epoch && self.name_of(word.writer) != from {
            return refused("another region writes in that epoch");
        }
        if word.epoch.0 > term.epoch || word.accepts {
            let (partition, epoch) = (table.partition(), table.epoch());
            return Err(StoreError::Fenced { partition, epoch }.into());
        }
        if let Some(registry) = self.registry() {
            let known = registry.known();
            let tenure = known.agreed.tenure(id.0);
            let is_other = |tenure: &Tenure| {
                tenure.epoch > term.epoch || tenure.epoch == term.epoch && tenure.writer != from
            };
            if tenure.is_some_and(is_other) {
                return refused("another region was granted the table");
            }
            if tenure.is_some_and(|tenure| tenure.epoch < term.epoch) {
                return refused("that the asking region was granted the table is not known here");
            }
        }
        Ok(table)
    }

    /// Waits for a moment until it is known here that an epoch was granted.
    async fn hear_of(&self, id: TableId, term: Term) {
        let Some(registry) = self.registry() else { return };
        let heard = async {
            loop {
                let known = registry.known();
                if known.agreed.tenure(id.0).is_none_or(|tenure| tenure.epoch >= term.epoch) {
                    return;
                }
                registry.known_beyond(known.index).await;
                if registry.known().index == known.index {
                    // This region stops.
                    return;
                }
            }
        };
        // What is not known then is asked again.
        let _ = tokio::time::timeout(HEAR_PATIENCE, heard).await;
    }

    /// Whether not all of the log here is part of that which the newest epoch goes on from: a copy
    /// will take the place of the table, and of what was prepared.
    fn has_tail(&self, table: &Table) -> bool {
        let Some(registry) = self.registry() else { return false };
        let known = registry.known();
        let log_epoch = table.writer_word().epoch.0;
        let end = table.durable_lsn().0;
        known
            .agreed
            .tenure(table.id().0)
            .is_some_and(|tenure| log_epoch < tenure.epoch && !has_no_tail(tenure, log_epoch, end))
    }
}

#[cfg(test)]
mod tests {
    use isthmus_model::commit::Count;

    use super::*;
    use crate::peer::call::PreparedIntent;

    #[test]
    fn parts_of_batches_are_told_from_other_writes() {
        let plain = PreparedWrite { judged_millis: 7, ..PreparedWrite::default() };
        let part = PreparedWrite { intent: Some(PreparedIntent::default()), ..plain.clone() };
        assert!(!is_of_batch(&plain.encode_to_vec().into()));
        assert!(is_of_batch(&part.encode_to_vec().into()));
    }

    #[test]
    fn what_a_region_does_not_know_is_kept_for_later() {
        let term = Term { epoch: 1, life: 5 };
        let count = Count { others: [Origin(2)].into_iter().collect(), needed: 1 };
        let sync = Arc::new(SyncTable::new(TableId(1), 1, None));
        sync.open(term, count);
        let begin = |for_format| {
            let change = (vec![Bytes::from_static(b"change")], for_format);
            sync.begin(term, change, 0).unwrap().0.remove(0)
        };
        let (plain, part) = (begin(0), begin(FORMAT_OF_BATCHES));
        let jobs = || [plain, part].map(|tx| ToPrepare { sync: sync.clone(), tx }).to_vec();
        let names = |parcels: &[Parcel]| -> Vec<TxId> {
            parcels.iter().flat_map(|(_, changes)| changes.iter().map(|(tx, _)| *tx)).collect()
        };
        for format in [0, FORMAT_OF_BATCHES - 1] {
            let (parcels, later) = in_parcels(Origin(2), format, jobs());
            assert_eq!(names(&parcels), [plain]);
            assert_eq!(later.iter().map(|job| job.tx).collect::<Vec<_>>(), [part]);
        }
        let (parcels, later) = in_parcels(Origin(2), FORMAT_OF_BATCHES, jobs());
        assert_eq!((names(&parcels), later.len()), (vec![plain, part], 0));
    }
}
