//! Clients ask regions whether they have a write, by its receipt, and read what they have.

use rand::Rng;

use super::World;
use super::events::Event;
use crate::checkers::receipts;
use crate::plant::Plant;

const ASKED_EVERY: u64 = 30_000;

impl World {
    /// A client asks some region for a write, or lets it wait until the region has it.
    pub(super) fn ask_for_receipt(&mut self) {
        let pause = self.receipts.random_range(1..ASKED_EVERY * 2);
        self.after(pause, Event::Receipt);
        let node = self.receipts.random_range(0..self.nature.regions);
        let count = self.clients.receipts.len();
        if count == 0 {
            return;
        }
        let receipt = self.clients.receipts[self.receipts.random_range(0..count)].clone();
        let partition = receipt.partition;
        let Some(life) = self.nodes.get(node).and_then(|place| place.life.as_ref()) else { return };
        let Some(table) = life.store.table(receipt.table) else { return };
        let mut observer = self.observer.lock();
        let is_read = life.is_usable(partition) && !life.is_fatal() && !table.is_dropped();
        if !is_read || observer.is_apart(node, partition) {
            return;
        }
        let has = |node: usize| {
            let life = self.nodes.get(node).and_then(|place| place.life.as_ref());
            let table = life.and_then(|life| life.store.table(receipt.table));
            table.is_some_and(|table| table.has_written(receipt.origin, receipt.epoch, receipt.lsn))
        };
        let denied = self.options.plant == Some(Plant::AnyReceiptTaken);
        if !(has(node) || denied && (0..self.nature.regions).any(has)) {
            return;
        }
        let checked = receipts::check(&observer, node, &table, &receipt);
        observer.judge(checked);
        drop(observer);
        self.receipts_checked += 1;
        self.said.push((node, receipt));
    }

    /// What a node had said that it has it has after a start.
    pub(super) fn check_said(&mut self, node: usize) {
        let Some(life) = self.nodes.get(node).and_then(|place| place.life.as_ref()) else { return };
        let mut observer = self.observer.lock();
        for (_, receipt) in self.said.iter().filter(|(said, _)| *said == node) {
            let Some(table) = life.store.table(receipt.table) else { continue };
            if table.is_dropped() || observer.is_apart(node, receipt.partition) {
                continue;
            }
            let checked = receipts::check_kept(&observer, node, &table, receipt);
            observer.judge(checked);
        }
    }
}
