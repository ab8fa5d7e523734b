//! The built-in prober: writes and reads a row through each region's public port, its own too,
//! and keeps how often that went well.
//!
//! What must hold: a probe goes the whole way of a client's request (HTTP, signature, the one door
//! for writes, a sync of the disk); users see nothing of it: its row is in a table of each region
//! alone that no request can make, list, change or delete and that counts in no quota; what was
//! found outlives a restart, up to a minute of it.
//!
//! `windows` keeps the sums, `record` judges; both are pure. `tables` looks at each table of the
//! region. What the figures mean is in docs/seeing.md.

mod record;
mod tables;
mod windows;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use isthmus_connectors::http::HttpOptions;
use isthmus_connectors::tablestore::{ClientError, ClientOptions, TableStore, Target};
use isthmus_model::change::{
    CellWrite, Condition, KeyPart, NamedKeyPart, Projection, Returned, RowAction, RowChange,
};
use isthmus_model::ids::{Epoch, Origin, PartitionId, SchemaNumber, TableId};
use isthmus_model::key::{KeyKind, KeyValue};
use isthmus_model::schema::{KeyColumn, Schema, TableOptions};
use isthmus_model::value::{Text, Value};
use isthmus_protocol::request::{GetRow, Operation, WriteRow};
use isthmus_store::{Store, StoreError, TableSpec, Writers, Writing};
use parking_lot::Mutex;
use tokio::sync::watch;

use self::record::{Record, Round};
use self::tables::{TableRecord, TableRecords, probe_tables};
use self::windows::{Sums, Tally};
use crate::config::Config;
use crate::node::Node;
use crate::status::{ProbeStatus, Ratios};

/// The table of the probes, one in each region, each for itself.
pub const PROBE_TABLE: &str = "__isthmus_probe__";
const KEY: &str = "prober";
const COLUMN: &str = "value";
const NOTES: &str = "probe/";
const TABLE_NOTES: &str = "probe-table/";
const INSTANCE_NOTE: &[u8] = b"probe-instance";
/// How often what was found is written down.
const SAVE_EVERY: Duration = Duration::from_secs(60);
/// A probe that takes longer has failed.
const PATIENCE_MAX: Duration = Duration::from_secs(5);

/// What the prober of a node has found.
#[derive(Default)]
pub struct Probes(Mutex<Found>);

#[derive(Default)]
struct Found {
    /// Of each region.
    regions: BTreeMap<String, Record>,
    /// Of each table of this region that is looked at.
    tables: TableRecords,
    /// Of all regions together: whether there was one to go to.
    instance: Tally,
}

impl Probes {
    /// What it had found in earlier lives. A note that cannot be read is begun anew.
    pub fn read(store: &Store) -> Result<Probes, StoreError> {
        let mut found = Found::default();
        for (name, note) in store.notes(NOTES.as_bytes())? {
            let name = String::from_utf8_lossy(&name[NOTES.len()..]).into_owned();
            match serde_json::from_slice(&note) {
                Ok(record) => drop(found.regions.insert(name, record)),
                Err(error) => tracing::warn!(region = %name, %error, "probes begin anew"),
            }
        }
        for (name, note) in store.notes(TABLE_NOTES.as_bytes())? {
            let id = String::from_utf8_lossy(&name[TABLE_NOTES.len()..]).into_owned();
            match (u64::from_str_radix(&id, 16), serde_json::from_slice(&note)) {
                (Ok(id), Ok(record)) => drop(found.tables.insert(TableId(id), record)),
                (_, _) => tracing::warn!(table = %id, "probes begin anew"),
            }
        }
        if let Some(note) = store.note(INSTANCE_NOTE)? {
            found.instance = serde_json::from_slice(&note).unwrap_or_default();
        }
        Ok(Probes(Mutex::new(found)))
    }

    /// What it has found, by region.
    pub fn status(&self, now_millis: i64) -> Vec<ProbeStatus> {
        let found = self.0.lock();
        let regions = found.regions.iter();
        regions.map(|(region, record)| record.status(region, now_millis)).collect()
    }

    /// The availability of a table, and the share of the time in which its replicas were alike;
    /// `None` where it is not looked at.
    pub(crate) fn of_table(
        &self,
        table: TableId,
        now_millis: i64,
    ) -> Option<(Ratios, Option<Ratios>)> {
        self.0.lock().tables.get(&table).map(|record| record.ratios(now_millis))
    }

    /// The share of the time in which there was a region to go to.
    pub(crate) fn of_instance(&self, now_millis: i64) -> Option<Ratios> {
        let ratios = self.0.lock().instance.availability(now_millis);
        ratios.since_start.is_some().then_some(ratios)
    }

