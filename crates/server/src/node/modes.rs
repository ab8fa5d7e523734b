//! Writes that are answered when other regions hold them: what the records ask for, and what
//! becomes of a write that waits.
//!
//! Waiting itself is `isthmus_replication::mode`. Here the records say which regions count, what
//! neighbours tell of regions that no link reaches is passed on, and each change of state is an
//! event and a note at rest before anything is answered because of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use isthmus_control::distribution::partition_named;
use isthmus_control::global_table::{GlobalTable, Serve};
use isthmus_control::write_mode;
use isthmus_model::ids::{Epoch, Lsn, Origin, PartitionId, TableId};
use isthmus_protocol::error_code::ErrorCode;
use isthmus_replication::mode::{Answer, Begun, Fallback, ModeChange, Refusal, SemiSync, Wait};
use isthmus_store::Table;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Sleep;

use super::events::{Event, EventKind};
use super::{Node, Record};
use crate::api_error::ApiError;
use crate::status::{HolderStatus, InDoubtStatus, SyncState, WriteModeStatus};

/// How often it is looked whether a bound in time has passed.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const NOTES: &str = "fallen-back/";

fn note_name(partition: PartitionId) -> Vec<u8> {
    format!("{NOTES}{:016x}", partition.0).into_bytes()
}

/// What is kept of a partition that has fallen back, so that a restart knows.
#[derive(Serialize, Deserialize)]
struct FallenBack {
    reason: String,
}

/// A write that is durable here and may have to wait. Its patience has begun.
pub struct Hold<'a> {
    node: &'a Node,
    table: &'a Table,
    /// In which the write was made.
    epoch: Epoch,
    held: Held,
}

enum Held {
    /// It can be answered.
    Over,
    /// It waits.
    Waits(Wait, Pin<Box<Sleep>>),
    /// It was to wait, and nobody here can tell any more who holds it.
    Unknown,
}

impl Hold<'_> {
    /// Waits until the write may be answered. An error says that it is written here and that its
    /// outcome is unknown.
    pub async fn done(self) -> Result<(), ApiError> {
        let is_held = match self.held {
            Held::Over => true,
            Held::Unknown => false,
            Held::Waits(mut wait, patience) => tokio::select! {
                biased;
                _ = &mut wait => true,
                () = patience => {
                    wait.give_up();
                    false
                }
            },
        };
        if is_held {
            return self.node.check_lease(self.table, self.epoch);
        }
        Err(ApiError::new(
            ErrorCode::Timeout,
            format!(
                "Operation timeout. The write is durable in region {} and not yet known to be held \
                 by as many others as the table asks for; whether it outlives the loss of this \
                 region is not known.",
                self.node.config.region.name
            ),
        ))
    }
}

impl Node {
    /// Begins to wait until a write that is durable here, in that epoch, is held by as many other
    /// regions as its table asks for. It may be answered under the lease of this region only.
    pub fn until_held<'a>(&'a self, table: &'a Table, (lsn, epoch): (Lsn, Epoch)) -> Hold<'a> {
        let modes = &self.shared.modes;
        let held = match modes.wait(table.partition(), lsn) {
            Begun::Over(Answer::NotHeld) if self.has_left(table) => Held::Unknown,
            Begun::Over(Answer::NotHeld | Answer::Held) => Held::Over,
            Begun::Waits(wait) => {
                let patience = modes.patience(table.partition());
                Held::Waits(wait, Box::pin(tokio::time::sleep(patience)))
            }
        };
        Hold { node: self, table, epoch, held }
    }

    /// Whether such a write could be answered at once.
    pub(super) fn is_held(&self, table: &Table, (lsn, epoch): (Lsn, Epoch)) -> bool {
        let Hold { held, .. } = self.until_held(table, (lsn, epoch));
        matches!(held, Held::Over) && self.check_lease(table, epoch).is_ok()
    }

    /// Whether writes of a table are to wait, and this region, which wrote it a moment ago, waits
    /// for nothing any more.
    fn has_left(&self, table: &Table) -> bool {
        self.shared.modes.report(table.partition()).is_none()
            && !table.writer_word().accepts
            && self.record(table.id()).is_some_and(|record| !record.table.mode.is_async())
    }

    /// How long a write of the table of that name may wait where it is written. A partition that
    /// is not held here is written as its distributed table says.
    pub(super) fn patience_of_writes(&self, name: &str) -> Duration {
        if let Some((_, record)) = self.record_named(name) {
            return Duration::from_millis(record.table.mode.patience_ms());
        }
        let distribution = partition_named(name).and_then(|(table, _)| self.distribution(table));
        Duration::from_millis(distribution.map_or(0, |table| table.mode.patience_ms()))
    }

    /// Whether a write of a table may be made, as far as other regions keep up.
    pub fn check_holders(&self, table: &Table) -> Result<(), ApiError> {
        self.shared.modes.admit(table.partition()).map_err(|refusal| match refusal {
            Refusal::FallenBack(reason) => ApiError::new(
                ErrorCode::PartitionUnavailable,
                format!("Nothing was written, since {reason}. Try again later."),
            ),
            Refusal::TooMany => ApiError::new(
                ErrorCode::ServerBusy,
                "Server is busy. Too many writes wait for other regions.",
            ),
        })
    }

