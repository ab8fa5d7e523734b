//! A whole node: a real store on a disk that fails, real links, and the upkeep of the server.
//!
//! A life begins with what is on the disk and ends in a crash or a clean stop; nothing but the
//! disk outlives it.

mod binding;
mod links;
mod modes;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use isthmus_control::global_table::Progress;
use isthmus_model::clock::Clock;
use isthmus_model::hlc::Hlc;
use isthmus_model::ids::{Lsn, Origin, PartitionId};
use isthmus_replication::frame::{FORMAT_OF_HANDOVER, Hello};
use isthmus_replication::horizon::SafeTimes;
use isthmus_replication::link::State;
use isthmus_replication::mode::{Modes, SemiSync};
use isthmus_replication::pack::PackedLogs;
use isthmus_replication::put_back::PutBacks;
use isthmus_replication::receive::{Assignments, Inbound};
use isthmus_replication::retention::Retention;
use isthmus_replication::ship::{Outbound, Shared};
use isthmus_replication::standings::OwnWord;
use isthmus_replication::terms::{Direction, Terms};
use isthmus_replication::trace::Traces;
use isthmus_store::engine::Engine;
use isthmus_store::limits::FORGET_STEP;
use isthmus_store::{Store, StoreError, StoreOptions, Table, TableSpec, Writing};
use parking_lot::Mutex;

use crate::clock::NodeClock;
use crate::disk::Disk;
use crate::network::StreamId;
use crate::options::{Nature, TablePlan};
use crate::plant::Plant;
use crate::roles::{INSTANCE, Roles, origin_named, origin_of, region_name};
use crate::world::writers::is_settled;

pub(crate) use self::modes::LifeModes;

/// How long a cut stays readable after it was the safe time.
const PAST_KEPT_MILLIS: i64 = 3000;

/// A node and its machine.
pub(crate) struct Node {
    pub(crate) clock: Arc<NodeClock>,
    pub(crate) disk: Arc<Disk>,
    /// The newest format that it speaks when it starts.
    pub(crate) format: u32,
    /// What is at rest of what people ask of its links.
    pub(crate) asked: Asked,
    /// What is at rest of when writes are answered.
    pub(crate) modes: SemiSyncs,
    /// `None`: it is down.
    pub(crate) life: Option<Life>,
}

/// What is asked of links, by peer and partition.
pub(crate) type Asked = BTreeMap<(usize, PartitionId), Terms>;

/// What writes of a partition wait for.
pub(crate) type SemiSyncs = BTreeMap<PartitionId, SemiSync>;

type Grown = Arc<Mutex<Vec<(PartitionId, Lsn)>>>;

/// From a start to a stop.
pub(crate) struct Life {
    node: usize,
    pub(crate) store: Arc<Store>,
    pub(crate) roles: Arc<Roles>,
    shared: Shared,
    pub(crate) outbound: BTreeMap<usize, Outbound>,
    /// The streams to each peer that are thought to be there, by who dialled.
    pub(crate) shipping: BTreeMap<(usize, Direction), StreamId>,
    /// The streams from each peer that this node has dialled.
    pub(crate) pulling: BTreeMap<usize, StreamId>,
    pub(crate) inbound: BTreeMap<StreamId, Inbound>,
    grown: Grown,
    fatal: Arc<AtomicBool>,
    retention: Option<Retention>,
    asked: Asked,
    pub(crate) modes: LifeModes,
    /// Assignments were obeyed when they had changed so often.
    obeyed: u64,
    /// Tables that are being assigned.
    assigning: BTreeMap<PartitionId, binding::Stage>,
    plant: Option<Plant>,
}

