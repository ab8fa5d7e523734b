//! What a synchronous write is to a batch of several partitions, and what it becomes.

use std::sync::{Arc, OnceLock};

use isthmus_model::atomic::{BatchId, Intent, Member};
use isthmus_model::check::CheckedChange;
use isthmus_model::commit::{Term, TxId};
use isthmus_model::value::Text;
use isthmus_replication::frame::FORMAT_OF_BATCHES;
use isthmus_store::{Beginning, Pending, Room, StoreError, Table};
use prost::Message;

use super::Results;
use crate::peer::call::{PreparedDecision, PreparedIntent, PreparedWrite};

/// What a write is to a batch that is made in several partitions or in none.
#[derive(Clone)]
pub enum SyncPart {
    /// It becomes an intent.
    Intent {
        /// The batch.
        id: BatchId,
        /// Name of the table that its anchor is.
        anchor: Text,
    },
    /// It decides the batch.
    Decision {
        /// The batch.
        id: BatchId,
        /// Its members.
        members: Vec<Member>,
        /// Is given the term in which it is sent to others, before it is.
        sent_in: Arc<OnceLock<Term>>,
    },
    /// It is all of the batch: rows that are not made since another one was refused are told so.
    Alone,
}

/// What a write that is decided becomes.
pub(in crate::node) enum Making {
    Rows { atomic: bool },
    Intent(Intent),
    Decision(BatchId, Vec<Member>),
}

impl SyncPart {
    /// As others prepare it, and what it becomes.
    pub(super) fn apply(self, plain: PreparedWrite) -> (PreparedWrite, Making) {
        let mut prepared = plain.clone();
        let making = match self {
            SyncPart::Intent { id, anchor } => {
                let name = anchor.as_str().to_owned();
                prepared.intent = Some(PreparedIntent { batch: Some(id.into()), anchor: name });
                let request = plain.encode_to_vec().into();
                Making::Intent(Intent { id, anchor, keys: Vec::new(), request })
            }
            SyncPart::Decision { id, members, .. } => {
                let told = members.iter().map(Into::into).collect();
                let decision = PreparedDecision { batch: Some(id.into()), members: told };
                prepared.decision = Some(decision);
                Making::Decision(id, members)
            }
            SyncPart::Alone => Making::Rows { atomic: true },
        };
        (prepared, making)
    }
}

impl Making {
    /// Keeps room for it in what a table keeps of batches.
    pub(super) fn room(&self, table: &Table) -> Result<Option<Room>, StoreError> {
        match self {
            Making::Rows { .. } => Ok(None),
            Making::Intent(intent) => table.room_for_intent(intent.request.len()).map(Some),
            Making::Decision(_, members) => table.room_for_decision(members).map(Some),
        }
    }

    /// The first format of which a region knows what it is; 0: whoever is asked to prepare it does.
    pub(super) fn for_format(&self) -> u32 {
        match self {
            Making::Rows { .. } => 0,
            Making::Intent(_) | Making::Decision(..) => FORMAT_OF_BATCHES,
        }
    }

    /// Makes it: `txs` names what was prepared.
    pub(super) fn write(
        &self,
        table: &Table,
        txs: Vec<TxId>,
        changes: Vec<CheckedChange>,
        beginning: Beginning,
    ) -> Pending<Results<StoreError>> {
        let tx = txs.first().copied();
        match self {
            Making::Rows { atomic } => table.write_prepared(txs, changes, *atomic),
            Making::Intent(intent) => table.intend(intent.clone(), changes, tx),
            Making::Decision(id, members) => {
                table.decide((*id, members.clone()), changes, tx, beginning)
            }
        }
    }
}
