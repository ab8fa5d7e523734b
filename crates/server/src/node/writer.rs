//! Who writes a table with one writer, as its log says: the record follows, links turn round, and
//! a successor opens its epoch. What decides is in `control/writer.rs` and `store/handover.rs`.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use isthmus_control::distribution::partition_named;
use isthmus_control::global_table::{GlobalTable, Serve};
use isthmus_control::writer::{LogWord, Step};
use isthmus_model::ids::{Origin, TableId};
use isthmus_protocol::error_code::ErrorCode;
use isthmus_protocol::receipt::Receipt;
use isthmus_replication::frame::FORMAT_OF_HANDOVER;
use isthmus_store::{Table, WriterWord};
use prost::Message;
use serde_json::json;
use tokio::sync::watch;
use tonic::{Code, Status};

use super::events::EventKind;
use super::global_tables::no_global_table;
use super::reconcile::told;
use super::{Node, Record, record_note};
use crate::api_error::{ApiError, sentence};
use crate::http::PublicApi;
use crate::peer::CALL_TIMEOUT;
use crate::peer::call::{Question, Reply, Write, Wrote};

/// What was not done is tried again after this.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The quorum is asked so often for an epoch, and so long after it has refused.
const OPEN_TRIES: u32 = 10;
const OPEN_AGAIN: Duration = Duration::from_millis(20);

/// Where a client's write of a table belongs.
pub enum Place {
    /// Here.
    Here(Arc<Table>),
    /// In another region, to which it is to be passed on.
    There(String),
    /// Nowhere for the moment: the table is handed over and the successor has not been heard of,
    /// or is this region and has not opened its epoch.
    Unsettled,
}

