//! Dropped tables: what their bases do until nothing is left of them, as the server does it.

use isthmus_control::dropping::DropStep;
use isthmus_control::global_table::{GlobalTable, Progress};
use isthmus_store::TableSpec;

use super::World;
use crate::node::Life;
use crate::options::TablePlan;
use crate::plant::Plant;
use crate::roles::{node_named, region_name};

impl World {
    /// One step of a table that its base has dropped.
    pub(super) fn reconcile_drop(&mut self, plan: &TablePlan) {
        let Some(record) = self.records.get(&plan.partition) else { return };
        match record.drop_step() {
            DropStep::Ask(regions) => {
                for region in regions {
                    let denied = self.options.plant == Some(Plant::DropNotWaitedFor);
                    if denied || self.answers_drop(plan, &region) {
                        self.advance_drop(plan, |record| {
                            let _ = record.advance(&region, Progress::Dropped, 0);
                        });
                    }
                }
            }
            DropStep::Remove(regions) => {
                for region in regions {
                    if self.is_cut_from(plan.base, node_named(&region)) {
                        continue;
                    }
                    if self.remove_table(plan, node_named(&region)) {
                        self.advance_drop(plan, |record| record.remove(&region));
                    }
                }
            }
            DropStep::End => {
                self.gone.insert(plan.partition);
                self.remove_table(plan, plan.base);
            }
        }
    }

    fn advance_drop(&mut self, plan: &TablePlan, change: impl FnOnce(&mut GlobalTable)) {
        if let Some(record) = self.records.get_mut(&plan.partition) {
            change(record);
        }
    }

    /// Whether a region is reached and has had the drop, or knows nothing of the table.
    fn answers_drop(&self, plan: &TablePlan, region: &str) -> bool {
        let node = node_named(region);
        let life = self.nodes.get(node).and_then(|place| place.life.as_ref());
        !self.is_cut_from(plan.base, node)
            && life.is_some_and(|life| {
                life.store.table(plan.id).is_none_or(|table| table.is_dropped())
            })
    }

    /// Removes what a node holds; gives whether nothing is there any more.
    fn remove_table(&mut self, plan: &TablePlan, node: usize) -> bool {
        let Some(life) = self.life(node) else { return false };
        if life.store.table(plan.id).is_none() {
            life.obey_links();
            return true;
        }
        // Asked again until it is gone.
        drop(life.store.drop_table(plan.id));
        self.note(&format!("node {node} removes {}", plan.name));
        false
    }

    /// Whether a node takes part in a table no more, since it is dropped.
    pub(super) fn has_left(&self, plan: &TablePlan, base: &TableSpec, node: usize) -> bool {
        let record = self.records.get(&plan.partition);
        let replica = record.and_then(|record| record.replica(&region_name(node)));
        base.schema.options.is_dropped
            && replica.is_none_or(|replica| replica.progress == Progress::Dropped)
    }

    /// Whether nothing is left at a node of tables that were dropped; else what is.
    pub(super) fn are_dropped_gone(&self, life: &Life) -> Result<(), String> {
        for plan in &self.nature.tables {
            let Some(table) = life.store.table(plan.id) else { continue };
            if table.is_dropped() || self.gone.contains(&plan.partition) {
                return Err(format!("{} is dropped and not gone", plan.name));
            }
        }
        Ok(())
    }

    fn is_cut_from(&self, base: usize, node: usize) -> bool {
        self.network.is_cut(base, node) || self.network.is_cut(node, base)
    }
}
