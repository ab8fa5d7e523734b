//! Dropped tables: the drop comes with the log, and what is held goes when all regions have it.
//!
//! The base asks (`control/dropping.rs`); a region that is away is asked when it is back.

use isthmus_control::dropping::DropStep;
use isthmus_control::global_table::Progress;
use isthmus_model::ids::TableId;
use isthmus_protocol::error_code::ErrorCode;
use isthmus_replication::receive::copy_note;
use isthmus_store::StoreError;
use serde_json::json;

use super::events::EventKind;
use super::{Node, Record};
use crate::api_error::ApiError;
use crate::peer::call::{Drop, Question};

impl Node {
    /// Whether a table of which there is a record is dropped, or has gone already.
    pub(super) fn is_dropped(&self, id: TableId) -> bool {
        self.store.table(id).is_none_or(|table| table.is_dropped())
    }

    /// One bounded step towards a dropped table being gone everywhere; its base is here.
    pub(super) async fn reconcile_drop(
        &self,
        id: TableId,
        mut record: Record,
    ) -> Result<(), ApiError> {
        let before = record.table.clone();
        if self.is_reshaped_from(&before.name) {
            return Ok(());
        }
        match before.drop_step() {
            DropStep::Ask(regions) => {
                for region in regions.iter().filter(|region| self.is_reached(region)) {
                    self.ask_whether_dropped(&mut record, region).await;
                }
            }
            DropStep::Remove(regions) => {
                for region in regions.iter().filter(|region| self.is_reached(region)) {
                    let asked = Drop { id: before.id.clone(), remove: true };
                    match self.ask(region, Question::Drop(asked)).await {
                        Ok(_) => record.table.remove(region),
                        Err(error) => self.note_trouble(&mut record.table, region, &error),
                    }
                }
            }
            DropStep::End => {
                self.remove_dropped(id).await?;
                let text = "all regions have had the drop: rows and logs are gone".to_owned();
                self.notice(EventKind::TableGone, &before.name, text, json!({ "id": before.id }));
                return Ok(());
            }
        }
        match record.table == before {
            true => Ok(()),
            false => self.save(id, record).await,
        }
    }

    async fn ask_whether_dropped(&self, record: &mut Record, region: &str) {
        let table = &mut record.table;
        // What was taken once has no link on which a drop could come.
        let answer = match table.has_enough(region) {
            true => Ok(()),
            false => {
                let asked = Drop { id: table.id.clone(), remove: false };
                self.ask(region, Question::Drop(asked)).await.map(|_| ())
            }
        };
        match answer {
            Ok(()) => {
                let now = self.clock.wall_millis();
                let _ = table.advance(region, Progress::Dropped, now);
            }
            Err(error) => self.note_trouble(table, region, &error),
        }
    }

    /// Answers the base of a dropped table.
    pub(super) async fn on_drop(&self, from: &str, asked: &Drop) -> Result<(), ApiError> {
        let _one_at_a_time = self.change_for_another().await?;
        let known = {
            let records = self.records.lock();
            let mut found = records.iter().filter(|(_, record)| record.table.id == asked.id);
            found
                .next()
                .map(|(id, Record { table, .. })| (*id, table.base.clone(), table.name.clone()))
        };
        let Some((id, base, name)) = known else { return Ok(()) };
        if base != from {
            return Err(ApiError::invalid("The base of the global table is another region."));
        }
        match (asked.remove, self.is_dropped(id)) {
            // Its end is what lets clients write what goes on in its place.
            (true, _) if self.is_reshaped_from(&name) => Err(ApiError::new(
                ErrorCode::ServerUnavailable,
                "It is not known here yet what goes on in its place.",
            )),
            (true, _) => self.remove_dropped(id).await,
            (false, true) => Ok(()),
            (false, false) => Err(ApiError::new(
                ErrorCode::ServerUnavailable,
                "The entry that drops the table has not come here yet.",
            )),
        }
    }

    /// Removes what is held of a dropped table: links, rows and log, and last what names it.
    pub(super) async fn remove_dropped(&self, id: TableId) -> Result<(), ApiError> {
        if let Some(table) = self.store.table(id) {
            for region in self.others.keys().filter_map(|region| self.number_of(region)) {
                self.store.delete_note(&copy_note(region, table.partition())).await?;
            }
            match self.store.drop_table(id).await {
                Ok(()) | Err(StoreError::NoTable(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.forget(id).await
    }

    pub(super) fn is_reached(&self, region: &str) -> bool {
        self.others.get(region).is_some_and(|other| other.reached().connected)
    }
}
