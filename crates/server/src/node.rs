//! One region's node: where store, links and control meet.
//!
//! Control says what this region is to each table (`Record`); the node makes the store and the
//! links obey it, and obeys again after every start. Nothing here touches a row.

mod atomic;
mod change;
mod clocks;
mod conflicts;
mod cuts;
mod distributions;
mod drills;
mod drops;
mod edges;
pub mod events;
mod failover;
mod figures;
mod gauge;
mod global_tables;
pub mod jobs;
mod last;
mod links;
pub mod measures;
mod modes;
mod peers;
mod plan;
mod put_back;
mod reach;
mod receipts;
mod reconcile;
mod retention;
mod schema;
mod scrub;
mod switchover;
mod synced;
mod tail;
pub(crate) mod tell;
mod upkeep;
pub(crate) mod verify;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use isthmus_control::clocks::Clocks;
use isthmus_control::distribution::partition_named;
use isthmus_control::global_table::{GlobalTable, Serve, Sync};
use isthmus_model::clock::Clock;
use isthmus_model::ids::{Origin, PartitionId, TableId};
use isthmus_protocol::error_code::ErrorCode;
use isthmus_replication::error::ReplicationError;
use isthmus_replication::frame::{FORMAT, Hello};
use isthmus_replication::horizon::SafeTimes;
use isthmus_replication::mode::Modes;
use isthmus_replication::pack::PackedLogs;
use isthmus_replication::put_back::PutBacks;
use isthmus_replication::ship::{Outbound, Shared};
use isthmus_replication::trace::Traces;
use isthmus_store::{Store, StoreError, Table, Writers};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};

use crate::api_error::ApiError;
use crate::config::Config;
use crate::http::PublicApi;
use crate::metrics::Requests;
use crate::peer::dial::OtherRegion;
use crate::peer::tls::PeerTls;
use crate::probe::{PROBE_TABLE, Probes};

use self::atomic::Batches;
use self::distributions::Distributions;
use self::drills::Drills;
use self::events::Events;
use self::failover::Failover;
use self::jobs::Jobs;
use self::last::LastReplicas;
use self::links::Holds;
use self::plan::Copies;
use self::retention::KeptLogs;
use self::synced::Synced;
use self::verify::Verification;
use self::verify::scrubs::Scrubs;

pub(crate) use self::atomic::Wanted;
pub(crate) use self::distributions::{Partition, RESHAPE_KINDS, ReshapeFigures};
pub(crate) use self::failover::lease_clock;
pub use self::links::TriggerAsked;
pub use self::synced::{SyncPart, SyncRow, SyncTable, SyncWrite};
pub use self::writer::Place;

/// What this region knows of a global table that it holds a replica of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// What the base region says.
    pub table: GlobalTable,
    /// Whether this replica has all that was there when it was made, so that it can be read.
    pub ready: bool,
}

impl Record {
    /// Whether others may be made like the replica here. One of several writers that was not
    /// completed may still have rows that the others have deleted and forgotten.
    fn may_copy(&self) -> bool {
        self.ready || self.table.serve != Serve::PeerToPeer
    }
}

