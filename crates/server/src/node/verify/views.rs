//! Views of this node's tables, as comparisons ask for them.

use std::sync::{Arc, Weak};

use isthmus_model::hlc::Hlc;
use isthmus_model::ids::TableId;
use isthmus_replication::receive::Assignments;
use isthmus_replication::verify::error::VerifyError;
use isthmus_replication::verify::store::{Beside, StoreViews};
use isthmus_replication::verify::view::{Viewed, Views};
use isthmus_store::{Store, Table};

use crate::node::Node;

/// Where a node's views come from.
pub(super) struct NodeViews {
    node: Weak<Node>,
    stored: StoreViews,
}

impl NodeViews {
    pub(super) fn new(node: Weak<Node>, store: Arc<Store>) -> NodeViews {
        let told_by = node.clone();
        let beside = move |table| told_by.upgrade().map(|node| node.beside(table));
        let stored = StoreViews::new(store, Box::new(move |id| beside(id).unwrap_or_default()));
        NodeViews { node, stored }
    }
}

impl Views for NodeViews {
    fn view(&self, table: TableId) -> Result<Viewed, VerifyError> {
        let record = self.node.upgrade().and_then(|node| node.record(table));
        if record.is_some_and(|record| !record.ready) {
            return Ok(Viewed::Unready("has not got its first copy whole".into()));
        }
        self.stored.view(table)
    }
}

impl Node {
    fn beside(&self, table: TableId) -> Beside {
        Beside {
            safe: self.store.table(table).map_or(Hlc::MIN, |table| self.safe_time(&table)),
            scrubbed_since_millis: self.verification.scrubs.scrubbed_since(table),
        }
    }

    /// Everything of every origin below it is in what is read after this.
    pub(super) fn safe_time(&self, table: &Table) -> Hlc {
        let own = self.store.promise();
        let partition = table.partition();
        self.shared.safe_times.safe(partition, &self.other_writers(partition), own)
    }
}