impl Node {
    /// Follows what logs say of who writes, again and again, until `stop` says so.
    pub async fn keep_writers(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            let written_by_one: Vec<TableId> = {
                let records = self.records.lock();
                let by_one =
                    records.iter().filter(|(_, r)| r.table.serve == Serve::PrimarySecondary);
                by_one.map(|(id, _)| *id).collect()
            };
            for id in written_by_one {
                self.look_at_writer(id).await;
            }
            tokio::select! {
                () = self.writer_moved.notified() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
                _ = stop.changed() => return,
            }
        }
    }

    /// Does what the log of a table asks for.
    async fn look_at_writer(&self, id: TableId) {
        let Some(table) = self.store.table(id) else { return };
        let mut refused = 0;
        loop {
            let word = table.writer_word();
            match self.next_step(id, &word) {
                Step::Nothing => return,
                Step::Follow => self.follow_writer(id, word.epoch.0, &self.name_of(word.writer)),
                // What a disk lacks comes first, and whether it is an old one that has opened this
                // epoch before may be told in a moment.
                Step::Open if self.has_just_started() && table.was_handed_over_at_start() => return,
                Step::Open if self.may_be_put_back(&table) => return,
                Step::Open => {
                    // From the first one on, writes are answered as the table asks for.
                    self.obey_modes_now();
                    if !self.may_open(&table).await {
                        refused += 1;
                        if refused >= OPEN_TRIES {
                            return;
                        }
                        tokio::time::sleep(OPEN_AGAIN).await;
                        continue;
                    }
                    if let Err(error) = table.open_epoch().await {
                        tracing::warn!(table = %table.name(), %error, "epoch not opened yet");
                        return;
                    }
                    self.obey_modes_now();
                }
            }
        }
    }

    fn next_step(&self, id: TableId, word: &WriterWord) -> Step {
        let records = self.records.lock();
        let Some(Record { table, ready }) = records.get(&id) else { return Step::Nothing };
        let (writer, successor) =
            (self.name_of(word.writer), word.successor.map(|region| self.name_of(region)));
        let (epoch, successor) = (word.epoch.0, successor.as_deref());
        let log = LogWord { epoch, writer: &writer, successor };
        table.next_step(&self.config.region.name, *ready, &log)
    }

    /// Takes into the record who writes in an epoch that has been opened, and obeys.
    pub(super) fn follow_writer(&self, id: TableId, epoch: u64, writer: &str) {
        let own = &self.config.region.name;
        let mut records = self.records.lock();
        let Some(record) = records.get_mut(&id) else { return };
        let before = record.table.primary().to_owned();
        if !record.table.follow_writer(epoch, writer) {
            return;
        }
        if record.table.base == *own {
            // The others are told, should their logs be late.
            record.table.version += 1;
        }
        let table = record.table.clone();
        let note = serde_json::to_vec(record);
        self.changes.fetch_add(1, Ordering::AcqRel);
        drop(records);
        if let Ok(note) = note {
            // Should it be lost in a crash, the log says so again.
            drop(self.store.put_note(&record_note(id), &note));
        }
        self.obey_links();
        self.reconcile_soon.notify_one();
        self.tell_writer_changed(&table, &before);
    }

    /// Tells whoever waits for the next writer, and people, that the record names another one.
    pub(super) fn tell_writer_changed(&self, table: &GlobalTable, before: &str) {
        self.writers.send_modify(|writers| *writers += 1);
        let (writer, epoch) = (table.primary(), table.epoch);
        let text = format!("region {writer} writes from epoch {epoch} on, after region {before}");
        let detail = json!({ "primary": writer, "before": before, "epoch": epoch });
        self.notice(EventKind::WriterChanged, &table.name, text, detail);
    }

    /// Tells when the writer of a table has changed, as far as is known here.
    pub fn writers_moved(&self) -> watch::Receiver<u64> {
        self.writers.subscribe()
    }

    /// Where a write of the table of that name belongs now, or why it is refused.
    pub fn place_of_writes(&self, name: &str) -> Result<Place, ApiError> {
        let table = self.store.table_by_name(name).ok_or_else(ApiError::no_table)?;
        if !self.is_served(name) {
            return Err(ApiError::no_table());
        }
        let own = &self.config.region.name;
        let records = self.records.lock();
        let Some(record) = records.get(&table.id()) else {
            return match partition_named(name) {
                None => Ok(Place::Here(table)),
                // It is being made or removed, and says nothing of who writes it.
                Some(_) => Err(ApiError::no_table()),
            };
        };
        let not_ready = || ApiError::new(ErrorCode::TableNotReady, "The table is not ready.");
        if self.shared.put_backs.is_put_back(table.partition()) {
            return Err(not_ready());
        }
        if record.table.serve == Serve::PeerToPeer {
            return match (record.ready, record.table.writes(own)) {
                (false, _) => Err(not_ready()),
                (true, false) => Err(self.not_written_here(&record.table)),
                (true, true) => self.check_clock().map(|()| Place::Here(table)),
            };
        }
        let word = table.writer_word();
        if word.accepts && !self.is_leased() {
            return Ok(Place::Unsettled);
        }
        if word.accepts {
            return self.check_clock().map(|()| Place::Here(table));
        }
        let opens_soon = word.successor == Some(Origin(self.config.region.number));
        match record.table.primary() {
            primary if primary == own || opens_soon => Ok(Place::Unsettled),
            primary if record.table.forwards() => Ok(Place::There(primary.to_owned())),
            _ if !record.ready => Err(not_ready()),
            _ => Err(self.not_written_here(&record.table)),
        }
    }

    /// Whether changes of the table of that name are passed on to where it is written.
    pub fn forwards(&self, name: &str) -> bool {
        let Some(table) = self.store.table_by_name(name) else { return false };
        self.records.lock().get(&table.id()).is_some_and(|record| record.table.forwards())
    }

    /// Whether the table of that name is written synchronously, here or elsewhere.
    pub fn is_synchronous(&self, name: &str) -> bool {
        let Some(table) = self.store.table_by_name(name) else { return false };
        let records = self.records.lock();
        records.get(&table.id()).is_some_and(|record| record.table.sync_commit().is_some())
    }

    pub(super) fn not_written_here(&self, table: &GlobalTable) -> ApiError {
        let primary = table.primary();
        let endpoint = self.endpoint_of(primary).unwrap_or_default();
        ApiError::new(
            ErrorCode::NoPermissionAccess,
            format!(
                "The table is a secondary replica in region {}, writes are refused here. Write \
                 to region {primary} {endpoint}",
                self.config.region.name
            )
            .trim_end(),
        )
    }

    /// Whether a table could be written here, as far as it is not for its log to say.
    pub(super) fn on_may_write(&self, name: &str) -> Result<(), ApiError> {
        let (id, record) = self.record_named(name).ok_or_else(no_global_table)?;
        let own = &self.config.region.name;
        let unavailable = |why: String| Err(ApiError::new(ErrorCode::ServerUnavailable, why));
        let is_put_back = |id| self.shared.put_backs.is_put_back(id);
        if !record.ready || self.partition_of(id).is_some_and(is_put_back) {
            return unavailable(format!("Region {own} has not all of the table yet."));
        }
        if let Some(error) = self.store.refuses_writes() {
            let why = sentence(&error.to_string());
            return unavailable(format!("Region {own} takes no writes. {why}"));
        }
        self.check_clock()
    }

    /// Says who does what other regions pass on. Only the first word counts.
    pub fn serve_others_by(&self, api: &Arc<PublicApi>) {
        let _ = self.public.set(Arc::downgrade(api));
    }

    /// Has a client's write done in the region that writes the table. What is written there is
    /// added to the receipt, if one is wanted.
    pub async fn forward_write(
        &self,
        table: &str,
        region: &str,
        path: &'static str,
        body: &Bytes,
        receipt: Option<&mut Receipt>,
    ) -> Result<Bytes, ApiError> {
        let unavailable = |why: String| ApiError::new(ErrorCode::ServerUnavailable, why);
        let other = self.others.get(region).ok_or_else(ApiError::elsewhere)?;
        let reached = other.reached();
        if !reached.connected {
            return Err(unavailable(format!(
                "Region {region}, which writes the table, cannot be reached: {}. Nothing was done.",
                reached.reason
            )));
        }
        let too_old = || {
            unavailable(format!(
                "Region {region}, which writes the table, is too old to be passed writes. Nothing \
                 was done."
            ))
        };
        if (1..FORMAT_OF_HANDOVER).contains(&other.links().format()) {
            return Err(too_old());
        }
        let wants_receipt = receipt.is_some();
        let write = Write { path: path.to_owned(), body: body.clone(), wants_receipt };
        // Where it waits for other regions, its patience comes on top.
        let within = CALL_TIMEOUT + self.patience_of_writes(table);
        let answer = tokio::select! {
            answer = other.ask_within(Question::Write(write), within) => answer,
            // Nothing it says counts any more.
            () = self.until_suspended(region) => Err(Status::unavailable("it is suspended")),
        };
        match answer {
            Ok(Reply { failure: None, body }) => take_wrote(body, receipt),
            Ok(Reply { failure: Some(failure), .. }) => Err(told(failure)),
            Err(status) if status.code() == Code::Unimplemented => Err(too_old()),
            Err(status) => Err(ApiError::new(
                ErrorCode::Timeout,
                format!(
                    "Region {region}, which writes the table, did not answer ({}). Whether the \
                     write took effect is not known.",
                    status.message()
                ),
            )),
        }
    }

    /// Does a client's write here that another region took.
    pub(super) async fn on_write(&self, write: Write) -> Result<Bytes, ApiError> {
        let api = self.public.get().and_then(Weak::upgrade).ok_or_else(ApiError::elsewhere)?;
        let mut receipt = write.wants_receipt.then(Receipt::default);
        let body = api.take_write(&write.path, write.body, receipt.as_mut()).await?;
        let receipt = receipt.filter(|receipt| !receipt.marks().is_empty());
        let receipt = receipt.map(|receipt| receipt.to_text());
        Ok(Wrote { body, receipt }.encode_to_vec().into())
    }
}

/// Takes the answer to a write that was passed on.
fn take_wrote(wrote: Bytes, receipt: Option<&mut Receipt>) -> Result<Bytes, ApiError> {
    let wrote = Wrote::decode(wrote).map_err(|_| ApiError::internal())?;
    let told = wrote.receipt.as_deref().and_then(Receipt::parse);
    if let (Some(receipt), Some(told)) = (receipt, told) {
        told.marks().iter().for_each(|mark| receipt.add(*mark));
    }
    Ok(wrote.body)
}
