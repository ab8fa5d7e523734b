//! Records of distributed tables that are given, taken, asked for and given up.
//!
//! A table is deleted when its base says so. A region that hears it first notes that nothing is
//! made of the table any more, then removes what it holds, and keeps no more than that the table
//! is gone: what comes late, from another region or an older disk, makes nothing of it again.

use std::collections::BTreeSet;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use isthmus_control::distribution::{Distribution, State, partition_named};
use isthmus_model::check::{check_schema, check_table_name};
use isthmus_model::ids::TableId;
use isthmus_model::limits::COUNT_MAX;
use isthmus_protocol::error_code::ErrorCode;
use isthmus_store::{TableSpec, keys};

use super::ask::{Ask, Known, Look, read};
use super::make::NAME_BYTES_MAX;
use super::{Distributions, is_alive};
use crate::api_error::ApiError;
use crate::node::Node;

/// A name that is offered to the other regions; it no longer is when this is dropped.
pub(super) struct Offering<'a> {
    all: &'a Distributions,
    name: String,
}

impl Drop for Offering<'_> {
    fn drop(&mut self) {
        self.all.offering.lock().remove(&self.name);
    }
}

impl Distributions {
    /// An error: another request offers a table of that name.
    pub(super) fn begin_offer(&self, name: &str) -> Result<Offering<'_>, ApiError> {
        match self.offering.lock().insert(name.to_owned()) {
            true => Ok(Offering { all: self, name: name.to_owned() }),
            false => Err(ApiError::new(
                ErrorCode::OperationConflict,
                format!("Table {name} is being distributed already."),
            )),
        }
    }
}

impl Node {
    /// What is known here of a name, and of the table with that id.
    pub(super) fn known_of(&self, name: &str, id: &str) -> Known {
        let known = self.distributions.get(name);
        let is_it = known.as_ref().is_some_and(|known| known.id == id);
        Known {
            is_gone: !is_it && self.distributions.is_gone(id),
            version: known.as_ref().map_or(0, |known| known.version),
            id: known.map(|known| known.id.clone()).unwrap_or_default(),
        }
    }

    /// Takes what the base says.
    pub(super) async fn on_take(
        &self,
        from: &str,
        record: Distribution,
    ) -> Result<Known, ApiError> {
        check_record(&record)?;
        if record.base != from {
            return Err(ApiError::invalid("Only the base region gives the record of a table."));
        }
        let _one_at_a_time = self.distributions.changing.lock().await;
        let _names = self.hold_names().await;
        let known = self.distributions.get(&record.name).filter(|known| known.id == record.id);
        let told = |node: &Node| Ok(node.known_of(&record.name, &record.id));
        match &known {
            None if self.distributions.is_gone(&record.id) => return told(self),
            None if record.state == State::Dropping => {}
            None => self.check_name_is_free(&record.name)?,
            Some(known) if known.base != from => {
                return Err(ApiError::invalid("The base of the table is another region."));
            }
            // There is no way back from this.
            Some(_) if record.state == State::Dropping => {}
            Some(known) if known.state == State::Dropping => return told(self),
            Some(known) if known.version >= record.version => return told(self),
            Some(_) => {}
        }
        match record.state {
            State::Dropping => self.drop_here(&record).await?,
            _ => drop(self.keep_distribution(record.clone()).await?),
        }
        told(self)
    }

    /// Takes back what this region, whose word counts, has lost with its disk.
    pub(super) async fn on_give_back(&self, record: Distribution) -> Result<(), ApiError> {
        check_record(&record)?;
        if record.base != self.config.region.name || !is_alive(&record) {
            return Err(ApiError::invalid("Only the base of a table that is made takes it back."));
        }
        let _one_at_a_time = self.distributions.changing.lock().await;
        let _names = self.hold_names().await;
        if self.distributions.is_gone(&record.id) {
            return Ok(());
        }
        match self.distributions.get(&record.name) {
            Some(known) if known.id != record.id => return Err(ApiError::table_exists()),
            // A delete stands, whatever version the disk here has lost.
            Some(known) if known.state == State::Dropping => return Ok(()),
            Some(known) if known.version >= record.version => return Ok(()),
            Some(_) => {}
            None if self.store.table_by_name(&record.name).is_some() => {
                return Err(ApiError::table_exists());
            }
            None => {}
        }
        tracing::warn!(table = record.name, "the record of a distributed table is back");
        self.keep_distribution(record).await.map(drop)
    }

