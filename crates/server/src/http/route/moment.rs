//! Reads of distributed tables as of a moment: the same for all partitions.
//!
//! A moment is safe for a partition at a replica that has everything before it. The newest one that
//! is safe for all partitions is read by each at a replica that has kept what rows were then:
//! the one that was asked first goes on being it, unless it is lost.

use std::collections::BTreeSet;

use bytes::Bytes;
use isthmus_control::distribution::Distribution;
use isthmus_model::hlc::Hlc;
use isthmus_model::value::Text;
use isthmus_protocol::error_code::ErrorCode;
use isthmus_protocol::request::Operation;

use super::{ASKED_AT_ONCE, Fresh, is_about_replica, out_of_reach};
use crate::api_error::ApiError;
use crate::as_of::{AS_OF, tables_read};
use crate::http::PublicApi;
use crate::node::Partition;
use crate::peer::call::{MomentsTold, Read};
use crate::together::{Piece, together};

impl PublicApi {
    /// Names the moment that a read of the safe one is of: of all partitions of the tables that it
    /// reads, so that later reads of other rows can be as of the same one.
    pub(in crate::http) async fn at_a_moment<'a>(
        &self,
        operation: &Operation,
        fresh: Fresh<'a>,
    ) -> Result<Fresh<'a>, ApiError> {
        if fresh != Fresh::Safe {
            return Ok(fresh);
        }
        let names: BTreeSet<&str> =
            tables_read(operation, AS_OF)?.into_iter().map(|name| name.as_str()).collect();
        let (mut from, mut safe) = (Hlc::MIN.0, Hlc::MAX.0);
        let mut take =
            |told: MomentsTold| (from, safe) = (from.max(told.from), safe.min(told.safe));
        for name in names {
            if self.node.distribution(name).is_none() {
                self.node.listen_first(name).await;
                take(self.node.moments(&*self.node.readable(name)?));
                continue;
            }
            let mut turns = self.turns();
            loop {
                let table = turns.shape_of(&Text::from(name))?;
                match self.moments_of_all(&table).await {
                    Err(error) if turns.may_be_elsewhere(&table, &error) => {
                        turns.next(error).await?
                    }
                    told => break take(told?),
                }
            }
        }
        // Of what was overwritten before it was kept nothing is known.
        Ok(Fresh::Cut(Hlc(safe.max(from))))
    }

    /// As of which moments all partitions of a table can be read.
    async fn moments_of_all(&self, table: &Distribution) -> Result<MomentsTold, ApiError> {
        let mut asked: Vec<Piece<'_, _>> = Vec::with_capacity(table.partitions.len());
        for place in 0..table.partitions.len() {
            let partition = Partition { table, place };
            asked.push(Box::pin(async move { self.moments_of(&partition).await }));
        }
        let mut all = MomentsTold { from: Hlc::MIN.0, safe: Hlc::MAX.0 };
        for told in together(asked, ASKED_AT_ONCE).await {
            let told = told?;
            (all.from, all.safe) = (all.from.max(told.from), all.safe.min(told.safe));
        }
        Ok(all)
    }

    /// As of which moments a partition can be read, at the replica that would be read.
    async fn moments_of(&self, partition: &Partition<'_>) -> Result<MomentsTold, ApiError> {
        let name = partition.name();
        if self.node.holds_partition(&name) {
            self.node.listen_first(&name).await;
            match self.node.readable(&name) {
                Ok(table) => return Ok(self.node.moments(&table)),
                Err(error) if is_about_replica(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let mut refusal = None;
        for region in self.node.readers(partition) {
            match self.node.ask_moments(&region, &name).await {
                Err(error) if is_about_replica(&error) => refusal = refusal.or(Some(error)),
                answer => return answer,
            }
        }
        if self.node.may_be_reshaped(partition.table) {
            return Err(ApiError::elsewhere());
        }
        Err(refusal.unwrap_or_else(out_of_reach))
    }

    /// Reads a partition as of a moment, wherever what it takes was kept.
    pub(super) async fn read_at_moment(
        &self,
        partition: &Partition<'_>,
        operation: Operation,
        read: Read,
    ) -> Result<Bytes, ApiError> {
        let mut refusal: Option<ApiError> = None;
        if self.node.holds_partition(&partition.name()) {
            match self.read_here(operation, &read).await {
                Err(error) if may_be_kept_elsewhere(&error) => refusal = Some(error),
                answer => return answer,
            }
        }
        for region in self.node.readers(partition) {
            match self.node.forward_read(&region, read.clone()).await {
                Err(error) if may_be_kept_elsewhere(&error) => refusal = refusal.or(Some(error)),
                answer => return answer,
            }
        }
        match refusal {
            // What it was then is kept where it was, which a new partition was not.
            Some(error) if error.code == ErrorCode::ParameterInvalid => Err(error),
            _ if self.node.may_be_reshaped(partition.table) => Err(ApiError::elsewhere()),
            refusal => Err(refusal.unwrap_or_else(out_of_reach)),
        }
    }
}

/// Whether another replica may have what this one does not know of the moment. A read that is wrong
/// is refused by all of them alike.
fn may_be_kept_elsewhere(error: &ApiError) -> bool {
    is_about_replica(error) || error.code == ErrorCode::ParameterInvalid
}
