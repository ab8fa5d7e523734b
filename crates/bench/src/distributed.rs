//! A distributed table of the regions that are measured.

use std::time::{Duration, Instant};

use bytes::Bytes;
use isthmus_control::distribution::Point;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use crate::cluster::Cluster;
use crate::error::{BenchError, Result};
use crate::rows::{KEY, TABLE};

/// How long a table may take to be made.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);

/// What is read of it.
#[derive(Debug, Deserialize)]
pub(crate) struct Shown {
    state: String,
    moving: u64,
    pub(crate) reshape: Option<Json>,
    pub(crate) partitions: Vec<ShownPartition>,
}

/// A partition.
#[derive(Debug, Deserialize)]
pub(crate) struct ShownPartition {
    pub(crate) from: Point,
    pub(crate) primary: String,
    state: String,
}

impl Shown {
    /// Whether all of it is where it belongs.
    pub(crate) fn is_quiet(&self) -> bool {
        self.state == "active"
            && self.moving == 0
            && self.reshape.is_none()
            && self.partitions.iter().all(|partition| partition.state == "settled")
    }
}

/// The table that is measured.
#[derive(Clone, Copy)]
pub(crate) struct Table<'a> {
    /// Its regions.
    pub(crate) cluster: &'a Cluster,
}

impl Table<'_> {
    /// Makes it as is wished and waits until all of it is where it belongs.
    pub(crate) fn make(self, wish: Json) -> Result<Shown> {
        let asked = json!({
            "name": TABLE,
            "schema": { "key": [{ "name": KEY, "type": "string" }] },
            "wish": wish,
        });
        self.cluster.ask("POST", "/v1/distributions", asked.to_string().into())?;
        self.await_shown("its partitions are not made", PATIENCE, Shown::is_quiet)
    }

    /// As it is now.
    pub(crate) fn show(self) -> Result<Shown> {
        let target = format!("/v1/distributions/{TABLE}");
        let told = self.cluster.ask("GET", &target, Bytes::new())?;
        serde_json::from_value(told)
            .map_err(|error| BenchError::Failed(format!("the table cannot be read: {error}")))
    }

    /// Waits until something holds.
    pub(crate) fn await_shown(
        self,
        otherwise: &str,
        patience: Duration,
        holds: impl Fn(&Shown) -> bool,
    ) -> Result<Shown> {
        let began = Instant::now();
        loop {
            let shown = self.show()?;
            if holds(&shown) {
                return Ok(shown);
            }
            if began.elapsed() > patience {
                return Err(BenchError::Failed(format!("{otherwise}: {shown:?}")));
            }
            std::thread::sleep(POLL);
        }
    }
}