    /// Asks the base of a table for what it knows. Where its disk is new, it is given the record
    /// back; what it has deleted, or has only offered, is forgotten.
    pub(super) async fn look_at_base(&self, record: &Distribution) -> Result<(), ApiError> {
        let ask = Ask::Look { name: record.name.clone(), id: record.id.clone() };
        let told = self.ask_about(&record.base, &ask).await?;
        let Look { known: told, .. } = read(told.to_string().as_bytes())?;
        let is_none = told.id.is_empty();
        if told.is_gone || is_none && !is_alive(record) {
            return self.forget_without_base(record, told.is_gone).await;
        }
        // Where the other one has been deleted, it is the base that has an old disk.
        let is_other = !is_none && told.id != record.id;
        let is_served = !is_other || self.distributions.is_gone(&told.id);
        if self.distributions.at_base(&record.id) != Some(is_served) {
            self.distributions.at_base.write().insert(record.id.clone(), is_served);
        }
        if !is_served {
            tracing::warn!(table = record.name, base = record.base, "its base keeps another one");
        }
        if is_other || !is_alive(record) || told.version >= record.version {
            return Ok(());
        }
        let ask = Ask::GiveBack { record: Box::new(record.clone()) };
        self.ask_about(&record.base, &ask).await.map(drop)
    }

    /// Forgets a table that its base has deleted, or that was not made before the base lost its
    /// disk: then another region may know that it was, and give it back.
    async fn forget_without_base(
        &self,
        record: &Distribution,
        is_gone: bool,
    ) -> Result<(), ApiError> {
        let _one_at_a_time = self.distributions.changing.lock().await;
        let known = self.distributions.get(&record.name).filter(|known| known.id == record.id);
        let Some(known) = known else { return Ok(()) };
        tracing::warn!(table = known.name, base = known.base, "its base keeps no such table");
        match known.state {
            State::Offered if !is_gone => self.unlearn_distribution(&known).await,
            State::Making | State::Active if !is_gone => Ok(()),
            _ => self.drop_here(&known).await,
        }
    }

    /// The base does not make the table that it has offered.
    pub(super) async fn on_abandon(
        &self,
        from: &str,
        id: &str,
        name: &str,
    ) -> Result<(), ApiError> {
        check_id(id)?;
        let _one_at_a_time = self.distributions.changing.lock().await;
        match self.distributions.get(name).filter(|known| known.id == id) {
            Some(known) if known.base != from => {
                Err(ApiError::invalid("Only its base gives a table up."))
            }
            Some(known) if known.state != State::Offered => Err(ApiError::new(
                ErrorCode::OperationConflict,
                "The table has been made; it can be deleted.",
            )),
            Some(known) => self.forget_distribution(&known).await,
            // It may come late.
            None => self.note_gone(id).await,
        }
    }

    /// Deletes a distributed table, here or where its base is.
    pub async fn drop_distribution(&self, name: &str) -> Result<(), ApiError> {
        let record = self.distribution(name).ok_or_else(ApiError::no_table)?;
        self.ask_about(&record.base, &Ask::Drop { name: name.to_owned() }).await.map(drop)
    }

    /// From here on the table is deleted; who is away is told when it is back.
    pub(super) async fn decide_drop(&self, name: &str) -> Result<(), ApiError> {
        let record = self.decided_here(name)?;
        self.change_distribution(&record, |record| {
            let is_news = record.state != State::Dropping;
            record.state = State::Dropping;
            Ok(is_news)
        })
        .await?;
        self.reconcile_distribution(name).await;
        Ok(())
    }

    /// The table of that name. Only its base decides about it.
    pub(super) fn decided_here(&self, name: &str) -> Result<Arc<Distribution>, ApiError> {
        let record = self.distribution(name).ok_or_else(ApiError::no_table)?;
        match record.base == self.config.region.name {
            true => Ok(record),
            false => Err(ApiError::new(
                ErrorCode::OperationConflict,
                format!("Region {} decides about the table. Nothing was done.", record.base),
            )),
        }
    }

    /// Removes all that is kept here of a deleted table.
    async fn drop_here(&self, record: &Distribution) -> Result<(), ApiError> {
        if let Some(known) = self.distributions.get(&record.name)
            && known.id == record.id
            && known.state != State::Dropping
        {
            // First, so that what is removed is not made again by a region that has not heard it.
            let dropping = Distribution { state: State::Dropping, ..(*known).clone() };
            self.keep_distribution(dropping).await?;
        }
        self.remove_partitions(record).await?;
        self.forget_distribution(record).await
    }