impl Life {
    /// Starts from what is on the disk.
    pub(crate) fn start(node: usize, place: &Node, nature: &Nature) -> Result<Life, StoreError> {
        let mut options = StoreOptions::new(origin_of(node));
        options.queue_bytes_max = nature.queue_bytes_max;
        options.log_tail_bytes_max = nature.log_tail_bytes_max;
        options.past_bytes_max = nature.past_bytes_max;
        // Few rows fit, so that rows are read as well as known.
        options.parts_cache_bytes = 4096;
        let engine: Arc<dyn Engine> = place.disk.clone();
        let clock: Arc<dyn Clock> = place.clock.clone();
        let store = Store::open(engine, clock.clone(), options)?;
        let roles = Arc::new(Roles::read(
            node,
            store.clone(),
            &nature.tables,
            nature.bind_every.is_some(),
        )?);
        let modes = Arc::new(Modes::new(clock.clone()));
        let shared = Shared {
            store: store.clone(),
            modes: modes.clone(),
            traces: Arc::new(Traces::new(clock.clone(), None, 0)),
            clock,
            safe_times: Arc::new(SafeTimes::default()),
            standings: Arc::default(),
            put_backs: Arc::new(PutBacks::read(store.clone()).map_err(|_| StoreError::Stopped)?),
            packed: Arc::new(PackedLogs::learning_from(nature.dictionary_samples)),
            streams: Arc::default(),
            hello: Hello {
                format: place.format,
                region: node as u32 + 1,
                name: region_name(node),
                instance: INSTANCE.to_owned(),
            },
            parcel_bytes_max: nature.parcel_bytes_max,
            window_parcels: nature.window_parcels,
            offer_rows: nature.offer_rows,
        };
        let peers = (0..nature.regions).filter(|peer| *peer != node);
        let outbound =
            peers.map(|peer| (peer, Outbound::new(shared.clone(), origin_of(peer)))).collect();
        let mut life = Life {
            node,
            store,
            roles,
            shared,
            outbound,
            shipping: BTreeMap::new(),
            pulling: BTreeMap::new(),
            inbound: BTreeMap::new(),
            grown: Grown::default(),
            fatal: Arc::new(AtomicBool::new(false)),
            retention: nature.retention,
            asked: place.asked.clone(),
            modes: LifeModes::new(modes, place.modes.clone()),
            obeyed: 0,
            assigning: BTreeMap::new(),
            plant: nature.plant,
        };
        life.listen();
        life.obey_links();
        Ok(life)
    }

    fn listen(&self) {
        let grown = self.grown.clone();
        self.store.on_durable(Arc::new(move |partition, lsn| grown.lock().push((partition, lsn))));
        let fatal = self.fatal.clone();
        self.store.on_fatal(Arc::new(move |_| fatal.store(true, Ordering::Relaxed)));
    }

    /// Makes a dictionary of what small parcels have in common, if one is due.
    pub(crate) fn learn_step(&self) {
        self.shared.packed.dictionaries.learn_step();
    }

    /// Whether a commit has failed, so that it must stop.
    pub(crate) fn is_fatal(&self) -> bool {
        self.fatal.load(Ordering::Relaxed)
    }

    fn changes(&self) -> u64 {
        self.roles.changes() + self.shared.put_backs.changes()
    }

    /// Whether clients may use a table here.
    pub(crate) fn is_usable(&self, partition: PartitionId) -> bool {
        self.roles.is_ready(partition) && !self.shared.put_backs.is_put_back(partition)
    }

    /// Whether a table is one that its base and others hold, too.
    pub(crate) fn is_in_common(&self, plan: &TablePlan) -> bool {
        plan.base == self.node || self.roles.is_shared(plan.partition)
    }

    /// Whether all replicas have said where they stand since the start.
    pub(crate) fn has_heard_all(&self, partition: PartitionId) -> bool {
        self.shared.put_backs.are_all_heard(partition)
    }

    /// People ask other things of links.
    pub(crate) fn ask(&mut self, asked: &Asked) {
        self.asked.clone_from(asked);
        self.obey_links();
    }

    /// The end of a log.
    pub(crate) fn durable_lsn(&self, partition: PartitionId) -> Lsn {
        let table = self.store.table_of_partition(partition);
        table.map_or(Lsn(0), |table| table.durable_lsn())
    }

    /// What time alone brings.
    pub(crate) fn tick(&mut self) {
        self.outbound.values_mut().for_each(Outbound::tick);
        self.inbound.values_mut().for_each(Inbound::tick);
        self.modes.tick(&self.store);
    }