    /// The value that a probe is to write: never one that it has written before.
    fn next_value(&self, region: &str, now_millis: i64) -> i64 {
        self.0.lock().regions.entry(region.to_owned()).or_default().next_value(now_millis)
    }

    fn note(&self, region: &str, round: &Round, now_millis: i64) {
        self.0.lock().regions.entry(region.to_owned()).or_default().note(round, now_millis);
    }

    fn note_table(&self, table: TableId, note: impl FnOnce(&mut TableRecord)) {
        note(self.0.lock().tables.entry(table).or_default());
    }

    fn note_instance(&self, is_up: bool, stands_for: Duration, now_millis: i64) {
        let all_millis = u64::try_from(stands_for.as_millis()).unwrap_or(u64::MAX);
        let up_millis = if is_up { all_millis } else { 0 };
        let sums = Sums { up_millis, all_millis, ..Sums::default() };
        self.0.lock().instance.add(&sums, now_millis);
    }

    /// Regions that are not configured any more are forgotten.
    fn keep_only(&self, regions: &[String]) {
        self.0.lock().regions.retain(|region, _| regions.contains(region));
    }

    /// Writes down what was found; tables that are gone are forgotten.
    fn save(&self, store: &Store) {
        let mut found = self.0.lock();
        found.tables.retain(|table, _| {
            let is_there = store.table(*table).is_some();
            if !is_there {
                drop(store.delete_note(table_note(*table).as_bytes()));
            }
            is_there
        });
        let keep = |name: &[u8], note: Result<Vec<u8>, serde_json::Error>| {
            if let Ok(note) = note {
                drop(store.put_note(name, &note));
            }
        };
        for (region, record) in &found.regions {
            keep(format!("{NOTES}{region}").as_bytes(), serde_json::to_vec(record));
        }
        for (table, record) in &found.tables {
            keep(table_note(*table).as_bytes(), serde_json::to_vec(record));
        }
        keep(INSTANCE_NOTE, serde_json::to_vec(&found.instance));
    }
}

fn table_note(table: TableId) -> String {
    format!("{TABLE_NOTES}{:016x}", table.0)
}

impl Node {
    /// Probes again and again, until `stop` says so. The table is there for the probers of other
    /// regions even where this one is switched off.
    pub async fn keep_probing(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        if let Err(error) = make_table(&self).await {
            tracing::warn!(%error, "the table of the probes cannot be made");
        }
        let every = Duration::from_secs(self.config().probe.every_seconds.into());
        if every.is_zero() {
            return;
        }
        let clients = clients(&self, every.min(PATIENCE_MAX));
        let regions: Vec<String> = clients.keys().cloned().collect();
        self.probes().keep_only(&regions);
        let mut tick = tokio::time::interval(every);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // Regions that were started together are given the time between two rounds.
        tick.tick().await;
        let (mut last, mut saved) = (self.clock().monotonic(), self.clock().monotonic());
        while !*stop.borrow() {
            tokio::select! {
                _ = tick.tick() => {}
                _ = stop.changed() => break,
            }
            let now = self.clock().monotonic();
            // A round stands for the time since the one before, unless this process slept.
            let stands_for = now.saturating_sub(last);
            last = now;
            probe_all(&self, &clients, stands_for.min(every * 2)).await;
            if now.saturating_sub(saved) >= SAVE_EVERY {
                saved = now;
                self.probes().save(self.store());
            }
        }
        self.probes().save(self.store());
    }
}

async fn probe_all(
    node: &Arc<Node>,
    clients: &BTreeMap<String, Result<TableStore, String>>,
    stands_for: Duration,
) {
    let mut under_way = tokio::task::JoinSet::new();
    for (region, client) in clients {
        let (node, region, client) = (node.clone(), region.clone(), client.clone());
        under_way.spawn(async move {
            let value = node.probes().next_value(&region, node.clock().wall_millis());
            let mut round = probe(&node, client, value).await;
            round.stands_for = stands_for;
            node.probes().note(&region, &round, node.clock().wall_millis());
            round.is_up()
        });
    }
    if let Some(Ok(own)) = clients.get(&node.config().region.name) {
        probe_tables(node, own, stands_for).await;
    }
    let mut is_any_up = false;
    while let Some(is_up) = under_way.join_next().await {
        is_any_up |= is_up.unwrap_or(false);
    }
    node.probes().note_instance(is_any_up, stands_for, node.clock().wall_millis());
}

