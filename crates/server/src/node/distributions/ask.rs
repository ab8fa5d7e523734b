//! What regions ask each other about distributed tables.

use std::collections::BTreeMap;
use std::sync::Weak;
use std::time::Duration;

use bytes::Bytes;
use isthmus_control::change::Change;
use isthmus_control::distribution::reshape::words::Told;
use isthmus_control::distribution::reshape::{self, Why};
use isthmus_control::distribution::wish::Rebalance;
use isthmus_control::distribution::{Distribution, State};
use isthmus_control::global_table::GlobalTable;
use isthmus_protocol::error_code::ErrorCode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::filling::Progress;
use crate::api_error::ApiError;
use crate::node::Node;
use crate::peer::CALL_TIMEOUT;
use crate::peer::call::{Distribute, Question, Read};
use crate::together::Piece;

/// A question about a distributed table.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub(super) enum Ask {
    /// Whether a table of that name could be made; tells the labels of the region.
    May { name: String },
    /// Obey this record.
    Take { record: Box<Distribution> },
    /// This is the record of which the asked region is the base.
    GiveBack { record: Box<Distribution> },
    /// The table is not made after all.
    Abandon { id: String, name: String },
    /// Make the global table of a partition.
    Make(Make),
    /// Tell of the partitions that are held, and what is known of the table with that id.
    Look { name: String, id: String },
    /// Move partitions to where they belong; asked of the base.
    Rebalance { name: String, change: Rebalance, dry_run: bool },
    /// Set something of all partitions; asked of the base.
    Set { name: String, change: Change },
    /// Delete the table; asked of the base.
    Drop { name: String },
    /// Split or merge partitions; asked of the base.
    Reshape { name: String, reshape: reshape::Ask, dry_run: bool },
    /// Fill the partitions of a split or merge, the first of which has that number, and tell how
    /// far it is; asked of the region that writes all of them.
    Fill { name: String, id: String, number: u32 },
    /// Fill them no more; tells whether what they are filled from has ended, and of which old ones
    /// the asked region speaks (`Stopped`).
    StopFilling { name: String, id: String, number: u32 },
    /// They are full and take the place of the others, as of these epochs; told to the base.
    Filled { name: String, id: String, number: u32, ends: Vec<Told> },
    /// Tell the epoch in which the partition with that number has ended, when its end is held by
    /// as many regions as its writes; asked of the region that writes it.
    Ended { name: String, id: String, number: u32 },
    /// Remove the table with the id `which`: the partition with that number was made twice, or of
    /// a split or merge that was given up.
    RemoveFilled { name: String, id: String, number: u32, which: u64 },
    /// Tell points of a partition, of what it holds or is asked for.
    Points { name: String, id: String, number: u32, of: Why },
}

/// Makes the global table of a partition, as the record says that the asked region obeys.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Make {
    /// The id of the distributed table.
    pub(super) id: String,
    /// The name of the partition.
    pub(super) name: String,
}

/// Which record a region obeys for a name.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Known {
    /// The id of the table; empty: none is known.
    #[serde(default)]
    pub(super) id: String,
    /// The version of its record; 0: none.
    #[serde(default)]
    pub(super) version: u64,
    /// The table that was asked about is deleted, and nothing is left of it there.
    #[serde(default)]
    pub(super) is_gone: bool,
}

impl Known {
    /// Whether the region has done what a record says.
    pub(super) fn obeys(&self, record: &Distribution) -> bool {
        match record.state {
            State::Dropping => self.is_gone,
            State::Offered | State::Making | State::Active => {
                self.id == record.id && self.version == record.version
            }
        }
    }
}

/// What a region tells of a partition that it holds.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Seen {
    /// Its number.
    pub(super) number: u32,
    /// Its global table, as is known there.
    #[serde(default)]
    pub(super) table: Option<GlobalTable>,
    /// Rows, where they are counted.
    #[serde(default)]
    pub(super) rows: Option<u64>,
    /// The last entry of its log.
    pub(super) entries: u64,
    /// Copies that leave the region.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) copies: Vec<SeenCopy>,
    /// It has ended: its rows go on in others.
    #[serde(default)]
    pub(super) has_ended: bool,
    /// About how many bytes its rows are, where that is measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) bytes: Option<u64>,
}

/// A copy of a partition to another region.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SeenCopy {
    /// The region that takes it.
    pub(super) to: String,
    /// Rows that are done.
    pub(super) rows_done: u64,
    /// Of so many.
    pub(super) rows_total: Option<u64>,
}