    /// Lets writes wait as the records say now: before this region begins to write a table.
    pub(super) fn obey_modes_now(&self) {
        let _one_at_a_time = self.obeying.lock();
        let records = self.records.lock().clone();
        self.obey_modes(&records);
    }

    /// Lets writes wait as the records say.
    pub(super) fn obey_modes(&self, records: &BTreeMap<TableId, Record>) {
        let own = &self.config.region.name;
        let mut wanted = BTreeSet::new();
        for (id, Record { table, .. }) in records {
            let Some(held) = self.store.table(*id) else { continue };
            let Some(asked) = table.semi_sync() else {
                let writes = self.written_here(table, &held).is_some();
                self.obey_sync(table, &held, writes);
                continue;
            };
            let partition = held.partition();
            wanted.insert(partition);
            let Some(table) = self.written_here(table, &held) else {
                self.obey_sync(table, &held, false);
                self.leave_mode(table, &held);
                continue;
            };
            let counting = table.replicas.iter().filter(|r| table.counts(own, &r.region));
            let counting = counting.filter_map(|replica| self.number_of(&replica.region));
            let fallen_back = self.recorded_fall(partition);
            self.shared.modes.set(partition, terms(&asked), &counting.collect(), fallen_back);
            self.obey_sync(&table, &held, true);
            for other in self.others.values() {
                other.links().tell_held(partition);
            }
        }
        self.forget_sync(|id| records.contains_key(&id));
        self.look_at_votes();
        for partition in self.shared.modes.partitions() {
            if !wanted.contains(&partition) {
                self.shared.modes.unset(partition);
                self.forget_fall(partition);
            }
        }
    }

    fn end_left_modes(&self) {
        let _one_at_a_time = self.obeying.lock();
        self.shared.modes.end_left().into_iter().for_each(|partition| self.forget_fall(partition));
    }

    fn forget_fall(&self, partition: PartitionId) {
        // Should it come back in a crash, the table only climbs back once more.
        drop(self.store.delete_note(&note_name(partition)));
    }

    /// What the record says of a table that this region writes, or of one that it is about to
    /// write, as soon as its record has followed the log.
    fn written_here(&self, table: &GlobalTable, held: &Table) -> Option<GlobalTable> {
        let own = &self.config.region.name;
        if table.writes(own) {
            return Some(table.clone());
        }
        let word = held.writer_word();
        let mut next = table.clone();
        let is_next = word.next_writer() == Origin(self.config.region.number)
            && next.follow_writer(word.epoch.0 + 1, own);
        is_next.then_some(next)
    }

    /// A table that this region writes no more. Whoever writes it now holds what was written here.
    fn leave_mode(&self, table: &GlobalTable, held: &Table) {
        let modes = &self.shared.modes;
        modes.leave(held.partition());
        // In this order, so that the log has not gone over to yet another one meanwhile.
        let (through, word) = (held.durable_lsn(), held.writer_word());
        // The base may have said that the next epoch is opened before the log here did.
        let is_open = word.successor.is_none() || table.epoch > word.epoch.0;
        if table.serve == Serve::PrimarySecondary && is_open {
            modes.held(held.partition(), word.next_writer(), Some(through));
        }
    }

    fn recorded_fall(&self, partition: PartitionId) -> Option<String> {
        let note = self.store.note(&note_name(partition)).ok()??;
        serde_json::from_slice::<FallenBack>(&note).ok().map(|fallen| fallen.reason)
    }

    /// Sees to it that bounds in time are kept, and records what has changed, until `stop` says
    /// so.
    pub async fn keep_modes(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        // What others did not agree to yet.
        let mut unsettled = VecDeque::new();
        while !*stop.borrow() {
            self.tell_relayed();
            self.shared.modes.tick(&self.suspended());
            self.look_at_votes();
            unsettled.extend(self.shared.modes.take_changes());
            for change in std::mem::take(&mut unsettled) {
                match self.is_agreed_to(&change).await {
                    true => self.record_change(change).await,
                    false => unsettled.push_back(change),
                }
            }
            self.end_left_modes();
            tokio::select! {
                () = self.shared.modes.changed() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
                _ = stop.changed() => return,
            }
        }
    }

    /// The regions that are suspended, as those have agreed who decide that.
    fn suspended(&self) -> BTreeSet<Origin> {
        let Some(registry) = self.registry() else { return BTreeSet::new() };
        let known = registry.known();
        let suspended = known.agreed.regions.iter().filter(|(_, standing)| standing.suspended);
        suspended.filter_map(|(region, _)| self.number_of(region)).collect()
    }

