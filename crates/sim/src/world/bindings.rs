//! Regions are unbound and bound again while everything breaks.
//!
//! What the base of a table decides is `isthmus_control::binding`; here it is asked again and
//! again, and what it says is handed to the region that is meant, where that is reached.

use isthmus_control::binding::BindStep;
use isthmus_control::global_table::{GlobalTable, Progress};
use isthmus_model::ids::PartitionId;
use isthmus_store::TableSpec;
use rand::Rng;

use super::events::Event;
use super::{Phase, World};
use crate::checkers::{Violation, extracts};
use crate::options::{TablePlan, bind_extract};
use crate::plant::Plant;
use crate::roles::{node_named, region_name};

impl World {
    /// A person unbinds a region from a table, or binds it again.
    pub(super) fn bind_somewhere(&mut self) {
        let Some(every) = self.nature.bind_every.filter(|_| self.phase == Phase::Chaos) else {
            return;
        };
        let pause = self.bindings.random_range(1..every * 2);
        self.after(pause, Event::BindSomewhere);
        let plan = &self.nature.tables[self.bindings.random_range(0..self.nature.tables.len())];
        let region = region_name(self.bindings.random_range(0..self.nature.regions));
        let (name, partition) = (plan.name, plan.partition);
        let base = self.nodes.get(plan.base).and_then(|place| place.life.as_ref());
        let is_shared = base.is_some_and(|life| life.roles.is_shared(partition));
        let Some(record) = self.records.get_mut(&partition).filter(|_| is_shared) else { return };
        if record.replica(&region).is_none() {
            if self.nature.extracts {
                let plan = plan.clone();
                self.bind_part(&plan, &region);
                return;
            }
            if let Ok(bound) = record.clone().with_replica(&region, false, 0) {
                *record = bound;
                self.note(&format!("{region} is to hold {name} again"));
            }
            return;
        }
        // Of a table that the base has alone the server makes an ordinary one.
        let stays = |replica: &&isthmus_control::global_table::Replica| {
            replica.progress != Progress::Unbinding && replica.region != region
        };
        if record.replicas.iter().filter(stays).count() > 1 && record.unbind(&region, 0).is_ok() {
            // From now on others may take nothing of it.
            self.observer.lock().leaves(node_named(&region), partition);
            self.note(&format!("{region} is to leave {name}"));
        }
    }

    /// A region is to take a part of a table. What it has left of it a person removes first.
    fn bind_part(&mut self, plan: &TablePlan, region: &str) {
        let Some(life) = self.life(node_named(region)) else { return };
        if life.store.table(plan.id).is_some() {
            drop(life.store.drop_table(plan.id));
            return;
        }
        let Some(record) = self.records.get(&plan.partition) else { return };
        if let Ok(bound) = bind_extract(record, &mut self.bindings, region) {
            self.note(&format!("{region} is to take {}: {:?}", plan.name, bound.replica(region)));
            self.records.insert(plan.partition, bound);
        }
    }

    /// What is left is bound again, in some of the worlds.
    pub(super) fn bind_all(&mut self) {
        if self.nature.bind_every.is_none() || !self.nature.binds_all || self.nature.extracts {
            return;
        }
        for plan in self.nature.tables.clone() {
            for region in (0..self.nature.regions).map(region_name) {
                self.bind_lost(&plan, &region);
            }
        }
    }

    fn bind_lost(&mut self, plan: &TablePlan, region: &str) {
        let Some(record) = self.records.get_mut(&plan.partition) else { return };
        if let Ok(bound) = record.clone().with_replica(region, false, 0) {
            *record = bound;
            self.note(&format!("{region} is to hold {} in the end", plan.name));
        }
    }

    /// One step of what the base of a table asks a region for.
    pub(super) fn reconcile_binding(&mut self, plan: &TablePlan, spec: &TableSpec, node: usize) {
        let partition = plan.partition;
        let Some(record) = self.records.get(&partition).cloned() else { return };
        if node == plan.base {
            if let Some(life) = self.life(node) {
                life.share(plan, spec);
                life.roles.obey(partition, &record);
            }
            return;
        }
        let region = region_name(node);
        if !self.is_reached_from(plan.base, node) || !self.is_shared_at(plan.base, partition) {
            return;
        }
        let is_reached = |other: &str| self.is_reached_from(plan.base, node_named(other));
        let mut step = record.bind_step(&region, false, is_reached);
        let denied = self.options.plant == Some(Plant::ReplicaNotWaitedFor);
        if denied && matches!(step, BindStep::WaitFor(_)) {
            step = BindStep::Assign;
        }
        self.look_whether_taken(plan, &record, node);
        match step {
            BindStep::Nothing | BindStep::WaitFor(_) => {}
            BindStep::Assign => self.assign(plan, spec, &record, node),
            BindStep::Unassign => {
                self.observer.lock().leaves(node, partition);
                let is_told = self.options.plant != Some(Plant::RemovalNotTold);
                let Some(life) = self.life(node) else { return };
                if life.dissolve(plan) {
                    self.change_record(partition, |known| {
                        known.remove(&region);
                        known.version = if is_told { known.version } else { record.version };
                    });
                    self.note(&format!("node {node} has left {}", plan.name));
                }
            }
        }
    }

