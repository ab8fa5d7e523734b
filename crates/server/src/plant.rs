//! Faults on purpose, in the data of a region that does not run: for tests and drills.
//!
//! The store is opened as the region would, one row is changed behind the back of the log, and
//! the store is closed cleanly. A region that runs holds its data, so it cannot be hit by chance.

use std::sync::Arc;

use isthmus_model::clock::SystemClock;
use isthmus_store::{Plant, StoreError};

use crate::config::Config;
use crate::node::verify::key_of_json;
use crate::{ServerError, open_engine, open_store, start_committer};

/// Why nothing was planted.
#[derive(Debug, thiserror::Error)]
pub enum PlantError {
    /// The data cannot be opened; most likely the region runs.
    #[error(transparent)]
    Open(#[from] ServerError),
    /// There is no such table.
    #[error("there is no table {table}; there are {known}")]
    NoTable {
        /// What was asked for.
        table: String,
        /// What there is.
        known: String,
    },
    /// The key cannot be read.
    #[error("key: {0}")]
    Key(String),
    /// There is no such fault.
    #[error("there is no fault {0}: lost-row, extra-row, cell, version, tombstone, swap, bit")]
    Kind(String),
    /// It ended in the middle.
    #[error("planting broke")]
    Broke,
    /// The fault cannot be planted.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Plants one fault in a table of a region that does not run. `key_json` is a key like
/// `{"id": "a", "number": 7}`; `kind` is `lost-row`, `extra-row`, `cell`, `version`, `tombstone`,
/// `swap` or `bit`. Gives what was done, in words.
pub async fn plant(
    config: Config,
    table: &str,
    key_json: &str,
    kind: &str,
) -> Result<String, PlantError> {
    let plant = kind_of(kind).ok_or_else(|| PlantError::Kind(kind.to_owned()))?;
    let (table, key_json) = (table.to_owned(), key_json.to_owned());
    let planted =
        tokio::task::spawn_blocking(move || plant_blocking(&config, &table, &key_json, plant));
    planted.await.unwrap_or(Err(PlantError::Broke))
}

fn kind_of(word: &str) -> Option<Plant> {
    match word {
        "lost-row" => Some(Plant::LostRow),
        "extra-row" => Some(Plant::ExtraRow),
        "cell" => Some(Plant::Cell),
        "version" => Some(Plant::Version),
        "tombstone" => Some(Plant::Tombstone),
        "swap" => Some(Plant::Swap),
        "bit" => Some(Plant::Bit),
        _ => None,
    }
}

fn plant_blocking(
    config: &Config,
    table: &str,
    key_json: &str,
    kind: Plant,
) -> Result<String, PlantError> {
    let store = open_store(config, open_engine(config)?, Arc::new(SystemClock))?;
    let committer = start_committer(&store)?;
    let planted = plant_in(&store, table, key_json, kind);
    store.stop();
    // A committer that broke has told so already.
    drop(committer.join());
    store.close()?;
    planted
}

fn plant_in(
    store: &isthmus_store::Store,
    table: &str,
    key_json: &str,
    kind: Plant,
) -> Result<String, PlantError> {
    let Some(found) = store.table_by_name(table) else {
        let names: Vec<String> =
            store.tables().iter().map(|table| table.name().as_str().to_owned()).collect();
        let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        return Err(PlantError::NoTable { table: table.to_owned(), known });
    };
    let json = serde_json::from_str(key_json)
        .map_err(|error| PlantError::Key(format!("is no JSON: {error}")))?;
    let key = key_of_json(&found.schema(), &json).map_err(PlantError::Key)?;
    found.plant(&key, kind).wait()?;
    Ok(format!("{}: {key_json} in {table}", words(kind)))
}

fn words(kind: Plant) -> &'static str {
    match kind {
        Plant::LostRow => "removed a row",
        Plant::ExtraRow => "made a row up",
        Plant::Cell => "changed a cell",
        Plant::Version => "changed a version",
        Plant::Tombstone => "removed the tombstones of a row",
        Plant::Swap => "swapped the first values of two rows, that one and the next",
        Plant::Bit => "changed one stored bit of a row",
    }
}