/// One region's node.
pub struct Node {
    config: Config,
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    shared: Shared,
    others: BTreeMap<String, Arc<OtherRegion>>,
    records: Mutex<BTreeMap<TableId, Record>>,
    /// One change of records at a time.
    changing: tokio::sync::Mutex<()>,
    /// Partitions whose log has grown since the last look.
    grown: Mutex<BTreeSet<PartitionId>>,
    reconcile_soon: Notify,
    /// Something has become durable.
    committed: Notify,
    /// One obedience to records at a time, so that the last one counts.
    obeying: Mutex<()>,
    /// How often what is assigned has changed.
    changes: AtomicU64,
    /// By the monotonic clock.
    serving_since: Duration,
    serving_since_millis: i64,
    tasks: Mutex<tokio::task::JoinSet<()>>,
    verification: Verification,
    jobs: Jobs,
    kept_logs: Mutex<KeptLogs>,
    requests: Requests,
    probes: Probes,
    copies: Copies,
    drills: Drills,
    distributions: Distributions,
    clocks: Mutex<Clocks>,
    /// The log of a table may say that another region writes.
    writer_moved: Notify,
    /// Counts how often the writer of a table has changed, as far as is known here.
    writers: watch::Sender<u64>,
    /// One change of a writer at a time, of tables whose base is here.
    switching: tokio::sync::Mutex<()>,
    /// The regions that were named as the next ones to write such tables.
    named: Mutex<switchover::Named>,
    /// Does what clients ask, for other regions that pass it on.
    public: OnceLock<Weak<PublicApi>>,
    failover: Failover,
    synced: Synced,
    batches: Batches,
    holds: Holds,
    last_replicas: LastReplicas,
    /// Itself.
    this: Weak<Node>,
}

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// What is stored cannot be read.
    #[error("read what is stored")]
    Store(#[from] StoreError),
    /// What is noted of an old disk cannot be read.
    #[error("read what is noted of a disk that was put back")]
    PutBack(#[from] ReplicationError),
    /// The record of a global table is damaged.
    #[error("the record of global table {0} is damaged")]
    Record(String),
    /// The address of a region cannot be used.
    #[error("address of region {0} cannot be used")]
    Address(String, #[source] tonic::transport::Error),
    /// There are other regions but no files for TLS.
    #[error("region {0} is configured but peer.certificate, peer.key and peer.authority are not")]
    NoTls(String),
}

const RECORD_NOTES: &str = "global-table/";

fn record_note(table: TableId) -> Vec<u8> {
    format!("{RECORD_NOTES}{:016x}", table.0).into_bytes()
}

impl Node {
    /// Makes the node obey what it had been told before it stopped. `seed` is chance.
    pub fn start(
        config: Config,
        store: Arc<Store>,
        clock: Arc<dyn Clock>,
        tls: Option<watch::Receiver<PeerTls>>,
        seed: u64,
    ) -> Result<Arc<Node>, NodeError> {
        let shared = Shared {
            store: store.clone(),
            clock: clock.clone(),
            safe_times: Arc::new(SafeTimes::default()),
            standings: Arc::default(),
            put_backs: Arc::new(PutBacks::read(store.clone())?),
            packed: Arc::new(PackedLogs::default()),
            streams: Arc::default(),
            traces: Arc::new(Traces::new(
                clock.clone(),
                config.trace.endpoint.as_ref().map(|_| config.trace.sample),
                seed,
            )),
            modes: Arc::new(Modes::new(clock.clone())),
            hello: Hello {
                format: config.peer.format_max.unwrap_or(FORMAT),
                region: u32::from(config.region.number),
                name: config.region.name.clone(),
                instance: config.instance.name.clone(),
            },
            parcel_bytes_max: config.peer.parcel_bytes_max,
            window_parcels: config.peer.window_parcels,
            offer_rows: isthmus_replication::limits::OFFER_ROWS,
        };
        let others = other_regions(&config, &clock, &shared, tls.as_ref())?;
        let records = read_records(&store)?;
        let scrubs = Scrubs::read(&store)?;
        let jobs = Jobs::read(&store)?;
        let events = Events::read(&store)?;
        let probes = Probes::read(&store)?;
        let copies = Copies::read(&store)?;
        let drills = Drills::read(&store)?;
        let distributions = Distributions::read(&store, others.keys())?;
        let batches = Batches::read(&store)?;
        let holds = Holds::read(&store)?;
        let last_replicas = LastReplicas::read(&store)?;
        let failover = Failover::new(&config, clock.wall_millis());
        let node = Arc::new_cyclic(|node| Node {
            verification: Verification::new(
                node.clone(),
                &store,
                clock.clone(),
                scrubs,
                events,
                seed,
            ),
            jobs,
            kept_logs: Mutex::default(),
            requests: Requests::default(),
            probes,
            copies,
            drills,
            distributions,
            clocks: Mutex::new(Clocks::new(config.peer.clock_skew_max_ms as i64)),
            writer_moved: Notify::new(),
            writers: watch::Sender::new(0),
            switching: tokio::sync::Mutex::new(()),
            named: Mutex::default(),
            public: OnceLock::new(),
            failover,
            synced: Synced::default(),
            batches,
            holds,
            last_replicas,
            this: node.clone(),
            serving_since: clock.monotonic(),
            serving_since_millis: clock.wall_millis(),
            config,
            store,
            clock,
            shared,
            others,
            records: Mutex::new(records),
            changing: tokio::sync::Mutex::new(()),
            grown: Mutex::new(BTreeSet::new()),
            reconcile_soon: Notify::new(),
            committed: Notify::new(),
            obeying: Mutex::new(()),
            changes: AtomicU64::new(0),
            tasks: Mutex::new(tokio::task::JoinSet::new()),
        });
        node.listen_to_store();
        node.obey_links();
        Ok(node)
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where rows are.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// What is counted of the requests of clients.
    pub fn requests(&self) -> &Requests {
        &self.requests
    }

    /// What its prober has found.
    pub fn probes(&self) -> &Probes {
        &self.probes
    }

    /// The tables of its users, by number.
    pub fn tables(&self) -> Vec<Arc<Table>> {
        let mut tables = self.store.tables();
        tables.retain(|table| table.name().as_str() != PROBE_TABLE && !table.is_dropped());
        tables
    }

    /// The user's table of that name, whether it can be read or not.
    pub fn table_named(&self, name: &str) -> Result<Arc<Table>, ApiError> {
        let table = self.store.table_by_name(name).filter(|_| name != PROBE_TABLE);
        table.ok_or_else(ApiError::no_table)
    }

    /// Tells time.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// What links share.
    pub fn shared(&self) -> Shared {
        self.shared.clone()
    }

    /// The traces of requests.
    pub fn traces(&self) -> &Traces {
        &self.shared.traces
    }

    /// The other regions, by name.
    pub fn others(&self) -> &BTreeMap<String, Arc<OtherRegion>> {
        &self.others
    }

    /// Since when it serves, milliseconds since the Unix epoch.
    pub fn serving_since_millis(&self) -> i64 {
        self.serving_since_millis
    }

    /// Whether a region of that name is configured.
    pub fn is_member(&self, region: &str) -> bool {
        self.others.contains_key(region)
    }

    /// What is known of the table as a global table.
    pub fn record(&self, table: TableId) -> Option<Record> {
        self.records.lock().get(&table).cloned()
    }

    /// Whether anything is known of the table as a global table.
    fn is_recorded(&self, table: TableId) -> bool {
        self.records.lock().contains_key(&table)
    }

    /// Runs a task until it ends or the node stops.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    /// Waits until all tasks have ended; ends those that take longer than `patience`.
    pub async fn finish_tasks(&self, patience: Duration) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        let all_ended = async { while tasks.join_next().await.is_some() {} };
        let in_time = tokio::time::timeout(patience, all_ended).await.is_ok();
        if !in_time {
            tasks.shutdown().await;
        }
    }

    /// The table of that name, if it can be read here now.
    pub fn readable(&self, name: &str) -> Result<Arc<Table>, ApiError> {
        let table = self.store.table_by_name(name).ok_or_else(ApiError::no_table)?;
        let ready = match self.records.lock().get(&table.id()) {
            Some(record) => record.ready,
            // It is being made or removed: what it lacks is elsewhere.
            None => partition_named(name).is_none(),
        };
        if ready && !self.shared.put_backs.is_put_back(table.partition()) {
            return Ok(table);
        }
        Err(ApiError::new(ErrorCode::TableNotReady, "The table is not ready."))
    }

    /// The table of that name, if it can be written here now.
    pub fn writable(&self, name: &str) -> Result<Arc<Table>, ApiError> {
        match self.place_of_writes(name)? {
            Place::Here(table) => self.check_holders(&table).map(|()| table),
            Place::There(_) | Place::Unsettled => Err(ApiError::elsewhere()),
        }
    }

    /// The table of that name, if its schema can be changed here.
    pub fn changeable(&self, name: &str) -> Result<Arc<Table>, ApiError> {
        self.table_named(name)?;
        let table = self.readable(name)?;
        if self.needs_lease(&table) && !self.is_leased() {
            return Err(ApiError::elsewhere());
        }
        let records = self.records.lock();
        match records.get(&table.id()) {
            Some(record) if record.table.speaker() != self.config.region.name => {
                let speaker = record.table.speaker();
                let which = if speaker == record.table.base { "base" } else { "primary" };
                let endpoint = self.endpoint_of(speaker).unwrap_or_default();
                let message = format!(
                    "The schema of a global table is changed in its {which} region {speaker} \
                     {endpoint}"
                );
                Err(ApiError::new(ErrorCode::NoPermissionAccess, message))
            }
            _ => Ok(table),
        }
    }

    /// The public endpoint of a region.
    pub fn endpoint_of(&self, region: &str) -> Option<String> {
        if region == self.config.region.name {
            return Some(self.config.public.endpoint.clone());
        }
        let other = self.config.regions.iter().find(|other| other.name == region)?;
        Some(other.endpoint.clone())
    }

    /// The number of a region.
    fn number_of(&self, region: &str) -> Option<Origin> {
        if region == self.config.region.name {
            return Some(Origin(self.config.region.number));
        }
        let other = self.config.regions.iter().find(|other| other.name == region)?;
        Some(Origin(other.number))
    }

    fn partition_of(&self, table: TableId) -> Option<PartitionId> {
        Some(self.store.table(table)?.partition())
    }

    fn table_of(&self, partition: PartitionId) -> Option<Arc<Table>> {
        self.store.table_of_partition(partition)
    }

    fn listen_to_store(self: &Arc<Self>) {
        let node = Arc::downgrade(self);
        self.store.on_durable(Arc::new(move |partition, lsn| {
            let Some(node) = node.upgrade() else { return };
            node.grown.lock().insert(partition);
            node.committed.notify_waiters();
            for other in node.others.values() {
                other.grown(partition, lsn);
            }
        }));
        let node = Arc::downgrade(self);
        self.store.on_spec(Arc::new(move |_| {
            if let Some(node) = node.upgrade() {
                node.writer_moved.notify_one();
            }
        }));
    }
}

/// Who writes a table of that kind.
fn writers(table: &GlobalTable) -> Writers {
    match (table.serve, table.sync) {
        (Serve::PrimarySecondary, _) => Writers::One,
        (Serve::PeerToPeer, Sync::Row) => Writers::ManyByRow,
        (Serve::PeerToPeer, Sync::Column) => Writers::ManyByColumn,
    }
}

fn other_regions(
    config: &Config,
    clock: &Arc<dyn Clock>,
    shared: &Shared,
    tls: Option<&watch::Receiver<PeerTls>>,
) -> Result<BTreeMap<String, Arc<OtherRegion>>, NodeError> {
    let mut others = BTreeMap::new();
    for other in &config.regions {
        let tls = tls.ok_or_else(|| NodeError::NoTls(other.name.clone()))?;
        let outbound = Outbound::new(shared.clone(), Origin(other.number));
        let clock = clock.clone();
        let region = OtherRegion::new(
            &other.name,
            &config.region.name,
            other.peer.as_deref(),
            tls.clone(),
            outbound,
            Arc::new(move || clock.wall_millis()),
        )
        .map_err(|error| NodeError::Address(other.name.clone(), error))?;
        others.insert(other.name.clone(), Arc::new(region));
    }
    Ok(others)
}

fn read_records(store: &Store) -> Result<BTreeMap<TableId, Record>, NodeError> {
    let mut records = BTreeMap::new();
    for (name, value) in store.notes(RECORD_NOTES.as_bytes())? {
        let damaged = || NodeError::Record(String::from_utf8_lossy(&name).into_owned());
        let record: Record = serde_json::from_slice(&value).map_err(|_| damaged())?;
        records.insert(TableId(record.table.table), record);
    }
    Ok(records)
}
