//! What the region counts of itself, for Prometheus: `GET /metrics` on the administration port.
//!
//! What must hold: counting on the path of a request is a few relaxed additions; what is scraped
//! is read from where it is kept, at the moment of the scrape, and kept nowhere twice; the number
//! of series is bounded, whatever clients do: names of operations, outcomes and states are closed
//! lists, and of tables only the oldest so many have series of their own, the rest are summed
//! under one label.
//!
//! To show something more: count it in the room that does it (`store::counters`,
//! `replication::traffic`, `requests` here), and add its family in `families`.

mod batches;
mod detection;
pub(crate) mod families;
mod modes;
mod requests;
mod reshapes;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

pub use self::requests::{Outcome, Requests};
use crate::node::Node;

/// The type of what `text` gives.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All families of a node as text. May block for a moment.
pub fn text(node: &Node) -> Result<String, std::fmt::Error> {
    text_of(Box::new(families::Figures::of(node)))
}

/// These families as text.
pub(crate) fn text_of(figures: Box<dyn Collector>) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix("isthmus");
    registry.register_collector(figures);
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}