    /// A replica that takes what is there once has enough when it was told that it has all.
    fn look_whether_taken(&mut self, plan: &TablePlan, record: &GlobalTable, node: usize) {
        let (region, partition) = (region_name(node), plan.partition);
        let progress = record.replica(&region).map(|replica| replica.progress);
        if !record.is_taken_once(&region) || progress != Some(Progress::Assigned) {
            return;
        }
        let base = self.nodes.get(plan.base).and_then(|place| place.life.as_ref());
        if base.is_some_and(|life| life.has_given_all(node, partition)) {
            self.change_record(partition, |known| {
                let _ = known.advance(&region, Progress::Active, 0);
            });
        }
    }

    fn assign(&mut self, plan: &TablePlan, spec: &TableSpec, record: &GlobalTable, node: usize) {
        let partition = plan.partition;
        let region = region_name(node);
        let mut observer = self.observer.lock();
        observer.is_bound(node, partition, plan.base);
        if record.takes_extract(&region) {
            observer.takes_less(node, partition);
        }
        drop(observer);
        let Some(life) = self.life(node) else { return };
        if life.assign(plan, spec, record) {
            self.observer.lock().has_joined(node, partition);
            self.change_record(partition, |known| known.confirm(&region, record.version, 0));
        }
    }

    fn change_record(&mut self, partition: PartitionId, change: impl FnOnce(&mut GlobalTable)) {
        if let Some(record) = self.records.get_mut(&partition) {
            change(record);
        }
    }

    fn is_reached_from(&self, base: usize, node: usize) -> bool {
        let is_up = |node: usize| self.nodes.get(node).is_some_and(|place| place.life.is_some());
        let is_cut = self.network.is_cut(base, node) || self.network.is_cut(node, base);
        is_up(base) && is_up(node) && !is_cut
    }

    fn is_shared_at(&self, node: usize, partition: PartitionId) -> bool {
        let life = self.nodes.get(node).and_then(|place| place.life.as_ref());
        life.is_some_and(|life| life.roles.is_shared(partition))
    }

    /// Whether a node holds a replica of a table, and is not a region that has left it.
    pub(super) fn is_bound(&self, node: usize, partition: PartitionId) -> bool {
        let record = self.records.get(&partition);
        self.nature.bind_every.is_none()
            || record.is_some_and(|record| record.replica(&region_name(node)).is_some())
    }

    /// Whether a node holds a replica of all of a table.
    pub(super) fn counts(&self, node: usize, partition: PartitionId) -> bool {
        let record = self.records.get(&partition);
        let takes_less = record.is_some_and(|record| record.takes_extract(&region_name(node)));
        self.is_bound(node, partition) && !takes_less
    }

    /// Holds replicas that take less than all against the history.
    pub(super) fn check_extracts(&mut self) -> Result<(), Violation> {
        for plan in self.nature.tables.iter().filter(|_| self.nature.extracts) {
            let Some(record) = self.records.get(&plan.partition) else { continue };
            let table = |node: usize| {
                let life = self.nodes.get(node).and_then(|place| place.life.as_ref());
                life.and_then(|life| life.store.table(plan.id))
            };
            let Some(end) = table(plan.base).map(|table| table.durable_lsn()) else { continue };
            for replica in &record.replicas {
                let node = node_named(&replica.region);
                if let (Some(extract), Some(table)) = (&replica.extract, table(node)) {
                    extracts::check(&self.observer.lock(), node, &table, end, extract)?;
                    self.extracts_checked += 1;
                }
            }
        }
        Ok(())
    }

    /// Replicas that were left apart and have all again count as before.
    pub(super) fn look_at_bound(&mut self, node: usize) {
        if self.nature.bind_every.is_none() {
            return;
        }
        let Some(life) = self.nodes.get(node).and_then(|place| place.life.as_ref()) else { return };
        let mut observer = self.observer.lock();
        for plan in &self.nature.tables {
            let partition = plan.partition;
            let takes_less = life.roles.extract(partition, node, None).is_some();
            if life.roles.is_shared(partition) && life.roles.is_ready(partition) && !takes_less {
                observer.counts_again(node, partition);
            }
        }
    }

    /// Whether all that was asked for is done; else what is not.
    pub(super) fn are_bindings_done(&self) -> Result<(), String> {
        if self.nature.bind_every.is_none() {
            return Ok(());
        }
        for plan in &self.nature.tables {
            let Some(record) = self.records.get(&plan.partition) else { continue };
            for replica in record.replicas.iter().filter(|replica| replica.region != record.base) {
                let takes_once = record.is_taken_once(&replica.region);
                let is_settled = replica.confirmed_version == record.version
                    && replica.progress != Progress::Unbinding
                    && (!takes_once || replica.progress == Progress::Active);
                if !is_settled {
                    return Err(format!("{} of {} is not settled", replica.region, plan.name));
                }
            }
        }
        Ok(())
    }
}
