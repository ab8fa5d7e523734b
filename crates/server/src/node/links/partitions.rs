//! What is asked of the links of a distributed table: it is asked of those of each partition.
//!
//! A link belongs to the global table of a partition, as the regions that hold it do. So a
//! partition without such a link is passed over, and one that comes to other regions later has the
//! defaults there.

use bytes::Bytes;
use isthmus_control::change::Change;
use isthmus_control::distribution::{Distribution, name_of_partition};
use isthmus_protocol::error_code::ErrorCode;
use serde_json::{Value as Json, json};

use super::TriggerAsked;
use crate::api_error::ApiError;
use crate::node::Node;
use crate::peer::call::Trigger;

/// Whether a change of a distributed table is one of links.
pub(in crate::node) fn is_of_links(change: &[u8]) -> bool {
    matches!(serde_json::from_slice(change), Ok(Change::SetLink(_)))
}

/// Passes over a partition that has no such link.
fn unless_missing<T>(told: Result<T, ApiError>, name: &str) -> Result<Option<T>, ApiError> {
    match told {
        Ok(told) => Ok(Some(told)),
        Err(error) if error.code == ErrorCode::ObjectNotExist => Ok(None),
        Err(error) => {
            let message = format!(
                "{} That is of {name}; those before it did what was asked, ask again for the rest.",
                error.message
            );
            Err(ApiError { message, ..error })
        }
    }
}

fn no_such_link() -> ApiError {
    ApiError::new(ErrorCode::ObjectNotExist, "No partition of the table has such a link.")
}

impl Node {
    /// Asks something of the links of all partitions, one after the other.
    pub(in crate::node) async fn set_links_of_partitions(
        &self,
        record: &Distribution,
        change: &Bytes,
    ) -> Result<Json, ApiError> {
        let (mut found, mut changed) = (false, false);
        for partition in &record.partitions {
            let name = name_of_partition(&record.name, partition.number);
            let told = self.change_one_global_table(&name, change.clone()).await;
            if let Some(told) = unless_missing(told, &name)? {
                found = true;
                changed |= told["changed"] == true;
            }
        }
        match found {
            true => Ok(json!({ "version": record.version, "changed": changed })),
            false => Err(no_such_link()),
        }
    }

    /// Lets the links of all partitions ship what waits.
    pub(super) async fn trigger_links_of_partitions(
        &self,
        record: &Distribution,
        asked: &TriggerAsked,
    ) -> Result<Json, ApiError> {
        let mut triggered = 0;
        let is_origin = |region: &&String| asked.from.as_ref().is_none_or(|from| from == *region);
        for partition in &record.partitions {
            let name = name_of_partition(&record.name, partition.number);
            for origin in partition.held.iter().filter(is_origin) {
                let trigger = Trigger { table: name.clone(), to: asked.to.clone() };
                let told = self.trigger_from(origin, trigger).await;
                triggered += unless_missing(told, &name)?.unwrap_or(0);
            }
        }
        match triggered {
            0 => Err(no_such_link()),
            links => Ok(json!({ "triggered": links })),
        }
    }
}
