//! Old disks that are put back: of one node at a time, and only where others hold all that it has
//! made, so that nothing is lost for good.

use rand::Rng;

use super::events::Event;
use super::{Phase, World};

/// Until it is looked again whether a disk may be put back.
const LOOK_AGAIN: u64 = 10_000;

impl World {
    /// Copies the disk of a node all of whose tables are in use.
    pub(super) fn copy_disk(&mut self) {
        let Some(every) = self.nature.put_back_every.filter(|_| self.phase == Phase::Chaos) else {
            return;
        };
        let node = self.faults.random_range(0..self.nature.regions);
        let place = self.nodes.get(node).filter(|_| self.are_in_use(node));
        let copy = place.and_then(|place| place.disk.copy());
        let Some(copy) = copy else { return self.after(LOOK_AGAIN, Event::CopyDisk) };
        self.saved = Some((node, copy, self.observer.lock().save(node)));
        self.note(&format!("disk of node {node} is copied"));
        let pause = self.faults.random_range(1..every * 2);
        self.after(pause, Event::PutBackDisk);
    }

    /// Whether all tables are in use at a node, and its disk would be known to be an old one.
    fn are_in_use(&self, node: usize) -> bool {
        let life = self.nodes.get(node).and_then(|place| place.life.as_ref());
        life.is_some_and(|life| {
            let plans = &self.nature.tables;
            plans.iter().map(|plan| plan.partition).all(|partition| {
                let is_used = life.roles.is_shared(partition) && life.is_usable(partition);
                is_used && life.has_heard_all(partition)
            })
        })
    }

    /// Puts the copy back, as soon as that loses nothing for good.
    pub(super) fn put_back_disk(&mut self) {
        if self.phase == Phase::Drain {
            return;
        }
        let Some((node, copy, saved)) = self.saved.take() else { return };
        // Two that lack what the other holds would wait for each other.
        let mut others = (0..self.nature.regions).filter(|other| *other != node);
        let are_whole = others.all(|other| self.are_in_use(other));
        if !are_whole || !self.observer.lock().can_lose(node, &saved) {
            self.saved = Some((node, copy, saved));
            self.loses_disk = Some(node);
            return self.after(LOOK_AGAIN, Event::PutBackDisk);
        }
        self.loses_disk = None;
        self.crash(node);
        // One that was down already comes back by itself.
        if let Some(place) = self.nodes.get(node) {
            place.disk.put_back(copy);
        }
        self.observer.lock().put_back(node, saved);
        self.put_backs += 1;
        self.note(&format!("an old disk of node {node} is put back"));
        if let Some(every) = self.nature.put_back_every {
            let pause = self.faults.random_range(1..every * 2);
            self.after(pause, Event::CopyDisk);
        }
    }
}