    /// Removes what is held of a deleted table's partitions.
    pub(super) async fn remove_partitions(&self, record: &Distribution) -> Result<(), ApiError> {
        let _one_at_a_time = self.change_for_another().await?;
        // Those of a new table of that name are made under the same lock.
        if self.distributions.get(&record.name).is_some_and(|known| known.id != record.id) {
            return Ok(());
        }
        for id in self.partition_ids(&record.name) {
            self.remove_dropped(id).await?;
        }
        Ok(())
    }

    /// What is here of the partitions of a table; what a crash has left may be a record alone.
    fn partition_ids(&self, name: &str) -> BTreeSet<TableId> {
        let held = self.partitions_here(name);
        let mut ids: BTreeSet<TableId> = held.iter().map(|table| table.id()).collect();
        ids.extend(self.records.lock().iter().filter_map(|(id, record)| {
            partition_named(&record.table.name).filter(|(table, _)| *table == name).map(|_| *id)
        }));
        ids
    }

    /// Whether nothing is here of the partitions of an earlier table.
    pub(super) fn check_no_partitions(&self, name: &str) -> Result<(), ApiError> {
        match self.partition_ids(name).is_empty() {
            true => Ok(()),
            false => Err(ApiError::new(
                ErrorCode::ObjectAlreadyExist,
                format!(
                    "Region {} holds partitions of an earlier table of that name.",
                    self.config.region.name
                ),
            )),
        }
    }

    fn check_name_is_free(&self, name: &str) -> Result<(), ApiError> {
        if self.is_distribution_name(name) || self.store.table_by_name(name).is_some() {
            return Err(ApiError::table_exists());
        }
        self.check_no_partitions(name)
    }

    /// Whether a table that another region gives may be held here by that name: a partition only
    /// of a table that is known and not deleted, any other only where no distributed table has the
    /// name. Partitions bear the time at which their table was planned.
    pub(in crate::node) fn check_held_name(&self, spec: &TableSpec) -> Result<(), ApiError> {
        let name = spec.name.as_str();
        let Some((table, number)) = partition_named(name) else {
            return match self.is_distribution_name(name) && self.store.table(spec.id).is_none() {
                true => Err(ApiError::table_exists()),
                false => Ok(()),
            };
        };
        let known = self.distributions.get(table).filter(|known| {
            is_alive(known)
                && (known.place_numbered(number).is_some()
                    || known.reshape.as_ref().is_some_and(|reshape| reshape.concerns(number)))
        });
        let planned = known.as_deref().map(spec_of).transpose()?;
        match planned.is_some_and(|planned| planned.created_millis == spec.created_millis) {
            true => Ok(()),
            false => Err(ApiError::new(
                ErrorCode::ServerUnavailable,
                format!(
                    "Region {} does not know the distributed table of {name}, or knows another \
                     one. Nothing was done.",
                    self.config.region.name
                ),
            )),
        }
    }
}

/// What each partition of a table is made as.
pub(super) fn spec_of(record: &Distribution) -> Result<TableSpec, ApiError> {
    let damaged = || ApiError::invalid("The table that partitions are made as cannot be read.");
    let spec = STANDARD.decode(&record.spec).map_err(|_| damaged())?;
    keys::table::decode_value(&Bytes::from(spec)).map_err(|_| damaged())
}

/// Whether a record that another region says is one that can be obeyed.
fn check_record(record: &Distribution) -> Result<(), ApiError> {
    record.check()?;
    check_id(&record.id)?;
    check_table_name(&record.name)?;
    let spec = spec_of(record)?;
    check_schema(&spec.schema)?;
    let key = spec.schema.key_columns.first().map(|column| column.kind.into());
    if record.name.len() > NAME_BYTES_MAX || record.version >= COUNT_MAX || key != Some(record.key)
    {
        return Err(ApiError::invalid("The record of the distributed table is damaged."));
    }
    Ok(())
}

fn check_id(id: &str) -> Result<(), ApiError> {
    let number = id.strip_prefix("ds-").filter(|number| number.len() == 16);
    match number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_hexdigit())) {
        true => Ok(()),
        false => Err(ApiError::invalid("That is not the id of a distributed table.")),
    }
}