    /// Up to when everything is in a table, if that is known.
    pub(crate) fn safe_to_read(&self, table: &Table, plant: Option<Plant>) -> Option<Hlc> {
        let partition = table.partition();
        let is_shared = self.roles.is_shared(partition);
        let is_whole = !is_shared || self.roles.is_ready(partition);
        // Who else writes is not known before the note of it is at rest.
        if !is_whole || (table.spec().writers.are_many() && !is_shared) {
            return None;
        }
        let others = self.other_writers(partition, plant);
        Some(self.shared.safe_times.safe_to_read(table, &others, self.store.promise()))
    }

    /// Trims logs and moves horizons, as the server does.
    pub(crate) fn look_after(&self, plant: Option<Plant>) {
        for table in self.store.tables() {
            let partition = table.partition();
            self.tell_standing(&table, plant);
            // Who else writes is not known before the note of it is at rest.
            if table.spec().writers.are_many() && self.roles.is_shared(partition) {
                let mut others = self.other_writers(partition, plant);
                if plant == Some(Plant::HorizonWithoutReplica) {
                    others.pop();
                }
                let own = self.store.promise();
                table.set_horizon(self.shared.safe_times.horizon(partition, &others, own));
            }
            if let Some(safe) = self.safe_to_read(&table, plant) {
                table.release_past(Hlc::from_millis(safe.millis() - PAST_KEPT_MILLIS));
            }
            let end = table.durable_lsn();
            if let Some(needed) = self.log_needed_after(partition, end)
                && needed > table.log_start()
            {
                drop(table.trim_log(needed));
            }
        }
        if let Some(retention) = self.retention {
            self.keep_within(retention);
        }
    }

    /// Opens epochs and follows who writes, as logs say.
    pub(crate) fn look_at_writers(&self) {
        for plan in self.roles.shared() {
            let table = self.store.table(plan.id).filter(|_| !plan.writers.are_many());
            if let Some(table) = table {
                self.prepare_to_write(&table);
                while self.roles.look_at_writer(&table) {}
            }
        }
    }

    /// A shared table whose regions tell each other how they stand.
    fn told_of(&self, partition: PartitionId) -> Option<Arc<Table>> {
        let record = self.roles.record(partition)?;
        let is_told = record.tells_standings() && self.roles.is_shared(partition);
        if is_told { self.store.table_of_partition(partition) } else { None }
    }

    /// One of which the log is kept for all regions, whoever feeds them.
    fn kept_for_all(&self, partition: PartitionId) -> Option<Arc<Table>> {
        let record = self.roles.record(partition)?;
        let is_old = |outbound: &Outbound| (1..FORMAT_OF_HANDOVER).contains(&outbound.format());
        let may_take_over =
            record.primary() != region_name(self.node) && !self.outbound.values().any(is_old);
        self.told_of(partition).filter(|_| record.has_edges() || may_take_over)
    }

    /// The other regions whose replicas are to have all entries.
    fn replicas_to_hold(&self, partition: PartitionId) -> Vec<Origin> {
        let Some(record) = self.roles.record(partition) else { return Vec::new() };
        let own = region_name(self.node);
        let replicas = record.replicas.iter().filter(|replica| {
            replica.region != own
                && replica.progress != Progress::Unbinding
                && !record.has_enough(&replica.region)
        });
        replicas.map(|replica| origin_named(&replica.region)).collect()
    }

    /// Whether a replica has been given all that it takes once.
    pub(crate) fn has_given_all(&self, peer: usize, partition: PartitionId) -> bool {
        self.outbound.get(&peer).is_some_and(|outbound| {
            let report = outbound.report(partition);
            report.is_some_and(|report| report.state == State::Following)
                && outbound.has_told_follow(partition)
        })
    }

    fn other_writers(&self, partition: PartitionId, plant: Option<Plant>) -> Vec<Origin> {
        let mut others = self.roles.other_writers(partition);
        if plant == Some(Plant::SafeOfNeighbours) && self.told_of(partition).is_some() {
            others.retain(|other| self.roles.is_neighbour(*other, partition));
        }
        others
    }