/// Writes a row and reads it back.
async fn probe(node: &Node, client: Result<TableStore, String>, value: i64) -> Round {
    let mut round = Round { value, ..Round::default() };
    let client = match client {
        Ok(client) => client,
        Err(reason) => {
            round.reason = reason;
            return round;
        }
    };
    let began = node.clock().monotonic();
    let written = client.write_row(write(&node.config().region.name, value)).await;
    let wrote = node.clock().monotonic();
    let found = client.get_row(read(&node.config().region.name)).await;
    let ended = node.clock().monotonic();
    let mut failed = |what: &str, error: &ClientError| {
        if round.reason.is_empty() {
            round.reason = format!("{what}: {error}");
        }
    };
    match written {
        Ok(_) => round.write_time = Some(wrote.saturating_sub(began)),
        Err(error) => failed("write", &error),
    }
    match found {
        Ok(row) => {
            let cells = row.map(|row| row.row.cells).unwrap_or_default();
            round.found = cells.iter().find_map(|cell| match cell.value {
                Value::Integer(value) => Some(value),
                Value::Double(_) | Value::Boolean(_) | Value::String(_) | Value::Binary(_) => None,
            });
            round.read_time = Some(ended.saturating_sub(wrote));
        }
        Err(error) => failed("read", &error),
    }
    round
}

fn key(prober: &str) -> Vec<NamedKeyPart> {
    let value = KeyValue::String(Text::from(prober));
    vec![NamedKeyPart { name: Text::from(KEY), part: KeyPart::Value(value) }]
}

fn write(prober: &str, value: i64) -> Operation {
    let (name, value) = (Text::from(COLUMN), Value::Integer(value));
    let change = RowChange {
        key: key(prober),
        action: RowAction::Put(vec![CellWrite { name, value, timestamp: None }]),
        condition: Condition::default(),
        returned: Returned::Nothing,
    };
    Operation::PutRow(WriteRow { table: Text::from(PROBE_TABLE), change })
}

fn read(prober: &str) -> GetRow {
    let projection = Projection { max_versions: Some(1), ..Projection::default() };
    GetRow { table: Text::from(PROBE_TABLE), key: key(prober), projection, token: None }
}

/// A client for each region, or why there can be none.
fn clients(node: &Node, patience: Duration) -> BTreeMap<String, Result<TableStore, String>> {
    let config = node.config();
    let own = (config.region.name.clone(), config.public.endpoint.clone());
    let others = config.regions.iter().map(|other| (other.name.clone(), other.endpoint.clone()));
    let all = std::iter::once(own).chain(others);
    let client = |(region, endpoint): (String, String)| {
        let made =
            target(config, &region, endpoint, node.clock().wall_millis()).and_then(|target| {
                // Tables are looked at all at once, through this region.
                let is_own = region == config.region.name;
                let tables = if is_own { config.probe.tables_max as usize } else { 0 };
                let http = HttpOptions {
                    connect_timeout: patience,
                    answer_timeout: patience,
                    idle_max: tables + 1,
                };
                let options =
                    ClientOptions { http, patience: Duration::ZERO, ..ClientOptions::default() };
                let clock = node.clock().clone();
                TableStore::new(target, options, clock).map_err(|error| error.to_string())
            });
        (region, made)
    };
    all.map(client).collect()
}

fn target(
    config: &Config,
    region: &str,
    endpoint: String,
    now_millis: i64,
) -> Result<Target, String> {
    let is_usable = |key: &&crate::config::CredentialConfig| {
        !key.disabled && key.expires_ms().is_none_or(|end| end > now_millis)
    };
    let key = config.credentials.iter().find(is_usable).ok_or("no access key is usable")?;
    Ok(Target {
        endpoint,
        instance: config.instance_of(region).unwrap_or_default().to_owned(),
        access_key_id: key.access_key_id.clone(),
        access_key_secret: key.secret().to_owned(),
        security_token: key.security_token.as_ref().map(|token| token.expose().to_owned()),
        sign_region: None,
    })
}

async fn make_table(node: &Node) -> Result<(), StoreError> {
    let store = node.store();
    if store.table_by_name(PROBE_TABLE).is_some() {
        return Ok(());
    }
    let id = store.reserve_id()?;
    let key = KeyColumn { name: Text::from(KEY), kind: KeyKind::String, auto_increment: false };
    let spec = TableSpec {
        id: TableId(id),
        name: Text::from(PROBE_TABLE),
        partition: PartitionId(id),
        schema: Schema {
            number: SchemaNumber(1),
            key_columns: vec![key],
            defined_columns: Vec::new(),
            options: TableOptions::default(),
        },
        created_millis: node.clock().wall_millis(),
        epoch: Epoch(1),
        base: Origin(node.config().region.number),
        writing: Writing::Accept,
        writers: Writers::One,
        writer: Origin(node.config().region.number),
        handed_over: None,
        settled: Default::default(),
    };
    store.create_table(spec).await.map(drop)
}