    /// Tells what regions hold that no link of this one gives its entries to.
    fn tell_relayed(&self) {
        for partition in self.shared.modes.partitions() {
            let Some(table) = self.table_of(partition) else { continue };
            let record = self.record(table.id()).filter(|r| r.table.tells_standings());
            let Some(record) = record else { continue };
            for replica in &record.table.replicas {
                let standing = self.standing_of(table.id(), &replica.region);
                let Some(standing) = standing.filter(|standing| standing.is_complete) else {
                    continue;
                };
                if let Some(number) = self.number_of(&replica.region) {
                    let held = self.held_of_here(&table, &standing);
                    self.shared.modes.held(partition, number, held);
                }
            }
        }
    }

    /// Whether what follows from a change may be answered, as far as it is for others to say: a
    /// region that cannot tell them that it answers alone may be one that they take for lost.
    async fn is_agreed_to(&self, change: &ModeChange) -> bool {
        let report = self.shared.modes.report(change.partition);
        let answers_alone = report.is_some_and(|report| {
            report.fallen_back && change.fallen_back && report.asked.fallback == Fallback::Async
        });
        match self.table_of(change.partition).filter(|_| answers_alone) {
            Some(table) => self.agree_to_fall_back(table.id()).await,
            None => true,
        }
    }

    async fn record_change(&self, change: ModeChange) {
        let table = self.table_of(change.partition);
        let name = table.map_or_else(String::new, |table| table.name().as_str().to_owned());
        let own = &self.config.region.name;
        let (kind, text) = match change.fallen_back {
            true => (EventKind::SyncFellBack, "has fallen back"),
            false => (EventKind::SyncRestored, "is in sync again"),
        };
        let report = self.shared.modes.report(change.partition);
        let fallback = report.map(|report| report.asked.fallback.as_str());
        let event = Event {
            at_ms: change.at_millis,
            kind,
            table: name,
            text: format!("writing in {own} {text}: {}", change.reason),
            detail: json!({
                "region": own,
                "fallen_back": change.fallen_back,
                "reason": change.reason,
                "fallback": fallback,
            }),
        };
        self.verification.events.push(event, &self.store);
        let name = note_name(change.partition);
        let recorded = match change.fallen_back {
            true => {
                let note = json!(FallenBack { reason: change.reason.clone() }).to_string();
                self.store.put_note(&name, note.as_bytes()).await
            }
            false => self.store.delete_note(&name).await,
        };
        match recorded {
            Ok(()) => self.shared.modes.recorded(&change),
            Err(error) => tracing::warn!(%error, "a region that fell back could not record it"),
        }
    }

    /// How writes of a table are answered, where they wait for other regions.
    pub(super) fn write_mode_status(
        &self,
        table: &Table,
        record: Option<&Record>,
    ) -> Option<WriteModeStatus> {
        let asked = record?.table.semi_sync()?;
        let writes = record?.table.writes(&self.config.region.name);
        let report = self.shared.modes.report(table.partition()).filter(|_| writes);
        let holders = report.iter().flat_map(|report| &report.holders);
        let holders = holders.map(|(region, held)| HolderStatus {
            region: self.name_of(*region),
            held_lsn: held.map(|held| held.0),
        });
        let form = record?.table.sync_commit().map(|sync| sync.form.to_string());
        let sync = self.sync_report(table);
        let in_doubt = sync.iter().flat_map(|sync| &sync.in_doubt);
        let in_doubt = in_doubt.map(|(number, waited_ms, voted)| InDoubtStatus {
            number: *number,
            waited_ms: *waited_ms,
            voted: voted.iter().map(|region| self.name_of(*region)).collect(),
        });
        Some(WriteModeStatus {
            answers: if form.is_some() { "sync" } else { "semi-sync" }.to_owned(),
            form,
            term: sync.as_ref().and_then(|sync| sync.term).map(|term| term.to_string()),
            locked_rows: sync.as_ref().map_or(0, |sync| sync.locked as u64),
            in_doubt: in_doubt.collect(),
            prepared_here: table.prepared_count() as u64,
            held_by: asked.held_by,
            bound_entries: asked.bound_entries,
            bound_ms: asked.bound_ms,
            patience_ms: asked.patience_ms,
            fallback: asked.fallback.as_str().to_owned(),
            state: report.as_ref().map(|report| match report.fallen_back {
                true => SyncState::FallenBack,
                false => SyncState::InSync,
            }),
            reason: report.as_ref().map(|report| report.reason.clone()).unwrap_or_default(),
            since_ms: report.as_ref().map(|report| report.since_millis),
            lag_entries: report.as_ref().and_then(|report| report.lag),
            waiting: report.as_ref().map_or(0, |report| report.waiting as u64),
            holders: holders.collect(),
        })
    }
}

/// What is asked, as the replication room takes it.
fn terms(asked: &write_mode::SemiSync) -> SemiSync {
    SemiSync {
        held_by: usize::from(asked.held_by),
        bound_entries: asked.bound_entries,
        bound: Duration::from_millis(asked.bound_ms),
        patience: Duration::from_millis(asked.patience_ms),
        fallback: match asked.fallback {
            write_mode::Fallback::Wait => Fallback::Wait,
            write_mode::Fallback::Refuse => Fallback::Refuse,
            write_mode::Fallback::Async => Fallback::Async,
        },
    }
}
