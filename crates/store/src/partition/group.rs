//! A group: all that one partition has accepted between two commits.

use std::sync::Arc;

use bytes::Bytes;
use isthmus_model::hlc::{Hlc, Stamp};
use isthmus_model::ids::Lsn;
use isthmus_model::key::EncodedKey;

use super::Partition;
use crate::digest::{Silent, Stamped};
use crate::engine::BatchWrite;
use crate::error::StoreError;
use crate::keys::log::RecordBuilder;
use crate::keys::partition::PartitionState;
use crate::spec::TableSpec;

/// Told how a group ended.
pub(crate) type Finish = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// What waits for the next commit of one partition.
#[derive(Default)]
pub(crate) struct Part {
    /// Rows, each once.
    pub(crate) rows: Vec<(EncodedKey, Option<Bytes>)>,
    /// What they change in the digest, in order.
    pub(crate) digest: Vec<Stamped>,
    /// Rows that entries name and that are in the digest as they were.
    pub(crate) silent: Vec<Silent>,
    /// The digest counts otherwise from here on and is built anew.
    pub(crate) digest_anew: bool,
    /// Log records, in order; the last one is open.
    pub(crate) records: Vec<RecordBuilder>,
    /// Other keys.
    pub(crate) writes: Vec<BatchWrite>,
    /// First stamps of the writes in it.
    pub(crate) begun: Vec<Hlc>,
    /// Bytes charged to the queue.
    pub(crate) bytes: usize,
    /// The table's spec changed.
    pub(crate) spec_changed: bool,
    /// The log begins anew, elsewhere.
    pub(crate) log_replaced: bool,
    /// The table goes.
    pub(crate) dropped: bool,
    /// Cells of all rows have expired.
    pub(crate) expired: bool,
}

/// A group taken by the committer.
pub(crate) struct Group {
    pub(crate) partition: Arc<Partition>,
    pub(crate) number: u64,
    pub(crate) part: Part,
    pub(crate) state: PartitionState,
    /// What its rows change in the digest, in order.
    pub(crate) digest: Arc<Vec<Stamped>>,
    pub(crate) spec: Option<Arc<TableSpec>>,
}

impl Group {
    /// Whether the partition's digest keeps anything of it.
    pub(crate) fn concerns_digest(&self) -> bool {
        !self.digest.is_empty() || !self.part.silent.is_empty() || self.part.digest_anew
    }
}

/// Which entry makes a change; `stamp` is `None` for what no entry makes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At {
    pub(crate) lsn: Lsn,
    pub(crate) stamp: Option<Stamp>,
}