/// What a region tells of a distributed table.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Look {
    /// The record that it obeys.
    pub(super) known: Known,
    /// The labels of the region.
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
    /// The partitions that it holds.
    pub(super) partitions: Vec<Seen>,
    /// Requests that came through it, and those of a second, by the number of the partition.
    pub(super) requests: Vec<(u32, u64, f64)>,
    /// How far the filling of partitions is that are split or merged here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) filling: Option<Progress>,
    /// The region knows what planned partitions are.
    #[serde(default)]
    pub(super) knows_plans: bool,
}

impl Node {
    /// Asks a region, which may be this one.
    pub(super) async fn ask_about(&self, region: &str, ask: &Ask) -> Result<Json, ApiError> {
        let asked = serde_json::to_vec(ask).map_err(|_| ApiError::internal())?;
        if region == self.config.region.name {
            return read(&self.on_distribute(region, &asked).await?);
        }
        let question = Question::Distribute(Distribute { asked: asked.into() });
        let is_change = matches!(
            ask,
            Ask::Rebalance { .. } | Ask::Set { .. } | Ask::Drop { .. } | Ask::Reshape { .. }
        );
        read(&match is_change {
            true => self.pass_change_on(region, question).await?,
            false => self.ask_within_reach(region, question, CALL_TIMEOUT).await?,
        })
    }

    /// Asks a region that is reached: one that is not would hold up what is asked of others.
    async fn ask_within_reach(
        &self,
        region: &str,
        question: Question,
        patience: Duration,
    ) -> Result<Bytes, ApiError> {
        match self.is_reached(region) {
            true => self.ask_in_time(region, question, patience).await,
            false => Err(ApiError::new(
                ErrorCode::ServerUnavailable,
                format!("Region {region} cannot be reached."),
            )),
        }
    }

    /// Answers a question about a distributed table.
    ///
    /// It may ask others in turn, so its type is named.
    pub(in crate::node) fn on_distribute<'a>(
        &'a self,
        from: &'a str,
        asked: &'a [u8],
    ) -> Piece<'a, Result<Bytes, ApiError>> {
        Box::pin(self.answer_about(from, asked))
    }

    async fn answer_about(&self, from: &str, asked: &[u8]) -> Result<Bytes, ApiError> {
        let ask: Ask = read(asked)?;
        let told = match ask {
            Ask::May { name } => self.on_may(&name)?,
            Ask::Take { record } => json!(self.on_take(from, *record).await?),
            Ask::GiveBack { record } => self.on_give_back(*record).await.map(|()| Json::Null)?,
            Ask::Abandon { id, name } => {
                self.on_abandon(from, &id, &name).await.map(|()| Json::Null)?
            }
            Ask::Make(make) => self.on_make(from, &make).await.map(|()| Json::Null)?,
            Ask::Look { name, id } => json!(self.on_look(&name, &id)),
            Ask::Rebalance { name, change, dry_run } => {
                self.decide_rebalance(&name, &change, dry_run).await?
            }
            Ask::Set { name, change } => self.decide_set(&name, &change).await?,
            Ask::Drop { name } => self.decide_drop(&name).await.map(|()| Json::Null)?,
            Ask::Reshape { name, reshape, dry_run } => {
                self.decide_reshape(&name, reshape, dry_run).await?
            }
            Ask::Fill { name, id, number } => json!(self.on_fill(from, &name, &(id, number))?),
            Ask::StopFilling { name, id, number } => {
                json!(self.on_stop_filling(from, &name, &(id, number)).await?)
            }
            Ask::Filled { name, id, number, ends } => {
                self.on_filled(from, &name, (&id, number), &ends).await.map(|()| Json::Null)?
            }
            Ask::Ended { name, id, number } => json!(self.on_ended(&name, (&id, number)).await?),
            Ask::RemoveFilled { name, id, number, which } => {
                let asked = (&*id, number, which);
                self.on_remove_filled(from, &name, asked).await.map(|()| Json::Null)?
            }
            Ask::Points { name, id, number, of } => {
                json!(self.on_points(&name, (&id, number), of).await?)
            }
        };
        Ok(told.to_string().into())
    }

    /// Does a client's read here that another region took.
    pub(in crate::node) async fn on_read(&self, read: Read) -> Result<Bytes, ApiError> {
        let api = self.public.get().and_then(Weak::upgrade).ok_or_else(ApiError::elsewhere)?;
        api.take_read(read).await
    }
}

/// Reads what another region says.
pub(super) fn read<T: DeserializeOwned>(told: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(told).map_err(|error| {
        ApiError::invalid(format!("What was asked or answered cannot be read: {error}."))
    })
}