    fn tell_standing(&self, table: &Table, plant: Option<Plant>) {
        let partition = table.partition();
        if self.told_of(partition).is_none() {
            return self.shared.standings.forget(partition);
        }
        let unassigned = self.outbound.iter().filter(|(_, outbound)| {
            let report = outbound.report(partition);
            report.is_some_and(|report| report.unassigned && report.state == State::Opening)
        });
        let word = OwnWord {
            promise: self.store.promise(),
            is_complete: self.roles.is_ready(partition),
            other_writers: self.other_writers(partition, plant),
            unassigned: unassigned.map(|(peer, _)| origin_of(*peer)).collect(),
        };
        let own = origin_of(self.node);
        self.shared.standings.tell(own, table, &word, &self.shared.safe_times);
    }

    /// Cuts logs that replicas need, where together they are too long or too old.
    fn keep_within(&self, retention: Retention) {
        let tables = self.store.tables();
        let length = retention.length_max(tables.iter().map(|table| table.log_size().bytes));
        let since = retention.since_millis(self.shared.clock.wall_millis());
        for table in tables {
            let start = table.log_start_within(length, since);
            if start > table.log_start() {
                drop(table.trim_log(start));
            }
        }
    }

    fn log_needed_after(&self, partition: PartitionId, end: Lsn) -> Option<Lsn> {
        let mut needed = end;
        if let Some(table) = self.kept_for_all(partition) {
            let others = self.replicas_to_hold(partition);
            let own = origin_of(self.node);
            needed = needed.min(self.shared.standings.held_by(own, &table, &others)?);
        }
        for outbound in self.outbound.values() {
            match outbound.needs_after(partition) {
                None => {}
                Some(None) => return None,
                Some(Some(after)) => needed = needed.min(after),
            }
        }
        Some(needed)
    }

    /// Lets a table of this region be shared, or makes the replica that the base asks for. Gives
    /// whether it is so already.
    pub(crate) fn share(&mut self, plan: &TablePlan, base: &TableSpec) -> bool {
        let writing = if plan.is_writer(self.node) { Writing::Accept } else { Writing::Refuse };
        let Some(table) = self.store.table(plan.id) else {
            let spec = TableSpec { writing, writers: plan.writers, ..base.clone() };
            drop(self.store.create_table(spec));
            return false;
        };
        let spec = table.spec();
        // What an old disk lacks comes before what the record says; and who writes a table with
        // one writer is for its log to say.
        let is_put_back = self.shared.put_backs.is_put_back(plan.partition);
        let is_other = spec.writers != plan.writers || (spec.writing != writing && !is_put_back);
        if plan.writers.are_many() && is_other {
            drop(self.store.set_writing(plan.id, writing, plan.writers, spec.epoch));
            return false;
        }
        if !self.roles.is_shared(plan.partition) {
            self.roles.share(plan.partition, plan.base == self.node);
            self.roles.refresh();
            return false;
        }
        self.obey_links();
        true
    }

    /// Whether every link that leaves this node has brought everything to its peer.
    pub(crate) fn has_shipped_all<'a>(
        &self,
        plans: impl Iterator<Item = &'a TablePlan>,
    ) -> Result<(), String> {
        for plan in plans {
            let table = self.store.table(plan.id).ok_or("a table is missing")?;
            if !self.roles.is_shared(plan.partition) || !self.is_usable(plan.partition) {
                return Err(format!("{} is not complete at node {}", plan.name, self.node));
            }
            if !plan.writers.are_many() && !is_settled(self, plan) {
                return Err(format!("nobody writes {} as node {} sees it", plan.name, self.node));
            }
            self.check_links(plan, &table)?;
        }
        Ok(())
    }

    fn check_links(&self, plan: &TablePlan, table: &Table) -> Result<(), String> {
        for (peer, outbound) in &self.outbound {
            if self.roles.feeding(plan.partition, *peer).is_none() {
                continue;
            }
            let report = outbound.report(plan.partition).ok_or("a link is missing")?;
            let done =
                report.state == State::Following && report.acked == Some(table.durable_lsn());
            if !done {
                let name = plan.name;
                return Err(format!("{name} from node {} to {peer}: {report:?}", self.node));
            }
        }
        // Trimming is coarse.
        let kept = table.durable_lsn().0 - table.log_start().0;
        if kept > FORGET_STEP {
            return Err(format!("the log of {} is not trimmed: {kept} are kept", plan.name));
        }
        Ok(())
    }
}
